//! Loads another kernel, as `kexec -s -l` does, and hands the kernel what it takes as bytes. Not here: the
//! jump into another kernel (see `init`).

#![allow(unsafe_code, reason = "kexec_file_load(2), init_module(2), kexec_load(2)")]

use anyhow::{Context as _, Result, bail};
use nix::libc;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// `KEXEC_FILE_NO_INITRAMFS`, include/uapi/linux/kexec.h.
const NO_INITRAMFS: libc::c_ulong = 4;

/// Loads the kernel image at `image` with this command line and no initramfs.
///
/// # Errors
/// When the kernel refuses it.
pub fn load(image: &Path, command_line: &str) -> Result<()> {
    let kernel = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let line = CString::new(command_line).context("a command line with a zero byte")?;
    // SAFETY: the command line is as long as stated, with its zero byte, and outlives the call; the rest are
    // numbers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            -1,
            line.as_bytes_with_nul().len(),
            line.as_ptr(),
            NO_INITRAMFS,
        )
    };
    if answer != 0 {
        bail!(
            "kexec_file_load of {}: {}",
            image.display(),
            io::Error::last_os_error()
        );
    }
    Ok(())
}

/// Loads this module from memory, as kmod does with what it unpacked.
///
/// # Errors
/// When the kernel refuses it.
pub fn insert_bytes(module: &[u8]) -> Result<()> {
    // SAFETY: as many bytes as stated, and a string, which outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_init_module, module.as_ptr(), module.len(), c"".as_ptr()) };
    if answer != 0 {
        bail!("init_module: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// Calls kexec_load with nothing to load: the kernel asks the same of its caller as for a kernel, and what
/// was loaded before is given back.
///
/// # Errors
/// When the kernel refuses it.
pub fn unload_bytes() -> Result<()> {
    // SAFETY: no segments, so that no memory is read.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            0usize,
            0usize,
            std::ptr::null::<u8>(),
            0usize,
        )
    };
    if answer != 0 {
        bail!("kexec_load: {}", io::Error::last_os_error());
    }
    Ok(())
}
