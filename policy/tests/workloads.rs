//! Properties of policies of version 2: the two files, the look-up in them, and how version 1 becomes them.

use crate::sha256;
use cgpath_evidence::PodUid;
use cgpath_policy::corim::Manifest;
use cgpath_policy::migrate::to_version_2;
use cgpath_policy::{
    Basis, ContentMatch, Error, Hidden, Name, NodePolicy, Overlap, PodNames, Policy, Selected,
    SharedMemoryCode, SourceKind, WorkloadsFile,
};
use std::path::Path;

const UID: &str = "6b0c2e1a-0f3d-4f7e-9a51-2f6f3c9d0a11";

fn node(version: &str, workloads: &str) -> String {
    let ima = sha256("ima policy");
    format!(
        "{version}
node: demo-node
accept:
  tiers: [bpf]
  templates: [ima-ng]
  banks: [sha256]
  ima-policies: ['{ima}']
  collector: /usr/sbin/cgpathd
host: {{ references: [rootfs.json] }}
runtime-files: [/usr/sbin/runc]
sandbox: {{ references: [pause.json] }}
{workloads}
"
    )
}

const NONE: &[(&str, &str)] = &[];

const WORKLOADS: &str = "version: 2
workloads:
  - name: shop/web
    match: {namespace: shop, labels: {app: web}}
    containers:
      web: {references: [web.json]}
      '*': {references: [log.json]}
  - name: shop/any
    match: {namespace: shop}
    containers: {job: {references: [log.json]}}
  - name: bare
    match: {uid: 6b0c2e1a0f3d4f7e9a512f6f3c9d0a11}
    containers: {'*': {references: [log.json]}}
";

fn values(name: &str) -> Result<Vec<u8>, String> {
    let files: &[(&str, &str)] = match name {
        "rootfs.json" => &[("/usr/sbin/cgpathd", "collector"), ("/usr/sbin/runc", "runc")],
        "pause.json" => &[("/pause", "pause")],
        "web.json" | "shared/web.json" | "/values/web.json" => &[("/bin/app", "web")],
        "log.json" | "shared/log.json" => &[("/bin/app", "log")],
        other => return Err(format!("no file {other}")),
    };
    Ok(crate::values(SourceKind::Image, files))
}

fn load_with(node: &str, workloads: &str) -> cgpath_policy::Result<Policy> {
    Policy::load("node.yaml", node.as_bytes(), |name| match name {
        "workloads.yaml" | "shared/workloads.yaml" => Ok(workloads.as_bytes().to_vec()),
        other => values(other),
    })
}

fn load(workloads: &str) -> cgpath_policy::Result<Policy> {
    load_with(&node("version: 2", "workloads: workloads.yaml"), workloads)
}

fn selected(policy: &Policy, uid: &str, names: Option<(&str, &[(&str, &str)])>) -> Option<String> {
    let labels: Vec<(String, String)> = names
        .iter()
        .flat_map(|(_, labels)| labels.iter())
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let names = names.map(|(namespace, _)| PodNames {
        namespace,
        labels: &labels,
    });
    let uid = PodUid::parse(uid.as_bytes()).unwrap();
    match policy.workloads.as_ref().unwrap().select(&uid, names.as_ref()) {
        Selected::Workload(workload) => Some(workload.workload.name.clone()),
        Selected::None => Some("none".into()),
        Selected::Undecided => None,
    }
}

#[test]
fn the_first_entry_that_matches_decides_and_without_names_none_before_a_uid() {
    let policy = load(WORKLOADS).unwrap();
    let other = "11111111-1111-4111-8111-111111111111";
    let web = [("app", "web"), ("x", "y")];
    assert_eq!(
        selected(&policy, other, Some(("shop", &web[..]))).unwrap(),
        "shop/web"
    );
    assert_eq!(
        selected(&policy, other, Some(("shop", &web[1..]))).unwrap(),
        "shop/any"
    );
    assert_eq!(
        selected(&policy, other, Some(("bank", &web[..]))).unwrap(),
        "none"
    );
    assert_eq!(selected(&policy, UID, Some(("shop", NONE))).unwrap(), "shop/any");
    assert_eq!(selected(&policy, UID, Some(("bank", NONE))).unwrap(), "bare");
    assert_eq!(selected(&policy, UID, None), None);
    let first = WORKLOADS.replace(
        "  - name: shop/web",
        "  - name: first\n    \
        match: {uid: 6b0c2e1a0f3d4f7e9a512f6f3c9d0a11}\n    \
        containers: {'*': {references: [log.json]}}\n  \
        - name: shop/web",
    );
    let policy = load(&first).unwrap();
    assert_eq!(selected(&policy, UID, None).unwrap(), "first");
    assert_eq!(selected(&policy, other, None), None);
    let empty = load("version: 2\nworkloads: []\n").unwrap();
    assert_eq!(selected(&empty, other, None).unwrap(), "none");
}

#[test]
fn a_container_has_its_own_values_and_the_runtimes_and_the_pod_runtime_those_of_the_sandbox() {
    let policy = load(WORKLOADS).unwrap();
    let workload = &policy.workloads.as_ref().unwrap().list[0];
    let look_up = |container: &str, path: &'static str, content: &str| {
        let container = workload.container(container).unwrap();
        policy.look_up_container(&container.allowed, Name::True(path.as_bytes()), &sha256(content))
    };
    let accepted = |basis| ContentMatch::Accepted {
        basis,
        learned: false,
    };
    let expected = |content| ContentMatch::WrongHash {
        expected: vec![sha256(content)],
    };
    assert_eq!(look_up("web", "/bin/app", "web"), accepted(Basis::Own));
    assert_eq!(look_up("web", "/bin/app", "log"), expected("web"));
    assert_eq!(look_up("other", "/bin/app", "log"), accepted(Basis::Own));
    assert_eq!(look_up("web", "/memfd:x", "runc"), accepted(Basis::RuntimeFile));
    assert_eq!(look_up("web", "/pause", "pause"), ContentMatch::UnknownPath);
    let outside = |path: &'static str, content: &str| {
        policy.look_up_pod_runtime(Name::True(path.as_bytes()), &sha256(content))
    };
    assert_eq!(outside("/pause", "pause"), accepted(Basis::Sandbox));
    assert_eq!(outside("/memfd:x", "runc"), accepted(Basis::RuntimeFile));
    assert_eq!(outside("/bin/app", "web"), ContentMatch::UnknownPath);
    assert!(
        policy.workloads.as_ref().unwrap().list[1]
            .container("web")
            .is_none()
    );
    assert!(
        policy
            .accepted_in_workloads(Name::True(b"/bin/app"), &sha256("log"))
            .is_some()
    );
    assert!(
        policy
            .accepted_in_workloads(Name::True(b"/bin/app"), &sha256("x"))
            .is_none()
    );
}

#[test]
fn what_an_exclude_hides_in_any_part_of_a_pod_is_said_apart_from_what_is_accepted() {
    let is_hidden = |policy: &Policy, path: &'static str| {
        let name = Name::True(path.as_bytes());
        assert!(policy.accepted_in_workloads(name, &sha256("x")).is_none());
        policy.hidden_in_workloads(name)
    };
    let of_node = node("version: 2", "workloads: workloads.yaml")
        .replace("[pause.json]", "[pause.json], excludes: ['^/run/']");
    let of_web = WORKLOADS.replacen("[web.json]", "[web.json], excludes: ['^/tmp/']", 1);
    let policy = load_with(&of_node, &of_web).unwrap();
    assert!(is_hidden(&policy, "/run/x") && is_hidden(&policy, "/tmp/x"));
    assert!(!is_hidden(&policy, "/var/x"));
    let policy = load(WORKLOADS).unwrap();
    assert!(!is_hidden(&policy, "/run/x") && !is_hidden(&policy, "/tmp/x"));
}

#[test]
fn a_workloads_name_has_the_namespace_of_its_match_or_means_one_pod_by_its_uid() {
    let bare = |name: &str, more: &str| {
        let text = WORKLOADS.replace("name: bare", &format!("name: {name}"));
        load(&text.replace("{uid: ", &format!("{{{more}uid: "))).is_ok()
    };
    assert!(bare("kube-system/etcd", "") && bare("etcd", "namespace: bank, "));
    assert!(bare("bank/etcd", "namespace: bank, ") && !bare("shop/etcd", "namespace: bank, "));
    let by_labels = |name: &str| {
        let text = WORKLOADS.replace("name: shop/any", &format!("name: {name}"));
        load(&text.replace("{namespace: shop}", "{labels: {app: any}}")).is_ok()
    };
    assert!(by_labels("any") && !by_labels("shop/any") && !by_labels("/any"));
}

fn refused(workloads: &str) -> (usize, String) {
    match load(workloads) {
        Err(Error::Syntax { file, line, why, .. }) => {
            assert_eq!(file, "workloads.yaml");
            (line, why)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_that_nothing_appraises_yet_is_refused_with_its_line() {
    for (after, key, words) in [
        (
            "version: 2\n",
            "signers: {release: {key: release.pub}}\n",
            "signatures",
        ),
        ("name: shop/web\n", "    max: 50\n", "when a pod ended"),
        (
            "name: shop/web\n",
            "    init-containers: {x: {references: [log.json]}}\n",
            "Kubernetes API",
        ),
        (
            "name: shop/web\n",
            "    ephemeral-containers: deny\n",
            "Kubernetes API",
        ),
    ] {
        let text = WORKLOADS.replacen(after, &format!("{after}{key}"), 1);
        let line = text.lines().position(|line| line == key.trim_end()).unwrap() + 1;
        let (found, why) = refused(&text);
        assert_eq!(found, line, "{why}");
        assert!(why.contains(words), "{why}");
    }
    for (key, words) in [
        ("images: ['registry.example/web:7']", "signed-by"),
        ("signed-by: [release]", "signatures"),
        ("executions: entrypoint", "kubectl exec"),
        ("exec: [/app/healthz]", "kubectl exec"),
    ] {
        let text = WORKLOADS.replacen("[web.json]", &format!("[web.json], {key}"), 1);
        let (line, why) = refused(&text);
        assert_eq!(line, 6, "{why}");
        assert!(why.contains(words), "{why}");
    }
    for key in ["owner: Deployment/web", "service-account: web"] {
        let (line, why) = refused(&WORKLOADS.replacen("app: web}", &format!("app: web}}, {key}"), 1));
        assert_eq!(line, 4, "{why}");
        assert!(why.contains("Kubernetes API"), "{why}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_line() {
    for (from, to, line, words) in [
        ("version: 2", "version: 1", 1, "version 1 of workloads"),
        ("{namespace: shop}", "{}", 9, "every pod"),
        ("namespace: shop,", "namespace: Shop,", 4, "Kubernetes"),
        ("      web:", "      Web:", 6, "Kubernetes"),
        ("[web.json]", "[]", 6, "empty allow list"),
        ("{job: {references: [log.json]}}", "{}", 10, "containers"),
        (
            "{job: {references: [log.json]}}",
            "job",
            10,
            "expected a mapping of keys",
        ),
        (
            "{references: [web.json]}",
            "[web.json]",
            6,
            "expected a mapping of keys",
        ),
        (
            "name: shop/any",
            "name: shop/web",
            8,
            "workload \"shop/web\" stands twice",
        ),
        ("name: shop/any", "name: bank/any", 8, "does not have"),
        // What somebody wrote is left as it is.
        (
            "name: shop/any",
            "name: 'a, expected struct b/c'",
            8,
            "workload \"a, expected struct b/c\" is called by a namespace",
        ),
        ("{namespace: shop}", "{labels: {a: b}}", 8, "does not have"),
        ("workloads:", "settle: 2h\nworkloads:", 2, "120s"),
        (
            "workloads:",
            "unknown-pods: ignore\nworkloads:",
            2,
            "unknown variant",
        ),
        (
            "{references: [web.json]}",
            "{reference: [web.json]}",
            6,
            "reference",
        ),
        ("[web.json]", "[web.json], only: []", 6, "empty allow list"),
        ("[web.json]", "[web.json], only: [app/x]", 6, "must begin with /"),
        // It would match what has no path from the root.
        ("[web.json]", "[web.json], only: ['**']", 6, "must begin with /"),
    ] {
        assert!(WORKLOADS.contains(from), "{from}");
        let (found, why) = refused(&WORKLOADS.replacen(from, to, 1));
        assert!(why.contains(words), "{from}: {why}");
        assert_eq!(found, line, "{from}: {why}");
    }
}

#[test]
fn the_node_part_has_pods_or_workloads_as_its_version_says() {
    let refused = |text: &str| match NodePolicy::from_yaml("node.yaml", text.as_bytes()) {
        Err(Error::Syntax { line, why, .. }) => (line, why),
        other => panic!("{other:?}"),
    };
    let last = node("version: 2", "pods: []").lines().count();
    let (line, why) = refused(&node("version: 2", "workloads: workloads.yaml\npods: []"));
    assert_eq!(line, last + 1, "{why}");
    assert!(why.contains("migrate"), "{why}");
    let (line, why) = refused(&node("version: 1", "pods: []\nworkloads: workloads.yaml"));
    assert_eq!(line, last + 1, "{why}");
    assert!(why.contains("version 2"), "{why}");
    assert!(refused(&node("version: 2", "")).1.contains("workloads"));
    assert!(refused(&node("version: 1", "")).1.contains("pods"));
    assert!(refused(&node("version: 3", "pods: []")).1.contains("1 and 2"));
    assert!(
        refused(&node("version: 2", "workloads: ''"))
            .1
            .contains("name of a file")
    );
}

#[test]
fn files_of_the_workload_part_stand_beside_it_and_its_digest_is_the_same_for_all_nodes() {
    let a = load(WORKLOADS).unwrap();
    let shared = node("version: 2", "workloads: shared/workloads.yaml").replace("demo-node", "other");
    let b = load_with(&shared, WORKLOADS).unwrap();
    let digest = |policy: &Policy| policy.workloads.as_ref().unwrap().digest().clone();
    assert_eq!(digest(&a), digest(&b));
    assert_ne!(a.digest(), b.digest());
    let changed = load(&(WORKLOADS.to_owned() + "# another comment\n")).unwrap();
    assert_ne!(digest(&a), digest(&changed));
    assert_ne!(a.digest(), changed.digest());
    assert_eq!(b.users_of("shared/web.json"), ["shop/web"]);
    let absolute = WORKLOADS.replace("web.json", "/values/web.json");
    let c = load_with(&shared, &absolute).unwrap();
    assert_eq!(c.users_of("/values/web.json"), ["shop/web"]);
    let absent = load(&WORKLOADS.replace("web.json", "absent.json"))
        .unwrap_err()
        .to_string();
    assert!(
        absent.starts_with("workloads.yaml: ") && absent.contains("absent.json"),
        "{absent}"
    );
}

#[test]
fn entries_that_overlap_and_such_that_never_match_are_named() {
    let file = |text: &str| WorkloadsFile::from_yaml("workloads.yaml", text.as_bytes()).unwrap();
    let overlap = |first, second, is_whole| Overlap {
        first,
        second,
        is_whole,
    };
    let text = WORKLOADS.replace(
        "shop/any\n    match: {namespace: shop}",
        "x\n    match: {namespace: shop, labels: {app: web, tier: front}}",
    );
    let meets =
        "  - name: y\n    match: {labels: {tier: front}}\n    containers: {'*': {references: [log.json]}}\n";
    let apart = "  - name: z\n    \
        match: {namespace: bank, labels: {tier: back}}\n    \
        containers: {'*': {references: [log.json]}}\n";
    let file = file(&(text + meets + apart));
    assert_eq!(
        file.overlaps(),
        [
            overlap("shop/web", "x", true),
            overlap("shop/web", "bare", false),
            overlap("x", "bare", false),
            overlap("shop/web", "y", false),
            overlap("x", "y", false),
            overlap("bare", "y", false),
            overlap("bare", "z", false),
        ]
    );
}

#[test]
fn every_laxer_value_of_workloads_is_repeated() {
    let trusted = "opaque: trust, shared-memory-code: trust";
    let text = WORKLOADS
        .replacen("workloads:", "unknown-pods: report\nsettle: 3m\nworkloads:", 1)
        .replacen(
            "[web.json]",
            &format!("[web.json], excludes: ['^/tmp/'], {trusted}"),
            1,
        );
    assert_eq!(
        load(&text).unwrap().relaxations(),
        [
            "unknown-pods: report",
            "settle: 180s",
            "workload shop/web, container web.opaque: trust",
            "workload shop/web, container web.shared-memory-code: trust",
            "workload shop/web, container web.excludes: ^/tmp/",
        ]
    );
    assert!(load(WORKLOADS).unwrap().relaxations().is_empty());
}

#[test]
fn a_manifest_of_a_policy_names_the_workloads_that_it_does_not_have() {
    let (manifest, left_out) = Manifest::of_policy("id".into(), &load(WORKLOADS).unwrap());
    assert!(manifest.pods.is_empty());
    for name in ["shop/web", "shop/any", "bare"] {
        let begin = format!("workloads: {name}: ");
        assert!(
            left_out.iter().any(|line| line.starts_with(&begin)),
            "{left_out:?}"
        );
    }
}

#[test]
fn version_1_becomes_version_2_with_its_comments_and_says_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for example in [
        "examples/everything.yaml",
        "examples/two-pods/node.yaml",
        "node/containerd.yaml",
    ] {
        let text = std::fs::read_to_string(folder.join(example)).unwrap();
        let made = to_version_2(example, text.as_bytes(), "workloads.yaml").unwrap();
        let comments = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
        assert_eq!(comments(&text), comments(&made.node), "{}", made.node);
        let old = NodePolicy::from_yaml(example, text.as_bytes()).unwrap();
        let part = WorkloadsFile::from_yaml("workloads.yaml", made.workloads.as_bytes()).unwrap();
        assert_eq!(part.workloads.len(), old.pods.len());
        let again = to_version_2(example, made.node.as_bytes(), "workloads.yaml");
        assert!(matches!(again, Err(Error::Meaning { .. })), "{again:?}");
    }
    let inline = "{version: 1, pods: []}";
    assert!(to_version_2("x", inline.as_bytes(), "workloads.yaml").is_err());
}

#[test]
fn the_workloads_that_the_documents_show_can_be_read() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, shown) = page.split_once("```yaml\nversion: 2\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let file = WorkloadsFile::from_yaml("page", format!("version: 2\n{shown}").as_bytes()).unwrap();
    assert_eq!(file.workloads.len(), 2);
    assert_eq!(shown.lines().count() + 1, 10);
}

#[test]
fn what_version_1_accepts_of_the_sandbox_in_a_container_version_2_accepts_after_it_is_migrated() {
    let pods = format!("pods: [{{uid: {UID}, name: shop/web, references: [web.json]}}]");
    let of_node = |version: &str, rest: &str| {
        node(version, rest).replace("[pause.json]", "[pause.json], excludes: ['^/run/']")
    };
    let old_text = of_node("version: 1", &pods);
    let made = to_version_2("x", old_text.as_bytes(), "workloads.yaml").unwrap();
    let old = load_with(&old_text, "").unwrap();
    let new = load_with(&made.node, &made.workloads).unwrap();
    let uid = PodUid::parse(UID.as_bytes()).unwrap();
    let container = new.workloads.as_ref().unwrap().list[0].container("any").unwrap();
    for (path, content, is_accepted) in [
        ("/pause", "pause", true),
        ("/bin/app", "web", true),
        ("/bin/app", "log", false),
    ] {
        let name = || Name::True(path.as_bytes());
        let digest = sha256(content);
        let before = old.look_up_pod(&uid, name(), &digest).unwrap();
        assert_eq!(before.is_accepted(), is_accepted, "{path} {content}");
        let matched = new.look_up_container(&container.allowed, name(), &digest);
        assert_eq!(matched.is_accepted(), is_accepted, "{path} {content}");
    }
    assert_eq!(old.hides_in_pod(&uid, Name::True(b"/run/x")), Hidden::Yes);
    assert_eq!(container.allowed.hides(Name::True(b"/run/x")), Hidden::Yes);
}

#[test]
fn pods_with_everything_that_one_can_have_are_migrated_and_equal_names_are_told_apart() {
    let pods = "pods:
  # of the shop
  - uid: 11111111-1111-4111-8111-111111111111
    name: \"a \\\"b\"
    references: [web.json, log.json]
    excludes: ['^/tmp/(a|b)$']
    opaque: trust
    shared-memory-code: trust

  - {uid: 22222222222242228222222222222222, name: same, references: [web.json]}
  - {uid: 33333333-3333-4333-8333-333333333333, name: same, references: [web.json]}
# The end.
min-reboot: 11";
    let made = to_version_2("x", node("version: 1 # first", pods).as_bytes(), "w.yaml").unwrap();
    assert!(made.node.starts_with("version: 2 # first\n"), "{}", made.node);
    assert!(
        made.node
            .contains("workloads: \"w.yaml\"\n# The end.\nmin-reboot: 11\n"),
        "{}",
        made.node
    );
    let part = WorkloadsFile::from_yaml("w.yaml", made.workloads.as_bytes()).unwrap();
    let codes = |n: usize| part.workloads[n].containers["*"].shared_memory_code;
    assert_eq!(
        [0, 1, 2].map(codes),
        [
            SharedMemoryCode::Trust,
            SharedMemoryCode::Untrust,
            SharedMemoryCode::Untrust
        ]
    );
    // What version 1 accepts in every container.
    let references = |n: usize| part.workloads[n].containers["*"].references.clone();
    assert_eq!(references(0), ["web.json", "log.json", "pause.json"]);
    assert_eq!(references(1), ["web.json", "pause.json"]);
    let names: Vec<&str> = part.workloads.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["a \"b", "same", "33333333-3333-4333-8333-333333333333"]);
    assert_eq!(
        part.workloads[1].selector.to_string(),
        "{uid: 22222222222242228222222222222222}"
    );
}

#[test]
fn only_names_paths_and_a_path_that_is_not_whole_is_none_of_them() {
    let text = WORKLOADS.replacen("[web.json]", "[web.json], only: ['/app/**', /bin/?h]", 1);
    let policy = load(&text).unwrap();
    let container = |name: &str| {
        let workload = policy.all_workloads().next().unwrap();
        workload.container(name).unwrap().container.clone()
    };
    let web = container("web");
    for (path, may) in [
        ("/app/web", true),
        ("/app/lib/web.so", true),
        ("/bin/sh", true),
        ("/bin/bash", false),
        ("/app", false),
        ("/apple/web", false),
        ("/x/app/web", false),
        ("app/web", false),
        ("", false),
        ("/", false),
    ] {
        assert_eq!(web.may_run(path.as_bytes(), true), may, "{path}");
        assert!(!web.may_run(path.as_bytes(), false), "{path}");
        // Where there are none, nothing is said.
        assert!(container("log").may_run(path.as_bytes(), false), "{path}");
    }
    assert!(web.may_run(b"/app/\xff", true));
}
