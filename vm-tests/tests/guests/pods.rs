//! Pods in a guest, with no collector: what the other tests build on.

use vm_protocol::elf;
use vm_protocol::spec::{ChainLink, Pod, Workload};
use vm_tests::oci::Image;
use vm_tests::pods::{self, Pods, Runtime};
use vm_tests::{Stock, Vm, VmBuilder, scenario};

const UID: &str = "12345678-0000-4000-8000-000000000001";

fn restored(stock: Stock) -> VmBuilder {
    Vm::builder(stock)
        .restored(true)
        .ima_policy(scenario::ima_policy())
}

fn pods_run(stock: Stock, runtime: Runtime) {
    let begin = std::time::Instant::now();
    let image = Image::new("localhost/test/a:1")
        .program("/bin/busybox", &vm_tests::oci::busybox().unwrap())
        .link("/bin/sh", "busybox")
        .dir("/proc", 0o755)
        .program("/app/idle", &elf::pause("a"));
    let scratch = tempfile::tempdir().unwrap();
    let builder = pods::prepare(restored(stock), runtime, &[&image], scratch.path()).unwrap();
    let vm = builder.start().unwrap();
    assert_eq!(vm.hello().failures, Vec::<String>::new());
    let pods = Pods::start(&vm, runtime, &[&image]).unwrap();
    eprintln!(
        "{stock} {runtime:?}: runtime up after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let mut pod = Pod::burstable("a", UID);
    pod.containers
        .push(pods::container("idle", &image, &["/app/idle"]));
    let running = pods.run(&pod).unwrap();
    eprintln!(
        "{stock} {runtime:?}: pod up after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let said = pods
        .must(&running, "idle", &["/bin/sh", "-c", "echo $((6 * 7))"])
        .unwrap();
    assert_eq!(said, "42\n");
    assert_eq!(
        pods.exec(&running, "idle", &["/bin/sh", "-c", "exit 7"])
            .unwrap()
            .code,
        7
    );
    let cgroup = format!("{}/{}/cgroup.procs", pod.cgroup_parent, running.ids.containers[0]);
    let procs = vm.get_text(&format!("/sys/fs/cgroup{cgroup}")).unwrap();
    assert_eq!(procs.lines().count(), 1, "{procs}");
    pods.remove(&running).unwrap();
    eprintln!(
        "{stock} {runtime:?}: all after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    vm.power_off().unwrap();
}

#[test]
fn a_pod_of_containerd_runs_in_the_cgroup_that_a_kubelet_would_give_it() {
    pods_run(Stock::V6_12, Runtime::Containerd);
}

#[test]
fn a_pod_without_a_runtime_runs_in_the_same_cgroup() {
    pods_run(Stock::V6_12, Runtime::Bare);
}

#[test]
fn workloads_do_what_they_say() {
    let vm = restored(Stock::V6_12).start().unwrap();
    let work = |workload: &Workload| {
        let text = serde_json::to_string(workload).unwrap();
        let out = vm.run(&["guest", "workload", &text]).unwrap().check().unwrap();
        out.stdout
    };
    let dir = "/var/tmp/w".to_owned();
    let chain: Vec<ChainLink> = serde_json::from_slice(&work(&Workload::Chain { dir: dir.clone() })).unwrap();
    assert_eq!(chain.len(), 5);
    for (at, link) in chain.iter().enumerate() {
        assert_eq!(link.lineage.last().unwrap().pid, 1);
        if at > 0 {
            assert_eq!(link.lineage[1..], chain[at - 1].lineage[..]);
        }
    }
    assert!(chain[2].started_as.ends_with("/script"));
    work(&Workload::AnonymousExec);
    work(&Workload::PageZero { dir: dir.clone() });
    work(&Workload::LateMapping { dir: dir.clone() });
    work(&Workload::OpenWriters { dir: dir.clone() });
    work(&Workload::TomTou { dir: dir.clone() });
    work(&Workload::Vanish {
        dir: dir.clone(),
        cgroup: format!("/kubepods/burstable/pod{UID}/x"),
    });
    let burst = Workload::Burst {
        dir,
        count: 20,
        cgroups: vec![
            format!("/kubepods/burstable/pod{UID}/y"),
            "/system.slice/z".to_owned(),
        ],
    };
    let burst: vm_protocol::spec::Burst = serde_json::from_slice(&work(&burst)).unwrap();
    eprintln!("20 programs took {} ms", burst.millis);
    assert_eq!(burst.runs.len(), 20);
    vm.power_off().unwrap();
}
