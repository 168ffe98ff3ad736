//! Judging kept evidence again: under another policy, with findings that somebody accepted.
//!
//! Nobody is asked for anything: a verdict is a function of the evidence, the policy, and what was known of
//! the node before, and all of them are kept. The time stays that of the evidence, so that nothing old looks
//! fresh.
//! Not here: what is kept (see `store`), and who may ask for it (see the command's `node`).

use crate::pinned;
use crate::setup::{self, SetupError};
use crate::store::{Node, Past, Rejudged, Store, StoreError};
use cgpath_appraisal::accept::{self, Accepted};
use cgpath_appraisal::text::utc;
use cgpath_appraisal::{Collateral, Context, ExpectedNonce, NodeState, Verdict};
use cgpath_evidence::Evidence;
use cgpath_policy::{NodeKeyPolicy, Policy};

const DAY: u64 = 24 * 3600;

/// Why kept evidence cannot be re-appraised.
#[derive(Debug, thiserror::Error)]
pub enum AgainError {
    /// It is not evidence any more, or its file is gone.
    #[error("the evidence of verdict {id}: {why}")]
    Evidence {
        /// The verdict.
        id: i64,
        /// Why.
        why: String,
    },
    /// The policy does not fit the node, or the key cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// The key that signs what is accepted.
    #[error(transparent)]
    Key(#[from] SetupError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Judges the evidence of one kept verdict by `policy`, with collateral of the evidence's time. What `accepted`
/// says is looked at as of `now`.
///
/// # Errors
/// [`AgainError`].
pub fn judge(
    node: &Node,
    past: &Past,
    bytes: &[u8],
    policy: &Policy,
    (collateral, accepted): (&[Collateral], &[Accepted]),
    now: u64,
) -> Result<Verdict, AgainError> {
    let id = past.id;
    let unreadable = |why: String| AgainError::Evidence { id, why };
    let evidence = Evidence::from_cbor(bytes).map_err(|e| unreadable(e.to_string()))?;
    let key = pinned::key(node).map_err(AgainError::Unusable)?;
    let td = pinned::td(node, collateral).map_err(AgainError::Unusable)?;
    let previous: Option<NodeState> = past
        .state_before
        .as_deref()
        .map(serde_json::from_slice)
        .transpose()
        .map_err(|e| unreadable(format!("what was known before it cannot be read: {e}")))?;
    let context = Context {
        node: node.name.clone(),
        key,
        td,
        nonce: ExpectedNonce::Value(past.nonce.clone()),
        now: past.time,
        previous,
    };
    let mut verdict = cgpath_appraisal::appraise_accepting(&evidence, policy, &context, accepted, now)
        .map_err(|e| AgainError::Unusable(e.to_string()))?;
    verdict.rejudged = Some(now);
    // It held when the evidence was made, which is the time of the verdict.
    if let Some(td) = &verdict.node.td
        && td.collateral_until != 0
        && now > td.collateral_until
    {
        let days = (now - td.collateral_until).div_ceil(DAY);
        verdict.node.notes.push(format!(
            "the collateral that this rests on ended {days} day(s) before the re-appraisal, on {} UTC",
            utc(td.collateral_until)
        ));
    }
    Ok(verdict)
}

/// Accept statements of a node that hold at `now` and that this service signed; others accept nothing.
///
/// # Errors
/// [`AgainError::Store`], [`AgainError::Key`].
pub fn accepted(store: &Store, node: &str, now: u64) -> Result<Vec<Accepted>, AgainError> {
    let statements = store.accepts(node, now)?;
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    let key = *setup::verdict_key(store.dir())?.verifying_key();
    Ok(statements
        .iter()
        .filter_map(|text| accept::verify(text, &key).ok())
        .collect())
}

/// What judging all kept evidence of the node's last boot again gave.
#[derive(Default)]
pub struct Again {
    /// The verdicts that are to be kept.
    pub rejudged: Vec<Rejudged>,
    /// Before and after, in the same order.
    pub changes: Vec<(Verdict, Verdict)>,
    /// What the next round starts from, where a new verdict believes its evidence, and that evidence's
    /// SHA-256 in hex.
    pub state: Option<(Vec<u8>, String)>,
    /// Verdicts of the boot whose evidence is not kept any more: they stay as they are.
    pub without_evidence: usize,
}

impl Again {
    /// [`Again::state`], to be kept.
    pub fn state(&self) -> Option<(&[u8], &str)> {
        self.state
            .as_ref()
            .map(|(state, evidence)| (state.as_slice(), evidence.as_str()))
    }
}

/// Judges all evidence again that is kept of the boot which the node's last verdict is about.
///
/// # Errors
/// [`AgainError`].
pub fn since_boot(
    store: &Store,
    node: &Node,
    policy: &Policy,
    accepted: &[Accepted],
    now: u64,
) -> Result<Again, AgainError> {
    let mut again = Again::default();
    let past = store.past(&node.name)?;
    let parse = |past: &Past| {
        serde_json::from_str::<Verdict>(&past.verdict).map_err(|e| AgainError::Evidence {
            id: past.id,
            why: format!("its verdict cannot be read: {e}"),
        })
    };
    let (collateral, _) = pinned::collateral(store.dir());
    let is_per_boot = policy
        .file
        .tdx
        .as_ref()
        .is_some_and(|tdx| tdx.key == NodeKeyPolicy::PerBoot);
    let Some(boot_id) = past.last().map(parse).transpose()?.map(|last| last.node.boot_id) else {
        return Ok(again);
    };
    for past in &past {
        let old = parse(past)?;
        // Another key is another machine: its evidence is not this node's.
        let is_other_key = hex::encode(&old.node.key) != node.ak_name && !is_per_boot;
        if old.node.boot_id != boot_id || is_other_key {
            continue;
        }
        if !past.evidence_kept {
            again.without_evidence += 1;
            continue;
        }
        let new = judge(
            node,
            past,
            &store.evidence(&past.evidence)?,
            policy,
            (&collateral, accepted),
            now,
        )?;
        let json = |e: serde_json::Error| AgainError::Unusable(format!("the verdict as JSON: {e}"));
        if let Some(state) = &new.state {
            again.state = Some((serde_json::to_vec(state).map_err(json)?, past.evidence.clone()));
        }
        again.rejudged.push(Rejudged {
            id: past.id,
            trusted: new.trusted,
            verdict: serde_json::to_string(&new).map_err(json)?,
        });
        again.changes.push((old, new));
    }
    Ok(again)
}
