//! Pods that were given more than a pod has by default, in the guest of `attacks_pod` and after its attacks:
//! whether each is host root, and what the evidence says of what it does.
//!
//! Not here: pods with default rights (`attacks_pod`), what host root does to the collector (`guard`).

use crate::attacks_pod::{IDLE, TOOL, cgroup, rights, what, write_file};
use anyhow::Result;
use cgpath_appraisal::{Finding, Rule, State, Subject, Verdict};
use cgpath_evidence::{EventKind, Evidence, PartitionKey, PodUid, Record};
use vm_protocol::elf;
use vm_protocol::spec::{Attempt, HostRoot, Mount, Pod, Workload};
use vm_tests::oci::Image;
use vm_tests::pods::{Pods, Running, container};
use vm_tests::scenario::Node;

const PRIVILEGED: (&str, &str) = ("privileged", "00000000-0000-4000-8000-00000000ad01");
const HOST_PID: (&str, &str) = ("hostpid", "00000000-0000-4000-8000-00000000ad02");
const HOST_PATH: (&str, &str) = ("hostpath", "00000000-0000-4000-8000-00000000ad03");
/// The pods.
pub const PODS: [(&str, &str); 3] = [PRIVILEGED, HOST_PID, HOST_PATH];

/// A program that no image has.
const FOREIGN: &str = "/tmp/foreign";
/// Where the host's root is in the pod that has it as a volume.
const HOST_ROOT: &str = "/host";
/// A process of the host as most nodes have some: of a user of its own, without capabilities.
const DAEMON: &str = "/system.slice/dozing.service";
const DAEMONS_USER: u32 = 65534;

/// What came of them.
pub struct Rights {
    evidence: Evidence,
    verdict: Verdict,
    neighbour: PodUid,
    /// A program of the neighbour's image, then one that is not.
    cloned: [Vec<Attempt>; 2],
    injected: Vec<Attempt>,
    /// By the pod with the host's processes, then by the one with its root file system.
    planted: [Vec<Attempt>; 2],
}

fn planted_by(pod: &str) -> String {
    format!("/usr/local/sbin/planted-by-{pod}")
}

fn key(uid: &str) -> PodUid {
    PodUid::parse(uid.as_bytes()).unwrap()
}

/// Runs the pods and lets them do what they can; `neighbour` does not outlive it.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn gather(
    node: &Node,
    pods: &Pods<'_>,
    image: &Image,
    collector: i32,
    neighbour: &Running,
) -> Result<Rights> {
    let run = |(name, uid): (&str, &str)| -> Result<Running> {
        let mut pod = Pod::burstable(name, uid);
        pod.privileged = name == PRIVILEGED.0;
        pod.host_pid = name == HOST_PID.0;
        let mut main = container("main", image, &[IDLE]);
        if name == HOST_PATH.0 {
            main.mounts.push(Mount {
                host: "/".to_owned(),
                container: HOST_ROOT.to_owned(),
                read_only: false,
            });
        }
        pod.containers.push(main);
        pods.run(&pod)
    };
    let work = |pod: &Running, workload: &Workload| -> Result<Vec<Attempt>> {
        let text = serde_json::to_string(workload)?;
        let answer = pods.must(pod, "main", &[TOOL, "workload", &text])?;
        Ok(serde_json::from_str(&answer)?)
    };

    let privileged = run(PRIVILEGED)?;
    write_file(pods, &privileged, FOREIGN, &elf::exit(0, "foreign"))?;
    let clone_into = |argv: &[&str]| {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let dir = format!("/sys/fs/cgroup{}", cgroup(neighbour));
        work(&privileged, &Workload::CloneInto { dir, argv })
    };
    let cloned = [clone_into(&["/bin/busybox", "true"])?, clone_into(&[FOREIGN])?];

    let host_pid = run(HOST_PID)?;
    let inject = Workload::Inject {
        container: neighbour.ids.containers[0].clone(),
        collector: u32::try_from(collector)?,
    };
    let injected = work(&host_pid, &inject)?;
    let user = DAEMONS_USER;
    let daemon = [
        &format!("--reuid={user}"),
        &format!("--regid={user}"),
        "--clear-groups",
    ];
    let command = [["setpriv"].as_slice(), &daemon, &["sleep", "3600"]].concat();
    node.vm
        .command(&command)
        .cgroup(DAEMON)
        .spawn("/var/log/dozing.log")?;
    let plant = |pod: &Running, root: HostRoot| {
        let path = planted_by(&pod.pod.name);
        let idle = IDLE.to_owned();
        work(pod, &Workload::Plant { root, path, idle })
    };
    let of_process = HostRoot::OfProcess {
        uid: user,
        cgroup: DAEMON.to_owned(),
    };
    let host_path = run(HOST_PATH)?;
    let planted = [
        plant(&host_pid, of_process)?,
        plant(&host_path, HostRoot::At(HOST_ROOT.to_owned()))?,
    ];
    let round = node.fresh()?;
    println!("after pods with more rights:\n{}", round.verdict);
    Ok(Rights {
        evidence: round.evidence()?,
        verdict: round.verdict,
        neighbour: key(&neighbour.pod.uid),
        cloned,
        injected,
        planted,
    })
}

impl Rights {
    fn records(&self, pod: PodUid) -> &[Record] {
        self.evidence.records(PartitionKey::Pod(pod))
    }

    fn state(&self, (_, uid): (&str, &str)) -> State {
        self.verdict.pod(key(uid)).unwrap().state
    }

    fn about(&self, path: &str) -> Vec<&Finding> {
        let failures = self.verdict.failures();
        failures
            .filter(|f| f.path.as_deref() == Some(path.as_bytes()))
            .collect()
    }
}

/// It is host root: it has each cgroup of the node in its hands. A process that it begins in another pod's
/// (CLONE_INTO_CGROUP) is that pod's, and nothing says that it was another's.
#[test]
fn limit_what_a_privileged_pod_begins_in_another_pods_cgroup_is_charged_to_that_pod() {
    let rights = rights();
    for tried in &rights.cloned {
        let wanted = ["the cgroup's directory", "a process there", "its program"];
        assert_eq!(what(tried, true), wanted, "{tried:?}");
    }
    // The neighbour has no such program running: it is the other pod's.
    let foreign =
        |r: &&Record| r.kind == EventKind::Execution && r.ancestry.iter().any(|p| p.exe == TOOL.as_bytes());
    let paths: Vec<_> = rights
        .records(rights.neighbour)
        .iter()
        .filter(foreign)
        .map(|r| r.path.as_slice())
        .collect();
    assert_eq!(paths, [b"/bin/busybox".as_slice(), FOREIGN.as_bytes()]);
    let found = rights.about(FOREIGN);
    assert!(!found.is_empty(), "{}", rights.verdict);
    for finding in found {
        assert_eq!(
            finding.subject.to_string(),
            rights.neighbour.to_string(),
            "{finding}"
        );
    }
    assert_eq!(rights.verdict.pod(rights.neighbour).unwrap().suspect, 0);
    assert_eq!(rights.state(PRIVILEGED), State::Trusted, "{}", rights.verdict);
}

/// The kernel keeps it from the collector, which has more capabilities, and not from containers, which have
/// the same.
#[test]
fn limit_a_pod_with_the_hosts_processes_writes_into_its_neighbours_memory_and_nothing_says_so() {
    let rights = rights();
    let tried = &rights.injected;
    let done = [
        "signal",
        "another container's process",
        "it traced",
        "its memory written",
    ];
    assert_eq!(what(tried, true), done, "{tried:?}");
    assert_eq!(
        what(tried, false),
        ["memory", "descriptor", "traced"],
        "{tried:?}"
    );
    let (_, uid) = HOST_PID;
    assert!(
        rights
            .records(key(uid))
            .iter()
            .all(|r| r.kind != EventKind::Guard)
    );
    // All that the neighbour is charged with is what the privileged pod ran there.
    let of_neighbour = rights
        .verdict
        .failures()
        .filter(|f| f.subject.to_string() == rights.neighbour.to_string());
    for finding in of_neighbour {
        assert_eq!(finding.path.as_deref(), Some(FOREIGN.as_bytes()), "{finding}");
    }
    assert_eq!(rights.state(HOST_PID), State::Trusted, "{}", rights.verdict);
}

fn is_host_root(pod: (&str, &str), tried: &[Attempt]) {
    let rights = rights();
    assert_eq!(what(tried, false), [""; 0], "{tried:?}");
    assert!(tried.iter().any(|t| t.what == "the core pattern"), "{tried:?}");
    let path = planted_by(pod.0);
    let on_host = rights.evidence.records(PartitionKey::Host).iter();
    let ran = on_host.filter(|r| r.kind == EventKind::Execution && r.path == path.as_bytes());
    assert_eq!(ran.count(), 1, "{path}");
    let found = rights.about(&path);
    assert!(!found.is_empty(), "{}", rights.verdict);
    for finding in found {
        let host = Subject::Partition(PartitionKey::Host);
        assert_eq!((finding.rule, finding.subject), (Rule::Host, host), "{finding}");
    }
    assert_eq!(rights.verdict.node.state, State::Untrusted);
    // What it was given is not held against it.
    assert_eq!(rights.state(pod), State::Trusted, "{}", rights.verdict);
}

#[test]
fn a_pod_with_the_hosts_processes_is_host_root_through_the_root_of_any_process_without_capabilities() {
    is_host_root(HOST_PID, &rights().planted[0]);
}

#[test]
fn a_pod_with_the_hosts_root_file_system_is_host_root() {
    is_host_root(HOST_PATH, &rights().planted[1]);
}
