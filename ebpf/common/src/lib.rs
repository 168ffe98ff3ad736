//! Records that the eBPF programs write into the ring buffer and user space reads: one layout for both sides.
//!
//! Promises: `#[repr(C)]`, host byte order, no implicit padding (checked by tests), every field valid for any
//! bytes.
//! Not here: what a record means (see `cgpath_evidence::Record`), how paths are joined (see `cgpathd`).
//!
//! Both sides are built and changed together, so that this is no API for others.
//!
//! # The same bytes on both sides
//!
//! ```
//! use cgpath_ebpf_common::{CgroupRecord, Header, MAX_NAME};
//!
//! let fields = size_of::<Header>() + 8 + 8 + 4 + 4 + MAX_NAME;
//! assert_eq!(size_of::<CgroupRecord>(), fields);
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod files;
mod loads;

pub use files::{LayerKey, MANY_OVERLAYS, MAX_USED, RawIdentity, Used, overlay};
pub use loads::{EFAULT, LoadRecord, MAX_LOAD, SHA256, load};

/// Bumped at each change of a record's layout below; the loader refuses an object with another one. Maps are
/// read by the collector that was built with the object, which is known by its hash, and after a handover by
/// one whose maps have the same names and sizes (`cgpathd::bpf::interface`). A bit more in [`flag`] needs no
/// other number: programs from before leave it out, and what they see is as it was.
pub const LAYOUT_VERSION: u16 = 7;

/// Ancestry is walked at most this far, the process itself included.
pub const MAX_ANCESTORS: usize = 32;

/// Template digests by bank that a record holds at most. Source: security/integrity/ima/ima.h, allocated
/// banks + 2.
pub const MAX_DIGESTS: usize = 8;

/// Longest cgroup directory name, NAME_MAX.
pub const MAX_NAME: usize = 256;

/// Path bytes of a record of the small class.
pub const SMALL_PATH: usize = 256;

/// Path bytes of a record of the large class, PATH_MAX.
pub const LARGE_PATH: usize = 4096;

/// Marks of threads inside of `ima_add_template_entry` at most: as many as evidence may have.
pub const MAX_IN_FLIGHT: u32 = 65_536;

/// [`FileHead::hash_alg`] where no hash was asked for.
pub const HASH_NOT_TRIED: i32 = i32::MIN;

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
    /// [`super::GuardHead`] and a name follow: a guarded thing was touched, or an execution was denied.
    pub const GUARD: u16 = 7;
    /// [`super::PodLossRecord`]: records of a pod were not sent, since it was beyond its budget.
    pub const POD_LOSS: u16 = 8;
    /// [`super::FileHead`] and a path follow: a file that is executed or mapped through an overlay was opened
    /// for writing in its layer or through another overlay, where neither the first one nor IMA sees it.
    pub const LAYER_WRITE: u16 = 9;
    /// [`super::LoadRecord`]: the kernel was handed a module or a kernel as bytes, not as a file.
    pub const LOAD: u16 = 10;
    /// [`super::CgroupRecord`]: a cgroup directory was made.
    pub const CGROUP_NEW: u16 = 16;
    /// [`super::CgroupRecord`]: a cgroup directory was renamed (v1 only).
    pub const CGROUP_RENAMED: u16 = 17;
    /// [`super::CgroupRecord`]: a cgroup directory was removed.
    pub const CGROUP_GONE: u16 = 18;
}

/// [`Task::flags`].
pub mod flag {
    /// The ancestry goes on above the last ancestor stored.
    pub const ANCESTRY_CUT: u32 = 1 << 0;
    /// The path did not fit or could not be read; it may be empty.
    pub const PATH_CUT: u32 = 1 << 1;
    /// A read of kernel memory failed while this record was made (also counted in [`super::Counters`]).
    pub const READ_FAILED: u32 = 1 << 2;
    /// The hash was taken before IMA's own turn: for a file that was changed beneath overlayfs it can be
    /// stale.
    pub const HASH_PRE_CHECK: u32 = 1 << 3;
    /// The path is stored as its components from the last to the first, each ended by a NUL
    /// (`sh\0bin\0usr\0`): the only form that a program which may not sleep can write.
    pub const PATH_REVERSED: u32 = 1 << 4;
    /// The ancestry changed while it was walked, more often than the walk was ready to try again.
    pub const ANCESTRY_UNSTABLE: u32 = 1 << 5;
    /// With [`PATH_REVERSED`]: the file has no name any more, as ` (deleted)` says at the end of other paths.
    pub const PATH_DELETED: u32 = 1 << 6;
    /// With [`super::kind::MAPPING`] and [`super::kind::LATE_MAPPING`]: the mapping is writable and
    /// executable at once, so that what runs there need not be the file's content.
    pub const WRITABLE: u32 = 1 << 7;
}

/// [`GuardHead::action`].
pub mod action {
    /// A descriptor of one of our maps with which it can be written; `object` is the map's id.
    pub const MAP_OPENED: u32 = 1;
    /// A descriptor of one of our maps with which it can only be read; `object` is the map's id.
    pub const MAP_READ: u32 = 2;
    /// A descriptor of one of our programs; `object` is its id.
    pub const PROGRAM_OPENED: u32 = 3;
    /// A descriptor of one of our links, by its id; `object` is the id.
    pub const LINK_OPENED: u32 = 4;
    /// One of our links was to be detached or to run another program; `object` is the link's id.
    pub const LINK_CHANGED: u32 = 5;
    /// A pin was removed.
    pub const PIN_REMOVED: u32 = 6;
    /// A pin, or the directory of the pins, was renamed.
    pub const PIN_RENAMED: u32 = 7;
    /// The directory of the pins was removed.
    pub const DIRECTORY_REMOVED: u32 = 8;
    /// The file system of the pins was unmounted.
    pub const UNMOUNTED: u32 = 9;
    /// Memory, registers or descriptors of a collector were reached for; `object` is its thread group id.
    pub const TRACED: u32 = 10;
    /// Somebody else opened the TPM; `object` is the device.
    pub const TPM_OPENED: u32 = 11;
    /// A file was opened for writing by which the TPM's driver lets go of it; `object` is 0.
    pub const TPM_UNBOUND: u32 = 12;
    /// The sysctl kernel.ftrace_enabled was opened for writing; `object` is 0.
    pub const FTRACE_OPENED: u32 = 13;
    /// An execution was denied in a pod that the verifier does not trust.
    pub const EXECUTION_DENIED: u32 = 14;
    /// An executable mapping was denied in a pod that the verifier does not trust.
    pub const MAPPING_DENIED: u32 = 15;
    /// An execution was denied in a pod since records were lost.
    pub const EXECUTION_DENIED_ON_LOSS: u32 = 16;
    /// An execution was denied in a pod that has as many entries in IMA's list as it may.
    pub const EXECUTION_DENIED_ON_ENTRIES: u32 = 17;
    /// An executable mapping was denied in a pod that has as many entries in IMA's list as it may.
    pub const MAPPING_DENIED_ON_ENTRIES: u32 = 18;
}

/// Keys of the map `GUARDED`: what class of thing, in the highest byte, with its number.
pub mod class {
    /// A map by its id.
    pub const MAP: u64 = 1 << 56;
    /// A program by its id.
    pub const PROGRAM: u64 = 2 << 56;
    /// A link by its id.
    pub const LINK: u64 = 3 << 56;
    /// A character device by its number, `major << 20 | minor`.
    pub const DEVICE: u64 = 4 << 56;
    /// A file of sysfs by its inode number; every instance of sysfs has the same.
    pub const SYSFS: u64 = 5 << 56;
}

/// Modes of [`Settings`].
pub mod mode {
    /// Nothing is done.
    pub const OFF: u32 = 0;
    /// It is recorded and goes through.
    pub const RECORD: u32 = 1;
    /// It is recorded and fails with EPERM.
    pub const DENY: u32 = 2;
}

/// Values of the map `PODS`, by cgroup id. Of the directories above a task, the pods' root left out, all bits
/// count.
pub mod pod {
    /// The verifier does not trust the pod.
    pub const UNTRUSTED: u32 = 1 << 0;
    /// Never denied for that.
    pub const EXEMPT_UNTRUSTED: u32 = 1 << 1;
    /// Never denied for losses.
    pub const EXEMPT_LOSS: u32 = 1 << 2;
}

/// What the programs know of a pod that is about to run a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// See [`pod`]: of all directories above the task.
    pub bits: u32,
    /// Entries that IMA added for the pod so far; 0 where [`Settings::budget_entries`] is.
    pub entries: u64,
    /// How long no collector was there, nanoseconds.
    pub away_ns: u64,
}

/// Why a pod may run nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The verifier does not trust it.
    Untrusted,
    /// It has as many entries in IMA's list as it may.
    Entries,
}

impl Standing {
    /// Why such a pod is refused what it is about to do, where [`Settings::untrusted`] is [`mode::DENY`]: for
    /// `lapse_ns` after a collector was there last ([`Settings::untrusted_lapse_ns`]), and with so many
    /// entries at most ([`Settings::budget_entries`]).
    #[inline(always)]
    pub const fn refusal(self, lapse_ns: u64, most_entries: u64) -> Option<Refusal> {
        if self.bits & pod::EXEMPT_UNTRUSTED != 0 || self.away_ns >= lapse_ns {
            return None;
        }
        if self.bits & pod::UNTRUSTED != 0 {
            return Some(Refusal::Untrusted);
        }
        if most_entries != 0 && self.entries >= most_entries {
            return Some(Refusal::Entries);
        }
        None
    }
}

/// How many directories, from the hierarchy's root down, are looked up in `PODS`: a pod's own is at most the
/// fourth.
pub const MAX_POD_LEVEL: usize = 8;

/// A parent of pods is at most the third directory from the hierarchy's root down.
pub const MAX_PARENT_LEVEL: usize = 3;

/// Parents of pods that the programs know at most.
pub const MAX_PARENTS: u32 = 64;

/// Pods that have a budget at most.
pub const MAX_BUDGETS: u32 = 16_384;

/// Bytes of the ring buffer that one unit of a pod's budget stands for. A record of the small class takes
/// one.
pub const BUDGET_UNIT: u32 = 1024;

/// A clock tick as /proc shows it, nanoseconds (USER_HZ is 100 on every architecture that eBPF runs on).
pub const TICK_NS: u64 = 10_000_000;

/// `EPERM`, include/uapi/asm-generic/errno-base.h.
pub const EPERM: i32 = 1;

/// `EEXIST`, include/uapi/asm-generic/errno-base.h.
pub const EEXIST: i32 = 17;

/// `EFBIG`, include/uapi/asm-generic/errno-base.h. As [`FileHead::hash_alg`]: the file is longer than any
/// that is read, and IMA has no hash of it.
pub const EFBIG: i32 = 27;

/// `EREMOTE`, include/uapi/asm-generic/errno.h. As [`FileHead::hash_alg`]: somebody else answers for the
/// file's content and may never do so, and IMA has no hash of it.
pub const EREMOTE: i32 = 66;

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
    /// What file that is; all 0 where it is NULL.
    pub identity: RawIdentity,
    /// By bank, in the order of the kernel's array.
    pub digests: [RawDigest; MAX_DIGESTS],
}

/// An execution, a mapping or a write. The path follows at once: `path_len` bytes, no NUL.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHead {
    /// `kind` is one of [`kind::EXECUTION`], `SCRIPT`, `MAPPING`, `LATE_MAPPING`, `LAYER_WRITE`.
    pub header: Header,
    /// Who.
    pub task: Task,
    /// `s_dev` of the file's inode, kernel encoding.
    pub dev: u64,
    /// `i_ino` of the file's inode.
    pub ino: u64,
    /// What file that is.
    pub identity: RawIdentity,
    /// Kernel hash algorithm number (include/uapi/linux/hash_info.h) of `hash`, a negative error number, or
    /// [`HASH_NOT_TRIED`].
    pub hash_alg: i32,
    /// Bytes of the path that follows.
    pub path_len: u32,
    /// As many bytes as the algorithm has, the rest 0.
    pub hash: [u8; 64],
}

/// A guarded thing was touched, or an execution was denied. A name follows at once: `name_len` bytes, no NUL.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardHead {
    /// `kind` is [`kind::GUARD`].
    pub header: Header,
    /// Who.
    pub task: Task,
    /// See [`action`].
    pub action: u32,
    /// The negative error number with which it was denied, or 0: then the kernel's own answer comes later and
    /// is not known.
    pub ret: i32,
    /// See [`action`].
    pub object: u64,
    /// `s_dev` of the file that it is about; 0 where there is none.
    pub dev: u64,
    /// `i_ino` of the file that it is about; 0 where there is none.
    pub ino: u64,
    /// Bytes of the name that follows.
    pub name_len: u32,
    /// Always 0.
    pub pad: u32,
}

/// Records of a pod were not sent, since it was beyond its budget. All that were not so far, not those since
/// the last time.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodLossRecord {
    /// `kind` is [`kind::POD_LOSS`].
    pub header: Header,
    /// Inode number of the pod's own directory.
    pub pod_id: u64,
    /// Executions and scripts.
    pub executions: u64,
    /// Executable mappings, late ones too.
    pub mappings: u64,
    /// Executions and mappings that were denied.
    pub denials: u64,
    /// Entries that IMA tried to add and that its list had already.
    pub repeats: u64,
    /// CLOCK_BOOTTIME of the first, nanoseconds.
    pub first_ns: u64,
    /// CLOCK_BOOTTIME of the last, nanoseconds.
    pub last_ns: u64,
}

/// What a pod may still have recorded, and what was not: value of the map `BUDGETS`, by the inode number of
/// the pod's own directory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// CLOCK_BOOTTIME at which all that was sent is paid for, nanoseconds: as far as it lies ahead, so much
    /// of the burst is used up.
    pub paid_ns: u64,
    /// As [`PodLossRecord::executions`].
    pub executions: u64,
    /// As [`PodLossRecord::mappings`].
    pub mappings: u64,
    /// As [`PodLossRecord::denials`].
    pub denials: u64,
    /// As [`PodLossRecord::repeats`].
    pub repeats: u64,
    /// As [`PodLossRecord::first_ns`]; 0 where nothing was lost.
    pub first_ns: u64,
    /// As [`PodLossRecord::last_ns`].
    pub last_ns: u64,
    /// How many the last record stated; 0 as long as none was sent.
    pub told: u64,
    /// CLOCK_BOOTTIME of that record, nanoseconds.
    pub told_ns: u64,
    /// Entries that IMA added for the pod; they are recorded in any case.
    pub entries: u64,
}

/// What the programs are to do, written by the collector: the only element of the map `SETTINGS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// CLOCK_BOOTTIME when a collector was last there, nanoseconds.
    pub heartbeat_ns: u64,
    /// Nobody is denied an execution for lack of trust once the collector is away for longer than this,
    /// nanoseconds.
    pub untrusted_lapse_ns: u64,
    /// Nobody is denied an execution for a loss for longer than this, nanoseconds.
    pub loss_lapse_ns: u64,
    /// [`Counters::lost_reserve`] up to which losses are known.
    pub lost_acknowledged: u64,
    /// Start of the collector's process in clock ticks since the boot, as /proc shows it.
    pub collector_start: u64,
    /// `s_dev` of the pins' file system.
    pub pins_dev: u64,
    /// `i_ino` of the pins' directory.
    pub pins_ino: u64,
    /// What a unit of a pod's budget costs in time, nanoseconds; 0: pods have no budget.
    pub budget_unit_ns: u64,
    /// How far ahead of its time a pod may be, nanoseconds.
    pub budget_ahead_ns: u64,
    /// With so many entries of IMA's list a pod is refused what `untrusted` and `untrusted_mappings` refuse
    /// those that are not trusted; 0: however many.
    pub budget_entries: u64,
    /// Thread group id of the collector.
    pub collector_tgid: u32,
    /// What is done about our own parts: see [`mode`].
    pub guard: u32,
    /// What is done about the TPM's device: see [`mode`].
    pub tpm: u32,
    /// Executions in pods that are not trusted, or have too many entries: see [`mode`]; `OFF` or `DENY`.
    pub untrusted: u32,
    /// Executable mappings there, too: `OFF` or `DENY`.
    pub untrusted_mappings: u32,
    /// Executions in pods after a loss: `OFF` or `DENY`.
    pub loss: u32,
}

/// When the first loss was that nobody knows of: the only element of the map `LOSS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// CLOCK_BOOTTIME, nanoseconds; 0 where there is none.
    pub since_ns: u64,
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
    /// Paths that the kernel refused or that did not fit; the record was still sent, with [`flag::PATH_CUT`].
    pub path_failed: u64,
    /// Calls of `ima_add_template_entry` that the first of the two programs on it saw. With those that it
    /// missed, which the kernel counts, all there were.
    pub entry_calls: u64,
    /// Calls of `ima_add_template_entry` that one of the two programs took up; the rest is lost.
    pub entry_taken: u64,
    /// Marks that could not be made, since [`MAX_IN_FLIGHT`] were there: by each program that tried.
    pub marks_failed: u64,
    /// Budgets that could not be begun, since [`MAX_BUDGETS`] were there; the record was sent all the same.
    pub budgets_failed: u64,
}

/// A thread is inside of `ima_add_template_entry`: value of the map `IN_FLIGHT`, by thread id in the initial
/// pid namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// CLOCK_BOOTTIME when it began, nanoseconds.
    pub since_ns: u64,
    /// `start_boottime` of the thread, nanoseconds: tells it from one that got its number later.
    pub start_ns: u64,
    /// As [`Task::cgroup_id`].
    pub cgroup_id: u64,
}

/// Left by the program that took up a call of `ima_add_template_entry`, for its twin: value of the map
/// `TAKEN`, by task.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Tells this call from the task's other ones, as far as that goes: it stays if the twin misses the call.
    pub call: u64,
    /// Which of the two left it.
    pub by: u64,
}

/// [`Config::cgroup_subsys`] of the v2 hierarchy.
pub const NO_SUBSYSTEM: u32 = u32::MAX;

/// What the loader found out about the running kernel, set before load as the read-only global `CONFIG`.
///
/// Offsets are in bytes from the start of the named struct. The verifier sees them as constants, which keeps
/// pointers read through them trusted.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// How many digests of an entry's array carry the number of their algorithm.
    pub digest_slots: u32,
    /// Index in `css_set.subsys` that gives the cgroup of a task, or [`NO_SUBSYSTEM`] for the v2 hierarchy.
    pub cgroup_subsys: u32,
    /// Number of the hierarchy whose directories are reported; 0 is v2.
    pub cgroup_hierarchy: u32,
    /// `LOADING_MODULE` of `enum kernel_load_data_id`.
    pub loading_module: u32,
    /// `LOADING_KEXEC_IMAGE` of `enum kernel_load_data_id`.
    pub loading_kexec: u32,
    /// `struct ima_template_entry`.
    pub template_entry_pcr: u32,
    /// `struct ima_template_entry`.
    pub template_entry_digests: u32,
    /// Size of `struct tpm_digest`.
    pub tpm_digest_size: u32,
    /// `struct tpm_digest`.
    pub tpm_digest_alg_id: u32,
    /// `struct tpm_digest`.
    pub tpm_digest_digest: u32,
    /// `struct linux_binprm`.
    pub binprm_file: u32,
    /// `struct linux_binprm`.
    pub binprm_buf: u32,
    /// `struct linux_binprm`.
    pub binprm_filename: u32,
    /// `struct file`.
    pub file_f_path: u32,
    /// `struct file`.
    pub file_f_inode: u32,
    /// `struct file`.
    pub file_f_mode: u32,
    /// `struct file`.
    pub file_private_data: u32,
    /// `struct path`.
    pub path_mnt: u32,
    /// `struct path`.
    pub path_dentry: u32,
    /// `struct inode`.
    pub inode_i_mode: u32,
    /// `struct inode`.
    pub inode_i_ino: u32,
    /// `struct inode`.
    pub inode_i_sb: u32,
    /// `struct inode`.
    pub inode_i_rdev: u32,
    /// `struct inode`.
    pub inode_i_generation: u32,
    /// `struct inode`.
    pub inode_i_writecount: u32,
    /// `struct inode`.
    pub inode_i_readcount: u32,
    /// `struct super_block`.
    pub super_block_s_dev: u32,
    /// `struct super_block`.
    pub super_block_s_magic: u32,
    /// `struct super_block`.
    pub super_block_s_user_ns: u32,
    /// `struct super_block`.
    pub super_block_s_root: u32,
    /// One of [`overlay`]; where it is [`overlay::UNKNOWN`], none of the fields `ovl_*` is set.
    pub overlay: u32,
    /// `struct ovl_inode`, which holds the inode of a file in an overlay.
    pub ovl_inode_vfs_inode: u32,
    /// `struct ovl_inode`, `__upperdentry`.
    pub ovl_inode_upper: u32,
    /// `struct ovl_inode`.
    pub ovl_inode_flags: u32,
    /// Number of the bit `OVL_UPPERDATA` of these flags: the upper file holds the content.
    pub ovl_upperdata: u32,
    /// `struct ovl_inode`: `lowerpath.dentry` of [`overlay::PATH`], `oe` of [`overlay::STACK`].
    pub ovl_inode_lower: u32,
    /// `struct ovl_inode`, `lowerdata`, of [`overlay::PATH`] alone.
    pub ovl_inode_lowerdata: u32,
    /// `struct ovl_entry`, `__numlower`, of [`overlay::STACK`] alone.
    pub ovl_entry_numlower: u32,
    /// `struct ovl_entry`, dentry of the first `__lowerstack`, of [`overlay::STACK`] alone.
    pub ovl_entry_lower: u32,
    /// Size of `struct ovl_path`, of [`overlay::STACK`] alone.
    pub ovl_path_size: u32,
    /// `struct inode`.
    pub inode_i_size: u32,
    /// No file that is longer is read for its hash, in MiB.
    pub max_hash_mib: u32,
    /// Not 0: files are hashed, too, where a server answers for them (see [`EREMOTE`]).
    pub hash_served: u32,
    /// `struct dentry`.
    pub dentry_d_parent: u32,
    /// `struct dentry`, `d_name.name`.
    pub dentry_d_name: u32,
    /// `struct dentry`.
    pub dentry_d_inode: u32,
    /// `struct dentry`, `d_hash.pprev`: NULL once the name is gone.
    pub dentry_d_hash_pprev: u32,
    /// `struct mount`.
    pub mount_mnt: u32,
    /// `struct mount`.
    pub mount_mnt_parent: u32,
    /// `struct mount`.
    pub mount_mnt_mountpoint: u32,
    /// `struct mount`.
    pub mount_mnt_ns: u32,
    /// `struct vfsmount`.
    pub vfsmount_mnt_root: u32,
    /// `struct vfsmount`.
    pub vfsmount_mnt_sb: u32,
    /// `struct vm_area_struct`.
    pub vma_vm_file: u32,
    /// `struct vm_area_struct`.
    pub vma_vm_flags: u32,
    /// `struct task_struct`.
    pub task_group_leader: u32,
    /// `struct task_struct`.
    pub task_real_parent: u32,
    /// `struct task_struct`.
    pub task_tgid: u32,
    /// `struct task_struct`.
    pub task_start_boottime: u32,
    /// `struct task_struct`.
    pub task_nsproxy: u32,
    /// `struct task_struct`.
    pub task_thread_pid: u32,
    /// `struct task_struct`.
    pub task_cgroups: u32,
    /// `struct task_struct`.
    pub task_fs: u32,
    /// `struct task_struct`.
    pub task_files: u32,
    /// `struct task_struct`.
    pub task_ptrace: u32,
    /// `struct task_struct`.
    pub task_cred: u32,
    /// `struct cred`.
    pub cred_user_ns: u32,
    /// `struct cred`, capabilities by number from the lowest bit on.
    pub cred_cap_effective: u32,
    /// `struct user_namespace`: 0 for the initial one alone.
    pub user_namespace_level: u32,
    /// `struct proc_inode`, which holds the inode of a file in proc.
    pub proc_inode_vfs_inode: u32,
    /// `struct proc_inode`: NULL for what is no sysctl.
    pub proc_inode_sysctl: u32,
    /// `struct files_struct`.
    pub files_fdt: u32,
    /// `struct fdtable`.
    pub fdtable_max_fds: u32,
    /// `struct fdtable`.
    pub fdtable_fd: u32,
    /// `struct fs_struct`.
    pub fs_root: u32,
    /// `struct nsproxy`.
    pub nsproxy_mnt_ns: u32,
    /// `struct mnt_namespace`, `ns.inum`.
    pub mnt_namespace_inum: u32,
    /// `struct mnt_namespace`.
    pub mnt_namespace_user_ns: u32,
    /// `struct pid`.
    pub pid_level: u32,
    /// `struct pid`.
    pub pid_numbers: u32,
    /// Size of `struct upid`.
    pub upid_size: u32,
    /// `struct upid`.
    pub upid_ns: u32,
    /// `struct pid_namespace`, `ns.inum`.
    pub pid_namespace_inum: u32,
    /// `struct css_set`.
    pub css_set_subsys: u32,
    /// `struct css_set`.
    pub css_set_dfl_cgrp: u32,
    /// `struct cgroup_subsys_state`.
    pub css_cgroup: u32,
    /// `struct cgroup`.
    pub cgroup_kn: u32,
    /// `struct cgroup`.
    pub cgroup_root: u32,
    /// `struct cgroup`.
    pub cgroup_level: u32,
    /// `struct cgroup`.
    pub cgroup_ancestors: u32,
    /// `struct cgroup_root`.
    pub cgroup_root_hierarchy_id: u32,
    /// `struct kernfs_node`.
    pub kernfs_node_id: u32,
    /// `struct kernfs_node`, `parent` or (newer) `__parent`.
    pub kernfs_node_parent: u32,
    /// `struct kernfs_node`.
    pub kernfs_node_name: u32,
    /// `struct bpf_map`.
    pub bpf_map_id: u32,
    /// `struct bpf_map`.
    pub bpf_map_name: u32,
    /// `struct bpf_prog`.
    pub bpf_prog_aux: u32,
    /// `struct bpf_prog_aux`.
    pub bpf_prog_aux_id: u32,
    /// `struct bpf_prog_aux`.
    pub bpf_prog_aux_name: u32,
    /// `struct bpf_link`.
    pub bpf_link_id: u32,
    /// Always 0.
    pub pad: u32,
}

/// What was loaded, kept in a pinned map so that a restarted collector can tell whether it fits.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// [`LAYOUT_VERSION`]; 0 until everything is attached and pinned.
    pub layout: u32,
    /// As [`Config::cgroup_subsys`].
    pub cgroup_subsys: u32,
    /// As [`Config::cgroup_hierarchy`].
    pub cgroup_hierarchy: u32,
    /// Always 0.
    pub pad: u32,
    /// CLOCK_BOOTTIME when everything was attached, nanoseconds.
    pub loaded_ns: u64,
    /// SHA-256 of the object file of what is attached.
    pub object: [u8; 32],
    /// SHA-256 of the object file of the programs that the gates go on in.
    pub placed: [u8; 32],
    /// The same, of those that are just being put there, so that some are and others are not; zeros at all
    /// other times.
    pub placing: [u8; 32],
}
