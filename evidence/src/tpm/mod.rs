//! TPM 2.0 structures that a quote consists of: read and written, big-endian, exactly.
//!
//! Promises: a parser takes all of its input or fails with the offset; writing what was read gives the same
//! bytes; nothing is allocated beyond the input's length. Not here: whether a signature or a key is good (see
//! `cgpath-appraisal`).
//!
//! Source: TCG "Trusted Platform Module Library", Part 2: Structures, revision 1.59; section numbers are its
//! in all files here.

mod attest;
mod pcr;
mod public;
mod signature;

pub use attest::{Attest, ClockInfo, GENERATED, ST_ATTEST_QUOTE};
pub use pcr::{BankSelection, MAX_BANKS, MAX_SELECT_LEN, PcrBlob, PcrSelection, composite};
pub use public::{Attributes, ECC_NIST_P256, KeyKind, Public, Scheme, Symmetric, VerifyingKey};
pub use signature::Signature;

use crate::byte_reader::ByteReader;
use crate::{Error, Result};

/// TPM_ALG_ID values in use here (6.3).
pub mod alg {
    /// TPM_ALG_RSA.
    pub const RSA: u16 = 0x0001;
    /// TPM_ALG_NULL.
    pub const NULL: u16 = 0x0010;
    /// TPM_ALG_RSASSA: PKCS #1 v1.5.
    pub const RSASSA: u16 = 0x0014;
    /// TPM_ALG_RSAES.
    pub const RSAES: u16 = 0x0015;
    /// TPM_ALG_RSAPSS.
    pub const RSAPSS: u16 = 0x0016;
    /// TPM_ALG_OAEP.
    pub const OAEP: u16 = 0x0017;
    /// TPM_ALG_ECDSA.
    pub const ECDSA: u16 = 0x0018;
    /// TPM_ALG_ECDAA.
    pub const ECDAA: u16 = 0x001a;
    /// TPM_ALG_ECC.
    pub const ECC: u16 = 0x0023;
}

/// Qualifying data, digests and names are never longer than this: TPMU_HA and TPMU_NAME with SHA-512.
pub const MAX_DIGEST_LEN: usize = 66;
/// Keys and signatures are never longer than this many bytes: RSA-4096.
pub const MAX_KEY_LEN: usize = 512;

/// Reads big-endian integers and sized buffers.
struct TpmReader<'a> {
    bytes: ByteReader<'a>,
    what: &'static str,
}

impl<'a> TpmReader<'a> {
    fn new(bytes: &'a [u8], what: &'static str) -> TpmReader<'a> {
        TpmReader {
            bytes: ByteReader::new(bytes, 0),
            what,
        }
    }

    fn at(&self) -> usize {
        self.bytes.at()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        self.bytes.take(len, self.what)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes.array(self.what)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A TPM2B: a 16-bit size and as many bytes, at most `limit`.
    fn sized(&mut self, limit: usize) -> Result<&'a [u8]> {
        let offset = self.at() as u64;
        let len = usize::from(self.u16()?);
        if len > limit {
            return Err(Error::Limit {
                offset,
                what: "size of a buffer",
                found: len as u64,
                limit: limit as u64,
            });
        }
        self.take(len)
    }

    fn malformed<T>(&self, back: usize, why: impl core::fmt::Display) -> Result<T> {
        Err(Error::malformed(
            self.at().saturating_sub(back) as u64,
            format!("{}: {why}", self.what),
        ))
    }

    fn end(self) -> Result<()> {
        match self.bytes.rest().len() {
            0 => Ok(()),
            n => self.malformed(0, format_args!("{n} byte(s) follow its end")),
        }
    }
}

fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    // Whatever a value holds was read with, or is checked against, limits far below 64 KiB.
    out.extend((bytes.len().min(usize::from(u16::MAX)) as u16).to_be_bytes());
    out.extend(bytes);
}

/// A big-endian integer in 32 bytes, whatever leading zeros it had; `None` if it does not fit.
fn field_element(bytes: &[u8]) -> Option<[u8; 32]> {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    let digits = &bytes[start..];
    let mut out = [0; 32];
    out.get_mut(32usize.checked_sub(digits.len())?..)?
        .copy_from_slice(digits);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::attest::tests::attest;
    use super::public::tests::{ecc, rsa};
    use super::*;
    use crate::Bank;
    use p256::ecdsa::signature::Signer;

    /// Every parser with a value that it accepts.
    #[allow(clippy::type_complexity, reason = "a table")]
    fn table() -> Vec<(Vec<u8>, fn(&[u8]) -> Result<Vec<u8>>)> {
        let (key, public) = ecc();
        let signature: p256::ecdsa::Signature = key.sign(b"m");
        let (r, s) = (
            signature.r().to_bytes().to_vec(),
            signature.s().to_bytes().to_vec(),
        );
        let again = |b: &[u8]| Signature::parse(b).map(|s| s.to_bytes());
        let public_again = |b: &[u8]| Public::parse(b).map(|p| p.to_bytes());
        let mut ecdaa = public.clone();
        if let KeyKind::Ecc { scheme, .. } = &mut ecdaa.key {
            *scheme = Scheme {
                alg: alg::ECDAA,
                hash: 0x0b,
                count: Some(5),
            };
        }
        vec![
            (attest().to_bytes(), |b| Attest::parse(b).map(|a| a.to_bytes())),
            (Signature::Ecdsa { hash: 0x0b, r, s }.to_bytes(), again),
            (
                Signature::Rsassa {
                    hash: 0x0b,
                    signature: vec![1; 256],
                }
                .to_bytes(),
                again,
            ),
            (
                Signature::Rsapss {
                    hash: 0x0c,
                    signature: vec![1; 512],
                }
                .to_bytes(),
                again,
            ),
            (public.to_bytes(), public_again),
            (ecdaa.to_bytes(), public_again),
            (rsa(2048, vec![0xff; 256]).to_bytes(), public_again),
            (PcrSelection::of(Bank::Sha1, &[1]).to_bytes(), |b| {
                PcrSelection::parse(b).map(|p| p.to_bytes())
            }),
            (
                PcrBlob {
                    select: PcrSelection::of(Bank::Sha1, &[1, 9]),
                    values: vec![vec![1; 20]; 2],
                }
                .to_bytes(),
                |b| PcrBlob::parse(b).map(|p| p.to_bytes()),
            ),
        ]
    }

    #[test]
    fn what_is_written_is_read_back_and_every_truncation_is_incomplete() {
        for (bytes, again) in table() {
            assert_eq!(again(&bytes).as_ref(), Ok(&bytes));
            for n in 0..bytes.len() {
                let cut = again(&bytes[..n]);
                assert!(
                    matches!(cut, Err(Error::Incomplete { .. })),
                    "{n} of {}: {cut:?}",
                    bytes.len()
                );
            }
            let longer = [&bytes[..], &[0]].concat();
            let offset = bytes.len() as u64;
            assert!(matches!(again(&longer), Err(Error::Malformed { offset: o, .. }) if o == offset));
        }
    }

    #[test]
    fn no_single_changed_byte_makes_a_parser_panic() {
        for (bytes, again) in table() {
            for at in 0..bytes.len() {
                for value in [0, 1, 0x10, 0x7f, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    if let Ok(out) = again(&changed) {
                        assert_eq!(again(&out), Ok(out.clone()));
                    }
                }
            }
        }
    }

    #[test]
    fn absurd_sizes_are_refused_before_anything_is_allocated() {
        let mut bytes = attest().to_bytes();
        bytes[6..8].copy_from_slice(&[0xff, 0xff]);
        assert!(matches!(
            Attest::parse(&bytes),
            Err(Error::Limit {
                offset: 6,
                found: 65535,
                ..
            })
        ));
        assert!(matches!(
            PcrSelection::parse(&[0xff; 4]),
            Err(Error::Limit {
                found: 0xffff_ffff,
                ..
            })
        ));
        assert!(matches!(
            PcrSelection::parse(&[0, 0, 0, 1, 0, 4, 9]),
            Err(Error::Malformed { offset: 6, .. })
        ));
    }
}
