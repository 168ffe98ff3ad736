//! The engine without its machine: pipeline, journal, store and measurement list, and the order in which they
//! take an event.
//!
//! Promises: what the pipeline must be able to replay is in the journal before it is handled. Not here: eBPF,
//! the ring buffer, the file system of checkpoints: a [`Machine`] has them, so that rounds can be had, and
//! measured, without a kernel that runs our programs.

use super::EngineError;
use crate::anchor::AnchorError;
use crate::decode::{Body, PodLossEvent};
use crate::journal::{self, Frame, Journal, JournalError};
use crate::pipeline::{
    Action, Anchors, Counters, Event, Found, KernelRecord, Note, OpenMark, Pipeline, Place, SealError, Setup,
    Signal, Stated, count_events,
};
use crate::sources::list::{self, ListReader};
use crate::sources::system;
use crate::store::{Assembly, Frozen, Store, StoreError};
use bytes::Bytes;
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::{Cursor, Digest, Entry, InFlight, SealedCheckpoint, td};
use p256::ecdsa::SigningKey;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// What is wanted of the machine while a checkpoint is sealed.
pub trait Machine {
    /// The kernel side's counters now.
    ///
    /// # Errors
    /// What ends the collector.
    fn counters(&mut self) -> Result<Counters, EngineError>;

    /// The threads that are adding an entry now.
    ///
    /// # Errors
    /// What ends the collector.
    fn in_flight(&mut self) -> Result<Vec<OpenMark>, EngineError>;

    /// Executes the canary; gives its process, or none if it could not be executed.
    fn canary(&mut self) -> Option<u32>;

    /// The same with the file that lies at the collector's own path by now.
    fn successor(&mut self) -> Option<u32>;

    /// Has the guard take the program with this hash for the collector, and no other that is not running.
    ///
    /// # Errors
    /// What ends the collector.
    fn let_in(&mut self, program: &Digest) -> Result<(), EngineError>;

    /// Anchors the file of checkpoint `number` at `place`, once.
    ///
    /// # Errors
    /// See [`AnchorError`]. It may be anchored all the same.
    fn anchor(&mut self, place: Place, number: u64, file: &[u8]) -> Result<(), AnchorError>;

    /// What the register at `place` holds.
    ///
    /// # Errors
    /// See [`AnchorError`].
    fn register(&mut self, place: Place) -> Result<td::Register, AnchorError>;

    /// The whole log of the register's other writer; empty where none is configured.
    ///
    /// # Errors
    /// See [`AnchorError`].
    fn other_log(&mut self) -> Result<Vec<u8>, AnchorError>;
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// A checkpoint carries its nonce and is anchored: quote, then call [`Core::quoted`] or
    /// [`Core::unquoted`].
    Ready {
        /// The request.
        id: u64,
        /// Its nonce.
        nonce: Vec<u8>,
        /// SHA-384 of the checkpoint's file.
        checkpoint: td::Register,
    },
    /// All parts of the evidence are there.
    Assembled {
        /// The request.
        id: u64,
        /// The parts, or why there are none.
        assembly: Box<Result<Assembly, StoreError>>,
    },
    /// A checkpoint says that another program counts as the collector, it is anchored, and the guard knows
    /// the program.
    HandedOver {
        /// The request.
        id: u64,
        /// The checkpoint.
        number: u64,
        /// The program.
        program: Digest,
    },
    /// It cannot be answered.
    Failed {
        /// The request; none for what nobody asked for.
        id: Option<u64>,
        /// Why.
        error: SealError,
    },
}

/// What a [`Core`] goes on with: one boot's directory, and what was opened in it.
#[derive(Debug)]
pub struct Opened<'a> {
    /// Where the store is made anew.
    pub dir: &'a Path,
    /// The journal, with [`Note::Base`] in it.
    pub journal: Journal,
    /// The list, from which `early` was read.
    pub list: ListReader,
    /// All entries so far.
    pub early: Vec<ListEntry>,
    /// Where checkpoints are to be anchored, in order.
    pub places: Vec<Place>,
    /// The checkpoint key; its public half is in [`Setup::key`].
    pub key: SigningKey,
}

/// Pipeline, journal, store and list.
#[derive(Debug)]
pub struct Core<M> {
    /// Where it runs.
    pub machine: M,
    pipeline: Pipeline,
    journal: Journal,
    store: Store,
    list: ListReader,
    key: SigningKey,
    boot_id: [u8; 16],
    /// What the last seal covers.
    frozen: Frozen,
    /// What the evidence that is being made comes after.
    after: Option<Cursor>,
    outcomes: VecDeque<Outcome>,
    /// The journal took no record: nothing is consumed until it does.
    stalled: bool,
    /// The journal took no note, which was logged.
    refused: bool,
}

/// The record without what is reserved behind it; all of it where that cannot be seen.
pub(super) fn record_in(item: &[u8]) -> &[u8] {
    let len = crate::decode::record_len(item).unwrap_or(item.len());
    &item[..len.min(item.len())]
}

impl<M: Machine> Core<M> {
    /// Replays the journal, then handles what the list has so far and that a collector was started.
    ///
    /// # Errors
    /// What ends the collector.
    pub fn start(machine: M, setup: Setup, opened: Opened<'_>) -> Result<Core<M>, EngineError> {
        let Opened {
            dir,
            journal,
            list,
            early,
            places,
            key,
        } = opened;
        let boot_id = setup.boot_id;
        let mut pipeline = Pipeline::new(setup);
        let mut store = Store::create(dir)?;
        let mut frozen = store.freeze();
        journal.replay(|frame| replay(frame, &mut pipeline, &mut store, &mut frozen))?;
        let mut core = Core {
            machine,
            pipeline,
            journal,
            store,
            list,
            key,
            boot_id,
            frozen,
            after: None,
            outcomes: VecDeque::new(),
            stalled: false,
            refused: false,
        };
        core.note(Note::Started)?;
        core.choose_anchors(&places)?;
        for entry in early {
            core.entry(&entry)?;
        }
        core.handle(Signal::Replayed)?;
        Ok(core)
    }

    /// Notes where checkpoints are anchored, and what a register holds before the first of them extends it.
    /// Both are fixed once a checkpoint is sealed.
    fn choose_anchors(&mut self, places: &[Place]) -> Result<(), EngineError> {
        if self.pipeline.last_checkpoint().is_some() {
            let before = self.pipeline.anchors().places();
            if before == places {
                return Ok(());
            }
            let now = places.to_vec();
            return Err(EngineError::AnchorsChanged { before, now });
        }
        let register = places.iter().find_map(|place| match place {
            Place::Pcr10 => None,
            Place::Rtmr(index) => Some(self.found(*place, *index)),
        });
        let anchors = Anchors {
            pcr10: places.contains(&Place::Pcr10),
            register: register.transpose()?,
        };
        if anchors == *self.pipeline.anchors() {
            return Ok(());
        }
        self.note(Note::Anchors(anchors))
    }

    /// A register as it is now, with the events of its other writer that are in it, but perhaps for the last.
    fn found(&mut self, place: Place, index: u8) -> Result<Found, EngineError> {
        let mut others = count_events(&self.machine.other_log()?, index);
        loop {
            let value = self.machine.register(place)?;
            let now = count_events(&self.machine.other_log()?, index);
            if now == others {
                tracing::info!(%place, value = hex::encode(value), "the register as it was found");
                return Ok(Found { index, value, others });
            }
            others = now;
        }
    }

    /// The programs are attached and `seeds` are what was there before them.
    ///
    /// # Errors
    /// What ends the collector.
    pub fn loaded(&mut self, seeds: impl IntoIterator<Item = Note>) -> Result<(), EngineError> {
        for seed in seeds {
            self.note(seed)?;
        }
        self.poll_list()?;
        let list_len = self.pipeline.list_len();
        // What is being added at this moment has its record in the ring when checkpoint 0 is sealed.
        self.note(Note::Loaded { list_len })
    }

    /// The state machine, to look at.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// boot_id of the running kernel.
    pub fn boot_id(&self) -> [u8; 16] {
        self.boot_id
    }

    /// Bytes of the list that were read.
    pub fn list_bytes(&self) -> u64 {
        self.list.bytes()
    }

    /// Whether the disk takes no more records.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// What became of requests since the last call.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        self.outcomes.drain(..).collect()
    }

    /// Writes an item of the ring buffer to the journal: from then on it may leave the ring, and is to be
    /// [handled](Core::record). `None` where the disk is full, see [`Core::is_stalled`].
    pub fn keep(&mut self, item: &[u8]) -> Option<Bytes> {
        let raw = Bytes::copy_from_slice(record_in(item));
        if let Err(error) = self.journal.append_raw(&raw) {
            if !self.stalled {
                tracing::error!(%error, "records cannot be kept: nothing is consumed until they can");
            }
            self.stalled = true;
            return None;
        }
        if self.stalled {
            tracing::info!("records can be kept again");
            self.stalled = false;
        }
        Some(raw)
    }

    /// Takes in a record that was [kept](Core::keep).
    ///
    /// # Errors
    /// What ends the collector.
    pub fn record(&mut self, kept: &Bytes) -> Result<(), EngineError> {
        let record = journal::kernel_record(kept);
        if let KernelRecord::Decoded(raw) = &record
            && let Body::PodLoss(PodLossEvent { pod_id, loss }) = &raw.body
        {
            tracing::warn!(
                cgroup = pod_id,
                executions = loss.executions,
                mappings = loss.mappings,
                denials = loss.denials,
                repeats = loss.repeats,
                "a pod is beyond its budget: what is not recorded of it is charged to it until it ends"
            );
        }
        self.handle(record)
    }

    /// Reads the list to its end.
    ///
    /// # Errors
    /// What ends the collector.
    pub fn poll_list(&mut self) -> Result<(), EngineError> {
        let mut new = Vec::new();
        self.list.poll(|entry| {
            new.push(entry);
            Ok::<(), EngineError>(())
        })?;
        new.iter().try_for_each(|entry| self.entry(entry))
    }

    fn entry(&mut self, entry: &ListEntry) -> Result<(), EngineError> {
        let whole = entry.to_entry();
        self.store.entry(&whole)?;
        let mut listed = list::for_pipeline(entry);
        if let Entry::Full(bytes) = whole
            && self.pipeline.binds_list()
        {
            listed.bytes = bytes;
        }
        self.handle(Signal::List(Box::new(listed)))
    }

    /// Asks for a checkpoint with `nonce`; the answer is an [`Outcome`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn request(&mut self, id: u64, nonce: Vec<u8>) -> Result<(), EngineError> {
        self.handle(Signal::Request { id, nonce })
    }

    /// Asks for a handover to the program that lies at the collector's path by now; the answer is an
    /// [`Outcome`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn hand_over(&mut self, id: u64) -> Result<(), EngineError> {
        self.handle(Signal::Handover { id })
    }

    /// Takes in what the container runtime says. While the disk is full it is passed over: the runtime says
    /// it again.
    ///
    /// # Errors
    /// What ends the collector.
    pub fn stated(&mut self, stated: Vec<Stated>) -> Result<(), EngineError> {
        if self.stalled {
            return Ok(());
        }
        self.handle(Signal::Stated(stated))
    }

    /// Time has passed.
    ///
    /// # Errors
    /// What ends the collector.
    pub fn tick(&mut self) -> Result<(), EngineError> {
        self.handle(Signal::Tick)
    }

    /// The quote of a request that is [ready](Outcome::Ready) was made: what stands behind the seal by now is
    /// looked at, and the answer is [`Outcome::Assembled`], with what came after a cursor, or with
    /// everything.
    ///
    /// # Errors
    /// What ends the collector.
    pub fn quoted(&mut self, id: u64, after: Option<Cursor>) -> Result<(), EngineError> {
        self.after = after;
        self.handle(Signal::Quoted { id })
    }

    /// There is no quote for a request that is [ready](Outcome::Ready).
    ///
    /// # Errors
    /// What ends the collector.
    pub fn unquoted(&mut self, id: u64) -> Result<(), EngineError> {
        self.handle(Signal::Unquoted { id })
    }

    /// All parts of the evidence about the last seal and what came behind it, or those that came after a
    /// cursor.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn assembly(
        &mut self,
        after: Option<&Cursor>,
        in_flight: Vec<InFlight>,
    ) -> Result<Assembly, StoreError> {
        let after = after.filter(|cursor| cursor.boot_id == self.boot_id);
        let tail = self.pipeline.log_tail();
        self.store.assembly(&self.frozen, after, in_flight, tail)
    }

    /// Writes a note to the journal, then has the pipeline handle it.
    fn note(&mut self, note: Note) -> Result<(), EngineError> {
        self.journal.append_note(&note)?;
        self.handle(note)
    }

    /// Writes a note to the journal, as [`Core::note`], but what keeps it from that does not end the
    /// collector. Then the note is not to be handled: a replay would not have it.
    fn journaled(&mut self, note: &Note) -> Result<(), JournalError> {
        let done = self.journal.append_note(note);
        if let Err(error) = &done
            && !self.refused
        {
            tracing::error!(%error, "nothing can be noted: no checkpoint is sealed until it can");
        }
        if done.is_ok() && self.refused {
            tracing::info!("what happens can be noted again");
        }
        self.refused = done.is_err();
        done
    }

    /// Has the pipeline handle what is in the journal already, or has no place there.
    fn handle(&mut self, event: impl Into<Event>) -> Result<(), EngineError> {
        for action in self.pipeline.handle(event, system::now())? {
            self.act(action)?;
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), EngineError> {
        match action {
            Action::Append { key, leaf, is_shown } => self.store.record(key, &leaf, is_shown)?,
            Action::RunCanary => {
                let tgid = self.machine.canary();
                self.handle(Signal::Canary { tgid })?;
            }
            Action::TrySuccessor => {
                let tgid = self.machine.successor();
                self.handle(Signal::Canary { tgid })?;
            }
            Action::PollList => {
                self.poll_list()?;
                self.handle(Signal::ListPolled)?;
            }
            Action::ReadCounters => {
                let counters = self.machine.counters()?;
                self.handle(Signal::Counters(counters))?;
            }
            Action::ReadMarks => {
                let marks = self.machine.in_flight()?;
                self.handle(Signal::Marks(marks))?;
            }
            Action::GiveUp { through } => {
                let note = Note::GaveUp { through };
                // On a full disk the pipeline asks for it again: at the next record, or as time passes.
                if self.journaled(&note).is_ok() {
                    tracing::warn!(through, "records did not arrive: they count as lost");
                    self.handle(note)?;
                }
            }
            Action::Seal(checkpoint) => {
                let sealed = Box::new(SealedCheckpoint::seal(*checkpoint, &self.key));
                if let Err(error) = self.journaled(&Note::Sealed(sealed.clone())) {
                    // Nobody has seen it: the next one may have its number.
                    let (number, why) = (sealed.checkpoint.number, error.to_string());
                    return self.handle(Signal::SealRefused { number, why });
                }
                self.store.checkpoint(&sealed.file)?;
                self.frozen = self.store.freeze();
                let c = &sealed.checkpoint;
                tracing::info!(
                    number = c.number,
                    list_len = c.list_len,
                    settled = c.settled,
                    boot_len = c.boot_len,
                    records = c.records,
                    last_seq = c.last_seq,
                    lost = c.losses.total(),
                    blind = c.blind,
                    "sealed"
                );
                if c.blind {
                    tracing::error!(
                        number = c.number,
                        "the canary was not seen: the programs may be switched off"
                    );
                }
                self.handle(Note::Sealed(sealed))?;
            }
            Action::Anchor { place, number } => {
                // What cannot be written out now, on a full disk, is anchored before the next answer.
                let done = match self.store.checkpoint_file(number) {
                    Ok(Some(file)) => {
                        let anchored = self.machine.anchor(place, number, &file);
                        anchored.map_err(|e| e.to_string())
                    }
                    Ok(None) => Err("its file is not in the store".to_owned()),
                    Err(error) => Err(error.to_string()),
                };
                let event = match done {
                    Ok(()) => Signal::AnchorWritten,
                    Err(why) => Signal::AnchorFailed { why },
                };
                self.handle(event)?;
            }
            Action::ReadRegister { place } => {
                let signal = match self.machine.register(place) {
                    Ok(value) => Signal::Register { value },
                    Err(error) => Signal::AnchorFailed {
                        why: error.to_string(),
                    },
                };
                self.handle(signal)?;
            }
            Action::ReadOthers { found } => {
                let log = self.machine.other_log().unwrap_or_else(|error| {
                    tracing::warn!(%error, "the log of the register's other writer");
                    Vec::new()
                });
                self.handle(Signal::Others { found, log })?;
            }
            Action::NoteOthers(found) => {
                tracing::info!(
                    events = found.taken,
                    done = found.done,
                    "the other writer extended the register"
                );
                self.note(Note::Others(found))?;
            }
            Action::Log(tail) => self.store.log(&tail)?,
            Action::Anchored { number } => tracing::debug!(number, "anchored"),
            Action::Answer {
                id,
                nonce,
                number,
                digest: checkpoint,
            } => {
                tracing::debug!(id, number, "a request's checkpoint is anchored");
                self.outcomes.push_back(Outcome::Ready {
                    id,
                    nonce,
                    checkpoint,
                });
            }
            Action::LetIn { id, number, program } => {
                self.machine.let_in(&program)?;
                tracing::info!(number, %program, "handed over: this program may take over once this one has \
                    ended");
                self.outcomes
                    .push_back(Outcome::HandedOver { id, number, program });
            }
            Action::Name(stated) => {
                let note = Note::Named(stated);
                match self.journaled(&note) {
                    Ok(()) => self.handle(note)?,
                    Err(_) => self.handle(Signal::NameRefused)?,
                }
            }
            // At once: what is sealed next belongs to the next evidence.
            Action::Assemble { id, in_flight } => {
                let after = self.after.take();
                let assembly = Box::new(self.assembly(after.as_ref(), in_flight));
                self.outcomes.push_back(Outcome::Assembled { id, assembly });
            }
            Action::Failed { id, error } => {
                tracing::error!(%error, "no checkpoint");
                self.outcomes.push_back(Outcome::Failed { id, error });
            }
        }
        Ok(())
    }
}

/// Has the pipeline and the store handle what the journal holds.
fn replay(
    frame: Frame,
    pipeline: &mut Pipeline,
    store: &mut Store,
    frozen: &mut Frozen,
) -> Result<(), EngineError> {
    if let Frame::Note(Note::Sealed(sealed)) = &frame {
        store.checkpoint(&sealed.file)?;
        *frozen = store.freeze();
    }
    for action in pipeline.handle(Event::Journaled(frame.into_fact()), Duration::ZERO)? {
        match action {
            Action::Append { key, leaf, is_shown } => store.record(key, &leaf, is_shown)?,
            Action::Log(tail) => store.log(&tail)?,
            _ => {}
        }
    }
    Ok(())
}
