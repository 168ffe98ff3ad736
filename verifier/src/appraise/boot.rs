//! V10: the boot log replays to the quoted PCR 0 to 9, they tie to IMA's first entry, and the policy's values hold.
//!
//! Promise: only registers that the quote covers are believed, and of the log only what they vouch for: digests, and the
//! data of events whose digest is that of their data. Not here: how the log is read (see `evidence::boot`).

use super::{
    coverage::Coverage,
    finding::{Finding, Findings, Rule, Subject},
    quote::Quoted,
    round::Round,
    verdict::BootJudgement,
    view::Line,
};
use crate::text::escape;
use evidence::{
    Bank, Digest,
    boot::{CommandLine, Event, EventLog, Registers, boot_aggregate},
};
use policy::{BootPolicy, Policy};

/// The name of IMA's first entry of a boot, whose digest covers PCR 0-9. Source: security/integrity/ima/ima_init.c.
pub(crate) const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::V10, Subject::Node, text)
}

/// A longer label of an event is cut: it is whatever the log says.
const MAX_LABEL: usize = 200;

/// An event as findings call it.
fn named(event: &Event) -> String {
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
        Err(why) => own.push(fail(format!("the boot log cannot be read: {why}"))),
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
    /// The command line that the node tells.
    told: Option<&'a [u8]>,
    lines: &'a [Line<'a>],
    quoted: &'a Quoted,
    log: &'a EventLog<'a>,
    banks: &'a [Bank],
}

impl Boot<'_> {
    fn check(&self, reference: &BootPolicy, findings: &mut Findings) {
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
        self.is_regular(findings);
        self.ties(findings);
        self.command_lines(reference, findings);
        self.events(reference, findings);
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

    /// The firmware came to its end in each register, and texts are those that were measured.
    fn is_regular(&self, findings: &mut Findings) {
        for pcr in self.log.without_separator() {
            findings.push(fail(format!(
                "the boot log has not exactly one separator without an error for PCR {pcr}: the firmware did not end as it should"
            )));
        }
        for event in self.log.events() {
            if self
                .banks
                .iter()
                .any(|bank| event.data_is_measured(*bank) == Some(false))
            {
                findings.push(
                    fail("what the boot log says of an event is not what was measured").found(named(event)),
                );
            }
        }
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

    fn command_lines(&self, reference: &BootPolicy, findings: &mut Findings) {
        if reference.command_lines.is_empty() {
            return;
        }
        let told = self.told;
        let mut is_measured = false;
        for line in self.log.command_lines() {
            is_measured = true;
            let is = |text: &[u8]| self.banks.iter().all(|bank| line.is(text, *bank));
            if reference
                .command_lines
                .iter()
                .any(|accepted| is(accepted.as_bytes()))
            {
                continue;
            }
            // What the node tells is only shown where it is what was measured.
            let text = match &line {
                CommandLine::Grub(_, text) if is(text) => Some(*text),
                _ => told.filter(|told| is(told)),
            };
            let found = match (text, self.banks.first()) {
                (Some(text), _) => escape(text),
                (None, Some(bank)) => line
                    .event()
                    .digest(*bank)
                    .map_or_else(|| named(line.event()), Digest::to_string),
                (None, None) => named(line.event()),
            };
            let finding = fail("the kernel command line is not one that the policy accepts").found(found);
            findings.push(reference.command_lines.iter().fold(finding, Finding::expected));
        }
        if !is_measured {
            findings.push(fail(
                "no kernel command line was measured into PCR 8 or 9, and the policy names what it must be",
            ));
        }
    }

    fn events(&self, reference: &BootPolicy, findings: &mut Findings) {
        let mut judged = Vec::new();
        for item in &reference.events {
            let group = (item.pcr, item.kind);
            if judged.contains(&group) {
                continue;
            }
            judged.push(group);
            let accepted: Vec<_> = reference
                .events
                .iter()
                .filter(|other| (other.pcr, other.kind) == group)
                .collect();
            let digests = || accepted.iter().flat_map(|item| &item.digests);
            let mut has_one = false;
            let of_group = |event: &&Event| (event.pcr, event.kind) == (u32::from(item.pcr), item.kind);
            for event in self.log.events().iter().filter(of_group) {
                has_one = true;
                for bank in self.banks {
                    let found = event.digest(*bank);
                    if found.is_some_and(|found| digests().any(|digest| digest == found)) {
                        continue;
                    }
                    let finding = fail(format!(
                        "{} was measured, which the policy does not accept",
                        named(event)
                    ));
                    let finding = found.into_iter().fold(finding, Finding::found);
                    let finding = accepted.iter().fold(finding, |finding, item| {
                        let of_bank = item.digests.iter().filter(|digest| digest.bank() == *bank);
                        of_bank.fold(finding, |finding, digest| {
                            finding.expected(format!("{digest} ({})", item.name))
                        })
                    });
                    findings.push(finding);
                }
            }
            if !has_one {
                findings.push(
                    fail(format!(
                        "nothing of type {} was measured into PCR {}",
                        item.kind, item.pcr
                    ))
                    .expected(&item.name),
                );
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
