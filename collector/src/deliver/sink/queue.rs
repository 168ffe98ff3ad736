//! What waits for a sink, on disk: one file a message, named by its number, and a small file with what is to
//! be remembered.
//!
//! Promises: a message is complete and synced before it counts; after a crash at any instant nothing that
//! counted is gone, and a message is delivered once more rather than never. Never more than the limit.

use crate::config::Sink;
use cgpath_evidence::Cursor;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file of [`State`].
const STATE: &str = "state.json";
/// How a message's file is called behind its number.
const EXTENSION: &str = "message";

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("spool {path}: {source}")]
pub struct QueueError {
    /// Which file or directory.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// What a message says of itself: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What the node calls itself.
    pub node: String,
    /// From 0, rising by one; given by the spool.
    pub sequence: u64,
    /// `evidence`, `part`, `bundle`, `eat` or `cmw`.
    pub format: String,
    /// Whose bundle it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The quote's nonce: [`Bound::nonce`] of this message's round.
    #[serde(with = "cgpath_evidence::serde_bytes_hex")]
    pub nonce: Vec<u8>,
    /// What else the nonce is made of. A message that an earlier version left in the spool has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// SHA-256 of the payload; the `base` of the delta that follows it.
    #[serde(with = "cgpath_evidence::serde_bytes_hex")]
    pub sha256: [u8; 32],
    /// Bytes of the payload.
    pub length: u64,
    /// Rounds that were dropped for this sink before this message.
    pub dropped: u64,
}

/// What a round says under the quote's signature: its nonce is the hash of this, and there is no other way to
/// that nonce. So what a sink was not sent can be proven by what it was sent next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Random: makes the nonce one that was never used.
    #[serde(with = "cgpath_evidence::serde_bytes_hex")]
    pub salt: [u8; 32],
    /// The sink's name.
    pub sink: String,
    /// Number of the round's first message.
    pub first: u64,
    /// Rounds that were dropped for this sink before.
    pub dropped: u64,
}

impl Bound {
    /// SHA-256 over `ima-cgpath sink round v1` (24 bytes of ASCII), salt (32), first (8, big-endian), dropped
    /// (8, big-endian) and the sink's name.
    pub fn nonce(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"ima-cgpath sink round v1")
            .chain_update(self.salt)
            .chain_update(self.first.to_be_bytes())
            .chain_update(self.dropped.to_be_bytes())
            .chain_update(&self.sink)
            .finalize()
            .into()
    }
}

/// A message to be kept.
#[derive(Debug)]
pub struct Message {
    /// Its header; number and drops are filled in by the spool.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Messages of one round, and where the sink is after it.
#[derive(Debug)]
pub struct Round {
    /// The messages.
    pub messages: Vec<Message>,
    /// The cursor after them.
    pub position: Option<Cursor>,
    /// Pods that it has nothing of since their names are not known yet.
    pub unnamed: u64,
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub sequence: u64,
    /// Its file: the header's line, then the payload.
    pub path: PathBuf,
    bytes: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    next: u64,
    rounds: u64,
    delivered: u64,
    dropped: u64,
    position: Option<Cursor>,
}

/// The spool of one sink.
#[derive(Debug)]
pub struct Queue {
    dir: PathBuf,
    limit: u64,
    state: State,
    waiting: VecDeque<Waiting>,
    bytes: u64,
    unnamed: u64,
}

impl Queue {
    /// Opens the spool in `dir`, which is made if it is not there, with a limit in bytes.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn open(dir: &Path, limit: u64) -> Result<Queue, QueueError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| QueueError { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(at(dir))?;
        let path = dir.join(STATE);
        let mut state: State = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| at(&path)(e.into()))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => State::default(),
            Err(e) => return Err(at(&path)(e)),
        };
        let mut waiting = Vec::new();
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let path = entry.map_err(at(dir))?.path();
            let number = path
                .file_stem()
                .and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
            match (path.extension().and_then(|e| e.to_str()), number) {
                (Some(EXTENSION), Some(sequence)) => {
                    let bytes = fs::metadata(&path).map_err(at(&path))?.len();
                    waiting.push(Waiting {
                        sequence,
                        path,
                        bytes,
                    });
                }
                // Was being written when the collector ended: it never counted.
                (Some("part"), _) => fs::remove_file(&path).map_err(at(&path))?,
                _ => {}
            }
        }
        waiting.sort_by_key(|message| message.sequence);
        let after = waiting.last().map_or(0, |last| last.sequence.saturating_add(1));
        state.next = state.next.max(after);
        Ok(Queue {
            dir: dir.to_owned(),
            limit,
            state,
            bytes: waiting.iter().map(|message| message.bytes).sum(),
            waiting: waiting.into(),
            unnamed: 0,
        })
    }

    /// Messages that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// What the next round is to say of this spool.
    pub fn bound(&self, sink: &str, salt: [u8; 32]) -> Bound {
        Bound {
            salt,
            sink: sink.to_owned(),
            first: self.state.next,
            dropped: self.state.dropped,
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Messages delivered so far.
    pub fn delivered(&self) -> u64 {
        self.state.delivered
    }

    /// Rounds dropped so far.
    pub fn dropped(&self) -> u64 {
        self.state.dropped
    }

    /// Pods that the last round has nothing of since their names were not known.
    pub fn unnamed(&self) -> u64 {
        self.unnamed
    }

    /// Whether nothing more can fit.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.limit
    }

    /// What the next round follows: nothing where everything is to be sent.
    pub fn after(&self, sink: &Sink) -> Option<Cursor> {
        let is_whole = self.state.rounds.is_multiple_of(sink.whole_every)
            || sink.format != crate::config::SinkFormat::Evidence
            || sink.is_of_pods();
        self.state.position.clone().filter(|_| !is_whole)
    }

    /// The message to be delivered next.
    pub fn front(&self) -> Option<Waiting> {
        self.waiting.front().cloned()
    }

    /// Keeps the messages of a round, all or none. `false` where they do not fit, or the disk is full.
    ///
    /// # Errors
    /// [`QueueError`] for whatever else fails.
    pub fn push(&mut self, round: Round) -> Result<bool, QueueError> {
        let mut written: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        for (n, mut message) in round.messages.into_iter().enumerate() {
            message.header.sequence = self.state.next + n as u64;
            message.header.dropped = self.state.dropped;
            let done = self.write(&message, self.bytes + bytes);
            match done {
                Ok(Some(waiting)) => {
                    bytes += waiting.bytes;
                    written.push(waiting);
                }
                other => {
                    for waiting in written {
                        let _ = fs::remove_file(waiting.path);
                    }
                    return match other {
                        Err(error) if error.source.kind() != io::ErrorKind::StorageFull => Err(error),
                        _ => Ok(false),
                    };
                }
            }
        }
        self.state.next += written.len() as u64;
        self.state.rounds += 1;
        self.state.position = round.position;
        self.unnamed = round.unnamed;
        self.bytes += bytes;
        self.waiting.extend(written);
        self.save()?;
        Ok(true)
    }

    /// Writes one message; `None` where it does not fit beside `held` bytes.
    fn write(&self, message: &Message, held: u64) -> Result<Option<Waiting>, QueueError> {
        let path = self
            .dir
            .join(format!("{:016x}.{EXTENSION}", message.header.sequence));
        let partial = path.with_extension("part");
        let at = |source| QueueError {
            path: path.clone(),
            source,
        };
        let mut line = serde_json::to_vec(&message.header).map_err(|e| at(e.into()))?;
        line.push(b'\n');
        let bytes = (line.len() + message.payload.len()) as u64;
        if held.saturating_add(bytes) > self.limit {
            return Ok(None);
        }
        let write = || {
            let mut file = create(&partial)?;
            file.write_all(&line)?;
            file.write_all(&message.payload)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&partial);
            return Err(at(error));
        }
        Ok(Some(Waiting {
            sequence: message.header.sequence,
            path,
            bytes,
        }))
    }

    /// A round was not kept.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn drop_round(&mut self) -> Result<(), QueueError> {
        self.state.dropped += 1;
        self.save()
    }

    /// A message was delivered.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn done(&mut self, message: &Waiting) -> Result<(), QueueError> {
        if self.waiting.front() != Some(message) {
            return Ok(());
        }
        fs::remove_file(&message.path).map_err(|source| QueueError {
            path: message.path.clone(),
            source,
        })?;
        self.waiting.pop_front();
        self.bytes -= message.bytes;
        self.state.delivered += 1;
        self.save()
    }

    fn save(&self) -> Result<(), QueueError> {
        let path = self.dir.join(STATE);
        let partial = self.dir.join("state.part");
        let write = || {
            let mut file = create(&partial)?;
            file.write_all(&serde_json::to_vec(&self.state)?)?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        };
        match write() {
            // A full disk must not stop the counting; what is on disk is older, and a cursor that is older
            // loses nothing.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            other => other.map_err(|source| QueueError { path, source }),
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}
