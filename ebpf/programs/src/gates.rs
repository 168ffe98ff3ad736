//! Gates: programs that stay attached, and go on in the program that stands in their place.
//!
//! A link cannot be made to run another program. A second one beside it would see each event again, and
//! attaching or detaching one loses the calls that are inside of the function at that moment: their exit is
//! skipped (`bpf_tramp_image_put` in kernel/bpf/trampoline.c). So a gate does nothing but jump to the only
//! element of a map; another object's program is written there, in one step. Promise: each event goes to one
//! program, the one before or the one after that. Not here: programs that may sleep. 6.1 and 6.12 refuse them
//! such a map (`check_map_prog_compatibility` in kernel/bpf/verifier.c), so that they have no gate.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, lsm, map},
    maps::ProgramArray,
    programs::{BtfTracePointContext, FEntryContext, FExitContext, LsmContext},
};

/// A gate, how it is attached, and the map with its place. While that is empty nothing is seen: the loader
/// fills it first.
macro_rules! gate {
    ($name:ident, $place:ident, $context:ty, [$($attached:tt)*]) => {
        #[map]
        static $place: ProgramArray = ProgramArray::with_max_entries(1, 0);

        #[$($attached)*]
        fn $name(ctx: $context) -> i32 {
            // SAFETY: nothing here is to be dropped.
            unsafe { $place.tail_call(&ctx, 0) };
            0
        }
    };
}

gate!(
    entry_added,
    ENTRY_ADDED,
    FExitContext,
    [fexit(function = "ima_add_template_entry")]
);
gate!(
    entry_added_twin,
    ENTRY_ADDED_TWIN,
    FExitContext,
    [fexit(function = "ima_add_template_entry")]
);
gate!(
    entry_begun,
    ENTRY_BEGUN,
    FEntryContext,
    [fentry(function = "ima_add_template_entry")]
);
gate!(
    entry_begun_twin,
    ENTRY_BEGUN_TWIN,
    FEntryContext,
    [fentry(function = "ima_add_template_entry")]
);
gate!(
    made_executable,
    MADE_EXECUTABLE,
    LsmContext,
    [lsm(hook = "file_mprotect")]
);
gate!(layer_opened, LAYER_OPENED, LsmContext, [lsm(hook = "file_open")]);
gate!(
    deny_execution,
    DENY_EXECUTION,
    LsmContext,
    [lsm(hook = "bprm_check_security")]
);
gate!(deny_mapping, DENY_MAPPING, LsmContext, [lsm(hook = "mmap_file")]);
gate!(guard_call, GUARD_CALL, LsmContext, [lsm(hook = "bpf")]);
gate!(guard_map, GUARD_MAP, LsmContext, [lsm(hook = "bpf_map")]);
gate!(guard_program, GUARD_PROGRAM, LsmContext, [lsm(hook = "bpf_prog")]);
gate!(
    guard_unlink,
    GUARD_UNLINK,
    LsmContext,
    [lsm(hook = "inode_unlink")]
);
gate!(guard_rmdir, GUARD_RMDIR, LsmContext, [lsm(hook = "inode_rmdir")]);
gate!(
    guard_rename,
    GUARD_RENAME,
    LsmContext,
    [lsm(hook = "inode_rename")]
);
gate!(
    guard_unmount,
    GUARD_UNMOUNT,
    LsmContext,
    [lsm(hook = "sb_umount")]
);
gate!(
    guard_trace,
    GUARD_TRACE,
    LsmContext,
    [lsm(hook = "ptrace_access_check")]
);
gate!(guard_open, GUARD_OPEN, LsmContext, [lsm(hook = "file_open")]);
gate!(
    bytes_loaded,
    BYTES_LOADED,
    LsmContext,
    [lsm(hook = "kernel_post_load_data")]
);
gate!(
    kernel_loaded,
    KERNEL_LOADED,
    LsmContext,
    [lsm(hook = "kernel_load_data")]
);
gate!(
    cgroup_made,
    CGROUP_MADE,
    BtfTracePointContext,
    [btf_tracepoint(function = "cgroup_mkdir")]
);
gate!(
    cgroup_renamed,
    CGROUP_RENAMED,
    BtfTracePointContext,
    [btf_tracepoint(function = "cgroup_rename")]
);
gate!(
    cgroup_removed,
    CGROUP_REMOVED,
    BtfTracePointContext,
    [btf_tracepoint(function = "cgroup_rmdir")]
);
