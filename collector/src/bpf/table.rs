//! All elements of a hash table of the kernel, read a bucket after the other.
//!
//! Promises: an element that is there from the beginning of the reading to its end is among what is read,
//! once. Not here: what keys and values mean.

#![allow(
    unsafe_code,
    reason = "bpf(2) reads many entries of a map at once, which aya cannot"
)]

use super::load::Plain;
use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _};

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`, include/uapi/linux/bpf.h.
const LOOKUP_BATCH: nix::libc::c_int = 24;

/// Elements asked for at once; a bucket of the hash table that has more cannot be read, and none has.
const AT_ONCE: usize = 4096;

/// Member `batch` of `union bpf_attr`, include/uapi/linux/bpf.h.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// A hash table of the kernel.
pub(super) struct Table<K, V> {
    map: MapData,
    of: PhantomData<(K, V)>,
}

impl<K, V> Table<K, V>
where
    K: Pod + Default + Ord,
    V: Copy + Default + 'static,
    Plain<V>: Pod,
{
    /// # Errors
    /// If keys and values of the map are not these.
    pub(super) fn new(map: Map) -> Result<Table<K, V>, MapError> {
        HashMap::<&MapData, K, Plain<V>>::try_from(&map)?;
        match map {
            Map::HashMap(map) => Ok(Table { map, of: PhantomData }),
            // The one other kind that has the same form: `BPF_MAP_TYPE_LRU_HASH`.
            _ => Err(MapError::InvalidMapType { map_type: 9 }),
        }
    }

    /// All elements of a table that has at most so many, each bucket under its lock: going from key to key
    /// would begin anew whenever the key was removed meanwhile. Source: kernel/bpf/hashtab.c,
    /// `__htab_map_lookup_and_delete_batch`.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn read(&self, most: u32) -> io::Result<BTreeMap<K, V>> {
        let mut found = BTreeMap::new();
        let mut keys = vec![K::default(); AT_ONCE];
        let mut values = vec![V::default(); AT_ONCE];
        // The kernel writes the number of the next bucket.
        let (mut next, mut is_first) = (0u32, true);
        // As many rounds as it takes if each gives one bucket.
        for _ in 0..=2 * most {
            let from = next;
            let mut batch = Batch {
                from: if is_first { 0 } else { (&raw const from) as u64 },
                to: (&raw mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: AT_ONCE as u32,
                map: self.map.fd().as_fd().as_raw_fd().cast_unsigned(),
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: the kernel reads `batch`, and writes to it, to `next`, and at most AT_ONCE keys and
            // values of the map's sizes, which are those of the vectors' elements (`new` has checked it), of
            // which any bytes are valid; all of them outlive the call.
            let result = unsafe {
                nix::libc::syscall(
                    nix::libc::SYS_bpf,
                    LOOKUP_BATCH,
                    &raw mut batch,
                    size_of::<Batch>(),
                )
            };
            let error = (result != 0).then(io::Error::last_os_error);
            let is_last = match error {
                None => false,
                Some(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => true,
                Some(error) => return Err(error),
            };
            let count = (batch.count as usize).min(AT_ONCE);
            found.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
            if is_last {
                return Ok(found);
            }
            is_first = false;
        }
        Err(io::Error::other("the kernel's table has no end"))
    }
}
