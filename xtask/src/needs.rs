//! What `demo` and `test` need of a machine: looking for it, showing it, and bringing what is missing.
//!
//! Promises: looking changes nothing and needs neither root nor network; root is used for apt-get alone; what cannot be
//! installed from here is named with the way to get it. Not here: what is built from the repository (`build`).

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::build::{self, Toolchain};
use crate::world::{World, find_program, is_root, megabytes, os_release};
use crate::{help, shell};

/// Exit status of `--no-install` when something is missing.
pub const MISSING: u8 = 3;

/// What a command is going to do, which decides what it needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Build the product.
    Build,
    /// Run virtual machines without the product.
    Machines,
    /// Build the patched kernels.
    Kernel,
    /// Build the patched kernels as Debian packages.
    KernelPackages,
    /// Build, and run virtual machines with it.
    Demo,
    /// Everything, and every check.
    Test,
    /// Build the verifier, and what its replay of lists is compared with.
    BenchReplay,
    /// Build, and measure rounds with a software TPM.
    BenchRound,
}

impl Purpose {
    /// Whether whoever does this also does `part`.
    fn includes(self, part: Self) -> bool {
        match self {
            Self::Build | Self::Machines | Self::Kernel | Self::BenchReplay => self == part,
            Self::KernelPackages => matches!(part, Self::KernelPackages | Self::Kernel),
            Self::Demo => matches!(part, Self::Demo | Self::Build | Self::Machines),
            Self::BenchRound => matches!(part, Self::BenchRound | Self::Build),
            Self::Test => !matches!(part, Self::BenchReplay | Self::BenchRound | Self::KernelPackages),
        }
    }
}

/// One thing that is needed.
pub struct Need {
    name: String,
    reason: String,
    state: State,
    /// Bytes to download, where known.
    size: u64,
    how: How,
}

enum State {
    Present(String),
    Missing(String),
    /// Missing, and only a person can change that: the remedy.
    Blocked(String),
}

enum How {
    /// A Debian package.
    Apt,
    /// Built into the cache by cargo.
    Cargo,
    /// Made at first use by the program that needs it.
    Later,
    /// Nothing to do.
    Nothing,
}

impl Need {
    fn missing(&self) -> bool {
        !matches!(self.state, State::Present(_))
    }
}

/// Debian packages with what each is for. The ones of the eBPF toolchain depend on the machine: see [`Toolchain`].
const PACKAGES: &[Package] = &[
    Package(
        "gcc",
        "gcc",
        "links Rust programs",
        &[
            Purpose::Build,
            Purpose::Machines,
            Purpose::Kernel,
            Purpose::BenchReplay,
        ],
    ),
    Package(
        "libc6-dev",
        "",
        "links Rust programs; the guest's static C library",
        &[
            Purpose::Build,
            Purpose::Machines,
            Purpose::Kernel,
            Purpose::BenchReplay,
        ],
    ),
    Package(
        "protobuf-compiler",
        "protoc",
        "the container runtime's interface, for the test pods",
        &[Purpose::Build, Purpose::Machines],
    ),
    Package(
        "pkgconf",
        "pkg-config",
        "finds libtss2 while building",
        &[Purpose::Build],
    ),
    Package(
        "libtss2-dev",
        "",
        "cgpathd talks to the TPM through it",
        &[Purpose::Build],
    ),
    Package(
        "libclang-dev",
        "",
        "bindgen compares kernel structures with ours",
        &[Purpose::Test],
    ),
    Package(
        "qemu-system-x86",
        "qemu-system-x86_64",
        "runs the virtual machines",
        &[Purpose::Machines],
    ),
    Package(
        "swtpm",
        "swtpm",
        "a software TPM for each virtual machine",
        &[Purpose::Machines, Purpose::BenchRound],
    ),
    Package(
        "mmdebstrap",
        "mmdebstrap",
        "makes the guests' root file system",
        &[Purpose::Machines],
    ),
    Package(
        "e2fsprogs",
        "mke2fs",
        "makes the guests' disks",
        &[Purpose::Machines],
    ),
    Package(
        "kmod",
        "depmod",
        "module indexes for the guests' kernels",
        &[Purpose::Machines, Purpose::Kernel],
    ),
    Package(
        "busybox-static",
        "",
        "the program in the test pods' images",
        &[Purpose::Machines],
    ),
    Package(
        "ovmf",
        "",
        "UEFI firmware that measures what it starts, for guests whose boot is judged",
        &[Purpose::Machines],
    ),
    Package(
        "systemd-boot-efi",
        "",
        "the EFI stub of those guests' unified kernel images",
        &[Purpose::Machines],
    ),
    Package(
        "binutils",
        "objcopy",
        "puts those images together",
        &[Purpose::Machines],
    ),
    Package(
        "dosfstools",
        "mkfs.fat",
        "makes the partitions that they lie on",
        &[Purpose::Machines],
    ),
    Package("mtools", "mcopy", "puts them there", &[Purpose::Machines]),
    Package(
        "tpm2-tools",
        "tpm2",
        "a second TPM client that tests compare ours with",
        &[Purpose::Test],
    ),
    Package(
        "ima-evm-utils",
        "evmctl",
        "another replay of measurement lists, to compare ours with",
        &[Purpose::BenchReplay, Purpose::Test],
    ),
    Package(
        "python3-venv",
        "",
        "an environment for decoders and verifiers of others, which read our exports",
        &[Purpose::Test],
    ),
    Package(
        "libefivar-dev",
        "",
        "Keylime, to whose verifier a test sends boot logs, reads device paths with it",
        &[Purpose::Test],
    ),
    Package(
        "chromium",
        "chromium",
        "the browser in which the verifier's pages are tried",
        &[Purpose::Test],
    ),
    Package("make", "make", "builds the patched kernels", &[Purpose::Kernel]),
    Package("flex", "flex", "builds the patched kernels", &[Purpose::Kernel]),
    Package("bison", "bison", "builds the patched kernels", &[Purpose::Kernel]),
    Package("bc", "bc", "builds the patched kernels", &[Purpose::Kernel]),
    Package("libelf-dev", "", "builds the patched kernels", &[Purpose::Kernel]),
    Package("libssl-dev", "", "builds the patched kernels", &[Purpose::Kernel]),
    Package(
        "dwarves",
        "pahole",
        "type information of the patched kernels, for eBPF",
        &[Purpose::Kernel],
    ),
    Package(
        "sparse",
        "sparse",
        "reads the kernel series' C",
        &[Purpose::Kernel],
    ),
    Package(
        "python3-venv",
        "python3",
        "virtme-ng, under which the patched kernel is booted too",
        &[Purpose::Test],
    ),
    Package(
        "libssl-dev",
        "",
        "a verifier of others that is asked about our quotes checks signatures with it",
        &[Purpose::Test],
    ),
    Package(
        "debhelper",
        "dh_builddeb",
        "packs the patched kernels",
        &[Purpose::KernelPackages],
    ),
    Package(
        "rsync",
        "rsync",
        "packs the patched kernels",
        &[Purpose::KernelPackages],
    ),
    Package(
        "cpio",
        "cpio",
        "packs the patched kernels",
        &[Purpose::KernelPackages],
    ),
    Package("xz-utils", "xz", "unpacks kernel sources", &[Purpose::Kernel]),
    Package("git", "git", "applies the kernel series", &[Purpose::Kernel]),
    Package(
        "perl",
        "perl",
        "runs the kernel's checkpatch.pl",
        &[Purpose::Kernel],
    ),
];

/// A Debian package, a program by which it is known elsewhere (where it has one), its reason, and what needs it.
struct Package(&'static str, &'static str, &'static str, &'static [Purpose]);

/// The same on systems where we do not install.
const ELSEWHERE: &str = "\
This is not Debian, so nothing can be installed from here. Please install, by the names that your system has for them:
  gcc with a static C library, pkg-config, tpm2-tss (development files), protoc, libclang
  qemu-system-x86_64, swtpm, OVMF, objcopy, mkfs.fat, mtools, systemd's EFI stub, mmdebstrap, mke2fs (e2fsprogs), depmod (kmod), busybox (static), tpm2-tools, apt and dpkg
  for the eBPF programs: rustup toolchain install nightly --component rust-src; cargo install bpf-linker
The guests' kernels and root file system are Debian packages: the virtual machines need a Debian 12 or 13 (a container
with at least 6 GB of disk does).";

/// `cargo xtask doctor`.
///
/// # Errors
/// For unknown options.
pub fn doctor(world: &World, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut json = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Short('h') | Long("help") => {
                print!("{}", help::DOCTOR);
                return Ok(ExitCode::SUCCESS);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let needs = survey(world, Purpose::Test);
    let missing = needs.iter().filter(|need| need.missing()).count();
    if json {
        println!("{}", as_json(&needs));
    } else {
        println!("{}", table(&needs, true));
        if !is_debian() {
            println!("{ELSEWHERE}");
        }
        match missing {
            0 => println!("Nothing is missing: cargo xtask demo"),
            _ => println!(
                "{missing} missing. `cargo xtask demo` or `cargo xtask test` asks once and brings them."
            ),
        }
    }
    Ok(if missing == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How a person wants missing things to be handled.
#[derive(Clone, Copy, Default)]
pub struct Consent {
    /// Do not ask.
    pub yes: bool,
    /// Only name what is missing.
    pub no_install: bool,
}

/// Makes sure that everything for `purpose` is there. Gives an exit status when the command must end here.
///
/// # Errors
/// When something cannot be brought.
pub fn provide(world: &World, purpose: Purpose, consent: Consent) -> Result<Option<ExitCode>> {
    let mut needs = survey(world, purpose);
    if !needs.iter().any(Need::missing) {
        return Ok(None);
    }
    eprintln!("This machine lacks:\n{}", table(&needs, false));
    if consent.no_install {
        return Ok(Some(ExitCode::from(MISSING)));
    }
    // Things that are made at first use need no consent: they cost time and room in the cache, and no root.
    if needs
        .iter()
        .all(|need| !need.missing() || matches!(need.how, How::Later))
    {
        return Ok(None);
    }
    if !is_debian() {
        bail!("{ELSEWHERE}");
    }
    let mut agreed = consent.yes || world.ci;
    // A fresh machine or container has no package lists: only they tell which packages there are.
    if package_facts(&["gcc"]).is_empty() {
        agreed = agreed
            || shell::confirm(&format!(
                "Fetch the package lists (apt-get update{})?",
                with_sudo()
            ))?;
        if !agreed {
            return Ok(Some(ExitCode::from(MISSING)));
        }
        shell::run("Package lists (apt-get update)", &mut apt(&["update", "-q"])?)?;
        needs = survey(world, purpose);
        eprintln!("This machine lacks:\n{}", table(&needs, false));
        agreed = consent.yes || world.ci;
    }
    let missing: Vec<&Need> = needs.iter().filter(|need| need.missing()).collect();
    let blocked: Vec<String> = missing
        .iter()
        .filter_map(|need| match &need.state {
            State::Blocked(remedy) => Some(format!("{}: {remedy}", need.name)),
            _ => None,
        })
        .collect();
    if !blocked.is_empty() {
        bail!("this has to be done by hand first:\n  {}", blocked.join("\n  "));
    }
    let packages: Vec<&str> = missing
        .iter()
        .filter(|need| matches!(need.how, How::Apt))
        .map(|need| need.name.as_str())
        .collect();
    if packages.is_empty() {
        if !(agreed || shell::confirm("Build the listed tools into the cache?")?) {
            return Ok(Some(ExitCode::from(MISSING)));
        }
        return Ok(None);
    }
    let total = download_size(&packages).map_or_else(String::new, |bytes| {
        format!(" ({} to download)", megabytes(bytes))
    });
    let question = format!(
        "Install {} packages{total} with apt-get{}, and the rest as listed?",
        packages.len(),
        with_sudo()
    );
    if !(agreed || shell::confirm(&question)?) {
        eprintln!(
            "Nothing was installed. By hand: apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
        return Ok(Some(ExitCode::from(MISSING)));
    }
    install(&packages)?;
    let still: Vec<String> = survey(world, purpose)
        .into_iter()
        .filter(|need| need.missing() && matches!(need.how, How::Apt | How::Nothing))
        .map(|need| need.name)
        .collect();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(", "));
    }
    Ok(None)
}

fn with_sudo() -> &'static str {
    if is_root() { "" } else { ", with sudo" }
}

/// `apt-get`, as root.
fn apt(arguments: &[&str]) -> Result<Command> {
    let mut command = if is_root() {
        Command::new("env")
    } else if find_program("sudo").is_some() {
        let mut command = Command::new("sudo");
        command.arg("env");
        command
    } else {
        bail!("sudo is not there; as root: apt-get {}", arguments.join(" "));
    };
    command
        .args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-o",
            "DPkg::Lock::Timeout=600",
        ])
        .args(arguments);
    Ok(command)
}

fn install(packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    if !std::io::stderr().is_terminal() {
        arguments.push("-q");
    }
    arguments.extend(packages);
    if shell::run("Packages (apt-get install)", &mut apt(&arguments)?).is_err() {
        // Old package lists name files that the mirrors have replaced.
        shell::run("Package lists (apt-get update)", &mut apt(&["update", "-q"])?)?;
        shell::run("Packages (apt-get install), again", &mut apt(&arguments)?)?;
    }
    Ok(())
}

/// Looks for everything that `purpose` needs.
pub fn survey(world: &World, purpose: Purpose) -> Vec<Need> {
    let mut needs = Vec::new();
    let (toolchain, toolchain_needs) = if purpose.includes(Purpose::Build) {
        ebpf_needs(world)
    } else {
        (Vec::new(), Vec::new())
    };
    let mut packages: Vec<(String, String)> = PACKAGES
        .iter()
        .filter(|package| package.3.iter().any(|&part| purpose.includes(part)))
        .map(|package| (package.0.to_owned(), package.2.to_owned()))
        .collect();
    if purpose.includes(Purpose::Machines) && !is_root() {
        packages.push((
            "uidmap".to_owned(),
            "makes the guests' root file system without being root".to_owned(),
        ));
    }
    packages.extend(toolchain_needs);
    needs.extend(package_needs(&packages));
    needs.extend(toolchain);
    if purpose.includes(Purpose::Test) {
        needs.push(rust_component("rustfmt", "cargo-fmt"));
        needs.push(rust_component("clippy", "cargo-clippy"));
        let deny = build::cargo_deny(world);
        needs.push(Need {
            name: "cargo-deny".to_owned(),
            reason: "checks licences and sources of what we depend on".to_owned(),
            state: deny.map_or_else(
                || State::Missing("built into the cache, about 5 minutes, once".to_owned()),
                |path| State::Present(path.display().to_string()),
            ),
            size: 0,
            how: How::Cargo,
        });
    }
    if purpose.includes(Purpose::Machines) {
        needs.push(kernel_need(world, "6.12"));
        if purpose.includes(Purpose::Test) {
            needs.push(kernel_need(world, "6.1"));
        }
        needs.push(root_need(world));
        needs.push(accelerator_need());
    }
    needs.push(disk_need(world));
    needs
}

fn is_debian() -> bool {
    os_release("ID").as_deref() == Some("debian") && find_program("apt-get").is_some()
}

fn package_needs(packages: &[(String, String)]) -> Vec<Need> {
    let names: Vec<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
    let installed = installed_versions(&names);
    let absent: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !installed.contains_key(*name))
        .collect();
    let facts = package_facts(&absent);
    packages
        .iter()
        .map(|(name, reason)| {
            let fact = facts.get(name.as_str());
            let state = match (installed.get(name.as_str()), fact) {
                (Some(version), _) => State::Present(version.clone()),
                (None, Some((_, unpacked))) => {
                    State::Missing(format!("apt package, {} unpacked", megabytes(*unpacked)))
                }
                (None, None) if is_debian() => {
                    State::Missing("not in the package lists; apt-get update".to_owned())
                }
                (None, None) => elsewhere(name),
            };
            Need {
                name: name.clone(),
                reason: reason.clone(),
                state,
                size: fact.map_or(0, |(size, _)| *size),
                how: How::Apt,
            }
        })
        .collect()
}

/// The state of a package where there is no dpkg to ask.
fn elsewhere(package: &str) -> State {
    let program = PACKAGES
        .iter()
        .find(|known| known.0 == package)
        .map(|known| known.1)
        .filter(|name| !name.is_empty());
    match program.and_then(find_program) {
        Some(path) => State::Present(path.display().to_string()),
        None => State::Blocked("install it by the name that this system has for it".to_owned()),
    }
}

/// Versions of those packages that are installed.
fn installed_versions(names: &[&str]) -> BTreeMap<String, String> {
    let mut command = Command::new("dpkg-query");
    command
        .args(["-W", "-f", "${Package} ${db:Status-Status} ${Version}\n"])
        .args(names);
    // It fails when one of them is unknown, and still prints the others.
    let Ok(output) = command.output() else {
        return BTreeMap::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (name, status, version) = (words.next()?, words.next()?, words.next()?);
            (status == "installed").then(|| (name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// (bytes to download, bytes unpacked) of those packages that the package lists know.
fn package_facts(names: &[&str]) -> BTreeMap<String, (u64, u64)> {
    if names.is_empty() {
        return BTreeMap::new();
    }
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions"]).args(names);
    let Ok(output) = command.output() else {
        return BTreeMap::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |stanza: &str, key: &str| {
        stanza
            .lines()
            .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(": ")?.trim().to_owned()))
    };
    text.split("\n\n")
        .filter_map(|stanza| {
            let size = field(stanza, "Size")?.parse().ok()?;
            let unpacked = field(stanza, "Installed-Size")?.parse::<u64>().ok()? * 1024;
            Some((field(stanza, "Package")?, (size, unpacked)))
        })
        .collect()
}

/// What apt-get would download for these packages and all that they depend on.
fn download_size(packages: &[&str]) -> Option<u64> {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "--print-uris", "-qq", "-y", "--no-install-recommends"])
        .args(packages);
    let listed = shell::output(&mut command).ok()?;
    Some(
        listed
            .lines()
            .filter(|line| line.starts_with('\''))
            .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
            .sum(),
    )
}

/// What the eBPF object's build lacks, and the Debian packages that it needs.
fn ebpf_needs(world: &World) -> (Vec<Need>, Vec<(String, String)>) {
    if std::env::var_os("CGPATH_BPF_OBJECT").is_some() {
        let path = world.bpf_object();
        let state = if path.is_file() {
            State::Present(path.display().to_string())
        } else {
            State::Blocked("CGPATH_BPF_OBJECT names no file".to_owned())
        };
        let need = Need {
            name: "eBPF object".to_owned(),
            reason: "given by CGPATH_BPF_OBJECT".to_owned(),
            state,
            size: 0,
            how: How::Nothing,
        };
        return (vec![need], Vec::new());
    }
    let toolchain = Toolchain::choose();
    let state = match &toolchain {
        Ok(Toolchain::Rustup { name, .. }) => State::Present(format!("rustup's {name} with rust-src")),
        Ok(Toolchain::Debian {
            ready: true, llvm, ..
        }) => State::Present(format!("Debian's rustc-web, LLVM {llvm}")),
        Ok(Toolchain::Debian { llvm, .. }) => {
            State::Missing(format!("Debian's rustc-web with LLVM {llvm}, as listed"))
        }
        Err(error) => State::Blocked(format!("{error:#}")),
    };
    let mut needs = vec![Need {
        name: "eBPF toolchain".to_owned(),
        reason: "compiles the eBPF programs: a Rust compiler with its library's source".to_owned(),
        state,
        size: 0,
        how: How::Later,
    }];
    let Ok(toolchain) = toolchain else {
        return (needs, Vec::new());
    };
    let packages = toolchain.packages();
    needs.push(Need {
        name: "bpf-linker".to_owned(),
        reason: "links the eBPF programs".to_owned(),
        state: toolchain.linker(world).map_or_else(
            || State::Missing("built into the cache, about 3 minutes, once".to_owned()),
            |path| State::Present(path.display().to_string()),
        ),
        size: 0,
        how: How::Cargo,
    });
    (needs, packages)
}

fn rust_component(name: &str, program: &str) -> Need {
    let beside_cargo = std::env::var_os("CARGO")
        .and_then(|cargo| Some(Path::new(&cargo).parent()?.join(program)))
        .filter(|path| path.is_file());
    let state = match beside_cargo.or_else(|| find_program(program)) {
        Some(path) => State::Present(path.display().to_string()),
        None => State::Blocked(format!("rustup component add {name}")),
    };
    Need {
        name: name.to_owned(),
        reason: "checks the sources".to_owned(),
        state,
        size: 0,
        how: How::Nothing,
    }
}

fn kernel_need(world: &World, series: &str) -> Need {
    // Written last by vm-tests (`kernel`) when it fetched one.
    let cached = subdirectories(&world.cache.join("kernels").join(series))
        .into_iter()
        .filter(|dir| dir.join("ready.json").is_file())
        .filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()))
        .max();
    let mut size = 0;
    let state = match cached {
        Some(name) => State::Present(name),
        None => {
            let pattern = format!(
                "^linux-image-{}\\..*-cloud-amd64-unsigned$",
                series.replace('.', "\\.")
            );
            let names = shell::output(Command::new("apt-cache").args(["search", "--names-only", &pattern]));
            let names = names.unwrap_or_default();
            let names: Vec<&str> = names
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            size = package_facts(&names)
                .values()
                .map(|(size, _)| *size)
                .max()
                .unwrap_or(0);
            let from = if names.is_empty() {
                " from Debian's archive"
            } else {
                ""
            };
            State::Missing(format!(
                "fetched into the cache{from} at first use, not installed"
            ))
        }
    };
    Need {
        name: format!("stock kernel {series}"),
        reason: "what the virtual machines boot".to_owned(),
        state,
        size,
        how: How::Later,
    }
}

fn root_need(world: &World) -> Need {
    // Written last by vm-tests (`root`) when it made one.
    let cached = subdirectories(&world.cache.join("roots"))
        .into_iter()
        .find(|dir| dir.join("ready").is_file());
    let (state, size) = match cached {
        Some(dir) => (State::Present(dir.display().to_string()), 0),
        None => (
            State::Missing("made in the cache at first use, about 1 minute".to_owned()),
            100_000_000,
        ),
    };
    Need {
        name: "guest root".to_owned(),
        reason: "the virtual machines' file system, with containerd".to_owned(),
        state,
        size,
        how: How::Later,
    }
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn accelerator_need() -> Need {
    let openable = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hardware = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| {
            flags
                .split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        });
    let found = match (openable, hardware) {
        (true, true) => "KVM",
        (true, false) => "TCG (/dev/kvm is there, but the processor has no virtualisation)",
        (false, true) => "TCG (/dev/kvm cannot be opened: add yourself to the group kvm for speed)",
        (false, false) => "TCG (no KVM: slower, and enough)",
    };
    Need {
        name: "accelerator".to_owned(),
        reason: "how the virtual machines run".to_owned(),
        state: State::Present(found.to_owned()),
        size: 0,
        how: How::Nothing,
    }
}

fn disk_need(world: &World) -> Need {
    /// A full build, the cache and the disks of a few guests.
    const NEEDED_MIB: u64 = 12_000;
    let place = world
        .target
        .ancestors()
        .find(|dir| dir.is_dir())
        .unwrap_or(&world.root);
    let free = shell::output(Command::new("df").arg("-Pm").arg(place))
        .ok()
        .and_then(|text| {
            text.lines()
                .nth(1)?
                .split_whitespace()
                .nth(3)?
                .parse::<u64>()
                .ok()
        });
    // What is built already needs no room any more.
    let built = world.target.join("release/demo").is_file();
    let needed = if built { NEEDED_MIB / 4 } else { NEEDED_MIB };
    let state = match free {
        Some(mib) if mib >= needed => State::Present(format!("{} GB free", mib / 1000)),
        Some(mib) => State::Blocked(format!(
            "{mib} MB free, {needed} MB needed; hint: CARGO_TARGET_DIR, CGPATH_CACHE"
        )),
        None => State::Blocked("df does not say how much is free".to_owned()),
    };
    Need {
        name: "disk space".to_owned(),
        reason: "for what is built and cached".to_owned(),
        state,
        size: 0,
        how: How::Nothing,
    }
}

fn table(needs: &[Need], all: bool) -> String {
    let rows: Vec<[String; 4]> = needs
        .iter()
        .filter(|need| all || need.missing())
        .map(|need| {
            let (mark, detail) = match &need.state {
                State::Present(detail) => ("ok", detail),
                State::Missing(detail) => ("MISSING", detail),
                State::Blocked(detail) => ("BY HAND", detail),
            };
            let size = megabytes(need.size);
            let detail = if size.is_empty() {
                detail.clone()
            } else {
                format!("{detail}; {size} to download")
            };
            [mark.to_owned(), need.name.clone(), detail, need.reason.clone()]
        })
        .collect();
    let width = |column: usize, limit: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            .min(limit)
    };
    let (mark, name, reason) = (width(0, 8), width(1, 24), width(3, 80));
    rows.iter()
        .map(|row| {
            format!(
                "  {:mark$}  {:name$}  {:reason$}  {}\n",
                row[0], row[1], row[3], row[2]
            )
        })
        .collect()
}

fn as_json(needs: &[Need]) -> serde_json::Value {
    let rows: Vec<serde_json::Value> = needs
        .iter()
        .map(|need| {
            let (state, detail) = match &need.state {
                State::Present(detail) => ("present", detail),
                State::Missing(detail) => ("missing", detail),
                State::Blocked(detail) => ("by-hand", detail),
            };
            let how = match need.how {
                How::Apt => "apt",
                How::Cargo => "cargo",
                How::Later => "at-first-use",
                How::Nothing => "none",
            };
            serde_json::json!({
                "name": need.name, "reason": need.reason, "state": state, "detail": detail,
                "download_bytes": need.size, "how": how,
            })
        })
        .collect();
    let missing = needs.iter().filter(|need| need.missing()).count();
    serde_json::json!({ "needs": rows, "missing": missing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purpose_asks_for_its_parts_and_nothing_else() {
        assert!(Purpose::Test.includes(Purpose::Build) && Purpose::Test.includes(Purpose::Machines));
        assert!(Purpose::Demo.includes(Purpose::Build) && Purpose::Demo.includes(Purpose::Machines));
        assert!(!Purpose::Demo.includes(Purpose::Test) && !Purpose::Demo.includes(Purpose::Kernel));
        assert!(Purpose::Test.includes(Purpose::Kernel));
        assert!(
            !Purpose::Machines.includes(Purpose::Build),
            "`vm` must not ask for the eBPF toolchain"
        );
        assert!(!Purpose::Build.includes(Purpose::Machines));
        assert!(
            Purpose::BenchRound.includes(Purpose::Build) && !Purpose::BenchRound.includes(Purpose::Machines)
        );
        assert!(
            !Purpose::Test.includes(Purpose::BenchReplay) && !Purpose::Demo.includes(Purpose::BenchReplay)
        );
    }

    #[test]
    fn what_is_missing_is_counted_and_shown_and_what_is_there_is_not() {
        let need = |name: &str, state| Need {
            name: name.to_owned(),
            reason: "a reason".to_owned(),
            state,
            size: 2_500_000,
            how: How::Apt,
        };
        let needs = [
            need("there", State::Present("1.0".to_owned())),
            need("absent", State::Missing("apt package".to_owned())),
            need("manual", State::Blocked("do this".to_owned())),
        ];
        let shown = table(&needs, false);
        assert!(
            !shown.contains("there") && shown.contains("absent") && shown.contains("do this"),
            "{shown}"
        );
        assert!(
            shown.contains("a reason") && shown.contains("2.5 MB to download"),
            "{shown}"
        );
        let json = as_json(&needs);
        assert_eq!(json["missing"], 2);
        assert_eq!(json["needs"][2]["state"], "by-hand");
    }
}
