//! The eBPF programs: each writes one raw record (layouts: `cgpath_ebpf_common`) for what it sees.
//!
//! Promises: a sequence number is taken before space is reserved, so a record that is lost leaves a hole and
//! a count; what could not be read, hashed or named is counted and the record is sent all the same; what a
//! pod does beyond its budget is counted and reported instead, before a number is taken (see `budget`);
//! nothing is denied unless the collector's settings say so, and never an execution on the host.
//! Sleepable programs interleave on one CPU, so there is no per-CPU scratch: hash first (it may sleep), then
//! reserve.
//! What is attached is `executed`, `script`, `mapped` and the gates; each program `do_X` is what the gate `X`
//! goes on in.
//! Not here: whole cgroup paths and executables of ancestors (user space joins them), what an event means.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod budget;
mod config;
mod files;
mod flight;
mod gates;
mod guard;
mod kernel;
mod loads;
mod pods;
mod ring;
mod sha256;
mod tasks;

use aya_ebpf::{
    EbpfContext,
    cty::c_void,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str},
    },
    macros::{btf_tracepoint, fentry, fexit, lsm, map},
    maps::LruHashMap,
    programs::{BtfTracePointContext, FEntryContext, FExitContext, LsmContext},
};
use budget::Kept;
use cgpath_ebpf_common::{
    CgroupRecord, EEXIST, EPERM, EntryHead, Header, LARGE_PATH, LAYOUT_VERSION, MAX_DIGESTS, MAX_NAME,
    RawDigest, SMALL_PATH, Taken, action, flag, kind,
};
use config::config;
use files::Hashing;
use kernel::Reader;

/// Writes a debug event with the feature `log`, nothing without.
#[cfg(feature = "log")]
macro_rules! debug {
    ($($arg:tt)*) => { aya_log_ebpf::debug!($($arg)*) };
}
#[cfg(not(feature = "log"))]
macro_rules! debug {
    ($ctx:expr, $($arg:tt)*) => {
        let _ = &$ctx;
    };
}
pub(crate) use debug;

/// `PROT_WRITE` and `PROT_EXEC`, include/uapi/asm-generic/mman-common.h. `VM_WRITE` and `VM_EXEC`,
/// include/linux/mm.h, are the same bits, which the kernel counts on (`calc_vm_prot_bits`).
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;

/// What [`EntryHead`] is followed by.
#[repr(C)]
struct EntryRecord<const N: usize> {
    head: EntryHead,
    name: [u8; N],
}

/// IMA tried to add an entry: `int ima_add_template_entry(struct ima_template_entry *entry, int violation,
/// const char *op, struct inode *inode, const unsigned char *filename)`, same in 6.1 to 7.3; the loader
/// checks it. `entry` is alive on each return path: its callers free it.
///
/// The kernel leaves a program of this kind out, and counts it, while the same program is running on that CPU
/// for a task that was preempted: seen on 7.3, which preempts by default. So there are two that do the same:
/// the first of them to see a call leaves word for the other. Only what both miss is lost.
#[fexit(function = "ima_add_template_entry")]
fn do_entry_added(ctx: FExitContext) -> i32 {
    entry_once(&ctx, 1);
    ring::entry_call();
    flight::ended();
    0
}

/// The other one. See [`do_entry_added`].
#[fexit(function = "ima_add_template_entry")]
fn do_entry_added_twin(ctx: FExitContext) -> i32 {
    entry_once(&ctx, 2);
    flight::ended();
    0
}

/// IMA begins to add an entry. A call that this program and its twin both miss has no mark, and until its
/// record comes nobody can tell whose entry it is.
#[fentry(function = "ima_add_template_entry")]
fn do_entry_begun(_: FEntryContext) -> i32 {
    flight::begun();
    0
}

/// The other one, for the same reason as [`do_entry_added_twin`].
#[fentry(function = "ima_add_template_entry")]
fn do_entry_begun_twin(_: FEntryContext) -> i32 {
    flight::begun_twin();
    0
}

/// By task. The oldest give way: each is needed for a moment.
#[map]
static TAKEN: LruHashMap<u64, Taken> = LruHashMap::with_max_entries(4096, 0);

/// Sends the call's record, unless the twin has.
#[inline(always)]
fn entry_once(ctx: &FExitContext, me: u64) {
    let entry: u64 = ctx.arg(0);
    let mut reader = Reader::new();
    let array: u64 = reader.read(entry + config!(template_entry_digests));
    let digest: u64 = reader.read(array + config!(tpm_digest_digest));
    // The array is allocated with the entry; the verifier lets nobody reckon with the entry's own address.
    let call = array ^ digest ^ ctx.arg::<u64>(5);
    reader.finish();
    let task = bpf_get_current_pid_tgid();
    if let Some(taken) = TAKEN.get_ptr(task) {
        // SAFETY: a map value; only this task's programs write it, and they run one after the other.
        let Taken { call: marked, by } = unsafe { *taken };
        if marked == call && by != me {
            let _ = TAKEN.remove(task);
            return;
        }
    }
    if TAKEN.insert(task, Taken { call, by: me }, 0).is_ok() {
        ring::entry_taken();
    }
    // Else the twin will send it, too, and count it: a record too many is better than none.
    // What the list had already changes nothing there, and a pod can have it tried as often as it likes.
    let ret = ctx.arg::<u64>(5) as u32 as i32;
    if ret == -EEXIST && !budget::allows(Kept::Repeat, 2) {
        return;
    }
    if ret == 0 {
        budget::added();
    }
    let Some(seq) = ring::next_seq() else {
        return;
    };
    if let Outcome::TooLong = send_entry::<SMALL_PATH>(ctx, seq, false) {
        // The same number again: the small reservation was discarded.
        if let Outcome::Lost = send_entry::<LARGE_PATH>(ctx, seq, true) {
            debug!(ctx, "entry lost");
        }
    }
}

/// What became of an attempt to write a record.
enum Outcome {
    Sent,
    /// The path did not fit and nothing was sent: try again with more room.
    TooLong,
    /// No room in the ring; counted.
    Lost,
}

#[inline(always)]
fn send_entry<const N: usize>(ctx: &FExitContext, seq: u64, last: bool) -> Outcome {
    let Some(mut record) = ring::reserve::<EntryRecord<N>>() else {
        return Outcome::Lost;
    };
    let r = record.as_mut_ptr();
    let mut reader = Reader::new();
    let filename: u64 = ctx.arg(4);
    // SAFETY: `r` points to a whole reserved record; the helper writes at most N bytes into its name.
    let n = unsafe {
        bpf_probe_read_kernel_str((&raw mut (*r).name).cast(), N as u32, filename as *const c_void)
    };
    if n == N as i64 && !last {
        record.discard(0);
        return Outcome::TooLong;
    }
    let mut flags = 0;
    // The NUL does not count. A string that fills the room to its last byte may go on.
    let name_len = if n > 0 && n <= N as i64 { n as u32 - 1 } else { 0 };
    if n <= 0 || n == N as i64 {
        flags |= flag::PATH_CUT;
        ring::path_failed();
    }
    let entry: u64 = ctx.arg(0);
    let violation = ctx.arg::<u64>(1) as u32 != 0;
    let inode: u64 = ctx.arg(3);
    // SAFETY: all writes go to fields of the reserved record.
    unsafe {
        let head = &raw mut (*r).head;
        (*head).header = Header {
            seq,
            boot_ns: bpf_ktime_get_boot_ns(),
            kind: if violation { kind::VIOLATION } else { kind::ENTRY },
            version: LAYOUT_VERSION,
            len: size_of::<EntryHead>() as u32 + name_len,
        };
        (*head).ret = ctx.arg::<u64>(5) as i32;
        (*head).pcr = reader.read(entry + config!(template_entry_pcr));
        (*head).name_len = name_len;
        let (dev, ino) = if inode == 0 {
            (0, 0)
        } else {
            files::inode_id(&mut reader, inode)
        };
        (*head).dev = dev;
        (*head).ino = ino;
        (*head).n_digests = digests(&mut reader, entry, violation, &raw mut (*head).digests);
        tasks::fill(&mut reader, &raw mut (*head).task, flags);
        files::identify(inode, &raw mut (*head).identity);
    }
    record.submit(0);
    Outcome::Sent
}

/// Copies the template digests and says how many slots of the kernel's array they come from: those that carry
/// the number of their algorithm, which stand first (see `digest_slots` of the loader).
///
/// # Safety
/// `out` is writable.
#[inline(always)]
unsafe fn digests(
    reader: &mut Reader,
    entry: u64,
    violation: bool,
    out: *mut [RawDigest; MAX_DIGESTS],
) -> u32 {
    let array: u64 = reader.read(entry + config!(template_entry_digests));
    let slots = config!(digest_slots) as u32;
    // SAFETY: as the caller promises; whole words.
    unsafe { kernel::zero(out.cast::<[u64; size_of::<[RawDigest; MAX_DIGESTS]>() / 8]>()) };
    if violation {
        return 0;
    }
    let first = out.cast::<RawDigest>();
    let mut n = 0;
    while n < MAX_DIGESTS as u32 && n < slots {
        let at = array + config!(tpm_digest_size) * u64::from(n);
        // SAFETY: `n` is in bounds of `out`; 64 bytes are the field's size.
        unsafe {
            let slot = first.add(n as usize);
            reader.read_into(&raw mut (*slot).alg, at + config!(tpm_digest_alg_id));
            reader.read_into(&raw mut (*slot).bytes, at + config!(tpm_digest_digest));
        }
        n += 1;
    }
    n
}

/// The program that runs from now on, after IMA measured it. For a script this is its interpreter.
#[lsm(hook = "bprm_committed_creds", sleepable)]
fn executed(ctx: LsmContext) -> i32 {
    let file = files::binprm_file(ctx.arg(0));
    // SAFETY: a running bprm has a file, and the pointer keeps the type that the verifier gave it.
    let hash = unsafe { files::send(&ctx, kind::EXECUTION, file, Hashing::Settled, 0) };
    guard::executed(&hash);
    0
}

/// A file was handed to the kernel for execution; if it is a `#!` script, the kernel goes on with its
/// interpreter, and [`executed`] sees only that.
#[lsm(hook = "bprm_check_security", sleepable)]
fn script(ctx: LsmContext) -> i32 {
    let bprm: u64 = ctx.arg(0);
    let mut reader = Reader::new();
    let magic: u16 = reader.read(bprm + config!(binprm_buf));
    if magic != u16::from_ne_bytes(*b"#!") {
        return 0;
    }
    let file = files::binprm_file(ctx.arg(0));
    // SAFETY: as in `executed`.
    unsafe { files::send(&ctx, kind::SCRIPT, file, Hashing::PreCheck, 0) };
    0
}

/// What a record says of a mapping with this protection, which is executable. Without a branch, so that the
/// verifier walks what follows once.
#[inline(always)]
fn writable(prot: u64) -> u32 {
    const SHIFT: u32 = flag::WRITABLE.trailing_zeros() - PROT_WRITE.trailing_zeros();
    ((prot & PROT_WRITE) << SHIFT) as u32
}

/// A mapping is made: `(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)`.
/// `reqprot` is what the program asked for, `prot` what it gets: a personality can add execution
/// (`READ_IMPLIES_EXEC`).
#[lsm(hook = "mmap_file", sleepable)]
fn mapped(ctx: LsmContext) -> i32 {
    let prot: u64 = ctx.arg(2);
    if prot & PROT_EXEC == 0 {
        return 0;
    }
    // The file of an anonymous mapping is NULL, and some verifiers (6.12's) believe that it never is and
    // throw the check away. The same value read as memory is a plain number to all of them.
    let mut reader = Reader::new();
    let raw: u64 = reader.read(ctx.as_ptr() as u64);
    if raw == 0 {
        return 0;
    }
    let file: *mut c_void = ctx.arg(0);
    // For verifiers that know better and want the pointer itself checked.
    if file.is_null() {
        return 0;
    }
    let hashing = if files::is_regular(&mut reader, raw) {
        Hashing::PreCheck
    } else {
        Hashing::No
    };
    // SAFETY: `file` is a live struct file: the caller of the hook holds a reference.
    unsafe { files::send(&ctx, kind::MAPPING, file, hashing, writable(prot)) };
    0
}

/// A mapping's protection changes: `(struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)`,
/// the latter two as in [`mapped`]. Reported where an executable mapping gains execution, or that it can be
/// written, too. This hook may not sleep: no hash, and the path without `bpf_d_path`.
#[lsm(hook = "file_mprotect")]
fn do_made_executable(ctx: LsmContext) -> i32 {
    let prot: u64 = ctx.arg(2);
    if prot & PROT_EXEC == 0 {
        return 0;
    }
    let vma: u64 = ctx.arg(0);
    let mut reader = Reader::new();
    let vm_flags: u64 = reader.read(vma + config!(vma_vm_flags));
    let file: u64 = reader.read(vma + config!(vma_vm_file));
    if file == 0 || prot & !vm_flags & (PROT_WRITE | PROT_EXEC) == 0 {
        return 0;
    }
    files::send_walked(&ctx, file, kind::LATE_MAPPING, writable(prot));
    0
}

/// A file was opened: `(struct file *file)`. Beside [`do_guard_open`], which ends early for most files.
#[lsm(hook = "file_open")]
fn do_layer_opened(ctx: LsmContext) -> i32 {
    files::opened(&ctx);
    0
}

/// A program is about to be executed, first of all a script, then its interpreter:
/// `(struct linux_binprm *bprm)`. Before IMA's turn, so what is denied is not measured.
#[lsm(hook = "bprm_check_security")]
fn do_deny_execution(ctx: LsmContext) -> i32 {
    let Some(action) = pods::execution_denied() else {
        return 0;
    };
    if !budget::allows(Kept::Denial, 1) {
        return -EPERM;
    }
    let bprm: u64 = ctx.arg(0);
    let mut reader = Reader::new();
    let file: u64 = reader.read(bprm + config!(binprm_file));
    let inode: u64 = reader.read(file + config!(file_f_inode));
    let name: u64 = reader.read(bprm + config!(binprm_filename));
    reader.finish();
    let about = guard::About {
        action,
        object: 0,
        inode,
        name,
    };
    guard::send(&about, -EPERM);
    -EPERM
}

/// A mapping is made: see [`mapped`].
#[lsm(hook = "mmap_file")]
fn do_deny_mapping(ctx: LsmContext) -> i32 {
    if ctx.arg::<u64>(2) & PROT_EXEC == 0 {
        return 0;
    }
    let mut reader = Reader::new();
    // As a number: see `mapped`.
    let file: u64 = reader.read(ctx.as_ptr() as u64);
    if file == 0 {
        return 0;
    }
    let Some(action) = pods::mapping_denied() else {
        return 0;
    };
    if !budget::allows(Kept::Denial, 1) {
        return -EPERM;
    }
    let inode: u64 = reader.read(file + config!(file_f_inode));
    let name = guard::name_of(&mut reader, file);
    reader.finish();
    let about = guard::About {
        action,
        object: 0,
        inode,
        name,
    };
    guard::send(&about, -EPERM);
    -EPERM
}

/// A call of bpf(2): `(int cmd, union bpf_attr *attr, unsigned int size)`.
#[lsm(hook = "bpf")]
fn do_guard_call(ctx: LsmContext) -> i32 {
    guard::call(ctx.arg::<u64>(0) as u32, ctx.arg(1))
}

/// A descriptor of a map is made: `(struct bpf_map *map, fmode_t fmode)`.
#[lsm(hook = "bpf_map")]
fn do_guard_map(ctx: LsmContext) -> i32 {
    guard::map(ctx.arg(0), ctx.arg::<u64>(1) as u32)
}

/// A descriptor of a program is made: `(struct bpf_prog *prog)`.
#[lsm(hook = "bpf_prog")]
fn do_guard_program(ctx: LsmContext) -> i32 {
    guard::program(ctx.arg(0))
}

/// A name is removed: `(struct inode *dir, struct dentry *dentry)`.
#[lsm(hook = "inode_unlink")]
fn do_guard_unlink(ctx: LsmContext) -> i32 {
    guard::name_changed(action::PIN_REMOVED, ctx.arg(0), ctx.arg(1), 0)
}

/// A directory is removed: `(struct inode *dir, struct dentry *dentry)`.
#[lsm(hook = "inode_rmdir")]
fn do_guard_rmdir(ctx: LsmContext) -> i32 {
    guard::name_changed(action::DIRECTORY_REMOVED, ctx.arg(0), ctx.arg(1), 0)
}

/// A name becomes another one: `(struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir,
/// struct dentry *new_dentry)`.
#[lsm(hook = "inode_rename")]
fn do_guard_rename(ctx: LsmContext) -> i32 {
    guard::name_changed(action::PIN_RENAMED, ctx.arg(0), ctx.arg(1), ctx.arg(2))
}

/// A file system is unmounted: `(struct vfsmount *mnt, int flags)`.
#[lsm(hook = "sb_umount")]
fn do_guard_unmount(ctx: LsmContext) -> i32 {
    guard::unmounted(ctx.arg(0))
}

/// A process reaches for another one: `(struct task_struct *child, unsigned int mode)`.
#[lsm(hook = "ptrace_access_check")]
fn do_guard_trace(ctx: LsmContext) -> i32 {
    guard::traced(ctx.arg(0), ctx.arg::<u64>(1) as u32)
}

/// A file was opened: `(struct file *file)`.
#[lsm(hook = "file_open")]
fn do_guard_open(ctx: LsmContext) -> i32 {
    guard::opened(ctx.arg(0))
}

/// The kernel has read bytes from a process into its own memory: `(char *buf, loff_t size, enum
/// kernel_load_data_id id, char *description)`. It asks for CAP_SYS_MODULE before.
#[lsm(hook = "kernel_post_load_data")]
fn do_bytes_loaded(ctx: LsmContext) -> i32 {
    loads::loaded(ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(2) as u32);
    0
}

/// The kernel is to read bytes from a process: `(enum kernel_load_data_id id, bool contents)`. It asks for
/// CAP_SYS_BOOT before.
#[lsm(hook = "kernel_load_data")]
fn do_kernel_loaded(ctx: LsmContext) -> i32 {
    loads::announced(ctx.arg::<u64>(0) as u32);
    0
}

/// A cgroup directory was made: `(struct cgroup *cgrp, const char *path)`, with `cgroup_mutex` held, so
/// before any task can be in it.
#[btf_tracepoint(function = "cgroup_mkdir")]
fn do_cgroup_made(ctx: BtfTracePointContext) -> i32 {
    cgroup(&ctx, kind::CGROUP_NEW)
}

/// A cgroup directory was renamed (v1 only).
#[btf_tracepoint(function = "cgroup_rename")]
fn do_cgroup_renamed(ctx: BtfTracePointContext) -> i32 {
    cgroup(&ctx, kind::CGROUP_RENAMED)
}

/// A cgroup directory was removed.
#[btf_tracepoint(function = "cgroup_rmdir")]
fn do_cgroup_removed(ctx: BtfTracePointContext) -> i32 {
    cgroup(&ctx, kind::CGROUP_GONE)
}

#[inline(always)]
fn cgroup(ctx: &BtfTracePointContext, kind: u16) -> i32 {
    let cgroup: u64 = ctx.arg(0);
    let mut reader = Reader::new();
    let root: u64 = reader.read(cgroup + config!(cgroup_root));
    let hierarchy: u32 = reader.read(root + config!(cgroup_root_hierarchy_id));
    if u64::from(hierarchy) != config!(cgroup_hierarchy) {
        return 0;
    }
    if kind == kind::CGROUP_GONE {
        let node: u64 = reader.read(cgroup + config!(cgroup_kn));
        budget::end(reader.read(node + config!(kernfs_node_id)));
    }
    let Some(seq) = ring::next_seq() else {
        return 0;
    };
    let Some(mut record) = ring::reserve::<CgroupRecord>() else {
        debug!(ctx, "cgroup record lost");
        return 0;
    };
    let r = record.as_mut_ptr();
    let node: u64 = reader.read(cgroup + config!(cgroup_kn));
    let parent: u64 = reader.read(node + config!(kernfs_node_parent));
    let name: u64 = reader.read(node + config!(kernfs_node_name));
    // SAFETY: all writes go to fields of the reserved record; the helper writes at most MAX_NAME bytes.
    unsafe {
        kernel::zero((&raw mut (*r).name).cast::<[u64; MAX_NAME / 8]>());
        let n = bpf_probe_read_kernel_str(
            (&raw mut (*r).name).cast(),
            MAX_NAME as u32,
            name as *const c_void,
        );
        (*r).name_len = if n > 0 && n <= MAX_NAME as i64 {
            n as u32 - 1
        } else {
            0
        };
        if n <= 0 {
            ring::path_failed();
        }
        (*r).header = Header {
            seq,
            boot_ns: bpf_ktime_get_boot_ns(),
            kind,
            version: LAYOUT_VERSION,
            len: size_of::<CgroupRecord>() as u32,
        };
        (*r).id = reader.read(node + config!(kernfs_node_id));
        (*r).parent_id = if parent == 0 {
            0
        } else {
            reader.read(parent + config!(kernfs_node_id))
        };
        (*r).hierarchy = hierarchy;
    }
    reader.finish();
    record.submit(0);
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
