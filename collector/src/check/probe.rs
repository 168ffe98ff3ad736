//! Executes and maps a fresh file, and looks whether the kernel's list has got an entry for it.

#![allow(
    unsafe_code,
    reason = "a mapping is made and removed, to see whether IMA measures it"
)]

use super::facts::{Fact, ListFacts, Probed, Probes, Unknown};
use cgpath_evidence::probe::{CONTENTS, MAP_PATH, RUN_PATH, content};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Probes the running kernel; `before` is its list as it is now, `again` reads it anew.
pub(super) fn probe(before: &ListFacts, again: &dyn Fn() -> Fact<ListFacts>) -> Fact<Probes> {
    let run = attempt(&before.probes[0], RUN_PATH, run);
    let map = attempt(&before.probes[1], MAP_PATH, map);
    let after = again()?;
    for path in [RUN_PATH, MAP_PATH] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Unknown::Failed(format!("removing {path}: {e}")));
            }
            _ => {}
        }
    }
    let result = |tried: Result<u32, String>, found: &BTreeSet<u32>| match tried {
        Ok(number) if found.contains(&number) => Probed::Measured,
        Ok(_) => Probed::NotMeasured,
        Err(why) => Probed::Impossible(why),
    };
    Ok(Probes {
        run: result(run, &after.probes[0]),
        map: result(map, &after.probes[1]),
    })
}

/// Writes the first content that the list does not have, and uses it; gives its number.
fn attempt(seen: &BTreeSet<u32>, path: &str, use_it: fn(&Path) -> io::Result<()>) -> Result<u32, String> {
    let number = (0..CONTENTS)
        .find(|n| !seen.contains(n))
        .ok_or_else(|| format!("all {CONTENTS} probes were used in this boot"))?;
    let file = Path::new(path);
    let tried = write(file, &content(number)).and_then(|()| use_it(file));
    tried.map(|()| number).map_err(|e| format!("{path}: {e}"))
}

/// A new inode each time: IMA measures one once. The mode keeps others from writing.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn run(path: &Path) -> io::Result<()> {
    let started = Command::new(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match started {
        // The script is measured before its interpreter is looked for.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(io::Error::new(
            e.kind(),
            "may not be executed (a file system mounted noexec?)",
        )),
        started => started.map(|_| ()),
    }
}

fn map(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::UnexpectedEof)?;
    let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_EXEC, MapFlags::MAP_PRIVATE);
    // SAFETY: a new mapping at an address that the kernel chooses; nothing is read from it or run in it.
    let address = unsafe { mmap(None, length, protection, flags, &file, 0) }?;
    // SAFETY: exactly the mapping that was made above, to which nothing refers.
    unsafe { munmap(address, length.get()) }?;
    Ok(())
}
