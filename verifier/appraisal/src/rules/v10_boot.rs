//! V10: the boot log replays to the quoted PCR 0 to 9, or RTMR 0 to 2, they tie to IMA's first entry, and the
//! policy's values hold.
//!
//! Promise: only registers that the quote covers are believed, and of the log only what they vouch for:
//! digests, and the data of events whose digest is that of their data. Not here: how the log is read (see
//! `cgpath_evidence::boot`), which events are accepted (see `v10_measured`).

use crate::inputs::decoded::{BOOT_AGGREGATE, Line};
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::results::verdict::BootAppraisal;
use crate::rules::Rule;
use crate::rules::v01_quote::Quoted;
use crate::rules::v02_coverage::Coverage;
use crate::rules::v10_measured::Measured;
use cgpath_evidence::{
    Bank, Digest,
    boot::{BOOT_RTMRS, Event, EventLog, EventType, RegisterSet, boot_aggregate},
    td::{self, Register},
};
use cgpath_policy::{BootPolicy, FirmwareDeviation, Policy, TdxPolicy};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Boot, Subject::Node, text)
}

/// A longer label of an event is cut: it is whatever the log says.
const MAX_LABEL: usize = 200;

/// An event as findings call it.
pub(super) fn named(event: &Event) -> String {
    let label: String = event.label().chars().take(MAX_LABEL).collect();
    let kind = event.kind;
    let place = format!("{} {}, byte {} of the log", event.set, event.pcr, event.offset);
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
) -> BootAppraisal {
    if policy.file.dangerous_boot_not_judged {
        return BootAppraisal::NotAppraised;
    }
    let Some(reference) = &policy.file.boot else {
        findings.push(fail(
            "the boot log is not judged: the policy has no `boot:` (`cgpath policy from-boot` makes one), \
             and does not say `dangerous-boot-not-judged: true` to pass over it",
        ));
        return BootAppraisal::Absent;
    };
    let (Some(quoted), Some(_)) = (quoted, coverage) else {
        findings.push(fail(
            "nothing vouches for PCR 0 to 9: the quote cannot be followed",
        ));
        return BootAppraisal::Absent;
    };
    let Some(log) = round.boot.and_then(|boot| boot.log.as_deref()) else {
        findings.push(fail(
            "there is no boot log: the kernel showed no binary_bios_measurements, so its firmware has none \
             or no TPM that it uses",
        ));
        return BootAppraisal::Absent;
    };
    let accepted = policy.file.accept.banks.iter();
    let quoted_values = accepted.filter_map(|bank| {
        let registers = quoted.registers.boot(*bank)?;
        Some((*bank, registers.values().to_vec()))
    });
    let boot = Stated {
        command_line: round.boot.and_then(|boot| boot.command_line.as_deref()),
        lines,
        tpm: Some(quoted),
        banks: &policy.file.accept.banks,
        quoted: quoted_values.collect(),
    };
    boot.appraise(
        EventLog::parse(log),
        reference,
        "`dangerous-boot-not-judged: true` in place of `boot`",
        findings,
    )
}

/// The same for a trust domain: the firmware's log replays to `registers`, RTMR 0 to 2 as the quote or the
/// register's origin has them, and `tdx.boot` holds. The log says nothing of RTMR 3.
pub(crate) fn check_td(
    round: &Round<'_>,
    lines: &[Line],
    registers: Option<&[Register; BOOT_RTMRS]>,
    policy: &TdxPolicy,
    findings: &mut Findings,
) -> BootAppraisal {
    let Some(reference) = &policy.boot else {
        // Without `boot`, the policy says so.
        return BootAppraisal::NotAppraised;
    };
    let Some(registers) = registers else {
        findings.push(fail(
            "nothing vouches for RTMR 0 to 2: the trust domain's quote cannot be followed",
        ));
        return BootAppraisal::Absent;
    };
    let Some(log) = round.td.and_then(|td| td.ccel.as_deref()) else {
        findings.push(fail(
            "there is no firmware's log of RTMR 0 to 2: the kernel showed no CCEL table, so the trust \
             domain's firmware makes none",
        ));
        return BootAppraisal::Absent;
    };
    let boot = Stated {
        command_line: round.boot.and_then(|boot| boot.command_line.as_deref()),
        lines,
        tpm: None,
        banks: &[Bank::Sha384],
        quoted: BTreeMap::from([(Bank::Sha384, registers.iter().map(td::digest).collect())]),
    };
    boot.appraise(
        EventLog::parse_ccel(log),
        reference,
        "`dangerous-boot-not-judged: true` in place of `tdx.boot`",
        findings,
    )
}

/// The worse of two judgements.
pub(crate) fn worse(one: BootAppraisal, other: BootAppraisal) -> BootAppraisal {
    let rank = |appraisal: &BootAppraisal| match appraisal {
        BootAppraisal::Trusted => 0,
        BootAppraisal::NotAppraised => 1,
        BootAppraisal::Absent => 2,
        BootAppraisal::Untrusted => 3,
    };
    core::cmp::max_by_key(one, other, rank)
}

/// What is known of a boot, beside its log.
struct Stated<'a> {
    /// The command line that the node states.
    command_line: Option<&'a [u8]>,
    lines: &'a [Line<'a>],
    /// What the TPM quoted: IMA's first entry is over that.
    tpm: Option<&'a Quoted>,
    banks: &'a [Bank],
    /// The registers of the boot, in each of these banks in which they are quoted.
    quoted: BTreeMap<Bank, Vec<Digest>>,
}

impl Stated<'_> {
    fn appraise(
        self,
        log: cgpath_evidence::Result<EventLog<'_>>,
        reference: &BootPolicy,
        otherwise: &str,
        findings: &mut Findings,
    ) -> BootAppraisal {
        let mut own = Findings::default();
        match log {
            Err(why) => own.push(fail(format!(
                "the boot log cannot be read: {why}; a node without one is only passed over by {otherwise}"
            ))),
            Ok(log) => Boot {
                stated: &self,
                log: &log,
                set: log.set(),
            }
            .check(reference, &mut own),
        }
        let failed = own.has_failure();
        findings.absorb(&own);
        if failed {
            BootAppraisal::Untrusted
        } else {
            BootAppraisal::Trusted
        }
    }
}

struct Boot<'a> {
    stated: &'a Stated<'a>,
    log: &'a EventLog<'a>,
    set: RegisterSet,
}

impl Boot<'_> {
    fn check(&self, reference: &BootPolicy, findings: &mut Findings) {
        let Boot { stated, set, .. } = self;
        let pinned = self.pinned(reference);
        for bank in stated.banks {
            let Some(registers) = stated.quoted.get(bank) else {
                findings.push(fail(format!(
                    "the quote does not cover {set} 0 to {} in the bank {bank}",
                    set.count() - 1
                )));
                continue;
            };
            self.replays(*bank, registers, findings);
            self.registers_hold(*bank, registers, reference, findings);
        }
        self.is_regular(reference, &pinned, findings);
        self.ties(findings);
        Measured::new(self.log, stated.banks, reference, stated.command_line, &pinned).check(findings);
    }

    /// Registers with a value that the policy accepts, in each bank.
    fn pinned(&self, reference: &BootPolicy) -> BTreeSet<u8> {
        let holds = |register: u8, bank: &Bank| {
            let quoted = self.stated.quoted.get(bank);
            let value = quoted.and_then(|quoted| quoted.get(usize::from(register)));
            let accepted = reference.registers.get(&register);
            value.is_some_and(|value| accepted.is_some_and(|accepted| accepted.contains(value)))
        };
        let all = reference.registers.keys().copied();
        all.filter(|register| self.stated.banks.iter().all(|bank| holds(*register, bank)))
            .collect()
    }

    /// The log leads to what was quoted.
    fn replays(&self, bank: Bank, quoted: &[Digest], findings: &mut Findings) {
        let replayed = match self.log.replay_all(bank) {
            Ok(replayed) => replayed,
            Err(why) => return findings.push(fail(why.to_string())),
        };
        let set = self.set;
        for (register, (replayed, quoted)) in replayed.iter().zip(quoted).enumerate() {
            if replayed != quoted {
                findings.push(
                    fail(format!(
                        "the boot log does not replay to the quoted {set} {register}: events were \
                        altered, left out or added, or something extended the register later"
                    ))
                    .found(replayed)
                    .expected(quoted),
                );
            }
        }
    }

    /// Each register that the policy names has one of its values.
    fn registers_hold(&self, bank: Bank, quoted: &[Digest], reference: &BootPolicy, findings: &mut Findings) {
        for (register, accepted) in &reference.registers {
            let Some(found) = quoted.get(usize::from(*register)) else {
                continue;
            };
            if !accepted.contains(found) {
                let text = format!("{} {register} is not one that the policy accepts", self.set);
                let of_bank = accepted.iter().filter(|value| value.bank() == bank);
                findings.push(of_bank.fold(fail(text).found(found), Finding::expected));
            }
        }
    }

    /// The firmware came to its end in each register, and texts are those that were measured. What the policy
    /// knows to be otherwise with this firmware is said, where it pins the register.
    fn is_regular(&self, reference: &BootPolicy, pinned: &BTreeSet<u8>, findings: &mut Findings) {
        let set = self.set;
        let is_measured = |event: &Event| {
            let is_other = |bank: &Bank| event.data_is_measured(*bank) == Some(false);
            !self.stated.banks.iter().any(is_other)
        };
        let mut deviates =
            |pcr: u32, text: String, found: Option<String>, accepts: &dyn Fn(&FirmwareDeviation) -> bool| {
                let is_it = |item: &&FirmwareDeviation| {
                    u32::from(item.pcr) == pcr && pinned.contains(&item.pcr) && accepts(item)
                };
                let finding = match reference.firmware_deviations.iter().find(is_it) {
                    Some(item) => {
                        let text = format!(
                            "{text}; the policy accepts this of the firmware (firmware-deviations: {})",
                            item.shown(set)
                        );
                        Finding::tolerated(Rule::Boot, Subject::Node, text)
                    }
                    None => fail(text),
                };
                findings.push(found.into_iter().fold(finding, Finding::found));
            };
        let irregular = self.log.without_separator();
        for pcr in 0..set.firmware() as u32 {
            let separators: Vec<&Event> = self.log.separators(pcr).collect();
            if !irregular.contains(&pcr) && separators.iter().all(|event| is_measured(event)) {
                continue;
            }
            let text = format!(
                "the boot log has not exactly one separator without an error for {set} {pcr}: the firmware \
                 did not end as it should"
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
        for event in events.filter(|event| (event.pcr as usize) < set.count() && !is_measured(event)) {
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
        self.stated.banks.iter().all(has)
    }

    /// IMA began on top of these registers.
    fn ties(&self, findings: &mut Findings) {
        let first = self.stated.lines.first();
        let stated = first
            .filter(|line| line.path == Some(BOOT_AGGREGATE))
            .and_then(|line| line.file.as_ref());
        let Some(stated) = stated else {
            findings.push(fail("the list does not begin with a boot_aggregate"));
            return;
        };
        // Without a TPM it is over nothing: the kernel writes zeros.
        let Some(tpm) = self.stated.tpm else { return };
        match tpm.registers.boot(stated.bank()) {
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
