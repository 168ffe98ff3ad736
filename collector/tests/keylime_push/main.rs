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
use collector::config::{Config, KeyKind, Sink, SinkFormat, SinkKind};
use collector::runtime::Names;
use collector::service::{RequestError, TpmAccess, TpmThread};
use collector::sink::keylime::{Agent, Boot, KeylimeError, Sent};
use collector::sink::{SinkStatus, Sinks};
use collector::tpm::{Options, Tpm, TpmError};
use evidence::Bank;
use hyper::Method;
use serde_json::{Value, json};
use services::Keylime;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::str::FromStr as _;
use std::time::{Duration, Instant};
use swtpm::Swtpm;
use tokio::sync::watch;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::handles::{NvIndexTpmHandle, PcrHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{Digest, DigestValues, MaxNvBuffer, NvPublicBuilder};
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
        self.context()
            .execute_with_nullauth_session(|c| c.pcr_extend(PcrHandle::Pcr10, values))
            .unwrap();
        let digests = self.digests.entry(name.to_owned()).or_default();
        digests.push(hex::encode(content.bytes()));
    }

    fn tpm(&self) -> Reopened {
        Reopened(self.options.clone())
    }

    fn agent(&self, keylime: &Keylime) -> Agent<Reopened> {
        self.agent_with(keylime, self.tpm())
    }

    fn agent_with(&self, keylime: &Keylime, tpm: Reopened) -> Agent<Reopened> {
        let boot = Boot {
            time: "2025-04-02T12:12:51Z".into(),
            facts: Default::default(),
        };
        Agent::new(&sink(keylime), AGENT, self.list.path(), boot, tpm).unwrap()
    }

    /// Puts a certificate of the endorsement key where a TPM's maker does, with some bytes behind it; gives it.
    async fn certify_endorsement(&self) -> Vec<u8> {
        let endorsement = self.tpm().with(|tpm| tpm.endorsement()).await.unwrap();
        assert_eq!(endorsement.certificate, None);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(rcgen::CertificateParams::new(vec![]).unwrap(), ca_key);
        let modulus = endorsement.public[endorsement.public.len() - 256..].to_vec();
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        let certificate = params.signed_by(&Rsa2048(rsa_der(&modulus)), &issuer).unwrap();
        let der = certificate.der().to_vec();
        let index = NvIndexTpmHandle::new(0x01c0_0002).unwrap();
        let attributes = NvIndexAttributesBuilder::new()
            .with_owner_write(true)
            .with_owner_read(true)
            .with_auth_read(true)
            .with_no_da(true)
            .build()
            .unwrap();
        let bytes = [&der[..], &[0xff; 40]].concat();
        let public = NvPublicBuilder::new()
            .with_nv_index(index)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(bytes.len())
            .build()
            .unwrap();
        self.context()
            .execute_with_nullauth_session(|c| {
                let handle = c.nv_define_space(Provision::Owner, None, public)?;
                for (n, some) in bytes.chunks(256).enumerate() {
                    let buffer = MaxNvBuffer::try_from(some.to_vec())?;
                    c.nv_write(NvAuth::Owner, handle, buffer, (n * 256) as u16)?;
                }
                Ok::<(), tss_esapi::Error>(())
            })
            .unwrap();
        der
    }

    fn context(&self) -> Context {
        Context::new(TctiNameConf::from_str(&self.options.tcti).unwrap()).unwrap()
    }
}

/// A public key of RSA, as rcgen wants it: an RSAPublicKey in DER.
struct Rsa2048(Vec<u8>);

/// RFC 8017, A.1.1, for 2048 bits and the exponent 65537.
fn rsa_der(modulus: &[u8]) -> Vec<u8> {
    let head = [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
    [&head, modulus, &[0x02, 0x03, 0x01, 0x00, 0x01]].concat()
}

impl rcgen::PublicKeyData for Rsa2048 {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn sink(keylime: &Keylime) -> Sink {
    Sink {
        name: "keylime".into(),
        kind: SinkKind::KeylimePush,
        to: keylime.verifier_url(),
        ca: keylime.path("ca.pem"),
        registrar: keylime.registrar_url(),
        agent: String::new(),
        client_certificate: Default::default(),
        client_key: Default::default(),
        format: SinkFormat::Evidence,
        nodes: vec![],
        pods: vec![],
        namespaces: vec![],
        labels: Default::default(),
        interval: 1,
        timeout: 60,
        spool: 1,
        keep: 1,
        whole_every: 1,
    }
}

/// The verifier opens no session for this agent; gives what the error says.
async fn is_a_stranger(agent: &mut Agent<Reopened>, keylime: &Keylime) -> String {
    let error = agent.round().await.unwrap_err();
    let logs = || format!("{}{}", keylime.log("registrar"), keylime.log("verifier"));
    assert!(matches!(error, KeylimeError::Stranger), "{error:?}: {}", logs());
    error.to_string()
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
    let keylime = Keylime::start();
    let mut node = Node::boot(KeyKind::Rsa2048);
    let mut agent = node.agent(&keylime);

    // Registered and active; nobody added it to the verifier.
    is_a_stranger(&mut agent, &keylime).await;
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

/// What a session's client sends when it makes everything by hand; gives the token, or the status that refused it.
async fn open_by_hand(
    keylime: &Keylime,
    tpm: &Reopened,
    agent: &str,
    other: Option<&[u8]>,
) -> Result<String, u16> {
    let method = json!({"authentication_class": "pop", "authentication_type": "tpm_pop"});
    let attributes = json!({"agent_id": agent, "authentication_supported": [method]});
    let (_, asked) = keylime
        .submit(Method::POST, "/v3.0/sessions", "", "session", attributes)
        .await;
    let parameters = &asked["data"]["attributes"]["authentication_requested"][0]["chosen_parameters"];
    let challenge = STANDARD
        .decode(parameters["challenge"].as_str().unwrap())
        .unwrap();
    let over = other.map_or(challenge, <[u8]>::to_vec);
    let made = tpm.with(move |tpm| tpm.certify_key(&over)).await.unwrap();
    let mut method = method;
    method["data"] = json!({
        "message": STANDARD.encode(made.attest), "signature": STANDARD.encode(made.signature),
    });
    let path = format!("/v3.0/sessions/{}", asked["data"]["id"].as_str().unwrap());
    let attributes = json!({"agent_id": agent, "authentication_provided": [method]});
    let (status, answer) = keylime
        .submit(Method::PATCH, &path, "", "session", attributes)
        .await;
    match answer["data"]["attributes"]["token"].as_str() {
        Some(token) => Ok(token.to_owned()),
        None => Err(status),
    }
}

/// What can be had of a node with `entries` entries and the key `ak`.
fn capabilities(ak: &[u8], entries: u64) -> Value {
    json!({
        "evidence_supported": [
            {"evidence_class": "certification", "evidence_type": "tpm_quote", "capabilities": {
                "component_version": "2.0", "hash_algorithms": ["sha256"], "signature_schemes": ["rsassa"],
                "available_subjects": {"sha256": [10]},
                "certification_keys": [{
                    "key_class": "asymmetric", "key_algorithm": "rsa", "key_size": 2048, "server_identifier": "ak",
                    "local_identifier": "ak", "public": STANDARD.encode(ak),
                }],
            }},
            {"evidence_class": "log", "evidence_type": "ima_log", "capabilities": {
                "entry_count": entries, "supports_partial_access": true, "appendable": true, "formats": ["text/plain"],
            }},
        ],
        "system_info": {"boot_time": "2025-04-02T12:12:51Z"},
    })
}

#[tokio::test]
async fn another_nonce_another_key_and_another_token_are_refused() {
    let keylime = Keylime::start();
    let node = Node::boot(KeyKind::Rsa2048);
    let mut agent = node.agent(&keylime);
    is_a_stranger(&mut agent, &keylime).await;
    keylime.add(AGENT, &node.digests).await;
    let mut pause = 0;
    attest(&mut agent, &mut pause, &keylime).await;
    assert_eq!(keylime.judgement(AGENT).await["evaluation"], "pass");
    let tpm = node.tpm();
    let (ak, endorsement) = tpm
        .with(|tpm| Ok((tpm.ak_sized(), tpm.endorsement()?)))
        .await
        .unwrap();

    // A proof over another challenge opens no session, and a stranger's key none for this agent.
    let other = open_by_hand(&keylime, &tpm, AGENT, Some(&[7; 16])).await;
    assert_eq!(other, Err(401));
    let stranger = Node::boot(KeyKind::Rsa2048);
    assert_eq!(
        open_by_hand(&keylime, &stranger.tpm(), AGENT, None).await,
        Err(401)
    );

    // A quote over another challenge: taken and judged.
    let token = open_by_hand(&keylime, &tpm, AGENT, None).await.unwrap();
    let path = format!("/v3.0/agents/{AGENT}/attestations");
    let offered = capabilities(&ak, 3);
    tokio::time::sleep(Duration::from_secs(pause)).await;
    let (status, asked) = keylime
        .submit(Method::POST, &path, &token, "attestation", offered.clone())
        .await;
    assert!((200..300).contains(&status), "{asked}");
    let (quote, blob) = tpm
        .with(|tpm| tpm.quote_registers(&[7; 16], &[10]))
        .await
        .unwrap();
    let collected = json!({"evidence_collected": [
        {"evidence_class": "certification", "evidence_type": "tpm_quote", "data": {
            "subject_data": STANDARD.encode(blob.to_bytes()), "message": STANDARD.encode(quote.attest),
            "signature": STANDARD.encode(quote.signature),
        }},
        {"evidence_class": "log", "evidence_type": "ima_log", "data": {"entries": "", "entry_count": 0}},
    ]});
    let latest = format!("{path}/latest");
    let (status, answer) = keylime
        .submit(Method::PATCH, &latest, &token, "attestation", collected)
        .await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(keylime.judgement(AGENT).await["evaluation"], "fail");
    assert!(
        keylime
            .log("verifier")
            .contains("The nonce from the attestation differs")
    );

    // Tokens: none, one that was made up, one with a letter changed, that of this agent for another one.
    let (head, tail) = token.split_at(token.len() - 1);
    let changed = format!("{head}{}", if tail == "x" { "y" } else { "x" });
    for (path, token) in [
        (&path, ""),
        (&path, "0.0"),
        (&path, &changed),
        (&"/v3.0/agents/node-2/attestations".to_owned(), &token),
    ] {
        let (status, answer) = keylime
            .submit(Method::POST, path, token, "attestation", offered.clone())
            .await;
        assert!(matches!(status, 401 | 403), "{token:?}: {status} {answer}");
    }

    // The same id with the key of another TPM, or with another key of this one.
    let mut thief = stranger.agent(&keylime);
    let refused = |error: KeylimeError| {
        matches!(
            error,
            KeylimeError::Refused {
                what: "registrar",
                status: 403,
                ..
            }
        )
    };
    assert!(refused(thief.round().await.unwrap_err()));
    let other_key = Reopened(node.swtpm.options(KeyKind::EccP256));
    let mut other_key = node.agent_with(&keylime, other_key);
    assert!(refused(other_key.round().await.unwrap_err()));

    // Another TPM's key under this one's endorsement key: the TPM does not open the credential, and a guess is refused.
    let other_ak = stranger.tpm().with(|tpm| Ok(tpm.ak_sized())).await.unwrap();
    let path = "/v2.1/agents/node-3";
    let body = json!({"ek_tpm": STANDARD.encode(endorsement.public), "aik_tpm": STANDARD.encode(other_ak)});
    let (status, answer) = keylime.registrar(Method::POST, path, body).await;
    assert_eq!(status, 200, "{answer}");
    let blob = STANDARD
        .decode(answer["results"]["blob"].as_str().unwrap())
        .unwrap();
    let len = usize::from(u16::from_be_bytes([blob[8], blob[9]]));
    let (credential, secret) = (blob[10..10 + len].to_vec(), blob[12 + len..].to_vec());
    let opened = tpm.with(move |tpm| tpm.activate(&credential, &secret)).await;
    assert!(
        matches!(opened, Err(RequestError::Tpm(TpmError::Command { .. }))),
        "{opened:?}"
    );
    let guess = json!({"auth_tag": "00".repeat(48)});
    let (status, _) = keylime
        .registrar(Method::PUT, &format!("{path}/activate"), guess)
        .await;
    assert_eq!(status, 400);
    let (status, _) = keylime.registrar(Method::GET, path, Value::Null).await;
    assert_eq!(status, 404, "nothing is left of it");
}

/// Waits until the only sink's status is `done`.
async fn until(sinks: &Sinks, keylime: &Keylime, done: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
    let started = Instant::now();
    loop {
        let status = sinks.status().pop().unwrap();
        if done(&status) {
            return status;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{status:?} {}",
            keylime.log("verifier")
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_sink_attests_as_often_as_it_is_told_opens_sessions_anew_and_says_how_it_fares() {
    let keylime = Keylime::start_with("session_lifetime = 3\nextend_token_on_attestation = False");
    let node = Node::boot(KeyKind::Rsa2048);
    let certificate = node.certify_endorsement().await;
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        state_dir: dir.path().to_owned(),
        sink: vec![sink(&keylime)],
        ..Config::default()
    };
    let sinks = Sinks::open(&config, AGENT, &Names::default()).unwrap();
    let tpm = TpmThread::start(node.options.clone(), Tpm::open(&node.options).unwrap());
    let (stop, stopped) = watch::channel(false);
    sinks.attest_to_keylime(AGENT, node.list.path(), &tpm, &stopped);
    let status = until(&sinks, &keylime, |status| status.error.is_some()).await;
    assert!(status.error.unwrap().contains("does not know this agent"));
    assert_eq!((status.kind.as_str(), status.delivered), ("keylime-push", 0));
    let path = format!("/v2.1/agents/{AGENT}");
    let (_, known) = keylime.registrar(Method::GET, &path, Value::Null).await;
    assert_eq!(known["results"]["ekcert"], STANDARD.encode(certificate));

    keylime.add(AGENT, &node.digests).await;
    let before = keylime.count("verifier", "POST /v3.0/sessions");
    let started = Instant::now();
    until(&sinks, &keylime, |status| status.delivered >= 1).await;
    let status = until(&sinks, &keylime, |status| status.delivered >= 6).await;
    assert_eq!(status.error, None);
    assert!(
        started.elapsed() >= Duration::from_secs(5),
        "a second in between, as told"
    );
    let sessions = keylime.count("verifier", "POST /v3.0/sessions") - before;
    assert!(
        (2..=5).contains(&sessions),
        "{sessions} sessions for 6 attestations"
    );
    assert_eq!(keylime.status(AGENT).await, "PASS");
    assert_eq!(keylime.count("verifier", "failed verification"), 0);
    stop.send(true).unwrap();

    // What can not work is said at the start.
    let mut other = config.clone();
    other.tpm.bank = Bank::Sha1;
    let error = Sinks::open(&other, AGENT, &Names::default())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("tpm.bank"), "{error}");
    let mut other = config;
    other.sink[0].ca = "/nonexistent/ca.pem".into();
    let error = Sinks::open(&other, AGENT, &Names::default())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/nonexistent/ca.pem"), "{error}");
}

#[tokio::test]
async fn keylime_takes_no_elliptic_curve_key_and_the_error_says_what_to_set() {
    let keylime = Keylime::start();
    let node = Node::boot(KeyKind::EccP256);
    let mut agent = node.agent(&keylime);
    is_a_stranger(&mut agent, &keylime).await;
    keylime.add(AGENT, &node.digests).await;
    let error = is_a_stranger(&mut agent, &keylime).await;
    assert!(error.contains(r#"tpm.key = "rsa-2048""#), "{error}");
    assert!(keylime.log("verifier").contains("SignatureAlgorithmMismatch"));
}
