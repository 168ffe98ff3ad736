//! What of a node's policy a manifest can say.

use super::{Manifest, ManifestPod};
use crate::{Allowed, Policy, Reference};

impl Manifest {
    /// The manifest of a policy: its reference values, whose they are, and what the boot may be. And what of
    /// the policy it does not say: one line a key.
    pub fn of_policy(id: String, policy: &Policy) -> (Manifest, Vec<String>) {
        let mut manifest = Manifest {
            id,
            node: Some(policy.file.node.clone()),
            boot: policy.file.boot.clone(),
            ..Manifest::default()
        };
        let mut known = Vec::new();
        manifest.host = manifest.add(&policy.host, &mut known);
        manifest.sandbox = manifest.add(&policy.sandbox, &mut known);
        // In the file's order.
        for pod in policy
            .file
            .pods
            .iter()
            .filter_map(|pod| policy.pods.get(&pod.uid))
        {
            let references = manifest.add(&pod.allowed, &mut known);
            manifest.pods.push(ManifestPod {
                uid: pod.pod.uid,
                name: pod.pod.name.clone(),
                references,
            });
        }
        (manifest, left_out(policy))
    }

    /// Positions of these values, which are added where they are new. `known` are those that were added: a
    /// policy reads each file once, so that the same values are at the same address.
    fn add<'p>(&mut self, allowed: &'p Allowed, known: &mut Vec<&'p Reference>) -> Vec<usize> {
        let mut positions = Vec::new();
        for reference in allowed.references() {
            let position = known.iter().position(|other| core::ptr::eq(*other, reference));
            let position = position.unwrap_or_else(|| {
                self.references.push(reference.clone());
                known.push(reference);
                known.len() - 1
            });
            if !positions.contains(&position) {
                positions.push(position);
            }
        }
        positions
    }
}

/// Keys of the policy that are no reference values, each with what it says here where that is short.
fn left_out(policy: &Policy) -> Vec<String> {
    let file = &policy.file;
    let mut found = vec!["accept: which evidence is looked at is no reference value".to_owned()];
    found.extend(
        policy
            .dangerous_keys()
            .iter()
            .map(|key| format!("{key}: it switches a rule off")),
    );
    // The reference files' own excludes are reported with their values.
    let own = [("host", Some(&file.host)), ("sandbox", file.sandbox.as_ref())];
    let own = own
        .into_iter()
        .filter_map(|(part, references)| Some((part.to_owned(), &references?.excludes)));
    let pods = file
        .pods
        .iter()
        .map(|pod| (format!("pod {}", pod.name), &pod.excludes));
    for (part, excludes) in own.chain(pods) {
        let items = excludes.items().iter();
        found.extend(items.map(|item| format!("{part}.excludes: {item}: an exclude is no reference value")));
    }
    let workloads = policy.all_workloads();
    found.extend(workloads.map(|workload| {
        let name = &workload.workload.name;
        format!("workloads: {name}: a workload has no place there, nor have its values")
    }));
    let is_laxer = file.pods.iter().any(|pod| pod.opaque != Default::default());
    let has_code = |pod: &crate::Pod| pod.shared_memory_code != Default::default();
    let changed = [
        ("opaque of a pod", is_laxer),
        ("shared-memory-code of a pod", file.pods.iter().any(has_code)),
        ("tolerance", file.tolerance != Default::default()),
        ("padded-banks", file.padded_banks != Default::default()),
        ("predating-pods", file.predating_pods != Default::default()),
        ("kexec", file.kexec != Default::default()),
        ("min-reboot", file.min_reboot != crate::DEFAULT_MIN_REBOOT),
        ("guard", file.guard != Default::default()),
        ("violations", file.violations != Default::default()),
        ("file-systems", file.file_systems != Default::default()),
        ("runtimes", file.runtimes != crate::DEFAULT_RUNTIMES),
        ("runtime-files", !file.runtime_files.is_empty()),
    ];
    for (key, is_changed) in changed {
        if is_changed {
            found.push(format!(
                "{key}: it says how evidence is judged, and is no reference value"
            ));
        }
    }
    found
}
