//! An attestation key in PEM: a SubjectPublicKeyInfo (RFC 5280, RFC 7468), as `openssl` and
//! `tpm2_readpublic -f pem` write it.
//!
//! It names the key alone, not what the TPM lets it sign. Promise: what it becomes is a key with exactly the
//! attributes and the scheme that `cgpathd` gives its own, so that any other key with these numbers is not
//! the pinned one. Not here: how a quote is checked (see `v01_quote`).

use crate::inputs::context::KeyError;
use cgpath_evidence::tpm::{Attributes, ECC_NIST_P256, KeyKind, Public, Scheme, alg};
use cgpath_evidence::{Bank, text::quoted};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::pkcs8::{DecodePublicKey as _, Document};
use rsa::traits::PublicKeyParts as _;

/// What a PEM file begins with.
const BEGIN: &[u8] = b"-----BEGIN ";
/// As `cgpathd` makes it: collector/src/tpm/key.rs, `template`.
const ATTRIBUTES: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::RESTRICTED
    | Attributes::SIGN;
const RSA_BITS: usize = 2048;

/// Whether these bytes are PEM, whatever is in it.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(BEGIN)
}

/// The key that `cgpathd` would have made with this public key.
///
/// # Errors
/// [`KeyError::Pem`] for what is in PEM and no public key of a kind that `cgpathd` makes.
pub(crate) fn public(bytes: &[u8]) -> Result<Public, KeyError> {
    let bad = |why: String| KeyError::Pem(why);
    let text = core::str::from_utf8(bytes).map_err(|_| bad("it is not text".into()))?;
    let (label, document) =
        Document::from_pem(text.trim_start()).map_err(|e| bad(format!("it cannot be decoded ({e})")))?;
    if label != "PUBLIC KEY" {
        return Err(bad(format!("it holds a {}", quoted(label))));
    }
    let hash = Bank::Sha256.tpm_alg();
    let key = if let Ok(key) = p256::PublicKey::from_public_key_der(document.as_bytes()) {
        let point = key.to_encoded_point(false);
        let (Some(x), Some(y)) = (point.x(), point.y()) else {
            return Err(bad("its point is none".into()));
        };
        KeyKind::Ecc {
            scheme: Scheme::new(alg::ECDSA, hash),
            curve: ECC_NIST_P256,
            kdf: Scheme::NULL,
            x: x.to_vec(),
            y: y.to_vec(),
        }
    } else if let Ok(key) = rsa::RsaPublicKey::from_public_key_der(document.as_bytes()) {
        let bits = key.size() * 8;
        if bits != RSA_BITS || *key.e() != rsa::BigUint::from(65_537u32) {
            return Err(bad(format!("its RSA key has {bits} bits or an unusual exponent")));
        }
        KeyKind::Rsa {
            scheme: Scheme::new(alg::RSASSA, hash),
            bits: RSA_BITS as u16,
            exponent: 0,
            modulus: key.n().to_bytes_be(),
        }
    } else {
        return Err(bad("its key is neither NIST P-256 nor RSA".into()));
    };
    Ok(Public {
        name_alg: hash,
        attributes: Attributes(ATTRIBUTES),
        auth_policy: Vec::new(),
        symmetric: None,
        key,
    })
}
