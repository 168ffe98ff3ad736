//! What an event says of itself, and when that is what was measured.
//!
//! Not here: kernel command lines (see `line`), data that is known beforehand (see `known`).
//!
//! Source: TCG PC Client Platform Firmware Profile, section 10.4 (types and their data).

use super::{Event, EventLog, RegisterSet};
use crate::Bank;

/// TCG_EVENTTYPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u32);

/// Types and their names. PFP, table 27.
const NAMES: [(u32, &str); 34] = [
    (0x0000_0000, "EV_PREBOOT_CERT"),
    (0x0000_0001, "EV_POST_CODE"),
    (0x0000_0003, "EV_NO_ACTION"),
    (0x0000_0004, "EV_SEPARATOR"),
    (0x0000_0005, "EV_ACTION"),
    (0x0000_0006, "EV_EVENT_TAG"),
    (0x0000_0007, "EV_S_CRTM_CONTENTS"),
    (0x0000_0008, "EV_S_CRTM_VERSION"),
    (0x0000_0009, "EV_CPU_MICROCODE"),
    (0x0000_000a, "EV_PLATFORM_CONFIG_FLAGS"),
    (0x0000_000b, "EV_TABLE_OF_DEVICES"),
    (0x0000_000c, "EV_COMPACT_HASH"),
    (0x0000_000d, "EV_IPL"),
    (0x0000_000e, "EV_IPL_PARTITION_DATA"),
    (0x0000_000f, "EV_NONHOST_CODE"),
    (0x0000_0010, "EV_NONHOST_CONFIG"),
    (0x0000_0011, "EV_NONHOST_INFO"),
    (0x0000_0012, "EV_OMIT_BOOT_DEVICE_EVENTS"),
    (0x0000_0013, "EV_POST_CODE2"),
    (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
    (0x8000_0002, "EV_EFI_VARIABLE_BOOT"),
    (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
    (0x8000_0006, "EV_EFI_GPT_EVENT"),
    (0x8000_0007, "EV_EFI_ACTION"),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
    (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, "EV_EFI_HANDOFF_TABLES2"),
    (0x8000_000c, "EV_EFI_VARIABLE_BOOT2"),
    (0x8000_0010, "EV_EFI_HCRTM_EVENT"),
    (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY"),
    (0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB"),
];

impl EventType {
    /// Nothing is extended.
    pub const NO_ACTION: EventType = EventType(3);
    /// The end of what the firmware measures into a register.
    pub const SEPARATOR: EventType = EventType(4);
    /// The EFI stub of a kernel tags what it measures.
    pub const EVENT_TAG: EventType = EventType(6);
    /// A boot loader's own.
    pub const IPL: EventType = EventType(0xd);
    /// An EFI application that was loaded: a boot loader, a kernel.
    pub const APPLICATION: EventType = EventType(0x8000_0003);
    /// What the firmware did, as text.
    pub const EFI_ACTION: EventType = EventType(0x8000_0007);

    /// Every type that has a name, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = EventType> {
        NAMES.iter().map(|(id, _)| EventType(*id))
    }

    /// The type with this name of the TCG, as [`EventType::name`] gives it.
    pub fn from_name(name: &str) -> Option<EventType> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| EventType(*id))
    }

    /// The TCG's name, if the type is a known one.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(id, _)| *id == self.0).map(|(_, name)| *name)
    }

    /// Whether what is measured is the event's data, all of it.
    pub fn is_of_data(self) -> bool {
        // Separator, action, CRTM version, EFI driver configuration, GPT, EFI action.
        matches!(self.0, 4 | 5 | 8 | 0x8000_0001 | 0x8000_0006 | 0x8000_0007)
    }
}

impl core::fmt::Display for EventType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

impl<'a> EventLog<'a> {
    /// The separators of a register.
    pub fn separators(&self, pcr: u32) -> impl Iterator<Item = &Event<'a>> {
        let is_one = move |event: &&Event| (event.pcr, event.kind) == (pcr, EventType::SEPARATOR);
        self.events().iter().filter(is_one)
    }

    /// Firmware registers whose separators do not say that all went well. PCR 0 to 7 have exactly one each.
    /// Of a trust domain's registers each may have several and RTMR 0 has one at least.
    ///
    /// PFP, 3.3.2.2: the data is four bytes of 0 or of 0xff; 1 indicates an error.
    pub fn without_separator(&self) -> Vec<u32> {
        let is_good = |pcr: &u32| {
            let count = self.separators(*pcr).count();
            let is_regular = |event: &Event| super::known::SEPARATORS.contains(&event.data);
            let is_count = match self.set() {
                RegisterSet::Pcr => count == 1,
                RegisterSet::Rtmr => count > 0 || *pcr != 0,
            };
            is_count && self.separators(*pcr).all(is_regular)
        };
        (0..self.set().firmware() as u32)
            .filter(|pcr| !is_good(pcr))
            .collect()
    }
}

impl Event<'_> {
    /// Whether the digest in `bank` is that of the data, for types where it must be; `None` for others and
    /// without a digest.
    pub fn data_is_measured(&self, bank: Bank) -> Option<bool> {
        let digest = self.digest(bank).filter(|_| self.kind.is_of_data())?;
        Some(bank.hash(&[self.data]) == *digest)
    }

    /// What the event is about, for people: an EFI file's path, a variable's name, text. Empty where it has
    /// none; nothing but the digest vouches for it.
    pub fn label(&self) -> String {
        match self.kind.0 {
            0x8000_0003..=0x8000_0005 => image_path(self.data),
            0x8000_0001 | 0x8000_0002 | 0x8000_000c | 0x8000_00e0 => variable_name(self.data),
            6 => text(self.data.get(8..).unwrap_or_default()),
            5 | 8 | 0xd | 0x8000_0007 => text(self.data),
            _ => String::new(),
        }
    }
}

/// ASCII, or UTF-16LE where every second byte is zero.
fn text(bytes: &[u8]) -> String {
    let is_wide =
        bytes.len() >= 4 && bytes.len().is_multiple_of(2) && bytes.iter().skip(1).step_by(2).all(|b| *b == 0);
    let text = if is_wide {
        wide(bytes)
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    };
    text.trim_end_matches('\0').to_owned()
}

pub(super) fn wide(bytes: &[u8]) -> String {
    let units = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// UEFI_VARIABLE_DATA: GUID, two lengths of 64 bits, the name in UTF-16LE. PFP, 10.2.6.
fn variable_name(data: &[u8]) -> String {
    let name = || {
        let units = usize::try_from(u64_at(data, 16)?).ok()?;
        data.get(32..)?.get(..units.checked_mul(2)?)
    };
    name().map(wide).unwrap_or_default()
}

/// UEFI_IMAGE_LOAD_EVENT: address, length, link address, length of the device path, device path. PFP, 10.2.3.
/// The path's nodes are type, subtype and length; media (4) file paths (4) hold UTF-16LE. UEFI 2.10, section
/// 10.3.
fn image_path(data: &[u8]) -> String {
    let mut nodes = data.get(32..).unwrap_or_default();
    let mut path = String::new();
    while let [kind, sub, low, high, ..] = nodes {
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        let Some(node) = nodes.get(4..len) else { break };
        if (*kind, *sub) == (4, 4) {
            path.push_str(wide(node).trim_end_matches('\0'));
        }
        nodes = nodes.get(len..).unwrap_or_default();
    }
    path
}
