//! The measurement list as the rules look at it: decoded once, with the digests that joins and replays need.
//!
//! Promise: an entry that cannot be decoded or was redacted stays in its place, so that indexes are the list's own; what
//! could not be read of it is absent, and every rule that needs it fails.

use super::finding::{Finding, Findings, Rule, Subject};
use evidence::{
    Bank, Digest, Entry, Evidence,
    list::{DigestKind, Field, ListEntry, Listed, Templates, Value, unescaped},
};

/// One entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    /// The register that it extends; absent where the entry cannot be read.
    pub pcr: Option<u32>,
    /// Its digest is all zero. That this is a violation and not another entry made to look like one, only the register
    /// tells.
    pub violation: bool,
    /// The template's name; absent in a redacted entry.
    pub template: Option<Vec<u8>>,
    /// The file's name as the list has it: spaces are `_`.
    pub path: Option<Vec<u8>>,
    /// The content hash, where its algorithm is one that policies name.
    pub file: Option<Digest>,
    /// The cgroup's path, where the kernel wrote it; its escapes are taken back.
    pub cgroup: Option<Vec<u8>>,
    /// The ancestry, where the kernel wrote it; escaped, as a colon within a name would part it.
    pub dep: Option<Vec<u8>>,
    /// Template digests by bank, computed here; of a redacted entry those it states.
    computed: Vec<Digest>,
    /// What is wrong with it.
    problem: Option<String>,
}

/// Decodes the list, with template digests in all banks of the records and of what may be quoted.
pub(crate) fn lines(evidence: &Evidence) -> Vec<Line> {
    let mut banks: Vec<Bank> = vec![Bank::Sha1, Bank::Sha256];
    let records = evidence.partitions.iter().flat_map(|log| &log.records);
    banks.extend(records.flat_map(|record| &record.digests).map(Digest::bank));
    banks.extend(super::quote::banks(&evidence.quote.attest));
    banks.sort_unstable();
    banks.dedup();
    lines_of(&evidence.list, &banks)
}

/// The same for entries alone, with template digests in these banks.
pub(crate) fn lines_of(list: &[Entry], banks: &[Bank]) -> Vec<Line> {
    let templates = Templates::builtin();
    list.iter()
        .enumerate()
        .map(|(index, entry)| Line::new(index as u64, entry, banks, templates))
        .collect()
}

impl Line {
    pub(crate) fn new(index: u64, entry: &Entry, banks: &[Bank], templates: &Templates) -> Line {
        match entry {
            Entry::Opaque { pcr, digests } => {
                let zeros = digests.iter().filter(|d| d.is_zero()).count();
                let mut line = Line {
                    pcr: Some(*pcr),
                    violation: zeros > 0,
                    computed: digests.clone(),
                    ..Line::default()
                };
                if zeros > 0 && zeros < digests.len() {
                    line.problem =
                        Some("a redacted entry is a violation in one bank and none in another".into());
                }
                line
            }
            Entry::Full(record) => match ListEntry::from_canonical(index, record.as_slice()) {
                Ok(entry) => Line::of(&entry, banks, templates),
                Err(error) => Line {
                    problem: Some(error.to_string()),
                    ..Line::default()
                },
            },
        }
    }

    fn of(entry: &ListEntry<&[u8]>, banks: &[Bank], templates: &Templates) -> Line {
        let mut line = Line {
            pcr: Some(entry.pcr()),
            violation: entry.is_violation(),
            template: Some(entry.template_name().to_vec()),
            computed: banks.iter().map(|bank| entry.template_digest(*bank)).collect(),
            ..Line::default()
        };
        match entry.listed() {
            Listed::Differs => {
                line.problem =
                    Some("the digest that the list shows is not that of the entry's own bytes".into());
            }
            Listed::Violation | Listed::Matches(_) | Listed::PaddedSha1(_) => {}
        }
        match entry.fields(templates) {
            Err(error) => line.problem = Some(error.to_string()),
            Ok(fields) => {
                for field in fields {
                    line.take(field.field, field.value());
                }
            }
        }
        line
    }

    fn take(&mut self, field: Field, value: evidence::Result<Value<'_>>) {
        match (field, value) {
            (_, Err(error)) => self.problem = Some(error.to_string()),
            (Field::N | Field::NNg, Ok(Value::Text(text))) => self.path = Some(text.to_vec()),
            (Field::CgPath, Ok(Value::Text(text))) => self.cgroup = Some(unescaped(text).into_owned()),
            (Field::Dep, Ok(Value::Text(text))) => self.dep = Some(text.to_vec()),
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
                    .at_path(self.path.as_deref().unwrap_or_default()),
            );
        }
    }

    fn stated(&self, bank: Bank) -> Option<&Digest> {
        self.computed.iter().find(|d| d.bank() == bank)
    }

    fn padded(&self, bank: Bank) -> Option<Digest> {
        let mut bytes = self.stated(Bank::Sha1)?.bytes().to_vec();
        bytes.resize(bank.len(), 0);
        Digest::new(bank, &bytes)
    }

    /// The digests that a kernel may have had for this entry in `bank`: the bank's own, or a padded SHA-1.
    /// Source: security/integrity/ima/ima_crypto.c, `ima_calc_field_array_hash`.
    pub(crate) fn digests(&self, bank: Bank) -> Vec<Digest> {
        let padded = if bank == Bank::Sha1 {
            None
        } else {
            self.padded(bank)
        };
        self.stated(bank).cloned().into_iter().chain(padded).collect()
    }
}
