//! Processes that were there before the programs were loaded, from /proc.

use crate::pipeline::Note;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

/// Every process, each as [`Note::SeedProcess`]. One that ends meanwhile is left out.
///
/// # Errors
/// If /proc cannot be listed.
pub fn seeds() -> Result<Vec<Note>, procfs::ProcError> {
    let tick_ns = 1_000_000_000 / procfs::ticks_per_second().max(1);
    let mut out = Vec::new();
    for process in procfs::process::all_processes()? {
        let Ok(process) = process else { continue };
        let Ok(stat) = process.stat() else { continue };
        let (exe, dev, ino) = exe_of(process.pid());
        out.push(Note::SeedProcess {
            tgid: u32::try_from(process.pid()).unwrap_or(0),
            start_ns: stat.starttime.saturating_mul(tick_ns),
            tick_ns,
            exe,
            dev,
            ino,
        });
    }
    Ok(out)
}

/// Path, device and inode of a process' program; all empty for a kernel thread.
fn exe_of(pid: i32) -> (Vec<u8>, u64, u64) {
    let link = format!("/proc/{pid}/exe");
    let path = std::fs::read_link(&link)
        .map(|p| p.as_os_str().as_bytes().to_vec())
        .unwrap_or_default();
    // Follows the link to the file itself, also where it was removed or lies in another mount namespace.
    let file = std::fs::metadata(&link)
        .map(|m| (kernel_dev(m.dev()), m.ino()))
        .unwrap_or((0, 0));
    (path, file.0, file.1)
}

/// A device number as `stat` gives it, in the kernel's encoding: major << 20 | minor. include/linux/kdev_t.h.
fn kernel_dev(dev: u64) -> u64 {
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    major << 20 | minor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_is_found_with_its_program_and_start() {
        let own = std::process::id();
        let exe = std::env::current_exe().unwrap();
        let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
        let found = seeds().unwrap().into_iter().any(|e| {
            matches!(e, Note::SeedProcess { tgid, start_ns, tick_ns, exe: path, .. }
                if tgid == own && path == exe.as_os_str().as_bytes() && start_ns == stat.starttime * tick_ns)
        });
        assert!(found);
    }
}
