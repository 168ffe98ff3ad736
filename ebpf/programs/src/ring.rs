//! The ring buffer, sequence numbers and counters.

use aya_ebpf::{
    macros::map,
    maps::{Array, RingBuf, ring_buf::RingBufEntry},
};
use core::arch::asm;
use ebpf_common::Counters;

/// Its size is set by the loader.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// One element.
#[map]
static COUNTERS: Array<Counters> = Array::with_max_entries(1, 0);

/// Adds 1 to a counter, atomically, and gives its old value; `None` never happens: the array has an element 0.
///
/// By an instruction of its own: this target has no `AtomicU64::fetch_add`.
#[inline(always)]
fn add(field: impl Fn(*mut Counters) -> *mut u64) -> Option<u64> {
    let field = field(COUNTERS.get_ptr_mut(0)?);
    let mut old = 1;
    // SAFETY: an aligned field of a map value, which lives as long as the program and is only touched like this.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({field} + 0), {value})",
            field = in(reg) field,
            value = inout(reg) old,
            options(nostack),
        );
    }
    Some(old)
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
    }
    entry
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
