//! Where contents may stand, by their digest.
//!
//! Promise: a digest and its paths stand together, so that a look-up reads one place in memory: a verifier
//! makes one for every content that a node used. Not here: what is expected at a path (see `lookup`).

use cgpath_evidence::Digest;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;

/// Paths by digest.
#[derive(Debug, Default)]
pub(super) struct Contents {
    hasher: DefaultHashBuilder,
    /// Where each digest's group begins.
    groups: HashTable<usize>,
    /// Groups: the digest's bytes with their number before them, the number of paths, and each path with its
    /// length before it.
    bytes: Vec<u8>,
}

impl Contents {
    /// Turns round what reference values say.
    pub(super) fn of(files: &BTreeMap<Vec<u8>, BTreeSet<Digest>>) -> Contents {
        let mut pairs: Vec<(&Digest, &[u8])> = files
            .iter()
            .flat_map(|(path, digests)| digests.iter().map(|digest| (digest, path.as_slice())))
            .collect();
        pairs.sort_unstable();
        let mut contents = Contents::default();
        for group in pairs.chunk_by(|a, b| a.0 == b.0) {
            let Some((digest, _)) = group.first() else {
                continue;
            };
            let hash = contents.hasher.hash_one(digest.bytes());
            let at = contents.bytes.len();
            put(&mut contents.bytes, digest.bytes());
            contents.bytes.extend((group.len() as u64).to_le_bytes());
            for (_, path) in group {
                put(&mut contents.bytes, path);
            }
            let Contents {
                hasher,
                groups,
                bytes,
            } = &mut contents;
            groups.insert_unique(hash, at, |at| {
                hasher.hash_one(Rest(bytes, *at).part().unwrap_or_default())
            });
        }
        contents
    }

    /// Reads what [`Contents::paths`] will read for these. Each look-up waits for memory more than once; of
    /// many at once the processor waits for all together.
    pub(super) fn look_ahead<'d>(&self, digests: impl Iterator<Item = &'d Digest>) {
        const AT_ONCE: usize = 32;
        let mut places = [0; AT_ONCE];
        let mut found = 0;
        for (place, digest) in places.iter_mut().zip(digests) {
            let hash = self.hasher.hash_one(digest.bytes());
            *place = self.groups.find(hash, |_| true).copied().unwrap_or_default();
            found += 1;
        }
        let read = |at: &usize| self.bytes.get(*at).copied().unwrap_or_default();
        let read = places
            .iter()
            .take(found)
            .map(read)
            .fold(0, |all, byte| all ^ byte);
        core::hint::black_box(read);
    }

    /// The paths at which this content may stand, sorted, none twice; `None` for a content that nothing
    /// names.
    pub(super) fn paths(&self, digest: &Digest) -> Option<Paths<'_>> {
        let wanted = digest.bytes();
        // The algorithm follows from the number of bytes.
        let is_it = |at: &usize| Rest(&self.bytes, *at).part() == Some(wanted);
        let at = self.groups.find(self.hasher.hash_one(wanted), is_it)?;
        let mut rest = Rest(&self.bytes, *at);
        rest.part()?;
        let left = rest.number()?;
        Some(Paths { rest, left })
    }
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend((part.len() as u64).to_le_bytes());
    bytes.extend(part);
}

/// What is yet to be read, from an offset on.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8], usize);

impl<'a> Rest<'a> {
    fn number(&mut self) -> Option<usize> {
        let bytes = self.0.get(self.1..)?.first_chunk()?;
        self.1 += bytes.len();
        usize::try_from(u64::from_le_bytes(*bytes)).ok()
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        let part = self.0.get(self.1..self.1.checked_add(len)?)?;
        self.1 += len;
        Some(part)
    }
}

/// Paths of one content.
#[derive(Clone, Copy)]
pub(super) struct Paths<'a> {
    rest: Rest<'a>,
    left: usize,
}

impl<'a> Iterator for Paths<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.rest.part()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Paths<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_evidence::Bank;
    use proptest::prelude::*;

    fn digest() -> impl Strategy<Value = Digest> {
        (prop::sample::select(&Bank::ALL[..]), 0u8..6).prop_map(|(bank, n)| bank.hash(&[&[n]]))
    }

    proptest! {
        #[test]
        fn a_content_stands_where_the_reference_values_have_it_and_nowhere_else(
            files in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 0..4),
                prop::collection::btree_set(digest(), 0..5),
                0..40,
            ),
            asked in digest(),
        ) {
            let expected: Vec<&[u8]> = files
                .iter()
                .filter(|(_, digests)| digests.contains(&asked))
                .map(|(path, _)| path.as_slice())
                .collect();
            let contents = Contents::of(&files);
            let found = contents.paths(&asked);
            prop_assert_eq!(found.map(|paths| paths.len()), (!expected.is_empty()).then_some(expected.len()));
            prop_assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), expected);
        }
    }
}
