//! Trustee's TPM verifier checks a quote with `az_cvm_vtpm::vtpm::Quote`: what
//! `cgpath export --format trustee` writes is accepted by it, and nothing else is.
//!
//! The evidence is real: a guest that UEFI firmware started, with a software TPM (`evidence/rsa.cbor`,
//! written by `vm-tests/tests/guests/firmware.rs` with `CGPATH_RECORD`).

use crate::published::vector;
use az_cvm_vtpm::vtpm::{Quote, VerifyError};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::pkey::{PKey, Public};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tss_esapi::structures::Signature;
use tss_esapi::traits::UnMarshall as _;

/// The request's nonce. Trustee pads report data to 64 bytes with zeros and wants to find that in the quote.
fn nonce() -> Vec<u8> {
    let mut nonce = b"report data of a Trustee request".to_vec();
    nonce.resize(64, 0);
    nonce
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// `cgpath export`, by the program that was built.
pub(crate) fn export(evidence: &Path) -> Result<Value, String> {
    let cgpath = std::env::var_os("CGPATH").expect("CGPATH names the program cgpath");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("trustee.json");
    let run = Command::new(cgpath)
        .arg("export")
        .arg(evidence)
        .args(["--format", "trustee", "-o"])
        .arg(&out)
        .output()
        .unwrap();
    if !run.status.success() {
        return Err(String::from_utf8_lossy(&run.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap())
}

/// What Trustee makes of the JSON before it asks the crate: the raw RSASSA signature out of TPMT_SIGNATURE,
/// registers of 32 bytes. Source: confidential-containers/trustee, deps/verifier/appraisal/src/tpm/mod.rs.
pub(crate) fn read(json: &Value) -> (Quote, PKey<Public>) {
    let base64 = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
    let quote = &json["tpm_quote"];
    let Signature::RsaSsa(signature) = Signature::unmarshall(&base64(&quote["signature"])).unwrap() else {
        panic!("Trustee takes RSASSA alone");
    };
    let registers: Vec<[u8; 32]> = quote["pcrs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pcr| hex::decode(pcr.as_str().unwrap()).unwrap().try_into().unwrap())
        .collect();
    let quote = serde_json::json!({
        "signature": signature.signature().to_vec(),
        "message": base64(&quote["message"]),
        "pcrs": registers,
    });
    let key = PKey::public_key_from_der(&base64(&json["ak_public"])).unwrap();
    (serde_json::from_value(quote).unwrap(), key)
}

pub(crate) fn evidence() -> PathBuf {
    here("evidence/rsa.cbor")
}

#[test]
fn the_published_evidence_of_the_shape_is_accepted_by_the_crate() {
    let Some(bytes) = vector("tpm/tpm_evidence.json") else {
        return;
    };
    let published: Value = serde_json::from_slice(&bytes).unwrap();
    let (quote, key) = read(&published);
    quote.verify(&key, &quote.nonce().unwrap()).unwrap();
    let ours = export(&evidence()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&ours), keys(&published));
    assert_eq!(keys(&ours["tpm_quote"]), keys(&published["tpm_quote"]));
}

#[test]
fn real_evidence_is_accepted() {
    let (quote, key) = read(&export(&evidence()).unwrap());
    quote.verify(&key, &nonce()).unwrap();
    // PCR 0 to 10; Trustee reads PCR 8 for its init data.
    assert_eq!(quote.pcrs_sha256().count(), 11);
}

#[test]
fn another_nonce_key_register_or_signature_is_refused() {
    let good = export(&evidence()).unwrap();
    let (quote, key) = read(&good);
    assert!(matches!(
        quote.verify(&key, b"another"),
        Err(VerifyError::NonceMismatch)
    ));
    let other = openssl::rsa::Rsa::generate(2048).unwrap();
    let other = PKey::public_key_from_der(&other.public_key_to_der().unwrap()).unwrap();
    assert!(matches!(
        quote.verify(&other, &nonce()),
        Err(VerifyError::SignatureMismatch)
    ));

    for pcr in 0..11 {
        let mut changed = good.clone();
        changed["tpm_quote"]["pcrs"][pcr] = "77".repeat(32).into();
        let (quote, key) = read(&changed);
        assert!(
            matches!(quote.verify(&key, &nonce()), Err(VerifyError::PcrMismatch)),
            "PCR {pcr}"
        );
    }
    for (part, at) in [("message", 60), ("signature", 60)] {
        let mut changed = good.clone();
        let mut bytes = STANDARD
            .decode(good["tpm_quote"][part].as_str().unwrap())
            .unwrap();
        bytes[at] ^= 1;
        changed["tpm_quote"][part] = STANDARD.encode(bytes).into();
        let (quote, key) = read(&changed);
        assert!(
            matches!(quote.verify(&key, &nonce()), Err(VerifyError::SignatureMismatch)),
            "{part}"
        );
    }
}

#[test]
fn evidence_whose_list_does_not_lead_to_the_quote_is_not_exported() {
    let mut bytes = std::fs::read(evidence()).unwrap();
    // A byte in the middle of the measurement list: the name of a file that was measured.
    let name = b"/usr/sbin/cgpathd";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    bytes[at + 5] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tampered.cbor");
    std::fs::write(&path, bytes).unwrap();
    let why = export(&path).unwrap_err();
    assert!(why.contains("no prefix of the list replays"), "{why}");
}
