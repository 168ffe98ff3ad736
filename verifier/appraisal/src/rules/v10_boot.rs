//! V10: the boot log replays to the quoted PCR 0 to 9, they tie to IMA's first entry, and the policy's values
//! hold.
//!
//! Promise: only registers that the quote covers are believed, and of the log only what they vouch for:
//! digests, and the data of events whose digest is that of their data. Not here: how the log is read (see
//! `cgpath_evidence::boot`), which events are accepted (see `v10_measured`).

use crate::inputs::decoded::{BOOT_AGGREGATE, Line};
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::results::verdict::BootJudgement;
use crate::rules::Rule;
use crate::rules::v01_quote::Quoted;
use crate::rules::v02_coverage::Coverage;
use crate::rules::v10_measured::Measured;
use cgpath_evidence::{
    Bank,
    boot::{Event, EventLog, EventType, FIRMWARE_REGISTERS, REGISTERS, Registers, boot_aggregate},
};
use cgpath_policy::{BootPolicy, FirmwareDeviation, Policy};
use std::collections::BTreeSet;

pub(super) fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Boot, Subject::Node, text)
}

/// A longer label of an event is cut: it is whatever the log says.
const MAX_LABEL: usize = 200;

/// An event as findings call it.
pub(super) fn named(event: &Event) -> String {
    let label: String = event.label().chars().take(MAX_LABEL).collect();
    let kind = event.kind;
    let place = format!("PCR {}, byte {} of the log", event.pcr, event.offset);
    if label.is_empty() {
        format!("{kind} ({place})")
    } else {
        format!("{kind} \"{label}\" ({place})")
    }
}

pub(crate) fn check(
    round: &Round<'_>,
    lines: &[Line],
    quoted: Option<&Quoted>,
    coverage: Option<&Coverage>,
    policy: &Policy,
    findings: &mut Findings,
) -> BootJudgement {
    if policy.file.dangerous_boot_not_judged {
        return BootJudgement::NotJudged;
    }
    let Some(reference) = &policy.file.boot else {
        findings.push(fail(
            "the boot log is not judged: the policy has no `boot:` (`cgpath policy from-boot` makes one), and does not say `dangerous-boot-not-judged: true` to pass over it",
        ));
        return BootJudgement::Absent;
    };
    let (Some(quoted), Some(_)) = (quoted, coverage) else {
        findings.push(fail(
            "nothing vouches for PCR 0 to 9: the quote cannot be followed",
        ));
        return BootJudgement::Absent;
    };
    let Some(log) = round.boot.and_then(|boot| boot.log.as_deref()) else {
        findings.push(fail(
            "there is no boot log: the kernel showed no binary_bios_measurements, so its firmware has none or no TPM that it uses",
        ));
        return BootJudgement::Absent;
    };
    let mut own = Findings::default();
    match EventLog::parse(log) {
        Err(why) => own.push(fail(format!(
            "the boot log cannot be read: {why}; a node without one is only passed over by `dangerous-boot-not-judged: true` in place of `boot`"
        ))),
        Ok(log) => Boot {
            told: round.boot.and_then(|boot| boot.command_line.as_deref()),
            lines,
            quoted,
            log: &log,
            banks: &policy.file.accept.banks,
        }
        .check(reference, &mut own),
    }
    let failed = own.has_failure();
    findings.absorb(&own);
    if failed {
        BootJudgement::Untrusted
    } else {
        BootJudgement::Trusted
    }
}

struct Boot<'a> {
    /// The command line that the node states.
    told: Option<&'a [u8]>,
    lines: &'a [Line<'a>],
    quoted: &'a Quoted,
    log: &'a EventLog<'a>,
    banks: &'a [Bank],
}

impl Boot<'_> {
    fn check(&self, reference: &BootPolicy, findings: &mut Findings) {
        let pinned = self.pinned(reference);
        for bank in self.banks {
            let Some(registers) = self.quoted.registers.boot(*bank) else {
                findings.push(fail(format!(
                    "the quote does not cover PCR 0 to 9 in the bank {bank}"
                )));
                continue;
            };
            self.replays(registers, findings);
            registers_hold(registers, reference, findings);
        }
        self.is_regular(reference, &pinned, findings);
        self.ties(findings);
        Measured::new(self.log, self.banks, reference, self.told, &pinned).check(findings);
    }

    /// Registers with a value that the policy accepts, in each bank.
    fn pinned(&self, reference: &BootPolicy) -> BTreeSet<u8> {
        let holds = |pcr: u8, bank: &Bank| {
            let quoted = self.quoted.registers.boot(*bank);
            let value = quoted.and_then(|quoted| quoted.values().get(usize::from(pcr)));
            let accepted = reference.registers.get(&pcr);
            value.is_some_and(|value| accepted.is_some_and(|accepted| accepted.contains(value)))
        };
        let all = reference.registers.keys().copied();
        all.filter(|pcr| self.banks.iter().all(|bank| holds(*pcr, bank)))
            .collect()
    }

    /// The log leads to what was quoted.
    fn replays(&self, quoted: &Registers, findings: &mut Findings) {
        let replayed = match self.log.replay(quoted.bank()) {
            Ok(replayed) => replayed,
            Err(why) => return findings.push(fail(why.to_string())),
        };
        for (pcr, (replayed, quoted)) in replayed.values().iter().zip(quoted.values()).enumerate() {
            if replayed != quoted {
                findings.push(
                    fail(format!("the boot log does not replay to the quoted PCR {pcr}: events were altered, left out or added, or something extended the register later"))
                        .found(replayed)
                        .expected(quoted),
                );
            }
        }
    }

    /// The firmware came to its end in each register, and texts are those that were measured. What the policy
    /// knows to be otherwise with this firmware is said, where it pins the register.
    fn is_regular(&self, reference: &BootPolicy, pinned: &BTreeSet<u8>, findings: &mut Findings) {
        let is_measured = |event: &Event| {
            let is_other = |bank: &Bank| event.data_is_measured(*bank) == Some(false);
            !self.banks.iter().any(is_other)
        };
        let mut deviates =
            |pcr: u32, text: String, found: Option<String>, accepts: &dyn Fn(&FirmwareDeviation) -> bool| {
                let is_it = |item: &&FirmwareDeviation| {
                    u32::from(item.pcr) == pcr && pinned.contains(&item.pcr) && accepts(item)
                };
                let finding = match reference.firmware_deviations.iter().find(is_it) {
                    Some(item) => {
                        let text = format!(
                            "{text}; the policy accepts this of the firmware (firmware-deviations: {item})"
                        );
                        Finding::tolerated(Rule::Boot, Subject::Node, text)
                    }
                    None => fail(text),
                };
                findings.push(found.into_iter().fold(finding, Finding::found));
            };
        let irregular = self.log.without_separator();
        for pcr in 0..FIRMWARE_REGISTERS as u32 {
            let separators: Vec<&Event> = self.log.separators(pcr).collect();
            if !irregular.contains(&pcr) && separators.iter().all(|event| is_measured(event)) {
                continue;
            }
            let text = format!(
                "the boot log has not exactly one separator without an error for PCR {pcr}: the firmware did not end as it should"
            );
            let found = format!("{} separator(s)", separators.len());
            deviates(pcr, text, Some(found), &|item| {
                let is_separator = item.kind == EventType::SEPARATOR;
                let counts = item.count.is_some_and(|count| count as usize == separators.len());
                is_separator && counts && separators.iter().all(|event| self.has_digest_of(event, item))
            });
        }
        let events = self
            .log
            .events()
            .iter()
            .filter(|event| event.kind != EventType::SEPARATOR);
        // Nothing vouches for the others.
        for event in events.filter(|event| (event.pcr as usize) < REGISTERS && !is_measured(event)) {
            let text = "what the boot log says of an event is not what was measured".to_owned();
            deviates(event.pcr, text, Some(named(event)), &|item| {
                item.kind == event.kind && item.count.is_none() && self.has_digest_of(event, item)
            });
        }
    }

    /// Whether the event's digest in each bank is one that the item names.
    fn has_digest_of(&self, event: &Event, item: &FirmwareDeviation) -> bool {
        let has = |bank: &Bank| {
            event
                .digest(*bank)
                .is_some_and(|digest| item.digests.contains(digest))
        };
        self.banks.iter().all(has)
    }

    /// IMA began on top of these registers.
    fn ties(&self, findings: &mut Findings) {
        let first = self.lines.first();
        let stated = first
            .filter(|line| line.path == Some(BOOT_AGGREGATE))
            .and_then(|line| line.file.as_ref());
        let Some(stated) = stated else {
            findings.push(fail("the list does not begin with a boot_aggregate"));
            return;
        };
        match self.quoted.registers.boot(stated.bank()) {
            None => findings.push(
                fail("IMA's first entry is over PCR 0 to 9 of a bank that is not quoted")
                    .at_index(0)
                    .at_path(BOOT_AGGREGATE)
                    .found(stated),
            ),
            Some(registers) => {
                let expected = boot_aggregate(registers);
                if *stated != expected {
                    findings.push(
                        fail("IMA's first entry is not over the quoted PCR 0 to 9")
                            .at_index(0)
                            .at_path(BOOT_AGGREGATE)
                            .found(stated)
                            .expected(expected),
                    );
                }
            }
        }
    }
}

/// Each register that the policy names has one of its values.
fn registers_hold(quoted: &Registers, reference: &BootPolicy, findings: &mut Findings) {
    for (pcr, accepted) in &reference.registers {
        let Some(found) = quoted.values().get(usize::from(*pcr)) else {
            continue;
        };
        if !accepted.contains(found) {
            let finding = fail(format!("PCR {pcr} is not one that the policy accepts")).found(found);
            let of_bank = accepted.iter().filter(|value| value.bank() == quoted.bank());
            findings.push(of_bank.fold(finding, Finding::expected));
        }
    }
}
