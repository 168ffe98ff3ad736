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
    Ok(sign_bytes(&header, &serde_json::to_vec(claims)?, key))
}

/// The same for a header and a payload that are bytes already.
pub fn sign_bytes(header: &[u8], payload: &[u8], key: &SigningKey) -> String {
    let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
    let message = format!("{header}.{payload}");
    let signature: Signature = key.sign(message.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(signature.to_bytes());
    format!("{message}.{signature}")
}
