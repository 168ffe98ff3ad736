//! What an attester says and a verifier reads, as bytes and as types.
//!
//! Pure: no I/O, no clock, no tokio, no TPM device. Every decoder returns [`Error::Incomplete`] or
//! [`Error::Malformed`] with an offset, and checks a length before it allocates.
//! Not here: what is allowed (see `cgpath-policy`), what follows from it (see `cgpath-appraisal`).
//!
//! # Whose a measurement is
//!
//! ```
//! use cgpath_evidence::{Error, Evidence, PartitionKey, cgroup::partition_of};
//!
//! let path = b"/kubepods.slice/kubepods-burstable.slice/\
//!     kubepods-burstable-pod11111111_1111_4111_8111_111111111111.slice/cri-containerd-0123.scope";
//! match partition_of(Some(path)) {
//!     PartitionKey::Pod(uid) => assert_eq!(uid.to_string(), "11111111-1111-4111-8111-111111111111"),
//!     other => panic!("{other}"),
//! }
//! assert_eq!(partition_of(Some(b"/system.slice/ssh.service")), PartitionKey::Host);
//!
//! // What is not evidence is an error with an offset.
//! let error = Evidence::from_cbor(b"\x00").unwrap_err();
//! assert!(matches!(error, Error::Malformed { offset: 0, .. }), "{error:?}");
//! ```
#![forbid(unsafe_code)]

pub mod boot;
pub mod bundle;
mod byte_reader;
pub mod cel;
pub mod cgroup;
pub mod challenge;
pub mod checkpoint;
pub mod delta;
pub mod digest;
pub mod eat;
pub mod entry;
pub mod error;
pub mod evidence;
pub mod head;
pub mod ima_policy;
pub mod json;
pub mod list;
pub mod merkle;
pub mod name;
pub mod partition;
pub mod pending;
pub mod probe;
pub mod proof;
pub mod quoted;
pub mod record;
pub mod replay;
pub mod serde_bytes_hex;
mod sha512_lanes;
pub mod td;
pub mod text;
pub mod tpm;
pub mod wire;
pub mod writer;

pub use boot::Boot;
pub use bundle::TenantBundle;
pub use checkpoint::{Checkpoint, Collectors, GuardMode, Losses, Protection, SealedCheckpoint};
pub use delta::{Cursor, EvidenceDelta, JoinError};
pub use digest::{Bank, Digest};
pub use entry::{Entry, EntryHash};
pub use error::{Error, Result};
pub use evidence::{Evidence, PartitionLog, PodInfo, Quote, Quotes, Tier};
pub use head::Head;
pub use name::{ContainerName, Named, PodName};
pub use partition::{PartitionKey, PodUid};
pub use pending::InFlight;
pub use record::{
    Ancestor, EventKind, FileHash, Guard, GuardAction, Identity, LayerFile, Load, Loaded, PodLoss,
    Provenance, Record,
};
pub use td::{TdEvidence, TdQuote};
