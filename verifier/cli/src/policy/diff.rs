//! `cgpath policy diff`: what one policy, or one file of reference values, accepts and the other does not.

use super::reference;
use crate::output::{Colour, Failure, Output, Status, escape};
use cgpath_evidence::{Digest, record::lossy_path};
use cgpath_policy::{Allowed, BootPolicy, NodePolicy, Policy, Reference, TdxPolicy};
use cgpath_service::files::read_bounded;
use cgpath_service::policy_files::load;
use clap::Args;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Diff {
    /// A policy (YAML) or a file of reference values (JSON)
    old: PathBuf,
    /// The other one, of the same kind
    new: PathBuf,
}

/// One path that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    #[serde(with = "lossy_path")]
    path: Vec<u8>,
    /// Contents that only the old one accepts.
    removed: Vec<Digest>,
    /// Contents that only the new one accepts.
    added: Vec<Digest>,
}

/// One partition, or the whole of a reference file.
#[derive(Serialize)]
struct Part {
    part: String,
    changes: Vec<Change>,
    excludes_removed: Vec<String>,
    excludes_added: Vec<String>,
}

#[derive(Serialize)]
struct Differences {
    same: bool,
    /// Keys of the policy's file other than reference values, as `- key: value` and `+ key: value`.
    keys: Vec<String>,
    parts: Vec<Part>,
}

/// What one partition accepts.
#[derive(Default)]
struct Side<'a> {
    files: BTreeMap<&'a [u8], BTreeSet<&'a Digest>>,
    excludes: BTreeSet<&'a str>,
}

impl<'a> Side<'a> {
    fn of(references: impl Iterator<Item = &'a Reference>) -> Side<'a> {
        let mut side = Side::default();
        for reference in references {
            for (path, digests) in &reference.files {
                side.files.entry(path).or_default().extend(digests);
            }
            side.excludes
                .extend(reference.excludes.items().iter().map(String::as_str));
        }
        side
    }

    fn allowed(allowed: &'a Allowed) -> Side<'a> {
        let mut side = Side::of(allowed.references());
        side.excludes
            .extend(allowed.excludes().flat_map(|e| e.items()).map(String::as_str));
        side
    }
}

fn part(name: String, old: &Side<'_>, new: &Side<'_>) -> Option<Part> {
    let none = BTreeSet::new();
    let paths: BTreeSet<&[u8]> = old.files.keys().chain(new.files.keys()).copied().collect();
    let changes: Vec<Change> = paths
        .into_iter()
        .filter_map(|path| {
            let (old, new) = (
                old.files.get(path).unwrap_or(&none),
                new.files.get(path).unwrap_or(&none),
            );
            (old != new).then(|| Change {
                path: path.to_vec(),
                removed: old.difference(new).map(|d| (*d).clone()).collect(),
                added: new.difference(old).map(|d| (*d).clone()).collect(),
            })
        })
        .collect();
    let only = |a: &Side<'_>, b: &Side<'_>| -> Vec<String> {
        a.excludes
            .difference(&b.excludes)
            .map(|e| (*e).to_owned())
            .collect()
    };
    let found = Part {
        part: name,
        excludes_removed: only(old, new),
        excludes_added: only(new, old),
        changes,
    };
    let is_same =
        found.changes.is_empty() && found.excludes_removed.is_empty() && found.excludes_added.is_empty();
    (!is_same).then_some(found)
}

/// Lines of the policy's file that are not about single pods and references, to compare them as text.
fn keys(policy: &Policy) -> BTreeSet<String> {
    // Every key of the file, so that a new one cannot be forgotten.
    let NodePolicy {
        version: _,
        node,
        accept,
        // Said by the relaxations.
        tolerance: _,
        padded_banks: _,
        kexec: _,
        violations: _,
        file_systems: _,
        // Said by the switches.
        dangerous_boot_not_judged: _,
        predating_pods,
        min_reboot,
        runtimes,
        runtime_files,
        // Compared as parts.
        host: _,
        sandbox: _,
        guard,
        pods,
        // Compared as parts, with the selectors of workloads as keys.
        workloads: _,
        boot: of_boot,
        tdx: of_tdx,
    } = &policy.file;
    let mut keys: BTreeSet<String> = policy
        .relaxations()
        .into_iter()
        .filter(|r| !r.contains(".excludes: "))
        .collect();
    keys.extend(
        policy
            .dangerous_keys()
            .into_iter()
            .map(|key| format!("{key}: true")),
    );
    keys.insert(format!("node: {node}"));
    keys.insert(format!("accept.collector: {}", accept.collector));
    keys.insert(format!("guard.at-least: {}", guard.at_least));
    keys.insert(format!("guard.tpm-opened: {:?}", guard.tpm_opened).to_lowercase());
    keys.insert(format!("min-reboot: {min_reboot}"));
    keys.insert(format!("predating-pods: {predating_pods:?}").to_lowercase());
    keys.extend(accept.tiers.iter().map(|v| format!("accept.tiers: {v}")));
    keys.extend(accept.templates.iter().map(|v| format!("accept.templates: {v}")));
    keys.extend(accept.anchors.iter().map(|v| format!("accept.anchors: {v}")));
    keys.extend(accept.banks.iter().map(|v| format!("accept.banks: {v}")));
    keys.extend(
        accept
            .ima_policies
            .iter()
            .map(|v| format!("accept.ima-policies: {v}")),
    );
    let objects = accept.bpf_objects.iter().flatten();
    keys.extend(objects.map(|v| format!("accept.bpf-objects: {v}")));
    keys.extend(runtimes.iter().map(|v| format!("runtimes: {v}")));
    keys.extend(runtime_files.iter().map(|v| format!("runtime-files: {v}")));
    keys.extend(
        pods.iter()
            .map(|pod| format!("pods: {} {}", pod.shown_uid(), pod.name)),
    );
    // A longer one is among the relaxations, in the same words.
    let settle = policy.workloads.iter().map(|part| part.file.settle);
    keys.extend(settle.map(|settle| format!("settle: {settle}s")));
    let refs = policy.workloads.iter().map(|part| &part.file.refs);
    keys.extend(refs.map(|refs| format!("refs: {refs}")));
    for workload in policy.all_workloads() {
        let workload = &workload.workload;
        // Without its place, so that another one before it changes nothing: see `order`.
        keys.insert(format!("workloads: {} {}", workload.name, workload.selector));
        keys.extend(
            workload
                .containers
                .keys()
                .map(|name| format!("workloads: {}: {name}", workload.name)),
        );
        let images = workload.containers.iter().flat_map(|(name, container)| {
            let images = container.images.iter();
            images.map(move |image| format!("workloads: {}: {name}: image {image}", workload.name))
        });
        keys.extend(images);
        let only = workload.containers.iter().flat_map(|(name, container)| {
            let only = container.only.iter();
            only.map(move |pattern| format!("workloads: {}: {name}: only {pattern}", workload.name))
        });
        keys.extend(only);
    }
    keys.extend(of_boot.iter().flat_map(|policy| boot("boot", policy)));
    keys.extend(of_tdx.iter().flat_map(tdx));
    keys
}

/// The names of workloads that both have and that stand in another order: the first that matches decides.
/// What is before the first and behind the last of them is left out.
fn order(old: &Policy, new: &Policy) -> Option<[String; 2]> {
    fn names(policy: &Policy) -> Vec<&str> {
        let workloads = policy.all_workloads();
        workloads
            .map(|workload| workload.workload.name.as_str())
            .collect()
    }
    fn common<'a>(own: &[&'a str], other: &[&str]) -> Vec<&'a str> {
        let other: BTreeSet<&str> = other.iter().copied().collect();
        let own = own.iter().copied();
        own.filter(|name| other.contains(name)).collect()
    }
    let (old, new) = (names(old), names(new));
    // Names stand once on each side: both have as many.
    let (before, after) = (common(&old, &new), common(&new, &old));
    let differ: Vec<usize> = (0..before.len())
        .filter(|at| before.get(*at) != after.get(*at))
        .collect();
    let (first, last) = (*differ.first()?, *differ.last()?);
    let shown = |names: &[&str]| {
        let names = names.get(first..=last).unwrap_or_default();
        format!("workloads, in this order: {}", names.join(", "))
    };
    Some([shown(&before), shown(&after)])
}

/// What is accepted of a trust domain, a line each.
fn tdx(policy: &TdxPolicy) -> Vec<String> {
    let TdxPolicy {
        mrtd,
        mrseam,
        attributes,
        xfam,
        max_collateral_age,
        platforms,
        boot: of_boot,
        dangerous_root,
        // Said by the relaxations.
        tcb_status: _,
        advisories: _,
        rtmr_origin: _,
        rtmr_writers: _,
        rtmr_extensions: _,
        key: _,
        // Said by the switches.
        dangerous_boot_not_judged: _,
        dangerous_any_platform: _,
    } = policy;
    let mut lines = Vec::new();
    lines.extend(mrtd.iter().map(|v| format!("tdx.mrtd: {v}")));
    lines.extend(mrseam.iter().flatten().map(|v| format!("tdx.mrseam: {v}")));
    lines.extend(
        attributes
            .iter()
            .map(|v| format!("tdx.attributes: {}", hex::encode(v))),
    );
    lines.extend(xfam.iter().map(|v| format!("tdx.xfam: {}", hex::encode(v))));
    lines.push(format!("tdx.max-collateral-age: {max_collateral_age}"));
    let platforms = platforms.iter().flatten();
    lines.extend(platforms.map(|v| format!("tdx.platforms: {}", hex::encode(v))));
    let root = dangerous_root.iter();
    lines.extend(root.map(|v| format!("tdx.dangerous-root: {}", hex::encode(v))));
    lines.extend(of_boot.iter().flat_map(|policy| boot("tdx.boot", policy)));
    lines
}

/// What is accepted of firmware, boot loader and kernel, a line each.
fn boot(key: &str, policy: &BootPolicy) -> Vec<String> {
    let BootPolicy {
        set,
        registers,
        command_lines,
        events,
        // Said by the relaxations.
        firmware_deviations: _,
    } = policy;
    let mut lines = Vec::new();
    for (register, digests) in registers {
        lines.extend(
            digests
                .iter()
                .map(|d| format!("{key}.registers: {register}: {d}")),
        );
    }
    lines.extend(
        command_lines
            .iter()
            .map(|line| format!("{key}.command-lines: {line}")),
    );
    for event in events {
        let optional = if event.optional { ", optional" } else { "" };
        let (pcr, kind, name) = (event.pcr, &event.kind, &event.name);
        let digests = event.digests.iter();
        lines.extend(digests.map(|d| format!("{key}.events: {set} {pcr} {kind} ({name}{optional}): {d}")));
    }
    lines
}

/// The containers of all workloads, by what a part is called; one with images is a part for each of them.
pub(super) fn containers(policy: &Policy) -> impl Iterator<Item = (String, &Allowed)> {
    policy.all_workloads().flat_map(|workload| {
        let name = &workload.workload.name;
        let containers = workload.containers().flat_map(|(container, of)| {
            let all = of.all_allowed();
            all.map(move |(image, allowed)| (container, image, allowed))
        });
        containers.map(move |(container, image, allowed)| {
            let image = image.map(|image| format!(" image {image}")).unwrap_or_default();
            (format!("workload {name} container {container}{image}"), allowed)
        })
    })
}

fn policies(old: &Policy, new: &Policy) -> Differences {
    let mut parts = Vec::new();
    parts.extend(part(
        "host".into(),
        &Side::allowed(&old.host),
        &Side::allowed(&new.host),
    ));
    parts.extend(part(
        "sandbox".into(),
        &Side::allowed(&old.sandbox),
        &Side::allowed(&new.sandbox),
    ));
    let none = Allowed::default();
    let uids: BTreeSet<_> = old.pods.keys().chain(new.pods.keys()).collect();
    for uid in uids {
        let of = |policy: &Policy| policy.pods.get(uid).map(|p| p.pod.name.clone());
        let name = of(new).or_else(|| of(old)).unwrap_or_default();
        let before = old.pods.get(uid).map_or(&none, |pod| &pod.allowed);
        let after = new.pods.get(uid).map_or(&none, |pod| &pod.allowed);
        let name = format!("pod {uid} {name}");
        parts.extend(part(name, &Side::allowed(before), &Side::allowed(after)));
    }
    let old_containers: BTreeMap<String, &Allowed> = containers(old).collect();
    let new_containers: BTreeMap<String, &Allowed> = containers(new).collect();
    let names: BTreeSet<&String> = old_containers.keys().chain(new_containers.keys()).collect();
    for name in names {
        let before = old_containers.get(name).copied().unwrap_or(&none);
        let after = new_containers.get(name).copied().unwrap_or(&none);
        parts.extend(part(name.clone(), &Side::allowed(before), &Side::allowed(after)));
    }
    let order = order(old, new);
    let (before, after) = (keys(old), keys(new));
    let mut keys: Vec<String> = before.difference(&after).map(|k| format!("- {k}")).collect();
    keys.extend(after.difference(&before).map(|k| format!("+ {k}")));
    keys.extend(
        order
            .into_iter()
            .flat_map(|[old, new]| [format!("- {old}"), format!("+ {new}")]),
    );
    Differences {
        same: keys.is_empty() && parts.is_empty(),
        keys,
        parts,
    }
}

/// A reference file begins with a brace, a policy does not.
fn is_reference(path: &Path) -> Result<bool, Failure> {
    let begin = read_bounded(path, 63).map_err(|e| Failure::file(path, &e))?;
    Ok(begin.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{'))
}

impl Diff {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let found = match (is_reference(&self.old)?, is_reference(&self.new)?) {
            (true, true) => {
                let (old, new) = (reference(&self.old)?, reference(&self.new)?);
                let sides = (Side::of([&old].into_iter()), Side::of([&new].into_iter()));
                let parts: Vec<Part> = part("files".into(), &sides.0, &sides.1).into_iter().collect();
                Differences {
                    same: parts.is_empty(),
                    keys: Vec::new(),
                    parts,
                }
            }
            (false, false) => policies(&load(&self.old)?, &load(&self.new)?),
            _ => {
                return Err(Failure::new(
                    "usage",
                    "one is a policy and the other a file of reference values",
                )
                .hint("give two of one kind"));
            }
        };
        if out.json() {
            out.object(&found)?;
        } else {
            found.print(out)?;
        }
        Ok(Status::clean_if(found.same))
    }
}

impl Differences {
    fn print(&self, out: &mut Output) -> Result<(), Failure> {
        if self.same {
            return out.line("no difference");
        }
        for key in &self.keys {
            out.line(escape(key.as_bytes()))?;
        }
        for part in &self.parts {
            out.line(format_args!("{}:", escape(part.part.as_bytes())))?;
            for change in &part.changes {
                let path = escape(&change.path);
                for digest in &change.removed {
                    let line = out.paint(Colour::Red, &format!("  - {path} {digest}"));
                    out.line(line)?;
                }
                for digest in &change.added {
                    let line = out.paint(Colour::Green, &format!("  + {path} {digest}"));
                    out.line(line)?;
                }
            }
            for exclude in &part.excludes_removed {
                out.line(format_args!("  - exclude {}", escape(exclude.as_bytes())))?;
            }
            for exclude in &part.excludes_added {
                let line = format!("  + exclude {}", escape(exclude.as_bytes()));
                let line = out.paint(Colour::Yellow, &line);
                out.line(line)?;
            }
        }
        Ok(())
    }
}
