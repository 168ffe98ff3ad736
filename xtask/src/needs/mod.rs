//! What `demo` and `test` need of a machine: looking for it, showing it, and bringing what is missing.
//!
//! Promises: looking changes nothing and needs neither root nor network; root is used for apt-get alone; what
//! is installed stays as it is, but for upgrades that are named before; what cannot be installed from here is
//! named with the way to get it. Not here: what is built from the repository (`build`).

pub mod apt;
mod packages;
mod plan;
mod survey;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use self::apt::{Lists, Outcome, Planned, Root};
use self::survey::survey;
use crate::workspace::{Workspace, find_program, megabytes, os_release};
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
    /// Make packages of programs that are built.
    Packing,
    /// Build the programs, and make packages of them.
    Dist,
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
    /// Whether this purpose includes `part`.
    fn includes(self, part: Self) -> bool {
        match self {
            Self::Build | Self::Machines | Self::Kernel | Self::BenchReplay | Self::Packing => self == part,
            Self::Dist => matches!(part, Self::Dist | Self::Packing | Self::Build),
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
    /// Missing, and the package lists do not have it: newer ones may.
    Unlisted(String),
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

    fn unlisted(&self) -> bool {
        matches!(self.state, State::Unlisted(_))
    }

    /// Whether apt may bring it.
    fn wants_apt(&self) -> bool {
        self.unlisted() || (self.missing() && matches!(self.how, How::Apt))
    }
}

fn is_debian() -> bool {
    os_release("ID").as_deref() == Some("debian") && find_program("apt-get").is_some()
}

/// The same on systems where we do not install.
const ELSEWHERE: &str = "\
This is not Debian, so nothing can be installed from here. Please install, by the names that your system has for them:
  gcc with a static C library, pkg-config, tpm2-tss (development files), protoc, libclang
  qemu-system-x86_64, swtpm, OVMF, objcopy, mkfs.fat, mtools, systemd's EFI stub, mmdebstrap, mke2fs (e2fsprogs), depmod (kmod), busybox (static), tpm2-tools, containerd with ctr, promtool, apt and dpkg
  for the eBPF programs: rustup toolchain install nightly --component rust-src; cargo install bpf-linker
The guests' kernels and root file system are Debian packages: the virtual machines need a Debian 12 or 13 (a container
with at least 6 GB of disk does).";

/// `cargo xtask doctor`.
///
/// # Errors
/// For unknown options.
pub fn doctor(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
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
    let needs = survey(workspace, Purpose::Test);
    let missing = needs.iter().filter(|need| need.missing()).count();
    if json {
        println!("{}", as_json(&needs));
    } else {
        println!("{}", table(&needs, true));
        if !is_debian() {
            println!("{ELSEWHERE}");
        }
        if let (Some(why), 1..) = (Lists::look().fault().filter(|_| is_debian()), missing) {
            println!("The package lists are not good enough: {why}.");
        }
        match missing {
            0 => println!("Nothing is missing: cargo xtask demo"),
            _ => println!("{missing} missing. `cargo xtask demo` or `cargo xtask test` brings them."),
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
pub fn provide(workspace: &Workspace, purpose: Purpose, consent: Consent) -> Result<Option<ExitCode>> {
    let mut needs = survey(workspace, purpose);
    if !needs.iter().any(Need::missing) {
        return Ok(None);
    }
    eprintln!("This machine lacks:\n{}", table(&needs, false));
    if consent.no_install {
        return Ok(Some(ExitCode::from(MISSING)));
    }
    // Things that are made at first use need no consent: they cost time and room in the cache, and no root.
    let comes_by_itself = |need: &Need| matches!((&need.state, &need.how), (State::Missing(_), How::Later));
    if needs.iter().all(|need| !need.missing() || comes_by_itself(need)) {
        return Ok(None);
    }
    if !is_debian() {
        bail!("{ELSEWHERE}");
    }
    if !needs.iter().any(Need::wants_apt) {
        refuse_blocked(&needs)?;
        let agreed = consent.yes
            || workspace.ci
            || shell::confirm("Build the listed tools into the cache?")?.unwrap_or(true);
        return Ok((!agreed).then(|| ExitCode::from(MISSING)));
    }
    let mut installer = Installer {
        workspace,
        root: Root::find(),
        unasked: consent.yes || workspace.ci,
        refreshed: false,
    };
    installer.must_become_root(&needs)?;
    let unlisted: Vec<&str> = needs
        .iter()
        .filter(|need| need.unlisted())
        .map(|need| need.name.as_str())
        .collect();
    let lacking = (!unlisted.is_empty()).then(|| format!("they lack {}", unlisted.join(", ")));
    if let Some(why) = Lists::look().fault().or(lacking) {
        if !installer.refresh(&why)? {
            return Ok(Some(ExitCode::from(MISSING)));
        }
        needs = survey(workspace, purpose);
        eprintln!("By these lists, this machine lacks:\n{}", table(&needs, false));
    }
    refuse_blocked(&needs)?;
    let packages = missing_packages(&needs);
    if !packages.is_empty() && !installer.install(&packages)? {
        return Ok(Some(ExitCode::from(MISSING)));
    }
    let still: Vec<String> = survey(workspace, purpose)
        .into_iter()
        .filter(|need| need.missing() && matches!(need.how, How::Apt | How::Nothing))
        .map(|need| need.name)
        .collect();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(", "));
    }
    Ok(None)
}

/// Each name once, though it may be needed for two reasons.
fn missing_packages(needs: &[Need]) -> Vec<String> {
    let missing = needs
        .iter()
        .filter(|need| need.missing() && matches!(need.how, How::Apt));
    let names: BTreeSet<&str> = missing.map(|need| need.name.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// Ends here when something is missing that no command of ours can bring.
fn refuse_blocked(needs: &[Need]) -> Result<()> {
    let blocked: Vec<String> = needs
        .iter()
        .filter_map(|need| match &need.state {
            State::Blocked(remedy) => Some(format!("{}: {remedy}", need.name)),
            State::Unlisted(why) => Some(format!("{}: {why}", need.name)),
            _ => None,
        })
        .collect();
    if !blocked.is_empty() {
        bail!("this has to be done by hand first:\n  {}", blocked.join("\n  "));
    }
    Ok(())
}

/// Uses apt-get as far as a person agrees.
struct Installer<'a> {
    workspace: &'a Workspace,
    root: Root,
    /// Consent was given beforehand.
    unasked: bool,
    refreshed: bool,
}

impl Installer<'_> {
    /// Where nobody can be asked for a password, it is better said at once.
    fn must_become_root(&self, needs: &[Need]) -> Result<()> {
        let why = match self.root {
            Root::Already | Root::Sudo => return Ok(()),
            Root::SudoAsks if shell::terminal() => return Ok(()),
            Root::SudoAsks => "sudo asks for a password, and there is no terminal to ask on",
            Root::None => "this is not root, and there is no sudo",
        };
        let packages = missing_packages(needs);
        bail!(
            "packages are missing and cannot be installed from here: {why}; hint: as root,\n  \
             {}\n\
             and then this command again",
            apt::by_hand(&packages)
        );
    }

    /// Asks on a terminal. Without one it is said what is done: [`Self::must_become_root`] has let that pass.
    fn agreed(&self, question: &str) -> Result<bool> {
        if self.unasked {
            return Ok(true);
        }
        Ok(shell::confirm(question)?.unwrap_or(true))
    }

    /// Brings the lists up to date; says no when a person does.
    fn refresh(&mut self, why: &str) -> Result<bool> {
        eprintln!("The package lists are not good enough: {why}.");
        if !self.agreed(&format!("Refresh them (apt-get update{})?", self.root.shown()))? {
            return Ok(false);
        }
        self.refreshed = true;
        if let Err(error) = apt::refresh(self.root) {
            eprintln!(
                "{error:#}\n\
                 The package lists could not be refreshed (see above); going on with those that are there."
            );
        }
        Ok(true)
    }

    fn install(&mut self, packages: &[String]) -> Result<bool> {
        let planned = match apt::plan(self.workspace, packages)? {
            Outcome::Stopped(faults) if !self.refreshed => {
                eprintln!("apt finds no way by these lists:\n  {}", faults.join("\n  "));
                if !self.refresh("newer ones may have versions that fit")? {
                    return Ok(false);
                }
                apt::plan(self.workspace, packages)?
            }
            outcome => outcome,
        };
        let Some(planned) = self.consented(planned, packages)? else {
            return Ok(false);
        };
        let Err(error) = apt::install(self.root, &planned) else {
            return Ok(true);
        };
        if self.refreshed {
            return Err(error);
        }
        // Old package lists name files that the mirrors have replaced.
        eprintln!("{error:#}");
        if !self.refresh("a package could not be installed by them")? {
            return Ok(false);
        }
        let planned = apt::plan(self.workspace, packages)?;
        let Some(planned) = self.consented(planned, packages)? else {
            return Ok(false);
        };
        apt::install(self.root, &planned)?;
        Ok(true)
    }

    /// Shows what would be done; `None` when a person says no.
    fn consented(&self, outcome: Outcome, packages: &[String]) -> Result<Option<Planned>> {
        let planned = match outcome {
            Outcome::Planned(planned) => planned,
            Outcome::Stopped(faults) => bail!(
                "apt finds no way to install {} that leaves this machine as it is; nothing was changed. In \
                 its way:\n  \
                 {}",
                packages.join(" "),
                faults.join("\n  ")
            ),
        };
        eprintln!("{}", planned.shown());
        if self.agreed(&format!(
            "Install this with apt-get{}, and the rest as listed?",
            self.root.shown()
        ))? {
            return Ok(Some(planned));
        }
        eprintln!("Nothing was installed. By hand: {}", apt::by_hand(packages));
        Ok(None)
    }
}

fn table(needs: &[Need], all: bool) -> String {
    let rows: Vec<[String; 4]> = needs
        .iter()
        .filter(|need| all || need.missing())
        .map(|need| {
            let (mark, detail) = match &need.state {
                State::Present(detail) => ("ok", detail),
                State::Missing(detail) | State::Unlisted(detail) => ("MISSING", detail),
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
                State::Unlisted(detail) => ("not-in-package-lists", detail),
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
        assert!(Purpose::Dist.includes(Purpose::Build) && Purpose::Dist.includes(Purpose::Packing));
        assert!(Purpose::Test.includes(Purpose::Packing) && !Purpose::Packing.includes(Purpose::Build));
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
