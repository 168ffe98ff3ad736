//! The service under schemathesis, which nobody here wrote: it asks for what the OpenAPI document allows and
//! for what it does not, follows the document's links, and compares what comes back with all of its checks.
//!
//! Streams do not end, so they are left out here (see `openapi` and `events`).

use super::site::{Site, busy};
use cgpath_testkit::python::schemathesis;
use cgpath_testkit::{Actor, pod, sha256};
use std::path::Path;
use std::process::Command;

/// Cases of an operation in each phase: so few that they are a part of the tests.
const CASES: &str = "8";

#[test]
fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let token = "the operators own token";
    let (_server, client) = site.serve(&["--read-token", token]);
    // Two verdicts, of which the second one revokes a pod.
    for n in 0..2 {
        if n == 1 {
            node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"replaced"));
        }
        let nonce = client.nonce("worker-1").unwrap();
        let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let own = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/serve")
            .join(name)
    };
    let output = Command::new(schemathesis())
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(own("schemathesis.toml"))
        .arg("run")
        .arg(format!("https://{}/v1/openapi.json", client.address))
        .arg("--tls-verify")
        .arg(site.ca())
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--checks", "all", "--continue-on-failure"])
        .args(["--exclude-path-regex", "/stream$"])
        .args([
            "--max-examples",
            CASES,
            "--generation-deterministic",
            "--seed",
            "1",
        ])
        .args(["--suppress-health-check", "all"])
        .args(["--request-timeout", "300", "--no-color", "--warnings", "off"])
        .current_dir(site.path(""))
        .env("SCHEMATHESIS_HOOKS", own("schemathesis_cbor.py"))
        .env("NO_PROXY", "*")
        .env("HOME", site.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // It did ask: with no case there is nothing to find.
    assert!(said.contains("passed"), "{said}");
    // Whatever it sent, the last verdict is the one that was reached before.
    let header = format!("Authorization: Bearer {token}\r\n");
    let history = client
        .send("GET", "/v1/nodes/worker-1/history", &header, b"")
        .unwrap();
    assert_eq!(history.json()["verdicts"].as_array().unwrap().len(), 2);
}
