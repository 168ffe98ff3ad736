//! The OpenAPI document is what the service does: each operation answers, and each answer fits its schema.

use super::site::{Answer, Client, Site, busy};
use cgpath_testkit::python::python;
use cgpath_testkit::{Actor, pod, sha256};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

const OPERATOR: &str = "the operator's own token";
const RED: &str = "the red tenant's token";

/// A stream's first event, as an answer.
fn stream(client: &Client, path: &str, token: &str) -> Answer {
    let mut stream = client.open().unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    while !bytes.windows(2).any(|w| w == b"\n\n") {
        let mut more = [0; 4096];
        let n = stream.read(&mut more).unwrap();
        assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&more[..n]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.as_bytes().to_vec(),
    }
}

#[test]
fn each_operation_of_the_openapi_document_answers_as_it_says() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    site.enrol(&busy(), "worker-2");
    let readers = site.path("readers.yaml");
    let digest = hex::encode(sha256(RED.as_bytes()).bytes());
    let text = format!(
        "readers:\n- name: red\n  token-sha256: {digest}\n  pods: [{}]\n",
        pod(4)
    );
    std::fs::write(&readers, text).unwrap();
    let (_server, client) = site.serve(&["--read-token", OPERATOR, "--readers", readers.to_str().unwrap()]);
    let document = client.get("/v1/openapi.json").json();
    let kept: Value = serde_json::from_slice(
        &std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(document, kept);

    let mut answers = Vec::new();
    let mut add = |method: &str, template: &str, answer: Answer| {
        let kind = answer
            .head
            .lines()
            .find_map(|line| {
                line.split_once(": ")
                    .filter(|(n, _)| n.eq_ignore_ascii_case("content-type"))
            })
            .map(|(_, value)| value.to_owned());
        answers.push(json!({
            "method": method, "template": template, "status": answer.status, "type": kind.unwrap(),
            "body": answer.text(),
        }));
    };
    let post = |path: &str, body: &[u8]| client.send("POST", path, "", body).unwrap();
    let (nonce, evidence) = ("/v1/nodes/{node}/nonce", "/v1/nodes/{node}/evidence");
    for n in 0..2 {
        let fresh = client.nonce("worker-1").unwrap();
        if n == 1 {
            node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"replaced"));
        }
        let bytes = node.attest(&fresh).to_cbor();
        add("post", evidence, post("/v1/nodes/worker-1/evidence", &bytes));
        add("post", evidence, post("/v1/nodes/worker-1/evidence", &bytes));
    }
    add("post", evidence, post("/v1/nodes/worker-1/evidence", b"nothing"));
    for name in ["worker-1", "nobody"] {
        add("post", nonce, post(&format!("/v1/nodes/{name}/nonce"), b""));
        add("post", evidence, post(&format!("/v1/nodes/{name}/evidence"), b""));
    }

    let paths = document["paths"].as_object().unwrap();
    for (template, item) in paths {
        if item.get("get").is_none() {
            continue;
        }
        let path = |name: &str| {
            template
                .replace("{node}", name)
                .replace("{uid}", &pod(4).to_string())
        };
        for token in [OPERATOR, RED] {
            let header = format!("Authorization: Bearer {token}\r\n");
            if template.ends_with("stream") {
                add("get", template, stream(&client, &path("worker-1"), token));
                if template.contains("{node}") {
                    let absent = client.send("GET", &path("nobody"), &header, b"").unwrap();
                    assert_eq!(absent.status, 404);
                    add("get", template, absent);
                }
                continue;
            }
            add(
                "get",
                template,
                client.send("GET", &path("worker-1"), &header, b"").unwrap(),
            );
            if template.contains("{node}") {
                for name in ["worker-2", "nobody"] {
                    // Enrolled and silent, and not there.
                    add(
                        "get",
                        template,
                        client.send("GET", &path(name), &header, b"").unwrap(),
                    );
                }
            }
        }
        let public = item["get"]["security"] == json!([]);
        let anonymous = client.get(&path("worker-1"));
        assert_eq!(anonymous.status, if public { 200 } else { 401 }, "{template}");
        add("get", template, anonymous);
        for method in ["PUT", "DELETE", "PATCH"] {
            let answer = client.send(method, &path("worker-1"), "", b"").unwrap();
            assert!(
                matches!(answer.status, 401 | 405),
                "{method} {template}: {}",
                answer.status
            );
        }
    }
    let challenge = "/v1/nodes/{node}/pods/{uid}/challenge";
    for (token, name, nonce) in [
        (OPERATOR, "worker-1", "0011223344556677"),
        (RED, "worker-1", "0011223344556677"),
        (RED, "worker-2", "0011223344556677"),
        (RED, "worker-1", "00"),
        ("nobody's", "worker-1", "0011223344556677"),
    ] {
        let header = format!("Authorization: Bearer {token}\r\n");
        let path = challenge
            .replace("{node}", name)
            .replace("{uid}", &pod(4).to_string());
        let path = format!("{path}?nonce={nonce}");
        add(
            "post",
            challenge,
            client.send("POST", &path, &header, b"").unwrap(),
        );
    }
    let asked = |path: &str| {
        let header = format!("Authorization: Bearer {OPERATOR}\r\n");
        client.send("GET", path, &header, b"").unwrap()
    };
    add("get", "/v1/revocations", asked("/v1/revocations?since=00"));
    let gone = asked("/v1/revocations?since=00112233445566778899aabbccddeeff");
    assert_eq!(gone.status, 410);
    add("get", "/v1/revocations", gone);
    add("get", "/v1/revocations", asked("/v1/revocations?wrong=1"));
    add(
        "get",
        "/v1/nodes/{node}/history",
        asked("/v1/nodes/worker-1/history?limit=1"),
    );
    add(
        "get",
        "/v1/nodes/{node}/history",
        asked("/v1/nodes/worker-1/history?wrong=1"),
    );

    let file = site.path("answers.json");
    let given = json!({"document": document, "answers": answers});
    std::fs::write(&file, given.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/openapi.py");
    let printed = crate::printed(Command::new(python()).arg(script).arg(&file));
    print!("{printed}");
}
