//! The pipeline in a model of a node: any arrival order, and a crash at any point.

mod handover;
mod layer;
mod loss;
mod names;
mod pending;
mod register;

use super::sealing::MAX_PREDATING;
use super::*;
use bytes::Bytes;
use cgpath_ebpf_common::TaskKey as RawKey;
use cgpath_evidence::checkpoint::DIRECTORY;
use cgpath_evidence::{Bank, Checkpoint, Digest, Identity, PartitionKey, PodUid, SealedCheckpoint};
use p256::ecdsa::SigningKey;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Where the collector's file lies.
const PROGRAM: &str = "/usr/sbin/cgpathd";

const POD_A: &str = "pod11111111-1111-1111-1111-111111111111";
const POD_B: &str = "pod22222222-2222-2222-2222-222222222222";

fn task(cgroup_id: u64, tgid: u32) -> TaskInfo {
    let keys = [(tgid, u64::from(tgid) * 1000), (1, 0)];
    TaskInfo {
        cgroup_id,
        pid: tgid,
        uid: 0,
        mnt_ns: 1,
        pid_ns: 1,
        ancestors: keys
            .iter()
            .map(|(tgid, start_ns)| RawKey {
                start_ns: *start_ns,
                tgid: *tgid,
                pad: 0,
            })
            .collect(),
        ancestry_cut: false,
        ancestry_unstable: false,
        read_failed: false,
    }
}

fn digests(text: &str) -> Vec<Digest> {
    vec![
        Bank::Sha1.hash(&[text.as_bytes()]),
        Bank::Sha256.hash(&[text.as_bytes()]),
    ]
}

fn raw_entry(seq: u64, cgroup_id: u64, name: &str, ret: i32) -> decode::Event {
    let body = Body::Entry(EntryEvent {
        violation: false,
        task: task(cgroup_id, 50),
        ret,
        pcr: 10,
        digests: digests(name),
        other_banks: vec![],
        name: Bytes::copy_from_slice(name.as_bytes()),
        name_cut: false,
        dev: 1,
        ino: seq,
        identity: None,
    });
    decode::Event {
        seq,
        boot_ns: seq * 10,
        body,
    }
}

const IDENTITY: Identity = Identity {
    generation: 5,
    magic: 0xef53,
    layer: None,
    written: false,
};

fn raw_exec(seq: u64, cgroup_id: u64, tgid: u32, path: &str) -> decode::Event {
    let body = Body::File(FileEvent {
        kind: EventKind::Execution,
        task: task(cgroup_id, tgid),
        dev: 1,
        ino: 2,
        identity: IDENTITY,
        hash: decode::KernelHash::Digest(digests(path)[1].clone()),
        pre_check: false,
        path: Bytes::copy_from_slice(path.as_bytes()),
        path_cut: false,
        writable: false,
    });
    decode::Event {
        seq,
        boot_ns: seq * 10,
        body,
    }
}

fn raw_cgroup(seq: u64, id: u64, parent: u64, name: &str) -> decode::Event {
    let body = Body::Cgroup(decode::CgroupEvent {
        change: CgroupChange::New,
        id,
        parent_id: Some(parent),
        hierarchy: 0,
        name: Bytes::copy_from_slice(name.as_bytes()),
    });
    decode::Event {
        seq,
        boot_ns: seq * 10,
        body,
    }
}

fn listed(index: u64, name: &str) -> JoinableEntry {
    JoinableEntry {
        index,
        digests: digests(name),
        name: name.into(),
        content: vec![],
        violation: false,
        bytes: name.into(),
    }
}

/// The kernel, the disk and the TPM: all that survives a crash of the collector.
struct World {
    /// Records not consumed yet.
    ring: VecDeque<decode::Event>,
    list: Vec<JoinableEntry>,
    seq: u64,
    lost: u64,
    next_tgid: u32,
    journal: Vec<Fact>,
    files: Vec<SealedCheckpoint>,
    key: SigningKey,
    /// The rule that measures checkpoint files is in force.
    measures: bool,
    /// Threads whose entry is in the list and whose record is not there yet.
    inside: Vec<Inside>,
    /// What happens while a quote is being made.
    meanwhile: VecDeque<Happening>,
    /// Entries that a quote covered, at most.
    covered: u64,
    /// Records that evidence showed before they were sealed: somebody has seen them.
    shown: BTreeMap<u64, Vec<u8>>,
    /// Marks of the last evidence.
    marks: Vec<InFlight>,
    /// The TPM makes no quote.
    mute: bool,
    /// The program that runs, by a word for its content.
    program: &'static str,
    /// The file at the collector's path: what is executed there, and how the kernel hashed it.
    file: Option<decode::FileEvent>,
    /// The program that the guard takes for the collector.
    known: Option<Digest>,
    /// The disk takes no note.
    full: bool,
    /// A file that is measured when the counters are read next: the list was read, and the ring is not
    /// drained.
    late: Option<&'static str>,
    /// Where checkpoints are anchored.
    places: Vec<Place>,
    /// RTMR 3.
    register: td::Register,
    /// How often the collector extended it.
    extended: u64,
    /// It stays as it is.
    stuck: bool,
    /// What another writer of it logged.
    others: Vec<u8>,
    /// Whether the collector knows that log.
    other_writer: bool,
    /// Whether that writer extends it before the register is read or extended, for each time.
    meddles: VecDeque<bool>,
}

/// A thread inside of `ima_add_template_entry`.
#[derive(Debug, Clone)]
struct Inside {
    mark: OpenMark,
    name: String,
}

/// What may happen on the node.
#[derive(Debug, Clone)]
enum Happening {
    /// A thread of this cgroup adds an entry, and its record is late.
    Begin(u64),
    /// One that began ends.
    End(usize),
    /// Both at once.
    Add(u64),
    /// A record is lost.
    Lose,
}

#[derive(Debug, PartialEq, Eq)]
struct Crash;

/// A collector's run: all that a crash takes away.
struct Run {
    pipeline: Pipeline,
    stated: usize,
    leaves: BTreeMap<PartitionKey, Vec<Vec<u8>>>,
    /// Records that are shown, since the last seal.
    unsealed: BTreeMap<u64, Vec<u8>>,
    /// The register's log, but for its end.
    log: Vec<u8>,
    answers: Vec<u64>,
    /// Requests that got their evidence.
    evidence: Vec<u64>,
    failures: Vec<SealError>,
    now: Duration,
}

impl World {
    fn new() -> World {
        World {
            ring: VecDeque::new(),
            list: vec![listed(0, "boot_aggregate"), listed(1, "/init")],
            seq: 0,
            lost: 0,
            next_tgid: 1000,
            journal: Vec::new(),
            files: Vec::new(),
            key: SigningKey::from_slice(&[7; 32]).unwrap(),
            measures: true,
            inside: Vec::new(),
            meanwhile: VecDeque::new(),
            covered: 0,
            shown: BTreeMap::new(),
            marks: Vec::new(),
            mute: false,
            program: "one",
            file: None,
            known: None,
            full: false,
            late: None,
            places: vec![Place::Pcr10],
            register: [0x33; 48],
            extended: 0,
            stuck: false,
            others: Vec::new(),
            other_writer: false,
            meddles: VecDeque::new(),
        }
    }

    /// A node whose checkpoints are anchored at these places.
    fn anchored_at(places: &[Place]) -> World {
        World {
            places: places.to_vec(),
            ..World::new()
        }
    }

    fn has_list_anchor(&self) -> bool {
        self.places.contains(&Place::Pcr10)
    }

    fn happens(&mut self, what: &Happening) {
        match *what {
            Happening::Begin(cgroup_id) => {
                let n = self.list.len() as u64;
                let name = format!("/late/{n}");
                self.list.push(listed(n, &name));
                let mark = OpenMark {
                    tid: 7000 + n as u32,
                    since_ns: 1_000 + n,
                    cgroup_id,
                };
                self.inside.push(Inside { mark, name });
            }
            Happening::End(which) if !self.inside.is_empty() => {
                let Inside { mark, name } = self.inside.remove(which % self.inside.len());
                self.seq += 1;
                self.ring.push_back(raw_entry(self.seq, mark.cgroup_id, &name, 0));
            }
            Happening::End(_) => {}
            Happening::Add(cgroup_id) => {
                let name = format!("/new/{}", self.list.len());
                self.happen(|seq| raw_entry(seq, cgroup_id, &name, 0));
            }
            Happening::Lose => self.lose(),
        }
    }

    /// What a verifier asks of a checkpoint that comes after all that it has seen.
    fn check_seal(&self, c: &Checkpoint, leaves: &BTreeMap<PartitionKey, Vec<Vec<u8>>>) {
        assert!(
            c.list_len >= self.covered,
            "{} of {} covered",
            c.list_len,
            self.covered
        );
        let anchor = |file: &SealedCheckpoint| self.list.iter().position(|e| e.content == file.digest());
        if let Some(before) = self.files.iter().find(|file| file.digest() == c.previous)
            && self.has_list_anchor()
        {
            let at = anchor(before).expect("the checkpoint before is anchored");
            assert!(
                c.list_len > at as u64,
                "{} entries, its anchor at {at}",
                c.list_len
            );
        }
        for (seq, leaf) in &self.shown {
            assert!(
                leaves.values().flatten().any(|sealed| sealed == leaf),
                "record {seq} was shown and is sealed otherwise or not at all"
            );
        }
    }

    /// That nothing which the quote covers is without a name.
    fn check_evidence(&self, run: &Run, in_flight: &[InFlight], base: usize) {
        let stated: BTreeSet<Vec<u8>> = run
            .leaves
            .values()
            .flatten()
            .map(|leaf| Record::from_cbor(leaf).unwrap())
            .filter(|record| {
                let last = run.pipeline.last.as_ref().unwrap();
                record.seq <= last.last_seq || run.unsealed.contains_key(&record.seq)
            })
            .flat_map(|record| record.digests)
            .map(|digest| digest.bytes().to_vec())
            .collect();
        for entry in self.list.iter().take(self.covered as usize).skip(base) {
            let named = entry.digests.iter().any(|digest| stated.contains(digest.bytes()));
            let name = String::from_utf8_lossy(&entry.name);
            let marked = self.inside.iter().any(|inside| {
                inside.name == name
                    && in_flight
                        .iter()
                        .any(|m| (m.tid, m.since_ns) == (inside.mark.tid, inside.mark.since_ns))
            });
            assert!(named || marked, "entry {} ({name}) has no name", entry.index);
        }
    }

    fn setup(&self) -> Setup {
        Setup {
            node_key: self.places.iter().any(|p| *p != Place::Pcr10).then_some([4; 33]),
            other_writer: self.other_writer,
            ..self.plain_setup()
        }
    }

    fn plain_setup(&self) -> Setup {
        Setup {
            boot_id: [9; 16],
            hierarchy: "v2".into(),
            bpf_object: [1; 32],
            bpf_placed: None,
            ima_policy: None,
            key: vec![2; 33],
            node_key: None,
            other_writer: false,
            drain_timeout: Duration::from_secs(5),
            seal_records: 0,
            protection: cgpath_evidence::Protection {
                guard: cgpath_evidence::GuardMode::Record,
                tpm: cgpath_evidence::GuardMode::Record,
                enforce: false,
                fail_closed: false,
            },
            program: handover::program(self.program),
            program_path: PROGRAM.into(),
        }
    }

    /// Something happens in the kernel: a record, and a list entry if it is one that adds.
    fn happen(&mut self, make: impl FnOnce(u64) -> decode::Event) {
        self.seq += 1;
        let event = make(self.seq);
        if let Body::Entry(e) = &event.body
            && e.ret == 0
        {
            let name = String::from_utf8(e.name.to_vec()).unwrap();
            self.list.push(listed(self.list.len() as u64, &name));
        }
        self.ring.push_back(event);
    }

    /// A record for which there was no room.
    fn lose(&mut self) {
        self.seq += 1;
        self.lost += 1;
    }
}

impl Run {
    /// Knows of nothing yet.
    fn new(w: &World) -> Run {
        Run {
            pipeline: Pipeline::new(w.setup()),
            stated: 0,
            leaves: BTreeMap::new(),
            unsealed: BTreeMap::new(),
            log: vec![],
            answers: vec![],
            evidence: vec![],
            failures: vec![],
            now: Duration::ZERO,
        }
    }

    /// Starts on what the journal holds, as the engine does.
    fn start(w: &mut World, fuel: &mut u64) -> Result<Run, Crash> {
        let mut run = Run::new(w);
        w.known = Some(handover::program(w.program));
        for fact in w.journal.clone() {
            if matches!(fact, Fact::Note(Note::Sealed(_))) {
                run.unsealed.clear();
            }
            let actions = run.pipeline.handle(Event::Journaled(fact), run.now).unwrap();
            for action in actions {
                match action {
                    Action::Append { key, leaf, is_shown } => run.append(key, leaf, is_shown),
                    Action::Log(log) => run.log.extend(log.bytes),
                    other => panic!("{other:?} asked for during a replay"),
                }
            }
        }
        run.tell(w, Note::Started, fuel)?;
        let anchors = register::anchors(w);
        if run.pipeline.last_checkpoint().is_none() && *run.pipeline.anchors() != anchors {
            run.tell(w, Note::Anchors(anchors), fuel)?;
        }
        if !run.pipeline.is_based() {
            run.tell(
                w,
                Note::Base {
                    list_len: w.list.len() as u64,
                },
                fuel,
            )?;
        }
        run.tell(w, Signal::Replayed, fuel)?;
        if !run.pipeline.is_loaded() {
            for (id, parent, name) in [(1, 0, ""), (2, 1, "kubepods"), (3, 1, "system.slice")] {
                run.tell(
                    w,
                    Note::SeedCgroup {
                        id,
                        parent,
                        name: name.into(),
                    },
                    fuel,
                )?;
            }
            let list_len = w.list.len() as u64;
            run.tell(w, Note::Loaded { list_len }, fuel)?;
        }
        Ok(run)
    }

    /// Starts where nothing is in the journal, and loads nothing yet.
    fn unloaded(w: &mut World, fuel: &mut u64) -> Result<Run, Crash> {
        let mut run = Run::new(w);
        run.tell(w, Note::Started, fuel)?;
        run.tell(w, Note::Base { list_len: 2 }, fuel)?;
        run.tell(w, Signal::Replayed, fuel)?;
        Ok(run)
    }

    /// The programs are loaded, and the scan finds these cgroups: id, parent and name.
    fn finds<'a>(
        &mut self,
        w: &mut World,
        cgroups: impl IntoIterator<Item = (u64, u64, &'a str)>,
        fuel: &mut u64,
    ) -> Result<(), Crash> {
        for (id, parent, name) in cgroups {
            let name = name.into();
            self.tell(w, Note::SeedCgroup { id, parent, name }, fuel)?;
        }
        self.tell(w, Note::Loaded { list_len: 2 }, fuel)?;
        self.settle(w, fuel)
    }

    fn append(&mut self, key: PartitionKey, leaf: Vec<u8>, is_shown: bool) {
        if is_shown {
            let seq = Record::from_cbor(&leaf).unwrap().seq;
            self.unsealed.insert(seq, leaf.clone());
        }
        self.leaves.entry(key).or_default().push(leaf);
    }

    fn burn(fuel: &mut u64) -> Result<(), Crash> {
        *fuel = fuel.checked_sub(1).ok_or(Crash)?;
        Ok(())
    }

    fn tell(&mut self, w: &mut World, event: impl Into<Event>, fuel: &mut u64) -> Result<(), Crash> {
        Run::burn(fuel)?;
        let event = event.into();
        if let Event::Journaled(fact) = &event {
            w.journal.push(fact.clone());
            Run::burn(fuel)?;
        }
        let actions = self.pipeline.handle(event, self.now).unwrap();
        for action in actions {
            self.act(w, action, fuel)?;
        }
        Ok(())
    }

    fn act(&mut self, w: &mut World, action: Action, fuel: &mut u64) -> Result<(), Crash> {
        Run::burn(fuel)?;
        match action {
            Action::Append { key, leaf, is_shown } => self.append(key, leaf, is_shown),
            Action::ReadMarks => {
                let marks = w.inside.iter().map(|inside| inside.mark).collect();
                self.tell(w, Signal::Marks(marks), fuel)?;
            }
            Action::RunCanary => {
                w.next_tgid += 1;
                let tgid = w.next_tgid;
                w.happen(|seq| raw_exec(seq, 3, tgid, PROGRAM));
                self.tell(w, Signal::Canary { tgid: Some(tgid) }, fuel)?;
            }
            Action::TrySuccessor => {
                let tgid = w.try_program();
                self.tell(w, Signal::Canary { tgid }, fuel)?;
            }
            Action::LetIn { id, number, program } => {
                // Never before the verifier can know of it.
                let file = w.files.iter().rfind(|f| f.checkpoint.number == number).unwrap();
                assert!(w.list.iter().any(|e| e.content == file.digest()));
                assert!(file.checkpoint.collectors.as_ref().unwrap().counts(&program));
                w.known = Some(program);
                self.answers.push(id);
            }
            Action::PollList => {
                while let Some(entry) = w.list.get(self.stated).cloned() {
                    self.stated += 1;
                    self.tell(w, Signal::List(Box::new(entry)), fuel)?;
                }
                self.tell(w, Signal::ListPolled, fuel)?;
            }
            Action::ReadCounters => {
                if let Some(name) = w.late.take() {
                    w.happen(|seq| raw_entry(seq, 3, name, 0));
                }
                let c = Counters {
                    seq: w.seq,
                    reserve: w.lost,
                    recursion: 0,
                    read: 0,
                    attached: true,
                };
                self.tell(w, Signal::Counters(c), fuel)?;
            }
            Action::Name(_) if w.full => self.tell(w, Signal::NameRefused, fuel)?,
            Action::Name(stated) => self.tell(w, Note::Named(stated), fuel)?,
            Action::GiveUp { .. } if w.full => {}
            Action::GiveUp { through } => self.tell(w, Note::GaveUp { through }, fuel)?,
            Action::Seal(checkpoint) if w.full => {
                let (number, why) = (checkpoint.number, "no room".to_owned());
                self.tell(w, Signal::SealRefused { number, why }, fuel)?;
            }
            Action::Seal(checkpoint) => {
                w.check_seal(&checkpoint, &self.leaves);
                let file = SealedCheckpoint::seal(*checkpoint, &w.key);
                w.files.push(file.clone());
                self.unsealed.clear();
                self.tell(w, Note::Sealed(Box::new(file)), fuel)?;
            }
            Action::Anchor {
                place: Place::Rtmr(_),
                number,
            } => {
                register::extend(w, number);
                Run::burn(fuel)?;
                self.tell(w, Signal::AnchorWritten, fuel)?;
            }
            Action::ReadRegister { .. } => {
                register::meddle(w);
                let value = w.register;
                self.tell(w, Signal::Register { value }, fuel)?;
            }
            Action::ReadOthers { found } => {
                let log = w.others.clone();
                self.tell(w, Signal::Others { found, log }, fuel)?;
            }
            Action::NoteOthers(found) => self.tell(w, Note::Others(found), fuel)?,
            Action::Log(log) => self.log.extend(log.bytes),
            Action::Anchor { number, .. } => {
                if w.measures {
                    let name = format!("{DIRECTORY}{number}");
                    let file = w.files.iter().rfind(|f| f.checkpoint.number == number).unwrap();
                    let content = file.digest().to_vec();
                    let text = format!("{name}{}", hex::encode(&content));
                    let again = w.list.iter().any(|e| e.digests == digests(&text));
                    let ret = if again { EEXIST } else { 0 };
                    w.seq += 1;
                    let mut raw = raw_entry(w.seq, 3, &name, ret);
                    if let Body::Entry(e) = &mut raw.body {
                        e.digests = digests(&text);
                    }
                    w.ring.push_back(raw);
                    if !again {
                        let index = w.list.len() as u64;
                        let entry = JoinableEntry {
                            index,
                            digests: digests(&text),
                            name: name.into(),
                            content,
                            violation: false,
                            bytes: text.into(),
                        };
                        w.list.push(entry);
                    }
                }
                Run::burn(fuel)?;
                self.tell(w, Signal::AnchorWritten, fuel)?;
            }
            Action::Answer { id, number, .. } => {
                self.answers.push(number);
                while let Some(what) = w.meanwhile.pop_front() {
                    w.happens(&what);
                    // The quote covers what there is at some moment in between.
                    w.covered = w.covered.max(w.list.len() as u64);
                }
                w.covered = w.covered.max(w.list.len() as u64);
                let event = if w.mute {
                    Signal::Unquoted { id }
                } else {
                    Signal::Quoted { id }
                };
                self.tell(w, event, fuel)?;
            }
            Action::Assemble { id, in_flight } => {
                w.check_evidence(self, &in_flight, 2);
                w.shown.extend(self.unsealed.clone());
                w.marks = in_flight;
                self.evidence.push(id);
                Run::burn(fuel)?;
            }
            Action::Anchored { .. } => {}
            Action::Failed { error, .. } => self.failures.push(error),
        }
        Ok(())
    }

    /// Consumes one record: journal first, then the ring moves on, then it is handled.
    fn consume(&mut self, w: &mut World, fuel: &mut u64) -> Result<bool, Crash> {
        let Some(raw) = w.ring.front().cloned() else {
            return Ok(false);
        };
        Run::burn(fuel)?;
        let record = KernelRecord::Decoded(Box::new(raw));
        w.journal.push(Fact::Record(record.clone()));
        Run::burn(fuel)?;
        w.ring.pop_front();
        Run::burn(fuel)?;
        let actions = self.pipeline.handle(record, self.now).unwrap();
        for action in actions {
            self.act(w, action, fuel)?;
        }
        Ok(true)
    }

    /// Until nothing is left to do.
    fn settle(&mut self, w: &mut World, fuel: &mut u64) -> Result<(), Crash> {
        for _ in 0..100 {
            while self.consume(w, fuel)? {}
            if self.pipeline.is_idle() {
                return Ok(());
            }
            self.now += Duration::from_secs(1);
            self.tell(w, Signal::Tick, fuel)?;
        }
        panic!("never became idle: {:?}", self.pipeline.phase);
    }

    fn request(&mut self, w: &mut World, id: u64, fuel: &mut u64) -> Result<(), Crash> {
        self.tell(
            w,
            Signal::Request {
                id,
                nonce: vec![id as u8; 16],
            },
            fuel,
        )?;
        self.settle(w, fuel)
    }
}

/// What happens on the node, step by step.
fn script(w: &mut World, step: u64) {
    let mut made = 10;
    match step {
        0 => {
            w.happen(|s| raw_cgroup(s, 10, 2, POD_A));
            w.happen(|s| raw_cgroup(s, 11, 10, "container"));
            w.happen(|s| raw_exec(s, 11, 50, "/bin/app"));
            w.happen(|s| raw_entry(s, 11, "/bin/app", 0));
        }
        1 => {
            w.happen(|s| raw_cgroup(s, 20, 2, POD_B));
            w.happen(|s| raw_cgroup(s, 21, 20, "container"));
            w.happen(|s| raw_entry(s, 21, "/bin/app", EEXIST));
            w.happen(|s| loss::raw(s, 20, 9));
        }
        2 => w.happen(|s| raw_entry(s, 3, "/usr/bin/host tool", 0)),
        _ => {
            while made > 0 {
                w.happen(|s| raw_entry(s, 21, &format!("/lib/{s}"), 0));
                made -= 1;
            }
        }
    }
}

fn check_chain(w: &World) {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let key = key.verifying_key().to_encoded_point(true);
    let mut previous = [0; 32];
    let chain: Vec<&SealedCheckpoint> = w
        .journal
        .iter()
        .filter_map(|e| match e {
            Fact::Note(Note::Sealed(s)) => w.files.iter().find(|f| f.digest() == s.digest()),
            _ => None,
        })
        .collect();
    let mut at = 0;
    for (n, file) in chain.iter().enumerate() {
        file.verify(key.as_bytes()).unwrap();
        assert_eq!(
            file.checkpoint.number, n as u64,
            "no number twice and none left out"
        );
        assert_eq!(file.checkpoint.previous, previous);
        previous = file.digest();
        // Each stands in the list behind the one before.
        if w.has_list_anchor() {
            let here = w
                .list
                .iter()
                .position(|e| e.content == file.digest())
                .expect("anchored");
            assert!(here >= at);
            at = here;
        }
        assert!(!file.checkpoint.blind, "checkpoint {n} is blind");
        assert_eq!(file.checkpoint.losses.total(), w.lost);
    }
}

fn seqs(leaves: &BTreeMap<PartitionKey, Vec<Vec<u8>>>) -> BTreeMap<PartitionKey, Vec<u64>> {
    leaves
        .iter()
        .map(|(k, l)| (*k, l.iter().map(|r| Record::from_cbor(r).unwrap().seq).collect()))
        .collect()
}

#[test]
fn two_pods_and_the_host_are_told_apart_and_everything_settles() {
    let (mut w, mut run, mut fuel) = begun();
    for step in 0..4 {
        script(&mut w, step);
    }
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!((run.answers.as_slice(), run.failures.len()), (&[1][..], 0));
    check_chain(&w);
    let c = &w.files[1].checkpoint;
    assert_eq!(
        (c.boot_len, c.settled, c.list_len),
        (2, w.list.len() as u64 - 1, w.list.len() as u64 - 1)
    );
    assert_eq!(c.nonce_hash, Some(sha256(&[1; 16])));
    let by: BTreeMap<String, usize> = run.leaves.iter().map(|(k, l)| (k.to_string(), l.len())).collect();
    assert_eq!(by["11111111-1111-1111-1111-111111111111"], 2);
    assert_eq!(by["22222222-2222-2222-2222-222222222222"], 12);
    assert_eq!(by.len(), 3);
    // The record of the checkpoint's own entry comes after it.
    assert_eq!(
        c.records + 1,
        run.leaves.values().map(|l| l.len() as u64).sum::<u64>()
    );
}

#[test]
fn a_crash_at_any_point_loses_nothing_doubles_nothing_and_keeps_one_chain() {
    let places = [Place::Pcr10, Place::Rtmr(3)];
    for places in [&places[..1], &places[1..], &places] {
        crash_everywhere(places);
    }
}

fn crash_everywhere(places: &[Place]) {
    // First without a crash: how many steps there are.
    let total = {
        let (mut w, mut fuel) = (World::anchored_at(places), u64::MAX);
        play(&mut w, &mut fuel);
        u64::MAX - fuel
    };
    for crash_at in 0..total {
        let mut w = World::anchored_at(places);
        let mut fuel = crash_at;
        let done = play_until(&mut w, &mut fuel, 0);
        let mut fuel = u64::MAX;
        let run = match done {
            Ok(run) => run,
            Err((step, Crash)) => play_until(&mut w, &mut fuel, step).map_err(|e| e.0).unwrap(),
        };
        check_chain(&w);
        register::check(&w, &run);
        let mut all: Vec<u64> = seqs(&run.leaves).into_values().flatten().collect();
        all.sort_unstable();
        let mut expected: Vec<u64> = w
            .journal
            .iter()
            .filter_map(|e| match e {
                Fact::Record(KernelRecord::Decoded(r)) if !matches!(r.body, Body::Cgroup(_)) => Some(r.seq),
                _ => None,
            })
            .collect();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(all, expected, "{places:?}, crash at {crash_at}");
        assert!(w.ring.is_empty());
        assert_eq!(run.pipeline.unjoined(), 0, "{places:?}, crash at {crash_at}");
        let last = w.files.last().unwrap();
        assert_eq!(
            last.checkpoint.settled, last.checkpoint.list_len,
            "{places:?}, crash at {crash_at}"
        );
        // A second replay gives the very same partitions.
        let again = Run::start(&mut w, &mut u64::MAX.clone()).unwrap();
        assert_eq!(again.leaves, run.leaves);
        register::check(&w, &again);
    }
}

fn play(w: &mut World, fuel: &mut u64) {
    play_until(w, fuel, 0).map_err(|e| e.0).unwrap();
}

/// Plays the script from `step` on; a crash tells at which step it came.
fn play_until(w: &mut World, fuel: &mut u64, step: u64) -> Result<Run, (u64, Crash)> {
    let mut run = Run::start(w, fuel).map_err(|e| (step, e))?;
    run.settle(w, fuel).map_err(|e| (step, e))?;
    for step in step..4 {
        script(w, step);
        run.request(w, step, fuel).map_err(|e| (step + 1, e))?;
    }
    run.request(w, 99, fuel).map_err(|e| (4, e))?;
    Ok(run)
}

/// A node whose collector has sealed its first checkpoint, and fuel without an end.
fn begun() -> (World, Run, u64) {
    let (mut w, mut fuel) = (World::new(), u64::MAX);
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    (w, run, fuel)
}

#[test]
fn without_the_rule_the_request_fails_by_name_and_the_chain_goes_on_once_it_is_there() {
    let (mut w, mut fuel) = (World::new(), u64::MAX);
    w.measures = false;
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    assert_eq!(run.failures, [SealError::NotMeasured { number: 0 }]);
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!(run.failures.len(), 2);
    assert!(run.answers.is_empty());
    w.measures = true;
    run.request(&mut w, 2, &mut fuel).unwrap();
    assert_eq!(run.answers, [1]);
    check_chain(&w);
}

#[test]
fn a_seal_that_cannot_be_noted_fails_its_request_and_the_next_one_has_its_number() {
    let (mut w, mut run, mut fuel) = begun();
    script(&mut w, 0);
    w.full = true;
    for id in [1, 2] {
        run.request(&mut w, id, &mut fuel).unwrap();
    }
    let why = "no room".to_owned();
    let refused = SealError::Refused { number: 1, why };
    assert_eq!(run.failures, [refused.clone(), refused]);
    assert_eq!((run.answers.len(), w.files.len()), (0, 1));
    w.full = false;
    run.request(&mut w, 3, &mut fuel).unwrap();
    assert_eq!(run.answers, [1]);
    check_chain(&w);
    let appended: usize = run.leaves.values().map(Vec::len).sum();
    assert_eq!(w.files[1].checkpoint.records + 1, appended as u64);

    // What is lost is stated as soon as that can be noted, and not before.
    w.full = true;
    w.lose();
    let (id, nonce) = (4, vec![4; 16]);
    run.tell(&mut w, Signal::Request { id, nonce }, &mut fuel)
        .unwrap();
    for _ in 0..20 {
        while run.consume(&mut w, &mut fuel).unwrap() {}
        run.now += Duration::from_secs(1);
        run.tell(&mut w, Signal::Tick, &mut fuel).unwrap();
    }
    assert!(matches!(run.pipeline.phase, Phase::Draining { .. }));
    assert_eq!((run.failures.len(), w.files.len()), (2, 2));
    w.full = false;
    run.settle(&mut w, &mut fuel).unwrap();
    assert_eq!(run.answers, [1, 2]);
    assert_eq!(w.files[2].checkpoint.losses.reserve, 1);
}

#[test]
fn records_that_the_kernel_lost_are_stated_at_once_and_others_after_the_bound() {
    let (mut w, mut run, mut fuel) = begun();
    w.happen(|s| raw_entry(s, 3, "/a", 0));
    w.lose();
    w.happen(|s| raw_entry(s, 3, "/b", 0));
    let before = run.now;
    run.request(&mut w, 1, &mut fuel).unwrap();
    let c = &w.files.last().unwrap().checkpoint;
    assert_eq!((c.losses.reserve, c.losses.total()), (1, 1));
    assert!(
        run.now - before < Duration::from_secs(5),
        "no waiting for what is known to be lost"
    );

    // A hole that no counter explains: waited for, then stated as a loss.
    w.seq += 1;
    let before = run.now;
    run.request(&mut w, 2, &mut fuel).unwrap();
    let c = &w.files.last().unwrap().checkpoint;
    assert_eq!((c.losses.reserve, c.losses.spool), (1, 1));
    assert!(run.now - before >= Duration::from_secs(5));
    // What was stated stays stated, though the record came in the end.
    let seq = c.last_seq;
    assert!(run.pipeline.order.lost() > 0, "{seq}");
}

#[test]
fn switched_off_programs_make_the_checkpoint_blind() {
    let (mut w, mut run, mut fuel) = begun();
    // The canary runs and no record of it comes.
    let actions = run
        .pipeline
        .handle(
            Signal::Request {
                id: 1,
                nonce: vec![1; 16],
            },
            run.now,
        )
        .unwrap();
    assert_eq!(actions, [Action::RunCanary]);
    let actions = run
        .pipeline
        .handle(Signal::Canary { tgid: Some(4242) }, run.now)
        .unwrap();
    for action in actions {
        run.act(&mut w, action, &mut fuel).unwrap();
    }
    run.settle(&mut w, &mut fuel).unwrap();
    assert!(w.files.last().unwrap().checkpoint.blind);
}

#[test]
fn more_pods_older_than_the_load_than_a_checkpoint_can_name_make_it_blind() {
    for (pods, is_blind) in [(MAX_PREDATING, false), (MAX_PREDATING + 1, true)] {
        let mut w = World::new();
        let mut fuel = u64::MAX;
        let mut run = Run::unloaded(&mut w, &mut fuel).unwrap();
        let mut groups = vec![(1, 0, String::new()), (2, 1, "kubepods".to_owned())];
        groups.extend((0..pods).map(|n| (10 + n as u64, 2, format!("pod00000000-0000-4000-8000-{n:012x}"))));
        let found = groups
            .iter()
            .map(|(id, parent, name)| (*id, *parent, name.as_str()));
        run.finds(&mut w, found, &mut fuel).unwrap();
        run.request(&mut w, 1, &mut fuel).unwrap();
        let first = &w.files[0].checkpoint;
        assert_eq!((first.predating.len(), first.blind), (MAX_PREDATING, is_blind));
    }
}

#[test]
fn pods_older_than_the_load_are_named_in_checkpoint_0_only() {
    let mut w = World::new();
    let mut fuel = u64::MAX;
    let mut run = Run::unloaded(&mut w, &mut fuel).unwrap();
    // Pod B is made while the scan runs: the scan finds it, and its record says that it is new.
    w.happen(|s| raw_cgroup(s, 20, 2, POD_B));
    let found = [
        (1, 0, ""),
        (2, 1, "kubepods"),
        (3, 1, "x"),
        (10, 2, POD_A),
        (20, 2, POD_B),
    ];
    run.finds(&mut w, found, &mut fuel).unwrap();
    assert_eq!(run.pipeline.predating_pods(), 1);
    run.request(&mut w, 1, &mut fuel).unwrap();
    let uid = PodUid::parse(&POD_A.as_bytes()[3..]).unwrap();
    assert_eq!(w.files[0].checkpoint.predating, [uid]);
    assert!(w.files[0].checkpoint.key.is_some());
    assert!(w.files[1].checkpoint.predating.is_empty() && w.files[1].checkpoint.key.is_none());
}

#[test]
fn a_spool_that_was_altered_is_refused() {
    let (mut w, mut fuel) = (World::new(), u64::MAX);
    play(&mut w, &mut fuel);
    let at = w
        .journal
        .iter()
        .position(|e| {
            matches!(e, Fact::Record(KernelRecord::Decoded(r))
            if matches!(&r.body, Body::Entry(e) if e.name == "/bin/app".as_bytes()))
        })
        .unwrap();
    if let Fact::Record(KernelRecord::Decoded(raw)) = &mut w.journal[at]
        && let Body::Entry(e) = &mut raw.body
    {
        e.name = Bytes::from_static(b"/bin/other");
    }
    let mut pipeline = Pipeline::new(w.setup());
    let error = w.journal.iter().find_map(|fact| {
        pipeline
            .handle(Event::Journaled(fact.clone()), Duration::ZERO)
            .err()
    });
    assert!(matches!(
        error,
        Some(Error::Diverged {
            what: "partitions root",
            ..
        })
    ));
}

#[test]
fn enough_waiting_records_are_sealed_unasked() {
    let (mut w, mut fuel) = (World::new(), u64::MAX);
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.pipeline.setup.seal_records = 20;
    run.settle(&mut w, &mut fuel).unwrap();
    assert_eq!(w.files.len(), 1);
    for step in 0..5 {
        script(&mut w, step);
    }
    run.settle(&mut w, &mut fuel).unwrap();
    assert_eq!(w.files.len(), 2);
    assert_eq!(w.files[1].checkpoint.nonce_hash, None);
    check_chain(&w);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_of_arrival_gives_the_same_partitions_and_joins(
        order in Just((0usize..40).collect::<Vec<_>>()).prop_shuffle(),
        polls in prop::collection::vec(any::<bool>(), 40),
    ) {
        let run = |order: &[usize], polls: &[bool]| {
            let (mut w, mut fuel) = (World::new(), u64::MAX);
            let mut run = Run::start(&mut w, &mut fuel).unwrap();
            run.settle(&mut w, &mut fuel).unwrap();
            for step in 0..6 {
                script(&mut w, step);
            }
            let waiting: Vec<decode::Event> = w.ring.drain(..).collect();
            let mut sent = vec![false; waiting.len()];
            for (i, poll) in order.iter().zip(polls) {
                if let Some(raw) = waiting.get(*i) {
                    sent[*i] = true;
                    run.tell(&mut w, KernelRecord::Decoded(Box::new(raw.clone())), &mut fuel).unwrap();
                }
                if *poll && let Some(entry) = w.list.get(run.stated).cloned() {
                    run.stated += 1;
                    run.tell(&mut w, Signal::List(Box::new(entry)), &mut fuel).unwrap();
                }
            }
            for (raw, _) in waiting.iter().zip(&sent).filter(|(_, s)| !**s) {
                run.tell(&mut w, KernelRecord::Decoded(Box::new(raw.clone())), &mut fuel).unwrap();
            }
            run.request(&mut w, 1, &mut fuel).unwrap();
            check_chain(&w);
            (run.leaves, w.files.last().unwrap().file.clone())
        };
        let plain: Vec<usize> = (0..40).collect();
        prop_assert_eq!(run(&order, &polls), run(&plain, &[true; 40]));
    }
}
