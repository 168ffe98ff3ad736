//! What an attester says and a verifier reads, as bytes and as types.
//!
//! Pure: no I/O, no clock, no tokio, no TPM device. Every decoder returns [`Error::Incomplete`] or
//! [`Error::Malformed`] with an offset, and checks a length before it allocates.
//! Not here: what is allowed (see `policy`), what follows from it (see `verifier`).
#![forbid(unsafe_code)]

pub mod boot;
pub mod bundle;
pub mod cel;
pub mod cgroup;
pub mod checkpoint;
pub mod digest;
pub mod eat;
pub mod error;
pub mod head;
pub mod ima_policy;
pub mod json;
pub mod list;
mod many;
pub mod merkle;
pub mod part;
pub mod partition;
pub mod pending;
pub mod probe;
pub mod proof;
pub mod quoted;
pub mod record;
pub mod replay;
pub mod serde_bytes_hex;
pub mod tenant;
pub mod text;
pub mod tpm;
pub mod wire;

pub use boot::Boot;
pub use bundle::{Entry, Evidence, PartitionLog, PodInfo, Quote, Tier};
pub use checkpoint::{Checkpoint, GuardMode, Losses, Protection, SealedCheckpoint};
pub use digest::{Bank, Digest};
pub use error::{Error, Result};
pub use head::Head;
pub use part::{JoinError, Part, Position};
pub use partition::{PartitionKey, PodUid};
pub use pending::InFlight;
pub use record::{Ancestor, EventKind, FileHash, Guard, GuardAction, PodLoss, Provenance, Record};
pub use tenant::TenantBundle;
