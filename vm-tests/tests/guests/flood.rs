//! A pod pays for its own noise: it floods the ring at full speed, and neither the node nor a neighbour feels
//! it.

use cgpath_appraisal::{Rule, State, Subject, Verdict};
use cgpath_evidence::{Checkpoint, EventKind, Evidence, GuardAction, PartitionKey, PodLoss, PodUid, Record};
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_protocol::spec::{Mount, Pod, Workload};
use vm_tests::oci::Image;
use vm_tests::pods::{Pods, Running, Runtime, container};
use vm_tests::scenario::{COLLECTOR, KnownPod, Node, Plan};
use vm_tests::{PATIENCE, Stock, host};

const TOOL: &str = "/app/tool";
const LIBRARY: &str = "/app/library.so";
const HELLO: &str = "/app/hello";
const THREADS: u32 = 8;
/// A sixteenth of the default budget, and several times what it allows: an emulated machine has to do it all.
const BURST: u64 = 512;
const PER_SECOND: u64 = 1;
const MAPPINGS: u32 = 2_000;
const DENIALS: u32 = 600;
/// Without a seccomp profile, with the runtime's own, and one that does nothing wrong.
const PODS: [(&str, &str); 3] = [
    ("noisy", "11111111-0000-4000-8000-0000000000f1"),
    ("confined", "22222222-0000-4000-8000-0000000000f2"),
    ("neighbour", "33333333-0000-4000-8000-0000000000f3"),
];
const NEIGHBOUR: usize = 2;

fn uid(pod: usize) -> PodUid {
    PodUid::parse(PODS[pod].1.as_bytes()).unwrap()
}

fn image() -> Image {
    Image::new("localhost/ima-cgpath/flood:1")
        .dir("/tmp", 0o1777)
        .dir("/proc", 0o755)
        .program("/app/idle", &elf::pause("flood"))
        .program(HELLO, &elf::print("hello\n"))
        .program(LIBRARY, &elf::exit(0, "a library"))
        .program(TOOL, &std::fs::read(host::guest_binary().unwrap()).unwrap())
}

/// What was not recorded of a pod, as it was stated last.
fn loss(evidence: &Evidence, pod: usize) -> PodLoss {
    let records = evidence.records(PartitionKey::Pod(uid(pod)));
    records
        .iter()
        .filter_map(|record| record.pod_loss)
        .next_back()
        .unwrap()
}

fn count(evidence: &Evidence, pod: usize, is_it: impl Fn(&Record) -> bool) -> u64 {
    let records = evidence.records(PartitionKey::Pod(uid(pod)));
    records.iter().filter(|record| is_it(record)).count() as u64
}

/// The flooding pods are untrusted, each for its own loss; nobody else is, and the ring lost nothing.
fn charged(verdict: &Verdict, last: &Checkpoint) {
    assert_eq!(last.losses.total(), 0, "{:?}", last.losses);
    assert!(verdict.node.believed && verdict.node.lost == 0, "{verdict}");
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    for pod in 0..PODS.len() {
        let found = verdict.pod(uid(pod)).unwrap();
        let mut losses = verdict.failures().filter(|finding| {
            finding.rule == Rule::Losses && finding.subject == Subject::Partition(PartitionKey::Pod(uid(pod)))
        });
        if pod == NEIGHBOUR {
            assert_eq!((found.state, losses.count()), (State::Trusted, 0), "{verdict}");
            continue;
        }
        assert_eq!(
            (found.state, found.charged),
            (State::Untrusted, true),
            "{verdict}"
        );
        let finding = losses.next().unwrap();
        assert!(finding.text.contains("more than its budget"), "{finding}");
        assert!(losses.next().is_none());
    }
}

/// What a pod has in evidence is no more than its budget and what is never dropped.
fn bounded(evidence: &Evidence, pod: usize) {
    let records = evidence.records(PartitionKey::Pod(uid(pod)));
    let is_budgeted = |record: &&Record| {
        record.is_execution() || record.guard.is_some_and(|guard| guard.action.is_enforcement())
    };
    let budgeted: Vec<&Record> = records.iter().filter(is_budgeted).collect();
    let (first, last) = (budgeted.first().unwrap(), budgeted.last().unwrap());
    let seconds = (last.boot_ns - first.boot_ns) / 1_000_000_000 + 1;
    let most = BURST + PER_SECOND * seconds;
    let bytes: usize = records.iter().map(|record| record.to_cbor().len()).sum();
    println!(
        "MEASURED flood by {}: {} records within {seconds} s, {most} at most; {bytes} bytes in all; {} \
         records of its loss; {:?}",
        PODS[pod].0,
        budgeted.len(),
        count(evidence, pod, |record| record.kind == EventKind::PodLoss),
        loss(evidence, pod),
    );
    assert!(budgeted.len() as u64 <= most);
    assert!(
        budgeted.len() as u64 > BURST / 4,
        "the flood met its limit early: the test shows little"
    );
    assert!(bytes as u64 <= (most + 1000) * 512);
    // Doubled each time, and once a minute.
    assert!(
        count(evidence, pod, |record| record.kind == EventKind::PodLoss)
            < 32 + u64::from(THREADS) + seconds / 60
    );
}

/// The numbers that both flooding pods write down once they did a part.
fn until(node: &Node, what: &str) -> [u64; 2] {
    let begin = Instant::now();
    let said = |at: usize, what: &str| {
        let path = format!("/run/outcome/{}/{what}", PODS[at].0);
        node.vm.get_text(&path).ok()
    };
    loop {
        for (at, (name, _)) in PODS.iter().enumerate().take(NEIGHBOUR) {
            if let Some(why) = said(at, "failed") {
                panic!("{name} did not do what it was to do: {why}");
            }
        }
        let numbers = [0, 1].map(|at| said(at, what).map(|text| text.parse().unwrap()));
        if let [Some(one), Some(other)] = numbers {
            return [one, other];
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: {numbers:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_pod_that_floods_the_ring_is_charged_for_it_alone_also_while_it_is_denied() {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::restored(Stock::V6_12);
    plan.runtime = Runtime::Containerd;
    plan.settings = vec![
        "enforce.mode=untrusted-pods".to_owned(),
        format!("budget.burst={BURST}"),
        format!("budget.per_second={PER_SECOND}"),
    ];
    plan.images = vec![image()];
    plan.pods = PODS
        .map(|(name, uid)| KnownPod {
            uid: uid.to_owned(),
            name: format!("flood/{name}"),
            images: vec![image().name().to_owned()],
            host_paths: Vec::new(),
        })
        .to_vec();
    let node = Node::boot(plan, dir.path()).unwrap();
    let (_collector, _) = node.start_collector().unwrap();
    let pods = Pods::start(&node.vm, Runtime::Containerd, &[&image()]).unwrap();
    let run = |at: usize, command: &[&str]| -> Running {
        let (name, uid) = PODS[at];
        node.vm.sh(&format!("mkdir -p /run/outcome/{name}")).unwrap();
        let mut pod = Pod::burstable(name, uid);
        pod.confined = name == "confined";
        let mut main = container("main", &image(), command);
        main.mounts.push(Mount {
            host: format!("/run/outcome/{name}"),
            container: "/outcome".to_owned(),
            read_only: false,
        });
        pod.containers.push(main);
        pods.run(&pod).unwrap()
    };
    let neighbour = run(NEIGHBOUR, &["/app/idle"]);
    // Not too often: each of these is paid for by the neighbour's own budget.
    let good = || assert_eq!(pods.must(&neighbour, "main", &[HELLO]).unwrap(), "hello\n");
    good();
    let before = node.fresh().unwrap();
    assert!(before.verdict.trusted, "{}", before.verdict);

    let flood = serde_json::to_string(&Workload::Flood {
        library: LIBRARY.to_owned(),
        program: HELLO.to_owned(),
        outcome: "/outcome".to_owned(),
        threads: THREADS,
        mappings: MAPPINGS,
        denials: DENIALS,
    })
    .unwrap();
    let noisy = [0, 1].map(|at| run(at, &[TOOL, "workload", &flood]));
    good();
    assert_eq!(until(&node, "mapped"), [u64::from(MAPPINGS); 2]);
    let round = node.fresh().unwrap();
    charged(&round.verdict, &round.checkpoints().unwrap().pop().unwrap());
    assert!(loss(&round.evidence().unwrap(), 0).mappings > u64::from(MAPPINGS) / 4);
    // The daemon says so, too, and by name.
    let status = node.vm.sh(&format!("{COLLECTOR} status --json")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let budgets = &status["budgets"];
    assert_eq!(
        (&budgets["burst"], &budgets["beyond"]),
        (&BURST.into(), &2.into())
    );
    for at in 0..NEIGHBOUR {
        let mut named = budgets["top"].as_array().unwrap().iter();
        let pod = named.rfind(|pod| pod["pod"] == uid(at).to_string());
        let mappings = pod.unwrap()["mappings"].as_u64().unwrap();
        assert!(mappings > u64::from(MAPPINGS) / 4, "{budgets}");
    }

    // That verdict denies both their executions: the denials of a loop of them fall under the same budget.
    let denied = until(&node, "denied");
    good();
    let round = node.fresh().unwrap();
    charged(&round.verdict, &round.checkpoints().unwrap().pop().unwrap());

    // What is left to state is stated when a pod ends: nothing went without a record or a count.
    for pod in &noisy {
        pods.remove(pod).unwrap();
        let parent = format!("/sys/fs/cgroup{}", pod.pod.cgroup_parent);
        node.vm
            .sh(&format!(
                "n=0; until [ ! -d {parent} ] || rmdir {parent}; do n=$((n+1)); [ $n -lt 5000 ]; \
                sleep 0.1; done"
            ))
            .unwrap();
    }
    good();
    let round = node.fresh().unwrap();
    charged(&round.verdict, &round.checkpoints().unwrap().pop().unwrap());
    let evidence = round.evidence().unwrap();
    for (at, denied) in denied.into_iter().enumerate() {
        bounded(&evidence, at);
        let loss = loss(&evidence, at);
        let mapped = count(&evidence, at, |record| {
            record.kind == EventKind::Mapping && record.path == LIBRARY.as_bytes()
        });
        assert!(
            mapped + loss.mappings >= u64::from(MAPPINGS),
            "{mapped} and {loss:?}"
        );
        let stated = count(&evidence, at, |record| {
            record
                .guard
                .is_some_and(|guard| guard.action == GuardAction::ExecutionDenied)
        });
        assert_eq!(stated + loss.denials, denied, "{loss:?}");
        assert!(loss.denials > 0 && loss.first_ns < loss.last_ns);
    }
    println!(
        "TIME flood by two pods: {:.1} s\n{}",
        begin.elapsed().as_secs_f64(),
        round.verdict
    );
    node.vm.power_off().unwrap();
}
