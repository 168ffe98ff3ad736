//! Writes into the eBPF maps what the programs guard, whom they deny executions, and that a collector is
//! there.
//!
//! Promises: what is guarded is named by numbers that the kernel gave (ids, inodes, devices), never by paths;
//! orders of an earlier collector end in the moment in which new ones begin. Not here: what the orders follow
//! from (configuration and verdicts).

use super::{Bpf, Budget, Error, ProgramOptions, Result, load};
use crate::decode::HASH_ALGOS;
use cgpath_ebpf_common::{Loss, Settings, TICK_NS, class, mode};
use cgpath_evidence::{Bank, Digest, GuardMode};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The number by which the programs know a mode.
fn number(of: GuardMode) -> u32 {
    match of {
        GuardMode::Off => mode::OFF,
        GuardMode::Record => mode::RECORD,
        GuardMode::Deny => mode::DENY,
    }
}

/// What the programs are to do from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// About our own parts.
    pub guard: GuardMode,
    /// About others who open the TPM.
    pub tpm: GuardMode,
    /// Whether executions are denied in the pods of [`Bpf::set_pods`], and in those with too many entries.
    pub untrusted: bool,
    /// Whether executable mappings are, too.
    pub untrusted_mappings: bool,
    /// Nobody is denied for that once no collector was there for so long.
    pub untrusted_lapse: Duration,
    /// Whether executions are denied in pods from a lost record on until it is acknowledged.
    pub loss: bool,
    /// Nobody is denied for that for longer.
    pub loss_lapse: Duration,
    /// What a pod may have recorded.
    pub budget: Budget,
}

impl Default for Orders {
    fn default() -> Orders {
        Orders {
            guard: GuardMode::Off,
            tpm: GuardMode::Off,
            untrusted: false,
            untrusted_mappings: false,
            untrusted_lapse: Duration::ZERO,
            loss: false,
            loss_lapse: Duration::ZERO,
            budget: Budget::default(),
        }
    }
}

/// What the maps hold.
#[derive(Debug, Default)]
pub(super) struct Standing {
    settings: Settings,
    pods: BTreeMap<u64, u32>,
    parents: BTreeSet<u64>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn denied(on: bool) -> u32 {
    if on { mode::DENY } else { mode::OFF }
}

fn io_error(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    let path = path.as_ref().to_owned();
    move |source| Error::Io { what, path, source }
}

/// The hash of the program that this process runs. It is read once: nobody can write to it while it runs
/// (ETXTBSY), and a start asks for it several times.
///
/// # Errors
/// [`Error::Io`] if its file cannot be read.
pub fn own_program(bank: Bank) -> Result<Digest> {
    static KNOWN: Mutex<Vec<Digest>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(digest) = known.iter().find(|digest| digest.bank() == bank) {
        return Ok(digest.clone());
    }
    let program = fs::read("/proc/self/exe").map_err(io_error("read", "/proc/self/exe"))?;
    let digest = bank.hash(&[&program]);
    known.push(digest.clone());
    Ok(digest)
}

/// A hash as the programs compare it: the kernel's number of the algorithm, and the bytes in words.
fn identity(program: &Digest) -> (u32, [u64; 8]) {
    let algorithm = HASH_ALGOS
        .iter()
        .find(|(bank, _)| *bank == program.bank())
        .map_or(0, |(_, number)| *number);
    let mut words = [0u64; 8];
    for (word, bytes) in words.iter_mut().zip(program.bytes().chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    (algorithm, words)
}

impl Bpf {
    /// From now on root that executes this program, untraced, is the collector to the guard, and who executes
    /// another one is not. What runs already stays what it is.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the map cannot be written.
    pub fn let_in(&mut self, program: &Digest) -> Result<()> {
        let (algorithm, words) = identity(program);
        self.controls
            .identity
            .insert(algorithm, words, 0)
            .map_err(load::kernel("write", "IDENTITY"))
    }

    /// Names what is guarded, who this process is, and what is to be done about others.
    pub(super) fn introduce(&mut self, options: &ProgramOptions<'_>) -> Result<()> {
        let program = self.program.clone();
        self.let_in(&program)?;

        let mut guarded: BTreeSet<u64> = BTreeSet::new();
        guarded.extend(self.controls.map_ids.iter().map(|id| class::MAP | u64::from(*id)));
        for program in &self.programs {
            guarded.insert(class::PROGRAM | u64::from(program.id));
            guarded.insert(class::LINK | u64::from(program.link_id));
            guarded.extend(
                program
                    .placed
                    .iter()
                    .map(|placed| class::PROGRAM | u64::from(placed.id)),
            );
        }
        guarded.extend(tpm_devices(Path::new("/sys/class")).map(|device| class::DEVICE | u64::from(device)));
        guarded.extend(
            tpm_switches(Path::new("/sys/class/tpm")).map(|ino| class::SYSFS | (ino & !(0xff << 56))),
        );
        let known: BTreeSet<u64> = self.controls.guarded.keys().filter_map(|key| key.ok()).collect();
        let kernel = || load::kernel("write", "GUARDED");
        for key in guarded.difference(&known) {
            self.controls.guarded.insert(key, 1, 0).map_err(kernel())?;
        }
        for key in known.difference(&guarded) {
            self.controls.guarded.remove(key).map_err(kernel())?;
        }

        let pins = fs::metadata(&options.pin_dir).map_err(io_error("look at", &options.pin_dir))?;
        let process = procfs::process::Process::myself().and_then(|p| p.stat());
        let stat = process.map_err(|e| Error::Io {
            what: "read",
            path: "/proc/self/stat".into(),
            source: io::Error::other(e),
        })?;
        let load::Plain(before) = self
            .controls
            .settings
            .get(&0, 0)
            .map_err(load::kernel("read", "SETTINGS"))?;
        let orders = &options.orders;
        let (budget_unit_ns, budget_ahead_ns) = orders.budget.terms();
        self.orders.settings = Settings {
            collector_start: stat.starttime,
            collector_tgid: std::process::id(),
            pins_dev: (nix::sys::stat::major(pins.dev()) << 20) | nix::sys::stat::minor(pins.dev()),
            pins_ino: pins.ino(),
            guard: number(orders.guard),
            tpm: number(orders.tpm),
            untrusted: denied(orders.untrusted),
            untrusted_mappings: denied(orders.untrusted_mappings),
            untrusted_lapse_ns: nanos(orders.untrusted_lapse),
            loss: denied(orders.loss),
            loss_lapse_ns: nanos(orders.loss_lapse),
            lost_acknowledged: before.lost_acknowledged,
            heartbeat_ns: 0,
            budget_unit_ns,
            budget_ahead_ns,
            budget_entries: orders.budget.entries.into(),
        };
        // Whom an earlier collector denied stays denied until the next verdict: a restart opens nothing.
        self.orders.pods = self.controls.pods.iter().filter_map(|item| item.ok()).collect();
        self.orders.parents = self.controls.parents.keys().filter_map(|key| key.ok()).collect();
        self.write_settings()
    }

    /// What [`Bpf::set_pods`] was given last, by this collector or the one before.
    pub fn pods(&self) -> &BTreeMap<u64, u32> {
        &self.orders.pods
    }

    /// Records for which there was no room, so far.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel refuses to answer.
    pub fn lost_reserve(&self) -> Result<u64> {
        Ok(self.read_counters()?.lost_reserve)
    }

    /// Says that a collector is there.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the map cannot be written.
    pub fn beat(&mut self) -> Result<()> {
        self.write_settings()
    }

    /// Says that losses up to this count of [`super::CountersSnapshot::lost_reserve`] are known and stand on
    /// disk.
    ///
    /// # Errors
    /// As [`Bpf::beat`].
    pub fn acknowledge(&mut self, lost_reserve: u64) -> Result<()> {
        if self.orders.settings.lost_acknowledged == lost_reserve {
            return Ok(());
        }
        self.orders.settings.lost_acknowledged = lost_reserve;
        let nothing = load::Plain(Loss::default());
        // First, so that a loss in between counts from now on.
        self.controls
            .loss
            .set(0, nothing, 0)
            .map_err(load::kernel("write", "LOSS"))?;
        self.write_settings()
    }

    /// What `cgpath_ebpf_common::pod` says of these cgroups, and of no others.
    ///
    /// # Errors
    /// As [`Bpf::beat`]; what was changed before stays.
    pub fn set_pods(&mut self, wanted: BTreeMap<u64, u32>) -> Result<()> {
        let kernel = || load::kernel("write", "PODS");
        let gone: Vec<u64> = self
            .orders
            .pods
            .keys()
            .filter(|id| !wanted.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            self.controls.pods.remove(&id).map_err(kernel())?;
            self.orders.pods.remove(&id);
        }
        for (id, bits) in wanted {
            if self.orders.pods.get(&id) != Some(&bits) {
                self.controls.pods.insert(id, bits, 0).map_err(kernel())?;
                self.orders.pods.insert(id, bits);
            }
        }
        Ok(())
    }

    /// The directories in which pods have theirs, and no others: what is right below one of them has a budget
    /// of its own.
    ///
    /// # Errors
    /// As [`Bpf::beat`]; what was changed before stays.
    pub fn set_pod_parents(&mut self, wanted: BTreeSet<u64>) -> Result<()> {
        let kernel = || load::kernel("write", "PARENTS");
        for id in self.orders.parents.difference(&wanted) {
            self.controls.parents.remove(id).map_err(kernel())?;
        }
        for id in wanted.difference(&self.orders.parents) {
            self.controls.parents.insert(id, 1, 0).map_err(kernel())?;
        }
        self.orders.parents = wanted;
        Ok(())
    }

    fn write_settings(&mut self) -> Result<()> {
        self.orders.settings.heartbeat_ns = load::boot_ns()?;
        let settings = load::Plain(self.orders.settings);
        self.controls
            .settings
            .set(0, settings, 0)
            .map_err(load::kernel("write", "SETTINGS"))
    }
}

/// Numbers of the TPM's devices, `major << 20 | minor`, as sysfs shows them.
fn tpm_devices(classes: &Path) -> impl Iterator<Item = u32> + use<> {
    let directories = ["tpm", "tpmrm"].map(|class| classes.join(class));
    directories
        .into_iter()
        .flat_map(|class| fs::read_dir(class).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("dev")).ok()?;
            let (major, minor) = text.trim().split_once(':')?;
            Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
        })
}

/// Inode numbers of the files by which a TPM's driver lets go of it, or the bus of the device.
fn tpm_switches(class: &Path) -> impl Iterator<Item = u64> + use<> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(class).into_iter().flatten().flatten() {
        let Ok(device) = fs::canonicalize(entry.path().join("device")) else {
            continue;
        };
        let driver = device.join("driver");
        files.extend([driver.join("unbind"), driver.join("bind")]);
        for above in device.ancestors().take_while(|d| d.starts_with("/sys/devices/")) {
            files.extend([above.join("remove"), above.join("eject")]);
        }
    }
    files
        .into_iter()
        .filter_map(|file| fs::metadata(file).ok().map(|m| m.ino()))
}

/// `cgpath_ebpf_common`'s tick is that of this machine's /proc.
pub(super) fn check_tick() -> Result<()> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten();
    if ticks.is_some_and(|n| u64::try_from(n).is_ok_and(|n| n * TICK_NS == 1_000_000_000)) {
        return Ok(());
    }
    Err(Error::Missing {
        what: "clock tick of 100 Hz in /proc".to_owned(),
        hint: format!("it is {ticks:?}; please report the machine"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_ebpf_common::{Refusal, Standing, pod};

    /// What the programs ask before each execution in a pod.
    #[test]
    fn a_pod_is_refused_for_what_a_verdict_says_or_for_its_entries_and_never_for_longer_than_the_lapse() {
        const LAPSE: u64 = 300;
        let refusal = |bits, entries, away_ns, most| {
            let standing = Standing {
                bits,
                entries,
                away_ns,
            };
            standing.refusal(LAPSE, most)
        };
        let (untrusted, exempt, other) = (pod::UNTRUSTED, pod::EXEMPT_UNTRUSTED, pod::EXEMPT_LOSS | 1 << 31);
        // A limit that is not set limits nothing.
        for entries in [0, 1, u64::MAX] {
            assert_eq!(refusal(0, entries, 0, 0), None);
            assert_eq!(refusal(untrusted, entries, 0, 0), Some(Refusal::Untrusted));
        }
        // So many are allowed; the next execution is not.
        for (entries, refused) in [(0, false), (69, false), (70, true), (71, true), (u64::MAX, true)] {
            for bits in [0, other] {
                let why = refused.then_some(Refusal::Entries);
                assert_eq!(refusal(bits, entries, 0, 70), why, "{entries} {bits}");
            }
            assert_eq!(refusal(untrusted, entries, 0, 70), Some(Refusal::Untrusted));
            // Neither where it is exempt, nor once no collector was there for the lapse.
            for (bits, away) in [
                (exempt, 0),
                (exempt | untrusted, 0),
                (0, LAPSE),
                (untrusted, LAPSE),
            ] {
                assert_eq!(refusal(bits, entries, away, 70), None);
            }
        }
        assert_eq!(refusal(untrusted, 0, LAPSE - 1, 0), Some(Refusal::Untrusted));
    }

    #[test]
    fn a_program_is_known_by_the_kernels_number_of_the_algorithm_and_all_of_its_bytes() {
        let content = b"a program";
        for (bank, number) in [(Bank::Sha1, 2), (Bank::Sha256, 4), (Bank::Sha512, 6)] {
            let digest = bank.hash(&[content]);
            let (algorithm, words) = identity(&digest);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            assert_eq!((algorithm, &bytes[..bank.len()]), (number, digest.bytes()));
            assert!(bytes[bank.len()..].iter().all(|byte| *byte == 0));
        }
        assert_ne!(own_program(Bank::Sha256).unwrap(), Bank::Sha256.hash(&[content]));
    }

    #[test]
    fn devices_of_the_tpm_are_those_that_sysfs_names() {
        let dir = tempfile::tempdir().unwrap();
        for (path, dev) in [
            ("tpm/tpm0", "10:224\n"),
            ("tpmrm/tpmrm0", "253:65536\n"),
            ("tpm/odd", "x\n"),
        ] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
            fs::write(dir.path().join(path).join("dev"), dev).unwrap();
        }
        let found: BTreeSet<u32> = tpm_devices(dir.path()).collect();
        assert_eq!(found, BTreeSet::from([10 << 20 | 224, 253 << 20 | 65536]));
        assert_eq!(tpm_devices(Path::new("/nonexistent")).count(), 0);
    }
}
