//! What the kernel is handed as bytes, not as a file.
//!
//! Promise: as the crate's. Not here: files, which IMA measures.

use crate::{Header, Task};

/// [`LoadRecord::what`].
pub mod load {
    /// A module, by `init_module(2)`.
    pub const MODULE: u32 = 1;
    /// A kernel to be started, by `kexec_load(2)`; or what that call had loaded is to be given back. The
    /// kernel shows neither the bytes nor their number.
    pub const KEXEC: u32 = 2;
}

/// A longer module is not hashed, bytes: as long as that takes, the processor does nothing else.
pub const MAX_LOAD: u64 = 128 << 20;

/// The kernel's number of SHA-256, include/uapi/linux/hash_info.h.
pub const SHA256: i32 = 4;

/// `EFAULT`, include/uapi/asm-generic/errno-base.h. As [`LoadRecord::hash_alg`]: the bytes could not be read.
pub const EFAULT: i32 = 14;

/// The kernel was handed a module or a kernel as bytes. Whether it takes it is not decided yet.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadRecord {
    /// `kind` is [`crate::kind::LOAD`].
    pub header: Header,
    /// Who.
    pub task: Task,
    /// See [`load`].
    pub what: u32,
    /// [`SHA256`], a negative error number ([`crate::EFBIG`]: more than [`MAX_LOAD`] bytes; [`EFAULT`]), or
    /// [`crate::HASH_NOT_TRIED`].
    pub hash_alg: i32,
    /// How many bytes; 0 for a kernel.
    pub size: u64,
    /// Of all of them, as they lie in the kernel's own memory; else 0.
    pub hash: [u8; 32],
}
