//! What was published against other verifiers, as far as the command can show it. The names are those of the
//! advisories.

use super::busy;
use crate::serve::site::{Site, appraised, fails, ok};
use cgpath_testkit::{AttestationKey, KeyKind, Node};

const NONCE: &[u8] = b"the nonce of this request";

/// CVE-2022-3500 (Keylime): what ends in an error has an exit code of its own, and no verdict on standard
/// output.
#[test]
fn cve_2022_3500_an_error_of_the_command_is_never_taken_for_trust() {
    let mut node = busy();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(dir.path().join(name), bytes).unwrap();
    let nonce = hex::encode(NONCE);
    let run = || {
        let ak = ["--ak", "ak.pub", "--nonce", &nonce, "--policy", "node.yaml"];
        std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args([&["verify", "evidence.cbor"][..], &ak].concat())
            .current_dir(&dir)
            .output()
            .unwrap()
    };
    let fill = |node: &mut Node| {
        write("evidence.cbor", node.attest(NONCE).to_cbor());
        write("ak.pub", node.ak.public());
        write("node.yaml", node.policy_yaml().into_bytes());
        for name in node
            .pod_files
            .keys()
            .map(ToString::to_string)
            .chain(["host".into()])
        {
            write(
                &format!("{name}.json"),
                node.reference(&format!("{name}.json")).unwrap(),
            );
        }
    };
    fill(&mut node);
    let good = run();
    assert_eq!(
        good.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&good.stderr)
    );
    let broken = ["evidence.cbor", "ak.pub", "node.yaml", "host.json"];
    for name in broken {
        for cut in [0, 1, 2] {
            fill(&mut node);
            let path = dir.path().join(name);
            match cut {
                0 => std::fs::remove_file(&path).unwrap(),
                1 => std::fs::write(&path, b"").unwrap(),
                _ => {
                    let bytes = std::fs::read(&path).unwrap();
                    // Half a policy can be a policy: what follows is none in any of these formats.
                    let torn = [&bytes[..bytes.len() / 2], b"\n\t["].concat();
                    std::fs::write(&path, torn).unwrap();
                }
            }
            let output = run();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(2), "{name}, {cut}: {said}");
            assert!(said.is_empty(), "{name}, {cut}: {said}");
            assert!(!output.stderr.is_empty(), "{name}, {cut}");
        }
    }
}

/// CVE-2025-13609 (Keylime): another TPM registered itself under a name that was taken. A name is given once,
/// by who runs the verifier, and evidence registers nothing.
#[test]
fn cve_2025_13609_a_taken_name_is_not_given_to_another_tpm() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let mut other = busy();
    other.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let policy = site.policy(&other, "worker-1");
    let key = site.path("other.ak");
    std::fs::write(&key, other.ak.public()).unwrap();
    let (key, policy) = (key.to_str().unwrap(), policy.to_str().unwrap());
    let refused = fails(&site.node(&["add", "worker-1", "--ak", key, "--policy", policy]));
    assert_eq!(refused["kind"], "node-exists", "{refused}");
    let (_, listed) = appraised(&site.node(&["list"]));
    assert_eq!(listed[0]["ak"], hex::encode(node.ak.name()));
    let (_server, client) = site.serve(&[]);
    let nonce = client.nonce("worker-1").unwrap();
    let answer = client
        .submit("worker-1", &other.attest(&nonce).to_cbor())
        .unwrap();
    assert_eq!(answer.kind(), (403, "unknown-key".into()));
    let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The other direction: one TPM under two names would be two nodes that are one machine. That may be meant,
/// so it is said and not refused.
#[test]
fn a_key_that_is_enrolled_under_a_second_name_is_named() {
    let site = Site::new();
    let mut node = busy();
    let enrol = |node: &Node, name: &str| -> serde_json::Value {
        let policy = site.policy(node, name);
        let key = hex::encode(node.ak.name());
        let args = ["add", name, "--ak", &key, "--policy", policy.to_str().unwrap()];
        serde_json::from_str(&ok(&site.node(&args))).unwrap()
    };
    assert!(enrol(&node, "worker-1").get("same_key").is_none());
    assert_eq!(
        enrol(&node, "worker-2")["same_key"],
        serde_json::json!(["worker-1"])
    );
    let policy = site.policy(&node, "worker-3");
    let key = site.path("ak.pub");
    std::fs::write(&key, node.ak.public()).unwrap();
    let mut args: Vec<std::ffi::OsString> = ["node", "add", "worker-3", "--ak"].map(Into::into).into();
    args.extend([key.into(), "--policy".into(), policy.into()]);
    args.extend(["--store".into(), site.store().into()]);
    let text = ok(&args);
    assert!(text.contains("SAME KEY as worker-1, worker-2"), "{text}");
    node.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    assert!(enrol(&node, "worker-4").get("same_key").is_none());
}
