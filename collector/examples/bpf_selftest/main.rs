//! Proves the eBPF programs and their loader on a running kernel, in a throw-away guest: it loads them, makes
//! things happen, and compares what the records say with what it knows to be true.
//!
//! `bpf_selftest OBJECT [v1]`, as root, with IMA measuring executions (`ima_policy=tcb`) and securityfs
//! mounted. Prints one line a check; exit status 1 if any failed. Needs `/bin/busybox` and a disk file system
//! at the working directory.

mod cgroups;
mod child;
mod executions;
mod limits;
mod make;
mod mappings;
mod overlay;
mod restarts;
mod truth;

use anyhow::{Context, Result, ensure};
use cgpathd::bpf::{Adopted, Bpf, ProgramOptions, Ring};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use truth::{ancestors_of_me, drain};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[1..] {
        ["work", "anonymous"] => child::anonymous(),
        ["work", "page-zero", program] => child::page_zero(program),
        ["work", "late", file] => child::late(Path::new(file)),
        ["work", "memfd", file] => child::memfd(Path::new(file)),
        ["work", "writable", way, file] => child::writable(way, Path::new(file)),
        [object] => return selftest(object, false),
        [object, "v1"] => return selftest(object, true),
        _ => {
            eprintln!("usage: bpf_selftest OBJECT [v1]");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where the checks work.
struct Bed {
    ring: Ring,
    /// A directory on a disk.
    dir: PathBuf,
    /// This program.
    me: PathBuf,
    /// Pids of this process and its parents.
    above: Vec<u32>,
}

/// How the checks fare.
struct Check {
    failed: usize,
    passed: usize,
}

impl Check {
    fn run(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        match check() {
            Ok(()) => {
                self.passed += 1;
                println!("PASS {name}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {name}: {error:#}");
            }
        }
    }
}

fn selftest(object: &str, v1: bool) -> ExitCode {
    let mut check = Check { failed: 0, passed: 0 };
    match session(object, v1, &mut check) {
        Ok(()) => {}
        Err(error) => {
            check.failed += 1;
            println!("FAIL session: {error:#}");
        }
    }
    println!("{} passed, {} failed", check.passed, check.failed);
    if check.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// All checks, in their order: later ones use what earlier ones left.
fn session(object: &str, v1: bool, check: &mut Check) -> Result<()> {
    let object = fs::read(object).context(object.to_owned())?;
    let options = ProgramOptions::new(&object);
    let dir = std::env::current_dir()?.join("work");
    fs::create_dir_all(&dir)?;

    let begin = Instant::now();
    let (mut bpf, adopted) = Bpf::load_or_adopt(&options)?;
    println!(
        "loaded in {:?}: {adopted:?}, hierarchy {:?}",
        begin.elapsed(),
        bpf.hierarchy()
    );
    for program in bpf.counters()?.programs {
        println!(
            "  {} (id {}): {} instructions verified",
            program.name, program.id, program.verified_instructions
        );
    }
    let mut bed = Bed {
        ring: bpf.take_ring().context("no ring")?,
        me: std::env::current_exe()?,
        above: ancestors_of_me()?,
        dir,
    };
    drain(&mut bed.ring)?;
    check.run(
        "a first load is fresh, and v1 is taken where v1 is in use",
        || {
            ensure!(
                adopted
                    == Adopted::Fresh {
                        removed_leftovers: false
                    }
            );
            ensure!(bpf.hierarchy().controller.is_some() == v1);
            ensure!(bpf.counters()?.all_attached(), "{:?}", bpf.counters()?);
            Ok(())
        },
    );

    executions::programs(&mut bed, check)?;
    executions::scripts(&mut bed, check)?;
    executions::libraries(&mut bed, check)?;
    mappings::all(&mut bed, check)?;
    executions::in_memory(&mut bed, check)?;
    limits::paths(&mut bed, check)?;
    limits::violations(&mut bed, check)?;
    overlay::all(&mut bed, check)?;
    cgroups::all(&mut bed, &bpf, v1, check)?;
    limits::thread(&mut bed, check)?;
    limits::ancestry(&mut bed, check)?;
    limits::burst(&mut bed, &bpf, check)?;
    restarts::all(bpf, bed.ring, &options, check)
}
