//! V5, first half: the records of the evidence are exactly those that the last checkpoint sealed.
//!
//! Promise: nothing is taken from a record before every leaf, size, root and count was recomputed here. Not here: how
//! records join entries (see `join`).

use super::{
    chain::Chain,
    context::NodeState,
    finding::{Finding, Findings, Rule, Subject},
    history::Relation,
};
use evidence::{
    Evidence, PartitionKey, Record,
    cgroup::partition_of,
    merkle::{Frontier, Hash},
    partition::partitions_root,
};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Records that one thread hashes at a time.
const BATCH: usize = 1024;

/// Leaf hashes by partition, in order.
pub(crate) type Leaves = BTreeMap<PartitionKey, Vec<Hash>>;

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::V5, Subject::Node, text)
}

fn frontiers<'a>(
    sizes: impl IntoIterator<Item = (PartitionKey, &'a [Hash])>,
) -> BTreeMap<PartitionKey, Frontier> {
    let mut out = BTreeMap::new();
    for (key, leaves) in sizes {
        let frontier: &mut Frontier = out.entry(key).or_default();
        for leaf in leaves {
            frontier.push(*leaf);
        }
    }
    out
}

pub(crate) fn check(evidence: &Evidence, chain: &Chain, findings: &mut Findings) -> Leaves {
    let mut leaves = Leaves::new();
    let mut executions = 0u64;
    let mut records = 0u64;
    let mut seqs: Vec<(u64, &Record)> = Vec::new();
    let last_seq = chain.last().map_or(0, |last| last.last_seq);
    for log in &evidence.partitions {
        let subject = Subject::Partition(log.key);
        if leaves.contains_key(&log.key) {
            findings.push(fail(format!(
                "partition {} stands twice in the evidence",
                log.key
            )));
        }
        if log.records.is_empty() {
            findings.push(fail(format!(
                "partition {} stands in the evidence without a record",
                log.key
            )));
        }
        if log.key == PartitionKey::Boot && !log.records.is_empty() {
            findings.push(fail(
                "the boot partition holds records; it is defined by checkpoint 0 alone",
            ));
        }
        let leaf_and_owner = |buffer: &mut Vec<u8>, record: &Record| {
            (
                record.leaf_hash_in(buffer),
                partition_of(record.cgroup.as_deref()),
            )
        };
        let of_records: Vec<(Hash, PartitionKey)> = log
            .records
            .par_iter()
            .with_min_len(BATCH)
            .map_init(Vec::new, leaf_and_owner)
            .collect();
        let hashes = leaves.entry(log.key).or_default();
        hashes.reserve(of_records.len());
        for (record, (hash, of_path)) in log.records.iter().zip(of_records) {
            hashes.push(hash);
            records += 1;
            executions += u64::from(record.is_execution());
            seqs.push((record.seq, record));
            if record.seq == 0 || record.seq > last_seq {
                findings.push(
                    fail("a record's sequence number is not one that the last checkpoint knows")
                        .at_seq(record.seq)
                        .found(record.seq)
                        .expected(format!("1 to {last_seq}")),
                );
            }
            if of_path != log.key {
                // Whose it is must not depend on who listed it: it counts for neither until that is settled.
                findings.push(
                    Finding {
                        subject,
                        ..fail("a record stands in a partition that is not its cgroup's")
                    }
                    .at_seq(record.seq)
                    .at_path(&record.path)
                    .found(log.key)
                    .expected(of_path),
                );
                findings.push(fail(format!(
                    "record {} stands in partition {} and its cgroup is that of {of_path}",
                    record.seq, log.key
                )));
            }
        }
    }
    // A sort that keeps the order of equals: the later one is who took another's number.
    seqs.sort_by_key(|(seq, _)| *seq);
    for pair in seqs.windows(2) {
        if let [(first, _), (second, record)] = pair
            && first == second
        {
            findings.push(
                fail("a sequence number was given twice")
                    .at_seq(*second)
                    .at_path(&record.path),
            );
        }
    }
    let Some(last) = chain.last() else {
        findings.push(fail("no checkpoint seals the records of this evidence"));
        return leaves;
    };
    let n = last.number;
    let counts = [
        ("records", last.records, records),
        ("executions", last.executions, executions),
        ("partitions", last.partitions, leaves.len() as u64),
    ];
    for (what, sealed, held) in counts {
        if sealed != held {
            findings.push(
                fail(format!(
                    "the evidence does not hold the {what} that checkpoint {n} sealed"
                ))
                .found(held)
                .expected(sealed),
            );
        }
    }
    let root = partitions_root(&frontiers(leaves.iter().map(|(key, l)| (*key, l.as_slice()))));
    if root != last.partitions_root {
        findings.push(
            fail(format!("a record was altered, dropped, added or moved: the partitions root is not that of checkpoint {n}"))
                .found(hex::encode(root))
                .expected(hex::encode(last.partitions_root)),
        );
    }
    leaves
}

/// What was sealed at the last accepted evidence still stands first, unaltered, in each partition.
pub(crate) fn continues(
    leaves: &Leaves,
    chain: &Chain,
    before: &NodeState,
    relation: Relation,
    findings: &mut Findings,
) {
    let (Relation::SameBoot, Some(remembered)) = (relation, &before.checkpoint) else {
        return;
    };
    let Some(sealed) = usize::try_from(remembered.number)
        .ok()
        .and_then(|n| chain.checkpoints.get(n))
    else {
        // Reported by the chain.
        return;
    };
    let mut parts = Vec::new();
    for (key, size) in &remembered.partitions {
        let held = leaves.get(key).map_or(&[][..], Vec::as_slice);
        match usize::try_from(*size).ok().and_then(|size| held.get(..size)) {
            Some(prefix) => parts.push((*key, prefix)),
            None => {
                findings.push(
                    fail(format!("partition {key} shrank"))
                        .found(held.len())
                        .expected(format!("at least {size} records")),
                );
                return;
            }
        }
    }
    if partitions_root(&frontiers(parts)) != sealed.checkpoint.partitions_root {
        findings.push(fail(format!(
            "records that checkpoint {} sealed were altered, dropped or reordered since",
            remembered.number
        )));
    }
}
