//! Sinks: each gets its rounds whatever becomes of the others; what waits is on disk, what does not fit is
//! said.

use crate::common::{self, sink::PATIENCE, sink::stop, sink::until};
use cgpath_evidence::boot::{Boot, REGISTERS, Registers};
use cgpath_evidence::{Bank, Cursor, Digest, Entry, Evidence, EvidenceDelta, PartitionKey, Quote, Tier};
use cgpathd::config::{Config, Sink, SinkKind};
use cgpathd::deliver::sink::Sinks;
use cgpathd::request::{PodVerdicts, RequestError, Source};
use cgpathd::runtime::Names;
use cgpathd::store::{EvidenceFile, Header, Store};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::watch;

/// An engine that has a new entry and a new checkpoint at each request.
#[derive(Clone)]
struct Engine {
    store: Arc<Mutex<(Store, u8)>>,
    /// Bytes of each entry.
    size: usize,
}

impl Engine {
    fn new(dir: &Path, size: usize) -> Engine {
        std::fs::create_dir_all(dir).unwrap();
        Engine {
            store: Arc::new(Mutex::new((Store::create(dir).unwrap(), 0))),
            size,
        }
    }
}

impl Source for Engine {
    async fn evidence_after(
        &self,
        nonce: Vec<u8>,
        after: Option<Cursor>,
    ) -> Result<EvidenceFile, RequestError> {
        let mut store = self.store.lock().unwrap();
        store.1 += 1;
        let n = store.1;
        let store = &mut store.0;
        store.entry(&Entry::Full(vec![n; self.size])).unwrap();
        store.record(PartitionKey::Host, &record(n), false).unwrap();
        store.checkpoint(&[n; 90]).unwrap();
        let frozen = store.freeze();
        let header = Header {
            tier: Tier::Bpf,
            node: "n".into(),
            boot_id: [5; 16],
            kernel: "6.12".into(),
            pods: vec![],
            quote: Quote {
                attest: nonce,
                signature: vec![2],
                ak: vec![3],
            }
            .into(),
            boot: Boot {
                registers: vec![Registers::new(vec![Digest::zero(Bank::Sha256); REGISTERS]).unwrap()],
                log: None,
                command_line: None,
            },
            td: None,
        };
        Ok(store
            .assembly(&frozen, after.as_ref(), vec![], None)?
            .write(&header)?)
    }

    async fn apply_verdict(&self, _: PodVerdicts) -> Result<(), RequestError> {
        Ok(())
    }
}

/// A record in its encoded form.
fn record(n: u8) -> Vec<u8> {
    cgpath_evidence::Record {
        seq: n.into(),
        boot_ns: 1,
        kind: cgpath_evidence::EventKind::Execution,
        ret: 0,
        pcr: 0,
        digests: vec![],
        hash: None,
        path: vec![n],
        dev: 0,
        ino: 0,
        cgroup_id: 1,
        cgroup: None,
        pid: 1,
        uid: 0,
        mnt_ns: 0,
        pid_ns: 0,
        ancestry: vec![],
        ancestry_cut: false,
        path_cut: false,
        guard: None,
        pod_loss: None,
        identity: None,
        name: None,
        writable: false,
        load: None,
    }
    .to_cbor()
}

fn sink(name: &str, kind: SinkKind, to: &Path) -> Sink {
    Sink {
        spool: 1,
        ..common::sink::sink(name, kind, to.to_str().unwrap())
    }
}

fn config(dir: &Path, sinks: Vec<Sink>) -> Config {
    Config {
        state_dir: dir.join("state"),
        sink: sinks,
        ..Config::default()
    }
}

/// Payloads of a directory in order, each with its header.
fn delivered(dir: &Path) -> Vec<(serde_json::Value, Vec<u8>)> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    names.sort();
    names
        .iter()
        .map(|path| {
            let header: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let payload = std::fs::read(path.with_extension("cbor")).unwrap();
            assert_eq!(header["sha256"], hex::encode(Sha256::digest(&payload)));
            (header, payload)
        })
        .collect()
}

/// A receiver that acknowledges `messages` lines, none before `go` ends; gives their headers.
fn receiver(
    path: &Path,
    messages: usize,
    go: impl Future<Output = ()> + Send + 'static,
) -> tokio::task::JoinHandle<Vec<serde_json::Value>> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut seen = Vec::new();
        go.await;
        while seen.len() < messages {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let header: serde_json::Value = serde_json::from_str(&line).unwrap();
            stream
                .write_all(format!("{}\n", header["sequence"]).as_bytes())
                .await
                .unwrap();
            seen.push(header);
        }
        seen
    })
}

#[tokio::test]
async fn a_dead_and_a_slow_sink_delay_no_other_and_each_has_nonces_and_positions_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    let config = config(
        dir.path(),
        vec![
            sink("dead", SinkKind::Unix, &dir.path().join("nobody")),
            sink("slow", SinkKind::Unix, &dir.path().join("slow.sock")),
            sink("files", SinkKind::File, &files),
        ],
    );
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = receiver(&dir.path().join("slow.sock"), 1, async {
        let _ = wait.await;
    });
    let engine = Engine::new(&dir.path().join("engine"), 100);
    let sinks = Sinks::open(&config, "n", &Names::default()).unwrap();
    let (_stop, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    // Rounds of one and of the other are made by turns: neither is the other's clock.
    let status = until(&sinks, |status| {
        status[2].delivered >= 3 && status[0].waiting >= 3
    })
    .await;
    assert_eq!((status[0].delivered, status[0].dropped), (0, 0));
    assert!(status[0].error.is_some(), "{status:#?}");
    assert!(status[1].waiting >= 1 && status[1].delivered == 0, "{status:#?}");
    go.send(()).unwrap();

    // The first is whole, the others follow it: each names the one before, and nothing is left out.
    let all = delivered(&files);
    let mut whole = Evidence::from_cbor(&all[0].1).unwrap();
    let mut nonces = std::collections::BTreeSet::new();
    for (n, (header, payload)) in all.iter().enumerate() {
        assert_eq!(header["sequence"], n);
        assert!(nonces.insert(header["nonce"].to_string()));
        if n > 0 {
            let delta = EvidenceDelta::from_cbor(payload).unwrap();
            assert_eq!(header["format"], "part");
            assert_eq!(delta.from.entries as usize, whole.list.len());
            assert_eq!(delta.from.checkpoint as usize + 1, whole.checkpoints.len());
            assert_eq!(
                hex::encode(delta.from.base),
                all[n - 1].0["sha256"].as_str().unwrap()
            );
            whole.list.extend(delta.list);
            whole.checkpoints.extend(delta.checkpoints);
        }
    }
    let line = &slow.await.unwrap()[0];
    assert_eq!(
        (&line["format"], &line["sequence"]),
        (&"evidence".into(), &0.into())
    );
    assert!(nonces.insert(line["nonce"].to_string()), "a nonce of its own");
}

#[tokio::test]
async fn a_full_spool_drops_rounds_says_so_and_loses_nothing_that_they_would_have_reported() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("late.sock");
    let config = config(dir.path(), vec![sink("late", SinkKind::Unix, &socket)]);
    // One round fits into a MiB, two do not.
    let engine = Engine::new(&dir.path().join("engine"), 600 << 10);
    let sinks = Sinks::open(&config, "n", &Names::default()).unwrap();
    let (running, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    let status = until(&sinks, |status| status[0].dropped >= 2).await;
    assert_eq!(status[0].waiting, 1);
    assert!(status[0].waiting_bytes <= 1 << 20);
    stop(running, stopped).await;

    // Another collector goes on: what waited comes, and so does the number of what was dropped.
    drop(sinks);
    let sinks = Sinks::open(&config, "n", &Names::default()).unwrap();
    assert!(sinks.status()[0].dropped >= 2 && sinks.status()[0].waiting == 1);
    let seen = receiver(&socket, 1, std::future::ready(()));
    let (_stop, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    let seen = seen.await.unwrap();
    assert_eq!(
        (&seen[0]["sequence"], &seen[0]["dropped"]),
        (&0.into(), &0.into())
    );
    let status = until(&sinks, |status| status[0].delivered == 1).await;
    assert!(status[0].dropped >= 2, "{status:#?}");
}

#[tokio::test]
async fn what_was_kept_is_delivered_after_a_kill_and_a_round_that_was_being_written_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("late.sock");
    let config = config(dir.path(), vec![sink("late", SinkKind::Unix, &socket)]);
    let engine = Engine::new(&dir.path().join("engine"), 100);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let first = Sinks::open(&config, "n", &Names::default()).unwrap();
    let (_stop, stopped) = watch::channel(false);
    {
        let _inside = runtime.enter();
        first.start("n", &engine, &stopped);
    }
    until(&first, |status| status[0].waiting >= 3).await;
    // Nothing is asked to stop: the tasks end where they stand. What is at the disk that moment ends.
    let ended = tokio::task::spawn_blocking(|| runtime.shutdown_timeout(PATIENCE));
    ended.await.unwrap();
    let spool = config.state_dir.join("sinks/late");
    std::fs::write(spool.join("00000000000000ff.part"), b"half a mess").unwrap();

    let sinks = Sinks::open(&config, "n", &Names::default()).unwrap();
    let waiting = sinks.status()[0].waiting;
    assert!(waiting >= 3);
    assert!(!spool.join("00000000000000ff.part").exists());
    let seen = receiver(&socket, waiting as usize + 1, std::future::ready(()));
    let (_stop, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    let seen = seen.await.unwrap();
    let numbers: Vec<u64> = seen
        .iter()
        .map(|line| line["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(
        numbers,
        (0..=waiting).collect::<Vec<u64>>(),
        "none is missing and none comes twice"
    );
    assert!(
        seen[1..].iter().all(|line| line["format"] == "part"),
        "positions are kept, too"
    );
}

#[tokio::test]
async fn a_sink_that_acknowledges_another_message_gets_the_same_again() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("wrong.sock");
    let config = config(dir.path(), vec![sink("wrong", SinkKind::Unix, &socket)]);
    let listener = UnixListener::bind(&socket).unwrap();
    let engine = Engine::new(&dir.path().join("engine"), 100);
    let sinks = Sinks::open(&config, "n", &Names::default()).unwrap();
    let (_stop, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    let mut first = None;
    for answer in ["7\n", "\n", "0\n"] {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(first.get_or_insert_with(|| line.clone()), &line);
        assert_eq!(sinks.status()[0].delivered, 0);
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    until(&sinks, |status| status[0].delivered == 1).await;
}

#[tokio::test]
async fn a_directory_keeps_its_limit_and_the_newest_message() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    let small = Sink {
        keep: 1,
        whole_every: 1,
        ..sink("files", SinkKind::File, &files)
    };
    let engine = Engine::new(&dir.path().join("engine"), 300 << 10);
    let sinks = Sinks::open(&config(dir.path(), vec![small]), "n", &Names::default()).unwrap();
    let (running, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    until(&sinks, |status| status[0].delivered >= 3).await;
    stop(running, stopped).await;
    let last = sinks.status()[0].delivered - 1;
    let all = delivered(&files);
    let total: usize = all.iter().map(|(_, payload)| payload.len()).sum();
    assert!(total <= 1 << 20, "{total}");
    assert_eq!(all.last().unwrap().0["sequence"], last);
    assert!(all.iter().all(|(header, _)| header["format"] == "evidence"));
}

#[test]
fn a_spool_that_can_not_be_read_is_named_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(
        dir.path(),
        vec![sink("bad", SinkKind::Unix, &dir.path().join("s"))],
    );
    let spool = config.state_dir.join("sinks/bad");
    std::fs::create_dir_all(&spool).unwrap();
    std::fs::write(spool.join("state.json"), b"{\"next\": -1}").unwrap();
    let error = Sinks::open(&config, "n", &Names::default())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("bad") && error.contains("state.json"), "{error}");
}
