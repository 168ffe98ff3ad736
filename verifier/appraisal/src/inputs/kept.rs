//! The covered entries of earlier rounds, for records that come later.
//!
//! Promise: an entry takes its own bytes and about 60 more. Not here: what they mean (see `decoded`).

use crate::inputs::decoded;
use crate::inputs::decoded::{Digests, Line};
use cgpath_evidence::{Bank, Digest, Entry, Record};
use std::{borrow::Cow, collections::HashMap};

/// Stands for a digest that the list has twice.
const TWICE: u32 = u32::MAX;

/// How often a template digest stands in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Nowhere,
    /// At this index alone.
    At(usize),
    Twice,
}

/// Entries in one piece.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    ends: Vec<u64>,
    by_sha1: HashMap<[u8; 20], u32>,
}

impl Kept {
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends entries with their digests. `None` for a redacted entry, and for one behind 2^32: then there
    /// is nothing to follow.
    pub(crate) fn extend(&mut self, entries: &[Entry], digests: &Digests) -> Option<()> {
        self.ends.reserve(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            let Entry::Full(record) = entry else { return None };
            let index = u32::try_from(self.ends.len())
                .ok()
                .filter(|index| *index < TWICE)?;
            let sha1 = digests.digest(at, Bank::Sha1)?.try_into().ok()?;
            self.bytes.extend_from_slice(record);
            self.ends.push(self.bytes.len() as u64);
            self.by_sha1
                .entry(sha1)
                .and_modify(|at| *at = TWICE)
                .or_insert(index);
        }
        Some(())
    }

    /// Where the entry with this SHA-1 template digest stands. Violations have a digest of zeros.
    pub(crate) fn place(&self, sha1: &[u8]) -> Place {
        let key: Result<[u8; 20], _> = sha1.try_into();
        match key.ok().and_then(|key| self.by_sha1.get(&key)) {
            None => Place::Nowhere,
            Some(&TWICE) => Place::Twice,
            Some(index) => Place::At(*index as usize),
        }
    }

    fn record(&self, index: usize) -> Option<&[u8]> {
        let end = usize::try_from(*self.ends.get(index)?).ok()?;
        let start = match index.checked_sub(1) {
            Some(before) => usize::try_from(*self.ends.get(before)?).ok()?,
            None => 0,
        };
        self.bytes.get(start..end)
    }

    /// An entry, with its digests in these banks: it is number 0 of these.
    pub(crate) fn line(&self, index: usize, banks: &[Bank]) -> Option<(Line<'_>, Digests)> {
        Some(decoded::line_of(index as u64, self.record(index)?, banks))
    }

    /// The same, with its digests in all banks that a record has digests in.
    pub(crate) fn line_for(&self, index: usize, record: &Record) -> Option<(Line<'_>, Digests)> {
        let mut banks = vec![Bank::Sha1];
        banks.extend(record.digests.iter().map(Digest::bank));
        self.line(index, &banks)
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.len() + self.ends.len() * 56
    }
}

/// The whole list: what is kept, and what is new.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    first: usize,
    new: &'a [Line<'a>],
    kept: &'a Kept,
}

impl<'a> Lines<'a> {
    /// `new` are the entries from number `first` on.
    pub(crate) fn new(first: usize, new: &'a [Line<'a>], kept: &'a Kept) -> Lines<'a> {
        Lines { first, new, kept }
    }

    /// Entries that are kept.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// Those that are new.
    pub(crate) fn new_ones(&self) -> &'a [Line<'a>] {
        self.new
    }

    pub(crate) fn kept(&self) -> &'a Kept {
        self.kept
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.first.saturating_add(self.new.len())
    }

    pub(crate) fn get(&self, index: usize) -> Option<Cow<'a, Line<'a>>> {
        match index.checked_sub(self.first) {
            Some(at) => self.new.get(at).map(Cow::Borrowed),
            None => self
                .kept
                .line(index, &[Bank::Sha1])
                .map(|(line, _)| Cow::Owned(line)),
        }
    }

    /// Indexes of those of the new ones before `covered` for which something holds, in order.
    pub(crate) fn places(&self, covered: usize, holds: impl Fn(&Line) -> bool + Sync) -> Vec<usize> {
        let len = covered.saturating_sub(self.first);
        let mut places = decoded::places(self.new, len, holds);
        for place in &mut places {
            *place += self.first;
        }
        places
    }
}
