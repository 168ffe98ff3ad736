//! V1: a TPM's quote, by the pinned, restricted, fixedTPM signing key, over this request's nonce and
//! registers that are of use.
//!
//! Promise: a [`Quoted`] is what the attestation says, whether or not to believe it: that is what the
//! findings tell. Signatures are checked in pure Rust. Not here: how the structures are read (see
//! `cgpath_evidence::tpm`).

use crate::inputs::context::{Context, ExpectedNonce, KeyError, NodeState, PinnedKey};
use crate::inputs::key_pem;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use cgpath_evidence::{
    Bank, Digest, Quote,
    boot::Registers,
    quoted::QuotedRegisters,
    tpm::{Attest, Attributes, Public, Signature, VerifyingKey, alg},
};
use sha2::{Digest as _, Sha256};

/// The only hash of key names and signing schemes that is accepted.
const HASH: Bank = Bank::Sha256;

/// TPMA_OBJECT bits that a key must have, with their names. TPM 2.0 Part 2, 8.3.
const REQUIRED: [(u32, &str); 5] = [
    (Attributes::FIXED_TPM, "fixedTPM"),
    (Attributes::FIXED_PARENT, "fixedParent"),
    (Attributes::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
    (Attributes::RESTRICTED, "restricted"),
    (Attributes::SIGN, "sign"),
];

/// The Name of a key: its name algorithm, big-endian, and the hash of its TPMT_PUBLIC. TPM 2.0 Part 1, 16.
///
/// # Errors
/// [`KeyError`] if `public` is not a TPMT_PUBLIC, or its name algorithm is not SHA-256.
pub fn key_name(public: &[u8]) -> Result<Vec<u8>, KeyError> {
    let parsed = Public::parse(public)?;
    if parsed.name_alg != HASH.tpm_alg() {
        return Err(KeyError::NameAlgorithm(parsed.name_alg));
    }
    Ok(name(public))
}

pub(crate) fn name(public: &[u8]) -> Vec<u8> {
    [&HASH.tpm_alg().to_be_bytes(), HASH.hash(&[public]).bytes()].concat()
}

/// Checks a TPMT_SIGNATURE over `message`, by the scheme that the key itself names where it names one.
fn verify(public: &Public, message: &[u8], signature: &[u8]) -> Result<(), String> {
    let signature = Signature::parse(signature).map_err(|e| e.to_string())?;
    let key = public.verifying_key().map_err(|e| e.to_string())?;
    let scheme = match signature {
        Signature::Ecdsa { .. } => alg::ECDSA,
        Signature::Rsassa { .. } => alg::RSASSA,
        Signature::Rsapss { .. } => alg::RSAPSS,
    };
    let own = public.scheme();
    // A restricted signing key always has a scheme. Part 1, 25.1.6.
    if (own.alg, own.hash) != (scheme, signature.hash()) {
        return Err(format!(
            "made by scheme {scheme:#06x} with hash {:#06x}, the key's are {:#06x} and {:#06x}",
            signature.hash(),
            own.alg,
            own.hash
        ));
    }
    if signature.hash() != HASH.tpm_alg() {
        return Err(format!(
            "hash {:#06x}, only SHA-256 (0x000b) is known here",
            signature.hash()
        ));
    }
    let bad = || "it does not verify".to_owned();
    match (&key, &signature) {
        (VerifyingKey::P256(key), Signature::Ecdsa { .. }) => {
            use p256::ecdsa::signature::Verifier as _;
            key.verify(message, &signature.p256().ok_or_else(bad)?)
                .map_err(|_| bad())
        }
        (VerifyingKey::Rsa(key), Signature::Rsassa { signature, .. }) => {
            let scheme = rsa::Pkcs1v15Sign::new::<Sha256>();
            key.verify(scheme, &Sha256::digest(message), signature)
                .map_err(|_| bad())
        }
        (VerifyingKey::Rsa(key), Signature::Rsapss { signature, .. }) => {
            verify_pss(key, message, signature).map_err(|()| bad())
        }
        _ => Err(format!("scheme {scheme:#06x} does not fit the key")),
    }
}

/// RSASSA-PSS. The TPM takes the longest salt that fits, or the hash's length where it must follow FIPS 186
/// (Part 1, B.7).
fn verify_pss(key: &rsa::RsaPublicKey, message: &[u8], signature: &[u8]) -> Result<(), ()> {
    use rsa::traits::PublicKeyParts as _;
    let hashed = Sha256::digest(message);
    let longest = key.size().checked_sub(hashed.len() + 2).ok_or(())?;
    [hashed.len(), longest]
        .into_iter()
        .any(|salt| {
            key.verify(rsa::Pss::new_with_salt::<Sha256>(salt), &hashed, signature)
                .is_ok()
        })
        .then_some(())
        .ok_or(())
}

impl PinnedKey {
    /// Reads a key as a file holds it: TPMT_PUBLIC, or TPM2B_PUBLIC, which has its size before it, or a
    /// SubjectPublicKeyInfo in PEM, which is taken for a key with the attributes of `cgpathd`'s own.
    ///
    /// # Errors
    /// [`KeyError`] if it is none of these.
    pub fn from_public(bytes: &[u8]) -> Result<PinnedKey, KeyError> {
        let public = if key_pem::is_pem(bytes) {
            key_pem::public(bytes)?.to_bytes()
        } else {
            Public::parse_file(bytes)?.to_bytes()
        };
        key_name(&public)?;
        Ok(PinnedKey::Public(public))
    }

    /// Reads a fingerprint: the Name in hex, 68 digits.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_fingerprint(text: &str) -> Result<PinnedKey, KeyError> {
        let key = PinnedKey::Name(hex::decode(text.trim()).map_err(|_| KeyError::Name)?);
        key.check()?;
        Ok(key)
    }

    /// The Name of the key that is pinned, if one is.
    pub fn name(&self) -> Option<Vec<u8>> {
        match self {
            PinnedKey::Public(public) => Some(name(public)),
            PinnedKey::Name(name) => Some(name.clone()),
            PinnedKey::DangerousTofu | PinnedKey::NoTpm => None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), KeyError> {
        match self {
            PinnedKey::Public(public) => key_name(public).map(|_| ()),
            PinnedKey::Name(name)
                if name.len() == 2 + HASH.len() && name.starts_with(&HASH.tpm_alg().to_be_bytes()) =>
            {
                Ok(())
            }
            PinnedKey::Name(_) => Err(KeyError::Name),
            PinnedKey::DangerousTofu | PinnedKey::NoTpm => Ok(()),
        }
    }
}

/// What a quote says.
#[derive(Debug, Clone)]
pub(crate) struct Quoted {
    /// Name of the key that came with the quote.
    pub ak_name: Vec<u8>,
    /// Banks in which PCR 10 was quoted, in the quote's order.
    pub banks: Vec<Bank>,
    /// The quoted registers: PCR 0 to 9 as the evidence states them, PCR 10 to be found out.
    pub registers: QuotedRegisters,
    pub reset_count: u32,
    pub restart_count: u32,
    pub clock_ms: u64,
    pub safe: bool,
}

impl Quoted {
    /// Whether the quoted digest is that of these values of PCR 10, one for each of [`Quoted::banks`].
    pub(crate) fn is_of(&self, pcrs: &[Digest]) -> bool {
        self.registers.is_with(pcrs)
    }
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Quote, Subject::Node, text)
}

/// What to say where there is no TPM's quote.
pub(crate) fn none() -> Finding {
    fail("there is no TPM's quote, and the policy names pcr-10 as an anchor")
}

/// `stated` are the values of PCR 0 to 9 as the evidence has them: the quote's digest vouches for them
/// together with PCR 10 (rule V2), or for nothing.
pub(crate) fn check(
    quote: &Quote,
    stated: &[Registers],
    context: &Context,
    findings: &mut Findings,
) -> Option<Quoted> {
    let ak_name = key(quote, context, findings);
    let attest = match Attest::parse(&quote.attest) {
        Ok(attest) => attest,
        Err(why) => {
            findings.push(fail(format!("the attestation is not a TPM's quote: {why}")));
            return None;
        }
    };
    if let ExpectedNonce::Value(nonce) = &context.nonce
        && attest.extra_data != *nonce
    {
        findings.push(
            fail("the quote was not made for this request: its nonce is another one")
                .found(hex::encode(&attest.extra_data))
                .expected(hex::encode(nonce)),
        );
    }
    let registers = QuotedRegisters::of(&attest, stated, |why| findings.push(fail(why.to_string())));
    Some(Quoted {
        ak_name,
        banks: registers.banks().collect(),
        registers,
        reset_count: attest.clock.reset_count,
        restart_count: attest.clock.restart_count,
        clock_ms: attest.clock.clock,
        safe: attest.clock.safe,
    })
}

/// The key is the pinned one, is an attestation key, and signed. Gives its Name.
fn key(quote: &Quote, context: &Context, findings: &mut Findings) -> Vec<u8> {
    let ak_name = name(&quote.ak);
    if context.key == PinnedKey::NoTpm {
        findings.push(fail(
            "there is a TPM's quote, and no attestation key is pinned for this node",
        ));
    }
    let pinned = context.key.name().or_else(|| {
        // Trust on first use, and on no other: a key that the node used before stays pinned.
        context
            .previous
            .as_ref()
            .map(|NodeState { ak_name, .. }| ak_name.clone())
    });
    if let Some(pinned) = pinned
        && pinned != ak_name
    {
        findings.push(
            fail("the quote was made by another key than the one pinned for this node")
                .found(hex::encode(&ak_name))
                .expected(hex::encode(pinned)),
        );
    }
    let public = match Public::parse(&quote.ak) {
        Ok(public) => public,
        Err(why) => {
            findings.push(fail(format!("the attestation key cannot be used: {why}")));
            return ak_name;
        }
    };
    if public.name_alg != HASH.tpm_alg() {
        findings.push(fail(KeyError::NameAlgorithm(public.name_alg).to_string()));
    }
    for (bit, name) in REQUIRED {
        if !public.attributes.has(bit) {
            findings.push(
                fail(format!(
                    "the key is no attestation key: it lacks the attribute {name}"
                ))
                .found(format!("{:#010x}", public.attributes.0)),
            );
        }
    }
    if public.attributes.has(Attributes::DECRYPT) {
        findings.push(
            fail("the key is no attestation key: it has the attribute decrypt")
                .found(format!("{:#010x}", public.attributes.0)),
        );
    }
    if let Err(why) = verify(&public, &quote.attest, &quote.signature) {
        findings.push(fail(format!("the quote's signature: {why}")));
    }
    ak_name
}
