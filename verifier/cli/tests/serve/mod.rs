//! The service as its users meet it: a process, TLS, HTTP, the command line beside it.

mod back;
mod browser;
mod certificates;
mod crash;
mod domains;
mod events;
mod openapi;
mod operate;
mod rounds;
mod schemathesis;
pub(crate) mod site;
mod slow;
mod strangers;
mod tenants;
mod thesis;
mod watch;

use cgpath_appraisal::State;
use cgpath_testkit::{Actor, AttestationKey, KeyKind, pod, sha256, tpm};
use site::{Client, Server, Site, appraised, busy, cgpath, fails, ok};
use std::os::unix::fs::PermissionsExt;

#[test]
fn an_honest_node_is_appraised_and_its_verdict_can_be_read_in_every_form() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (server, client) = site.serve(&[]);
    assert_eq!(client.get("/healthz").text(), "ok\n");
    assert_eq!(
        client.get("/v1/nodes/worker-1/verdict").kind(),
        (404, "no-verdict".into())
    );

    let nonce = client.nonce("worker-1").unwrap();
    let evidence = node.attest(&nonce).to_cbor();
    let answer = client.submit("worker-1", &evidence).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let verdict: cgpath_appraisal::Verdict = serde_json::from_slice(&answer.body).unwrap();
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.pods.len(), 4);

    let kept = client.get("/v1/nodes/worker-1/verdict").json();
    assert_eq!(kept["verdict"], answer.json());
    assert_eq!(kept["nonce"], hex::encode(&nonce));
    assert_eq!(kept["evidence"], hex::encode(sha256(&evidence).bytes()));
    let id = format!("cgpath-verdict-id: {}", kept["id"]);
    assert!(answer.head.contains(&id), "{}", answer.head);
    let file = site
        .store()
        .join(format!("evidence/{}.cbor", kept["evidence"].as_str().unwrap()));
    assert_eq!(std::fs::read(file).unwrap(), evidence);

    // The second round starts from what the first one left; one pod runs what it must not.
    let nonce = client.nonce("worker-1").unwrap();
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"replaced"));
    let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
    let verdict: cgpath_appraisal::Verdict = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(verdict.node.state, State::Trusted);
    assert_eq!(verdict.pod(pod(4)).unwrap().state, State::Untrusted);
    assert_eq!(verdict.pod(pod(3)).unwrap().state, State::Trusted);

    let history = client.get("/v1/nodes/worker-1/history").json();
    assert_eq!(history["verdicts"].as_array().unwrap().len(), 2);
    assert_eq!(history["verdicts"][0]["trusted"], false);
    let first = client.get("/v1/nodes/worker-1/history?limit=1").json();
    let older = client
        .get(&format!("/v1/nodes/worker-1/history?before={}", first["next"]))
        .json();
    assert_eq!(older["verdicts"][0]["id"], kept["id"]);
    assert!(older.get("next").is_none());
    assert_eq!(
        client.get("/v1/nodes/worker-1/history?wrong=1").kind(),
        (400, "query".into())
    );

    let nodes = client.get("/v1/nodes").json();
    assert_eq!(
        (&nodes[0]["name"], &nodes[0]["stale"]),
        (&"worker-1".into(), &false.into())
    );
    let page = client.get("/");
    if let Some(path) = std::env::var_os("CGPATH_SAMPLE_PAGE") {
        // For people who want to look at it.
        std::fs::write(path, &page.body).unwrap();
    }
    assert!(page.head.contains("default-src 'none'"), "{}", page.head);
    for text in [
        "worker-1",
        "pod-4",
        "UNTRUSTED",
        "dangerous-boot-not-judged",
        &pod(4).to_string(),
    ] {
        assert!(page.text().contains(text), "{text} is missing");
    }
    let ear = client.get("/v1/nodes/worker-1/ear").text();
    assert_eq!(ear.split('.').count(), 3, "{ear}");

    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn what_does_not_prove_itself_is_refused_and_changes_nothing() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    site.enrol(&node, "worker-2");
    let (_server, client) = site.serve(&[]);
    let untouched = || client.get("/v1/nodes/worker-1/verdict").kind() == (404, "no-verdict".into());

    let unknown = client.send("POST", "/v1/nodes/nobody/nonce", "", b"").unwrap();
    assert_eq!(unknown.kind(), (404, "unknown-node".into()));
    assert_eq!(
        client.submit("nobody", b"x").unwrap().kind(),
        (404, "unknown-node".into())
    );

    // Another key, honestly shown: the message has its fingerprint, and not the pinned one's.
    let nonce = client.nonce("worker-1").unwrap();
    let mut other = node.clone();
    other.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let answer = client
        .submit("worker-1", &other.attest(&nonce).to_cbor())
        .unwrap();
    assert_eq!(answer.kind(), (403, "unknown-key".into()));
    for (key, is_shown) in [(&other.ak, true), (&node.ak, false)] {
        let text = answer.text();
        assert_eq!(text.contains(&hex::encode(key.name())), is_shown, "{text}");
    }
    // Another key that shows the pinned one.
    let mut evidence = other.attest(&nonce);
    tpm(&mut evidence.quote).ak = node.ak.public();
    let answer = client.submit("worker-1", &evidence.to_cbor()).unwrap();
    assert_eq!(answer.kind(), (403, "quote".into()));
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.ends_with(" (V1)"), "{error}");
    // A nonce that the verifier never gave, and one that it gave to another node.
    let answer = client
        .submit("worker-1", &node.clone().attest(&[7; 32]).to_cbor())
        .unwrap();
    assert_eq!(answer.kind(), (403, "nonce".into()));
    let foreign = client.nonce("worker-2").unwrap();
    let answer = client
        .submit("worker-1", &node.clone().attest(&foreign).to_cbor())
        .unwrap();
    assert_eq!(answer.kind(), (403, "nonce".into()));
    // Not evidence, and evidence that ends too early.
    let good = node.attest(&nonce).to_cbor();
    assert_eq!(
        client.submit("worker-1", b"{}").unwrap().kind(),
        (400, "malformed".into())
    );
    assert_eq!(
        client.submit("worker-1", &good[..good.len() - 1]).unwrap().kind(),
        (400, "incomplete".into())
    );
    assert_eq!(
        client.submit("worker-1", b"").unwrap().kind(),
        (400, "incomplete".into())
    );
    assert!(untouched());
    assert_eq!(
        std::fs::read_dir(site.store().join("evidence")).unwrap().count(),
        0
    );
    let nodes = client.get("/v1/nodes").json();
    assert_eq!(nodes[0]["refused"]["count"], 7, "{nodes}");

    // None of it used the nonce up; its answer does.
    assert_eq!(client.submit("worker-1", &good).unwrap().status, 200);
    let again = client.submit("worker-1", &good).unwrap();
    assert_eq!(again.kind(), (403, "nonce".into()));
    assert!(again.text().contains("answered already"), "{}", again.text());
    assert_eq!(
        client.get("/v1/nodes/worker-1/history").json()["verdicts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    assert_eq!(client.get("/nothing").kind(), (404, "not-found".into()));
    assert_eq!(
        client.get("/v1/nodes/worker-1/nonce").kind(),
        (405, "method".into())
    );
}

#[test]
fn a_nonce_expires() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&["--nonce-lifetime", "5"]);
    let nonce = client.nonce("worker-1").unwrap();
    // Longer than it lives; the shortest life that there is.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
    assert_eq!(answer.kind(), (403, "nonce".into()));
    assert!(answer.text().contains("expired"), "{}", answer.text());
}

#[test]
fn bodies_are_bounded_in_size_and_time() {
    let site = Site::new();
    let node = busy();
    site.enrol(&node, "worker-1");
    let (server, client) = site.serve(&["--max-evidence", "1"]);
    let head = |length: &str| {
        format!(
            "POST /v1/nodes/worker-1/evidence HTTP/1.1\r\n\
             Host: localhost\r\n\
             Connection: close\r\n\
             {length}\r\n\
             \r\n"
        )
    };
    // Stated too long: refused before anything of it is read.
    let answer = client.raw(&[head("Content-Length: 1048577").as_bytes()]).unwrap();
    assert_eq!(answer.kind(), (413, "limit".into()));
    // Not stated, and too long in the end.
    let chunk = [&b"100000\r\n"[..], &vec![0; 0x100000], b"\r\n"].concat();
    let answer = client
        .raw(&[
            head("Transfer-Encoding: chunked").as_bytes(),
            &chunk,
            b"1\r\n0\r\n0\r\n\r\n",
        ])
        .unwrap();
    assert_eq!(answer.kind(), (413, "limit".into()));
    // Never comes.
    drop(server);
    let (_server, client) = site.serve(&["--max-evidence", "1", "--upload-timeout", "1"]);
    let answer = client
        .raw(&[head("Content-Length: 100").as_bytes(), b"abc"])
        .unwrap();
    assert_eq!(answer.kind(), (408, "timeout".into()));
}

#[test]
fn only_a_client_with_the_ca_connects_and_only_to_the_names_of_the_certificate() {
    let site = Site::new();
    let (_server, client) = site.serve(&[]);
    let other = Site::new();
    let stranger = Client::new(&other.ca(), client.address);
    assert!(stranger.send("GET", "/healthz", "", b"").is_err());
    assert_eq!(client.get("/healthz").status, 200);
    // Bytes that are no TLS harm nobody.
    use std::io::{Read, Write};
    let mut plain = std::net::TcpStream::connect(client.address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"));
    assert_eq!(client.get("/healthz").status, 200);
}

#[test]
fn with_a_read_token_nobody_reads_without_it_and_nodes_need_none() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&["--read-token", "0123456789abcdef"]);
    for path in [
        "/",
        "/v1/nodes",
        "/v1/nodes/worker-1/verdict",
        "/v1/nodes/worker-1/history",
        "/v1/nodes/worker-1/ear",
    ] {
        let answer = client.get(path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(
            answer
                .head
                .to_ascii_lowercase()
                .contains("www-authenticate: basic")
        );
        let wrong = client
            .send("GET", path, "Authorization: Bearer 0123456789abcdeg\r\n", b"")
            .unwrap();
        assert_eq!(wrong.status, 401, "{path}");
    }
    let nonce = client.nonce("worker-1").unwrap();
    assert_eq!(
        client
            .submit("worker-1", &node.attest(&nonce).to_cbor())
            .unwrap()
            .status,
        200
    );
    let bearer = client.send(
        "GET",
        "/v1/nodes/worker-1/verdict",
        "Authorization: Bearer 0123456789abcdef\r\n",
        b"",
    );
    assert_eq!(bearer.unwrap().json()["trusted"], true);
    // What a browser sends for the user `me` and the token as password.
    let basic = client
        .send(
            "GET",
            "/",
            "Authorization: Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
            b"",
        )
        .unwrap();
    assert_eq!(basic.status, 200);
    assert_eq!(client.get("/healthz").status, 200);

    let error = fails(&[
        "serve",
        site.store().to_str().unwrap(),
        "--read-token",
        "short",
        "--json",
    ]);
    assert_eq!(error["kind"], "usage");
}

#[test]
fn a_policy_counts_as_it_was_enrolled_until_another_one_is_while_the_service_runs() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    let mut round = |client: &Client| {
        let nonce = client.nonce("worker-1").unwrap();
        client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap()
    };
    assert_eq!(round(&client).json()["trusted"], true);

    let reference = site.path("policy-worker-1").join(format!("{}.json", pod(4)));
    let (before, other) = (
        std::fs::read(&reference).unwrap(),
        site.path("policy-worker-1").join(format!("{}.json", pod(3))),
    );
    std::fs::copy(other, &reference).unwrap();
    let answer = round(&client).json();
    assert_eq!(answer["trusted"], true, "the store has what was enrolled");
    // A copy that somebody changed is not what was enrolled.
    let (_, shown) = appraised(&site.node(&["show", "worker-1"]));
    let copy = std::path::PathBuf::from(shown["policy"].as_str().unwrap());
    assert!(copy.starts_with(site.store()), "{}", copy.display());
    let mut text = std::fs::read(&copy).unwrap();
    text.push(b'\n');
    std::fs::write(&copy, text).unwrap();
    let answer = round(&client);
    assert_eq!(answer.kind(), (503, "policy".into()));
    // Paths of the verifier's machine are for its own log.
    assert!(!answer.text().contains("node.yaml"), "{}", answer.text());

    let policy = site.path("policy-worker-1").join("node.yaml");
    let add = ["add", "worker-1", "--policy", policy.to_str().unwrap()];
    assert_eq!(
        fails(
            &site.node(
                &[
                    &add[..],
                    &[
                        "--ak",
                        &hex::encode(AttestationKey::new(KeyKind::EcdsaP256, 1).name())
                    ]
                ]
                .concat()
            )
        )["kind"],
        "node-exists"
    );
    ok(&site.node(&[&add[..], &["--replace"]].concat()));
    let answer = round(&client).json();
    assert_eq!(
        (&answer["trusted"], &answer["node"]["state"]),
        (&false.into(), &"trusted".into())
    );
    std::fs::write(&reference, before).unwrap();
    ok(&site.node(&[&add[..], &["--replace"]].concat()));
    assert_eq!(round(&client).json()["trusted"], true);

    // Removed under the running service: unknown at once.
    ok(&site.node(&["rm", "worker-1"]));
    assert_eq!(
        client.get("/v1/nodes/worker-1/verdict").kind(),
        (404, "unknown-node".into())
    );
    assert_eq!(
        client
            .send("POST", "/v1/nodes/worker-1/nonce", "", b"")
            .unwrap()
            .status,
        404
    );
    assert_eq!(
        std::fs::read_dir(site.store().join("evidence")).unwrap().count(),
        0
    );
}

#[test]
fn enrolment_says_what_is_wrong_and_shows_what_is_there() {
    let site = Site::new();
    let node = busy();
    let key = hex::encode(node.ak.name());
    let policy = site.policy(&node, "worker-1");
    let add = |name: &str, ak: &str, policy: &str| {
        fails(&site.node(&["add", name, "--ak", ak, "--policy", policy]))
    };
    let policy = policy.to_str().unwrap();
    assert_eq!(add("-n/../x", &key, policy)["kind"], "usage");
    assert_eq!(add("worker-1", "000b", policy)["kind"], "io");
    assert_eq!(add("worker-1", policy, policy)["kind"], "key");
    assert_eq!(add("worker-1", &key, "/nonexistent.yaml")["kind"], "io");
    let other = add("worker-9", &key, policy);
    assert!(other["error"].as_str().unwrap().contains("worker-1"), "{other}");
    assert_eq!(fails(&site.node(&["show", "worker-1"]))["kind"], "unknown-node");
    assert_eq!(fails(&site.node(&["rm", "worker-1"]))["kind"], "unknown-node");
    assert_eq!(
        fails(&["node", "list", "--json", "--store", "/nonexistent"])["kind"],
        "no-store"
    );

    // TPM2B_PUBLIC, as tpm2-tools write it, is the same key.
    let public = node.ak.public();
    let sized = [&u16::try_from(public.len()).unwrap().to_be_bytes()[..], &public].concat();
    let file = site.path("ak.tpm2b");
    std::fs::write(&file, sized).unwrap();
    let added: serde_json::Value = serde_json::from_str(&ok(&site.node(&[
        "add",
        "worker-1",
        "--ak",
        file.to_str().unwrap(),
        "--policy",
        policy,
    ])))
    .unwrap();
    assert_eq!(added["ak"], key);
    let (_, listed) = appraised(&site.node(&["list"]));
    assert_eq!(listed[0]["name"], "worker-1");
    let text = String::from_utf8(
        cgpath(&[
            "node".as_ref(),
            "show".as_ref(),
            "worker-1".as_ref(),
            "--store".as_ref(),
            site.store().as_os_str(),
        ])
        .stdout,
    )
    .unwrap();
    assert!(text.contains("no evidence yet") && text.contains(&key), "{text}");
}

#[test]
fn init_makes_private_files_and_overwrites_nothing_and_one_service_has_a_store() {
    let site = Site::new();
    let store = site.store();
    for entry in std::fs::read_dir(&store).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o077,
            0,
            "{:?}",
            entry.path()
        );
    }
    let store = store.to_str().unwrap();
    let again = fails(&["serve", "--init", store, "--name", "v.example", "--json"]);
    assert_eq!(again["kind"], "exists");
    let again = again.to_string();
    assert!(
        again.contains("holds a store already") && again.contains("--add-name") && !again.contains("removed"),
        "{again}"
    );
    // What a pod runs whenever it starts; what is no store is refused all the same.
    let key = std::fs::read(site.store().join("ca.key")).unwrap();
    assert!(ok(&["serve", "--init", "--keep", store, "--name", "v.example"]).starts_with("kept: "));
    assert_eq!(std::fs::read(site.store().join("ca.key")).unwrap(), key);
    std::fs::create_dir(site.path("other")).unwrap();
    std::fs::write(site.path("other").join("file"), "").unwrap();
    let other = site.path("other");
    let refused = fails(&[
        "serve",
        "--init",
        "--keep",
        other.to_str().unwrap(),
        "--name",
        "v.example",
        "--json",
    ]);
    assert_eq!(refused["kind"], "exists");
    let said = ok(&[
        "serve",
        "--init",
        site.path("second").to_str().unwrap(),
        "--name",
        "v.example",
        "192.0.2.7",
    ]);
    assert!(
        said.contains("[verifier]\nurl = \"https://192.0.2.7:8443\"\nca = \""),
        "{said}"
    );
    assert_eq!(
        fails(&["serve", "--json", site.path("third").to_str().unwrap()])["kind"],
        "no-store"
    );

    let server = Server::start(&site.store(), &[]);
    assert_eq!(
        fails(&["serve", "--json", store, "--listen", "127.0.0.1:0"])["kind"],
        "busy"
    );
    assert_eq!(server.terminate(), Some(0));
    drop(Server::start(&site.store(), &[]));
}

#[test]
fn a_report_is_made_from_the_store_from_files_and_from_verdicts_made_before() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (server, client) = site.serve(&[]);
    let rounds = site.path("rounds");
    std::fs::create_dir(&rounds).unwrap();
    let mut verdicts = String::new();
    for i in 0..3 {
        if i == 2 {
            node.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &sha256(b"replaced"));
        }
        let nonce = client.nonce("worker-1").unwrap();
        let evidence = node.attest(&nonce).to_cbor();
        std::fs::write(rounds.join(format!("{i}.cbor")), &evidence).unwrap();
        verdicts += &client.submit("worker-1", &evidence).unwrap().text();
        verdicts.push('\n');
    }
    let history = client.get("/v1/nodes/worker-1/history").body;
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(site.path(name), bytes).unwrap();
        site.path(name).to_str().unwrap().to_owned()
    };
    let (verdicts, history) = (
        file("verdicts.json", verdicts.as_bytes()),
        file("history.json", &history),
    );
    let rounds = rounds.to_str().unwrap();
    let policy = site.path("policy-worker-1/node.yaml");
    let key = hex::encode(node.ak.name());
    let store = site.store();
    let ways: [&[&str]; 4] = [
        &["--store", store.to_str().unwrap(), "--node", "worker-1"],
        &[
            rounds,
            "--policy",
            policy.to_str().unwrap(),
            "--ak",
            &key,
            "--dangerous-no-nonce",
        ],
        &[rounds, "--verdicts", &verdicts],
        &[rounds, "--verdicts", &history],
    ];
    for (i, way) in ways.iter().enumerate() {
        let output = site.path(&format!("report-{i}.html"));
        ok(&[&["report", "-o", output.to_str().unwrap()], *way].concat());
        let page = std::fs::read_to_string(&output).unwrap();
        if let Some(path) = std::env::var_os("CGPATH_SAMPLE_REPORT") {
            std::fs::write(path, &page).unwrap();
        }
        for text in [
            "Node worker-1",
            "3 rounds",
            "UNTRUSTED",
            "trusted → ",
            "/bin/app",
            "containerd-shim-runc-v2",
            "round 3",
        ] {
            assert!(
                page.contains(&text.replace(' ', "\u{202f}")) || page.contains(text),
                "way {i}: {text} is missing"
            );
        }
        assert_eq!(page.contains("dangerous-no-nonce"), i == 1, "way {i}");
    }
    // What is missing is an error, not a report with less in it.
    for way in [
        &[rounds][..],
        &[rounds, "--policy", policy.to_str().unwrap(), "--ak", &key],
        &[rounds, "--policy", policy.to_str().unwrap()],
    ] {
        let error = fails(&[&["report", "--json", "-o", "/dev/null"], way].concat());
        assert_eq!(error["kind"], "usage", "{error}");
    }
    let one = format!("{rounds}/0.cbor");
    assert_eq!(
        fails(&[
            "report",
            "--json",
            "-o",
            "/dev/null",
            &one,
            "--verdicts",
            &verdicts
        ])["kind"],
        "usage"
    );
    assert_eq!(server.terminate(), Some(0));
}
