//! CoMID: whose values there are (coswid-triples), and what the boot may be (reference-triples). Draft
//! section 5.

use super::{
    COMMAND_LINE, Result, VENDOR, bank,
    cbor::{CborReader, Key::Number},
    tag,
};
use crate::form::MAX_ITEMS;
use crate::{BootEvent, BootPolicy};
use cgpath_evidence::text::{foreign, quoted};
use cgpath_evidence::{
    Digest, PodUid,
    boot::{EventType, REGISTERS},
};
use minicbor::data::Type;

/// `tag-id`, and `id` of a manifest: a text or a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagId<'b> {
    Text(&'b str),
    Uuid([u8; 16]),
}

impl core::fmt::Display for TagId<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            TagId::Text(text) => f.write_str(text),
            TagId::Uuid(bytes) => PodUid(*bytes).fmt(f),
        }
    }
}

/// Whose values.
pub(super) enum Owner {
    Host,
    Sandbox,
    Pod(PodUid, String),
}

/// What all CoMIDs of a manifest say.
#[derive(Default)]
pub(super) struct Comid<'b> {
    pub(super) node: Option<String>,
    pub(super) owners: Vec<(Owner, Vec<TagId<'b>>)>,
    pub(super) boot: Option<BootPolicy>,
}

pub(super) fn identifier<'b>(r: &mut CborReader<'b>) -> Result<TagId<'b>> {
    if r.kind() == Some(Type::String) {
        return match r.text()? {
            "" => Err(r.malformed("an empty identifier")),
            text => Ok(TagId::Text(text)),
        };
    }
    if r.kind() == Some(Type::Tag) {
        r.tagged(tag::UUID)?;
    }
    match r.bytes()?.try_into() {
        Ok(bytes) => Ok(TagId::Uuid(bytes)),
        Err(_) => Err(r.malformed("a UUID has 16 bytes")),
    }
}

/// `concise-mid-tag`, into what others said before.
pub(super) fn read<'b>(r: &mut CborReader<'b>, comid: &mut Comid<'b>) -> Result<()> {
    let mut has_triples = false;
    r.map(|r, key| match key {
        // Language and entities: for people.
        Number(0 | 2) => r.skip(),
        Number(1) => r.field("tag-identity", |r| {
            r.map(|r, key| match key {
                Number(0) => identifier(r).map(drop),
                Number(1) => r.skip(),
                other => Err(r.unsupported(other, "an extension can change what is accepted")),
            })
        }),
        Number(3) => Err(r.unsupported("linked-tags", "give a manifest that holds all that it speaks of")),
        Number(4) => r.field("triples", |r| {
            has_triples = true;
            triples(r, comid)
        }),
        other => Err(r.unsupported(other, "an extension can change what is accepted")),
    })?;
    if has_triples {
        return Ok(());
    }
    Err(r.malformed("no triples (key 4)"))
}

fn triples<'b>(r: &mut CborReader<'b>, comid: &mut Comid<'b>) -> Result<()> {
    r.map(|r, key| match key {
        Number(0) => r.field("reference-triples", |r| {
            // Registers, command lines and events are limited each.
            r.array(4 * MAX_ITEMS, |r| {
                r.tuple(2)?;
                let environment = r.field("ref-env", environment)?;
                match environment {
                    Environment::Node("boot", node) => name_node(r, comid, node)?,
                    _ => {
                        return Err(r.unsupported(
                            "a reference value of an environment other than a node's boot",
                            "files belong into a CoSWID that a coswid-triple names",
                        ));
                    }
                }
                let boot = comid.boot.get_or_insert_default();
                r.field("ref-claims", |r| r.array(MAX_ITEMS, |r| measurement(r, boot)))
            })
        }),
        Number(6) => r.field("coswid-triples", |r| {
            r.array(MAX_ITEMS, |r| {
                r.tuple(2)?;
                let owner = match r.field("environment", environment)? {
                    Environment::Node(part, node) => {
                        name_node(r, comid, node)?;
                        match part {
                            "host" => Owner::Host,
                            "sandbox" => Owner::Sandbox,
                            other => {
                                let what = format!("a part of a node that is called {}", quoted(other));
                                return Err(r.unsupported(what, "host and sandbox are"));
                            }
                        }
                    }
                    Environment::Pod(uid, name) => Owner::Pod(uid, name),
                };
                let mut ids = Vec::new();
                r.field("tag-ids", |r| {
                    r.array(MAX_ITEMS, |r| {
                        let id = identifier(r)?;
                        if ids.contains(&id) {
                            return Err(r.malformed(format!("CoSWID {id} twice")));
                        }
                        ids.push(id);
                        Ok(())
                    })
                })?;
                comid.owners.push((owner, ids));
                Ok(())
            })
        }),
        other => {
            let name = match other {
                Number(1) => "endorsed-triples".to_owned(),
                Number(2) => "identity-triples".to_owned(),
                Number(3) => "attest-key-triples".to_owned(),
                Number(4) => "dependency-triples".to_owned(),
                Number(5) => "membership-triples".to_owned(),
                Number(8) => "conditional-endorsement-series-triples".to_owned(),
                Number(10) => "conditional-endorsement-triples".to_owned(),
                other => other.to_string(),
            };
            Err(r.unsupported(name, "reference-triples (0) and coswid-triples (6) are"))
        }
    })
}

fn name_node(r: &CborReader<'_>, comid: &mut Comid<'_>, node: String) -> Result<()> {
    match &comid.node {
        Some(known) if *known != node => Err(r.malformed(format!(
            "it is about another node than before: {}",
            foreign(format!("{node}, not {known}"))
        ))),
        _ => {
            comid.node = Some(node);
            Ok(())
        }
    }
}

enum Environment<'b> {
    Node(&'b str, String),
    Pod(PodUid, String),
}

/// `environment-map`: class (vendor ours, model), instance, for a pod its name as group.
fn environment<'b>(r: &mut CborReader<'b>) -> Result<Environment<'b>> {
    let (mut vendor, mut model, mut uuid, mut name, mut group) = (None, None, None, None, None);
    r.map(|r, key| match key {
        Number(0) => r.field("class", |r| {
            r.map(|r, key| match key {
                Number(1) => r.text().map(|text| vendor = Some(text)),
                Number(2) => r.text().map(|text| model = Some(text)),
                other => Err(r.unsupported(other, "vendor (1) and model (2) are")),
            })
        }),
        Number(1) => r.field("instance", |r| match r.tag()? {
            tag::UUID => match r.bytes()?.try_into() {
                Ok(bytes) => {
                    uuid = Some(PodUid(bytes));
                    Ok(())
                }
                Err(_) => Err(r.malformed("a UUID has 16 bytes")),
            },
            tag::BYTES => self::name(r).map(|text| name = Some(text)),
            other => Err(r.unsupported(format!("tag {other}"), "a UUID (37) and bytes (560) are")),
        }),
        Number(2) => r.field("group", |r| {
            r.tagged(tag::BYTES)?;
            self::name(r).map(|text| group = Some(text))
        }),
        other => Err(r.unsupported(other, "class, instance and group are")),
    })?;
    if vendor != Some(VENDOR) {
        return Err(r.unsupported(
            format!(
                "an environment of class.vendor {}",
                quoted(vendor.unwrap_or_default())
            ),
            "it names no part of a node's policy",
        ));
    }
    match (model, uuid, name, group) {
        (Some("pod"), Some(uid), None, Some(name)) => Ok(Environment::Pod(uid, name)),
        (Some("pod"), ..) => Err(r.malformed("a pod has a UUID as instance and its name as group")),
        (Some(part), None, Some(node), None) => Ok(Environment::Node(part, node)),
        _ => Err(r.malformed("a part of a node has a model, and the node's name as instance")),
    }
}

/// A name as a policy takes it: 1 to 253 bytes without control characters.
fn name(r: &mut CborReader<'_>) -> Result<String> {
    let text = core::str::from_utf8(r.bytes()?).ok();
    check_name(r, text.unwrap_or_default())
}

fn check_name(r: &CborReader<'_>, text: &str) -> Result<String> {
    if text.is_empty() || text.len() > 253 || text.chars().any(char::is_control) {
        return Err(r.malformed("a name is 1 to 253 bytes of UTF-8 without control characters"));
    }
    Ok(text.to_owned())
}

/// `[alg, value]`, by the registry of named information hash algorithms.
pub(super) fn digest(r: &mut CborReader<'_>) -> Result<Digest> {
    r.tuple(2)?;
    if r.kind() == Some(Type::String) {
        let name = r.text()?;
        return Err(r.unsupported(
            format!("hash algorithm {}", quoted(name)),
            "numbers of the IANA registry are: 1, 7 and 8",
        ));
    }
    let number = r.integer()?;
    let bank = bank(number).ok_or_else(|| {
        r.unsupported(
            format!("hash algorithm {number}"),
            "SHA-256 (1), SHA-384 (7) and SHA-512 (8) are",
        )
    })?;
    let bytes = r.bytes()?;
    Digest::new(bank, bytes)
        .ok_or_else(|| r.malformed(format!("{} bytes, which is no {bank} digest", bytes.len())))
}

fn digests(r: &mut CborReader<'_>) -> Result<Vec<Digest>> {
    let mut digests = Vec::new();
    r.array(MAX_ITEMS, |r| {
        let digest = digest(r)?;
        if digests.iter().any(|other: &Digest| other.bank() == digest.bank()) {
            return Err(r.malformed(format!(
                "two {} digests: an alternative is a triple of its own",
                digest.bank()
            )));
        }
        digests.push(digest);
        Ok(())
    })?;
    Ok(digests)
}

/// `measurement-map`: a register, a command line, or an event.
fn measurement(r: &mut CborReader<'_>, boot: &mut BootPolicy) -> Result<()> {
    let mut key = None;
    let mut values = Values::default();
    r.map(|r, label| match label {
        Number(0) => r.field("mkey", |r| {
            key = Some(r.text()?);
            Ok(())
        }),
        Number(1) => r.field("mval", |r| values.read(r)),
        other => Err(r.unsupported(other, "mkey (0) and mval (1) are")),
    })?;
    match (key, values) {
        (
            None,
            Values {
                registers,
                digests: None,
                raw: None,
                name: None,
            },
        ) if !registers.is_empty() => {
            for (pcr, digests) in registers {
                let known = boot.registers.entry(pcr).or_default();
                insert(r, known, digests)?;
            }
            Ok(())
        }
        (
            Some(COMMAND_LINE),
            Values {
                registers,
                digests: None,
                raw: Some(raw),
                name: None,
            },
        ) if registers.is_empty() => {
            let line = core::str::from_utf8(raw)
                .ok()
                .filter(|line| !line.is_empty() && line.len() <= crate::boot_policy::MAX_COMMAND_LINE);
            let line = line.ok_or_else(|| r.malformed("a command line is 1 to 4096 bytes of UTF-8"))?;
            if boot.command_lines.len() >= MAX_ITEMS {
                return Err(r.limit("command lines", boot.command_lines.len() as u64 + 1, MAX_ITEMS));
            }
            boot.command_lines.push(line.to_owned());
            Ok(())
        }
        (
            Some(key),
            Values {
                registers,
                digests: Some(digests),
                raw: None,
                name: Some(name),
            },
        ) if registers.is_empty() => {
            let (pcr, kind) = event_key(key).ok_or_else(|| {
                r.malformed(format!(
                    "mkey {} is no event: `pcr-N/EV_…` with N from 0 to 9 and a type that extends",
                    quoted(key)
                ))
            })?;
            let name = check_name(r, name)?;
            let count = boot.events.len();
            let known = boot
                .events
                .iter_mut()
                .find(|e| (e.pcr, e.kind, &e.name) == (pcr, kind, &name));
            if let Some(event) = known {
                return insert(r, &mut event.digests, digests);
            }
            if count >= MAX_ITEMS {
                return Err(r.limit("events", count as u64 + 1, MAX_ITEMS));
            }
            boot.events.push(BootEvent {
                pcr,
                kind,
                name,
                digests,
                optional: false,
            });
            Ok(())
        }
        _ => Err(r.unsupported(
            "a measurement that is no register, command line or event of the boot",
            "docs/spec/cgpath.cddl has their forms",
        )),
    }
}

fn insert(r: &CborReader<'_>, known: &mut Vec<Digest>, more: Vec<Digest>) -> Result<()> {
    for digest in more {
        if known.contains(&digest) {
            return Err(r.malformed(format!("{digest} twice")));
        }
        if known.len() >= MAX_ITEMS {
            return Err(r.limit("digests", known.len() as u64 + 1, MAX_ITEMS));
        }
        known.push(digest);
    }
    Ok(())
}

fn event_key(key: &str) -> Option<(u8, EventType)> {
    let (pcr, kind) = key.strip_prefix("pcr-")?.split_once('/')?;
    // One digit: no sign, no leading zero.
    let pcr = pcr
        .parse()
        .ok()
        .filter(|n| pcr.len() == 1 && usize::from(*n) < REGISTERS)?;
    let kind = EventType::from_name(kind).filter(|kind| *kind != EventType::NO_ACTION)?;
    Some((pcr, kind))
}

/// What `measurement-values-map` may have here.
#[derive(Default)]
struct Values<'b> {
    registers: Vec<(u8, Vec<Digest>)>,
    digests: Option<Vec<Digest>>,
    raw: Option<&'b [u8]>,
    name: Option<&'b str>,
}

impl<'b> Values<'b> {
    fn read(&mut self, r: &mut CborReader<'b>) -> Result<()> {
        r.map(|r, key| match key {
            Number(2) => r.field("digests", |r| {
                self.digests = Some(digests(r)?);
                Ok(())
            }),
            Number(4) => r.field("raw-value", |r| {
                r.tagged(tag::BYTES)?;
                self.raw = Some(r.bytes()?);
                Ok(())
            }),
            Number(11) => r.field("name", |r| {
                self.name = Some(r.text()?);
                Ok(())
            }),
            Number(14) => r.field("integrity-registers", |r| {
                r.map(|r, key| {
                    let pcr = match key {
                        Number(n) => u8::try_from(n).ok().filter(|n| usize::from(*n) < REGISTERS),
                        _ => None,
                    };
                    let pcr = pcr.ok_or_else(|| r.unsupported(key, "PCR 0 to 9 belong to the boot"))?;
                    self.registers.push((pcr, digests(r)?));
                    Ok(())
                })
            }),
            other => Err(r.unsupported(
                other,
                "digests (2), raw-value (4), name (11) and integrity-registers (14) are",
            )),
        })
    }
}
