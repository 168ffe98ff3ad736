//! Records that the eBPF programs write into the ring buffer and user space reads: one layout for both sides.
//!
//! Promises: `#[repr(C)]`, host byte order, no implicit padding (checked by tests), every field valid for any bytes.
//! Not here: what a record means (see `evidence::Record`), how paths are joined (see `collector`).
#![no_std]
#![forbid(unsafe_code)]

/// Bumped at each change of a layout below; the loader refuses an object with another one.
pub const LAYOUT_VERSION: u16 = 1;

/// Ancestry is walked at most this far, the process itself included.
pub const MAX_ANCESTORS: usize = 32;

/// Template digests by bank that a record holds at most. Source: security/integrity/ima/ima.h, allocated banks + 2.
pub const MAX_DIGESTS: usize = 8;

/// Longest cgroup directory name, NAME_MAX.
pub const MAX_NAME: usize = 256;

/// Path bytes of a record of the small class.
pub const SMALL_PATH: usize = 256;

/// Path bytes of a record of the large class, PATH_MAX.
pub const LARGE_PATH: usize = 4096;

/// [`Header::kind`].
pub mod kind {
    /// [`super::EntryHead`] and a name follow: IMA tried to add an entry.
    pub const ENTRY: u16 = 1;
    /// [`super::EntryHead`] and a name follow: IMA logged a violation.
    pub const VIOLATION: u16 = 2;
    /// [`super::FileHead`] and a path follow: a program was executed.
    pub const EXECUTION: u16 = 3;
    /// [`super::FileHead`] and a path follow: a script was handed to its interpreter.
    pub const SCRIPT: u16 = 4;
    /// [`super::FileHead`] and a path follow: a file was mapped executable.
    pub const MAPPING: u16 = 5;
    /// [`super::FileHead`] and a path follow: a file's mapping was made executable later.
    pub const LATE_MAPPING: u16 = 6;
    /// [`super::CgroupRecord`]: a cgroup directory was made.
    pub const CGROUP_NEW: u16 = 16;
    /// [`super::CgroupRecord`]: a cgroup directory was renamed (v1 only).
    pub const CGROUP_RENAMED: u16 = 17;
    /// [`super::CgroupRecord`]: a cgroup directory was removed.
    pub const CGROUP_GONE: u16 = 18;
}

/// [`Task::flags`] and [`FileHead::flags`].
pub mod flag {
    /// The ancestry goes on above the last ancestor stored.
    pub const ANCESTRY_CUT: u32 = 1 << 0;
    /// The path did not fit or could not be read; it may be empty.
    pub const PATH_CUT: u32 = 1 << 1;
    /// A read of kernel memory failed while this record was made (also counted in [`super::Counters`]).
    pub const READ_FAILED: u32 = 1 << 2;
    /// The file lies in a memfd or another file system that IMA's rules leave out.
    pub const HASH_PRE_CHECK: u32 = 1 << 3;
}

/// Begins every record.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// From 1, global over all kinds, taken before the reserve: a lost record leaves a hole.
    pub seq: u64,
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boot_ns: u64,
    /// See [`kind`].
    pub kind: u16,
    /// [`LAYOUT_VERSION`].
    pub version: u16,
    /// Bytes of this record that hold something, header included; the reservation may be longer.
    pub len: u32,
}

/// Names a process beyond reuse of its pid.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TaskKey {
    /// `start_boottime` of the thread group's leader, nanoseconds.
    pub start_ns: u64,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Always 0.
    pub pad: u32,
}

/// Who caused an event.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Task {
    /// Inode number of the cgroup's directory in the hierarchy that the loader chose.
    pub cgroup_id: u64,
    /// Thread id in the initial pid namespace.
    pub pid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    /// Inode number of the mount namespace.
    pub mnt_ns: u32,
    /// Inode number of the pid namespace.
    pub pid_ns: u32,
    /// How many of `ancestors` are set.
    pub n_ancestors: u32,
    /// See [`flag`].
    pub flags: u32,
    /// The process itself, then its real parents up to pid 1.
    pub ancestors: [TaskKey; MAX_ANCESTORS],
}

/// A template digest.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawDigest {
    /// TPM_ALG_ID; 0 in unused slots and for violations.
    pub alg: u16,
    /// Always 0.
    pub pad: [u16; 3],
    /// As many bytes as the algorithm has, the rest 0.
    pub bytes: [u8; 64],
}

/// An entry or a violation. The file name follows at once: `name_len` bytes, no NUL.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHead {
    /// `kind` is [`kind::ENTRY`] or [`kind::VIOLATION`].
    pub header: Header,
    /// Who.
    pub task: Task,
    /// Return code of `ima_add_template_entry`.
    pub ret: i32,
    /// PCR of the entry.
    pub pcr: u32,
    /// How many of `digests` are set.
    pub n_digests: u32,
    /// Bytes of the name that follows.
    pub name_len: u32,
    /// `i_sb->s_dev` of the inode argument; 0 where it is NULL.
    pub dev: u64,
    /// `i_ino` of the inode argument; 0 where it is NULL.
    pub ino: u64,
    /// By bank, in the order of the kernel's array.
    pub digests: [RawDigest; MAX_DIGESTS],
}

/// An execution or a mapping. The path follows at once: `path_len` bytes, no NUL.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHead {
    /// `kind` is one of [`kind::EXECUTION`], `SCRIPT`, `MAPPING`, `LATE_MAPPING`.
    pub header: Header,
    /// Who.
    pub task: Task,
    /// `s_dev` of the file's inode, kernel encoding.
    pub dev: u64,
    /// `i_ino` of the file's inode.
    pub ino: u64,
    /// Kernel hash algorithm number (include/uapi/linux/hash_info.h) of `hash`, or a negative error number.
    pub hash_alg: i32,
    /// Bytes of the path that follows.
    pub path_len: u32,
    /// As many bytes as the algorithm has, the rest 0.
    pub hash: [u8; 64],
}

/// A cgroup directory appeared, was renamed or went away.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupRecord {
    /// `kind` is one of the `CGROUP_*`.
    pub header: Header,
    /// Inode number of the directory.
    pub id: u64,
    /// Inode number of its parent; 0 for a root.
    pub parent_id: u64,
    /// Hierarchy's number as /proc/self/cgroup shows it (0 is v2).
    pub hierarchy: u32,
    /// Bytes of `name` that are set.
    pub name_len: u32,
    /// The directory's own name, not its path.
    pub name: [u8; MAX_NAME],
}

/// Counters that user space reads from a map; all only ever grow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Last sequence number handed out.
    pub seq: u64,
    /// Reservations that failed: lost records.
    pub lost_reserve: u64,
    /// Reads of kernel memory that failed; the record was still sent, with [`flag::READ_FAILED`].
    pub read_failed: u64,
    /// Hashes that the kernel refused; the record was still sent, unhashed.
    pub hash_failed: u64,
}
