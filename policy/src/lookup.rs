//! A policy with its reference files read, and the look-up in them.
//!
//! Promise: every reference file that the policy names was read; the collector's path and every runtime file
//! stand in the host's reference values, so that no rule is vacuous. Not here: what follows from a judgement
//! (see `cgpath-appraisal`).

mod contents;
mod images;
mod pod;
mod workloads;

pub use images::{ImageFault, ImagePolicy, named_digest};
pub(crate) use pod::TenantPolicy;
pub use workloads::{ContainerPolicy, Selected, WorkloadPolicy, Workloads};

use crate::name::{Name, is_listed_as};
use crate::{Error, Excludes, Hidden, NodePolicy, Pod, Reference, Result};
use cgpath_evidence::{Digest, PodUid, list::as_listed, text::foreign};
use contents::Contents;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// All reference files of one policy together are never longer than this many bytes.
pub const MAX_TOTAL_LEN: u64 = 2 * 1024 * 1024 * 1024;

/// What the reference values say of a content at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentMatch {
    /// This content is accepted there.
    Accepted {
        /// What accepts it.
        basis: Basis,
        /// The reference values are learned (copied from a running machine): the verdict must repeat this.
        learned: bool,
    },
    /// No reference value has this path.
    UnknownPath,
    /// The path is known with other contents only.
    WrongHash {
        /// All contents that are accepted at this path, sorted.
        expected: Vec<Digest>,
    },
}

impl ContentMatch {
    /// Whether it is [`ContentMatch::Accepted`].
    pub fn is_accepted(&self) -> bool {
        matches!(self, ContentMatch::Accepted { .. })
    }
}

/// What accepts a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Basis {
    /// A reference value of the partition itself.
    Own,
    /// A reference value of the sandbox image, accepted in every pod.
    Sandbox,
    /// The content of one of the host's `runtime-files`, whatever the path.
    RuntimeFile,
    /// A file by which `cgpathd check` found out what IMA measures: fixed, harmless content at a fixed path.
    Probe,
}

/// One reference file with its indexes.
#[derive(Debug)]
struct Indexed {
    reference: Reference,
    contents: Contents,
    /// Paths with a space, as the list's string fields have them: each space replaced by `_`.
    underscored: HashMap<Vec<u8>, Vec<Vec<u8>>>,
}

impl Indexed {
    fn new(reference: Reference) -> Indexed {
        let mut underscored: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
        for path in reference.files.keys() {
            if path.contains(&b' ') {
                underscored
                    .entry(as_listed(path).into_owned())
                    .or_default()
                    .push(path.clone());
            }
        }
        Indexed {
            contents: Contents::of(&reference.files),
            reference,
            underscored,
        }
    }

    /// Whether `digest` is one of [`Indexed::expected`]: most contents stand at one path or a few, and
    /// finding those is cheaper than to find the path among all.
    fn accepts(&self, name: Name<'_>, digest: &Digest) -> bool {
        const FEW: usize = 16;
        match self.contents.paths(digest) {
            None => false,
            Some(mut paths) if paths.len() <= FEW => {
                paths.any(|known| name.is_of(known, self.is_listed(known)))
            }
            Some(_) => self.expected(name).any(|accepted| accepted == digest),
        }
    }

    /// Whether a path of these values is one that a list wrote: none with a space is.
    fn is_listed(&self, known: &[u8]) -> bool {
        self.reference.is_listed() && !known.contains(&b' ')
    }

    /// Digests accepted at a path. A list writes `_` for every space, so that `/a_b` there may be `/a b` in
    /// truth, and so may `/a_b` in values that come from a list; a path that both sides have in truth is only
    /// itself.
    fn expected<'a>(&'a self, name: Name<'a>) -> impl Iterator<Item = &'a Digest> + 'a {
        let path = name.bytes();
        let (spaced, listed) = match name {
            Name::Listed(path) => (self.underscored.get(path).map_or(&[][..], Vec::as_slice), None),
            Name::True(path) if path.contains(&b' ') && self.reference.is_listed() => {
                (&[][..], Some(as_listed(path)))
            }
            Name::True(_) => (&[][..], None),
        };
        let also = listed.and_then(|listed| self.reference.files.get(&*listed));
        // No list has a space in a name.
        let own = !matches!(name, Name::Listed(path) if path.contains(&b' '));
        own.then_some(path)
            .into_iter()
            .chain(spaced.iter().map(Vec::as_slice))
            .filter_map(|path| self.reference.files.get(path))
            .chain(also)
            .flatten()
    }
}

/// The reference values of one partition: what stands in any of its files is allowed.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    references: Vec<Arc<Indexed>>,
    excludes: Excludes,
}

impl Allowed {
    /// What stands in any of these, without excludes of a policy's own.
    pub fn of(references: impl IntoIterator<Item = Reference>) -> Allowed {
        let references = references
            .into_iter()
            .map(|reference| Arc::new(Indexed::new(reference)));
        Allowed {
            references: references.collect(),
            excludes: Excludes::default(),
        }
    }

    /// Whether an exclude of the policy or of one of the reference files hides this path.
    /// [`Allowed::look_up`] does not ask.
    pub fn hides(&self, name: Name<'_>) -> Hidden {
        let mut gave_up = false;
        for excludes in self.excludes() {
            match excludes.hides(name) {
                Hidden::Yes => return Hidden::Yes,
                Hidden::GaveUp => gave_up = true,
                Hidden::No => {}
            }
        }
        if gave_up { Hidden::GaveUp } else { Hidden::No }
    }

    /// The lists of excludes in force: the policy's own, then the reference files'; no empty one.
    pub fn excludes(&self) -> impl Iterator<Item = &Excludes> {
        core::iter::once(&self.excludes)
            .chain(self.references().map(|reference| &reference.excludes))
            .filter(|excludes| !excludes.is_empty())
    }

    /// Where the file at this path is from, as far as a reference file knows: the source and its layer or
    /// package.
    pub fn origin(&self, path: &[u8]) -> Option<(&Reference, Option<&str>)> {
        self.references().find_map(|reference| {
            reference
                .files
                .contains_key(path)
                .then(|| (reference, reference.origins.of(path)))
        })
    }

    /// Whether there are excludes and they hide every path that has a value: then nothing would be judged.
    fn hides_everything(&self) -> bool {
        self.excludes().next().is_some()
            && self
                .references()
                .flat_map(|reference| reference.names())
                .all(|name| self.hides(name) == Hidden::Yes)
    }

    /// Judges `digest` found at a path.
    pub fn look_up(&self, name: Name<'_>, digest: &Digest) -> ContentMatch {
        if let Some(accepted) = self.accepted(name, digest) {
            return accepted;
        }
        let expected: BTreeSet<&Digest> = self
            .references
            .iter()
            .flat_map(|indexed| indexed.expected(name))
            .collect();
        if expected.is_empty() {
            return ContentMatch::UnknownPath;
        }
        ContentMatch::WrongHash {
            expected: expected.into_iter().cloned().collect(),
        }
    }

    /// The same, where it is accepted, and nothing of what else would be.
    fn accepted(&self, name: Name<'_>, digest: &Digest) -> Option<ContentMatch> {
        let mut learned = None;
        for indexed in &self.references {
            if indexed.accepts(name, digest) {
                // One source that was judged is enough.
                learned = Some(learned.unwrap_or(true) && indexed.reference.learned);
            }
        }
        let basis = Basis::Own;
        learned.map(|learned| ContentMatch::Accepted { basis, learned })
    }

    /// Paths at which this content is accepted; sorted, none twice.
    pub fn paths_of(&self, digest: &Digest) -> Vec<&[u8]> {
        let mut paths: Vec<&[u8]> = self
            .references
            .iter()
            .filter_map(|indexed| indexed.contents.paths(digest))
            .flatten()
            .collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Whether any reference file has this path.
    pub fn knows(&self, name: Name<'_>) -> bool {
        self.references
            .iter()
            .any(|indexed| indexed.expected(name).next().is_some())
    }

    /// The reference files, in the policy's order.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.references.iter().map(|indexed| &indexed.reference)
    }

    /// Names of the sources that are learned; verdicts repeat them.
    pub fn learned_sources(&self) -> Vec<&str> {
        self.references()
            .filter(|r| r.learned)
            .map(|r| r.source.name.as_str())
            .collect()
    }
}

/// One pod of the policy with its reference values.
#[derive(Debug, Clone)]
pub struct PodPolicy {
    /// What the policy file says.
    pub pod: Pod,
    /// Its reference values.
    pub allowed: Allowed,
}

/// A policy that can be judged with: the file and all reference files that it names.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What the policy file says.
    pub file: NodePolicy,
    /// What may run on the host.
    pub host: Allowed,
    /// What may run in every pod.
    pub sandbox: Allowed,
    /// Version 1: the pods that may be there.
    pub pods: BTreeMap<PodUid, PodPolicy>,
    /// Version 2: the workloads that may be there.
    pub workloads: Option<Workloads>,
    /// Contents of the host's `runtime-files`; true where only learned values have it.
    runtime_files: HashMap<Digest, bool>,
    digest: Digest,
}

impl Policy {
    /// Reads a policy from the bytes of its file; `resolve` gives the bytes of each reference file by the
    /// name that the policy uses (once a name) or says why it cannot. `file` is what errors call the policy
    /// file.
    ///
    /// # Errors
    /// [`Error::Syntax`], [`Error::Limit`] for the policy or a reference file, [`Error::Unresolved`] as
    /// `resolve` says, [`Error::Meaning`] if the collector or a runtime file has no reference value.
    pub fn load(
        file: &str,
        yaml: &[u8],
        mut resolve: impl FnMut(&str) -> core::result::Result<Vec<u8>, String>,
    ) -> Result<Policy> {
        let node = NodePolicy::from_yaml(file, yaml)?;
        if node.boot.is_some() && node.dangerous_boot_not_judged {
            return Err(Error::Meaning {
                file: file.to_owned(),
                key: "dangerous-boot-not-judged".into(),
                why: "the policy also says what the boot must be".into(),
                hint: "leave out one of `boot` and `dangerous-boot-not-judged`".into(),
            });
        }
        if let Some((key, why, hint)) = crate::node::misfit(&node) {
            return Err(Error::Meaning {
                file: file.to_owned(),
                key: key.into(),
                why: why.into(),
                hint: hint.into(),
            });
        }
        let mut loader = Loader::new(file, &mut resolve);
        let host = loader.allowed("host", &node.host.references, &node.host.excludes)?;
        let sandbox = match &node.sandbox {
            Some(sandbox) => loader.allowed("sandbox", &sandbox.references, &sandbox.excludes)?,
            None => Allowed::default(),
        };
        let mut pods = BTreeMap::new();
        for pod in &node.pods {
            let allowed = loader.allowed(
                &format!("pods: {}", pod.shown_uid()),
                &pod.references,
                &pod.excludes,
            )?;
            pods.insert(
                pod.uid,
                PodPolicy {
                    pod: pod.clone(),
                    allowed,
                },
            );
        }
        let workloads = node
            .workloads
            .as_deref()
            .map(|name| loader.workloads(name))
            .transpose()?;
        let digest = loader.digest(yaml);

        let absent = |key: &str, path: &str| Error::Meaning {
            file: file.to_owned(),
            key: key.to_owned(),
            why: format!("{} stands in no reference file of `host`", foreign(path)),
            hint:
                "make the host's values from the root file system that holds it; name the real path, not a \
                link"
                    .into(),
        };
        if !host.knows(Name::True(node.accept.collector.as_bytes())) {
            return Err(absent("accept.collector", &node.accept.collector));
        }
        let mut runtime_files = HashMap::new();
        for path in &node.runtime_files {
            if !host.knows(Name::True(path.as_bytes())) {
                return Err(absent("runtime-files", path));
            }
            for indexed in &host.references {
                for digest in indexed.expected(Name::True(path.as_bytes())) {
                    let learned = runtime_files.entry(digest.clone()).or_insert(true);
                    *learned &= indexed.reference.learned;
                }
            }
        }
        Ok(Policy {
            file: node,
            host,
            sandbox,
            pods,
            workloads,
            runtime_files,
            digest,
        })
    }

    /// Judges a content found on the host: by its own values; where those do not know the path, by the
    /// runtime files' contents, since runc executes a copy of itself (path `/` or a memfd) before it enters a
    /// pod's cgroup.
    pub fn look_up_host(&self, name: Name<'_>, digest: &Digest) -> ContentMatch {
        match self.host.look_up(name, digest) {
            unknown @ ContentMatch::UnknownPath => {
                let probe = || {
                    cgpath_evidence::probe::number(name.bytes(), digest).map(|_| ContentMatch::Accepted {
                        basis: Basis::Probe,
                        learned: false,
                    })
                };
                self.runtime_file(digest).or_else(probe).unwrap_or(unknown)
            }
            matched => matched,
        }
    }

    /// Whether the host's values have this content, at whatever path; and where they do, whether only learned
    /// ones have it. For what has no path: bytes that were handed to the kernel.
    pub fn has_on_host(&self, digest: &Digest) -> Option<bool> {
        let having = self.host.references.iter();
        having
            .filter(|indexed| indexed.contents.paths(digest).is_some())
            .map(|indexed| indexed.reference.learned)
            .reduce(|one, other| one && other)
    }

    /// Judges a content found in the pod `uid`: by its own values, then the sandbox's, then the runtime files
    /// by hash. `None` if the policy does not know the pod.
    pub fn look_up_pod(&self, uid: &PodUid, name: Name<'_>, digest: &Digest) -> Option<ContentMatch> {
        let own = self.pods.get(uid)?.allowed.look_up(name, digest);
        if own.is_accepted() {
            return Some(own);
        }
        Some(match (own, self.look_up_pod_runtime(name, digest)) {
            (_, accepted @ ContentMatch::Accepted { .. }) => accepted,
            (ContentMatch::WrongHash { mut expected }, ContentMatch::WrongHash { expected: more }) => {
                expected.extend(more);
                expected.sort();
                expected.dedup();
                ContentMatch::WrongHash { expected }
            }
            (ContentMatch::UnknownPath, other) | (other, _) => other,
        })
    }

    /// Looks up a content in what every pod may have: in the sandbox's values, then the runtime files by
    /// hash. Under version 2 this is all that counts in a pod outside of its containers.
    pub fn look_up_pod_runtime(&self, name: Name<'_>, digest: &Digest) -> ContentMatch {
        match self.sandbox.look_up(name, digest) {
            ContentMatch::Accepted { learned, .. } => ContentMatch::Accepted {
                basis: Basis::Sandbox,
                learned,
            },
            other => self.runtime_file(digest).unwrap_or(other),
        }
    }

    /// Whether this is the content of one of the host's `runtime-files`.
    pub fn is_runtime_content(&self, digest: &Digest) -> bool {
        self.runtime_files.contains_key(digest)
    }

    /// A content of the host's `runtime-files`.
    fn runtime_file(&self, digest: &Digest) -> Option<ContentMatch> {
        let learned = *self.runtime_files.get(digest)?;
        let basis = Basis::RuntimeFile;
        Some(ContentMatch::Accepted { basis, learned })
    }

    /// Whether the host's values for this path count in every pod, whatever the path there (`runtime-files`).
    pub fn is_runtime_file(&self, path: &[u8]) -> bool {
        let mut files = self.file.runtime_files.iter();
        files.any(|file| is_listed_as(path, file.as_bytes()))
    }

    /// The partitions in which a reference file counts, by what people call them.
    pub fn users_of(&self, reference: &str) -> Vec<&str> {
        let uses = |names: &[String]| names.iter().any(|name| name == reference);
        let host = uses(&self.file.host.references).then_some("host");
        let sandbox = self
            .file
            .sandbox
            .as_ref()
            .is_some_and(|sandbox| uses(&sandbox.references));
        let pods = self.file.pods.iter().filter(|pod| uses(&pod.references));
        let workloads = self.workloads.iter().flat_map(|all| all.users_of(reference));
        host.into_iter()
            .chain(sandbox.then_some("sandbox (every pod)"))
            .chain(pods.map(|pod| pod.name.as_str()))
            .chain(workloads)
            .collect()
    }

    /// Reads what [`Policy::look_up_host`] will read for these contents, some 30 at most: it changes nothing
    /// but how long that takes where there are many reference values.
    pub fn look_ahead_on_host<'d>(&self, digests: impl Iterator<Item = &'d Digest> + Clone) {
        for indexed in &self.host.references {
            indexed.contents.look_ahead(digests.clone());
        }
    }

    /// Whether a path on the host is excluded from judgement; [`Policy::look_up_host`] does not ask.
    pub fn hides_on_host(&self, name: Name<'_>) -> Hidden {
        self.host.hides(name)
    }

    /// Whether a path in the pod `uid` is excluded from judgement: by its own excludes or the sandbox's.
    /// [`Policy::look_up_pod`] does not ask.
    pub fn hides_in_pod(&self, uid: &PodUid, name: Name<'_>) -> Hidden {
        let Some(pod) = self.pods.get(uid) else {
            return Hidden::No;
        };
        match (pod.allowed.hides(name), self.sandbox.hides(name)) {
            (Hidden::Yes, _) | (_, Hidden::Yes) => Hidden::Yes,
            (Hidden::GaveUp, _) | (_, Hidden::GaveUp) => Hidden::GaveUp,
            _ => Hidden::No,
        }
    }

    /// Whether an ancestor with this executable is a container runtime (`runtimes`): a name there matches the
    /// last component of the path, an absolute path the whole of it.
    pub fn is_runtime(&self, exe: &[u8]) -> bool {
        let name = exe.rsplit(|b| *b == b'/').next().unwrap_or(exe);
        self.file.runtimes.iter().any(|r| {
            let r = r.as_bytes();
            if r.starts_with(b"/") { r == exe } else { r == name }
        })
    }

    /// Whether a pod is trusted though something ran in it that runs others out of the kernel's sight.
    pub fn trusts_opaque(&self, uid: &PodUid) -> bool {
        let pod = self.pods.get(uid);
        pod.is_some_and(|pod| pod.pod.opaque == crate::Opaque::Trust)
    }

    /// Whether a pod is trusted though it made shared memory without a name executable after it was mapped.
    pub fn trusts_shared_memory_code(&self, uid: &PodUid) -> bool {
        let pod = self.pods.get(uid);
        pod.is_some_and(|pod| pod.pod.shared_memory_code == crate::SharedMemoryCode::Trust)
    }

    /// Whether a violation at this path does not count.
    pub fn permits_violation(&self, path: &[u8]) -> bool {
        self.file
            .violations
            .permit
            .iter()
            .any(|pattern| pattern.matches(path))
    }

    /// Whether files of the file system with this magic number may be used: it is this machine's own, or
    /// permitted.
    pub fn permits_file_system(&self, magic: u64) -> bool {
        let mut permitted = self.file.file_systems.permit.iter();
        crate::is_local(magic) || permitted.any(|one| one.is(magic))
    }

    /// Whether each boot of a trust domain may have a key of its own (`tdx.key: per-boot`).
    pub fn has_key_per_boot(&self) -> bool {
        let tdx = self.file.tdx.as_ref();
        tdx.is_some_and(|tdx| tdx.key == crate::NodeKeyPolicy::PerBoot)
    }

    /// The keys that switch a rule off. Every output repeats them.
    pub fn dangerous_keys(&self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        if self.file.dangerous_boot_not_judged {
            keys.push("dangerous-boot-not-judged");
        }
        keys.extend(self.file.tdx.iter().flat_map(crate::TdxPolicy::dangerous_keys));
        keys
    }

    /// Values that are laxer than their defaults, as `key: value`. Every output repeats them.
    pub fn relaxations(&self) -> Vec<String> {
        use crate::{GuardLevel, Kexec, PaddedBanks, PredatingPods};
        let file = &self.file;
        let mut found = Vec::new();
        if file.tolerance.unattributed > 0 {
            found.push(format!("tolerance.unattributed: {}", file.tolerance.unattributed));
        }
        if file.tolerance.lost > 0 {
            found.push(format!("tolerance.lost: {}", file.tolerance.lost));
        }
        if file.padded_banks == PaddedBanks::Report {
            found.push("padded-banks: report".into());
        }
        if file.predating_pods == PredatingPods::Trust {
            found.push("predating-pods: trust".into());
        }
        match file.kexec {
            Kexec::Deny => {}
            Kexec::Allow => found.push("kexec: allow".into()),
            Kexec::AllowUnmeasured => found.push("kexec: allow-unmeasured".into()),
        }
        if file.min_reboot < crate::DEFAULT_MIN_REBOOT {
            found.push(format!("min-reboot: {}", file.min_reboot));
        }
        if file.guard.at_least == GuardLevel::Off {
            found.push("guard.at-least: off".into());
        }
        found.extend(
            file.guard
                .tolerate
                .iter()
                .map(|action| format!("guard.tolerate: {}", action.name())),
        );
        found.extend(
            file.violations
                .permit
                .iter()
                .map(|p| format!("violations.permit: {p}")),
        );
        let file_systems = file.file_systems.permit.iter();
        found.extend(file_systems.map(|one| format!("file-systems.permit: {one}")));
        let deviations = file.boot.iter().flat_map(|boot| &boot.firmware_deviations);
        let set = cgpath_evidence::boot::RegisterSet::Pcr;
        found.extend(deviations.map(|item| format!("boot.firmware-deviations: {}", item.shown(set))));
        found.extend(file.tdx.iter().flat_map(crate::TdxPolicy::relaxations));
        let opaque = self
            .pods
            .values()
            .filter(|pod| pod.pod.opaque == crate::Opaque::Trust);
        found.extend(opaque.map(|pod| format!("pod {}.opaque: trust", pod.pod.name)));
        let memory = self
            .pods
            .values()
            .filter(|pod| pod.pod.shared_memory_code == crate::SharedMemoryCode::Trust);
        found.extend(memory.map(|pod| format!("pod {}.shared-memory-code: trust", pod.pod.name)));
        let parts = [
            ("host".to_owned(), &self.host),
            ("sandbox".to_owned(), &self.sandbox),
        ];
        let pods = self
            .pods
            .values()
            .map(|p| (format!("pod {}", p.pod.name), &p.allowed));
        for (part, allowed) in parts.into_iter().chain(pods) {
            let items = allowed.excludes().flat_map(|excludes| excludes.items());
            found.extend(items.map(|item| format!("{part}.excludes: {item}")));
        }
        found.extend(self.workloads.iter().flat_map(Workloads::relaxations));
        found
    }

    /// SHA-256 over the policy file and every reference file, so that a verdict can say what it was judged
    /// by: H(H(policy) || H(name) || H(bytes) || …), reference files sorted by name.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

struct Loader<'a> {
    file: &'a str,
    read: BTreeMap<String, Arc<Indexed>>,
    /// What the index of images says of them, beside their values.
    index: BTreeMap<String, Vec<u8>>,
    /// SHA-256 of each file that was read, by what the policy calls it.
    hashes: BTreeMap<String, [u8; 32]>,
    total: u64,
    resolve: &'a mut dyn FnMut(&str) -> core::result::Result<Vec<u8>, String>,
}

impl<'a> Loader<'a> {
    fn new(
        file: &'a str,
        resolve: &'a mut dyn FnMut(&str) -> core::result::Result<Vec<u8>, String>,
    ) -> Loader<'a> {
        Loader {
            file,
            read: BTreeMap::new(),
            index: BTreeMap::new(),
            hashes: BTreeMap::new(),
            total: 0,
            resolve,
        }
    }

    /// `key` is what errors call the part of the policy.
    fn allowed(&mut self, key: &str, names: &[String], excludes: &Excludes) -> Result<Allowed> {
        let references = names
            .iter()
            .map(|name| self.reference(name))
            .collect::<Result<_>>()?;
        let allowed = Allowed {
            references,
            excludes: excludes.clone(),
        };
        if allowed.hides_everything() {
            return Err(Error::Meaning {
                file: self.file.to_owned(),
                key: key.to_owned(),
                why: "the excludes hide every path that has a reference value, so nothing would be \
                    judged"
                    .into(),
                hint: "an exclude matches from the path's beginning: end it with `$`, or begin it with what \
                    it is for"
                    .into(),
            });
        }
        Ok(allowed)
    }

    fn reference(&mut self, name: &str) -> Result<Arc<Indexed>> {
        if let Some(indexed) = self.read.get(name) {
            return Ok(indexed.clone());
        }
        let (reference, _) = self.read_file(name, Reference::from_json)?;
        let indexed = Arc::new(Indexed::new(reference));
        self.read.insert(name.to_owned(), indexed.clone());
        Ok(indexed)
    }

    /// Reads a file: what `parse` makes of it, and its bytes. They are hashed once `parse` took them, which
    /// looks at their length first.
    fn read_file<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str, &[u8]) -> Result<T>,
    ) -> Result<(T, Vec<u8>)> {
        let bytes = (self.resolve)(name).map_err(|why| Error::Unresolved {
            file: self.file.to_owned(),
            reference: name.to_owned(),
            why,
        })?;
        self.total = self.total.saturating_add(bytes.len() as u64);
        if self.total > MAX_TOTAL_LEN {
            return Err(Error::Limit {
                file: self.file.to_owned(),
                what: "all reference files together, in bytes,",
                found: self.total,
                limit: MAX_TOTAL_LEN,
            });
        }
        let parsed = parse(name, &bytes)?;
        self.hashes.insert(name.to_owned(), Sha256::digest(&bytes).into());
        Ok((parsed, bytes))
    }

    /// The hash of a file that was read, by what the policy calls it.
    fn hash(&self, name: &str) -> Option<[u8; 32]> {
        self.hashes.get(name).copied()
    }

    fn digest(&self, yaml: &[u8]) -> Digest {
        digest_of(yaml, &self.hashes)
    }
}

/// H(H(file) || H(name) || H(bytes) || …), of the files that it names, sorted by name; their bytes are hashed
/// already.
fn digest_of(yaml: &[u8], files: &BTreeMap<String, [u8; 32]>) -> Digest {
    let mut all = Sha256::digest(yaml).to_vec();
    for (name, digest) in files {
        all.extend(Sha256::digest(name.as_bytes()));
        all.extend(digest);
    }
    cgpath_evidence::Bank::Sha256.hash(&[&all])
}
