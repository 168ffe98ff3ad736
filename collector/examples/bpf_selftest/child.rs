//! What the child processes do that the checks start: mappings, and an execution of memory.
//!
//! Not here: what is expected of their records.

#![allow(unsafe_code, reason = "mappings are made, to see whether they are recorded")]

use anyhow::{Context, Result, bail};
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

fn map(len: usize, file: Option<&fs::File>) -> Result<*mut u8> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};
    let len = NonZeroUsize::new(len).context("an empty mapping")?;
    // SAFETY: new mappings at addresses of the kernel's choice.
    let at = unsafe {
        match file {
            Some(file) => mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0),
            None => mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_EXEC,
                MapFlags::MAP_PRIVATE,
            ),
        }
    }?;
    Ok(at.as_ptr().cast())
}

pub fn anonymous() -> Result<()> {
    for _ in 0..100 {
        map(4096, None)?;
    }
    Ok(())
}

pub fn page_zero(program: &str) -> Result<()> {
    use nix::sys::personality::{Persona, get, set};
    set(get()? | Persona::MMAP_PAGE_ZERO)?;
    bail!(Command::new(program).arg("true").exec())
}

pub fn late(file: &Path) -> Result<()> {
    use nix::sys::mman::{ProtFlags, mprotect};
    let at = map(4096, Some(&fs::File::open(file)?))?;
    let at = std::ptr::NonNull::new(at.cast()).context("mapped at 0")?;
    // SAFETY: our own mapping, which nobody else uses.
    unsafe { mprotect(at, 4096, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) }?;
    Ok(())
}

/// Maps a file in one of the ways in which a mapping is, or is not, writable and executable at once.
pub fn writable(way: &str, file: &Path) -> Result<()> {
    use nix::libc;
    use nix::sys::personality::{Persona, get, set};
    const READ: i32 = libc::PROT_READ;
    const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const EXECUTE: i32 = libc::PROT_READ | libc::PROT_EXEC;
    const BOTH: i32 = WRITE | EXECUTE;
    // What it is mapped with, and what that becomes.
    let (is_shared, first, later): (bool, i32, &[i32]) = match way {
        "private" => (false, BOTH, &[]),
        "shared" => (true, BOTH, &[]),
        "write added" | "with a key" => (false, EXECUTE, &[BOTH]),
        "both added" => (false, READ, &[BOTH]),
        "execution added" => (true, WRITE, &[BOTH]),
        "kept" => (false, BOTH, &[BOTH, EXECUTE]),
        "in turns" => (false, EXECUTE, &[WRITE, EXECUTE]),
        "implied" => (false, WRITE, &[]),
        "implied later" => (false, WRITE, &[WRITE]),
        other => bail!("no such way: {other}"),
    };
    let file = fs::OpenOptions::new().read(true).write(is_shared).open(file)?;
    let implied = || set(get()? | Persona::READ_IMPLIES_EXEC);
    if way == "implied" {
        implied()?;
    }
    let how = if is_shared {
        libc::MAP_SHARED
    } else {
        libc::MAP_PRIVATE
    };
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, first, how, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    if way == "implied later" {
        implied()?;
    }
    for protection in later {
        // SAFETY: our own mapping, which nobody else uses; without a key, -1, the call is mprotect's.
        let done = unsafe {
            match way {
                "with a key" => {
                    let protection = i64::from(*protection);
                    libc::syscall(libc::SYS_pkey_mprotect, at, 4096usize, protection, -1i64)
                }
                _ => libc::mprotect(at, 4096, *protection).into(),
            }
        };
        nix::errno::Errno::result(done)?;
    }
    Ok(())
}

pub fn memfd(file: &Path) -> Result<()> {
    let fd = nix::sys::memfd::memfd_create(c"secret", nix::sys::memfd::MFdFlags::empty())?;
    let mut memory = fs::File::from(fd);
    memory.write_all(&fs::read(file)?)?;
    let args = [CString::new("true")?];
    nix::unistd::execv(
        &CString::new(format!("/proc/self/fd/{}", memory.as_raw_fd()))?,
        &args,
    )?;
    Ok(())
}
