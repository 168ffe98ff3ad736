//! Re-appraisal of kept evidence: by another policy, or with findings that somebody accepted.
//!
//! Nobody is asked for anything: a verdict is a function of the evidence, the policy, and what was known of
//! the node before, and all of them are kept. The time stays that of the evidence, so that nothing old looks
//! fresh.
//! Not here: what is kept (see `store`), and who may ask for it (see the command's `node`).

use crate::pinned::{self, PinError};
use crate::setup::{self, SetupError};
use crate::store::{Node, Past, Reappraised, Store, StoreError};
use cgpath_appraisal::accept::{self, Waiver};
use cgpath_appraisal::text::utc;
use cgpath_appraisal::{Collateral, Context, ExpectedNonce, NodeState, Verdict, Waiting};
use cgpath_evidence::Evidence;
use cgpath_policy::Policy;
use std::collections::BTreeMap;

const DAY: u64 = 24 * 3600;

/// Why kept evidence cannot be re-appraised.
#[derive(Debug, thiserror::Error)]
pub enum ReappraisalError {
    /// It is not evidence any more, or its file is gone.
    #[error("the evidence of verdict {id}: {why}")]
    Evidence {
        /// The verdict.
        id: i64,
        /// Why.
        why: String,
    },
    /// Evidence, policy and node do not go together.
    #[error(transparent)]
    Unusable(#[from] Unappraisable),
    /// The key that signs what is accepted.
    #[error(transparent)]
    Key(#[from] SetupError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why evidence gives no verdict that could be kept.
#[derive(Debug, thiserror::Error)]
pub enum Unappraisable {
    /// A key that the node is enrolled with cannot be used.
    #[error(transparent)]
    Key(#[from] PinError),
    /// Evidence, policy and context do not go together.
    #[error(transparent)]
    Inputs(#[from] cgpath_appraisal::Unusable),
    /// The node's kept state. Passing over it would forget what the node must not go back behind.
    #[error("the node's kept state cannot be read ({0}); cgpath node rm and add start anew")]
    State(serde_json::Error),
    /// The verdict's own form.
    #[error("the verdict as JSON: {0}")]
    Verdict(serde_json::Error),
}

/// Re-appraises kept rounds of one node, the oldest first, by another policy or with findings that somebody
/// accepted. What waits for a name goes from each round to the next.
pub struct KeptRounds<'a> {
    node: &'a Node,
    policy: &'a Policy,
    collateral: &'a [Collateral],
    waivers: &'a [Waiver],
    now: u64,
    /// What waits since the round before by this policy, and in which boot; the kept states have it by the
    /// policies of their time.
    waiting: Option<([u8; 16], Vec<Waiting>)>,
}

impl<'a> KeptRounds<'a> {
    /// Before the first round. Of `collateral` that of each evidence's time counts; `waivers` hold or have
    /// ended as of `now`.
    pub fn new(
        node: &'a Node,
        policy: &'a Policy,
        collateral: &'a [Collateral],
        waivers: &'a [Waiver],
        now: u64,
    ) -> KeptRounds<'a> {
        KeptRounds {
            node,
            policy,
            collateral,
            waivers,
            now,
            waiting: None,
        }
    }

    /// Judges `bytes`, the whole evidence of a kept verdict.
    ///
    /// # Errors
    /// [`ReappraisalError`].
    pub fn appraise(&mut self, past: &Past, bytes: &[u8]) -> Result<Verdict, ReappraisalError> {
        let id = past.id;
        let unreadable = |why: String| ReappraisalError::Evidence { id, why };
        let evidence = Evidence::from_cbor(bytes).map_err(|e| unreadable(e.to_string()))?;
        let key = pinned::key(self.node).map_err(Unappraisable::Key)?;
        let td = pinned::td(self.node, self.collateral).map_err(Unappraisable::Key)?;
        let mut previous: Option<NodeState> = past
            .state_before
            .as_deref()
            .map(serde_json::from_slice)
            .transpose()
            .map_err(|e| unreadable(format!("what was known before it cannot be read: {e}")))?;
        // In another boot all wait anew.
        if let (Some(before), Some((boot_id, waiting))) = (&mut previous, &self.waiting)
            && before.boot_id == *boot_id
        {
            before.waiting = carried(waiting, &before.waiting);
        }
        let context = Context {
            node: self.node.name.clone(),
            key,
            td,
            nonce: ExpectedNonce::Value(past.nonce.clone()),
            now: past.time,
            previous,
        };
        let (waivers, now) = (self.waivers, self.now);
        let mut verdict =
            cgpath_appraisal::appraise_with_waivers(&evidence, self.policy, &context, waivers, now)
                .map_err(Unappraisable::Inputs)?;
        if let Some(state) = &verdict.state {
            self.waiting = Some((state.boot_id, state.waiting.clone()));
        }
        verdict.rejudged = Some(now);
        // It held when the evidence was made, which is the time of the verdict.
        if let Some(td) = &verdict.node.td
            && td.collateral_until != 0
            && now > td.collateral_until
        {
            let days = (now - td.collateral_until).div_ceil(DAY);
            verdict.node.notes.push(format!(
                "the collateral that this rests on ended {days} day(s) before the re-appraisal, on {} UTC",
                utc(td.collateral_until)
            ));
        }
        Ok(verdict)
    }
}

/// Waivers of a node that hold at `now` and that this service signed; others accept nothing.
///
/// # Errors
/// [`ReappraisalError::Store`], [`ReappraisalError::Key`].
pub fn waivers(store: &Store, node: &str, now: u64) -> Result<Vec<Waiver>, ReappraisalError> {
    let statements = store.accepts(node, now)?;
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    let key = *setup::verdict_key(store.dir())?.verifying_key();
    Ok(statements
        .iter()
        .filter_map(|text| accept::verify(text, &key).ok())
        .collect())
}

/// What a re-appraisal of all kept evidence of the node's last boot gave.
#[derive(Default)]
pub struct Reappraisal {
    /// The verdicts that are to be kept.
    pub reappraised: Vec<Reappraised>,
    /// Before and after, in the same order.
    pub changes: Vec<(Verdict, Verdict)>,
    /// What the next round starts from, where a new verdict believes its evidence, and that evidence's
    /// SHA-256 in hex.
    pub state: Option<(Vec<u8>, String)>,
    /// Verdicts of the boot whose evidence is not kept any more: they stay as they are.
    pub without_evidence: usize,
}

impl Reappraisal {
    /// [`Reappraisal::state`], to be kept.
    pub fn state(&self) -> Option<(&[u8], &str)> {
        self.state
            .as_ref()
            .map(|(state, evidence)| (state.as_slice(), evidence.as_str()))
    }
}

/// What waits for a name: by this policy since the round before, and by the policies of its time. Of two
/// first sights the earlier one counts, so that no change of policy gives anybody more time; and what was
/// first seen in a round that cannot be appraised again is known by the policies of its time alone. The
/// oldest come first: they keep their places.
fn carried(again: &[Waiting], kept: &[Waiting]) -> Vec<Waiting> {
    let mut all = BTreeMap::new();
    for waiting in again.iter().chain(kept) {
        let seen = all
            .entry((waiting.uid, waiting.container.clone()))
            .or_insert(waiting.seen);
        *seen = waiting.seen.min(*seen);
    }
    let waiting = |((uid, container), seen)| Waiting { uid, container, seen };
    let mut all: Vec<Waiting> = all.into_iter().map(waiting).collect();
    all.sort_by_key(|waiting| waiting.seen);
    all
}

/// Re-appraises all evidence that is kept of the boot which the node's last verdict is about.
///
/// # Errors
/// [`ReappraisalError`].
pub fn since_boot(
    store: &Store,
    node: &Node,
    policy: &Policy,
    waivers: &[Waiver],
    now: u64,
) -> Result<Reappraisal, ReappraisalError> {
    let mut again = Reappraisal::default();
    let past = store.past(&node.name)?;
    let parse = |past: &Past| {
        serde_json::from_str::<Verdict>(&past.verdict).map_err(|e| ReappraisalError::Evidence {
            id: past.id,
            why: format!("its verdict cannot be read: {e}"),
        })
    };
    let Some(boot_id) = past.last().map(parse).transpose()?.map(|last| last.node.boot_id) else {
        return Ok(again);
    };
    let is_per_boot = policy.has_key_per_boot();
    let (collateral, _) = pinned::collateral(store.dir());
    let mut rounds = KeptRounds::new(node, policy, &collateral, waivers, now);
    for past in &past {
        let old = parse(past)?;
        // Another key is another machine: its evidence is not this node's.
        let is_other_key = hex::encode(&old.node.key) != node.ak_name && !is_per_boot;
        if old.node.boot_id != boot_id || is_other_key {
            continue;
        }
        if !past.evidence_kept {
            again.without_evidence += 1;
            continue;
        }
        let new = rounds.appraise(past, &store.evidence(&past.evidence)?)?;
        if let Some(state) = &new.state {
            again.state = Some((
                serde_json::to_vec(state).map_err(Unappraisable::Verdict)?,
                past.evidence.clone(),
            ));
        }
        again.reappraised.push(Reappraised {
            id: past.id,
            trusted: new.trusted,
            verdict: serde_json::to_string(&new).map_err(Unappraisable::Verdict)?,
        });
        again.changes.push((old, new));
    }
    Ok(again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Commit;
    use cgpath_appraisal::State;
    use cgpath_testkit::td::{Platform, TrustDomain};
    use cgpath_testkit::{Actor, KeyKind, NODE, NOW, pod, sha256};

    #[test]
    fn a_re_appraisal_uses_the_collateral_of_the_evidences_time_and_says_how_far_behind_that_is() {
        const NONCE: &[u8] = b"the nonce of this request";
        let domain = TrustDomain::new(Platform::new("a test's root", "a machine"));
        let mut machine = cgpath_testkit::Node::boot(KeyKind::EcdsaP256).in_domain(domain, false);
        let evidence = machine.attest(NONCE);
        let policy = machine.policy();
        let platform = &machine.td.as_ref().unwrap().platform;
        let of_its_time = platform.collateral(NOW - 10 * DAY);
        let newer = platform.collateral(NOW + 40 * DAY);
        let context = machine.context(NONCE, None);
        let key = hex::encode(context.td.node_key.unwrap());
        let node = Node {
            name: NODE.to_owned(),
            ak_name: key.clone(),
            ak_public: None,
            policy: "/p".into(),
            policy_source: None,
            node_key: Some(key),
            policy_digest: String::new(),
            added: 0,
            stopped: None,
        };
        let verdict = cgpath_appraisal::appraise(&evidence, &policy, &context).unwrap();
        assert!(verdict.trusted, "{verdict}");
        let past = Past {
            id: 1,
            time: NOW,
            nonce: NONCE.to_vec(),
            evidence: String::new(),
            evidence_kept: true,
            verdict: serde_json::to_string(&verdict).unwrap(),
            state_before: None,
        };
        let again = |collateral: &[Collateral], now: u64| {
            let mut rounds = KeptRounds::new(&node, &policy, collateral, &[], now);
            rounds.appraise(&past, &evidence.to_cbor()).unwrap()
        };
        let said = |verdict: &Verdict| {
            let mut notes = verdict.node.notes.iter();
            notes.find(|note| note.contains("collateral")).cloned()
        };
        let both = [of_its_time.clone(), newer.clone()];
        let at_once = again(&both, NOW + DAY);
        assert!(at_once.trusted && said(&at_once).is_none(), "{at_once}");
        let late = again(&both, NOW + 50 * DAY);
        assert!(late.trusted, "{late}");
        let note = said(&late).unwrap();
        assert!(note.contains("ended 30 day(s) before"), "{note}");
        // What was issued later says nothing of that time.
        assert!(!again(&[newer], NOW + 50 * DAY).trusted);
    }

    #[test]
    fn a_change_of_policy_gives_nobody_another_wait_for_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let mut machine = cgpath_testkit::Node::boot(KeyKind::EcdsaP256);
        let (unnamed, begin) = (pod(20), machine.now);
        let actor = Actor::container(unnamed, &"c1".repeat(32), "", "/bin/app");
        machine.execute(&actor, "/bin/app", &sha256(b"app"));
        let old = machine.policy();
        let mut previous: Option<NodeState> = None;
        for n in 1..=3 {
            let verdict = round(&store, &mut machine, &old, n, previous);
            assert_eq!(verdict.pod(unnamed).unwrap().state, State::Unknown, "{verdict}");
            previous = verdict.state;
            machine.now += 100;
        }
        machine.workloads = Some(workloads(1));
        let node = store.node(NODE).unwrap();
        let again = since_boot(&store, &node, &machine.policy(), &[], machine.now).unwrap();
        let state = |(_, new): &(Verdict, Verdict)| new.pod(unnamed).unwrap().state;
        let states: Vec<State> = again.changes.iter().map(state).collect();
        assert_eq!(states, [State::Pending, State::Pending, State::Unknown]);
        let state: NodeState = serde_json::from_slice(&again.state.unwrap().0).unwrap();
        assert!(!state.waiting.is_empty() && state.waiting.iter().all(|waiting| waiting.seen == begin));
    }

    #[test]
    fn what_was_first_seen_in_a_round_of_which_no_evidence_is_kept_waits_since_then() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let mut machine = cgpath_testkit::Node::boot(KeyKind::EcdsaP256);
        machine.workloads = Some(workloads(1));
        let (unnamed, old) = (pod(20), machine.policy());
        let mut previous: Option<NodeState> = None;
        let mut states = Vec::new();
        for n in 1..=3 {
            if n == 2 {
                let actor = Actor::container(unnamed, &"c1".repeat(32), "", "/bin/app");
                machine.execute(&actor, "/bin/app", &sha256(b"app"));
            }
            let verdict = round(&store, &mut machine, &old, n, previous);
            states.extend(verdict.pod(unnamed).map(|pod| pod.state));
            previous = verdict.state;
            machine.now += 130;
        }
        assert_eq!(states, [State::Pending, State::Unknown]);
        let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        let gone = "UPDATE verdicts SET evidence_kept = 0 WHERE id = 2";
        assert_eq!(database.execute(gone, []).unwrap(), 1);
        machine.workloads = Some(workloads(2));
        let node = store.node(NODE).unwrap();
        let again = since_boot(&store, &node, &machine.policy(), &[], machine.now).unwrap();
        assert_eq!((again.without_evidence, again.changes.len()), (1, 2));
        let (_, last) = again.changes.last().unwrap();
        assert_eq!(last.pod(unnamed).unwrap().state, State::Unknown, "{last}");
    }

    #[test]
    fn what_waited_in_an_earlier_boot_waits_anew_in_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let mut machine = cgpath_testkit::Node::boot(KeyKind::EcdsaP256);
        machine.workloads = Some(workloads(1));
        let (unnamed, old) = (pod(20), machine.policy());
        let actor = Actor::container(unnamed, &"c1".repeat(32), "", "/bin/app");
        let mut previous: Option<NodeState> = None;
        for n in 1..=3 {
            if n == 2 {
                machine.now += 200;
                machine.reboot();
            }
            if n < 3 {
                machine.execute(&actor, "/bin/app", &sha256(b"app"));
            }
            let verdict = round(&store, &mut machine, &old, n, previous);
            assert_eq!(verdict.pod(unnamed).unwrap().state, State::Pending, "{verdict}");
            previous = verdict.state;
            machine.now += 10;
        }
        machine.workloads = Some(workloads(2));
        let (node, policy) = (store.node(NODE).unwrap(), machine.policy());
        let past = store.past(NODE).unwrap();
        let mut rounds = KeptRounds::new(&node, &policy, &[], &[], machine.now);
        for past in [&past[0], &past[2]] {
            let evidence = store.evidence(&past.evidence).unwrap();
            let verdict = rounds.appraise(past, &evidence).unwrap();
            assert_eq!(verdict.pod(unnamed).unwrap().state, State::Pending, "{verdict}");
        }
    }

    /// A policy's workloads, of which none is called as any pod is.
    fn workloads(image: u8) -> String {
        format!(
            "version: 2
workloads:
  - {{name: x, match: {{namespace: x}}, containers: {{'*': {{references: [{}.json]}}}}}}
",
            pod(image)
        )
    }

    /// One round, which the store keeps.
    fn round(
        store: &Store,
        machine: &mut cgpath_testkit::Node,
        policy: &Policy,
        n: u8,
        previous: Option<NodeState>,
    ) -> Verdict {
        let nonce = [n; 32];
        let evidence = machine.attest(&nonce);
        let context = machine.context(&nonce, previous);
        let verdict = cgpath_appraisal::appraise(&evidence, policy, &context).unwrap();
        if n == 1 {
            let node = Node {
                ak_name: hex::encode(&verdict.node.key),
                ..Node::of_tests(NODE)
            };
            store.add_node(&node, false).unwrap();
        }
        let commit = Commit {
            node: NODE,
            version: store.round(NODE).unwrap().version,
            time: machine.now,
            trusted: verdict.trusted,
            nonce: &nonce,
            nonce_expires: machine.now + 1000,
            policy_digest: "",
            evidence: &store.keep_evidence(&evidence.to_cbor()).unwrap(),
            follows: None,
            verdict: &serde_json::to_string(&verdict).unwrap(),
            state: Some(&serde_json::to_vec(verdict.state.as_ref().unwrap()).unwrap()),
            changes: &[],
        };
        store.commit(&commit).unwrap();
        verdict
    }

    #[test]
    fn of_two_first_sights_the_earlier_one_counts_and_what_one_side_alone_has_is_kept() {
        let waits = |container: Option<&str>, seen| Waiting {
            uid: pod(1),
            container: container.map(str::to_owned),
            seen,
        };
        let again = [waits(None, 5), waits(Some("a"), 5), waits(Some("b"), 5)];
        let kept = [waits(None, 3), waits(Some("a"), 9), waits(Some("c"), 1)];
        let expected = [
            waits(Some("c"), 1),
            waits(None, 3),
            waits(Some("a"), 5),
            waits(Some("b"), 5),
        ];
        assert_eq!(carried(&again, &kept), expected);
    }
}
