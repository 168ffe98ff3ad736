//! Merkle trees as in RFC 9162 section 2.1, over SHA-256: leaf hash 0x00, node hash 0x01.
//!
//! [`Frontier`] keeps a growing log's root in O(log n) memory. A [`Path`] proves that a leaf stands in a
//! tree, or that one tree begins with all of another. Promise: a check ends after at most [`MAX_PATH_LEN`]
//! hashes, whatever the numbers.
//! Not here: what the leaves are (see `proof`).

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use sha2::{Digest, Sha256};

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// The hash of a leaf: SHA-256(0x00 || leaf). RFC 9162 section 2.1.1.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([LEAF])
        .chain_update(leaf)
        .finalize()
        .into()
}

/// What stands before a leaf when it is hashed.
pub(crate) const LEAF: u8 = 0;

/// The hash of an inner node: SHA-256(0x01 || left || right). RFC 9162 section 2.1.1.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut node = [1; 1 + 2 * size_of::<Hash>()];
    let (first, second) = node[1..].split_at_mut(left.len());
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    crate::digest::sha256_of_two_blocks(&node)
}

/// The root of an empty tree: SHA-256 of the empty string.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The complete left subtrees of an append-only tree: enough to append to it and to know its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of complete subtrees, largest first; one for each set bit of `size`.
    roots: Vec<Hash>,
}

impl Frontier {
    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf that was hashed with [`leaf_hash`].
    pub fn push(&mut self, leaf: Hash) {
        let is_pushed = self.push_tree(0, leaf);
        debug_assert!(is_pushed, "one leaf has its place behind any number of them");
    }

    /// Appends all leaves of a complete tree of 2^`height` leaves with this root. Whether it is done: a tree
    /// that is higher than one that stands there and is not complete has no place behind it.
    #[must_use]
    pub fn push_tree(&mut self, height: u32, root: Hash) -> bool {
        let Some(leaves) = 1u64.checked_shl(height).filter(|n| self.size.is_multiple_of(*n)) else {
            return false;
        };
        let mut node = root;
        let mut trees = self.size >> height;
        while trees & 1 == 1 {
            if let Some(left) = self.roots.pop() {
                node = node_hash(&left, &node);
            }
            trees >>= 1;
        }
        self.roots.push(node);
        self.size += leaves;
        true
    }

    /// The root of the tree as it stands.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(first) = roots.next() else {
            return empty_root();
        };
        roots.fold(*first, |right, left| node_hash(left, &right))
    }
}

/// The root over leaves that were hashed with [`leaf_hash`].
pub fn root(leaves: impl IntoIterator<Item = Hash>) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(leaf);
    }
    frontier.root()
}

/// A tree whose leaves change: a leaf that is replaced costs O(log n) hashes, one that comes between others
/// all of them.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    leaves: Vec<Hash>,
    /// The levels above the leaves, up to the root; a node without a neighbour stands above itself. Empty
    /// where they are to be made.
    above: Vec<Vec<Hash>>,
}

impl Tree {
    /// Puts a leaf that was hashed with [`leaf_hash`] before the one at `place`, or behind all.
    pub fn insert(&mut self, place: usize, leaf: Hash) {
        self.leaves.insert(place.min(self.leaves.len()), leaf);
        self.above.clear();
    }

    /// Puts another leaf in the place of one; nothing where there is none.
    pub fn replace(&mut self, place: usize, leaf: Hash) {
        let Some(old) = self.leaves.get_mut(place) else {
            return;
        };
        *old = leaf;
        let (mut below, mut at) = (&self.leaves, place / 2);
        for level in &mut self.above {
            if let (Some(node), Some(pair)) = (level.get_mut(at), below.chunks(2).nth(at)) {
                *node = above(pair);
            }
            (below, at) = (level, at / 2);
        }
    }

    /// The root over the leaves.
    pub fn root(&mut self) -> Hash {
        while let below = self.above.last().unwrap_or(&self.leaves)
            && below.len() > 1
        {
            self.above.push(below.chunks(2).map(above).collect());
        }
        let top = self.above.last().unwrap_or(&self.leaves);
        top.first().copied().unwrap_or_else(empty_root)
    }
}

/// The node above one or two others.
fn above(pair: &[Hash]) -> Hash {
    match pair {
        [left, right] => node_hash(left, right),
        _ => pair.first().copied().unwrap_or_default(),
    }
}

/// A path never has more hashes than this: a tree has at most 2^64 leaves, and a consistency path one hash
/// more than its tree is deep.
pub const MAX_PATH_LEN: usize = 65;

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The tree has no such leaf.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    NoSuchLeaf {
        /// The leaf's number, from 0.
        index: u64,
        /// Leaves of the tree.
        size: u64,
    },
    /// A tree cannot begin with a larger one.
    #[error("a tree of {second} leaves cannot begin with one of {first}")]
    Shrunk {
        /// Leaves of the older tree.
        first: u64,
        /// Leaves of the newer one.
        second: u64,
    },
    /// The path has not the number of hashes that the sizes ask for: it is of a tree of another size.
    #[error(
        "the path has {found} hashes, which is not what a tree of {size} leaves has: it is of another tree"
    )]
    Length {
        /// How many it has.
        found: usize,
        /// Leaves of the tree.
        size: u64,
    },
    /// The path leads to another root.
    #[error("the path leads to the root {found}, not to {expected}")]
    Root {
        /// Where it leads, in hex.
        found: String,
        /// Where it should, in hex.
        expected: String,
    },
}

impl PathError {
    fn root(found: &Hash, expected: &Hash) -> PathError {
        PathError::Root {
            found: hex::encode(found),
            expected: hex::encode(expected),
        }
    }
}

/// The hashes of a proof, the lowest first. CBOR: an array of byte strings of 32 bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(Vec<Hash>);

/// The size of the left subtree: the largest power of two below `n`, which is at least 2. RFC 9162 section
/// 2.1.1.
fn split(n: usize) -> usize {
    1 << (n - 1).ilog2()
}

impl Path {
    /// The proof that leaf `index` stands in the tree over `leaves`; `None` if there is no such leaf. RFC
    /// 9162 section 2.1.3.1.
    pub fn inclusion(leaves: &[Hash], index: usize) -> Option<Path> {
        leaves.get(index)?;
        let (mut rest, mut at, mut path) = (leaves, index, Vec::new());
        while rest.len() > 1 {
            let (left, right) = rest.split_at(split(rest.len()));
            let other;
            (rest, other) = if at < left.len() {
                (left, right)
            } else {
                at -= left.len();
                (right, left)
            };
            path.push(root(other.iter().copied()));
        }
        path.reverse();
        Some(Path(path))
    }

    /// The proof that the tree over `leaves` begins with the tree over the first `first` of them; `None` if
    /// there are not so many. Empty where `first` is none or all of them. RFC 9162 section 2.1.4.1.
    pub fn consistency(leaves: &[Hash], first: usize) -> Option<Path> {
        if first > leaves.len() {
            return None;
        }
        let (mut rest, mut m, mut path) = (leaves, first, Vec::new());
        let mut is_known = true;
        while 0 < m && m < rest.len() {
            let (left, right) = rest.split_at(split(rest.len()));
            if m <= left.len() {
                path.push(root(right.iter().copied()));
                rest = left;
            } else {
                path.push(root(left.iter().copied()));
                m -= left.len();
                rest = right;
                is_known = false;
            }
        }
        if !is_known {
            path.push(root(rest.iter().copied()));
        }
        path.reverse();
        Some(Path(path))
    }

    /// How many hashes it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that `leaf` (see [`leaf_hash`]) is number `index` of the `size` leaves below `root`. RFC 9162
    /// section 2.1.3.2.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn check_inclusion(&self, leaf: &Hash, index: u64, size: u64, root: &Hash) -> Result<(), PathError> {
        if index >= size {
            return Err(PathError::NoSuchLeaf { index, size });
        }
        let length = || PathError::Length {
            found: self.0.len(),
            size,
        };
        let (mut at, mut last, mut found) = (index, size - 1, *leaf);
        for hash in &self.0 {
            if last == 0 {
                return Err(length());
            }
            if at & 1 == 1 || at == last {
                found = node_hash(hash, &found);
                while at & 1 == 0 && at != 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                found = node_hash(&found, hash);
            }
            at >>= 1;
            last >>= 1;
        }
        match (last, found == *root) {
            (0, true) => Ok(()),
            (0, false) => Err(PathError::root(&found, root)),
            _ => Err(length()),
        }
    }

    /// Checks that the tree of `second` leaves below `second_root` begins with all `first` leaves below
    /// `first_root`. RFC 9162 section 2.1.4.2; that an empty tree begins every other needs no hash, nor that
    /// a tree begins itself.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn check_consistency(
        &self,
        first: u64,
        first_root: &Hash,
        second: u64,
        second_root: &Hash,
    ) -> Result<(), PathError> {
        if first > second {
            return Err(PathError::Shrunk { first, second });
        }
        let length = || PathError::Length {
            found: self.0.len(),
            size: second,
        };
        if first == 0 || first == second {
            let expected = if first == 0 { empty_root() } else { *second_root };
            return match (self.0.is_empty(), *first_root == expected) {
                (false, _) => Err(length()),
                (true, false) => Err(PathError::root(first_root, &expected)),
                (true, true) => Ok(()),
            };
        }
        let (mut at, mut last) = (first - 1, second - 1);
        while at & 1 == 1 {
            at >>= 1;
            last >>= 1;
        }
        let mut path = self.0.iter();
        let start = if first.is_power_of_two() {
            *first_root
        } else {
            *path.next().ok_or_else(length)?
        };
        let (mut older, mut newer) = (start, start);
        for hash in path {
            if last == 0 {
                return Err(length());
            }
            if at & 1 == 1 || at == last {
                older = node_hash(hash, &older);
                newer = node_hash(hash, &newer);
                while at & 1 == 0 && at != 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                newer = node_hash(&newer, hash);
            }
            at >>= 1;
            last >>= 1;
        }
        if last != 0 {
            return Err(length());
        }
        if older != *first_root {
            return Err(PathError::root(&older, first_root));
        }
        if newer != *second_root {
            return Err(PathError::root(&newer, second_root));
        }
        Ok(())
    }
}

impl<C> Encode<C> for Path {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(self.0.len() as u64)?;
        self.0.iter().try_for_each(|hash| e.bytes(hash)?.ok())
    }
}

impl<'b, C> Decode<'b, C> for Path {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = d.position();
        let len = d
            .array()?
            .filter(|len| *len <= MAX_PATH_LEN as u64)
            .ok_or_else(|| decode::Error::message("a path is an array of at most 65 hashes").at(at))?;
        let hash = |d: &mut Decoder<'b>| {
            let at = d.position();
            Hash::try_from(d.bytes()?).map_err(|_| decode::Error::message("a hash has 32 bytes").at(at))
        };
        (0..len).map(|_| hash(d)).collect::<Result<_, _>>().map(Path)
    }
}

impl serde::Serialize for Path {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        crate::serde_bytes_hex::list::serialize(&self.0, s)
    }
}

impl<'de> serde::Deserialize<'de> for Path {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let list = crate::serde_bytes_hex::list::deserialize(d)?;
        if list.len() > MAX_PATH_LEN {
            return Err(D::Error::custom("a path has at most 65 hashes"));
        }
        let hash =
            |bytes: Vec<u8>| Hash::try_from(bytes).map_err(|_| D::Error::custom("a hash has 32 bytes"));
        list.into_iter().map(hash).collect::<Result<_, _>>().map(Path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 9162 section 2.1.1, word for word: split at the largest power of two below n.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            _ => {
                let k = leaves.len().next_power_of_two() / 2;
                node_hash(&by_definition(&leaves[..k]), &by_definition(&leaves[k..]))
            }
        }
    }

    #[test]
    fn frontier_equals_the_recursive_definition_for_every_small_size() {
        let leaves: Vec<Hash> = (0u32..130).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        for n in 0..=leaves.len() {
            assert_eq!(
                root(leaves[..n].iter().copied()),
                by_definition(&leaves[..n]),
                "size {n}"
            );
        }
    }

    #[test]
    fn a_node_is_the_hash_of_one_byte_and_both_below_it() {
        let [left, right] = [leaf_hash(b"left"), leaf_hash(b"right")];
        let expected: Hash = Sha256::digest([&[1][..], &left, &right].concat()).into();
        assert_eq!(node_hash(&left, &right), expected);
    }

    #[test]
    fn a_tree_is_appended_as_its_leaves_are_and_only_where_it_has_its_place() {
        let leaves = leaves(40);
        for before in 0..24usize {
            for height in 0..5u32 {
                let len = 1 << height;
                let mut one_by_one = Frontier::default();
                leaves[..before].iter().for_each(|leaf| one_by_one.push(*leaf));
                let mut at_once = one_by_one.clone();
                let done = at_once.push_tree(height, root(leaves[before..before + len].iter().copied()));
                assert_eq!(done, before % len == 0, "{len} behind {before}");
                if done {
                    leaves[before..before + len]
                        .iter()
                        .for_each(|leaf| one_by_one.push(*leaf));
                }
                assert_eq!(at_once, one_by_one, "{len} behind {before}");
            }
        }
        assert!(!Frontier::default().push_tree(64, leaves[0]));
    }

    fn leaves(n: u32) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    /// PATH(m, D[n]) of RFC 9162 section 2.1.3.1, word for word.
    fn path_by_definition(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return vec![];
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (mut path, other) = if m < left.len() {
            (path_by_definition(m, left), right)
        } else {
            (path_by_definition(m - left.len(), right), left)
        };
        path.push(by_definition(other));
        path
    }

    /// SUBPROOF(m, D[n], b) of RFC 9162 section 2.1.4.1, word for word.
    fn subproof(m: usize, leaves: &[Hash], b: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if b { vec![] } else { vec![by_definition(leaves)] };
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (mut proof, other) = if m <= left.len() {
            (subproof(m, left, b), right)
        } else {
            (subproof(m - left.len(), right, false), left)
        };
        proof.push(by_definition(other));
        proof
    }

    #[test]
    fn every_proof_of_small_trees_is_the_definitions_and_is_accepted() {
        let leaves = leaves(70);
        for n in 1..=leaves.len() {
            let (tree, whole) = (&leaves[..n], by_definition(&leaves[..n]));
            for m in 0..n {
                let path = Path::inclusion(tree, m).unwrap();
                assert_eq!(path.0, path_by_definition(m, tree), "{m} of {n}");
                assert_eq!(path.check_inclusion(&tree[m], m as u64, n as u64, &whole), Ok(()));
            }
            for m in 0..=n {
                let path = Path::consistency(tree, m).unwrap();
                if m > 0 {
                    assert_eq!(path.0, subproof(m, tree, true), "{m} of {n}");
                }
                let older = by_definition(&tree[..m]);
                assert_eq!(path.check_consistency(m as u64, &older, n as u64, &whole), Ok(()));
            }
            assert_eq!(
                (Path::inclusion(tree, n), Path::consistency(tree, n + 1)),
                (None, None)
            );
        }
    }

    #[test]
    fn a_proof_for_a_tree_of_another_size_or_another_leaf_is_refused() {
        let leaves = leaves(18);
        for n in 1..=leaves.len() {
            let (tree, whole) = (&leaves[..n], by_definition(&leaves[..n]));
            for m in 0..n {
                let path = Path::inclusion(tree, m).unwrap();
                for size in 0..=20u64 {
                    for index in 0..=20u64 {
                        // In a tree of another size the same path can lead to the same root: a proof binds
                        // leaf and place only together with a size that somebody signed. The place alone it
                        // does bind.
                        if size == n as u64 && index != m as u64 {
                            let checked = path.check_inclusion(&tree[m], index, size, &whole);
                            assert!(checked.is_err(), "{m} of {n} as {index} of {size}");
                        }
                        let other = leaf_hash(b"another");
                        assert!(path.check_inclusion(&other, index, size, &whole).is_err());
                    }
                    if size < n as u64
                        && path.len() != Path::inclusion(&leaves[..size as usize], m).map_or(99, |p| p.len())
                    {
                        assert!(path.check_inclusion(&tree[m], m as u64, size, &whole).is_err());
                    }
                }
            }
            for m in 1..=n {
                let path = Path::consistency(tree, m).unwrap();
                let older = by_definition(&tree[..m]);
                for other in (1..=n).filter(|other| *other != m) {
                    let wrong = by_definition(&tree[..other]);
                    let (m, n, other) = (m as u64, n as u64, other as u64);
                    assert!(path.check_consistency(m, &wrong, n, &whole).is_err());
                    assert!(
                        path.check_consistency(other, &wrong, n, &whole).is_err(),
                        "{m} as {other} of {n}"
                    );
                }
                if m < n {
                    let mut forked = tree.to_vec();
                    forked[m - 1] = leaf_hash(b"another");
                    assert!(
                        Path::consistency(&forked, m)
                            .unwrap()
                            .check_consistency(m as u64, &older, n as u64, &by_definition(&forked))
                            .is_err()
                    );
                }
            }
        }
    }

    #[test]
    fn counts_that_overflow_end_in_an_error_and_not_in_a_loop() {
        let (zero, leaves) = ([0; 32], leaves(3));
        let path = Path(vec![zero; MAX_PATH_LEN]);
        for size in [0, 1, u64::MAX - 1, u64::MAX] {
            for index in [0, 1, u64::MAX - 1, u64::MAX] {
                assert!(path.check_inclusion(&zero, index, size, &zero).is_err());
                assert!(path.check_consistency(index, &zero, size, &leaves[0]).is_err());
                assert!(
                    Path::default()
                        .check_inclusion(&zero, index, size, &leaves[0])
                        .is_err()
                );
            }
        }
    }

    #[test]
    fn a_path_longer_than_any_tree_is_refused_before_it_is_read() {
        let hash = [[0x58, 0x20].as_slice(), &[7; 32]].concat();
        let path = |head: &[u8], n: usize| [head, &hash.repeat(n)].concat();
        let read = |bytes: &[u8]| crate::wire::from_slice::<Path>(bytes, "path", 1 << 20);
        assert_eq!(read(&path(&[0x98, 65], 65)).unwrap().len(), 65);
        assert!(matches!(
            read(&path(&[0x98, 66], 66)),
            Err(crate::Error::Malformed { .. })
        ));
        // 10 GiB of hashes, and a hash of 10 GiB.
        let huge = (10u64 << 30).to_be_bytes();
        assert!(matches!(
            read(&path(&[&[0x9b], &huge[..]].concat(), 1)),
            Err(crate::Error::Incomplete { offset: 43, .. })
        ));
        assert!(matches!(
            read(&[&[0x81, 0x5b], &huge[..], &[1, 2, 3]].concat()),
            Err(crate::Error::Incomplete { .. })
        ));
        assert!(matches!(
            read(&path(&[0x9f], 1)),
            Err(crate::Error::NotDeterministic { .. })
        ));
    }

    #[test]
    fn a_leaf_can_not_be_taken_for_a_node() {
        let (a, b) = (leaf_hash(b"a"), leaf_hash(b"b"));
        let mut forged = a.to_vec();
        forged.extend(b);
        assert_ne!(leaf_hash(&forged), node_hash(&a, &b));
    }
}
