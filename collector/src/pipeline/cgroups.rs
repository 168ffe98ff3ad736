//! From a cgroup's id to its path, as it was at a moment of the sequence.
//!
//! Fed in sequence order with directories made, renamed and removed, and with those found by a scan.
//! Promises: every directory has a path, however deep it lies, and the path begins with as many whole names
//! as fit, so that whose it is never depends on depth; a step costs the same at any depth. A directory that
//! was removed gives its memory back and keeps its path for those records that are read late: whole at first,
//! then as far as it says whose it is.
//! Not here: whose a path is (see `cgpath_evidence::cgroup`).

use cgpath_evidence::cgroup::attribute;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Longest path that is kept whole, in bytes. Of a longer one as many names from the first as fit, then
/// [`CUT`]. The names that say whose a path is, four at most of 255 bytes, always fit.
pub const MAX_PATH: usize = 1024;

/// The end of a path that was cut. The kernel has no directory with an empty name, so that no pod can make a
/// path that reads like this one.
pub const CUT: &[u8] = b"//...";

/// Directories that were removed of which the path is kept whole. A record is read after the removal of its
/// directory only if its hole was given up, and a mark only if its thread was moved meanwhile.
const KEPT_WHOLE: usize = 16_384;

/// Those removed before them of which the first names are kept.
const KEPT_SHORT: usize = 262_144;

/// Different short paths that are known by content, so that directories of one container share one.
const SHARED: usize = 4096;

#[derive(Debug, Clone)]
struct Node {
    parent: u64,
    name: Box<[u8]>,
    /// Whether it was found by the scan and was never seen being made.
    seeded: bool,
    /// Once somebody asked.
    path: Option<Joined>,
}

/// A path that was put together.
#[derive(Debug, Clone)]
struct Joined {
    path: Arc<[u8]>,
    is_cut: bool,
}

impl Joined {
    fn root() -> Joined {
        Joined {
            path: Arc::from(&b"/"[..]),
            is_cut: false,
        }
    }

    fn below(&self, name: &[u8]) -> Joined {
        if self.is_cut {
            return self.clone();
        }
        let above: &[u8] = if &*self.path == b"/" { b"" } else { &self.path };
        let is_cut = above.len() + 1 + name.len() > MAX_PATH;
        let path: Vec<u8> = if is_cut {
            [above, CUT].concat()
        } else {
            [above, b"/", name].concat()
        };
        Joined {
            path: path.into(),
            is_cut,
        }
    }
}

/// The directories of this boot that are there, and the paths of those that went last.
#[derive(Debug, Default)]
pub struct Cgroups {
    nodes: HashMap<u64, Node>,
    gone: Gone,
    /// Of directories that the scan found and that are gone.
    predating_gone: Vec<(u64, Arc<[u8]>)>,
}

impl Cgroups {
    /// A directory that the scan found. The kernel side's record of it takes precedence. Gives whether it is
    /// there.
    pub fn seed(&mut self, id: u64, parent: u64, name: &[u8]) -> bool {
        if self.gone.get(id).is_some() {
            return false;
        }
        self.nodes.entry(id).or_insert_with(|| Node {
            parent,
            name: name.into(),
            seeded: true,
            path: None,
        });
        true
    }

    /// A directory was made. Ids are not used twice in a boot (kernfs ids carry a generation).
    pub fn made(&mut self, id: u64, parent: u64, name: &[u8]) {
        self.put(id, parent, name, false);
    }

    /// A directory was renamed within its parent (v1 only).
    pub fn renamed(&mut self, id: u64, parent: u64, name: &[u8]) {
        let seeded = self.nodes.get(&id).is_some_and(|n| n.seeded);
        self.put(id, parent, name, seeded);
    }

    fn put(&mut self, id: u64, parent: u64, name: &[u8], seeded: bool) {
        let node = Node {
            parent,
            name: name.into(),
            seeded,
            path: None,
        };
        let old = self.nodes.insert(id, node);
        if old.is_some_and(|old| old.parent != parent || *old.name != *name) {
            self.nodes.values_mut().for_each(|node| node.path = None);
        }
    }

    /// A directory was removed. The kernel removes none that has directories in it, so its parent is still
    /// there.
    pub fn removed(&mut self, id: u64) {
        // One whose path is not known yet waits for the scan to find what is above it.
        let Some(path) = self.path(id) else {
            return;
        };
        let Some(node) = self.nodes.remove(&id) else {
            return;
        };
        if node.seeded {
            self.predating_gone.push((id, Arc::clone(&path)));
        }
        self.gone.add(id, path);
    }

    /// The path from the hierarchy's root, `/` for the root; `None` if a directory on the way is not known.
    pub fn path(&mut self, id: u64) -> Option<Arc<[u8]>> {
        let mut below: Vec<u64> = Vec::new();
        let mut at = id;
        let mut joined = loop {
            let Some(node) = self.nodes.get(&at) else {
                let path = Arc::clone(self.gone.get(at)?);
                // What is below a removed directory does not exist.
                return below.is_empty().then_some(path);
            };
            if let Some(joined) = &node.path {
                break joined.clone();
            }
            if node.parent == 0 {
                break Joined::root();
            }
            // A chain that is longer than there are directories goes in a circle.
            if node.name.is_empty() || below.len() > self.nodes.len() {
                return None;
            }
            below.push(at);
            at = node.parent;
        };
        for id in below.into_iter().rev() {
            let node = self.nodes.get_mut(&id)?;
            joined = joined.below(&node.name);
            node.path = Some(joined.clone());
        }
        Some(joined.path)
    }

    /// Paths of the directories that the scan found and that nobody saw being made: they predate the
    /// programs.
    pub fn predating(&mut self) -> Vec<Arc<[u8]>> {
        let seeded = self.nodes.iter().filter(|(_, n)| n.seeded);
        let ids: Vec<u64> = seeded.map(|(id, _)| *id).collect();
        let mut found = self.predating_gone.clone();
        found.extend(ids.into_iter().filter_map(|id| Some((id, self.path(id)?))));
        found.sort_unstable();
        found.into_iter().map(|(_, path)| path).collect()
    }

    /// The paths of those of them that are there still.
    pub fn predating_there(&self) -> Vec<Vec<u8>> {
        let seeded = self.nodes.iter().filter(|(_, node)| node.seeded);
        seeded.map(|(id, _)| self.names(*id)).collect()
    }

    /// The names from the hierarchy's root on, as far as they are known; not shortened.
    fn names(&self, id: u64) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = id;
        while let Some(node) = self.nodes.get(&at).filter(|node| node.parent != 0) {
            // A chain that is longer than there are directories goes in a circle.
            if names.len() > self.nodes.len() {
                break;
            }
            names.push(&node.name);
            at = node.parent;
        }
        names
            .iter()
            .rev()
            .flat_map(|name| [b"/", *name].concat())
            .collect()
    }
}

/// Paths of directories that were removed, the last ones first of all.
#[derive(Debug, Default)]
struct Gone {
    paths: HashMap<u64, Arc<[u8]>>,
    /// In the order in which they went; the first of them are kept short.
    whole: VecDeque<u64>,
    short: VecDeque<u64>,
    shared: HashSet<Arc<[u8]>>,
}

impl Gone {
    fn get(&self, id: u64) -> Option<&Arc<[u8]>> {
        self.paths.get(&id)
    }

    fn add(&mut self, id: u64, path: Arc<[u8]>) {
        if self.paths.insert(id, path).is_some() {
            return;
        }
        self.whole.push_back(id);
        if self.whole.len() > KEPT_WHOLE
            && let Some(id) = self.whole.pop_front()
        {
            self.shorten(id);
            self.short.push_back(id);
        }
        if self.short.len() > KEPT_SHORT
            && let Some(id) = self.short.pop_front()
        {
            self.paths.remove(&id);
        }
    }

    /// Keeps of a path what says whose it is.
    fn shorten(&mut self, id: u64) {
        let Some(path) = self.paths.get_mut(&id) else {
            return;
        };
        let Some(end) = end_of_owner(path) else {
            return;
        };
        let short: Arc<[u8]> = [&path[..end], CUT].concat().into();
        if self.shared.len() >= SHARED {
            self.shared.clear();
        }
        *path = match self.shared.get(&short) {
            Some(known) => Arc::clone(known),
            None => {
                self.shared.insert(Arc::clone(&short));
                short
            }
        };
    }
}

/// Where the names end that say whose a path is, if others follow.
fn end_of_owner(path: &[u8]) -> Option<usize> {
    let names = path.strip_suffix(CUT).unwrap_or(path);
    let whole = attribute(names);
    let slashes = names
        .iter()
        .enumerate()
        .skip(1)
        .filter(|(_, byte)| **byte == b'/');
    slashes
        .map(|(at, _)| at)
        // A pod's own directory is the fourth at most, its container's the fifth.
        .take(5)
        .find(|end| attribute(&names[..*end]) == whole)
}

#[cfg(test)]
mod tests;
