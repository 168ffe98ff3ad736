//! V2: the longest prefix of the list whose replay gives the quoted registers.
//!
//! Promise: registers are extended with digests computed here, never with those that the list claims. IMA appends to
//! the list first and extends second, so a list that was read after the quote may be ahead of it, never behind.
//! Source: security/integrity/ima/ima_queue.c, `ima_add_template_entry`.

use super::{
    context::NodeState,
    finding::{Finding, Findings, Rule, Subject},
    quote::Quoted,
    view::Line,
};
use evidence::{
    Bank, Digest, Entry,
    list::ListEntry,
    replay::{self, Fill, Register},
};
use policy::{PaddedBanks, Policy};

/// The register that IMA extends by default, the only one that evidence is anchored in.
pub(crate) const PCR: u32 = evidence::quoted::IMA_PCR;

/// How many extends a failed replay may spend to name an entry that was listed and never extended.
const DIAGNOSIS_BUDGET: usize = 500_000;

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

/// The ways in which a kernel can have made what it extended into these banks, the usual one first. Since 5.8 each bank
/// is hashed or padded for itself; before, all but SHA-1 were padded throughout.
fn fillings(banks: &[Bank]) -> Vec<Vec<Fill>> {
    let mut all = vec![Vec::new()];
    for bank in banks {
        let ways: &[Fill] = if *bank == Bank::Sha1 {
            &[Fill::Hashed]
        } else {
            &[Fill::Hashed, Fill::PaddedSha1]
        };
        all = ways
            .iter()
            .flat_map(|way| all.iter().map(|fills| [fills.as_slice(), &[*way]].concat()))
            .collect();
    }
    let old = |bank: &Bank| {
        if *bank == Bank::Sha1 {
            Fill::Hashed
        } else {
            Fill::PaddedSha1Throughout
        }
    };
    all.push(banks.iter().map(old).collect());
    all
}

/// The registers before the first entry and after each one, as far as the list can be replayed.
fn registers<'a>(
    list: &'a [Entry],
    banks: &[Bank],
    fills: &[Fill],
) -> impl Iterator<Item = Vec<Digest>> + 'a {
    let mut lanes: Vec<_> = banks
        .iter()
        .zip(fills)
        .map(|(bank, fill)| replay::values(list, PCR, *bank, *fill))
        .collect();
    core::iter::from_fn(move || {
        lanes
            .iter_mut()
            .map(|lane| lane.next()?.ok())
            .collect::<Option<Vec<Digest>>>()
    })
    .take(if banks.is_empty() { 0 } else { list.len() + 1 })
}

/// The longest prefix that gives the quoted digest, and the registers after it.
fn longest(list: &[Entry], quoted: &Quoted, fills: &[Fill]) -> Option<(usize, Vec<Digest>)> {
    registers(list, &quoted.banks, fills)
        .enumerate()
        .filter(|(_, pcrs)| quoted.is_of(pcrs))
        .last()
}

/// The entry without which the rest of the list gives the quoted digest, if it is among the latest ones.
fn never_extended(list: &[Entry], quoted: &Quoted) -> Option<usize> {
    let entries: Vec<ListEntry<&[u8]>> = list
        .iter()
        .map_while(|entry| match entry {
            Entry::Full(record) => ListEntry::from_canonical(0, record.as_slice()).ok(),
            Entry::Opaque { .. } => None,
        })
        .collect();
    let push = |registers: &mut [Register], entry: &ListEntry<&[u8]>| {
        if entry.pcr() == PCR {
            registers.iter_mut().for_each(|register| register.push(entry));
        }
    };
    let is_quoted = |registers: &[Register]| {
        quoted.is_of(&registers.iter().map(Register::value).collect::<Vec<Digest>>())
    };
    let (mut from, mut spent) = (entries.len(), 0);
    while from > 0 && spent + (entries.len() - from) <= DIAGNOSIS_BUDGET {
        spent += entries.len() - from;
        from -= 1;
    }
    let mut before: Vec<Register> = quoted
        .banks
        .iter()
        .map(|bank| Register::new(*bank, Fill::Hashed))
        .collect();
    entries
        .iter()
        .take(from)
        .for_each(|entry| push(&mut before, entry));
    for (index, skipped) in entries.iter().enumerate().skip(from) {
        let mut registers = before.clone();
        for entry in entries.iter().skip(index + 1) {
            push(&mut registers, entry);
            if is_quoted(&registers) {
                return Some(index);
            }
        }
        push(&mut before, skipped);
    }
    None
}

pub(crate) fn check(
    list: &[Entry],
    lines: &[Line],
    quoted: &Quoted,
    policy: &Policy,
    findings: &mut Findings,
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
    for fills in fillings(banks) {
        let Some((entries, pcrs)) = longest(list, quoted, &fills) else {
            continue;
        };
        let padded: Vec<Bank> = banks
            .iter()
            .zip(&fills)
            .filter(|(_, fill)| **fill != Fill::Hashed)
            .map(|(bank, _)| *bank)
            .collect();
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
    let finding = match never_extended(list, quoted) {
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
        None if !crate::follow::is_whole(list) => fail(
            "the list was cut: it does not begin with boot_aggregate (a kernel with CONFIG_IMA_STAGING lets entries be taken away), and what is missing is not kept here",
        ),
        None => fail(
            "no prefix of the list replays to the quoted register: entries were altered, removed or reordered, or the list is behind the quote",
        ),
    };
    findings.push(finding);
    None
}

/// V4: within a boot coverage never shrinks, and what was covered is still the same.
pub(crate) fn continues(list: &[Entry], coverage: &Coverage, before: &NodeState, findings: &mut Findings) {
    let fail = |text: &str| Finding::fail(Rule::V4, Subject::Node, text);
    let Some(covered) = usize::try_from(before.covered)
        .ok()
        .filter(|n| *n <= coverage.entries)
    else {
        findings.push(
            fail("the quote covers less than the one before it")
                .found(format!("{} entries", coverage.entries))
                .expected(format!("at least {}", before.covered)),
        );
        return;
    };
    let banks: Vec<Bank> = before.pcrs.iter().map(Digest::bank).collect();
    let is_same = fillings(&banks).iter().any(|fills| {
        registers(list, &banks, fills)
            .nth(covered)
            .is_some_and(|pcrs| pcrs == before.pcrs)
    });
    if !is_same {
        findings.push(fail(
            "the part of the list that was covered before is another one now",
        ));
    }
}
