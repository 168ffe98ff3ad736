//! What is streamed out of the store is what the types encode to.

use super::*;
use cgpath_evidence::{Evidence, EvidenceDelta, PartitionLog, PodInfo, PodUid, Quote, Record};
use std::io::Read;

fn record(seq: u64) -> Record {
    Record {
        seq,
        boot_ns: 1,
        kind: cgpath_evidence::EventKind::Execution,
        ret: 0,
        pcr: 0,
        digests: vec![],
        hash: None,
        path: vec![b'x'; 3000],
        dev: 0,
        ino: 0,
        cgroup_id: 1,
        cgroup: None,
        pid: 1,
        uid: 0,
        mnt_ns: 0,
        pid_ns: 0,
        ancestry: vec![],
        ancestry_cut: false,
        path_cut: false,
        guard: None,
        pod_loss: None,
        identity: None,
        name: None,
        writable: false,
        load: None,
    }
}

fn mark(tid: u32) -> InFlight {
    InFlight {
        tid,
        since_ns: 1 << 40,
        cgroup: tid.is_multiple_of(2).then(|| b"/user.slice".to_vec()),
    }
}

proptest::proptest! {
    #[test]
    fn spans_are_copied_whole_whatever_stands_between_them(
        // Lengths, and how much of something else stands before each; the last may be longer than is read at
        // once.
        pieces in proptest::collection::vec((0usize..2 * GAP as usize, 0usize..9000), 0..40),
        long in proptest::option::of(BUFFER - 9000..BUFFER + 9000),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path().join("log"), MOST_BUFFERED).unwrap();
        let (mut spans, mut expected) = (Vec::new(), Vec::new());
        for (n, (gap, len)) in pieces.into_iter().chain(long.map(|len| (1, len))).enumerate() {
            log.append(&vec![0xff; gap]).unwrap();
            let piece = vec![n as u8; len];
            spans.push(log.append(&piece).unwrap());
            expected.extend(piece);
        }
        let (mut buf, mut out) = (Vec::new(), Vec::new());
        log.reader().unwrap().copy_all(&spans, &mut buf, &mut out).unwrap();
        proptest::prop_assert_eq!(out, expected);
        proptest::prop_assert!(buf.len() <= BUFFER);
    }
}

#[test]
fn streamed_evidence_is_byte_for_byte_what_the_type_encodes_to() {
    for (is_shown, marks) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
        streamed_evidence_is_what_the_type_encodes_to(200, is_shown, marks);
    }
    // More than is read at once.
    streamed_evidence_is_what_the_type_encodes_to(AT_ONCE / 3000 + 10, true, 1);
}

fn streamed_evidence_is_what_the_type_encodes_to(records: u64, is_shown: bool, marks: u32) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    let keys = [
        PartitionKey::Pod(PodUid([0xab; 16])),
        PartitionKey::Host,
        PartitionKey::Unattributed,
    ];
    let mut logs: BTreeMap<String, (PartitionKey, Vec<Record>)> = BTreeMap::new();
    for seq in 1..records {
        let key = keys[seq as usize % 3];
        // One that is sealed is shown in its partition, whatever it is.
        store.record(key, &record(seq).to_cbor(), is_shown).unwrap();
        logs.entry(key.to_string())
            .or_insert((key, vec![]))
            .1
            .push(record(seq));
    }
    store.checkpoint(b"file 0").unwrap();
    store.checkpoint(&[7; 300]).unwrap();
    let frozen = store.freeze();
    // What comes after the seal must not be in it, but for the list, and what is shown by itself.
    let young = PartitionKey::Pod(PodUid([1; 16]));
    store
        .record(PartitionKey::Host, &record(999).to_cbor(), is_shown)
        .unwrap();
    store.record(young, &record(1000).to_cbor(), is_shown).unwrap();
    store.record(young, &record(1001).to_cbor(), false).unwrap();
    let log = |key, n| PartitionLog {
        key,
        records: vec![record(n)],
    };
    let unsealed = if is_shown {
        vec![log(young, 1000), log(PartitionKey::Host, 999)]
    } else {
        vec![]
    };
    let in_flight: Vec<InFlight> = (0..marks).map(mark).collect();
    store.checkpoint(b"file 2").unwrap();
    let list: Vec<Entry> = (0..30u8)
        .map(|n| Entry::Full(vec![n; usize::from(n) * 20]))
        .collect();
    for entry in &list {
        store.entry(entry).unwrap();
    }
    let quote: Quotes = Quote {
        attest: vec![1],
        signature: vec![2],
        ak: vec![3],
    }
    .into();
    let zeros =
        vec![cgpath_evidence::Digest::zero(cgpath_evidence::Bank::Sha256); cgpath_evidence::boot::REGISTERS];
    let boot = Boot {
        registers: vec![cgpath_evidence::boot::Registers::new(zeros).unwrap()],
        log: Some(vec![7; 5000]),
        command_line: Some(b"quiet".to_vec()),
    };
    let header = Header {
        tier: Tier::Bpf,
        node: "n".into(),
        boot_id: [5; 16],
        kernel: "6.12".into(),
        pods: vec![PodInfo {
            uid: PodUid([0xab; 16]),
            namespace: "shop".into(),
            name: "till".into(),
        }],
        quote: quote.clone(),
        boot: boot.clone(),
        td: None,
    };
    let assembly = store.assembly(&frozen, None, in_flight.clone(), None).unwrap();
    let mut written = assembly.write(&header).unwrap();
    let mut bytes = Vec::new();
    written.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, written.len);
    let expected = Evidence {
        version: 1,
        tier: Tier::Bpf,
        node: "n".into(),
        boot_id: [5; 16],
        quote,
        list,
        checkpoints: vec![b"file 0".to_vec(), vec![7; 300]],
        partitions: logs
            .into_values()
            .map(|(key, records)| PartitionLog { key, records })
            .collect(),
        pods: header.pods.clone(),
        kernel: "6.12".into(),
        boot: Some(boot),
        unsealed,
        in_flight,
        td: None,
    };
    assert_eq!(Evidence::from_cbor(&bytes).unwrap(), expected);
    assert_eq!(bytes, expected.to_cbor());
    assert_eq!(store.checkpoint_file(1).unwrap(), Some(vec![7; 300]));
    assert_eq!(store.checkpoint_file(3).unwrap(), None);
}

#[test]
fn what_came_after_a_position_is_a_part_and_an_unknown_position_gives_everything() {
    for (is_shown, marks) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        what_came_after_a_position_is_a_part(is_shown, marks);
    }
}

fn what_came_after_a_position_is_a_part(is_shown: bool, marks: u32) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    let pod = PartitionKey::Pod(PodUid([0xab; 16]));
    let file = |n: u64| vec![n as u8; 100 + n as usize];
    let entry = |n: u64| Entry::Full(vec![n as u8; n as usize * 7]);
    // Each checkpoint seals ten records of the host and, but for the second, one of the pod; three entries
    // come with it.
    for n in 0..4u64 {
        for seq in 1..=10 {
            store
                .record(PartitionKey::Host, &record(100 * n + seq).to_cbor(), true)
                .unwrap();
        }
        if n != 1 {
            store.record(pod, &record(100 * n + 11).to_cbor(), true).unwrap();
        }
        store.checkpoint(&file(n)).unwrap();
        (0..3).for_each(|i| store.entry(&entry(3 * n + i)).unwrap());
    }
    let frozen = store.freeze();
    store.record(pod, &record(999).to_cbor(), is_shown).unwrap();
    let unsealed = PartitionLog {
        key: pod,
        records: vec![record(999)],
    };
    let unsealed: Vec<PartitionLog> = is_shown.then_some(unsealed).into_iter().collect();
    let in_flight: Vec<InFlight> = (0..marks).map(mark).collect();
    let quote: Quotes = Quote {
        attest: vec![1],
        signature: vec![2],
        ak: vec![3],
    }
    .into();
    let header = Header {
        tier: Tier::Bpf,
        node: "n".into(),
        boot_id: [5; 16],
        kernel: "6.12".into(),
        pods: vec![PodInfo {
            uid: PodUid([0xab; 16]),
            namespace: "shop".into(),
            name: "till".into(),
        }],
        quote: quote.clone(),
        boot: Boot {
            registers: vec![],
            log: Some(vec![7; 500]),
            command_line: Some(b"quiet".to_vec()),
        },
        td: None,
    };
    let mut write = |cursor: &Cursor| {
        let mut written = store
            .assembly(&frozen, Some(cursor), in_flight.clone(), None)
            .unwrap()
            .write(&header)
            .unwrap();
        let mut bytes = Vec::new();
        written.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(
            (bytes.len() as u64, EvidenceDelta::is_delta(&bytes)),
            (written.len, written.is_delta)
        );
        bytes
    };
    for (number, entries) in [(0u64, 3u64), (0, 12), (1, 7), (2, 0), (3, 12)] {
        let from = Cursor {
            base: [8; 32],
            boot_id: [5; 16],
            entries,
            checkpoint: number,
            digest: Sha256::digest(file(number)).into(),
        };
        let records = |of: &dyn Fn(u64) -> Vec<u64>| -> Vec<Record> {
            (number + 1..4).flat_map(of).map(record).collect()
        };
        let logs = [
            (
                PartitionKey::Pod(PodUid([0xab; 16])),
                records(&|n| if n == 1 { vec![] } else { vec![100 * n + 11] }),
            ),
            (
                PartitionKey::Host,
                records(&|n| (1..=10).map(|seq| 100 * n + seq).collect()),
            ),
        ];
        let mut partitions: Vec<PartitionLog> = logs
            .into_iter()
            .filter(|(_, records)| !records.is_empty())
            .map(|(key, records)| PartitionLog { key, records })
            .collect();
        partitions.sort_by_key(|log| log.key.to_string());
        let expected = EvidenceDelta {
            version: 1,
            tier: Tier::Bpf,
            node: "n".into(),
            boot_id: [5; 16],
            quote: quote.clone(),
            list: (entries..12).map(entry).collect(),
            checkpoints: (number + 1..4).map(file).collect(),
            partitions,
            pods: header.pods.clone(),
            kernel: "6.12".into(),
            boot: Some(Boot {
                log: None,
                command_line: None,
                ..header.boot.clone()
            }),
            from: from.clone(),
            unsealed: unsealed.clone(),
            in_flight: in_flight.clone(),
            td: None,
        };
        assert_eq!(
            write(&from),
            expected.to_cbor(),
            "after checkpoint {number}, entry {entries}"
        );
        for other in [
            Cursor {
                digest: [0; 32],
                ..from.clone()
            },
            Cursor {
                entries: 13,
                ..from.clone()
            },
            Cursor {
                checkpoint: 4,
                ..from.clone()
            },
            Cursor {
                checkpoint: u64::MAX,
                entries: u64::MAX,
                ..from
            },
        ] {
            let whole = Evidence::from_cbor(&write(&other)).unwrap();
            assert_eq!((whole.list.len(), whole.checkpoints.len()), (12, 4));
            assert_eq!((&whole.unsealed, &whole.in_flight), (&unsealed, &in_flight));
        }
    }
}

#[test]
fn an_empty_store_gives_whole_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    let frozen = store.freeze();
    let quote: Quotes = Quote {
        attest: vec![],
        signature: vec![],
        ak: vec![],
    }
    .into();
    let header = Header {
        tier: Tier::Bpf,
        node: String::new(),
        boot_id: [0; 16],
        kernel: String::new(),
        pods: vec![],
        quote,
        boot: Boot {
            registers: vec![],
            log: None,
            command_line: None,
        },
        td: None,
    };
    let assembly = store.assembly(&frozen, None, vec![], None).unwrap();
    let mut written = assembly.write(&header).unwrap();
    let mut bytes = Vec::new();
    written.file.read_to_end(&mut bytes).unwrap();
    assert!(Evidence::from_cbor(&bytes).unwrap().partitions.is_empty());
}

/// /dev/full takes nothing; the log's own file is swapped for it.
#[test]
fn what_a_full_disk_does_not_take_is_written_when_there_is_room_and_cannot_be_read_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::create(dir.path().join("log"), MOST_BUFFERED).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let good = std::mem::replace(&mut log.file, full);
    let pieces: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 3000]).collect();
    let spans: Vec<Span> = pieces.iter().map(|piece| log.append(piece).unwrap()).collect();
    assert!(
        log.reader()
            .is_err_and(|error| error.to_string().contains("No space left"))
    );
    // Without end it is not kept.
    let error = loop {
        if let Err(error) = log.append(&[0; BUFFER]) {
            break error;
        }
        assert!(log.buf.len() <= MOST_BUFFERED + BUFFER);
    };
    assert!(error.to_string().contains("No space left"), "{error}");
    // What the kernel's list holds in any case is kept, however much it is.
    log.most = usize::MAX;
    log.append(&[0; BUFFER]).unwrap();
    log.file = good;
    let (mut buf, mut out) = (Vec::new(), Vec::new());
    log.reader()
        .unwrap()
        .copy_all(&spans, &mut buf, &mut out)
        .unwrap();
    assert_eq!(out, pieces.concat());
}

#[test]
fn a_quota_that_is_used_up_is_a_full_disk_and_a_broken_one_is_not() {
    for (error, is) in [
        (nix::errno::Errno::ENOSPC, true),
        (nix::errno::Errno::EDQUOT, true),
        (nix::errno::Errno::EIO, false),
    ] {
        assert_eq!(is_full(&io::Error::from(error)), is, "{error}");
    }
}
