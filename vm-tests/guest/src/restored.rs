//! What a guest does after it was restored from a snapshot: the time, random numbers and files of its own.
//!
//! Promise: when this is done, the guest differs from others of its snapshot in its clock, in all random
//! numbers to come, and in the files that its test wanted. Not here: boot id, TPM and addresses in memory,
//! which they share.

#![allow(unsafe_code, reason = "ioctls of /dev/random")]

use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_settime};

/// `RNDADDENTROPY` and `RNDRESEEDCRNG`. Source: include/uapi/linux/random.h.
const ADD_ENTROPY: nix::libc::c_ulong = 0x4008_5203;
const RESEED: nix::libc::c_ulong = 0x5207;

/// Bytes that are added to the kernel's random numbers.
const ENTROPY: usize = 32;

/// `struct rand_pool_info`, with its buffer.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    bytes: i32,
    buffer: [u8; ENTROPY],
}

/// Takes up the time, the random bytes and the files.
pub(crate) fn take_up(now_ns: u64, entropy: &[u8]) -> Result<()> {
    let now = nix::sys::time::TimeSpec::from_duration(std::time::Duration::from_nanos(now_ns));
    clock_settime(ClockId::CLOCK_REALTIME, now).context("setting the clock")?;
    stir(entropy).context("adding to the random numbers")?;
    unpack().with_context(|| format!("unpacking {}", vm_protocol::ADDITIONS_DEVICE))
}

fn stir(entropy: &[u8]) -> Result<()> {
    let (buffer, _) = entropy
        .split_first_chunk::<ENTROPY>()
        .context("fewer random bytes than are needed")?;
    let info = PoolInfo {
        entropy_bits: ENTROPY as i32 * 8,
        bytes: ENTROPY as i32,
        buffer: *buffer,
    };
    let device = OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: the kernel reads `bytes` bytes behind the two numbers, and they are there.
    let added = unsafe { nix::libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &raw const info) };
    nix::errno::Errno::result(added).context("RNDADDENTROPY")?;
    // SAFETY: it has no argument.
    let reseeded = unsafe { nix::libc::ioctl(device.as_raw_fd(), RESEED) };
    nix::errno::Errno::result(reseeded).context("RNDRESEEDCRNG")?;
    Ok(())
}

/// Files become root's, no matter who made the archive; what was there before is replaced, not written to.
fn unpack() -> Result<()> {
    let device = std::fs::File::open(vm_protocol::ADDITIONS_DEVICE)?;
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, device));
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(false);
    archive.set_overwrite(true);
    archive.unpack("/")?;
    Ok(())
}
