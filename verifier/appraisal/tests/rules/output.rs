//! What a verdict prints, and its JSON.

use super::*;

#[test]
fn the_json_shape_is_the_documented_one_and_is_read_back() {
    let mut node = busy();
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"tampered"));
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let json = serde_json::to_value(&verdict).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let top = [
        "accepted",
        "dangerous",
        "learned",
        "node",
        "pods",
        "policy",
        "relaxations",
        "start",
        "time",
        "trusted",
        "version",
    ];
    assert_eq!(keys(&json), top);
    let node = [
        "anchor",
        "believed",
        "boot",
        "boot_entries",
        "boot_id",
        "checkpoint",
        "checkpoint_sha256",
        "covered",
        "entries",
        "excluded",
        "executions",
        "filehash_err",
        "findings",
        "fnf",
        "kernel",
        "key",
        "lost",
        "name",
        "notes",
        "pending",
        "records",
        "state",
        "suspect",
        "tier",
        "unattributed",
    ];
    assert_eq!(keys(&json["node"]), node);
    let pod = [
        "charged",
        "entries",
        "excluded",
        "executions",
        "filehash_err",
        "files",
        "findings",
        "fnf",
        "learned",
        "name",
        "provenance",
        "state",
        "suspect",
        "uid",
    ];
    assert_eq!(keys(&json["pods"][3]), pod);
    assert_eq!(
        keys(&json["pods"][3]["files"][0]),
        ["accepted", "digest", "entries", "executions", "path"]
    );
    let finding = [
        "expected",
        "found",
        "index",
        "path",
        "provenance",
        "rule",
        "seq",
        "severity",
        "subject",
        "text",
    ];
    assert_eq!(keys(&json["pods"][3]["findings"][0]), finding);
    let read: Verdict = serde_json::from_value(json).unwrap();
    assert_eq!(
        read,
        Verdict {
            state: None,
            ..verdict
        }
    );
}

#[test]
fn what_others_chose_can_not_command_the_readers_terminal() {
    let mut node = busy();
    let nasty = "\u{1b}[2J\u{202e}";
    node.execute(&Actor::pod(pod(5), nasty), format!("/{nasty}"), &sha256(b"x"));
    node.execute(
        &Actor::intruder(pod(4), nasty),
        format!("/{nasty}"),
        &sha256(b"x"),
    );
    node.pods = vec![cgpath_evidence::PodInfo {
        uid: pod(5),
        namespace: nasty.into(),
        name: nasty.into(),
    }];
    let mut evidence = node.attest(NONCE);
    evidence.node = nasty.into();
    let table = appraised(&node, &evidence).to_string();
    assert!(table.contains("[2J"), "{table:?}");
    assert!(
        !table.contains('\u{1b}') && !table.contains('\u{202e}'),
        "{table:?}"
    );
}

#[test]
fn a_flood_of_findings_is_cut_and_said_and_changes_no_verdict() {
    let mut node = busy();
    for n in 0..600 {
        node.execute(
            &Actor::pod(pod(4), "/bin/app"),
            format!("/tmp/{n}"),
            &sha256(b"x"),
        );
    }
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let found = &verdict.pod(pod(4)).unwrap().findings;
    assert_eq!(found.len(), cgpath_appraisal::MAX_FINDINGS + 1);
    assert!(
        found.last().unwrap().text.contains("500 more"),
        "{:?}",
        found.last()
    );
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Trusted, State::Trusted, State::Untrusted]
    );
}

#[test]
fn files_of_pods_older_than_the_collector_may_stand_in_the_boots_part_of_the_list() {
    let boot = |predating: Vec<cgpath_evidence::PodUid>| {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.predating = predating;
        let entry = Measurement::ima_ng(b"/bin/app", &sha256(b"3/bin/app"));
        load_after(&mut node, entry);
        let evidence = node.attest(NONCE);
        appraised(&node, &evidence)
    };
    assert_eq!(boot(vec![pod(3)]).node.state, State::Trusted);
    fails(&boot(vec![pod(4)]), Rule::Host, "no reference value");
    fails(&boot(vec![]), Rule::Host, "no reference value");
}

#[test]
fn what_a_node_calls_itself_is_noted_where_it_is_another_name_and_fails_nothing() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    let is_noted = |verdict: &Verdict| {
        verdict
            .node
            .notes
            .iter()
            .any(|note| note.contains("calls itself"))
    };
    assert!(!is_noted(&appraised(&node, &evidence)));
    evidence.node = "another".into();
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted && is_noted(&verdict), "{verdict}");
}

#[test]
fn whose_an_entry_is_rests_on_records_in_the_tier_that_has_no_more() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let observed = cgpath_evidence::Provenance::Observed;
    assert!(
        verdict.pods.iter().all(|pod| pod.provenance == observed),
        "{verdict}"
    );
}

#[test]
fn a_pods_uid_is_shown_as_its_cgroup_has_it() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    let uid = pod(2).undashed();
    let actor = Actor {
        cgroup: Some(format!("/kubepods/burstable/pod{uid}/{}", "c".repeat(64)).into_bytes()),
        ..Actor::pod(pod(2), "/bin/app")
    };
    node.execute_good(&actor, "/bin/app");
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.pod(pod(2)).unwrap().undashed, "{verdict}");
    assert!(!verdict.pod(pod(1)).unwrap().undashed, "{verdict}");
}
