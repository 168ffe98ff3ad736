//! V10: what was measured into the registers that a policy's `events` and `command-lines` speak of, judged by
//! digest.
//!
//! Promise: no event of such a register is passed over for what the log says of it. A digest covers neither
//! type nor tag nor text, so the sender of the log chooses them: each event has a digest that the policy
//! names for its register and type, or that of an accepted command line, or holds data that the firmware
//! profile fixes and that is what was hashed, or its register as a whole has a value that the policy pins.
//! Not here: whether the log leads to the quoted registers (see `v10_boot`).

use crate::results::finding::{Finding, Findings};
use crate::rules::v10_boot::{fail, named};
use crate::text::escape;
use cgpath_evidence::{
    Bank, Digest,
    boot::{CommandLine, Event, EventLog, EventType, Hashed, RegisterSet},
};
use cgpath_policy::BootPolicy;
use std::collections::{BTreeMap, BTreeSet};

/// Of a register's events that nothing accepts, findings show this many.
const MAX_SHOWN: usize = 8;

pub(super) struct Measured<'a> {
    log: &'a EventLog<'a>,
    banks: &'a [Bank],
    reference: &'a BootPolicy,
    /// The command line that the node states.
    command_line: Option<&'a str>,
    /// Registers whose whole value the policy accepts, in each bank.
    pinned: &'a BTreeSet<u8>,
    lines: BTreeMap<u64, CommandLine<'a>>,
    accepted_lines: BTreeSet<(Hashed, Digest)>,
    /// By register and type: the digests that are named.
    named: BTreeMap<(u32, EventType), BTreeSet<&'a Digest>>,
}

impl<'a> Measured<'a> {
    pub(super) fn new(
        log: &'a EventLog<'a>,
        banks: &'a [Bank],
        reference: &'a BootPolicy,
        command_line: Option<&'a [u8]>,
        pinned: &'a BTreeSet<u8>,
    ) -> Measured<'a> {
        let mut accepted_lines = BTreeSet::new();
        for line in &reference.command_lines {
            for (hashed, bank) in [Hashed::Wide, Hashed::Bytes]
                .into_iter()
                .flat_map(|hashed| banks.iter().map(move |bank| (hashed, *bank)))
            {
                accepted_lines.extend(hashed.digests(line, bank).map(|digest| (hashed, digest)));
            }
        }
        let mut named: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for item in &reference.events {
            let digests = named.entry((u32::from(item.pcr), item.kind)).or_default();
            digests.extend(&item.digests);
        }
        let lines = log.command_lines().map(|line| (line.event().offset, line));
        Measured {
            log,
            banks,
            reference,
            command_line: command_line.and_then(|line| core::str::from_utf8(line).ok()),
            pinned,
            lines: lines.collect(),
            accepted_lines,
            named,
        }
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        let set = self.log.set();
        let checks_lines = !self.reference.command_lines.is_empty();
        let mut spoken_of: BTreeSet<u32> = self.named.keys().map(|(pcr, _)| *pcr).collect();
        if checks_lines {
            spoken_of.extend(self.log.set().command_lines().iter().copied().map(u32::from));
        }
        let mut has_line = false;
        // By register: a boot loader measures hundreds.
        let mut unknown: BTreeMap<u32, usize> = BTreeMap::new();
        let mut measured: BTreeSet<(u32, EventType, &Digest)> = BTreeSet::new();
        // What is said of one that is not accepted names what is: it is not said again that this one is
        // missing.
        let mut refused: BTreeSet<(u32, EventType)> = BTreeSet::new();
        for event in self.log.events() {
            if event.kind == EventType::NO_ACTION || !spoken_of.contains(&event.pcr) {
                continue;
            }
            let line = self.lines.get(&event.offset).filter(|_| checks_lines);
            if line.is_some_and(|line| self.accepts(line)) {
                has_line = true;
                continue;
            }
            let named = self.named.get(&(event.pcr, event.kind));
            if named.is_some_and(|named| self.all(event, |digest| named.contains(digest))) {
                let digests = self.banks.iter().filter_map(|bank| event.digest(*bank));
                measured.extend(digests.map(|digest| (event.pcr, event.kind, digest)));
                continue;
            }
            if let Some(line) = line {
                findings.push(self.wrong_line(line));
                continue;
            }
            let is_bound = named.is_none()
                && (self.is_pinned(event) || self.banks.iter().all(|bank| event.is_known(*bank)));
            if !is_bound {
                refused.insert((event.pcr, event.kind));
                let count = unknown.entry(event.pcr).or_default();
                *count += 1;
                if *count <= MAX_SHOWN {
                    self.unknown(event, named.is_some(), findings);
                }
            }
        }
        for (pcr, more) in unknown
            .into_iter()
            .filter_map(|(pcr, n)| Some((pcr, n.checked_sub(MAX_SHOWN)?)))
        {
            if more > 0 {
                findings.push(fail(format!(
                    "{more} more event(s) of {set} {pcr} were measured, which the policy does not accept"
                )));
            }
        }
        if checks_lines && !has_line {
            let registers: Vec<String> = set.command_lines().iter().map(u8::to_string).collect();
            findings.push(fail(format!(
                "no kernel command line was measured into {set} {}, and the policy names what it must be",
                registers.join(" or ")
            )));
        }
        self.all_are_there(&measured, &refused, findings);
    }

    /// Whether it holds for the event's digest in each bank.
    fn all(&self, event: &Event, is: impl Fn(&Digest) -> bool) -> bool {
        self.banks.iter().all(|bank| event.digest(*bank).is_some_and(&is))
    }

    fn accepts(&self, line: &CommandLine) -> bool {
        let hashed = line.hashed();
        let is_accepted = |digest: &Digest| self.accepted_lines.contains(&(hashed, digest.clone()));
        self.all(line.event(), is_accepted)
    }

    fn is_pinned(&self, event: &Event) -> bool {
        u8::try_from(event.pcr).is_ok_and(|pcr| self.pinned.contains(&pcr))
    }

    /// What the event or the node states is only shown where it is what was measured.
    fn wrong_line(&self, line: &CommandLine) -> Finding {
        let is = |text: &&str| self.banks.iter().all(|bank| line.is(text, *bank));
        let text = line.text().filter(is).or(self.command_line.filter(is));
        let digest = || self.banks.first().and_then(|bank| line.event().digest(*bank));
        let found = match text {
            Some(text) => escape(text.as_bytes()),
            None => digest().map_or_else(|| named(line.event()), Digest::to_string),
        };
        let finding = fail("the kernel command line is not one that the policy accepts").found(found);
        self.reference
            .command_lines
            .iter()
            .fold(finding, Finding::expected)
    }

    /// An event that nothing accepts.
    fn unknown(&self, event: &Event, is_named: bool, findings: &mut Findings) {
        let group = (event.pcr, event.kind);
        let mut text = format!("{} was measured, which the policy does not accept", named(event));
        if !is_named {
            let set = self.log.set();
            let key = match set {
                RegisterSet::Pcr => "boot",
                RegisterSet::Rtmr => "tdx.boot",
            };
            text += &format!(
                ": name its digest in `{key}.events`, or the value of {set} {} in `{key}.registers`",
                event.pcr
            );
        }
        for bank in self.banks {
            let found = event.digest(*bank);
            let accepted =
                |digest: &Digest| self.named.get(&group).is_some_and(|named| named.contains(digest));
            if is_named && found.is_some_and(accepted) {
                continue;
            }
            let finding = found.into_iter().fold(fail(text.as_str()), Finding::found);
            let mut finding = finding;
            for item in self
                .reference
                .events
                .iter()
                .filter(|item| (u32::from(item.pcr), item.kind) == group)
            {
                for digest in item.digests.iter().filter(|digest| digest.bank() == *bank) {
                    finding = finding.expected(format!("{digest} ({})", item.name));
                }
            }
            findings.push(finding);
        }
    }

    /// Each name of the policy was measured; digests under one name are alternatives.
    fn all_are_there(
        &self,
        measured: &BTreeSet<(u32, EventType, &Digest)>,
        refused: &BTreeSet<(u32, EventType)>,
        findings: &mut Findings,
    ) {
        let mut missing: BTreeMap<_, bool> = BTreeMap::new();
        for item in &self.reference.events {
            let pcr = u32::from(item.pcr);
            let is_there = item
                .digests
                .iter()
                .any(|digest| measured.contains(&(pcr, item.kind, digest)));
            let is_missing = missing.entry((item.pcr, item.kind, &item.name)).or_insert(true);
            *is_missing &= !is_there && !item.optional && !refused.contains(&(pcr, item.kind));
        }
        for ((pcr, kind, name), _) in missing.into_iter().filter(|(_, is_missing)| *is_missing) {
            findings.push(
                fail(format!(
                    "nothing of type {kind} with a digest that the policy names so was measured into {} \
                     {pcr}",
                    self.log.set()
                ))
                .expected(name),
            );
        }
    }
}
