//! `cargo xtask soak`: what takes hours, run once and now and then, with its raw log kept.
//!
//! Promises: the same tests as `cargo xtask test`, at the sizes that are wanted once; what they print goes to
//! a file, whole, and to the terminal. Not here: the tests.

mod fresh;
mod libfuzzer;
mod mutants;
mod repeat;
mod seeded;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;

use crate::needs::{self, Consent, Purpose};
use crate::workspace::Workspace;
use crate::{build, help, kernel, shell, test};

const STEPS: &[&str] = &[
    "load",
    "service",
    "fuzz",
    "libfuzzer",
    "kernel",
    "fresh",
    "repeat",
    "lives",
    "stacks",
    "mutants",
];

/// `cargo xtask soak`.
///
/// # Errors
/// For unknown options, and when something that is needed cannot be installed.
pub fn soak(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut consent = Consent::default();
    let mut only: Vec<String> = Vec::new();
    let mut seconds = 3600_u64;
    let mut filter: Option<String> = None;
    let mut whole = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => consent.yes = true,
            Long("no-install") => consent.no_install = true,
            Long("step") => {
                let step = parser.value()?.string()?;
                if !STEPS.contains(&step.as_str()) {
                    bail!("no step `{step}`; there are {}", STEPS.join(", "));
                }
                only.push(step);
            }
            Long("whole") => whole = true,
            Long("fuzz-seconds") => seconds = parser.value()?.parse()?,
            Short('h') | Long("help") => {
                print!("{}", help::SOAK);
                return Ok(ExitCode::SUCCESS);
            }
            Value(value) if filter.is_none() => filter = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    // libFuzzer's step builds its own, and fresh machines and mutants do.
    let builds_its_own = |step: &String| matches!(step.as_str(), "libfuzzer" | "fresh" | "mutants");
    if only.is_empty() || !only.iter().all(builds_its_own) {
        if let Some(code) = needs::provide(workspace, Purpose::Test, consent)? {
            return Ok(code);
        }
        build::binaries(workspace)?;
    }
    let mut good = true;
    for &step in STEPS {
        if !only.is_empty() && !only.iter().any(|name| name == step) {
            continue;
        }
        let filter = filter.as_deref();
        good &= match step {
            "load" => {
                let mut command = guest_tests(workspace, &["load", "pending", "tdx"], filter)?;
                kept(workspace, step, command.env("CGPATH_SOAK", "1"))?
            }
            "service" => {
                // The service is killed 200 times.
                let mut command = build::cargo(workspace);
                command
                    .args(["test", "-p", "cgpath", "--test", "integration", "--locked"])
                    .env("CGPATH_SOAK", "1")
                    .arg(filter.unwrap_or("serve::crash::"))
                    .args(["--", "--show-output"]);
                kept(workspace, step, &mut command)?
            }
            "libfuzzer" => {
                let mut all = true;
                for (name, mut command) in libfuzzer::programs(workspace, filter, seconds)? {
                    all &= kept(workspace, &format!("libfuzzer-{name}"), &mut command)?;
                }
                all
            }
            "kernel" => kernels(workspace, filter, consent)?,
            "fresh" => fresh::run(workspace, filter, whole)?,
            "repeat" => repeat::repeat(workspace, filter)?,
            "lives" => seeded::lives(workspace)?,
            "stacks" => seeded::stacks(workspace)?,
            "mutants" => mutants::mutants(workspace, filter)?,
            _ => {
                // Release: more inputs in the same time; overflows are checked there as well.
                let mut command = build::cargo(workspace);
                command
                    .args(["test", "--release", "-p", "fuzz", "--test", "targets", "--locked"])
                    .env("FUZZ_SECONDS", seconds.to_string())
                    .args(filter)
                    .args(["--", "--show-output"]);
                kept(workspace, step, &mut command)?
            }
        };
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every base in full with its tests, 10,000 executions for the oracle; a second build, byte by byte; the
/// debug kernel; packages that a guest installs and boots.
fn kernels(workspace: &Workspace, filter: Option<&str>, consent: Consent) -> Result<bool> {
    let vng = kernel::virtme::provide(workspace)?;
    let mut good = true;
    for base in kernel::all(workspace)? {
        let built = kernel::build_for_guests(workspace, &base, false)?;
        let mut tests = vec!["kernel_tier", "kernel_tier_virtme"];
        tests.extend(match base.as_str() {
            "rfc-per-cgroup" => Some("kernel_per_cgroup"),
            "7.3" => Some("kernel_staging"),
            _ => None,
        });
        let mut command = guest_tests(workspace, &tests, filter)?;
        command
            .env("CGPATH_EXECUTIONS", "10000")
            .env("CGPATH_KERNEL", built)
            .env("CGPATH_VNG", &vng);
        good &= kept(workspace, &format!("kernel-{base}"), &mut command)?;
    }
    if filter.is_none() {
        shell::heading("soak kernel: the same build again");
        kernel::reproduce(workspace, kernel::USUAL_BASE)?;
    }
    let debug = kernel::build_for_guests(workspace, kernel::USUAL_BASE, true)?;
    let mut command = guest_tests(workspace, &["kernel_debug"], filter)?;
    good &= kept(workspace, "kernel-debug", command.env("CGPATH_KERNEL", debug))?;
    let Ok(packages) = kernel::package_for_guests(workspace, kernel::USUAL_BASE, consent)? else {
        return Ok(false);
    };
    let mut command = guest_tests(workspace, &["kernel_package"], filter)?;
    good &= kept(
        workspace,
        "kernel-package",
        command.env("CGPATH_PACKAGES", packages),
    )?;
    Ok(good)
}

/// Tests that run guests, by the names of their modules.
fn guest_tests(workspace: &Workspace, modules: &[&str], filter: Option<&str>) -> Result<Command> {
    let built = test::guest_programs(workspace)?;
    let guests = test::programs::named(&built, test::GUESTS)?;
    let tests = guests.tests(|module| modules.contains(&module), filter)?;
    if tests.is_empty() {
        bail!(
            "no test of {} has `{}` in its name",
            modules.join(", "),
            filter.unwrap_or_default()
        );
    }
    let mut command = guests.command(&test::environment(workspace)?);
    command.args([test::GUEST_THREADS, "--exact"]).args(tests);
    Ok(command)
}

/// What the tree is at, for logs that go on in the next run.
fn commit(workspace: &Workspace) -> Result<String> {
    let mut git = Command::new("git");
    let git = git.current_dir(&workspace.root);
    let described = shell::output(git.args(["describe", "--always", "--dirty"]))?;
    Ok(described.trim().to_owned())
}

/// Where the output of a step is kept.
fn kept_in(workspace: &Workspace, step: &str) -> PathBuf {
    workspace.target.join(format!("soak/{step}.log"))
}

/// Runs a step; what it prints is kept.
fn kept(workspace: &Workspace, step: &str, command: &mut Command) -> Result<bool> {
    let path = kept_in(workspace, step);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut log = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let line = shell::shown(command);
    shell::heading(&format!("soak {step}: {line}"));
    writeln!(log, "{line}")?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;
    let output = child.stdout.take().context("no output of cargo test")?;
    for said in BufReader::new(output).split(b'\n') {
        let mut said = said?;
        said.push(b'\n');
        log.write_all(&said)?;
        std::io::stdout().write_all(&said)?;
    }
    let status = child.wait()?;
    writeln!(log, "{status} after {:.0} s", started.elapsed().as_secs_f64())?;
    println!(
        "soak {step}: {status} after {:.0} s; {}",
        started.elapsed().as_secs_f64(),
        path.display()
    );
    Ok(status.success())
}
