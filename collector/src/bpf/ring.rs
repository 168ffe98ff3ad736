//! The ring buffer as its only consumer sees it.

use aya::maps::{MapData, RingBuf, ring_buf::RingBufItem};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

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
