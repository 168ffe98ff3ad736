//! What a manifest says of a node, as a part of a node's policy.

use super::Manifest;
use crate::yaml::text;
use std::fmt::Write as _;

impl Manifest {
    /// `host`, `sandbox`, `pods` and `boot` of a node's policy; `names` are the files of
    /// [`Manifest::references`]. Empty where the manifest names no owner of its values.
    pub fn policy_part(&self, names: &[String]) -> String {
        let list = |positions: &[usize]| {
            let names = positions.iter().filter_map(|n| names.get(*n));
            let names: Vec<String> = names.map(|name| text(name)).collect();
            names.join(", ")
        };
        let mut out = String::new();
        for (key, positions) in [("host", &self.host), ("sandbox", &self.sandbox)] {
            if !positions.is_empty() {
                let _ = writeln!(out, "{key}: {{ references: [{}] }}", list(positions));
            }
        }
        if !self.pods.is_empty() {
            out.push_str("pods:\n");
        } else if !self.host.is_empty() {
            out.push_str("pods: []\n");
        }
        for pod in &self.pods {
            let _ = writeln!(
                out,
                "  - uid: {}\n    name: {}\n    references: [{}]",
                pod.uid,
                text(&pod.name),
                list(&pod.references)
            );
        }
        if let Some(boot) = &self.boot {
            out.push_str(&boot.to_yaml(&[]));
        }
        out
    }
}
