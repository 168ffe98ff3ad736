//! Control groups for workloads: the same path in every mounted hierarchy, v1, v2 or both.
//!
//! Promises: [`enter`] moves this process alone; [`remove`] never waits and never kills. Not here: mounting.

use anyhow::{Context as _, Result, bail};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where the hierarchies are mounted that a pod's processes are in.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(mount), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        // Of v1 only those with a controller that a pod needs: systemd's and others have rules of their own.
        let wanted = match kind {
            "cgroup2" => true,
            "cgroup" => options.split(',').any(|o| ["pids", "memory"].contains(&o)),
            _ => false,
        };
        if wanted {
            found.push(PathBuf::from(mount));
        }
    }
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted");
    }
    Ok(found)
}

/// The cgroup of this process: in the v1 hierarchy of `pids` where there is one, else in v2.
///
/// # Errors
/// When /proc/self/cgroup names neither.
pub fn own() -> Result<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let path_of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            controllers
                .split(',')
                .any(|c| c == wanted)
                .then(|| parts.next().map(str::to_owned))?
        })
    };
    path_of("pids")
        .or_else(|| path_of(""))
        .context("/proc/self/cgroup names no cgroup")
}

fn at(hierarchy: &Path, path: &str) -> PathBuf {
    hierarchy.join(path.trim_start_matches('/'))
}

/// Makes a cgroup and its parents in every hierarchy.
///
/// # Errors
/// When a directory cannot be made.
pub fn make(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let dir = at(&hierarchy, path);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make cgroup {}", dir.display()))?;
    }
    Ok(())
}

/// Lets the cgroup use so much of one processor in each 100 ms. Its parents pass the controller on; nothing
/// may run in these themselves. Documentation/admin-guide/cgroup-v2.rst, `cpu.max`.
///
/// # Errors
/// When the hierarchy is not v2, or the kernel refuses.
pub fn limit(path: &str, quota_us: u32) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let write = |file: PathBuf, text: &str| {
        std::fs::write(&file, text).with_context(|| format!("cannot write {text} to {}", file.display()))
    };
    let mut parent = root.to_owned();
    for name in path.trim_matches('/').split('/') {
        write(parent.join("cgroup.subtree_control"), "+cpu")?;
        parent.push(name);
    }
    write(parent.join("cpu.max"), &format!("{quota_us} 100000"))
}

/// A way into a cgroup that works from any mount namespace.
pub struct Door(Vec<File>);

impl Door {
    /// To the cgroup at `path`.
    ///
    /// # Errors
    /// When there is no such cgroup in one of the hierarchies.
    pub fn to(path: &str) -> Result<Door> {
        let open = |hierarchy: PathBuf| {
            let procs = at(&hierarchy, path).join("cgroup.procs");
            OpenOptions::new()
                .write(true)
                .open(&procs)
                .with_context(|| format!("cannot open {}", procs.display()))
        };
        hierarchies()?
            .into_iter()
            .map(open)
            .collect::<Result<_>>()
            .map(Door)
    }

    /// Moves this process through it, in every hierarchy.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<()> {
        for mut procs in &self.0 {
            procs
                .write_all(b"0")
                .context("cannot move this process into a cgroup")?;
        }
        Ok(())
    }
}

/// Moves this process into a cgroup, in every hierarchy.
///
/// # Errors
/// When there is no such cgroup, or the kernel refuses.
pub fn enter(path: &str) -> Result<()> {
    Door::to(path)?.enter()
}

/// Removes a cgroup in every hierarchy, and those of its parents that are empty.
///
/// # Errors
/// When the cgroup itself cannot be removed: something still runs in it.
pub fn remove(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let dir = at(&hierarchy, path);
        std::fs::remove_dir(&dir).with_context(|| format!("cannot remove cgroup {}", dir.display()))?;
        let mut parent = dir.parent();
        while let Some(next) = parent.filter(|p| *p != hierarchy) {
            if std::fs::remove_dir(next).is_err() {
                break;
            }
            parent = next.parent();
        }
    }
    Ok(())
}
