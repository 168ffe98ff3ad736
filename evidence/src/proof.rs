//! What a checkpoint's partitions root proves of one partition: that it holds exactly these records, that it
//! grew from what was sealed before, or that it is not there.
//!
//! Pure and total. The leaves of that tree are `[key, size, root]`, sorted by the bytes of the printed key
//! (see `partition`), so a key that is absent has two neighbours that stand side by side. Promise: a proof
//! says nothing beyond hashes, but for an absence, which names those neighbours. Not here: whether the
//! checkpoint is to be believed, nor that the tree was sorted when it was sealed: both are what a full
//! verifier recomputes (see `cgpath-appraisal`).

use crate::{
    PartitionKey,
    merkle::{self, Frontier, Hash, Path, PathError},
    partition::partition_leaf,
    serde_bytes_hex,
};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Why a proof about a partition proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// A leaf is not where the proof says.
    #[error("partition {key}: {source}")]
    Path {
        /// Whose leaf.
        key: PartitionKey,
        /// Why.
        source: PathError,
    },
    /// The proof is about another partition.
    #[error("the proof is about partition {found}, not about {expected}")]
    OtherPartition {
        /// About which.
        found: PartitionKey,
        /// About which it should be.
        expected: PartitionKey,
    },
    /// A leaf with no record: no such partition is sealed.
    #[error("partition {0} is sealed with no record, which no collector does")]
    Empty(PartitionKey),
    /// The neighbours of an absent key are not its neighbours.
    #[error("partition {key} is not shown to be absent: {why}")]
    NotAdjacent {
        /// The key.
        key: PartitionKey,
        /// Why not.
        why: &'static str,
    },
    /// The records are not those that were sealed.
    #[error(
        "partition {key}: {found} record(s) with the root {found_root} are not the {size} that were sealed \
         under {root}"
    )]
    Records {
        /// Whose.
        key: PartitionKey,
        /// How many were given.
        found: u64,
        /// Their root, in hex.
        found_root: String,
        /// How many were sealed.
        size: u64,
        /// Under which root, in hex.
        root: String,
    },
}

/// One partition as a checkpoint sealed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct SealedPartition {
    /// Whose.
    #[n(0)]
    pub key: PartitionKey,
    /// Number of records.
    #[n(1)]
    pub size: u64,
    /// Root over the records.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub root: Hash,
}

impl SealedPartition {
    /// Checks that these records, by their leaves, are all that was sealed, in the order in which they were.
    ///
    /// # Errors
    /// [`ProofError::Records`].
    pub fn check_complete(&self, leaves: impl IntoIterator<Item = Hash>) -> Result<(), ProofError> {
        let mut frontier = Frontier::default();
        leaves.into_iter().for_each(|leaf| frontier.push(leaf));
        if (frontier.size(), frontier.root()) == (self.size, self.root) {
            return Ok(());
        }
        Err(ProofError::Records {
            key: self.key,
            found: frontier.size(),
            found_root: hex::encode(frontier.root()),
            size: self.size,
            root: hex::encode(self.root),
        })
    }

    /// Checks that one record, by its leaf, is number `index` of this partition.
    ///
    /// # Errors
    /// [`ProofError::Path`].
    pub fn check_record(&self, leaf: &Hash, index: u64, path: &Path) -> Result<(), ProofError> {
        let checked = path.check_inclusion(leaf, index, self.size, &self.root);
        checked.map_err(|source| ProofError::Path {
            key: self.key,
            source,
        })
    }

    /// Checks that what was sealed `before` still stands first, unaltered, in this partition.
    ///
    /// # Errors
    /// [`ProofError::OtherPartition`], [`ProofError::Path`].
    pub fn check_grown_from(&self, before: &SealedPartition, path: &Path) -> Result<(), ProofError> {
        if before.key != self.key {
            return Err(ProofError::OtherPartition {
                found: before.key,
                expected: self.key,
            });
        }
        let checked = path.check_consistency(before.size, &before.root, self.size, &self.root);
        checked.map_err(|source| ProofError::Path {
            key: self.key,
            source,
        })
    }
}

/// A partition, and its place in a checkpoint's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Placed {
    /// The partition.
    #[n(0)]
    pub partition: SealedPartition,
    /// Its number among all partitions, from 0.
    #[n(1)]
    pub index: u64,
    /// From its leaf to the partitions root.
    #[n(2)]
    pub path: Path,
}

impl Placed {
    fn check(&self, tree: &SealedTree) -> Result<(), ProofError> {
        let SealedPartition { key, size, root } = &self.partition;
        if *size == 0 {
            return Err(ProofError::Empty(*key));
        }
        let leaf = partition_leaf(key, *size, root);
        let checked = self
            .path
            .check_inclusion(&leaf, self.index, tree.partitions, &tree.root);
        checked.map_err(|source| ProofError::Path { key: *key, source })
    }
}

/// What a checkpoint states of all partitions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedTree {
    /// How many there are.
    pub partitions: u64,
    /// The root over their leaves.
    pub root: Hash,
}

impl From<&crate::Checkpoint> for SealedTree {
    fn from(checkpoint: &crate::Checkpoint) -> SealedTree {
        SealedTree {
            partitions: checkpoint.partitions,
            root: checkpoint.partitions_root,
        }
    }
}

/// A statement about one partition key under a checkpoint's partitions root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum PartitionProof {
    /// It is there.
    #[n(1)]
    Present(#[n(0)] Placed),
    /// It is not: these are its neighbours.
    #[n(2)]
    Absent {
        /// The last partition before it; absent where it would be the first.
        #[n(0)]
        before: Option<Placed>,
        /// The first partition after it; absent where it would be the last.
        #[n(1)]
        after: Option<Placed>,
    },
}

impl PartitionProof {
    /// Checks the proof for `key`: the partition if it is there, `None` if it is shown to be absent.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn check(&self, key: PartitionKey, tree: &SealedTree) -> Result<Option<SealedPartition>, ProofError> {
        match self {
            PartitionProof::Present(placed) => {
                if placed.partition.key != key {
                    return Err(ProofError::OtherPartition {
                        found: placed.partition.key,
                        expected: key,
                    });
                }
                placed.check(tree)?;
                Ok(Some(placed.partition))
            }
            PartitionProof::Absent { before, after } => {
                for neighbour in before.iter().chain(after) {
                    neighbour.check(tree)?;
                }
                let fail = |why| Err(ProofError::NotAdjacent { key, why });
                let printed = key.to_string();
                if before
                    .as_ref()
                    .is_some_and(|b| b.partition.key.to_string() >= printed)
                    || after
                        .as_ref()
                        .is_some_and(|a| a.partition.key.to_string() <= printed)
                {
                    return fail("a neighbour is on the wrong side of it");
                }
                let next = before.as_ref().map_or(Some(0), |b| b.index.checked_add(1));
                match after {
                    Some(after) if next != Some(after.index) => {
                        fail("its neighbours do not stand side by side")
                    }
                    None if next != Some(tree.partitions) => fail("a partition may follow that is not shown"),
                    None if tree.partitions == 0 && tree.root != merkle::empty_root() => {
                        fail("the root is not that of no partitions")
                    }
                    _ => Ok(None),
                }
            }
        }
    }
}

/// All partitions of a checkpoint, of which proofs are made.
#[derive(Debug, Clone)]
pub struct PartitionTree {
    sorted: Vec<(String, SealedPartition)>,
    leaves: Vec<Hash>,
}

impl PartitionTree {
    /// The tree over all partitions with at least one record; a key that is given twice counts once.
    pub fn new(partitions: impl IntoIterator<Item = SealedPartition>) -> PartitionTree {
        let mut sorted: Vec<(String, SealedPartition)> = partitions
            .into_iter()
            .filter(|p| p.size > 0)
            .map(|p| (p.key.to_string(), p))
            .collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        sorted.dedup_by(|a, b| a.0 == b.0);
        let leaves = sorted
            .iter()
            .map(|(_, p)| partition_leaf(&p.key, p.size, &p.root))
            .collect();
        PartitionTree { sorted, leaves }
    }

    /// What a checkpoint states of it.
    pub fn sealed(&self) -> SealedTree {
        SealedTree {
            partitions: self.leaves.len() as u64,
            root: merkle::root(self.leaves.iter().copied()),
        }
    }

    fn placed(&self, index: usize) -> Option<Placed> {
        Some(Placed {
            partition: self.sorted.get(index)?.1,
            index: index as u64,
            path: Path::inclusion(&self.leaves, index)?,
        })
    }

    /// That `key` is there, or that it is not.
    pub fn prove(&self, key: PartitionKey) -> PartitionProof {
        let printed = key.to_string();
        let at = self.sorted.partition_point(|(other, _)| *other < printed);
        match self.placed(at) {
            Some(placed) if placed.partition.key == key => PartitionProof::Present(placed),
            after => PartitionProof::Absent {
                before: at.checked_sub(1).and_then(|before| self.placed(before)),
                after,
            },
        }
    }
}

#[cfg(test)]
mod tests;
