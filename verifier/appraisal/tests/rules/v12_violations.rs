//! V12: violations.

use super::*;

#[test]
fn a_violation_makes_the_partition_that_its_record_names_untrusted_and_no_other() {
    let mut node = busy();
    node.violate(&Actor::pod(pod(2), "/bin/app"), "/var/log/a file with spaces");
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let finding = fails(&verdict, Rule::Violations, "written while it was measured");
    assert_eq!(finding.subject, Subject::Partition(PartitionKey::Pod(pod(2))));
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    // Beside the two of its files.
    assert_eq!(verdict.pod(pod(2)).unwrap().entries, 3);
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Untrusted, State::Trusted, State::Trusted]
    );
}

#[test]
fn a_violation_on_the_host_makes_the_node_untrusted_unless_the_policy_permits_the_path() {
    let mut node = busy();
    node.violate(&Actor::host("/sbin/init"), "/var/log/journal/x");
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    fails(&verdict, Rule::Violations, "written while it was measured");
    assert_eq!(verdict.node.state, State::Untrusted);
    node.extra_policy += "violations: {permit: ['/var/log/**']}\n";
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
}

#[test]
fn a_violation_with_no_record_makes_the_node_untrusted_even_where_its_path_is_permitted() {
    let mut node = busy();
    node.extra_policy += "violations: {permit: ['/var/log/**']}\n";
    node.list.push(Measurement::violation(b"/var/log/x"));
    node.seal(None);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    fails(&verdict, Rule::Violations, "has no record");
    assert_eq!(verdict.node.state, State::Untrusted);
}

#[test]
fn a_violation_record_with_no_violation_in_the_list_makes_the_node_untrusted() {
    let mut node = busy();
    node.violate(&Actor::pod(pod(2), "/bin/app"), "/data");
    node.list.pop();
    let evidence = node.attest(NONCE);
    fails(
        &appraised(&node, &evidence),
        Rule::Violations,
        "does not stand in the list",
    );
}

#[test]
fn violations_of_one_file_are_counted_one_by_one() {
    let mut node = busy();
    node.violate(&Actor::pod(pod(2), "/bin/app"), "/data");
    node.list.push(Measurement::violation(b"/data"));
    node.seal(None);
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), Rule::Violations, "has no record");
    // Each has its record: the pod answers for both, and the node for none.
    let mut node = busy();
    node.violate(&Actor::pod(pod(2), "/bin/app"), "/data");
    node.violate(&Actor::pod(pod(2), "/bin/app"), "/data");
    node.seal(None);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Untrusted, State::Trusted, State::Trusted]
    );
}

#[test]
fn a_violation_before_the_load_is_the_nodes_unless_permitted() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    load_after(&mut node, Measurement::violation(b"/run/x"));
    let evidence = node.attest(NONCE);
    let finding = fails(
        &appraised(&node, &evidence),
        Rule::Violations,
        "written while it was measured",
    );
    assert_eq!(finding.subject, Subject::Partition(PartitionKey::Boot));
    node.extra_policy += "violations: {permit: ['/run/*']}\n";
    assert!(appraised(&node, &evidence).trusted);
}
