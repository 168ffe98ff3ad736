//! Files of the store: evidence by its hash, private files, locks; whatever is written is complete and
//! synced.

use super::{Store, StoreError};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown, lchown};
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
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::File::open(path),
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
    if let Some((uid, gid)) = other_owner(path, &file.metadata()?)? {
        fchown(&file, Some(uid), Some(gid))?;
    }
    Ok(file)
}

/// A new folder of mode 0700; an error where there is one. Its owner is that of [`private_file`].
///
/// # Errors
/// Those of the file system.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    if let Some((uid, gid)) = other_owner(path, &fs::symlink_metadata(path)?)? {
        lchown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// User and group of the folder that `path` is in, where root has just made it and they are another's.
fn other_owner(path: &Path, made: &fs::Metadata) -> io::Result<Option<(u32, u32)>> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = fs::metadata(parent.unwrap_or(Path::new(".")))?;
    Ok((made.uid() == 0 && folder.uid() != 0).then(|| (folder.uid(), folder.gid())))
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
