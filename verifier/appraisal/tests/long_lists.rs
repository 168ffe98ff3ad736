//! Lists longer than what one thread takes at once: the same verdicts as on short ones.

use cgpath_appraisal::{Rule, Verdict, appraise};
use cgpath_evidence::{Digest, Entry, Evidence};
use cgpath_testkit::{Actor, KeyKind, Measurement, Node, pod, sha256};

const NONCE: &[u8] = b"a nonce of this request";
/// More than coverage looks back over at once, and than some batches of entries and of records.
const MANY: u64 = 5000;

fn path(n: u64) -> String {
    format!("/usr/lib/many/{n}")
}

fn content(n: u64) -> Digest {
    sha256(&n.to_le_bytes())
}

fn use_file(node: &mut Node, n: u64) {
    let actor = Actor::host("/usr/lib/systemd/systemd");
    let entry = Measurement::ima_ng(path(n).as_bytes(), &content(n));
    node.list.push(entry.clone());
    node.record_entry(&actor, path(n), &entry, 0);
}

fn node() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    for n in 0..MANY {
        node.host_files.insert(path(n).into_bytes(), [content(n)].into());
    }
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    (0..MANY).for_each(|n| use_file(&mut node, n));
    node
}

fn appraised(node: &Node, evidence: &Evidence) -> Verdict {
    appraise(evidence, &node.policy(), &node.context(NONCE, None)).unwrap()
}

fn later(n: u64) -> Entry {
    Measurement::ima_ng(format!("/later/{n}").as_bytes(), &content(n)).to_entry()
}

fn failed(verdict: &Verdict, rule: Rule, text: &str) -> Option<u64> {
    assert!(!verdict.trusted);
    let found = verdict
        .node
        .findings
        .iter()
        .find(|f| f.rule == rule && f.text.contains(text));
    found
        .unwrap_or_else(|| panic!("{rule:?} {text}:\n{verdict}"))
        .index
}

#[test]
fn the_quote_is_found_however_far_the_list_has_gone_on_since() {
    let mut node = node();
    let quoted = node.attest(NONCE);
    for ahead in [0, 4095, 4096, 5000] {
        let mut evidence = quoted.clone();
        evidence.list.extend((0..ahead).map(later));
        let verdict = appraised(&node, &evidence);
        assert!(verdict.trusted, "{ahead} ahead\n{verdict}");
        assert_eq!(verdict.node.covered, quoted.list.len() as u64, "{ahead} ahead");
        assert_eq!(verdict.node.entries, evidence.list.len() as u64);
    }
}

#[test]
fn one_altered_entry_among_many_is_found_wherever_it_stands() {
    let mut node = node();
    let good = node.attest(NONCE);
    for place in [1, 512, 1900, good.list.len() - 1] {
        let mut evidence = good.clone();
        evidence.list[place] = later(0);
        failed(&appraised(&node, &evidence), Rule::Coverage, "no prefix");
        let mut evidence = good.clone();
        let Entry::Full(record) = &mut evidence.list[place] else {
            panic!("every entry is whole")
        };
        let last = record.len() - 1;
        record.truncate(last);
        let unreadable = appraised(&node, &evidence);
        assert!(!unreadable.trusted);
        let named = unreadable
            .node
            .findings
            .iter()
            .any(|f| f.rule == Rule::Coverage && f.index == Some(place as u64));
        assert!(named, "{place}\n{unreadable}");
    }
}

#[test]
fn a_violation_and_an_entry_that_was_never_extended_are_told_apart_among_many() {
    let mut node = node();
    node.never_extended.insert(4900);
    let evidence = node.attest(NONCE);
    assert_eq!(
        failed(&appraised(&node, &evidence), Rule::Coverage, "extend-lost"),
        Some(4900)
    );

    // Among the latest thousand it is named. To look further back would cost a verifier what a node likes.
    for (back, is_named) in [(1000, true), (1001, false)] {
        let mut node = self::node();
        node.seal(Some(NONCE));
        let at = node.list.len() - back;
        node.never_extended.insert(at);
        let quote = node.quote(NONCE);
        let verdict = appraised(&node, &node.evidence(quote));
        let words = if is_named { "extend-lost" } else { "no prefix" };
        let index = failed(&verdict, Rule::Coverage, words);
        assert_eq!(index, is_named.then_some(at as u64), "{back}");
    }

    let mut node = self::node();
    node.violate(&Actor::host("/sbin/init"), "/var/log/wtmp");
    (0..10).for_each(|n| use_file(&mut node, n));
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.covered, evidence.list.len() as u64);
    failed(&verdict, Rule::Violations, "violation");
}

#[test]
fn records_of_equal_entries_take_them_in_turn() {
    // A kernel without IMA's hash table lists a content again each time: here one content five thousand
    // times.
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.host_files.insert(path(0).into_bytes(), [content(0)].into());
    (0..MANY).for_each(|_| use_file(&mut node, 0));
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");

    // One more record than entries: somebody's add is not in the list.
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.host_files.insert(path(0).into_bytes(), [content(0)].into());
    (0..MANY).for_each(|_| use_file(&mut node, 0));
    node.list.pop();
    let evidence = node.attest(NONCE);
    failed(&appraised(&node, &evidence), Rule::Records, "two records say");
}

#[test]
fn records_find_their_entries_in_whatever_order_they_come() {
    // Blocks in turn, all backwards, and with long strides; every fiftieth content is used again, long after
    // it was listed.
    let orders: [fn(u64) -> u64; 3] = [|n| n ^ 63, |n| MANY - 1 - n, |n| n * 1117 % MANY];
    for (at, order) in orders.into_iter().enumerate() {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        let actor = Actor::host("/usr/lib/systemd/systemd");
        let entry = |n| Measurement::ima_ng(path(n).as_bytes(), &content(n));
        let all: Vec<u64> = (0..MANY).map(order).filter(|n| *n < MANY).collect();
        let first = node.list.len();
        for n in all.iter().min().copied().unwrap()..=all.iter().max().copied().unwrap() {
            node.host_files.insert(path(n).into_bytes(), [content(n)].into());
            node.list.push(entry(n));
        }
        let lacking = all[all.len() / 2];
        for n in &all {
            if *n != lacking {
                node.record_entry(&actor, path(*n), &entry(*n), 0);
            }
        }
        for n in all.iter().filter(|n| **n % 50 == 0) {
            node.record_entry(&actor, path(*n), &entry(*n), -17);
        }
        let mut honest = node.clone();
        let evidence = node.attest(NONCE);
        let index = failed(&appraised(&node, &evidence), Rule::Records, "has no record");
        assert_eq!(index, Some(first as u64 + lacking), "order {at}");

        honest.record_entry(&actor, path(lacking), &entry(lacking), 0);
        let evidence = honest.attest(NONCE);
        let verdict = appraised(&honest, &evidence);
        assert!(verdict.trusted, "order {at}\n{verdict}");
    }
}

#[test]
fn a_sequence_number_given_twice_is_named_among_many() {
    let mut node = node();
    let mut evidence = node.attest(NONCE);
    let records = evidence.partitions.iter_mut().map(|log| &mut log.records);
    let records = records.max_by_key(|records| records.len()).unwrap();
    let (first, other) = (records[10].seq, records.len() - 5);
    records[other].seq = first;
    let verdict = appraised(&node, &evidence);
    failed(&verdict, Rule::Records, "sequence number was given twice");
}
