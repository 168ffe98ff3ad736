//! Executions that are denied: in a pod that the verifier does not trust, and in pods after a loss. Never on
//! the host, never in a neighbour, and never for ever.

use cgpath_appraisal::{Rule, Severity, State};
use cgpath_evidence::{EventKind, GuardAction, PartitionKey, PodUid};
use std::time::{Duration, Instant};
use vm_protocol::{elf, spec};
use vm_tests::oci::{self, Image};
use vm_tests::pods::{self, Pods, Running, Runtime};
use vm_tests::scenario::{self, KnownPod, Node, Plan};
use vm_tests::{CgroupMode, Process, Stock, Vm, host};

const BAD: &str = "11111111-0000-4000-8000-000000000001";
const GOOD: &str = "22222222-0000-4000-8000-000000000002";
const EPERM: i32 = 1;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

fn image() -> Image {
    Image::new("localhost/ima-cgpath/enforce:1")
        .program("/bin/busybox", &oci::busybox().unwrap())
        .link("/bin/sh", "busybox")
        .dir("/tmp", 0o1777)
        .dir("/proc", 0o755)
        .program("/app/idle", &elf::pause("enforce"))
        .program("/app/hello", &elf::print("hello\n"))
        .program("/app/script", b"#!/bin/sh\necho hello\n")
        .program(
            "/app/guest",
            &std::fs::read(host::guest_binary().unwrap()).unwrap(),
        )
}

fn plan(stock: Stock) -> Plan {
    let mut plan = Plan::restored(stock);
    plan.runtime = Runtime::Bare;
    plan.images = vec![image()];
    plan.pods = [(BAD, "test/bad"), (GOOD, "test/good")]
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
    let mut pod = spec::Pod::burstable(name, uid);
    pod.containers = vec![pods::container("main", &image(), &["/app/idle"])];
    pods.run(&pod).unwrap()
}

/// Whether a program can be executed in a pod; what keeps it from it must be EPERM.
fn executes(pods: &Pods<'_>, pod: &Running, program: &str) -> bool {
    match pods.exec(pod, "main", &[program]) {
        Ok(done) => {
            assert_eq!((done.code, done.stdout.as_str()), (0, "hello\n"), "{done:?}");
            true
        }
        Err(error) => {
            let text = format!("{error:#}");
            assert!(text.contains("Operation not permitted"), "{text}");
            false
        }
    }
}

/// What the kernel said to the last executable mapping of a process: 0, or an error number; `None` before
/// there was one.
fn mapping(vm: &Vm, pid: u32) -> Option<i32> {
    let text = vm.get_text(&format!("/proc/{pid}/root/tmp/mapped")).ok()?;
    Some(
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("no outcome of a mapping: {text:?}")),
    )
}

/// Waits until executable mappings of the process end like this.
fn until_mapping(vm: &Vm, pid: u32, errno: i32) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let last = mapping(vm, pid);
        if last == Some(errno) {
            return;
        }
        assert!(Instant::now() < deadline, "mappings end with {last:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Waits until it can, or can no longer, be executed.
fn until(pods: &Pods<'_>, pod: &Running, can: bool, within: u64) {
    let deadline = Instant::now() + Duration::from_secs(within);
    while executes(pods, pod, "/app/hello") != can {
        assert!(
            Instant::now() < deadline,
            "executions stay {}",
            if can { "denied" } else { "allowed" }
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// The host's executions are never denied.
fn host_executes(vm: &Vm) {
    assert_eq!(vm.sh("/bin/echo hello").unwrap(), "hello\n");
}

/// Starts the collector in a guest with these settings.
fn start<'vm>(vm: &'vm Vm, settings: &[&str]) -> Process<'vm> {
    let mut plan = Plan::new(Stock::V6_12);
    plan.settings = settings.iter().map(|s| (*s).to_owned()).collect();
    scenario::start_collector(vm, &plan).unwrap()
}

fn stop(collector: &Process<'_>) {
    collector.signal(SIGTERM).unwrap();
    assert!(collector.wait(Duration::from_secs(60)).unwrap().is_some());
}

fn enforced(stock: Stock, mode: CgroupMode) {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan(stock);
    plan.cgroup = mode;
    // How they are mounted is a part of its boot.
    plan.restored = mode == CgroupMode::V2;
    let Node { site, vm, .. } = Node::boot(plan, dir.path()).unwrap();
    site.enrol(&vm).unwrap();
    // Room for what is done here, and not for more while nobody empties it.
    let small = "bpf.ring_bytes=262144";
    let collector = start(&vm, &["enforce.mode=untrusted-pods", "enforce.lapse=10", small]);
    let first = site.fresh(&vm).unwrap();
    assert!(first.verdict.trusted, "{}", first.verdict);
    let pods = Pods::start(&vm, Runtime::Bare, &[]).unwrap();
    let (bad, good) = (run_pod(&pods, "bad", BAD), run_pod(&pods, "good", GOOD));
    for pod in [&bad, &good] {
        assert!(executes(&pods, pod, "/app/hello") && executes(&pods, pod, "/app/script"));
    }
    let before = site.fresh(&vm).unwrap();
    assert!(before.verdict.trusted, "{}", before.verdict);

    // A program that its image does not have.
    let planted = "busybox cp /app/hello /tmp/planted; echo >> /tmp/planted; /tmp/planted";
    pods.must(&bad, "main", &["/bin/sh", "-c", planted]).unwrap();
    until(&pods, &bad, false, 120);
    assert!(!executes(&pods, &bad, "/app/script"));
    assert!(executes(&pods, &good, "/app/hello") && executes(&pods, &good, "/app/script"));
    host_executes(&vm);
    let round = site.fresh(&vm).unwrap();
    let state = |uid: &str| round.verdict.pod(PodUid::parse(uid.as_bytes()).unwrap()).unwrap();
    assert_eq!(round.verdict.node.state, State::Trusted, "{}", round.verdict);
    assert_eq!(
        (state(BAD).state, state(GOOD).state),
        (State::Untrusted, State::Trusted)
    );
    // Each denial is a record, which is reported and is no failure.
    let evidence = round.evidence().unwrap();
    let records = evidence.partitions.iter().flat_map(|log| &log.records);
    let denials: Vec<_> = records.filter(|r| r.kind == EventKind::Guard).collect();
    let wanted = Some(GuardAction::ExecutionDenied);
    assert!(
        denials
            .iter()
            .all(|r| r.guard.map(|g| g.action) == wanted && r.ret == -1),
        "{denials:?}"
    );
    assert!(denials.iter().any(|r| r.path == b"/app/script"), "{denials:?}");
    let seen = state(BAD)
        .findings
        .iter()
        .find(|f| f.rule == Rule::Guard)
        .unwrap();
    assert_eq!(seen.severity, Severity::Note);

    // A collector that is away for too long denies nothing any more.
    collector.signal(SIGSTOP).unwrap();
    until(&pods, &bad, true, 120);
    collector.signal(SIGCONT).unwrap();
    until(&pods, &bad, false, 120);

    // Records are lost: the node's evidence is not believed from now on, nor is anything said for a pod. That
    // denies nobody, and it frees nobody.
    lose(&vm, &collector, 400);
    collector.signal(SIGCONT).unwrap();
    let round = site.fresh(&vm).unwrap();
    let pod = |uid: &str| round.verdict.pod(PodUid::parse(uid.as_bytes()).unwrap()).unwrap();
    assert!(
        round.verdict.node.lost > 0 && !round.verdict.node.believed,
        "{}",
        round.verdict
    );
    assert_eq!(
        [BAD, GOOD].map(|uid| (pod(uid).state, pod(uid).charged)),
        [(State::Untrusted, true), (State::Untrusted, false)]
    );
    until(&pods, &bad, false, 120);
    assert!(executes(&pods, &good, "/app/hello") && executes(&pods, &good, "/app/script"));

    // The same pins, another configuration: an exempt pod is left alone, and the mode can be left. Mappings:
    // the programs of these images have none, so that they go through with it, too.
    stop(&collector);
    assert!(!executes(&pods, &bad, "/app/hello"), "a stop opens nothing");
    let exempt = format!("enforce.exempt=/kubepods/burstable/pod{BAD}");
    for settings in [
        &["enforce.mode=untrusted-pods", exempt.as_str()][..],
        &["enforce.mode=off"],
    ] {
        let collector = start(&vm, settings);
        site.fresh(&vm).unwrap();
        assert!(executes(&pods, &bad, "/app/hello"), "{settings:?}");
        stop(&collector);
    }
    vm.power_off().unwrap();
    println!(
        "TIME enforce on {stock}, {mode:?}: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

/// Fills the ring by so many executions while the collector is stopped.
fn lose(vm: &Vm, collector: &Process<'_>, executions: u32) {
    collector.signal(SIGSTOP).unwrap();
    vm.sh(&format!(
        "n=0; while [ $n -lt {executions} ]; do /bin/true; n=$((n+1)); done"
    ))
    .unwrap();
}

fn failed_closed(stock: Stock) {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let Node { site, vm, .. } = Node::boot(plan(stock), dir.path()).unwrap();
    site.enrol(&vm).unwrap();
    let tiny = "bpf.ring_bytes=65536";
    // So long a lapse that only the collector can end it.
    let collector = start(&vm, &["fail_closed.mode=pods", "fail_closed.lapse=3600", tiny]);
    site.fresh(&vm).unwrap();
    let pods = Pods::start(&vm, Runtime::Bare, &[]).unwrap();
    let (one, two) = (run_pod(&pods, "one", BAD), run_pod(&pods, "two", GOOD));
    for pod in [&one, &two] {
        until(&pods, pod, true, 120);
    }

    lose(&vm, &collector, 60);
    assert!(!executes(&pods, &one, "/app/hello") && !executes(&pods, &two, "/app/script"));
    host_executes(&vm);
    collector.signal(SIGCONT).unwrap();
    for pod in [&one, &two] {
        until(&pods, pod, true, 120);
    }
    let round = site.fresh(&vm).unwrap();
    assert!(round.verdict.node.lost > 0);
    assert!(
        round.verdict.failures().any(|f| f.rule == Rule::Losses),
        "{}",
        round.verdict
    );
    let evidence = round.evidence().unwrap();
    for record in evidence.partitions.iter().flat_map(|log| &log.records) {
        if let Some(guard) = record.guard {
            // What was denied once the ring had room again.
            assert_eq!(
                (guard.action, record.ret),
                (GuardAction::ExecutionDeniedOnLoss, -1)
            );
        }
    }

    // An exempt pod goes on; the others do after a while, whether somebody knows of the loss or not.
    stop(&collector);
    let exempt = format!("fail_closed.exempt=/kubepods/burstable/pod{BAD}");
    let collector = start(&vm, &["fail_closed.mode=pods", "fail_closed.lapse=20", &exempt]);
    site.fresh(&vm).unwrap();
    lose(&vm, &collector, 60);
    assert!(executes(&pods, &one, "/app/hello"));
    assert!(!executes(&pods, &two, "/app/hello"));
    until(&pods, &two, true, 120);
    collector.signal(SIGCONT).unwrap();
    vm.power_off().unwrap();
    println!(
        "TIME fail closed on {stock}: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

#[test]
fn a_pod_that_is_not_trusted_can_map_nothing_executable_if_that_is_wanted_on_6_12() {
    let dir = tempfile::tempdir().unwrap();
    let Node { site, vm, .. } = Node::boot(plan(Stock::V6_12), dir.path()).unwrap();
    site.enrol(&vm).unwrap();
    let strict = ["enforce.mode=untrusted-pods", "enforce.mappings=true"];
    let collector = start(&vm, &strict);
    site.fresh(&vm).unwrap();
    let pods = Pods::start(&vm, Runtime::Bare, &[]).unwrap();
    let again = spec::Workload::MapAgain {
        file: "/app/hello".to_owned(),
        outcome: "/tmp/mapped".to_owned(),
    };
    let again = serde_json::to_string(&again).unwrap();
    let mut pod = spec::Pod::burstable("bad", BAD);
    pod.containers = vec![
        pods::container("main", &image(), &["/app/idle"]),
        pods::container("maps", &image(), &["/app/guest", "workload", &again]),
    ];
    let bad = pods.run(&pod).unwrap();
    let maps = pods.pid(&bad, "maps").unwrap();
    until_mapping(&vm, maps, 0);
    let before = site.fresh(&vm).unwrap();
    assert!(before.verdict.trusted, "{}", before.verdict);

    let planted = "busybox cp /app/hello /tmp/planted; echo >> /tmp/planted; /tmp/planted";
    pods.must(&bad, "main", &["/bin/sh", "-c", planted]).unwrap();
    until_mapping(&vm, maps, EPERM);
    let evidence = site.fresh(&vm).unwrap().evidence().unwrap();
    let records = evidence.partitions.iter().flat_map(|log| &log.records);
    let denied = records
        .filter(|r| r.guard.is_some_and(|g| g.action == GuardAction::MappingDenied))
        .find(|r| r.path == b"hello");
    assert_eq!(denied.unwrap().ret, -1);
    // The host's libraries are mapped as ever.
    host_executes(&vm);

    // Without it a process that runs may map what it likes, denied as its executions are.
    stop(&collector);
    let _collector = start(&vm, &strict[..1]);
    until_mapping(&vm, maps, 0);
    assert!(!executes(&pods, &bad, "/app/hello"));
    vm.power_off().unwrap();
}

/// Entries that a pod may have.
const ENTRIES: usize = 30;
/// Programs of its image, each accepted. More than twice as many: what is in the list already is not added
/// again.
const PROGRAMS: usize = 80;

fn hoard() -> Image {
    let image = Image::new("localhost/ima-cgpath/hoard:1")
        .program("/bin/busybox", &oci::busybox().unwrap())
        .link("/bin/sh", "busybox")
        .dir("/proc", 0o755)
        .program("/app/idle", &elf::pause("hoard"))
        .program("/app/hello", &elf::print("hello\n"));
    (0..PROGRAMS).fold(image, |image, n| {
        image.program(&format!("/app/{n}"), &elf::print(&format!("{n}\n")))
    })
}

#[test]
fn a_pod_with_as_many_entries_as_it_may_have_can_execute_nothing_until_it_is_made_anew_on_6_12() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan(Stock::V6_12);
    plan.images = vec![hoard()];
    for pod in &mut plan.pods {
        pod.images = vec![hoard().name().to_owned()];
    }
    let Node { site, vm, .. } = Node::boot(plan, dir.path()).unwrap();
    site.enrol(&vm).unwrap();
    let most = format!("budget.entries={ENTRIES}");
    let collector = start(&vm, &["enforce.mode=untrusted-pods", &most]);
    site.fresh(&vm).unwrap();
    let pods = Pods::start(&vm, Runtime::Bare, &[]).unwrap();
    let run = |name: &str, uid: &str| {
        let mut pod = spec::Pod::burstable(name, uid);
        pod.containers = vec![pods::container("main", &hoard(), &["/app/idle"])];
        pods.run(&pod).unwrap()
    };
    let good = run("good", GOOD);
    assert!(executes(&pods, &good, "/app/hello"));
    // With the first pod came the directory above all of them. Since a round the collector knows it, and each
    // entry of the next pod is counted.
    site.fresh(&vm).unwrap();
    let bad = run("bad", BAD);
    assert!(executes(&pods, &bad, "/app/hello"));
    // Nothing of it is unknown to the policy: it is refused for what it adds to the list alone.
    let all = format!("n=0; while [ $n -lt {PROGRAMS} ]; do /app/$n || exit 7; n=$((n+1)); done");
    let done = pods.exec(&bad, "main", &["/bin/sh", "-c", &all]).unwrap();
    assert_eq!(done.code, 7, "{done:?}");
    assert!(done.stderr.contains("Operation not permitted"), "{done:?}");
    assert!(!executes(&pods, &bad, "/app/hello"));
    assert!(executes(&pods, &good, "/app/hello"));
    host_executes(&vm);

    let round = site.fresh(&vm).unwrap();
    assert!(round.verdict.trusted, "{}", round.verdict);
    let uid = PodUid::parse(BAD.as_bytes()).unwrap();
    let seen = &round.verdict.pod(uid).unwrap().findings;
    assert!(
        seen.iter()
            .any(|f| f.rule == Rule::Guard && f.severity == Severity::Note),
        "{seen:?}"
    );
    let evidence = round.evidence().unwrap();
    let records = evidence.records(PartitionKey::Pod(uid));
    let added = records
        .iter()
        .filter(|r| r.kind == EventKind::Entry && r.ret == 0);
    assert_eq!(added.count(), ENTRIES);
    let denied: Vec<_> = records.iter().filter(|r| r.guard.is_some()).collect();
    assert!(denied.len() >= 2);
    for record in denied {
        let action = record.guard.map(|guard| guard.action);
        assert_eq!(
            (action, record.ret),
            (Some(GuardAction::ExecutionDeniedOnEntries), -1)
        );
    }

    // The count is the pod's, and ends with it.
    pods.remove(&bad).unwrap();
    let anew = run("bad", BAD);
    assert!(executes(&pods, &anew, "/app/hello"));
    // Without the limit nobody is refused anything for it.
    let all = ["/bin/sh", "-c", all.as_str()];
    assert_eq!(pods.exec(&anew, "main", &all).unwrap().code, 7);
    stop(&collector);
    let _collector = start(&vm, &["enforce.mode=untrusted-pods"]);
    site.fresh(&vm).unwrap();
    pods.must(&anew, "main", &all).unwrap();
    vm.power_off().unwrap();
}

#[test]
fn a_pod_that_is_not_trusted_can_execute_nothing_and_all_others_can_on_6_12() {
    enforced(Stock::V6_12, CgroupMode::V2);
}

#[test]
fn a_pod_that_is_not_trusted_can_execute_nothing_and_all_others_can_with_version_1_groups_on_6_12() {
    enforced(Stock::V6_12, CgroupMode::V1);
}

#[test]
fn after_a_loss_pods_can_execute_nothing_until_it_is_known_on_6_12() {
    failed_closed(Stock::V6_12);
}
