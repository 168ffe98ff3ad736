//! The files and folders behind reference values: walking, hashing, an OCI layout's folder, the line of
//! progress.
//!
//! Not here: what is made of them (see `cgpath_refvals`).

use crate::output::{Failure, escape};
use cgpath_evidence::{Bank, Digest};
use cgpath_refvals::image::Store;
use cgpath_refvals::{self as generate, FileDigester, Progress};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
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

/// The folder of an OCI layout.
pub(super) struct Folder {
    pub(super) name: String,
    pub(super) root: PathBuf,
}

impl Store for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&mut self, path: &str) -> generate::Result<Option<Box<dyn Read + '_>>> {
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
pub(super) struct Bar {
    pub(super) progress: Progress,
    start: Instant,
    last: Instant,
    terminal: bool,
    shown: bool,
}

impl Bar {
    pub(super) fn new() -> Bar {
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

    pub(super) fn show(&mut self, progress: Progress) {
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
    pub(super) fn end(self) -> Progress {
        if self.shown && self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        self.progress
    }
}
