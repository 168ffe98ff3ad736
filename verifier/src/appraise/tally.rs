//! What one partition used, while it is being judged.
//!
//! Promise: a thing is said once for each path and content, however often it was used; what fails and has no content (a
//! violation, a suspect process) is said each time, for each is a finding of its own. Not here: what is accepted.

use super::{
    finding::{Finding, Findings, Rule, Severity, Subject},
    verdict::{Deviation, SeenFile},
};
use crate::accept::names_content;
use evidence::{Digest, PartitionKey, merkle::Hash};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};

/// What of a partition's files is not as the reference values have it, or was not looked at.
#[derive(Default)]
pub(crate) struct Deviations {
    pub fnf: Vec<Deviation>,
    pub filehash_err: Vec<Deviation>,
    pub excluded: u64,
}

/// What was concluded of one content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Accepted,
    Excluded,
    UnknownPath,
    WrongHash,
    /// It was not accepted for another reason.
    Refused,
}

/// One partition while it is being judged.
#[derive(Default)]
pub(crate) struct Tally<'a> {
    pub entries: u64,
    pub executions: u64,
    pub suspect: u64,
    pub learned: bool,
    pub files: Vec<SeenFile>,
    pub deviations: Deviations,
    excluded_files: u64,
    seen: HashMap<(&'a [u8], Option<&'a Digest>), usize>,
    pub findings: Findings,
    said: HashSet<Hash>,
}

impl<'a> Tally<'a> {
    /// Says a thing once for each path and content, and what fails without a content each time. A hash stands for what was said, so that it costs no more than that
    /// however long paths are.
    pub(crate) fn say(&mut self, finding: Finding) {
        let mut hash = Sha256::new().chain_update([finding.rule as u8, finding.severity as u8]);
        let path = finding.path.as_deref().unwrap_or_default();
        let found = finding.found.as_deref().unwrap_or_default();
        if finding.severity == Severity::Fail && !names_content(&finding) {
            let place = [finding.index, finding.seq].map(|number| number.unwrap_or(u64::MAX).to_be_bytes());
            hash = hash.chain_update(place.concat());
        }
        for part in [path, finding.text.as_bytes(), found.as_bytes()] {
            hash = hash
                .chain_update((part.len() as u64).to_be_bytes())
                .chain_update(part);
        }
        if self.said.insert(hash.finalize().into()) {
            self.findings.push(finding);
        }
    }

    pub(crate) fn saw(&mut self, path: &'a [u8], digest: Option<&'a Digest>, is_execution: bool, seen: Seen) {
        let accepted = matches!(seen, Seen::Accepted | Seen::Excluded);
        let is_excluded = seen == Seen::Excluded;
        self.deviations.excluded += u64::from(is_excluded);
        let next = self.files.len();
        let at = *self.seen.entry((path, digest)).or_insert_with(|| {
            self.files.push(SeenFile {
                path: path.to_vec(),
                digest: digest.cloned(),
                entries: 0,
                executions: 0,
                accepted,
                excluded: is_excluded,
            });
            self.excluded_files += u64::from(is_excluded);
            let deviation = digest.map(|digest| Deviation {
                path: path.to_vec(),
                digest: digest.clone(),
            });
            match seen {
                Seen::UnknownPath => self.deviations.fnf.extend(deviation),
                Seen::WrongHash => self.deviations.filehash_err.extend(deviation),
                _ => {}
            }
            next
        });
        if let Some(file) = self.files.get_mut(at) {
            file.accepted &= accepted;
            if is_execution {
                file.executions += 1;
            } else {
                file.entries += 1;
            }
        }
    }

    /// Says how much the excludes hide: it would be judged without them.
    pub(crate) fn say_excluded(&mut self, key: PartitionKey) {
        let (uses, files) = (self.deviations.excluded, self.excluded_files);
        if uses > 0 {
            self.findings.push(
                Finding::tolerated(
                    rule_of(key),
                    Subject::Partition(key),
                    format!("excludes hide {uses} measured entries and executions of {files} files: nobody judged them"),
                )
                .found(uses),
            );
        }
    }
}

/// The rule that what a partition uses is judged by.
pub(crate) fn rule_of(key: PartitionKey) -> Rule {
    match key {
        PartitionKey::Pod(_) => Rule::V9,
        PartitionKey::Host | PartitionKey::Boot | PartitionKey::Unattributed => Rule::V11,
    }
}
