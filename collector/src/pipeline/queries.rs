//! What can be asked of the pipeline between two events; nothing here changes it.

use super::event::Unnamed;
use super::sealing::pods;
use super::{Pipeline, phase::Phase};
use cgpath_evidence::PartitionKey;
use cgpath_evidence::checkpoint::Losses;

impl Pipeline {
    /// Whether [`Note::Base`](super::Note::Base) has been handled.
    pub fn is_based(&self) -> bool {
        self.based
    }

    /// Whether [`Note::Loaded`](super::Note::Loaded) has been handled.
    pub fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    /// Number of the last checkpoint that was sealed.
    pub fn last_checkpoint(&self) -> Option<u64> {
        self.last.as_ref().map(|l| l.number)
    }

    /// Number of the first checkpoint that was sealed blind: this boot cannot be attested any more.
    pub fn first_blind(&self) -> Option<u64> {
        self.blind
    }

    /// Whether nothing is being sealed and no request waits.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle && self.queue.is_empty()
    }

    /// Whether [`Signal::Tick`](super::Signal::Tick) is wanted soon: records on their way are waited for.
    pub fn wants_ticks(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. } | Phase::Looking { .. })
    }

    /// Whether a quote is being made, for which no record is wanted.
    pub fn is_quoting(&self) -> bool {
        matches!(self.phase, Phase::Quoting { .. })
    }

    /// Partitions with at least one record: key and number of records.
    pub fn sizes(&self) -> impl Iterator<Item = (PartitionKey, u64)> + '_ {
        self.partitions.iter().map(|(key, f)| (*key, f.size()))
    }

    /// Pods and containers that the container runtime has not named.
    pub fn unnamed(&self) -> Unnamed {
        self.names.unnamed()
    }

    /// Records appended so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Entries of the list taken in so far.
    pub fn list_len(&self) -> u64 {
        self.join.len()
    }

    /// Records whose entry has not been seen in the list.
    pub fn unjoined(&self) -> u64 {
        self.join.waiting()
    }

    /// Pods that are there and ran before the programs were loaded.
    pub fn predating_pods(&self) -> u64 {
        pods(self.cgroups.predating_there().iter().map(Vec::as_slice)).len() as u64
    }

    /// What was lost so far.
    pub fn losses(&self) -> Losses {
        let holes = self.order.lost().saturating_sub(self.counters.reserve);
        Losses {
            reserve: self.counters.reserve.max(self.losses.reserve),
            recursion: self.counters.recursion.max(self.losses.recursion),
            read: self.counters.read.max(self.losses.read),
            spool: self.undecodable.saturating_add(holes).max(self.losses.spool),
        }
    }
}
