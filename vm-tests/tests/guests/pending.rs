//! What is covered by a quote before its record can be sealed has a name all the same: that of the pod it
//! belongs to.
//!
//! One guest of each kernel: first a crowd of threads in a pod that has hardly any processor time, so that
//! their records are late, then a pod that never stops executing what nobody accepts. A quiet pod stands
//! beside them.
//!
//! `CGPATH_SOAK=1` (`cargo xtask soak`) makes the crowd as large as is wanted once.

use cgpath_appraisal::State;
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::{Entry, EventKind, Evidence, PartitionKey, PodUid, Record, SealedCheckpoint};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_protocol::spec::Workload;
use vm_tests::oci::Image;
use vm_tests::pods::BARE_RUNTIME;
use vm_tests::scenario::{KnownPod, Node, Plan, Round, WORKLOADS};
use vm_tests::{PATIENCE, Process, Stock};

const CROWD: &str = "00000000-0000-4000-8000-0000000000c1";
const DRIP: &str = "00000000-0000-4000-8000-0000000000d1";
const QUIET: &str = "00000000-0000-4000-8000-0000000000e1";
/// What the quiet pod runs, and may run.
const SHARED: &str = "/opt/shared/report";

const SIGKILL: i32 = 9;
/// Rounds that are looked at before it is said that nobody was held up.
const MOST_CROWDED: usize = 60;

fn scaled(soak: u32, usual: u32) -> u32 {
    if std::env::var_os("CGPATH_SOAK").is_some() {
        soak
    } else {
        usual
    }
}

fn uid(pod: &str) -> PodUid {
    PodUid::parse(pod.as_bytes()).unwrap()
}

fn cgroup(pod: &str) -> String {
    format!("/kubepods/burstable/pod{pod}/{}", "0123456789abcdef".repeat(4))
}

/// What of a round stands behind its seal.
#[derive(Debug, Default, Clone, Copy)]
struct Behind {
    /// Entries that nothing but a mark can name.
    marked: usize,
    /// Records that are shown.
    unsealed: usize,
    /// Marks.
    marks: usize,
}

/// Each covered entry since the load has a record, sealed or shown, or there is an open mark for it; what is
/// shown is behind the last seal, and what was shown before is sealed as it was.
fn check(round: &Round, before: Option<&Evidence>) -> (Evidence, Behind) {
    let evidence = round.evidence().unwrap();
    let node = &round.verdict.node;
    let last = SealedCheckpoint::from_file(evidence.checkpoints.last().unwrap()).unwrap();
    let shown = || evidence.unsealed.iter().flat_map(|log| &log.records);
    for record in shown() {
        assert!(
            record.seq > last.checkpoint.last_seq,
            "{} is sealed already",
            record.seq
        );
        assert!(matches!(record.kind, EventKind::Entry | EventKind::Violation));
    }
    let records = || {
        evidence
            .partitions
            .iter()
            .flat_map(|log| &log.records)
            .chain(shown())
    };
    let digests: BTreeSet<&[u8]> = records()
        .filter(|record| record.kind == EventKind::Entry)
        .flat_map(|record| &record.digests)
        .map(|digest| digest.bytes())
        .collect();
    let entries = evidence.list.iter().enumerate();
    let young = entries
        .take(node.covered as usize)
        .skip(node.boot_entries as usize);
    let named = |(index, entry): &(usize, &Entry)| {
        let Entry::Full(bytes) = entry else {
            panic!("entry {index} is redacted")
        };
        let entry = ListEntry::from_canonical(*index as u64, bytes.as_slice()).unwrap();
        assert!(!entry.is_violation(), "entry {index}");
        digests.contains(entry.listed_digest())
    };
    let marked = young.filter(|entry| !named(entry)).count();
    assert!(
        marked <= evidence.in_flight.len(),
        "{marked} covered entries have no record, and there are {} marks",
        evidence.in_flight.len()
    );
    if let Some(before) = before {
        for log in &before.unsealed {
            let sealed: BTreeSet<Vec<u8>> = evidence.records(log.key).iter().map(Record::to_cbor).collect();
            for record in &log.records {
                assert!(
                    sealed.contains(&record.to_cbor()),
                    "{} was shown and is not sealed",
                    record.seq
                );
            }
        }
    }
    let behind = Behind {
        marked,
        unsealed: shown().count(),
        marks: evidence.in_flight.len(),
    };
    (evidence, behind)
}

fn begin<'vm>(node: &'vm Node, workload: &Workload, log: &str) -> Process<'vm> {
    let text = serde_json::to_string(workload).unwrap();
    let command = node.vm.command(&[BARE_RUNTIME, "workload", text.as_str()]);
    command.cgroup(WORKLOADS).spawn(log).unwrap()
}

fn end(process: &Process<'_>) {
    process.signal(SIGKILL).unwrap();
    process.ended().unwrap();
}

fn state(round: &Round, pod: &str) -> Option<State> {
    round.verdict.pod(uid(pod)).map(|pod| pod.state)
}

fn late_records(stock: Stock, threads: u32, crowded: usize, rounds: usize) {
    let begun = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new("localhost/test/pending:1").program("/app/idle", &elf::pause("pending"));
    let mut plan = Plan::restored(stock);
    plan.images = vec![image.clone()];
    plan.files = vec![(SHARED.to_owned(), elf::print("report\n"), 0o755)];
    plan.pods = [(CROWD, "test/crowd"), (DRIP, "test/drip"), (QUIET, "test/quiet")]
        .map(|(uid, name)| KnownPod {
            uid: uid.to_owned(),
            name: name.to_owned(),
            images: vec![image.name().to_owned()],
            host_paths: vec!["/opt/shared".to_owned()],
        })
        .to_vec();
    let node = Node::boot(plan, dir.path()).unwrap();
    let (_collector, first) = node.start_collector().unwrap();
    assert!(first.verdict.trusted, "{}", first.verdict);
    let report = Workload::Contain {
        cgroup: cgroup(QUIET),
        argv: vec![SHARED.to_owned()],
        root: None,
    };
    let report = begin(&node, &report, "/var/log/report.log");
    let ended = report.ended().unwrap();
    assert_eq!(ended.code, Some(0), "{}", report.log().unwrap());

    let crowd = Workload::Crowd {
        dir: "/var/tmp/crowd".to_owned(),
        cgroup: cgroup(CROWD),
        threads,
        quota_us: 1000,
    };
    let log = "/var/log/crowd.log";
    let crowd = begin(&node, &crowd, log);
    let started = Instant::now();
    while !crowd.log().unwrap_or_default().contains("threads") {
        let ended = crowd.wait(Duration::ZERO).unwrap();
        assert!(ended.is_none(), "{}", crowd.log().unwrap());
        assert!(started.elapsed() < PATIENCE, "the crowd does not begin");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut seen: Vec<Behind> = Vec::new();
    let mut before = None;
    // On a quick guest a round may meet nobody inside of IMA; so rounds go on until one has shown what it is
    // about.
    let held_up = |seen: &[Behind]| seen.iter().any(|behind| behind.marks > 1);
    while seen.len() < crowded || (!held_up(&seen) && seen.len() < MOST_CROWDED) {
        let round = node.next().unwrap();
        let (evidence, behind) = check(&round, before.as_ref());
        seen.push(behind);
        assert_eq!(round.verdict.node.state, State::Trusted, "{}", round.verdict);
        assert_eq!(state(&round, QUIET), Some(State::Trusted), "{}", round.verdict);
        before = Some(evidence);
    }
    end(&crowd);
    println!(
        "MEASURED {threads} threads under 1 ms of quota on {stock}: {} rounds, at most {} marks, {} records \
         shown, {} entries with neither in {:.1} s",
        seen.len(),
        seen.iter().map(|b| b.marks).max().unwrap(),
        seen.iter().map(|b| b.unsealed).sum::<usize>(),
        seen.iter().map(|b| b.marked).sum::<usize>(),
        started.elapsed().as_secs_f64()
    );
    assert!(held_up(&seen), "no thread was held up: the test shows nothing");

    let drip = Workload::Drip {
        dir: "/var/tmp/drip".to_owned(),
        cgroup: cgroup(DRIP),
        pause_ms: 5,
    };
    let drip = begin(&node, &drip, "/var/log/drip.log");
    let mut of_drip = BTreeSet::new();
    let started = Instant::now();
    let mut named = 0;
    while named < rounds {
        let round = node.next().unwrap();
        let (evidence, _) = check(&round, before.as_ref());
        assert_eq!(round.verdict.node.state, State::Trusted, "{}", round.verdict);
        assert_eq!(state(&round, QUIET), Some(State::Trusted), "{}", round.verdict);
        // It is named from the first round on in which it did something.
        let records = evidence.records(PartitionKey::Pod(uid(DRIP)));
        if named > 0 || !records.is_empty() {
            assert_eq!(state(&round, DRIP), Some(State::Untrusted), "{}", round.verdict);
            named += 1;
        }
        assert!(named > 0 || started.elapsed() < PATIENCE, "the pod does nothing");
        of_drip.extend(records.iter().map(|record| record.seq));
        before = Some(evidence);
    }
    assert!(
        of_drip.len() > rounds,
        "the pod did too little: the test shows nothing"
    );
    end(&drip);
    node.vm.power_off().unwrap();
    println!(
        "TIME pending on {stock}: {:.1} s, {} records of the pod that never stops",
        begun.elapsed().as_secs_f64(),
        of_drip.len()
    );
}

#[test]
fn a_late_record_is_its_pods_and_a_pod_that_never_stops_is_named_in_each_round_on_6_12() {
    late_records(Stock::V6_12, scaled(1000, 40), 3, scaled(50, 12) as usize);
}

#[test]
fn a_late_record_is_its_pods_and_a_pod_that_never_stops_is_named_in_each_round_on_6_1() {
    late_records(Stock::V6_1, scaled(1000, 40), 3, scaled(50, 12) as usize);
}
