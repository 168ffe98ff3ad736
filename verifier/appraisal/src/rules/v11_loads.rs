//! V11: modules and kernels that the kernel was handed as bytes, which IMA does not see.
//!
//! Promise: every such record is spoken of but for a module that the host's reference values have; the kernel
//! is the node's, also where a pod handed it over. Not here: modules and kernels that are files, which stand
//! in the list and are judged as every other content (see `v09_contents`).

use crate::results::finding::{Finding, Findings, Severity, Subject};
use crate::rules::Rule;
use crate::rules::v05_join::Owned;
use crate::rules::v09_contents::unhashed;
use crate::rules::v14_guard::{BATCH, who};
use cgpath_evidence::{EventKind, FileHash, Load, Loaded, PartitionKey, Provenance, Record};
use cgpath_policy::{Kexec, Policy};
use rayon::prelude::*;

/// EFBIG: more bytes than the program hashes (`MAX_LOAD` in ebpf/common).
const TOO_LONG: i32 = -27;

/// What was said of it so far.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    findings: Findings,
    /// Only learned values have one of the modules.
    pub learned: bool,
}

impl Loads {
    /// Records that are new.
    pub(crate) fn step(&mut self, records: &[Owned<'_>], policy: &Policy) {
        let concerns = |(_, record): &&Owned<'_>| record.kind == EventKind::Load || record.load.is_some();
        let all: Vec<&Owned<'_>> = records.par_iter().with_min_len(BATCH).filter(concerns).collect();
        for (key, record) in all {
            let finding = match (record.kind, record.load.as_deref()) {
                (EventKind::Load, Some(load)) => self.loaded(*key, record, *load, policy),
                (EventKind::Load, None) => Some(fail("a record of a load does not say what was loaded")),
                (_, _) => Some(fail("a record of another kind tells of a load")),
            };
            self.findings
                .extend(finding.map(|finding| finding.at_seq(record.seq)));
        }
    }

    pub(crate) fn conclude(&self, findings: &mut Findings) {
        findings.absorb(&self.findings);
    }

    fn loaded(&mut self, key: PartitionKey, record: &Record, load: Load, policy: &Policy) -> Option<Finding> {
        let by = format!("by {key}: {}", who(record));
        if load.what == Loaded::Kexec {
            let finding =
                fail("kexec_load was called, which shows nothing of the kernel that it loads").found(by);
            let severity = match policy.file.kexec {
                Kexec::AllowUnmeasured => Severity::Tolerated,
                Kexec::Allow | Kexec::Deny => Severity::Fail,
            };
            return Some(Finding { severity, ..finding });
        }
        // Its length is of no use without a hash, and with one it follows.
        match &record.hash {
            Some(FileHash::Measured(digest)) => match policy.has_on_host(digest) {
                Some(is_learned) => {
                    self.learned |= is_learned;
                    None
                }
                None => {
                    let text =
                        "a module was handed to the kernel as bytes that no reference value of the host has";
                    Some(fail(text).found(format!("{digest}, {} bytes, {by}", load.size)))
                }
            },
            hash => {
                let text = "a module was handed to the kernel as bytes, and there is no hash to judge it by";
                let why = match hash {
                    Some(FileHash::Unhashed(TOO_LONG)) => "longer than 128 MiB, error -27".to_owned(),
                    Some(FileHash::Unhashed(error)) => unhashed(*error),
                    _ => "none that counts".to_owned(),
                };
                Some(fail(text).found(format!("{why}, {} bytes, {by}", load.size)))
            }
        }
    }
}

fn fail(text: &str) -> Finding {
    Finding::fail(Rule::Host, Subject::Node, text).resting_on(Provenance::Observed)
}
