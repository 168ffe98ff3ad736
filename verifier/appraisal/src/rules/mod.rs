//! The rules of a verifier, a file for each, by its number in docs/spec/rules.md.
//!
//! A rule is a step over what is known of a node and what a round adds, and a conclusion. [`crate::steps`]
//! takes the steps in their order. What several rules need is in `opinion` (what the policy says of a
//! content), `partition` (what one partition used), `uses` (the same before it is judged), `names` and
//! `waits`. V13 has no file: each rule fails where its own input is absent.
//! Not here: whom a finding is about and what follows from it (see `results`).

pub(crate) mod names;
pub(crate) mod opinion;
pub(crate) mod partition;
pub(crate) mod uses;
pub(crate) mod v01_quote;
pub(crate) mod v01_td;
pub(crate) mod v02_bound;
pub(crate) mod v02_coverage;
pub(crate) mod v03_template;
pub(crate) mod v04_chain;
pub(crate) mod v04_readers;
pub(crate) mod v04_register;
pub(crate) mod v05_join;
pub(crate) mod v05_pending;
pub(crate) mod v05_sealed;
pub(crate) mod v06_losses;
pub(crate) mod v07_history;
pub(crate) mod v08_pods;
pub(crate) mod v08_workloads;
pub(crate) mod v09_contents;
pub(crate) mod v09_file_systems;
pub(crate) mod v09_opaque;
pub(crate) mod v09_shared_memory;
pub(crate) mod v09_writable;
pub(crate) mod v10_boot;
pub(crate) mod v10_measured;
pub(crate) mod v11_foundations;
pub(crate) mod v11_loads;
pub(crate) mod v12_violations;
pub(crate) mod v14_collectors;
pub(crate) mod v14_guard;
pub(crate) mod waits;

use cgpath_evidence::PartitionKey;
use serde::{Deserialize, Serialize};

/// A rule. In JSON and in texts it is its number: `V1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rule {
    /// V1. The quote: format, key, signature, nonce.
    #[serde(rename = "V1")]
    Quote,
    /// V2. The list replays to the quoted register.
    #[serde(rename = "V2")]
    Coverage,
    /// V3. The template is the pinned one.
    #[serde(rename = "V3")]
    Template,
    /// V4. Checkpoints: anchored, signed, one unbroken chain, fresh, and coverage never shrinks.
    #[serde(rename = "V4")]
    Chain,
    /// V5. Records join entries, entries have records, sealed records are all there.
    #[serde(rename = "V5")]
    Records,
    /// V6. Losses and blind checkpoints.
    #[serde(rename = "V6")]
    Losses,
    /// V7. Resets, restarts, clock and boot id never go back.
    #[serde(rename = "V7")]
    History,
    /// V8. Every pod is known.
    #[serde(rename = "V8")]
    KnownPods,
    /// V9. A pod's own files are those its policy accepts; an untrusted pod leaves the rest as it is.
    #[serde(rename = "V9")]
    PodContents,
    /// V10. The boot log.
    #[serde(rename = "V10")]
    Boot,
    /// V11. The collector, the IMA policy, `host` and `boot`.
    #[serde(rename = "V11")]
    Host,
    /// V12. Violations.
    #[serde(rename = "V12")]
    Violations,
    /// V13. What is absent fails.
    #[serde(rename = "V13")]
    Absent,
    /// V14. Nobody touches the collector's own parts.
    #[serde(rename = "V14")]
    Guard,
}

impl Rule {
    /// All rules in order.
    pub const ALL: [Rule; 14] = [
        Rule::Quote,
        Rule::Coverage,
        Rule::Template,
        Rule::Chain,
        Rule::Records,
        Rule::Losses,
        Rule::History,
        Rule::KnownPods,
        Rule::PodContents,
        Rule::Boot,
        Rule::Host,
        Rule::Violations,
        Rule::Absent,
        Rule::Guard,
    ];

    /// From 1.
    pub fn number(self) -> u8 {
        // The declaration is in their order: `tests::numbers_are_those_of_the_specification`.
        self as u8 + 1
    }

    /// The rule that the contents which a partition used are appraised by.
    pub(crate) fn of_contents(key: PartitionKey) -> Rule {
        match key {
            PartitionKey::Pod(_) => Rule::PodContents,
            PartitionKey::Host | PartitionKey::Boot | PartitionKey::Unattributed => Rule::Host,
        }
    }

    /// Whether every other conclusion rests on it: where it fails, neither the node's nor any pod's evidence
    /// is to be believed. Failures of the other rules are the node's own and leave the pods as they are.
    pub(crate) fn is_basis(self) -> bool {
        match self {
            Rule::Quote
            | Rule::Coverage
            | Rule::Template
            | Rule::Chain
            | Rule::Records
            | Rule::Losses
            | Rule::History
            // What another kernel says of pods is worth nothing.
            | Rule::Boot
            | Rule::Absent => true,
            Rule::KnownPods | Rule::PodContents | Rule::Host | Rule::Violations | Rule::Guard => false,
        }
    }
}

impl core::fmt::Display for Rule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "V{}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_specification() {
        for (at, rule) in Rule::ALL.into_iter().enumerate() {
            let number = format!("V{}", at + 1);
            assert_eq!(rule.to_string(), number);
            assert_eq!(serde_json::to_value(rule).unwrap(), number);
            assert_eq!(serde_json::from_value::<Rule>(number.into()).unwrap(), rule);
        }
    }
}
