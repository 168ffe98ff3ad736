//! What is allowed on a node and in its pods: the policy file, the reference values, and the look-up in both.
//!
//! Pure: no I/O, no clock. Files are handed in as bytes; a resolver closure gives the bytes of the reference files
//! that a policy names. Whatever is absent is an error here or a failure in the verifier, never a skipped check; a key
//! that switches a rule off starts with `dangerous-` and [`Policy::dangerous_keys`] lists it.
//! Not here: what an entry or a record is (see `evidence`), what follows from a judgement (see `verifier`).
#![forbid(unsafe_code)]

mod boot;
pub mod corim;
mod error;
pub mod exclude;
pub mod generate;
pub mod ima;
pub mod keylime;
mod lookup;
mod node;
pub mod reference;
pub mod schema;
mod yaml;

pub use boot::{BootEvent, BootPolicy, FirmwareDeviation};
pub use error::{Error, Result};
pub use exclude::{ExcludeError, Excludes, Hidden};
pub use lookup::{Allowed, Basis, Judgement, Name, PodPolicy, Policy};
pub use node::{
    Accept, DEFAULT_MIN_REBOOT, DEFAULT_RUNTIMES, GuardLevel, GuardPolicy, Kexec, MAX_POLICY_LEN, NodePolicy,
    Opaque, PaddedBanks, Pattern, Pod, PredatingPods, References, Tolerance, TpmOpened, Violations,
    is_opaque,
};
pub use reference::{Reference, Source, SourceKind};
