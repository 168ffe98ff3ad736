//! What the daemon says of itself: to `cgpathd status`, as JSON, and to Prometheus.
//!
//! Promise: the types here are the JSON form. Not here: who collects it (see [`crate::service`],
//! [`crate::deliver::sink`]), how it is asked for (see [`crate::control`]).

mod budgets;
mod forms;

pub use budgets::{Budgets, NAMED, PodUse};
pub(crate) use forms::guard_mode;
pub use forms::{CONTENT_TYPE, metrics, text};

use crate::bpf::RingFill;
use crate::runtime::RuntimeStatus;
use cgpath_evidence::Protection;
use serde::{Deserialize, Serialize};

/// What the daemon says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Last checkpoint that was sealed.
    pub checkpoint: Option<u64>,
    /// First checkpoint of this boot that was sealed while the programs may have been off; none is good.
    #[serde(default)]
    pub blind: Option<u64>,
    /// Entries of the list read so far.
    pub list_len: u64,
    /// Their bytes in the kernel's binary form, which the kernel keeps in its memory.
    #[serde(default)]
    pub list_bytes: u64,
    /// Checkpoints for a request: from the request until IMA has measured the checkpoint.
    #[serde(default)]
    pub seals: Timing,
    /// Quotes, with the registers that they are over.
    #[serde(default)]
    pub quotes: Timing,
    /// Records kept so far.
    pub records: u64,
    /// Records whose entry has not been seen.
    pub unjoined: u64,
    /// What was lost so far, in total.
    pub lost: u64,
    /// What waits in the programs' ring buffer; none where the kernel did not tell.
    #[serde(default)]
    pub ring: Option<RingFill>,
    /// Whether the disk takes no more records.
    pub stalled: bool,
    /// What the programs do about others.
    pub protection: Protection,
    /// Cgroups of pods in which executions are denied, since the verifier does not trust them.
    pub denied: usize,
    /// What pods used of their budgets; none where the kernel did not tell.
    #[serde(default)]
    pub budgets: Option<Budgets>,
    /// Partitions by key and number of records.
    pub partitions: Vec<(String, u64)>,
    /// Pods that are there and ran before the programs were loaded.
    #[serde(default)]
    pub predating: u64,
    /// Where else evidence goes.
    #[serde(default)]
    pub sinks: Vec<SinkStatus>,
    /// The container runtime that is asked for names; none where none is.
    #[serde(default)]
    pub runtime: Option<RuntimeStatus>,
}

/// How often something was done since the daemon started, and how long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// How often.
    pub count: u64,
    /// All of them together.
    pub seconds: f64,
    /// The last one.
    pub last_seconds: f64,
}

impl Timing {
    /// One more that took so long.
    pub(crate) fn add(&mut self, took: std::time::Duration) {
        self.count += 1;
        self.last_seconds = took.as_secs_f64();
        self.seconds += self.last_seconds;
    }
}

/// How a sink fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// Messages that wait.
    pub waiting: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// Messages that were delivered, since the sink was made; rounds with a verifier, since the start.
    pub delivered: u64,
    /// Rounds that were dropped since then.
    pub dropped: u64,
    /// Why the last try failed; none after one that did not.
    pub error: Option<String>,
    /// Pods that the last round has nothing of, since the runtime has not stated their names yet.
    #[serde(default)]
    pub unnamed: u64,
}
