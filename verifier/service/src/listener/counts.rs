//! How many of something each has at one time: uploads and connections of a peer, streams of a reader.
//!
//! Promise: what one has takes nothing from others. Not here: who counts as one (see `listener`, `readers`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What each has, up to a limit.
#[derive(Debug)]
pub struct Counts<K> {
    limit: usize,
    counts: Mutex<BTreeMap<K, usize>>,
}

/// One thing that somebody has, until this is dropped.
#[derive(Debug)]
pub struct Counted<K: Ord> {
    of: Arc<Counts<K>>,
    who: K,
}

impl<K: Ord + Clone> Counts<K> {
    /// Up to `limit` for each.
    pub fn new(limit: usize) -> Arc<Counts<K>> {
        Arc::new(Counts {
            limit,
            counts: Mutex::default(),
        })
    }

    /// Counts one more; `None` if `who` has enough. With `free` it is counted, too, and may have more.
    pub fn count(self: &Arc<Counts<K>>, who: K, free: bool) -> Option<Counted<K>> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let n = counts.entry(who.clone()).or_insert(0);
        if *n >= self.limit && !free {
            return None;
        }
        *n += 1;
        Some(Counted {
            of: Arc::clone(self),
            who,
        })
    }

    /// How many have something.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl<K: Ord> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = counts.get_mut(&self.who) {
            *n -= 1;
            if *n == 0 {
                counts.remove(&self.who);
            }
        }
    }
}
