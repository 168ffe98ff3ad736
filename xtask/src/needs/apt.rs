//! Packages by apt-get: lists that are fresh enough, a plan that does no harm, and its execution.
//!
//! Promises: lists are refreshed at most once a command; nothing in /etc/apt changes; what is planned is
//! simulated with the very options that it is done with; root is used for apt-get alone. Not here: what may
//! be done (`plan`), what is needed (`survey`).

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::plan::{self, Decision, Installed, Offers, Plan, Release, Request, Simulation, Suite};
use crate::machine::{self, Archive};
use crate::shell;
use crate::workspace::{Workspace, find_program, is_root, megabytes, os_release};

/// Package lists that are older are refreshed before anything is installed.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// Answers of apt that are refused before it is given up: each one adds at least one package to what is asked
/// for.
const ROUNDS: usize = 30;

/// The machine's package lists.
pub enum Lists {
    Missing,
    /// Brought up to date so long ago.
    Old(Duration),
    Fresh,
}

impl Lists {
    /// Looks at the newest of the lists, and at the directory that every `apt-get update` writes through:
    /// files keep the time at which the mirror changed them, which may be long ago for a release that is old.
    pub fn look() -> Self {
        let place = PathBuf::from("/var/lib/apt/lists");
        let files = std::fs::read_dir(&place).into_iter().flatten().flatten();
        let lists: Vec<PathBuf> = files
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().contains("_Packages"))
            .collect();
        if lists.is_empty() {
            return Self::Missing;
        }
        let changed = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
        let newest = lists
            .iter()
            .map(PathBuf::as_path)
            .chain([place.join("partial").as_path()])
            .filter_map(changed)
            .max();
        Self::of(newest, SystemTime::now())
    }

    fn of(newest: Option<SystemTime>, now: SystemTime) -> Self {
        // A time in the future is a clock that was set back, not a list that is old.
        match newest.and_then(|then| now.duration_since(then).ok()) {
            Some(age) if age > FRESH => Self::Old(age),
            _ => Self::Fresh,
        }
    }

    /// Why they are not good enough, if they are not.
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Missing => Some("there are none".to_owned()),
            Self::Old(age) => Some(match age.as_secs() / (24 * 3600) {
                1 => "they are a day old".to_owned(),
                days => format!("they are {days} days old"),
            }),
            Self::Fresh => None,
        }
    }
}

/// How this process becomes root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// It is.
    Already,
    /// By sudo, which asks nothing.
    Sudo,
    /// By sudo, which may ask for a password.
    SudoAsks,
    None,
}

impl Root {
    pub fn find() -> Self {
        if is_root() {
            return Self::Already;
        }
        if find_program("sudo").is_none() {
            return Self::None;
        }
        let mut silent = Command::new("sudo");
        silent
            .args(["-n", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if silent.status().is_ok_and(|status| status.success()) {
            Self::Sudo
        } else {
            Self::SudoAsks
        }
    }

    /// For questions.
    pub fn shown(self) -> &'static str {
        if self == Self::Already { "" } else { ", with sudo" }
    }

    fn apt_get(self) -> Command {
        let mut command = if self == Self::Already {
            Command::new("env")
        } else {
            let mut command = Command::new("sudo");
            command.arg("env");
            command
        };
        command.args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-o",
            "DPkg::Lock::Timeout=600",
        ]);
        command
    }
}

/// Brings the machine's own package lists up to date. When that fails, what is there stays.
///
/// # Errors
/// When the program cannot be run or fails.
pub fn refresh(root: Root) -> Result<()> {
    // Without this option a list that could not be fetched is a warning, and the exit status says that all is
    // well.
    let mut command = root.apt_get();
    command.args(["update", "-q", "--error-on=any"]);
    shell::run("Package lists (apt-get update)", &mut command)
}

/// A plan, and how to do it.
pub struct Planned {
    pub plan: Plan,
    /// Suites that packages are taken from so that they fit what is installed.
    pub suites: Vec<String>,
    /// Bytes to download.
    pub download: Option<u64>,
    options: Vec<String>,
    request: Request,
}

impl Planned {
    /// For a person, before it is done.
    pub fn shown(&self) -> String {
        let size = self
            .download
            .map_or_else(String::new, |bytes| format!(", {} to download", megabytes(bytes)));
        let mut text = format!(
            "{} new packages{size}; nothing is removed or downgraded.",
            self.plan.new.len()
        );
        if !self.suites.is_empty() {
            let _ = write!(
                text,
                "\nSome come from {}, to fit what is installed from there.",
                self.suites.join(", ")
            );
        }
        if !self.plan.upgrades.is_empty() {
            let _ = write!(
                text,
                "\n{} are upgraded within their suite:",
                self.plan.upgrades.len()
            );
        }
        for upgrade in self.plan.shown_upgrades() {
            let _ = write!(text, "\n  {upgrade}");
        }
        text
    }
}

/// What apt says to a list of packages, in the end.
pub enum Outcome {
    Planned(Planned),
    /// What stands against what.
    Stopped(Vec<String>),
}

/// Finds a way to install packages that does no harm.
///
/// # Errors
/// When apt or dpkg cannot be asked.
pub fn plan(workspace: &Workspace, packages: &[String]) -> Result<Outcome> {
    let release = Release {
        codename: os_release("VERSION_CODENAME").unwrap_or_default(),
        number: os_release("VERSION_ID").unwrap_or_default(),
    };
    let format = format!("-f={}", plan::INSTALLED_FORMAT);
    let installed = Installed::read(&shell::output(Command::new("dpkg-query").args(["-W", &format]))?);
    let mut asker = Asker {
        workspace,
        added: Vec::new(),
        release: &release,
        installed: &installed,
    };
    let mut request = Request {
        packages: packages.to_vec(),
        ..Request::default()
    };
    for _ in 0..ROUNDS {
        let (decision, options) = asker.ask(&request)?;
        match decision {
            Decision::Again(better) => request = better,
            Decision::Stop(faults) => return Ok(Outcome::Stopped(faults)),
            Decision::Do(plan) => {
                // What was named to keep it would count as asked for by a person from then on: not where it
                // stays anyway.
                let bare = Request {
                    keep: Default::default(),
                    ..request.clone()
                };
                let (bare_decision, _) = asker.ask(&bare)?;
                let (plan, request) = match bare_decision {
                    Decision::Do(plan) => (plan, bare),
                    _ => (plan, request),
                };
                return Ok(Outcome::Planned(Planned {
                    download: download_size(&options, &request),
                    suites: request.prefer.suites().into_iter().map(str::to_owned).collect(),
                    plan,
                    options,
                    request,
                }));
            }
        }
    }
    bail!("apt has no answer that does no harm after {ROUNDS} tries")
}

/// Does what was planned.
///
/// # Errors
/// When apt-get fails: it has said why.
pub fn install(root: Root, planned: &Planned) -> Result<()> {
    let mut command = root.apt_get();
    command
        .args(&planned.options)
        .args(["install", "-y", "--no-remove", "--no-install-recommends"]);
    if !std::io::stderr().is_terminal() {
        command.arg("-q");
    }
    command.args(planned.request.arguments());
    shell::run("Packages (apt-get install)", &mut command)
}

/// The same as a person would type it where nothing special is needed.
pub fn by_hand(packages: &[String]) -> String {
    format!(
        "apt-get update && apt-get install --no-remove --no-install-recommends {}",
        packages.join(" ")
    )
}

/// A program of apt's whose answer is read.
fn asked(program: &str, options: &[String]) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").args(options);
    command
}

struct Asker<'a> {
    workspace: &'a Workspace,
    /// The suites that the private sources have beside the machine's.
    added: Vec<Suite>,
    release: &'a Release,
    installed: &'a Installed,
}

impl Asker<'_> {
    /// Simulates a request and decides; also gives the options under which that holds.
    fn ask(&mut self, request: &Request) -> Result<(Decision, Vec<String>)> {
        let options = self.options(request)?;
        let mut command = asked("apt-get", &options);
        command.args([
            "--simulate",
            "-o",
            plan::NAMES_CAUSES,
            "install",
            "--no-install-recommends",
        ]);
        command.args(request.arguments()).stdin(Stdio::null());
        // It fails when there is no answer, and has said what stands in the way.
        let output = command.output().context("starting apt-get")?;
        let said = Simulation::read(
            &String::from_utf8_lossy(&output.stdout),
            &String::from_utf8_lossy(&output.stderr),
        );
        let general = shell::output(asked("apt-cache", &options).arg("policy"))?;
        let names = said.names();
        let table = if names.is_empty() {
            String::new()
        } else {
            shell::output(asked("apt-cache", &options).arg("policy").args(names))?
        };
        let offers = Offers::read(&general, &table);
        Ok((
            plan::decide(request, &said, self.installed, &offers, self.release),
            options,
        ))
    }

    /// None for the machine's own sources alone; else sources and preferences of our own, which start from
    /// the machine's.
    fn options(&mut self, request: &Request) -> Result<Vec<String>> {
        if request.prefer.0.is_empty() {
            return Ok(Vec::new());
        }
        let home = self.workspace.cache.join("apt-install");
        let machine = Machine::ask()?;
        let preferences = home.join("preferences.d");
        copied(&machine.preferences, &preferences)?;
        // Of several records for a package, the first that fits counts.
        write(&preferences.join("00-ima-cgpath"), &request.prefer.text())?;
        let mut options = vec![format!("-oDir::Etc::preferencesparts={}", preferences.display())];
        let general = shell::output(asked("apt-cache", &[]).arg("policy"))?;
        let known = Offers::read(&general, "");
        let wanted: Vec<Suite> = request
            .prefer
            .0
            .keys()
            .filter(|suite| !known.configured(suite))
            .cloned()
            .collect();
        if !wanted.is_empty() {
            let (sources, lists) = (home.join("sources.list.d"), home.join("lists"));
            options.extend([
                format!("-oDir::Etc::sourceparts={}", sources.display()),
                format!("-oDir::State::lists={}", lists.display()),
                // Files that say what the machine's own sources have must not be overwritten with this.
                "-oDir::Cache::pkgcache=".to_owned(),
                "-oDir::Cache::srcpkgcache=".to_owned(),
            ]);
            if wanted != self.added {
                copied(&machine.sources, &sources)?;
                // What has not changed is not fetched again.
                copied(&machine.lists, &lists)?;
                std::fs::create_dir_all(lists.join("partial"))?;
                let mut text = String::new();
                for suite in &wanted {
                    let _ = writeln!(text, "{} {} main", Machine::archive()?, suite.codename);
                }
                write(&sources.join("ima-cgpath.list"), &text)?;
                let mut command = asked("apt-get", &options);
                command.args(["-q", "update"]);
                if is_root() {
                    // The user _apt cannot write into root's cache.
                    command.args(["-o", "APT::Sandbox::User=root"]);
                }
                let names: Vec<&str> = wanted.iter().map(|suite| suite.codename.as_str()).collect();
                let what = format!(
                    "Package lists with {}, which this machine has packages of, in the cache",
                    names.join(", ")
                );
                shell::run(&what, &mut command)?;
                self.added = wanted;
            }
        }
        Ok(options)
    }
}

/// Where the machine's own apt has its files.
struct Machine {
    sources: PathBuf,
    preferences: PathBuf,
    lists: PathBuf,
}

impl Machine {
    fn ask() -> Result<Self> {
        let mut command = asked("apt-config", &[]);
        command.args([
            "shell",
            "S",
            "Dir::Etc::sourceparts/d",
            "P",
            "Dir::Etc::preferencesparts/d",
            "L",
            "Dir::State::lists/d",
        ]);
        let text = shell::output(&mut command)?;
        let value = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            Some(PathBuf::from(line.trim_matches('\'')))
        };
        let known = || Some((value("S")?, value("P")?, value("L")?));
        let (sources, preferences, lists) =
            known().context("apt-config does not say where apt has its files")?;
        Ok(Self {
            sources,
            preferences,
            lists,
        })
    }

    /// A source line of the archive that this machine takes Debian's packages from, up to the suite.
    fn archive() -> Result<String> {
        let Archive { keyring, address } = machine::debian_archive().map_err(anyhow::Error::msg)?;
        Ok(format!("deb [signed-by={keyring}] {address}"))
    }
}

/// Makes `to` a copy of the plain files in `from`.
fn copied(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).with_context(|| format!("removing {}", to.display()))?;
    }
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let Ok(files) = std::fs::read_dir(from) else {
        return Ok(());
    };
    for file in files {
        let file = file?;
        // What only root can read (a lock, a password) is left out: apt says so if it misses it.
        if file.file_type()?.is_file() && file.file_name() != "lock" {
            let copy = to.join(file.file_name());
            if std::fs::copy(file.path(), &copy).is_ok() {
                let times = std::fs::metadata(file.path())?.modified()?;
                std::fs::File::options()
                    .write(true)
                    .open(&copy)?
                    .set_modified(times)?;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// What apt-get would download.
fn download_size(options: &[String], request: &Request) -> Option<u64> {
    let mut command = asked("apt-get", options);
    command.args(["install", "--print-uris", "-qq", "-y", "--no-install-recommends"]);
    command.args(request.arguments());
    let listed = shell::output(&mut command).ok()?;
    Some(
        listed
            .lines()
            .filter(|line| line.starts_with('\''))
            .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
            .sum(),
    )
}

/// The candidate of a package in what `apt-cache policy PACKAGE` prints. A name that no list has is taken for
/// a regular expression by apt: where there is no `linux-source-6.1`, it answers with `linux-source-6.12`.
pub fn candidate<'a>(policy: &'a str, package: &str) -> Option<&'a str> {
    let mut lines = policy.lines();
    lines.find(|line| line.strip_suffix(':') == Some(package))?;
    let own = lines.take_while(|line| line.starts_with(' '));
    let version = own
        .into_iter()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Some(version.trim()).filter(|version| *version != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_that_of_the_package_asked_for() {
        let policy = "linux-source-6.12:\n  Installed: (none)\n  Candidate: 6.12.118-1\n  Version table:\n";
        assert_eq!(candidate(policy, "linux-source-6.12"), Some("6.12.118-1"));
        assert_eq!(candidate(policy, "linux-source-6.1"), None);
        let none = "linux-source-6.1:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(candidate(none, "linux-source-6.1"), None);
        assert_eq!(candidate(&format!("{none}{policy}"), "linux-source-6.1"), None);
        assert_eq!(candidate("", "linux-source-6.1"), None);
    }

    #[test]
    fn lists_are_old_after_a_day_and_say_how_old() {
        let then = SystemTime::UNIX_EPOCH;
        let after = |hours: u64| Lists::of(Some(then), then + Duration::from_secs(hours * 3600)).fault();
        assert_eq!(after(23), None);
        assert_eq!(after(25).as_deref(), Some("they are a day old"));
        assert_eq!(after(24 * 192 + 1).as_deref(), Some("they are 192 days old"));
        assert_eq!(Lists::of(Some(then + FRESH), then).fault(), None);
        assert!(Lists::Missing.fault().is_some());
    }
}
