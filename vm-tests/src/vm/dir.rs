//! A guest's directory: disk, TPM state, sockets, logs.
//!
//! Promise: it goes away with the guest or with the process that made it, by whatever death, unless it is
//! kept. Not here: what lies in it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Where guests have their directories: `CGPATH_VM_DIR`, or in memory where there is plenty (an image is some
/// hundred MB, and waiting for a disk is most of a start), else on disk.
fn guests_dir() -> PathBuf {
    const PLENTY: u64 = 6 << 30;
    if let Some(dir) = std::env::var_os("CGPATH_VM_DIR") {
        return dir.into();
    }
    let shared_memory = Path::new("/dev/shm");
    let room = nix::sys::statvfs::statvfs(shared_memory).map_or(0, |stat| {
        stat.blocks_available().saturating_mul(stat.fragment_size())
    });
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0);
    if room >= PLENTY && available.saturating_mul(1024) >= PLENTY {
        shared_memory.to_path_buf()
    } else {
        PathBuf::from("/var/tmp")
    }
}

/// A guest's directory. It goes away with this value, or with this process, unless the guest is kept.
pub(super) struct VmDir {
    pub(super) path: PathBuf,
    pub(super) keep: bool,
    /// Waits for this process' end in order to remove the directory.
    cleaner: Option<Child>,
}

const PREFIX: &str = "cgpath-vm-";

impl VmDir {
    /// The directory of a guest that was kept.
    pub(super) fn kept(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            keep: true,
            cleaner: None,
        }
    }

    pub(super) fn new(keep: bool) -> Result<Self> {
        let guests = guests_dir();
        for place in [guests.as_path(), Path::new("/dev/shm"), Path::new("/var/tmp")] {
            sweep(place);
        }
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&guests)
            .with_context(|| format!("making a directory in {}", guests.display()))?;
        let mut dir = Self {
            path: dir.keep(),
            keep,
            cleaner: None,
        };
        dir.record(std::process::id())?;
        if !keep {
            dir.cleaner = Some(dir.start_cleaner()?);
        }
        Ok(dir)
    }

    /// Starts a shell that reads until this process closes its end of a pipe, by whatever death, and then
    /// removes the directory: a disk in memory must not outlive Ctrl-C.
    fn start_cleaner(&self) -> Result<Child> {
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", "read -r _; sleep 1; rm -rf -- \"$0\""])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in the terminal's foreground group, which Ctrl-C ends.
            .process_group(0);
        command.spawn().context("starting /bin/sh")
    }

    /// Whether the process that this directory belongs to ended within this time.
    pub(super) fn wait_for_owner(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let Some(owner) = owner(&self.path) else {
            return true;
        };
        while Path::new("/proc").join(owner.to_string()).exists() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Notes the process without which this directory is litter.
    pub(super) fn record(&self, pid: u32) -> Result<()> {
        let pid = if self.keep { pid } else { std::process::id() };
        let path = self.path.join("owner");
        std::fs::write(&path, pid.to_string()).with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for VmDir {
    fn drop(&mut self) {
        if !self.keep {
            // What stays is removed by the next `sweep`.
            let _ = std::fs::remove_dir_all(&self.path);
        }
        if let Some(mut cleaner) = self.cleaner.take() {
            // There is nothing left for it to do; it may have ended.
            let _ = cleaner.kill();
            let _ = cleaner.wait();
        }
    }
}

/// The process without which a guest's directory is litter.
fn owner(dir: &Path) -> Option<u32> {
    std::fs::read_to_string(dir.join("owner")).ok()?.parse().ok()
}

/// Removes directories of guests whose process died before it could.
fn sweep(guests: &Path) {
    let Ok(entries) = std::fs::read_dir(guests) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let owner = owner(&entry.path());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another user's directory stays, as it should.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
