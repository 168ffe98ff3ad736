//! Joins records of entries to entries of the measurement list: by template digest, never by position.
//!
//! A record that says the entry was added claims one entry of its digest; one that says `EEXIST` claims none,
//! the entry is there already. A violation has no digest: it is joined by file name, the first with the
//! first. Claims depend only on what has come, not on the order in which it came.

use cgpath_evidence::{Bank, Digest, list::as_listed};
use std::collections::{HashMap, VecDeque};

/// An entry of the list as far as joining needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinableEntry {
    /// Position in the list, from 0.
    pub index: u64,
    /// Template digests by bank, computed from the entry's data.
    pub digests: Vec<Digest>,
    /// The file name in the template data, as the list has it.
    pub name: Vec<u8>,
    /// The content digest in the template data, any algorithm; empty if there is none.
    pub content: Vec<u8>,
    /// Whether the listed digest is all zero.
    pub violation: bool,
    /// The entry in canonical form, where checkpoints bind the list; else empty.
    pub bytes: Vec<u8>,
}

/// A template digest as a key: SHA-256, or SHA-1 filled up with zeros. That is also how the kernel fills a
/// larger bank whose hash was not available, so such a record finds its entry, too.
type Key = [u8; 32];

fn key_of(digest: &Digest) -> Key {
    let mut key = [0; 32];
    let n = digest.bytes().len().min(32);
    key[..n].copy_from_slice(&digest.bytes()[..n]);
    key
}

/// The keys of an entry.
fn entry_keys(digests: &[Digest]) -> impl Iterator<Item = Key> + '_ {
    digests
        .iter()
        .filter(|d| matches!(d.bank(), Bank::Sha1 | Bank::Sha256))
        .map(key_of)
}

/// The one key of a record: its SHA-256, else its SHA-1. `None` if it has neither.
fn record_key(digests: &[Digest]) -> Option<Key> {
    let of = |bank| digests.iter().find(|d| d.bank() == bank).map(key_of);
    of(Bank::Sha256).or_else(|| of(Bank::Sha1))
}

/// Which entries have their record.
#[derive(Debug, Default)]
pub struct Join {
    len: u64,
    /// Entries before this one were there before our programs were loaded: nothing claims them.
    base: u64,
    claimed: Vec<u64>,
    /// The last `boot_len` that [`Join::settled`] was asked about, and its answer: it goes on from there.
    settled: (u64, u64),
    /// Every entry of the list, the first of its digest.
    by_digest: HashMap<Key, u64>,
    /// Further entries of the same digest (kernels with the hash table disabled).
    more: HashMap<Key, VecDeque<u64>>,
    violations: HashMap<Vec<u8>, VecDeque<u64>>,
    waiting: HashMap<Key, u64>,
    waiting_violations: HashMap<Vec<u8>, u64>,
    waiting_existing: HashMap<Key, u64>,
    unjoinable: u64,
}

impl Join {
    /// Entries before `base` were in the list before the programs were loaded. Must be called before any
    /// entry.
    pub fn set_base(&mut self, base: u64) {
        self.base = base;
    }

    /// Entries taken in so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none was taken in.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next entry of the list; entries must come in order, one that came before is ignored.
    pub fn entry(&mut self, entry: &JoinableEntry) {
        if entry.index != self.len {
            return;
        }
        let index = entry.index;
        self.len += 1;
        if index >= self.base {
            let open = if entry.violation {
                let open = !take(&mut self.waiting_violations, &entry.name);
                if open {
                    self.violations
                        .entry(entry.name.clone())
                        .or_default()
                        .push_back(index);
                }
                open
            } else {
                !entry_keys(&entry.digests).any(|key| take(&mut self.waiting, &key))
            };
            if !open {
                self.claim(index);
            }
        }
        if !entry.violation {
            for key in entry_keys(&entry.digests) {
                self.waiting_existing.remove(&key);
                match self.by_digest.entry(key) {
                    std::collections::hash_map::Entry::Vacant(v) => {
                        v.insert(index);
                    }
                    // One before the base cannot be claimed: let this one be found first.
                    std::collections::hash_map::Entry::Occupied(mut o) if *o.get() < self.base => {
                        o.insert(index);
                    }
                    std::collections::hash_map::Entry::Occupied(_) => {
                        self.more.entry(key).or_default().push_back(index);
                    }
                }
            }
        }
    }

    /// A record that the kernel added an entry with these template digests.
    pub fn added(&mut self, digests: &[Digest]) {
        let Some(key) = record_key(digests) else {
            self.unjoinable += 1;
            return;
        };
        let first = self.by_digest.get(&key).copied();
        let candidates = first
            .into_iter()
            .chain(self.more.get(&key).into_iter().flatten().copied());
        let open = candidates
            .into_iter()
            .find(|i| *i >= self.base && !self.is_claimed(*i));
        match open {
            Some(index) => self.claim(index),
            None => *self.waiting.entry(key).or_default() += 1,
        }
    }

    /// A record that the kernel found an entry with these digests in the list already.
    pub fn existing(&mut self, digests: &[Digest]) {
        match record_key(digests) {
            Some(key) if self.by_digest.contains_key(&key) => {}
            Some(key) => *self.waiting_existing.entry(key).or_default() += 1,
            None => self.unjoinable += 1,
        }
    }

    /// A record of a violation; `name` as the kernel function got it.
    pub fn violated(&mut self, name: &[u8]) {
        let name = as_listed(name);
        match self.violations.get_mut(&*name).and_then(VecDeque::pop_front) {
            Some(index) => {
                if self.violations.get(&*name).is_some_and(VecDeque::is_empty) {
                    self.violations.remove(&*name);
                }
                self.claim(index);
            }
            None => *self.waiting_violations.entry(name.into_owned()).or_default() += 1,
        }
    }

    fn claim(&mut self, index: u64) {
        let (word, bit) = ((index / 64) as usize, index % 64);
        if self.claimed.len() <= word {
            self.claimed.resize(word + 1, 0);
        }
        self.claimed[word] |= 1 << bit;
    }

    /// Whether entry `index` has its record.
    pub fn is_claimed(&self, index: u64) -> bool {
        self.claimed
            .get((index / 64) as usize)
            .is_some_and(|w| w >> (index % 64) & 1 == 1)
    }

    /// One past the last entry before `end` that has no record: what was there before the load, if `end` is
    /// the list's length right after it.
    pub fn last_open_before(&self, end: u64) -> u64 {
        (0..end.min(self.len))
            .rev()
            .find(|i| !self.is_claimed(*i))
            .map_or(0, |i| i + 1)
    }

    /// The longest prefix in which every entry from `boot_len` on has its record. A claim stays, so each
    /// entry is looked at once for as long as `boot_len` is the same, which it is for a boot.
    pub fn settled(&mut self, boot_len: u64) -> u64 {
        let (of, settled) = self.settled;
        let mut end = if of == boot_len { settled } else { boot_len };
        while end < self.len && self.is_claimed(end) {
            end += 1;
        }
        self.settled = (boot_len, end);
        end.min(self.len)
    }

    /// Records that wait for their entry: added, violations, and those of entries said to exist.
    pub fn waiting(&self) -> u64 {
        let sum = |m: &HashMap<Key, u64>| m.values().sum::<u64>();
        sum(&self.waiting)
            + sum(&self.waiting_existing)
            + self.waiting_violations.values().sum::<u64>()
            + self.unjoinable
    }
}

fn take<K: std::hash::Hash + Eq + Clone>(map: &mut HashMap<K, u64>, key: &K) -> bool {
    match map.get_mut(key) {
        Some(n) if *n > 1 => *n -= 1,
        Some(_) => {
            map.remove(key);
        }
        None => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digests(text: &str) -> Vec<Digest> {
        vec![
            Bank::Sha1.hash(&[text.as_bytes()]),
            Bank::Sha256.hash(&[text.as_bytes()]),
        ]
    }

    fn entry(index: u64, text: &str) -> JoinableEntry {
        JoinableEntry {
            index,
            digests: digests(text),
            name: text.into(),
            content: vec![],
            violation: false,
            bytes: vec![],
        }
    }

    fn violation(index: u64, name: &str) -> JoinableEntry {
        JoinableEntry {
            index,
            digests: vec![],
            name: name.into(),
            content: vec![],
            violation: true,
            bytes: vec![],
        }
    }

    #[test]
    fn existing_records_settle_nothing_and_join_entries_of_the_boot() {
        let mut j = Join::default();
        j.set_base(1);
        j.entry(&entry(0, "boot"));
        j.entry(&entry(1, "a"));
        j.existing(&digests("boot"));
        j.existing(&digests("a"));
        assert_eq!((j.settled(1), j.waiting()), (1, 0));
        j.added(&digests("a"));
        assert_eq!(j.settled(1), 2);
        j.existing(&digests("never listed"));
        assert_eq!(j.waiting(), 1);
    }

    #[test]
    fn a_bank_that_the_kernel_padded_joins_by_its_sha1() {
        let mut j = Join::default();
        j.entry(&entry(0, "a"));
        let mut padded = [0; 32];
        padded[..20].copy_from_slice(digests("a")[0].bytes());
        j.added(&[Digest::new(Bank::Sha256, &padded).unwrap()]);
        assert_eq!(j.settled(0), 1);
    }

    #[test]
    fn a_record_of_another_sha256_does_not_join_by_an_equal_sha1() {
        let mut j = Join::default();
        j.entry(&entry(0, "a"));
        j.added(&[digests("a")[0].clone(), digests("b")[1].clone()]);
        assert_eq!((j.settled(0), j.waiting()), (0, 1));
    }

    #[test]
    fn a_violation_joins_by_name_with_spaces_replaced_and_not_one_of_the_boot() {
        let mut j = Join::default();
        j.set_base(1);
        j.entry(&violation(0, "/a_b"));
        j.entry(&violation(1, "/a_b"));
        j.violated(b"/a b");
        assert_eq!((j.settled(1), j.is_claimed(0)), (2, false));
    }

    #[test]
    fn what_the_boot_left_ends_at_the_last_entry_without_a_record() {
        let mut j = Join::default();
        for (i, t) in ["a", "b", "c", "d"].iter().enumerate() {
            j.entry(&entry(i as u64, t));
        }
        j.added(&digests("b"));
        j.added(&digests("d"));
        assert_eq!(j.last_open_before(4), 3);
        assert_eq!(j.last_open_before(2), 1);
        assert_eq!(j.settled(3), 4);
    }

    proptest! {
        #[test]
        fn any_interleaving_of_entries_and_records_settles_the_same(
            // Texts repeat, as with the hash table disabled.
            list in prop::collection::vec((0u8..6, any::<bool>()), 1..30),
            base in 0usize..5,
            keep in prop::collection::vec(any::<bool>(), 30),
            schedule in Just((0usize..60).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let base = base.min(list.len());
            let entries: Vec<JoinableEntry> = list.iter().enumerate().map(|(i, (t, v))| {
                let text = format!("f{t}");
                if *v { violation(i as u64, &text) } else { entry(i as u64, &text) }
            }).collect();
            let records: Vec<&JoinableEntry> = entries.iter().skip(base).zip(&keep).filter(|(_, k)| **k)
                .map(|(e, _)| e).collect();
            let run = |schedule: &[usize]| {
                let mut j = Join::default();
                j.set_base(base as u64);
                let (mut next_entry, mut next_record) = (0, 0);
                for s in schedule {
                    if s % 2 == 0 {
                        if let Some(e) = entries.get(next_entry) { j.entry(e); next_entry += 1; }
                    } else if let Some(r) = records.get(next_record) {
                        if r.violation { j.violated(&r.name) } else { j.added(&r.digests) }
                        next_record += 1;
                    }
                }
                for e in &entries[next_entry..] { j.entry(e); }
                for r in &records[next_record..] {
                    if r.violation { j.violated(&r.name) } else { j.added(&r.digests) }
                }
                let claims: Vec<bool> = (0..list.len() as u64).map(|i| j.is_claimed(i)).collect();
                (claims, j.settled(base as u64), j.last_open_before(list.len() as u64), j.waiting())
            };
            let plain: Vec<usize> = (0..60).collect();
            prop_assert_eq!(run(&schedule), run(&plain));
        }

        #[test]
        fn what_is_settled_is_the_same_whenever_it_was_asked_before(
            // Digests repeat; a `None` asks.
            steps in prop::collection::vec(prop::option::of((0u8..8, any::<bool>())), 0..80),
            base in 0u64..4,
            boot_len in 0u64..8,
        ) {
            let mut j = Join::default();
            j.set_base(base);
            for step in steps {
                match step {
                    Some((text, true)) => j.entry(&entry(j.len(), &text.to_string())),
                    Some((text, false)) => j.added(&digests(&text.to_string())),
                    None => {
                        let open = (boot_len..j.len()).find(|i| !j.is_claimed(*i));
                        prop_assert_eq!(j.settled(boot_len), open.unwrap_or(j.len()));
                    }
                }
            }
        }
    }
}
