//! What was refused last in a node's name, so that it can be shown without asking the service.
//!
//! Not here: who says how often it is written (see `api`), what it means (see `node::standing`).

use super::{Store, StoreError, signed, unsigned};
use rusqlite::{OptionalExtension, params};
use serde::Serialize;

/// A submission that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// When, in unix seconds.
    pub time: u64,
    /// The answer's `kind`.
    pub kind: String,
    /// The answer's `error`.
    pub error: String,
}

impl Store {
    /// Keeps a refusal in place of the one before; nothing of a node that is not enrolled.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn keep_refusal(&self, node: &str, refusal: &Refusal) -> Result<(), StoreError> {
        self.connection().execute(
            "INSERT OR REPLACE INTO refusals (node, time, kind, error)
             SELECT name, ?2, ?3, ?4 FROM nodes WHERE name = ?1",
            params![node, signed(refusal.time), refusal.kind, refusal.error],
        )?;
        Ok(())
    }

    /// The last one.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn refusal(&self, node: &str) -> Result<Option<Refusal>, StoreError> {
        let connection = self.connection();
        let mut statement =
            connection.prepare_cached("SELECT time, kind, error FROM refusals WHERE node = ?1")?;
        let refusal = statement.query_row([node], |row| {
            Ok(Refusal {
                time: unsigned(row.get(0)?),
                kind: row.get(1)?,
                error: row.get(2)?,
            })
        });
        Ok(refusal.optional()?)
    }
}
