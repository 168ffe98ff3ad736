//! Appraisal: evidence and policy in, verdict out.
//!
//! Pure: no I/O, no clock. Every rule of docs/spec/rules.md has one place here: a step over what is known of a node
//! and what a round adds, and a conclusion. Whole evidence is one round from nothing; who follows a node takes the same
//! steps (see `progress`). No check is passed over because its input is missing: what is absent fails, and a bypass is a
//! key that starts with `dangerous-` and is repeated in the verdict. Not here: what is allowed (see `policy`), how evidence
//! is encoded (see `cgpath-evidence`).

mod boot;
pub(crate) mod chain;
pub mod context;
pub(crate) mod coverage;
pub mod explain;
pub mod finding;
mod guard;
pub(crate) mod history;
pub(crate) mod join;
pub(crate) mod judge;
pub(crate) mod kept;
mod measured;
mod opaque;
mod pem;
mod pending;
pub(crate) mod progress;
pub(crate) mod quote;
mod readers;
pub(crate) mod round;
pub(crate) mod scene;
mod sealed;
mod tally;
pub(crate) mod template;
pub mod verdict;
pub(crate) mod view;

pub use context::{CheckpointState, Context, ExpectedNonce, MAX_IMPOSTORS, NodeState, PinnedKey};
pub use finding::{Finding, MAX_FINDINGS, Rule, Severity, Subject};
pub use quote::{KeyError, key_name};
pub use verdict::{
    AwaitedPod, BootJudgement, Deviation, LeftOut, MAX_LISTED, NodeVerdict, PodVerdict, SeenFile, State,
    Verdict,
};

pub use pending::{MAX_HELD_SECONDS, MAX_UNNAMED};

use crate::accept::Accepted;
use cgpath_evidence::{Evidence, PartitionKey};
use cgpath_policy::Policy;
pub(crate) use finding::Findings;
use progress::Progress;
use round::Round;

/// A nonce is never shorter than this many bytes: shorter ones can be guessed ahead.
pub const MIN_NONCE_LEN: usize = 8;
/// A nonce is never longer than this many bytes: TPM2B_DATA of a quote holds no more. TPM 2.0 Part 2, 10.4.3.
pub const MAX_NONCE_LEN: usize = 64;

/// Why nothing can be concluded: the question was not a meaningful one. What is wrong with the evidence itself is never
/// an error but a finding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The policy is for another node.
    #[error("the policy is for node {policy:?}, not for {node:?}")]
    OtherNode {
        /// Whom the policy names.
        policy: String,
        /// Whom the context names.
        node: String,
    },
    /// The nonce has a length that no request uses.
    #[error("the nonce has {len} bytes, it must have {MIN_NONCE_LEN} to {MAX_NONCE_LEN}")]
    Nonce {
        /// Its length.
        len: usize,
    },
    /// The pinned key is none.
    #[error("the pinned attestation key cannot be used: {0}")]
    PinnedKey(#[from] KeyError),
    /// Evidence of a version that is not known here.
    #[error("evidence version {0}, not 1")]
    Version(u32),
}

impl Unusable {
    /// What to do about it, for people.
    pub fn hint(&self) -> &'static str {
        match self {
            Unusable::OtherNode { .. } => "give the policy whose `node:` is this node",
            Unusable::Nonce { .. } => "give the nonce of the request, in hex",
            Unusable::PinnedKey(_) => {
                "give the node's TPMT_PUBLIC or TPM2B_PUBLIC file, or its fingerprint in hex (000b…)"
            }
            Unusable::Version(_) => "use the cgpath that fits the node's cgpathd",
        }
    }
}

/// Rule V1 alone: what is wrong with a quote, whose PCR 0 to 9 are stated to be these. For whoever wants to know that before
/// anything else is looked at.
pub fn quote_findings(
    quote: &cgpath_evidence::Quote,
    registers: &[cgpath_evidence::boot::Registers],
    context: &Context,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    quote::check(quote, registers, context, &mut findings);
    findings.into_vec()
}

/// Judges evidence by a policy.
///
/// # Errors
/// [`Unusable`] if the policy, the nonce or the pinned key do not fit the question. Whatever is wrong with the evidence
/// gives a [`Verdict`] that is not trusted.
pub fn appraise(evidence: &Evidence, policy: &Policy, context: &Context) -> Result<Verdict, Unusable> {
    appraise_accepting(evidence, policy, context, &[], context.now)
}

/// The same with findings that somebody accepted; statements hold or have ended as of `now`, in unix seconds.
///
/// # Errors
/// Those of [`appraise`].
pub fn appraise_accepting(
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
    accepted: &[Accepted],
    now: u64,
) -> Result<Verdict, Unusable> {
    Ok(begin(evidence, policy, context, accepted, now, false)?.0)
}

/// The same, with what is known after it; `keeps` if the next round is to go on from that.
pub(crate) fn begin(
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
    accepted: &[Accepted],
    now: u64,
    keeps: bool,
) -> Result<(Verdict, Progress), Unusable> {
    let round = Round::from(evidence);
    usable(&round, policy, context)?;
    Ok(Progress::begin(&round, policy, context, accepted, now, keeps))
}

/// Whether the question is a meaningful one.
pub(crate) fn usable(round: &Round<'_>, policy: &Policy, context: &Context) -> Result<(), Unusable> {
    if policy.file.node != context.node {
        return Err(Unusable::OtherNode {
            policy: policy.file.node.clone(),
            node: context.node.clone(),
        });
    }
    if let ExpectedNonce::Value(nonce) = &context.nonce
        && !(MIN_NONCE_LEN..=MAX_NONCE_LEN).contains(&nonce.len())
    {
        return Err(Unusable::Nonce { len: nonce.len() });
    }
    context.key.check()?;
    if round.version != 1 {
        return Err(Unusable::Version(round.version));
    }
    Ok(())
}

/// Gives each pod the findings that are its own; what remains is the node's.
pub(crate) fn to_pods(findings: Vec<Finding>, pods: &mut [PodVerdict]) -> Vec<Finding> {
    let mut rest = Vec::new();
    for finding in findings {
        let own = match finding.subject {
            Subject::Partition(PartitionKey::Pod(uid)) => pods.iter_mut().find(|pod| pod.uid == uid),
            _ => None,
        };
        match own {
            Some(pod) => {
                if finding.severity == Severity::Fail {
                    pod.charged = true;
                    if pod.state != State::Unknown {
                        pod.state = State::Untrusted;
                    }
                }
                pod.findings.push(finding);
            }
            None => rest.push(finding),
        }
    }
    rest
}

/// The first rule that failed among those on which every other conclusion rests: then neither the node's nor any pod's
/// evidence is to be believed. Failures of the other rules are the node's own and leave the pods as they are.
pub(crate) fn disbelief(findings: &[Finding]) -> Option<Rule> {
    const BASIS: [Rule; 9] = [
        Rule::V1,
        Rule::V2,
        Rule::V3,
        Rule::V4,
        Rule::V5,
        Rule::V6,
        Rule::V7,
        // What another kernel says of pods is worth nothing.
        Rule::V10,
        Rule::V13,
    ];
    findings
        .iter()
        .find(|f| f.severity == Severity::Fail && BASIS.contains(&f.rule))
        .map(|f| f.rule)
}
