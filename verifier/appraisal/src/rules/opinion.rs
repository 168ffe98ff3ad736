//! What contents are judged by: the covered list with its joins, and what the policy says of each content.
//!
//! Promise: an opinion needs nothing but the content and whose it is, so that opinions can be formed side by
//! side. Not here: what follows from it for the partition (see `v09_contents`).

use crate::inputs::context::MAX_IMPOSTORS;
use crate::inputs::decoded::Line;
use crate::inputs::kept::Lines;
use crate::rules::v04_chain::Chain;
use crate::rules::v05_join::Joins;
use cgpath_evidence::{
    Digest, EventKind, FileHash, PartitionKey, PodUid, Provenance, Record, checkpoint::number_from_path,
};
use cgpath_policy::{ContentMatch, Hidden, Name, Policy};

/// What is known of the covered list when contents are judged.
pub(crate) struct Scene<'a> {
    pub policy: &'a Policy,
    pub chain: &'a Chain,
    pub joins: &'a Joins<'a>,
    pub lines: Lines<'a>,
    pub covered: usize,
    /// What it rests on whose an entry is.
    pub provenance: Provenance,
    /// Entries that accepted evidence covered when a kernel was started by kexec.
    pub kexecs: &'a [usize],
    /// Entries from before that kernel that were named like a checkpoint's file and measured none, in order.
    pub impostors: &'a [usize],
}

/// What the policy says of a content, whatever else was seen.
pub(crate) enum Opinion {
    Excluded,
    /// No policy knows the pod.
    Nothing,
    LookedUp {
        matched: ContentMatch,
        /// Whether an exclude hides it could not be found out.
        gave_up: bool,
    },
}

impl<'a> Scene<'a> {
    /// The content that a record says was used, if the policy is to judge it.
    pub(crate) fn content_of(
        &self,
        place: usize,
        key: PartitionKey,
        record: &'a Record,
    ) -> Option<(Name<'a>, &'a Digest)> {
        match record.kind {
            EventKind::Entry => {
                let index = self.joins.entry_of(place)?;
                let line = self
                    .line(index)
                    .filter(|line| !self.is_checkpoint(key, index, line))?;
                Some((Name::Listed(line.path.unwrap_or_default()), line.file.as_ref()?))
            }
            EventKind::Execution | EventKind::Script | EventKind::Mapping | EventKind::LateMapping => {
                let digest = record.hash.as_ref().and_then(FileHash::digest)?;
                Some((Name::True(&record.path), digest))
            }
            EventKind::Violation
            | EventKind::Guard
            | EventKind::PodLoss
            | EventKind::LayerWrite
            | EventKind::Name
            | EventKind::Load => None,
        }
    }

    /// An entry that is new or that a new record joins.
    pub(crate) fn line(&self, index: usize) -> Option<&'a Line<'a>> {
        match index.checked_sub(self.lines.first()) {
            Some(at) => self.lines.new_ones().get(at),
            None => self.joins.old(index),
        }
    }

    /// Whether this is the entry of a checkpoint that the collector read.
    pub(crate) fn is_checkpoint(&self, key: PartitionKey, index: usize, line: &Line) -> bool {
        key == PartitionKey::Host
            && number_from_path(line.path.unwrap_or_default()).is_some()
            && self.chain.is_anchor(index)
    }

    /// Whether this entry from before a kexec measured a checkpoint's file, as far as what is kept of that
    /// boot tells. Where more were none than are kept, no later one is taken for one.
    pub(crate) fn was_checkpoint(&self, index: usize, path: &[u8]) -> bool {
        let is_kept = match self.impostors {
            [.., last] if self.impostors.len() >= MAX_IMPOSTORS => index <= *last,
            _ => true,
        };
        is_kept && number_from_path(path).is_some() && self.impostors.binary_search(&index).is_err()
    }

    pub(crate) fn opinion(&self, key: PartitionKey, name: Name<'_>, digest: &Digest) -> Opinion {
        let policy = self.policy;
        let hidden = match key {
            PartitionKey::Pod(uid) => policy.hides_in_pod(&uid, name),
            PartitionKey::Host | PartitionKey::Boot | PartitionKey::Unattributed => {
                policy.hides_on_host(name)
            }
        };
        if hidden == Hidden::Yes {
            return Opinion::Excluded;
        }
        let matched = match key {
            PartitionKey::Pod(uid) => match policy.look_up_pod(&uid, name, digest) {
                Some(matched) => matched,
                None => return Opinion::Nothing,
            },
            _ if policy.file.accept.ima_policies.contains(digest) => ContentMatch::Accepted {
                basis: cgpath_policy::Basis::Own,
                learned: false,
            },
            PartitionKey::Host | PartitionKey::Unattributed => policy.look_up_host(name, digest),
            PartitionKey::Boot => {
                let on_host = policy.look_up_host(name, digest);
                let of_pod = (!on_host.is_accepted()).then(|| self.of_predating(name, digest));
                of_pod.flatten().unwrap_or(on_host)
            }
        };
        Opinion::LookedUp {
            matched,
            gave_up: hidden == Hidden::GaveUp,
        }
    }

    /// What is said of an entry of the boot before a kexec. Whose it was is known no more: the host may have
    /// it, or some pod of the policy. So no exclude of a pod counts, but for the host's own.
    pub(crate) fn opinion_of_boot_before(&self, name: Name<'_>, digest: &Digest) -> Opinion {
        let of_pod = || self.accepted_by_pods(self.policy.pods.keys(), name, digest);
        let opinion = self.opinion(PartitionKey::Boot, name, digest);
        match opinion {
            Opinion::LookedUp { matched, gave_up } if !matched.is_accepted() => Opinion::LookedUp {
                matched: of_pod().unwrap_or(matched),
                gave_up,
            },
            opinion => opinion,
        }
    }

    /// What pods had used before the load stands in the boot's part of the list, and nobody recorded for
    /// whom: it is accepted there if the values of a pod that was there then, and that the policy knows,
    /// accept it. No exclude of a pod counts: the host may have used it.
    fn of_predating(&self, name: Name<'_>, digest: &Digest) -> Option<ContentMatch> {
        let pods = self.chain.predating();
        // Names of those pods may come later, and this is concluded once: any workload may have it.
        let is_any = !pods.is_empty();
        is_any.then(|| self.accepted_by_pods(pods.iter(), name, digest))?
    }

    /// What accepts a content among the values of these pods, or of any workload.
    fn accepted_by_pods<'u>(
        &self,
        mut uids: impl Iterator<Item = &'u PodUid>,
        name: Name<'_>,
        digest: &Digest,
    ) -> Option<ContentMatch> {
        let of_uid = uids.find_map(|uid| {
            let matched = self.policy.look_up_pod(uid, name, digest);
            matched.filter(ContentMatch::is_accepted)
        });
        of_uid.or_else(|| self.policy.accepted_in_workloads(name, digest))
    }
}
