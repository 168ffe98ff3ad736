//! Entries of the workload part that may mean the same pods: the first one decides, which is easily
//! overlooked.
//!
//! Promise: an entry that is named as never matching never does. Not here: what is done about it (`cgpath
//! policy lint`).

use super::{Selector, Workload, WorkloadsFile};

/// Two entries that may mean the same pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap<'a> {
    /// The name of the one that decides.
    pub first: &'a str,
    /// The name of the one that does not.
    pub second: &'a str,
    /// The second can never match: the first takes all that it means.
    pub is_whole: bool,
}

impl Selector {
    /// Whether it takes every pod that `other` takes.
    fn covers(&self, other: &Selector) -> bool {
        (self.uid.is_none() || self.uid() == other.uid())
            && (self.namespace.is_none() || self.namespace == other.namespace)
            && self
                .labels
                .iter()
                .all(|(key, value)| other.labels.get(key) == Some(value))
    }

    /// Whether there can be a pod that both take.
    fn may_meet(&self, other: &Selector) -> bool {
        let agree = |a: Option<&str>, b: Option<&str>| a.is_none() || b.is_none() || a == b;
        (self.uid.is_none() || other.uid.is_none() || self.uid() == other.uid())
            && agree(self.namespace.as_deref(), other.namespace.as_deref())
            && self
                .labels
                .iter()
                .all(|(key, value)| agree(Some(value), other.labels.get(key).map(String::as_str)))
    }
}

impl WorkloadsFile {
    /// Entries that may mean the same pods, by the later one: each that can never match once, with the first
    /// entry that takes all of it.
    pub fn overlaps<'a>(&'a self) -> Vec<Overlap<'a>> {
        let mut found = Vec::new();
        for (at, later) in self.workloads.iter().enumerate() {
            let before = || self.workloads.iter().take(at);
            let overlap = |first: &'a Workload, is_whole| Overlap {
                first: first.name.as_str(),
                second: later.name.as_str(),
                is_whole,
            };
            match before().find(|first| first.selector.covers(&later.selector)) {
                Some(first) => found.push(overlap(first, true)),
                None => {
                    let meets = before().filter(|first| first.selector.may_meet(&later.selector));
                    found.extend(meets.map(|first| overlap(first, false)));
                }
            }
        }
        found
    }
}
