//! Concise reference integrity manifests (CoRIM): a node's reference values in and out.
//!
//! Promise: what is written is read back the same; what a manifest cannot say is named by
//! [`Manifest::of_policy`] and [`write()`], and what is not understood in one that is read is refused by its
//! place. Nothing is passed over that could change what is accepted. Time is an argument. Not here: files and
//! keys on disk (the command's).
//! Source: draft-ietf-rats-corim-11 (CoRIM, CoMID), RFC 9393 (CoSWID), RFC 9052 (COSE); docs/spec/policy.md.

mod cbor;
mod comid;
mod coswid;
mod part;
mod policy;
mod read;
mod sign;
mod write;

pub use read::{Trust, read};
pub use sign::sign;
pub use write::write;

use crate::{BootPolicy, Reference};
use cgpath_evidence::{Bank, Digest, PodUid};

/// The profile that manifests of ours name: environments and attributes are those of docs/spec/cgpath.cddl.
pub const PROFILE: &str = "urn:ima-cgpath:corim:1";
/// A manifest is never longer than this many bytes.
pub const MAX_CORIM_LEN: usize = 512 * 1024 * 1024;
/// A manifest never holds more tags than this.
pub const MAX_TAGS: usize = 8192;
/// All paths of a manifest together are never longer than this many bytes: folders repeat in each path that
/// is below.
pub const MAX_PATHS_LEN: usize = 512 * 1024 * 1024;

/// Who makes environments of ours: `class.vendor`.
const VENDOR: &str = "ima-cgpath";
/// `mkey` of a kernel command line.
const COMMAND_LINE: &str = "kernel-command-line";

/// CBOR tags. Draft section 12, RFC 8949 section 3.4, RFC 9052.
mod tag {
    pub(super) const TIME: u64 = 1;
    pub(super) const SIGN1: u64 = 18;
    pub(super) const URI: u64 = 32;
    pub(super) const UUID: u64 = 37;
    /// Before draft 10, around either kind; 502 around a signed one.
    pub(super) const LEGACY: u64 = 500;
    pub(super) const CORIM: u64 = 501;
    pub(super) const LEGACY_SIGNED: u64 = 502;
    pub(super) const COSWID: u64 = 505;
    pub(super) const COMID: u64 = 506;
    pub(super) const BYTES: u64 = 560;
}

/// Attributes of ours in a CoSWID: `any-attribute` (RFC 9393 section 2.3) has text labels, and text or
/// integers as values.
mod attribute {
    pub(super) const KIND: &str = "ima-cgpath.kind";
    pub(super) const DIGEST: &str = "ima-cgpath.digest";
    pub(super) const LEARNED: &str = "ima-cgpath.learned";
    pub(super) const ORIGINS: &str = "ima-cgpath.origins";
    pub(super) const FROM: &str = "ima-cgpath.from";
}

/// What a manifest says: reference values, and whose they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    /// Its identifier.
    pub id: String,
    /// The node that it is about, where it is about one.
    pub node: Option<String>,
    /// Reference values, each a CoSWID.
    pub references: Vec<Reference>,
    /// Those of the host, as positions in `references`.
    pub host: Vec<usize>,
    /// Those that count in every pod.
    pub sandbox: Vec<usize>,
    /// The pods that may be there.
    pub pods: Vec<ManifestPod>,
    /// What the boot may be.
    pub boot: Option<BootPolicy>,
}

/// One pod of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestPod {
    /// Its UID.
    pub uid: PodUid,
    /// What people call it.
    pub name: String,
    /// Its reference values, as positions in [`Manifest::references`].
    pub references: Vec<usize>,
}

/// What was read, and what a reader should know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// What it says.
    pub manifest: Manifest,
    /// Who signed it, as the manifest says; `None` if no signature was checked.
    pub signer: Option<String>,
    /// For people: a signature that was not checked.
    pub notes: Vec<String>,
}

/// Why a manifest cannot be used. Offsets count bytes from the file's begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It ends too early.
    #[error("offset {offset}: {place}: it ends here")]
    Incomplete {
        /// Where the missing bytes begin.
        offset: usize,
        /// What was read there.
        place: String,
    },
    /// Not CBOR in deterministic form, or not of the form that the draft gives.
    #[error("offset {offset}: {place}: {why}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What was read there, such as `tags[1].comid.triples`.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// It is well-formed, and what it says cannot be kept.
    #[error("offset {offset}: {place}: {what} is not understood here: {hint}")]
    Unsupported {
        /// Where.
        offset: usize,
        /// What was read there.
        place: String,
        /// What it is.
        what: String,
        /// Why, or what to do.
        hint: &'static str,
    },
    /// A stated limit was met.
    #[error("offset {offset}: {place}: {found}, the limit is {limit}")]
    Limit {
        /// Where.
        offset: usize,
        /// What is too large.
        place: String,
        /// What was found.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The signature is absent, does not fit, or is of another kind.
    #[error("signature: {0}")]
    Signature(String),
    /// It is not valid at this time.
    #[error("{place}: valid {when} {limit} (unix seconds), and it is {now}")]
    NotValid {
        /// Which validity.
        place: String,
        /// `from` or `until`.
        when: &'static str,
        /// The bound.
        limit: i64,
        /// The time it was compared with.
        now: u64,
    },
    /// There is nothing that a manifest could say.
    #[error("nothing of it has a form in a CoRIM: {0}")]
    Empty(String),
}

/// Shorthand.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// The bank's number in the IANA registry of named information hash algorithms, which has none for SHA-1.
fn algorithm(bank: Bank) -> Option<u8> {
    match bank {
        Bank::Sha256 => Some(1),
        Bank::Sha384 => Some(7),
        Bank::Sha512 => Some(8),
        Bank::Sha1 => None,
    }
}

/// The bank of such a number.
fn bank(number: i64) -> Option<Bank> {
    Bank::ALL
        .into_iter()
        .find(|bank| algorithm(*bank).map(i64::from) == Some(number))
}

/// Digests that a manifest can hold, by how often their bank came before: within a set each bank stands once.
fn sets(digests: &[Digest]) -> Vec<Vec<&Digest>> {
    let mut sets: Vec<Vec<&Digest>> = Vec::new();
    for digest in digests.iter().filter(|d| algorithm(d.bank()).is_some()) {
        let has = |set: &Vec<&Digest>| set.iter().any(|other| other.bank() == digest.bank());
        match sets.iter_mut().find(|set| !has(set)) {
            Some(set) => set.push(digest),
            None => sets.push(vec![digest]),
        }
    }
    for set in &mut sets {
        set.sort();
    }
    sets
}
