//! Loads the eBPF programs, or takes over those that an earlier collector left running, and reads their records.
//!
//! Promises: programs, links and maps are pinned in one bpffs directory and outlive the process; a record leaves
//! the ring buffer only when its [`Item`] is dropped; what is missing on this kernel is an error that names it.
//! Not here: what records mean and how they are joined (see the rest of the crate), checks for people (`check`).

pub mod cgroups;
pub mod decode;
mod error;
mod ring;

pub use cgroups::Hierarchy;
pub use error::{Error, Result};
pub use ring::{Item, Ring};

use std::path::PathBuf;

/// Where programs, links and maps are pinned.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/ima-cgpath";

/// Size of the ring buffer, in bytes.
pub const DEFAULT_RING_BYTES: u32 = 4 << 20;

/// What to load and where.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// The object file's bytes, any alignment.
    pub object: &'a [u8],
    /// Directory of the pins, on bpffs; made, and bpffs mounted on `/sys/fs/bpf`, if needed.
    pub pin_dir: PathBuf,
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size. Used for a new load only.
    pub ring_bytes: u32,
    /// The cgroup hierarchy to tell tasks apart by; `None` finds it out with [`Hierarchy::detect`].
    pub hierarchy: Option<Hierarchy>,
    /// The running kernel's type information.
    pub kernel_btf: PathBuf,
}

impl<'a> Options<'a> {
    /// The defaults for this object.
    pub fn new(object: &'a [u8]) -> Options<'a> {
        Options {
            object,
            pin_dir: DEFAULT_PIN_DIR.into(),
            ring_bytes: DEFAULT_RING_BYTES,
            hierarchy: None,
            kernel_btf: "/sys/kernel/btf/vmlinux".into(),
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
    /// Running since an earlier load of the same object; the ring holds what nobody has consumed yet.
    Existing,
}

/// How one of the programs fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramState {
    /// Its name in the object.
    pub name: &'static str,
    /// The kernel's id of the program.
    pub id: u32,
    /// Events that it missed because it was running already on that CPU: lost records.
    pub recursion_misses: u64,
    /// Instructions that the kernel's verifier walked through at load.
    pub verified_instructions: u32,
    /// Why it no longer sees events (its link or pin is gone or belongs to another program); `None` if it does.
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
    /// One for each program.
    pub programs: Vec<ProgramState>,
    /// `kernel.ftrace_enabled`: if off, fexit and LSM programs silently see nothing. `None` where there is no such
    /// setting.
    pub ftrace_enabled: Option<bool>,
}

impl CountersSnapshot {
    /// Records lost since the load, for whatever reason.
    pub fn lost(&self) -> u64 {
        self.programs.iter().fold(self.lost_reserve, |sum, p| sum.saturating_add(p.recursion_misses))
    }

    /// Whether every program is attached and nothing switches them off.
    pub fn all_attached(&self) -> bool {
        self.ftrace_enabled != Some(false) && self.programs.iter().all(|p| p.detached.is_none())
    }
}

/// The loaded programs. Dropping it leaves them running: they are pinned.
#[derive(Debug)]
pub struct Bpf {
    object_sha256: [u8; 32],
    hierarchy: Hierarchy,
    loaded_ns: u64,
    ring: Option<Ring>,
}

impl Bpf {
    /// Takes over the programs pinned in `options.pin_dir`, or loads, attaches and pins them if there are none.
    ///
    /// # Errors
    /// [`Error::Missing`] if the kernel lacks a type, member, function or variable; [`Error::OtherObject`] if what is
    /// pinned was made from another object; [`Error::Busy`] if another collector holds it; else what the kernel said.
    pub fn load_or_adopt(options: &Options<'_>) -> Result<(Bpf, Adopted)> {
        Err(Error::Missing { what: "loader".into(), hint: format!("{} bytes given", options.object.len()) })
    }

    /// The ring buffer, once: it moves to whoever consumes it. `None` the second time.
    pub fn take_ring(&mut self) -> Option<Ring> {
        self.ring.take()
    }

    /// Counters and the state of each program now.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn counters(&self) -> Result<CountersSnapshot> {
        Err(Error::Missing { what: "counters".into(), hint: String::new() })
    }

    /// SHA-256 of the object file that runs.
    pub fn object_sha256(&self) -> [u8; 32] {
        self.object_sha256
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

/// Removes all pins in `pin_dir`, and so detaches and unloads the programs. Nothing there is not an error.
///
/// # Errors
/// If a pin cannot be removed.
pub fn unload(pin_dir: &std::path::Path) -> Result<()> {
    match std::fs::remove_dir_all(pin_dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { what: "remove the pins", path: pin_dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}
