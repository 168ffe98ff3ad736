//! Which image a pod's container really runs: what `cgpath identify` says of evidence and the images' index.

use crate::refs::{Case, Layout, text};
use cgpath_evidence::{ContainerName, Named, PodUid};
use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
use serde_json::{Value, json};

const BASE: &[(&str, &str)] = &[("bin/sh", "shell"), ("lib/c.so", "library")];

/// An index with the images `one` and `two`, which share a layer, and a node with a pod.
struct Pod {
    case: Case,
    node: Node,
    /// Configurations.
    one: String,
    two: String,
}

/// A container's id.
fn id() -> String {
    "ab".repeat(32)
}

impl Pod {
    fn new() -> Pod {
        let case = Case::new();
        let mut layout = Layout::default();
        let (first, one) = layout.image("amd64", &[BASE, &[("bin/app", "one"), ("bin/a b", "spaced")]]);
        let (second, two) = layout.image("amd64", &[BASE, &[("bin/app", "two")]]);
        for (name, manifest) in [("one", &first), ("two", &second)] {
            layout.write(&case.path(name), Some((manifest, &format!("{name}:1"))));
            case.objects(&["refs", "add", "refs", name]);
        }
        Pod {
            case,
            node: Node::boot(KeyKind::EcdsaP256),
            one,
            two,
        }
    }

    /// The runtime says of the container `web` that its image is this.
    fn said(&mut self, reference: &str) {
        self.named(&id(), false, reference);
    }

    fn named(&mut self, id: &str, sandbox: bool, reference: &str) {
        let container = ContainerName {
            id: id.into(),
            name: if sandbox { "" } else { "web" }.into(),
            sandbox,
            image: "one:1".into(),
            references: vec![reference.to_owned()],
        };
        self.node.record_name(pod(20), Named::Container(container));
    }

    fn runs(&mut self, path: &str, content: &str) {
        self.runs_in(&id(), path, content);
    }

    /// In the container of this id, or outside of all for another name.
    fn runs_in(&mut self, id: &str, path: &str, content: &str) {
        let actor = Actor::container(pod(20), id, "", path);
        self.node.execute(&actor, path, &sha256(content.as_bytes()));
    }

    fn write_evidence(&mut self) {
        let evidence = self.node.attest(b"a nonce of this round");
        std::fs::write(self.case.path("evidence.cbor"), evidence.to_cbor()).unwrap();
    }

    /// What `cgpath identify` exits with, prints, and says of errors, by the evidence that was written last.
    fn identify(&self, pod: PodUid, more: &[&str]) -> (Option<i32>, String, String) {
        let uid = pod.to_string();
        let line = [
            "identify",
            "--pod",
            &uid,
            "--refs",
            "refs",
            "--evidence",
            "evidence.cbor",
        ];
        self.case.run(&[&line[..], more].concat())
    }

    /// What is said of each part of the pod, and whether all is as it should be.
    fn identified(&mut self, more: &[&str]) -> (bool, Vec<Value>) {
        self.write_evidence();
        let (code, out, err) = self.identify(pod(20), &[&["--json"], more].concat());
        assert!(matches!(code, Some(0 | 1)), "{err}");
        let parts = out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (code == Some(0), parts)
    }
}

fn configurations(part: &Value) -> Vec<String> {
    let images = part["images"].as_array().unwrap();
    images.iter().map(|image| text(&image["configuration"])).collect()
}

#[test]
fn a_container_whose_files_are_all_of_one_image_is_of_it_whatever_it_is_called() {
    let mut pod = Pod::new();
    let one = pod.one.clone();
    pod.said(&one);
    for (path, content) in [("/bin/app", "one"), ("/bin/sh", "shell"), ("/bin/a b", "spaced")] {
        pod.runs(path, content);
        // A second time it is the same file.
        pod.runs(path, content);
    }
    let (is_clean, parts) = pod.identified(&[]);
    assert!(is_clean, "{parts:?}");
    let [part] = &parts[..] else { panic!("{parts:?}") };
    assert_eq!(configurations(part), [one]);
    assert_eq!(part["name"], "web");
    assert_eq!(
        (&part["files"], &part["of_images"], &part["others"]),
        (&json!(3), &json!(3), &json!(0))
    );
    assert_eq!(part["is_said"], true);
    let (_, out, _) = pod.identify(cgpath_testkit::pod(20), &[]);
    let words = format!("all 3 of image one:1 ({})", pod.one);
    assert!(
        out.contains(&words) && out.contains("0 others") && out.contains("the same"),
        "{out}"
    );
}

#[test]
fn a_container_that_is_called_one_image_and_runs_another_is_of_the_other() {
    let mut pod = Pod::new();
    let (one, two) = (pod.one.clone(), pod.two.clone());
    pod.said(&one);
    pod.runs("/bin/app", "two");
    pod.runs("/bin/sh", "shell");
    let (is_clean, parts) = pod.identified(&[]);
    assert!(!is_clean);
    assert_eq!(configurations(&parts[0]), [two]);
    assert_eq!(
        (&parts[0]["others"], &parts[0]["is_said"]),
        (&json!(0), &json!(false))
    );
}

#[test]
fn files_of_no_image_are_others_and_what_images_share_is_of_each() {
    let mut pod = Pod::new();
    pod.runs("/bin/sh", "shell");
    let (is_clean, parts) = pod.identified(&[]);
    let mut both = [pod.one.clone(), pod.two.clone()];
    let mut found = configurations(&parts[0]);
    both.sort();
    found.sort();
    assert!(is_clean && found == both, "{parts:?}");
    pod.runs("/bin/app", "nobody's");
    // Files of two images are not those of one.
    pod.runs("/lib/c.so", "library");
    pod.runs("/bin/app", "one");
    pod.runs("/bin/app", "two");
    let (is_clean, parts) = pod.identified(&[]);
    assert!(!is_clean);
    assert_eq!(
        (&parts[0]["files"], &parts[0]["of_images"], &parts[0]["others"]),
        (&json!(5), &json!(3), &json!(2))
    );
    let others = parts[0]["other_files"].to_string();
    assert!(others.contains(&sha256(b"nobody's").to_string()), "{others}");
}

/// A pod whose node has a policy in `policy.yaml`: its sandbox may run `/pause`, and `runc` is the runtime's.
fn with_policy() -> Pod {
    let mut pod = Pod::new();
    let pause = [("/pause".into(), [sha256(b"pause")].into())];
    pod.node.pod_files.insert(cgpath_testkit::pod(9), pause.into());
    let runc = "/usr/sbin/runc";
    pod.node.host_files.insert(runc.into(), [sha256(b"runc")].into());
    pod.node.extra_policy += &format!(
        "sandbox: {{references: [{}.json]}}\nruntime-files: [{runc}]\n",
        cgpath_testkit::pod(9)
    );
    std::fs::write(pod.case.path("policy.yaml"), pod.node.policy_yaml()).unwrap();
    let uids = pod.node.pod_files.keys().map(|uid| format!("{uid}.json"));
    for name in uids.chain(["host.json".to_owned()]) {
        std::fs::write(pod.case.path(&name), pod.node.reference(&name).unwrap()).unwrap();
    }
    pod
}

const POLICY: &[&str] = &["--policy", "policy.yaml"];

#[test]
fn what_the_policy_has_as_the_runtimes_own_is_no_other() {
    let mut pod = with_policy();
    let one = pod.one.clone();
    let sandbox = "cd".repeat(32);
    pod.named(&sandbox, true, "registry.example/pause:3");
    pod.said(&one);
    for part in [&sandbox, "monitor"] {
        pod.runs_in(part, "/pause", "pause");
        pod.runs_in(part, "/", "runc");
    }
    pod.runs("/", "runc");
    pod.runs("/bin/app", "one");
    let (is_clean, parts) = pod.identified(&[]);
    assert!(
        !is_clean && parts.iter().all(|part| part["others"] != 0),
        "{parts:?}"
    );
    let (is_clean, parts) = pod.identified(POLICY);
    assert!(is_clean, "{parts:?}");
    let of = |part: &Value| [part["of_runtime"].clone(), part["of_images"].clone()];
    let found: Vec<_> = parts.iter().map(of).collect();
    // What is outside of containers, the container, the sandbox.
    assert_eq!(
        found,
        [[2, 0], [1, 1], [2, 0]].map(|found| found.map(Value::from))
    );
}

#[test]
fn the_sandboxs_values_are_not_those_of_another_container() {
    for is_named in [true, false] {
        let mut pod = with_policy();
        if is_named {
            let one = pod.one.clone();
            pod.said(&one);
        }
        pod.runs("/pause", "pause");
        // A container that nobody named can be the sandbox.
        assert_eq!(pod.identified(POLICY).0, !is_named);
        pod.runs("/bin/app", "one");
        let (is_clean, parts) = pod.identified(POLICY);
        assert!(!is_clean);
        assert_eq!(
            (&parts[0]["of_runtime"], &parts[0]["others"]),
            (&json!(0), &json!(1))
        );
    }
}

#[test]
fn a_container_of_which_nothing_is_of_an_image_is_not_the_one_that_the_runtime_names() {
    let mut pod = with_policy();
    let one = pod.one.clone();
    pod.said(&one);
    pod.runs("/", "runc");
    let (is_clean, parts) = pod.identified(POLICY);
    assert!(!is_clean);
    assert_eq!(
        (&parts[0]["of_runtime"], &parts[0]["others"], &parts[0]["is_said"]),
        (&json!(1), &json!(0), &json!(false))
    );
}

#[test]
fn values_that_are_not_what_their_name_says_identify_nothing() {
    let mut pod = Pod::new();
    pod.runs("/bin/app", "one");
    let layers = std::fs::read_dir(pod.case.path("refs/layers")).unwrap();
    for path in layers.map(|entry| entry.unwrap().path()) {
        let json = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, json.replace("/bin/app", "/bin/abc")).unwrap();
    }
    pod.write_evidence();
    let (code, _, err) = pod.identify(cgpath_testkit::pod(20), &[]);
    assert!(
        code == Some(2) && err.contains("is not what its name says"),
        "{err}"
    );
}

#[test]
fn a_pod_that_the_evidence_does_not_have_is_refused() {
    let mut pod = Pod::new();
    pod.runs("/bin/app", "one");
    pod.write_evidence();
    let (code, _, err) = pod.identify(cgpath_testkit::pod(21), &[]);
    assert!(code == Some(2) && err.contains("nothing that pod"), "{err}");
}

#[test]
fn a_report_says_which_image_each_container_really_runs_where_it_is_given_the_index() {
    let mut pod = with_policy();
    let one = pod.one.clone();
    pod.said(&one);
    pod.runs("/", "runc");
    pod.runs("/bin/app", "two");
    pod.write_evidence();
    std::fs::write(pod.case.path("ak.pub"), pod.node.ak.public()).unwrap();
    let report = |more: &[&str]| {
        let line = [
            "report",
            "evidence.cbor",
            "--policy",
            "policy.yaml",
            "--ak",
            "ak.pub",
            "--dangerous-no-nonce",
            "-o",
            "-",
        ];
        let (code, page, err) = pod.case.run(&[&line[..], more].concat());
        assert_eq!(code, Some(0), "{err}");
        page
    };
    let page = report(&["--refs", "refs"]);
    let text = format!(
        "container web (abababababab): 2 files, 1 of image two:1 ({}), 1 of the container runtime, 0 others; \
         the container runtime names another image",
        pod.two
    );
    assert!(page.contains(&text), "{page}");
    assert!(!report(&[]).contains("of image two:1"));
}
