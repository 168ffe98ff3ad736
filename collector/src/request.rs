//! What is asked of the engine from outside: evidence for a nonce, and to act on a verdict.
//!
//! Below both sides: [`crate::service`] answers, [`crate::deliver`] asks, and neither uses the other. Not
//! here: how evidence is made, how a verdict is read.

use crate::pipeline::SealError;
use crate::quote::QuoteError;
use crate::store::{EvidenceFile, StoreError};
use cgpath_evidence::{Cursor, Digest, PodUid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Requests that wait at most; more are refused.
pub(crate) const MAX_WAITING: usize = 16;

/// Where evidence comes from: the engine, or a test.
pub trait Source: Clone + Send + Sync + 'static {
    /// Evidence for `nonce` of what came after a position, or all evidence where this boot never was at it.
    ///
    /// # Errors
    /// See [`RequestError`].
    fn evidence_after(
        &self,
        nonce: Vec<u8>,
        after: Option<Cursor>,
    ) -> impl Future<Output = Result<EvidenceFile, RequestError>> + Send;

    /// A verdict that decides arrived.
    ///
    /// # Errors
    /// [`RequestError::Ending`].
    fn apply_verdict(&self, verdicts: PodVerdicts) -> impl Future<Output = Result<(), RequestError>> + Send;
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No checkpoint could be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// No quote could be made.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// The evidence could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine ended.
    #[error("the collector is ending")]
    Ending,
    /// Too many requests wait.
    #[error("{MAX_WAITING} requests wait already: try again later")]
    Busy,
    /// The handover is one that could not be finished.
    #[error("nothing is handed over: {0}")]
    Handover(&'static str),
    /// The journal's disk is full.
    #[error("records cannot be kept on disk (is state_dir's file system full?): no evidence can be made")]
    Stalled,
}

/// What came of a handover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The checkpoint that names the program.
    pub checkpoint: u64,
    /// The hash that the kernel has of it.
    pub program: Digest,
    /// Whether it is the program that runs: then there is nothing to hand over.
    pub is_itself: bool,
}

/// What a verdict says of whom to deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodVerdicts {
    /// Whether the evidence was believed. If not, the verdict clears nobody.
    pub believed: bool,
    /// Pods that are untrusted for something of their own.
    pub charged: BTreeSet<PodUid>,
}
