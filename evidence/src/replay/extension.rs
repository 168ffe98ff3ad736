//! What entries extend, computed for many at once.
//!
//! Promise: the same digests as [`ListEntry::template_digest`] and the same opinion as [`ListEntry::listed`]. Entries side by
//! side share vector registers and schedules, so a caller that needs all digests of a list asks for some hundred at a time.

use super::Fill;
use crate::list::{Computed, ListEntry, Listed, TemplateDigests};
use crate::{Bank, Digest, many};

/// What one entry extends, and into which register.
#[derive(Debug, Clone)]
pub struct Extension {
    pub(super) pcr: u32,
    kind: Kind,
    digests: Computed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The digests are those of the entry's bytes.
    Computed,
    /// The digests are stated.
    Redacted,
    Violation,
}

impl Extension {
    /// That of a redacted entry: what it states, digest by digest. The kernel extended a zero digest as a violation.
    pub fn redacted(pcr: u32, stated: &[Digest]) -> Extension {
        let mut digests = Computed::default();
        // Where a bank is stated twice, the first counts.
        for digest in stated.iter().rev() {
            let mut bytes = [0; Bank::MAX_LEN];
            bytes[..digest.bank().len()].copy_from_slice(digest.bytes());
            digests.set(digest.bank(), &bytes);
        }
        Extension {
            pcr,
            kind: Kind::Redacted,
            digests,
        }
    }

    /// The register.
    pub fn pcr(&self) -> u32 {
        self.pcr
    }

    /// The template digest in this bank; `None` where it was not computed or stated, and of a violation.
    pub fn digest(&self, bank: Bank) -> Option<Digest> {
        Digest::new(bank, self.bytes(bank)?)
    }

    /// The same, its bytes.
    pub fn bytes(&self, bank: Bank) -> Option<&[u8]> {
        self.digests.get(bank)
    }

    /// What is extended into `bank`; `None` where it is not known.
    pub(super) fn extended(&self, bank: Bank, fill: Fill) -> Option<Extended<'_>> {
        if self.kind == Kind::Violation {
            return Some(Extended::Violation);
        }
        let source = fill.source(bank);
        let digest = self.digests.get(source)?;
        let is_violation = self.kind == Kind::Redacted && digest.iter().all(|b| *b == 0);
        Some(if is_violation {
            Extended::Violation
        } else {
            Extended::Digest(digest)
        })
    }
}

/// What a register takes in.
pub(super) enum Extended<'a> {
    Violation,
    /// The digest of the source, which may be shorter than the register.
    Digest(&'a [u8]),
}

/// The extensions of these entries with the digests in `banks`, in the entries' order, and what each listed digest is
/// worth.
pub fn extensions<B: AsRef<[u8]>>(banks: &[Bank], entries: &[ListEntry<B>]) -> Vec<(Extension, Listed)> {
    let empty = |entry: &ListEntry<B>| {
        let kind = if entry.is_violation() {
            Kind::Violation
        } else {
            Kind::Computed
        };
        let extension = Extension {
            pcr: entry.pcr(),
            kind,
            digests: Computed::default(),
        };
        (extension, Listed::Violation)
    };
    let mut all: Vec<(Extension, Listed)> = entries.iter().map(empty).collect();
    if banks.contains(&Bank::Sha384) && banks.contains(&Bank::Sha512) {
        let messages: Vec<(usize, &[u8])> = entries
            .iter()
            .enumerate()
            .filter(|(index, _)| all[*index].0.kind != Kind::Violation)
            .filter_map(|(index, entry)| Some((index, entry.hashed_piece()?)))
            .collect();
        many::sha384_and_sha512(&messages, |index, sha384, sha512| {
            let digests = &mut all[index].0.digests;
            digests.set(Bank::Sha384, &sha384);
            digests.set(Bank::Sha512, &sha512);
        });
    }
    let both = banks.contains(&Bank::Sha1) && banks.contains(&Bank::Sha256);
    for (entry, (extension, listed)) in entries.iter().zip(&mut all) {
        if extension.kind == Kind::Violation {
            continue;
        }
        if both
            && let Some(message) = entry.hashed_piece()
            && let Some([sha1, sha256]) = crate::digest::sha1_and_sha256(message)
        {
            extension.digests.set(Bank::Sha1, &sha1);
            extension.digests.set(Bank::Sha256, &sha256);
        }
        let mut computed = TemplateDigests::new(entry, &mut extension.digests);
        *listed = computed.listed();
        for bank in banks {
            computed.get(*bank);
        }
    }
    all
}
