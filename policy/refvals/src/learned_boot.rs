//! Reference values of the boot from evidence of a good one, as the `boot:` of a node's policy.
//!
//! Promises: what is written is read back by [`cgpath_policy::NodePolicy`], and accepts this boot, whatever
//! its log holds; what is not named on its own is said in [`Learned::remarks`]. Values are learned: an
//! operator who writes them down trusts the boot that they come from. Not here: whether a quote vouches for
//! them (the caller's).

use cgpath_evidence::text::{escape, foreign};
use cgpath_evidence::{
    Bank, Digest, Error,
    boot::{
        BOOT_IMAGE, BOOT_RTMRS, Boot, CommandLine, Event, EventLog, EventType, Hashed, RegisterSet,
        ReplayError,
    },
};
use cgpath_policy::{BootEvent, BootPolicy, FirmwareDeviation};
use cgpath_policy::{MAX_COMMAND_LINE, MAX_NAME};
use cgpath_policy::{MAX_ITEMS, MAX_POLICY_LEN};
use std::collections::{BTreeMap, BTreeSet};

/// Why a boot gives no reference values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// No log came along.
    #[error("the evidence holds no boot log: the node's kernel shows no binary_bios_measurements")]
    NoLog,
    /// The log cannot be read.
    #[error(
        "the boot log cannot be read: {0}; without one, only `dangerous-boot-not-judged: true` in place of \
         `boot` is left"
    )]
    Log(#[from] Error),
    /// It gives no registers in a bank.
    #[error("{0}")]
    Replay(#[from] ReplayError),
    /// The log is not that of the registers.
    #[error("the boot log replays to {replayed} for {set} {pcr}, which is {quoted}")]
    Differs {
        /// Whose register it is.
        set: RegisterSet,
        /// The register.
        pcr: usize,
        /// By the log.
        replayed: Box<Digest>,
        /// As it was quoted.
        quoted: Box<Digest>,
    },
    /// More values than a policy may have.
    #[error(
        "the boot log has {events} events, whose values are more than a policy can hold: pin the registers \
         alone (`boot.registers`)"
    )]
    TooLong {
        /// Events in the log.
        events: usize,
    },
}

/// What a boot teaches.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// The values.
    pub values: BootPolicy,
    /// What was not understood, what a register's value alone binds, and what the firmware does otherwise
    /// than its profile says: a sentence each, for people.
    pub remarks: Vec<String>,
}

impl Learned {
    /// The `boot:` of a node's policy, remarks as comments in it.
    pub fn yaml(&self) -> String {
        self.values.to_yaml(&self.remarks)
    }
}

/// Of events that are not understood, a remark names this many.
const MAX_SHOWN: usize = 8;

/// What was escaped, and is escaped once more where it is shown: a backslash stays one, and all else is safe
/// already.
fn once(escaped: &str) -> String {
    escaped.replace("\\\\", "\\")
}

/// An event as remarks call it.
fn place(event: &Event) -> String {
    let label = event.label();
    let label = if label.is_empty() {
        String::new()
    } else {
        format!(" \"{}\"", once(&foreign(&label)))
    };
    format!(
        "{}{label} in {} {}, byte {} of the log",
        event.kind, event.set, event.pcr, event.offset
    )
}

/// A name as a policy takes it.
fn name_of(event: &Event, otherwise: impl FnOnce() -> String) -> String {
    policy_name(&event.label()).unwrap_or_else(otherwise)
}

/// A text as the name of a policy's item: without control characters, cut where it is too long. `None` for
/// nothing.
pub(super) fn policy_name(text: &str) -> Option<String> {
    let name: String = once(&escape(text.as_bytes()))
        .char_indices()
        .take_while(|(at, c)| at + c.len_utf8() <= MAX_NAME)
        .map(|(_, c)| c)
        .collect();
    Some(name).filter(|name| !name.is_empty())
}

/// Whether a policy can hold it as text. Other lines are named by their digest.
fn can_be_written(text: &str) -> bool {
    let is_control = |c: char| c != '\t' && c.is_control();
    !text.is_empty() && text.len() <= MAX_COMMAND_LINE && !text.chars().any(is_control)
}

struct Log<'a> {
    log: &'a EventLog<'a>,
    set: RegisterSet,
    banks: Vec<Bank>,
    /// The registers of the boot in each of these banks.
    registers: Vec<Vec<Digest>>,
}

impl<'a> Log<'a> {
    /// What a register that is quoted was extended by.
    fn events(&self) -> impl Iterator<Item = &'a Event<'a>> {
        let count = self.set.count();
        let is_one = move |event: &&Event| (event.pcr as usize) < count && event.kind != EventType::NO_ACTION;
        self.log.events().iter().filter(is_one)
    }

    fn digests(&self, event: &Event) -> Vec<Digest> {
        let digests = self.banks.iter().filter_map(|bank| event.digest(*bank));
        digests.cloned().collect()
    }

    fn all(&self, mut is: impl FnMut(Bank) -> bool) -> bool {
        self.banks.iter().all(|bank| is(*bank))
    }

    /// The texts of command lines by the event's offset; `None` where none is known that was measured.
    fn lines(&self, command_line: Option<&str>) -> BTreeMap<u64, Option<String>> {
        let lines: Vec<CommandLine> = self.log.command_lines().collect();
        let said: BTreeSet<&str> = lines.iter().filter_map(CommandLine::text).collect();
        // GRUB measures the line, and hands it over with a word before it.
        let with_image: Vec<String> = said.iter().map(|text| format!("{BOOT_IMAGE}{text}")).collect();
        let known = said
            .into_iter()
            .chain(command_line)
            .chain(with_image.iter().map(String::as_str))
            .filter(|text| can_be_written(text));
        let mut by_digest = BTreeMap::new();
        let first = self.banks.first().copied();
        for (text, bank) in known.flat_map(|text| first.map(|bank| (text, bank))) {
            for hashed in [Hashed::Bytes, Hashed::Wide] {
                for digest in hashed.digests(text, bank) {
                    by_digest.entry((hashed, digest)).or_insert(text);
                }
            }
        }
        let text_of = |line: &CommandLine| {
            let is = |text: &&str| self.all(|bank| line.is(text, bank));
            let own = line.text().filter(|text| can_be_written(text)).filter(is);
            let other = || {
                let digest = line.event().digest(first?)?.clone();
                by_digest.get(&(line.hashed(), digest)).copied().filter(is)
            };
            own.or_else(other).map(str::to_owned)
        };
        lines
            .iter()
            .map(|line| (line.event().offset, text_of(line)))
            .collect()
    }

    fn deviations(&self, remarks: &mut Vec<String>) -> Vec<FirmwareDeviation> {
        let mut found = Vec::new();
        let irregular = self.log.without_separator();
        let set = self.set;
        for pcr in 0..set.firmware() as u8 {
            let separators: Vec<&Event> = self.log.separators(u32::from(pcr)).collect();
            let is_measured = |event: &&Event| self.all(|bank| event.data_is_measured(bank) == Some(true));
            if !irregular.contains(&u32::from(pcr)) && separators.iter().all(is_measured) {
                continue;
            }
            let digests: BTreeSet<Digest> = separators.iter().flat_map(|event| self.digests(event)).collect();
            let name = match separators.len() {
                0 => "no separator".to_owned(),
                1 => "a separator that is not a regular one".to_owned(),
                n => format!("{n} separators"),
            };
            remarks.push(format!(
                "{set} {pcr} has {name}, where the firmware profile has one of 0 or ffffffff: accepted as \
                 firmware-deviations"
            ));
            found.push(FirmwareDeviation {
                pcr,
                kind: EventType::SEPARATOR,
                name,
                count: Some(separators.len() as u32),
                digests: digests.into_iter().collect(),
            });
        }
        let mut seen = BTreeSet::new();
        for event in self.events().filter(|event| event.kind != EventType::SEPARATOR) {
            let digests = self.digests(event);
            let is_other = self
                .banks
                .iter()
                .any(|bank| event.data_is_measured(*bank) == Some(false));
            if !is_other || !seen.insert((event.pcr, event.kind, digests.clone())) {
                continue;
            }
            remarks.push(format!(
                "what {} says is not what was hashed: accepted by its digest as firmware-deviations, its \
                 text proves nothing",
                place(event)
            ));
            found.push(FirmwareDeviation {
                pcr: event.pcr as u8,
                kind: event.kind,
                name: name_of(event, || "data that is not what was hashed".into()),
                count: None,
                digests,
            });
        }
        found
    }
}

/// The `boot:` that accepts exactly this boot: its registers, command lines, the EFI applications that were
/// loaded, and what its firmware does otherwise than others.
///
/// # Errors
/// [`BootError`] if the log is missing, cannot be read, is not that of the stated registers, or is longer
/// than a policy.
pub fn from_boot(boot: &Boot) -> Result<Learned, BootError> {
    let log = EventLog::parse(boot.log.as_deref().ok_or(BootError::NoLog)?)?;
    let this = Log {
        log: &log,
        set: log.set(),
        banks: boot.registers.iter().map(|registers| registers.bank()).collect(),
        registers: boot
            .registers
            .iter()
            .map(|registers| registers.values().to_vec())
            .collect(),
    };
    this.learn(boot.command_line.as_deref())
}

/// The same of a trust domain, from RTMR 0 to 2 as they were before the collector began, its firmware's log
/// and what `/proc/cmdline` says.
///
/// # Errors
/// As [`from_boot`].
pub(crate) fn from_ccel(
    registers: [Digest; BOOT_RTMRS],
    log: &[u8],
    command_line: Option<&[u8]>,
) -> Result<Learned, BootError> {
    let log = EventLog::parse_ccel(log)?;
    let this = Log {
        log: &log,
        set: log.set(),
        banks: vec![Bank::Sha384],
        registers: vec![registers.to_vec()],
    };
    this.learn(command_line)
}

impl Log<'_> {
    /// The log leads to these registers.
    fn replays(&self) -> Result<(), BootError> {
        for (bank, registers) in self.banks.iter().zip(&self.registers) {
            let replayed = self.log.replay_all(*bank)?;
            let mut both = replayed.iter().zip(registers).enumerate();
            if let Some((pcr, (replayed, quoted))) = both.find(|(_, (replayed, quoted))| replayed != quoted) {
                return Err(BootError::Differs {
                    set: self.set,
                    pcr,
                    replayed: Box::new(replayed.clone()),
                    quoted: Box::new(quoted.clone()),
                });
            }
        }
        Ok(())
    }

    fn learn(&self, command_line: Option<&[u8]>) -> Result<Learned, BootError> {
        self.replays()?;
        let Log { log, set, .. } = self;
        let mut values = BootPolicy {
            set: *set,
            ..BootPolicy::default()
        };
        for pcr in 0..set.count() {
            let of_banks = self
                .registers
                .iter()
                .filter_map(|values| values.get(pcr).cloned());
            values.registers.insert(pcr as u8, of_banks.collect());
        }
        let too_long = BootError::TooLong {
            events: log.events().len(),
        };
        let mut remarks = Vec::new();
        let lines = self.lines(command_line.and_then(|command_line| core::str::from_utf8(command_line).ok()));
        // Of these registers and types each event is named.
        let mut groups = BTreeSet::from([(u32::from(set.applications()), EventType::APPLICATION)]);
        for event in self.events() {
            match lines.get(&event.offset) {
                Some(Some(_)) if values.command_lines.len() == MAX_ITEMS => return Err(too_long),
                Some(Some(text)) if !values.command_lines.contains(text) => {
                    values.command_lines.push(text.clone())
                }
                Some(None) => {
                    groups.insert((event.pcr, event.kind));
                    remarks.push(format!(
                    "{} is a kernel command line, and neither the log nor /proc/cmdline has a text that was \
                     hashed: accepted by its digest",
                    place(event)
                ));
                }
                _ => (),
            }
        }
        if lines.is_empty() {
            let is_there = |event: &&Event| set.command_lines().iter().any(|n| u32::from(*n) == event.pcr);
            let unknown: Vec<&Event> = self.events().filter(is_there).collect();
            let registers: Vec<String> = set.command_lines().iter().map(u8::to_string).collect();
            let registers = registers.join(" or ");
            let mut shown: Vec<String> = unknown.iter().take(MAX_SHOWN).map(|event| place(event)).collect();
            if let Some(more) = unknown.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
                shown.push(format!("{more} more"));
            }
            if shown.is_empty() {
                shown.push("nothing".to_owned());
            }
            remarks.push(format!(
                "no event of {set} {registers} is understood as a kernel command line: command-lines is left \
             out, and only these registers' values can bind one. They hold: {}",
                shown.join("; ")
            ));
        }
        let mut alone: BTreeMap<u32, BTreeMap<String, usize>> = BTreeMap::new();
        let mut applications = 0;
        for event in self.events() {
            if matches!(lines.get(&event.offset), Some(Some(_))) {
                continue;
            }
            if !groups.contains(&(event.pcr, event.kind)) {
                if !self.all(|bank| event.is_known(bank)) {
                    let kinds = alone.entry(event.pcr).or_default();
                    *kinds.entry(event.kind.to_string()).or_default() += 1;
                }
                continue;
            }
            applications += usize::from(event.kind == EventType::APPLICATION);
            let item = BootEvent {
                pcr: event.pcr as u8,
                kind: event.kind,
                name: name_of(event, || match event.kind {
                    EventType::APPLICATION => format!("EFI application {applications}, from memory"),
                    kind => format!("{kind} without text"),
                }),
                digests: self.digests(event),
                optional: false,
            };
            if !values.events.contains(&item) {
                values.events.push(item);
            }
            if values.events.len() > MAX_ITEMS {
                return Err(too_long);
            }
        }
        values.firmware_deviations = self.deviations(&mut remarks);
        for (pcr, kinds) in &alone {
            let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            remarks.push(format!(
                "only its value in registers binds these events of {set} {pcr}: {}",
                kinds.join(", ")
            ));
        }
        let learned = Learned { values, remarks };
        // Half of it is the rest's.
        if learned.values.firmware_deviations.len() > MAX_ITEMS || learned.yaml().len() > MAX_POLICY_LEN / 2 {
            return Err(too_long);
        }
        Ok(learned)
    }
}
