//! What the service remembers: nodes, their states, verdicts, nonces that were used; and the evidence behind
//! verdicts.
//!
//! SQLite in write-ahead mode with a sync at each commit. The reasons: `cgpath node` and `cgpath report` work
//! on the same store while the service runs, with no second protocol for it (redb locks its file for one
//! process); a commit survives `kill -9` and a power cut; and the file can be read with stock tools in ten
//! years.
//!
//! One transaction takes a verdict, the state after it and the nonce together: there is no instant at which
//! one is kept without the others. Evidence is on disk, synced and named by its SHA-256, before that
//! transaction.
//! Not here: the tables (see `schema`), what evidence means, and HTTP.

mod changes;
mod deltas;
mod files;
mod nodes;
mod policies;
mod refusals;
mod retention;
mod schema;
mod verdicts;
mod waivers;

pub use changes::KEEP_CHANGES;
pub use deltas::parts_of;
pub use files::{KeptEvidence, lock_file, private_file, sync_dir};
pub use nodes::{Node, Round, valid_name};
pub use policies::kept_references;
pub use refusals::Refusal;
pub use retention::Limits;
pub use verdicts::{Commit, StoredVerdict};
pub use waivers::{
    Change, Forgotten, Past, PodChange, ReappraisalLine, ReappraisalNote, ReappraisalStep, Reappraised,
};

use files::EVIDENCE;
use rusqlite::{Connection, OptionalExtension};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The database's file in the store's directory.
const DATABASE: &str = "store.db";
/// The key of [`Store::stale_after`].
const STALE_AFTER: &str = "stale-after";
/// Keeps a value by its key.
const SET_META: &str =
    "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
/// How long a writer waits for another process' transaction.
const BUSY: Duration = Duration::from_secs(10);

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store in this directory.
    #[error("{0} holds no store")]
    NoStore(PathBuf),
    /// There is something already.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// The database is not ours, or of another version.
    #[error("{path}: {what}")]
    Foreign {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The database refused.
    #[error("store: {0}")]
    Database(#[from] rusqlite::Error),
    /// No node of this name.
    #[error("no node named {0} is enrolled")]
    UnknownNode(String),
    /// A node of this name is there.
    #[error("a node named {0} is enrolled already")]
    NodeExists(String),
    /// The nonce was used before.
    #[error("this nonce was answered already")]
    NonceUsed,
    /// The nonce's lifetime is over.
    #[error("this nonce has expired")]
    NonceExpired,
    /// Nothing is taken of this node until it is reactivated.
    #[error("node {0} is stopped")]
    Stopped(String),
    /// Evidence that came in deltas cannot be put together.
    #[error("evidence {evidence}: {why}")]
    Broken {
        /// SHA-256, hex.
        evidence: String,
        /// Why not.
        why: String,
    },
    /// The node's enrolment or state changed between reading it and committing.
    #[error("the node's enrolment or state changed in the meantime")]
    Conflict,
}

/// The store in one directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    connection: Mutex<Connection>,
}

impl Store {
    /// Makes an empty store. `dir` must exist and hold none.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Io`], [`StoreError::Database`].
    pub fn create(dir: &Path) -> Result<Store, StoreError> {
        let path = dir.join(DATABASE);
        // Made here and not by SQLite, so that it is private from the start.
        private_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists(path.clone()),
            _ => StoreError::Io {
                path: path.clone(),
                error,
            },
        })?;
        let folder = dir.join(EVIDENCE);
        files::private_folder(&folder).map_err(|error| StoreError::Io { path: folder, error })?;
        let connection = connect(&path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        schema::create(&connection)?;
        sync_dir(dir)?;
        Ok(Store {
            dir: dir.to_owned(),
            connection: Mutex::new(connection),
        })
    }

    /// Opens the store in `dir`.
    ///
    /// # Errors
    /// [`StoreError::NoStore`], [`StoreError::Foreign`], [`StoreError::Database`].
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let path = dir.join(DATABASE);
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::NoStore(dir.to_owned())),
            // A file in place of the directory.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(StoreError::NoStore(dir.to_owned()));
            }
            Err(error) => return Err(StoreError::Io { path, error }),
        }
        let connection = connect(&path)
            .and_then(|connection| schema::migrate(&connection, &path).map(|()| connection))
            .map_err(|error| match error {
                StoreError::Database(error) if is_no_database(&error) => {
                    schema::foreign(&path, "not a database".to_owned())
                }
                other => other,
            })?;
        Ok(Store {
            dir: dir.to_owned(),
            connection: Mutex::new(connection),
        })
    }

    /// Whether `dir` holds a store that has this value, the last one that is written when it is made; or one
    /// that cannot be looked into: of a later version, in use, damaged. Changes nothing, no version either.
    pub fn is_in(dir: &Path, last: &str) -> bool {
        use rusqlite::OpenFlags;
        let path = dir.join(DATABASE);
        if !path.is_file() {
            return false;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let made = Connection::open_with_flags(&path, flags).and_then(|connection| {
            let value = "SELECT value FROM meta WHERE key = ?1";
            connection.query_row(value, [last], |row| row.get::<_, String>(0))
        });
        match made {
            Ok(value) => !value.is_empty(),
            Err(rusqlite::Error::QueryReturnedNoRows) => false,
            Err(error) => !error.to_string().contains("no such table"),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic in between leaves the connection usable: an open transaction was rolled back by its drop.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value that the service keeps for itself.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let connection = self.connection();
        Ok(connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0))
            .optional()?)
    }

    /// Keeps such a value.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        self.connection().execute(SET_META, [key, value])?;
        Ok(())
    }

    /// Age from which the service shows a verdict as stale, seconds; `None` before it first ran.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn stale_after(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.meta(STALE_AFTER)?.and_then(|text| text.parse().ok()))
    }

    /// Keeps [`Store::stale_after`].
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_stale_after(&self, seconds: u64) -> Result<(), StoreError> {
        self.set_meta(STALE_AFTER, &seconds.to_string())
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    use rusqlite::OpenFlags;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Nothing that stands in the file can run code or reach other files.
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

fn is_no_database(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase)
}

fn text(path: &Path) -> Result<&str, StoreError> {
    path.to_str().ok_or_else(|| StoreError::Io {
        path: path.to_owned(),
        error: io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"),
    })
}

/// SQLite's integers are signed; times and lengths stay below 2^63.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn node(name: &str) -> Node {
        Node {
            name: name.to_owned(),
            ak_name: "000bff".to_owned(),
            ak_public: None,
            policy: PathBuf::from("/p.yaml"),
            policy_source: None,
            node_key: None,
            policy_digest: "sha256:00".to_owned(),
            added: 7,
            stopped: None,
        }
    }

    fn round(store: &Store, name: &str, nonce: u8, evidence: &[u8]) -> Result<i64, StoreError> {
        let version = store.round(name)?.version;
        let evidence = store.keep_evidence(evidence)?;
        store.commit(&Commit {
            node: name,
            version,
            time: 100 + u64::from(nonce),
            trusted: true,
            nonce: &[nonce; 32],
            nonce_expires: 1000 + u64::from(nonce),
            policy_digest: "sha256:00",
            evidence: &evidence,
            follows: None,
            verdict: "{}",
            state: Some(&[nonce]),
            changes: &[],
        })
    }

    fn files(store: &Store) -> usize {
        fs::read_dir(store.dir().join(EVIDENCE)).unwrap().count()
    }

    #[test]
    fn verdicts_that_a_reappraisal_left_as_they_were_are_one_line_and_the_limit_counts_lines() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.add_node(&node("n1"), false).unwrap();
        let ids = [1, 2, 3].map(|nonce| round(&store, "n1", nonce, b"evidence").unwrap());
        let again = |trusted: [bool; 3]| -> Vec<Reappraised> {
            let pairs = ids.into_iter().zip(trusted);
            let one = |(id, trusted)| Reappraised {
                id,
                trusted,
                verdict: "{}".to_owned(),
            };
            pairs.map(one).collect()
        };
        let change = |reappraised: &[Reappraised], reason: &str, now: u64| {
            let version = store.round("n1").unwrap().version;
            let revoke = Change::Revoke("sha256:00");
            let done = store.change("n1", version, &revoke, reappraised, &[], None, reason, now);
            done.unwrap();
        };
        change(&again([false, true, true])[..1], "first", 200);
        // More notes than lines are ever asked for.
        let many: Vec<Reappraised> = (0..700).flat_map(|_| again([false, true, true])).collect();
        change(&many, "second", 201);
        change(&again([true, true, true]), "third", 202);

        let (lines, has_more) = store.reappraisal_lines("n1", 1000).unwrap();
        assert!(!has_more);
        let seen: Vec<_> = lines
            .iter()
            .map(|line| {
                let verdicts = (line.newest, line.oldest, line.verdicts);
                (
                    line.step.reason.as_str(),
                    verdicts,
                    (line.step.old_trusted, line.step.new_trusted),
                )
            })
            .collect();
        let [a, b, c] = ids;
        let wanted = [
            ("third", (c, b, 2), (true, true)),
            ("third", (a, a, 1), (false, true)),
            ("second", (c, a, 2100), (true, true)),
            ("first", (a, a, 1), (true, false)),
        ];
        assert_eq!(seen, wanted);
        for limit in 0..4 {
            let (first, has_more) = store.reappraisal_lines("n1", limit).unwrap();
            assert_eq!((&first[..], has_more), (&lines[..limit], limit < lines.len()));
        }
        assert_eq!(store.reappraisal_lines("n2", 9).unwrap(), (vec![], false));
    }

    #[test]
    fn a_line_names_the_pods_that_were_judged_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.add_node(&node("n1"), false).unwrap();
        let ids = [1, 2].map(|nonce| round(&store, "n1", nonce, b"evidence").unwrap());
        let pod = |n: u8, state: &str| {
            let uid = format!("{n}{n}{n}{n}{n}{n}{n}{n}-1111-4111-8111-111111111111");
            format!(r#"{{"uid":"{uid}","name":"shop/{n}","state":"{state}"}}"#)
        };
        let change = |verdict: &str, reason: &str| {
            let again = ids.map(|id| Reappraised {
                id,
                trusted: false,
                verdict: format!(r#"{{"pods":[{verdict}]}}"#),
            });
            let version = store.round("n1").unwrap().version;
            let revoke = Change::Revoke("sha256:00");
            let done = store.change("n1", version, &revoke, &again, &[], None, reason, 200);
            done.unwrap();
        };
        let both = |first: &str| format!("{},{}", pod(1, first), pod(2, "untrusted"));
        change(&both("untrusted"), "first");
        change(&both("trusted"), "accepted");
        change(&both("trusted"), "again");
        let (lines, _) = store.reappraisal_lines("n1", 9).unwrap();
        let [again, accepted, ..] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!((again.verdicts, &again.pods), (2, &vec![]));
        let turned = PodChange {
            pod: "shop/1 (11111111-1111-4111-8111-111111111111)".into(),
            old: Some(cgpath_appraisal::State::Untrusted),
            new: Some(cgpath_appraisal::State::Trusted),
        };
        assert_eq!((accepted.verdicts, &accepted.pods), (2, &vec![turned]));
    }

    #[test]
    fn a_store_of_an_earlier_version_keeps_what_it_has_and_becomes_one_of_today() {
        let dir = tempfile::tempdir().unwrap();
        let columns = |store: &Store| -> Vec<String> {
            let connection = store.connection();
            let text = "SELECT m.name || '.' || c.name FROM sqlite_master m, pragma_table_info(m.name) c \
                        WHERE m.type = 'table' ORDER BY m.name, c.cid";
            let mut query = connection.prepare(text).unwrap();
            let rows = query.query_map([], |row| row.get(0)).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        let new = Store::create(dir.path()).unwrap();
        new.add_node(&node("n1"), false).unwrap();
        round(&new, "n1", 1, b"evidence").unwrap();
        let wanted = columns(&new);
        new.connection()
            .execute_batch(
                "DROP TABLE changes; DROP TABLE rejudged; DROP TABLE accepts; DROP TABLE parts; DROP TABLE \
                 refusals; DROP TABLE forgotten; ALTER TABLE nodes DROP COLUMN policy_source; ALTER TABLE \
                 nodes DROP COLUMN node_key; ALTER TABLE nodes DROP COLUMN stopped; ALTER TABLE nodes DROP \
                 COLUMN base; ALTER TABLE verdicts DROP COLUMN state_before; PRAGMA user_version = 1;",
            )
            .unwrap();
        assert_ne!(columns(&new), wanted);
        drop(new);

        for _ in 0..2 {
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(columns(&store), wanted);
            assert_eq!(store.history("n1", 10, None).unwrap().len(), 1);
        }
        let store = Store::open(dir.path()).unwrap();
        round(&store, "n1", 2, b"more").unwrap();
        store
            .connection()
            .execute_batch(
                "DROP TABLE changes; DROP TABLE parts; ALTER TABLE nodes DROP COLUMN policy_source; ALTER \
                 TABLE nodes DROP COLUMN node_key; DROP TABLE refusals; DROP TABLE forgotten; ALTER TABLE \
                 nodes DROP COLUMN base; DROP INDEX verdicts_with_evidence; PRAGMA user_version = 2;",
            )
            .unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(columns(&store), wanted);
        let limits = Limits {
            verdicts: 1,
            evidence_bytes: 0,
        };
        store.prune(&limits, 0, None).unwrap();
        assert_eq!(store.history("n1", 10, None).unwrap().len(), 1);
        let later = "PRAGMA user_version = 7";
        store.connection().execute_batch(later).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Foreign { .. })));
    }

    #[test]
    fn a_store_is_private_and_is_not_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        Store::create(dir.path()).unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(DATABASE), 0o600);
        assert_eq!(mode(EVIDENCE), 0o700);
        assert!(matches!(Store::create(dir.path()), Err(StoreError::Exists(_))));
        assert!(matches!(
            Store::open(&dir.path().join("nowhere")),
            Err(StoreError::NoStore(_))
        ));
    }

    #[test]
    fn what_root_makes_in_a_store_of_another_user_is_that_users() {
        use std::os::unix::fs::{MetadataExt, chown};
        let dir = tempfile::tempdir().unwrap();
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            eprintln!("SKIPPED: not root, who alone can give files away");
            return;
        }
        chown(dir.path(), Some(4711), Some(4712)).unwrap();
        let store = Store::create(dir.path()).unwrap();
        let references = std::collections::BTreeMap::from([("app.json".to_owned(), b"{}".to_vec())]);
        let digest = cgpath_evidence::Bank::Sha256.hash(&[b"policy"]);
        store.keep_policy(&digest, b"policy", &references).unwrap();
        store.keep_evidence(b"evidence").unwrap();
        drop(store);
        let mut seen = 0;
        let mut folders = vec![dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let made = fs::metadata(&path).unwrap();
                assert_eq!((made.uid(), made.gid()), (4711, 4712), "{}", path.display());
                seen += 1;
                folders.extend(made.is_dir().then_some(path));
            }
        }
        assert!(seen >= 8, "{seen}");
        // What an earlier version made as root, too, once it is written to again.
        let policies = dir.path().join("policies");
        for path in [policies.join("references"), policies] {
            chown(&path, Some(0), Some(0)).unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        let kept = store.keep_policy(&digest, b"policy", &references).unwrap();
        for path in kept.ancestors().take_while(|path| *path != dir.path()) {
            assert_eq!(fs::metadata(path).unwrap().uid(), 4711, "{}", path.display());
        }
    }

    #[test]
    fn root_gives_no_file_away_to_which_a_name_in_the_store_leads() {
        use std::os::unix::fs::{MetadataExt, chown, symlink};
        let (dir, roots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            eprintln!("SKIPPED: not root, who alone can give files away");
            return;
        }
        chown(dir.path(), Some(4711), Some(4712)).unwrap();
        let (file, folder) = (roots.path().join("file"), roots.path().join("folder"));
        fs::write(&file, b"root's").unwrap();
        fs::create_dir(&folder).unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink(&file, at("link.lock")).unwrap();
        symlink(&folder, at("link")).unwrap();
        fs::hard_link(&file, at("name.lock")).unwrap();
        assert!(lock_file(&at("link.lock")).is_err());
        assert!(files::private_folder(&at("link")).is_err());
        lock_file(&at("name.lock")).unwrap();
        for path in [file, folder] {
            assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_is_not_our_database_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(DATABASE),
            b"not a database, but long enough to be read as one",
        )
        .unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Foreign { .. })));
        let other = tempfile::tempdir().unwrap();
        Connection::open(other.path().join(DATABASE))
            .unwrap()
            .execute_batch("CREATE TABLE t (x)")
            .unwrap();
        let error = Store::open(other.path()).unwrap_err();
        assert!(error.to_string().contains("not a store of cgpath"), "{error}");
    }

    #[test]
    fn a_nonce_counts_once_even_after_its_node_was_removed_and_after_it_was_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.add_node(&node("n1"), false).unwrap();
        round(&store, "n1", 1, b"a").unwrap();
        assert!(matches!(round(&store, "n1", 1, b"b"), Err(StoreError::NonceUsed)));
        store.remove_node("n1").unwrap();
        store.add_node(&node("n1"), false).unwrap();
        assert!(matches!(round(&store, "n1", 1, b"b"), Err(StoreError::NonceUsed)));
        store
            .prune(
                &Limits {
                    verdicts: 10,
                    evidence_bytes: 1000,
                },
                5000,
                None,
            )
            .unwrap();
        // Forgotten by now; a clock that was set back does not make it good again.
        assert!(matches!(
            round(&store, "n1", 1, b"b"),
            Err(StoreError::NonceExpired)
        ));
        round(&store, "n1", 2, b"b").unwrap();
    }

    #[test]
    fn a_commit_from_an_older_state_is_refused_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.add_node(&node("n1"), false).unwrap();
        let old = store.round("n1").unwrap();
        round(&store, "n1", 1, b"a").unwrap();
        let evidence = store.keep_evidence(b"b").unwrap();
        let commit = |version| Commit {
            node: "n1",
            version,
            time: 1,
            trusted: false,
            nonce: &[2; 32],
            nonce_expires: 2000,
            policy_digest: "",
            evidence: &evidence,
            follows: None,
            verdict: "{}",
            state: None,
            changes: &[],
        };
        assert!(matches!(
            store.commit(&commit(old.version)),
            Err(StoreError::Conflict)
        ));
        assert_eq!(store.history("n1", 10, None).unwrap().len(), 1);
        assert_eq!(store.round("n1").unwrap().state, Some(vec![1]));
        // The nonce was not consumed by the refusal.
        store.commit(&commit(store.round("n1").unwrap().version)).unwrap();
        // A node that was removed and added anew is another one, though its name is the same.
        let before = store.round("n1").unwrap();
        store.remove_node("n1").unwrap();
        store.add_node(&node("n1"), false).unwrap();
        assert_ne!(store.round("n1").unwrap().version, before.version);
    }

    #[test]
    fn another_key_forgets_the_state_and_another_policy_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.add_node(&node("n1"), false).unwrap();
        round(&store, "n1", 1, b"a").unwrap();
        assert!(matches!(
            store.add_node(&node("n1"), false),
            Err(StoreError::NodeExists(_))
        ));
        let policy = Node {
            policy_digest: "sha256:11".to_owned(),
            ..node("n1")
        };
        store.add_node(&policy, true).unwrap();
        assert_eq!(store.round("n1").unwrap().state, Some(vec![1]));
        store
            .add_node(
                &Node {
                    ak_name: "000b00".to_owned(),
                    ..policy
                },
                true,
            )
            .unwrap();
        assert_eq!(store.round("n1").unwrap().state, None);
        assert_eq!(store.history("n1", 10, None).unwrap().len(), 1);
    }

    #[test]
    fn the_limits_hold_and_the_last_evidence_of_each_node_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.add_node(&node("n1"), false).unwrap();
        store.add_node(&node("n2"), false).unwrap();
        round(&store, "n2", 100, &[200; 50]).unwrap();
        for n in 0..10 {
            round(&store, "n1", n, &[n; 50]).unwrap();
        }
        store
            .prune(
                &Limits {
                    verdicts: 6,
                    evidence_bytes: 120,
                },
                0,
                None,
            )
            .unwrap();
        let history = store.history("n1", 100, None).unwrap();
        assert_eq!(history.len(), 6);
        assert_eq!(history.iter().filter(|v| v.evidence_kept).count(), 2);
        assert!(history[0].evidence_kept && history[0].id > history[1].id);
        assert_eq!(store.evidence(&history[0].evidence).unwrap(), [9; 50]);
        assert!(store.last_verdict("n2").unwrap().unwrap().evidence_kept);
        assert_eq!(files(&store), 3);
        let older = store.history("n1", 2, Some(history[1].id)).unwrap();
        assert_eq!(older[0].id, history[2].id);
    }

    #[test]
    fn what_a_crash_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.add_node(&node("n1"), false).unwrap();
        round(&store, "n1", 1, b"kept").unwrap();
        store.keep_evidence(b"never committed").unwrap();
        let folder = dir.path().join(EVIDENCE);
        fs::write(folder.join("ab.1.part"), b"x").unwrap();
        fs::write(folder.join("README"), b"x").unwrap();
        assert_eq!(store.sweep().unwrap(), 2);
        assert_eq!(files(&store), 2);
    }

    #[test]
    fn two_processes_see_one_store() {
        let dir = tempfile::tempdir().unwrap();
        let a = Store::create(dir.path()).unwrap();
        let b = Store::open(dir.path()).unwrap();
        b.add_node(&node("n1"), false).unwrap();
        round(&a, "n1", 1, b"a").unwrap();
        assert!(b.last_verdict("n1").unwrap().is_some());
        b.remove_node("n1").unwrap();
        assert!(matches!(a.round("n1"), Err(StoreError::UnknownNode(_))));
    }

    #[test]
    fn names_that_could_be_a_path_or_a_flag_are_refused() {
        for good in ["n1", "node-1.example_x", &"a".repeat(253)] {
            assert!(valid_name(good), "{good}");
        }
        for bad in [
            "",
            "-n",
            ".",
            "..",
            "a/b",
            "a b",
            "ä",
            "a\n",
            "<x>",
            &"a".repeat(254),
        ] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
