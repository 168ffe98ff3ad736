//! For tests: a node made of software, which measures, records, seals and quotes as an honest one does, and
//! lets a test interfere at each step; and what tests need of the machine.
//!
//! Promises: what [`Node::attest`] gives is valid under [`Node::policy`] as long as nobody interfered; all of
//! it is deterministic. Not here: what must follow from an interference.
//!
//! # A pod that runs what its policy does not accept
//!
//! ```
//! use cgpath_appraisal::{State, appraise};
//! use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
//!
//! let nonce = b"0123456789abcdef";
//! let mut node = Node::busy(KeyKind::EcdsaP256);
//! node.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &sha256(b"another content"));
//! let evidence = node.attest(nonce);
//!
//! let verdict = appraise(&evidence, &node.policy(), &node.context(nonce, None))?;
//! assert_eq!(verdict.pod(pod(2)).map(|pod| pod.state), Some(State::Untrusted));
//! # Ok::<(), cgpath_appraisal::Unusable>(())
//! ```
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test node that cannot be built is a failed test"
)]

mod actor;
#[cfg(feature = "certificates")]
mod authority;
mod firmware;
mod key;
mod measurement;
pub mod monitoring;
mod named;
mod node;
pub mod port;
pub mod python;
mod rounds;
pub mod td;

pub use actor::Actor;
#[cfg(feature = "certificates")]
pub use authority::{Authority, Issued, Order};
pub use firmware::FirmwareLog;
pub use key::{Attest, AttestationKey, GOOD_ATTRIBUTES, KeyKind};
pub use measurement::Measurement;
pub use node::{EXT4, EXT4_DEVICE, Node};
pub use rounds::{booted, delta_after};

use cgpath_evidence::{Bank, Digest, PodUid, Quote, Quotes};

/// The collector's executable.
pub const COLLECTOR: &str = "/usr/sbin/cgpathd";
/// The IMA policy's file.
pub const IMA_POLICY: &str = "/etc/ima/ima-policy";
/// The container runtime's shim.
pub const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";
/// The node's name.
pub const NODE: &str = "worker-1";
/// Now, seconds since 1970.
pub const NOW: u64 = 1_800_000_000;

/// The UID of test pod `n`.
pub fn pod(n: u8) -> PodUid {
    PodUid([n; 16])
}

/// The TPM's quote, to change it.
pub fn tpm(quote: &mut Quotes) -> &mut Quote {
    quote.tpm.as_mut().expect("a TPM's quote")
}

/// The content of a file, as this node's file system has it: its hash is all that matters.
pub fn sha256(content: &[u8]) -> Digest {
    Bank::Sha256.hash(&[content])
}
