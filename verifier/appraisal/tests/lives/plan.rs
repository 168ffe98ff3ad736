//! What a life is made of, before it is lived: the node's policy, and round by round who does what.
//!
//! Promise: a plan follows from its seed alone, and each part of it can be taken out or made usual, so that a
//! life in which something is wrong can be made small. Not here: what a step does (see `world`).

use cgpath_evidence::{EventKind, GuardAction};

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n`, without `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn pod(&mut self) -> u8 {
        1 + self.below(4) as u8
    }
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Pod(u8),
    Host,
    Collector,
    /// The runtime while it sets a pod up, in the pod's cgroup.
    Runtime(u8),
    /// In the pod's cgroup, and no runtime put it there.
    Intruder(u8),
    /// Nobody knows what it executed.
    Nameless(u8),
    /// Its cgroup is not known.
    Lost,
    /// A pod's process with the collector's path.
    LikeCollector(u8),
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// What the reference values have.
    Good,
    Evil,
    /// The runtime's own file.
    Runtime,
    ImaPolicy,
    /// A good one, hashed by another algorithm.
    OtherBank,
}

/// How a record of an execution states the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashed {
    Measured,
    PreCheck,
    Evil,
    Not,
}

/// What a record says of its file, beside what is usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Nothing,
    Nfs,
    /// An overlay whose layer is not known.
    NoLayer,
    /// A file system that nobody knows.
    Odd,
    /// Open for writing below the overlay.
    Written,
    /// Its number was another file's before.
    Reused,
    /// It lies in the layer of this pod's overlay, and is used there.
    Below(u8),
    /// All overlays have this layer.
    Shared,
}

/// What a record of a late mapping says of memory that looks like a memfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// As the kernel has it.
    Memfd,
    /// It has a name.
    Named,
    /// A file on a disk, with that path.
    Disk,
    /// On a tmpfs that somebody mounted.
    Tmpfs,
    /// It does not say what file it is.
    Silent,
    Cut,
    Hashed,
    Writable,
}

/// What the kernel is handed as bytes, or what a record says of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// A content that the host's reference values have.
    Known,
    /// One that only those of a pod have.
    OfPod,
    Evil,
    /// A known one, by a hash that is not one of these bytes.
    PreCheck,
    Unhashed,
    Kernel,
    /// It does not say what it was.
    Nothing,
    /// A record of another kind says it.
    Mapping,
}

/// What stands under a checkpoint's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The file that is a checkpoint's.
    Same,
    /// A checkpoint of another history.
    Other,
    /// No checkpoint at all.
    Module,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Run(Who, u8, Content),
    Measure(Who, u8, Content),
    /// A record of an execution alone; whether its path is cut.
    Use(Who, EventKind, u8, Hashed, bool),
    /// The same of what the reference values have, with what it says of its file.
    Says(Who, EventKind, u8, Said),
    /// The same with a mapping that is writable, too; or of another kind, which says so all the same.
    Writable(Who, EventKind, u8, Hashed),
    /// A record of this kind is about shared memory, or about what looks like it.
    Memory(Who, EventKind, Memory),
    /// The file that is in the layer of a pod's overlay is opened for writing there; what it says of it.
    WriteBelow(Who, u8, Said),
    /// The kernel is handed something as bytes.
    Load(Who, Handed),
    /// An entry whose record comes later.
    Late(Who, u8, Content),
    /// The same, held up inside of IMA: there is a mark.
    HeldUp(Who, u8, Content),
    /// The records that are late arrive, and the marks end.
    Arrive,
    Violate(Who, u8),
    Guard(Who, GuardAction, bool),
    Loss(u8),
    /// A pod is beyond its budget.
    PodLoss(Who, u8),
    Blind(bool),
    Protect(u8),
    /// What the runtime reports of pods' names.
    Named(u8),
    /// The runtime names a pod for the first time, and the collector records that.
    Name(u8),
    Fail(Who, u8, i32),
    /// An entry that IMA lists twice, each with its record. Of none that is older than the load: which of
    /// them an add is about, its digest does not tell.
    Twice(u8),
    Template(u8),
    OtherRegister,
    NeverExtended,
    Seal(Forgery),
    /// A new program of the collector is tried, and checkpoints name it from the next one on. It is one that
    /// the policy accepts, or another.
    HandOver(bool),

    // By the holder of the checkpoint key.
    /// An entry, or a violation, of which no record is made.
    Hide(Who, u8, Content),
    HideViolation(Who, u8),
    Invent(Who, u8),
    InventViolation(Who, u8),
    /// A second record says that it added the last entry.
    Double(Who),
    /// The last record is said to be another's; its cgroup says so, too.
    Reattribute(Who),
    /// It stands in another partition than its cgroup's.
    Misplace(u8),
    Withhold,
    Number(u8),
    BadRecord(u8),
    HalfGuard(Who, bool),
    HalfLoss(Who, bool),
    /// Somebody reads a file under the name of the checkpoint so many before the next one.
    Read(Who, u8, Fork),
    Mark(Who),
    Unmark,
    /// Of records that were sealed: one is altered, as if it had always been so.
    Rewrite(u8),
    /// The oldest record that waits for its seal, and was shown for that, is sealed as another one.
    Alter,
}

/// What is done to a checkpoint before it is signed, or where it should be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    No,
    /// What an honest collector states where records are late.
    Settled,
    ListLen(Set),
    SettledAt(Set),
    /// Both.
    Frozen(Set),
    Records(Set),
    Executions(Set),
    LastSeq(Set),
    Partitions(Set),
    Losses(u8, Set),
    Starts(Set),
    BootLen(Set),
    Numbered(Set),
    Blind,
    Bpf,
    Placed,
    Policy(bool),
    Key,
    Predating,
    Hierarchy,
    Protection(u8),
    /// What it says of which programs count as the collector.
    Collectors(u8),
    Previous,
    Boot,
    Root,
    Nonce(bool),
    OtherKey,
    /// It is not read, read twice, read by somebody else, by nobody; another file is read beside it.
    Unread,
    ReadTwice,
    ReadBy(Who),
    ReadByNobody,
    AndAnother(bool),
}

/// What a number is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// As in the checkpoint before.
    AsBefore,
    More,
    Less,
    LessThanBefore,
    OneMoreThanBefore,
    /// Up to the entry of the checkpoint before, and no further.
    Least,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    No,
    Reboot,
    Kexec,
    /// The collector was started anew.
    Restart,
    /// The same with a new program, one that the policy accepts, or another.
    Upgrade(bool),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub change: Change,
    pub steps: Vec<Step>,
    pub seal: Forgery,
    /// Between the seal and the quote.
    pub behind: Vec<Step>,
    /// Behind the quote.
    pub tail: u8,
    pub clock_goes_back: bool,
    pub old_nonce: bool,
    /// How the key is pinned: by itself, its name, not at all.
    pub pinned: u8,
    /// One failure is accepted afterwards.
    pub accept: bool,
    pub other_policy: bool,
    /// The tenant that is asked.
    pub tenant: u8,
}

/// The node's make and its policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Setup {
    /// 0: bpf; 1: kernel, 2: kernel with records.
    pub tier: u8,
    pub banks: u8,
    pub padded: bool,
    pub boot: bool,
    pub templates: u8,
    pub excludes_host: bool,
    pub excludes_pods: bool,
    pub runtime_files: bool,
    pub runtimes: bool,
    pub sandbox: bool,
    pub learned: bool,
    pub lost: u8,
    pub unattributed: u8,
    pub permit: bool,
    pub least: u8,
    pub tpm_untrust: bool,
    pub tolerate: u16,
    pub predating: u8,
    pub predating_pods: u8,
    pub kexec: bool,
    pub bpf_objects: u8,
    /// Two pods have one volume.
    pub volume: bool,
    /// Records say what file it is.
    pub identifies: bool,
    /// Which file systems are permitted.
    pub file_systems: u8,
    /// Pods 1 and 2 are trusted with code in shared memory.
    pub shared_memory_code: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub setup: Setup,
    pub rounds: Vec<Round>,
}

const SETS: [Set; 6] = [
    Set::AsBefore,
    Set::More,
    Set::Less,
    Set::LessThanBefore,
    Set::OneMoreThanBefore,
    Set::Least,
];

/// How many paths there are: see `world::path`.
pub const PATHS: usize = 34;
/// Of these, the first that is one of the host's many files.
pub const HOSTS: usize = 24;

const EXECUTIONS: [EventKind; 4] = [
    EventKind::Execution,
    EventKind::Script,
    EventKind::Mapping,
    EventKind::LateMapping,
];

pub const ACTIONS: [GuardAction; 16] = [
    GuardAction::MapOpened,
    GuardAction::MapRead,
    GuardAction::ProgramOpened,
    GuardAction::LinkOpened,
    GuardAction::LinkChanged,
    GuardAction::PinRemoved,
    GuardAction::PinRenamed,
    GuardAction::DirectoryRemoved,
    GuardAction::Unmounted,
    GuardAction::Traced,
    GuardAction::TpmOpened,
    GuardAction::TpmUnbound,
    GuardAction::FtraceOpened,
    GuardAction::ExecutionDenied,
    GuardAction::MappingDenied,
    GuardAction::ExecutionDeniedOnLoss,
];

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let r = &mut Random(seed);
        let setup = if r.percent(70) {
            Setup::random(r)
        } else {
            Setup::usual()
        };
        let rounds = 2 + r.below(4);
        let odd = [
            r.below(rounds),
            if r.percent(40) { r.below(rounds) } else { rounds },
        ];
        let mut plan = Plan {
            rounds: (0..rounds).map(|n| Round::random(r, odd.contains(&n))).collect(),
            setup,
        };
        // By draws of their own, so that a seed's life is otherwise what it was before there were these.
        let r = &mut Random(seed ^ 0x1de4_7174);
        plan.setup.identifies = r.percent(60);
        plan.setup.file_systems = if r.percent(25) { r.below(3) as u8 } else { 0 };
        for round in &mut plan.rounds {
            for _ in 0..if r.percent(25) { 1 + r.below(2) } else { 0 } {
                let at = r.below(round.steps.len() + 1);
                round.steps.insert(at, Step::of_file(r));
            }
        }
        let r = &mut Random(seed ^ 0x0077_2b78);
        for round in &mut plan.rounds {
            // Rarely: who has done it is not trusted for the rest of the boot.
            if !r.percent(2) {
                continue;
            }
            let (at, who, own) = (r.below(round.steps.len() + 1), Who::any(r), r.below(4) as u8);
            let mappings = [EventKind::Mapping, EventKind::LateMapping];
            let kind = if r.percent(85) {
                r.one_of(&mappings)
            } else {
                r.one_of(&EXECUTIONS)
            };
            let hashed = r.one_of(&[Hashed::PreCheck, Hashed::PreCheck, Hashed::Not, Hashed::Evil]);
            round.steps.insert(at, Step::Writable(who, kind, own, hashed));
        }
        let r = &mut Random(seed ^ 0x006d_656d);
        plan.setup.shared_memory_code = r.percent(50);
        for round in &mut plan.rounds {
            // Of what fails by it, `all_odd` has each case: who has done it once is not trusted for long.
            if plan.setup.shared_memory_code && r.percent(20) {
                let step = Step::Memory(
                    Who::Pod(1 + r.below(2) as u8),
                    EventKind::LateMapping,
                    Memory::Memfd,
                );
                drop(round.steps.splice(0..0, vec![step; 1 + r.below(3)]));
            }
        }
        let r = &mut Random(seed ^ 0x6e61_6d65);
        for round in &mut plan.rounds {
            // Rarely: until it runs, the verdict as a whole is not trusted.
            if r.percent(10) {
                let at = r.below(round.steps.len() + 1);
                round.steps.insert(at, Step::Name(r.pod()));
            }
        }
        plan
    }
}

impl Setup {
    pub fn usual() -> Setup {
        Setup {
            least: 1,
            ..Setup::default()
        }
    }

    fn random(r: &mut Random) -> Setup {
        let mut number = |chance: usize, below: usize| if r.percent(chance) { r.below(below) } else { 0 };
        let tier = number(12, 3) as u8;
        let (lost, unattributed) = (number(20, 4) as u8, number(20, 4) as u8);
        let (banks, templates) = (number(25, 4) as u8, number(20, 3) as u8);
        let (predating, predating_pods) = (number(25, 32) as u8, number(60, 3) as u8);
        let (tolerate, bpf_objects) = (number(20, 1 << 13) as u16, number(15, 3) as u8);
        let least = if number(15, 2) == 0 {
            1
        } else {
            2 * number(50, 2) as u8
        };
        Setup {
            tier,
            banks,
            padded: r.percent(6),
            boot: r.percent(25),
            templates,
            excludes_host: r.percent(20),
            excludes_pods: r.percent(20),
            runtime_files: r.percent(40),
            runtimes: r.percent(8),
            sandbox: r.percent(20),
            learned: r.percent(20),
            lost,
            unattributed,
            permit: r.percent(20),
            least,
            tpm_untrust: r.percent(20),
            tolerate,
            predating,
            predating_pods,
            kexec: r.percent(25),
            bpf_objects,
            volume: r.percent(40),
            identifies: false,
            file_systems: 0,
            shared_memory_code: false,
        }
    }
}

impl Round {
    pub fn quiet() -> Round {
        Round {
            change: Change::No,
            steps: Vec::new(),
            seal: Forgery::Settled,
            behind: Vec::new(),
            tail: 0,
            clock_goes_back: false,
            old_nonce: false,
            pinned: 0,
            accept: false,
            other_policy: false,
            tenant: 1,
        }
    }

    fn random(r: &mut Random, is_odd: bool) -> Round {
        let mut steps = vec![Step::Arrive];
        steps.extend((0..r.below(6)).map(|_| Step::usual(r)));
        // A checkpoint behind the one for the request would be an odd thing.
        let mut behind: Vec<Step> = (0..r.below(3)).map(|_| Step::usual(r)).collect();
        behind.retain(|step| !matches!(step, Step::Seal(_)));
        if is_odd && r.percent(90) {
            for _ in 0..1 + r.below(4) / 3 {
                let steps = if r.percent(25) { &mut behind } else { &mut steps };
                steps.insert(r.below(steps.len() + 1), Step::odd(r));
            }
        }
        let changes = [
            Change::Reboot,
            Change::Kexec,
            Change::Restart,
            Change::Restart,
            Change::Upgrade(true),
        ];
        Round {
            change: if r.percent(if is_odd { 12 } else { 3 }) {
                r.one_of(&changes)
            } else {
                Change::No
            },
            steps,
            seal: if is_odd && r.percent(25) {
                Forgery::random(r)
            } else {
                Forgery::Settled
            },
            behind,
            tail: if r.percent(20) { r.below(4) as u8 } else { 0 },
            clock_goes_back: is_odd && r.percent(3),
            old_nonce: is_odd && r.percent(3),
            pinned: if r.percent(5) { r.below(3) as u8 } else { 0 },
            accept: r.percent(12),
            other_policy: r.percent(3),
            tenant: r.pod(),
        }
    }
}

impl Who {
    fn usual(r: &mut Random) -> Who {
        match r.below(8) {
            0..=4 => Who::Pod(r.pod()),
            5 | 6 => Who::Host,
            _ => Who::Runtime(r.pod()),
        }
    }

    fn any(r: &mut Random) -> Who {
        if r.percent(60) {
            return Who::usual(r);
        }
        let n = 1 + r.below(5) as u8;
        let others = [
            Who::Intruder(n),
            Who::Nameless(n),
            Who::Lost,
            Who::LikeCollector(n),
        ];
        r.one_of(&[&others[..], &[Who::Collector, Who::Pod(9)]].concat())
    }
}

impl Content {
    fn any(r: &mut Random) -> Content {
        let others = [
            Content::Evil,
            Content::Evil,
            Content::Runtime,
            Content::ImaPolicy,
            Content::OtherBank,
        ];
        if r.percent(30) {
            Content::Good
        } else {
            r.one_of(&others)
        }
    }
}

impl Step {
    /// What honest nodes do all the time. Paths are those that the reference values have.
    fn usual(r: &mut Random) -> Step {
        let host = (HOSTS + r.below(PATHS - HOSTS)) as u8;
        let (n, own) = (r.pod(), r.below(2) as u8);
        match r.below(20) {
            0..=5 => Step::Run(Who::Pod(n), own, Content::Good),
            6..=8 => Step::Run(Who::Host, r.one_of(&[2, 3, 4]), Content::Good),
            9..=11 => Step::Measure(Who::Host, host, Content::Good),
            12 => Step::Use(Who::Pod(n), r.one_of(&EXECUTIONS), own, Hashed::PreCheck, false),
            13 | 14 => Step::Seal(Forgery::Settled),
            15 => Step::Late(Who::Host, host, Content::Good),
            16 => Step::HeldUp(Who::Pod(n), own, Content::Good),
            17 => Step::Run(Who::Runtime(n), own, Content::Good),
            18 => Step::Run(Who::Pod(1 + n % 2), 21, Content::Good),
            _ => Step::Measure(Who::Pod(n), own, Content::Good),
        }
    }

    /// What a record says of its file, usual or not, in a place where others use the same.
    fn of_file(r: &mut Random) -> Step {
        let said = r.one_of(&Said::ALL);
        let (who, own) = (Who::usual(r), r.one_of(&[0, 1, 1, 21]));
        match r.below(3) {
            0 => Step::WriteBelow(who, own, said),
            _ => Step::Says(who, r.one_of(&EXECUTIONS), own, said),
        }
    }

    fn odd(r: &mut Random) -> Step {
        let (who, path, content) = (Who::any(r), r.below(PATHS) as u8, Content::any(r));
        let small = r.below(8) as u8;
        match r.below(48) {
            0..=3 => Step::Run(who, path, content),
            4 | 5 => Step::Measure(who, path, content),
            6 | 7 => {
                let hashes = [Hashed::Measured, Hashed::PreCheck, Hashed::Evil, Hashed::Not];
                Step::Use(who, r.one_of(&EXECUTIONS), path, r.one_of(&hashes), r.percent(20))
            }
            8 => Step::Late(who, path, content),
            9 | 10 => Step::HeldUp(who, path, content),
            11 | 12 => Step::Violate(who, r.one_of(&[path, path, 21])),
            13 | 14 => Step::Guard(who, r.one_of(&ACTIONS), r.percent(40)),
            // Of the pod as often as of the node.
            15 if small >= 4 && small % 4 == 3 => Step::HalfLoss(who, path % 2 == 0),
            15 if small >= 4 => Step::PodLoss(who, small),
            15 => Step::Loss(small),
            16 => Step::Blind(r.percent(70)),
            17 => Step::Protect(small),
            18 => Step::Named(small),
            19 => Step::Fail(who, path, r.one_of(&[-5, -17, 1, -12])),
            20 => Step::Twice((HOSTS + r.below(PATHS - HOSTS)) as u8),
            21 => Step::Template(small),
            22 => Step::OtherRegister,
            23 => Step::NeverExtended,
            24..=27 => Step::Seal(Forgery::random(r)),
            28..=30 => Step::Hide(who, path, content),
            31 => Step::HideViolation(who, path),
            32 => Step::Invent(who, path),
            33 => Step::InventViolation(who, path),
            34 => Step::Double(who),
            35 | 36 => Step::Reattribute(Who::any(r)),
            37 => Step::Misplace(r.pod()),
            38 => Step::Withhold,
            39 => Step::Number(small),
            40 => Step::BadRecord(small),
            41 => Step::HalfGuard(who, r.percent(50)),
            42 => Step::Read(who, small, r.one_of(&[Fork::Same, Fork::Other, Fork::Module])),
            43 => Step::Read(
                Who::Collector,
                small,
                r.one_of(&[Fork::Same, Fork::Other, Fork::Module]),
            ),
            44 => r.one_of(&[Step::Mark(who), Step::Unmark, Step::Alter]),
            45 => Step::HandOver(small > 0),
            46 => Step::Load(who, r.one_of(&Handed::ALL)),
            _ => Step::Rewrite(small),
        }
    }
}

impl Memory {
    pub const ALL: [Memory; 8] = [
        Memory::Memfd,
        Memory::Named,
        Memory::Disk,
        Memory::Tmpfs,
        Memory::Silent,
        Memory::Cut,
        Memory::Hashed,
        Memory::Writable,
    ];
}

impl Handed {
    pub const ALL: [Handed; 8] = [
        Handed::Known,
        Handed::OfPod,
        Handed::Evil,
        Handed::PreCheck,
        Handed::Unhashed,
        Handed::Kernel,
        Handed::Nothing,
        Handed::Mapping,
    ];
}

impl Said {
    pub const ALL: [Said; 9] = [
        Said::Nothing,
        Said::Nfs,
        Said::NoLayer,
        Said::Odd,
        Said::Written,
        Said::Reused,
        Said::Below(1),
        Said::Below(2),
        Said::Shared,
    ];
}

impl Step {
    /// Each kind of odd step, with what it can be about.
    pub fn all_odd() -> Vec<Step> {
        let who = [Who::Host, Who::Pod(3), Who::Pod(9)];
        let (evil, five) = (Content::Evil, 5);
        let mut all: Vec<Step> = (0..7)
            .map(Step::BadRecord)
            .chain((0..6).map(Step::Number))
            .collect();
        for who in who {
            all.extend([
                Step::Run(who, 0, Content::Good),
                Step::Run(who, five, evil),
                Step::Measure(who, five, evil),
                Step::Late(who, five, evil),
                Step::HeldUp(who, five, evil),
                Step::Hide(who, five, evil),
                Step::Violate(who, five),
                Step::HideViolation(who, five),
                Step::Invent(who, five),
                Step::InventViolation(who, five),
                Step::Double(who),
                Step::Reattribute(who),
                Step::Mark(who),
                Step::Fail(who, 0, -12),
                Step::HalfGuard(who, true),
                Step::HalfGuard(who, false),
                Step::HalfLoss(who, true),
                Step::HalfLoss(who, false),
                Step::PodLoss(who, 1),
                Step::Guard(who, GuardAction::Traced, true),
                Step::Guard(who, GuardAction::ExecutionDenied, true),
                Step::Read(who, 1, Fork::Same),
                Step::Read(who, 0, Fork::Other),
            ]);
        }
        for kind in EXECUTIONS {
            all.push(Step::Use(Who::Pod(2), kind, 0, Hashed::Not, false));
            all.push(Step::Use(Who::Pod(2), kind, 0, Hashed::Measured, true));
            all.push(Step::Use(Who::Pod(2), kind, five, Hashed::Evil, false));
            all.push(Step::Writable(Who::Pod(2), kind, 0, Hashed::PreCheck));
            all.push(Step::Writable(Who::Host, kind, 2, Hashed::PreCheck));
        }
        all.push(Step::Writable(Who::Pod(9), EventKind::Mapping, 0, Hashed::Not));
        all.push(Step::Writable(Who::Lost, EventKind::Mapping, 2, Hashed::PreCheck));
        for memory in Memory::ALL {
            all.push(Step::Memory(Who::Pod(2), EventKind::LateMapping, memory));
            all.push(Step::Memory(Who::Host, EventKind::LateMapping, memory));
        }
        for kind in EXECUTIONS {
            all.push(Step::Memory(Who::Pod(1), kind, Memory::Memfd));
        }
        all.push(Step::Memory(Who::Pod(9), EventKind::LateMapping, Memory::Memfd));
        all.push(Step::Memory(
            Who::Intruder(1),
            EventKind::LateMapping,
            Memory::Memfd,
        ));
        for said in Said::ALL {
            all.push(Step::Says(Who::Pod(2), EventKind::Mapping, 1, said));
            all.push(Step::Says(Who::Host, EventKind::Execution, 2, said));
            all.push(Step::WriteBelow(Who::Host, 0, said));
            all.push(Step::WriteBelow(Who::Pod(4), 1, said));
        }
        for handed in Handed::ALL {
            all.push(Step::Load(Who::Host, handed));
            all.push(Step::Load(Who::Pod(2), handed));
        }
        for fork in [Fork::Same, Fork::Other, Fork::Module] {
            all.extend((0..3).map(|back| Step::Read(Who::Collector, back, fork)));
        }
        let simple = [
            Step::Loss(0),
            Step::Blind(true),
            Step::Protect(0),
            Step::Named(1),
            Step::Name(2),
            Step::Name(9),
            Step::Twice(30),
            Step::Template(0),
            Step::OtherRegister,
            Step::NeverExtended,
            Step::Misplace(2),
            Step::Withhold,
            Step::Rewrite(0),
            Step::Alter,
            Step::HandOver(true),
            Step::HandOver(false),
        ];
        all.extend(simple);
        all
    }
}

impl Forgery {
    /// Each field, and each way in which it can be set.
    pub fn all() -> Vec<Forgery> {
        const FIELDS: [fn(Set) -> Forgery; 11] = [
            Forgery::ListLen,
            Forgery::SettledAt,
            Forgery::Frozen,
            Forgery::Records,
            Forgery::Executions,
            Forgery::LastSeq,
            Forgery::Partitions,
            Forgery::Starts,
            Forgery::BootLen,
            Forgery::Numbered,
            |set| Forgery::Losses(3, set),
        ];
        let numbers = FIELDS.iter().flat_map(|field| SETS.map(field));
        let losses = (0..3).map(|kind| Forgery::Losses(kind, Set::Less));
        let protections = (0..4).map(Forgery::Protection);
        let collectors = (0..6).map(Forgery::Collectors);
        let readers = [Who::Host, Who::Pod(1), Who::LikeCollector(2), Who::Lost].map(Forgery::ReadBy);
        let either = [true, false];
        let simple = [
            Forgery::No,
            Forgery::Settled,
            Forgery::Blind,
            Forgery::Bpf,
            Forgery::Placed,
            Forgery::Key,
            Forgery::Predating,
            Forgery::Hierarchy,
            Forgery::Previous,
            Forgery::Boot,
            Forgery::Root,
            Forgery::OtherKey,
            Forgery::Unread,
            Forgery::ReadTwice,
            Forgery::ReadByNobody,
        ];
        numbers
            .chain(losses)
            .chain(protections)
            .chain(collectors)
            .chain(readers)
            .chain(either.map(Forgery::Policy))
            .chain(either.map(Forgery::Nonce))
            .chain(either.map(Forgery::AndAnother))
            .chain(simple)
            .collect()
    }

    fn random(r: &mut Random) -> Forgery {
        let (set, all) = (r.one_of(&SETS), Forgery::all());
        match r.below(24) {
            0..=2 => Forgery::ListLen(set),
            3 | 4 => Forgery::SettledAt(set),
            5..=7 => Forgery::Frozen(set),
            _ => r.one_of(&all),
        }
    }
}

impl Plan {
    /// Plans that have less in them than this one.
    pub fn smaller(&self) -> Vec<Plan> {
        let mut all = Vec::new();
        for n in (0..self.rounds.len()).rev().filter(|_| self.rounds.len() > 1) {
            let mut less = self.clone();
            less.rounds.remove(n);
            all.push(less);
        }
        for setup in self.setup.smaller() {
            all.push(Plan {
                setup,
                ..self.clone()
            });
        }
        for (n, round) in self.rounds.iter().enumerate() {
            for round in round.smaller() {
                let mut less = self.clone();
                less.rounds[n] = round;
                all.push(less);
            }
        }
        all
    }
}

impl Setup {
    fn smaller(&self) -> Vec<Setup> {
        let usual = Setup::usual();
        let parts: [fn(&mut Setup, &Setup); 25] = [
            |s, u| s.tier = u.tier,
            |s, u| s.banks = u.banks,
            |s, u| s.padded = u.padded,
            |s, u| s.boot = u.boot,
            |s, u| s.templates = u.templates,
            |s, u| s.excludes_host = u.excludes_host,
            |s, u| s.excludes_pods = u.excludes_pods,
            |s, u| s.runtime_files = u.runtime_files,
            |s, u| s.runtimes = u.runtimes,
            |s, u| s.sandbox = u.sandbox,
            |s, u| s.learned = u.learned,
            |s, u| s.lost = u.lost,
            |s, u| s.unattributed = u.unattributed,
            |s, u| s.permit = u.permit,
            |s, u| s.least = u.least,
            |s, u| s.tpm_untrust = u.tpm_untrust,
            |s, u| s.tolerate = u.tolerate,
            |s, u| s.predating = u.predating,
            |s, u| s.predating_pods = u.predating_pods,
            |s, u| s.kexec = u.kexec,
            |s, u| s.bpf_objects = u.bpf_objects,
            |s, u| s.volume = u.volume,
            |s, u| s.identifies = u.identifies,
            |s, u| s.file_systems = u.file_systems,
            |s, u| s.shared_memory_code = u.shared_memory_code,
        ];
        let reset = parts.into_iter().map(|part| {
            let mut less = self.clone();
            part(&mut less, &usual);
            less
        });
        let all = [usual.clone()].into_iter().chain(reset);
        all.filter(|less| less != self).collect()
    }
}

impl Round {
    fn smaller(&self) -> Vec<Round> {
        let quiet = Round::quiet();
        let parts: [fn(&mut Round, &Round); 9] = [
            |r, q| r.change = q.change,
            |r, q| r.seal = q.seal,
            |r, q| r.tail = q.tail,
            |r, q| r.clock_goes_back = q.clock_goes_back,
            |r, q| r.old_nonce = q.old_nonce,
            |r, q| r.pinned = q.pinned,
            |r, q| r.accept = q.accept,
            |r, q| r.other_policy = q.other_policy,
            |r, q| r.tenant = q.tenant,
        ];
        let mut all = Vec::new();
        for part in parts {
            let mut less = self.clone();
            part(&mut less, &quiet);
            all.push(less);
        }
        for n in 0..self.steps.len() {
            let mut less = self.clone();
            less.steps.remove(n);
            all.push(less);
        }
        for n in 0..self.behind.len() {
            let mut less = self.clone();
            less.behind.remove(n);
            all.push(less);
        }
        all.retain(|less| less != self);
        all
    }
}
