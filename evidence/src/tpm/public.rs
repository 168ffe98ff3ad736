//! The public area of a key: TPMT_PUBLIC, its attributes, its name, and the key that signatures are checked
//! with.
//!
//! Promise: [`Public::verifying_key`] gives nothing but a point on P-256 or an RSA key of 2048 to 4096 bits.
//! Not here: whether a verifier pins the key (see `cgpath-appraisal`).

use super::{MAX_DIGEST_LEN, MAX_KEY_LEN, TpmReader, alg, field_element, put_sized};
use crate::{Bank, Error, Result};

/// TPM_ECC_NIST_P256 (6.4).
pub const ECC_NIST_P256: u16 = 0x0003;

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

    fn read(r: &mut TpmReader) -> Result<Scheme> {
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
        let mut r = TpmReader::new(bytes, "TPMT_PUBLIC");
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

    /// Reads a TPMT_PUBLIC, or a TPM2B_PUBLIC, which is the same behind its size: what `tpm2_readpublic -o`
    /// and Keylime write.
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

    /// The name (Part 1, 16): the name algorithm's id and the digest of the TPMT_PUBLIC. Its hex is the
    /// fingerprint by which a verifier pins the key. `None` if the algorithm is none of the banks'.
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
    /// [`Error::Malformed`] for other curves than P-256, a point that is not on it, and RSA keys that are not
    /// 2048 to 4096 bits long or whose modulus or exponent cannot be a key's.
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use p256::ecdsa::SigningKey;

    /// An attestation key of P-256.
    pub(in crate::tpm) fn ecc() -> (SigningKey, Public) {
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

    /// A storage key.
    pub(in crate::tpm) fn rsa(bits: u16, modulus: Vec<u8>) -> Public {
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
