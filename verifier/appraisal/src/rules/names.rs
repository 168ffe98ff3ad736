//! V8: what the container runtime calls pods and their containers, by the records of names.
//!
//! Promises: a record of a name says a name and nothing else, or the node's records are not believed (V5);
//! what was said first stands, and who says something else later is a finding of that pod. Not here: what may
//! follow from a name (see `v08_workloads`).

use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::rules::v05_join::Owned;
use cgpath_evidence::{
    ContainerName, EventKind, Named, PartitionKey, PodName, PodUid, Provenance, cgroup::attribute,
};
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

impl Called {
    /// Takes the names among new records.
    pub(crate) fn step(&mut self, records: &[Owned<'_>]) {
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
            self.pods.entry(*uid).or_default().take(*uid, named);
        }
    }

    pub(crate) fn malformed(&self) -> &Findings {
        &self.malformed
    }

    pub(crate) fn of(&self, uid: PodUid) -> Option<&PodCalled> {
        self.pods.get(&uid)
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        let containers: usize = self.pods.values().map(|pod| pod.containers.len()).sum();
        self.pods.len() * 512 + containers * 512
    }
}

impl PodCalled {
    fn take(&mut self, uid: PodUid, named: &Named) {
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
