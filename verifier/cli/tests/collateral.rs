//! `cgpath collateral fetch` at a service that answers as Intel's does, with a test's platform behind it.

use cgpath_appraisal::Collateral;
use cgpath_appraisal::text::utc;
use cgpath_testkit::td::{Platform, TrustDomain};
use cgpath_testkit::{Authority, KeyKind, NOW, Node};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

/// What the service answers: path, header, body.
type Answers = Vec<(String, (&'static str, String), Vec<u8>)>;

/// The answers for this platform.
fn answers(platform: &Platform) -> Answers {
    let file: Value = serde_json::from_slice(&platform.collateral_json(NOW, |_, _| ())).unwrap();
    let text = |key: &str| file[key].as_str().unwrap().to_owned();
    let chain = |key: &str| text(key).replace('\n', "%0A").replace(' ', "%20");
    let der = |key: &str| hex::decode(text(key)).unwrap();
    let signed = |name: &str, key: &str| {
        let signature = text(&format!("{key}_signature"));
        format!("{{\"{name}\":{},\"signature\":\"{signature}\"}}", text(key)).into_bytes()
    };
    let fmspc = hex::encode(platform.fmspc);
    vec![
        (
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der".to_owned(),
            ("SGX-PCK-CRL-Issuer-Chain", chain("pck_crl_issuer_chain")),
            der("pck_crl"),
        ),
        (
            format!("/tdx/certification/v4/tcb?fmspc={fmspc}"),
            ("TCB-Info-Issuer-Chain", chain("tcb_info_issuer_chain")),
            signed("tcbInfo", "tcb_info"),
        ),
        (
            "/tdx/certification/v4/qe/identity".to_owned(),
            (
                "SGX-Enclave-Identity-Issuer-Chain",
                chain("qe_identity_issuer_chain"),
            ),
            signed("enclaveIdentity", "qe_identity"),
        ),
        (
            "/root.der".to_owned(),
            ("X-None", String::new()),
            der("root_ca_crl"),
        ),
    ]
}

/// Answers until the test ends; gives the port.
fn serve(authority: &Authority, answers: Answers) -> u16 {
    let config = authority
        .order("localhost")
        .hosts(&["localhost"])
        .issue()
        .server(None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut asked = Vec::new();
            let mut byte = [0];
            // A client that does not believe the service says nothing.
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                asked.push(byte[0]);
            }
            let asked = String::from_utf8(asked).unwrap();
            let path = asked.split(' ').nth(1).unwrap_or_default();
            let answer = answers.iter().find(|(known, ..)| known == path);
            let (head, body) = match answer {
                Some((_, (name, value), body)) => (format!("200 OK\r\n{name}: {value}"), &body[..]),
                None => ("404 Not Found".to_owned(), &b""[..]),
            };
            let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    port
}

fn fetch(dir: &Path, ca: &Path, port: u16, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(["collateral", "fetch", "--ca"])
        .arg(ca)
        .args(["--url", &format!("https://localhost:{port}/")])
        .args(["--root-crl", &format!("https://localhost:{port}/root.der")])
        .args(more)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn file(dir: &Path) -> PathBuf {
    dir.join(format!("b0c06f000000-{}.json", &utc(NOW)[..10]))
}

const KIND: [&str; 4] = ["--fmspc", "b0c06f000000", "--pck", "platform"];

#[test]
fn what_a_service_gives_is_a_file_by_which_the_quote_verifies() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let platform = Platform::new("a test's root", "a machine");
    let port = serve(&authority, answers(&platform));
    let expected = platform.collateral(NOW);
    let output = fetch(dir.path(), &authority.ca(), port, &KIND);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read = |dir: &Path| Collateral::from_json(&std::fs::read(file(dir)).unwrap()).unwrap();
    assert_eq!(read(dir.path()), expected);
    std::fs::remove_file(file(dir.path())).unwrap();
    // The same, of the kind that a quote names.
    let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(TrustDomain::new(platform), false);
    let evidence = node.attest(b"the nonce of this request").to_cbor();
    std::fs::write(dir.path().join("evidence.cbor"), evidence).unwrap();
    let output = fetch(dir.path(), &authority.ca(), port, &["evidence.cbor", "--json"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (said["fmspc"].as_str(), said["from"].as_u64()),
        (Some("b0c06f000000"), Some(NOW))
    );
    assert_eq!(read(dir.path()), expected);
}

#[test]
fn a_service_that_is_not_believed_or_lacks_a_part_leaves_no_file() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let platform = Platform::new("a test's root", "a machine");
    let whole = answers(&platform);
    let refused = |answers: Answers, ca: &Path, more: &[&str], why: &str| {
        let output = fetch(dir.path(), ca, serve(&authority, answers), more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{why}: {said}");
        assert!(!file(dir.path()).exists());
    };
    let other = Authority::named("another CA");
    refused(whole.clone(), &other.ca(), &KIND, "localhost");
    for n in 0..whole.len() {
        let mut answers = whole.clone();
        answers.remove(n);
        refused(answers, &authority.ca(), &KIND, "404");
    }
    for n in 0..3 {
        let mut answers = whole.clone();
        answers[n].1.1 = "%".to_owned();
        refused(answers, &authority.ca(), &KIND, "chain");
    }
    let mut swapped = whole.clone();
    let known = swapped[1].0.replace("b0c06f000000", "00a06f050000");
    swapped[1].0 = known;
    let kind = ["--fmspc", "00a06f050000", "--pck", "platform"];
    refused(swapped, &authority.ca(), &kind, "TCB info of FMSPC b0c06f000000");
    for n in 1..3 {
        let mut answers = whole.clone();
        answers[n].2 = b"{}".to_vec();
        refused(answers, &authority.ca(), &KIND, "signed");
    }
}
