//! The ring buffer as its only consumer sees it.

#![allow(
    unsafe_code,
    reason = "the kernel shares the ring's positions as memory, which aya keeps to itself"
)]

use aya::maps::{MapData, RingBuf, ring_buf::RingBufItem};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use serde::{Deserialize, Serialize};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering, fence};

/// The ring buffer's consumer. The position that the kernel sees moves only when an [`Item`] is dropped, and
/// is kept by the kernel: a restarted collector goes on with the first record that was not dropped.
///
/// Readable (level triggered, epoll) when a record waits; fits `tokio::io::unix::AsyncFd`.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>) -> Ring {
        Ring(ring)
    }

    /// The oldest record not consumed yet, or `None` if there is none or it is still being written.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows the ring, which Iterator cannot express"
    )]
    pub fn next(&mut self) -> Option<Item<'_>> {
        self.0.next().map(Item)
    }

    /// How full it is.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn fill(&self) -> io::Result<RingFill> {
        fill(self.as_fd())
    }
}

/// How full the ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingFill {
    /// Bytes of records that were not consumed yet, with what the kernel puts before each.
    pub used: u64,
    /// Bytes that it holds; what does not fit is lost.
    pub size: u64,
}

/// The first page has the consumer's position, the second one the producer's, each a word of the machine.
/// Source: kernel/bpf/ringbuf.c, `struct bpf_ringbuf` and `ringbuf_map_mmap_kern`.
fn fill(ring: BorrowedFd<'_>) -> io::Result<RingFill> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", ring.as_raw_fd()))?;
    let size = super::fdinfo_field(&text, "max_entries").ok_or(io::ErrorKind::InvalidData)?;
    let page = super::page_size()?;
    let length = NonZeroUsize::new(2 * page).ok_or(io::ErrorKind::Unsupported)?;
    let (protection, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
    // SAFETY: a new mapping at an address that the kernel chooses, to be read only.
    let address = unsafe { mmap(None, length, protection, flags, ring, 0) }?;
    let position = |offset: usize| {
        // SAFETY: both pages are mapped until the end of this function, and begin with words that kernel and
        // consumer change atomically. They can only be read here: of such memory a relaxed load of a word of
        // the machine alone is sound (`std::sync::atomic`, "Atomic accesses to read-only memory"), hence the
        // fence, which orders it as an acquiring load would be.
        let word = unsafe { address.byte_add(offset).cast::<AtomicUsize>().as_ref() };
        let found = word.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        found
    };
    // The consumer's first: it is never ahead of the producer's.
    let consumed = position(0);
    let produced = position(page);
    // SAFETY: exactly the mapping that was made above; what referred to it is gone.
    unsafe { munmap(address, length.get()) }?;
    let used = u64::try_from(produced.wrapping_sub(consumed)).unwrap_or(u64::MAX);
    Ok(RingFill { used, size })
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ring").field(&self.as_raw_fd()).finish()
    }
}

/// A record's bytes, still in the ring; dropping it consumes it. See [`crate::decode::decode`].
#[derive(Debug)]
pub struct Item<'a>(RingBufItem<'a>);

impl std::ops::Deref for Item<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{FromRawFd as _, OwnedFd};

    /// `BPF_MAP_CREATE` and `BPF_MAP_TYPE_RINGBUF`, include/uapi/linux/bpf.h.
    const CREATE: nix::libc::c_int = 0;
    const RINGBUF: u32 = 27;

    fn ring(size: u32) -> io::Result<OwnedFd> {
        let attributes: [u32; 30] = std::array::from_fn(|n| match n {
            0 => RINGBUF,
            3 => size,
            _ => 0,
        });
        // SAFETY: the kernel reads the attributes, which outlive the call.
        let fd = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_bpf,
                CREATE,
                attributes.as_ptr(),
                size_of_val(&attributes),
            )
        };
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    #[test]
    fn a_ring_is_as_full_as_the_kernels_positions_say() {
        let made = match ring(1 << 16) {
            Ok(made) => made,
            Err(error) => {
                eprintln!("SKIPPED: no ring buffer can be made here: {error}");
                return;
            }
        };
        let empty = RingFill {
            used: 0,
            size: 1 << 16,
        };
        assert_eq!(fill(made.as_fd()).unwrap(), empty);
        // No program writes into it: the consumer goes back instead.
        let page = NonZeroUsize::new(crate::bpf::page_size().unwrap()).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses, which begins with the position.
        unsafe {
            let address = mmap(None, page, protection, MapFlags::MAP_SHARED, &made, 0).unwrap();
            let consumer = address.cast::<AtomicUsize>().as_ref();
            consumer.store(0usize.wrapping_sub(4096), Ordering::Release);
            munmap(address, page.get()).unwrap();
        }
        let filled = RingFill { used: 4096, ..empty };
        assert_eq!(fill(made.as_fd()).unwrap(), filled);
    }
}
