//! `cargo xtask test`: everything that must pass, and how much of it ran.
//!
//! Promises: a step that fails does not hide the ones after it; the last line counts tests that really ran; a test that
//! says `SKIPPED` is counted as skipped, not as passed. Not here: the tests.

use std::io::{Read as _, Write as _};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;

use crate::needs::{self, Consent, Purpose};
use crate::world::World;
use crate::{build, help, kernel, python, shell, tidy};

/// The steps in their order; the last five need what `build` makes.
const STEPS: &[&str] = &[
    "fmt", "tidy", "ebpf", "clippy", "deny", "host", "build", "foreign", "vm", "breaks", "kernel",
];

/// The attacks that the demo must recognise.
const BREAKS: &[&str] = &["swap-hash", "drop-record", "wrong-key", "hide-loss", "old-nonce"];

/// How many tests ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Of the skipped: those that want data which no clone has ([`NO_VECTORS`]).
    without_vectors: u64,
}

/// How a test begins its reason for being skipped where published data are not beside the clone
/// (`evidence/tests/common/vectors.rs`). Where they must be there, `CGPATH_REQUIRE_VECTORS=1` makes the test itself fail.
const NO_VECTORS: &str = "SKIPPED: no ../shared/vectors";

impl Count {
    const ONE: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
        without_vectors: 0,
    };
    const BROKEN: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
        without_vectors: 0,
    };

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.without_vectors += other.without_vectors;
    }

    /// Skipped although a machine that runs everything has what they want.
    fn wrongly_skipped(self) -> u64 {
        self.skipped - self.without_vectors
    }
}

/// `cargo xtask test`.
///
/// # Errors
/// For unknown options, and when something that is needed cannot be installed.
pub fn test(world: &World, mut parser: lexopt::Parser) -> Result<ExitCode> {
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
    if let Some(code) = needs::provide(world, Purpose::Test, consent)? {
        return Ok(code);
    }
    let filter = filter.as_deref();
    let mut total = Count::default();
    let mut summary: Vec<(&str, Count, Duration)> = Vec::new();
    for &step in STEPS {
        let wanted = if only.is_empty() {
            !(fast && matches!(step, "build" | "foreign" | "vm" | "breaks" | "kernel"))
        } else {
            only.iter().any(|name| name == step)
        };
        if !wanted {
            continue;
        }
        shell::heading(&format!("step {step}"));
        let started = Instant::now();
        let count = run_step(world, step, filter).unwrap_or_else(|error| {
            eprintln!("FAILED {step}: {error:#}");
            Count::BROKEN
        });
        total.add(count);
        summary.push((step, count, started.elapsed()));
    }
    println!();
    for (step, count, time) in summary {
        let state = if count.failed > 0 { "FAILED" } else { "ok" };
        println!(
            "{step:8} {state:7} {:5} passed {:3} failed {:3} skipped {:7.1} s",
            count.passed,
            count.failed,
            count.skipped,
            time.as_secs_f64()
        );
    }
    let wrongly_skipped = world.ci && total.wrongly_skipped() > 0;
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

fn run_step(world: &World, step: &str, filter: Option<&str>) -> Result<Count> {
    let cargo = |arguments: &[&str]| {
        let mut command = build::cargo(world);
        command
            .args(arguments)
            .env("CGPATH_BPF_OBJECT", world.bpf_object());
        command
    };
    match step {
        "fmt" => {
            shell::run("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
            for manifest in ["ebpf/programs/Cargo.toml", "foreign-verifiers/Cargo.toml"] {
                let others = ["fmt", "--manifest-path", manifest, "--check"];
                shell::run(&format!("formatting, {manifest}"), &mut cargo(&others))?;
            }
            Ok(Count::ONE)
        }
        "tidy" => {
            let breaches = tidy::check(world)?;
            for breach in &breaches {
                eprintln!("{breach}");
            }
            if !breaches.is_empty() {
                bail!("{} breaches of the repository's rules", breaches.len());
            }
            Ok(Count::ONE)
        }
        "ebpf" => build::ebpf(world).map(|_| Count::ONE),
        "clippy" => {
            let arguments = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ];
            shell::run("clippy", &mut cargo(&arguments)).map(|()| Count::ONE)
        }
        "deny" => {
            let tool = build::provide_cargo_deny(world)?;
            for manifest in ["Cargo.toml", "ebpf/programs/Cargo.toml"] {
                let mut command = Command::new(&tool);
                command.current_dir(&world.root).args([
                    "--manifest-path",
                    manifest,
                    "--all-features",
                    "--locked",
                ]);
                command.args(["--config", "deny.toml", "check", "bans", "licenses", "sources"]);
                shell::run(&format!("cargo deny, {manifest}"), &mut command)?;
            }
            Ok(Count::ONE)
        }
        "host" => {
            let mut count = Count::default();
            let all = [
                "test",
                "--workspace",
                "--exclude",
                "vm-tests",
                "--locked",
                "--no-fail-fast",
            ];
            let mut all = cargo(&all);
            all.env("CGPATH_PYTHON", python::foreign(world)?);
            count.add(cargo_test(&mut all, filter, &[])?);
            let library = [
                "test",
                "-p",
                "vm-tests",
                "--lib",
                "--bins",
                "--locked",
                "--no-fail-fast",
            ];
            count.add(cargo_test(&mut cargo(&library), filter, &[])?);
            Ok(count)
        }
        "build" => build::binaries(world).map(|()| Count::ONE),
        "foreign" => {
            let mut command = cargo(&[
                "test",
                "--manifest-path",
                "foreign-verifiers/Cargo.toml",
                "--locked",
                "--no-fail-fast",
            ]);
            command
                .env("CGPATH", world.target.join("release/cgpath"))
                .env("CARGO_TARGET_DIR", world.target.join("foreign-verifiers"));
            cargo_test(&mut command, filter, &[])
        }
        "vm" => {
            let mut command = cargo(&[
                "test",
                "-p",
                "vm-tests",
                "--test",
                "*",
                "--locked",
                "--no-fail-fast",
            ]);
            command
                .env("CGPATH_PYTHON", python::foreign(world)?)
                .env("CGPATH_WORKSPACE", &world.root)
                .env("CARGO_TARGET_DIR", &world.target);
            // The patched kernels are built by a step of their own.
            cargo_test(
                &mut command,
                filter,
                &[&guests_at_once(), "--skip", "kernel_tier::"],
            )
        }
        "breaks" => breaks(world, filter),
        "kernel" => kernel_tier(world, cargo(&[]), filter),
        other => bail!("no step `{other}`"),
    }
}

/// Each patch of every series counts as a test, then come those of the kernels that were built.
fn kernel_tier(world: &World, mut command: Command, filter: Option<&str>) -> Result<Count> {
    let (patches, kernels) = kernel::check_and_build(world)?;
    let vng = kernel::virtme::provide(world)?;
    let mut count = Count {
        passed: patches,
        ..Count::default()
    };
    command
        .args([
            "test",
            "-p",
            "vm-tests",
            "--test",
            "kernel_tier*",
            "--locked",
            "--no-fail-fast",
        ])
        .env("CGPATH_VNG", vng)
        .env("CGPATH_WORKSPACE", &world.root)
        .env("CARGO_TARGET_DIR", &world.target);
    for built in kernels {
        command.env("CGPATH_KERNEL", built);
        count.add(cargo_test(&mut command, filter, &[&guests_at_once()])?);
    }
    Ok(count)
}

/// A guest keeps one core busy (without KVM one thread emulates all its processors) and has 1.5 GiB of memory.
pub fn guests_at_once() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("--test-threads={}", cores.min(MOST_GUESTS))
}

const MOST_GUESTS: usize = 4;

fn breaks(world: &World, filter: Option<&str>) -> Result<Count> {
    let mut count = Count::default();
    for &attack in BREAKS
        .iter()
        .filter(|attack| filter.is_none_or(|filter| attack.contains(filter)))
    {
        let started = Instant::now();
        let mut command = Command::new(world.target.join("release/demo"));
        command
            .args(["--bare", "--break", attack])
            .env("CGPATH_WORKSPACE", &world.root)
            .env("CARGO_TARGET_DIR", &world.target)
            .env("CGPATH_BPF_OBJECT", world.bpf_object())
            .stdin(Stdio::null());
        let line = shell::shown(&command);
        let output = command.output().with_context(|| format!("starting {line}"))?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if output.status.code() == Some(1) && said.contains(attack) {
            println!(
                "test demo --break {attack} ... ok ({:.0} s)",
                started.elapsed().as_secs_f64()
            );
            count.add(Count::ONE);
        } else {
            println!("{said}");
            println!(
                "test demo --break {attack} ... FAILED: {}; must exit with 1 and name the attack",
                output.status
            );
            count.add(Count::BROKEN);
        }
    }
    Ok(count)
}

/// Runs `cargo test`, shows what it prints but for the output of tests that passed, and counts.
fn cargo_test(command: &mut Command, filter: Option<&str>, options: &[&str]) -> Result<Count> {
    command.args(filter).args(["--", "--show-output"]).args(options);
    let line = shell::shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;
    let mut stdout = child.stdout.take().context("no output of cargo test")?;
    let mut tally = Tally::default();
    let mut pending: Vec<u8> = Vec::new();
    let mut shown = 0;
    let mut buffer = [0; 8192];
    loop {
        let count = stdout.read(&mut buffer)?;
        pending.extend_from_slice(&buffer[..count]);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&pending[..=end]).into_owned();
            if tally.line(line.trim_end()) {
                print!("{}", line.get(shown..).unwrap_or(&line));
            }
            shown = 0;
            pending.drain(..=end);
        }
        // The name of a test that runs stands there without the end of its line: in a guest that takes a minute.
        let partial = String::from_utf8_lossy(&pending);
        if !tally.quiet && partial.starts_with("test ") && partial.ends_with("... ") && shown == 0 {
            print!("{partial}");
            shown = partial.len();
        }
        std::io::stdout().flush()?;
        if count == 0 {
            break;
        }
    }
    let status = child.wait()?;
    let mut count = tally.count;
    if !status.success() && count.failed == 0 {
        eprintln!("`{line}` failed ({status})");
        count.add(Count::BROKEN);
    }
    Ok(count)
}

/// Reads the output of `cargo test -- --show-output` line by line.
#[derive(Default)]
struct Tally {
    count: Count,
    /// Inside of the output of tests that passed.
    quiet: bool,
    /// The test whose output comes now has said already that it was skipped.
    skip_seen: bool,
    /// Tests of this program that said so; the program counts them as passed.
    skips: u64,
}

impl Tally {
    /// Takes a line; says whether to show it.
    fn line(&mut self, line: &str) -> bool {
        if line.starts_with("---- ") {
            self.skip_seen = false;
        } else if line == "successes:" {
            self.quiet = true;
        } else if line == "failures:" {
            self.quiet = false;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.quiet = false;
            let number = |word: &str| {
                let before = result.split(word).next().unwrap_or_default();
                before
                    .rsplit(|c: char| !c.is_ascii_digit())
                    .find(|digits| !digits.is_empty())?
                    .parse::<u64>()
                    .ok()
            };
            // The line is printed by the tests' own program: `ok. 3 passed; 0 failed; 1 ignored; …`.
            let skips = std::mem::take(&mut self.skips);
            self.count.passed += number(" passed").unwrap_or(0).saturating_sub(skips);
            self.count.skipped += skips;
            self.count.failed += number(" failed").unwrap_or(0);
            self.count.skipped += number(" ignored").unwrap_or(0);
        } else if self.quiet && line.starts_with("SKIPPED") {
            if !std::mem::replace(&mut self.skip_seen, true) {
                self.skips += 1;
                self.count.without_vectors += u64::from(line.starts_with(NO_VECTORS));
            }
            return true;
        }
        !self.quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_and_ignored_tests_are_not_counted_as_passed() {
        let output = "\
running 4 tests
test a ... ok
test b ... ok
test c ... ignored
test d ... ok

successes:

---- a stdout ----
SKIPPED: no ../shared/vectors beside the repository
SKIPPED: again
---- b stdout ----
chatter

successes:
    a
    b
    d

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 2 tests
test e ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 12 filtered out; finished in 0.00s";
        let mut tally = Tally::default();
        let shown: Vec<&str> = output.lines().filter(|line| tally.line(line)).collect();
        assert_eq!(
            tally.count,
            Count {
                passed: 3,
                failed: 1,
                skipped: 2,
                without_vectors: 1,
            }
        );
        assert_eq!(tally.count.wrongly_skipped(), 1, "the ignored one");
        assert!(shown.contains(&"SKIPPED: no ../shared/vectors beside the repository"));
        assert!(!shown.contains(&"chatter"));
    }

    #[test]
    fn only_a_skip_for_want_of_published_vectors_is_excused() {
        let skipped = |reason: &str| {
            let output = format!(
                "successes:\n\n---- a stdout ----\n{reason}\n\nsuccesses:\n    a\n\ntest result: ok. 1 passed; 0 failed; 0 ignored"
            );
            let mut tally = Tally::default();
            for line in output.lines() {
                tally.line(line);
            }
            assert_eq!((tally.count.passed, tally.count.skipped), (0, 1), "{reason}");
            tally.count.wrongly_skipped()
        };
        assert_eq!(skipped("SKIPPED: no ../shared/vectors beside the repository"), 0);
        assert_eq!(skipped("SKIPPED: no KVM"), 1);
        assert_eq!(
            skipped("SKIPPED: not root; no ../shared/vectors beside the repository"),
            1
        );
    }
}
