//! What the node's kernel sees only a part of: files that a server keeps, and a pod of gVisor.
//!
//! One guest: its kernel serves a directory by NFS and by SMB and mounts both, a pod each executes the file
//! there, and `runsc` runs a container in the group of a third one. Each test reads what became of one of
//! them, under the policy as it is and as it permits more. Not here: FUSE (see `overlays`), Kata, which needs
//! a machine that runs virtual ones.

use cgpath_appraisal::{Finding, PodVerdict, Rule, Severity, State, Verdict};
use cgpath_evidence::{EventKind, Evidence, PartitionKey, PodUid};
use std::sync::OnceLock;
use std::time::Instant;
use vm_protocol::elf;
use vm_protocol::spec::{Contained, Mount, Pod, Workload};
use vm_tests::oci::{self, Image};
use vm_tests::pods::{self, BARE_RUNTIME, Pods, Runtime};
use vm_tests::scenario::{KnownPod, Node, Plan, Round, WORKLOADS};
use vm_tests::{PATIENCE, Process, Stock, Vm};

const PODS: [&str; 4] = ["local", "nfs", "smb", "gvisor"];
const IDLE: &str = "/app/idle";
/// What is served, and what the pods have of it.
const SERVED: &str = "/srv/kept";
const PROGRAM: &str = "/srv/kept/program";
const RUNSC: &str = "/usr/bin/runsc";
const BUNDLE: &str = "/run/bundle";
/// A file system of gVisor's own, in its memory, and a program in it that nobody accepts: the image's with a
/// byte more.
const HIDDEN: &str = "/hidden";
const UNACCEPTED: &str = "/hidden/busybox-unaccepted";
/// What that ends with.
const CODE: i32 = 7;

/// Where the clients mount.
fn mounted(pod: &str) -> String {
    match pod {
        "local" => SERVED.to_owned(),
        by => format!("/mnt/{by}"),
    }
}

fn uid(pod: &str) -> String {
    let at = PODS.iter().position(|name| *name == pod).unwrap_or(PODS.len());
    format!("00000000-0000-4000-8000-00000000dd{at:02}")
}

fn key(pod: &str) -> PodUid {
    PodUid::parse(uid(pod).as_bytes()).unwrap()
}

/// Serves the directory by NFS version 4 alone, which needs no daemon once the kernel has the answers that
/// `rpc.mountd` would give: who a client is, what is exported to it, and where the root lies. Source:
/// `ip_map_parse` in net/sunrpc/svcauth_unix.c, `svc_export_parse` and `expkey_parse` in fs/nfsd/export.c.
fn serve_nfs(vm: &Vm) -> anyhow::Result<()> {
    // Read-only, from any port, the root of all exports: include/uapi/linux/nfsd/export.h.
    const FLAGS: u32 = 0x1 | 0x2 | 0x10 | 0x400 | 0x2000;
    const FOR_EVER: u32 = i32::MAX as u32;
    vm.sh(&format!(
        r"modprobe -a nfsd nfs nfsv4
        mkdir -p /var/lib/nfs/v4recovery {at}
        mount -t nfsd nfsd /proc/fs/nfsd
        echo '-3 +4 +4.1 +4.2' > /proc/fs/nfsd/versions
        echo 10 > /proc/fs/nfsd/nfsv4gracetime
        printf '%s\n' 'nfsd 127.0.0.1 {FOR_EVER} *' > /proc/net/rpc/auth.unix.ip/channel
        printf '%s\n' '* {SERVED} {FOR_EVER} {FLAGS} 65534 65534 0' > /proc/net/rpc/nfsd.export/channel
        printf '%s\n' '* 1 \x00000000 {FOR_EVER} {SERVED}' > /proc/net/rpc/nfsd.fh/channel
        echo 'tcp 2049' > /proc/fs/nfsd/portlist
        echo 2 > /proc/fs/nfsd/threads
        mount -i -t nfs4 -o vers=4.2,proto=tcp,port=2049,sec=sys,addr=127.0.0.1,clientaddr=127.0.0.1 \
            127.0.0.1:/ {at}",
        at = mounted("nfs"),
    ))
    .map(drop)
}

/// Serves it by SMB: the kernel's server, with the daemon that knows its shares.
fn serve_smb(vm: &Vm) -> anyhow::Result<Process<'_>> {
    vm.sh("modprobe -a ksmbd cifs; ksmbd.adduser -a kept -p kept -i /etc/ksmbd/ksmbdpwd.db")?;
    let daemon = vm.command(&["ksmbd.mountd", "-n"]);
    let daemon = daemon
        .cgroup("/system.slice/ksmbd.service")
        .spawn("/var/log/ksmbd.log")?;
    let at = mounted("smb");
    let mount = format!(
        "mkdir -p {at}; mount -i -t cifs -o ip=127.0.0.1,username=kept,password=kept,vers=3.1.1 \
         //127.0.0.1/kept {at}"
    );
    let begin = Instant::now();
    // Until it listens.
    while let Err(error) = vm.sh(&mount) {
        let is_over = begin.elapsed() > PATIENCE || daemon.wait(std::time::Duration::ZERO)?.is_some();
        anyhow::ensure!(!is_over, "{error:#}: {}", daemon.log()?);
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    Ok(daemon)
}

/// Runs a container of gVisor in the group of its pod, where `runsc` is, too. Its program makes the other one
/// and becomes that, whose end is waited for.
fn run_in_gvisor(node: &Node, image: &Image) -> anyhow::Result<()> {
    let root = format!("/var/lib/bare/images/{}", image.name().replace(['/', ':'], "_"));
    let script = format!(
        "{{ /bin/busybox cat /bin/busybox; echo; }} > {UNACCEPTED} && /bin/busybox chmod 755 {UNACCEPTED} && \
         exec {UNACCEPTED} sh -c 'exit {CODE}'"
    );
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/busybox", "sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": {"path": root, "readonly": true},
        "mounts": [{"destination": HIDDEN, "type": "tmpfs", "source": "tmpfs"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
    });
    let file = format!("{BUNDLE}/config.json");
    node.vm.put(&file, config.to_string().as_bytes(), 0o644)?;
    let id = "e".repeat(64);
    let options = [
        "--root=/run/runsc",
        "--platform=ptrace",
        "--network=none",
        "--ignore-cgroups",
    ];
    let mut argv = vec![RUNSC.to_owned()];
    argv.extend(options.map(str::to_owned));
    argv.extend(["run", "--bundle", BUNDLE, &id].map(str::to_owned));
    let work = serde_json::to_string(&Workload::Contain {
        cgroup: format!("/kubepods/burstable/pod{}/{id}", uid("gvisor")),
        argv,
        root: None,
    })?;
    let command = node.vm.command(&[BARE_RUNTIME, "workload", work.as_str()]);
    let process = command.cgroup(WORKLOADS).spawn("/var/log/gvisor.log")?;
    process.ended()?;
    let log = process.log()?;
    let contained: Contained = serde_json::from_str(log.lines().last().unwrap_or_default())
        .map_err(|error| anyhow::anyhow!("{error}: {log}"))?;
    anyhow::ensure!(contained.code == Some(CODE), "{:?}: {log}", contained.code);
    Ok(())
}

struct Facts {
    evidence: Evidence,
    /// By the policy as it is.
    strict: Verdict,
    /// By one that permits both file systems, and what is printed of it.
    permitting: (Verdict, String),
    /// By one that trusts the pod of gVisor.
    trusting: Verdict,
}

/// The verdict by another policy, and how it is printed for people.
fn by(node: &Node, round: &Round, policy: &str) -> anyhow::Result<(Verdict, String)> {
    let path = node.site.policy_file().with_file_name("other.yaml");
    std::fs::write(&path, policy)?;
    let verify = |form: &[&str]| -> anyhow::Result<Vec<u8>> {
        let mut command = node.site.cgpath(form);
        command.args(["verify", "--dangerous-no-nonce", "--ak"]);
        command.arg(node.site.key_file()).arg("--policy").arg(&path);
        Ok(command.arg(&round.file).output()?.stdout)
    };
    let verdict = serde_json::from_slice(&verify(&["--json"])?)?;
    Ok((verdict, String::from_utf8(verify(&[])?)?))
}

fn gather() -> anyhow::Result<Facts> {
    let begin = Instant::now();
    let dir = tempfile::tempdir()?;
    let image = Image::new("localhost/ima-cgpath/out-of-sight:1")
        .program("/bin/busybox", &oci::busybox()?)
        .program(IDLE, &elf::pause("out of sight"))
        .dir("/proc", 0o755)
        .dir(HIDDEN, 0o755);
    let mut plan = Plan::new(Stock::V6_12);
    plan.packages = vec!["ksmbd-tools", "runsc"];
    plan.runtime = Runtime::Bare;
    // The memory of what runs in gVisor is a sparse file of gigabytes, parts of which are mapped executable.
    plan.settings.push("bpf.max_hash_mib=64".to_owned());
    plan.images = vec![image.clone()];
    let share = format!("[global]\n[kept]\n\tpath = {SERVED}\n\tread only = yes\n");
    plan.files = vec![
        (PROGRAM.to_owned(), elf::print("kept\n"), 0o755),
        ("/etc/ksmbd/ksmbd.conf".to_owned(), share.into_bytes(), 0o644),
    ];
    let known = |pod: &&str| KnownPod {
        uid: uid(pod),
        name: format!("out-of-sight/{pod}"),
        images: vec![image.name().to_owned()],
        host_paths: vec![PROGRAM.to_owned(), RUNSC.to_owned()],
    };
    plan.pods = PODS.iter().map(known).collect();
    let node = Node::boot(plan, dir.path())?;
    let (_collector, first) = node.start_collector()?;
    anyhow::ensure!(first.verdict.trusted, "{}", first.verdict);
    serve_nfs(&node.vm)?;
    let _daemon = serve_smb(&node.vm)?;
    let pods = Pods::start(&node.vm, Runtime::Bare, &[])?;
    for name in ["local", "nfs", "smb"] {
        let mut pod = Pod::burstable(name, &uid(name));
        let mut main = pods::container("main", &image, &[IDLE]);
        main.mounts.push(Mount {
            host: mounted(name),
            container: SERVED.to_owned(),
            read_only: false,
        });
        pod.containers = vec![main];
        let running = pods.run(&pod)?;
        anyhow::ensure!(pods.must(&running, "main", &[PROGRAM])? == "kept\n");
    }
    run_in_gvisor(&node, &image)?;
    let round = node.fresh()?;
    let policy = std::fs::read_to_string(node.site.policy_file())?;
    let permitting = by(
        &node,
        &round,
        &format!("{policy}file-systems: {{permit: [nfs, smb]}}\n"),
    )?;
    let named = "    name: out-of-sight/gvisor\n";
    anyhow::ensure!(policy.contains(named), "{policy}");
    let (trusting, _) = by(
        &node,
        &round,
        &policy.replace(named, &format!("{named}    opaque: trust\n")),
    )?;
    let facts = Facts {
        evidence: round.evidence()?,
        strict: round.verdict,
        permitting,
        trusting,
    };
    node.vm.power_off()?;
    println!(
        "TIME out of sight: {:.1} s\n{}",
        begin.elapsed().as_secs_f64(),
        facts.strict
    );
    Ok(facts)
}

fn facts() -> &'static Facts {
    static FACTS: OnceLock<anyhow::Result<Facts>> = OnceLock::new();
    FACTS
        .get_or_init(gather)
        .as_ref()
        .unwrap_or_else(|error| panic!("{error:#}"))
}

fn of<'v>(verdict: &'v Verdict, pod: &str) -> &'v PodVerdict {
    verdict
        .pod(key(pod))
        .unwrap_or_else(|| panic!("{pod}: {verdict}"))
}

fn findings(pod: &PodVerdict, severity: Severity) -> Vec<&Finding> {
    pod.findings.iter().filter(|f| f.severity == severity).collect()
}

/// The pod fails by nothing but where the file lies, and passes with the permission, which is repeated.
fn is_for_the_policy_to_decide(pod: &str) {
    let Facts {
        strict,
        permitting: (permitted, text),
        ..
    } = facts();
    assert_eq!(of(strict, "local").state, State::Trusted, "{strict}");
    assert_eq!(strict.node.state, State::Trusted, "{strict}");
    let own = of(strict, pod);
    assert_eq!(own.state, State::Untrusted, "{strict}");
    let failures = findings(own, Severity::Fail);
    for finding in &failures {
        assert_eq!(finding.rule, Rule::PodContents, "{strict}");
        assert_eq!(finding.found.as_deref(), Some(pod), "{strict}");
    }
    assert!(
        failures
            .iter()
            .any(|f| f.path.as_deref() == Some(PROGRAM.as_bytes())),
        "{strict}"
    );
    let own = of(permitted, pod);
    assert_eq!(own.state, State::Trusted, "{permitted}");
    let tolerated = findings(own, Severity::Tolerated);
    assert!(
        tolerated.iter().any(|f| f.found.as_deref() == Some(pod)),
        "{permitted}"
    );
    let key = format!("file-systems.permit: {pod}");
    assert!(permitted.relaxations.contains(&key), "{permitted}");
    assert!(text.contains(&key), "{text}");
}

#[test]
fn a_file_on_nfs_makes_its_pod_untrusted_unless_the_policy_permits_it() {
    is_for_the_policy_to_decide("nfs");
}

#[test]
fn a_file_on_smb_makes_its_pod_untrusted_unless_the_policy_permits_it() {
    is_for_the_policy_to_decide("smb");
}

#[test]
fn a_pod_of_gvisor_shows_nothing_of_a_program_that_it_makes_and_is_not_trusted() {
    let Facts {
        evidence,
        strict,
        trusting,
        ..
    } = facts();
    let records = evidence.records(PartitionKey::Pod(key("gvisor")));
    assert!(
        records.iter().any(|record| record.path == RUNSC.as_bytes()),
        "{strict}"
    );
    // Its sandbox maps a file of the image to run it, and that is seen. What is executed is not, and a
    // program that is made inside has no name outside.
    let of_image = records.iter().filter(|record| record.path.ends_with(b"busybox"));
    let kinds: Vec<EventKind> = of_image.map(|record| record.kind).collect();
    println!("of the image's program: {kinds:?}");
    let is_executed = |kind: &EventKind| matches!(kind, EventKind::Execution | EventKind::Script);
    assert!(!kinds.iter().any(is_executed), "{kinds:?}");
    let name = UNACCEPTED.rsplit('/').next().unwrap().as_bytes();
    let is_it = |path: &[u8]| path.windows(name.len()).any(|part| part == name);
    assert!(!records.iter().any(|record| is_it(&record.path)), "{strict}");
    let own = of(strict, "gvisor");
    assert_eq!(own.state, State::Untrusted, "{strict}");
    let is_opaque = |f: &&Finding| f.text.starts_with("opaque: ");
    assert!(findings(own, Severity::Fail).iter().any(is_opaque), "{strict}");
    assert_eq!(strict.node.state, State::Trusted, "{strict}");
    // What its policy trusts is that alone.
    let own = findings(of(trusting, "gvisor"), Severity::Tolerated);
    assert!(own.iter().any(is_opaque), "{trusting}");
    assert!(!trusting.failures().any(|f| is_opaque(&f)), "{trusting}");
}
