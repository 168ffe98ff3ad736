//! V2: the longest prefix of the list whose replay gives the quoted registers.
//!
//! Promise: registers are extended with digests computed here, never with those that the list claims. IMA
//! appends to the list first and extends second, so a list that was read after the quote may be ahead of it,
//! never behind. A round that goes on from another begins at the registers that one left.
//! Source: security/integrity/ima/ima_queue.c, `ima_add_template_entry`.

use crate::inputs::context::NodeState;
use crate::inputs::decoded;
use crate::inputs::decoded::{Digests, View};
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::rules::v01_quote::Quoted;
use cgpath_evidence::{
    Bank, Digest, Entry,
    replay::{Fill, Register},
    td::ListChain,
};
use cgpath_policy::{PaddedBanks, Policy};
use rayon::prelude::*;
use std::ops::Range;

/// The register that IMA extends by default, the only one that evidence is anchored in.
const PCR: u32 = cgpath_evidence::quoted::IMA_PCR;

/// So far behind the list's end the quote is looked for first: a list is read right after the quote, so that
/// few entries come between them.
const TAIL: usize = 4096;

/// How many extends a failed replay may spend to name an entry that was listed and never extended.
const DIAGNOSIS_BUDGET: usize = 500_000;

/// What the quote covers.
#[derive(Debug, Clone)]
pub(crate) struct Coverage {
    /// Length of the covered prefix, in entries.
    pub entries: usize,
    /// PCR 10 after it, in each quoted bank.
    pub pcrs: Vec<Digest>,
    /// Quoted banks in which the kernel extended a padded SHA-1.
    pub padded: Vec<Bank>,
    /// What the next round goes on from.
    registers: Vec<Register>,
    /// The running value of the list after it, where a trust domain's register binds it.
    pub bound: Option<ListChain>,
}

impl Coverage {
    /// Of a list that such a register alone binds.
    pub(crate) fn of_bound(chain: ListChain) -> Coverage {
        Coverage {
            entries: usize::try_from(chain.entries()).unwrap_or(usize::MAX),
            pcrs: Vec::new(),
            padded: Vec::new(),
            registers: Vec::new(),
            bound: Some(chain),
        }
    }
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Coverage, Subject::Node, text)
}

/// The ways in which a kernel can have made what it extended into these banks, the usual one first. Since 5.8
/// each bank is hashed or padded for itself; before, all but SHA-1 were padded throughout.
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

/// The registers after `len` entries, in each bank; each bank's chain is a thread's work. `None` if one of
/// them extends what is not known.
fn extended(digests: &Digests, len: usize, start: &[Register]) -> Option<Vec<Register>> {
    // The longest first, so that threads end together.
    let mut lanes: Vec<(usize, Register)> = start.iter().cloned().enumerate().collect();
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

fn digests_of(registers: &[Register]) -> Vec<Digest> {
    registers.iter().map(Register::value).collect()
}

/// The longest run of `len` entries that leads from `start` to the quoted digest, and the registers after it.
fn longest(
    digests: &Digests,
    len: usize,
    quoted: &Quoted,
    start: &[Register],
) -> Option<(usize, Vec<Register>)> {
    if start.is_empty() {
        return None;
    }
    let before = len.saturating_sub(TAIL);
    let Some(registers) = extended(digests, before, start) else {
        return any(digests, len, quoted, start);
    };
    let lanes: Vec<Vec<Digest>> = registers
        .iter()
        .map(|register| values(register.clone(), digests, before..len))
        .collect();
    let replayed = lanes.iter().map(Vec::len).min().unwrap_or_default();
    let after = |n: usize| -> Vec<Digest> { lanes.iter().filter_map(|lane| lane.get(n).cloned()).collect() };
    match (0..replayed).rev().find(|n| quoted.is_of(&after(*n))) {
        Some(n) => {
            let mut registers = registers;
            for register in &mut registers {
                digests.extend(before..before + n, register).ok()?;
            }
            Some((before + n, registers))
        }
        None if before == 0 => None,
        None => any(digests, len, quoted, start),
    }
}

/// Extends each register with one entry; whether what it extends is known.
fn push(digests: &Digests, index: usize, registers: &mut [Register]) -> bool {
    registers
        .iter_mut()
        .all(|register| digests.extend(index..index + 1, register).is_ok())
}

/// The same, wherever it ends.
fn any(digests: &Digests, len: usize, quoted: &Quoted, start: &[Register]) -> Option<(usize, Vec<Register>)> {
    let mut registers = start.to_vec();
    let is_quoted = |registers: &[Register]| quoted.is_of(&digests_of(registers));
    let mut found = is_quoted(&registers).then(|| (0, registers.clone()));
    for index in 0..len {
        if !push(digests, index, &mut registers) {
            break;
        }
        if is_quoted(&registers) {
            found = Some((index + 1, registers.clone()));
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

/// Registers to begin at: those that the round before left, or those of a boot, in each way that a kernel may
/// have.
fn starts(before: Option<&Coverage>, banks: &[Bank]) -> Vec<Vec<Register>> {
    match before {
        Some(before)
            if before
                .registers
                .iter()
                .map(Register::bank)
                .eq(banks.iter().copied()) =>
        {
            vec![before.registers.clone()]
        }
        Some(_) => Vec::new(),
        None => fillings(banks)
            .iter()
            .map(|fills| banks.iter().zip(fills).map(at_boot).collect())
            .collect(),
    }
}

/// Which of the policy's banks were quoted, and what others.
pub(crate) fn banks(quoted: &Quoted, policy: &Policy, findings: &mut Findings) {
    for bank in &policy.file.accept.banks {
        if !quoted.banks.contains(bank) {
            findings.push(fail(format!(
                "PCR {PCR} was not quoted in the bank {bank}, which the policy wants"
            )));
        }
    }
    for bank in &quoted.banks {
        if !policy.file.accept.banks.contains(bank) {
            findings.push(Finding::note(
                Rule::Coverage,
                Subject::Node,
                format!("PCR {PCR} was also quoted in the bank {bank}, which the policy does not ask for"),
            ));
        }
    }
}

/// What the quote covers of the list, of which `view` are the entries behind those that `before` covered.
pub(crate) fn step(
    view: &View,
    before: Option<&Coverage>,
    quoted: &Quoted,
    policy: &Policy,
    findings: &mut Findings,
) -> Option<Coverage> {
    let View { lines, digests } = view;
    let first = before.map_or(0, |before| before.entries);
    readable(view, first, findings);
    let (covered, registers) = starts(before, &quoted.banks)
        .iter()
        .find_map(|start| longest(digests, lines.len(), quoted, start))?;
    let padded: Vec<Bank> = registers
        .iter()
        .filter(|register| register.fill() != Fill::Hashed)
        .map(Register::bank)
        .collect();
    for bank in &padded {
        let text = format!(
            "the kernel extended a padded SHA-1 in the bank {bank}: it had no such hash when it booted"
        );
        findings.push(match policy.file.padded_banks {
            PaddedBanks::Deny => fail(text),
            PaddedBanks::Report => Finding::tolerated(Rule::Coverage, Subject::Node, text),
        });
    }
    for at in decoded::places(lines, covered, |line| line.pcr.is_some_and(|pcr| pcr != PCR)) {
        let line = &lines[at];
        let found = line.pcr.unwrap_or_default();
        findings.push(
            fail("an entry extends a register that is not quoted, so nothing vouches for it")
                .at_index(first + at)
                .at_path(line.path.unwrap_or_default())
                .found(format!("PCR {found}"))
                .expected(format!("PCR {PCR}")),
        );
    }
    Some(Coverage {
        entries: first + covered,
        pcrs: digests_of(&registers),
        padded,
        registers,
        bound: None,
    })
}

/// What cannot be read of a round's entries, whose first one has this index.
pub(crate) fn readable(view: &View, first: usize, findings: &mut Findings) {
    for at in decoded::places(&view.lines, view.lines.len(), |line| !line.is_whole()) {
        view.lines[at].check(first + at, findings);
    }
}

/// Why no prefix of a whole list gives the quoted registers.
pub(crate) fn why_none(list: &[Entry], view: &View, quoted: &Quoted) -> Finding {
    let View { lines, digests } = view;
    match never_extended(digests, lines.len(), quoted) {
        Some(index) => {
            fail("extend-lost: the entry stands in the list and the register was never extended with it")
                .at_index(index)
                .at_path(lines.get(index).and_then(|line| line.path).unwrap_or_default())
        }
        None if !decoded::is_whole(list) => fail(
            "the list was cut: it does not begin with boot_aggregate (a kernel with CONFIG_IMA_STAGING lets \
             entries be taken away), and what is missing is not kept here",
        ),
        None => fail(
            "no prefix of the list replays to the quoted register: entries were altered, removed or \
             reordered, or the list is behind the quote",
        ),
    }
}

/// Registers with these values after `entries` entries, each bank hashed: what somebody remembers who keeps
/// no more.
pub(crate) fn remembered(entries: usize, pcrs: &[Digest]) -> Coverage {
    Coverage {
        entries,
        pcrs: pcrs.to_vec(),
        padded: Vec::new(),
        registers: pcrs.iter().map(Register::resume).collect(),
        bound: None,
    }
}

/// V4: within a boot coverage never shrinks, and what was covered is still the same. For a list from its
/// beginning.
pub(crate) fn continues(digests: &Digests, covered: usize, before: &NodeState, findings: &mut Findings) {
    let fail = |text: &str| Finding::fail(Rule::Chain, Subject::Node, text);
    let Some(len) = usize::try_from(before.covered).ok().filter(|n| *n <= covered) else {
        findings.push(
            fail("the quote covers less than the one before it")
                .found(format!("{covered} entries"))
                .expected(format!("at least {}", before.covered)),
        );
        return;
    };
    let banks: Vec<Bank> = before.pcrs.iter().map(Digest::bank).collect();
    let is_same = !banks.is_empty()
        && starts(None, &banks).iter().any(|start| {
            extended(digests, len, start).is_some_and(|registers| digests_of(&registers) == before.pcrs)
        });
    if !is_same {
        findings.push(fail(
            "the part of the list that was covered before is another one now",
        ));
    }
}
