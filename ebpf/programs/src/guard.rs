//! What is done to the collector's own parts and to the TPM by others, recorded and, if the settings say so,
//! denied.
//!
//! Promises: a collector is known by the hash that the kernel has of the program that it executed, never by a
//! name or a path; nothing but the things that the loader named is ever denied; what the kernel refuses for
//! lack of rights after a hook is not recorded, so that an unprivileged process cannot cause records. What
//! cannot be read counts as done by somebody who may.
//! Not here: executions in pods (see `pods`). Which callers reach each hook is in docs/threat-model.md, with
//! the tests.

use crate::{
    config::config,
    files::{self, FMODE_WRITE, Hash, S_IFMT, S_IFREG},
    kernel::Reader,
    ring, tasks,
};
use aya_ebpf::{
    cty::c_void,
    helpers::{
        bpf_get_current_uid_gid,
        generated::{bpf_get_current_task, bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str},
    },
    macros::map,
    maps::{Array, HashMap, LruHashMap},
};
use cgpath_ebpf_common::{
    EPERM, GuardHead, Header, LAYOUT_VERSION, SMALL_PATH, Settings, TICK_NS, action, class, flag, kind, mode,
};

/// One element.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// What is guarded: see [`class`].
#[map]
static GUARDED: HashMap<u64, u32> = HashMap::with_max_entries(512, 0);

/// Hashes of the collector's program, by the kernel's number of the algorithm.
#[map]
static IDENTITY: HashMap<u32, [u64; 8]> = HashMap::with_max_entries(8, 0);

/// Processes that run the collector's program: start by thread group id. The oldest give way.
#[map]
static OURS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(64, 0);

/// `S_IFCHR`, include/uapi/linux/stat.h.
const S_IFCHR: u16 = 0o020000;
/// include/uapi/linux/magic.h.
const SYSFS_MAGIC: u64 = 0x6265_6572;
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;
/// `PTRACE_MODE_ATTACH`, include/linux/ptrace.h: also asked for by /proc/PID/mem, process_vm_writev and
/// pidfd_getfd.
const PTRACE_MODE_ATTACH: u32 = 2;
/// `enum bpf_cmd`, include/uapi/linux/bpf.h.
const BPF_LINK_UPDATE: u32 = 29;
const BPF_LINK_GET_FD_BY_ID: u32 = 30;
const BPF_LINK_DETACH: u32 = 34;
/// `CAP_SYS_ADMIN`, include/uapi/linux/capability.h.
const CAP_SYS_ADMIN: u64 = 21;

/// What [`GuardHead`] is followed by.
#[repr(C)]
struct GuardRecord {
    head: GuardHead,
    name: [u8; SMALL_PATH],
}

/// What an event is about.
pub struct About {
    pub action: u32,
    pub object: u64,
    /// Address of a `struct inode`, or 0.
    pub inode: u64,
    /// Address of a string, or 0.
    pub name: u64,
}

#[inline(always)]
pub fn settings() -> Option<*const Settings> {
    SETTINGS.get_ptr(0)
}

/// One field of the settings.
macro_rules! setting {
    ($settings:expr, $field:ident) => {
        // SAFETY: a map value, which lives as long as the program; any bytes are valid.
        unsafe { (&raw const (*$settings).$field).read_volatile() }
    };
}
pub(crate) use setting;

/// Sends the record of what was seen.
#[inline(always)]
pub fn send(about: &About, ret: i32) {
    let Some(seq) = ring::next_seq() else {
        return;
    };
    let Some(mut record) = ring::reserve::<GuardRecord>() else {
        return;
    };
    let r = record.as_mut_ptr();
    let mut reader = Reader::new();
    let mut flags = 0;
    let mut name_len = 0;
    if about.name != 0 {
        // SAFETY: the helper writes at most SMALL_PATH bytes into the record's name.
        let n = unsafe {
            bpf_probe_read_kernel_str(
                (&raw mut (*r).name).cast(),
                SMALL_PATH as u32,
                about.name as *const c_void,
            )
        };
        // The NUL does not count. A string that fills the room to its last byte may go on.
        if n > 0 && n <= SMALL_PATH as i64 {
            name_len = n as u32 - 1;
        }
        if n <= 0 || n == SMALL_PATH as i64 {
            flags |= flag::PATH_CUT;
            ring::path_failed();
        }
    }
    let (dev, ino) = if about.inode == 0 {
        (0, 0)
    } else {
        files::inode_id(&mut reader, about.inode)
    };
    // SAFETY: all writes go to fields of the reserved record.
    unsafe {
        let head = &raw mut (*r).head;
        (*head).header = Header {
            seq,
            boot_ns: bpf_ktime_get_boot_ns(),
            kind: kind::GUARD,
            version: LAYOUT_VERSION,
            len: size_of::<GuardHead>() as u32 + name_len,
        };
        (*head).action = about.action;
        (*head).ret = ret;
        (*head).object = about.object;
        (*head).dev = dev;
        (*head).ino = ino;
        (*head).name_len = name_len;
        (*head).pad = 0;
        tasks::fill(&mut reader, &raw mut (*head).task, flags);
    }
    record.submit(0);
}

/// Records what was seen in this mode and gives the hook's answer.
#[inline(always)]
fn answer(how: u32, about: &About) -> i32 {
    if how == mode::DENY {
        send(about, -EPERM);
        return -EPERM;
    }
    send(about, 0);
    0
}

#[inline(always)]
fn is_guarded(key: u64) -> bool {
    GUARDED.get_ptr(key).is_some()
}

/// Whether the process of this leader is a collector.
#[inline(always)]
fn is_collector(reader: &mut Reader, settings: *const Settings, leader: u64) -> bool {
    let tgid: u32 = reader.read(leader + config!(task_tgid));
    let start: u64 = reader.read(leader + config!(task_start_boottime));
    if let Some(known) = OURS.get_ptr(tgid) {
        // SAFETY: a map value.
        if unsafe { known.read_volatile() } == start {
            return true;
        }
    }
    tgid == setting!(settings, collector_tgid) && start / TICK_NS == setting!(settings, collector_start)
}

#[inline(always)]
fn leader(reader: &mut Reader) -> u64 {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    reader.read(task + config!(task_group_leader))
}

/// Whether a collector does this.
#[inline(always)]
fn by_collector(settings: *const Settings) -> bool {
    let mut reader = Reader::new();
    let leader = leader(&mut reader);
    is_collector(&mut reader, settings, leader)
}

/// Whether the current task has CAP_SYS_ADMIN where `capable` asks for it: in the initial user namespace, the
/// only one at level 0. What cannot be read counts as yes.
#[inline(always)]
fn is_admin(reader: &mut Reader) -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let cred: u64 = reader.read(task + config!(task_cred));
    let namespace: u64 = reader.read(cred + config!(cred_user_ns));
    let level: u32 = reader.read(namespace + config!(user_namespace_level));
    let capabilities: u64 = reader.read(cred + config!(cred_cap_effective));
    reader.has_failed() || (level == 0 && capabilities >> CAP_SYS_ADMIN & 1 == 1)
}

/// Takes note of processes that run the collector's program: root's, untraced.
#[inline(always)]
pub fn executed(hash: &Hash) {
    let mut reader = Reader::new();
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let leader: u64 = reader.read(task + config!(task_group_leader));
    let tgid: u32 = reader.read(leader + config!(task_tgid));
    let start: u64 = reader.read(leader + config!(task_start_boottime));
    let traced: u32 = reader.read(task + config!(task_ptrace));
    let is_root = bpf_get_current_uid_gid() as u32 == 0;
    reader.finish();
    let mut differ = 1;
    if hash.alg >= 0
        && let Some(known) = IDENTITY.get_ptr(hash.alg as u32)
    {
        differ = 0;
        for i in 0..8 {
            // SAFETY: in bounds of a map value.
            differ |= hash.words[i] ^ unsafe { (&raw const (*known)[i]).read_volatile() };
        }
    }
    if differ == 0 && traced == 0 && is_root {
        // If there is no room, the process is a stranger, and is recorded as one.
        let _ = OURS.insert(tgid, start, 0);
    } else if OURS.get_ptr(tgid).is_some() {
        let _ = OURS.remove(tgid);
    }
}

/// A descriptor of a map is made.
#[inline(always)]
pub fn map(map: u64, fmode: u32) -> i32 {
    let Some(settings) = settings() else {
        return 0;
    };
    let how = setting!(settings, guard);
    if how == mode::OFF {
        return 0;
    }
    let mut reader = Reader::new();
    let id: u32 = reader.read(map + config!(bpf_map_id));
    reader.finish();
    if !is_guarded(class::MAP | u64::from(id)) || by_collector(settings) {
        return 0;
    }
    answer(
        how,
        &About {
            action: if fmode & FMODE_WRITE == 0 {
                action::MAP_READ
            } else {
                action::MAP_OPENED
            },
            object: u64::from(id),
            inode: 0,
            name: map + config!(bpf_map_name),
        },
    )
}

/// A descriptor of a program is made.
#[inline(always)]
pub fn program(program: u64) -> i32 {
    let Some(settings) = settings() else {
        return 0;
    };
    let how = setting!(settings, guard);
    if how == mode::OFF {
        return 0;
    }
    let mut reader = Reader::new();
    let aux: u64 = reader.read(program + config!(bpf_prog_aux));
    let id: u32 = reader.read(aux + config!(bpf_prog_aux_id));
    reader.finish();
    if !is_guarded(class::PROGRAM | u64::from(id)) || by_collector(settings) {
        return 0;
    }
    answer(
        how,
        &About {
            action: action::PROGRAM_OPENED,
            object: u64::from(id),
            inode: 0,
            name: aux + config!(bpf_prog_aux_name),
        },
    )
}

/// A call of bpf(2), its attributes in the kernel's memory.
#[inline(always)]
pub fn call(command: u32, attributes: u64) -> i32 {
    if command != BPF_LINK_GET_FD_BY_ID && command != BPF_LINK_UPDATE && command != BPF_LINK_DETACH {
        return 0;
    }
    let Some(settings) = settings() else {
        return 0;
    };
    let how = setting!(settings, guard);
    if how == mode::OFF {
        return 0;
    }
    let mut reader = Reader::new();
    // All three begin with a link: its id, or its descriptor.
    let first: u32 = reader.read(attributes);
    // The hook comes before the kernel's own check of this one: a caller that fails the check gets EPERM and
    // is ignored here. The others ask for no capability. Every holder of a link's descriptor may call them.
    let (id, may) = if command == BPF_LINK_GET_FD_BY_ID {
        (first, is_admin(&mut reader))
    } else {
        (link_of(&mut reader, first), true)
    };
    reader.finish();
    if id == 0 || !may || !is_guarded(class::LINK | u64::from(id)) || by_collector(settings) {
        return 0;
    }
    answer(
        how,
        &About {
            action: if command == BPF_LINK_GET_FD_BY_ID {
                action::LINK_OPENED
            } else {
                action::LINK_CHANGED
            },
            object: u64::from(id),
            inode: 0,
            name: 0,
        },
    )
}

/// The id of the link behind a descriptor of the current task; 0 where it is none.
///
/// A link's file is the one of anonymous inodes with a name that kernel/bpf/syscall.c gives it,
/// `bpf_link_prime` one and `bpf_link_new_fd` the other: only the kernel names files there. What a file of
/// another kind points to is never read as a link.
#[inline(always)]
fn link_of(reader: &mut Reader, fd: u32) -> u32 {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = reader.read(task + config!(task_files));
    let table: u64 = reader.read(files + config!(files_fdt));
    let max: u32 = reader.read(table + config!(fdtable_max_fds));
    if fd >= max {
        return 0;
    }
    let array: u64 = reader.read(table + config!(fdtable_fd));
    let file: u64 = reader.read(array + 8 * u64::from(fd));
    if file == 0 {
        return 0;
    }
    let inode: u64 = reader.read(file + config!(file_f_inode));
    let sb: u64 = reader.read(inode + config!(inode_i_sb));
    let magic: u64 = reader.read(sb + config!(super_block_s_magic));
    if magic != ANON_INODE_FS_MAGIC {
        return 0;
    }
    let dentry: u64 = reader.read(file + config!(file_f_path) + config!(path_dentry));
    let name: u64 = reader.read(dentry + config!(dentry_d_name));
    let (first, end): (u64, u8) = (reader.read(name), reader.read(name + 8));
    let is_link = first == u64::from_ne_bytes(*b"bpf_link") || first == u64::from_ne_bytes(*b"bpf-link");
    if !is_link || end != 0 {
        return 0;
    }
    let link: u64 = reader.read(file + config!(file_private_data));
    reader.read(link + config!(bpf_link_id))
}

/// Whether this inode is the directory of the pins.
#[inline(always)]
fn is_pins(reader: &mut Reader, settings: *const Settings, inode: u64) -> bool {
    let (dev, ino) = files::inode_id(reader, inode);
    dev == setting!(settings, pins_dev) && ino == setting!(settings, pins_ino)
}

/// A name goes away or becomes another one: `dentry` in the directory `dir`, to a name in `to` (or 0).
#[inline(always)]
pub fn name_changed(what: u32, dir: u64, dentry: u64, to: u64) -> i32 {
    let Some(settings) = settings() else {
        return 0;
    };
    let how = setting!(settings, guard);
    if how == mode::OFF {
        return 0;
    }
    let mut reader = Reader::new();
    let (dev, _) = files::inode_id(&mut reader, dir);
    if dev != setting!(settings, pins_dev) {
        return 0;
    }
    let inode: u64 = reader.read(dentry + config!(dentry_d_inode));
    let ours = if what == action::DIRECTORY_REMOVED {
        is_pins(&mut reader, settings, inode)
    } else {
        is_pins(&mut reader, settings, dir)
            || (what == action::PIN_RENAMED
                && (is_pins(&mut reader, settings, inode) || is_pins(&mut reader, settings, to)))
    };
    let name: u64 = reader.read(dentry + config!(dentry_d_name));
    reader.finish();
    if !ours || by_collector(settings) {
        return 0;
    }
    answer(
        how,
        &About {
            action: what,
            object: 0,
            inode,
            name,
        },
    )
}

/// A file system is unmounted somewhere.
#[inline(always)]
pub fn unmounted(mnt: u64) -> i32 {
    let Some(settings) = settings() else {
        return 0;
    };
    let how = setting!(settings, guard);
    if how == mode::OFF {
        return 0;
    }
    let mut reader = Reader::new();
    let sb: u64 = reader.read(mnt + config!(vfsmount_mnt_sb));
    let dev: u32 = reader.read(sb + config!(super_block_s_dev));
    // The mount namespace of a user namespace, which everybody can make, has copies that nobody else sees:
    // the kernel lets no mount go from there to where it was copied from (`copy_tree` with
    // CL_SHARED_TO_SLAVE).
    let mount = mnt - config!(mount_mnt);
    let namespace: u64 = reader.read(mount + config!(mount_mnt_ns));
    let owner: u64 = reader.read(namespace + config!(mnt_namespace_user_ns));
    let level: u32 = reader.read(owner + config!(user_namespace_level));
    let is_copy = !reader.has_failed() && level != 0;
    reader.finish();
    if is_copy || u64::from(dev) != setting!(settings, pins_dev) || by_collector(settings) {
        return 0;
    }
    answer(
        how,
        &About {
            action: action::UNMOUNTED,
            object: u64::from(dev),
            inode: 0,
            name: 0,
        },
    )
}

/// A process reaches for another one.
#[inline(always)]
pub fn traced(child: u64, access: u32) -> i32 {
    if access & PTRACE_MODE_ATTACH == 0 {
        return 0;
    }
    let Some(settings) = settings() else {
        return 0;
    };
    let how = setting!(settings, guard);
    if how == mode::OFF {
        return 0;
    }
    let mut reader = Reader::new();
    let target: u64 = reader.read(child + config!(task_group_leader));
    let own = leader(&mut reader);
    let tgid: u32 = reader.read(target + config!(task_tgid));
    let is_ours = is_collector(&mut reader, settings, target);
    reader.finish();
    // A process may always reach into itself.
    if own == target || !is_ours || by_collector(settings) {
        return 0;
    }
    answer(
        how,
        &About {
            action: action::TRACED,
            object: u64::from(tgid),
            inode: 0,
            name: 0,
        },
    )
}

/// A field by a plain load, for a pointer that the verifier knows: no call, and it cannot fault.
///
/// # Safety
/// The verifier checks this load.
#[inline(always)]
pub unsafe fn field<T>(of: *const u8, offset: u64) -> T {
    // SAFETY: as the caller promises.
    unsafe { of.add(offset as usize).cast::<T>().read_volatile() }
}

/// A file was opened. Most are of no interest: this comes before everything else.
#[inline(always)]
pub fn opened(file: *const u8) -> i32 {
    // SAFETY: the hook's file and its inode, with the types that the verifier gives them.
    let (inode, file_mode, inode_mode) = unsafe {
        let inode: *const u8 = field(file, config!(file_f_inode));
        let inode_mode: u16 = field(inode, config!(inode_i_mode));
        (
            inode,
            field::<u32>(file, config!(file_f_mode)),
            inode_mode & S_IFMT,
        )
    };
    if inode_mode != S_IFCHR && (inode_mode != S_IFREG || file_mode & FMODE_WRITE == 0) {
        return 0;
    }
    let Some(settings) = settings() else {
        return 0;
    };
    let mut reader = Reader::new();
    let inode = inode as u64;
    if inode_mode == S_IFCHR {
        let how = setting!(settings, tpm);
        let device: u32 = reader.read(inode + config!(inode_i_rdev));
        if how == mode::OFF || !is_guarded(class::DEVICE | u64::from(device)) || by_collector(settings) {
            return 0;
        }
        return answer(
            how,
            &About {
                action: action::TPM_OPENED,
                object: u64::from(device),
                inode,
                name: name_of(&mut reader, file as u64),
            },
        );
    }
    let how = setting!(settings, guard);
    if how == mode::OFF {
        return 0;
    }
    let sb: u64 = reader.read(inode + config!(inode_i_sb));
    let magic: u64 = reader.read(sb + config!(super_block_s_magic));
    let what = if magic == SYSFS_MAGIC {
        let ino: u64 = reader.read(inode + config!(inode_i_ino));
        if !is_guarded(class::SYSFS | (ino & !(0xff << 56))) {
            return 0;
        }
        action::TPM_UNBOUND
    } else if magic == PROC_SUPER_MAGIC {
        // Inodes of sysctls come and go, and each instance of proc has its own: by name. The kernel alone
        // names sysctls, and no other has this one; a pod names other files of proc, by its network
        // interfaces (net/dev_snmp6).
        let holder = inode - config!(proc_inode_vfs_inode);
        let sysctl: u64 = reader.read(holder + config!(proc_inode_sysctl));
        if sysctl == 0 && !reader.has_failed() {
            return 0;
        }
        let name = name_of(&mut reader, file as u64);
        let mut words = [0u64; 2];
        // SAFETY: room for what the helper writes at most.
        let n = unsafe { bpf_probe_read_kernel_str((&raw mut words).cast(), 16, name as *const c_void) };
        if n != 15
            || words[0] != u64::from_ne_bytes(*b"ftrace_e")
            || words[1] & !(0xffff << 48) != u64::from_ne_bytes(*b"nabled\0\0")
        {
            return 0;
        }
        action::FTRACE_OPENED
    } else {
        return 0;
    };
    if by_collector(settings) {
        return 0;
    }
    let name = name_of(&mut reader, file as u64);
    reader.finish();
    answer(
        how,
        &About {
            action: what,
            object: 0,
            inode,
            name,
        },
    )
}

/// Address of the last component of a file's path.
#[inline(always)]
pub fn name_of(reader: &mut Reader, file: u64) -> u64 {
    let dentry: u64 = reader.read(file + config!(file_f_path) + config!(path_dentry));
    reader.read(dentry + config!(dentry_d_name))
}
