//! Attacks that were tried on the command, each as a test that the attacker must fail.
//!
//! Not here: attacks on evidence (see `verifier/appraisal/tests/attacks`) and on the service (see `serve`).

mod peers;
mod suggest;

use cgpath_testkit::{KeyKind, Node};

/// Pods 1 to 4 and the host have run what they may.
fn busy() -> Node {
    Node::busy(KeyKind::EcdsaP256)
}

/// `wrong` is all that is not as it must be.
#[track_caller]
fn conclude(attack: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{attack}: {wrong:#?}");
}
