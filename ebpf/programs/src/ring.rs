//! The ring buffer, sequence numbers and counters.

use crate::kernel;
use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE},
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, RingBuf, ring_buf::RingBufEntry},
};
use cgpath_ebpf_common::{Counters, Loss};

/// Its size is set by the loader.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// One element.
#[map]
static COUNTERS: Array<Counters> = Array::with_max_entries(1, 0);

/// One element.
#[map]
static LOSS: Array<Loss> = Array::with_max_entries(1, 0);

/// Adds 1 to a counter, atomically, and gives its old value; `None` never happens: the array has an
/// element 0.
///
/// By an instruction of its own: this target has no `AtomicU64::fetch_add`.
#[inline(always)]
fn add(field: impl Fn(*mut Counters) -> *mut u64) -> Option<u64> {
    let field = field(COUNTERS.get_ptr_mut(0)?);
    // SAFETY: an aligned field of a map value, which lives as long as the program and is only touched like
    // this.
    Some(unsafe { kernel::fetch_add(field, 1) })
}

/// The next sequence number, from 1.
#[inline(always)]
pub fn next_seq() -> Option<u64> {
    // SAFETY: a field's address, not read here. So below.
    add(|c| unsafe { &raw mut (*c).seq }).map(|old| old + 1)
}

/// Room for a record, or `None`, counted.
#[inline(always)]
pub fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    let entry = RECORDS.reserve::<T>(0);
    if entry.is_none() {
        // SAFETY: as in `next_seq`.
        let _ = add(|c| unsafe { &raw mut (*c).lost_reserve });
        let _ = since();
    }
    entry
}

/// When the first loss was that nobody knows of: now, if none was noted yet.
#[inline(always)]
fn since() -> Option<u64> {
    let loss = LOSS.get_ptr_mut(0)?;
    // SAFETY: a map value; a concurrent writer notes the same moment, or takes all back.
    unsafe {
        let at = &raw mut (*loss).since_ns;
        if at.read_volatile() == 0 {
            at.write_volatile(bpf_ktime_get_boot_ns());
        }
        Some(at.read_volatile())
    }
}

/// How much of the ring is free, in parts of [`WHOLE`].
#[inline(always)]
pub fn free() -> u64 {
    let size = RECORDS.query(u64::from(BPF_RB_RING_SIZE));
    let used = RECORDS.query(u64::from(BPF_RB_AVAIL_DATA));
    // A division by 0 gives 0 here.
    if used >= size {
        return 0;
    }
    (size - used) * WHOLE / size
}

/// See [`free`].
pub const WHOLE: u64 = 2048;

/// Whether more was lost than `known`, the first of it after `not_before`.
#[inline(always)]
pub fn lost_since(known: u64, not_before: u64) -> bool {
    let Some(counters) = COUNTERS.get_ptr(0) else {
        return false;
    };
    // SAFETY: a map value; the counter only grows.
    let lost = unsafe { (&raw const (*counters).lost_reserve).read_volatile() };
    lost > known && since().is_some_and(|since| since > not_before)
}

#[inline(always)]
pub fn read_failed() {
    // SAFETY: as in `next_seq`.
    let _ = add(|c| unsafe { &raw mut (*c).read_failed });
}

#[inline(always)]
pub fn hash_failed() {
    // SAFETY: as in `next_seq`.
    let _ = add(|c| unsafe { &raw mut (*c).hash_failed });
}

#[inline(always)]
pub fn path_failed() {
    // SAFETY: as in `next_seq`.
    let _ = add(|c| unsafe { &raw mut (*c).path_failed });
}

/// A pod's budget could not be begun.
#[inline(always)]
pub fn budget_failed() {
    // SAFETY: as in `next_seq`.
    let _ = add(|c| unsafe { &raw mut (*c).budgets_failed });
}

/// A mark could not be made.
#[inline(always)]
pub fn mark_failed() {
    // SAFETY: as in `next_seq`.
    let _ = add(|c| unsafe { &raw mut (*c).marks_failed });
}

/// The first program on `ima_add_template_entry` saw a call.
#[inline(always)]
pub fn entry_call() {
    // SAFETY: as in `next_seq`.
    let _ = add(|c| unsafe { &raw mut (*c).entry_calls });
}

/// One of the two programs on `ima_add_template_entry` took a call up.
#[inline(always)]
pub fn entry_taken() {
    // SAFETY: as in `next_seq`.
    let _ = add(|c| unsafe { &raw mut (*c).entry_taken });
}
