use super::*;
use cgpath_ebpf_common::{
    BUDGET_UNIT, Budget, CgroupRecord, Config, Counters, EFAULT, EFBIG, EntryHead, FileHead, GuardHead,
    LayerKey, LoadRecord, Loss, Mark, Meta, PodLossRecord, RawIdentity, Settings, Task, Used,
};
use proptest::prelude::*;

/// Builds raw records as the programs write them.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(kind: u16) -> Raw {
        Raw::default()
            .u64(7)
            .u64(1_000)
            .u16(kind)
            .u16(LAYOUT_VERSION)
            .u32(0)
    }
    fn put(mut self, bytes: &[u8]) -> Raw {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u16(self, v: u16) -> Raw {
        self.put(&v.to_ne_bytes())
    }
    fn u32(self, v: u32) -> Raw {
        self.put(&v.to_ne_bytes())
    }
    fn u64(self, v: u64) -> Raw {
        self.put(&v.to_ne_bytes())
    }
    fn task(mut self, ancestors: u32, flags: u32) -> Raw {
        self = self
            .u64(42)
            .u32(100)
            .u32(1000)
            .u32(11)
            .u32(12)
            .u32(ancestors)
            .u32(flags);
        for i in 0..MAX_ANCESTORS as u32 {
            self = self.u64(u64::from(i) + 5).u32(i + 1).u32(0);
        }
        self
    }
    /// Of a file of an overlay on ext4.
    fn identity(self) -> Raw {
        self.u64(0x55_0000_0009)
            .u64(0xef53)
            .u64(0x80_0001)
            .u64(78)
            .u32(7)
            .u32(1)
    }
    /// Sets the length that the header claims.
    fn done(mut self) -> Bytes {
        let len = self.0.len() as u32;
        self.0[LEN_OFFSET..LEN_OFFSET + 4].copy_from_slice(&len.to_ne_bytes());
        self.0.into()
    }

    fn entry(kind: u16, slots: &[(u16, u8)], n: u32, name: &[u8]) -> Bytes {
        let mut raw = Raw::header(kind)
            .task(2, 0)
            .u32(-17i32 as u32)
            .u32(10)
            .u32(n)
            .u32(name.len() as u32);
        raw = raw.u64(0x10_0003).u64(77).identity();
        for i in 0..MAX_DIGESTS {
            let (alg, fill) = slots.get(i).copied().unwrap_or_default();
            raw = raw.u16(alg).put(&[0; 6]).put(&[fill; 64]);
        }
        raw.put(name).done()
    }
    fn file(kind: u16, hash_alg: i32, flags: u32, path: &[u8]) -> Bytes {
        let raw = Raw::header(kind)
            .task(3, flags)
            .u64(0x10_0003)
            .u64(77)
            .identity()
            .u32(hash_alg as u32);
        raw.u32(path.len() as u32).put(&[0xab; 64]).put(path).done()
    }
    fn guard(action: u32, ret: i32, name: &[u8]) -> Bytes {
        let raw = Raw::header(kind::GUARD)
            .task(2, 0)
            .u32(action)
            .u32(ret as u32)
            .u64(9);
        let raw = raw.u64(0x10_0003).u64(77);
        raw.u32(name.len() as u32).u32(0).put(name).done()
    }
    fn pod_loss() -> Bytes {
        let raw = Raw::header(kind::POD_LOSS).u64(42);
        raw.u64(3).u64(4).u64(5).u64(6).u64(700).u64(800).done()
    }
    fn load(what: u32, hash_alg: i32, size: u64) -> Bytes {
        let raw = Raw::header(kind::LOAD).task(2, 0).u32(what).u32(hash_alg as u32);
        raw.u64(size).put(&[7; 32]).done()
    }
    fn cgroup(kind: u16, name: &[u8], len: u32) -> Bytes {
        let mut padded = name.to_vec();
        padded.resize(MAX_NAME, 0);
        Raw::header(kind)
            .u64(9)
            .u64(1)
            .u32(0)
            .u32(len)
            .put(&padded)
            .done()
    }
}

fn samples() -> Vec<Bytes> {
    vec![
        Raw::entry(kind::ENTRY, &[(0x0004, 1), (0x000b, 2)], 2, b"/bin/sh"),
        Raw::entry(kind::VIOLATION, &[], 0, b""),
        Raw::file(kind::EXECUTION, 4, 0, b"/bin/sh"),
        Raw::file(kind::SCRIPT, -95, flag::HASH_PRE_CHECK, b"/x\xff\n"),
        Raw::file(
            kind::LATE_MAPPING,
            HASH_NOT_TRIED,
            flag::PATH_REVERSED,
            b"sh\0bin\0",
        ),
        Raw::cgroup(kind::CGROUP_NEW, b"pod1", 4),
        Raw::guard(action::PIN_REMOVED, -1, b"link_executed"),
        Raw::pod_loss(),
        Raw::load(load::MODULE, SHA256, 4711),
        Raw::load(load::KEXEC, HASH_NOT_TRIED, 0),
        Raw::file(
            kind::LAYER_WRITE,
            HASH_NOT_TRIED,
            flag::PATH_REVERSED,
            b"lib.so\0layer\0",
        ),
        Raw::file(
            kind::MAPPING,
            4,
            flag::HASH_PRE_CHECK | flag::WRITABLE,
            b"/lib/x.so",
        ),
    ]
}

#[test]
fn layouts_have_the_sizes_that_both_sides_count_on_and_no_hidden_padding() {
    // Each size is the sum of the fields: a compiler that added padding would give more.
    assert_eq!(size_of::<Header>(), 8 + 8 + 2 + 2 + 4);
    assert_eq!(size_of::<TaskKey>(), 8 + 4 + 4);
    assert_eq!(size_of::<Task>(), 8 + 6 * 4 + MAX_ANCESTORS * 16);
    assert_eq!(size_of::<RawDigest>(), 2 + 6 + 64);
    assert_eq!(
        size_of::<EntryHead>(),
        24 + 544 + 4 * 4 + 2 * 8 + 40 + MAX_DIGESTS * 72
    );
    assert_eq!(size_of::<FileHead>(), 24 + 544 + 2 * 8 + 40 + 2 * 4 + 64);
    assert_eq!(size_of::<RawIdentity>(), 4 * 8 + 2 * 4);
    assert_eq!(size_of::<LayerKey>(), 2 * 8);
    assert_eq!(size_of::<Used>(), 3 * 8);
    assert_eq!(size_of::<CgroupRecord>(), 24 + 2 * 8 + 2 * 4 + MAX_NAME);
    assert_eq!(size_of::<GuardHead>(), 24 + 544 + 2 * 4 + 3 * 8 + 2 * 4);
    assert_eq!(size_of::<Settings>(), 10 * 8 + 6 * 4);
    assert_eq!(size_of::<Loss>(), 8);
    assert_eq!(size_of::<Counters>(), 9 * 8);
    assert_eq!(size_of::<PodLossRecord>(), 24 + 7 * 8);
    assert_eq!(size_of::<LoadRecord>(), 24 + 544 + 2 * 4 + 8 + 32);
    assert_eq!(size_of::<Budget>(), 10 * 8);
    // What a unit of a pod's budget pays for, with the ring's own header of each record.
    assert!(size_of::<FileHead>() + SMALL_PATH + 8 <= BUDGET_UNIT as usize);
    assert!(size_of::<EntryHead>() + SMALL_PATH + 8 <= 2 * BUDGET_UNIT as usize);
    assert!(size_of::<GuardHead>() + SMALL_PATH + 8 <= BUDGET_UNIT as usize);
    assert_eq!(size_of::<Mark>(), 3 * 8);
    assert_eq!(size_of::<Meta>(), 4 * 4 + 8 + 3 * 32);
    // 4 bytes for each field, so nothing is added between them nor at the end.
    assert_eq!(align_of::<Config>(), 4);
    assert_eq!(size_of::<Config>(), std::mem::offset_of!(Config, pad) + 4);
}

#[test]
fn a_load_says_what_it_was_and_how_it_was_hashed_and_nothing_else_is_one() {
    let of = |what, hash_alg, size| decode(&Raw::load(what, hash_alg, size)).map(|event| event.body);
    let digest = Digest::new(Bank::Sha256, &[7; 32]).unwrap();
    for (raw, what, size, hash) in [
        (
            (load::MODULE, SHA256),
            Loaded::Module,
            u64::MAX,
            FileHash::Measured(digest),
        ),
        (
            (load::MODULE, -EFBIG),
            Loaded::Module,
            1 << 40,
            FileHash::Unhashed(-27),
        ),
        (
            (load::MODULE, -EFAULT),
            Loaded::Module,
            5,
            FileHash::Unhashed(-14),
        ),
        (
            (load::KEXEC, HASH_NOT_TRIED),
            Loaded::Kexec,
            0,
            FileHash::Unhashed(0),
        ),
    ] {
        let Ok(Body::Load(found)) = of(raw.0, raw.1, size) else {
            panic!("not a record of a load");
        };
        assert_eq!((found.load, found.hash), (Load { what, size }, hash));
        assert_eq!((found.task.pid, found.task.ancestors.len()), (100, 2));
    }
    // A kind or an algorithm that the programs do not write is no record: nothing is taken for a hash.
    for (what, hash_alg, field) in [
        (0, SHA256, "load.what"),
        (3, SHA256, "load.what"),
        (load::MODULE, 0, "load.hash_alg"),
        (load::MODULE, 2, "load.hash_alg"),
    ] {
        let found = of(what, hash_alg, 1);
        assert!(
            matches!(found, Err(DecodeError::Malformed { field: said, .. }) if said == field),
            "{what} {hash_alg}: {found:?}"
        );
    }
}

#[test]
fn every_action_of_the_guard_has_its_own_name_and_no_other_number_has_one() {
    let mut names = std::collections::BTreeSet::new();
    for number in 0..64 {
        match decode(&Raw::guard(number, 0, b"x")) {
            Ok(Event {
                body: Body::Guard(g), ..
            }) => assert!(names.insert(g.action), "{number}"),
            other => assert!(
                matches!(
                    other,
                    Err(DecodeError::Malformed {
                        field: "guard.action",
                        ..
                    })
                ),
                "{number}: {other:?}"
            ),
        }
    }
    assert_eq!(names.len(), ACTIONS.len());
    let Body::Guard(g) = decode(&Raw::guard(action::TRACED, -1, b"cgpathd")).unwrap().body else {
        panic!("not a record of the guard");
    };
    assert_eq!(
        (g.action, g.ret, g.object, g.ino),
        (GuardAction::Traced, -1, 9, 77)
    );
    assert_eq!(&g.name[..], b"cgpathd");
}

#[test]
fn the_decoder_reads_each_field_where_the_layout_has_it() {
    let entry = Raw::entry(kind::ENTRY, &[(0x000b, 2)], 1, b"x");
    let at = |offset: usize, len: usize| entry[offset..offset + len].to_vec();
    use std::mem::offset_of;
    assert_eq!(
        at(offset_of!(EntryHead, task) + offset_of!(Task, uid), 4),
        1000u32.to_ne_bytes()
    );
    assert_eq!(at(offset_of!(EntryHead, ret), 4), (-17i32).to_ne_bytes());
    assert_eq!(at(offset_of!(EntryHead, ino), 8), 77u64.to_ne_bytes());
    let magic = offset_of!(EntryHead, identity) + offset_of!(RawIdentity, magic);
    assert_eq!(at(magic, 8), 0xef53u64.to_ne_bytes());
    assert_eq!(at(offset_of!(EntryHead, digests), 2), 0x000bu16.to_ne_bytes());
    assert_eq!(entry.len(), size_of::<EntryHead>() + 1);
    let file = Raw::file(kind::EXECUTION, 4, 0, b"x");
    let written = offset_of!(FileHead, identity) + offset_of!(RawIdentity, layer_written);
    assert_eq!(file[written..][..4], 1u32.to_ne_bytes());
    assert_eq!(file[offset_of!(FileHead, hash_alg)..][..4], 4i32.to_ne_bytes());
    assert_eq!(file[offset_of!(FileHead, hash)], 0xab);
    assert_eq!(file.len(), size_of::<FileHead>() + 1);
    let cgroup = Raw::cgroup(kind::CGROUP_NEW, b"x", 1);
    assert_eq!(cgroup[offset_of!(CgroupRecord, name)], b'x');
    assert_eq!(cgroup.len(), size_of::<CgroupRecord>());
}

#[test]
fn a_file_is_known_by_its_layers_file_where_that_is_known_and_an_entry_without_one_by_none() {
    let body = |raw: Vec<u8>| decode(&raw.into()).unwrap().body;
    let file = Raw::file(kind::MAPPING, 4, 0, b"/x").to_vec();
    let known = Identity {
        generation: 0x55_0000_0009,
        magic: 0xef53,
        layer: Some(LayerFile {
            dev: 0x80_0001,
            ino: 78,
            generation: 7,
        }),
        written: true,
    };
    let Body::File(f) = body(file.clone()) else {
        panic!("not a file's record")
    };
    assert_eq!(f.identity, known);
    let at = std::mem::offset_of!(FileHead, identity) + std::mem::offset_of!(RawIdentity, layer_ino);
    let mut without = file;
    without[at..at + 8].fill(0);
    let Body::File(f) = body(without) else {
        panic!("not a file's record")
    };
    assert_eq!(f.identity, Identity { layer: None, ..known });
    let entry = Raw::entry(kind::ENTRY, &[], 0, b"boot_aggregate").to_vec();
    let at = std::mem::offset_of!(EntryHead, dev);
    let mut no_file = entry.clone();
    no_file[at..at + 16].fill(0);
    for (raw, identity) in [(entry, Some(known)), (no_file, None)] {
        let Body::Entry(e) = body(raw) else {
            panic!("not an entry's record")
        };
        assert_eq!(e.identity, identity);
    }
}

#[test]
fn an_entry_keeps_known_banks_and_names_unknown_ones() {
    let raw = Raw::entry(
        kind::ENTRY,
        &[(0x0004, 1), (0, 9), (0x0012, 3), (0x000d, 4), (0x000b, 5)],
        4,
        b"/a b",
    );
    let event = decode(&raw).unwrap();
    assert_eq!((event.seq, event.boot_ns), (7, 1_000));
    let Body::Entry(e) = event.body else {
        panic!("{:?}", event.body)
    };
    assert!(!e.violation && !e.name_cut);
    assert_eq!((e.ret, e.pcr, e.dev, e.ino), (-17, 10, 0x10_0003, 77));
    assert_eq!(e.name, &b"/a b"[..]);
    // The slot of algorithm 0 and the one beyond the count are not digests.
    let banks: Vec<_> = e.digests.iter().map(|d| (d.bank(), d.bytes().to_vec())).collect();
    assert_eq!(banks, [(Bank::Sha1, vec![1; 20]), (Bank::Sha512, vec![4; 64])]);
    assert_eq!(e.other_banks, [0x0012]);
    let keys: Vec<_> = e.task.ancestors.iter().map(|k| (k.start_ns, k.tgid)).collect();
    assert_eq!(keys, [(5, 1), (6, 2)]);
    assert_eq!(
        (
            e.task.cgroup_id,
            e.task.pid,
            e.task.uid,
            e.task.mnt_ns,
            e.task.pid_ns
        ),
        (42, 100, 1000, 11, 12)
    );
}

#[test]
fn a_hash_is_what_the_kernel_said_it_is() {
    let hash = |alg, flags| match decode(&Raw::file(kind::EXECUTION, alg, flags, b"/x"))
        .unwrap()
        .body
    {
        Body::File(f) => f.file_hash(),
        other => panic!("{other:?}"),
    };
    let sha256 = Digest::new(Bank::Sha256, &[0xab; 32]).unwrap();
    assert_eq!(hash(4, 0), FileHash::Measured(sha256.clone()));
    assert_eq!(hash(4, flag::HASH_PRE_CHECK), FileHash::PreCheck(sha256));
    assert_eq!(
        hash(2, 0),
        FileHash::Measured(Digest::new(Bank::Sha1, &[0xab; 20]).unwrap())
    );
    assert_eq!(hash(-95, 0), FileHash::Unhashed(-95));
    assert_eq!(hash(HASH_NOT_TRIED, 0), FileHash::Unhashed(0));
    // MD5 and MD4, whose number is 0, are hashes, not failures; evidence cannot carry them.
    assert_eq!(hash(1, 0), FileHash::Unhashed(-93));
    assert_eq!(hash(0, 0), FileHash::Unhashed(-93));
}

#[test]
fn a_mapping_says_that_it_is_writable_too_and_nothing_else_does() {
    let is_writable = |kind, flags| {
        let decoded = decode(&Raw::file(kind, 4, flags, b"/x"));
        decoded.map(|event| match event.body {
            Body::File(f) => f.writable,
            other => panic!("{other:?}"),
        })
    };
    for kind in [kind::MAPPING, kind::LATE_MAPPING] {
        assert_eq!(is_writable(kind, flag::WRITABLE), Ok(true));
        assert_eq!(
            is_writable(kind, !flag::WRITABLE & !flag::PATH_REVERSED),
            Ok(false)
        );
    }
    for kind in [kind::EXECUTION, kind::SCRIPT, kind::LAYER_WRITE] {
        assert_eq!(is_writable(kind, 0), Ok(false));
        let refused = is_writable(kind, flag::WRITABLE).unwrap_err();
        let (offset, value) = (24 + 8 + 5 * 4, u64::from(flag::WRITABLE));
        let is_it = matches!(
            refused,
            DecodeError::Malformed { field: "task.flags", offset: at, value: found, .. }
                if (at, found) == (offset, value)
        );
        assert!(is_it, "{refused:?}");
    }
}

#[test]
fn a_reversed_path_is_turned_round() {
    let path = |stored: &[u8], flags| match decode(&Raw::file(kind::LATE_MAPPING, -1, flags, stored))
        .unwrap()
        .body
    {
        Body::File(f) => (f.path.to_vec(), f.path_cut),
        other => panic!("{other:?}"),
    };
    let reversed = flag::PATH_REVERSED;
    assert_eq!(
        path(b"sh\0bin\0usr\0", reversed),
        (b"/usr/bin/sh".to_vec(), false)
    );
    assert_eq!(
        path(b"x\0", reversed | flag::PATH_DELETED),
        (b"/x (deleted)".to_vec(), false)
    );
    assert_eq!(path(b"", reversed), (b"/".to_vec(), false));
    // What was cut lacks its beginning, and must not look as if it were whole.
    assert_eq!(
        path(b"sh\0bi", reversed | flag::PATH_CUT),
        (b"bi/sh".to_vec(), true)
    );
    assert_eq!(path(b"", reversed | flag::PATH_CUT), (b"".to_vec(), true));
    assert_eq!(path(b"/plain\0", 0), (b"/plain\0".to_vec(), false));
}

#[test]
fn a_cgroup_directory_has_a_parent_unless_it_is_a_root() {
    let change = |raw: &Bytes| match decode(raw).unwrap().body {
        Body::Cgroup(c) => c,
        other => panic!("{other:?}"),
    };
    let c = change(&Raw::cgroup(kind::CGROUP_GONE, b"pod1", 4));
    assert_eq!(
        (c.change, c.id, c.parent_id, c.hierarchy, &c.name[..]),
        (CgroupChange::Gone, 9, Some(1), 0, &b"pod1"[..])
    );
    let mut root = Raw::cgroup(kind::CGROUP_RENAMED, b"", 0).to_vec();
    root[HEADER_LEN + 8..HEADER_LEN + 16].fill(0);
    assert_eq!(change(&root.into()).parent_id, None);
}

#[test]
fn every_truncation_of_every_record_is_incomplete_and_none_panics() {
    for raw in samples() {
        for n in 0..raw.len() {
            let result = decode(&raw.slice(..n));
            assert!(
                matches!(result, Err(DecodeError::Incomplete { have, .. }) if have == n),
                "{n}: {result:?}"
            );
        }
        decode(&raw).unwrap();
    }
}

#[test]
fn what_follows_a_record_is_ignored_and_its_length_is_reported() {
    for raw in samples() {
        let mut longer = raw.to_vec();
        longer.resize(raw.len() + 500, 0xee);
        assert_eq!(record_len(&longer), Ok(raw.len()));
        assert_eq!(record_seq(&longer), Ok(7));
        assert_eq!(decode(&longer.into()), decode(&raw));
    }
}

#[test]
fn a_record_whose_header_claims_another_length_is_refused_at_that_field() {
    for raw in samples() {
        let claim = |len: usize| {
            let mut bytes = raw.to_vec();
            bytes[LEN_OFFSET..LEN_OFFSET + 4].copy_from_slice(&(len as u32).to_ne_bytes());
            bytes.resize(raw.len() + 8, 0);
            decode(&bytes.into())
        };
        assert!(matches!(
            claim(raw.len() + 1),
            Err(DecodeError::Malformed {
                offset: LEN_OFFSET,
                ..
            })
        ));
        assert!(matches!(
            claim(raw.len() - 1),
            Err(DecodeError::Incomplete { .. })
        ));
        assert!(matches!(
            claim(HEADER_LEN - 1),
            Err(DecodeError::Malformed {
                offset: LEN_OFFSET,
                ..
            })
        ));
        assert!(matches!(
            claim(u32::MAX as usize),
            Err(DecodeError::Incomplete { .. })
        ));
    }
}

#[test]
fn counts_beyond_the_layout_are_refused_where_they_stand() {
    let at = |raw: &Bytes, offset: usize, value: u32| {
        let mut bytes = raw.to_vec();
        bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        match decode(&bytes.into()) {
            Err(DecodeError::Malformed {
                offset: found,
                value: v,
                ..
            }) => assert_eq!((found, v), (offset, value.into())),
            other => panic!("{other:?}"),
        }
    };
    use std::mem::offset_of;
    let entry = &samples()[0];
    let task = offset_of!(EntryHead, task);
    at(
        entry,
        task + offset_of!(Task, n_ancestors),
        MAX_ANCESTORS as u32 + 1,
    );
    at(entry, task + offset_of!(Task, n_ancestors), u32::MAX);
    at(entry, offset_of!(EntryHead, n_digests), MAX_DIGESTS as u32 + 1);
    at(entry, offset_of!(EntryHead, name_len), LARGE_PATH as u32 + 1);
    at(&samples()[2], offset_of!(FileHead, path_len), u32::MAX);
    at(
        &samples()[5],
        offset_of!(CgroupRecord, name_len),
        MAX_NAME as u32 + 1,
    );
}

#[test]
fn another_version_an_unknown_kind_and_number_zero_are_refused() {
    let with = |offset: usize, bytes: &[u8]| {
        let mut raw = samples()[0].to_vec();
        raw[offset..offset + bytes.len()].copy_from_slice(bytes);
        decode(&raw.into())
    };
    for (offset, bytes) in [
        (18, &(LAYOUT_VERSION + 1).to_ne_bytes()[..]),
        (16, &99u16.to_ne_bytes()),
        (0, &0u64.to_ne_bytes()),
    ] {
        let result = with(offset, bytes);
        assert!(
            matches!(result, Err(DecodeError::Malformed { offset: o, .. }) if o == offset),
            "{result:?}"
        );
    }
}

#[test]
fn a_cgroup_name_that_no_directory_can_have_is_refused() {
    for (name, bad) in [(&b"a/b"[..], 1), (b"a\0b", 1), (b"/", 0)] {
        let result = decode(&Raw::cgroup(kind::CGROUP_NEW, name, name.len() as u32));
        let offset = std::mem::offset_of!(CgroupRecord, name) + bad;
        assert!(
            matches!(result, Err(DecodeError::Malformed { offset: o, .. }) if o == offset),
            "{result:?}"
        );
    }
}

#[test]
fn algorithm_numbers_are_those_of_the_kernels_header() {
    // The kernel's user-space interface, read as C by libclang.
    let header = "#include <linux/hash_info.h>\n";
    let bindings = bindgen::builder()
        .header_contents("hash.h", header)
        .generate()
        .unwrap()
        .to_string();
    for (bank, number) in HASH_ALGOS {
        let line = format!("HASH_ALGO_{}: hash_algo = {number};", bank.name().to_uppercase());
        assert!(bindings.contains(&line), "{line} is not in\n{bindings}");
    }
}

proptest! {
    #[test]
    fn odd_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        let _ = decode(&bytes.into());
    }

    #[test]
    fn a_damaged_record_never_panics(which in 0usize..6, at in 0usize..1200, value: u8) {
        let mut bytes = samples()[which].to_vec();
        let i = at % bytes.len();
        bytes[i] = value;
        let _ = decode(&bytes.into());
    }

    #[test]
    fn any_path_survives(path in proptest::collection::vec(any::<u8>(), 0..LARGE_PATH)) {
        let event = decode(&Raw::file(kind::EXECUTION, 4, 0, &path)).unwrap();
        let same = matches!(event.body, Body::File(f) if f.path == path);
        prop_assert!(same);
    }
}
