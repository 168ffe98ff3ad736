//! The operations that the thesis' command line and REST interface have: our counterpart of each, one test
//! for each row of `docs/thesis.md`.

use super::site::{Client, Server, Site, appraised, busy, fails, ok};
use cgpath_testkit::{Actor, Node, pod, sha256};
use serde_json::Value;
use std::path::{Path, PathBuf};

const NAME: &str = "worker-1";

/// A verifier with one node that was judged once.
struct Fixture {
    site: Site,
    client: Client,
    node: Node,
    policy: PathBuf,
    _server: Server,
}

fn fixture() -> Fixture {
    let site = Site::new();
    let (server, client) = site.serve(&[]);
    let node = busy();
    site.enrol(&node, NAME);
    let mut all = Fixture {
        policy: site.path(&format!("policy-{NAME}")).join("node.yaml"),
        site,
        client,
        node,
        _server: server,
    };
    assert_eq!(all.round()["trusted"], true);
    all
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Fixture {
    fn round(&mut self) -> Value {
        let nonce = self.client.nonce(NAME).unwrap();
        let evidence = self.node.attest(&nonce).to_cbor();
        self.client.submit(NAME, &evidence).unwrap().json()
    }

    /// `cgpath node` with these words, which must work.
    fn node_command(&self, words: &[&str]) -> Value {
        appraised(&self.site.node(words)).1
    }

    /// Changes the policy file, then gives it to the node; gives what the last verdict says then.
    fn change_policy(&self, from: &str, to: &str) -> Value {
        let yaml = std::fs::read_to_string(&self.policy).unwrap();
        assert!(yaml.contains(from), "{yaml}");
        std::fs::write(&self.policy, yaml.replace(from, to)).unwrap();
        self.use_policy()
    }

    fn use_policy(&self) -> Value {
        self.node_command(&["policy", NAME, text(&self.policy)]);
        self.client.get(&format!("/v1/nodes/{NAME}/verdict")).json()["verdict"].take()
    }

    /// The line of pod `n` in the policy.
    fn line(n: u8) -> String {
        let uid = pod(n);
        format!("  - {{uid: {uid}, name: pod-{n}, references: [{uid}.json]}}\n")
    }

    fn pod(&self, n: u8) -> Value {
        let uid = pod(n);
        self.client.get(&format!("/v1/nodes/{NAME}/pods/{uid}")).json()
    }

    fn run(&mut self, n: u8, path: &str, content: &[u8]) {
        self.node
            .execute(&Actor::pod(pod(n), path), path, &sha256(content));
    }

    /// The reference file of pod `n` accepts another content of a path.
    fn accept(&mut self, n: u8, path: &str, content: &[u8]) {
        let files = self.node.pod_files.get_mut(&pod(n)).unwrap();
        files
            .entry(path.as_bytes().to_vec())
            .or_default()
            .insert(sha256(content));
        let name = format!("{}.json", pod(n));
        let bytes = self.node.reference(&name).unwrap();
        std::fs::write(self.policy.with_file_name(name), bytes).unwrap();
    }
}

fn uids(pods: &Value) -> Vec<&str> {
    let pods = pods.as_array().unwrap().iter();
    pods.map(|pod| pod["uid"].as_str().unwrap()).collect()
}

#[test]
fn agents_add() {
    let all = fixture();
    let key = hex::encode(all.node.ak.name());
    let policy = all.site.policy(&all.node, "worker-2");
    let added = all.node_command(&["add", "worker-2", "--ak", &key, "--policy", text(&policy)]);
    assert_eq!(added["ak"], key);
    assert!(all.client.nonce("worker-2").is_ok());
}

#[test]
fn agents_update() {
    let all = fixture();
    let other = Node::boot(cgpath_testkit::KeyKind::Rsassa2048);
    let key = hex::encode(other.ak.name());
    let words = ["add", NAME, "--ak", key.as_str(), "--policy", text(&all.policy)];
    assert_eq!(fails(&all.site.node(&words))["kind"], "node-exists");
    let updated = all.node_command(&[&words[..], &["--replace"]].concat());
    assert_eq!(updated["ak"], key);
}

#[test]
fn agents_delete() {
    let all = fixture();
    all.node_command(&["rm", NAME]);
    let gone = all.client.get(&format!("/v1/nodes/{NAME}/verdict"));
    assert_eq!(gone.kind(), (404, "unknown-node".into()));
}

#[test]
fn agents_status() {
    let mut all = fixture();
    all.run(4, "/bin/app", b"replaced");
    all.run(4, "/opt/new", b"new");
    all.round();
    for status in [
        all.node_command(&["show", NAME])["last"]["verdict"].take(),
        all.client.get(&format!("/v1/nodes/{NAME}/verdict")).json()["verdict"].take(),
    ] {
        assert_eq!(status["node"]["state"], "trusted");
        let pods = status["pods"].as_array().unwrap();
        assert_eq!(pods[0]["state"], "trusted");
        assert_eq!(pods[3]["state"], "untrusted");
        assert_eq!(pods[3]["fnf"][0]["path"], "/opt/new");
        assert_eq!(pods[3]["filehash_err"][0]["path"], "/bin/app");
    }
}

#[test]
fn agents_list() {
    let all = fixture();
    assert_eq!(all.node_command(&["list"])[0]["name"], NAME);
    assert_eq!(all.client.get("/v1/nodes").json()[0]["name"], NAME);
}

#[test]
fn agents_reactivate() {
    let mut all = fixture();
    all.node_command(&["stop", NAME]);
    let nonce = all
        .client
        .send("POST", &format!("/v1/nodes/{NAME}/nonce"), "", b"");
    assert_eq!(nonce.unwrap().kind(), (409, "stopped".into()));
    all.node_command(&["reactivate", NAME]);
    assert_eq!(all.round()["trusted"], true);
}

#[test]
fn pods_list() {
    let all = fixture();
    let verdict = all.change_policy(
        &Fixture::line(4),
        &format!(
            "{}  - {{uid: {}, name: pod-9, references: [{}.json]}}\n",
            Fixture::line(4),
            pod(9),
            pod(4)
        ),
    );
    // Those that were seen, and those that are only registered.
    assert_eq!(uids(&verdict["pods"]), [1, 2, 3, 4].map(|n| pod(n).to_string()));
    assert_eq!(uids(&verdict["start"]), [pod(9).to_string()]);
}

#[test]
fn pods_add() {
    let all = fixture();
    let without = all.change_policy(&Fixture::line(4), "");
    assert_eq!(without["pods"][3]["state"], "unknown");
    let with = all.change_policy(&Fixture::line(3), &(Fixture::line(3) + &Fixture::line(4)));
    assert_eq!(with["pods"][3]["state"], "trusted");
}

#[test]
fn pods_replace() {
    let all = fixture();
    let pods: String = (1..=4).map(Fixture::line).collect();
    let verdict = all.change_policy(&pods, &Fixture::line(2));
    let states: Vec<&str> = verdict["pods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["unknown", "trusted", "unknown", "unknown"]);
}

#[test]
fn pods_show() {
    let mut all = fixture();
    all.run(2, "/opt/new", b"new");
    all.round();
    let shown = all.pod(2);
    assert_eq!(
        (&shown["pod"]["uid"], &shown["pod"]["state"]),
        (&pod(2).to_string().into(), &"untrusted".into())
    );
    assert_eq!(shown["pod"]["fnf"][0]["path"], "/opt/new");
    assert_eq!(shown["pod"]["filehash_err"].as_array().unwrap().len(), 0);
}

#[test]
fn pods_change() {
    let mut all = fixture();
    all.run(2, "/bin/app", b"upgraded");
    all.run(2, "/tmp/scratch", b"scratch");
    all.round();
    assert_eq!(all.pod(2)["pod"]["state"], "untrusted");
    all.accept(2, "/bin/app", b"upgraded");
    let changed = Fixture::line(2).replace('}', ", excludes: ['^/tmp/.*']}");
    all.change_policy(&Fixture::line(2), &changed);
    assert_eq!(all.pod(2)["pod"]["state"], "trusted");
    assert_eq!(all.pod(3)["pod"]["state"], "trusted");
}

#[test]
fn pods_remove() {
    let all = fixture();
    let verdict = all.change_policy(&Fixture::line(4), "");
    assert_eq!(verdict["pods"][3]["state"], "unknown");
    assert_eq!(verdict["node"]["state"], "untrusted");
}

#[test]
fn allowlist_read() {
    let all = fixture();
    let name = format!("{}.json", pod(1));
    let reference = all.policy.with_file_name(&name);
    let out = all.site.path("allowlist.json");
    ok(&["policy", "to-keylime", text(&reference), "--output", text(&out)]);
    let runtime: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let app = &runtime["digests"]["/bin/app"][0];
    let expected = all.node.pod_files[&pod(1)][&b"/bin/app"[..]]
        .iter()
        .next()
        .unwrap();
    assert_eq!(*app, hex::encode(expected.bytes()));
}

#[test]
fn allowlist_replace() {
    let mut all = fixture();
    all.run(1, "/bin/app", b"upgraded");
    all.round();
    assert_eq!(all.pod(1)["pod"]["filehash_err"][0]["path"], "/bin/app");
    all.accept(1, "/bin/app", b"upgraded");
    // Until somebody says that the change is meant, nothing is judged by it.
    all.round();
    assert_eq!(all.pod(1)["pod"]["filehash_err"][0]["path"], "/bin/app");
    assert_eq!(all.use_policy()["trusted"], true);
}

#[test]
fn exclude_read() {
    let all = fixture();
    let changed = Fixture::line(1).replace('}', ", excludes: ['^/tmp/.*']}");
    let verdict = all.change_policy(&Fixture::line(1), &changed);
    let relaxations = verdict["relaxations"].as_array().unwrap();
    assert!(
        relaxations.contains(&"pod pod-1.excludes: ^/tmp/.*".into()),
        "{relaxations:?}"
    );
}

#[test]
fn exclude_replace() {
    let mut all = fixture();
    all.run(1, "/tmp/x", b"x");
    assert_eq!(all.round()["trusted"], false);
    for (excludes, trusted) in [("^/tmp/.*", true), ("^/var/.*", false)] {
        let yaml = std::fs::read_to_string(&all.policy).unwrap();
        let old = yaml.lines().find(|line| line.contains("name: pod-1,")).unwrap();
        let new = Fixture::line(1).replace('}', &format!(", excludes: ['{excludes}']}}"));
        let verdict = all.change_policy(&format!("{old}\n"), &new);
        assert_eq!(verdict["trusted"], trusted, "{excludes}");
    }
}
