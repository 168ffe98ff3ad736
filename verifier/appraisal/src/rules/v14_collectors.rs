//! V14, the collector itself: a chain goes on by a program that the checkpoint before counts as the
//! collector, a new program counts only where its own execution is among the records that this seals, and
//! eBPF programs are replaced by a new program's alone.
//!
//! Promise: a restart of the same program says nothing; what another one at the collector's path did to the
//! collector's parts is one failure, however often it did it. Not here: whether the policy accepts a program,
//! and whether the list has it (see `v11_foundations`).

use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use cgpath_evidence::{
    Checkpoint, Collectors, Digest, EventKind, FileHash, Provenance, Record, merkle::Hash,
};
use std::collections::{BTreeMap, HashSet};

/// Programs that a finding names at most.
const SHOWN: usize = 3;

/// Which programs were the collector so far.
#[derive(Debug, Default)]
pub(crate) struct Succession {
    /// What the last checkpoint states: starts of the collector, and which programs count.
    last: Option<(u32, Option<Collectors>)>,
    /// Which objects' eBPF programs it states: those loaded, and those in their places.
    objects: Option<[Hash; 2]>,
    counted: HashSet<Digest>,
    /// Handovers whose program's execution no record shows yet.
    named: Vec<Named>,
    /// Programs that the host executed at the collector's path, by the lowest number of such a record.
    executed: BTreeMap<Digest, u64>,
    /// The first checkpoint that a program sealed which did not count.
    usurped: Option<Usurped>,
    /// What other programs there did to the collector's parts; by whether it was denied.
    strangers: BTreeMap<bool, Touches>,
    findings: Findings,
}

/// A checkpoint that a program sealed which did not count as the collector.
#[derive(Debug)]
struct Usurped {
    checkpoint: u64,
    /// Absent where the checkpoint does not say.
    program: Option<Digest>,
    /// What counted before; absent where the checkpoint before does not say.
    before: Option<Collectors>,
}

/// A program that a checkpoint names first.
#[derive(Debug)]
struct Named {
    program: Digest,
    checkpoint: u64,
    /// Records that it seals have no higher number.
    last_seq: u64,
}

/// What was done to the collector's parts.
#[derive(Debug)]
struct Touches {
    count: u64,
    /// The lowest number of their records, and the process of that one, in words.
    first: u64,
    by: String,
}

/// What is to be done once another program was started.
const REMEDY: &str = "reboot the node, and run `cgpathd handover` before the next upgrade";

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Guard, Subject::Node, text)
}

impl Usurped {
    /// With what else is known of the program.
    fn finding(&self, more: &str) -> Finding {
        let text = format!(
            "checkpoint {} was sealed by a program that did not count as the collector{more}: it was started \
             without a handover; {REMEDY}",
            self.checkpoint
        );
        let found = self.program.as_ref().map(named);
        let found = found.unwrap_or_else(|| "a program that the checkpoint does not name".to_owned());
        expecting(fail(text).found(found), self.before.as_ref())
    }
}

impl Succession {
    /// The next checkpoint.
    pub(crate) fn sealed(&mut self, checkpoint: &Checkpoint) {
        let now = checkpoint.collectors.as_ref();
        let before = self.last.replace((checkpoint.starts, now.cloned()));
        self.programs(
            checkpoint,
            before.as_ref().and_then(|(_, before)| before.as_ref()),
        );
        match (before, now) {
            (None, now) => {
                if let Some(successor) = now.and_then(|now| now.successor.as_ref()) {
                    let text =
                        "checkpoint 0 counts a second program as the collector: there was no handover yet";
                    self.findings.push(fail(text).found(named(successor)));
                }
            }
            (Some((_, None)), None) => {}
            (Some((starts, Some(before))), Some(now)) if before.counts(&now.program) => {
                self.goes_on(checkpoint, starts, &before, now);
            }
            (Some((_, before)), now) => {
                let usurped = Usurped {
                    checkpoint: checkpoint.number,
                    program: now.map(|now| now.program.clone()),
                    before,
                };
                match &self.usurped {
                    None => self.usurped = Some(usurped),
                    Some(_) => self.findings.push(usurped.finding("")),
                }
            }
        }
        self.counted
            .extend(now.into_iter().flat_map(Collectors::all).cloned());
    }

    /// The eBPF programs that a checkpoint states; `before` is what counted until then.
    fn programs(&mut self, checkpoint: &Checkpoint, before: Option<&Collectors>) {
        let n = checkpoint.number;
        let now = [checkpoint.bpf_object, checkpoint.bpf_running()];
        let Some(was) = self.objects.replace(now) else {
            if checkpoint.bpf_placed.is_some() {
                let text = "checkpoint 0 states that eBPF programs were replaced: there was no handover yet";
                self.findings.push(fail(text).found(object(&now[1])));
            }
            return;
        };
        if now[0] != was[0] {
            let text = format!(
                "checkpoint {n} states other eBPF programs than the one before, and none can be loaded again \
                 within a boot: {REMEDY}"
            );
            self.findings
                .push(fail(text).found(object(&now[0])).expected(object(&was[0])));
        }
        let program = checkpoint.collectors.as_ref().map(|now| &now.program);
        let is_handover = before.zip(program).is_some_and(|(before, program)| {
            before.program != *program && before.successor.as_ref() == Some(program)
        });
        if now[1] != was[1] && now[0] == was[0] && !is_handover {
            let text = format!(
                "the eBPF programs were replaced before checkpoint {n}, and there was no handover: {REMEDY}"
            );
            self.findings
                .push(fail(text).found(object(&now[1])).expected(object(&was[1])));
        }
    }

    /// A checkpoint of a program that the one before counts.
    fn goes_on(&mut self, checkpoint: &Checkpoint, starts: u32, before: &Collectors, now: &Collectors) {
        let n = checkpoint.number;
        if now.program != before.program && checkpoint.starts <= starts {
            let text = format!("another program sealed checkpoint {n}, and no collector was started");
            let finding = fail(text).found(named(&now.program));
            self.findings.push(expecting(finding, Some(before)));
        }
        if let Some(successor) = now.successor.as_ref().filter(|next| !before.counts(next)) {
            self.named.push(Named {
                program: successor.clone(),
                checkpoint: n,
                last_seq: checkpoint.last_seq,
            });
        }
    }

    /// A record of the host's that says what was executed at the collector's path.
    pub(crate) fn executed(&mut self, record: &Record) {
        if record.kind == EventKind::Execution
            && !record.path_cut
            && let Some(FileHash::Measured(program)) = &record.hash
        {
            let seq = self.executed.entry(program.clone()).or_insert(record.seq);
            *seq = record.seq.min(*seq);
        }
    }

    /// Something at the collector's path that is not the collector touched its parts; `by` is the process in
    /// words.
    pub(crate) fn touched(&mut self, record: &Record, is_denied: bool, by: impl FnOnce() -> String) {
        let touches = self.strangers.entry(is_denied).or_insert_with(|| Touches {
            count: 0,
            first: u64::MAX,
            by: String::new(),
        });
        touches.count = touches.count.saturating_add(1);
        if record.seq < touches.first {
            touches.first = record.seq;
            touches.by = by();
        }
    }

    /// All records of the round were looked at.
    pub(crate) fn step(&mut self) {
        let executed = &self.executed;
        let is_open = |named: &Named| {
            let first = executed.get(&named.program);
            first.is_none_or(|seq| *seq > named.last_seq)
        };
        self.named.retain(is_open);
    }

    pub(crate) fn conclude(&self, collector: &str, findings: &mut Findings) {
        findings.absorb(&self.findings);
        findings.extend(self.named.iter().map(|one| {
            let text = format!(
                "checkpoint {} hands over to a program whose execution is not among the records that it \
                 seals",
                one.checkpoint
            );
            fail(text)
                .at_path(collector.as_bytes())
                .found(named(&one.program))
        }));
        // Who went on with the chain had to take hold of the parts: one line for both.
        let reached = |touches: &Touches| {
            format!(
                " and that reached for the collector's parts {} time(s)",
                touches.count
            )
        };
        findings.extend(self.usurped.iter().map(|usurped| {
            let reached = self.strangers.get(&false).map(reached);
            usurped.finding(&reached.unwrap_or_default())
        }));
        let alone = |(is_denied, _): &(&bool, &Touches)| **is_denied || self.usurped.is_none();
        findings.extend(self.strangers.iter().filter(alone).map(|(is_denied, touches)| {
            let Touches { count, first, by } = touches;
            let outcome = if *is_denied { "denied" } else { "not denied" };
            let text = format!(
                "another program than the collector, at the collector's path, reached for the collector's \
                 parts {count} time(s): {outcome}; it was started without a handover, or under a tracer: \
                 {REMEDY}"
            );
            let finding = fail(text)
                .at_path(collector.as_bytes())
                .at_seq(*first)
                .found(format!("{}first {by}", self.others()))
                .resting_on(Provenance::Observed);
            let counting = self.last.as_ref().and_then(|(_, counting)| counting.as_ref());
            expecting(finding, counting)
        }));
    }

    /// What was executed at the collector's path and never counted.
    fn others(&self) -> String {
        // Where no checkpoint says what counts, all that ran there is of no use.
        if self.counted.is_empty() {
            return String::new();
        }
        let mut others = self
            .executed
            .keys()
            .filter(|program| !self.counted.contains(*program));
        let mut text: String = others
            .by_ref()
            .take(SHOWN)
            .map(|program| format!("{}, ", named(program)))
            .collect();
        if others.next().is_some() {
            text.push_str("…, ");
        }
        text
    }
}

/// A program in words: its hash alone would make a finding one of contents.
fn named(program: &Digest) -> String {
    format!("program {program}")
}

/// An object in words, for the same reason.
fn object(hash: &Hash) -> String {
    format!("BPF object sha256:{}", hex::encode(hash))
}

fn expecting(finding: Finding, counting: Option<&Collectors>) -> Finding {
    let counting = counting.into_iter().flat_map(Collectors::all);
    counting.map(named).fold(finding, Finding::expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_evidence::Bank;

    #[test]
    fn a_program_and_an_object_are_never_named_by_their_hash_alone() {
        let program = Bank::Sha256.hash(&[b"any"]);
        for found in [named(&program), object(&[7; 32])] {
            assert!(!crate::accept::names_content(&fail("text").found(found)));
        }
    }
}
