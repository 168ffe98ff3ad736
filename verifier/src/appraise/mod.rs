//! Appraisal: evidence and policy in, verdict out.
//!
//! Pure: no I/O, no clock. Every rule of SPECIFICATION.md section 3 has one place here. No check is passed over because
//! its input is missing: what is absent fails, and a bypass is a key that starts with `dangerous-` and is repeated in
//! the verdict. Not here: what is allowed (see `policy`), how evidence is encoded (see `evidence`).

pub mod context;
pub mod finding;
pub mod verdict;

pub use context::{CheckpointState, Context, ExpectedNonce, NodeState, PinnedKey};
pub use finding::{Finding, Rule, Severity, Subject};
pub use verdict::{BootJudgement, NodeVerdict, PodVerdict, SeenFile, State, Verdict};
