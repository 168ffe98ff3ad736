//! What a container tries that was given more than a pod has by default: privileges, the host's processes, or
//! a part of its file systems.
//!
//! Promises: what is changed of the kernel's settings is set back. Not here: containers with default rights
//! (see `workload_pod`), what is expected.

#![allow(unsafe_code, reason = "clone3(2), as an attacker calls it")]

use crate::workload::write_program;
use crate::workload_guard::{self as guard, Attempts};
use crate::workload_memory as memory;
use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setegid, seteuid};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vm_protocol::elf;
use vm_protocol::spec::{Attempt, HostRoot};

/// Ids of all processes in sight, the lowest first.
fn processes() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        found.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok()),
        );
    }
    found.sort_unstable();
    Ok(found)
}

/// The first process in a cgroup whose path has `part`, of this user where one is given.
fn first_in(part: &str, uid: Option<u32>) -> io::Result<u32> {
    let is_it = |pid: &u32| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let owner = std::fs::metadata(format!("/proc/{pid}")).map(|process| process.uid());
        cgroup.contains(part) && uid.is_none_or(|uid| owner.is_ok_and(|owner| owner == uid))
    };
    processes()?
        .into_iter()
        .find(is_it)
        .ok_or_else(|| Errno::ESRCH.into())
}

/// Reaches for the collector, then lets the first process of another container go on with code of ours.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn inject(container: &str, collector: u32) -> Result<Vec<Attempt>> {
    let mut tried = Attempts::default();
    let of_collector = Pid::from_raw(i32::try_from(collector).context("a process id")?);
    tried.note("signal", kill(of_collector, None).map_err(Into::into));
    guard::on_process(&mut tried, collector)?;
    let Some(pid) = tried.note("another container's process", first_in(container, None)) else {
        return Ok(tried.finish());
    };
    let pid = Pid::from_raw(i32::try_from(pid).context("a process id")?);
    let traced = ptrace::attach(pid).map_err(io::Error::from);
    if tried.note("it traced", traced).is_some() {
        waitpid(pid, Some(WaitPidFlag::__WALL)).context("waiting for what was attached to")?;
        tried.note("its memory written", memory::go_on_with_code(pid));
    }
    Ok(tried.finish())
}

/// Runs a program in another cgroup from its first instant.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn clone_into(dir: &Path, argv: &[String]) -> Result<Vec<Attempt>> {
    let mut tried = Attempts::default();
    let Some(cgroup) = tried.note("the cgroup's directory", File::open(dir)) else {
        return Ok(tried.finish());
    };
    let words: Vec<CString> = argv
        .iter()
        .map(|word| CString::new(word.as_str()))
        .collect::<Result<_, _>>()?;
    let mut pointers: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    let program = *pointers.first().context("no program is named")?;
    pointers.push(std::ptr::null());
    let cgroup = u64::try_from(cgroup.as_raw_fd()).context("a descriptor")?;
    // `struct clone_args`, include/uapi/linux/sched.h: flags come first, the signal at the end is the fifth,
    // the cgroup the last.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let arguments = [
        CLONE_INTO_CGROUP,
        0,
        0,
        0,
        Signal::SIGCHLD as u64,
        0,
        0,
        0,
        0,
        0,
        cgroup,
    ];
    // SAFETY: the kernel reads the arguments; with no stack and no shared memory named it is a fork. The
    // child executes at once, with words that were made before, or ends.
    let pid = unsafe {
        let pid = libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments));
        if pid == 0 {
            libc::execv(program, pointers.as_ptr());
            libc::_exit(127);
        }
        pid
    };
    let cloned = Errno::result(pid).map_err(io::Error::from);
    if let Some(pid) = tried.note("a process there", cloned) {
        let ended = waitpid(Pid::from_raw(i32::try_from(pid)?), None).context("waiting for it")?;
        let is_well = match ended {
            WaitStatus::Exited(_, 0) => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
        tried.note("its program", is_well);
    }
    Ok(tried.finish())
}

/// Writes a program into the host's root and has the kernel execute it, as it does where a process crashes.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn plant(root: &HostRoot, path: &str, idle: &Path) -> Result<Vec<Attempt>> {
    let mut tried = Attempts::default();
    let held;
    let at = match root {
        HostRoot::At(at) => PathBuf::from(at),
        HostRoot::OfProcess { uid, cgroup } => {
            let Some(root) = tried.note("a process' root", root_of(*uid, cgroup)) else {
                return Ok(tried.finish());
            };
            held = root;
            PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
        }
    };
    let written = write_program(&at.join(path.trim_start_matches('/')), &elf::exit(0, path));
    let written = written.map_err(|error| error.downcast().unwrap_or_else(|_| Errno::EINVAL.into()));
    if tried.note("a program written", written).is_none() {
        return Ok(tried.finish());
    }
    let pattern = at.join("proc/sys/kernel/core_pattern");
    let before = std::fs::read_to_string(&pattern).context("reading the core pattern")?;
    let set = std::fs::write(&pattern, format!("|{path}"));
    if tried.note("the core pattern", set).is_some() {
        let crashed = crash(idle);
        std::fs::write(&pattern, before).context("setting the core pattern back")?;
        crashed?;
    }
    Ok(tried.finish())
}

/// The root of a process without capabilities: its user alone may look at it, and that is any user that root
/// becomes for a moment.
fn root_of(uid: u32, cgroup: &str) -> io::Result<File> {
    let pid = first_in(cgroup, Some(uid))?;
    setegid(Gid::from_raw(uid))?;
    seteuid(Uid::from_raw(uid))?;
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(format!("/proc/{pid}/root"));
    seteuid(Uid::from_raw(0))?;
    setegid(Gid::from_raw(0))?;
    root
}

/// Lets a process end as if by a fault.
fn crash(idle: &Path) -> Result<()> {
    let mut child = Command::new(idle)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot execute {}", idle.display()))?;
    let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
    kill(pid, Signal::SIGSEGV).context("kill")?;
    child.wait().context("waiting for what crashed").map(drop)
}
