//! What one partition used, while it is being judged.
//!
//! Promise: a thing is said once for each path and content, however often it was used; what fails and has no
//! content (a violation, a suspect process) is said each time, for each is a finding of its own. Not here:
//! what is accepted.

use crate::accept::names_content;
use crate::results::finding::{Finding, Findings, Severity, Subject};
use crate::results::verdict::{Deviation, PodPart, SeenFile};
use crate::rules::Rule;
use crate::rules::names::Part;
use crate::rules::uses::Uses;
use crate::rules::v09_shared_memory::LateMappings;
use cgpath_evidence::{Digest, PartitionKey, PodLoss, merkle::Hash};
use hashbrown::{DefaultHashBuilder, HashTable};
use sha2::{Digest as _, Sha256};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

/// What of a partition's files is not as the reference values have it, or was not looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deviations {
    pub fnf: Vec<Deviation>,
    pub filehash_err: Vec<Deviation>,
    pub excluded: u64,
}

impl Deviations {
    /// Where a content of which this was concluded is listed.
    fn list(&mut self, seen: Seen) -> Option<&mut Vec<Deviation>> {
        match seen {
            Seen::UnknownPath => Some(&mut self.fnf),
            Seen::WrongHash => Some(&mut self.filehash_err),
            Seen::Accepted | Seen::Excluded | Seen::Refused => None,
        }
    }
}

fn deviation(path: &[u8], digest: Option<&Digest>) -> Option<Deviation> {
    let digest = digest?.clone();
    let path = path.to_vec();
    Some(Deviation {
        path,
        digest,
        parts: Vec::new(),
        more_parts: false,
    })
}

/// What was concluded of one content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Accepted,
    Excluded,
    UnknownPath,
    WrongHash,
    /// It was not accepted for another reason.
    Refused,
}

/// One partition while it is being judged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub entries: u64,
    pub executions: u64,
    pub suspect: u64,
    pub learned: bool,
    /// A record says that it did something else than to use a file.
    pub acted: bool,
    /// Whether the cgroup's path has the pod's UID without dashes; `None` before a path was seen.
    pub undashed: Option<bool>,
    pub files: Vec<SeenFile>,
    pub deviations: Deviations,
    excluded_files: u64,
    /// Places in `files` by path and content.
    seen: HashTable<usize>,
    /// Where some part's deviation is in its list, by its place and whether its path is known there. What is
    /// kept from round to round has no parts that were judged, and so none of these.
    deviated: HashMap<(usize, bool), usize>,
    hasher: DefaultHashBuilder,
    pub findings: Findings,
    /// Of files that somebody else changed.
    pub changed: Findings,
    /// What was not recorded of it, and the number of the record that says so.
    lost: Option<(PodLoss, u64)>,
    /// The first program that ran others out of the kernel's sight.
    opaque: Option<Finding>,
    /// Of shared memory without a name, where the policy trusts this pod with them.
    pub shared_memory: LateMappings,
    said: HashSet<Hash>,
    /// Under a policy that judges by container: what each part used, not judged yet. A copy of a tally has
    /// the same until it is added to.
    pub parts: Arc<BTreeMap<Part, Uses>>,
}

impl Tally {
    /// Says a thing once for each path and content, and what fails without a content each time.
    pub(crate) fn say(&mut self, finding: Finding) {
        if self.is_new(&finding) {
            self.findings.push(finding);
        }
    }

    /// A program was used that runs others out of the kernel's sight: the first time is said.
    pub(crate) fn say_opaque(&mut self, finding: Finding) {
        self.opaque.get_or_insert(finding);
    }

    /// The same of a file that somebody else changed.
    pub(crate) fn say_changed(&mut self, finding: Finding) {
        if self.is_new(&finding) {
            self.changed.push(finding);
        }
    }

    /// A hash stands for what was said, so that it costs no more than that however long paths are.
    fn is_new(&mut self, finding: &Finding) -> bool {
        let mut hash = Sha256::new().chain_update([finding.rule as u8, finding.severity as u8]);
        let path = finding.path.as_deref().unwrap_or_default();
        let found = finding.found.as_deref().unwrap_or_default();
        if finding.severity == Severity::Fail && !names_content(finding) {
            let place = [finding.index, finding.seq].map(|number| number.unwrap_or(u64::MAX).to_be_bytes());
            hash = hash.chain_update(place.concat());
        }
        for part in [path, finding.text.as_bytes(), found.as_bytes()] {
            hash = hash
                .chain_update((part.len() as u64).to_be_bytes())
                .chain_update(part);
        }
        self.said.insert(hash.finalize().into())
    }

    pub(crate) fn saw(&mut self, path: &[u8], digest: Option<&Digest>, is_execution: bool, seen: Seen) {
        let counts = (u64::from(!is_execution), u64::from(is_execution));
        self.saw_often(path, digest, counts, seen);
    }

    /// The same of one part of several, which may accept what another one does not. `part` is what a verdict
    /// calls it.
    pub(crate) fn saw_in_part(
        &mut self,
        path: &[u8],
        digest: Option<&Digest>,
        counts: (u64, u64),
        seen: Seen,
        part: Option<&PodPart>,
    ) {
        let (at, is_new) = self.saw_often(path, digest, counts, seen);
        let Some(list) = self.deviations.list(seen) else {
            return;
        };
        // Another part may have listed the same; what is new is the last one that is listed.
        let listed = match self.deviated.entry((at, seen == Seen::WrongHash)) {
            Entry::Occupied(listed) => *listed.get(),
            Entry::Vacant(place) => {
                if !is_new {
                    list.extend(deviation(path, digest));
                }
                *place.insert(list.len().saturating_sub(1))
            }
        };
        if let (Some(deviation), Some(part)) = (list.get_mut(listed), part) {
            deviation.add_part(part);
        }
    }

    /// Entries and executions at once. Gives the file's place in `files`, and whether it is new there.
    fn saw_often(
        &mut self,
        path: &[u8],
        digest: Option<&Digest>,
        (entries, executions): (u64, u64),
        seen: Seen,
    ) -> (usize, bool) {
        let accepted = matches!(seen, Seen::Accepted | Seen::Excluded);
        let is_excluded = seen == Seen::Excluded;
        if is_excluded {
            self.deviations.excluded += entries + executions;
        }
        let known = self.place(path, digest);
        let at = match known {
            Some(at) => at,
            None => {
                self.excluded_files += u64::from(is_excluded);
                if let Some(list) = self.deviations.list(seen) {
                    list.extend(deviation(path, digest));
                }
                self.add(SeenFile {
                    path: path.to_vec(),
                    digest: digest.cloned(),
                    entries: 0,
                    executions: 0,
                    accepted,
                    excluded: is_excluded,
                })
            }
        };
        if let Some(file) = self.files.get_mut(at) {
            file.accepted &= accepted;
            file.entries += entries;
            file.executions += executions;
        }
        (at, known.is_none())
    }

    fn hash(&self, path: &[u8], digest: Option<&Digest>) -> u64 {
        self.hasher.hash_one((path, digest))
    }

    /// Where a file with this path and content stands among those that were seen.
    fn place(&self, path: &[u8], digest: Option<&Digest>) -> Option<usize> {
        let is_it = |at: &usize| {
            let file = self.files.get(*at);
            file.is_some_and(|file| file.path == path && file.digest.as_ref() == digest)
        };
        self.seen.find(self.hash(path, digest), is_it).copied()
    }

    fn add(&mut self, file: SeenFile) -> usize {
        let at = self.files.len();
        let hash = self.hash(&file.path, file.digest.as_ref());
        self.files.push(file);
        let (files, hasher) = (&self.files, &self.hasher);
        self.seen.insert_unique(hash, at, |at| {
            // Every place in the table is one of `files`.
            let file = files.get(*at);
            let (path, digest) = file.map_or((&b""[..], None), |file| (&file.path, file.digest.as_ref()));
            hasher.hash_one((path, digest))
        });
        at
    }

    /// What the excludes hide: it would be judged without them.
    pub(crate) fn excluded(&self, key: PartitionKey) -> Option<Finding> {
        let (uses, files) = (self.deviations.excluded, self.excluded_files);
        let finding = || {
            Finding::tolerated(
                Rule::of_contents(key),
                Subject::Partition(key),
                format!(
                    "excludes hide {uses} measured entries and executions of {files} files: nobody \
                    judged them"
                ),
            )
            .found(uses)
        };
        (uses > 0).then(finding)
    }

    /// Whether nothing is recorded of it but its name.
    pub(crate) fn is_unseen(&self) -> bool {
        self.entries + self.executions == 0 && !self.acted && self.lost.is_none()
    }

    /// The finding on programs that ran others out of the kernel's sight.
    pub(crate) fn opaque(&self) -> Option<Finding> {
        self.opaque.clone()
    }

    /// A record states what was not recorded so far: the last one holds.
    pub(crate) fn lost(&mut self, loss: PodLoss, seq: u64) {
        if self.lost.is_none_or(|(_, stated)| stated < seq) {
            self.lost = Some((loss, seq));
        }
    }

    /// What was not recorded of it, with the number of the record that says so.
    pub(crate) fn unrecorded(&self) -> Option<(PodLoss, u64)> {
        self.lost
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        let files: usize = self.files.iter().map(|file| file.path.len() + 200).sum();
        let parts: usize = self.parts.values().map(Uses::weight).sum();
        files + parts + self.shared_memory.weight() + self.said.len() * 48
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::verdict::MAX_PARTS;
    use cgpath_evidence::Bank;

    #[test]
    fn what_many_parts_used_and_may_not_is_listed_once_for_each_reason() {
        const FILES: u32 = 10;
        let mut tally = Tally::default();
        let of = |n: u32| (n.to_be_bytes(), Bank::Sha256.hash(&[&n.to_be_bytes()]));
        let files: Vec<_> = (0..FILES).map(of).collect();
        let part = |name: &str| PodPart::Container(name.to_owned());
        let mut saw = |seen: Seen, name: &str| {
            for (path, digest) in &files {
                tally.saw_in_part(path, Some(digest), (0, 1), seen, Some(&part(name)));
            }
            (tally.deviations.fnf.len(), tally.deviations.filehash_err.len())
        };
        let all = FILES as usize;
        assert_eq!(saw(Seen::Accepted, "a"), (0, 0));
        assert_eq!(saw(Seen::UnknownPath, "b"), (all, 0));
        assert_eq!(saw(Seen::UnknownPath, "c"), (all, 0));
        assert_eq!(saw(Seen::WrongHash, "d"), (all, all));
        assert_eq!(saw(Seen::WrongHash, "e"), (all, all));
        assert_eq!(saw(Seen::WrongHash, "d"), (all, all));
        assert_eq!(tally.files.len(), all);
        // Each list names those that met it, with every file.
        for (list, met) in [
            (&tally.deviations.fnf, ["b", "c"]),
            (&tally.deviations.filehash_err, ["d", "e"]),
        ] {
            for (deviation, (path, digest)) in list.iter().zip(&files) {
                assert_eq!((&deviation.path[..], &deviation.digest), (&path[..], digest));
                assert_eq!(
                    (&deviation.parts[..], deviation.more_parts),
                    (&met.map(part)[..], false)
                );
            }
        }
        let mut new = Tally::default();
        let digest = Bank::Sha256.hash(&[b"x"]);
        for _ in 0..2 {
            new.saw_in_part(b"/x", Some(&digest), (1, 0), Seen::WrongHash, None);
        }
        assert_eq!(
            (new.deviations.fnf.len(), new.deviations.filehash_err.len()),
            (0, 1)
        );
    }
    #[test]
    fn a_deviation_names_so_many_parts_and_says_that_there_are_more() {
        let mut tally = Tally::default();
        let digest = Bank::Sha256.hash(&[b"x"]);
        for n in 0..=MAX_PARTS {
            assert!(tally.deviations.fnf.iter().all(|deviation| !deviation.more_parts));
            let part = PodPart::Container(n.to_string());
            tally.saw_in_part(b"/x", Some(&digest), (1, 0), Seen::UnknownPath, Some(&part));
        }
        let [deviation] = &tally.deviations.fnf[..] else {
            panic!("{:?}", tally.deviations)
        };
        assert_eq!((deviation.parts.len(), deviation.more_parts), (MAX_PARTS, true));
    }
}
