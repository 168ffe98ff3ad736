//! What answers say of nodes and pods, as the API writes it and the pages show it.
//!
//! Not here: who is shown what (see `read`).

use crate::store::StoredVerdict;
use cgpath_appraisal::{PodVerdict, State, Verdict};
use serde::Serialize;

/// One node in `GET /v1/nodes`.
#[derive(Serialize)]
pub struct NodeSummary {
    /// Its name.
    pub name: String,
    /// TPM Name of its key.
    pub ak: String,
    /// Digest of the policy that is enrolled.
    pub policy_digest: String,
    /// When it was enrolled, in unix seconds.
    pub added: u64,
    /// Age of the last verdict, in seconds.
    pub age: Option<u64>,
    /// Whether there is no verdict, or none that is young enough.
    pub stale: bool,
    /// Whether an operator stopped it, so that nothing is taken of it.
    #[serde(skip)]
    pub stopped: bool,
    /// Whether its policy can be used; where not, what it sends is refused.
    pub policy_usable: bool,
    /// The last verdict.
    pub last: Option<StoredVerdict>,
    /// What was refused in its name since the service started.
    pub refused: Option<Refused>,
}

/// One node in `GET /v1/nodes`, for a reader with a scope.
#[derive(Serialize)]
pub struct ScopedSummary {
    /// Age of the verdict, in seconds.
    pub age: u64,
    /// Whether it is too old.
    pub stale: bool,
    /// Whether an operator stopped the node: for metrics alone, by which alerts know that silence is meant.
    #[serde(skip)]
    pub stopped: bool,
    /// The verdict.
    #[serde(flatten)]
    pub last: Scoped,
}

/// What a reader with a scope is shown of a node.
#[derive(Serialize)]
pub struct Scoped {
    /// The node.
    pub node: String,
    /// When it was judged, in unix seconds.
    pub time: u64,
    /// Whether the node itself is trusted; other pods do not count.
    pub state: State,
    /// Bypasses that were in force.
    pub dangerous: Vec<String>,
    /// The reader's pods.
    pub pods: Vec<PodVerdict>,
    /// The verdict's id.
    #[serde(skip)]
    pub id: i64,
    /// What the verdict said when the evidence came, where it was re-appraised since: whole, to be looked up
    /// in.
    #[serde(skip)]
    pub first: Option<Box<Verdict>>,
}

/// One pod's part of its node's last verdict.
#[derive(Serialize)]
pub(crate) struct PodAnswer {
    /// The node.
    pub(crate) node: String,
    /// When it was judged, in unix seconds.
    pub(crate) time: u64,
    /// Whether the node itself is trusted.
    pub(crate) state: State,
    /// Bypasses that were in force.
    pub(crate) dangerous: Vec<String>,
    /// The pod.
    pub(crate) pod: PodVerdict,
}

/// What was refused in a node's name since the service started: a sign of a wrong key, or of somebody trying.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Refused {
    /// How often.
    pub count: u64,
    /// When last, in unix seconds.
    pub time: u64,
    /// Why last: the answer's `kind`.
    pub kind: &'static str,
    /// Why last: the answer's `error`.
    pub error: String,
    /// When it was last written into the store, in unix seconds.
    #[serde(skip)]
    pub(super) written: u64,
}
