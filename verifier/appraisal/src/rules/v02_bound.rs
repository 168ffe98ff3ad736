//! V2 where a trust domain's register binds the list: the running value that the last checkpoint states is
//! that of the list as far as its stated length.
//!
//! Promise: the value is over each entry's whole bytes, so that template names and violations are bound, too,
//! of each entry that this list has, whole or by its hash (a tenant's: see `tenant::shown`).
//! Entries behind that length are bound by nothing: nothing that must be there is looked for in them. Not
//! here: whether the register was extended with that checkpoint (see `v04_register`).

use crate::inputs::context::NodeState;
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use cgpath_evidence::td::{ListChain, Register};
use cgpath_evidence::{Entry, SealedCheckpoint};

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Coverage, Subject::Node, text)
}

/// Follows the list to the last checkpoint's stated length, and on to `covered` entries where PCR 10 covers
/// so many. `before` is the value after the entries that came before this round.
///
/// Gives the value after the entries that are bound, which are `covered` or those of the stated length.
pub(crate) fn step(
    round: &Round<'_>,
    before: Option<ListChain>,
    covered: Option<usize>,
    findings: &mut Findings,
) -> Option<ListChain> {
    // What is wrong with the file itself is V4's.
    let last = round.checkpoints.last();
    let last = last.and_then(|file| SealedCheckpoint::from_file(file).ok());
    let Some(last) = last.map(|sealed| sealed.checkpoint) else {
        findings.push(fail(
            "no checkpoint can be read that says what the list is, and nothing else binds it to the register",
        ));
        return None;
    };
    let Some(binding) = &last.binding else {
        findings.push(fail(format!(
            "checkpoint {}, the last one, states no running value of the list",
            last.number
        )));
        return None;
    };
    let first = round.first;
    let stated = usize::try_from(last.list_len).unwrap_or(usize::MAX);
    let end = covered.unwrap_or(stated);
    let Some(new) = end.checked_sub(first).filter(|new| *new <= round.list.len()) else {
        findings.push(
            fail(format!(
                "the list ends before the length that checkpoint {} states",
                last.number
            ))
            .found(first.saturating_add(round.list.len()))
            .expected(format!("at least {end}")),
        );
        return None;
    };
    let mut chain = before.unwrap_or_default();
    let mut found = (stated == first).then(|| chain.value());
    for (at, entry) in round.list.iter().take(new).enumerate() {
        if !chain.push_entry(entry) {
            findings.push(
                fail("a redacted entry without its hash, which the list's running value is over")
                    .at_index(first + at),
            );
            return None;
        }
        if first + at + 1 == stated {
            found = Some(chain.value());
        }
    }
    if found != Some(binding.list) {
        let finding = fail(format!(
            "the list is not the one that checkpoint {} bound: entries were altered, removed, added or \
             reordered",
            last.number
        ));
        let finding = finding.expected(hex::encode(binding.list));
        findings.push(found.iter().map(hex::encode).fold(finding, Finding::found));
        return None;
    }
    Some(chain)
}

/// The running value of the first `len` entries, where each is whole or has its hash.
fn value(list: &[Entry], len: usize) -> Option<Register> {
    let mut chain = ListChain::default();
    let mut entries = list.get(..len)?.iter();
    entries
        .all(|entry| chain.push_entry(entry))
        .then(|| chain.value())
}

/// V4: within a boot coverage never shrinks, and what was bound is still the same. For a list from its
/// beginning.
pub(crate) fn continues(list: &[Entry], covered: usize, before: &NodeState, findings: &mut Findings) {
    let fail = |text: &str| Finding::fail(Rule::Chain, Subject::Node, text);
    let Some(len) = usize::try_from(before.covered).ok().filter(|len| *len <= covered) else {
        findings.push(
            fail("less of the list is bound than before")
                .found(format!("{covered} entries"))
                .expected(format!("at least {}", before.covered)),
        );
        return;
    };
    let was = before.td.as_ref().map(|td| td.list);
    if was.is_none() || value(list, len) != was {
        findings.push(fail(
            "the part of the list that was bound before is another one now",
        ));
    }
}
