//! A record: what our eBPF program saw at the moment of a measurement or an execution, resolved to paths.
//!
//! One record is one leaf of its partition's log; the leaf's bytes are the record's deterministic CBOR.

use crate::{Digest, Named, merkle, wire};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What a statement rests on. Never mixed: every verdict says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Inside of the template data, so the register vouches for it.
    Attested,
    /// Seen by our eBPF program at the moment it happened, sealed in a checkpoint.
    Observed,
    /// Reported by the container runtime or the Kubernetes API.
    Enriched,
}

/// What happened.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum EventKind {
    /// IMA tried to add an entry to the list; `ret` says with what result (0, or -17 `EEXIST`).
    #[n(1)]
    Entry,
    /// IMA logged a violation (ToMToU, open writers): zero digests, joined by file name and order.
    #[n(2)]
    Violation,
    /// A program was executed; the hash is of the file that now runs.
    #[n(3)]
    Execution,
    /// A `#!` script was handed to its interpreter; the hash is taken before IMA's own turn.
    #[n(4)]
    Script,
    /// A file was mapped executable.
    #[n(5)]
    Mapping,
    /// A mapping of a file was made executable later; IMA does not see it without an appraise policy.
    #[n(6)]
    LateMapping,
    /// A part of the collector or the TPM was touched by somebody else, or an execution was denied; see
    /// [`GuardAction`].
    #[n(7)]
    Guard,
    /// Records of a pod were not kept, since it was beyond its budget; see [`PodLoss`].
    #[n(8)]
    PodLoss,
    /// A file that is executed or mapped through an overlay was opened for writing in its layer, or through
    /// another overlay, where neither the first one nor IMA sees it.
    #[n(9)]
    LayerWrite,
    /// The container runtime named the pod or a container of it, for the first time; see [`Named`].
    #[n(10)]
    Name,
    /// The kernel was handed a module or a kernel as bytes, not as a file, so that IMA did not see it; see
    /// [`Load`].
    #[n(11)]
    Load,
}

/// What a record of the guard is about.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum GuardAction {
    /// A descriptor of one of our eBPF maps, with which it can be written.
    #[n(1)]
    MapOpened,
    /// A descriptor of one of our maps, with which it can only be read.
    #[n(2)]
    MapRead,
    /// A descriptor of one of our programs.
    #[n(3)]
    ProgramOpened,
    /// A descriptor of one of our links.
    #[n(4)]
    LinkOpened,
    /// One of our links was to be detached, or to run another program.
    #[n(5)]
    LinkChanged,
    /// A pin was removed.
    #[n(6)]
    PinRemoved,
    /// A pin or the directory of the pins was renamed.
    #[n(7)]
    PinRenamed,
    /// The directory of the pins was removed.
    #[n(8)]
    DirectoryRemoved,
    /// The file system of the pins was unmounted.
    #[n(9)]
    Unmounted,
    /// The collector's memory, registers or descriptors were reached for.
    #[n(10)]
    Traced,
    /// The TPM's device was opened.
    #[n(11)]
    TpmOpened,
    /// A file was opened for writing by which the TPM's driver lets go of it.
    #[n(12)]
    TpmUnbound,
    /// kernel.ftrace_enabled was opened for writing: off, it stops every eBPF program of ours.
    #[n(13)]
    FtraceOpened,
    /// An execution was denied in a pod that the verifier does not trust.
    #[n(14)]
    ExecutionDenied,
    /// An executable mapping was denied in a pod that the verifier does not trust.
    #[n(15)]
    MappingDenied,
    /// An execution was denied in a pod, since records had been lost.
    #[n(16)]
    ExecutionDeniedOnLoss,
    /// An execution was denied in a pod that has as many entries in the list as it may.
    #[n(17)]
    ExecutionDeniedOnEntries,
    /// An executable mapping was denied in a pod that has as many entries in the list as it may.
    #[n(18)]
    MappingDeniedOnEntries,
}

impl GuardAction {
    /// Its name in policies and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            GuardAction::MapOpened => "map-opened",
            GuardAction::MapRead => "map-read",
            GuardAction::ProgramOpened => "program-opened",
            GuardAction::LinkOpened => "link-opened",
            GuardAction::LinkChanged => "link-changed",
            GuardAction::PinRemoved => "pin-removed",
            GuardAction::PinRenamed => "pin-renamed",
            GuardAction::DirectoryRemoved => "directory-removed",
            GuardAction::Unmounted => "unmounted",
            GuardAction::Traced => "traced",
            GuardAction::TpmOpened => "tpm-opened",
            GuardAction::TpmUnbound => "tpm-unbound",
            GuardAction::FtraceOpened => "ftrace-opened",
            GuardAction::ExecutionDenied => "execution-denied",
            GuardAction::MappingDenied => "mapping-denied",
            GuardAction::ExecutionDeniedOnLoss => "execution-denied-on-loss",
            GuardAction::ExecutionDeniedOnEntries => "execution-denied-on-entries",
            GuardAction::MappingDeniedOnEntries => "mapping-denied-on-entries",
        }
    }

    /// Whether this is something that the collector's own settings did to a pod, not something done to the
    /// collector.
    pub fn is_enforcement(self) -> bool {
        matches!(
            self,
            GuardAction::ExecutionDenied
                | GuardAction::MappingDenied
                | GuardAction::ExecutionDeniedOnLoss
                | GuardAction::ExecutionDeniedOnEntries
                | GuardAction::MappingDeniedOnEntries
        )
    }
}

/// What a record of the guard says beside who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Guard {
    /// What was done, or tried.
    #[n(0)]
    pub action: GuardAction,
    /// The kernel's number of the thing: id of a map, program or link, thread group id, device; 0 where there
    /// is none.
    #[n(1)]
    pub object: u64,
}

/// What was not recorded of a pod that was beyond its budget: all so far, so that of two such records the
/// later one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct PodLoss {
    /// Executions, and scripts that were handed to their interpreter.
    #[n(0)]
    pub executions: u64,
    /// Executable mappings, late ones too.
    #[n(1)]
    pub mappings: u64,
    /// Executions and mappings that were denied.
    #[n(2)]
    pub denials: u64,
    /// Entries that IMA tried to add and that its list had already.
    #[n(3)]
    pub repeats: u64,
    /// When the first of them was, in nanoseconds of CLOCK_BOOTTIME.
    #[n(4)]
    pub first_ns: u64,
    /// When the last of them was, in nanoseconds of CLOCK_BOOTTIME.
    #[n(5)]
    pub last_ns: u64,
}

impl PodLoss {
    /// How many in all.
    pub fn total(&self) -> u64 {
        [self.executions, self.mappings, self.denials, self.repeats]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// What the kernel was handed as bytes. Whether it took it is not known.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Loaded {
    /// A module (`init_module(2)`). The record's hash is of the bytes as the kernel had them in its own
    /// memory.
    #[n(1)]
    Module,
    /// A kernel to be started (`kexec_load(2)`), which shows nothing of what it takes; or what that call had
    /// loaded before was to be given back.
    #[n(2)]
    Kexec,
}

/// What a record of a load says beside who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Load {
    /// What it was.
    #[n(0)]
    pub what: Loaded,
    /// How many bytes; 0 where the kernel does not show that.
    #[n(1)]
    pub size: u64,
}

/// What file it is, beyond its device and inode number. See docs/decisions/0049.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Identity {
    /// The inode's generation: another one where the file system uses its number again. Inodes of overlayfs
    /// have none; of them it tells overlays apart that had one device number: generation and inode number of
    /// the upper directory, 0 without one.
    #[n(0)]
    pub generation: u64,
    /// Magic number (include/uapi/linux/magic.h) of the file system that holds the content; that of overlayfs
    /// where the layer is not known.
    #[n(1)]
    pub magic: u64,
    /// Of a file of an overlay, the file of a layer that holds its content; absent where it is not known.
    #[n(2)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerFile>,
    /// Whether the layer's file was open for writing beside the overlay.
    #[n(3)]
    pub written: bool,
}

/// A file of a layer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[cbor(map)]
pub struct LayerFile {
    /// Device: major << 20 | minor.
    #[n(0)]
    pub dev: u64,
    /// Inode number.
    #[n(1)]
    pub ino: u64,
    /// The inode's generation.
    #[n(2)]
    pub generation: u32,
}

/// `OVERLAYFS_SUPER_MAGIC`, include/uapi/linux/magic.h.
pub const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// `TMPFS_MAGIC`, include/uapi/linux/magic.h.
pub const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Device of the tmpfs that the kernel mounts for itself, before everything else and for as long as it runs:
/// 0:1. No path leads there, so that nothing on it ever had a name in a directory. Source: fs/namespace.c,
/// `mnt_init`, which calls `shmem_init` of mm/shmem.c first.
pub const UNLINKED_MEMORY_DEVICE: u64 = 1;

/// The content hash of the file that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "kebab-case", tag = "state", content = "value")]
pub enum FileHash {
    /// The hash that IMA holds for the inode, taken after IMA's own measurement; or that of bytes that no
    /// process can change any more.
    #[n(1)]
    Measured(#[n(0)] Digest),
    /// Taken before IMA's own turn: can be stale for a file changed through overlayfs' upper directory.
    #[n(2)]
    PreCheck(#[n(0)] Digest),
    /// None could be had; the kernel's error number, negative, or 0 where none was tried.
    #[n(3)]
    Unhashed(#[n(0)] i32),
}

impl FileHash {
    /// The digest, whatever its state.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            FileHash::Measured(d) | FileHash::PreCheck(d) => Some(d),
            FileHash::Unhashed(_) => None,
        }
    }
}

/// How the executable of an [`Ancestor`] became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum ExeSource {
    /// Recorded when it executed.
    #[n(0)]
    Recorded,
    /// Older than the load of our programs: read from /proc at start.
    #[n(1)]
    Seeded,
    /// A kernel thread, the idle task or a process that never executed anything we know.
    #[n(2)]
    Unknown,
    /// Never executed since its fork: what its parent ran at that moment. Descriptive only, since a process
    /// can have been given another parent in between.
    #[n(3)]
    Inherited,
}

/// One process of the ancestry, from the process itself (index 0) up to pid 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Ancestor {
    /// Thread group id in the initial pid namespace.
    #[n(0)]
    pub tgid: u32,
    /// Start, in nanoseconds of CLOCK_BOOTTIME.
    #[n(1)]
    pub start_ns: u64,
    /// The executable's path as its mount namespace shows it, raw bytes; empty where unknown.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "lossy_path")]
    pub exe: Vec<u8>,
    /// Device of the executable, in the kernel's encoding: major << 20 | minor.
    #[n(3)]
    pub dev: u64,
    /// Inode number of the executable.
    #[n(4)]
    pub ino: u64,
    /// How the executable became known.
    #[n(5)]
    pub source: ExeSource,
}

/// One event, as it is sealed, sent and appraised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Record {
    /// Number given by the kernel side, from 1, without holes but where a record was lost; 0 for names, which
    /// the collector makes.
    #[n(0)]
    pub seq: u64,
    /// When, in nanoseconds of CLOCK_BOOTTIME.
    #[n(1)]
    pub boot_ns: u64,
    /// What happened.
    #[n(2)]
    pub kind: EventKind,
    /// Return code of the hooked function: 0, or a negative error number.
    #[n(3)]
    pub ret: i32,
    /// The PCR that IMA extends; 0 for events other than entries.
    #[n(4)]
    pub pcr: u32,
    /// Template digests by bank as the kernel had them; empty for events other than entries.
    #[n(5)]
    pub digests: Vec<Digest>,
    /// The file's content hash, or that of a module; absent for entries, whose own template data carries it,
    /// and writes.
    #[n(6)]
    pub hash: Option<FileHash>,
    /// File name or path as the kernel had it, raw bytes.
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "lossy_path")]
    pub path: Vec<u8>,
    /// Device of the file: major << 20 | minor; 0 where there is none.
    #[n(8)]
    pub dev: u64,
    /// Inode number of the file; 0 where there is none.
    #[n(9)]
    pub ino: u64,
    /// Inode number of the cgroup's directory.
    #[n(10)]
    pub cgroup_id: u64,
    /// The cgroup's path as it was at that moment, from the hierarchy's root, raw bytes; absent where
    /// unknown.
    #[n(11)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "lossy_path_option")]
    pub cgroup: Option<Vec<u8>>,
    /// Thread id in the initial pid namespace.
    #[n(12)]
    pub pid: u32,
    /// User id in the initial user namespace.
    #[n(13)]
    pub uid: u32,
    /// Mount namespace's inode number.
    #[n(14)]
    pub mnt_ns: u32,
    /// Pid namespace's inode number.
    #[n(15)]
    pub pid_ns: u32,
    /// The process itself, then its real parents up to pid 1, at most 32.
    #[n(16)]
    pub ancestry: Vec<Ancestor>,
    /// Whether the ancestry was cut at its bound.
    #[n(17)]
    pub ancestry_cut: bool,
    /// Whether the path was cut or could not be read.
    #[n(18)]
    pub path_cut: bool,
    /// What was done; records of the guard alone have it. Whether it was denied is in `ret`.
    #[n(19)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// What was not recorded; records of a pod's loss alone have it.
    #[n(20)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_loss: Option<PodLoss>,
    /// What file it is; absent where there is none, and in records of collectors that did not say. Apart, so
    /// that a record without it takes no more memory than before.
    #[n(21)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Box<Identity>>,
    /// What the pod or a container of it is called; records of names alone have it.
    #[n(23)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<Named>>,
    /// Whether the mapping is writable and executable at once, so that what runs there need not be the file's
    /// content. Of mappings and late mappings alone; stated only where it is so.
    #[n(24)]
    #[cbor(skip_if = "core::ops::Not::not")]
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub writable: bool,
    /// What the kernel was handed; records of a load alone have it.
    #[n(25)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Box<Load>>,
}

/// Upper bound of one record's encoding, in bytes: 33 paths of 4096 bytes and the rest.
pub const MAX_RECORD_LEN: usize = 256 * 1024;

impl Record {
    /// The leaf's bytes in its partition's log.
    pub fn to_cbor(&self) -> Vec<u8> {
        wire::to_vec(self)
    }

    /// # Errors
    /// As [`wire::from_slice`].
    pub fn from_cbor(bytes: &[u8]) -> crate::Result<Record> {
        wire::from_slice(bytes, "record", MAX_RECORD_LEN)
    }

    /// The leaf's hash in its partition's log.
    pub fn leaf_hash(&self) -> merkle::Hash {
        self.leaf_hash_in(&mut Vec::new())
    }

    /// The same; what is hashed is made in `buffer`, for those who hash many.
    pub fn leaf_hash_in(&self, buffer: &mut Vec<u8>) -> merkle::Hash {
        buffer.clear();
        buffer.push(merkle::LEAF);
        wire::append(self, buffer);
        Sha256::digest(buffer).into()
    }

    /// Whether this event says that a file's content was run, beside IMA's own entries.
    pub fn is_execution(&self) -> bool {
        matches!(
            self.kind,
            EventKind::Execution | EventKind::Script | EventKind::Mapping | EventKind::LateMapping
        )
    }

    /// Whether the file is shared memory without a name: a memfd, an anonymous shared mapping, or a System V
    /// segment.
    ///
    /// That is said by the file system that it lies on. Its path says nothing: a process names its memfds as
    /// it likes, and can give a file of any other file system a path that looks the same.
    pub fn is_of_unlinked_memory(&self) -> bool {
        let is_tmpfs = |identity: &Identity| identity.magic == TMPFS_MAGIC && identity.layer.is_none();
        self.dev == UNLINKED_MEMORY_DEVICE
            && self.identity.as_deref().is_some_and(is_tmpfs)
            // As the kernel shows what has no name. Where a record says otherwise, it contradicts itself.
            && self.path.ends_with(b" (deleted)")
    }
}

/// Paths in JSON: text where they are UTF-8, else `{"hex": "…"}`; so that nothing is lost.
pub mod lossy_path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    pub(super) enum Path {
        Text(String),
        Raw {
            #[serde(with = "crate::serde_bytes_hex")]
            hex: Vec<u8>,
        },
    }

    impl Path {
        pub(super) fn of(bytes: &[u8]) -> Path {
            match core::str::from_utf8(bytes) {
                Ok(text) => Path::Text(text.to_owned()),
                Err(_) => Path::Raw { hex: bytes.to_vec() },
            }
        }
        pub(super) fn into_bytes(self) -> Vec<u8> {
            match self {
                Path::Text(text) => text.into_bytes(),
                Path::Raw { hex } => hex,
            }
        }
    }

    /// Writes a path.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        Path::of(bytes).serialize(s)
    }

    /// Reads a path.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        Path::deserialize(d).map(Path::into_bytes)
    }
}

pub(crate) mod lossy_path_option {
    use super::lossy_path::Path;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(Path::of).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Path>::deserialize(d)?.map(Path::into_bytes))
    }
}

#[cfg(test)]
#[allow(missing_docs, reason = "test helper")]
pub(crate) fn sample(seq: u64, cgroup: &str, path: &str) -> Record {
    Record {
        seq,
        boot_ns: 1_000 * seq,
        kind: EventKind::Execution,
        ret: 0,
        pcr: 0,
        digests: vec![],
        hash: Some(FileHash::Measured(crate::Bank::Sha256.hash(&[path.as_bytes()]))),
        path: path.as_bytes().to_vec(),
        dev: 1,
        ino: seq,
        cgroup_id: 7,
        cgroup: Some(cgroup.as_bytes().to_vec()),
        pid: 10,
        uid: 0,
        mnt_ns: 1,
        pid_ns: 1,
        ancestry: vec![Ancestor {
            tgid: 10,
            start_ns: 5,
            exe: b"/bin/sh".to_vec(),
            dev: 1,
            ino: 2,
            source: ExeSource::Recorded,
        }],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_cbor_and_json_with_paths_that_are_not_text() {
        let mut record = sample(3, "/kubepods/x", "/bin/true");
        record.path = vec![b'/', 0xff, b'\n'];
        assert_eq!(Record::from_cbor(&record.to_cbor()).unwrap(), record);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }

    #[test]
    fn every_truncation_of_a_record_is_incomplete_and_none_panics() {
        let bytes = sample(3, "/kubepods/x", "/bin/true").to_cbor();
        for n in 0..bytes.len() {
            assert!(
                matches!(
                    Record::from_cbor(&bytes[..n]),
                    Err(crate::Error::Incomplete { .. })
                ),
                "at {n}"
            );
        }
    }

    #[test]
    fn a_kind_that_is_not_known_is_refused_as_an_older_reader_refuses_a_pods_loss() {
        let mut record = sample(3, "/kubepods/x", "/bin/true");
        record.kind = EventKind::PodLoss;
        record.pod_loss = Some(PodLoss {
            executions: 1,
            mappings: u64::MAX,
            denials: 2,
            repeats: 3,
            first_ns: 5,
            last_ns: 6,
        });
        assert_eq!(record.pod_loss.unwrap().total(), u64::MAX);
        assert!(!record.is_execution());
        let bytes = record.to_cbor();
        assert_eq!(Record::from_cbor(&bytes).unwrap(), record);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        // Key 2, and one more than the last kind that there is: what this kind is to a reader that does not
        // know it.
        let at = bytes.windows(3).position(|w| w == [2, 8, 3]).unwrap();
        let mut other = bytes;
        other[at + 1] = 12;
        assert!(matches!(
            Record::from_cbor(&other),
            Err(crate::Error::Malformed { .. })
        ));
    }

    #[test]
    fn a_record_says_what_file_it_is_or_nothing_and_an_unknown_key_is_refused_by_who_does_not_know_it() {
        let mut record = sample(3, "/kubepods/x", "/bin/true");
        let without = record.to_cbor();
        let layer = LayerFile {
            dev: 8 << 20 | 1,
            ino: 4711,
            generation: u32::MAX,
        };
        for layer in [None, Some(layer)] {
            record.identity = Some(Box::new(Identity {
                generation: u64::MAX,
                magic: OVERLAYFS_MAGIC,
                layer,
                written: layer.is_some(),
            }));
            let bytes = record.to_cbor();
            assert_eq!(Record::from_cbor(&bytes).unwrap(), record);
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
            // What a reader without key 21 makes of it: one more key than it knows.
            let mut other = bytes;
            let at = other
                .windows(2)
                .rposition(|w| w == [0x15, 0xa3] || w == [0x15, 0xa4]);
            other[at.unwrap()] = 0x16;
            assert_eq!(
                Record::from_cbor(&other),
                Err(crate::Error::NotDeterministic { what: "record" })
            );
        }
        // Older evidence reads as before.
        record.identity = None;
        assert_eq!(Record::from_cbor(&without).unwrap(), record);
    }

    #[test]
    fn unlinked_memory_is_known_by_its_file_system_and_not_by_its_name() {
        let memory = Identity {
            generation: 7,
            magic: TMPFS_MAGIC,
            layer: None,
            written: false,
        };
        let of = |path: &str, dev: u64, identity: Option<Identity>| Record {
            dev,
            identity: identity.map(Box::new),
            ..sample(3, "/kubepods/x", path)
        };
        for path in [
            "/memfd:doublemapper (deleted)",
            "/memfd: (deleted)",
            "/dev/zero (deleted)",
            "/SYSV00000000 (deleted)",
        ] {
            assert!(of(path, UNLINKED_MEMORY_DEVICE, Some(memory)).is_of_unlinked_memory());
        }
        let name = "/memfd:doublemapper (deleted)";
        let ext4 = Identity {
            magic: 0xef53,
            ..memory
        };
        let layer = LayerFile {
            dev: 1,
            ino: 2,
            generation: 3,
        };
        let below = Identity {
            layer: Some(layer),
            ..memory
        };
        for (what, record) in [
            ("another tmpfs", of(name, 0x1a, Some(memory))),
            ("a disk", of(name, 8 << 20 | 1, Some(ext4))),
            ("another file system", of(name, 1, Some(ext4))),
            ("an overlay", of(name, 1, Some(below))),
            ("a record that does not say", of(name, 1, None)),
            ("a device that could not be read", of(name, 0, Some(memory))),
            ("a file with a name", of("/memfd:doublemapper", 1, Some(memory))),
        ] {
            assert!(!record.is_of_unlinked_memory(), "{what}");
        }
    }

    #[test]
    fn a_writable_mapping_says_so_and_every_other_record_is_the_bytes_that_it_was() {
        let mut record = sample(3, "/kubepods/x", "/usr/lib/libc.so.6");
        record.kind = EventKind::Mapping;
        let without = record.to_cbor();
        record.writable = true;
        let bytes = record.to_cbor();
        assert_eq!(Record::from_cbor(&bytes).unwrap(), record);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        // One key more in the map, 24, and true.
        let mut more = without.clone();
        more[0] += 1;
        more.extend([0x18, 24, 0xf5]);
        assert_eq!(bytes, more);
        // False is said by silence, and a reader without key 24 refuses it, as this one refuses key 26.
        let at = bytes.len() - 1;
        for (place, byte) in [(at, 0xf4), (at - 1, 26)] {
            let mut other = bytes.clone();
            other[place] = byte;
            let refused = Record::from_cbor(&other);
            assert_eq!(refused, Err(crate::Error::NotDeterministic { what: "record" }));
        }
        // Older evidence reads as before.
        record.writable = false;
        assert_eq!(Record::from_cbor(&without).unwrap(), record);
        assert!(!serde_json::to_string(&record).unwrap().contains("writable"));
    }

    #[test]
    fn a_load_says_what_it_was_and_every_other_record_is_the_bytes_that_it_was() {
        let mut record = sample(3, "/system.slice/x", "");
        let without = record.to_cbor();
        record.kind = EventKind::Load;
        record.path = Vec::new();
        for what in [Loaded::Module, Loaded::Kexec] {
            record.load = Some(Box::new(Load { what, size: 1 << 33 }));
            let bytes = record.to_cbor();
            assert_eq!(Record::from_cbor(&bytes).unwrap(), record);
            assert!(!record.is_execution());
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        }
        // Older evidence reads as before.
        record = sample(3, "/system.slice/x", "");
        assert_eq!(Record::from_cbor(&without).unwrap(), record);
        assert!(!serde_json::to_string(&record).unwrap().contains("load"));
    }

    #[test]
    fn a_longer_encoding_of_the_same_record_is_refused() {
        let bytes = sample(3, "/", "/bin/true").to_cbor();
        // Key 0, value 3: the same value with a one-byte argument is valid CBOR and not deterministic.
        let at = bytes.windows(2).position(|w| w == [0, 3]).unwrap();
        let mut longer = bytes[..=at].to_vec();
        longer.extend([0x18, 3]);
        longer.extend(&bytes[at + 2..]);
        assert_eq!(
            Record::from_cbor(&longer),
            Err(crate::Error::NotDeterministic { what: "record" })
        );
    }
}
