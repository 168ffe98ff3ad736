//! Stacks of layers beside `from-image`: unpacked into directories as containerd does it and shown by
//! overlayfs, and unpacked by the real containerd.
//!
//! Promise: what the kernel shows decides; the first unpacking is a second one, from the items and on a real
//! file system. Not here: how containerd is run (see `containerd`).

use super::containerd::{Containerd, Refused};
use super::stacks::{self, Form, Item, Kind};
use cgpath_evidence::{Bank, Digest};
use cgpath_refvals::image::{Choice, Store, from_image};
use cgpath_refvals::{Error, HashOptions, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::fs::XattrFlags;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// So many stacks in the usual test run; `CGPATH_STACKS` says another number, `CGPATH_STACKS_SEED` the first
/// seed.
const STACKS: u64 = 200;

/// Every regular file by its path.
pub(super) type Files = BTreeMap<Vec<u8>, Digest>;

/// The files of an OCI layout, in memory.
pub(super) struct Layout(pub(super) BTreeMap<String, Vec<u8>>);

impl Store for Layout {
    fn name(&self) -> &str {
        "stack"
    }

    fn open(&mut self, path: &str) -> Result<Option<Box<dyn Read + '_>>> {
        let part = self.0.get(path).cloned();
        Ok(part.map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn Read>))
    }
}

/// A layout with an image for each stack, which has the stack's name.
pub(super) fn layout<'a>(stacks: impl IntoIterator<Item = (String, &'a [Vec<Item>])>) -> Layout {
    const OCI: &str = "application/vnd.oci.image";
    let mut parts = BTreeMap::new();
    let mut put = |kind: &str, bytes: Vec<u8>| {
        let digest = Bank::Sha256.hash(&[&bytes]);
        let size = bytes.len();
        parts.insert(format!("blobs/sha256/{}", hex::encode(digest.bytes())), bytes);
        json!({ "mediaType": format!("{OCI}.{kind}"), "digest": digest.to_string(), "size": size })
    };
    let mut manifests = Vec::new();
    for (name, stack) in stacks {
        let layers: Vec<Value> = stack
            .iter()
            .map(|items| put("layer.v1.tar", stacks::layer(items)))
            .collect();
        let ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = put("config.v1+json", config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": format!("{OCI}.manifest.v1+json"), "config": config,
            "layers": layers,
        });
        let mut manifest = put("manifest.v1+json", manifest.to_string().into_bytes());
        manifest["annotations"] = json!({ "io.containerd.image.name": name });
        manifests.push(manifest);
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    parts.insert("index.json".into(), index.to_string().into_bytes());
    parts.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    Layout(parts)
}

/// What `from-image` says: all files, none where there are none.
fn ours(stack: &[Vec<Item>]) -> Result<Files, String> {
    let mut ignore = |_| {};
    let mut options = HashOptions {
        banks: &[Bank::Sha256],
        progress: &mut ignore,
    };
    let mut layout = layout([("stack".to_owned(), stack)]);
    match from_image(&mut layout, &Choice::default(), &[], &mut options) {
        Ok(reference) => Ok(reference
            .files
            .into_iter()
            .map(|(path, digests)| {
                assert_eq!(digests.len(), 1);
                (path.to_vec(), digests.iter().next().unwrap().clone())
            })
            .collect()),
        Err(Error::Unsupported { why, .. }) if why.contains("no regular file") => Ok(Files::new()),
        Err(error) => Err(error.to_string()),
    }
}

/// Go's `filepath.Clean` of a path, with `..` at the root dropped.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(clean(path).trim_start_matches('/'))
}

/// containerd/continuity, fs/path.go.
fn walk_link(root: &Path, path: &str, walked: &mut usize) -> io::Result<(String, bool)> {
    if *walked > 255 {
        return Err(io::Error::other("too many links"));
    }
    let path = clean(path);
    if path == "/" {
        return Ok((path, false));
    }
    let real = below(root, &path);
    match fs::symlink_metadata(&real) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((path, false)),
        Err(error) => Err(error),
        Ok(meta) if meta.is_symlink() => {
            *walked += 1;
            let target = fs::read_link(&real)?;
            Ok((target.to_str().unwrap().to_owned(), true))
        }
        Ok(_) => Ok((path, false)),
    }
}

fn join(folder: &str, path: &str) -> String {
    let text = format!("{folder}/{path}");
    let cleaned = clean(&text);
    if folder.starts_with('/') {
        return cleaned;
    }
    // A relative path keeps what leads out of it.
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn walk_links(root: &Path, path: &str, walked: &mut usize) -> io::Result<String> {
    let (folder, file) = path
        .rfind('/')
        .map_or(("", path), |at| (&path[..=at], &path[at + 1..]));
    if folder.is_empty() {
        return Ok(walk_link(root, file, walked)?.0);
    }
    if file.is_empty() {
        if folder == "/" {
            return Ok(folder.to_owned());
        }
        return walk_links(root, &folder[..folder.len() - 1], walked);
    }
    let folder = walk_links(root, folder, walked)?;
    let (found, is_link) = walk_link(root, &join(&folder, file), walked)?;
    if !is_link || found.starts_with('/') {
        return Ok(found);
    }
    Ok(join(&folder, &found))
}

fn root_path(root: &Path, path: &str) -> io::Result<String> {
    let mut path = path.to_owned();
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    let mut walked = 0;
    loop {
        let before = walked;
        path = walk_links(root, &path, &mut walked)?;
        if before == walked {
            return Ok(clean(&path));
        }
    }
}

/// containerd, archive/tar.go, `mkparent`. Gives whether containerd would do it, too.
fn make_parents(root: &Path, lower: &[PathBuf], path: &str) -> io::Result<bool> {
    let mut at = String::new();
    let mut by_containerd = true;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        at = format!("{at}/{part}");
        let real = below(root, &at);
        match fs::symlink_metadata(&real) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&real)?;
                by_containerd &= has_attributes(lower, &at);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(by_containerd)
}

/// A directory that the layer did not name gets the attributes of the one below it, the upmost of these
/// layers first. containerd refuses the layer where looking for it fails otherwise than by not finding it.
fn has_attributes(lower: &[PathBuf], path: &str) -> bool {
    for layer in lower {
        let found = root_path(layer, path).and_then(|real| fs::symlink_metadata(below(layer, &real)));
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.is_ok(),
        }
    }
    true
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// filepath.Walk in the first layer's handling of an opaque marker.
fn remove_unnamed(folder: &Path, named: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !named.contains(&entry.path()) {
            remove(&entry.path())?;
        } else if entry.file_type()?.is_dir() {
            remove_unnamed(&entry.path(), named)?;
        }
    }
    Ok(())
}

/// containerd, archive/tar.go, `applyNaive`; in layers that are not the first one with
/// `OverlayConvertWhiteout`, on top of these, the upmost first. Gives whether containerd would unpack it,
/// too.
fn unpack(root: &Path, lower: &[PathBuf], items: &[Item]) -> io::Result<bool> {
    let is_first = lower.is_empty();
    let mut by_containerd = true;
    let mut directories = Vec::new();
    let mut named = BTreeSet::new();
    for item in items {
        let name = join("", &item.name);
        let name = if item.name.starts_with('/') {
            clean(&item.name)
        } else {
            name
        };
        let (folder, base) = name
            .rfind('/')
            .map_or(("", name.as_str()), |at| (&name[..=at], &name[at + 1..]));
        let is_whiteout = base.starts_with(".wh.") && base != ".wh..wh..opq";
        let parent = root_path(root, folder).and_then(|parent| {
            by_containerd &= make_parents(root, lower, &parent)?;
            Ok(parent)
        });
        let parent = match parent {
            // containers/storage: nothing is hidden below what is no directory. containerd refuses it.
            Err(error) if is_whiteout && error.kind() == io::ErrorKind::NotADirectory => {
                by_containerd = false;
                continue;
            }
            parent => below(root, &parent?),
        };
        if matches!(base, "" | "." | "..") {
            continue;
        }
        let path = parent.join(base);
        if base == ".wh..wh..opq" {
            if is_first {
                remove_unnamed(&parent, &named)?;
            } else {
                let flags = XattrFlags::empty();
                rustix::fs::setxattr(&parent, "trusted.overlay.opaque", b"y", flags)?;
            }
            continue;
        }
        if let Some(hidden) = base.strip_prefix(".wh.") {
            if matches!(hidden, "" | "." | "..") {
                return Err(io::Error::other("invalid whiteout name"));
            }
            if is_first {
                remove(&parent.join(hidden))?;
            } else {
                mknod(&parent.join(hidden), SFlag::S_IFCHR, Mode::empty(), 0)?;
            }
            continue;
        }
        let old = fs::symlink_metadata(&path);
        let is_kept = item.kind == Kind::Dir && old.as_ref().is_ok_and(fs::Metadata::is_dir);
        if !is_kept {
            remove(&path)?;
        }
        match &item.kind {
            Kind::File(bytes) => fs::write(&path, bytes)?,
            Kind::Dir if is_kept => {}
            Kind::Dir => fs::DirBuilder::new().mode(0o755).create(&path)?,
            Kind::Symlink(target) => symlink(target, &path)?,
            Kind::HardLink(target) => {
                let (folder, base) = target
                    .rfind('/')
                    .map_or(("", target.as_str()), |at| (&target[..=at], &target[at + 1..]));
                let folder = root_path(root, folder)?;
                fs::hard_link(below(root, &join(&folder, base)), &path)?;
            }
            Kind::Fifo => mknod(&path, SFlag::S_IFIFO, Mode::S_IRUSR, 0)?,
            Kind::Char(major, minor) => mknod(&path, SFlag::S_IFCHR, Mode::S_IRUSR, makedev(*major, *minor))?,
            Kind::Global => {}
        }
        if item.kind == Kind::Dir {
            directories.push(name);
        }
        named.insert(path);
    }
    // Times of directories come last: one that the layer itself took away again is not found.
    by_containerd &= directories.iter().all(|name| {
        let real = root_path(root, name).and_then(|real| fs::symlink_metadata(below(root, &real)));
        real.is_ok()
    });
    Ok(by_containerd)
}

/// Every regular file below a folder, its path behind `prefix`.
pub(super) fn collect(folder: &Path, prefix: &[u8], files: &mut Files) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = [prefix, b"/", entry.file_name().as_bytes()].concat();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), &path, files)?;
        } else if kind.is_file() {
            files.insert(path, Bank::Sha256.hash(&[&fs::read(entry.path())?]));
        }
    }
    Ok(())
}

/// Mounts these directories, the upmost first.
fn overlay(lower: &[PathBuf], merged: &Path) -> io::Result<()> {
    let lower: Vec<&OsStr> = lower.iter().map(|path| path.as_os_str()).collect();
    let options = [&b"lowerdir="[..], lower.join(OsStr::new(":")).as_bytes()].concat();
    let (kind, flags) = (Some("overlay"), MsFlags::MS_RDONLY);
    Ok(mount(kind, merged, kind, flags, Some(&options[..]))?)
}

/// Unmounts at once, also where a file there is open: a program that another thread starts at this moment has
/// every file of this process until it executes.
pub fn detach(mounted: &Path) -> io::Result<()> {
    Ok(umount2(mounted, MntFlags::MNT_DETACH)?)
}

/// Leaves the machine's mounts, and tries what every stack needs: a container's root may be let do none of
/// it.
fn prepare(folder: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let [upper, lower, merged] = ["upper", "lower", "merged"].map(|name| folder.join(name));
    for path in [&upper, &lower, &merged] {
        fs::create_dir(path)?;
    }
    mknod(&upper.join("gone"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?;
    overlay(&[upper, lower], &merged)?;
    detach(&merged)
}

/// Unpacks a stack, each layer into a folder of its own; gives the folders, the upmost first, and whether
/// containerd would unpack it, too.
fn unpacked(folder: &Path, stack: &[Vec<Item>]) -> io::Result<(Vec<PathBuf>, bool)> {
    let mut lower = Vec::new();
    let mut by_containerd = true;
    for (nth, items) in stack.iter().enumerate() {
        let root = folder.join(nth.to_string());
        fs::create_dir_all(&root)?;
        by_containerd &= unpack(&root, &lower, items)?;
        lower.insert(0, root);
    }
    // What a container writes to.
    lower.insert(0, folder.join("top"));
    fs::create_dir(&lower[0])?;
    Ok((lower, by_containerd))
}

/// What a container would see of a stack, by the kernel.
fn seen(folder: &Path, stack: &[Vec<Item>]) -> io::Result<Files> {
    let (lower, _) = unpacked(folder, stack)?;
    let merged = folder.join("merged");
    fs::create_dir(&merged)?;
    overlay(&lower, &merged)?;
    let mut files = Files::new();
    let result = collect(&merged, b"", &mut files);
    detach(&merged)?;
    result.map(|()| files)
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Runs `compare` in a mount namespace of a thread's own, whose mounts go with it, whatever happens.
fn with_own_mounts(compare: fn()) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: not root, who alone may mount overlayfs");
        return;
    }
    let compare = move || {
        let probe = tempfile::tempdir().unwrap();
        match prepare(probe.path()) {
            Ok(()) => compare(),
            Err(error) => eprintln!("SKIPPED: root may not mount overlayfs here: {error}"),
        }
    };
    std::thread::spawn(compare).join().unwrap();
}

#[test]
fn random_stacks_give_the_files_that_overlayfs_shows_of_them() {
    with_own_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut compared = Compared::default();
        for seed in seeds() {
            let stack = stacks::stack(seed);
            let folder = dir.path().join(seed.to_string());
            let expected = seen(&folder, &stack).map_err(|error| error.to_string());
            fs::remove_dir_all(&folder).unwrap();
            compared.add(seed, &stack, &expected);
        }
        compared.conclude("overlayfs");
    });
}

#[test]
fn random_stacks_give_the_files_that_the_real_containerd_shows_of_them() {
    with_own_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        let Some(containerd) = Containerd::start(dir.path()) else {
            eprintln!("SKIPPED: containerd and ctr are not installed");
            return;
        };
        let stacks: Vec<(u64, Vec<Vec<Item>>)> = seeds().map(|seed| (seed, stacks::stack(seed))).collect();
        let named = |seed: u64| format!("stack/{seed}:1");
        containerd.import(&layout(
            stacks
                .iter()
                .map(|(seed, stack)| (named(*seed), stack.as_slice())),
        ));
        let scratch = tempfile::tempdir().unwrap();
        let mut compared = Compared::default();
        for (seed, stack) in &stacks {
            let expected = containerd.files(&named(*seed));
            // What CRI-O unpacks and containerd does not is no image that could run under containerd.
            let folder = scratch.path().join(seed.to_string());
            let others = unpacked(&folder, stack).is_ok_and(|(_, by_containerd)| !by_containerd);
            fs::remove_dir_all(&folder).unwrap();
            match expected {
                Err(Refused(_)) if others => compared.others += 1,
                expected => compared.add(*seed, stack, &expected.map_err(|Refused(why)| why)),
            }
        }
        compared.conclude("the real containerd");
    });
}

fn seeds() -> std::ops::Range<u64> {
    let first = number("CGPATH_STACKS_SEED", 0);
    first..first + number("CGPATH_STACKS", STACKS)
}

/// What came of the stacks so far.
#[derive(Default)]
struct Compared {
    count: u64,
    refused: u64,
    /// Refused by the one that is compared with, and unpacked by another runtime.
    others: u64,
    files: usize,
    wrong: Vec<String>,
    met: BTreeMap<&'static str, u64>,
}

impl Compared {
    fn add(&mut self, seed: u64, stack: &[Vec<Item>], expected: &Result<Files, String>) {
        self.count += 1;
        let found = ours(stack);
        match (expected, &found) {
            (Ok(expected), Ok(found)) if expected == found => self.files += found.len(),
            (Err(_), Err(_)) => self.refused += 1,
            _ => self.wrong.push(stated(seed, stack, expected, &found)),
        }
        if expected.is_ok() {
            for name in stack.iter().flatten().flat_map(features) {
                *self.met.entry(name).or_default() += 1;
            }
        }
    }

    fn conclude(self, who: &str) {
        let seeds = seeds();
        println!(
            "{} stacks from seed {} beside {who}: {} differ, {} refused by both, {} by {who} alone, {} files \
             in the others; {:?}",
            self.count + self.others,
            seeds.start,
            self.wrong.len(),
            self.refused,
            self.others,
            self.files,
            self.met,
        );
        assert!(
            self.wrong.is_empty(),
            "{}",
            self.wrong.iter().take(3).cloned().collect::<String>()
        );
        // A generator that only makes what is refused, or never an opaque marker, would show nothing.
        assert!(
            (self.refused + self.others) * 2 < self.count,
            "{} of {} stacks are refused",
            self.refused,
            self.count
        );
        if self.count + self.others >= STACKS {
            assert_eq!(self.met.len(), 14, "{:?}", self.met);
        }
    }
}

/// A stack and what came of it, for people.
fn stated(
    seed: u64,
    stack: &[Vec<Item>],
    expected: &Result<Files, String>,
    found: &Result<Files, String>,
) -> String {
    let mut text = format!("\nseed {seed}\n");
    for (nth, items) in stack.iter().enumerate() {
        for item in items {
            let kind = match &item.kind {
                Kind::File(bytes) => format!("file, {}", Bank::Sha256.hash(&[bytes])),
                kind => format!("{kind:?}"),
            };
            text += &format!("  layer {nth}: {:?} {kind} {:?}\n", item.name, item.form);
        }
    }
    for (who, files) in [("seen", expected), ("found", found)] {
        match files {
            Ok(files) => {
                for (path, digest) in files {
                    text += &format!("  {who} {} {digest}\n", String::from_utf8_lossy(path));
                }
            }
            Err(why) => text += &format!("  {who} refused: {why}\n"),
        }
    }
    text
}

fn features(item: &Item) -> Vec<&'static str> {
    let base = item.name.rsplit('/').next().unwrap();
    let kind = match &item.kind {
        Kind::File(_) if base == ".wh..wh..opq" => "opaque",
        Kind::File(_) if base.starts_with(".wh.") => "whiteout",
        Kind::File(_) => "file",
        Kind::Dir => "dir",
        Kind::Symlink(_) => "symlink",
        Kind::HardLink(_) => "hard link",
        Kind::Fifo | Kind::Char(1, _) => "device",
        Kind::Char(..) => "device 0/0",
        Kind::Global => "global header",
    };
    let form = match item.form {
        Form::Plain => None,
        Form::Pax => Some("PAX name"),
        Form::GnuLong => Some("GNU name"),
        Form::Old => Some("old type"),
        Form::Sparse(_) => Some("sparse"),
    };
    let name = item.name.contains("..").then_some("..");
    [Some(kind), form, name].into_iter().flatten().collect()
}
