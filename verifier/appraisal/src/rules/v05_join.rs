//! V5, second half, and the joins of V12: every record of an entry joins one, every entry has its record.
//!
//! Joins go by template digest, never by position: records arrive in another order than the list. A violation
//! has a zero digest and joins by file name and order.

use crate::inputs::decoded::{Digests, Line, View, padded_sha1};
use crate::inputs::kept::{Kept, Lines, Place};
use crate::inputs::round::Rebuild;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use cgpath_evidence::{
    Bank, EventKind, PartitionKey, PartitionLog, Record, cgroup::partition_of, checkpoint::number_from_path,
    list::as_listed,
};
use hashbrown::HashMap;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// `ima_add_template_entry`'s return code for an entry whose template digest is already in the list.
pub(crate) const EEXIST: i32 = -17;

/// A record and its partition.
pub(crate) type Owned<'a> = (PartitionKey, &'a Record);

/// Entries and records that go on from one round to the next.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Covered entries since the load that have no record.
    pub entries: BTreeSet<usize>,
    /// Violations of the list by name, in its order, and how many of them have their record.
    violations: HashMap<Vec<u8>, (Vec<usize>, usize)>,
    /// What was said of pods, and of violations.
    findings: Findings,
}

impl Open {
    pub(crate) fn findings(&self) -> &Findings {
        &self.findings
    }
}

/// Which of the new records belongs to which entry.
#[derive(Default)]
pub(crate) struct Joins<'a> {
    /// The new records, in order.
    records: &'a [Owned<'a>],
    /// Number of the first new entry.
    first: usize,
    /// By new entry, counted from `first`: the record of the add that put it there.
    adders: Table,
    /// The same for entries of earlier rounds.
    late: BTreeMap<usize, usize>,
    /// By the record's place among those in order: the entry that a record of an entry or of a violation
    /// joins.
    entry_of: Table,
    /// Entries of earlier rounds that records join.
    old: BTreeMap<usize, Line<'a>>,
}

impl<'a> Joins<'a> {
    /// Of these records, when the first new entry is number `first` of as many.
    fn new(records: &'a [Owned<'a>], first: usize, entries: usize) -> Joins<'a> {
        Joins {
            records,
            first,
            adders: Table::of(entries),
            entry_of: Table::of(records.len()),
            ..Joins::default()
        }
    }

    /// The record of the add that put an entry there, among those that are new.
    pub(crate) fn adder(&self, index: usize) -> Option<&'a Owned<'a>> {
        let place = match index.checked_sub(self.first) {
            Some(at) => self.adders.get(at)?,
            None => *self.late.get(&index)?,
        };
        self.records.get(place)
    }

    /// The entry that a record of an entry or of a violation joins.
    pub(crate) fn entry_of(&self, place: usize) -> Option<usize> {
        self.entry_of.get(place)
    }

    /// An entry of an earlier round that a record joins.
    pub(crate) fn old(&self, index: usize) -> Option<&Line<'a>> {
        self.old.get(&index)
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
    Finding::fail(Rule::Records, Subject::Node, text)
}

/// All records with their partitions, in order of their sequence numbers.
pub(crate) fn in_order(partitions: &[PartitionLog]) -> Vec<Owned<'_>> {
    let mut all: Vec<Owned<'_>> = partitions
        .iter()
        .flat_map(|log| log.records.iter().map(|r| (log.key, r)))
        .collect();
    all.sort_by_key(|(_, r)| r.seq);
    all
}

impl Open {
    /// Joins new records with entries, new and old; `boot_len` entries are older than the load.
    ///
    /// # Errors
    /// [`Rebuild`] where an entry stands in the list twice and the two would be in different rounds.
    pub(crate) fn step<'a>(
        &mut self,
        records: &'a [Owned<'a>],
        view: &View<'_>,
        lines: &Lines<'a>,
        covered: usize,
        boot_len: usize,
        findings: &mut Findings,
    ) -> Result<Joins<'a>, Rebuild> {
        let new = covered.saturating_sub(lines.first());
        let listed_before = |at: usize| {
            let digest = view.digests.digest(at, Bank::Sha1);
            let is_violation = view.lines.get(at).is_none_or(|line| line.violation);
            !is_violation && digest.is_some_and(|digest| lines.kept().place(digest) != Place::Nowhere)
        };
        if !lines.kept().is_empty() && (0..new).any(listed_before) {
            return Err(Rebuild);
        }
        let mut joins = self.join(records, view, lines, new, findings)?;
        self.violations(lines, covered, boot_len, &mut joins);
        agreement(lines, &joins, findings);
        for index in joins.late.keys() {
            self.entries.remove(index);
        }
        let without = (0..new).filter(|at| joins.adders.get(*at).is_none());
        let since = without
            .map(|at| lines.first() + at)
            .filter(|index| *index >= boot_len);
        self.entries.extend(since);
        Ok(joins)
    }

    /// Joins the records of entries with their entries.
    fn join<'a>(
        &mut self,
        records: &'a [Owned<'a>],
        view: &View<'_>,
        lines: &Lines<'a>,
        covered: usize,
        findings: &mut Findings,
    ) -> Result<Joins<'a>, Rebuild> {
        let mut joins = Joins::new(records, lines.first(), view.lines.len());
        let covered = covered.min(view.lines.len());
        let mut rest = Vec::new();
        for (place, guess) in guesses(records, view, covered).enumerate() {
            match guess {
                // Most records go this way, and are not looked at again.
                Guess::At(entry) if joins.adders.get(entry as usize).is_none() => {
                    joins.entry_of.put(place, lines.first() + entry as usize);
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
                let finding = Finding::fail(
                    Rule::Records,
                    Subject::Partition(*key),
                    "IMA could not add an entry: a content was used that is not in the list on this record's \
                     account",
                );
                self.findings.push(
                    finding
                        .at_seq(record.seq)
                        .at_path(&record.path)
                        .found(format!("return code {}", record.ret)),
                );
                continue;
            }
            let Some((bank, digest)) = wanted(record) else {
                findings.push(lost(record, "a record of an entry carries no template digest"));
                continue;
            };
            if let Some(index) = earlier(lines.kept(), record)? {
                self.take_old(index, place, lines.kept(), &mut joins, findings);
                continue;
            }
            let same = indexes.get_mut(&bank).and_then(|index| index.get_mut(digest));
            let found = same.map_or(Err(NOWHERE), |same| same.take(record, view, &joins.adders));
            match found {
                Ok(at) => {
                    let entry = lines.first() + at;
                    joins.entry_of.put(place, entry);
                    if record.ret == 0 && joins.adders.put(at, place).is_some() {
                        findings.push(twice(record, entry));
                    }
                }
                Err(text) => findings.push(lost(record, text)),
            }
        }
        Ok(joins)
    }

    /// Joins a record with an entry of an earlier round.
    fn take_old<'a>(
        &self,
        index: usize,
        place: usize,
        kept: &'a Kept,
        joins: &mut Joins<'a>,
        findings: &mut Findings,
    ) {
        let Some((_, record)) = joins.records.get(place) else {
            return;
        };
        let Some((line, digests)) = kept.line_for(index, record) else {
            return findings.push(lost(record, NOWHERE));
        };
        if !fits(record, &line, &digests, 0) {
            return findings.push(lost(record, UNLIKE));
        }
        joins.entry_of.put(place, index);
        let is_taken = |joins: &mut Joins<'a>| {
            !self.entries.contains(&index) || joins.late.insert(index, place).is_some()
        };
        if record.ret == 0 && is_taken(joins) {
            findings.push(twice(record, index));
        }
        joins.old.insert(index, line);
    }

    /// Violations of the list and their records, by name and order.
    fn violations(&mut self, lines: &Lines<'_>, covered: usize, boot_len: usize, joins: &mut Joins<'_>) {
        for index in lines.places(covered, |line| line.violation) {
            if let Some(line) = lines.get(index)
                && index >= boot_len
            {
                let path = line.path.unwrap_or_default().to_vec();
                self.violations.entry(path).or_default().0.push(index);
            }
        }
        let logged = |record: &Record| record.kind == EventKind::Violation && record.ret == 0;
        for (place, (_, record)) in joins.records.iter().enumerate() {
            if !logged(record) {
                continue;
            }
            let next = self.violations.get_mut(&*as_listed(&record.path));
            let next = next.and_then(|(listed, taken)| {
                let index = *listed.get(*taken)?;
                *taken += 1;
                Some(index)
            });
            match next {
                Some(index) => {
                    joins.entry_of.put(place, index);
                    match index.checked_sub(joins.first) {
                        Some(at) => drop(joins.adders.put(at, place)),
                        None => drop(joins.late.insert(index, place)),
                    }
                }
                None => {
                    let finding = Finding::fail(
                        Rule::Violations,
                        Subject::Node,
                        "a violation was recorded that does not stand in the list",
                    );
                    self.findings
                        .push(finding.at_seq(record.seq).at_path(&record.path));
                }
            }
        }
    }
}

/// Joins the records of entries with these entries, which are all that there are.
pub(crate) fn entries<'a>(
    records: &'a [Owned<'a>],
    view: &View<'_>,
    lines: &Lines<'a>,
    findings: &mut Findings,
) -> Joins<'a> {
    let mut open = Open::default();
    let joins = open
        .join(records, view, lines, view.lines.len(), findings)
        .unwrap_or_default();
    findings.absorb(&open.findings);
    joins
}

/// The SHA-1 template digest that a record is joined by.
pub(crate) fn sha1(record: &Record) -> Option<&[u8]> {
    wanted(record).and_then(|(bank, digest)| (bank == Bank::Sha1).then_some(digest))
}

/// The entry of an earlier round that has the record's digest.
fn earlier(kept: &Kept, record: &Record) -> Result<Option<usize>, Rebuild> {
    if kept.is_empty() {
        return Ok(None);
    }
    // Earlier entries are found by their SHA-1 alone.
    let sha1 = sha1(record).ok_or(Rebuild)?;
    match kept.place(sha1) {
        Place::Nowhere => Ok(None),
        Place::At(index) => Ok(Some(index)),
        Place::Twice => Err(Rebuild),
    }
}

fn lost(record: &Record, text: &str) -> Finding {
    let digest = record.digests.first();
    let found = digest.map_or_else(|| "no digest".to_owned(), ToString::to_string);
    fail(text).at_seq(record.seq).at_path(&record.path).found(found)
}

fn twice(record: &Record, index: usize) -> Finding {
    fail("two records say that they put the same entry into the list")
        .at_index(index)
        .at_seq(record.seq)
        .at_path(&record.path)
}

const NOWHERE: &str = "a record's entry does not stand in the covered part of the list";

const UNLIKE: &str = "a record's template digests are not those of one entry";

/// So far from where the last record's entry was found the next one's is looked for first, in entries.
const NEAR: usize = 16;

/// A record looks at no more entries of its digest: they differ in another bank's or in the register, which
/// no honest list's do, and a node must not make its verifier compare all with all.
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
        alike.find(|at| is_of(record, view, *at)).ok_or(UNLIKE)
    }
}

/// The digest that a record is looked up by. SHA-1 is there on every kernel (`ima_sha1_idx`), and another
/// bank is only needed by a record that lacks it.
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

/// The covered entries of each digest that these records are looked up by; of no other, for most records need
/// none.
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
        .is_some_and(|line| fits(record, line, &view.digests, at))
}

pub(crate) fn fits(record: &Record, line: &Line, digests: &Digests, at: usize) -> bool {
    !line.violation
        && line.pcr == Some(record.pcr)
        && record.digests.iter().all(|digest| digests.has(at, digest))
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

/// Records that one thread looks at, at a time; at least so many where there is no order.
pub(crate) const BATCH: usize = 1024;

/// So far around a batch's first entry it is looked for, in entries: some records are late, some entries are
/// older than they.
const FAR: usize = 1024;

/// Guesses side by side, for that is most of the work: a batch begins where the number of adds before it lets
/// expect, counted from the end, since entries without a record are the oldest.
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

/// Where the kernel wrote the cgroup into the entry too, both must say the same of who added it.
fn agreement(lines: &Lines<'_>, joins: &Joins<'_>, findings: &mut Findings) {
    let is_tagged = |line: &Line| line.cgroup.is_some() && !line.violation;
    let new = lines.places(usize::MAX, is_tagged);
    let late = joins
        .late
        .keys()
        .copied()
        .filter(|index| joins.old(*index).is_some_and(is_tagged));
    for index in late.chain(new) {
        let Some((key, record)) = joins.adder(index) else {
            continue;
        };
        let Some(line) = lines.get(index) else { continue };
        let own = partition_of(line.cgroup.as_deref());
        if own != *key {
            findings.push(
                fail("the entry's own cgroup path and its record disagree on whose it is")
                    .at_index(index)
                    .at_seq(record.seq)
                    .at_path(&record.path)
                    .found(key)
                    .expected(own),
            );
        }
    }
}

/// The entries that have got their record in this round and are named like a checkpoint's file.
pub(crate) fn named_like_checkpoints<'a>(
    joins: &Joins<'a>,
    lines: &Lines<'a>,
) -> Vec<(usize, u64, &'a Owned<'a>)> {
    let number = |line: &Line| line.path.and_then(number_from_path);
    let new = lines.places(usize::MAX, |line| number(line).is_some());
    let late = joins.late.keys().copied();
    late.chain(new)
        .filter_map(|index| {
            let number = number(&*lines.get(index)?)?;
            Some((index, number, joins.adder(index)?))
        })
        .collect()
}
