//! Modules and kernels that the kernel is handed as bytes: no file, so nothing that IMA measures.
//!
//! Promises: a module's hash is of the bytes in the kernel's own memory, which no process can change any
//! more; what is too long or cannot be read is recorded without one. Only who has CAP_SYS_MODULE or
//! CAP_SYS_BOOT on the host can hand something over: the kernel asks before these hooks. Not here: whether
//! the kernel takes the module, which it decides later; files (`finit_module`, `kexec_file_load`), which IMA
//! measures.

use crate::{config::config, kernel::Reader, ring, sha256, tasks};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use cgpath_ebpf_common::{
    EFAULT, EFBIG, HASH_NOT_TRIED, Header, LAYOUT_VERSION, LoadRecord, MAX_LOAD, SHA256, kind, load,
};

/// The kernel has so many bytes at this address.
#[inline(always)]
pub fn loaded(address: u64, size: u64, id: u32) {
    if u64::from(id) != config!(loading_module) {
        return;
    }
    let mut digest = [0; 4];
    let hash_alg = if size > MAX_LOAD {
        -EFBIG
    } else if sha256::hash(address, size, &mut digest) {
        SHA256
    } else {
        -EFAULT
    };
    if hash_alg < 0 {
        ring::hash_failed();
    }
    send(load::MODULE, size, hash_alg, &digest);
}

/// The kernel is about to take something that it shows to nobody.
#[inline(always)]
pub fn announced(id: u32) {
    if u64::from(id) == config!(loading_kexec) {
        send(load::KEXEC, 0, HASH_NOT_TRIED, &[0; 4]);
    }
}

#[inline(always)]
fn send(what: u32, size: u64, hash_alg: i32, hash: &[u64; 4]) {
    let Some(seq) = ring::next_seq() else {
        return;
    };
    let Some(mut record) = ring::reserve::<LoadRecord>() else {
        return;
    };
    let r = record.as_mut_ptr();
    let mut reader = Reader::new();
    // SAFETY: all writes go to fields of the reserved record.
    unsafe {
        (*r).header = Header {
            seq,
            boot_ns: bpf_ktime_get_boot_ns(),
            kind: kind::LOAD,
            version: LAYOUT_VERSION,
            len: size_of::<LoadRecord>() as u32,
        };
        (*r).what = what;
        (*r).hash_alg = hash_alg;
        (*r).size = size;
        let words = (&raw mut (*r).hash).cast::<[u64; 4]>();
        for i in 0..4 {
            (&raw mut (*words)[i]).write_volatile(hash[i]);
        }
        tasks::fill(&mut reader, &raw mut (*r).task, 0);
    }
    record.submit(0);
}
