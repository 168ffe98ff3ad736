//! The TPM, by tpm2-tss: its attestation key, quotes, and the endorsement key.
//!
//! The key is a primary key of the endorsement hierarchy, made from a fixed template each time it is needed:
//! the same key every time, with nothing stored in the TPM. No ownership is taken or cleared and no handle
//! that somebody else made is touched. Everything blocks: [`TpmThread`] is the thread that may.
//!
//! Source: TPM 2.0 Library, Part 3: TPM2_CreatePrimary (24.1).

mod endorsement;
mod key;
mod quote;
mod retry;
mod thread;

pub use endorsement::{Certified, Endorsement};
pub use key::{KeyKind, fingerprint, name};
pub use thread::{TpmAccess, TpmThread};

use cgpath_evidence::Bank;
use key::template;
use quote::allocated_banks;
use retry::retried;
use std::str::FromStr;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::Auth;
use tss_esapi::traits::Marshall as _;
use tss_esapi::{Context, TctiNameConf};

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
    /// The thread that has the TPM ended.
    #[error("the collector is ending")]
    Ending,
}

/// What is needed to reach the TPM and to make the key.
#[derive(Debug, Clone)]
pub struct TpmOptions {
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

impl Tpm {
    /// Opens the TPM and makes the attestation key in it.
    ///
    /// # Errors
    /// See [`TpmError`]. A busy TPM is tried again for about half a minute.
    pub fn open(options: &TpmOptions) -> Result<Tpm, TpmError> {
        let mut context = open_context(&options.tcti)?;
        let banks = allocated_banks(&mut context)?;
        if !banks.contains(&options.bank) {
            let found: Vec<&str> = banks.iter().map(|b| b.name()).collect();
            return Err(TpmError::Bank {
                bank: options.bank,
                found: found.join(" "),
            });
        }
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

    /// The kind of the attestation key.
    pub fn key_kind(&self) -> KeyKind {
        self.kind
    }

    /// TPMT_PUBLIC of the attestation key.
    pub fn ak(&self) -> &[u8] {
        &self.public
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

/// Names the command that failed.
fn command(what: &'static str) -> impl Fn(tss_esapi::Error) -> TpmError + Copy {
    move |source| TpmError::Command { what, source }
}

fn open_context(tcti: &str) -> Result<Context, TpmError> {
    let conf = TctiNameConf::from_str(tcti).map_err(|_| TpmError::Tcti(tcti.to_owned()))?;
    retried(|| Context::new(conf.clone())).map_err(|source| TpmError::Open {
        tcti: tcti.to_owned(),
        source,
    })
}
