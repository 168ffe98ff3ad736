//! Inputs as other firmware, boot loaders, runtimes and image tools write them, each with the outcome that is
//! right.
//!
//! Promise: a folder beside this file is a case, is tried, and comes out right: `expected` in it says what
//! that is, and why.
//! Not here: cases that our own formats have.

mod boot_logs;
mod images;
mod values;

use cgpath_testkit::{KeyKind, Node, pod};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the inputs and what is expected of them are.
fn given(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(case)
}

/// `wrong` is all that is not as it must be.
#[track_caller]
fn conclude(case: &str, wrong: &[String]) {
    let expected = std::fs::read_to_string(given(case).join("expected")).unwrap();
    assert!(wrong.is_empty(), "{case}: {wrong:#?}\nexpected:\n{expected}");
}

#[test]
fn every_folder_is_a_case_that_is_tried() {
    let sources = [
        include_str!("boot_logs.rs"),
        include_str!("images.rs"),
        include_str!("values.rs"),
    ]
    .concat();
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(given("")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            cases.push(entry.file_name().into_string().unwrap());
        }
    }
    assert!(cases.len() >= 11, "{cases:?}");
    for case in &cases {
        assert!(sources.contains(&format!("\"{case}\"")), "{case} is not tried");
    }
}

/// What a command did.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    /// Nothing where it succeeded, and what it said where not.
    fn wrong(&self, what: &str) -> Option<String> {
        (self.code != Some(0)).then(|| format!("{what}: exit {:?}: {}{}", self.code, self.out, self.err))
    }
}

/// A folder with a node's key, policy and reference values, where commands run.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Folder {
        let node = Node::boot(KeyKind::EcdsaP256);
        let folder = Folder {
            dir: tempfile::tempdir().unwrap(),
        };
        folder.write("ak.pub", node.ak.public());
        folder.write("host.json", node.reference("host.json").unwrap());
        for n in 1..=4 {
            let name = format!("{}.json", pod(n));
            folder.write(&name, node.reference(&name).unwrap());
        }
        folder
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(name)).unwrap()
    }

    /// The node's policy with `more` behind it.
    fn policy(&self, more: &str) {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.extra_policy = more.to_owned();
        self.write("node.yaml", node.policy_yaml());
    }

    fn cgpath(&self, args: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args(args)
            .current_dir(&self.dir)
            .output()
            .unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Judges `evidence.cbor` by `node.yaml`.
    fn verify(&self) -> Ran {
        let nonce = hex::encode(boot_logs::NONCE);
        let (policy, key) = (["--policy", "node.yaml"], ["--ak", "ak.pub", "--nonce", &nonce]);
        self.cgpath(&[&["verify", "evidence.cbor"][..], &policy, &key].concat())
    }
}
