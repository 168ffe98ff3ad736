//! What each partition used, by the policy: V8, V9, V11, V12 and V14.

use super::{Case, UNATTRIBUTED};
use cgpath_appraisal::{MAX_IMPOSTORS, Rule, Subject};
use cgpath_evidence::{
    Checkpoint, Digest, EventKind, FileHash, GuardMode, Loaded, PartitionKey, PodUid, Record,
    SealedCheckpoint, checkpoint::number_from_path, list::unescaped,
};
use cgpath_policy::{ContentMatch, GuardLevel, Hidden, Name, Policy, PredatingPods, TpmOpened};

/// The rule that a partition's contents fail by.
pub(super) fn rule_of(key: PartitionKey) -> Rule {
    match key {
        PartitionKey::Pod(_) => Rule::PodContents,
        _ => Rule::Host,
    }
}

/// Whether two records are of one file: they share a device and inode number, of the file that was opened or
/// of the one in the layer below it, and no generation says that the number was used again.
fn is_same_file(one: &Record, other: &Record) -> bool {
    let names = |record: &Record| {
        let mut names = vec![(
            record.dev,
            record.ino,
            record.identity.as_ref().map(|identity| identity.generation),
        )];
        if let Some(layer) = record.identity.as_ref().and_then(|identity| identity.layer) {
            names.push((layer.dev, layer.ino, Some(layer.generation.into())));
        }
        names
    };
    names(one).into_iter().any(|a| {
        names(other).into_iter().any(|b| {
            let differ = matches!((a.2, b.2), (Some(one), Some(other)) if one != other);
            (a.0, a.1) == (b.0, b.1) && !differ
        })
    })
}

/// Whether the policy accepts a content at a path; of a pod that it does not know nothing is expected.
pub fn accepts(
    policy: &Policy,
    predating: &[PodUid],
    key: PartitionKey,
    name: Name<'_>,
    digest: &Digest,
) -> bool {
    let in_pod = |uid: &PodUid| {
        policy
            .look_up_pod(uid, name, digest)
            .map(|matched| matched.is_accepted())
    };
    if let PartitionKey::Pod(uid) = key {
        return policy.hides_in_pod(&uid, name) == Hidden::Yes || in_pod(&uid) != Some(false);
    }
    // Pods that are older than the load have left entries in the boot's part of the list.
    policy.hides_on_host(name) == Hidden::Yes
        || policy.file.accept.ima_policies.contains(digest)
        || policy.look_up_host(name, digest).is_accepted()
        || (key == PartitionKey::Boot && predating.iter().any(|uid| in_pod(uid) == Some(true)))
}

impl Case<'_> {
    pub(super) fn predating(&self) -> &[PodUid] {
        self.chain
            .first()
            .map_or(&[], |first| &first.checkpoint.predating)
    }

    pub(super) fn accepts(&self, key: PartitionKey, name: Name<'_>, digest: &Digest) -> bool {
        accepts(self.given.policy, self.predating(), key, name, digest)
    }

    /// A program that runs others out of the kernel's sight ran in a pod, or something of the pod below it.
    fn opaque(&mut self, key: PartitionKey, path: &[u8]) {
        if let PartitionKey::Pod(uid) = key
            && cgpath_policy::is_opaque(path)
        {
            let pod = self.given.policy.pods.get(&uid);
            let trusted = pod.is_some_and(|pod| pod.pod.opaque == cgpath_policy::Opaque::Trust);
            self.fail_if(!trusted, Rule::PodContents, Subject::Partition(key));
        }
    }

    fn content(&mut self, key: PartitionKey, name: Name<'_>, digest: Option<&Digest>) {
        self.opaque(key, name.bytes());
        let is_accepted = digest.is_some_and(|digest| self.accepts(key, name, digest));
        self.fail_if(!is_accepted, rule_of(key), Subject::Partition(key));
    }

    fn entry(&mut self, key: PartitionKey, index: usize) {
        let line = self.lines[index].clone();
        let is_checkpoint = number_from_path(&line.path).is_some() && self.anchors.contains(&Some(index));
        if key != PartitionKey::Host || !is_checkpoint {
            self.content(key, Name::Listed(&line.path), line.file.as_ref());
        }
    }

    fn violation(&mut self, key: PartitionKey, path: &[u8]) {
        let permitted = self.given.policy.permits_violation(path);
        self.fail_if(!permitted, Rule::Violations, Subject::Partition(key));
    }

    pub(super) fn contents(&mut self) {
        for index in 0..self.boot_len().min(self.covered) {
            let line = self.lines[index].clone();
            let kexecs = self.kexecs();
            let behind = kexecs.first().is_some_and(|first| index >= *first);
            let aggregate = line.path == b"boot_aggregate" && (index == 0 || behind);
            let is_old = kexecs.last().is_some_and(|last| index < *last);
            let impostors = self.impostors();
            let is_kept = impostors.len() < MAX_IMPOSTORS || impostors.last() >= Some(&(index as u64));
            let was_checkpoint = number_from_path(&line.path).is_some() && is_kept;
            let old_checkpoint = is_old && was_checkpoint && !impostors.contains(&(index as u64));
            // Whose it was in the boot before is known no more.
            let somebody = is_old && !line.violation && self.one_accepts(index, self.everybody());
            if line.violation {
                self.violation(PartitionKey::Boot, &line.path);
            } else if !aggregate && !old_checkpoint && !somebody {
                self.entry(PartitionKey::Boot, index);
            }
        }
        for place in 0..self.records.len() {
            let (key, record) = self.records[place];
            self.used(key, record, self.entry_of[place]);
            if record.kind == EventKind::LayerWrite
                || (record.kind == EventKind::Violation && record.ret == 0)
            {
                self.changed(key, record);
            }
        }
        for index in self.orphans.clone() {
            self.entry(PartitionKey::Unattributed, index);
        }
        self.seen.extend(self.predating().to_vec());
        self.v8();
        self.v11_stated();
    }

    pub(super) fn sees(&mut self, key: PartitionKey) {
        if let PartitionKey::Pod(uid) = key {
            self.seen.insert(uid);
        }
    }

    /// What one record says that its partition used; `index` is the entry that it is about.
    pub(super) fn used(&mut self, key: PartitionKey, record: &Record, index: Option<usize>) {
        self.sees(key);
        // A mapping that is writable and executable at once, or what says so of something else.
        self.fail_if(record.writable, rule_of(key), Subject::Partition(key));
        if let PartitionKey::Pod(uid) = key
            && record.kind != EventKind::Name
        {
            self.ran.insert(uid);
        }
        if matches!(record.kind, EventKind::PodLoss | EventKind::Name) {
            return;
        }
        for process in &record.ancestry {
            self.opaque(key, &process.exe);
        }
        let mut lineage = record.ancestry.iter();
        let known = lineage.any(|process| self.given.policy.is_runtime(&process.exe));
        self.fail_if(
            matches!(key, PartitionKey::Pod(_)) && !known,
            Rule::PodContents,
            Subject::Partition(key),
        );
        self.file(key, record);
        match (record.kind, index) {
            (EventKind::Guard | EventKind::PodLoss, _) => {}
            (EventKind::Load, _) => {}
            (EventKind::LayerWrite, _) => self.violation(key, &record.path),
            (EventKind::Violation, _) => self.violation(key, &record.path),
            (EventKind::Entry, Some(index)) => self.entry(key, index),
            (EventKind::Entry, None) => self.fail_if(true, rule_of(key), Subject::Partition(key)),
            _ if self.trusts_memory(key, record) => {}
            _ => {
                let digest = record.hash.as_ref().and_then(FileHash::digest);
                self.content(key, Name::True(&record.path), digest);
                self.fail_if(record.path_cut, rule_of(key), Subject::Partition(key));
            }
        }
    }

    /// Whether the policy of a pod trusts it with what this record says of memory that has no name.
    fn trusts_memory(&self, key: PartitionKey, record: &Record) -> bool {
        let PartitionKey::Pod(uid) = key else {
            return false;
        };
        let Some(pod) = self.given.policy.pods.get(&uid) else {
            return false;
        };
        let Some(identity) = record.identity.as_deref() else {
            return false;
        };
        let is_memfd = (record.dev, identity.magic, identity.layer) == (1, 0x0102_1994, None)
            && String::from_utf8_lossy(&record.path).ends_with(" (deleted)");
        let is_plain = !record.path_cut
            && !record.writable
            && record.kind == EventKind::LateMapping
            && matches!(record.hash, None | Some(FileHash::Unhashed(_)));
        is_memfd && is_plain && pod.pod.shared_memory_code == cgpath_policy::SharedMemoryCode::Trust
    }

    /// Where the file's content lies, and whether somebody could write it there unseen.
    fn file(&mut self, key: PartitionKey, record: &Record) {
        let Some(identity) = record.identity.as_deref() else {
            return;
        };
        if !record.is_execution() && record.kind != EventKind::Entry {
            return;
        }
        let permitted = self.given.policy.permits_file_system(identity.magic);
        self.fail_if(!permitted, rule_of(key), Subject::Partition(key));
        if identity.written {
            self.violation(key, &record.path);
        }
    }

    /// A file that was written while it was in use is another one for everybody else who executed or mapped
    /// it, unless the policy permits that where it was used.
    pub(super) fn changed(&mut self, writer: PartitionKey, violation: &Record) {
        for (key, record) in self.records.clone() {
            let is_it = record.is_execution() && is_same_file(record, violation);
            let permitted = key == writer || self.given.policy.permits_violation(&record.path);
            self.fail_if(is_it && !permitted, Rule::Violations, Subject::Partition(key));
        }
    }

    /// Where no records come along, the entries say whose they are.
    pub(super) fn contents_of_tags(&mut self) {
        let mut nobodys = 0;
        for index in 0..self.covered {
            let line = self.lines[index].clone();
            if line.violation {
                self.violation(PartitionKey::Unattributed, &line.path);
                continue;
            }
            if index == 0 && line.path == b"boot_aggregate" {
                continue;
            }
            let key = line.owner();
            nobodys += u64::from(key == PartitionKey::Unattributed);
            if let PartitionKey::Pod(uid) = key {
                self.seen.insert(uid);
                self.ran.insert(uid);
                let mut processes = line.dep.split(|byte| *byte == b':');
                let known = processes.any(|exe| self.given.policy.is_runtime(&unescaped(exe)));
                self.fail_if(!known, Rule::PodContents, Subject::Partition(key));
            }
            self.entry(key, index);
        }
        self.fail_if(
            nobodys > self.policy().tolerance.unattributed,
            Rule::Records,
            UNATTRIBUTED,
        );
        self.v8();
    }

    fn v8(&mut self) {
        for uid in self.seen.clone() {
            let own = Subject::Partition(PartitionKey::Pod(uid));
            let known = self.given.policy.pods.contains_key(&uid);
            let too_old =
                self.predating().contains(&uid) && self.policy().predating_pods == PredatingPods::Untrust;
            self.node(!known, Rule::KnownPods);
            self.fail_if(!known || too_old, Rule::KnownPods, own);
        }
    }

    /// Collector and IMA policy stand in the list with accepted contents before checkpoint 1.
    pub(super) fn v11_foundations(&mut self) {
        let accept = &self.policy().accept;
        let until = self
            .anchors
            .get(1)
            .copied()
            .flatten()
            .unwrap_or(self.covered)
            .min(self.covered);
        let collector = accept.collector.as_bytes();
        let stands = |is_it: &dyn Fn(&[u8], &Digest) -> bool| {
            self.lines[..until].iter().any(|line| {
                !line.violation && line.file.as_ref().is_some_and(|digest| is_it(&line.path, digest))
            })
        };
        let matched = |digest: &Digest| self.given.policy.look_up_host(Name::True(collector), digest);
        let good = stands(&|path, digest| {
            path == collector && matches!(matched(digest), ContentMatch::Accepted { .. })
        }) && stands(&|_, digest| accept.ima_policies.contains(digest));
        self.node(!good, Rule::Host);
    }

    /// Programs and IMA policy that the checkpoints name are accepted ones.
    fn v11_stated(&mut self) {
        let accept = &self.policy().accept;
        let collector = accept.collector.as_bytes();
        for n in 0..self.chain.len() {
            for program in collectors(&self.chain[n]) {
                let matched = self.given.policy.look_up_host(Name::True(collector), &program);
                let earlier = self.chain[..n].iter();
                if earlier.flat_map(collectors).any(|known| known == program) {
                    continue;
                }
                let before = self.chain[n].checkpoint.list_len.min(self.covered as u64) as usize;
                let stands = self.lines[..before].iter().any(|line| {
                    !line.violation && line.path == collector && line.file.as_ref() == Some(&program)
                });
                self.node(!matched.is_accepted() || !stands, Rule::Host);
            }
        }
        let is_one = |all: &[Digest], hash: &[u8; 32]| all.iter().any(|digest| digest.bytes() == hash);
        let fails = self.chain.iter().map(|sealed| &sealed.checkpoint).any(|c| {
            let objects = [Some(&c.bpf_object), c.bpf_placed.as_ref()];
            accept
                .bpf_objects
                .as_ref()
                .is_some_and(|all| objects.into_iter().flatten().any(|one| !is_one(all, one)))
                || c.ima_policy
                    .is_some_and(|hash| !is_one(&accept.ima_policies, &hash))
        });
        self.node(fails, Rule::Host);
    }

    /// What the kernel was handed as bytes: the kernel is the node's, also where a pod did it.
    pub(super) fn v11_loads(&mut self) {
        let allowed = self.policy().kexec == cgpath_policy::Kexec::AllowUnmeasured;
        let of_host = |digest: &Digest| !self.given.policy.host.paths_of(digest).is_empty();
        let fails = self.records.iter().any(|(_, record)| {
            let Some(load) = record.load.as_deref() else {
                return record.kind == EventKind::Load;
            };
            record.kind != EventKind::Load
                || match load.what {
                    Loaded::Kexec => !allowed,
                    Loaded::Module => !record
                        .hash
                        .as_ref()
                        .is_some_and(|hash| matches!(hash, FileHash::Measured(digest) if of_host(digest))),
                }
        });
        self.node(fails, Rule::Host);
    }

    pub(super) fn v14(&mut self) {
        let guard = &self.policy().guard;
        let least = match guard.at_least {
            GuardLevel::Off => None,
            GuardLevel::Record => Some(GuardMode::Record),
            GuardLevel::Deny => Some(GuardMode::Deny),
        };
        let mut stated = self.chain.iter().map(|sealed| sealed.checkpoint.protection);
        let mut fails = least.is_some_and(|least| stated.any(|p| p.is_none_or(|p| p.guard < least)));
        let mut denied = Vec::new();
        for (key, record) in &self.records {
            fails |= match (record.kind == EventKind::Guard, record.guard) {
                (false, None) => false,
                (false, Some(_)) | (true, None) => true,
                (true, Some(done)) if done.action.is_enforcement() => !matches!(key, PartitionKey::Pod(_)),
                (true, Some(done)) => {
                    let at_tpm = done.action == cgpath_evidence::GuardAction::TpmOpened;
                    let reported = at_tpm && guard.tpm_opened == TpmOpened::Report;
                    let counts = !reported && !guard.tolerate.contains(&done.action);
                    let is_pods = matches!(key, PartitionKey::Pod(_)) && record.ret == -1;
                    if counts && is_pods {
                        denied.push(*key);
                    }
                    counts && !is_pods
                }
            };
        }
        self.node(fails, Rule::Guard);
        for key in denied {
            self.fail_if(true, Rule::Guard, Subject::Partition(key));
        }
        self.v14_handovers();
        self.v14_objects();
    }

    /// The eBPF programs stay those of the load, but for what a successor puts into their places.
    fn v14_objects(&mut self) {
        let first = self.chain.first().map(|first| &first.checkpoint);
        self.node(first.is_some_and(|c| c.bpf_placed.is_some()), Rule::Guard);
        for n in 1..self.chain.len() {
            let (was, now) = (&self.chain[n - 1], &self.chain[n]);
            let successor = collectors(was).get(1).cloned();
            let (old, new) = (&was.checkpoint, &now.checkpoint);
            let is_handover = successor.is_some()
                && successor.as_ref() == collectors(now).first()
                && collectors(was).first() != collectors(now).first();
            let runs = |c: &Checkpoint| c.bpf_placed.unwrap_or(c.bpf_object);
            let is_other = old.bpf_object != new.bpf_object;
            let is_replaced = runs(old) != runs(new) && !is_handover;
            self.node(is_other || is_replaced, Rule::Guard);
        }
    }

    /// A chain goes on by a program that the checkpoint before counts; a new one counts once the host's
    /// execution of it is sealed.
    fn v14_handovers(&mut self) {
        let first = self.chain.first();
        let early = first.is_some_and(|first| collectors(first).len() > 1);
        self.node(early, Rule::Guard);
        for n in 1..self.chain.len() {
            let (was, now) = (&self.chain[n - 1], &self.chain[n]);
            let (before, after) = (collectors(was), collectors(now));
            let (starts, last_seq) = (
                [was.checkpoint.starts, now.checkpoint.starts],
                now.checkpoint.last_seq,
            );
            self.node(before.is_empty() != after.is_empty(), Rule::Guard);
            if before.is_empty() || after.is_empty() {
                continue;
            }
            let is_other = after[0] != before[0];
            self.node(!before.contains(&after[0]), Rule::Guard);
            self.node(is_other && starts[1] <= starts[0], Rule::Guard);
            for program in after[1..].iter().filter(|program| !before.contains(program)) {
                let path = self.policy().accept.collector.as_bytes();
                let is_it = |(key, record): &(PartitionKey, &Record)| {
                    *key == PartitionKey::Host
                        && record.kind == EventKind::Execution
                        && record.path == path
                        && !record.path_cut
                        && record.hash == Some(FileHash::Measured(program.clone()))
                        && record.seq <= last_seq
                };
                let ran = self.records.iter().any(is_it);
                self.node(!ran, Rule::Guard);
            }
        }
    }
}

/// The programs that a checkpoint counts as the collector, the one that sealed it first.
fn collectors(sealed: &SealedCheckpoint) -> Vec<Digest> {
    let stated = sealed.checkpoint.collectors.iter();
    stated
        .flat_map(|stated| [Some(&stated.program), stated.successor.as_ref()])
        .flatten()
        .cloned()
        .collect()
}
