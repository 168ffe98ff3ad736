//! The kernel's binary measurement list, read incrementally from a file that stays open.
//!
//! Each `read` makes the kernel walk the list from its head to where the file stands, so the file is never
//! read twice.

use crate::pipeline;
use cgpath_evidence::Bank;
use cgpath_evidence::list::{ByteOrder, Decoder, Format, Layout, ListEntry};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where the list is looked for. The first is the kernel's own directory, the others are links to it that
/// older kernels have or lack.
pub const PATHS: [&str; 2] = [
    "/sys/kernel/security/integrity/ima/binary_runtime_measurements",
    "/sys/kernel/security/ima/binary_runtime_measurements",
];

/// Bytes asked for at once; the kernel gives less.
const CHUNK: usize = 64 * 1024;

/// Why the list cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// No list.
    #[error(
        "no measurement list: {path} cannot be opened: {source} (is securityfs mounted on \
         /sys/kernel/security, and was the kernel built with CONFIG_IMA?)"
    )]
    Open {
        /// The last that was tried.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Reading failed.
    #[error("reading the measurement list {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel gave bytes that are no list.
    #[error("the measurement list {path} cannot be understood: {source}")]
    Decode {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: cgpath_evidence::Error,
    },
}

/// The open list.
#[derive(Debug)]
pub struct ListReader {
    file: File,
    path: PathBuf,
    decoder: Decoder,
    chunk: Vec<u8>,
    count: u64,
    bytes: u64,
}

impl ListReader {
    /// Opens `path`, or the list of the running kernel if it is empty.
    ///
    /// # Errors
    /// [`ListError::Open`].
    pub fn open(path: &Path) -> Result<ListReader, ListError> {
        let candidates: Vec<PathBuf> = if path.as_os_str().is_empty() {
            PATHS.iter().map(PathBuf::from).collect()
        } else {
            vec![path.to_owned()]
        };
        let mut last = None;
        for path in candidates {
            match File::open(&path) {
                Ok(file) => {
                    let order = if cfg!(target_endian = "big") {
                        ByteOrder::Big
                    } else {
                        ByteOrder::Little
                    };
                    let layout = Layout {
                        order,
                        digest_len: digest_len(&path),
                    };
                    let decoder = Decoder::new(Format::Binary(Some(layout)));
                    return Ok(ListReader {
                        file,
                        path,
                        decoder,
                        chunk: vec![0; CHUNK],
                        count: 0,
                        bytes: 0,
                    });
                }
                Err(source) => last = Some(ListError::Open { path, source }),
            }
        }
        Err(last.unwrap_or(ListError::Open {
            path: PathBuf::new(),
            source: io::ErrorKind::NotFound.into(),
        }))
    }

    /// Bytes of the list that were read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what was added since the last time; gives the number of entries read so far.
    ///
    /// # Errors
    /// [`ListError`], or what `sink` returns.
    pub fn poll<E: From<ListError>>(
        &mut self,
        mut sink: impl FnMut(ListEntry) -> Result<(), E>,
    ) -> Result<u64, E> {
        loop {
            let n = match self.file.read(&mut self.chunk) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(ListError::Read {
                        path: self.path.clone(),
                        source,
                    }
                    .into());
                }
            };
            if n == 0 {
                return Ok(self.count);
            }
            self.bytes += n as u64;
            self.decoder.feed(&self.chunk[..n]);
            loop {
                let entry = self.decoder.next_entry().map_err(|source| ListError::Decode {
                    path: self.path.clone(),
                    source,
                })?;
                let Some(entry) = entry else { break };
                self.count += 1;
                sink(entry)?;
            }
        }
    }
}

/// Digests of `…_runtime_measurements_<alg>` are of that algorithm, those of the plain file SHA-1.
fn digest_len(path: &Path) -> usize {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bank = name.rsplit('_').next().and_then(Bank::from_name);
    bank.unwrap_or(Bank::Sha1).len()
}

/// An entry as the pipeline wants it, without [`pipeline::JoinableEntry::bytes`].
pub fn for_pipeline(entry: &ListEntry) -> pipeline::JoinableEntry {
    pipeline::JoinableEntry {
        index: entry.index(),
        digests: vec![
            entry.template_digest(Bank::Sha1),
            entry.template_digest(Bank::Sha256),
        ],
        name: entry.file_name().unwrap_or_default().to_vec(),
        content: entry.file_digest().map(|d| d.bytes.to_vec()).unwrap_or_default(),
        violation: entry.is_violation(),
        bytes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_evidence::Digest;
    use cgpath_testkit::Measurement;
    use std::io::Write;

    /// An `ima-ng` entry: PCR, SHA-1 of the data, template name, data. ima_fs.c, `ima_measurements_show`.
    fn ng(name: &str) -> Vec<u8> {
        let digest = Digest::new(Bank::Sha256, &[7; 32]).unwrap();
        Measurement::ima_ng(name.as_bytes(), &digest).bytes()
    }

    #[test]
    fn a_list_that_grows_in_the_middle_of_an_entry_is_read_whole_and_once() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut reader = ListReader::open(file.path()).unwrap();
        let (a, b) = (ng("/a"), ng("/b"));
        let mut seen = Vec::new();
        let mut poll = |reader: &mut ListReader| {
            reader
                .poll(|e| {
                    seen.push(for_pipeline(&e));
                    Ok::<(), ListError>(())
                })
                .unwrap()
        };
        assert_eq!(poll(&mut reader), 0);
        file.write_all(&a).unwrap();
        file.write_all(&b[..10]).unwrap();
        assert_eq!(poll(&mut reader), 1);
        file.write_all(&b[10..]).unwrap();
        assert_eq!(poll(&mut reader), 2);
        assert_eq!(poll(&mut reader), 2);
        assert_eq!(
            (seen[1].index, seen[1].name.as_slice(), seen[1].content.as_slice()),
            (1, &b"/b"[..], &[7; 32][..])
        );
        assert!(!seen[0].violation);
    }

    #[test]
    fn an_absent_list_names_its_path() {
        let e = ListReader::open(Path::new("/nonexistent/list")).unwrap_err();
        assert!(e.to_string().contains("/nonexistent/list"));
    }
}
