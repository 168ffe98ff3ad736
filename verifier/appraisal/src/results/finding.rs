//! What a rule has to say about a part of the evidence.
//!
//! Promises: every finding names its rule and its subject; a [`Severity::Fail`] makes that subject untrusted,
//! nothing else does. Not here: how findings are reached (one module for each group of rules).

use crate::rules::Rule;
use crate::text::{escape, foreign};
use cgpath_evidence::{PartitionKey, Provenance, record::lossy_path};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What follows from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing follows.
    Note,
    /// Would fail, but the policy tolerates it by a key of its own.
    Tolerated,
    /// Would fail, but somebody accepted it for a time: see `accept`.
    Accepted,
    /// The subject is untrusted.
    Fail,
}

/// Whom a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The node as a whole.
    Node,
    /// One partition. `host`, `boot` and `unattributed` count for the node, a pod's for that pod alone.
    Partition(PartitionKey),
}

impl core::fmt::Display for Subject {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Subject::Node => f.write_str("node"),
            Subject::Partition(key) => core::fmt::Display::fmt(key, f),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text == "node" {
            return Ok(Subject::Node);
        }
        PartitionKey::parse(&text)
            .map(Subject::Partition)
            .ok_or_else(|| serde::de::Error::custom("expected `node` or a partition key"))
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// What follows.
    pub severity: Severity,
    /// About whom.
    pub subject: Subject,
    /// The file, raw bytes as the kernel had them.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_path")]
    pub path: Option<Vec<u8>>,
    /// Index of the entry in the measurement list, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Sequence number of the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// What would have been accepted: digests as `alg:hex`, or words. Empty where there is nothing to name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<String>,
    /// What was found instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// One sentence for people.
    pub text: String,
    /// What the finding rests on; absent where it is about the evidence itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

impl Finding {
    /// A finding that makes `subject` untrusted.
    pub fn fail(rule: Rule, subject: Subject, text: impl Into<String>) -> Finding {
        Finding {
            rule,
            severity: Severity::Fail,
            subject,
            path: None,
            index: None,
            seq: None,
            expected: Vec::new(),
            found: None,
            text: text.into(),
            provenance: None,
        }
    }

    /// A finding from which nothing follows.
    pub fn note(rule: Rule, subject: Subject, text: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Note,
            ..Finding::fail(rule, subject, text)
        }
    }

    /// A finding that the policy tolerates.
    pub fn tolerated(rule: Rule, subject: Subject, text: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Tolerated,
            ..Finding::fail(rule, subject, text)
        }
    }

    /// With the file's path.
    #[must_use]
    pub fn at_path(mut self, path: &[u8]) -> Finding {
        self.path = Some(path.to_vec());
        self
    }

    /// With the entry's index.
    #[must_use]
    pub fn at_index(mut self, index: usize) -> Finding {
        self.index = Some(index as u64);
        self
    }

    /// With the record's sequence number.
    #[must_use]
    pub fn at_seq(mut self, seq: u64) -> Finding {
        self.seq = Some(seq);
        self
    }

    /// With the entry's index and the record's sequence number, where there are any.
    #[must_use]
    pub(crate) fn at(mut self, index: Option<usize>, seq: Option<u64>) -> Finding {
        self.index = index.map(|index| index as u64);
        self.seq = seq;
        self
    }

    /// With what was found.
    #[must_use]
    pub fn found(mut self, found: impl core::fmt::Display) -> Finding {
        self.found = Some(found.to_string());
        self
    }

    /// With what would have been accepted; may be called again for a further value.
    #[must_use]
    pub fn expected(mut self, expected: impl core::fmt::Display) -> Finding {
        self.expected.push(expected.to_string());
        self
    }

    /// With what it rests on.
    #[must_use]
    pub fn resting_on(mut self, provenance: Provenance) -> Finding {
        self.provenance = Some(provenance);
        self
    }
}

/// A subject never has more findings of one rule and severity than this in a verdict, and one that says how
/// many more there were: who fills a list with rubbish does not fill the verifier's memory.
pub const MAX_FINDINGS: usize = 100;

/// Findings as they are made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    kept: Vec<Finding>,
    counts: BTreeMap<(Subject, Rule, Severity), usize>,
}

impl Findings {
    pub(crate) fn push(&mut self, finding: Finding) {
        let count = self
            .counts
            .entry((finding.subject, finding.rule, finding.severity))
            .or_default();
        *count += 1;
        if *count <= MAX_FINDINGS {
            self.kept.push(finding);
        }
    }

    pub(crate) fn extend(&mut self, others: impl IntoIterator<Item = Finding>) {
        for finding in others {
            self.push(finding);
        }
    }

    /// Takes over what others hold, and how many more there were.
    pub(crate) fn absorb(&mut self, others: &Findings) {
        self.extend(others.kept.iter().cloned());
        for (kind, count) in &others.counts {
            if let Some(more) = count.checked_sub(MAX_FINDINGS) {
                *self.counts.entry(*kind).or_default() += more;
            }
        }
    }

    /// How many are kept so far.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Gives the entries that findings from the `first`-th on name the numbers that they have elsewhere;
    /// `None`: no number.
    pub(crate) fn renumber(&mut self, first: usize, number: impl Fn(u64) -> Option<u64>) {
        for finding in self.kept.iter_mut().skip(first) {
            finding.index = finding.index.and_then(&number);
        }
    }

    pub(crate) fn has_failure(&self) -> bool {
        let is_over = |((_, _, severity), count): (&(Subject, Rule, Severity), &usize)| {
            *severity == Severity::Fail && *count > MAX_FINDINGS
        };
        self.kept.iter().any(|f| f.severity == Severity::Fail) || self.counts.iter().any(is_over)
    }

    /// Each finding becomes what `change` makes of it. What could not be kept stays as it was.
    pub(crate) fn map(&mut self, change: impl FnMut(Finding) -> Finding) {
        self.kept = core::mem::take(&mut self.kept).into_iter().map(change).collect();
    }

    /// The findings in the order in which they were made, and what could not be kept.
    pub(crate) fn into_vec(self) -> Vec<Finding> {
        let mut all = self.kept;
        for ((subject, rule, severity), count) in self.counts {
            if let Some(more) = count.checked_sub(MAX_FINDINGS).filter(|more| *more > 0) {
                let text = format!("{more} more finding(s) of this kind are not shown");
                all.push(Finding {
                    severity,
                    ..Finding::note(rule, subject, text)
                });
            }
        }
        all
    }
}

/// Text that holds untrusted bytes, as it may go to a terminal. A backslash stays one: bytes were escaped
/// when the text was made.
fn shown(text: &str) -> String {
    escape(text.as_bytes()).replace("\\\\", "\\")
}

impl core::fmt::Display for Finding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mark = match self.severity {
            Severity::Note => "note",
            Severity::Tolerated => "tolerated",
            Severity::Accepted => "accepted",
            Severity::Fail => "FAIL",
        };
        write!(f, "{mark}: {} ({})", shown(&self.text), self.rule)?;
        if let Some(path) = &self.path {
            write!(f, "\n  path      {}", foreign(path))?;
        }
        if let Some(found) = &self.found {
            write!(f, "\n  found     {}", shown(found))?;
        }
        for expected in &self.expected {
            write!(f, "\n  expected  {}", shown(expected))?;
        }
        let mut place = Vec::new();
        if let Some(index) = self.index {
            place.push(format!("entry {index}"));
        }
        if let Some(seq) = self.seq {
            place.push(format!("record {seq}"));
        }
        if let Some(provenance) = self.provenance {
            place.push(
                match provenance {
                    Provenance::Attested => "attested",
                    Provenance::Observed => "observed",
                    Provenance::Enriched => "enriched",
                }
                .to_owned(),
            );
        }
        if !place.is_empty() {
            write!(f, "\n  where     {}", place.join(", "))?;
        }
        Ok(())
    }
}

mod optional_path {
    use super::lossy_path;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Path(#[serde(with = "lossy_path")] Vec<u8>);

    pub(super) fn serialize<S: Serializer>(path: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        path.clone().map(Path).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Path>::deserialize(d)?.map(|p| p.0))
    }
}
