//! Appraisal: evidence and policy in, verdict out.
//!
//! Pure: no I/O, no clock. Every rule of docs/spec/rules.md has one place here: a step over what is known of
//! a node and what a round adds, and a conclusion. Whole evidence is one round from nothing; a delta takes
//! the same steps (see `steps`). No check is passed over because its input is missing: what is
//! absent fails, and a bypass is a key that starts with `dangerous-` and is repeated in the verdict. Not
//! here: what is allowed (see `cgpath-policy`), how evidence is encoded (see `cgpath-evidence`).

use crate::accept::Waiver;
use crate::inputs::context::{Context, ExpectedNonce, KeyError, PinnedKey};
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings};
use crate::results::verdict::Verdict;
use crate::rules::v01_quote;
use crate::rules::v01_td;
use crate::steps::Progress;
use cgpath_evidence::Evidence;
use cgpath_evidence::wire::VERSION;
use cgpath_policy::{Anchor, NodeKeyPolicy, Policy};

/// A nonce is never shorter than this many bytes: shorter ones can be guessed ahead.
pub const MIN_NONCE_LEN: usize = 8;
/// A nonce is never longer than this many bytes: TPM2B_DATA of a quote holds no more. TPM 2.0 Part 2, 10.4.3.
pub const MAX_NONCE_LEN: usize = 64;

/// Why nothing can be concluded: the question was not a meaningful one. What is wrong with the evidence
/// itself is never an error but a finding.
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
    /// No attestation key is pinned, and a TPM's register is an anchor.
    #[error("the policy names pcr-10 as an anchor, and no attestation key is given")]
    NoKey,
    /// Evidence of a version that is not known here.
    #[error("evidence version {0}, not {VERSION}")]
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
            Unusable::NoKey => "give the node's attestation key",
            Unusable::Version(_) => "use the cgpath that fits the node's cgpathd",
        }
    }
}

/// Rule V1 alone: what is wrong with a quote, whose PCR 0 to 9 are stated to be these. For callers that need
/// this before anything else is looked at.
pub fn quote_findings(
    quote: &cgpath_evidence::Quote,
    registers: &[cgpath_evidence::boot::Registers],
    context: &Context,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    v01_quote::check(quote, registers, context, &mut findings);
    findings.into_vec()
}

/// Rule V1 of a trust domain's quote alone, as far as it says who sent this: the node that has the pinned
/// key, or under `tdx.key: per-boot` a domain and a platform that the policy accepts. For callers that need
/// this before anything else is looked at.
pub fn td_quote_findings(
    quotes: &cgpath_evidence::Quotes,
    boot_id: [u8; 16],
    policy: &Policy,
    context: &Context,
) -> Vec<Finding> {
    if v01_td::is_of_pinned(quotes, context) {
        return Vec::new();
    }
    let mut findings = Findings::default();
    match &policy.file.tdx {
        Some(tdx) if tdx.key == NodeKeyPolicy::PerBoot => {
            v01_td::check(quotes, boot_id, tdx, context, &mut findings);
        }
        _ => findings.push(v01_td::stranger()),
    }
    findings.into_vec()
}

/// Appraises evidence by a policy.
///
/// # Errors
/// [`Unusable`] if the policy, the nonce or the pinned key do not fit the question. Whatever is wrong with
/// the evidence gives a [`Verdict`] that is not trusted.
pub fn appraise(evidence: &Evidence, policy: &Policy, context: &Context) -> Result<Verdict, Unusable> {
    appraise_with_waivers(evidence, policy, context, &[], context.now)
}

/// The same with findings that somebody accepted; statements hold or have ended as of `now`, in unix seconds.
///
/// # Errors
/// Those of [`appraise`].
pub fn appraise_with_waivers(
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
    waivers: &[Waiver],
    now: u64,
) -> Result<Verdict, Unusable> {
    Ok(begin(evidence, policy, context, waivers, now, false)?.0)
}

/// The same, with what is known after it; `keeps` if the next round is to go on from that.
pub(crate) fn begin(
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
    waivers: &[Waiver],
    now: u64,
    keeps: bool,
) -> Result<(Verdict, Progress), Unusable> {
    let round = Round::from(evidence);
    usable(&round, policy, context)?;
    Ok(Progress::begin(&round, policy, context, waivers, now, keeps))
}

/// Whether the question is a meaningful one.
pub(crate) fn usable(round: &Round<'_>, policy: &Policy, context: &Context) -> Result<(), Unusable> {
    if policy.file.node != context.node {
        return Err(Unusable::OtherNode {
            policy: policy.file.node.clone(),
            node: context.node.clone(),
        });
    }
    asks(&context.nonce)?;
    context.key.check()?;
    has_key(&context.key, policy)?;
    if round.version != VERSION {
        return Err(Unusable::Version(round.version));
    }
    Ok(())
}

/// Whether the nonce has a length that a request can have.
pub(crate) fn asks(nonce: &ExpectedNonce) -> Result<(), Unusable> {
    match nonce {
        ExpectedNonce::Value(nonce) if !(MIN_NONCE_LEN..=MAX_NONCE_LEN).contains(&nonce.len()) => {
            Err(Unusable::Nonce { len: nonce.len() })
        }
        _ => Ok(()),
    }
}

/// Whether an attestation key is given where the policy's anchors need one.
pub(crate) fn has_key(key: &PinnedKey, policy: &Policy) -> Result<(), Unusable> {
    if *key == PinnedKey::NoTpm && policy.file.accept.anchors.contains(&Anchor::Pcr10) {
        return Err(Unusable::NoKey);
    }
    Ok(())
}
