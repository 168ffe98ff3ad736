//! Entries that a bundle shows whole, and their places in its list, where they stand redacted.
//!
//! Promise: where the list begins at 0, each is found there, by its template digest under a PCR and by the
//! hash of its bytes under a register of a trust domain. Behind 0 that is looked for no more: what binds it
//! is the template digest in its sealed record. Not here: what stands in them.

use super::{Case, fail};
use crate::inputs::decoded::View;
use crate::results::finding::Findings;
use crate::rules::Rule;
use cgpath_evidence::{Bank, Digest, Entry, EntryHash};
use std::borrow::Cow;
use std::collections::HashMap;

/// By what an entry is known in the list.
#[derive(Clone, Copy)]
enum By {
    /// Its template digest.
    Digest(Bank),
    /// The hash of its bytes.
    Hash,
}

fn of_redacted(entry: &Entry, by: By) -> Option<&[u8]> {
    match (entry, by) {
        (Entry::Opaque { digests, .. }, By::Digest(bank)) => digests
            .iter()
            .find(|digest| digest.bank() == bank)
            .map(Digest::bytes),
        (Entry::Opaque { hash, .. }, By::Hash) => hash.as_ref().map(|hash| &hash.0[..]),
        (Entry::Full(_), _) => None,
    }
}

impl Case<'_> {
    /// By what an entry that is shown whole is found among the redacted ones.
    fn by(&self, banks: &[Bank]) -> Option<By> {
        if self.anchors.has_pcr {
            banks.first().copied().map(By::Digest)
        } else {
            Some(By::Hash)
        }
    }

    fn of_whole<'v>(&self, view: &'v View<'_>, at: usize, by: By) -> Option<Cow<'v, [u8]>> {
        match by {
            By::Digest(bank) => view.digests.digest(at, bank).map(Cow::Borrowed),
            By::Hash => {
                let entry = self.bundle.entries.get(at)?;
                Some(Cow::Owned(EntryHash::of(entry).0.to_vec()))
            }
        }
    }

    /// The covered entries that are redacted, by what they are known by, and which of the node's list each
    /// is; `None` where several are the same.
    fn places(&self, by: By, covered: usize) -> HashMap<&[u8], Option<u64>> {
        let mut places: HashMap<&[u8], Option<u64>> = HashMap::new();
        for (at, entry) in self.bundle.list.iter().take(covered).enumerate() {
            let number = self.bundle.from.saturating_add(at as u64);
            if let Some(redacted) = of_redacted(entry, by) {
                places
                    .entry(redacted)
                    .and_modify(|place| *place = None)
                    .or_insert(Some(number));
            }
        }
        places
    }

    /// Which entry of the node's list each one is that is shown whole; `None` where the bundle does not say,
    /// or says it twice.
    pub(super) fn numbers(&self, view: &View<'_>, banks: &[Bank], covered: usize) -> Vec<Option<u64>> {
        let Some(by) = self.by(banks) else {
            return Vec::new();
        };
        let places = self.places(by, covered);
        let place = |at| *places.get(&*self.of_whole(view, at, by)?)?;
        (0..view.lines.len()).map(place).collect()
    }

    /// The entries that are shown whole are among the digests of the covered list.
    pub(super) fn listed(&self, view: &View<'_>, banks: &[Bank], covered: usize, findings: &mut Findings) {
        let Some(by) = self.by(banks) else { return };
        let places = self.places(by, covered);
        for (index, line) in view.lines.iter().enumerate() {
            let whole = self.of_whole(view, index, by);
            if !whole.is_some_and(|whole| places.contains_key(&whole[..])) {
                findings.push(
                    fail(
                        Rule::Records,
                        "an entry that the pod's records are about is not in the covered list",
                    )
                    .at_path(line.path.unwrap_or_default())
                    .at_index(index),
                );
            }
        }
    }
}
