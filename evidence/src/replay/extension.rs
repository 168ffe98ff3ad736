//! What entries extend, computed for many at once.
//!
//! Promise: the same digests as [`ListEntry::template_digest`] and the same opinion as [`ListEntry::listed`].
//! Entries side by side share vector registers and schedules, so a caller that needs all digests of a list
//! asks for some hundred at a time. The digests of one bank stand beside each other: a chain reads nothing
//! else.

use super::Register;
use crate::list::{ListBank, ListEntry, Listed};
use crate::{Bank, Digest, sha512_lanes};

/// What some entries extend, and into which registers.
#[derive(Debug, Clone, Default)]
pub struct Extensions {
    steps: Vec<Step>,
    /// By bank: digests one after the other, zeros where one is not known; empty where none is.
    digests: [Vec<u8>; Bank::ALL.len()],
}

#[derive(Debug, Clone, Copy)]
struct Step {
    pcr: u32,
    kind: Kind,
    /// The digests that are known, a bit for each bank.
    known: u8,
    listed: Option<Listed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing is known of the entry.
    Unknown,
    /// The digests are those of the entry's bytes.
    Computed,
    /// The digests are stated.
    Redacted,
    Violation,
}

fn bit(bank: Bank) -> u8 {
    1 << bank as u8
}

impl Extensions {
    /// As many entries, of which nothing is known yet.
    pub fn unknown(len: usize) -> Extensions {
        let step = Step {
            pcr: 0,
            kind: Kind::Unknown,
            known: 0,
            listed: None,
        };
        Extensions {
            steps: vec![step; len],
            digests: Default::default(),
        }
    }

    /// Those of these entries, in their order, with the digests in `banks`.
    pub fn of<B: AsRef<[u8]>>(banks: &[Bank], entries: &[ListEntry<B>]) -> Extensions {
        let mut all = Extensions::unknown(entries.len());
        all.compute(banks, entries.iter().enumerate());
        all
    }

    /// Computes those of entries at their places, with the digests in `banks`. A place that is not there is
    /// passed over.
    pub fn compute<'a, B: AsRef<[u8]> + 'a>(
        &mut self,
        banks: &[Bank],
        entries: impl Iterator<Item = (usize, &'a ListEntry<B>)> + Clone,
    ) {
        let len = self.steps.len();
        for bank in banks {
            self.digests[*bank as usize].resize(len * bank.len(), 0);
        }
        for (at, entry) in entries.clone() {
            if let Some(step) = self.steps.get_mut(at) {
                step.pcr = entry.pcr();
                step.kind = if entry.is_violation() {
                    Kind::Violation
                } else {
                    Kind::Computed
                };
                step.listed = Some(Listed::Violation);
            }
        }
        let computed = entries.filter(|(at, entry)| *at < len && !entry.is_violation());
        if banks.contains(&Bank::Sha384) && banks.contains(&Bank::Sha512) {
            let messages: Vec<(usize, &[u8])> = computed
                .clone()
                .filter_map(|(at, entry)| Some((at, entry.hashed_piece()?)))
                .collect();
            sha512_lanes::sha384_and_sha512(&messages, |at, sha384, sha512| {
                self.set(at, Bank::Sha384, &sha384);
                self.set(at, Bank::Sha512, &sha512);
            });
        }
        let both = banks.contains(&Bank::Sha1) && banks.contains(&Bank::Sha256);
        for (at, entry) in computed {
            if both
                && let Some(message) = entry.hashed_piece()
                && let Some([sha1, sha256]) = crate::digest::sha1_and_sha256(message)
            {
                self.set(at, Bank::Sha1, &sha1);
                self.set(at, Bank::Sha256, &sha256);
            }
            for bank in banks {
                if self.digest(at, *bank).is_none() {
                    self.set(at, *bank, &entry.hashed(*bank));
                }
            }
            let listed = entry.listed_digest();
            let bank = Bank::from_len(listed.len());
            let own = bank.filter(|bank| self.digest(at, *bank) == Some(listed));
            // What the list shows is most often the digest of a bank that is computed anyway.
            let listed = own.map_or_else(|| entry.listed(), |bank| Listed::Matches(ListBank::Bank(bank)));
            if let Some(step) = self.steps.get_mut(at) {
                step.listed = Some(listed);
            }
        }
    }

    /// That of a redacted entry: what it states, digest by digest. The kernel extended a zero digest as a
    /// violation.
    pub fn redacted(&mut self, at: usize, pcr: u32, stated: &[Digest]) {
        let len = self.steps.len();
        let Some(step) = self.steps.get_mut(at) else {
            return;
        };
        (step.pcr, step.kind) = (pcr, Kind::Redacted);
        // Where a bank is stated twice, the first counts.
        for digest in stated.iter().rev() {
            let bank = digest.bank();
            self.digests[bank as usize].resize(len * bank.len(), 0);
            let mut bytes = [0; Bank::MAX_LEN];
            bytes[..bank.len()].copy_from_slice(digest.bytes());
            self.set(at, bank, &bytes);
        }
    }

    /// The digest stands in the first bytes; the bank has its room.
    fn set(&mut self, at: usize, bank: Bank, digest: &[u8; Bank::MAX_LEN]) {
        let from = at * bank.len();
        self.digests[bank as usize][from..from + bank.len()].copy_from_slice(&digest[..bank.len()]);
        self.steps[at].known |= bit(bank);
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The register that entry `at` extends; `None` where that is not known.
    pub fn pcr(&self, at: usize) -> Option<u32> {
        let step = self.steps.get(at)?;
        (step.kind != Kind::Unknown).then_some(step.pcr)
    }

    /// What the digest that the list shows for entry `at` is worth; `None` for an entry that shows none.
    pub fn listed(&self, at: usize) -> Option<Listed> {
        self.steps.get(at)?.listed
    }

    /// The template digest of entry `at` in this bank; `None` where it was not computed or stated, and of a
    /// violation.
    pub fn digest(&self, at: usize, bank: Bank) -> Option<&[u8]> {
        let is_known = self.steps.get(at)?.known & bit(bank) != 0;
        let from = at * bank.len();
        self.digests[bank as usize]
            .get(from..from + bank.len())
            .filter(|_| is_known)
    }

    /// Extends a register with what entry `at` extends into this bank; `None` if that is not known, and
    /// nothing is extended. Which register the entry names is not looked at.
    pub fn extend(&self, at: usize, register: &mut Register) -> Option<()> {
        let step = self.steps.get(at)?;
        if step.kind == Kind::Violation {
            register.extend_violation();
            return Some(());
        }
        let digest = self.digest(at, register.source())?;
        if step.kind == Kind::Redacted && digest.iter().all(|b| *b == 0) {
            register.extend_violation();
        } else {
            register.extend(digest);
        }
        Some(())
    }
}
