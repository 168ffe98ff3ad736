//! Signed JSON in compact form (RFC 7515 section 3.1) with ES256: what results and statements have in common.
//! Not here: reading them; each says by itself what it refuses.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use serde::Serialize;

#[derive(Serialize)]
struct Header {
    alg: &'static str,
    typ: &'static str,
}

/// The header with `typ`, the claims, and the signature of both by `key`.
///
/// # Errors
/// Those of the JSON encoder.
pub fn sign(
    typ: &'static str,
    claims: &impl Serialize,
    key: &SigningKey,
) -> Result<String, serde_json::Error> {
    let header = serde_json::to_vec(&Header { alg: "ES256", typ })?;
    let claims = serde_json::to_vec(claims)?;
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let message = format!("{header}.{claims}");
    let signature: Signature = key.sign(message.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(signature.to_bytes());
    Ok(format!("{message}.{signature}"))
}
