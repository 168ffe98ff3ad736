//! Layers of an image, as container runtimes unpack them and put them together.
//!
//! containerd, CRI-O and Docker unpack each layer into a directory of its own, where links of lower layers
//! are not seen, and overlayfs makes one tree of these directories. Promise: the regular files are those that
//! a container sees. Where runtimes differ, the first layer is containerd's; what containerd refuses and
//! another runtime unpacks is unpacked. Sources: containerd, archive/tar.go (`applyNaive`, `mkparent`) and
//! archive/tar_opts_linux.go (`OverlayConvertWhiteout`); containerd/continuity, fs/path.go (`RootPath`);
//! containers/storage, pkg/archive/archive_linux.go; fs/overlayfs/namei.c (`ovl_lookup_single`). Not here:
//! reading archives (`tarball`).

use crate::tarball::{Entry, Kind, TarReader};
use crate::tree::{MAX_LINKS, Name, ROOT, Tree, What, Why};
use crate::{Progress, Result};
use cgpath_evidence::{Digest, text::quoted};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::Read;
use std::rc::Rc;

/// A runtime follows no more links than this for one path.
const MAX_WALKED: usize = 255;
/// The longest name in a directory (NAME_MAX).
const MAX_NAME_LEN: usize = 255;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// One layer's own directory.
struct Layer {
    root: usize,
    /// Nothing is below it: whiteouts are not kept, they remove what the layer itself brought before.
    is_first: bool,
    /// Paths that entries of the first layer named: its opaque markers remove what only came as a parent.
    named: HashSet<Vec<Name>>,
}

/// Why a path leads nowhere in a layer.
enum Blocked {
    /// A part that is not the last one is no directory.
    NotDirectory,
    Other(Why),
}

impl From<Blocked> for Why {
    fn from(blocked: Blocked) -> Why {
        match blocked {
            Blocked::NotDirectory => "one of its parents is not a directory in this layer".into(),
            Blocked::Other(why) => why,
        }
    }
}

/// What is at a path, its last part not followed.
enum Found {
    Nothing,
    Link(Vec<u8>),
    Other,
}

impl Tree<'_> {
    /// All entries of one layer, on top of what is there.
    pub(super) fn apply_layer<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        progress: &mut Progress,
        report: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let root = self
            .add(What::Directory(BTreeMap::new()))
            .map_err(|why| tar.malformed(0, why))?;
        let mut layer = Layer {
            root,
            is_first: self.layer == 0,
            named: HashSet::new(),
        };
        self.each_entry(tar, progress, report, |tree, entry, digests| {
            tree.unpack(&mut layer, entry, digests)
        })?;
        self.merge(root);
        Ok(())
    }

    fn unpack(&mut self, layer: &mut Layer, entry: &Entry, digests: Rc<[Digest]>) -> Result<(), Why> {
        let path = join(b"", &entry.path);
        let (parent, name) = split(&path);
        if matches!(name, b"" | b"..") {
            // The root is there already, whatever the entry says of it.
            return Ok(());
        }
        let name = name.to_vec();
        let hidden = name.strip_prefix(WHITEOUT);
        let parent = self
            .root_path(layer.root, parent)
            .and_then(|parent| Ok((self.parents(layer.root, &parent)?, parent)));
        let (directory, mut path) = match parent {
            Ok(parent) => parent,
            // `.wh.a` and `a/.wh.b` in one layer: there is nothing to hide below what is hidden. CRI-O
            // unpacks it.
            Err(Blocked::NotDirectory) if hidden.is_some() && name != OPAQUE => return Ok(()),
            Err(blocked) => return Err(blocked.into()),
        };
        if let Some(hidden) = hidden {
            return self.whiteout(layer, directory, path, &name, hidden);
        }
        let old = self.child(directory, &name);
        let is_kept = entry.kind == Kind::Directory && old.is_some_and(|old| self.is_directory(old));
        if !is_kept {
            self.remove(directory, &name);
        }
        let what = match entry.kind {
            Kind::Global => None,
            Kind::Directory => (!is_kept).then(|| What::Directory(BTreeMap::new())),
            Kind::File => Some(What::File(digests)),
            Kind::Symlink => Some(What::Link(entry.link.clone())),
            Kind::Special => Some(What::Special),
            Kind::Whiteout => Some(What::Whiteout),
            Kind::HardLink => Some(self.hard_link(layer.root, &entry.link)?),
        };
        if layer.is_first {
            path.push(name.clone());
            layer.named.insert(path);
        }
        match what {
            Some(what) => self.put_named(directory, name, what),
            None => Ok(()),
        }
    }

    /// What a hard link shares: only what this layer's directory has, links themselves too.
    fn hard_link(&mut self, root: usize, target: &[u8]) -> Result<What, Why> {
        let (parent, name) = split(target);
        if matches!(name, b"" | b"." | b"..") {
            return Err("a hard link to a directory".into());
        }
        let parent = self.root_path(root, parent)?;
        let found = self
            .look_up(root, &parent)
            .and_then(|parent| self.child(parent, name));
        match found.map(|found| &self.nodes[found].what) {
            Some(What::Directory(_)) => Err("a hard link to a directory".into()),
            Some(what) => Ok(what.clone()),
            None => {
                // The error's place names the entry: both together are to be short.
                let target: Vec<u8> = target.iter().copied().take(80).collect();
                Err(format!(
                    "a hard link to {}, which is not there in this layer",
                    quoted(&target)
                ))
            }
        }
    }

    /// `.wh.NAME` hides NAME of lower layers, `.wh..wh..opq` all that lower layers have in the directory.
    fn whiteout(
        &mut self,
        layer: &Layer,
        directory: usize,
        path: Vec<Name>,
        name: &[u8],
        hidden: &[u8],
    ) -> Result<(), Why> {
        if name == OPAQUE {
            if layer.is_first {
                self.remove_unnamed(layer, directory, path);
            } else {
                self.nodes[directory].opaque = true;
            }
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err("a whiteout of no name".into());
        }
        if layer.is_first {
            self.remove(directory, hidden);
            return Ok(());
        }
        if self.child(directory, hidden).is_some() {
            return Err("a whiteout of a name that this layer itself has: no runtime unpacks it".into());
        }
        self.put_named(directory, hidden.to_vec(), What::Whiteout)
    }

    /// An opaque marker in the first layer: removes what no entry before it named, with all that is in it.
    fn remove_unnamed(&mut self, layer: &Layer, directory: usize, path: Vec<Name>) {
        let mut stack = vec![(directory, path)];
        while let Some((directory, path)) = stack.pop() {
            let What::Directory(children) = &mut self.nodes[directory].what else {
                continue;
            };
            let mut kept = core::mem::take(children);
            kept.retain(|name, child| {
                let mut path = path.clone();
                path.push(name.clone());
                let is_named = layer.named.contains(&path);
                if is_named {
                    stack.push((*child, path));
                }
                is_named
            });
            self.nodes[directory].what = What::Directory(kept);
        }
    }

    fn is_directory(&self, node: usize) -> bool {
        matches!(self.nodes[node].what, What::Directory(_))
    }

    fn remove(&mut self, directory: usize, name: &[u8]) {
        if let What::Directory(children) = &mut self.nodes[directory].what {
            children.remove(name);
        }
    }

    fn put_named(&mut self, directory: usize, name: Name, what: What) -> Result<(), Why> {
        if name.len() > MAX_NAME_LEN {
            return Err(too_long());
        }
        self.put(directory, name, what)
    }

    /// The directory with this path, in which no part is a link; those that are missing are made, real ones.
    fn parents(&mut self, root: usize, path: &[Name]) -> Result<usize, Blocked> {
        let mut here = root;
        for part in path {
            here = match self.child(here, part) {
                Some(next) if self.is_directory(next) => next,
                Some(_) => return Err(Blocked::NotDirectory),
                None => {
                    let what = What::Directory(BTreeMap::new());
                    self.put_named(here, part.clone(), what).map_err(Blocked::Other)?;
                    self.nodes.len() - 1
                }
            };
        }
        Ok(here)
    }

    /// The node with this path, in which no part but the last one may be a link.
    fn look_up(&self, root: usize, path: &[Name]) -> Option<usize> {
        path.iter().try_fold(root, |here, part| self.child(here, part))
    }

    /// `RootPath`: the parts of `path` below `root`, links resolved. It goes through the text of the whole
    /// path part by part, and begins again as long as it met a link; `..` in a link's target is taken from
    /// the text. The kernel would resolve some paths otherwise, but this is how layers are unpacked.
    fn root_path(&self, root: usize, path: &[u8]) -> Result<Vec<Name>, Blocked> {
        let mut path = path.to_vec();
        let mut walked = 0;
        loop {
            let before = walked;
            path = self.walk_links(root, &path, &mut walked)?;
            if walked == before {
                return Ok(parts(&join(b"/", &path)).map(<[u8]>::to_vec).collect());
            }
        }
    }

    /// One pass: each part's link is followed once.
    fn walk_links(&self, root: usize, path: &[u8], walked: &mut usize) -> Result<Vec<u8>, Blocked> {
        let mut here: Vec<u8> = if path.starts_with(b"/") {
            b"/".to_vec()
        } else {
            Vec::new()
        };
        for part in parts(path) {
            if *walked > MAX_WALKED {
                return Err(Blocked::Other(format!(
                    "more than {MAX_WALKED} symbolic links in its parents"
                )));
            }
            let next = join(b"/", &join(&here, part));
            here = match self.lstat(root, &next)? {
                Found::Link(target) => {
                    *walked += 1;
                    // The first part of a relative path: Go takes the target as it stands.
                    if target.starts_with(b"/") || here.is_empty() {
                        target
                    } else {
                        join(&here, &target)
                    }
                }
                Found::Nothing | Found::Other => next,
            };
        }
        Ok(here)
    }

    /// `lstat(2)` in a layer's directory. Links in the middle are followed as the kernel does; one that leads
    /// out of the directory, to what the machine has there that unpacks, leads to nothing.
    fn lstat(&self, root: usize, path: &[u8]) -> Result<Found, Blocked> {
        let mut stack = vec![root];
        let mut pending: VecDeque<Name> = parts(path).map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = pending.pop_front() {
            if part == b".." {
                stack.pop();
                if stack.is_empty() {
                    return Ok(Found::Nothing);
                }
                continue;
            }
            if part.len() > MAX_NAME_LEN {
                return Err(Blocked::Other(too_long()));
            }
            let here = stack.last().copied().unwrap_or(root);
            let Some(next) = self.child(here, &part) else {
                return Ok(Found::Nothing);
            };
            match &self.nodes[next].what {
                What::Link(target) if pending.is_empty() => return Ok(Found::Link(target.clone())),
                What::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Blocked::Other(format!(
                            "more than {MAX_LINKS} symbolic links in its parents"
                        )));
                    }
                    if target.starts_with(b"/") {
                        return Ok(Found::Nothing);
                    }
                    let parts: Vec<Name> = parts(target).map(<[u8]>::to_vec).collect();
                    for part in parts.into_iter().rev().filter(|part| part != b".") {
                        pending.push_front(part);
                    }
                }
                What::Directory(_) => stack.push(next),
                _ if pending.is_empty() => return Ok(Found::Other),
                _ => return Err(Blocked::NotDirectory),
            }
        }
        Ok(Found::Other)
    }

    /// Puts a layer on top of those before it, as overlayfs shows them. No recursion: archives choose how
    /// deep a tree is. An opaque marker at the root of a layer has no effect: overlayfs looks at all layers
    /// for it.
    fn merge(&mut self, layer: usize) {
        let mut stack = vec![(ROOT, layer)];
        while let Some((lower, upper)) = stack.pop() {
            let What::Directory(children) = &mut self.nodes[upper].what else {
                continue;
            };
            for (name, child) in core::mem::take(children) {
                let below = self.child(lower, &name).filter(|below| self.is_directory(*below));
                match &self.nodes[child].what {
                    What::Whiteout => self.remove(lower, &name),
                    What::Directory(_) if !self.nodes[child].opaque && below.is_some() => {
                        stack.extend(below.map(|below| (below, child)));
                    }
                    _ => self.take_over(lower, name, child),
                }
            }
        }
    }

    /// A node of a layer in place of what is at this name, without what the layer hides in it.
    fn take_over(&mut self, lower: usize, name: Name, node: usize) {
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            let What::Directory(children) = &mut self.nodes[node].what else {
                continue;
            };
            let mut kept = core::mem::take(children);
            kept.retain(|_, child| !matches!(self.nodes[*child].what, What::Whiteout));
            stack.extend(kept.values());
            self.nodes[node].what = What::Directory(kept);
        }
        if let What::Directory(children) = &mut self.nodes[lower].what {
            children.insert(name, node);
        }
    }
}

fn too_long() -> Why {
    format!("a name longer than {MAX_NAME_LEN} bytes")
}

/// Go's `filepath.Split`: what is before a path's last part, and that part; no part behind a slash at the
/// end.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1))
}

/// The parts of a path, `.` and `..` among them.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

/// Go's `filepath.Join`: by the text, without `.`, and without `..` but for those that lead out of a relative
/// path.
fn join(folder: &[u8], path: &[u8]) -> Vec<u8> {
    let is_absolute = folder.starts_with(b"/") || (folder.is_empty() && path.starts_with(b"/"));
    let mut clean: Vec<&[u8]> = Vec::new();
    for part in parts(folder).chain(parts(path)) {
        match part {
            b"." => {}
            b".." if clean.last().is_some_and(|last| *last != b"..") => {
                clean.pop();
            }
            b".." if is_absolute => {}
            _ => clean.push(part),
        }
    }
    let mut text = if is_absolute { b"/".to_vec() } else { Vec::new() };
    text.extend(clean.join(&b'/'));
    text
}
