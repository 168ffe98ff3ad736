//! Reference values of the boot: registers, kernel command lines, measured events. Rule V10 compares them.
//!
//! Promise: at least one value is there, each of a form that can match. Not here: how the log is read (see
//! `evidence::boot`), whether a quote vouches for it (see `verifier`).

use crate::node::{bounded, digests_schema, name, some};
use evidence::text::quoted;
use evidence::{
    Digest,
    boot::{EventType, REGISTERS},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;

/// A command line is never longer than this many bytes. Linux cuts at 2,048 on x86.
pub(crate) const MAX_COMMAND_LINE: usize = 4096;

/// What the firmware, the boot loader and the kernel may be (PCR 0 to 9).
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BootPolicy {
    /// By register, 0 to 9: the values that are accepted, in each accepted bank.
    #[serde(deserialize_with = "registers")]
    #[schemars(schema_with = "registers_schema")]
    pub registers: BTreeMap<u8, Vec<Digest>>,
    /// Kernel command lines that are accepted, as `/proc/cmdline` shows them (GRUB's begin with the kernel's path). Each
    /// one that was measured must be among them, and one must have been.
    #[serde(deserialize_with = "command_lines")]
    #[schemars(length(max = 4096))]
    pub command_lines: Vec<String>,
    /// Measured events. Each one in the log with a register and type that stand here must have one of their digests, and
    /// each of these registers and types must have one.
    #[serde(deserialize_with = "bounded")]
    #[schemars(length(max = 4096))]
    pub events: Vec<BootEvent>,
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
}

fn is_register(n: u8) -> bool {
    usize::from(n) < REGISTERS
}

fn register<'de, D: Deserializer<'de>>(d: D) -> Result<u8, D::Error> {
    let n = u8::deserialize(d)?;
    if is_register(n) {
        return Ok(n);
    }
    Err(de::Error::custom(format!(
        "PCR {n} does not belong to the boot: 0 to 9 do"
    )))
}

fn kind<'de, D: Deserializer<'de>>(d: D) -> Result<EventType, D::Error> {
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
    #[derive(Deserialize)]
    struct Values(#[serde(deserialize_with = "some")] Vec<Digest>);
    let all: BTreeMap<u8, Values> = BTreeMap::deserialize(d)?;
    if let Some(n) = all.keys().find(|n| !is_register(**n)) {
        return Err(de::Error::custom(format!(
            "PCR {n} does not belong to the boot: 0 to 9 do"
        )));
    }
    Ok(all.into_iter().map(|(n, Values(values))| (n, values)).collect())
}

fn command_lines<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let list: Vec<String> = bounded(d)?;
    if list
        .iter()
        .any(|line| line.is_empty() || line.len() > MAX_COMMAND_LINE)
    {
        return Err(de::Error::custom(format!(
            "a command line has 1 to {MAX_COMMAND_LINE} bytes"
        )));
    }
    Ok(list)
}

/// A `boot:` that accepts something.
pub(crate) fn not_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<BootPolicy>, D::Error> {
    let boot = BootPolicy::deserialize(d)?;
    if boot == BootPolicy::default() {
        return Err(de::Error::custom(
            "`boot` names nothing: give registers, command-lines or events (`cgpath policy from-boot` makes them)",
        ));
    }
    Ok(Some(boot))
}

fn registers_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let digests = digests_schema(generator);
    schemars::json_schema!({
        "type": "object",
        "patternProperties": { "^[0-9]$": digests },
        "additionalProperties": false,
    })
}
