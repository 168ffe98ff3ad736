//! Kernel command lines: who measures one, and over which bytes its digest is.
//!
//! Promise: a line is the measured one only if the digest says so; what the event says of itself is a hint.
//! Not here: which lines are accepted (see `cgpath-policy`).
//!
//! Source: the kernel's drivers/firmware/efi/libstub/efi-stub-helper.c, `efi_convert_cmdline` and
//! `efi_measure_tagged_event`; GRUB's grub-core/commands/tpm.c, `grub_tpm_verify_string`,
//! grub-core/loader/efi/linux.c, and patch 0224 "Rework TPM measurements" of Fedora's and RHEL 8's GRUB 2.02;
//! systemd's src/boot/efi/measure.c, `tpm_log_load_options`, up to version 250.

use super::{Event, EventLog, EventType, RegisterSet, event};
use crate::{Bank, Digest};

/// A tag of the kernel's EFI stub (LOAD_OPTIONS_EVENT_TAG_ID).
const LOAD_OPTIONS_TAG: u32 = 0x8f3b_22ed;
/// What GRUB writes before the command line that it measures: today's, and that of GRUB 2.02 with Fedora's
/// patches.
const GRUB_PREFIXES: [&[u8]; 2] = [b"kernel_cmdline: ", b"grub_kernel_cmdline "];
/// What GRUB puts before the kernel's path where it hands the line over, and does not measure with it.
pub const BOOT_IMAGE: &str = "BOOT_IMAGE=";

/// Over which form of a line the digest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hashed {
    /// UTF-16LE, with or without a NUL at its end: what a loader hands to the kernel's EFI stub (GRUB 2.12
    /// counts no NUL, systemd-stub does). The kernel reads up to the first NUL or newline, whatever the
    /// loader counted.
    Wide,
    /// The bytes themselves, without the `BOOT_IMAGE=` before them.
    Bytes,
}

impl Hashed {
    /// The digests that `text`, a line as `/proc/cmdline` shows it, can have.
    pub fn digests(self, text: &str, bank: Bank) -> impl Iterator<Item = Digest> {
        let forms = match self {
            Hashed::Wide => {
                let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                let ends: [&[u8]; 4] = [&[], &[0, 0], b"\n\0", b"\n\0\0\0"];
                ends.map(|end| [&units, end].concat()).to_vec()
            }
            Hashed::Bytes => {
                let rest = text.strip_prefix(BOOT_IMAGE);
                let texts = core::iter::once(text).chain(rest);
                texts.map(|text| text.as_bytes().to_vec()).collect()
            }
        };
        forms.into_iter().map(move |form| bank.hash(&[&form]))
    }
}

/// An event that says that it is a kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine<'a> {
    event: &'a Event<'a>,
    hashed: Hashed,
    text: Option<String>,
}

impl<'a> CommandLine<'a> {
    fn of(event: &'a Event<'a>) -> Option<CommandLine<'a>> {
        let line = |hashed, text| Some(CommandLine { event, hashed, text });
        let is_there = u8::try_from(event.pcr).is_ok_and(|n| event.set.command_lines().contains(&n));
        match (is_there, event.kind) {
            // The event names itself and does not hold the text.
            (true, EventType::EVENT_TAG) => {
                let tag = event.data.first_chunk().copied().map(u32::from_le_bytes);
                (tag == Some(LOAD_OPTIONS_TAG)).then(|| line(Hashed::Wide, None))?
            }
            (true, EventType::IPL) => {
                let prefix = |prefix: &&[u8]| event.data.strip_prefix(*prefix);
                if let Some(text) = GRUB_PREFIXES.iter().find_map(prefix) {
                    let text = text.strip_suffix(b"\0").unwrap_or(text);
                    return line(Hashed::Bytes, String::from_utf8(text.to_vec()).ok());
                }
                // systemd-boot and systemd-stub up to 250 have no prefix: all that they measured into PCR 8
                // is the line. Of a trust domain's RTMR 2 that is not so.
                let is_theirs = (event.set, event.pcr) == (RegisterSet::Pcr, 8);
                let text = event.data.strip_suffix(&[0, 0]).filter(|_| is_theirs)?;
                let is_wide = |text: &&[u8]| !text.is_empty() && text.len().is_multiple_of(2);
                let text = event::wide(Some(text).filter(is_wide)?);
                let is_text = |text: &String| {
                    !text
                        .chars()
                        .any(|c| c == '\0' || c == char::REPLACEMENT_CHARACTER)
                };
                let is_measured = |digest: &Digest| digest.bank().hash(&[event.data]) == *digest;
                let text = Some(text).filter(is_text)?;
                event
                    .digests
                    .iter()
                    .any(is_measured)
                    .then(|| line(Hashed::Wide, Some(text)))?
            }
            _ => None,
        }
    }

    /// The event.
    pub fn event(&self) -> &'a Event<'a> {
        self.event
    }

    /// Over which form of the line the digest is.
    pub fn hashed(&self) -> Hashed {
        self.hashed
    }

    /// What the event says that the line is; [`CommandLine::is`] tells whether that is true.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Whether `text` is what was measured.
    pub fn is(&self, text: &str, bank: Bank) -> bool {
        let Some(measured) = self.event.digest(bank) else {
            return false;
        };
        self.hashed.digests(text, bank).any(|digest| digest == *measured)
    }
}

impl EventLog<'_> {
    /// The events that say that they are a kernel's command line, in PCR 8 or 9 or in RTMR 2, in their order.
    pub fn command_lines(&self) -> impl Iterator<Item = CommandLine<'_>> {
        self.events().iter().filter_map(CommandLine::of)
    }
}
