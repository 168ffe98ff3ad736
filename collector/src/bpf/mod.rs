//! Loads the eBPF programs, or takes over those that an earlier collector left running, and reads their
//! records.
//!
//! Promises: programs, links and maps are pinned in one bpffs directory and outlive the process; a record
//! leaves the ring buffer only when its [`Item`] is dropped; what is missing on this kernel is an error that
//! names it.
//! Not here: what records mean and how they are joined (see the rest of the crate), checks for people
//! (`check`).

mod budgets;
pub mod cgroups;
mod error;
mod guard;
mod layout;
mod load;
mod marks;
mod object;
mod places;
mod requirements;
mod ring;
mod table;
mod unload;

pub use budgets::Budget;
pub use cgpath_ebpf_common::Budget as PodBudget;
pub use cgroups::Hierarchy;
pub use error::{Error, Result};
pub use guard::{Orders, own_program};
pub use ring::{Item, Ring, RingFill};
pub use unload::{PATIENCE as UNLOAD_PATIENCE, unload};

use aya::maps::{Array, MapData};
use cgpath_ebpf_common::Counters;
use cgpath_evidence::{Bank, Digest};
pub use layout::{knows_overlay, resolve};
pub use load::DIRECT_CALLS_HINT;
use load::{Attached, Controls, Loaded, Plain};
pub use object::interface;
use places::WITHOUT_GATE;
pub use requirements::lsm_parameter;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Where programs, links and maps are pinned.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/ima-cgpath";

/// Size of the ring buffer, in bytes.
pub const DEFAULT_RING_BYTES: u32 = 16 << 20;

/// The longest file that is read for its hash, in MiB.
pub const DEFAULT_MAX_HASH_MIB: u32 = 4096;

/// What to load and where.
#[derive(Debug, Clone)]
pub struct ProgramOptions<'a> {
    /// The object file's bytes, any alignment.
    pub object: &'a [u8],
    /// Directory of the pins, on bpffs; made, and bpffs mounted on `/sys/fs/bpf`, if needed.
    pub pin_dir: PathBuf,
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size. Used for a new load
    /// only.
    pub ring_bytes: u32,
    /// Files that are longer, in MiB, are not read for their hash. Used for a new load only.
    pub max_hash_mib: u32,
    /// Whether files are read for their hash where a server answers for them. Used for a new load only.
    pub hash_served: bool,
    /// The cgroup hierarchy that separates tasks; `None` finds it out with [`Hierarchy::detect`].
    pub hierarchy: Option<Hierarchy>,
    /// The running kernel's type information.
    pub kernel_btf: PathBuf,
    /// Whether IMA found a TPM when it started: its entries' arrays of digests have one for each bank then.
    pub ima_has_tpm: bool,
    /// The algorithm by which IMA hashes files: by this hash of its program a collector is known to the
    /// guard.
    pub identity: Bank,
    /// What the programs are to do about others.
    pub orders: Orders,
    /// SHA-256 of an object whose programs are taken over though this one is another: that of the last
    /// checkpoint.
    pub handed_over: Option<[u8; 32]>,
    /// Whether this object's programs take the places of those: a collector does that which was handed over
    /// to, and no other.
    pub replaces: bool,
}

impl<'a> ProgramOptions<'a> {
    /// The defaults for this object.
    pub fn new(object: &'a [u8]) -> ProgramOptions<'a> {
        ProgramOptions {
            object,
            pin_dir: DEFAULT_PIN_DIR.into(),
            ring_bytes: DEFAULT_RING_BYTES,
            max_hash_mib: DEFAULT_MAX_HASH_MIB,
            hash_served: false,
            hierarchy: None,
            kernel_btf: "/sys/kernel/btf/vmlinux".into(),
            ima_has_tpm: true,
            identity: Bank::Sha256,
            orders: Orders::default(),
            handed_over: None,
            replaces: false,
        }
    }
}

/// Whether the programs are new or were running already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// Loaded now: sequence numbers start at 1. An earlier attempt that did not finish may have been removed.
    Fresh {
        /// Whether pins of a load that never finished were found and removed.
        removed_leftovers: bool,
    },
    /// Running since an earlier load of the same object, or of one that was handed over; the ring holds what
    /// nobody has consumed yet.
    Existing,
}

/// How one of the programs fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramState {
    /// Its name in the object.
    pub name: &'static str,
    /// The kernel's id of the program.
    pub id: u32,
    /// Events that it missed because it was running already on that CPU, and that no other program recorded:
    /// lost records.
    pub recursion_misses: u64,
    /// Events that it missed for the same reason and that its twin recorded.
    pub covered_misses: u64,
    /// Instructions that the kernel's verifier walked through at load: of what a gate goes on in, not of the
    /// gate.
    pub verified_instructions: u32,
    /// Why it no longer sees events (its link or pin is gone or belongs to another program); `None` if it
    /// does.
    pub detached: Option<String>,
}

/// Counters of the kernel side at one moment. All only ever grow while the programs stay loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountersSnapshot {
    /// Last sequence number handed out; records up to it are in the ring, consumed, or counted as lost.
    pub seq: u64,
    /// Records lost because the ring buffer was full. Each left a hole in the sequence.
    pub lost_reserve: u64,
    /// Reads of kernel memory that failed.
    pub read_failed: u64,
    /// Hashes that the kernel refused.
    pub hash_failed: u64,
    /// Paths that the kernel refused or that did not fit.
    pub path_failed: u64,
    /// Calls of `ima_add_template_entry` that the first of the two programs on it saw.
    pub entry_calls: u64,
    /// Calls of `ima_add_template_entry` that one of the two took up.
    pub entry_taken: u64,
    /// Marks of threads inside of `ima_add_template_entry` that could not be made, since there were too many.
    pub marks_failed: u64,
    /// Budgets of pods that could not be begun, since there were too many.
    pub budgets_failed: u64,
    /// One for each program.
    pub programs: Vec<ProgramState>,
    /// `kernel.ftrace_enabled`: if off, fexit and LSM programs silently see nothing. `None` where there is no
    /// such setting.
    pub ftrace_enabled: Option<bool>,
}

impl CountersSnapshot {
    /// Records lost since the load, for whatever reason.
    pub fn lost(&self) -> u64 {
        self.programs
            .iter()
            .fold(self.lost_reserve, |sum, p| sum.saturating_add(p.recursion_misses))
    }

    /// Calls of `ima_add_template_entry` that both programs on it missed: all that the first saw or missed,
    /// less those taken up.
    fn entries_lost(&self) -> u64 {
        let missed = self
            .programs
            .iter()
            .find(|p| p.name == object::ENTRY)
            .map_or(0, |p| p.recursion_misses);
        self.entry_calls
            .saturating_add(missed)
            .saturating_sub(self.entry_taken)
    }

    /// Shares the misses of the two programs out into lost and covered ones.
    fn settle(mut self, lost: u64) -> CountersSnapshot {
        for program in &mut self.programs {
            let lost = match program.name {
                object::ENTRY => lost,
                object::ENTRY_TWIN => 0,
                // A mark that was not made is no record that is lost: until its record comes nobody knows of
                // the entry.
                object::BEGUN | object::BEGUN_TWIN => 0,
                _ => continue,
            };
            program.covered_misses = program.recursion_misses.saturating_sub(lost);
            program.recursion_misses = lost;
        }
        self
    }

    /// Whether every program is attached and nothing switches them off.
    pub fn all_attached(&self) -> bool {
        self.ftrace_enabled != Some(false) && self.programs.iter().all(|p| p.detached.is_none())
    }
}

/// The ring of programs that run, for a caller that wants no more of them.
pub struct Waiting {
    /// What waits.
    pub ring: Ring,
    _lock: nix::fcntl::Flock<fs::File>,
}

/// The ring pinned in `pin_dir`; `None` if no programs are there.
///
/// # Errors
/// [`Error::Busy`] if a collector holds it, [`Error::Pin`] if it is not ours.
pub fn waiting(pin_dir: &Path) -> Result<Option<Waiting>> {
    let found = load::ring_alone(pin_dir)?;
    Ok(found.map(|(ring, lock)| Waiting {
        ring: Ring::new(ring),
        _lock: lock,
    }))
}

/// The loaded programs. Dropping it leaves them running: they are pinned.
pub struct Bpf {
    program: Digest,
    object_sha256: [u8; 32],
    placed_sha256: [u8; 32],
    hierarchy: Hierarchy,
    loaded_ns: u64,
    programs: Vec<Attached>,
    counters: Array<MapData, Plain<Counters>>,
    marks: marks::Marks,
    budgets: budgets::Budgets,
    controls: Controls,
    orders: guard::Standing,
    ring: Option<Ring>,
    /// Calls of `ima_add_template_entry` known to be lost.
    entries_lost: AtomicU64,
    _lock: nix::fcntl::Flock<fs::File>,
}

impl Bpf {
    /// Takes over the programs pinned in `options.pin_dir`, or loads, attaches and pins them if there are
    /// none.
    ///
    /// Takes a second or two for a new load. A load that fails leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Missing`] if the kernel lacks a type, member, function or variable; [`Error::OtherObject`] if
    /// what is pinned was made from another object; [`Error::Pin`] if pins were removed or replaced;
    /// [`Error::Busy`] if another collector holds them; else what the kernel said.
    pub fn load_or_adopt(options: &ProgramOptions<'_>) -> Result<(Bpf, Adopted)> {
        let program = own_program(options.identity)?;
        let object_sha256 = Sha256::digest(options.object).into();
        let (loaded, adopted, hierarchy) = load::load_or_adopt(options, object_sha256)?;
        let Loaded {
            programs,
            ring,
            counters,
            marks,
            budgets,
            controls,
            meta,
            lock,
        } = loaded;
        let mut bpf = Bpf {
            program,
            object_sha256: meta.object,
            placed_sha256: meta.placed,
            hierarchy,
            loaded_ns: meta.loaded_ns,
            programs,
            counters,
            marks,
            budgets,
            controls,
            orders: guard::Standing::default(),
            ring: Some(Ring::new(ring)),
            entries_lost: AtomicU64::new(0),
            _lock: lock,
        };
        bpf.introduce(options)?;
        if bpf.placed_sha256 != object_sha256 {
            tracing::warn!(
                running = hex::encode(bpf.placed_sha256),
                "the eBPF programs of an earlier collector run on: this one's are loaded at the next boot"
            );
        }
        if bpf.object_sha256 != bpf.placed_sha256 {
            tracing::info!(
                attached = hex::encode(bpf.object_sha256),
                placed = hex::encode(bpf.placed_sha256),
                without_gate = ?WITHOUT_GATE,
                "programs of two objects run: those without a gate are replaced at the next boot"
            );
        }
        Ok((bpf, adopted))
    }

    /// The ring buffer, once: it moves to its consumer. `None` the second time.
    pub fn take_ring(&mut self) -> Option<Ring> {
        self.ring.take()
    }

    /// Counters and the state of each program now.
    ///
    /// # Errors
    /// [`Error::Kernel`] or [`Error::Io`] if the kernel refuses to answer.
    pub fn counters(&self) -> Result<CountersSnapshot> {
        let mut snapshot = self.sample()?;
        let known = self.entries_lost.load(Ordering::Relaxed);
        // Numbers that change while they are read one after the other may show a loss that is none: not for
        // long.
        let mut lost = snapshot.entries_lost();
        for pause in [1, 10, 40] {
            if lost <= known {
                break;
            }
            std::thread::sleep(Duration::from_millis(pause));
            snapshot = self.sample()?;
            lost = lost.min(snapshot.entries_lost());
        }
        // A loss once seen is never taken back.
        let lost = self.entries_lost.fetch_max(lost, Ordering::Relaxed).max(lost);
        Ok(snapshot.settle(lost))
    }

    /// Misses first, then calls, then calls taken up: what happens meanwhile can hide a loss, until next
    /// time, rather than invent one.
    fn sample(&self) -> Result<CountersSnapshot> {
        let programs = self.programs.iter().map(state).collect::<Result<_>>()?;
        let entry_calls = self.read_counters()?.entry_calls;
        let c = self.read_counters()?;
        Ok(CountersSnapshot {
            seq: c.seq,
            lost_reserve: c.lost_reserve,
            read_failed: c.read_failed,
            hash_failed: c.hash_failed,
            path_failed: c.path_failed,
            entry_calls,
            entry_taken: c.entry_taken,
            marks_failed: c.marks_failed,
            budgets_failed: c.budgets_failed,
            programs,
            ftrace_enabled: ftrace_enabled()?,
        })
    }

    fn read_counters(&self) -> Result<Counters> {
        match self.counters.get(&0, 0) {
            Ok(Plain(counters)) => Ok(counters),
            Err(source) => Err(Error::Kernel {
                what: "read",
                name: "the counters".into(),
                source: Box::new(source),
            }),
        }
    }

    /// The hash by which the guard knows this process' program.
    pub fn program(&self) -> &Digest {
        &self.program
    }

    /// SHA-256 of the object file of what is attached.
    pub fn object_sha256(&self) -> [u8; 32] {
        self.object_sha256
    }

    /// SHA-256 of the object file of the programs that the gates go on in; `None` where it is the same.
    pub fn placed_sha256(&self) -> Option<[u8; 32]> {
        (self.placed_sha256 != self.object_sha256).then_some(self.placed_sha256)
    }

    /// The hierarchy whose directories the records name.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// CLOCK_BOOTTIME when all programs were attached, nanoseconds: what happened before has no record.
    pub fn loaded_ns(&self) -> u64 {
        self.loaded_ns
    }
}

/// The state of one program: the kernel's counters from its file descriptor's /proc entry, and whether what
/// is pinned is still what was attached.
fn state(program: &Attached) -> Result<ProgramState> {
    let mut text = String::new();
    (&program.fdinfo)
        .rewind()
        .and_then(|()| (&program.fdinfo).read_to_string(&mut text))
        .map_err(|source| Error::Io {
            what: "read",
            path: format!("fdinfo of the program {}", program.name).into(),
            source,
        })?;
    let misses = fdinfo_field(&text, "recursion_misses");
    let placed = program.placed.as_ref();
    Ok(ProgramState {
        name: program.name,
        id: program.id,
        recursion_misses: misses.ok_or_else(|| load::not_shown("recursion_misses"))?,
        covered_misses: 0,
        verified_instructions: placed.map_or(program.verified_instructions, |placed| {
            placed.verified_instructions
        }),
        detached: detached(program).or_else(|| placed.and_then(places::Placed::gone)),
    })
}

/// Bytes of a page.
fn page_size() -> std::io::Result<usize> {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
    let size = size.and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| std::io::ErrorKind::Unsupported.into())
}

/// A number in the text of /proc/self/fdinfo. Source: kernel/bpf/syscall.c, `bpf_prog_show_fdinfo`.
fn fdinfo_field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

/// Why a program does not see events any more, or will not once this process ends.
fn detached(program: &Attached) -> Option<String> {
    // What is pinned shows the link that this process holds, too: it is the same one or the pin was replaced.
    let pinned = aya::programs::links::PinnedLink::from_pin(&program.link_pin);
    let pinned = pinned.and_then(|link| aya::programs::links::FdLink::from(link).info());
    match pinned {
        Err(error) => Some(format!(
            "{}: {}",
            program.link_pin.display(),
            load::with_causes(&error)
        )),
        Ok(info) if info.id() != program.link_id => {
            Some(format!("{} was replaced", program.link_pin.display()))
        }
        Ok(info) if info.program_id() != program.id => {
            Some(format!("its link runs program {} instead", info.program_id()))
        }
        Ok(_) => None,
    }
}

fn ftrace_enabled() -> Result<Option<bool>> {
    let path = Path::new("/proc/sys/kernel/ftrace_enabled");
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim() != "0")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            what: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether programs are pinned in `pin_dir`.
///
/// # Errors
/// If that cannot be seen.
pub fn are_pinned(pin_dir: &Path) -> Result<bool> {
    load::exists(&load::meta_pin(pin_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_in_the_kernels_text_and_only_as_whole_names() {
        let text = "pos:\t0\nprog_id:\t7\nrun_cnt:\t3\nrecursion_misses:\t12\nverified_insns:\t3450\n";
        assert_eq!(fdinfo_field(text, "recursion_misses"), Some(12));
        assert_eq!(fdinfo_field(text, "verified_insns"), Some(3450));
        assert_eq!(fdinfo_field(text, "misses"), None);
        assert_eq!(fdinfo_field("recursion_misses:\t-1\n", "recursion_misses"), None);
    }

    #[test]
    fn losses_of_every_kind_add_up_and_never_wrap() {
        let program = |misses| ProgramState {
            name: "x",
            id: 1,
            recursion_misses: misses,
            covered_misses: 0,
            verified_instructions: 0,
            detached: None,
        };
        let mut counters = CountersSnapshot {
            seq: 9,
            lost_reserve: 2,
            read_failed: 0,
            hash_failed: 0,
            path_failed: 0,
            entry_calls: 0,
            entry_taken: 0,
            marks_failed: 0,
            budgets_failed: 0,
            programs: vec![program(1), program(4)],
            ftrace_enabled: Some(true),
        };
        assert_eq!(counters.lost(), 7);
        assert!(counters.all_attached());
        counters.lost_reserve = u64::MAX;
        assert_eq!(counters.lost(), u64::MAX);
        counters.ftrace_enabled = Some(false);
        assert!(!counters.all_attached());
    }

    #[test]
    fn what_the_twin_took_up_is_not_lost_and_what_neither_did_is() {
        let program = |name, misses| ProgramState {
            name,
            id: 1,
            recursion_misses: misses,
            covered_misses: 0,
            verified_instructions: 0,
            detached: None,
        };
        // 100 calls: the first missed 5, the twin 4, and one of these was missed by both.
        let snapshot = CountersSnapshot {
            seq: 99,
            lost_reserve: 0,
            read_failed: 0,
            hash_failed: 0,
            path_failed: 0,
            entry_calls: 95,
            entry_taken: 99,
            marks_failed: 0,
            budgets_failed: 0,
            programs: vec![
                program(object::ENTRY, 5),
                program(object::ENTRY_TWIN, 4),
                program(object::BEGUN, 6),
                program("executed", 0),
            ],
            ftrace_enabled: None,
        };
        assert_eq!(snapshot.entries_lost(), 1);
        let settled = snapshot.settle(1);
        assert_eq!(settled.lost(), 1);
        let shares: Vec<_> = settled
            .programs
            .iter()
            .map(|p| (p.recursion_misses, p.covered_misses))
            .collect();
        assert_eq!(shares, [(1, 4), (0, 4), (0, 6), (0, 0)]);
        // A call that is under way: taken up and not yet counted as seen.
        let early = CountersSnapshot {
            entry_taken: 101,
            ..settled
        };
        assert_eq!(early.entries_lost(), 0);
    }
}
