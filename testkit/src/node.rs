//! The node: it measures, records, seals and quotes, each step open to interference.

mod loads;
mod policy;

use crate::measurement::tag;
use crate::td::TrustDomain;
use crate::{Actor, Attest, AttestationKey, FirmwareLog, KeyKind, Measurement};
use crate::{COLLECTOR, IMA_POLICY, NODE, NOW, SHIM, pod, sha256};
use cgpath_appraisal::key_name;
use cgpath_evidence::{
    Ancestor, Bank, Checkpoint, Collectors, Digest, EventKind, Evidence, FileHash, Guard, GuardAction,
    GuardMode, Identity, InFlight, LayerFile, Losses, PartitionKey, PartitionLog, PodInfo, PodLoss, PodUid,
    Protection, Quote, Quotes, Record, SealedCheckpoint, Tier,
    boot::{Boot, boot_aggregate},
    checkpoint,
    merkle::Frontier,
    partition::partitions_root,
    record::ExeSource,
};
use p256::ecdsa::SigningKey;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// `EXT4_SUPER_MAGIC`, include/uapi/linux/magic.h.
pub const EXT4: u64 = 0xef53;
/// Where the layers of all containers lie: 8:1, as records have it.
pub const EXT4_DEVICE: u64 = 8 << 20 | 1;

/// A node made of software. Every field may be changed by a test before the next step.
#[derive(Debug, Clone)]
pub struct Node {
    /// The attestation key.
    pub ak: AttestationKey,
    /// The checkpoint key of this boot.
    pub signing: SigningKey,
    /// The boot.
    pub boot_id: [u8; 16],
    /// The tier.
    pub tier: Tier,
    /// The verifier's clock, seconds since 1970: goes on by a minute with each reboot.
    pub now: u64,
    /// TPM resets.
    pub reset_count: u32,
    /// TPM restarts.
    pub restart_count: u32,
    /// The TPM's clock, milliseconds; runs on by a second at each quote.
    pub clock: u64,
    /// The quoted banks.
    pub banks: Vec<Bank>,
    /// Banks in which the kernel extends a padded SHA-1.
    pub padded: BTreeSet<Bank>,
    /// The measurement list.
    pub list: Vec<Measurement>,
    /// Indexes of entries that IMA listed and never extended.
    pub never_extended: BTreeSet<usize>,
    /// Sealed records by partition.
    pub sealed: BTreeMap<PartitionKey, Vec<Record>>,
    /// Records that wait for the next checkpoint. Those of entries and violations travel unsealed until then.
    pub waiting: Vec<(PartitionKey, Record)>,
    /// Threads that are adding an entry.
    pub in_flight: Vec<InFlight>,
    /// Files that more than one partition has, by path: device and inode. All others are one partition's own.
    pub shared: BTreeMap<Vec<u8>, (u64, u64)>,
    /// Whether records say what file it is, as those of older collectors do not.
    pub identifies: bool,
    /// What file it is at a path in a partition, where it is not what [`Node::identity`] makes of it.
    pub identities: BTreeMap<(PartitionKey, Vec<u8>), Identity>,
    /// Checkpoints.
    pub checkpoints: Vec<SealedCheckpoint>,
    /// The last sequence number.
    pub seq: u64,
    /// Losses so far.
    pub losses: Losses,
    /// Whether canaries arrive.
    pub blind: bool,
    /// What checkpoints state of the programs' settings.
    pub protection: Protection,
    /// How often the collector was started in this boot.
    pub starts: u32,
    /// What checkpoints state of which programs count as the collector; none of a collector that knows of no
    /// handover.
    pub collectors: Option<Collectors>,
    /// SHA-256 of the object whose eBPF programs took the places of those that were loaded, as checkpoints
    /// state it.
    pub bpf_placed: Option<[u8; 32]>,
    /// In the kernel tier: whether checkpoints and records come along.
    pub recorded: bool,
    /// Length of the list at the load.
    pub boot_len: u64,
    /// Pods older than the load.
    pub predating: Vec<PodUid>,
    /// What the container runtime reports.
    pub pods: Vec<PodInfo>,
    /// Files that the host's reference values accept.
    pub host_files: BTreeMap<Vec<u8>, BTreeSet<Digest>>,
    /// Files that each pod's reference values accept.
    pub pod_files: BTreeMap<PodUid, BTreeMap<Vec<u8>, BTreeSet<Digest>>>,
    /// The workload part of a policy of version 2; without one the policy is of version 1.
    pub workloads: Option<String>,
    /// The index of images that the workload part takes values from, by the names of its files.
    pub refs: BTreeMap<String, Vec<u8>>,
    /// YAML lines that are added to the policy.
    pub extra_policy: String,
    /// `accept.banks`, as YAML.
    pub accept_banks: String,
    /// `accept.templates`, as YAML.
    pub accept_templates: String,
    /// Whether the pods' reference values are marked as learned.
    pub learned: bool,
    /// What was measured before IMA began: PCR 0 to 9 are quoted, too. See [`Node::with_boot`].
    pub boot: Option<FirmwareLog>,
    /// It runs in a trust domain, a register of which is an anchor. See [`Node::in_domain`].
    pub td: Option<TrustDomain>,
    /// Whether it has a TPM.
    pub has_tpm: bool,
}

impl Node {
    /// A node that has booted, loaded the programs and sealed checkpoint 0. Pods 1 to 4 are in its policy,
    /// each with `/bin/app` and `/lib/libc.so`; 1 and 2 run the same image.
    pub fn boot(kind: KeyKind) -> Node {
        let mut node = Node {
            ak: AttestationKey::new(kind, 1),
            signing: SigningKey::from_slice(&Sha256::digest(b"boot 1")).unwrap(),
            boot_id: [1; 16],
            tier: Tier::Bpf,
            now: NOW,
            reset_count: 3,
            restart_count: 0,
            clock: 1_000_000,
            banks: vec![Bank::Sha256],
            padded: BTreeSet::new(),
            list: Vec::new(),
            never_extended: BTreeSet::new(),
            sealed: BTreeMap::new(),
            waiting: Vec::new(),
            in_flight: Vec::new(),
            shared: BTreeMap::new(),
            identifies: false,
            identities: BTreeMap::new(),
            checkpoints: Vec::new(),
            seq: 0,
            losses: Losses::default(),
            blind: false,
            protection: Protection {
                guard: GuardMode::Record,
                tpm: GuardMode::Record,
                enforce: false,
                fail_closed: false,
            },
            starts: 1,
            bpf_placed: None,
            collectors: Some(Collectors {
                program: sha256(COLLECTOR.as_bytes()),
                successor: None,
            }),
            recorded: false,
            boot_len: 0,
            predating: Vec::new(),
            pods: Vec::new(),
            host_files: BTreeMap::new(),
            pod_files: BTreeMap::new(),
            workloads: None,
            refs: BTreeMap::new(),
            extra_policy: "dangerous-boot-not-judged: true\n".into(),
            accept_banks: "[sha256]".into(),
            accept_templates: "[ima-ng]".into(),
            learned: false,
            boot: None,
            td: None,
            has_tpm: true,
        };
        for path in [
            "/sbin/init",
            COLLECTOR,
            "/usr/bin/containerd",
            SHIM,
            "/usr/bin/runc",
            "/usr/bin/tool",
        ] {
            node.host_files
                .entry(path.into())
                .or_default()
                .insert(sha256(path.as_bytes()));
        }
        for n in 1..=4 {
            let image = if n <= 2 { 1 } else { n };
            for path in ["/bin/app", "/lib/libc.so"] {
                let digest = sha256(format!("{image}{path}").as_bytes());
                node.pod_files
                    .entry(pod(n))
                    .or_default()
                    .entry(path.into())
                    .or_default()
                    .insert(digest);
            }
        }
        node.load();
        node
    }

    /// What happens from a boot to checkpoint 0.
    pub fn load(&mut self) {
        self.list.clear();
        self.never_extended.clear();
        self.sealed.clear();
        self.in_flight.clear();
        self.starts = 1;
        self.bpf_placed = None;
        // One that knows of no handover knows of none after a boot.
        if self.collectors.is_some() {
            self.collectors = Some(Collectors {
                program: sha256(COLLECTOR.as_bytes()),
                successor: None,
            });
        }
        let aggregate = match &self.boot {
            // What the kernel writes without a TPM.
            _ if !self.has_tpm => Digest::zero(Bank::Sha256),
            Some(boot) => boot_aggregate(&boot.registers(Bank::Sha256)),
            None => sha256(b"pcrs 0 to 9"),
        };
        self.list.push(Measurement::ima_ng(b"boot_aggregate", &aggregate));
        for path in ["/sbin/init", IMA_POLICY, COLLECTOR] {
            self.list
                .push(Measurement::ima_ng(path.as_bytes(), &sha256(path.as_bytes())));
        }
        self.load_again();
    }

    /// A new boot after a reset of the TPM.
    pub fn reboot(&mut self) {
        self.now += 60;
        self.reset_count += 1;
        self.restart_count = 0;
        self.clock += 60_000;
        self.boot_id = [self.boot_id[0] + 1; 16];
        self.signing = SigningKey::from_slice(&Sha256::digest([b'b', self.boot_id[0]])).unwrap();
        if let Some(td) = &mut self.td {
            td.boot();
        }
        self.load();
    }

    /// A node on which pods 1 to 4 and the host have run what they may.
    pub fn busy(kind: KeyKind) -> Node {
        let mut node = Node::boot(kind);
        node.work();
        node
    }

    /// Pods 1 to 4 and the host run what they may.
    pub fn work(&mut self) {
        self.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
        for n in 1..=4 {
            let actor = Actor::pod(pod(n), "/bin/app");
            self.execute_good(&actor, "/bin/app");
            self.execute_good(&actor, "/lib/libc.so");
        }
    }

    /// `actor` executes a file: IMA measures it (once for each content and path), our programs record it.
    pub fn execute(&mut self, actor: &Actor, path: impl AsRef<[u8]>, content: &Digest) {
        let path = path.as_ref();
        self.measure(actor, path, content);
        self.record_execution(
            actor,
            EventKind::Execution,
            path,
            FileHash::Measured(content.clone()),
        );
    }

    /// `actor` executes what its reference values accept at `path`.
    pub fn execute_good(&mut self, actor: &Actor, path: impl AsRef<[u8]>) {
        let files = match actor.key() {
            PartitionKey::Pod(uid) => &self.pod_files[&uid],
            _ => &self.host_files,
        };
        let digest = files[path.as_ref()].first().unwrap().clone();
        self.execute(actor, path, &digest);
    }

    /// The entry that IMA makes of a file that `actor` uses.
    pub fn entry(&self, actor: &Actor, path: impl AsRef<[u8]>, content: &Digest) -> Measurement {
        let path = path.as_ref();
        match self.tier {
            Tier::Bpf => Measurement::ima_ng(path, content),
            Tier::Kernel => {
                let dep: Vec<String> = actor.exes.iter().map(|exe| tag(exe)).collect();
                let cgroup = tag(actor.cgroup.as_deref().unwrap_or_default());
                Measurement::ima_cgpath(&dep.join(":"), &cgroup, path, content)
            }
        }
    }

    /// IMA measures a file for `actor`.
    pub fn measure(&mut self, actor: &Actor, path: impl AsRef<[u8]>, content: &Digest) {
        let path = path.as_ref();
        let entry = self.entry(actor, path, content);
        let known = self.list.contains(&entry);
        if !known {
            self.list.push(entry.clone());
        }
        self.record_entry(actor, path, &entry, if known { -17 } else { 0 });
    }

    /// IMA logs a violation for `actor`.
    pub fn violate(&mut self, actor: &Actor, path: impl AsRef<[u8]>) {
        self.list.push(Measurement::violation(path.as_ref()));
        let record = self.record(actor, EventKind::Violation, path.as_ref());
        self.waiting.push((actor.key(), Record { pcr: 10, ..record }));
    }

    /// Our programs record what IMA did with `entry`.
    pub fn record_entry(&mut self, actor: &Actor, path: impl AsRef<[u8]>, entry: &Measurement, ret: i32) {
        let record = self.record(actor, EventKind::Entry, path.as_ref());
        let digests = [Bank::Sha1, Bank::Sha256]
            .map(|bank| self.bank_digest(entry, bank))
            .to_vec();
        self.waiting.push((
            actor.key(),
            Record {
                ret,
                pcr: entry.pcr,
                digests,
                ..record
            },
        ));
    }

    /// Our programs record that a guarded thing was touched, or that they denied an execution.
    pub fn record_guard(
        &mut self,
        actor: &Actor,
        action: GuardAction,
        name: impl AsRef<[u8]>,
        is_denied: bool,
    ) {
        let record = self.record(actor, EventKind::Guard, name.as_ref());
        self.waiting.push((
            actor.key(),
            Record {
                ret: if is_denied { -1 } else { 0 },
                guard: Some(Guard { action, object: 7 }),
                ..record
            },
        ));
    }

    /// Our programs record what they did not record of the pod that `actor` is in.
    pub fn record_pod_loss(&mut self, actor: &Actor, pod_loss: PodLoss) {
        let record = self.record(actor, EventKind::PodLoss, b"");
        self.waiting.push((
            actor.key(),
            Record {
                pod_loss: Some(pod_loss),
                pid: 0,
                ancestry: Vec::new(),
                dev: 0,
                ino: 0,
                ..record
            },
        ));
    }

    /// Our programs record that a file was opened for writing in its layer.
    pub fn record_layer_write(&mut self, actor: &Actor, path: impl AsRef<[u8]>) {
        let record = self.record(actor, EventKind::LayerWrite, path.as_ref());
        self.waiting.push((actor.key(), record));
    }

    /// Our programs record an execution or a mapping.
    pub fn record_execution(
        &mut self,
        actor: &Actor,
        kind: EventKind,
        path: impl AsRef<[u8]>,
        hash: FileHash,
    ) {
        let record = self.record(actor, kind, path.as_ref());
        self.waiting.push((
            actor.key(),
            Record {
                hash: Some(hash),
                ..record
            },
        ));
    }

    fn bank_digest(&self, entry: &Measurement, bank: Bank) -> Digest {
        if self.padded.contains(&bank) && !entry.violation {
            let mut bytes = entry.digest(Bank::Sha1).bytes().to_vec();
            bytes.resize(bank.len(), 0);
            Digest::new(bank, &bytes).unwrap()
        } else {
            entry.digest(bank)
        }
    }

    fn record(&mut self, actor: &Actor, kind: EventKind, path: &[u8]) -> Record {
        self.seq += 1;
        let (dev, ino) = self.file(&actor.key(), path);
        let is_file = !matches!(kind, EventKind::Guard | EventKind::PodLoss | EventKind::Load);
        let identity = self.identity(&actor.key(), path).filter(|_| is_file);
        let ancestry = actor.exes.iter().enumerate().map(|(i, exe)| Ancestor {
            tgid: if i + 1 == actor.exes.len() {
                1
            } else {
                1000 - i as u32
            },
            start_ns: 1_000 - i as u64,
            exe: exe.clone(),
            dev: 1,
            ino: 100 + i as u64,
            source: ExeSource::Recorded,
        });
        Record {
            seq: self.seq,
            boot_ns: 1_000_000 * self.seq,
            kind,
            ret: 0,
            pcr: 0,
            digests: Vec::new(),
            hash: None,
            path: path.to_vec(),
            dev,
            ino,
            cgroup_id: 42,
            cgroup: actor.cgroup.clone(),
            pid: 1000,
            uid: 0,
            mnt_ns: 1,
            pid_ns: 1,
            ancestry: ancestry.collect(),
            ancestry_cut: false,
            path_cut: false,
            guard: None,
            pod_loss: None,
            identity: identity.map(Box::new),
            name: None,
            writable: false,
            load: None,
        }
    }

    /// Device and inode of a file: each partition has a file system of its own, but for what is
    /// [`Node::shared`].
    pub fn file(&self, key: &PartitionKey, path: &[u8]) -> (u64, u64) {
        let number = |bytes: &[u8]| {
            let hash = Sha256::digest(bytes);
            u64::from(u32::from_le_bytes([hash[0], hash[1], hash[2], 1]))
        };
        let own = || (number(key.to_string().as_bytes()), number(path));
        self.shared.get(path).copied().unwrap_or_else(own)
    }

    /// What file it is at a path in a partition: pods have overlays on ext4 with a layer of their own, and
    /// all else is on ext4, [`Node::shared`] volumes too.
    pub fn identity(&self, key: &PartitionKey, path: &[u8]) -> Option<Identity> {
        if let Some(identity) = self.identities.get(&(*key, path.to_vec())) {
            return Some(*identity);
        }
        let (dev, ino) = self.file(key, path);
        let is_overlay = matches!(key, PartitionKey::Pod(_)) && !self.shared.contains_key(path);
        let layer = is_overlay.then_some(LayerFile {
            dev: EXT4_DEVICE,
            ino: dev ^ ino,
            generation: 3,
        });
        self.identifies.then_some(Identity {
            generation: 2,
            magic: EXT4,
            layer,
            written: false,
        })
    }

    /// A thread of `actor` begins to add an entry and does not end.
    pub fn begin_entry(&mut self, actor: &Actor) {
        let tid = 5000 + u32::try_from(self.in_flight.len()).unwrap();
        self.in_flight.push(InFlight {
            tid,
            since_ns: 1_000_000 * self.seq,
            cgroup: actor.cgroup.clone(),
        });
    }

    /// The collector executes a new program at its own path, as it does to have the kernel's hash of it.
    pub fn try_successor(&mut self, program: &Digest) {
        self.execute(&Actor::host(COLLECTOR), COLLECTOR, program);
    }

    /// The handover: a new program is executed, the checkpoint that seals this names it, and from then on the
    /// guard takes it for the collector.
    pub fn hand_over(&mut self, program: &Digest) {
        self.try_successor(program);
        if let Some(collectors) = &mut self.collectors {
            collectors.successor = Some(program.clone());
        }
        self.seal(None);
    }

    /// The collector is started anew with this program at its path.
    pub fn restart(&mut self, program: &Digest) {
        self.execute(&Actor::host("/sbin/init"), COLLECTOR, program);
        self.starts += 1;
        if self.collectors.is_some() {
            self.collectors = Some(Collectors {
                program: program.clone(),
                successor: None,
            });
        }
    }

    /// Seals all that waits in the next checkpoint, writes its file and reads it, so that IMA measures it.
    pub fn seal(&mut self, nonce: Option<&[u8]>) {
        self.seal_with(nonce, |_| ());
    }

    /// The same, with the checkpoint changed by `change` before it is signed.
    pub fn seal_with(&mut self, nonce: Option<&[u8]>, change: impl FnOnce(&mut Checkpoint)) {
        for (key, record) in self.waiting.drain(..) {
            self.sealed.entry(key).or_default().push(record);
        }
        let mut checkpoint = self.draft(nonce);
        change(&mut checkpoint);
        let sealed = SealedCheckpoint::seal(checkpoint, &self.signing);
        if self.has_tpm {
            self.anchor(&sealed);
        }
        if let Some(td) = &mut self.td {
            td.extend(&sealed);
        }
        self.checkpoints.push(sealed);
    }

    /// The collector reads a checkpoint's file.
    pub fn anchor(&mut self, sealed: &SealedCheckpoint) {
        let path = format!("{}{}", checkpoint::DIRECTORY, sealed.checkpoint.number);
        let mut actor = Actor::host(COLLECTOR);
        actor.cgroup = Some(b"/system.slice/cgpathd.service".to_vec());
        self.measure(&actor, &path, &sha256(&sealed.file));
    }

    /// The longest prefix of the list in which every entry has a record, sealed or waiting: what an honest
    /// collector states where records are late. [`Node::draft`] takes it that none is.
    pub fn settled(&self) -> u64 {
        let waiting = self.waiting.iter().map(|(_, record)| record);
        let records: Vec<&Record> = self.sealed.values().flatten().chain(waiting).collect();
        let is_recorded = |entry: &Measurement| {
            records.iter().any(|record| match (record.kind, record.ret) {
                (EventKind::Entry, 0) => {
                    !entry.violation && record.digests.contains(&self.bank_digest(entry, Bank::Sha256))
                }
                (EventKind::Violation, 0) => *entry == Measurement::violation(&record.path),
                _ => false,
            })
        };
        let since_load = self
            .list
            .iter()
            .skip(usize::try_from(self.boot_len).unwrap_or(usize::MAX));
        self.boot_len + since_load.take_while(|entry| is_recorded(entry)).count() as u64
    }

    /// What an honest collector would state now.
    pub fn draft(&self, nonce: Option<&[u8]>) -> Checkpoint {
        let mut partitions: BTreeMap<PartitionKey, Frontier> = BTreeMap::new();
        for (key, records) in &self.sealed {
            for record in records {
                partitions.entry(*key).or_default().push(record.leaf_hash());
            }
        }
        let records: Vec<&Record> = self.sealed.values().flatten().collect();
        let first = self.checkpoints.is_empty();
        Checkpoint {
            version: 1,
            boot_id: self.boot_id,
            number: self.checkpoints.len() as u64,
            previous: self.checkpoints.last().map_or([0; 32], SealedCheckpoint::digest),
            list_len: self.list.len() as u64,
            settled: self.list.len() as u64,
            boot_len: self.boot_len,
            records: records.len() as u64,
            executions: records.iter().filter(|r| r.is_execution()).count() as u64,
            last_seq: self.seq,
            losses: self.losses,
            blind: self.blind,
            partitions: partitions.len() as u64,
            partitions_root: partitions_root(&partitions),
            bpf_object: [9; 32],
            ima_policy: sha256(IMA_POLICY.as_bytes()).bytes().try_into().ok(),
            nonce_hash: nonce.map(|n| Sha256::digest(n).into()),
            key: first.then(|| {
                self.signing
                    .verifying_key()
                    .to_encoded_point(true)
                    .as_bytes()
                    .to_vec()
            }),
            starts: self.starts,
            predating: if first { self.predating.clone() } else { Vec::new() },
            hierarchy: "v2".into(),
            protection: Some(self.protection),
            collectors: self.collectors.clone(),
            binding: self
                .td
                .as_ref()
                .map(|td| td.binding(self.list.iter().map(Measurement::to_entry), first)),
            bpf_placed: self.bpf_placed,
        }
    }

    /// PCR 10 in `bank` as the TPM has it.
    pub fn pcr(&self, bank: Bank) -> Digest {
        self.list
            .iter()
            .enumerate()
            .filter(|(i, _)| !self.never_extended.contains(i))
            .fold(Digest::zero(bank), |pcr, (_, entry)| {
                pcr.extend(&if entry.violation {
                    Digest::ones(bank)
                } else {
                    self.bank_digest(entry, bank)
                })
            })
    }

    /// What the TPM would attest now.
    pub fn attestation(&self, nonce: &[u8]) -> Attest {
        let mut composite = Sha256::new();
        let mut selected = Vec::new();
        for bank in &self.banks {
            if let Some(boot) = &self.boot {
                for value in boot.registers(*bank).values() {
                    composite.update(value.bytes());
                }
                selected.extend(0..=9);
            }
            composite.update(self.pcr(*bank).bytes());
            selected.push(10);
        }
        selected.sort_unstable();
        selected.dedup();
        Attest {
            magic: 0xff54_4347,
            kind: 0x8018,
            extra: nonce.to_vec(),
            clock: self.clock,
            reset_count: self.reset_count,
            restart_count: self.restart_count,
            safe: true,
            selection: self.banks.iter().map(|bank| (*bank, selected.clone())).collect(),
            pcr_digest: composite.finalize().to_vec(),
        }
    }

    /// The TPM quotes.
    pub fn quote(&mut self, nonce: &[u8]) -> Quote {
        self.quote_with(nonce, |_| ())
    }

    /// The TPM quotes what `change` made of its attestation.
    pub fn quote_with(&mut self, nonce: &[u8], change: impl FnOnce(&mut Attest)) -> Quote {
        self.clock += 1_000;
        let mut attest = self.attestation(nonce);
        change(&mut attest);
        let attest = attest.to_bytes();
        Quote {
            signature: self.ak.sign(&attest),
            attest,
            ak: self.ak.public(),
        }
    }

    /// A whole request: seal with the nonce, read, quote, read the list.
    pub fn attest(&mut self, nonce: &[u8]) -> Evidence {
        if self.is_recorded() {
            self.seal(Some(nonce));
        }
        let quotes = self.quotes(nonce);
        self.evidence(quotes)
    }

    /// What signs for it: its TPM, its trust domain, or both.
    pub fn quotes(&mut self, nonce: &[u8]) -> Quotes {
        let tpm = self.has_tpm.then(|| self.quote(nonce));
        let td = self.td.as_ref().map(|td| {
            let name = tpm.as_ref().map(|quote| key_name(&quote.ak).unwrap());
            let last = self.checkpoints.last().unwrap();
            td.quote(nonce, last, &name.unwrap_or_default())
        });
        Quotes { tpm, td }
    }

    fn is_recorded(&self) -> bool {
        self.tier == Tier::Bpf || self.recorded
    }

    /// The evidence as the node stands, with this quote.
    pub fn evidence(&self, quote: impl Into<Quotes>) -> Evidence {
        let mut partitions: Vec<PartitionLog> = self
            .sealed
            .iter()
            .map(|(key, records)| PartitionLog {
                key: *key,
                records: records.clone(),
            })
            .collect();
        partitions.sort_by_key(|p| p.key.to_string());
        let recorded = self.is_recorded();
        Evidence {
            version: 1,
            tier: self.tier,
            node: NODE.into(),
            boot_id: self.boot_id,
            quote: quote.into(),
            list: self.list.iter().map(Measurement::to_entry).collect(),
            checkpoints: if recorded {
                self.checkpoints.iter().map(|c| c.file.clone()).collect()
            } else {
                Vec::new()
            },
            partitions: if recorded { partitions } else { Vec::new() },
            pods: self.pods.clone(),
            kernel: "6.12.0".into(),
            boot: self.boot_facts(),
            unsealed: if recorded { self.unsealed() } else { Vec::new() },
            in_flight: if recorded {
                self.in_flight.clone()
            } else {
                Vec::new()
            },
            td: self.td.as_ref().map(TrustDomain::evidence),
        }
    }

    /// What evidence says of the boot.
    fn boot_facts(&self) -> Option<Boot> {
        if !self.has_tpm {
            return self.td.as_ref().map(|td| Boot {
                registers: Vec::new(),
                log: None,
                command_line: Some(td.firmware.command_line.clone().into_bytes()),
            });
        }
        self.boot.as_ref().map(|boot| Boot {
            registers: self.banks.iter().map(|bank| boot.registers(*bank)).collect(),
            log: Some(boot.bytes()),
            command_line: Some(boot.command_line.clone().into_bytes()),
        })
    }

    /// What waits, as far as it is about the list.
    fn unsealed(&self) -> Vec<PartitionLog> {
        let mut logs: BTreeMap<String, PartitionLog> = BTreeMap::new();
        for (key, record) in &self.waiting {
            if matches!(record.kind, EventKind::Entry | EventKind::Violation) {
                let records = Vec::new();
                let log = logs.entry(key.to_string());
                let log = log.or_insert(PartitionLog { key: *key, records });
                log.records.push(record.clone());
            }
        }
        logs.into_values().collect()
    }

    /// The same node, started anew by a firmware that measures: `change` may interfere with what it measures.
    #[must_use]
    pub fn with_boot(mut self, change: impl FnOnce(&mut FirmwareLog)) -> Node {
        let mut log = FirmwareLog::good();
        change(&mut log);
        self.boot = Some(log);
        self.reboot();
        self.now = NOW;
        self
    }

    /// The same node, started anew in this trust domain, with its TPM or without.
    #[must_use]
    pub fn in_domain(mut self, domain: TrustDomain, has_tpm: bool) -> Node {
        if !has_tpm {
            self.extra_policy = self.extra_policy.replace("dangerous-boot-not-judged: true\n", "");
        }
        (self.td, self.has_tpm) = (Some(domain), has_tpm);
        self.reboot();
        self.now = NOW;
        self
    }
}
