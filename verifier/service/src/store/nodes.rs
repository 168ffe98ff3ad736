//! Nodes: their enrolment, and what their next round starts from.
//!
//! Promise: another key is another machine: it begins without the state of the one before. Not here: how a
//! node is stopped and re-appraised (see `waivers`).

use super::{Store, StoreError, signed, text, unsigned};
use rusqlite::{OptionalExtension, TransactionBehavior, params};
use std::io;
use std::path::{Path, PathBuf};

/// A node as it was enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name; see [`valid_name`].
    pub name: String,
    /// TPM Name of the attestation key, lower-case hex; of a node without a TPM as in `node_key`.
    pub ak_name: String,
    /// TPMT_PUBLIC of the attestation key, where a file was given at enrolment.
    pub ak_public: Option<Vec<u8>>,
    /// SHA-256 of the key of a trust domain's node, lower-case hex, where one is pinned.
    pub node_key: Option<String>,
    /// Absolute path of the policy file: the copy in the store, or in one that an earlier version made, the
    /// file itself.
    pub policy: PathBuf,
    /// What it is a copy of.
    pub policy_source: Option<PathBuf>,
    /// Digest of the policy as it was enrolled.
    pub policy_digest: String,
    /// When it was enrolled, in unix seconds.
    pub added: u64,
    /// Since when nothing is taken of it, in unix seconds.
    pub stopped: Option<u64>,
}

#[cfg(test)]
impl Node {
    /// One for tests to which the rest does not matter.
    pub(crate) fn of_tests(name: &str) -> Node {
        Node {
            name: name.to_owned(),
            ak_name: "000b".to_owned(),
            ak_public: None,
            policy: "/p".into(),
            policy_source: None,
            node_key: None,
            policy_digest: String::new(),
            added: 0,
            stopped: None,
        }
    }
}

/// What the next round of a node starts from.
#[derive(Debug, Clone)]
pub struct Round {
    /// The enrolment.
    pub node: Node,
    /// What the last round left; `None` before the first.
    pub state: Option<Vec<u8>>,
    /// The evidence that left it, SHA-256 in hex; `None`: the next round must send everything.
    pub base: Option<String>,
    /// To be given back in [`Commit::version`].
    pub version: i64,
}

/// Whether `name` can name a node: 1 to 253 of `A-Z a-z 0-9 . _ -`, the first one a letter or a digit.
pub fn valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=253).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

impl Store {
    /// Enrols a node. With `replace`, a node of that name gets the new key and policy; its verdicts stay, and
    /// so does its state while the key is the same (another key is another machine, its counters do not
    /// compare).
    ///
    /// # Errors
    /// [`StoreError::NodeExists`] without `replace`; [`StoreError::Database`].
    pub fn add_node(&self, node: &Node, replace: bool) -> Result<(), StoreError> {
        let policy = text(self.relative(&node.policy))?;
        let source = node.policy_source.as_deref().map(text).transpose()?;
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let old: Option<String> = transaction
            .query_row("SELECT ak_name FROM nodes WHERE name = ?1", [&node.name], |r| {
                r.get(0)
            })
            .optional()?;
        match old {
            None => {
                transaction.execute(
                    "INSERT INTO nodes (name, ak_name, ak_public, policy, policy_digest, added, version, policy_source, node_key)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    params![
                        node.name,
                        node.ak_name,
                        node.ak_public,
                        policy,
                        node.policy_digest,
                        signed(node.added),
                        // Random, so that a node that was removed and added again is not taken for the old
                        // one.
                        random_version()?,
                        source,
                        node.node_key,
                    ],
                )?;
            }
            Some(_) if !replace => return Err(StoreError::NodeExists(node.name.clone())),
            Some(old) => {
                transaction.execute(
                    "UPDATE nodes SET ak_name = ?2, ak_public = ?3, policy = ?4, policy_digest = ?5, added = ?6,
                     version = version + 1, state = CASE WHEN ?7 THEN state ELSE NULL END,
                     base = CASE WHEN ?7 THEN base ELSE NULL END, policy_source = ?8, node_key = ?9 WHERE name = ?1",
                    params![
                        node.name,
                        node.ak_name,
                        node.ak_public,
                        policy,
                        node.policy_digest,
                        signed(node.added),
                        old == node.ak_name,
                        source,
                        node.node_key,
                    ],
                )?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Removes a node, its state, its verdicts and their evidence.
    ///
    /// # Errors
    /// [`StoreError::UnknownNode`], [`StoreError::Database`], [`StoreError::Io`].
    pub fn remove_node(&self, name: &str) -> Result<(), StoreError> {
        let files = {
            let mut connection = self.connection();
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let files: Vec<String> = transaction
                .prepare("SELECT evidence FROM verdicts WHERE node = ?1 AND evidence_kept = 1")?
                .query_map([name], |r| r.get(0))?
                .collect::<Result<_, _>>()?;
            if transaction.execute("DELETE FROM nodes WHERE name = ?1", [name])? == 0 {
                return Err(StoreError::UnknownNode(name.to_owned()));
            }
            transaction.commit()?;
            files
        };
        self.delete_evidence(files)
    }

    /// All nodes by name.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(&format!("SELECT {NODE} FROM nodes ORDER BY name"))?;
        let rows = statement.query_map([], |row| read_node(row, &self.dir))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One node.
    ///
    /// # Errors
    /// [`StoreError::UnknownNode`], [`StoreError::Database`].
    pub fn node(&self, name: &str) -> Result<Node, StoreError> {
        self.round(name).map(|round| round.node)
    }

    /// One node and what its next round starts from.
    ///
    /// # Errors
    /// [`StoreError::UnknownNode`], [`StoreError::Database`].
    pub fn round(&self, name: &str) -> Result<Round, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {NODE}, state, base, version FROM nodes WHERE name = ?1"
        ))?;
        let round = statement
            .query_row([name], |row| {
                Ok(Round {
                    node: read_node(row, &self.dir)?,
                    state: row.get("state")?,
                    base: row.get("base")?,
                    version: row.get("version")?,
                })
            })
            .optional()?;
        round.ok_or_else(|| StoreError::UnknownNode(name.to_owned()))
    }
}

const NODE: &str = "name, ak_name, ak_public, policy, policy_digest, added, stopped, policy_source, node_key";

fn read_node(row: &rusqlite::Row<'_>, dir: &Path) -> rusqlite::Result<Node> {
    Ok(Node {
        name: row.get("name")?,
        ak_name: row.get("ak_name")?,
        ak_public: row.get("ak_public")?,
        node_key: row.get("node_key")?,
        policy: dir.join(row.get::<_, String>("policy")?),
        policy_source: row.get::<_, Option<String>>("policy_source")?.map(PathBuf::from),
        policy_digest: row.get("policy_digest")?,
        added: unsigned(row.get("added")?),
        stopped: row.get::<_, Option<i64>>("stopped")?.map(unsigned),
    })
}

fn random_version() -> Result<i64, StoreError> {
    use rand_core::{OsRng, RngCore};
    let mut bytes = [0; 8];
    OsRng.try_fill_bytes(&mut bytes).map_err(|e| StoreError::Io {
        path: PathBuf::from("the system's random numbers"),
        error: io::Error::other(e),
    })?;
    // Far from the end, so that it can be counted up.
    Ok(i64::from_le_bytes(bytes) & 0x3fff_ffff_ffff_ffff)
}
