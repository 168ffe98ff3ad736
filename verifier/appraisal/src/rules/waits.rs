//! V8: pods and containers that have no name yet, and since when.
//!
//! Promises: the verifier's clock decides, from the round that first showed them; what is remembered is
//! bounded, what waited before keeps its place, and what is new and beyond the bound has waited long enough.
//! Not here: what follows (see `v08_workloads`).

use crate::inputs::context::{NodeState, Waiting};
use cgpath_evidence::PodUid;
use std::collections::HashMap;

/// More pods and containers than this do not wait at a time.
pub const MAX_WAITING: usize = 4096;

/// What waits in this round.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// What waited before and was not met in this round yet: its place is kept.
    before: HashMap<(PodUid, Option<String>), u64>,
    now: u64,
    /// To be remembered.
    pub left: Vec<Waiting>,
}

impl Waits {
    /// `before` is the last accepted evidence of this boot.
    pub(crate) fn new(before: Option<&NodeState>, now: u64) -> Waits {
        let before = before.map_or(&[][..], |before| &before.waiting);
        let since = |waiting: &Waiting| ((waiting.uid, waiting.container.clone()), waiting.seen);
        Waits {
            before: before.iter().take(MAX_WAITING).map(since).collect(),
            now,
            left: Vec::new(),
        }
    }

    /// Whether what has no name may wait for it: `settle` seconds.
    pub(crate) fn may_wait(&mut self, uid: PodUid, container: Option<&str>, settle: u32) -> bool {
        let container = container.map(str::to_owned);
        let seen = match self.before.remove(&(uid, container.clone())) {
            Some(seen) => seen,
            None if self.left.len() + self.before.len() >= MAX_WAITING => return false,
            None => self.now,
        };
        self.left.push(Waiting { uid, container, seen });
        self.now.saturating_sub(seen) <= u64::from(settle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: u32 = 120;

    fn uid(n: usize) -> PodUid {
        PodUid((n as u128).to_be_bytes())
    }

    fn waits(before: Vec<Waiting>, now: u64) -> Waits {
        let before = before
            .into_iter()
            .map(|waiting| ((waiting.uid, waiting.container), waiting.seen));
        Waits {
            before: before.collect(),
            now,
            left: Vec::new(),
        }
    }

    #[test]
    fn a_flood_of_pods_with_smaller_uids_does_not_give_another_wait_to_one_that_waited_before() {
        let last = uid(MAX_WAITING + 7);
        let mut first = waits(Vec::new(), 1000);
        assert!(first.may_wait(last, None, SETTLE) && first.may_wait(last, Some("c"), SETTLE));
        let mut flood = waits(first.left, 1100);
        let new = (0..MAX_WAITING).filter(|n| flood.may_wait(uid(*n), None, SETTLE));
        assert_eq!(new.count(), MAX_WAITING - 2);
        assert!(flood.may_wait(last, None, SETTLE) && flood.may_wait(last, Some("c"), SETTLE));
        assert_eq!(flood.left.len(), MAX_WAITING);
        let mut after = waits(flood.left, 1121);
        assert!(!after.may_wait(last, None, SETTLE) && !after.may_wait(last, Some("c"), SETTLE));
        assert!(after.may_wait(uid(0), None, SETTLE));
    }
}
