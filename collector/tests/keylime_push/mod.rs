//! The node as an agent of Keylime in push mode, against Keylime's own registrar and verifier and a software
//! TPM.
//!
//! What is not installed fails: `cargo xtask test` brings Keylime, Debian's package swtpm the TPM.

mod node;
mod services;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_evidence::Bank;
use cgpathd::config::Config;
use cgpathd::deliver::sink::Sinks;
use cgpathd::deliver::sink::keylime::{Agent, KeylimeError, Sent};
use cgpathd::runtime::Names;
use cgpathd::status::SinkStatus;
use cgpathd::tpm::{KeyKind, Tpm, TpmAccess as _, TpmError, TpmThread};
use hyper::Method;
use node::{Node, Reopened, sink};
use serde_json::{Value, json};
use services::Keylime;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tss_esapi::handles::PcrHandle;

const AGENT: &str = "node-1";

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
async fn keylime_registers_the_node_appraises_it_as_its_policy_says_and_is_sent_only_what_is_new() {
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
    let appraisal = keylime.appraisal(AGENT).await;
    assert_eq!(appraisal["evaluation"], "pass", "{}", keylime.log("verifier"));
    assert_eq!(keylime.status(AGENT).await, "PASS");

    // Known files again: only they are sent; and nothing where nothing is new.
    node.measure("/usr/bin/a");
    for (offset, entries) in [(5, 1), (6, 0)] {
        let sent = attest(&mut agent, &mut pause, &keylime).await;
        assert_eq!((sent.offset, sent.entries), (offset, entries));
        let appraisal = keylime.appraisal(AGENT).await;
        assert_eq!(appraisal["evaluation"], "pass", "{}", keylime.log("verifier"));
    }

    // The same agent after a restart goes on where the verifier is.
    let mut agent = node.agent(&keylime);
    node.measure("/usr/bin/b");
    let sent = attest(&mut agent, &mut pause, &keylime).await;
    assert_eq!((sent.offset, sent.entries), (6, 1));
    assert_eq!(keylime.appraisal(AGENT).await["evaluation"], "pass");

    node.measure("/tmp/evil");
    let sent = attest(&mut agent, &mut pause, &keylime).await;
    assert_eq!((sent.offset, sent.entries), (7, 1));
    assert_eq!(keylime.appraisal(AGENT).await["evaluation"], "fail");
    assert_eq!(keylime.status(AGENT).await, "FAIL");
    assert!(
        keylime
            .log("verifier")
            .contains("File not found in allowlist: /tmp/evil")
    );
    // The stranger's, and one for each start.
    assert_eq!(keylime.count("verifier", "POST /v3.0/sessions"), 3);
}

/// What a session's client sends when it makes everything by hand; gives the token, or the status that
/// refused it.
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
                    "key_class": "asymmetric", "key_algorithm": "rsa", "key_size": 2048,
                    "server_identifier": "ak",
                    "local_identifier": "ak", "public": STANDARD.encode(ak),
                }],
            }},
            {"evidence_class": "log", "evidence_type": "ima_log", "capabilities": {
                "entry_count": entries, "supports_partial_access": true, "appendable": true,
                "formats": ["text/plain"],
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
    assert_eq!(keylime.appraisal(AGENT).await["evaluation"], "pass");
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
    assert_eq!(keylime.appraisal(AGENT).await["evaluation"], "fail");
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
    let mut other_key = node.agent_with(&keylime, other_key, None);
    assert!(refused(other_key.round().await.unwrap_err()));

    // Another TPM's key under this one's endorsement key: the TPM does not open the credential, and a guess
    // is refused.
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
    assert!(matches!(opened, Err(TpmError::Command { .. })), "{opened:?}");
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
            started.elapsed() < Duration::from_secs(180),
            "{status:?} {}",
            keylime.log("verifier")
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_sink_attests_as_often_as_it_is_configured_opens_sessions_anew_and_says_how_it_fares() {
    let keylime = Keylime::start_with("session_lifetime = 5\nextend_token_on_attestation = False");
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
    let status = until(&sinks, &keylime, |status| status.delivered >= 8).await;
    assert_eq!(status.error, None);
    assert!(
        started.elapsed() >= Duration::from_secs(7),
        "a second in between, as told"
    );
    let sessions = keylime.count("verifier", "POST /v3.0/sessions") - before;
    assert!(sessions >= 2, "{sessions} sessions for 8 attestations");
    assert_eq!(keylime.status(AGENT).await, "PASS");
    assert_eq!(keylime.count("verifier", "failed verification"), 0);

    // Removed everywhere and added again: nobody has to restart anything.
    keylime.remove(AGENT).await;
    let status = until(&sinks, &keylime, |status| status.error.is_some()).await;
    assert!(status.error.unwrap().contains("does not know this agent"));
    keylime.registered(AGENT).await;
    keylime.add(AGENT, &node.digests).await;
    until(&sinks, &keylime, |now| now.delivered > status.delivered).await;
    stop.send(true).unwrap();

    // What cannot work is said at the start.
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

/// What a firmware measures: register, type, what is measured and said.
type Event = (u32, u32, &'static [u8]);

/// EV_S_CRTM_VERSION, EV_SEPARATOR of each register, EV_IPL. TCG PC Client Platform Firmware Profile, 10.4.1.
const FIRMWARE: [Event; 11] = [
    (0, 8, b"1\0.\0\0\0"),
    (0, 4, &[0; 4]),
    (1, 4, &[0; 4]),
    (2, 4, &[0; 4]),
    (3, 4, &[0; 4]),
    (4, 4, &[0; 4]),
    (5, 4, &[0; 4]),
    (6, 4, &[0; 4]),
    (7, 4, &[0; 4]),
    (8, 13, b"linux /vmlinuz quiet\0"),
    (9, 13, b"/vmlinuz\0"),
];

/// `binary_bios_measurements` with SHA-1 and SHA-256. TCG PC Client Platform Firmware Profile, 10.2.
fn boot_log(events: &[Event]) -> Vec<u8> {
    let id = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x02\0\0\0\x04\0\x14\0\x0b\0\x20\0\0";
    let mut out = [0u32.to_le_bytes(), 3u32.to_le_bytes()].concat();
    out.extend([0; 20]);
    out.extend((id.len() as u32).to_le_bytes());
    out.extend(id);
    for (register, kind, data) in events {
        out.extend([*register, *kind, 2].map(u32::to_le_bytes).concat());
        for bank in [Bank::Sha1, Bank::Sha256] {
            out.extend(bank.tpm_alg().to_le_bytes());
            out.extend(bank.hash(&[data]).bytes());
        }
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(*data);
    }
    out
}

#[tokio::test]
async fn keylime_ties_the_boot_log_to_the_quote_and_to_the_list_and_refuses_another_log() {
    let keylime = Keylime::start();
    let mut node = Node::bare(KeyKind::Rsa2048);
    let handles = [
        PcrHandle::Pcr0,
        PcrHandle::Pcr1,
        PcrHandle::Pcr2,
        PcrHandle::Pcr3,
        PcrHandle::Pcr4,
        PcrHandle::Pcr5,
        PcrHandle::Pcr6,
        PcrHandle::Pcr7,
        PcrHandle::Pcr8,
        PcrHandle::Pcr9,
    ];
    for (register, _, data) in FIRMWARE {
        node.extend(handles[register as usize], data);
    }
    let log = boot_log(&FIRMWARE);
    let replayed = cgpath_evidence::boot::EventLog::parse(&log)
        .unwrap()
        .replay(Bank::Sha256)
        .unwrap();
    // No file of the policy: Keylime computes it from the log.
    node.list_entry(
        "boot_aggregate",
        &cgpath_evidence::boot::boot_aggregate(&replayed),
    );
    node.measure("/usr/bin/a");
    let mut agent = node.agent_with(&keylime, node.tpm(), Some(log));
    is_a_stranger(&mut agent, &keylime).await;
    let policy = json!({"what": "any policy but none: the name accept-all decides"}).to_string();
    keylime.add_with(AGENT, &node.digests, policy.into()).await;
    let mut pause = 0;
    attest(&mut agent, &mut pause, &keylime).await;
    let appraisal = keylime.appraisal(AGENT).await;
    assert_eq!(appraisal["evaluation"], "pass", "{}", keylime.log("verifier"));
    assert_eq!(keylime.count("verifier", "against measured boot log"), 1);

    let mut other = FIRMWARE;
    other[9].2 = b"linux /vmlinuz quiet init=/bin/sh\0";
    let mut agent = node.agent_with(&keylime, node.tpm(), Some(boot_log(&other)));
    attest(&mut agent, &mut pause, &keylime).await;
    assert_eq!(keylime.appraisal(AGENT).await["evaluation"], "fail");
    assert!(keylime.log("verifier").contains("For PCR 8 and hash"));
}
