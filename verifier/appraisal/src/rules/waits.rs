//! V8: pods and containers that have no name yet, and since when.
//!
//! Promises: the verifier's clock decides, from the round that first showed them; what is remembered is
//! bounded, and what is beyond the bound has waited long enough. Not here: what follows (see
//! `v08_workloads`).

use crate::inputs::context::{NodeState, Waiting};
use cgpath_evidence::PodUid;
use std::collections::HashMap;

/// More pods and containers than this do not wait at a time.
pub const MAX_WAITING: usize = 4096;

/// What waits in this round.
#[derive(Debug, Default)]
pub(crate) struct Waits {
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
            before: before.iter().map(since).collect(),
            now,
            left: Vec::new(),
        }
    }

    /// Whether what has no name may wait for it: `settle` seconds.
    pub(crate) fn may_wait(&mut self, uid: PodUid, container: Option<&str>, settle: u32) -> bool {
        if self.left.len() >= MAX_WAITING {
            return false;
        }
        let container = container.map(str::to_owned);
        let seen = self
            .before
            .get(&(uid, container.clone()))
            .copied()
            .unwrap_or(self.now);
        self.left.push(Waiting { uid, container, seen });
        self.now.saturating_sub(seen) <= u64::from(settle)
    }
}
