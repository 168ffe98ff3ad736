//! What a pod with default capabilities can try, tried: real containers of containerd in one guest, one pod
//! for each attack, one round of evidence for all; each test reads what became of one of them.

use crate::attacks_rights::{self, Rights};
use anyhow::{Context as _, Result};
use cgpath_appraisal::{Rule, State, Verdict};
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::{
    Checkpoint, Entry, EventKind, Evidence, FileHash, PartitionKey, PodUid, Record, SealedCheckpoint,
};
use p256::ecdsa::SigningKey;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Instant;
use vm_protocol::elf;
use vm_protocol::spec::{Attempt, BurstRun, Contained, Mount, Pod, Workload};
use vm_tests::oci::{self, Image};
use vm_tests::pods::{Pods, Running, Runtime, container};
use vm_tests::scenario::{KnownPod, Node, Plan};
use vm_tests::{Stock, host};

/// The program in the pods that does what a shell cannot.
pub const TOOL: &str = "/app/tool";
/// One that waits, and that each container begins with.
pub const IDLE: &str = "/app/idle";
const TAG: &str = "attacker";
/// Where the collector's own checkpoint files lie; users of other verifiers exclude what lies there.
const CHECKPOINTS: &str = "/run/ima-cgpath/checkpoint";
/// What a pod may run, on the host too: without a runtime its records are suspect.
const SHARED: &str = "/opt/shared/report";
/// The longest file that this node's programs read for its hash. IMA has no such limit, and hashes what is
/// longer itself.
const MAX_HASH_MIB: u64 = 64;
/// The pods, each for one attack.
const PODS: [&str; 20] = [
    "forge",
    "flood",
    "exclude",
    "memfd",
    "tmpfs",
    "script",
    "late",
    "library",
    "neighbour",
    "moved",
    "hollow",
    "layered",
    "reach",
    "confined",
    "deep",
    "imitate",
    "memory",
    "volume",
    "writable",
    "writable-confined",
];
/// Those that have a seccomp profile.
const CONFINED: [&str; 2] = ["confined", "writable-confined"];
/// Files of the image that are mapped writable and executable at once: privately, later, and shared, which
/// changes the file.
const MAPPED: [&str; 3] = [IDLE, TOOL, "/bin/busybox"];
/// A directory that two of them have.
const SHARED_VOLUME: &str = "/shared";
const ON_VOLUME: [&str; 2] = ["exclude", "volume"];
/// A process id that no kernel gives out.
const NO_PROCESS: u32 = 4_194_305;

fn uid(pod: &str) -> String {
    let at = PODS.iter().position(|name| *name == pod).unwrap_or(PODS.len());
    format!("00000000-0000-4000-8000-00000000ac{at:02}")
}

/// A UID that no kubelet gave out.
const INVENTED: &str = "00000000-0000-4000-8000-00000000dead";

/// A number that no checkpoint of a slow guest has, either.
const NEVER_REACHED: u64 = 1_000_000;

struct Facts {
    evidence: Evidence,
    verdict: Verdict,
    forged: String,
    next_number: u64,
    memfd: BurstRun,
    late: BurstRun,
    library: BurstRun,
    layered: BurstRun,
    flooded: usize,
    /// Of the pod without and of the one with a seccomp profile, as root in it and as a user.
    reached: [Vec<Vec<Attempt>>; 2],
    imitated: Vec<Attempt>,
    /// Of the pod without and of the one with a seccomp profile.
    in_memory: [Vec<Attempt>; 2],
    /// The same.
    writable: [Vec<Attempt>; 2],
    cloned: Vec<Attempt>,
    /// What the host's root said when it moved a thread into another pod's cgroup.
    thread_moved: (Option<i32>, String),
    rights: Rights,
}

/// A well-formed next checkpoint: what an attacker can make from a checkpoint that was sent, with a key of
/// their own.
fn next_checkpoint(evidence: &Evidence) -> Result<(u64, Vec<u8>)> {
    let file = evidence.checkpoints.last().context("no checkpoint")?;
    let last = SealedCheckpoint::from_file(file)?;
    let number = last.checkpoint.number + 1;
    let next = Checkpoint {
        number,
        previous: last.digest(),
        nonce_hash: None,
        ..last.checkpoint
    };
    let key = SigningKey::random(&mut rand_core::OsRng);
    Ok((number, SealedCheckpoint::seal(next, &key).file))
}

/// Writes bytes to an executable file in a container, with what its shell has.
pub fn write_file(pods: &Pods<'_>, pod: &Running, path: &str, bytes: &[u8]) -> Result<()> {
    // `base64 -d` of busybox takes one argument's worth: 128 KiB are far more than is needed here.
    let text = base64(bytes);
    let script =
        format!("mkdir -p $(dirname {path}) && echo {text} | base64 -d > {path} && chmod 755 {path}");
    pods.must(pod, "main", &["/bin/sh", "-c", &script]).map(drop)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The cgroup of a pod's first container.
pub fn cgroup(running: &Running) -> String {
    format!("{}/{}", running.pod.cgroup_parent, running.ids.containers[0])
}

/// On a volume of both, one pod writes a program that the other one executes, and writes to a library that
/// the other one has mapped.
fn on_one_volume(pods: &Pods<'_>, writer: &Running, user: &Running) -> Result<()> {
    let program = format!("{SHARED_VOLUME}/payload");
    write_file(pods, writer, &program, &elf::exit(0, "a program on a volume"))?;
    pods.must(user, "main", &[&program])?;
    let library = format!("{SHARED_VOLUME}/library");
    write_file(pods, writer, &library, &elf::exit(0, "a library on a volume"))?;
    let held = "/scratch/held";
    let hold = serde_json::to_string(&Workload::HoldMapping {
        file: library.clone(),
        outcome: held.to_owned(),
    })?;
    let begin = format!(
        "{TOOL} workload '{hold}' > /dev/null 2>&1 &
         n=0; until [ -e {held} ]; do n=$((n+1)); [ $n -lt 5000 ] || exit 1; sleep 0.1; done"
    );
    pods.must(user, "main", &["/bin/sh", "-c", &begin])?;
    let write = format!("echo >> {library}");
    pods.must(writer, "main", &["/bin/sh", "-c", &write]).map(drop)
}

fn gather() -> Result<Facts> {
    let begin = Instant::now();
    let dir = tempfile::tempdir()?;
    let image = Image::new("localhost/ima-cgpath/attacker:1")
        .program("/bin/busybox", &oci::busybox()?)
        .link("/bin/sh", "busybox")
        .program(IDLE, &elf::pause(TAG))
        .program(TOOL, &std::fs::read(host::guest_binary()?)?)
        .dir("/tmp", 0o1777)
        .dir("/proc", 0o755);
    let mut plan = Plan::restored(Stock::V6_12);
    plan.runtime = Runtime::Containerd;
    plan.settings.push(format!("bpf.max_hash_mib={MAX_HASH_MIB}"));
    plan.images = vec![image.clone()];
    plan.files = vec![(SHARED.to_owned(), elf::print("report\n"), 0o755)];
    let known = |(name, uid): (&str, String)| KnownPod {
        uid,
        name: format!("attack/{name}"),
        images: vec![image.name().to_owned()],
        host_paths: vec!["/opt/shared".to_owned()],
    };
    let of_defaults = PODS.iter().map(|pod| (*pod, uid(pod)));
    let with_more = attacks_rights::PODS
        .iter()
        .map(|(name, uid)| (*name, (*uid).to_owned()));
    plan.pods = of_defaults.chain(with_more).map(known).collect();
    let node = Node::boot(plan, dir.path())?;
    let (collector, _) = node.start_collector()?;
    let pods = Pods::start(&node.vm, Runtime::Containerd, &[&image])?;
    let mut running = Vec::new();
    node.vm.sh("[ $(stat -f -c %T /run) = tmpfs ]")?;
    node.vm.sh("mkdir -p /run/empty-dir/of-two")?;
    for pod in PODS {
        node.vm.sh(&format!("mkdir -p /run/empty-dir/{pod}"))?;
        let mut spec = Pod::burstable(pod, &uid(pod));
        spec.confined = CONFINED.contains(&pod);
        let mut main = container("main", &image, &[IDLE]);
        // As a kubelet makes an emptyDir in memory; `/dev/shm` is mounted noexec by containerd.
        main.mounts.push(Mount {
            host: format!("/run/empty-dir/{pod}"),
            container: "/scratch".to_owned(),
            read_only: false,
        });
        if ON_VOLUME.contains(&pod) {
            main.mounts.push(Mount {
                host: "/run/empty-dir/of-two".to_owned(),
                container: SHARED_VOLUME.to_owned(),
                read_only: false,
            });
        }
        spec.containers.push(main);
        running.push(pods.run(&spec)?);
    }
    let pod = |name: &str| &running[PODS.iter().position(|pod| *pod == name).unwrap()];
    let shell = |name: &str, script: &str| pods.exec(pod(name), "main", &["/bin/sh", "-c", script]);
    let work = |name: &str, workload: &Workload| -> Result<String> {
        let text = serde_json::to_string(workload)?;
        pods.must(pod(name), "main", &[TOOL, "workload", &text])
    };
    let before = node.fresh()?;
    anyhow::ensure!(
        before.verdict.trusted,
        "not trusted before anything happened:\n{}",
        before.verdict
    );

    // At our path, with our uid (a container's root is uid 0), named as the one after next: ours comes in
    // between.
    let (number, file) = next_checkpoint(&before.evidence()?)?;
    let forged = format!("{CHECKPOINTS}/{number}");
    write_file(&pods, pod("forge"), &forged, &file)?;
    // Read as ours is, then executed: only that makes IMA measure it.
    shell("forge", &format!("cat {forged} > /dev/null; exec {forged}"))?;
    let flooded = 300;
    shell(
        "flood",
        &format!(
            "mkdir -p {CHECKPOINTS}; i=0; while [ $i -lt {flooded} ]; do echo $i > {CHECKPOINTS}/$i; read x \
             < {CHECKPOINTS}/$i; i=$((i+1)); done"
        ),
    )?;
    write_file(
        &pods,
        pod("exclude"),
        &format!("{CHECKPOINTS}/{NEVER_REACHED}"),
        &elf::exit(0, "excluded"),
    )?;
    pods.must(
        pod("exclude"),
        "main",
        &[&format!("{CHECKPOINTS}/{NEVER_REACHED}")],
    )?;
    let memfd = serde_json::from_str(&work("memfd", &Workload::Memfd)?)?;
    write_file(&pods, pod("tmpfs"), "/scratch/payload", &elf::exit(0, "tmpfs"))?;
    pods.must(pod("tmpfs"), "main", &["/scratch/payload"])?;
    write_file(
        &pods,
        pod("script"),
        "/tmp/payload.sh",
        b"echo payload > /tmp/done\n",
    )?;
    pods.must(pod("script"), "main", &["/bin/sh", "/tmp/payload.sh"])?;
    let must = |name: &str, script: &str| pods.must(pod(name), "main", &["/bin/sh", "-c", script]);
    must("script", "echo payload > /tmp/by-argument")?;
    // Until somebody listens. Who listens ends with the connection: what it sends is there before.
    must(
        "script",
        "echo 'echo payload > /tmp/by-network' > /tmp/sent; nc -l -p 39999 < /tmp/sent & n=0
         until nc 127.0.0.1 39999 < /dev/null | /bin/sh; [ -e /tmp/by-network ]; do n=$((n+1)); [ $n -lt 5000 ] || exit 1; sleep 0.1; done",
    )?;
    for done in ["done", "by-argument", "by-network"] {
        must("script", &format!("[ -s /tmp/{done} ]"))?;
    }
    let late = serde_json::from_str(&work("late", &Workload::LateMapping { dir: "/tmp".into() })?)?;
    let library = serde_json::from_str(&work("library", &Workload::TomTou { dir: "/tmp".into() })?)?;
    work(
        "hollow",
        &Workload::MapHollow {
            mib: MAX_HASH_MIB + 1,
        },
    )?;
    let layered = Workload::MapLayered {
        dir: "/scratch".into(),
    };
    let layered = serde_json::from_str(&work("layered", &layered)?)?;
    pods.must(pod("neighbour"), "main", &["/bin/busybox", "true"])?;
    let reach = |name: &str| -> Result<Vec<Vec<Attempt>>> {
        [None, Some(65534)]
            .into_iter()
            .map(|uid| {
                let answer = work(
                    name,
                    &Workload::Reach {
                        pins: "/sys/fs/bpf/ima-cgpath".to_owned(),
                        pid: NO_PROCESS,
                        uid,
                    },
                )?;
                Ok(serde_json::from_str(&answer)?)
            })
            .collect()
    };
    let reached = [reach("reach")?, reach("confined")?];
    work(
        "deep",
        &Workload::Nest {
            levels: 270,
            length: 250,
            argv: vec!["/bin/busybox".to_owned(), "true".to_owned()],
        },
    )?;
    let imitated = work(
        "imitate",
        &Workload::Imitate {
            other: IDLE.to_owned(),
            argv: vec!["/bin/busybox".to_owned(), "true".to_owned()],
            uid: 65534,
        },
    )?;
    let imitated = serde_json::from_str(&imitated)?;
    let in_memory = |name: &str| -> Result<Vec<Attempt>> {
        let answer = work(
            name,
            &Workload::CodeInMemory {
                file: IDLE.to_owned(),
                argv: vec![IDLE.to_owned()],
            },
        )?;
        Ok(serde_json::from_str(&answer)?)
    };
    let in_memory = [in_memory("memory")?, in_memory("confined")?];
    let writable = |name: &str| -> Result<Vec<Attempt>> {
        let files = MAPPED.map(str::to_owned);
        Ok(serde_json::from_str(&work(
            name,
            &Workload::WritableCode { files },
        )?)?)
    };
    let writable = [writable("writable")?, writable("writable-confined")?];
    let busybox = ["/bin/busybox", "true"].map(str::to_owned).to_vec();
    work(
        "memory",
        &Workload::Thread {
            file: IDLE.to_owned(),
            argv: busybox.clone(),
        },
    )?;
    let cgroup_of = |name: &str| format!("/sys/fs/cgroup{}", cgroup(pod(name)));
    let cloned = work(
        "memory",
        &Workload::CloneInto {
            dir: cgroup_of("neighbour"),
            argv: busybox,
        },
    )?;
    let cloned = serde_json::from_str(&cloned)?;
    let thread_moved = node.vm.run(&[
        "busybox",
        "sh",
        "-c",
        &format!(
            "read pid < {}/cgroup.procs && echo $pid > {}/cgroup.threads",
            cgroup_of("memory"),
            cgroup_of("neighbour")
        ),
    ])?;
    on_one_volume(&pods, pod(ON_VOLUME[0]), pod(ON_VOLUME[1]))?;
    // What a pod cannot do alone, but with a delegated cgroup or the host's help.
    let inside = cgroup(pod("moved"));
    for cgroup in [
        inside,
        format!("/user.slice/user-1000.slice/kubepods/burstable/pod{INVENTED}"),
    ] {
        let done: Contained = node.work(&Workload::Contain {
            cgroup,
            argv: vec![SHARED.to_owned()],
            root: None,
        })?;
        anyhow::ensure!(done.code == Some(0), "{SHARED} ended with {:?}", done.code);
    }
    let round = node.fresh()?;
    let of_defaults = begin.elapsed();
    let rights = attacks_rights::gather(&node, &pods, &image, collector.pid(), pod("neighbour"))?;
    let facts = Facts {
        evidence: round.evidence()?,
        verdict: round.verdict,
        forged,
        next_number: number,
        memfd,
        late,
        library,
        layered,
        flooded,
        reached,
        imitated,
        in_memory,
        writable,
        cloned,
        thread_moved: (thread_moved.code(), thread_moved.errors()),
        rights,
    };
    node.vm.power_off()?;
    println!(
        "TIME attacks of pods: {:.1} s, {:.1} of them without more rights\n{}",
        begin.elapsed().as_secs_f64(),
        of_defaults.as_secs_f64(),
        facts.verdict
    );
    Ok(facts)
}

/// Gathered once; what went wrong then is reported to every test.
fn facts() -> &'static Facts {
    static FACTS: OnceLock<Result<Facts>> = OnceLock::new();
    FACTS
        .get_or_init(gather)
        .as_ref()
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// What the pods with more rights than others came to.
pub fn rights() -> &'static Rights {
    &facts().rights
}

impl Facts {
    fn key(name: &str) -> PodUid {
        PodUid::parse(uid(name).as_bytes()).unwrap()
    }

    fn records(&self, pod: &str, path: &str) -> Vec<&Record> {
        self.evidence
            .records(PartitionKey::Pod(Facts::key(pod)))
            .iter()
            .filter(|r| r.path == path.as_bytes())
            .collect()
    }

    fn state(&self, pod: &str) -> State {
        self.verdict.pod(Facts::key(pod)).unwrap().state
    }

    /// A pod is untrusted for a file without a hash, and the finding says why there is none.
    fn unhashed(&self, pod: &str, path: &str, why: &str) {
        let mut of_file = self.verdict.failures();
        let found = of_file.find(|f| {
            f.path.as_deref() == Some(path.as_bytes())
                && f.found.as_deref().is_some_and(|found| found.contains(why))
        });
        let found = found.unwrap_or_else(|| panic!("{path} has a hash:\n{}", self.verdict));
        assert_eq!(found.subject.to_string(), uid(pod), "{found}");
        assert_eq!(self.state(pod), State::Untrusted);
    }

    /// Exactly this pod is untrusted for exactly this file.
    fn charged(&self, pod: &str, rule: Rule, path: &str) {
        let found: Vec<_> = self
            .verdict
            .failures()
            .filter(|f| f.rule == rule && f.path.as_deref() == Some(path.as_bytes()))
            .collect();
        assert!(
            !found.is_empty(),
            "nobody was charged with {path}:\n{}",
            self.verdict
        );
        for finding in found {
            assert_eq!(finding.subject.to_string(), uid(pod), "{finding}");
        }
        assert_eq!(self.state(pod), State::Untrusted);
    }
}

#[test]
fn no_attack_of_a_pod_touches_the_node_or_a_neighbour() {
    let facts = facts();
    let node = &facts.verdict.node;
    assert_eq!(node.state, State::Trusted, "{}", facts.verdict);
    assert_eq!((node.lost, node.unattributed), (0, 0));
    assert_eq!(facts.state("neighbour"), State::Trusted);
}

#[test]
fn a_well_formed_next_checkpoint_of_a_pod_is_charged_to_it_and_never_part_of_the_chain() {
    let facts = facts();
    facts.charged("forge", Rule::PodContents, &facts.forged);
    assert!(!facts.records("forge", &facts.forged).is_empty());
    // The real one of that number is there, signed by the chain's key, or the node would not be trusted.
    assert!(facts.evidence.checkpoints.len() as u64 > facts.next_number);
}

#[test]
fn the_checkpoint_rule_cannot_be_used_to_flood_the_list() {
    let facts = facts();
    let from_pods = facts.evidence.list.iter().enumerate().filter(|(index, entry)| {
        let Entry::Full(bytes) = entry else { return true };
        let entry = ListEntry::from_canonical(*index as u64, bytes.as_slice()).unwrap();
        let name = entry.file_name().unwrap_or_default().to_vec();
        let number = cgpath_evidence::checkpoint::number_from_path(&name);
        number.is_some_and(|n| n >= facts.evidence.checkpoints.len() as u64 && n < facts.flooded as u64)
    });
    assert_eq!(
        from_pods.count(),
        0,
        "{} files were read at our path",
        facts.flooded
    );
    assert_eq!(facts.state("flood"), State::Trusted);
}

#[test]
fn a_program_at_the_path_that_others_exclude_is_charged_to_its_pod() {
    facts().charged(
        "exclude",
        Rule::PodContents,
        &format!("{CHECKPOINTS}/{NEVER_REACHED}"),
    );
}

#[test]
fn a_program_in_anonymous_memory_is_charged_to_its_pod() {
    let facts = facts();
    assert_eq!(facts.state("memfd"), State::Untrusted);
    let partition = facts.evidence.records(PartitionKey::Pod(Facts::key("memfd")));
    let found = partition.iter().find(|r| {
        r.kind == EventKind::Execution
            && r.hash
                .as_ref()
                .and_then(|h| h.digest())
                .is_some_and(|d| hex::encode(d.bytes()) == facts.memfd.sha256)
    });
    let record = found.unwrap_or_else(|| panic!("no execution with {}", facts.memfd.sha256));
    let path = String::from_utf8_lossy(&record.path).into_owned();
    assert!(path.contains("memfd:payload"), "{path}");
    facts.charged("memfd", Rule::PodContents, &path);
}

#[test]
fn a_program_on_a_tmpfs_is_charged_to_its_pod() {
    facts().charged("tmpfs", Rule::PodContents, "/scratch/payload");
}

/// By a file, by its command line and through the network.
#[test]
fn limit_what_an_interpreter_reads_leaves_no_record() {
    let facts = facts();
    assert!(facts.records("script", "/tmp/payload.sh").is_empty());
    let records = facts.evidence.records(PartitionKey::Pod(Facts::key("script")));
    let scripts: Vec<_> = records.iter().filter(|r| r.kind == EventKind::Script).collect();
    assert!(scripts.is_empty(), "{scripts:?}");
    assert_eq!(facts.state("script"), State::Trusted);
}

fn is_threaded(record: &Record) -> bool {
    record
        .cgroup
        .as_deref()
        .is_some_and(|cgroup| cgroup.ends_with(b"/threaded"))
}

/// What was tried did run; what of it was a mapping of a file.
fn ran_in_memory() -> [(&'static str, Vec<&'static Record>); 2] {
    let facts = facts();
    ["memory", "confined"].map(|pod| {
        let tried = &facts.in_memory[usize::from(pod == "confined")];
        let wanted = [
            "a mapping, through /proc/self/mem",
            "anonymous memory",
            "a child's memory",
        ];
        assert_eq!(what(tried, true), wanted, "{pod}: {tried:?}");
        // A thread of another process mapped it, too.
        let mapped = facts.records(pod, IDLE).into_iter().filter(|r| {
            r.kind == EventKind::Mapping
                && r.ancestry.first().is_some_and(|p| p.exe == TOOL.as_bytes())
                && !is_threaded(r)
        });
        (pod, mapped.collect())
    })
}

#[test]
fn limit_code_that_is_written_into_memory_leaves_no_record() {
    let accepted: BTreeSet<&[u8]> = [IDLE, TOOL, "/bin/busybox"].map(str::as_bytes).into();
    for (pod, _) in ran_in_memory() {
        let facts = facts();
        let records = facts.evidence.records(PartitionKey::Pod(Facts::key(pod)));
        // What the tool did; what the runtime does in the container is not of it.
        let of_tool = records
            .iter()
            .filter(|r| r.ancestry.iter().any(|p| p.exe == TOOL.as_bytes()));
        let used: BTreeSet<&[u8]> = of_tool.map(|r| r.path.as_slice()).collect();
        assert!(
            used.contains(IDLE.as_bytes()) && used.is_subset(&accepted),
            "{used:?}"
        );
        assert!(records.iter().all(|r| r.kind != EventKind::LateMapping), "{pod}");
        assert_eq!(facts.state(pod), State::Trusted, "{}", facts.verdict);
    }
}

#[test]
fn limit_a_mapping_that_is_written_to_through_proc_is_recorded_as_the_file() {
    let of_file = Sha256::digest(elf::pause(TAG));
    for (pod, mapped) in ran_in_memory() {
        assert_eq!(mapped.len(), 1, "{pod}: {mapped:?}");
        for record in mapped {
            let digest = record.hash.as_ref().and_then(FileHash::digest);
            assert_eq!(digest.unwrap().bytes(), &of_file[..], "{pod}: {record:?}");
            assert!(!record.writable, "{pod}: {record:?}");
        }
    }
}

/// Private and shared, at once and by a later mprotect, of files that the policy accepts; with and without a
/// seccomp profile.
#[test]
fn a_file_that_is_mapped_writable_and_executable_at_once_is_charged_to_its_pod() {
    let facts = facts();
    for (pod, tried) in ["writable", "writable-confined"].into_iter().zip(&facts.writable) {
        let wanted = [
            "a private mapping",
            "a mapping that is made writable",
            "a shared mapping",
        ];
        assert_eq!(what(tried, true), wanted, "{pod}: {tried:?}");
        let kinds = [EventKind::Mapping, EventKind::LateMapping, EventKind::Mapping];
        for (path, kind) in MAPPED.into_iter().zip(kinds) {
            let records = facts.records(pod, path);
            let writable: Vec<_> = records.iter().filter(|r| r.writable).map(|r| r.kind).collect();
            assert_eq!(writable, [kind], "{pod}: {path}");
            let is_said = facts.verdict.failures().any(|f| {
                f.rule == Rule::PodContents
                    && f.subject.to_string() == uid(pod)
                    && f.path.as_deref() == Some(path.as_bytes())
                    && f.text.contains("writable and executable at once")
            });
            assert!(is_said, "{pod}, {path}: nobody is charged:\n{}", facts.verdict);
        }
        assert_eq!(facts.state(pod), State::Untrusted);
    }
}

/// What the runtime, its shims and the pods' own programs map is one or the other.
#[test]
fn no_other_program_of_the_node_maps_a_file_writable_and_executable_at_once() {
    let logs = facts().evidence.partitions.iter();
    let by = logs.filter(|log| log.records.iter().any(|r| r.writable));
    let by: BTreeSet<String> = by.map(|log| log.key.to_string()).collect();
    assert_eq!(by, ["writable", "writable-confined"].map(uid).into());
}

#[test]
fn limit_a_process_that_is_filled_as_by_a_restore_shows_as_the_program_that_it_began_with() {
    for (pod, _) in ran_in_memory() {
        let records = facts().records(pod, IDLE);
        let began = records.iter().filter(|r| {
            r.kind == EventKind::Execution && r.ancestry.iter().skip(1).any(|p| p.exe == TOOL.as_bytes())
        });
        assert_eq!(began.count(), 1, "{pod}: {records:?}");
    }
}

#[test]
fn a_mapping_made_executable_by_mprotect_is_charged_to_its_pod() {
    let facts = facts();
    let kinds: Vec<_> = facts
        .records("late", &facts.late.path)
        .iter()
        .map(|r| r.kind)
        .collect();
    assert_eq!(kinds, [EventKind::LateMapping]);
    facts.charged("late", Rule::PodContents, &facts.late.path);
}

/// What the kernel reads for a program of ours keeps all programs of the kernel from being freed: how much
/// that is must not be a pod's to say. IMA's own hash is taken once there is one.
#[test]
fn a_file_that_is_longer_than_any_that_is_read_for_its_hash_is_charged_to_its_pod() {
    let facts = facts();
    let records = facts.evidence.records(PartitionKey::Pod(Facts::key("hollow")));
    let mapped: Vec<_> = records
        .iter()
        .filter(|r| r.kind == EventKind::Mapping && r.path.starts_with(b"/memfd:hollow"))
        .collect();
    let [first, second] = mapped[..] else {
        panic!("{mapped:?}")
    };
    // What a policy may trust a late mapping of (`shared-memory-code`) is known by the kernel's own tmpfs.
    assert!(mapped.iter().all(|r| r.is_of_unlinked_memory()), "{mapped:?}");
    assert_eq!(first.hash, Some(FileHash::Unhashed(-27)));
    assert!(
        second.hash.as_ref().and_then(FileHash::digest).is_some(),
        "{second:?}"
    );
    facts.unhashed(
        "hollow",
        &String::from_utf8_lossy(&first.path),
        "bpf.max_hash_mib",
    );
}

/// Below an overlay that a pod mounted can be a file system of its own that never answers.
#[test]
fn a_file_whose_layers_a_pod_chose_is_not_read_and_is_charged_to_it() {
    let facts = facts();
    let path = &facts.layered.path;
    let records = facts.records("layered", path);
    let mapped = records.iter().filter(|r| r.kind == EventKind::Mapping);
    let hashes: Vec<_> = mapped.map(|r| r.hash.clone()).collect();
    assert_eq!(hashes, [Some(FileHash::Unhashed(-66))]);
    facts.unhashed("layered", path, "bpf.hash_served");
}

#[test]
fn a_library_that_is_modified_while_it_is_mapped_is_a_violation_of_its_pod() {
    facts().charged("library", Rule::Violations, &facts().library.path);
}

#[test]
fn a_process_moved_into_a_pod_is_marked_and_the_pod_is_not_trusted() {
    let facts = facts();
    let pod = facts.verdict.pod(Facts::key("moved")).unwrap();
    assert!(pod.suspect > 0);
    assert_ne!(pod.state, State::Trusted);
    assert!(!facts.records("moved", SHARED).is_empty());
}

#[test]
fn a_cgroup_that_a_user_named_like_a_pod_is_the_hosts() {
    let facts = facts();
    let invented = PodUid::parse(INVENTED.as_bytes()).unwrap();
    assert!(facts.verdict.pod(invented).is_none(), "{}", facts.verdict);
    let on_host = facts.evidence.records(PartitionKey::Host);
    let found = on_host.iter().find(|r| {
        r.path == SHARED.as_bytes()
            && r.cgroup
                .as_deref()
                .is_some_and(|c| c.starts_with(b"/user.slice/"))
    });
    assert!(found.is_some_and(|r| r.kind == EventKind::Execution));
}

#[test]
fn a_program_on_a_volume_of_two_pods_is_charged_to_the_one_that_runs_it() {
    facts().charged("volume", Rule::PodContents, &format!("{SHARED_VOLUME}/payload"));
}

#[test]
fn a_library_on_a_volume_of_two_pods_is_a_violation_of_both_when_one_writes_what_the_other_maps() {
    let facts = facts();
    let path = format!("{SHARED_VOLUME}/library");
    let of_file = facts
        .verdict
        .failures()
        .filter(|f| f.rule == Rule::Violations && f.path.as_deref() == Some(path.as_bytes()));
    let charged: BTreeSet<String> = of_file.map(|f| f.subject.to_string()).collect();
    assert_eq!(charged, ON_VOLUME.map(uid).into(), "{}", facts.verdict);
}

#[test]
fn a_thread_in_a_threaded_cgroup_is_its_pods_and_no_pod_can_be_given_one() {
    let facts = facts();
    let records = facts.evidence.records(PartitionKey::Pod(Facts::key("memory")));
    let there: Vec<_> = records.iter().filter(|r| is_threaded(r)).collect();
    for (kind, path) in [(EventKind::Mapping, IDLE), (EventKind::Execution, "/bin/busybox")] {
        let found = there.iter().find(|r| r.kind == kind && r.path == path.as_bytes());
        assert!(found.is_some(), "{kind:?} of {path}: {there:?}");
    }
    assert_eq!(facts.state("memory"), State::Trusted);
    let (code, said) = &facts.thread_moved;
    assert!(
        *code != Some(0) && said.contains("not supported"),
        "{code:?} {said}"
    );
}

/// It has its own cgroups in sight and no others.
#[test]
fn a_pod_without_rights_starts_nothing_in_another_pods_cgroup() {
    let tried = &facts().cloned;
    assert_eq!(what(tried, false), ["the cgroup's directory"], "{tried:?}");
    assert_eq!(what(tried, true), [""; 0], "{tried:?}");
}

/// What was tried in a pod and succeeded, or did not.
pub fn what(tried: &[Attempt], succeeded: bool) -> Vec<&str> {
    let of_this = tried.iter().filter(|t| (t.errno == 0) == succeeded);
    let mut names: Vec<&str> = Vec::new();
    for name in of_this.map(|t| t.what.as_str()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[test]
fn what_a_pod_without_rights_tries_on_our_parts_is_no_record_and_no_finding() {
    let facts = facts();
    for (pod, tried) in ["reach", "confined"].into_iter().zip(&facts.reached) {
        // With a profile not even a user namespace; without one, a file and a mount that look like ours and
        // are its own.
        let wanted: &[&str] = match pod {
            "confined" => &[],
            _ => &[
                "network namespace",
                "file of that name",
                "mount namespace",
                "copy unmounted",
            ],
        };
        for tried in tried {
            assert_eq!(what(tried, true), wanted, "{pod}: {:?}", what(tried, false));
            let refused = what(tried, false);
            for name in ["link by id", "no link detached", "sysctl", "unmounted"] {
                assert!(refused.contains(&name), "{pod}: {name}: {refused:?}");
            }
        }
        let records = facts.evidence.records(PartitionKey::Pod(Facts::key(pod)));
        assert!(
            records
                .iter()
                .any(|r| r.kind == EventKind::Execution && r.path == TOOL.as_bytes())
        );
        assert!(records.iter().all(|r| r.kind != EventKind::Guard), "{pod}");
        assert_eq!(facts.state(pod), State::Trusted, "{}", facts.verdict);
    }
}

#[test]
fn a_cgroup_that_lies_deeper_than_any_path_is_its_pods_and_its_path_is_cut() {
    let facts = facts();
    let records = facts.evidence.records(PartitionKey::Pod(Facts::key("deep")));
    let ran = records.iter().find(|r| {
        let cgroup = r.cgroup.as_deref().unwrap_or_default();
        r.kind == EventKind::Execution && r.path == b"/bin/busybox" && cgroup.ends_with(b"//...")
    });
    let cgroup = ran.and_then(|r| r.cgroup.as_deref()).unwrap();
    assert!(
        cgroup.len() < 1100 && cgroup.starts_with(b"/kubepods/burstable/pod"),
        "{}",
        cgroup.len()
    );
    assert_eq!(facts.evidence.records(PartitionKey::Unattributed).len(), 0);
    assert_eq!(facts.state("deep"), State::Trusted);
}

#[test]
fn a_user_can_let_its_executable_name_another_one_and_the_recorded_ancestry_does_not_follow() {
    let facts = facts();
    let seen: Vec<_> = facts
        .imitated
        .iter()
        .map(|t| (t.what.as_str(), t.errno))
        .collect();
    let wanted = [
        ("by PR_SET_MM_EXE_FILE", 1),
        ("by PR_SET_MM_MAP", 0),
        ("another executable", 0),
    ];
    assert_eq!(seen, wanted);
    let records = facts.evidence.records(PartitionKey::Pod(Facts::key("imitate")));
    let ran = records.iter().find(|r| {
        r.kind == EventKind::Execution
            && r.path == b"/bin/busybox"
            && r.ancestry.iter().any(|p| p.exe == TOOL.as_bytes())
    });
    assert_eq!(ran.unwrap().ancestry[1].exe, TOOL.as_bytes());
}
