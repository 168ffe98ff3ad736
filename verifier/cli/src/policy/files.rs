//! The files and folders behind reference values: walking, hashing, where images are, the line of progress.
//!
//! Not here: what is made of them (see `cgpath_refvals`).

use super::failure;
use crate::output::{Failure, escape};
use cgpath_evidence::{Bank, Digest};
use cgpath_refvals::image::{self, Choice, Platform, Store, TarStore};
use cgpath_refvals::{self as generate, FileDigester, Progress};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Takes a file's path and its digests.
pub(super) type Each<'a> = dyn FnMut(&Path, Vec<Digest>) -> Result<(), Failure> + 'a;

/// Every regular file below a folder, with its digests; symbolic links are not followed.
pub(super) struct Walk<'a> {
    root: &'a Path,
    cross_mounts: bool,
    banks: &'a [Bank],
    pub(super) progress: Progress,
    pub(super) mounts: Vec<PathBuf>,
    /// Files with several names are hashed once.
    known: HashMap<(u64, u64), Vec<Digest>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(root: &'a Path, cross_mounts: bool, banks: &'a [Bank]) -> Walk<'a> {
        let (progress, mounts, known) = (Progress::default(), Vec::new(), HashMap::new());
        Walk {
            root,
            cross_mounts,
            banks,
            progress,
            mounts,
            known,
        }
    }

    /// Gives each file's path relative to the root, and its digests. A root that is a file itself has an
    /// empty path.
    pub(super) fn run(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        let mut bar = Bar::new();
        let device = fs::metadata(self.root)
            .map_err(|e| Failure::file(self.root, &e))?
            .dev();
        let mut stack = vec![PathBuf::new()];
        while let Some(relative) = stack.pop() {
            let path = if relative.as_os_str().is_empty() {
                self.root.to_owned()
            } else {
                self.root.join(&relative)
            };
            let error = |e: io::Error| Failure::file(&path, &e);
            // The root may be a link: the user who gave it meant its target. Links below it are not followed.
            let metadata = if relative.as_os_str().is_empty() {
                fs::metadata(&path)
            } else {
                fs::symlink_metadata(&path)
            }
            .map_err(error)?;
            if metadata.is_dir() {
                if metadata.dev() != device && !self.cross_mounts {
                    self.mounts.push(Path::new("/").join(&relative));
                    continue;
                }
                for entry in fs::read_dir(&path).map_err(error)? {
                    stack.push(relative.join(entry.map_err(error)?.file_name()));
                }
            } else if metadata.is_file() {
                let digests = self.hash(&path, &metadata)?;
                each(&relative, digests)?;
                bar.show(self.progress);
            }
        }
        self.mounts.sort();
        bar.end();
        Ok(())
    }

    fn hash(&mut self, path: &Path, seen: &fs::Metadata) -> Result<Vec<Digest>, Failure> {
        let error = |e: io::Error| Failure::file(path, &e);
        let inode = (seen.dev(), seen.ino());
        if let Some(known) = self.known.get(&inode) {
            return Ok(known.clone());
        }
        let file = File::open(path).map_err(error)?;
        // A link that was put in its place leads to another inode.
        let opened = file.metadata().map_err(error)?;
        if (opened.dev(), opened.ino()) != inode || !opened.is_file() {
            return Err(Failure::new(
                "changed",
                format!(
                    "{}: replaced while it was read",
                    escape(path.as_os_str().as_bytes())
                ),
            )
            .hint("make the values from a folder that nothing writes to"));
        }
        let name = path.as_os_str().as_bytes();
        let (digests, length) = FileDigester::read(self.banks, name, file).map_err(error)?;
        self.progress.files += 1;
        self.progress.bytes += length;
        if seen.nlink() > 1 {
            self.known.insert(inode, digests.clone());
        }
        Ok(digests)
    }
}

/// Where containerd keeps what it pulled, below its root.
const CONTAINERD: &str = "io.containerd.content.v1.content";

/// Where an image's parts are, and which of its images is meant: an archive, the folder of an OCI layout, or
/// containerd's store, whose images are chosen by `[NAME@]DIGEST`.
///
/// # Errors
/// What cannot be read, an archive that is none, and of containerd's store an image that is not there.
pub(crate) fn open_image(
    path: &Path,
    image: Option<String>,
    platform: Option<Platform>,
) -> Result<(Box<dyn Store>, Choice), Failure> {
    let name = escape(path.as_os_str().as_bytes());
    let metadata = fs::metadata(path).map_err(|e| {
        let failure = Failure::file(path, &e);
        match e.kind() {
            io::ErrorKind::NotFound => failure.hint(
                "name an archive or an OCI layout's folder; `skopeo copy docker://IMAGE oci-archive:app.tar` \
                 fetches one",
            ),
            _ => failure,
        }
    })?;
    if metadata.is_dir() {
        let (root, index, image) = match containerds(path) {
            Some(root) => {
                let index = index_of(&root, image.as_deref())?;
                (root, Some(index), None)
            }
            None => (path.to_owned(), None, image),
        };
        return Ok((Box::new(Folder { name, root, index }), Choice { image, platform }));
    }
    let file = File::open(path).map_err(|e| Failure::file(path, &e))?;
    // Unpacked to a file that nobody else sees, since its parts are read more than once.
    let mut plain = tempfile::tempfile().map_err(|e| Failure::file(&std::env::temp_dir(), &e))?;
    let is_packed = image::decompress(&name, BufReader::new(&file), &mut plain).map_err(|e| failure(&e))?;
    let store = TarStore::new(&name, if is_packed { plain } else { file }).map_err(|e| failure(&e))?;
    Ok((Box::new(store), Choice { image, platform }))
}

/// The folder of containerd's blobs, where this is its root or that folder.
fn containerds(path: &Path) -> Option<PathBuf> {
    let below = path.join(CONTAINERD);
    let root = if below.is_dir() { below } else { path.to_owned() };
    let is_it = root.join("blobs/sha256").is_dir()
        && !root.join("index.json").exists()
        && !root.join("manifest.json").exists();
    is_it.then_some(root)
}

/// What an OCI layout's `index.json` would say of one image of containerd's store, which has none: its own
/// list of images is a database.
fn index_of(root: &Path, image: Option<&str>) -> Result<Vec<u8>, Failure> {
    let hint = "--image NAME@sha256:…: `crictl images --digests` and `ctr -n k8s.io images ls` show digests";
    let image = image.ok_or_else(|| {
        let why = "containerd's store has images by their digests: say which one is meant";
        Failure::new("choose", why).hint(hint)
    })?;
    let (name, digest) = image
        .rsplit_once('@')
        .map_or((None, image), |(name, it)| (Some(name), it));
    let digest = Digest::parse(digest).filter(|digest| digest.bank() == Bank::Sha256);
    let digest = digest.ok_or_else(|| {
        let why = format!(
            "{}: not NAME@sha256:… nor a digest alone",
            escape(image.as_bytes())
        );
        Failure::new("usage", why).hint(hint)
    })?;
    let blob = root.join("blobs/sha256").join(hex::encode(digest.bytes()));
    let size = fs::metadata(&blob)
        .map_err(|e| Failure::file(&blob, &e).hint(hint))?
        .len();
    let annotations: BTreeMap<_, _> = name
        .map(|name| ("io.containerd.image.name", name))
        .into_iter()
        .collect();
    let descriptor =
        serde_json::json!({ "digest": digest.to_string(), "size": size, "annotations": annotations });
    Ok(serde_json::json!({ "manifests": [descriptor] })
        .to_string()
        .into_bytes())
}

/// The folder of an OCI layout, or of containerd's blobs.
struct Folder {
    name: String,
    root: PathBuf,
    /// What stands for `index.json`, where the folder has none.
    index: Option<Vec<u8>>,
}

impl Store for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&mut self, path: &str) -> generate::Result<Option<Box<dyn Read + '_>>> {
        if let Some(index) = self.index.as_deref().filter(|_| path == "index.json") {
            return Ok(Some(Box::new(index)));
        }
        match File::open(self.root.join(path)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(generate::Error::Io {
                what: format!("{}: {path}", self.name),
                offset: 0,
                source,
            }),
        }
    }
}

/// How far a long run is, on standard error: from the first second on, in place on a terminal, else every ten
/// seconds.
pub(crate) struct Bar {
    pub(super) progress: Progress,
    start: Instant,
    last: Instant,
    terminal: bool,
    shown: bool,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        let now = Instant::now();
        let terminal = io::stderr().is_terminal();
        Bar {
            progress: Progress::default(),
            start: now,
            last: now,
            terminal,
            shown: false,
        }
    }

    pub(crate) fn show(&mut self, progress: Progress) {
        self.progress = progress;
        let pause = Duration::from_millis(if self.terminal { 200 } else { 10_000 });
        let since = Duration::from_secs(1).max(pause);
        if self.start.elapsed() < since || (self.shown && self.last.elapsed() < pause) {
            return;
        }
        self.last = Instant::now();
        self.shown = true;
        let line = format!("{} files, {} MiB", progress.files, progress.bytes >> 20);
        // Progress is a courtesy: a closed standard error is no reason to stop.
        let _ = if self.terminal {
            write!(io::stderr(), "\r{line}\x1b[K")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }

    /// Clears the line.
    pub(crate) fn end(self) -> Progress {
        if self.shown && self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        self.progress
    }
}
