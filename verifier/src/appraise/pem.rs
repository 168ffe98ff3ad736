//! An attestation key in PEM: a SubjectPublicKeyInfo (RFC 5280, RFC 7468), as `openssl` and `tpm2_readpublic -f pem` write it.
//!
//! It names the key alone, not what the TPM lets it sign. Promise: what it becomes is a key with exactly the attributes
//! and the scheme that `cgpathd` gives its own, so that any other key with these numbers is not the pinned one. Not here:
//! how a quote is checked (see `quote`).

use super::quote::KeyError;
use cgpath_evidence::tpm::{Attributes, ECC_NIST_P256, KeyKind, Public, Scheme, alg};
use cgpath_evidence::{Bank, text::quoted};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::pkcs8::{DecodePublicKey as _, Document};
use rsa::traits::PublicKeyParts as _;

/// What a PEM file begins with.
const BEGIN: &[u8] = b"-----BEGIN ";
/// As `cgpathd` makes it: collector/src/tpm.rs, `template`.
const ATTRIBUTES: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::RESTRICTED
    | Attributes::SIGN;
const RSA_BITS: usize = 2048;

/// Whether these bytes are PEM, whatever is in it.
pub(super) fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(BEGIN)
}

/// The key that `cgpathd` would have made with this public key.
///
/// # Errors
/// [`KeyError::Pem`] for what is in PEM and no public key of a kind that `cgpathd` makes.
pub(super) fn public(bytes: &[u8]) -> Result<Public, KeyError> {
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

#[cfg(all(test, feature = "test-support"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
    use super::super::PinnedKey;
    use super::*;
    use crate::testing::{AttestationKey, KeyKind};
    use cgpath_evidence::tpm::VerifyingKey;
    use p256::pkcs8::{EncodePublicKey as _, LineEnding};

    fn pem(key: &AttestationKey) -> String {
        let public = Public::parse(&key.public()).unwrap();
        let text = match public.verifying_key().unwrap() {
            VerifyingKey::P256(key) => p256::PublicKey::from(key).to_public_key_pem(LineEnding::LF),
            VerifyingKey::Rsa(key) => key.to_public_key_pem(LineEnding::LF),
        };
        text.unwrap()
    }

    #[test]
    fn a_key_in_pem_is_the_one_that_the_collector_made_and_no_other() {
        for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048] {
            let mut key = AttestationKey::new(kind, 1);
            key.attributes = ATTRIBUTES;
            let text = pem(&key);
            let pinned = PinnedKey::from_public(text.as_bytes()).unwrap();
            assert_eq!(pinned, PinnedKey::Public(key.public()), "{text}");
            assert_eq!(pinned.name(), Some(key.name()));
            let padded = format!("\n\n{}", text.replace('\n', "\r\n"));
            assert_eq!(PinnedKey::from_public(padded.as_bytes()), Ok(pinned.clone()));
            // The same numbers in a key that may sign what anybody gives it.
            key.attributes &= !Attributes::RESTRICTED;
            assert_ne!(pinned.name(), Some(key.name()));
        }
        let (one, two) = (
            AttestationKey::new(KeyKind::EcdsaP256, 1),
            AttestationKey::new(KeyKind::EcdsaP256, 2),
        );
        assert_ne!(
            PinnedKey::from_public(pem(&one).as_bytes()).unwrap(),
            PinnedKey::from_public(pem(&two).as_bytes()).unwrap()
        );
    }

    #[test]
    fn what_is_in_pem_and_no_such_key_is_refused_with_what_it_is() {
        let text = pem(&AttestationKey::new(KeyKind::EcdsaP256, 1));
        let relabelled = |label: &str| text.replace("PUBLIC KEY", label);
        // An Ed25519 key: RFC 8410, section 10.1.
        let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                     -----END PUBLIC KEY-----\n";
        for (bad, why) in [
            (relabelled("CERTIFICATE"), "CERTIFICATE"),
            (relabelled("RSA PUBLIC KEY"), "RSA PUBLIC KEY"),
            (relabelled("PRIVATE KEY"), "PRIVATE KEY"),
            (text.replacen("M", "*", 1), "decoded"),
            (text[..text.len() - 30].to_owned(), "decoded"),
            (other.to_owned(), "neither NIST P-256 nor RSA"),
        ] {
            let error = PinnedKey::from_public(bad.as_bytes()).unwrap_err();
            assert!(
                matches!(error, KeyError::Pem(_)) && error.to_string().contains(why),
                "{bad}: {error}"
            );
        }
    }
}
