//! Which anchors evidence must have: `accept.anchors` of a node's policy.
//!
//! Promises: no anchor stands there twice, and at most one is a register of a trust domain. Not here: which
//! other keys go with which anchor (see `node::fit`), and what a verifier asks of each (see
//! `cgpath-appraisal`).

use crate::form::some;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// What vouches for the measurement list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
pub enum Anchor {
    /// PCR 10 of a TPM, which the kernel extends with each entry.
    #[serde(rename = "pcr-10")]
    Pcr10,
    /// RTMR 2 of a trust domain, which the collector extends with each checkpoint.
    #[serde(rename = "rtmr-2")]
    Rtmr2,
    /// RTMR 3 of a trust domain.
    #[serde(rename = "rtmr-3")]
    Rtmr3,
}

impl Anchor {
    /// The number of the RTMR, where it is one.
    pub fn rtmr(self) -> Option<u8> {
        match self {
            Anchor::Pcr10 => None,
            Anchor::Rtmr2 => Some(2),
            Anchor::Rtmr3 => Some(3),
        }
    }
}

impl core::fmt::Display for Anchor {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Anchor::Pcr10 => "PCR 10",
            Anchor::Rtmr2 => "RTMR 2",
            Anchor::Rtmr3 => "RTMR 3",
        })
    }
}

pub(crate) fn default_anchors() -> Vec<Anchor> {
    vec![Anchor::Pcr10]
}

pub(crate) fn anchors<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Anchor>, D::Error> {
    let list: Vec<Anchor> = some(d)?;
    let mut sorted = list.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != list.len() {
        return Err(de::Error::custom("an anchor stands twice"));
    }
    if list.iter().filter(|anchor| anchor.rtmr().is_some()).count() > 1 {
        return Err(de::Error::custom(
            "a collector extends one RTMR: name rtmr-2 or rtmr-3",
        ));
    }
    Ok(list)
}
