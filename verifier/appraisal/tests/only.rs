//! V9: `only` of a container limits which files of its image may run, and accepts nothing.

use crate::workloads::{Case, LONG, WEB, fails, id, of};
use cgpath_appraisal::{Rule, Severity, State, Verdict};
use cgpath_evidence::{EventKind, FileHash};
use cgpath_testkit::{Actor, pod, sha256};

const RUNC: &str = "/usr/bin/runc";
const TEXT: &str = "container web: the policy lets no file run at this path here (only)";

/// The container `web` of pod 20, whose image has `/bin/app` and `/lib/libc.so`.
fn web() -> Actor {
    Actor::container(pod(20), &id(2), "", "/bin/app")
}

/// A node whose container `web` has this beside its references; the runtime's own file may be in every pod.
fn unnamed(keys: &str) -> Case {
    let mut case = Case::new("");
    let text = case.node.workloads.take().unwrap();
    let references = format!("web: {{references: [{}.json]", pod(1));
    assert!(text.contains(&references));
    case.node.workloads = Some(text.replacen(&references, &format!("{references}, {keys}"), 1));
    case.node.extra_policy += &format!("runtime-files: [{RUNC}]\n");
    case
}

/// The same, with a pod that has its names and runs what it should.
fn case(keys: &str) -> Case {
    let mut case = unnamed(keys);
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    case
}

const ONLY: &str = "only: ['/bin/**']";

#[test]
fn what_runs_outside_of_only_fails_its_pod_and_names_container_path_and_content() {
    for kind in [EventKind::Execution, EventKind::Script, EventKind::Mapping] {
        let mut case = case(ONLY);
        case.names(pod(21), [4, 5, 6]);
        case.starts(pod(21), [4, 5, 6]);
        let verdict = case.round();
        assert!(verdict.trusted, "{verdict}");
        let libc = sha256(b"1/lib/libc.so");
        let hash = FileHash::Measured(libc.clone());
        case.node.record_execution(&web(), kind, "/lib/libc.so", hash);
        let verdict = case.round();
        let finding = fails(&verdict, pod(20), Rule::PodContents, TEXT);
        assert_eq!(finding.path.as_deref(), Some(&b"/lib/libc.so"[..]));
        assert_eq!(finding.found, Some(libc.to_string()));
        assert_eq!(finding.expected, ["/bin/**"]);
        let failures = of(&verdict, pod(20)).findings.iter();
        let failures = failures.filter(|finding| finding.severity == Severity::Fail);
        assert_eq!(failures.count(), 1, "{verdict}");
        let states: Vec<State> = of(&verdict, pod(20)).containers.iter().map(|c| c.state).collect();
        assert_eq!(states, [State::Trusted, State::Untrusted, State::Trusted]);
        assert_eq!(of(&verdict, pod(21)).state, State::Trusted, "{verdict}");
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        // It is no file that values could be made for.
        let pod = of(&verdict, pod(20));
        assert!(pod.fnf.is_empty() && pod.filehash_err.is_empty(), "{verdict}");
        assert!(
            pod.files
                .iter()
                .any(|file| file.path == b"/lib/libc.so" && !file.accepted)
        );
    }
}

#[test]
fn only_counts_in_its_own_container_and_for_what_ran_alone() {
    let mut case = case(ONLY);
    // The neighbour has no `only`.
    let log = Actor::container(pod(20), &id(3), "", "/bin/app");
    case.runs(&log, 3, "/lib/libc.so");
    // What was measured and did not run, as a file that root reads.
    case.node
        .measure(&web(), "/lib/libc.so", &sha256(b"1/lib/libc.so"));
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
}

#[test]
fn the_only_of_all_other_containers_counts_in_each_of_them() {
    let mut case = Case::new("");
    let text = case.node.workloads.take().unwrap();
    let log = format!("log: {{references: [{}.json]", pod(3));
    let any = log.replace("log: ", "'*': ");
    case.node.workloads = Some(text.replacen(&log, &format!("{any}, {ONLY}"), 1));
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    assert!(case.round().trusted);
    let log = Actor::container(pod(20), &id(3), "", "/bin/app");
    case.runs(&log, 3, "/lib/libc.so");
    fails(
        &case.round(),
        pod(20),
        Rule::PodContents,
        "container log: the policy lets no file",
    );
}

/// A path is what the kernel showed the process: its own mounts can make it any. So a content passes at a
/// path where the image has it, or not at all.
#[test]
fn only_accepts_nothing_that_the_values_refuse() {
    for (path, content, words) in [
        ("/bin/evil", "evil", "no reference value"),
        ("/bin/app", "evil", "the file's content"),
        // What a bind mount shows within `only`.
        ("/bin/libc.so", "1/lib/libc.so", "no reference value"),
        ("/bin/app", "1/lib/libc.so", "the file's content"),
        // What has no path, or one that is not from the root.
        ("/memfd:/bin/app (deleted)", "1/bin/app", "no reference value"),
        ("bin/app", "1/bin/app", "no reference value"),
    ] {
        let mut texts = Vec::new();
        for keys in [ONLY, "opaque: untrust"] {
            let mut case = case(keys);
            case.node.execute(&web(), path, &sha256(content.as_bytes()));
            let verdict = case.round();
            fails(&verdict, pod(20), Rule::PodContents, words);
            texts.push(of(&verdict, pod(20)).findings.clone());
        }
        assert_eq!(texts[0], texts[1], "{path}");
    }
}

#[test]
fn sandbox_and_what_the_runtime_runs_in_a_container_are_not_limited() {
    let mut case = case("only: ['/bin/app']");
    for path in ["/", "/memfd:runc_cloned:/proc/self/exe (deleted)", RUNC] {
        case.node.execute(&web(), path, &sha256(RUNC.as_bytes()));
    }
    let pause = Actor::container(pod(20), &id(1), "", "/pause");
    case.node.execute(&pause, "/pause", &sha256(b"pause"));
    let mut outside = Actor::pod(pod(20), "/pause");
    outside.cgroup = Some(format!("/kubepods/burstable/pod{}", pod(20)).into_bytes());
    case.node.execute(&outside, "/pause", &sha256(b"pause"));
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
}

#[test]
fn a_path_that_was_cut_is_none_of_only() {
    let mut case = case(ONLY);
    let hash = FileHash::Measured(sha256(b"1/bin/app"));
    case.node
        .record_execution(&web(), EventKind::Execution, "/bin/app", hash);
    let (_, record) = case.node.waiting.last_mut().unwrap();
    record.path_cut = true;
    let verdict = case.round();
    fails(&verdict, pod(20), Rule::PodContents, TEXT);
    fails(&verdict, pod(20), Rule::PodContents, "could not be read whole");
}

/// An exclude says which contents are not looked at, and `only` where something may run.
#[test]
fn what_an_exclude_hides_may_run_nowhere_else_either() {
    const BOTH: &str = "excludes: ['^/tmp/', '^/bin/gen'], only: ['/bin/**']";
    let mut case = case(BOTH);
    case.node.execute(&web(), "/bin/generated", &sha256(b"anything"));
    case.node.measure(&web(), "/tmp/read", &sha256(b"anything"));
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
    case.node.execute(&web(), "/tmp/x", &sha256(b"anything else"));
    let verdict = case.round();
    let finding = fails(&verdict, pod(20), Rule::PodContents, TEXT);
    assert_eq!(finding.path.as_deref(), Some(&b"/tmp/x"[..]));
}

#[test]
fn names_that_come_late_change_nothing_but_when_only_is_applied() {
    let mut case = unnamed(ONLY);
    case.starts(pod(20), [1, 2, 3]);
    case.runs(&web(), 1, "/lib/libc.so");
    let verdict = case.round();
    assert_eq!(of(&verdict, pod(20)).state, State::Pending, "{verdict}");
    case.after(60);
    case.names(pod(20), [1, 2, 3]);
    let late = case.round();
    let mut early = self::case(ONLY);
    early.runs(&web(), 1, "/lib/libc.so");
    let early = early.round();
    let failures = |verdict: &Verdict| {
        let finding = fails(verdict, pod(20), Rule::PodContents, TEXT);
        (finding.text.clone(), finding.path.clone(), finding.found.clone())
    };
    assert_eq!(failures(&late), failures(&early));
    // Nobody names the container: the sandbox's values alone count, and not `only`.
    let mut case = unnamed(ONLY);
    case.node.name_pod(pod(20), "shop", &WEB);
    case.runs(&web(), 1, "/lib/libc.so");
    case.round();
    case.after(LONG);
    fails(
        &case.round(),
        pod(20),
        Rule::PodContents,
        "pod runtime, a container without a name: no ref",
    );
}
