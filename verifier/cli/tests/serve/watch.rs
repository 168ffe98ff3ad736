//! `cgpath watch` beside a running service: verdicts as they come, proofs checked by the tenant's own means.

use super::site::{Client, Server, Site, busy, cgpath, fails};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_evidence::TenantBundle;
use cgpath_evidence::challenge::Opening;
use cgpath_testkit::port::Port;
use cgpath_testkit::{Actor, Node, pod, sha256};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(180);

/// `cgpath watch --json`, line by line.
struct Watch {
    child: Child,
    lines: Receiver<Value>,
}

impl Watch {
    fn start(site: &Site, port: u16, args: &[&str]) -> Watch {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args([
                "watch",
                "--json",
                "--url",
                &format!("https://localhost:{port}"),
                "--ca",
            ])
            .arg(site.ca())
            .args(args)
            .env_remove("CGPATH_READ_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines() {
                let line = serde_json::from_str(&line.unwrap()).expect("a line is one JSON object");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Watch { child, lines }
    }

    fn next(&self) -> Value {
        self.lines.recv_timeout(WAIT).expect("watch shows nothing")
    }

    fn none(&self) {
        let more = self.lines.recv_timeout(Duration::from_secs(1));
        assert!(more.is_err(), "{more:?}");
    }

    fn end(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One round; gives the nonce in hex, which is the event's id.
fn round(client: &Client, name: &str, node: &mut Node) -> String {
    let nonce = client.nonce(name).unwrap();
    let answer = client.submit(name, &node.attest(&nonce).to_cbor()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    hex::encode(nonce)
}

/// The policy of pod 1's tenant, and the arguments with which its proofs are checked.
fn tenant(site: &Site) -> Vec<String> {
    let uid = pod(1).to_string();
    let policy = site.path("policy-worker-1").join("web.yaml");
    let text = format!(
        "version: 1\n\
         pod: {uid}\n\
         name: red/web\n\
         templates: [ima-ng]\n\
         banks: [sha256]\n\
         references: [{uid}.json]\n"
    );
    std::fs::write(&policy, text).unwrap();
    let (key, verifier) = (site.path("worker-1.ak"), site.store().join("verdict.pub.pem"));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    [
        "--pod",
        &uid,
        "--policy",
        &path(&policy),
        "--ak",
        &path(&key),
        "--verifier",
        &path(&verifier),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn as_args(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// The service at this port, after another one that is killed.
fn again(server: Server, site: &Site, port: &Port) -> (Server, Client) {
    server.kill();
    site.serve_at(port)
}

#[test]
fn a_pods_proofs_are_checked_as_they_come_each_from_where_the_last_ended() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let port = Port::new();
    let (server, client) = site.serve_at(&port);
    let first = round(&client, "worker-1", &mut node);
    let watch = Watch::start(&site, port.number(), &as_args(&tenant(&site)));
    let mut followed = 0;
    let mut ids = vec![first];
    // The third one comes while the service is away and watch is not connected.
    let (mut server, mut client) = (server, client);
    for n in 0..4 {
        if n > 0 {
            node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        }
        if n == 2 {
            (server, client) = again(server, &site, &port);
        }
        if n > 0 {
            ids.push(round(&client, "worker-1", &mut node));
        }
        let line = watch.next();
        assert_eq!(line["id"], *ids.last().unwrap());
        assert_eq!(line["verdict"]["pod"]["uid"], pod(1).to_string());
        assert!(line["verdict"].get("bundle").is_none());
        let proof = &line["proof"];
        assert_eq!(proof["checked"], true, "{line}");
        assert_eq!(proof["verdict"]["outcome"], "trusted", "{line}");
        assert_eq!(proof["verdict"]["from"], followed, "{line}");
        followed = proof["verdict"]["covered"].as_u64().unwrap();
    }
    assert!(followed > 0);
    watch.none();
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_pod_that_turns_is_shown_and_its_proof_says_so_and_a_wrong_key_proves_nothing() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    let port = client.address.port();
    round(&client, "worker-1", &mut node);
    let args = tenant(&site);
    let watch = Watch::start(&site, port, &[&as_args(&args)[..], &["--count", "3"]].concat());
    assert_eq!(watch.next()["proof"]["verdict"]["outcome"], "trusted");
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"replaced"));
    for _ in 0..2 {
        round(&client, "worker-1", &mut node);
        let line = watch.next();
        assert_eq!(line["verdict"]["pod"]["state"], "untrusted");
        assert_eq!(line["proof"]["verdict"]["outcome"], "untrusted", "{line}");
        assert_eq!(
            line["proof"]["verdict"]["pod"]["findings"][0]["rule"], "V9",
            "{line}"
        );
    }
    assert_eq!(watch.end(), Some(1));

    // Somebody else's key: nobody vouches, so nothing is trusted. Another node's: the quote is not its.
    let other = Site::new();
    for (at, wrong, outcome) in [
        (
            7,
            other.store().join("verdict.pub.pem").to_str().unwrap().to_owned(),
            "partition-only",
        ),
        (5, format!("000b{}", "11".repeat(32)), "untrusted"),
    ] {
        let site = Site::new();
        let mut node = busy();
        site.enrol(&node, "worker-1");
        let (_server, client) = site.serve(&[]);
        round(&client, "worker-1", &mut node);
        let mut args = tenant(&site);
        args[at] = wrong;
        let args = [&as_args(&args)[..], &["--count", "1"]].concat();
        let watch = Watch::start(&site, client.address.port(), &args);
        let line = watch.next();
        assert_eq!(line["proof"]["verdict"]["outcome"], outcome, "{line}");
        assert_eq!(line["verdict"]["pod"]["state"], "trusted");
        assert_eq!(watch.end(), Some(1));
    }
}

#[test]
fn a_tenants_own_nonce_is_answered_by_the_next_round_and_by_none_before() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    round(&client, "worker-1", &mut node);
    let args = tenant(&site);
    let own = [&as_args(&args)[..], &["--own-nonce", "--count", "1"]].concat();
    let watch = Watch::start(&site, client.address.port(), &own);
    // What is there already is shown, and counts for nothing.
    let line = watch.next();
    assert_eq!(line["proof"]["own_nonce"], false, "{line}");
    assert_eq!(line["proof"]["verdict"]["outcome"], "trusted", "{line}");
    // A stranger who asks first takes nothing away.
    let asked = client.nonce("worker-1").unwrap();
    assert_eq!(client.nonce("worker-1").unwrap(), asked);
    let id = round(&client, "worker-1", &mut node);
    assert_eq!(id, hex::encode(asked));
    let line = watch.next();
    assert_eq!(
        (&line["id"], &line["proof"]["own_nonce"]),
        (&id.into(), &true.into()),
        "{line}"
    );
    assert_eq!(line["proof"]["verdict"]["outcome"], "trusted", "{line}");
    assert_eq!(watch.end(), Some(0));
}

/// The first event of pod 1's stream: its bundle and the nonce of its round.
fn first_bundle(client: &Client, uid: &str) -> (TenantBundle, Vec<u8>) {
    let mut stream = client.open().unwrap();
    let request = format!("GET /v1/nodes/worker-1/pods/{uid}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let data = BufReader::new(stream)
        .lines()
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("data:").map(str::to_owned));
    let event: Value = serde_json::from_str(&data.unwrap()).unwrap();
    let bundle = STANDARD.decode(event["bundle"].as_str().unwrap()).unwrap();
    let nonce = hex::decode(event["nonce"].as_str().unwrap()).unwrap();
    (TenantBundle::from_cbor(&bundle).unwrap(), nonce)
}

#[test]
fn a_bundle_that_is_kept_proves_that_it_answered_a_tenants_own_nonce() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    round(&client, "worker-1", &mut node);
    let uid = pod(1).to_string();
    let (mine, other) = (hex::encode([0x11; 32]), hex::encode([0x22; 32]));
    let ask = |uid: &str, nonce: &str| {
        let path = format!("/v1/nodes/worker-1/pods/{uid}/challenge?nonce={nonce}");
        client.send("POST", &path, "", b"").unwrap()
    };
    for (pod, nonce) in [(&uid, &mine), (&pod(2).to_string(), &other)] {
        let answer = ask(pod, nonce);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.json()["until"].is_u64());
    }
    assert_eq!(ask(&uid, "11").kind(), (400, "query".into()));
    assert_eq!(ask(&uid, "nohexdigits00000").kind(), (400, "query".into()));
    assert_eq!(
        ask(&pod(9).to_string(), &mine).kind(),
        (404, "unknown-pod".into())
    );
    round(&client, "worker-1", &mut node);
    let (bundle, nonce) = first_bundle(&client, &uid);
    let opening = Opening::from_bytes(bundle.opening.as_deref().unwrap()).unwrap();
    assert!(opening.is_answered_by(&nonce, &[0x11; 32]) && opening.challenges() == 2);

    let file = site.path("web.tenant");
    std::fs::write(&file, bundle.to_cbor()).unwrap();
    let args = tenant(&site);
    let verify = |nonce: &str| {
        let base = ["verify", "--tenant", file.to_str().unwrap(), "--nonce", nonce];
        // Without `--pod UID`: the policy names it.
        cgpath(&[&base[..], &as_args(&args)[2..]].concat()).status.code()
    };
    assert_eq!(verify(&mine), Some(0));
    assert_eq!(
        verify(&hex::encode(&nonce)),
        Some(0),
        "the service's own is answered, too"
    );
    assert_eq!(verify(&hex::encode([0x33; 32])), Some(1));
    // The next round commits to nothing, and its bundle is opened to nobody.
    round(&client, "worker-1", &mut node);
    assert_eq!(first_bundle(&client, &uid).0.opening, None);
}

#[test]
fn all_nodes_or_one_are_shown_live_and_a_tenant_sees_its_own_alone() {
    let site = Site::new();
    let mut nodes = [busy(), busy()];
    for (node, name) in nodes.iter().zip(["worker-1", "worker-2"]) {
        site.enrol(node, name);
    }
    let token = "the red tenant's token";
    let readers = site.path("readers.yaml");
    let text = format!(
        "readers:\n- name: red\n  token-sha256: {}\n  pods: [{}]\n",
        hex::encode(sha256(token.as_bytes()).bytes()),
        pod(1)
    );
    std::fs::write(&readers, text).unwrap();
    let operator = "the operator's own token";
    let (_server, client) = site.serve(&["--read-token", operator, "--readers", readers.to_str().unwrap()]);
    let port = client.address.port();
    for n in [0, 1] {
        round(&client, &format!("worker-{}", n + 1), &mut nodes[n]);
    }
    let all = Watch::start(&site, port, &["--token", operator]);
    let one = Watch::start(&site, port, &["--token", operator, "--node", "worker-2"]);
    let red = Watch::start(&site, port, &["--token", token]);
    let own = pod(1).to_string();
    // With no --node it is found; with no policy nothing is called checked.
    let by_uid = Watch::start(&site, port, &["--token", token, "--pod", &own]);
    assert_eq!(
        [all.next(), all.next()].map(|line| line["verdict"]["node"].clone()),
        ["worker-1", "worker-2"]
    );
    assert_eq!(one.next()["verdict"]["node"], "worker-2");
    for name in ["worker-1", "worker-2"] {
        let line = red.next();
        assert_eq!(line["verdict"]["node"], name);
        assert_eq!(line["verdict"]["pods"].as_array().unwrap().len(), 1);
        assert!(!line.to_string().contains(&pod(2).to_string()), "{line}");
    }
    let line = by_uid.next();
    assert_eq!(line["proof"]["checked"], false, "{line}");
    assert_eq!(line["verdict"]["pod"]["uid"], own);
    for n in [1, 0] {
        round(&client, &format!("worker-{}", n + 1), &mut nodes[n]);
    }
    assert_eq!(
        [all.next(), all.next()].map(|line| line["verdict"]["node"].clone()),
        ["worker-2", "worker-1"]
    );
    assert_eq!(one.next()["verdict"]["node"], "worker-2");
    one.none();

    let url = format!("https://localhost:{port}");
    let ca = site.ca();
    let refused = |args: &[&str]| {
        let base = ["watch", "--json", "--url", &url, "--ca", ca.to_str().unwrap()];
        fails(&[&base[..], args].concat())["kind"].clone()
    };
    assert_eq!(refused(&["--token", "nobody's"]), "refused");
    assert_eq!(
        refused(&["--token", token, "--pod", &pod(2).to_string()]),
        "refused"
    );
    assert_eq!(refused(&["--token", token, "--node", "worker-9"]), "refused");
    // What the service says is shown as it is, and a CA that is not the service's is named as the cause.
    let other = Site::new();
    for (ca, node, words, tries) in [
        (site.ca(), "worker-9", "no node named \"worker-9\"", 0),
        (other.ca(), "worker-1", "--ca FILE", 2),
    ] {
        let args = [
            "--json",
            "--url",
            &url,
            "--ca",
            ca.to_str().unwrap(),
            "--token",
            token,
            "--node",
            node,
        ];
        let output = cgpath(&[&["watch"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(2));
        let lines = output.stderr.trim_ascii_end().split(|b| *b == b'\n');
        let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        // Above it each try that is followed by another has an object of its own.
        let (error, before) = lines.split_last().unwrap();
        assert_eq!(before.len(), tries, "{lines:?}");
        assert!(before.iter().all(|line| line["kind"] == "again"), "{lines:?}");
        assert!(error["hint"].is_string(), "{error}");
        let said = format!(
            "{} {}",
            error["error"].as_str().unwrap(),
            error["hint"].as_str().unwrap()
        );
        assert!(said.contains(words) && !said.contains('\\'), "{said}");
    }
    assert_eq!(cgpath(&["watch", "--help"]).status.code(), Some(0));
}
