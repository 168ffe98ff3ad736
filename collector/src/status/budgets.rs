//! What pods used of their budgets, as the status tells it.
//!
//! Promises: pure; pods that lost most stand first, and of many pods a bounded number is named while all are
//! counted. Not here: what a loss means for a pod (rule V6), how the map is read (see [`crate::bpf`]).

use crate::bpf::{Budget, PodBudget};
use cgpath_evidence::PodUid;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Pods that are named at most.
pub const NAMED: usize = 16;

/// Budgets of all pods that did something since the load of the programs and that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// Units that a pod has at once: `budget.burst`, or what half of the ring holds.
    pub burst: u32,
    /// Units that come back each second.
    pub per_second: u32,
    /// Entries of IMA's list with which a pod is denied executions: `budget.entries`; 0: however many.
    pub entries: u32,
    /// How many pods have a budget.
    pub pods: u64,
    /// How many of them went beyond it.
    pub beyond: u64,
    /// How many of them have as many entries of IMA's list as they may.
    pub full: u64,
    /// What was refused, of all of them.
    pub refused: u64,
    /// Those of which most was refused, then those that are full, then those that used most; 16 at most.
    pub top: Vec<PodUse>,
}

/// What a pod used of its budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodUse {
    /// Its UID; none where the directory is not one of a pod, or is gone.
    pub pod: Option<String>,
    /// Inode number of its own directory.
    pub cgroup: u64,
    /// Units of the burst that are used up now.
    pub used: u64,
    /// Events beyond the budget, which have no record: the sum of the next four.
    pub refused: u64,
    /// Executions and scripts.
    pub executions: u64,
    /// Executable mappings.
    pub mappings: u64,
    /// Denied executions and mappings.
    pub denials: u64,
    /// Entries that IMA tried to add and that its list had already.
    pub repeats: u64,
    /// How many of them the pod's last record of loss states. The rest is stated when there are twice as
    /// many, after a minute, or when the pod ends.
    pub lost: u64,
    /// Entries that IMA added to its list for the pod.
    pub entries: u64,
}

impl PodUse {
    /// The pod by its UID, or by what there is in its place.
    pub fn name(&self) -> String {
        match &self.pod {
            Some(uid) => uid.clone(),
            None => format!("cgroup {}", self.cgroup),
        }
    }
}

impl Budgets {
    /// From what the programs keep at `now_ns`, by the inode number of each pod's directory, and from whose
    /// these directories are.
    pub fn new(
        terms: Budget,
        found: &BTreeMap<u64, PodBudget>,
        now_ns: u64,
        owners: &[(PodUid, u64)],
    ) -> Budgets {
        let owners: BTreeMap<u64, PodUid> = owners.iter().map(|(uid, id)| (*id, *uid)).collect();
        let mut top: Vec<PodUse> = found
            .iter()
            .map(|(id, budget)| {
                let PodBudget {
                    paid_ns,
                    executions,
                    mappings,
                    denials,
                    repeats,
                    told,
                    entries,
                    ..
                } = *budget;
                PodUse {
                    pod: owners.get(id).map(PodUid::to_string),
                    cgroup: *id,
                    used: terms.used(paid_ns, now_ns),
                    refused: [executions, mappings, denials, repeats]
                        .into_iter()
                        .fold(0, u64::saturating_add),
                    executions,
                    mappings,
                    denials,
                    repeats,
                    lost: told,
                    entries,
                }
            })
            .collect();
        let beyond = top.iter().filter(|pod| pod.refused > 0).count() as u64;
        let refused = top
            .iter()
            .fold(0, |sum: u64, pod| sum.saturating_add(pod.refused));
        let is_full = |pod: &PodUse| terms.entries != 0 && pod.entries >= terms.entries.into();
        let full = top.iter().filter(|pod| is_full(pod)).count() as u64;
        top.sort_by_key(|pod| Reverse((pod.refused, is_full(pod), pod.used, pod.entries)));
        top.truncate(NAMED);
        Budgets {
            burst: terms.burst,
            per_second: terms.per_second,
            entries: terms.entries,
            pods: found.len() as u64,
            beyond,
            full,
            refused,
            top,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn terms() -> Budget {
        Budget {
            burst: 100,
            per_second: 10,
            entries: 9,
        }
    }

    #[test]
    fn pods_that_lost_most_come_first_and_are_named_by_their_uid() {
        let uid = PodUid::parse(b"f52130f4-c5be-423e-8070-daaca055a5ad").unwrap();
        let now = 50 * SECOND;
        let quiet = PodBudget {
            paid_ns: now + SECOND,
            ..PodBudget::default()
        };
        let noisy = PodBudget {
            paid_ns: now + 10 * SECOND,
            executions: 1,
            mappings: 20,
            denials: 300,
            repeats: 4000,
            told: 3000,
            entries: 8,
            ..PodBudget::default()
        };
        let full = PodBudget {
            entries: 9,
            ..PodBudget::default()
        };
        let found = BTreeMap::from([(1, PodBudget::default()), (2, quiet), (3, noisy), (4, full)]);
        let said = Budgets::new(terms(), &found, now, &[(uid, 3), (uid, 99)]);
        assert_eq!((said.pods, said.beyond, said.full, said.refused), (4, 1, 1, 4321));
        assert_eq!((said.burst, said.per_second, said.entries), (100, 10, 9));
        let order: Vec<u64> = said.top.iter().map(|pod| pod.cgroup).collect();
        assert_eq!(order, [3, 4, 2, 1]);
        let used: Vec<u64> = said.top.iter().map(|pod| pod.used).collect();
        assert_eq!(used, [100, 0, 10, 0]);
        assert_eq!(
            said.top[0],
            PodUse {
                pod: Some(uid.to_string()),
                cgroup: 3,
                used: 100,
                refused: 4321,
                executions: 1,
                mappings: 20,
                denials: 300,
                repeats: 4000,
                lost: 3000,
                entries: 8,
            }
        );
        assert_eq!(said.top[2].name(), "cgroup 2");
    }

    #[test]
    fn of_many_pods_the_first_are_named_and_all_are_counted() {
        let one = |n: u64| PodBudget {
            mappings: n,
            ..PodBudget::default()
        };
        let found: BTreeMap<u64, PodBudget> = (0..1000).map(|n| (n, one(n))).collect();
        let said = Budgets::new(terms(), &found, 0, &[]);
        assert_eq!((said.pods, said.beyond, said.refused), (1000, 999, 999 * 500));
        assert_eq!(said.top.len(), NAMED);
        assert_eq!(said.top[0].refused, 999);
        // Counts that would overflow say that they are large.
        let found = BTreeMap::from([(1, one(u64::MAX)), (2, one(1))]);
        assert_eq!(Budgets::new(terms(), &found, 0, &[]).refused, u64::MAX);
    }
}
