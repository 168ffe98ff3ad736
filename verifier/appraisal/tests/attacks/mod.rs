//! Attacks that were tried, each as a test that the attacker must fail: whole, followed, encoded again and as
//! each tenant's.
//!
//! Promises: what does not hold yet stands in [`OPEN`] by what comes in place of it: a test there that comes
//! out right fails until it is taken off the list, and one that is not there must come out right. Not here:
//! attacks on the service and the command (see `verifier/cli/tests`) and on a running node (see `vm-tests`),
//! and what one rule alone must refuse (see `rules`).

mod accepted;
mod followed;
mod forks;
mod frozen;
mod handover;
mod layers;
mod limits;
mod peers;
mod shared;
mod writable;

use crate::tenant::policy as tenant_policy;
use crate::ways::{self, Appraised, Ways};
use cgpath_appraisal::accept::Waiver;
use cgpath_appraisal::{Context, State};
use cgpath_evidence::{Checkpoint, PodUid};
use cgpath_testkit::{KeyKind, NOW, Node, pod};
use std::collections::BTreeSet;

/// What does not come out right yet: the attack, and words of each thing that is wrong today, in their order.
const OPEN: &[(&str, &[&str])] = &[];

/// Compares `wrong`, all that is not as it must be, with what is known of the attack.
#[track_caller]
fn conclude(attack: &str, wrong: &[String]) {
    let Some((_, known)) = OPEN.iter().find(|(name, _)| *name == attack) else {
        assert!(wrong.is_empty(), "{attack}: {wrong:#?}");
        return;
    };
    assert!(
        !wrong.is_empty(),
        "{attack} comes out right now: take it off the list OPEN"
    );
    let is_known = |(found, known): (&String, &&str)| found.contains(known);
    assert!(
        wrong.len() == known.len() && wrong.iter().zip(*known).all(is_known),
        "{attack}: {wrong:#?}\nis not what the list OPEN has: {known:#?}"
    );
}

#[test]
fn every_open_attack_is_tried() {
    let sources = [
        include_str!("accepted.rs"),
        include_str!("followed.rs"),
        include_str!("forks.rs"),
        include_str!("frozen.rs"),
        include_str!("handover.rs"),
        include_str!("layers.rs"),
        include_str!("peers.rs"),
        include_str!("shared.rs"),
        include_str!("writable.rs"),
    ]
    .concat();
    let mut names = BTreeSet::new();
    for (attack, _) in OPEN {
        assert!(
            sources.contains(&format!("\"{attack}\"")),
            "{attack} is not tried"
        );
        assert!(names.insert(attack), "{attack} stands twice in OPEN");
    }
}

/// Pods 1 to 4 and the host have run what they may.
fn busy() -> Node {
    Node::busy(KeyKind::EcdsaP256)
}

/// A node and a verifier that knows it, round by round.
struct Life {
    node: Node,
    ways: Ways,
    rounds: usize,
    /// The verifier's clock.
    now: u64,
    /// Findings that somebody accepted.
    accepted: Vec<Waiver>,
}

/// A round and all that was concluded of it.
struct Round {
    number: usize,
    appraised: Appraised,
    /// The tenants that trust their pod.
    tenants: Vec<PodUid>,
}

impl Life {
    /// Begins with two rounds that are trusted, the second of them followed.
    fn begin(node: Node) -> Life {
        let ways = Ways::default();
        let mut life = Life {
            node,
            ways,
            rounds: 0,
            now: NOW,
            accepted: Vec::new(),
        };
        for _ in 0..2 {
            let round = life.round();
            assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
            assert_eq!(round.tenants.len(), 4);
        }
        assert_eq!(life.ways.followed, 1, "a usual round is followed");
        life
    }

    fn nonce(&self) -> Vec<u8> {
        format!("the nonce of round {}", self.rounds).into_bytes()
    }

    fn context(&self) -> Context {
        let context = self.node.context(&self.nonce(), None);
        self.ways.next(Context {
            now: self.now,
            ..context
        })
    }

    fn round(&mut self) -> Round {
        self.round_sealed(|_| ())
    }

    /// A round whose checkpoint the holder of the key changes.
    fn round_sealed(&mut self, change: impl FnOnce(&mut Checkpoint)) -> Round {
        let nonce = self.nonce();
        self.node.seal_with(Some(&nonce), change);
        self.round_quoted()
    }

    /// A round whose checkpoint is there.
    fn round_quoted(&mut self) -> Round {
        let nonce = self.nonce();
        let quote = self.node.quote(&nonce);
        let evidence = self.node.evidence(quote);
        let (policy, context) = (self.node.policy(), self.context());
        let appraised = self.ways.appraise(&evidence, &policy, &context, &self.accepted);
        let appraised = appraised.unwrap();
        let trusts = |uid: &PodUid| {
            let policy = tenant_policy(&self.node, *uid);
            let verdict = ways::tenant(&evidence, &appraised.whole, *uid, &policy, &context);
            verdict.is_some_and(|verdict| verdict.trusted)
        };
        let tenants = self
            .node
            .pod_files
            .keys()
            .filter(|uid| trusts(uid))
            .copied()
            .collect();
        self.rounds += 1;
        Round {
            number: self.rounds,
            appraised,
            tenants,
        }
    }
}

impl Round {
    /// Who trusts the node, by name.
    fn trusted(&self) -> Vec<String> {
        let number = self.number;
        let trusts = self
            .appraised
            .verdicts()
            .filter(|(_, verdict)| verdict.node.state == State::Trusted);
        let ways = trusts.map(|(way, _)| format!("round {number}: {way} trusts the node"));
        let tenants = self
            .tenants
            .iter()
            .map(|uid| format!("round {number}: a tenant trusts {uid}"));
        ways.chain(tenants).chain(self.differs()).collect()
    }

    /// That one way comes to another verdict than the whole, if it is so.
    fn differs(&self) -> Option<String> {
        let (way, ..) = self.appraised.disagreement()?;
        Some(format!("round {}: {way} is another verdict", self.number))
    }

    /// Who trusts one of these pods, by name.
    fn trusted_pods(&self, pods: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        for uid in pods.iter().map(|n| pod(*n)) {
            for (way, verdict) in self.appraised.verdicts() {
                let state = verdict.pod(uid).map(|pod| pod.state);
                if state == Some(State::Trusted) {
                    all.push(format!("round {}: {way} trusts {uid}", self.number));
                }
            }
            if self.tenants.contains(&uid) {
                all.push(format!("round {}: a tenant trusts {uid}", self.number));
            }
        }
        all.extend(self.differs());
        all
    }
}
