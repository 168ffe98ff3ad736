//! Rounds of the engine on a machine made of software: what a verifier that follows is sent.

#![allow(
    unsafe_code,
    reason = "the spool's open file is exchanged for one that takes nothing"
)]

use crate::common::assembled;
use crate::common::machine::{BOOT_ID, PODS, Software, content, keep, take};
use cgpath_evidence::{
    Cursor, Evidence, EvidenceDelta, Named, PartitionKey, PodName, PodUid, SealedCheckpoint,
};
use cgpathd::engine::core::{Core, Outcome};
use cgpathd::journal::{Frame, Journal, JournalError};
use cgpathd::pipeline::{Note, OpenMark, SealError, Stated};
use cgpathd::store::Assembly;
use std::fs::{File, OpenOptions};
use std::os::fd::{IntoRawFd as _, RawFd};
use std::path::Path;

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
    let (is_delta, bytes, reached) = assembled::written(assembly, None);
    assert_eq!(is_delta, after.is_some());
    (bytes, reached)
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
fn what_the_runtime_says_before_a_request_is_in_its_round_and_in_the_journal_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Software::boot(dir.path(), PODS).unwrap();
    let uid = PodUid::parse(b"00000001-0000-4000-8000-000000000001").unwrap();
    let named = |name: &str| {
        Named::Pod(PodName {
            namespace: "shop".into(),
            name: name.into(),
            labels: vec![],
            labels_left_out: false,
        })
    };
    assert_eq!(core.pipeline().unnamed().left, PODS);
    for name in ["till", "till", "other"] {
        let (boot_ns, named) = (5, named(name));
        core.stated(vec![Stated { uid, boot_ns, named }]).unwrap();
    }
    assert_eq!(core.pipeline().unnamed().left, PODS - 1);
    let (bytes, _) = written(round(&mut core, None, |_| ()), None);
    let evidence = Evidence::from_cbor(&bytes).unwrap();
    let own = evidence
        .partitions
        .iter()
        .find(|log| log.key == PartitionKey::Pod(uid));
    let [record] = own.unwrap().records.as_slice() else {
        panic!("{own:?}")
    };
    assert!(Named::is_record(record), "{record:?}");
    assert_eq!(
        (record.boot_ns, record.name.as_deref()),
        (5, Some(&named("till")))
    );
    drop(core);
    let mut noted = 0;
    let journal = Journal::open(dir.path(), &BOOT_ID).unwrap();
    let counted: Result<(), JournalError> = journal.replay(|frame| {
        noted += u32::from(matches!(frame, Frame::Note(Note::Named(_))));
        Ok(())
    });
    counted.unwrap();
    assert_eq!(noted, 1);
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

/// The disk of an open file is full, for as long as this lives.
struct FullDisk {
    fd: RawFd,
    good: File,
}

impl FullDisk {
    fn under(path: &Path) -> FullDisk {
        let path = path.canonicalize().unwrap();
        // The one descriptor of it: which number it has nobody tells.
        let fd = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .find(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path))
            .and_then(|entry| entry.file_name().to_str()?.parse().ok())
            .expect("it is open");
        let good = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        put(&OpenOptions::new().write(true).open("/dev/full").unwrap(), fd);
        FullDisk { fd, good }
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        put(&self.good, self.fd);
    }
}

/// From now on descriptor `fd` is one of `file`.
fn put(file: &File, fd: RawFd) {
    // SAFETY: the engine owns `fd` and goes on owning it: what is given here is let go without closing it.
    let copy = unsafe { nix::unistd::dup2_raw(file, fd) }.unwrap();
    assert_eq!(copy.into_raw_fd(), fd);
}

#[test]
fn a_seal_that_meets_a_full_disk_fails_its_request_by_name_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Software::boot(dir.path(), PODS).unwrap();
    use_files(&mut core, 0);
    let (_, cursor) = written(round(&mut core, None, |_| ()), None);
    use_files(&mut core, 1);
    core.request(4, b"another nonce".to_vec()).unwrap();
    // All that the seal waits for is kept, and then there is no room for the seal itself.
    let kept: Vec<_> = std::iter::from_fn(|| keep(&mut core)).collect();
    let disk = FullDisk::under(&dir.path().join("spool"));
    kept.iter().try_for_each(|record| core.record(record)).unwrap();
    core.tick().unwrap();
    let outcomes = core.take_outcomes();
    let [
        Outcome::Failed {
            id: Some(4),
            error: SealError::Refused { number: 2, why },
        },
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert!(why.contains("spool"), "{why}");
    assert!(core.pipeline().is_idle() && core.pipeline().last_checkpoint() == Some(1));
    // Records find no room either: they stay in the ring.
    use_files(&mut core, 2);
    assert!(keep(&mut core).is_none() && core.is_stalled());
    drop(disk);

    let (bytes, _) = written(round(&mut core, Some(&cursor), |_| ()), Some(&cursor));
    assert!(!core.is_stalled());
    let delta = EvidenceDelta::from_cbor(&bytes).unwrap();
    let checkpoints: Vec<_> = delta
        .checkpoints
        .iter()
        .map(|file| SealedCheckpoint::from_file(file).unwrap().checkpoint)
        .collect();
    let [last] = &checkpoints[..] else {
        panic!("{checkpoints:?}");
    };
    assert_eq!((last.number, last.losses.total(), last.blind), (2, 0, false));
    for pod in delta
        .partitions
        .iter()
        .filter(|p| matches!(p.key, PartitionKey::Pod(_)))
    {
        assert_eq!(pod.records.len(), 2, "both rounds' files: {}", pod.key);
    }
    // A collector that is started again finds the chain as the journal has it.
    drop(core);
    let mut numbers = Vec::new();
    let journal = Journal::open(dir.path(), &BOOT_ID).unwrap();
    journal
        .replay(|frame| {
            if let Frame::Note(Note::Sealed(sealed)) = frame {
                numbers.push(sealed.checkpoint.number);
            }
            Ok::<(), JournalError>(())
        })
        .unwrap();
    assert_eq!(numbers, [0, 1, 2]);
}
