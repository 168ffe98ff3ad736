//! The kernel tier, by the rules that differ there.

use super::*;

fn tagged() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.tier = Tier::Kernel;
    node.accept_templates = "[ima-cgpath]".into();
    node.list.clear();
    node.waiting.clear();
    let kernel = Actor {
        cgroup: Some(b"/".to_vec()),
        exes: vec![b"swapper/0".to_vec()],
    };
    node.measure(&kernel, "boot_aggregate", &sha256(b"pcrs 0 to 9"));
    for path in ["/sbin/init", IMA_POLICY, COLLECTOR] {
        node.measure(&Actor::host("/sbin/init"), path, &sha256(path.as_bytes()));
    }
    for n in 1..=4 {
        node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
    }
    node
}

#[test]
fn entries_are_partitioned_by_their_own_path_and_the_verdict_rests_on_what_is_attested() {
    let mut node = tagged();
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.pods.len(), 4);
    assert!(
        verdict
            .pods
            .iter()
            .all(|p| p.provenance == cgpath_evidence::Provenance::Attested)
    );
    assert!(
        verdict.node.findings.iter().all(|f| f.rule != Rule::Records),
        "{verdict}"
    );
}

#[test]
fn a_tampered_an_unknown_and_a_suspect_pod_are_found() {
    let mut node = tagged();
    node.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &sha256(b"evil"));
    node.execute_good(&Actor::intruder(pod(3), "/bin/app"), "/lib/libc.so");
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Untrusted, State::Untrusted, State::Trusted]
    );
    node.execute(&Actor::pod(pod(7), "/bin/app"), "/bin/app", &sha256(b"1/bin/app"));
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), Rule::KnownPods, &pod(7).to_string());
}

#[test]
fn what_the_kernel_escaped_in_a_tag_is_read_as_it_was() {
    let mut node = tagged();
    let nested = Actor {
        cgroup: Some(format!("/kubepods/pod{}/a b:c\\d", pod(2)).into_bytes()),
        exes: vec![
            b"/opt/my app".to_vec(),
            b"/usr/bin/containerd-shim-runc-v2".to_vec(),
        ],
    };
    node.measure(&nested, "/bin/app", &sha256(b"evil"));
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Untrusted, State::Trusted, State::Trusted]
    );
    assert!(verdict.pods.iter().all(|pod| pod.suspect == 0), "{verdict}");
}

#[test]
fn an_entry_without_a_cgroup_path_is_unattributed() {
    let mut node = tagged();
    node.measure(
        &Actor::lost("/sbin/init"),
        "/usr/bin/tool",
        &sha256(b"/usr/bin/tool"),
    );
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Records,
        "no usable cgroup path",
    );
    node.extra_policy += "tolerance: {unattributed: 1}\n";
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.unattributed, 1);
}

#[test]
fn only_the_lists_first_entry_may_be_the_boot_aggregate() {
    let mut node = tagged();
    node.measure(&Actor::host("/sbin/init"), "boot_aggregate", &sha256(b"anything"));
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), Rule::Host, "no reference value");
}

#[test]
fn a_violation_names_nobody_so_the_node_answers_for_it() {
    let mut node = tagged();
    let mut violation = Measurement::ima_cgpath("x", "/", b"/data", &Digest::zero(Bank::Sha256));
    violation.violation = true;
    node.list.push(violation);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    fails(&verdict, Rule::Violations, "written while it was measured");
    assert_eq!(verdict.node.state, State::Untrusted);
}

#[test]
fn where_records_come_along_both_must_agree_on_whose_an_entry_is() {
    let mut node = tagged();
    node.checkpoints.clear();
    node.seq = 0;
    node.boot_len = 4;
    for (_, record) in &node.waiting {
        assert!(record.seq > 0);
    }
    let records: Vec<_> = node.waiting.drain(..).skip(4).collect();
    node.waiting = records;
    node.seq = node.waiting.iter().map(|(_, r)| r.seq).max().unwrap();
    let mut swapped = node.clone();
    let with_records = |node: &mut Node| {
        node.seal(Some(NONCE));
        let quote = node.quote(NONCE);
        let kernel = node.evidence(quote.clone());
        node.tier = Tier::Bpf;
        let bpf = node.evidence(quote);
        node.tier = Tier::Kernel;
        Evidence {
            tier: Tier::Kernel,
            partitions: bpf.partitions,
            checkpoints: bpf.checkpoints,
            ..kernel
        }
    };
    let evidence = with_records(&mut node);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert!(
        verdict
            .pods
            .iter()
            .all(|p| p.provenance == cgpath_evidence::Provenance::Attested)
    );

    for (key, record) in &mut swapped.waiting {
        if *key == PartitionKey::Pod(pod(3)) {
            *key = PartitionKey::Host;
            record.cgroup = Some(b"/system.slice".to_vec());
        }
    }
    let evidence = with_records(&mut swapped);
    disbelieved(
        &appraised(&swapped, &evidence),
        Rule::Records,
        "disagree on whose it is",
    );
}
