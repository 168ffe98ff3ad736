//! The file tree that archives make, and the digests of the regular files in it.
//!
//! Archives of root file systems and packages are unpacked here, through links inside of the root. Promise:
//! the path of a file in the result is the one that the kernel sees, with no link in it. Not here: how a
//! runtime unpacks the layers of an image and puts them together (`layer`).

use crate::module::FileDigester;
use crate::tarball::{Entry, Kind, TarReader};
use crate::{Error, Progress, Result};
use cgpath_evidence::{Bank, Digest, text::quoted};
use cgpath_policy::reference::{MAX_FILES, MAX_PATH_LEN, Reference};
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::rc::Rc;

/// The kernel follows no more links than this in one look-up (MAXSYMLINKS).
pub(super) const MAX_LINKS: usize = 40;
pub(super) const ROOT: usize = 0;
/// What files are from that are mounted into a container.
const MOUNTED: &str = "mount";

#[derive(Debug, Clone)]
pub(super) enum What {
    Directory(BTreeMap<Name, usize>),
    File(Rc<[Digest]>),
    Link(Vec<u8>),
    Special,
    /// In a layer: hides what lower layers have at this path.
    Whiteout,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    /// The last layer that named it.
    pub(super) layer: usize,
    pub(super) what: What,
    /// A directory of a layer that hides what lower layers have in it.
    pub(super) opaque: bool,
}

/// A file tree under construction.
pub(super) struct Tree<'a> {
    banks: &'a [Bank],
    pub(super) nodes: Vec<Node>,
    /// How many layers or archives were begun.
    pub(super) layer: usize,
    /// What each layer is called, for people; the first one is number 1.
    names: Vec<String>,
    /// A folder where a link to a folder is leaves the link: as dpkg unpacks.
    keeps_links: bool,
}

/// Why an entry cannot be applied; the caller adds where.
pub(super) type Why = String;
/// One component of a path.
pub(super) type Name = Vec<u8>;

impl<'a> Tree<'a> {
    pub(super) fn new(banks: &'a [Bank]) -> Tree<'a> {
        let root = Node {
            layer: 0,
            what: What::Directory(BTreeMap::new()),
            opaque: false,
        };
        Tree {
            banks,
            nodes: vec![root],
            layer: 0,
            names: Vec::new(),
            keeps_links: false,
        }
    }

    /// A tree into which packages are unpacked: links to folders stay where an archive has a folder, and
    /// `links` (name in the root, target) are there already.
    pub(super) fn for_packages(banks: &'a [Bank], links: &[(&str, &str)]) -> Tree<'a> {
        let mut tree = Tree::new(banks);
        tree.keeps_links = true;
        for (name, target) in links {
            let link = What::Link(target.as_bytes().to_vec());
            // The root is a directory, and there are a handful of links.
            let _ = tree.put(ROOT, name.as_bytes().to_vec(), link);
        }
        tree
    }

    /// Says what the layer that comes next is called.
    pub(super) fn name_next(&mut self, name: String) {
        self.names.resize(self.layer, String::new());
        self.names.push(name);
    }

    /// All entries of a tar archive, with no meaning given to whiteouts' names.
    pub(super) fn apply_archive<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        progress: &mut Progress,
        report: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        self.each_entry(tar, progress, report, Tree::entry)
    }

    /// Gives each entry of an archive to `put`, with the digests of its content.
    pub(super) fn each_entry<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        progress: &mut Progress,
        report: &mut dyn FnMut(Progress),
        mut put: impl FnMut(&mut Self, &Entry, Rc<[Digest]>) -> Result<(), Why>,
    ) -> Result<()> {
        self.layer += 1;
        let mut buffer = vec![0; 128 * 1024];
        while let Some(entry) = tar.next()? {
            let mut digests: Rc<[Digest]> = Rc::from([]);
            if entry.kind == Kind::File {
                let mut digester = FileDigester::new(self.banks, &entry.path);
                tar.each_piece(&mut buffer, |piece| {
                    digester.update(piece);
                    progress.bytes += piece.len() as u64;
                })?;
                digests = digester.finish().into();
                progress.files += 1;
                report(*progress);
            }
            put(self, &entry, digests).map_err(|why| {
                tar.malformed(entry.offset, format!("entry {}: {why}", quoted(&entry.path)))
            })?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, digests: Rc<[Digest]>) -> Result<(), Why> {
        let (parent, name) = split(&entry.path)?;
        let Some(name) = name else {
            // The root itself: it is there already.
            return if entry.kind == Kind::Directory {
                Ok(())
            } else {
                Err("the root is not a directory".into())
            };
        };
        let directory = self.directory(&parent)?;
        let what = match entry.kind {
            Kind::Directory => {
                if let Some(old) = self.child(directory, &name)
                    && matches!(self.nodes[old].what, What::Directory(_))
                {
                    self.nodes[old].layer = self.layer;
                    return Ok(());
                }
                if self.keeps_links
                    && let Some(old) = self.child(directory, &name)
                    && matches!(self.nodes[old].what, What::Link(_))
                {
                    // What it leads to is a folder as soon as something is put there.
                    let mut path = parent.clone();
                    path.push(name);
                    return self.directory(&path).map(|_| ());
                }
                What::Directory(BTreeMap::new())
            }
            Kind::File => What::File(digests),
            Kind::Symlink => What::Link(entry.link.clone()),
            Kind::Special | Kind::Whiteout => What::Special,
            Kind::Global => return Ok(()),
            Kind::HardLink => {
                let (parent, target) = split(&entry.link)?;
                let found = target.and_then(|target| {
                    let parent = self.directory(&parent).ok()?;
                    self.child(parent, &target)
                });
                match found.map(|found| &self.nodes[found].what) {
                    Some(What::Directory(_)) => return Err("a hard link to a directory".into()),
                    Some(what) => what.clone(),
                    None => {
                        // The error's place names the entry: both together are to be short.
                        let target: Vec<u8> = entry.link.iter().copied().take(80).collect();
                        return Err(format!("a hard link to {}, which is not there", quoted(&target)));
                    }
                }
            }
        };
        self.put(directory, name, what)
    }

    /// Puts a node in a directory, in place of what was there.
    pub(super) fn put(&mut self, directory: usize, name: Name, what: What) -> Result<(), Why> {
        let new = self.add(what)?;
        match &mut self.nodes[directory].what {
            What::Directory(children) => children.insert(name, new),
            _ => return Err("its parent is not a directory".into()),
        };
        Ok(())
    }

    /// A node in no directory yet.
    pub(super) fn add(&mut self, what: What) -> Result<usize, Why> {
        if self.nodes.len() >= 2 * MAX_FILES {
            return Err(format!("more than {} files and folders", 2 * MAX_FILES));
        }
        self.nodes.push(Node {
            layer: self.layer,
            what,
            opaque: false,
        });
        Ok(self.nodes.len() - 1)
    }

    pub(super) fn child(&self, directory: usize, name: &[u8]) -> Option<usize> {
        match &self.nodes[directory].what {
            What::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// The directory with this path, through links inside of the root; directories that are missing are made.
    fn directory(&mut self, path: &[Name]) -> Result<usize, Why> {
        let mut stack = vec![ROOT];
        let mut pending: VecDeque<Name> = path.iter().cloned().collect();
        let mut links = 0;
        while let Some(part) = pending.pop_front() {
            if part == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let here = stack.last().copied().unwrap_or(ROOT);
            let next = match self.child(here, &part) {
                Some(next) => next,
                None => {
                    self.put(here, part, What::Directory(BTreeMap::new()))?;
                    self.nodes.len() - 1
                }
            };
            match &self.nodes[next].what {
                What::Directory(_) => stack.push(next),
                What::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(format!("more than {MAX_LINKS} symbolic links in its parents"));
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    for part in target
                        .split(|b| *b == b'/')
                        .rev()
                        .filter(|p| !p.is_empty() && *p != b".")
                    {
                        pending.push_front(part.to_vec());
                    }
                }
                What::File(_) | What::Special | What::Whiteout => {
                    return Err("one of its parents is not a directory".into());
                }
            }
            // A component has at least one byte and a slash.
            if 2 * (stack.len() + pending.len()) > MAX_PATH_LEN {
                return Err(format!("its path is longer than {MAX_PATH_LEN} bytes"));
            }
        }
        Ok(stack.last().copied().unwrap_or(ROOT))
    }

    /// Puts a file from elsewhere (a bind mount) at `path`.
    pub(super) fn mount(&mut self, path: &[u8], digests: Vec<Digest>) -> Result<(), Why> {
        let (parent, name) = split(path)?;
        let name = name.ok_or("not the path of a file")?;
        if self.names.last().map(String::as_str) != Some(MOUNTED) {
            self.layer += 1;
            self.names.resize(self.layer - 1, String::new());
            self.names.push(MOUNTED.to_owned());
        }
        let directory = self.directory(&parent)?;
        self.put(directory, name, What::File(digests.into()))
    }

    /// All regular files.
    pub(super) fn into_reference(self, what: &str, mut reference: Reference) -> Result<Reference> {
        if self.add_to(what, &mut reference)? == 0 {
            return Err(Error::Unsupported {
                what: what.to_owned(),
                why: "there is no regular file in it, so that its values would accept nothing".into(),
            });
        }
        Ok(reference)
    }

    /// All regular files, beside what stands in `reference`; gives how many.
    pub(super) fn add_to(self, what: &str, reference: &mut Reference) -> Result<usize> {
        let mut files = 0;
        let mut stack = vec![(Vec::new(), ROOT)];
        while let Some((path, node)) = stack.pop() {
            match &self.nodes[node].what {
                What::Directory(children) => {
                    for (name, child) in children {
                        let mut path: Vec<u8> = path.clone();
                        path.push(b'/');
                        path.extend(name);
                        stack.push((path, *child));
                    }
                }
                What::File(digests) => {
                    files += 1;
                    for digest in digests.iter() {
                        reference
                            .insert(path.clone(), digest.clone())
                            .map_err(|why| Error::Unsupported {
                                what: what.to_owned(),
                                why: format!("{}: {why}", quoted(&path)),
                            })?;
                    }
                    let name = self.nodes[node]
                        .layer
                        .checked_sub(1)
                        .and_then(|layer| self.names.get(layer));
                    if let Some(name) = name.filter(|name| !name.is_empty() && !digests.is_empty()) {
                        reference
                            .origins
                            .set(path, name)
                            .map_err(|why| Error::Unsupported {
                                what: what.to_owned(),
                                why,
                            })?;
                    }
                }
                What::Link(_) | What::Special | What::Whiteout => {}
            }
        }
        Ok(files)
    }
}

/// Parents and name of a path, both without `.` and empty parts; no name for the root.
fn split(path: &[u8]) -> Result<(Vec<Name>, Option<Name>), Why> {
    let mut parts: Vec<Name> = path
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
        .map(<[u8]>::to_vec)
        .collect();
    if parts.iter().any(|p| p == b"..") {
        return Err("a path with .. in it".into());
    }
    let name = parts.pop();
    Ok((parts, name))
}
