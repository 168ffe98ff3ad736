//! Takes the programs down.
//!
//! Promise: what is said to be gone is gone from the kernel, and not from the directory of pins alone; what
//! is not gone in time is named. Not here: who may do this (see `guard`).

use super::{Error, Result, load};
use aya::programs::{ProgramError, ProgramInfo, loaded_programs};
use nix::libc::{EACCES, ENOENT, EPERM};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel is waited for. From 6.12 on it takes a program off its hook some time after the last
/// pin is gone, by a work of its own (`bpf_link_put` in kernel/bpf/syscall.c); a busy machine gets to that
/// late.
pub const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Removes all pins in `pin_dir`, and so detaches and unloads the programs.
///
/// Gives the kernel's ids of those programs that were pinned and that it still has after [`PATIENCE`]; `None`
/// where there is no such directory. A program that it does not have any more is on no hook: a link holds its
/// program until it has let go of the hook.
///
/// In the mode "deny" only a collector may do this: see `guard`.
///
/// # Errors
/// If a pin cannot be removed, or the kernel does not say what it has.
pub fn unload(pin_dir: &Path) -> Result<Option<BTreeSet<u32>>> {
    if !load::exists(pin_dir)? {
        return Ok(None);
    }
    let pinned = pinned(pin_dir)?;
    load::clear(pin_dir)?;
    fs::remove_dir(pin_dir).map_err(load::io_error("remove", pin_dir))?;
    let end = Instant::now() + PATIENCE;
    let left = wait(pinned, loaded, || {
        let goes_on = Instant::now() < end;
        if goes_on {
            std::thread::sleep(PAUSE);
        }
        goes_on
    });
    left.map(Some)
}

/// Ids of the programs that are pinned in `dir`. One that the guard keeps from this process is left out: its
/// pin cannot be removed either, which is said then.
fn pinned(dir: &Path) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(load::io_error("read", dir))? {
        let entry = entry.map_err(load::io_error("read", dir))?;
        // Asked as a program, a map or a link gives its own id, which may be another program's.
        if entry.file_name().as_encoded_bytes().starts_with(b"prog_") {
            match ProgramInfo::from_pin(entry.path()) {
                Ok(info) => {
                    ids.insert(info.id());
                }
                Err(error) if is_denied(&error) => {}
                Err(source) => return Err(asking(source)),
            }
        }
    }
    Ok(ids)
}

/// Ids of all programs that the kernel has.
fn loaded() -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for info in loaded_programs() {
        match info {
            Ok(info) => {
                ids.insert(info.id());
            }
            // It went between the question for its id and the one for itself, or it is somebody else's: ours
            // were not denied before.
            Err(error) if load::os_error(&error) == Some(ENOENT) || is_denied(&error) => {}
            Err(source) => return Err(asking(source)),
        }
    }
    Ok(ids)
}

fn is_denied(error: &ProgramError) -> bool {
    matches!(load::os_error(error), Some(EPERM | EACCES))
}

fn asking(source: ProgramError) -> Error {
    Error::Kernel {
        what: "list",
        name: "eBPF programs".to_owned(),
        source: Box::new(source),
    }
}

/// Asks what is loaded until nothing of `ours` is, or `pause` says that this was long enough; gives what is
/// left.
fn wait(
    ours: BTreeSet<u32>,
    mut loaded: impl FnMut() -> Result<BTreeSet<u32>>,
    mut pause: impl FnMut() -> bool,
) -> Result<BTreeSet<u32>> {
    let mut left = ours;
    while !left.is_empty() {
        let now = loaded()?;
        left.retain(|id| now.contains(id));
        if !left.is_empty() && !pause() {
            break;
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> BTreeSet<u32> {
        ids.iter().copied().collect()
    }

    /// Waits for programs 1 to 3 while the kernel has these, one answer after the other, the last one on and
    /// on. Gives what is left, and how many pauses there were, at most five.
    fn waited(answers: &[&[u32]]) -> (BTreeSet<u32>, usize) {
        let (mut asked, mut pauses) = (0, 0);
        let loaded = || {
            asked += 1;
            Ok(ids(answers[(asked - 1).min(answers.len() - 1)]))
        };
        let pause = || {
            let goes_on = pauses < 5;
            pauses += usize::from(goes_on);
            goes_on
        };
        let left = wait(ids(&[1, 2, 3]), loaded, pause).unwrap();
        (left, pauses)
    }

    #[test]
    fn programs_are_gone_once_the_kernel_has_none_of_them_and_others_are_not_waited_for() {
        assert_eq!(waited(&[&[]]), (ids(&[]), 0));
        assert_eq!(waited(&[&[9]]), (ids(&[]), 0));
        assert_eq!(waited(&[&[1, 2, 3], &[1, 2, 3, 9], &[3, 9], &[9]]), (ids(&[]), 3));
        // An id that is given to another program is none of ours any more.
        assert_eq!(waited(&[&[1], &[2, 3]]), (ids(&[]), 1));
    }

    #[test]
    fn what_the_kernel_keeps_is_named_after_a_while() {
        assert_eq!(waited(&[&[1, 2, 3, 9], &[2, 9]]), (ids(&[2]), 5));
    }

    #[test]
    fn where_nothing_is_pinned_nothing_is_asked_of_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unload(&dir.path().join("none")).unwrap(), None);
    }
}
