//! The form of values in the workload part: how each is read, which keys nothing appraises yet, and what the
//! JSON Schema says where the type does not say it.
//!
//! Promise: a key that nothing appraises is an error at its own place. Not here: which keys there are (see
//! `workloads`).

use super::{ANY_CONTAINER, Container, ListedImage, MAX_SETTLE, Selector, Workload};
use crate::Pattern;
use crate::form::{MAX_ITEMS, distinct, refused, some_of, whole};
use cgpath_evidence::name::{MAX_LABEL, MAX_LABELS, is_label, is_name};
use cgpath_evidence::text::quoted;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;

pub(super) fn version_two<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<u32, D::Error> {
    match u32::deserialize(d)? {
        2 => Ok(2),
        other => Err(de::Error::custom(format!(
            "version {other} of workloads is not known here, 2 is"
        ))),
    }
}

pub(super) fn signatures<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<(), D::Error> {
    refused(d, "signatures of images are not checked yet: leave this key out")
}

pub(super) fn executions<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<(), D::Error> {
    refused(
        d,
        "nobody knows yet what `kubectl exec` or a probe started: leave this key out",
    )
}

pub(super) fn needs_api<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<(), D::Error> {
    refused(
        d,
        "only the Kubernetes API knows this, and it is not asked yet: leave this key out",
    )
}

pub(super) fn ends<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<(), D::Error> {
    refused(
        d,
        "evidence does not say yet when a pod ended, so nobody can count those that are there at once: leave \
         this key out",
    )
}

/// Patterns that a path from the root can match: what has no such path is nowhere.
pub(super) fn only<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<Pattern>, D::Error> {
    some_of(d, |pattern: &Pattern| match pattern.text().starts_with('/') {
        true => Ok(()),
        false => Err(format!("pattern {} must begin with /", quoted(pattern.text()))),
    })
}

/// Reads a text as what `parse` makes of it, or says at its place why that is nothing.
struct Text<P>(P);

impl<'de, T, P: FnOnce(&str) -> core::result::Result<T, String>> de::Visitor<'de> for Text<P> {
    type Value = T;
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a text")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> core::result::Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

/// The name of a folder, without the `/` that may end it.
pub(super) fn folder<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<String, D::Error> {
    let name = crate::node::form::file_name(d)?.unwrap_or_default();
    let shorter = name.trim_end_matches('/');
    match shorter.is_empty() {
        true => Ok(name),
        false => Ok(shorter.to_owned()),
    }
}

impl<'de> Deserialize<'de> for ListedImage {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<ListedImage, D::Error> {
        d.deserialize_str(Text(ListedImage::parse))
    }
}

/// `120s` or `2m`, in seconds.
pub(super) fn seconds<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<u32, D::Error> {
    let of = |digits: &str, unit: u32| digits.parse::<u32>().ok()?.checked_mul(unit);
    d.deserialize_str(Text(|text: &str| {
        let found = match text.split_at_checked(text.len().saturating_sub(1)) {
            Some((digits, "s")) => of(digits, 1),
            Some((digits, "m")) => of(digits, 60),
            _ => None,
        };
        found.filter(|seconds| *seconds <= MAX_SETTLE).ok_or_else(|| {
            format!(
                "{} is not a time of at most {MAX_SETTLE}s, such as 120s or 2m",
                quoted(text)
            )
        })
    }))
}

pub(super) fn listed<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<Workload>, D::Error> {
    let named = |workload: &Workload| format!("workload {}", quoted(&workload.name));
    distinct(
        d,
        |workload: &Workload| workload.name.clone(),
        named,
        namespace_fault,
    )
}

/// Who may read a pod's verdict rests on the namespace in its workload's name: it is the one that `match`
/// has, or that of the one pod that is meant.
fn namespace_fault(workload: &Workload) -> Option<String> {
    let (named, _) = workload.name.split_once('/')?;
    let is_it = match &workload.selector.namespace {
        Some(own) => own == named,
        None => workload.selector.uid.is_some(),
    };
    let fault = || {
        format!(
            "workload {} is called by a namespace that its `match` does not have: write `namespace: {}` \
             there, or a name without `/`",
            quoted(&workload.name),
            quoted(named)
        )
    };
    (!is_it).then(fault)
}

/// Whether Kubernetes could call something so.
fn checked_name(text: &str) -> core::result::Result<String, String> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is no name that Kubernetes gives", quoted(text)))
}

pub(super) fn namespace<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Option<String>, D::Error> {
    d.deserialize_str(Text(checked_name)).map(Some)
}

pub(super) fn labels<'de, D: Deserializer<'de>>(
    d: D,
) -> core::result::Result<BTreeMap<String, String>, D::Error> {
    whole(d, |labels: &BTreeMap<String, String>| {
        if labels.len() > MAX_LABELS {
            return Err(format!("a pod has at most {MAX_LABELS} labels"));
        }
        let mut odd = labels.iter().filter(|(key, value)| !is_label(key, value));
        match odd.next() {
            Some((key, _)) => Err(format!(
                "label {} is empty, longer than {MAX_LABEL} bytes or no text",
                quoted(key)
            )),
            None => Ok(()),
        }
    })
}

pub(super) fn selector<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Selector, D::Error> {
    whole(d, |selector: &Selector| match selector.is_empty() {
        true => Err("an empty `match` would take every pod: name a namespace, labels or a UID".to_owned()),
        false => Ok(()),
    })
}

/// A container's name, checked where it stands.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ContainerKey(String);

impl<'de> Deserialize<'de> for ContainerKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<ContainerKey, D::Error> {
        let key = Text(|text: &str| match text {
            ANY_CONTAINER => Ok(text.to_owned()),
            _ => checked_name(text),
        });
        d.deserialize_str(key).map(ContainerKey)
    }
}

/// A container, checked as a whole where it stands.
struct Checked(Container);

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<Checked, D::Error> {
        let container = whole(d, |container: &Container| {
            match container.images.is_empty() && container.references.is_empty() {
                true => Err("a container has `images`, `references` or both".to_owned()),
                false => Ok(()),
            }
        });
        container.map(Checked)
    }
}

pub(super) fn containers<'de, D: Deserializer<'de>>(
    d: D,
) -> core::result::Result<BTreeMap<String, Container>, D::Error> {
    let found = whole(d, |found: &BTreeMap<ContainerKey, Checked>| {
        match (1..=MAX_ITEMS).contains(&found.len()) {
            true => Ok(()),
            false => Err(format!(
                "a workload has 1 to {MAX_ITEMS} containers: without any nothing could run in it"
            )),
        }
    })?;
    Ok(found
        .into_iter()
        .map(|(key, container)| (key.0, container.0))
        .collect())
}

pub(super) fn settle_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "pattern": "^[0-9]+[sm]$", "default": "120s" })
}

pub(super) fn only_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_ITEMS,
        "items": { "type": "string", "pattern": "^/" },
    })
}
