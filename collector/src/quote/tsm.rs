//! Reports of the kernel's configfs-tsm: a directory for each, `inblob` written, `outblob` and `auxblob`
//! read.
//!
//! Promises: a report is the answer to these 64 bytes and to no other ones, however many write to its
//! directory; it comes from the provider that was expected, before and after; nothing longer than its limit
//! is held. Not here: what a report proves, timeouts (see [`super`]).
//!
//! Source: Documentation/ABI/testing/configfs-tsm-report, drivers/virt/coco/guest/report.c.

use cgpath_evidence::td::{MAX_OUTBLOB_LEN, MAX_PROVIDER_LEN};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of `inblob`.
pub const INBLOB_LEN: usize = 64;

/// `auxblob` is not longer, in bytes. The kernel's own limit is 32 KiB.
const MAX_AUXBLOB_LEN: usize = 64 * 1024;

/// The other attributes are not longer, in bytes.
const MAX_TEXT_LEN: usize = MAX_PROVIDER_LEN + 1;

/// How often a report is asked for while somebody else writes to its directory.
const TRIES: u32 = 8;

/// What our directories' names begin with; the process and a number follow.
const PREFIX: &str = "cgpathd-";

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TsmError {
    /// A directory for a report could not be made.
    #[error(
        "no report of a trusted execution environment: {path} cannot be made: {source} (is configfs mounted \
         on /sys/kernel/config, is the provider's module loaded, was the kernel built with \
         CONFIG_TSM_REPORTS?)"
    )]
    Unavailable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// An attribute is longer than it may be.
    #[error("{path} is longer than {limit} bytes, or than the kernel gives out (EFBIG)")]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// The limit, in bytes.
        limit: usize,
    },
    /// An attribute is not what the kernel's interface says.
    #[error("{path} holds {found:?}, which is not {expected}")]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is in it, in part.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// Another provider than the one that is configured.
    #[error("the provider of reports is {found:?}; quote.by has {expected:?}")]
    Provider {
        /// As configured.
        expected: String,
        /// As the kernel says.
        found: String,
    },
    /// The provider was another one behind the report than before it.
    #[error("the provider of reports changed from {before:?} to {after:?} while a report was made")]
    ProviderChanged {
        /// Before.
        before: String,
        /// Behind.
        after: String,
    },
    /// Somebody else writes to the directory of the report.
    #[error("{path}: somebody else writes to this report again and again")]
    Race {
        /// The directory.
        path: PathBuf,
    },
    /// It takes too long.
    #[error("no report within {} seconds (quote.timeout): does the host's quoting service \
        run?", .0.as_secs())]
    Timeout(Duration),
    /// The collector ends.
    #[error("the collector is ending")]
    Ending,
}

/// What files of configfs do: the kernel's, or a test's.
pub trait Tree: Send + Sync {
    /// Makes a report's directory.
    ///
    /// # Errors
    /// The kernel's.
    fn make(&self, report: &Path) -> io::Result<()>;

    /// Removes it.
    ///
    /// # Errors
    /// The kernel's.
    fn remove(&self, report: &Path) -> io::Result<()>;

    /// Reads a whole attribute in one opening, at most one byte more than `limit`.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&self, attribute: &Path, limit: usize) -> io::Result<Vec<u8>>;

    /// Writes a whole attribute in one opening.
    ///
    /// # Errors
    /// The kernel's. What it refuses when the file is closed is not seen.
    fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()>;
}

/// The kernel's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Configfs;

impl Tree for Configfs {
    fn make(&self, report: &Path) -> io::Result<()> {
        std::fs::create_dir(report)
    }

    fn remove(&self, report: &Path) -> io::Result<()> {
        std::fs::remove_dir(report)
    }

    fn read(&self, attribute: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(attribute)?
            .take(limit as u64 + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).open(attribute)?.write_all(bytes)
    }
}

/// A report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `outblob`.
    pub outblob: Vec<u8>,
    /// `auxblob`; `None` where there is none, or it is empty.
    pub auxblob: Option<Vec<u8>>,
}

/// The reports of one provider.
pub struct Reports<T = Configfs> {
    tree: T,
    directory: PathBuf,
    provider: String,
}

/// A directory that goes away with this value.
struct Made<'a, T: Tree> {
    tree: &'a T,
    path: PathBuf,
}

impl<T: Tree> Drop for Made<'_, T> {
    fn drop(&mut self) {
        if let Err(error) = self.tree.remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a report's directory stays");
        }
    }
}

impl Reports {
    /// Reports of `provider` in `directory`, which is configfs'. Directories that a collector left there when
    /// it died are removed.
    pub fn new(directory: &Path, provider: &str) -> Reports {
        sweep(directory);
        Reports::over(Configfs, directory, provider)
    }
}

impl<T: Tree> Reports<T> {
    /// The same over another tree.
    pub fn over(tree: T, directory: &Path, provider: &str) -> Reports<T> {
        Reports {
            tree,
            directory: directory.to_owned(),
            provider: provider.to_owned(),
        }
    }

    /// The provider that is expected.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    fn make(&self) -> Result<Made<'_, T>, TsmError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self
            .directory
            .join(format!("{PREFIX}{}-{number}", std::process::id()));
        match self.tree.make(&path) {
            Ok(()) => Ok(Made {
                tree: &self.tree,
                path,
            }),
            Err(source) => Err(TsmError::Unavailable { path, source }),
        }
    }

    /// The provider that the kernel has now.
    ///
    /// # Errors
    /// See [`TsmError`].
    pub fn present(&self) -> Result<String, TsmError> {
        self.make()?.provider()
    }

    /// A report over `inblob`.
    ///
    /// # Errors
    /// See [`TsmError`].
    pub fn report(&self, inblob: &[u8; INBLOB_LEN]) -> Result<Report, TsmError> {
        let made = self.make()?;
        let before = made.provider()?;
        if before != self.provider {
            return Err(TsmError::Provider {
                expected: self.provider.clone(),
                found: before,
            });
        }
        for _ in 0..TRIES {
            let generation = made.generation()?;
            made.write("inblob", inblob)?;
            let outblob = made.read("outblob", MAX_OUTBLOB_LEN)?;
            let auxblob = made.optional("auxblob", MAX_AUXBLOB_LEN)?;
            let is_ours = made.generation()? == generation.wrapping_add(1);
            let after = made.provider()?;
            if after != before {
                return Err(TsmError::ProviderChanged { before, after });
            }
            if is_ours {
                return Ok(Report { outblob, auxblob });
            }
            tracing::debug!(path = %made.path.display(), "somebody else wrote to this report: once more");
        }
        let path = made.path.clone();
        Err(TsmError::Race { path })
    }
}

impl<T: Tree> Made<'_, T> {
    fn read(&self, name: &str, limit: usize) -> Result<Vec<u8>, TsmError> {
        let path = self.path.join(name);
        let bytes = match self.tree.read(&path, limit) {
            Ok(bytes) if bytes.len() > limit => return Err(TsmError::TooLong { path, limit }),
            Ok(bytes) => bytes,
            Err(source) if source.kind() == io::ErrorKind::FileTooLarge => {
                return Err(TsmError::TooLong { path, limit });
            }
            Err(source) => {
                let what = "read";
                return Err(TsmError::Io { path, what, source });
            }
        };
        if bytes.is_empty() && name == "outblob" {
            return Err(TsmError::Form {
                path,
                found: String::new(),
                expected: "a report",
            });
        }
        Ok(bytes)
    }

    /// The same of an attribute that not every provider has.
    fn optional(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, TsmError> {
        match self.read(name, limit) {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Err(TsmError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), TsmError> {
        let path = self.path.join(name);
        self.tree
            .write(&path, bytes)
            .map_err(|source| match source.kind() {
                io::ErrorKind::FileTooLarge => TsmError::TooLong {
                    path,
                    limit: bytes.len().saturating_sub(1),
                },
                _ => TsmError::Io {
                    path,
                    what: "write",
                    source,
                },
            })
    }

    /// A line, without what ends it.
    fn line(&self, name: &str, expected: &'static str) -> Result<String, TsmError> {
        let bytes = self.read(name, MAX_TEXT_LEN)?;
        let text = String::from_utf8_lossy(&bytes);
        let line = text.trim_end_matches('\n');
        if line.is_empty() || !line.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TsmError::Form {
                path: self.path.join(name),
                found: line.escape_default().to_string(),
                expected,
            });
        }
        Ok(line.to_owned())
    }

    fn provider(&self) -> Result<String, TsmError> {
        self.line("provider", "the name of a provider")
    }

    fn generation(&self) -> Result<u64, TsmError> {
        const EXPECTED: &str = "a number";
        let line = self.line("generation", EXPECTED)?;
        line.parse().map_err(|_| TsmError::Form {
            path: self.path.join("generation"),
            found: line,
            expected: EXPECTED,
        })
    }
}

/// Removes directories of processes that are gone.
fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
            && let Err(error) = std::fs::remove_dir(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "a report's directory stays");
        }
    }
}

#[cfg(test)]
mod tests;
