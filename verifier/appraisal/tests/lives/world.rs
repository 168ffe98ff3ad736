//! A node that lives a plan, and the policy that it is judged by.
//!
//! Promise: of each entry it is known who truly caused it, whatever the records say. Not here: what must come
//! out.

use super::plan::{
    Change, Content, Fork, HOSTS, Handed, Hashed, Memory, PATHS, Round, Said, Setup, Step, Who,
};
use cgpath_evidence::boot::boot_aggregate;
use cgpath_evidence::record::ExeSource;
use cgpath_evidence::{
    Ancestor, Bank, Digest, EventKind, Evidence, FileHash, Guard, GuardAction, GuardMode, Identity,
    LayerFile, Load, Loaded, PartitionKey, PodInfo, PodLoss, Record, Tier,
    cgroup::partition_of,
    checkpoint,
    record::{OVERLAYFS_MAGIC, TMPFS_MAGIC, UNLINKED_MEMORY_DEVICE},
};
use cgpath_refvals::learned_boot::from_boot;
use cgpath_testkit::{
    Actor, COLLECTOR, EXT4, EXT4_DEVICE, IMA_POLICY, KeyKind, Measurement, Node, SHIM, pod, sha256,
};
use p256::ecdsa::SigningKey;

pub const LIBRARY: &str = "/data/lib.so";

const RUNC: &str = "/usr/bin/runc";

/// A new program of the collector: one that the policy accepts, or another.
pub fn upgrade(is_accepted: bool) -> Digest {
    let content = if is_accepted {
        "the next collector"
    } else {
        "another collector"
    };
    sha256(content.as_bytes())
}

pub fn path(number: u8) -> Vec<u8> {
    let number = usize::from(number) % PATHS;
    let named: [&[u8]; HOSTS] = [
        b"/bin/app",
        b"/lib/libc.so",
        b"/usr/bin/tool",
        RUNC.as_bytes(),
        b"/sbin/init",
        b"/opt/a b",
        b"/opt/x/skip",
        b"/opt/\xff\xfe",
        b"{\"hex\":\"00\"}",
        b"relative",
        b"",
        b"/pause",
        b"/run/ima-cgpath/checkpoint/0",
        b"/run/ima-cgpath/checkpoint/1",
        b"/run/ima-cgpath/checkpoint/99",
        COLLECTOR.as_bytes(),
        IMA_POLICY.as_bytes(),
        b"boot_aggregate",
        cgpath_evidence::probe::RUN_PATH.as_bytes(),
        b"/opt/a_b",
        b"/var/log/some",
        LIBRARY.as_bytes(),
        SHIM.as_bytes(),
        b"/opt/new\nline",
    ];
    match named.get(number) {
        Some(path) => path.to_vec(),
        None => format!("/usr/lib/host-{}", number - HOSTS).into_bytes(),
    }
}

pub fn actor(who: Who) -> Actor {
    let in_pod = |n: u8, exes: &[&[u8]]| Actor {
        cgroup: Actor::pod(pod(n), "/bin/app").cgroup,
        exes: exes.iter().map(|exe| exe.to_vec()).collect(),
    };
    match who {
        Who::Pod(n) => Actor::pod(pod(n), "/bin/app"),
        Who::Host => Actor::host("/sbin/init"),
        Who::Collector => Actor {
            cgroup: Some(b"/system.slice/cgpathd.service".to_vec()),
            ..Actor::host(COLLECTOR)
        },
        Who::Runtime(n) => in_pod(n, &[RUNC.as_bytes(), SHIM.as_bytes(), b"/sbin/init"]),
        Who::Intruder(n) => Actor::intruder(pod(n), "/bin/app"),
        Who::Nameless(n) => in_pod(n, &[b"/bin/\xff app", b"", SHIM.as_bytes()]),
        Who::Lost => Actor::lost("/bin/app"),
        Who::LikeCollector(n) => in_pod(n, &[COLLECTOR.as_bytes(), SHIM.as_bytes()]),
    }
}

/// An entry whose record is late, and the thread that has a mark for it.
struct Late {
    actor: Actor,
    path: Vec<u8>,
    entry: Measurement,
    tid: Option<u32>,
}

pub struct World {
    pub node: Node,
    /// Of each entry of the list, who caused it.
    pub truth: Vec<PartitionKey>,
    /// Entries of kernels that were there before one was started by kexec.
    pub before_kexec: usize,
    /// Checkpoint files of these.
    pub files_before: Vec<Vec<u8>>,
    late: Vec<Late>,
}

impl World {
    pub fn new(setup: &Setup) -> World {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        for path in (HOSTS..PATHS).map(|n| path(n as u8)) {
            node.host_files.insert(path.clone(), [sha256(&path)].into());
        }
        let of_collector = node.host_files.get_mut(COLLECTOR.as_bytes()).unwrap();
        of_collector.insert(upgrade(true));
        for n in 1..=2 {
            let files = node.pod_files.get_mut(&pod(n)).unwrap();
            files.insert(LIBRARY.into(), [sha256(LIBRARY.as_bytes())].into());
        }
        let files = node.pod_files.get_mut(&pod(3)).unwrap();
        files.insert(b"/opt/a b".to_vec(), [sha256(b"/opt/a b")].into());
        if setup.volume {
            node.shared.insert(LIBRARY.into(), (77, 5));
        }
        if setup.boot {
            node = node.with_boot(|_| ());
            node.extra_policy = from_boot(
                node.clone()
                    .attest(b"a boot to learn from")
                    .boot
                    .as_ref()
                    .unwrap(),
            )
            .unwrap()
            .yaml();
        }
        // The test's firmware log knows two banks.
        match (setup.boot, setup.banks) {
            (false, 1) => node.banks = vec![Bank::Sha1, Bank::Sha256],
            (_, 2) => {
                node.banks = vec![Bank::Sha256, Bank::Sha1];
                node.accept_banks = "[sha1, sha256]".into();
                node.extra_policy = "dangerous-boot-not-judged: true\n".into();
            }
            (false, 3) => node.banks = vec![Bank::Sha384, Bank::Sha256],
            _ => {}
        }
        if setup.padded && !setup.boot {
            node.banks = vec![Bank::Sha256, Bank::Sha384];
            node.padded = [Bank::Sha384].into();
        }
        let templates = ["[ima-ng]", "[ima-ng, ima-sig]", "[ima-cgpath, ima-ng]"];
        node.accept_templates = templates[usize::from(setup.templates) % 3].into();
        node.learned = setup.learned;
        node.identifies = setup.identifies;
        node.predating = (1..=5)
            .filter(|n| setup.predating >> (n - 1) & 1 == 1)
            .map(pod)
            .collect();
        if setup.tier > 0 {
            node.tier = Tier::Kernel;
            node.recorded = setup.tier == 2;
            node.accept_templates = "[ima-ng, ima-cgpath]".into();
        }
        let mut world = World {
            node,
            truth: Vec::new(),
            before_kexec: 0,
            files_before: Vec::new(),
            late: Vec::new(),
        };
        world.load();
        world
    }

    fn load(&mut self) {
        let node = &mut self.node;
        node.load();
        if node.tier == Tier::Kernel && !node.recorded {
            // Everything but the first entry is tagged.
            node.list.truncate(1);
            node.waiting.clear();
            node.checkpoints.clear();
            for file in ["/sbin/init", IMA_POLICY, COLLECTOR] {
                node.measure(&actor(Who::Host), file, &sha256(file.as_bytes()));
            }
        }
        self.late.clear();
        self.before_kexec = 0;
        self.files_before.clear();
        self.truth.clear();
        let boot = usize::try_from(self.node.boot_len)
            .unwrap()
            .min(self.node.list.len());
        self.truth.resize(boot, PartitionKey::Boot);
        self.caused_by(PartitionKey::Host);
    }

    /// What is new in the list is this one's.
    fn caused_by(&mut self, key: PartitionKey) {
        self.truth.resize(self.node.list.len(), key);
    }

    pub fn change(&mut self, change: Change) {
        match change {
            Change::No => {}
            Change::Restart => {
                self.node.starts += 1;
                if let Some(collectors) = &mut self.node.collectors {
                    collectors.successor = None;
                }
            }
            Change::Upgrade(is_accepted) => {
                self.node.restart(&upgrade(is_accepted));
                self.caused_by(PartitionKey::Host);
            }
            Change::Reboot => {
                self.node.reboot();
                self.load();
            }
            Change::Kexec if self.node.tier == Tier::Kernel && !self.node.recorded => {}
            Change::Kexec => {
                let node = &mut self.node;
                let boot = node.boot_id[0].wrapping_add(64);
                node.boot_id = [boot; 16];
                node.signing = SigningKey::from_slice(&[boot.max(1); 32]).unwrap();
                let aggregate = match &node.boot {
                    Some(log) => boot_aggregate(&log.registers(Bank::Sha256)),
                    None => sha256(b"pcrs 0 to 9"),
                };
                node.list.push(Measurement::ima_ng(b"boot_aggregate", &aggregate));
                node.sealed.clear();
                node.waiting.clear();
                node.in_flight.clear();
                self.files_before
                    .extend(node.checkpoints.drain(..).map(|sealed| sealed.file));
                (node.seq, node.starts) = (0, 1);
                if let Some(collectors) = &mut node.collectors {
                    collectors.successor = None;
                }
                node.boot_len = node.list.len() as u64;
                self.late.clear();
                self.before_kexec = self.truth.len();
                self.caused_by(PartitionKey::Boot);
                self.node.seal(None);
                self.caused_by(PartitionKey::Host);
            }
        }
    }

    fn good(&self, key: PartitionKey, path: &[u8]) -> Digest {
        let files = match key {
            PartitionKey::Pod(uid) => self.node.pod_files.get(&uid).unwrap_or(&self.node.host_files),
            _ => &self.node.host_files,
        };
        let known = files.get(path).and_then(|digests| digests.first());
        known.cloned().unwrap_or_else(|| sha256(path))
    }

    fn content(&self, actor: &Actor, path: &[u8], content: Content) -> Digest {
        match content {
            Content::Good => self.good(actor.key(), path),
            Content::Evil => sha256(b"evil"),
            Content::Runtime => sha256(RUNC.as_bytes()),
            Content::ImaPolicy => sha256(IMA_POLICY.as_bytes()),
            Content::OtherBank => Bank::Sha512.hash(&[b"other bank"]),
        }
    }

    /// An entry that nobody recorded yet, unless the list has it.
    fn unrecorded(&mut self, who: Who, number: u8, content: Content) -> Option<Late> {
        let (actor, path) = (actor(who), path(number));
        let content = self.content(&actor, &path, content);
        let entry = self.node.entry(&actor, &path, &content);
        if self.node.list.contains(&entry) {
            return None;
        }
        self.node.list.push(entry.clone());
        Some(Late {
            actor,
            path,
            entry,
            tid: None,
        })
    }

    pub fn act(&mut self, step: Step) {
        let key = self.step(step);
        self.caused_by(key);
    }

    /// Gives who caused what is new in the list.
    fn step(&mut self, step: Step) -> PartitionKey {
        let mut by = actor(Who::Host);
        let host = by.clone();
        match step {
            Step::Run(who, number, content) => {
                by = actor(who);
                let content = self.content(&by, &path(number), content);
                self.node.execute(&by, path(number), &content);
            }
            Step::Measure(who, number, content) => {
                by = actor(who);
                let content = self.content(&by, &path(number), content);
                self.node.measure(&by, path(number), &content);
            }
            Step::Use(who, kind, number, hashed, is_cut) => {
                self.uses(&actor(who), kind, number, hashed);
                self.last(|_, record| record.path_cut = is_cut);
            }
            Step::Writable(who, kind, number, hashed) => {
                self.uses(&actor(who), kind, number, hashed);
                self.last(|_, record| record.writable = true);
            }
            Step::Says(who, kind, number, said) => {
                let (by, path) = (actor(who), path(number));
                let good = FileHash::Measured(self.good(by.key(), &path));
                self.node.record_execution(&by, kind, &path, good);
                self.says(&path, said);
            }
            Step::Memory(who, kind, memory) => self.memory(&actor(who), kind, memory),
            Step::Load(who, handed) => self.hand_over(&actor(who), handed),
            Step::WriteBelow(who, number, said) => {
                let path = path(number);
                self.node.record_layer_write(&actor(who), &path);
                let first = match said {
                    Said::Below(_) => said,
                    _ => Said::Below(1),
                };
                self.says(&path, first);
                if said != first {
                    self.says(&path, said);
                }
            }
            Step::Late(who, number, content) => {
                by = actor(who);
                let late = self.unrecorded(who, number, content);
                self.late.extend(late);
            }
            Step::HeldUp(who, number, content) => {
                by = actor(who);
                if let Some(mut late) = self.unrecorded(who, number, content) {
                    self.node.begin_entry(&late.actor);
                    late.tid = self.node.in_flight.last().map(|mark| mark.tid);
                    self.late.push(late);
                }
            }
            Step::Arrive => {
                for Late {
                    actor,
                    path,
                    entry,
                    tid,
                } in core::mem::take(&mut self.late)
                {
                    self.node.record_entry(&actor, &path, &entry, 0);
                    self.node.in_flight.retain(|mark| Some(mark.tid) != tid);
                }
            }
            Step::Violate(who, number) => {
                by = actor(who);
                self.node.violate(&by, path(number));
            }
            Step::Guard(who, action, is_denied) => self.node.record_guard(&actor(who), action, "", is_denied),
            Step::Loss(kind) => {
                let losses = &mut self.node.losses;
                let all = [
                    &mut losses.reserve,
                    &mut losses.recursion,
                    &mut losses.read,
                    &mut losses.spool,
                ];
                all.into_iter()
                    .nth(usize::from(kind) % 4)
                    .into_iter()
                    .for_each(|loss| *loss += 1);
            }
            Step::PodLoss(who, n) => self.node.record_pod_loss(&actor(who), pod_loss(n)),
            Step::Blind(is) => self.node.blind = is,
            Step::Protect(level) => {
                let levels = [GuardMode::Off, GuardMode::Record, GuardMode::Deny];
                self.node.protection.guard = levels[usize::from(level) % 3];
                self.node.protection.enforce = level > 4;
            }
            Step::Named(n) => {
                let named = |pod_n: u8| PodInfo {
                    uid: pod(pod_n),
                    namespace: "default".into(),
                    name: format!("pod-{pod_n}-{n}"),
                };
                self.node.pods = [1, 2, 9, 5].into_iter().filter(|_| n > 0).map(named).collect();
            }
            // No collector runs where nothing but the kernel's tags says whose an entry is.
            Step::Name(n) if self.node.tier == Tier::Bpf || self.node.recorded => {
                self.node.name_pod(pod(n), "shop", &[]);
            }
            Step::Name(_) => {}
            Step::Fail(who, number, ret) => {
                let (by, path) = (actor(who), path(number));
                let entry = self.node.entry(&by, &path, &self.good(by.key(), &path));
                self.node.record_entry(&by, &path, &entry, ret);
            }
            Step::Twice(number) => {
                let entry =
                    self.node
                        .entry(&host, path(number), &self.good(PartitionKey::Host, &path(number)));
                for _ in 0..2 {
                    self.node.list.push(entry.clone());
                    self.node.record_entry(&host, path(number), &entry, 0);
                }
            }
            Step::Template(n) => {
                let mut entry = self.node.entry(
                    &host,
                    path(HOSTS as u8),
                    &self.good(PartitionKey::Host, &path(HOSTS as u8)),
                );
                entry.template =
                    ["ima-cgpath", "ima-sig", "d-ng|n-ng", "ima-ngv2"][usize::from(n) % 4].into();
                self.node.list.push(entry.clone());
                self.node.record_entry(&host, path(HOSTS as u8), &entry, 0);
            }
            Step::OtherRegister => {
                let mut entry = self
                    .node
                    .entry(&host, path(HOSTS as u8), &sha256(b"another register"));
                entry.pcr = 11;
                self.node.list.push(entry.clone());
                self.node.record_entry(&host, path(HOSTS as u8), &entry, 0);
            }
            Step::NeverExtended => drop(self.node.never_extended.insert(self.node.list.len() - 1)),
            Step::Seal(forgery) => self.seal(None, forgery),
            Step::HandOver(is_accepted) => {
                let program = upgrade(is_accepted);
                self.node.try_successor(&program);
                if let Some(collectors) = &mut self.node.collectors {
                    collectors.successor = Some(program);
                }
            }
            _ => by = self.forge(step),
        }
        by.key()
    }

    /// A record of an execution or a mapping alone.
    fn uses(&mut self, by: &Actor, kind: EventKind, number: u8, hashed: Hashed) {
        let path = path(number);
        let good = self.good(by.key(), &path);
        let hash = match hashed {
            Hashed::Measured => FileHash::Measured(good),
            Hashed::PreCheck => FileHash::PreCheck(good),
            Hashed::Evil => FileHash::PreCheck(sha256(b"evil")),
            Hashed::Not => FileHash::Unhashed(-5),
        };
        self.node.record_execution(by, kind, &path, hash);
    }

    /// A record about shared memory, or about what looks like it.
    fn memory(&mut self, by: &Actor, kind: EventKind, memory: Memory) {
        let path = "/memfd:doublemapper (deleted)";
        self.node.record_execution(by, kind, path, FileHash::Unhashed(0));
        self.last(|_, record| {
            let mut identity = Identity {
                generation: 5,
                magic: TMPFS_MAGIC,
                layer: None,
                written: false,
            };
            (record.dev, record.ino) = (UNLINKED_MEMORY_DEVICE, 1025);
            match memory {
                Memory::Memfd | Memory::Silent => {}
                Memory::Named => record.path = b"/memfd:doublemapper".to_vec(),
                Memory::Disk => (record.dev, identity.magic) = (EXT4_DEVICE, EXT4),
                Memory::Tmpfs => record.dev = 0x1a,
                Memory::Cut => record.path_cut = true,
                Memory::Hashed => record.hash = Some(FileHash::PreCheck(sha256(b"evil"))),
                Memory::Writable => record.writable = true,
            }
            record.identity = (memory != Memory::Silent).then(|| Box::new(identity));
        });
    }

    /// What only the holder of the checkpoint key can do.
    fn forge(&mut self, step: Step) -> Actor {
        let host = actor(Who::Host);
        match step {
            Step::Hide(who, number, content) => {
                self.unrecorded(who, number, content);
                return actor(who);
            }
            Step::HideViolation(who, number) => {
                self.node.list.push(Measurement::violation(&path(number)));
                return actor(who);
            }
            Step::Invent(who, number) => {
                let by = actor(who);
                let entry = self.node.entry(&by, path(number), &sha256(b"invented"));
                self.node.record_entry(&by, path(number), &entry, 0);
            }
            Step::InventViolation(who, number) => {
                self.node.violate(&actor(who), path(number));
                self.node.list.pop();
            }
            Step::Double(who) => {
                let entry = self.node.list.last().unwrap().clone();
                self.node.record_entry(&actor(who), "/bin/app", &entry, 0);
            }
            Step::Reattribute(who) => {
                let Actor { cgroup, exes } = actor(who);
                self.last(|key, record| {
                    *key = partition_of(cgroup.as_deref());
                    record.cgroup = cgroup;
                    record.ancestry = exes.into_iter().map(ancestor).collect();
                });
            }
            Step::Misplace(n) => self.last(|key, _| *key = PartitionKey::Pod(pod(n))),
            Step::Withhold => drop(self.node.waiting.pop()),
            Step::Number(0) => self.node.seq = self.node.seq.saturating_sub(1),
            Step::Number(1) => self.node.seq += 3,
            Step::Number(2) => self.last(|_, record| record.seq = 0),
            Step::Number(3) => self.last(|_, record| record.seq = 1),
            Step::Number(4) => self.last(|_, record| record.seq += 100),
            Step::Number(_) => self.node.waiting.reverse(),
            Step::BadRecord(kind) => {
                let file = path((HOSTS + usize::from(kind)) as u8);
                let good = self.good(PartitionKey::Host, &file);
                self.node.measure(&host, &file, &good);
                self.last(|_, record| match kind {
                    0 => record.pcr = 11,
                    1 => drop(record.digests.remove(0)),
                    2 => record.digests.clear(),
                    3 => record.digests[1] = sha256(b"no entry's"),
                    4 => record.digests.push(record.digests[1].clone()),
                    5 => record.path.push(b'x'),
                    _ => record.ancestry.clear(),
                });
            }
            Step::HalfGuard(who, is_said) if is_said => {
                let (by, path) = (actor(who), path(0));
                let good = FileHash::PreCheck(self.good(by.key(), &path));
                self.node.record_execution(&by, EventKind::Mapping, &path, good);
                let guard = Guard {
                    action: GuardAction::MapOpened,
                    object: 1,
                };
                self.last(|_, record| record.guard = Some(guard));
            }
            Step::HalfGuard(who, _) => {
                self.node
                    .record_guard(&actor(who), GuardAction::MapOpened, "", false);
                self.last(|_, record| record.guard = None);
            }
            Step::HalfLoss(who, is_said) if is_said => {
                let (by, path) = (actor(who), path(0));
                let good = FileHash::PreCheck(self.good(by.key(), &path));
                self.node.record_execution(&by, EventKind::Mapping, &path, good);
                self.last(|_, record| record.pod_loss = Some(pod_loss(1)));
            }
            Step::HalfLoss(who, _) => {
                self.node.record_pod_loss(&actor(who), pod_loss(1));
                self.last(|_, record| record.pod_loss = None);
            }
            Step::Read(who, back, fork) => {
                let number = self.node.checkpoints.len().saturating_sub(usize::from(back));
                let content = match (fork, self.node.checkpoints.get(number)) {
                    (Fork::Same, Some(sealed)) => sha256(&sealed.file),
                    (Fork::Module, _) => sha256(b"rootkit.ko"),
                    _ => sha256(b"another history"),
                };
                let by = actor(who);
                self.node
                    .measure(&by, format!("{}{number}", checkpoint::DIRECTORY), &content);
                return by;
            }
            Step::Mark(who) => self.node.begin_entry(&actor(who)),
            Step::Unmark => self.node.in_flight.clear(),
            Step::Alter => {
                let oldest = self.node.waiting.first_mut();
                oldest.into_iter().for_each(|(_, record)| record.uid += 1);
            }
            Step::Rewrite(n) => {
                let mut sealed = self.node.sealed.values_mut().flatten();
                sealed
                    .nth(usize::from(n))
                    .into_iter()
                    .for_each(|record| record.uid += 1);
            }
            _ => unreachable!("{step:?} is an honest step"),
        }
        host
    }

    fn hand_over(&mut self, by: &Actor, handed: Handed) {
        let known = self.good(PartitionKey::Host, &path(2));
        let hash = match handed {
            Handed::OfPod => FileHash::Measured(self.good(PartitionKey::Pod(pod(1)), &path(0))),
            Handed::Evil => FileHash::Measured(sha256(b"rootkit.ko")),
            Handed::PreCheck => FileHash::PreCheck(known),
            Handed::Unhashed => FileHash::Unhashed(-27),
            Handed::Kernel => FileHash::Unhashed(0),
            Handed::Known | Handed::Nothing | Handed::Mapping => FileHash::Measured(known),
        };
        let what = match handed {
            Handed::Kernel => Loaded::Kexec,
            _ => Loaded::Module,
        };
        if handed == Handed::Mapping {
            let own = FileHash::PreCheck(self.good(by.key(), &path(0)));
            self.node.record_execution(by, EventKind::Mapping, path(0), own);
            self.last(|_, record| record.load = Some(Box::new(Load { what, size: 1 })));
            return;
        }
        self.node.record_load(by, what, hash);
        if handed == Handed::Nothing {
            self.last(|_, record| record.load = None);
        }
    }

    /// The last record says this of its file.
    fn says(&mut self, path: &[u8], said: Said) {
        let below = |n: u8| {
            let key = PartitionKey::Pod(pod(n));
            self.node.identity(&key, path).and_then(|identity| identity.layer)
        };
        let shared = LayerFile {
            dev: EXT4_DEVICE,
            ino: 4711,
            generation: 3,
        };
        let below = match said {
            Said::Below(n) => below(n),
            _ => None,
        };
        let has = |identity: Option<&Identity>| {
            identity.copied().unwrap_or(Identity {
                generation: 2,
                magic: EXT4,
                layer: None,
                written: false,
            })
        };
        self.last(|_, record: &mut Record| {
            let known = has(record.identity.as_deref());
            let identity = match said {
                Said::Nothing => None,
                Said::Nfs => Some(Identity {
                    magic: 0x6969,
                    ..known
                }),
                Said::NoLayer => Some(Identity {
                    magic: OVERLAYFS_MAGIC,
                    layer: None,
                    ..known
                }),
                Said::Odd => Some(Identity {
                    magic: 0x1234,
                    ..known
                }),
                Said::Written => Some(Identity {
                    written: true,
                    ..known
                }),
                Said::Reused => Some(Identity {
                    generation: known.generation + 1,
                    ..known
                }),
                Said::Shared => Some(Identity {
                    layer: Some(shared),
                    ..known
                }),
                Said::Below(_) => below.map(|file| {
                    (record.dev, record.ino) = (file.dev, file.ino);
                    Identity {
                        generation: file.generation.into(),
                        layer: None,
                        ..known
                    }
                }),
            };
            record.identity = identity.map(Box::new);
        });
    }

    /// The kernel's last record.
    fn last(&mut self, change: impl FnOnce(&mut PartitionKey, &mut cgpath_evidence::Record)) {
        let mut waiting = self.node.waiting.iter_mut().rev();
        if let Some((key, record)) = waiting.find(|(_, record)| record.kind != EventKind::Name) {
            change(key, record);
        }
    }

    /// Seals, quotes and gives the evidence.
    pub fn attest(&mut self, round: &Round, nonce: &[u8]) -> Evidence {
        if self.node.tier == Tier::Bpf || self.node.recorded {
            self.seal(Some(nonce), round.seal);
        }
        self.caused_by(PartitionKey::Host);
        round.behind.iter().for_each(|step| self.act(*step));
        let quote = self.node.quote_with(nonce, |attest| {
            if round.clock_goes_back {
                attest.clock = 5;
            }
        });
        for n in 0..round.tail {
            self.act(Step::Measure(Who::Host, HOSTS as u8 + n, Content::Good));
        }
        self.node.evidence(quote)
    }
}

fn pod_loss(n: u8) -> PodLoss {
    PodLoss {
        executions: n.into(),
        mappings: 7,
        denials: 0,
        repeats: 0,
        first_ns: 1,
        last_ns: 2,
    }
}

fn ancestor(exe: Vec<u8>) -> Ancestor {
    Ancestor {
        tgid: 1,
        start_ns: 1,
        exe,
        dev: 1,
        ino: 1,
        source: ExeSource::Recorded,
    }
}
