//! Moves bytes between the kernel, the disk and the [`pipeline`](crate::pipeline): everything that blocks and decides
//! nothing.
//!
//! Promises: what the pipeline must be able to replay is in the spool before it is handled; a record leaves the ring
//! only after that; when the disk is full, nothing is consumed and nothing is lost until the ring is full, too.
//! Not here: the TPM, the network, waiting (see [`crate::service`]).

use crate::anchor::{Anchor, AnchorError};
use crate::bpf::{self, Adopted, Bpf, Mode, Ring};
use crate::config::Config;
use crate::key::{self, KeyError};
use crate::pipeline::{self, Action, Counters, Event, Pipeline, SealError, Setup};
use crate::sources::list::{self, ListError, ListReader};
use crate::sources::{cgroups, processes, system};
use crate::spool::{self, Frame, Spool, SpoolError};
use crate::store::{Assembly, Frozen, Store, StoreError};
use bytes::Bytes;
use evidence::list::ListEntry;
use evidence::{Bank, GuardMode, PodUid, Position, Protection, SealedCheckpoint, Tier};
use nix::fcntl::{Flock, FlockArg};
use p256::ecdsa::SigningKey;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Records consumed in one go; then others get their turn.
pub const BATCH: usize = 4096;

/// The object that was built in, where there is one (see build.rs).
pub const BUILT_IN_OBJECT: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// The first argument with which this program does nothing: what it executes to see whether it is seen.
pub const CANARY_ARGUMENT: &str = "__canary";

/// Why the collector can not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Another collector writes to this boot's records.
    #[error("another cgpathd is using {dir}: it is running, starting or stopping; try again in a moment")]
    Running {
        /// This boot's directory.
        dir: PathBuf,
    },
    /// No eBPF object.
    #[error(
        "no eBPF object: none was built into this cgpathd and bpf.object is not set; make one with `cargo xtask ebpf` and \
         name it in the configuration, or build with CGPATH_BPF_OBJECT=PATH"
    )]
    NoObject,
    /// The configured object can not be read.
    #[error("bpf.object {path}: {source}")]
    Object {
        /// As configured.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The hierarchy that the configuration asks for can not be had.
    #[error("{0}")]
    Hierarchy(String),
    /// The programs.
    #[error(transparent)]
    Bpf(#[from] bpf::Error),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The list.
    #[error(transparent)]
    List(#[from] ListError),
    /// The file system of checkpoints.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// The pipeline refused what it was told.
    #[error(transparent)]
    Pipeline(#[from] pipeline::Error),
    /// Checkpoint 0 could not be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// /proc could not be scanned.
    #[error("scanning /proc: {0}")]
    Proc(#[from] procfs::ProcError),
    /// The cgroup hierarchy could not be scanned.
    #[error("scanning the cgroup hierarchy {path}: {source}")]
    Cgroups {
        /// Its mount point.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The boot id or the kernel's release could not be read.
    #[error("reading the boot id: {0}")]
    BootId(io::Error),
    /// The programs run since before this boot's spool begins.
    #[error(
        "the programs of an earlier collector run and its records are gone from {dir}; the chain of this boot can not be \
         continued: reboot"
    )]
    RecordsGone {
        /// Where they should be.
        dir: PathBuf,
    },
    /// The programs were loaded again within one boot, so that sequence numbers began anew.
    #[error(
        "the eBPF programs were unloaded since this boot's first checkpoint; what ran meanwhile is unknown and the chain \
         can not be continued: reboot"
    )]
    ProgramsGone,
    /// A pipe to the ring could not be made.
    #[error("the ring buffer: {0}")]
    Ring(io::Error),
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Checkpoint `number` carries its nonce and is anchored: quote, then ask for the assembly.
    Ready {
        /// The request.
        id: u64,
        /// Its nonce.
        nonce: Vec<u8>,
        /// What was sealed.
        frozen: Frozen,
    },
    /// It can not be answered.
    Failed {
        /// The request; none for what nobody asked for.
        id: Option<u64>,
        /// Why.
        error: SealError,
    },
}

/// The collector's working parts.
pub struct Engine {
    bpf: Bpf,
    ring: Ring,
    pipeline: Pipeline,
    spool: Spool,
    store: Store,
    list: ListReader,
    anchor: Anchor,
    key: SigningKey,
    /// What the last seal covers.
    frozen: Frozen,
    outcomes: VecDeque<Outcome>,
    boot_id: [u8; 16],
    tier: Tier,
    /// The spool took no record: nothing is consumed until it does.
    stalled: bool,
    /// Pods of the last verdict that are not trusted; none where there was no verdict yet.
    untrusted: Option<BTreeSet<PodUid>>,
    exempt: Exempt,
    orders: bpf::Orders,
    canary: Canary,
    /// When the programs were last told that somebody is there.
    beat: Instant,
    /// Held for as long as the engine lives.
    _lock: Flock<File>,
}

/// Cgroups that are never denied anything.
#[derive(Debug)]
struct Exempt {
    untrusted: Vec<String>,
    loss: Vec<String>,
}

/// How often the programs are told that somebody is there.
const BEAT: Duration = Duration::from_secs(1);

/// The kernel's own tags are there when the first entry of the boot has one: it is made with the template that the boot
/// chose, before anybody could load a rule that asks for another.
fn tier(early: &[ListEntry]) -> Tier {
    match early.first() {
        Some(first) if first.cgroup_path().is_some() => Tier::Kernel,
        _ => Tier::Bpf,
    }
}

fn protection(orders: &bpf::Orders) -> Protection {
    let mode = |mode| match mode {
        Mode::Off => GuardMode::Off,
        Mode::Record => GuardMode::Record,
        Mode::Deny => GuardMode::Deny,
    };
    Protection {
        guard: mode(orders.guard),
        tpm: mode(orders.tpm),
        enforce: orders.untrusted,
        fail_closed: orders.loss,
    }
}

/// The algorithm of IMA's file hashes, as the list's last file shows it.
fn file_hash(content: Option<usize>) -> Bank {
    let banks = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];
    banks
        .into_iter()
        .find(|bank| Some(bank.len()) == content)
        .unwrap_or(Bank::Sha256)
}

/// The record without what is reserved behind it; all of it where that can not be told.
fn record_in(item: &[u8]) -> &[u8] {
    let len = bpf::decode::record_len(item).unwrap_or(item.len());
    &item[..len.min(item.len())]
}

/// Moves what waits in the ring of a collector that died to its spool; gives the number of records. To be called before
/// anything that takes time: a collector that is killed again and again while it starts must not leave the ring to fill up.
///
/// # Errors
/// What kept it from that; [`Engine::start`] will say the same, and better.
pub fn rescue(config: &Config) -> Result<u64, EngineError> {
    let (boot_id, text) = system::boot_id().map_err(EngineError::BootId)?;
    let dir = config.state_dir.join(text);
    if !dir.is_dir() {
        return Ok(0);
    }
    let _lock = lock(&dir)?;
    let mut spool = Spool::open(&dir, &boot_id)?;
    // Before the first seal there may be records of cgroups that are still to be scanned: these wait for that.
    if !spool.has_seal() {
        return Ok(0);
    }
    let Some(mut waiting) = bpf::waiting(&config.bpf.pin_dir)? else {
        return Ok(0);
    };
    let mut rescued = 0;
    while let Some(item) = waiting.ring.next() {
        if let Err(error) = spool.append_raw(record_in(&item)) {
            // It stays where it is.
            std::mem::forget(item);
            return Err(error.into());
        }
        rescued += 1;
    }
    Ok(rescued)
}

/// Makes sure that one collector alone writes to `dir`.
fn lock(dir: &Path) -> Result<Flock<File>, EngineError> {
    let path = dir.join("lock");
    let io = |source| SpoolError::Io {
        path: path.clone(),
        what: "lock",
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => EngineError::Running { dir: dir.to_owned() },
        other => io(other.into()).into(),
    })
}

/// The object to load.
///
/// # Errors
/// [`EngineError::NoObject`], [`EngineError::Object`].
pub fn object(config: &Config) -> Result<Vec<u8>, EngineError> {
    if config.bpf.object.as_os_str().is_empty() {
        return BUILT_IN_OBJECT.map(<[u8]>::to_vec).ok_or(EngineError::NoObject);
    }
    std::fs::read(&config.bpf.object).map_err(|source| EngineError::Object {
        path: config.bpf.object.clone(),
        source,
    })
}

impl Engine {
    /// Loads or takes over the programs, replays the spool and scans what is older. Checkpoint 0 is on its way when
    /// this returns: see [`Engine::is_idle`].
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn start(config: &Config) -> Result<Engine, EngineError> {
        let object = object(config)?;
        let (boot_id, boot_id_text) = system::boot_id().map_err(EngineError::BootId)?;
        let dir = spool::boot_dir(&config.state_dir, &boot_id_text, config.keep_boots)?;
        // Before anything there is touched: whoever runs already writes to it.
        let lock = lock(&dir)?;
        let mut spool = Spool::open(&dir, &boot_id)?;
        let (has_frames, has_seal) = (!spool.is_empty(), spool.has_seal());
        let key = key::load_or_create(&config.run_dir, !has_seal)?;
        let mut list = ListReader::open(&config.ima.list)?;
        let anchor = Anchor::mount(&config.run_dir, config.seal.keep_files)?;

        // Entries from here on can have a record; those before can not.
        let mut early = Vec::new();
        let mut content = None;
        let base = list.poll(|entry| {
            let length = list::for_pipeline(&entry).content.len();
            content = Some(length).filter(|n| *n > 0).or(content);
            early.push(entry);
            Ok::<(), EngineError>(())
        })?;
        // Before the programs are loaded: whoever finds them running must find this, too.
        if !has_frames {
            spool.append_event(&Event::Base { list_len: base })?;
        }
        let hierarchy = cgroups::chosen(&config.cgroup.hierarchy).map_err(EngineError::Hierarchy)?;
        let options = bpf::Options {
            pin_dir: config.bpf.pin_dir.clone(),
            ring_bytes: config.bpf.ring_bytes,
            hierarchy,
            identity: file_hash(content),
            orders: config.orders(),
            ..bpf::Options::new(&object)
        };
        let (mut bpf, adopted) = Bpf::load_or_adopt(&options)?;
        match adopted {
            Adopted::Existing if !has_frames => return Err(EngineError::RecordsGone { dir }),
            Adopted::Fresh { .. } if has_seal => return Err(EngineError::ProgramsGone),
            _ => {}
        }
        let ring = bpf
            .take_ring()
            .ok_or_else(|| EngineError::Ring(io::ErrorKind::NotConnected.into()))?;
        // Records of an attempt that ended before the programs ran are of no use: their numbers began anew.
        if has_frames && matches!(adopted, Adopted::Fresh { .. }) {
            spool.clear()?;
            spool.append_event(&Event::Base { list_len: base })?;
        }
        let describe = cgroups::describe(bpf.hierarchy());
        tracing::info!(hierarchy = %describe, controllers = ?cgroups::controllers(), ?adopted, "eBPF programs run");
        for program in bpf.counters()?.programs {
            tracing::debug!(
                name = program.name,
                id = program.id,
                instructions = program.verified_instructions,
                "program"
            );
        }
        let ima_policy = std::fs::read(&config.ima.policy)
            .ok()
            .map(|bytes| Sha256::digest(bytes).into());
        let mut pipeline = Pipeline::new(Setup {
            boot_id,
            hierarchy: describe,
            bpf_object: bpf.object_sha256(),
            ima_policy,
            key: key::public(&key),
            drain_timeout: Duration::from_secs(config.seal.drain_timeout),
            seal_records: config.seal.records,
            protection: protection(&options.orders),
        });
        let mut store = Store::create(&dir)?;
        let mut frozen = store.freeze();
        spool.replay(|frame| replay(frame, &mut pipeline, &mut store, &mut frozen))?;
        let mut engine = Engine {
            bpf,
            ring,
            pipeline,
            spool,
            store,
            list,
            anchor,
            key,
            frozen,
            outcomes: VecDeque::new(),
            boot_id,
            tier: tier(&early),
            stalled: false,
            untrusted: None,
            exempt: Exempt {
                untrusted: config.enforce.exempt.clone(),
                loss: config.fail_closed.exempt.clone(),
            },
            orders: options.orders,
            canary: Canary::find(),
            beat: Instant::now(),
            _lock: lock,
        };
        engine.tell(Event::Started)?;
        for entry in early {
            engine.store.entry(&entry.to_entry())?;
            engine.tell(Event::List(Box::new(list::for_pipeline(&entry))))?;
        }
        engine.tell(Event::Replayed)?;
        if !engine.pipeline.is_loaded() {
            engine.seed()?;
        }
        engine.tell_pods()?;
        Ok(engine)
    }

    /// A verdict arrived: these pods are not trusted, all others are or are not known to it.
    ///
    /// # Errors
    /// If the programs can not be told.
    pub fn judged(&mut self, untrusted: BTreeSet<PodUid>) -> Result<(), EngineError> {
        if self.untrusted.as_ref() != Some(&untrusted) && self.orders.untrusted {
            tracing::warn!(pods = ?untrusted.iter().map(PodUid::to_string).collect::<Vec<_>>(), "denied executions");
        }
        self.untrusted = Some(untrusted);
        self.tell_pods()
    }

    /// Tells the programs that somebody is there, of losses that are known by now, and of directories that are new. To
    /// be called again and again; does something once a [`BEAT`].
    ///
    /// # Errors
    /// If the programs can not be told; else as [`Engine::drain`].
    pub fn keep_alive(&mut self) -> Result<(), EngineError> {
        if self.beat.elapsed() < BEAT {
            return Ok(());
        }
        self.beat = Instant::now();
        self.bpf.beat()?;
        if self.orders.loss {
            let lost = self.bpf.lost_reserve()?;
            // What was lost until then is known once all that came before it is on disk.
            if self.drain()? < BATCH && !self.stalled {
                self.bpf.acknowledge(lost)?;
            }
        }
        self.tell_pods()
    }

    /// Writes down whom the programs deny executions and whom never.
    fn tell_pods(&mut self) -> Result<(), EngineError> {
        if !self.orders.untrusted && !self.orders.loss {
            return Ok(self.bpf.set_pods(BTreeMap::new())?);
        }
        let mount = self.bpf.hierarchy().mount.clone();
        let mut wanted: BTreeMap<u64, u32> = BTreeMap::new();
        match &self.untrusted {
            Some(untrusted) => {
                let there = cgroups::pods(&mount);
                for (_, id) in there.iter().filter(|(uid, _)| untrusted.contains(uid)) {
                    *wanted.entry(*id).or_default() |= ebpf_common::pod::UNTRUSTED;
                }
            }
            // A restart opens nothing: the verdict before it holds until the next one.
            None => {
                for (id, bits) in self.bpf.pods() {
                    if bits & ebpf_common::pod::UNTRUSTED != 0 {
                        wanted.insert(*id, ebpf_common::pod::UNTRUSTED);
                    }
                }
            }
        }
        for (paths, bit) in [
            (&self.exempt.untrusted, ebpf_common::pod::EXEMPT_UNTRUSTED),
            (&self.exempt.loss, ebpf_common::pod::EXEMPT_LOSS),
        ] {
            for id in paths.iter().filter_map(|path| cgroups::inode(&mount, path)) {
                *wanted.entry(id).or_default() |= bit;
            }
        }
        Ok(self.bpf.set_pods(wanted)?)
    }

    /// What the programs do about others, and how many cgroups they deny something.
    pub fn denied(&self) -> (Protection, usize) {
        let denied = self.bpf.pods().values();
        (
            protection(&self.orders),
            denied
                .filter(|bits| **bits & ebpf_common::pod::UNTRUSTED != 0)
                .count(),
        )
    }

    /// Scans what is older than the programs, then tells that they are loaded.
    fn seed(&mut self) -> Result<(), EngineError> {
        let mount = self.bpf.hierarchy().mount.clone();
        let seeds = cgroups::seeds(&mount).map_err(|source| EngineError::Cgroups { path: mount, source })?;
        let n_cgroups = seeds.len();
        for event in seeds {
            self.tell(event)?;
        }
        let seeds = processes::seeds()?;
        tracing::info!(
            cgroups = n_cgroups,
            processes = seeds.len(),
            "scanned what is older than the programs"
        );
        for event in seeds {
            self.tell(event)?;
        }
        self.poll_list()?;
        let list_len = self.pipeline.list_len();
        // What is being added at this moment has its record in the ring when checkpoint 0 is sealed.
        self.tell(Event::Loaded { list_len })
    }

    /// A descriptor that is readable when records wait; for an event loop.
    ///
    /// # Errors
    /// [`EngineError::Ring`].
    pub fn ring_fd(&self) -> Result<OwnedFd, EngineError> {
        self.ring.as_fd().try_clone_to_owned().map_err(EngineError::Ring)
    }

    /// boot_id of the running kernel.
    pub fn boot_id(&self) -> [u8; 16] {
        self.boot_id
    }

    /// Where the tags lie: found out at the start.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The state machine, to look at.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Whether nothing is being sealed.
    pub fn is_idle(&self) -> bool {
        self.pipeline.is_idle()
    }

    /// Whether the disk takes no more records.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// What became of requests since the last call.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        self.outcomes.drain(..).collect()
    }

    /// Consumes waiting records, at most [`BATCH`]; gives their number.
    ///
    /// # Errors
    /// What ends the collector. A full disk does not: then nothing is consumed, see [`Engine::is_stalled`].
    pub fn drain(&mut self) -> Result<usize, EngineError> {
        for taken in 0..BATCH {
            let Some(item) = self.ring.next() else {
                return Ok(taken);
            };
            let raw = Bytes::copy_from_slice(record_in(&item));
            if let Err(error) = self.spool.append_raw(&raw) {
                // Not dropped: the kernel's position stays, and the record is read again.
                std::mem::forget(item);
                if !self.stalled {
                    tracing::error!(%error, "records can not be kept: nothing is consumed until they can");
                }
                self.stalled = true;
                return Ok(taken);
            }
            drop(item);
            if self.stalled {
                tracing::info!("records can be kept again");
                self.stalled = false;
            }
            self.handle(spool::raw_event(&raw))?;
        }
        Ok(BATCH)
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
        for entry in new {
            self.store.entry(&entry.to_entry())?;
            self.tell(Event::List(Box::new(list::for_pipeline(&entry))))?;
        }
        Ok(())
    }

    /// Asks for a checkpoint with `nonce`; the answer is an [`Outcome`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn request(&mut self, id: u64, nonce: Vec<u8>) -> Result<(), EngineError> {
        self.tell(Event::Request { id, nonce })
    }

    /// Time has passed.
    ///
    /// # Errors
    /// What ends the collector.
    pub fn tick(&mut self) -> Result<(), EngineError> {
        self.tell(Event::Tick)
    }

    /// Reads the list to its end, then gives all parts of the evidence about `frozen`, or those that came after a position.
    /// Call it after the quote.
    ///
    /// # Errors
    /// What ends the collector, or [`StoreError::TooLong`].
    pub fn assembly(&mut self, frozen: &Frozen, after: Option<&Position>) -> Result<Assembly, EngineError> {
        self.poll_list()?;
        let after = after.filter(|position| position.boot_id == self.boot_id);
        Ok(self.store.assembly(frozen, after)?)
    }

    /// Tells the pipeline, after the spool if need be. Raw records and seals are in the spool already.
    fn tell(&mut self, event: Event) -> Result<(), EngineError> {
        if event.is_journaled() {
            self.spool.append_event(&event)?;
        }
        self.handle(event)
    }

    fn handle(&mut self, event: Event) -> Result<(), EngineError> {
        for action in self.pipeline.handle(event, system::now())? {
            self.act(action)?;
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), EngineError> {
        match action {
            Action::Append { key, leaf } => self.store.record(key, &leaf)?,
            Action::RunCanary => {
                let tgid = self.canary.run();
                self.tell(Event::Canary { tgid })?;
            }
            Action::PollList => {
                self.poll_list()?;
                self.tell(Event::ListPolled)?;
            }
            Action::ReadCounters => {
                let counters = self.counters()?;
                self.tell(Event::Counters(counters))?;
            }
            Action::GiveUp { through } => {
                tracing::warn!(through, "records did not arrive: they count as lost");
                self.tell(Event::GaveUp { through })?;
            }
            Action::Seal(checkpoint) => {
                let sealed = SealedCheckpoint::seal(*checkpoint, &self.key);
                self.spool.append_sealed(&sealed.file)?;
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
                self.handle(spool::sealed_event(&sealed))?;
            }
            Action::Anchor { number } => {
                let done = match self.store.checkpoint_file(number)? {
                    Some(file) => self.anchor.read_once(number, &file).map_err(|e| e.to_string()),
                    None => Err("its file is not in the store".to_owned()),
                };
                let event = match done {
                    Ok(()) => Event::FileRead,
                    Err(why) => Event::AnchorFailed { why },
                };
                self.tell(event)?;
            }
            Action::Anchored { number } => tracing::debug!(number, "anchored"),
            Action::Answer { id, nonce, number } => {
                tracing::debug!(id, number, "a request's checkpoint is anchored");
                self.outcomes.push_back(Outcome::Ready {
                    id,
                    nonce,
                    frozen: self.frozen.clone(),
                });
            }
            Action::Failed { id, error } => {
                tracing::error!(%error, "no checkpoint");
                self.outcomes.push_back(Outcome::Failed { id, error });
            }
        }
        Ok(())
    }

    fn counters(&self) -> Result<Counters, EngineError> {
        let snapshot = self.bpf.counters()?;
        let attached = snapshot.all_attached();
        if !attached {
            let detached: Vec<&str> = snapshot
                .programs
                .iter()
                .filter(|p| p.detached.is_some())
                .map(|p| p.name)
                .collect();
            tracing::error!(?detached, ftrace_enabled = ?snapshot.ftrace_enabled, "programs do not see events");
        }
        Ok(Counters {
            seq: snapshot.seq,
            reserve: snapshot.lost_reserve,
            recursion: snapshot
                .programs
                .iter()
                .fold(0, |sum, p| sum.saturating_add(p.recursion_misses)),
            read: snapshot.read_failed,
            attached,
        })
    }
}

/// Tells the pipeline and the store what the spool holds.
fn replay(
    frame: Frame,
    pipeline: &mut Pipeline,
    store: &mut Store,
    frozen: &mut Frozen,
) -> Result<(), EngineError> {
    if let Frame::Event(Event::Sealed(_), Some(file)) = &frame {
        store.checkpoint(file)?;
        *frozen = store.freeze();
    }
    for action in pipeline.handle(frame.into_event(), Duration::ZERO)? {
        if let Action::Append { key, leaf } = action {
            store.record(key, &leaf)?;
        }
    }
    Ok(())
}

/// A program that ends at once.
///
/// The dynamic linker by itself, asked for its version, maps nothing else: one record instead of a dozen at each request.
/// Where there is none, or an update replaced it, it is this very program. Both are files that IMA knows and every policy
/// accepts.
#[derive(Debug)]
struct Canary {
    linker: Option<PathBuf>,
}

impl Canary {
    fn find() -> Canary {
        Canary {
            linker: dynamic_linker(),
        }
    }

    /// Executes it and gives its process id.
    fn run(&self) -> Option<u32> {
        let linker = self
            .linker
            .as_deref()
            .and_then(|path| spawn(path, "--version").ok());
        // Not its path: the file may have been replaced by an update since.
        let child = linker.map_or_else(|| spawn(Path::new("/proc/self/exe"), CANARY_ARGUMENT), Ok);
        match child {
            Ok(mut child) => {
                let pid = child.id();
                if let Err(error) = child.wait() {
                    tracing::warn!(%error, "waiting for the canary");
                }
                Some(pid)
            }
            Err(error) => {
                tracing::error!(%error, "the canary could not be executed");
                None
            }
        }
    }
}

fn spawn(program: &Path, argument: &str) -> io::Result<std::process::Child> {
    std::process::Command::new(program)
        .arg(argument)
        .current_dir("/")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
}

/// The dynamic linker that is mapped into this process.
fn dynamic_linker() -> Option<PathBuf> {
    let maps = procfs::process::Process::myself().and_then(|p| p.maps()).ok()?;
    maps.into_iter().find_map(|map| match map.pathname {
        procfs::process::MMapPath::Path(path) => {
            let name = path.file_name()?.to_string_lossy();
            (name.starts_with("ld-linux") || name.starts_with("ld64")).then_some(path)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_is_a_process_that_ended_even_if_the_linker_was_replaced() {
        let replaced = Canary {
            linker: Some("/nonexistent/ld-linux.so".into()),
        };
        for canary in [Canary::find(), replaced] {
            let pid = canary.run().unwrap();
            assert!(pid > 1 && !std::path::Path::new(&format!("/proc/{pid}")).exists());
        }
    }
}
