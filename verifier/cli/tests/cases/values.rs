//! What people and other tools write into IMA policies and node policies, and values that come from lists.

use super::boot_logs::NONCE;
use super::{Folder, conclude, given};
use cgpath_evidence::{Digest, Entry, EventKind, FileHash, ima_policy};
use cgpath_testkit::{Actor, KeyKind, Measurement, Node, pod, sha256};

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
    let renamed = cgpath_policy::ima::RECOMMENDED.replace("func=MMAP_CHECK", "func=FILE_MMAP");
    match ima_policy::parse(&renamed).map(|rules| ima_policy::missing(&rules)) {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => wrong.push(format!("FILE_MMAP: {missing:?}")),
        Err(error) => wrong.push(format!("FILE_MMAP: {error}")),
    }
    conclude("ima-policy-functions", &wrong);
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
    conclude("learned-path-with-a-space", &wrong);

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
fn a_static_pods_uid_is_taken_as_the_kubelet_writes_it_and_with_dashes() {
    let folder = Folder::new();
    let policy = std::fs::read_to_string(given("static-pod-uid").join("node.yaml")).unwrap();
    for name in ["host.json", "etcd.json"] {
        folder.write(name, std::fs::read(given("static-pod-uid").join(name)).unwrap());
    }
    let (plain, dashed) = (
        "8f6a44fc62e8cb075753c843896568ca",
        "8f6a44fc-62e8-cb07-5753-c843896568ca",
    );
    let mut wrong = Vec::new();
    for form in [plain, dashed] {
        folder.write("node.yaml", policy.replace(plain, form));
        let ran = folder.cgpath(&["policy", "check", "node.yaml"]);
        wrong.extend(ran.wrong(form));
        // People see it as the policy has it, programs with dashes.
        if ran.code == Some(0) && !ran.out.contains(&format!("pod {form} kube-system/etcd")) {
            wrong.push(format!("{form}: {}", ran.out));
        }
        let json = folder.cgpath(&["policy", "check", "node.yaml", "--json"]);
        if !json.out.contains(&format!("\"{dashed}\"")) {
            wrong.push(format!("{form}: {}", json.out));
        }
    }
    conclude("static-pod-uid", &wrong);
    // Another case, other groups: no kubelet writes them.
    for form in [plain.to_uppercase(), format!("{}-{}", &plain[..16], &plain[16..])] {
        folder.write("node.yaml", policy.replace(plain, &form));
        let ran = folder.cgpath(&["policy", "check", "node.yaml"]);
        assert!(
            ran.code == Some(2) && ran.err.contains("kubernetes.io/config.hash"),
            "{form}: {}",
            ran.err
        );
    }
    // The same pod in both forms is one.
    let twice = format!("{policy}  - {{uid: {dashed}, name: b, references: [etcd.json]}}\n");
    folder.write(
        "node.yaml",
        twice.replace("dangerous-boot-not-judged: true\n", "") + "dangerous-boot-not-judged: true\n",
    );
    let ran = folder.cgpath(&["policy", "check", "node.yaml"]);
    assert!(ran.err.contains("stands twice"), "{}{}", ran.out, ran.err);
}

#[test]
fn people_see_a_static_pods_uid_as_its_cgroup_has_it() {
    let folder = Folder::new();
    let (plain, dashed) = (pod(1).undashed(), pod(1).to_string());
    // What the cgroup's path has, what the policy has, and what people see.
    for (path, policy, shown) in [
        (&plain, &dashed, &plain),
        (&dashed, &plain, &dashed),
        (&plain, &plain, &plain),
    ] {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        let mut actor = Actor::pod(pod(1), "/bin/app");
        actor.cgroup = Some(format!("/kubepods/pod{path}/{}", "c".repeat(64)).into_bytes());
        node.execute_good(&actor, "/bin/app");
        folder.write("evidence.cbor", node.attest(NONCE).to_cbor());
        let yaml = node
            .policy_yaml()
            .replace(&format!("uid: {dashed}"), &format!("uid: {policy}"));
        assert!(yaml.contains(&format!("uid: {policy}")), "{yaml}");
        folder.write("node.yaml", yaml);
        let ran = folder.verify();
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
        let row = |text: &String| ran.out.lines().any(|line| line.starts_with(text.as_str()));
        let other = if shown == &plain { &dashed } else { &plain };
        assert!(row(shown) && !row(other), "{path} {policy}: {}", ran.out);
        // Pods that were not seen: as the policy has them.
        assert!(row(&pod(2).to_string()), "{}", ran.out);
    }
}

#[test]
fn the_attestation_key_is_taken_in_pem() {
    use p256::pkcs8::{EncodePublicKey as _, LineEnding};
    let mut node = Node::boot(KeyKind::EcdsaP256);
    // As cgpathd makes its keys: collector/src/tpm/key.rs.
    node.ak.attributes |= cgpath_evidence::tpm::Attributes::NO_DA;
    let actor = Actor::pod(pod(1), "/bin/app");
    node.execute_good(&actor, "/bin/app");
    let folder = Folder::new();
    folder.write("evidence.cbor", node.attest(NONCE).to_cbor());
    folder.write("node.yaml", node.policy_yaml());
    let pem = |node: &Node| match cgpath_evidence::tpm::Public::parse(&node.ak.public())
        .unwrap()
        .verifying_key()
    {
        Ok(cgpath_evidence::tpm::VerifyingKey::P256(key)) => p256::PublicKey::from(key)
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
    other.ak = cgpath_testkit::AttestationKey::new(KeyKind::EcdsaP256, 77);
    folder.write("ak.pub", pem(&other));
    let ran = folder.verify();
    assert!(
        ran.code == Some(1) && ran.out.contains("V1"),
        "{}{}",
        ran.out,
        ran.err
    );
}
