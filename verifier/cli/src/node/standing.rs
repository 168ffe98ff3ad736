//! How a node stands now: its last verdict says what was, and this whether that still counts.
//!
//! A refusal alone changes no standing, since any stranger can send something in a node's name: it is the
//! reason that is given once the node's own evidence stays away. Not here: what a verdict says.

use crate::input;
use crate::output::{Colour, Failure};
use cgpath_service::STALE_AFTER;
use cgpath_service::policy_files;
use cgpath_service::store::{Node, Refusal, Store, StoredVerdict, kept_references};
use serde::Serialize;

/// One word about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Its last verdict is young enough, and trusts the node and all pods.
    Trusted,
    /// Its last verdict is young enough, and does not.
    Untrusted,
    /// Its last verdict is too old, and what came since was refused.
    Refused,
    /// Its last verdict is too old.
    Stale,
    /// It has sent nothing yet.
    NoEvidence,
    /// What it sends is refused until its policy is what was enrolled.
    PolicyNotUsable,
    /// Its evidence is not taken: somebody said so.
    Stopped,
}

impl Word {
    /// As people see it, and in which colour.
    pub fn shown(self) -> (&'static str, Colour) {
        match self {
            Word::Trusted => ("trusted", Colour::Green),
            Word::Untrusted => ("UNTRUSTED", Colour::Red),
            Word::Refused => ("REFUSED", Colour::Red),
            Word::Stale => ("STALE", Colour::Yellow),
            Word::NoEvidence => ("no evidence yet", Colour::Yellow),
            Word::PolicyNotUsable => ("POLICY NOT USABLE", Colour::Red),
            Word::Stopped => ("stopped", Colour::Yellow),
        }
    }

    /// Whether nothing has to be done: a node that was stopped is as somebody wanted it.
    pub fn is_good(self) -> bool {
        matches!(self, Word::Trusted | Word::Stopped)
    }
}

/// See the module.
#[derive(Debug, Serialize)]
pub struct Standing {
    /// In one word.
    pub standing: Word,
    /// Age of the last verdict, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// Why the policy cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_error: Option<String>,
    /// What was refused in the node's name since its last verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
}

impl Standing {
    /// How `node` stands, with its last verdict.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn of(store: &Store, node: &Node, last: Option<&StoredVerdict>) -> Result<Standing, Failure> {
        let stale_after = store.stale_after()?.unwrap_or(STALE_AFTER);
        let age = last.map(|last| input::now().map(|now| now.saturating_sub(last.time)));
        let age = age.transpose()?;
        let policy_error = policy_error(node);
        let since = last.map_or(0, |last| last.time);
        let refused = store.refusal(&node.name)?.filter(|refusal| refusal.time > since);
        let is_stale = age.is_none_or(|age| age > stale_after);
        let standing = match last {
            _ if node.stopped.is_some() => Word::Stopped,
            _ if policy_error.is_some() => Word::PolicyNotUsable,
            _ if is_stale && refused.is_some() => Word::Refused,
            None => Word::NoEvidence,
            Some(_) if is_stale => Word::Stale,
            Some(last) if last.trusted => Word::Trusted,
            Some(_) => Word::Untrusted,
        };
        Ok(Standing {
            standing,
            age,
            policy_error,
            refused,
        })
    }
}

/// Why the policy of a node cannot be used. Of one that the store has a copy of it is asked whether all of it
/// is there: nobody changes it in its place, and each appraisal by it reads it again and compares its digest.
fn policy_error(node: &Node) -> Option<String> {
    if node.policy_source.is_some() {
        let folder = node.policy.parent().unwrap_or(&node.policy);
        let mut files = match kept_references(folder) {
            Ok(Some(files)) => files.into_values().collect(),
            Ok(None) => Vec::new(),
            Err(error) => return Some(format!("{}: {error}", folder.display())),
        };
        files.push(node.policy.clone());
        let absent = files.into_iter().find(|file| !file.is_file())?;
        return Some(format!("{} is not there", absent.display()));
    }
    match policy_files::load(&node.policy) {
        Ok(policy) if policy.digest().to_string() == node.policy_digest => None,
        Ok(_) => Some("it, or one of its reference files, is not what was enrolled".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
