//! The key that signs checkpoints, made at the first load of a boot and kept root-only in tmpfs, and the
//! node's key, by which a verifier knows a trust domain.
//!
//! The first must outlive the collector, so that a restarted one continues the chain, and must not outlive
//! the boot. The second does not outlive it either, unless the configuration names a file for it.

use p256::ecdsa::SigningKey;
use rand_core::{OsRng, RngCore};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A file operation failed.
    #[error("key {path}: cannot {what}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The directory would keep the key beyond the boot.
    #[error(
        "{path} is not on tmpfs: the checkpoint key must not survive the boot (set run_dir to a directory in \
         /run)"
    )]
    NotTmpfs {
        /// The directory.
        path: PathBuf,
    },
    /// Others could read it.
    #[error("{path} can be read by others than its owner: its mode is {mode:o}, or it is not ours")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file does not hold a key.
    #[error(
        "{path} holds no key; where checkpoints were signed in this boot, their chain cannot be continued: \
         reboot"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There were checkpoints in this boot and the key is gone.
    #[error(
        "{path} is gone, and checkpoints were signed with it in this boot; the chain cannot be continued: \
         reboot"
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
}

fn io(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { path, what, source }
}

/// Reads the key of this boot from `run_dir/state`, or makes one if there is none and `may_create`.
///
/// # Errors
/// See [`KeyError`].
pub fn load_or_create(run_dir: &Path, may_create: bool) -> Result<SigningKey, KeyError> {
    kept(&state(run_dir)?.join("checkpoint.key"), may_create)
}

/// Reads the node's key from `file`, or from `run_dir/state` where that is empty, or makes one if there is
/// none and `may_create`. A file keeps it beyond the boot: who reads that file can be this node.
///
/// # Errors
/// See [`KeyError`].
pub fn load_or_create_node(file: &Path, run_dir: &Path, may_create: bool) -> Result<SigningKey, KeyError> {
    if file.as_os_str().is_empty() {
        return kept(&state(run_dir)?.join("node.key"), may_create);
    }
    kept(file, may_create)
}

/// The directory of keys that do not outlive the boot.
fn state(run_dir: &Path) -> Result<PathBuf, KeyError> {
    let dir = run_dir.join("state");
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(run_dir)
        .map_err(io(run_dir, "make the directory"))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(io(&dir, "make the directory"))?;
    let kind = nix::sys::statfs::statfs(&dir)
        .map_err(|e| io(&dir, "stat")(e.into()))?
        .filesystem_type();
    // A root file system in memory, as an initramfs has it, is ramfs or tmpfs too.
    if kind != nix::sys::statfs::TMPFS_MAGIC && kind.0 != RAMFS_MAGIC {
        return Err(KeyError::NotTmpfs { path: dir });
    }
    Ok(dir)
}

/// The key in the file `path`, which is made if it is not there and `may_create`.
fn kept(path: &Path, may_create: bool) -> Result<SigningKey, KeyError> {
    let path = path.to_owned();
    match std::fs::read(&path) {
        Ok(bytes) => {
            let meta = std::fs::metadata(&path).map_err(io(&path, "stat"))?;
            let mode = meta.mode() & 0o7777;
            if mode & 0o077 != 0 || meta.uid() != nix::unistd::geteuid().as_raw() {
                return Err(KeyError::Exposed { path, mode });
            }
            SigningKey::from_slice(&bytes).map_err(|_| KeyError::Damaged { path })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && may_create => {
            let key = loop {
                let mut bytes = [0; 32];
                OsRng.fill_bytes(&mut bytes);
                // Fails for zero and beyond the group's order: about never.
                if let Ok(key) = SigningKey::from_slice(&bytes) {
                    break key;
                }
            };
            let temporary = path.with_extension("key.new");
            let _ = std::fs::remove_file(&temporary);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)
                .map_err(io(&temporary, "create"))?;
            file.write_all(&key.to_bytes()).map_err(io(&temporary, "write"))?;
            // At once whole or not there: a crash in between must not leave a part of a key.
            std::fs::rename(&temporary, &path).map_err(io(&path, "rename"))?;
            Ok(key)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(KeyError::Gone { path }),
        Err(source) => Err(KeyError::Io {
            path,
            what: "read",
            source,
        }),
    }
}

/// Removes the key of this boot, with which no checkpoint can be signed any more. Nothing there is not an
/// error.
///
/// # Errors
/// [`KeyError::Io`].
pub fn remove(run_dir: &Path) -> Result<(), KeyError> {
    let dir = run_dir.join("state");
    match std::fs::remove_dir_all(&dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KeyError::Io {
            path: dir,
            what: "remove",
            source,
        }),
        _ => Ok(()),
    }
}

/// Source: include/uapi/linux/magic.h.
const RAMFS_MAGIC: nix::libc::__fsword_t = 0x8584_58f6u32 as nix::libc::__fsword_t;

/// SEC1 compressed point of the public key, 33 bytes, as checkpoint 0 states it.
pub fn public(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_encoded_point(true).as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tmpfs for the test, where there is one.
    fn tmpfs() -> Option<tempfile::TempDir> {
        let dir = tempfile::tempdir_in("/dev/shm").ok()?;
        let kind = nix::sys::statfs::statfs(dir.path()).ok()?.filesystem_type();
        if kind == nix::sys::statfs::TMPFS_MAGIC {
            return Some(dir);
        }
        eprintln!("SKIPPED: /dev/shm is not a tmpfs");
        None
    }

    #[test]
    fn the_key_is_made_once_private_and_read_again() {
        let Some(dir) = tmpfs() else { return };
        let first = load_or_create(dir.path(), true).unwrap();
        assert_eq!(
            public(&load_or_create(dir.path(), false).unwrap()),
            public(&first)
        );
        assert_eq!(public(&first).len(), 33);
        let path = dir.path().join("state/checkpoint.key");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            std::fs::metadata(dir.path().join("state")).unwrap().mode() & 0o7777,
            0o700
        );
    }

    #[test]
    fn a_key_that_is_gone_damaged_or_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let Some(dir) = tmpfs() else { return };
        assert!(matches!(
            load_or_create(dir.path(), false),
            Err(KeyError::Gone { .. })
        ));
        load_or_create(dir.path(), true).unwrap();
        let path = dir.path().join("state/checkpoint.key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            load_or_create(dir.path(), true),
            Err(KeyError::Exposed { mode: 0o640, .. })
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, [0; 31]).unwrap();
        assert!(matches!(
            load_or_create(dir.path(), true),
            Err(KeyError::Damaged { .. })
        ));
    }

    #[test]
    fn the_nodes_key_is_another_one_and_outlives_the_boot_only_in_a_file_of_its_own() {
        let Some(dir) = tmpfs() else { return };
        let none = Path::new("");
        let first = load_or_create_node(none, dir.path(), true).unwrap();
        let checkpoint = load_or_create(dir.path(), true).unwrap();
        assert_ne!(public(&first), public(&checkpoint));
        let again = load_or_create_node(none, dir.path(), false).unwrap();
        assert_eq!(public(&again), public(&first));
        let disk = tempfile::tempdir().unwrap();
        let file = disk.path().join("node.key");
        assert!(matches!(
            load_or_create_node(&file, dir.path(), false),
            Err(KeyError::Gone { .. })
        ));
        let kept = load_or_create_node(&file, dir.path(), true).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        let after = tempfile::tempdir().unwrap();
        let later = load_or_create_node(&file, after.path(), true).unwrap();
        assert_eq!(public(&later), public(&kept));
    }

    #[test]
    fn a_directory_on_a_disk_is_refused() {
        let Ok(dir) = tempfile::tempdir_in("/var/tmp") else {
            return;
        };
        let kind = nix::sys::statfs::statfs(dir.path()).unwrap().filesystem_type();
        if kind == nix::sys::statfs::TMPFS_MAGIC {
            eprintln!("SKIPPED: /var/tmp is a tmpfs here");
            return;
        }
        assert!(matches!(
            load_or_create(dir.path(), true),
            Err(KeyError::NotTmpfs { .. })
        ));
    }
}
