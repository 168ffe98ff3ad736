//! What the firmware, the boot loader and the kernel's EFI stub measured before IMA began: PCR 0 to 9.
//!
//! Promises: a log is read only as a whole, lengths are checked before anything is allocated, every error
//! names its offset; registers are computed from the log's digests, never taken from it. Not here: whether a
//! quote vouches for the registers and what is allowed in them (see `cgpath-appraisal` and `cgpath-policy`).

mod event;
mod known;
mod line;
mod log;
mod replay;
mod set;
#[cfg(test)]
mod tests;

pub use event::EventType;
pub use known::{KNOWN, KNOWN_RTMR, Known};
pub use line::{BOOT_IMAGE, CommandLine, Hashed};
pub use log::{Event, EventLog, MAX_ALGORITHMS, MAX_EVENTS, MAX_LOG_LEN};
pub use replay::{ReplayError, boot_aggregate};
pub use set::{BOOT_RTMRS, RTMRS, RegisterSet};

use crate::{Bank, Digest, serde_bytes_hex};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Serialize};

/// Registers that are extended before the kernel starts: PCR 0 to 9.
pub const REGISTERS: usize = 10;

/// Of these, the ones that the firmware closes with a separator: PCR 0 to 7. Source: TCG PC Client Platform
/// Firmware Profile, section 3.3.2.
pub const FIRMWARE_REGISTERS: usize = 8;

/// What evidence says of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Boot {
    /// PCR 0 to 9 in each bank that the quote selects, in its order. The quote's digest vouches for them.
    #[n(0)]
    pub registers: Vec<Registers>,
    /// The kernel's `binary_bios_measurements`; absent where the kernel shows none.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(
        with = "serde_bytes_hex::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub log: Option<Vec<u8>>,
    /// The kernel's command line as `/proc/cmdline` has it, without the newline at its end: only a hint, a
    /// digest in the log decides.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(
        with = "serde_bytes_hex::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub command_line: Option<Vec<u8>>,
}

impl Boot {
    /// The registers of a bank, if they are stated.
    pub fn registers(&self, bank: Bank) -> Option<&Registers> {
        self.registers.iter().find(|r| r.bank() == bank)
    }
}

/// PCR 0 to 9 of one bank. CBOR: an array of ten digests of that bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Registers(Vec<Digest>);

impl Registers {
    /// Ten digests of one bank, PCR 0 first; `None` for anything else.
    pub fn new(values: Vec<Digest>) -> Option<Registers> {
        let bank = values.first()?.bank();
        let is_one_bank = values.iter().all(|value| value.bank() == bank);
        (values.len() == REGISTERS && is_one_bank).then_some(Registers(values))
    }

    /// The bank.
    pub fn bank(&self) -> Bank {
        self.0.first().map_or(Bank::Sha256, Digest::bank)
    }

    /// PCR 0 to 9.
    pub fn values(&self) -> &[Digest] {
        &self.0
    }
}

const WRONG_REGISTERS: &str = "registers are ten digests of one bank, PCR 0 to 9";

impl<'de> Deserialize<'de> for Registers {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Registers::new(Vec::deserialize(d)?).ok_or_else(|| serde::de::Error::custom(WRONG_REGISTERS))
    }
}

impl<C> Encode<C> for Registers {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.0.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Registers {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let at = d.position();
        Registers::new(Vec::decode(d, ctx)?).ok_or_else(|| decode::Error::message(WRONG_REGISTERS).at(at))
    }
}
