//! Collateral: what Intel signed about platforms, TDX modules and quoting enclaves, given as a file.
//!
//! Promises: a file is read within a limit; the dates and numbers here are what the file says of itself,
//! whether or not its signatures hold (a quote that verifies with it shows that). A chain of PCK certificates
//! in the file is not used: it is the quote's own that counts. Not here: how collateral comes to be a file
//! (the caller's), what a policy wants of it (see `v01_td`).

use cgpath_evidence::td::QuoteBody;
use cgpath_evidence::text::library_message;
use chrono::DateTime;
use dcap_qvl::{QuoteCollateralV3, intel, quote::Quote};

/// A file of collateral is never longer than this many bytes: real ones have 20 KiB.
pub const MAX_COLLATERAL_LEN: usize = 1024 * 1024;

/// Why bytes are no collateral.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollateralError {
    /// Longer than [`MAX_COLLATERAL_LEN`].
    #[error("collateral of {0} bytes, the limit is {MAX_COLLATERAL_LEN}")]
    Limit(usize),
    /// Not JSON of this form.
    #[error("not collateral (JSON with tcb_info, qe_identity and their signatures, chains and CRLs): {0}")]
    Form(String),
    /// A quote that does not say which platform made it.
    #[error("the quote's PCK certificate cannot be read: {0}")]
    Quote(String),
    /// A part of it cannot be read.
    #[error("collateral's {part}: {why}")]
    Part {
        /// Which.
        part: &'static str,
        /// Why.
        why: String,
    },
}

/// A kind of platform: collateral is issued for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformKind {
    /// FMSPC.
    pub fmspc: [u8; 6],
    /// Which of Intel's CAs certified it: `platform` or `processor`.
    pub ca: &'static str,
}

impl PlatformKind {
    /// The kind of platform that the quote's own certificate names, whether or not the quote holds.
    ///
    /// # Errors
    /// [`CollateralError::Quote`].
    pub fn of_quote(quote: &[u8]) -> Result<PlatformKind, CollateralError> {
        // The library allocates what a length claims: ours are checked first.
        QuoteBody::parse(quote).map_err(|e| CollateralError::Quote(e.to_string()))?;
        let text = |e| CollateralError::Quote(format!("{e:#}"));
        let quote = Quote::parse(quote).map_err(text)?;
        Ok(PlatformKind {
            fmspc: intel::quote_fmspc(&quote).map_err(text)?,
            ca: intel::quote_ca(&quote).map_err(text)?.as_id_str(),
        })
    }
}

/// What one signed part says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    /// `issueDate`, unix seconds.
    pub issued: u64,
    /// `nextUpdate`, unix seconds.
    pub next_update: u64,
    /// `tcbEvaluationDataNumber`.
    pub number: u32,
}

/// One file of collateral.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collateral {
    pub(crate) inner: QuoteCollateralV3,
    fmspc: [u8; 6],
    tcb_info: Issued,
    qe_identity: Issued,
}

/// The parts of TCB info and QE identity that are read here.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    issue_date: String,
    next_update: String,
    tcb_evaluation_data_number: u32,
    fmspc: Option<String>,
}

fn seconds(text: &str) -> Option<u64> {
    let date = DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(date.timestamp()).ok()
}

fn signed(part: &'static str, json: &str) -> Result<(Signed, Issued), CollateralError> {
    let bad = |why: String| CollateralError::Part { part, why };
    let signed: Signed = serde_json::from_str(json).map_err(|e| bad(library_message(&e)))?;
    let date = |text: &str| seconds(text).ok_or_else(|| bad("a date is none of RFC 3339".to_owned()));
    let issued = Issued {
        issued: date(&signed.issue_date)?,
        next_update: date(&signed.next_update)?,
        number: signed.tcb_evaluation_data_number,
    };
    Ok((signed, issued))
}

impl Collateral {
    /// Reads a file: JSON as `dcap-qvl` and PCCS clients write it, binary parts in hex.
    ///
    /// # Errors
    /// [`CollateralError`].
    pub fn from_json(bytes: &[u8]) -> Result<Collateral, CollateralError> {
        if bytes.len() > MAX_COLLATERAL_LEN {
            return Err(CollateralError::Limit(bytes.len()));
        }
        let mut inner: QuoteCollateralV3 =
            serde_json::from_slice(bytes).map_err(|e| CollateralError::Form(library_message(&e)))?;
        inner.pck_certificate_chain = None;
        let (info, tcb_info) = signed("tcb_info", &inner.tcb_info)?;
        let (_, qe_identity) = signed("qe_identity", &inner.qe_identity)?;
        let fmspc = info.fmspc.as_deref().and_then(|text| hex::decode(text).ok());
        let fmspc = fmspc.and_then(|bytes| bytes.try_into().ok());
        let fmspc = fmspc.ok_or_else(|| CollateralError::Part {
            part: "tcb_info",
            why: "fmspc is not 12 hex digits".to_owned(),
        })?;
        Ok(Collateral {
            inner,
            fmspc,
            tcb_info,
            qe_identity,
        })
    }

    /// The kind of platform that its TCB info is about.
    pub fn fmspc(&self) -> [u8; 6] {
        self.fmspc
    }

    /// When the older of both parts was issued, unix seconds.
    pub fn issued(&self) -> u64 {
        self.tcb_info.issued.min(self.qe_identity.issued)
    }

    /// From when until when both parts say that they hold, unix seconds.
    pub fn window(&self) -> (u64, u64) {
        let (info, identity) = (self.tcb_info, self.qe_identity);
        (
            info.issued.max(identity.issued),
            info.next_update.min(identity.next_update),
        )
    }

    /// `tcbEvaluationDataNumber`, the lower of both parts'.
    pub fn number(&self) -> u32 {
        self.tcb_info.number.min(self.qe_identity.number)
    }
}
