//! The way back: a new policy and an accepted finding judge what is kept again, and nothing else clears a
//! finding.

use super::site::{Client, Site, appraised, busy, cgpath, fails, ok};
use cgpath_testkit::{Actor, Node, pod, sha256};
use serde_json::Value;

/// One round, which is taken; gives the answer.
pub(super) fn round(client: &Client, node: &mut Node) -> Value {
    let nonce = client.nonce("worker-1").unwrap();
    let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn state_of(verdict: &Value, uid: &str) -> String {
    let pods = verdict["pods"].as_array().unwrap();
    let pod = pods.iter().find(|pod| pod["uid"] == uid).unwrap();
    pod["state"].as_str().unwrap().to_owned()
}

/// A node with a replaced file in pod 4, after two rounds: one before and one after.
fn tampered(site: &Site, client: &Client) -> Node {
    let mut node = busy();
    // This machine reboots at once.
    node.extra_policy += "min-reboot: 0\n";
    site.enrol(&node, "worker-1");
    assert_eq!(round(client, &mut node)["trusted"], true);
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"hotfix"));
    assert_eq!(
        state_of(&round(client, &mut node), &pod(4).to_string()),
        "untrusted"
    );
    node
}

/// `cgpath explain`: its exit code and its JSON.
pub(super) fn explain(site: &Site, rest: &[&str]) -> (i32, Value) {
    let store = site.store();
    let mut args = vec![
        "explain",
        "--node",
        "worker-1",
        "--json",
        "--store",
        store.to_str().unwrap(),
    ];
    args.extend(rest);
    appraised(&args)
}

fn finding(site: &Site) -> String {
    let (_, listed) = explain(site, &[]);
    let wrong = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["rule"] == "V9" && f["severity"] == "fail");
    wrong.unwrap()["id"].as_str().unwrap().to_owned()
}

fn last(client: &Client) -> Value {
    client.get("/v1/nodes/worker-1/verdict").json()
}

#[test]
fn a_new_policy_appraises_all_evidence_of_the_boot_again_without_asking_the_node() {
    let site = Site::new();
    let (_server, client) = site.serve(&[]);
    let mut node = tampered(&site, &client);
    let before = last(&client);

    // What would it say? The store stays as it is.
    node.pod_files
        .get_mut(&pod(4))
        .unwrap()
        .get_mut(&b"/bin/app"[..])
        .unwrap()
        .insert(sha256(b"hotfix"));
    let old = site.path("policy-worker-1");
    std::fs::rename(&old, site.path("old")).unwrap();
    let new = site.policy(&node, "worker-1");
    let new = new.to_str().unwrap();
    let store = site.store();
    let store = store.to_str().unwrap();
    let tested: Value =
        serde_json::from_str(&ok(&["policy", "test", new, "--against", store, "--json"])).unwrap();
    let rounds = tested["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    assert_eq!(
        (&rounds[1]["old_trusted"], &rounds[1]["new_trusted"]),
        (&false.into(), &true.into())
    );
    assert_eq!(rounds[1]["differences"][0]["subject"], pod(4).to_string());
    assert_eq!(last(&client), before);

    let (code, changed) = appraised(&site.node(&["policy", "worker-1", new]));
    assert_eq!(code, 0);
    assert_eq!(
        (&changed["rejudged"], &changed["trusted"]),
        (&2.into(), &true.into())
    );
    let after = last(&client);
    assert_eq!(state_of(&after["verdict"], &pod(4).to_string()), "trusted");
    // Nothing old looks fresh, and the verdict says that it is a second one.
    assert_eq!((&after["time"], &after["id"]), (&before["time"], &before["id"]));
    assert_eq!(after["verdict"]["time"], before["verdict"]["time"]);
    assert!(after["verdict"]["rejudged"].as_u64().unwrap() >= before["time"].as_u64().unwrap());
    assert_ne!(after["policy_digest"], before["policy_digest"]);
    let history: Value = serde_json::from_str(&ok(&site.node(&["history", "worker-1"]))).unwrap();
    assert_eq!(history[0]["old_policy"], before["policy_digest"]);
    assert_eq!(
        (&history[0]["old_trusted"], &history[0]["new_trusted"]),
        (&false.into(), &true.into())
    );
    // Back to the old policy: untrusted again, and the next round goes on from there.
    std::fs::remove_dir_all(&old).unwrap();
    std::fs::rename(site.path("old"), &old).unwrap();
    assert_eq!(appraised(&site.node(&["policy", "worker-1", new])).0, 1);
    assert_eq!(
        state_of(&last(&client)["verdict"], &pod(4).to_string()),
        "untrusted"
    );
    assert_eq!(round(&client, &mut node)["node"]["state"], "trusted");

    // What changes nothing is one line, however many verdicts there are; the JSON has each.
    let history = || -> Value { serde_json::from_str(&ok(&site.node(&["history", "worker-1"]))).unwrap() };
    let shown = || ok(&["node", "history", "worker-1", "--store", store]);
    let (before, lines) = (history(), shown().lines().count());
    let (_, again) = appraised(&site.node(&["policy", "worker-1", new]));
    assert_eq!(again["rejudged"], 3);
    assert_eq!(
        history().as_array().unwrap().len(),
        before.as_array().unwrap().len() + 3
    );
    let text = shown();
    assert_eq!(text.lines().count(), lines + 1, "{text}");
    let newest = text.lines().next().unwrap();
    assert!(
        newest.contains("UTC  3 verdicts, 1 to 3: each is trusted or UNTRUSTED as before; "),
        "{text}"
    );
    assert!(text.contains("verdict 2: was UNTRUSTED, is trusted; "), "{text}");
}

#[test]
fn an_accepted_finding_is_signed_shown_and_ends_and_clears_nothing_else() {
    let site = Site::new();
    let (_server, client) = site.serve(&[]);
    let mut node = tampered(&site, &client);
    let id = finding(&site);
    let accept = |until: &str| {
        site.node(&[
            "accept",
            "worker-1",
            &id,
            "--reason",
            "change 4711",
            "--until",
            until,
        ])
    };
    assert_eq!(fails(&accept("400d"))["kind"], "accept");
    assert_eq!(fails(&accept("1970-01-01"))["kind"], "accept");
    let no_reason = site.node(&["accept", "worker-1", &id, "--reason", " ", "--until", "1d"]);
    assert_eq!(fails(&no_reason)["kind"], "accept");
    let unknown = site.node(&[
        "accept",
        "worker-1",
        "ffffffffffffffff",
        "--reason",
        "x",
        "--until",
        "1d",
    ]);
    assert_eq!(fails(&unknown)["kind"], "no-finding");

    let said: Value = serde_json::from_str(&ok(&accept("1d"))).unwrap();
    assert_eq!(said["trusted"], true);
    for verdict in [last(&client)["verdict"].clone(), round(&client, &mut node)] {
        assert_eq!(verdict["trusted"], true);
        let accepted = &verdict["accepted"][0];
        assert_eq!(
            (&accepted["finding"], &accepted["reason"]),
            (&id.as_str().into(), &"change 4711".into())
        );
        assert_eq!(
            (&accepted["statement"], &accepted["in_use"]),
            (&said["statement"], &true.into())
        );
    }
    let page = client.get("/").text();
    assert!(page.contains("Accepted findings.") && page.contains("change 4711"));
    let ear = client.get("/v1/nodes/worker-1/ear").text();
    let claims = ear.trim_matches('"').split('.').nth(1).unwrap().to_owned();
    use base64::Engine as _;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["submods"][pod(4).to_string()]["ear_status"], "warning");

    // Another content at the same path is another finding.
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"worse"));
    assert_eq!(
        state_of(&round(&client, &mut node), &pod(4).to_string()),
        "untrusted"
    );
}

#[test]
fn an_accepted_finding_does_not_outlive_its_end_its_boot_or_its_key() {
    let site = Site::new();
    let (server, client) = site.serve(&[]);
    let mut node = tampered(&site, &client);
    let id = finding(&site);
    ok(&site.node(&["accept", "worker-1", &id, "--reason", "for now", "--until", "1d"]));
    assert_eq!(round(&client, &mut node)["trusted"], true);
    // Not signed by this service's key: it accepts nothing.
    drop(server);
    let key = site.store().join("verdict.key");
    let other = Site::new();
    let mine = std::fs::read(&key).unwrap();
    std::fs::copy(other.store().join("verdict.key"), &key).unwrap();
    let (server, client) = site.serve(&[]);
    assert_eq!(round(&client, &mut node)["trusted"], false);
    drop(server);
    std::fs::write(&key, mine).unwrap();
    let (_server, client) = site.serve(&[]);
    assert_eq!(round(&client, &mut node)["trusted"], true);
    // The same finding after a reboot is not accepted.
    node.reboot();
    node.load();
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"hotfix"));
    let verdict = round(&client, &mut node);
    assert_eq!(state_of(&verdict, &pod(4).to_string()), "untrusted", "{verdict}");
    assert_eq!(verdict["accepted"], Value::Array(vec![]));
}

#[test]
fn a_stopped_node_gets_no_nonce_and_gives_no_verdict_until_it_is_reactivated() {
    let site = Site::new();
    let (_server, client) = site.serve(&[]);
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let nonce = client.nonce("worker-1").unwrap();
    ok(&site.node(&["stop", "worker-1"]));
    let refused = client.send("POST", "/v1/nodes/worker-1/nonce", "", b"").unwrap();
    assert_eq!(refused.kind(), (409, "stopped".into()));
    let evidence = node.attest(&nonce).to_cbor();
    assert_eq!(
        client.submit("worker-1", &evidence).unwrap().kind(),
        (409, "stopped".into())
    );
    ok(&site.node(&["reactivate", "worker-1"]));
    assert_eq!(
        client.submit("worker-1", &evidence).unwrap().json()["trusted"],
        true
    );
}

#[test]
fn explain_walks_from_the_verdict_to_the_key_and_to_the_reference_value() {
    let site = Site::new();
    let (_server, client) = site.serve(&[]);
    let node = tampered(&site, &client);
    let (_, steps) = explain(&site, &[&finding(&site)[..10]]);
    let steps = steps.as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|s| s["what"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "verdict",
            "finding",
            "record",
            "entry",
            "checkpoint",
            "register",
            "quote",
            "key",
            "reference"
        ]
    );
    let text = |what: &str| {
        let step = steps.iter().find(|s| s["what"] == what).unwrap();
        step["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l.as_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(text("verdict").contains(&pod(4).to_string()));
    assert!(text("record").contains(&format!("partition {}", pod(4))) && text("record").contains("/bin/app"));
    assert!(text("entry").contains(&sha256(b"hotfix").to_string()));
    assert!(text("checkpoint").contains("its file stands in the list as entry"));
    assert!(text("register").contains("is covered by it"));
    assert!(text("quote").contains("nonce"));
    assert!(text("key").contains(&hex::encode(node.ak.name())));
    assert!(text("reference").contains("accepts sha256:"));
}

#[test]
fn lint_diff_and_suggest_show_what_is_weak_what_differs_and_what_would_be_added() {
    let site = Site::new();
    let (_server, client) = site.serve(&[]);
    let node = tampered(&site, &client);
    let policy = site.path("policy-worker-1").join("node.yaml");
    let policy = policy.to_str().unwrap();
    let store = site.store();
    let store = store.to_str().unwrap();

    let patch = ok(&["policy", "suggest", policy, "--from", store]);
    let file = site.path("policy-worker-1").join(format!("{}.json", pod(4)));
    assert!(patch.contains(&format!("+++ {}", file.display())), "{patch}");
    assert!(
        patch
            .lines()
            .any(|l| l.starts_with('+') && l.contains(&sha256(b"hotfix").to_string())),
        "{patch}"
    );
    let text = std::fs::read(&file).unwrap();
    // Nothing was applied; the tool that people have for that applies it.
    assert_eq!(text, node.reference(&format!("{}.json", pod(4))).unwrap());
    std::fs::write(site.path("p.patch"), &patch).unwrap();
    let kept = site.path("kept.json");
    std::fs::write(&kept, &text).unwrap();
    let applied = std::process::Command::new("patch")
        .args(["--batch", "-p0", "-d", "/", "-i"])
        .arg(site.path("p.patch"))
        .output()
        .expect("patch is needed");
    assert!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stdout)
    );
    ok(&["policy", "test", policy, "--against", store]);
    let diff = cgpath(&["policy", "diff", kept.to_str().unwrap(), file.to_str().unwrap()]);
    assert_eq!(diff.status.code(), Some(1));
    let shown = String::from_utf8(diff.stdout).unwrap();
    assert!(
        shown.contains(&format!("  + /bin/app {}", sha256(b"hotfix"))),
        "{shown}"
    );
    ok(&["policy", "diff", policy, policy]);

    let yaml = std::fs::read_to_string(policy).unwrap();
    let references = format!("references: [{}.json]", pod(4));
    let yaml = yaml.replace(&references, &format!("{references}, excludes: ['/(bin|tmp)/']"));
    std::fs::write(policy, yaml).unwrap();
    let lint = cgpath(&["policy", "lint", policy, "--against", store]);
    assert_eq!(lint.status.code(), Some(1));
    let shown = String::from_utf8(lint.stdout).unwrap();
    for words in [
        "of 2 paths with a reference value",
        "hides new files, for example /tmp/intruder",
        "only begins so",
        "measured entries and executions",
        "more than one content",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}
