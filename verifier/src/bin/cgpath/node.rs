//! `cgpath node`: which nodes the verifier knows, by which key and which policy.
//!
//! Works on the store itself, whether `cgpath serve` runs or not; the service sees each change with the next request.
//! Not here: the store (see `serve::store`).

pub mod back;

use crate::input::attestation_key;
use crate::output::{Colour, Failure, Output, Status, escape};
use crate::policy;
use crate::serve::again::Again;
use crate::serve::store::{Node, Store, StoreError, StoredVerdict, valid_name};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use verifier::text::utc;
use verifier::{PinnedKey, Verdict};

/// Where the store is unless told otherwise.
const STORE: &str = "/var/lib/cgpath";

/// Enrols nodes: their names, keys and policies
#[derive(Subcommand)]
pub enum NodeCommand {
    /// Enrols a node by hand: its key and its policy
    #[command(after_help = "Examples:
  cgpath node add worker-1 --ak ak.pub --policy worker-1.yaml --store /var/lib/cgpath
  cgpath node add worker-1 --ak 000b3f… --policy worker-1.yaml --replace

The policy's digest, with all its reference files, is enrolled with it: when one of them changes, evidence is refused
until the node is added again with --replace.")]
    Add(Add),
    /// Gives a node another policy and judges all kept evidence since its boot by it, without asking the node
    #[command(after_help = "Example:
  cgpath policy test new.yaml --against /var/lib/cgpath && cgpath node policy worker-1 new.yaml

What verdicts said before is kept: cgpath node history worker-1.")]
    Policy(back::SetPolicy),
    /// Accepts one finding for a time: signed, with a reason, and shown in every verdict while it holds
    #[command(after_help = "Example:
  cgpath explain --node worker-1
  cgpath node accept worker-1 3f2a91 --reason 'hotfix of 12 March, change 4711' --until 7d

It holds for this finding in this boot of the node. A reboot, a new policy or its end clear it. What everything else rests on (rules V1 to V7
and V13) cannot be accepted.")]
    Accept(back::Accept),
    /// Shows what was judged again, why, and what came of it
    #[command(after_help = "Example:\n  cgpath node history worker-1")]
    History {
        /// The node
        name: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Takes no evidence of a node any more; what was judged stays
    #[command(after_help = "Example:\n  cgpath node stop worker-1")]
    Stop(back::Named),
    /// Takes a stopped node's evidence again
    #[command(after_help = "Example:\n  cgpath node reactivate worker-1")]
    Reactivate(back::Named),
    /// Asks a node for everything with its next round, instead of what is new
    #[command(after_help = "Example:\n  cgpath node resync worker-1")]
    Resync(back::Named),
    /// Lists the nodes with their last verdicts
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Shows one node and its last verdict
    Show {
        /// The node
        name: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Removes a node with its state, its verdicts and their evidence
    Rm {
        /// The node
        name: String,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Which store.
#[derive(Args)]
pub struct StoreArgs {
    /// The verifier's directory, as `cgpath serve --init` made it
    #[arg(long = "store", value_name = "DIR", env = "CGPATH_STORE", default_value = STORE)]
    pub dir: PathBuf,
}

#[derive(Args)]
pub struct Add {
    /// What the node calls itself: `node` in its cgpathd.toml
    name: String,
    /// Its attestation key: a TPMT_PUBLIC, TPM2B_PUBLIC or PEM file, or the key's fingerprint
    #[arg(long, value_name = "FILE|FINGERPRINT", required_unless_present = "replace")]
    ak: Option<String>,
    /// Its policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Gives a node that is enrolled already a new policy, or with --ak a new key; its verdicts stay
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    ak: &'a str,
    policy: &'a Path,
    policy_digest: &'a str,
    added: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<&'a StoredVerdict>,
}

impl<'a> Shown<'a> {
    fn of(node: &'a Node, last: Option<&'a StoredVerdict>) -> Shown<'a> {
        Shown {
            name: &node.name,
            ak: &node.ak_name,
            policy: &node.policy,
            policy_digest: &node.policy_digest,
            added: node.added,
            stopped: node.stopped,
            last,
        }
    }
}

impl NodeCommand {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// A store, key or policy that cannot be used; a node that is there or is not.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        match self {
            NodeCommand::Add(add) => add.run(out),
            NodeCommand::Policy(command) => command.run(out),
            NodeCommand::Accept(command) => command.run(out),
            NodeCommand::History { name, store } => history(&Store::open(&store.dir)?, &name, out),
            NodeCommand::Stop(command) => command.stop(out),
            NodeCommand::Reactivate(command) => command.reactivate(out),
            NodeCommand::Resync(command) => command.resync(out),
            NodeCommand::List { store } => list(&Store::open(&store.dir)?, out),
            NodeCommand::Show { name, store } => show(&Store::open(&store.dir)?, &name, out),
            NodeCommand::Rm { name, store } => {
                Store::open(&store.dir)?.remove_node(&name)?;
                if out.json() {
                    #[derive(Serialize)]
                    struct Removed<'a> {
                        removed: &'a str,
                    }
                    out.object(&Removed { removed: &name })?;
                } else {
                    out.line(format_args!("removed {}", escape(name.as_bytes())))?;
                }
                Ok(Status::Clean)
            }
        }
    }
}

impl Add {
    fn run(self, out: &mut Output) -> Result<Status, Failure> {
        if !valid_name(&self.name) {
            return Err(Failure::new(
                "usage",
                format!("{:?} can not be a node's name", escape(self.name.as_bytes())),
            )
            .hint("1 to 253 letters, digits, `.`, `_` and `-`, the first one a letter or a digit"));
        }
        let store = Store::open(&self.store.dir)?;
        let old = match store.node(&self.name) {
            Ok(node) => Some(node),
            Err(StoreError::UnknownNode(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let (ak_name, ak_public) = match (&self.ak, old.clone()) {
            (Some(given), _) => pinned(given)?,
            (None, Some(old)) => (old.ak_name, old.ak_public),
            (None, None) => {
                return Err(Failure::new(
                    "usage",
                    format!("{} is not enrolled yet: --ak is needed", self.name),
                )
                .hint("`cgpathd check` on the node shows its key's fingerprint"));
            }
        };
        let policy = policy::load(&self.policy)?;
        if policy.file.node != self.name {
            return Err(Failure::new(
                "policy",
                format!(
                    "the policy is for node {:?}, not for {:?}",
                    policy.file.node, self.name
                ),
            )
            .hint("`node:` in the policy must be the name that is enrolled"));
        }
        let path = fs::canonicalize(&self.policy).map_err(|e| Failure::file(&self.policy, &e))?;
        let node = Node {
            name: self.name,
            ak_name,
            ak_public,
            policy: path,
            policy_digest: policy.digest().to_string(),
            added: crate::input::now()?,
            stopped: None,
        };
        let again = match &old {
            // What is known of the node is judged by what it is enrolled with now.
            Some(_) if self.replace => back::enrol(&store, &node, &policy, "enrolment")?,
            _ => {
                store.add_node(&node, false)?;
                Again::default()
            }
        };
        if out.json() {
            out.object(&Shown::of(&node, None))?;
        } else {
            out.line(format_args!("enrolled {}", node.name))?;
            out.line(format_args!("  key     {}", node.ak_name))?;
            out.line(format_args!(
                "  policy  {}",
                escape(node.policy.as_os_str().as_encoded_bytes())
            ))?;
            out.line(format_args!("          {}", node.policy_digest))?;
            for key in policy.dangerous_keys() {
                out.line(format_args!(
                    "  {}",
                    out.paint(Colour::Red, &format!("DANGEROUS: {key}"))
                ))?;
            }
            for relaxation in policy.relaxations() {
                out.line(format_args!("  RELAXED: {}", escape(relaxation.as_bytes())))?;
            }
            if !again.rejudged.is_empty() {
                return back::report(&node.name, &again, None, out);
            }
        }
        Ok(Status::Clean)
    }
}

/// Name in hex and, where a file was given, the public area of a key.
fn pinned(given: &str) -> Result<(String, Option<Vec<u8>>), Failure> {
    let key = attestation_key(given)?;
    let name = key
        .name()
        .map(hex::encode)
        .ok_or_else(|| Failure::new("key", "the key has no name"))?;
    let public = match key {
        PinnedKey::Public(public) => Some(public),
        _ => None,
    };
    Ok((name, public))
}

/// One word about the last verdict of a node, and its colour.
fn word(last: Option<&StoredVerdict>) -> (&'static str, Colour) {
    match last {
        None => ("no evidence yet", Colour::Yellow),
        Some(v) if v.trusted => ("trusted", Colour::Green),
        Some(_) => ("UNTRUSTED", Colour::Red),
    }
}

fn list(store: &Store, out: &mut Output) -> Result<Status, Failure> {
    let mut nodes = Vec::new();
    for node in store.nodes()? {
        let last = store.last_verdict(&node.name)?;
        nodes.push((node, last));
    }
    if out.json() {
        let shown: Vec<Shown<'_>> = nodes
            .iter()
            .map(|(node, last)| Shown::of(node, last.as_ref()))
            .collect();
        out.object(&shown)?;
        return Ok(Status::Clean);
    }
    if nodes.is_empty() {
        out.line("no node is enrolled: cgpath node add NAME --ak FILE --policy FILE")?;
        return Ok(Status::Clean);
    }
    let width = nodes.iter().map(|(n, _)| n.name.len()).max().unwrap_or(0).max(4);
    out.line(format_args!(
        "{:<width$}  {:<16}{:<24}KEY",
        "NODE", "LAST VERDICT", "AT (UTC)"
    ))?;
    for (node, last) in &nodes {
        let (text, colour) = match node.stopped {
            Some(_) => ("stopped", Colour::Yellow),
            None => word(last.as_ref()),
        };
        let at = last.as_ref().map_or_else(|| "-".to_owned(), |v| utc(v.time));
        let text = out.paint(colour, &format!("{text:<16}"));
        out.line(format_args!(
            "{:<width$}  {text}{at:<24}{}",
            node.name, node.ak_name
        ))?;
    }
    Ok(Status::Clean)
}

fn show(store: &Store, name: &str, out: &mut Output) -> Result<Status, Failure> {
    let node = store.node(name)?;
    let last = store.last_verdict(name)?;
    if out.json() {
        out.object(&Shown::of(&node, last.as_ref()))?;
        return Ok(Status::Clean);
    }
    let (text, colour) = word(last.as_ref());
    let text = out.paint(colour, text);
    out.line(format_args!("{}  {text}", node.name))?;
    out.line(format_args!("  key       {}", node.ak_name))?;
    out.line(format_args!(
        "  policy    {}",
        escape(node.policy.as_os_str().as_encoded_bytes())
    ))?;
    out.line(format_args!("            {}", node.policy_digest))?;
    out.line(format_args!("  enrolled  {} UTC", utc(node.added)))?;
    if let Some(since) = node.stopped {
        let text = format!("STOPPED since {} UTC: its evidence is not taken", utc(since));
        out.line(format_args!("  {}", out.paint(Colour::Yellow, &text)))?;
    }
    if let Some(last) = last {
        out.line(format_args!("  verdict   {} of {} UTC", last.id, utc(last.time)))?;
        if last.evidence_kept {
            let path = store.evidence_path(&last.evidence);
            out.line(format_args!(
                "  evidence  {}",
                escape(path.as_os_str().as_encoded_bytes())
            ))?;
        }
        out.line("")?;
        let verdict: Verdict = serde_json::from_str(last.verdict.get())
            .map_err(|e| Failure::new("store", format!("verdict {}: {e}", last.id)))?;
        out.raw(verdict.to_string().as_bytes())?;
    }
    Ok(Status::Clean)
}

fn history(store: &Store, name: &str, out: &mut Output) -> Result<Status, Failure> {
    store.node(name)?;
    let notes = store.rejudged(name, 1000)?;
    if out.json() {
        out.object(&notes)?;
        return Ok(Status::Clean);
    }
    if notes.is_empty() {
        out.line("nothing was judged again")?;
    }
    let word = |trusted| if trusted { "trusted" } else { "UNTRUSTED" };
    for note in &notes {
        out.line(format_args!(
            "{} UTC  verdict {}: was {}, is {}; {}",
            utc(note.time),
            note.verdict,
            word(note.old_trusted),
            word(note.new_trusted),
            escape(note.reason.as_bytes())
        ))?;
        if note.old_policy != note.new_policy {
            out.line(format_args!(
                "    policy {} instead of {}",
                note.new_policy, note.old_policy
            ))?;
        }
    }
    Ok(Status::Clean)
}
