//! Each form that a sink can ask for, decoded and judged at the far side.

use super::node::{Arrived, Engine, config, files, sink, until};
use cgpath_appraisal::tenant::{Outcome, TenantContext, verify};
use cgpath_appraisal::{ExpectedNonce, PinnedKey};
use cgpath_evidence::{Evidence, EvidenceDelta, TenantBundle, eat};
use cgpath_policy::Policy;
use cgpath_testkit::{NOW, pod};
use cgpathd::config::{Sink, SinkFormat, SinkKind};
use cgpathd::deliver::sink::Sinks;
use cgpathd::runtime::Names;
use minicbor::Decoder;
use tokio::sync::watch;

/// Evidence in an unsigned EAT, by RFC 9781 and RFC 9711 alone; its nonce must be `nonce`.
fn evidence_in_eat(bytes: &[u8], nonce: &[u8]) -> Evidence {
    let mut d = Decoder::new(bytes);
    assert_eq!(d.tag().unwrap().as_u64(), 601, "UCCS");
    let mut evidence = None;
    for _ in 0..d.map().unwrap().unwrap() {
        match d.u16().unwrap() {
            10 => assert_eq!(d.bytes().unwrap(), nonce),
            265 => assert_eq!(d.str().unwrap(), eat::PROFILE),
            273 => {
                assert_eq!((d.array().unwrap(), d.array().unwrap()), (Some(1), Some(2)));
                assert_eq!(d.u16().unwrap(), eat::CONTENT_FORMAT);
                evidence = Some(Evidence::from_cbor(d.bytes().unwrap()).unwrap());
            }
            _ => d.skip().unwrap(),
        }
    }
    assert_eq!(d.position(), bytes.len());
    evidence.unwrap()
}

/// The one message in a record of RFC 9999.
fn message_in_cmw(bytes: &[u8]) -> &[u8] {
    let mut d = Decoder::new(bytes);
    assert_eq!(d.array().unwrap(), Some(3));
    assert!(d.str().unwrap().starts_with("application/eat-ucs+cbor"));
    let message = d.bytes().unwrap();
    assert_eq!(d.u8().unwrap(), eat::Kind::Evidence as u8);
    message
}

fn tenants_verdict(engine: &Engine, arrived: &Arrived, n: u8, nonce: Vec<u8>) -> Outcome {
    let node = engine.node();
    let uid = pod(n);
    let yaml = format!(
        "version: 1\n\
         pod: {uid}\n\
         name: shop/web\n\
         templates: [ima-ng]\n\
         banks: [sha256]\n\
         references: [{uid}.json]\n"
    );
    let resolve = |name: &str| node.reference(name).ok_or_else(|| "no such file".to_owned());
    let (_, policy) = Policy::load_tenant("pod.yaml", yaml.as_bytes(), resolve).unwrap();
    let context = TenantContext {
        key: PinnedKey::Public(node.ak.public()),
        td: cgpath_appraisal::TdContext::default(),
        nonce: ExpectedNonce::Value(nonce),
        now: NOW,
        verifiers: Vec::new(),
        previous: None,
    };
    let bundle = TenantBundle::from_cbor(&arrived.payload).unwrap();
    verify(&bundle, uid, &policy, &context).unwrap().outcome
}

#[tokio::test]
async fn what_arrives_in_each_form_is_evidence_that_a_verifier_trusts_and_refuses_with_another_nonce() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let form = |name: &str, format| Sink {
        format,
        ..sink(name, SinkKind::File, at(name).to_str().unwrap())
    };
    let config = config(
        dir.path(),
        vec![
            form("plain", SinkFormat::Evidence),
            form("eat", SinkFormat::Eat),
            form("cmw", SinkFormat::Cmw),
            Sink {
                pods: [1, 4].map(|n| pod(n).to_string()).to_vec(),
                ..form("pods", SinkFormat::Evidence)
            },
        ],
    );
    let names = Names::default();
    let engine = Engine::new(&names);
    let sinks = Sinks::open(&config, "n", &names).unwrap();
    let (_stop, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    until(&sinks, |all| all.iter().all(|s| s.delivered >= 4)).await;

    let mut kept: Option<Evidence> = None;
    for arrived in files(&at("plain")) {
        let whole = match kept.take() {
            None => Evidence::from_cbor(&arrived.payload).unwrap(),
            Some(kept) => EvidenceDelta::from_cbor(&arrived.payload)
                .unwrap()
                .join(kept)
                .unwrap(),
        };
        assert!(engine.verdict(&whole, &arrived.nonce()).trusted);
        kept = Some(whole);
    }
    for name in ["eat", "cmw"] {
        for arrived in files(&at(name)) {
            let token = match name {
                "cmw" => message_in_cmw(&arrived.payload),
                _ => &arrived.payload,
            };
            let evidence = evidence_in_eat(token, &arrived.nonce());
            assert_eq!(arrived.header["format"], name);
            assert!(engine.verdict(&evidence, &arrived.nonce()).trusted);
            assert!(!engine.verdict(&evidence, &[9; 32]).trusted);
        }
    }
    let bundles = files(&at("pods"));
    for (at, arrived) in bundles.iter().enumerate() {
        let n = if at % 2 == 0 { 1 } else { 4 };
        assert_eq!(arrived.pod(), pod(n).to_string());
        let outcome = |n, nonce| tenants_verdict(&engine, arrived, n, nonce);
        // Nobody vouches for what was sealed: the collector is no verifier.
        assert_eq!(outcome(n, arrived.nonce()), Outcome::PartitionOnly);
        assert_eq!(outcome(n, vec![9; 32]), Outcome::Untrusted);
        assert_eq!(outcome(5 - n, arrived.nonce()), Outcome::Untrusted);
    }
}
