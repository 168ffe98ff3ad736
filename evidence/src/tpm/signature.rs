//! A signature as the TPM gives it: TPMT_SIGNATURE.
//!
//! Not here: whether it verifies (see `cgpath-appraisal`).

use super::{MAX_KEY_LEN, TpmReader, alg, field_element, put_sized};
use crate::Result;

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
        let mut r = TpmReader::new(bytes, "TPMT_SIGNATURE");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::VerifyingKey;
    use crate::tpm::public::tests::ecc;
    use p256::ecdsa::{signature::Signer, signature::Verifier};

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
}
