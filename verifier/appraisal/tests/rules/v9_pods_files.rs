//! V9: what each pod ran.

use super::*;

#[test]
fn a_tampered_pod_is_named_with_path_and_hashes_and_leaves_the_others_and_the_node_trusted() {
    let mut node = busy();
    let found = sha256(b"tampered");
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &found);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Trusted, State::Trusted, State::Untrusted]
    );
    let finding = fails(&verdict, Rule::PodContents, "not the one that the policy accepts");
    assert_eq!(finding.path.as_deref(), Some(&b"/bin/app"[..]));
    assert_eq!(finding.found, Some(found.to_string()));
    assert_eq!(finding.expected, [sha256(b"4/bin/app").to_string()]);
    let table = verdict.to_string();
    assert!(
        table.contains("/bin/app") && table.contains(&found.to_string()),
        "{table}"
    );
    assert!(verdict.state.is_some());
}

#[test]
fn two_pods_of_one_image_both_show_every_file_though_ima_lists_it_once() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let files = |n| -> Vec<Vec<u8>> {
        verdict
            .pod(pod(n))
            .unwrap()
            .files
            .iter()
            .map(|f| f.path.clone())
            .collect()
    };
    assert_eq!(files(1), files(2));
    assert_eq!(files(1), [b"/bin/app".to_vec(), b"/lib/libc.so".to_vec()]);
    let listed = node
        .list
        .iter()
        .filter(|m| m.data.ends_with(b"/bin/app\0"))
        .count();
    assert_eq!(listed, 3, "four pods, three contents");
}

#[test]
fn one_entry_is_appraised_for_each_pod_that_used_it() {
    let mut node = busy();
    // Good for pod 1, whose entry stands first; pod 3 has no such file.
    node.execute(&Actor::pod(pod(3), "/bin/app"), "/bin/app", &sha256(b"1/bin/app"));
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Trusted, State::Untrusted, State::Trusted]
    );
}

#[test]
fn an_execution_without_an_entry_is_appraised_by_its_own_hash() {
    for kind in [
        EventKind::Execution,
        EventKind::Script,
        EventKind::Mapping,
        EventKind::LateMapping,
    ] {
        let mut node = busy();
        let actor = Actor::pod(pod(3), "/bin/app");
        node.record_execution(&actor, kind, "/bin/app", FileHash::Measured(sha256(b"3/bin/app")));
        let good = node.clone().attest(NONCE);
        assert!(appraised(&node, &good).trusted);
        node.record_execution(&actor, kind, "/bin/app", FileHash::Measured(sha256(b"1/bin/app")));
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        assert_eq!(
            verdict.pod(pod(3)).unwrap().state,
            State::Untrusted,
            "{kind:?}\n{verdict}"
        );
        assert_eq!(verdict.node.state, State::Trusted);
    }
}

#[test]
fn what_was_executed_without_a_hash_or_with_half_a_path_is_not_trusted() {
    let mut node = busy();
    node.record_execution(
        &Actor::pod(pod(3), "/bin/app"),
        EventKind::LateMapping,
        "/bin/app",
        FileHash::Unhashed(-95),
    );
    let evidence = node.attest(NONCE);
    assert_eq!(
        fails(&appraised(&node, &evidence), Rule::PodContents, "no hash")
            .found
            .unwrap(),
        "no hash, error -95"
    );

    let mut node = busy();
    node.execute_good(&Actor::pod(pod(3), "/bin/app"), "/bin/app");
    node.waiting.last_mut().unwrap().1.path_cut = true;
    let evidence = node.attest(NONCE);
    fails(
        &appraised(&node, &evidence),
        Rule::PodContents,
        "could not be read whole",
    );
}

#[test]
fn a_file_that_no_reference_has_is_refused_and_where_its_content_belongs_is_said() {
    let mut node = busy();
    node.execute(&Actor::pod(pod(3), "/bin/app"), "/tmp/app", &sha256(b"3/bin/app"));
    let evidence = node.attest(NONCE);
    let finding = fails(
        &appraised(&node, &evidence),
        Rule::PodContents,
        "no reference value has a file at this path",
    );
    assert_eq!(finding.expected, ["this content at /bin/app"]);
}

#[test]
fn a_suspect_record_never_lets_its_pod_be_trusted_whatever_it_ran() {
    let mut node = busy();
    node.execute_good(&Actor::intruder(pod(3), "/bin/app"), "/bin/app");
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let finding = fails(&verdict, Rule::PodContents, "suspect");
    assert_eq!(finding.found.as_deref(), Some("process /bin/app"));
    assert_eq!(verdict.node.suspect, 2);
    assert_eq!(verdict.node.state, State::Trusted);
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Trusted, State::Untrusted, State::Trusted]
    );
}

#[test]
fn an_empty_ancestry_is_suspect() {
    let mut node = busy();
    node.execute_good(&Actor::pod(pod(3), "/bin/app"), "/bin/app");
    node.waiting.last_mut().unwrap().1.ancestry.clear();
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), Rule::PodContents, "suspect");
}

#[test]
fn verdicts_that_rest_on_learned_values_say_so() {
    let mut node = busy();
    node.learned = true;
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted && verdict.learned && verdict.pods.iter().all(|p| p.learned));
    assert!(verdict.to_string().contains("LEARNED"));
}
