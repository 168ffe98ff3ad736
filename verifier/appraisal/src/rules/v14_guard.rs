//! V14: nobody touched the collector's own parts, and the programs watched over them as the policy wants.
//!
//! Promise: every record of the guard is spoken of; what was done to the collector is the node's, no matter
//! who did it; what was denied to a pod is that pod's; what the collector's settings did to a pod is that
//! pod's and no failure. Not here: whether the records are to be believed, and which program is the collector
//! (see `v14_collectors`).

use crate::results::finding::{Finding, Findings, Severity, Subject};
use crate::rules::Rule;
use crate::rules::v05_join::Owned;
use crate::rules::v14_collectors::Succession;
use crate::text::foreign;
use cgpath_evidence::{
    Checkpoint, EventKind, Guard, GuardAction, GuardMode, PartitionKey, Provenance, Record,
};
use cgpath_policy::{GuardLevel, Policy, TpmOpened};
use rayon::prelude::*;

/// [`Record::ret`] of what the programs denied: `-EPERM`. Any other value is none that they write.
const DENIED: i32 = -1;

/// Records that one thread looks at, at a time, where few are of the kind that is looked for.
pub(crate) const BATCH: usize = 4096;

/// What was said of the guard so far.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The first checkpoint that states less than the policy wants.
    short: Option<Finding>,
    collectors: Succession,
    findings: Findings,
}

impl Watch {
    pub(crate) fn conclude(&self, policy: &Policy, findings: &mut Findings) {
        findings.extend(self.short.clone());
        self.collectors.conclude(&policy.file.accept.collector, findings);
        findings.absorb(&self.findings);
    }

    /// Every checkpoint states at least the protection that the policy wants, and is of a program that may
    /// go on with the chain.
    pub(crate) fn sealed(&mut self, checkpoint: &Checkpoint, policy: &Policy) {
        self.collectors.sealed(checkpoint);
        let wanted = policy.file.guard.at_least;
        let least = match wanted {
            GuardLevel::Off => return,
            GuardLevel::Record => GuardMode::Record,
            GuardLevel::Deny => GuardMode::Deny,
        };
        if self.short.is_some() || checkpoint.protection.is_some_and(|p| p.guard >= least) {
            return;
        }
        let found = match checkpoint.protection.map(|p| p.guard) {
            None => "nothing",
            Some(GuardMode::Off) => "off",
            Some(GuardMode::Record) => "record",
            Some(GuardMode::Deny) => "deny",
        };
        let text = format!(
            "when checkpoint {} was sealed, the collector's parts were guarded less than the policy wants",
            checkpoint.number
        );
        let finding = Finding::fail(Rule::Guard, Subject::Node, text)
            .found(format!("guard.mode {found}"))
            .expected(format!("at least {wanted}"));
        self.short = Some(finding);
    }

    /// Records that are new.
    pub(crate) fn step(&mut self, records: &[Owned<'_>], policy: &Policy) {
        let collector = policy.file.accept.collector.as_bytes();
        let is_collectors = |key: PartitionKey, record: &Record| {
            key == PartitionKey::Host && record.kind == EventKind::Execution && record.path == collector
        };
        let concerns = |(key, record): &&Owned<'_>| {
            record.kind == EventKind::Guard || record.guard.is_some() || is_collectors(*key, record)
        };
        let all: Vec<&Owned<'_>> = records.par_iter().with_min_len(BATCH).filter(concerns).collect();
        for (key, record) in all {
            if is_collectors(*key, record) {
                self.collectors.executed(record);
            }
            let fail = |text: &str| {
                Finding::fail(Rule::Guard, Subject::Node, text)
                    .at_seq(record.seq)
                    .resting_on(Provenance::Observed)
            };
            match (record.kind, record.guard) {
                (EventKind::Guard, Some(guard)) => self.touched(*key, record, guard, policy),
                (EventKind::Guard, None) => self
                    .findings
                    .push(fail("a record of the guard does not say what was done")),
                (_, Some(_)) => self
                    .findings
                    .push(fail("a record of another kind speaks for the guard")),
                (_, None) => {}
            }
        }
        self.collectors.step();
    }

    fn touched(&mut self, key: PartitionKey, record: &Record, guard: Guard, policy: &Policy) {
        let finding = finding(key, record, guard, policy);
        let exe = record.ancestry.first().map(|process| process.exe.as_slice());
        // A new binary that was started as it is touches them all: one line says so.
        if finding.severity == Severity::Fail
            && key == PartitionKey::Host
            && !guard.action.is_enforcement()
            && exe == Some(policy.file.accept.collector.as_bytes())
        {
            self.collectors
                .touched(record, record.ret == DENIED, || who(record));
            return;
        }
        self.findings.push(finding);
    }
}

/// What one record of the guard says.
fn finding(key: PartitionKey, record: &Record, guard: Guard, policy: &Policy) -> Finding {
    let Guard { action, object } = guard;
    let is_denied = record.ret == DENIED;
    let finding = if action.is_enforcement() {
        match key {
            PartitionKey::Pod(_) => {
                Finding::note(Rule::Guard, Subject::Partition(key), what(action)).found(who(record))
            }
            // The programs never do this: what says so was not made by them.
            _ => Finding::fail(
                Rule::Guard,
                Subject::Node,
                format!("{}, outside of all pods", what(action)),
            )
            .found(who(record)),
        }
    } else {
        // The programs see the call before the kernel has decided everything: they know what they denied, not
        // what succeeded.
        let outcome = if is_denied { "denied" } else { "not denied" };
        let number = if object == 0 {
            String::new()
        } else {
            format!(" (number {object})")
        };
        let text = format!("{}{number}: {outcome}", what(action));
        // A denied call changed nothing of the node. If it counted against the node, a pod could make the
        // node fail at will.
        let subject = match key {
            PartitionKey::Pod(_) if is_denied => Subject::Partition(key),
            _ => Subject::Node,
        };
        let finding = Finding::fail(Rule::Guard, subject, text).found(who(record));
        let severity =
            if action == GuardAction::TpmOpened && policy.file.guard.tpm_opened == TpmOpened::Report {
                Severity::Note
            } else if policy.file.guard.tolerate.contains(&action) {
                Severity::Tolerated
            } else {
                Severity::Fail
            };
        Finding { severity, ..finding }
    };
    let finding = finding.at_seq(record.seq).resting_on(Provenance::Observed);
    if record.path.is_empty() {
        finding
    } else {
        finding.at_path(&record.path)
    }
}

fn what(action: GuardAction) -> &'static str {
    match action {
        GuardAction::MapOpened => "somebody else took hold of one of the collector's maps, to write it",
        GuardAction::MapRead => "somebody else took hold of one of the collector's maps, to read it",
        GuardAction::ProgramOpened => "somebody else took hold of one of the collector's programs",
        GuardAction::LinkOpened => "somebody else took hold of a link of the collector's programs",
        GuardAction::LinkChanged => "a link of the collector's programs was to be detached or changed",
        GuardAction::PinRemoved => "a pin of the collector's programs was removed",
        GuardAction::PinRenamed => "a pin of the collector's programs was renamed",
        GuardAction::DirectoryRemoved => "the directory of the collector's pins was removed",
        GuardAction::Unmounted => "the file system of the collector's pins was unmounted",
        GuardAction::Traced => "somebody reached into the collector's process",
        GuardAction::TpmOpened => "somebody else opened the TPM",
        GuardAction::TpmUnbound => "somebody opened a file that takes the TPM from its driver",
        GuardAction::FtraceOpened => {
            "kernel.ftrace_enabled was opened for writing, which can stop the collector's programs"
        }
        GuardAction::ExecutionDenied => "an execution was denied, since the verifier did not trust the pod",
        GuardAction::MappingDenied => {
            "an executable mapping was denied, since the verifier did not trust the pod"
        }
        GuardAction::ExecutionDeniedOnLoss => "an execution was denied, since records had been lost",
        GuardAction::ExecutionDeniedOnEntries => {
            "an execution was denied, since the pod has as many entries of IMA's list as its node allows"
        }
        GuardAction::MappingDeniedOnEntries => {
            "an executable mapping was denied, since the pod has as many entries of IMA's list as its node \
             allows"
        }
    }
}

/// The process, by what is known of it.
pub(super) fn who(record: &Record) -> String {
    const SHOWN: usize = 6;
    let name = |exe: &[u8]| {
        if exe.is_empty() {
            "?".to_owned()
        } else {
            foreign(exe)
        }
    };
    let mut lineage: Vec<String> = record
        .ancestry
        .iter()
        .take(SHOWN)
        .map(|process| name(&process.exe))
        .collect();
    if record.ancestry.len() > SHOWN || record.ancestry_cut {
        lineage.push("…".to_owned());
    }
    let cgroup = record
        .cgroup
        .as_deref()
        .map_or_else(|| "unknown".to_owned(), foreign);
    format!(
        "pid {}, uid {}, cgroup {cgroup}, {}",
        record.pid,
        record.uid,
        lineage.join(" < ")
    )
}
