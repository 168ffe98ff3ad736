//! The form of values in policy files: how each is read, and what its JSON Schema says where the type does
//! not say it.
//!
//! Promises: lists end at [`MAX_ITEMS`]; an allow list is not empty. Not here: which keys there are (see
//! `node`), what stands in reference files (see `reference`).

use super::{MAX_ITEMS, Pod};
use crate::reference::MAX_PATH_LEN;
use cgpath_evidence::text::quoted;
use cgpath_evidence::{Bank, Digest, GuardAction, PodUid};
use serde::{Deserialize, Deserializer, de};

pub(crate) fn version_one<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<u32, D::Error> {
    match u32::deserialize(d)? {
        1 => Ok(1),
        other => Err(de::Error::custom(format!(
            "version {other} is not known here, 1 is"
        ))),
    }
}

pub(crate) fn name<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() || text.len() > 253 {
        return Err(de::Error::custom("a name has 1 to 253 bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(de::Error::custom("a name has no control characters"));
    }
    Ok(text)
}

pub(super) fn absolute<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<String, D::Error> {
    let text = String::deserialize(d)?;
    check_absolute(&text).map_err(de::Error::custom)?;
    Ok(text)
}

fn check_absolute(text: &str) -> core::result::Result<(), String> {
    if !text.starts_with('/') || text.len() > MAX_PATH_LEN {
        return Err(format!(
            "{} is not an absolute path of at most {} bytes",
            quoted(text),
            MAX_PATH_LEN
        ));
    }
    Ok(())
}

/// A list within its limit.
pub(crate) fn bounded<'de, D, T>(d: D) -> core::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T>(core::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for List<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> core::result::Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = seq.next_element()? {
                if list.len() == MAX_ITEMS {
                    return Err(de::Error::custom(format!("a list has at most {MAX_ITEMS} items")));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    d.deserialize_seq(List(core::marker::PhantomData))
}

/// An allow list: within its limit, not empty.
pub(crate) fn some<'de, D, T>(d: D) -> core::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = bounded(d)?;
    if list.is_empty() {
        return Err(de::Error::custom(
            "an empty allow list would accept nothing: name what is allowed",
        ));
    }
    Ok(list)
}

pub(crate) fn texts<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<String>, D::Error> {
    let list: Vec<String> = some(d)?;
    if list.iter().any(String::is_empty) {
        return Err(de::Error::custom("an empty name in a list"));
    }
    Ok(list)
}

pub(super) fn host_paths<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<String>, D::Error> {
    let list: Vec<String> = bounded(d)?;
    list.iter()
        .try_for_each(|p| check_absolute(p))
        .map_err(de::Error::custom)?;
    Ok(list)
}

pub(super) fn some_sha256<'de, D: Deserializer<'de>>(
    d: D,
) -> core::result::Result<Option<Vec<Digest>>, D::Error> {
    let list: Vec<Digest> = some(d)?;
    if list.iter().any(|digest| digest.bank() != Bank::Sha256) {
        return Err(de::Error::custom("a BPF object is named by its sha256"));
    }
    Ok(Some(list))
}

/// What can be done to the collector; what it does to pods is nothing to tolerate.
pub(super) fn touches<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<GuardAction>, D::Error> {
    let list: Vec<GuardAction> = bounded(d)?;
    match list.iter().find(|action| action.is_enforcement()) {
        Some(action) => Err(de::Error::custom(format!(
            "{} is never held against a node",
            action.name()
        ))),
        None => Ok(list),
    }
}

/// A pod's UID, and whether the file has it without dashes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WrittenUid {
    pub(crate) uid: PodUid,
    pub(crate) is_undashed: bool,
}

impl<'de> Deserialize<'de> for WrittenUid {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<WrittenUid, D::Error> {
        let text = String::deserialize(d)?;
        let read = PodUid::parse(text.as_bytes()).and_then(|uid| {
            let is_undashed = text == uid.undashed();
            (is_undashed || text == uid.to_string()).then_some(WrittenUid { uid, is_undashed })
        });
        read.ok_or_else(|| {
            de::Error::custom(format!(
                "{} is not a pod UID: 8-4-4-4-12 hex digits in lower case, or a static pod's 32 (kubernetes.io/config.hash)",
                quoted(&text)
            ))
        })
    }
}

pub(super) fn pods<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<Pod>, D::Error> {
    let list: Vec<Pod> = bounded(d)?;
    let mut seen = std::collections::BTreeSet::new();
    for pod in &list {
        if !seen.insert(pod.uid) {
            return Err(de::Error::custom(format!(
                "pod {} stands twice in the list",
                pod.shown_uid()
            )));
        }
    }
    Ok(list)
}

pub(super) fn tiers_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "array", "minItems": 1, "items": { "enum": ["kernel", "bpf"] } })
}

pub(super) fn actions_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": MAX_ITEMS,
        "items": {
            "enum": [
                "map-opened", "map-read", "program-opened", "link-opened", "link-changed", "pin-removed", "pin-renamed",
                "directory-removed", "unmounted", "traced", "tpm-opened", "tpm-unbound", "ftrace-opened",
            ],
        },
    })
}

pub(super) fn banks_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names = Bank::ALL.map(Bank::name);
    schemars::json_schema!({ "type": "array", "minItems": 1, "items": { "enum": names } })
}

pub(crate) fn digests_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "string",
            "description": "ALGORITHM:HEX, for example sha256: and 64 hex digits.",
            "pattern": "^(sha1:[0-9a-fA-F]{40}|sha256:[0-9a-fA-F]{64}|sha384:[0-9a-fA-F]{96}|sha512:[0-9a-fA-F]{128})$",
        },
    })
}

pub(super) fn uid_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "pattern": "^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})$",
    })
}
