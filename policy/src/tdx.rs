//! What a trust domain (Intel TDX) may be: the `tdx:` of a node's policy.
//!
//! Promises: a key that nothing judges is refused, as is one without which another means nothing; what
//! weakens a rule begins with `dangerous-` or is listed by [`crate::Policy::relaxations`]. Not here: how a
//! quote is verified (see `cgpath-appraisal`), where collateral is from (the caller's).

use crate::boot_policy::{command_lines, kind, maybe_digests_schema, of_boot};
use crate::form::{bounded, digests_schema, each, name, some, some_of};
use crate::{BootEvent, BootPolicy, FirmwareDeviation};
use cgpath_evidence::boot::{BOOT_RTMRS, EventType, RegisterSet};
use cgpath_evidence::text::quoted;
use cgpath_evidence::{Bank, Digest};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;

/// Collateral is at most this old, in days, unless the policy says otherwise: Intel issues it for 30.
pub const DEFAULT_MAX_COLLATERAL_AGE: u32 = 30;
/// No policy takes older collateral than this, in days.
const MAX_AGE: u32 = 3650;
/// A root's certificate is never longer than this many bytes.
const MAX_ROOT_LEN: usize = 4096;
/// Bytes of a platform's id (PPID).
const PPID_LEN: usize = 16;

/// What a trust domain may be.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TdxPolicy {
    /// V1: MRTD, what the domain was built of: its firmware.
    #[serde(deserialize_with = "some_sha384")]
    #[schemars(schema_with = "digests_schema")]
    pub mrtd: Vec<Digest>,
    /// V1: MRSEAM, the TDX module. Left out: each one that the collateral appraises, by its version.
    #[serde(default, deserialize_with = "maybe_sha384")]
    #[schemars(schema_with = "digests_schema")]
    pub mrseam: Option<Vec<Digest>>,
    /// V1: TD attributes, 16 hex digits, as they are in memory. None with a debug bit can stand here.
    #[serde(deserialize_with = "attributes")]
    #[schemars(schema_with = "hex_list_schema::<8>")]
    pub attributes: Vec<[u8; 8]>,
    /// V1: XFAM, 16 hex digits, as they are in memory.
    #[serde(deserialize_with = "hex_list")]
    #[schemars(schema_with = "hex_list_schema::<8>")]
    pub xfam: Vec<[u8; 8]>,
    /// V1: what the collateral may say of the platform, its TDX module and its quoting enclave, the worst of
    /// them.
    #[serde(default = "default_tcb_status", deserialize_with = "some")]
    #[schemars(length(min = 1, max = 16))]
    pub tcb_status: Vec<TcbStatus>,
    /// V1: advisories that the collateral may name (INTEL-SA-…). Any other fails.
    #[serde(default, deserialize_with = "advisories")]
    #[schemars(length(max = 4096))]
    pub advisories: Vec<String>,
    /// V1: collateral was issued at most so many days before the appraisal, whatever it says of its own end.
    #[serde(default = "default_max_collateral_age", deserialize_with = "age")]
    #[schemars(range(min = 1, max = MAX_AGE))]
    pub max_collateral_age: u32,
    /// V4: the register's value before checkpoint 0 extended it. Left out: that of a register that nobody
    /// extended.
    #[serde(default = "default_origin", deserialize_with = "some_sha384")]
    #[schemars(schema_with = "digests_schema")]
    pub rtmr_origin: Vec<Digest>,
    /// V4: who else may extend the register, by the form of his events: their digest is that of their data.
    #[serde(default, deserialize_with = "bounded")]
    #[schemars(length(max = 16))]
    pub rtmr_writers: Vec<RtmrWriter>,
    /// V4: what else may have extended the register, by its digest, whatever its event says.
    #[serde(default, deserialize_with = "list_of_sha384")]
    #[schemars(schema_with = "maybe_digests_schema")]
    pub rtmr_extensions: Vec<Digest>,
    /// V1 and V7: which key a node may have.
    #[serde(default)]
    pub key: NodeKeyPolicy,
    /// V1: platforms (PPID of the PCK certificate, 32 hex digits) on which the domain may run. Left out: any,
    /// unless the key is `per-boot`.
    #[serde(default, deserialize_with = "platforms")]
    #[schemars(schema_with = "hex_list_schema::<PPID_LEN>")]
    pub platforms: Option<Vec<[u8; PPID_LEN]>>,
    /// V10: what the firmware, the boot loader and the kernel may be (RTMR 0 to 2).
    #[serde(default, deserialize_with = "boot")]
    #[schemars(with = "Option<TdBoot>")]
    pub boot: Option<BootPolicy>,
    /// V10 is switched off for RTMR 0 to 2. It does not go with `boot`.
    #[serde(default)]
    pub dangerous_boot_not_judged: bool,
    /// A key `per-boot` is accepted on every platform: a copy of the node's disk is a new boot of it.
    #[serde(default)]
    pub dangerous_any_platform: bool,
    /// Quotes end in this root (a certificate in DER, hex) and not in Intel's: for tests.
    #[serde(default, deserialize_with = "root")]
    #[schemars(schema_with = "root_schema")]
    pub dangerous_root: Option<Vec<u8>>,
}

/// What collateral says of a TCB. Names are Intel's. `Revoked` is none that can be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
pub enum TcbStatus {
    /// Nothing is missing.
    UpToDate,
    /// Software must do something about an advisory.
    SWHardeningNeeded,
    /// The platform must be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// An update is missing.
    OutOfDate,
    /// An update is missing and the platform must be configured otherwise.
    OutOfDateConfigurationNeeded,
    /// The TDX module was updated since the domain was started.
    TDRelaunchAdvised,
    /// The same, and the platform must be configured otherwise.
    TDRelaunchAdvisedConfigurationNeeded,
}

impl TcbStatus {
    /// Intel's name.
    pub const fn name(self) -> &'static str {
        match self {
            TcbStatus::UpToDate => "UpToDate",
            TcbStatus::SWHardeningNeeded => "SWHardeningNeeded",
            TcbStatus::ConfigurationNeeded => "ConfigurationNeeded",
            TcbStatus::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            TcbStatus::OutOfDate => "OutOfDate",
            TcbStatus::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            TcbStatus::TDRelaunchAdvised => "TDRelaunchAdvised",
            TcbStatus::TDRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
        }
    }
}

impl core::fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// Who else extends the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RtmrWriter {
    /// CoCo's attestation agent: EV_EVENT_TAG with the tag 0x4141454c.
    AttestationAgent,
}

/// Which key a node may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKeyPolicy {
    /// The one that is pinned. Another needs another enrolment.
    #[default]
    Enrolled,
    /// A new one with each boot, where MRTD, RTMR 0 to 2 and the platform are as pinned here. Every output
    /// repeats it.
    PerBoot,
}

fn default_tcb_status() -> Vec<TcbStatus> {
    vec![TcbStatus::UpToDate]
}

fn default_max_collateral_age() -> u32 {
    DEFAULT_MAX_COLLATERAL_AGE
}

fn default_origin() -> Vec<Digest> {
    vec![Digest::zero(Bank::Sha384)]
}

fn is_sha384(digest: &Digest) -> Result<(), String> {
    match digest.bank() {
        Bank::Sha384 => Ok(()),
        _ => Err("registers of a trust domain are sha384".to_owned()),
    }
}

fn some_sha384<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Digest>, D::Error> {
    some_of(d, is_sha384)
}

fn list_of_sha384<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Digest>, D::Error> {
    each(d, is_sha384)
}

fn maybe_sha384<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<Digest>>, D::Error> {
    some_sha384(d).map(Some)
}

/// Bytes that are written as hex digits in lower case.
struct Hex<const N: usize>([u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Hex<N>, D::Error> {
        let text = String::deserialize(d)?;
        let is_lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        let bytes = hex::decode(&text).ok().filter(|_| is_lower);
        let bytes: Option<[u8; N]> = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Hex).ok_or_else(|| {
            de::Error::custom(format!(
                "{} is not {} hex digits in lower case",
                quoted(&text),
                2 * N
            ))
        })
    }
}

fn hex_list<'de, const N: usize, D: Deserializer<'de>>(d: D) -> Result<Vec<[u8; N]>, D::Error> {
    let list: Vec<Hex<N>> = some(d)?;
    Ok(list.into_iter().map(|hex| hex.0).collect())
}

fn attributes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<[u8; 8]>, D::Error> {
    let list = some_of(d, |attributes: &Hex<8>| match attributes.0[0] {
        0 => Ok(()),
        _ => Err(
            "attributes with a debug bit: the host reads such a domain's memory, and it is never accepted"
                .to_owned(),
        ),
    })?;
    Ok(list.into_iter().map(|hex| hex.0).collect())
}

fn platforms<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<[u8; PPID_LEN]>>, D::Error> {
    hex_list(d).map(Some)
}

fn age<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    let days = u32::deserialize(d)?;
    if (1..=MAX_AGE).contains(&days) {
        return Ok(days);
    }
    Err(de::Error::custom(format!(
        "max-collateral-age is 1 to {MAX_AGE} days"
    )))
}

fn advisories<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    each(d, |id: &String| match (1..=64).contains(&id.len()) {
        true => Ok(()),
        false => Err(format!("{} is no advisory's name", quoted(id))),
    })
}

fn root<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
    let text = String::deserialize(d)?;
    let bytes =
        hex::decode(&text).map_err(|_| de::Error::custom("a root is a certificate in DER, as hex"))?;
    if bytes.is_empty() || bytes.len() > MAX_ROOT_LEN {
        return Err(de::Error::custom(format!(
            "a root's certificate has 1 to {MAX_ROOT_LEN} bytes"
        )));
    }
    Ok(Some(bytes))
}

/// `tdx.boot` as it is written.
#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct TdBoot {
    /// By RTMR, 0 to 2: the values that are accepted. RTMR 1 changes with the size of memory where a kernel
    /// is booted without a boot loader: name its events in place of its value then.
    #[serde(deserialize_with = "registers")]
    #[schemars(schema_with = "registers_schema")]
    registers: BTreeMap<u8, Vec<Digest>>,
    /// As `boot.command-lines`, of events of RTMR 2.
    #[serde(deserialize_with = "command_lines")]
    #[schemars(length(max = 4096))]
    command_lines: Vec<String>,
    /// As `boot.events`.
    #[serde(deserialize_with = "bounded")]
    #[schemars(length(max = 4096))]
    events: Vec<TdBootEvent>,
    /// As `boot.firmware-deviations`.
    #[serde(deserialize_with = "bounded")]
    #[schemars(length(max = 4096))]
    firmware_deviations: Vec<TdDeviation>,
}

/// An event that is accepted.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TdBootEvent {
    /// The register, 0 to 2.
    #[serde(deserialize_with = "register")]
    #[schemars(range(max = 2))]
    rtmr: u8,
    /// The TCG's name of the type, for example `EV_EFI_BOOT_SERVICES_APPLICATION`.
    #[serde(rename = "type", deserialize_with = "kind")]
    #[schemars(with = "String", regex(pattern = "^EV_[A-Z0-9_]+$"))]
    kind: EventType,
    /// What people call it; only for the output.
    #[serde(deserialize_with = "name")]
    #[schemars(length(min = 1, max = 253))]
    name: String,
    /// Its digests, one of which it must have.
    #[serde(deserialize_with = "some_sha384")]
    #[schemars(schema_with = "digests_schema")]
    digests: Vec<Digest>,
    /// It is accepted and need not have been measured.
    #[serde(default)]
    optional: bool,
}

/// An event of a firmware that is not as the profile says.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TdDeviation {
    /// The register, 0 to 2.
    #[serde(deserialize_with = "register")]
    #[schemars(range(max = 2))]
    rtmr: u8,
    /// The TCG's name of the type.
    #[serde(rename = "type", deserialize_with = "kind")]
    #[schemars(with = "String", regex(pattern = "^EV_[A-Z0-9_]+$"))]
    kind: EventType,
    /// What people call it; only for the output.
    #[serde(deserialize_with = "name")]
    #[schemars(length(min = 1, max = 253))]
    name: String,
    /// For `EV_SEPARATOR`, and only there: how many the register has.
    #[serde(default)]
    count: Option<u32>,
    /// The event's digests. Empty for `count: 0` alone.
    #[serde(default, deserialize_with = "list_of_sha384")]
    #[schemars(schema_with = "maybe_digests_schema")]
    digests: Vec<Digest>,
}

fn register<'de, D: Deserializer<'de>>(d: D) -> Result<u8, D::Error> {
    u8::deserialize(d).and_then(|n| of_boot(RegisterSet::Rtmr, n))
}

fn registers<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<u8, Vec<Digest>>, D::Error> {
    #[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
    struct Number(#[serde(deserialize_with = "register")] u8);
    #[derive(Deserialize)]
    struct Values(#[serde(deserialize_with = "some_sha384")] Vec<Digest>);
    let all: BTreeMap<Number, Values> = BTreeMap::deserialize(d)?;
    Ok(all.into_iter().map(|(n, values)| (n.0, values.0)).collect())
}

/// A `tdx.boot` that accepts something.
fn boot<'de, D: Deserializer<'de>>(d: D) -> Result<Option<BootPolicy>, D::Error> {
    let written = TdBoot::deserialize(d)?;
    if written == TdBoot::default() {
        return Err(de::Error::custom(
            "`tdx.boot` names nothing: give registers, command-lines or events (`cgpath policy from-boot` \
             makes them)",
        ));
    }
    let event = |event: TdBootEvent| BootEvent {
        pcr: event.rtmr,
        kind: event.kind,
        name: event.name,
        digests: event.digests,
        optional: event.optional,
    };
    let deviation = |item: TdDeviation| FirmwareDeviation {
        pcr: item.rtmr,
        kind: item.kind,
        name: item.name,
        count: item.count,
        digests: item.digests,
    };
    let boot = BootPolicy {
        set: RegisterSet::Rtmr,
        registers: written.registers,
        command_lines: written.command_lines,
        events: written.events.into_iter().map(event).collect(),
        firmware_deviations: written.firmware_deviations.into_iter().map(deviation).collect(),
    };
    Ok(Some(boot))
}

impl TdxPolicy {
    /// Whether MRTD and each of RTMR 0 to 2 have a value here that they must have.
    pub(crate) fn pins_boot(&self) -> bool {
        let pins = |n: u8| {
            self.boot
                .as_ref()
                .is_some_and(|boot| boot.registers.contains_key(&n))
        };
        (0..BOOT_RTMRS as u8).all(pins)
    }

    pub(crate) fn dangerous_keys(&self) -> Vec<&'static str> {
        let keys = [
            ("tdx.dangerous-boot-not-judged", self.dangerous_boot_not_judged),
            ("tdx.dangerous-any-platform", self.dangerous_any_platform),
            ("tdx.dangerous-root", self.dangerous_root.is_some()),
        ];
        let used = keys.into_iter().filter(|(_, is_used)| *is_used);
        used.map(|(key, _)| key).collect()
    }

    pub(crate) fn relaxations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let statuses = self.tcb_status.iter().filter(|s| **s != TcbStatus::UpToDate);
        found.extend(statuses.map(|status| format!("tdx.tcb-status: {status}")));
        found.extend(self.advisories.iter().map(|id| format!("tdx.advisories: {id}")));
        if self.max_collateral_age > DEFAULT_MAX_COLLATERAL_AGE {
            found.push(format!("tdx.max-collateral-age: {}", self.max_collateral_age));
        }
        if self.key == NodeKeyPolicy::PerBoot {
            found.push("tdx.key: per-boot".to_owned());
        }
        let zero = Digest::zero(Bank::Sha384);
        let origins = self.rtmr_origin.iter().filter(|origin| **origin != zero);
        found.extend(origins.map(|origin| format!("tdx.rtmr-origin: {origin}")));
        if !self.rtmr_writers.is_empty() {
            found.push("tdx.rtmr-writers: attestation-agent".to_owned());
        }
        let extensions = self.rtmr_extensions.iter();
        found.extend(extensions.map(|digest| format!("tdx.rtmr-extensions: {digest}")));
        let deviations = self.boot.iter().flat_map(|boot| &boot.firmware_deviations);
        found.extend(
            deviations.map(|item| format!("tdx.boot.firmware-deviations: {}", item.shown(RegisterSet::Rtmr))),
        );
        found
    }
}

fn registers_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let digests = digests_schema(generator);
    schemars::json_schema!({
        "type": "object",
        "patternProperties": { "^[0-2]$": digests },
        "additionalProperties": false,
    })
}

fn hex_list_schema<const N: usize>(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "items": { "type": "string", "pattern": format!("^[0-9a-f]{{{}}}$", 2 * N) },
    })
}

fn root_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "pattern": "^([0-9a-fA-F]{2})+$" })
}
