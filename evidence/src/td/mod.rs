//! What a trust domain (Intel TDX) says of itself, and how a register that only the collector extends binds
//! the list: quotes, reports, the firmware's log, the log of the register.
//!
//! Promises: no I/O and no signature of others is checked here; every decoder is total; what collector and
//! verifier both compute (report data, the list's chain, what extends the register) is computed here alone.
//! Not here: whether a quote's signature holds (see `cgpath-appraisal`), how the register is extended (see
//! `cgpathd`).

pub mod log;
mod quote;

pub use crate::boot::RTMRS;
pub use quote::{QuoteBody, TdBody, TdReport, Version};

use crate::{Bank, Digest, Entry, EntryHash, Error, Result, merkle::Hash, serde_bytes_hex};
use minicbor::{Decode, Encode};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Signer, signature::Verifier};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// Bytes of a measurement register, and of what extends it: SHA-384.
pub const REGISTER_LEN: usize = 48;

/// The value of a measurement register (MRTD, RTMR 0 to 3), or what extends it.
pub type Register = [u8; REGISTER_LEN];

/// A register's value as a digest.
pub fn digest(register: &Register) -> Digest {
    Digest::new(Bank::Sha384, register).unwrap_or_else(|| Digest::zero(Bank::Sha384))
}

/// The provider that the kernel's configfs-tsm names in a trust domain.
/// Source: drivers/virt/coco/tdx-guest/tdx-guest.c.
pub const PROVIDER_TDX: &str = "tdx_guest";

/// The name of a provider is not longer, in bytes.
pub const MAX_PROVIDER_LEN: usize = 64;
/// A quote is not longer, in bytes: those of version 4 and 5 with their chain of certificates are about 5
/// KiB.
pub const MAX_OUTBLOB_LEN: usize = 16 * 1024;
/// A nonce is not longer, in bytes.
pub const MAX_NONCE_LEN: usize = 64;
/// A SEC1 compressed point of P-256.
pub const NODE_KEY_LEN: usize = 33;
/// An ES256 signature, r and s.
pub const POSSESSION_LEN: usize = 64;

/// What report data is made with, so that it is never that of another protocol.
const REPORT_LABEL: &[u8] = b"ima-cgpath TD report v1";
/// What the node's key signs begins with this.
const POSSESSION_LABEL: &[u8] = b"ima-cgpath node key v1";

/// A quote of a trusted execution environment, as the kernel's configfs-tsm gives it, and the node's key that
/// its report data names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct TdQuote {
    /// Who made it, as `provider` says: [`PROVIDER_TDX`].
    #[n(0)]
    pub provider: String,
    /// `outblob`: the quote. Of a trust domain: Intel's quote format, version 4 or 5, whose report data is
    /// [`ReportData::to_bytes`].
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub outblob: Vec<u8>,
    /// The verifier's nonce, which the report data holds only as a part of its hash.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub nonce: Vec<u8>,
    /// [`checkpoint_digest`] of the last checkpoint, so that the report data can be computed before the
    /// checkpoints are there.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub checkpoint: Register,
    /// The node's key: SEC1 compressed P-256 point.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub node_key: [u8; NODE_KEY_LEN],
    /// The node's key signed this report data: see [`prove_possession`].
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub possession: [u8; POSSESSION_LEN],
}

impl TdQuote {
    /// What its report data must be, with the Name of the attestation key whose quote stands beside it (empty
    /// where there is none).
    pub fn report_data(&self, ak_name: &[u8]) -> [u8; 64] {
        ReportData {
            nonce: &self.nonce,
            checkpoint: &self.checkpoint,
            node_key: &self.node_key,
            ak_name,
        }
        .to_bytes()
    }
}

/// What belongs to a quote of a trust domain and is not needed to know who sent it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct TdEvidence {
    /// Every extension of the anchor's register since the origin that checkpoint 0 states, in order: see
    /// [`log`]. In a delta those behind the extension of the cursor's checkpoint.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub register_log: Vec<u8>,
    /// The firmware's event log, as `/sys/firmware/acpi/tables/data/CCEL` has it; absent where the firmware
    /// has none. Left out of a delta.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(
        with = "serde_bytes_hex::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ccel: Option<Vec<u8>>,
    /// `auxblob`, where the provider gives one; a trust domain's does not.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(
        with = "serde_bytes_hex::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub auxblob: Option<Vec<u8>>,
}

impl TdEvidence {
    /// What a delta has of it behind the extension of checkpoint `number`; `None` where the log has none.
    ///
    /// # Errors
    /// Of the first event of the log that cannot be read.
    pub fn after(&self, number: u64) -> Result<Option<TdEvidence>> {
        let end = log::end_of(&self.register_log, number)?;
        Ok(end.map(|end| TdEvidence {
            register_log: self.register_log.get(end..).unwrap_or_default().to_vec(),
            ccel: None,
            auxblob: self.auxblob.clone(),
        }))
    }
}

/// What a checkpoint states where a register is extended by it: it binds the list without a PCR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Binding {
    /// [`ListChain::value`] after the first [`crate::Checkpoint::list_len`] entries.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub list: Register,
    /// When it was sealed, CLOCK_BOOTTIME in ns: until the next one, nothing binds what is listed.
    #[n(1)]
    pub sealed_ns: u64,
    /// In checkpoint 0 only.
    #[n(2)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Where the chain of a register begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Origin {
    /// The RTMR that checkpoints extend: 2 or 3.
    #[n(0)]
    pub register: u8,
    /// Its value before checkpoint 0 extended it.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub value: Register,
    /// The node's key, as in [`TdQuote::node_key`]. Where PCR 10 covers checkpoint 0, it binds the TPM's
    /// quote to this key.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub node_key: [u8; NODE_KEY_LEN],
}

/// The next value of a register, SHA-384(value ‖ digest).
///
/// Source: Intel TDX Module Base Architecture Specification, TDG.MR.RTMR.EXTEND.
pub fn extend(value: &Register, digest: &Register) -> Register {
    Sha384::new()
        .chain_update(value)
        .chain_update(digest)
        .finalize()
        .into()
}

/// What a checkpoint extends the register with: SHA-384 of its file.
pub fn checkpoint_digest(file: &[u8]) -> Register {
    Sha384::digest(file).into()
}

/// What the report data names the node's key by: SHA-256 of its SEC1 compressed point. Also its fingerprint,
/// by which a verifier pins it.
pub fn node_key_hash(node_key: &[u8; NODE_KEY_LEN]) -> Hash {
    Sha256::digest(node_key).into()
}

/// What a quote answers and speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportData<'a> {
    /// The verifier's nonce.
    pub nonce: &'a [u8],
    /// [`checkpoint_digest`] of the last checkpoint, which was made for this nonce and extended the register.
    pub checkpoint: &'a Register,
    /// The node's key.
    pub node_key: &'a [u8; NODE_KEY_LEN],
    /// The Name of the attestation key whose quote stands beside this one (name algorithm, big-endian, and
    /// digest; TPM 2.0 Part 1, 16); empty where there is none.
    pub ak_name: &'a [u8],
}

impl ReportData<'_> {
    /// The 64 bytes that are written to `inblob`: SHA-512 over a label, nonce, checkpoint, the node key's
    /// hash and the attestation key's Name, each of them after its length in 8 bytes, big-endian.
    pub fn to_bytes(&self) -> [u8; 64] {
        let key = node_key_hash(self.node_key);
        let parts: [&[u8]; 5] = [REPORT_LABEL, self.nonce, self.checkpoint, &key, self.ak_name];
        let mut hash = Sha512::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn possession_message(report_data: &[u8; 64]) -> Vec<u8> {
    [POSSESSION_LABEL, report_data].concat()
}

/// The node's key as evidence states it.
pub fn public_node_key(key: &SigningKey) -> [u8; NODE_KEY_LEN] {
    let point = key.verifying_key().to_encoded_point(true);
    let mut bytes = [0; NODE_KEY_LEN];
    bytes.copy_from_slice(point.as_bytes());
    bytes
}

/// Signs report data with the node's key (ES256, over a label and the 64 bytes).
///
/// The report data names the public half alone, which anyone can do in another trust domain of the same
/// image.
pub fn prove_possession(key: &SigningKey, report_data: &[u8; 64]) -> [u8; POSSESSION_LEN] {
    let signature: Signature = key.sign(&possession_message(report_data));
    signature.to_bytes().into()
}

/// Checks what [`prove_possession`] made.
///
/// # Errors
/// [`Error::BadSignature`], also where `node_key` is no point.
pub fn verify_possession(
    node_key: &[u8; NODE_KEY_LEN],
    report_data: &[u8; 64],
    possession: &[u8; POSSESSION_LEN],
) -> Result<()> {
    let bad = |_| Error::BadSignature {
        what: "the node's key over the report data",
    };
    let key = VerifyingKey::from_sec1_bytes(node_key).map_err(bad)?;
    let signature = Signature::from_slice(possession).map_err(bad)?;
    key.verify(&possession_message(report_data), &signature)
        .map_err(bad)
}

/// The running value of a measurement list: from 48 zero bytes, SHA-384(value ‖ SHA-256(entry)).
///
/// An entry's bytes are its canonical form ([`crate::Entry::Full`]), so that the chain covers the template's
/// name, which no template digest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListChain {
    value: Register,
    entries: u64,
}

impl Default for ListChain {
    fn default() -> Self {
        ListChain {
            value: [0; REGISTER_LEN],
            entries: 0,
        }
    }
}

impl ListChain {
    /// That goes on from a value over so many entries.
    pub fn resume(value: Register, entries: u64) -> ListChain {
        ListChain { value, entries }
    }

    /// The next entry, in canonical form.
    pub fn push(&mut self, entry: &[u8]) {
        self.push_hash(&EntryHash::of(entry));
    }

    /// The next entry, whole or redacted; `false`, and the value is as it was, for a redacted one without its
    /// hash.
    #[must_use]
    pub fn push_entry(&mut self, entry: &Entry) -> bool {
        match entry {
            Entry::Full(bytes) => self.push(bytes),
            Entry::Opaque { hash: Some(hash), .. } => self.push_hash(hash),
            Entry::Opaque { hash: None, .. } => return false,
        }
        true
    }

    fn push_hash(&mut self, hash: &EntryHash) {
        self.value = Sha384::new()
            .chain_update(self.value)
            .chain_update(hash.0)
            .finalize()
            .into();
        self.entries += 1;
    }

    /// The value.
    pub fn value(&self) -> Register {
        self.value
    }

    /// How many entries it is over.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_slice(&[n; 32]).unwrap()
    }

    /// Computed beside this code: Python's hashlib over the bytes that the specification names.
    const REPORT_DATA: &str = "4f327d37af9f8be744765e8af4b2c37de23efd3f5aec7204c9d85b9ac2f8ceb8\
        92edd939a2a55149be1ad6703ccbb5add751c27579035114118d96e800e89053";

    #[test]
    fn report_data_is_that_of_the_specification_and_no_field_passes_for_another() {
        let node_key = [2; NODE_KEY_LEN];
        let of = |nonce: &[u8], checkpoint: &Register, ak_name: &[u8]| {
            ReportData {
                nonce,
                checkpoint,
                node_key: &node_key,
                ak_name,
            }
            .to_bytes()
        };
        let report = of(&[1; 32], &[3; 48], &[4; 34]);
        assert_eq!(hex::encode(report), REPORT_DATA);
        for other in [
            of(&[1; 33], &[3; 48], &[4; 34]),
            of(&[1; 32], &[3; 48], &[]),
            of(&[1; 31], &[3; 48], &[4; 35]),
            of(&[1; 32], &[5; 48], &[4; 34]),
        ] {
            assert_ne!(other, report);
        }
    }

    #[test]
    fn only_who_has_the_nodes_key_can_prove_it_and_only_of_this_report_data() {
        let (ours, theirs) = (key(1), key(2));
        let public = public_node_key(&ours);
        let proof = prove_possession(&ours, &[5; 64]);
        assert_eq!(verify_possession(&public, &[5; 64], &proof), Ok(()));
        assert!(verify_possession(&public, &[6; 64], &proof).is_err());
        assert!(verify_possession(&public_node_key(&theirs), &[5; 64], &proof).is_err());
        assert!(verify_possession(&[0; NODE_KEY_LEN], &[5; 64], &proof).is_err());
        assert!(verify_possession(&public, &[5; 64], &[0; POSSESSION_LEN]).is_err());
        // What the key signed elsewhere, over the bytes without the label.
        let bare: Signature = ours.sign(&[5; 64]);
        assert!(verify_possession(&public, &[5; 64], &bare.to_bytes().into()).is_err());
    }

    #[test]
    fn the_lists_chain_covers_order_number_and_every_byte_of_an_entry() {
        let chain = |entries: &[&[u8]]| {
            let mut chain = ListChain::default();
            entries.iter().for_each(|entry| chain.push(entry));
            chain
        };
        let whole = chain(&[b"a", b"b"]);
        assert_eq!(whole.entries(), 2);
        for other in [
            chain(&[b"b", b"a"]),
            chain(&[b"a"]),
            chain(&[b"ab"]),
            chain(&[b"a", b"b", b""]),
        ] {
            assert_ne!(other.value(), whole.value());
        }
        let mut resumed = ListChain::resume(chain(&[b"a"]).value(), 1);
        resumed.push(b"b");
        assert_eq!(resumed, whole);
    }

    #[test]
    fn a_redacted_entry_stands_for_the_whole_one_by_its_hash_alone() {
        let redacted = |hash: Option<EntryHash>| Entry::Opaque {
            pcr: 10,
            digests: Vec::new(),
            hash: hash.map(Box::new),
        };
        let mut whole = ListChain::default();
        assert!(whole.push_entry(&Entry::Full(b"a".to_vec())));
        let mut shown = ListChain::default();
        assert!(shown.push_entry(&redacted(Some(EntryHash::of(b"a")))));
        assert_eq!(shown, whole);
        let mut other = ListChain::default();
        assert!(other.push_entry(&redacted(Some(EntryHash::of(b"b")))));
        assert_ne!(other, whole);
        assert!(!shown.push_entry(&redacted(None)));
        assert_eq!(shown, whole);
    }
}
