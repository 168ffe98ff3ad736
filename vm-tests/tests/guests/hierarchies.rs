//! Guests whose control groups are version 1, or both: pods are found by their paths there too.

use cgpath_appraisal::State;
use cgpath_evidence::{EventKind, PartitionKey, PodUid, SealedCheckpoint};
use std::time::Instant;
use vm_protocol::elf;
use vm_protocol::spec::Pod;
use vm_tests::oci::Image;
use vm_tests::pods::{self, Pods};
use vm_tests::scenario::{KnownPod, Node, Plan};
use vm_tests::{CgroupMode, Stock};

const UID: &str = "12345678-0000-4000-8000-000000000001";

fn pod_is_attributed(stock: Stock, mode: CgroupMode, hierarchy: &str) {
    let begin = Instant::now();
    let image = Image::new("localhost/test/app:1")
        .dir("/proc", 0o755)
        .program("/app/idle", &elf::pause("hierarchy"))
        .program("/app/once", &elf::print("once\n"));
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::new(stock);
    plan.cgroup = mode;
    plan.images = vec![image.clone()];
    plan.pods = vec![KnownPod {
        uid: UID.to_owned(),
        name: "test/app".to_owned(),
        images: vec![image.name().to_owned()],
        host_paths: Vec::new(),
    }];
    let node = Node::boot(plan, dir.path()).unwrap();
    let (_collector, _) = node.start_collector().unwrap();
    let pods = Pods::start(&node.vm, node.plan.runtime, &[&image]).unwrap();
    let mut pod = Pod::burstable("app", UID);
    pod.containers
        .push(pods::container("app", &image, &["/app/idle"]));
    let running = pods.run(&pod).unwrap();
    assert_eq!(pods.must(&running, "app", &["/app/once"]).unwrap(), "once\n");
    let round = node.fresh().unwrap();
    assert_eq!(round.verdict.node.state, State::Trusted, "{}", round.verdict);
    let uid = PodUid::parse(UID.as_bytes()).unwrap();
    let appraised = round
        .verdict
        .pod(uid)
        .unwrap_or_else(|| panic!("the pod is not there:\n{}", round.verdict));
    assert_eq!(appraised.state, State::Trusted, "{}", round.verdict);
    let evidence = round.evidence().unwrap();
    let last = SealedCheckpoint::from_file(evidence.checkpoints.last().unwrap())
        .unwrap()
        .checkpoint;
    assert!(
        last.hierarchy.starts_with(hierarchy),
        "hierarchy {}, not {hierarchy}",
        last.hierarchy
    );
    let cgroup = format!("{}/{}", pod.cgroup_parent, running.ids.containers[0]);
    for program in ["/app/idle", "/app/once"] {
        let record = evidence
            .records(PartitionKey::Pod(uid))
            .iter()
            .find(|r| r.kind == EventKind::Execution && r.path == program.as_bytes())
            .unwrap_or_else(|| panic!("no execution of {program} in the pod"));
        assert_eq!(record.cgroup.as_deref(), Some(cgroup.as_bytes()));
    }
    node.vm.power_off().unwrap();
    println!("TIME {mode:?} on {stock}: {:.1} s", begin.elapsed().as_secs_f64());
}

#[test]
fn a_pod_is_attributed_by_its_version_1_path_on_6_12() {
    pod_is_attributed(Stock::V6_12, CgroupMode::V1, "v1:");
}

#[test]
fn a_pod_is_attributed_by_its_version_1_path_on_6_1() {
    pod_is_attributed(Stock::V6_1, CgroupMode::V1, "v1:");
}

#[test]
fn a_pod_is_attributed_where_both_versions_are_mounted_on_6_12() {
    pod_is_attributed(Stock::V6_12, CgroupMode::Hybrid, "hybrid:");
}

#[test]
fn a_pod_is_attributed_where_both_versions_are_mounted_on_6_1() {
    pod_is_attributed(Stock::V6_1, CgroupMode::Hybrid, "hybrid:");
}
