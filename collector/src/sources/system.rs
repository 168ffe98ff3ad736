//! Facts of the running system that evidence states.

use std::io;
use std::time::Duration;

/// boot_id as 16 bytes and as the kernel prints it.
///
/// # Errors
/// If it cannot be read or is none.
pub fn boot_id() -> io::Result<([u8; 16], String)> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned();
    let mut id = [0; 16];
    hex::decode_to_slice(text.replace('-', ""), &mut id)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("boot_id {text:?}: {e}")))?;
    Ok((id, text))
}

/// Kernel release, as `uname -r` prints it.
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// CLOCK_BOOTTIME.
pub fn now() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
