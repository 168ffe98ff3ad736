//! The signed form of a verdict: what a relying party of another make sees of it.

use crate::ways::verdict_key;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cgpath_appraisal::ear::{AttestationResult, EarStatus, Scope, Standing, Terms};
use cgpath_appraisal::{Verdict, appraise, ear};
use cgpath_testkit::{Actor, KeyKind, NOW, Node, pod, sha256};
use p256::ecdsa::{Signature, signature::Verifier};
use serde_json::Value;

const NONCE: &[u8] = b"the nonce of this request";

fn node() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    for n in [1, 2] {
        node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
    }
    node
}

fn appraised(node: &mut Node) -> Verdict {
    let evidence = node.attest(NONCE);
    appraise(&evidence, &node.policy(), &node.context(NONCE, None)).unwrap()
}

/// The claims of a token whose signature verifies.
fn claims(verdict: &Verdict) -> Value {
    issued(verdict, &Terms::new(Scope::All, Some(NONCE)))
}

/// The same on other terms.
fn issued(verdict: &Verdict, terms: &Terms<'_>) -> Value {
    let key = verdict_key();
    let token = ear::issue(verdict, terms, &key).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    assert_eq!(header, serde_json::json!({"alg": "ES256", "typ": "JWT"}));
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
    key.verifying_key()
        .verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &signature)
        .unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap()
}

#[test]
fn the_claims_are_those_of_the_draft() {
    let claims = claims(&appraised(&mut node()));
    assert_eq!(claims["eat_profile"], "tag:ietf.org,2026:rats/ear#04");
    assert_eq!(claims["iat"], NOW);
    assert_eq!(claims["exp"], NOW + ear::LIFETIME);
    assert_eq!(claims["aud"], ear::ANYONE);
    assert_eq!(claims["eat_nonce"], URL_SAFE_NO_PAD.encode(NONCE));
    assert!(
        claims["ear_verifier_id"]["build"]
            .as_str()
            .unwrap()
            .starts_with("cgpath ")
    );
    let submods = claims["submods"].as_object().unwrap();
    assert_eq!(submods.len(), 3);
    for appraisal in submods.values() {
        assert!(appraisal["ear_trustworthiness_vector"]["executables"].is_i64());
        assert!(
            appraisal["ear_appraisal_policy_ids"][0]
                .as_str()
                .unwrap()
                .starts_with("sha256:")
        );
    }
}

#[test]
fn nothing_is_affirmed_while_a_dangerous_key_is_in_force() {
    let verdict = appraised(&mut node());
    assert!(verdict.trusted);
    let with = claims(&verdict);
    assert_eq!(with["submods"]["node"]["ear_status"], "warning");
    assert_eq!(
        with["submods"]["node"]["ear_verifier_claims"]["dangerous"][0],
        "dangerous-boot-not-judged"
    );
    // As it would be with rule V10 judged.
    let mut altered = verdict;
    altered.dangerous.clear();
    assert_eq!(claims(&altered)["submods"]["node"]["ear_status"], "affirming");
    assert_eq!(
        claims(&altered)["submods"][pod(1).to_string()]["ear_status"],
        "affirming"
    );
    altered.pods[0].learned = true;
    assert_eq!(
        claims(&altered)["submods"][pod(1).to_string()]["ear_status"],
        "warning"
    );
}

#[test]
fn a_tampered_pod_is_contraindicated_alone_and_an_unbelieved_node_altogether() {
    let mut tampered = node();
    tampered.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &sha256(b"evil"));
    let one = claims(&appraised(&mut tampered));
    assert_eq!(
        one["submods"][pod(2).to_string()]["ear_status"],
        "contraindicated"
    );
    assert_eq!(
        one["submods"][pod(2).to_string()]["ear_verifier_claims"]["failed-rules"][0],
        "V9"
    );
    assert_ne!(
        one["submods"][pod(1).to_string()]["ear_status"],
        "contraindicated"
    );
    assert_ne!(one["submods"]["node"]["ear_status"], "contraindicated");

    let mut node = node();
    node.ak.attributes = 0;
    let all = claims(&appraised(&mut node));
    for (name, appraisal) in all["submods"].as_object().unwrap() {
        assert_eq!(appraisal["ear_status"], "contraindicated", "{name}");
        assert_eq!(
            appraisal["ear_trustworthiness_vector"]["instance-identity"], 99,
            "{name}"
        );
    }
}

#[test]
fn what_is_not_current_says_so_and_affirms_nothing() {
    let verdict = appraised(&mut node());
    for (standing, said) in [(Standing::Stale, "stale"), (Standing::Stopped, "stopped")] {
        let terms = Terms {
            standing: Some(standing),
            ..Terms::new(Scope::All, Some(NONCE))
        };
        let claims = issued(&verdict, &terms);
        for (name, appraisal) in claims["submods"].as_object().unwrap() {
            assert_eq!(appraisal["ear_status"], "none", "{name}");
            assert_eq!(appraisal["ear_verifier_claims"]["standing"], said, "{name}");
            for value in appraisal["ear_trustworthiness_vector"]
                .as_object()
                .unwrap()
                .values()
            {
                assert_eq!(*value, 0, "{name}");
            }
        }
    }
    assert!(
        claims(&verdict)["submods"]["node"]["ear_verifier_claims"]
            .get("standing")
            .is_none()
    );
}

#[test]
fn who_may_see_pods_alone_is_sent_nothing_of_the_nodes_own_rules() {
    // A rule of the node's fails. A reader who may see a pod alone does not learn which one.
    let mut node = node();
    node.ak.attributes = 0;
    let verdict = appraised(&mut node);
    assert_eq!(
        claims(&verdict)["submods"]["node"]["ear_verifier_claims"]["failed-rules"][0],
        "V1"
    );
    for scope in [Scope::Pods, Scope::Pod(pod(1))] {
        let claims = issued(&verdict, &Terms::new(scope, Some(NONCE)));
        let node = &claims["submods"]["node"];
        assert_eq!(node["ear_status"], "contraindicated");
        assert!(
            node["ear_verifier_claims"].get("failed-rules").is_none(),
            "{node}"
        );
        assert!(!node.to_string().contains("V1"), "{node}");
        assert_eq!(node["ear_trustworthiness_vector"]["instance-identity"], 2);
    }
}

#[test]
fn who_reads_a_result_learns_its_end_and_its_audience() {
    let verdict = appraised(&mut node());
    let key = verdict_key();
    let terms = Terms {
        audience: "https://relying.example".into(),
        lifetime: 60,
        ..Terms::new(Scope::Pod(pod(1)), Some(NONCE))
    };
    let token = ear::issue(&verdict, &terms, &key).unwrap();
    let read = AttestationResult::read(&token, &[*key.verifying_key()]).unwrap();
    assert_eq!((read.time, read.expires), (NOW, Some(NOW + 60)));
    assert_eq!(read.audience.as_deref(), Some("https://relying.example"));
    assert_eq!(read.node, EarStatus::Warning);
}
