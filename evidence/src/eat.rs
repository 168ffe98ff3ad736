//! Evidence as an Entity Attestation Token, and any message in a conceptual message wrapper, for consumers of
//! other makes.
//!
//! EAT: RFC 9711; its media types: RFC 9782; unsigned claims (UCCS): RFC 9781; CMW: RFC 9999. A token's own
//! signature, where it has one, is its exporter's: what the claims are worth is in the evidence that they
//! carry, which the TPM signed. Not here: attestation results (see `cgpath_appraisal::ear`).

use crate::{Bank, Error, Evidence, Quotes, Result, tpm::Attest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coset::{CborSerializable, CoseSign1Builder, HeaderBuilder, iana};
use minicbor::{Encoder, data::Tag};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};

/// `eat_profile`: what the claims mean.
pub const PROFILE: &str = "urn:ima-cgpath:eat:1";

/// The collection's type in a wrapper of evidence and result.
pub const COLLECTION: &str = "urn:ima-cgpath:cmw:1";

/// The CoAP content format of our evidence within `measurements`: of the range for experiments (RFC 7252
/// section 12.3).
pub const CONTENT_FORMAT: u16 = 65_000;

/// Labels of claims. RFC 9711 section 10.2.
mod claim {
    pub(super) const EAT_NONCE: u16 = 10;
    pub(super) const UEID: u16 = 256;
    pub(super) const EAT_PROFILE: u16 = 265;
    pub(super) const MEASUREMENTS: u16 = 273;
}

/// CBOR tags: UCCS (RFC 9781), CWT (RFC 8392), COSE_Sign1 (RFC 9052).
mod tag {
    pub(super) const UCCS: u64 = 601;
    pub(super) const CWT: u64 = 61;
    pub(super) const COSE_SIGN1: u64 = 18;
}

/// What kind of message a wrapper holds. RFC 9999 section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Evidence.
    Evidence = 4,
    /// An attestation result.
    AttestationResult = 8,
}

/// A message and its media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its label in a collection.
    pub label: &'static str,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its kind.
    pub kind: Kind,
}

type Encoded<W> = core::result::Result<(), minicbor::encode::Error<W>>;

fn encode(write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Encoded<core::convert::Infallible>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut Encoder::new(&mut out)).expect("encoding into memory cannot fail");
    out
}

/// The claims: `eat_nonce` is the nonce of the TPM's quote, or else of the trust domain's, `ueid` the hash of
/// the attestation key's public area, or else of the node's key (type RAND), `measurements` the evidence
/// whole.
///
/// # Errors
/// [`Error::Malformed`] if the quote cannot be read, or its nonce is not one of 8 to 64 bytes.
pub fn claims(evidence: &Evidence) -> Result<Vec<u8>> {
    let (nonce, key) = match &evidence.quote {
        Quotes { tpm: Some(tpm), .. } => (Attest::parse(&tpm.attest)?.extra_data, &tpm.ak[..]),
        Quotes { td: Some(td), .. } => (td.nonce.clone(), &td.node_key[..]),
        Quotes { tpm: None, td: None } => return Err(Error::malformed(0, "evidence without a quote")),
    };
    if !(8..=64).contains(&nonce.len()) {
        let why = format!(
            "the quote's nonce has {} bytes, an EAT's has 8 to 64",
            nonce.len()
        );
        return Err(Error::malformed(0, why));
    }
    let key = Bank::Sha256.hash(&[key]);
    let ueid = [&[1], key.bytes()].concat();
    Ok(encode(|e| {
        e.map(4)?.u16(claim::EAT_NONCE)?.bytes(&nonce)?;
        e.u16(claim::UEID)?.bytes(&ueid)?;
        e.u16(claim::EAT_PROFILE)?.str(PROFILE)?;
        e.u16(claim::MEASUREMENTS)?.array(1)?.array(2)?;
        e.u16(CONTENT_FORMAT)?.bytes(&evidence.to_cbor())?;
        Ok(())
    }))
}

/// The claims without a signature: UCCS.
pub fn unsigned(claims: &[u8]) -> Message {
    let mut bytes = encode(|e| e.tag(Tag::new(tag::UCCS))?.ok());
    bytes.extend(claims);
    Message {
        label: "evidence",
        media_type: format!("application/eat-ucs+cbor; eat_profile=\"{PROFILE}\""),
        bytes,
        kind: Kind::Evidence,
    }
}

/// The claims signed by `key` (ES256): a CWT.
///
/// # Errors
/// [`Error::Malformed`] if the COSE encoder refuses it.
pub fn signed(claims: &[u8], key: &SigningKey) -> Result<Message> {
    let sign1 = CoseSign1Builder::new()
        .protected(HeaderBuilder::new().algorithm(iana::Algorithm::ES256).build())
        .payload(claims.to_vec())
        .create_signature(b"", |message| {
            let signature: Signature = key.sign(message);
            signature.to_vec()
        })
        .build()
        .to_vec()
        .map_err(|e| Error::malformed(0, e.to_string()))?;
    let mut bytes = encode(|e| e.tag(Tag::new(tag::CWT))?.tag(Tag::new(tag::COSE_SIGN1))?.ok());
    bytes.extend(sign1);
    Ok(Message {
        label: "evidence",
        media_type: format!("application/eat+cwt; eat_profile=\"{PROFILE}\""),
        bytes,
        kind: Kind::Evidence,
    })
}

/// An attestation result as `cgpath_appraisal::ear` writes it.
pub fn attestation_result(token: &str) -> Message {
    Message {
        label: "result",
        media_type: "application/eat+jwt".to_owned(),
        bytes: token.as_bytes().to_vec(),
        kind: Kind::AttestationResult,
    }
}

/// A wrapper in CBOR: a record for one message, a collection for several. RFC 9999 sections 3.1 and 3.3.
pub fn cmw_cbor(messages: &[Message]) -> Vec<u8> {
    let record = |e: &mut Encoder<&mut Vec<u8>>, message: &Message| {
        e.array(3)?
            .str(&message.media_type)?
            .bytes(&message.bytes)?
            .u8(message.kind as u8)?
            .ok()
    };
    encode(|e| {
        if let [one] = messages {
            return record(e, one);
        }
        e.map(1 + messages.len() as u64)?;
        // Deterministic: keys in the order of their encodings, shorter ones first.
        let mut sorted: Vec<&Message> = messages.iter().collect();
        sorted.sort_by_key(|message| (message.label.len(), message.label));
        let (before, behind) = sorted.split_at(sorted.partition_point(|m| m.label.len() < "__cmwc_t".len()));
        for message in before {
            e.str(message.label)?;
            record(e, message)?;
        }
        e.str("__cmwc_t")?.str(COLLECTION)?;
        for message in behind {
            e.str(message.label)?;
            record(e, message)?;
        }
        Ok(())
    })
}

/// The same in JSON.
pub fn cmw_json(messages: &[Message]) -> serde_json::Value {
    let record = |message: &Message| {
        serde_json::json!([
            message.media_type,
            URL_SAFE_NO_PAD.encode(&message.bytes),
            message.kind as u8
        ])
    };
    if let [one] = messages {
        return record(one);
    }
    let mut collection = serde_json::Map::new();
    collection.insert("__cmwc_t".to_owned(), COLLECTION.into());
    for message in messages {
        collection.insert(message.label.to_owned(), record(message));
    }
    collection.into()
}
