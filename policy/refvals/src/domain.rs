//! Reference values of a trust domain from evidence of a good one, as the `tdx:` of a node's policy.
//!
//! Promise: what is written is read back by [`cgpath_policy::NodePolicy`], and accepts this domain on this
//! platform's kind of quote. Values are learned: an operator who writes them down trusts the run that they
//! come from. Not here: whether the quote is signed (the caller's), and what a platform's TCB may be, which
//! is no value of a domain.

use crate::learned_boot::{BootError, Learned, from_ccel};
use cgpath_evidence::td::{Origin, QuoteBody, Register, TdBody, digest};
use cgpath_evidence::{Error, Evidence, SealedCheckpoint, boot::BOOT_RTMRS};

/// Why evidence gives no reference values of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// No quote came along.
    #[error("the evidence holds no trust domain's quote")]
    NoQuote,
    /// The quote or checkpoint 0 cannot be read.
    #[error("the trust domain's quote or checkpoint 0 cannot be read: {0}")]
    Form(#[from] Error),
    /// It is under debug.
    #[error("the trust domain is under debug: no policy can name it")]
    Debug,
    /// It begins with no checkpoint 0 that states the register's origin.
    #[error(
        "the evidence does not begin with a checkpoint 0 that states which register it extends: ask for \
         whole evidence"
    )]
    NoOrigin,
    /// Its boot gives no values.
    #[error("{0}")]
    Boot(#[from] BootError),
}

/// What a trust domain teaches.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnedDomain {
    body: TdBody,
    origin: Origin,
    /// RTMR 0 to 2; `None` where no log of the firmware came along.
    pub boot: Option<Learned>,
}

impl LearnedDomain {
    /// The register that the collector extends.
    pub fn rtmr(&self) -> u8 {
        self.origin.register
    }

    /// What was not understood, and what only an operator can know: a sentence each, for people.
    pub fn remarks(&self) -> Vec<String> {
        let mut all = match &self.boot {
            Some(boot) => boot.remarks.clone(),
            None => vec![
                "no firmware's log came along: RTMR 0 to 2 are not judged (dangerous-boot-not-judged)"
                    .to_owned(),
            ],
        };
        if self.origin.value != [0; 48] {
            all.push(format!(
                "RTMR {} was extended before checkpoint 0, and no log says by whom: accepted as rtmr-origin",
                self.rtmr()
            ));
        }
        all
    }

    /// The `tdx:` of a node's policy, remarks as comments in it.
    pub fn yaml(&self) -> String {
        let body = &self.body;
        let mut out = format!(
            "# For `accept.anchors: [rtmr-{}]`.\n\
             tdx:\n  \
             mrtd: [\"{}\"]\n  \
             mrseam: [\"{}\"]\n  \
             attributes: [\"{}\"]\n  \
             xfam: [\"{}\"]\n",
            self.rtmr(),
            digest(&body.mrtd),
            digest(&body.mrseam),
            hex::encode(body.attributes),
            hex::encode(body.xfam),
        );
        if self.origin.value != [0; 48] {
            out += &format!("  rtmr-origin: [\"{}\"]\n", digest(&self.origin.value));
        }
        match &self.boot {
            Some(boot) => out += &within_tdx(&boot.yaml()),
            None => out += "  dangerous-boot-not-judged: true\n",
        }
        out
    }
}

/// The lines of a `boot:` as they stand in a `tdx:`.
pub(crate) fn within_tdx(boot: &str) -> String {
    boot.lines().map(|line| format!("  {line}\n")).collect()
}

/// The `tdx:` that accepts exactly this domain.
///
/// # Errors
/// [`DomainError`].
pub fn from_domain(evidence: &Evidence) -> Result<LearnedDomain, DomainError> {
    let quote = evidence.quote.td.as_ref().ok_or(DomainError::NoQuote)?;
    let body = QuoteBody::parse(&quote.outblob)?.body;
    if body.is_debug() {
        return Err(DomainError::Debug);
    }
    let first = evidence.checkpoints.first().ok_or(DomainError::NoOrigin)?;
    let binding = SealedCheckpoint::from_file(first)?.checkpoint.binding;
    let origin = binding
        .and_then(|binding| binding.origin)
        .ok_or(DomainError::NoOrigin)?;
    let mut registers: [Register; BOOT_RTMRS] = core::array::from_fn(|n| body.rtmrs[n]);
    // What extends it from checkpoint 0 on is none of the boot's.
    if let Some(own) = registers.get_mut(usize::from(origin.register)) {
        *own = origin.value;
    }
    let log = evidence.td.as_ref().and_then(|td| td.ccel.as_deref());
    let command_line = evidence
        .boot
        .as_ref()
        .and_then(|boot| boot.command_line.as_deref());
    let boot = log
        .map(|log| from_ccel(registers.each_ref().map(digest), log, command_line))
        .transpose()?;
    Ok(LearnedDomain { body, origin, boot })
}
