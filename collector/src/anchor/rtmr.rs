//! A run-time measurement register of a TD, as a file that the kernel shows.
//!
//! Promises: each write is one system call with a whole digest, so that the kernel extends once or not at
//! all; what is read has a register's length or is an error. Not here: what the register should hold (see
//! [`crate::pipeline`]), who else extends it.
//!
//! Source: Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest and
//! drivers/virt/coco/guest/tsm-mr.c of Linux 6.16: a shorter write than the digest is EINVAL. Of a longer one
//! the kernel takes as much as the digest has (`sysfs_kf_bin_write`, fs/sysfs/file.c).

use super::{Anchor, AnchorError, io_error};
use crate::pipeline::Place;
use cgpath_evidence::Bank;
use cgpath_evidence::td::{self, REGISTER_LEN, Register};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The file of register `index` in the directory of registers. SHA-384 is the only algorithm of a TD's
/// registers.
pub fn file_name(index: u8) -> String {
    format!("rtmr{index}:{}", Bank::Sha384)
}

/// One register.
#[derive(Debug)]
pub struct Rtmr {
    index: u8,
    path: PathBuf,
}

impl Rtmr {
    /// Register `index` of those in `directory`. Nothing is opened yet.
    pub fn at(directory: &Path, index: u8) -> Rtmr {
        Rtmr {
            index,
            path: directory.join(file_name(index)),
        }
    }

    /// What it holds now.
    ///
    /// # Errors
    /// [`AnchorError::Io`], [`AnchorError::Length`].
    pub fn read(&self) -> Result<Register, AnchorError> {
        let mut bytes = Vec::with_capacity(REGISTER_LEN + 1);
        File::open(&self.path)
            .map_err(io_error(&self.path, "open"))?
            .take(REGISTER_LEN as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(io_error(&self.path, "read"))?;
        bytes.as_slice().try_into().map_err(|_| AnchorError::Length {
            path: self.path.clone(),
            found: bytes.len(),
        })
    }

    /// Extends it by `digest`.
    ///
    /// # Errors
    /// [`AnchorError::Io`]: the kernel may have extended it all the same.
    pub fn extend(&self, digest: &Register) -> Result<(), AnchorError> {
        // Neither created nor truncated: it is the kernel's.
        let mut file = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .map_err(io_error(&self.path, "open for writing"))?;
        // One call, whatever it returns: what is left in a second one would be another extension, and behind
        // an interruption only the register itself says whether there was one.
        let taken = file.write(digest).map_err(io_error(&self.path, "extend"))?;
        if taken == digest.len() {
            Ok(())
        } else {
            Err(io_error(&self.path, "extend")(io::ErrorKind::WriteZero.into()))
        }
    }
}

impl Anchor for Rtmr {
    fn place(&self) -> Place {
        Place::Rtmr(self.index)
    }

    fn anchor(&mut self, _number: u64, file: &[u8]) -> Result<(), AnchorError> {
        self.extend(&td::checkpoint_digest(file))
    }

    fn value(&self) -> Result<Option<Register>, AnchorError> {
        self.read().map(Some)
    }
}

/// The log of the register's other writer, whole; empty before it wrote any.
///
/// # Errors
/// [`AnchorError::Io`]; also for one that is longer than any log may be.
pub fn other_log(path: &Path) -> Result<Vec<u8>, AnchorError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(path, "open")(error)),
    };
    let mut log = Vec::new();
    file.take(td::log::MAX_LEN as u64 + 1)
        .read_to_end(&mut log)
        .map_err(io_error(path, "read"))?;
    if log.len() > td::log::MAX_LEN {
        return Err(io_error(path, "read")(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(content: &[u8]) -> (tempfile::TempDir, Rtmr) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rtmr3:sha384"), content).unwrap();
        let register = Rtmr::at(dir.path(), 3);
        (dir, register)
    }

    #[test]
    fn what_is_read_has_a_registers_length_and_what_has_not_is_refused() {
        let (_dir, whole) = register(&[7; 48]);
        assert_eq!(whole.read().unwrap(), [7; 48]);
        for length in [0, 47, 49, 4096] {
            let (_dir, other) = register(&vec![7; length]);
            let error = other.read().unwrap_err();
            assert!(
                matches!(error, AnchorError::Length { found, .. } if found == length.min(49)),
                "{error}"
            );
        }
    }

    #[test]
    fn one_write_at_the_start_of_the_file_has_the_digest_and_nothing_is_created() {
        let (dir, present) = register(&[0; 48]);
        let digest = td::checkpoint_digest(b"a checkpoint");
        present.extend(&digest).unwrap();
        // A plain file keeps what is written; the kernel would extend.
        assert_eq!(std::fs::read(dir.path().join("rtmr3:sha384")).unwrap(), digest);
        let absent = Rtmr::at(dir.path(), 2);
        let error = absent.extend(&digest).unwrap_err();
        assert!(error.to_string().contains("rtmr2:sha384"), "{error}");
        assert!(!dir.path().join("rtmr2:sha384").exists());
        assert!(matches!(absent.read(), Err(AnchorError::Io { .. })));
    }

    #[test]
    fn a_write_that_the_kernel_takes_in_part_is_an_error_and_no_second_write_follows() {
        // A device that takes nothing.
        let full = Rtmr {
            index: 3,
            path: "/dev/full".into(),
        };
        let error = full.extend(&[0; 48]).unwrap_err();
        assert!(error.to_string().contains("cannot extend"), "{error}");
    }
}
