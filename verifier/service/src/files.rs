//! Files of others, read within bounds.
//!
//! Promise: at most one byte more than the limit is held, so that what reads the bytes refuses them. Not
//! here: what the bytes mean, and the store's own files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

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
