//! The result of a tenant's judgement, its JSON shape and its text.

use super::TenantState;
use crate::results::finding::Finding;
use crate::results::verdict::PodVerdict;
use crate::text::escape;
use cgpath_evidence::{Digest, merkle::Hash, serde_bytes_hex};
use serde::{Deserialize, Serialize};

/// The JSON shape's version.
pub const TENANT_VERDICT_VERSION: u32 = 1;

/// What a tenant can conclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All that was sealed of the pod is accepted, and a full verifier vouches for what was sealed.
    Trusted,
    /// Something is wrong.
    Untrusted,
    /// All that was sealed of the pod is accepted; whether that is all that happened nobody vouches for, or
    /// nothing is sealed of it but its name. Never trusted.
    PartitionOnly,
    /// The node has sealed nothing of this pod.
    Absent,
}

impl core::fmt::Display for Outcome {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            Outcome::Trusted => "trusted",
            Outcome::Untrusted => "UNTRUSTED",
            Outcome::PartitionOnly => "PARTITION ONLY",
            Outcome::Absent => "NOT THERE",
        })
    }
}

/// What the full verifier's result said beside good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullVerifier {
    /// When, in seconds since 1970.
    pub time: u64,
    /// Bypasses that were in force there.
    pub dangerous: Vec<String>,
}

/// What a tenant's judgement concluded. The JSON names are stable within `version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantVerdict {
    /// [`TENANT_VERDICT_VERSION`].
    pub version: u32,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The conclusion.
    pub outcome: Outcome,
    /// Whether it is [`Outcome::Trusted`].
    pub trusted: bool,
    /// Every bypass that was in force here.
    pub dangerous: Vec<String>,
    /// Values of the policy that are laxer than their defaults.
    pub relaxations: Vec<String>,
    /// What it was judged by.
    pub policy: Digest,
    /// What the node calls itself.
    pub node: String,
    /// Name of the key that signed the quote.
    #[serde(with = "serde_bytes_hex")]
    pub key: Vec<u8>,
    /// The boot.
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// Where the shown list begins.
    pub from: u64,
    /// Entries of the node's list that the quote covers: where the next bundle may begin.
    pub covered: u64,
    /// Number of the last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// SHA-256 of its file.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "serde_bytes_hex::option"
    )]
    pub checkpoint_sha256: Option<Hash>,
    /// Partitions on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u64>,
    /// Records of this pod.
    pub records: u64,
    /// The full verifier's result; absent where none is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_verifier: Option<FullVerifier>,
    /// Why it is no more than [`Outcome::PartitionOnly`]: why no full verifier's result is believed, or that
    /// nothing ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not_more: Option<String>,
    /// The pod; absent where nothing of it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodVerdict>,
    /// Worth knowing.
    pub notes: Vec<String>,
    /// What is wrong with the bundle.
    pub findings: Vec<Finding>,
    /// What to store for the next bundle; `None` where something failed: keep the old state then.
    #[serde(skip)]
    pub state: Option<TenantState>,
}

impl core::fmt::Display for TenantVerdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let shown = |finding: &Finding, f: &mut core::fmt::Formatter<'_>| {
            finding
                .to_string()
                .lines()
                .try_for_each(|line| writeln!(f, "    {line}"))
        };
        let checkpoint = self
            .checkpoint
            .map_or_else(|| "none".to_owned(), |n| n.to_string());
        let name = self
            .pod
            .as_ref()
            .and_then(|pod| pod.name.as_deref())
            .unwrap_or("(no record)");
        writeln!(
            f,
            "POD {}  {}  on node {}, {} record(s) of {} partition(s) under checkpoint {checkpoint}, entries \
             {} to {} of the list",
            escape(name.as_bytes()),
            self.outcome,
            escape(self.node.as_bytes()),
            self.records,
            self.partitions.unwrap_or(0),
            self.from,
            self.covered,
        )?;
        for note in &self.notes {
            writeln!(f, "    note: {}", escape(note.as_bytes()))?;
        }
        for finding in &self.findings {
            shown(finding, f)?;
        }
        if let Some(pod) = &self.pod {
            writeln!(
                f,
                "    its partition: {}, {} entries, {} executions, {} files{}",
                pod.state,
                pod.entries,
                pod.executions,
                pod.file_count(),
                if pod.learned {
                    ", LEARNED values in use"
                } else {
                    ""
                },
            )?;
            for finding in &pod.findings {
                shown(finding, f)?;
            }
        }
        match (&self.full_verifier, &self.why_not_more) {
            (Some(full), why) => {
                writeln!(
                    f,
                    "    a full verifier vouches for this checkpoint (unix time {})",
                    full.time
                )?;
                if let Some(why) = why {
                    writeln!(f, "    not more: {}", escape(why.as_bytes()))?;
                }
                for key in &full.dangerous {
                    writeln!(f, "DANGEROUS, at the full verifier: {}", escape(key.as_bytes()))?;
                }
            }
            (None, Some(why)) => writeln!(
                f,
                "    nobody vouches for what was sealed: {}",
                escape(why.as_bytes())
            )?,
            (None, None) => {}
        }
        for relaxation in &self.relaxations {
            writeln!(f, "RELAXED: {}", escape(relaxation.as_bytes()))?;
        }
        for key in &self.dangerous {
            writeln!(f, "DANGEROUS: {key}")?;
        }
        Ok(())
    }
}
