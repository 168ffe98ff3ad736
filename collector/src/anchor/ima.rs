//! The small file system of checkpoint files, and reading each of them once so that IMA measures it.
//!
//! An image in tmpfs with a UUID of ours, loop-mounted: the rule
//! `measure func=FILE_CHECK mask=^MAY_READ fsuuid=…` then holds for these files alone, and no pod can meet
//! it.

use super::{Anchor, AnchorError, io_error};
use crate::pipeline::Place;
use cgpath_evidence::checkpoint::{DIRECTORY, FS_UUID};
use cgpath_evidence::td::Register;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of the image, in bytes: room for the files that are kept and for ext4's own tables.
const IMAGE_BYTES: u64 = 2 << 20;

/// Files that fit in any case: each takes at most 64 blocks of 1 KiB, and they are far smaller.
pub const MAX_KEPT: u64 = 256;

/// The mounted file system.
#[derive(Debug)]
pub struct CheckpointFiles {
    dir: PathBuf,
    keep: u64,
    /// Whether this process looked for files that an earlier one left.
    swept: bool,
}

/// An empty file of mode 0600 at `path`, in place of one that is there.
fn private_file(path: &Path) -> Result<File, AnchorError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error(path, "create"))
}

impl CheckpointFiles {
    /// Makes and mounts the file system if it is not there yet; `keep` files are kept on it.
    ///
    /// # Errors
    /// See [`AnchorError`].
    pub fn mount(run_dir: &Path, keep: u64) -> Result<CheckpointFiles, AnchorError> {
        let dir = PathBuf::from(DIRECTORY.trim_end_matches('/'));
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&dir)
            .map_err(io_error(&dir, "make the directory"))?;
        let files = CheckpointFiles::over(dir.clone(), keep);
        if let Some(found) = mounted(&dir)? {
            if found.starts_with("ext4 /dev/loop") && has_our_uuid(&found) {
                return Ok(files);
            }
            return Err(AnchorError::Foreign { path: dir, found });
        }
        let image = run_dir.join("checkpoint.img");
        let file = private_file(&image)?;
        file.set_len(IMAGE_BYTES).map_err(io_error(&image, "resize"))?;
        drop(file);
        let image_text = image.to_string_lossy().into_owned();
        run(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                "1024",
                "-N",
                "1024",
                "-m",
                "0",
                "-O",
                "^has_journal",
                "-U",
                FS_UUID,
                &image_text,
            ],
        )?;
        if !Path::new("/dev/loop-control").exists() {
            // A module on most kernels; without udev nothing loads it.
            run("modprobe", &["loop"])?;
        }
        let target = dir.to_string_lossy().into_owned();
        run(
            "mount",
            &[
                "-t",
                "ext4",
                "-o",
                "loop,nosuid,nodev,noexec",
                &image_text,
                &target,
            ],
        )?;
        Ok(files)
    }

    /// The same over a directory that is there already, on any file system; for tests without IMA beneath.
    pub fn over(dir: PathBuf, keep: u64) -> CheckpointFiles {
        CheckpointFiles {
            dir,
            keep: keep.min(MAX_KEPT),
            swept: false,
        }
    }

    /// Writes the file of checkpoint `number` and reads it once.
    ///
    /// Safe to repeat: the same bytes give the same entry, which IMA adds once.
    ///
    /// # Errors
    /// See [`AnchorError`].
    pub fn read_once(&mut self, number: u64, bytes: &[u8]) -> Result<(), AnchorError> {
        self.remove_old(number);
        let path = self.dir.join(number.to_string());
        let temporary = self.dir.join(format!(".{number}.new"));
        let mut file = private_file(&temporary)?;
        file.write_all(bytes).map_err(io_error(&temporary, "write"))?;
        // Not synced: IMA hashes what is in memory, and the image, in tmpfs, is made anew with each boot.
        // Closed before it is opened for reading: a writer would make the measurement a violation.
        drop(file);
        std::fs::rename(&temporary, &path).map_err(io_error(&path, "rename"))?;
        let mut back = Vec::with_capacity(bytes.len());
        // IMA measures at the opening.
        File::open(&path)
            .map_err(io_error(&path, "open"))?
            .take(bytes.len() as u64 + 1)
            .read_to_end(&mut back)
            .map_err(io_error(&path, "read"))?;
        if back == bytes {
            Ok(())
        } else {
            Err(AnchorError::Altered { path })
        }
    }

    /// Removes the file that checkpoint `number` makes one too many, and the first time all older ones, too.
    fn remove_old(&mut self, number: u64) {
        if self.swept {
            if let Some(old) = number.checked_sub(self.keep) {
                let path = self.dir.join(old.to_string());
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(path = %path.display(), %error, "an old checkpoint file stays");
                    }
                    _ => {}
                }
            }
            return;
        }
        self.swept = true;
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let n = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u64>().ok());
            if n.is_some_and(|n| n.saturating_add(self.keep) <= number)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "an old checkpoint file stays");
            }
        }
    }
}

impl Anchor for CheckpointFiles {
    fn place(&self) -> Place {
        Place::Pcr10
    }

    fn anchor(&mut self, number: u64, file: &[u8]) -> Result<(), AnchorError> {
        self.read_once(number, file)
    }

    fn value(&self) -> Result<Option<Register>, AnchorError> {
        Ok(None)
    }
}

/// Unmounts the file system and removes its image. Nothing there is not an error.
///
/// # Errors
/// See [`AnchorError`].
pub fn unmount(run_dir: &Path) -> Result<(), AnchorError> {
    let dir = PathBuf::from(DIRECTORY.trim_end_matches('/'));
    if dir.exists() && mounted(&dir)?.is_some() {
        run("umount", &[&dir.to_string_lossy()])?;
    }
    let image = run_dir.join("checkpoint.img");
    match std::fs::remove_file(&image) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(&image, "remove")(e)),
        _ => Ok(()),
    }
}

/// Type and source of what is mounted on `dir`, the last one if there are several.
fn mounted(dir: &Path) -> Result<Option<String>, AnchorError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = procfs::process::Process::myself()
        .and_then(|p| p.mountinfo())
        .map_err(|e| io_error(path, "read")(io::Error::other(e)))?;
    let last = mounts.into_iter().rfind(|m| m.mount_point == dir);
    Ok(last.map(|m| format!("{} {}", m.fs_type, m.mount_source.unwrap_or_default())))
}

/// Whether the device of a mount (`ext4 /dev/loop0`) holds a file system with our UUID: bytes 104.. of ext4's
/// superblock, which begins at byte 1024. Source: fs/ext4/ext4.h, `s_uuid`.
fn has_our_uuid(mount: &str) -> bool {
    let Some((_, device)) = mount.split_once(' ') else {
        return false;
    };
    let mut uuid = [0; 16];
    let read =
        File::open(device).and_then(|f| std::os::unix::fs::FileExt::read_exact_at(&f, &mut uuid, 1024 + 104));
    read.is_ok() && hex::encode(uuid) == FS_UUID.replace('-', "")
}

fn run(program: &str, args: &[&str]) -> Result<(), AnchorError> {
    let command = format!("{program} {}", args.join(" "));
    let out = Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .output();
    match out {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            let why = if said.is_empty() {
                out.status.to_string()
            } else {
                said
            };
            Err(AnchorError::Command { command, why })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(AnchorError::Command {
            command,
            why: format!(
                "{program} is not installed (Debian: e2fsprogs for mke2fs, mount, kmod for modprobe)"
            ),
        }),
        Err(e) => Err(AnchorError::Command {
            command,
            why: e.to_string(),
        }),
    }
}
