//! Nodes that show a certificate: the one with their name by the right CA, and no other.

use super::site::{Client, Site, busy, fails};
use cgpath_testkit::Authority;
use cgpath_testkit::python::python;
use std::process::Command;

/// A client that shows a certificate for `name`, good until the end of `year`.
fn showing(authority: &Authority, site: &Site, client: &Client, name: &str, year: i32) -> Client {
    let issued = authority.order(name).until(year).issue();
    client.showing(&site.ca(), &issued.certificate, &issued.key)
}

const GOOD: i32 = 2090;

#[test]
fn a_node_with_its_own_certificate_is_taken_and_no_other_may_speak_for_it() {
    let (site, authority) = (Site::new(), Authority::new());
    let mut node = busy();
    for name in ["worker-1", "worker-2"] {
        site.enrol(&node, name);
    }
    let ca = authority.ca();
    let token = "the operator's own token";
    let (_server, client) = site.serve(&["--client-ca", ca.to_str().unwrap(), "--read-token", token]);
    let own = showing(&authority, &site, &client, "worker-1", GOOD);
    let nonce = own.nonce("worker-1").unwrap();
    let evidence = node.attest(&nonce).to_cbor();

    let ask = |client: &Client, node: &str| {
        let answer = client
            .send("POST", &format!("/v1/nodes/{node}/nonce"), "", b"")
            .unwrap();
        assert_eq!(client.submit(node, &evidence).unwrap().kind(), answer.kind());
        answer.kind()
    };
    let refused = (403, "certificate".to_owned());
    // None, another node's, a pattern that would match, a name of which it is a part.
    assert_eq!(ask(&client, "worker-1"), refused);
    for name in ["worker-2", "*.example", "worker-1.example", "orker-1"] {
        let other = showing(&authority, &site, &client, name, GOOD);
        assert_eq!(ask(&other, "worker-1"), refused, "{name}");
    }
    assert_eq!(ask(&own, "worker-2"), refused);
    // Which nodes there are is not disclosed.
    assert_eq!(ask(&own, "nobody"), refused);

    // Who shows none reads with a token, and who has one is no reader.
    let header = format!("Authorization: Bearer {token}\r\n");
    let read = |client: &Client, header: &str| client.send("GET", "/v1/nodes", header, b"").unwrap().status;
    assert_eq!((read(&client, &header), read(&own, "")), (200, 401));

    // None of that used the nonce up.
    let answer = own.submit("worker-1", &evidence).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Published against a peer: some calls asked for the certificate and others, which changed state all the
/// same, did not.
#[test]
fn each_call_that_changes_state_is_refused_without_the_certificate_that_was_asked_for() {
    let (site, authority) = (Site::new(), Authority::new());
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let ca = authority.ca();
    let token = "the operator's own token";
    let (_server, client) = site.serve(&["--client-ca", ca.to_str().unwrap(), "--read-token", token]);
    let own = showing(&authority, &site, &client, "worker-1", GOOD);
    let other = showing(&authority, &site, &client, "worker-2", GOOD);
    let evidence = node.attest(&own.nonce("worker-1").unwrap()).to_cbor();
    let header = format!("Authorization: Bearer {token}\r\n");
    let state = || {
        let all = client.send("GET", "/v1/nodes", &header, b"").unwrap().json();
        let histories = client
            .send("GET", "/v1/nodes/worker-1/history", &header, b"")
            .unwrap();
        (all, histories.json())
    };
    let before = state();
    let document = client.get("/v1/openapi.json").json();
    let mut tried = 0;
    for (template, item) in document["paths"].as_object().unwrap() {
        let path = template
            .replace("{node}", "worker-1")
            .replace("{uid}", &cgpath_testkit::pod(1).to_string());
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let is_there = item.get(method.to_ascii_lowercase()).is_some();
            for shown in [&client, &other] {
                // A token lets read, and does not make up for a certificate.
                for header in ["", &header] {
                    let answer = shown.send(method, &path, header, &evidence).unwrap();
                    // A reader's call, which keeps a nonce for its own pod: a token is what it asks for.
                    let is_readers = is_there && template.ends_with("/challenge");
                    let wanted = match (is_there, is_readers, header.is_empty()) {
                        (true, true, true) => &[401][..],
                        (true, true, false) => &[400],
                        (true, false, _) => &[403],
                        (false, ..) => &[401, 405],
                    };
                    assert!(
                        wanted.contains(&answer.status),
                        "{method} {path}: {}",
                        answer.status
                    );
                    if is_there && !is_readers {
                        assert_eq!(answer.kind(), (403, "certificate".to_owned()));
                        tried += 1;
                    }
                }
            }
        }
    }
    // Both calls of nodes, each by two that may not, each with and without a token.
    assert_eq!(tried, 8);
    assert_eq!(state(), before);
    assert_eq!(own.submit("worker-1", &evidence).unwrap().status, 200);
    assert_ne!(state(), before);
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let (site, authority) = (Site::new(), Authority::new());
    site.enrol(&busy(), "worker-1");
    let ca = authority.ca();
    let (_server, client) = site.serve(&["--client-ca", ca.to_str().unwrap()]);
    // One that calls itself as ours does is found out by its signature.
    for (other, alert) in [
        (Authority::named("another"), "UnknownCA"),
        (Authority::new(), "DecryptError"),
    ] {
        let stranger = showing(&other, &site, &client, "worker-1", GOOD);
        let error = stranger.nonce("worker-1").unwrap_err();
        assert!(error.to_string().contains(alert), "{error}");
    }
    assert!(
        showing(&authority, &site, &client, "worker-1", GOOD)
            .nonce("worker-1")
            .is_ok()
    );
}

#[test]
fn an_expired_certificate_is_refused() {
    let (site, authority) = (Site::new(), Authority::new());
    site.enrol(&busy(), "worker-1");
    let ca = authority.ca();
    let (_server, client) = site.serve(&["--client-ca", ca.to_str().unwrap()]);
    let late = showing(&authority, &site, &client, "worker-1", 2021);
    let error = late.nonce("worker-1").unwrap_err();
    assert!(error.to_string().contains("CertificateExpired"), "{error}");
}

#[test]
fn a_client_ca_that_is_none_is_named() {
    let site = Site::new();
    let empty = site.path("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let store = site.store();
    for path in [&empty, &site.path("absent.pem")] {
        let args = [
            "serve",
            store.to_str().unwrap(),
            "--json",
            "--client-ca",
            path.to_str().unwrap(),
        ];
        let error = fails(&args);
        assert_eq!(error["kind"], "certificate");
        assert!(
            error["error"].as_str().unwrap().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
}

/// Since 3.13 Python asks of certificates what RFC 5280 asks (VERIFY_X509_STRICT), and OpenSSL does so with
/// `-x509_strict`.
#[test]
fn clients_that_are_strict_about_certificates_believe_the_service() {
    const SCRIPT: &str = "\
import socket, ssl, sys
host, port = sys.argv[2].rsplit(':', 1)
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_STRICT
with socket.create_connection((host, int(port))) as plain:
    with context.wrap_socket(plain, server_hostname='localhost') as tls:
        tls.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')
        print(tls.recv(12).decode())
";
    let site = Site::new();
    let (server, _) = site.serve(&[]);
    let output = Command::new(python())
        .args(["-c", SCRIPT])
        .arg(site.ca())
        .arg(server.address.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        said.trim(),
        "HTTP/1.1 200",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
