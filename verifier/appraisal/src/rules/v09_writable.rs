//! V9, and of V11 what the host mapped: files that are mapped writable and executable at once.
//!
//! Promise: the finding is about the mapping, whatever is said of the file's content and whatever hides its
//! path. Not here: mappings that are the one after the other, which are late mappings without a hash (see
//! `v09_contents`).

use crate::results::finding::{Finding, Subject};
use crate::rules::Rule;
use cgpath_evidence::{EventKind, PartitionKey, Provenance, Record};

/// The finding on such a mapping, if the record is of one or says so of something else.
pub(crate) fn finding(key: PartitionKey, record: &Record) -> Option<Finding> {
    if !record.writable {
        return None;
    }
    let text = match record.kind {
        EventKind::Mapping | EventKind::LateMapping => {
            "a file was mapped writable and executable at once, so that what ran there need not be the \
             file's content"
        }
        _ => "a record of something else than a mapping says that a mapping was writable",
    };
    let finding = Finding::fail(Rule::of_contents(key), Subject::Partition(key), text);
    let finding = finding.at_path(&record.path).at_seq(record.seq);
    Some(finding.resting_on(Provenance::Observed))
}
