//! Appraisal of ima-cgpath evidence: who is trusted, and if not, because of what.
//!
//! Pure: no I/O, no clock, no TPM. `appraise(&Evidence, &Policy, &Context) -> Result<Verdict, Unusable>` is the whole of
//! it. Not here: files, sockets, stores and the command line (see the binary `cgpath`).
#![forbid(unsafe_code)]

pub mod accept;
pub mod appraise;
pub mod ear;
pub mod event;
pub mod follow;
pub mod forget;
mod jws;
pub mod report;
pub mod tenant;
#[cfg(feature = "test-support")]
pub mod testing;
pub mod text;

pub use appraise::{
    AwaitedPod, BootJudgement, CheckpointState, Context, Deviation, ExpectedNonce, Finding, KeyError,
    LeftOut, MAX_IMPOSTORS, MAX_LISTED, NodeState, NodeVerdict, PinnedKey, PodVerdict, Rule, SeenFile,
    Severity, State, Subject, Unusable, Verdict, appraise, appraise_accepting, key_name, quote_findings,
};
