//! The store's tables, and how a store of an earlier version becomes one of today.
//!
//! Promise: a database that another program made, or a later version, is refused and stays as it is; a
//! migration is one transaction. Not here: what reads and writes the rows.

use super::StoreError;
use rusqlite::Connection;
use std::path::Path;

/// "cgpt": marks the database as ours (`PRAGMA application_id`).
const APPLICATION_ID: i32 = 0x6367_7074;
/// The tables below (`PRAGMA user_version`).
const SCHEMA_VERSION: i32 = 6;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE nodes (
    name          TEXT PRIMARY KEY,
    ak_name       TEXT NOT NULL,           -- TPM Name in hex; without a TPM as node_key
    ak_public     BLOB,                    -- TPMT_PUBLIC where a file was given
    policy        TEXT NOT NULL,           -- path, relative to the store's directory or absolute
    policy_digest TEXT NOT NULL,           -- what was enrolled; another content is refused
    added         INTEGER NOT NULL,        -- unix seconds
    state         BLOB,                    -- what the last round left for the next
    version       INTEGER NOT NULL,        -- changes with every change of this row
    stopped       INTEGER,                 -- since when nothing is taken of it, unix seconds
    base          TEXT,                    -- evidence that the next round may follow; none: it sends everything
    policy_source TEXT,                    -- absolute path of what `policy` is a copy of
    node_key      TEXT                     -- SHA-256 of a trust domain's key in hex, where one is pinned
) STRICT;
CREATE TABLE verdicts (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    node          TEXT NOT NULL REFERENCES nodes(name) ON DELETE CASCADE,
    time          INTEGER NOT NULL,        -- unix seconds
    trusted       INTEGER NOT NULL,
    nonce         BLOB NOT NULL UNIQUE,
    policy_digest TEXT NOT NULL,
    evidence      TEXT NOT NULL,           -- SHA-256 of the evidence, hex
    evidence_len  INTEGER NOT NULL,
    evidence_kept INTEGER NOT NULL,
    verdict       TEXT NOT NULL,           -- JSON; of a verdict that was re-appraised, the last word
    state_before  BLOB                     -- what was known of the node before
) STRICT;
CREATE INDEX verdicts_of_node ON verdicts (node, id);
CREATE INDEX verdicts_by_evidence ON verdicts (evidence);
-- Outlives nodes and verdicts: a nonce is never good twice.
CREATE TABLE used_nonces (nonce BLOB PRIMARY KEY, expires INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX used_nonces_by_age ON used_nonces (expires);
";

/// Tables that version 2 added.
const SINCE_2: &str = "
-- What verdicts said before their evidence was re-appraised.
CREATE TABLE rejudged (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    verdict_id    INTEGER NOT NULL REFERENCES verdicts(id) ON DELETE CASCADE,
    time          INTEGER NOT NULL,        -- when it was re-appraised, unix seconds
    reason        TEXT NOT NULL,
    old_policy    TEXT NOT NULL,
    old_trusted   INTEGER NOT NULL,
    old_verdict   TEXT NOT NULL,           -- JSON
    new_policy    TEXT NOT NULL,
    new_trusted   INTEGER NOT NULL
) STRICT;
CREATE INDEX rejudged_of_verdict ON rejudged (verdict_id);
-- Findings that somebody accepted: signed statements, see `cgpath_appraisal::accept`.
CREATE TABLE accepts (
    digest        TEXT PRIMARY KEY,
    node          TEXT NOT NULL REFERENCES nodes(name) ON DELETE CASCADE,
    until         INTEGER NOT NULL,        -- unix seconds
    statement     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// From version 1, in one transaction.
const MIGRATION: &str = "
ALTER TABLE nodes ADD COLUMN stopped INTEGER;
ALTER TABLE verdicts ADD COLUMN state_before BLOB;
";

/// From version 4, in the same.
const MIGRATION_5: &str = "ALTER TABLE nodes ADD COLUMN policy_source TEXT;";

/// From version 5.
const MIGRATION_6: &str = "ALTER TABLE nodes ADD COLUMN node_key TEXT;";

/// Tables that version 5 added, beside that of refusals.
const SINCE_5: &str = "
-- When somebody said that what was known of a node is to be forgotten: signed statements, see
-- `cgpath_appraisal::forget`.
CREATE TABLE IF NOT EXISTS forgotten (
    digest        TEXT PRIMARY KEY,
    node          TEXT NOT NULL REFERENCES nodes(name) ON DELETE CASCADE,
    time          INTEGER NOT NULL,        -- unix seconds
    reason        TEXT NOT NULL,
    statement     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Tables that version 3 added.
const CHANGES: &str = "
-- Outlives nodes and verdicts. The last row is never deleted, so numbers go on.
CREATE TABLE changes (
    number        INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,    -- random
    time          INTEGER NOT NULL,        -- unix seconds
    node          TEXT NOT NULL,
    pod           TEXT,                    -- NULL: the node itself
    name          TEXT,                    -- of the pod, in the policy
    old           TEXT,                    -- NULL: no verdict before
    new           TEXT,                    -- NULL: not named any more
    rules         TEXT NOT NULL,           -- JSON: rules that fail
    cause         TEXT NOT NULL,
    pods          TEXT NOT NULL            -- JSON: whom the change is about, see `Happened::pods`
) STRICT;
CREATE INDEX changes_to_untrusted ON changes (number) WHERE new IN ('untrusted', 'unknown');
";

/// Table that version 3 added.
const PARTS: &str = "
-- Evidence that is a part, and what it follows.
CREATE TABLE parts (
    evidence      TEXT PRIMARY KEY,        -- SHA-256, hex
    base          TEXT NOT NULL,           -- the same of what it follows
    depth         INTEGER NOT NULL         -- parts up to whole evidence, this one included
) STRICT, WITHOUT ROWID;
CREATE INDEX parts_by_base ON parts (base);
";

/// From version 2.
const MIGRATION_3: &str = "ALTER TABLE nodes ADD COLUMN base TEXT;";

/// Index that version 4 added: how long each evidence is that is kept, by age.
const KEPT: &str = "
CREATE INDEX IF NOT EXISTS verdicts_with_evidence ON verdicts (id, evidence_len) WHERE evidence_kept = 1;
";

/// The table that version 5 added.
const REFUSALS: &str = "
-- The last submission that was refused in a node's name: a sign of a wrong key or clock, or of somebody
-- trying.
CREATE TABLE IF NOT EXISTS refusals (
    node          TEXT PRIMARY KEY REFERENCES nodes(name) ON DELETE CASCADE,
    time          INTEGER NOT NULL,        -- unix seconds
    kind          TEXT NOT NULL,           -- as the answer's
    error         TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Makes the tables of an empty database, in one transaction.
pub(super) fn create(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch(&format!(
        "BEGIN; {SCHEMA} {SINCE_2} {PARTS} {CHANGES} {KEPT} {REFUSALS} {SINCE_5} \
         PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    ))?;
    Ok(())
}

/// Brings the tables of the database at `path` to today's version.
pub(super) fn migrate(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != APPLICATION_ID {
        return Err(foreign(path, "not a store of cgpath".to_owned()));
    }
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if (1..SCHEMA_VERSION).contains(&version) {
        // Another process may be here at the same time: the second one finds the work done.
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version < 2 {
            connection.execute_batch(&format!("{MIGRATION} {SINCE_2}"))?;
        }
        if version < 3 {
            connection.execute_batch(&format!("{MIGRATION_3} {PARTS} {CHANGES}"))?;
        }
        if version < 4 {
            connection.execute_batch(KEPT)?;
        }
        if version < 5 {
            connection.execute_batch(&format!("{MIGRATION_5} {REFUSALS} {SINCE_5}"))?;
        }
        if version < 6 {
            connection.execute_batch(MIGRATION_6)?;
        }
        connection.execute_batch(&format!("PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"))?;
    } else if version != SCHEMA_VERSION {
        return Err(foreign(
            path,
            format!("store version {version}, this cgpath knows {SCHEMA_VERSION}"),
        ));
    }
    Ok(())
}

/// The database at `path` is none of today's.
pub(super) fn foreign(path: &Path, what: String) -> StoreError {
    StoreError::Foreign {
        path: path.to_owned(),
        what,
    }
}
