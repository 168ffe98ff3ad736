//! Whose a record is: partition keys, and the root over all partitions.
//!
//! Not here: whether what a partition holds is allowed (see `cgpath-policy` and `cgpath-appraisal`).

use crate::merkle::{self, Frontier, Hash, Tree};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// A pod's UID: 16 bytes, printed with dashes in lower case (RFC 9562 section 4).
///
/// Static pods have a 128-bit hash without dashes in its place; it is printed in the same form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(pub [u8; 16]);

impl PodUid {
    /// Reads 32 hex digits, with dashes, underscores (systemd's form) or nothing between the groups
    /// 8-4-4-4-12.
    pub fn parse(text: &[u8]) -> Option<PodUid> {
        let digits: Vec<u8> = match text.len() {
            32 => text.to_vec(),
            36 => {
                let separator = text[8];
                if separator != b'-' && separator != b'_' {
                    return None;
                }
                if [8, 13, 18, 23].iter().any(|at| text[*at] != separator) {
                    return None;
                }
                text.iter().copied().filter(|b| *b != separator).collect()
            }
            _ => return None,
        };
        let mut uid = [0; 16];
        hex::decode_to_slice(digits, &mut uid).ok()?;
        Some(PodUid(uid))
    }

    /// 32 digits without dashes: how the kubelet writes the UID of a static pod, which it makes itself (an
    /// MD5 of the manifest), in `kubernetes.io/config.hash` and in the pod's cgroup.
    /// Source: Kubernetes, pkg/kubelet/config/common.go, `applyDefaults`.
    pub fn undashed(&self) -> String {
        hex::encode(self.0)
    }

    /// Whether a cgroup's path, or any other text, has this UID without dashes.
    pub fn is_undashed_in(&self, text: &[u8]) -> bool {
        let digits = self.undashed();
        text.windows(digits.len()).any(|part| part == digits.as_bytes())
    }

    /// The UID for people: without dashes where that is how it is written.
    pub fn shown(&self, is_undashed: bool) -> String {
        if is_undashed {
            self.undashed()
        } else {
            self.to_string()
        }
    }
}

impl core::fmt::Display for PodUid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Groups of 8, 4, 4, 4 and 12 digits. A node with many pods prints many of these in a round.
        let mut text = [b'-'; 36];
        for (at, byte) in [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34]
            .into_iter()
            .zip(self.0)
        {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
            text[at..at + 2].copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
        f.write_str(core::str::from_utf8(&text).map_err(|_| core::fmt::Error)?)
    }
}

impl core::fmt::Debug for PodUid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for PodUid {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PodUid {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(d)?;
        PodUid::parse(text.as_bytes()).ok_or_else(|| serde::de::Error::custom("not a pod UID"))
    }
}

impl<C> Encode<C> for PodUid {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PodUid {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = d.position();
        let bytes = d.bytes()?;
        bytes
            .try_into()
            .map(PodUid)
            .map_err(|_| decode::Error::message("a pod UID has 16 bytes").at(at))
    }
}

/// The owner of an append-only log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartitionKey {
    /// Everything in a known cgroup that belongs to no pod.
    Host,
    /// Entries older than the load of our programs: defined by checkpoint 0 alone, holds no records.
    Boot,
    /// No record, or a record whose cgroup is unknown: never taken for the host.
    Unattributed,
    /// A pod.
    Pod(PodUid),
}

impl PartitionKey {
    /// Reads the form of [`core::fmt::Display`].
    pub fn parse(text: &str) -> Option<PartitionKey> {
        match text {
            "host" => Some(PartitionKey::Host),
            "boot" => Some(PartitionKey::Boot),
            "unattributed" => Some(PartitionKey::Unattributed),
            uid => {
                let parsed = PodUid::parse(uid.as_bytes())?;
                (parsed.to_string() == uid).then_some(PartitionKey::Pod(parsed))
            }
        }
    }
}

impl core::fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PartitionKey::Host => f.write_str("host"),
            PartitionKey::Boot => f.write_str("boot"),
            PartitionKey::Unattributed => f.write_str("unattributed"),
            PartitionKey::Pod(uid) => core::fmt::Display::fmt(uid, f),
        }
    }
}

impl serde::Serialize for PartitionKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PartitionKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(d)?;
        PartitionKey::parse(&text).ok_or_else(|| serde::de::Error::custom("not a partition key"))
    }
}

impl<C> Encode<C> for PartitionKey {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.to_string())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PartitionKey {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = d.position();
        PartitionKey::parse(d.str()?).ok_or_else(|| decode::Error::message("not a partition key").at(at))
    }
}

/// The leaf of one partition in the checkpoint's tree: CBOR `[key: tstr, size: uint, root: bstr]`.
pub fn partition_leaf(key: &PartitionKey, size: u64, root: &Hash) -> Hash {
    let mut leaf = Vec::new();
    let mut e = Encoder::new(&mut leaf);
    e.array(3)
        .and_then(|e| e.str(&key.to_string()))
        .and_then(|e| e.u64(size))
        .and_then(|e| e.bytes(root))
        .expect("encoding into memory cannot fail");
    merkle::leaf_hash(&leaf)
}

/// The root over all partitions that have at least one record, sorted by the bytes of their printed key.
pub fn partitions_root(partitions: &BTreeMap<PartitionKey, Frontier>) -> Hash {
    let mut sorted: Vec<(String, &PartitionKey, &Frontier)> = partitions
        .iter()
        .filter(|(_, f)| f.size() > 0)
        .map(|(k, f)| (k.to_string(), k, f))
        .collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    merkle::root(
        sorted
            .iter()
            .map(|(_, key, f)| partition_leaf(key, f.size(), &f.root())),
    )
}

/// All partitions of a node as they grow, and the root over them: the same as [`partitions_root`], for O(log
/// n) hashes a partition that grew, where n is the number of partitions.
#[derive(Debug, Clone, Default)]
pub struct Partitions {
    logs: BTreeMap<PartitionKey, Frontier>,
    /// The printed keys of the tree's leaves, in its order.
    names: Vec<String>,
    tree: Tree,
    /// Partitions that grew since the root was asked for.
    grown: BTreeSet<PartitionKey>,
}

impl Partitions {
    /// Appends a record's leaf to its partition.
    pub fn push(&mut self, key: PartitionKey, leaf: Hash) {
        self.logs.entry(key).or_default().push(leaf);
        self.grown.insert(key);
    }

    /// Appends records: these leaves, of which `tree` is the tree. One that is new takes the tree as it is.
    pub fn append(&mut self, key: PartitionKey, tree: &Frontier, leaves: impl IntoIterator<Item = Hash>) {
        if tree.size() == 0 {
            return;
        }
        match self.logs.entry(key) {
            Entry::Vacant(place) => {
                place.insert(tree.clone());
            }
            Entry::Occupied(mut log) => leaves.into_iter().for_each(|leaf| log.get_mut().push(leaf)),
        }
        self.grown.insert(key);
    }

    /// The partitions, each with at least one record.
    pub fn iter(&self) -> impl Iterator<Item = (&PartitionKey, &Frontier)> {
        self.logs.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.logs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// The root over all of them.
    pub fn root(&mut self) -> Hash {
        for key in core::mem::take(&mut self.grown) {
            let Some(log) = self.logs.get(&key) else { continue };
            let leaf = partition_leaf(&key, log.size(), &log.root());
            let name = key.to_string();
            match self.names.binary_search(&name) {
                Ok(place) => self.tree.replace(place, leaf),
                Err(place) => {
                    self.names.insert(place, name);
                    self.tree.insert(place, leaf);
                }
            }
        }
        self.tree.root()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_root_of_growing_partitions_is_that_of_their_logs(
            pushes in prop::collection::vec((0u8..40, any::<bool>()), 0..200),
        ) {
            let mut partitions = Partitions::default();
            let mut logs: BTreeMap<PartitionKey, Frontier> = BTreeMap::new();
            prop_assert_eq!(partitions.root(), partitions_root(&logs));
            for (n, (number, is_asked)) in pushes.into_iter().enumerate() {
                let key = match number {
                    0 => PartitionKey::Host,
                    1 => PartitionKey::Unattributed,
                    n => PartitionKey::Pod(PodUid([n.wrapping_mul(77); 16])),
                };
                let leaf = merkle::leaf_hash(&n.to_be_bytes());
                partitions.push(key, leaf);
                logs.entry(key).or_default().push(leaf);
                if is_asked {
                    prop_assert_eq!(partitions.root(), partitions_root(&logs));
                }
            }
            prop_assert_eq!(partitions.root(), partitions_root(&logs));
            prop_assert!(partitions.iter().eq(&logs));
        }
    }
}
