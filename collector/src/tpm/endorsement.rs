//! What a service needs that does not have the attestation key from its operator: which TPM it is, and that
//! the key is in it.
//!
//! The endorsement key is made from the TCG's template each time, and flushed again; its certificate is read
//! and never written. Source: TCG EK Credential Profile 2.5, B.3.3 (template L-1) and 2.2.1.4 (certificate);
//! TPM 2.0 Library, Part 3: TPM2_ActivateCredential (12.5), TPM2_Certify (18.2), TPM2_PolicySecret (23.4).

use super::quote::qualifying_data;
use super::retry::retried;
use super::{Tpm, TpmError, command};
use tss_esapi::WrapperErrorKind;
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, ek};
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{AuthHandle, KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    CapabilityData, Digest, EncryptedSecret, IdObject, Nonce, SignatureScheme, SymmetricDefinition,
};
use tss_esapi::traits::Marshall as _;

/// The NV index of the certificate.
const EK_CERTIFICATE: u32 = 0x01c0_0002;

const EK: AsymmetricAlgorithmSelection = AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048);

/// Which TPM it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// TPM2B_PUBLIC of the endorsement key, RSA 2048.
    pub public: Vec<u8>,
    /// Its certificate as it is in the TPM, DER; none where the maker left none.
    pub certificate: Option<Vec<u8>>,
}

/// What the attestation key says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// A TPM2B of some bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), bytes].concat()
}

/// A certificate without what fills up its index: a DER SEQUENCE, long form with two bytes of length. All of
/// it where that is not what it is: others have their ways to say so.
fn der(index: &[u8]) -> &[u8] {
    let [0x30, 0x82, high, low, ..] = index else {
        return index;
    };
    let len = 4 + usize::from(u16::from_be_bytes([*high, *low]));
    index.get(..len).unwrap_or(index)
}

impl Tpm {
    /// TPM2B_PUBLIC of the attestation key.
    pub fn ak_sized(&self) -> Vec<u8> {
        sized(self.ak())
    }

    /// The endorsement key and its certificate.
    ///
    /// # Errors
    /// What the TPM said.
    pub fn endorsement(&mut self) -> Result<Endorsement, TpmError> {
        let (key, public) = self.endorsement_key()?;
        self.flush(key.into());
        Ok(Endorsement {
            public: sized(&public),
            certificate: self.endorsement_certificate()?,
        })
    }

    fn endorsement_certificate(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        let context = &mut self.context;
        let (data, _more) = retried(|| context.get_capability(CapabilityType::Handles, EK_CERTIFICATE, 1))
            .map_err(command("TPM2_GetCapability"))?;
        let is_there = match data {
            CapabilityData::Handles(handles) => {
                handles.first().is_some_and(|h| u32::from(*h) == EK_CERTIFICATE)
            }
            _ => false,
        };
        if !is_there {
            return Ok(None);
        }
        let read = ek::retrieve_ek_pubcert(&mut self.context, EK);
        let read = read.map_err(command("TPM2_NV_Read of the endorsement key's certificate"))?;
        Ok(Some(der(&read).to_vec()))
    }

    /// Opens a credential that was made for the endorsement key and the attestation key's name:
    /// TPM2_ActivateCredential.
    ///
    /// # Errors
    /// What the TPM said: it opens none that was made for another key.
    pub fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        let what = "TPM2_ActivateCredential";
        let credential = IdObject::try_from(credential.to_vec()).map_err(command(what))?;
        let secret = EncryptedSecret::try_from(secret.to_vec()).map_err(command(what))?;
        let (endorsement, _) = self.endorsement_key()?;
        let opened = self.endorsement_session().and_then(|session| {
            let (context, key) = (&mut self.context, self.key);
            let sessions = (Some(AuthSession::Password), Some(session), None);
            let opened = context.execute_with_sessions(sessions, |c| {
                c.activate_credential(key, endorsement, credential, secret)
            });
            // Used once it is gone by itself; after a failure it is not.
            if opened.is_err() {
                self.flush(SessionHandle::from(session).into());
            }
            opened.map_err(command(what))
        });
        self.flush(endorsement.into());
        Ok(opened?.value().to_vec())
    }

    /// The attestation key's own certification over `challenge`: TPM2_Certify of the key by itself.
    ///
    /// # Errors
    /// [`TpmError::Nonce`] beyond 64 bytes, or what the TPM said.
    pub fn certify_key(&mut self, challenge: &[u8]) -> Result<Certified, TpmError> {
        let data = qualifying_data(challenge)?;
        let command = command("TPM2_Certify");
        let (context, key) = (&mut self.context, self.key);
        let sessions = (Some(AuthSession::Password), Some(AuthSession::Password), None);
        let (attest, signature) = retried(|| {
            context.execute_with_sessions(sessions, |c| {
                c.certify(ObjectHandle::from(key), key, data.clone(), SignatureScheme::Null)
            })
        })
        .map_err(command)?;
        Ok(Certified {
            attest: attest.marshall().map_err(command)?,
            signature: signature.marshall().map_err(command)?,
        })
    }

    /// Makes the endorsement key; gives its handle, to be flushed, and its TPMT_PUBLIC.
    fn endorsement_key(&mut self) -> Result<(KeyHandle, Vec<u8>), TpmError> {
        let what = "TPM2_CreatePrimary of the endorsement key";
        let template = ek::create_ek_public_from_default_template_2(EK, None).map_err(command(what))?;
        let context = &mut self.context;
        let made = retried(|| {
            context.execute_with_session(Some(AuthSession::Password), |c| {
                c.create_primary(Hierarchy::Endorsement, template.clone(), None, None, None, None)
            })
        })
        .map_err(command(what))?;
        match made.out_public.marshall() {
            Ok(public) => Ok((made.key_handle, public)),
            Err(error) => {
                self.flush(made.key_handle.into());
                Err(command(what)(error))
            }
        }
    }

    /// A session that may use the endorsement key: its template asks for the hierarchy's authorisation.
    fn endorsement_session(&mut self) -> Result<AuthSession, TpmError> {
        let what = "TPM2_PolicySecret";
        let context = &mut self.context;
        let session = retried(|| {
            context.start_auth_session(
                None,
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
        })
        .and_then(|session| {
            session.ok_or(tss_esapi::Error::WrapperError(
                WrapperErrorKind::InvalidHandleState,
            ))
        })
        .map_err(command("TPM2_StartAuthSession"))?;
        let allowed = PolicySession::try_from(session).and_then(|policy| {
            context.execute_with_session(Some(AuthSession::Password), |c| {
                let (nonce, hash) = (Nonce::default(), Digest::default());
                c.policy_secret(policy, AuthHandle::Endorsement, nonce.clone(), hash, nonce, None)
            })
        });
        match allowed {
            Ok(_) => Ok(session),
            Err(error) => {
                self.flush(SessionHandle::from(session).into());
                Err(command(what)(error))
            }
        }
    }

    fn flush(&mut self, handle: ObjectHandle) {
        if let Err(error) = self.context.flush_context(handle) {
            tracing::debug!(%error, "a handle was not flushed");
        }
    }
}
