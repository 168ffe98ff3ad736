//! From a cgroup's id to its whole path, as it was at a moment of the sequence.
//!
//! Fed in sequence order with directories made, renamed and removed, and with those found by a scan. A path stays
//! known after the directory is gone: its last events are often read only then.

use std::collections::HashMap;
use std::sync::Arc;

/// Longest path that is joined, in bytes; a longer one counts as unknown. The kernel itself cuts what it shows in
/// /proc at 4096.
pub const MAX_PATH: usize = 64 * 1024;

#[derive(Debug, Clone)]
struct Node {
    parent: u64,
    name: Box<[u8]>,
    /// Whether it was found by the scan and was never seen being made.
    seeded: bool,
}

/// All directories ever seen in this boot.
#[derive(Debug, Default)]
pub struct Cgroups {
    nodes: HashMap<u64, Node>,
    paths: HashMap<u64, Arc<[u8]>>,
}

impl Cgroups {
    /// A directory that the scan found. What the kernel side told about it takes precedence.
    pub fn seed(&mut self, id: u64, parent: u64, name: &[u8]) {
        self.nodes.entry(id).or_insert_with(|| Node {
            parent,
            name: name.into(),
            seeded: true,
        });
    }

    /// A directory was made. Ids are not used twice in a boot (kernfs ids carry a generation).
    pub fn made(&mut self, id: u64, parent: u64, name: &[u8]) {
        let old = self.nodes.insert(
            id,
            Node {
                parent,
                name: name.into(),
                seeded: false,
            },
        );
        if old.is_some() {
            self.paths.clear();
        }
    }

    /// A directory was renamed within its parent (v1 only).
    pub fn renamed(&mut self, id: u64, parent: u64, name: &[u8]) {
        let seeded = self.nodes.get(&id).is_some_and(|n| n.seeded);
        self.nodes.insert(
            id,
            Node {
                parent,
                name: name.into(),
                seeded,
            },
        );
        self.paths.clear();
    }

    /// The whole path from the hierarchy's root, `/` for the root; `None` if a directory on the way is not known.
    pub fn path(&mut self, id: u64) -> Option<Arc<[u8]>> {
        if let Some(path) = self.paths.get(&id) {
            return Some(path.clone());
        }
        let mut names: Vec<&[u8]> = Vec::new();
        let mut length = 0usize;
        let mut at = id;
        loop {
            let node = self.nodes.get(&at)?;
            if node.parent == 0 {
                break;
            }
            // Every name has a byte and a slash, so this also ends a chain that goes in a circle.
            length += 1 + node.name.len();
            if node.name.is_empty() || length > MAX_PATH {
                return None;
            }
            names.push(&node.name);
            at = node.parent;
        }
        let mut path = Vec::with_capacity(length.max(1));
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        let path: Arc<[u8]> = path.into();
        self.paths.insert(id, path.clone());
        Some(path)
    }

    /// Paths of the directories that the scan found and that nobody saw being made: they predate the programs.
    pub fn predating(&mut self) -> Vec<Arc<[u8]>> {
        let mut ids: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.seeded)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.path(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(c: &mut Cgroups, id: u64) -> Option<String> {
        c.path(id).map(|p| String::from_utf8(p.to_vec()).unwrap())
    }

    #[test]
    fn a_path_is_the_chain_of_names_and_the_root_is_a_slash() {
        let mut c = Cgroups::default();
        c.seed(1, 0, b"");
        c.seed(2, 1, b"kubepods");
        c.made(3, 2, b"pod1");
        assert_eq!(text(&mut c, 1).as_deref(), Some("/"));
        assert_eq!(text(&mut c, 3).as_deref(), Some("/kubepods/pod1"));
    }

    #[test]
    fn a_rename_applies_to_everything_below_and_an_unknown_parent_gives_no_path() {
        let mut c = Cgroups::default();
        c.seed(1, 0, b"");
        c.made(2, 1, b"a");
        c.made(3, 2, b"b");
        assert_eq!(text(&mut c, 3).as_deref(), Some("/a/b"));
        c.renamed(2, 1, b"z");
        assert_eq!(text(&mut c, 3).as_deref(), Some("/z/b"));
        c.made(9, 8, b"x");
        assert_eq!(text(&mut c, 9), None);
    }

    #[test]
    fn a_circle_of_parents_ends_and_gives_no_path() {
        let mut c = Cgroups::default();
        c.made(5, 6, b"a");
        c.made(6, 5, b"b");
        assert_eq!(c.path(5), None);
    }

    #[test]
    fn only_what_nobody_saw_being_made_predates() {
        let mut c = Cgroups::default();
        c.seed(1, 0, b"");
        c.seed(2, 1, b"old");
        c.made(3, 1, b"new");
        c.seed(3, 1, b"new");
        c.seed(4, 1, b"late");
        c.made(4, 1, b"late");
        let paths: Vec<_> = c
            .predating()
            .iter()
            .map(|p| String::from_utf8(p.to_vec()).unwrap())
            .collect();
        assert_eq!(paths, ["/", "/old"]);
    }

    #[test]
    fn very_long_paths_are_whole() {
        let mut c = Cgroups::default();
        c.seed(1, 0, b"");
        let name = [b'n'; 255];
        for id in 2..100 {
            c.made(id, id - 1, &name);
        }
        assert_eq!(c.path(99).unwrap().len(), 98 * 256);
    }
}
