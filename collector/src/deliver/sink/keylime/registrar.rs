//! How a node becomes known to Keylime's registrar: it names its keys and shows that both are in one TPM.
//!
//! Source: keylime/models/registrar/registrar_agent.py; TPM 2.0 Library, Part 1, 24 on credential protection.

use super::http::{Ask, Service};
use super::wire::{Activation, Registered, Registration};
use super::{KeylimeError, encode};
use crate::tpm::TpmAccess;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::digest::InvalidLength;
use hmac::{Hmac, Mac as _};
use hyper::Method;
use serde::de::IgnoredAny;
use sha2::Sha384;

/// Registers the attestation key under the agent's id and activates it.
///
/// # Errors
/// What the TPM or the registrar said: it refuses another key under an id that it knows.
pub(super) async fn register<T: TpmAccess>(
    registrar: &Service,
    agent: &str,
    tpm: &T,
) -> Result<(), KeylimeError> {
    let (endorsement, ak) = tpm.with(|tpm| Ok((tpm.endorsement()?, tpm.ak_sized()))).await?;
    let registration = Registration {
        ek_tpm: encode(&endorsement.public),
        ekcert: endorsement.certificate.as_deref().map(encode),
        aik_tpm: encode(&ak),
    };
    let path = format!("/v2.1/agents/{agent}");
    let registered: Registered = registrar.send(ask(Method::POST, &path, &registration)).await?;
    let blob = STANDARD
        .decode(registered.results.blob)
        .map_err(|e| registrar.answer(e))?;
    let (credential, secret) = credential(&blob).ok_or_else(|| {
        registrar.answer("its credential is not of the form that tpm2_makecredential writes")
    })?;
    let (credential, secret) = (credential.to_vec(), secret.to_vec());
    let held = tpm.with(move |tpm| tpm.activate(&credential, &secret)).await?;
    let path = format!("{path}/activate");
    let activation = Activation {
        auth_tag: auth_tag(&held, agent).map_err(|e| registrar.answer(e))?,
    };
    let _: IgnoredAny = registrar.send(ask(Method::PUT, &path, &activation)).await?;
    Ok(())
}

fn ask<'a, B>(method: Method, path: &'a str, body: &'a B) -> Ask<'a, B> {
    Ask {
        method,
        path,
        media: "application/json",
        token: None,
        body,
    }
}

/// The TPM2B_ID_OBJECT and the TPM2B_ENCRYPTED_SECRET, without their lengths, of what `tpm2_makecredential`
/// writes: behind a magic number and a version, big-endian.
fn credential(blob: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = blob.strip_prefix(&[0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1])?;
    let sized = |bytes| -> Option<(&[u8], &[u8])> {
        let (len, rest): (&[u8; 2], &[u8]) = <[u8]>::split_first_chunk(bytes)?;
        rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
    };
    let (credential, rest) = sized(rest)?;
    let (secret, rest) = sized(rest)?;
    rest.is_empty().then_some((credential, secret))
}

/// What shows that the credential was opened.
fn auth_tag(held: &[u8], agent: &str) -> Result<String, InvalidLength> {
    let mut mac = Hmac::<Sha384>::new_from_slice(encode(held).as_bytes())?;
    mac.update(agent.as_bytes());
    Ok(hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_of_another_form_is_refused() {
        let good = [&[0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1][..], &[0, 2, 7, 8, 0, 1, 9]].concat();
        assert_eq!(credential(&good), Some((&[7, 8][..], &[9][..])));
        for cut in 0..good.len() {
            assert_eq!(credential(&good[..cut]), None, "{cut}");
        }
        assert_eq!(credential(&[&good[..], &[0]].concat()), None, "a byte too many");
        let mut other = good.clone();
        other[7] = 2;
        assert_eq!(credential(&other), None, "another version");
    }

    #[test]
    fn the_tag_is_that_of_keylime() {
        // keylime.crypto.do_hmac(base64.b64encode(b"held"), "agent") of 7.14.3.
        assert_eq!(
            auth_tag(b"held", "agent").unwrap(),
            "1f4b593cb1d34b1d4fac5a2b03ad0b6a19536c1a50f0504c18895240c640213d5ab339c3e9f5b7511f069547d1d8b949"
        );
    }
}
