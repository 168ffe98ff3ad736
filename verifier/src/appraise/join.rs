//! V5, second half, and the joins of V12: every record of an entry joins one, every entry has its record.
//!
//! Joins go by template digest, never by position: records arrive in another order than the list. A violation has a
//! zero digest and joins by file name and order.

use super::{
    chain::Chain,
    finding::{Finding, Findings, Rule, Severity, Subject},
    view::{self, Line, View, padded_sha1},
};
use crate::text::foreign;
use evidence::{
    Bank, EventKind, Evidence, PartitionKey, Record, cgroup::partition_of, checkpoint::number_from_path,
};
use hashbrown::HashMap;
use policy::Policy;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// `ima_add_template_entry`'s return code for an entry whose template digest is already in the list.
pub(crate) const EEXIST: i32 = -17;

/// A record and its partition.
pub(crate) type Owned<'a> = (PartitionKey, &'a Record);

/// Which record belongs to which entry.
#[derive(Default)]
pub(crate) struct Joins<'a> {
    /// All records, in order.
    records: &'a [Owned<'a>],
    /// By entry: the record of the add that put it there.
    adders: Table,
    /// By the record's place among those in order: the entry that a record of an entry or of a violation joins.
    entry_of: Table,
    /// Entries too new to have their record here.
    pub pending: u64,
    /// Covered entries that should have a record and have none.
    pub unattributed: Vec<usize>,
}

impl<'a> Joins<'a> {
    /// The record of the add that put an entry there.
    fn adder(&self, index: usize) -> Option<&'a Owned<'a>> {
        self.records.get(self.adders.get(index)?)
    }

    /// The entry that a record of an entry or of a violation joins.
    pub(crate) fn entry_of(&self, place: usize) -> Option<usize> {
        self.entry_of.get(place)
    }
}

/// Numbers by number, as far as they are there. Half as long as it could be: it is as long as the list.
#[derive(Default)]
struct Table(Vec<u32>);

impl Table {
    const ABSENT: u32 = u32::MAX;

    fn of(len: usize) -> Table {
        Table(vec![Table::ABSENT; len])
    }

    fn get(&self, at: usize) -> Option<usize> {
        let found = self.0.get(at).filter(|found| **found != Table::ABSENT)?;
        usize::try_from(*found).ok()
    }

    /// Gives what was there before. A number that is too large for any list or log stays absent, which fails.
    fn put(&mut self, at: usize, value: usize) -> Option<usize> {
        let before = self.get(at);
        if let Some(place) = self.0.get_mut(at) {
            *place = u32::try_from(value).unwrap_or(Table::ABSENT);
        }
        before
    }
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::V5, Subject::Node, text)
}

/// All records with their partitions, in order of their sequence numbers.
pub(crate) fn in_order(evidence: &Evidence) -> Vec<Owned<'_>> {
    let mut all: Vec<Owned<'_>> = evidence
        .partitions
        .iter()
        .flat_map(|log| log.records.iter().map(|r| (log.key, r)))
        .collect();
    all.sort_by_key(|(_, r)| r.seq);
    all
}

/// A name as the list writes it: spaces become `_`. Source: ima_write_template_field_data.
fn as_listed(name: &[u8]) -> Vec<u8> {
    name.iter().map(|b| if *b == b' ' { b'_' } else { *b }).collect()
}

pub(crate) fn join<'a>(
    records: &'a [Owned<'a>],
    chain: &Chain,
    view: &View,
    covered: usize,
    policy: &Policy,
    findings: &mut Findings,
) -> Joins<'a> {
    let lines = view.lines.as_slice();
    let mut joins = entries(records, view, covered, findings);
    violations(records, chain, lines, covered, &mut joins, findings);
    lacking(records, chain, lines, covered, policy, &mut joins, findings);
    agreement(lines, &joins, findings);
    joins
}

/// Joins the records of entries with their entries.
pub(crate) fn entries<'a>(
    records: &'a [Owned<'a>],
    view: &View,
    covered: usize,
    findings: &mut Findings,
) -> Joins<'a> {
    let mut joins = Joins {
        records,
        adders: Table::of(view.lines.len()),
        entry_of: Table::of(records.len()),
        ..Joins::default()
    };
    let covered = covered.min(view.lines.len());
    let mut rest = Vec::new();
    for (place, guess) in guesses(records, view, covered).enumerate() {
        match guess {
            // Most records go this way, and are not looked at again.
            Guess::At(entry) if joins.adders.get(entry as usize).is_none() => {
                joins.entry_of.put(place, entry as usize);
                joins.adders.put(entry as usize, place);
            }
            Guess::At(_) | Guess::Unknown => rest.push(place),
            Guess::NoEntry => {}
        }
    }
    let mut indexes = indexes(rest.iter().map(|place| records[*place].1), view, covered);
    for place in rest {
        let (key, record) = &records[place];
        if record.ret != 0 && record.ret != EEXIST {
            findings.push(
                Finding::fail(
                    Rule::V5,
                    Subject::Partition(*key),
                    "IMA could not add an entry: a content was used that is not in the list on this record's account",
                )
                .at_seq(record.seq)
                .at_path(&record.path)
                .found(format!("return code {}", record.ret)),
            );
            continue;
        }
        let found = match wanted(record) {
            None => Err("a record of an entry carries no template digest"),
            Some((bank, digest)) => match indexes.get_mut(&bank).and_then(|index| index.get_mut(digest)) {
                None => Err(NOWHERE),
                Some(same) => same.take(record, view, &joins.adders),
            },
        };
        match found {
            Ok(entry) => {
                joins.entry_of.put(place, entry);
                if record.ret == 0 && joins.adders.put(entry, place).is_some() {
                    findings.push(
                        fail("two records say that they put the same entry into the list")
                            .at_index(entry)
                            .at_seq(record.seq)
                            .at_path(&record.path),
                    );
                }
            }
            Err(text) => findings.push(
                fail(text).at_seq(record.seq).at_path(&record.path).found(
                    record
                        .digests
                        .first()
                        .map_or_else(|| "no digest".to_owned(), ToString::to_string),
                ),
            ),
        }
    }
    joins
}

const NOWHERE: &str = "a record's entry does not stand in the covered part of the list";

/// So far from where the last record's entry was found the next one's is looked for first, in entries.
const NEAR: usize = 16;

/// A record looks at no more entries of its digest: they differ in another bank's or in the register, which no honest list's
/// do, and a node must not make its verifier compare all with all.
const MAX_ALIKE: usize = 4096;

/// Entries of one template digest.
#[derive(Default)]
struct Same {
    /// In the list's order.
    entries: Vec<usize>,
    /// All before this one have their record.
    free: usize,
}

impl Same {
    /// The entry that the record joins, one of these.
    fn take(&mut self, record: &Record, view: &View, adders: &Table) -> Result<usize, &'static str> {
        if self.entries.is_empty() {
            return Err(NOWHERE);
        }
        if record.ret == 0 {
            // Without IMA's hash table the same entry can be listed twice: each add then takes the next one.
            let is_taken = |at: &usize| adders.get(*at).is_some();
            while self.entries.get(self.free).is_some_and(is_taken) {
                self.free += 1;
            }
            let behind = self.entries.get(self.free..).unwrap_or_default();
            let mut behind = behind.iter().copied().take(MAX_ALIKE);
            if let Some(free) = behind.find(|at| !is_taken(at) && is_of(record, view, *at)) {
                return Ok(free);
            }
        }
        let mut alike = self.entries.iter().copied().take(MAX_ALIKE);
        alike
            .find(|at| is_of(record, view, *at))
            .ok_or("a record's template digests are not those of one entry")
    }
}

/// The digest that a record is looked up by. SHA-1 is there on every kernel (`ima_sha1_idx`), and another bank is only needed
/// by a record that lacks it.
fn wanted(record: &Record) -> Option<(Bank, &[u8])> {
    let first = record
        .digests
        .iter()
        .find(|d| d.bank() == Bank::Sha1)
        .or_else(|| record.digests.first())?;
    // A padded SHA-1 is looked up as what it is.
    Some(match padded_sha1(first) {
        Some(sha1) => (Bank::Sha1, sha1),
        None => (first.bank(), first.bytes()),
    })
}

/// The covered entries of each digest that these records are looked up by; of no other, for most records need none.
fn indexes<'a>(
    records: impl Iterator<Item = &'a Record>,
    view: &View,
    covered: usize,
) -> BTreeMap<Bank, HashMap<&'a [u8], Same>> {
    let mut indexes: BTreeMap<Bank, HashMap<&[u8], Same>> = BTreeMap::new();
    for (bank, digest) in records.filter_map(wanted) {
        indexes.entry(bank).or_default().entry(digest).or_default();
    }
    for (bank, index) in &mut indexes {
        let digest = |at: &usize| view.digests.digest(*at, *bank);
        let is_wanted = |at: &usize| digest(at).is_some_and(|digest| index.contains_key(digest));
        let found: Vec<usize> = (0..covered)
            .into_par_iter()
            .with_min_len(BATCH)
            .filter(|at| is_wanted(at) && !view.lines[*at].violation)
            .collect();
        for at in found {
            if let Some(same) = digest(&at).and_then(|digest| index.get_mut(digest)) {
                same.entries.push(at);
            }
        }
    }
    indexes
}

/// Whether everything that the record says of the entry's digests is so. A violation's are bound by nothing.
fn is_of(record: &Record, view: &View, at: usize) -> bool {
    view.lines
        .get(at)
        .is_some_and(|line| !line.violation && line.pcr == Some(record.pcr))
        && record.digests.iter().all(|digest| view.digests.has(at, digest))
}

/// Which entry a record may join, by its digests and by what stands around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guess {
    /// It is no record of an entry.
    NoEntry,
    /// It has to be looked for.
    Unknown,
    /// All that it says is so of this one, which it says that it added. Another record may say the same.
    At(u32),
}

/// Records that one thread looks at, at a time.
const BATCH: usize = 1024;

/// So far around a batch's first entry it is looked for, in entries: some records are late, some entries are older than they.
const FAR: usize = 1024;

/// Guesses side by side, for that is most of the work: a batch begins where the number of adds before it lets expect, counted
/// from the end, since entries without a record are the oldest.
fn guesses(records: &[Owned<'_>], view: &View, covered: usize) -> impl Iterator<Item = Guess> {
    let is_add = |record: &Record| record.kind == EventKind::Entry && record.ret == 0;
    let count = |batch: &[Owned<'_>]| batch.iter().filter(|(_, record)| is_add(record)).count();
    let adds: Vec<usize> = records.par_chunks(BATCH).map(count).collect();
    let mut left: usize = adds.iter().sum();
    let starts: Vec<usize> = adds
        .iter()
        .map(|adds| {
            let start = covered.saturating_sub(left);
            left -= adds;
            start
        })
        .collect();
    let guess = |(batch, start): (&[Owned<'_>], &usize)| -> Vec<Guess> {
        let (mut at, mut reach) = (*start, FAR);
        let one = |(_, record): &Owned<'_>| {
            if record.kind != EventKind::Entry {
                return Guess::NoEntry;
            }
            if record.ret != 0 || record.digests.is_empty() {
                return Guess::Unknown;
            }
            let found = around(at, reach, covered).find(|at| is_of(record, view, *at));
            reach = NEAR;
            match found {
                Some(found) => {
                    at = found + 1;
                    u32::try_from(found).map_or(Guess::Unknown, Guess::At)
                }
                None => Guess::Unknown,
            }
        };
        batch.iter().map(one).collect()
    };
    let batches: Vec<Vec<Guess>> = records.par_chunks(BATCH).zip(&starts).map(guess).collect();
    batches.into_iter().flatten()
}

/// Entries from `at` on, then those before it, no further away than `reach`.
fn around(at: usize, reach: usize, covered: usize) -> impl Iterator<Item = usize> {
    let after = at.min(covered)..at.saturating_add(reach).min(covered);
    let before = at.saturating_sub(reach)..at.min(covered);
    after.chain(before)
}

/// Violations of the list and their records, by name and order.
fn violations<'a>(
    records: &'a [Owned<'a>],
    chain: &Chain,
    lines: &[Line],
    covered: usize,
    joins: &mut Joins<'a>,
    findings: &mut Findings,
) {
    let mut listed: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for index in view::places(lines, covered, |line| line.violation) {
        if index >= chain.boot_len() {
            let path = lines[index].path.unwrap_or_default();
            listed.entry(path).or_default().push(index);
        }
    }
    let mut taken: HashMap<Vec<u8>, usize> = HashMap::new();
    let logged = |record: &Record| record.kind == EventKind::Violation && record.ret == 0;
    for (place, (_, record)) in records
        .iter()
        .enumerate()
        .filter(|(_, (_, record))| logged(record))
    {
        let name = as_listed(&record.path);
        let next = taken.entry(name.clone()).or_default();
        match listed.get(name.as_slice()).and_then(|indexes| indexes.get(*next)) {
            Some(index) => {
                *next += 1;
                joins.entry_of.put(place, *index);
                joins.adders.put(*index, place);
            }
            None => findings.push(
                Finding::fail(
                    Rule::V12,
                    Subject::Node,
                    "a violation was recorded that does not stand in the list",
                )
                .at_seq(record.seq)
                .at_path(&record.path),
            ),
        }
    }
}

/// Entries without a record.
fn lacking(
    records: &[Owned<'_>],
    chain: &Chain,
    lines: &[Line],
    covered: usize,
    policy: &Policy,
    joins: &mut Joins<'_>,
    findings: &mut Findings,
) {
    let settled = chain.last().map_or(0, |last| last.settled);
    for (index, line) in lines.iter().enumerate().take(covered).skip(chain.boot_len()) {
        if joins.adders.get(index).is_some() {
            continue;
        }
        if chain.is_pending(index) {
            joins.pending += 1;
            continue;
        }
        joins.unattributed.push(index);
        let path = line.path.unwrap_or_default();
        if (index as u64) < settled {
            findings.push(
                fail("an entry that the last checkpoint calls settled has no record")
                    .at_index(index)
                    .at_path(path),
            );
        }
        if line.violation {
            findings.push(
                Finding::fail(
                    Rule::V12,
                    Subject::Node,
                    "a violation stands in the list that has no record",
                )
                .at_index(index)
                .at_path(path),
            );
        }
    }
    let without_cgroup: Vec<_> = records
        .iter()
        .filter(|(key, _)| *key == PartitionKey::Unattributed)
        .collect();
    let tolerance = policy.file.tolerance.unattributed;
    let too_many = (joins.unattributed.len() + without_cgroup.len()) as u64 > tolerance;
    let finding = |text: &str| {
        let subject = Subject::Partition(PartitionKey::Unattributed);
        let finding =
            Finding::fail(Rule::V5, subject, text).expected(format!("at most {tolerance} unattributed"));
        if too_many {
            finding
        } else {
            Finding {
                severity: Severity::Tolerated,
                ..finding
            }
        }
    };
    for index in &joins.unattributed {
        let path = lines.get(*index).and_then(|line| line.path).unwrap_or_default();
        findings.push(
            finding("an entry has no record: nobody knows who caused it")
                .at_index(*index)
                .at_path(path),
        );
    }
    for (_, record) in without_cgroup {
        findings.push(
            finding("a record's cgroup is not known")
                .at_seq(record.seq)
                .at_path(&record.path),
        );
    }
}

/// V4, the part that needs records: the collector itself read each checkpoint but the last, whose record comes with the
/// next one; and it read no other file under such a name. What somebody else put there is charged to him (see `judge`).
pub(crate) fn readers(
    chain: &Chain,
    joins: &Joins<'_>,
    lines: &[Line],
    covered: usize,
    policy: &Policy,
    findings: &mut Findings,
) {
    let collector = policy.file.accept.collector.as_bytes();
    let by_collector = |(key, record): &Owned<'_>| {
        *key == PartitionKey::Host
            && record
                .ancestry
                .first()
                .is_some_and(|process| process.exe == collector)
    };
    let fail = |text: String| Finding::fail(Rule::V4, Subject::Node, text);
    let without_last = chain.anchors.len().saturating_sub(1);
    for (n, anchor) in chain.anchors.iter().take(without_last).enumerate() {
        let Some(index) = anchor else { continue };
        match joins.adder(*index) {
            None => findings
                .push(fail(format!("no record says who read checkpoint {n} into the list")).at_index(*index)),
            Some(reader) if !by_collector(reader) => findings.push(
                fail(format!(
                    "checkpoint {n} was not read into the list by the collector"
                ))
                .at_index(*index)
                .at_seq(reader.1.seq)
                .found(format!(
                    "{} in {}",
                    foreign(
                        reader
                            .1
                            .ancestry
                            .first()
                            .map_or(&b"unknown"[..], |p| p.exe.as_slice())
                    ),
                    reader.0
                ))
                .expected(format!("{} in host", policy.file.accept.collector)),
            ),
            Some(_) => {}
        }
    }
    let number = |line: &Line| line.path.and_then(number_from_path);
    for index in view::places(lines, covered, |line| number(line).is_some()) {
        let line = &lines[index];
        let Some(number) = number(line).filter(|_| index >= chain.boot_len()) else {
            continue;
        };
        if !chain.anchors.contains(&Some(index)) && joins.adder(index).is_some_and(by_collector) {
            findings.push(
                fail(format!(
                    "the collector read a second file as checkpoint {number}: the chain is forked"
                ))
                .at_index(index)
                .at_path(line.path.unwrap_or_default()),
            );
        }
    }
}

/// Where the kernel wrote the cgroup into the entry too, both must say the same of who added it.
fn agreement(lines: &[Line], joins: &Joins<'_>, findings: &mut Findings) {
    for index in view::places(lines, lines.len(), |line| {
        line.cgroup.is_some() && !line.violation
    }) {
        if let Some((key, record)) = joins.adder(index)
            && let Some(cgroup) = &lines[index].cgroup
            && partition_of(Some(cgroup)) != *key
        {
            findings.push(
                fail("the entry's own cgroup path and its record disagree on whose it is")
                    .at_index(index)
                    .at_seq(record.seq)
                    .at_path(&record.path)
                    .found(key)
                    .expected(partition_of(Some(cgroup))),
            );
        }
    }
}
