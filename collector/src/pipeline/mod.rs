//! Every decision of the collector, as a state machine: `handle(event, now) -> actions`.
//!
//! Pure: no I/O, no clock, no threads. Promises: records are appended to their partitions in sequence order,
//! whatever the order in which they and the list's entries arrive; feeding it what the journal holds gives
//! the same partitions and continues the same chain of checkpoints, wherever a crash cut it.
//! Not here: how bytes are read, signed, kept or sent (see [`crate::engine`]).
//!
//! What must be replayed after a crash is in the journal before it is handled: see [`Fact`]. The
//! measurement list and the kernel's counters are not: they are read anew.

mod anchoring;
pub mod cgroups;
mod event;
pub mod join;
mod names;
pub mod order;
mod others;
mod phase;
pub mod processes;
mod queries;
mod sealing;
mod setup;

use crate::decode::{
    self, Body, CgroupChange, EntryEvent, FileEvent, GuardEvent, LoadEvent, PodLossEvent, TaskInfo,
};
use cgpath_evidence::cgroup::partition_of;
use cgpath_evidence::checkpoint::Losses;
use cgpath_evidence::merkle::{self, Hash};
use cgpath_evidence::partition::Partitions;
use cgpath_evidence::td::{self, ListChain};
use cgpath_evidence::{Digest, EventKind, FileHash, Guard, InFlight, PartitionKey, Record};
use phase::{Phase, Target, Then, Wait};
use processes::{Exe, TaskKey};
use std::collections::VecDeque;
use std::time::Duration;

pub use anchoring::{Anchors, Found, OthersFound, Place, Tail};
pub use event::{
    Action, Counters, Error, Event, Fact, KernelRecord, Note, OpenMark, Purpose, SealError, SharedRegister,
    Signal, Stated, Unnamed,
};
pub use join::JoinableEntry;
pub(crate) use others::count as count_events;
pub use setup::Setup;

/// Linux' EEXIST, as `ima_add_template_entry` returns it for an entry that is in the list already.
const EEXIST: i32 = -17;

/// After a failure, no checkpoint is made unasked for this long.
const QUIET: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
struct Last {
    number: u64,
    digest: Hash,
    contents: Vec<Vec<u8>>,
    /// What it extends a register with.
    sha384: td::Register,
    /// Where its entry stands.
    index: Option<u64>,
    records: u64,
    last_seq: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Pipeline {
    setup: Setup,
    live: bool,
    order: order::Order<Option<Box<decode::Event>>>,
    cgroups: cgroups::Cgroups,
    names: names::Names,
    /// Names that are on their way into the journal: what is sealed next has them.
    naming: u64,
    processes: processes::Processes,
    partitions: Partitions,
    join: join::Join,
    starts: u32,
    based: bool,
    loaded: Option<u64>,
    boot_len: Option<u64>,
    /// The first checkpoint that was sealed blind.
    blind: Option<u64>,
    records: u64,
    executions: u64,
    counters: Counters,
    undecodable: u64,
    /// Floor of [`Losses::spool`]: what a checkpoint said once stays said.
    losses: Losses,
    last: Option<Last>,
    anchors: Anchors,
    register: Option<anchoring::Register>,
    /// What the list's entries hash to, where checkpoints state it.
    chain: Option<ListChain>,
    phase: Phase,
    /// After a failure nothing is sealed unasked before this.
    quiet_until: Duration,
    queue: VecDeque<Purpose>,
    canary: Option<u32>,
    canary_seen: Option<Ran>,
    /// The program that counts as the collector beside this one, as checkpoints state it.
    successor: Option<Digest>,
}

/// What the kernel side recorded of the canary.
#[derive(Debug)]
struct Ran {
    path: Vec<u8>,
    path_cut: bool,
    hash: FileHash,
}

impl Pipeline {
    /// Before anything has happened in this boot.
    pub fn new(setup: Setup) -> Pipeline {
        Pipeline {
            setup,
            live: false,
            order: order::Order::default(),
            cgroups: cgroups::Cgroups::default(),
            names: names::Names::default(),
            naming: 0,
            processes: processes::Processes::default(),
            partitions: Partitions::default(),
            join: join::Join::default(),
            starts: 0,
            based: false,
            loaded: None,
            boot_len: None,
            blind: None,
            records: 0,
            executions: 0,
            counters: Counters::default(),
            undecodable: 0,
            losses: Losses::default(),
            last: None,
            anchors: Anchors::PCR10,
            register: None,
            chain: None,
            phase: Phase::Idle,
            quiet_until: Duration::ZERO,
            queue: VecDeque::new(),
            canary: None,
            canary_seen: None,
            successor: None,
        }
    }

    /// Takes in what happened at `now` (any clock that only goes forward) and says what to do.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the journal was altered.
    pub fn handle(&mut self, event: impl Into<Event>, now: Duration) -> Result<Vec<Action>, Error> {
        let event = event.into();
        let mut out = Vec::new();
        // Counting what is missing costs more than a record: done when time or the counters have moved on.
        let count_missing = matches!(event, Event::Volatile(Signal::Counters(_)));
        match event {
            Event::Journaled(Fact::Record(record)) => self.record(record, &mut out),
            Event::Journaled(Fact::Note(note)) => self.note(note, &mut out)?,
            Event::Volatile(signal) => self.signal(signal, now, &mut out),
        }
        self.advance(count_missing, now, &mut out);
        Ok(out)
    }

    fn record(&mut self, record: KernelRecord, out: &mut Vec<Action>) {
        match record {
            KernelRecord::Decoded(raw) => self.raw(raw.seq, Some(raw), out),
            KernelRecord::Undecodable { seq } => {
                self.undecodable = self.undecodable.saturating_add(1);
                // Its number came, so it is no hole; it is counted as what it is.
                if let Some(seq) = seq.filter(|s| *s > 0) {
                    self.raw(seq, None, out);
                }
            }
        }
    }

    fn note(&mut self, note: Note, out: &mut Vec<Action>) -> Result<(), Error> {
        match note {
            Note::Started => self.starts = self.starts.saturating_add(1),
            Note::Base { list_len } => {
                if !self.based {
                    self.based = true;
                    self.join.set_base(list_len);
                }
            }
            Note::SeedCgroup { id, parent, name } => {
                if self.cgroups.seed(id, parent, &name) {
                    self.directory(id, out);
                }
            }
            Note::SeedProcess {
                tgid,
                start_ns,
                tick_ns,
                exe,
                dev,
                ino,
            } => {
                self.processes
                    .seed(tgid, start_ns, tick_ns, Exe { path: exe, dev, ino });
            }
            Note::Loaded { list_len } => {
                if self.loaded.is_none() {
                    self.loaded = Some(list_len);
                    if self.live {
                        self.queue.push_back(Purpose::Load);
                    }
                }
            }
            Note::GaveUp { through } => {
                let mut due = Vec::new();
                self.order.give_up(through, |item| due.push(item));
                due.into_iter().flatten().for_each(|raw| self.apply(*raw, out));
            }
            Note::Sealed(sealed) => self.sealed(&sealed, out)?,
            Note::Anchors(anchors) => self.set_anchors(anchors)?,
            Note::Others(found) => self.others_found(&found, out)?,
            Note::Named(stated) => self.named(*stated, out),
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, now: Duration, out: &mut Vec<Action>) {
        match signal {
            Signal::Replayed => self.replayed(out),
            Signal::List(entry) => self.list(&entry),
            Signal::ListPolled => self.list_polled(now, out),
            Signal::Counters(counters) => self.counted(counters),
            Signal::Canary { tgid } => {
                self.canary = tgid;
                self.canary_seen = None;
                if let Phase::Canary(purpose) = std::mem::replace(&mut self.phase, Phase::Idle) {
                    self.phase = Phase::Polling(purpose);
                    out.push(Action::PollList);
                }
            }
            Signal::SealRefused { number, why } => self.fail(SealError::Refused { number, why }, now, out),
            Signal::AnchorWritten => self.written(out),
            Signal::Register { value } => self.register_read(&value, now, out),
            Signal::Others { found, log } => self.others_read(&found, &log, now, out),
            Signal::AnchorFailed { why } => {
                let number = self.last_checkpoint().unwrap_or_default();
                self.fail(SealError::File { number, why }, now, out);
            }
            Signal::Marks(found) => {
                if let Phase::Looking { marks, .. } = &mut self.phase {
                    *marks = found;
                }
            }
            Signal::Quoted { id } => {
                if self.phase == (Phase::Quoting { id }) {
                    self.phase = Phase::Looking {
                        id,
                        marks: Vec::new(),
                        wait: Wait::new(self.setup.drain_timeout, now),
                    };
                    out.extend([Action::PollList, Action::ReadMarks, Action::ReadCounters]);
                }
            }
            Signal::Unquoted { id } => {
                if self.phase == (Phase::Quoting { id }) {
                    self.phase = Phase::Idle;
                }
            }
            Signal::Request { id, nonce } => self.queue.push_back(Purpose::Request { id, nonce }),
            Signal::Handover { id } => self.queue.push_back(Purpose::Handover { id }),
            Signal::Stated(stated) => {
                let due = self.names.heard(stated);
                due.into_iter().for_each(|stated| self.name(stated, out));
            }
            Signal::NameRefused => self.naming = self.naming.saturating_sub(1),
            Signal::Tick => {
                if self.wants_ticks() {
                    out.push(Action::ReadCounters);
                }
            }
        }
    }

    /// A record, or the place of one that cannot be read.
    fn raw(&mut self, seq: u64, item: Option<Box<decode::Event>>, out: &mut Vec<Action>) {
        let mut due = Vec::new();
        self.order.push(seq, item, |item| due.push(item));
        due.into_iter().flatten().for_each(|raw| self.apply(*raw, out));
        if let Some(through) = self.order.overdue().filter(|_| self.live) {
            out.push(Action::GiveUp { through });
        }
    }

    /// A record whose turn it is.
    fn apply(&mut self, raw: decode::Event, out: &mut Vec<Action>) {
        let decode::Event { seq, boot_ns, body } = raw;
        match body {
            Body::Cgroup(c) => {
                let parent = c.parent_id.unwrap_or(0);
                match c.change {
                    CgroupChange::New => self.cgroups.made(c.id, parent, &c.name),
                    CgroupChange::Renamed => self.cgroups.renamed(c.id, parent, &c.name),
                    CgroupChange::Gone => {
                        self.cgroups.removed(c.id);
                        self.names.removed(c.id);
                        return;
                    }
                }
                self.directory(c.id, out);
            }
            Body::Entry(e) => self.entry(seq, boot_ns, e, out),
            Body::File(f) => self.file(seq, boot_ns, f, out),
            Body::Guard(g) => self.guard(seq, boot_ns, g, out),
            Body::PodLoss(l) => self.pod_loss(seq, boot_ns, l, out),
            Body::Load(l) => self.loaded(seq, boot_ns, l, out),
        }
    }

    /// A directory was made, renamed or found: that of a pod or of a container wants a name.
    fn directory(&mut self, id: u64, out: &mut Vec<Action>) {
        let Some(path) = self.cgroups.path(id) else {
            return;
        };
        if let Some(stated) = self.names.made(id, &path) {
            self.name(stated, out);
        }
    }

    /// The pod's own directory, in whose partition a name belongs that nobody has yet.
    fn place(&mut self, stated: &Stated) -> Option<(u64, Vec<u8>)> {
        let directory = self.names.place(stated)?;
        let path = self.cgroups.path(directory)?.to_vec();
        // A version 1 hierarchy lets directories be renamed: it may be another pod's now, or nobody's.
        (partition_of(Some(&path)) == PartitionKey::Pod(stated.uid)).then_some((directory, path))
    }

    fn name(&mut self, stated: Stated, out: &mut Vec<Action>) {
        if self.place(&stated).is_some() {
            self.naming += 1;
            out.push(Action::Name(Box::new(stated)));
        }
    }

    /// What the container runtime called somebody becomes a record of the pod. The first word stands.
    fn named(&mut self, stated: Stated, out: &mut Vec<Action>) {
        self.naming = self.naming.saturating_sub(1);
        let Some((directory, path)) = self.place(&stated) else {
            return;
        };
        self.names.recorded(&stated);
        let record = stated.named.into_record(stated.boot_ns, directory, path);
        self.append(&record, out);
    }

    fn entry(&mut self, seq: u64, boot_ns: u64, e: EntryEvent, out: &mut Vec<Action>) {
        match (e.violation, e.ret) {
            (true, 0) => self.join.violated(&e.name),
            (false, 0) => self.join.added(&e.digests),
            (false, EEXIST) => self.join.existing(&e.digests),
            // Nothing was added: there is no entry to join.
            _ => {}
        }
        let record = Record {
            kind: if e.violation {
                EventKind::Violation
            } else {
                EventKind::Entry
            },
            ret: e.ret,
            pcr: e.pcr,
            digests: e.digests,
            hash: None,
            path: e.name.to_vec(),
            dev: e.dev,
            ino: e.ino,
            identity: e.identity.map(Box::new),
            path_cut: e.name_cut,
            ..self.blank(seq, boot_ns, &e.task)
        };
        self.append(&record, out);
    }

    fn file(&mut self, seq: u64, boot_ns: u64, f: FileEvent, out: &mut Vec<Action>) {
        if f.kind == EventKind::Execution
            && let Some(own) = f.task.ancestors.first()
        {
            let exe = Exe {
                path: f.path.to_vec(),
                dev: f.dev,
                ino: f.ino,
            };
            self.processes.executed(
                TaskKey {
                    tgid: own.tgid,
                    start_ns: own.start_ns,
                },
                boot_ns,
                exe,
            );
            if self.canary == Some(own.tgid) {
                self.canary_seen = Some(Ran {
                    path: f.path.to_vec(),
                    path_cut: f.path_cut,
                    hash: f.file_hash(),
                });
            }
        }
        // Of a file that is about to be written a hash would say nothing.
        let hash = (f.kind != EventKind::LayerWrite).then(|| f.file_hash());
        let record = Record {
            kind: f.kind,
            hash,
            path: f.path.to_vec(),
            dev: f.dev,
            ino: f.ino,
            identity: Some(Box::new(f.identity)),
            path_cut: f.path_cut,
            writable: f.writable,
            ..self.blank(seq, boot_ns, &f.task)
        };
        self.append(&record, out);
    }

    fn guard(&mut self, seq: u64, boot_ns: u64, g: GuardEvent, out: &mut Vec<Action>) {
        let record = Record {
            kind: EventKind::Guard,
            ret: g.ret,
            path: g.name.to_vec(),
            dev: g.dev,
            ino: g.ino,
            path_cut: g.name_cut,
            guard: Some(Guard {
                action: g.action,
                object: g.object,
            }),
            ..self.blank(seq, boot_ns, &g.task)
        };
        self.append(&record, out);
    }

    fn loaded(&mut self, seq: u64, boot_ns: u64, l: LoadEvent, out: &mut Vec<Action>) {
        let record = Record {
            kind: EventKind::Load,
            hash: Some(l.hash),
            load: Some(Box::new(l.load)),
            ..self.blank(seq, boot_ns, &l.task)
        };
        self.append(&record, out);
    }

    /// The loss of a pod, not of one process: it is charged by the pod's own directory.
    fn pod_loss(&mut self, seq: u64, boot_ns: u64, l: PodLossEvent, out: &mut Vec<Action>) {
        let nobody = TaskInfo {
            cgroup_id: l.pod_id,
            ..TaskInfo::default()
        };
        let record = Record {
            kind: EventKind::PodLoss,
            pod_loss: Some(l.loss),
            ..self.blank(seq, boot_ns, &nobody)
        };
        self.append(&record, out);
    }

    /// What every record says of who did it.
    fn blank(&mut self, seq: u64, boot_ns: u64, task: &TaskInfo) -> Record {
        let keys: Vec<TaskKey> = task
            .ancestors
            .iter()
            .map(|a| TaskKey {
                tgid: a.tgid,
                start_ns: a.start_ns,
            })
            .collect();
        Record {
            seq,
            boot_ns,
            kind: EventKind::Entry,
            ret: 0,
            pcr: 0,
            digests: Vec::new(),
            hash: None,
            path: Vec::new(),
            dev: 0,
            ino: 0,
            cgroup_id: task.cgroup_id,
            cgroup: self.cgroups.path(task.cgroup_id).map(|p| p.to_vec()),
            pid: task.pid,
            uid: task.uid,
            mnt_ns: task.mnt_ns,
            pid_ns: task.pid_ns,
            ancestry: self.processes.resolve(&keys, boot_ns),
            ancestry_cut: task.ancestry_cut || task.ancestry_unstable,
            path_cut: false,
            guard: None,
            pod_loss: None,
            identity: None,
            name: None,
            writable: false,
            load: None,
        }
    }

    fn append(&mut self, record: &Record, out: &mut Vec<Action>) {
        let key = partition_of(record.cgroup.as_deref());
        let leaf = record.to_cbor();
        self.partitions.push(key, merkle::leaf_hash(&leaf));
        self.records += 1;
        self.executions += u64::from(record.is_execution());
        // One that was given up and came after all may be before the last seal's last number: it is as good
        // as lost.
        let is_shown = matches!(record.kind, EventKind::Entry | EventKind::Violation)
            && self.last.as_ref().is_some_and(|last| record.seq > last.last_seq);
        out.push(Action::Append { key, leaf, is_shown });
    }

    fn list(&mut self, entry: &JoinableEntry) {
        self.join.entry(entry);
        if let Some(chain) = &mut self.chain
            && chain.entries() == entry.index
        {
            chain.push(&entry.bytes);
        }
        if let Some(last) = &mut self.last
            && last.index.is_none()
            && anchoring::is_file_of(last.number, &last.contents, entry)
        {
            last.index = Some(entry.index);
        }
    }

    fn list_polled(&mut self, now: Duration, out: &mut Vec<Action>) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Polling(purpose) => {
                self.phase = Phase::Draining {
                    purpose,
                    wait: Wait::new(self.setup.drain_timeout, now),
                };
                out.push(Action::ReadCounters);
            }
            Phase::Listing(purpose) => self.seal(purpose, now, out),
            Phase::Anchoring {
                then,
                place: Place::Pcr10,
                tries,
            } => self.entry_sought(then, tries, now, out),
            other => self.phase = other,
        }
    }

    fn fail(&mut self, error: SealError, now: Duration, out: &mut Vec<Action>) {
        self.quiet_until = now + QUIET;
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        let purpose = match phase {
            Phase::Idle => return,
            Phase::Canary(p) | Phase::Polling(p) | Phase::Listing(p) | Phase::Sealing(p) => Some(p),
            Phase::Draining { purpose, .. } => Some(purpose),
            // Nothing is being sealed: the request goes on.
            Phase::Quoting { .. } | Phase::Looking { .. } => {
                self.phase = phase;
                return;
            }
            Phase::Anchoring {
                then: Then::Answer(p) | Then::Start(p),
                ..
            } => Some(p),
            Phase::Anchoring {
                then: Then::Nothing, ..
            } => None,
        };
        if let Some(Purpose::Handover { .. }) = purpose {
            // It is not let in, so it does not count.
            self.successor = None;
        }
        let id = match purpose {
            Some(Purpose::Request { id, .. } | Purpose::Handover { id }) => Some(id),
            _ => None,
        };
        out.push(Action::Failed { id, error });
    }

    fn counted(&mut self, counters: Counters) {
        let before = self.counters;
        self.counters = Counters {
            seq: before.seq.max(counters.seq),
            reserve: before.reserve.max(counters.reserve),
            recursion: before.recursion.max(counters.recursion),
            read: before.read.max(counters.read),
            attached: counters.attached,
        };
        if let Phase::Draining { wait, .. } | Phase::Looking { wait, .. } = &mut self.phase {
            wait.aim(Target {
                seq: self.counters.seq,
                lost: self.counters.reserve,
            });
        }
    }

    fn replayed(&mut self, out: &mut Vec<Action>) {
        self.live = true;
        match &self.last {
            // Whether it stands in the list, or in a register, is known once that has been read.
            Some(_) => self.anchor(Then::Nothing, out),
            None if self.loaded.is_some() => self.queue.push_back(Purpose::Load),
            None => {}
        }
    }

    fn start(&mut self, purpose: Purpose, out: &mut Vec<Action>) {
        // A request that failed leaves a checkpoint that is not anchored yet: without it the chain has a gap.
        if self.lacking().is_some() {
            self.anchor(Then::Start(purpose), out);
        } else {
            out.push(match purpose {
                Purpose::Handover { .. } => Action::TrySuccessor,
                _ => Action::RunCanary,
            });
            self.phase = Phase::Canary(purpose);
        }
    }

    /// Whether the kernel side says that it lost the `missing` ones up to the target: they are not worth
    /// waiting for.
    fn is_explained(&self, missing: u64, target: Target) -> bool {
        missing <= target.lost.saturating_sub(self.order.lost())
    }

    /// Shows what stands behind the seal once all records have come that there were when the marks were read.
    fn look(&mut self, count_missing: bool, now: Duration, out: &mut Vec<Action>) {
        let Phase::Looking { id, wait, .. } = &mut self.phase else {
            return;
        };
        let (id, Some(target)) = (*id, wait.target()) else {
            return;
        };
        if self.order.through() < target.seq {
            if !count_missing {
                return;
            }
            let missing = self.order.missing(target.seq);
            let is_over = wait.is_over(missing, now);
            if self.is_explained(missing, target) {
                out.push(Action::GiveUp { through: target.seq });
                return;
            }
            // Late for another reason: it is not lost yet, and the next seal waits for it, too.
            if !is_over {
                return;
            }
        }
        let Phase::Looking { marks, .. } = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return;
        };
        let in_flight = marks
            .into_iter()
            .map(|mark| InFlight {
                tid: mark.tid,
                since_ns: mark.since_ns,
                cgroup: self.cgroups.path(mark.cgroup_id).map(|path| path.to_vec()),
            })
            .collect();
        out.push(Action::Assemble { id, in_flight });
    }

    /// Goes on with what waits, as far as it can.
    fn advance(&mut self, count_missing: bool, now: Duration, out: &mut Vec<Action>) {
        if !self.live {
            return;
        }
        self.look(count_missing, now, out);
        if self.phase == Phase::Idle {
            // Nothing can be sealed before checkpoint 0 is.
            let ready = self.loaded.is_some();
            let load = self.queue.iter().position(|p| *p == Purpose::Load);
            let next = match load {
                Some(at) => self.queue.remove(at),
                None if ready => self.queue.pop_front(),
                None => None,
            };
            let waiting = self.records - self.last.as_ref().map_or(0, |l| l.records);
            let enough = self.setup.seal_records > 0
                && waiting >= self.setup.seal_records
                && self.last.is_some()
                && now >= self.quiet_until;
            match next {
                // It was sealed meanwhile: by a request that came first.
                Some(Purpose::Load) if self.last.is_some() => {}
                Some(purpose) => self.start(purpose, out),
                None if enough => self.start(Purpose::Unasked, out),
                None => {}
            }
        }
        if let Phase::Draining { wait, .. } = &mut self.phase
            && let Some(target) = wait.target()
        {
            if self.order.through() >= target.seq {
                if self.naming == 0
                    && let Phase::Draining { purpose, .. } = std::mem::replace(&mut self.phase, Phase::Idle)
                {
                    if self.binds_list() {
                        // What records name that came while they were waited for is in the list by now.
                        self.phase = Phase::Listing(purpose);
                        out.push(Action::PollList);
                    } else {
                        self.seal(purpose, now, out);
                    }
                }
            } else if count_missing {
                let missing = self.order.missing(target.seq);
                let is_over = wait.is_over(missing, now);
                if is_over || self.is_explained(missing, target) {
                    out.push(Action::GiveUp { through: target.seq });
                }
            }
        }
    }
}

fn sha256(bytes: &[u8]) -> Hash {
    <sha2::Sha256 as sha2::Digest>::digest(bytes).into()
}

#[cfg(test)]
mod tests;
