//! Reads which threads are inside of `ima_add_template_entry`.
//!
//! Promises: a thread that is inside from the beginning of the reading to its end is among what is read. Not
//! here: what a mark means, and whose it is (see [`crate::pipeline`]).

#![allow(
    unsafe_code,
    reason = "bpf(2) reads many entries of a map at once, which aya cannot"
)]

use super::{Bpf, Result, load};
use aya::maps::{HashMap, Map, MapData, MapError};
use cgpath_ebpf_common::{MAX_IN_FLIGHT, Mark, TICK_NS};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

/// A thread inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenMark {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// CLOCK_BOOTTIME when it began, nanoseconds.
    pub since_ns: u64,
    /// Inode number of its cgroup's directory at that moment.
    pub cgroup_id: u64,
}

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`, include/uapi/linux/bpf.h.
const LOOKUP_BATCH: nix::libc::c_int = 24;

/// Marks asked for at once; a bucket of the hash table that has more cannot be read, and none has.
const AT_ONCE: usize = 4096;

/// Member `batch` of `union bpf_attr`, include/uapi/linux/bpf.h.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// A mark younger than this is not looked after: looking at a thread takes longer than most calls.
const YOUNG_NS: u64 = 1_000_000_000;

impl Bpf {
    /// The marks that are open now, but for that of the calling thread, and those of threads that are gone:
    /// an oops ends a thread wherever it is.
    ///
    /// # Errors
    /// [`super::Error::Kernel`] if the map cannot be read.
    pub fn in_flight(&mut self) -> Result<Vec<OpenMark>> {
        let own = nix::unistd::gettid().as_raw().cast_unsigned();
        let now = load::boot_ns()?;
        let mut open = Vec::new();
        for (tid, mark) in read(&self.marks).map_err(load::kernel("read", "the marks"))? {
            let old = now.saturating_sub(mark.since_ns) > YOUNG_NS;
            if tid == own {
                continue;
            }
            if old && is_gone(tid, mark.start_ns) {
                tracing::warn!(tid, "a thread ended inside of ima_add_template_entry");
                // The thread that has this number now made a mark of its own, or will.
                continue;
            }
            open.push(OpenMark {
                tid,
                since_ns: mark.since_ns,
                cgroup_id: mark.cgroup_id,
            });
        }
        Ok(open)
    }
}

/// The map of marks by thread id.
pub(super) struct Marks(MapData);

impl Marks {
    /// # Errors
    /// If keys and values of the map are not those of marks.
    pub(super) fn new(map: Map) -> std::result::Result<Marks, MapError> {
        HashMap::<&MapData, u32, load::Plain<Mark>>::try_from(&map)?;
        match map {
            Map::HashMap(data) => Ok(Marks(data)),
            // The one other kind that has the same form: `BPF_MAP_TYPE_LRU_HASH`.
            _ => Err(MapError::InvalidMapType { map_type: 9 }),
        }
    }
}

/// All elements, a bucket of the hash table after the other, each under its lock: going from key to key would
/// begin anew whenever the key was removed meanwhile. Source: kernel/bpf/hashtab.c,
/// `__htab_map_lookup_and_delete_batch`.
fn read(marks: &Marks) -> io::Result<BTreeMap<u32, Mark>> {
    let mut found = BTreeMap::new();
    let mut keys = vec![0u32; AT_ONCE];
    let mut values = vec![Mark::default(); AT_ONCE];
    // The kernel writes the number of the next bucket.
    let (mut next, mut is_first) = (0u32, true);
    // As many rounds as it takes if each gives one bucket.
    for _ in 0..=2 * MAX_IN_FLIGHT {
        let from = next;
        let mut batch = Batch {
            from: if is_first { 0 } else { (&raw const from) as u64 },
            to: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            map: marks.0.fd().as_fd().as_raw_fd().cast_unsigned(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `batch`, and writes to it, to `next`, and at most AT_ONCE keys and values
        // of the map's sizes, which are those of the vectors' elements; all of them outlive the call.
        let result = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_bpf,
                LOOKUP_BATCH,
                &raw mut batch,
                size_of::<Batch>(),
            )
        };
        let error = (result != 0).then(io::Error::last_os_error);
        let is_last = match error {
            None => false,
            Some(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => true,
            Some(error) => return Err(error),
        };
        let count = (batch.count as usize).min(AT_ONCE);
        found.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if is_last {
            return Ok(found);
        }
        is_first = false;
    }
    Err(io::Error::other("the kernel's table has no end"))
}

/// Whether the thread that started at this moment is no more. One that cannot be looked up is taken to be
/// there.
fn is_gone(tid: u32, start_ns: u64) -> bool {
    let Ok(tid) = i32::try_from(tid) else {
        return false;
    };
    match procfs::process::Process::new(tid).and_then(|thread| thread.stat()) {
        // /proc has whole clock ticks.
        Ok(stat) => stat.starttime != start_ns / TICK_NS,
        Err(procfs::ProcError::NotFound(_)) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_gone_if_its_number_is_free_or_somebody_elses() {
        let myself = procfs::process::Process::myself().unwrap();
        let (tid, start) = (std::process::id(), myself.stat().unwrap().starttime);
        assert!(!is_gone(tid, start * TICK_NS + 7));
        assert!(is_gone(tid, (start + 1) * TICK_NS));
        let mut ended = std::process::Command::new("/proc/self/exe")
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        ended.wait().unwrap();
        assert!(is_gone(ended.id(), start * TICK_NS));
    }
}
