//! What a manifest says of a node, as a part of a node's policy.

use super::Manifest;
use evidence::Digest;
use std::fmt::Write as _;

impl Manifest {
    /// `host`, `sandbox`, `pods` and `boot` of a node's policy; `names` are the files of [`Manifest::references`]. Empty
    /// where the manifest names no owner of its values.
    pub fn policy_part(&self, names: &[String]) -> String {
        let list = |positions: &[usize]| {
            let names = positions.iter().filter_map(|n| names.get(*n));
            let names: Vec<String> = names.map(|name| quoted(name)).collect();
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
                quoted(&pod.name),
                list(&pod.references)
            );
        }
        if let Some(boot) = &self.boot {
            out.push_str("boot:\n");
            if !boot.registers.is_empty() {
                out.push_str("  registers:\n");
            }
            for (pcr, values) in &boot.registers {
                let _ = writeln!(out, "    {pcr}: [{}]", digests(values));
            }
            if !boot.command_lines.is_empty() {
                out.push_str("  command-lines:\n");
            }
            for line in &boot.command_lines {
                let _ = writeln!(out, "    - {}", quoted(line));
            }
            if !boot.events.is_empty() {
                out.push_str("  events:\n");
            }
            for event in &boot.events {
                let _ = writeln!(
                    out,
                    "    - {{pcr: {}, type: {}, name: {}, digests: [{}]}}",
                    event.pcr,
                    event.kind,
                    quoted(&event.name),
                    digests(&event.digests)
                );
            }
        }
        out
    }
}

/// YAML strings are JSON strings.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn digests(digests: &[Digest]) -> String {
    let digests: Vec<String> = digests.iter().map(|digest| format!("\"{digest}\"")).collect();
    digests.join(", ")
}
