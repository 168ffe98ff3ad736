//! What host root does to the collector's own parts: in the mode "deny" it fails and is recorded, in the mode
//! "record" it goes through and the node is untrusted, or the evidence stops. What a pod with and without
//! privileges can do there. And there is a way to leave.

use cgpath_appraisal::{Rule, Severity, State, Subject};
use cgpath_evidence::{
    Checkpoint, EventKind, GuardAction, GuardMode, PartitionKey, PodUid, Record, SealedCheckpoint,
};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_protocol::spec::{Attempt, Mount, Pod, Workload};
use vm_tests::oci::Image;
use vm_tests::pods::{self, BARE_RUNTIME, Pods, Running, Runtime};
use vm_tests::scenario::{self, COLLECTOR, COLLECTOR_LOG, KnownPod, Node, Plan, Round, WORKLOADS};
use vm_tests::{PATIENCE, Stock, host};

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

/// Pods that are given the host's /sys, /dev and processes: what one does in them as root it does with
/// privileges; what it does as a user, without any.
const PLAIN: &str = "11111111-0000-4000-8000-000000000001";
const PRIVILEGED: &str = "22222222-0000-4000-8000-000000000002";
/// A user without rights.
const NOBODY: u32 = 65534;

fn image() -> Image {
    Image::new("localhost/ima-cgpath/guard:1")
        .program("/app/idle", &elf::pause("guard"))
        .program(
            "/app/guest",
            &std::fs::read(host::guest_binary().unwrap()).unwrap(),
        )
        .dir("/tmp", 0o1777)
}

fn plan(stock: Stock) -> Plan {
    let mut plan = Plan::restored(stock);
    plan.runtime = Runtime::Bare;
    plan.images = vec![image()];
    plan.pods = [(PLAIN, "test/plain"), (PRIVILEGED, "test/privileged")]
        .map(|(uid, name)| KnownPod {
            uid: uid.to_owned(),
            name: name.to_owned(),
            images: vec![image().name().to_owned()],
            host_paths: Vec::new(),
        })
        .to_vec();
    plan
}

fn run_pod(pods: &Pods<'_>, name: &str, uid: &str) -> Running {
    let mut main = pods::container("main", &image(), &["/app/idle"]);
    main.mounts = ["/sys", "/sys/fs/bpf", "/dev"]
        .map(|path| Mount {
            host: path.to_owned(),
            container: path.to_owned(),
            read_only: false,
        })
        .to_vec();
    let mut pod = Pod::burstable(name, uid);
    pod.containers = vec![main];
    pods.run(&pod).unwrap()
}

fn key(uid: &str) -> PodUid {
    PodUid::parse(uid.as_bytes()).unwrap()
}

/// Does a workload in a pod, as root there.
fn in_pod(pods: &Pods<'_>, pod: &Running, work: &Workload) -> Vec<Attempt> {
    let text = serde_json::to_string(work).unwrap();
    let answer = pods
        .must(pod, "main", &["/app/guest", "workload", &text])
        .unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// Tries in a pod what needs no rights, and what looks as if it were done to us; what succeeds is done to
/// nobody.
fn reach(pods: &Pods<'_>, pod: &Running, collector: i32) {
    let tried = in_pod(
        pods,
        pod,
        &Workload::Reach {
            pins: PINS.to_owned(),
            pid: collector.cast_unsigned(),
            uid: Some(NOBODY),
        },
    );
    let what = |succeeded: bool| -> BTreeSet<&str> {
        let of_this = tried.iter().filter(|t| (t.errno == 0) == succeeded);
        of_this.map(|t| t.what.as_str()).collect()
    };
    let seen: BTreeSet<(&str, i32)> = tried.iter().map(|t| (t.what.as_str(), t.errno)).collect();
    let harmless = [
        "network namespace",
        "file of that name",
        "mount namespace",
        "copy unmounted",
    ];
    assert_eq!(what(true), BTreeSet::from(harmless), "{seen:?}");
    let refused = [
        "link by id",
        "map by id",
        "program by id",
        "map by pin",
        "program by pin",
        "link by pin",
        "no link detached",
        "no link changed",
        "pin removed",
        "pin renamed",
        "directory removed",
        "unmounted",
        "memory",
        "descriptor",
        "traced",
        "tpm",
        "unbind",
        "sysctl",
    ];
    assert_eq!(what(false), BTreeSet::from(refused), "{seen:?}");
}

/// What a user without rights, in the cgroup of this pod, does with a descriptor of a link that root passed
/// it.
fn passed(node: &Node, pod: &Running) -> Vec<Attempt> {
    let work = Workload::Passed {
        pins: PINS.to_owned(),
        cgroup: format!("{}/{}", pod.pod.cgroup_parent, pod.ids.containers[0]),
        uid: NOBODY,
    };
    let text = serde_json::to_string(&work).unwrap();
    let command = node.vm.command(&[BARE_RUNTIME, "workload", &text]);
    let output = command.run().unwrap().check().unwrap().stdout;
    serde_json::from_slice(&output).unwrap()
}

/// Records of the guard in one partition.
fn guarded_in(round: &Round, partition: PartitionKey) -> Vec<Record> {
    let evidence = round.evidence().unwrap();
    let records = evidence.records(partition).iter();
    records.filter(|r| r.kind == EventKind::Guard).cloned().collect()
}

fn attack(node: &Node, pid: i32) -> Vec<Attempt> {
    let work = Workload::Attack {
        pins: PINS.to_owned(),
        pid: pid.cast_unsigned(),
    };
    node.work(&work).unwrap()
}

/// Ids of all programs that the kernel has.
fn loaded(node: &Node) -> Vec<u32> {
    node.work(&Workload::Loaded).unwrap()
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
    let mut plan = plan(stock);
    plan.settings = vec!["guard.mode=deny".to_owned()];
    let node = Node::boot(plan, dir.path()).unwrap();
    let (collector, first) = node.start_collector().unwrap();
    assert_eq!(first.verdict.node.state, State::Trusted, "{}", first.verdict);

    // From pods: without rights nothing is recorded, with them nothing is reached, and it concerns the pod
    // alone.
    let pods = Pods::start(&node.vm, Runtime::Bare, &[]).unwrap();
    let (plain, privileged) = (
        run_pod(&pods, "plain", PLAIN),
        run_pod(&pods, "privileged", PRIVILEGED),
    );
    reach(&pods, &plain, collector.pid());
    let round = node.fresh().unwrap();
    assert!(round.verdict.trusted, "{}", round.verdict);
    assert_eq!(guarded(&round), []);
    let tried = in_pod(
        &pods,
        &privileged,
        &Workload::Attack {
            pins: PINS.to_owned(),
            pid: collector.pid().cast_unsigned(),
        },
    );
    assert!(tried.iter().all(|t| t.errno != 0), "{tried:?}");
    assert!(passed(&node, &privileged).iter().all(|t| t.errno == EPERM));
    let round = node.fresh().unwrap();
    let state = |uid: &str| round.verdict.pod(key(uid)).unwrap().state;
    assert_eq!(round.verdict.node.state, State::Trusted, "{}", round.verdict);
    assert_eq!(
        (state(PLAIN), state(PRIVILEGED)),
        (State::Trusted, State::Untrusted)
    );
    assert_eq!(
        failing(&round),
        BTreeSet::from([Rule::Guard]),
        "{}",
        round.verdict
    );
    let records = guarded_in(&round, PartitionKey::Pod(key(PRIVILEGED)));
    assert_eq!(records.len(), guarded(&round).len(), "of others, too");
    assert_eq!(actions(&records, false), BTreeSet::new());
    assert_eq!(
        actions(&records, true),
        BTreeSet::from([
            GuardAction::MapOpened,
            GuardAction::MapRead,
            GuardAction::ProgramOpened,
            GuardAction::LinkOpened,
            GuardAction::LinkChanged,
            GuardAction::Traced,
        ])
    );
    let by_nobody = records.iter().filter(|r| r.uid == NOBODY);
    assert!(
        by_nobody.clone().count() == 2
            && by_nobody
                .clone()
                .all(|r| r.guard.is_some_and(|g| g.action == GuardAction::LinkChanged)),
        "{records:?}"
    );

    // Before the attempts of another kind, of which there are more than a verdict shows.
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

    let round = node.fresh().unwrap();
    println!("{}", round.verdict);
    assert_eq!(round.verdict.node.state, State::Untrusted);
    assert_eq!(
        failing(&round),
        BTreeSet::from([Rule::Guard]),
        "{}",
        round.verdict
    );
    let records = guarded_in(&round, PartitionKey::Host);
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
    collector.ended().unwrap();
    let collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let again = node.fresh().unwrap();
    assert_eq!(
        failing(&again),
        BTreeSet::from([Rule::Guard]),
        "{}",
        again.verdict
    );
    assert_eq!(
        guarded_in(&again, PartitionKey::Host).len(),
        records.len(),
        "a restart is no attack"
    );

    // Another program of the same name and place in the file system may not; this one may take everything
    // down.
    collector.signal(SIGTERM).unwrap();
    collector.ended().unwrap();
    let other =
        format!("cp {COLLECTOR} /var/tmp/cgpathd && echo >> /var/tmp/cgpathd && /var/tmp/cgpathd unload");
    let (code, said) = sh(&node, &other);
    assert!(code != 0 && said.contains("not permitted"), "{code} {said}");
    assert!(!loaded(&node).is_empty(), "they go on without a collector");
    assert_eq!(sh(&node, &format!("{COLLECTOR} unload")), (0, String::new()));
    assert_eq!(sh(&node, &format!("test ! -e {PINS}")).0, 0);
    // It says so once they are, and not only their pins.
    assert_eq!(loaded(&node), Vec::<u32>::new());
    assert_eq!(sh(&node, "umount /sys/fs/bpf"), (0, String::new()));
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
    let mut plan = plan(stock);
    plan.settings = vec!["log=info,cgpathd::engine=debug".to_owned()];
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

    // From pods: without rights nothing is recorded. A descriptor that was passed on is enough for some
    // calls, and privileges for the others: these concern the node.
    let pods = Pods::start(&node.vm, Runtime::Bare, &[]).unwrap();
    let (plain, privileged) = (
        run_pod(&pods, "plain", PLAIN),
        run_pod(&pods, "privileged", PRIVILEGED),
    );
    reach(&pods, &plain, collector.pid());
    let round = node.fresh().unwrap();
    assert!(round.verdict.trusted, "{}", round.verdict);
    assert_eq!(guarded(&round), []);
    // What the kernel itself says to these is no EPERM: it is asked.
    assert!(
        passed(&node, &plain)
            .iter()
            .all(|t| t.errno != 0 && t.errno != EPERM)
    );
    let round = node.fresh().unwrap();
    let records = guarded(&round);
    assert_eq!(records, guarded_in(&round, PartitionKey::Pod(key(PLAIN))));
    assert_eq!(
        actions(&records, false),
        BTreeSet::from([GuardAction::LinkChanged])
    );
    assert!(records.iter().all(|r| r.uid == NOBODY), "{records:?}");
    assert_eq!(
        failing(&round),
        BTreeSet::from([Rule::Guard]),
        "{}",
        round.verdict
    );
    let on_node = |round: &Round, uid: &str| {
        let mut failures = round.verdict.failures();
        failures.any(|f| f.subject == Subject::Node && f.found.as_deref().is_some_and(|f| f.contains(uid)))
    };
    assert!(
        on_node(&round, PLAIN) && !on_node(&round, PRIVILEGED),
        "{}",
        round.verdict
    );
    let tried = in_pod(
        &pods,
        &privileged,
        &Workload::Attack {
            pins: PINS.to_owned(),
            pid: collector.pid().cast_unsigned(),
        },
    );
    assert!(
        tried.iter().any(|t| t.what == "map written" && t.errno == 0),
        "{tried:?}"
    );
    let round = node.fresh().unwrap();
    assert!(on_node(&round, PRIVILEGED), "{}", round.verdict);
    assert_eq!(round.verdict.node.state, State::Untrusted);

    // Through bpf(2) and ptrace(2): all goes through, but for what no kernel can do; the evidence goes on,
    // untrusted.
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
    assert_eq!(
        failing(&round),
        BTreeSet::from([Rule::Guard]),
        "{}",
        round.verdict
    );
    let wanted = [
        GuardAction::MapOpened,
        GuardAction::MapRead,
        GuardAction::ProgramOpened,
        GuardAction::LinkOpened,
        GuardAction::LinkChanged,
        GuardAction::Traced,
    ];
    let by_host = guarded_in(&round, PartitionKey::Host);
    assert_eq!(actions(&by_host, false), BTreeSet::from(wanted));

    // Switched off: the canary is not seen, and who did it was recorded before.
    assert_eq!(sh(&node, &format!("echo 0 > {FTRACE}")).0, 0);
    let blind = node.fresh().unwrap();
    assert!(
        failing(&blind).is_superset(&BTreeSet::from([Rule::Losses, Rule::Guard])),
        "{}",
        blind.verdict
    );
    assert!(last_checkpoint(&blind).blind);
    assert!(actions(&guarded(&blind), false).contains(&GuardAction::FtraceOpened));
    assert_eq!(sh(&node, &format!("echo 1 > {FTRACE}")).0, 0);
    assert!(!last_checkpoint(&node.fresh().unwrap()).blind);

    // A pin of another name is not found by a process that comes next: as good as gone, until it is back.
    assert_eq!(sh(&node, &format!("mv {PINS}/link_executed {PINS}/other")).0, 0);
    let round = node.fresh().unwrap();
    assert!(last_checkpoint(&round).blind);
    assert!(actions(&guarded(&round), false).contains(&GuardAction::PinRenamed));
    assert_eq!(sh(&node, &format!("mv {PINS}/other {PINS}/link_executed")).0, 0);
    assert!(!last_checkpoint(&node.fresh().unwrap()).blind);

    // Pins gone: the programs run on as long as the collector does, and it says that they will not outlive
    // it.
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
        let deadline = Instant::now() + PATIENCE;
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
    // Its own quotes go on, and who was refused is reported.
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
