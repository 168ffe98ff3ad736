//! Whose a task is, and executions in pods that are not to be.
//!
//! Promises: what is not below the pods' root of its hierarchy is never denied, whatever the maps say; nobody
//! is denied for longer than the settings allow. Not here: who is to be denied (the collector writes it into
//! the maps), what a pod may have recorded (see `budget`).

use crate::{budget, config::config, guard, kernel::Reader, ring};
use aya_ebpf::{
    cty::c_void,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_task, bpf_ktime_get_boot_ns,
        bpf_probe_read_kernel_str,
    },
    macros::map,
    maps::HashMap,
};
use cgpath_ebpf_common::{
    MAX_PARENT_LEVEL, MAX_PARENTS, MAX_POD_LEVEL, NO_SUBSYSTEM, Refusal, Settings, Standing, action, mode,
    pod,
};

/// By cgroup id: see [`pod`].
#[map]
static PODS: HashMap<u64, u32> = HashMap::with_max_entries(16384, 0);

/// Directories in which pods have theirs, by inode number. The collector writes it.
#[map]
static PARENTS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_PARENTS, 0);

/// In [`standing`]: it is below the pods' root.
const IN_POD: u32 = 1 << 31;

/// The first bytes of a directory's name, its NUL included if they reach that far.
type Name = [u64; 3];

const fn name(text: &[u8]) -> Name {
    let mut bytes = [0; 24];
    let mut i = 0;
    while i < text.len() {
        bytes[i] = text[i];
        i += 1;
    }
    let mut words = [0; 3];
    let mut w = 0;
    while w < 3 {
        let mut word = [0; 8];
        let mut i = 0;
        while i < 8 {
            word[i] = bytes[8 * w + i];
            i += 1;
        }
        words[w] = u64::from_ne_bytes(word);
        w += 1;
    }
    words
}

/// The pods' root as each driver names it, and below the kubelet's own.
const CGROUPFS: Name = name(b"kubepods");
const SYSTEMD: Name = name(b"kubepods.slice");
const KUBELET: Name = name(b"kubelet");
const KUBELET_SYSTEMD: Name = name(b"kubelet.slice");
const NESTED_SYSTEMD: Name = name(b"kubelet-kubepods.slice");

/// What the map says of the directories from below the pods' root to the task's own, with [`IN_POD`]; 0 on
/// the host.
#[inline(always)]
fn standing(reader: &mut Reader) -> u32 {
    let (cgroup, level) = own(reader);
    let first = names(reader, cgroup, level, 1);
    let second = names(reader, cgroup, level, 2);
    let root = if first == CGROUPFS || first == SYSTEMD {
        1
    } else if (first == KUBELET && second == CGROUPFS)
        || (first == KUBELET_SYSTEMD && second == NESTED_SYSTEMD)
    {
        2
    } else {
        return 0;
    };
    let mut found = 0;
    for at in 2..=MAX_POD_LEVEL as u32 {
        if at > root && at <= level {
            let node: u64 = ancestor(reader, cgroup, at);
            let id: u64 = reader.read(node + config!(kernfs_node_id));
            found |= IN_POD;
            if let Some(bits) = PODS.get_ptr(id) {
                // SAFETY: a map value.
                found |= unsafe { bits.read_volatile() } & !IN_POD;
            }
        }
    }
    found
}

/// `struct cgroup` of the current task, and how many directories lie above it.
#[inline(always)]
fn own(reader: &mut Reader) -> (u64, u32) {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let set: u64 = reader.read(task + config!(task_cgroups));
    let subsys = config!(cgroup_subsys);
    let cgroup: u64 = if subsys == u64::from(NO_SUBSYSTEM) {
        reader.read(set + config!(css_set_dfl_cgrp))
    } else {
        let css: u64 = reader.read(set + config!(css_set_subsys) + 8 * subsys);
        reader.read(css + config!(css_cgroup))
    };
    (cgroup, reader.read(cgroup + config!(cgroup_level)))
}

/// The current task's pod: the inode number of the directory right below the deepest parent of pods that is
/// above it; 0 on the host. Directories that a pod makes below its own are never parents, so that they change
/// nothing.
#[inline(always)]
pub fn of_task(reader: &mut Reader) -> u64 {
    let is_v2 = config!(cgroup_subsys) == u64::from(NO_SUBSYSTEM);
    let (cgroup, level) = if is_v2 { (0, 0) } else { own(reader) };
    // 0 below the task's own directory.
    let mut id = |at: usize| -> u64 {
        if is_v2 {
            // SAFETY: the helper has no preconditions; what it reads cannot be freed meanwhile.
            return unsafe { bpf_get_current_ancestor_cgroup_id(at as i32) };
        }
        if at as u32 > level {
            return 0;
        }
        let node = ancestor(reader, cgroup, at as u32);
        reader.read(node + config!(kernfs_node_id))
    };
    let mut pod = 0;
    let mut above = id(1);
    for at in 1..=MAX_PARENT_LEVEL {
        let below = id(at + 1);
        if PARENTS.get_ptr(above).is_some() {
            pod = below;
        }
        above = below;
    }
    pod
}

/// `struct kernfs_node` of the directory at this level above (or at) `cgroup`. The array has `level + 1`
/// elements.
#[inline(always)]
fn ancestor(reader: &mut Reader, cgroup: u64, at: u32) -> u64 {
    let above: u64 = reader.read(cgroup + config!(cgroup_ancestors) + 8 * u64::from(at));
    reader.read(above + config!(cgroup_kn))
}

#[inline(always)]
fn names(reader: &mut Reader, cgroup: u64, level: u32, at: u32) -> Name {
    let mut words: Name = [0; 3];
    if at > level {
        return words;
    }
    let node = ancestor(reader, cgroup, at);
    let text: u64 = reader.read(node + config!(kernfs_node_name));
    // SAFETY: room for what the helper writes at most.
    let n = unsafe { bpf_probe_read_kernel_str((&raw mut words).cast(), 24, text as *const c_void) };
    // One that fills the room was cut: none of ours is that long.
    if n <= 0 || n >= 24 {
        return [0; 3];
    }
    words
}

/// For what reason the current task may not run another program now, if for any.
#[inline(always)]
pub fn execution_denied() -> Option<u32> {
    let settings = guard::settings()?;
    let (untrusted, loss) = (
        guard::setting!(settings, untrusted),
        guard::setting!(settings, loss),
    );
    if untrusted != mode::DENY && loss != mode::DENY {
        return None;
    }
    let mut reader = Reader::new();
    let standing = standing(&mut reader);
    reader.finish();
    if standing == 0 {
        return None;
    }
    if untrusted == mode::DENY {
        match refusal(settings, standing) {
            Some(Refusal::Untrusted) => return Some(action::EXECUTION_DENIED),
            Some(Refusal::Entries) => return Some(action::EXECUTION_DENIED_ON_ENTRIES),
            None => {}
        }
    }
    if loss == mode::DENY && standing & pod::EXEMPT_LOSS == 0 {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        let not_before = now.saturating_sub(guard::setting!(settings, loss_lapse_ns));
        if ring::lost_since(guard::setting!(settings, lost_acknowledged), not_before) {
            return Some(action::EXECUTION_DENIED_ON_LOSS);
        }
    }
    None
}

/// For what reason the current task may not map a file executable now, if for any.
#[inline(always)]
pub fn mapping_denied() -> Option<u32> {
    let settings = guard::settings()?;
    if guard::setting!(settings, untrusted) != mode::DENY
        || guard::setting!(settings, untrusted_mappings) != mode::DENY
    {
        return None;
    }
    let mut reader = Reader::new();
    let standing = standing(&mut reader);
    reader.finish();
    if standing == 0 {
        return None;
    }
    match refusal(settings, standing)? {
        Refusal::Untrusted => Some(action::MAPPING_DENIED),
        Refusal::Entries => Some(action::MAPPING_DENIED_ON_ENTRIES),
    }
}

/// Why the current task's pod, for which the map says `bits`, is refused to run anything, if it is.
#[inline(always)]
fn refusal(settings: *const Settings, bits: u32) -> Option<Refusal> {
    let most_entries = guard::setting!(settings, budget_entries);
    let mut reader = Reader::new();
    let entries = if most_entries == 0 {
        0
    } else {
        budget::entries(&mut reader)
    };
    reader.finish();
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let standing = Standing {
        bits,
        entries,
        away_ns: now.saturating_sub(guard::setting!(settings, heartbeat_ns)),
    };
    standing.refusal(guard::setting!(settings, untrusted_lapse_ns), most_entries)
}
