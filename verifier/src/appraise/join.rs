//! V5, second half, and the joins of V12: every record of an entry joins one, every entry has its record.
//!
//! Joins go by template digest, never by position: records arrive in another order than the list. A violation has a
//! zero digest and joins by file name and order.

use super::{
    chain::Chain,
    finding::{Finding, Findings, Rule, Severity, Subject},
    view::{Line, padded_sha1},
};
use crate::text::escape;
use evidence::{
    Bank, EventKind, Evidence, PartitionKey, Record, cgroup::partition_of, checkpoint::number_from_path,
};
use hashbrown::HashTable;
use policy::Policy;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// `ima_add_template_entry`'s return code for an entry whose template digest is already in the list.
pub(crate) const EEXIST: i32 = -17;

/// A record and its partition.
pub(crate) type Owned<'a> = (PartitionKey, &'a Record);

/// Which record belongs to which entry.
#[derive(Default)]
pub(crate) struct Joins<'a> {
    /// The record of the add that put an entry there.
    pub adders: Adders<'a>,
    /// The entry that a record of an entry or of a violation joins, by the record's place among those in order.
    pub entry_of: Vec<Option<usize>>,
    /// Entries too new to have their record here.
    pub pending: u64,
    /// Covered entries that should have a record and have none.
    pub unattributed: Vec<usize>,
}

/// By entry: the record of the add that put it there.
#[derive(Default)]
pub(crate) struct Adders<'a>(Vec<Option<Owned<'a>>>);

impl<'a> Adders<'a> {
    fn of(entries: usize) -> Adders<'a> {
        Adders(vec![None; entries])
    }

    fn insert(&mut self, index: usize, record: Owned<'a>) -> Option<Owned<'a>> {
        self.0.get_mut(index)?.replace(record)
    }

    fn get(&self, index: usize) -> Option<&Owned<'a>> {
        self.0.get(index)?.as_ref()
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &Owned<'a>)> {
        self.0
            .iter()
            .enumerate()
            .filter_map(|(index, record)| Some((index, record.as_ref()?)))
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
    records: &[Owned<'a>],
    chain: &Chain,
    lines: &[Line],
    covered: usize,
    policy: &Policy,
    findings: &mut Findings,
) -> Joins<'a> {
    let mut joins = entries(records, lines, covered, findings);
    violations(records, chain, lines, covered, &mut joins, findings);
    lacking(records, chain, lines, covered, policy, &mut joins, findings);
    agreement(lines, &joins, findings);
    joins
}

/// Joins the records of entries with their entries.
pub(crate) fn entries<'a>(
    records: &[Owned<'a>],
    lines: &[Line],
    covered: usize,
    findings: &mut Findings,
) -> Joins<'a> {
    let mut joins = Joins {
        adders: Adders::of(lines.len()),
        entry_of: vec![None; records.len()],
        ..Joins::default()
    };
    let mut indexes = Indexes {
        lines: lines.get(..covered).unwrap_or(lines),
        made: Vec::new(),
    };
    let of_entries = records
        .iter()
        .enumerate()
        .filter(|(_, (_, r))| r.kind == EventKind::Entry);
    for (place, (key, record)) in of_entries {
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
        match indexes.find(record, &joins.adders) {
            Ok(entry) => {
                joins.entry_of[place] = Some(entry);
                if record.ret == 0 && joins.adders.insert(entry, (*key, record)).is_some() {
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

/// No entry.
const NONE: usize = usize::MAX;

/// Entries of one template digest, in the list's order.
#[derive(Clone, Copy)]
struct Same {
    first: usize,
    /// All before it have their record.
    free: usize,
}

/// Entries by their template digest in one bank. Digests stay where they are: in the lines.
struct Index<'a> {
    bank: Bank,
    lines: &'a [Line<'a>],
    hasher: RandomState,
    by_digest: HashTable<Same>,
    /// By entry: the next one with the same digest, or [`NONE`].
    next: Vec<usize>,
    /// By entry: whether another one has its digest.
    is_double: Vec<bool>,
    /// The entry after the last one that was found: records come in much the same order as entries.
    likely: usize,
}

impl<'a> Index<'a> {
    fn new(bank: Bank, lines: &'a [Line<'a>]) -> Index<'a> {
        let mut index = Index {
            bank,
            lines,
            hasher: RandomState::new(),
            by_digest: HashTable::with_capacity(lines.len()),
            next: vec![NONE; lines.len()],
            is_double: vec![false; lines.len()],
            likely: 0,
        };
        for (at, line) in lines.iter().enumerate().rev() {
            let Some(digest) = line.digest(bank).filter(|_| !line.violation) else {
                continue;
            };
            let hash = index.hasher.hash_one(digest);
            let is_same =
                |same: &Same| lines.get(same.first).and_then(|line| line.digest(bank)) == Some(digest);
            match index.by_digest.find_mut(hash, is_same) {
                Some(same) => {
                    index.next[at] = same.first;
                    index.is_double[at] = true;
                    index.is_double[same.first] = true;
                    *same = Same { first: at, free: at };
                }
                None => {
                    let hash_of = |same: &Same| {
                        let digest = lines.get(same.first).and_then(|line| line.digest(bank));
                        index.hasher.hash_one(digest.unwrap_or_default())
                    };
                    let same = Same { first: at, free: at };
                    index.by_digest.insert_unique(hash, same, hash_of);
                }
            }
        }
        index
    }

    /// The entry that the record joins, one of those with this digest.
    fn find(&mut self, digest: &[u8], record: &Record, adders: &Adders<'_>) -> Result<usize, &'static str> {
        let likely = self.likely;
        let is_it = self.is_double.get(likely) == Some(&false)
            && self.lines.get(likely).is_some_and(|line| is_of(record, line));
        let found = if is_it {
            Ok(likely)
        } else {
            self.look_up(digest, record, adders)
        };
        self.likely = found.unwrap_or(likely) + 1;
        found
    }

    fn look_up(
        &mut self,
        digest: &[u8],
        record: &Record,
        adders: &Adders<'_>,
    ) -> Result<usize, &'static str> {
        let (lines, bank, next) = (self.lines, self.bank, &self.next);
        let hash = self.hasher.hash_one(digest);
        let is_same = |same: &Same| lines.get(same.first).and_then(|line| line.digest(bank)) == Some(digest);
        let Some(same) = self.by_digest.find_mut(hash, is_same) else {
            return Err("a record's entry does not stand in the covered part of the list");
        };
        let agreeing = |from: usize| {
            core::iter::successors(Some(from), |at| next.get(*at).copied())
                .take_while(|at| *at != NONE)
                .filter(|at| lines.get(*at).is_some_and(|line| is_of(record, line)))
        };
        if record.ret == 0 {
            // Without IMA's hash table the same entry can be listed twice: each add then takes the next one.
            while adders.get(same.free).is_some()
                && let Some(after) = next.get(same.free).filter(|after| **after != NONE)
            {
                same.free = *after;
            }
            if let Some(free) = agreeing(same.free).find(|at| adders.get(*at).is_none()) {
                return Ok(free);
            }
        }
        agreeing(same.first)
            .next()
            .ok_or("a record's template digests are not those of one entry")
    }
}

/// Whether everything that the record says of the entry's digests is so. A violation's are bound by nothing.
fn is_of(record: &Record, line: &Line) -> bool {
    !line.violation && line.pcr == Some(record.pcr) && record.digests.iter().all(|digest| line.has(digest))
}

/// The indexes of the banks that records go by, each made when it is needed: SHA-1 is there on every kernel
/// (`ima_sha1_idx`), and another bank is only needed by a record that lacks it.
struct Indexes<'a> {
    lines: &'a [Line<'a>],
    made: Vec<Index<'a>>,
}

impl<'a> Indexes<'a> {
    fn find(&mut self, record: &Record, adders: &Adders<'_>) -> Result<usize, &'static str> {
        let first = record
            .digests
            .iter()
            .find(|d| d.bank() == Bank::Sha1)
            .or_else(|| record.digests.first());
        let Some(first) = first else {
            return Err("a record of an entry carries no template digest");
        };
        // A padded SHA-1 is looked up as what it is.
        let (bank, digest) = match padded_sha1(first) {
            Some(sha1) => (Bank::Sha1, sha1),
            None => (first.bank(), first.bytes()),
        };
        let at = match self.made.iter().position(|index| index.bank == bank) {
            Some(at) => at,
            None => {
                self.made.push(Index::new(bank, self.lines));
                self.made.len() - 1
            }
        };
        match self.made.get_mut(at) {
            Some(index) => index.find(digest, record, adders),
            None => Err("a record's entry does not stand in the covered part of the list"),
        }
    }
}

/// Violations of the list and their records, by name and order.
fn violations<'a>(
    records: &[Owned<'a>],
    chain: &Chain,
    lines: &[Line],
    covered: usize,
    joins: &mut Joins<'a>,
    findings: &mut Findings,
) {
    let mut listed: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (index, line) in lines.iter().enumerate().take(covered).skip(chain.boot_len()) {
        if line.violation {
            listed
                .entry(line.path.unwrap_or_default())
                .or_default()
                .push(index);
        }
    }
    let mut taken: HashMap<Vec<u8>, usize> = HashMap::new();
    let logged = |record: &Record| record.kind == EventKind::Violation && record.ret == 0;
    for (place, (key, record)) in records
        .iter()
        .enumerate()
        .filter(|(_, (_, record))| logged(record))
    {
        let name = as_listed(&record.path);
        let next = taken.entry(name.clone()).or_default();
        match listed.get(name.as_slice()).and_then(|indexes| indexes.get(*next)) {
            Some(index) => {
                *next += 1;
                joins.entry_of[place] = Some(*index);
                joins.adders.insert(*index, (*key, record));
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
        match joins.adders.get(*index) {
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
                    escape(reader.1.ancestry.first().map_or(b"unknown", |p| p.exe.as_slice())),
                    reader.0
                ))
                .expected(format!("{} in host", policy.file.accept.collector)),
            ),
            Some(_) => {}
        }
    }
    for (index, line) in lines.iter().enumerate().take(covered).skip(chain.boot_len()) {
        let Some(number) = line.path.and_then(number_from_path) else {
            continue;
        };
        if !chain.anchors.contains(&Some(index)) && joins.adders.get(index).is_some_and(by_collector) {
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
    for (index, (key, record)) in joins.adders.iter() {
        let Some(line) = lines.get(index) else { continue };
        if let Some(cgroup) = &line.cgroup
            && !line.violation
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
