//! Marks: which threads are inside of `ima_add_template_entry`, from its beginning.
//!
//! The entry is in the list, and its register extended, before the function returns, and only then is there a
//! record. A thread that is kept from running in between holds its record up, for as long as somebody likes:
//! by the mark it is known whose entry that is. Promises: a mark goes only after the record was sent, so that
//! a reader of first the marks and then the ring buffer finds the one or the other.
//!
//! A thread that is killed inside leaves no mark: signals, fatal ones too, end a thread on its way back to
//! user space (kernel/entry/common.c, `exit_to_user_mode_loop` calls `arch_do_signal_or_restart`, and
//! `get_signal` in kernel/signal.c calls `do_group_exit`), and the function takes its mutex by `mutex_lock`,
//! which no signal ends (security/integrity/ima/ima_queue.c). What is left is a thread that an oops ends
//! (`make_task_dead` in kernel/exit.c), which never returns: the collector tells by `start_ns` that it is
//! gone. Not here: what an open mark means.

use crate::{config::config, kernel::Reader, ring, tasks};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task, bpf_ktime_get_boot_ns},
    },
    macros::map,
    maps::HashMap,
};
use cgpath_ebpf_common::{EEXIST, MAX_IN_FLIGHT, Mark};

/// By thread id in the initial pid namespace. Allocated beforehand: making a mark takes no memory that could
/// be short.
#[map]
static IN_FLIGHT: HashMap<u32, Mark> = HashMap::with_max_entries(MAX_IN_FLIGHT, 0);

/// The current thread is at the function's beginning.
#[inline(always)]
pub fn begun() {
    mark(u64::from(BPF_ANY));
}

/// The same, said by the twin: the mark that is there stays, so that its moment does.
#[inline(always)]
pub fn begun_twin() {
    mark(u64::from(BPF_NOEXIST));
}

#[inline(always)]
fn mark(flags: u64) {
    let mut reader = Reader::new();
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let mark = Mark {
        // SAFETY: the helper has no preconditions.
        since_ns: unsafe { bpf_ktime_get_boot_ns() },
        start_ns: reader.read(task + config!(task_start_boottime)),
        cgroup_id: tasks::cgroup_id(&mut reader, task),
    };
    reader.finish();
    match IN_FLIGHT.insert(thread(), mark, flags) {
        Err(error) if error != -EEXIST => ring::mark_failed(),
        _ => {}
    }
}

/// The current thread's record was sent, or lost and counted.
#[inline(always)]
pub fn ended() {
    let _ = IN_FLIGHT.remove(thread());
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}
