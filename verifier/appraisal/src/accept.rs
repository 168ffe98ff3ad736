//! Waivers (accepted findings): somebody who may said of a finding that they know of it, why, and until when.
//!
//! A statement is a JWS (RFC 7515, compact form, ES256) by the service's verdict key; its digest is the
//! SHA-256 of these bytes. Promise: a statement holds for one finding of one boot of one node, never after
//! its end, and what it clears stays in the verdict as *accepted*, with reason and end. What an appraisal
//! rests on (V1 to V7, V13) cannot be accepted; the boot (V10) can.
//! Not here: where statements are kept (the caller's store), and the key.

use crate::results::finding::{Finding, Findings, Severity};
use crate::results::verdict::PodVerdict;
use crate::rules::Rule;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cgpath_evidence::{Bank, Digest, serde_bytes_hex};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Verifier};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use crate::results::verdict::WaiverNote;

/// `typ` of a statement.
const TYPE: &str = "cgpath-accept+jwt";
/// A reason is never longer than this many bytes.
pub const MAX_REASON_LEN: usize = 1024;
/// A statement is never longer than this many bytes.
const MAX_STATEMENT_LEN: usize = 16 * 1024;
/// A statement holds no longer than this many seconds: a year. What is to stay belongs into the policy.
pub const MAX_TERM: u64 = 366 * 86_400;

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The node, by the verifier's name for it.
    pub node: String,
    /// The boot that the finding was made in.
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// [`id`] of the finding.
    pub finding: String,
    /// Its rule, subject and text, for people.
    pub about: String,
    /// Why it is accepted.
    pub reason: String,
    /// When it was signed, in unix seconds.
    pub iat: u64,
    /// From when on it does not hold any more, in unix seconds.
    pub exp: u64,
}

/// Why a statement cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// Not in the form of a statement.
    #[error("not an accept statement: {0}")]
    Malformed(&'static str),
    /// The signature is not by this key.
    #[error("the statement's signature is not by this verifier's key")]
    Signature,
    /// This rule's findings are what everything else rests on.
    #[error("a finding of {0} cannot be accepted: nothing else could be believed then")]
    Rule(Rule),
    /// It does not fail.
    #[error("the finding fails nothing: there is nothing to accept")]
    NoFailure,
    /// No reason, or one that is too long.
    #[error("the reason has {0} bytes, it must have 1 to {MAX_REASON_LEN} and no control characters")]
    Reason(usize),
    /// It ends before it begins, or too late.
    #[error("it must end after now and within {} days", MAX_TERM / 86_400)]
    Term,
}

/// A statement whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    /// What it says.
    pub statement: Statement,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

/// Whether this can be a reason: some text on one line, of at most [`MAX_REASON_LEN`] bytes.
///
/// # Errors
/// [`AcceptError::Reason`].
pub(crate) fn check_reason(reason: &str) -> Result<(), AcceptError> {
    if reason.trim().is_empty() || reason.len() > MAX_REASON_LEN || reason.chars().any(char::is_control) {
        return Err(AcceptError::Reason(reason.len()));
    }
    Ok(())
}

/// Takes out of a verdict's statements what they say of others than `pods`: that one holds, and until when,
/// stays.
pub fn redact(notes: &mut [WaiverNote], pods: &[PodVerdict]) {
    let own: Vec<String> = pods.iter().flat_map(|pod| &pod.findings).map(id).collect();
    for note in notes.iter_mut().filter(|note| !own.contains(&note.finding)) {
        note.finding.clear();
        note.reason.clear();
        note.about = "a finding outside of this scope".into();
    }
}

/// Whether a finding is about a content: then it is one finding however often that content was used at that
/// path. Any other one (a violation, a suspect process, a path that was cut) is about what happened once, and
/// is another finding when it happens again.
pub(crate) fn names_content(finding: &Finding) -> bool {
    finding
        .found
        .as_deref()
        .is_some_and(|found| Digest::parse(found).is_some())
}

/// What names a finding from one verdict of a boot to the next: 32 hex digits, the first half of SHA-256 over
/// rule, subject, path, what was found, text, and the numbers of entry and record, each after its length in 8
/// bytes, big-endian. Numbers are decimal and, where the finding is about a content, left out: the first use
/// of it stands for all.
pub fn id(finding: &Finding) -> String {
    let mut hash = Sha256::new().chain_update(b"cgpath finding 2");
    let place = |number: Option<u64>| {
        let number = number.filter(|_| !names_content(finding));
        number.map_or_else(String::new, |number| number.to_string())
    };
    let (index, seq) = (place(finding.index), place(finding.seq));
    let (rule, subject) = (finding.rule.to_string(), finding.subject.to_string());
    let path = finding.path.as_deref().unwrap_or_default();
    let found = finding.found.as_deref().unwrap_or_default();
    for part in [
        rule.as_bytes(),
        subject.as_bytes(),
        path,
        found.as_bytes(),
        finding.text.as_bytes(),
        index.as_bytes(),
        seq.as_bytes(),
    ] {
        hash = hash
            .chain_update((part.len() as u64).to_be_bytes())
            .chain_update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

/// Whether findings of this rule can have a waiver: all but V1 to V7 and V13.
///
/// V10 can, though all pods rest on it (`Rule::is_basis`): which boot is good is the operator's to say, by
/// the policy or by a waiver. Where V1 to V7 or V13 fail, the evidence itself is in doubt or absent, and with
/// it whatever a waiver names.
pub fn is_waivable(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::KnownPods | Rule::PodContents | Rule::Boot | Rule::Host | Rule::Violations | Rule::Guard
    )
}

/// Signs that `finding` is accepted from `now` until `until`. Gives the statement's bytes.
///
/// # Errors
/// [`AcceptError::Rule`], [`AcceptError::NoFailure`], [`AcceptError::Reason`], [`AcceptError::Term`].
pub fn sign(
    node: &str,
    boot_id: [u8; 16],
    finding: &Finding,
    reason: &str,
    now: u64,
    until: u64,
    key: &SigningKey,
) -> Result<String, AcceptError> {
    if !is_waivable(finding.rule) {
        return Err(AcceptError::Rule(finding.rule));
    }
    if finding.severity != Severity::Fail {
        return Err(AcceptError::NoFailure);
    }
    check_reason(reason)?;
    if until <= now || until - now > MAX_TERM {
        return Err(AcceptError::Term);
    }
    let mut about = format!("{} {}: {}", finding.rule, finding.subject, finding.text);
    if let Some(path) = &finding.path {
        about.push_str(&format!(" ({})", crate::text::foreign(path)));
    }
    if let Some((end, _)) = about.char_indices().find(|(at, c)| at + c.len_utf8() > 4096) {
        about.truncate(end);
    }
    let statement = Statement {
        node: node.to_owned(),
        boot_id,
        finding: id(finding),
        about,
        reason: reason.to_owned(),
        iat: now,
        exp: until,
    };
    crate::jws::sign(TYPE, &statement, key)
        .map_err(|_| AcceptError::Malformed("it cannot be written as JSON"))
}

#[derive(PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
}

impl Header {
    fn ours() -> Header {
        Header {
            alg: "ES256".into(),
            typ: TYPE.into(),
        }
    }
}

/// Reads a statement and checks its signature. Whether it holds now is for [`Waivers`].
///
/// # Errors
/// [`AcceptError::Malformed`], [`AcceptError::Signature`].
pub fn verify(text: &str, key: &VerifyingKey) -> Result<Waiver, AcceptError> {
    let malformed = |why| move |_| AcceptError::Malformed(why);
    if text.len() > MAX_STATEMENT_LEN {
        return Err(AcceptError::Malformed("it is longer than 16 KiB"));
    }
    let (message, signature) = text
        .rsplit_once('.')
        .ok_or(AcceptError::Malformed("there is no signature"))?;
    let (header, claims) = message
        .split_once('.')
        .ok_or(AcceptError::Malformed("there is no header"))?;
    let decode = |part: &str| {
        URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| AcceptError::Malformed("it is not base64url"))
    };
    let signature = Signature::from_slice(&decode(signature)?).map_err(|_| AcceptError::Signature)?;
    key.verify(message.as_bytes(), &signature)
        .map_err(|_| AcceptError::Signature)?;
    // Only what the key signed is read.
    let header: Header = serde_json::from_slice(&decode(header)?)
        .map_err(|_| AcceptError::Malformed("its header is another one"))?;
    if header != Header::ours() {
        return Err(AcceptError::Malformed("it is a token of another type"));
    }
    let statement = serde_json::from_slice(&decode(claims)?).map_err(malformed("its claims are others"))?;
    Ok(Waiver {
        statement,
        digest: Bank::Sha256.hash(&[text.as_bytes()]),
    })
}

/// The statements that hold for one appraisal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waivers<'a> {
    in_force: Vec<&'a Waiver>,
}

impl<'a> Waivers<'a> {
    pub(crate) fn of(all: &'a [Waiver], node: &str, boot_id: [u8; 16], now: u64) -> Waivers<'a> {
        let holds = |s: &Statement| s.node == node && s.boot_id == boot_id && s.iat <= now && now < s.exp;
        Waivers {
            in_force: all.iter().filter(|a| holds(&a.statement)).collect(),
        }
    }

    /// What somebody accepted fails no more. What could not be kept still does: nobody can have accepted it.
    pub(crate) fn apply_to(&self, findings: &mut Findings) {
        findings.map(|finding| self.apply(finding));
    }

    /// The finding, no failure any more if it is accepted.
    pub(crate) fn apply(&self, mut finding: Finding) -> Finding {
        if finding.severity == Severity::Fail && is_waivable(finding.rule) && !self.in_force.is_empty() {
            let id = id(&finding);
            if self.in_force.iter().any(|a| a.statement.finding == id) {
                finding.severity = Severity::Accepted;
            }
        }
        finding
    }

    /// What a verdict repeats; `findings` are all of it.
    pub(crate) fn notes<'f>(&self, findings: impl Iterator<Item = &'f Finding>) -> Vec<WaiverNote> {
        let used: Vec<String> = findings
            .filter(|f| f.severity == Severity::Accepted)
            .map(id)
            .collect();
        let note = |accepted: &&Waiver| WaiverNote {
            statement: accepted.digest.clone(),
            finding: accepted.statement.finding.clone(),
            about: accepted.statement.about.clone(),
            reason: accepted.statement.reason.clone(),
            since: accepted.statement.iat,
            until: accepted.statement.exp,
            in_use: used.contains(&accepted.statement.finding),
        };
        self.in_force.iter().map(note).collect()
    }
}
