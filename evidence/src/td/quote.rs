//! A trust domain's quote, version 4 and 5, and its TDREPORT: what they state and where.
//!
//! Promises: every length is checked before a byte behind it is read, and what a quote's parts claim fills it
//! to its last byte (but for zeros, which quoting services leave behind it), so that a reader who allocates
//! what a length claims can be given it afterwards. Not here: signatures and certificates (see
//! `cgpath-appraisal`).
//!
//! Source: Intel TDX DCAP Quoting Library API, appendix 3 (quote format); Intel TDX Module ABI,
//! TDREPORT_STRUCT and TDINFO_STRUCT; Intel 64 Architecture, REPORTMACSTRUCT.

use super::{REGISTER_LEN, RTMRS, Register};
use crate::Result;
use crate::byte_reader::{ByteReader, malformed};
use sha2::{Digest as _, Sha384};

/// TEE type of a trust domain.
const TEE_TDX: u32 = 0x81;
/// ECDSA-256-with-P-256, the one kind of attestation key there is.
const KEY_ECDSA_P256: u16 = 2;
/// Certification data: the quoting enclave's report.
const QE_REPORT: u16 = 6;
/// Certification data: a chain of certificates in PEM.
const PCK_CHAIN: u16 = 5;

const HEADER_LEN: usize = 48;
/// TD report 1.0; 1.5, which has two fields more; and its extended form, whose other fields are not read
/// here.
const BODY_LEN: usize = 584;
const BODY_15_LEN: usize = 648;
const BODY_15_EX_LEN: usize = 885;
const SIGNATURE_LEN: usize = 64;
const KEY_LEN: usize = 64;
/// An SGX report and its signature.
const QE_REPORT_LEN: usize = 384 + 64;

/// Which version a quote has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 4: the body is a TD report 1.0.
    V4,
    /// 5: a descriptor says which report the body is.
    V5,
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Version::V4 => "4",
            Version::V5 => "5",
        })
    }
}

/// What a quote states of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdBody {
    /// TEE_TCB_SVN.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mrseam: Register,
    /// Its signer; zeros for Intel's.
    pub mrsignerseam: Register,
    /// Its attributes.
    pub seam_attributes: [u8; 8],
    /// TD attributes, as they are in memory.
    pub attributes: [u8; 8],
    /// Extended features that are on, as they are in memory.
    pub xfam: [u8; 8],
    /// Measurement of what the domain was built of: its firmware.
    pub mrtd: Register,
    /// MRCONFIGID, MROWNER and MROWNERCONFIG.
    pub owner: [Register; 3],
    /// RTMR 0 to 3.
    pub rtmrs: [Register; RTMRS],
    /// Report data.
    pub report_data: [u8; 64],
    /// Of a TD report 1.5: TEE_TCB_SVN2 and MRSERVICETD.
    pub service: Option<([u8; 16], Register)>,
}

impl TdBody {
    /// The domain can be looked into by its host: TUD, bits 0 to 7 of the attributes.
    pub fn is_debug(&self) -> bool {
        self.attributes[0] != 0
    }
}

/// A quote, as far as it can be read without a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteBody {
    /// Its version.
    pub version: Version,
    /// What it states.
    pub body: TdBody,
    /// How many bytes it has, without what stands behind it.
    pub len: usize,
}

/// A length, of which the input must have so many bytes left.
fn length(r: &mut ByteReader<'_>, what: &'static str) -> Result<usize> {
    r.u32(what).map(|len| len as usize)
}

/// Nothing is left.
fn end(r: &ByteReader<'_>, what: &'static str) -> Result<()> {
    if r.rest().is_empty() {
        return Ok(());
    }
    malformed(r.at(), format!("bytes follow {what}, as its length has it"))
}

fn body(r: &mut ByteReader<'_>, is_15: bool) -> Result<TdBody> {
    const WHAT: &str = "the TD report";
    let register = |r: &mut ByteReader<'_>| r.array::<REGISTER_LEN>(WHAT);
    let tee_tcb_svn = r.array(WHAT)?;
    let (mrseam, mrsignerseam) = (register(r)?, register(r)?);
    let (seam_attributes, attributes, xfam) = (r.array(WHAT)?, r.array(WHAT)?, r.array(WHAT)?);
    let mrtd = register(r)?;
    let owner = [register(r)?, register(r)?, register(r)?];
    let rtmrs = [register(r)?, register(r)?, register(r)?, register(r)?];
    let report_data = r.array(WHAT)?;
    let service = if is_15 {
        Some((r.array(WHAT)?, register(r)?))
    } else {
        None
    };
    Ok(TdBody {
        tee_tcb_svn,
        mrseam,
        mrsignerseam,
        seam_attributes,
        attributes,
        xfam,
        mrtd,
        owner,
        rtmrs,
        report_data,
        service,
    })
}

/// Checks the lengths within the signature data: signature, key, the quoting enclave's report with its
/// signature and authentication data, and a chain of certificates.
fn signature_data(mut r: ByteReader<'_>) -> Result<()> {
    r.take(SIGNATURE_LEN, "the quote's signature")?;
    r.take(KEY_LEN, "the attestation key")?;
    let at = r.at();
    let kind = r.u16("the certification data's type")?;
    if kind != QE_REPORT {
        return malformed(
            at,
            format!("certification data of type {kind}: {QE_REPORT} is the quoting enclave's report"),
        );
    }
    let len = length(&mut r, "the certification data's size")?;
    let mut inner = r.part(len, "the certification data")?;
    end(&r, "the signature data")?;
    inner.take(QE_REPORT_LEN, "the quoting enclave's report")?;
    let len = usize::from(inner.u16("the authentication data's size")?);
    inner.take(len, "the authentication data")?;
    let at = inner.at();
    let kind = inner.u16("the certificates' type")?;
    if kind != PCK_CHAIN {
        return malformed(
            at,
            format!("certification data of type {kind}: {PCK_CHAIN} is a chain of PCK certificates"),
        );
    }
    let len = length(&mut inner, "the certificates' size")?;
    inner.take(len, "the certificates")?;
    end(&inner, "the certification data")
}

impl QuoteBody {
    /// Reads a quote.
    ///
    /// # Errors
    /// [`Error::Incomplete`], [`Error::Malformed`]: another version or TEE, a length that does not fit, other
    /// bytes than zeros behind the quote.
    pub fn parse(bytes: &[u8]) -> Result<QuoteBody> {
        let mut r = ByteReader::new(bytes, 0);
        let version = match r.u16("the quote's version")? {
            4 => Version::V4,
            5 => Version::V5,
            other => return malformed(0, format!("a quote of version {other}: 4 and 5 are read")),
        };
        let at = r.at();
        let key = r.u16("the attestation key's type")?;
        if key != KEY_ECDSA_P256 {
            return malformed(
                at,
                format!("an attestation key of type {key}: {KEY_ECDSA_P256} is ECDSA on P-256"),
            );
        }
        let at = r.at();
        let tee = r.u32("the TEE's type")?;
        if tee != TEE_TDX {
            return malformed(
                at,
                format!("a quote of TEE type {tee:#x}: {TEE_TDX:#x} is a trust domain"),
            );
        }
        r.take(HEADER_LEN - r.at(), "the quote's header")?;
        let (is_15, more) = match version {
            Version::V4 => (false, 0),
            Version::V5 => {
                let at = r.at();
                let kind = r.u16("the body's type")?;
                let len = length(&mut r, "the body's size")?;
                match (kind, len) {
                    (2, BODY_LEN) => (false, 0),
                    (3, BODY_15_LEN) => (true, 0),
                    (4, BODY_15_EX_LEN) => (true, BODY_15_EX_LEN - BODY_15_LEN),
                    _ => {
                        let why = format!(
                            "a body of type {kind} and {len} bytes: TD reports are 2 of {BODY_LEN}, 3 of \
                             {BODY_15_LEN}, 4 of {BODY_15_EX_LEN}"
                        );
                        return malformed(at, why);
                    }
                }
            }
        };
        let body = body(&mut r, is_15)?;
        r.take(more, "the TD report")?;
        let len = length(&mut r, "the signature data's size")?;
        signature_data(r.part(len, "the signature data")?)?;
        let rest = r.rest();
        if rest.iter().any(|b| *b != 0) {
            return malformed(r.at(), "bytes other than zeros follow the quote");
        }
        Ok(QuoteBody {
            version,
            body,
            len: r.at(),
        })
    }
}

/// A TDREPORT, as the TDX module makes it for the machine that it runs on. Only that machine can check its
/// MAC: what it states is worth something where a quote says the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdReport {
    /// TD attributes.
    pub attributes: [u8; 8],
    /// Extended features that are on.
    pub xfam: [u8; 8],
    /// MRTD.
    pub mrtd: Register,
    /// RTMR 0 to 3.
    pub rtmrs: [Register; RTMRS],
    /// Report data.
    pub report_data: [u8; 64],
}

/// TDREPORT_STRUCT.
const REPORT_LEN: usize = 1024;

impl TdReport {
    /// Reads a TDREPORT. That what it states is where it is looked for, its own hashes say.
    ///
    /// # Errors [`Error::Incomplete`]; [`Error::Malformed`] where it is of another type, or its hashes are
    /// not those of its parts.
    pub fn parse(bytes: &[u8]) -> Result<TdReport> {
        const WHAT: &str = "the TDREPORT";
        ByteReader::new(bytes, 0).take(REPORT_LEN, WHAT)?;
        let mut r = ByteReader::new(bytes, 0);
        // REPORTMACSTRUCT: type, CPUSVN, hash of TEE_TCB_INFO, hash of TDINFO, report data, MAC.
        let kind = r.array::<4>(WHAT)?;
        if u32::from(kind[0]) != TEE_TDX {
            return malformed(
                0,
                format!(
                    "a report of type {:#x}: {TEE_TDX:#x} is a trust domain's",
                    kind[0]
                ),
            );
        }
        r.take(12 + 16, WHAT)?;
        let at = r.at();
        let (tcb_hash, info_hash) = (r.array::<REGISTER_LEN>(WHAT)?, r.array::<REGISTER_LEN>(WHAT)?);
        let report_data = r.array(WHAT)?;
        let part = |begin: usize, len: usize| bytes.get(begin..begin + len).unwrap_or_default();
        let (tcb, info) = (part(256, 239), part(512, 512));
        if Sha384::digest(tcb)[..] != tcb_hash || Sha384::digest(info)[..] != info_hash {
            return malformed(at, "the report's hashes are not those of TEE_TCB_INFO and TDINFO");
        }
        let mut r = ByteReader::new(bytes, 512);
        let (attributes, xfam) = (r.array(WHAT)?, r.array(WHAT)?);
        let mrtd = r.array(WHAT)?;
        r.take(3 * REGISTER_LEN, WHAT)?;
        let rtmrs = [r.array(WHAT)?, r.array(WHAT)?, r.array(WHAT)?, r.array(WHAT)?];
        Ok(TdReport {
            attributes,
            xfam,
            mrtd,
            rtmrs,
            report_data,
        })
    }
}
