//! What signs for the node: a TPM for PCR 0 to 10, a provider of the kernel's configfs-tsm for a trust
//! domain, or both over one nonce and one checkpoint.
//!
//! Promises: either all that are configured have signed, or the request fails; the report of a trust domain
//! names the attestation key that signs beside it. Not here: the TPM's commands (see [`crate::tpm`]), what a
//! signature proves (see `cgpath-appraisal`).

pub mod tsm;

use crate::tpm::{TpmAccess as _, TpmError, TpmThread};
use cgpath_evidence::boot::Registers;
use cgpath_evidence::td::{self, ReportData};
use cgpath_evidence::{Quote, Quotes, TdQuote};
use p256::ecdsa::SigningKey;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tsm::{Report, Reports, TsmError};

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The kernel's configfs-tsm.
    #[error(transparent)]
    Tsm(#[from] TsmError),
    /// Nothing signs.
    #[error("nothing signs for this node: set quote.by")]
    Nothing,
}

/// What is signed over.
#[derive(Debug, Clone)]
pub struct Request {
    /// The verifier's nonce.
    pub nonce: Vec<u8>,
    /// SHA-384 of the file of the checkpoint that was made for it and is anchored.
    pub checkpoint: td::Register,
}

/// What one quoter signed.
#[derive(Debug, Clone)]
pub enum Signed {
    /// A TPM: PCR 0 to 10, and the values of PCR 0 to 9.
    Tpm(Quote, Registers),
    /// A provider of configfs-tsm, and the `auxblob` that belongs to it.
    Td(TdQuote, Option<Vec<u8>>),
}

/// What a [`Quoter`] gives, in the end.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<Signed, QuoteError>> + Send + 'a>>;

/// Something that signs for the node.
pub trait Quoter: Send + Sync {
    /// Signs over `request`.
    ///
    /// # Errors
    /// See [`QuoteError`].
    fn sign<'a>(&'a self, request: &'a Request) -> Signing<'a>;
}

/// The TPM's attestation key.
pub struct TpmQuoter(pub TpmThread);

impl Quoter for TpmQuoter {
    fn sign<'a>(&'a self, request: &'a Request) -> Signing<'a> {
        let nonce = request.nonce.clone();
        Box::pin(async move {
            let (quote, registers) = self.0.with(move |tpm| tpm.quote(&nonce)).await?;
            Ok(Signed::Tpm(quote, registers))
        })
    }
}

/// A provider of configfs-tsm, and the node's key that its reports name.
pub struct TdQuoter {
    reports: Arc<Reports>,
    node_key: SigningKey,
    ak_name: Vec<u8>,
    timeout: Duration,
    /// One report at a time: the kernel makes them one after the other, and each waits on a thread.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl TdQuoter {
    /// Reports of `reports` that name this key and the Name of the attestation key beside it, which is empty
    /// where there is none.
    pub fn new(reports: Reports, node_key: SigningKey, ak_name: Vec<u8>, timeout: Duration) -> TdQuoter {
        TdQuoter {
            reports: Arc::new(reports),
            node_key,
            ak_name,
            timeout,
            turn: Arc::default(),
        }
    }

    /// A report over `inblob`. One that takes too long goes on, and the next one waits for its end.
    async fn report(&self, inblob: [u8; tsm::INBLOB_LEN]) -> Result<Report, TsmError> {
        let made = async {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let reports = Arc::clone(&self.reports);
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                reports.report(&inblob)
            });
            work.await.map_err(|_| TsmError::Ending)?
        };
        let timeout = tokio::time::timeout(self.timeout, made).await;
        timeout.map_err(|_| TsmError::Timeout(self.timeout))?
    }
}

impl Quoter for TdQuoter {
    fn sign<'a>(&'a self, request: &'a Request) -> Signing<'a> {
        Box::pin(async move {
            let node_key = td::public_node_key(&self.node_key);
            let inblob = ReportData {
                nonce: &request.nonce,
                checkpoint: &request.checkpoint,
                node_key: &node_key,
                ak_name: &self.ak_name,
            }
            .to_bytes();
            let Report { outblob, auxblob } = self.report(inblob).await?;
            let quote = TdQuote {
                provider: self.reports.provider().to_owned(),
                outblob,
                nonce: request.nonce.clone(),
                checkpoint: request.checkpoint,
                node_key,
                possession: td::prove_possession(&self.node_key, &inblob),
            };
            Ok(Signed::Td(quote, auxblob))
        })
    }
}

/// What all quoters signed.
#[derive(Debug, Clone)]
pub struct Quoted {
    /// The signatures.
    pub quotes: Quotes,
    /// PCR 0 to 9, where a TPM signed.
    pub registers: Option<Registers>,
    /// What the provider of configfs-tsm gave beside its report.
    pub auxblob: Option<Vec<u8>>,
}

/// All that signs for the node.
#[derive(Clone)]
pub struct Quoters(Arc<[Box<dyn Quoter>]>);

impl Quoters {
    /// These, in the order in which they sign: the last one's is the freshest.
    pub fn new(quoters: Vec<Box<dyn Quoter>>) -> Quoters {
        Quoters(quoters.into())
    }

    /// Has each of them sign, one after the other.
    ///
    /// # Errors
    /// Of the first that does not.
    pub async fn sign(&self, request: &Request) -> Result<Quoted, QuoteError> {
        let mut quotes = Quotes { tpm: None, td: None };
        let (mut registers, mut aux) = (None, None);
        for quoter in &*self.0 {
            match quoter.sign(request).await? {
                Signed::Tpm(quote, values) => {
                    quotes.tpm = Some(quote);
                    registers = Some(values);
                }
                Signed::Td(quote, auxblob) => {
                    quotes.td = Some(quote);
                    aux = auxblob;
                }
            }
        }
        if quotes.tpm.is_none() && quotes.td.is_none() {
            return Err(QuoteError::Nothing);
        }
        Ok(Quoted {
            quotes,
            registers,
            auxblob: aux,
        })
    }
}

#[cfg(test)]
mod tests;
