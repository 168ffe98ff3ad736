//! The way back: what a store keeps so that evidence can be re-appraised, findings accepted, nodes stopped.
//!
//! One transaction takes everything that is re-appraised together with what made it so: there is no instant
//! at which the policy is the new one and a verdict the old one's. What a verdict said before stays, in
//! `rejudged`.
//! Not here: how evidence is judged (see `reappraisal`).

use super::verdicts::raw_json;
use super::{Node, Store, StoreError, changes, signed, text, unsigned};
use crate::changes::StateChange;
use cgpath_appraisal::State;
use cgpath_evidence::PodUid;
use rusqlite::{OptionalExtension, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Who works from what the node was before has to begin anew.
const NEXT_VERSION: &str = "UPDATE nodes SET version = version + 1 WHERE name = ?1";

/// A kept verdict as far as it is needed to re-appraise its evidence.
#[derive(Debug, Clone)]
pub struct Past {
    /// Its id.
    pub id: i64,
    /// When the evidence came, in unix seconds.
    pub time: u64,
    /// The nonce that was answered.
    pub nonce: Vec<u8>,
    /// SHA-256 of the evidence, hex.
    pub evidence: String,
    /// Whether the evidence is still on disk.
    pub evidence_kept: bool,
    /// The verdict as JSON.
    pub verdict: String,
    /// What was known of the node before it.
    pub state_before: Option<Vec<u8>>,
}

/// A verdict that was made again by a re-appraisal.
#[derive(Debug)]
pub struct Reappraised {
    /// Its id.
    pub id: i64,
    /// Whether the node and all pods are trusted now.
    pub trusted: bool,
    /// The new verdict as JSON.
    pub verdict: String,
}

/// What changes with it.
#[derive(Debug)]
pub enum Change<'a> {
    /// A node gets a new key or policy.
    Enrolment(&'a Node),
    /// An accept statement with this digest counts no more.
    Revoke(&'a str),
    /// A finding is accepted: the statement's digest, when it ends, and its text.
    Accept {
        /// `sha256:` and hex.
        digest: &'a str,
        /// In unix seconds.
        until: u64,
        /// The statement.
        statement: &'a str,
    },
}

/// What one re-appraisal made of one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReappraisalStep {
    /// When, in unix seconds.
    pub time: u64,
    /// What for.
    pub reason: String,
    /// Digest of the policy before.
    pub old_policy: String,
    /// Whether all was trusted before.
    pub old_trusted: bool,
    /// Digest of the policy after.
    pub new_policy: String,
    /// Whether all is trusted after.
    pub new_trusted: bool,
}

impl ReappraisalStep {
    /// The columns of this, in their order.
    const COLUMNS: &str = "r.time, reason, old_policy, old_trusted, new_policy, new_trusted";

    /// From the columns of a row that begin with this one.
    fn of(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<ReappraisalStep> {
        Ok(ReappraisalStep {
            time: unsigned(row.get(first)?),
            reason: row.get(first + 1)?,
            old_policy: row.get(first + 2)?,
            old_trusted: row.get(first + 3)?,
            new_policy: row.get(first + 4)?,
            new_trusted: row.get(first + 5)?,
        })
    }

    /// Whether the verdict is as trusted as before.
    fn keeps_trust(&self) -> bool {
        self.old_trusted == self.new_trusted
    }
}

/// One line of the record of re-appraisals.
#[derive(Debug, Clone, Serialize)]
pub struct ReappraisalNote {
    /// The verdict.
    pub verdict: i64,
    /// What was made of it.
    #[serde(flatten)]
    pub step: ReappraisalStep,
    /// What the verdict said before.
    pub old_verdict: Box<serde_json::value::RawValue>,
}

/// Verdicts that stand beside each other in the record of re-appraisals and that one re-appraisal left as
/// trusted as they were, with the same changes of the same pods; or a single one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReappraisalLine {
    /// The newest of these verdicts.
    pub newest: i64,
    /// The oldest of them.
    pub oldest: i64,
    /// How many they are.
    pub verdicts: u64,
    /// What was made of the newest one; of the others whether they are trusted may be another.
    pub step: ReappraisalStep,
    /// The pods that are judged otherwise after, in each of these verdicts.
    pub pods: Vec<PodChange>,
}

/// A pod that a re-appraisal judged otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodChange {
    /// What it is called, and its UID as people see it.
    pub pod: String,
    /// How it was judged before; `None` where the verdict did not speak of it.
    pub old: Option<State>,
    /// How it is judged after.
    pub new: Option<State>,
}

/// What of a verdict says how pods were judged.
#[derive(Deserialize)]
struct Judged {
    #[serde(default)]
    pods: Vec<JudgedPod>,
}

#[derive(Deserialize)]
struct JudgedPod {
    uid: PodUid,
    #[serde(default)]
    undashed: bool,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    told: Option<String>,
    state: State,
}

/// The pods that the second of two verdicts judges otherwise than the first, by their UIDs.
fn changed_pods(old: &str, new: &str) -> Result<Vec<PodChange>, serde_json::Error> {
    let (old, new): (Judged, Judged) = (serde_json::from_str(old)?, serde_json::from_str(new)?);
    let mut pods: BTreeMap<PodUid, PodChange> = BTreeMap::new();
    let of_old = old.pods.into_iter().map(|pod| (pod, true));
    for (pod, is_old) in of_old.chain(new.pods.into_iter().map(|pod| (pod, false))) {
        let uid = pod.uid.shown(pod.undashed);
        let name = pod.name.or(pod.told);
        let change = pods.entry(pod.uid).or_insert_with(|| PodChange {
            pod: name.map_or_else(|| uid.clone(), |name| format!("{name} ({uid})")),
            old: None,
            new: None,
        });
        *(if is_old { &mut change.old } else { &mut change.new }) = Some(pod.state);
    }
    Ok(pods.into_values().filter(|pod| pod.old != pod.new).collect())
}

/// Notes of a node that are read for people at most: each takes both verdicts.
pub const NOTES: usize = 10_000;

impl ReappraisalLine {
    /// Whether an older note belongs into this line.
    fn takes(&self, older: &ReappraisalLine) -> bool {
        let (own, other) = (&self.step, &older.step);
        own.keeps_trust()
            && other.keeps_trust()
            && (own.time, &own.reason) == (other.time, &other.reason)
            && (&own.old_policy, &own.new_policy) == (&other.old_policy, &other.new_policy)
            && self.pods == older.pods
    }
}

/// A time when what was known of a node was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    /// When, in unix seconds.
    pub time: u64,
    /// Why.
    pub reason: String,
    /// The statement's digest: `sha256:` and hex.
    pub digest: String,
    /// The statement.
    pub statement: String,
}

impl Store {
    /// Forgets what is known of a node: its next evidence is compared with nothing before. `version` is what
    /// the statement was made of.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the node changed since; [`StoreError::Database`].
    pub fn forget(&self, node: &str, version: i64, forgotten: &Forgotten) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let changed = transaction.execute(
            "UPDATE nodes SET state = NULL, base = NULL, version = version + 1 WHERE name = ?1 AND version = \
             ?2",
            params![node, version],
        )?;
        if changed == 0 {
            return Err(StoreError::Conflict);
        }
        transaction.execute(
            "INSERT INTO forgotten (digest, node, time, reason, statement) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                forgotten.digest,
                node,
                signed(forgotten.time),
                forgotten.reason,
                forgotten.statement
            ],
        )?;
        Ok(transaction.commit()?)
    }

    /// When what was known of a node was forgotten, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn forgotten(&self, node: &str) -> Result<Vec<Forgotten>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT time, reason, digest, statement FROM forgotten WHERE node = ?1 ORDER BY time DESC, \
             digest",
        )?;
        let rows = statement.query_map([node], |row| {
            Ok(Forgotten {
                time: unsigned(row.get(0)?),
                reason: row.get(1)?,
                digest: row.get(2)?,
                statement: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// All verdicts of a node, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn past(&self, node: &str) -> Result<Vec<Past>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, time, nonce, evidence, evidence_kept, verdict, state_before FROM verdicts
             WHERE node = ?1 ORDER BY id",
        )?;
        let rows = statement.query_map([node], |row| {
            Ok(Past {
                id: row.get("id")?,
                time: unsigned(row.get("time")?),
                nonce: row.get("nonce")?,
                evidence: row.get("evidence")?,
                evidence_kept: row.get("evidence_kept")?,
                verdict: row.get("verdict")?,
                state_before: row.get("state_before")?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Makes a change and keeps what was re-appraised because of it, all or nothing. `version` is what the
    /// judging started from; `changes` are those of the last verdict; `state` is what the next round starts
    /// from and the evidence that left it, `None` leaves both.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the node changed since; [`StoreError::UnknownNode`],
    /// [`StoreError::Database`].
    #[allow(clippy::too_many_arguments, reason = "one transaction")]
    pub fn change(
        &self,
        name: &str,
        version: i64,
        change: &Change<'_>,
        reappraised: &[Reappraised],
        changes: &[StateChange],
        state: Option<(&[u8], &str)>,
        reason: &str,
        now: u64,
    ) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: Option<(i64, String)> = transaction
            .query_row(
                "SELECT version, policy_digest FROM nodes WHERE name = ?1",
                [name],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )
            .optional()?;
        let new_policy = match (found, change) {
            (None, _) => return Err(StoreError::UnknownNode(name.to_owned())),
            (Some((found, _)), _) if found != version => return Err(StoreError::Conflict),
            (Some(_), Change::Enrolment(node)) => {
                transaction.execute(
                    "UPDATE nodes SET ak_name = ?2, ak_public = ?3, policy = ?4, policy_digest = ?5, added = ?6,
                     version = version + 1, state = CASE WHEN ak_name = ?2 THEN state ELSE NULL END,
                     base = CASE WHEN ak_name = ?2 THEN base ELSE NULL END, policy_source = ?7, node_key = ?8
                     WHERE name = ?1",
                    params![
                        name,
                        node.ak_name,
                        node.ak_public,
                        text(self.relative(&node.policy))?,
                        node.policy_digest,
                        signed(node.added),
                        node.policy_source.as_deref().map(text).transpose()?,
                        node.node_key,
                    ],
                )?;
                node.policy_digest.clone()
            }
            (Some((_, policy)), Change::Revoke(digest)) => {
                transaction.execute(
                    "DELETE FROM accepts WHERE digest = ?1 AND node = ?2",
                    params![digest, name],
                )?;
                transaction.execute(NEXT_VERSION, [name])?;
                policy
            }
            (
                Some((_, policy)),
                Change::Accept {
                    digest,
                    until,
                    statement,
                },
            ) => {
                transaction.execute(
                    "INSERT INTO accepts (digest, node, until, statement) VALUES (?1, ?2, ?3, ?4)",
                    params![digest, name, signed(*until), statement],
                )?;
                transaction.execute(NEXT_VERSION, [name])?;
                policy
            }
        };
        if let Some((state, base)) = state {
            // Where everything is to be sent again, that stays so.
            transaction.execute(
                "UPDATE nodes SET state = ?2, base = iif(base IS NULL, NULL, ?3) WHERE name = ?1",
                params![name, state, base],
            )?;
        }
        for again in reappraised {
            transaction.execute(
                "INSERT INTO rejudged
                 (verdict_id, time, reason, old_policy, old_trusted, old_verdict, new_policy, new_trusted)
                 SELECT id, ?2, ?3, policy_digest, trusted, verdict, ?4, ?5 FROM verdicts WHERE id = ?1",
                params![again.id, signed(now), reason, new_policy, again.trusted],
            )?;
            transaction.execute(
                "UPDATE verdicts SET trusted = ?2, policy_digest = ?3, verdict = ?4 WHERE id = ?1",
                params![again.id, again.trusted, new_policy, again.verdict],
            )?;
        }
        changes::keep(&transaction, name, now, reason, changes)?;
        Ok(transaction.commit()?)
    }

    /// What was re-appraised of a node, the newest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn reappraisals(&self, node: &str, limit: u32) -> Result<Vec<ReappraisalNote>, StoreError> {
        let connection = self.connection();
        let columns = ReappraisalStep::COLUMNS;
        let mut statement = connection.prepare_cached(&format!(
            "SELECT verdict_id, old_verdict, {columns} FROM rejudged r
             JOIN verdicts v ON v.id = verdict_id WHERE v.node = ?1 ORDER BY r.id DESC LIMIT ?2",
        ))?;
        let rows = statement.query_map(params![node, limit], |row| {
            Ok(ReappraisalNote {
                verdict: row.get(0)?,
                step: ReappraisalStep::of(row, 2)?,
                old_verdict: raw_json(1, row.get(1)?)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The same as lines for people, at most `limit` of them, of the newest [`NOTES`] notes; and whether
    /// there is more. The notes of one line are not held, and of what verdicts said two at a time.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn reappraisal_lines(
        &self,
        node: &str,
        limit: usize,
    ) -> Result<(Vec<ReappraisalLine>, bool), StoreError> {
        let connection = self.connection();
        // The numbers first: whole verdicts have no place in what is sorted.
        let mut numbers = connection.prepare_cached(
            "SELECT r.id FROM rejudged r JOIN verdicts v ON v.id = verdict_id WHERE v.node = ?1
             ORDER BY r.id DESC LIMIT ?2",
        )?;
        let numbers = numbers.query_map(params![node, (NOTES + 1) as i64], |row| row.get(0))?;
        let numbers: Vec<i64> = numbers.collect::<Result<_, _>>()?;
        let columns = ReappraisalStep::COLUMNS;
        let mut statement = connection.prepare_cached(&format!(
            "SELECT verdict_id, old_verdict,
             coalesce((SELECT n.old_verdict FROM rejudged n WHERE n.verdict_id = r.verdict_id AND n.id > r.id
             ORDER BY n.id LIMIT 1), v.verdict), {columns} FROM rejudged r JOIN verdicts v ON v.id = verdict_id
             WHERE r.id = ?1",
        ))?;
        let mut lines: Vec<ReappraisalLine> = Vec::new();
        for id in numbers.iter().take(NOTES) {
            let line = statement.query_row([id], |row| {
                let verdict = row.get(0)?;
                let (old, new): (String, String) = (row.get(1)?, row.get(2)?);
                let pods = changed_pods(&old, &new).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
                })?;
                Ok(ReappraisalLine {
                    pods,
                    newest: verdict,
                    oldest: verdict,
                    verdicts: 1,
                    step: ReappraisalStep::of(row, 3)?,
                })
            })?;
            if let Some(last) = lines.last_mut().filter(|last| last.takes(&line)) {
                last.oldest = line.oldest;
                last.verdicts += 1;
                continue;
            }
            if lines.len() >= limit {
                return Ok((lines, true));
            }
            lines.push(line);
        }
        Ok((lines, numbers.len() > NOTES))
    }

    /// What the verdicts of a node from `oldest` on said when their evidence came, by their id, of those that
    /// were re-appraised: JSON.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn first_words(&self, node: &str, oldest: i64) -> Result<HashMap<i64, String>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT v.id, r.old_verdict FROM verdicts v JOIN rejudged r ON r.id =
             (SELECT min(id) FROM rejudged WHERE verdict_id = v.id) WHERE v.node = ?1 AND v.id >= ?2",
        )?;
        let rows = statement.query_map(params![node, oldest], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Accept statements of a node that have not ended at `now`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn accepts(&self, node: &str, now: u64) -> Result<Vec<String>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT statement FROM accepts WHERE node = ?1 AND until > ?2 ORDER BY until, digest",
        )?;
        let rows = statement.query_map(params![node, signed(now)], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Takes nothing of a node any more from `since` on, in unix seconds; `None` takes it again.
    ///
    /// # Errors
    /// [`StoreError::UnknownNode`], [`StoreError::Database`].
    pub fn set_stopped(&self, node: &str, since: Option<u64>) -> Result<(), StoreError> {
        let changed = self.connection().execute(
            "UPDATE nodes SET stopped = ?2, version = version + 1 WHERE name = ?1",
            params![node, since.map(signed)],
        )?;
        match changed {
            0 => Err(StoreError::UnknownNode(node.to_owned())),
            _ => Ok(()),
        }
    }
}
