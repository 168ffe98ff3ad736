//! A policy of version 1 as one of version 2: the node part as it was written, comments and all, and a
//! workload part with an entry for each pod.
//!
//! Promise: what comes out says what went in: both are read again and compared. Not here: files (see
//! `cgpath policy migrate`).

use crate::node::without_mark;
use crate::{ANY_CONTAINER, Error, NodePolicy, Opaque, Pod, Result, SharedMemoryCode, WorkloadsFile, yaml};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The two files of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The node part.
    pub node: String,
    /// The workload part.
    pub workloads: String,
}

/// Makes version 2 of a policy of version 1. `file` is what errors call it; the node part will name its
/// workload part `workloads`, which is to stand beside it.
///
/// # Errors
/// Those of [`NodePolicy::from_yaml`]; [`Error::Meaning`] for a policy of another version, and for one that
/// is written so that its `pods` cannot be cut out.
pub fn to_version_2(file: &str, yaml: &[u8], workloads: &str) -> Result<Migrated> {
    let refused = |key: &str, why: &str, hint: &str| Error::Meaning {
        file: file.to_owned(),
        key: key.to_owned(),
        why: why.to_owned(),
        hint: hint.to_owned(),
    };
    let old = NodePolicy::from_yaml(file, yaml)?;
    if old.version != 1 {
        return Err(refused("version", "it is 2 already", "there is nothing to do"));
    }
    let by_hand = || {
        refused(
            "pods",
            "it is not written as lines of its own, so it cannot be cut out",
            "write `version:` and `pods:` at the beginning of a line each, and what is in `pods` below, \
             indented",
        )
    };
    let text = core::str::from_utf8(without_mark(yaml)).map_err(|_| by_hand())?;
    let migrated = Migrated {
        node: node_part(text, workloads),
        workloads: workload_part(&old),
    };
    let wanted = NodePolicy {
        version: 2,
        pods: Vec::new(),
        workloads: Some(workloads.to_owned()),
        ..old.clone()
    };
    let node = NodePolicy::from_yaml(file, migrated.node.as_bytes());
    let part = WorkloadsFile::from_yaml(workloads, migrated.workloads.as_bytes())?;
    let are_same = part.workloads.len() == old.pods.len()
        && part.workloads.iter().zip(&old.pods).all(|(workload, pod)| {
            let container = workload.containers.get(ANY_CONTAINER);
            let values = Values::of(pod, &old);
            workload.selector.uid() == Some(pod.uid)
                && container.is_some_and(|container| {
                    container.images.is_empty()
                        && container.only.is_empty()
                        && container.references.iter().eq(values.references)
                        && container.excludes.items().iter().eq(values.excludes)
                        && container.opaque == pod.opaque
                        && container.shared_memory_code == pod.shared_memory_code
                })
        });
    if node.is_ok_and(|node| node == wanted) && are_same {
        return Ok(migrated);
    }
    Err(by_hand())
}

/// The lines of a policy with `workloads` in the place of `pods`.
fn node_part(text: &str, workloads: &str) -> String {
    let mut out = String::new();
    let mut is_pods = false;
    // Comments between the last pod and the next key are the next key's.
    let mut comments = Vec::new();
    for line in text.lines() {
        if line.starts_with("pods:") {
            is_pods = true;
            let _ = writeln!(out, "workloads: {}", yaml::text(workloads));
            continue;
        }
        let is_within = line.is_empty() || line.starts_with([' ', '\t', '-', ']', '}']);
        if is_pods && line.starts_with('#') {
            comments.push(line);
            continue;
        }
        if is_pods && is_within {
            comments.clear();
            continue;
        }
        is_pods = false;
        for comment in comments.drain(..) {
            out.extend([comment, "\n"]);
        }
        match line.strip_prefix("version:") {
            Some(rest) => out.extend(["version:", &rest.replacen('1', "2", 1), "\n"]),
            None => out.extend([line, "\n"]),
        }
    }
    for comment in comments {
        out.extend([comment, "\n"]);
    }
    out
}

/// What a pod's containers may use: under version 1 the sandbox's values and excludes count in every
/// container, under version 2 in none but the sandbox.
struct Values<'a> {
    references: Vec<&'a String>,
    excludes: Vec<&'a String>,
}

impl<'a> Values<'a> {
    fn of(pod: &'a Pod, old: &'a NodePolicy) -> Values<'a> {
        let sandbox = old.sandbox.as_ref();
        let both = |own: &'a [String], sandbox: &'a [String]| -> Vec<&'a String> {
            let others = sandbox.iter().filter(|item| !own.contains(item));
            own.iter().chain(others).collect()
        };
        Values {
            references: both(
                &pod.references,
                sandbox.map_or(&[][..], |sandbox| &sandbox.references),
            ),
            excludes: both(
                pod.excludes.items(),
                sandbox.map_or(&[][..], |sandbox| sandbox.excludes.items()),
            ),
        }
    }
}

/// An entry for each pod, by its UID.
fn workload_part(old: &NodePolicy) -> String {
    let pods = &old.pods;
    let mut out = String::from("version: 2\n");
    if pods.is_empty() {
        out.push_str("workloads: []\n");
        return out;
    }
    if old.sandbox.is_some() {
        out.push_str(
            "# The sandbox's values and excludes stand in each container, since version 1 accepts them \
             there. What\n# no container uses of them can be taken away.\n",
        );
    }
    out.push_str(
        "# Pods by UID, as they were. What outlives a roll-out is a namespace and labels:\n\
         # match: {namespace: shop, labels: {app: web}}\nworkloads:\n",
    );
    let mut names = BTreeSet::new();
    for pod in pods {
        let mut name = pod.name.clone();
        if !names.insert(name.clone()) {
            // Two pods may have one name, two workloads may not.
            name = pod.shown_uid();
            names.insert(name.clone());
        }
        let values = Values::of(pod, old);
        let list = |items: &[&String]| {
            let items: Vec<String> = items.iter().map(|item| yaml::text(item)).collect();
            items.join(", ")
        };
        let _ = writeln!(out, "  - name: {}", yaml::text(&name));
        let _ = writeln!(out, "    match: {{uid: \"{}\"}}", pod.shown_uid());
        let _ = writeln!(out, "    containers:\n      \"{ANY_CONTAINER}\":");
        let _ = writeln!(out, "        references: [{}]", list(&values.references));
        if !values.excludes.is_empty() {
            let _ = writeln!(out, "        excludes: [{}]", list(&values.excludes));
        }
        if pod.opaque == Opaque::Trust {
            out.push_str("        opaque: trust\n");
        }
        if pod.shared_memory_code == SharedMemoryCode::Trust {
            out.push_str("        shared-memory-code: trust\n");
        }
    }
    out
}
