//! V8: pods that no policy knows.

use super::*;

#[test]
fn an_unknown_pod_makes_the_node_untrusted_by_name_and_leaves_the_others() {
    let mut node = busy();
    node.execute(&Actor::pod(pod(5), "/bin/app"), "/bin/app", &sha256(b"1/bin/app"));
    node.pods = vec![cgpath_evidence::PodInfo {
        uid: pod(5),
        namespace: "default".into(),
        name: "stranger".into(),
    }];
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.state, State::Untrusted);
    let finding = fails(&verdict, Rule::KnownPods, &pod(5).to_string());
    assert_eq!(finding.subject, Subject::Node);
    assert!(finding.text.contains("default/stranger"));
    assert_eq!(verdict.pod(pod(5)).unwrap().state, State::Unknown);
    assert_eq!(states(&verdict)[..4], [State::Trusted; 4]);
    assert!(verdict.state.is_some(), "the evidence itself is believed");
}

/// Pod 1 was there before the collector.
fn with_predating() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.predating = vec![pod(1)];
    node.load();
    node
}

#[test]
fn a_pod_older_than_the_collector_is_neither_trusted_nor_failed_unless_the_policy_says() {
    for (key, expected) in [
        ("", State::PredatesCollector),
        ("predating-pods: report\n", State::PredatesCollector),
        ("predating-pods: trust\n", State::Trusted),
        ("predating-pods: untrust\n", State::Untrusted),
    ] {
        let mut node = with_predating();
        node.extra_policy += key;
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        assert_eq!(verdict.pod(pod(1)).unwrap().state, expected, "{key}");
        assert_eq!(verdict.trusted, expected == State::Trusted);
    }
}

#[test]
fn a_pod_older_than_the_collector_shows_even_if_it_did_nothing_since() {
    let mut node = with_predating();
    let evidence = node.attest(NONCE);
    assert_eq!(
        appraised(&node, &evidence).pod(pod(1)).unwrap().state,
        State::PredatesCollector
    );
}

#[test]
fn a_pod_older_than_the_collector_that_no_policy_knows_is_unknown_all_the_same() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.predating = vec![pod(9)];
    node.load();
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), Rule::KnownPods, &pod(9).to_string());
}

#[test]
fn a_pod_older_than_the_collector_still_fails_for_what_it_ran_since() {
    let mut node = with_predating();
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil"));
    let evidence = node.attest(NONCE);
    assert_eq!(
        appraised(&node, &evidence).pod(pod(1)).unwrap().state,
        State::Untrusted
    );
}
