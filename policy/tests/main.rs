//! Every integration test of the policy model in one program.
//!
//! Promises: a module is one subject, and its tests share nothing with others but the process, which none of
//! them changes (environment, current directory); files are in a directory of the test's own. Not here: tests
//! within the crate, beside what they test.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod corim;
mod examples;
mod excludes;
mod ima;
mod images;
mod keylime;
mod model;
mod places;
#[allow(dead_code, reason = "one of its environments is for other tests")]
#[path = "../../testkit/src/python.rs"]
mod python;
mod schema;
mod tdx;
mod workloads;

use cgpath_evidence::{Bank, Digest};
use cgpath_policy::{Reference, Source, SourceKind};
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};

fn sha256(text: &str) -> Digest {
    Bank::Sha256.hash(&[text.as_bytes()])
}

/// A reference file of this kind, with these paths and their contents.
fn values(kind: SourceKind, files: &[(&str, &str)]) -> Vec<u8> {
    let mut reference = Reference::new(Source {
        kind,
        name: "test".into(),
        digest: None,
    });
    for (path, content) in files {
        reference
            .insert(path.as_bytes().to_vec(), sha256(content))
            .unwrap();
    }
    let mut json = Vec::new();
    reference.write_json(&mut json).unwrap();
    json
}

/// What a program of others prints with `input` on its standard input; it must succeed.
fn answer(command: &mut Command, input: &Value) -> String {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Processor time of this thread: what may be bounded on a machine that does other things, too.
fn used() -> std::time::Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}
