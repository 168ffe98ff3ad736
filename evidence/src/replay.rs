//! Replays a measurement list into register values.
//!
//! Pure: no I/O, no clock. Invariant: a register is extended with a digest computed here from the entry's
//! bytes, never with the digest that the list claims; only of a redacted entry nothing but its digests is
//! there.
//! Not here: what an entry means (see `list` and `cgroup`), whether it is allowed.
//!
//! Source: security/integrity/ima/ima_queue.c (`ima_add_template_entry`, `ima_init_digests`) and ima_crypto.c
//! (`ima_calc_field_array_hash`).

mod batch;
mod extension;

pub use batch::replay_batches;
pub use extension::Extensions;

use crate::list::{ListEntry, Listed, TemplateDigests};
use crate::{Bank, Digest, Entry, Error};
use std::collections::BTreeMap;

/// How the kernel makes what it extends into a bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// The bank's own hash of the template data; 0xff in every byte for a violation. Linux 5.8 and later.
    Hashed,
    /// The SHA-1 digest followed by zeros, because the bank's hash was not available when IMA started (built
    /// as a module); 0xff in every byte for a violation. Linux 5.8 and later.
    PaddedSha1,
    /// The SHA-1 digest followed by zeros; 20 bytes of 0xff followed by zeros for a violation. Before Linux
    /// 5.8, and later for a bank whose algorithm the kernel does not know.
    PaddedSha1Throughout,
}

impl Fill {
    /// All ways, the usual one first.
    pub const ALL: [Fill; 3] = [Fill::Hashed, Fill::PaddedSha1, Fill::PaddedSha1Throughout];

    /// The bank of the digest that is extended into `bank`.
    fn source(self, bank: Bank) -> Bank {
        match self {
            Fill::Hashed => bank,
            Fill::PaddedSha1 | Fill::PaddedSha1Throughout => Bank::Sha1,
        }
    }
}

/// Why a list cannot be replayed to what was quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Entries were altered, removed or reordered, or the register was extended by others.
    #[error("no prefix of the list's {entries} entries replays to the quoted value")]
    NoPrefix {
        /// Length of the list.
        entries: usize,
    },
    /// An entry cannot be read.
    #[error("entry {index}: {source}")]
    Entry {
        /// Its index, from 0.
        index: usize,
        /// Why.
        source: Error,
    },
    /// A redacted entry has no digest of the bank that is replayed.
    #[error("entry {index} is redacted and holds no {bank} digest")]
    MissingBank {
        /// Its index, from 0.
        index: usize,
        /// The bank.
        bank: Bank,
    },
}

/// One register, of one bank, filled in one way.
#[derive(Debug, Clone)]
pub struct Register {
    bank: Bank,
    fill: Fill,
    value: [u8; Bank::MAX_LEN],
}

impl Register {
    /// All zero, as at boot.
    pub fn new(bank: Bank, fill: Fill) -> Register {
        Register {
            bank,
            fill,
            value: [0; Bank::MAX_LEN],
        }
    }

    /// With this value, each digest hashed: to go on from what was remembered.
    pub fn resume(value: &Digest) -> Register {
        let mut register = Register::new(value.bank(), Fill::Hashed);
        register.value[..value.bytes().len()].copy_from_slice(value.bytes());
        register
    }

    /// The bank.
    pub fn bank(&self) -> Bank {
        self.bank
    }

    /// How it is filled.
    pub fn fill(&self) -> Fill {
        self.fill
    }

    /// The value's bytes, as many as [`Bank::len`].
    pub fn bytes(&self) -> &[u8] {
        &self.value[..self.bank.len()]
    }

    /// The value.
    pub fn value(&self) -> Digest {
        Digest::new(self.bank, self.bytes()).expect("a register has its bank's length")
    }

    /// A digest that is shorter than the register is followed by zeros.
    fn extend(&mut self, digest: &[u8]) {
        if digest.len() >= self.bank.len() {
            return self.bank.extend_register(&mut self.value, digest);
        }
        let mut padded = [0; Bank::MAX_LEN];
        padded[..digest.len()].copy_from_slice(digest);
        self.bank.extend_register(&mut self.value, &padded);
    }

    fn extend_violation(&mut self) {
        let mut digest = [0xff; Bank::MAX_LEN];
        if self.fill == Fill::PaddedSha1Throughout {
            digest[Bank::Sha1.len()..].fill(0);
        }
        self.extend(&digest);
    }

    /// The bank of the digest that is extended.
    fn source(&self) -> Bank {
        self.fill.source(self.bank)
    }

    /// Extends with an entry of a list.
    pub fn push<B: AsRef<[u8]>>(&mut self, entry: &ListEntry<B>) {
        self.push_digests(&mut TemplateDigests::new(entry), entry.is_violation());
    }

    fn push_digests<B: AsRef<[u8]>>(&mut self, digests: &mut TemplateDigests<B>, violation: bool) {
        if violation {
            return self.extend_violation();
        }
        self.extend(digests.get(self.source()));
    }

    /// Extends with the digests of a redacted entry; `None` if there is none of the bank that is needed.
    fn push_opaque(&mut self, digests: &[Digest]) -> Option<()> {
        let needed = self.source();
        let found = digests.iter().find(|d| d.bank() == needed)?;
        if found.is_zero() {
            self.extend_violation();
        } else {
            self.extend(found.bytes());
        }
        Some(())
    }
}

/// Replays a list entry by entry into every PCR that it names.
#[derive(Debug, Clone)]
pub struct Replay {
    lanes: Vec<(Bank, Fill)>,
    registers: BTreeMap<u32, Vec<Register>>,
    entries: u64,
    violations: u64,
}

impl Default for Replay {
    /// All banks, hashed.
    fn default() -> Replay {
        Replay::new(Bank::ALL.map(|bank| (bank, Fill::Hashed)))
    }
}

impl Replay {
    /// A replay of these banks.
    pub fn new(lanes: impl IntoIterator<Item = (Bank, Fill)>) -> Replay {
        Replay {
            lanes: lanes.into_iter().collect(),
            registers: BTreeMap::new(),
            entries: 0,
            violations: 0,
        }
    }

    /// A replay that goes on from `values`, which the register `pcr` had; each bank hashed.
    pub fn resume(pcr: u32, values: &[Digest]) -> Replay {
        let mut replay = Replay::new(values.iter().map(|value| (value.bank(), Fill::Hashed)));
        for (register, value) in replay.registers(pcr).iter_mut().zip(values) {
            *register = Register::resume(value);
        }
        replay
    }

    /// Extends the entry's PCR in each bank with what the kernel extends for these bytes.
    ///
    /// Gives what the digest that the list claims is worth. The shape of the data is not checked here:
    /// see [`ListEntry::fields`].
    pub fn push<B: AsRef<[u8]>>(&mut self, entry: &ListEntry<B>) -> Listed {
        self.entries += 1;
        let mut digests = TemplateDigests::new(entry);
        let listed = digests.listed();
        let violation = listed == Listed::Violation;
        self.violations += u64::from(violation);
        for register in self.registers(entry.pcr()) {
            register.push_digests(&mut digests, violation);
        }
        listed
    }

    /// The same for an entry as evidence carries it. `None` for a redacted entry, which claims nothing.
    ///
    /// # Errors
    /// [`ReplayError::Entry`], [`ReplayError::MissingBank`]; registers are then as they were.
    pub fn push_entry(&mut self, entry: &Entry) -> Result<Option<Listed>, ReplayError> {
        let index = usize::try_from(self.entries).unwrap_or(usize::MAX);
        match entry {
            Entry::Full(record) => {
                let entry = ListEntry::from_canonical(self.entries, record.as_slice())
                    .map_err(|source| ReplayError::Entry { index, source })?;
                Ok(Some(self.push(&entry)))
            }
            Entry::Opaque { pcr, digests, .. } => {
                let before = self.registers(*pcr).to_vec();
                for register in self.registers(*pcr) {
                    if register.push_opaque(digests).is_none() {
                        let bank = register.bank;
                        self.registers.insert(*pcr, before);
                        return Err(ReplayError::MissingBank { index, bank });
                    }
                }
                self.entries += 1;
                self.violations += u64::from(!digests.is_empty() && digests.iter().all(Digest::is_zero));
                Ok(None)
            }
        }
    }

    fn registers(&mut self, pcr: u32) -> &mut [Register] {
        let lanes = &self.lanes;
        self.registers.entry(pcr).or_insert_with(|| {
            lanes
                .iter()
                .map(|(bank, fill)| Register::new(*bank, *fill))
                .collect()
        })
    }

    /// The value of a register; zeros where no entry named the PCR; `None` for a bank that is not replayed.
    pub fn value(&self, pcr: u32, bank: Bank, fill: Fill) -> Option<Digest> {
        let lane = self.lanes.iter().position(|lane| *lane == (bank, fill))?;
        Some(
            self.registers
                .get(&pcr)
                .map_or(Digest::zero(bank), |r| r[lane].value()),
        )
    }

    /// The PCRs that entries named, each with its registers in the order of the banks given.
    pub fn pcrs(&self) -> impl Iterator<Item = (u32, &[Register])> {
        self.registers
            .iter()
            .map(|(pcr, registers)| (*pcr, registers.as_slice()))
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Of these, violations.
    pub fn violations(&self) -> u64 {
        self.violations
    }
}

/// The value of one register before the first entry and after each one.
///
/// A quote's composite digest covers all selected registers at once: where PCR 10 is one of several, the
/// verifier tries each value beside those of the others.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    list: &'a [Entry],
    pcr: u32,
    register: Register,
    /// Entries replayed; `None` before the first value was given, `list.len()` at the end.
    done: Option<usize>,
}

/// See [`Values`]: gives `list.len() + 1` values, the one after `n` entries at position `n`, or an error and
/// no more.
pub fn values(list: &[Entry], pcr: u32, bank: Bank, fill: Fill) -> Values<'_> {
    Values {
        list,
        pcr,
        register: Register::new(bank, fill),
        done: None,
    }
}

impl Values<'_> {
    /// Replays one more entry: its index, or `None` at the end.
    fn step(&mut self) -> Option<Result<usize, ReplayError>> {
        let Some(index) = self.done else {
            self.done = Some(0);
            return Some(Ok(0));
        };
        let entry = self.list.get(index)?;
        self.done = Some(index + 1);
        let pushed = match entry {
            Entry::Full(record) => ListEntry::from_canonical(index as u64, record.as_slice())
                .map(|entry| {
                    if entry.pcr() == self.pcr {
                        self.register.push(&entry);
                    }
                })
                .map_err(|source| ReplayError::Entry { index, source }),
            Entry::Opaque { pcr, .. } if *pcr != self.pcr => Ok(()),
            Entry::Opaque { digests, .. } => {
                self.register
                    .push_opaque(digests)
                    .ok_or(ReplayError::MissingBank {
                        index,
                        bank: self.register.bank,
                    })
            }
        };
        if pushed.is_err() {
            self.list = &[];
        }
        Some(pushed.map(|()| index + 1))
    }
}

impl Iterator for Values<'_> {
    type Item = Result<Digest, ReplayError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().map(|step| step.map(|_| self.register.value()))
    }
}

/// The longest prefix of `list`, in entries, after which the register's bytes satisfy `matches`.
///
/// IMA appends to the list first and extends the register second, so a list that was read after the quote may
/// be ahead of it, never behind. Entries past the prefix are not covered by this quote. Entries of other PCRs
/// are counted with the prefix and not covered by this register either: a verifier that replays one PCR
/// refuses them elsewhere.
///
/// # Errors
/// [`ReplayError::NoPrefix`] if no prefix matches. An entry that cannot be read ends the search: what comes
/// after it cannot be covered, so the prefixes before it count; its error is given only when none of them
/// matches.
pub fn covered_prefix_by(
    list: &[Entry],
    pcr: u32,
    bank: Bank,
    fill: Fill,
    mut matches: impl FnMut(&[u8]) -> bool,
) -> Result<usize, ReplayError> {
    let mut values = values(list, pcr, bank, fill);
    let mut found = None;
    let mut last: Option<([u8; Bank::MAX_LEN], bool)> = None;
    let mut failure = None;
    while let Some(step) = values.step() {
        match step {
            Ok(entries) => {
                // An entry of another PCR leaves the value as it is: no need to ask again.
                let matched = match last {
                    Some((value, matched)) if value == values.register.value => matched,
                    _ => matches(values.register.bytes()),
                };
                last = Some((values.register.value, matched));
                if matched {
                    found = Some(entries);
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    found.ok_or_else(|| failure.unwrap_or(ReplayError::NoPrefix { entries: list.len() }))
}

/// The longest prefix of `list`, in entries, whose replay into PCR `pcr` gives `quoted`: see
/// [`covered_prefix_by`].
///
/// # Errors
/// As [`covered_prefix_by`].
pub fn covered_prefix(list: &[Entry], pcr: u32, fill: Fill, quoted: &Digest) -> Result<usize, ReplayError> {
    covered_prefix_by(list, pcr, quoted.bank(), fill, |value| value == quoted.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::tests::{entry, ima_ng};

    fn list(n: u32) -> Vec<Entry> {
        (0..n)
            .map(|i| ima_ng(10, &format!("/bin/{i}"), &i.to_le_bytes()).to_entry())
            .collect()
    }

    #[test]
    fn the_longest_matching_prefix_is_found_and_what_follows_is_not_covered() {
        let list = list(7);
        for bank in Bank::ALL {
            let all: Vec<Digest> = values(&list, 10, bank, Fill::Hashed)
                .map(Result::unwrap)
                .collect();
            assert_eq!(all.len(), 8);
            for (n, value) in all.iter().enumerate() {
                assert_eq!(covered_prefix(&list, 10, Fill::Hashed, value), Ok(n));
            }
            let mut replay = Replay::default();
            for (n, entry) in list.iter().enumerate() {
                replay.push_entry(entry).unwrap();
                assert_eq!(replay.value(10, bank, Fill::Hashed).unwrap(), all[n + 1]);
            }
        }
    }

    #[test]
    fn a_replay_that_goes_on_from_a_value_ends_where_one_from_the_start_does() {
        let list = list(7);
        for cut in 0..=list.len() {
            let mut whole = Replay::default();
            let push = |replay: &mut Replay, list: &[Entry]| {
                list.iter().for_each(|entry| {
                    replay.push_entry(entry).unwrap();
                });
            };
            push(&mut whole, &list[..cut]);
            let values = Bank::ALL.map(|bank| whole.value(10, bank, Fill::Hashed).unwrap());
            let mut rest = Replay::resume(10, &values);
            push(&mut whole, &list[cut..]);
            push(&mut rest, &list[cut..]);
            for bank in Bank::ALL {
                assert_eq!(
                    rest.value(10, bank, Fill::Hashed),
                    whole.value(10, bank, Fill::Hashed)
                );
            }
        }
    }

    #[test]
    fn an_altered_removed_or_moved_entry_leaves_no_prefix() {
        let list = list(5);
        let quoted = values(&list, 10, Bank::Sha256, Fill::Hashed)
            .last()
            .unwrap()
            .unwrap();
        let fails = |list: &[Entry]| {
            let entries = list.len();
            let found = covered_prefix(list, 10, Fill::Hashed, &quoted);
            assert_eq!(found, Err(ReplayError::NoPrefix { entries }));
        };
        let mut moved = list.clone();
        moved.swap(1, 2);
        fails(&moved);
        let mut removed = list.clone();
        removed.remove(0);
        fails(&removed);
        let mut altered = list.clone();
        altered[3] = ima_ng(10, "/bin/x", b"x").to_entry();
        fails(&altered);
        fails(&[]);
    }

    #[test]
    fn entries_of_other_pcrs_do_not_extend_and_do_not_end_the_prefix() {
        let mut list = list(3);
        let quoted = values(&list, 10, Bank::Sha256, Fill::Hashed)
            .last()
            .unwrap()
            .unwrap();
        list.push(ima_ng(11, "/bin/other", b"o").to_entry());
        assert_eq!(covered_prefix(&list, 10, Fill::Hashed, &quoted), Ok(4));
        list.push(ima_ng(10, "/bin/next", b"n").to_entry());
        assert_eq!(covered_prefix(&list, 10, Fill::Hashed, &quoted), Ok(4));
    }

    #[test]
    fn a_redacted_list_replays_to_the_same_values() {
        let mut full = list(4);
        full.push(entry(10, &[0; 20], b"ima-ng", b"not even a template's fields").to_entry());
        let opaque: Vec<Entry> = full
            .iter()
            .map(|e| {
                let Entry::Full(record) = e else { panic!() };
                ListEntry::from_canonical(0, record.as_slice())
                    .unwrap()
                    .to_opaque(&Bank::ALL)
            })
            .collect();
        for bank in Bank::ALL {
            for fill in Fill::ALL {
                let all = |list| {
                    values(list, 10, bank, fill)
                        .map(Result::unwrap)
                        .collect::<Vec<_>>()
                };
                assert_eq!(all(&full), all(&opaque), "{bank} {fill:?}");
            }
        }
        let mut replay = Replay::default();
        opaque
            .iter()
            .for_each(|e| assert_eq!(replay.push_entry(e), Ok(None)));
        assert_eq!((replay.entries(), replay.violations()), (5, 1));
    }

    #[test]
    fn a_redacted_entry_without_the_bank_is_an_error_and_leaves_the_registers() {
        let opaque = Entry::Opaque {
            pcr: 10,
            digests: vec![Digest::ones(Bank::Sha256)],
            hash: None,
        };
        let missing = ReplayError::MissingBank {
            index: 0,
            bank: Bank::Sha1,
        };
        let mut replay = Replay::default();
        assert_eq!(replay.push_entry(&opaque), Err(missing.clone()));
        assert_eq!(
            replay.value(10, Bank::Sha256, Fill::Hashed),
            Some(Digest::zero(Bank::Sha256))
        );
        let zero = Digest::zero(Bank::Sha1);
        assert_eq!(
            covered_prefix(core::slice::from_ref(&opaque), 10, Fill::Hashed, &zero),
            Ok(0)
        );
        let ones = Digest::ones(Bank::Sha1);
        assert_eq!(covered_prefix(&[opaque], 10, Fill::Hashed, &ones), Err(missing));
    }

    #[test]
    fn a_violation_extends_ff_and_padded_banks_are_as_the_kernel_pads() {
        let bank = Bank::Sha256;
        let entry = ima_ng(10, "/bin/a", b"a");
        let violation = entry_violation();
        let expect = |digests: [Vec<u8>; 2]| {
            digests.iter().fold(Digest::zero(bank), |r, d| {
                r.extend(&Digest::new(bank, d).unwrap())
            })
        };
        let padded = |bytes: &[u8]| [bytes, &[0; 12]].concat();
        let sha1 = entry.template_digest(Bank::Sha1);
        let sha256 = entry.template_digest(bank).bytes().to_vec();
        for (fill, value) in [
            (Fill::Hashed, expect([sha256, vec![0xff; 32]])),
            (Fill::PaddedSha1, expect([padded(sha1.bytes()), vec![0xff; 32]])),
            (
                Fill::PaddedSha1Throughout,
                expect([padded(sha1.bytes()), padded(&[0xff; 20])]),
            ),
        ] {
            let mut replay = Replay::new([(bank, fill)]);
            assert!(matches!(replay.push(&entry), Listed::Matches(_)));
            assert_eq!(replay.push(&violation), Listed::Violation);
            assert_eq!(replay.value(10, bank, fill), Some(value));
            assert_eq!(replay.value(10, Bank::Sha1, fill), None);
        }
    }

    fn entry_violation() -> ListEntry {
        let e = ima_ng(10, "/bin/v", b"v");
        entry(10, &[0; 20], b"ima-ng", e.data())
    }
}
