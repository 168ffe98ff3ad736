//! `cgpath policy suggest`: what would have to be added to the reference values for a verdict to come out
//! trusted.
//!
//! A patch on standard output, for `patch -p0` after somebody looked at it. Promise: a line accepts its
//! content in the partition that used it, at that path, and nowhere else: where every reference file of that
//! partition counts elsewhere, too, the patch makes one of its own, which the policy is to name. What would
//! accept more (a runtime file's content counts in every pod) is left out and said. Whether a new content is
//! an upgrade or an attack, nothing here can tell: the command changes no file and no store.

use crate::kept;
use crate::output::{Failure, Output, Status, count, escape};
use cgpath_appraisal::{Deviation, Finding, PodPart, PodVerdict, Severity, Subject, Verdict};
use cgpath_evidence::{PartitionKey, PodUid, list::as_listed};
use cgpath_policy::{
    Allowed, Policy, Reference, Source, SourceKind, WorkloadPolicy, reference::MAX_REFERENCE_LEN,
};
use cgpath_service::files::read_bounded;
use cgpath_service::policy_files::load;
use cgpath_service::store::Store;
use clap::Args;
use serde::Serialize;
use similar::TextDiff;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A verdict in JSON is never longer than this many bytes.
const MAX_VERDICT: u64 = 256 * 1024 * 1024;

#[derive(Args)]
pub struct Suggest {
    /// The policy whose reference files are to be patched
    policy: PathBuf,
    /// A verdict (`cgpath verify --json`), or the verifier's directory for the node's last one
    #[arg(long, value_name = "VERDICT|STORE")]
    from: PathBuf,
}

/// Why a changed runtime file is left out.
const RUNTIME_FILE: &str = "the policy's runtime-files has this path, so that a value for it would be \
    accepted in every pod at any path; if it is the runtime's upgrade, add it by hand";
/// What a pod of a workload runs has its values in a file that many pods share.
const OF_WORKLOAD: &str = "for a policy of version 2 nothing is patched; make the image's values anew \
    (`cgpath policy from-image`) and name the file under `references` of the container, or of `sandbox` \
    where the pod's runtime ran it";

#[derive(Serialize)]
struct Suggested {
    patch: String,
    /// Contents that the patch adds.
    added: usize,
    /// Files that the patch makes, to be named in the policy by hand.
    new_files: Vec<NewFile>,
    /// Images whose values do not accept what their pods ran: an upgraded image has values of its own.
    images: BTreeSet<String>,
    /// Contents that are left out, and failures that no reference value can clear.
    not_suggested: Vec<String>,
}

/// A reference file that counts in one partition alone.
#[derive(Serialize)]
struct NewFile {
    /// Its name beside the policy.
    file: String,
    /// Whose `references` it belongs into: `host`, or the pod's name.
    references_of: String,
}

impl Suggest {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let policy = load(&self.policy)?;
        let verdict = self.verdict(&policy)?;
        if verdict.node.name != policy.file.node {
            return Err(Failure::new(
                "usage",
                format!(
                    "the verdict is about {}, the policy for {}",
                    escape(verdict.node.name.as_bytes()),
                    escape(policy.file.node.as_bytes())
                ),
            ));
        }
        let mut files: BTreeMap<String, Vec<&Deviation>> = BTreeMap::new();
        let mut new_files = BTreeMap::new();
        let mut images = BTreeSet::new();
        let mut not_suggested = Vec::new();
        let mut leave_out = |deviation: &Deviation, why: &str| {
            let said = format!("{} {}: {why}", escape(&deviation.path), deviation.digest);
            not_suggested.push(said);
        };
        let host = (
            ("host", "host".to_owned()),
            &policy.host,
            &policy.file.host.references,
            &verdict.node.fnf,
            &verdict.node.filehash_err,
        );
        let pods = verdict.pods.iter().filter_map(|pod| {
            let known = policy.pods.get(&pod.uid)?;
            let who = (known.pod.name.as_str(), pod.uid.to_string());
            let (allowed, names) = (&known.allowed, &known.pod.references);
            Some((who, allowed, names, &pod.fnf, &pod.filehash_err))
        });
        for ((who, id), allowed, names, fnf, filehash_err) in core::iter::once(host).chain(pods) {
            for deviation in deviations_of(fnf, filehash_err) {
                if deviation.path.is_empty() {
                    leave_out(
                        deviation,
                        "a content without a path has no place in reference values",
                    );
                    continue;
                }
                // Of the host: that pods have a content of their own is said by their own values.
                if core::ptr::eq(allowed, &policy.host) && policy.is_runtime_file(&deviation.path) {
                    leave_out(deviation, RUNTIME_FILE);
                    continue;
                }
                images.extend(images_of(allowed));
                let name = match place(&policy, allowed, names, &deviation.path) {
                    Some(name) => name.to_owned(),
                    None => {
                        let name = format!("{id}.suggested.json");
                        new_files.insert(name.clone(), who.to_owned());
                        name
                    }
                };
                files.entry(name).or_default().push(deviation);
            }
        }
        for pod in &verdict.pods {
            let Some(workload) = workload_of(&policy, pod) else {
                continue;
            };
            let name = escape(workload.workload.name.as_bytes());
            let place = format!("{name} ({})", pod.shown_uid());
            for deviation in deviations_of(&pod.fnf, &pod.filehash_err) {
                let containers = deviation.parts.iter().filter_map(|part| match part {
                    PodPart::Container(name) => workload.container(name),
                    _ => None,
                });
                images.extend(containers.flat_map(|own| {
                    let listed = own.images.iter().map(|image| image.listed.to_string());
                    listed.chain(images_of(&own.allowed))
                }));
                let parts = parts_of(deviation);
                leave_out(deviation, &format!("in pod {place}{parts}: {OF_WORKLOAD}"));
            }
        }
        let left_out = verdict.pods.iter().map(|pod| pod.left_out);
        let left_out: u64 = left_out
            .chain([verdict.node.left_out])
            .map(|left_out| left_out.fnf + left_out.filehash_err)
            .sum();
        if left_out > 0 {
            not_suggested.push(format!(
                "{left_out} more files, which the verdict only counts: apply the patch and suggest again"
            ));
        }
        let contents = contents_of(&verdict);
        for finding in verdict.failures() {
            if finding.severity == Severity::Fail && !is_of(finding, &contents) {
                let path = finding.path.as_deref().map(|path| format!(": {}", escape(path)));
                not_suggested.push(format!(
                    "{}: {}{}",
                    finding.rule,
                    escape(finding.text.as_bytes()),
                    path.unwrap_or_default()
                ));
            }
        }
        let folder = self.policy.parent().unwrap_or(Path::new(""));
        let mut patch = String::new();
        let mut added = 0;
        for (name, deviations) in &files {
            let path = folder.join(name);
            let old = if new_files.contains_key(name) {
                None
            } else {
                Some(read_bounded(&path, MAX_REFERENCE_LEN as u64).map_err(|e| Failure::file(&path, &e))?)
            };
            let (text, count) = patched(&path, old, deviations, &verdict.node.name)?;
            patch.push_str(&text);
            added += count;
        }
        let suggested = Suggested {
            patch,
            added,
            new_files: new_files
                .into_iter()
                .map(|(file, references_of)| NewFile { file, references_of })
                .collect(),
            images,
            not_suggested,
        };
        if out.json() {
            out.object(&suggested)?;
        } else {
            suggested.print(&self.policy, out)?;
        }
        Ok(Status::Clean)
    }

    fn verdict(&self, policy: &Policy) -> Result<Verdict, Failure> {
        let is_dir = std::fs::metadata(&self.from)
            .map_err(|e| Failure::file(&self.from, &e))?
            .is_dir();
        let json = if is_dir {
            let store = Store::open(&self.from)?;
            let node = store.node(&policy.file.node)?;
            let last = store.last_verdict(&node.name)?;
            let last = last.ok_or_else(|| kept::silent(&node.name))?;
            last.verdict.get().as_bytes().to_vec()
        } else {
            read_bounded(&self.from, MAX_VERDICT).map_err(|e| Failure::file(&self.from, &e))?
        };
        serde_json::from_slice(&json).map_err(|e| {
            Failure::new(
                "malformed",
                format!("{}: {e}", escape(self.from.as_os_str().as_encoded_bytes())),
            )
            .hint("give what `cgpath verify --json` wrote")
        })
    }
}

/// The deviations of a partition. A content whose entry has `_` for each space of the path that its record
/// has is one deviation, at the record's path: a value for the entry's name would accept a file that is not
/// there.
fn deviations_of<'a>(fnf: &'a [Deviation], filehash_err: &'a [Deviation]) -> Vec<&'a Deviation> {
    let all = || fnf.iter().chain(filehash_err);
    let spaced = all().filter(|deviation| deviation.path.contains(&b' '));
    let of_entries: BTreeSet<_> = spaced
        .map(|deviation| (as_listed(&deviation.path), deviation.digest.to_string()))
        .collect();
    let is_entry = |deviation: &Deviation| {
        of_entries.contains(&(Cow::from(&deviation.path[..]), deviation.digest.to_string()))
    };
    all().filter(|deviation| !is_entry(deviation)).collect()
}

/// Images that the values were made from.
fn images_of(allowed: &Allowed) -> impl Iterator<Item = String> {
    let of_image = allowed
        .references()
        .filter(|r| r.source.kind == SourceKind::Image);
    of_image.map(|r| r.source.name.clone())
}

/// The workload that a pod is of, under a policy of version 2.
fn workload_of<'a>(policy: &'a Policy, pod: &PodVerdict) -> Option<&'a WorkloadPolicy> {
    let name = pod.name.as_ref()?;
    let mut all = policy.all_workloads();
    all.find(|workload| workload.workload.name == *name)
}

/// The parts of the pod in which a content was found, to stand behind the pod's name; nothing where the
/// verdict does not say.
fn parts_of(deviation: &Deviation) -> String {
    let more = deviation.more_parts.then(|| "others".to_owned());
    let parts = deviation.parts.iter().map(PodPart::to_string).chain(more);
    let parts: Vec<String> = parts.collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(", {}", escape(parts.join(" and ").as_bytes())),
    }
}

/// A content that is not accepted: whose it is (`None`: the node's), where, and what it is.
type Content<'a> = (Option<PodUid>, &'a [u8], String);

/// All contents that the verdict lists as not accepted.
fn contents_of(verdict: &Verdict) -> BTreeSet<Content<'_>> {
    let node = (None, &verdict.node.fnf, &verdict.node.filehash_err);
    let pods = verdict.pods.iter();
    let pods = pods.map(|pod| (Some(pod.uid), &pod.fnf, &pod.filehash_err));
    let all = core::iter::once(node).chain(pods);
    all.flat_map(|(whose, fnf, filehash_err)| {
        let list = fnf.iter().chain(filehash_err);
        list.map(move |deviation| (whose, &deviation.path[..], deviation.digest.to_string()))
    })
    .collect()
}

/// Whether a finding says of one of these that it is not accepted: it names the partition, the path and the
/// content.
fn is_of(finding: &Finding, contents: &BTreeSet<Content<'_>>) -> bool {
    let whose = match finding.subject {
        Subject::Partition(PartitionKey::Pod(uid)) => Some(uid),
        Subject::Partition(_) => None,
        Subject::Node => return false,
    };
    let (Some(path), Some(found)) = (&finding.path, &finding.found) else {
        return false;
    };
    contents.contains(&(whose, &path[..], found.clone()))
}

/// The reference file to patch, of those that count in this partition alone: the one that has the path, else
/// the first one.
fn place<'a>(policy: &Policy, allowed: &Allowed, names: &'a [String], path: &[u8]) -> Option<&'a str> {
    let own = || {
        let named = names.iter().zip(allowed.references());
        named.filter(|(name, _)| policy.users_of(name).len() == 1)
    };
    let has = own().find(|(_, reference)| reference.files.contains_key(path));
    has.or_else(|| own().next()).map(|(name, _)| name.as_str())
}

/// The patch of one file, and how many contents it adds; `old` is what the file holds, `None` makes it.
fn patched(
    path: &Path,
    old: Option<Vec<u8>>,
    deviations: &[&Deviation],
    node: &str,
) -> Result<(String, usize), Failure> {
    let shown = escape(path.as_os_str().as_encoded_bytes());
    let mut reference = match &old {
        Some(json) => Reference::from_json(&shown, json).map_err(|e| super::refused(&e))?,
        // Copied from what a machine ran.
        None => Reference {
            learned: true,
            ..Reference::new(Source {
                kind: SourceKind::Log,
                name: format!("suggested by a verdict about {node}"),
                digest: None,
            })
        },
    };
    let text = |reference: &Reference| -> Result<String, Failure> {
        let mut bytes = Vec::new();
        reference.write_json(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let before = match &old {
        Some(_) => text(&reference)?,
        None => String::new(),
    };
    if old.as_deref().is_some_and(|json| json != before.as_bytes()) {
        return Err(Failure::new(
            "usage",
            format!("{shown}: not in the form in which cgpath writes it"),
        )
        .hint("a patch needs one path a line: make the file anew with `cgpath policy from-…`"));
    }
    let mut added = 0;
    for deviation in deviations {
        let is_new = !reference
            .files
            .get(&deviation.path)
            .is_some_and(|known| known.contains(&deviation.digest));
        added += usize::from(is_new);
        reference
            .insert(deviation.path.clone(), deviation.digest.clone())
            .map_err(|why| Failure::new("limit", format!("{shown}: {}: {why}", escape(&deviation.path))))?;
    }
    let new = text(&reference)?;
    let diff = TextDiff::from_lines(&before, &new);
    let from = if old.is_some() { &shown } else { "/dev/null" };
    Ok((
        diff.unified_diff()
            .context_radius(1)
            .header(from, &shown)
            .to_string(),
        added,
    ))
}

impl Suggested {
    fn print(&self, policy: &Path, out: &mut Output) -> Result<(), Failure> {
        let shown = escape(policy.as_os_str().as_encoded_bytes());
        let were = if self.added == 1 { "was" } else { "were" };
        out.line(format_args!(
            "# {} that {were} found and not accepted, for {shown}.",
            count(self.added, "content")
        ))?;
        out.line(
            "# Look at each one: whether it is an upgrade or an attack, this tool cannot know. What was \
            accepted stays accepted.",
        )?;
        for NewFile { file, references_of } in &self.new_files {
            out.line(format_args!(
                "# by hand: add {} to `references` of {} in the policy (its other files count elsewhere, \
                 too)",
                escape(file.as_bytes()),
                escape(references_of.as_bytes())
            ))?;
        }
        for image in &self.images {
            out.line(format_args!(
                "# if {} was upgraded, its new values are the better way: cgpath policy from-image NEW -o \
                 NEW.json, and NEW.json in `references` of its pods or containers",
                escape(image.as_bytes())
            ))?;
        }
        for finding in &self.not_suggested {
            out.line(format_args!("# not suggested: {finding}"))?;
        }
        out.raw(self.patch.as_bytes())
    }
}
