//! A node that is followed gives the verdicts that it would give if everything were sent each time; and what
//! does not follow is distinguished.

use cgpath_appraisal::follow::{self, Follower, Mismatch};
use cgpath_appraisal::{Context, NodeState, Rule, Severity, Verdict, appraise};
use cgpath_evidence::{
    Bank, Cursor, EventKind, Evidence, EvidenceDelta, FileHash, JoinError, SealedCheckpoint,
};
use cgpath_policy::Policy;
use cgpath_refvals::learned_boot::from_boot;
use cgpath_testkit::{Actor, KeyKind, Measurement, Node, delta_after, pod, sha256, tpm};
use proptest::prelude::*;

const BASE: [u8; 32] = [7; 32];

/// One step of a node's life between two rounds.
#[derive(Debug, Clone)]
enum Step {
    /// A pod runs a file of its image.
    Run(u8, bool),
    /// The host measures a new file.
    Host(u16),
    /// A pod runs what nobody accepts.
    Wrong(u8),
    /// Someone in the pod's cgroup that no runtime put there.
    Intruder(u8),
    /// A pod that no policy knows.
    Stranger,
    /// A violation.
    Violation,
    /// A checkpoint that no request asked for.
    Seal,
    /// A record without a hash.
    Unhashed(u8),
    /// An entry whose record is late.
    Late(u16),
}

/// A round holds usual things, or one that is not.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let usual = prop_oneof![
        6 => (1u8..5, any::<bool>()).prop_map(|(n, lib)| Step::Run(n, lib)),
        4 => (0u16..400).prop_map(Step::Host),
        2 => Just(Step::Seal),
        1 => (0u16..400).prop_map(Step::Late),
    ];
    let unusual = prop_oneof![
        (1u8..5).prop_map(Step::Wrong),
        (1u8..5).prop_map(Step::Intruder),
        Just(Step::Stranger),
        Just(Step::Violation),
        (1u8..5).prop_map(Step::Unhashed),
    ];
    prop_oneof![
        5 => prop::collection::vec(usual.clone(), 0..8),
        1 => (prop::collection::vec(usual, 0..4), unusual).prop_map(|(mut steps, odd)| {
            steps.push(odd);
            steps
        }),
    ]
}

fn boot() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
    let good = node.clone().attest(b"a boot to learn from").boot.unwrap();
    node.extra_policy = from_boot(&good).unwrap().yaml();
    for n in 0..400 {
        let path = format!("/usr/lib/host-{n}").into_bytes();
        node.host_files.insert(path, [sha256(&[n as u8, 9])].into());
    }
    node
}

fn act(node: &mut Node, step: &Step) {
    let app = |n: u8| Actor::pod(pod(n), "/bin/app");
    match step {
        Step::Run(n, true) => node.execute_good(&app(*n), "/lib/libc.so"),
        Step::Run(n, false) => node.execute_good(&app(*n), "/bin/app"),
        Step::Host(n) => {
            let path = format!("/usr/lib/host-{n}");
            node.measure(&Actor::host("/sbin/init"), &path, &sha256(&[*n as u8, 9]));
        }
        Step::Wrong(n) => node.execute(&app(*n), "/bin/app", &sha256(b"wrong")),
        Step::Intruder(n) => node.execute_good(&Actor::intruder(pod(*n), "/bin/app"), "/bin/app"),
        Step::Stranger => node.execute(&app(9), "/bin/any", &sha256(b"any")),
        Step::Violation => node.violate(&Actor::host("/sbin/init"), "/var/log/some"),
        Step::Seal => node.seal(None),
        Step::Unhashed(n) => {
            node.record_execution(&app(*n), EventKind::Execution, "/bin/app", FileHash::Unhashed(-5));
        }
        Step::Late(n) => {
            let path = format!("/usr/lib/host-{n}");
            let entry = Measurement::ima_ng(path.as_bytes(), &sha256(&[*n as u8, 9]));
            if !node.list.contains(&entry) {
                node.list.push(entry);
            }
        }
    }
}

fn at(state: &NodeState, base: [u8; 32]) -> Cursor {
    follow::cursor(state, base).unwrap()
}

fn nonce(round: usize) -> Vec<u8> {
    format!("the nonce of round {round}").into_bytes()
}

struct Round {
    evidence: Evidence,
    policy: Policy,
    context: Context,
    verdict: Verdict,
}

impl Round {
    /// What goes on from this round, if something can.
    fn follower(&self) -> Option<Follower> {
        let Round {
            evidence,
            policy,
            context,
            verdict,
        } = self;
        let (begun, follower) = Follower::begin(evidence, policy, context, &[], context.now).unwrap();
        assert_eq!(begun, *verdict);
        follower
    }
}

fn round(node: &mut Node, number: usize, previous: Option<NodeState>) -> Round {
    let evidence = node.attest(&nonce(number));
    let (policy, context) = (node.policy(), node.context(&nonce(number), previous));
    let verdict = appraise(&evidence, &policy, &context).unwrap();
    Round {
        evidence,
        policy,
        context,
        verdict,
    }
}

/// Runs a life; gives how many rounds the follower judged.
fn live(life: &[Vec<Step>]) -> usize {
    let mut node = boot();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let first = round(&mut node, 0, None);
    let mut kept = first.evidence.clone();
    let mut state = first.verdict.state.clone().unwrap();
    let mut follower = first.follower();
    assert!(follower.is_some(), "a usual node can be followed");
    let mut followed = 0;
    for (n, steps) in life.iter().enumerate() {
        steps.iter().for_each(|step| act(&mut node, step));
        let now = round(&mut node, n + 1, Some(state.clone()));
        let delta = delta_after(&now.evidence, &kept, at(&state, BASE));
        assert_eq!(EvidenceDelta::from_cbor(&delta.to_cbor()), Ok(delta.clone()));
        let whole = delta.clone().join(kept).unwrap();
        assert_eq!(whole, now.evidence, "the parts are the whole");
        let appraised = follower
            .as_mut()
            .and_then(|follower| follower.advance(&delta, &now.policy, &now.context, &[]));
        match appraised {
            Some(verdict) => {
                assert_eq!(*verdict, now.verdict, "round {n}: {steps:?}");
                followed += 1;
            }
            None => follower = now.follower(),
        }
        let Some(next) = now.verdict.state else { break };
        (kept, state) = (now.evidence, next);
    }
    followed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_followed_round_has_the_verdict_of_the_whole_evidence(life in prop::collection::vec(steps(), 1..8)) {
        live(&life);
    }
}

#[test]
fn usual_rounds_are_followed_and_cost_no_appraisal() {
    let usual = vec![
        Step::Run(1, false),
        Step::Run(2, true),
        Step::Host(3),
        Step::Seal,
        Step::Host(4),
    ];
    let life = [usual, vec![], vec![Step::Run(1, true)], vec![Step::Host(9)]];
    assert_eq!(live(&life), life.len());
}

/// A node after two rounds: what is kept of the first, and the delta that the second is.
fn second() -> (Node, Round, EvidenceDelta, Round) {
    let mut node = boot();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let first = round(&mut node, 0, None);
    for step in [
        Step::Run(2, false),
        Step::Host(1),
        Step::Host(2),
        Step::Run(1, true),
    ] {
        act(&mut node, &step);
    }
    let state = first.verdict.state.clone().unwrap();
    let now = round(&mut node, 1, Some(state.clone()));
    let delta = delta_after(&now.evidence, &first.evidence, at(&state, BASE));
    (node, first, delta, now)
}

/// What both ways of judging say of a delta that somebody changed: an untrusted verdict, or no evidence at
/// all.
fn must_fail(what: &str, change: impl FnOnce(&mut EvidenceDelta)) {
    let (_, first, mut delta, now) = second();
    change(&mut delta);
    let mut follower = first.follower().unwrap();
    assert!(
        follower.advance(&delta, &now.policy, &now.context, &[]).is_none(),
        "{what}: followed"
    );
    if let Ok(whole) = delta.join(first.evidence) {
        let verdict = appraise(&whole, &now.policy, &now.context).unwrap();
        assert!(!verdict.trusted, "{what}");
        assert_eq!(verdict.state, None, "{what}: nothing is taken from it");
    }
}

#[test]
fn a_part_that_skips_alters_or_reorders_anything_fails() {
    must_fail("a skipped entry", |delta| drop(delta.list.remove(0)));
    must_fail("a skipped last entry", |delta| drop(delta.list.pop()));
    must_fail("entries in another order", |delta| delta.list.swap(0, 1));
    must_fail("an entry twice", |delta| {
        delta.list.insert(0, delta.list[0].clone())
    });
    must_fail("a shorter list", |delta| delta.list.clear());
    must_fail("no checkpoint", |delta| delta.checkpoints.clear());
    must_fail("a checkpoint twice", |delta| {
        delta.checkpoints.push(delta.checkpoints[0].clone())
    });
    must_fail("a skipped record", |delta| {
        drop(delta.partitions[0].records.pop())
    });
    must_fail("a record twice", |delta| {
        let again = delta.partitions[0].records[0].clone();
        delta.partitions[0].records.push(again);
    });
    must_fail("a partition left out", |delta| drop(delta.partitions.pop()));
    must_fail("a partition twice", |delta| {
        delta.partitions.push(delta.partitions[0].clone())
    });
    must_fail("a record in another pod's partition", |delta| {
        let record = delta.partitions[0].records.pop().unwrap();
        delta.partitions[1].records.push(record);
    });
    must_fail("another signature", |delta| {
        *tpm(&mut delta.quote).signature.last_mut().unwrap() ^= 1
    });
    must_fail("a position that claims fewer entries", |delta| {
        delta.from.entries -= 1
    });
    must_fail("a position that claims more entries", |delta| {
        delta.from.entries += 1
    });
    must_fail("a position that claims more entries than there are", |delta| {
        delta.from.entries = u64::MAX
    });
    must_fail("a position at an earlier checkpoint", |delta| {
        delta.from.checkpoint -= 1
    });
    must_fail("another boot", |delta| delta.boot_id = [9; 16]);
}

#[test]
fn a_part_over_another_prefix_fails_though_it_is_whole_in_itself() {
    let (_, first, delta, now) = second();
    // The verifier keeps another node's beginning of the same length: the same files, in another order.
    let mut other = first.evidence.clone();
    let last = other.list.len() - 1;
    other.list.swap(last - 1, last - 2);
    let whole = delta.join(other).unwrap();
    let verdict = appraise(&whole, &now.policy, &now.context).unwrap();
    assert!(!verdict.trusted && verdict.state.is_none());
    assert!(
        verdict
            .node
            .findings
            .iter()
            .any(|f| f.rule == Rule::Coverage && f.severity == Severity::Fail)
    );
}

#[test]
fn a_repeated_nonce_a_loss_and_another_policy_are_not_followed() {
    let (mut node, first, delta, now) = second();
    let follower = || first.follower().unwrap();
    let again = node.context(&nonce(0), first.verdict.state.clone());
    assert!(follower().advance(&delta, &now.policy, &again, &[]).is_none());
    assert!(
        follower()
            .advance(&delta, &node.policy(), &now.context, &[])
            .is_some()
    );
    node.extra_policy += "tolerance: {lost: 1}\n";
    assert!(
        follower()
            .advance(&delta, &node.policy(), &now.context, &[])
            .is_none()
    );
    node.losses.reserve = 1;
    let state = now.verdict.state.clone().unwrap();
    let lossy = round(&mut node, 2, Some(state.clone()));
    let mut follower = follower();
    follower.advance(&delta, &now.policy, &now.context, &[]).unwrap();
    let delta = delta_after(&lossy.evidence, &now.evidence, at(&state, BASE));
    assert!(
        follower
            .advance(&delta, &now.policy, &lossy.context, &[])
            .is_none()
    );
}

#[test]
fn what_does_not_follow_is_told_apart_by_name() {
    let (mut node, first, delta, now) = second();
    let state = first.verdict.state.clone().unwrap();
    let kept = follow::cursor(&state, BASE).unwrap();
    let resets = (state.reset_count, state.reset_count);
    let kind = |delta: &EvidenceDelta, kept: Option<&_>, resets| {
        follow::follows(delta, kept, resets).map_err(|e| e.kind())
    };
    assert_eq!(kind(&delta, Some(&kept), resets), Ok(()));
    assert_eq!(kind(&delta, None, resets), Err("nothing-kept"));
    let later = follow::cursor(now.verdict.state.as_ref().unwrap(), [8; 32]).unwrap();
    assert_eq!(kind(&delta, Some(&later), resets), Err("round-repeated"));
    let next = round(&mut node, 2, now.verdict.state.clone());
    let after = delta_after(&next.evidence, &now.evidence, later.clone());
    assert_eq!(kind(&after, Some(&kept), resets), Err("round-lost"));
    for change in [
        (|delta: &mut EvidenceDelta| delta.from.base = [1; 32]) as fn(&mut EvidenceDelta),
        |delta| delta.from.digest = [1; 32],
        |delta| delta.from.entries -= 1,
    ] {
        let mut other = delta.clone();
        change(&mut other);
        assert_eq!(kind(&other, Some(&kept), resets), Err("other-position"));
    }
    let mut other = delta.clone();
    other.boot_id = [9; 16];
    assert_eq!(
        kind(&other, Some(&kept), (resets.0, resets.0 + 1)),
        Err("rebooted")
    );
    assert_eq!(kind(&other, Some(&kept), resets), Err("kexec"));
    let mismatch = follow::follows(&other, Some(&kept), resets).unwrap_err();
    assert!(matches!(mismatch, Mismatch::Kexec { .. }));
    assert_eq!(other.join(first.evidence.clone()), Err(JoinError::Boot));
    let mut ahead = delta.clone();
    ahead.from.checkpoint += 1;
    assert_eq!(ahead.join(first.evidence), Err(JoinError::Checkpoint));
}

#[test]
fn a_list_that_was_cut_is_named_and_is_appraised_whole_where_its_beginning_is_kept() {
    let (mut node, first, _, now) = second();
    for cut in [1, 3, first.evidence.list.len() - 1, first.evidence.list.len()] {
        let mut evidence = now.evidence.clone();
        evidence.list.drain(..cut);
        let verdict = appraise(&evidence, &now.policy, &now.context).unwrap();
        assert!(!verdict.trusted);
        assert!(verdict.to_string().contains("the list was cut"), "{verdict}");
        assert_eq!(follow::uncut(&mut evidence, &first.evidence), Some(cut));
        assert_eq!(evidence, now.evidence);
    }
    // What was cut and is kept by nobody, or was changed after the cut, stays a failure.
    let mut evidence = now.evidence.clone();
    assert_eq!(follow::uncut(&mut evidence, &first.evidence), None, "it is whole");
    evidence.list.drain(..4);
    let last = first.evidence.list.len() - 5;
    evidence.list.swap(last, last - 1);
    assert_eq!(follow::uncut(&mut evidence, &first.evidence), None);
    node.reboot();
    let mut other = node.attest(&nonce(5));
    other.list.drain(..2);
    assert_eq!(follow::uncut(&mut other, &first.evidence), None, "another boot");
    // More is gone than what is kept: it goes on where that ends, and does not replay.
    let mut evidence = now.evidence.clone();
    evidence.list.drain(..first.evidence.list.len() + 1);
    assert_eq!(
        follow::uncut(&mut evidence, &first.evidence),
        Some(first.evidence.list.len())
    );
    assert!(!appraise(&evidence, &now.policy, &now.context).unwrap().trusted);
}

#[test]
fn a_part_that_joins_keeps_what_the_first_round_sealed_in_its_place() {
    let (_, first, delta, now) = second();
    let whole = delta.join(first.evidence.clone()).unwrap();
    assert_eq!(whole.to_cbor(), now.evidence.to_cbor());
    let last = SealedCheckpoint::from_file(whole.checkpoints.last().unwrap()).unwrap();
    assert_eq!(last.checkpoint.number as usize + 1, whole.checkpoints.len());
    assert!(whole.list.starts_with(&first.evidence.list));
}

#[test]
fn a_round_on_other_registers_is_for_the_appraisal_which_refuses_it() {
    let mut node = boot();
    let first = round(&mut node, 0, None);
    assert!(first.verdict.trusted, "{}", first.verdict);
    let state = first.verdict.state.clone().unwrap();
    let mut follower = first.follower().unwrap();
    // Somebody extends PCR 9 later; a delta says nothing of the log, which is the one that is kept.
    node.boot.as_mut().unwrap().add_command_line("init=/bin/sh");
    let now = round(&mut node, 1, Some(state.clone()));
    let delta = delta_after(&now.evidence, &first.evidence, at(&state, BASE));
    assert!(follower.advance(&delta, &now.policy, &now.context, &[]).is_none());
    let whole = delta.join(first.evidence).unwrap();
    let verdict = appraise(&whole, &now.policy, &now.context).unwrap();
    assert!(
        verdict
            .failures()
            .any(|f| f.rule == Rule::Boot && f.text.contains("does not replay to the quoted PCR 9"))
    );
}

#[test]
fn nothing_follows_what_is_not_believed() {
    let mut node = boot();
    node.losses.reserve = 1;
    let evidence = node.attest(&nonce(0));
    let (policy, context) = (node.policy(), node.context(&nonce(0), None));
    let (verdict, follower) = Follower::begin(&evidence, &policy, &context, &[], context.now).unwrap();
    assert!(!verdict.node.believed && follower.is_none(), "{verdict}");
}

#[test]
fn what_is_kept_of_a_node_weighs_about_what_it_takes() {
    let weight = |change: &dyn Fn(&mut Node)| {
        let mut node = boot();
        change(&mut node);
        let evidence = node.attest(&nonce(0));
        let (policy, context) = (node.policy(), node.context(&nonce(0), None));
        let (_, follower) = Follower::begin(&evidence, &policy, &context, &[], context.now).unwrap();
        follower.unwrap().weight()
    };
    let little = weight(&|_| ());
    let entries = weight(&|node| (0..100).for_each(|n| act(node, &Step::Host(n))));
    let app = Actor::pod(pod(1), "/bin/app");
    let files = weight(&|node| {
        for n in 0..100 {
            let path = format!("/tmp/{n}");
            node.record_execution(
                &app,
                EventKind::Execution,
                &path,
                FileHash::Measured(sha256(b"any")),
            );
        }
    });
    // Who used a file of the host that is as it should be is kept, too: somebody may write it later.
    let users = weight(&|node| {
        for n in 0..100 {
            node.record_execution(
                &Actor::host("/sbin/init"),
                EventKind::Execution,
                format!("/usr/lib/host-{n}"),
                FileHash::Measured(sha256(&[n, 9])),
            );
        }
    });
    // Each is some hundred bytes, and none takes away from another.
    for more in [entries - little, files - little, users - little] {
        assert!((100 * 100..100 * 2000).contains(&more), "{more}");
    }
    let both = weight(&|node| {
        (0..100).for_each(|n| act(node, &Step::Host(n)));
        node.record_execution(
            &app,
            EventKind::Execution,
            "/tmp/any",
            FileHash::Measured(sha256(b"any")),
        );
    });
    assert!((entries + 1..entries + 2000).contains(&both), "{both}");
}

/// A kernel without IMA's hash table lists a content again. What the second entry is of is a question of the
/// whole list.
#[test]
fn an_entry_that_is_listed_again_in_a_later_round_is_for_the_appraisal() {
    let mut node = boot();
    act(&mut node, &Step::Host(1));
    let first = round(&mut node, 0, None);
    let state = first.verdict.state.clone().unwrap();
    let again = Measurement::ima_ng(b"/usr/lib/host-1", &sha256(&[1, 9]));
    assert!(node.list.contains(&again));
    node.list.push(again.clone());
    node.record_entry(&Actor::host("/sbin/init"), "/usr/lib/host-1", &again, 0);
    let now = round(&mut node, 1, Some(state.clone()));
    assert!(now.verdict.trusted, "{}", now.verdict);
    let delta = delta_after(&now.evidence, &first.evidence, at(&state, BASE));
    let mut follower = first.follower().unwrap();
    assert!(follower.advance(&delta, &now.policy, &now.context, &[]).is_none());
}

/// The collector seals once more between the checkpoint of a request and the quote, and sends that one with
/// the next round: its entry was covered before.
#[test]
fn a_checkpoint_that_was_measured_a_round_before_it_is_sent_is_found_where_it_stands() {
    let mut node = boot();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let first = round(&mut node, 0, None);
    let state = first.verdict.state.clone().unwrap();
    let mut follower = first.follower().unwrap();

    node.seal(Some(&nonce(1)));
    let quote = node.quote(&nonce(1));
    let sent = node.evidence(quote);
    node.seal(None);
    let quote = node.quote(&nonce(1));
    let later = node.evidence(quote);
    let mut unsealed = sent.unsealed.clone();
    unsealed[0]
        .records
        .extend(later.unsealed[0].records.iter().cloned());
    let evidence = Evidence {
        quote: later.quote,
        list: later.list,
        unsealed,
        ..sent
    };
    let (policy, context) = (node.policy(), node.context(&nonce(1), Some(state.clone())));
    let verdict = appraise(&evidence, &policy, &context).unwrap();
    let between = verdict.state.clone().expect("nothing is wrong with the evidence");
    let delta = delta_after(&evidence, &first.evidence, at(&state, BASE));
    let followed = follower.advance(&delta, &policy, &context, &[]);
    assert_eq!(*followed.unwrap(), verdict);

    let now = round(&mut node, 2, Some(between.clone()));
    assert!(now.verdict.trusted, "{}", now.verdict);
    let delta = delta_after(&now.evidence, &evidence, at(&between, BASE));
    assert_eq!(delta.checkpoints.len(), 2);
    let followed = follower.advance(&delta, &now.policy, &now.context, &[]);
    assert_eq!(*followed.expect("it is followed"), now.verdict);
}

/// The holder of the key seals a record under a number that an earlier round's has: only the whole shows it.
#[test]
fn a_number_that_was_given_in_an_earlier_round_is_for_the_appraisal_which_refuses_it() {
    let mut node = boot();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let first = round(&mut node, 0, None);
    let state = first.verdict.state.clone().unwrap();
    node.execute_good(&Actor::pod(pod(2), "/bin/app"), "/bin/app");
    node.waiting.last_mut().unwrap().1.seq = 2;
    let now = round(&mut node, 1, Some(state.clone()));
    let says = |f: &cgpath_appraisal::Finding| f.rule == Rule::Records && f.text.contains("given twice");
    assert!(now.verdict.failures().any(says), "{}", now.verdict);
    let delta = delta_after(&now.evidence, &first.evidence, at(&state, BASE));
    let mut follower = first.follower().unwrap();
    assert!(follower.advance(&delta, &now.policy, &now.context, &[]).is_none());
}

/// An entry that stands where its record lets expect it is joined by whatever digests the record has.
#[test]
fn records_without_a_digest_of_sha_1_are_followed() {
    let mut node = boot();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let first = round(&mut node, 0, None);
    let state = first.verdict.state.clone().unwrap();
    // What was shown unsealed stays as it is.
    let shown = node.waiting.len();
    node.execute_good(&Actor::pod(pod(3), "/bin/app"), "/bin/app");
    for (_, record) in node.waiting.iter_mut().skip(shown) {
        record.digests.retain(|digest| digest.bank() != Bank::Sha1);
    }
    let now = round(&mut node, 1, Some(state.clone()));
    assert!(now.verdict.trusted, "{}", now.verdict);
    let delta = delta_after(&now.evidence, &first.evidence, at(&state, BASE));
    let mut follower = first.follower().unwrap();
    let followed = follower.advance(&delta, &now.policy, &now.context, &[]);
    assert_eq!(*followed.expect("it is followed"), now.verdict);
}
