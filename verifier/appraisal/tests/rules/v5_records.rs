//! V5: records, partitions, and the entries that they join.

use super::*;
use cgpath_evidence::Record;

#[test]
fn a_dropped_altered_doubled_reordered_or_added_record_is_refused() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let at = good.partitions.iter().position(|p| p.records.len() >= 3).unwrap();
    type Change = fn(&mut Vec<cgpath_evidence::Record>);
    let changes: [Change; 5] = [
        |r| {
            r.remove(1);
        },
        |r| r[1].uid = 1000,
        |r| r.insert(1, r[1].clone()),
        |r| r.swap(0, 1),
        |r| {
            r.push(cgpath_evidence::Record {
                seq: 1,
                ..r[0].clone()
            })
        },
    ];
    for change in changes {
        let mut evidence = good.clone();
        change(&mut evidence.partitions[at].records);
        disbelieved(&appraised(&node, &evidence), Rule::Records, "partitions root");
    }
}

#[test]
fn a_record_moved_to_another_pod_is_refused_even_if_the_collector_sealed_it_there() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let mut moved = good.clone();
    let from = moved
        .partitions
        .iter()
        .position(|p| p.key == PartitionKey::Pod(pod(3)))
        .unwrap();
    let to = moved
        .partitions
        .iter()
        .position(|p| p.key == PartitionKey::Pod(pod(4)))
        .unwrap();
    let record = moved.partitions[from].records.remove(0);
    moved.partitions[to].records.push(record);
    disbelieved(&appraised(&node, &moved), Rule::Records, "partitions root");

    let mut node = busy();
    for (key, _) in &mut node.waiting {
        if *key == PartitionKey::Pod(pod(3)) {
            *key = PartitionKey::Pod(pod(4));
        }
    }
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "its cgroup is that of",
    );
}

#[test]
fn a_dropped_a_doubled_and_an_empty_partition_are_refused() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let mut dropped = good.clone();
    dropped.partitions.remove(1);
    disbelieved(&appraised(&node, &dropped), Rule::Records, "partitions root");
    let mut doubled = good.clone();
    doubled.partitions.insert(1, good.partitions[1].clone());
    disbelieved(&appraised(&node, &doubled), Rule::Records, "twice");
    let mut empty = good;
    empty.partitions.push(cgpath_evidence::PartitionLog {
        key: PartitionKey::Unattributed,
        records: vec![],
    });
    disbelieved(&appraised(&node, &empty), Rule::Records, "without a record");
}

#[test]
fn the_boot_partition_holds_no_records() {
    let mut node = busy();
    for (key, _) in node
        .waiting
        .iter_mut()
        .filter(|(key, _)| *key == PartitionKey::Host)
    {
        *key = PartitionKey::Boot;
    }
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "boot partition holds records",
    );
}

#[test]
fn counts_that_are_not_those_of_the_records_are_refused() {
    type Change = fn(&mut cgpath_evidence::Checkpoint);
    let changes: [(Change, &str); 3] = [
        (|c| c.records += 1, "the records"),
        (|c| c.executions += 1, "the executions"),
        (|c| c.partitions += 1, "the partitions"),
    ];
    for (change, words) in changes {
        let mut node = busy();
        node.seal_with(Some(NONCE), change);
        let quote = node.quote(NONCE);
        let evidence = node.evidence(quote);
        disbelieved(&appraised(&node, &evidence), Rule::Records, words);
    }
}

#[test]
fn a_sequence_number_counts_once_and_within_what_was_handed_out() {
    let mut node = busy();
    let first = node.waiting[1].1.seq;
    node.waiting[2].1.seq = first;
    let evidence = node.attest(NONCE);
    disbelieved(&appraised(&node, &evidence), Rule::Records, "given twice");
    for seq in [0, 1_000_000] {
        let mut node = busy();
        node.waiting[2].1.seq = seq;
        let evidence = node.attest(NONCE);
        disbelieved(
            &appraised(&node, &evidence),
            Rule::Records,
            "not one that the last checkpoint knows",
        );
    }
}

#[test]
fn an_entry_whose_record_was_dropped_before_sealing_is_unattributed() {
    let mut node = busy();
    let dropped = node
        .waiting
        .iter()
        .position(|(_, r)| r.kind == EventKind::Entry && r.path == b"/usr/bin/tool")
        .unwrap();
    node.waiting.remove(dropped);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.unattributed, 1);
    let finding = disbelieved(&verdict, Rule::Records, "nobody knows who caused it");
    assert_eq!(finding.subject, Subject::Partition(PartitionKey::Unattributed));
    fails(&verdict, Rule::Records, "settled has no record");
}

/// A node with one entry that has no record and of which the collector does not claim otherwise.
fn with_one_unattributed(node: &mut Node, path: &str, content: &Digest) -> Evidence {
    let at = node.list.len() as u64;
    node.list.push(Measurement::ima_ng(path.as_bytes(), content));
    node.seal_with(None, |c| c.settled = at);
    node.seal_with(Some(NONCE), |c| c.settled = at);
    let quote = node.quote(NONCE);
    node.evidence(quote)
}

#[test]
fn unattributed_entries_are_tolerated_as_far_as_the_policy_says_and_appraised_as_the_hosts() {
    let mut node = busy();
    let evidence = with_one_unattributed(&mut node, "/usr/bin/runc", &sha256(b"/usr/bin/runc"));
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "nobody knows who caused it",
    );
    node.extra_policy += "tolerance: {unattributed: 1}\n";
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.unattributed, 1);

    let mut node = busy();
    node.extra_policy += "tolerance: {unattributed: 1}\n";
    let evidence = with_one_unattributed(&mut node, "/usr/bin/runc", &sha256(b"another runc"));
    fails(
        &appraised(&node, &evidence),
        Rule::Host,
        "not the one that the policy accepts",
    );
}

#[test]
fn an_entry_may_wait_for_its_record_for_one_checkpoint_and_not_for_two() {
    let mut node = busy();
    let at = node.list.len() as u64;
    node.list
        .push(Measurement::ima_ng(b"/usr/bin/runc", &sha256(b"/usr/bin/runc")));
    node.seal_with(Some(NONCE), |c| c.settled = at);
    let quote = node.quote(NONCE);
    let evidence = node.evidence(quote);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.pending, 2, "that entry and the checkpoint's own");

    node.seal_with(Some(NEXT), |c| c.settled = at);
    let quote = node.quote(NEXT);
    let evidence = node.evidence(quote);
    disbelieved(
        &appraised_next(&node, &evidence, &verdict.state.unwrap()),
        Rule::Records,
        "nobody knows who caused it",
    );
}

#[test]
fn an_unsealed_record_has_a_number_of_its_own_and_stands_in_its_cgroups_partition() {
    let shown = |change: fn(&mut [(PartitionKey, Record)])| {
        let mut node = busy();
        node.seal(Some(NONCE));
        for path in ["/usr/bin/runc", "/usr/bin/containerd"] {
            node.execute_good(&Actor::host("/sbin/init"), path);
        }
        // Of the checkpoint's file, and of an entry and an execution each.
        assert_eq!(node.waiting.len(), 5);
        change(&mut node.waiting);
        let quote = node.quote(NONCE);
        appraised(&node, &node.evidence(quote))
    };
    let verdict = shown(|_| ());
    assert!(verdict.trusted, "{verdict}");
    type Change = fn(&mut [(PartitionKey, Record)]);
    let numbers: [Change; 2] = [|w| w[1].1.seq = 1, |w| w[3].1.seq = w[1].1.seq];
    for change in numbers {
        disbelieved(
            &shown(change),
            Rule::Records,
            "an unsealed record has a number that was given before",
        );
    }
    disbelieved(
        &shown(|w| w[1].0 = PartitionKey::Pod(pod(1))),
        Rule::Records,
        "an unsealed record stands in a partition that is not its cgroup's",
    );
}

#[test]
fn a_record_whose_entry_is_not_in_the_list_is_refused() {
    let mut node = busy();
    let ghost = Measurement::ima_ng(b"/bin/app", &sha256(b"ghost"));
    node.record_entry(&Actor::pod(pod(3), "/bin/app"), "/bin/app", &ghost, 0);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    disbelieved(&verdict, Rule::Records, "does not stand in the covered part");
    // Beside the two of its files.
    assert_eq!(verdict.pod(pod(3)).unwrap().entries, 3);
}

#[test]
fn a_record_without_digests_or_with_those_of_two_entries_joins_nothing() {
    let mut node = busy();
    for (_, record) in node
        .waiting
        .iter_mut()
        .filter(|(_, r)| r.path == b"/usr/bin/tool")
    {
        record.digests.clear();
    }
    let evidence = node.attest(NONCE);
    disbelieved(&appraised(&node, &evidence), Rule::Records, "no template digest");

    let mut node = busy();
    let other = node.list[1].digest(Bank::Sha256);
    for (_, record) in node
        .waiting
        .iter_mut()
        .filter(|(_, r)| r.path == b"/usr/bin/tool")
    {
        if let Some(digest) = record.digests.get_mut(1) {
            *digest = other.clone();
        }
    }
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "not those of one entry",
    );

    // The right digests, and another register than the entry's.
    let mut node = busy();
    let is_it = |record: &Record| record.kind == EventKind::Entry && record.path == b"/usr/bin/tool";
    let record = node.waiting.iter_mut().find(|(_, record)| is_it(record));
    record.unwrap().1.pcr = 11;
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "not those of one entry",
    );

    // The zeros of a violation are no digest of an entry.
    let mut node = busy();
    node.extra_policy += "violations: {permit: ['/var/log/**']}\n";
    node.violate(&Actor::host("/sbin/init"), "/var/log/some");
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/runc");
    let is_it = |record: &Record| record.kind == EventKind::Entry && record.path == b"/usr/bin/runc";
    let record = node.waiting.iter_mut().find(|(_, record)| is_it(record));
    for digest in &mut record.unwrap().1.digests {
        *digest = Digest::zero(digest.bank());
    }
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "does not stand in the covered part",
    );
}

#[test]
fn one_entry_can_not_have_been_added_twice() {
    let mut node = busy();
    let entry = node
        .list
        .iter()
        .find(|m| m.data.ends_with(b"/usr/bin/tool\0"))
        .unwrap()
        .clone();
    node.record_entry(&Actor::host("/sbin/init"), "/usr/bin/tool", &entry, 0);
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "put the same entry into the list",
    );
}

#[test]
fn an_entry_with_records_of_refused_adds_only_still_lacks_the_one_that_added_it() {
    let mut node = busy();
    for (_, record) in node
        .waiting
        .iter_mut()
        .filter(|(_, r)| r.kind == EventKind::Entry && r.path == b"/usr/bin/tool")
    {
        record.ret = -17;
    }
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "nobody knows who caused it",
    );
}

#[test]
fn an_entry_that_the_kernel_failed_to_add_makes_its_pod_untrusted_and_no_other() {
    let mut node = busy();
    let ghost = Measurement::ima_ng(b"/bin/app", &sha256(b"ghost"));
    node.record_entry(&Actor::pod(pod(3), "/bin/app"), "/bin/app", &ghost, -12);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    fails(&verdict, Rule::Records, "could not add");
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Trusted, State::Untrusted, State::Trusted]
    );
}

#[test]
fn a_record_with_no_cgroup_is_nobodys_and_never_the_hosts() {
    let mut node = busy();
    node.execute_good(&Actor::lost("/sbin/init"), "/usr/bin/runc");
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    disbelieved(&verdict, Rule::Records, "cgroup is not known");
    assert_eq!(
        verdict.node.unattributed, 2,
        "the entry's record and the execution's"
    );
}

#[test]
fn what_was_sealed_before_the_last_round_can_not_be_sealed_anew_with_other_content() {
    let mut node = busy();
    let state = first_round(&mut node);
    // The collector itself rewrites history: everything it signs from now on agrees with itself.
    let records = node.sealed.get_mut(&PartitionKey::Pod(pod(4))).unwrap();
    records[1].hash = Some(FileHash::Measured(sha256(b"harmless")));
    let evidence = node.attest(NEXT);
    disbelieved(
        &appraised_next(&node, &evidence, &state),
        Rule::Records,
        "sealed were altered",
    );

    let mut node = busy();
    let state = first_round(&mut node);
    node.sealed.get_mut(&PartitionKey::Pod(pod(4))).unwrap().pop();
    node.seal_with(Some(NEXT), |c| {
        c.records += 1;
        c.executions += 1;
    });
    let quote = node.quote(NEXT);
    let evidence = node.evidence(quote);
    disbelieved(&appraised_next(&node, &evidence, &state), Rule::Records, "shrank");
}

#[test]
fn equal_entries_are_joined_in_turn_whatever_stands_between_their_records() {
    // A kernel without IMA's hash table lists a content again. Its second record comes behind that of a
    // later entry, so that it is looked for.
    let mut node = busy();
    let actor = Actor::host("/sbin/init");
    let entry = |path: &str| Measurement::ima_ng(path.as_bytes(), &sha256(path.as_bytes()));
    let [twice, once] = ["/usr/bin/runc", "/usr/bin/containerd"];
    node.list.extend([twice, twice, once].map(entry));
    for path in [twice, once, twice] {
        node.record_entry(&actor, path, &entry(path), 0);
    }
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
}

/// What is measured behind the last seal, and before the quote.
fn behind_the_seal(act: impl FnOnce(&mut Node)) -> Verdict {
    let mut node = busy();
    node.seal(Some(NONCE));
    act(&mut node);
    let quote = node.quote(NONCE);
    appraised(&node, &node.evidence(quote))
}

fn only_pod_2_is_untrusted(verdict: &Verdict) {
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert_eq!(
        states(verdict),
        [State::Trusted, State::Untrusted, State::Trusted, State::Trusted],
        "{verdict}"
    );
    assert_eq!(verdict.node.pending, 2, "that entry and the checkpoint's own");
}

#[test]
fn a_violation_that_is_not_sealed_yet_is_charged_to_the_pod_that_its_record_names() {
    let verdict = behind_the_seal(|node| node.violate(&Actor::pod(pod(2), "/bin/app"), "/lib/libc.so"));
    only_pod_2_is_untrusted(&verdict);
    fails(&verdict, Rule::Violations, "");
}

#[test]
fn an_unsealed_record_names_who_caused_an_entry_only_where_all_that_it_says_is_so() {
    let evil = |change: fn(&mut Record, &Measurement)| {
        behind_the_seal(|node| {
            node.measure(&Actor::pod(pod(2), "/bin/app"), "/tmp/evil", &sha256(b"rootkit"));
            let other = node.list[1].clone();
            change(&mut node.waiting.last_mut().unwrap().1, &other);
        })
    };
    only_pod_2_is_untrusted(&evil(|_, _| ()));
    let changes: [fn(&mut Record, &Measurement); 2] = [
        |record, other| record.digests[1] = other.digest(Bank::Sha256),
        |record, _| record.pcr = 11,
    ];
    for change in changes {
        let verdict = evil(change);
        fails(&verdict, Rule::Records, "nothing names who caused its entry");
        assert_eq!(verdict.node.state, State::Untrusted, "{verdict}");
    }
}

#[test]
fn an_entry_that_a_mark_may_explain_is_pending_as_one_that_nothing_explains_is() {
    let hidden = |n: usize| Measurement::ima_ng(format!("/tmp/{n}").as_bytes(), &sha256(b"rootkit"));
    only_pod_2_is_untrusted(&behind_the_seal(|node| {
        node.list.push(hidden(0));
        node.begin_entry(&Actor::pod(pod(2), "/bin/app"));
    }));
    // Beside that one, contents that somebody accepts.
    for (many, are_too_many) in [(0, false), (MAX_UNNAMED - 1, false), (MAX_UNNAMED, true)] {
        let verdict = behind_the_seal(|node| {
            node.list.push(hidden(0));
            for n in 0..many {
                let path = format!("/usr/lib/host-{n}").into_bytes();
                let content = sha256(&path);
                node.list.push(Measurement::ima_ng(&path, &content));
                node.host_files.insert(path, [content].into());
            }
        });
        fails(&verdict, Rule::Records, "nothing names who caused its entry");
        assert_eq!(
            verdict.node.pending,
            many as u64 + 2,
            "those, the hidden one and the checkpoint's own"
        );
        let is_said = |f: &Finding| f.text.starts_with("too many entries have neither");
        assert_eq!(verdict.failures().any(is_said), are_too_many, "{many}");
    }
}
