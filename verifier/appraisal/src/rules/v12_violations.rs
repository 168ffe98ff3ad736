//! V12: a file that was written while it was measured makes untrusted who caused that and every partition
//! that executed or mapped it in this boot.
//!
//! Promise: a file is one under its bind mounts, an overlay and that overlay's layer, whatever its names are,
//! and another one where its number was used again. Not here: which violations of the list have a record (see
//! `v05_join`).

use crate::results::finding::{Finding, Subject};
use crate::rules::Rule;
use crate::rules::opinion::Scene;
use crate::rules::partition::Tally;
use crate::rules::v05_join::{BATCH, Owned};
use cgpath_evidence::{EventKind, Identity, PartitionKey, Provenance, Record};
use cgpath_policy::Policy;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A file by its device and inode number, as records have them.
type Place = (u64, u64);

/// What tells files apart that had one place, one after the other; absent where a record does not say.
type Generation = Option<u64>;

/// What is known of the files that had a place, by place and generation.
type Places<T> = HashMap<Place, BTreeMap<Generation, T>>;

/// Which partitions executed or mapped which file, and what files were changed while in use.
#[derive(Debug, Default)]
pub(crate) struct Files {
    users: Places<BTreeSet<PartitionKey>>,
    violated: Places<Vec<Violation>>,
}

/// The names of a record's file: as it was opened, and of a file of an overlay that of its layer's file.
fn names(record: &Record) -> impl Iterator<Item = (Place, Generation)> {
    let identity = record.identity.as_deref();
    let own = ((record.dev, record.ino), identity.map(|it| it.generation));
    let layer = identity.and_then(|it| it.layer);
    let layer = layer.map(|file| ((file.dev, file.ino), Some(u64::from(file.generation))));
    core::iter::once(own).chain(layer)
}

/// What is known under this name. A generation that is not stated can be any.
fn known<T>(files: &Places<T>, (place, generation): (Place, Generation)) -> impl Iterator<Item = &T> {
    let there = files.get(&place).into_iter().flatten();
    let is_it = move |other: Generation| match (generation, other) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    there.filter(move |(other, _)| is_it(**other)).map(|(_, it)| it)
}

/// Whether this record says that a file was changed while it was in use.
fn is_change(record: &Record) -> bool {
    match record.kind {
        EventKind::Violation => record.ret == 0,
        EventKind::LayerWrite => true,
        _ => false,
    }
}

/// A violation, or a write below an overlay, that a record names.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    by: PartitionKey,
    path: Vec<u8>,
    index: Option<usize>,
    seq: u64,
}

impl Violation {
    pub(crate) fn of(by: PartitionKey, record: &Record, index: Option<usize>) -> Violation {
        Violation {
            by,
            path: record.path.clone(),
            index,
            seq: record.seq,
        }
    }
}

impl Files {
    /// A partition that uses a file which was changed while it was in use runs what nobody measured.
    pub(crate) fn step(
        &mut self,
        scene: &Scene<'_>,
        records: &[Owned<'_>],
        tallies: &mut BTreeMap<PartitionKey, Tally>,
    ) {
        let is_of_file = |(_, record): &Owned<'_>| record.is_execution() || is_change(record);
        let concerned = records.par_iter().enumerate().with_min_len(BATCH);
        let concerned: Vec<usize> = concerned
            .filter(|(_, owned)| is_of_file(owned))
            .map(|(place, _)| place)
            .collect();
        for place in concerned {
            let Some((key, record)) = records.get(place) else {
                continue;
            };
            if is_change(record) {
                let violation = Violation::of(*key, record, scene.joins.entry_of(place));
                for user in self.users(record) {
                    tallies.entry(user).or_default().hit(user, &violation);
                }
                for (place, generation) in names(record) {
                    let violated = self.violated.entry(place).or_default();
                    violated.entry(generation).or_default().push(violation.clone());
                }
                continue;
            }
            // A use by a permitted name accepts whatever the file holds. A use by somebody else by another
            // name does not.
            if scene.policy.permits_violation(&record.path) {
                continue;
            }
            for name in names(record) {
                let users = self.users.entry(name.0).or_default();
                if users.entry(name.1).or_default().insert(*key) {
                    for violation in known(&self.violated, name).flatten() {
                        tallies.entry(*key).or_default().hit(*key, violation);
                    }
                }
            }
        }
    }

    /// Who executed or mapped the file of a record.
    pub(crate) fn users(&self, record: &Record) -> BTreeSet<PartitionKey> {
        names(record)
            .flat_map(|name| known(&self.users, name))
            .flatten()
            .copied()
            .collect()
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        self.users.len() * 128
    }
}

impl Tally {
    /// A file that this partition uses was changed by somebody.
    pub(crate) fn hit(&mut self, key: PartitionKey, violation: &Violation) {
        if violation.by == key {
            return;
        }
        let finding = Finding::fail(
            Rule::Violations,
            Subject::Partition(key),
            "violation: a file that was executed or mapped here was changed while it was measured, by what \
             another partition did",
        )
        .at_path(&violation.path)
        .at(violation.index, Some(violation.seq))
        .found(format!("recorded in {}", violation.by))
        .resting_on(Provenance::Observed);
        self.say_changed(finding);
    }
}

/// What a record of a file's use or of a write below an overlay says against its own partition, beside what
/// IMA logs: that the file could change where neither the overlay nor IMA looks.
pub(crate) fn below_overlay(policy: &Policy, key: PartitionKey, record: &Record) -> Option<Finding> {
    let is_open = |identity: &Identity| identity.written;
    let is_used = record.is_execution() || record.kind == EventKind::Entry;
    let text = if record.kind == EventKind::LayerWrite {
        "violation: it opened a file for writing below an overlay, through which others had it executed or \
         mapped"
    } else if is_used && record.identity.as_deref().is_some_and(is_open) {
        "violation: the file was open for writing below the overlay that it was used through, so its hash \
         says nothing"
    } else {
        return None;
    };
    let subject = Subject::Partition(key);
    let finding = if policy.permits_violation(&record.path) {
        Finding::tolerated(Rule::Violations, subject, text)
    } else {
        Finding::fail(Rule::Violations, subject, text)
    };
    let finding = finding.at_path(&record.path).at_seq(record.seq);
    Some(finding.resting_on(Provenance::Observed))
}
