//! The log of the register that checkpoints extend: TCG_PCR_EVENT2 after TCG_PCR_EVENT2, as the firmware's
//! log and CoCo's attestation agent write them, without a Spec ID before them.
//!
//! Each event has one digest, SHA-384. Registers count as in the CCEL: MRTD is 0, RTMR 0 is 1. A checkpoint's
//! event is an EV_EVENT_TAG of our own tag whose text is `ima-cgpath checkpoint N` and whose digest is that
//! of the checkpoint's file, not of the text. Not here: who else may extend the register (see
//! `cgpath-policy`).
//!
//! Source: TCG PC Client Platform Firmware Profile, sections 10.2.2 and 10.4; UEFI 2.11, section 38.4.1.

use super::{REGISTER_LEN, Register, extend};
use crate::boot::EventType;
use crate::byte_reader::ByteReader;
use crate::{Bank, Error, Result};

/// A log is never longer than this many bytes.
pub const MAX_LEN: usize = 64 * 1024 * 1024;
/// The data of an event is never longer.
pub const MAX_DATA_LEN: usize = 64 * 1024;

/// `taggedEventID` of a checkpoint's event.
pub const TAG: u32 = u32::from_be_bytes(*b"cgpa");
/// What its text begins with; the decimal number follows.
const TEXT: &str = "ima-cgpath checkpoint ";
/// In the log RTMR 0 is register 1.
const FIRST_RTMR: u32 = 1;

/// One extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Where it begins, in bytes from the start of the log.
    pub offset: u64,
    /// Which RTMR, from 0.
    pub rtmr: u8,
    /// What it was extended with.
    pub digest: Register,
    /// TCG_EVENTTYPE.
    pub kind: EventType,
    /// The event's data. Nothing but [`Extension::digest`] vouches for it, and not always that.
    pub data: &'a [u8],
    /// Where the next one begins.
    pub end: u64,
}

impl Extension<'_> {
    /// The register as logs count it: RTMR 0 is 1.
    pub fn index(&self) -> u32 {
        u32::from(self.rtmr) + FIRST_RTMR
    }

    /// The number of the checkpoint, if that is what the event says.
    pub fn checkpoint(&self) -> Option<u64> {
        let (tag, rest) = self.data.split_first_chunk()?;
        let (len, text) = rest.split_first_chunk()?;
        let is_ours = self.kind == EventType::EVENT_TAG
            && u32::from_le_bytes(*tag) == TAG
            && u32::from_le_bytes(*len) as usize == text.len();
        let digits = core::str::from_utf8(text).ok()?.strip_prefix(TEXT)?;
        let number: u64 = digits.parse().ok().filter(|_| is_ours)?;
        // One number has one text.
        (number.to_string() == digits).then_some(number)
    }
}

/// Appends the event of a checkpoint, whose digest is [`super::checkpoint_digest`].
pub fn append_checkpoint(log: &mut Vec<u8>, rtmr: u8, number: u64, digest: &Register) {
    let text = format!("{TEXT}{number}");
    let data = [&TAG.to_le_bytes(), &len(text.as_bytes()), text.as_bytes()].concat();
    append(log, rtmr, EventType::EVENT_TAG, digest, &data);
}

/// Appends any event.
pub fn append(log: &mut Vec<u8>, rtmr: u8, kind: EventType, digest: &Register, data: &[u8]) {
    log.extend((u32::from(rtmr) + FIRST_RTMR).to_le_bytes());
    log.extend(kind.0.to_le_bytes());
    log.extend(1_u32.to_le_bytes());
    log.extend(Bank::Sha384.tpm_alg().to_le_bytes());
    log.extend(digest);
    log.extend(len(data));
    log.extend(data);
}

/// A length as the format has it. What is appended is shorter than [`MAX_DATA_LEN`].
fn len(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// Reads a log, one extension after the other; after an error comes nothing more.
#[derive(Debug, Clone)]
pub struct Extensions<'a>(ByteReader<'a>);

/// Reads a whole log.
///
/// # Errors
/// [`Error::Limit`]; each item has its own.
pub fn read(bytes: &[u8]) -> Result<Extensions<'_>> {
    if bytes.len() > MAX_LEN {
        return Err(Error::Limit {
            offset: 0,
            what: "the register's log",
            found: bytes.len() as u64,
            limit: MAX_LEN as u64,
        });
    }
    Ok(Extensions(ByteReader::new(bytes, 0)))
}

impl<'a> Extensions<'a> {
    fn one(&mut self) -> Result<Extension<'a>> {
        let r = &mut self.0;
        let offset = r.at() as u64;
        let register = r.u32("an extension's register")?;
        let rtmr = register
            .checked_sub(FIRST_RTMR)
            .filter(|rtmr| (*rtmr as usize) < super::RTMRS)
            .ok_or_else(|| {
                Error::malformed(
                    offset,
                    format!("an extension of register {register}, where 1 to 4 are RTMR 0 to 3"),
                )
            })?;
        let kind = EventType(r.u32("an extension's type")?);
        if kind == EventType::NO_ACTION {
            return Err(Error::malformed(offset, "an event that extends nothing"));
        }
        let at = r.at() as u64;
        let count = r.u32("number of an extension's digests")?;
        let algorithm = r.u16("a digest's hash algorithm")?;
        if (count, algorithm) != (1, Bank::Sha384.tpm_alg()) {
            return Err(Error::malformed(
                at,
                format!(
                    "{count} digest(s), the first of algorithm {algorithm:#06x}: an extension has one of \
                     SHA-384"
                ),
            ));
        }
        let digest = r.array::<REGISTER_LEN>("an extension's digest")?;
        let len = r.count("size of an extension's data", MAX_DATA_LEN)?;
        let data = r.take(len, "an extension's data")?;
        Ok(Extension {
            offset,
            // Below RTMRS: fits.
            rtmr: rtmr as u8,
            digest,
            kind,
            data,
            end: r.at() as u64,
        })
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.rest().is_empty() {
            return None;
        }
        let next = self.one();
        if next.is_err() {
            self.0.finish();
        }
        Some(next)
    }
}

/// The value of `rtmr` after this log, from `origin`.
///
/// # Errors
/// Of the first event that cannot be read.
pub fn replay(log: &[u8], rtmr: u8, origin: &Register) -> Result<Register> {
    read(log)?.try_fold(*origin, |value, extension| {
        let extension = extension?;
        Ok(if extension.rtmr == rtmr {
            extend(&value, &extension.digest)
        } else {
            value
        })
    })
}

/// The log as far as the extension of checkpoint `number`, in bytes; `None` where it is not in it.
///
/// # Errors
/// Of the first event that cannot be read.
pub fn end_of(log: &[u8], number: u64) -> Result<Option<usize>> {
    for extension in read(log)? {
        let extension = extension?;
        if extension.checkpoint() == Some(number) {
            // Within the log: fits.
            return Ok(usize::try_from(extension.end).ok());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
    use super::*;
    use crate::td::checkpoint_digest;

    /// What CoCo's attestation agent writes into its log (`eventlog/tcg2.rs` of guest-components).
    fn agents(rtmr: u8) -> Vec<u8> {
        let text = b"domain operation content";
        let data = [&0x4141_454c_u32.to_le_bytes(), &len(text), &text[..]].concat();
        let mut log = Vec::new();
        append(&mut log, rtmr, EventType::EVENT_TAG, &[7; 48], &data);
        log
    }

    fn log() -> Vec<u8> {
        let mut log = Vec::new();
        append_checkpoint(&mut log, 3, 0, &checkpoint_digest(b"file 0"));
        log.extend(agents(3));
        append(&mut log, 2, EventType::IPL, &[9; 48], b"another register");
        append_checkpoint(&mut log, 3, 1, &checkpoint_digest(b"file 1"));
        log
    }

    #[test]
    fn a_log_says_which_checkpoints_extended_the_register_and_replays_past_other_registers() {
        let log = log();
        let all: Vec<_> = read(&log).unwrap().collect::<Result<_>>().unwrap();
        let numbers: Vec<_> = all.iter().map(|e| (e.rtmr, e.checkpoint())).collect();
        assert_eq!(numbers, [(3, Some(0)), (3, None), (2, None), (3, Some(1))]);
        let origin = [1; 48];
        let digests = [
            checkpoint_digest(b"file 0"),
            [7; 48],
            checkpoint_digest(b"file 1"),
        ];
        let expected = digests
            .iter()
            .fold(origin, |value, digest| extend(&value, digest));
        assert_eq!(replay(&log, 3, &origin), Ok(expected));
        assert_eq!(replay(&log, 0, &origin), Ok(origin));
        assert_eq!(
            end_of(&log, 0).unwrap().unwrap(),
            all[1].offset as usize,
            "the log as far as checkpoint 0"
        );
        assert_eq!(end_of(&log, 1).unwrap(), Some(log.len()));
        assert_eq!(end_of(&log, 2).unwrap(), None);
    }

    #[test]
    fn a_log_that_is_cut_or_of_another_form_is_an_error_with_its_place() {
        let log = log();
        let ends: Vec<usize> = read(&log).unwrap().map(|e| e.unwrap().end as usize).collect();
        for cut in 1..log.len() {
            let whole = read(&log[..cut]).unwrap().all(|e| e.is_ok());
            assert_eq!(whole, ends.contains(&cut), "{cut}");
        }
        // Registers 0 (MRTD) and 5; an event that extends nothing; two digests; SHA-256; data without end.
        for (at, byte) in [(0, 0), (0, 5), (4, 3), (8, 2), (12, 0x0b), (64, 1)] {
            let mut other = log.clone();
            other[at] = byte;
            let first = read(&other).unwrap().next().unwrap();
            assert!(first.is_err(), "{at}: {first:?}");
            let mut all = read(&other).unwrap();
            assert!(all.next().is_some() && all.next().is_none());
        }
    }

    #[test]
    fn only_the_one_text_of_a_number_names_a_checkpoint() {
        for text in ["", "0x1", "01", "+1", " 1", "1 ", "18446744073709551616", "-1"] {
            let text = format!("{TEXT}{text}");
            let data = [&TAG.to_le_bytes(), &len(text.as_bytes()), text.as_bytes()].concat();
            let mut log = Vec::new();
            append(&mut log, 3, EventType::EVENT_TAG, &[0; 48], &data);
            let event = read(&log).unwrap().next().unwrap().unwrap();
            assert_eq!(event.checkpoint(), None, "{text}");
        }
        let mut log = Vec::new();
        append_checkpoint(&mut log, 3, u64::MAX, &[0; 48]);
        let event = read(&log).unwrap().next().unwrap().unwrap();
        assert_eq!(event.checkpoint(), Some(u64::MAX));
        // The same data under another type.
        let mut log = Vec::new();
        append(&mut log, 3, EventType::IPL, &[0; 48], event.data);
        assert_eq!(read(&log).unwrap().next().unwrap().unwrap().checkpoint(), None);
    }
}
