//! Builds everything in the repository, and the tools that cargo can install.
//!
//! Promises: what is up to date is left alone; every build of one command uses the same environment, so that
//! nothing is built twice. Not here: which packages are installed (`needs`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::ScopedJoinHandle;

use anyhow::{Context as _, Result, bail, ensure};
use lexopt::prelude::*;

use crate::needs::{self, Consent, Purpose};
use crate::stages::Stages;
use crate::workspace::{Workspace, emptied, find_program};
use crate::{help, shell};

/// bpf-linker's version, which works with every LLVM that we can meet.
const BPF_LINKER: &str = "0.13.0";

/// cargo-deny's version; its licence data and its options change with it.
const CARGO_DENY: &str = "0.20.2";

/// cargo-mutants' version; what mutants there are and how they are called changes with it.
const CARGO_MUTANTS: &str = "27.1.0";

/// How a program is run: in the open ([`shell::run`]) or beside the rest.
pub type Runner<'a> = &'a dyn Fn(&str, &mut Command) -> Result<()>;

/// A toolchain that can compile the eBPF programs: they need the standard library's source.
pub enum Toolchain {
    /// A rustup nightly with the component rust-src.
    Rustup {
        /// Such as `nightly-x86_64-unknown-linux-gnu`.
        name: String,
    },
    /// Debian's compiler for browsers, new enough and with its source as a package.
    Debian {
        /// All its packages are installed.
        ready: bool,
        /// The major version of its LLVM, which bpf-linker must be built with.
        llvm: u32,
    },
}

/// Why there is no toolchain for the eBPF programs, and what to do.
#[derive(Debug)]
pub enum Unavailable {
    /// The package lists have none that is new enough: newer ones may.
    Unlisted(String),
    /// Only a person can bring one.
    ByHand(String),
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Unlisted(text) | Self::ByHand(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Unavailable {}

impl Toolchain {
    /// Takes whichever is there; names what to install where neither is.
    ///
    /// # Errors
    /// When neither is there nor can be installed by apt, with what to do.
    pub fn choose() -> Result<Self, Unavailable> {
        let (found, old) = rustup_with_source();
        if let Some(name) = found {
            return Ok(Self::Rustup { name });
        }
        // An old one is there already: `install` would leave it so.
        let command = if old.is_empty() { "install" } else { "update" };
        let mut by_hand =
            format!("rustup toolchain {command} nightly --profile minimal --component rust-src");
        if !old.is_empty() {
            by_hand = format!("{by_hand}  ({} is older than Rust {NEEDED})", old.join(", "));
        }
        let offered = package_version("rustc-web").filter(|version| !outdated("rustc-web", version));
        let (Some(llvm), Some(_)) = (debian_llvm(), offered) else {
            return Err(Unavailable::Unlisted(format!(
                "the package lists have no rustc-web of Rust {NEEDED}; {by_hand}"
            )));
        };
        for other in ["rustc", "cargo", "rustup"] {
            if installed(other) && !installed("rustc-web") {
                return Err(Unavailable::ByHand(format!(
                    "{by_hand}  (Debian's rustc-web cannot be installed beside its package {other})"
                )));
            }
        }
        let toolchain = Self::Debian { ready: false, llvm };
        let ready = toolchain.packages().iter().all(|(name, _)| installed(name));
        Ok(Self::Debian { ready, llvm })
    }

    /// The Debian packages that it needs, each with its reason.
    pub fn packages(&self) -> Vec<(String, String)> {
        match self {
            Self::Rustup { .. } => Vec::new(),
            Self::Debian { llvm, .. } => [
                ("rustc-web".to_owned(), "compiles the eBPF programs"),
                ("cargo-web".to_owned(), "compiles the eBPF programs"),
                (
                    "rust-web-src".to_owned(),
                    "the standard library's source, for the eBPF target",
                ),
                (format!("llvm-{llvm}-dev"), "bpf-linker is built with it"),
                (format!("clang-{llvm}"), "bpf-linker is built with it"),
                (format!("libpolly-{llvm}-dev"), "bpf-linker is built with it"),
                ("libzstd-dev".to_owned(), "bpf-linker is built with it"),
                ("zlib1g-dev".to_owned(), "bpf-linker is built with it"),
            ]
            .map(|(name, reason)| (name, reason.to_owned()))
            .into(),
        }
    }

    /// Where its bpf-linker goes in the cache.
    fn linker_root(&self, workspace: &Workspace) -> PathBuf {
        let llvm = match self {
            Self::Rustup { .. } => "rustup".to_owned(),
            Self::Debian { llvm, .. } => format!("llvm{llvm}"),
        };
        workspace
            .cache
            .join(format!("tools/bpf-linker-{BPF_LINKER}-{llvm}"))
    }

    /// Its bpf-linker, if it is there.
    pub fn linker(&self, workspace: &Workspace) -> Option<PathBuf> {
        if let Some(path) = std::env::var_os("CGPATH_BPF_LINKER") {
            return Some(PathBuf::from(path)).filter(|path| path.is_file());
        }
        Some(self.linker_root(workspace).join("bin/bpf-linker")).filter(|path| path.is_file())
    }

    /// Its bpf-linker, built when it is missing.
    fn provide_linker(&self, workspace: &Workspace, run: Runner) -> Result<PathBuf> {
        if let Some(path) = self.linker(workspace) {
            return Ok(path);
        }
        let root = self.linker_root(workspace);
        install(
            workspace,
            "bpf-linker",
            BPF_LINKER,
            &root,
            run,
            |command| match self {
                Self::Debian { llvm, .. } => {
                    let prefix = format!("/usr/lib/llvm-{llvm}");
                    command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
                    command.env(
                        "PATH",
                        format!("{prefix}/bin:{}", std::env::var("PATH").unwrap_or_default()),
                    );
                    command.env("LLVM_PREFIX", prefix);
                }
                Self::Rustup { name } => {
                    command.env("RUSTUP_TOOLCHAIN", name);
                }
            },
        )?;
        self.linker(workspace)
            .context("bpf-linker was installed and is not there")
    }
}

/// The oldest compiler that builds this repository.
const NEEDED: &str = env!("CARGO_PKG_RUST_VERSION");

/// A nightly toolchain of rustup that has the standard library's source and is new enough; and those that are
/// too old.
fn rustup_with_source() -> (Option<String>, Vec<String>) {
    let listed = shell::output(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let mut old = Vec::new();
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    for name in names.filter(|name| name.starts_with("nightly")) {
        let rustc = |arguments: &[&str]| {
            let mut command = Command::new("rustup");
            shell::output(command.args(["run", name, "rustc"]).args(arguments))
        };
        let Ok(sysroot) = rustc(&["--print", "sysroot"]) else {
            continue;
        };
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !source.is_file() {
            continue;
        }
        // rustc 1.97.0-nightly (…)
        let said = rustc(&["--version"]).unwrap_or_default();
        if said.split_whitespace().nth(1).is_some_and(new_enough) {
            return (Some(name.to_owned()), old);
        }
        old.push(name.to_owned());
    }
    (None, old)
}

/// Whether a compiler's version, which may have more behind its numbers, is [`NEEDED`] or newer.
fn new_enough(version: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split(|c: char| !c.is_ascii_digit());
        Some((
            parts.next()?.parse::<u32>().ok()?,
            parts.next()?.parse::<u32>().ok()?,
        ))
    };
    numbers(version).is_some_and(|found| Some(found) >= numbers(NEEDED))
}

/// Whether that version of a Debian package is too old to build with.
pub fn outdated(package: &str, version: &str) -> bool {
    matches!(package, "rustc-web" | "cargo-web" | "rust-web-src") && !new_enough(version)
}

/// The version of a package that apt would install.
fn package_version(package: &str) -> Option<String> {
    let mut command = Command::new("apt-cache");
    let text = shell::output(command.env("LC_ALL", "C").args(["policy", package])).ok()?;
    needs::apt::candidate(&text, package).map(str::to_owned)
}

/// The LLVM that Debian's rustc-web was built with; `None` where there is no such package.
fn debian_llvm() -> Option<u32> {
    let listed = shell::output(Command::new("apt-cache").args(["depends", "rust-web-llvm"])).ok()?;
    listed
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: llvm-")?.parse().ok())
}

fn installed(package: &str) -> bool {
    let mut command = Command::new("dpkg-query");
    command.args(["-W", "-f", "${db:Status-Status}", package]);
    command
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

/// Cargo as it runs this program, in the repository, with the environment that every build here shares.
pub fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&workspace.root);
    for name in inherited() {
        command.env_remove(name);
    }
    command
}

/// Cargo, to run an example of this package, whose arguments come next.
pub fn example(workspace: &Workspace, name: &str) -> Command {
    let mut command = cargo(workspace);
    command
        .args(["run", "--quiet", "--locked", "-p", "xtask"])
        .args(["--example", name, "--"]);
    command
}

/// What `cargo run` set for this program, which other builds must not see: build scripts would run again.
fn inherited() -> impl Iterator<Item = std::ffi::OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME"
    })
}

/// `cargo install` into the cache, compiled to be built fast: these tools run for seconds.
fn install(
    workspace: &Workspace,
    name: &str,
    version: &str,
    root: &Path,
    run: Runner,
    adapt: impl FnOnce(&mut Command),
) -> Result<()> {
    let build = workspace.cache.join("tools/build").join(name);
    let mut command = cargo(workspace);
    command
        .args(["install", name, "--version", version, "--locked", "--root"])
        .arg(root);
    command
        .env("CARGO_TARGET_DIR", &build)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256");
    adapt(&mut command);
    run(&format!("{name} {version}, into the cache, once"), &mut command)?;
    // Hundreds of MB that nobody needs again; that they stay is no reason to fail.
    let _ = std::fs::remove_dir_all(build);
    Ok(())
}

/// Where a tool goes in the cache.
fn tool_root(workspace: &Workspace, name: &str, version: &str) -> PathBuf {
    workspace.cache.join(format!("tools/{name}-{version}"))
}

/// A tool in the cache, installed when it is missing there.
fn provided(workspace: &Workspace, name: &str, version: &str, run: Runner) -> Result<PathBuf> {
    let root = tool_root(workspace, name, version);
    let path = root.join("bin").join(name);
    if !path.is_file() {
        install(workspace, name, version, &root, run, |_| {})?;
        ensure!(path.is_file(), "{name} was installed and is not there");
    }
    Ok(path)
}

/// cargo-deny, in the cache or in `PATH`, if it is there.
pub fn cargo_deny(workspace: &Workspace) -> Option<PathBuf> {
    let cached = tool_root(workspace, "cargo-deny", CARGO_DENY).join("bin/cargo-deny");
    if cached.is_file() {
        Some(cached)
    } else {
        find_program("cargo-deny")
    }
}

/// The same, installed into the cache when it is missing.
///
/// # Errors
/// When it cannot be built.
pub fn provide_cargo_deny(workspace: &Workspace, run: Runner) -> Result<PathBuf> {
    match cargo_deny(workspace) {
        Some(path) => Ok(path),
        None => provided(workspace, "cargo-deny", CARGO_DENY, run),
    }
}

/// cargo-mutants, installed into the cache when it is missing there.
///
/// # Errors
/// When it cannot be built.
pub fn provide_cargo_mutants(workspace: &Workspace, run: Runner) -> Result<PathBuf> {
    provided(workspace, "cargo-mutants", CARGO_MUTANTS, run)
}

/// Builds the eBPF object when it is stale, and gives its place.
///
/// # Errors
/// When the toolchain is missing or the build fails.
pub fn ebpf(workspace: &Workspace) -> Result<PathBuf> {
    ebpf_by(workspace, &shell::run)
}

/// The same, with the programs that it takes run by `run`.
///
/// # Errors
/// When the toolchain is missing or the build fails.
pub fn ebpf_by(workspace: &Workspace, run: Runner) -> Result<PathBuf> {
    let object = workspace.bpf_object();
    if std::env::var_os("CGPATH_BPF_OBJECT").is_some() {
        if !object.is_file() {
            bail!("CGPATH_BPF_OBJECT: {} is not there", object.display());
        }
        return Ok(object);
    }
    let toolchain = Toolchain::choose()?;
    let linker = toolchain.provide_linker(workspace, run)?;
    let linker_dir = linker.parent().context("bpf-linker has no directory")?;
    let programs = workspace.root.join("ebpf/programs");
    let target = workspace.target.join("ebpf");
    let mut command = match &toolchain {
        Toolchain::Rustup { name } => {
            let mut command = Command::new("rustup");
            let path = std::env::var("PATH").unwrap_or_default();
            command
                .args(["run", name, "cargo"])
                .env("PATH", format!("{}:{path}", linker_dir.display()));
            command
        }
        Toolchain::Debian { .. } => {
            // rustup's cargo and rustc, which come first in many a PATH, must not be taken here.
            let mut command = Command::new("/usr/bin/cargo");
            command
                .env("PATH", format!("{}:/usr/bin:/bin", linker_dir.display()))
                .env_remove("RUSTUP_TOOLCHAIN");
            command
        }
    };
    for name in inherited().chain(["CARGO".into(), "RUSTC".into(), "RUSTC_WRAPPER".into()]) {
        command.env_remove(name);
    }
    command
        .current_dir(&programs)
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", ebpf_flags(workspace).join("\u{1f}"))
        .env("CARGO_TARGET_DIR", &target)
        .args([
            "build",
            "--release",
            "--locked",
            "-Z",
            "build-std=core",
            "--target",
            "bpfel-unknown-none",
        ]);
    run("eBPF programs", &mut command)?;
    let built = target.join("bpfel-unknown-none/release/cgpath-bpf");
    let content = std::fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    let here = workspace.root.as_os_str().as_encoded_bytes();
    if content.windows(here.len()).any(|bytes| bytes == here) {
        bail!(
            "{} names the directory that it was built in: policies pin its digest, which must not depend on \
             that",
            built.display()
        );
    }
    if std::fs::read(&object).ok().as_ref() != Some(&content) {
        if let Some(parent) = object.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&object, content).with_context(|| format!("writing {}", object.display()))?;
    }
    Ok(object)
}

/// rustc's flags for the eBPF programs: with BTF.
fn ebpf_flags(workspace: &Workspace) -> Vec<String> {
    let mut flags = ["-C", "debuginfo=2", "-C", "link-arg=--btf"]
        .map(str::to_owned)
        .to_vec();
    flags.extend(without_paths(workspace));
    flags
}

/// rustc's flags that leave no path of this machine in what is built, so that its digest, which policies pin,
/// is the same wherever that is done.
fn without_paths(workspace: &Workspace) -> Vec<String> {
    let mut flags = Vec::new();
    let home = |name: &str, folder: &str| {
        let given = std::env::var_os(name).map(PathBuf::from);
        given.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(folder)))
    };
    // The last one that fits counts: the broadest comes first.
    let hidden = [
        (home("RUSTUP_HOME", ".rustup"), "rustup"),
        (home("CARGO_HOME", ".cargo"), "cargo"),
        (Some(workspace.root.clone()), "ima-cgpath"),
        (Some(workspace.target.clone()), "target"),
    ];
    for (path, shown) in hidden {
        if let Some(path) = path {
            flags.push(format!("--remap-path-prefix={}={shown}", path.display()));
        }
    }
    flags
}

/// The packages whose programs run on this machine and in guests. They are always selected together,
/// whichever of their programs is built: cargo chooses the features of everything below by what is selected.
const PACKAGES: [&str; 6] = ["-p", "cgpath", "-p", "cgpathd", "-p", "vm-tests"];

/// Cargo, to build some of those programs.
fn host_programs(workspace: &Workspace, names: &[&str]) -> Command {
    let mut command = cargo(workspace);
    command
        .env("CGPATH_BPF_OBJECT", workspace.bpf_object())
        .args(["build", "--locked"])
        .args(PACKAGES);
    for name in names {
        command.args(["--bin", name]);
    }
    command
}

/// Builds some of those programs.
///
/// # Errors
/// When one does not build.
pub fn programs(workspace: &Workspace, names: &[&str]) -> Result<()> {
    shell::run(&names.join(", "), &mut host_programs(workspace, names))
}

/// Builds the eBPF object, and some of those programs as they are shipped.
///
/// # Errors
/// When one does not build.
pub fn optimised(workspace: &Workspace, names: &[&str]) -> Result<()> {
    ebpf(workspace)?;
    let mut command = host_programs(workspace, names);
    shell::run(
        &format!("{}, optimised", names.join(", ")),
        command.arg("--release"),
    )
}

/// Builds `cgpath` and examples of a package as they are measured; `what` they are, for people.
///
/// # Errors
/// When one does not build.
pub fn with_examples(workspace: &Workspace, what: &str, package: &str, examples: &[&str]) -> Result<()> {
    let mut command = cargo(workspace);
    command.args(["build", "--release", "--locked", "-p", "cgpath", "-p", package]);
    command.args(["--bin", "cgpath"]);
    for example in examples {
        command.args(["--example", example]);
    }
    shell::run(what, &mut command)
}

/// Where a portable `cgpathd` finds the libraries that came with it, from the directory above its own.
pub const BUNDLED: &str = "lib/ima-cgpath";

/// Cargo's options for what is shipped: no path of this machine is in it, for policies pin its digest.
fn ship<'a>(workspace: &Workspace, command: &'a mut Command) -> &'a mut Command {
    command
        .args(["--profile", "dist"])
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", without_paths(workspace).join("\u{1f}"))
}

/// Builds the programs that packages carry, and gives their directory; the eBPF object is the one that
/// [`ebpf`] built before.
///
/// # Errors
/// When one does not build.
pub fn shipped(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = host_programs(workspace, &["cgpath", "cgpathd"]);
    shell::run("cgpath and cgpathd, for packages", ship(workspace, &mut command))?;
    Ok(workspace.target.join("dist"))
}

/// Builds `cgpath` linked statically, and a `cgpathd` that looks for libraries beside itself, into `dir`; the
/// eBPF object is the one that [`ebpf`] built before.
///
/// # Errors
/// When one does not build.
pub fn portable(workspace: &Workspace, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    // An RPATH holds for what a library loads by name as well, as libtss2 does with a TCTI; a RUNPATH does
    // not.
    let path = format!("link-arg=-Wl,--disable-new-dtags,-rpath,$ORIGIN/../{BUNDLED}");
    for (name, option) in [
        ("cgpath", "target-feature=+crt-static"),
        ("cgpathd", path.as_str()),
    ] {
        let mut command = cargo(workspace);
        command
            .env("CGPATH_BPF_OBJECT", workspace.bpf_object())
            .args(["rustc", "--locked", "-p", name, "--bin", name]);
        ship(workspace, &mut command).args(["--", "-C", option]);
        shell::run(&format!("{name}, for archives"), &mut command)?;
        let built = workspace.target.join("dist").join(name);
        std::fs::copy(&built, dir.join(name)).with_context(|| format!("copying {}", built.display()))?;
    }
    Ok(())
}

/// Builds what `demo` runs, and brings what it boots: what does not wait for another is done side by side.
///
/// # Errors
/// When one does not build, or the guest's kernel or root cannot be had.
pub fn demo(workspace: &Workspace, stages: &Stages, prepare: &[OsString]) -> Result<()> {
    std::thread::scope(|scope| {
        let object = scope.spawn(|| {
            stages.run("eBPF object", || {
                ebpf_by(workspace, &|name, command| stages.aside(name, command))
            })
        });
        stages.run("cgpath and the demo", || programs(workspace, &["cgpath", "demo"]))?;
        let machine = scope.spawn(|| {
            let mut command = Command::new(workspace.program("demo"));
            command.arg("--prepare").args(prepare);
            stages.run("guest's kernel and root", || {
                stages.aside("kernel and root", workspace.with_environment(&mut command))
            })
        });
        stages.run("guest's init", || guest(workspace))?;
        joined(object)?;
        stages.run("cgpathd", || programs(workspace, &["cgpathd"]))?;
        joined(machine)
    })
}

/// What a thread gave; its panic goes on here.
pub fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Builds what `soak` and guests run: the eBPF object, all programs, the guests' init.
///
/// # Errors
/// When one does not build.
pub fn binaries(workspace: &Workspace) -> Result<()> {
    ebpf(workspace)?;
    programs(workspace, &["cgpath", "cgpathd", "demo", "bench", "vm"])?;
    guest(workspace)
}

/// Builds what starts virtual machines, and nothing of the product.
///
/// # Errors
/// When it does not build.
pub fn machine_driver(workspace: &Workspace) -> Result<()> {
    programs(workspace, &["vm"])?;
    guest(workspace)
}

/// Writes what the demo's trust domain has outside of it to `file`, JSON.
///
/// # Errors
/// When it does not build, or the file cannot be written.
pub fn domain(workspace: &Workspace, file: &Path) -> Result<()> {
    let mut command = cargo(workspace);
    let text =
        shell::output(command.args(["run", "--locked", "-q", "-p", "vm-tests", "--example", "domain"]))?;
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// Builds the guests' init. It alone is linked statically: what it is made of is compiled once for it and for
/// all others.
///
/// # Errors
/// When it does not build.
pub fn guest(workspace: &Workspace) -> Result<()> {
    let mut command = cargo(workspace);
    command.args(["rustc", "--locked", "-p", "guest", "--bin", "guest"]);
    command.args(["--", "-C", "target-feature=+crt-static"]);
    shell::run("the guests' init, static", &mut command)
}

/// Reads `--yes` and `--no-install`, and what `takes` says that it takes; `None` after `--help`.
fn options(
    parser: &mut lexopt::Parser,
    text: &str,
    takes: &mut dyn FnMut(&str) -> bool,
) -> Result<Option<Consent>> {
    let mut consent = Consent::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => consent.yes = true,
            Long("no-install") => consent.no_install = true,
            Short('h') | Long("help") => {
                print!("{text}");
                return Ok(None);
            }
            Long(name) if takes(name) => {}
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(consent))
}

/// `cargo xtask build`.
///
/// # Errors
/// When something is missing or does not build.
pub fn build_command(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut release = false;
    let Some(consent) = options(&mut parser, help::BUILD, &mut |name| {
        release |= name == "release";
        name == "release"
    })?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(code) = needs::provide(workspace, Purpose::Build, consent)? {
        return Ok(code);
    }
    if release {
        optimised(workspace, &["cgpath", "cgpathd"])?;
    } else {
        binaries(workspace)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask ebpf`.
///
/// # Errors
/// When something is missing or does not build.
pub fn ebpf_command(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let Some(consent) = options(&mut parser, help::EBPF, &mut |_| false)? else {
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(code) = needs::provide(workspace, Purpose::Build, consent)? {
        return Ok(code);
    }
    println!("{}", ebpf(workspace)?.display());
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask book`. What renders Markdown is compiled for this command alone.
///
/// # Errors
/// When a link of a document leads nowhere, or the pages cannot be written.
pub fn book_command(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    if options(&mut parser, help::BOOK, &mut |_| false)?.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    let to = workspace.target.join("book");
    emptied(&to)?;
    let mut command = example(workspace, "book");
    shell::run("the book", command.arg(&workspace.root).arg(&to))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_that_are_too_old_are_known_by_their_numbers() {
        for good in [
            "1.90.0",
            "1.97.0-nightly",
            "1.96.0+dfsg1-1~deb12u2",
            "2.0.0",
            NEEDED,
        ] {
            assert!(new_enough(good), "{good}");
        }
        for bad in [
            "1.89.9",
            "1.9.0",
            "1.85.0+dfsg3-1~deb12u3",
            "0.100.0",
            "nightly",
            "",
        ] {
            assert!(!new_enough(bad), "{bad}");
        }
        assert!(outdated("cargo-web", "1.85.0+dfsg3-1~deb12u3") && !outdated("clang-14", "1:14.0.6-12"));
    }
}
