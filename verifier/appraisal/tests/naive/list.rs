//! The list as the naive appraisal looks at it, and its replay: one entry after the other, every digest in
//! every bank.

use cgpath_evidence::list::{DigestKind, Field, ListEntry, Listed, Templates, Value, unescaped};
use cgpath_evidence::quoted::QuotedRegisters;
use cgpath_evidence::{Bank, Digest, Entry, PartitionKey, Record, cgroup::partition_of};

/// One entry; what cannot be read of it is absent.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// It can be read, and the digest that it shows is its own.
    pub whole: bool,
    pub pcr: Option<u32>,
    pub violation: bool,
    pub template: Option<Vec<u8>>,
    pub path: Vec<u8>,
    pub file: Option<Digest>,
    pub cgroup: Option<Vec<u8>>,
    pub dep: Vec<u8>,
    digests: Vec<Digest>,
}

impl Line {
    pub fn read(entry: &Entry) -> Line {
        match entry {
            Entry::Opaque { pcr, digests, .. } => Line {
                whole: digests.iter().all(Digest::is_zero) || !digests.iter().any(Digest::is_zero),
                pcr: Some(*pcr),
                violation: digests.iter().any(Digest::is_zero),
                digests: digests.clone(),
                ..Line::default()
            },
            Entry::Full(bytes) => match ListEntry::from_canonical(0, bytes.as_slice()) {
                Ok(entry) => Line::full(&entry),
                Err(_) => Line::default(),
            },
        }
    }

    fn full(entry: &ListEntry<&[u8]>) -> Line {
        let bare = Line {
            whole: entry.listed() != Listed::Differs,
            pcr: Some(entry.pcr()),
            violation: entry.is_violation(),
            template: Some(entry.template_name().to_vec()),
            digests: Bank::ALL.map(|bank| entry.template_digest(bank)).to_vec(),
            ..Line::default()
        };
        let Ok(fields) = entry.fields(Templates::builtin()) else {
            return Line { whole: false, ..bare };
        };
        let mut line = bare;
        for field in fields {
            match (field.field, field.value()) {
                (Field::N | Field::NNg, Ok(Value::Text(text))) => line.path = text.to_vec(),
                (Field::CgPath, Ok(Value::Text(text))) => line.cgroup = Some(unescaped(text).to_vec()),
                (Field::Dep, Ok(Value::Text(text))) => line.dep = text.to_vec(),
                (Field::D | Field::DNg | Field::DNgV2, Ok(Value::Digest(digest))) => {
                    line.whole &= !line.violation || digest.bytes.iter().all(|byte| *byte == 0);
                    if digest.kind != Some(DigestKind::Verity) {
                        line.file = digest.digest();
                    }
                }
                (_, value) => line.whole &= value.is_ok(),
            }
        }
        line
    }

    fn digest(&self, bank: Bank) -> Option<&Digest> {
        self.digests.iter().find(|digest| digest.bank() == bank)
    }

    /// Whether a record can be about this entry: nothing that it says of it is otherwise.
    pub fn is_of(&self, record: &Record) -> bool {
        let has = |digest: &Digest| {
            let padded =
                |sha1: &Digest| digest.bank() != Bank::Sha1 && pad(sha1.bytes(), digest.bank()) == *digest;
            self.digest(digest.bank()) == Some(digest) || self.digest(Bank::Sha1).is_some_and(padded)
        };
        !self.violation && self.pcr == Some(record.pcr) && record.digests.iter().all(has)
    }

    /// Whose it is by what stands in itself.
    pub fn owner(&self) -> PartitionKey {
        partition_of(self.cgroup.as_deref())
    }

    /// What the register is extended with; `None` if that is not known.
    fn extension(&self, bank: Bank, fill: Fill) -> Option<Digest> {
        match (self.violation, fill) {
            (true, Fill::PaddedThroughout) => Some(pad(Digest::ones(Bank::Sha1).bytes(), bank)),
            (true, _) => Some(Digest::ones(bank)),
            (false, Fill::Hashed) => self.digest(bank).cloned(),
            (false, _) => Some(pad(self.digest(Bank::Sha1)?.bytes(), bank)),
        }
    }
}

fn pad(bytes: &[u8], bank: Bank) -> Digest {
    let mut bytes = bytes.to_vec();
    bytes.resize(bank.len(), 0);
    Digest::new(bank, &bytes).unwrap()
}

/// What a kernel extends into a bank: its own hash, or a SHA-1 and zeros (before Linux 5.8 for violations,
/// too).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    Hashed,
    Padded,
    PaddedThroughout,
}

/// All ways in which these banks can have been filled, the usual one first.
pub fn fills(banks: &[Bank]) -> Vec<Vec<Fill>> {
    let padded = |bank: &Bank, fill| if *bank == Bank::Sha1 { Fill::Hashed } else { fill };
    let mut all: Vec<Vec<Fill>> = (0..1u32 << banks.len())
        .map(|bits| {
            let fill = |n: usize| {
                if bits >> n & 1 == 1 {
                    Fill::Padded
                } else {
                    Fill::Hashed
                }
            };
            banks
                .iter()
                .enumerate()
                .map(|(n, bank)| padded(bank, fill(n)))
                .collect()
        })
        .collect();
    all.push(
        banks
            .iter()
            .map(|bank| padded(bank, Fill::PaddedThroughout))
            .collect(),
    );
    all
}

/// PCR 10 in these banks after the first `len` entries.
pub fn registers(lines: &[Line], len: usize, banks: &[Bank], fills: &[Fill]) -> Option<Vec<Digest>> {
    let register = |(bank, fill): (&Bank, &Fill)| {
        let mut value = Digest::zero(*bank);
        for line in lines.get(..len)? {
            if line.pcr? == 10 {
                value = value.extend(&line.extension(*bank, *fill)?);
            }
        }
        Some(value)
    };
    banks.iter().zip(fills).map(register).collect()
}

/// The longest prefix that replays to what was quoted, and how its banks were filled.
pub fn covered(lines: &[Line], quoted: &QuotedRegisters) -> Option<(usize, Vec<Fill>)> {
    let banks: Vec<Bank> = quoted.banks().collect();
    if banks.is_empty() {
        return None;
    }
    let fits = |len: usize, fills: &[Fill]| {
        registers(lines, len, &banks, fills).is_some_and(|values| quoted.is_with(&values))
    };
    fills(&banks).into_iter().find_map(|fills| {
        let len = (0..=lines.len()).rev().find(|len| fits(*len, &fills))?;
        Some((len, fills))
    })
}
