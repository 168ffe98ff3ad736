//! The policy under which an honest run of a node is trusted, its reference files, and the context that goes
//! with it.

use super::Node;
use crate::{COLLECTOR, IMA_POLICY, NODE, NOW, sha256};
use cgpath_appraisal::{Context, ExpectedNonce, NodeState, PinnedKey, TdContext};
use cgpath_evidence::td::{node_key_hash, public_node_key};
use cgpath_evidence::{Digest, PodUid};
use cgpath_policy::refs::{self, Image, Images, Layer};
use cgpath_policy::{DEFAULT_REFS, Policy, Reference, Source, SourceKind};

impl Node {
    /// `anchors` and `banks` of the policy's `accept`, and its `tdx`.
    fn anchors_yaml(&self) -> (String, String) {
        let pcr = self.has_tpm.then(|| "pcr-10".to_owned());
        let rtmr = self.td.as_ref().map(|td| format!("rtmr-{}", td.rtmr));
        let anchors: Vec<String> = pcr.into_iter().chain(rtmr).collect();
        // A TPM alone is what a policy means that does not say.
        let mut accept = match &self.td {
            Some(_) => format!("  anchors: [{}]\n", anchors.join(", ")),
            None => String::new(),
        };
        if self.has_tpm {
            accept += &format!("  banks: {}\n", self.accept_banks);
        }
        let tdx = self.td.as_ref();
        (
            accept,
            tdx.map_or_else(String::new, |td| format!("tdx:\n{}", td.policy)),
        )
    }

    /// The policy's YAML.
    pub fn policy_yaml(&self) -> String {
        let (version, pods) = match self.workloads {
            Some(_) => (2, "workloads: workloads.yaml\n".to_owned()),
            None => {
                let pods = self.pod_files.keys().map(|uid| {
                    let n = uid.0[0];
                    format!("  - {{uid: {uid}, name: pod-{n}, references: [{uid}.json]}}\n")
                });
                (1, format!("pods:\n{}", pods.collect::<String>()))
            }
        };
        let (anchors, tdx) = self.anchors_yaml();
        format!(
            "version: {version}\n\
             node: {NODE}\n\
             accept:\n  \
             tiers: [{}]\n  \
             templates: {}\n\
             {anchors}  ima-policies: [\"{}\"]\n  \
             collector: {COLLECTOR}\n\
             host: {{references: [host.json]}}\n\
             {pods}{}{tdx}",
            self.tier,
            self.accept_templates,
            sha256(IMA_POLICY.as_bytes()),
            self.extra_policy,
        )
    }

    /// The file that the policy calls `name`.
    pub fn reference(&self, name: &str) -> Option<Vec<u8>> {
        if name == "workloads.yaml" {
            return self.workloads.clone().map(String::into_bytes);
        }
        if let Some(bytes) = self.refs.get(name) {
            return Some(bytes.clone());
        }
        let uid = name.strip_suffix(".json")?;
        let (files, learned) = if uid == "host" {
            (&self.host_files, false)
        } else {
            (self.pod_files.get(&PodUid::parse(uid.as_bytes())?)?, self.learned)
        };
        let kind = if learned {
            SourceKind::Log
        } else {
            SourceKind::Rootfs
        };
        let mut reference = Reference::new(Source {
            kind,
            name: name.into(),
            digest: None,
        });
        for (path, digests) in files {
            for digest in digests {
                reference.insert(path.clone(), digest.clone()).unwrap();
            }
        }
        let mut out = Vec::new();
        reference.write_json(&mut out).unwrap();
        Some(out)
    }

    /// Puts an image into the index of images: its digests, and what it has at which path, all in one layer.
    pub fn add_image(&mut self, mut image: Image, files: &[(&str, Digest)]) {
        let layer = sha256(image.configuration.bytes());
        let mut values = Reference::new(Source {
            kind: SourceKind::Image,
            name: format!("layer {layer}"),
            digest: None,
        });
        for (path, digest) in files {
            values.insert(path.as_bytes().to_vec(), digest.clone()).unwrap();
        }
        let mut json = Vec::new();
        values.write_json(&mut json).unwrap();
        let values = sha256(&json);
        let mut put = |name: String, bytes| self.refs.insert(format!("{DEFAULT_REFS}/{name}"), bytes);
        put(refs::values_file(&values), json);
        image.layers.push(Layer { layer, values });
        put(
            refs::image_file(&image.configuration),
            image.to_json().into_bytes(),
        );
        for digest in image.digests() {
            let name = format!("{DEFAULT_REFS}/{}", refs::digest_file(digest));
            let known = self
                .refs
                .get(&name)
                .map(|json| Images::from_json(&name, json).unwrap());
            let mut named = known.map(|known| known.images).unwrap_or_default();
            named.insert(image.configuration.clone());
            self.refs.insert(name, Images::new(named).to_json().into_bytes());
        }
    }

    /// The policy under which an honest run of this node is trusted.
    pub fn policy(&self) -> Policy {
        Policy::load("policy.yaml", self.policy_yaml().as_bytes(), |name| {
            self.reference(name).ok_or_else(|| "no such file".to_owned())
        })
        .unwrap()
    }

    /// A context that pins this node's key.
    pub fn context(&self, nonce: &[u8], previous: Option<NodeState>) -> Context {
        Context {
            node: NODE.into(),
            key: if self.has_tpm {
                PinnedKey::Public(self.ak.public())
            } else {
                PinnedKey::NoTpm
            },
            td: self.td.as_ref().map_or_else(TdContext::default, |td| TdContext {
                node_key: Some(node_key_hash(&public_node_key(&td.key))),
                collateral: vec![td.platform.collateral(NOW - 10 * 24 * 3600)],
            }),
            nonce: ExpectedNonce::Value(nonce.to_vec()),
            now: self.now,
            previous,
        }
    }
}
