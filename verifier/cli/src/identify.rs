//! `cgpath identify`: which images of the index have what the containers of a pod used.
//!
//! Promise: the container runtime's word is shown beside the answer, and which images it names does not rest
//! on it. Not here: what a pod used (see `cgpath_appraisal::identify`), the index (see `refs`).

use crate::input;
use crate::kept::{self, OfStore};
use crate::output::{Colour, Failure, Output, Status, count, escape};
use crate::prove::uid;
use crate::refs::Index;
use cgpath_appraisal::identify::{Used, used};
use cgpath_evidence::{Digest, Evidence, PartitionKey, PodUid};
use cgpath_policy::refs::Image;
use cgpath_policy::{Allowed, Name, Policy, named_digest};
use cgpath_report::{AllIdentified, Identified};
use cgpath_service::policy_files;
use cgpath_service::store::Store;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// So many files of no image are listed of each container.
const MAX_OTHERS: usize = 20;

/// Says which image each container of a pod really runs, from evidence and the index of images alone.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 all files of each container are of one image, and the container runtime \
                  names no other; 1 something else; 2 unusable input.\n\n\
                  The evidence is taken as it is: `cgpath verify` says whether it is to be believed.\n\n\
                  Examples:\n  \
                  cgpath identify --pod 1f0a… --node worker-1 --refs refs\n  \
                  cgpath identify --pod 1f0a… --evidence evidence.cbor --policy node.yaml --refs refs"
)]
pub struct Identify {
    /// The pod
    #[arg(long, value_name = "UID", value_parser = uid)]
    pod: PodUid,
    /// The folder of the index of images (`cgpath refs`)
    #[arg(long, value_name = "DIR")]
    refs: PathBuf,
    /// The node's whole evidence; `-` reads standard input
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "node",
        conflicts_with_all = ["store", "node"]
    )]
    evidence: Option<PathBuf>,
    #[command(flatten)]
    of: OfStore,
    /// A policy of the node, which says what is the container runtime's own (`sandbox`, `runtime-files`);
    /// with --node the one that is enrolled
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// A container, or what is outside of all.
#[derive(Serialize)]
struct Part {
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Paths with their contents.
    files: usize,
    /// Those that the policy has as the container runtime's own, and no image.
    of_runtime: usize,
    /// The images that have the most of them, all of them the same, and how many these are.
    images: Vec<Found>,
    of_images: usize,
    /// What neither such an image nor the runtime has.
    others: usize,
    other_files: Vec<String>,
    /// What the container runtime says that the image is.
    said: Vec<String>,
    /// Whether that is one of these images; absent where it names no digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_said: Option<bool>,
    #[serde(skip)]
    is_sandbox: bool,
}

#[derive(Serialize)]
struct Found {
    names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    configuration: Digest,
}

impl Identify {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Evidence, an index or a policy that cannot be read; a pod that the evidence does not have.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let (evidence, enrolled) = self.evidence()?;
        let policy = self.policy.or(enrolled);
        let policy = policy.as_deref().map(policy_files::load).transpose()?;
        let parts = used(&evidence, self.pod);
        if parts.is_empty() {
            let why = format!("the evidence has nothing that pod {} used", self.pod);
            return Err(Failure::new("no-pod", why).hint("`cgpath verify` lists the pods of the evidence"));
        }
        let mut is_clean = true;
        for part in compared(&parts, policy.as_ref(), &Index::open(self.refs)?)? {
            is_clean &= part.is_clean();
            if out.json() {
                out.object(&part)?;
            } else {
                part.print(out)?;
            }
        }
        Ok(Status::clean_if(is_clean))
    }

    fn evidence(&self) -> Result<(Evidence, Option<PathBuf>), Failure> {
        match (self.of.named(), &self.evidence) {
            (Some((dir, node)), _) => {
                let kept = kept::of(&Store::open(&dir)?, node, None)?;
                Ok((kept.evidence, Some(kept.node.policy)))
            }
            (None, Some(path)) => Ok((input::evidence(path)?, None)),
            (None, None) => {
                Err(Failure::new("usage", "no evidence is named").hint("--evidence FILE, or --node NAME"))
            }
        }
    }
}

/// What the index says of these parts of pods, in their order.
fn compared(parts: &[Used], policy: Option<&Policy>, index: &Index) -> Result<Vec<Part>, Failure> {
    let images = index.images()?;
    let mut judges: Vec<Judge<'_>> = parts.iter().map(|part| Judge::new(part, policy)).collect();
    let mut known = BTreeSet::new();
    for layer in images.iter().flat_map(|image| &image.layers) {
        // Images share layers. One after the other: each can be large.
        if known.insert(&layer.values) {
            let allowed = Allowed::of([index.values(layer)?]);
            for judge in &mut judges {
                judge.look_at(&layer.values, &allowed);
            }
        }
    }
    for image in &images {
        for judge in &mut judges {
            judge.compare(image);
        }
    }
    Ok(judges.into_iter().map(Judge::conclude).collect())
}

/// The same of all pods that stand in these; of one that is in several, by the last.
///
/// # Errors
/// An index that cannot be read.
pub(crate) fn all_pods<'e>(
    evidence: impl Iterator<Item = &'e Evidence>,
    policy: Option<&Policy>,
    refs: PathBuf,
) -> Result<AllIdentified, Failure> {
    let mut of_pods: BTreeMap<PodUid, Vec<Used>> = BTreeMap::new();
    for evidence in evidence {
        let logs = evidence.partitions.iter().chain(&evidence.unsealed);
        let keys: BTreeSet<PartitionKey> = logs.map(|log| log.key).collect();
        for key in keys {
            if let PartitionKey::Pod(uid) = key {
                of_pods.insert(uid, used(evidence, uid));
            }
        }
    }
    let (uids, parts): (Vec<PodUid>, Vec<Used>) = of_pods
        .into_iter()
        .flat_map(|(uid, parts)| parts.into_iter().map(move |part| (uid, part)))
        .unzip();
    let mut all = AllIdentified::new();
    for (uid, part) in uids
        .into_iter()
        .zip(compared(&parts, policy, &Index::open(refs)?)?)
    {
        let (text, is_clean) = (part.summary(), part.is_clean());
        all.entry(uid).or_default().push(Identified { text, is_clean });
    }
    Ok(all)
}

/// Compares what a part used with one layer after the other, then with the images that have them.
struct Judge<'a> {
    part: &'a Used,
    contents: Vec<(Name<'a>, Option<&'a Digest>)>,
    of_runtime: Vec<bool>,
    /// Which contents each layer has, by the hash of its values; no layer that has none.
    layers: BTreeMap<&'a Digest, Vec<usize>>,
    /// The most contents that an image has so far, which images have as many, and which contents these are.
    most: usize,
    images: Vec<(&'a Image, Vec<bool>)>,
}

impl<'a> Judge<'a> {
    fn new(part: &'a Used, policy: Option<&Policy>) -> Judge<'a> {
        let contents: Vec<_> = part.contents().collect();
        let none = Allowed::default();
        let accepted = |with_sandbox: bool| -> Vec<bool> {
            let is = |(name, digest): &(Name<'_>, Option<&Digest>)| match (policy, digest) {
                (Some(policy), Some(digest)) if with_sandbox => {
                    policy.look_up_pod_runtime(*name, digest).is_accepted()
                }
                (Some(policy), Some(digest)) => policy.look_up_container(&none, *name, digest).is_accepted(),
                _ => false,
            };
            contents.iter().map(is).collect()
        };
        // The sandbox's values are those of the sandbox and of what is outside of containers. A container
        // that nobody named can be the sandbox if it used nothing else.
        let of_runtime = accepted(true);
        let has_sandbox = match (&part.container, &part.name) {
            (None, _) => true,
            (Some(_), Some(name)) => name.sandbox,
            (Some(_), None) => of_runtime.iter().all(|is| *is),
        };
        Judge {
            part,
            of_runtime: if has_sandbox { of_runtime } else { accepted(false) },
            contents,
            layers: BTreeMap::new(),
            most: 1,
            images: Vec::new(),
        }
    }

    fn look_at(&mut self, values: &'a Digest, allowed: &Allowed) {
        let has = |(name, digest): &(Name<'_>, Option<&Digest>)| {
            digest.is_some_and(|digest| allowed.look_up(*name, digest).is_accepted())
        };
        let contents = self.contents.iter().enumerate();
        let found: Vec<usize> = contents.filter(|(_, it)| has(it)).map(|(at, _)| at).collect();
        if !found.is_empty() {
            self.layers.insert(values, found);
        }
    }

    fn compare(&mut self, image: &'a Image) {
        let layers = image.layers.iter();
        let found: BTreeSet<usize> = layers
            .filter_map(|layer| self.layers.get(&layer.values))
            .flatten()
            .copied()
            .collect();
        let has: Vec<bool> = (0..self.contents.len()).map(|at| found.contains(&at)).collect();
        let found = has.iter().filter(|has| **has).count();
        if found > self.most {
            self.images.clear();
            self.most = found;
        }
        if found == self.most {
            self.images.push((image, has));
        }
    }

    fn conclude(self) -> Part {
        let name = self.part.name.as_ref();
        let said: Vec<String> = name.map(|name| name.references.clone()).unwrap_or_default();
        let digests: Vec<Digest> = said.iter().filter_map(|said| named_digest(said)).collect();
        let is_named = |(image, _): &(&Image, Vec<bool>)| digests.iter().any(|digest| image.is_named(digest));
        // Of several with as many the one that is named, and those that have the same contents as it.
        let best = self.images.iter().position(is_named).unwrap_or_default();
        let best = self
            .images
            .get(best)
            .map(|(_, has)| has.clone())
            .unwrap_or_default();
        let images: Vec<_> = self.images.into_iter().filter(|(_, has)| *has == best).collect();
        let is_images = |at: usize| best.get(at) == Some(&true);
        let is_runtimes = |at: usize| self.of_runtime.get(at) == Some(&true);
        let all = || 0..self.contents.len();
        let others: Vec<usize> = all().filter(|at| !is_images(*at) && !is_runtimes(*at)).collect();
        let shown = others
            .iter()
            .take(MAX_OTHERS)
            .filter_map(|at| self.contents.get(*at));
        Part {
            container: self.part.container.clone(),
            name: name.map(|name| match name.sandbox {
                true => "sandbox".to_owned(),
                false => name.name.clone(),
            }),
            files: self.contents.len(),
            of_runtime: all().filter(|at| is_runtimes(*at) && !is_images(*at)).count(),
            of_images: all().filter(|at| is_images(*at)).count(),
            others: others.len(),
            other_files: shown.map(|(name, digest)| file(*name, *digest)).collect(),
            is_sandbox: name.is_some_and(|name| name.sandbox),
            is_said: (!digests.is_empty()).then(|| images.iter().any(is_named)),
            said,
            images: images
                .into_iter()
                .map(|(image, _)| Found {
                    names: image.names.iter().cloned().collect(),
                    platform: image.platform.clone(),
                    configuration: image.configuration.clone(),
                })
                .collect(),
        }
    }
}

fn file(name: Name<'_>, digest: Option<&Digest>) -> String {
    let digest = digest.map_or_else(|| "no hash".to_owned(), Digest::to_string);
    format!("{} {digest}", escape(name.bytes()))
}

impl Part {
    /// Whether one image has all of it, but for what is the runtime's own, and the runtime names no other.
    /// The sandbox's image need not be in the index.
    fn is_clean(&self) -> bool {
        let is_sandbox = self.is_sandbox && self.of_images == 0;
        self.others == 0 && (is_sandbox || self.is_said != Some(false))
    }

    /// Of an image that has the most of it; none where no image has any.
    fn of_image(&self, image: Option<&Found>) -> String {
        let Some(image) = image else {
            return "0 of an image of the index".to_owned();
        };
        let all = if self.of_images == self.files { "all " } else { "" };
        let names = match image.names.is_empty() {
            true => "an image without a name".to_owned(),
            false => image.names.join(", "),
        };
        let names = escape(names.as_bytes());
        format!(
            "{all}{} of image {names} ({})",
            self.of_images, image.configuration
        )
    }

    fn label(&self) -> String {
        let part = match (&self.name, &self.container) {
            (Some(name), Some(id)) => format!("container {name} ({})", id.get(..12).unwrap_or(id)),
            (None, Some(id)) => format!("container {}", id.get(..12).unwrap_or(id)),
            _ => "outside of containers".to_owned(),
        };
        format!("{}: {}", escape(part.as_bytes()), count(self.files, "file"))
    }

    /// On one line, without the names of files and with the first of several images.
    fn summary(&self) -> String {
        let mut text = format!("{}, {}", self.label(), self.of_image(self.images.first()));
        if self.images.len() > 1 {
            text += &format!(" as of {} more", self.images.len() - 1);
        }
        if self.of_runtime > 0 {
            text += &format!(", {} of the container runtime", self.of_runtime);
        }
        text += &format!(", {}", count(self.others, "other"));
        if self.is_said == Some(false) {
            text += "; the container runtime names another image";
        }
        text
    }

    fn print(&self, out: &mut Output) -> Result<(), Failure> {
        out.line(self.label())?;
        for image in &self.images {
            out.line(format_args!("  {}", self.of_image(Some(image))))?;
        }
        if self.images.is_empty() {
            out.line(format_args!("  {}", self.of_image(None)))?;
        }
        if self.of_runtime > 0 {
            out.line(format_args!("  {} of the container runtime", self.of_runtime))?;
        }
        let colour = if self.others == 0 {
            Colour::Green
        } else {
            Colour::Red
        };
        let others = out.paint(colour, &count(self.others, "other"));
        out.line(format_args!("  {others}"))?;
        for other in &self.other_files {
            out.line(format_args!("    {other}"))?;
        }
        let more = self.others - self.other_files.len();
        if more > 0 {
            out.line(format_args!("    {more} more"))?;
        }
        if !self.said.is_empty() {
            let said = escape(self.said.join(", ").as_bytes());
            let word = match self.is_said {
                Some(true) => "the same",
                Some(false) => "none of these",
                None => "no digest",
            };
            out.line(format_args!("  the container runtime says: {said}: {word}"))?;
        }
        Ok(())
    }
}
