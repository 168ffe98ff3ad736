//! Signed manifests: COSE_Sign1 with ES256, the signer's name in the protected header. Draft section 4.2.

use super::{Error, Result, cbor::CborReader};
use cgpath_evidence::text::{foreign, library_message};
use coset::{
    CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, RegisteredLabelWithPrivate,
    TaggedCborSerializable, cbor::Value, iana,
};
use minicbor::Encoder;
use p256::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Signer, signature::Verifier};

/// Content type of the payload.
const CONTENT_TYPE: &str = "application/rim+cbor";
/// Header label of `corim-meta-map`.
const META: i64 = 8;
/// Header label of the CWT claims. RFC 9597. The draft takes either; readers of earlier ones know
/// `corim-meta` alone.
const CLAIMS: i64 = 15;
/// The claim that says who signed.
const ISSUER: i64 = 1;

fn refuse(why: impl Into<String>) -> Error {
    Error::Signature(why.into())
}

/// Signs an unsigned manifest, as [`super::write()`] made it. `signer` is the name that the header carries.
///
/// # Errors
/// [`Error::Signature`] if the COSE encoder refuses it.
pub fn sign(unsigned: &[u8], signer: &str, key: &SigningKey) -> Result<Vec<u8>> {
    let mut meta = Vec::new();
    Encoder::new(&mut meta)
        .map(1)
        .and_then(|e| e.u8(0)?.map(1)?.u8(0)?.str(signer))
        .map_err(|e| refuse(library_message(&e)))?;
    let header = HeaderBuilder::new()
        .algorithm(iana::Algorithm::ES256)
        .content_type(CONTENT_TYPE.to_owned())
        .value(META, Value::Bytes(meta))
        .value(
            CLAIMS,
            Value::Map(vec![(Value::from(ISSUER), Value::from(signer))]),
        )
        .build();
    CoseSign1Builder::new()
        .protected(header)
        .payload(unsigned.to_vec())
        .create_signature(b"", |message| {
            let signature: Signature = key.sign(message);
            signature.to_vec()
        })
        .build()
        .to_tagged_vec()
        .map_err(|e| refuse(library_message(&e)))
}

/// What is in a COSE_Sign1.
pub(super) struct Signed {
    /// The payload.
    pub(super) payload: Vec<u8>,
    /// Its offset in the file.
    pub(super) offset: usize,
    /// What the protected header calls its signer.
    pub(super) signer: String,
}

/// Opens a COSE_Sign1 without its tag, which begins at `base` of the file; with `key`, its signature must
/// fit.
///
/// # Errors
/// [`Error::Signature`] for all that is not ES256 over an attached payload of our content type by this key;
/// [`Error::NotValid`] if its header says so; those of the decoder.
pub(super) fn open(bytes: &[u8], base: usize, key: Option<&VerifyingKey>, now: u64) -> Result<Signed> {
    let mut reader = CborReader::new(bytes, base, "signed")?;
    reader.tuple(4)?;
    let header = reader.field("protected", |r| r.embedded("header"))?;
    reader.field("unprotected", CborReader::skip)?;
    let length = reader.field("payload", |r| match r.kind() {
        Some(minicbor::data::Type::Null) => {
            Err(r.unsupported("a detached payload", "give a manifest that carries what it signs"))
        }
        _ => Ok(r.bytes()?.len()),
    })?;
    let offset = reader.offset() - length;
    let sign1 = CoseSign1::from_slice(bytes).map_err(|e| refuse(library_message(&e)))?;
    let protected = &sign1.protected.header;
    if !protected.crit.is_empty() {
        return Err(refuse(
            "it has critical header parameters, and none is understood here",
        ));
    }
    if protected.alg != Some(RegisteredLabelWithPrivate::Assigned(iana::Algorithm::ES256)) {
        return Err(refuse(format!(
            "its algorithm is {}, and ES256 (P-256) alone is taken here",
            foreign(format!("{:?}", protected.alg))
        )));
    }
    match &protected.content_type {
        Some(coset::ContentType::Text(text)) if text == CONTENT_TYPE => {}
        other => {
            let why = format!(
                "its content type is {}, and must be {CONTENT_TYPE:?}",
                foreign(format!("{other:?}"))
            );
            return Err(refuse(why));
        }
    }
    let signer = signer(header, now)?;
    if let Some(key) = key {
        sign1
            .verify_signature(b"", |signature, message| {
                key.verify(message, &Signature::from_slice(signature)?)
            })
            .map_err(|_| refuse("it is not by this key over these bytes"))?;
    }
    let payload = sign1.payload.ok_or_else(|| refuse("no payload"))?;
    Ok(Signed {
        payload,
        offset,
        signer,
    })
}

/// The signer's name from the protected header, whose validity must hold.
fn signer(mut header: CborReader<'_>, now: u64) -> Result<String> {
    use super::cbor::Key::Number;
    let mut name = None;
    let mut issuer = None;
    header.map(|r, key| match key {
        Number(META) => r.field("corim-meta", |r| {
            let mut meta = r.embedded("meta")?;
            meta.map(|r, key| match key {
                Number(0) => r.field("signer", |r| {
                    r.map(|r, key| match key {
                        Number(0) => {
                            name = Some(r.text()?.to_owned());
                            Ok(())
                        }
                        _ => r.skip(),
                    })
                }),
                Number(1) => r.field("signature-validity", |r| super::read::validity(r, now)),
                _ => Err(r.unsupported(key, "it could say when the signature counts")),
            })
        }),
        Number(CLAIMS) => r.field("cwt-claims", |r| {
            r.map(|r, key| match key {
                Number(ISSUER) => {
                    issuer = Some(r.text()?.to_owned());
                    Ok(())
                }
                Number(4) => r.field("exp", |r| super::read::until(r.integer()?, now, r)),
                Number(5) => r.field("nbf", |r| super::read::from(r.integer()?, now, r)),
                _ => r.skip(),
            })
        }),
        _ => r.skip(),
    })?;
    if let (Some(name), Some(issuer)) = (&name, &issuer)
        && name != issuer
    {
        return Err(refuse(format!(
            "its header names two signers: {}",
            foreign(format!("{name} and {issuer}"))
        )));
    }
    name.or(issuer).ok_or_else(|| {
        refuse("its header names no signer: no corim-meta (8) and no issuer in CWT claims (15)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corim::tag;
    use coset::Label;

    #[test]
    fn the_labels_are_those_of_the_draft() {
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let bytes = sign(&[0xd9, 0x01, 0xf5, 0xa0], "who", &key).unwrap();
        let sign1 = CoseSign1::from_tagged_slice(&bytes).unwrap();
        let labels: Vec<_> = sign1
            .protected
            .header
            .rest
            .iter()
            .map(|(l, _)| l.clone())
            .collect();
        assert_eq!(labels, [Label::Int(8), Label::Int(15)]);
        assert_eq!(bytes[0], 0xc0 | tag::SIGN1 as u8);
    }
}
