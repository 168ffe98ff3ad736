//! The workload part of a policy, version 2, as it is written: which pods may be there, by what they are
//! called, and what each of their containers may run.
//!
//! Promise: a value of [`WorkloadsFile`] that came out of [`WorkloadsFile::from_yaml`] has no unknown key and
//! no key that nothing appraises. Not here: the reference files that it names (see `lookup`), where names
//! come from (see `cgpath-evidence`).

mod form;
mod image;
mod overlap;

pub use image::ListedImage;
pub use overlap::Overlap;

use crate::form::{name, some, texts};
use crate::node::form::WrittenUid;
use crate::{Excludes, Opaque, Pattern, Result, SharedMemoryCode};
use cgpath_evidence::PodUid;
use form::{
    containers, ends, executions, folder, labels, listed, namespace, needs_api, only, seconds, selector,
    signatures, version_two,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Seconds that a new pod or container may wait for its name, unless the policy says otherwise.
pub const DEFAULT_SETTLE: u32 = 120;
/// Nor may a policy let it wait for longer than this many seconds.
pub const MAX_SETTLE: u32 = 3600;
/// The folder of the index of images, unless the policy says otherwise.
pub const DEFAULT_REFS: &str = "refs";
/// Stands for every container that has no entry of its own.
pub const ANY_CONTAINER: &str = "*";

/// The pods that may be there, on every node whose policy names this file.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "the unit is a key that is refused by its own words"
)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(title = "ima-cgpath workloads", extend("$id" = "urn:ima-cgpath:schema:workloads:2"))]
pub struct WorkloadsFile {
    /// Format version: 2.
    #[serde(deserialize_with = "version_two")]
    #[schemars(extend("const" = 2))]
    pub version: u32,
    /// V8: what to do about a pod that no entry of `workloads` matches, or that has no name in time.
    #[serde(default)]
    pub unknown_pods: UnknownPods,
    /// V8: how long a new pod, or a new container, may wait for its name: `120s`, `2m`. By the verifier's
    /// clock, from the round that first shows it.
    #[serde(default = "default_settle", deserialize_with = "seconds")]
    #[schemars(schema_with = "form::settle_schema")]
    pub settle: u32,
    /// The folder of the index of images (`cgpath refs`), relative to this file's folder.
    #[serde(default = "default_refs", deserialize_with = "folder")]
    #[schemars(length(min = 1, max = 4096))]
    pub refs: String,
    /// The workloads; the first one whose `match` holds decides. With an empty list any pod is unknown.
    #[serde(deserialize_with = "listed")]
    #[schemars(length(max = 4096))]
    pub workloads: Vec<Workload>,
    #[serde(default, deserialize_with = "signatures")]
    #[schemars(skip)]
    signers: (),
}

fn default_settle() -> u32 {
    DEFAULT_SETTLE
}

fn default_refs() -> String {
    DEFAULT_REFS.to_owned()
}

/// What to do about pods that no workload matches (V8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownPods {
    /// The node is untrusted.
    #[default]
    NodeUntrusted,
    /// The pod is unknown, and nothing follows for the node.
    Report,
}

/// Pods that are one thing, however many there are and whatever their UIDs.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Workload {
    /// What people call it; no two have the same. With a `/` it begins with the namespace that `match` has,
    /// or with that of the one pod that `match` means by its UID; readers' scopes rest on it.
    #[serde(deserialize_with = "name")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which pods are of it.
    #[serde(rename = "match", deserialize_with = "selector")]
    pub selector: Selector,
    /// What each container may run, by its name in the pod; `*` stands for every container without an entry
    /// of its own.
    #[serde(deserialize_with = "containers")]
    #[schemars(extend("minProperties" = 1), extend("maxProperties" = 4096))]
    pub containers: BTreeMap<String, Container>,
    #[serde(default, deserialize_with = "ends")]
    #[schemars(skip)]
    max: (),
    #[serde(default, deserialize_with = "needs_api")]
    #[schemars(skip)]
    init_containers: (),
    #[serde(default, deserialize_with = "needs_api")]
    #[schemars(skip)]
    ephemeral_containers: (),
}

/// Which pods a workload has: all that is stated here holds for them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Selector {
    /// A static or bare pod's UID, in either form. Alone it needs no name.
    #[schemars(schema_with = "crate::node::form::uid_schema")]
    uid: Option<WrittenUid>,
    /// Kubernetes namespace.
    #[serde(deserialize_with = "namespace")]
    #[schemars(with = "String", length(min = 1, max = 253))]
    pub namespace: Option<String>,
    /// Labels that the pod must have; others do not matter.
    #[serde(deserialize_with = "labels")]
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "needs_api")]
    #[schemars(skip)]
    owner: (),
    #[serde(deserialize_with = "needs_api")]
    #[schemars(skip)]
    service_account: (),
}

/// What one container may run.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(extend("anyOf" = [{ "required": ["images"] }, { "required": ["references"] }]))]
pub struct Container {
    /// V8: the images that it may run, each as `NAME@sha256:…`: the digest of an image's index, manifest or
    /// configuration. Their values come from the index of images (`refs`). The name is for people.
    #[serde(default, deserialize_with = "some")]
    #[schemars(length(min = 1, max = 4096))]
    pub images: Vec<ListedImage>,
    /// Reference files, relative to this file's folder. Beside `images` they count in whichever of these it
    /// runs; without, it may run any image, and they say what is in it.
    #[serde(default, deserialize_with = "texts")]
    #[schemars(length(min = 1, max = 4096))]
    pub references: Vec<String>,
    /// Paths that are not appraised in this container.
    #[serde(default)]
    pub excludes: Excludes,
    /// V9: what to do when a program ran in it that runs others out of the kernel's sight.
    #[serde(default)]
    pub opaque: Opaque,
    /// V9: what to do when it makes shared memory without a name (a memfd) executable after it was mapped.
    #[serde(default)]
    pub shared_memory_code: SharedMemoryCode,
    #[serde(default, deserialize_with = "signatures")]
    #[schemars(skip)]
    signed_by: (),
    #[serde(default, deserialize_with = "executions")]
    #[schemars(skip)]
    executions: (),
    #[serde(default, deserialize_with = "executions")]
    #[schemars(skip)]
    exec: (),
    /// V9: path patterns (`*` and `?` do not match `/`, `**` does). Where there are any, what is executed or
    /// mapped executable under another path is a finding, though its content is accepted. They accept
    /// nothing.
    #[serde(default, deserialize_with = "only")]
    #[schemars(schema_with = "form::only_schema")]
    pub only: Vec<Pattern>,
}

/// What is known of a pod when its workload is looked for.
#[derive(Debug, Clone, Copy)]
pub struct PodNames<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// Labels as key and value, in rising order of the keys.
    pub labels: &'a [(String, String)],
}

impl PodNames<'_> {
    fn has(&self, key: &str, value: &str) -> bool {
        let at = self.labels.binary_search_by(|(known, _)| known.as_str().cmp(key));
        at.ok()
            .and_then(|at| self.labels.get(at))
            .is_some_and(|(_, known)| known == value)
    }
}

impl Container {
    /// Whether a file may run under this path, or be mapped executable, as far as `only` says. A path that is
    /// not whole is one that nobody knows: see [`Record::path_cut`](cgpath_evidence::Record::path_cut).
    pub fn may_run(&self, path: &[u8], is_whole: bool) -> bool {
        self.only.is_empty() || (is_whole && self.only.iter().any(|pattern| pattern.matches(path)))
    }
}

impl WorkloadsFile {
    /// Reads a workload part. `file` is what errors call it.
    ///
    /// # Errors
    /// As [`crate::NodePolicy::from_yaml`].
    pub fn from_yaml(file: &str, yaml: &[u8]) -> Result<WorkloadsFile> {
        crate::node::from_yaml(file, yaml)
    }
}

impl Selector {
    /// The UID that pods must have.
    pub fn uid(&self) -> Option<PodUid> {
        self.uid.map(|written| written.uid)
    }

    /// Whether a pod is meant; `None` where that depends on names that are not there.
    pub fn holds(&self, uid: &PodUid, names: Option<&PodNames<'_>>) -> Option<bool> {
        if self.uid.is_some_and(|written| written.uid != *uid) {
            return Some(false);
        }
        if self.namespace.is_none() && self.labels.is_empty() {
            return Some(true);
        }
        let names = names?;
        let is_there = self.namespace.as_deref().is_none_or(|own| own == names.namespace);
        Some(is_there && self.labels.iter().all(|(key, value)| names.has(key, value)))
    }

    fn is_empty(&self) -> bool {
        self.uid.is_none() && self.namespace.is_none() && self.labels.is_empty()
    }
}

impl core::fmt::Display for Selector {
    /// As it may stand in a policy, on one line.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut parts = Vec::new();
        parts.extend(
            self.uid
                .map(|written| format!("uid: {}", written.uid.shown(written.is_undashed))),
        );
        parts.extend(self.namespace.as_ref().map(|own| format!("namespace: {own}")));
        if !self.labels.is_empty() {
            let labels: Vec<String> = self
                .labels
                .iter()
                .map(|(key, value)| format!("{key}: {value}"))
                .collect();
            parts.push(format!("labels: {{{}}}", labels.join(", ")));
        }
        write!(f, "{{{}}}", parts.join(", "))
    }
}
