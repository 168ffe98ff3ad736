//! `cgpath policy check`: what stands in a policy, a node's or a tenant's.

use crate::output::{Colour, Failure, Output, Status, count, escape};
use crate::tenant;
use cgpath_evidence::{Digest, PodUid};
use cgpath_policy::{Allowed, Policy};
use cgpath_service::policy_files::load;
use serde::Serialize;
use std::path::Path;

/// What is wrong with a policy that says nothing of the boot.
pub(super) const WITHOUT_BOOT: &str = "neither boot nor dangerous-boot-not-judged stands here, so that every \
    verdict fails V10: `cgpath policy from-boot` makes one";

/// Whether a policy says nothing of the boot. It can be used, and trusts no node.
pub(super) fn is_without_boot(policy: &Policy) -> bool {
    policy.file.boot.is_none() && !policy.file.dangerous_boot_not_judged
}

fn paths(allowed: &Allowed) -> usize {
    allowed.references().map(|reference| reference.files.len()).sum()
}

/// The sources that are learned, as a line ends with them.
fn learned(sources: &[&str]) -> String {
    match sources {
        [] => String::new(),
        sources => format!(", learned: {}", escape(sources.join(", ").as_bytes())),
    }
}

fn relaxed(values: &[String], out: &mut Output) -> Result<(), Failure> {
    for value in values {
        let text = format!("laxer than the default: {}", escape(value.as_bytes()));
        out.line(out.paint(Colour::Yellow, &text))?;
    }
    Ok(())
}

/// A tenant's policy, with its reference files.
pub(super) fn check_tenant(path: &Path, out: &mut Output) -> Result<Status, Failure> {
    #[derive(Serialize)]
    struct Checked<'a> {
        pod: PodUid,
        name: &'a str,
        digest: &'a Digest,
        paths: usize,
        learned: Vec<&'a str>,
        relaxed: Vec<String>,
    }
    let (uid, policy) = tenant::load(path)?;
    let pod = policy.pods.get(&uid);
    let pod = pod.ok_or_else(|| Failure::new("internal", "the policy lacks its own pod"))?;
    let checked = Checked {
        pod: uid,
        name: &pod.pod.name,
        digest: policy.digest(),
        paths: paths(&pod.allowed),
        learned: pod.allowed.learned_sources(),
        relaxed: policy.relaxations(),
    };
    if out.json() {
        out.object(&checked)?;
        return Ok(Status::Clean);
    }
    out.line(format_args!(
        "tenant's policy of pod {} {} ({})",
        pod.pod.shown_uid(),
        escape(checked.name.as_bytes()),
        checked.digest
    ))?;
    out.line(format_args!(
        "pod: {}{}",
        count(checked.paths, "path"),
        learned(&checked.learned)
    ))?;
    relaxed(&checked.relaxed, out)?;
    Ok(Status::Clean)
}

pub(super) fn check(path: &Path, out: &mut Output) -> Result<Status, Failure> {
    #[derive(Serialize)]
    struct Pod<'a> {
        uid: PodUid,
        #[serde(skip)]
        shown: String,
        name: &'a str,
        paths: usize,
        learned: Vec<&'a str>,
    }
    #[derive(Serialize)]
    struct Container<'a> {
        name: &'a str,
        paths: usize,
        learned: Vec<&'a str>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        images: Vec<Image<'a>>,
    }
    #[derive(Serialize)]
    struct Image<'a> {
        listed: String,
        configuration: &'a Digest,
        #[serde(skip_serializing_if = "Option::is_none")]
        platform: Option<&'a str>,
        /// Of the image and of the container's own reference files.
        paths: usize,
    }
    #[derive(Serialize)]
    struct Workload<'a> {
        name: &'a str,
        #[serde(rename = "match")]
        selector: String,
        containers: Vec<Container<'a>>,
    }
    #[derive(Serialize)]
    struct Checked<'a> {
        node: &'a str,
        digest: &'a Digest,
        #[serde(skip_serializing_if = "Option::is_none")]
        workloads_digest: Option<&'a Digest>,
        host_paths: usize,
        host_learned: Vec<&'a str>,
        sandbox_paths: usize,
        pods: Vec<Pod<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        workloads: Vec<Workload<'a>>,
        dangerous: Vec<&'static str>,
        relaxed: Vec<String>,
        #[serde(skip_serializing_if = "core::ops::Not::not")]
        without_boot: bool,
    }
    let policy = load(path)?;
    let checked = Checked {
        node: &policy.file.node,
        digest: policy.digest(),
        workloads_digest: policy.workloads.as_ref().map(|part| part.digest()),
        host_paths: paths(&policy.host),
        host_learned: policy.host.learned_sources(),
        sandbox_paths: paths(&policy.sandbox),
        pods: policy
            .pods
            .values()
            .map(|p| Pod {
                uid: p.pod.uid,
                shown: p.pod.shown_uid(),
                name: &p.pod.name,
                paths: paths(&p.allowed),
                learned: p.allowed.learned_sources(),
            })
            .collect(),
        workloads: policy
            .workloads
            .iter()
            .flat_map(|part| &part.list)
            .map(|workload| Workload {
                name: &workload.workload.name,
                selector: workload.workload.selector.to_string(),
                containers: workload
                    .containers()
                    .map(|(name, of)| Container {
                        name,
                        paths: paths(&of.allowed),
                        learned: of.allowed.learned_sources(),
                        images: of
                            .images
                            .iter()
                            .map(|of| Image {
                                listed: of.listed.to_string(),
                                configuration: &of.image.configuration,
                                platform: of.image.platform.as_deref(),
                                paths: paths(&of.allowed),
                            })
                            .collect(),
                    })
                    .collect(),
            })
            .collect(),
        dangerous: policy.dangerous_keys(),
        relaxed: policy.relaxations(),
        without_boot: is_without_boot(&policy),
    };
    if out.json() {
        out.object(&checked)?;
        return Ok(Status::Clean);
    }
    out.line(format_args!(
        "policy of node {} ({})",
        escape(checked.node.as_bytes()),
        checked.digest
    ))?;
    out.line(format_args!(
        "host: {}{}",
        count(checked.host_paths, "path"),
        learned(&checked.host_learned)
    ))?;
    out.line(format_args!("sandbox: {}", count(checked.sandbox_paths, "path")))?;
    for pod in &checked.pods {
        let name = escape(pod.name.as_bytes());
        out.line(format_args!(
            "pod {} {name}: {}{}",
            pod.shown,
            count(pod.paths, "path"),
            learned(&pod.learned)
        ))?;
    }
    if let Some(digest) = checked.workloads_digest {
        out.line(format_args!("workloads ({digest})"))?;
    }
    for workload in &checked.workloads {
        let (name, selector) = (
            escape(workload.name.as_bytes()),
            escape(workload.selector.as_bytes()),
        );
        out.line(format_args!("workload {name} {selector}"))?;
        for container in &workload.containers {
            out.line(format_args!(
                "  container {}: {}{}",
                container.name,
                count(container.paths, "path"),
                learned(&container.learned)
            ))?;
            for image in &container.images {
                let platform = image.platform.map(|platform| format!(" ({platform})"));
                let shown = image.listed.clone() + &platform.unwrap_or_default();
                out.line(format_args!(
                    "    image {}: {}",
                    escape(shown.as_bytes()),
                    count(image.paths, "path")
                ))?;
            }
        }
    }
    if checked.without_boot {
        let text = out.paint(Colour::Yellow, &format!("boot: {WITHOUT_BOOT}"));
        out.line(text)?;
    }
    for key in &checked.dangerous {
        let text = out.paint(Colour::Red, &format!("{key}: a rule is switched off"));
        out.line(text)?;
    }
    relaxed(&checked.relaxed, out)?;
    Ok(Status::Clean)
}
