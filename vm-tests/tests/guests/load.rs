//! Nothing is lost under load and through failures, or it is lost by number.
//!
//! `CGPATH_SOAK=1` (`cargo xtask soak`) makes the bursts and the number of kills those that are wanted once;
//! without it they are as large as a test run has time for.

use crate::burst::Running;
use cgpath_appraisal::{Rule, Severity, State, Verdict};
use cgpath_evidence::EventKind;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vm_protocol::spec::{Burst, Workload};
use vm_tests::scenario::{self, COLLECTOR_LOG, Node, Plan, Round, WORKLOADS};
use vm_tests::{PATIENCE, Stock};

const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// What the execution of a new static program leaves: IMA's entry, the execution, and the mapping of its
/// code.
const KINDS: [EventKind; 3] = [EventKind::Entry, EventKind::Execution, EventKind::Mapping];

/// What is wanted once, or what a test run has time for.
fn scaled(soak: u32, usual: u32) -> u32 {
    if std::env::var_os("CGPATH_SOAK").is_some() {
        soak
    } else {
        usual
    }
}

/// Eight cgroups: pods by both drivers' names, nested ones, the host's.
fn cgroups() -> Vec<String> {
    let container = "0123456789abcdef".repeat(4);
    let uid = |n: u32| format!("00000000-0000-4000-8000-0000000000{n:02}");
    let flat = |n: u32| uid(n).replace('-', "_");
    vec![
        format!("/kubepods/burstable/pod{}/{container}", uid(1)),
        format!("/kubepods/besteffort/pod{}/{container}", uid(2)),
        format!("/kubepods/pod{}/{container}", uid(3)),
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{container}.scope",
            flat(4)
        ),
        format!(
            "/kubepods.slice/kubepods-pod{}.slice/crio-{container}.scope",
            flat(5)
        ),
        format!("/kubepods/burstable/pod{}/{container}/nested/twice", uid(6)),
        WORKLOADS.to_owned(),
        "/system.slice/other.service".to_owned(),
    ]
}

fn burst(count: u32) -> Workload {
    Workload::Burst {
        dir: "/var/tmp/burst".to_owned(),
        count,
        cgroups: cgroups(),
    }
}

/// A record of a file: its kind and its cgroup.
type Seen<'a> = (EventKind, Option<&'a [u8]>);

/// Every run of the burst has exactly one record of each kind, in the cgroup it ran in, and the chain is
/// unbroken.
fn nothing_lost_nothing_doubled(round: &Round, burst: &Burst) {
    assert_eq!(round.broken(), Vec::<String>::new());
    assert_eq!((round.verdict.node.lost, round.verdict.node.unattributed), (0, 0));
    for (at, checkpoint) in round.checkpoints().unwrap().iter().enumerate() {
        assert_eq!(checkpoint.number, at as u64);
    }
    let evidence = round.evidence().unwrap();
    let mut seen: BTreeMap<&[u8], Vec<Seen<'_>>> = BTreeMap::new();
    for record in evidence.partitions.iter().flat_map(|p| &p.records) {
        let path = seen.entry(&record.path).or_default();
        path.push((record.kind, record.cgroup.as_deref()));
    }
    for run in &burst.runs {
        let mut found = seen.remove(run.path.as_bytes()).unwrap_or_default();
        found.sort();
        let cgroup = Some(run.cgroup.as_bytes());
        let wanted = KINDS.map(|kind| (kind, cgroup));
        assert!(
            found == wanted,
            "records of {} in {}: {:?}",
            run.path,
            run.cgroup,
            found.iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        );
    }
}

fn node(stock: Stock, dir: &std::path::Path, settings: &[&str]) -> Node {
    let mut plan = Plan::restored(stock);
    plan.settings = settings.iter().map(|s| (*s).to_owned()).collect();
    Node::boot(plan, dir).unwrap()
}

fn whole_burst(stock: Stock, kernel_args: &str, count: u32) {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::new(stock);
    plan.kernel_args = kernel_args.to_owned();
    plan.restored = kernel_args.is_empty();
    let node = Node::boot(plan, dir.path()).unwrap();
    let _collector = node.start_collector().unwrap();
    let done: Burst = node.work(&burst(count)).unwrap();
    assert_eq!(done.runs.len() as u32, count);
    let round = node.fresh().unwrap();
    println!(
        "MEASURED burst on {stock}: {count} new programs in 8 cgroups, {:.1} ms each, {} records, lost {}, \
         unattributed {}",
        done.millis as f64 / f64::from(count),
        round.verdict.node.records,
        round.verdict.node.lost,
        round.verdict.node.unattributed
    );
    nothing_lost_nothing_doubled(&round, &done);
    node.vm.power_off().unwrap();
}

#[test]
fn a_burst_of_new_programs_in_eight_cgroups_is_recorded_whole_on_6_12() {
    whole_burst(Stock::V6_12, "", scaled(10_000, 1_000));
}

#[test]
fn a_burst_of_new_programs_in_eight_cgroups_is_recorded_whole_on_6_1() {
    whole_burst(Stock::V6_1, "", scaled(2_000, 400));
}

#[test]
fn a_burst_of_new_programs_in_eight_cgroups_is_recorded_whole_on_7_3_with_full_preemption() {
    whole_burst(Stock::V7_3, "preempt=full", scaled(2_000, 400));
}

#[test]
fn with_a_tiny_ring_the_signed_loss_is_exactly_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(Stock::V6_12, dir.path(), &["bpf.ring_bytes=65536"]);
    let (collector, _) = node.start_collector().unwrap();
    collector.signal(SIGSTOP).unwrap();
    // The host's alone: a pod's budget is within half of the ring.
    let of_host = Workload::Burst {
        dir: "/var/tmp/burst".to_owned(),
        count: 200,
        cgroups: vec![WORKLOADS.to_owned()],
    };
    let done: Burst = node.work(&of_host).unwrap();
    collector.signal(SIGCONT).unwrap();
    let round = node.fresh().unwrap();
    let evidence = round.evidence().unwrap();
    let last = round.checkpoints().unwrap().pop().unwrap();
    let recorded: BTreeSet<u64> = evidence
        .partitions
        .iter()
        .flat_map(|p| &p.records)
        .map(|r| r.seq)
        .collect();
    let missing = (1..=last.last_seq).filter(|seq| !recorded.contains(seq)).count() as u64;
    // Cgroups are made and removed by records that are in no partition; they have numbers, too.
    let missing_runs = done
        .runs
        .iter()
        .flat_map(|run| KINDS.map(|kind| (run, kind)))
        .filter(|(run, kind)| {
            !evidence
                .partitions
                .iter()
                .flat_map(|p| &p.records)
                .any(|r| r.kind == *kind && r.path == run.path.as_bytes())
        })
        .count() as u64;
    println!(
        "MEASURED tiny ring: {} numbers handed out, {missing} without a record in a partition, \
         {missing_runs} of them of the burst, signed loss {}",
        last.last_seq,
        last.losses.total()
    );
    assert!(
        missing_runs > 0,
        "the burst fitted into the ring: the test shows nothing"
    );
    assert_eq!(last.losses.total(), last.losses.reserve, "{:?}", last.losses);
    assert_eq!(last.losses.reserve, missing_runs);
    assert_eq!(round.verdict.node.lost, missing_runs);
    assert_eq!(round.verdict.node.state, State::Untrusted);
    assert!(
        round.verdict.failures().any(|f| f.rule == Rule::Losses),
        "{}",
        round.verdict
    );
    node.vm.power_off().unwrap();
}

#[test]
fn killed_at_many_instants_of_a_burst_nothing_is_lost_or_doubled() {
    let kills = scaled(50, 6);
    let dir = tempfile::tempdir().unwrap();
    let node = node(Stock::V6_12, dir.path(), &[]);
    let (mut collector, _) = node.start_collector().unwrap();
    let count = scaled(6_000, 800);
    let running = Running::begin(&node, &burst(count), count).unwrap();
    // Instants of the burst, not of the clock: one in each equal share of it, where a generator with a fixed
    // seed says.
    let share = u64::from(count / (kills + 1));
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut in_burst = 0;
    for number in 0..u64::from(kills) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        running
            .until_executed(&node, number * share + state % share)
            .unwrap();
        in_burst += u32::from(running.goes_on().unwrap());
        collector.signal(SIGKILL).unwrap();
        collector.ended().unwrap();
        collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    }
    let done = running.end().unwrap();
    println!(
        "MEASURED kills: {in_burst} of {kills} while the burst of {} ran",
        done.runs.len()
    );
    assert!(
        in_burst * 2 > kills,
        "only {in_burst} of {kills} kills met the burst"
    );
    let round = node.fresh().unwrap();
    nothing_lost_nothing_doubled(&round, &done);
    let starts = round.checkpoints().unwrap().last().unwrap().starts;
    assert!(starts > 1 && starts <= kills + 1, "{starts} starts");
    node.vm.power_off().unwrap();
}

/// Runs a burst while something is wrong, makes it right again, and wants all records; gives the collector's
/// log and the verdict.
fn through(
    settings: &[&str],
    prepare: impl FnOnce(&Node),
    spoil: impl FnOnce(&Node),
    mend: impl FnOnce(&Node),
    count: u32,
) -> (String, Verdict) {
    let dir = tempfile::tempdir().unwrap();
    let node = node(Stock::V6_12, dir.path(), settings);
    prepare(&node);
    let _collector = node.start_collector().unwrap();
    spoil(&node);
    let done: Burst = node.work(&burst(count)).unwrap();
    mend(&node);
    let round = node.fresh().unwrap();
    let log = node.vm.get_text(COLLECTOR_LOG).unwrap();
    nothing_lost_nothing_doubled(&round, &done);
    node.vm.power_off().unwrap();
    (log, round.verdict)
}

#[test]
fn a_full_disk_loses_nothing_and_is_named() {
    let (log, _) = through(
        &[],
        |node| {
            node.vm
                .sh("mkdir -p /var/lib/ima-cgpath && mount -t tmpfs -o size=2m tmpfs /var/lib/ima-cgpath")
                .map(drop)
                .unwrap();
        },
        |node| {
            // What is left takes a few of the burst's records.
            let fill = "dd if=/dev/zero of=/var/lib/ima-cgpath/full bs=4k 2>/dev/null || truncate -s -16k \
                /var/lib/ima-cgpath/full";
            node.vm.sh(fill).map(drop).unwrap();
        },
        |node| {
            node.vm.sh("rm /var/lib/ima-cgpath/full").map(drop).unwrap();
        },
        300,
    );
    assert!(
        log.contains("No space left on device"),
        "the log does not say why:\n{log}"
    );
}

#[test]
fn with_the_verifier_away_for_a_whole_burst_nothing_is_lost() {
    let (log, _) = through(
        &["verifier.max_backoff=3"],
        |_| {},
        |node| node.site.stop_server(),
        |node| node.site.start_server().unwrap(),
        300,
    );
    assert!(log.contains("refused"), "the log does not say why:\n{log}");
}

#[test]
fn a_clock_that_is_set_back_loses_nothing() {
    through(
        &["verifier.max_backoff=3"],
        |_| {},
        |node| {
            node.vm
                .sh("date -s \"$(date -d '2 hours ago')\"")
                .map(drop)
                .unwrap()
        },
        |_| {},
        200,
    );
}

#[test]
fn a_tpm_that_is_busy_loses_nothing() {
    let tpm = |node: &Node, signal| {
        let pid = nix::unistd::Pid::from_raw(node.vm.tpm_pid().unwrap() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    };
    let begin = Instant::now();
    through(
        &["verifier.max_backoff=3"],
        |_| {},
        |node| {
            // It stops for a moment in the middle of whatever is asked of it, twenty times over. Kernels give
            // an extension 750 ms (TPM2_DURATION_MEDIUM in include/linux/tpm.h) and leave it out then, for
            // good: far from that, since a busy machine sleeps longer than it is asked to.
            for _ in 0..20 {
                tpm(node, nix::sys::signal::Signal::SIGSTOP);
                std::thread::sleep(Duration::from_millis(300));
                tpm(node, nix::sys::signal::Signal::SIGCONT);
                std::thread::sleep(Duration::from_millis(150));
            }
        },
        |_| {},
        200,
    );
    assert!(begin.elapsed() > Duration::from_secs(8));
}

/// TPM2_CreatePrimary in the null hierarchy, of a key for HMAC: nothing of it outlives the TPM's next reset.
/// TPM 2.0 Library, Part 3, 24.1.
const CREATE_PRIMARY: [&str; 6] = [
    // TPM_ST_SESSIONS, size, command, TPM_RH_NULL.
    "8002 00000039 00000131 40000007",
    // An empty password.
    "00000009 40000009 0000 00 0000",
    // No secret and no data of the caller's.
    "0004 0000 0000",
    // TPMT_PUBLIC: KEYEDHASH, SHA-256, fixed | origin | user | sign, no policy.
    "0010 0008 000b 00040072 0000",
    // HMAC with SHA-256, no unique value.
    "0005 000b 0000",
    // No outside information, no registers.
    "0000 00000000",
];

/// TPM_RC_OBJECT_MEMORY: no slot for another object.
const OBJECT_MEMORY: &str = "00000902";

/// Makes objects until the TPM has no slot for another one; gives their handles (hex).
fn fill_tpm(node: &Node) -> Vec<String> {
    let commands = vec![CREATE_PRIMARY.concat().replace(' ', ""); 16];
    let answers: Vec<String> = node.work(&Workload::Tpm { commands }).unwrap();
    // Each answer: tag, size, response code, then the handle.
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| &a[12..20] == "00000000");
    assert!(!made.is_empty(), "nothing was made: {answers:?}");
    assert!(!refused.is_empty(), "the TPM took all of {}", made.len());
    for answer in refused {
        assert_eq!(&answer[12..20], OBJECT_MEMORY, "{answer}");
    }
    made.iter().map(|a| a[20..28].to_owned()).collect()
}

#[test]
fn a_tpm_that_answers_with_errors_loses_nothing_and_is_named() {
    const REASON: &str = "TPM2_CreatePrimary failed";
    let id_of_last = |node: &Node| node.site.last().unwrap().unwrap().id;
    let (made, last) = (RefCell::new(Vec::new()), Cell::new(0));
    let (log, verdict) = through(
        &["verifier.max_backoff=3"],
        |_| {},
        |node| {
            // Another process of host root takes every slot: loading the attestation key is an error from now
            // on.
            *made.borrow_mut() = fill_tpm(node);
            last.set(id_of_last(node));
        },
        |node| {
            let begin = Instant::now();
            while !node.vm.get_text(COLLECTOR_LOG).unwrap().contains(REASON) {
                assert!(
                    begin.elapsed() < PATIENCE,
                    "the collector never said why there is no evidence"
                );
                std::thread::sleep(Duration::from_millis(300));
            }
            // The round that was under way when the slots were taken may have had its quote.
            let (before, now) = (last.get(), id_of_last(node));
            assert!(
                now <= before + 1,
                "there was a quote all the time: {before} {now}"
            );
            // TPM2_FlushContext of each.
            let flush = |handle: &String| format!("80010000000e00000165{handle}");
            let commands: Vec<String> = made.borrow().iter().map(flush).collect();
            let answers: Vec<String> = node.work(&Workload::Tpm { commands }).unwrap();
            assert!(answers.iter().all(|a| a == "80010000000a00000000"), "{answers:?}");
        },
        200,
    );
    assert!(
        log.lines()
            .any(|line| line.contains("no attestation") && line.contains(REASON)),
        "the log does not say why:\n{log}"
    );
    // The collector's default is to let others use the TPM and to report it.
    let mut findings = verdict.node.findings.iter();
    let shown = findings.find(|f| f.text.contains("opened the TPM")).unwrap();
    assert_eq!(shown.severity, Severity::Note);
}
