//! The measurement list as the rules look at it: decoded once, with the digests that joins and replays need.
//!
//! Promise: an entry that cannot be decoded or was redacted stays in its place, so that indexes are the list's own; what
//! could not be read of it is absent, and every rule that needs it fails. Nothing is copied that the evidence holds.

use super::finding::{Finding, Findings, Rule, Subject};
use evidence::{
    Bank, Digest, Entry, Error, Evidence,
    list::{DigestKind, Field, ListEntry, Listed, Templates, Value, unescaped},
    replay::{Extension, Register, extensions},
};
use rayon::prelude::*;
use std::borrow::Cow;

/// Entries whose digests are computed side by side, by one thread.
const BATCH: usize = 512;

/// One entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line<'a> {
    /// The register that it extends; absent where the entry cannot be read.
    pub pcr: Option<u32>,
    /// Its digest is all zero. That this is a violation and not another entry made to look like one, only the register
    /// tells.
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
    /// Template digests by bank, computed here; of a redacted entry those it states. Absent where the entry cannot be read.
    extension: Option<Extension>,
    /// What is wrong with it.
    problem: Option<String>,
}

/// Decodes the list, with template digests in all banks of the records and of what may be quoted.
pub(crate) fn lines(evidence: &Evidence) -> Vec<Line<'_>> {
    let mut banks: Vec<Bank> = vec![Bank::Sha1, Bank::Sha256];
    for record in evidence.partitions.iter().flat_map(|log| &log.records) {
        for bank in record.digests.iter().map(Digest::bank) {
            if !banks.contains(&bank) {
                banks.push(bank);
            }
        }
    }
    banks.extend(super::quote::banks(&evidence.quote.attest));
    banks.sort_unstable();
    banks.dedup();
    lines_of(&evidence.list, &banks)
}

/// The same for entries alone, with template digests in these banks.
pub(crate) fn lines_of<'a>(list: &'a [Entry], banks: &[Bank]) -> Vec<Line<'a>> {
    if list.len() <= BATCH {
        let mut lines = vec![Line::default(); list.len()];
        read(0, list, banks, &mut lines);
        return lines;
    }
    // Their memory is first touched here: that is worth more than one thread, too.
    let mut lines: Vec<Line<'a>> = list.par_iter().map(|_| Line::default()).collect();
    list.par_chunks(BATCH)
        .zip(lines.par_chunks_mut(BATCH))
        .enumerate()
        .for_each(|(n, (batch, lines))| read((n * BATCH) as u64, batch, banks, lines));
    lines
}

/// One entry of which only the record is at hand.
pub(crate) fn line_of<'a>(index: u64, record: &'a [u8], banks: &[Bank]) -> Line<'a> {
    match ListEntry::from_canonical(index, record) {
        Ok(entry) => extensions(banks, core::slice::from_ref(&entry))
            .pop()
            .map(|extended| Line::of(&entry, extended))
            .unwrap_or_default(),
        Err(error) => Line::unreadable(&error),
    }
}

/// Reads entries into as many lines.
fn read<'a>(first: u64, batch: &'a [Entry], banks: &[Bank], lines: &mut [Line<'a>]) {
    let mut readable: Vec<ListEntry<&'a [u8]>> = Vec::with_capacity(batch.len());
    let mut places: Vec<&mut Line<'a>> = Vec::with_capacity(batch.len());
    for ((index, entry), line) in (first..).zip(batch).zip(lines) {
        match entry {
            Entry::Opaque { pcr, digests } => *line = Line::redacted(*pcr, digests),
            Entry::Full(record) => match ListEntry::from_canonical(index, record.as_slice()) {
                Ok(entry) => {
                    readable.push(entry);
                    places.push(line);
                }
                Err(error) => *line = Line::unreadable(&error),
            },
        }
    }
    let extended = extensions(banks, &readable);
    for ((entry, extended), line) in readable.iter().zip(extended).zip(places) {
        *line = Line::of(entry, extended);
    }
}

impl<'a> Line<'a> {
    fn unreadable(error: &Error) -> Line<'a> {
        Line {
            problem: Some(error.to_string()),
            ..Line::default()
        }
    }

    fn redacted(pcr: u32, digests: &[Digest]) -> Line<'a> {
        let zeros = digests.iter().filter(|d| d.is_zero()).count();
        let is_mixed = zeros > 0 && zeros < digests.len();
        Line {
            pcr: Some(pcr),
            violation: zeros > 0,
            extension: Some(Extension::redacted(pcr, digests)),
            problem: is_mixed
                .then(|| "a redacted entry is a violation in one bank and none in another".to_owned()),
            ..Line::default()
        }
    }

    fn of(entry: &ListEntry<&'a [u8]>, (extension, listed): (Extension, Listed)) -> Line<'a> {
        let mut line = Line {
            pcr: Some(entry.pcr()),
            violation: entry.is_violation(),
            template: Some(entry.name_of_template()),
            extension: Some(extension),
            ..Line::default()
        };
        match listed {
            Listed::Differs => {
                line.problem =
                    Some("the digest that the list shows is not that of the entry's own bytes".into());
            }
            Listed::Violation | Listed::Matches(_) | Listed::PaddedSha1(_) => {}
        }
        match entry.fields_of_record(Templates::builtin()) {
            Err(error) => line.problem = Some(error.to_string()),
            Ok(fields) => {
                for field in fields {
                    line.take(field.field, field.value());
                }
            }
        }
        line
    }

    fn take(&mut self, field: Field, value: evidence::Result<Value<'a>>) {
        match (field, value) {
            (_, Err(error)) => self.problem = Some(error.to_string()),
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
                Finding::fail(Rule::V2, Subject::Node, problem.clone())
                    .at_index(index)
                    .at_path(self.path.unwrap_or_default()),
            );
        }
    }

    /// Extends a register of its own with this entry; `None` if what it extends is not known.
    pub(crate) fn extend(&self, register: &mut Register) -> Option<()> {
        let extension = self.extension.as_ref()?;
        if extension.pcr() == super::coverage::PCR {
            register.take(extension)?;
        }
        Some(())
    }

    /// Its template digest in `bank`, where it is known; the bytes.
    pub(crate) fn digest(&self, bank: Bank) -> Option<&[u8]> {
        self.extension.as_ref()?.bytes(bank)
    }

    /// Whether a kernel may have had this digest for this entry: the bank's own, or a padded SHA-1.
    /// Source: security/integrity/ima/ima_crypto.c, `ima_calc_field_array_hash`.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        let is_padded = || {
            let padded = padded_sha1(digest);
            padded.is_some() && padded == self.digest(Bank::Sha1)
        };
        self.digest(digest.bank()) == Some(digest.bytes()) || is_padded()
    }
}

/// The SHA-1 digest in a digest of another bank that is one and zeros.
pub(crate) fn padded_sha1(digest: &Digest) -> Option<&[u8]> {
    let (sha1, rest) = digest.bytes().split_at_checked(Bank::Sha1.len())?;
    (digest.bank() != Bank::Sha1 && rest.iter().all(|b| *b == 0)).then_some(sha1)
}
