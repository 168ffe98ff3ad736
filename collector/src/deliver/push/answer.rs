//! What the verifier answers: a nonce with its position, and a verdict.
//!
//! Promise: pure; an answer that is not understood whole gives nothing.

use crate::request::PodVerdicts;
use cgpath_evidence::{Cursor, PodUid};
use serde::Deserialize;
use std::collections::BTreeSet;

#[derive(Deserialize)]
struct NonceAnswer {
    nonce: String,
    position: Option<Cursor>,
}

/// The nonce in the verifier's answer, 8 to 64 bytes, and its position where it follows this node.
///
/// # Errors
/// Why there is none.
pub fn parse_nonce(answer: &[u8]) -> Result<(Vec<u8>, Option<Cursor>), String> {
    let parsed: NonceAnswer = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
    let nonce = hex::decode(&parsed.nonce).map_err(|e| e.to_string())?;
    if (8..=64).contains(&nonce.len()) {
        Ok((nonce, parsed.position))
    } else {
        Err(format!("a nonce of {} bytes", nonce.len()))
    }
}

/// What a verdict says; nothing if it is none that can be understood, so that nothing follows.
pub fn parse_verdict(verdict: &serde_json::Value) -> Option<PodVerdicts> {
    let believed = verdict.pointer("/node/believed")?.as_bool()?;
    let pods = verdict.get("pods")?.as_array()?;
    let mut charged = BTreeSet::new();
    for pod in pods {
        let uid = PodUid::parse(pod.get("uid")?.as_str()?.as_bytes())?;
        let is_charged = pod.get("charged")?.as_bool()?;
        if pod.get("state")?.as_str()? == "untrusted" && is_charged {
            charged.insert(uid);
        }
    }
    Some(PodVerdicts { believed, charged })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_with_a_nonce_or_does_not_and_one_that_cannot_be_read_is_an_error() {
        let position = format!(
            r#"{{"base":"{0}","boot_id":"{1}","entries":7,"checkpoint":2,"digest":"{0}"}}"#,
            "ab".repeat(32),
            "cd".repeat(16)
        );
        let asked = |position: &str| {
            parse_nonce(format!(r#"{{"nonce":"{}"{position}}}"#, "00".repeat(32)).as_bytes())
        };
        assert_eq!(asked("").unwrap().1, None);
        let found = asked(&format!(r#","position":{position}"#)).unwrap().1.unwrap();
        assert_eq!(
            (found.entries, found.checkpoint, found.boot_id),
            (7, 2, [0xcd; 16])
        );
        assert!(asked(r#","position":{"entries":7}"#).is_err());
    }

    #[test]
    fn only_a_verdict_that_is_understood_whole_says_whom_to_deny() {
        fn pod(uid: &str, state: &str, charged: bool) -> serde_json::Value {
            serde_json::json!({"uid": uid, "state": state, "charged": charged})
        }
        fn answer(believed: bool, pods: Vec<serde_json::Value>) -> serde_json::Value {
            serde_json::json!({"node": {"believed": believed}, "pods": pods})
        }
        let (a, b) = (
            "11111111-0000-4000-8000-000000000001",
            "22222222-0000-4000-8000-000000000002",
        );
        for believed in [true, false] {
            // The second is untrusted since the node is not believed.
            let whole = answer(
                believed,
                vec![pod(a, "untrusted", true), pod(b, "untrusted", false)],
            );
            let found = parse_verdict(&whole).unwrap();
            assert_eq!(found.believed, believed);
            assert_eq!(
                found.charged.iter().map(PodUid::to_string).collect::<Vec<_>>(),
                [a]
            );
        }
        // In no policy: the node's affair.
        let unknown = parse_verdict(&answer(true, vec![pod(a, "unknown", true)])).unwrap();
        assert!(unknown.charged.is_empty());
        for odd in [
            serde_json::Value::Null,
            serde_json::json!({"node": {"believed": true}, "pods": 1}),
            serde_json::json!({"pods": [pod(a, "untrusted", true)]}),
            answer(true, vec![pod(a, "untrusted", true), pod("x", "trusted", false)]),
            answer(true, vec![serde_json::json!({"uid": a})]),
            answer(true, vec![serde_json::json!({"uid": a, "state": "untrusted"})]),
        ] {
            assert_eq!(parse_verdict(&odd), None, "{odd}");
        }
    }
}
