//! V5 and V12 for entries that have no sealed record: pending ones, and those that nobody is known for.
//!
//! A record is written when `ima_add_template_entry` returns, and sealed by the next checkpoint. Until then
//! its entry is pending: its record travels unsealed, or a mark names the thread that is still inside.
//! Promise: the attester chooses neither how long an entry is pending nor whether its content is judged. Not
//! here: how sealed records join entries (see `join`), what contents are accepted (see `opinion`).

use crate::inputs::context::{Held, NodeState, Shown};
use crate::inputs::decoded::{Line, View};
use crate::inputs::kept::Lines;
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Severity, Subject};
use crate::rules::opinion::{Opinion, Scene};
use crate::rules::partition::Tally;
use crate::rules::v04_chain::Chain;
use crate::rules::v05_join::Open;
use crate::rules::v09_contents::{Late, Usage};
use crate::rules::{Rule, v05_join};
use cgpath_evidence::{
    Bank, Digest, EventKind, InFlight, PartitionKey, Record, cgroup::partition_of, list::as_listed,
};
use cgpath_policy::{Name, Policy};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

/// A thread that holds an entry's record back for longer than this, in seconds of the verifier's clock, makes
/// its partition untrusted.
pub const MAX_HELD_SECONDS: u64 = 300;

/// More pending entries than this without an unsealed record or a mark fail the node.
pub const MAX_UNNAMED: usize = 4096;

/// An entry that a thread inside of IMA may have caused is charged to each partition with such a thread: so
/// many times for all entries. What is beyond fails the node, so that as many marks as evidence may have, of
/// as many pods, cost no more than marks of one.
const MAX_CHARGES: usize = 65_536;

/// What is pending.
#[derive(Default)]
pub(crate) struct Pending {
    /// Entries that may still get a sealed record.
    pub entries: u64,
    /// Entries and records that nobody is known for.
    pub unattributed: u64,
    /// Partitions with pending entries, these included.
    pub late: BTreeMap<PartitionKey, Tally>,
    /// What the next checkpoint must seal.
    pub shown: Vec<Shown>,
    /// Threads that hold a record back.
    pub held: Vec<Held>,
}

/// What the entries without a sealed record are judged by.
pub(crate) struct Question<'q, 'a> {
    pub round: &'q Round<'a>,
    pub scene: &'q Scene<'a>,
    pub view: &'q View<'a>,
    pub open: &'q Open,
    /// Entries that no quote covers and no register binds: they are judged, and vouch for nothing.
    pub tail: Range<usize>,
    pub usage: &'q Usage,
    /// Sealed records whose cgroup is not known: number and path.
    pub nameless: &'q [(u64, Vec<u8>)],
    /// The last accepted evidence of this boot.
    pub before: Option<&'q NodeState>,
    pub now: u64,
}

fn fail(rule: Rule, text: impl Into<String>) -> Finding {
    Finding::fail(rule, Subject::Node, text)
}

/// The content that an entry says was used; a violation says none.
fn content<'l>(line: &'l Line<'_>) -> Option<(Name<'l>, &'l Digest)> {
    let digest = line.file.as_ref().filter(|_| !line.violation)?;
    Some((Name::Listed(line.path.unwrap_or_default()), digest))
}

impl<'q, 'a> Question<'q, 'a> {
    fn chain(&self) -> &'q Chain {
        self.scene.chain
    }

    fn lines(&self) -> Lines<'a> {
        self.scene.lines
    }

    fn policy(&self) -> &'q Policy {
        self.scene.policy
    }

    pub(crate) fn conclude(&self, findings: &mut Findings) -> Pending {
        let shown = self.shown(findings);
        let mut late = Late::new(self.scene, self.usage);
        let named = self.unsealed(&mut late);
        let marked: BTreeSet<PartitionKey> = self.round.in_flight.iter().map(InFlight::key).collect();
        let mut case = Unnamed {
            question: self,
            marks: self.round.in_flight.len(),
            deciding: self.deciding(&marked),
            marked,
            charges: MAX_CHARGES,
            unnamed: 0,
            pending: named.len() as u64,
            unattributed: Vec::new(),
        };
        for index in self.without_record() {
            if named.contains(&index) {
                continue;
            }
            if let Some(line) = self.lines().get(index) {
                case.entry(index, &line, &mut late, findings);
            }
        }
        let Unnamed {
            unnamed,
            pending,
            unattributed,
            ..
        } = case;
        if unnamed > MAX_UNNAMED {
            findings.push(
                fail(
                    Rule::Records,
                    "too many entries have neither a record nor a mark yet",
                )
                .found(unnamed)
                .expected(format!("at most {MAX_UNNAMED}")),
            );
        }
        self.nobodys(&unattributed, findings);
        let held = self.held(&mut late);
        Pending {
            entries: pending,
            unattributed: (unattributed.len() + self.nameless.len()) as u64,
            late: late.tallies,
            shown,
            held,
        }
    }

    /// Entries that no sealed record is about, in order.
    fn without_record(&self) -> impl Iterator<Item = usize> {
        self.open.entries.iter().copied().chain(self.tail.clone())
    }

    /// The unsealed records are records that the next checkpoint can seal.
    fn shown(&self, findings: &mut Findings) -> Vec<Shown> {
        let last_seq = self.chain().last().map_or(0, |last| last.last_seq);
        let mut seqs = BTreeSet::new();
        let mut shown = Vec::new();
        for log in self.round.unsealed {
            for record in &log.records {
                let say = |text: &str| fail(Rule::Records, text).at_seq(record.seq).at_path(&record.path);
                if record.seq <= last_seq || !seqs.insert(record.seq) {
                    findings.push(say("an unsealed record has a number that was given before"));
                }
                let owner = partition_of(record.cgroup.as_deref());
                if owner != log.key {
                    findings.push(
                        say("an unsealed record stands in a partition that is not its cgroup's")
                            .found(log.key)
                            .expected(owner),
                    );
                }
                shown.push(Shown {
                    key: log.key,
                    seq: record.seq,
                    leaf: record.leaf_hash(),
                });
            }
        }
        shown
    }

    /// Judges the open entries that have an unsealed record, and gives them.
    fn unsealed(&self, late: &mut Late<'_, '_>) -> BTreeSet<usize> {
        let mut records = v05_join::in_order(self.round.unsealed);
        records.retain(|(_, record)| record.ret == 0);
        let mut entries: HashMap<Vec<u8>, VecDeque<(PartitionKey, &Record)>> = HashMap::new();
        let mut violations: HashMap<Vec<u8>, VecDeque<(PartitionKey, &Record)>> = HashMap::new();
        for (key, record) in records {
            let queue = match record.kind {
                EventKind::Entry => v05_join::sha1(record).map(|sha1| entries.entry(sha1.to_vec())),
                EventKind::Violation => Some(violations.entry(as_listed(&record.path).into_owned())),
                _ => None,
            };
            if let Some(queue) = queue {
                queue.or_default().push_back((key, record));
            }
        }
        let mut named = BTreeSet::new();
        if entries.is_empty() && violations.is_empty() {
            return named;
        }
        for index in self.without_record() {
            let Some(line) = self.lines().get(index) else {
                continue;
            };
            let queue = if line.violation {
                violations.get_mut(line.path.unwrap_or_default())
            } else {
                self.sha1(index).and_then(|sha1| entries.get_mut(&sha1))
            };
            let Some(queue) = queue else { continue };
            let fits =
                |(_, record): &&(PartitionKey, &Record)| line.violation || self.fits(index, &line, record);
            if queue.front().filter(fits).is_some()
                && let Some((key, record)) = queue.pop_front()
            {
                late.unsealed(key, index, &line, record);
                named.insert(index);
            }
        }
        named
    }

    fn sha1(&self, index: usize) -> Option<Vec<u8>> {
        match index.checked_sub(self.lines().first()) {
            Some(at) => self.view.digests.digest(at, Bank::Sha1).map(<[u8]>::to_vec),
            None => {
                let (_, digests) = self.lines().kept().line(index, &[Bank::Sha1])?;
                digests.digest(0, Bank::Sha1).map(<[u8]>::to_vec)
            }
        }
    }

    /// Whether everything that the record says of the entry's digests is so.
    fn fits(&self, index: usize, line: &Line<'_>, record: &Record) -> bool {
        match index.checked_sub(self.lines().first()) {
            Some(at) => v05_join::fits(record, line, &self.view.digests, at),
            None => {
                let kept = self.lines().kept().line_for(index, record);
                kept.is_some_and(|(line, digests)| v05_join::fits(record, &line, &digests, 0))
            }
        }
    }

    /// Whether one of these partitions may have the content of this entry.
    fn accepts(&self, index: usize, line: &Line<'_>, mut by: impl Iterator<Item = PartitionKey>) -> bool {
        if self.chain().is_anchor(index) {
            // Who read it is looked at when its record is there.
            return true;
        }
        let Some((name, digest)) = content(line) else {
            return false;
        };
        by.any(|key| match self.scene.opinion(key, name, digest) {
            Opinion::Excluded => true,
            Opinion::Nothing => self.may_be_of_a_workload(name, digest),
            Opinion::LookedUp { matched, .. } => matched.is_accepted(),
        })
    }

    /// Whether the host, or some pod of the policy, may have the content of this entry.
    fn somebody_accepts(&self, index: usize, line: &Line<'_>) -> bool {
        let pods = self.policy().pods.keys().copied().map(PartitionKey::Pod);
        let everybody = core::iter::once(PartitionKey::Host).chain(pods);
        let may_be = |(name, digest)| self.may_be_of_a_workload(name, digest);
        self.accepts(index, line, everybody) || content(line).is_some_and(may_be)
    }

    /// Whether nothing would follow from a content in some container of some workload: it may wait for the
    /// record that says whose it is.
    fn may_be_of_a_workload(&self, name: Name<'_>, digest: &Digest) -> bool {
        let policy = self.policy();
        policy.accepted_in_workloads(name, digest).is_some() || policy.hidden_in_workloads(name)
    }

    /// Those of these partitions that can differ in what they accept: pods that no policy knows do not.
    fn deciding(&self, marked: &BTreeSet<PartitionKey>) -> Vec<PartitionKey> {
        let pods = &self.policy().pods;
        let is_unknown = |key: &&PartitionKey| match key {
            PartitionKey::Pod(uid) => !pods.contains_key(uid),
            PartitionKey::Host | PartitionKey::Boot | PartitionKey::Unattributed => false,
        };
        let known = marked.iter().filter(|key| !is_unknown(key));
        known.chain(marked.iter().find(is_unknown)).copied().collect()
    }

    /// Entries before this one have their record, or a thread that is still inside holds it back.
    fn joined_until(&self) -> u64 {
        let accepted = self.before.map_or(0, |before| before.covered);
        self.chain().joined_until().max(accepted)
    }

    /// Threads that hold a record back, and for how long already.
    fn held(&self, late: &mut Late<'_, '_>) -> Vec<Held> {
        let earlier = self.before.map_or(&[][..], |before| &before.held);
        // By a mark's name: a node may send as many as it likes.
        let earlier: HashMap<(u32, u64), u64> = earlier
            .iter()
            .map(|held| ((held.tid, held.since_ns), held.seen))
            .collect();
        let mut held = Vec::new();
        for mark in self.round.in_flight {
            let known = earlier.get(&(mark.tid, mark.since_ns));
            let seen = known.copied().unwrap_or(self.now);
            let seconds = self.now.saturating_sub(seen);
            if seconds > MAX_HELD_SECONDS {
                let key = mark.key();
                let finding = Finding::fail(
                    Rule::of_contents(key),
                    Subject::Partition(key),
                    format!(
                        "thread {} has held the record of an entry back for too long",
                        mark.tid
                    ),
                );
                let finding = finding
                    .found(format!("{seconds} s"))
                    .expected(format!("at most {MAX_HELD_SECONDS} s"));
                late.say(key, finding);
            }
            held.push(Held {
                tid: mark.tid,
                since_ns: mark.since_ns,
                seen,
            });
        }
        held
    }

    /// Entries and records that nobody is known for, as far as the policy tolerates them.
    fn nobodys(&self, entries: &[usize], findings: &mut Findings) {
        let tolerance = self.policy().file.tolerance.unattributed;
        let too_many = (entries.len() + self.nameless.len()) as u64 > tolerance;
        let finding = |text: &str| {
            let subject = Subject::Partition(PartitionKey::Unattributed);
            let finding = Finding::fail(Rule::Records, subject, text)
                .expected(format!("at most {tolerance} unattributed"));
            let severity = if too_many {
                Severity::Fail
            } else {
                Severity::Tolerated
            };
            Finding { severity, ..finding }
        };
        for index in entries {
            let line = self.lines().get(*index);
            let path = line.as_ref().and_then(|line| line.path).unwrap_or_default();
            findings.push(
                finding("an entry has no record: nobody knows who caused it")
                    .at_index(*index)
                    .at_path(path),
            );
        }
        for (seq, path) in self.nameless {
            findings.push(
                finding("a record's cgroup is not known")
                    .at_seq(*seq)
                    .at_path(path),
            );
        }
    }
}

/// Entries without any record, one by one.
struct Unnamed<'u, 'q, 'a> {
    question: &'u Question<'q, 'a>,
    /// Threads that are inside and hold no entry back that was seen.
    marks: usize,
    /// The partitions of all threads that are inside, and those of them that say what all accept.
    marked: BTreeSet<PartitionKey>,
    deciding: Vec<PartitionKey>,
    /// How often something can still be charged to one of them.
    charges: usize,
    unnamed: usize,
    pending: u64,
    unattributed: Vec<usize>,
}

impl Unnamed<'_, '_, '_> {
    fn entry(&mut self, index: usize, line: &Line<'_>, late: &mut Late<'_, '_>, findings: &mut Findings) {
        let question = self.question;
        let is_recent = index as u64 >= question.joined_until();
        let waits = || self.unnamed <= MAX_UNNAMED && question.somebody_accepts(index, line);
        if is_recent && waits() {
            self.unnamed += 1;
            self.pending += 1;
        } else if self.marks > 0 {
            // One thread is inside for one entry; which one, nobody knows: one that may have the content, or
            // each is charged.
            self.marks -= 1;
            self.pending += 1;
            if !question.accepts(index, line, self.deciding.iter().copied()) {
                self.charge(index, line, late, findings);
            }
        } else if is_recent {
            self.unnamed += 1;
            self.pending += 1;
            let path = line.path.unwrap_or_default();
            let finding = if line.violation {
                fail(
                    Rule::Violations,
                    "a violation stands in the list that nothing names anybody for",
                )
            } else {
                let digest = line.file.as_ref();
                let found = digest.map_or_else(|| "no hash".to_owned(), ToString::to_string);
                fail(
                    Rule::Records,
                    "nobody accepts this content, and nothing names who caused its entry",
                )
                .found(found)
            };
            findings.push(finding.at_index(index).at_path(path));
        } else {
            self.nobodys(index, line, late, findings);
        }
    }

    /// What a thread that is inside may have caused is charged to each of those, or to the node.
    fn charge(&mut self, index: usize, line: &Line<'_>, late: &mut Late<'_, '_>, findings: &mut Findings) {
        let own = |rule| match line.violation {
            true => Rule::Violations,
            false => rule,
        };
        let path = line.path.unwrap_or_default();
        let Some(left) = self.charges.checked_sub(self.marked.len()) else {
            let finding = fail(
                own(Rule::Records),
                "threads of so many partitions hold records back that this entry is not charged to each of \
                 them",
            );
            let finding = finding.found(format!("{} partitions", self.marked.len()));
            findings.push(finding.at_index(index).at_path(path));
            return;
        };
        self.charges = left;
        let text = if line.violation {
            "a violation stands in the list whose record is held back here"
        } else {
            "nobody accepts the content of an entry whose record is held back here"
        };
        for key in self.marked.iter().copied() {
            let finding = Finding::fail(own(Rule::of_contents(key)), Subject::Partition(key), text);
            late.say(key, finding.at_index(index).at_path(path));
        }
    }

    fn nobodys(&mut self, index: usize, line: &Line<'_>, late: &mut Late<'_, '_>, findings: &mut Findings) {
        self.unattributed.push(index);
        let path = line.path.unwrap_or_default();
        let settled = self.question.chain().last().map_or(0, |last| last.settled);
        if (index as u64) < settled {
            findings.push(
                fail(
                    Rule::Records,
                    "an entry that the last checkpoint calls settled has no record",
                )
                .at_index(index)
                .at_path(path),
            );
        }
        if line.violation {
            findings.push(
                fail(
                    Rule::Violations,
                    "a violation stands in the list that has no record",
                )
                .at_index(index)
                .at_path(path),
            );
        }
        late.unattributed(index, line);
    }
}
