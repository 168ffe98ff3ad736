//! What a policy leaves out stays visible: excludes, the two lists of deviations, pods that have not begun.

use cgpath_appraisal::{LeftOut, MAX_LISTED, Rule, Severity, State, Verdict, appraise};
use cgpath_evidence::{EventKind, FileHash};
use cgpath_policy::Policy;
use cgpath_testkit::{Actor, COLLECTOR, KeyKind, Node, pod, sha256};

const NONCE: &[u8] = b"the nonce of this request";

/// A node on which pod 1 runs a replaced file and one that nobody knows, and the host a replaced file.
fn tampered() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/lib/libc.so");
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil"));
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/tmp/unknown", &sha256(b"new"));
    node
}

/// The node's policy with `from` replaced in its text.
pub fn policy_with(node: &Node, from: &str, to: &str) -> Result<Policy, String> {
    let yaml = node.policy_yaml();
    assert!(yaml.contains(from), "{yaml}");
    Policy::load("policy.yaml", yaml.replace(from, to).as_bytes(), |name| {
        node.reference(name).ok_or_else(|| "no such file".to_owned())
    })
    .map_err(|e| e.to_string())
}

fn appraised(node: &mut Node, policy: &Policy) -> Verdict {
    let evidence = node.attest(NONCE);
    appraise(&evidence, policy, &node.context(NONCE, None)).unwrap()
}

fn exclude_in_pod(node: &Node, exclude: &str) -> Result<Policy, String> {
    let references = format!("references: [{}.json]", pod(1));
    policy_with(
        node,
        &references,
        &format!("{references}, excludes: ['{exclude}']"),
    )
}

#[test]
fn the_two_lists_name_what_is_unknown_and_what_differs_once_each() {
    let mut node = tampered();
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil"));
    let policy = node.policy();
    let verdict = appraised(&mut node, &policy);
    let shown = verdict.pod(pod(1)).unwrap();
    let list = |list: &[cgpath_appraisal::Deviation]| -> Vec<_> {
        list.iter().map(|d| (d.path.clone(), d.digest.clone())).collect()
    };
    assert_eq!(list(&shown.fnf), [(b"/tmp/unknown".to_vec(), sha256(b"new"))]);
    assert_eq!(
        list(&shown.filehash_err),
        [(b"/bin/app".to_vec(), sha256(b"evil"))]
    );
    let json: serde_json::Value = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["pods"][0]["fnf"][0]["path"], "/tmp/unknown");
    assert_eq!(
        json["pods"][0]["filehash_err"][0]["digest"],
        sha256(b"evil").to_string()
    );
}

/// A pod chooses how many files it uses, and not how long verdicts are; what is not listed is judged all the
/// same.
#[test]
fn a_verdict_lists_a_thousand_files_and_counts_the_others() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    let app = Actor::pod(pod(1), "/bin/app");
    node.execute_good(&app, "/bin/app");
    for n in 0..MAX_LISTED + 5 {
        node.execute(&app, format!("/tmp/{n:04}"), &sha256(n.to_string().as_bytes()));
        node.execute(
            &Actor::host("/sbin/init"),
            format!("/opt/{n:04}"),
            &sha256(n.to_string().as_bytes()),
        );
    }
    let policy = node.policy();
    let verdict = appraised(&mut node, &policy);
    let shown = verdict.pod(pod(1)).unwrap();
    assert_eq!(shown.state, State::Untrusted);
    assert_eq!((shown.files.len(), shown.fnf.len()), (MAX_LISTED, MAX_LISTED));
    let left_out = LeftOut {
        files: 6,
        fnf: 5,
        filehash_err: 0,
        containers: 0,
    };
    assert_eq!(shown.left_out, left_out);
    assert_eq!(shown.file_count(), MAX_LISTED as u64 + 6);
    assert_eq!(verdict.node.fnf.len(), MAX_LISTED);
    assert_eq!(verdict.node.left_out, LeftOut { files: 0, ..left_out });
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(
        json["pods"][0]["left_out"],
        serde_json::json!({"files": 6, "fnf": 5})
    );
    // Neither how much is said of a pod nor a verdict grows with what the pod does.
    assert!(json.to_string().len() < 1 << 20, "{}", json.to_string().len());
}

#[test]
fn a_pod_of_the_policy_that_was_not_seen_yet_is_in_state_start_and_fails_nothing() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let policy = node.policy();
    let verdict = appraised(&mut node, &policy);
    assert!(verdict.trusted, "{verdict}");
    let start: Vec<_> = verdict.start.iter().map(|p| p.uid).collect();
    assert_eq!(start.len() + verdict.pods.len(), policy.pods.len());
    assert!(start.contains(&pod(2)) && !start.contains(&pod(1)));
    assert!(
        verdict.to_string().contains(&format!("{}  pod-2  start", pod(2))),
        "{verdict}"
    );
}

#[test]
fn an_exclude_hides_a_file_and_the_verdict_says_how_much_it_hid() {
    let mut node = tampered();
    let policy = exclude_in_pod(&node, "^/(bin/app|tmp/.*)$").unwrap();
    let verdict = appraised(&mut node, &policy);
    let shown = verdict.pod(pod(1)).unwrap();
    assert_eq!(shown.state, State::Trusted, "{verdict}");
    assert!(shown.fnf.is_empty() && shown.filehash_err.is_empty());
    let hidden: Vec<_> = shown
        .files
        .iter()
        .filter(|f| f.excluded)
        .map(|f| &f.path[..])
        .collect();
    assert_eq!(hidden, [&b"/bin/app"[..], b"/tmp/unknown"]);
    let uses: u64 = shown
        .files
        .iter()
        .filter(|f| f.excluded)
        .map(|f| f.entries + f.executions)
        .sum();
    assert_eq!(shown.excluded, uses);
    assert!(uses >= 2);
    let finding = shown
        .findings
        .iter()
        .find(|f| f.text.contains("excludes hide"))
        .unwrap();
    assert_eq!(
        (finding.rule, finding.severity),
        (Rule::PodContents, Severity::Tolerated)
    );
    assert_eq!(finding.found, Some(uses.to_string()));
    assert!(finding.text.contains("of 2 files"), "{}", finding.text);
    let relaxed = verdict
        .relaxations
        .iter()
        .any(|r| r == "pod pod-1.excludes: ^/(bin/app|tmp/.*)$");
    assert!(relaxed, "{:?}", verdict.relaxations);
}

#[test]
fn an_exclude_of_one_pod_hides_nothing_elsewhere() {
    let mut node = tampered();
    node.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &sha256(b"evil"));
    let policy = exclude_in_pod(&node, "^/bin/app$").unwrap();
    let verdict = appraised(&mut node, &policy);
    assert_eq!(verdict.pod(pod(2)).unwrap().state, State::Untrusted, "{verdict}");
    // Matched from the beginning on and, without `$`, not to the end: as `re.match` does.
    let policy = exclude_in_pod(&node, "bin/app").unwrap();
    assert_eq!(
        appraised(&mut node, &policy).pod(pod(1)).unwrap().state,
        State::Untrusted
    );
    let policy = exclude_in_pod(&node, "/bin/a|/t").unwrap();
    assert_eq!(
        appraised(&mut node, &policy).pod(pod(1)).unwrap().state,
        State::Trusted
    );
}

/// An exclude says that nobody judges the content at a path. What runs in such a mapping is not that content.
#[test]
fn no_exclude_hides_a_mapping_that_is_writable_and_executable_at_once() {
    let pods = Actor::pod(pod(1), "/bin/app");
    let hosts = Actor::host("/sbin/init");
    for (actor, rule) in [(pods, Rule::PodContents), (hosts, Rule::Host)] {
        for kind in [EventKind::Mapping, EventKind::LateMapping] {
            let mut node = Node::busy(KeyKind::EcdsaP256);
            node.record_execution(&actor, kind, "/tmp/code", FileHash::PreCheck(sha256(b"any")));
            let policy = match rule {
                Rule::Host => policy_with(
                    &node,
                    "host: {references: [host.json]}",
                    "host: {references: [host.json], excludes: ['^/tmp/']}",
                ),
                _ => exclude_in_pod(&node, "^/tmp/"),
            };
            let policy = policy.unwrap();
            assert!(appraised(&mut node.clone(), &policy).trusted);
            node.waiting.last_mut().unwrap().1.writable = true;
            let verdict = appraised(&mut node, &policy);
            let found: Vec<_> = verdict.failures().collect();
            let [finding] = found[..] else { panic!("{verdict}") };
            assert_eq!(finding.rule, rule, "{verdict}");
            assert!(finding.text.contains("writable and executable"), "{verdict}");
        }
    }
}

#[test]
fn no_exclude_vouches_for_the_collector() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    let other = sha256(b"another collector");
    node.host_files.get_mut(COLLECTOR.as_bytes()).unwrap().clear();
    node.host_files
        .get_mut(COLLECTOR.as_bytes())
        .unwrap()
        .insert(other);
    let from = "host: {references: [host.json]}";
    let policy = policy_with(
        &node,
        from,
        "host: {references: [host.json], excludes: ['/usr/sbin/']}",
    )
    .unwrap();
    let verdict = appraised(&mut node, &policy);
    assert!(
        verdict
            .failures()
            .any(|f| f.rule == Rule::Host && f.text.contains("collector")),
        "{verdict}"
    );
}

#[test]
fn excludes_that_hide_every_reference_value_are_an_error_and_so_are_bad_ones() {
    let node = Node::boot(KeyKind::EcdsaP256);
    let error = exclude_in_pod(&node, ".*").unwrap_err();
    assert!(error.contains("nothing would be judged"), "{error}");
    let error = exclude_in_pod(&node, "/a[").unwrap_err();
    assert!(
        error.contains("character 2: unterminated character set"),
        "{error}"
    );
    assert!(error.starts_with("policy.yaml:"), "{error}");
}

#[test]
fn a_pod_whose_programs_run_out_of_sight_is_never_trusted_unless_its_policy_says_so() {
    let references = format!("references: [{}.json]", pod(1));
    let trust = format!("{references}, opaque: trust");
    for (path, is_opaque) in [
        ("/usr/local/bin/runsc", true),
        ("/usr/bin/qemu-system-x86_64", true),
        ("/opt/kata/bin/cloud-hypervisor", true),
        ("/opt/kata/bin/firecracker", true),
        ("/usr/libexec/qemu-kvm", true),
        ("/usr/local/bin/runsc.txt", false),
        ("/opt/firecracker/readme", false),
        ("/usr/bin/qemu-img", false),
    ] {
        // An accepted content, at a path that the pod may have.
        let mut node = Node::boot(KeyKind::EcdsaP256);
        let digest = sha256(path.as_bytes());
        for files in node.pod_files.values_mut() {
            files.entry(path.into()).or_default().insert(digest.clone());
        }
        node.execute_good(&Actor::pod(pod(2), "/bin/app"), "/bin/app");
        node.execute(&Actor::pod(pod(1), "/bin/app"), path, &digest);
        let plain = policy_with(&node, &references, &references).unwrap();
        let verdict = appraised(&mut node.clone(), &plain);
        let expected = if is_opaque {
            State::Untrusted
        } else {
            State::Trusted
        };
        assert_eq!(verdict.pod(pod(1)).unwrap().state, expected, "{path}: {verdict}");
        assert_eq!(
            verdict.pod(pod(2)).unwrap().state,
            State::Trusted,
            "{path}: {verdict}"
        );
        assert_eq!(verdict.node.state, State::Trusted, "{path}: {verdict}");
        let said = |verdict: &Verdict, severity: Severity| {
            let mut findings = verdict.pod(pod(1)).unwrap().findings.iter();
            findings.any(|finding| {
                finding.rule == Rule::PodContents
                    && finding.severity == severity
                    && finding.text.starts_with("opaque: ")
            })
        };
        assert_eq!(said(&verdict, Severity::Fail), is_opaque, "{path}: {verdict}");
        let policy = policy_with(&node, &references, &trust).unwrap();
        let verdict = appraised(&mut node, &policy);
        assert_eq!(
            verdict.pod(pod(1)).unwrap().state,
            State::Trusted,
            "{path}: {verdict}"
        );
        // What is laxer stays in every verdict.
        assert_eq!(
            said(&verdict, Severity::Tolerated),
            is_opaque,
            "{path}: {verdict}"
        );
        assert!(
            policy
                .relaxations()
                .iter()
                .any(|key| key.ends_with("opaque: trust"))
        );
    }
    // A runtime that brings a monitor of its own is above all that the pod shows, a virtual network's helper,
    // say.
    for (exe, is_opaque) in [
        ("/usr/bin/containerd-shim-kata-v2", true),
        ("/usr/bin/containerd-shim-runsc-v1", true),
        ("/opt/kata/bin/qemu-system-x86_64", true),
        ("/usr/bin/containerd-shim-kata-v2-not", false),
    ] {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        let mut actor = Actor::pod(pod(1), "/bin/app");
        actor.exes.insert(1, exe.into());
        node.execute_good(&actor, "/bin/app");
        node.extra_policy +=
            "runtimes: [containerd-shim-runc-v2, containerd-shim-kata-v2, containerd-shim-runsc-v1]\n";
        let plain = policy_with(&node, &references, &references).unwrap();
        let state = appraised(&mut node.clone(), &plain).pod(pod(1)).unwrap().state;
        assert_eq!(state == State::Untrusted, is_opaque, "{exe}");
        let policy = policy_with(&node, &references, &trust).unwrap();
        let state = appraised(&mut node, &policy).pod(pod(1)).unwrap().state;
        assert_eq!(state, State::Trusted, "{exe}");
    }
    // On the host a monitor is a program like any other.
    let mut node = Node::boot(KeyKind::EcdsaP256);
    let digest = sha256(b"monitor");
    node.host_files
        .entry("/usr/bin/qemu-system-x86_64".into())
        .or_default()
        .insert(digest.clone());
    node.execute(&Actor::host("/sbin/init"), "/usr/bin/qemu-system-x86_64", &digest);
    let policy = policy_with(&node, &references, &references).unwrap();
    assert!(appraised(&mut node, &policy).trusted);
}

/// Where Kata (docs/design/host-cgroups.md there) and gVisor put what they run for a pod: with
/// `sandbox_cgroup_only`, shim and monitor are in a group of their own below the pod's; without it they are
/// the host's, and the pod has nothing but its name. `runsc` executes itself in the container's group.
#[test]
fn pods_of_kata_and_gvisor_are_never_trusted_by_default_wherever_their_processes_are() {
    const MONITOR: &str = "/opt/kata/bin/qemu-system-x86_64";
    const KATA: &str = "/opt/kata/bin/containerd-shim-kata-v2";
    const RUNSC: &str = "/usr/local/bin/runsc";
    let (sandbox, kata) = ("a".repeat(64), format!("kata_{}", "a".repeat(64)));
    let below = |place: &str, shim: &str, exe: &str| {
        let mut actor = Actor::container(pod(1), place, "", exe);
        actor.exes[1] = shim.into();
        actor
    };
    let beside = |exe: &str, place: &str| {
        let mut actor = Actor::host(exe);
        actor.cgroup = Some(place.into());
        actor.exes.insert(1, KATA.into());
        actor
    };
    let cases = [
        (
            "sandbox_cgroup_only",
            below(&kata, KATA, KATA),
            MONITOR,
            State::Untrusted,
        ),
        (
            "gVisor",
            below(&sandbox, "/usr/bin/containerd-shim-runsc-v1", RUNSC),
            RUNSC,
            State::Untrusted,
        ),
        (
            "a group of Kata's",
            beside(KATA, "/kata_overhead/a"),
            MONITOR,
            State::Pending,
        ),
        (
            "containerd's group",
            beside(KATA, "/system.slice/containerd.service"),
            MONITOR,
            State::Pending,
        ),
    ];
    let references = format!("references: [{}.json]", pod(1));
    let trust = format!("{references}, opaque: trust");
    for (what, actor, program, expected) in cases {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.extra_policy += "runtimes: [containerd-shim-kata-v2, containerd-shim-runsc-v1]\n";
        let digest = sha256(program.as_bytes());
        let files = [node.pod_files.get_mut(&pod(1)).unwrap(), &mut node.host_files];
        for files in files {
            files.entry(program.into()).or_default().insert(digest.clone());
        }
        node.name_pod(pod(1), "shop", &[]);
        node.execute(&actor, program, &digest);
        let plain = policy_with(&node, &references, &references).unwrap();
        let verdict = appraised(&mut node.clone(), &plain);
        let own = verdict.pod(pod(1)).unwrap();
        let says = |severity: Severity| {
            let is_it =
                |f: &&cgpath_appraisal::Finding| f.severity == severity && f.text.starts_with("opaque");
            own.findings
                .iter()
                .any(|f| is_it(&f) && f.rule == Rule::PodContents)
        };
        assert_eq!(own.state, expected, "{what}: {verdict}");
        let severity = if expected == State::Untrusted {
            Severity::Fail
        } else {
            Severity::Note
        };
        assert!(says(severity), "{what}: {verdict}");
        assert_eq!(verdict.node.state, State::Trusted, "{what}: {verdict}");
        let policy = policy_with(&node, &references, &trust).unwrap();
        let verdict = appraised(&mut node, &policy);
        let own = verdict.pod(pod(1)).unwrap();
        assert_eq!(own.state, State::Trusted, "{what}: {verdict}");
        let tolerated = own.findings.iter().find(|f| f.severity == Severity::Tolerated);
        assert!(tolerated.unwrap().text.starts_with("opaque"), "{what}: {verdict}");
    }
}

/// CRI-O with `drop_infra_ctr` runs no pause process: while an image is pulled, or where it cannot be, a pod
/// is no more than its name.
#[test]
fn a_pod_that_is_named_and_runs_nothing_is_pending_for_as_long_and_its_node_is_trusted() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.execute_good(&Actor::pod(pod(2), "/bin/app"), "/bin/app");
    node.name_pod(pod(1), "shop", &[]);
    node.name_container(pod(1), &"ab".repeat(32), "");
    let policy = node.policy();
    let mut before = None;
    for round in 0..4 {
        // Others go on, and so does the clock.
        node.now += 3600;
        node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
        let nonce = format!("the nonce of round {round}").into_bytes();
        let evidence = node.attest(&nonce);
        let verdict = appraise(&evidence, &policy, &node.context(&nonce, before)).unwrap();
        let own = verdict.pod(pod(1)).unwrap();
        assert_eq!((own.state, own.charged), (State::Pending, false), "{verdict}");
        assert!(
            own.findings
                .iter()
                .all(|finding| finding.severity == Severity::Note),
            "{verdict}"
        );
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        assert_eq!(verdict.pod(pod(2)).unwrap().state, State::Trusted, "{verdict}");
        assert!(!verdict.trusted, "{verdict}");
        before = verdict.state;
        assert!(before.is_some(), "the next round goes on from here");
    }
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let evidence = node.attest(NONCE);
    let verdict = appraise(&evidence, &policy, &node.context(NONCE, before)).unwrap();
    assert_eq!(verdict.pod(pod(1)).unwrap().state, State::Trusted, "{verdict}");
    assert!(verdict.trusted, "{verdict}");
}

/// A pod that has begun is judged by what it ran.
#[test]
fn a_pod_that_has_a_name_and_ran_nothing_yet_is_neither_trusted_nor_charged() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.name_pod(pod(1), "shop", &[]);
    let policy = node.policy();
    let verdict = appraised(&mut node, &policy);
    let own = verdict.pod(pod(1)).unwrap();
    assert_eq!((own.state, own.charged), (State::Pending, false), "{verdict}");
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let verdict = appraised(&mut node, &policy);
    let own = verdict.pod(pod(1)).unwrap();
    assert_eq!(own.state, State::Trusted, "{verdict}");
    assert!(own.findings.is_empty(), "{verdict}");
}
