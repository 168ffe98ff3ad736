//! One entry of the measurement list as evidence holds it: whole, or redacted.
//!
//! Not here: what stands in a whole one (see [`crate::list`]).

use crate::{Digest, merkle::Hash, serde_bytes_hex, wire};
use minicbor::{Decode, Decoder, Encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// One entry of the measurement list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// The entry's bytes in canonical form (little-endian): pcr, digest, name length, name, data length,
    /// data; as the binary list of the kernel has them (the old `ima` template has no data length). The data,
    /// its inner lengths included, is as the kernel hashed it. `cgpath_evidence::list` decodes them.
    #[n(1)]
    Full(
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        #[serde(with = "serde_bytes_hex")]
        Vec<u8>,
    ),
    /// The redacted form: what is needed to replay, and nothing else. Of what a quote binds by template
    /// digests these, of what a trust domain's register binds the hash.
    #[n(2)]
    Opaque {
        /// The PCR that the entry extends.
        #[n(0)]
        pcr: u32,
        /// Template digests by bank; all zero for a violation.
        #[n(1)]
        #[cbor(decode_with = "read_digests")]
        digests: Vec<Digest>,
        /// What a running value of the list is over (see [`crate::td::ListChain`]).
        #[n(2)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash: Option<Box<EntryHash>>,
    },
}

/// SHA-256 of a whole entry's bytes in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct EntryHash(
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub Hash,
);

impl EntryHash {
    /// Of these bytes, as they stand in [`Entry::Full`].
    pub fn of(entry: &[u8]) -> EntryHash {
        EntryHash(Sha256::digest(entry).into())
    }
}

/// Bytes of the shortest digest: number, length, and 20 bytes of SHA-1.
const SHORTEST_DIGEST: usize = 23;

fn read_digests<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Vec<Digest>, minicbor::decode::Error> {
    wire::list(d, ctx, SHORTEST_DIGEST)
}
