//! What is new since a round that a verifier keeps: the delta after a cursor.
//!
//! A verifier that follows a node hands its cursor out with the nonce, and the node answers with what came
//! after it. Cursor and delta together are the evidence: [`EvidenceDelta::join`] gives it back whole, so that
//! everything which is said of evidence holds of a round, too. Not here: which cursor a verifier is at, and
//! whether the delta follows (see `cgpath_appraisal::follow`).

use crate::boot::Registers;
use crate::evidence::{MAX_EVIDENCE_LEN, files, lists};
use crate::merkle::Hash;
use crate::{
    Boot, Entry, Evidence, InFlight, PartitionLog, PodInfo, Quotes, Result, SealedCheckpoint, TdEvidence,
    Tier, pending, serde_bytes_hex, td, wire,
};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// The major type of an array in the first byte's highest bits (RFC 8949 section 3.1): evidence is a map.
const ARRAY: u8 = 4;

/// How far a verifier follows a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Cursor {
    /// SHA-256 that names what the verifier keeps. It is opaque to a node, which gives it back as it is.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub base: Hash,
    /// The boot that it followed.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// Entries of the list that a quote covered, from the first.
    #[n(2)]
    pub entries: u64,
    /// Number of the last checkpoint.
    #[n(3)]
    pub checkpoint: u64,
    /// SHA-256 of its file.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub digest: Hash,
}

/// What came after a cursor, with a quote over all of it. In CBOR an array, so that its first byte tells it
/// from evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Decode)]
#[cbor(array)]
pub struct EvidenceDelta {
    /// Format version: 1.
    #[n(0)]
    pub version: u32,
    /// As in [`Evidence::tier`].
    #[n(1)]
    pub tier: Tier,
    /// As in [`Evidence::node`].
    #[n(2)]
    pub node: String,
    /// As in [`Evidence::boot_id`].
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// As in [`Evidence::quote`].
    #[n(4)]
    pub quote: Quotes,
    /// Entries of the list from [`Cursor::entries`] on.
    #[n(5)]
    #[cbor(decode_with = "lists::entries")]
    pub list: Vec<Entry>,
    /// Checkpoint files after [`Cursor::checkpoint`].
    #[n(6)]
    #[cbor(with = "files")]
    #[serde(with = "serde_bytes_hex::list")]
    pub checkpoints: Vec<Vec<u8>>,
    /// Records that these checkpoints sealed and that one did not; partitions with none are left out.
    #[n(7)]
    pub partitions: Vec<PartitionLog>,
    /// As in [`Evidence::pods`].
    #[n(8)]
    pub pods: Vec<PodInfo>,
    /// As in [`Evidence::kernel`].
    #[n(9)]
    pub kernel: String,
    /// The registers as in [`Evidence::boot`]; log and command line are left out where they are those that
    /// are kept: within a boot they do not change.
    #[n(10)]
    pub boot: Option<Boot>,
    /// What all this comes after.
    #[n(11)]
    pub from: Cursor,
    /// As in [`Evidence::unsealed`]: of this round, in place of those of the round before, which are sealed
    /// now.
    #[n(12)]
    #[cbor(with = "pending::list", has_nil)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsealed: Vec<PartitionLog>,
    /// As in [`Evidence::in_flight`]: of this round, in place of those of the round before.
    #[n(13)]
    #[cbor(with = "pending::marks", has_nil)]
    #[serde(default, with = "pending::marks", skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<InFlight>,
    /// As in [`Evidence::td`]: the register's log behind the extension of [`Cursor::checkpoint`]; the
    /// firmware's log is left out.
    #[n(14)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td: Option<TdEvidence>,
}

/// Why a delta and what a verifier keeps are not one evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// They are of different boots.
    #[error("the part is of another boot than what is kept")]
    Boot,
    /// The tier changed within a boot.
    #[error("the part is of the {delta} tier, and what is kept of the {kept} tier")]
    Tier {
        /// Of the delta.
        delta: Tier,
        /// Of what is kept.
        kept: Tier,
    },
    /// Fewer entries are kept than the delta comes after.
    #[error("the part comes after {from} entries, and {kept} are kept")]
    Entries {
        /// As the delta says.
        from: u64,
        /// Kept.
        kept: u64,
    },
    /// The delta does not come after the last checkpoint that is kept.
    #[error("the part comes after another checkpoint than the last one that is kept")]
    Checkpoint,
    /// What is kept of the register's log does not reach to that checkpoint.
    #[error("the part comes after an extension of the register that is not kept")]
    Register,
}

impl EvidenceDelta {
    /// Whether `bytes` are to be read as a delta and not as evidence.
    pub fn is_delta(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|first| first >> 5 == ARRAY)
    }

    /// The values of PCR 0 to 9 that it states.
    pub fn registers(&self) -> &[Registers] {
        self.boot.as_ref().map_or(&[], |boot| &boot.registers)
    }

    /// Deterministic CBOR.
    pub fn to_cbor(&self) -> Vec<u8> {
        wire::to_vec(self)
    }

    /// # Errors
    /// As [`wire::from_slice`]; [`Error::Malformed`](crate::Error::Malformed) for another version than 1.
    pub fn from_cbor(bytes: &[u8]) -> Result<EvidenceDelta> {
        let delta: EvidenceDelta = wire::from_slice(bytes, "part of evidence", MAX_EVIDENCE_LEN)?;
        let named = format_args!("version {} of a part of evidence", delta.version);
        wire::check_version(delta.version, 0, named)?;
        Ok(delta)
    }

    /// The evidence: `kept`, as far as the cursor reaches, and this after it.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join(self, kept: Evidence) -> core::result::Result<Evidence, JoinError> {
        if kept.boot_id != self.boot_id || self.from.boot_id != self.boot_id {
            return Err(JoinError::Boot);
        }
        if kept.tier != self.tier {
            return Err(JoinError::Tier {
                delta: self.tier,
                kept: kept.tier,
            });
        }
        let from = usize::try_from(self.from.entries).ok();
        let Some(from) = from.filter(|from| *from <= kept.list.len()) else {
            return Err(JoinError::Entries {
                from: self.from.entries,
                kept: kept.list.len() as u64,
            });
        };
        let last = kept
            .checkpoints
            .last()
            .and_then(|file| SealedCheckpoint::from_file(file).ok());
        if last.is_none_or(|last| {
            last.checkpoint.number != self.from.checkpoint || last.digest() != self.from.digest
        }) {
            return Err(JoinError::Checkpoint);
        }
        let Evidence {
            mut list,
            mut checkpoints,
            mut partitions,
            boot,
            td,
            ..
        } = kept;
        let td = joined(td, self.td, self.from.checkpoint)?;
        let (log, command_line) = boot.map(|kept| (kept.log, kept.command_line)).unwrap_or_default();
        list.truncate(from);
        list.extend(self.list);
        checkpoints.extend(self.checkpoints);
        for new in self.partitions {
            match partitions.iter_mut().find(|log| log.key == new.key) {
                Some(log) => log.records.extend(new.records),
                None => partitions.push(new),
            }
        }
        partitions.sort_by_cached_key(|log| log.key.to_string());
        Ok(Evidence {
            version: wire::VERSION,
            tier: self.tier,
            node: self.node,
            boot_id: self.boot_id,
            quote: self.quote,
            list,
            checkpoints,
            partitions,
            pods: self.pods,
            kernel: self.kernel,
            boot: self.boot.map(|new| Boot {
                registers: new.registers,
                log: new.log.or(log),
                command_line: new.command_line.or(command_line),
            }),
            unsealed: self.unsealed,
            in_flight: self.in_flight,
            td,
        })
    }
}

/// What is kept, as far as the extension of checkpoint `from`, and what is new behind it.
fn joined(
    kept: Option<TdEvidence>,
    new: Option<TdEvidence>,
    from: u64,
) -> core::result::Result<Option<TdEvidence>, JoinError> {
    let Some(new) = new else { return Ok(None) };
    let mut kept = kept.ok_or(JoinError::Register)?;
    let end = td::log::end_of(&kept.register_log, from).ok().flatten();
    kept.register_log.truncate(end.ok_or(JoinError::Register)?);
    kept.register_log.extend(new.register_log);
    Ok(Some(TdEvidence {
        register_log: kept.register_log,
        ccel: new.ccel.or(kept.ccel),
        auxblob: new.auxblob,
    }))
}
