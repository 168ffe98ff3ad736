//! Whom verdicts deny executions.
//!
//! Pure. Promises: a pod is denied for something that a verdict says of this pod, never for what it says of
//! the node; once denied it stays so until a verdict that was believed does not charge it any more, whatever
//! comes in between (verdicts that are not believed, none at all, a restart). Not here: the update of the
//! eBPF maps, and when a denial lapses (the programs see to it).

use crate::request::PodVerdicts;
use cgpath_evidence::PodUid;
use std::collections::{BTreeMap, BTreeSet};

/// Pods that are denied executions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pods: BTreeSet<PodUid>,
    /// Whether what an earlier collector denied still holds: it left cgroups in the eBPF map, whose pods are
    /// not known here.
    inherits: bool,
}

impl Denied {
    /// As the collector before left it, before any verdict.
    pub fn inherited() -> Denied {
        Denied {
            pods: BTreeSet::new(),
            inherits: true,
        }
    }

    /// A verdict arrived. Gives whether that changed anything.
    pub fn apply(&mut self, verdicts: PodVerdicts) -> bool {
        let before = self.clone();
        if verdicts.believed {
            self.pods = verdicts.charged;
            self.inherits = false;
        } else {
            self.pods.extend(verdicts.charged);
        }
        *self != before
    }

    /// Those that verdicts named.
    pub fn pods(&self) -> &BTreeSet<PodUid> {
        &self.pods
    }

    /// Cgroups to deny: those of the named pods among `there`, and of `now`, what the programs hold, those
    /// that are inherited.
    pub fn cgroups(&self, there: &[(PodUid, u64)], now: &BTreeMap<u64, u32>) -> BTreeSet<u64> {
        let named = there.iter().filter(|(uid, _)| self.pods.contains(uid));
        let held = now
            .iter()
            .filter(|(_, bits)| self.inherits && **bits & cgpath_ebpf_common::pod::UNTRUSTED != 0);
        named.map(|(_, id)| *id).chain(held.map(|(id, _)| *id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_ebpf_common::pod::{EXEMPT_UNTRUSTED, UNTRUSTED};
    use proptest::prelude::*;

    fn uid(n: u8) -> PodUid {
        PodUid::parse(format!("{n:08x}-0000-4000-8000-000000000000").as_bytes()).unwrap()
    }

    fn verdict(believed: bool, pods: &[u8]) -> PodVerdicts {
        let charged = pods.iter().map(|n| uid(*n)).collect();
        PodVerdicts { believed, charged }
    }

    #[test]
    fn a_pod_that_spoils_a_round_stays_denied_and_its_neighbours_are_not() {
        let mut denied = Denied::inherited();
        assert!(denied.apply(verdict(true, &[1])));
        // It floods the ring: the node is not believed any more. Then no pod can be judged at all.
        assert!(!denied.apply(verdict(false, &[1])));
        assert!(!denied.apply(verdict(false, &[])));
        assert_eq!(
            denied.cgroups(&[(uid(1), 11), (uid(2), 22)], &BTreeMap::new()),
            [11].into()
        );
        // Another one is found out in such a round.
        assert!(denied.apply(verdict(false, &[3])));
        assert_eq!(*denied.pods(), [uid(1), uid(3)].into());
        // A believed verdict alone clears.
        assert!(denied.apply(verdict(true, &[3])));
        assert_eq!(*denied.pods(), [uid(3)].into());
    }

    #[test]
    fn what_an_earlier_collector_denied_holds_until_a_verdict_is_believed() {
        let now = BTreeMap::from([
            (11, UNTRUSTED),
            (22, EXEMPT_UNTRUSTED),
            (33, UNTRUSTED | EXEMPT_UNTRUSTED),
        ]);
        let mut denied = Denied::inherited();
        assert_eq!(denied.cgroups(&[], &now), [11, 33].into());
        denied.apply(verdict(false, &[2]));
        assert_eq!(denied.cgroups(&[(uid(2), 22)], &now), [11, 22, 33].into());
        denied.apply(verdict(true, &[2]));
        assert_eq!(denied.cgroups(&[(uid(2), 22)], &now), [22].into());
    }

    proptest! {
        #[test]
        fn a_pod_is_denied_if_it_was_charged_since_a_believed_verdict_and_only_then(
            verdicts in prop::collection::vec((any::<bool>(), prop::collection::btree_set(0u8..5, 0..4)),
                1..20),
        ) {
            let mut denied = Denied::inherited();
            for (believed, pods) in &verdicts {
                denied.apply(verdict(*believed, &pods.iter().copied().collect::<Vec<_>>()));
            }
            let last = verdicts.iter().rposition(|(believed, _)| *believed).unwrap_or(0);
            let charged: BTreeSet<PodUid> = verdicts[last..].iter().flat_map(|(_, pods)| pods)
                .map(|n| uid(*n)).collect();
            prop_assert_eq!(denied.pods(), &charged);
        }
    }
}
