//! Policies of version 2: pods are known by what the runtime calls them, and each container by its own
//! values.
//!
//! Each round is judged whole, encoded again and followed, and all three say the same.

use crate::policies::policy_with;
use crate::shared_memory::memfd;
use crate::ways::{self, Ways};
use cgpath_appraisal::explain::explain;
use cgpath_appraisal::follow::Follower;
use cgpath_appraisal::{Finding, MAX_WAITING, PodVerdict, Rule, Severity, State, Subject, Verdict, appraise};
use cgpath_evidence::{ContainerName, EventKind, Evidence, FileHash, Named, PartitionKey, PodName, PodUid};
use cgpath_testkit::{Actor, KeyKind, Measurement, Node, pod, sha256};

pub const WEB: [(&str, &str); 2] = [("app", "web"), ("pod-template-hash", "1")];
/// Longer than the policy lets a name take.
pub const LONG: u64 = 121;

/// A container's id.
pub fn id(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

/// A node whose policy has two workloads: `shop/web` with two containers, and a static pod.
pub struct Case {
    pub node: Node,
    pub ways: Ways,
    rounds: u32,
}

fn workloads(keys: &str) -> String {
    let [one, three, four] = [1, 3, 4].map(pod);
    format!(
        "version: 2
{keys}workloads:
  - name: shop/web
    match: {{namespace: shop, labels: {{app: web}}}}
    containers:
      web: {{references: [{one}.json]}}
      log: {{references: [{three}.json], excludes: ['^/tmp/']}}
  - name: kube/static
    match: {{uid: {static_pod}}}
    containers: {{'*': {{references: [{four}.json]}}}}
",
        static_pod = pod(99),
    )
}

impl Case {
    pub fn new(keys: &str) -> Case {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        let pause = [("/pause".into(), [sha256(b"pause")].into())];
        node.pod_files.insert(pod(9), pause.into());
        node.extra_policy += &format!("sandbox: {{references: [{}.json]}}\n", pod(9));
        node.workloads = Some(workloads(keys));
        Case {
            node,
            ways: Ways::default(),
            rounds: 0,
        }
    }

    pub fn nonce(&mut self) -> Vec<u8> {
        self.rounds += 1;
        format!("the nonce of round {}", self.rounds).into_bytes()
    }

    pub fn round(&mut self) -> Verdict {
        let nonce = self.nonce();
        let evidence = self.node.attest(&nonce);
        self.appraised(&evidence, &nonce)
    }

    pub fn appraised(&mut self, evidence: &Evidence, nonce: &[u8]) -> Verdict {
        let context = self.ways.next(self.node.context(nonce, None));
        let appraised = self
            .ways
            .appraise(evidence, &self.node.policy(), &context, &[])
            .unwrap();
        if let Some((way, one, whole)) = appraised.disagreement() {
            panic!("{way} differs:\n{one:#?}\n{whole:#?}");
        }
        appraised.whole
    }

    /// What the explanation of a finding says of reference values.
    fn of_values(
        &self,
        finding: &Finding,
        verdict: &Verdict,
        evidence: &Evidence,
        nonce: &[u8],
    ) -> Vec<String> {
        let context = self.node.context(nonce, None);
        let steps = explain(finding, verdict, evidence, &self.node.policy(), &context);
        let step = steps.into_iter().find(|step| step.what == "reference");
        step.unwrap().lines
    }

    pub fn after(&mut self, seconds: u64) {
        self.node.now += seconds;
    }

    /// Somebody executes what image `n` has at a path.
    pub fn runs(&mut self, actor: &Actor, n: u8, path: &str) {
        self.node
            .execute(actor, path, &sha256(format!("{n}{path}").as_bytes()));
    }

    pub fn in_container(&mut self, uid: PodUid, container: u8, image: u8) {
        let actor = Actor::container(uid, &id(container), "", "/bin/app");
        self.runs(&actor, image, "/bin/app");
    }

    pub fn names(&mut self, uid: PodUid, containers: [u8; 3]) {
        let [sandbox, web, log] = containers.map(id);
        self.node.name_pod(uid, "shop", &WEB);
        self.node.name_container(uid, &sandbox, "");
        self.node.name_container(uid, &web, "web");
        self.node.name_container(uid, &log, "log");
    }

    pub fn starts(&mut self, uid: PodUid, containers: [u8; 3]) {
        let [sandbox, web, log] = containers;
        let pause = Actor::container(uid, &id(sandbox), "", "/pause");
        self.node.execute(&pause, "/pause", &sha256(b"pause"));
        self.in_container(uid, web, 1);
        self.in_container(uid, log, 3);
    }
}

pub fn of(verdict: &Verdict, uid: PodUid) -> &PodVerdict {
    verdict.pod(uid).unwrap_or_else(|| panic!("{uid}:\n{verdict}"))
}

#[track_caller]
pub fn fails<'v>(verdict: &'v Verdict, uid: PodUid, rule: Rule, words: &str) -> &'v Finding {
    let pod = of(verdict, uid);
    assert_eq!(pod.state, State::Untrusted, "{verdict}");
    let found = pod
        .findings
        .iter()
        .find(|f| f.severity == Severity::Fail && f.rule == rule && f.text.contains(words));
    found.unwrap_or_else(|| panic!("no failure of {rule} that says {words:?}:\n{verdict}"))
}

#[track_caller]
fn node_fails(verdict: &Verdict, words: &str) {
    assert_eq!(verdict.node.state, State::Untrusted, "{verdict}");
    let is_it =
        |f: &&Finding| f.subject == Subject::Node && f.severity == Severity::Fail && f.text.contains(words);
    assert!(verdict.node.findings.iter().any(|f| is_it(&f)), "{verdict}");
}

#[test]
fn a_roll_out_with_new_uids_needs_no_other_policy() {
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
    let web = of(&verdict, pod(20));
    assert_eq!(web.name.as_deref(), Some("shop/web"));
    assert_eq!(web.told.as_deref(), Some("shop/pod-20"));
    let containers: Vec<_> = web
        .containers
        .iter()
        .map(|c| (c.name.as_deref(), c.sandbox, c.image.as_str(), c.state))
        .collect();
    assert_eq!(
        containers,
        [
            (None, true, "registry.example/:1", State::Trusted),
            (Some("web"), false, "registry.example/web:1", State::Trusted),
            (Some("log"), false, "registry.example/log:1", State::Trusted),
        ]
    );
    for n in 21..24 {
        case.after(60);
        let ids = [n, n + 50, n + 100];
        case.names(pod(n), ids);
        case.starts(pod(n), ids);
        let verdict = case.round();
        assert!(verdict.trusted, "{verdict}");
    }
    assert_eq!(case.ways.followed, 3);
    let policy = case.node.policy();
    assert_eq!(
        case.round().workloads.as_ref(),
        policy.workloads.as_ref().map(|part| part.digest())
    );
}

#[test]
fn a_content_of_a_neighbour_fails_its_pod_alone_and_names_the_container() {
    let mut case = Case::new("");
    for n in [20, 21] {
        case.names(pod(n), [n, n + 50, n + 100]);
        case.starts(pod(n), [n, n + 50, n + 100]);
    }
    case.in_container(pod(20), 70, 3);
    let verdict = case.round();
    let finding = fails(
        &verdict,
        pod(20),
        Rule::PodContents,
        "container web: the file's content",
    );
    assert_eq!(finding.path.as_deref(), Some(&b"/bin/app"[..]));
    assert_eq!(finding.found, Some(sha256(b"3/bin/app").to_string()));
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert_eq!(of(&verdict, pod(21)).state, State::Trusted);
    let states: Vec<State> = of(&verdict, pod(20)).containers.iter().map(|c| c.state).collect();
    assert_eq!(states, [State::Trusted, State::Untrusted, State::Trusted]);
    assert!(
        of(&verdict, pod(20))
            .filehash_err
            .iter()
            .any(|d| d.digest == sha256(b"3/bin/app"))
    );
}

#[test]
fn an_explanation_names_the_container_whose_values_have_the_path_or_the_content() {
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    case.in_container(pod(20), 2, 3);
    let web = Actor::container(pod(20), &id(2), "", "/bin/app");
    case.node.execute(&web, "/bin/other", &sha256(b"3/bin/app"));
    let nonce = case.nonce();
    let evidence = case.node.attest(&nonce);
    let verdict = case.appraised(&evidence, &nonce);
    let lines = |words: &str| {
        let finding = fails(&verdict, pod(20), Rule::PodContents, words);
        case.of_values(finding, &verdict, &evidence, &nonce)
    };
    let same_path = lines("container web: the file's content");
    for begin in ["container log: ", "container web: "] {
        assert!(
            same_path.iter().any(|line| line.starts_with(begin)),
            "{same_path:?}"
        );
    }
    assert!(same_path[0].starts_with("container web: "), "{same_path:?}");
    let same_content = lines("container web: no reference value");
    let begin = "container log: the content that was found is accepted at /bin/app";
    assert!(
        same_content.len() == 1 && same_content[0].starts_with(begin),
        "{same_content:?}"
    );
}

#[test]
fn an_explanation_begins_with_the_container_that_is_named_and_is_bounded_over_all_of_them() {
    let mut case = Case::new("");
    let containers: String = (0..60)
        .map(|n| format!("      c{n}: {{references: [{}.json]}}\n", pod(3)))
        .collect();
    case.node.workloads = Some(format!(
        "version: 2
workloads:
  - name: shop/web
    match: {{namespace: shop, labels: {{app: web}}}}
    containers:
{containers}"
    ));
    case.node.name_pod(pod(20), "shop", &WEB);
    case.node.name_container(pod(20), &id(2), "c7");
    case.in_container(pod(20), 2, 1);
    case.node
        .execute(&Actor::host("/sbin/init"), "/pause", &sha256(b"pause"));
    let nonce = case.nonce();
    let evidence = case.node.attest(&nonce);
    let verdict = case.appraised(&evidence, &nonce);
    let lines = |finding: &Finding| case.of_values(finding, &verdict, &evidence, &nonce);
    let of_pod = lines(fails(&verdict, pod(20), Rule::PodContents, "container c7: "));
    assert!(of_pod[0].starts_with("container c7: "), "{of_pod:?}");
    assert_eq!(of_pod.len(), 41, "{of_pod:?}");
    assert!(of_pod[40].contains("left out"), "{of_pod:?}");
    // The sandbox's values are for pods alone.
    let mut failures = verdict.failures();
    let of_host = failures.find(|f| f.subject == Subject::Partition(PartitionKey::Host));
    assert_eq!(
        lines(of_host.unwrap()),
        ["no reference value has this path or this content"]
    );
}

#[test]
fn a_group_that_is_named_after_a_neighbour_is_its_containers() {
    for below in [
        format!("/{}", id(3)),
        format!("/cri-containerd-{}.scope/x", id(3)),
        "/container".into(),
    ] {
        let mut case = Case::new("");
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        let nested = Actor::container(pod(20), &id(2), &below, "/bin/app");
        case.runs(&nested, 1, "/lib/libc.so");
        assert!(case.round().trusted, "{below}");
        case.runs(&nested, 3, "/bin/app");
        let verdict = case.round();
        fails(&verdict, pod(20), Rule::PodContents, "container web: ");
    }
}

#[test]
fn a_container_that_the_runtime_keeps_silent_about_is_pod_runtime_after_a_while() {
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    // What the sandbox may have needs no name.
    let silent = Actor::container(pod(20), &id(7), "", "/pause");
    case.node.execute(&silent, "/pause", &sha256(b"pause"));
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
    case.in_container(pod(20), 7, 3);
    let verdict = case.round();
    assert_eq!(of(&verdict, pod(20)).state, State::Pending, "{verdict}");
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert!(!verdict.trusted);
    case.after(LONG - 1);
    assert_eq!(of(&case.round(), pod(20)).state, State::Pending);
    case.after(1);
    let verdict = case.round();
    fails(
        &verdict,
        pod(20),
        Rule::PodContents,
        "pod runtime, a container without a name: ",
    );
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
}

#[test]
fn what_is_outside_of_all_containers_has_the_values_of_the_sandbox_alone() {
    for place in ["", "/not-an-id", "/crio-conmon-ID.scope"] {
        let mut case = Case::new("");
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        let cgroup = format!("/kubepods/burstable/pod{}{place}", pod(20)).replace("ID", &id(2));
        let mut outside = Actor::pod(pod(20), "/pause");
        outside.cgroup = Some(cgroup.into_bytes());
        case.node.execute(&outside, "/pause", &sha256(b"pause"));
        assert!(case.round().trusted, "{place}");
        case.runs(&outside, 1, "/bin/app");
        fails(&case.round(), pod(20), Rule::PodContents, "pod runtime: ");
    }
}

#[test]
fn the_values_of_the_sandbox_count_in_no_other_container() {
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    let web = Actor::container(pod(20), &id(2), "", "/pause");
    case.node.execute(&web, "/pause", &sha256(b"pause"));
    fails(
        &case.round(),
        pod(20),
        Rule::PodContents,
        "container web: no reference value",
    );
}

#[test]
fn a_container_that_its_workload_does_not_list_fails_the_pod_by_name() {
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    case.node.name_container(pod(20), &id(8), "debugger");
    let verdict = case.round();
    let finding = fails(&verdict, pod(20), Rule::KnownPods, "container debugger: ");
    assert_eq!(finding.found.as_deref(), Some("registry.example/debugger:1"));
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
}

#[test]
fn a_runtime_that_lies_can_only_choose_among_what_the_policy_allows() {
    // A container by its neighbour's name has the neighbour's values, and not its own any more.
    let mut case = Case::new("");
    case.names(pod(20), [1, 3, 2]);
    case.starts(pod(20), [1, 2, 3]);
    let verdict = case.round();
    fails(&verdict, pod(20), Rule::PodContents, "container web: ");
    fails(&verdict, pod(20), Rule::PodContents, "container log: ");
    // No name makes a content good that no workload has.
    for name in ["web", "log", ""] {
        let mut case = Case::new("");
        case.node.name_pod(pod(20), "shop", &WEB);
        case.node.name_container(pod(20), &id(1), name);
        let actor = Actor::container(pod(20), &id(1), "", "/bin/evil");
        case.node.execute(&actor, "/bin/evil", &sha256(b"evil"));
        fails(&case.round(), pod(20), Rule::PodContents, "no reference value");
    }
    // A pod of another namespace, or without the label, is of no workload.
    for (namespace, labels) in [("bank", &WEB[..]), ("shop", &WEB[1..])] {
        let mut case = Case::new("");
        case.node.name_pod(pod(20), namespace, labels);
        case.in_container(pod(20), 1, 1);
        let verdict = case.round();
        assert_eq!(of(&verdict, pod(20)).state, State::Unknown, "{verdict}");
        node_fails(&verdict, "no workload of the policy matches");
    }
}

#[test]
fn a_pod_whose_labels_are_left_out_is_matched_by_namespace_and_by_no_label() {
    let labels: Vec<(String, String)> = (0..300).map(|n| (format!("{n:03}"), String::new())).collect();
    for (by, state) in [
        ("namespace: shop", State::Trusted),
        ("namespace: shop, labels: {app: web}", State::Unknown),
    ] {
        let mut case = Case::new("");
        let workloads = case.node.workloads.as_mut().unwrap();
        *workloads = workloads.replace("namespace: shop, labels: {app: web}", by);
        let name = PodName::new("shop".into(), "pod-20".into(), labels.clone());
        case.node.record_name(pod(20), Named::Pod(name));
        for (n, name) in [(1, ""), (2, "web"), (3, "log")] {
            case.node.name_container(pod(20), &id(n), name);
        }
        case.starts(pod(20), [1, 2, 3]);
        let verdict = case.round();
        assert_eq!(of(&verdict, pod(20)).state, state, "{verdict}");
        match state {
            State::Trusted => assert!(verdict.trusted, "{verdict}"),
            _ => node_fails(&verdict, "its labels are too many"),
        }
    }
}

#[test]
fn what_the_runtime_said_first_holds_and_another_word_is_a_finding() {
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    assert!(case.round().trusted);
    // The same again says nothing new.
    case.names(pod(20), [1, 2, 3]);
    assert!(case.round().trusted);
    case.node.name_container(pod(20), &id(2), "log");
    case.in_container(pod(20), 2, 3);
    let verdict = case.round();
    let finding = fails(&verdict, pod(20), Rule::KnownPods, "otherwise than before");
    assert_eq!(finding.expected, ["container web (registry.example/web:1)"]);
    fails(&verdict, pod(20), Rule::PodContents, "container web: ");
}

#[test]
fn a_pod_that_is_made_up_for_a_second_is_unidentified_for_the_boot() {
    for (keys, fails_node) in [("", true), ("unknown-pods: report\n", false)] {
        let mut case = Case::new(keys);
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        case.in_container(pod(30), 1, 1);
        let verdict = case.round();
        assert_eq!(of(&verdict, pod(30)).state, State::Pending, "{verdict}");
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        assert!(!of(&verdict, pod(30)).charged);
        for _ in 0..3 {
            case.after(LONG);
            let verdict = case.round();
            let made_up = of(&verdict, pod(30));
            assert_eq!(made_up.state, State::Unknown, "{verdict}");
            assert!(
                made_up.findings.iter().any(|f| f.text.contains("unidentified")),
                "{verdict}"
            );
            assert_eq!(of(&verdict, pod(20)).state, State::Trusted, "{verdict}");
            match fails_node {
                true => node_fails(&verdict, "unidentified"),
                false => assert_eq!(verdict.node.state, State::Trusted, "{verdict}"),
            }
            assert!(!verdict.trusted);
            let is_repeated = verdict.relaxations.contains(&"unknown-pods: report".to_owned());
            assert_eq!(is_repeated, !fails_node);
        }
    }
}

#[test]
fn names_that_come_60_seconds_late_change_nothing_but_when_it_is_known() {
    for (content, state) in [(1, State::Trusted), (3, State::Untrusted)] {
        let mut case = Case::new("");
        case.starts(pod(20), [1, 2, 3]);
        case.in_container(pod(20), 2, content);
        let verdict = case.round();
        assert_eq!(of(&verdict, pod(20)).state, State::Pending, "{verdict}");
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        case.after(60);
        case.names(pod(20), [1, 2, 3]);
        let verdict = case.round();
        assert_eq!(of(&verdict, pod(20)).state, state, "{verdict}");
        assert_eq!(case.ways.followed, 1);
        // Who sees it for the first time says the same.
        let nonce = case.nonce();
        let evidence = case.node.attest(&nonce);
        let first = appraise(&evidence, &case.node.policy(), &case.node.context(&nonce, None)).unwrap();
        let followed = case.appraised(&evidence, &nonce);
        assert_eq!(first.pods, followed.pods);
    }
}

#[test]
fn a_name_that_comes_after_all_is_better_than_none() {
    let mut case = Case::new("");
    case.starts(pod(20), [1, 2, 3]);
    case.round();
    case.after(LONG);
    assert_eq!(of(&case.round(), pod(20)).state, State::Unknown);
    case.names(pod(20), [1, 2, 3]);
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
}

#[test]
fn a_container_waits_from_its_first_sight_though_its_pod_had_no_name_yet() {
    let mut case = Case::new("");
    case.in_container(pod(20), 2, 1);
    case.round();
    case.after(LONG - 1);
    case.node.name_pod(pod(20), "shop", &WEB);
    assert_eq!(of(&case.round(), pod(20)).state, State::Pending);
    case.after(1);
    fails(
        &case.round(),
        pod(20),
        Rule::PodContents,
        "a container without a name",
    );
}

#[test]
fn a_container_waits_from_its_first_sight_though_it_used_nothing_then_that_needs_a_name() {
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    let silent = Actor::container(pod(20), &id(7), "", "/pause");
    case.node.execute(&silent, "/pause", &sha256(b"pause"));
    assert!(case.round().trusted);
    case.after(LONG - 1);
    assert!(case.round().trusted);
    case.after(1);
    case.in_container(pod(20), 7, 3);
    fails(
        &case.round(),
        pod(20),
        Rule::PodContents,
        "a container without a name",
    );
}

#[test]
fn settle_is_the_policys() {
    let mut case = Case::new("settle: 10m\n");
    case.in_container(pod(30), 1, 1);
    assert!(case.round().relaxations.contains(&"settle: 600s".to_owned()));
    case.after(600);
    assert_eq!(of(&case.round(), pod(30)).state, State::Pending);
    case.after(1);
    assert_eq!(of(&case.round(), pod(30)).state, State::Unknown);
}

#[test]
fn a_static_pod_is_known_by_its_uid_alone_and_its_containers_by_their_names() {
    let mut case = Case::new("");
    case.node.name_container(pod(99), &id(1), "etcd");
    case.in_container(pod(99), 1, 4);
    // It is behind an entry that asks for names: the first that matches decides, so it waits.
    assert_eq!(of(&case.round(), pod(99)).state, State::Pending);
    let text = case.node.workloads.take().unwrap();
    let (head, rest) = text.split_once("  - name: shop/web").unwrap();
    let (web, own) = rest.split_once("  - name: kube/static").unwrap();
    case.node.workloads = Some(format!("{head}  - name: kube/static{own}  - name: shop/web{web}"));
    case.ways = Ways::default();
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(of(&verdict, pod(99)).name.as_deref(), Some("kube/static"));
}

#[test]
fn excludes_are_those_of_the_container() {
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    let log = Actor::container(pod(20), &id(3), "", "/bin/app");
    case.node.execute(&log, "/tmp/x", &sha256(b"anything"));
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(of(&verdict, pod(20)).excluded, 2);
    assert_eq!(
        verdict.relaxations,
        ["workload shop/web, container log.excludes: ^/tmp/"]
    );
    let web = Actor::container(pod(20), &id(2), "", "/bin/app");
    case.node.execute(&web, "/tmp/x", &sha256(b"anything"));
    fails(&case.round(), pod(20), Rule::PodContents, "container web: ");
}

/// Nobody recorded whose it is: the host may have used it, and its own excludes alone speak of that.
#[test]
fn no_exclude_of_a_workload_hides_what_the_host_may_have_used() {
    const HOSTS: &str = "host: {references: [host.json]}";
    const EXCLUDES: &str = "host: {references: [host.json], excludes: ['^/tmp/']}";
    let next = |node: &mut Node, of_host: &str, before| {
        let policy = policy_with(node, HOSTS, of_host);
        let nonce = b"the nonce of this request";
        let evidence = node.attest(nonce);
        appraise(&evidence, &policy.unwrap(), &node.context(nonce, before)).unwrap()
    };
    let before_the_load = |path: &str, content: &[u8], of_host: &str| {
        let mut node = Case::new("").node;
        node.predating = vec![pod(99)];
        node.list.truncate(usize::try_from(node.boot_len).unwrap());
        let entry = Measurement::ima_ng(path.as_bytes(), &sha256(content));
        node.list.push(entry);
        node.load_again();
        next(&mut node, of_host, None)
    };
    let before_a_kexec = |path: &str, content: &[u8], of_host: &str| {
        let mut case = Case::new("");
        case.node.extra_policy += "kexec: allow\n";
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        let log = Actor::container(pod(20), &id(3), "", "/bin/app");
        case.node.execute(&log, path, &sha256(content));
        let mut node = case.node;
        let first = next(&mut node, of_host, None);
        assert!(first.trusted, "{first}");
        let (list, resets) = (node.list.clone(), node.reset_count);
        node.reboot();
        (node.list, node.reset_count) = (list, resets);
        let aggregate = Measurement::ima_ng(b"boot_aggregate", &sha256(b"pcrs of the new kernel"));
        node.list.push(aggregate);
        node.load_again();
        next(&mut node, of_host, first.state)
    };
    type Boot<'b> = &'b dyn Fn(&str, &[u8], &str) -> Verdict;
    let both: [Boot<'_>; 2] = [&before_the_load, &before_a_kexec];
    for boot in both {
        let accepted = boot("/bin/app", b"3/bin/app", HOSTS);
        assert_eq!(accepted.node.state, State::Trusted, "{accepted}");
        let refused = boot("/tmp/x", b"anything", HOSTS);
        assert_eq!(refused.node.state, State::Untrusted, "{refused}");
        let of_boot = |f: &&Finding| f.subject == Subject::Partition(PartitionKey::Boot);
        let found: Vec<_> = refused.failures().filter(of_boot).collect();
        let [finding] = found[..] else { panic!("{refused}") };
        assert_eq!(finding.path.as_deref(), Some(&b"/tmp/x"[..]), "{refused}");
        assert_eq!(
            (finding.rule, refused.node.excluded),
            (Rule::Host, 0),
            "{refused}"
        );
        let counted = boot("/tmp/x", b"anything", EXCLUDES);
        assert_eq!(counted.node.state, State::Trusted, "{counted}");
        let said = |f: &Finding| {
            f.severity == Severity::Tolerated
                && f.subject == Subject::Partition(PartitionKey::Boot)
                && f.text.contains("excludes hide 1 measured")
        };
        assert!(counted.node.findings.iter().any(said), "{counted}");
        assert_eq!(counted.node.excluded, 1, "{counted}");
    }
}

#[test]
fn what_runs_others_out_of_sight_counts_by_its_container_and_outside_by_all_of_them() {
    const MONITOR: &str = "/usr/bin/qemu-system-x86_64";
    let trust = |policy: String, images: &[u8]| {
        images.iter().fold(policy, |policy, n| {
            let own = format!("references: [{}.json]", pod(*n));
            policy.replace(&own, &format!("{own}, opaque: trust"))
        })
    };
    // A process of container `web`, one of `log` and one outside of both are below a monitor.
    for (trusted, place, is_trusted) in [
        (&[][..], id(2), false),
        (&[1], id(2), true),
        (&[1], id(3), false),
        (&[1], String::new(), false),
        (&[1, 3], String::new(), true),
    ] {
        let mut case = Case::new("");
        case.node.workloads = Some(trust(workloads(""), trusted));
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        assert!(case.round().trusted, "{trusted:?}");
        let (content, path) = match place.as_str() {
            "" => (sha256(b"pause"), "/pause"),
            of if of == id(2) => (sha256(b"1/bin/app"), "/bin/app"),
            _ => (sha256(b"3/bin/app"), "/bin/app"),
        };
        let mut actor = Actor::container(pod(20), &place, "", path);
        actor.exes.insert(1, MONITOR.into());
        case.node.execute(&actor, path, &content);
        let verdict = case.round();
        let own = of(&verdict, pod(20));
        let found = own.findings.iter().find(|f| f.text.contains("opaque: "));
        let severity = found.map(|finding| finding.severity);
        let wanted = if is_trusted {
            Severity::Tolerated
        } else {
            Severity::Fail
        };
        assert_eq!(severity, Some(wanted), "{trusted:?} {place}: {verdict}");
        assert_eq!(own.state == State::Trusted, is_trusted, "{verdict}");
        assert_eq!(found.unwrap().path.as_deref(), Some(MONITOR.as_bytes()));
    }
    // Before a container has a name, nobody knows.
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    let mut actor = Actor::container(pod(20), &id(7), "", "/pause");
    actor.exes.insert(1, MONITOR.into());
    case.node.execute(&actor, "/pause", &sha256(b"pause"));
    assert_eq!(of(&case.round(), pod(20)).state, State::Pending);
    case.after(LONG);
    fails(&case.round(), pod(20), Rule::PodContents, "opaque: ");
}

/// Kata without `sandbox_cgroup_only`: its monitor is the host's, and the pod has nothing but its name.
#[test]
fn a_pod_of_which_nothing_but_its_name_is_known_waits_unless_all_its_containers_may_be_opaque() {
    let trust = |images: &[u8]| {
        images.iter().fold(workloads(""), |policy, n| {
            let own = format!("references: [{}.json]", pod(*n));
            policy.replace(&own, &format!("{own}, opaque: trust"))
        })
    };
    for (trusted, state) in [
        (&[][..], State::Pending),
        (&[1], State::Pending),
        (&[1, 3], State::Trusted),
    ] {
        let mut case = Case::new("");
        case.node.workloads = Some(trust(trusted));
        case.node.name_pod(pod(20), "shop", &WEB);
        for _ in 0..2 {
            let verdict = case.round();
            assert_eq!(of(&verdict, pod(20)).state, state, "{trusted:?}: {verdict}");
            assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
            // However long it is so.
            case.after(LONG);
        }
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        assert!(case.round().trusted, "{trusted:?}");
    }
}

#[test]
fn code_in_unlinked_memory_counts_by_its_container_and_never_outside_of_all() {
    const WORDS: &str = "shared memory without a name was made executable";
    let trusting = || {
        let own = format!("web: {{references: [{}.json]", pod(1));
        let policy = workloads("").replace(&own, &format!("{own}, shared-memory-code: trust"));
        assert_ne!(policy, workloads(""));
        policy
    };
    let said = |verdict: &Verdict, uid: PodUid| -> Vec<(Severity, String, String)> {
        let own = of(verdict, uid)
            .findings
            .iter()
            .filter(|f| f.text.contains(WORDS));
        own.map(|f| (f.severity, f.text.clone(), f.found.clone().unwrap()))
            .collect()
    };
    // In `web`, in `log`, in the sandbox and outside of all of them.
    for (place, label, is_trusted) in [
        (id(2), "container web: ", true),
        (id(3), "container log: ", false),
        (id(1), "sandbox: ", false),
        (String::new(), "pod runtime: ", false),
    ] {
        let mut case = Case::new("");
        case.node.workloads = Some(trusting());
        for (n, ids) in [(20, [1, 2, 3]), (21, [4, 5, 6])] {
            case.names(pod(n), ids);
            case.starts(pod(n), ids);
        }
        assert!(case.round().trusted);
        let actor = Actor::container(pod(20), &place, "", "/bin/app");
        for n in 1..=2 {
            memfd(&mut case.node, &actor, EventKind::LateMapping);
            let verdict = case.round();
            let [(severity, text, found)] = &said(&verdict, pod(20))[..] else {
                panic!("{label}: {verdict}")
            };
            assert!(text.starts_with(&format!("{label}{WORDS}")), "{text}");
            assert_eq!(*found, format!("late mappings: {n}"));
            let wanted = match is_trusted {
                true => (Severity::Tolerated, State::Trusted),
                false => (Severity::Fail, State::Untrusted),
            };
            assert_eq!(
                (*severity, of(&verdict, pod(20)).state),
                wanted,
                "{label}: {verdict}"
            );
            assert_eq!(of(&verdict, pod(21)).state, State::Trusted, "{verdict}");
            assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        }
        let said_so = "workload shop/web, container web.shared-memory-code: trust";
        let relaxations = case.round().relaxations;
        assert!(relaxations.iter().any(|key| key == said_so), "{relaxations:?}");
        // It is executed in the container that is trusted with it.
        let web = Actor::container(pod(21), &id(5), "", "/bin/app");
        memfd(&mut case.node, &web, EventKind::Execution);
        fails(&case.round(), pod(21), Rule::PodContents, "no hash");
    }
    // Without the key it is a failure that names it; another workload has none.
    let mut case = Case::new("");
    case.names(pod(20), [1, 2, 3]);
    case.starts(pod(20), [1, 2, 3]);
    let web = Actor::container(pod(20), &id(2), "", "/bin/app");
    memfd(&mut case.node, &web, EventKind::LateMapping);
    let verdict = case.round();
    let finding = fails(&verdict, pod(20), Rule::PodContents, WORDS);
    assert!(
        finding.expected[0].starts_with("shared-memory-code: trust"),
        "{finding}"
    );
    let states: Vec<State> = of(&verdict, pod(20)).containers.iter().map(|c| c.state).collect();
    assert_eq!(states, [State::Trusted, State::Untrusted, State::Trusted]);
}

#[test]
fn code_in_unlinked_memory_of_a_container_without_a_name_waits_and_each_start_is_counted() {
    let own = format!("web: {{references: [{}.json]", pod(1));
    let policy = workloads("").replace(&own, &format!("{own}, shared-memory-code: trust"));
    for is_named in [true, false] {
        let mut case = Case::new("");
        case.node.workloads = Some(policy.clone());
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        let second = Actor::container(pod(20), &id(7), "", "/bin/app");
        for actor in [Actor::container(pod(20), &id(2), "", "/bin/app"), second] {
            memfd(&mut case.node, &actor, EventKind::LateMapping);
        }
        // Nothing else of it needs a name.
        let verdict = case.round();
        assert_eq!(of(&verdict, pod(20)).state, State::Pending, "{verdict}");
        if is_named {
            case.node.name_container(pod(20), &id(7), "web");
        }
        case.after(LONG);
        let verdict = case.round();
        let tolerated = of(&verdict, pod(20)).findings.iter();
        let tolerated = tolerated.filter(|f| f.severity == Severity::Tolerated).count();
        if is_named {
            assert!(verdict.trusted, "{verdict}");
            assert_eq!(tolerated, 2, "{verdict}");
        } else {
            let words = "pod runtime, a container without a name: shared memory";
            fails(&verdict, pod(20), Rule::PodContents, words);
            assert_eq!(tolerated, 1, "{verdict}");
        }
    }
}

#[test]
fn a_record_of_a_name_that_no_collector_makes_is_not_believed() {
    let uid = pod(20);
    let named = || {
        Named::Container(ContainerName {
            id: id(1),
            name: "web".into(),
            sandbox: false,
            image: String::new(),
            references: Vec::new(),
        })
    };
    let cgroup = || format!("/kubepods/burstable/pod{uid}").into_bytes();
    for change in 0..4 {
        let mut case = Case::new("");
        let mut record = named().into_record(5, 41, cgroup());
        let mut key = PartitionKey::Pod(uid);
        match change {
            0 => record.path = b"/bin/app".to_vec(),
            1 => record.name = None,
            2 => {
                record.cgroup = Some(b"/system.slice".to_vec());
                key = PartitionKey::Host;
            }
            _ => record.kind = EventKind::Execution,
        }
        case.node.waiting.push((key, record));
        let verdict = case.round();
        node_fails(
            &verdict,
            if change == 3 {
                "sequence number"
            } else {
                "a record of a name"
            },
        );
        assert!(verdict.state.is_none(), "{verdict}");
    }
}

#[test]
fn a_name_that_is_dropped_or_changed_after_it_was_sealed_is_noticed() {
    for change in 0..2 {
        let mut case = Case::new("");
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        let nonce = case.nonce();
        let mut evidence = case.node.attest(&nonce);
        let records = &mut evidence
            .partitions
            .iter_mut()
            .find(|log| log.key == PartitionKey::Pod(pod(20)))
            .unwrap()
            .records;
        let at = records
            .iter()
            .position(|record| record.kind == EventKind::Name)
            .unwrap();
        match change {
            0 => drop(records.remove(at)),
            _ => records[at].name = records[at + 1].name.clone(),
        }
        let verdict = case.appraised(&evidence, &nonce);
        node_fails(&verdict, "partitions root");
    }
}

#[test]
fn what_is_not_sealed_yet_is_appraised_by_its_container_too() {
    for (content, state) in [(1, State::Trusted), (3, State::Untrusted)] {
        let mut case = Case::new("");
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        assert!(case.round().trusted);
        let nonce = case.nonce();
        case.node.seal(Some(&nonce));
        let web = Actor::container(pod(20), &id(2), "", "/bin/app");
        let (path, digest) = (
            "/lib/libc.so",
            sha256(format!("{content}/lib/libc.so").as_bytes()),
        );
        case.node.measure(&web, path, &digest);
        let quote = case.node.quote(&nonce);
        let evidence = case.node.evidence(quote);
        let verdict = case.appraised(&evidence, &nonce);
        assert_eq!(of(&verdict, pod(20)).state, state, "{verdict}");
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    }
}

#[test]
fn more_pods_than_can_wait_do_not_wait_for_longer() {
    let mut case = Case::new("");
    for n in 0..=MAX_WAITING {
        let uid = PodUid((n as u128 + 1).to_be_bytes());
        let actor = Actor::container(uid, "", "", "/bin/app");
        let hash = FileHash::Measured(sha256(b"1/bin/app"));
        case.node
            .record_execution(&actor, EventKind::Execution, "/bin/app", hash);
    }
    let verdict = case.round();
    let count = |state| verdict.pods.iter().filter(|pod| pod.state == state).count();
    assert_eq!((count(State::Pending), count(State::Unknown)), (MAX_WAITING, 1));
    assert_eq!(verdict.node.state, State::Untrusted);
}

/// They wait from their first sight and have no name for the whole boot.
#[test]
fn containers_that_need_no_name_take_no_pods_place() {
    let mut case = Case::new("");
    case.node.name_pod(pod(20), "shop", &WEB);
    for n in 0..=MAX_WAITING {
        let actor = Actor::container(pod(20), &format!("{n:064x}"), "", "/pause");
        let hash = FileHash::Measured(sha256(b"pause"));
        case.node
            .record_execution(&actor, EventKind::Execution, "/pause", hash);
    }
    assert!(case.round().trusted);
    case.in_container(pod(30), 2, 1);
    let verdict = case.round();
    assert_eq!(of(&verdict, pod(30)).state, State::Pending, "{verdict}");
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
}

#[test]
fn under_a_policy_of_version_1_names_change_nothing_for_node_and_tenant() {
    let mut node = Node::busy(KeyKind::EcdsaP256);
    node.name_pod(pod(1), "shop", &WEB);
    node.name_container(pod(1), &"c".repeat(64), "web");
    let nonce = b"the nonce of this request";
    let evidence = node.attest(nonce);
    let context = node.context(nonce, None);
    let verdict = appraise(&evidence, &node.policy(), &context).unwrap();
    assert!(verdict.trusted, "{verdict}");
    assert!(of(&verdict, pod(1)).containers.is_empty());
    let own = crate::tenant::policy(&node, pod(1));
    let tenant = ways::tenant(&evidence, &verdict, pod(1), &own, &context).unwrap();
    assert!(tenant.trusted, "{tenant}");
}

#[test]
fn an_entry_without_a_record_may_wait_where_some_container_may_have_it_or_hides_it() {
    for (path, content, waits) in [
        ("/bin/app", "4/bin/app", true),
        ("/tmp/x", "anything", true),
        ("/bin/app", "anything", false),
    ] {
        let mut case = Case::new("");
        case.names(pod(20), [1, 2, 3]);
        case.starts(pod(20), [1, 2, 3]);
        assert!(case.round().trusted);
        let nonce = case.nonce();
        case.node.seal(Some(&nonce));
        let entry = Measurement::ima_ng(path.as_bytes(), &sha256(content.as_bytes()));
        assert!(!case.node.list.contains(&entry));
        case.node.list.push(entry);
        let quote = case.node.quote(&nonce);
        let evidence = case.node.evidence(quote);
        let verdict = case.appraised(&evidence, &nonce);
        assert_eq!(verdict.node.state == State::Trusted, waits, "{verdict}");
        assert_eq!(verdict.node.pending, 2, "that entry and the checkpoint's own");
    }
}

#[test]
fn what_the_runtime_calls_a_pod_is_weighed_with_what_is_kept_of_the_node() {
    let nonce = b"the nonce of this request";
    let weight = |note: &str| {
        let mut node = Case::new("").node;
        node.name_pod(pod(20), "shop", &[WEB[0], ("note", note)]);
        let evidence = node.attest(nonce);
        let (policy, context) = (node.policy(), node.context(nonce, None));
        let (_, follower) = Follower::begin(&evidence, &policy, &context, &[], context.now).unwrap();
        follower.unwrap().weight()
    };
    assert_eq!(weight(&"x".repeat(60)) - weight("x"), 59);
}
