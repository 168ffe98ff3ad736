//! Attestation keys in software, and what they sign.

use cgpath_evidence::Bank;
use p256::ecdsa::{SigningKey, signature::Signer};
use rsa::signature::SignatureEncoding;
use sha2::{Digest as _, Sha256};
use std::sync::OnceLock;

/// TPMA_OBJECT bits of a good attestation key: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth,
/// restricted, sign. TPM 2.0 Part 2, 8.3.
pub const GOOD_ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 16 | 1 << 18;

/// The kind of attestation key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// P-256, ECDSA with SHA-256.
    EcdsaP256,
    /// RSA-2048, RSASSA-PKCS1-v1_5 with SHA-256.
    Rsassa2048,
    /// RSA-2048, RSASSA-PSS with SHA-256.
    Rsapss2048,
}

/// An attestation key in software.
#[derive(Debug, Clone)]
pub struct AttestationKey {
    kind: KeyKind,
    ecc: SigningKey,
    /// TPMA_OBJECT of the public area.
    pub attributes: u32,
}

impl AttestationKey {
    /// The key `seed` of this kind, with [`GOOD_ATTRIBUTES`].
    pub fn new(kind: KeyKind, seed: u8) -> AttestationKey {
        AttestationKey::of(kind, &[b'k', seed])
    }

    /// One key for each `secret`, where there are more nodes than seeds; RSA keys are all the same.
    pub fn of(kind: KeyKind, secret: &[u8]) -> AttestationKey {
        let ecc = SigningKey::from_slice(&Sha256::digest(secret)).unwrap();
        AttestationKey {
            kind,
            ecc,
            attributes: GOOD_ATTRIBUTES,
        }
    }

    /// TPMT_PUBLIC. TPM 2.0 Part 2, 12.2.4.
    pub fn public(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (key_type, scheme) = match self.kind {
            KeyKind::EcdsaP256 => (0x0023u16, 0x0018u16),
            KeyKind::Rsassa2048 => (0x0001, 0x0014),
            KeyKind::Rsapss2048 => (0x0001, 0x0016),
        };
        out.extend(key_type.to_be_bytes());
        out.extend(0x000bu16.to_be_bytes());
        out.extend(self.attributes.to_be_bytes());
        tpm2b(&mut out, &[]);
        out.extend(0x0010u16.to_be_bytes());
        out.extend(scheme.to_be_bytes());
        out.extend(0x000bu16.to_be_bytes());
        if self.kind == KeyKind::EcdsaP256 {
            out.extend(0x0003u16.to_be_bytes());
            out.extend(0x0010u16.to_be_bytes());
            let point = self.ecc.verifying_key().to_encoded_point(false);
            tpm2b(&mut out, point.x().unwrap());
            tpm2b(&mut out, point.y().unwrap());
        } else {
            use rsa::traits::PublicKeyParts;
            out.extend(2048u16.to_be_bytes());
            out.extend(0u32.to_be_bytes());
            tpm2b(&mut out, &rsa_key().n().to_bytes_be());
        }
        out
    }

    /// The key's Name: 0x000b and SHA-256 of [`AttestationKey::public`].
    pub fn name(&self) -> Vec<u8> {
        let mut name = vec![0, 0x0b];
        name.extend(Sha256::digest(self.public()));
        name
    }

    /// TPMT_SIGNATURE over `message`. TPM 2.0 Part 2, 11.3.4.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match self.kind {
            KeyKind::EcdsaP256 => {
                out.extend(0x0018_000bu32.to_be_bytes());
                let signature: p256::ecdsa::Signature = self.ecc.sign(message);
                let (r, s) = signature.split_bytes();
                tpm2b(&mut out, &r);
                tpm2b(&mut out, &s);
            }
            KeyKind::Rsassa2048 => {
                out.extend(0x0014_000bu32.to_be_bytes());
                let key = rsa::pkcs1v15::SigningKey::<Sha256>::new(rsa_key().clone());
                tpm2b(&mut out, &rsa::signature::Signer::sign(&key, message).to_vec());
            }
            KeyKind::Rsapss2048 => {
                use rsa::signature::RandomizedSigner;
                out.extend(0x0016_000bu32.to_be_bytes());
                let key = rsa::pss::SigningKey::<Sha256>::new(rsa_key().clone());
                tpm2b(
                    &mut out,
                    &key.sign_with_rng(&mut CountingRng::new(b"salt"), message)
                        .to_vec(),
                );
            }
        }
        out
    }
}

fn rsa_key() -> &'static rsa::RsaPrivateKey {
    static KEY: OnceLock<rsa::RsaPrivateKey> = OnceLock::new();
    KEY.get_or_init(|| rsa::RsaPrivateKey::new(&mut CountingRng::new(b"rsa"), 2048).unwrap())
}

/// Not random at all: SHA-256 of a counter, so that every run of a test sees the same keys.
struct CountingRng {
    seed: &'static [u8],
    count: u64,
}

impl CountingRng {
    fn new(seed: &'static [u8]) -> CountingRng {
        CountingRng { seed, count: 0 }
    }
}

impl rsa::rand_core::RngCore for CountingRng {
    fn next_u32(&mut self) -> u32 {
        rsa::rand_core::impls::next_u32_via_fill(self)
    }
    fn next_u64(&mut self) -> u64 {
        rsa::rand_core::impls::next_u64_via_fill(self)
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for chunk in dest.chunks_mut(32) {
            let block = Sha256::new()
                .chain_update(self.seed)
                .chain_update(self.count.to_be_bytes())
                .finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
            self.count += 1;
        }
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl rsa::rand_core::CryptoRng for CountingRng {}

fn tpm2b(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
}

/// The parts of a TPMS_ATTEST that a test may want to change. TPM 2.0 Part 2, 10.12.12.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// TPM_GENERATED_VALUE.
    pub magic: u32,
    /// TPM_ST_ATTEST_QUOTE.
    pub kind: u16,
    /// Qualifying data.
    pub extra: Vec<u8>,
    /// Milliseconds.
    pub clock: u64,
    /// TPM resets.
    pub reset_count: u32,
    /// TPM restarts and resumes.
    pub restart_count: u32,
    /// Whether the clock never went back.
    pub safe: bool,
    /// Banks and the registers selected in each.
    pub selection: Vec<(Bank, Vec<u8>)>,
    /// SHA-256 over the selected registers.
    pub pcr_digest: Vec<u8>,
}

impl Attest {
    /// The structure's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        tpm2b(&mut out, &[0, 0x0b, 7, 7]);
        tpm2b(&mut out, &self.extra);
        out.extend(self.clock.to_be_bytes());
        out.extend(self.reset_count.to_be_bytes());
        out.extend(self.restart_count.to_be_bytes());
        out.push(u8::from(self.safe));
        out.extend(1u64.to_be_bytes());
        out.extend(u32::try_from(self.selection.len()).unwrap().to_be_bytes());
        for (bank, registers) in &self.selection {
            let mut bits = [0u8; 3];
            for register in registers {
                bits[usize::from(register / 8)] |= 1 << (register % 8);
            }
            out.extend(bank.tpm_alg().to_be_bytes());
            out.push(3);
            out.extend(bits);
        }
        tpm2b(&mut out, &self.pcr_digest);
        out
    }
}
