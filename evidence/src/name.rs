//! What a pod and its containers are called: a record that the collector makes when the container runtime
//! first names one.
//!
//! Promises: a name is *enriched*, the runtime's word, and sealed like any record of its pod, so that what
//! was said first stands; its encoding is bounded. Not here: what may follow from a name (see
//! `cgpath-appraisal`), how the runtime is asked (see `cgpathd`).

use crate::{EventKind, PartitionKey, Record, cgroup};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Longest name of a namespace, a pod or a container, in bytes (RFC 1123 subdomain).
pub const MAX_NAME: usize = 253;
/// Labels of a pod at most.
pub const MAX_LABELS: usize = 256;
/// Bytes of a label's key and of its value at most: `PREFIX/NAME`, and Kubernetes' own bound.
pub const MAX_LABEL: usize = 317;
/// Digits of a container's id.
pub const ID_LEN: usize = 64;
/// References to an image at most.
pub const MAX_REFERENCES: usize = 16;
/// Bytes of a reference to an image at most.
pub const MAX_REFERENCE: usize = 1024;

/// What the container runtime calls a pod, or a container of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "kebab-case")]
pub enum Named {
    /// The pod.
    #[n(1)]
    Pod(#[n(0)] PodName),
    /// A container, or the pod's sandbox.
    #[n(2)]
    Container(#[n(0)] ContainerName),
}

/// A pod as the runtime names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct PodName {
    /// Kubernetes namespace.
    #[n(0)]
    pub namespace: String,
    /// Its name there.
    #[n(1)]
    pub name: String,
    /// Labels as key and value, in rising order of the keys' bytes, none twice.
    #[n(2)]
    pub labels: Vec<(String, String)>,
    /// It has labels that no record holds, so that none is here: no selector by labels holds for it. Stated
    /// only where it is so.
    #[n(3)]
    #[cbor(skip_if = "core::ops::Not::not")]
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub labels_left_out: bool,
}

impl PodName {
    /// A pod's name as a record holds it: its labels in their order, or all of them left out where they are
    /// more than [`MAX_LABELS`] or one is longer than [`MAX_LABEL`] or no text. Who makes a pod chooses its
    /// labels, and must not choose that it has no name.
    pub fn new(namespace: String, name: String, mut labels: Vec<(String, String)>) -> PodName {
        labels.sort_unstable();
        let labels_left_out = labels_fault(&labels).is_some();
        if labels_left_out {
            labels.clear();
        }
        PodName {
            namespace,
            name,
            labels,
            labels_left_out,
        }
    }

    /// All texts in it, by which it is weighed.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let PodName {
            namespace,
            name,
            labels,
            labels_left_out: _,
        } = self;
        let labels = labels.iter().flat_map(|(key, value)| [key, value]);
        labels.chain([namespace, name]).map(String::as_str)
    }
}

/// A container as the runtime names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct ContainerName {
    /// The id that its cgroup's name has: 64 hex digits in lower case.
    #[n(0)]
    pub id: String,
    /// Its name in the pod; empty for the sandbox, which has none.
    #[n(1)]
    pub name: String,
    /// It is the pod's sandbox: what holds the pod's namespaces and runs the pause image.
    #[n(2)]
    pub sandbox: bool,
    /// The image as the pod's specification has it; empty where the runtime does not say.
    #[n(3)]
    pub image: String,
    /// What the runtime says that this image is, as it says it: `REPOSITORY@sha256:…` or a digest alone.
    #[n(4)]
    pub references: Vec<String>,
}

impl Named {
    /// What no runtime could have meant, or `None`: such a name is not passed on by a collector, and not
    /// taken by a verifier.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Named::Pod(pod) => pod.fault(),
            Named::Container(container) => container.fault(),
        }
    }

    /// The record of this name. `cgroup` is the path of the pod's own directory, `cgroup_id` its inode
    /// number, `boot_ns` when the runtime said it (CLOCK_BOOTTIME).
    ///
    /// It has no number: the kernel gives those, and this is the collector's.
    pub fn into_record(self, boot_ns: u64, cgroup_id: u64, cgroup: Vec<u8>) -> Record {
        Record {
            seq: 0,
            boot_ns,
            kind: EventKind::Name,
            ret: 0,
            pcr: 0,
            digests: Vec::new(),
            hash: None,
            path: Vec::new(),
            dev: 0,
            ino: 0,
            cgroup_id,
            cgroup: Some(cgroup),
            pid: 0,
            uid: 0,
            mnt_ns: 0,
            pid_ns: 0,
            ancestry: Vec::new(),
            ancestry_cut: false,
            path_cut: false,
            guard: None,
            pod_loss: None,
            identity: None,
            writable: false,
            load: None,
            name: Some(Box::new(self)),
        }
    }

    /// Whether `record` is one that [`Named::into_record`] makes: of a pod, with a name that could be one,
    /// and with nothing else.
    pub fn is_record(record: &Record) -> bool {
        let Some(named) = &record.name else { return false };
        let Some(path) = &record.cgroup else { return false };
        let is_pods = matches!(cgroup::partition_of(Some(path)), PartitionKey::Pod(_));
        let plain = named
            .as_ref()
            .clone()
            .into_record(record.boot_ns, record.cgroup_id, path.clone());
        is_pods && named.fault().is_none() && *record == plain
    }
}

impl core::fmt::Display for Named {
    /// One line for people; the runtime's texts stand in it as they are.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Named::Pod(pod) => write!(f, "pod {}/{}", pod.namespace, pod.name),
            Named::Container(container) if container.sandbox => f.write_str("sandbox"),
            Named::Container(container) if container.image.is_empty() => {
                write!(f, "container {}", container.name)
            }
            Named::Container(container) => write!(f, "container {} ({})", container.name, container.image),
        }
    }
}

/// Text that people may be shown: within a limit, without control characters.
fn is_text(text: &str, limit: usize) -> bool {
    text.len() <= limit && !text.chars().any(char::is_control)
}

/// Whether Kubernetes could call a namespace, a pod or a container so: at most [`MAX_NAME`] bytes of a to z,
/// 0 to 9, `-` and `.`.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

/// Whether a record holds a label: at most [`MAX_LABEL`] bytes each, no control characters, a key.
pub fn is_label(key: &str, value: &str) -> bool {
    !key.is_empty() && is_text(key, MAX_LABEL) && is_text(value, MAX_LABEL)
}

impl PodName {
    fn fault(&self) -> Option<&'static str> {
        if !is_name(&self.namespace) || !is_name(&self.name) {
            return Some("the namespace or the name of a pod is none that Kubernetes gives");
        }
        if self.labels_left_out && !self.labels.is_empty() {
            return Some("a pod whose labels are left out has some");
        }
        labels_fault(&self.labels)
    }
}

fn labels_fault(labels: &[(String, String)]) -> Option<&'static str> {
    if labels.len() > MAX_LABELS {
        return Some("a pod has too many labels");
    }
    if !labels.is_sorted_by(|before, label| before.0 < label.0) {
        return Some("a pod's labels are not in order, or one stands twice");
    }
    let are_labels = labels.iter().all(|(key, value)| is_label(key, value));
    (!are_labels).then_some("a pod's label is too long or no text")
}

impl ContainerName {
    /// All texts in it, by which it is weighed.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let ContainerName {
            id,
            name,
            sandbox: _,
            image,
            references,
        } = self;
        references.iter().chain([id, name, image]).map(String::as_str)
    }

    fn fault(&self) -> Option<&'static str> {
        if !cgroup::is_container_id(self.id.as_bytes()) {
            return Some("a container's id is not 64 hex digits in lower case");
        }
        if self.sandbox != self.name.is_empty() || !(self.sandbox || is_name(&self.name)) {
            return Some("a container has a name that Kubernetes gives, and the sandbox has none");
        }
        if self.references.len() > MAX_REFERENCES {
            return Some("a container's image has too many references");
        }
        let is_reference = |text: &String| !text.is_empty() && is_text(text, MAX_REFERENCE);
        (!is_text(&self.image, MAX_REFERENCE) || !self.references.iter().all(is_reference))
            .then_some("a reference to an image is too long or no text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "f52130f4-c5be-423e-8070-daaca055a5ad";

    fn pod() -> PodName {
        PodName {
            namespace: "shop".into(),
            name: "web-7d9f".into(),
            labels: vec![("app".into(), "web".into()), ("tier".into(), "".into())],
            labels_left_out: false,
        }
    }

    fn container() -> ContainerName {
        ContainerName {
            id: "ab".repeat(32),
            name: "web".into(),
            sandbox: false,
            image: "registry.example/shop/web:7".into(),
            references: vec![format!("registry.example/shop/web@sha256:{}", "0".repeat(64))],
        }
    }

    fn record(named: Named) -> Record {
        named.into_record(5, 7, format!("/kubepods/pod{UID}").into_bytes())
    }

    #[test]
    fn names_survive_cbor_and_json() {
        let left_out = PodName {
            labels: Vec::new(),
            labels_left_out: true,
            ..pod()
        };
        for named in [
            Named::Pod(pod()),
            Named::Pod(left_out),
            Named::Container(container()),
        ] {
            let record = record(named);
            assert!(Named::is_record(&record));
            assert_eq!(Record::from_cbor(&record.to_cbor()).unwrap(), record);
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        }
    }

    #[test]
    fn labels_that_no_record_holds_are_left_out_and_the_pod_has_its_name() {
        let new = |labels| PodName::new("shop".into(), "web-7d9f".into(), labels);
        let mut labels = pod().labels;
        labels.reverse();
        assert_eq!(new(labels), pod());
        let many = |count: usize| (0..count).map(|n| (format!("{n:03}"), String::new())).collect();
        assert_eq!(new(many(MAX_LABELS)).labels.len(), MAX_LABELS);
        for labels in [
            many(MAX_LABELS + 1),
            vec![("app".into(), "x".repeat(MAX_LABEL + 1))],
            vec![("x".repeat(MAX_LABEL + 1), String::new())],
            vec![("app".into(), "\n".into())],
            vec![(String::new(), "web".into())],
        ] {
            let name = new(labels);
            assert!(name.labels_left_out && name.labels.is_empty(), "{name:?}");
            assert_eq!(Named::Pod(name).fault(), None);
        }
    }

    #[test]
    fn what_no_runtime_could_have_meant_is_a_fault() {
        let pods: [fn(&mut PodName); 8] = [
            |pod| pod.labels_left_out = true,
            |pod| pod.namespace = String::new(),
            |pod| pod.namespace = "Shop".into(),
            |pod| pod.name = "a\n".into(),
            |pod| pod.labels.swap(0, 1),
            |pod| pod.labels[1].0 = "app".into(),
            |pod| pod.labels[0].1 = "x".repeat(MAX_LABEL + 1),
            |pod| pod.labels = (0..257).map(|n| (format!("{n:03}"), String::new())).collect(),
        ];
        for change in pods {
            let mut pod = pod();
            change(&mut pod);
            let named = Named::Pod(pod);
            assert!(named.fault().is_some(), "{named:?}");
            assert!(!Named::is_record(&record(named)));
        }
        let containers: [fn(&mut ContainerName); 6] = [
            |container| container.id.make_ascii_uppercase(),
            |container| container.id = "ab".into(),
            |container| container.name = String::new(),
            |container| container.sandbox = true,
            |container| container.references = vec![String::new()],
            |container| container.image = "a\u{1b}[2J".into(),
        ];
        for change in containers {
            let mut container = container();
            change(&mut container);
            let named = Named::Container(container);
            assert!(named.fault().is_some(), "{named:?}");
        }
    }

    #[test]
    fn a_record_of_a_name_says_nothing_else_and_is_a_pods() {
        let changes: [fn(&mut Record); 6] = [
            |record| record.seq = 3,
            |record| record.path = b"/bin/sh".to_vec(),
            |record| record.name = None,
            |record| record.kind = EventKind::Execution,
            |record| record.cgroup = Some(b"/system.slice".to_vec()),
            |record| record.cgroup = None,
        ];
        for change in changes {
            let mut record = record(Named::Pod(pod()));
            change(&mut record);
            assert!(!Named::is_record(&record), "{record:?}");
        }
    }
}
