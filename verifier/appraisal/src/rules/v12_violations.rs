//! V12: a file that was written while it was measured makes untrusted who caused that and every partition
//! that executed or mapped it in this boot.
//!
//! Promise: a file is known by its device and inode number, whatever its names are. Not here: which
//! violations of the list have a record (see `v05_join`).

use crate::results::finding::{Finding, Subject};
use crate::rules::Rule;
use crate::rules::opinion::Scene;
use crate::rules::partition::Tally;
use crate::rules::v05_join::{BATCH, Owned};
use cgpath_evidence::{EventKind, PartitionKey, Provenance, Record};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A file by its device and inode number, as records have them.
type File = (u64, u64);

/// Which partitions executed or mapped which file, and what files were changed while in use.
#[derive(Debug, Default)]
pub(crate) struct Files {
    users: HashMap<File, BTreeSet<PartitionKey>>,
    violated: HashMap<File, Vec<Violation>>,
}

/// A violation that a record names.
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
        let is_of_file =
            |(_, record): &Owned<'_>| record.is_execution() || record.kind == EventKind::Violation;
        let concerned = records.par_iter().enumerate().with_min_len(BATCH);
        let concerned: Vec<usize> = concerned
            .filter(|(_, owned)| is_of_file(owned))
            .map(|(place, _)| place)
            .collect();
        for place in concerned {
            let Some((key, record)) = records.get(place) else {
                continue;
            };
            let file: File = (record.dev, record.ino);
            if record.kind == EventKind::Violation {
                if record.ret != 0 {
                    continue;
                }
                let violation = Violation::of(*key, record, scene.joins.entry_of(place));
                for user in self.users.get(&file).into_iter().flatten() {
                    tallies.entry(*user).or_default().hit(*user, &violation);
                }
                self.violated.entry(file).or_default().push(violation);
                continue;
            }
            let users = self.users.entry(file).or_default();
            // A use by a permitted name accepts whatever the file holds. A use by somebody else by another
            // name does not.
            let is_user =
                !users.contains(key) && !scene.policy.permits_violation(&record.path) && users.insert(*key);
            if is_user {
                for violation in self.violated.get(&file).into_iter().flatten() {
                    tallies.entry(*key).or_default().hit(*key, violation);
                }
            }
        }
    }

    /// Who executed or mapped the file of a record.
    pub(crate) fn users(&self, record: &Record) -> impl Iterator<Item = PartitionKey> {
        let users = self.users.get(&(record.dev, record.ino));
        users.into_iter().flatten().copied()
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        self.users.len() * 96
    }
}

impl Tally {
    /// A file that this partition uses was changed by somebody.
    pub(crate) fn hit(&mut self, key: PartitionKey, violation: &Violation) {
        if violation.by == key {
            return;
        }
        let mut finding = Finding::fail(
            Rule::Violations,
            Subject::Partition(key),
            "violation: a file that was executed or mapped here was changed while it was measured, by what another partition did",
        )
        .at_path(&violation.path)
        .at_seq(violation.seq)
        .found(format!("recorded in {}", violation.by))
        .resting_on(Provenance::Observed);
        finding.index = violation.index.map(|index| index as u64);
        self.say_changed(finding);
    }
}
