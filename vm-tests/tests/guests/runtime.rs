//! Names of pods by the real container runtime: they are records of their pods, stand beside the verdict, and
//! choose who is sent a bundle.

use cgpath_evidence::{EventKind, Evidence, Named, PartitionKey, PodUid, Record, TenantBundle, cgroup};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_protocol::spec::Pod;
use vm_tests::oci::{self, Image};
use vm_tests::pods::{Pods, Running, Runtime, container};
use vm_tests::scenario::{self, COLLECTOR, KnownPod, Node, Plan};
use vm_tests::{PATIENCE, Stock, Vm};

const SIGKILL: i32 = 9;

/// Removed as soon as they are named.
const SHORT: [(&str, &str); 3] = [
    ("job-0", "88888888-0000-4000-8000-000000000000"),
    ("job-1", "88888888-0000-4000-8000-000000000001"),
    ("job-2", "88888888-0000-4000-8000-000000000002"),
];

/// Started while no collector runs.
const MEANWHILE: (&str, &str) = ("meanwhile", "88888888-0000-4000-8000-000000000009");

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
        assert!(begin.elapsed() < PATIENCE, "{status:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn records(evidence: &Evidence, uid: &str) -> Vec<Record> {
    let key = PartitionKey::Pod(PodUid::parse(uid.as_bytes()).unwrap());
    let found = evidence.partitions.iter().find(|log| log.key == key);
    found.map(|log| log.records.clone()).unwrap_or_default()
}

/// That of each of these pods, of its sandbox and of its containers the name is there, once, and that each
/// record of it is of one of them or of the pod's own directory.
fn are_named(evidence: &Evidence, pods: &[Running]) {
    for Running { pod, ids } in pods {
        let records = records(evidence, &pod.uid);
        let mut seen: BTreeMap<String, Vec<&Named>> = BTreeMap::new();
        for record in records.iter().filter(|record| record.kind == EventKind::Name) {
            assert!(Named::is_record(record), "{record:?}");
            assert_eq!(record.cgroup.as_deref(), Some(pod.cgroup_parent.as_bytes()));
            let named = record.name.as_deref().unwrap();
            let whose = match named {
                Named::Pod(_) => String::new(),
                Named::Container(container) => container.id.clone(),
            };
            seen.entry(whose).or_default().push(named);
        }
        let once = |id: &str| match seen.get(id).map(Vec::as_slice) {
            Some([named]) => *named,
            other => panic!("pod {}: {id:?} is named {other:?}", pod.name),
        };
        let Named::Pod(own) = once("") else {
            unreachable!("it is under no id")
        };
        assert_eq!(
            (own.namespace.as_str(), own.name.as_str()),
            ("demo", pod.name.as_str())
        );
        let uid = ("io.kubernetes.pod.uid".to_owned(), pod.uid.clone());
        assert!(own.labels.contains(&uid), "{:?}", own.labels);
        let said = |id: &str| match once(id) {
            Named::Container(container) => container.clone(),
            Named::Pod(_) => unreachable!("it is under an id"),
        };
        assert!(said(&ids.sandbox).sandbox);
        for (id, asked) in ids.containers.iter().zip(&pod.containers) {
            let said = said(id);
            assert_eq!(
                (said.sandbox, &said.name, &said.image),
                (false, &asked.name, &asked.image)
            );
            let digest = said.references.first().map(|text| text.contains("sha256:"));
            assert_eq!(digest, Some(true), "{said:?}");
        }
        assert_eq!(seen.len(), 2 + ids.containers.len(), "{seen:#?}");
        let mut ran = 0;
        for record in &records {
            let path = record.cgroup.as_deref().unwrap();
            match cgroup::attribute(path).container {
                Some(container) => {
                    assert!(seen.contains_key(&container.id), "{record:?}");
                    ran += 1;
                }
                None => assert_eq!(path, pod.cgroup_parent.as_bytes()),
            }
        }
        assert!(ran > 0, "nothing of pod {} was recorded", pod.name);
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
        .chain(&SHORT)
        .chain([&MEANWHILE])
        .map(|(name, uid)| KnownPod {
            uid: (*uid).to_owned(),
            name: format!("policy/{name}"),
            images: vec![image.name().to_owned()],
            host_paths: Vec::new(),
        })
        .collect();
    let node = Node::boot(plan, dir.path()).unwrap();
    let (collector, _) = node.start_collector().unwrap();
    let pods = Pods::start(&node.vm, Runtime::Containerd, &[&image]).unwrap();
    let run = |(name, uid): (&str, &str), container_name: &str, command: &[&str]| {
        let mut pod = Pod::burstable(name, uid);
        pod.containers.push(container(container_name, &image, command));
        pods.run(&pod).unwrap()
    };
    let mut all: Vec<Running> = PODS.map(|pod| run(pod, "main", &["/app/idle"])).into();
    let named = until(&node.vm, |status| status["runtime"]["pods"] == 2);
    assert_eq!(named["runtime"]["error"], Value::Null);
    until(&node.vm, |status| {
        status["sinks"][0]["delivered"].as_u64() > Some(1) && status["sinks"][0]["unnamed"] == 0
    });
    let said = status(&node.vm);
    assert_eq!(said["sinks"][1]["delivered"], 0);
    let [used, size] = ["used", "size"].map(|key| said["ring"][key].as_u64().unwrap());
    assert!(used <= size && size >= 1 << 16, "{said:#}");
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

    // Pods that are removed as soon as they are named keep their names, and nobody is named anew by a
    // collector that follows one that was killed.
    let named = |pods: u64| {
        until(&node.vm, |status| {
            status["runtime"]["pods"] == pods && status["runtime"]["unnamed"] == 0
        })
    };
    for pod in SHORT {
        let job = run(pod, "job", &["/app/idle"]);
        // Who is removed stays known.
        named(all.len() as u64 + 1);
        pods.remove(&job).unwrap();
        all.push(job);
    }
    are_named(&node.fresh().unwrap().evidence().unwrap(), &all);
    collector.signal(SIGKILL).unwrap();
    collector.ended().unwrap();
    all.push(run(MEANWHILE, "main", &["/app/idle"]));
    let _collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    // It answers when it has read what it kept.
    node.fresh().unwrap();
    named(3);
    let round = node.fresh().unwrap();
    are_named(&round.evidence().unwrap(), &all);
    assert_eq!(round.broken(), Vec::<String>::new());
    println!("{} pods and their containers are named once each", all.len());

    // Without the runtime everything goes on by what it reported before.
    node.vm.sh("kill $(pidof containerd)").unwrap();
    let dead = until(&node.vm, |status| status["runtime"]["error"] != Value::Null);
    let delivered = dead["sinks"][0]["delivered"].as_u64();
    until(&node.vm, |status| {
        status["sinks"][0]["delivered"].as_u64() > delivered
    });
    assert_eq!(seen(&node.fresh().unwrap()), ["demo/till", "demo/book"]);
}
