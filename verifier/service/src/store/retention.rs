//! Forgetting: verdicts and evidence over the limits, nonces that expired, files that nothing names.
//!
//! Promise: what a look costs grows with what came since the last one and with the evidence that is kept, not
//! with the verdicts that are: a store may hold millions of them. Not here: how evidence hangs together (see
//! `deltas`).

use super::files::EVIDENCE;
use super::{Store, StoreError, changes, deltas, signed, unsigned};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use std::collections::BTreeSet;
use std::{fs, io};

/// How long kept evidence is, the newest first. Both columns are in the index: no verdict is read for this.
const LENGTHS: &str = "SELECT id, evidence_len FROM verdicts INDEXED BY verdicts_with_evidence
    WHERE evidence_kept = 1 ORDER BY id DESC";

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Verdicts of each node.
    pub verdicts: u32,
    /// Bytes of evidence in total; the last evidence of each node is kept in any case.
    pub evidence_bytes: u64,
}

impl Store {
    /// Forgets what is over the limits, and nonces that expired before `now`; deletes evidence that no
    /// verdict names. With `nodes`, only these can have more verdicts than before.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Io`].
    pub fn prune(
        &self,
        limits: &Limits,
        now: u64,
        nodes: Option<&BTreeSet<String>>,
    ) -> Result<(), StoreError> {
        let all;
        let nodes = match nodes {
            Some(nodes) => nodes,
            None => {
                all = self.nodes()?.into_iter().map(|node| node.name).collect();
                &all
            }
        };
        let files = {
            let mut connection = self.connection();
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            forget_nonces(&transaction, now)?;
            let mut files: Vec<String> = Vec::new();
            for node in nodes {
                files.extend(forget_verdicts(&transaction, node, limits.verdicts)?);
            }
            files.extend(forget_evidence(&transaction, limits.evidence_bytes)?);
            changes::prune(&transaction)?;
            transaction.commit()?;
            files
        };
        self.delete_evidence(files)
    }

    /// Deletes what a crash left in the evidence folder: parts of files, and files that no verdict names.
    /// Only while no other process writes evidence.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Io`].
    pub fn sweep(&self) -> Result<usize, StoreError> {
        let folder = self.dir.join(EVIDENCE);
        let io = |error| StoreError::Io {
            path: folder.clone(),
            error,
        };
        let mut swept = 0;
        for entry in fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let named = match (path.extension(), path.file_stem().and_then(|s| s.to_str())) {
                (Some(extension), Some(stem)) if extension == "cbor" => {
                    deltas::is_needed(&self.connection(), stem)?
                }
                (Some(extension), _) if extension == "part" => false,
                // Not ours: left alone.
                _ => true,
            };
            if !named {
                fs::remove_file(&path).map_err(|error| StoreError::Io { path, error })?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Deletes files unless something rests on them, and with them what they followed, if that is of no more
    /// use.
    pub(super) fn delete_evidence(&self, mut files: Vec<String>) -> Result<(), StoreError> {
        if files.is_empty() {
            return Ok(());
        }
        let mut useless = Vec::new();
        {
            let mut connection = self.connection();
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            while let Some(sha256) = files.pop() {
                // Another verdict may rest on the very same bytes, or on a delta that follows them.
                if deltas::is_needed(&transaction, &sha256)? {
                    continue;
                }
                files.extend(deltas::forget(&transaction, &sha256)?);
                useless.push(sha256);
            }
            transaction.commit()?;
        }
        for sha256 in useless {
            let path = self.evidence_path(&sha256);
            match fs::remove_file(&path) {
                // A crash between the transaction and here, then a sweep, then here again.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Io { path, error });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn forget_nonces(transaction: &Transaction<'_>, now: u64) -> Result<(), StoreError> {
    // The clock may be set back later: what was forgotten stays refused by the mark.
    let newest: Option<i64> = transaction.query_row(
        "SELECT max(expires) FROM used_nonces WHERE expires < ?1",
        [signed(now)],
        |r| r.get(0),
    )?;
    if let Some(newest) = newest {
        transaction.execute(
            "INSERT INTO meta (key, value) VALUES ('nonces-forgotten', CAST(?1 AS TEXT))
             ON CONFLICT (key) DO UPDATE SET value = CAST(max(CAST(value AS INTEGER), ?1) AS TEXT)",
            [newest],
        )?;
        transaction.execute("DELETE FROM used_nonces WHERE expires < ?1", [signed(now)])?;
    }
    Ok(())
}

/// Forgets a node's verdicts but the newest `keep`; gives the evidence of the others, as far as it was kept.
fn forget_verdicts(transaction: &Transaction<'_>, node: &str, keep: u32) -> Result<Vec<String>, StoreError> {
    let oldest_kept: Option<i64> = transaction
        .prepare_cached("SELECT id FROM verdicts WHERE node = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2")?
        .query_row(params![node, keep.max(1) - 1], |r| r.get(0))
        .optional()?;
    let Some(oldest_kept) = oldest_kept else {
        return Ok(Vec::new());
    };
    let forgotten: Vec<(String, bool)> = transaction
        .prepare_cached("DELETE FROM verdicts WHERE node = ?1 AND id < ?2 RETURNING evidence, evidence_kept")?
        .query_map(params![node, oldest_kept], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    Ok(forgotten
        .into_iter()
        .filter_map(|(evidence, kept)| kept.then_some(evidence))
        .collect())
}

/// Lets go of the oldest evidence until the others have at most `limit` bytes; the last of each node stays in
/// any case.
fn forget_evidence(transaction: &Transaction<'_>, limit: u64) -> Result<Vec<String>, StoreError> {
    let mut over = None;
    {
        let mut statement = transaction.prepare_cached(LENGTHS)?;
        let mut rows = statement.query([])?;
        let mut total: u64 = 0;
        while let Some(row) = rows.next()? {
            total = total.saturating_add(unsigned(row.get(1)?));
            if total > limit {
                over = Some(row.get::<_, i64>(0)?);
                break;
            }
        }
    }
    let Some(over) = over else { return Ok(Vec::new()) };
    let mut statement = transaction.prepare_cached(
        "UPDATE verdicts SET evidence_kept = 0 WHERE evidence_kept = 1 AND id <= ?1
         AND EXISTS (SELECT 1 FROM verdicts AS later WHERE later.node = verdicts.node AND later.id > verdicts.id)
         RETURNING evidence",
    )?;
    let files = statement.query_map([over], |r| r.get(0))?;
    Ok(files.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::super::{Commit, Node};
    use super::*;

    fn round(store: &Store, name: &str, n: u8) {
        let version = store.round(name).unwrap().version;
        let evidence = store.keep_evidence(&[name.as_bytes(), &[n]].concat()).unwrap();
        let nonce = [name.as_bytes(), &[n; 30]].concat();
        store
            .commit(&Commit {
                node: name,
                version,
                time: n.into(),
                trusted: true,
                nonce: &nonce,
                nonce_expires: 1000,
                policy_digest: "",
                evidence: &evidence,
                follows: None,
                verdict: "{}",
                state: None,
                changes: &[],
            })
            .unwrap();
    }

    #[test]
    fn a_look_is_at_the_nodes_that_grew_and_reads_no_verdict_to_count_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        for name in ["n1", "n2"] {
            store.add_node(&Node::of_tests(name), false).unwrap();
            (0..5).for_each(|n| round(&store, name, n));
        }
        let limits = Limits {
            verdicts: 2,
            evidence_bytes: 1000,
        };
        let count = |name: &str| store.history(name, 100, None).unwrap().len();
        store.prune(&limits, 0, Some(&["n1".to_owned()].into())).unwrap();
        assert_eq!((count("n1"), count("n2")), (2, 5));
        store.prune(&limits, 0, None).unwrap();
        assert_eq!((count("n1"), count("n2")), (2, 2));
        assert_eq!(fs::read_dir(dir.path().join(EVIDENCE)).unwrap().count(), 4);
        let plan: String = store
            .connection()
            .query_row(&format!("EXPLAIN QUERY PLAN {LENGTHS}"), [], |r| r.get(3))
            .unwrap();
        assert!(plan.contains("COVERING INDEX verdicts_with_evidence"), "{plan}");
    }
}
