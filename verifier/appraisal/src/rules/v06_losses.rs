//! V6: what was lost, of the node and of a pod beyond its budget; and checkpoints that were sealed while the
//! programs may have been off.
//!
//! Promise: a pod's loss is the pod's alone, and no tolerance covers it; every other loss is the node's. Not
//! here: what a partition used (see `v09_contents`).

use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::rules::v05_join::{BATCH, Owned};
use cgpath_evidence::{Checkpoint, EventKind, PartitionKey, PodLoss, Provenance};
use cgpath_policy::Policy;
use rayon::prelude::*;

/// How many records the node lost, by its last checkpoint.
pub(crate) fn of_node(last: Option<&Checkpoint>, policy: &Policy, findings: &mut Findings) -> u64 {
    let Some(last) = last else { return 0 };
    findings.extend(lost_finding(last, policy));
    last.losses.total()
}

/// What to say of the losses that a checkpoint states.
pub(crate) fn lost_finding(checkpoint: &Checkpoint, policy: &Policy) -> Option<Finding> {
    let losses = &checkpoint.losses;
    let (lost, tolerance) = (losses.total(), policy.file.tolerance.lost);
    if lost == 0 {
        return None;
    }
    let text = format!(
        "{lost} record(s) were lost: reserve {}, recursion {}, read {}, spool {}",
        losses.reserve, losses.recursion, losses.read, losses.spool
    );
    let finding = if lost > tolerance {
        Finding::fail(Rule::Losses, Subject::Node, text)
    } else {
        Finding::tolerated(Rule::Losses, Subject::Node, text)
    };
    Some(finding.found(lost).expected(format!("at most {tolerance}")))
}

/// A checkpoint that was sealed while the programs may have been off.
pub(crate) fn blind(checkpoint: &Checkpoint, findings: &mut Findings) {
    if checkpoint.blind {
        findings.push(Finding::fail(
            Rule::Losses,
            Subject::Node,
            format!(
                "checkpoint {} is blind: the collector's own canary was not seen, the programs may have been \
                 off",
                checkpoint.number
            ),
        ));
    }
}

/// The finding on what was not recorded for a budget. Only pods have one: a record that says otherwise was
/// not made by our programs.
pub(crate) fn of_partition(key: PartitionKey, (loss, seq): (PodLoss, u64)) -> Finding {
    let (subject, text) = match key {
        PartitionKey::Pod(_) => (
            Subject::Partition(key),
            "the pod did more than its budget lets the node record, so what it ran is not all known: restart \
             the pod, or raise [budget] of cgpathd.toml",
        ),
        _ => (
            Subject::Node,
            "records were dropped for a budget, outside of all pods",
        ),
    };
    let seconds = |ns: u64| format!("{}.{:03} s", ns / 1_000_000_000, ns / 1_000_000 % 1000);
    let finding = Finding::fail(Rule::Losses, subject, text).at_seq(seq).found(format!(
        "not recorded: {} executions, {} mappings, {} denials, {} entries that the list had, or more; the \
         first {} after the boot, the last {}",
        loss.executions,
        loss.mappings,
        loss.denials,
        loss.repeats,
        seconds(loss.first_ns),
        seconds(loss.last_ns),
    ));
    finding.resting_on(Provenance::Observed)
}

/// A record of a loss says what was lost, and no other record does.
pub(crate) fn malformed(records: &[Owned<'_>], findings: &mut Findings) {
    let is_odd = |(_, record): &&Owned<'_>| (record.kind == EventKind::PodLoss) != record.pod_loss.is_some();
    let odd: Vec<&Owned<'_>> = records.par_iter().with_min_len(BATCH).filter(is_odd).collect();
    for (_, record) in odd {
        let text = match record.pod_loss {
            None => "a record of a pod's loss does not say what was lost",
            Some(_) => "a record of another kind tells of a pod's loss",
        };
        let finding = Finding::fail(Rule::Losses, Subject::Node, text).at_seq(record.seq);
        findings.push(finding.resting_on(Provenance::Observed));
    }
}
