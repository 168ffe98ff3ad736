//! Reference values of the boot: registers, kernel command lines, measured events. Rule V10 compares them.
//!
//! Promises: at least one value is there, each of a form that can match; what a firmware does otherwise than its profile says
//! is accepted only in a register that is pinned as a whole, and never for an event whose text a rule reads. Not here: how
//! the log is read (see `cgpath_evidence::boot`), whether a quote vouches for it (see `cgpath-appraisal`).

use crate::form::{bounded, digests_schema, each, name, some};
use cgpath_evidence::text::quoted;
use cgpath_evidence::{
    Digest,
    boot::{EventType, RegisterSet},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;

/// A command line is never longer than this many bytes. Linux cuts at 2,048 on x86.
pub const MAX_COMMAND_LINE: usize = 4096;
/// A name is never longer than this many bytes.
pub const MAX_NAME: usize = 253;

/// What the firmware, the boot loader and the kernel may be (PCR 0 to 9).
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BootPolicy {
    /// Whose registers they are: of `boot` a TPM's, of `tdx.boot` a trust domain's.
    #[serde(skip)]
    pub set: RegisterSet,
    /// By register, 0 to 9: the values that are accepted, in each accepted bank.
    #[serde(deserialize_with = "registers")]
    #[schemars(schema_with = "registers_schema")]
    pub registers: BTreeMap<u8, Vec<Digest>>,
    /// Kernel command lines that are accepted, as `/proc/cmdline` shows them; GRUB's also without the `BOOT_IMAGE=` before
    /// the kernel's path. Each one that was measured must be among them, and one must have been.
    #[serde(deserialize_with = "command_lines")]
    #[schemars(length(max = 4096))]
    pub command_lines: Vec<String>,
    /// Measured events. In each register that stands here, every event must have a digest that is named for its
    /// register and type, or be a kernel command line of `command-lines`. Only where no digest is named for its
    /// register and type, it may also hold what the firmware profile fixes (separators, boot attempts), or be no
    /// command line, in a register that is one of `registers`. Each name must have been measured, unless it is
    /// `optional`: digests under one name are alternatives.
    #[serde(deserialize_with = "bounded")]
    #[schemars(length(max = 4096))]
    pub events: Vec<BootEvent>,
    /// What this firmware does otherwise than the TCG's profile says, only in registers that stand in `registers`: an event
    /// whose data is not what was hashed, or a register with another number of separators than one. Every verdict repeats it.
    #[serde(deserialize_with = "bounded")]
    #[schemars(length(max = 4096))]
    pub firmware_deviations: Vec<FirmwareDeviation>,
}

/// An event that is accepted.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BootEvent {
    /// The register, 0 to 9.
    #[serde(deserialize_with = "register")]
    #[schemars(range(max = 9))]
    pub pcr: u8,
    /// The TCG's name of the type, for example `EV_EFI_BOOT_SERVICES_APPLICATION`.
    #[serde(rename = "type", deserialize_with = "kind")]
    #[schemars(with = "String", regex(pattern = "^EV_[A-Z0-9_]+$"))]
    pub kind: EventType,
    /// What people call it; only for the output.
    #[serde(deserialize_with = "name")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its digests, one of which it must have; in each accepted bank.
    #[serde(deserialize_with = "some")]
    #[schemars(schema_with = "digests_schema")]
    pub digests: Vec<Digest>,
    /// It is accepted and need not have been measured.
    #[serde(default)]
    pub optional: bool,
}

/// An event of a firmware that is not as the profile says.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FirmwareDeviation {
    /// The register, 0 to 9; for separators 0 to 7.
    #[serde(deserialize_with = "register")]
    #[schemars(range(max = 9))]
    pub pcr: u8,
    /// The TCG's name of the type: one whose data is hashed as a whole, for example `EV_S_CRTM_VERSION`, or `EV_SEPARATOR`.
    #[serde(rename = "type", deserialize_with = "kind")]
    #[schemars(with = "String", regex(pattern = "^EV_[A-Z0-9_]+$"))]
    pub kind: EventType,
    /// What people call it; only for the output.
    #[serde(deserialize_with = "name")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// For `EV_SEPARATOR`, and only there: how many the register has.
    #[serde(default)]
    pub count: Option<u32>,
    /// The event's digests, in each accepted bank; of separators one of which each must have. Empty for `count: 0` alone.
    #[serde(default, deserialize_with = "bounded")]
    #[schemars(schema_with = "maybe_digests_schema")]
    pub digests: Vec<Digest>,
}

impl FirmwareDeviation {
    /// Why it cannot stand in a policy with these registers of this set.
    fn refused(&self, set: RegisterSet, registers: &BTreeMap<u8, Vec<Digest>>) -> Option<String> {
        let FirmwareDeviation { pcr, kind, .. } = self;
        let is_separator = *kind == EventType::SEPARATOR;
        let why = if !registers.contains_key(pcr) {
            format!("it counts only where `registers` pins {set} {pcr}, and there is no such value")
        } else if !kind.is_of_data() {
            let why = "no rule compares the data of this type with its digest, and those who read its text \
                go by the digest";
            format!("{why}: name an event of it in `events`")
        } else if is_separator && usize::from(*pcr) >= set.firmware() {
            format!("only {set} 0 to {} must have a separator", set.firmware() - 1)
        } else if is_separator != self.count.is_some() {
            "`count` is for EV_SEPARATOR, and needed there: how many separators the register has".to_owned()
        } else if self.digests.is_empty() != (self.count == Some(0)) {
            "`digests` names what was measured, and is empty where `count` is 0".to_owned()
        } else {
            return None;
        };
        Some(format!("{kind} in {set} {pcr}: {why}"))
    }

    /// For people, where its register is one of this set.
    pub fn shown(&self, set: RegisterSet) -> String {
        let count = self.count.map(|count| format!(" ×{count}"));
        let digests: Vec<String> = self.digests.iter().map(Digest::to_string).collect();
        format!(
            "{set} {} {}{} [{}] ({})",
            self.pcr,
            self.kind,
            count.unwrap_or_default(),
            digests.join(", "),
            self.name
        )
    }
}

/// A register of the boot.
pub(crate) fn of_boot<E: de::Error>(set: RegisterSet, n: u8) -> Result<u8, E> {
    if usize::from(n) < set.count() {
        return Ok(n);
    }
    Err(E::custom(format!(
        "{set} {n} does not belong to the boot: 0 to {} do",
        set.count() - 1
    )))
}

fn register<'de, D: Deserializer<'de>>(d: D) -> Result<u8, D::Error> {
    u8::deserialize(d).and_then(|n| of_boot(RegisterSet::Pcr, n))
}

pub(crate) fn kind<'de, D: Deserializer<'de>>(d: D) -> Result<EventType, D::Error> {
    let name = String::deserialize(d)?;
    match EventType::from_name(&name) {
        Some(EventType::NO_ACTION) => Err(de::Error::custom(
            "EV_NO_ACTION extends nothing, so nothing vouches for it",
        )),
        Some(kind) => Ok(kind),
        None => Err(de::Error::custom(format!(
            "{} is no event type of the TCG PC Client Platform Firmware Profile",
            quoted(&name)
        ))),
    }
}

fn registers<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<u8, Vec<Digest>>, D::Error> {
    #[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
    struct Number(#[serde(deserialize_with = "register")] u8);
    #[derive(Deserialize)]
    struct Values(#[serde(deserialize_with = "some")] Vec<Digest>);
    let all: BTreeMap<Number, Values> = BTreeMap::deserialize(d)?;
    Ok(all.into_iter().map(|(n, values)| (n.0, values.0)).collect())
}

pub(crate) fn command_lines<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    each(d, |line: &String| {
        match (1..=MAX_COMMAND_LINE).contains(&line.len()) {
            true => Ok(()),
            false => Err(format!("a command line has 1 to {MAX_COMMAND_LINE} bytes")),
        }
    })
}

/// A `boot:` that accepts something.
pub(crate) fn not_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<BootPolicy>, D::Error> {
    let boot = BootPolicy::deserialize(d)?;
    if boot == BootPolicy::default() {
        return Err(de::Error::custom(
            "`boot` names nothing: give registers, command-lines or events (`cgpath policy from-boot` makes \
             them)",
        ));
    }
    Ok(Some(boot))
}

/// The first of its `firmware-deviations` that cannot stand in a policy: its number, and why. It depends on
/// `registers`, wherever they stand.
pub(crate) fn refused(boot: &BootPolicy) -> Option<(usize, String)> {
    let mut items = boot.firmware_deviations.iter().enumerate();
    items.find_map(|(n, item)| Some((n, item.refused(boot.set, &boot.registers)?)))
}

fn registers_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let digests = digests_schema(generator);
    schemars::json_schema!({
        "type": "object",
        "patternProperties": { "^[0-9]$": digests },
        "additionalProperties": false,
    })
}

pub(crate) fn maybe_digests_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = digests_schema(generator);
    schema.remove("minItems");
    schema
}
