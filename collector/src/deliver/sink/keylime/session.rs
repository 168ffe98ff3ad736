//! How a node shows the verifier who it is: the attestation key certifies itself over the verifier's
//! challenge, and gets a token for the requests that follow.
//!
//! Source: keylime/web/verifier/session_controller.py.

use super::http::{Ask, Service};
use super::wire::{
    Document, JSON_API, POP, ProvidedProof, SessionChallenge, SessionProof, SessionRequest, SessionResult,
    Signed,
};
use super::{KeylimeError, decode, encode};
use crate::tpm::TpmAccess;
use hyper::Method;

/// Opens a session and gives its token.
///
/// # Errors
/// [`KeylimeError::Stranger`] where the verifier does not take the proof: it does not know the agent, or
/// knows another key of it.
pub(super) async fn open<T: TpmAccess>(
    verifier: &Service,
    agent: &str,
    tpm: &T,
) -> Result<String, KeylimeError> {
    let request = Document::new(
        "session",
        SessionRequest {
            agent_id: agent,
            authentication_supported: vec![POP],
        },
    );
    let asked: Document<SessionChallenge> = verifier
        .send(ask(Method::POST, "/v3.0/sessions", &request))
        .await?;
    let id = asked.data.id.filter(|id| is_name(id));
    let id = id.ok_or_else(|| verifier.answer("its session has no id, or one that is no name"))?;
    let proof = asked.data.attributes.authentication_requested;
    let [proof] = &proof[..] else {
        return Err(verifier.answer("it asks for another number of proofs than one"));
    };
    if proof.authentication_type != POP.authentication_type {
        return Err(KeylimeError::Unknown {
            what: "proof",
            asked: proof.authentication_type.clone(),
        });
    }
    let challenge = decode(verifier, &proof.chosen_parameters.challenge)?;
    let certified = tpm.with(move |tpm| tpm.certify_key(&challenge)).await?;
    let request = Document::new(
        "session",
        SessionProof {
            agent_id: agent,
            authentication_provided: vec![ProvidedProof {
                method: POP,
                data: Signed {
                    message: encode(&certified.attest),
                    signature: encode(&certified.signature),
                },
            }],
        },
    );
    let path = format!("/v3.0/sessions/{id}");
    let result: Result<Document<SessionResult>, _> = verifier.send(ask(Method::PATCH, &path, &request)).await;
    match result {
        Ok(result) => {
            let result = result.data.attributes;
            let token = result.token.filter(|_| result.evaluation == "pass");
            token.ok_or(KeylimeError::Stranger)
        }
        Err(KeylimeError::Refused { status: 401, .. }) => Err(KeylimeError::Stranger),
        Err(other) => Err(other),
    }
}

/// Whether it can be a part of a path as it is.
fn is_name(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn ask<'a, B>(method: Method, path: &'a str, body: &'a B) -> Ask<'a, B> {
    Ask {
        method,
        path,
        media: JSON_API,
        token: None,
        body,
    }
}
