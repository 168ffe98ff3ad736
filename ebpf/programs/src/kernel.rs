//! Reads of kernel memory that cannot fault, and that count what failed.

use crate::ring;
use aya_ebpf::{cty::c_void, helpers::generated::bpf_probe_read_kernel};
use core::{arch::asm, mem::MaybeUninit};

/// Reads kernel memory by address; remembers whether any read failed. A failed read gives zeroes.
///
/// The outcomes are joined without branches, so that the verifier has one path to walk.
pub struct Reader {
    failed: i64,
}

impl Reader {
    #[inline(always)]
    pub fn new() -> Reader {
        Reader { failed: 0 }
    }

    /// The `T` at this address. `T` is a plain number.
    #[inline(always)]
    pub fn read<T: Copy>(&mut self, address: u64) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper fills all of `value`, with zeroes if it fails.
        unsafe {
            self.read_into(value.as_mut_ptr(), address);
            value.assume_init()
        }
    }

    /// Copies what is at this address.
    ///
    /// # Safety
    /// `to` is writable.
    #[inline(always)]
    pub unsafe fn read_into<T: Copy>(&mut self, to: *mut T, address: u64) {
        // SAFETY: `to` has room for size_of::<T>() bytes.
        self.failed |=
            unsafe { bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, address as *const c_void) };
    }

    /// Whether any read failed so far.
    #[inline(always)]
    pub fn has_failed(&self) -> bool {
        self.failed != 0
    }

    /// Whether any read failed; counts it if so.
    #[inline(always)]
    pub fn finish(self) -> bool {
        if self.failed != 0 {
            ring::read_failed();
        }
        self.failed != 0
    }
}

/// Zeroes, word by word: a call of memset would not pass the verifier.
///
/// # Safety
/// `to` is writable.
#[inline(always)]
pub unsafe fn zero<const N: usize>(to: *mut [u64; N]) {
    for i in 0..N {
        // SAFETY: in bounds of `to`.
        unsafe { (&raw mut (*to)[i]).write_volatile(0) };
    }
}

/// Adds to a number, atomically, and gives its old value.
///
/// By an instruction of its own: this target has no `AtomicU64::fetch_add`.
///
/// # Safety
/// `at` is aligned, lives as long as the call, and others touch it atomically.
#[inline(always)]
pub unsafe fn fetch_add(at: *mut u64, what: u64) -> u64 {
    let mut value = what;
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({at} + 0), {value})",
            at = in(reg) at,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value
}

/// Writes `new` where `old` stands, atomically, and gives what stood there.
///
/// # Safety
/// As [`fetch_add`].
#[inline(always)]
pub unsafe fn swap_if(at: *mut u64, old: u64, new: u64) -> u64 {
    let mut found = old;
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({at} + 0, r0, {new})",
            at = in(reg) at,
            new = in(reg) new,
            inout("r0") found,
            options(nostack),
        );
    }
    found
}

/// 0 if the two are equal, else 1, without a branch; in assembler, since the compiler would make one.
#[inline(always)]
pub fn differ(a: u64, b: u64) -> u64 {
    let mut x = a ^ b;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{y} = {x}",
            "{y} = -{y}",
            "{x} |= {y}",
            "{x} >>= 63",
            x = inout(reg) x,
            y = out(reg) _,
            options(pure, nomem, nostack),
        );
    }
    x
}

/// The same number, below 8192, of which the verifier knows no more than that: paths through a loop that
/// differ in it only are one to it. In assembler, since the compiler would see that nothing is done.
#[inline(always)]
pub fn forget(mut x: u64) -> u64 {
    // SAFETY: register arithmetic only.
    unsafe { asm!("{x} &= 8191", x = inout(reg) x, options(pure, nomem, nostack)) };
    x
}

/// The same number, if it is below 64: the verifier knows no more than that. See [`forget`].
#[inline(always)]
pub fn below_block(mut x: u64) -> u64 {
    // SAFETY: register arithmetic only.
    unsafe { asm!("{x} &= 63", x = inout(reg) x, options(pure, nomem, nostack)) };
    x
}
