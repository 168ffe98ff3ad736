//! The fuzz targets under libFuzzer, which looks for new code to reach, where `--step fuzz` mutates without
//! looking.
//!
//! Promises: built by a nightly compiler with coverage and without cargo-fuzz; what is found beside the
//! committed corpus stays in the target folder; what fails is kept in `fuzz/artifacts`. Not here: the
//! targets.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell;
use crate::workspace::Workspace;

/// Coverage by counters and comparisons, as cargo-fuzz asks for; overflows and assertions are checked.
const FLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks \
                     -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Named, so that build scripts and macros are built without coverage.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Seconds that one input may take, as in the plain tests.
const TIMEOUT: u64 = 20;
/// MiB that a target may hold: far above what its input allows, below what hurts.
const MEMORY: u64 = 1024;

/// The programs to run, each with its name: all, or those whose names contain `filter`.
///
/// # Errors
/// Without a nightly compiler, and when a target does not build.
pub fn programs(workspace: &Workspace, filter: Option<&str>, seconds: u64) -> Result<Vec<(String, Command)>> {
    let toolchains = shell::output(Command::new("rustup").args(["toolchain", "list"])).context("rustup")?;
    if !toolchains.lines().any(|line| line.starts_with("nightly")) {
        bail!("libFuzzer needs a nightly compiler; hint: rustup toolchain install nightly --profile minimal");
    }
    let fuzz = workspace.root.join("fuzz");
    let home = workspace.target.join("libfuzzer");
    let mut cargo = Command::new("rustup");
    cargo
        .args([
            "run",
            "nightly",
            "cargo",
            "build",
            "--release",
            "--target",
            TARGET,
            "--manifest-path",
        ])
        .arg(fuzz.join("libfuzzer/Cargo.toml"))
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", &home);
    let mut names = names(&fuzz)?;
    names.retain(|name| filter.is_none_or(|filter| name.contains(filter)));
    for name in &names {
        cargo.args(["--bin", name]);
    }
    shell::run("the fuzz targets, for libFuzzer", &mut cargo)?;
    let program = |name: String| {
        let found = home.join("corpus").join(&name);
        let artifacts = fuzz.join("artifacts").join(&name);
        for folder in [&found, &artifacts] {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        // It speaks on standard error, and what is kept is standard output.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
            .arg(home.join(TARGET).join("release").join(&name))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-print_final_stats=1")
            // New inputs go to the first folder.
            .args([&found, &fuzz.join("corpus").join(&name)]);
        Ok((name, command))
    };
    names.into_iter().map(program).collect()
}

/// One target a file.
fn names(fuzz: &Path) -> Result<Vec<String>> {
    let folder = fuzz.join("fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path: PathBuf = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        names.push(stem.context("a target's name is text")?.to_owned());
    }
    names.sort();
    Ok(names)
}
