//! `cargo xtask dist`: what users install, from programs that are built for it.
//!
//! Promises: the same programs of the same commit give the same bytes; what is made lies in one directory,
//! with its checksums and with a list of what each program is made of. Not here: building (`build`),
//! installing (`deploy/debian`, `vm-tests/tests/guests/install.rs`).

mod bill;
mod chart;
mod deb;
mod image;
mod tarball;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;

use bill::Bills;

use crate::needs::{self, Consent, Purpose};
use crate::workspace::{Workspace, emptied, megabytes};
use crate::{build, help, shell};

/// The programs that are shipped, and the section of their manual.
const PROGRAMS: [(&str, u8); 2] = [("cgpath", 1), ("cgpathd", 8)];

/// How much time is spent on small packages, archives and images.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    /// For users: dpkg-deb's own, xz, and gzip at its best.
    Small,
    /// For tests.
    Quick,
}

/// What can be made.
const KINDS: [&str; 4] = ["deb", "tar", "image", "chart"];

/// `cargo xtask dist`.
///
/// # Errors
/// For unknown options, and when something is missing, does not build or is not clean.
pub fn dist_command(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut consent = Consent::default();
    let mut wanted: Vec<String> = Vec::new();
    let mut programs: Option<PathBuf> = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => consent.yes = true,
            Long("no-install") => consent.no_install = true,
            Long("programs") => programs = Some(PathBuf::from(parser.value()?)),
            Short('h') | Long("help") => {
                print!("{}", help::DIST);
                return Ok(ExitCode::SUCCESS);
            }
            Value(value) => wanted.push(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    // It has no program in it.
    if wanted == ["chart"] {
        println!("{}", chart::make(workspace)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let purpose = match (wanted.as_slice(), &programs) {
        ([], _) => bail!("say what: {}; hint: cargo xtask dist --help", KINDS.join(", ")),
        (kinds, _) if kinds.iter().any(|kind| !KINDS.contains(&kind.as_str())) => {
            bail!("there are {}; hint: cargo xtask dist --help", KINDS.join(", "))
        }
        (_, Some(_)) => Purpose::Packing,
        (_, None) => Purpose::Dist,
    };
    if let Some(code) = needs::provide(workspace, purpose, consent)? {
        return Ok(code);
    }
    if programs.is_none() {
        build::ebpf(workspace)?;
    }
    // Of the object that the programs get.
    let bills = Bills::read(workspace)?;
    for kind in wanted {
        let made = match kind.as_str() {
            "deb" => {
                let out = packages(workspace).join("deb");
                match &programs {
                    Some(dir) => deb::pack(workspace, &bills, dir, &out, Compression::Quick)?,
                    None => {
                        let dir = build::shipped(workspace)?;
                        deb::pack(workspace, &bills, &dir, &out, Compression::Small)?
                    }
                }
                deb::check(&out)?;
                out
            }
            "tar" => tarball::make(workspace, &bills, programs.as_deref())?,
            "chart" => chart::make(workspace)?,
            _ => image::make(workspace, &bills, programs.as_deref())?,
        };
        println!("{}", made.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the packages of the programs that `test` tries; gives their directory, in which
/// `vm-tests/tests/guests/install.rs` looks for them.
///
/// # Errors
/// When one cannot be packed.
pub fn tried(workspace: &Workspace) -> Result<PathBuf> {
    pack_tried(workspace, "tried")
}

/// All that goes into them is read anew.
fn pack_tried(workspace: &Workspace, folder: &str) -> Result<PathBuf> {
    let programs = workspace.target.join("debug");
    let out = packages(workspace).join(folder);
    let bills = Bills::read(workspace)?;
    deb::pack(workspace, &bills, &programs, &out, Compression::Quick)?;
    Ok(out)
}

/// The same again, elsewhere: the bytes must be the same. Then they are linted.
///
/// # Errors
/// When they are not, with the first file that differs, or when they are not clean.
pub fn again(workspace: &Workspace, first: &Path) -> Result<()> {
    let second = pack_tried(workspace, "tried-again")?;
    same(first, &second)?;
    std::fs::remove_dir_all(&second).with_context(|| format!("removing {}", second.display()))?;
    deb::check(first)
}

/// Archives and images of the programs that `test` tries, made twice: the bytes must be the same. Each
/// archive is unpacked and whole, each image is read back, and the verifier's runs, with the C library beside
/// it; no other program is run from them, since these are not the portable ones.
///
/// # Errors
/// When they are not, with the first file that differs, or when one lacks something or does not run.
pub fn portable_again(workspace: &Workspace) -> Result<()> {
    let programs = workspace.target.join("debug");
    let folders = ["tried-portable", "tried-portable-again"];
    let [first, second] = folders.map(|folder| packages(workspace).join(folder));
    for out in [&first, &second] {
        emptied(out)?;
        let trees = tarball::pack(
            workspace,
            &Bills::read(workspace)?,
            &programs,
            out,
            Compression::Quick,
        )?;
        image::pack(
            workspace,
            &trees,
            &programs.join("cgpath"),
            out,
            Compression::Quick,
        )?;
        image::run_verifier(out)?;
        let work = out.join("work");
        std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
        sums(out)?;
    }
    same(&first, &second)?;
    for out in [&first, &second] {
        std::fs::remove_dir_all(out).with_context(|| format!("removing {}", out.display()))?;
    }
    Ok(())
}

/// The chart, packed twice: the bytes must be the same. Then the real helm reads it, with values that it must
/// take and others that it must refuse, and everything that it makes is looked at.
///
/// # Errors
/// When something is not as it should be: with the case.
pub fn chart_again(workspace: &Workspace) -> Result<()> {
    let folders = ["tried-chart", "tried-chart-again"];
    let [first, second] = folders.map(|folder| packages(workspace).join(folder));
    let packed = chart::pack(workspace, &first)?;
    chart::pack(workspace, &second)?;
    same(&first, &second)?;
    chart::check(workspace, &packed)?;
    for out in [&first, &second] {
        std::fs::remove_dir_all(out).with_context(|| format!("removing {}", out.display()))?;
    }
    Ok(())
}

/// Where the programs of archives and images are: some that [`build::portable`] built before, or those that
/// it builds now, below `work`.
fn portable(workspace: &Workspace, programs: Option<&Path>, work: &Path) -> Result<PathBuf> {
    match programs {
        Some(dir) => Ok(dir.to_owned()),
        None => {
            let dir = work.join("built");
            build::portable(workspace, &dir)?;
            Ok(dir)
        }
    }
}

/// Whether two directories were packed to the same bytes.
fn same(first: &Path, second: &Path) -> Result<()> {
    let sums = |dir: &Path| {
        std::fs::read_to_string(dir.join(SUMS))
            .with_context(|| format!("reading the sums of {}", dir.display()))
    };
    if let Some((one, other)) = difference(&sums(first)?, &sums(second)?) {
        bail!("two packings of the same programs differ: `{one}` and `{other}`");
    }
    Ok(())
}

/// The first lines of two texts that differ; of the one that ends before the other there is none.
fn difference<'a>(one: &'a str, other: &'a str) -> Option<(&'a str, &'a str)> {
    let (mut one, mut other) = (one.lines(), other.lines());
    loop {
        match (one.next(), other.next()) {
            (None, None) => return None,
            (one, other) if one == other => {}
            (one, other) => return Some((one.unwrap_or("nothing"), other.unwrap_or("nothing"))),
        }
    }
}

/// Where all of it lies.
fn packages(workspace: &Workspace) -> PathBuf {
    workspace.target.join("packages")
}

/// What a build is called by.
struct Release {
    /// Of the workspace: `0.1.0`.
    version: String,
    /// That and, for a commit without the version's tag, when it was made: `0.1.0~20261130022757.52b5976`,
    /// which sorts before the version itself.
    full: String,
    /// When the commit was made, in seconds since 1970: the time of everything that is packed.
    epoch: u64,
}

impl Release {
    fn of(workspace: &Workspace) -> Result<Self> {
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.arg("-C").arg(&workspace.root).args(arguments);
            shell::output(command.env("TZ", "UTC")).map(|said| said.trim().to_owned())
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(seconds) => seconds,
            Err(_) => git(&["log", "-1", "--format=%ct"])?,
        };
        let epoch = epoch.parse().with_context(|| format!("`{epoch}` is no time"))?;
        let tags = git(&["tag", "--points-at", "HEAD"])?;
        let full = if tags.lines().any(|tag| tag.trim_start_matches('v') == version) {
            version.clone()
        } else {
            let made = git(&[
                "log",
                "-1",
                "--abbrev=10",
                "--date=format-local:%Y%m%d%H%M%S",
                "--format=%cd.%h",
            ])?;
            format!("{version}~{made}")
        };
        Ok(Self { version, full, epoch })
    }

    /// Its time, as date(1) writes it.
    fn date(&self, format: &str) -> Result<String> {
        let at = format!("@{}", self.epoch);
        let mut date = Command::new("date");
        date.env("LC_ALL", "C").args(["-u", "-d", &at, format]);
        Ok(shell::output(&mut date)?.trim().to_owned())
    }
}

/// The name of the list of checksums.
const SUMS: &str = "SHA256SUMS";

/// Writes the checksums of all files of a directory, as `sha256sum -c` takes them.
fn sums(dir: &Path) -> Result<()> {
    let names = names(dir)?;
    let mut sha256sum = Command::new("sha256sum");
    let listed = shell::output(sha256sum.current_dir(dir).arg("--").args(names))?;
    std::fs::write(dir.join(SUMS), listed).with_context(|| format!("writing {SUMS}"))
}

/// The names of a directory's entries, sorted.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Copies a file, or a directory with all that is in it, and makes the directory that it goes to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        for name in names(from)? {
            copy(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    std::fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// What both kinds of packages have beside the programs: manuals, completions, bills of materials, licences,
/// units, policies, schemas.
fn lay(workspace: &Workspace, release: &Release, bills: &Bills, programs: &Path, tree: &Path) -> Result<()> {
    for folder in ["deploy", "policy/ima", "policy/node", "policy/reference"] {
        copy(&workspace.root.join(folder), &tree.join(folder))?;
    }
    for (name, section) in PROGRAMS {
        let program = programs.join(name);
        if !program.is_file() {
            bail!("{} is not there; hint: cargo xtask build", program.display());
        }
        copy(&program, &tree.join("bin").join(name))?;
        let manual = tree.join(format!("man/man{section}"));
        std::fs::create_dir_all(&manual)?;
        shell::output(Command::new(&program).arg("manual").arg(&manual))?;
        for (shell_name, file) in [
            ("bash", name.to_owned()),
            ("zsh", format!("_{name}")),
            ("fish", format!("{name}.fish")),
        ] {
            let script = shell::output(Command::new(&program).args(["completions", shell_name]))?;
            let dir = tree.join("completions").join(shell_name);
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(file), script)?;
        }
        let bill = serde_json::to_string_pretty(&bills.cyclonedx(name, release)?)?;
        std::fs::write(tree.join(format!("{name}.cdx.json")), bill + "\n")?;
        std::fs::write(tree.join(format!("{name}-licences.txt")), bills.licences(name)?)?;
    }
    Ok(())
}

/// What became of a program, for a person who watches its size.
fn size(what: &str, path: &Path) -> Result<()> {
    let bytes = std::fs::metadata(path)
        .with_context(|| format!("looking at {}", path.display()))?
        .len();
    eprintln!("   {what}: {}", megabytes(bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_one_packing_has_alone_is_a_difference_wherever_it_is_listed() {
        let both = "1  a.deb\n2  b.deb\n";
        assert_eq!(difference(both, both), None);
        assert_eq!(
            difference(both, "1  a.deb\n3  b.deb\n"),
            Some(("2  b.deb", "3  b.deb"))
        );
        assert_eq!(difference(both, "2  b.deb\n"), Some(("1  a.deb", "2  b.deb")));
        assert_eq!(difference(both, "1  a.deb\n"), Some(("2  b.deb", "nothing")));
        assert_eq!(difference("", both), Some(("nothing", "1  a.deb")));
    }
}
