//! Cgroup directories that were there before the programs were loaded, from the mounted hierarchy.

use crate::bpf::{self, Hierarchy};
use crate::pipeline::Note;
use cgpath_evidence::cgroup::{POD_PARENTS, attribute};
use cgpath_evidence::{PartitionKey, PodUid};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every directory of the hierarchy mounted at `mount`, parents first, each as [`Note::SeedCgroup`]. One that
/// goes meanwhile is left out: its removal has a record.
///
/// However deep they lie: each is opened from the one above it, since a pod can nest them until no path
/// reaches them, and two are open at a time.
///
/// # Errors
/// If the root cannot be read.
pub fn seeds(mount: &Path) -> io::Result<Vec<Note>> {
    let mut open = File::open(mount)?;
    let root = open.metadata()?.ino();
    let mut out = vec![Note::SeedCgroup {
        id: root,
        parent: 0,
        name: Vec::new(),
    }];
    // From the root down to the one that is open: which it is, and what is left to look at in it.
    let mut above = vec![(root, directories(&open)?)];
    while let Some((parent, left)) = above.last_mut() {
        let parent = *parent;
        if let Some(name) = left.pop() {
            // Gone meanwhile, or cgroupfs has no memory for it: then its records are unattributed, which
            // evidence states.
            let Ok(below) = File::open(inside(&open).join(&name)) else {
                continue;
            };
            let Ok(id) = below.metadata().map(|m| m.ino()) else {
                continue;
            };
            out.push(Note::SeedCgroup {
                id,
                parent,
                name: name.as_bytes().to_vec(),
            });
            let left = directories(&below).unwrap_or_default();
            above.push((id, left));
            open = below;
            continue;
        }
        above.pop();
        let Some((id, _)) = above.last() else {
            break;
        };
        open = File::open(inside(&open).join(".."))?;
        // Nothing moves a directory of cgroupfs to another one.
        if open.metadata()?.ino() != *id {
            return Err(io::Error::other(
                "a directory of the hierarchy has another one above it than before",
            ));
        }
    }
    Ok(out)
}

/// An open directory by a path of any use, whatever its own path is.
fn inside(open: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

/// Names of the directories in an open one.
fn directories(open: &File) -> io::Result<Vec<OsString>> {
    let entries = std::fs::read_dir(inside(open))?.flatten();
    let found = entries.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    Ok(found.map(|entry| entry.file_name()).collect())
}

/// The pods' own directories that are there now, in the hierarchy mounted at `mount`: whose, and the inode
/// number.
pub fn pods(mount: &Path) -> Vec<(PodUid, u64)> {
    let mut found = Vec::new();
    for parent in POD_PARENTS {
        let Ok(entries) = std::fs::read_dir(below(mount, parent)) else {
            continue;
        };
        for entry in entries.flatten() {
            let whole = Path::new(parent).join(entry.file_name());
            let PartitionKey::Pod(uid) = attribute(whole.as_os_str().as_bytes()).key else {
                continue;
            };
            if let Ok(metadata) = entry.metadata()
                && metadata.is_dir()
            {
                found.push((uid, metadata.ino()));
            }
        }
    }
    found
}

/// Inode numbers of the directories that are there in which pods have theirs.
pub fn pod_parents(mount: &Path) -> BTreeSet<u64> {
    let found = POD_PARENTS.into_iter();
    found.filter_map(|parent| inode(mount, parent)).collect()
}

/// Where a path from the hierarchy's root lies.
fn below(mount: &Path, cgroup: &str) -> PathBuf {
    mount.join(cgroup.trim_start_matches('/'))
}

/// Inode number of the directory `cgroup` (a path from the hierarchy's root), if it is there.
pub fn inode(mount: &Path, cgroup: &str) -> Option<u64> {
    let metadata = std::fs::metadata(below(mount, cgroup)).ok()?;
    metadata.is_dir().then(|| metadata.ino())
}

/// Why the hierarchy that `cgroup.hierarchy` asks for cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// This machine's cannot be found out.
    #[error(transparent)]
    Unknown(#[from] bpf::Error),
    /// v2 is asked for.
    #[error("cgroup.hierarchy is \"v2\" and containers here live in the v1 hierarchy of {controller}")]
    V1 {
        /// Of this machine's hierarchy.
        controller: &'static str,
    },
    /// A hierarchy of v1 is asked for.
    #[error("cgroup.hierarchy is {wanted:?} and this machine's is {found}")]
    Other {
        /// As configured.
        wanted: String,
        /// `v2`, or `v1:` and the controller.
        found: String,
    },
}

/// The hierarchy that `cgroup.hierarchy` asks for; `None` leaves the choice to the loader.
///
/// # Errors
/// [`HierarchyError`].
pub fn chosen(wanted: &str) -> Result<Option<Hierarchy>, HierarchyError> {
    match wanted {
        "auto" => Ok(None),
        "v2" => {
            let h = Hierarchy::detect()?;
            match h.controller {
                None => Ok(Some(h)),
                Some(controller) => Err(HierarchyError::V1 { controller }),
            }
        }
        v1 => {
            let wanted = v1.strip_prefix("v1:").unwrap_or(v1);
            let h = Hierarchy::detect()?;
            match h.controller {
                Some(c) if c == wanted => Ok(Some(h)),
                other => Err(HierarchyError::Other {
                    wanted: v1.to_owned(),
                    found: other.map_or("v2".to_owned(), |c| format!("v1:{c}")),
                }),
            }
        }
    }
}

/// How checkpoints name the hierarchy: `v2`, `v1:pids`, or `hybrid:pids` where v2 is mounted beside v1.
pub fn describe(hierarchy: &Hierarchy) -> String {
    match hierarchy.controller {
        None => "v2".to_owned(),
        Some(controller) => {
            let v2_beside = cgroups_rs::hierarchies::is_cgroup2_unified_mode() || mounted("cgroup2");
            format!("{}:{controller}", if v2_beside { "hybrid" } else { "v1" })
        }
    }
}

/// Controllers of the v2 hierarchy's root, or of v1; for the log.
pub fn controllers() -> Vec<String> {
    let hierarchy = cgroups_rs::hierarchies::auto();
    if hierarchy.v2() {
        let text = std::fs::read_to_string(hierarchy.root().join("cgroup.controllers")).unwrap_or_default();
        return text.split_whitespace().map(str::to_owned).collect();
    }
    hierarchy
        .subsystems()
        .iter()
        .map(|s| s.to_controller().controller_type_name())
        .collect()
}

trait Named {
    fn controller_type_name(&self) -> String;
}

impl Named for &dyn cgroups_rs::Controller {
    fn controller_type_name(&self) -> String {
        self.control_type().to_string()
    }
}

fn mounted(fstype: &str) -> bool {
    procfs::process::Process::myself()
        .and_then(|p| p.mountinfo())
        .is_ok_and(|mounts| mounts.into_iter().any(|m| m.fs_type == fstype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_parents_first_with_their_inode_numbers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("c")).unwrap();
        std::fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        let mut known = std::collections::HashMap::new();
        for event in seeds(dir.path()).unwrap() {
            let Note::SeedCgroup { id, parent, name } = event else {
                panic!()
            };
            let path = if parent == 0 {
                dir.path().to_owned()
            } else {
                let above: &PathBuf = known.get(&parent).expect("parent first");
                above.join(std::ffi::OsStr::from_bytes(&name))
            };
            assert_eq!(std::fs::metadata(&path).unwrap().ino(), id);
            known.insert(id, path);
        }
        assert_eq!(known.len(), 4);
    }

    #[test]
    fn directories_are_found_deeper_than_any_path_reaches() {
        let dir = tempfile::tempdir().unwrap();
        let name = "n".repeat(250);
        let mut open = File::open(dir.path()).unwrap();
        for _ in 0..300 {
            let below = inside(&open).join(&name);
            std::fs::create_dir(&below).unwrap();
            open = File::open(&below).unwrap();
        }
        let deepest = open.metadata().unwrap().ino();
        let found = seeds(dir.path()).unwrap();
        assert_eq!(found.len(), 301);
        assert!(matches!(found.last(), Some(Note::SeedCgroup { id, .. }) if *id == deepest));
    }

    #[test]
    fn pods_and_the_directories_above_them_are_found_and_nothing_that_a_pod_made() {
        const UID: &str = "f52130f4-c5be-423e-8070-daaca055a5ad";
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| below(dir.path(), path);
        let own = format!("/kubepods/burstable/pod{UID}");
        std::fs::create_dir_all(at(&format!("{own}/c/kubepods/pod{UID}"))).unwrap();
        std::fs::create_dir_all(at("/system.slice/kubepods/burstable")).unwrap();
        let number = |path: &str| inode(dir.path(), path).unwrap();
        let parents = [number("/kubepods"), number("/kubepods/burstable")];
        assert_eq!(pod_parents(dir.path()), BTreeSet::from(parents));
        let uid = PodUid::parse(UID.as_bytes()).unwrap();
        assert_eq!(pods(dir.path()), [(uid, number(&own))]);
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        assert!(seeds(Path::new("/nonexistent")).is_err());
    }
}
