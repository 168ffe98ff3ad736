//! V9, and of V11 what the host used: files on a file system whose content can change without this node's
//! kernel.
//!
//! Promise: what a record does not say is not made up: without an identity there is no finding. Not here:
//! which file systems these are (see `cgpath_policy::is_local`).

use crate::results::finding::{Finding, Subject};
use crate::rules::Rule;
use cgpath_evidence::{EventKind, PartitionKey, Provenance, Record};
use cgpath_policy::{Policy, file_system_name, is_local};

/// Magic number of the file system that a used file's content lies on, unless it is this machine's own.
pub(crate) fn foreign(record: &Record) -> Option<u64> {
    let is_use = record.is_execution() || record.kind == EventKind::Entry;
    let magic = record.identity.as_deref().filter(|_| is_use)?.magic;
    Some(magic).filter(|magic| !is_local(*magic))
}

/// The finding on the use of a file on such a file system.
pub(crate) fn finding(policy: &Policy, key: PartitionKey, record: &Record) -> Option<Finding> {
    let magic = foreign(record)?;
    let (rule, subject) = (Rule::of_contents(key), Subject::Partition(key));
    let name = file_system_name(magic);
    if policy.permits_file_system(magic) {
        let text = "files on a file system that others can change are used here, as the policy permits";
        return Some(Finding::tolerated(rule, subject, text).found(name));
    }
    let finding = Finding::fail(
        rule,
        subject,
        "the file is on a file system that others can change, so that its hash says nothing of what is read \
         later",
    );
    let finding = finding.at_path(&record.path).at_seq(record.seq).found(name);
    Some(
        finding
            .expected("file-systems.permit in the policy")
            .resting_on(Provenance::Observed),
    )
}
