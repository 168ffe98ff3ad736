//! Reads which threads are inside of `ima_add_template_entry`.
//!
//! Promises: a thread that is inside from the beginning of the reading to its end is among what is read. Not
//! here: what a mark means, and whose it is (see [`crate::pipeline`]).

use super::{Bpf, Result, load, table::Table};
use crate::pipeline::OpenMark;
use cgpath_ebpf_common::{MAX_IN_FLIGHT, Mark, TICK_NS};

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
        let marks = self.marks.read(MAX_IN_FLIGHT);
        for (tid, mark) in marks.map_err(load::kernel("read", "the marks"))? {
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
pub(super) type Marks = Table<u32, Mark>;

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
