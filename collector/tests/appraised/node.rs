//! A node made of software as the source of sinks, and what a far side does with what it gets.

use cgpath_appraisal::{Verdict, appraise};
use cgpath_evidence::{Cursor, Evidence, SealedCheckpoint};
use cgpath_testkit::{Actor, KeyKind, Node, delta_after, pod};
use cgpathd::config::{Config, Runtimes, Sink};
use cgpathd::request::{PodVerdicts, RequestError, Source};
use cgpathd::runtime::Names;
use cgpathd::store::EvidenceFile;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// All four pods of its policy run; at each request pod 1 runs its program once more.
#[derive(Clone)]
pub struct Engine(Arc<Mutex<(Node, BTreeMap<u64, Evidence>)>>, Names);

/// Bytes of a file's name in a record.
const LONG: usize = 4000;

impl Engine {
    pub fn new(names: &Names) -> Engine {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        for n in 1..=4 {
            node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
        }
        Engine(Arc::new(Mutex::new((node, BTreeMap::new()))), names.clone())
    }

    /// Makes evidence longer by about twice so many bytes: pod 2 runs its program with long lines of
    /// ancestors.
    pub fn pad(&self, bytes: usize) {
        let node = &mut self.0.lock().unwrap().0;
        let mut actor = Actor::pod(pod(2), "/bin/app");
        actor.exes.insert(1, vec![b'x'; LONG]);
        actor.exes[1][0] = b'/';
        for _ in 0..bytes / LONG {
            node.execute_good(&actor, "/bin/app");
        }
    }

    pub fn node(&self) -> Node {
        self.0.lock().unwrap().0.clone()
    }

    /// Judges evidence that answers `nonce`.
    pub fn verdict(&self, evidence: &Evidence, nonce: &[u8]) -> Verdict {
        let node = self.node();
        appraise(evidence, &node.policy(), &node.context(nonce, None)).unwrap()
    }
}

impl Source for Engine {
    async fn evidence_after(
        &self,
        nonce: Vec<u8>,
        after: Option<Cursor>,
    ) -> Result<EvidenceFile, RequestError> {
        let mut state = self.0.lock().unwrap();
        let (node, sent) = &mut *state;
        node.pods = self.1.infos();
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        let evidence = node.attest(&nonce);
        let kept = after.and_then(|from| Some((sent.get(&from.checkpoint)?, from)));
        let bytes = match &kept {
            Some((kept, from)) => delta_after(&evidence, kept, from.clone()).to_cbor(),
            None => evidence.to_cbor(),
        };
        let is_delta = kept.is_some();
        let last = SealedCheckpoint::from_file(evidence.checkpoints.last().unwrap()).unwrap();
        let number = last.checkpoint.number;
        let reached = Cursor {
            base: [0; 32],
            boot_id: evidence.boot_id,
            entries: evidence.list.len() as u64,
            checkpoint: number,
            digest: last.digest(),
        };
        sent.insert(number, evidence);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        Ok(EvidenceFile {
            file,
            len: bytes.len() as u64,
            is_delta,
            reached: Some(reached),
        })
    }

    async fn apply_verdict(&self, _: PodVerdicts) -> Result<(), RequestError> {
        Ok(())
    }
}

pub use crate::common::sink::{PATIENCE, sink, stop, until};

pub fn config(dir: &Path, sinks: Vec<Sink>) -> Config {
    Config {
        state_dir: dir.join("state"),
        sink: sinks,
        runtimes: Runtimes {
            cri: format!("unix://{}/cri.sock", dir.display()),
            ..Runtimes::default()
        },
        ..Config::default()
    }
}

/// A message as it arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub header: serde_json::Value,
    pub payload: Vec<u8>,
}

impl Arrived {
    pub fn new(header: serde_json::Value, payload: Vec<u8>) -> Arrived {
        assert_eq!(header["sha256"], hex::encode(Sha256::digest(&payload)));
        assert_eq!(header["length"], payload.len());
        Arrived { header, payload }
    }

    pub fn nonce(&self) -> Vec<u8> {
        hex::decode(self.header["nonce"].as_str().unwrap()).unwrap()
    }

    pub fn pod(&self) -> String {
        self.header["pod"].as_str().unwrap().to_owned()
    }
}

/// What a `file` sink has, in order.
pub fn files(dir: &Path) -> Vec<Arrived> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut headers: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
        .collect();
    headers.sort();
    let read = |path: &std::path::PathBuf| {
        let header = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        Arrived::new(header, std::fs::read(path.with_extension("cbor")).unwrap())
    };
    headers.iter().map(read).collect()
}
