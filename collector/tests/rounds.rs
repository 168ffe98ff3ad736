//! Rounds of the engine on a machine made of software: what a verifier that follows is sent.

use crate::common::machine::{BOOT_ID, PODS, Software, content, take};
use collector::engine::core::{Core, Outcome};
use collector::store::{Frozen, Header};
use evidence::{Boot, Evidence, Part, PartitionKey, Position, Quote, SealedCheckpoint, Tier};
use std::io::Read as _;

/// Every actor uses a file that nobody used before.
fn use_files(core: &mut Core<Software>, round: u64) {
    for actor in 0..=PODS {
        let n = round * 10 + actor;
        core.machine.measure(actor, &format!("/opt/{n}"), &content(n));
    }
    core.machine.publish();
}

fn sealed(core: &mut Core<Software>) -> Frozen {
    core.request(3, b"the nonce".to_vec()).unwrap();
    for _ in 0..10 {
        take(core).unwrap();
        core.tick().unwrap();
        match core.take_outcomes().pop() {
            Some(Outcome::Ready { id: 3, frozen, .. }) => return frozen,
            None => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("no checkpoint in ten turns");
}

/// The bytes, and the position behind them.
fn written(core: &mut Core<Software>, frozen: &Frozen, after: Option<&Position>) -> (Vec<u8>, Position) {
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
        },
        boot: Boot {
            registers: vec![],
            log: None,
            command_line: None,
        },
    };
    let mut made = core.assembly(frozen, after).unwrap().write(&header).unwrap();
    assert_eq!(made.is_part, after.is_some());
    let mut bytes = Vec::new();
    made.file.read_to_end(&mut bytes).unwrap();
    (bytes, made.reached.unwrap())
}

#[test]
fn rounds_of_a_growing_list_are_together_the_whole_and_every_entry_after_the_load_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Software::boot(dir.path(), PODS).unwrap();
    use_files(&mut core, 0);
    let frozen = sealed(&mut core);
    let (first, mut position) = written(&mut core, &frozen, None);
    let mut all = Evidence::from_cbor(&first).unwrap();
    let records =
        |evidence: &Evidence| -> usize { evidence.partitions.iter().map(|p| p.records.len()).sum() };
    for round in 1..5 {
        use_files(&mut core, round);
        let frozen = sealed(&mut core);
        let (bytes, next) = written(&mut core, &frozen, Some(&position));
        let part = Part::from_cbor(&bytes).unwrap();
        assert_eq!(part.from, position);
        // Theirs and the checkpoint's own.
        assert_eq!(part.list.len() as u64, PODS + 2);
        let pods = part
            .partitions
            .iter()
            .filter(|p| matches!(p.key, PartitionKey::Pod(_)));
        assert_eq!(pods.count() as u64, PODS);
        all.list.extend(part.list);
        all.checkpoints.extend(part.checkpoints);
        for log in part.partitions {
            let known = all
                .partitions
                .iter_mut()
                .find(|known| known.key == log.key)
                .unwrap();
            known.records.extend(log.records);
        }
        let (whole, _) = written(&mut core, &frozen, None);
        let whole = Evidence::from_cbor(&whole).unwrap();
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
        position = next;
    }
}

#[test]
fn a_canary_whose_record_never_comes_makes_the_checkpoint_blind() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Software::boot(dir.path(), PODS).unwrap();
    core.machine.deaf = true;
    let frozen = sealed(&mut core);
    let (whole, _) = written(&mut core, &frozen, None);
    let whole = Evidence::from_cbor(&whole).unwrap();
    let last = SealedCheckpoint::from_file(whole.checkpoints.last().unwrap())
        .unwrap()
        .checkpoint;
    assert!(last.blind);
}
