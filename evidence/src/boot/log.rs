//! The event log in the crypto-agile format, as `binary_bios_measurements` and the CCEL table have it,
//! little-endian.
//!
//! A first event in the old SHA-1 form holds the Spec ID: which hash algorithms follow, each with the length
//! of its digests. All other events carry one digest for each of some of these.
//!
//! Source: TCG PC Client Platform Firmware Profile, sections 10.2.1 (TCG_PCClientPCREvent), 10.2.2
//! (TCG_PCR_EVENT2) and 10.4.5.1 (TCG_EfiSpecIdEvent); the kernel's drivers/char/tpm/eventlog/tpm2.c.

use super::event::EventType;
use super::{RTMRS, RegisterSet};
use crate::byte_reader::{ByteReader, malformed};
use crate::{Bank, Digest, Error, Result};

/// A log is never longer than this many bytes.
pub const MAX_LOG_LEN: usize = 16 * 1024 * 1024;
/// It never has more events than this.
pub const MAX_EVENTS: usize = 65_536;
/// The Spec ID never names more algorithms than this (HASH_COUNT in tpm2-tss).
pub const MAX_ALGORITHMS: usize = 16;

/// Register, type, number of digests and size of the data: no event is shorter.
const MIN_EVENT_LEN: usize = 16;
/// The highest register that a PC's TPM has.
const MAX_PCR: u32 = 23;
/// Errors show at most this many bytes of a locality.
const MAX_SHOWN: usize = 8;
/// An event that belongs to no register, and extends none.
const NO_PCR: u32 = u32::MAX;
/// Before the Spec ID of a trust domain's log come at most so many events that extend nothing.
const MAX_BEFORE_SPEC_ID: usize = 16;
/// In a trust domain's log RTMR 0 is register 1.
const FIRST_RTMR: u32 = 1;
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
/// What to do about a log of a TPM without a Spec ID event.
const NO_SPEC_ID: &str = ": it has the SHA-1 form of TPM 1.2, or is none. Choose TPM 2.0 and the \
                          crypto-agile (TCG 2) event log in the firmware's setup";
/// What to do about a log without a startup locality that is one.
const NO_FIRST_VALUE: &str = "Firmware that writes another one leaves no value from which PCR 0 can be \
                              replayed; look for an update of it";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Where it begins, in bytes from the start of the log.
    pub offset: u64,
    /// Whose registers [`Event::pcr`] counts.
    pub set: RegisterSet,
    /// The register that it extends, unless it is [`EventType::NO_ACTION`]: a PCR, or an RTMR. One that is
    /// none of the set's, as [`u32::MAX`] is, is extended by nothing.
    pub pcr: u32,
    /// What it is.
    pub kind: EventType,
    /// Digests in the banks that this crate computes, in the log's order, each bank once.
    pub digests: Vec<Digest>,
    /// What the event says of itself. What vouches for it depends on the type: see
    /// [`Event::data_is_measured`].
    pub data: &'a [u8],
}

impl Event<'_> {
    /// The digest that was extended in this bank.
    pub fn digest(&self, bank: Bank) -> Option<&Digest> {
        self.digests.iter().find(|digest| digest.bank() == bank)
    }
}

/// A log that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    set: RegisterSet,
    banks: Vec<Bank>,
    events: Vec<Event<'a>>,
    locality: u8,
    len: usize,
}

/// An algorithm of the Spec ID.
struct Algorithm {
    id: u16,
    len: usize,
}

/// The first event: TCG_PCClientPCREvent with TCG_EfiSpecIdEvent. In a trust domain's log other events of
/// this form may come before it, which extend nothing.
fn spec_id(r: &mut ByteReader, set: RegisterSet) -> Result<Vec<Algorithm>> {
    let mut before = 0;
    loop {
        let offset = r.at();
        let (pcr, kind) = (
            r.u32("the first event's register")?,
            r.u32("the first event's type")?,
        );
        let digest = r.take(20, "the first event's SHA-1 digest")?;
        let len = r.count("size of the first event", MAX_LOG_LEN)?;
        let mut data = r.part(len, "the first event")?;
        let is_nothing = kind == EventType::NO_ACTION.0 && digest.iter().all(|b| *b == 0);
        let is_other = is_nothing && !data.rest().starts_with(SPEC_ID);
        if set == RegisterSet::Rtmr && is_other && before < MAX_BEFORE_SPEC_ID {
            before += 1;
            continue;
        }
        // It extends nothing. Its register is 0, and 1 in the logs of confidential guests, which count theirs
        // from 1. A log of TPM 1.2 begins with any event, of any length.
        if pcr > 1 || !is_nothing || is_other {
            let advice = match set {
                RegisterSet::Rtmr => "",
                RegisterSet::Pcr => NO_SPEC_ID,
            };
            return malformed(
                offset,
                format!("the log does not begin with a Spec ID event of version 03{advice}"),
            );
        }
        data.take(SPEC_ID.len(), "the Spec ID's signature")?;
        return algorithms(data);
    }
}

/// What follows the Spec ID's signature, to the end of its event.
fn algorithms(mut data: ByteReader) -> Result<Vec<Algorithm>> {
    // Platform class, version minor and major, errata, size of UINTN.
    data.take(8, "the Spec ID's version")?;
    let at = data.at();
    let count = data.count("number of hash algorithms", MAX_ALGORITHMS)?;
    if count == 0 {
        return malformed(at, "the Spec ID names no hash algorithm");
    }
    let mut algorithms: Vec<Algorithm> = Vec::with_capacity(count);
    for _ in 0..count {
        let at = data.at();
        let id = data.u16("a hash algorithm")?;
        let len = usize::from(data.u16("length of an algorithm's digests")?);
        if algorithms.iter().any(|known| known.id == id) {
            return malformed(
                at,
                format!("the hash algorithm {id:#06x} stands twice in the Spec ID"),
            );
        }
        if len == 0 || len > Bank::MAX_LEN || Bank::from_tpm_alg(id).is_some_and(|bank| bank.len() != len) {
            return malformed(
                at,
                format!("digests of {len} bytes for the hash algorithm {id:#06x}"),
            );
        }
        algorithms.push(Algorithm { id, len });
    }
    let vendor = usize::from(data.array::<1>("the Spec ID's vendor information")?[0]);
    data.take(vendor, "the Spec ID's vendor information")?;
    if !data.rest().is_empty() {
        return malformed(data.at(), "bytes follow the Spec ID in its event");
    }
    Ok(algorithms)
}

/// A TCG_PCR_EVENT2.
fn event<'a>(r: &mut ByteReader<'a>, algorithms: &[Algorithm], set: RegisterSet) -> Result<Event<'a>> {
    let offset = r.at();
    let register = r.u32("an event's register")?;
    let kind = EventType(r.u32("an event's type")?);
    let pcr = match set {
        RegisterSet::Pcr if register > MAX_PCR && (register, kind) != (NO_PCR, EventType::NO_ACTION) => {
            return malformed(
                offset,
                format!("an event extends PCR {register}, there are 0 to {MAX_PCR}"),
            );
        }
        RegisterSet::Pcr => register,
        // There are clouds whose logs have events of register -1 and beyond the last one: they extend none.
        RegisterSet::Rtmr => register
            .checked_sub(FIRST_RTMR)
            .filter(|rtmr| (*rtmr as usize) < RTMRS)
            .unwrap_or(NO_PCR),
    };
    let count = r.count("number of an event's digests", algorithms.len())?;
    let mut seen: Vec<u16> = Vec::with_capacity(count);
    let mut digests = Vec::with_capacity(count);
    for _ in 0..count {
        let at = r.at();
        let id = r.u16("a digest's hash algorithm")?;
        let Some(algorithm) = algorithms.iter().find(|known| known.id == id) else {
            return malformed(
                at,
                format!("the hash algorithm {id:#06x} is not in the log's Spec ID"),
            );
        };
        if seen.contains(&id) {
            return malformed(
                at,
                format!("two digests of the hash algorithm {id:#06x} in one event"),
            );
        }
        seen.push(id);
        let bytes = r.take(algorithm.len, "a digest")?;
        digests.extend(Bank::from_tpm_alg(id).and_then(|bank| Digest::new(bank, bytes)));
    }
    let len = r.count("size of an event", MAX_LOG_LEN)?;
    let data = r.take(len, "an event's data")?;
    Ok(Event {
        offset: offset as u64,
        set,
        pcr,
        kind,
        digests,
        data,
    })
}

/// The locality that started the TPM, which is PCR 0's first value.
fn startup_locality(event: &Event) -> Option<Result<u8>> {
    let given = event.data.strip_prefix(STARTUP_LOCALITY.as_slice())?;
    if event.kind != EventType::NO_ACTION || event.set != RegisterSet::Pcr {
        return None;
    }
    Some(match given {
        // 10.4.5.3: the values that a TPM can be started with; 4 by a hardware root of trust.
        [locality @ (0 | 3 | 4)] if event.pcr == 0 => Ok(*locality),
        _ => malformed(
            event.offset as usize,
            format!(
                "a startup locality of {} bytes ({}) for PCR {}: it is one byte of 0, 3 or 4 for PCR 0, and \
                 not padded. {NO_FIRST_VALUE}",
                given.len(),
                hex::encode(given.get(..MAX_SHOWN.min(given.len())).unwrap_or_default()),
                event.pcr
            ),
        ),
    })
}

impl<'a> EventLog<'a> {
    /// Reads a whole log of a TPM's registers. A rest of nothing but 0xff, or of 16 zeros and more, is what
    /// firmware leaves of the memory for it, and ends it.
    ///
    /// # Errors
    /// [`Error::Incomplete`], [`Error::Malformed`] or [`Error::Limit`] with the offset.
    pub fn parse(bytes: &'a [u8]) -> Result<EventLog<'a>> {
        EventLog::of(bytes, RegisterSet::Pcr)
    }

    /// The same of a trust domain's registers: the CCEL. Registers are those of the log less one, so that
    /// they count RTMR; an event of any other register extends none.
    ///
    /// # Errors
    /// Those of [`EventLog::parse`].
    pub fn parse_ccel(bytes: &'a [u8]) -> Result<EventLog<'a>> {
        EventLog::of(bytes, RegisterSet::Rtmr)
    }

    fn of(bytes: &'a [u8], set: RegisterSet) -> Result<EventLog<'a>> {
        if bytes.len() > MAX_LOG_LEN {
            return Err(Error::Limit {
                offset: 0,
                what: "the boot log",
                found: bytes.len() as u64,
                limit: MAX_LOG_LEN as u64,
            });
        }
        let mut r = ByteReader::new(bytes, 0);
        let algorithms = spec_id(&mut r, set)?;
        // Where the unused rest begins, at the earliest. An event may well end in such bytes: they are its
        // own then.
        let used = |fill: u8| bytes.iter().rposition(|b| *b != fill).map_or(0, |last| last + 1);
        let end = used(0).min(used(0xff));
        let mut log = EventLog {
            set,
            banks: algorithms
                .iter()
                .filter_map(|a| Bank::from_tpm_alg(a.id))
                .collect(),
            events: Vec::new(),
            locality: 0,
            len: 0,
        };
        let (mut is_started, mut has_locality) = (false, false);
        while r.at() < end {
            if log.events.len() == MAX_EVENTS {
                return Err(Error::Limit {
                    offset: r.at() as u64,
                    what: "number of events",
                    found: MAX_EVENTS as u64 + 1,
                    limit: MAX_EVENTS as u64,
                });
            }
            let event = event(&mut r, &algorithms, set)?;
            if let Some(locality) = startup_locality(&event) {
                if is_started || has_locality {
                    return malformed(
                        event.offset as usize,
                        format!(
                            "a startup locality behind {}: it stands once, before all events of PCR 0. \
                             {NO_FIRST_VALUE}",
                            if has_locality {
                                "another one"
                            } else {
                                "an event of PCR 0"
                            }
                        ),
                    );
                }
                (log.locality, has_locality) = (locality?, true);
            }
            is_started |= event.pcr == 0 && event.kind != EventType::NO_ACTION;
            log.events.push(event);
        }
        // An event of PCR 0 begins with zeros: a log that is cut there is cut. With 0xff begins none but one
        // of no register and type 3, which extends nothing: where that is what was cut, nothing is missing.
        let rest = r.rest();
        if (1..MIN_EVENT_LEN).contains(&rest.len()) && rest.iter().any(|b| *b != 0xff) {
            return Err(Error::Incomplete {
                offset: r.at() as u64,
                need: (MIN_EVENT_LEN - rest.len()) as u64,
                what: "an event",
            });
        }
        log.len = r.at();
        Ok(log)
    }

    /// Whose registers it is about.
    pub fn set(&self) -> RegisterSet {
        self.set
    }

    /// The banks of the Spec ID that this crate computes.
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// The events behind the Spec ID, in their order.
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// Bytes up to the end of the last event: what is behind them is unused room.
    pub fn used(&self) -> usize {
        self.len
    }

    /// The locality that started the TPM: 0, 3 or 4.
    pub fn startup_locality(&self) -> u8 {
        self.locality
    }
}
