//! A machine made of software under the real engine: a file in place of the kernel's list, a queue in place
//! of the ring buffer, a plain directory in place of the file system of checkpoints.
//!
//! Promises: the list grows by whole `ima-ng` entries as `binary_runtime_measurements` has them, records are
//! bytes as the eBPF programs write them, and the canary is executed for real. No TPM's register is extended;
//! a trust domain's is a file that extends as the kernel's does.

use bytes::Bytes;
use cgpath_ebpf_common::{LAYOUT_VERSION, MAX_ANCESTORS, MAX_DIGESTS, TICK_NS, kind};
use cgpath_evidence::{Bank, Digest, GuardMode, Protection, checkpoint, td};
use cgpathd::anchor::AnchorError;
use cgpathd::anchor::ima::CheckpointFiles;
use cgpathd::anchor::rtmr::{Rtmr, file_name};
use cgpathd::engine::core::{Core, Machine, Opened};
use cgpathd::engine::{Canary, EngineError};
use cgpathd::journal::Journal;
use cgpathd::pipeline::{Counters, Note, OpenMark, Place, Setup};
use cgpathd::sources::list::ListReader;
use p256::ecdsa::SigningKey;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pods of a machine where it does not matter how many.
#[allow(dead_code, reason = "a measurement has its own number")]
pub const PODS: u64 = 4;

/// boot_id of this machine.
pub const BOOT_ID: [u8; 16] = [7; 16];

/// Entries before the programs are loaded, and between that and checkpoint 0: none of them has a record.
const EARLY: u64 = 40;
const BETWEEN: u64 = 1;

/// Inode numbers of cgroup directories: the root, the pods' root, and behind it those of pods.
const ROOT: u64 = 1;
const KUBEPODS: u64 = 2;

/// `HASH_ALGO_SHA256`, include/uapi/linux/hash_info.h.
const HASH_ALGO_SHA256: u32 = 4;

pub struct Software {
    list: File,
    /// What the next [`Software::publish`] adds to the list.
    pending: Vec<u8>,
    ring: VecDeque<Vec<u8>>,
    seq: u64,
    files: CheckpointFiles,
    canary: Canary,
    /// The programs see no execution.
    pub deaf: bool,
    /// Threads that are adding an entry.
    pub inside: Vec<OpenMark>,
    /// The content of the file at the collector's path; none where there is no file.
    pub file: Option<Digest>,
    /// Programs that the guard was made to take for the collector, the last one last.
    pub let_in: Vec<Digest>,
    /// Where checkpoints are anchored.
    pub places: Vec<Place>,
    /// How many more times the register can be reached, each time from both its sides, before the collector
    /// is killed there; none: for ever.
    pub dies_in: Option<u32>,
    /// Whether it was killed.
    pub dead: bool,
    /// How often the register was extended.
    pub extended: u64,
    dir: PathBuf,
    pods: u64,
    key: SigningKey,
    node_key: SigningKey,
}

/// Where the collector's file lies.
pub const PROGRAM: &str = "/usr/sbin/cgpathd";

/// The program that runs.
pub fn program() -> Digest {
    Bank::Sha256.hash(&[b"this collector"])
}

/// Numbers of a record, host byte order. Layouts: `cgpath_ebpf_common`.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(kind: u16, seq: u64, cgroup: u64, tgid: u32) -> Raw {
        let raw = Raw::default().u64(seq).u64(seq * 1000 + TICK_NS * 10_000);
        let raw = Raw([&raw.0[..], &kind.to_ne_bytes(), &LAYOUT_VERSION.to_ne_bytes()].concat()).u32(0);
        let mut raw = raw.u64(cgroup).u32(tgid).u32(0).u32(11).u32(12).u32(2).u32(0);
        for n in 0..MAX_ANCESTORS {
            let (start_ns, tgid) = match n {
                0 => (u64::from(tgid) * TICK_NS, tgid),
                1 => (0, 1),
                _ => (0, 0),
            };
            raw = raw.u64(start_ns).u32(tgid).u32(0);
        }
        raw
    }

    fn u32(mut self, n: u32) -> Raw {
        self.0.extend(n.to_ne_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Raw {
        self.0.extend(n.to_ne_bytes());
        self
    }

    /// A file of no overlay, on ext4.
    fn on_ext4(self) -> Raw {
        self.u64(1).u64(0xef53).u64(0).u64(0).u32(0).u32(0)
    }

    fn bytes(mut self, bytes: &[u8], room: usize) -> Raw {
        self.0.extend(bytes);
        self.0.resize(self.0.len() + room.saturating_sub(bytes.len()), 0);
        self
    }

    fn done(mut self) -> Vec<u8> {
        let at = std::mem::offset_of!(cgpath_ebpf_common::Header, len);
        let len = self.0.len() as u32;
        self.0[at..at + 4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

impl Software {
    /// A machine with its list in `dir`, and the engine's core that has just seen its programs loaded.
    /// With so many pods.
    pub fn boot(dir: &Path, pods: u64) -> Result<Core<Software>, EngineError> {
        Software::new(dir, pods).start()
    }

    /// A machine on which no collector was started yet.
    pub fn new(dir: &Path, pods: u64) -> Software {
        let path = dir.join("binary_runtime_measurements");
        let checkpoints = dir.join("checkpoints");
        std::fs::create_dir(&checkpoints).unwrap();
        let mut machine = Software {
            list: File::create(&path).unwrap(),
            pending: Vec::new(),
            ring: VecDeque::new(),
            seq: 0,
            files: CheckpointFiles::over(checkpoints, 16),
            canary: Canary::find(),
            deaf: false,
            inside: Vec::new(),
            file: Some(program()),
            let_in: Vec::new(),
            places: vec![Place::Pcr10],
            dies_in: None,
            dead: false,
            extended: 0,
            dir: dir.to_owned(),
            pods,
            key: SigningKey::random(&mut rand_core::OsRng),
            node_key: SigningKey::random(&mut rand_core::OsRng),
        };
        let registers = machine.registers();
        std::fs::create_dir(&registers).unwrap();
        std::fs::write(registers.join(file_name(3)), [0x33; 48]).unwrap();
        for n in 0..EARLY {
            machine.list_entry(&format!("/boot/{n}"), &content(n));
        }
        machine.publish();
        machine
    }

    /// Starts a collector, the first one or another one after it died.
    pub fn start(mut self) -> Result<Core<Software>, EngineError> {
        let machine = &mut self;
        let (dir, pods) = (machine.dir.clone(), machine.pods);
        let path = dir.join("binary_runtime_measurements");
        let mut list = ListReader::open(&path)?;
        let mut early = Vec::new();
        let list_len = list.poll(|entry| {
            early.push(entry);
            Ok::<(), EngineError>(())
        })?;
        let mut journal = Journal::open(&dir, &BOOT_ID)?;
        let is_first = journal.is_empty();
        let between = if is_first { BETWEEN } else { 0 };
        for n in EARLY..EARLY + between {
            machine.list_entry(&format!("/boot/{n}"), &content(n));
        }
        machine.publish();
        if is_first {
            journal.append_note(&Note::Base { list_len })?;
        }
        let key = machine.key.clone();
        let has_register = machine.places.iter().any(|place| *place != Place::Pcr10);
        let setup = Setup {
            boot_id: BOOT_ID,
            hierarchy: "v2".into(),
            bpf_object: [1; 32],
            bpf_placed: None,
            ima_policy: None,
            key: cgpathd::anchor::key::public(&key),
            node_key: has_register.then(|| td::public_node_key(&machine.node_key)),
            other_writer: false,
            // Nothing is late but by a busy machine.
            drain_timeout: Duration::from_secs(180),
            seal_records: 0,
            protection: Protection {
                guard: GuardMode::Record,
                tpm: GuardMode::Record,
                enforce: false,
                fail_closed: false,
            },
            program: program(),
            program_path: PROGRAM.into(),
        };
        let opened = Opened {
            dir: &dir,
            journal,
            list,
            early,
            places: machine.places.clone(),
            key,
        };
        let mut core = Core::start(self, setup, opened)?;
        if !core.pipeline().is_loaded() {
            core.loaded(seeds(pods))?;
        }
        take(&mut core)?;
        Ok(core)
    }

    /// Somebody uses a file for the first time: actor 0 is the host, others are pods. In the list after
    /// [`Software::publish`].
    pub fn measure(&mut self, actor: u64, path: &str, content: &Digest) {
        let digests = self.list_entry(path, content);
        self.seq += 1;
        let raw = Raw::new(kind::ENTRY, self.seq, cgroup_of(actor), tgid_of(actor));
        let raw = raw
            .u32(0)
            .u32(10)
            .u32(digests.len() as u32)
            .u32(path.len() as u32);
        let mut raw = raw.u64(0x10_0003).u64(self.seq).on_ext4();
        for slot in 0..MAX_DIGESTS {
            let (algorithm, bytes) = match digests.get(slot) {
                Some(digest) if digest.bank() == Bank::Sha1 => (0x0004u16, digest.bytes()),
                Some(digest) => (0x000b, digest.bytes()),
                None => (0, &[][..]),
            };
            raw = raw.bytes(&algorithm.to_ne_bytes(), 8).bytes(bytes, 64);
        }
        self.ring.push_back(raw.bytes(path.as_bytes(), 0).done());
    }

    /// A program was executed.
    fn executed(&mut self, tgid: u32, path: &str, hash: &Digest) {
        self.seq += 1;
        let raw = Raw::new(kind::EXECUTION, self.seq, ROOT, tgid)
            .u64(0x10_0003)
            .u64(77)
            .on_ext4();
        let raw = raw.u32(HASH_ALGO_SHA256).u32(path.len() as u32);
        let raw = raw.bytes(hash.bytes(), 64).bytes(path.as_bytes(), 0);
        self.ring.push_back(raw.done());
    }

    /// An `ima-ng` entry: PCR, SHA-1 of the data, template name, data; ima_fs.c, `ima_measurements_show`.
    /// Gives its template digests.
    fn list_entry(&mut self, path: &str, content: &Digest) -> [Digest; 2] {
        let mut data = Vec::with_capacity(64 + path.len());
        for field in [
            [b"sha256:\0", content.bytes()].concat(),
            [path.as_bytes(), &[0]].concat(),
        ] {
            data.extend((field.len() as u32).to_le_bytes());
            data.extend(field);
        }
        let digests = [Bank::Sha1.hash(&[&data]), Bank::Sha256.hash(&[&data])];
        self.pending.extend(10u32.to_le_bytes());
        self.pending.extend(digests[0].bytes());
        self.pending.extend(6u32.to_le_bytes());
        self.pending.extend(b"ima-ng");
        self.pending.extend((data.len() as u32).to_le_bytes());
        self.pending.extend(data);
        digests
    }

    /// Where the register's file is.
    fn registers(&self) -> PathBuf {
        self.dir.join("measurements")
    }

    /// The collector is killed at this moment, or it is not.
    fn may_die(&mut self) -> Result<(), AnchorError> {
        match &mut self.dies_in {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if self.dead {
            // What it would have done next is not done: the driver of the core looks at `dead`.
            return Err(AnchorError::Unconfigured(Place::Rtmr(3)));
        }
        Ok(())
    }

    /// What was measured is in the list from now on.
    pub fn publish(&mut self) {
        self.list.write_all(&self.pending).unwrap();
        self.pending.clear();
    }
}

impl Machine for Software {
    fn counters(&mut self) -> Result<Counters, EngineError> {
        Ok(Counters {
            seq: self.seq,
            attached: true,
            ..Counters::default()
        })
    }

    fn in_flight(&mut self) -> Result<Vec<OpenMark>, EngineError> {
        Ok(self.inside.clone())
    }

    fn canary(&mut self) -> Option<u32> {
        let tgid = self.canary.run()?;
        if !self.deaf {
            self.executed(tgid, "/lib64/ld-linux-x86-64.so.2", &content(0));
        }
        Some(tgid)
    }

    fn successor(&mut self) -> Option<u32> {
        let hash = self.file.clone()?;
        let tgid = self.canary.run()?;
        if !self.deaf {
            self.executed(tgid, PROGRAM, &hash);
        }
        Some(tgid)
    }

    fn let_in(&mut self, program: &Digest) -> Result<(), EngineError> {
        self.let_in.push(program.clone());
        Ok(())
    }

    fn anchor(&mut self, place: Place, number: u64, file: &[u8]) -> Result<(), AnchorError> {
        if place != Place::Pcr10 {
            self.may_die()?;
            let before = Rtmr::at(&self.registers(), 3).read()?;
            let after = td::extend(&before, &td::checkpoint_digest(file));
            std::fs::write(self.registers().join(file_name(3)), after).unwrap();
            self.extended += 1;
            return self.may_die();
        }
        self.files.read_once(number, file)?;
        let path = format!("{}{number}", checkpoint::DIRECTORY);
        self.measure(0, &path, &Bank::Sha256.hash(&[file]));
        self.publish();
        Ok(())
    }

    fn register(&mut self, _place: Place) -> Result<td::Register, AnchorError> {
        self.may_die()?;
        let value = Rtmr::at(&self.registers(), 3).read()?;
        self.may_die()?;
        Ok(value)
    }

    fn other_log(&mut self) -> Result<Vec<u8>, AnchorError> {
        Ok(Vec::new())
    }
}

/// Takes all records that wait, as the engine takes those of the ring buffer.
pub fn take(core: &mut Core<Software>) -> Result<(), EngineError> {
    while let Some(kept) = keep(core) {
        core.record(&kept)?;
    }
    Ok(())
}

/// The next record that waits, out of the ring and in the journal; `None` where there is none, and where the
/// disk is full: then it stays in the ring.
pub fn keep(core: &mut Core<Software>) -> Option<Bytes> {
    let item = core.machine.ring.front()?.clone();
    let kept = core.keep(&item)?;
    core.machine.ring.pop_front();
    Some(kept)
}

/// The content of file `n`.
pub fn content(n: u64) -> Digest {
    Bank::Sha256.hash(&[&n.to_le_bytes()])
}

fn cgroup_of(actor: u64) -> u64 {
    if actor == 0 { ROOT } else { KUBEPODS + actor }
}

fn tgid_of(actor: u64) -> u32 {
    100 + actor as u32
}

/// What was there before the programs: init, pods' directories, and a process of each.
fn seeds(pods: u64) -> Vec<Note> {
    let directory = |id, parent, name: String| Note::SeedCgroup {
        id,
        parent,
        name: name.into_bytes(),
    };
    let process = |tgid: u32, exe: &str| Note::SeedProcess {
        tgid,
        start_ns: if tgid == 1 { 0 } else { u64::from(tgid) * TICK_NS },
        tick_ns: TICK_NS,
        exe: exe.as_bytes().to_vec(),
        dev: 0x10_0003,
        ino: u64::from(tgid),
    };
    let pod = |n: u64| {
        directory(
            KUBEPODS + n,
            KUBEPODS,
            format!("pod{n:08x}-0000-4000-8000-{n:012x}"),
        )
    };
    [
        directory(ROOT, 0, String::new()),
        directory(KUBEPODS, ROOT, "kubepods".into()),
        process(1, "/usr/lib/systemd/systemd"),
        process(tgid_of(0), "/usr/bin/some-daemon"),
    ]
    .into_iter()
    .chain((1..=pods).map(pod))
    .chain((1..=pods).map(|n| process(tgid_of(n), "/usr/bin/app")))
    .collect()
}
