//! Changes of verdicts as rows: one for each node or pod whose state became another one, numbered from 1
//! without gaps.
//!
//! A change is kept in the transaction of the verdict that made it: there is no verdict without its changes
//! and no change without its verdict, whenever the process dies. Outlets (webhooks, the journal) each keep
//! the number up to which they delivered. Not here: what a change is (see `changes`), delivery.

use super::{SET_META, Store, StoreError, signed, unsigned};
use crate::changes::{Happened, Outline, PodName, StateChange};
use cgpath_appraisal::State;
use cgpath_appraisal::event::Change;
use cgpath_evidence::PodUid;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use std::io;
use std::path::PathBuf;

/// Changes that are kept.
pub const KEEP_CHANGES: u32 = 100_000;

const CHANGE: &str = "number, id, time, node, pod, name, old, new, rules, cause, pods";

/// A state's name, as JSON has it.
fn word(state: Option<State>) -> Result<Option<String>, StoreError> {
    let text = |state| serde_json::to_value(state).map_err(|e| json(&e));
    Ok(state
        .map(text)
        .transpose()?
        .and_then(|value| value.as_str().map(str::to_owned)))
}

fn json(error: &serde_json::Error) -> StoreError {
    StoreError::Database(rusqlite::Error::ToSqlConversionFailure(error.to_string().into()))
}

fn parsed<T: serde::de::DeserializeOwned>(column: usize, text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<State>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| parsed(column, &format!("\"{text}\"")))
        .transpose()
}

fn happened(row: &Row<'_>) -> rusqlite::Result<Happened> {
    let pod: Option<String> = row.get(4)?;
    let pod = pod.and_then(|uid| PodUid::parse(uid.as_bytes()));
    Ok(Happened {
        id: row.get(1)?,
        time: unsigned(row.get(2)?),
        pods: parsed::<Vec<PodName>>(10, &row.get::<_, String>(10)?)?,
        change: Change {
            number: unsigned(row.get(0)?),
            node: row.get(3)?,
            pod,
            name: row.get(5)?,
            old: state(row, 6)?,
            new: state(row, 7)?,
            rules: parsed(8, &row.get::<_, String>(8)?)?,
            cause: row.get(9)?,
        },
    })
}

fn random_id() -> Result<String, StoreError> {
    use rand_core::{OsRng, RngCore};
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(|e| StoreError::Io {
        path: PathBuf::from("the system's random numbers"),
        error: io::Error::other(e),
    })?;
    Ok(hex::encode(bytes))
}

/// Keeps changes of a node, within the caller's transaction.
pub(super) fn keep(
    connection: &Connection,
    node: &str,
    time: u64,
    cause: &str,
    changes: &[StateChange],
) -> Result<(), StoreError> {
    // With no AUTOINCREMENT the next number is the greatest one and 1: a transaction that fails uses none up.
    let mut statement = connection.prepare_cached(
        "INSERT INTO changes (id, time, node, pod, name, old, new, rules, cause, pods)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for change in changes {
        statement.execute(params![
            random_id()?,
            signed(time),
            node,
            change.pod.map(|uid| uid.to_string()),
            change.name,
            word(change.old)?,
            word(change.new)?,
            serde_json::to_string(&change.rules).map_err(|e| json(&e))?,
            cause,
            serde_json::to_string(&change.pods).map_err(|e| json(&e))?,
        ])?;
    }
    Ok(())
}

/// Forgets the oldest, never the last.
pub(super) fn prune(connection: &Connection) -> Result<(), StoreError> {
    connection.execute(
        "DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?1",
        [KEEP_CHANGES],
    )?;
    Ok(())
}

impl Store {
    /// The states in the last verdict of a node.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn outline(&self, node: &str) -> Result<Option<Outline>, StoreError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT verdict FROM verdicts WHERE node = ?1 ORDER BY id DESC LIMIT 1")?;
        let text: Option<String> = statement.query_row([node], |r| r.get(0)).optional()?;
        Ok(text.map(|text| parsed(0, &text)).transpose()?)
    }

    /// At most `limit` changes with a number above `after`, in order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn changes(&self, after: u64, limit: u32) -> Result<Vec<Happened>, StoreError> {
        self.select("", after, limit)
    }

    /// The same of those that made something untrusted, or showed what no policy knows.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn revocations(&self, after: u64, limit: u32) -> Result<Vec<Happened>, StoreError> {
        self.select("new IN ('untrusted', 'unknown') AND", after, limit)
    }

    fn select(&self, only: &str, after: u64, limit: u32) -> Result<Vec<Happened>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {CHANGE} FROM changes WHERE {only} number > ?1 ORDER BY number LIMIT ?2"
        ))?;
        let rows = statement.query_map(params![signed(after), limit], happened)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The change with this id.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn change_by_id(&self, id: &str) -> Result<Option<Happened>, StoreError> {
        let connection = self.connection();
        let mut statement =
            connection.prepare_cached(&format!("SELECT {CHANGE} FROM changes WHERE id = ?1"))?;
        Ok(statement.query_row([id], happened).optional()?)
    }

    /// The last change's number; 0 before the first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn last_change(&self) -> Result<u64, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached("SELECT coalesce(max(number), 0) FROM changes")?;
        Ok(statement.query_row([], |r| r.get(0)).map(unsigned)?)
    }

    /// Up to which number an outlet delivered; `None` for one that never was there.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn position(&self, outlet: &str) -> Result<Option<u64>, StoreError> {
        let text = self.meta(&format!("delivered {outlet}"))?;
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// Keeps that an outlet delivered up to `number`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_position(&self, outlet: &str, number: u64) -> Result<(), StoreError> {
        self.set_positions(&[(outlet, number)])
    }

    /// Keeps several at once, or none of them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_positions(&self, positions: &[(&str, u64)]) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (outlet, number) in positions {
            transaction.execute(SET_META, [format!("delivered {outlet}"), number.to_string()])?;
        }
        transaction.commit()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(new: State) -> StateChange {
        StateChange {
            pod: None,
            name: None,
            old: None,
            new: Some(new),
            rules: vec!["V9".to_owned()],
            pods: Vec::new(),
        }
    }

    #[test]
    fn numbers_have_no_gaps_and_go_on_when_the_oldest_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        for n in 0..3 {
            let mut connection = store.connection();
            let transaction = connection.transaction().unwrap();
            let changes = [change(State::Trusted), change(State::Untrusted)];
            keep(&transaction, "n1", 7, "evidence", &changes).unwrap();
            // The second one never happened.
            if n != 1 {
                transaction.commit().unwrap();
            }
        }
        let numbers = |changes: Vec<Happened>| -> Vec<u64> {
            changes.iter().map(|happened| happened.change.number).collect()
        };
        assert_eq!(numbers(store.changes(0, 10).unwrap()), [1, 2, 3, 4]);
        assert_eq!(numbers(store.revocations(1, 1).unwrap()), [2]);
        let second = store.changes(1, 1).unwrap().remove(0);
        assert_eq!(
            store.change_by_id(&second.id).unwrap().unwrap().change,
            second.change
        );
        store
            .connection()
            .execute(
                "UPDATE changes SET number = ?1 WHERE number = 4",
                [KEEP_CHANGES + 3],
            )
            .unwrap();
        prune(&store.connection()).unwrap();
        assert_eq!(
            numbers(store.changes(0, 10).unwrap()),
            [u64::from(KEEP_CHANGES) + 3]
        );
        keep(
            &store.connection(),
            "n1",
            7,
            "evidence",
            &[change(State::Trusted)],
        )
        .unwrap();
        assert_eq!(store.last_change().unwrap(), u64::from(KEEP_CHANGES) + 4);
    }
}
