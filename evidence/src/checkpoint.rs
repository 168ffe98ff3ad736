//! A checkpoint: the collector's signed statement about everything it has recorded so far.
//!
//! The file is a COSE_Sign1 (RFC 9052 section 4.2), ES256, whose payload is the deterministic CBOR of
//! [`Checkpoint`]. IMA measures the file when the collector reads it once, so its SHA-256 stands in the list
//! and in PCR 10.

use crate::{
    Digest, Error, PodUid, Result, merkle::Hash, serde_bytes_hex, td::Binding, text::library_message, wire,
};
use coset::{CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, iana};
use minicbor::{Decode, Encode};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Signer, signature::Verifier};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Where checkpoint files lie; the decimal number follows. Also the prefix of their names in the measurement
/// list.
pub const DIRECTORY: &str = "/run/ima-cgpath/checkpoint/";

/// UUID of the small file system that holds checkpoint files; the IMA rule names it.
pub const FS_UUID: &str = "1ca09a17-0000-4000-8000-c9a7c9a7c9a7";

/// Bound into every checkpoint's signature, so that no other signature can be taken for one.
pub const EXTERNAL_AAD: &[u8] = b"ima-cgpath checkpoint v1";

/// A checkpoint file is never longer than this many bytes.
pub const MAX_FILE_LEN: usize = 64 * 1024;

/// What could not be recorded since the load, in total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Losses {
    /// Records for which the ring buffer had no room.
    #[n(0)]
    pub reserve: u64,
    /// Runs of our programs that the kernel refused because one was already running (`recursion_misses`).
    #[n(1)]
    pub recursion: u64,
    /// Reads of kernel memory that failed inside of a record.
    #[n(2)]
    pub read: u64,
    /// Records that user space had to drop (spool full, undecodable).
    #[n(3)]
    pub spool: u64,
}

impl Losses {
    /// All of them; saturating.
    pub fn total(&self) -> u64 {
        self.reserve
            .saturating_add(self.recursion)
            .saturating_add(self.read)
            .saturating_add(self.spool)
    }
}

/// What a checkpoint states. All counts are totals since the load of our programs in this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Checkpoint {
    /// Format version: 1.
    #[n(0)]
    pub version: u32,
    /// /proc/sys/kernel/random/boot_id, 16 bytes.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// From 0, rising by one.
    #[n(2)]
    pub number: u64,
    /// SHA-256 of the previous checkpoint's file; zeros in checkpoint 0.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub previous: Hash,
    /// Entries of the measurement list when this was sealed.
    #[n(4)]
    pub list_len: u64,
    /// The longest prefix of the list in which every entry has its record (entries of the boot count as
    /// settled).
    #[n(5)]
    pub settled: u64,
    /// Entries older than the load of our programs: the `boot` partition is the list's first `boot_len`
    /// entries.
    #[n(6)]
    pub boot_len: u64,
    /// Records sealed so far, of all kinds.
    #[n(7)]
    pub records: u64,
    /// Of these, executions and mappings (see [`crate::Record::is_execution`]).
    #[n(8)]
    pub executions: u64,
    /// The highest sequence number handed out by the kernel side when this was sealed.
    #[n(9)]
    pub last_seq: u64,
    /// Losses so far.
    #[n(10)]
    pub losses: Losses,
    /// The canary's records did not arrive: our programs may have been switched off.
    #[n(11)]
    pub blind: bool,
    /// Number of partitions with at least one record.
    #[n(12)]
    pub partitions: u64,
    /// Merkle root over the sorted (key, size, root) triples; see [`crate::partition::partitions_root`].
    #[n(13)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub partitions_root: Hash,
    /// SHA-256 of the BPF object that was loaded.
    #[n(14)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub bpf_object: Hash,
    /// SHA-256 of the IMA policy file, where it is known by path.
    #[n(15)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex::option", default)]
    pub ima_policy: Option<Hash>,
    /// SHA-256 of the verifier's nonce when this was made for a request.
    #[n(16)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex::option", default)]
    pub nonce_hash: Option<Hash>,
    /// The key that signs this boot's checkpoints: SEC1 compressed P-256 point, 33 bytes. In checkpoint 0
    /// only.
    #[n(17)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex::option", default)]
    pub key: Option<Vec<u8>>,
    /// How often the collector was started in this boot, from 1.
    #[n(18)]
    pub starts: u32,
    /// Pods whose cgroup was there before the load. In checkpoint 0 only.
    #[n(19)]
    pub predating: Vec<PodUid>,
    /// Which cgroup hierarchy paths are from: `v2`, `v1:pids`, `hybrid:pids`…
    #[n(20)]
    pub hierarchy: String,
    /// What the programs do to protect themselves and to stop others; absent where they cannot.
    #[n(21)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// Which programs count as the collector; absent where the collector knows of no handover.
    #[n(22)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collectors: Option<Collectors>,
    /// What binds the list where the checkpoint extends a register of a trust domain; absent without one.
    #[n(23)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

/// The programs that the guard takes for the collector, by the hash that the kernel has of their files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Collectors {
    /// The one that sealed the checkpoint.
    #[n(0)]
    pub program: Digest,
    /// The one that may take over: a handover named it.
    #[n(1)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Digest>,
}

impl Collectors {
    /// All of them, the one that sealed the checkpoint first.
    pub fn all(&self) -> impl Iterator<Item = &Digest> {
        core::iter::once(&self.program).chain(&self.successor)
    }

    /// Whether this program is one of them.
    pub fn counts(&self, program: &Digest) -> bool {
        self.all().any(|counted| counted == program)
    }
}

/// What is done about those who touch the collector's own parts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum GuardMode {
    /// Nothing.
    #[n(0)]
    Off,
    /// It is recorded and goes through.
    #[n(1)]
    Record,
    /// It is recorded and fails.
    #[n(2)]
    Deny,
}

/// Settings of the programs when a checkpoint was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Protection {
    /// About the collector's own parts.
    #[n(0)]
    pub guard: GuardMode,
    /// About others who open the TPM.
    #[n(1)]
    pub tpm: GuardMode,
    /// Whether executions are denied in pods that the verifier does not trust.
    #[n(2)]
    pub enforce: bool,
    /// Whether executions are denied in pods after a loss.
    #[n(3)]
    pub fail_closed: bool,
}

/// A checkpoint as its file holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct SealedCheckpoint {
    /// What it states.
    pub checkpoint: Checkpoint,
    /// The file's bytes.
    pub file: Vec<u8>,
    sign1: CoseSign1,
}

impl SealedCheckpoint {
    /// Signs `checkpoint` with `key`.
    pub fn seal(checkpoint: Checkpoint, key: &SigningKey) -> SealedCheckpoint {
        let sign1 = CoseSign1Builder::new()
            .protected(HeaderBuilder::new().algorithm(iana::Algorithm::ES256).build())
            .payload(wire::to_vec(&checkpoint))
            .create_signature(EXTERNAL_AAD, |message| {
                let signature: Signature = key.sign(message);
                signature.to_vec()
            })
            .build();
        let file = sign1
            .clone()
            .to_vec()
            .expect("a COSE_Sign1 made here can be encoded");
        SealedCheckpoint {
            checkpoint,
            file,
            sign1,
        }
    }

    /// Reads a checkpoint file. The signature is not checked: see [`SealedCheckpoint::verify`].
    ///
    /// # Errors
    /// As [`wire::from_slice`]; [`Error::NotDeterministic`] if the COSE structure is not in its one form.
    pub fn from_file(file: &[u8]) -> Result<SealedCheckpoint> {
        if file.len() > MAX_FILE_LEN {
            return Err(Error::Limit {
                offset: 0,
                what: "checkpoint file",
                found: file.len() as u64,
                limit: MAX_FILE_LEN as u64,
            });
        }
        let sign1 = CoseSign1::from_slice(file).map_err(|e| match e {
            coset::CoseError::DecodeFailed(ciborium_io_eof) if is_eof(&ciborium_io_eof) => {
                Error::Incomplete {
                    offset: file.len() as u64,
                    need: 1,
                    what: "checkpoint",
                }
            }
            other => Error::malformed(
                0,
                format!("checkpoint is not a COSE_Sign1: {}", library_message(&other)),
            ),
        })?;
        let again = sign1
            .clone()
            .to_vec()
            .map_err(|e| Error::malformed(0, e.to_string()))?;
        if again != file {
            return Err(Error::NotDeterministic { what: "checkpoint" });
        }
        let payload = sign1
            .payload
            .as_deref()
            .ok_or_else(|| Error::malformed(0, "checkpoint without a payload"))?;
        let checkpoint: Checkpoint = wire::from_slice(payload, "checkpoint payload", MAX_FILE_LEN)?;
        let named = format_args!("checkpoint version {}", checkpoint.version);
        wire::check_version(checkpoint.version, 0, named)?;
        Ok(SealedCheckpoint {
            checkpoint,
            file: file.to_vec(),
            sign1,
        })
    }

    /// Checks the signature with the key of checkpoint 0 ([`Checkpoint::key`], SEC1 bytes).
    ///
    /// # Errors
    /// [`Error::BadSignature`].
    pub fn verify(&self, key: &[u8]) -> Result<()> {
        let bad = || Error::BadSignature { what: "checkpoint" };
        let key = VerifyingKey::from_sec1_bytes(key).map_err(|_| bad())?;
        let es256 = coset::Algorithm::Assigned(iana::Algorithm::ES256);
        if self.sign1.protected.header.alg != Some(es256) {
            return Err(bad());
        }
        self.sign1.verify_signature(EXTERNAL_AAD, |signature, message| {
            let signature = Signature::from_slice(signature).map_err(|_| bad())?;
            key.verify(message, &signature).map_err(|_| bad())
        })
    }

    /// SHA-256 of the file: what IMA measures and what the next checkpoint's `previous` says.
    pub fn digest(&self) -> Hash {
        Sha256::digest(&self.file).into()
    }
}

fn is_eof<T: core::fmt::Debug>(error: &T) -> bool {
    format!("{error:?}").contains("EndOfFile")
}

/// The number in a checkpoint file's name as the measurement list has it; `None` if `name` is not of that
/// form.
pub fn number_from_path(name: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(DIRECTORY.as_bytes())?;
    let text = core::str::from_utf8(digits).ok()?;
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bank;

    fn stating(collectors: Option<Collectors>) -> Checkpoint {
        Checkpoint {
            version: 1,
            boot_id: [1; 16],
            number: 3,
            previous: [2; 32],
            list_len: 9,
            settled: 8,
            boot_len: 4,
            records: 5,
            executions: 2,
            last_seq: 6,
            losses: Losses::default(),
            blind: false,
            partitions: 1,
            partitions_root: [3; 32],
            bpf_object: [4; 32],
            ima_policy: None,
            nonce_hash: None,
            key: None,
            starts: 1,
            predating: Vec::new(),
            hierarchy: "v2".into(),
            protection: None,
            collectors,
            binding: None,
        }
    }

    #[test]
    fn programs_that_count_as_the_collector_survive_each_encoding_and_none_is_as_before() {
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let program = Bank::Sha256.hash(&[b"one"]);
        let alone = Collectors {
            program: program.clone(),
            successor: None,
        };
        let both = Collectors {
            program: program.clone(),
            successor: Some(Bank::Sha512.hash(&[b"the next"])),
        };
        assert!(!alone.counts(&Bank::Sha512.hash(&[b"the next"])));
        assert!(both.all().all(|one| both.counts(one)) && both.all().next() == Some(&program));
        let without = wire::to_vec(&stating(None));
        for collectors in [None, Some(alone), Some(both)] {
            let made = stating(collectors.clone());
            let sealed = SealedCheckpoint::seal(made.clone(), &key);
            let read = SealedCheckpoint::from_file(&sealed.file).unwrap();
            assert_eq!(read.checkpoint, made);
            let json = serde_json::to_string(&made).unwrap();
            assert_eq!(serde_json::from_str::<Checkpoint>(&json).unwrap(), made);
            assert_eq!(json.contains("collectors"), collectors.is_some());
            // What was there before stands as it did, but for the number of fields.
            assert_eq!(wire::to_vec(&made)[1..without.len()], without[1..]);
        }
    }

    #[test]
    fn a_program_that_is_no_digest_is_refused() {
        let collectors = Collectors {
            program: Bank::Sha256.hash(&[b"one"]),
            successor: None,
        };
        let bytes = wire::to_vec(&stating(Some(collectors)));
        // Key 22: a map of one, whose value is an array of algorithm and bytes.
        let at = bytes
            .windows(5)
            .position(|w| w == [0x16, 0xa1, 0, 0x82, 0x0b])
            .unwrap();
        for (place, byte) in [(at + 1, 0xa0), (at + 2, 1), (at + 4, 0x0c)] {
            let mut other = bytes.clone();
            other[place] = byte;
            let read = wire::from_slice::<Checkpoint>(&other, "checkpoint", MAX_FILE_LEN);
            assert!(matches!(read, Err(Error::Malformed { .. })), "{place}: {read:?}");
        }
    }
}
