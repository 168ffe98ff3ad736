//! The node as an agent of Keylime in push mode, against Keylime's own registrar and verifier and a software TPM.
//!
//! What is not installed fails: `cargo xtask test` brings Keylime, Debian's package swtpm the TPM.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../../verifier/tests/common/python.rs"]
mod python;
mod services;
#[path = "../common/swtpm.rs"]
mod swtpm;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use collector::config::{KeyKind, Sink, SinkFormat, SinkKind};
use collector::service::{RequestError, TpmAccess};
use collector::sink::keylime::{Agent, Boot, KeylimeError, Sent};
use collector::tpm::{Options, Tpm, TpmError};
use evidence::Bank;
use hyper::Method;
use serde_json::Value;
use services::Keylime;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::str::FromStr as _;
use std::time::Duration;
use swtpm::Swtpm;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{Digest, DigestValues};
use tss_esapi::{Context, TctiNameConf};

const AGENT: &str = "node-1";

/// Opens the TPM each time: a software TPM takes one connection, and the test extends registers in between.
#[derive(Clone)]
struct Reopened(Options);

impl TpmAccess for Reopened {
    async fn with<T, F>(&self, mut work: F) -> Result<T, RequestError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tpm) -> Result<T, TpmError> + Send + 'static,
    {
        let options = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut Tpm::open(&options)?));
        Ok(done.await.unwrap()?)
    }
}

/// A node whose list and PCR 10 grow together.
struct Node {
    swtpm: Swtpm,
    options: Options,
    list: tempfile::NamedTempFile,
    /// What a policy that knows all files says.
    digests: BTreeMap<String, Vec<String>>,
}

impl Node {
    fn boot(key: KeyKind) -> Node {
        let swtpm = Swtpm::start();
        let mut node = Node {
            options: swtpm.options(key),
            swtpm,
            list: tempfile::NamedTempFile::new().unwrap(),
            digests: BTreeMap::new(),
        };
        for name in ["boot_aggregate", "/usr/bin/a", "/usr/bin/b"] {
            node.measure(name);
        }
        node
    }

    /// What the kernel does when `name` is executed: an `ima-ng` entry, and both banks extended.
    fn measure(&mut self, name: &str) {
        let content = Bank::Sha256.hash(&[name.as_bytes()]);
        let digest = [b"sha256:\0", content.bytes()].concat();
        let path = [name.as_bytes(), &[0]].concat();
        let mut data = Vec::new();
        for field in [&digest, &path] {
            data.extend((field.len() as u32).to_le_bytes());
            data.extend(field);
        }
        let mut entry = 10u32.to_le_bytes().to_vec();
        entry.extend(Bank::Sha1.hash(&[&data]).bytes());
        entry.extend(6u32.to_le_bytes());
        entry.extend(b"ima-ng");
        entry.extend((data.len() as u32).to_le_bytes());
        entry.extend(&data);
        self.list.write_all(&entry).unwrap();
        let mut values = DigestValues::new();
        for (bank, algorithm) in [
            (Bank::Sha1, HashingAlgorithm::Sha1),
            (Bank::Sha256, HashingAlgorithm::Sha256),
        ] {
            let digest = bank.hash(&[&data]).bytes().to_vec();
            values.set(algorithm, Digest::try_from(digest).unwrap());
        }
        let tcti = TctiNameConf::from_str(&self.options.tcti).unwrap();
        Context::new(tcti)
            .unwrap()
            .execute_with_nullauth_session(|c| c.pcr_extend(PcrHandle::Pcr10, values))
            .unwrap();
        let digests = self.digests.entry(name.to_owned()).or_default();
        digests.push(hex::encode(content.bytes()));
    }

    fn tpm(&self) -> Reopened {
        Reopened(self.options.clone())
    }

    fn agent(&self, keylime: &Keylime) -> Agent<Reopened> {
        let sink = Sink {
            name: "keylime".into(),
            kind: SinkKind::KeylimePush,
            to: keylime.verifier_url(),
            ca: keylime.path("ca.pem"),
            registrar: keylime.registrar_url(),
            agent: String::new(),
            client_certificate: Default::default(),
            client_key: Default::default(),
            format: SinkFormat::Evidence,
            pods: vec![],
            interval: 1,
            timeout: 60,
            spool: 1,
            keep: 1,
            whole_every: 1,
        };
        let boot = Boot {
            time: "2025-04-02T12:12:51Z".into(),
            facts: Default::default(),
        };
        Agent::new(&sink, AGENT, self.list.path(), boot, self.tpm()).unwrap()
    }
}

/// One attestation, no sooner than the verifier takes it.
async fn attest(agent: &mut Agent<Reopened>, pause: &mut u64, keylime: &Keylime) -> Sent {
    tokio::time::sleep(Duration::from_secs(*pause)).await;
    let sent = agent.round().await;
    let sent = sent.unwrap_or_else(|e| panic!("{e}: {}", keylime.log("verifier")));
    *pause = sent.next.unwrap() + 1;
    sent
}

#[tokio::test]
async fn keylime_registers_the_node_judges_it_as_its_policy_says_and_is_sent_only_what_is_new() {
    let keylime = Keylime::start().await;
    let mut node = Node::boot(KeyKind::Rsa2048);
    let mut agent = node.agent(&keylime);

    // Registered and active; nobody added it to the verifier.
    let error = agent.round().await.unwrap_err();
    assert!(
        matches!(error, KeylimeError::Stranger),
        "{error}: {}",
        keylime.log("registrar")
    );
    let path = format!("/v2.1/agents/{AGENT}");
    let (status, known) = keylime.registrar(Method::GET, &path, Value::Null).await;
    assert_eq!(status, 200, "{known}");
    let ak = node.tpm().with(|tpm| Ok(tpm.ak_sized())).await.unwrap();
    assert_eq!(known["results"]["aik_tpm"], STANDARD.encode(&ak));

    node.measure("/usr/bin/c");
    node.measure("/usr/bin/d");
    keylime.add(AGENT, &node.digests).await;
    let mut pause = 0;
    let sent = attest(&mut agent, &mut pause, &keylime).await;
    assert_eq!((sent.offset, sent.entries), (0, 5));
    let judgement = keylime.judgement(AGENT).await;
    assert_eq!(judgement["evaluation"], "pass", "{}", keylime.log("verifier"));
    assert_eq!(keylime.status(AGENT).await, "PASS");

    // Known files again: only they are sent; and nothing where nothing is new.
    node.measure("/usr/bin/a");
    for (offset, entries) in [(5, 1), (6, 0)] {
        let sent = attest(&mut agent, &mut pause, &keylime).await;
        assert_eq!((sent.offset, sent.entries), (offset, entries));
        let judgement = keylime.judgement(AGENT).await;
        assert_eq!(judgement["evaluation"], "pass", "{}", keylime.log("verifier"));
    }

    // The same agent after a restart goes on where the verifier is.
    let mut agent = node.agent(&keylime);
    node.measure("/usr/bin/b");
    let sent = attest(&mut agent, &mut pause, &keylime).await;
    assert_eq!((sent.offset, sent.entries), (6, 1));
    assert_eq!(keylime.judgement(AGENT).await["evaluation"], "pass");

    node.measure("/tmp/evil");
    let sent = attest(&mut agent, &mut pause, &keylime).await;
    assert_eq!((sent.offset, sent.entries), (7, 1));
    assert_eq!(keylime.judgement(AGENT).await["evaluation"], "fail");
    assert_eq!(keylime.status(AGENT).await, "FAIL");
    assert!(
        keylime
            .log("verifier")
            .contains("File not found in allowlist: /tmp/evil")
    );
    drop(node.swtpm);
}
