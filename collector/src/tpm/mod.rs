//! The attestation key and quotes, by tpm2-tss.
//!
//! The key is a primary key of the endorsement hierarchy, made from a fixed template each time it is needed: the same
//! key every time, with nothing stored in the TPM. No ownership is taken or cleared and no handle that somebody else
//! made is touched. Everything blocks: call it from a thread that may.
//!
//! Source: TPM 2.0 Library, Part 3: TPM2_CreatePrimary (24.1), TPM2_Quote (18.4); Part 1, 27.2 on templates.

mod endorsement;

use crate::config::KeyKind;
use cgpath_evidence::boot::Registers;
use cgpath_evidence::{Bank, Quote};
pub use endorsement::{Certified, Endorsement};
use sha2::{Digest as _, Sha256};
use std::str::FromStr;
use std::time::Duration;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::CapabilityType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth, CapabilityData, Data, Digest, EccPoint, EccScheme, HashScheme, PcrSelectionList,
    PcrSelectionListBuilder, PcrSlot, Public, PublicBuilder, PublicEccParametersBuilder, PublicKeyRsa,
    PublicRsaParametersBuilder, RsaExponent, RsaScheme, SignatureScheme,
};
use tss_esapi::traits::Marshall;
use tss_esapi::{Context, TctiNameConf};

/// How often a command that the TPM was too busy for is tried again.
const TRIES: u32 = 8;

/// Pause before the second try; doubled each time, so that all tries together last about half a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The register that IMA extends.
const IMA_PCR: PcrSlot = PcrSlot::Slot10;

/// The registers that are extended before IMA begins, PCR 0 to 9, in the numbers that one TPM2_PCR_Read gives (a
/// TPML_DIGEST holds eight).
const BOOT_PCRS: [&[PcrSlot]; 2] = [
    &[
        PcrSlot::Slot0,
        PcrSlot::Slot1,
        PcrSlot::Slot2,
        PcrSlot::Slot3,
        PcrSlot::Slot4,
        PcrSlot::Slot5,
        PcrSlot::Slot6,
        PcrSlot::Slot7,
    ],
    &[PcrSlot::Slot8, PcrSlot::Slot9],
];

/// Why the TPM did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// `tpm.tcti` is not a TCTI configuration.
    #[error("tpm.tcti = {0:?} is not understood: use for instance \"device:/dev/tpmrm0\"")]
    Tcti(String),
    /// The TPM cannot be reached.
    #[error("no TPM at {tcti}: {source} (is the device there, and is libtss2-tcti-device0 installed?)")]
    Open {
        /// As configured.
        tcti: String,
        /// What tpm2-tss said.
        source: tss_esapi::Error,
    },
    /// The endorsement hierarchy refused its authorisation.
    #[error("the endorsement hierarchy refuses its authorisation: set tpm.endorsement_auth ({source})")]
    Authorisation {
        /// What the TPM said.
        source: tss_esapi::Error,
    },
    /// A command failed.
    #[error("TPM: {what} failed: {source}")]
    Command {
        /// Which.
        what: &'static str,
        /// What the TPM said.
        source: tss_esapi::Error,
    },
    /// The bank has no registers allocated.
    #[error("the TPM has no {bank} bank of PCR 10 (it has: {found}): set tpm.bank")]
    Bank {
        /// As configured.
        bank: Bank,
        /// Banks that are allocated.
        found: String,
    },
    /// TPM2_PCR_Read gave something else than was asked for.
    #[error("the TPM does not give PCR 0 to 9 of its {bank} bank: are all of them allocated?")]
    Registers {
        /// As configured.
        bank: Bank,
    },
    /// The registers changed again and again between being read and being quoted.
    #[error("the registers change faster than they can be read and quoted")]
    Moving,
    /// A nonce that no quote can carry.
    #[error("a nonce of {0} bytes does not fit into a quote")]
    Nonce(usize),
}

/// What is needed to reach the TPM and to make the key.
#[derive(Debug, Clone)]
pub struct Options {
    /// TCTI configuration string.
    pub tcti: String,
    /// The kind of key.
    pub key: KeyKind,
    /// The bank to quote.
    pub bank: Bank,
    /// Authorisation of the endorsement hierarchy.
    pub endorsement_auth: Vec<u8>,
}

/// An open TPM with the attestation key loaded.
pub struct Tpm {
    context: Context,
    key: KeyHandle,
    kind: KeyKind,
    public: Vec<u8>,
    bank: Bank,
}

/// A TPM Name as printed for enrolment: `000b` and the SHA-256 of the TPMT_PUBLIC. TPM 2.0 Part 1, section 16.
pub fn fingerprint(tpmt_public: &[u8]) -> String {
    format!("000b{}", hex::encode(Sha256::digest(tpmt_public)))
}

fn is_busy(error: &tss_esapi::Error) -> bool {
    let tss_esapi::Error::Tss2Error(code) = error else {
        return false;
    };
    matches!(
        code.kind(),
        Some(
            Kind::Retry
                | Kind::Yielded
                | Kind::Testing
                | Kind::Canceled
                | Kind::ObjectMemory
                | Kind::SessionMemory
                | Kind::Memory
                | Kind::ObjectHandles
                | Kind::SessionHandles
                | Kind::NvRate
        )
    )
}

/// Does `f` again, with growing pauses, as long as the TPM says that it is busy.
fn retried<T>(mut f: impl FnMut() -> Result<T, tss_esapi::Error>) -> Result<T, tss_esapi::Error> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match f() {
            Err(e) if is_busy(&e) => {
                tracing::debug!(error = %e, "TPM is busy");
                std::thread::sleep(pause);
                pause *= 2;
            }
            done => return done,
        }
    }
    f()
}

fn bank_algorithm(bank: Bank) -> HashingAlgorithm {
    match bank {
        Bank::Sha1 => HashingAlgorithm::Sha1,
        Bank::Sha256 => HashingAlgorithm::Sha256,
        Bank::Sha384 => HashingAlgorithm::Sha384,
        Bank::Sha512 => HashingAlgorithm::Sha512,
    }
}

/// The fixed template. Changing anything in it changes every node's key.
fn template(kind: KeyKind) -> Result<Public, tss_esapi::Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let builder = PublicBuilder::new()
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::default());
    match kind {
        KeyKind::EccP256 => builder
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_ecc_parameters(
                PublicEccParametersBuilder::new_unrestricted_signing_key(
                    EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)),
                    EccCurve::NistP256,
                )
                .with_restricted(true)
                .build()?,
            )
            .with_ecc_unique_identifier(EccPoint::default())
            .build(),
        KeyKind::Rsa2048 => builder
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_rsa_parameters(
                PublicRsaParametersBuilder::new_unrestricted_signing_key(
                    RsaScheme::RsaSsa(HashScheme::new(HashingAlgorithm::Sha256)),
                    RsaKeyBits::Rsa2048,
                    RsaExponent::default(),
                )
                .with_restricted(true)
                .build()?,
            )
            .with_rsa_unique_identifier(PublicKeyRsa::default())
            .build(),
    }
}

impl Tpm {
    /// Opens the TPM and makes the attestation key in it.
    ///
    /// # Errors
    /// See [`TpmError`]. A busy TPM is tried again for about half a minute.
    pub fn open(options: &Options) -> Result<Tpm, TpmError> {
        let mut context = open_context(&options.tcti)?;
        let banks = allocated_banks(&mut context)?;
        if !banks.contains(&options.bank) {
            let found: Vec<&str> = banks.iter().map(|b| b.name()).collect();
            return Err(TpmError::Bank {
                bank: options.bank,
                found: found.join(" "),
            });
        }
        let command = |what| move |source| TpmError::Command { what, source };
        let auth =
            Auth::try_from(options.endorsement_auth.clone()).map_err(command("endorsement authorisation"))?;
        context
            .tr_set_auth(ObjectHandle::from(Hierarchy::Endorsement), auth)
            .map_err(command("endorsement authorisation"))?;
        let public = template(options.key).map_err(command("key template"))?;
        let made = retried(|| {
            context.execute_with_session(Some(AuthSession::Password), |c| {
                c.create_primary(Hierarchy::Endorsement, public.clone(), None, None, None, None)
            })
        });
        let made = made.map_err(|source| match source {
            tss_esapi::Error::Tss2Error(code)
                if matches!(
                    code.kind(),
                    Some(Kind::BadAuth | Kind::AuthFail | Kind::AuthMissing)
                ) =>
            {
                TpmError::Authorisation { source }
            }
            source => TpmError::Command {
                what: "TPM2_CreatePrimary",
                source,
            },
        })?;
        let public = made
            .out_public
            .marshall()
            .map_err(command("reading the key's public area"))?;
        Ok(Tpm {
            context,
            key: made.key_handle,
            kind: options.key,
            public,
            bank: options.bank,
        })
    }

    /// TPMT_PUBLIC of the attestation key.
    pub fn ak(&self) -> &[u8] {
        &self.public
    }

    /// Quotes PCR 0 to 10 with `nonce` as qualifying data, and gives the values of PCR 0 to 9, which were read before.
    ///
    /// # Errors
    /// [`TpmError::Nonce`] beyond 64 bytes, or what the TPM said.
    pub fn quote(&mut self, nonce: &[u8]) -> Result<(Quote, Registers), TpmError> {
        if nonce.is_empty() || nonce.len() > 64 {
            return Err(TpmError::Nonce(nonce.len()));
        }
        let command = |what| move |source| TpmError::Command { what, source };
        let data = Data::try_from(nonce.to_vec()).map_err(command("qualifying data"))?;
        let registers = self.boot_registers()?;
        let slots = [&BOOT_PCRS.concat()[..], &[IMA_PCR]].concat();
        let selection = PcrSelectionListBuilder::new()
            .with_selection(bank_algorithm(self.bank), &slots)
            .build()
            .map_err(command("PCR selection"))?;
        Ok((self.quote_selection(data, selection)?, registers))
    }

    fn quote_selection(&mut self, data: Data, selection: PcrSelectionList) -> Result<Quote, TpmError> {
        let command = |source| TpmError::Command {
            what: "TPM2_Quote",
            source,
        };
        let (context, key) = (&mut self.context, self.key);
        let (attest, signature) = retried(|| {
            context.execute_with_session(Some(AuthSession::Password), |c| {
                c.quote(key, data.clone(), SignatureScheme::Null, selection.clone())
            })
        })
        .map_err(command)?;
        Ok(Quote {
            attest: attest.marshall().map_err(command)?,
            signature: signature.marshall().map_err(command)?,
            ak: self.public.clone(),
        })
    }

    /// PCR 0 to 9. They are read anew for each quote: whoever extends one of them later is seen by the log that does not
    /// replay, not by a quote that fits nothing.
    fn boot_registers(&mut self) -> Result<Registers, TpmError> {
        let bank = self.bank;
        let mut values = Vec::new();
        for slots in BOOT_PCRS {
            let digests = self.registers(slots)?.into_iter();
            values.extend(digests.filter_map(|digest| cgpath_evidence::Digest::new(bank, &digest)));
        }
        Registers::new(values).ok_or(TpmError::Registers { bank })
    }

    /// Values of eight registers at most; those that are not allocated are left out.
    fn registers(&mut self, slots: &[PcrSlot]) -> Result<Vec<Vec<u8>>, TpmError> {
        let command = |what| move |source| TpmError::Command { what, source };
        let selection = PcrSelectionListBuilder::new()
            .with_selection(bank_algorithm(self.bank), slots)
            .build()
            .map_err(command("PCR selection"))?;
        let context = &mut self.context;
        let (_counter, _read, digests) =
            retried(|| context.execute_without_session(|c| c.pcr_read(selection.clone())))
                .map_err(command("TPM2_PCR_Read"))?;
        Ok(digests
            .value()
            .iter()
            .map(|digest| digest.value().to_vec())
            .collect())
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // A resource manager would do it; a bare TPM would keep the slot.
        if let Err(error) = self.context.flush_context(ObjectHandle::from(self.key)) {
            tracing::debug!(%error, "the attestation key was not flushed");
        }
    }
}

impl std::fmt::Debug for Tpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tpm")
            .field("ak", &fingerprint(&self.public))
            .field("bank", &self.bank)
            .finish()
    }
}

fn open_context(tcti: &str) -> Result<Context, TpmError> {
    let conf = TctiNameConf::from_str(tcti).map_err(|_| TpmError::Tcti(tcti.to_owned()))?;
    retried(|| Context::new(conf.clone())).map_err(|source| TpmError::Open {
        tcti: tcti.to_owned(),
        source,
    })
}

/// Banks in which PCR 10 is allocated.
fn allocated_banks(context: &mut Context) -> Result<Vec<Bank>, TpmError> {
    let (data, _more) =
        retried(|| context.get_capability(CapabilityType::AssignedPcr, 0, 16)).map_err(|source| {
            TpmError::Command {
                what: "TPM2_GetCapability",
                source,
            }
        })?;
    let CapabilityData::AssignedPcr(list) = data else {
        return Ok(Vec::new());
    };
    let banks = list
        .get_selections()
        .iter()
        .filter(|s| s.is_selected(IMA_PCR))
        .filter_map(|s| {
            Bank::ALL
                .into_iter()
                .find(|b| bank_algorithm(*b) == s.hashing_algorithm())
        });
    Ok(banks.collect())
}
