//! A host's files below the directory where its root is: looked at for the plan, and changed by its steps.
//!
//! Promises: links are followed as the host itself would follow them, and never out of its root; a file is
//! in its place as a whole or not at all. Not here: what is done (see [`super::plan`]).

use super::manifest::Link;
use super::manifest::{self, Manifest, ManifestError};
use super::plan::{Found, Host, PACKAGE, Piece, Step, dirs_of, staged};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A list of files of a package that is longer is not read to its end, in bytes.
const MAX_LIST: u64 = 1 << 20;

/// Why a host cannot be looked at or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file operation failed.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// Which file, as the host names it.
        path: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// What was installed before is not known.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// A host's root.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// The host whose root directory is `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where one of its paths is from here; the last part is not followed.
    ///
    /// # Errors
    /// When a directory on the way cannot be looked up.
    pub fn inside(&self, path: &str) -> io::Result<PathBuf> {
        let path = Path::new(path.trim_start_matches('/'));
        let mut rest: Vec<&OsStr> = path.file_name().into_iter().collect();
        let mut dir = path.parent().unwrap_or(Path::new(""));
        loop {
            match (self.directory(dir), dir.parent()) {
                (Ok(found), _) => {
                    // A link to what the host does not have would be followed from here, out of the host.
                    let absent = rest
                        .last()
                        .filter(|_| rest.len() > 1)
                        .map(|name| found.join(name));
                    if absent.is_some_and(|absent| absent.is_symlink()) {
                        return Err(io::Error::other("a link on the way leads to nothing"));
                    }
                    return Ok(rest.iter().rev().fold(found, |path, name| path.join(name)));
                }
                (Err(e), Some(above)) if e.kind() == io::ErrorKind::NotFound => {
                    rest.extend(dir.file_name());
                    dir = above;
                }
                (Err(e), _) => return Err(e),
            }
        }
    }

    /// A directory of it, with all links followed.
    fn directory(&self, dir: &Path) -> io::Result<PathBuf> {
        let root = File::open(&self.0)?;
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let found = openat2(&root, dir, how)?;
        fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
    }

    /// Whether it has a directory.
    pub fn has_directory(&self, dir: &str) -> bool {
        self.directory(Path::new(dir.trim_start_matches('/'))).is_ok()
    }

    /// Why files cannot be made in a directory, or in the one in which it would be made.
    pub fn refused(&self, dir: &str) -> Option<String> {
        let below = self.inside(&format!("{dir}/x"));
        let tried = below.and_then(|path| {
            let there = path.ancestors().skip(1).find(|dir| dir.is_dir());
            nix::unistd::access(there.unwrap_or(&self.0), nix::unistd::AccessFlags::W_OK)
                .map_err(io::Error::from)
        });
        tried.err().map(|e| e.to_string())
    }

    /// The content of a file, up to so many bytes; none where there is none.
    pub fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, HostError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut content = Vec::new();
            File::open(self.inside(path)?)?
                .take(max)
                .read_to_end(&mut content)?;
            Ok(content)
        };
        match read() {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HostError::Io {
                path: path.to_owned(),
                what: "read",
                source,
            }),
        }
    }

    /// What was installed before.
    pub fn manifest(&self) -> Result<Option<Manifest>, HostError> {
        match self.read(manifest::PLACE, manifest::MAX)? {
            Some(text) => Ok(Some(Manifest::parse(&text)?)),
            None => Ok(None),
        }
    }

    /// Looks at everything that counts for these paths.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn look<'a>(&self, paths: impl Iterator<Item = &'a str>, runs: bool) -> Result<Host, HostError> {
        let manifest = self.manifest()?;
        let list = format!("/var/lib/dpkg/info/{PACKAGE}.list");
        let packaged = self.read(&list, MAX_LIST)?.map(|list| {
            String::from_utf8_lossy(&list)
                .lines()
                .map(str::to_owned)
                .collect()
        });
        let mut host = Host {
            manifest,
            packaged,
            runs,
            ..Host::default()
        };
        let mut all: Vec<String> = paths.map(str::to_owned).collect();
        if let Some(manifest) = &host.manifest {
            all.extend(manifest.files.iter().map(|file| file.path.clone()));
            all.extend(manifest.links.iter().map(|link| link.path.clone()));
        }
        let noted = std::iter::once(manifest::PLACE);
        let beside: Vec<String> = all.iter().map(String::as_str).chain(noted).map(staged).collect();
        for path in all.iter().chain(&beside) {
            let found = self.found(path).map_err(|source| HostError::Io {
                path: path.clone(),
                what: "look at",
                source,
            })?;
            host.found.extend(found.map(|found| (path.clone(), found)));
        }
        let made = host
            .manifest
            .iter()
            .flat_map(|manifest| manifest.dirs.iter().map(String::as_str));
        let dirs = all.iter().flat_map(|path| dirs_of(path)).chain(made);
        host.absent_dirs = dirs
            .filter(|dir| !self.has_directory(dir))
            .map(str::to_owned)
            .collect();
        Ok(host)
    }

    fn found(&self, path: &str) -> io::Result<Option<Found>> {
        let place = self.inside(path)?;
        let meta = match fs::symlink_metadata(&place) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if meta.is_symlink() {
            let target = fs::read_link(&place)?;
            return Ok(Some(Found::Link(target.to_string_lossy().into_owned())));
        }
        if !meta.is_file() {
            return Ok(Some(Found::Other));
        }
        Ok(Some(Found::File {
            sha256: digest(&mut File::open(&place)?)?,
            uid: meta.uid(),
        }))
    }

    /// Does one step; `contents` has those of the pieces.
    ///
    /// # Errors
    /// [`HostError::Io`]; the step was not done, or can be done again.
    pub fn apply(&self, step: &Step, contents: &Contents) -> Result<(), HostError> {
        let (path, what, done) = match step {
            Step::MakeDir(dir) => (dir.as_str(), "make", self.make_dir(dir, 0o755)),
            Step::Note(manifest) => (manifest::PLACE, "write", self.note(manifest)),
            Step::Stage(path) => (path.as_str(), "write", self.stage(path, contents)),
            Step::Swap(path) => (path.as_str(), "replace", self.swap(path)),
            Step::Link(link) => (link.path.as_str(), "link", self.link(link)),
            Step::Remove(path) => (
                path.as_str(),
                "remove",
                gone(self.inside(path), |p| fs::remove_file(p)),
            ),
            // One that has more in it stays.
            Step::RemoveDir(dir) => {
                let removed = gone(self.inside(dir), |path| fs::remove_dir(path));
                let is_full = |e: &io::Error| e.kind() == io::ErrorKind::DirectoryNotEmpty;
                (
                    dir.as_str(),
                    "remove",
                    removed.or_else(|e| if is_full(&e) { Ok(()) } else { Err(e) }),
                )
            }
            Step::Forget => (manifest::PLACE, "remove", self.forget()),
        };
        done.map_err(|source| HostError::Io {
            path: path.to_owned(),
            what,
            source,
        })
    }

    fn make_dir(&self, dir: &str, mode: u32) -> io::Result<()> {
        match DirBuilder::new().mode(mode).create(self.inside(dir)?) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn note(&self, manifest: &Manifest) -> io::Result<()> {
        for dir in dirs_of(manifest::PLACE) {
            if !self.has_directory(dir) {
                self.make_dir(dir, 0o700)?;
            }
        }
        let text = manifest.text().map_err(io::Error::other)?;
        self.write(manifest::PLACE, 0o600, &mut text.as_slice())?;
        self.swap(manifest::PLACE)
    }

    fn stage(&self, path: &str, contents: &Contents) -> io::Result<()> {
        match contents.get(path) {
            Some((mode, Content::Bytes(bytes))) => self.write(path, *mode, &mut bytes.as_slice()),
            Some((mode, Content::File(file))) => self.write(path, *mode, &mut File::open(file)?),
            None => Err(io::Error::other("a piece without a content")),
        }
    }

    /// Writes a file beside its place, to the disk.
    fn write(&self, path: &str, mode: u32, content: &mut dyn Read) -> io::Result<()> {
        let beside = self.inside(&staged(path))?;
        gone(Ok(beside.clone()), |path| fs::remove_file(path))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        io::copy(content, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    }

    fn swap(&self, path: &str) -> io::Result<()> {
        let place = self.inside(path)?;
        fs::rename(self.inside(&staged(path))?, &place)?;
        match place.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }

    fn link(&self, link: &Link) -> io::Result<()> {
        match symlink(&link.target, self.inside(&link.path)?) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn forget(&self) -> io::Result<()> {
        for file in [manifest::PLACE.to_owned(), staged(manifest::PLACE)] {
            gone(self.inside(&file), |path| fs::remove_file(path))?;
        }
        let dir = manifest::PLACE.rsplit_once('/').map_or("", |(dir, _)| dir);
        gone(self.inside(dir), |path| fs::remove_dir(path))
    }

    /// Writes a file in its place, which is not noted: for one that goes again at once.
    pub(super) fn put(&self, path: &str, content: &str) -> io::Result<()> {
        self.write(path, 0o644, &mut content.as_bytes())?;
        self.swap(path)
    }

    /// Removes it.
    pub(super) fn take(&self, path: &str) -> io::Result<()> {
        gone(self.inside(path), |path| fs::remove_file(path))
    }
}

/// What is not there need not be removed.
fn gone(path: io::Result<PathBuf>, remove: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    match path.and_then(|path| remove(&path)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Where the content of a piece is.
#[derive(Debug, Clone)]
pub enum Content {
    /// In this program.
    Bytes(Vec<u8>),
    /// In the image.
    File(PathBuf),
}

/// Mode and content of each piece, by its path on the host.
pub type Contents = BTreeMap<String, (u32, Content)>;

/// The same, with digests.
///
/// # Errors
/// When a file of the image cannot be read.
pub fn pieces(contents: &Contents, part: impl Fn(&str) -> super::plan::Part) -> io::Result<Vec<Piece>> {
    contents
        .iter()
        .map(|(path, (mode, content))| {
            let sha256 = match content {
                Content::Bytes(bytes) => digest(&mut bytes.as_slice())?,
                Content::File(file) => digest(&mut File::open(file)?)?,
            };
            Ok(Piece {
                path: path.clone(),
                sha256,
                mode: *mode,
                part: part(path),
            })
        })
        .collect()
}

fn digest(content: &mut dyn Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.write_all(&buffer[..n])?,
        }
    }
}
