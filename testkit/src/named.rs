//! Names: what the container runtime calls pods and containers, as the collector records it.

use crate::Node;
use cgpath_evidence::{ContainerName, Named, PartitionKey, PodName, PodUid};

impl Node {
    /// The runtime names a pod, and the collector records that.
    pub fn name_pod(&mut self, uid: PodUid, namespace: &str, labels: &[(&str, &str)]) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let name = PodName::new(namespace.into(), format!("pod-{}", uid.0[0]), labels.collect());
        self.record_name(uid, Named::Pod(name));
    }

    /// The runtime names a container of a pod; without a name it is the sandbox.
    pub fn name_container(&mut self, uid: PodUid, id: &str, name: &str) {
        let container = ContainerName {
            id: id.into(),
            name: name.into(),
            sandbox: name.is_empty(),
            image: format!("registry.example/{name}:1"),
            references: Vec::new(),
        };
        self.record_name(uid, Named::Container(container));
    }

    /// The collector records a name.
    pub fn record_name(&mut self, uid: PodUid, named: Named) {
        let cgroup = format!("/kubepods/burstable/pod{uid}").into_bytes();
        let record = named.into_record(1_000_000 * self.seq, 41, cgroup);
        self.waiting.push((PartitionKey::Pod(uid), record));
    }
}
