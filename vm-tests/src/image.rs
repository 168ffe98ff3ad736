//! Disk images of guests: the cached root file system, a kernel's modules, and what a test adds.
//!
//! Promises: the cached root is never written to (it is linked into a staging directory, and files are
//! replaced, not changed); no path of an overlay can leave the staging directory, whatever links the root
//! has; all is owned by root in the guest even when an ordinary user made the image. Not here: what a test
//! adds and why.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::host;
use crate::kernel::Kernel;

/// Something that an image has beside the root file system.
#[derive(Clone, Debug)]
pub(crate) enum Addition {
    /// A file with this content.
    Bytes {
        guest: String,
        content: Vec<u8>,
        mode: u32,
    },
    /// A copy of a file.
    File { guest: String, host: PathBuf, mode: u32 },
    /// A copy of a directory with all that is in it.
    Tree { guest: String, host: PathBuf },
    /// A symbolic link.
    Link { guest: String, target: String },
    /// An empty directory.
    Directory { guest: String, mode: u32 },
}

/// What an image is made from.
pub(crate) struct Recipe<'a> {
    pub root: &'a Path,
    pub kernel: &'a Kernel,
    pub additions: &'a [Addition],
    /// Size of the file system in MiB; the file is sparse.
    pub size_mib: u32,
    /// With a journal: for disks that outlive a reset.
    pub journal: bool,
}

/// A guest's root file system as a directory, before it becomes a disk image. It goes away with this value.
pub struct Stage(PathBuf);

impl Stage {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A directory that stays is removed by the next `sweep`.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Puts the root file system together in a directory.
pub(crate) fn stage(recipe: &Recipe<'_>) -> Result<Stage> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let stages = host::cache_dir()?.join("stage");
    std::fs::create_dir_all(&stages).with_context(|| format!("making {}", stages.display()))?;
    sweep(&stages);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let stage = Stage(stages.join(format!("{}-{number}", std::process::id())));
    let cp = host::tool("cp", "coreutils")?;
    host::output(Command::new(&cp).arg("-al").arg(recipe.root).arg(&stage.0))?;
    let modules = resolve(&stage.0, "/lib/modules")?;
    std::fs::create_dir_all(&modules)?;
    // A root that was staged before has them already.
    if !modules.join(&recipe.kernel.release).exists() {
        host::output(
            Command::new(&cp)
                .arg("-al")
                .arg(recipe.kernel.modules())
                .arg(&modules),
        )?;
    }
    for addition in recipe.additions {
        add(&stage.0, addition, &cp)?;
    }
    Ok(stage)
}

/// Writes the image `disk`.
pub(crate) fn make(recipe: &Recipe<'_>, disk: &Path) -> Result<()> {
    let stage = stage(recipe)?;
    let mut mke2fs = if host::is_root() {
        Command::new(host::tool("mke2fs", "e2fsprogs")?)
    } else {
        // In a user namespace of its own, this user's files are root's.
        let mut command = Command::new(host::tool("unshare", "util-linux")?);
        command
            .arg("--map-root-user")
            .arg(host::tool("mke2fs", "e2fsprogs")?);
        command
    };
    mke2fs.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1,root_owner=0:0",
    ]);
    if !recipe.journal {
        mke2fs.args(["-O", "^has_journal"]);
    }
    mke2fs
        .arg("-d")
        .arg(&stage.0)
        .arg(disk)
        .arg(format!("{}M", recipe.size_mib));
    host::output(&mut mke2fs).context("making the guest's disk image")?;
    Ok(())
}

/// Writes the additions as a tar archive: at the beginning of a sparse file of `size` bytes, whose end marker
/// the zeros are.
pub(crate) fn archive(additions: &[Addition], output: &Path, size: u64) -> Result<()> {
    let file = std::fs::File::create(output).with_context(|| format!("making {}", output.display()))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    tar.follow_symlinks(false);
    for addition in additions {
        append(&mut tar, addition)?;
    }
    let file = tar
        .into_inner()?
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    let len = file.metadata()?.len();
    if len > size {
        bail!(
            "{} MiB of additions are more than the {} MiB that their disk has",
            len >> 20,
            size >> 20
        );
    }
    file.set_len(size)?;
    Ok(())
}

fn append(tar: &mut tar::Builder<impl std::io::Write>, addition: &Addition) -> Result<()> {
    let header = |kind: tar::EntryType, mode: u32, len: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(len);
        header
    };
    let inside = |guest: &str| match guest.strip_prefix('/').filter(|inside| !inside.is_empty()) {
        Some(inside) => Ok(inside.to_owned()),
        None => bail!("`{guest}` does not name a file by its absolute path"),
    };
    match addition {
        Addition::Bytes { guest, content, mode } => {
            let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
            tar.append_data(&mut header, inside(guest)?, content.as_slice())
        }
        Addition::File { guest, host, mode } => {
            let file = std::fs::File::open(host).with_context(|| format!("reading {}", host.display()))?;
            let mut header = header(tar::EntryType::Regular, *mode, file.metadata()?.len());
            tar.append_data(&mut header, inside(guest)?, file)
        }
        Addition::Tree { guest, host } => tar.append_dir_all(inside(guest)?, host),
        Addition::Link { guest, target } => {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, inside(guest)?, target)
        }
        Addition::Directory { guest, mode } => {
            let mut header = header(tar::EntryType::Directory, *mode, 0);
            tar.append_data(&mut header, inside(guest)?, std::io::empty())
        }
    }
    .with_context(|| format!("adding {addition}"))
}

impl std::fmt::Display for Addition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.guest())
    }
}

impl Addition {
    /// Its path in the guest.
    pub(crate) fn guest(&self) -> &str {
        match self {
            Self::Bytes { guest, .. }
            | Self::File { guest, .. }
            | Self::Tree { guest, .. }
            | Self::Link { guest, .. }
            | Self::Directory { guest, .. } => guest,
        }
    }
}

/// Removes staging directories of processes that are gone.
fn sweep(stages: &Path) {
    let Ok(entries) = std::fs::read_dir(stages) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // What cannot be removed now is tried again next time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn add(stage: &Path, addition: &Addition, cp: &Path) -> Result<()> {
    match addition {
        Addition::Bytes { guest, content, mode } => {
            let path = fresh(stage, guest)?;
            std::fs::write(&path, content).with_context(|| format!("adding {guest}"))?;
            std::fs::set_permissions(&path, Permissions::from_mode(*mode))?;
        }
        Addition::File { guest, host, mode } => {
            let path = fresh(stage, guest)?;
            std::fs::copy(host, &path).with_context(|| format!("adding {guest} from {}", host.display()))?;
            std::fs::set_permissions(&path, Permissions::from_mode(*mode))?;
        }
        Addition::Tree { guest, host } => {
            let path = resolve(stage, guest)?;
            std::fs::create_dir_all(&path).with_context(|| format!("adding {guest}"))?;
            let content = host.join(".");
            host::output(
                Command::new(cp)
                    .args(["-a", "--remove-destination"])
                    .arg(content)
                    .arg(&path),
            )?;
        }
        Addition::Link { guest, target } => {
            let path = fresh(stage, guest)?;
            std::os::unix::fs::symlink(target, &path).with_context(|| format!("adding {guest}"))?;
        }
        Addition::Directory { guest, mode } => {
            let path = resolve(stage, guest)?;
            std::fs::create_dir_all(&path).with_context(|| format!("adding {guest}"))?;
            std::fs::set_permissions(&path, Permissions::from_mode(*mode))?;
        }
    }
    Ok(())
}

/// The place of a file to make: its directory exists, and nothing is there (what was, may be a link into the
/// cache).
fn fresh(stage: &Path, guest: &str) -> Result<PathBuf> {
    let Some((parent, name)) = guest.rsplit_once('/').filter(|(_, name)| !name.is_empty()) else {
        bail!("`{guest}` does not name a file by its absolute path");
    };
    let directory = resolve(stage, if parent.is_empty() { "/" } else { parent })?;
    std::fs::create_dir_all(&directory).with_context(|| format!("making the directory of {guest}"))?;
    let path = directory.join(name);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("replacing {guest}")),
    }
    Ok(path)
}

/// Where an absolute path of the guest lies below `stage`, following links as the guest would.
pub(crate) fn resolve(stage: &Path, guest: &str) -> Result<PathBuf> {
    let mut pending: Vec<String> = parts(Path::new(guest))?;
    pending.reverse();
    if !guest.starts_with('/') {
        bail!("`{guest}` is not an absolute path");
    }
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        let here = stage.join(done.join("/")).join(&part);
        match std::fs::read_link(&here) {
            Ok(target) => {
                links += 1;
                if links > 40 {
                    bail!("`{guest}` goes through too many links");
                }
                if target.is_absolute() {
                    done.clear();
                }
                pending.extend(parts(&target)?.into_iter().rev());
            }
            Err(_) => done.push(part),
        }
    }
    Ok(stage.join(done.join("/")))
}

fn parts(path: &Path) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => match part.to_str() {
                Some(part) => parts.push(part.to_owned()),
                None => bail!("{} is not UTF-8", path.display()),
            },
            Component::ParentDir => parts.push("..".to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_the_staging_directory() {
        let stage = tempfile::tempdir().unwrap();
        let root = stage.path();
        std::os::unix::fs::symlink("/run", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../etc", root.join("upwards")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        assert_eq!(resolve(root, "/absolute/x").unwrap(), root.join("run/x"));
        assert_eq!(resolve(root, "/upwards/x").unwrap(), root.join("etc/x"));
        assert_eq!(resolve(root, "/../../x").unwrap(), root.join("x"));
        assert!(resolve(root, "/loop/x").is_err());
        assert!(resolve(root, "x").is_err());
        assert!(fresh(root, "/etc/").is_err());
    }

    #[test]
    fn an_archive_holds_what_an_image_would_and_no_more_than_its_disk() {
        use std::io::Read as _;
        let dir = tempfile::tempdir().unwrap();
        let (tree, output) = (dir.path().join("tree"), dir.path().join("archive"));
        std::fs::create_dir(&tree).unwrap();
        std::os::unix::fs::symlink("leaf", tree.join("link")).unwrap();
        let additions = [
            Addition::Bytes {
                guest: "/etc/a".to_owned(),
                content: b"content".to_vec(),
                mode: 0o4750,
            },
            Addition::Tree {
                guest: "/srv/tree".to_owned(),
                host: tree,
            },
            Addition::Directory {
                guest: "/srv/empty".to_owned(),
                mode: 0o711,
            },
        ];
        archive(&additions, &output, 1 << 20).unwrap();
        assert_eq!(std::fs::metadata(&output).unwrap().len(), 1 << 20);
        let mut found = Vec::new();
        for entry in tar::Archive::new(std::fs::File::open(&output).unwrap())
            .entries()
            .unwrap()
        {
            let mut entry = entry.unwrap();
            let path = entry
                .path()
                .unwrap()
                .to_str()
                .unwrap()
                .trim_end_matches('/')
                .to_owned();
            let mode = entry.header().mode().unwrap() & 0o7777;
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.push((path, mode, content));
        }
        assert_eq!(found[0], ("etc/a".to_owned(), 0o4750, b"content".to_vec()));
        let paths: Vec<&str> = found.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(paths, ["etc/a", "srv/tree", "srv/tree/link", "srv/empty"]);
        assert_eq!(found[3].1, 0o711);
        let error = archive(&additions, &output, 1024).unwrap_err();
        assert!(error.to_string().contains("more than the"), "{error}");
        let relative = Addition::Directory {
            guest: "srv".to_owned(),
            mode: 0o755,
        };
        assert!(archive(&[relative], &output, 1 << 20).is_err());
    }

    #[test]
    fn replacing_a_file_leaves_the_cached_one_as_it_was() {
        let cache = tempfile::tempdir().unwrap();
        let cached = cache.path().join("cached");
        std::fs::write(&cached, "old").unwrap();
        std::fs::hard_link(&cached, cache.path().join("file")).unwrap();
        let path = fresh(cache.path(), "/file").unwrap();
        std::fs::write(path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&cached).unwrap(), "old");
    }
}
