//! A quote's attestation structure: TPMS_ATTEST and the clock in it.
//!
//! Promise: what is not marked as made by a TPM, or is no quote, is refused. Not here: who signed it (see
//! [`Signature`](super::Signature)), whether the registers are those of a list (see [`crate::quoted`]).

use super::{MAX_DIGEST_LEN, PcrSelection, TpmReader, put_sized};
use crate::Result;

/// TPM_GENERATED_VALUE (6.2): only the TPM itself signs structures that begin so.
pub const GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE (6.9).
pub const ST_ATTEST_QUOTE: u16 = 0x8018;

/// TPMS_CLOCK_INFO (10.11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClockInfo {
    /// Milliseconds that the TPM was powered.
    pub clock: u64,
    /// TPM Resets since the last TPM2_Clear.
    pub reset_count: u32,
    /// TPM Restarts and Resumes since the last Reset.
    pub restart_count: u32,
    /// Whether the clock is known never to have gone back.
    pub safe: bool,
}

/// TPMS_ATTEST (10.12.12) of a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// Qualified name of the key that signs: hash algorithm and digest, or a handle.
    pub qualified_signer: Vec<u8>,
    /// What the caller asked to be included: the nonce.
    pub extra_data: Vec<u8>,
    /// Clock and counters; obfuscated unless the key is in the endorsement or platform hierarchy.
    pub clock: ClockInfo,
    /// The TPM's vendor-specific version; obfuscated likewise.
    pub firmware_version: u64,
    /// Which registers are quoted.
    pub pcr_select: PcrSelection,
    /// [`composite`] of their values.
    pub pcr_digest: Vec<u8>,
}

impl Attest {
    /// Reads a quote's TPMS_ATTEST, without a TPM2B size.
    ///
    /// # Errors
    /// [`Error::Malformed`] unless it begins with [`GENERATED`] and is a quote; [`Error::Incomplete`];
    /// [`Error::Limit`].
    pub fn parse(bytes: &[u8]) -> Result<Attest> {
        let mut r = TpmReader::new(bytes, "TPMS_ATTEST");
        let magic = r.u32()?;
        if magic != GENERATED {
            return r.malformed(4, format_args!("magic {magic:#010x}, not {GENERATED:#010x}"));
        }
        let kind = r.u16()?;
        if kind != ST_ATTEST_QUOTE {
            return r.malformed(
                2,
                format_args!("type {kind:#06x}, not {ST_ATTEST_QUOTE:#06x} (quote)"),
            );
        }
        let qualified_signer = r.sized(MAX_DIGEST_LEN)?.to_vec();
        let extra_data = r.sized(MAX_DIGEST_LEN)?.to_vec();
        let (clock, reset_count, restart_count) = (r.u64()?, r.u32()?, r.u32()?);
        let safe = match r.u8()? {
            0 => false,
            1 => true,
            other => return r.malformed(1, format_args!("TPMI_YES_NO is {other}")),
        };
        let firmware_version = r.u64()?;
        let pcr_select = PcrSelection::read(&mut r)?;
        let pcr_digest = r.sized(MAX_DIGEST_LEN)?.to_vec();
        r.end()?;
        let clock = ClockInfo {
            clock,
            reset_count,
            restart_count,
            safe,
        };
        Ok(Attest {
            qualified_signer,
            extra_data,
            clock,
            firmware_version,
            pcr_select,
            pcr_digest,
        })
    }

    /// The structure's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(GENERATED.to_be_bytes());
        out.extend(ST_ATTEST_QUOTE.to_be_bytes());
        put_sized(&mut out, &self.qualified_signer);
        put_sized(&mut out, &self.extra_data);
        out.extend(self.clock.clock.to_be_bytes());
        out.extend(self.clock.reset_count.to_be_bytes());
        out.extend(self.clock.restart_count.to_be_bytes());
        out.push(u8::from(self.clock.safe));
        out.extend(self.firmware_version.to_be_bytes());
        self.pcr_select.write(&mut out);
        put_sized(&mut out, &self.pcr_digest);
        out
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{Bank, Error};

    /// A quote of a few registers.
    pub(in crate::tpm) fn attest() -> Attest {
        Attest {
            qualified_signer: [&[0, 0x0b][..], &[7; 32]].concat(),
            extra_data: b"nonce".to_vec(),
            clock: ClockInfo {
                clock: 1,
                reset_count: 2,
                restart_count: 3,
                safe: true,
            },
            firmware_version: 4,
            pcr_select: PcrSelection::of(Bank::Sha256, &[10, 0, 23, 24, 99]),
            pcr_digest: vec![9; 32],
        }
    }

    #[test]
    fn only_a_quote_that_the_tpm_generated_is_read() {
        let mut other = attest().to_bytes();
        other[0] = 0;
        assert!(matches!(
            Attest::parse(&other),
            Err(Error::Malformed { offset: 0, .. })
        ));
        let mut certify = attest().to_bytes();
        certify[5] = 0x17;
        assert!(matches!(
            Attest::parse(&certify),
            Err(Error::Malformed { offset: 4, .. })
        ));
    }
}
