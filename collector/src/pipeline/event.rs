//! What the pipeline handles and what it wants done.

use super::anchoring::{Anchors, OthersFound, Place, Tail};
use super::join::JoinableEntry;
use crate::decode;
use cgpath_evidence::checkpoint::Checkpoint;
use cgpath_evidence::td;
use cgpath_evidence::{Digest, InFlight, Named, PartitionKey, PodUid, SealedCheckpoint};
use minicbor::{Decode, Encode};

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

/// A thread inside of `ima_add_template_entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenMark {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// CLOCK_BOOTTIME when it began, nanoseconds.
    pub since_ns: u64,
    /// Inode number of its cgroup's directory at that moment.
    pub cgroup_id: u64,
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
    /// The program that lies at the collector's path by now is to count as the collector, too; `id` names the
    /// request in the answer.
    Handover {
        /// Given back in [`Action::LetIn`] and [`Action::Failed`].
        id: u64,
    },
}

/// What the pipeline handles.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// In the journal before it is handled, so that a replay after a crash ends in the same state.
    Journaled(Fact),
    /// Asked for again after a crash, or true of one moment only.
    Volatile(Signal),
}

/// What a replay needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A record of the kernel side; the journal keeps it as the ring had it.
    Record(KernelRecord),
    /// Everything else; the journal keeps it as it is encoded.
    Note(Note),
}

/// A record of the kernel side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelRecord {
    /// As it was decoded.
    Decoded(Box<decode::Event>),
    /// It cannot be decoded.
    Undecodable {
        /// Its sequence number, if that much could be read.
        seq: Option<u64>,
    },
}

/// What the collector itself adds to the journal. The numbers are those of the journal's format.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Note {
    /// A collector was started, for the first time in this boot or again.
    #[n(1)]
    Started,
    /// The list's length before the programs were loaded. Once.
    #[n(2)]
    Base {
        /// Entries.
        #[n(0)]
        list_len: u64,
    },
    /// A cgroup directory that the scan found.
    #[n(3)]
    SeedCgroup {
        /// Inode number.
        #[n(0)]
        id: u64,
        /// The parent's; 0 for the root.
        #[n(1)]
        parent: u64,
        /// Its own name.
        #[n(2)]
        #[cbor(with = "minicbor::bytes")]
        name: Vec<u8>,
    },
    /// A process that the scan of /proc found.
    #[n(4)]
    SeedProcess {
        /// Thread group id.
        #[n(0)]
        tgid: u32,
        /// Start, rounded down to the clock tick, nanoseconds since the boot.
        #[n(1)]
        start_ns: u64,
        /// Length of a clock tick, nanoseconds.
        #[n(2)]
        tick_ns: u64,
        /// Its program; an empty path for kernel threads.
        #[n(3)]
        #[cbor(with = "minicbor::bytes")]
        exe: Vec<u8>,
        /// The program's device.
        #[n(4)]
        dev: u64,
        /// The program's inode number.
        #[n(5)]
        ino: u64,
    },
    /// The programs are attached, the scans are done, and the list has this many entries. Once.
    #[n(5)]
    Loaded {
        /// Entries.
        #[n(0)]
        list_len: u64,
    },
    /// As [`Action::GiveUp`] said.
    #[n(6)]
    GaveUp {
        /// Last number that is not waited for.
        #[n(0)]
        through: u64,
    },
    /// As [`Action::Seal`] said, signed.
    #[n(7)]
    Sealed(
        #[n(0)]
        #[cbor(with = "checkpoint_file")]
        Box<SealedCheckpoint>,
    ),
    /// Where checkpoints are anchored; before the first one is sealed, and the last of them counts. A boot
    /// without this note has [`Anchors::PCR10`].
    #[n(8)]
    Anchors(#[n(0)] Anchors),
    /// As [`Action::NoteOthers`] said.
    #[n(9)]
    Others(#[n(0)] OthersFound),
    /// As [`Action::Name`] said.
    #[n(10)]
    Named(#[n(0)] Box<Stated>),
}

/// What the container runtime called a pod, or a container of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Stated {
    /// The pod, by its sandbox.
    #[n(0)]
    pub uid: PodUid,
    /// When the answer came, CLOCK_BOOTTIME.
    #[n(1)]
    pub boot_ns: u64,
    /// What it is called.
    #[n(2)]
    pub named: Named,
}

/// How many pods and containers the container runtime has not named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// How often one appeared that had no name, since this collector started.
    pub seen: u64,
    /// Those that are there now.
    pub left: u64,
}

/// A signed checkpoint is kept as the bytes of its file.
mod checkpoint_file {
    use cgpath_evidence::SealedCheckpoint;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub fn encode<C, W: Write>(
        sealed: &SealedCheckpoint,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(&sealed.file)?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Box<SealedCheckpoint>, DecodeError> {
        let at = d.position();
        let sealed = SealedCheckpoint::from_file(d.bytes()?);
        sealed.map(Box::new).map_err(|e| DecodeError::custom(e).at(at))
    }
}

/// What is true of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// All that the journal held has been handled; from now on actions are taken.
    Replayed,
    /// The next entry of the measurement list.
    List(Box<JoinableEntry>),
    /// The list was read to its end.
    ListPolled,
    /// Answer to [`Action::ReadCounters`].
    Counters(Counters),
    /// Answer to [`Action::RunCanary`] and [`Action::TrySuccessor`]: the process that executed, or none if it
    /// could not be started.
    Canary {
        /// Thread group id.
        tgid: Option<u32>,
    },
    /// Answer to [`Action::Seal`]: it has no place in the journal and is not sealed.
    SealRefused {
        /// Its number.
        number: u64,
        /// Why, for the requester.
        why: String,
    },
    /// Answer to [`Action::Anchor`]: it was done.
    AnchorWritten,
    /// Answer to [`Action::ReadRegister`].
    Register {
        /// What the register holds.
        value: td::Register,
    },
    /// Answer to [`Action::ReadOthers`].
    Others {
        /// As there.
        found: td::Register,
        /// The other writer's log, whole; empty where it cannot be read.
        log: Vec<u8>,
    },
    /// Answer to [`Action::Anchor`] or [`Action::ReadRegister`]: it could not be done, or it is not known
    /// whether it was.
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
    /// A handover is wanted.
    Handover {
        /// Names the request.
        id: u64,
    },
    /// What the container runtime says, new or not.
    Stated(Vec<Stated>),
    /// Answer to [`Action::Name`]: it has no place in the journal.
    NameRefused,
    /// Time has passed.
    Tick,
}

impl From<KernelRecord> for Event {
    fn from(record: KernelRecord) -> Event {
        Event::Journaled(Fact::Record(record))
    }
}

impl From<Note> for Event {
    fn from(note: Note) -> Event {
        Event::Journaled(Fact::Note(note))
    }
}

impl From<Signal> for Event {
    fn from(signal: Signal) -> Event {
        Event::Volatile(signal)
    }
}

/// What the pipeline wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Keep this leaf of a partition: the record's deterministic CBOR. Also given during a replay.
    Append {
        /// Whose.
        key: PartitionKey,
        /// The record's bytes.
        leaf: Vec<u8>,
        /// Whether evidence shows it before it is sealed: an entry or a violation behind the last seal.
        is_shown: bool,
    },
    /// Execute the canary and answer with its process id, by [`Signal::Canary`].
    RunCanary,
    /// The same with the file that lies at the collector's own path by now, as the canary of a handover.
    TrySuccessor,
    /// Read the list to its end, then answer with [`Signal::ListPolled`].
    PollList,
    /// Answer with the kernel side's counters.
    ReadCounters,
    /// Answer which threads are inside of `ima_add_template_entry`, by [`Signal::Marks`].
    ReadMarks,
    /// Put [`Note::GaveUp`] into the journal and handle it. Where the journal has no place for it, it is
    /// asked for again.
    GiveUp {
        /// Last number not to wait for.
        through: u64,
    },
    /// Sign this, put [`Note::Sealed`] into the journal and handle it, before anything else is handled; or
    /// answer with [`Signal::SealRefused`].
    Seal(Box<Checkpoint>),
    /// Anchor the file of this sealed checkpoint: write it if need be and read it once, or extend the
    /// register.
    Anchor {
        /// Where.
        place: Place,
        /// Its number.
        number: u64,
    },
    /// Answer with what the register holds, by [`Signal::Register`].
    ReadRegister {
        /// Which.
        place: Place,
    },
    /// Answer with the log of the register's other writer, by [`Signal::Others`].
    ReadOthers {
        /// What the register holds.
        found: td::Register,
    },
    /// Put [`Note::Others`] into the journal and handle it.
    NoteOthers(OthersFound),
    /// Add this to the register's log. Also given during a replay.
    Log(Tail),
    /// Checkpoint `number` is anchored: make the quote, then answer with [`Signal::Quoted`] or
    /// [`Signal::Unquoted`]. Nothing else is sealed before that.
    Answer {
        /// The request.
        id: u64,
        /// The verifier's nonce.
        nonce: Vec<u8>,
        /// The checkpoint that carries it.
        number: u64,
        /// SHA-384 of that checkpoint's file.
        digest: td::Register,
    },
    /// Checkpoint `number` is anchored and states that this program counts as the collector: have the guard
    /// take it for that. Where it is this very program, no other one.
    LetIn {
        /// The request.
        id: u64,
        /// The checkpoint that says so.
        number: u64,
        /// The program.
        program: Digest,
    },
    /// Put [`Note::Named`] into the journal and handle it; or answer with [`Signal::NameRefused`]: the
    /// runtime says it again.
    Name(Box<Stated>),
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
    /// The purpose cannot be served.
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
        uuid = cgpath_evidence::checkpoint::FS_UUID
    )]
    NotMeasured {
        /// Its number.
        number: u64,
    },
    /// The journal took no note of it, as on a full disk.
    #[error("checkpoint {number} could not be sealed (is state_dir's file system full?): {why}")]
    Refused {
        /// Its number, which the next one gets.
        number: u64,
        /// Why.
        why: String,
    },
    /// Its file or the register could not be written or read.
    #[error("checkpoint {number} could not be anchored: {why}")]
    File {
        /// Its number.
        number: u64,
        /// Why.
        why: String,
    },
    /// The kernel did not say what was to be named.
    #[error("nothing is handed over: {why}")]
    Successor {
        /// Why not.
        why: String,
    },
    /// The register does not change when it is extended.
    #[error("RTMR {index} holds the same as before checkpoint {number} extended it")]
    NotExtended {
        /// Which RTMR.
        index: u8,
        /// The checkpoint's number.
        number: u64,
    },
    /// Somebody else extends the register.
    #[error(transparent)]
    SharedRegister(Box<SharedRegister>),
}

/// A register holds something else than what this collector left in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "shared-register: RTMR {index} holds {}, and checkpoint {number} finds {} there or leaves {}: something \
     else extends it. Find out what does; have one of the two use another register (anchor.rtmr), or name \
     the log of the other one (anchor.other_log) and accept that writer in the node's policy",
    hex::encode(found),
    hex::encode(before),
    hex::encode(after)
)]
pub struct SharedRegister {
    /// Which RTMR.
    pub index: u8,
    /// The last checkpoint.
    pub number: u64,
    /// What it holds.
    pub found: td::Register,
    /// What it should hold if that checkpoint has not extended it.
    pub before: td::Register,
    /// What it should hold if it has.
    pub after: td::Register,
}

/// An event contradicts the pipeline's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint of the journal does not follow from the records before it.
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
