//! What the loader found out about the running kernel, as constants that the verifier knows.

use cgpath_ebpf_common::Config;

/// Set by the loader before load; the map behind it is frozen.
// SAFETY: all zeroes is a valid Config.
#[unsafe(no_mangle)]
pub static CONFIG: Config = unsafe { core::mem::zeroed() };

/// One field of [`CONFIG`] as u64.
macro_rules! config {
    ($field:ident) => {
        $crate::config::read(&$crate::config::CONFIG.$field)
    };
}
pub(crate) use config;

/// Volatile, since a field's value here is not its value at run time.
#[inline(always)]
pub fn read<T: Copy + Into<u64>>(field: &'static T) -> u64 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(field) }.into()
}
