//! What a pod may have recorded, in the terms of the programs, and what each pod used of it.
//!
//! Promise: what is read is what the programs go by at that moment. Not here: whose a directory is, and what
//! a loss means for the pod.

use super::{Bpf, Result, load, table::Table};
use cgpath_ebpf_common::MAX_BUDGETS;
use std::collections::BTreeMap;

/// What a pod may have recorded; a unit is [`cgpath_ebpf_common::BUDGET_UNIT`] bytes of the ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Units at once.
    pub burst: u32,
    /// Units that come back each second; 0: there is no budget.
    pub per_second: u32,
    /// Entries of IMA's list with which it is denied executions, where those of untrusted pods are; 0: with
    /// none.
    pub entries: u32,
}

impl Budget {
    /// The same with no more at once than half of a ring of so many bytes: a pod alone fills no ring.
    pub fn within(self, ring_bytes: u32) -> Budget {
        Budget {
            burst: self.burst.min(ring_bytes / 2 / cgpath_ebpf_common::BUDGET_UNIT),
            ..self
        }
    }

    /// What a unit costs in time, and how far ahead of its time a pod may be, nanoseconds.
    pub(super) fn terms(self) -> (u64, u64) {
        let unit = 1_000_000_000_u64.checked_div(self.per_second.into()).unwrap_or(0);
        (unit, unit.saturating_mul(self.burst.into()))
    }

    /// Units of the burst that are used up at `now_ns` by a pod whose records are paid for at `paid_ns`, both
    /// CLOCK_BOOTTIME in nanoseconds.
    pub fn used(self, paid_ns: u64, now_ns: u64) -> u64 {
        let ahead = paid_ns.saturating_sub(now_ns);
        let (unit, _) = self.terms();
        if unit == 0 { 0 } else { ahead.div_ceil(unit) }
    }
}

/// The map of budgets by the inode number of the pod's own directory.
pub(super) type Budgets = Table<u64, super::PodBudget>;

impl Bpf {
    /// The budgets of pods by the inode number of each one's own directory, and the moment by which what is
    /// used of them counts, CLOCK_BOOTTIME in nanoseconds.
    ///
    /// # Errors
    /// [`super::Error::Kernel`] if the map cannot be read.
    pub fn budgets(&self) -> Result<(BTreeMap<u64, super::PodBudget>, u64)> {
        let found = self.budgets.read(MAX_BUDGETS);
        let found = found.map_err(load::kernel("read", "the budgets"))?;
        Ok((found, load::boot_ns()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_time_and_takes_half_of_a_ring_at_most() {
        let budget = Budget {
            burst: 8192,
            per_second: 100,
            entries: 5,
        };
        assert_eq!(budget.terms(), (10_000_000, 81_920_000_000));
        assert_eq!(budget.within(16 << 20), budget);
        assert_eq!(budget.within(4 << 20).burst, 2048);
        assert_eq!(budget.within(64 << 10).burst, 32);
        assert_eq!(Budget::default().terms(), (0, 0));
    }

    #[test]
    fn what_is_used_comes_back_with_time() {
        let budget = Budget {
            burst: 1000,
            per_second: 10,
            entries: 0,
        };
        let second = 1_000_000_000;
        for (ahead, used) in [(100 * second, 1000), (second, 10), (1, 1), (0, 0)] {
            assert_eq!(budget.used(7 * second + ahead, 7 * second), used);
        }
        assert_eq!(budget.used(second, 7 * second), 0);
        assert_eq!(Budget::default().used(7 * second, 0), 0);
    }
}
