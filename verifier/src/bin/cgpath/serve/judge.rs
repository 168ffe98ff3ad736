//! One submission: from bytes to a verdict that is kept, or to a refusal that changes nothing.
//!
//! Only evidence whose quote holds (rule V1: the pinned key, this service's nonce, used for the first time) gives a
//! verdict that is kept. Whatever else arrives in a node's name is refused, so that a stranger can neither replace a
//! node's verdict nor push older ones out of the history.
//! Not here: HTTP, and the rules themselves (see the `verifier` library).

use super::again::{self, AgainError};
use super::changes::{self, StateChange};
use super::nonce::{BadNonce, Nonces};
use super::policies::{LoadError, Policies};
use super::store::{Commit, Limits, Round, Store, StoreError};
use evidence::{Evidence, tpm::Attest};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use verifier::{Context, ExpectedNonce, Finding, NodeState, PinnedKey, Rule, Severity, Verdict};

/// Verdicts between two looks at the limits.
const PRUNE_EVERY: u32 = 16;
/// How often an appraisal is done again because the enrolment changed under it.
const TRIES: u32 = 3;

/// Why a submission was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The bytes are not evidence.
    #[error("evidence: {0}")]
    Evidence(#[from] evidence::Error),
    /// Signed by another key than the pinned one.
    #[error("the quote was made by the key {found}, and {node} is enrolled with {expected}")]
    UnknownKey {
        /// The node.
        node: String,
        /// The pinned key's Name, hex.
        expected: String,
        /// The Name of the key in the evidence, hex.
        found: String,
    },
    /// Not a nonce of this service, or not any more.
    #[error("{0}")]
    Nonce(#[from] BadNonce),
    /// Answered before.
    #[error("this nonce was answered already")]
    NonceUsed,
    /// Rule V1 failed.
    #[error("{}", .0.join("; "))]
    Quote(Vec<String>),
    /// Cannot be appraised at all.
    #[error("{0}")]
    Unusable(String),
    /// The policy is not the one that was enrolled, or cannot be read.
    #[error("policy: {0}")]
    Policy(#[from] LoadError),
    /// The store.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        match error {
            StoreError::NonceUsed => Refusal::NonceUsed,
            StoreError::NonceExpired => Refusal::Nonce(BadNonce::Expired { ago: 0 }),
            other => Refusal::Store(other),
        }
    }
}

/// A verdict that is kept.
#[derive(Debug)]
pub struct Kept {
    /// Its id in the store.
    pub id: i64,
    /// Whether the node and all pods are trusted.
    pub trusted: bool,
    /// The verdict as JSON.
    pub verdict: String,
}

/// Appraises and keeps.
pub struct Judge {
    store: Arc<Store>,
    policies: Policies,
    limits: Limits,
    gates: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    since_prune: AtomicU32,
}

impl Judge {
    /// Judges by what `store` says of nodes, and keeps within `limits`.
    pub fn new(store: Arc<Store>, limits: Limits) -> Judge {
        Judge {
            store,
            policies: Policies::default(),
            limits,
            gates: Mutex::default(),
            since_prune: AtomicU32::new(0),
        }
    }

    /// To be held while a submission of this node is judged: the next one starts from what it leaves. `node` must be
    /// enrolled, so that the number of gates is bounded by that of nodes.
    pub fn gate(&self, node: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(node.to_owned()).or_default())
    }

    /// Judges evidence that arrived in the name of `node` and keeps the verdict. Blocks: appraisal and a synced write.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is kept then.
    pub fn submit(&self, nonces: &Nonces, node: &str, bytes: &[u8], now: u64) -> Result<Kept, Refusal> {
        let evidence = Evidence::from_cbor(bytes)?;
        let quote = |e: &dyn core::fmt::Display| Refusal::Quote(vec![format!("V1: {e}")]);
        let attest = Attest::parse(&evidence.quote.attest).map_err(|e| quote(&e))?;
        let found = verifier::key_name(&evidence.quote.ak)
            .map(hex::encode)
            .map_err(|e| quote(&e))?;
        let nonce = &attest.extra_data;
        for _ in 0..TRIES {
            let round = self.store.round(node)?;
            if round.node.stopped.is_some() {
                return Err(Refusal::Store(StoreError::Stopped(node.to_owned())));
            }
            if found != round.node.ak_name {
                return Err(Refusal::UnknownKey {
                    node: node.to_owned(),
                    expected: round.node.ak_name,
                    found,
                });
            }
            let nonce_expires = nonces.check(node, nonce, now)?;
            self.store.check_nonce(nonce, nonce_expires)?;
            // After the round was read: what is kept in between makes the commit a conflict.
            let before = self.store.outline(node)?;
            let verdict = self.appraise(&evidence, &round, nonce, now)?;
            let changes = changes::between(before.as_ref(), &verdict);
            match self.keep(bytes, &round, &verdict, &changes, nonce, nonce_expires) {
                Err(Refusal::Store(StoreError::Conflict)) => {}
                other => return other,
            }
        }
        Err(Refusal::Store(StoreError::Conflict))
    }

    fn appraise(
        &self,
        evidence: &Evidence,
        round: &Round,
        nonce: &[u8],
        now: u64,
    ) -> Result<Verdict, Refusal> {
        let node = &round.node;
        let policy = self.policies.of(node)?;
        let key = match &node.ak_public {
            Some(public) => PinnedKey::from_public(public),
            None => PinnedKey::from_fingerprint(&node.ak_name),
        };
        let key = key.map_err(|e| Refusal::Unusable(format!("the key of {}: {e}", node.name)))?;
        let context = Context {
            node: node.name.clone(),
            key,
            nonce: ExpectedNonce::Value(nonce.to_vec()),
            now,
            previous: round.state.as_deref().map(state).transpose()?,
        };
        let accepted = again::accepted(&self.store, &node.name, now).map_err(|e| match e {
            AgainError::Store(error) => Refusal::Store(error),
            other => Refusal::Unusable(other.to_string()),
        })?;
        let verdict = verifier::appraise_accepting(evidence, &policy, &context, &accepted, now)
            .map_err(|e| Refusal::Unusable(e.to_string()))?;
        let failed = |f: &&Finding| f.rule == Rule::V1 && f.severity == Severity::Fail;
        let quote: Vec<String> = verdict
            .node
            .findings
            .iter()
            .filter(failed)
            .map(|f| format!("{}: {}", f.rule, f.text))
            .collect();
        if quote.is_empty() {
            Ok(verdict)
        } else {
            Err(Refusal::Quote(quote))
        }
    }

    fn keep(
        &self,
        bytes: &[u8],
        round: &Round,
        verdict: &Verdict,
        changes: &[StateChange],
        nonce: &[u8],
        nonce_expires: u64,
    ) -> Result<Kept, Refusal> {
        let json = |e: serde_json::Error| Refusal::Unusable(format!("the verdict as JSON: {e}"));
        let text = serde_json::to_string(verdict).map_err(json)?;
        let state = verdict
            .state
            .as_ref()
            .map(serde_json::to_vec)
            .transpose()
            .map_err(json)?;
        let evidence = self.store.keep_evidence(bytes)?;
        let id = self.store.commit(&Commit {
            node: &round.node.name,
            version: round.version,
            time: verdict.time,
            trusted: verdict.trusted,
            nonce,
            nonce_expires,
            policy_digest: &round.node.policy_digest,
            evidence: &evidence,
            verdict: &text,
            state: state.as_deref(),
            changes,
        })?;
        if self.since_prune.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1 {
            // The verdict is kept; that older ones could not be forgotten is not the node's matter.
            if let Err(error) = self.store.prune(&self.limits, verdict.time) {
                tracing::error!(%error, "older verdicts could not be forgotten");
            }
        }
        Ok(Kept {
            id,
            trusted: verdict.trusted,
            verdict: text,
        })
    }
}

fn state(bytes: &[u8]) -> Result<NodeState, Refusal> {
    serde_json::from_slice(bytes).map_err(|e| {
        // Passing over it would forget what the node must not go back behind.
        Refusal::Unusable(format!(
            "the node's kept state can not be read ({e}); cgpath node rm and add start anew"
        ))
    })
}
