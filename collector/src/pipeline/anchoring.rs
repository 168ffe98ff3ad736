//! Where a checkpoint is anchored, in which order, and when that is done.
//!
//! Pure, as all of the pipeline. Promise: each checkpoint extends a register exactly once, whenever the
//! collector dies: the sealed checkpoint in the journal says what the register is to become, and the register
//! itself says whether it was done. Not here: how a file is read or a register written (see
//! [`crate::anchor`]), what a verifier makes of another writer.

use super::event::{Action, Error, Purpose, SealError, SharedRegister};
use super::phase::{Phase, Then};
use super::{JoinableEntry, Pipeline, others};
use cgpath_evidence::Bank;
use cgpath_evidence::checkpoint::{Checkpoint, DIRECTORY};
use cgpath_evidence::td::{self, Binding, Origin, Register as Value};
use minicbor::{Decode, Encode};
use std::time::Duration;

/// What IMA may hash a checkpoint's file with.
const FILE_HASHES: [Bank; 4] = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];

/// How often a checkpoint is to extend a register while another writer extends it, too.
const MOST_TRIES: u32 = 8;

/// A place where checkpoints are anchored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// PCR 10 of the TPM: IMA measures the checkpoint's file.
    Pcr10,
    /// A runtime-extendable register of a trust domain: the file's digest extends it.
    Rtmr(u8),
}

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Place::Pcr10 => f.write_str("PCR 10"),
            Place::Rtmr(index) => write!(f, "RTMR {index}"),
        }
    }
}

/// Where the checkpoints of a boot are anchored, the same places from the first one to the last.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Anchors {
    /// Whether IMA measures their files.
    #[n(0)]
    pub pcr10: bool,
    /// The register that they extend.
    #[n(1)]
    pub register: Option<Found>,
}

/// A register as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Found {
    /// Which RTMR.
    #[n(0)]
    pub index: u8,
    /// What it held.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub value: Value,
    /// How many events the log of its other writer had then.
    #[n(2)]
    pub others: u32,
}

impl Anchors {
    /// PCR 10 alone: where a journal says nothing.
    pub const PCR10: Anchors = Anchors {
        pcr10: true,
        register: None,
    };

    /// All places, in the order in which checkpoints are anchored.
    pub fn places(&self) -> Vec<Place> {
        let register = self.register.as_ref().map(|found| Place::Rtmr(found.index));
        self.pcr10
            .then_some(Place::Pcr10)
            .into_iter()
            .chain(register)
            .collect()
    }
}

/// A register as checkpoints extend it.
#[derive(Debug)]
pub(super) struct Register {
    pub(super) index: u8,
    /// What it holds before the last checkpoint extends it.
    before: Value,
    /// What it holds once that was done, and once others did what is known of them.
    after: Value,
    /// Whether it was seen to hold that.
    done: bool,
    /// Whether the other writer's log says that the last checkpoint extended it.
    known: bool,
    /// Events of the other writer that are known to be in it.
    others: usize,
    /// The end of its log, which the next seal moves to the store.
    tail: Tail,
}

/// The event of the last checkpoint in a register's log, and those behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Of these, the ones of the checkpoint's own event.
    pub event: usize,
}

impl Register {
    pub(super) fn new(found: &Found) -> Register {
        Register {
            index: found.index,
            before: found.value,
            after: found.value,
            done: true,
            known: false,
            others: found.others as usize,
            tail: Tail::default(),
        }
    }

    /// A checkpoint with this digest and number is to extend it; gives what the log had until then.
    fn sealed(&mut self, number: u64, digest: &Value) -> Tail {
        let mut event = Vec::new();
        td::log::append_checkpoint(&mut event, self.index, number, digest);
        self.before = self.after;
        self.after = td::extend(&self.before, digest);
        (self.done, self.known) = (false, false);
        let tail = Tail {
            event: event.len(),
            bytes: event,
        };
        std::mem::replace(&mut self.tail, tail)
    }
}

/// What was found of the other writer's events, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct OthersFound {
    /// Events that extended the register before the last checkpoint did, as their log has them.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub before: Vec<u8>,
    /// Events that extended it behind the last checkpoint.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub after: Vec<u8>,
    /// Whether the last checkpoint has extended it.
    #[n(2)]
    pub done: bool,
    /// Events of that log that are in the register by now.
    #[n(3)]
    pub taken: u32,
}

/// What tells whether a checkpoint is anchored there.
fn look(place: Place) -> Action {
    match place {
        Place::Pcr10 => Action::PollList,
        Place::Rtmr(_) => Action::ReadRegister { place },
    }
}

impl Pipeline {
    /// Where the checkpoints of this boot are anchored.
    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Whether checkpoints state what the list's entries hash to, so that their bytes are wanted.
    pub fn binds_list(&self) -> bool {
        self.chain.is_some()
    }

    /// The end of the register's log, behind what [`Action::Log`] gave; `None` without a register.
    pub fn log_tail(&self) -> Option<&Tail> {
        self.register.as_ref().map(|register| &register.tail)
    }

    /// Checkpoints are anchored there from now on. Nothing may have been sealed.
    pub(super) fn set_anchors(&mut self, anchors: Anchors) -> Result<(), Error> {
        if let Some(last) = &self.last {
            return Err(Error::Diverged {
                number: last.number,
                what: "places of anchoring",
            });
        }
        self.register = anchors.register.as_ref().map(Register::new);
        self.chain = self.register.as_ref().map(|_| td::ListChain::default());
        self.anchors = anchors;
        Ok(())
    }

    /// What the next checkpoint states of the list and, if it is the first one, of the register.
    pub(super) fn binding(&self, is_first: bool, now: Duration) -> Option<Binding> {
        let (chain, register) = (self.chain.as_ref()?, self.register.as_ref()?);
        let origin = || Origin {
            register: register.index,
            value: register.after,
            node_key: self.setup.node_key.unwrap_or([0; td::NODE_KEY_LEN]),
        };
        Some(Binding {
            list: chain.value(),
            sealed_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            origin: is_first.then(origin),
        })
    }

    /// Whether a checkpoint of the journal was made for the register and the node's key of this boot.
    pub(super) fn is_bound_by(&self, checkpoint: &Checkpoint) -> bool {
        match (&self.register, &checkpoint.binding) {
            (None, None) => true,
            (Some(register), Some(binding)) => binding.origin.as_ref().is_none_or(|origin| {
                (origin.register, origin.value) == (register.index, register.after)
                    // Without a key other places are configured now, which the engine refuses by name.
                    && self.setup.node_key.is_none_or(|key| key == origin.node_key)
            }),
            _ => false,
        }
    }

    /// A checkpoint was sealed: what the register is to become is known from now on.
    pub(super) fn register_sealed(&mut self, number: u64, digest: &Value, out: &mut Vec<Action>) {
        let Some(register) = &mut self.register else {
            return;
        };
        let log = register.sealed(number, digest);
        if !log.bytes.is_empty() {
            out.push(Action::Log(log));
        }
    }

    /// The first place at which the last checkpoint is not anchored yet, as far as is known.
    pub(super) fn lacking(&self) -> Option<Place> {
        let last = self.last.as_ref()?;
        if self.anchors.pcr10 && last.index.is_none() {
            return Some(Place::Pcr10);
        }
        let register = self.register.as_ref().filter(|register| !register.done)?;
        Some(Place::Rtmr(register.index))
    }

    /// Anchors the last checkpoint where it is not anchored yet, then goes on with `then`. Where it may be
    /// already, that is found out first.
    pub(super) fn anchor(&mut self, then: Then, out: &mut Vec<Action>) {
        match self.lacking() {
            Some(place) => {
                self.phase = Phase::Anchoring {
                    then,
                    place,
                    tries: 0,
                };
                out.push(look(place));
            }
            None => self.anchored(then, out),
        }
    }

    /// The same of a checkpoint that was sealed at this moment: no entry of it can be in the list.
    pub(super) fn anchor_new(&mut self, then: Then, number: u64, out: &mut Vec<Action>) {
        if let Some(place @ Place::Pcr10) = self.lacking() {
            self.phase = Phase::Anchoring {
                then,
                place,
                tries: 0,
            };
            out.push(Action::Anchor { place, number });
        } else {
            self.anchor(then, out);
        }
    }

    fn anchored(&mut self, then: Then, out: &mut Vec<Action>) {
        let Some(last) = &self.last else { return };
        let (number, digest) = (last.number, last.sha384);
        out.push(Action::Anchored { number });
        match then {
            Then::Answer(Purpose::Request { id, nonce }) => {
                self.phase = Phase::Quoting { id };
                out.push(Action::Answer {
                    id,
                    nonce,
                    number,
                    digest,
                });
            }
            Then::Answer(Purpose::Handover { id }) => {
                let program = self.successor.as_ref().unwrap_or(&self.setup.program).clone();
                out.push(Action::LetIn { id, number, program });
            }
            Then::Answer(_) | Then::Nothing => {}
            Then::Start(purpose) => self.start(purpose, out),
        }
    }

    /// [`Action::Anchor`] was done: whether it is anchored is looked up.
    pub(super) fn written(&mut self, out: &mut Vec<Action>) {
        if let Phase::Anchoring { place, tries, .. } = &mut self.phase {
            *tries += 1;
            out.push(look(*place));
        }
    }

    /// The list was read to its end while the entry of a checkpoint's file is looked for.
    pub(super) fn entry_sought(&mut self, then: Then, tries: u32, now: Duration, out: &mut Vec<Action>) {
        let place = Place::Pcr10;
        let number = self.last_checkpoint().unwrap_or_default();
        if self.last.as_ref().is_some_and(|last| last.index.is_some()) {
            self.anchor(then, out);
            return;
        }
        self.phase = Phase::Anchoring { then, place, tries };
        if tries > 0 {
            self.fail(SealError::NotMeasured { number }, now, out);
        } else {
            // Left over: it was not in the list, so it has to be read (again).
            out.push(Action::Anchor { place, number });
        }
    }

    /// The register was read.
    pub(super) fn register_read(&mut self, value: &Value, now: Duration, out: &mut Vec<Action>) {
        let Phase::Anchoring {
            place: place @ Place::Rtmr(_),
            tries,
            ..
        } = self.phase
        else {
            return;
        };
        let number = self.last_checkpoint().unwrap_or_default();
        let Some(register) = &mut self.register else {
            return;
        };
        if *value == register.after {
            register.done = true;
            self.anchoring_done(out);
        } else if *value != register.before {
            if self.setup.other_writer && tries < MOST_TRIES {
                out.push(Action::ReadOthers { found: *value });
            } else {
                self.shared(value, now, out);
            }
        } else if tries == 0 {
            out.push(Action::Anchor { place, number });
        } else {
            let index = register.index;
            self.fail(SealError::NotExtended { index, number }, now, out);
        }
    }

    /// The other writer's log was read, since the register holds what no checkpoint left there.
    pub(super) fn others_read(&mut self, found: &Value, log: &[u8], now: Duration, out: &mut Vec<Action>) {
        let is_waiting = matches!(
            self.phase,
            Phase::Anchoring {
                place: Place::Rtmr(_),
                ..
            }
        );
        let (Some(register), Some(last), true) = (&self.register, &self.last, is_waiting) else {
            return;
        };
        let state = others::State {
            index: register.index,
            before: register.before,
            after: register.after,
            digest: last.sha384,
            is_done: register.known,
            taken: register.others,
        };
        match state.explain(log, found) {
            Some(others) => out.push(Action::NoteOthers(others)),
            None => self.shared(found, now, out),
        }
    }

    /// The other writer's events are known by now, in a replay or at this moment.
    pub(super) fn others_found(&mut self, found: &OthersFound, out: &mut Vec<Action>) -> Result<(), Error> {
        let number = self.last_checkpoint().unwrap_or_default();
        let (Some(register), Some(last)) = (&mut self.register, &self.last) else {
            return Err(Error::Diverged {
                number,
                what: "register",
            });
        };
        let replayed = |value: Option<Value>, log: &[u8]| {
            value.and_then(|value| td::log::replay(log, register.index, &value).ok())
        };
        let (before, done) = if register.known {
            (Some(register.before), Some(register.after))
        } else {
            let before = replayed(Some(register.before), &found.before);
            (before, before.map(|before| td::extend(&before, &last.sha384)))
        };
        let after = replayed(done, &found.after);
        let (Some(before), Some(after)) = (before, after) else {
            return Err(Error::Diverged {
                number,
                what: "other writer's log",
            });
        };
        (register.before, register.after) = (before, after);
        (register.known, register.done) = (found.done, found.done && self.live);
        register.others = found.taken as usize;
        register.tail.bytes.extend(&found.after);
        if !found.before.is_empty() {
            let bytes = found.before.clone();
            out.push(Action::Log(Tail { bytes, event: 0 }));
        }
        if !self.live {
            return Ok(());
        }
        if found.done {
            self.anchoring_done(out);
        } else if let Phase::Anchoring { place, .. } = self.phase {
            out.push(Action::Anchor { place, number });
        }
        Ok(())
    }

    /// The register holds what it should: the next place, or what is to be done behind the last one.
    fn anchoring_done(&mut self, out: &mut Vec<Action>) {
        if let Phase::Anchoring { then, .. } = std::mem::replace(&mut self.phase, Phase::Idle) {
            self.anchor(then, out);
        }
    }

    fn shared(&mut self, found: &Value, now: Duration, out: &mut Vec<Action>) {
        let (Some(register), Some(last)) = (&self.register, &self.last) else {
            return;
        };
        let shared = SharedRegister {
            index: register.index,
            number: last.number,
            found: *found,
            before: register.before,
            after: register.after,
        };
        self.fail(SealError::SharedRegister(Box::new(shared)), now, out);
    }
}

/// What IMA may have measured of a checkpoint's file.
pub(super) fn contents(file: &[u8]) -> Vec<Vec<u8>> {
    FILE_HASHES.map(|bank| bank.hash(&[file]).bytes().to_vec()).into()
}

/// Whether an entry is the measurement of checkpoint `number`'s file.
pub(super) fn is_file_of(number: u64, contents: &[Vec<u8>], entry: &JoinableEntry) -> bool {
    !entry.violation
        && entry.name.strip_prefix(DIRECTORY.as_bytes()) == Some(number.to_string().as_bytes())
        && contents.contains(&entry.content)
}
