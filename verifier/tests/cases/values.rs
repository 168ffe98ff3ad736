//! What people and other tools write into IMA policies and node policies, and values that come from lists.

use super::boot::NONCE;
use super::{Folder, given, judge};
use evidence::{Digest, Entry, EventKind, FileHash, ima_policy};
use std::path::Path;
use verifier::testing::{Actor, KeyKind, Measurement, Node, pod, sha256};

#[test]
fn every_name_that_the_kernel_has_for_a_rules_function_is_understood() {
    let mut wrong = Vec::new();
    for name in ["file-mmap", "path-check", "reqprot", "pcr"] {
        let text = std::fs::read_to_string(given("ima-policy-functions").join(name)).unwrap();
        match ima_policy::parse(&text) {
            Ok(rules) => assert_eq!(rules.len(), 1, "{name}"),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    let renamed = policy::ima::RECOMMENDED.replace("func=MMAP_CHECK", "func=FILE_MMAP");
    match ima_policy::parse(&renamed).map(|rules| ima_policy::missing(&rules)) {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => wrong.push(format!("FILE_MMAP: {missing:?}")),
        Err(error) => wrong.push(format!("FILE_MMAP: {error}")),
    }
    judge("ima-policy-functions", &wrong);
}

const WITH_SPACE: &str = "/opt/my app/run";

/// A node of which pod 1 executes `content` at `path`, as the kernel's list has it and the record.
fn executed(path: &str, content: &Digest) -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    let actor = Actor::pod(pod(1), "/bin/app");
    node.execute_good(&actor, "/bin/app");
    // Source: security/integrity/ima/ima_template_lib.c, spaces of a name become `_`.
    let listed = Measurement::ima_ng(path.replace(' ', "_").as_bytes(), content);
    node.list.push(listed.clone());
    node.record_entry(&actor, path, &listed, 0);
    node.record_execution(
        &actor,
        EventKind::Execution,
        path,
        FileHash::Measured(content.clone()),
    );
    node
}

#[test]
fn a_path_that_was_learned_from_a_list_is_the_one_with_a_space_that_the_kernel_wrote_so() {
    let content = sha256(b"script with a space");
    let folder = Folder::new();
    let known = executed(WITH_SPACE, &content).attest(NONCE);
    let list: Vec<u8> = known
        .list
        .iter()
        .flat_map(|entry| match entry {
            Entry::Full(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        })
        .collect();
    folder.write("list.bin", list);
    let learned = folder.cgpath(&["policy", "from-log", "list.bin", "-o", "learned.json"]);
    let mut wrong = Vec::from_iter(learned.wrong("from-log"));
    let node = Node::boot(KeyKind::EcdsaP256);
    let own = format!("references: [{}.json", pod(1));
    let policy = node.policy_yaml().replace(&own, &format!("{own}, learned.json"));
    folder.write("node.yaml", policy);
    folder.write("evidence.cbor", known.to_cbor());
    wrong.extend(folder.verify().wrong("verify"));
    judge("learned-path-with-a-space", &wrong);

    // The same content elsewhere, and another content here, are not what was learned.
    for (path, content) in [
        ("/opt/another app/run", &content),
        (WITH_SPACE, &sha256(b"another script")),
    ] {
        folder.write("evidence.cbor", executed(path, content).attest(NONCE).to_cbor());
        let verdict = folder.verify();
        assert_eq!(verdict.code, Some(1), "{path}: {}{}", verdict.out, verdict.err);
        assert!(verdict.out.contains("V9"), "{path}: {}", verdict.out);
    }
}

#[test]
fn a_static_pods_uid_is_taken_as_the_kubelet_writes_it_or_refused_with_the_form_that_is() {
    let policy = given("static-pod-uid").join("node.yaml");
    let ran = Folder::new().cgpath(&["policy", "check", policy.to_str().unwrap()]);
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/README.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let form = "8f6a44fc-62e8-cb07-5753-c843896568ca";
    let explained = ran.err.contains(form) && manual.contains("static pod");
    let wrong = ran.wrong("policy check").filter(|_| !explained);
    judge("static-pod-uid", &Vec::from_iter(wrong));
}

#[test]
fn the_attestation_key_is_taken_in_pem() {
    use p256::pkcs8::{EncodePublicKey as _, LineEnding};
    let mut node = Node::boot(KeyKind::EcdsaP256);
    // As cgpathd makes its keys: collector/src/tpm.rs.
    node.ak.attributes |= evidence::tpm::Attributes::NO_DA;
    let actor = Actor::pod(pod(1), "/bin/app");
    node.execute_good(&actor, "/bin/app");
    let folder = Folder::new();
    folder.write("evidence.cbor", node.attest(NONCE).to_cbor());
    folder.write("node.yaml", node.policy_yaml());
    let pem = |node: &Node| match evidence::tpm::Public::parse(&node.ak.public())
        .unwrap()
        .verifying_key()
    {
        Ok(evidence::tpm::VerifyingKey::P256(key)) => p256::PublicKey::from(key)
            .to_public_key_pem(LineEnding::LF)
            .unwrap(),
        other => panic!("{other:?}"),
    };
    folder.write("ak.pub", pem(&node));
    let ran = folder.verify();
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    folder.write("ak.pub", pem(&node).replace("PUBLIC KEY", "CERTIFICATE"));
    let ran = folder.verify();
    assert!(
        ran.code == Some(2) && ran.err.contains("CERTIFICATE"),
        "{}",
        ran.err
    );
    let mut other = Node::boot(KeyKind::EcdsaP256);
    other.ak = verifier::testing::AttestationKey::new(KeyKind::EcdsaP256, 77);
    folder.write("ak.pub", pem(&other));
    let ran = folder.verify();
    assert!(
        ran.code == Some(1) && ran.out.contains("V1"),
        "{}{}",
        ran.out,
        ran.err
    );
}
