//! A root that comes late has the key that signs checkpoints, and chooses what they state and which records
//! they seal.
//!
//! What IMA measured stays in the list, so that each of these hides a content only if a verifier lets the
//! attester choose which entries it judges.

use super::{Life, busy, conclude};
use cgpath_appraisal::{MAX_HELD_SECONDS, MAX_UNNAMED, Rule, State, Verdict};
use cgpath_evidence::pending::MAX_IN_FLIGHT;
use cgpath_evidence::{Checkpoint, EventKind, FileHash, PodUid, Record};
use cgpath_testkit::{Actor, COLLECTOR, IMA_POLICY, Measurement, Node, pod, sha256};

/// IMA measures a content that nobody accepts, and no record of it is made.
fn hidden(node: &mut Node, path: &str) {
    node.list
        .push(Measurement::ima_ng(path.as_bytes(), &sha256(b"rootkit")));
}

/// Three rounds after the compromise: `act` before each, its checkpoint as `change` makes it of an honest one
/// and of the last one before. Nobody may trust the node in any of them.
#[track_caller]
fn sign_on(
    attack: &str,
    act: impl Fn(&mut Node, usize),
    change: impl Fn(&mut Checkpoint, &Checkpoint, usize),
) {
    let mut life = Life::begin(busy());
    let frozen = life.node.checkpoints.last().unwrap().checkpoint.clone();
    let mut wrong = Vec::new();
    for n in 0..3 {
        act(&mut life.node, n);
        let round = life.round_sealed(|checkpoint| change(checkpoint, &frozen, n));
        wrong.extend(round.trusted());
    }
    conclude(attack, &wrong);
}

fn one_a_round(node: &mut Node, n: usize) {
    hidden(node, &format!("/usr/bin/rootkit-{n}"));
}

#[test]
fn a_frozen_list_length_hides_no_entry() {
    sign_on("list-length-frozen", one_a_round, |c, frozen, _| {
        c.list_len = frozen.list_len;
        c.settled = frozen.settled;
    });
}

#[test]
fn a_frozen_settled_hides_no_entry() {
    sign_on("settled-frozen", one_a_round, |c, frozen, _| {
        c.settled = frozen.settled
    });
}

#[test]
fn a_frozen_list_length_hides_no_other_collector_module_or_policy() {
    let act = |node: &mut Node, n: usize| {
        if n == 0 {
            for path in [COLLECTOR, "/lib/modules/evil.ko", IMA_POLICY, "/tmp/rootkit"] {
                hidden(node, path);
            }
            node.list.push(Measurement::violation(b"/usr/lib/libc.so"));
        }
    };
    sign_on("foundations-swapped", act, |c, frozen, _| {
        c.list_len = frozen.list_len;
        c.settled = frozen.settled;
    });
}

#[test]
fn a_list_length_that_creeps_hides_no_entry() {
    sign_on("list-length-creeps", one_a_round, |c, frozen, n| {
        c.list_len = frozen.list_len + 1 + n as u64;
        c.settled = frozen.settled;
    });
}

/// Each checkpoint states the least that it may: up to the entry of the one before.
#[test]
fn a_list_length_that_just_covers_the_checkpoint_before_hides_no_entry() {
    let mut life = Life::begin(busy());
    let mut wrong = Vec::new();
    for n in 0..3 {
        let anchored = life.node.list.len() as u64;
        one_a_round(&mut life.node, n);
        let round = life.round_sealed(|c| {
            c.list_len = anchored;
            c.settled = anchored - 1;
        });
        wrong.extend(round.trusted());
    }
    conclude("list-length-least", &wrong);
}

#[test]
fn an_honest_checkpoint_without_the_record_hides_no_entry() {
    sign_on("record-withheld", one_a_round, |c, _, _| c.settled -= 1);
}

#[test]
fn an_honest_checkpoint_without_the_record_hides_no_violation() {
    let act = |node: &mut Node, n: usize| {
        let path = format!("/usr/lib/lib-{n}.so");
        node.list.push(Measurement::violation(path.as_bytes()));
    };
    sign_on("violation-withheld", act, |c, _, _| c.settled -= 1);
}

/// What stands behind the last checkpoint when the quote is made is not older than any checkpoint.
#[test]
fn what_was_measured_behind_the_last_checkpoint_is_not_hidden() {
    let mut life = Life::begin(busy());
    let mut wrong = Vec::new();
    for n in 0..2 {
        let nonce = life.nonce();
        life.node.seal(Some(&nonce));
        one_a_round(&mut life.node, n);
        wrong.extend(life.round_quoted().trusted());
    }
    conclude("behind-the-last-checkpoint", &wrong);
}

/// A pod executes new files all the time, before, during and after the seal: it alone is untrusted.
#[test]
fn a_pod_that_executes_new_files_in_each_round_is_untrusted_alone() {
    let mut life = Life::begin(busy());
    let actor = Actor::pod(pod(2), "/bin/app");
    let mut wrong = Vec::new();
    for round in 0..50 {
        let execute = |node: &mut Node, n: usize| {
            let path = format!("/tmp/{round}-{n}");
            node.execute(&actor, &path, &sha256(path.as_bytes()));
        };
        execute(&mut life.node, 0);
        let nonce = life.nonce();
        life.node.seal(Some(&nonce));
        execute(&mut life.node, 1);
        let round = life.round_quoted();
        let is_good = |n: u8| round.trusted_pods(&[n]).len() >= 3;
        let trusts = round
            .appraised
            .verdicts()
            .all(|(_, verdict)| verdict.node.state == State::Trusted);
        if !trusts || !is_good(1) || !is_good(3) || !is_good(4) {
            wrong.push(format!(
                "round {}: the node or a neighbour is not trusted",
                round.number
            ));
        }
        wrong.extend(round.trusted_pods(&[2]));
    }
    conclude("new-files-all-the-time", &wrong);
}

/// The same, with one thread held up inside of IMA for as long as it takes: its mark says whose it is.
#[test]
fn an_entry_whose_record_is_late_counts_for_the_pod_that_holds_it_up() {
    let mut life = Life::begin(busy());
    let actor = Actor::pod(pod(2), "/bin/app");
    let mut wrong = Vec::new();
    for n in 0..5 {
        if n == 1 {
            hidden(&mut life.node, "/tmp/held-up");
            life.node.begin_entry(&actor);
        }
        if n == 4 {
            let entry = Measurement::ima_ng(b"/tmp/held-up", &sha256(b"rootkit"));
            life.node.in_flight.clear();
            life.node.record_entry(&actor, "/tmp/held-up", &entry, 0);
        }
        let settled = life.node.settled();
        let round = life.round_sealed(|c| c.settled = settled);
        let trusts = round.appraised.whole.node.state == State::Trusted;
        if !trusts || round.trusted_pods(&[1]).is_empty() {
            wrong.push(format!(
                "round {}: the node or a neighbour is not trusted",
                round.number
            ));
        }
        if n > 0 {
            wrong.extend(round.trusted_pods(&[2]));
        }
    }
    conclude("late-record-with-a-mark", &wrong);
}

/// A mark explains one entry, and not all that its holder likes.
#[test]
fn a_mark_explains_one_entry_and_no_more() {
    let mut life = Life::begin(busy());
    life.node.begin_entry(&Actor::pod(pod(2), "/bin/app"));
    let mut wrong = Vec::new();
    for n in 0..3 {
        one_a_round(&mut life.node, n);
        let settled = life.node.settled();
        let round = life.round_sealed(|c| c.settled = settled);
        // The mark explains one entry. Nothing explains the second and those after it.
        if n > 0 {
            wrong.extend(round.trusted());
        }
        wrong.extend(round.trusted_pods(&[2]));
    }
    conclude("mark-for-many", &wrong);
}

/// A thread that is inside of IMA for hours holds its pod's account open, and no other's.
#[test]
fn a_mark_that_stays_open_makes_its_pod_untrusted_in_the_end() {
    let mut life = Life::begin(busy());
    let actor = Actor::pod(pod(2), "/bin/app");
    let libc = life.node.pod_files[&pod(2)][&b"/lib/libc.so".to_vec()]
        .first()
        .unwrap()
        .clone();
    life.node
        .pod_files
        .get_mut(&pod(2))
        .unwrap()
        .insert(b"/lib/m.so".to_vec(), [libc.clone()].into());
    let mut wrong = Vec::new();
    let entry = life.node.entry(&actor, "/lib/m.so", &libc);
    life.node.list.push(entry);
    life.node.begin_entry(&actor);
    life.ways = Default::default();
    for seconds in [0, 1, MAX_HELD_SECONDS - 2, 1] {
        life.now += seconds;
        let settled = life.node.settled();
        let round = life.round_sealed(|c| c.settled = settled);
        if !round.appraised.whole.trusted {
            wrong.push(format!(
                "round {}: held up for seconds, and not trusted",
                round.number
            ));
        }
    }
    life.now += 1;
    let settled = life.node.settled();
    let round = life.round_sealed(|c| c.settled = settled);
    wrong.extend(round.trusted_pods(&[2]));
    if round.appraised.whole.node.state != State::Trusted || round.trusted_pods(&[1]).is_empty() {
        wrong.push("the node or a neighbour is not trusted".into());
    }
    conclude("mark-stays-open", &wrong);
}

/// A round that is appraised whole and no other way.
fn whole(life: &mut Life) -> Verdict {
    let (settled, nonce) = (life.node.settled(), life.nonce());
    life.node.seal_with(Some(&nonce), |c| c.settled = settled);
    let (quote, context) = (life.node.quote(&nonce), life.context());
    let evidence = life.node.evidence(quote);
    cgpath_appraisal::appraise(&evidence, &life.node.policy(), &context).unwrap()
}

/// As many threads of a pod as there can be marks of are inside of IMA. One more has no mark: what it adds is
/// nobody's.
#[test]
fn as_many_marks_as_there_can_be_charge_their_pod_and_one_entry_more_fails_the_node() {
    let mut life = Life::begin(busy());
    let actor = Actor::pod(pod(2), "/bin/app");
    for n in 0..MAX_IN_FLIGHT {
        hidden(&mut life.node, &format!("/tmp/held-{n}"));
        life.node.begin_entry(&actor);
    }
    let verdict = whole(&mut life);
    let held = verdict.pod(pod(2)).unwrap();
    assert_eq!(held.state, State::Untrusted);
    let more = held.findings.last().unwrap();
    assert!(more.text.contains("65436 more"), "{more:?}");
    for n in [1, 3, 4] {
        assert_eq!(verdict.pod(pod(n)).unwrap().state, State::Trusted);
    }
    let failing: Vec<_> = verdict
        .node
        .findings
        .iter()
        .filter(|f| f.rule == Rule::Records)
        .collect();
    assert_eq!(verdict.node.state, State::Trusted, "{failing:?}");
    hidden(&mut life.node, "/tmp/one-more");
    let verdict = whole(&mut life);
    assert_eq!(verdict.node.state, State::Untrusted);
    let mut named = verdict.node.findings.iter();
    let is_it = |path: &[u8]| path == b"/tmp/one-more";
    assert!(named.any(|f| f.rule == Rule::Records && f.path.as_deref().is_some_and(is_it)));
    assert_eq!(verdict.pod(pod(2)).unwrap().state, State::Untrusted);
}

/// Marks of as many pods as there can be marks: each entry would be charged to each of them.
#[test]
fn marks_of_more_pods_than_can_be_charged_fail_the_node() {
    let mut life = Life::begin(busy());
    for n in 0..MAX_IN_FLIGHT as u128 {
        let uid = PodUid((0xabcd << 112 | n).to_be_bytes());
        life.node.begin_entry(&Actor::pod(uid, "/bin/app"));
    }
    for n in 0..2000 {
        hidden(&mut life.node, &format!("/tmp/held-{n}"));
    }
    let verdict = whole(&mut life);
    assert_eq!(verdict.node.state, State::Untrusted);
    let says = |text: &str| verdict.node.findings.iter().any(|f| f.text.starts_with(text));
    assert!(says("threads of so many partitions hold records back"));
    // The first entry is charged to each of them, and nothing to those that no mark names.
    assert_eq!(verdict.pods.len(), MAX_IN_FLIGHT + 4);
    let charges = verdict.pods.iter().flat_map(|pod| &pod.findings);
    let charges = charges.filter(|f| f.rule == Rule::PodContents).count();
    assert_eq!(charges, MAX_IN_FLIGHT);
    for n in 1..=4 {
        assert!(!verdict.pod(pod(n)).unwrap().charged);
    }
}

/// Contents that somebody accepts may wait for their records, but not any number of them.
#[test]
fn not_any_number_of_entries_may_be_pending() {
    let mut wrong = Vec::new();
    for (many, may_be) in [(MAX_UNNAMED, true), (MAX_UNNAMED + 1, false)] {
        let mut life = Life::begin(busy());
        for n in 0..many {
            let path = format!("/usr/lib/host-{n}").into_bytes();
            let content = sha256(&path);
            life.node
                .host_files
                .insert(path.clone(), [content.clone()].into());
            life.node.list.push(Measurement::ima_ng(&path, &content));
        }
        // Known from the beginning: another policy begins anew.
        life.ways = Default::default();
        let verdict = whole(&mut life);
        if verdict.trusted != may_be {
            wrong.push(format!("{many} entries without a record: {verdict}"));
        }
        let is_said = verdict.failures().any(|f| f.text.contains("too many entries"));
        if is_said == may_be {
            wrong.push(format!("{many} entries are not said to be too many: {verdict}"));
        }
    }
    conclude("pending-without-end", &wrong);
}

/// What was shown before it was sealed is sealed as it was shown.
#[test]
fn a_record_that_was_shown_unsealed_is_sealed_unchanged() {
    type Change = fn(&mut Record);
    let changes: [(&str, Change); 4] = [
        ("another pod", |r| {
            r.cgroup = Actor::pod(pod(3), "/bin/app").cgroup
        }),
        ("another process", |r| r.ancestry[0].exe = b"/bin/other".to_vec()),
        ("another number", |r| r.seq += 40),
        ("another file", |r| r.ino += 1),
    ];
    let mut wrong = Vec::new();
    for (what, change) in changes {
        let mut life = Life::begin(busy());
        let actor = Actor::pod(pod(2), "/bin/app");
        let libc = life.node.pod_files[&pod(2)][&b"/lib/libc.so".to_vec()]
            .first()
            .unwrap()
            .clone();
        let nonce = life.nonce();
        life.node.seal(Some(&nonce));
        // An entry anew, of a content that pods 1 and 2 and no other accepts.
        life.node
            .pod_files
            .get_mut(&pod(2))
            .unwrap()
            .insert(b"/lib/m.so".to_vec(), [libc.clone()].into());
        life.node
            .pod_files
            .get_mut(&pod(3))
            .unwrap()
            .insert(b"/lib/m.so".to_vec(), [libc.clone()].into());
        life.node.measure(&actor, "/lib/m.so", &libc);
        assert!(life.round_quoted().appraised.whole.trusted, "{what}: before");
        let (key, record) = life.node.waiting.last_mut().unwrap();
        change(record);
        *key = cgpath_evidence::cgroup::partition_of(record.cgroup.as_deref());
        life.node.seq += 40;
        let round = life.round();
        wrong.extend(round.trusted().into_iter().map(|who| format!("{what}: {who}")));
    }
    conclude("sealed-otherwise", &wrong);
}

/// And it may not be left out.
#[test]
fn a_record_that_was_shown_unsealed_is_sealed_at_all() {
    let mut life = Life::begin(busy());
    let actor = Actor::pod(pod(2), "/bin/app");
    let nonce = life.nonce();
    life.node.seal(Some(&nonce));
    let evil = sha256(b"rootkit");
    life.node.execute(&actor, "/tmp/evil", &evil);
    let first = life.round_quoted();
    let mut wrong = first.trusted_pods(&[2]);
    let is_of_entry = |record: &Record| record.kind == EventKind::Entry && record.path == b"/tmp/evil";
    life.node.waiting.retain(|(_, record)| !is_of_entry(record));
    life.node
        .waiting
        .retain(|(_, record)| record.hash != Some(FileHash::Measured(evil.clone())));
    let settled = life.node.settled();
    let round = life.round_sealed(|c| c.settled = settled);
    wrong.extend(round.trusted());
    conclude("shown-and-not-sealed", &wrong);
}
