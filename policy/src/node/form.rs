//! The form of values in a node's policy alone: how each is read, and what its JSON Schema says where the
//! type does not say it.
//!
//! Not here: which keys there are (see `node`), what other files have, too (see [`crate::form`]).

use super::Pod;
use crate::form::{MAX_ITEMS, distinct, each, refused, some_of};
use crate::reference::MAX_PATH_LEN;
use cgpath_evidence::text::quoted;
use cgpath_evidence::{Bank, Digest, GuardAction, PodUid};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, de};

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

pub(super) fn host_paths<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<String>, D::Error> {
    each(d, |path: &String| check_absolute(path))
}

pub(super) fn some_sha256<'de, D: Deserializer<'de>>(
    d: D,
) -> core::result::Result<Option<Vec<Digest>>, D::Error> {
    let list = some_of(d, |digest: &Digest| match digest.bank() {
        Bank::Sha256 => Ok(()),
        _ => Err("a BPF object is named by its sha256".to_owned()),
    })?;
    Ok(Some(list))
}

/// What can be done to the collector; what it does to pods is nothing to tolerate.
pub(super) fn touches<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<GuardAction>, D::Error> {
    each(d, |action: &GuardAction| match action.is_enforcement() {
        true => Err(format!("{} is never held against a node", action.name())),
        false => Ok(()),
    })
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
                "{} is not a pod UID: 8-4-4-4-12 hex digits in lower case, or a static pod's 32 \
                 (kubernetes.io/config.hash)",
                quoted(&text)
            ))
        })
    }
}

pub(super) fn pods<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<Pod>, D::Error> {
    distinct(
        d,
        |pod: &Pod| pod.uid,
        |pod| format!("pod {}", pod.shown_uid()),
        |_| None,
    )
}

/// The name of a file beside the policy.
pub(crate) fn file_name<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Option<String>, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() || text.len() > MAX_PATH_LEN || text.chars().any(char::is_control) {
        return Err(de::Error::custom(format!(
            "{} is no name of a file",
            quoted(&text)
        )));
    }
    Ok(Some(text))
}

/// The keys by which version 1 differs: `pods` is there, and `workloads` is not.
#[derive(Deserialize)]
pub(super) struct OfVersion1 {
    #[serde(rename = "pods")]
    _pods: IgnoredAny,
    #[serde(rename = "workloads", default, deserialize_with = "of_version_2")]
    _workloads: (),
}

/// The keys by which version 2 differs: `workloads` is there, and `pods` is not.
#[derive(Deserialize)]
pub(super) struct OfVersion2 {
    #[serde(rename = "workloads")]
    _workloads: IgnoredAny,
    #[serde(rename = "pods", default, deserialize_with = "of_version_1")]
    _pods: (),
}

fn of_version_1<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<(), D::Error> {
    refused(
        d,
        "`pods` is a key of version 1: name the file of the workloads (`workloads`), which `cgpath policy \
         migrate` makes",
    )
}

fn of_version_2<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<(), D::Error> {
    refused(
        d,
        "`workloads` is a key of version 2, and this policy says `version: 1`",
    )
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
                "map-opened", "map-read", "program-opened", "link-opened", "link-changed", "pin-removed",
                "pin-renamed",
                "directory-removed", "unmounted", "traced", "tpm-opened", "tpm-unbound", "ftrace-opened",
            ],
        },
    })
}

pub(crate) fn banks_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names = Bank::ALL.map(Bank::name);
    schemars::json_schema!({ "type": "array", "minItems": 1, "items": { "enum": names } })
}

pub(crate) fn uid_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "pattern": "^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})$",
    })
}
