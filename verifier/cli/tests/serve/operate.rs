//! What an operator does from day to day: looks how nodes stand, gives the verifier another name, takes an
//! acceptance back, fetches evidence.

use super::back::{explain, round};
use super::rounds;
use super::site::{Client, Server, Site, appraised, busy, cgpath, fails, ok};
use cgpath_testkit::{Actor, AttestationKey, KeyKind, Node, pod, sha256};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Waits until it holds; what never does is a failure.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(300), "{what}: never");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Exit code and standing, which `list`, `show` and `explain` must agree about.
fn standing(site: &Site) -> (i32, String) {
    let (code, shown) = appraised(&site.node(&["show", "worker-1"]));
    let (listed_code, listed) = appraised(&site.node(&["list"]));
    assert_eq!(listed_code, code);
    let word = shown["standing"].as_str().unwrap().to_owned();
    assert_eq!(listed[0]["standing"], word);
    (code, word)
}

#[test]
fn a_node_that_is_silent_refused_or_without_a_usable_policy_does_not_look_trusted() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    // As an operator calls a pod.
    let policy = site.path("policy-worker-1/node.yaml");
    let yaml = std::fs::read_to_string(&policy).unwrap();
    let named = yaml.replace("name: pod-1,", "name: shop/web,");
    assert_ne!(named, yaml);
    std::fs::write(&policy, named).unwrap();
    let policy = policy.to_str().unwrap();
    ok(&site.node(&["add", "worker-1", "--replace", "--policy", policy]));
    assert_eq!(standing(&site), (1, "no-evidence".into()));
    let (server, client) = site.serve(&["--stale-after", "3600"]);
    round(&client, &mut node);
    assert_eq!(standing(&site), (0, "trusted".into()));
    let metrics = client.get("/metrics").text();
    for (n, names) in [
        (1, "namespace=\"shop\",pod=\"shop/web\""),
        (2, "namespace=\"\",pod=\"pod-2\""),
    ] {
        let labels = format!("{{node=\"worker-1\",uid=\"{}\",{names}}}", pod(n));
        for sample in [
            format!("cgpath_pod_trusted{labels} 1\n"),
            format!("cgpath_pod_executions{labels} 1\n"),
        ] {
            assert!(metrics.contains(&sample), "{sample} is missing in {metrics}");
        }
    }

    // What strangers send in its name does not make another of it while its own evidence comes.
    let mut other = node.clone();
    other.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let by_another_key = |client: &Client| {
        let nonce = client.nonce("worker-1").unwrap();
        let evidence = other.clone().attest(&nonce).to_cbor();
        let answer = client.submit("worker-1", &evidence).unwrap();
        assert_eq!(answer.kind(), (403, "unknown-key".into()));
    };
    by_another_key(&client);
    assert_eq!(standing(&site), (0, "trusted".into()));
    drop(server);

    // The service says from when on a verdict is too old; a clock's second must pass.
    let (_server, client) = site.serve(&["--stale-after", "0"]);
    // One command alone is asked: between two the second can pass.
    until("stale", || appraised(&site.node(&["show", "worker-1"])).0 != 0);
    let stale = standing(&site);
    assert_eq!(stale.0, 1);
    until("refused", || {
        by_another_key(&client);
        standing(&site) == (1, "refused".into())
    });
    let text = |args: &[&str]| {
        let mut args: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
        args.extend(["--store".into(), site.store().into()]);
        let output = cgpath(&args);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, shown) = text(&["node", "show", "worker-1"]);
    assert!(
        code == Some(1)
            && shown.contains("STALE: nothing was taken of it for")
            && shown.contains("REFUSED at"),
        "{shown}"
    );
    let (code, listed) = text(&["node", "list"]);
    assert!(code == Some(1) && listed.contains("REFUSED"), "{listed}");
    let (code, explained) = text(&["explain", "--node", "worker-1"]);
    assert!(code == Some(1) && explained.contains("REFUSED at"), "{explained}");

    // The files that were enrolled are not needed any more, the store's copies of them are: without one of
    // them nothing of the node is taken, and it is said why.
    std::fs::remove_dir_all(site.path("policy-worker-1")).unwrap();
    assert_eq!(standing(&site), (1, "refused".into()));
    let references = site.store().join("policies/references");
    let one = std::fs::read_dir(&references).unwrap().next().unwrap().unwrap();
    std::fs::rename(one.path(), site.path("away")).unwrap();
    assert_eq!(standing(&site), (1, "policy-not-usable".into()));
    let (_, shown) = text(&["node", "show", "worker-1"]);
    let absent = one.file_name();
    // The service says so before the next evidence comes.
    let metrics = client.get("/metrics").text();
    for sample in [
        "cgpath_node_policy_usable{node=\"worker-1\"} 0",
        "cgpath_node_stale{node=\"worker-1\"} 1",
        "cgpath_node_stopped{node=\"worker-1\"} 0",
        "cgpath_build_info{version=\"",
        "cgpath_certificate_not_after_seconds 1",
    ] {
        assert!(metrics.contains(sample), "{sample} is missing in {metrics}");
    }
    assert!(client.get("/").text().contains("The policy cannot be used"));
    assert!(
        shown.contains("POLICY NOT USABLE") && shown.contains(absent.to_str().unwrap()),
        "{shown}"
    );

    ok(&site.node(&["stop", "worker-1"]));
    assert_eq!(standing(&site), (0, "stopped".into()));
    let metrics = client.get("/metrics").text();
    assert!(
        metrics.contains("cgpath_node_stopped{node=\"worker-1\"} 1"),
        "{metrics}"
    );
}

#[test]
fn an_untrusted_node_is_an_exit_code_wherever_it_is_looked_at() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"replaced"));
    round(&client, &mut node);
    assert_eq!(standing(&site), (1, "untrusted".into()));
    assert!(
        client
            .get("/metrics")
            .text()
            .contains("cgpath_node_failures{node=\"worker-1\",rule=\"V9\"} 1")
    );
    let (code, findings) = explain(&site, &[]);
    assert_eq!(code, 1);
    let id = findings[0]["id"].as_str().unwrap();
    assert_eq!(explain(&site, &[id]).0, 1);
}

#[test]
fn what_was_accepted_can_be_taken_back_and_pages_say_what_was_reappraised() {
    let site = Site::new();
    let mut node = busy();
    // This machine reboots at once.
    node.extra_policy += "min-reboot: 0\n";
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"hotfix"));
    round(&client, &mut node);
    let page = || client.get("/nodes/worker-1").text();
    let pod_page = || client.get(&format!("/nodes/worker-1/pods/{}", pod(4))).text();
    assert!(!page().contains("re-appraised") && !pod_page().contains("re-appraised"));

    let (_, findings) = explain(&site, &[]);
    let id = findings[0]["id"].as_str().unwrap().to_owned();
    let revoke = |what: &str| site.node(&["accept", "worker-1", what, "--revoke"]);
    assert_eq!(fails(&revoke(&id))["kind"], "no-statement");
    let (code, accepted) =
        appraised(&site.node(&["accept", "worker-1", &id, "--reason", "for now", "--until", "1d"]));
    assert_eq!((code, &accepted["trusted"]), (0, &true.into()));
    assert_eq!(standing(&site), (0, "trusted".into()));
    // What it was when the evidence came is not forgotten.
    for page in [page(), pod_page()] {
        let (_, was) = page.split_once("re-appraised; was ").expect("the page marks it");
        assert!(
            was.split("</span>").next().unwrap().contains("UNTRUSTED"),
            "{page}"
        );
    }

    for wrong in ["", "sha256:", "ffffffffffffffff"] {
        assert_eq!(fails(&revoke(wrong))["kind"], "no-statement", "{wrong:?}");
    }
    let mixed = site.node(&["accept", "worker-1", &id, "--revoke", "--reason", "x"]);
    assert_eq!(fails(&mixed)["kind"], "usage");
    let statement = accepted["statement"].as_str().unwrap();
    let (code, revoked) = appraised(&revoke(&statement[..20]));
    assert_eq!((code, &revoked["trusted"]), (1, &false.into()));
    assert_eq!(standing(&site), (1, "untrusted".into()));
    assert_eq!(round(&client, &mut node)["accepted"], Value::Array(vec![]));
    let (_, history) = appraised(&site.node(&["history", "worker-1"]));
    assert_eq!(history[0]["reason"], format!("revoke {statement}"));
    assert_eq!(fails(&revoke(&id))["kind"], "no-statement");
}

#[test]
fn a_verifier_is_always_reached_as_localhost_and_gets_names_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("v");
    let path = store.to_str().unwrap();
    ok(&["serve", "--init", path, "--name", "verifier.example"]);
    let server = Server::start(&store, &[]);
    let reached = |name: &str| {
        let client = Client::new(&store.join("ca.pem"), server.address).called(name);
        client.send("GET", "/healthz", "", b"").is_ok()
    };
    assert!(reached("localhost") && reached("127.0.0.1") && reached("verifier.example"));
    assert!(!reached("new.example"));
    let before = std::fs::read(store.join("server.pem")).unwrap();
    assert_eq!(
        fails(&["serve", path, "--json", "--add-name", "not a name"])["kind"],
        "name"
    );
    assert_eq!(std::fs::read(store.join("server.pem")).unwrap(), before);
    let said: Value =
        serde_json::from_str(&ok(&["serve", path, "--json", "--add-name", "new.example"])).unwrap();
    assert_eq!(
        said["names"],
        serde_json::json!(["localhost", "127.0.0.1", "::1", "verifier.example", "new.example"])
    );
    until("the new name", || reached("new.example"));
    assert!(reached("localhost") && reached("verifier.example"));
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn evidence_that_a_store_keeps_in_parts_is_had_whole() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    site.enrol(&node, "worker-2");
    let (server, client) = site.serve(&[]);
    let (_, mut last) = rounds::whole(&client, &mut node);
    let mut sent = vec![last.clone()];
    for _ in 0..3 {
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        last = rounds::next(&client, &mut node, &last).1;
        sent.push(last.clone());
    }
    let store = site.store();
    let of_store = ["--store", store.to_str().unwrap(), "--node", "worker-1"];
    let file = site.path("whole.cbor");
    let export = ["export", "--format", "cbor", "-o", file.to_str().unwrap()];
    ok(&[&export[..], &of_store].concat());
    assert_eq!(std::fs::read(&file).unwrap(), last.to_cbor());
    // Each round by its number, the newest first.
    let history = client.get("/v1/nodes/worker-1/history").json();
    let numbers: Vec<String> = history["verdicts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|verdict| verdict["id"].to_string())
        .collect();
    assert_eq!(numbers.len(), sent.len());
    for (number, round) in numbers.iter().zip(sent.iter().rev()) {
        ok(&[&export[..], &of_store, &["--verdict", number]].concat());
        assert_eq!(std::fs::read(&file).unwrap(), round.to_cbor(), "{number}");
    }
    // By its own nonce and under the node's policy as it is now.
    let (code, verdict) =
        appraised(&[&["verify", "--json"], &of_store[..], &["--verdict", &numbers[1]]].concat());
    assert_eq!((code, &verdict["trusted"]), (0, &true.into()));

    // Key, nonce and policy are those of the store; each may be another one.
    let appraised = |more: &[&str]| appraised(&[&["verify", "--json"], &of_store[..], more].concat());
    let (_, verdict) = appraised(&[]);
    let kept = client.get("/v1/nodes/worker-1/verdict").json();
    for field in ["node", "pods"] {
        let strip = |value: &Value| {
            let mut value = value[field].clone();
            if let Some(node) = value.as_object_mut() {
                node.remove("notes");
            }
            value
        };
        assert_eq!(strip(&verdict), strip(&kept["verdict"]), "{field}");
    }
    let (code, verdict) = appraised(&["--nonce", "0011223344556677"]);
    assert_eq!((code, &verdict["trusted"]), (1, &false.into()));
    let mut stricter = node.clone();
    stricter
        .pod_files
        .insert(pod(4), [(b"/bin/app".to_vec(), [sha256(b"other")].into())].into());
    std::fs::rename(site.path("policy-worker-1"), site.path("old")).unwrap();
    let policy = site.policy(&stricter, "worker-1");
    let (code, verdict) = appraised(&["--policy", policy.to_str().unwrap()]);
    assert_eq!((code, &verdict["pods"][3]["state"]), (1, &"untrusted".into()));

    for command in [
        &["verify", "--json"][..],
        &["export", "--json", "--format", "cbor", "-o", "x"],
        &["policy", "from-boot", "--json"],
    ] {
        // No file and no store; both; half a store.
        assert_eq!(fails(command)["kind"], "usage", "{command:?}");
        assert_eq!(
            fails(&[command, &of_store, &["file.cbor"]].concat())["kind"],
            "usage"
        );
        assert_eq!(fails(&[command, &of_store[..2]].concat())["kind"], "usage");
        let other = [&of_store[..3], &["worker-9"]].concat();
        assert_eq!(fails(&[command, &other].concat())["kind"], "unknown-node");
        // A verdict that there is not, one of another node, and none at all.
        let numbered = |of: &[&str], number: &str| fails(&[command, of, &["--verdict", number]].concat());
        assert_eq!(numbered(&of_store, "4711")["kind"], "no-verdict");
        let other = [&of_store[..3], &["worker-2"]].concat();
        assert_eq!(numbered(&other, &numbers[0])["kind"], "no-verdict");
        assert_eq!(numbered(&of_store, "0")["kind"], "usage");
        assert_eq!(numbered(&["file.cbor"], &numbers[0])["kind"], "usage");
    }

    // Of what is over the limit the last of each node is left.
    drop(server);
    let (_server, _) = site.serve(&["--keep-evidence", "0"]);
    let numbered = [&export[..], &["--json"], &of_store, &["--verdict"]].concat();
    let refused = fails(&[&numbered[..], &[numbers[3].as_str()]].concat());
    assert_eq!(refused["kind"], "no-evidence", "{refused}");
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("is not kept any more"),
        "{refused}"
    );
    ok(&[&numbered[..], &[numbers[0].as_str()]].concat());
}

#[test]
fn what_a_node_in_the_store_booted_becomes_values_for_its_policy() {
    let site = Site::new();
    let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    let (_, evidence) = rounds::whole(&client, &mut node);
    let store = site.store();
    let said = ok(&[
        "policy",
        "from-boot",
        "--json",
        "--store",
        store.to_str().unwrap(),
        "--node",
        "worker-1",
    ]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let learned = cgpath_refvals::learned_boot::from_boot(&evidence.boot.unwrap()).unwrap();
    assert_eq!(said["boot"], learned.yaml());
}

#[test]
fn a_store_that_is_moved_appraises_by_the_policies_that_it_took_along() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (server, client) = site.serve(&[]);
    round(&client, &mut node);
    drop(server);
    std::fs::remove_dir_all(site.path("policy-worker-1")).unwrap();
    std::fs::rename(site.store(), site.path("moved")).unwrap();
    std::fs::rename(site.path("moved"), site.path("restored")).unwrap();
    let moved = site.path("restored");
    let server = Server::start(&moved, &[]);
    let client = Client::new(&moved.join("ca.pem"), server.address);
    assert_eq!(round(&client, &mut node)["trusted"], true);
    let shown = [
        "node",
        "show",
        "worker-1",
        "--json",
        "--store",
        moved.to_str().unwrap(),
    ];
    let (code, shown) = appraised(&shown);
    assert_eq!((code, &shown["standing"]), (0, &"trusted".into()));
    // And it can be re-appraised without any file from elsewhere.
    let again = [
        "node",
        "policy",
        "worker-1",
        "--json",
        "--store",
        moved.to_str().unwrap(),
    ];
    assert_eq!(appraised(&again).1["rejudged"], 2);
}

#[test]
fn a_clock_that_went_back_is_forgotten_by_a_signed_statement_alone_and_verdicts_stay() {
    let site = Site::new();
    let mut node = busy();
    node.extra_policy += "min-reboot: 0\n";
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    let forget = |reason: &str| site.node(&["forget", "worker-1", "--reason", reason]);
    assert_eq!(fails(&forget("nothing is known yet"))["kind"], "nothing-known");
    round(&client, &mut node);
    // The TPM is put back to an earlier state.
    node.reboot();
    node.clock = 1_000;
    let verdict = round(&client, &mut node);
    let fails_v7 = |verdict: &Value| {
        let findings = verdict["node"]["findings"].as_array().unwrap();
        findings
            .iter()
            .any(|f| f["rule"] == "V7" && f["severity"] == "fail")
    };
    assert!(fails_v7(&verdict), "{verdict}");
    assert!(
        fails_v7(&round(&client, &mut node)),
        "it does not go away by itself"
    );
    for reason in ["", " ", "two\nlines", &"x".repeat(1025)] {
        assert_eq!(fails(&forget(reason))["kind"], "accept", "{reason:?}");
    }
    let said: Value = serde_json::from_str(&ok(&forget("mainboard replaced"))).unwrap();
    let verdict = round(&client, &mut node);
    assert_eq!(verdict["trusted"], true, "{verdict}");
    assert_eq!(round(&client, &mut node)["trusted"], true);
    let history = client.get("/v1/nodes/worker-1/history").json();
    assert_eq!(history["verdicts"].as_array().unwrap().len(), 5);
    let (_, notes) = appraised(&site.node(&["history", "worker-1"]));
    assert_eq!(notes[0]["forgotten"], said);

    // The statement is signed by the key whose public half the store shows.
    use base64::Engine as _;
    use p256::ecdsa::signature::Verifier as _;
    use p256::pkcs8::DecodePublicKey as _;
    let pem = std::fs::read_to_string(site.store().join("verdict.pub.pem")).unwrap();
    let key = p256::ecdsa::VerifyingKey::from_public_key_pem(&pem).unwrap();
    let statement = said["statement"].as_str().unwrap();
    let (message, signature) = statement.rsplit_once('.').unwrap();
    let decode = |text: &str| {
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(text)
            .unwrap()
    };
    let signature = p256::ecdsa::Signature::from_slice(&decode(signature)).unwrap();
    key.verify(message.as_bytes(), &signature).unwrap();
    let claims: Value = serde_json::from_slice(&decode(message.split_once('.').unwrap().1)).unwrap();
    assert_eq!(
        (&claims["node"], &claims["reason"]),
        (&"worker-1".into(), &"mainboard replaced".into())
    );
}

#[test]
fn a_store_in_the_environment_counts_where_a_node_is_named_and_not_beside_a_file() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    let text = |name: &str| site.path(name).to_str().unwrap().to_owned();
    let (file, page, bundle) = (text("whole.cbor"), text("page.html"), text("web.tenant"));
    let (policy, key) = (text("policy-worker-1/node.yaml"), text("worker-1.ak"));
    let uid = pod(1).to_string();
    let run = |line: &str| {
        let words = line.split_whitespace().map(|word| match word {
            "FILE" => file.as_str(),
            "PAGE" => page.as_str(),
            "BUNDLE" => bundle.as_str(),
            "POLICY" => policy.as_str(),
            "KEY" => key.as_str(),
            "UID" => uid.as_str(),
            word => word,
        });
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args(words)
            .env("CGPATH_STORE", site.store())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    round(&client, &mut node);
    for line in [
        "verify --node worker-1",
        "export --node worker-1 --format cbor -o FILE",
        "report --node worker-1 -o PAGE",
        "prove --pod UID --node worker-1 -o BUNDLE",
        // The variable is no argument beside a file.
        "export FILE --format json -o PAGE",
        "report FILE --policy POLICY --ak KEY --dangerous-no-nonce -o PAGE",
        "prove --pod UID --evidence FILE -o BUNDLE",
    ] {
        let (code, said) = run(line);
        assert_eq!(code, Some(0), "{line}: {said}");
    }
    for line in [
        "export FILE --node worker-1 --format json -o PAGE",
        "report FILE --node worker-1 -o PAGE",
        "prove --pod UID --evidence FILE --node worker-1 -o BUNDLE",
        "prove --pod UID --ear FILE --node worker-1 -o BUNDLE",
        "verify --tenant BUNDLE --node worker-1",
    ] {
        let (code, said) = run(line);
        assert!(
            code == Some(2) && said.contains("cannot be used with"),
            "{line}: {said}"
        );
    }
}

#[test]
fn explain_of_a_node_that_has_sent_nothing_exits_as_list_and_show_do() {
    let site = Site::new();
    site.enrol(&busy(), "worker-1");
    assert_eq!(standing(&site), (1, "no-evidence".into()));
    let store = site.store();
    let explain = [
        "explain",
        "--node",
        "worker-1",
        "--store",
        store.to_str().unwrap(),
    ];
    let shown = cgpath(&explain);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.status.code(), Some(1));
    assert!(text.contains("worker-1 has sent no evidence yet"), "{text}");
    let listed = appraised(&[&explain[..], &["--json"]].concat());
    assert_eq!(listed, (1, Value::Array(Vec::new())));
    // A finding of it is none.
    let walked = fails(&[&explain[..], &["3f2a91", "--json"]].concat());
    assert_eq!(walked["kind"], "no-verdict");
}
