//! `cgpath policy suggest` proposes to accept what it names, where it names it, and nothing beside it.

use super::{busy, conclude};
use cgpath_appraisal::Verdict;
use cgpath_evidence::{Digest, EventKind, FileHash, PodUid};
use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const NONCE: &[u8] = b"the nonce of this request";

/// A folder with the policy of a node, its evidence and the verdict on it.
struct Folder(TempDir);

impl Folder {
    fn of(node: &mut Node) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("node.yaml", node.policy_yaml());
        folder.write("ak.pub", node.ak.public());
        for name in node
            .pod_files
            .keys()
            .map(ToString::to_string)
            .chain(["host".into()])
        {
            let name = format!("{name}.json");
            folder.write(&name, node.reference(&name).unwrap());
        }
        if let Some(workloads) = node.reference("workloads.yaml") {
            folder.write("workloads.yaml", workloads);
        }
        folder.write("evidence.cbor", node.attest(NONCE).to_cbor());
        folder.write("verdict.json", serde_json::to_vec(&folder.verdict()).unwrap());
        folder
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
    }

    /// The values of this name are those of an image, which is called as the file.
    fn of_image(&self, name: &str) {
        let path = self.0.path().join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = text.replacen("\"kind\":\"rootfs\"", "\"kind\":\"image\"", 1);
        assert_ne!(changed, text);
        std::fs::write(path, changed).unwrap();
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        Command::new(program)
            .args(args)
            .current_dir(&self.0)
            .output()
            .unwrap()
    }

    fn verdict(&self) -> Verdict {
        let nonce = hex::encode(NONCE);
        let asked = [
            "--policy",
            "node.yaml",
            "--ak",
            "ak.pub",
            "--nonce",
            &nonce,
            "--json",
        ];
        let args = [&["verify", "evidence.cbor"][..], &asked].concat();
        let output = self.run(env!("CARGO_BIN_EXE_cgpath"), &args);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn suggest(&self) -> Result<Value, String> {
        let args = [
            "policy",
            "suggest",
            "node.yaml",
            "--from",
            "verdict.json",
            "--json",
        ];
        let output = self.run(env!("CARGO_BIN_EXE_cgpath"), &args);
        match output.status.code() {
            Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// What of a verdict is not accepted: whose, path, content.
fn deviations(verdict: &Verdict) -> BTreeSet<(String, String, String)> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let of = |who: String, list: &[cgpath_appraisal::Deviation]| {
        let one = |d: &cgpath_appraisal::Deviation| (who.clone(), text(&d.path), d.digest.to_string());
        list.iter().map(one).collect::<Vec<_>>()
    };
    let node = &verdict.node;
    let mut all: BTreeSet<_> = of("host".into(), &[&node.fnf[..], &node.filehash_err].concat())
        .into_iter()
        .collect();
    for pod in &verdict.pods {
        all.extend(of(
            pod.uid.to_string(),
            &[&pod.fnf[..], &pod.filehash_err].concat(),
        ));
    }
    all
}

/// The patches of one file each, by the file's name without its ending.
fn patches(patch: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in patch.lines() {
        if let Some(file) = line.strip_prefix("--- ") {
            let name = Path::new(file).file_stem().unwrap().to_str().unwrap();
            all.push((name.to_owned(), String::new()));
        }
        let text = &mut all.last_mut().unwrap().1;
        text.push_str(line);
        text.push('\n');
    }
    all
}

/// Applies each file's part of the suggestion alone: what it clears that it does not name, or not there.
fn clears_more(node: &mut Node) -> Vec<String> {
    let before = deviations(&Folder::of(node).verdict());
    let suggested = Folder::of(node).suggest().unwrap();
    let mut wrong = Vec::new();
    for (who, patch) in patches(suggested["patch"].as_str().unwrap()) {
        let folder = Folder::of(node);
        folder.write("one.patch", &patch);
        let applied = folder.run("patch", &["--batch", "-p0", "-i", "one.patch"]);
        assert!(
            applied.status.success(),
            "{}",
            String::from_utf8_lossy(&applied.stdout)
        );
        let after = deviations(&folder.verdict());
        let added = |path: &str, digest: &str| {
            let lines = patch.lines().filter(|line| line.starts_with('+'));
            lines
                .clone()
                .any(|line| line.contains(&format!("{path:?}")) && line.contains(digest))
        };
        for (whose, path, digest) in before.difference(&after) {
            if *whose != who || !added(path, digest) {
                wrong.push(format!("what is added to {who} also clears {path} in {whose}"));
            }
        }
        assert!(after.is_subset(&before));
    }
    wrong
}

#[test]
fn a_changed_file_of_the_runtime_is_accepted_in_no_pod_by_a_line_of_the_host() {
    let mut node = busy();
    node.extra_policy += "runtime-files: [/usr/bin/runc]\n";
    let other = sha256(b"another runc");
    node.execute(&Actor::host("/sbin/init"), "/usr/bin/runc", &other);
    node.execute(
        &Actor::host("/sbin/init"),
        "/usr/bin/tool",
        &sha256(b"another tool"),
    );
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/tmp/miner", &other);
    node.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &other);
    conclude("suggest-runtime-file", &clears_more(&mut node));
    // It is not passed over in silence.
    let suggested = Folder::of(&mut node).suggest().unwrap();
    let said = suggested["not_suggested"].to_string();
    assert!(
        said.contains("/usr/bin/runc") && said.contains("every pod"),
        "{said}"
    );
    assert_eq!(suggested["added"], 3, "{suggested}");
}

#[test]
fn a_content_of_a_pod_is_accepted_in_that_pod_at_that_path() {
    let mut node = busy();
    let content = sha256(b"hotfix");
    for n in [1, 2, 3] {
        for path in ["/bin/app", "/tmp/other"] {
            node.execute(&Actor::pod(pod(n), "/bin/app"), path, &content);
        }
    }
    node.execute(&Actor::host("/sbin/init"), "/tmp/other", &content);
    conclude("suggest-pod", &clears_more(&mut node));
}

#[test]
fn a_content_without_a_path_is_left_out_with_a_note_and_the_rest_is_suggested() {
    let mut node = busy();
    let (app, content) = (Actor::pod(pod(1), "/bin/app"), sha256(b"nameless"));
    node.record_execution(&app, EventKind::Mapping, "", FileHash::PreCheck(content));
    node.waiting.last_mut().unwrap().1.path_cut = true;
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"hotfix"));
    let mut wrong = Vec::new();
    match Folder::of(&mut node).suggest() {
        Err(why) => wrong.push(format!("nothing is suggested: {why}")),
        Ok(suggested) => {
            let patch = suggested["patch"].as_str().unwrap();
            if suggested["added"] != 1 || !patch.contains(&sha256(b"hotfix").to_string()) {
                wrong.push(format!("the other content is not suggested: {suggested}"));
            }
            if !suggested["not_suggested"].to_string().contains("without a path") {
                wrong.push(format!("it is not said what was left out: {suggested}"));
            }
        }
    }
    conclude("suggest-without-a-path", &wrong);
}

#[test]
fn a_path_with_a_space_is_suggested_as_the_record_has_it_alone() {
    let mut node = busy();
    let (path, content) = ("/opt/my app/run", sha256(b"spaced"));
    node.execute(&Actor::pod(pod(1), "/bin/app"), path, &content);
    let suggested = Folder::of(&mut node).suggest().unwrap();
    let patch = suggested["patch"].as_str().unwrap();
    assert_eq!(suggested["added"], 1, "{patch}");
    assert!(patch.contains(path) && !patch.contains("my_app"), "{patch}");
}

#[test]
fn what_is_suggested_for_one_of_two_pods_with_the_same_values_counts_in_that_one_alone() {
    let (uid, content) = (pod(1).to_string(), sha256(b"hotfix"));
    let mut node = busy();
    for n in [1, 2] {
        node.execute(&Actor::pod(pod(n), "/bin/app"), "/bin/app", &content);
    }
    let folder = Folder::of(&mut node);
    // Pod 2 has the values of pod 1.
    let yaml = node.policy_yaml();
    let shared = yaml.replace(&format!("{}.json", pod(2)), &format!("{uid}.json"));
    assert_ne!(shared, yaml);
    folder.write("node.yaml", &shared);
    folder.of_image(&uid);
    folder.write("verdict.json", serde_json::to_vec(&folder.verdict()).unwrap());
    let wrong = |verdict: &Verdict| -> Vec<bool> {
        let one = |n| !verdict.pod(pod(n)).unwrap().filehash_err.is_empty();
        vec![one(1), one(2)]
    };
    assert_eq!(wrong(&folder.verdict()), [true, true]);

    let suggested = folder.suggest().unwrap();
    assert_eq!(suggested["images"], serde_json::json!([format!("{uid}.json")]));
    let file = format!("{uid}.suggested.json");
    let new = suggested["new_files"].as_array().unwrap();
    assert_eq!(new.len(), 2, "{suggested}");
    let one = new.iter().find(|new| new["file"] == file.as_str()).unwrap();
    assert_eq!(one["references_of"], "pod-1");
    folder.write("all.patch", suggested["patch"].as_str().unwrap());
    let applied = folder.run("patch", &["--batch", "-p0", "-i", "all.patch"]);
    assert!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stdout)
    );
    // The policy names no new file yet.
    assert_eq!(wrong(&folder.verdict()), [true, true]);
    let own = format!("references: [{uid}.json]");
    let (before, after) = shared.split_once(&own).unwrap();
    folder.write(
        "node.yaml",
        format!("{before}references: [{uid}.json, {file}]{after}"),
    );
    let verdict = folder.verdict();
    assert_eq!(wrong(&verdict), [false, true], "{verdict}");
    assert!(
        verdict.pod(pod(1)).unwrap().learned,
        "nobody made it from an image"
    );
}

/// Images of the containers `web` and `log` of a workload.
const WEB: u8 = 1;
const LOG: u8 = 3;

/// A node with a pod of that workload; the containers have these ids.
fn shop(uid: PodUid, containers: &[(&str, &str)]) -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    let [web, log] = [WEB, LOG].map(pod);
    node.workloads = Some(format!(
        "version: 2
workloads:
  - name: shop/web
    match: {{namespace: shop}}
    containers:
      web: {{references: [{web}.json]}}
      log: {{references: [{log}.json]}}
"
    ));
    node.name_pod(uid, "shop", &[]);
    for (id, name) in containers {
        node.name_container(uid, id, name);
    }
    node
}

/// What `suggest` leaves to the operator, a line each.
fn not_suggested(suggested: &Value) -> Vec<&str> {
    let lines = suggested["not_suggested"].as_array().unwrap();
    lines.iter().map(|line| line.as_str().unwrap()).collect()
}

/// What is suggested for it.
fn suggested_in_shop(node: &mut Node) -> Value {
    let folder = Folder::of(node);
    for image in [WEB, LOG] {
        folder.of_image(&pod(image).to_string());
    }
    folder.write("verdict.json", serde_json::to_vec(&folder.verdict()).unwrap());
    folder.suggest().unwrap()
}

/// A verdict has a hundred findings of a rule for a pod, and so many more contents.
#[test]
fn all_containers_that_met_a_content_are_named_for_each_content_that_is_listed() {
    const FILES: usize = 120;
    let (uid, web, log) = (pod(20), "ab".repeat(32), "cd".repeat(32));
    let mut node = shop(uid, &[(web.as_str(), "web"), (log.as_str(), "log")]);
    let content = |n: usize| sha256(format!("content {n}").as_bytes());
    for id in [&web, &log] {
        let actor = Actor::container(uid, id, "", "/bin/app");
        for n in 0..FILES {
            node.execute(&actor, format!("/tmp/{n}"), &content(n));
        }
    }
    let actor = Actor::container(uid, &log, "", "/bin/app");
    node.execute(&actor, "/tmp/last", &sha256(b"last"));

    let suggested = suggested_in_shop(&mut node);
    let images = [WEB, LOG].map(|image| format!("{}.json", pod(image)));
    assert_eq!(suggested["images"], serde_json::json!(images));
    let left = not_suggested(&suggested);
    let is_said = |path: &str, digest: &Digest, containers: &str| {
        let place = format!("{path} {digest}: in pod shop/web ({uid}), {containers}: ");
        left.iter().filter(|line| line.starts_with(&place)).count() == 1
    };
    for n in 0..FILES {
        let path = format!("/tmp/{n}");
        assert!(
            is_said(&path, &content(n), "container web and container log"),
            "{path}: {left:#?}"
        );
    }
    assert!(
        is_said("/tmp/last", &sha256(b"last"), "container log"),
        "{left:#?}"
    );
    // And that there were more findings than are shown.
    assert_eq!(left.len(), FILES + 2, "{left:#?}");
}

#[test]
fn of_a_pod_of_a_workload_it_is_said_what_to_do() {
    let uid = pod(20);
    let (id, app) = ("ab".repeat(32), sha256(b"another app"));
    let mut node = shop(uid, &[(id.as_str(), "web")]);
    let actor = Actor::container(uid, &id, "", "/bin/app");
    node.execute(&actor, "/bin/app", &app);
    node.execute(&actor, "/tmp/new", &sha256(b"new"));

    let suggested = suggested_in_shop(&mut node);
    assert_eq!(
        (&suggested["added"], &suggested["patch"]),
        (&0.into(), &"".into())
    );
    assert_eq!(suggested["new_files"], serde_json::json!([]));
    assert_eq!(
        suggested["images"],
        serde_json::json!([format!("{}.json", pod(WEB))])
    );
    let left = not_suggested(&suggested);
    // One line for each content, and none for the finding about it.
    assert_eq!(left.len(), 2, "{left:#?}");
    for (path, digest) in [("/bin/app", app), ("/tmp/new", sha256(b"new"))] {
        let place = format!("{path} {digest}: in pod shop/web ({uid}), container web: ");
        let line = left.iter().find(|line| line.starts_with(&place));
        let line = line.unwrap_or_else(|| panic!("{place}: {left:#?}"));
        assert!(
            line.contains("cgpath policy from-image") && line.contains("`references`"),
            "{line}"
        );
    }
}
