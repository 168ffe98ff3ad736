//! `cgpath policy lint`: what weakens a policy, and how much of what was measured its excludes hide.

use super::check::{WITHOUT_BOOT, is_without_boot};
use super::diff::containers;
use crate::input;
use crate::output::{Colour, Failure, Output, Status, count, escape};
use cgpath_evidence::Bank;
use cgpath_policy::{
    Allowed, BootPolicy, Excludes, Hidden, Name, Overlap, Policy, Workload, WorkloadPolicy, Workloads,
};
use cgpath_service::pinned;
use cgpath_service::policy_files::load;
use cgpath_service::reappraisal::KeptRounds;
use cgpath_service::store::Store;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Paths that no sensible exclude hides: one that does hides whatever an intruder brings.
const TELLTALES: [&str; 3] = ["/usr/bin/intruder", "/tmp/intruder", "intruder"];

#[derive(Args)]
pub struct Lint {
    /// The policy
    policy: PathBuf,
    /// A store: says how many measured entries of the node's last evidence the excludes hide
    #[arg(long, value_name = "STORE")]
    against: Option<PathBuf>,
}

/// One thing to look at.
#[derive(Serialize)]
struct Warning {
    /// The part of the policy.
    part: String,
    text: String,
}

impl Lint {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let policy = load(&self.policy)?;
        let mut warnings = Vec::new();
        let warn = |warnings: &mut Vec<Warning>, part: &str, text: String| {
            warnings.push(Warning {
                part: part.to_owned(),
                text,
            });
        };
        for key in policy.dangerous_keys() {
            warn(&mut warnings, key, "a rule is switched off".into());
        }
        for value in policy
            .relaxations()
            .into_iter()
            .filter(|r| !r.contains(".excludes: "))
        {
            warn(&mut warnings, &value, "laxer than the default".into());
        }
        for (part, allowed) in parts(&policy) {
            for text in of_values(allowed).into_iter().chain(of_excludes(allowed)) {
                warn(&mut warnings, &part, text);
            }
        }
        if is_without_boot(&policy) {
            warn(&mut warnings, "boot", WITHOUT_BOOT.into());
        }
        for (part, text) in policy.workloads.iter().flat_map(of_workloads) {
            warn(&mut warnings, &part, text);
        }
        for (part, text) in policy.all_workloads().flat_map(of_only) {
            warn(&mut warnings, &part, text);
        }
        for text in policy.file.boot.iter().flat_map(of_boot) {
            warn(&mut warnings, "boot", text);
        }
        let tdx = policy.file.tdx.iter().filter_map(|tdx| tdx.boot.as_ref());
        for text in tdx.flat_map(of_boot) {
            warn(&mut warnings, "tdx.boot", text);
        }
        if let Some(dir) = &self.against {
            for (part, text) in of_evidence(&policy, &Store::open(dir)?)? {
                warn(&mut warnings, &part, text);
            }
        }
        let is_clean = warnings.is_empty();
        if out.json() {
            #[derive(Serialize)]
            struct Linted<'a> {
                node: &'a str,
                warnings: &'a [Warning],
            }
            out.object(&Linted {
                node: &policy.file.node,
                warnings: &warnings,
            })?;
        } else if is_clean {
            out.line("nothing to warn of")?;
        } else {
            for warning in &warnings {
                let part = out.paint(Colour::Yellow, &escape(warning.part.as_bytes()));
                out.line(format_args!("{part}: {}", warning.text))?;
            }
        }
        Ok(Status::clean_if(is_clean))
    }
}

fn parts(policy: &Policy) -> Vec<(String, &Allowed)> {
    let mut parts = vec![
        ("host".to_owned(), &policy.host),
        ("sandbox".to_owned(), &policy.sandbox),
    ];
    parts.extend(
        policy
            .pods
            .values()
            .map(|p| (format!("pod {} {}", p.pod.shown_uid(), p.pod.name), &p.allowed)),
    );
    parts.extend(containers(policy));
    parts
}

/// Entries of which it is easily overlooked that an earlier one decides, or that they take pods of everybody.
fn of_workloads(part: &Workloads) -> Vec<(String, String)> {
    let overlaps = part.file.overlaps();
    let say = |overlap: &Overlap<'_>| {
        let first = escape(overlap.first.as_bytes());
        let text = match overlap.is_whole {
            true => format!("it can never match: {first}, which comes before it, takes all that it means"),
            false => format!("{first}, which comes before it, may take some of its pods"),
        };
        (format!("workload {}", overlap.second), text)
    };
    let by_labels = part.file.workloads.iter().filter(|workload| {
        let selector = &workload.selector;
        selector.namespace.is_none() && selector.uid().is_none()
    });
    let say_labels = |workload: &Workload| {
        let text = "it has labels alone: who may make a pod in any namespace can have these labels for it";
        (format!("workload {}", workload.name), text.to_owned())
    };
    let overlaps = overlaps.iter().map(say);
    overlaps.chain(by_labels.map(say_labels)).collect()
}

/// Patterns of `only` under which nothing of the container's values can run, and those that leave nothing
/// out.
fn of_only(workload: &WorkloadPolicy) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, of) in workload.containers() {
        let container = &of.container;
        let paths: BTreeSet<&[u8]> = of
            .all_allowed()
            .flat_map(|(_, allowed)| allowed.references())
            .flat_map(|reference| reference.names().map(|path| path.bytes()))
            .collect();
        let mut warn = |text: String| {
            let part = format!("workload {}, container {name}", workload.workload.name);
            found.push((part, text));
        };
        for pattern in &container.only {
            if !paths.iter().any(|path| pattern.matches(path)) {
                let shown = escape(pattern.text().as_bytes());
                warn(format!(
                    "only {shown}: no path with a reference value is one of these"
                ));
            }
        }
        if !container.only.is_empty() && paths.iter().all(|path| container.may_run(path, true)) {
            warn("only leaves out nothing: all paths with a reference value are among its patterns".into());
        }
    }
    found
}

/// Registers that nothing judges: whatever was measured into one of them passes.
fn of_boot(boot: &BootPolicy) -> Vec<String> {
    let mut checked: BTreeSet<u8> = boot.registers.keys().copied().collect();
    checked.extend(boot.events.iter().map(|event| event.pcr));
    if !boot.command_lines.is_empty() {
        checked.extend(boot.set.command_lines());
    }
    let unchecked: Vec<String> = (0..boot.set.count() as u8)
        .filter(|pcr| !checked.contains(pcr))
        .map(|pcr| pcr.to_string())
        .collect();
    let mut found = Vec::new();
    if boot.registers.is_empty() {
        found.push(
            "no registers: firmware that measures honestly and is another one passes (`cgpath policy \
             from-boot` learns its registers)"
                .to_owned(),
        );
    }
    if !unchecked.is_empty() {
        found.push(format!(
            "nothing judges what was measured into {} {}",
            boot.set,
            unchecked.join(", ")
        ));
    }
    found
}

fn of_values(allowed: &Allowed) -> Vec<String> {
    let mut found = Vec::new();
    for reference in allowed.references() {
        let name = escape(reference.source.name.as_bytes());
        if reference.learned {
            found.push(format!("{name}: learned, nobody has looked at its values"));
        }
        let weak = reference
            .files
            .values()
            .filter(|digests| digests.iter().all(|d| d.bank() == Bank::Sha1))
            .count();
        if weak > 0 {
            let have = if weak == 1 { "has" } else { "have" };
            found.push(format!(
                "{name}: {} {have} SHA-1 digests only, of which two files can share one",
                count(weak, "path")
            ));
        }
        let several = reference
            .files
            .values()
            .filter(|digests| {
                Bank::ALL
                    .iter()
                    .any(|bank| digests.iter().filter(|d| d.bank() == *bank).count() > 1)
            })
            .count();
        if several > 0 {
            let accept = if several == 1 { "accepts" } else { "accept" };
            found.push(format!(
                "{name}: {} {accept} more than one content: old versions stay accepted",
                count(several, "path")
            ));
        }
    }
    found
}

/// Each exclude for itself: what it hides of the values, and whether it hides what it was not meant for.
fn of_excludes(allowed: &Allowed) -> Vec<String> {
    let mut found = Vec::new();
    let paths = || allowed.references().flat_map(|reference| reference.names());
    let total = paths().count();
    for item in allowed.excludes().flat_map(Excludes::items) {
        let shown = escape(item.as_bytes());
        // A list may be joined from parts that are no patterns by themselves: `["(a", "b)"]`.
        let Ok(alone) = Excludes::new(vec![item.clone()]) else {
            found.push(format!(
                "exclude {shown} is no pattern by itself, only joined with its neighbours"
            ));
            continue;
        };
        let hidden = paths().filter(|path| alone.hides(*path) == Hidden::Yes).count();
        found.push(format!(
            "exclude {shown} hides {hidden} of {} with a reference value",
            count(total, "path")
        ));
        let caught: Vec<&str> = TELLTALES
            .into_iter()
            .filter(|path| alone.hides(Name::True(path.as_bytes())) == Hidden::Yes)
            .collect();
        if !caught.is_empty() {
            found.push(format!(
                "exclude {shown} hides new files, for example {}",
                caught.join(", ")
            ));
        }
        if !item.ends_with('$') && !item.ends_with(".*") && !item.ends_with(r"\Z") {
            found.push(format!(
                "exclude {shown} matches every path that only begins so: end it with $ if that is not meant"
            ));
        }
    }
    found
}

/// What the excludes hide of the node's last evidence.
fn of_evidence(policy: &Policy, store: &Store) -> Result<Vec<(String, String)>, Failure> {
    let node = store.node(&policy.file.node)?;
    let past = store.past(&node.name)?.pop().filter(|past| past.evidence_kept);
    let past =
        past.ok_or_else(|| Failure::new("no-evidence", format!("no evidence of {} is kept", node.name)))?;
    let bytes = store.evidence(&past.evidence)?;
    let (collateral, _) = pinned::collateral(store.dir());
    let mut kept = KeptRounds::new(&node, policy, &collateral, &[], input::now()?);
    let verdict = kept.appraise(&past, &bytes)?;
    let mut found = Vec::new();
    if verdict.node.excluded > 0 {
        let text = format!(
            "excludes hide {} of {} measured entries",
            verdict.node.excluded, verdict.node.entries
        );
        found.push(("host".to_owned(), text));
    }
    for pod in verdict.pods.iter().filter(|pod| pod.excluded > 0) {
        let uses = pod.entries + pod.executions;
        let text = format!(
            "excludes hide {} of {uses} measured entries and executions",
            pod.excluded
        );
        found.push((
            format!(
                "pod {} {}",
                pod.shown_uid(),
                pod.name.as_deref().unwrap_or_default()
            ),
            text,
        ));
    }
    Ok(found)
}
