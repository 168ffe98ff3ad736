//! Data that the firmware measures whatever it starts: who knows the profile knows the digest beforehand.
//!
//! Promise: a row says nothing of what was loaded or with which words, so that replacing the one or the other
//! gains nothing. All else is known by its digest alone: no digest covers an event's type, and whatever has
//! been hashed can be handed over as data of any type. So variables, versions and actions that state a
//! setting (`UEFI Debug Mode`, `DMA Protection Disabled`) are not here. Not here: in which registers this
//! counts (see `cgpath-appraisal`).

use super::{Event, EventType, RegisterSet};
use crate::Bank;
use core::ops::RangeInclusive;

/// What a separator holds that does not indicate an error.
pub(super) const SEPARATORS: [&[u8]; 2] = [&[0; 4], &[0xff; 4]];

/// One row.
#[derive(Debug)]
pub struct Known {
    /// Registers.
    pub registers: RangeInclusive<u32>,
    /// Type.
    pub kind: EventType,
    /// What is hashed, and what the event holds.
    pub data: &'static [u8],
    /// Where the profile (TCG PC Client Platform Firmware Profile 1.05) has it.
    pub source: &'static str,
}

const fn row(
    registers: RangeInclusive<u32>,
    kind: EventType,
    data: &'static [u8],
    source: &'static str,
) -> Known {
    Known {
        registers,
        kind,
        data,
        source,
    }
}

/// The whole table for a TPM's registers.
pub const KNOWN: [Known; 7] = [
    row(
        0..=7,
        EventType::SEPARATOR,
        SEPARATORS[0],
        "3.3.2.2, EV_SEPARATOR",
    ),
    row(
        0..=7,
        EventType::SEPARATOR,
        SEPARATORS[1],
        "3.3.2.2, EV_SEPARATOR",
    ),
    row(
        4..=4,
        EventType::EFI_ACTION,
        b"Calling EFI Application from Boot Option",
        "PCR usage, PCR 4: boot attempts; EV_EFI_ACTION strings",
    ),
    row(
        4..=4,
        EventType::EFI_ACTION,
        b"Returning from EFI Application from Boot Option",
        "PCR usage, PCR 4: boot attempts; EV_EFI_ACTION strings",
    ),
    row(
        5..=5,
        EventType::EFI_ACTION,
        b"Exit Boot Services Invocation",
        "PCR usage, PCR 5: ExitBootServices; EV_EFI_ACTION strings",
    ),
    row(
        5..=5,
        EventType::EFI_ACTION,
        b"Exit Boot Services Returned with Success",
        "PCR usage, PCR 5: ExitBootServices; EV_EFI_ACTION strings",
    ),
    row(
        5..=5,
        EventType::EFI_ACTION,
        b"Exit Boot Services Returned with Failure",
        "PCR usage, PCR 5: ExitBootServices; EV_EFI_ACTION strings",
    ),
];

/// The same for a trust domain's: separators of PCR 1 to 7 are in RTMR 0 and 1, and firmware does not agree
/// in which; what the profile has in PCR 4 and 5 is in RTMR 1.
pub const KNOWN_RTMR: [Known; 7] = [
    row(
        0..=2,
        EventType::SEPARATOR,
        SEPARATORS[0],
        "3.3.2.2, EV_SEPARATOR",
    ),
    row(
        0..=2,
        EventType::SEPARATOR,
        SEPARATORS[1],
        "3.3.2.2, EV_SEPARATOR",
    ),
    row(1..=1, KNOWN[2].kind, KNOWN[2].data, KNOWN[2].source),
    row(1..=1, KNOWN[3].kind, KNOWN[3].data, KNOWN[3].source),
    row(1..=1, KNOWN[4].kind, KNOWN[4].data, KNOWN[4].source),
    row(1..=1, KNOWN[5].kind, KNOWN[5].data, KNOWN[5].source),
    row(1..=1, KNOWN[6].kind, KNOWN[6].data, KNOWN[6].source),
];

impl Event<'_> {
    /// Whether it is one of [`KNOWN`] or [`KNOWN_RTMR`], as its register is, and its digest in `bank` is that
    /// of its data.
    pub fn is_known(&self, bank: Bank) -> bool {
        let is_row =
            |row: &Known| row.registers.contains(&self.pcr) && (row.kind, row.data) == (self.kind, self.data);
        let rows = match self.set {
            RegisterSet::Pcr => &KNOWN,
            RegisterSet::Rtmr => &KNOWN_RTMR,
        };
        rows.iter().any(is_row) && self.data_is_measured(bank) == Some(true)
    }
}
