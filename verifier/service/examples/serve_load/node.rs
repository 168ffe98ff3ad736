//! A node made of software that goes on for a small price: a round costs what is new and two signatures, so
//! that a thousand of them leave a processor to the service.

use cgpath_evidence::merkle::Frontier;
use cgpath_evidence::partition::partitions_root;
use cgpath_evidence::{
    Cursor, Digest, EventKind, Evidence, EvidenceDelta, FileHash, PartitionKey, PartitionLog, PodUid, Record,
    SealedCheckpoint, merkle::Hash,
};
use cgpath_testkit::{Actor, AttestationKey, KeyKind, Measurement, Node, pod, sha256};
use p256::ecdsa::SigningKey;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Pods of each node.
pub const PODS: u8 = 4;

/// Content of the `n`th file of the host.
fn content(n: u64) -> Digest {
    sha256(&n.to_le_bytes())
}

fn path(n: u64) -> String {
    format!("/usr/lib/x86_64-linux-gnu/package-{}/lib{n}.so.6", n % 977)
}

/// The secret from which the keys of node `n` are made.
fn secret(n: u32, what: u8) -> Vec<u8> {
    [&[what][..], &n.to_be_bytes()].concat()
}

/// A node after its first round.
pub struct Simulated {
    /// Makes measurements and records; holds what is new and nothing else.
    node: Node,
    pcr: Digest,
    tree: BTreeMap<PartitionKey, Frontier>,
    last: SealedCheckpoint,
    entries: u64,
    records: u64,
    executions: u64,
    host_files: u64,
    apps: BTreeMap<PodUid, Digest>,
}

/// The name of node `n`.
pub fn name(n: u32) -> String {
    format!("node-{n:04}")
}

/// A node whose policy accepts `files` files of the host. One for all: keys and names do not matter to a
/// policy's files.
pub fn site(files: u64) -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    for n in 0..files {
        node.host_files.insert(path(n).into_bytes(), [content(n)].into());
    }
    node
}

/// The attestation key of node `n`.
pub fn key(n: u32) -> AttestationKey {
    AttestationKey::of(KeyKind::EcdsaP256, &secret(n, b'a'))
}

fn use_host_files(node: &mut Node, from: u64, to: u64) {
    let actor = Actor::host("/usr/lib/systemd/systemd");
    for n in from..to {
        let entry = Measurement::ima_ng(path(n).as_bytes(), &content(n));
        node.list.push(entry.clone());
        node.record_entry(&actor, path(n), &entry, 0);
    }
}

impl Simulated {
    /// Node `n` after a boot, with `entries` files of the host measured and four pods running; its first
    /// evidence answers `nonce`.
    pub fn boot(n: u32, site: &Node, entries: u64, nonce: &[u8]) -> (Simulated, Evidence) {
        let mut node = site.clone();
        node.ak = key(n);
        node.signing = SigningKey::from_slice(&Sha256::digest(secret(n, b'c'))).expect("a hash is a key");
        node.boot_id = Sha256::digest(secret(n, b'b'))[..16]
            .try_into()
            .expect("16 bytes of 32");
        node.load();
        let mut apps = BTreeMap::new();
        for p in 1..=PODS {
            node.execute_good(&Actor::pod(pod(p), "/bin/app"), "/bin/app");
            let files = &node.pod_files[&pod(p)][&b"/bin/app"[..]];
            apps.insert(pod(p), files.first().expect("a pod's file").clone());
        }
        use_host_files(&mut node, 0, entries);
        node.seal(None);
        let mut evidence = node.attest(nonce);
        evidence.node = name(n);
        let mut tree: BTreeMap<PartitionKey, Frontier> = BTreeMap::new();
        for log in &evidence.partitions {
            let frontier = tree.entry(log.key).or_default();
            log.records
                .iter()
                .for_each(|record| frontier.push(record.leaf_hash()));
        }
        let last = node.checkpoints.pop().expect("it was sealed");
        let simulated = Simulated {
            pcr: node.pcr(cgpath_evidence::Bank::Sha256),
            entries: node.list.len() as u64,
            records: last.checkpoint.records,
            executions: last.checkpoint.executions,
            tree,
            last,
            host_files: entries,
            apps,
            node: Node {
                list: Vec::new(),
                sealed: BTreeMap::new(),
                checkpoints: Vec::new(),
                host_files: BTreeMap::new(),
                pod_files: BTreeMap::new(),
                ..node
            },
        };
        (simulated, evidence)
    }

    /// Where a verifier is that keeps `base` as the last round's evidence.
    pub fn cursor(&self, base: Hash) -> Cursor {
        Cursor {
            base,
            boot_id: self.node.boot_id,
            entries: self.entries,
            checkpoint: self.last.checkpoint.number,
            digest: self.last.digest(),
        }
    }

    /// The next round: `new` files of the host are used for the first time and each pod runs its program
    /// again.
    pub fn round(&mut self, n: u32, new: u64, nonce: &[u8], base: Hash) -> EvidenceDelta {
        let from = self.cursor(base);
        let node = &mut self.node;
        use_host_files(node, self.host_files, self.host_files + new);
        self.host_files += new;
        for (uid, digest) in &self.apps {
            let actor = Actor::pod(*uid, "/bin/app");
            let hash = FileHash::Measured(digest.clone());
            node.record_execution(&actor, EventKind::Execution, "/bin/app", hash);
        }
        let mut logs: BTreeMap<PartitionKey, Vec<Record>> = BTreeMap::new();
        for (key, record) in node.waiting.drain(..) {
            self.tree.entry(key).or_default().push(record.leaf_hash());
            self.records += 1;
            self.executions += u64::from(record.is_execution());
            logs.entry(key).or_default().push(record);
        }
        let mut checkpoint = node.draft(Some(nonce));
        checkpoint.number = self.last.checkpoint.number + 1;
        checkpoint.previous = self.last.digest();
        checkpoint.list_len = self.entries + node.list.len() as u64;
        checkpoint.settled = checkpoint.list_len;
        checkpoint.records = self.records;
        checkpoint.executions = self.executions;
        checkpoint.partitions = self.tree.len() as u64;
        checkpoint.partitions_root = partitions_root(&self.tree);
        checkpoint.key = None;
        let sealed = SealedCheckpoint::seal(checkpoint, &node.signing);
        node.anchor(&sealed);
        for entry in &node.list {
            self.pcr = self.pcr.extend(&entry.extended(cgpath_evidence::Bank::Sha256));
        }
        let pcr = &self.pcr;
        let quote = node.quote_with(nonce, |attest| {
            attest.pcr_digest = Sha256::digest(pcr.bytes()).to_vec();
        });
        let list: Vec<_> = node.list.drain(..).map(|entry| entry.to_entry()).collect();
        self.entries += list.len() as u64;
        let mut partitions: Vec<PartitionLog> = logs
            .into_iter()
            .map(|(key, records)| PartitionLog { key, records })
            .collect();
        partitions.sort_by_cached_key(|log| log.key.to_string());
        let file = sealed.file.clone();
        self.last = sealed;
        EvidenceDelta {
            version: 1,
            tier: node.tier,
            node: name(n),
            boot_id: node.boot_id,
            quote: quote.into(),
            list,
            checkpoints: vec![file],
            partitions,
            pods: Vec::new(),
            kernel: "6.12.0".to_owned(),
            boot: None,
            from,
            unsealed: Vec::new(),
            in_flight: Vec::new(),
            td: None,
        }
    }
}
