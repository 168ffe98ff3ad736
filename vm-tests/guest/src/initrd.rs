//! What a guest does as PID 1 of an initramfs: loads the disk's modules, mounts the root file system, goes
//! over to it.
//!
//! Promises: the file that is executed there is this same program by the same path, so that IMA's list has
//! one entry for both; nothing else is executed before, and no file is measured (modules are handed over as
//! bytes). Not here: why there is an initramfs (`vm_tests::snapshot`), what happens after it (`init`).

use std::ffi::CString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::channel::PATIENCE;

/// Where the root file system is mounted; a directory of the initramfs.
const NEW_ROOT: &str = "/new-root";
/// This program, in both.
const INIT: &str = "/usr/sbin/guest";

/// Returns only when it cannot go on.
pub(crate) fn run() -> Error {
    match enter() {
        Ok(()) => Command::new(INIT).exec().into(),
        Err(error) => error,
    }
}

fn enter() -> Result<()> {
    let none = None::<&str>;
    mount(
        Some("devtmpfs"),
        "/dev",
        Some("devtmpfs"),
        MsFlags::MS_NOSUID,
        none,
    )
    .context("mounting /dev")?;
    let mut modules: Vec<PathBuf> = fs::read_dir(vm_protocol::INITRD_MODULES)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    modules.sort();
    for path in modules {
        let module = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        nix::kmod::init_module(&module, &CString::default())
            .with_context(|| format!("loading {}", path.display()))?;
        // What is in an initramfs stays in memory until it is removed.
        fs::remove_file(&path)?;
    }
    let device = vm_protocol::ROOT_DEVICE;
    let deadline = Instant::now() + PATIENCE;
    while !Path::new(device).exists() {
        if Instant::now() > deadline {
            bail!("{device} did not appear");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    mount(Some(device), NEW_ROOT, Some("ext4"), MsFlags::empty(), none)
        .with_context(|| format!("mounting {device}"))?;
    umount2("/dev", MntFlags::MNT_DETACH).context("unmounting /dev")?;
    fs::remove_file(INIT)?;
    std::env::set_current_dir(NEW_ROOT)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).context("moving the root file system")?;
    nix::unistd::chroot(".").context("changing the root")?;
    std::env::set_current_dir("/")?;
    Ok(())
}
