//! `cargo xtask test`: everything that must pass, and how much of it ran.
//!
//! Promises: a step that fails does not hide the ones after it; the last line counts tests that really ran;
//! what took long is named. Not here: the tests; how their programs are built and run (`programs`) and read
//! (`tally`).

mod advisories;
pub mod failed;
pub mod programs;
mod summary;
pub mod tally;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;

use crate::needs::{self, Consent, Purpose};
use crate::workspace::Workspace;
use crate::{build, dist, help, kernel, python, shell, tidy};
use programs::Program;
use summary::Summary;
use tally::Count;

/// The steps in their order; `build` makes what the ones after it run.
const STEPS: &[&str] = &[
    "fmt", "tidy", "ebpf", "clippy", "deny", "build", "host", "foreign", "dist", "vm", "breaks", "kernel",
];

/// The attacks that the demo must recognise.
const BREAKS: &[&str] = &["swap-hash", "drop-record", "wrong-key", "hide-loss", "old-nonce"];

/// The test program that runs guests. It is built and run when it is named, never by a plain `cargo test`.
pub const GUESTS: &str = "vm-tests/guests";

/// More than there are of its tests that could hold a thread: those that wait for a turn to run a guest, or
/// for what another one gathers, must keep no test from running whose turn it is. How many guests run at
/// once, it decides itself.
pub const GUEST_THREADS: &str = "--test-threads=64";

/// Its tests that install packages.
const PACKAGED: &str = "install::";

/// `cargo xtask test`.
///
/// # Errors
/// For unknown options, and when something that is needed cannot be installed.
pub fn test(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut consent = Consent::default();
    let mut fast = false;
    let mut only: Vec<String> = Vec::new();
    let mut filter: Option<String> = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => consent.yes = true,
            Long("no-install") => consent.no_install = true,
            Long("fast") => fast = true,
            Long("step") => {
                let step = parser.value()?.string()?;
                if !STEPS.contains(&step.as_str()) {
                    bail!("no step `{step}`; there are {}", STEPS.join(", "));
                }
                only.push(step);
            }
            Short('h') | Long("help") => {
                print!("{}", help::TEST);
                return Ok(ExitCode::SUCCESS);
            }
            Value(value) if filter.is_none() => filter = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(code) = needs::provide(workspace, Purpose::Test, consent)? {
        return Ok(code);
    }
    let run = Run {
        workspace,
        filter: filter.as_deref(),
        guests: !fast,
        host: OnceLock::new(),
        in_guests: OnceLock::new(),
        packages: OnceLock::new(),
    };
    let mut summary = Summary::default();
    for &step in STEPS {
        let wanted = if only.is_empty() {
            !(fast && matches!(step, "foreign" | "dist" | "vm" | "breaks" | "kernel"))
        } else {
            only.iter().any(|name| name == step)
        };
        if !wanted {
            continue;
        }
        shell::heading(&format!("step {step}"));
        let started = Instant::now();
        let count = run.step(step).unwrap_or_else(|error| {
            eprintln!("FAILED {step}: {error:#}");
            Count::broken(step, format!("{error:#}\n"))
        });
        summary.add(step, count, started.elapsed());
    }
    let total = summary.total();
    let folder = workspace.target.join("failed");
    if let Err(error) = failed::keep(&total.failures, &folder) {
        eprintln!("what failed tests said is not kept: {error:#}");
    }
    print!("\n{}", summary.text(&folder));
    let wrongly_skipped = workspace.ci && total.wrongly_skipped() > 0;
    if wrongly_skipped {
        println!("CI is set: what was skipped, but for want of ../shared/vectors, counts as failed");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    let good = total.failed == 0 && total.passed > 0 && !wrongly_skipped;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The programs with the tests that need no guest.
///
/// # Errors
/// When one does not compile.
pub fn host_programs(workspace: &Workspace) -> Result<Vec<Program>> {
    let mut command = build::cargo(workspace);
    command
        .env("CGPATH_BPF_OBJECT", workspace.bpf_object())
        .args(["test", "--workspace", "--locked"]);
    programs::build("the tests of this machine", &mut command)
}

/// The program with the tests that run guests, and what guests are made of.
///
/// # Errors
/// When one does not compile.
pub fn guest_programs(workspace: &Workspace) -> Result<Vec<Program>> {
    let mut command = build::cargo(workspace);
    command.env("CGPATH_BPF_OBJECT", workspace.bpf_object()).args([
        "test",
        "--workspace",
        "--test",
        "guests",
        "--locked",
    ]);
    let built = programs::build("the tests of guests", &mut command)?;
    build::programs(workspace, &["cgpath", "cgpathd", "demo"])?;
    build::guest(workspace)?;
    Ok(built)
}

/// What the tests' programs find in their environment.
///
/// # Errors
/// When the Python environment of verifiers of others cannot be made.
pub fn environment(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    Ok(vec![
        ("CGPATH_BPF_OBJECT", workspace.bpf_object()),
        ("CGPATH_WORKSPACE", workspace.root.clone()),
        ("CARGO_TARGET_DIR", workspace.target.clone()),
        ("CGPATH_PYTHON", python::foreign(workspace)?),
        ("CGPATH_SCHEMATHESIS", python::schemathesis(workspace)?),
        ("CGPATH_EVIDENCE_API", python::evidence_api(workspace)?),
    ])
}

/// One run of the steps: what is built is built once.
struct Run<'a> {
    workspace: &'a Workspace,
    filter: Option<&'a str>,
    /// Guests are run, too.
    guests: bool,
    host: OnceLock<Vec<Program>>,
    in_guests: OnceLock<Vec<Program>>,
    /// The directory with the packages that are tried.
    packages: OnceLock<PathBuf>,
}

impl Run<'_> {
    /// Packages of the programs that are tried here.
    fn packages(&self) -> Result<&Path> {
        if let Some(made) = self.packages.get() {
            return Ok(made);
        }
        // Among the guests' programs these are, too.
        if self.in_guests.get().is_none() {
            build::ebpf(self.workspace)?;
            build::programs(self.workspace, &["cgpath", "cgpathd"])?;
        }
        shell::heading("packages of these programs");
        let made = dist::tried(self.workspace)?;
        Ok(self.packages.get_or_init(|| made))
    }

    fn host(&self) -> Result<&[Program]> {
        once(&self.host, || host_programs(self.workspace))
    }

    fn in_guests(&self) -> Result<&[Program]> {
        once(&self.in_guests, || {
            build::ebpf(self.workspace)?;
            guest_programs(self.workspace)
        })
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = build::cargo(self.workspace);
        command
            .args(arguments)
            .env("CGPATH_BPF_OBJECT", self.workspace.bpf_object());
        command
    }

    fn step(&self, step: &str) -> Result<Count> {
        match step {
            "fmt" => {
                shell::run("formatting", &mut self.cargo(&["fmt", "--all", "--check"]))?;
                for manifest in ["ebpf/programs/Cargo.toml", "foreign-verifiers/Cargo.toml"] {
                    let others = ["fmt", "--manifest-path", manifest, "--check"];
                    shell::run(&format!("formatting, {manifest}"), &mut self.cargo(&others))?;
                }
                Ok(Count::one())
            }
            "tidy" => {
                let breaches = tidy::check(self.workspace)?;
                for breach in &breaches {
                    eprintln!("{breach}");
                }
                if !breaches.is_empty() {
                    bail!("{} breaches of the repository's rules", breaches.len());
                }
                Ok(Count::one())
            }
            "ebpf" => build::ebpf(self.workspace).map(|_| Count::one()),
            "clippy" => {
                // Tests that a plain `cargo test` leaves out are in no `--all-targets`, also where they are
                // named beside it.
                for targets in [&["--all-targets"][..], &["--test", "guests"]] {
                    let mut command = self.cargo(&["clippy", "--workspace", "--locked"]);
                    shell::run("clippy", command.args(targets).args(["--", "-D", "warnings"]))?;
                }
                Ok(Count::one())
            }
            "deny" => self.deny(),
            "build" => {
                self.host()?;
                if self.guests {
                    self.in_guests()?;
                }
                Ok(Count::one())
            }
            "host" => self.on_the_host(),
            "foreign" => {
                build::programs(self.workspace, &["cgpath"])?;
                let manifest = "foreign-verifiers/Cargo.toml";
                let mut command = self.cargo(&["test", "--manifest-path", manifest, "--locked"]);
                command.env(
                    "CARGO_TARGET_DIR",
                    self.workspace.target.join("foreign-verifiers"),
                );
                let environment = [("CGPATH", self.workspace.program("cgpath"))];
                self.run_all(
                    &programs::build("verifiers of others", &mut command)?,
                    &environment,
                )
            }
            "dist" => {
                dist::again(self.workspace, self.packages()?)?;
                let mut count = Count::one();
                dist::portable_again(self.workspace)?;
                count.add(Count::one());
                dist::chart_again(self.workspace)?;
                count.add(Count::one());
                Ok(count)
            }
            // Those of patched kernels have a step of their own, which builds the kernels.
            "vm" => {
                let environment = environment(self.workspace)?;
                self.guests(&environment, |module| !module.starts_with("kernel_"))
            }
            "breaks" => self.breaks(),
            "kernel" => self.kernels(),
            other => bail!("no step `{other}`"),
        }
    }

    fn deny(&self) -> Result<Count> {
        let tool = build::provide_cargo_deny(self.workspace, &shell::run)?;
        let manifests = ["Cargo.toml", "ebpf/programs/Cargo.toml"];
        for manifest in manifests {
            let mut command = Command::new(&tool);
            command.current_dir(&self.workspace.root).args([
                "--manifest-path",
                manifest,
                "--all-features",
                "--locked",
            ]);
            command.args(["--config", "deny.toml", "check", "bans", "licenses", "sources"]);
            shell::run(&format!("cargo deny, {manifest}"), &mut command)?;
        }
        let mut count = Count::one();
        count.add(advisories::check(self.workspace, &tool, &manifests)?);
        Ok(count)
    }

    fn on_the_host(&self) -> Result<Count> {
        let environment = environment(self.workspace)?;
        let mut count = self.run_all(self.host()?, &environment)?;
        let mut examples = self.cargo(&["test", "--workspace", "--doc", "--locked"]);
        examples.args(self.filter);
        count.add(programs::counted("examples", &mut examples)?);
        Ok(count)
    }

    fn run_all(&self, programs: &[Program], environment: &[(&str, PathBuf)]) -> Result<Count> {
        let mut count = Count::default();
        for program in programs {
            count.add(program.run(environment, self.filter, &[])?);
        }
        Ok(count)
    }

    /// Each patch of every series counts as a test, then come those of the kernels that were built.
    fn kernels(&self) -> Result<Count> {
        let (patches, kernels) = kernel::check_and_build(self.workspace)?;
        let mut count = Count {
            passed: patches,
            ..Count::default()
        };
        let mut environment = environment(self.workspace)?;
        environment.push(("CGPATH_VNG", kernel::virtme::provide(self.workspace)?));
        for built in kernels {
            let mut environment = environment.clone();
            environment.push(("CGPATH_KERNEL", built));
            count.add(self.guests(&environment, |module| module.starts_with("kernel_tier"))?);
        }
        Ok(count)
    }

    /// The tests of these modules; nothing runs where the filter leaves none.
    fn guests(&self, environment: &[(&str, PathBuf)], is_wanted: impl Fn(&str) -> bool) -> Result<Count> {
        let guests = programs::named(self.in_guests()?, GUESTS)?;
        let tests = guests.tests(is_wanted, self.filter)?;
        if tests.is_empty() {
            return Ok(Count::default());
        }
        if tests.iter().any(|test| test.starts_with(PACKAGED)) {
            self.packages()?;
        }
        let mut options = vec![GUEST_THREADS, "--exact"];
        options.extend(tests.iter().map(String::as_str));
        guests.run(environment, None, &options)
    }

    /// The demo's attacks.
    fn breaks(&self) -> Result<Count> {
        self.in_guests()?;
        let wanted = |attack: &&&str| self.filter.is_none_or(|filter| attack.contains(filter));
        let waiting: Mutex<VecDeque<&str>> = Mutex::new(BREAKS.iter().filter(wanted).copied().collect());
        let next = || waiting.lock().ok()?.pop_front();
        let work = || {
            let mut count = Count::default();
            while let Some(attack) = next() {
                count.add(self.attack(attack)?);
            }
            Ok(count)
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..attacks_at_once()).map(|_| scope.spawn(work)).collect();
            let mut count = Count::default();
            for worker in workers {
                count.add(build::joined(worker)?);
            }
            Ok(count)
        })
    }

    fn attack(&self, attack: &str) -> Result<Count> {
        let started = Instant::now();
        let mut command = Command::new(self.workspace.program("demo"));
        self.workspace
            .with_environment(command.args(["--bare", "--break", attack]))
            .stdin(Stdio::null());
        let line = shell::shown(&command);
        let output = command.output().with_context(|| format!("starting {line}"))?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let seconds = started.elapsed().as_secs_f64();
        let name = format!("demo --break {attack}");
        if output.status.code() == Some(1) && said.contains(attack) {
            println!("test {name} ... ok <{seconds:.3}s>");
            let mut count = Count::one();
            count.times.push((name, seconds));
            Ok(count)
        } else {
            println!("{said}");
            let why = format!("{}; must exit with 1 and name the attack", output.status);
            println!("test {name} ... FAILED: {why}");
            Ok(Count::broken(&name, format!("{said}\n{why}\n")))
        }
    }
}

fn once<T>(cell: &OnceLock<Vec<T>>, make: impl FnOnce() -> Result<Vec<T>>) -> Result<&[T]> {
    if let Some(made) = cell.get() {
        return Ok(made);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}

/// Two, where there are the cores: each has a guest that keeps one busy.
fn attacks_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(2)
}
