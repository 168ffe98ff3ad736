//! Structures of a TPM.

use super::{Seeds, key, seeds};
use cgpath_evidence::Bank;
use cgpath_evidence::tpm::{
    self, Attest, Attributes, ClockInfo, KeyKind, PcrBlob, PcrSelection, Public, Scheme, Signature,
};

pub(super) fn attest() -> Attest {
    Attest {
        qualified_signer: [&[0, 0x0b][..], &[7; 32]].concat(),
        extra_data: b"0123456789abcdef".to_vec(),
        clock: ClockInfo {
            clock: 123_456,
            reset_count: 3,
            restart_count: 1,
            safe: true,
        },
        firmware_version: 0x2023_0119_0016_3636,
        pcr_select: PcrSelection::of(Bank::Sha256, &[10]),
        pcr_digest: vec![8; 32],
    }
}

/// Quotes.
pub fn tpm_attest() -> Seeds {
    let mut two = attest();
    two.pcr_select
        .banks
        .extend(PcrSelection::of(Bank::Sha1, &[0, 1, 2, 3, 10]).banks);
    let mut certify = attest().to_bytes();
    certify[5] = 0x17;
    seeds([
        ("sha256", attest().to_bytes()),
        ("two-banks", two.to_bytes()),
        ("bad-certify", certify),
    ])
}

pub(super) fn ecdsa() -> Signature {
    Signature::Ecdsa {
        hash: Bank::Sha256.tpm_alg(),
        r: vec![0x11; 32],
        s: vec![0x22; 31],
    }
}

/// Signatures of each scheme.
pub fn tpm_signature() -> Seeds {
    let hash = Bank::Sha256.tpm_alg();
    seeds([
        ("ecdsa", ecdsa().to_bytes()),
        (
            "rsassa",
            Signature::Rsassa {
                hash,
                signature: vec![0x33; 256],
            }
            .to_bytes(),
        ),
        (
            "rsapss",
            Signature::Rsapss {
                hash,
                signature: vec![0x33; 256],
            }
            .to_bytes(),
        ),
        ("bad-hmac", vec![0, 5, 0, 0x0b, 0, 0]),
    ])
}

pub(super) fn ecc() -> Public {
    let point = key().verifying_key().to_encoded_point(false);
    let hash = Bank::Sha256.tpm_alg();
    Public {
        name_alg: hash,
        attributes: Attributes(0x0005_0472),
        auth_policy: vec![],
        symmetric: None,
        key: KeyKind::Ecc {
            scheme: Scheme::new(tpm::alg::ECDSA, hash),
            curve: tpm::ECC_NIST_P256,
            kdf: Scheme::NULL,
            x: point.x().map(|x| x.to_vec()).unwrap_or_default(),
            y: point.y().map(|y| y.to_vec()).unwrap_or_default(),
        },
    }
}

/// Public areas, bare and sized.
pub fn tpm_public() -> Seeds {
    let rsa = Public {
        name_alg: Bank::Sha384.tpm_alg(),
        attributes: Attributes(0x0003_00b2),
        auth_policy: vec![6; 48],
        symmetric: Some(tpm::Symmetric {
            alg: 6,
            key_bits: 128,
            mode: 0x43,
        }),
        key: KeyKind::Rsa {
            scheme: Scheme::NULL,
            bits: 2048,
            exponent: 0,
            modulus: vec![0xc3; 256],
        },
    };
    seeds([
        ("ecc", ecc().to_bytes()),
        ("ecc-sized", ecc().to_tpm2b()),
        ("rsa", rsa.to_bytes()),
    ])
}

/// Selections.
pub fn tpm_pcr_selection() -> Seeds {
    let mut two = PcrSelection::of(Bank::Sha256, &[10]);
    two.banks.extend(PcrSelection::of(Bank::Sha1, &[0, 23]).banks);
    seeds([
        ("one", PcrSelection::of(Bank::Sha384, &[0, 7, 10]).to_bytes()),
        ("two", two.to_bytes()),
    ])
}

/// Register values as tpm2-tools writes them.
pub fn tpm_pcr_blob() -> Seeds {
    let pcrs: Vec<u32> = (0..=10).collect();
    let select = PcrSelection::of(Bank::Sha256, &pcrs);
    let values = pcrs
        .iter()
        .map(|n| Bank::Sha256.hash(&[&n.to_be_bytes()]).bytes().to_vec())
        .collect();
    seeds([("eleven", PcrBlob { select, values }.to_bytes())])
}
