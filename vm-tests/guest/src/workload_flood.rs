//! What a pod does to fill the ring: mappings and executions by threads at full speed.
//!
//! Promises: what was done is counted by who did it; what keeps it from that is written down where the counts
//! are. Not here: what becomes of it.

#![allow(
    unsafe_code,
    reason = "execve(2) in a process with threads, as an attacker calls it"
)]

use crate::workload::silently;
use crate::workload_memory as memory;
use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Maps, then is denied: see `Workload::Flood`.
///
/// # Errors
/// When something else fails than what is to be denied; `failed` in `outcome` says so, too.
pub fn flood(
    [library, program, outcome]: [&Path; 3],
    threads: u32,
    mappings: u32,
    denials: u32,
) -> Result<()> {
    let done = map(library, threads, mappings)
        .and_then(|()| say(&outcome.join("mapped"), &mappings.to_string()))
        .and_then(|()| be_denied(program, threads, denials))
        .and_then(|denied| say(&outcome.join("denied"), &denied.to_string()));
    if let Err(error) = done {
        say(&outcome.join("failed"), &format!("{error:#}"))?;
        return Err(error);
    }
    loop {
        std::thread::park();
    }
}

fn map(library: &Path, threads: u32, mappings: u32) -> Result<()> {
    let file = File::open(library).with_context(|| format!("cannot open {}", library.display()))?;
    share(threads, mappings, || memory::map_executable(&file))
}

/// Tries to execute `program` until that is denied, then so many times; gives how often it was denied.
fn be_denied(program: &Path, threads: u32, denials: u32) -> Result<u32> {
    loop {
        match silently(program) {
            Ok(()) => std::thread::sleep(Duration::from_millis(100)),
            Err(error) if is_denied(&error) => break,
            Err(error) => return Err(error),
        }
    }
    let path = CString::new(program.as_os_str().as_bytes())?;
    share(threads, denials, || {
        let arguments = [path.as_ptr(), std::ptr::null()];
        // SAFETY: path and both arrays end as the call wants and outlive it. If it succeeds there is no
        // process left to err.
        let done = unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), arguments[1..].as_ptr().cast()) };
        let errno = Errno::last();
        ensure!(done == -1 && errno == Errno::EPERM, "not denied: {errno}");
        Ok(())
    })?;
    Ok(1 + denials)
}

fn is_denied(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.and_then(std::io::Error::raw_os_error) == Some(libc::EPERM)
}

/// Does a thing so many times, by so many threads.
///
/// None of them begins before all are there: while a thread is inside of execve the kernel makes no other one
/// in its process (EAGAIN; `fs->in_exec` in kernel/fork.c, `copy_fs`).
fn share(threads: u32, times: u32, act: impl Fn() -> Result<()> + Sync) -> Result<()> {
    let left = AtomicU32::new(times);
    let all_there = Barrier::new(threads as usize);
    let take = |left: u32| left.checked_sub(1);
    std::thread::scope(|scope| {
        let each = || {
            all_there.wait();
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                act()?;
            }
            Ok(())
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
        all.into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread ended")))
    })
}

/// Writes a text so that a reader that finds the file finds all of it.
fn say(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    std::fs::rename(&new, path).context("rename")
}
