//! What the pipeline is told and what it wants done.

use super::join::ListEntry;
use crate::bpf::{OpenMark, decode};
use evidence::checkpoint::Checkpoint;
use evidence::merkle::Hash;
use evidence::{InFlight, PartitionKey};

/// The kernel side's counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Last sequence number handed out.
    pub seq: u64,
    /// Records for which there was no room.
    pub reserve: u64,
    /// Runs of our programs that were refused.
    pub recursion: u64,
    /// Reads of kernel memory that failed.
    pub read: u64,
    /// Whether every program is attached and can see events.
    pub attached: bool,
}

/// What a checkpoint was asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Checkpoint 0.
    Load,
    /// Enough records waited, or the collector wanted one.
    Unasked,
    /// A verifier's nonce; `id` names the request in the answer.
    Request {
        /// Given back in [`Action::Answer`] and [`Action::Failed`].
        id: u64,
        /// The nonce itself.
        nonce: Vec<u8>,
    },
}

/// A checkpoint that was signed and written to the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What it states.
    pub checkpoint: Checkpoint,
    /// SHA-256 of its file.
    pub digest: Hash,
    /// Digests of its file in every algorithm that IMA may use.
    pub contents: Vec<Vec<u8>>,
}

/// What the pipeline is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A collector was started, for the first time in this boot or again. Journaled.
    Started,
    /// The list's length before the programs were loaded. Journaled, once.
    Base {
        /// Entries.
        list_len: u64,
    },
    /// A cgroup directory that the scan found. Journaled.
    SeedCgroup {
        /// Inode number.
        id: u64,
        /// The parent's; 0 for the root.
        parent: u64,
        /// Its own name.
        name: Vec<u8>,
    },
    /// A process that the scan of /proc found. Journaled.
    SeedProcess {
        /// Thread group id.
        tgid: u32,
        /// Start, rounded down to the clock tick, nanoseconds since the boot.
        start_ns: u64,
        /// Length of a clock tick, nanoseconds.
        tick_ns: u64,
        /// Its program; an empty path for kernel threads.
        exe: Vec<u8>,
        /// The program's device.
        dev: u64,
        /// The program's inode number.
        ino: u64,
    },
    /// The programs are attached, the scans are done, and the list has this many entries. Journaled, once.
    Loaded {
        /// Entries.
        list_len: u64,
    },
    /// A record of the kernel side. Journaled.
    Raw(Box<decode::Event>),
    /// A record that can not be decoded; its number if that much could be read. Journaled (as the bytes it was).
    Undecodable {
        /// Sequence number.
        seq: Option<u64>,
    },
    /// As [`Action::GiveUp`] said. Journaled.
    GaveUp {
        /// Last number that is not waited for.
        through: u64,
    },
    /// As [`Action::Seal`] said, signed. Journaled.
    Sealed(Box<Sealed>),
    /// All that the spool held has been told; from now on actions are taken.
    Replayed,
    /// The next entry of the measurement list.
    List(Box<ListEntry>),
    /// The list was read to its end.
    ListPolled,
    /// Answer to [`Action::ReadCounters`].
    Counters(Counters),
    /// Answer to [`Action::RunCanary`]: the process that executed, or none if it could not be started.
    Canary {
        /// Thread group id.
        tgid: Option<u32>,
    },
    /// Answer to [`Action::Anchor`]: the file was written and read once.
    FileRead,
    /// Answer to [`Action::Anchor`]: it could not be.
    AnchorFailed {
        /// Why, for the requester.
        why: String,
    },
    /// Answer to [`Action::ReadMarks`].
    Marks(Vec<OpenMark>),
    /// The quote of the request that [`Action::Answer`] named was made.
    Quoted {
        /// The request.
        id: u64,
    },
    /// The request that [`Action::Answer`] named gets none: there is no quote.
    Unquoted {
        /// The request.
        id: u64,
    },
    /// A checkpoint is wanted.
    Request {
        /// Names the request.
        id: u64,
        /// The verifier's nonce.
        nonce: Vec<u8>,
    },
    /// Time has passed.
    Tick,
}

impl Event {
    /// Whether this must be in the spool before it is handled.
    pub fn is_journaled(&self) -> bool {
        !matches!(
            self,
            Event::Replayed
                | Event::List(_)
                | Event::ListPolled
                | Event::Counters(_)
                | Event::Canary { .. }
                | Event::FileRead
                | Event::AnchorFailed { .. }
                | Event::Marks(_)
                | Event::Quoted { .. }
                | Event::Unquoted { .. }
                | Event::Request { .. }
                | Event::Tick
        )
    }
}

/// What the pipeline wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Keep this leaf of a partition: the record's deterministic CBOR. Also told during a replay.
    Append {
        /// Whose.
        key: PartitionKey,
        /// The record's bytes.
        leaf: Vec<u8>,
        /// Whether evidence shows it before it is sealed: an entry or a violation behind the last seal.
        is_shown: bool,
    },
    /// Execute the canary and tell its process id.
    RunCanary,
    /// Read the list to its end, then tell [`Event::ListPolled`].
    PollList,
    /// Tell the kernel side's counters.
    ReadCounters,
    /// Tell which threads are inside of `ima_add_template_entry`, by [`Event::Marks`].
    ReadMarks,
    /// Put [`Event::GaveUp`] into the spool and tell it.
    GiveUp {
        /// Last number not to wait for.
        through: u64,
    },
    /// Sign this, put [`Event::Sealed`] into the spool and tell it, before anything else is told.
    Seal(Box<Checkpoint>),
    /// Write the file of this sealed checkpoint if need be, and read it once.
    Anchor {
        /// Its number.
        number: u64,
    },
    /// Checkpoint `number` is anchored: make the quote, then tell [`Event::Quoted`] or [`Event::Unquoted`]. Nothing else is
    /// sealed before that.
    Answer {
        /// The request.
        id: u64,
        /// The verifier's nonce.
        nonce: Vec<u8>,
        /// The checkpoint that carries it.
        number: u64,
    },
    /// Make the evidence: what was sealed last, what was appended since then, and the list as it is now.
    Assemble {
        /// The request.
        id: u64,
        /// Threads that may hold the record of a covered entry up.
        in_flight: Vec<InFlight>,
    },
    /// Checkpoint `number` is anchored; nobody waits for it.
    Anchored {
        /// Its number.
        number: u64,
    },
    /// The purpose can not be served.
    Failed {
        /// The request, if it was one.
        id: Option<u64>,
        /// Why.
        error: SealError,
    },
}

/// Why a checkpoint could not be sealed or anchored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// IMA did not measure the file when it was read.
    #[error(
        "IMA did not measure checkpoint {number} when it was read: the policy in force lacks the rule \
         `measure func=FILE_CHECK mask=^MAY_READ fsuuid={uuid}` (`cgpathd check` tells more)",
        uuid = evidence::checkpoint::FS_UUID
    )]
    NotMeasured {
        /// Its number.
        number: u64,
    },
    /// The file could not be written or read.
    #[error("checkpoint {number} could not be anchored: {why}")]
    File {
        /// Its number.
        number: u64,
        /// Why.
        why: String,
    },
}

/// Why what it is told can not be true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint of the spool does not follow from the records before it.
    #[error(
        "checkpoint {number} in the spool does not fit: its {what} is not what the records before it give"
    )]
    Diverged {
        /// Its number.
        number: u64,
        /// Which field.
        what: &'static str,
    },
}
