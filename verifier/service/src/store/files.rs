//! Files of the store: evidence by its hash, private files, locks; whatever is written is complete and
//! synced.

use super::{Store, StoreError};
use nix::libc;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// The folder of evidence files in the store's directory.
pub(super) const EVIDENCE: &str = "evidence";

/// Evidence that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvidence {
    /// SHA-256, hex; also the file's name.
    pub sha256: String,
    /// Bytes.
    pub len: u64,
}

impl Store {
    /// Puts evidence on disk: complete, synced, under its own hash. Before [`Store::commit`], which makes it
    /// count.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn keep_evidence(&self, bytes: &[u8]) -> Result<KeptEvidence, StoreError> {
        let sha256 = hex::encode(Sha256::digest(bytes));
        let folder = self.dir.join(EVIDENCE);
        put(&folder.join(format!("{sha256}.cbor")), bytes)?;
        sync_dir(&folder)?;
        Ok(KeptEvidence {
            sha256,
            len: bytes.len() as u64,
        })
    }

    /// The file of evidence, whole or a part.
    pub(super) fn evidence_file(&self, sha256: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.evidence_path(sha256);
        fs::read(&path).map_err(|error| StoreError::Io { path, error })
    }

    /// Where the evidence of a verdict lies.
    pub fn evidence_path(&self, sha256: &str) -> PathBuf {
        self.dir.join(EVIDENCE).join(format!("{sha256}.cbor"))
    }
}

/// Writes a file, complete and synced, in place of one that is there. What it holds follows from its name, so
/// that two who do it at the same time do the same.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let partial = path.with_extension(format!("{}.part", std::process::id()));
    let write = || {
        // What an earlier process of this id left is not ours to trust.
        match fs::remove_file(&partial) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = private_file(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|error| StoreError::Io {
        path: path.to_owned(),
        error,
    })
}

/// A file that is there to be locked.
///
/// # Errors
/// Those of the file system.
pub fn lock_file(path: &Path) -> io::Result<fs::File> {
    match private_file(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = opened(path, 0)?;
            give(&file, path)?;
            Ok(file)
        }
        other => other,
    }
}

/// A new file of mode 0600; an error where there is one.
///
/// What root makes belongs to the owner of the folder: the service, whose user is another, must read it.
///
/// # Errors
/// Those of the file system.
pub fn private_file(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    give(&file, path)?;
    Ok(file)
}

/// A folder of mode 0700; one that is there is good. Its owner is that of [`private_file`].
///
/// # Errors
/// Those of the file system; something else of this name.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    give(&opened(path, libc::O_DIRECTORY)?, path)
}

/// Opens what is there by this name, and not what a link of this name leads to: who owns the folder around it
/// could have put a link to anything there.
fn opened(path: &Path, flags: i32) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | flags)
        .open(path)
}

/// Gives what root made, now or before, to the owner of the folder that it is in. A file with another name
/// besides may be any file of root's, and stays.
fn give(made: &fs::File, path: &Path) -> io::Result<()> {
    let own = made.metadata()?;
    if own.uid() != 0 || (own.is_file() && own.nlink() > 1) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = fs::metadata(parent.unwrap_or(Path::new(".")))?;
    if folder.uid() != 0 {
        fchown(made, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}

/// Makes new names in `dir` survive a power cut.
///
/// # Errors
/// [`StoreError::Io`].
pub fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    fs::File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|error| StoreError::Io {
            path: dir.to_owned(),
            error,
        })
}
