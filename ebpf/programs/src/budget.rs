//! What a pod may have recorded.
//!
//! A pod is its directory right below a parent of pods: what it nests below shares one budget, and the host
//! has none. A budget is a bucket of units that fills up at a steady rate (GCRA, the generic cell rate
//! algorithm: ITU-T I.371); a unit is so many bytes of the ring. While less than half of the ring is free, so
//! much less of a burst is allowed: the pod that sent most is the first that has to wait.
//! Promises: what is beyond the budget is counted, and no sequence number is taken for it; before the first
//! of a pod that is not sent goes on, a record that says so is in the ring, or is counted as lost; where a
//! budget cannot be had, records are sent. Entries that were added, violations and what the guard sees are
//! never asked for here, and writes in layers are only paid for. Not here: what a loss means for the pod.

use crate::{guard, kernel, kernel::Reader, pods, ring};
use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_boot_ns, macros::map, maps::HashMap,
};
use cgpath_ebpf_common::{Budget, Header, LAYOUT_VERSION, MAX_BUDGETS, PodLossRecord, kind};

/// By the inode number of the pod's own directory. No entry gives way to another one: with it went what was
/// lost.
#[map]
static BUDGETS: HashMap<u64, Budget> = HashMap::with_max_entries(MAX_BUDGETS, 0);

/// A loss that goes on is reported again after this, or when there is twice as much of it, nanoseconds.
const TELL_NS: u64 = 60_000_000_000;

/// What is to be recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Execution,
    Mapping,
    Denial,
    Repeat,
}

/// Whether the current task's pod may have a record of so many units sent, which is then paid for. If not,
/// that is counted.
#[inline(always)]
pub fn allows(what: Kept, units: u64) -> bool {
    let Some((unit_ns, ahead_ns)) = terms() else {
        return true;
    };
    let (pod, Some(budget)) = of_task() else {
        return true;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let cost = units * unit_ns;
    let free = 2 * ring::free();
    let most = if free >= ring::WHOLE {
        ahead_ns
    } else {
        ahead_ns / ring::WHOLE * free
    };
    // SAFETY: fields of a map value, which lives as long as the program.
    unsafe {
        if take(budget, now, cost) <= now + most {
            return true;
        }
        kernel::fetch_add(&raw mut (*budget).paid_ns, cost.wrapping_neg());
        lost(pod, budget, what, now);
    }
    false
}

/// A record that is sent was not asked for here, or turned out to be longer than what was paid for.
#[inline(always)]
pub fn pay(units: u64) {
    let Some((unit_ns, _)) = terms() else {
        return;
    };
    if let (_, Some(budget)) = of_task() {
        // SAFETY: the helper has no preconditions; fields of a map value.
        unsafe { take(budget, bpf_ktime_get_boot_ns(), units * unit_ns) };
    }
}

/// IMA added an entry for the current task's pod, which has its record.
#[inline(always)]
pub fn added() {
    if let (_, Some(budget)) = of_task() {
        // SAFETY: a field of a map value.
        unsafe { kernel::fetch_add(&raw mut (*budget).entries, 1) };
    }
}

/// How many entries IMA added for the current task's pod; 0 where that is not known.
#[inline(always)]
pub fn entries(reader: &mut Reader) -> u64 {
    match BUDGETS.get_ptr(pods::of_task(reader)) {
        // SAFETY: a field of a map value.
        Some(budget) => unsafe { (&raw const (*budget).entries).read_volatile() },
        None => 0,
    }
}

/// A directory was removed: if it was a pod's, the rest of its loss is reported, and its budget ends.
#[inline(always)]
pub fn end(pod: u64) {
    let Some(budget) = BUDGETS.get_ptr_mut(pod) else {
        return;
    };
    // SAFETY: fields of a map value.
    unsafe {
        if total(budget) > (&raw const (*budget).told).read_volatile() {
            tell(pod, budget);
        }
    }
    let _ = BUDGETS.remove(pod);
}

/// What a unit costs and how far ahead a pod may be, nanoseconds; nothing as long as pods have no budget.
#[inline(always)]
fn terms() -> Option<(u64, u64)> {
    let settings = guard::settings()?;
    let unit_ns = guard::setting!(settings, budget_unit_ns);
    (unit_ns != 0).then(|| (unit_ns, guard::setting!(settings, budget_ahead_ns)))
}

/// The current task's pod and its budget, begun if need be; none on the host, and where there is no room for
/// it, which is counted.
#[inline(always)]
fn of_task() -> (u64, Option<*mut Budget>) {
    let mut reader = Reader::new();
    let pod = pods::of_task(&mut reader);
    reader.finish();
    if pod == 0 {
        return (pod, None);
    }
    if let Some(budget) = BUDGETS.get_ptr_mut(pod) {
        return (pod, Some(budget));
    }
    // Another processor may begin it at the same moment: then that one's is there.
    let _ = BUDGETS.insert(pod, Budget::default(), u64::from(BPF_NOEXIST));
    let budget = BUDGETS.get_ptr_mut(pod);
    if budget.is_none() {
        ring::budget_failed();
    }
    (pod, budget)
}

/// Takes so much and gives the time at which all that was taken is paid for.
///
/// # Safety
/// `budget` is a map value.
#[inline(always)]
unsafe fn take(budget: *mut Budget, now: u64, cost: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe {
        let paid = &raw mut (*budget).paid_ns;
        let before = paid.read_volatile();
        // A concurrent call that has moved it meanwhile moved it to the same moment, or beyond.
        if before < now {
            kernel::swap_if(paid, before, now);
        }
        kernel::fetch_add(paid, cost) + cost
    }
}

/// A record is not sent.
///
/// # Safety
/// `budget` is a map value.
#[inline(always)]
unsafe fn lost(pod: u64, budget: *mut Budget, what: Kept, now: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        let count = match what {
            Kept::Execution => &raw mut (*budget).executions,
            Kept::Mapping => &raw mut (*budget).mappings,
            Kept::Denial => &raw mut (*budget).denials,
            Kept::Repeat => &raw mut (*budget).repeats,
        };
        kernel::fetch_add(count, 1);
        let first = &raw mut (*budget).first_ns;
        if first.read_volatile() == 0 {
            kernel::swap_if(first, 0, now);
        }
        (&raw mut (*budget).last_ns).write_volatile(now);
        let told = (&raw const (*budget).told).read_volatile();
        let total = total(budget);
        if told == 0 {
            // No loss has been reported yet: this task does not go on before one has.
            tell(pod, budget);
            return;
        }
        let told_ns = (&raw const (*budget).told_ns).read_volatile();
        let is_due = total >= 2 * told || now > told_ns + TELL_NS;
        // One of the calls that find it due reports it.
        if is_due && kernel::swap_if(&raw mut (*budget).told, told, total) == told {
            tell(pod, budget);
        }
    }
}

/// # Safety
/// `budget` is a map value.
#[inline(always)]
unsafe fn total(budget: *mut Budget) -> u64 {
    // SAFETY: as the caller promises.
    unsafe {
        (&raw const (*budget).executions).read_volatile()
            + (&raw const (*budget).mappings).read_volatile()
            + (&raw const (*budget).denials).read_volatile()
            + (&raw const (*budget).repeats).read_volatile()
    }
}

/// Sends what was not sent so far, as numbers.
///
/// # Safety
/// `budget` is a map value.
#[inline(always)]
unsafe fn tell(pod: u64, budget: *mut Budget) {
    let Some(seq) = ring::next_seq() else {
        return;
    };
    let Some(mut record) = ring::reserve::<PodLossRecord>() else {
        return;
    };
    let r = record.as_mut_ptr();
    // SAFETY: the reserved record; the rest as the caller promises.
    unsafe {
        let executions = (&raw const (*budget).executions).read_volatile();
        let mappings = (&raw const (*budget).mappings).read_volatile();
        let denials = (&raw const (*budget).denials).read_volatile();
        let repeats = (&raw const (*budget).repeats).read_volatile();
        let now = bpf_ktime_get_boot_ns();
        *r = PodLossRecord {
            header: Header {
                seq,
                boot_ns: now,
                kind: kind::POD_LOSS,
                version: LAYOUT_VERSION,
                len: size_of::<PodLossRecord>() as u32,
            },
            pod_id: pod,
            executions,
            mappings,
            denials,
            repeats,
            first_ns: (&raw const (*budget).first_ns).read_volatile(),
            last_ns: (&raw const (*budget).last_ns).read_volatile(),
        };
        record.submit(0);
        (&raw mut (*budget).told_ns).write_volatile(now);
        // Never back to 0, and back to less only until the next report.
        (&raw mut (*budget).told).write_volatile(executions + mappings + denials + repeats);
    }
}
