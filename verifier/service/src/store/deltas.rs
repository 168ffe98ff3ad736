//! Evidence that came in deltas: what each delta follows, and the whole of it.
//!
//! A delta names the evidence before it by its SHA-256, and that is the name of its file, so deltas form
//! chains that end at whole evidence. A file stays for as long as a verdict, a node or a later delta needs
//! it. Not here: whether a delta may follow (see `cgpath_appraisal::follow`).

use super::{Store, StoreError};
use cgpath_evidence::{Evidence, EvidenceDelta};
use rusqlite::{Connection, OptionalExtension, params};

/// So many files are read for one evidence at most.
const MAX_DELTAS: u32 = 64;

/// Deltas of this node after which the whole evidence is kept once: from half of [`MAX_DELTAS`] on, as its
/// key's name falls, so that nodes which were enrolled together do not all come to it in one round.
pub fn parts_of(ak_name: &str) -> u32 {
    let half = MAX_DELTAS / 2;
    let last = ak_name.len().checked_sub(2).and_then(|at| ak_name.get(at..));
    half + last
        .and_then(|byte| u32::from_str_radix(byte, 16).ok())
        .unwrap_or_default()
        % half
}

impl Store {
    /// The evidence of a verdict, whole, while it is kept.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Broken`] where the deltas do not form evidence.
    pub fn evidence(&self, sha256: &str) -> Result<Vec<u8>, StoreError> {
        let bytes = self.evidence_file(sha256)?;
        if !EvidenceDelta::is_delta(&bytes) {
            return Ok(bytes);
        }
        let broken = |why: String| StoreError::Broken {
            evidence: sha256.to_owned(),
            why,
        };
        let mut deltas = Vec::new();
        let mut bytes = bytes;
        while EvidenceDelta::is_delta(&bytes) {
            if deltas.len() == MAX_DELTAS as usize {
                return Err(broken(format!("more than {MAX_DELTAS} parts")));
            }
            let delta = EvidenceDelta::from_cbor(&bytes).map_err(|e| broken(e.to_string()))?;
            bytes = self.evidence_file(&hex::encode(delta.from.base))?;
            deltas.push(delta);
        }
        let mut whole = Evidence::from_cbor(&bytes).map_err(|e| broken(e.to_string()))?;
        for delta in deltas.into_iter().rev() {
            whole = delta.join(whole).map_err(|e| broken(e.to_string()))?;
        }
        Ok(whole.to_cbor())
    }

    /// Deltas up to whole evidence; 0 for whole evidence.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn depth(&self, sha256: &str) -> Result<u32, StoreError> {
        depth(&self.connection(), sha256)
    }

    /// The next round sends everything.
    ///
    /// # Errors
    /// [`StoreError::UnknownNode`], [`StoreError::Database`].
    pub fn resync(&self, node: &str) -> Result<(), StoreError> {
        let changed = self.connection().execute(
            "UPDATE nodes SET base = NULL, version = version + 1 WHERE name = ?1",
            [node],
        )?;
        match changed {
            0 => Err(StoreError::UnknownNode(node.to_owned())),
            _ => Ok(()),
        }
    }
}

/// Forgets that this evidence is a delta; gives what it followed.
pub(super) fn forget(connection: &Connection, sha256: &str) -> Result<Option<String>, StoreError> {
    Ok(connection
        .prepare_cached("DELETE FROM parts WHERE evidence = ?1 RETURNING base")?
        .query_row([sha256], |row| row.get(0))
        .optional()?)
}

pub(super) fn depth(connection: &Connection, sha256: &str) -> Result<u32, StoreError> {
    let found = connection
        .prepare_cached("SELECT depth FROM parts WHERE evidence = ?1")?
        .query_row([sha256], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// Keeps what a delta follows; within the transaction of its verdict.
pub(super) fn insert(connection: &Connection, sha256: &str, base: &str) -> Result<(), StoreError> {
    let depth = depth(connection, base)?.saturating_add(1);
    connection.execute(
        "INSERT INTO parts (evidence, base, depth) VALUES (?1, ?2, ?3) ON CONFLICT (evidence) DO NOTHING",
        params![sha256, base, depth],
    )?;
    Ok(())
}

/// Whether a verdict or a node rests on this evidence, itself or through deltas that follow it.
pub(super) fn is_needed(connection: &Connection, sha256: &str) -> Result<bool, StoreError> {
    let found = connection
        .prepare_cached(
            "WITH RECURSIVE users (evidence) AS (
                 SELECT ?1 UNION SELECT parts.evidence FROM parts JOIN users ON parts.base = users.evidence)
             SELECT 1 FROM users WHERE evidence IN (SELECT evidence FROM verdicts WHERE evidence_kept = 1)
                 OR evidence IN (SELECT base FROM nodes WHERE base IS NOT NULL) LIMIT 1",
        )?
        .query_row([sha256], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

#[cfg(test)]
mod tests {
    #[test]
    fn nodes_come_to_their_whole_evidence_one_by_one_and_never_too_late() {
        let name = |n: u8| format!("000b{}", hex::encode(sha2::Sha256::digest([n])));
        let limits: std::collections::BTreeSet<u32> = (0..=255).map(|n| parts_of(&name(n))).collect();
        assert_eq!(limits, (32..64).collect());
        assert_eq!(parts_of(""), 32);
    }

    use super::super::{Commit, Limits, Node, Round, Store};
    use super::*;
    use crate::store::KeptEvidence;
    use cgpath_appraisal::follow::cursor;
    use cgpath_appraisal::{NodeState, appraise};
    use cgpath_testkit::{KeyKind, Node as TestNode, delta_after};
    use sha2::Digest as _;

    fn commit(store: &Store, round: &Round, n: u8, evidence: &KeptEvidence, base: Option<&str>) -> i64 {
        store
            .commit(&Commit {
                node: "n",
                version: round.version,
                time: n.into(),
                trusted: true,
                nonce: &[n; 32],
                nonce_expires: 1000,
                policy_digest: "",
                evidence,
                follows: base,
                verdict: "{}",
                state: Some(&[n]),
                changes: &[],
            })
            .unwrap()
    }

    #[test]
    fn a_chain_of_parts_is_whole_evidence_again_and_stays_while_something_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.add_node(&Node::of_tests("n"), false).unwrap();
        let mut machine = TestNode::boot(KeyKind::EcdsaP256);
        let mut state: Option<(NodeState, Evidence)> = None;
        let mut wholes = Vec::new();
        for n in 0..6u8 {
            let whole = machine.attest(&[n; 32]);
            let round = store.round("n").unwrap();
            let bytes = match (&round.base, &state) {
                (Some(base), Some((state, kept))) if n != 3 => {
                    let base = hex::decode(base).unwrap().try_into().unwrap();
                    delta_after(&whole, kept, cursor(state, base).unwrap()).to_cbor()
                }
                _ => whole.to_cbor(),
            };
            let kept = store.keep_evidence(&bytes).unwrap();
            let base = round.base.as_deref().filter(|_| n != 3);
            commit(&store, &round, n, &kept, base);
            assert_eq!(store.round("n").unwrap().base.as_ref(), Some(&kept.sha256));
            let context = machine.context(&[n; 32], state.take().map(|(state, _)| state));
            assert_eq!(store.evidence(&kept.sha256).unwrap(), whole.to_cbor());
            let left = appraise(&whole, &machine.policy(), &context).unwrap().state;
            state = left.map(|left| (left, whole));
            wholes.push(kept.sha256);
        }
        let depths: Vec<u32> = wholes.iter().map(|sha| store.depth(sha).unwrap()).collect();
        assert_eq!(depths, [0, 1, 2, 0, 1, 2]);
        // Only the last verdict's evidence is to be kept: that needs the two before it, and no other.
        let limits = Limits {
            verdicts: 1,
            evidence_bytes: 0,
        };
        store.prune(&limits, 0, None).unwrap();
        let there: Vec<bool> = wholes
            .iter()
            .map(|sha| store.evidence_path(sha).exists())
            .collect();
        assert_eq!(there, [false, false, false, true, true, true]);
        let last = Evidence::from_cbor(&store.evidence(&wholes[5]).unwrap()).unwrap();
        assert_eq!(last.checkpoints.len(), 7);
        assert_eq!(store.sweep().unwrap(), 0);
        // A new whole one lets go of the chain.
        let whole = machine.attest(&[9; 32]).to_cbor();
        let kept = store.keep_evidence(&whole).unwrap();
        commit(&store, &store.round("n").unwrap(), 9, &kept, None);
        store.prune(&limits, 0, None).unwrap();
        assert!(wholes.iter().all(|sha| !store.evidence_path(sha).exists()));
        assert_eq!(store.depth(&wholes[5]).unwrap(), 0);
        store.resync("n").unwrap();
        assert_eq!(store.round("n").unwrap().base, None);
        store.remove_node("n").unwrap();
        assert!(!store.evidence_path(&kept.sha256).exists());
    }

    #[test]
    fn a_part_whose_base_is_gone_or_another_names_the_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let mut machine = TestNode::boot(KeyKind::EcdsaP256);
        let first = machine.attest(&[1; 32]);
        let context = machine.context(&[1; 32], None);
        let state = appraise(&first, &machine.policy(), &context)
            .unwrap()
            .state
            .unwrap();
        let second = machine.attest(&[2; 32]);
        let gone = store
            .keep_evidence(&delta_after(&second, &first, cursor(&state, [3; 32]).unwrap()).to_cbor())
            .unwrap();
        assert!(matches!(store.evidence(&gone.sha256), Err(StoreError::Io { .. })));
        let other = store.keep_evidence(&second.to_cbor()).unwrap();
        let base = hex::decode(&other.sha256).unwrap().try_into().unwrap();
        let wrong = store
            .keep_evidence(&delta_after(&second, &first, cursor(&state, base).unwrap()).to_cbor())
            .unwrap();
        let error = store.evidence(&wrong.sha256).unwrap_err();
        assert!(error.to_string().contains(&wrong.sha256), "{error}");
    }
}
