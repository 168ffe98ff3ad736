//! TPM 2.0 structures that a quote consists of: read and written, big-endian, exactly.
//!
//! Promises: a parser takes all of its input or fails with the offset; writing what was read gives the same bytes;
//! nothing is allocated beyond the input's length. Not here: whether a signature or a key is good (see `cgpath-appraisal`).
//!
//! Source: TCG "Trusted Platform Module Library", Part 2: Structures, revision 1.59; section numbers below are its.

use crate::{Bank, Digest, Error, Result};

/// TPM_GENERATED_VALUE (6.2): only the TPM itself signs structures that begin so.
pub const GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE (6.9).
pub const ST_ATTEST_QUOTE: u16 = 0x8018;

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

/// TPM_ECC_NIST_P256 (6.4).
pub const ECC_NIST_P256: u16 = 0x0003;

/// Qualifying data, digests and names are never longer than this: TPMU_HA and TPMU_NAME with SHA-512.
pub const MAX_DIGEST_LEN: usize = 66;
/// Keys and signatures are never longer than this many bytes: RSA-4096.
pub const MAX_KEY_LEN: usize = 512;
/// A selection never names more banks than this (TPML_PCR_SELECTION's HASH_COUNT in tpm2-tss).
pub const MAX_BANKS: usize = 16;
/// A bank's bitmap never has more bytes than this (PCR_SELECT_MAX).
pub const MAX_SELECT_LEN: usize = 4;

/// Reads big-endian integers and sized buffers.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { bytes, at: 0, what }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.saturating_add(len);
        let Some(taken) = self.bytes.get(self.at..end) else {
            let need = (end - self.bytes.len()) as u64;
            return Err(Error::Incomplete {
                offset: self.at as u64,
                need,
                what: self.what,
            });
        };
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
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
        let offset = self.at as u64;
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
            self.at.saturating_sub(back) as u64,
            format!("{}: {why}", self.what),
        ))
    }

    fn end(self) -> Result<()> {
        match self.bytes.len() - self.at {
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

/// TPMS_PCR_SELECTION (10.6.2): PCRs of one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankSelection {
    /// TPM_ALG_ID of the bank.
    pub alg: u16,
    /// Bit `n % 8` of byte `n / 8` is PCR `n`.
    pub bitmap: Vec<u8>,
}

impl BankSelection {
    /// The bank, if it is one that this crate computes.
    pub fn bank(&self) -> Option<Bank> {
        Bank::from_tpm_alg(self.alg)
    }

    /// The selected PCRs, rising.
    pub fn pcrs(&self) -> impl Iterator<Item = u32> {
        let bits = self
            .bitmap
            .iter()
            .enumerate()
            .flat_map(|(n, b)| (0..8).map(move |bit| (n, *b, bit)));
        bits.filter(|(_, b, bit)| b & (1 << bit) != 0)
            .map(|(n, _, bit)| n as u32 * 8 + bit)
    }
}

/// TPML_PCR_SELECTION (10.9.7).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PcrSelection {
    /// Banks, in the order in which their values enter the digest.
    pub banks: Vec<BankSelection>,
}

impl PcrSelection {
    /// PCRs below 24 of one bank, in the three bytes that TPMs use.
    pub fn of(bank: Bank, pcrs: &[u32]) -> PcrSelection {
        let mut bitmap = vec![0; 3];
        for pcr in pcrs {
            if let Some(byte) = bitmap.get_mut(*pcr as usize / 8) {
                *byte |= 1 << (pcr % 8);
            }
        }
        PcrSelection {
            banks: vec![BankSelection {
                alg: bank.tpm_alg(),
                bitmap,
            }],
        }
    }

    /// The selected registers in the order in which their values enter the digest: bank's TPM_ALG_ID and PCR.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u32)> {
        self.banks.iter().flat_map(|b| b.pcrs().map(|pcr| (b.alg, pcr)))
    }

    /// # Errors
    /// [`Error::Incomplete`], [`Error::Malformed`], [`Error::Limit`].
    pub fn parse(bytes: &[u8]) -> Result<PcrSelection> {
        let mut r = Reader::new(bytes, "TPML_PCR_SELECTION");
        let selection = PcrSelection::read(&mut r)?;
        r.end()?;
        Ok(selection)
    }

    fn read(r: &mut Reader) -> Result<PcrSelection> {
        let offset = r.at as u64;
        let count = r.u32()?;
        if count as usize > MAX_BANKS {
            let limit = MAX_BANKS as u64;
            return Err(Error::Limit {
                offset,
                what: "number of banks",
                found: u64::from(count),
                limit,
            });
        }
        let mut banks = Vec::new();
        for _ in 0..count {
            let alg = r.u16()?;
            let len = usize::from(r.u8()?);
            if len > MAX_SELECT_LEN {
                return r.malformed(
                    1,
                    format_args!("a bitmap of {len} bytes, the limit is {MAX_SELECT_LEN}"),
                );
            }
            banks.push(BankSelection {
                alg,
                bitmap: r.take(len)?.to_vec(),
            });
        }
        Ok(PcrSelection { banks })
    }

    /// The structure's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.banks.len() as u32).to_be_bytes());
        for bank in &self.banks {
            out.extend(bank.alg.to_be_bytes());
            out.push(bank.bitmap.len() as u8);
            out.extend(&bank.bitmap);
        }
    }
}

/// The digest that a quote carries: over the values of the selected registers, one after the other.
///
/// `hash` is the algorithm of the key's signing scheme, `values` in the order of [`PcrSelection::iter`].
pub fn composite<'a>(hash: Bank, values: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    hash.hash(&values.into_iter().collect::<Vec<_>>())
}

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
        let mut r = Reader::new(bytes, "TPMS_ATTEST");
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

/// TPMT_SIGNATURE (11.3.4) of the schemes that attestation keys use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// ECDSA; the integers as the TPM gave them: big-endian, leading zeros may be missing.
    Ecdsa {
        /// TPM_ALG_ID of the hash.
        hash: u16,
        /// r.
        r: Vec<u8>,
        /// s.
        s: Vec<u8>,
    },
    /// RSASSA-PKCS1-v1_5.
    Rsassa {
        /// TPM_ALG_ID of the hash.
        hash: u16,
        /// The signature, as long as the modulus.
        signature: Vec<u8>,
    },
    /// RSASSA-PSS.
    Rsapss {
        /// TPM_ALG_ID of the hash.
        hash: u16,
        /// The signature, as long as the modulus.
        signature: Vec<u8>,
    },
}

impl Signature {
    /// # Errors
    /// [`Error::Malformed`] for other schemes; [`Error::Incomplete`]; [`Error::Limit`].
    pub fn parse(bytes: &[u8]) -> Result<Signature> {
        let mut r = Reader::new(bytes, "TPMT_SIGNATURE");
        let scheme = r.u16()?;
        if !matches!(scheme, alg::ECDSA | alg::RSASSA | alg::RSAPSS) {
            return r.malformed(
                2,
                format_args!("scheme {scheme:#06x} is neither ECDSA, RSASSA nor RSAPSS"),
            );
        }
        let hash = r.u16()?;
        let first = r.sized(MAX_KEY_LEN)?.to_vec();
        let signature = match scheme {
            alg::ECDSA => Signature::Ecdsa {
                hash,
                r: first,
                s: r.sized(MAX_KEY_LEN)?.to_vec(),
            },
            alg::RSASSA => Signature::Rsassa {
                hash,
                signature: first,
            },
            _ => Signature::Rsapss {
                hash,
                signature: first,
            },
        };
        r.end()?;
        Ok(signature)
    }

    /// TPM_ALG_ID of the hash over the signed bytes.
    pub fn hash(&self) -> u16 {
        match self {
            Signature::Ecdsa { hash, .. }
            | Signature::Rsassa { hash, .. }
            | Signature::Rsapss { hash, .. } => *hash,
        }
    }

    /// The structure's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (scheme, first, second) = match self {
            Signature::Ecdsa { r, s, .. } => (alg::ECDSA, r, Some(s)),
            Signature::Rsassa { signature, .. } => (alg::RSASSA, signature, None),
            Signature::Rsapss { signature, .. } => (alg::RSAPSS, signature, None),
        };
        out.extend(scheme.to_be_bytes());
        out.extend(self.hash().to_be_bytes());
        put_sized(&mut out, first);
        if let Some(second) = second {
            put_sized(&mut out, second);
        }
        out
    }

    /// ECDSA's r and s as 32 bytes each, as `p256` takes them; `None` for other schemes and larger integers.
    pub fn p256(&self) -> Option<p256::ecdsa::Signature> {
        let Signature::Ecdsa { r, s, .. } = self else {
            return None;
        };
        p256::ecdsa::Signature::from_scalars(field_element(r)?, field_element(s)?).ok()
    }
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

/// TPMA_OBJECT (8.3): what a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attributes(pub u32);

impl Attributes {
    /// The key never leaves its TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// The key never leaves its parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM made the private part.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// Use needs the key's password (which may be empty).
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// Administration needs the key's policy.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// Failed authorisations do not count against the dictionary-attack lockout.
    pub const NO_DA: u32 = 1 << 10;
    /// The key signs only what the TPM itself made: a quote cannot be forged with it.
    pub const RESTRICTED: u32 = 1 << 16;
    /// The key decrypts.
    pub const DECRYPT: u32 = 1 << 17;
    /// The key signs.
    pub const SIGN: u32 = 1 << 18;

    /// Whether all of `mask` are set.
    pub fn has(self, mask: u32) -> bool {
        self.0 & mask == mask
    }

    /// Whether this is an attestation key: made in its TPM, kept there, signs nothing but what the TPM made.
    pub fn is_attestation_key(self) -> bool {
        self.has(
            Attributes::FIXED_TPM
                | Attributes::FIXED_PARENT
                | Attributes::SENSITIVE_DATA_ORIGIN
                | Attributes::RESTRICTED
                | Attributes::SIGN,
        ) && self.0 & Attributes::DECRYPT == 0
    }
}

/// An algorithm with its hash, as schemes have it: TPMT_RSA_SCHEME, TPMT_ECC_SCHEME, TPMT_KDF_SCHEME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// TPM_ALG_ID of the scheme; [`alg::NULL`]: none.
    pub alg: u16,
    /// TPM_ALG_ID of its hash; [`alg::NULL`] where the scheme has none.
    pub hash: u16,
    /// ECDAA's count.
    pub count: Option<u16>,
}

impl Scheme {
    /// No scheme.
    pub const NULL: Scheme = Scheme {
        alg: alg::NULL,
        hash: alg::NULL,
        count: None,
    };

    /// A scheme with its hash.
    pub const fn new(alg: u16, hash: u16) -> Scheme {
        Scheme {
            alg,
            hash,
            count: None,
        }
    }

    fn read(r: &mut Reader) -> Result<Scheme> {
        let scheme = r.u16()?;
        let hash = if matches!(scheme, alg::NULL | alg::RSAES) {
            alg::NULL
        } else {
            r.u16()?
        };
        let count = if scheme == alg::ECDAA {
            Some(r.u16()?)
        } else {
            None
        };
        Ok(Scheme {
            alg: scheme,
            hash,
            count,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.alg.to_be_bytes());
        if !matches!(self.alg, alg::NULL | alg::RSAES) {
            out.extend(self.hash.to_be_bytes());
        }
        if let Some(count) = self.count {
            out.extend(count.to_be_bytes());
        }
    }
}

/// TPMT_SYM_DEF_OBJECT (11.1.7): the cipher with which a storage key protects its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symmetric {
    /// TPM_ALG_ID of the cipher.
    pub alg: u16,
    /// Its key, in bits.
    pub key_bits: u16,
    /// TPM_ALG_ID of the mode.
    pub mode: u16,
}

/// The part of a public area that depends on the kind of key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyKind {
    /// TPM_ALG_RSA.
    Rsa {
        /// The signing or encryption scheme.
        scheme: Scheme,
        /// Length of the modulus, in bits.
        bits: u16,
        /// The public exponent; 0 stands for 65537.
        exponent: u32,
        /// The modulus, big-endian.
        modulus: Vec<u8>,
    },
    /// TPM_ALG_ECC.
    Ecc {
        /// The signing or agreement scheme.
        scheme: Scheme,
        /// TPM_ECC_CURVE.
        curve: u16,
        /// The key derivation scheme; no TPM uses it.
        kdf: Scheme,
        /// The point's x, big-endian.
        x: Vec<u8>,
        /// The point's y, big-endian.
        y: Vec<u8>,
    },
}

/// TPMT_PUBLIC (12.2.4) of an asymmetric key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// TPM_ALG_ID of the hash that makes the name.
    pub name_alg: u16,
    /// What the key may be used for.
    pub attributes: Attributes,
    /// Digest of the policy; empty where there is none.
    pub auth_policy: Vec<u8>,
    /// The cipher of a storage key.
    pub symmetric: Option<Symmetric>,
    /// The rest.
    pub key: KeyKind,
}

/// A public key that signatures can be checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyingKey {
    /// NIST P-256.
    P256(p256::ecdsa::VerifyingKey),
    /// RSA of 2048 to 4096 bits.
    Rsa(rsa::RsaPublicKey),
}

impl Public {
    /// Reads a TPMT_PUBLIC, without a TPM2B size.
    ///
    /// # Errors
    /// [`Error::Malformed`] for keys that are neither RSA nor ECC; [`Error::Incomplete`]; [`Error::Limit`].
    pub fn parse(bytes: &[u8]) -> Result<Public> {
        let mut r = Reader::new(bytes, "TPMT_PUBLIC");
        let kind = r.u16()?;
        if kind != alg::RSA && kind != alg::ECC {
            return r.malformed(2, format_args!("type {kind:#06x} is neither RSA nor ECC"));
        }
        let name_alg = r.u16()?;
        let attributes = Attributes(r.u32()?);
        let auth_policy = r.sized(MAX_DIGEST_LEN)?.to_vec();
        let symmetric = match r.u16()? {
            alg::NULL => None,
            alg => Some(Symmetric {
                alg,
                key_bits: r.u16()?,
                mode: r.u16()?,
            }),
        };
        let scheme = Scheme::read(&mut r)?;
        let key = if kind == alg::RSA {
            let (bits, exponent) = (r.u16()?, r.u32()?);
            KeyKind::Rsa {
                scheme,
                bits,
                exponent,
                modulus: r.sized(MAX_KEY_LEN)?.to_vec(),
            }
        } else {
            let (curve, kdf) = (r.u16()?, Scheme::read(&mut r)?);
            let (x, y) = (r.sized(MAX_KEY_LEN)?.to_vec(), r.sized(MAX_KEY_LEN)?.to_vec());
            KeyKind::Ecc {
                scheme,
                curve,
                kdf,
                x,
                y,
            }
        };
        r.end()?;
        Ok(Public {
            name_alg,
            attributes,
            auth_policy,
            symmetric,
            key,
        })
    }

    /// Reads a TPMT_PUBLIC, or a TPM2B_PUBLIC, which is the same behind its size: what `tpm2_readpublic -o` and
    /// Keylime write.
    ///
    /// # Errors
    /// As [`Public::parse`].
    pub fn parse_file(bytes: &[u8]) -> Result<Public> {
        match bytes {
            [a, b, rest @ ..] if usize::from(u16::from_be_bytes([*a, *b])) == rest.len() => {
                Public::parse(rest).or_else(|error| Public::parse(bytes).map_err(|_| error))
            }
            _ => Public::parse(bytes),
        }
    }

    /// The TPMT_PUBLIC's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let kind = match self.key {
            KeyKind::Rsa { .. } => alg::RSA,
            KeyKind::Ecc { .. } => alg::ECC,
        };
        out.extend(kind.to_be_bytes());
        out.extend(self.name_alg.to_be_bytes());
        out.extend(self.attributes.0.to_be_bytes());
        put_sized(&mut out, &self.auth_policy);
        match self.symmetric {
            None => out.extend(alg::NULL.to_be_bytes()),
            Some(s) => [s.alg, s.key_bits, s.mode]
                .iter()
                .for_each(|n| out.extend(n.to_be_bytes())),
        }
        match &self.key {
            KeyKind::Rsa {
                scheme,
                bits,
                exponent,
                modulus,
            } => {
                scheme.write(&mut out);
                out.extend(bits.to_be_bytes());
                out.extend(exponent.to_be_bytes());
                put_sized(&mut out, modulus);
            }
            KeyKind::Ecc {
                scheme,
                curve,
                kdf,
                x,
                y,
            } => {
                scheme.write(&mut out);
                out.extend(curve.to_be_bytes());
                kdf.write(&mut out);
                put_sized(&mut out, x);
                put_sized(&mut out, y);
            }
        }
        out
    }

    /// The TPM2B_PUBLIC's bytes.
    pub fn to_tpm2b(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_sized(&mut out, &self.to_bytes());
        out
    }

    /// The name (Part 1, 16): the name algorithm's id and the digest of the TPMT_PUBLIC. Its hex is the fingerprint
    /// by which a verifier pins the key. `None` if the algorithm is none of the banks'.
    pub fn name(&self) -> Option<Vec<u8>> {
        let hash = Bank::from_tpm_alg(self.name_alg)?;
        Some(
            [
                &self.name_alg.to_be_bytes(),
                hash.hash(&[&self.to_bytes()]).bytes(),
            ]
            .concat(),
        )
    }

    /// The scheme that the key signs with; [`Scheme::NULL`] where the caller may choose.
    pub fn scheme(&self) -> Scheme {
        match self.key {
            KeyKind::Rsa { scheme, .. } | KeyKind::Ecc { scheme, .. } => scheme,
        }
    }

    /// The key itself.
    ///
    /// # Errors
    /// [`Error::Malformed`] for other curves than P-256, a point that is not on it, and RSA keys that are not 2048
    /// to 4096 bits long or whose modulus or exponent cannot be a key's.
    pub fn verifying_key(&self) -> Result<VerifyingKey> {
        let bad = |why: String| Error::malformed(0, format!("TPMT_PUBLIC: {why}"));
        match &self.key {
            KeyKind::Ecc { curve, x, y, .. } => {
                if *curve != ECC_NIST_P256 {
                    return Err(bad(format!("curve {curve:#06x} is not P-256")));
                }
                let (Some(x), Some(y)) = (field_element(x), field_element(y)) else {
                    return Err(bad("a coordinate of more than 32 bytes".to_owned()));
                };
                let point = p256::EncodedPoint::from_affine_coordinates(&x.into(), &y.into(), false);
                let key = p256::ecdsa::VerifyingKey::from_encoded_point(&point);
                Ok(VerifyingKey::P256(
                    key.map_err(|_| bad("the point is not on the curve".to_owned()))?,
                ))
            }
            KeyKind::Rsa {
                bits,
                exponent,
                modulus,
                ..
            } => {
                if !(2048..=4096).contains(bits) || modulus.len() * 8 != usize::from(*bits) {
                    let len = modulus.len();
                    return Err(bad(format!("RSA of {bits} bits with a modulus of {len} bytes")));
                }
                let exponent = if *exponent == 0 { 65537 } else { *exponent };
                let modulus = rsa::BigUint::from_bytes_be(modulus);
                let key = rsa::RsaPublicKey::new(modulus, exponent.into());
                Ok(VerifyingKey::Rsa(
                    key.map_err(|e| bad(format!("no RSA key: {e}")))?,
                ))
            }
        }
    }
}

/// The registers beside a quote, as `tpm2_quote -o` of tpm2-tools writes them and Keylime takes them: the C structures
/// of tpm2-tss in memory, little-endian.
///
/// Source: tpm2-tools, lib/pcr.c, `pcr_fwrite_serialized` (format `serialized`); tpm2-tss, tss2_tpm2_types.h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrBlob {
    /// What was selected.
    pub select: PcrSelection,
    /// The values, in the order of [`PcrSelection::iter`].
    pub values: Vec<Vec<u8>>,
}

impl PcrBlob {
    const SELECTION_LEN: usize = 4 + MAX_BANKS * 8;
    const DIGEST_LEN: usize = 2 + 64;
    const DIGESTS: usize = 8;
    const MAX_LISTS: usize = 32;
    const LIST_LEN: usize = 4 + PcrBlob::DIGESTS * PcrBlob::DIGEST_LEN;

    /// # Errors
    /// [`Error::Incomplete`]; [`Error::Limit`]; [`Error::Malformed`], also if the number of values is not that of the
    /// selected registers.
    pub fn parse(bytes: &[u8]) -> Result<PcrBlob> {
        let mut r = Reader::new(bytes, "PCR blob");
        let u16_le = |r: &mut Reader| r.array().map(u16::from_le_bytes);
        let u32_le = |r: &mut Reader| r.array().map(u32::from_le_bytes);
        let count = u32_le(&mut r)? as usize;
        if count > MAX_BANKS {
            return r.malformed(4, format_args!("{count} banks, the limit is {MAX_BANKS}"));
        }
        let mut banks = Vec::new();
        for n in 0..MAX_BANKS {
            let (alg, len) = (u16_le(&mut r)?, usize::from(r.u8()?));
            let (bitmap, _padding) = (r.array::<MAX_SELECT_LEN>()?, r.u8()?);
            if n >= count {
                continue;
            }
            let Some(bitmap) = bitmap.get(..len) else {
                return r.malformed(
                    6,
                    format_args!("a bitmap of {len} bytes, the limit is {MAX_SELECT_LEN}"),
                );
            };
            banks.push(BankSelection {
                alg,
                bitmap: bitmap.to_vec(),
            });
        }
        let select = PcrSelection { banks };
        let selected = select.iter().count();
        let lists = u32_le(&mut r)? as usize;
        if lists > PcrBlob::MAX_LISTS {
            return r.malformed(
                4,
                format_args!("{lists} lists of digests, the limit is {}", PcrBlob::MAX_LISTS),
            );
        }
        let mut values = Vec::new();
        for _ in 0..lists {
            let count = u32_le(&mut r)? as usize;
            if count > PcrBlob::DIGESTS {
                return r.malformed(
                    4,
                    format_args!("{count} digests, the limit is {}", PcrBlob::DIGESTS),
                );
            }
            for n in 0..PcrBlob::DIGESTS {
                let len = usize::from(u16_le(&mut r)?);
                let digest = r.array::<64>()?;
                if n >= count {
                    continue;
                }
                let Some(digest) = digest.get(..len) else {
                    return r.malformed(66, format_args!("a digest of {len} bytes"));
                };
                values.push(digest.to_vec());
            }
        }
        r.end()?;
        if values.len() != selected {
            let why = format!("PCR blob: {} values for {selected} registers", values.len());
            return Err(Error::malformed(PcrBlob::SELECTION_LEN as u64, why));
        }
        Ok(PcrBlob { select, values })
    }

    /// The blob's bytes. At most 16 banks, bitmaps of four bytes and values of 64 bytes find place; more is cut.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let banks = self.select.banks.get(..MAX_BANKS).unwrap_or(&self.select.banks);
        out.extend((banks.len() as u32).to_le_bytes());
        for bank in banks {
            let bitmap = bank.bitmap.get(..MAX_SELECT_LEN).unwrap_or(&bank.bitmap);
            out.extend(bank.alg.to_le_bytes());
            out.push(bitmap.len() as u8);
            out.extend(bitmap);
            out.resize(out.len() + MAX_SELECT_LEN - bitmap.len() + 1, 0);
        }
        out.resize(PcrBlob::SELECTION_LEN, 0);
        out.extend((self.values.len().div_ceil(PcrBlob::DIGESTS) as u32).to_le_bytes());
        for list in self.values.chunks(PcrBlob::DIGESTS) {
            let end = out.len() + PcrBlob::LIST_LEN;
            out.extend((list.len() as u32).to_le_bytes());
            for value in list {
                let value = value.get(..64).unwrap_or(value);
                out.extend((value.len() as u16).to_le_bytes());
                out.extend(value);
                out.resize(out.len() + 64 - value.len(), 0);
            }
            out.resize(end, 0);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::{SigningKey, signature::Signer, signature::Verifier};

    fn attest() -> Attest {
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

    fn ecc() -> (SigningKey, Public) {
        let key = SigningKey::from_slice(&[1; 32]).unwrap();
        let point = key.verifying_key().to_encoded_point(false);
        let public = Public {
            name_alg: Bank::Sha256.tpm_alg(),
            attributes: Attributes(0x0005_0072),
            auth_policy: vec![],
            symmetric: None,
            key: KeyKind::Ecc {
                scheme: Scheme::new(alg::ECDSA, Bank::Sha256.tpm_alg()),
                curve: ECC_NIST_P256,
                kdf: Scheme::NULL,
                x: point.x().unwrap().to_vec(),
                y: point.y().unwrap().to_vec(),
            },
        };
        (key, public)
    }

    fn rsa(bits: u16, modulus: Vec<u8>) -> Public {
        Public {
            name_alg: Bank::Sha384.tpm_alg(),
            attributes: Attributes(Attributes::DECRYPT | Attributes::RESTRICTED),
            auth_policy: vec![3; 48],
            symmetric: Some(Symmetric {
                alg: 6,
                key_bits: 128,
                mode: 0x43,
            }),
            key: KeyKind::Rsa {
                scheme: Scheme::NULL,
                bits,
                exponent: 0,
                modulus,
            },
        }
    }

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

    #[test]
    fn selected_registers_come_in_the_order_of_the_digest() {
        let select = attest().pcr_select;
        assert_eq!(
            select.iter().collect::<Vec<_>>(),
            [(0x0b, 0), (0x0b, 10), (0x0b, 23)]
        );
        assert_eq!(select.banks[0].bank(), Some(Bank::Sha256));
    }

    #[test]
    fn an_ecdsa_signature_checks_with_the_key_of_the_public_area_whatever_leading_zeros_are_cut() {
        let (key, public) = ecc();
        let VerifyingKey::P256(verifying) = public.verifying_key().unwrap() else {
            panic!()
        };
        let mut short = 0;
        for n in 0..600u32 {
            let signature: p256::ecdsa::Signature = key.sign(&n.to_be_bytes());
            let cut = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<_>>();
            let (r, s) = (cut(&signature.r().to_bytes()), cut(&signature.s().to_bytes()));
            short += usize::from(r.len() < 32 || s.len() < 32);
            let read = Signature::parse(&Signature::Ecdsa { hash: 0x0b, r, s }.to_bytes()).unwrap();
            verifying.verify(&n.to_be_bytes(), &read.p256().unwrap()).unwrap();
        }
        assert!(short > 0, "no signature with a leading zero was tried");
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        let (_, mut public) = ecc();
        if let KeyKind::Ecc { x, .. } = &mut public.key {
            x[0] ^= 1;
        }
        assert!(public.verifying_key().is_err());
        assert!(rsa(2048, vec![0xff; 255]).verifying_key().is_err());
        assert!(rsa(1024, vec![0xff; 128]).verifying_key().is_err());
        assert!(rsa(2048, vec![0xff; 256]).verifying_key().is_ok());
    }

    #[test]
    fn a_storage_or_unrestricted_key_is_no_attestation_key() {
        let ak = ecc().1.attributes;
        assert!(ak.is_attestation_key());
        for lost in [
            Attributes::FIXED_TPM,
            Attributes::FIXED_PARENT,
            Attributes::SENSITIVE_DATA_ORIGIN,
            Attributes::RESTRICTED,
            Attributes::SIGN,
        ] {
            assert!(!Attributes(ak.0 & !lost).is_attestation_key());
        }
        assert!(!Attributes(ak.0 | Attributes::DECRYPT).is_attestation_key());
    }
}
