//! V8: pods and containers that have no name yet, and since when.
//!
//! Promises: the verifier's clock decides, from the round that first showed them; what is remembered is
//! bounded, what waited before keeps its place until it has a name, and what is new and beyond the bound has
//! waited long enough; no container takes a pod's place. Not here: what follows (see `v08_workloads`).

use crate::inputs::context::Waiting;
use cgpath_evidence::PodUid;
use std::collections::HashMap;

/// More pods than this do not wait at a time, and not more containers.
pub const MAX_WAITING: usize = 4096;

/// What waits in this round.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// What waited before and was not met in this round yet: its place is kept.
    before: HashMap<(PodUid, Option<String>), u64>,
    now: u64,
    /// Places of pods that are taken, by what waited before or waits now.
    pods: usize,
    /// The same of containers, of which one pod may have any number.
    containers: usize,
    /// To be remembered.
    pub left: Vec<Waiting>,
}

impl Waits {
    /// `before` is what waited in the last accepted evidence of this boot. What `is_named` by now needs no
    /// place.
    pub(crate) fn new(before: &[Waiting], is_named: impl Fn(&Waiting) -> bool, now: u64) -> Waits {
        let mut waits = Waits {
            now,
            ..Waits::default()
        };
        for waiting in before.iter().filter(|waiting| !is_named(waiting)) {
            if waits.takes_place(waiting.container.is_some()) {
                let key = (waiting.uid, waiting.container.clone());
                waits.before.insert(key, waiting.seen);
            }
        }
        waits
    }

    /// Whether there is a place; then it is taken.
    fn takes_place(&mut self, is_container: bool) -> bool {
        let taken = match is_container {
            true => &mut self.containers,
            false => &mut self.pods,
        };
        let is_free = *taken < MAX_WAITING;
        *taken += usize::from(is_free);
        is_free
    }

    /// Whether what has no name may wait for it: `settle` seconds.
    pub(crate) fn may_wait(&mut self, uid: PodUid, container: Option<&str>, settle: u32) -> bool {
        let container = container.map(str::to_owned);
        let seen = match self.before.remove(&(uid, container.clone())) {
            Some(seen) => seen,
            None if self.takes_place(container.is_some()) => self.now,
            None => return false,
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

    /// Nothing has a name by now.
    fn waits(before: &[Waiting], now: u64) -> Waits {
        Waits::new(before, |_| false, now)
    }

    fn waiting(n: usize, container: Option<&str>, seen: u64) -> Waiting {
        Waiting {
            uid: uid(n),
            container: container.map(str::to_owned),
            seen,
        }
    }

    #[test]
    fn a_flood_of_pods_with_smaller_uids_does_not_give_another_wait_to_one_that_waited_before() {
        let last = uid(MAX_WAITING + 7);
        let mut first = waits(&[], 1000);
        assert!(first.may_wait(last, None, SETTLE) && first.may_wait(last, Some("c"), SETTLE));
        let mut flood = waits(&first.left, 1100);
        let new = (0..MAX_WAITING).filter(|n| flood.may_wait(uid(*n), None, SETTLE));
        assert_eq!(new.count(), MAX_WAITING - 1);
        assert!(flood.may_wait(last, None, SETTLE) && flood.may_wait(last, Some("c"), SETTLE));
        assert_eq!(flood.left.len(), MAX_WAITING + 1);
        let mut after = waits(&flood.left, 1121);
        assert!(!after.may_wait(last, None, SETTLE) && !after.may_wait(last, Some("c"), SETTLE));
        assert!(after.may_wait(uid(0), None, SETTLE));
    }

    #[test]
    fn containers_take_no_pods_place() {
        let mut first = waits(&[], 1000);
        let ids: Vec<String> = (0..=MAX_WAITING).map(|n| n.to_string()).collect();
        let held = ids.iter().filter(|id| first.may_wait(uid(0), Some(id), SETTLE));
        assert_eq!(held.count(), MAX_WAITING);
        let kept = waits(&first.left, 1001);
        for mut next in [first, kept] {
            let pods = (0..=MAX_WAITING).filter(|n| next.may_wait(uid(*n), None, SETTLE));
            assert_eq!(pods.count(), MAX_WAITING);
            assert!(!next.may_wait(uid(1), Some("new"), SETTLE));
        }
    }

    #[test]
    fn of_more_than_have_places_the_first_keep_theirs_and_all_others_have_waited_long_enough() {
        let many = MAX_WAITING + 10;
        let pods = (0..many).map(|n| waiting(n, None, 1000));
        let containers = (0..many).map(|n| waiting(n, Some("c"), 1000));
        let mut next = waits(&pods.chain(containers).collect::<Vec<_>>(), 1001);
        // Those without a place ask first.
        for container in [None, Some("c")] {
            let others = (MAX_WAITING..many).filter(|n| next.may_wait(uid(*n), container, SETTLE));
            assert_eq!(others.count(), 0);
            let kept = (0..MAX_WAITING).filter(|n| next.may_wait(uid(*n), container, SETTLE));
            assert_eq!(kept.count(), MAX_WAITING);
        }
        assert!(next.left.iter().all(|waiting| waiting.seen == 1000));
    }

    #[test]
    fn what_has_a_name_by_now_leaves_its_place_to_others_before_anything_is_asked() {
        let pods = (0..MAX_WAITING).map(|n| waiting(n + MAX_WAITING, None, 1000));
        let containers = (0..MAX_WAITING).map(|n| waiting(n + MAX_WAITING, Some("c"), 1000));
        let before: Vec<Waiting> = pods.chain(containers).collect();
        let still = uid(2 * MAX_WAITING - 1);
        let mut next = Waits::new(&before, |waiting| waiting.uid != still, 1121);
        for container in [None, Some("c")] {
            let new = (0..MAX_WAITING).filter(|n| next.may_wait(uid(*n), container, SETTLE));
            assert_eq!(new.count(), MAX_WAITING - 1);
            assert!(!next.may_wait(still, container, SETTLE));
        }
        let old = next.left.iter().filter(|waiting| waiting.seen == 1000);
        assert!(old.clone().all(|waiting| waiting.uid == still) && old.count() == 2);
    }
}
