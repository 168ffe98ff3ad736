//! What is so on this machine: read from files below a root, so that tests can make one up.
//!
//! Nothing is assessed here. A fact that could not be had says why.

use super::TdFacts;
use crate::anchor::rtmr;
use crate::bpf::{self, Hierarchy};
use crate::config::Config;
use crate::sources::list::{ListError, ListReader, PATHS};
use btf_rs::{Btf, Type};
use cgpath_evidence::{Bank, Digest, checkpoint, probe};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Files of /proc and /sys that are read whole are never longer than this many bytes.
const MAX_FILE_LEN: u64 = 16 * 1024 * 1024;

/// Kernel functions and tracepoints that the eBPF programs attach to, as BTF names them.
pub const HOOKS: [&str; 17] = [
    "ima_add_template_entry",
    "bpf_lsm_bprm_committed_creds",
    "bpf_lsm_bprm_check_security",
    "bpf_lsm_mmap_file",
    "bpf_lsm_file_mprotect",
    "bpf_lsm_bpf",
    "bpf_lsm_bpf_map",
    "bpf_lsm_bpf_prog",
    "bpf_lsm_inode_unlink",
    "bpf_lsm_inode_rmdir",
    "bpf_lsm_inode_rename",
    "bpf_lsm_sb_umount",
    "bpf_lsm_ptrace_access_check",
    "bpf_lsm_file_open",
    "btf_trace_cgroup_mkdir",
    "btf_trace_cgroup_rename",
    "btf_trace_cgroup_rmdir",
];

/// The kernel's type information.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why a fact could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// There is no such file.
    Absent(PathBuf),
    /// It may not be read.
    Denied(PathBuf),
    /// It could not be read or understood; the text says why.
    Failed(String),
}

impl core::fmt::Display for Unknown {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Unknown::Absent(path) => write!(f, "{} is not there", path.display()),
            Unknown::Denied(path) => write!(f, "{} may not be read: run as root", path.display()),
            Unknown::Failed(why) => f.write_str(why),
        }
    }
}

/// A fact, or why it could not be had.
pub type Fact<T> = Result<T, Unknown>;

/// What the measurement list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFacts {
    /// Entries in it.
    pub entries: u64,
    /// Registers that entries extend.
    pub pcrs: BTreeSet<u32>,
    /// The template and the file hash algorithm of the last entry that describes a file.
    pub last_file: Option<(String, String)>,
    /// The first entry is `boot_aggregate`; false if its digest is zero: IMA did not find the TPM when it
    /// started.
    pub boot_aggregate: Option<bool>,
    /// File hashes of entries for the configured policy file, in order.
    pub policies: Vec<Digest>,
    /// The highest checkpoint in it.
    pub checkpoint: Option<u64>,
    /// Numbers of the probes in it: executed, mapped.
    pub probes: [BTreeSet<u32>; 2],
}

/// Whether IMA measures a fresh file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// Its entry came.
    Measured,
    /// None came.
    NotMeasured,
    /// It could not be tried.
    Impossible(String),
}

/// What the probes gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probes {
    /// A fresh file was executed.
    pub run: Probed,
    /// A fresh file was mapped executable.
    pub map: Probed,
}

/// What the running daemon says of itself, as far as it is a precondition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DaemonFacts {
    /// First checkpoint of this boot that was sealed while the programs may have been off.
    pub blind: Option<u64>,
    /// Records that were lost in this boot.
    pub lost: u64,
    /// Whether the disk takes no more records.
    pub stalled: bool,
}

/// What the TPM says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmFacts {
    /// Manufacturer and firmware, for people.
    pub name: String,
    /// Banks in which PCR 10 is allocated.
    pub banks: Vec<Bank>,
    /// Whether the owner hierarchy has an authorisation value.
    pub owner_auth: bool,
    /// Whether the endorsement hierarchy has one.
    pub endorsement_auth: bool,
    /// Whether the TPM is locked out after wrong authorisations.
    pub in_lockout: bool,
    /// Persistent handles in use, and how many more fit.
    pub persistent: (u32, u32),
    /// Fingerprint of the attestation key, or why it could not be made.
    pub key: Result<String, String>,
}

/// All facts.
#[derive(Debug)]
pub struct Facts {
    /// Kernel release.
    pub release: Fact<String>,
    /// Machine's architecture.
    pub architecture: Fact<String>,
    /// The kernel's command line.
    pub command_line: Fact<String>,
    /// Effective capabilities of this process, a bit each.
    pub capabilities: Fact<u64>,
    /// Hooks that the kernel's BTF does not have.
    pub hooks_missing: Fact<Vec<&'static str>>,
    /// What the programs need of the kernel's types and do not find there; `None` where all is there.
    pub types_missing: Fact<Option<String>>,
    /// Whether overlayfs' types are there, so that records name the files of its layers.
    pub overlay: Fact<bool>,
    /// Whether this kernel's functions can call eBPF programs.
    pub direct_calls: Fact<bool>,
    /// Whether `ima_add_template_entry` is among the functions that can be traced.
    pub traceable: Fact<bool>,
    /// `kernel.ftrace_enabled`.
    pub ftrace: Fact<String>,
    /// `net.core.bpf_jit_enable`.
    pub jit: Fact<String>,
    /// Active security modules.
    pub lsm: Fact<Vec<String>>,
    /// Lockdown mode.
    pub lockdown: Fact<String>,
    /// Whether LoadPin, where it is active, refuses files of other file systems than the first one that it
    /// saw.
    pub loadpin: Fact<bool>,
    /// Where the file system of the configured policy file is mounted.
    pub policy_mount: Fact<PathBuf>,
    /// The name of PID 1.
    pub init: Fact<String>,
    /// Whether systemd can load an IMA policy.
    pub systemd_ima: Fact<bool>,
    /// File system at the pins' directory and where it is mounted.
    pub pins: Fact<(String, PathBuf)>,
    /// Whether programs are pinned there.
    pub pinned: Fact<bool>,
    /// The measurement list.
    pub list: Fact<ListFacts>,
    /// Rules in force, where the kernel shows them.
    pub rules: Fact<Vec<u8>>,
    /// The configured policy file.
    pub policy_file: Fact<Vec<u8>>,
    /// What the probes of IMA gave.
    pub probes: Fact<Probes>,
    /// Whether the checkpoints' file system is mounted.
    pub checkpoints_mounted: Fact<bool>,
    /// Programs that anchoring needs and that are not there.
    pub tools_missing: Vec<&'static str>,
    /// Whether loop devices are there or can be had.
    pub loop_devices: bool,
    /// Major version of the TPM.
    pub tpm_version: Fact<String>,
    /// Banks that the kernel sees in the TPM.
    pub kernel_banks: Fact<Vec<Bank>>,
    /// The TPM itself.
    pub tpm: Result<TpmFacts, String>,
    /// What a trust domain would have.
    pub td: TdFacts,
    /// The cgroup hierarchy that names pods, in words.
    pub cgroup: Result<String, String>,
    /// Names of running programs that are container runtimes, and sockets of runtimes.
    pub runtimes: Fact<BTreeSet<String>>,
    /// Attestation agents that run or are configured.
    pub agents: Fact<BTreeSet<String>>,
    /// UEFI Secure Boot; `None` on a machine without UEFI.
    pub secure_boot: Fact<Option<bool>>,
    /// The daemon; `None` where none runs.
    pub daemon: Fact<Option<DaemonFacts>>,
}

impl Facts {
    /// Whether the kernel has no TPM, which is one cause for several things that are not met.
    pub(super) fn has_no_tpm(&self) -> bool {
        self.tpm.is_err() && matches!(self.tpm_version, Err(Unknown::Absent(_)))
    }
}

/// Other attestation agents: the beginning of a program's name (the kernel keeps 15 bytes), and what it is.
const AGENTS: [(&str, &str); 4] = [
    ("keylime_agent", "Keylime agent"),
    ("keylime_push", "Keylime push agent"),
    ("attestation-age", "attestation-agent (Confidential Containers)"),
    ("trustagent", "trust agent"),
];

/// Programs that [`crate::anchor::ima`] starts.
const TOOLS: [&str; 2] = ["mke2fs", "mount"];

/// A probe of IMA: is given the list as it is before, and how to read it again.
pub type Probe<'a> = dyn Fn(&ListFacts, &dyn Fn() -> Fact<ListFacts>) -> Fact<Probes> + 'a;

/// How to find out what no file says.
pub struct Ask<'a> {
    /// Asks the TPM.
    pub tpm: &'a dyn Fn(&Config) -> Result<TpmFacts, String>,
    /// Asks who makes reports, by a directory of configfs.
    pub provider: &'a dyn Fn(&Path) -> Result<String, String>,
    /// Probes IMA.
    pub probe: &'a Probe<'a>,
    /// Looks up in the kernel's type information, a file, what the programs need; gives what is not there.
    pub types: &'a dyn Fn(&Path) -> Fact<Option<String>>,
    /// Looks up there whether overlayfs' types are known.
    pub overlay: &'a dyn Fn(&Path) -> Fact<bool>,
    /// What `systemctl --version` prints.
    pub systemd: &'a dyn Fn() -> Fact<String>,
    /// Asks the daemon.
    pub daemon: &'a dyn Fn(&Config) -> Fact<Option<DaemonFacts>>,
}

/// Gathers all facts below `root`, which is `/` but in tests.
pub fn gather(root: &Path, config: &Config, ask: &Ask<'_>) -> Facts {
    let tree = Tree { root };
    let release = tree.line("/proc/sys/kernel/osrelease");
    let list = tree.list(config);
    let probes = match &list {
        Ok(before) => (ask.probe)(before, &|| tree.list(config)),
        Err(why) => Err(why.clone()),
    };
    let processes = tree.processes();
    Facts {
        architecture: tree
            .line("/proc/sys/kernel/arch")
            .or_else(|_| Ok(std::env::consts::ARCH.to_owned())),
        command_line: tree.line("/proc/cmdline"),
        capabilities: tree.capabilities(),
        hooks_missing: tree.hooks_missing(),
        types_missing: (ask.types)(&tree.at(BTF)),
        overlay: (ask.overlay)(&tree.at(BTF)),
        direct_calls: tree.direct_calls(),
        traceable: tree.traceable(),
        ftrace: tree.line("/proc/sys/kernel/ftrace_enabled"),
        jit: tree.line("/proc/sys/net/core/bpf_jit_enable"),
        lsm: tree
            .line("/sys/kernel/security/lsm")
            .map(|text| text.split(',').map(str::to_owned).collect()),
        lockdown: tree.lockdown(),
        loadpin: tree.loadpin(),
        policy_mount: tree.mount_of(&config.ima.policy).map(|(_, at)| at),
        init: tree.line("/proc/1/comm"),
        systemd_ima: (ask.systemd)().and_then(|text| systemd_ima(&text)),
        pins: tree.mount_of(&config.bpf.pin_dir),
        pinned: bpf::are_pinned(&tree.at(&config.bpf.pin_dir)).map_err(|error| match error {
            bpf::Error::Io { path, source, .. } => unknown(&path, &source),
            other => Unknown::Failed(other.to_string()),
        }),
        list,
        rules: tree
            .bytes("/sys/kernel/security/ima/policy")
            .or_else(|_| tree.bytes("/sys/kernel/security/integrity/ima/policy")),
        policy_file: tree.bytes(&config.ima.policy),
        probes,
        checkpoints_mounted: tree
            .mount_of(Path::new(checkpoint::DIRECTORY))
            .map(|(_, at)| at == Path::new(checkpoint::DIRECTORY.trim_end_matches('/'))),
        tools_missing: TOOLS.into_iter().filter(|tool| !tree.has_program(tool)).collect(),
        loop_devices: tree.has_loop(release.as_deref().unwrap_or_default()),
        tpm_version: tree.line("/sys/class/tpm/tpm0/tpm_version_major"),
        kernel_banks: tree.kernel_banks(),
        tpm: if config.has_tpm() {
            (ask.tpm)(config)
        } else {
            Err("no TPM signs for this node".to_owned())
        },
        td: tree.td(config, ask.provider),
        cgroup: tree.cgroup(),
        runtimes: tree.runtimes(config, &processes),
        agents: tree.agents(&processes),
        secure_boot: tree.secure_boot(),
        daemon: (ask.daemon)(config),
        release,
    }
}

fn unknown(path: &Path, error: &io::Error) -> Unknown {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unknown::Absent(path.to_owned()),
        io::ErrorKind::PermissionDenied => Unknown::Denied(path.to_owned()),
        _ => Unknown::Failed(format!("{}: {error}", path.display())),
    }
}

/// From a line such as `+PAM +AUDIT +SELINUX -APPARMOR +IMA …`.
fn systemd_ima(text: &str) -> Fact<bool> {
    let has = |feature: &str| text.split_whitespace().any(|word| word == feature);
    match (has("+IMA"), has("-IMA")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(Unknown::Failed("systemctl --version says nothing of IMA".into())),
    }
}

/// Files below a root.
struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn bytes(&self, path: impl AsRef<Path>) -> Fact<Vec<u8>> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        File::open(self.at(path))
            .and_then(|file| file.take(MAX_FILE_LEN).read_to_end(&mut bytes))
            .map_err(|e| unknown(path, &e))?;
        Ok(bytes)
    }

    /// The file as text, without blanks around it.
    fn line(&self, path: &str) -> Fact<String> {
        let bytes = self.bytes(path)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    fn capabilities(&self) -> Fact<u64> {
        let path = "/proc/self/status";
        let status = self.line(path)?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
            .ok_or_else(|| Unknown::Failed(format!("{path} has no line CapEff")))
    }

    fn hooks_missing(&self) -> Fact<Vec<&'static str>> {
        let path = Path::new(BTF);
        let bytes = self.bytes(path)?;
        let btf = Btf::from_bytes(&bytes).map_err(|e| Unknown::Failed(format!("{}: {e}", path.display())))?;
        let has = |name: &&str| {
            let types = btf.resolve_types_by_name(name).unwrap_or_default();
            types
                .iter()
                .any(|t| matches!(t, Type::Func(_) | Type::Typedef(_)))
        };
        Ok(HOOKS.into_iter().filter(|name| !has(name)).collect())
    }

    /// The function is there where CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS is. Its name is shown even to
    /// those from whom its address is hidden.
    fn direct_calls(&self) -> Fact<bool> {
        let path = Path::new("/proc/kallsyms");
        let file = File::open(self.at(path)).map_err(|e| unknown(path, &e))?;
        for line in BufReader::with_capacity(1 << 16, file).split(b'\n') {
            let line = line.map_err(|e| unknown(path, &e))?;
            // `ffffffff81000000 T name`, with a module's name after a tab.
            if line.rsplit(|b| *b == b' ').next() == Some(b"register_ftrace_direct") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// It refuses unless set otherwise: by a sysctl where that may still be changed, or at boot.
    fn loadpin(&self) -> Fact<bool> {
        match self.line("/proc/sys/kernel/loadpin/enforce") {
            Ok(value) => Ok(value != "0"),
            Err(Unknown::Absent(_)) => {
                let line = self.line("/proc/cmdline")?;
                Ok(!line.split_whitespace().any(|word| word == "loadpin.enforce=0"))
            }
            Err(why) => Err(why),
        }
    }

    fn traceable(&self) -> Fact<bool> {
        let paths = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
        let mut why = Unknown::Failed(String::new());
        for folder in paths {
            let path = Path::new(folder).join("available_filter_functions");
            match File::open(self.at(&path)) {
                Ok(file) => {
                    for line in BufReader::new(file).split(b'\n') {
                        let line = line.map_err(|e| unknown(&path, &e))?;
                        // Functions of modules are followed by ` [module]`.
                        if line.split(|b| *b == b' ').next() == Some(HOOKS[0].as_bytes()) {
                            return Ok(true);
                        }
                    }
                    return Ok(false);
                }
                Err(e) => why = unknown(&path, &e),
            }
        }
        Err(why)
    }

    /// `[none] integrity confidentiality`: the mode in brackets is in force.
    fn lockdown(&self) -> Fact<String> {
        let text = self.line("/sys/kernel/security/lockdown")?;
        let mode = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .map(|(mode, _)| mode);
        mode.map(str::to_owned)
            .ok_or_else(|| Unknown::Failed(format!("lockdown: {text:?} is not understood")))
    }

    /// Type and mount point of the file system that holds `path`. Documentation/filesystems/proc.rst, section
    /// 3.5.
    fn mount_of(&self, path: &Path) -> Fact<(String, PathBuf)> {
        let file = Path::new("/proc/self/mountinfo");
        let bytes = self.bytes(file)?;
        let mut best: Option<(String, PathBuf)> = None;
        for line in bytes.split(|b| *b == b'\n') {
            let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
            let dash = fields.iter().skip(6).position(|f| *f == b"-").map(|at| at + 6);
            let (Some(point), Some(kind)) = (fields.get(4), dash.and_then(|at| fields.get(at + 1))) else {
                continue;
            };
            let point = Path::new(std::ffi::OsStr::from_bytes(point));
            // Later mounts cover earlier ones of the same place.
            let deeper = best
                .as_ref()
                .is_none_or(|(_, b)| point.components().count() >= b.components().count());
            if path.starts_with(point) && deeper {
                best = Some((String::from_utf8_lossy(kind).into_owned(), point.to_owned()));
            }
        }
        best.ok_or_else(|| {
            Unknown::Failed(format!("{} shows no mount of {}", file.display(), path.display()))
        })
    }

    fn list(&self, config: &Config) -> Fact<ListFacts> {
        let candidates: Vec<PathBuf> = if config.ima.list.as_os_str().is_empty() {
            PATHS.iter().map(PathBuf::from).collect()
        } else {
            vec![config.ima.list.clone()]
        };
        let mut why = Unknown::Failed("no measurement list".into());
        for path in candidates {
            match ListReader::open(&self.at(&path)) {
                Ok(reader) => return self.read_list(reader, config),
                Err(ListError::Open { source, .. }) => why = unknown(&path, &source),
                Err(error) => why = Unknown::Failed(error.to_string()),
            }
        }
        Err(why)
    }

    fn read_list(&self, mut reader: ListReader, config: &Config) -> Fact<ListFacts> {
        let mut facts = ListFacts::default();
        let policy = config.ima.policy.as_os_str().as_bytes();
        let entries = reader
            .poll(|entry| {
                facts.pcrs.insert(entry.pcr());
                let (Some(path), Some(digest)) = (entry.file_name(), entry.file_digest()) else {
                    return Ok::<(), ListError>(());
                };
                let known = digest.digest();
                if path == b"boot_aggregate" {
                    // A kexec'd kernel's list begins with that of the kernel before, whose checkpoints are
                    // not of this boot.
                    facts.checkpoint = None;
                    facts.boot_aggregate = Some(digest.bytes.iter().any(|b| *b != 0));
                    return Ok(());
                }
                if entry.is_violation() {
                    return Ok(());
                }
                let template = String::from_utf8_lossy(entry.template_name()).into_owned();
                if template != "ima-buf" {
                    facts.last_file = Some((
                        template,
                        known.as_ref().map_or("another", |d| d.bank().name()).to_owned(),
                    ));
                }
                let number = checkpoint::number_from_path(path);
                facts.checkpoint = facts.checkpoint.max(number);
                if let Some(known) = known {
                    if path == policy {
                        facts.policies.push(known.clone());
                    }
                    if let Some(number) = probe::number(path, &known) {
                        let which = usize::from(path == probe::MAP_PATH.as_bytes());
                        facts.probes[which].insert(number);
                    }
                }
                Ok(())
            })
            .map_err(|error| Unknown::Failed(error.to_string()))?;
        facts.entries = entries;
        Ok(facts)
    }

    fn has_program(&self, name: &str) -> bool {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| self.at(Path::new(dir).join(name)).exists())
    }

    fn has_loop(&self, release: &str) -> bool {
        let is_there = |path: &str| self.at(path).exists();
        let modules = |file: &str| {
            let path = format!("/lib/modules/{release}/{file}");
            self.bytes(path).is_ok_and(|text| {
                text.split(|b| *b == b'\n').any(|line| {
                    let name = line.split(|b| *b == b':').next().unwrap_or(line);
                    let name = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
                    name == b"loop.ko" || name.starts_with(b"loop.ko.")
                })
            })
        };
        is_there("/dev/loop-control") || modules("modules.dep") || modules("modules.builtin")
    }

    /// /sys/class/tpm/tpm0/pcr-ALG/10 exists for each allocated bank, since 5.12.
    fn kernel_banks(&self) -> Fact<Vec<Bank>> {
        let folder = Path::new("/sys/class/tpm/tpm0");
        fs::metadata(self.at(folder)).map_err(|e| unknown(folder, &e))?;
        let has = |bank: &Bank| self.at(folder.join(format!("pcr-{bank}")).join("10")).exists();
        Ok(Bank::ALL.into_iter().filter(has).collect())
    }

    fn td(&self, config: &Config, provider: &dyn Fn(&Path) -> Result<String, String>) -> TdFacts {
        let (registers, reports) = (&config.anchor.registers, &config.quote.reports);
        let file = registers.join(rtmr::file_name(config.anchor.rtmr));
        let there = |path: &Path| self.at(path).exists();
        TdFacts {
            register: self.bytes(&file).map(|bytes| bytes.len()),
            has_device: registers.parent().is_some_and(there),
            has_registers: there(registers),
            configfs: self.mount_of(reports).map(|(kind, _)| kind),
            provider: there(reports).then(|| provider(&self.at(reports))),
        }
    }

    fn cgroup(&self) -> Result<String, String> {
        let read = |path: &str| self.bytes(path).map_err(|e| e.to_string());
        let hierarchy = Hierarchy::from_proc(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
            .map_err(|e| e.to_string())?;
        let described = crate::sources::cgroups::describe(&hierarchy);
        Ok(format!("{described}, mounted at {}", hierarchy.mount.display()))
    }

    /// Names of all running programs: the executable's where it can be read, else the 15 bytes that the
    /// kernel keeps.
    fn processes(&self) -> Fact<BTreeSet<String>> {
        let folder = Path::new("/proc");
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.at(folder))
            .map_err(|e| unknown(folder, &e))?
            .flatten()
        {
            if !entry.file_name().as_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            if let Ok(exe) = fs::read_link(entry.path().join("exe"))
                && let Some(name) = exe.file_name()
            {
                let name = name.to_string_lossy();
                names.insert(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned());
            }
            // A process may end meanwhile.
            if let Ok(name) = fs::read_to_string(entry.path().join("comm")) {
                names.insert(name.trim_end().to_owned());
            }
        }
        Ok(names)
    }

    fn runtimes(&self, config: &Config, processes: &Fact<BTreeSet<String>>) -> Fact<BTreeSet<String>> {
        let matches = |name: &&String| {
            config
                .runtimes
                .names
                .iter()
                .any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => name.starts_with(start),
                    None => *name == pattern,
                })
        };
        let mut found: BTreeSet<String> = processes
            .as_ref()
            .map_err(Clone::clone)?
            .iter()
            .filter(matches)
            .cloned()
            .collect();
        let sockets = config.runtimes.sockets.iter().filter(|s| self.at(s).exists());
        found.extend(sockets.map(|s| s.display().to_string()));
        Ok(found)
    }

    fn agents(&self, processes: &Fact<BTreeSet<String>>) -> Fact<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for name in processes.as_ref().map_err(Clone::clone)? {
            for (start, what) in AGENTS {
                if name.starts_with(start) {
                    found.insert(format!("{what} ({name} runs)"));
                }
            }
        }
        let configured = "/etc/keylime/agent.conf";
        if found.is_empty() && self.at(configured).exists() {
            found.insert(format!("Keylime agent ({configured} is there)"));
        }
        Ok(found)
    }

    /// The variable's four bytes of attributes, then its one byte. UEFI specification 2.10, section 3.3.
    fn secure_boot(&self) -> Fact<Option<bool>> {
        if !self.at("/sys/firmware/efi").exists() {
            return Ok(None);
        }
        let path = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        match self.bytes(path) {
            Ok(bytes) => match bytes.as_slice() {
                [_, _, _, _, value] => Ok(Some(*value == 1)),
                other => Err(Unknown::Failed(format!(
                    "{path} has {} bytes, not 5",
                    other.len()
                ))),
            },
            Err(why) => Err(why),
        }
    }
}
