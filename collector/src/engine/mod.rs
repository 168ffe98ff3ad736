//! Moves bytes between the kernel, the disk and the [`pipeline`](crate::pipeline): everything that blocks and
//! decides nothing.
//!
//! Promises: what the pipeline must be able to replay is in the journal before it is handled (see [`core`]);
//! a record leaves the ring only after that; when the disk is full, nothing is consumed and nothing is lost
//! until the ring is full, too.
//! Not here: the TPM, the network, waiting (see [`crate::service`]).

mod canary;
pub mod core;
mod denied;
mod kernel;

pub use self::canary::{CANARY_ARGUMENT, Canary};
pub use self::core::Outcome;

use self::core::{Core, Opened, record_in};
use self::denied::Denied;
use self::kernel::Kernel;
use crate::anchor::key::{self, KeyError};
use crate::anchor::{AnchorError, AnchorSet};
use crate::bpf::{self, Adopted, Bpf, Ring};
use crate::config::Config;
use crate::journal::{self, Journal, JournalError};
use crate::pipeline::{self, Note, Pipeline, Place, SealError, Setup};
use crate::request::PodVerdicts;
use crate::sources::cgroups::HierarchyError;
use crate::sources::list::{self, ListError, ListReader};
use crate::sources::{cgroups, processes, system};
use crate::status::Budgets;
use crate::store::StoreError;
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::{Bank, Checkpoint, Collectors, Cursor, Digest, PodUid, Protection, Tier, td};
use nix::fcntl::{Flock, FlockArg};
use p256::ecdsa::SigningKey;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Records consumed in one go; then others get their turn.
pub const BATCH: usize = 4096;

/// The object that was built in, where there is one (see build.rs).
pub const BUILT_IN_OBJECT: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// Why the collector cannot go on.
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
        "no eBPF object: none was built into this cgpathd and bpf.object is not set; make one with `cargo \
         xtask ebpf` and name it in the configuration, or build with CGPATH_BPF_OBJECT=PATH"
    )]
    NoObject,
    /// The configured object cannot be read.
    #[error("bpf.object {path}: {source}")]
    Object {
        /// As configured.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The hierarchy that the configuration asks for cannot be had.
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    /// The programs.
    #[error(transparent)]
    Bpf(#[from] bpf::Error),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The list.
    #[error(transparent)]
    List(#[from] ListError),
    /// IMA does not extend the TPM.
    #[error(
        "boot_aggregate is zero: IMA found no TPM when it started and extends none in this boot; use a \
         kernel with the TPM's driver built in (`cgpathd check` says more)"
    )]
    NoTpmForIma,
    /// The file system of checkpoints.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// Checkpoints of this boot are anchored elsewhere.
    #[error(
        "anchor.to: checkpoints of this boot are anchored at {}, not at {}; set it back, or reboot to begin \
         a new chain",
        listed(before),
        listed(now)
    )]
    AnchorsChanged {
        /// Since the first checkpoint.
        before: Vec<Place>,
        /// As configured.
        now: Vec<Place>,
    },
    /// The pipeline refused an event.
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
    /// The programs run since before this boot's journal begins.
    #[error(
        "the programs of an earlier collector run and its records are gone from {dir}; the chain of this \
         boot cannot be continued: reboot"
    )]
    RecordsGone {
        /// Where they should be.
        dir: PathBuf,
    },
    /// The programs were loaded again within one boot, so that sequence numbers began anew.
    #[error(
        "the eBPF programs were unloaded since this boot's first checkpoint; what ran meanwhile is unknown \
         and the chain cannot be continued: reboot"
    )]
    ProgramsGone,
    /// Another program is the collector of this boot.
    #[error(
        "{expected} is the collector of this boot, and this program is {found}: start that one again and run \
         `cgpathd handover` from this one's file in its place, or reboot"
    )]
    NotHandedOver {
        /// The hash of this program.
        found: Box<Digest>,
        /// The one that the last checkpoint counts.
        expected: Box<Digest>,
    },
    /// The collector of this boot knows of no handover.
    #[error(
        "an earlier version of cgpathd is the collector of this boot and cannot hand over: start that one \
         again, or reboot"
    )]
    CannotHandOver,
    /// A pipe to the ring could not be made.
    #[error("the ring buffer: {0}")]
    Ring(io::Error),
}

fn listed(places: &[Place]) -> String {
    let places: Vec<String> = places.iter().map(Place::to_string).collect();
    places.join(" and ")
}

/// The collector's working parts.
pub struct Engine {
    core: Core<Kernel>,
    ring: Ring,
    tier: Tier,
    denied: Denied,
    exempt: Exempt,
    orders: bpf::Orders,
    /// The node's key, where a trust domain signs for the node.
    node_key: Option<SigningKey>,
    /// When the programs last heard that a collector is there.
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

/// How often the programs are shown that a collector is there.
const BEAT: Duration = Duration::from_secs(1);

/// The kernel's own tags are there when the first entry of the boot has one: it is made with the template
/// that the boot chose, before anybody could load a rule that asks for another.
fn tier(early: &[ListEntry]) -> Tier {
    match early.first() {
        Some(first) if first.cgroup_path().is_some() => Tier::Kernel,
        _ => Tier::Bpf,
    }
}

fn protection(orders: &bpf::Orders) -> Protection {
    Protection {
        guard: orders.guard,
        tpm: orders.tpm,
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

/// Where the program of this process lies. To be called early: once the file was replaced, the kernel says so
/// behind its path.
fn program_path() -> Result<PathBuf, EngineError> {
    let path = PathBuf::from("/proc/self/exe");
    std::fs::read_link(&path).map_err(|source| {
        EngineError::Bpf(bpf::Error::Io {
            what: "read",
            path,
            source,
        })
    })
}

/// Whether the program with the hash that `own` gives may go on with a chain whose last checkpoint states
/// these: it sealed that one and hands over to no other, or that one hands over to it.
///
/// # Errors
/// [`EngineError::NotHandedOver`], [`EngineError::CannotHandOver`].
fn may_go_on(
    stated: Option<&Collectors>,
    own: impl FnOnce(Bank) -> bpf::Result<Digest>,
) -> Result<(), EngineError> {
    let stated = stated.ok_or(EngineError::CannotHandOver)?;
    let expected = stated.successor.as_ref().unwrap_or(&stated.program);
    let found = own(expected.bank())?;
    if found == *expected {
        return Ok(());
    }
    Err(EngineError::NotHandedOver {
        found: Box::new(found),
        expected: Box::new(expected.clone()),
    })
}

/// Moves what waits in the ring of a collector that died to its journal; gives the number of records. To be
/// called before anything that takes time: a collector that is killed again and again while it starts must
/// not leave the ring to fill up.
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
    let mut journal = Journal::open(&dir, &boot_id)?;
    // Before the first seal there may be records of cgroups that are still to be scanned: these wait for
    // that.
    let Some(last) = journal.last_seal() else {
        return Ok(0);
    };
    may_go_on(last.collectors.as_ref(), bpf::own_program)?;
    let Some(mut waiting) = bpf::waiting(&config.bpf.pin_dir)? else {
        return Ok(0);
    };
    let mut rescued = 0;
    while let Some(item) = waiting.ring.next() {
        if let Err(error) = journal.append_raw(record_in(&item)) {
            // It stays where it is.
            std::mem::forget(item);
            return Err(error.into());
        }
        rescued += 1;
    }
    Ok(rescued)
}

/// Whether a collector has begun to keep this boot's records.
///
/// # Errors
/// [`EngineError::BootId`].
pub fn has_journal(config: &Config) -> Result<bool, EngineError> {
    let (_, text) = system::boot_id().map_err(EngineError::BootId)?;
    Ok(config.state_dir.join(text).join("spool").exists())
}

/// Makes sure that one collector alone writes to `dir`.
fn lock(dir: &Path) -> Result<Flock<File>, EngineError> {
    let path = dir.join("lock");
    let io = |source| JournalError::Io {
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
    /// Loads or takes over the programs, replays the journal and scans what is older. Checkpoint 0 is on its
    /// way when this returns: see [`Engine::is_idle`].
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn start(config: &Config) -> Result<Engine, EngineError> {
        let object = object(config)?;
        let (boot_id, boot_id_text) = system::boot_id().map_err(EngineError::BootId)?;
        let dir = journal::boot_dir(&config.state_dir, &boot_id_text, config.keep_boots)?;
        // Before anything there is touched: a collector that runs already writes to it.
        let lock = lock(&dir)?;
        let mut journal = Journal::open(&dir, &boot_id)?;
        let (has_frames, has_seal) = (!journal.is_empty(), journal.has_seal());
        // Before anything is loaded, so that nothing is left that the next start would take for programs that
        // always ran.
        if has_seal && !bpf::are_pinned(&config.bpf.pin_dir)? {
            return Err(EngineError::ProgramsGone);
        }
        if let Some(last) = journal.last_seal() {
            may_go_on(last.collectors.as_ref(), bpf::own_program)?;
        }
        let handed_over = journal.last_seal().map(Checkpoint::bpf_running);
        let replaces = match journal.last_seal().and_then(|last| last.collectors.as_ref()) {
            Some(stated) => bpf::own_program(stated.program.bank())? != stated.program,
            None => false,
        };
        let program_path = program_path()?;
        let key = key::load_or_create(&config.run_dir, !has_seal)?;
        let node_key = config
            .provider()
            .map(|_| key::load_or_create_node(&config.quote.node_key, &config.run_dir, !has_seal))
            .transpose()?;
        let mut list = ListReader::open(&config.ima.list)?;
        let anchors = AnchorSet::open(config)?;
        let places = anchors.places();

        // Entries from here on can have a record; those before cannot.
        let mut early = Vec::new();
        let (mut content, mut has_tpm) = (None, true);
        let base = list.poll(|entry| {
            let listed = list::for_pipeline(&entry);
            content = Some(listed.content.len()).filter(|n| *n > 0).or(content);
            if listed.name == b"boot_aggregate" {
                // The last one counts: a kexec'd kernel's list begins with that of the kernel before.
                has_tpm = listed.content.iter().any(|byte| *byte != 0);
            }
            early.push(entry);
            Ok::<(), EngineError>(())
        })?;
        // Nothing would be anchored, and the entries' arrays of digests would not be as long as the TPM has
        // banks.
        if !has_tpm && places.contains(&Place::Pcr10) {
            return Err(EngineError::NoTpmForIma);
        }
        // Before the programs are loaded: a collector that finds them running must find this, too.
        if !has_frames {
            journal.append_note(&Note::Base { list_len: base })?;
        }
        let hierarchy = cgroups::chosen(&config.cgroup.hierarchy)?;
        let options = bpf::ProgramOptions {
            pin_dir: config.bpf.pin_dir.clone(),
            ring_bytes: config.bpf.ring_bytes,
            max_hash_mib: config.bpf.max_hash_mib,
            hash_served: config.bpf.hash_served,
            hierarchy,
            ima_has_tpm: has_tpm,
            identity: file_hash(content),
            orders: config.orders(),
            handed_over,
            replaces,
            ..bpf::ProgramOptions::new(&object)
        };
        let (mut bpf, adopted) = Bpf::load_or_adopt(&options)?;
        match adopted {
            Adopted::Existing if !has_frames => return Err(EngineError::RecordsGone { dir }),
            // Somebody removed the pins in this moment.
            Adopted::Fresh { .. } if has_seal => {
                drop(bpf);
                let left = bpf::unload(&config.bpf.pin_dir)?.unwrap_or_default();
                if !left.is_empty() {
                    tracing::warn!(programs = ?left, "the kernel still has programs that were loaded anew");
                }
                return Err(EngineError::ProgramsGone);
            }
            _ => {}
        }
        let ring = bpf
            .take_ring()
            .ok_or_else(|| EngineError::Ring(io::ErrorKind::NotConnected.into()))?;
        // Records of an attempt that ended before the programs ran are of no use: their numbers began anew.
        if has_frames && matches!(adopted, Adopted::Fresh { .. }) {
            journal.clear()?;
            journal.append_note(&Note::Base { list_len: base })?;
        }
        let describe = cgroups::describe(bpf.hierarchy());
        tracing::info!(hierarchy = %describe, controllers = ?cgroups::controllers(), ?adopted,
            "eBPF programs run");
        let budget = options.orders.budget;
        tracing::info!(
            burst = budget.burst,
            per_second = budget.per_second,
            ring_bytes = options.ring_bytes,
            "records that each pod may have"
        );
        if budget.burst < config.budget.burst {
            tracing::warn!(
                wanted = config.budget.burst,
                "budget.burst is cut to what half of bpf.ring_bytes holds"
            );
        }
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
        let setup = Setup {
            boot_id,
            hierarchy: describe,
            bpf_object: bpf.object_sha256(),
            bpf_placed: bpf.placed_sha256(),
            ima_policy,
            key: key::public(&key),
            node_key: node_key.as_ref().map(td::public_node_key),
            other_writer: !config.anchor.other_log.as_os_str().is_empty(),
            drain_timeout: Duration::from_secs(config.seal.drain_timeout),
            seal_records: config.seal.records,
            protection: protection(&options.orders),
            program: bpf.program().clone(),
            program_path: program_path.as_os_str().as_bytes().to_vec(),
        };
        let tier = tier(&early);
        let kernel = Kernel {
            bpf,
            anchors,
            other_log: config.anchor.other_log.clone(),
            canary: Canary::find(),
            program: program_path,
            marks_failed: 0,
            budgets_failed: 0,
        };
        let opened = Opened {
            dir: &dir,
            journal,
            list,
            early,
            places,
            key,
        };
        let mut engine = Engine {
            core: Core::start(kernel, setup, opened)?,
            ring,
            tier,
            denied: Denied::inherited(),
            exempt: Exempt {
                untrusted: config.enforce.exempt.clone(),
                loss: config.fail_closed.exempt.clone(),
            },
            orders: options.orders,
            node_key,
            beat: Instant::now(),
            _lock: lock,
        };
        if !engine.core.pipeline().is_loaded() {
            engine.seed()?;
        }
        engine.sync_pod_denylist()?;
        Ok(engine)
    }

    /// A verdict arrived.
    ///
    /// # Errors
    /// If the eBPF map update fails.
    pub fn apply_verdict(&mut self, verdicts: PodVerdicts) -> Result<(), EngineError> {
        let believed = verdicts.believed;
        if self.denied.apply(verdicts) && self.orders.untrusted {
            let pods: Vec<_> = self.denied.pods().iter().map(PodUid::to_string).collect();
            tracing::warn!(?pods, believed, "denied executions");
        }
        self.sync_pod_denylist()
    }

    /// Shows the programs that a collector is there, which losses are known by now, and which directories are
    /// new. To be called again and again; does something once a [`BEAT`].
    ///
    /// # Errors
    /// If the eBPF map update fails; else as [`Engine::drain`].
    pub fn keep_alive(&mut self) -> Result<(), EngineError> {
        if self.beat.elapsed() < BEAT {
            return Ok(());
        }
        self.beat = Instant::now();
        self.core.machine.bpf.beat()?;
        if self.orders.loss {
            let lost = self.core.machine.bpf.lost_reserve()?;
            // What was lost until then is known once all that came before it is on disk.
            if self.drain()? < BATCH && !self.core.is_stalled() {
                self.core.machine.bpf.acknowledge(lost)?;
            }
        }
        self.sync_pod_denylist()
    }

    /// Brings the eBPF maps up to date: where pods are, in which cgroups executions are denied and in which
    /// never.
    fn sync_pod_denylist(&mut self) -> Result<(), EngineError> {
        let mount = self.core.machine.bpf.hierarchy().mount.clone();
        self.core
            .machine
            .bpf
            .set_pod_parents(cgroups::pod_parents(&mount))?;
        if !self.orders.untrusted && !self.orders.loss {
            return Ok(self.core.machine.bpf.set_pods(BTreeMap::new())?);
        }
        let mut wanted: BTreeMap<u64, u32> = BTreeMap::new();
        let there = cgroups::pods(&mount);
        for id in self.denied.cgroups(&there, self.core.machine.bpf.pods()) {
            *wanted.entry(id).or_default() |= cgpath_ebpf_common::pod::UNTRUSTED;
        }
        for (paths, bit) in [
            (&self.exempt.untrusted, cgpath_ebpf_common::pod::EXEMPT_UNTRUSTED),
            (&self.exempt.loss, cgpath_ebpf_common::pod::EXEMPT_LOSS),
        ] {
            for id in paths.iter().filter_map(|path| cgroups::inode(&mount, path)) {
                *wanted.entry(id).or_default() |= bit;
            }
        }
        Ok(self.core.machine.bpf.set_pods(wanted)?)
    }

    /// What the programs do about others, and how many cgroups they deny something.
    pub fn denied(&self) -> (Protection, usize) {
        let denied = self.core.machine.bpf.pods().values();
        (
            protection(&self.orders),
            denied
                .filter(|bits| **bits & cgpath_ebpf_common::pod::UNTRUSTED != 0)
                .count(),
        )
    }

    /// What pods used of their budgets.
    ///
    /// # Errors
    /// If the eBPF map cannot be read.
    pub fn budgets(&self) -> Result<Budgets, EngineError> {
        let bpf = &self.core.machine.bpf;
        let (found, now_ns) = bpf.budgets()?;
        let owners = cgroups::pods(&bpf.hierarchy().mount);
        Ok(Budgets::new(self.orders.budget, &found, now_ns, &owners))
    }

    /// Scans what is older than the programs, then notes that they are loaded.
    fn seed(&mut self) -> Result<(), EngineError> {
        let mount = self.core.machine.bpf.hierarchy().mount.clone();
        let seeds = cgroups::seeds(&mount).map_err(|source| EngineError::Cgroups { path: mount, source })?;
        let processes = processes::seeds()?;
        tracing::info!(
            cgroups = seeds.len(),
            processes = processes.len(),
            "scanned what is older than the programs"
        );
        self.core.loaded(seeds.into_iter().chain(processes))
    }

    /// How full the ring is.
    ///
    /// # Errors
    /// [`EngineError::Ring`].
    pub fn ring_fill(&self) -> Result<bpf::RingFill, EngineError> {
        self.ring.fill().map_err(EngineError::Ring)
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
        self.core.boot_id()
    }

    /// The node's key, where a trust domain signs for the node.
    pub fn node_key(&self) -> Option<&SigningKey> {
        self.node_key.as_ref()
    }

    /// Where the tags lie: found out at the start.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The hash of this process' program, as the guard knows it.
    pub fn program(&self) -> &Digest {
        self.core.machine.bpf.program()
    }

    /// Where its file lies, or lay when this started.
    pub fn program_path(&self) -> &Path {
        &self.core.machine.program
    }

    /// The state machine, to look at.
    pub fn pipeline(&self) -> &Pipeline {
        self.core.pipeline()
    }

    /// Bytes of IMA's list that were read.
    pub fn list_bytes(&self) -> u64 {
        self.core.list_bytes()
    }

    /// Whether nothing is being sealed.
    pub fn is_idle(&self) -> bool {
        self.pipeline().is_idle()
    }

    /// Whether the disk takes no more records.
    pub fn is_stalled(&self) -> bool {
        self.core.is_stalled()
    }

    /// What became of requests since the last call.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        self.core.take_outcomes()
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
            let Some(kept) = self.core.keep(&item) else {
                // Not dropped: the kernel's position stays, and the record is read again.
                std::mem::forget(item);
                return Ok(taken);
            };
            drop(item);
            self.core.record(&kept)?;
        }
        Ok(BATCH)
    }

    /// See [`Core::poll_list`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn poll_list(&mut self) -> Result<(), EngineError> {
        self.core.poll_list()
    }

    /// See [`Core::request`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn request(&mut self, id: u64, nonce: Vec<u8>) -> Result<(), EngineError> {
        self.core.request(id, nonce)
    }

    /// See [`Core::hand_over`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn hand_over(&mut self, id: u64) -> Result<(), EngineError> {
        self.core.hand_over(id)
    }

    /// See [`Core::stated`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn stated(&mut self, stated: Vec<pipeline::Stated>) -> Result<(), EngineError> {
        self.core.stated(stated)
    }

    /// See [`Core::tick`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn tick(&mut self) -> Result<(), EngineError> {
        self.core.tick()
    }

    /// See [`Core::quoted`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn quoted(&mut self, id: u64, after: Option<Cursor>) -> Result<(), EngineError> {
        self.core.quoted(id, after)
    }

    /// See [`Core::unquoted`].
    ///
    /// # Errors
    /// What ends the collector.
    pub fn unquoted(&mut self, id: u64) -> Result<(), EngineError> {
        self.core.unquoted(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_goes_on_by_the_program_that_sealed_it_last_or_the_one_that_it_hands_over_to() {
        let hash = |bank: Bank, name: &str| bank.hash(&[name.as_bytes()]);
        let stated = |successor: Option<&str>| Collectors {
            program: hash(Bank::Sha256, "one"),
            successor: successor.map(|name| hash(Bank::Sha512, name)),
        };
        let asks = |stated: Option<&Collectors>, name: &str| {
            let own = |bank: Bank| Ok(hash(bank, name));
            may_go_on(stated, own)
        };
        assert!(asks(Some(&stated(None)), "one").is_ok());
        assert!(asks(Some(&stated(Some("two"))), "two").is_ok());
        for (successor, name, expected) in [
            (None, "two", hash(Bank::Sha256, "one")),
            (Some("two"), "one", hash(Bank::Sha512, "two")),
            (Some("two"), "three", hash(Bank::Sha512, "two")),
        ] {
            let refused = asks(Some(&stated(successor)), name).unwrap_err();
            let said = refused.to_string();
            let EngineError::NotHandedOver { found, expected: is } = refused else {
                panic!("{refused}")
            };
            assert_eq!((*found, &*is), (hash(is.bank(), name), &expected));
            assert!(
                said.contains("cgpathd handover") && said.contains("reboot"),
                "{said}"
            );
        }
        let refused = asks(None, "one");
        assert!(matches!(refused, Err(EngineError::CannotHandOver)));
    }
}
