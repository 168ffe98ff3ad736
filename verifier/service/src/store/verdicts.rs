//! Rounds that are kept: a verdict, the state after it and the nonce together, and the verdicts of before.
//!
//! Promise: a nonce counts once, also after its node was removed and after the nonce itself was forgotten.
//! Not here: the evidence's file (see `files`), what is deleted in time (see `retention`).

use super::files::KeptEvidence;
use super::{Store, StoreError, changes, deltas, signed, unsigned};
use crate::changes::StateChange;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, named_params, params};
use serde::Serialize;

/// One round to be kept.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The node.
    pub node: &'a str,
    /// [`Round::version`] that the appraisal started from.
    pub version: i64,
    /// When, in unix seconds.
    pub time: u64,
    /// Whether the node and all its pods are trusted.
    pub trusted: bool,
    /// The nonce that was answered.
    pub nonce: &'a [u8],
    /// When it expires, in unix seconds.
    pub nonce_expires: u64,
    /// Digest of the policy that was applied.
    pub policy_digest: &'a str,
    /// The evidence; see [`Store::keep_evidence`].
    pub evidence: &'a KeptEvidence,
    /// Where it is a part: the evidence that it follows, SHA-256 in hex.
    pub follows: Option<&'a str>,
    /// The verdict as JSON.
    pub verdict: &'a str,
    /// What the next round starts from; `None` leaves what the last one left.
    pub state: Option<&'a [u8]>,
    /// What is another state than in the node's last verdict.
    pub changes: &'a [StateChange],
}

/// A verdict as it was kept.
#[derive(Debug, Clone, Serialize)]
pub struct StoredVerdict {
    /// Rises with every verdict of the store.
    pub id: i64,
    /// The node.
    pub node: String,
    /// When, in unix seconds.
    pub time: u64,
    /// Whether the node and all its pods are trusted.
    pub trusted: bool,
    /// The nonce that was answered.
    #[serde(with = "cgpath_evidence::serde_bytes_hex")]
    pub nonce: Vec<u8>,
    /// Digest of the policy that was applied.
    pub policy_digest: String,
    /// SHA-256 of the evidence, hex.
    pub evidence: String,
    /// Whether the evidence is still on disk.
    pub evidence_kept: bool,
    /// The verdict.
    pub verdict: Box<serde_json::value::RawValue>,
}

impl Store {
    /// Whether `nonce` was answered, or is older than what this store remembers of such.
    ///
    /// # Errors
    /// [`StoreError::NonceUsed`], [`StoreError::NonceExpired`], [`StoreError::Database`].
    pub fn check_nonce(&self, nonce: &[u8], expires: u64) -> Result<(), StoreError> {
        nonce_is_fresh(&self.connection(), nonce, expires)
    }

    /// Keeps a round: verdict, state and nonce, all or nothing. Gives the verdict's id.
    ///
    /// # Errors
    /// [`StoreError::NonceUsed`], [`StoreError::NonceExpired`], [`StoreError::UnknownNode`];
    /// [`StoreError::Conflict`] if the node changed since [`Store::round`]; [`StoreError::Database`].
    pub fn commit(&self, commit: &Commit<'_>) -> Result<i64, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        nonce_is_fresh(&transaction, commit.nonce, commit.nonce_expires)?;
        let before: Option<Option<Vec<u8>>> = transaction
            .query_row("SELECT state FROM nodes WHERE name = ?1", [commit.node], |r| {
                r.get(0)
            })
            .optional()?;
        let before = before.flatten();
        let changed = transaction.execute(
            "UPDATE nodes SET state = coalesce(?3, state), base = iif(?3 IS NULL, base, ?4), version = version + 1
             WHERE name = ?1 AND version = ?2 AND stopped IS NULL",
            params![commit.node, commit.version, commit.state, commit.evidence.sha256],
        )?;
        if changed == 0 {
            let there = transaction
                .query_row("SELECT 1 FROM nodes WHERE name = ?1", [commit.node], |_| Ok(()))
                .optional()?;
            return Err(match there {
                Some(()) => StoreError::Conflict,
                None => StoreError::UnknownNode(commit.node.to_owned()),
            });
        }
        transaction.execute(
            "INSERT INTO verdicts
             (node, time, trusted, nonce, policy_digest, evidence, evidence_len, evidence_kept, verdict, state_before)
             VALUES (:node, :time, :trusted, :nonce, :policy, :evidence, :len, 1, :verdict, :before)",
            named_params! {
                ":node": commit.node,
                ":time": signed(commit.time),
                ":trusted": commit.trusted,
                ":nonce": commit.nonce,
                ":policy": commit.policy_digest,
                ":evidence": commit.evidence.sha256,
                ":len": signed(commit.evidence.len),
                ":verdict": commit.verdict,
                ":before": before,
            },
        )?;
        let id = transaction.last_insert_rowid();
        if let Some(base) = commit.follows {
            deltas::insert(&transaction, &commit.evidence.sha256, base)?;
        }
        transaction.execute(
            "INSERT INTO used_nonces (nonce, expires) VALUES (?1, ?2)",
            params![commit.nonce, signed(commit.nonce_expires)],
        )?;
        changes::keep(&transaction, commit.node, commit.time, "evidence", commit.changes)?;
        transaction.commit()?;
        Ok(id)
    }

    /// The last verdict of a node.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn last_verdict(&self, node: &str) -> Result<Option<StoredVerdict>, StoreError> {
        Ok(self.history(node, 1, None)?.pop())
    }

    /// At most `limit` verdicts of a node, the newest first; with `before`, only those with a smaller id.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn history(
        &self,
        node: &str,
        limit: u32,
        before: Option<i64>,
    ) -> Result<Vec<StoredVerdict>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {VERDICT} FROM verdicts WHERE node = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"
        ))?;
        let rows = statement.query_map(params![node, before.unwrap_or(i64::MAX), limit], read_verdict)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The first verdict with an id above `after`, of `node` where one is named.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn next_verdict(&self, after: i64, node: Option<&str>) -> Result<Option<StoredVerdict>, StoreError> {
        let connection = self.connection();
        let only = if node.is_some() {
            "node = ?2 AND"
        } else {
            "?2 IS NULL AND"
        };
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {VERDICT} FROM verdicts WHERE {only} id > ?1 ORDER BY id LIMIT 1"
        ))?;
        Ok(statement
            .query_row(params![after, node], read_verdict)
            .optional()?)
    }

    /// The verdict about the answer to this nonce.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn verdict_by_nonce(&self, nonce: &[u8]) -> Result<Option<StoredVerdict>, StoreError> {
        let connection = self.connection();
        let mut statement =
            connection.prepare_cached(&format!("SELECT {VERDICT} FROM verdicts WHERE nonce = ?1"))?;
        Ok(statement.query_row([nonce], read_verdict).optional()?)
    }
}

const VERDICT: &str = "id, node, time, trusted, nonce, policy_digest, evidence, evidence_kept, verdict";

fn read_verdict(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredVerdict> {
    let verdict: String = row.get("verdict")?;
    Ok(StoredVerdict {
        id: row.get("id")?,
        node: row.get("node")?,
        time: unsigned(row.get("time")?),
        trusted: row.get("trusted")?,
        nonce: row.get("nonce")?,
        policy_digest: row.get("policy_digest")?,
        evidence: row.get("evidence")?,
        evidence_kept: row.get("evidence_kept")?,
        verdict: raw_json(8, verdict)?,
    })
}

/// A column that holds JSON.
pub(super) fn raw_json(column: usize, text: String) -> rusqlite::Result<Box<serde_json::value::RawValue>> {
    serde_json::value::RawValue::from_string(text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

fn nonce_is_fresh(connection: &Connection, nonce: &[u8], expires: u64) -> Result<(), StoreError> {
    let used = connection
        .query_row("SELECT 1 FROM used_nonces WHERE nonce = ?1", [nonce], |_| Ok(()))
        .optional()?;
    if used.is_some() {
        return Err(StoreError::NonceUsed);
    }
    let forgotten: Option<i64> = connection
        .query_row(
            "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'nonces-forgotten'",
            [],
            |r| r.get(0),
        )
        .optional()?;
    match forgotten {
        Some(mark) if expires <= unsigned(mark) => Err(StoreError::NonceExpired),
        _ => Ok(()),
    }
}
