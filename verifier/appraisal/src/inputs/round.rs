//! What a round of evidence adds to what is known of a node: everything, or what came after a position.
//!
//! Promise: rules see a round and never which of the two it was. Not here: whether a part follows (see
//! `follow`).

use cgpath_evidence::{
    Boot, Entry, Evidence, EvidenceDelta, InFlight, PartitionLog, PodInfo, Quotes, TdEvidence, Tier,
    boot::Registers,
};

/// The round cannot be judged from what is known: the whole evidence has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rebuild;

/// One round, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Round<'a> {
    /// Entries of the list that came before [`Round::list`].
    pub first: usize,
    pub version: u32,
    pub tier: Tier,
    pub node: &'a str,
    pub boot_id: [u8; 16],
    pub quote: &'a Quotes,
    pub list: &'a [Entry],
    pub checkpoints: &'a [Vec<u8>],
    pub partitions: &'a [PartitionLog],
    /// Records behind the last seal.
    pub unsealed: &'a [PartitionLog],
    pub in_flight: &'a [InFlight],
    pub pods: &'a [PodInfo],
    pub kernel: &'a str,
    pub boot: Option<&'a Boot>,
    pub td: Option<&'a TdEvidence>,
}

impl<'a> Round<'a> {
    /// The values of PCR 0 to 9 that it states.
    pub(crate) fn registers(&self) -> &'a [Registers] {
        self.boot.map_or(&[], |boot| &boot.registers)
    }
}

impl<'a> From<&'a Evidence> for Round<'a> {
    fn from(evidence: &'a Evidence) -> Round<'a> {
        Round {
            first: 0,
            version: evidence.version,
            tier: evidence.tier,
            node: &evidence.node,
            boot_id: evidence.boot_id,
            quote: &evidence.quote,
            list: &evidence.list,
            checkpoints: &evidence.checkpoints,
            partitions: &evidence.partitions,
            unsealed: &evidence.unsealed,
            in_flight: &evidence.in_flight,
            pods: &evidence.pods,
            kernel: &evidence.kernel,
            boot: evidence.boot.as_ref(),
            td: evidence.td.as_ref(),
        }
    }
}

impl<'a> Round<'a> {
    /// A part, which begins behind the first `first` entries.
    pub(crate) fn of_delta(part: &'a EvidenceDelta, first: usize) -> Round<'a> {
        Round {
            first,
            version: part.version,
            tier: part.tier,
            node: &part.node,
            boot_id: part.boot_id,
            quote: &part.quote,
            list: &part.list,
            checkpoints: &part.checkpoints,
            partitions: &part.partitions,
            unsealed: &part.unsealed,
            in_flight: &part.in_flight,
            pods: &part.pods,
            kernel: &part.kernel,
            boot: part.boot.as_ref(),
            td: part.td.as_ref(),
        }
    }
}
