//! `kill -9` in the middle of a stream of submissions: no verdict is lost and none is kept twice.

use super::site::{Client, Site, busy};
use cgpath_testkit::Node;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NODES: [&str; 3] = ["worker-a", "worker-b", "worker-c"];
/// Kills; `cargo xtask soak --step service` has 200.
const KILLS: u64 = 6;

/// How long answers may take before the test says that none come.
const PATIENCE: Duration = Duration::from_secs(300);

/// What one node knows of its submissions.
struct Sender {
    name: &'static str,
    node: Node,
    /// Nonces that were answered with a verdict.
    answered: BTreeSet<String>,
    /// What was sent when the service died: nobody knows yet whether it counts.
    open: Option<(String, Vec<u8>)>,
}

impl Sender {
    /// One round after the other until the service is gone.
    fn stream(&mut self, client: &Client, stop: &AtomicBool, total: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            let Ok(nonce) = client.nonce(self.name) else {
                return;
            };
            let evidence = self.node.attest(&nonce).to_cbor();
            let nonce = hex::encode(nonce);
            match client.submit(self.name, &evidence) {
                Ok(answer) => {
                    assert_eq!(answer.status, 200, "{}: {}", self.name, answer.text());
                    assert_eq!(answer.json()["trusted"], true, "{}", answer.text());
                    self.answered.insert(nonce);
                    total.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    self.open = Some((nonce, evidence));
                    return;
                }
            }
        }
    }

    /// Kept verdicts by nonce; each nonce must stand there once.
    fn kept(&self, client: &Client) -> BTreeMap<String, Value> {
        let mut kept = BTreeMap::new();
        let mut path = format!("/v1/nodes/{}/history", self.name);
        loop {
            let page = client.get(&path).json();
            for verdict in page["verdicts"].as_array().unwrap() {
                let nonce = verdict["nonce"].as_str().unwrap().to_owned();
                assert!(
                    kept.insert(nonce, verdict.clone()).is_none(),
                    "{}: kept twice",
                    self.name
                );
            }
            let Some(next) = page.get("next") else { return kept };
            path = format!("/v1/nodes/{}/history?before={next}", self.name);
        }
    }
}

#[test]
fn kill_9_loses_no_answered_verdict_and_doubles_none() {
    let site = Site::new();
    let mut senders: Vec<Sender> = NODES
        .into_iter()
        .map(|name| {
            let node = busy();
            site.enrol(&node, name);
            Sender {
                name,
                node,
                answered: BTreeSet::new(),
                open: None,
            }
        })
        .collect();
    let (mut kept_open, mut dropped_open) = (0, 0);
    // Everything that is answered must still be there at the end.
    let keep = ["--keep-verdicts", "1000000", "--keep-evidence", "100000"];
    let soak = std::env::var_os("CGPATH_SOAK").is_some();
    let kills = if soak { 200 } else { KILLS };
    let begun = Instant::now();
    for kill in 0..kills {
        let (server, client) = site.serve(&keep);
        let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for sender in &mut senders {
                let (client, stop, total) = (&client, &stop, &total);
                scope.spawn(move || sender.stream(client, stop, total));
            }
            // In the middle of the stream, and at another moment each time.
            let wanted = 2 * NODES.len() as u64 + kill % 7;
            let begun = Instant::now();
            while total.load(Ordering::Relaxed) < wanted {
                assert!(begun.elapsed() < PATIENCE, "{total:?} of {wanted} answers");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(37 * kill % 100));
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });

        let (server, client) = site.serve(&keep);
        let mut evidence = BTreeSet::new();
        for sender in &mut senders {
            let mut kept = sender.kept(&client);
            for nonce in &sender.answered {
                assert!(
                    kept.contains_key(nonce),
                    "{}: an answered verdict is lost",
                    sender.name
                );
            }
            // A sender that got no answer sends the same again: it counts once, now or before.
            if let Some((nonce, bytes)) = sender.open.take() {
                let counted = kept.contains_key(&nonce);
                let again = client.submit(sender.name, &bytes).unwrap();
                if counted {
                    assert_eq!(again.kind(), (403, "nonce".into()), "{}", again.text());
                    kept_open += 1;
                } else {
                    assert_eq!(again.status, 200, "{}", again.text());
                    assert_eq!(again.json()["trusted"], true, "{}", again.text());
                    dropped_open += 1;
                }
                sender.answered.insert(nonce);
                kept = sender.kept(&client);
            }
            assert_eq!(
                kept.keys().collect::<Vec<_>>(),
                sender.answered.iter().collect::<Vec<_>>()
            );
            evidence.extend(
                kept.values()
                    .map(|v| format!("{}.cbor", v["evidence"].as_str().unwrap())),
            );
        }
        // Every verdict has its evidence, complete, and nothing else lies there.
        let folder = site.store().join("evidence");
        let files: BTreeSet<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files, evidence);
        for file in &files {
            let hash = cgpath_testkit::sha256(&std::fs::read(folder.join(file)).unwrap());
            assert_eq!(*file, format!("{}.cbor", hex::encode(hash.bytes())));
        }
        assert_eq!(server.terminate(), Some(0));
    }
    let answered: usize = senders.iter().map(|s| s.answered.len()).sum();
    println!(
        "{kills} kills in {:.0} s, {answered} verdicts, {kept_open} kept without an answer, {dropped_open} \
         neither kept nor answered",
        begun.elapsed().as_secs_f64()
    );
    assert!(
        answered > NODES.len() * kills as usize,
        "too few submissions to mean anything: {answered}"
    );
}
