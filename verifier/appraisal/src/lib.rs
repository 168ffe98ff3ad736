//! Appraisal of ima-cgpath evidence: who is trusted, and if not, because of what.
//!
//! Pure: no I/O, no clock, no TPM. `appraise(&Evidence, &Policy, &Context) -> Result<Verdict, Unusable>` is
//! the whole of it. Not here: files, sockets, stores and the command line (see the binary `cgpath`).
//!
//! The most important types are [`Context`] (the pinned key, the nonce, what is remembered of the node),
//! [`Verdict`] with its [`Finding`]s, [`follow`] for nodes that send what is new, and [`tenant`] for a bundle
//! about one pod.
//!
//! # From bytes to a verdict
//!
//! ```
//! use cgpath_evidence::Evidence;
//! use cgpath_policy::Policy;
//! use cgpath_appraisal::{Context, ExpectedNonce, PinnedKey, State, TdContext, appraise};
//! # use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
//! # let nonce = b"0123456789abcdef";
//! # let mut node = Node::busy(KeyKind::EcdsaP256);
//! # node.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &sha256(b"another content"));
//! # let (received, key, name) = (node.attest(nonce).to_cbor(), node.ak.public(), cgpath_testkit::NODE);
//! # let (yaml, files) = (node.policy_yaml(), |name: &str| node.reference(name).ok_or_else(|| "absent".to_owned()));
//!
//! // The node's answer to a nonce, and the policy with the reference files that it names.
//! let evidence = Evidence::from_cbor(&received)?;
//! let policy = Policy::load("worker-1.yaml", yaml.as_bytes(), files)?;
//! let context = Context {
//!     node: name.to_owned(),
//!     key: PinnedKey::Public(key),
//!     td: TdContext::default(), // no register of a trust domain is an anchor
//!     nonce: ExpectedNonce::Value(nonce.to_vec()),
//!     now: 1_795_000_000,
//!     previous: None, // what the last verdict gave as `state`
//! };
//! let verdict = appraise(&evidence, &policy, &context)?;
//!
//! // One pod ran a content that its policy does not accept. Its neighbours and the node stay trusted.
//! assert_eq!(verdict.node.state, State::Trusted);
//! for pod in &verdict.pods {
//!     println!("{} {}", pod.uid, pod.state);
//! }
//! for finding in verdict.failures() {
//!     println!("{finding}");
//! }
//! # assert_eq!(verdict.pod(pod(1)).unwrap().state, State::Trusted);
//! # assert_eq!(verdict.pod(pod(2)).unwrap().state, State::Untrusted);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod accept;
mod anchors;
mod appraise;
pub mod ear;
pub mod event;
pub mod follow;
pub mod forget;
pub mod identify;
mod inputs;
mod jws;
mod results;
mod rules;
mod steps;
pub mod tenant;
pub mod text;

pub use appraise::{
    MAX_NONCE_LEN, MIN_NONCE_LEN, Unusable, appraise, appraise_with_waivers, quote_findings,
    td_quote_findings,
};
pub use inputs::collateral::{Collateral, CollateralError, MAX_COLLATERAL_LEN, PlatformKind};
pub use inputs::context::{
    CheckpointState, Context, ExpectedNonce, KeyError, MAX_IMPOSTORS, NodeState, PinnedKey, TdContext,
    TdState, Waiting,
};
pub use results::explain;
pub use results::finding::{Finding, MAX_FINDINGS, Severity, Subject};
pub use results::verdict::{
    AwaitedPod, BootAppraisal, ContainerVerdict, Deviation, LeftOut, MAX_LISTED, MAX_PARTS, NodeVerdict,
    PodPart, PodVerdict, SeenFile, State, TdVerdict, Verdict,
};
pub use rules::Rule;
pub use rules::v01_quote::key_name;
pub use rules::v05_pending::{MAX_HELD_SECONDS, MAX_UNNAMED};
pub use rules::waits::MAX_WAITING;
