//! A tenant's own policy: what the operator of one pod allows in it. One YAML file and its reference files.
//!
//! Promise: what it gives judges the pod's partition exactly as a node's policy would; it knows nothing of
//! the host, which a tenant leaves to a full verifier. Not here: which verifiers' results are believed (an
//! argument of the command).

use super::{Allowed, Loader, PodPolicy, Policy, Result};
use crate::anchor::Anchor;
use crate::form;
use crate::node::{
    self, FileSystem, NodePolicy, Opaque, Pattern, SharedMemoryCode, defaults, form::WrittenUid,
};
use crate::{Error, Excludes, TdxPolicy};
use cgpath_evidence::{Bank, PodUid};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// A node policy with nothing but defaults. What it says of the host accepts nothing: the host has no
/// reference values.
const DEFAULTS: &[u8] = b"{version: 1, node: tenant, accept: {tiers: [bpf], templates: [none], banks: \
    [sha256], ima-policies: ['sha256:0000000000000000000000000000000000000000000000000000000000000000'], \
    collector: /none}, host: {references: [none]}, pods: []}";

/// What is allowed in one pod, as its tenant appraises it.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(title = "ima-cgpath tenant's policy", extend("$id" = "urn:ima-cgpath:schema:tenant-policy:1"))]
pub(crate) struct TenantPolicy {
    /// Format version: 1.
    #[serde(deserialize_with = "form::version_one")]
    #[schemars(extend("const" = 1))]
    version: u32,
    /// The pod's UID, with dashes; a static pod's as the kubelet writes it, 32 digits, or with dashes.
    #[schemars(schema_with = "node::form::uid_schema")]
    pod: WrittenUid,
    /// What people call it; only for the output.
    #[serde(deserialize_with = "form::name")]
    #[schemars(length(min = 1, max = 253))]
    name: String,
    /// Templates that the entries shown to this tenant may use.
    #[serde(deserialize_with = "form::texts")]
    #[schemars(length(min = 1, max = 4096))]
    templates: Vec<String>,
    /// What must vouch for the list: `pcr-10`, or `rtmr-2` or `rtmr-3` of a node without a TPM.
    #[serde(default = "pcr_10")]
    anchor: Anchor,
    /// PCR banks that must be quoted. There are none where the anchor is not `pcr-10`.
    #[serde(default, deserialize_with = "form::some")]
    #[schemars(schema_with = "node::form::banks_schema")]
    banks: Vec<Bank>,
    /// Reference files of the pod's images, and of what the platform runs in every pod: the sandbox image.
    #[serde(deserialize_with = "form::texts")]
    #[schemars(length(min = 1, max = 4096))]
    references: Vec<String>,
    /// Reference files whose contents may appear at any path: the runtime's copy of itself while it sets
    /// containers up.
    #[serde(default, deserialize_with = "form::bounded")]
    #[schemars(length(max = 4096))]
    runtime_files: Vec<String>,
    /// Container runtimes: see the node policy.
    #[serde(default = "defaults::default_runtimes", deserialize_with = "form::texts")]
    #[schemars(length(min = 1, max = 4096))]
    runtimes: Vec<String>,
    /// What to do where a program ran in the pod that runs others out of the kernel's sight: see the node
    /// policy.
    #[serde(default)]
    opaque: Opaque,
    /// What to do where the pod makes shared memory without a name executable after it was mapped: see the
    /// node policy.
    #[serde(default)]
    shared_memory_code: SharedMemoryCode,
    /// Records that may be lost on the node; 0 by default.
    #[serde(default)]
    lost: u64,
    /// Paths at which a violation does not count.
    #[serde(default, deserialize_with = "form::bounded")]
    #[schemars(length(max = 4096))]
    permit_violations: Vec<Pattern>,
    /// File systems that others can change, from which the pod may use files all the same: see the node
    /// policy.
    #[serde(default, deserialize_with = "form::bounded")]
    #[schemars(length(max = 4096))]
    permit_file_systems: Vec<FileSystem>,
    /// What the trust domain must be, where the anchor is a register of one: see the node policy. Its boot is
    /// left to a full verifier.
    #[serde(default)]
    tdx: Option<TdxPolicy>,
}

fn pcr_10() -> Anchor {
    Anchor::Pcr10
}

impl Policy {
    /// Reads a tenant's policy, which is about one pod and nothing else: the pod's UID, and the policy.
    /// `resolve` and `file` as for [`Policy::load`].
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn load_tenant(
        file: &str,
        yaml: &[u8],
        mut resolve: impl FnMut(&str) -> core::result::Result<Vec<u8>, String>,
    ) -> Result<(PodUid, Policy)> {
        let tenant: TenantPolicy = node::from_yaml(file, yaml)?;
        let mut loader = Loader::new(file, &mut resolve);
        let none = Excludes::default();
        let allowed = loader.allowed("references", &tenant.references, &none)?;
        let everywhere = loader.allowed("runtime-files", &tenant.runtime_files, &none)?;
        let mut runtime_files = HashMap::new();
        for reference in everywhere.references() {
            for digest in reference.files.values().flatten() {
                let learned = runtime_files.entry(digest.clone()).or_insert(true);
                *learned &= reference.learned;
            }
        }
        let digest = loader.digest(yaml);
        let pod = node::Pod {
            uid: tenant.pod.uid,
            is_undashed: tenant.pod.is_undashed,
            name: tenant.name,
            references: tenant.references,
            excludes: none,
            opaque: tenant.opaque,
            shared_memory_code: tenant.shared_memory_code,
        };
        let mut node = NodePolicy::from_yaml(file, DEFAULTS)?;
        node.accept.templates = tenant.templates;
        node.accept.banks = tenant.banks;
        node.accept.anchors = vec![tenant.anchor];
        node.tdx = tenant.tdx;
        if let Some((key, why, hint)) = node::misfit_of_tenant(&node) {
            return Err(Error::Meaning {
                file: file.to_owned(),
                key: key.into(),
                why: why.into(),
                hint: hint.into(),
            });
        }
        node.tolerance.lost = tenant.lost;
        node.runtimes = tenant.runtimes;
        node.violations.permit = tenant.permit_violations;
        node.file_systems.permit = tenant.permit_file_systems;
        node.pods = vec![pod.clone()];
        let policy = Policy {
            file: node,
            host: Allowed::default(),
            sandbox: Allowed::default(),
            pods: BTreeMap::from([(tenant.pod.uid, PodPolicy { pod, allowed })]),
            workloads: None,
            runtime_files,
            digest,
        };
        Ok((tenant.pod.uid, policy))
    }
}
