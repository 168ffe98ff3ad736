//! Hash algorithms as the kernel names them, and file digests as template data holds them.
//!
//! Source: crypto/hash_info.c; ima_template_lib.c, `ima_eventdigest_init_common`.

use super::template::{Field, Format};
use crate::{Bank, Digest, text::foreign};

/// A hash algorithm of the kernel: what IMA may hash files with. Wider than [`Bank`]: it need not be
/// replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Algorithm {
    name: &'static str,
    len: usize,
}

static KNOWN: [Algorithm; 25] = [
    Algorithm { name: "md4", len: 16 },
    Algorithm { name: "md5", len: 16 },
    Algorithm {
        name: "sha1",
        len: 20,
    },
    Algorithm {
        name: "rmd160",
        len: 20,
    },
    Algorithm {
        name: "sha256",
        len: 32,
    },
    Algorithm {
        name: "sha384",
        len: 48,
    },
    Algorithm {
        name: "sha512",
        len: 64,
    },
    Algorithm {
        name: "sha224",
        len: 28,
    },
    Algorithm {
        name: "rmd128",
        len: 16,
    },
    Algorithm {
        name: "rmd256",
        len: 32,
    },
    Algorithm {
        name: "rmd320",
        len: 40,
    },
    Algorithm {
        name: "wp256",
        len: 32,
    },
    Algorithm {
        name: "wp384",
        len: 48,
    },
    Algorithm {
        name: "wp512",
        len: 64,
    },
    Algorithm {
        name: "tgr128",
        len: 16,
    },
    Algorithm {
        name: "tgr160",
        len: 20,
    },
    Algorithm {
        name: "tgr192",
        len: 24,
    },
    // One algorithm under the names that kernels, and Keylime's lists, have had for it.
    Algorithm {
        name: "sm3-256",
        len: 32,
    },
    Algorithm { name: "sm3", len: 32 },
    Algorithm {
        name: "sm3_256",
        len: 32,
    },
    Algorithm {
        name: "streebog256",
        len: 32,
    },
    Algorithm {
        name: "streebog512",
        len: 64,
    },
    Algorithm {
        name: "sha3-256",
        len: 32,
    },
    Algorithm {
        name: "sha3-384",
        len: 48,
    },
    Algorithm {
        name: "sha3-512",
        len: 64,
    },
];

impl Algorithm {
    /// The algorithm that the kernel calls by this name.
    pub fn from_name(name: &[u8]) -> Option<Algorithm> {
        KNOWN.iter().copied().find(|a| a.name.as_bytes() == name)
    }

    /// The name, as the list has it.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Length of a digest, in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no digest is empty")]
    pub const fn len(self) -> usize {
        self.len
    }

    /// The bank of this algorithm, if it is one that this crate computes.
    pub fn bank(self) -> Option<Bank> {
        Bank::from_name(self.name)
    }
}

/// What a digest in a `d-ngv2` field is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DigestKind {
    /// `ima`: the file's content.
    Ima,
    /// `verity`: fs-verity's digest of the file.
    Verity,
}

impl DigestKind {
    /// The kernel's name.
    pub const fn name(self) -> &'static str {
        match self {
            DigestKind::Ima => "ima",
            DigestKind::Verity => "verity",
        }
    }
}

/// A file's digest as an entry holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileDigest<'a> {
    /// What the digest is of; absent but in `d-ngv2`, where the others mean the content.
    pub kind: Option<DigestKind>,
    /// Which algorithm made it. In a `d` field the kernel does not say: it follows from the length.
    pub algorithm: Algorithm,
    /// The digest; all zero in a violation, where kernels of about 6.2 wrote 20 bytes whatever the algorithm.
    pub bytes: &'a [u8],
}

impl<'a> FileDigest<'a> {
    /// Reads a `d`, `d-ng`, `d-ngv2` or `d-modsig` field.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub fn parse(field: Field, bytes: &'a [u8]) -> Result<FileDigest<'a>, String> {
        let (kind, algorithm, bytes) = match field.format() {
            Format::Digest => (None, by_len(bytes.len())?, bytes),
            Format::DigestWithAlgorithm => {
                let (name, digest) = split(bytes)?;
                (None, named(name, digest)?, digest)
            }
            Format::DigestWithType => {
                let (names, digest) = split(bytes)?;
                let at = names
                    .iter()
                    .position(|b| *b == b':')
                    .ok_or("names no digest type")?;
                let (kind, name) = (&names[..at], &names[at + 1..]);
                let kind = match kind {
                    b"ima" => DigestKind::Ima,
                    b"verity" => DigestKind::Verity,
                    other => return Err(format!("unknown digest type `{}`", foreign(other))),
                };
                (Some(kind), named(name, digest)?, digest)
            }
            Format::Text | Format::Hex | Format::Uint(_) => return Err("is no digest".to_owned()),
        };
        let blank = bytes.len() == 20 && bytes.iter().all(|b| *b == 0);
        if bytes.len() != algorithm.len && !blank {
            let (name, len) = (algorithm.name, algorithm.len);
            return Err(format!("a digest of {} bytes, {name} has {len}", bytes.len()));
        }
        Ok(FileDigest {
            kind,
            algorithm,
            bytes,
        })
    }

    /// The digest, if its algorithm is one of the banks and its length fits (see [`FileDigest::bytes`]).
    pub fn digest(&self) -> Option<Digest> {
        Digest::new(self.algorithm.bank()?, self.bytes)
    }
}

/// Splits at the NUL that follows the last colon of the names: `sha256:` NUL digest.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let nul = bytes
        .iter()
        .position(|b| *b == 0)
        .ok_or("has no NUL after the algorithm's name")?;
    let names = bytes[..nul]
        .strip_suffix(b":")
        .ok_or("has no colon after the algorithm's name")?;
    Ok((names, &bytes[nul + 1..]))
}

/// Old kernels left the name out for SHA-1 and MD5.
fn named(name: &[u8], digest: &[u8]) -> Result<Algorithm, String> {
    if name.is_empty() {
        return by_len(digest.len());
    }
    Algorithm::from_name(name).ok_or_else(|| format!("unknown hash algorithm `{}`", foreign(name)))
}

fn by_len(len: usize) -> Result<Algorithm, String> {
    match len {
        16 => Ok(KNOWN[1]),
        20 => Ok(KNOWN[2]),
        _ => Err(format!(
            "a digest of {len} bytes without an algorithm's name (20 for sha1, 16 for md5)"
        )),
    }
}
