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

/// As `ld.so` maps it, a library is one or the other.
#[test]
fn a_mapping_that_is_writable_and_executable_at_once_is_refused_whatever_its_content_is() {
    let words = "mapped writable and executable at once";
    let hosts = Actor::host("/usr/bin/tool");
    let pods = Actor::pod(pod(3), "/bin/app");
    for kind in [EventKind::Mapping, EventKind::LateMapping] {
        let of_pod = (&pods, "/bin/app", Rule::PodContents, State::Trusted);
        let of_host = (&hosts, "/usr/bin/tool", Rule::Host, State::Untrusted);
        for (actor, path, rule, of_node) in [of_pod, of_host] {
            let mut node = busy();
            let content = if rule == Rule::Host {
                path.to_owned()
            } else {
                format!("3{path}")
            };
            let good = FileHash::PreCheck(sha256(content.as_bytes()));
            node.record_execution(actor, kind, path, good);
            let plain = node.clone().attest(NONCE);
            assert!(appraised(&node, &plain).trusted);
            node.waiting.last_mut().unwrap().1.writable = true;
            let seq = node.waiting.last().unwrap().1.seq;
            let evidence = node.attest(NONCE);
            let verdict = appraised(&node, &evidence);
            let finding = fails(&verdict, rule, words);
            assert_eq!(finding.path.as_deref(), Some(path.as_bytes()));
            assert_eq!(finding.seq, Some(seq));
            assert_eq!(verdict.failures().count(), 1, "{verdict}");
            assert_eq!(verdict.node.state, of_node, "{verdict}");
            let others = verdict.pods.iter().filter(|shown| shown.uid != pod(3));
            assert!(
                others.clone().all(|shown| shown.state == State::Trusted),
                "{verdict}"
            );
        }
    }
}

/// Each such mapping is a finding of its own, so that a waiver of one is none of the next.
#[test]
fn each_writable_mapping_of_one_file_is_a_finding_beside_what_its_content_is() {
    let mut node = busy();
    let app = Actor::pod(pod(3), "/bin/app");
    for hash in [FileHash::PreCheck(sha256(b"evil")), FileHash::Unhashed(0)] {
        node.record_execution(&app, EventKind::LateMapping, "/bin/app", hash);
        node.waiting.last_mut().unwrap().1.writable = true;
    }
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let count = |words: &str| verdict.failures().filter(|f| f.text.contains(words)).count();
    assert_eq!(count("mapped writable and executable at once"), 2, "{verdict}");
    assert_eq!(count("not the one that the policy accepts"), 1, "{verdict}");
    assert_eq!(count("no hash"), 1, "{verdict}");
}

#[test]
fn a_record_of_something_else_that_says_it_is_a_writable_mapping_is_refused() {
    for kind in [EventKind::Execution, EventKind::Script, EventKind::Entry] {
        let mut node = busy();
        let app = Actor::pod(pod(3), "/bin/app");
        if kind == EventKind::Entry {
            node.measure(&app, "/bin/app", &sha256(b"3/bin/app"));
        } else {
            node.record_execution(&app, kind, "/bin/app", FileHash::Measured(sha256(b"3/bin/app")));
        }
        node.waiting.last_mut().unwrap().1.writable = true;
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        fails(&verdict, Rule::PodContents, "of something else than a mapping");
        assert_eq!(verdict.pod(pod(3)).unwrap().state, State::Untrusted, "{verdict}");
    }
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

#[test]
fn why_a_file_has_no_hash_is_said_with_the_setting_that_is_to_blame() {
    for (error, said) in [
        (-27, Some("bpf.max_hash_mib")),
        (-66, Some("bpf.hash_served")),
        (-5, None),
    ] {
        let mut node = busy();
        let (actor, hash) = (Actor::pod(pod(2), "/bin/app"), FileHash::Unhashed(error));
        node.record_execution(&actor, EventKind::Execution, "/bin/app", hash);
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        let finding = fails(&verdict, Rule::PodContents, "no hash to judge it by");
        let found = finding.found.clone().unwrap();
        assert!(found.contains(&format!("error {error}")), "{found}");
        assert_eq!(found.contains("bpf."), said.is_some(), "{found}");
        assert!(said.is_none_or(|said| found.contains(said)), "{found}");
        // Another content than a file's would be expected of memory alone.
        assert!(finding.expected.is_empty(), "{finding}");
    }
}
