//! One submission: from bytes to a verdict that is kept, or to a refusal that changes nothing.
//!
//! Only evidence whose quote holds (rule V1: the pinned key, this service's nonce, used for the first time)
//! gives a verdict that is kept. Whatever else arrives in a node's name is refused, so that a stranger can
//! neither replace a node's verdict nor push older ones out of the history. It is refused by its head:
//! nothing behind it is decoded.
//!
//! A delta is judged after what is kept of the node: by a follower in memory where the round is a usual one,
//! else by putting the whole evidence together and appraising that. Both give the same verdict.
//! Not here: HTTP, and the rules themselves (see `cgpath-appraisal`).

pub mod followers;
mod policies;

use crate::changes::{self, StateChange};
use crate::ingest::followers::Followers;
use crate::ingest::policies::{LoadError, Policies};
use crate::nonce::{BadNonce, Nonces};
use crate::pinned;
use crate::reappraisal::{self, ReappraisalError, Unappraisable};
use crate::store::{Commit, Limits, Node, Round, Store, StoreError, parts_of};
use cgpath_appraisal::accept::Waiver;
use cgpath_appraisal::follow::{self, Follower, Mismatch};
use cgpath_appraisal::{Context, ExpectedNonce, Finding, NodeState, Rule, Severity, Verdict};
use cgpath_evidence::{Cursor, Digest, Evidence, EvidenceDelta, Head, JoinError, Quotes};
use cgpath_evidence::{boot::REGISTERS, boot::Registers, td::node_key_hash, tpm::Attest};
use cgpath_policy::Policy;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Verdicts between two looks at the limits.
const PRUNE_EVERY: usize = 64;
/// How often an appraisal is done again because the enrolment changed under it.
const TRIES: u32 = 3;

/// Why a submission was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The bytes are not evidence.
    #[error("evidence: {0}")]
    Evidence(#[from] cgpath_evidence::Error),
    /// Signed by another key than the pinned one.
    #[error("the quote was made by the key {found}, which is not the one that {node} is enrolled with")]
    UnknownKey {
        /// The node.
        node: String,
        /// The pinned key's Name, hex: not for the client.
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
    /// A delta that does not follow what is kept.
    #[error("{0}")]
    Mismatch(#[from] Mismatch),
    /// A delta that does not fit to what is kept.
    #[error("{0}")]
    Join(#[from] JoinError),
    /// Cannot be appraised at all.
    #[error(transparent)]
    Unusable(#[from] Unappraisable),
    /// The node's waivers cannot be looked up.
    #[error(transparent)]
    Waivers(ReappraisalError),
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
    /// The nonce that was answered.
    pub nonce: Vec<u8>,
}

/// Appraises and keeps.
pub struct Appraiser {
    store: Arc<Store>,
    policies: Policies,
    limits: Limits,
    gates: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Nodes of the verdicts since the last look, and the number of these.
    since_prune: Mutex<(BTreeSet<String>, usize)>,
    followers: Followers,
    collateral: pinned::Kept,
}

/// What arrived.
enum Received {
    Whole(Evidence),
    Delta(EvidenceDelta),
}

impl Received {
    fn from_cbor(bytes: &[u8]) -> Result<Received, cgpath_evidence::Error> {
        if EvidenceDelta::is_delta(bytes) {
            EvidenceDelta::from_cbor(bytes).map(Received::Delta)
        } else {
            Evidence::from_cbor(bytes).map(Received::Whole)
        }
    }

    fn quotes(&self) -> (&Quotes, [u8; 16]) {
        match self {
            Received::Whole(evidence) => (&evidence.quote, evidence.boot_id),
            Received::Delta(delta) => (&delta.quote, delta.boot_id),
        }
    }

    fn registers(&self) -> &[Registers] {
        match self {
            Received::Whole(evidence) => evidence.registers(),
            Received::Delta(delta) => delta.registers(),
        }
    }
}

/// What a quote says of itself, whether or not it holds.
struct Claim<'a> {
    head: &'a Head,
    /// Of a TPM's quote; `None` of a trust domain's.
    attest: Option<Attest>,
    /// The Name of the key beside it, or the hash of the node's key, hex.
    key: String,
    nonce: Vec<u8>,
}

impl Claim<'_> {
    /// By the key that the node is enrolled by.
    fn of<'a>(head: &'a Head, node: &Node) -> Result<Claim<'a>, Refusal> {
        let bad = |e: &dyn core::fmt::Display| Refusal::Quote(vec![said(e, Rule::Quote)]);
        if pinned::is_domain(node) {
            let td = head.quote.td.as_ref();
            let td = td.ok_or_else(|| bad(&"there is no trust domain's quote"))?;
            return Ok(Claim {
                head,
                attest: None,
                key: hex::encode(node_key_hash(&td.node_key)),
                nonce: td.nonce.clone(),
            });
        }
        let quote = head.quote.tpm()?;
        let attest = Attest::parse(&quote.attest).map_err(|e| bad(&e))?;
        Ok(Claim {
            head,
            key: cgpath_appraisal::key_name(&quote.ak)
                .map(hex::encode)
                .map_err(|e| bad(&e))?,
            nonce: attest.extra_data.clone(),
            attest: Some(attest),
        })
    }

    /// Counted by a TPM alone.
    fn resets(&self) -> u32 {
        self.attest.as_ref().map_or(0, |attest| attest.clock.reset_count)
    }
}

/// The question that one submission puts, as far as it does not depend on what was sent.
struct Question {
    policy: Arc<Policy>,
    context: Context,
    waivers: Vec<Waiver>,
}

/// What a submission came to.
struct Outcome<'a> {
    verdict: Verdict,
    /// To be kept: what was sent, or the whole of it.
    bytes: Cow<'a, [u8]>,
    /// Where that is a delta: what it follows, SHA-256 in hex.
    follows: Option<&'a str>,
    follower: Option<Follower>,
}

impl Appraiser {
    /// Judges by what `store` says of nodes, and keeps within `limits`.
    pub fn new(store: Arc<Store>, limits: Limits) -> Appraiser {
        Appraiser {
            store,
            policies: Policies::default(),
            limits,
            gates: Mutex::default(),
            since_prune: Mutex::default(),
            followers: Followers::default(),
            collateral: pinned::Kept::default(),
        }
    }

    /// Whether the policy of a node can be used.
    pub fn has_policy(&self, node: &Node) -> bool {
        self.policies.of(node).is_ok()
    }

    /// Holds at most so many bytes of memory to follow nodes.
    pub fn with_memory(self, bytes: usize) -> Appraiser {
        Appraiser {
            followers: Followers::new(bytes),
            ..self
        }
    }

    /// What the node's next round may follow, where something is kept.
    ///
    /// # Errors
    /// [`Refusal`] where the node is not enrolled, or its state cannot be read.
    pub fn cursor(&self, node: &str) -> Result<Option<Cursor>, Refusal> {
        let round = self.store.round(node)?;
        let before = round.state.as_deref().map(state).transpose()?;
        Ok(cursor(&round, before.as_ref()))
    }

    /// To be held while a submission of this node is judged: the next one starts from what it leaves. `node`
    /// must be enrolled, so that the number of gates is bounded by that of nodes.
    pub fn gate(&self, node: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(node.to_owned()).or_default())
    }

    /// Whether evidence with this head would be judged: it is by the node's key, over a nonce that was not
    /// answered yet.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&self, nonces: &Nonces, node: &str, head: &Head, now: u64) -> Result<(), Refusal> {
        let round = self.store.round(node)?;
        let claim = Claim::of(head, &round.node)?;
        self.check(nonces, &round, &claim, now).map(drop)
    }

    /// Refuses a claim that does not prove itself. Gives the question that it answers, and when its nonce
    /// expires.
    fn check(
        &self,
        nonces: &Nonces,
        round: &Round,
        claim: &Claim<'_>,
        now: u64,
    ) -> Result<(Question, u64), Refusal> {
        let node = &round.node;
        if node.stopped.is_some() {
            return Err(Refusal::Store(StoreError::Stopped(node.name.clone())));
        }
        if claim.key != node.ak_name && !self.may_have_another_key(node)? {
            return Err(Refusal::UnknownKey {
                node: node.name.clone(),
                expected: node.ak_name.clone(),
                found: claim.key.clone(),
            });
        }
        let expires = nonces.check(&node.name, &claim.nonce, now)?;
        self.store.check_nonce(&claim.nonce, expires)?;
        let question = self.question(round, &claim.nonce, now)?;
        // The values of the registers come later; here it is asked who signed what.
        let banks = claim.attest.iter().flat_map(|attest| &attest.pcr_select.banks);
        let placeholders = banks.filter_map(|selection| {
            let zeros = vec![Digest::zero(selection.bank()?); REGISTERS];
            Registers::new(zeros)
        });
        let placeholders: Vec<Registers> = placeholders.collect();
        question.proven(node, &claim.head.quote, claim.head.boot_id, &placeholders)?;
        Ok((question, expires))
    }

    /// Whether each boot of the node may have a key of its own. Who sent the quote is then asked of all of
    /// V1.
    fn may_have_another_key(&self, node: &Node) -> Result<bool, Refusal> {
        let policy = self.policies.of(node)?;
        Ok(pinned::is_domain(node) && policy.has_key_per_boot())
    }

    /// Appraises evidence that arrived in the name of `node` and keeps the verdict. Blocks: appraisal and a
    /// synced write.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is kept then.
    pub fn submit(&self, nonces: &Nonces, node: &str, bytes: &[u8], now: u64) -> Result<Kept, Refusal> {
        let head = Head::read(bytes)?;
        let mut decoded = None;
        for _ in 0..TRIES {
            let round = self.store.round(node)?;
            let claim = Claim::of(&head, &round.node)?;
            // First of all that takes time or memory: a sender without the key cannot make the service
            // decode, join or replay anything.
            let (question, nonce_expires) = self.check(nonces, &round, &claim, now)?;
            // After the round was read: what is kept in between makes the commit a conflict.
            let before = self.store.outline(node)?;
            let received = match &mut decoded {
                Some(received) => received,
                none => none.insert(Received::from_cbor(bytes)?),
            };
            let (quotes, boot_id) = received.quotes();
            // Of a TPM the registers came only now. A domain's quote is the head's, which was proven.
            let is_proven =
                pinned::is_domain(&round.node) && (quotes, boot_id) == (&head.quote, head.boot_id);
            if !is_proven {
                question.proven(&round.node, quotes, boot_id, received.registers())?;
            }
            let outcome = match received {
                Received::Whole(evidence) => self.whole(evidence, bytes, &round, &question)?,
                Received::Delta(delta) => self.delta(delta, bytes, &round, &question, claim.resets())?,
            };
            let changes = changes::between(before.as_ref(), &outcome.verdict);
            match self.keep(outcome, &round, &changes, &claim.nonce, nonce_expires) {
                Err(Refusal::Store(StoreError::Conflict)) => {}
                other => return other,
            }
        }
        Err(Refusal::Store(StoreError::Conflict))
    }

    /// Counts a verdict of this node. Gives the nodes that have more of them since the last look, when it is
    /// time for one.
    fn grown(&self, node: &str) -> Option<BTreeSet<String>> {
        let mut since = self.since_prune.lock().unwrap_or_else(PoisonError::into_inner);
        since.0.insert(node.to_owned());
        since.1 += 1;
        (since.1 >= PRUNE_EVERY).then(|| std::mem::take(&mut *since).0)
    }

    fn question(&self, round: &Round, nonce: &[u8], now: u64) -> Result<Question, Refusal> {
        let node = &round.node;
        let policy = self.policies.of(node)?;
        let key = pinned::key(node).map_err(Unappraisable::Key)?;
        let collateral = match &policy.file.tdx {
            Some(_) => self.collateral.of(self.store.dir()),
            None => Arc::default(),
        };
        let td = pinned::td(node, &collateral).map_err(Unappraisable::Key)?;
        let context = Context {
            node: node.name.clone(),
            key,
            td,
            nonce: ExpectedNonce::Value(nonce.to_vec()),
            now,
            previous: round.state.as_deref().map(state).transpose()?,
        };
        let waivers = reappraisal::waivers(&self.store, &node.name, now).map_err(|e| match e {
            ReappraisalError::Store(error) => Refusal::Store(error),
            other => Refusal::Waivers(other),
        })?;
        Ok(Question {
            policy,
            context,
            waivers,
        })
    }

    /// Evidence from the first entry on.
    fn whole<'a>(
        &self,
        evidence: &mut Evidence,
        bytes: &'a [u8],
        round: &Round,
        question: &Question,
    ) -> Result<Outcome<'a>, Refusal> {
        let mut bytes = Cow::Borrowed(bytes);
        let mut notes = Vec::new();
        let same_boot = |state: &NodeState| state.boot_id == evidence.boot_id;
        if let Some(base) = &round.base
            && question.context.previous.as_ref().is_some_and(same_boot)
            && !follow::is_whole(&evidence.list)
            && let Some(cut) = follow::uncut(evidence, &self.kept(base)?)
        {
            notes.push(format!(
                "the list was cut: its first {cut} entries are gone from the node (CONFIG_IMA_STAGING) and \
                 were put back from what is kept"
            ));
            bytes = Cow::Owned(evidence.to_cbor());
        }
        let (verdict, follower) = question.appraise(evidence, notes)?;
        Ok(Outcome {
            verdict,
            bytes,
            follows: None,
            follower,
        })
    }

    /// What is new since what is kept.
    fn delta<'a>(
        &self,
        delta: &EvidenceDelta,
        bytes: &'a [u8],
        round: &'a Round,
        question: &Question,
        resets: u32,
    ) -> Result<Outcome<'a>, Refusal> {
        let previous = question.context.previous.as_ref();
        let kept = cursor(round, previous);
        let resets = (previous.map_or(resets, |before| before.reset_count), resets);
        follow::follows(delta, kept.as_ref(), resets)?;
        let Some(base) = round.base.as_deref() else {
            return Err(Mismatch::NothingKept.into());
        };
        // Now and then the whole is kept, so that no evidence is in too many pieces.
        let is_piece = self.store.depth(base)? + 1 < parts_of(&round.node.ak_name);
        if is_piece && let Some(mut follower) = self.followers.take(&round.node.name) {
            let (policy, context) = (&question.policy, &question.context);
            let verdict = follower
                .advance(delta, policy, context, &question.waivers)
                .cloned();
            if let Some(verdict) = verdict {
                return Ok(Outcome {
                    verdict,
                    bytes: Cow::Borrowed(bytes),
                    follows: Some(base),
                    follower: Some(follower),
                });
            }
        }
        let whole = delta.clone().join(self.kept(base)?)?;
        let (mut verdict, follower) = question.appraise(&whole, Vec::new())?;
        if verdict.state.is_none() {
            verdict.node.notes.push(format!(
                "entries before {} were believed in an earlier round; what does not hold came with this one",
                delta.from.entries
            ));
        }
        Ok(Outcome {
            verdict,
            bytes: if is_piece {
                Cow::Borrowed(bytes)
            } else {
                Cow::Owned(whole.to_cbor())
            },
            follows: is_piece.then_some(base),
            follower,
        })
    }

    fn kept(&self, base: &str) -> Result<Evidence, Refusal> {
        let broken = |e: cgpath_evidence::Error| StoreError::Broken {
            evidence: base.to_owned(),
            why: e.to_string(),
        };
        Ok(Evidence::from_cbor(&self.store.evidence(base)?).map_err(broken)?)
    }

    fn keep(
        &self,
        outcome: Outcome<'_>,
        round: &Round,
        changes: &[StateChange],
        nonce: &[u8],
        nonce_expires: u64,
    ) -> Result<Kept, Refusal> {
        let verdict = &outcome.verdict;
        let text = serde_json::to_string(verdict).map_err(Unappraisable::Verdict)?;
        let state = verdict
            .to_store()
            .map(serde_json::to_vec)
            .transpose()
            .map_err(Unappraisable::Verdict)?;
        let evidence = self.store.keep_evidence(&outcome.bytes)?;
        let id = self.store.commit(&Commit {
            node: &round.node.name,
            version: round.version,
            time: verdict.time,
            trusted: verdict.trusted,
            nonce,
            nonce_expires,
            policy_digest: &round.node.policy_digest,
            evidence: &evidence,
            follows: outcome.follows,
            verdict: &text,
            state: state.as_deref(),
            changes,
        })?;
        if let Some(follower) = outcome.follower {
            self.followers.put(&round.node.name, follower);
        }
        if let Some(nodes) = self.grown(&round.node.name) {
            // The verdict is kept; that older ones could not be forgotten is not the node's matter.
            if let Err(error) = self.store.prune(&self.limits, verdict.time, Some(&nodes)) {
                tracing::error!(%error, "older verdicts could not be forgotten");
            }
        }
        Ok(Kept {
            id,
            trusted: verdict.trusted,
            verdict: text,
            nonce: nonce.to_vec(),
        })
    }
}

impl Question {
    /// The verdict, with `notes`, and what goes on from it.
    fn appraise(
        &self,
        evidence: &Evidence,
        notes: Vec<String>,
    ) -> Result<(Verdict, Option<Follower>), Refusal> {
        let (policy, context) = (&self.policy, &self.context);
        let (mut verdict, follower) = Follower::begin(evidence, policy, context, &self.waivers, context.now)
            .map_err(Unappraisable::Inputs)?;
        verdict.node.notes.extend(notes);
        Ok((verdict, follower))
    }
}

impl Question {
    /// Rule V1: the quote is by the node's key, over this nonce.
    fn proven(
        &self,
        node: &Node,
        quotes: &Quotes,
        boot_id: [u8; 16],
        registers: &[Registers],
    ) -> Result<(), Refusal> {
        let context = &self.context;
        if pinned::is_domain(node) {
            let findings = cgpath_appraisal::td_quote_findings(quotes, boot_id, &self.policy, context);
            return proven(&findings);
        }
        proven(&cgpath_appraisal::quote_findings(
            quotes.tpm()?,
            registers,
            context,
        ))
    }
}

/// In words, then the rule.
fn said(what: &dyn core::fmt::Display, rule: Rule) -> String {
    format!("{what} ({rule})")
}

fn proven(findings: &[Finding]) -> Result<(), Refusal> {
    let failed = |f: &Finding| f.severity == Severity::Fail;
    let findings: Vec<String> = findings
        .iter()
        .filter(|f| failed(f))
        .map(|f| said(&f.text, f.rule))
        .collect();
    if findings.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Quote(findings))
    }
}

/// Where the store is with a node.
fn cursor(round: &Round, state: Option<&NodeState>) -> Option<Cursor> {
    let base = hex::decode(round.base.as_deref()?).ok()?;
    follow::cursor(state?, base.try_into().ok()?)
}

fn state(bytes: &[u8]) -> Result<NodeState, Refusal> {
    Ok(serde_json::from_slice(bytes).map_err(Unappraisable::State)?)
}
