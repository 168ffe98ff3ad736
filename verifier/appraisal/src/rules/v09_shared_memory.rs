//! V9 for pods that make shared memory without a name executable after they mapped it, as runtimes do that
//! compile code and write it by another mapping than the one that it runs in.
//!
//! Promise: what the policy's key speaks of is such a late mapping and nothing else, whatever the memory is
//! called: no execution of it, no mapping that is writable at once, no other file. Not here: which file is
//! such memory (see `Record::is_of_unlinked_memory`).

use crate::results::finding::{Finding, Subject};
use crate::rules::Rule;
use cgpath_evidence::{EventKind, FileHash, Provenance, Record};

/// What a pod's policy has to say, or a container's.
pub(crate) const KEY: &str = "shared-memory-code: trust, in the policy of this pod or container";

/// Whether a record is a late mapping of such memory, and nothing that fails beside that.
pub(crate) fn is_it(record: &Record) -> bool {
    let has_content = record.hash.as_ref().and_then(FileHash::digest).is_some();
    record.kind == EventKind::LateMapping
        && record.is_of_unlinked_memory()
        && !record.writable
        && !record.path_cut
        && !has_content
}

/// Such mappings of a pod, or of a part of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LateMappings {
    count: u64,
    /// Path and number of the first one.
    first: Option<(Vec<u8>, u64)>,
}

impl LateMappings {
    /// One more, of which the record says so.
    pub(crate) fn add(&mut self, record: &Record) {
        self.count += 1;
        self.first
            .get_or_insert_with(|| (record.path.clone(), record.seq));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The finding on all of them, if there are any; `label` stands before the text. One more of them makes
    /// it another finding. `None` is where no key of a policy could trust them.
    pub(crate) fn finding(&self, subject: Subject, is_trusted: Option<bool>, label: &str) -> Option<Finding> {
        let (path, seq) = self.first.as_ref()?;
        let text = format!(
            "{label}shared memory without a name was made executable after it was mapped, so no record says \
             what ran there"
        );
        let finding = match is_trusted {
            Some(true) => Finding::tolerated(Rule::PodContents, subject, text),
            Some(false) => Finding::fail(Rule::PodContents, subject, text).expected(KEY),
            None => Finding::fail(Rule::PodContents, subject, text),
        };
        let finding = finding.at_path(path).at_seq(*seq);
        let finding = finding.found(format!("late mappings: {}", self.count));
        Some(finding.resting_on(Provenance::Observed))
    }

    /// About how many bytes of memory this takes beside itself.
    pub(crate) fn weight(&self) -> usize {
        self.first.as_ref().map_or(0, |(path, _)| path.len())
    }
}
