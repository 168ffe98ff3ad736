//! The attestation key and quotes against a software TPM of the test's own.

use crate::common::swtpm::Swtpm;
use cgpathd::tpm::{KeyKind, Tpm, TpmError, fingerprint};
use p256::ecdsa::{Signature, VerifyingKey, signature::Verifier};

/// x and y at the end of an ECC TPMT_PUBLIC: two TPM2Bs of 32 bytes.
fn ecc_point(public: &[u8]) -> VerifyingKey {
    let tail = &public[public.len() - 68..];
    assert_eq!((&tail[..2], &tail[34..36]), (&[0, 32][..], &[0, 32][..]));
    let mut sec1 = vec![4];
    sec1.extend(&tail[2..34]);
    sec1.extend(&tail[36..]);
    VerifyingKey::from_sec1_bytes(&sec1).unwrap()
}

/// r and s of a TPMT_SIGNATURE of ECDSA with SHA-256.
fn ecdsa(signature: &[u8]) -> Signature {
    assert_eq!(signature[..4], [0x00, 0x18, 0x00, 0x0b]);
    let mut fixed = [0; 64];
    let mut at = 4;
    for half in 0..2 {
        let n = usize::from(u16::from_be_bytes([signature[at], signature[at + 1]]));
        at += 2;
        fixed[half * 32 + 32 - n..half * 32 + 32].copy_from_slice(&signature[at..at + n]);
        at += n;
    }
    assert_eq!(at, signature.len());
    Signature::from_slice(&fixed).unwrap()
}

#[test]
fn the_key_is_the_same_each_time_and_its_quote_verifies_over_the_nonce() {
    let swtpm = Swtpm::start();
    let options = swtpm.options(KeyKind::EccP256);
    let first = Tpm::open(&options).unwrap().ak().to_vec();
    let mut tpm = Tpm::open(&options).unwrap();
    assert_eq!(tpm.ak(), first);
    assert_eq!(fingerprint(&first).len(), 4 + 64);
    let nonce = [0x5a; 32];
    let (quote, registers) = tpm.quote(&nonce).unwrap();
    // TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE. TPM 2.0 Part 2, 6.2 and 6.9.
    assert_eq!(quote.attest[..6], [0xff, 0x54, 0x43, 0x47, 0x80, 0x18]);
    assert!(quote.attest.windows(32).any(|w| w == nonce));
    ecc_point(&quote.ak)
        .verify(&quote.attest, &ecdsa(&quote.signature))
        .unwrap();
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign; TPMA_OBJECT at
    // offset 4.
    assert_eq!(quote.ak[4..8], 0x0005_0472u32.to_be_bytes());
    // PCR 0 to 10, none of which was ever extended.
    let attest = cgpath_evidence::tpm::Attest::parse(&quote.attest).unwrap();
    let quoted = cgpath_evidence::quoted::QuotedRegisters::strict(&attest, &[registers]).unwrap();
    let zero = cgpath_evidence::Digest::zero(cgpath_evidence::Bank::Sha256);
    assert!(
        quoted
            .boot(cgpath_evidence::Bank::Sha256)
            .unwrap()
            .values()
            .iter()
            .all(|value| *value == zero)
    );
    assert!(quoted.is_with(&[zero]));
}

#[test]
fn an_rsa_key_quotes_too() {
    let swtpm = Swtpm::start();
    let mut tpm = Tpm::open(&swtpm.options(KeyKind::Rsa2048)).unwrap();
    let (quote, _) = tpm.quote(&[1; 20]).unwrap();
    // TPM_ALG_RSASSA, TPM_ALG_SHA256, 256 bytes.
    assert_eq!(quote.signature[..6], [0x00, 0x14, 0x00, 0x0b, 0x01, 0x00]);
    assert_eq!(quote.signature.len(), 6 + 256);
}

#[test]
fn a_bank_that_is_not_allocated_and_an_absent_tpm_are_named() {
    let swtpm = Swtpm::start();
    let mut options = swtpm.options(KeyKind::EccP256);
    let mut tpm = Tpm::open(&options).unwrap();
    assert!(matches!(tpm.quote(&[0; 65]), Err(TpmError::Nonce(65))));
    drop(tpm);
    options.tcti = "device:/nonexistent".into();
    assert!(matches!(Tpm::open(&options), Err(TpmError::Open { .. })));
    options.tcti = "no such thing".into();
    assert!(matches!(Tpm::open(&options), Err(TpmError::Tcti(_))));
}
