//! What the pipeline is made with.

use cgpath_evidence::merkle::Hash;
use cgpath_evidence::td::NODE_KEY_LEN;
use cgpath_evidence::{Digest, Protection};
use std::time::Duration;

/// What the pipeline must know beforehand.
#[derive(Debug, Clone)]
pub struct Setup {
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: [u8; 16],
    /// `v2`, `v1:pids`, …
    pub hierarchy: String,
    /// SHA-256 of the eBPF object that was loaded.
    pub bpf_object: Hash,
    /// SHA-256 of the object whose programs took the places of those, if any did.
    pub bpf_placed: Option<Hash>,
    /// SHA-256 of the IMA policy file, if there is one.
    pub ima_policy: Option<Hash>,
    /// Checkpoint key, SEC1 compressed, 33 bytes: stated in checkpoint 0.
    pub key: Vec<u8>,
    /// The node's key, SEC1 compressed: stated in checkpoint 0 where a register is extended; `None` where
    /// none is.
    pub node_key: Option<[u8; NODE_KEY_LEN]>,
    /// Whether somebody else may extend that register, too, and has a log of it.
    pub other_writer: bool,
    /// How long records that are on their way are waited for when a checkpoint is sealed and none of them
    /// comes.
    pub drain_timeout: Duration,
    /// Records that wait until a checkpoint is sealed unasked; 0: never.
    pub seal_records: u64,
    /// What the programs do about others, by their settings.
    pub protection: Protection,
    /// The hash by which the programs know this collector.
    pub program: Digest,
    /// Where its file lies, raw bytes: a program that it hands over to must be there, too.
    pub program_path: Vec<u8>,
}
