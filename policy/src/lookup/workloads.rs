//! The workload part of a policy with its reference files read, and the look-up in it.
//!
//! Promises: the first entry whose `match` holds decides; a container without an entry of its own has that of
//! `*`, or none. Not here: what a pod is called (see `cgpath-evidence`), what follows where no entry matches
//! (see `cgpath-appraisal`).

use super::{Allowed, ContentMatch, ImagePolicy, Loader, Policy, digest_of};
use crate::refs::{digest_file, image_file, values_file};
use crate::{
    ANY_CONTAINER, Container, DEFAULT_SETTLE, Error, Hidden, Name, Opaque, PodNames, Result,
    SharedMemoryCode, UnknownPods, Workload, WorkloadsFile,
};
use cgpath_evidence::{Digest, PodUid};
use std::collections::BTreeMap;

/// The workload part of a policy, with the reference files that it names.
#[derive(Debug, Clone)]
pub struct Workloads {
    /// What the node part calls the file.
    pub name: String,
    /// What the file says.
    pub file: WorkloadsFile,
    /// Its entries, in its order.
    pub list: Vec<WorkloadPolicy>,
    digest: Digest,
}

/// One workload with the reference values of its containers.
#[derive(Debug, Clone)]
pub struct WorkloadPolicy {
    /// What the file says.
    pub workload: Workload,
    containers: BTreeMap<String, ContainerPolicy>,
}

/// One container of a workload with its reference values.
#[derive(Debug, Clone)]
pub struct ContainerPolicy {
    /// What the file says.
    pub container: Container,
    /// The values of its `references`; without any, nothing but its excludes.
    pub allowed: Allowed,
    /// The images that it may run, none twice; where there are none, any.
    pub images: Vec<ImagePolicy>,
}

/// Which workload a pod is.
#[derive(Debug, Clone, Copy)]
pub enum Selected<'p> {
    /// This one: its entry is the first that matches.
    Workload(&'p WorkloadPolicy),
    /// No entry matches.
    None,
    /// It depends on names that are not there.
    Undecided,
}

impl WorkloadPolicy {
    /// The container of this name, or what `*` says of all others.
    pub fn container(&self, name: &str) -> Option<&ContainerPolicy> {
        self.containers
            .get(name)
            .or_else(|| self.containers.get(ANY_CONTAINER))
    }

    /// Its containers by name, `*` among them.
    pub fn containers(&self) -> impl Iterator<Item = (&str, &ContainerPolicy)> {
        self.containers
            .iter()
            .map(|(name, container)| (name.as_str(), container))
    }
}

impl Workloads {
    /// Which workload the pod is. `names` are absent where nobody said what it is called.
    pub fn select(&self, uid: &PodUid, names: Option<&PodNames<'_>>) -> Selected<'_> {
        for workload in &self.list {
            match workload.workload.selector.holds(uid, names) {
                Some(true) => return Selected::Workload(workload),
                Some(false) => {}
                None => return Selected::Undecided,
            }
        }
        Selected::None
    }

    /// SHA-256 over this file and the reference files that it names: as [`Policy::digest`], and the same for
    /// every node whose policy names it.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether an unknown pod makes the node untrusted.
    pub fn fails_node(&self) -> bool {
        self.file.unknown_pods == UnknownPods::NodeUntrusted
    }

    /// All containers of all workloads.
    fn all(&self) -> impl Iterator<Item = (String, &ContainerPolicy)> {
        self.list.iter().flat_map(|workload| {
            let named = move |(name, container)| {
                (
                    format!("workload {}, container {name}", workload.workload.name),
                    container,
                )
            };
            workload.containers().map(named)
        })
    }

    /// The values of all containers of all workloads.
    fn all_allowed(&self) -> impl Iterator<Item = &Allowed> {
        let containers = self.list.iter().flat_map(|workload| workload.containers.values());
        let all = containers.flat_map(ContainerPolicy::all_allowed);
        all.map(|(_, allowed)| allowed)
    }

    /// The workloads in which a reference file counts, by what the node part would call it.
    pub(super) fn users_of(&self, reference: &str) -> impl Iterator<Item = &str> {
        let uses = move |workload: &&WorkloadPolicy| {
            let mut names = workload
                .containers()
                .flat_map(|(_, container)| &container.container.references);
            names.any(|name| beside(&self.name, name) == reference)
        };
        let users = self.list.iter().filter(uses);
        users.map(|workload| workload.workload.name.as_str())
    }

    /// Values that are laxer than their defaults, as `key: value`.
    pub(super) fn relaxations(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.fails_node() {
            found.push("unknown-pods: report".to_owned());
        }
        if self.file.settle > DEFAULT_SETTLE {
            found.push(format!("settle: {}s", self.file.settle));
        }
        for (named, container) in self.all() {
            if container.container.opaque == Opaque::Trust {
                found.push(format!("{named}.opaque: trust"));
            }
            if container.container.shared_memory_code == SharedMemoryCode::Trust {
                found.push(format!("{named}.shared-memory-code: trust"));
            }
            // Values of images bring none: the loader refuses them.
            let items = container.allowed.excludes().flat_map(|excludes| excludes.items());
            found.extend(items.map(|item| format!("{named}.excludes: {item}")));
        }
        found
    }
}

/// The name of a file beside another one; an absolute one is as it is.
pub(super) fn beside(file: &str, name: &str) -> String {
    match file.rsplit_once('/') {
        Some((folder, _)) if !name.starts_with('/') => format!("{folder}/{name}"),
        _ => name.to_owned(),
    }
}

impl Loader<'_> {
    /// The workload part that the policy calls `name`.
    pub(super) fn workloads(&mut self, name: &str) -> Result<Workloads> {
        let (file, bytes) = self.read_file(name, WorkloadsFile::from_yaml)?;
        let mut list = Vec::new();
        let mut own: BTreeMap<String, [u8; 32]> = BTreeMap::new();
        for workload in &file.workloads {
            let mut containers = BTreeMap::new();
            for (called, container) in &workload.containers {
                let key = format!("workloads: {}: {called}", workload.name);
                let names: Vec<String> = container.references.iter().map(|own| beside(name, own)).collect();
                let allowed = match names.is_empty() {
                    true => Allowed {
                        references: Vec::new(),
                        excludes: container.excludes.clone(),
                    },
                    false => self
                        .allowed(&key, &names, &container.excludes)
                        .map_err(of_part(name))?,
                };
                let images = self.images(name, &file, &key, container, &names)?;
                for written in container
                    .references
                    .iter()
                    .cloned()
                    .chain(of_index(&file.refs, &images, container))
                {
                    own.extend(self.hash(&beside(name, &written)).map(|hash| (written, hash)));
                }
                let container = container.clone();
                containers.insert(
                    called.clone(),
                    ContainerPolicy {
                        container,
                        allowed,
                        images,
                    },
                );
            }
            list.push(WorkloadPolicy {
                workload: workload.clone(),
                containers,
            });
        }
        Ok(Workloads {
            name: name.to_owned(),
            digest: digest_of(&bytes, &own),
            file,
            list,
        })
    }
}

/// The files of the index of images that a container's images were read from, as the workload part would
/// name them.
fn of_index(refs: &str, images: &[ImagePolicy], container: &Container) -> Vec<String> {
    let listed = container.images.iter().map(|listed| digest_file(listed.digest()));
    let own = images.iter().map(|of| image_file(&of.image.configuration));
    let layers = images.iter().flat_map(|of| &of.image.layers);
    let layers = layers.map(|layer| values_file(&layer.values));
    let all = listed.chain(own).chain(layers);
    all.map(|file| format!("{refs}/{file}")).collect()
}

/// Says of an error that it is the workload part's; a reference file that is malformed names itself.
pub(super) fn of_part(part: &str) -> impl Fn(Error) -> Error + '_ {
    move |error| match error {
        Error::Unresolved { .. } | Error::Meaning { .. } => error.in_file(part),
        other => other,
    }
}

impl Policy {
    /// The workloads that this policy has, in their order; none under version 1.
    pub fn all_workloads(&self) -> impl Iterator<Item = &WorkloadPolicy> {
        self.workloads.iter().flat_map(|part| &part.list)
    }

    /// Looks up a content found in a container: in its own values ([`ContainerPolicy::allowed`], or those of
    /// the image that it runs), then the runtime files by hash, since the runtime runs a copy of itself while
    /// it sets the container up.
    pub fn look_up_container(&self, allowed: &Allowed, name: Name<'_>, digest: &Digest) -> ContentMatch {
        let own = allowed.look_up(name, digest);
        match own.is_accepted() {
            true => own,
            false => self.runtime_file(digest).unwrap_or(own),
        }
    }

    /// What accepts a content in some container of some workload, or in a pod outside of all containers: for
    /// contents of which it is not known whose they are. No exclude counts: see
    /// [`Policy::hidden_in_workloads`].
    pub fn accepted_in_workloads(&self, name: Name<'_>, digest: &Digest) -> Option<ContentMatch> {
        let workloads = self.workloads.as_ref()?;
        let outside = self.look_up_pod_runtime(name, digest);
        if outside.is_accepted() {
            return Some(outside);
        }
        workloads
            .all_allowed()
            .find_map(|allowed| allowed.accepted(name, digest))
    }

    /// Whether an exclude of some container of some workload, or of the sandbox, hides a path. It says
    /// nothing of what is not that pod's.
    pub fn hidden_in_workloads(&self, name: Name<'_>) -> bool {
        self.workloads.as_ref().is_some_and(|workloads| {
            let mut all = core::iter::once(&self.sandbox).chain(workloads.all_allowed());
            all.any(|allowed| allowed.hides(name) == Hidden::Yes)
        })
    }
}
