//! Whose registers a log is about: a TPM's or a trust domain's.
//!
//! Promise: what differs between the two is here, so that each reader of a log asks for it. Not here: the
//! values of registers (see `replay`).
//!
//! Source: UEFI 2.11, section 38.4.1: MRTD is register 0 of a log (in place of PCR 0), RTMR 0 is 1 (PCR 1 and
//! 7), RTMR 1 is 2 (PCR 2 to 6), RTMR 2 is 3 (PCR 8 to 15), RTMR 3 is 4.

use super::{FIRMWARE_REGISTERS, REGISTERS};

/// How many runtime-extendable registers (RTMR) a trust domain has.
pub const RTMRS: usize = 4;

/// Registers of the boot of a trust domain: RTMR 0 to 2. What extends RTMR 3 at run time is in no firmware's
/// log.
pub const BOOT_RTMRS: usize = 3;

/// Which registers events extend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegisterSet {
    /// A TPM's PCR.
    #[default]
    Pcr,
    /// A trust domain's RTMR.
    Rtmr,
}

impl RegisterSet {
    /// How many belong to the boot, from 0.
    pub const fn count(self) -> usize {
        match self {
            RegisterSet::Pcr => REGISTERS,
            RegisterSet::Rtmr => BOOT_RTMRS,
        }
    }

    /// Of these, how many the firmware ends with separators, from 0.
    pub const fn firmware(self) -> usize {
        match self {
            RegisterSet::Pcr => FIRMWARE_REGISTERS,
            RegisterSet::Rtmr => BOOT_RTMRS,
        }
    }

    /// Where kernels' command lines are measured.
    pub const fn command_lines(self) -> &'static [u8] {
        match self {
            RegisterSet::Pcr => &[8, 9],
            RegisterSet::Rtmr => &[2],
        }
    }

    /// Where the firmware measures the EFI applications that it loads.
    pub const fn applications(self) -> u8 {
        match self {
            RegisterSet::Pcr => 4,
            RegisterSet::Rtmr => 1,
        }
    }
}

impl core::fmt::Display for RegisterSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            RegisterSet::Pcr => "PCR",
            RegisterSet::Rtmr => "RTMR",
        })
    }
}
