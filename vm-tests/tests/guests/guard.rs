//! What host root does to the collector's own parts: in the mode "deny" it fails and is recorded, in the mode "record" it
//! goes through and the node is untrusted, or the evidence stops. And there is a way to leave.

use evidence::{Checkpoint, EventKind, GuardAction, GuardMode, Record, SealedCheckpoint};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use verifier::{Rule, Severity, State};
use vm_protocol::spec::{Attempt, Workload};
use vm_tests::Stock;
use vm_tests::scenario::{self, COLLECTOR, COLLECTOR_LOG, Node, Plan, Round, WORKLOADS};

const PINS: &str = "/sys/fs/bpf/ima-cgpath";
const FTRACE: &str = "/proc/sys/kernel/ftrace_enabled";
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EOPNOTSUPP: i32 = 95;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// What [`Workload::Attack`] tries that the guard knows of.
const ATTEMPTS: [&str; 8] = [
    "map by id",
    "map by id to read",
    "program by id",
    "link by id",
    "map by pin",
    "program by pin",
    "memory",
    "descriptor",
];

fn attack(node: &Node, pid: i32) -> Vec<Attempt> {
    let work = Workload::Attack {
        pins: PINS.to_owned(),
        pid: pid.cast_unsigned(),
    };
    node.work(&work).unwrap()
}

/// Runs a line of shell in the workloads' cgroup; gives its exit code and what it said.
fn sh(node: &Node, line: &str) -> (i32, String) {
    let done = node
        .vm
        .command(&["sh", "-c", line])
        .cgroup(WORKLOADS)
        .run()
        .unwrap();
    (done.code().unwrap_or(-1), done.errors())
}

fn guarded(round: &Round) -> Vec<Record> {
    let evidence = round.evidence().unwrap();
    let records = evidence.partitions.into_iter().flat_map(|log| log.records);
    records.filter(|r| r.kind == EventKind::Guard).collect()
}

fn actions(records: &[Record], is_denied: bool) -> BTreeSet<GuardAction> {
    records
        .iter()
        .filter(|r| (r.ret != 0) == is_denied)
        .filter_map(|r| r.guard.map(|g| g.action))
        .collect()
}

fn last_checkpoint(round: &Round) -> Checkpoint {
    let evidence = round.evidence().unwrap();
    let file = evidence.checkpoints.last().unwrap();
    SealedCheckpoint::from_file(file).unwrap().checkpoint
}

fn failing(round: &Round) -> BTreeSet<Rule> {
    round.verdict.failures().map(|f| f.rule).collect()
}

/// The driver of the guest's TPM, and the device's name there.
fn tpm(node: &Node) -> (String, String) {
    let link = |what: &str| {
        let text = node
            .vm
            .sh(&format!("readlink -f /sys/class/tpm/tpm0/{what}"))
            .unwrap();
        text.trim().to_owned()
    };
    let device = link("device");
    let name = device.rsplit('/').next().unwrap().to_owned();
    (link("device/driver"), name)
}

fn denied(stock: Stock) {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::restored(stock);
    plan.settings = vec!["guard.mode=deny".to_owned()];
    let node = Node::boot(plan, dir.path()).unwrap();
    let (collector, first) = node.start_collector().unwrap();
    assert_eq!(first.verdict.node.state, State::Trusted, "{}", first.verdict);

    let tried = attack(&node, collector.pid());
    for what in ATTEMPTS.into_iter().chain(["traced"]) {
        let of_this: Vec<i32> = tried.iter().filter(|t| t.what == what).map(|t| t.errno).collect();
        assert!(!of_this.is_empty(), "{what} was not tried: {tried:?}");
        // /proc has an error number of its own for it.
        let refusal = if what == "memory" { EACCES } else { EPERM };
        assert!(
            of_this.iter().all(|errno| *errno == refusal),
            "{what}: {of_this:?}"
        );
    }
    let (driver, device) = tpm(&node);
    for line in [
        format!("rm {PINS}/link_executed"),
        format!("mv {PINS}/link_executed {PINS}/other"),
        format!("mv {PINS} /sys/fs/bpf/elsewhere"),
        "umount /sys/fs/bpf".to_owned(),
        "umount -l /sys/fs/bpf".to_owned(),
        format!("echo 0 > {FTRACE}"),
        format!("echo {device} > {driver}/unbind"),
    ] {
        let (code, said) = sh(&node, &line);
        // umount has words of its own for EPERM.
        let refused = said.contains("not permitted") || said.contains("must be superuser");
        assert!(code != 0 && refused, "{line}: {code} {said}");
    }
    assert_eq!(node.vm.get_text(FTRACE).unwrap().trim(), "1");
    assert_eq!(
        sh(&node, "exec 3<>/dev/tpmrm0").0,
        0,
        "others may use the TPM by default"
    );

    let round = node.fresh().unwrap();
    println!("{}", round.verdict);
    assert_eq!(round.verdict.node.state, State::Untrusted);
    assert_eq!(failing(&round), BTreeSet::from([Rule::V14]), "{}", round.verdict);
    let records = guarded(&round);
    let wanted = [
        GuardAction::MapOpened,
        GuardAction::MapRead,
        GuardAction::ProgramOpened,
        GuardAction::LinkOpened,
        GuardAction::PinRemoved,
        GuardAction::PinRenamed,
        GuardAction::Unmounted,
        GuardAction::Traced,
        GuardAction::TpmUnbound,
        GuardAction::FtraceOpened,
    ];
    let mut were_denied = actions(&records, true);
    // A link that is opened by its pin meets no hook; the kernel itself refuses to detach it.
    were_denied.remove(&GuardAction::LinkChanged);
    assert_eq!(were_denied, BTreeSet::from(wanted));
    assert_eq!(actions(&records, false), BTreeSet::from([GuardAction::TpmOpened]));
    // Who it was: the program and its cgroup.
    let finding = round
        .verdict
        .failures()
        .find(|f| f.path.as_deref() == Some(b"link_executed"))
        .unwrap();
    let found = finding.found.as_deref().unwrap();
    assert!(found.contains("/bin/rm") && found.contains(WORKLOADS), "{found}");
    let shown = round
        .verdict
        .node
        .findings
        .iter()
        .find(|f| f.text.contains("opened the TPM"));
    assert_eq!(shown.unwrap().severity, Severity::Note);

    // Killed and started again, it is known by its program's hash.
    collector.signal(SIGKILL).unwrap();
    assert!(collector.wait(Duration::from_secs(10)).unwrap().is_some());
    let collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let again = node.fresh().unwrap();
    assert_eq!(failing(&again), BTreeSet::from([Rule::V14]), "{}", again.verdict);
    assert_eq!(guarded(&again).len(), records.len(), "a restart is no attack");

    // Another program of the same name and place in the file system may not; this one may take everything down.
    collector.signal(SIGTERM).unwrap();
    assert!(collector.wait(Duration::from_secs(30)).unwrap().is_some());
    let other =
        format!("cp {COLLECTOR} /var/tmp/cgpathd && echo >> /var/tmp/cgpathd && /var/tmp/cgpathd unload");
    let (code, said) = sh(&node, &other);
    assert!(code != 0 && said.contains("not permitted"), "{code} {said}");
    assert_eq!(sh(&node, &format!("{COLLECTOR} unload")), (0, String::new()));
    assert_eq!(sh(&node, &format!("test ! -e {PINS}")).0, 0);
    // The kernel detaches a program some time after its last pin is gone.
    let deadline = Instant::now() + Duration::from_secs(120);
    while sh(&node, "umount /sys/fs/bpf").0 != 0 {
        assert!(Instant::now() < deadline, "the guard outlives its pins");
        std::thread::sleep(Duration::from_millis(300));
    }
    // 7.3 refuses it to everybody: "deprecated and no longer disables ftrace".
    let can = stock != Stock::V7_3;
    assert_eq!(sh(&node, &format!("echo 0 > {FTRACE}")).0 == 0, can);
    assert_eq!(node.vm.get_text(FTRACE).unwrap().trim() == "0", can);
    node.vm.power_off().unwrap();
    println!(
        "TIME guard denies on {stock}: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

fn recorded(stock: Stock) {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::restored(stock);
    plan.settings = vec!["log=info,collector::engine=debug".to_owned()];
    let node = Node::boot(plan, dir.path()).unwrap();
    let (collector, first) = node.start_collector().unwrap();
    assert_eq!(first.verdict.node.state, State::Trusted, "{}", first.verdict);
    assert_eq!(
        last_checkpoint(&first).protection.unwrap().guard,
        GuardMode::Record
    );

    // How much the kernel's verifier had to walk through, for people.
    for line in node.vm.get_text(COLLECTOR_LOG).unwrap().lines() {
        if let Some((_, program)) = line.split_once("program name=") {
            println!("VERIFIED {stock} {program}");
        }
    }

    // Through bpf(2) and ptrace(2): all goes through, but for what no kernel can do; the evidence goes on, untrusted.
    let tried = attack(&node, collector.pid());
    for what in ATTEMPTS.into_iter().chain(["map written", "traced"]) {
        let of_this: Vec<i32> = tried.iter().filter(|t| t.what == what).map(|t| t.errno).collect();
        assert!(
            !of_this.is_empty() && of_this.iter().all(|e| *e == 0),
            "{what}: {of_this:?}"
        );
    }
    for what in ["link detached", "pinned link detached"] {
        let of_this: Vec<i32> = tried.iter().filter(|t| t.what == what).map(|t| t.errno).collect();
        assert!(
            !of_this.is_empty() && of_this.iter().all(|e| *e == EOPNOTSUPP),
            "{what}: {of_this:?}"
        );
    }
    let round = node.fresh().unwrap();
    assert_eq!(failing(&round), BTreeSet::from([Rule::V14]), "{}", round.verdict);
    let wanted = [
        GuardAction::MapOpened,
        GuardAction::MapRead,
        GuardAction::ProgramOpened,
        GuardAction::LinkOpened,
        GuardAction::LinkChanged,
        GuardAction::Traced,
    ];
    assert_eq!(actions(&guarded(&round), false), BTreeSet::from(wanted));

    // Switched off: the canary is not seen, and who did it was recorded before.
    assert_eq!(sh(&node, &format!("echo 0 > {FTRACE}")).0, 0);
    let blind = node.fresh().unwrap();
    assert!(
        failing(&blind).is_superset(&BTreeSet::from([Rule::V6, Rule::V14])),
        "{}",
        blind.verdict
    );
    assert!(last_checkpoint(&blind).blind);
    assert!(actions(&guarded(&blind), false).contains(&GuardAction::FtraceOpened));
    assert_eq!(sh(&node, &format!("echo 1 > {FTRACE}")).0, 0);
    assert!(!last_checkpoint(&node.fresh().unwrap()).blind);

    // A pin of another name is not found by whoever comes next: as good as gone, until it is back.
    assert_eq!(sh(&node, &format!("mv {PINS}/link_executed {PINS}/other")).0, 0);
    let round = node.fresh().unwrap();
    assert!(last_checkpoint(&round).blind);
    assert!(actions(&guarded(&round), false).contains(&GuardAction::PinRenamed));
    assert_eq!(sh(&node, &format!("mv {PINS}/other {PINS}/link_executed")).0, 0);
    assert!(!last_checkpoint(&node.fresh().unwrap()).blind);

    // Pins gone: the programs run on as long as the collector does, and it says that they will not outlive it.
    assert_eq!(
        sh(
            &node,
            &format!("rm {PINS}/link_executed && umount -l /sys/fs/bpf")
        )
        .0,
        0
    );
    let round = node.fresh().unwrap();
    assert!(last_checkpoint(&round).blind);
    let seen = actions(&guarded(&round), false);
    assert!(
        seen.contains(&GuardAction::PinRemoved) && seen.contains(&GuardAction::Unmounted),
        "{seen:?}"
    );

    // The TPM gone: there is no quote, so there is no evidence any more.
    let (driver, device) = tpm(&node);
    assert_eq!(sh(&node, &format!("echo {device} > {driver}/unbind")).0, 0);
    let until_failed = |times: usize| {
        let deadline = Instant::now() + Duration::from_secs(120);
        let log = || node.vm.get_text(COLLECTOR_LOG).unwrap();
        while log().matches("no attestation").count() < times {
            assert!(Instant::now() < deadline, "the collector goes on without a TPM");
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    until_failed(1);
    let last = node.site.last().unwrap().unwrap().id;
    until_failed(3);
    assert_eq!(
        node.site.last().unwrap().unwrap().id,
        last,
        "evidence without a TPM"
    );
    node.vm.power_off().unwrap();
    println!(
        "TIME guard records on {stock}: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

#[test]
fn what_touches_the_collectors_parts_is_denied_and_recorded_on_6_12() {
    denied(Stock::V6_12);
}

#[test]
fn what_touches_the_collectors_parts_is_denied_and_recorded_on_6_1() {
    denied(Stock::V6_1);
}

#[test]
fn what_touches_the_collectors_parts_is_denied_and_recorded_on_7_3() {
    denied(Stock::V7_3);
}

#[test]
fn the_tpm_is_the_collectors_alone_if_that_is_wanted_on_6_12() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::restored(Stock::V6_12);
    plan.settings = vec!["guard.tpm=deny".to_owned()];
    let node = Node::boot(plan, dir.path()).unwrap();
    let (_collector, first) = node.start_collector().unwrap();
    assert!(first.verdict.trusted, "{}", first.verdict);
    for device in ["/dev/tpmrm0", "/dev/tpm0"] {
        let (code, said) = sh(&node, &format!("exec 3<>{device}"));
        assert!(
            code != 0 && said.contains("not permitted"),
            "{device}: {code} {said}"
        );
    }
    // Its own quotes go on, and who was refused is told.
    let round = node.fresh().unwrap();
    assert!(round.verdict.trusted, "{}", round.verdict);
    let records = guarded(&round);
    assert_eq!(actions(&records, true), BTreeSet::from([GuardAction::TpmOpened]));
    assert_eq!(records.len(), 2, "{records:?}");
    node.vm.power_off().unwrap();
}

#[test]
fn what_touches_the_collectors_parts_goes_through_and_the_node_is_untrusted_on_6_12() {
    recorded(Stock::V6_12);
}
