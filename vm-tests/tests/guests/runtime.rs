//! Names of pods by the real container runtime: they stand beside the verdict and choose who is sent a
//! bundle.

use cgpath_evidence::TenantBundle;
use serde_json::Value;
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_protocol::spec::Pod;
use vm_tests::oci::{self, Image};
use vm_tests::pods::{Pods, Runtime, container};
use vm_tests::scenario::{COLLECTOR, KnownPod, Node, Plan};
use vm_tests::{Stock, Vm};

const PODS: [(&str, &str); 2] = [
    ("till", "77777777-0000-4000-8000-000000000001"),
    ("book", "77777777-0000-4000-8000-000000000002"),
];

const SINKS: &str = r#"
[runtimes]
cri = "unix:///run/containerd/containerd.sock"

[[sink]]
name = "tills"
kind = "file"
to = "/var/spool/tills"
namespaces = ["demo"]
labels = { "io.kubernetes.pod.name" = "till" }
interval = 1

[[sink]]
name = "others"
kind = "file"
to = "/var/spool/others"
namespaces = ["elsewhere"]
interval = 1
"#;

fn status(vm: &Vm) -> Value {
    let said = vm.command(&[COLLECTOR, "status"]).run().unwrap().check().unwrap();
    serde_json::from_slice(&said.stdout).unwrap()
}

/// Waits until `done` says what of the status.
fn until(vm: &Vm, done: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let status = status(vm);
        if done(&status) {
            return status;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "{status:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn containerd_names_pods_and_a_sink_gets_those_of_its_namespace_and_label() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new("localhost/ima-cgpath/shop:1")
        .program("/bin/busybox", &oci::busybox().unwrap())
        .link("/bin/sh", "busybox")
        .program("/app/idle", &elf::pause("shop"));
    let mut plan = Plan::restored(Stock::V6_12);
    plan.runtime = Runtime::Containerd;
    plan.images = vec![image.clone()];
    plan.config = SINKS.to_owned();
    plan.pods = PODS
        .iter()
        .map(|(name, uid)| KnownPod {
            uid: (*uid).to_owned(),
            name: format!("policy/{name}"),
            images: vec![image.name().to_owned()],
            host_paths: Vec::new(),
        })
        .collect();
    let node = Node::boot(plan, dir.path()).unwrap();
    let (_collector, _) = node.start_collector().unwrap();
    let pods = Pods::start(&node.vm, Runtime::Containerd, &[&image]).unwrap();
    for (name, uid) in PODS {
        let mut pod = Pod::burstable(name, uid);
        pod.containers.push(container("main", &image, &["/app/idle"]));
        pods.run(&pod).unwrap();
    }
    let named = until(&node.vm, |status| status["runtime"]["pods"] == 2);
    assert_eq!(named["runtime"]["error"], Value::Null);
    until(&node.vm, |status| {
        status["sinks"][0]["delivered"].as_u64() > Some(1) && status["sinks"][0]["unnamed"] == 0
    });
    assert_eq!(status(&node.vm)["sinks"][1]["delivered"], 0);
    let listed = node.vm.sh("ls /var/spool/tills").unwrap();
    let bundles: Vec<&str> = listed.lines().filter(|name| name.ends_with(".cbor")).collect();
    assert!(bundles.len() > 1, "{listed}");
    for name in bundles {
        let bytes = node.vm.get(&format!("/var/spool/tills/{name}")).unwrap();
        let bundle = TenantBundle::from_cbor(&bytes).unwrap();
        assert_eq!(bundle.pod.to_string(), PODS[0].1);
    }
    // The names are the runtime's, and trust is by UID: the policy has other names for them.
    let seen = |round: &vm_tests::scenario::Round| -> Vec<String> {
        assert!(round.verdict.trusted, "{}", round.verdict);
        let pods = round
            .verdict
            .pods
            .iter()
            .filter(|pod| PODS.iter().any(|(_, uid)| pod.uid.to_string() == *uid));
        pods.map(|pod| pod.told.clone().unwrap_or_default()).collect()
    };
    assert_eq!(seen(&node.fresh().unwrap()), ["demo/till", "demo/book"]);

    // Without the runtime everything goes on by what it reported before.
    node.vm.sh("kill $(pidof containerd)").unwrap();
    let dead = until(&node.vm, |status| status["runtime"]["error"] != Value::Null);
    let delivered = dead["sinks"][0]["delivered"].as_u64();
    until(&node.vm, |status| {
        status["sinks"][0]["delivered"].as_u64() > delivered
    });
    assert_eq!(seen(&node.fresh().unwrap()), ["demo/till", "demo/book"]);
}
