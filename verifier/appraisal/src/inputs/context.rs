//! What an appraisal needs beside the evidence and the policy: the pinned key, the nonce, the time, the
//! node's past.
//!
//! Pure data. Not here: where they are kept (the caller's store).

use crate::inputs::collateral::Collateral;
use cgpath_evidence::{Digest, PartitionKey, PodUid, merkle::Hash, serde_bytes_hex, td::Register};
use serde::{Deserialize, Serialize};

/// The attestation key that a verifier expects of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinnedKey {
    /// The key itself: TPMT_PUBLIC, big-endian, without a TPM2B size. TPM 2.0 Part 2, 12.2.4.
    Public(Vec<u8>),
    /// The key's Name: TPM_ALG_ID of the name algorithm, big-endian, and its hash of TPMT_PUBLIC.
    Name(Vec<u8>),
    /// None: whatever key signed is taken, but one that the node used before (see [`NodeState::ak_name`])
    /// stays pinned. The same holds for the key of a trust domain's node.
    DangerousTofu,
    /// None, since the node has no TPM: no TPM's quote is taken.
    NoTpm,
}

/// Why bytes are no attestation key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither TPMT_PUBLIC nor TPM2B_PUBLIC.
    #[error("not a TPMT_PUBLIC, a TPM2B_PUBLIC or a public key in PEM: {0}")]
    Public(#[from] cgpath_evidence::Error),
    /// In PEM, and not a public key of a kind that `cgpathd` makes.
    #[error(
        "not an attestation key in PEM: {0}; a SubjectPublicKeyInfo (BEGIN PUBLIC KEY) of NIST P-256 or \
         RSA-2048 is taken"
    )]
    Pem(String),
    /// Not a Name: the algorithm's number and a digest of its length.
    #[error("not a key's fingerprint: it is the Name, 68 hex digits that begin with 000b")]
    Name,
    /// A name algorithm other than SHA-256.
    #[error("the key's name algorithm is {0:#06x}, only SHA-256 (0x000b) is known here")]
    NameAlgorithm(u16),
}

/// The nonce of this request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedNonce {
    /// The quote's qualifying data must be exactly these bytes, 8 to 64.
    Value(Vec<u8>),
    /// Not checked: the evidence may be old. For files at rest.
    DangerousNone,
}

/// Everything that is not evidence and not policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Under which name the verifier knows the node; the policy must be for it.
    pub node: String,
    /// The pinned key.
    pub key: PinnedKey,
    /// What a trust domain's quote is verified with.
    pub td: TdContext,
    /// The nonce.
    pub nonce: ExpectedNonce,
    /// Now, in seconds since 1970-01-01T00:00:00Z; written into the verdict.
    pub now: u64,
    /// What the last accepted appraisal of this node gave back; `None` for the first.
    pub previous: Option<NodeState>,
}

/// What a trust domain's quote is verified with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TdContext {
    /// SHA-256 of the node's key that is pinned: see [`cgpath_evidence::td::node_key_hash`]. Without one,
    /// only a policy with `tdx.key: per-boot` accepts a quote, or [`PinnedKey::DangerousTofu`].
    pub node_key: Option<Hash>,
    /// Collateral, for one kind of platform or several. The newest that fits is used.
    pub collateral: Vec<Collateral>,
}

/// What to remember of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdState {
    /// SHA-256 of the node's key.
    #[serde(with = "serde_bytes_hex")]
    pub node_key: Hash,
    /// The running value of the covered prefix of the list.
    #[serde(with = "serde_bytes_hex")]
    pub list: Register,
    /// tcbEvaluationDataNumber of the collateral; 0 where there was none.
    pub evaluation: u32,
}

/// What to remember of a node from one appraisal to the next. An opaque value to the caller: store it, give
/// it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// Name of the key that signed, as in [`PinnedKey::Name`].
    #[serde(with = "serde_bytes_hex")]
    pub ak_name: Vec<u8>,
    /// Whether the evidence was believed. If not, nothing goes on from it, and only the TPM's counters count
    /// (V7).
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub believed: bool,
    /// The boot that was attested.
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// The last checkpoint; `None` in the kernel tier.
    pub checkpoint: Option<CheckpointState>,
    /// Length of the covered prefix of the list, in entries.
    pub covered: u64,
    /// PCR 10 after that prefix, in each quoted bank.
    pub pcrs: Vec<Digest>,
    /// TPMS_CLOCK_INFO.resetCount.
    pub reset_count: u32,
    /// TPMS_CLOCK_INFO.restartCount.
    pub restart_count: u32,
    /// TPMS_CLOCK_INFO.clock, milliseconds.
    pub clock_ms: u64,
    /// When the appraisal was made, as [`Context::now`].
    pub time: u64,
    /// Records that were shown before they were sealed: the next checkpoint must seal them as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsealed: Vec<Shown>,
    /// Threads that held an entry's record back, and since when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Held>,
    /// Where kernels that were started by kexec went on with the list: entries that were covered before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kexecs: Vec<u64>,
    /// Entries that are named like a checkpoint's file and measured none, in order, at most
    /// [`MAX_IMPOSTORS`]: after a kexec they are judged like any other content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub impostors: Vec<u64>,
    /// Of a trust domain, where one of its registers is an anchor. Without a TPM, what is said of one above
    /// is empty and zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td: Option<TdState>,
    /// Pods and containers without a name, and since when (V8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Waiting>,
}

/// More entries than this that only have a checkpoint's name are not remembered one by one.
pub const MAX_IMPOSTORS: usize = 4096;

fn yes() -> bool {
    true
}

fn is_yes(believed: &bool) -> bool {
    *believed
}

/// A record that was shown before it was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// Its partition.
    pub key: PartitionKey,
    /// Its sequence number.
    pub seq: u64,
    /// Its leaf hash.
    #[serde(with = "serde_bytes_hex")]
    pub leaf: Hash,
}

/// A thread that was inside of IMA's add of an entry when evidence was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Thread id.
    pub tid: u32,
    /// When it began, ns of CLOCK_BOOTTIME: with the thread id the mark's name.
    pub since_ns: u64,
    /// When a verifier saw it first, unix seconds.
    pub seen: u64,
}

/// A pod, or a container of it, that nobody had named when evidence was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// The pod.
    pub uid: PodUid,
    /// The container's id; absent for the pod itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// When a verifier saw it first, unix seconds.
    pub seen: u64,
}

/// What to remember of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointState {
    /// Its number.
    pub number: u64,
    /// SHA-256 of its file.
    #[serde(with = "serde_bytes_hex")]
    pub digest: Hash,
    /// Sizes of the partitions that it sealed: what was sealed before must still be there, first and
    /// unaltered.
    pub partitions: Vec<(PartitionKey, u64)>,
}
