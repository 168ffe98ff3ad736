//! What a file of a container is, beyond the overlay that it is seen through: who writes it where its layer
//! lies, and on what kind of file system it is.
//!
//! One guest of each kernel: pods of one image run, then one of them, which has the images' directory of the
//! host, writes there. Each test reads what became of one pod.

use super::per_kernel::PerKernel;
use cgpath_appraisal::{Rule, State, Verdict};
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::{Entry, EventKind, Evidence, LayerFile, PartitionKey, PodUid, Record};
use cgpath_testkit::EXT4;
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_protocol::spec::{Mount, Pod, Workload};
use vm_tests::oci::{self, Image};
use vm_tests::pods::{self, BARE_RUNTIME, Pods, Running, Runtime};
use vm_tests::scenario::{KnownPod, Node, Plan, WORKLOADS};
use vm_tests::{PATIENCE, Process, Stock};

/// Two that run one image, one that runs another, one that writes, one that has a file open for writing and
/// one that starts meanwhile, one whose file is written through an overlay of a pod's own and the pod that
/// does it, one that runs a copy of its own and the pod that writes that one, and one with a file that a
/// process serves.
const PODS: [&str; 11] = [
    "one",
    "two",
    "other",
    "writer",
    "holder",
    "late",
    "below",
    "overlayer",
    "copied",
    "upper",
    "served",
];
/// Where images and upper directories lie in the guest, and where writers have them.
const IMAGES: &str = "/var/lib/bare/images";
const UPPERS: &str = "/var/lib/bare/pods";
const LAYERS: &str = "/layers";
/// What both run, what the late one does, the one below another overlay, and the one with a copy.
const IDLE: &str = "/app/idle";
const LATE: &str = "/app/late";
const BELOW: &str = "/app/below";
const COPIED: &str = "/app/copied";
const SERVED: &str = "/srv/served/program";
/// The kernel that has FUSE without a module.
const SERVES: Stock = Stock::V6_12;

fn uid(pod: &str) -> String {
    let at = PODS.iter().position(|name| *name == pod).unwrap_or(PODS.len());
    format!("00000000-0000-4000-8000-00000000cc{at:02}")
}

fn key(pod: &str) -> PodUid {
    PodUid::parse(uid(pod).as_bytes()).unwrap()
}

fn image(name: &str) -> Image {
    Image::new(&format!("localhost/ima-cgpath/{name}:1"))
        .program("/bin/busybox", &oci::busybox().unwrap())
        .link("/bin/sh", "busybox")
        .dir("/proc", 0o755)
        .program(IDLE, &elf::pause(name))
        .program(LATE, &elf::pause(&format!("{name}, late")))
        .program(BELOW, &elf::pause(&format!("{name}, below")))
        .program(COPIED, &elf::pause(&format!("{name}, copied")))
}

/// The directory of an image in the guest.
fn directory(name: &str) -> String {
    format!("localhost_ima-cgpath_{name}_1")
}

/// A device as records have it, major << 20 | minor, by what stat(2) says.
fn device(dev: u64) -> u64 {
    let (major, minor) = ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00));
    major << 20 | minor
}

struct Facts {
    /// Before anything was written, and at the end.
    before: Verdict,
    verdict: Verdict,
    evidence: Evidence,
    /// The file in the layer as the layer's directory shows it: device and inode number.
    layer: (u64, u64),
}

fn run(pods: &Pods<'_>, name: &str, image: &Image, command: &[&str], mount: Option<(&str, &str)>) -> Running {
    let mut pod = Pod::burstable(name, &uid(name));
    let mut main = pods::container("main", image, command);
    main.mounts.extend(mount.map(|(host, container)| Mount {
        host: host.to_owned(),
        container: container.to_owned(),
        read_only: false,
    }));
    pod.containers = vec![main];
    pods.run(&pod).unwrap()
}

/// Waits until the first process of a pod runs this program.
fn becomes(node: &Node, pods: &Pods<'_>, running: &Running, program: &str) {
    let begin = Instant::now();
    let exe = format!("readlink /proc/{}/exe", pods.pid(running, "main").unwrap());
    while node.vm.sh(&exe).is_ok_and(|exe| !exe.trim().ends_with(program)) {
        assert!(begin.elapsed() < PATIENCE, "it does not run {program}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Begins to serve a file where it lies, and waits until it is served.
fn serve(node: &Node) -> Process<'_> {
    let work = serde_json::to_string(&Workload::Serve { file: SERVED.into() }).unwrap();
    let command = node.vm.command(&[BARE_RUNTIME, "workload", work.as_str()]);
    let process = command.cgroup(WORKLOADS).spawn("/var/log/served.log").unwrap();
    let begin = Instant::now();
    while node.vm.sh("grep -q ' /srv/served fuse' /proc/mounts").is_err() {
        let is_over = begin.elapsed() > PATIENCE || process.wait(Duration::ZERO).unwrap().is_some();
        assert!(!is_over, "it is not served: {}", process.log().unwrap());
        std::thread::sleep(Duration::from_millis(100));
    }
    process
}

fn gather(stock: Stock) -> anyhow::Result<Facts> {
    let dir = tempfile::tempdir()?;
    let (same, other) = (image("same"), image("other"));
    let mut plan = Plan::restored(stock);
    plan.runtime = Runtime::Bare;
    plan.images = vec![same.clone(), other.clone()];
    plan.files = vec![(SERVED.to_owned(), elf::print("served\n"), 0o755)];
    plan.pods = PODS
        .iter()
        .map(|pod| KnownPod {
            uid: uid(pod),
            name: format!("overlays/{pod}"),
            images: vec![same.name().to_owned(), other.name().to_owned()],
            host_paths: vec![SERVED.to_owned()],
        })
        .collect();
    let node = Node::boot(plan, dir.path())?;
    let (_collector, _) = node.start_collector()?;
    let pods = Pods::start(&node.vm, Runtime::Bare, &[])?;
    run(&pods, "one", &same, &[IDLE], None);
    run(&pods, "two", &same, &[IDLE], None);
    run(&pods, "other", &other, &[IDLE], None);
    let writer = run(&pods, "writer", &other, &[IDLE], Some((IMAGES, LAYERS)));
    let before = node.fresh()?.verdict;
    let below = |file: &str| format!("{}{file}", directory("same"));
    let stat = node.vm.sh(&format!("stat -c '%d %i' {IMAGES}/{}", below(IDLE)))?;
    let (dev, ino) = stat.trim().split_once(' ').unwrap();
    let layer = (device(dev.parse()?), ino.parse()?);
    let sh = |script: &str| pods.must(&writer, "main", &["/bin/sh", "-c", script]);
    // Twice: the first is recorded.
    for _ in 0..2 {
        sh(&format!("echo more >> {LAYERS}/{}", below(IDLE)))?;
    }
    // Another one goes on with the other file open.
    let script = format!("exec 3>>{LAYERS}/{}; exec {IDLE}", below(LATE));
    let command = ["/bin/sh", "-c", &script];
    let holder = run(&pods, "holder", &other, &command, Some((IMAGES, LAYERS)));
    becomes(&node, &pods, &holder, IDLE);
    run(&pods, "late", &same, &[LATE], None);
    // The layer of the one is the upper directory of the other's own overlay. IMA knows them as two files.
    run(&pods, "below", &same, &[BELOW], None);
    let overlayer = run(&pods, "overlayer", &other, &[IDLE], Some((IMAGES, LAYERS)));
    let layers = format!(
        "lowerdir={LAYERS}/lower,upperdir={LAYERS}/{},workdir={LAYERS}/work",
        directory("same")
    );
    let script = format!(
        "/bin/busybox mkdir -p {LAYERS}/lower {LAYERS}/work /own \
         && /bin/busybox mount -t overlay own -o {layers} /own && echo more >> /own{BELOW}"
    );
    pods.must(&overlayer, "main", &["/bin/sh", "-c", &script])?;
    // A change of its times gives a pod a copy of its own.
    let script = format!("/bin/busybox touch {COPIED}; exec {COPIED}");
    let copied = run(&pods, "copied", &same, &["/bin/sh", "-c", &script], None);
    becomes(&node, &pods, &copied, COPIED);
    let upper = run(&pods, "upper", &other, &[IDLE], Some((UPPERS, LAYERS)));
    let id = &copied.ids.containers[0];
    let script = format!("echo more >> {LAYERS}/{id}/upper{COPIED}");
    pods.must(&upper, "main", &["/bin/sh", "-c", &script])?;
    let _server = if stock == SERVES { Some(serve(&node)) } else { None };
    if stock == SERVES {
        let served = run(
            &pods,
            "served",
            &other,
            &[IDLE],
            Some(("/srv/served", "/srv/served")),
        );
        assert_eq!(pods.must(&served, "main", &[SERVED])?, "served\n");
    }
    let round = node.fresh()?;
    let facts = Facts {
        before,
        verdict: round.verdict.clone(),
        evidence: round.evidence()?,
        layer,
    };
    node.vm.power_off()?;
    Ok(facts)
}

fn facts(stock: Stock) -> &'static Facts {
    static FACTS: PerKernel<Facts> = PerKernel::new();
    FACTS.of(stock, gather)
}

impl Facts {
    fn records(&self, pod: &str) -> impl Iterator<Item = &Record> {
        self.evidence.records(PartitionKey::Pod(key(pod))).iter()
    }

    /// The layer's file that this pod executed at a path, and what tells its overlay from others.
    fn executed(&self, pod: &str, path: &str) -> (LayerFile, u64) {
        let is_it = |r: &&Record| r.kind == EventKind::Execution && r.path == path.as_bytes();
        let record = self.records(pod).find(is_it).unwrap();
        let identity = record.identity.as_ref().unwrap();
        // The guest's disk.
        assert_eq!(identity.magic, EXT4, "{record:?}");
        (identity.layer.unwrap(), identity.generation)
    }

    fn state(&self, pod: &str) -> State {
        self.verdict.pod(key(pod)).unwrap().state
    }

    /// The rules that a pod fails by.
    fn fails(&self, pod: &str) -> Vec<Rule> {
        let pod = self.verdict.pod(key(pod)).unwrap();
        let own = self.verdict.failures().filter(|f| pod.findings.contains(f));
        let mut rules: Vec<Rule> = own.map(|f| f.rule).collect();
        rules.dedup();
        rules
    }
}

fn a_record_names_the_layers_file(stock: Stock) {
    let facts = facts(stock);
    assert!(facts.before.trusted, "{}", facts.before);
    let (one, first) = facts.executed("one", IDLE);
    let (two, second) = facts.executed("two", IDLE);
    assert_eq!((one.dev, one.ino), facts.layer);
    assert_eq!(one, two, "one image is one file");
    assert_ne!(first, second, "each overlay is another one");
    let (other, _) = facts.executed("other", IDLE);
    assert_ne!(other.ino, one.ino);
    // The entry names the same file as the execution.
    let entries = facts.records("one").filter(|r| r.kind == EventKind::Entry);
    let mut entries = entries.filter(|r| r.path == IDLE.as_bytes());
    assert_eq!(
        entries.next().unwrap().identity.as_ref().unwrap().layer,
        Some(one)
    );
}

fn a_writer_in_a_layers_directory_is_charged_and_so_is_who_runs_the_file(stock: Stock) {
    let facts = facts(stock);
    let writes: Vec<&Record> = facts
        .records("writer")
        .filter(|r| r.kind == EventKind::LayerWrite)
        .collect();
    let path = format!("{LAYERS}/{}{IDLE}", directory("same"));
    let [write] = writes[..] else { panic!("{writes:?}") };
    assert_eq!(
        (write.path.as_slice(), (write.dev, write.ino)),
        (path.as_bytes(), facts.layer)
    );
    let (layer, _) = facts.executed("one", IDLE);
    let identity = write.identity.as_ref().unwrap();
    assert_eq!(identity.generation, u64::from(layer.generation));
    for pod in ["writer", "one", "two"] {
        assert_eq!(facts.fails(pod), [Rule::Violations], "{pod}: {}", facts.verdict);
    }
    assert_eq!(facts.state("other"), State::Trusted, "{}", facts.verdict);
    assert_eq!(facts.verdict.node.state, State::Trusted, "{}", facts.verdict);
    // IMA saw nothing of it.
    let is_violation = |entry: &Entry| {
        let Entry::Full(bytes) = entry else {
            panic!("an entry is redacted")
        };
        ListEntry::from_canonical(0, bytes.as_slice())
            .unwrap()
            .is_violation()
    };
    assert!(!facts.evidence.list.iter().any(is_violation));
}

fn a_writer_through_an_overlay_of_its_own_is_charged_and_so_is_who_runs_the_file(stock: Stock) {
    let facts = facts(stock);
    let is_write = |r: &&Record| r.kind == EventKind::LayerWrite;
    let writes: Vec<&Record> = facts.records("overlayer").filter(is_write).collect();
    let [write] = writes[..] else { panic!("{writes:?}") };
    let (layer, _) = facts.executed("below", BELOW);
    let identity = write.identity.as_ref().unwrap();
    assert_eq!(identity.layer, Some(layer), "{write:?}");
    assert_eq!(write.path, format!("/own{BELOW}").into_bytes());
    for pod in ["overlayer", "below"] {
        assert_eq!(facts.fails(pod), [Rule::Violations], "{pod}: {}", facts.verdict);
    }
}

fn a_writer_in_an_upper_directory_is_charged_and_so_is_its_pod(stock: Stock) {
    let facts = facts(stock);
    let is_write = |r: &&Record| r.kind == EventKind::LayerWrite;
    let writes: Vec<&Record> = facts.records("upper").filter(is_write).collect();
    let [write] = writes[..] else { panic!("{writes:?}") };
    let (layer, _) = facts.executed("copied", COPIED);
    assert_eq!((write.dev, write.ino), (layer.dev, layer.ino), "{write:?}");
    for pod in ["upper", "copied"] {
        assert_eq!(facts.fails(pod), [Rule::Violations], "{pod}: {}", facts.verdict);
    }
}

fn a_file_that_is_open_for_writing_in_its_layer_makes_who_runs_it_untrusted(stock: Stock) {
    let facts = facts(stock);
    let is_open = |pod: &str, path: &str| {
        let is_it = |r: &&Record| r.kind == EventKind::Execution && r.path == path.as_bytes();
        let record = facts.records(pod).find(is_it).unwrap();
        record.identity.as_ref().unwrap().written
    };
    assert!(is_open("late", LATE) && !is_open("one", IDLE));
    assert_eq!(facts.fails("late"), [Rule::Violations], "{}", facts.verdict);
}

#[test]
fn a_file_that_a_process_serves_makes_its_pod_untrusted_on_6_12() {
    let facts = facts(SERVES);
    assert_eq!(facts.fails("served"), [Rule::PodContents], "{}", facts.verdict);
    let pod = facts.verdict.pod(key("served")).unwrap();
    let failures = || facts.verdict.failures().filter(|f| pod.findings.contains(f));
    assert!(
        failures().all(|f| f.found.as_deref() == Some("fuse")),
        "{}",
        facts.verdict
    );
    assert!(failures().any(|f| f.path.as_deref() == Some(SERVED.as_bytes())));
}

#[test]
fn a_record_names_the_layers_file_on_6_12() {
    a_record_names_the_layers_file(Stock::V6_12);
}

#[test]
fn a_record_names_the_layers_file_on_6_1() {
    a_record_names_the_layers_file(Stock::V6_1);
}

#[test]
fn a_record_names_the_layers_file_on_7_3() {
    a_record_names_the_layers_file(Stock::V7_3);
}

#[test]
fn a_writer_in_a_layers_directory_is_charged_and_so_is_who_runs_the_file_on_6_12() {
    a_writer_in_a_layers_directory_is_charged_and_so_is_who_runs_the_file(Stock::V6_12);
}

#[test]
fn a_writer_in_a_layers_directory_is_charged_and_so_is_who_runs_the_file_on_6_1() {
    a_writer_in_a_layers_directory_is_charged_and_so_is_who_runs_the_file(Stock::V6_1);
}

#[test]
fn a_writer_in_a_layers_directory_is_charged_and_so_is_who_runs_the_file_on_7_3() {
    a_writer_in_a_layers_directory_is_charged_and_so_is_who_runs_the_file(Stock::V7_3);
}

#[test]
fn a_writer_through_an_overlay_of_its_own_is_charged_and_so_is_who_runs_the_file_on_6_12() {
    a_writer_through_an_overlay_of_its_own_is_charged_and_so_is_who_runs_the_file(Stock::V6_12);
}

#[test]
fn a_writer_in_an_upper_directory_is_charged_and_so_is_its_pod_on_6_12() {
    a_writer_in_an_upper_directory_is_charged_and_so_is_its_pod(Stock::V6_12);
}

#[test]
fn a_file_that_is_open_for_writing_in_its_layer_makes_who_runs_it_untrusted_on_6_12() {
    a_file_that_is_open_for_writing_in_its_layer_makes_who_runs_it_untrusted(Stock::V6_12);
}

#[test]
fn a_writer_through_an_overlay_of_its_own_is_charged_and_so_is_who_runs_the_file_on_6_1() {
    a_writer_through_an_overlay_of_its_own_is_charged_and_so_is_who_runs_the_file(Stock::V6_1);
}

#[test]
fn a_writer_in_an_upper_directory_is_charged_and_so_is_its_pod_on_6_1() {
    a_writer_in_an_upper_directory_is_charged_and_so_is_its_pod(Stock::V6_1);
}

#[test]
fn a_file_that_is_open_for_writing_in_its_layer_makes_who_runs_it_untrusted_on_6_1() {
    a_file_that_is_open_for_writing_in_its_layer_makes_who_runs_it_untrusted(Stock::V6_1);
}

#[test]
fn a_writer_through_an_overlay_of_its_own_is_charged_and_so_is_who_runs_the_file_on_7_3() {
    a_writer_through_an_overlay_of_its_own_is_charged_and_so_is_who_runs_the_file(Stock::V7_3);
}

#[test]
fn a_writer_in_an_upper_directory_is_charged_and_so_is_its_pod_on_7_3() {
    a_writer_in_an_upper_directory_is_charged_and_so_is_its_pod(Stock::V7_3);
}

#[test]
fn a_file_that_is_open_for_writing_in_its_layer_makes_who_runs_it_untrusted_on_7_3() {
    a_file_that_is_open_for_writing_in_its_layer_makes_who_runs_it_untrusted(Stock::V7_3);
}
