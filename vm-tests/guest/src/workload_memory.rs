//! Executable mappings of several kinds: the part of the workloads that needs `unsafe`.
//!
//! Not here: files and cgroups (see `workload`).

use anyhow::{Context as _, Result, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

const PAGE: usize = 4096;

fn page() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(PAGE - 1)
}

/// Writes a function that returns `answer` to the start of a writable page.
fn write_code(at: NonNull<c_void>, answer: u8) {
    // mov eax, answer; ret
    let code = [0xb8, answer, 0, 0, 0, 0xc3];
    // SAFETY: `at` is the start of a private, writable mapping of one page that nothing else refers to.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at.as_ptr().cast::<u8>(), code.len()) };
}

/// Calls what [`write_code`] wrote.
fn call(at: NonNull<c_void>) -> i32 {
    // SAFETY: the page at `at` is executable and begins with a complete function of this signature that touches
    // nothing but its return register.
    let function = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> i32>(at.as_ptr()) };
    function()
}

fn unmap(at: NonNull<c_void>) -> Result<()> {
    // SAFETY: `at` was mapped here with one page, and no reference into it is left.
    unsafe { munmap(at, PAGE) }.context("munmap")
}

/// Runs code in anonymous memory: mapped executable at once, then made so later.
///
/// # Errors
/// When the kernel refuses.
pub fn anonymous() -> Result<()> {
    let all = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
    // SAFETY: a new private mapping at an address that the kernel chooses.
    let at = unsafe { mmap_anonymous(None, page(), all, MapFlags::MAP_PRIVATE) }
        .context("cannot map anonymous memory executable")?;
    write_code(at, 41);
    ensure!(call(at) == 41, "code in anonymous memory did not run");
    unmap(at)?;

    let write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: as above.
    let at = unsafe { mmap_anonymous(None, page(), write, MapFlags::MAP_PRIVATE) }
        .context("cannot map anonymous memory")?;
    write_code(at, 42);
    // SAFETY: the mapping is ours alone; nothing writes to it any more.
    unsafe { mprotect(at, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) }
        .context("cannot make anonymous memory executable")?;
    ensure!(
        call(at) == 42,
        "code in anonymous memory did not run after mprotect"
    );
    unmap(at)
}

/// Maps a file's first page executable and unmaps it.
///
/// # Errors
/// When the kernel refuses.
pub fn map_executable(file: &File) -> Result<()> {
    // SAFETY: a new private mapping at an address that the kernel chooses; it is never read.
    let at = unsafe {
        mmap(
            None,
            page(),
            ProtFlags::PROT_READ | ProtFlags::PROT_EXEC,
            MapFlags::MAP_PRIVATE,
            file,
            0,
        )
    }
    .context("cannot map the file executable")?;
    unmap(at)
}

/// Maps a file's first page readable, then makes that mapping executable.
///
/// # Errors
/// When the kernel refuses.
pub fn map_then_protect(file: &File) -> Result<()> {
    // SAFETY: a new private mapping at an address that the kernel chooses; it is never read.
    let at = unsafe { mmap(None, page(), ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) }
        .context("cannot map the file")?;
    // SAFETY: the mapping is ours alone.
    unsafe { mprotect(at, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) }
        .context("cannot make the file's mapping executable")?;
    unmap(at)
}
