//! Files of others, read within bounds.
//!
//! Promise: at most one byte more than the limit is held, so that what reads the bytes refuses them. Not
//! here: what the bytes mean, and the store's own files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file's bytes, at most one more than `limit`.
///
/// # Errors
/// A file that cannot be read.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?, limit)
}

/// What can be read of `input`, at most one byte more than `limit`.
///
/// # Errors
/// What cannot be read.
pub fn bounded(input: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What tells that a file is another than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    /// Device, inode, length, and times of the content's and the inode's last change.
    file: Option<(u64, u64, u64, [i64; 4])>,
}

impl Stamp {
    /// Of the file as it is now.
    pub(crate) fn of(path: PathBuf) -> Stamp {
        let file = fs::metadata(&path).ok().map(|m| {
            (
                m.dev(),
                m.ino(),
                m.len(),
                [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()],
            )
        });
        Stamp { path, file }
    }

    /// Whether it is the same still.
    pub(crate) fn is_as_before(&self) -> bool {
        self.file.is_some() && Stamp::of(self.path.clone()) == *self
    }
}
