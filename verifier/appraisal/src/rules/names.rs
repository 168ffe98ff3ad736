//! V8: what the container runtime calls pods and their containers, by the records of names.
//!
//! Promises: a record of a name says a name and nothing else, or the node's records are not believed (V5);
//! what was said first stands, and who says something else later is a finding of that pod. Not here: what may
//! follow from a name (see `v08_workloads`).

use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::rules::v05_join::Owned;
use cgpath_evidence::{
    ContainerName, EventKind, Named, PartitionKey, PodName, PodUid, Provenance, Record, cgroup::attribute,
};
use cgpath_policy::Policy;
use std::collections::BTreeMap;

/// What all pods are called, as far as that was said.
#[derive(Debug, Default)]
pub(crate) struct Called {
    pods: BTreeMap<PodUid, PodCalled>,
    malformed: Findings,
}

/// What one pod and its containers are called.
#[derive(Debug, Default)]
pub(crate) struct PodCalled {
    pub pod: Option<PodName>,
    /// By their ids.
    pub containers: BTreeMap<String, ContainerName>,
    /// What was said otherwise later.
    pub findings: Findings,
}

/// Whether a record has a number: the collector's own have none, and what they may hold is for
/// [`Called::step`] to say.
pub(crate) fn is_numbered(record: &Record) -> bool {
    record.kind != EventKind::Name
}

impl Called {
    /// Takes the names among new records. Under a policy of version 1 nothing follows from them, and none is
    /// kept.
    pub(crate) fn step(&mut self, records: &[Owned<'_>], policy: &Policy) {
        for (key, record) in records {
            if record.kind != EventKind::Name && record.name.is_none() {
                continue;
            }
            let (Some(named), PartitionKey::Pod(uid), true) = (&record.name, key, Named::is_record(record))
            else {
                let fault = record.name.as_ref().and_then(|named| named.fault());
                let finding = Finding::fail(
                    Rule::Records,
                    Subject::Node,
                    "a record of a name is none that a collector makes",
                );
                let finding = finding.found(fault.unwrap_or("it says something else, or nothing"));
                self.malformed.push(finding.resting_on(Provenance::Enriched));
                continue;
            };
            if policy.workloads.is_some() {
                self.pods.entry(*uid).or_default().take(*uid, named);
            }
        }
    }

    pub(crate) fn malformed(&self) -> &Findings {
        &self.malformed
    }

    pub(crate) fn of(&self, uid: PodUid) -> Option<&PodCalled> {
        self.pods.get(&uid)
    }

    /// Whether the pod has a name, or this container of it.
    pub(crate) fn is_named(&self, uid: PodUid, container: Option<&str>) -> bool {
        self.of(uid).is_some_and(|called| match container {
            Some(id) => called.containers.contains_key(id),
            None => called.pod.is_some(),
        })
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        self.pods.values().map(PodCalled::weight).sum()
    }
}

/// Bytes of an entry beside its texts, and of a text beside its own.
const EACH: usize = 256;
const EACH_TEXT: usize = 64;
/// A finding has two names as people are shown them.
const FINDING: usize = 4096;

fn weight_of<'t>(texts: impl Iterator<Item = &'t str>) -> usize {
    let texts = texts.map(|text| text.len() + EACH_TEXT);
    EACH + texts.sum::<usize>()
}

impl PodCalled {
    fn weight(&self) -> usize {
        let pod = self.pod.iter().map(|pod| weight_of(pod.texts()));
        // The id is the key, too.
        let of =
            |(id, container): (&String, &ContainerName)| id.len() + EACH_TEXT + weight_of(container.texts());
        let containers = self.containers.iter().map(of);
        EACH + pod.chain(containers).sum::<usize>() + self.findings.kept() * FINDING
    }

    /// Takes one more name: the first one of the pod and of each container holds.
    pub(crate) fn take(&mut self, uid: PodUid, named: &Named) {
        let earlier = match named {
            Named::Pod(pod) => {
                let known = self.pod.get_or_insert_with(|| pod.clone());
                (known != pod).then(|| Named::Pod(known.clone()))
            }
            Named::Container(container) => {
                let known = self.containers.entry(container.id.clone());
                let known = known.or_insert_with(|| container.clone());
                (known != container).then(|| Named::Container(known.clone()))
            }
        };
        if let Some(earlier) = earlier {
            let subject = Subject::Partition(PartitionKey::Pod(uid));
            let finding = Finding::fail(
                Rule::KnownPods,
                subject,
                "the container runtime calls it otherwise than before; what it said first holds",
            );
            self.findings.push(
                finding
                    .found(named)
                    .expected(earlier)
                    .resting_on(Provenance::Enriched),
            );
        }
    }
}

/// A part of a pod, by the first component below the pod's directory: whatever a container nests is the
/// container's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The directory itself, a monitor's, or one that is no container's.
    Runtime,
    /// The container with this id.
    Container(String),
}

impl Part {
    /// Of a cgroup's path.
    pub(crate) fn of(cgroup: Option<&[u8]>) -> Part {
        match cgroup.and_then(|path| attribute(path).container) {
            Some(container) if !container.monitor => Part::Container(container.id),
            _ => Part::Runtime,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_evidence::name::{MAX_LABEL, MAX_LABELS, MAX_REFERENCE, MAX_REFERENCES};
    use cgpath_testkit::{KeyKind, Node, pod};

    #[test]
    fn names_weigh_what_their_texts_hold_and_under_a_policy_of_version_1_nothing() {
        let uid = pod(20);
        let long = "x".repeat(MAX_LABEL);
        let labels = (0..MAX_LABELS).map(|n| (format!("{n:03}"), long.clone()));
        let container = ContainerName {
            id: "ab".repeat(32),
            name: "web".into(),
            sandbox: false,
            image: "x".repeat(MAX_REFERENCE),
            references: vec!["y".repeat(MAX_REFERENCE); MAX_REFERENCES],
        };
        let names = [
            Named::Pod(PodName::new("shop".into(), "web".into(), labels.collect())),
            Named::Container(container),
        ];
        let cgroup = format!("/kubepods/pod{uid}").into_bytes();
        let records: Vec<_> = names
            .into_iter()
            .map(|named| named.into_record(5, 7, cgroup.clone()))
            .collect();
        let owned: Vec<Owned<'_>> = records
            .iter()
            .map(|record| (PartitionKey::Pod(uid), record))
            .collect();
        let mut node = Node::boot(KeyKind::EcdsaP256);
        let weight = |policy: &Policy| {
            let mut called = Called::default();
            called.step(&owned, policy);
            (called.weight(), called.of(uid).is_some())
        };
        assert_eq!(weight(&node.policy()), (0, false));
        node.workloads = Some("version: 2\nworkloads: []\n".into());
        let (bytes, is_known) = weight(&node.policy());
        let texts = MAX_LABELS * MAX_LABEL + (MAX_REFERENCES + 1) * MAX_REFERENCE;
        assert!(is_known && bytes > texts, "{bytes}");
    }
}
