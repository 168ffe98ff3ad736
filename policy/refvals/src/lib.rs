//! Makes reference values from images, root file systems and measurement lists.
//!
//! Pure over readers: the caller opens the files. Promise: memory is bounded by the number of files and by
//! stated limits, never by what an archive claims; errors name the entry and its offset. Not here: which
//! sources are to be believed, and the files' format (`cgpath-policy`).
//!
//! # From an archive to what is accepted at its paths
//!
//! ```
//! use cgpath_evidence::Bank;
//! use cgpath_refvals::{HashOptions, rootfs_archive};
//! # let mut archive = tar::Builder::new(Vec::new());
//! # let mut header = tar::Header::new_gnu();
//! # header.set_size(4);
//! # header.set_mode(0o755);
//! # archive.append_data(&mut header, "usr/bin/tool", &b"tool"[..])?;
//! # let archive = archive.into_inner()?;
//!
//! // A root file system as a tar archive, plain or packed, out of anything that reads.
//! let mut options = HashOptions {
//!     banks: &[Bank::Sha256],
//!     progress: &mut |done| println!("{} files, {} bytes", done.files, done.bytes),
//! };
//! let reference = rootfs_archive("root.tar", archive.as_slice(), &mut options)?;
//! assert!(reference.files[&b"/usr/bin/tool"[..]].contains(&Bank::Sha256.hash(&[b"tool"])));
//!
//! // The file that a policy names.
//! reference.write_json(&mut std::io::stdout())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod deb;
pub mod domain;
pub mod image;
mod layer;
pub mod learned_boot;
pub mod list;
mod members;
mod module;
mod platform;
mod sparse;
mod stream;
mod stub;
mod tarball;
mod tree;
pub mod uki;

pub use module::FileDigester;
pub use stream::Digester;
pub use tarball::rootfs_archive;

/// Why a source could not be read as what it should be. Offsets count bytes from the start of the
/// (decompressed) archive that `what` names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed.
    #[error("{what}: at byte {offset}: {source}")]
    Io {
        /// What was being read.
        what: String,
        /// Where.
        offset: u64,
        /// The system's error.
        source: std::io::Error,
    },
    /// The input ends before the item does.
    #[error("{what}: incomplete: it ends at byte {offset}, inside of {item}")]
    Incomplete {
        /// What was being read.
        what: String,
        /// Where the input ends.
        offset: u64,
        /// The item that lacks bytes.
        item: String,
    },
    /// The input can never become valid.
    #[error("{what}: at byte {offset}: {why}")]
    Malformed {
        /// What was being read.
        what: String,
        /// Where.
        offset: u64,
        /// Why; names the entry.
        why: String,
    },
    /// Something that is valid and not read here.
    #[error("{what}: {why}")]
    Unsupported {
        /// What was being read.
        what: String,
        /// What is not supported, and what to do instead.
        why: String,
    },
    /// A stated limit was met.
    #[error("{what}: {item} is {found}, the limit is {limit}")]
    Limit {
        /// What was being read.
        what: String,
        /// What is too large.
        item: &'static str,
        /// What the input says.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Bytes that are not the ones whose digest stands in a manifest.
    #[error("{what}: its digest is {found}, and {expected} by what names it")]
    WrongDigest {
        /// The blob or layer.
        what: String,
        /// Who says what: the descriptor's or the configuration's digest.
        expected: String,
        /// The digest of the bytes.
        found: String,
    },
    /// The archive lacks a part that another one names.
    #[error("{what}: {missing} is not there; {hint}")]
    Missing {
        /// The archive.
        what: String,
        /// The part.
        missing: String,
        /// What to do.
        hint: &'static str,
    },
    /// Which image is meant is not clear.
    #[error("{what}: {why}; there are: {}", choices.join(", "))]
    Choose {
        /// The archive.
        what: String,
        /// What was looked for.
        why: String,
        /// What there is.
        choices: Vec<String>,
    },
}

/// Shorthand.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// What was done so far: for a progress line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files hashed.
    pub files: u64,
    /// Bytes hashed.
    pub bytes: u64,
}

/// How reference values are made: which digests, and where progress is reported.
pub struct HashOptions<'a> {
    /// Digest algorithms; IMA's `ima_hash=` on the node decides which is needed.
    pub banks: &'a [cgpath_evidence::Bank],
    /// Called after each file.
    pub progress: &'a mut dyn FnMut(Progress),
}
