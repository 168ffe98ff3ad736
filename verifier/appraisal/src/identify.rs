//! What a pod used, by evidence alone: for the question which image a container really runs.
//!
//! Pure. Promise: whose a content is says the cgroup that the kernel saw, and what it is its hash; the
//! container runtime's word decides nothing. Not here: whether the evidence is to be believed (see
//! `appraise`), which images there are (see `cgpath_policy::refs`).

use crate::inputs::decoded::{banks, padded_sha1, view_of};
use crate::rules::names::{Part, PodCalled};
use cgpath_evidence::{
    ContainerName, Digest, EventKind, Evidence, FileHash, Named, PartitionKey, PodUid, Record,
    cgroup::partition_of, list::as_listed,
};
use cgpath_policy::Name;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What one part of a pod used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The container's id, as its cgroup's name has it; `None`: outside of all containers.
    pub container: Option<String>,
    /// What the container runtime first called it: enriched.
    pub name: Option<ContainerName>,
    contents: BTreeSet<Content>,
}

/// A path with a content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Content {
    path: Vec<u8>,
    is_listed: bool,
    digest: Option<Digest>,
}

impl Used {
    /// Each path with each content that it had there, once; without a digest where none could be had.
    pub fn contents(&self) -> impl Iterator<Item = (Name<'_>, Option<&Digest>)> {
        self.contents.iter().map(|content| {
            let name = match content.is_listed {
                true => Name::Listed(&content.path),
                false => Name::True(&content.path),
            };
            (name, content.digest.as_ref())
        })
    }
}

/// What a pod used, what is outside of its containers first; a part that used nothing is left out. The
/// evidence is taken as it is: nothing of it is checked.
pub fn used(evidence: &Evidence, pod: PodUid) -> Vec<Used> {
    let key = PartitionKey::Pod(pod);
    let logs = evidence.partitions.iter().chain(&evidence.unsealed);
    let own = logs.filter(|log| log.key == key);
    let records: Vec<&Record> = own.flat_map(|log| &log.records).collect();
    let banks = banks(records.iter().copied(), []);
    let view = view_of(&evidence.list, &banks);
    let mut at: HashMap<&[u8], usize> = HashMap::new();
    for index in 0..view.lines.len() {
        let digests = banks.iter().filter_map(|bank| view.digests.digest(index, *bank));
        at.extend(digests.map(|digest| (digest, index)));
    }
    let mut parts: BTreeMap<Part, BTreeSet<Content>> = BTreeMap::new();
    let mut take = |cgroup: Option<&[u8]>, path: &[u8], is_listed, digest: Option<&Digest>| {
        let content = Content {
            path: path.to_vec(),
            is_listed,
            digest: digest.cloned(),
        };
        parts.entry(Part::of(cgroup)).or_default().insert(content);
    };
    // In the kernel tier the list itself says whose an entry is.
    for line in &view.lines {
        let cgroup = line.cgroup.as_deref();
        if cgroup.is_some() && !line.violation && partition_of(cgroup) == key {
            take(cgroup, line.path.unwrap_or_default(), true, line.file.as_ref());
        }
    }
    let mut called = PodCalled::default();
    for record in records {
        let cgroup = record.cgroup.as_deref();
        match record.kind {
            EventKind::Entry => {
                let of = |digest: &Digest| at.get(digest.bytes()).or_else(|| at.get(padded_sha1(digest)?));
                let index = record.digests.iter().find_map(of);
                let line = index.and_then(|index| view.lines.get(*index));
                if let Some(line) = line {
                    take(cgroup, line.path.unwrap_or_default(), true, line.file.as_ref());
                }
            }
            EventKind::Execution | EventKind::Script | EventKind::Mapping | EventKind::LateMapping => {
                let digest = record.hash.as_ref().and_then(FileHash::digest);
                take(cgroup, &record.path, false, digest);
            }
            EventKind::Name if Named::is_record(record) => {
                if let Some(named) = record.name.as_deref() {
                    called.take(pod, named);
                }
            }
            EventKind::Violation
            | EventKind::Guard
            | EventKind::PodLoss
            | EventKind::LayerWrite
            | EventKind::Load
            | EventKind::Name => {}
        }
    }
    let used = parts.into_iter().map(|(part, contents)| {
        let container = match part {
            Part::Runtime => None,
            Part::Container(id) => Some(id),
        };
        Used {
            name: container
                .as_ref()
                .and_then(|id| called.containers.get(id).cloned()),
            container,
            contents: once(contents),
        }
    });
    used.collect()
}

/// Without the names of a list of files whose true path is there with the same content.
fn once(mut contents: BTreeSet<Content>) -> BTreeSet<Content> {
    let known: BTreeSet<(Vec<u8>, Option<Digest>)> = contents
        .iter()
        .filter(|content| !content.is_listed)
        .map(|content| (as_listed(&content.path).into_owned(), content.digest.clone()))
        .collect();
    contents.retain(|content| {
        !content.is_listed || !known.contains(&(content.path.clone(), content.digest.clone()))
    });
    contents
}
