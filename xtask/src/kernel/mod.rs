//! `cargo xtask kernel`: the patched kernels, from the distribution's source package to an image that a guest
//! boots.
//!
//! Promises: the source is the newest of its series that a package index knows, checked by apt; a build lies
//! outside of the source and of the repository, and is found again by a key of everything that went into it;
//! two builds of one key are the same bytes. Not here: guests (`vm-tests`), what the patches do
//! (`kernel-patches/`).

mod bases;
mod build;
mod check;
mod package;
mod source;
pub mod virtme;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;

use crate::help;
use crate::needs::{self, Consent, Purpose};
use crate::workspace::Workspace;
use bases::{Base, bases, named, own_patches};
use build::{Variant, again, build};
use check::{check, passed_mark};
use package::{USUAL_FLAVOUR, Wanted, package};
pub use source::{MAIL, NAME, sha256};
use source::{apply, fetch};

/// `cargo xtask kernel`.
///
/// # Errors
/// For unknown options, and when a step fails.
pub fn kernel_command(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut consent = Consent::default();
    let mut variant = Variant::default();
    let mut flavour = USUAL_FLAVOUR.to_owned();
    let mut modules: Option<PathBuf> = None;
    let mut verb: Option<String> = None;
    let mut wanted: Vec<String> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => consent.yes = true,
            Long("no-install") => consent.no_install = true,
            Long("base") => wanted.push(parser.value()?.string()?),
            Long("debug") => variant.debug = true,
            Long("config") => variant.config = Some(PathBuf::from(parser.value()?)),
            Long("flavour") => flavour = parser.value()?.string()?,
            Long("modules") => modules = Some(PathBuf::from(parser.value()?)),
            Short('h') | Long("help") => {
                print!("{}", help::KERNEL);
                return Ok(ExitCode::SUCCESS);
            }
            Value(value) if verb.is_none() => verb = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(verb) = verb else {
        print!("{}", help::KERNEL);
        return Ok(ExitCode::FAILURE);
    };
    let all = bases(workspace)?;
    let mut chosen: Vec<&Base> = Vec::new();
    for name in &wanted {
        if name == "all" {
            chosen.extend(&all);
        } else {
            chosen.push(named(&all, name).context("--base; `all` is each of them")?);
        }
    }
    if chosen.is_empty() {
        chosen.extend(all.iter().filter(|base| base.full));
    }
    let purpose = match verb.as_str() {
        "fetch" | "apply" | "build" | "check" | "reproduce" => Purpose::Kernel,
        "package" => Purpose::KernelPackages,
        _ => bail!("no `kernel {verb}`; there are fetch, apply, check, build, reproduce and package"),
    };
    let wanted_packages = Wanted {
        flavour,
        modules,
        config: variant.config.clone(),
    };
    if let Some(code) = needs::provide(workspace, purpose, consent)? {
        return Ok(code);
    }
    for base in chosen {
        let _lock = lock(workspace, base)?;
        match verb.as_str() {
            "fetch" => println!("{}", fetch(workspace, base)?.dir.display()),
            "apply" => {
                let source = fetch(workspace, base)?;
                apply(workspace, base, &source)?;
                println!("{}", source.dir.display());
            }
            "build" => println!("{}", build(workspace, base, &variant)?.display()),
            "reproduce" => again(workspace, base)?,
            "package" => println!("{}", package(workspace, base, &wanted_packages)?.display()),
            _ => check(workspace, base)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks every series that did not pass as it is, and builds the kernels that are built in full: the step
/// `kernel` of `cargo xtask test`.
///
/// Gives the number of patches that were checked now, and the directories of the kernels.
///
/// # Errors
/// When a patch does not apply, is not clean or does not compile, or a build fails.
pub fn check_and_build(workspace: &Workspace) -> Result<(u64, Vec<PathBuf>)> {
    let mut patches = 0;
    let mut kernels = Vec::new();
    for base in bases(workspace)? {
        let _lock = lock(workspace, &base)?;
        let mark = passed_mark(workspace, &base)?;
        if mark.is_file() {
            println!("kernel check {}: nothing changed since it passed", base.series);
        } else {
            let begin = Instant::now();
            check(workspace, &base)?;
            patches += own_patches(workspace, &base)?.len() as u64;
            println!(
                "TIME kernel check {}: {:.0} s",
                base.series,
                begin.elapsed().as_secs_f64()
            );
            passed(&mark)?;
        }
        if base.full {
            let begin = Instant::now();
            kernels.push(build(workspace, &base, &Variant::default())?);
            println!(
                "TIME kernel build {}: {:.0} s",
                base.series,
                begin.elapsed().as_secs_f64()
            );
        }
    }
    Ok((patches, kernels))
}

fn passed(mark: &Path) -> Result<()> {
    if let Some(folder) = mark.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(mark, "").with_context(|| format!("writing {}", mark.display()))
}

/// The directory of the built kernel of a series, for a guest to run; or the exit status of one who wants
/// nothing to be installed.
///
/// # Errors
/// When there is no such base, something that is needed cannot be installed, or the build fails.
pub fn for_guests(workspace: &Workspace, name: &str, consent: Consent) -> Result<Result<PathBuf, ExitCode>> {
    let all = bases(workspace)?;
    let base = named(&all, name)?;
    if let Some(code) = needs::provide(workspace, Purpose::Kernel, consent)? {
        return Ok(Err(code));
    }
    let _lock = lock(workspace, base)?;
    build(workspace, base, &Variant::default()).map(Ok)
}

/// The names of all bases.
///
/// # Errors
/// When they cannot be read.
pub fn all(workspace: &Workspace) -> Result<Vec<String>> {
    Ok(bases(workspace)?.into_iter().map(|base| base.series).collect())
}

/// Builds a base in full, as the debug kernel if so wanted; gives its directory.
///
/// # Errors
/// When there is no such base, or the build fails.
pub fn build_for_guests(workspace: &Workspace, name: &str, debug: bool) -> Result<PathBuf> {
    let all = bases(workspace)?;
    let base = named(&all, name)?;
    let _lock = lock(workspace, base)?;
    let variant = Variant {
        debug,
        ..Variant::default()
    };
    build(workspace, base, &variant)
}

/// Packages a base with the modules that our guests load; gives the directory, or the exit status of one who
/// wants nothing to be installed.
///
/// # Errors
/// When there is no such base, something that is needed cannot be installed, or the build fails.
pub fn package_for_guests(
    workspace: &Workspace,
    name: &str,
    consent: Consent,
) -> Result<Result<PathBuf, ExitCode>> {
    if let Some(code) = needs::provide(workspace, Purpose::KernelPackages, consent)? {
        return Ok(Err(code));
    }
    let all = bases(workspace)?;
    let base = named(&all, name)?;
    let _lock = lock(workspace, base)?;
    let modules = workspace.target.join("soak").join("lsmod");
    std::fs::create_dir_all(workspace.target.join("soak"))?;
    std::fs::write(
        &modules,
        GUEST_MODULES.map(|module| format!("{module} 1 0\n")).concat(),
    )?;
    let wanted = Wanted {
        flavour: USUAL_FLAVOUR.to_owned(),
        modules: Some(modules),
        config: None,
    };
    package(workspace, base, &wanted).map(Ok)
}

/// What `lsmod` shows in a guest on the distribution's kernel.
const GUEST_MODULES: [&str; 5] = ["failover", "loop", "net_failover", "overlay", "virtio_net"];

/// Builds a base a second time, elsewhere.
///
/// # Errors
/// When there is no such base, a build fails, or the images differ.
pub fn reproduce(workspace: &Workspace, name: &str) -> Result<()> {
    let all = bases(workspace)?;
    let base = named(&all, name)?;
    let _lock = lock(workspace, base)?;
    again(workspace, base)
}

/// The series whose kernel is meant where nobody says which.
pub const USUAL_BASE: &str = "6.12";

/// One at a time for each base: sources and half-made builds are shared. Held until the file is closed.
fn lock(workspace: &Workspace, base: &Base) -> Result<std::fs::File> {
    std::fs::create_dir_all(&workspace.cache)
        .with_context(|| format!("making {}", workspace.cache.display()))?;
    let path = workspace.cache.join(format!("kernel-{}.lock", base.kernel()));
    let file = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!(
            "another `cargo xtask kernel` is at work on {}; waiting for it",
            base.kernel()
        );
        file.lock()
            .with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}
