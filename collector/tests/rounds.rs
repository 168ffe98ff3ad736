//! Rounds of the engine on a machine made of software: what a verifier that follows is sent.

use crate::common::machine::{BOOT_ID, PODS, Software, content, take};
use cgpath_evidence::{Boot, Cursor, Evidence, EvidenceDelta, PartitionKey, Quote, SealedCheckpoint, Tier};
use cgpathd::bpf::OpenMark;
use cgpathd::engine::core::{Core, Outcome};
use cgpathd::store::{Assembly, Header};
use std::io::Read as _;

/// Every actor uses a file that nobody used before.
fn use_files(core: &mut Core<Software>, round: u64) {
    for actor in 0..=PODS {
        let n = round * 10 + actor;
        core.machine.measure(actor, &format!("/opt/{n}"), &content(n));
    }
    core.machine.publish();
}

/// A round: sealed, then `meanwhile` while the quote is made, then put together.
fn round(
    core: &mut Core<Software>,
    after: Option<&Cursor>,
    meanwhile: impl FnOnce(&mut Core<Software>),
) -> Assembly {
    core.request(3, b"the nonce".to_vec()).unwrap();
    let mut meanwhile = Some(meanwhile);
    for _ in 0..20 {
        take(core).unwrap();
        core.tick().unwrap();
        match core.take_outcomes().pop() {
            Some(Outcome::Ready { id: 3, .. }) => {
                meanwhile.take().expect("one quote a request")(core);
                core.quoted(3, after.cloned()).unwrap();
            }
            Some(Outcome::Assembled { id: 3, assembly }) => return (*assembly).unwrap(),
            None => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("no evidence in twenty turns");
}

/// The bytes, and the cursor behind them.
fn written(assembly: Assembly, after: Option<&Cursor>) -> (Vec<u8>, Cursor) {
    let header = Header {
        tier: Tier::Bpf,
        node: "node".into(),
        boot_id: BOOT_ID,
        kernel: String::new(),
        pods: vec![],
        quote: Quote {
            attest: vec![],
            signature: vec![],
            ak: vec![],
        }
        .into(),
        boot: Boot {
            registers: vec![],
            log: None,
            command_line: None,
        },
        td: None,
    };
    let mut made = assembly.write(&header).unwrap();
    assert_eq!(made.is_delta, after.is_some());
    let mut bytes = Vec::new();
    made.file.read_to_end(&mut bytes).unwrap();
    (bytes, made.reached.unwrap())
}

#[test]
fn rounds_of_a_growing_list_are_together_the_whole_and_every_entry_after_the_load_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Software::boot(dir.path(), PODS).unwrap();
    use_files(&mut core, 0);
    let (first, mut cursor) = written(round(&mut core, None, |_| ()), None);
    let mut all = Evidence::from_cbor(&first).unwrap();
    let records =
        |evidence: &Evidence| -> usize { evidence.partitions.iter().map(|p| p.records.len()).sum() };
    for number in 1..5 {
        use_files(&mut core, number);
        let (bytes, next) = written(round(&mut core, Some(&cursor), |_| ()), Some(&cursor));
        let delta = EvidenceDelta::from_cbor(&bytes).unwrap();
        assert_eq!(delta.from, cursor);
        // Theirs and the checkpoint's own.
        assert_eq!(delta.list.len() as u64, PODS + 2);
        let pods = delta
            .partitions
            .iter()
            .filter(|p| matches!(p.key, PartitionKey::Pod(_)));
        assert_eq!(pods.count() as u64, PODS);
        all.list.extend(delta.list);
        all.checkpoints.extend(delta.checkpoints);
        for log in delta.partitions {
            let known = all
                .partitions
                .iter_mut()
                .find(|known| known.key == log.key)
                .unwrap();
            known.records.extend(log.records);
        }
        let (whole, _) = written(core.assembly(None, vec![]).unwrap(), None);
        let whole = Evidence::from_cbor(&whole).unwrap();
        assert_eq!(whole.unsealed, delta.unsealed);
        assert_eq!((&whole.list, &whole.checkpoints), (&all.list, &all.checkpoints));
        assert_eq!(whole.partitions, all.partitions);
        let last = SealedCheckpoint::from_file(whole.checkpoints.last().unwrap())
            .unwrap()
            .checkpoint;
        assert_eq!(last.records, records(&whole) as u64);
        assert_eq!(
            (last.settled, last.losses.total(), last.blind),
            (last.list_len, 0, false)
        );
        assert_eq!(last.list_len + 1, whole.list.len() as u64);
        cursor = next;
    }
}

#[test]
fn what_was_measured_while_the_quote_was_made_is_shown_and_then_sealed_as_it_was_shown() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Software::boot(dir.path(), PODS).unwrap();
    let mark = OpenMark {
        tid: 4711,
        since_ns: 99,
        cgroup_id: 3,
    };
    let assembly = round(&mut core, None, |core| {
        use_files(core, 7);
        core.machine.inside.push(mark);
    });
    let (bytes, cursor) = written(assembly, None);
    let first = Evidence::from_cbor(&bytes).unwrap();
    // The host's file and the checkpoint's own, and a file of each pod.
    let sizes = |logs: &[cgpath_evidence::PartitionLog]| -> Vec<usize> {
        logs.iter().map(|log| log.records.len()).collect()
    };
    assert_eq!(sizes(&first.unsealed), [vec![1; PODS as usize], vec![2]].concat());
    let last_seq = SealedCheckpoint::from_file(first.checkpoints.last().unwrap())
        .unwrap()
        .checkpoint
        .last_seq;
    let shown = || first.unsealed.iter().flat_map(|log| &log.records);
    assert!(shown().all(|record| record.seq > last_seq));
    assert_eq!(first.in_flight.len(), 1);
    assert_eq!(
        (first.in_flight[0].tid, first.in_flight[0].since_ns),
        (mark.tid, mark.since_ns)
    );
    assert!(matches!(first.in_flight[0].key(), PartitionKey::Pod(_)));
    // A delta alone with marks, and one alone with records.
    let (bytes, _) = written(round(&mut core, Some(&cursor), |_| ()), Some(&cursor));
    let delta = EvidenceDelta::from_cbor(&bytes).unwrap();
    assert_eq!(delta.in_flight, first.in_flight);
    let joined = delta.join(first.clone()).unwrap();
    for log in &first.unsealed {
        for record in &log.records {
            assert!(joined.records(log.key).contains(record), "{}", record.seq);
        }
    }
    core.machine.inside.clear();
    let (bytes, _) = written(round(&mut core, Some(&cursor), |_| ()), Some(&cursor));
    let delta = EvidenceDelta::from_cbor(&bytes).unwrap();
    assert_eq!((sizes(&delta.unsealed), delta.in_flight.len()), (vec![1], 0));
}

#[test]
fn a_canary_whose_record_never_comes_makes_the_checkpoint_blind() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Software::boot(dir.path(), PODS).unwrap();
    core.machine.deaf = true;
    let (whole, _) = written(round(&mut core, None, |_| ()), None);
    let whole = Evidence::from_cbor(&whole).unwrap();
    let last = SealedCheckpoint::from_file(whole.checkpoints.last().unwrap())
        .unwrap()
        .checkpoint;
    assert!(last.blind);
}
