//! V5, first half: the records of the evidence are exactly those that the last checkpoint sealed.
//!
//! Promise: nothing is taken from a record before every leaf, size, root and count was recomputed here. Not
//! here: how records join entries (see `v05_join`).

use crate::inputs::context::{NodeState, Shown};
use crate::inputs::round::Rebuild;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::rules::names::is_numbered;
use crate::rules::v04_chain::Chain;
use cgpath_evidence::{
    PartitionKey, PartitionLog, Record,
    cgroup::partition_of,
    merkle::{self, Frontier, Hash},
    partition::{Partitions, partitions_root},
};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Records that one thread hashes at a time: the leaves of a complete tree of this height.
const HEIGHT: u32 = 10;

/// What a record is sealed as, and what the counts need of it.
struct Leaf {
    leaf: Hash,
    seq: u64,
    is_execution: bool,
    /// Whose its cgroup says that it is.
    owner: PartitionKey,
}

/// The records of one partition as they stand in the evidence.
pub(crate) struct Log {
    key: PartitionKey,
    records: Vec<Leaf>,
    tree: Frontier,
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Records, Subject::Node, text)
}

/// Hashes all records. Nothing is judged yet, so that this can be done beside other work.
pub(crate) fn logs(partitions: &[PartitionLog]) -> Vec<Log> {
    let log = |log: &PartitionLog| {
        let mut records: Vec<Leaf> = Vec::new();
        let of_record = |buffer: &mut Vec<u8>, record: &Record| Leaf {
            leaf: record.leaf_hash_in(buffer),
            seq: record.seq,
            is_execution: record.is_execution(),
            owner: partition_of(record.cgroup.as_deref()),
        };
        let batches = log.records.par_iter().with_min_len(1 << HEIGHT);
        batches
            .map_init(Vec::new, of_record)
            .collect_into_vec(&mut records);
        let tree = |batch: &[Leaf]| merkle::root(batch.iter().map(|record| record.leaf));
        let roots: Vec<Hash> = records.par_chunks_exact(1 << HEIGHT).map(tree).collect();
        let mut tree = Frontier::default();
        let mut whole = 0;
        for root in roots {
            if !tree.push_tree(HEIGHT, root) {
                break;
            }
            whole += 1 << HEIGHT;
        }
        for record in records.iter().skip(whole) {
            tree.push(record.leaf);
        }
        Log {
            key: log.key,
            records,
            tree,
        }
    };
    partitions.iter().map(log).collect()
}

/// What was sealed, as far as it was seen.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    partitions: Partitions,
    records: u64,
    executions: u64,
    max_seq: u64,
}

impl Sealed {
    /// The partitions with their sizes.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (PartitionKey, u64)> {
        self.partitions.iter().map(|(key, log)| (*key, log.size()))
    }

    /// Takes the records that are new, which the new checkpoints sealed.
    ///
    /// # Errors
    /// [`Rebuild`] for a record that comes out of order: only the whole shows whether its number was given
    /// before.
    pub(crate) fn step(
        &mut self,
        round: &[PartitionLog],
        logs: &[Log],
        chain: &Chain,
        findings: &mut Findings,
    ) -> Result<(), Rebuild> {
        let mut keys = BTreeSet::new();
        let mut seqs: Vec<(u64, &Record)> = Vec::new();
        let last_seq = chain.last().map_or(0, |last| last.last_seq);
        for (log, hashed) in round.iter().zip(logs) {
            let subject = Subject::Partition(log.key);
            if !keys.insert(log.key) {
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
            seqs.reserve(log.records.len());
            for (record, sealed) in log.records.iter().zip(&hashed.records) {
                self.records += 1;
                self.executions += u64::from(sealed.is_execution);
                if is_numbered(record) {
                    if sealed.seq <= self.max_seq && self.max_seq > 0 {
                        return Err(Rebuild);
                    }
                    seqs.push((sealed.seq, record));
                    if sealed.seq == 0 || sealed.seq > last_seq {
                        findings.push(
                            fail("a record's sequence number is not one that the last checkpoint knows")
                                .at_seq(sealed.seq)
                                .found(sealed.seq)
                                .expected(format!("1 to {last_seq}")),
                        );
                    }
                }
                if sealed.owner != log.key {
                    // Whose it is must not depend on who listed it: it counts for neither until that is
                    // settled.
                    findings.push(
                        Finding {
                            subject,
                            ..fail("a record stands in a partition that is not its cgroup's")
                        }
                        .at_seq(sealed.seq)
                        .at_path(&record.path)
                        .found(log.key)
                        .expected(sealed.owner),
                    );
                    findings.push(fail(format!(
                        "record {} stands in partition {} and its cgroup is that of {}",
                        sealed.seq, log.key, sealed.owner
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
        self.max_seq = seqs.last().map_or(self.max_seq, |(seq, _)| *seq);
        for log in logs {
            let leaves = log.records.iter().map(|record| record.leaf);
            self.partitions.append(log.key, &log.tree, leaves);
        }
        self.is_whole(chain, findings);
        Ok(())
    }

    /// The records are exactly those that the last checkpoint sealed.
    fn is_whole(&mut self, chain: &Chain, findings: &mut Findings) {
        let Some(last) = chain.last() else {
            findings.push(fail("no checkpoint seals the records of this evidence"));
            return;
        };
        let n = last.number;
        let counts = [
            ("records", last.records, self.records),
            ("executions", last.executions, self.executions),
            ("partitions", last.partitions, self.partitions.len() as u64),
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
        let root = self.partitions.root();
        if root != last.partitions_root {
            findings.push(
                fail(format!(
                    "a record was altered, dropped, added or moved: the partitions root is not that \
                    of checkpoint {n}"
                ))
                .found(hex::encode(root))
                .expected(hex::encode(last.partitions_root)),
            );
        }
    }
}

/// What was sealed at the last accepted evidence still stands first, unaltered, in each partition. For all
/// records.
pub(crate) fn continues(logs: &[Log], chain: &Chain, before: &NodeState, findings: &mut Findings) {
    let (Some(remembered), Some(root)) = (&before.checkpoint, chain.seen_root()) else {
        // Reported by the chain.
        return;
    };
    let mut parts = BTreeMap::new();
    for (key, size) in &remembered.partitions {
        let held = || {
            let own = logs.iter().filter(|log| log.key == *key);
            own.flat_map(|log| &log.records)
        };
        let mut tree = Frontier::default();
        for record in held().take(usize::try_from(*size).unwrap_or(usize::MAX)) {
            tree.push(record.leaf);
        }
        if tree.size() < *size {
            findings.push(
                fail(format!("partition {key} shrank"))
                    .found(held().count())
                    .expected(format!("at least {size} records")),
            );
            return;
        }
        parts.insert(*key, tree);
    }
    if partitions_root(&parts) != root {
        findings.push(fail(format!(
            "records that checkpoint {} sealed were altered, dropped or reordered since",
            remembered.number
        )));
    }
}

/// What was shown behind the last seal was sealed unchanged by the next one.
pub(crate) fn keeps_word(logs: &[Log], shown: &[Shown], findings: &mut Findings) {
    if shown.is_empty() {
        return;
    }
    let wanted: HashMap<u64, &Shown> = shown.iter().map(|shown| (shown.seq, shown)).collect();
    let mut found = 0;
    for log in logs {
        for record in &log.records {
            if let Some(shown) = wanted.get(&record.seq)
                && shown.key == log.key
                && shown.leaf == record.leaf
            {
                found += 1;
            }
        }
    }
    if found < wanted.len() {
        findings.push(
            fail(
                "records that were shown before they were sealed were altered, dropped or moved when they \
                were",
            )
            .found(format!("{found} of them unaltered"))
            .expected(wanted.len()),
        );
    }
}
