//! V2: the longest prefix of the list whose replay gives the quoted registers.
//!
//! Promise: registers are extended with digests computed here, never with those that the list claims. IMA appends to
//! the list first and extends second, so a list that was read after the quote may be ahead of it, never behind.
//! Source: security/integrity/ima/ima_queue.c, `ima_add_template_entry`.

use super::{
    context::NodeState,
    finding::{Finding, Rule, Subject},
    quote::Quoted,
    view::Line,
};
use evidence::{Bank, Digest};
use policy::{PaddedBanks, Policy};

/// The register that IMA extends by default, the only one that evidence is anchored in.
pub(crate) const PCR: u32 = 10;

/// How many extends a failed replay may spend to name an entry that was listed and never extended.
const DIAGNOSIS_BUDGET: usize = 4_000_000;

/// What the quote covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// Length of the covered prefix, in entries.
    pub entries: usize,
    /// PCR 10 after it, in each quoted bank.
    pub pcrs: Vec<Digest>,
    /// Quoted banks in which the kernel extended a padded SHA-1.
    pub padded: Vec<Bank>,
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::V2, Subject::Node, text)
}

/// One way to replay: the quoted banks, and which of them are padded.
struct Replay<'a> {
    banks: &'a [Bank],
    padded: &'a [Bank],
}

impl Replay<'_> {
    fn start(&self) -> Vec<Digest> {
        self.banks.iter().map(|bank| Digest::zero(*bank)).collect()
    }

    /// Extends all banks by one entry; `None` if a digest that is needed is not there.
    fn step(&self, pcrs: &mut [Digest], line: &Line) -> Option<()> {
        let pcr = line.pcr?;
        if pcr != PCR {
            return Some(());
        }
        for pcr in pcrs {
            let bank = pcr.bank();
            *pcr = pcr.extend(&line.extension(bank, self.padded.contains(&bank))?);
        }
        Some(())
    }

    /// The longest prefix that gives the quoted digest, and the registers after it.
    fn longest(&self, lines: &[Line], quoted: &Quoted) -> Option<(usize, Vec<Digest>)> {
        let mut pcrs = self.start();
        let mut found = quoted.is_of(&pcrs).then(|| (0, pcrs.clone()));
        for (index, line) in lines.iter().enumerate() {
            if self.step(&mut pcrs, line).is_none() {
                break;
            }
            if quoted.is_of(&pcrs) {
                found = Some((index + 1, pcrs.clone()));
            }
        }
        found
    }

    fn after(&self, lines: &[Line]) -> Option<Vec<Digest>> {
        let mut pcrs = self.start();
        lines.iter().try_for_each(|line| self.step(&mut pcrs, line))?;
        Some(pcrs)
    }

    /// The entry without which the rest of the list gives the quoted digest, if it is among the latest ones.
    fn never_extended(&self, lines: &[Line], quoted: &Quoted) -> Option<usize> {
        let mut spent = 0;
        let mut from = lines.len();
        while from > 0 && spent + (lines.len() - from) <= DIAGNOSIS_BUDGET {
            spent += lines.len() - from;
            from -= 1;
        }
        let mut before = self.after(lines.get(..from)?)?;
        for index in from..lines.len() {
            let mut pcrs = before.clone();
            let mut rest = lines.get(index + 1..)?.iter();
            loop {
                if quoted.is_of(&pcrs) {
                    return Some(index);
                }
                match rest.next() {
                    Some(line) => self.step(&mut pcrs, line)?,
                    None => break,
                }
            }
            self.step(&mut before, lines.get(index)?)?;
        }
        None
    }
}

/// All subsets of the banks that a kernel can pad, the empty one first.
fn paddings(banks: &[Bank]) -> Vec<Vec<Bank>> {
    let mut all = vec![Vec::new()];
    for bank in banks.iter().filter(|bank| **bank != Bank::Sha1) {
        let with: Vec<Vec<Bank>> = all
            .iter()
            .map(|set| [set.as_slice(), &[*bank]].concat())
            .collect();
        all.extend(with);
    }
    all
}

pub(crate) fn check(
    lines: &[Line],
    quoted: &Quoted,
    policy: &Policy,
    findings: &mut Vec<Finding>,
) -> Option<Coverage> {
    let banks = &quoted.banks;
    for bank in &policy.file.accept.banks {
        if !banks.contains(bank) {
            findings.push(fail(format!(
                "PCR {PCR} was not quoted in the bank {bank}, which the policy wants"
            )));
        }
    }
    for bank in banks {
        if !policy.file.accept.banks.contains(bank) {
            findings.push(Finding::note(
                Rule::V2,
                Subject::Node,
                format!("PCR {PCR} was also quoted in the bank {bank}, which the policy does not ask for"),
            ));
        }
    }
    for (index, line) in lines.iter().enumerate() {
        line.check(index, findings);
    }
    for padded in paddings(banks) {
        let replay = Replay {
            banks,
            padded: &padded,
        };
        let Some((entries, pcrs)) = replay.longest(lines, quoted) else {
            continue;
        };
        for bank in &padded {
            let text = format!(
                "the kernel extended a padded SHA-1 in the bank {bank}: it had no such hash when it booted"
            );
            findings.push(match policy.file.padded_banks {
                PaddedBanks::Deny => fail(text),
                PaddedBanks::Report => Finding::tolerated(Rule::V2, Subject::Node, text),
            });
        }
        for (index, line) in lines.iter().enumerate().take(entries) {
            if line.pcr.is_some_and(|pcr| pcr != PCR) {
                let found = line.pcr.unwrap_or_default();
                findings.push(
                    fail("an entry extends a register that is not quoted, so nothing vouches for it")
                        .at_index(index)
                        .at_path(line.path.as_deref().unwrap_or_default())
                        .found(format!("PCR {found}"))
                        .expected(format!("PCR {PCR}")),
                );
            }
        }
        return Some(Coverage {
            entries,
            pcrs,
            padded,
        });
    }
    let replay = Replay { banks, padded: &[] };
    let finding = match replay.never_extended(lines, quoted) {
        Some(index) => {
            fail("extend-lost: the entry stands in the list and the register was never extended with it")
                .at_index(index)
                .at_path(
                    lines
                        .get(index)
                        .and_then(|line| line.path.as_deref())
                        .unwrap_or_default(),
                )
        }
        None => fail(
            "no prefix of the list replays to the quoted register: entries were altered, removed or reordered, or the list is behind the quote",
        ),
    };
    findings.push(finding);
    None
}

/// V4: within a boot coverage never shrinks, and what was covered is still the same.
pub(crate) fn continues(
    lines: &[Line],
    coverage: &Coverage,
    before: &NodeState,
    findings: &mut Vec<Finding>,
) {
    let fail = |text: &str| Finding::fail(Rule::V4, Subject::Node, text);
    let Some(prefix) = usize::try_from(before.covered)
        .ok()
        .filter(|n| *n <= coverage.entries)
        .and_then(|n| lines.get(..n))
    else {
        findings.push(
            fail("the quote covers less than the one before it")
                .found(format!("{} entries", coverage.entries))
                .expected(format!("at least {}", before.covered)),
        );
        return;
    };
    let banks: Vec<Bank> = before.pcrs.iter().map(Digest::bank).collect();
    let same = paddings(&banks).iter().any(|padded| {
        Replay {
            banks: &banks,
            padded,
        }
        .after(prefix)
        .is_some_and(|pcrs| pcrs == before.pcrs)
    });
    if !same || banks.is_empty() {
        findings.push(fail(
            "the part of the list that was covered before is another one now",
        ));
    }
}
