//! Readers with a scope: two tenants on one node, and one tenant on two nodes.

use super::site::{Answer, Client, Server, Site, busy, fails, ok};
use cgpath_testkit::{Actor, Node, pod, sha256};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};

const RED: &str = "the red tenant's token";
const BLUE: &str = "the blue tenant's token";
const OPERATOR: &str = "the operator's own token";

fn bearer(client: &Client, token: &str, path: &str) -> Answer {
    let header = format!("Authorization: Bearer {token}\r\n");
    client.send("GET", path, &header, b"").unwrap()
}

/// Pods 1 and 2 are red, 3 and 4 blue; `worker-2` has blue pods alone, and `worker-3` was never heard of.
struct Tenants {
    site: Site,
    client: Client,
    nodes: [Node; 2],
    _server: Server,
}

fn tenants() -> Tenants {
    let site = Site::new();
    let mut first = busy();
    let mut second = Node::boot(cgpath_testkit::KeyKind::EcdsaP256);
    second.execute_good(&Actor::pod(pod(4), "/bin/app"), "/bin/app");
    for (node, name) in [(&first, "worker-1"), (&second, "worker-2"), (&first, "worker-3")] {
        site.enrol(node, name);
    }
    let digest = |token: &str| hex::encode(sha256(token.as_bytes()).bytes());
    let readers = site.path("readers.yaml");
    let text = format!(
        "readers:\n\
         - name: red\n  \
         token-sha256: {}\n  \
         pods: [{}, {}]\n\
         - name: blue\n  \
         token-sha256: {}\n  \
         pods: [{}, {}]\n",
        digest(RED),
        pod(1),
        pod(2),
        digest(BLUE),
        pod(3),
        pod(4)
    );
    std::fs::write(&readers, text).unwrap();
    let (server, client) = site.serve(&["--read-token", OPERATOR, "--readers", readers.to_str().unwrap()]);
    for (node, name) in [(&mut first, "worker-1"), (&mut second, "worker-2")] {
        let nonce = client.nonce(name).unwrap();
        let answer = client.submit(name, &node.attest(&nonce).to_cbor()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    Tenants {
        site,
        client,
        nodes: [first, second],
        _server: server,
    }
}

/// All that a reader of worker-1 can ask for.
fn everything(node: &str) -> [String; 7] {
    [
        "/".to_owned(),
        format!("/nodes/{node}"),
        "/metrics".to_owned(),
        "/v1/nodes".to_owned(),
        format!("/v1/nodes/{node}/verdict"),
        format!("/v1/nodes/{node}/history"),
        format!("/v1/nodes/{node}/ear"),
    ]
}

/// The claims of a JWT.
fn claims(token: &str) -> String {
    use base64::Engine as _;
    let part = token.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(part)
        .unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn two_tenants_of_one_node_see_their_own_pods_and_nothing_of_each_other() {
    let mut tenants = tenants();
    // What would show if anything of another tenant did.
    tenants.nodes[0].execute(
        &Actor::pod(pod(3), "/bin/app"),
        "/opt/secret-of-blue",
        &sha256(b"blue"),
    );
    let client = &tenants.client;
    let nonce = client.nonce("worker-1").unwrap();
    let evidence = tenants.nodes[0].attest(&nonce).to_cbor();
    assert_eq!(client.submit("worker-1", &evidence).unwrap().status, 200);

    for (token, own, foreign) in [(RED, [1, 2], [3, 4]), (BLUE, [3, 4], [1, 2])] {
        for path in everything("worker-1") {
            let answer = bearer(client, token, &path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let text = if path.ends_with("ear") {
                claims(&answer.text())
            } else {
                answer.text()
            };
            for n in own {
                assert!(text.contains(&pod(n).to_string()), "{path} lacks pod {n}: {text}");
            }
            for n in foreign {
                assert!(
                    !text.contains(&pod(n).to_string()),
                    "{path} shows pod {n}: {text}"
                );
                assert!(
                    !text.contains(&format!("pod-{n}")),
                    "{path} names pod {n}: {text}"
                );
            }
            assert_eq!(
                text.contains("secret-of-blue"),
                token == BLUE && {
                    // Counts and states alone have no paths.
                    !path.ends_with("ear") && path != "/metrics"
                },
                "{path}"
            );
        }
    }
    // Each pod's state is its own: blue's file makes red's answers no other.
    let red = bearer(client, RED, "/v1/nodes/worker-1/verdict").json();
    assert_eq!(red["state"], "trusted");
    assert!(
        red["pods"]
            .as_array()
            .unwrap()
            .iter()
            .all(|pod| pod["state"] == "trusted")
    );
    let all = bearer(client, OPERATOR, "/v1/nodes/worker-1/verdict").json();
    assert_eq!(all["trusted"], false);
}

#[test]
fn a_tenant_of_two_nodes_sees_both_and_no_node_without_a_pod_of_its_own() {
    let tenants = tenants();
    let client = &tenants.client;
    let names = |token: &str| -> Vec<String> {
        let nodes = bearer(client, token, "/v1/nodes").json();
        let names = nodes.as_array().unwrap().iter();
        names
            .map(|node| node["node"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(BLUE), ["worker-1", "worker-2"]);
    assert_eq!(names(RED), ["worker-1"]);
    for path in ["/", "/metrics", "/v1/nodes"] {
        assert!(!bearer(client, RED, path).text().contains("worker-2"), "{path}");
    }
}

#[test]
fn a_tenants_alerts_know_of_its_stopped_node_and_have_no_certificate_that_ended() {
    let tenants = tenants();
    let client = &tenants.client;
    let lines = |token: &str, begin: &str| -> Vec<String> {
        let text = bearer(client, token, "/metrics").text();
        text.lines()
            .filter(|line| line.starts_with(begin))
            .map(str::to_owned)
            .collect()
    };
    let stopped = |token: &str| lines(token, "cgpath_node_stopped{");
    assert_eq!(stopped(RED), ["cgpath_node_stopped{node=\"worker-1\"} 0"]);
    ok(&tenants.site.node(&["stop", "worker-1"]));
    assert_eq!(stopped(RED), ["cgpath_node_stopped{node=\"worker-1\"} 1"]);
    let mut both = stopped(BLUE);
    both.sort_unstable();
    assert_eq!(
        both,
        [
            "cgpath_node_stopped{node=\"worker-1\"} 1",
            "cgpath_node_stopped{node=\"worker-2\"} 0",
        ]
    );
    // Of the server's own certificate the operator alone is given the end.
    let certificate = "cgpath_certificate_not_after_seconds ";
    let shown = lines(OPERATOR, certificate);
    let end = shown[0].strip_prefix(certificate).unwrap();
    assert!(shown.len() == 1 && end.parse::<i64>().unwrap() > 0, "{shown:?}");
    for token in [RED, BLUE] {
        assert_eq!(lines(token, "cgpath_certificate"), Vec::<String>::new());
        assert_eq!(lines(token, "# TYPE cgpath_certificate"), Vec::<String>::new());
        assert_eq!(lines(token, "cgpath_webhook"), Vec::<String>::new());
    }
}

#[test]
fn what_is_outside_of_a_scope_answers_as_what_does_not_exist() {
    let tenants = tenants();
    let client = &tenants.client;
    // An enrolled node without a pod of red's, an enrolled one that sent nothing, and none at all.
    for part in ["verdict", "history", "ear"] {
        let [there, silent, absent] = ["worker-2", "worker-3", "worker-9"].map(|name| {
            let answer = bearer(client, RED, &format!("/v1/nodes/{name}/{part}"));
            (answer.status, answer.text().replace(name, "NAME"))
        });
        assert_eq!(absent.0, 404);
        assert_eq!(there, absent, "{part}");
        assert_eq!(silent, absent, "{part}");
    }
    // Another tenant's pod, a pod that never was, a pod on another node, no UID at all.
    let ask = |node: &str, uid: &str, end: &str| {
        let answer = bearer(client, RED, &format!("/v1/nodes/{node}/pods/{uid}{end}"));
        let text = answer.text().replace(uid, "UID").replace(node, "NODE");
        (answer.status, text)
    };
    let own = pod(1).to_string();
    assert_eq!(ask("worker-1", &own, "").0, 200);
    for end in ["", "/stream"] {
        let absent = ask("worker-1", &pod(99).to_string(), end);
        assert_eq!(absent.0, 404);
        for (node, uid) in [
            ("worker-1", pod(3).to_string()),
            ("worker-2", pod(4).to_string()),
            ("worker-2", own.clone()),
            ("worker-9", own.clone()),
            ("worker-1", "no-uid".to_owned()),
        ] {
            assert_eq!(ask(node, &uid, end), absent, "{node} {uid}{end}");
        }
    }
    // No token, a wrong one: as for everybody.
    assert_eq!(client.get("/v1/nodes").status, 401);
    assert_eq!(bearer(client, "somebody's token", "/v1/nodes").status, 401);
    let wrong = tenants.site.path("wrong.yaml");
    std::fs::write(&wrong, "readers:\n- name: x\n  token-sha256: 00\n").unwrap();
    let store = tenants.site.path("elsewhere");
    let error = fails(&[
        "serve".as_ref(),
        store.as_os_str(),
        "--readers".as_ref(),
        wrong.as_os_str(),
        "--json".as_ref(),
    ]);
    assert_eq!(error["kind"], "readers");
}

#[test]
fn a_pods_stream_gives_each_verdict_about_it_as_it_comes() {
    let mut tenants = tenants();
    let client = tenants.client.clone();
    let request = format!(
        "GET /v1/nodes/worker-1/pods/{}/stream HTTP/1.1\r\n\
         Host: localhost\r\n\
         Authorization: Bearer {RED}\r\n\
         \r\n",
        pod(1)
    );
    let mut stream = BufReader::new(client.open().unwrap());
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut next = || -> Value {
        loop {
            let mut line = String::new();
            assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    };
    let first = next();
    assert_eq!(first["pod"]["uid"], pod(1).to_string());
    assert_eq!(first["pod"]["state"], "trusted");
    // A verdict about another node is nothing to it; the next one about its own is.
    for n in [1, 0] {
        let name = format!("worker-{}", n + 1);
        let nonce = client.nonce(&name).unwrap();
        if n == 0 {
            tenants.nodes[0].execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"replaced"));
        }
        let evidence = tenants.nodes[n].attest(&nonce).to_cbor();
        assert_eq!(client.submit(&name, &evidence).unwrap().status, 200);
    }
    let second = next();
    assert_eq!(second["pod"]["state"], "untrusted");
    assert_eq!(second["pod"]["findings"][0]["rule"], "V9");
}

#[test]
fn a_bundle_from_the_services_store_is_trusted_by_its_tenant() {
    let mut tenants = tenants();
    let nonce = tenants.client.nonce("worker-1").unwrap();
    let evidence = tenants.nodes[0].attest(&nonce).to_cbor();
    assert_eq!(tenants.client.submit("worker-1", &evidence).unwrap().status, 200);
    let (site, uid) = (&tenants.site, pod(1).to_string());
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
    let (bundle, key) = (site.path("web.tenant"), site.path("worker-1.ak"));
    let (store, nonce) = (site.store(), hex::encode(&nonce));
    let public = store.join("verdict.pub.pem");
    let [bundle, policy, key, store, public] =
        [&bundle, &policy, &key, &store, &public].map(|path| path.to_str().unwrap());
    ok(&[
        "prove", "--pod", &uid, "--store", store, "--node", "worker-1", "-o", bundle,
    ]);
    let verify = [
        "verify", "--tenant", bundle, "--policy", policy, "--ak", key, "--nonce", &nonce,
    ];
    let said = ok(&[&verify[..], &["--verifier", public, "--json"]].concat());
    let verdict: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(verdict["outcome"], "trusted");
    // The same, for somebody who does not know the service's key.
    let alone = super::site::cgpath(&verify);
    assert_eq!(alone.status.code(), Some(3));
}
