//! V2: the longest prefix of the list whose replay gives the quoted registers.
//!
//! Promise: registers are extended with digests computed here, never with those that the list claims. IMA appends to
//! the list first and extends second, so a list that was read after the quote may be ahead of it, never behind.
//! Source: security/integrity/ima/ima_queue.c, `ima_add_template_entry`.

use super::{
    context::NodeState,
    finding::{Finding, Findings, Rule, Subject},
    quote::Quoted,
    view::{self, Digests, View},
};
use evidence::{
    Bank, Digest, Entry,
    replay::{Fill, Register},
};
use policy::{PaddedBanks, Policy};
use rayon::prelude::*;
use std::ops::Range;

/// The register that IMA extends by default, the only one that evidence is anchored in.
pub(crate) const PCR: u32 = evidence::quoted::IMA_PCR;

/// So far behind the list's end the quote is looked for first: a list is read right after the quote, so that few entries
/// come between them.
const TAIL: usize = 4096;

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

/// A register as it is at boot.
fn at_boot(lane: (&Bank, &Fill)) -> Register {
    Register::new(*lane.0, *lane.1)
}

/// The values that a register takes on by these entries, its own first, as far as they can be replayed.
fn values(mut register: Register, digests: &Digests, entries: Range<usize>) -> Vec<Digest> {
    let mut values = vec![register.value()];
    for index in entries {
        if digests.extend(index..index + 1, &mut register).is_err() {
            break;
        }
        values.push(register.value());
    }
    values
}

/// The registers after the first `len` entries, in each bank; each bank's chain is a thread's work. `None` if one of them
/// extends what is not known.
fn registers(digests: &Digests, len: usize, banks: &[Bank], fills: &[Fill]) -> Option<Vec<Register>> {
    // The longest first, so that threads end together.
    let mut lanes: Vec<(usize, Register)> = banks.iter().zip(fills).map(at_boot).enumerate().collect();
    lanes.sort_by_key(|(_, register)| core::cmp::Reverse(register.bank().len()));
    let replay = |(place, mut register)| {
        digests.extend(0..len, &mut register).ok()?;
        Some((place, register))
    };
    // One by one: a thread that took two would have another wait.
    let lanes = lanes.into_par_iter().with_max_len(1).map(replay);
    let mut lanes: Vec<(usize, Register)> = lanes.collect::<Option<_>>()?;
    lanes.sort_by_key(|(place, _)| *place);
    Some(lanes.into_iter().map(|(_, register)| register).collect())
}

/// The longest prefix of a list of `len` entries that gives the quoted digest, and the registers after it.
fn longest(digests: &Digests, len: usize, quoted: &Quoted, fills: &[Fill]) -> Option<(usize, Vec<Digest>)> {
    if quoted.banks.is_empty() {
        return None;
    }
    let before = len.saturating_sub(TAIL);
    let Some(lanes) = registers(digests, before, &quoted.banks, fills) else {
        return any(digests, len, quoted, fills);
    };
    let lanes: Vec<Vec<Digest>> = lanes
        .into_iter()
        .map(|register| values(register, digests, before..len))
        .collect();
    let replayed = lanes.iter().map(Vec::len).min().unwrap_or_default();
    let after = |n: usize| -> Vec<Digest> { lanes.iter().filter_map(|lane| lane.get(n).cloned()).collect() };
    let found = (0..replayed).rev().find(|n| quoted.is_of(&after(*n)));
    match found {
        Some(n) => Some((before + n, after(n))),
        None if before == 0 => None,
        None => any(digests, len, quoted, fills),
    }
}

/// Extends each register with one entry; whether what it extends is known.
fn push(digests: &Digests, index: usize, registers: &mut [Register]) -> bool {
    registers
        .iter_mut()
        .all(|register| digests.extend(index..index + 1, register).is_ok())
}

/// The same, wherever it ends.
fn any(digests: &Digests, len: usize, quoted: &Quoted, fills: &[Fill]) -> Option<(usize, Vec<Digest>)> {
    let mut registers: Vec<Register> = quoted.banks.iter().zip(fills).map(at_boot).collect();
    let value = |registers: &[Register]| registers.iter().map(Register::value).collect::<Vec<Digest>>();
    let mut found = Some(value(&registers))
        .filter(|pcrs| quoted.is_of(pcrs))
        .map(|pcrs| (0, pcrs));
    for index in 0..len {
        if !push(digests, index, &mut registers) {
            break;
        }
        let pcrs = value(&registers);
        if quoted.is_of(&pcrs) {
            found = Some((index + 1, pcrs));
        }
    }
    found
}

/// The entry without which the rest of the list gives the quoted digest, if it is among the latest ones.
fn never_extended(digests: &Digests, len: usize, quoted: &Quoted) -> Option<usize> {
    let fresh = |bank: &Bank| Register::new(*bank, Fill::Hashed);
    let mut before: Vec<Register> = quoted.banks.iter().map(fresh).collect();
    let is_quoted = |registers: &[Register]| {
        quoted.is_of(&registers.iter().map(Register::value).collect::<Vec<Digest>>())
    };
    let mut probe = before.clone();
    let readable = (0..len)
        .take_while(|index| push(digests, *index, &mut probe))
        .count();
    let (mut from, mut spent) = (readable, 0);
    while from > 0 && spent + (readable - from) <= DIAGNOSIS_BUDGET {
        spent += readable - from;
        from -= 1;
    }
    for index in 0..from {
        push(digests, index, &mut before);
    }
    for skipped in from..readable {
        let mut registers = before.clone();
        for index in skipped + 1..readable {
            push(digests, index, &mut registers);
            if is_quoted(&registers) {
                return Some(skipped);
            }
        }
        push(digests, skipped, &mut before);
    }
    None
}

pub(crate) fn check(
    list: &[Entry],
    View { lines, digests }: &View,
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
    for index in view::places(lines, lines.len(), |line| !line.is_whole()) {
        lines[index].check(index, findings);
    }
    for fills in fillings(banks) {
        let Some((entries, pcrs)) = longest(digests, lines.len(), quoted, &fills) else {
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
        for index in view::places(lines, entries, |line| line.pcr.is_some_and(|pcr| pcr != PCR)) {
            let line = &lines[index];
            let found = line.pcr.unwrap_or_default();
            findings.push(
                fail("an entry extends a register that is not quoted, so nothing vouches for it")
                    .at_index(index)
                    .at_path(line.path.unwrap_or_default())
                    .found(format!("PCR {found}"))
                    .expected(format!("PCR {PCR}")),
            );
        }
        return Some(Coverage {
            entries,
            pcrs,
            padded,
        });
    }
    let finding = match never_extended(digests, lines.len(), quoted) {
        Some(index) => {
            fail("extend-lost: the entry stands in the list and the register was never extended with it")
                .at_index(index)
                .at_path(lines.get(index).and_then(|line| line.path).unwrap_or_default())
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
pub(crate) fn continues(digests: &Digests, coverage: &Coverage, before: &NodeState, findings: &mut Findings) {
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
    let is_same = !banks.is_empty()
        && fillings(&banks).iter().any(|fills| {
            registers(digests, covered, &banks, fills).is_some_and(|registers| {
                registers
                    .iter()
                    .map(Register::value)
                    .eq(before.pcrs.iter().cloned())
            })
        });
    if !is_same {
        findings.push(fail(
            "the part of the list that was covered before is another one now",
        ));
    }
}
