//! What is allowed on a node and in its pods: the policy file, the reference values, and the look-up in both.
//!
//! Pure: no I/O, no clock. Files are handed in as bytes; a resolver closure gives the bytes of the reference
//! files that a policy names. Whatever is absent is an error here or a failure in the verifier, never a
//! skipped check; a key that switches a rule off starts with `dangerous-` and [`Policy::dangerous_keys`]
//! lists it.
//! Not here: what an entry or a record is (see `cgpath-evidence`), what follows from a match (see
//! `cgpath-appraisal`).
//!
//! # What a pod may have at a path
//!
//! ```
//! use cgpath_evidence::{Digest, PodUid};
//! use cgpath_policy::{ContentMatch, Name, Policy};
//!
//! let folder = std::path::Path::new("examples/two-pods");
//! let policy = Policy::load("node.yaml", &std::fs::read(folder.join("node.yaml"))?, |name| {
//!     std::fs::read(folder.join(name)).map_err(|error| error.to_string())
//! })?;
//! let pod = PodUid::parse(b"11111111-1111-4111-8111-111111111111").ok_or("not a UID")?;
//! let digest = Digest::parse(&format!("sha256:{}", "00".repeat(32))).ok_or("not a digest")?;
//! match policy.look_up_pod(&pod, Name::True(b"/bin/busybox"), &digest) {
//!     Some(ContentMatch::WrongHash { expected }) => println!("expected one of {expected:?}"),
//!     other => panic!("{other:?}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod anchor;
mod boot_policy;
pub mod corim;
mod error;
pub mod exclude;
mod form;
pub mod ima;
pub mod keylime;
mod lookup;
pub mod migrate;
mod name;
mod node;
mod place;
pub mod reference;
pub mod refs;
pub mod schema;
mod tdx;
mod workloads;
mod yaml;

pub use anchor::Anchor;
pub use boot_policy::{BootEvent, BootPolicy, FirmwareDeviation, MAX_COMMAND_LINE, MAX_NAME};
pub use error::{Error, Result};
pub use exclude::{ExcludeError, Excludes, Hidden};
pub use form::MAX_ITEMS;
pub use lookup::{
    Allowed, Basis, ContainerPolicy, ContentMatch, ImageFault, ImagePolicy, PodPolicy, Policy, Selected,
    WorkloadPolicy, Workloads, named_digest,
};
pub use name::Name;
pub use node::{
    Accept, DEFAULT_MIN_REBOOT, DEFAULT_RUNTIMES, FileSystem, FileSystems, GuardLevel, GuardPolicy, Kexec,
    MAX_POLICY_LEN, NodePolicy, Opaque, PaddedBanks, Pattern, Pod, PredatingPods, References,
    SharedMemoryCode, Tolerance, TpmOpened, Violations, file_system_name, is_local, is_opaque,
};
pub use reference::{Reference, Source, SourceKind};
pub use tdx::{DEFAULT_MAX_COLLATERAL_AGE, NodeKeyPolicy, RtmrWriter, TcbStatus, TdxPolicy};
pub use workloads::{
    ANY_CONTAINER, Container, DEFAULT_REFS, DEFAULT_SETTLE, ListedImage, MAX_SETTLE, Overlap, PodNames,
    Selector, UnknownPods, Workload, WorkloadsFile,
};
