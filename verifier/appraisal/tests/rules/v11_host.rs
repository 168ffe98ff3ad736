//! V11: the collector, its programs, the IMA policy, and what the host ran.

use super::*;
use cgpath_policy::{Reference, Source, SourceKind};

/// A node that boots with `change` made to its files' contents first.
fn boot_with(path: &str, content: Option<&[u8]>) -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.list.clear();
    node.list
        .push(Measurement::ima_ng(b"boot_aggregate", &sha256(b"pcrs 0 to 9")));
    for file in ["/sbin/init", IMA_POLICY, COLLECTOR] {
        let content = if file == path {
            content
        } else {
            Some(file.as_bytes())
        };
        if let Some(content) = content {
            node.list
                .push(Measurement::ima_ng(file.as_bytes(), &sha256(content)));
        }
    }
    node.load_again();
    node
}

#[test]
fn the_collector_must_stand_in_the_list_with_an_accepted_hash() {
    for content in [None, Some(&b"another collector"[..])] {
        let mut node = boot_with(COLLECTOR, content);
        let evidence = node.attest(NONCE);
        fails(&appraised(&node, &evidence), Rule::Host, "collector's executable");
    }
}

#[test]
fn an_accepted_ima_policy_must_stand_in_the_list() {
    for content in [None, Some(&b"another policy"[..])] {
        let mut node = boot_with(IMA_POLICY, content);
        let evidence = node.attest(NONCE);
        fails(&appraised(&node, &evidence), Rule::Host, "no accepted IMA policy");
    }
}

#[test]
fn what_stands_in_the_list_only_after_checkpoint_1_is_too_late() {
    for path in [COLLECTOR, IMA_POLICY] {
        let mut node = boot_with(path, None);
        node.seal(None);
        node.measure(&Actor::host("/sbin/init"), path, &sha256(path.as_bytes()));
        let evidence = node.attest(NONCE);
        fails(&appraised(&node, &evidence), Rule::Host, "before checkpoint 1");
    }
}

#[test]
fn what_ran_before_the_load_and_on_the_host_is_appraised() {
    let mut node = boot_with("/sbin/init", Some(b"another init"));
    let evidence = node.attest(NONCE);
    let finding = fails(
        &appraised(&node, &evidence),
        Rule::Host,
        "not the one that the policy accepts",
    );
    assert_eq!(finding.subject, Subject::Partition(PartitionKey::Boot));

    let mut node = busy();
    node.execute(
        &Actor::host("/sbin/init"),
        "/usr/bin/tool",
        &sha256(b"another tool"),
    );
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let finding = fails(&verdict, Rule::Host, "not the one that the policy accepts");
    assert_eq!(finding.subject, Subject::Partition(PartitionKey::Host));
    assert_eq!(verdict.node.state, State::Untrusted);

    // Of what has an accepted content at a path of which only the beginning is known.
    let mut node = busy();
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/runc");
    let record = &mut node.waiting.last_mut().unwrap().1;
    assert_eq!(record.kind, EventKind::Execution);
    record.path_cut = true;
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let finding = fails(&verdict, Rule::Host, "could not be read whole");
    assert_eq!(finding.subject, Subject::Partition(PartitionKey::Host));
}

#[test]
fn only_the_lists_first_entry_may_be_the_boot_aggregate() {
    let mut node = busy();
    node.measure(&Actor::host("/sbin/init"), "boot_aggregate", &sha256(b"anything"));
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), Rule::Host, "no reference value");

    let mut node = Node::boot(KeyKind::EcdsaP256);
    let entry = Measurement::ima_ng(b"boot_aggregate", &sha256(b"anything"));
    load_after(&mut node, entry);
    let evidence = node.attest(NONCE);
    let finding = fails(&appraised(&node, &evidence), Rule::Host, "no reference value");
    assert_eq!(finding.subject, Subject::Partition(PartitionKey::Boot));
}

#[test]
fn the_loaded_programs_and_the_stated_ima_policy_must_be_accepted_ones() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let yaml = |line: &str| {
        node.policy_yaml()
            .replace("  collector:", &format!("  {line}\n  collector:"))
    };
    let policy = |line: &str| {
        Policy::load("policy.yaml", yaml(line).as_bytes(), |name| {
            node.reference(name).ok_or_else(String::new)
        })
        .unwrap()
    };
    let object = Digest::new(Bank::Sha256, &[9; 32]).unwrap();
    let good = policy(&format!("bpf-objects: [\"{object}\"]"));
    assert!(
        appraise(&evidence, &good, &node.context(NONCE, None))
            .unwrap()
            .trusted
    );
    let other = policy(&format!("bpf-objects: [\"{}\"]", sha256(b"other")));
    fails(
        &appraise(&evidence, &other, &node.context(NONCE, None)).unwrap(),
        Rule::Host,
        "BPF object",
    );

    node.seal_with(Some(NONCE), |c| c.ima_policy = Some([8; 32]));
    let quote = node.quote(NONCE);
    let evidence = node.evidence(quote);
    fails(
        &appraised(&node, &evidence),
        Rule::Host,
        "IMA policy is not an accepted one",
    );
}

/// A record of a load, by somebody on the host and by a pod: in either case the kernel is the node's.
fn loaded(policy: &str, what: Loaded, hash: &FileHash) -> [Verdict; 2] {
    let by = [Actor::host("/usr/bin/kmod"), Actor::pod(pod(2), "/bin/app")];
    by.map(|actor| {
        let mut node = busy();
        node.extra_policy += policy;
        node.record_load(&actor, what, hash.clone());
        let evidence = node.attest(NONCE);
        appraised(&node, &evidence)
    })
}

#[test]
fn a_module_that_was_handed_over_as_bytes_is_accepted_by_its_content_alone() {
    // Bytes have no path: that of the reference value says nothing.
    for good in ["/usr/bin/tool", "/sbin/init"] {
        let hash = FileHash::Measured(sha256(good.as_bytes()));
        for verdict in loaded("", Loaded::Module, &hash) {
            assert!(verdict.trusted, "{verdict}");
        }
    }
    // One that a pod's values have is none for the kernel, and one byte more is another content.
    for content in ["1/bin/app", "/usr/bin/tool\n"] {
        let digest = sha256(content.as_bytes());
        let verdicts = loaded("", Loaded::Module, &FileHash::Measured(digest.clone()));
        for (verdict, by) in verdicts.iter().zip(["by host", &format!("by {}", pod(2))]) {
            let finding = fails(verdict, Rule::Host, "no reference value of the host has");
            assert_eq!(finding.subject, Subject::Node);
            let found = finding.found.unwrap();
            assert!(
                found.contains(&digest.to_string()) && found.contains(by),
                "{found}"
            );
            assert_eq!(verdict.failures().count(), 1, "{verdict}");
            assert_eq!(verdict.node.state, State::Untrusted);
            assert!(verdict.node.believed);
        }
    }
}

#[test]
fn a_module_without_a_hash_of_its_bytes_is_not_accepted_whatever_it_is() {
    let known = sha256(b"/usr/bin/tool");
    for (hash, why) in [
        (FileHash::Unhashed(-27), "error -27"),
        (FileHash::Unhashed(-14), "error -14"),
        (FileHash::Unhashed(0), "error 0"),
        (FileHash::PreCheck(known), "none that counts"),
    ] {
        for verdict in loaded("", Loaded::Module, &hash) {
            let finding = fails(&verdict, Rule::Host, "no hash to judge it by");
            assert_eq!(finding.subject, Subject::Node);
            assert!(finding.found.unwrap().contains(why), "{verdict}");
        }
    }
}

#[test]
fn a_kernel_that_was_handed_over_as_bytes_fails_unless_the_policy_allows_what_is_not_measured() {
    // Even if a hash came with it, that of an accepted content: it is not one of that kernel.
    for hash in [
        FileHash::Unhashed(0),
        FileHash::Measured(sha256(b"/usr/bin/tool")),
    ] {
        for policy in ["", "kexec: allow\n"] {
            for verdict in loaded(policy, Loaded::Kexec, &hash) {
                let finding = fails(&verdict, Rule::Host, "kexec_load was called");
                assert_eq!(finding.subject, Subject::Node);
            }
        }
        for verdict in loaded("kexec: allow-unmeasured\n", Loaded::Kexec, &hash) {
            assert!(verdict.trusted, "{verdict}");
            let said = |text: &&String| text.as_str() == "kexec: allow-unmeasured";
            assert_eq!(verdict.relaxations.iter().filter(said).count(), 1, "{verdict}");
            let is_it = |f: &&Finding| f.severity == Severity::Tolerated && f.rule == Rule::Host;
            assert_eq!(verdict.node.findings.iter().filter(is_it).count(), 1, "{verdict}");
        }
    }
}

#[test]
fn a_load_that_is_half_stated_fails_the_node() {
    let mut node = busy();
    let known = FileHash::Measured(sha256(b"/usr/bin/tool"));
    node.record_load(&Actor::host("/usr/bin/kmod"), Loaded::Module, known);
    node.waiting.last_mut().unwrap().1.load = None;
    let evidence = node.attest(NONCE);
    fails(
        &appraised(&node, &evidence),
        Rule::Host,
        "does not say what was loaded",
    );

    let mut node = busy();
    node.execute_good(&Actor::pod(pod(2), "/bin/app"), "/bin/app");
    let load = Load {
        what: Loaded::Module,
        size: 1,
    };
    node.waiting.last_mut().unwrap().1.load = Some(Box::new(load));
    let evidence = node.attest(NONCE);
    fails(
        &appraised(&node, &evidence),
        Rule::Host,
        "of another kind tells of a load",
    );
}

#[test]
fn that_the_host_ran_something_by_learned_values_is_said() {
    let path = b"/usr/bin/tool".to_vec();
    let hash = sha256(&path);
    let actor = Actor::host("/sbin/init");
    // Measured and executed, or one of both.
    let changes: [&dyn Fn(&mut Node); 3] = [
        &|node| node.execute_good(&actor, &path),
        &|node| node.measure(&actor, &path, &hash),
        &|node| {
            let hash = FileHash::Measured(hash.clone());
            node.record_execution(&actor, EventKind::Execution, &path, hash);
        },
    ];
    for change in changes {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        change(&mut node);
        is_said_to_be_learned(&mut node, &path);
    }
}

/// Of all that the host ran, one program is accepted by what was learned alone.
fn is_said_to_be_learned(node: &mut Node, path: &[u8]) {
    let evidence = node.attest(NONCE);
    assert!(!appraised(node, &evidence).learned);
    let mut learned = Reference::new(Source {
        kind: SourceKind::Log,
        name: "a list".into(),
        digest: None,
    });
    learned.insert(path.to_vec(), sha256(path)).unwrap();
    let mut json = Vec::new();
    learned.write_json(&mut json).unwrap();
    let mut installed = node.clone();
    installed.host_files.remove(path);
    let yaml = node
        .policy_yaml()
        .replace("[host.json]", "[host.json, learned.json]");
    let policy = Policy::load("policy.yaml", yaml.as_bytes(), |name| match name {
        "learned.json" => Ok(json.clone()),
        _ => installed.reference(name).ok_or_else(String::new),
    });
    let verdict = appraise(&evidence, &policy.unwrap(), &node.context(NONCE, None)).unwrap();
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert!(verdict.learned, "{verdict}");
}
