//! Events: a change of a verdict as a CloudEvent, signed so that its receiver can refuse what is forged or
//! replayed.
//!
//! Body: CloudEvents 1.0, structured JSON (section 3.2 of its JSON format). Signature: a detached JWS (RFC
//! 7515 appendix F) with ES256 over the body's bytes, by the key that signs EARs; its header says when it was
//! sent (`iat`). `sequence` counts from 1 without gaps, so a receiver needs to remember one number and
//! nothing else. Not here: delivery, and clocks.

use crate::jws;
use crate::results::verdict::State;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cgpath_evidence::PodUid;
use p256::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Verifier};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// `type` of a change.
pub const CHANGED: &str = "ima-cgpath.verdict.changed";
/// `type` of what stands for events that were dropped since too many waited.
pub const DROPPED: &str = "ima-cgpath.events.dropped";
/// The HTTP header with the signature.
pub const SIGNATURE_HEADER: &str = "cgpath-signature";
/// `Content-Type` of a body.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";
/// `typ` of a signature's header.
const TYP: &str = "cgpath-event+jws";
/// A signature is never longer than this many bytes.
const MAX_SIGNATURE: usize = 1024;
/// How far a sender's clock may be ahead, in seconds.
const MAX_AHEAD: u64 = 60;

/// A change of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Counts all changes of a verifier from 1, without gaps.
    pub number: u64,
    /// The node.
    pub node: String,
    /// The pod; absent where it is the node itself that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodUid>,
    /// The pod's name in the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it was; absent where there was no verdict about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<State>,
    /// What it is; absent where the evidence does not name it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<State>,
    /// Rules that fail now, each once.
    pub rules: Vec<String>,
    /// What changed it: `evidence`, or what it was re-appraised for.
    pub cause: String,
}

/// Events that were dropped, all of `first..=last`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The number of the first one.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Data {
    /// See [`CHANGED`].
    Change(Change),
    /// See [`DROPPED`].
    Dropped(Dropped),
}

impl Data {
    /// The numbers that the event stands for, both included.
    pub fn numbers(&self) -> (u64, u64) {
        match self {
            Data::Change(change) => (change.number, change.number),
            Data::Dropped(dropped) => (dropped.first, dropped.last),
        }
    }
}

/// An event in the shape of CloudEvents 1.0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: String,
    /// Unique among the source's events, also for one that is sent again.
    pub id: String,
    /// Which verifier: see [`source`].
    pub source: String,
    /// [`CHANGED`] or [`DROPPED`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The node, or `NODE/pods/UID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it happened (RFC 3339).
    pub time: String,
    /// `application/json`.
    pub datacontenttype: String,
    /// The last number that it stands for, in decimal digits.
    pub sequence: String,
    /// What it says.
    pub data: Data,
}

/// The name of a verifier as a source: `urn:ima-cgpath:verifier:` and the first half of SHA-256 over its
/// public key (SEC1, compressed), in hex.
pub fn source(key: &VerifyingKey) -> String {
    let digest = Sha256::digest(key.to_encoded_point(true).as_bytes());
    format!("urn:ima-cgpath:verifier:{}", hex::encode(&digest[..16]))
}

impl CloudEvent {
    /// An event that happened at `time`, in unix seconds.
    pub fn new(id: String, source: String, time: u64, data: Data) -> CloudEvent {
        let (kind, subject) = match &data {
            Data::Change(change) => {
                let pod = change.pod.map(|uid| format!("{}/pods/{uid}", change.node));
                (CHANGED, Some(pod.unwrap_or_else(|| change.node.clone())))
            }
            Data::Dropped(_) => (DROPPED, None),
        };
        CloudEvent {
            specversion: "1.0".to_owned(),
            id,
            source,
            kind: kind.to_owned(),
            subject,
            time: format!("{}Z", crate::text::utc(time).replace(' ', "T")),
            datacontenttype: "application/json".to_owned(),
            sequence: data.numbers().1.to_string(),
            data,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    iat: u64,
}

/// The signature of `body`, sent at `now` in unix seconds: `header..signature`.
///
/// # Errors
/// Those of the JSON encoder.
pub fn sign(body: &[u8], now: u64, key: &SigningKey) -> Result<String, serde_json::Error> {
    let header = Header {
        alg: "ES256".to_owned(),
        typ: TYP.to_owned(),
        iat: now,
    };
    let whole = jws::sign_bytes(&serde_json::to_vec(&header)?, body, key);
    let (header, rest) = whole.split_once('.').unwrap_or_default();
    let signature = rest.rsplit('.').next().unwrap_or_default();
    Ok(format!("{header}..{signature}"))
}

/// Why an event is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The signature's text is none of a detached JWS with our header.
    #[error("the signature is not a detached JWS of an event: {0}")]
    Signature(String),
    /// Nobody with this key signed these bytes.
    #[error("the signature is not the verifier's over this body")]
    Forged,
    /// It was sent too long ago.
    #[error("it was sent {0} s ago: a replay, or a clock that is wrong")]
    Old(u64),
    /// It was sent in the future.
    #[error("it was sent {0} s ahead of this clock")]
    Ahead(u64),
    /// The body is no event.
    #[error("the body is not an event: {0}")]
    Body(String),
    /// It was sent by another verifier than the key's.
    #[error("its source is {found}, the key's is {expected}")]
    Source {
        /// What it says.
        found: String,
        /// What it must say.
        expected: String,
    },
    /// It was taken before.
    #[error("event {number} was taken before: the last one was {last}")]
    Replayed {
        /// Its number.
        number: u64,
        /// The last number that was taken.
        last: u64,
    },
}

/// What a receiver remembers: the last number that it took, for each source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// By source.
    pub last: BTreeMap<String, u64>,
}

/// An event that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The event.
    pub event: CloudEvent,
    /// Numbers between the last event and this one that never came, both included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<(u64, u64)>,
}

/// Checks a delivery as of `now` (unix seconds) and remembers it: signed by `key`, sent at most `max_age`
/// seconds ago, and not taken before. A receiver that gets [`Refused::Replayed`] answers as if it were new,
/// so that it is not sent again.
///
/// # Errors
/// [`Refused`]; nothing is remembered then.
pub fn take(
    body: &[u8],
    signature: &str,
    key: &VerifyingKey,
    now: u64,
    max_age: u64,
    taken: &mut Taken,
) -> Result<Accepted, Refused> {
    let wrong = |why: &str| Refused::Signature(why.to_owned());
    if signature.len() > MAX_SIGNATURE {
        return Err(wrong("too long"));
    }
    let (protected, signed) = signature
        .split_once("..")
        .ok_or_else(|| wrong("no `..` between header and signature"))?;
    let bytes = |text: &str| {
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|e| wrong(&format!("base64url: {e}")))
    };
    let header: Header = serde_json::from_slice(&bytes(protected)?)
        .map_err(|e| wrong(&format!("header: {}", crate::text::library_message(&e))))?;
    if header.alg != "ES256" || header.typ != TYP {
        return Err(wrong("alg is not ES256, or typ is another"));
    }
    let parsed = Signature::from_slice(&bytes(signed)?).map_err(|_| wrong("not 64 bytes of ES256"))?;
    let message = format!("{protected}.{}", URL_SAFE_NO_PAD.encode(body));
    key.verify(message.as_bytes(), &parsed)
        .map_err(|_| Refused::Forged)?;
    if now.saturating_sub(header.iat) > max_age {
        return Err(Refused::Old(now - header.iat));
    }
    if header.iat.saturating_sub(now) > MAX_AHEAD {
        return Err(Refused::Ahead(header.iat - now));
    }
    let event: CloudEvent =
        serde_json::from_slice(body).map_err(|e| Refused::Body(crate::text::library_message(&e)))?;
    let expected = source(key);
    if event.source != expected {
        return Err(Refused::Source {
            found: event.source,
            expected,
        });
    }
    let (first, number) = event.data.numbers();
    if event.sequence != number.to_string() || first > number {
        return Err(Refused::Body("sequence and data differ".to_owned()));
    }
    let last = taken.last.get(&event.source).copied();
    if let Some(last) = last.filter(|last| number <= *last) {
        return Err(Refused::Replayed { number, last });
    }
    taken.last.insert(event.source.clone(), number);
    let missing = last.filter(|last| first > last + 1);
    Ok(Accepted {
        event,
        missing: missing.map(|last| (last + 1, first - 1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_slice(&[n; 32]).unwrap()
    }

    fn body(number: u64) -> Vec<u8> {
        let change = Change {
            number,
            node: "worker-1".to_owned(),
            pod: None,
            name: None,
            old: Some(State::Trusted),
            new: Some(State::Untrusted),
            rules: vec!["V9".to_owned()],
            cause: "evidence".to_owned(),
        };
        let event = CloudEvent::new(
            format!("e{number}"),
            source(key(7).verifying_key()),
            NOW,
            Data::Change(change),
        );
        serde_json::to_vec(&event).unwrap()
    }

    fn receive(body: &[u8], signature: &str, now: u64, taken: &mut Taken) -> Result<Accepted, Refused> {
        take(body, signature, key(7).verifying_key(), now, 300, taken)
    }

    #[test]
    fn an_event_is_taken_once_and_a_gap_is_named() {
        let mut taken = Taken::default();
        let signature = sign(&body(1), NOW, &key(7)).unwrap();
        let accepted = receive(&body(1), &signature, NOW + 5, &mut taken).unwrap();
        assert_eq!(
            (accepted.missing, &*accepted.event.time),
            (None, "2027-01-15T08:00:00Z")
        );
        for later in [0, 10, 299] {
            assert_eq!(
                receive(&body(1), &signature, NOW + later, &mut taken),
                Err(Refused::Replayed { number: 1, last: 1 })
            );
        }
        // Signed anew, it is still the same event.
        let again = sign(&body(1), NOW + 9000, &key(7)).unwrap();
        assert!(matches!(
            receive(&body(1), &again, NOW + 9000, &mut taken),
            Err(Refused::Replayed { .. })
        ));
        let signature = sign(&body(4), NOW, &key(7)).unwrap();
        assert_eq!(
            receive(&body(4), &signature, NOW, &mut taken).unwrap().missing,
            Some((2, 3))
        );
    }

    #[test]
    fn what_is_old_forged_altered_or_anothers_is_refused_and_not_remembered() {
        let mut taken = Taken::default();
        let good = sign(&body(1), NOW, &key(7)).unwrap();
        assert_eq!(
            receive(&body(1), &good, NOW + 301, &mut taken),
            Err(Refused::Old(301))
        );
        assert_eq!(
            receive(&body(1), &good, NOW - 61, &mut taken),
            Err(Refused::Ahead(61))
        );
        assert_eq!(receive(&body(2), &good, NOW, &mut taken), Err(Refused::Forged));
        let foreign = sign(&body(1), NOW, &key(8)).unwrap();
        assert_eq!(receive(&body(1), &foreign, NOW, &mut taken), Err(Refused::Forged));
        let elsewhere = take(&body(1), &foreign, key(8).verifying_key(), NOW, 300, &mut taken);
        assert!(matches!(elsewhere, Err(Refused::Source { .. })), "{elsewhere:?}");
        let text = String::from_utf8(body(1)).unwrap();
        let other = text
            .replace("\"sequence\":\"1\"", "\"sequence\":\"9\"")
            .into_bytes();
        let signed = sign(&other, NOW, &key(7)).unwrap();
        assert!(matches!(
            receive(&other, &signed, NOW, &mut taken),
            Err(Refused::Body(_))
        ));
        for bad in ["", "..", "a.b.c", &good.replace("..", ".x."), &"a".repeat(2000)] {
            assert!(receive(&body(1), bad, NOW, &mut taken).is_err(), "{bad}");
        }
        assert_eq!(taken, Taken::default());
    }
}
