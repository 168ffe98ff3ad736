//! The measurement list as the rules look at it: decoded once, with the digests that joins and replays need.
//!
//! Promise: an entry that cannot be decoded or was redacted stays in its place, so that indexes are the
//! list's own; what could not be read of it is absent, and every rule that needs it fails. Nothing is copied
//! that the evidence holds.

use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use cgpath_evidence::{
    Bank, Digest, Entry, Error, Record,
    list::{DigestKind, Field, ListEntry, Listed, Templates, Value, unescaped},
    quoted::IMA_PCR,
    replay::{Extensions, Register},
    tpm::Attest,
};
use rayon::prelude::*;
use std::{borrow::Cow, ops::Range};

/// Entries whose digests are computed side by side, by one thread.
const BATCH: usize = 512;

/// The name of IMA's first entry of a boot, whose digest covers PCR 0-9. Source:
/// security/integrity/ima/ima_init.c.
pub(crate) const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";

/// One entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line<'a> {
    /// The register that it extends; absent where the entry cannot be read.
    pub pcr: Option<u32>,
    /// Its digest is all zero. That this is a violation and not another entry made to look like one, only the
    /// register tells.
    pub violation: bool,
    /// The template's name; absent in a redacted entry.
    pub template: Option<&'a [u8]>,
    /// The file's name as the list has it: spaces are `_`.
    pub path: Option<&'a [u8]>,
    /// The content hash, where its algorithm is one that policies name.
    pub file: Option<Digest>,
    /// The cgroup's path, where the kernel wrote it; its escapes are taken back.
    pub cgroup: Option<Cow<'a, [u8]>>,
    /// The ancestry, where the kernel wrote it; escaped, as a colon within a name would part it.
    pub dep: Option<&'a [u8]>,
    /// What is wrong with it.
    problem: Option<Box<str>>,
}

/// What the entries extend. Apart from the lines, so that code that follows a chain reads nothing else.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    /// Of [`BATCH`] entries each, but the last.
    batches: Vec<Extensions>,
}

/// A list as the rules look at it.
#[derive(Debug, Default)]
pub(crate) struct View<'a> {
    pub lines: Vec<Line<'a>>,
    pub digests: Digests,
}

/// Decodes the entries of a round, with template digests in all banks of the records and of what may be
/// quoted.
pub(crate) fn view<'a>(round: &Round<'a>) -> View<'a> {
    let logs = round.partitions.iter().chain(round.unsealed);
    let banks = banks(
        logs.flat_map(|log| &log.records),
        selected(round.quote.tpm.as_ref().map_or(&[], |quote| &quote.attest)),
    );
    view_of(round.list, &banks)
}

/// Banks that an attestation selects; none if it cannot be read.
fn selected(attest: &[u8]) -> Vec<Bank> {
    Attest::parse(attest).map_or_else(
        |_| Vec::new(),
        |a| a.pcr_select.banks.iter().filter_map(|b| b.bank()).collect(),
    )
}

/// The banks that records have digests in, and more.
pub(crate) fn banks<'r>(
    records: impl Iterator<Item = &'r Record>,
    more: impl IntoIterator<Item = Bank>,
) -> Vec<Bank> {
    let mut banks: Vec<Bank> = vec![Bank::Sha1, Bank::Sha256];
    for bank in records
        .flat_map(|record| &record.digests)
        .map(Digest::bank)
        .chain(more)
    {
        if !banks.contains(&bank) {
            banks.push(bank);
        }
    }
    banks.sort_unstable();
    banks
}

/// The same for entries alone, with template digests in these banks.
pub(crate) fn view_of<'a>(list: &'a [Entry], banks: &[Bank]) -> View<'a> {
    if list.len() <= BATCH {
        let mut lines = vec![Line::default(); list.len()];
        let batches = vec![read(0, list, banks, &mut lines)];
        return View {
            lines,
            digests: Digests { batches },
        };
    }
    // Their memory is first touched here: that is worth more than one thread, too.
    let mut lines: Vec<Line<'a>> = list.par_iter().map(|_| Line::default()).collect();
    let batches = list
        .par_chunks(BATCH)
        .zip(lines.par_chunks_mut(BATCH))
        .enumerate()
        .map(|(n, (batch, lines))| read((n * BATCH) as u64, batch, banks, lines))
        .collect();
    View {
        lines,
        digests: Digests { batches },
    }
}

/// One entry of which only the record is at hand, with its digests; it is entry 0 of these.
pub(crate) fn line_of<'a>(index: u64, record: &'a [u8], banks: &[Bank]) -> (Line<'a>, Digests) {
    let mut extensions = Extensions::unknown(1);
    let line = match ListEntry::from_canonical(index, record) {
        Ok(entry) => {
            extensions.compute(banks, core::iter::once((0, &entry)));
            Line::of(&entry, extensions.listed(0))
        }
        Err(error) => Line::unreadable(&error),
    };
    let batches = vec![extensions];
    (line, Digests { batches })
}

/// Reads entries into as many lines, and gives what they extend.
fn read<'a>(first: u64, batch: &'a [Entry], banks: &[Bank], lines: &mut [Line<'a>]) -> Extensions {
    let mut extensions = Extensions::unknown(batch.len());
    let mut readable: Vec<(usize, ListEntry<&'a [u8]>)> = Vec::with_capacity(batch.len());
    for ((at, entry), line) in batch.iter().enumerate().zip(lines.iter_mut()) {
        match entry {
            Entry::Opaque { pcr, digests, .. } => {
                *line = Line::redacted(*pcr, digests);
                extensions.redacted(at, *pcr, digests);
            }
            Entry::Full(record) => match ListEntry::from_canonical(first + at as u64, record.as_slice()) {
                Ok(entry) => readable.push((at, entry)),
                Err(error) => *line = Line::unreadable(&error),
            },
        }
    }
    extensions.compute(banks, readable.iter().map(|(at, entry)| (*at, entry)));
    for (at, entry) in &readable {
        if let Some(line) = lines.get_mut(*at) {
            *line = Line::of(entry, extensions.listed(*at));
        }
    }
    extensions
}

/// Places of those of the first `len` lines for which something holds, in order.
pub(crate) fn places(lines: &[Line], len: usize, holds: impl Fn(&Line) -> bool + Sync) -> Vec<usize> {
    let lines = lines.get(..len).unwrap_or(lines);
    let all = lines.par_iter().enumerate().with_min_len(BATCH);
    all.filter(|(_, line)| holds(line)).map(|(at, _)| at).collect()
}

impl Digests {
    fn batch(&self, index: usize) -> Option<(&Extensions, usize)> {
        Some((self.batches.get(index / BATCH)?, index % BATCH))
    }

    /// The template digest of entry `index` in `bank`, where it is known; the bytes.
    pub(crate) fn digest(&self, index: usize, bank: Bank) -> Option<&[u8]> {
        let (batch, at) = self.batch(index)?;
        batch.digest(at, bank)
    }

    /// Whether a kernel may have had this digest for entry `index`: the bank's own, or a padded SHA-1.
    /// Source: security/integrity/ima/ima_crypto.c, `ima_calc_field_array_hash`.
    pub(crate) fn has(&self, index: usize, digest: &Digest) -> bool {
        let is_padded = || {
            let padded = padded_sha1(digest);
            padded.is_some() && padded == self.digest(index, Bank::Sha1)
        };
        self.digest(index, digest.bank()) == Some(digest.bytes()) || is_padded()
    }

    /// Extends a register of its own with these entries, until one of them extends what is not known: that
    /// one's index.
    pub(crate) fn extend(&self, entries: Range<usize>, register: &mut Register) -> Result<(), usize> {
        for index in entries {
            let (batch, at) = self.batch(index).ok_or(index)?;
            let pcr = batch.pcr(at).ok_or(index)?;
            if pcr == IMA_PCR {
                batch.extend(at, register).ok_or(index)?;
            }
        }
        Ok(())
    }
}

impl<'a> Line<'a> {
    fn unreadable(error: &Error) -> Line<'a> {
        Line {
            problem: Some(error.to_string().into()),
            ..Line::default()
        }
    }

    fn redacted(pcr: u32, digests: &[Digest]) -> Line<'a> {
        let zeros = digests.iter().filter(|d| d.is_zero()).count();
        let is_mixed = zeros > 0 && zeros < digests.len();
        Line {
            pcr: Some(pcr),
            violation: zeros > 0,
            problem: is_mixed
                .then(|| "a redacted entry is a violation in one bank and none in another".into()),
            ..Line::default()
        }
    }

    fn of(entry: &ListEntry<&'a [u8]>, listed: Option<Listed>) -> Line<'a> {
        let mut line = Line {
            pcr: Some(entry.pcr()),
            violation: entry.is_violation(),
            template: Some(entry.name_of_template()),
            ..Line::default()
        };
        match listed {
            Some(Listed::Violation | Listed::Matches(_) | Listed::PaddedSha1(_)) => {}
            Some(Listed::Differs) | None => {
                line.problem =
                    Some("the digest that the list shows is not that of the entry's own bytes".into());
            }
        }
        let mut taken = line.clone();
        match entry.fields_of_record(Templates::builtin(), |field| {
            taken.take(field.field, field.value())
        }) {
            Err(error) => line.problem = Some(error.to_string().into()),
            Ok(()) => line = taken,
        }
        line
    }

    fn take(&mut self, field: Field, value: cgpath_evidence::Result<Value<'a>>) {
        match (field, value) {
            (_, Err(error)) => self.problem = Some(error.to_string().into()),
            (Field::N | Field::NNg, Ok(Value::Text(text))) => self.path = Some(text),
            (Field::CgPath, Ok(Value::Text(text))) => self.cgroup = Some(unescaped(text)),
            (Field::Dep, Ok(Value::Text(text))) => self.dep = Some(text),
            (Field::D | Field::DNg | Field::DNgV2, Ok(Value::Digest(digest))) => {
                if self.violation && digest.bytes.iter().any(|b| *b != 0) {
                    self.problem =
                        Some("a violation carries a file hash: the entry was made to look like one".into());
                }
                // fs-verity's digest is not that of the content, so no reference value speaks of it.
                if digest.kind != Some(DigestKind::Verity) {
                    self.file = digest.digest();
                }
            }
            (_, Ok(_)) => {}
        }
    }

    /// Whether [`Line::check`] says nothing.
    pub(crate) fn is_whole(&self) -> bool {
        self.problem.is_none()
    }

    /// V2: the entry is whole and the digest it shows is its own.
    pub(crate) fn check(&self, index: usize, findings: &mut Findings) {
        if let Some(problem) = &self.problem {
            findings.push(
                Finding::fail(Rule::Coverage, Subject::Node, problem.to_string())
                    .at_index(index)
                    .at_path(self.path.unwrap_or_default()),
            );
        }
    }
}

/// The SHA-1 digest in a digest of another bank that is one and zeros.
pub(crate) fn padded_sha1(digest: &Digest) -> Option<&[u8]> {
    let (sha1, rest) = digest.bytes().split_at_checked(Bank::Sha1.len())?;
    (digest.bank() != Bank::Sha1 && rest.iter().all(|b| *b == 0)).then_some(sha1)
}

/// Whether the list begins as a boot's list does, as far as that can be read.
pub fn is_whole(list: &[Entry]) -> bool {
    match list.first() {
        Some(Entry::Full(record)) => ListEntry::from_canonical(0, record.as_slice())
            .is_ok_and(|entry| entry.file_name() == Some(BOOT_AGGREGATE)),
        Some(Entry::Opaque { .. }) => true,
        None => false,
    }
}
