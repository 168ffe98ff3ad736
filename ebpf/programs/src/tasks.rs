//! Who: the current task, its cgroup, its namespaces and its ancestry.

use crate::{
    config::config,
    kernel::{self, Reader},
};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task},
};
use cgpath_ebpf_common::{MAX_ANCESTORS, NO_SUBSYSTEM, Task, TaskKey, flag};

/// How often the walk up the ancestry tries again, in all, when a parent changed under its eyes.
const RETRIES: usize = 4;

/// Writes all of `task` and, as the last reader of this record's memory, its flags.
///
/// # Safety
/// `task` is writable.
#[inline(always)]
pub unsafe fn fill(reader: &mut Reader, task: *mut Task, flags: u32) {
    // SAFETY: the helper has no preconditions.
    let current = unsafe { bpf_get_current_task() };
    // SAFETY: all writes go to fields of `task`.
    unsafe {
        (*task).cgroup_id = cgroup_id(reader, current);
        (*task).pid = bpf_get_current_pid_tgid() as u32;
        (*task).uid = bpf_get_current_uid_gid() as u32;
        let (mnt_ns, pid_ns) = namespaces(reader, current);
        (*task).mnt_ns = mnt_ns;
        (*task).pid_ns = pid_ns;
        let (n, ancestry_flags) = ancestry(reader, current, &raw mut (*task).ancestors);
        (*task).n_ancestors = n;
        let failed = core::mem::replace(reader, Reader::new()).finish();
        (*task).flags = flags | ancestry_flags | if failed { flag::READ_FAILED } else { 0 };
    }
}

/// Inode number of the task's cgroup in the hierarchy that the loader chose.
#[inline(always)]
pub fn cgroup_id(reader: &mut Reader, task: u64) -> u64 {
    let subsys = config!(cgroup_subsys);
    if subsys == u64::from(NO_SUBSYSTEM) {
        // SAFETY: the helper has no preconditions.
        return unsafe { bpf_get_current_cgroup_id() };
    }
    let mut id = 0;
    // Twice if the task is moved meanwhile: the set that it left may be freed.
    for _ in 0..2 {
        let set: u64 = reader.read(task + config!(task_cgroups));
        let css: u64 = reader.read(set + config!(css_set_subsys) + 8 * subsys);
        let cgroup: u64 = reader.read(css + config!(css_cgroup));
        let node: u64 = reader.read(cgroup + config!(cgroup_kn));
        id = reader.read(node + config!(kernfs_node_id));
        if set == reader.read::<u64>(task + config!(task_cgroups)) {
            break;
        }
    }
    id
}

/// Inode numbers of the mount and pid namespaces; 0 for one that an exiting task has given back.
#[inline(always)]
fn namespaces(reader: &mut Reader, task: u64) -> (u32, u32) {
    let nsproxy: u64 = reader.read(task + config!(task_nsproxy));
    let mnt_ns = if nsproxy == 0 {
        0
    } else {
        let ns: u64 = reader.read(nsproxy + config!(nsproxy_mnt_ns));
        reader.read(ns + config!(mnt_namespace_inum))
    };
    let pid: u64 = reader.read(task + config!(task_thread_pid));
    let pid_ns = if pid == 0 {
        0
    } else {
        let level: u32 = reader.read(pid + config!(pid_level));
        let upid = pid + config!(pid_numbers) + config!(upid_size) * u64::from(level);
        let ns: u64 = reader.read(upid + config!(upid_ns));
        reader.read(ns + config!(pid_namespace_inum))
    };
    (mnt_ns, pid_ns)
}

/// Writes the keys of the process and its real parents, and gives their number and flags.
///
/// A sleepable program holds no lock that keeps a parent's memory. But a process' parent pointer is moved
/// before the parent is freed: if it is still the same after the parent was read, what was read was the
/// parent. If it is not, the same step is made again. The choice between the two is arithmetic: a branch in
/// each step would give the verifier paths without end.
///
/// # Safety
/// `out` is writable.
#[inline(always)]
unsafe fn ancestry(reader: &mut Reader, task: u64, out: *mut [TaskKey; MAX_ANCESTORS]) -> (u32, u32) {
    // SAFETY: as the caller promises; a key is two words.
    unsafe { kernel::zero(out.cast::<[u64; 2 * MAX_ANCESTORS]>()) };
    let mut process: u64 = reader.read(task + config!(task_group_leader));
    // SAFETY: element 0 of `out`.
    unsafe { key(reader, process, out.cast()) };
    let mut n = 1;
    for _ in 0..MAX_ANCESTORS + RETRIES {
        let parent: u64 = reader.read(process + config!(task_real_parent));
        let leader: u64 = reader.read(parent + config!(task_group_leader));
        let tgid: u32 = reader.read(leader + config!(task_tgid));
        let start_ns: u64 = reader.read(leader + config!(task_start_boottime));
        let moved = kernel::differ(parent, reader.read(process + config!(task_real_parent)));
        // The idle task is the parent of pid 1 and of kthreadd; nothing is ever moved to it.
        if tgid == 0 {
            return (n as u32, 0);
        }
        if n >= MAX_ANCESTORS as u64 {
            return (n as u32, flag::ANCESTRY_CUT);
        }
        // SAFETY: `n` is in bounds, as just checked.
        unsafe {
            let slot = out.cast::<TaskKey>().add(n as usize);
            (*slot).start_ns = start_ns;
            (*slot).tgid = tgid;
        }
        n += 1 - moved;
        // `process` if it moved, else `leader`.
        process = leader ^ ((process ^ leader) & moved.wrapping_neg());
    }
    (n as u32, flag::ANCESTRY_CUT | flag::ANCESTRY_UNSTABLE)
}

/// # Safety
/// `out` is writable.
#[inline(always)]
unsafe fn key(reader: &mut Reader, leader: u64, out: *mut TaskKey) {
    // SAFETY: fields of `out`.
    unsafe {
        (*out).start_ns = reader.read(leader + config!(task_start_boottime));
        (*out).tgid = reader.read(leader + config!(task_tgid));
    }
}
