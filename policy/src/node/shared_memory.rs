//! Code in shared memory without a name, and what a policy does about a pod that runs it (V9).
//!
//! Not here: which records are of such memory (see `cgpath_evidence::Record::is_of_unlinked_memory`).

use schemars::JsonSchema;
use serde::Deserialize;

/// What to do about a pod that makes shared memory without a name executable after it was mapped: .NET, and
/// others that compile code and write it by another mapping than the one that it runs in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SharedMemoryCode {
    /// It is not trusted: no record says what runs there.
    #[default]
    Untrust,
    /// It is counted and said in the verdict, no more.
    Trust,
}
