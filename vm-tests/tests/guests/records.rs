//! What the records of a node say, compared with what its processes wrote down themselves and with IMA's own
//! list.
//!
//! One guest of each kernel serves all properties here: everything runs first, one round of evidence is
//! taken, and each test only reads it.

use super::per_kernel::PerKernel;
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::{
    Bank, Entry, EventKind, Evidence, FileHash, PartitionKey, PodUid, Record, SealedCheckpoint,
};
use std::collections::BTreeMap;
use std::time::Instant;
use vm_protocol::spec::{Burst, BurstRun, ChainLink, Program, Workload};
use vm_tests::Stock;
use vm_tests::scenario::{COLLECTOR, Node, Plan, WORKLOADS};

const POD_1: &str = "11111111-0000-4000-8000-000000000001";
const POD_2: &str = "22222222-0000-4000-8000-000000000002";
const GONE: &str = "33333333-0000-4000-8000-000000000003";

struct Facts {
    evidence: Evidence,
    failures: Vec<String>,
    lost: u64,
    unattributed: u64,
    chain: Vec<ChainLink>,
    burst: Burst,
    vanished: BurstRun,
    late: BurstRun,
    open_writers: BurstRun,
    tomtou: BurstRun,
    /// Exit code and output of `cgpathd check --json`.
    check: (Option<i32>, String),
    programs: Vec<Program>,
}

/// Pods that start at once, and how many libraries each maps.
const STARTED: usize = 12;
const LIBRARIES: u32 = 400;

fn started(number: usize) -> String {
    format!("44444444-0000-4000-8000-0000000000{number:02}")
}

fn container(pod: &str) -> String {
    format!("/kubepods/burstable/pod{pod}/{}", "0123456789abcdef".repeat(4))
}

fn gather(stock: Stock) -> anyhow::Result<Facts> {
    let begin = Instant::now();
    let dir = tempfile::tempdir()?;
    let node = Node::boot(Plan::restored(stock), dir.path())?;
    let (_collector, _) = node.start_collector()?;
    let in_dir = |name: &str| format!("/var/tmp/{name}");
    let chain = node.work(&Workload::Chain { dir: in_dir("chain") })?;
    let cgroups = vec![container(POD_1), WORKLOADS.to_owned(), container(POD_2)];
    let burst = node.work(&Workload::Burst {
        dir: in_dir("burst"),
        count: 150,
        cgroups,
    })?;
    let vanished = node.work(&Workload::Vanish {
        dir: in_dir("gone"),
        cgroup: container(GONE),
    })?;
    node.work::<()>(&Workload::AnonymousExec)?;
    node.work::<()>(&Workload::PageZero { dir: in_dir("zero") })?;
    let late = node.work(&Workload::LateMapping { dir: in_dir("late") })?;
    let open_writers = node.work(&Workload::OpenWriters {
        dir: in_dir("writers"),
    })?;
    let tomtou = node.work(&Workload::TomTou {
        dir: in_dir("tomtou"),
    })?;
    node.work::<()>(&Workload::StartAtOnce {
        dir: in_dir("start"),
        libraries: LIBRARIES,
        cgroups: (0..STARTED).map(|number| container(&started(number))).collect(),
    })?;
    let check = node
        .vm
        .command(&[COLLECTOR, "check", "--json"])
        .cgroup("/system.slice/check.service")
        .run()?;
    let round = node.fresh()?;
    // After the last round: a process that opens the collector's programs is reported.
    let programs = node.work(&Workload::Programs {
        pins: "/sys/fs/bpf/ima-cgpath".to_owned(),
    })?;
    let facts = Facts {
        evidence: round.evidence()?,
        failures: round
            .verdict
            .failures()
            .map(|f| format!("{} {f}", f.rule))
            .collect(),
        lost: round.verdict.node.lost,
        unattributed: round.verdict.node.unattributed,
        chain,
        burst,
        vanished,
        late,
        open_writers,
        tomtou,
        check: (check.code(), check.text() + &check.errors()),
        programs,
    };
    node.vm.power_off()?;
    println!(
        "TIME records on {stock}: {:.1} s for all of them",
        begin.elapsed().as_secs_f64()
    );
    Ok(facts)
}

fn facts(stock: Stock) -> &'static Facts {
    static FACTS: PerKernel<Facts> = PerKernel::new();
    FACTS.of(stock, gather)
}

impl Facts {
    fn records(&self) -> impl Iterator<Item = &Record> {
        self.evidence.partitions.iter().flat_map(|log| &log.records)
    }

    fn about(&self, path: &str) -> Vec<&Record> {
        self.records().filter(|r| r.path == path.as_bytes()).collect()
    }

    fn last_checkpoint(&self) -> cgpath_evidence::Checkpoint {
        let file = self.evidence.checkpoints.last().unwrap();
        SealedCheckpoint::from_file(file).unwrap().checkpoint
    }

    fn list(&self) -> Vec<ListEntry<&[u8]>> {
        let mut list = Vec::new();
        for (index, entry) in self.evidence.list.iter().enumerate() {
            match entry {
                Entry::Full(bytes) => {
                    list.push(ListEntry::from_canonical(index as u64, bytes.as_slice()).unwrap())
                }
                Entry::Opaque { .. } => panic!("entry {index} is redacted"),
            }
        }
        list
    }
}

/// Exactly one record of `kind` for this use of a file, in this cgroup and this partition.
fn the_one<'a>(facts: &'a Facts, kind: EventKind, run: &BurstRun, key: PartitionKey) -> &'a Record {
    let found: Vec<&Record> = facts
        .about(&run.path)
        .into_iter()
        .filter(|r| r.kind == kind)
        .collect();
    assert_eq!(found.len(), 1, "{kind:?} of {}", run.path);
    assert_eq!(
        found[0].cgroup.as_deref(),
        Some(run.cgroup.as_bytes()),
        "cgroup of {}",
        run.path
    );
    let partition = facts.evidence.records(key);
    assert!(
        partition.iter().any(|r| r.seq == found[0].seq),
        "{} is not in partition {key}",
        run.path
    );
    found[0]
}

fn partition_of(cgroup: &str) -> PartitionKey {
    let uid = [POD_1, POD_2, GONE].into_iter().find(|uid| cgroup.contains(uid));
    uid.and_then(|uid| PodUid::parse(uid.as_bytes()))
        .map_or(PartitionKey::Host, PartitionKey::Pod)
}

fn sha256_of(record: &Record) -> String {
    match &record.hash {
        Some(FileHash::Measured(digest)) => hex::encode(digest.bytes()),
        other => format!("{other:?}"),
    }
}

fn nothing_is_lost_or_unattributed(stock: Stock) {
    let facts = facts(stock);
    assert_eq!((facts.lost, facts.unattributed), (0, 0), "{:?}", facts.failures);
    // Programs that no policy knows were run on purpose; nothing else may be wrong.
    let wrong: Vec<_> = facts
        .failures
        .iter()
        .filter(|f| {
            !["V8 ", "V9 ", "V11 ", "V12 "]
                .iter()
                .any(|rule| f.starts_with(rule))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn every_entry_since_the_load_has_exactly_one_record_and_the_other_way_round(stock: Stock) {
    let facts = facts(stock);
    let last = facts.last_checkpoint();
    let mut recorded: BTreeMap<Vec<u8>, Vec<&Record>> = BTreeMap::new();
    for record in facts
        .records()
        .filter(|r| r.kind == EventKind::Entry && r.ret == 0)
    {
        let digest = record.digests.iter().find(|d| d.bank() == Bank::Sha256);
        let digest = digest.unwrap_or_else(|| panic!("record {} has no sha256", record.seq));
        recorded.entry(digest.bytes().to_vec()).or_default().push(record);
    }
    let list = facts.list();
    let mut since_load = 0;
    let mut violations = 0;
    for entry in &list[last.boot_len as usize..] {
        if entry.is_violation() {
            violations += 1;
            continue;
        }
        let found = recorded
            .remove(entry.template_digest(Bank::Sha256).bytes())
            .unwrap_or_default();
        let name = String::from_utf8_lossy(entry.file_name().unwrap_or_default()).into_owned();
        if entry.index() < last.settled {
            assert_eq!(found.len(), 1, "records of entry {} ({name})", entry.index());
            since_load += 1;
        } else {
            // Too new for this evidence: at most the last checkpoint and what came while it was sealed.
            assert!(found.len() <= 1, "records of entry {} ({name})", entry.index());
        }
        for record in found {
            assert_eq!(
                record.path,
                entry.file_name().unwrap_or_default(),
                "entry {}",
                entry.index()
            );
        }
    }
    assert!(
        recorded.is_empty(),
        "records of entries that are not in the list: {recorded:?}"
    );
    assert!(since_load > 150, "only {since_load} entries since the load");
    assert_eq!(
        facts.records().filter(|r| r.kind == EventKind::Violation).count(),
        violations
    );
}

fn each_program_of_a_burst_is_recorded_once_in_its_own_partition(stock: Stock) {
    let facts = facts(stock);
    assert_eq!(facts.burst.runs.len(), 150);
    for run in &facts.burst.runs {
        let record = the_one(facts, EventKind::Execution, run, partition_of(&run.cgroup));
        assert_eq!(sha256_of(record), run.sha256, "{}", run.path);
        let entry = the_one(facts, EventKind::Entry, run, partition_of(&run.cgroup));
        assert_eq!(entry.ret, 0, "{}", run.path);
    }
}

fn ancestry_is_what_the_processes_wrote_down(stock: Stock) {
    let facts = facts(stock);
    assert_eq!(facts.chain.len(), 5);
    for link in &facts.chain {
        let own = &link.lineage[0];
        let record = facts
            .records()
            .find(|r| r.kind == EventKind::Execution && r.ancestry.first().is_some_and(|a| a.tgid == own.pid))
            .unwrap_or_else(|| panic!("no execution of level {}, pid {}", link.level, own.pid));
        assert!(!record.ancestry_cut);
        let seen: Vec<_> = record
            .ancestry
            .iter()
            .map(|a| {
                let exe = String::from_utf8_lossy(&a.exe).into_owned();
                (a.tgid, a.start_ns / 10_000_000, exe, a.dev, a.ino)
            })
            .collect();
        let written: Vec<_> = link
            .lineage
            .iter()
            .map(|p| (p.pid, p.start_ticks, p.exe.clone(), p.dev, p.ino))
            .collect();
        assert_eq!(seen, written, "level {}", link.level);
    }
    let script = &facts.chain[2];
    let records = facts.about(&script.started_as);
    let scripts: Vec<_> = records.iter().filter(|r| r.kind == EventKind::Script).collect();
    assert_eq!(scripts.len(), 1, "{records:?}");
    assert!(
        matches!(scripts[0].hash, Some(FileHash::PreCheck(_))),
        "{:?}",
        scripts[0].hash
    );
}

fn a_pod_whose_cgroup_is_gone_at_once_is_still_attributed(stock: Stock) {
    let facts = facts(stock);
    let record = the_one(facts, EventKind::Execution, &facts.vanished, partition_of(GONE));
    assert_eq!(sha256_of(record), facts.vanished.sha256);
    the_one(facts, EventKind::Entry, &facts.vanished, partition_of(GONE));
}

/// With the budget as it is shipped.
fn twelve_pods_that_start_at_once_with_400_libraries_each_meet_no_limit(stock: Stock) {
    let facts = facts(stock);
    assert_eq!(facts.lost, 0, "{:?}", facts.failures);
    let losses: Vec<_> = facts.records().filter(|r| r.pod_loss.is_some()).collect();
    assert!(losses.is_empty(), "{losses:?}");
    for number in 0..STARTED {
        let uid = PodUid::parse(started(number).as_bytes()).unwrap();
        let records = facts.evidence.records(PartitionKey::Pod(uid));
        let of_libraries = records.iter().filter(|r| r.path.starts_with(b"/lib/"));
        let count = |kind| of_libraries.clone().filter(|r| r.kind == kind).count();
        // Each overlay has inodes of its own, so IMA tries to add each file for each pod.
        let seen = (count(EventKind::Mapping), count(EventKind::Entry));
        assert_eq!(seen, (LIBRARIES as usize, LIBRARIES as usize), "pod {number}");
    }
}

fn mappings_without_a_file_give_no_record_and_do_no_harm(stock: Stock) {
    let facts = facts(stock);
    let odd: Vec<_> = facts
        .records()
        .filter(|r| matches!(r.kind, EventKind::Mapping | EventKind::LateMapping))
        .filter(|r| r.ino == 0 || r.path.is_empty())
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    // What the workload did after its mappings, and after it, is there.
    assert!(!facts.about("/var/tmp/zero/page-zero").is_empty());
}

fn a_mapping_that_turns_executable_later_is_recorded(stock: Stock) {
    let facts = facts(stock);
    the_one(facts, EventKind::LateMapping, &facts.late, PartitionKey::Host);
    let measured = facts
        .about(&facts.late.path)
        .into_iter()
        .any(|r| r.kind == EventKind::Entry);
    assert!(
        !measured,
        "IMA saw the mapping: the test no longer shows what it is for"
    );
}

/// What the node runs all the time, and a mapping that is the one after the other.
fn no_usual_mapping_is_writable_and_executable_at_once(stock: Stock) {
    let writable: Vec<_> = facts(stock).records().filter(|r| r.writable).collect();
    assert!(writable.is_empty(), "{writable:?}");
}

fn violations_are_recorded_with_whoever_caused_them(stock: Stock) {
    let facts = facts(stock);
    for run in [&facts.open_writers, &facts.tomtou] {
        let record = the_one(facts, EventKind::Violation, run, PartitionKey::Host);
        assert!(record.digests.iter().all(|d| d.is_zero()), "{:?}", record.digests);
    }
}

fn check_finds_each_precondition_met_on_a_node_that_works(stock: Stock) {
    let (code, said) = &facts(stock).check;
    let report: serde_json::Value =
        serde_json::from_str(said).unwrap_or_else(|e| panic!("{e} in what check printed: {said}"));
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() > 20, "{said}");
    let wrong: Vec<_> = rows
        .iter()
        .filter(|row| row["state"] != "ok" && row["state"] != "warn")
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(*code, Some(0));
}

/// A kernel's limit is a million instructions for a program; long before, loading takes noticeably longer. A
/// change of a program's count by more than a tenth changes the committed one with it, where a reviewer sees
/// it.
fn programs_are_verified_in_about_as_many_instructions_as_written_down(stock: Stock) {
    let committed = include_str!("../verified-instructions.txt");
    let written: BTreeMap<&str, u64> = committed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix(&stock.to_string())?.strip_prefix(' '))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    let found = &facts(stock).programs;
    let lines: String = found
        .iter()
        .map(|program| format!("{stock} {} {}\n", program.name, program.instructions))
        .collect();
    let names: Vec<&str> = found.iter().map(|program| program.name.as_str()).collect();
    assert!(
        names.iter().eq(written.keys()),
        "other programs than written down; found:\n{lines}"
    );
    for program in found {
        let (now, then) = (program.instructions, written[program.name.as_str()]);
        assert!(
            now.abs_diff(then) * 10 <= then,
            "{}: {now} instructions, {then} are written down; found:\n{lines}",
            program.name
        );
    }
}

macro_rules! on {
    ($module:ident, $stock:expr, $($property:ident),* $(,)?) => {
        mod $module {
            use super::*;
            $(#[test] fn $property() { super::$property($stock); })*
        }
    };
}

macro_rules! on_each_kernel {
    ($($property:ident),* $(,)?) => {
        on!(stock_6_12, Stock::V6_12, $($property),*);
        on!(stock_6_1, Stock::V6_1, $($property),*);
    };
}

on_each_kernel!(
    nothing_is_lost_or_unattributed,
    every_entry_since_the_load_has_exactly_one_record_and_the_other_way_round,
    each_program_of_a_burst_is_recorded_once_in_its_own_partition,
    ancestry_is_what_the_processes_wrote_down,
    a_pod_whose_cgroup_is_gone_at_once_is_still_attributed,
    twelve_pods_that_start_at_once_with_400_libraries_each_meet_no_limit,
    mappings_without_a_file_give_no_record_and_do_no_harm,
    a_mapping_that_turns_executable_later_is_recorded,
    no_usual_mapping_is_writable_and_executable_at_once,
    violations_are_recorded_with_whoever_caused_them,
    check_finds_each_precondition_met_on_a_node_that_works,
    programs_are_verified_in_about_as_many_instructions_as_written_down,
);
