//! Following a node: where a verifier is, and whether a delta comes after that.
//!
//! Pure. A delta that follows is judged as the whole evidence would be: by [`Follower`] where nothing is
//! unusual, else by joining it with what is kept ([`cgpath_evidence::EvidenceDelta::join`]) and appraising
//! that. What does not follow is distinguished by [`Mismatch`]; a list that was cut by [`uncut`]. Not here:
//! where evidence is kept, and the rules (see `rules`).

mod follower;

pub use crate::inputs::decoded::is_whole;
pub use follower::Follower;

use crate::inputs::context::NodeState;
use cgpath_evidence::{Cursor, Evidence, EvidenceDelta, merkle::Hash};

/// Why a delta does not follow what is kept. In each case the whole evidence is needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// Nothing was taken from the node yet, or everything is to be sent again.
    #[error("nothing is kept that this part could follow")]
    NothingKept,
    /// Another boot, and the TPM was reset.
    #[error("the node was booted again: the part is of boot {found}, what is kept of boot {kept}")]
    Rebooted {
        /// Boot id of the delta, hex.
        found: String,
        /// Boot id that is kept, hex.
        kept: String,
    },
    /// Another boot id, and the TPM was not reset.
    #[error(
        "a kernel was started by kexec: the part is of boot {found}, what is kept of boot {kept}, and the \
         TPM was not reset"
    )]
    Kexec {
        /// Boot id of the delta, hex.
        found: String,
        /// Boot id that is kept, hex.
        kept: String,
    },
    /// The delta comes after an earlier round than the last one.
    #[error("a round is repeated: the part comes after checkpoint {from}, and checkpoint {kept} is kept")]
    Repeated {
        /// As the delta says.
        from: u64,
        /// Kept.
        kept: u64,
    },
    /// The delta comes after a round that is not kept here.
    #[error(
        "a round was lost: the part comes after checkpoint {from}, and checkpoint {kept} is the last one \
         that is kept"
    )]
    Lost {
        /// As the delta says.
        from: u64,
        /// Kept.
        kept: u64,
    },
    /// The same checkpoint's number, and not the same cursor.
    #[error(
        "the part comes after another position than the one that is kept: that of another node, or another \
         prefix"
    )]
    Other,
}

impl Mismatch {
    /// One word, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Mismatch::NothingKept => "nothing-kept",
            Mismatch::Rebooted { .. } => "rebooted",
            Mismatch::Kexec { .. } => "kexec",
            Mismatch::Repeated { .. } => "round-repeated",
            Mismatch::Lost { .. } => "round-lost",
            Mismatch::Other => "other-position",
        }
    }
}

/// Where a verifier is that keeps `base` and was left with `state` by it. `None` without checkpoints.
pub fn cursor(state: &NodeState, base: Hash) -> Option<Cursor> {
    let checkpoint = state.checkpoint.as_ref()?;
    Some(Cursor {
        base,
        boot_id: state.boot_id,
        entries: state.covered,
        checkpoint: checkpoint.number,
        digest: checkpoint.digest,
    })
}

/// Whether `delta` comes after the cursor `kept`; `resets` are the TPM's reset counters as kept and in the
/// delta's quote.
///
/// # Errors
/// [`Mismatch`].
pub fn follows(delta: &EvidenceDelta, kept: Option<&Cursor>, resets: (u32, u32)) -> Result<(), Mismatch> {
    let kept = kept.ok_or(Mismatch::NothingKept)?;
    if delta.boot_id != kept.boot_id || delta.from.boot_id != kept.boot_id {
        let (found, kept) = (hex::encode(delta.boot_id), hex::encode(kept.boot_id));
        return Err(if resets.0 == resets.1 {
            Mismatch::Kexec { found, kept }
        } else {
            Mismatch::Rebooted { found, kept }
        });
    }
    let (from, at) = (delta.from.checkpoint, kept.checkpoint);
    match from.cmp(&at) {
        core::cmp::Ordering::Less => Err(Mismatch::Repeated { from, kept: at }),
        core::cmp::Ordering::Greater => Err(Mismatch::Lost { from, kept: at }),
        core::cmp::Ordering::Equal if delta.from != *kept => Err(Mismatch::Other),
        core::cmp::Ordering::Equal => Ok(()),
    }
}

/// Puts the beginning of a list back that was cut: a kernel with `CONFIG_IMA_STAGING` lets its first entries
/// be taken away. Gives their number; `None` where the list begins as it should, or `kept` does not have what
/// is missing.
///
/// What is put back proves nothing by itself: the whole list must replay to the quoted register, as always.
pub fn uncut(evidence: &mut Evidence, kept: &Evidence) -> Option<usize> {
    if evidence.boot_id != kept.boot_id || is_whole(&evidence.list) {
        return None;
    }
    let first = evidence.list.first();
    // Without an entry left, or with new ones alone, it goes on where `kept` ends.
    let at = first
        .and_then(|first| kept.list.iter().position(|entry| entry == first))
        .unwrap_or(kept.list.len());
    let both = kept.list.len() - at;
    if at == 0
        || evidence
            .list
            .iter()
            .take(both)
            .ne(kept.list.iter().skip(at).take(evidence.list.len()))
    {
        return None;
    }
    let mut list = kept.list[..at].to_vec();
    list.append(&mut evidence.list);
    evidence.list = list;
    Some(at)
}
