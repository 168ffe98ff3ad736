//! `cgpath verify` as a person or a script runs it: arguments, exit codes, what is written where.

use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

const NONCE: &[u8] = b"the nonce of this request";

/// A folder with evidence, policy, reference values and key of a node.
struct Folder {
    dir: tempfile::TempDir,
    node: Node,
}

impl Folder {
    fn new(change: impl FnOnce(&mut Node)) -> Folder {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        change(&mut node);
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder { dir, node };
        folder.attest(NONCE);
        folder
    }

    fn attest(&mut self, nonce: &[u8]) {
        let evidence = self.node.attest(nonce);
        self.write("evidence.cbor", &evidence.to_cbor());
        self.write("policy.yaml", self.node.policy_yaml().as_bytes());
        for name in std::iter::once("host.json".to_owned()).chain((1..=4).map(|n| format!("{}.json", pod(n))))
        {
            self.write(&name, &self.node.reference(&name).unwrap());
        }
        self.write("ak.pub", &self.node.ak.public());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .arg("verify")
            .args(args)
            .current_dir(&self.dir)
            .output()
            .unwrap()
    }

    /// With evidence, policy, key and nonce, and `more`.
    fn verify(&self, more: &[&str]) -> Output {
        let nonce = hex::encode(NONCE);
        self.run(
            &[
                &[
                    "evidence.cbor",
                    "--policy",
                    "policy.yaml",
                    "--ak",
                    "ak.pub",
                    "--nonce",
                    &nonce,
                ],
                more,
            ]
            .concat(),
        )
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn unusable(output: &Output, words: &str) {
    let err = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains(words), "{err}");
    assert!(output.stdout.is_empty());
}

#[test]
fn trusted_evidence_exits_0_and_prints_a_row_for_each() {
    let folder = Folder::new(|_| ());
    let output = folder.verify(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = out(&output);
    assert!(text.starts_with("NODE worker-1  trusted"), "{text}");
    assert!(
        text.contains(&pod(1).to_string()) && text.contains("boot: not judged"),
        "{text}"
    );
}

#[test]
fn states_are_coloured_where_colours_are_asked_for_and_nowhere_else() {
    let folder =
        Folder::new(|node| node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil")));
    let plain = out(&folder.verify(&[]));
    let coloured = out(&folder.verify(&["--color", "always"]));
    for words in ["  \x1b[32mtrusted\x1b[0m  tier ", "    \x1b[31mFAIL\x1b[0m: "] {
        assert!(coloured.contains(words), "{words:?}: {coloured:?}");
    }
    let row = |line: &str| line.starts_with(&pod(1).to_string()) && line.contains("\x1b[31mUNTRUSTED\x1b[0m");
    assert!(coloured.lines().any(row), "{coloured:?}");
    // A pipe is no terminal, and JSON has no colours.
    assert!(plain.contains("UNTRUSTED") && !plain.contains('\x1b'));
    assert_eq!(out(&folder.verify(&["--color", "never"])), plain);
    let mut without = coloured;
    for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"] {
        without = without.replace(code, "");
    }
    assert_eq!(without, plain);
    let json = out(&folder.verify(&["--color", "always", "--json"]));
    assert!(!json.contains('\x1b'));
}

#[test]
fn a_tampered_pod_exits_1_and_names_path_found_and_expected() {
    let folder =
        Folder::new(|node| node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil")));
    let output = folder.verify(&[]);
    assert_eq!(output.status.code(), Some(1));
    let text = out(&output);
    for words in [
        "UNTRUSTED",
        "/bin/app",
        &sha256(b"evil").to_string(),
        &sha256(b"1/bin/app").to_string(),
    ] {
        assert!(text.contains(words), "no {words} in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_slice(&folder.verify(&["--json"]).stdout).unwrap();
    assert_eq!(json["trusted"], false);
    assert_eq!(json["pods"][0]["state"], "untrusted");
    assert_eq!(json["pods"][0]["findings"][0]["rule"], "V9");
}

#[test]
fn a_fingerprint_is_as_good_as_the_file_and_another_one_exits_1() {
    let folder = Folder::new(|_| ());
    let nonce = hex::encode(NONCE);
    let name = hex::encode(folder.node.ak.name());
    let with = |ak: &str| {
        folder.run(&[
            "evidence.cbor",
            "--policy",
            "policy.yaml",
            "--nonce",
            &nonce,
            "--ak",
            ak,
        ])
    };
    assert_eq!(with(&name).status.code(), Some(0));
    let other = format!("{}{}", &name[..67], if name.ends_with('0') { '1' } else { '0' });
    assert_eq!(with(&other).status.code(), Some(1));
}

#[test]
fn what_is_left_out_must_be_left_out_by_a_dangerous_flag_that_the_output_repeats() {
    let folder = Folder::new(|_| ());
    let nonce = hex::encode(NONCE);
    unusable(
        &folder.run(&["evidence.cbor", "--policy", "policy.yaml", "--ak", "ak.pub"]),
        "nonce",
    );
    unusable(
        &folder.run(&["evidence.cbor", "--policy", "policy.yaml", "--nonce", &nonce]),
        "--ak",
    );
    let output = folder.run(&[
        "evidence.cbor",
        "--policy",
        "policy.yaml",
        "--dangerous-tofu",
        "--dangerous-no-nonce",
    ]);
    assert_eq!(output.status.code(), Some(0));
    assert!(out(&output).contains("DANGEROUS: dangerous-tofu"));
    assert!(out(&output).contains("DANGEROUS: dangerous-no-nonce"));
}

#[test]
fn unusable_input_exits_2_with_a_hint_and_with_json_as_an_object() {
    let folder = Folder::new(|_| ());
    let nonce = hex::encode(NONCE);
    let with = |evidence: &str, policy: &str, ak: &str, nonce: &str| {
        folder.run(&[evidence, "--policy", policy, "--ak", ak, "--nonce", nonce])
    };
    unusable(&with("absent.cbor", "policy.yaml", "ak.pub", &nonce), "hint");
    unusable(&with("policy.yaml", "policy.yaml", "ak.pub", &nonce), "hint");
    unusable(
        &with("evidence.cbor", "absent.yaml", "ak.pub", &nonce),
        "absent.yaml",
    );
    unusable(&with("evidence.cbor", "ak.pub", "ak.pub", &nonce), "ak.pub");
    unusable(
        &with("evidence.cbor", "policy.yaml", "policy.yaml", &nonce),
        "hint",
    );
    unusable(
        &with("evidence.cbor", "policy.yaml", "absent.pub", &nonce),
        "fingerprint",
    );
    unusable(&with("evidence.cbor", "policy.yaml", "ak.pub", "xyz"), "hex");
    unusable(
        &with("evidence.cbor", "policy.yaml", "ak.pub", "00"),
        "the nonce has 1 bytes",
    );
    let output = folder.run(&[
        "absent.cbor",
        "--policy",
        "policy.yaml",
        "--ak",
        "ak.pub",
        "--nonce",
        &nonce,
        "--json",
    ]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"].as_str().unwrap().contains("absent.cbor"));
}

#[test]
fn the_state_file_keeps_a_node_from_going_back() {
    let mut folder = Folder::new(|_| ());
    let early = folder.node.clone();
    assert_eq!(folder.verify(&["--state", "state.json"]).status.code(), Some(0));
    let first = std::fs::read(folder.path("state.json")).unwrap();
    // The same evidence again brings nothing new.
    let again = folder.verify(&["--state", "state.json"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(out(&again).contains("no checkpoint was made since"));
    assert_eq!(
        std::fs::read(folder.path("state.json")).unwrap(),
        first,
        "what is not believed is not remembered"
    );

    folder.attest(NONCE);
    assert_eq!(folder.verify(&["--state", "state.json"]).status.code(), Some(0));
    assert_ne!(std::fs::read(folder.path("state.json")).unwrap(), first);

    folder.node = early;
    folder.attest(NONCE);
    assert_eq!(folder.verify(&["--state", "state.json"]).status.code(), Some(1));

    folder.write("state.json", b"{}");
    unusable(&folder.verify(&["--state", "state.json"]), "state.json");
}

#[test]
fn the_attestation_result_is_written_whole_and_signed_by_the_key_given() {
    use p256::{SecretKey, pkcs8::EncodePrivateKey};
    let folder = Folder::new(|_| ());
    let key = SecretKey::from_slice(&[3; 32]).unwrap();
    folder.write(
        "ear.pem",
        key.to_pkcs8_pem(Default::default()).unwrap().as_bytes(),
    );
    assert_eq!(
        folder
            .verify(&["--ear", "ear.pem", "-o", "result.jwt"])
            .status
            .code(),
        Some(0)
    );
    let token = std::fs::read_to_string(folder.path("result.jwt")).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let signature =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signature).unwrap();
    let signature = p256::ecdsa::Signature::from_slice(&signature).unwrap();
    let verifying = p256::ecdsa::VerifyingKey::from(&key.public_key());
    p256::ecdsa::signature::Verifier::verify(&verifying, message.as_bytes(), &signature).unwrap();

    unusable(&folder.verify(&["--ear", "ear.pem"]), "--output");
    unusable(
        &folder.verify(&["--ear", "ak.pub", "-o", "other.jwt"]),
        "not a P-256 private key",
    );
    assert!(!Path::exists(&folder.path("other.jwt")));
    // No file of an odd name is left, and nothing is remembered of a run that failed.
    for (output, words) in [("-", "standard output"), (".", "is a directory")] {
        let args = ["--ear", "ear.pem", "--state", "state.json", "-o", output];
        unusable(&folder.verify(&args), words);
        for name in ["-", "-.new", "..new", "state.json"] {
            assert!(!folder.path(name).exists(), "{output}: {name}");
        }
    }
}

#[test]
fn a_usage_error_as_json_names_the_argument() {
    let folder = Folder::new(|_| ());
    let output = folder.run(&[
        "evidence.cbor",
        "--policy",
        "policy.yaml",
        "--nonce",
        "00",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["kind"], "usage");
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .ends_with(": --ak <FILE|FINGERPRINT>"),
        "{error}"
    );
}
