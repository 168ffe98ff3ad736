//! What an object has: its programs with their hooks, and its maps.
//!
//! Promise: what two objects must have in common, so that the programs of one take the places of those of the
//! other, is one hash. Not here: how they are loaded (see `load`), which of them have places (see `places`).

use super::places;
use cgpath_ebpf_common::{Budget, Counters, LAYOUT_VERSION, Loss, Mark, Settings, Taken, Used};
use sha2::{Digest as _, Sha256};

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Entry of a kernel function.
    Entry(&'static str),
    /// Exit of a kernel function.
    Exit(&'static str),
    /// Hook of the security framework.
    Lsm(&'static str),
    /// Raw tracepoint with types.
    Tracepoint(&'static str),
}

/// All programs, in the order in which they are attached: names of cgroups first, since all else refers to
/// them.
pub(super) const PROGRAMS: [(&str, Hook); 25] = [
    ("cgroup_made", Hook::Tracepoint("cgroup_mkdir")),
    ("cgroup_renamed", Hook::Tracepoint("cgroup_rename")),
    ("cgroup_removed", Hook::Tracepoint("cgroup_rmdir")),
    // The first of the two: it counts the calls, so none may be there without it.
    (ENTRY, Hook::Exit("ima_add_template_entry")),
    (ENTRY_TWIN, Hook::Exit("ima_add_template_entry")),
    // Behind those that take the marks away again: a call that begins in between would leave one.
    (BEGUN, Hook::Entry("ima_add_template_entry")),
    (BEGUN_TWIN, Hook::Entry("ima_add_template_entry")),
    ("executed", Hook::Lsm("bprm_committed_creds")),
    ("script", Hook::Lsm("bprm_check_security")),
    ("mapped", Hook::Lsm("mmap_file")),
    ("made_executable", Hook::Lsm("file_mprotect")),
    ("layer_opened", Hook::Lsm("file_open")),
    ("deny_execution", Hook::Lsm("bprm_check_security")),
    ("deny_mapping", Hook::Lsm("mmap_file")),
    ("guard_call", Hook::Lsm("bpf")),
    ("guard_map", Hook::Lsm("bpf_map")),
    ("guard_program", Hook::Lsm("bpf_prog")),
    ("guard_unlink", Hook::Lsm("inode_unlink")),
    ("guard_rmdir", Hook::Lsm("inode_rmdir")),
    ("guard_rename", Hook::Lsm("inode_rename")),
    ("guard_unmount", Hook::Lsm("sb_umount")),
    ("guard_trace", Hook::Lsm("ptrace_access_check")),
    ("guard_open", Hook::Lsm("file_open")),
    ("bytes_loaded", Hook::Lsm("kernel_post_load_data")),
    ("kernel_loaded", Hook::Lsm("kernel_load_data")),
];

/// The two programs that see each call of `ima_add_template_entry` and record it once.
pub(super) const ENTRY: &str = "entry_added";
/// See [`ENTRY`].
pub(super) const ENTRY_TWIN: &str = "entry_added_twin";

/// The two programs that mark a thread inside of `ima_add_template_entry`.
pub(super) const BEGUN: &str = "entry_begun";
/// See [`BEGUN`].
pub(super) const BEGUN_TWIN: &str = "entry_begun_twin";

/// Names of the maps in the object.
pub(super) const RECORDS: &str = "RECORDS";
pub(super) const COUNTERS: &str = "COUNTERS";
pub(super) const SETTINGS: &str = "SETTINGS";
pub(super) const LOSS: &str = "LOSS";
pub(super) const PODS: &str = "PODS";
pub(super) const PARENTS: &str = "PARENTS";
pub(super) const GUARDED: &str = "GUARDED";
pub(super) const IDENTITY: &str = "IDENTITY";
pub(super) const IN_FLIGHT: &str = "IN_FLIGHT";
pub(super) const BUDGETS: &str = "BUDGETS";

/// All maps but those of the places, with the bytes of a value; the ring has none. They are pinned, and used
/// by the programs of an object that comes later, too.
const MAPS: [(&str, usize); 13] = [
    (RECORDS, 0),
    (COUNTERS, size_of::<Counters>()),
    (SETTINGS, size_of::<Settings>()),
    (LOSS, size_of::<Loss>()),
    (PODS, size_of::<u32>()),
    (PARENTS, size_of::<u32>()),
    (GUARDED, size_of::<u32>()),
    (IDENTITY, size_of::<[u64; 8]>()),
    (IN_FLIGHT, size_of::<Mark>()),
    (BUDGETS, size_of::<Budget>()),
    ("TAKEN", size_of::<Taken>()),
    ("OURS", size_of::<u64>()),
    ("USED", size_of::<Used>()),
];

/// Names of all maps that are pinned but `meta`.
pub(super) fn map_names() -> Vec<String> {
    let places = places::gates().map(|(name, _)| places::map_of(name));
    MAPS.iter()
        .map(|(name, _)| (*name).to_owned())
        .chain(places)
        .collect()
}

/// What a collector must have in common with the programs that run, to take them over: the layout of records,
/// the names of programs, and the names of maps with the sizes of their values, as one hash.
pub fn interface() -> [u8; 32] {
    let hash = Sha256::new().chain_update(LAYOUT_VERSION.to_be_bytes());
    let named = |hash: Sha256, name: &str| hash.chain_update(name).chain_update([0u8]);
    let hash = PROGRAMS.iter().fold(hash, |hash, (name, _)| named(hash, name));
    let hash = MAPS.iter().fold(hash, |hash, (name, bytes)| {
        named(hash, name).chain_update((*bytes as u64).to_be_bytes())
    });
    let hash = places::WITHOUT_GATE
        .iter()
        .fold(hash, |hash, name| named(hash, name));
    hash.finalize().into()
}
