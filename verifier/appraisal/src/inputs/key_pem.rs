//! An attestation key in PEM: a SubjectPublicKeyInfo (RFC 5280, RFC 7468), as `openssl` and
//! `tpm2_readpublic -f pem` write it.
//!
//! It names the key alone, not what the TPM lets it sign. Promise: what it becomes is a key with exactly the
//! attributes and the scheme that `cgpathd` gives its own, so that any other key with these numbers is not
//! the pinned one. Not here: how a quote is checked (see `v01_quote`).

use crate::inputs::context::KeyError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cgpath_evidence::tpm::{Attributes, ECC_NIST_P256, KeyKind, Public, Scheme, alg};
use cgpath_evidence::{Bank, text::quoted};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::pkcs8::DecodePublicKey as _;
use rsa::traits::PublicKeyParts as _;

/// What a line begins with that begins and ends what PEM holds, and what such a line ends with.
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const LABEL: &str = "PUBLIC KEY";
/// As `cgpathd` makes it: collector/src/tpm/key.rs, `template`.
const ATTRIBUTES: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::RESTRICTED
    | Attributes::SIGN;
const RSA_BITS: usize = 2048;

/// The lines of a text, whatever ends them, without byte order marks and blanks.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', '\r'])
        .map(|line| line.trim_start_matches('\u{feff}').trim())
}

/// Whether these bytes are PEM, whatever is in it.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    lines(&String::from_utf8_lossy(bytes)).any(|line| line.starts_with(BEGIN))
}

/// The bytes of the one key in a text. As RFC 7468, section 2, lets a reader do: text around it, blanks and
/// the lengths of lines mean nothing.
fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut lines = lines(text).skip_while(|line| !line.starts_with(BEGIN));
    let label = |line: &str, begin: &str| -> Option<String> {
        let label = line.strip_prefix(begin)?.strip_suffix(DASHES)?;
        Some(label.to_owned())
    };
    let first = lines.next().and_then(|line| label(line, BEGIN));
    let first = first.ok_or("its BEGIN line is none")?;
    let (mut body, mut is_ended) = (String::new(), false);
    for line in lines {
        if line.starts_with(BEGIN) {
            return Err("it holds more than one key or certificate".into());
        }
        if line.starts_with(END) {
            if is_ended || label(line, END).as_ref() != Some(&first) {
                return Err("its END line does not fit its BEGIN line".into());
            }
            is_ended = true;
        } else if !is_ended {
            body.extend(line.split_whitespace());
        }
    }
    if first != LABEL {
        return Err(format!("it holds a {}", quoted(first)));
    }
    if !is_ended {
        return Err("it has no END line: the file is cut".into());
    }
    BASE64
        .decode(&body)
        .map_err(|_| "what stands between its BEGIN and END lines is not base64".into())
}

/// The key that `cgpathd` would have made with this public key.
///
/// # Errors
/// [`KeyError::Pem`] for what is in PEM and no public key of a kind that `cgpathd` makes.
pub(crate) fn public(bytes: &[u8]) -> Result<Public, KeyError> {
    let bad = |why: String| KeyError::Pem(why);
    let der = decoded(&String::from_utf8_lossy(bytes)).map_err(bad)?;
    let hash = Bank::Sha256.tpm_alg();
    let key = if let Ok(key) = p256::PublicKey::from_public_key_der(&der) {
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
    } else if let Ok(key) = rsa::RsaPublicKey::from_public_key_der(&der) {
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
