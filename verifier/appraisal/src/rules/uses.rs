//! What a part of a pod used, kept until it is known what may be used there.
//!
//! Promise: each path and content is kept once, so that what is concluded of a pod does not depend on when
//! its names came. Not here: what is accepted (see `v08_workloads`).

use crate::rules::v09_shared_memory::LateMappings;
use cgpath_evidence::{Digest, Provenance};
use cgpath_policy::Name;
use std::collections::BTreeMap;

/// A path with a content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Content {
    is_listed: bool,
    path: Vec<u8>,
    digest: Option<Digest>,
}

/// How it was used.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    /// In the order of first sight.
    number: usize,
    pub entries: u64,
    pub executions: u64,
    /// The path of some of it could not be read whole.
    pub path_cut: bool,
    /// Of the first time.
    pub index: Option<usize>,
    pub seq: Option<u64>,
    pub provenance: Provenance,
}

/// All that one part used.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uses {
    of: BTreeMap<Content, Use>,
    /// Above one of its processes: the first program that runs others out of the kernel's sight, and the
    /// number of the record that names it.
    opaque_above: Option<(Vec<u8>, u64)>,
    /// Of shared memory without a name.
    pub shared_memory: LateMappings,
}

impl Uses {
    /// One more use; `first` is what is kept of it if it is the first one.
    pub(crate) fn add(&mut self, name: Name<'_>, digest: Option<&Digest>, is_execution: bool, first: Use) {
        let number = self.of.len();
        let content = Content {
            is_listed: matches!(name, Name::Listed(_)),
            path: name.bytes().to_vec(),
            digest: digest.cloned(),
        };
        let path_cut = first.path_cut;
        let used = self.of.entry(content).or_insert(Use { number, ..first });
        used.path_cut |= path_cut;
        used.executions += u64::from(is_execution);
        used.entries += u64::from(!is_execution);
    }

    /// A process of this part ran below a program that runs others out of the kernel's sight.
    pub(crate) fn ran_below(&mut self, opaque: &[u8], seq: u64) {
        self.opaque_above.get_or_insert_with(|| (opaque.to_vec(), seq));
    }

    /// The first such program, and the number of the record that names it.
    pub(crate) fn opaque_above(&self) -> Option<(&[u8], u64)> {
        self.opaque_above
            .as_ref()
            .map(|(path, seq)| (path.as_slice(), *seq))
    }

    /// All of it, in the order of first sight.
    pub(crate) fn in_order(&self) -> Vec<(Name<'_>, Option<&Digest>, &Use)> {
        let mut all: Vec<_> = self
            .of
            .iter()
            .map(|(content, used)| {
                let name = match content.is_listed {
                    true => Name::Listed(&content.path),
                    false => Name::True(&content.path),
                };
                (name, content.digest.as_ref(), used)
            })
            .collect();
        all.sort_by_key(|(.., used)| used.number);
        all
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        let contents: usize = self.of.keys().map(|content| content.path.len() + 200).sum();
        contents + self.shared_memory.weight()
    }
}

impl Use {
    /// Before it was counted.
    pub(crate) fn first(index: Option<usize>, seq: Option<u64>, provenance: Provenance) -> Use {
        Use {
            number: 0,
            entries: 0,
            executions: 0,
            path_cut: false,
            index,
            seq,
            provenance,
        }
    }
}
