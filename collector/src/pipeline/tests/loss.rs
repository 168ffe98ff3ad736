//! What a pod lost by its own noise: sealed in its partition, by its own directory.

use super::*;
use crate::decode::LoadEvent;
use cgpath_evidence::{FileHash, Load, Loaded, PodLoss};

pub(super) fn raw(seq: u64, pod_id: u64, mappings: u64) -> decode::Event {
    let loss = PodLoss {
        executions: 1,
        mappings,
        denials: 0,
        repeats: 0,
        first_ns: 5,
        last_ns: 6,
    };
    decode::Event {
        seq,
        boot_ns: seq * 10,
        body: Body::PodLoss(PodLossEvent { pod_id, loss }),
    }
}

fn gone(seq: u64, id: u64) -> decode::Event {
    let mut event = raw_cgroup(seq, id, 2, POD_A);
    if let Body::Cgroup(cgroup) = &mut event.body {
        cgroup.change = CgroupChange::Gone;
    }
    event
}

#[test]
fn a_pods_loss_is_sealed_in_its_partition_even_behind_its_end_and_is_no_loss_of_the_node() {
    let mut fuel = u64::MAX;
    let mut w = World::new();
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    script(&mut w, 0);
    w.happen(|s| raw(s, 10, 1));
    run.request(&mut w, 1, &mut fuel).unwrap();
    w.happen(|s| raw(s, 10, 300));
    w.happen(|s| gone(s, 11));
    w.happen(|s| gone(s, 10));
    w.happen(|s| raw(s, 10, 301));
    // The directory above all pods, and one that nobody knows.
    w.happen(|s| raw(s, 2, 1));
    w.happen(|s| raw(s, 4711, 1));
    run.request(&mut w, 2, &mut fuel).unwrap();
    check_chain(&w);
    let stated = |key: &PartitionKey| -> Vec<(u64, Vec<u8>)> {
        let records = run.leaves.get(key).into_iter().flatten();
        let records = records.map(|leaf| Record::from_cbor(leaf).unwrap());
        records
            .filter(|record| record.kind == EventKind::PodLoss)
            .map(|record| {
                assert!(record.ancestry.is_empty() && !record.is_execution());
                let cgroup = record.cgroup.unwrap_or_default();
                (record.pod_loss.unwrap().mappings, cgroup)
            })
            .collect()
    };
    let uid = POD_A.strip_prefix("pod").unwrap();
    let own = format!("/kubepods/{POD_A}").into_bytes();
    assert_eq!(
        stated(&PartitionKey::parse(uid).unwrap()),
        [1, 300, 301].map(|mappings| (mappings, own.clone()))
    );
    assert_eq!(stated(&PartitionKey::Host), [(1, b"/kubepods".to_vec())]);
    assert_eq!(stated(&PartitionKey::Unattributed), [(1, vec![])]);
    assert_eq!(run.pipeline.losses().total(), 0);
    assert_eq!(run.pipeline.executions, 4, "three canaries' and one of the pod");
}

/// A node with a pod that executed so often, whose records are not read yet, and a request that waits for
/// them.
fn waiting(executions: u64) -> (World, Run) {
    let mut fuel = u64::MAX;
    let mut w = World::new();
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    script(&mut w, 0);
    for n in 0..executions {
        w.happen(|s| raw_exec(s, 11, 60, &format!("/bin/{n}")));
    }
    let (id, nonce) = (1, vec![1; 16]);
    run.tell(&mut w, Signal::Request { id, nonce }, &mut fuel)
        .unwrap();
    assert!(matches!(run.pipeline.phase, Phase::Draining { .. }));
    (w, run)
}

/// Each second passes, and each fourth one a record is read, until the checkpoint is sealed; gives how long
/// that took.
fn read_slowly(w: &mut World, run: &mut Run) -> Duration {
    let (before, mut fuel) = (run.now, u64::MAX);
    for second in 1.. {
        if !matches!(run.pipeline.phase, Phase::Draining { .. }) {
            break;
        }
        run.now += Duration::from_secs(1);
        run.tell(w, Signal::Tick, &mut fuel).unwrap();
        if second % 4 == 0 {
            run.consume(w, &mut fuel).unwrap();
        }
    }
    let waited = run.now - before;
    run.settle(w, &mut fuel).unwrap();
    assert_eq!(run.answers, [1]);
    waited
}

#[test]
fn records_that_are_read_slowly_are_not_given_up() {
    let (mut w, mut run) = waiting(2);
    let waited = read_slowly(&mut w, &mut run);
    assert!(waited > run.pipeline.setup.drain_timeout * 4, "{waited:?}");
    assert_eq!(run.pipeline.losses().total(), 0);
    check_chain(&w);
}

#[test]
fn a_wait_for_records_ends_however_slowly_they_are_read() {
    let (mut w, mut run) = waiting(200);
    let waited = read_slowly(&mut w, &mut run);
    let longest = run.pipeline.setup.drain_timeout * phase::LONGEST_WAIT;
    assert!(
        waited >= longest && waited < longest + Duration::from_secs(5),
        "{waited:?}"
    );
    let stated = w.files.last().unwrap().checkpoint.losses.spool;
    assert!(stated > 100, "{stated}");
}

#[test]
fn time_in_which_nothing_was_looked_at_is_no_wait() {
    let (mut w, mut run) = waiting(9);
    let mut fuel = u64::MAX;
    for _ in 0..4 {
        run.now += Duration::from_secs(3600);
        run.tell(&mut w, Signal::Tick, &mut fuel).unwrap();
    }
    run.settle(&mut w, &mut fuel).unwrap();
    assert_eq!((run.pipeline.losses().total(), &run.answers[..]), (0, &[1][..]));
    check_chain(&w);
}

#[test]
fn what_the_kernel_loses_later_explains_no_record_that_is_still_in_the_ring() {
    let (mut w, mut run) = waiting(9);
    let mut fuel = u64::MAX;
    (0..100).for_each(|_| w.lose());
    run.now += Duration::from_secs(1);
    run.tell(&mut w, Signal::Tick, &mut fuel).unwrap();
    assert!(matches!(run.pipeline.phase, Phase::Draining { .. }));
    run.settle(&mut w, &mut fuel).unwrap();
    let losses = run.pipeline.losses();
    assert_eq!((losses.reserve, losses.spool), (100, 0));
}

#[test]
fn what_the_kernel_was_handed_as_bytes_is_sealed_with_its_hash_where_it_was_done() {
    let mut fuel = u64::MAX;
    let mut w = World::new();
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    script(&mut w, 0);
    let load = Load {
        what: Loaded::Module,
        size: 4711,
    };
    let hash = FileHash::Measured(Bank::Sha256.hash(&[b"module"]));
    for cgroup_id in [2, 10] {
        let (task, hash) = (
            TaskInfo {
                cgroup_id,
                ..TaskInfo::default()
            },
            hash.clone(),
        );
        w.happen(|seq| decode::Event {
            seq,
            boot_ns: seq * 10,
            body: Body::Load(LoadEvent { load, task, hash }),
        });
    }
    run.request(&mut w, 1, &mut fuel).unwrap();
    check_chain(&w);
    let uid = POD_A.strip_prefix("pod").unwrap();
    for key in [PartitionKey::Host, PartitionKey::parse(uid).unwrap()] {
        let leaves = run.leaves[&key].iter();
        let records = leaves.map(|leaf| Record::from_cbor(leaf).unwrap());
        let loads: Vec<Record> = records.filter(|record| record.kind == EventKind::Load).collect();
        assert_eq!(loads.len(), 1, "{key}");
        assert_eq!(loads[0].load.as_deref(), Some(&load));
        assert_eq!(loads[0].hash.as_ref(), Some(&hash));
    }
}
