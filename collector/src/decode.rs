//! Raw records of the ring buffer, decoded.
//!
//! Pure: bytes in, types out; no unsafe code. Layouts: `cgpath_ebpf_common`, host byte order. Every length is
//! checked before it is used, whatever the bytes say.
//! Not here: joining of paths and processes, what a record means.
#![forbid(unsafe_code)]

use bytes::Bytes;
use cgpath_ebpf_common::{
    FileHead, HASH_NOT_TRIED, Header, LARGE_PATH, LAYOUT_VERSION, MAX_ANCESTORS, MAX_DIGESTS, MAX_NAME,
    RawDigest, SHA256, SMALL_PATH, Task, TaskKey, action, flag, kind, load,
};
use cgpath_evidence::{
    Bank, Digest, EventKind, FileHash, GuardAction, Identity, LayerFile, Load, Loaded, PodLoss,
};

/// Bytes of [`Header`].
pub const HEADER_LEN: usize = size_of::<Header>();

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("record ends at byte {have}, {need} bytes are needed for {field}")]
    Incomplete {
        /// What was being read.
        field: &'static str,
        /// Bytes that it takes to read it, from the record's start.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// A field holds what it cannot hold.
    #[error("record field {field} at byte {offset} is {value}: {why}")]
    Malformed {
        /// The field.
        field: &'static str,
        /// Where it starts, from the record's start.
        offset: usize,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Result of decoding.
pub type Result<T> = std::result::Result<T, DecodeError>;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// From 1 over all kinds; a hole is a lost record. Records may come slightly out of order.
    pub seq: u64,
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boot_ns: u64,
    /// What happened.
    pub body: Body,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// IMA tried to add an entry, or logged a violation.
    Entry(EntryEvent),
    /// A file was executed or mapped, or written below an overlay.
    File(FileEvent),
    /// A guarded thing was touched, or an execution was denied.
    Guard(GuardEvent),
    /// Records of a pod were not sent.
    PodLoss(PodLossEvent),
    /// The kernel was handed a module or a kernel as bytes.
    Load(LoadEvent),
    /// A cgroup directory appeared, was renamed or went away.
    Cgroup(CgroupEvent),
}

/// Who caused an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskInfo {
    /// Inode number of the cgroup's directory.
    pub cgroup_id: u64,
    /// Thread id in the initial pid namespace.
    pub pid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    /// Inode number of the mount namespace; 0 where the task had none any more.
    pub mnt_ns: u32,
    /// Inode number of the pid namespace.
    pub pid_ns: u32,
    /// The process itself, then its real parents up to pid 1; at most [`MAX_ANCESTORS`].
    pub ancestors: Vec<TaskKey>,
    /// The ancestry goes on above the last one.
    pub ancestry_cut: bool,
    /// The ancestry changed again and again while it was walked: the last one stored may be wrong.
    pub ancestry_unstable: bool,
    /// A read of kernel memory failed while the record was made.
    pub read_failed: bool,
}

/// IMA tried to add an entry, or logged a violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryEvent {
    /// A violation: no digests, joined by name and order.
    pub violation: bool,
    /// Who.
    pub task: TaskInfo,
    /// Return code of `ima_add_template_entry`: 0, or a negative error number (-17 is `EEXIST`).
    pub ret: i32,
    /// PCR of the entry.
    pub pcr: u32,
    /// Template digests by bank, as the kernel had them.
    pub digests: Vec<Digest>,
    /// TPM_ALG_IDs of banks that there is no type for here (such as SM3).
    pub other_banks: Vec<u16>,
    /// The `filename` argument, raw bytes.
    pub name: Bytes,
    /// The name did not fit or could not be read.
    pub name_cut: bool,
    /// `s_dev` of the inode, `major << 20 | minor`; 0 where there is none.
    pub dev: u64,
    /// Inode number; 0 where there is none.
    pub ino: u64,
    /// What file that is; absent where there is none.
    pub identity: Option<Identity>,
}

/// A file was executed or mapped, or written below an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEvent {
    /// One of `Execution`, `Script`, `Mapping`, `LateMapping`, `LayerWrite`.
    pub kind: EventKind,
    /// Who.
    pub task: TaskInfo,
    /// `s_dev` of the file's inode, `major << 20 | minor`.
    pub dev: u64,
    /// Inode number of the file.
    pub ino: u64,
    /// What file that is.
    pub identity: Identity,
    /// Content hash.
    pub hash: KernelHash,
    /// The hash was taken before IMA's own turn.
    pub pre_check: bool,
    /// The path in the task's mount namespace, raw bytes; ends in ` (deleted)` if the file was.
    pub path: Bytes,
    /// The path did not fit or could not be read.
    pub path_cut: bool,
    /// A mapping that is writable and executable at once.
    pub writable: bool,
}

/// A guarded thing was touched, or an execution was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardEvent {
    /// What was done.
    pub action: GuardAction,
    /// Who.
    pub task: TaskInfo,
    /// The negative error number with which it was denied, or 0: then the kernel's own answer is not known.
    pub ret: i32,
    /// Number of the thing: id of a map, program or link, thread group id, device; 0 where there is none.
    pub object: u64,
    /// `s_dev` of the file that it is about; 0 where there is none.
    pub dev: u64,
    /// Inode number of that file; 0 where there is none.
    pub ino: u64,
    /// Its name, raw bytes.
    pub name: Bytes,
    /// The name did not fit or could not be read.
    pub name_cut: bool,
}

/// Records of a pod were not sent, since it was beyond its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodLossEvent {
    /// Inode number of the pod's own directory.
    pub pod_id: u64,
    /// All that were not sent so far.
    pub loss: PodLoss,
}

/// The kernel was handed a module or a kernel as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadEvent {
    /// What it was.
    pub load: Load,
    /// Who.
    pub task: TaskInfo,
    /// Hash of the bytes: measured; or unhashed, with a negative error number or 0 where the kernel shows
    /// nothing.
    pub hash: FileHash,
}

/// What the kernel answered when it was asked for a file's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelHash {
    /// The digest.
    Digest(Digest),
    /// A digest by an algorithm that there is no type for here; its number in `enum hash_algo`.
    OtherAlgorithm(u32),
    /// Refused: a negative error number.
    Failed(i32),
    /// Nobody asked.
    NotTried,
}

/// Linux' EPROTONOSUPPORT: stands in evidence for a hash by an algorithm that it cannot carry.
const EPROTONOSUPPORT: i32 = 93;

impl FileEvent {
    /// The hash as evidence carries it. A hash by an algorithm that evidence does not know is
    /// `Unhashed(-93)`.
    pub fn file_hash(&self) -> FileHash {
        match &self.hash {
            KernelHash::Digest(digest) if self.pre_check => FileHash::PreCheck(digest.clone()),
            KernelHash::Digest(digest) => FileHash::Measured(digest.clone()),
            KernelHash::OtherAlgorithm(_) => FileHash::Unhashed(-EPROTONOSUPPORT),
            KernelHash::Failed(errno) => FileHash::Unhashed(*errno),
            KernelHash::NotTried => FileHash::Unhashed(0),
        }
    }
}

/// What became of a cgroup directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupChange {
    /// Made.
    New,
    /// Renamed; `name` is the new one.
    Renamed,
    /// Removed.
    Gone,
}

/// A cgroup directory appeared, was renamed or went away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupEvent {
    /// Which of the three.
    pub change: CgroupChange,
    /// Inode number of the directory.
    pub id: u64,
    /// Inode number of its parent; `None` for a root.
    pub parent_id: Option<u64>,
    /// Hierarchy's number; 0 is v2.
    pub hierarchy: u32,
    /// The directory's own name, raw bytes, no slash.
    pub name: Bytes,
}

/// The bank of a number in the kernel's `enum hash_algo` (include/uapi/linux/hash_info.h).
pub fn bank_of_hash_algo(number: u32) -> Option<Bank> {
    HASH_ALGOS
        .iter()
        .find(|(_, n)| *n == number)
        .map(|(bank, _)| *bank)
}

/// The kernel's numbers of the algorithms that have a [`Bank`].
pub const HASH_ALGOS: [(Bank, u32); 4] = [
    (Bank::Sha1, 2),
    (Bank::Sha256, SHA256.cast_unsigned()),
    (Bank::Sha384, 5),
    (Bank::Sha512, 6),
];

/// Bytes of the record at the start of `raw` that hold something: what must be kept of a ring buffer's item.
///
/// # Errors
/// As [`decode`].
pub fn record_len(raw: &[u8]) -> Result<usize> {
    let mut at = Cursor { raw, pos: 0 };
    Ok(header(&mut at)?.2)
}

/// Sequence number of the record at the start of `raw`.
///
/// # Errors
/// As [`decode`].
pub fn record_seq(raw: &[u8]) -> Result<u64> {
    let mut at = Cursor { raw, pos: 0 };
    Ok(header(&mut at)?.0.seq)
}

/// Decodes the record at the start of `raw`; what follows it is ignored. Names and paths share `raw`'s
/// memory.
///
/// # Errors
/// [`DecodeError`], with the offset in `raw`.
pub fn decode(raw: &Bytes) -> Result<Event> {
    let mut at = Cursor { raw, pos: 0 };
    let (head, kind_offset, len) = header(&mut at)?;
    at.raw = &raw[..len];
    let body = match head.kind {
        kind::ENTRY | kind::VIOLATION => Body::Entry(entry(&mut at, raw, head.kind == kind::VIOLATION)?),
        kind::EXECUTION => Body::File(file(&mut at, raw, EventKind::Execution)?),
        kind::SCRIPT => Body::File(file(&mut at, raw, EventKind::Script)?),
        kind::MAPPING => Body::File(file(&mut at, raw, EventKind::Mapping)?),
        kind::LATE_MAPPING => Body::File(file(&mut at, raw, EventKind::LateMapping)?),
        kind::LAYER_WRITE => Body::File(file(&mut at, raw, EventKind::LayerWrite)?),
        kind::GUARD => Body::Guard(guard(&mut at, raw)?),
        kind::POD_LOSS => Body::PodLoss(pod_loss(&mut at)?),
        kind::LOAD => Body::Load(loaded(&mut at)?),
        kind::CGROUP_NEW => Body::Cgroup(cgroup(&mut at, raw, CgroupChange::New)?),
        kind::CGROUP_RENAMED => Body::Cgroup(cgroup(&mut at, raw, CgroupChange::Renamed)?),
        kind::CGROUP_GONE => Body::Cgroup(cgroup(&mut at, raw, CgroupChange::Gone)?),
        other => {
            return Err(malformed(
                "header.kind",
                kind_offset,
                u64::from(other),
                "no such kind",
            ));
        }
    };
    if at.pos != len {
        return Err(malformed(
            "header.len",
            LEN_OFFSET,
            len as u64,
            "is not where the record's fields end",
        ));
    }
    Ok(Event {
        seq: head.seq,
        boot_ns: head.boot_ns,
        body,
    })
}

const LEN_OFFSET: usize = std::mem::offset_of!(Header, len);
const FLAGS_OFFSET: usize = std::mem::offset_of!(FileHead, task) + std::mem::offset_of!(Task, flags);

fn malformed(field: &'static str, offset: usize, value: u64, why: &'static str) -> DecodeError {
    DecodeError::Malformed {
        field,
        offset,
        value,
        why,
    }
}

/// Reads fields in order and knows where it stands.
struct Cursor<'a> {
    raw: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8]> {
        let need = self.pos.saturating_add(n);
        let bytes = self.raw.get(self.pos..need).ok_or(DecodeError::Incomplete {
            field,
            need,
            have: self.raw.len(),
        })?;
        self.pos = need;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        let bytes = self.take(N, field)?;
        bytes.try_into().map_err(|_| DecodeError::Incomplete {
            field,
            need: self.pos,
            have: self.raw.len(),
        })
    }

    fn u16(&mut self, field: &'static str) -> Result<u16> {
        self.array(field).map(u16::from_ne_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32> {
        self.array(field).map(u32::from_ne_bytes)
    }

    fn i32(&mut self, field: &'static str) -> Result<i32> {
        self.array(field).map(i32::from_ne_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64> {
        self.array(field).map(u64::from_ne_bytes)
    }

    /// A count of things, at most `max`.
    fn count(&mut self, field: &'static str, max: usize) -> Result<usize> {
        let offset = self.pos;
        let value = self.u32(field)?;
        usize::try_from(value)
            .ok()
            .filter(|n| *n <= max)
            .ok_or_else(|| malformed(field, offset, u64::from(value), "more than the layout holds"))
    }

    /// The next `n` bytes as a part of `raw`'s own memory.
    fn bytes(&mut self, raw: &Bytes, n: usize, field: &'static str) -> Result<Bytes> {
        let start = self.pos;
        self.take(n, field)?;
        Ok(raw.slice(start..start + n))
    }
}

/// The header, where its kind stands, and the record's length.
fn header(at: &mut Cursor<'_>) -> Result<(Header, usize, usize)> {
    let seq = at.u64("header.seq")?;
    let boot_ns = at.u64("header.boot_ns")?;
    let kind_offset = at.pos;
    let kind = at.u16("header.kind")?;
    let version_offset = at.pos;
    let version = at.u16("header.version")?;
    let len = at.u32("header.len")?;
    if version != LAYOUT_VERSION {
        let why = "written by programs of another version";
        return Err(malformed(
            "header.version",
            version_offset,
            u64::from(version),
            why,
        ));
    }
    if seq == 0 {
        return Err(malformed("header.seq", 0, 0, "sequence numbers start at 1"));
    }
    let need = usize::try_from(len).unwrap_or(usize::MAX);
    if need < HEADER_LEN {
        return Err(malformed(
            "header.len",
            LEN_OFFSET,
            u64::from(len),
            "shorter than the header",
        ));
    }
    if need > at.raw.len() {
        return Err(DecodeError::Incomplete {
            field: "the whole record",
            need,
            have: at.raw.len(),
        });
    }
    Ok((
        Header {
            seq,
            boot_ns,
            kind,
            version,
            len,
        },
        kind_offset,
        need,
    ))
}

/// The task and its flags.
fn task(at: &mut Cursor<'_>) -> Result<(TaskInfo, u32)> {
    let cgroup_id = at.u64("task.cgroup_id")?;
    let pid = at.u32("task.pid")?;
    let uid = at.u32("task.uid")?;
    let mnt_ns = at.u32("task.mnt_ns")?;
    let pid_ns = at.u32("task.pid_ns")?;
    let n = at.count("task.n_ancestors", MAX_ANCESTORS)?;
    let flags = at.u32("task.flags")?;
    let mut ancestors = Vec::with_capacity(n);
    for i in 0..MAX_ANCESTORS {
        let key = TaskKey {
            start_ns: at.u64("task.ancestors.start_ns")?,
            tgid: at.u32("task.ancestors.tgid")?,
            pad: at.u32("task.ancestors.pad")?,
        };
        if i < n {
            ancestors.push(key);
        }
    }
    let has = |bit| flags & bit != 0;
    let task = TaskInfo {
        cgroup_id,
        pid,
        uid,
        mnt_ns,
        pid_ns,
        ancestors,
        ancestry_cut: has(flag::ANCESTRY_CUT),
        ancestry_unstable: has(flag::ANCESTRY_UNSTABLE),
        read_failed: has(flag::READ_FAILED),
    };
    Ok((task, flags))
}

fn identity(at: &mut Cursor<'_>) -> Result<Identity> {
    let generation = at.u64("identity.generation")?;
    let magic = at.u64("identity.magic")?;
    let layer = LayerFile {
        dev: at.u64("identity.layer_dev")?,
        ino: at.u64("identity.layer_ino")?,
        generation: at.u32("identity.layer_generation")?,
    };
    let written = at.u32("identity.layer_written")? != 0;
    Ok(Identity {
        generation,
        magic,
        layer: (layer.ino != 0).then_some(layer),
        written,
    })
}

fn entry(at: &mut Cursor<'_>, raw: &Bytes, violation: bool) -> Result<EntryEvent> {
    let (task, flags) = task(at)?;
    let ret = at.i32("entry.ret")?;
    let pcr = at.u32("entry.pcr")?;
    let n_digests = at.count("entry.n_digests", MAX_DIGESTS)?;
    let name_len = at.count("entry.name_len", LARGE_PATH)?;
    let dev = at.u64("entry.dev")?;
    let ino = at.u64("entry.ino")?;
    let identity = identity(at)?;
    let (mut digests, mut other_banks) = (Vec::new(), Vec::new());
    for i in 0..MAX_DIGESTS {
        let alg = at.u16("entry.digests.alg")?;
        at.take(size_of::<RawDigest>() - 2 - 64, "entry.digests.pad")?;
        let bytes = at.take(64, "entry.digests.bytes")?;
        if i >= n_digests || alg == 0 {
            continue;
        }
        match Bank::from_tpm_alg(alg).and_then(|bank| Digest::new(bank, &bytes[..bank.len()])) {
            Some(digest) => digests.push(digest),
            None => other_banks.push(alg),
        }
    }
    let name = at.bytes(raw, name_len, "entry name")?;
    let name_cut = flags & flag::PATH_CUT != 0;
    Ok(EntryEvent {
        violation,
        task,
        ret,
        pcr,
        digests,
        other_banks,
        name,
        name_cut,
        dev,
        ino,
        identity: ((dev, ino) != (0, 0)).then_some(identity),
    })
}

fn file(at: &mut Cursor<'_>, raw: &Bytes, kind: EventKind) -> Result<FileEvent> {
    let (task, flags) = task(at)?;
    let writable = flags & flag::WRITABLE != 0;
    if writable && !matches!(kind, EventKind::Mapping | EventKind::LateMapping) {
        let why = "only a mapping is writable and executable at once";
        return Err(malformed("task.flags", FLAGS_OFFSET, u64::from(flags), why));
    }
    let dev = at.u64("file.dev")?;
    let ino = at.u64("file.ino")?;
    let identity = identity(at)?;
    let hash_alg = at.i32("file.hash_alg")?;
    let path_len = at.count("file.path_len", LARGE_PATH)?;
    let hash_bytes = at.take(64, "file.hash")?;
    let stored = at.bytes(raw, path_len, "file path")?;
    let hash = kernel_hash(hash_alg, hash_bytes);
    let path = if flags & flag::PATH_REVERSED != 0 {
        forward(&stored, flags)
    } else {
        stored
    };
    Ok(FileEvent {
        kind,
        task,
        dev,
        ino,
        identity,
        hash,
        pre_check: flags & flag::HASH_PRE_CHECK != 0,
        path,
        path_cut: flags & flag::PATH_CUT != 0,
        writable,
    })
}

/// Numbers of [`action`] as evidence names them.
const ACTIONS: [(u32, GuardAction); 18] = [
    (action::MAP_OPENED, GuardAction::MapOpened),
    (action::MAP_READ, GuardAction::MapRead),
    (action::PROGRAM_OPENED, GuardAction::ProgramOpened),
    (action::LINK_OPENED, GuardAction::LinkOpened),
    (action::LINK_CHANGED, GuardAction::LinkChanged),
    (action::PIN_REMOVED, GuardAction::PinRemoved),
    (action::PIN_RENAMED, GuardAction::PinRenamed),
    (action::DIRECTORY_REMOVED, GuardAction::DirectoryRemoved),
    (action::UNMOUNTED, GuardAction::Unmounted),
    (action::TRACED, GuardAction::Traced),
    (action::TPM_OPENED, GuardAction::TpmOpened),
    (action::TPM_UNBOUND, GuardAction::TpmUnbound),
    (action::FTRACE_OPENED, GuardAction::FtraceOpened),
    (action::EXECUTION_DENIED, GuardAction::ExecutionDenied),
    (action::MAPPING_DENIED, GuardAction::MappingDenied),
    (
        action::EXECUTION_DENIED_ON_LOSS,
        GuardAction::ExecutionDeniedOnLoss,
    ),
    (
        action::EXECUTION_DENIED_ON_ENTRIES,
        GuardAction::ExecutionDeniedOnEntries,
    ),
    (
        action::MAPPING_DENIED_ON_ENTRIES,
        GuardAction::MappingDeniedOnEntries,
    ),
];

fn guard(at: &mut Cursor<'_>, raw: &Bytes) -> Result<GuardEvent> {
    let (task, flags) = task(at)?;
    let offset = at.pos;
    let number = at.u32("guard.action")?;
    let action = ACTIONS
        .iter()
        .find(|(n, _)| *n == number)
        .map(|(_, action)| *action);
    let action =
        action.ok_or_else(|| malformed("guard.action", offset, u64::from(number), "no such action"))?;
    let ret = at.i32("guard.ret")?;
    let object = at.u64("guard.object")?;
    let dev = at.u64("guard.dev")?;
    let ino = at.u64("guard.ino")?;
    let name_len = at.count("guard.name_len", SMALL_PATH)?;
    at.u32("guard.pad")?;
    let name = at.bytes(raw, name_len, "guard name")?;
    Ok(GuardEvent {
        action,
        task,
        ret,
        object,
        dev,
        ino,
        name,
        name_cut: flags & flag::PATH_CUT != 0,
    })
}

fn pod_loss(at: &mut Cursor<'_>) -> Result<PodLossEvent> {
    Ok(PodLossEvent {
        pod_id: at.u64("pod_loss.pod_id")?,
        loss: PodLoss {
            executions: at.u64("pod_loss.executions")?,
            mappings: at.u64("pod_loss.mappings")?,
            denials: at.u64("pod_loss.denials")?,
            repeats: at.u64("pod_loss.repeats")?,
            first_ns: at.u64("pod_loss.first_ns")?,
            last_ns: at.u64("pod_loss.last_ns")?,
        },
    })
}

/// What the programs say of a hash: the number of its algorithm or of an error, and its bytes, the digest's
/// first.
fn kernel_hash(alg: i32, bytes: &[u8]) -> KernelHash {
    match u32::try_from(alg) {
        Ok(number) => bank_of_hash_algo(number)
            .and_then(|bank| Digest::new(bank, bytes.get(..bank.len())?))
            .map_or(KernelHash::OtherAlgorithm(number), KernelHash::Digest),
        Err(_) if alg == HASH_NOT_TRIED => KernelHash::NotTried,
        Err(_) => KernelHash::Failed(alg),
    }
}

fn loaded(at: &mut Cursor<'_>) -> Result<LoadEvent> {
    let (task, _) = task(at)?;
    let offset = at.pos;
    let what = match at.u32("load.what")? {
        load::MODULE => Loaded::Module,
        load::KEXEC => Loaded::Kexec,
        other => return Err(malformed("load.what", offset, u64::from(other), "no such thing")),
    };
    let offset = at.pos;
    let hash_alg = at.i32("load.hash_alg")?;
    let size = at.u64("load.size")?;
    let bytes = at.take(32, "load.hash")?;
    let hash = match kernel_hash(hash_alg, bytes) {
        KernelHash::Digest(digest) if digest.bank() == Bank::Sha256 => FileHash::Measured(digest),
        KernelHash::NotTried => FileHash::Unhashed(0),
        KernelHash::Failed(error) => FileHash::Unhashed(error),
        KernelHash::Digest(_) | KernelHash::OtherAlgorithm(_) => {
            let value = u64::from(hash_alg.unsigned_abs());
            return Err(malformed(
                "load.hash_alg",
                offset,
                value,
                "the programs compute no such hash",
            ));
        }
    };
    Ok(LoadEvent {
        load: Load { what, size },
        task,
        hash,
    })
}

/// `sh\0bin\0usr\0` as `/usr/bin/sh`. What was cut lacks its first components, and gets no leading slash.
fn forward(reversed: &[u8], flags: u32) -> Bytes {
    let mut path = Vec::with_capacity(reversed.len() + 16);
    let components = reversed.strip_suffix(b"\0").unwrap_or(reversed);
    for component in components.rsplit(|&b| b == 0) {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    if flags & flag::PATH_DELETED != 0 {
        path.extend_from_slice(b" (deleted)");
    }
    let path = Bytes::from(path);
    if flags & flag::PATH_CUT != 0 {
        path.slice(1..)
    } else {
        path
    }
}

fn cgroup(at: &mut Cursor<'_>, raw: &Bytes, change: CgroupChange) -> Result<CgroupEvent> {
    let id = at.u64("cgroup.id")?;
    let parent_id = Some(at.u64("cgroup.parent_id")?).filter(|p| *p != 0);
    let hierarchy = at.u32("cgroup.hierarchy")?;
    let name_len = at.count("cgroup.name_len", MAX_NAME)?;
    let name_offset = at.pos;
    let name = at.bytes(raw, name_len, "cgroup name")?;
    at.take(MAX_NAME - name_len, "cgroup name's padding")?;
    if let Some(i) = name.iter().position(|b| matches!(b, 0 | b'/')) {
        let why = "a directory's name holds no NUL and no slash";
        return Err(malformed("cgroup.name", name_offset + i, u64::from(name[i]), why));
    }
    Ok(CgroupEvent {
        change,
        id,
        parent_id,
        hierarchy,
        name,
    })
}

#[cfg(test)]
mod tests;
