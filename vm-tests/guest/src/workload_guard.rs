//! What an attacker with host root tries on a collector's parts through bpf(2) and ptrace(2): each attempt
//! with its outcome.
//!
//! Promises: nothing is left as it was not before but what the answer names; no attempt stops another one.
//! Not here: what a shell can do (files, mounts, sysctls), what is expected.

#![allow(unsafe_code, reason = "bpf(2) and others, as an attacker calls them")]

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use vm_protocol::spec::Attempt;

// `enum bpf_cmd` and flags, include/uapi/linux/bpf.h.
const MAP_UPDATE_ELEM: u32 = 2;
const OBJ_GET: u32 = 7;
const PROG_GET_NEXT_ID: u32 = 11;
const MAP_GET_NEXT_ID: u32 = 12;
pub const PROG_GET_FD_BY_ID: u32 = 13;
pub const MAP_GET_FD_BY_ID: u32 = 14;
pub const LINK_UPDATE: u32 = 29;
pub const LINK_GET_FD_BY_ID: u32 = 30;
const LINK_GET_NEXT_ID: u32 = 31;
pub const LINK_DETACH: u32 = 34;
const F_RDONLY: u32 = 1 << 3;

/// `union bpf_attr`, as far as it is used here: words of 64 bits, zero where nothing is said.
type Attributes = [u64; 16];

fn bpf(command: u32, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: the attributes are writable and as long as stated; addresses in them are of memory that
    // outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of::<Attributes>(),
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(answer).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn two(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn descriptor(command: u32, attributes: &mut Attributes) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Every id of a kind, in order.
fn ids(next: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut last = 0;
    loop {
        let mut attributes = [0; 16];
        attributes[0] = two(last, 0);
        match bpf(next, &mut attributes) {
            // There is none behind it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
            asked => asked.context("asking for the next id")?,
        };
        last = (attributes[0] >> 32) as u32;
        found.push(last);
    }
}

/// Ids of all programs that the kernel has.
///
/// # Errors
/// When it does not say.
pub fn loaded() -> Result<Vec<u32>> {
    ids(PROG_GET_NEXT_ID)
}

/// An object by its id.
///
/// # Errors
/// What the kernel says.
pub fn by_id(command: u32, id: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = [0; 16];
    // The id, a word for the next one, then the flags.
    attributes[0] = two(id, 0);
    attributes[1] = two(flags, 0);
    descriptor(command, &mut attributes)
}

/// A pinned object.
///
/// # Errors
/// What the kernel says.
pub fn by_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut attributes = [0; 16];
    attributes[0] = path.as_ptr() as u64;
    descriptor(OBJ_GET, &mut attributes)
}

/// What was tried so far.
#[derive(Default)]
pub struct Attempts(Vec<Attempt>);

impl Attempts {
    /// All of it.
    pub fn finish(self) -> Vec<Attempt> {
        self.0
    }

    /// Notes the outcome; several of one name are one attempt each.
    pub fn note<T>(&mut self, what: &str, outcome: io::Result<T>) -> Option<T> {
        let (errno, value) = match outcome {
            Ok(value) => (0, Some(value)),
            Err(error) => (error.raw_os_error().unwrap_or(-1), None),
        };
        self.0.push(Attempt {
            what: what.to_owned(),
            errno,
        });
        value
    }
}

/// Tries everything on the programs pinned in `pins` and on process `pid`.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn attack(pins: &Path, pid: u32) -> Result<Vec<Attempt>> {
    let mut tried = Attempts::default();
    for id in ids(MAP_GET_NEXT_ID)? {
        tried.note("map by id", by_id(MAP_GET_FD_BY_ID, id, 0));
        tried.note("map by id to read", by_id(MAP_GET_FD_BY_ID, id, F_RDONLY));
    }
    for id in ids(PROG_GET_NEXT_ID)? {
        tried.note("program by id", by_id(PROG_GET_FD_BY_ID, id, 0));
    }
    for id in ids(LINK_GET_NEXT_ID)? {
        if let Some(link) = tried.note("link by id", by_id(LINK_GET_FD_BY_ID, id, 0)) {
            tried.note(
                "link detached",
                on_link(LINK_DETACH, link.as_raw_fd().cast_unsigned()),
            );
        }
    }
    let pinned = by_pin(&pins.join("map_PODS"));
    if let Some(map) = tried.note("map by pin", pinned) {
        tried.note("map written", write(&map));
    }
    tried.note("program by pin", by_pin(&pins.join("prog_executed")));
    if let Ok(link) = by_pin(&pins.join("link_executed")) {
        let fd = link.as_raw_fd().cast_unsigned();
        tried.note("pinned link detached", on_link(LINK_DETACH, fd));
    }
    on_process(&mut tried, pid)?;
    Ok(tried.finish())
}

/// Tries to reach into process `pid`.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn on_process(tried: &mut Attempts, pid: u32) -> Result<()> {
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"));
    tried.note("memory", memory);
    tried.note("descriptor", steal(pid));
    let target = Pid::from_raw(i32::try_from(pid).context("a process id")?);
    if tried
        .note("traced", ptrace::attach(target).map_err(io::Error::from))
        .is_some()
    {
        waitpid(target, Some(WaitPidFlag::__WALL)).context("waiting for the process that was attached to")?;
        ptrace::detach(target, None).context("letting the process go on")?;
    }
    Ok(())
}

/// A command whose first attribute is a link's descriptor.
///
/// # Errors
/// What the kernel says.
pub fn on_link(command: u32, fd: u32) -> io::Result<i32> {
    let mut attributes = [0; 16];
    attributes[0] = two(fd, 0);
    bpf(command, &mut attributes)
}

/// Writes an element that nothing looks at: no cgroup has the id 1 and is a pod's.
fn write(map: &OwnedFd) -> io::Result<i32> {
    let (key, value) = (1u64, 0u32);
    let mut attributes = [0; 16];
    attributes[0] = two(map.as_raw_fd().cast_unsigned(), 0);
    attributes[1] = (&raw const key) as u64;
    attributes[2] = (&raw const value) as u64;
    bpf(MAP_UPDATE_ELEM, &mut attributes)
}

/// Takes descriptor 0 of another process.
fn steal(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on numbers.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if process < 0 {
            return Err(io::Error::last_os_error());
        }
        let process = OwnedFd::from_raw_fd(process as i32);
        let stolen = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), 0, 0);
        if stolen < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(stolen as i32))
    }
}
