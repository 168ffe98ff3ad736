//! `cgpath policy to-corim` and `from-corim`: a node's policy goes through a manifest and judges as before.

use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
use p256::{
    SecretKey,
    pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding},
};
use std::process::{Command, Output};

const NONCE: &[u8] = b"the nonce of this request";

struct Folder {
    dir: tempfile::TempDir,
    node: Node,
}

impl Folder {
    fn new() -> Folder {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        node.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &sha256(b"evil"));
        let evidence = node.attest(NONCE);
        let folder = Folder {
            dir: tempfile::tempdir().unwrap(),
            node,
        };
        folder.write("evidence.cbor", &evidence.to_cbor());
        folder.write("ak.pub", &folder.node.ak.public());
        folder.write("node.yaml", folder.node.policy_yaml().as_bytes());
        for name in ["host.json".to_owned()]
            .into_iter()
            .chain((1..=4).map(|n| format!("{}.json", pod(n))))
        {
            folder.write(&name, &folder.node.reference(&name).unwrap());
        }
        for (name, n) in [("signer", 5), ("other", 6)] {
            let key = SecretKey::from_slice(&[n; 32]).unwrap();
            let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap();
            folder.write(&format!("{name}.pem"), pem.as_bytes());
            let pem = key.public_key().to_public_key_pem(LineEnding::LF).unwrap();
            folder.write(&format!("{name}.pub.pem"), pem.as_bytes());
        }
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8(std::fs::read(self.dir.path().join(name)).unwrap()).unwrap()
    }

    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args(line.split(' '))
            .current_dir(&self.dir)
            .output()
            .unwrap()
    }

    /// What it prints, where it must succeed.
    fn good(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says, where it must fail.
    fn refused(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "{line}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The verdict by a policy, without what names the policy itself.
    fn verdict(&self, policy: &str) -> serde_json::Value {
        let nonce = hex::encode(NONCE);
        let output = self.run(&format!(
            "--json verify evidence.cbor --policy {policy} --ak ak.pub --nonce {nonce}"
        ));
        let mut verdict: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        verdict.as_object_mut().unwrap().remove("policy");
        verdict
    }
}

#[test]
fn a_policy_that_went_through_a_signed_manifest_appraises_as_before() {
    let folder = Folder::new();
    let said = folder.good("policy to-corim node.yaml --key signer.pem --signer Example -o node.corim");
    assert!(
        said.contains("5 sets of reference values") && said.contains("signed"),
        "{said}"
    );
    assert!(said.contains("left out: accept: "), "{said}");
    let said = folder.good("policy from-corim node.corim --key signer.pub.pem -o values");
    assert!(said.contains("signed as \"Example\""), "{said}");
    // What a manifest does not say comes from the policy's own text: all before `host`, and what follows the
    // pods.
    let before = folder.node.policy_yaml();
    let kept: String = before
        .lines()
        .take_while(|line| !line.starts_with("host:"))
        .chain(before.lines().filter(|line| line.starts_with("dangerous-")))
        .flat_map(|line| [line, "\n"])
        .collect();
    folder.write(
        "values/node.yaml",
        (kept + &folder.read("values/policy-part.yaml")).as_bytes(),
    );
    let (before, after) = (folder.verdict("node.yaml"), folder.verdict("values/node.yaml"));
    let states = |verdict: &serde_json::Value| -> Vec<(String, String)> {
        let pods = verdict["pods"].as_array().unwrap().iter();
        pods.map(|pod| {
            (
                pod["uid"].as_str().unwrap().into(),
                pod["state"].as_str().unwrap().into(),
            )
        })
        .collect()
    };
    assert_eq!(states(&before)[0].1, "trusted", "{before:#}");
    assert_eq!(states(&before)[1].1, "untrusted");
    assert_eq!(states(&before), states(&after));
    assert_eq!(before["findings"], after["findings"]);
}

#[test]
fn a_manifest_without_a_signature_is_read_on_demand_only() {
    let folder = Folder::new();
    let files = format!("host.json {}.json", pod(1));
    let said = folder.good(&format!(
        "--json policy to-corim {files} --id urn:x -o values.corim"
    ));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&said["signed"], &said["references"], &said["id"]),
        (&false.into(), &2.into(), &"urn:x".into())
    );
    let error = folder.refused("policy from-corim values.corim -o values");
    assert!(error.contains("--key"), "{error}");
    let error = folder.refused("policy from-corim values.corim --key signer.pub.pem -o values");
    assert!(error.contains("it is not signed"), "{error}");
    assert!(
        !folder.dir.path().join("values").exists(),
        "nothing is written before the signature is checked"
    );
    let said = folder.good("policy from-corim values.corim --dangerous-no-signature -o values");
    assert!(said.contains("nothing vouches for these values"), "{said}");
    assert!(said.contains("names no node and no pod"), "{said}");
}

#[test]
fn the_signature_of_somebody_else_is_refused_and_so_is_a_cut_file() {
    let folder = Folder::new();
    folder.good("policy to-corim node.yaml --key other.pem -o node.corim");
    let error = folder.refused("policy from-corim node.corim --key signer.pub.pem -o values");
    assert!(
        error.contains("not by this key") && error.contains("hint"),
        "{error}"
    );
    let bytes = std::fs::read(folder.dir.path().join("node.corim")).unwrap();
    folder.write("cut.corim", &bytes[..bytes.len() / 2]);
    let error = folder.refused("policy from-corim cut.corim --key other.pub.pem -o values");
    assert!(error.contains(&format!("offset {}", bytes.len() / 2)), "{error}");
    let error = folder.refused("policy to-corim node.yaml host.json -o x.corim");
    assert!(error.contains("give it alone"), "{error}");
    let error = folder.refused("policy to-corim node.yaml --signer me -o x.corim");
    assert!(error.contains("--key"), "{error}");
}
