//! Kernel sources: fetched by apt, kept in the cache, with a git repository of the files that a series
//! changes.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::bases::{Base, series};
use crate::machine::{self, Archive};
use crate::needs::apt;
use crate::shell;
use crate::workspace::{Workspace, is_root};

/// The commit of the source as it was fetched.
const PRISTINE: &str = "pristine";

/// Who applied the patches, in the source's own history.
pub const NAME: &str = "ima-cgpath maintainers";
pub const MAIL: &str = "maintainers@ima-cgpath.example";

/// A source that lies in the cache, as a git repository of the files that the series changes.
pub struct Source {
    pub version: String,
    /// The top of the kernel's source.
    pub dir: PathBuf,
}

impl Source {
    fn git(&self) -> Command {
        let mut command = Command::new("git");
        command.current_dir(&self.dir);
        // What a person set up for their own repositories must not change what is built.
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), NAME);
            command.env(format!("GIT_{role}_EMAIL"), MAIL);
        }
        command.args(["-c", "gc.auto=0", "-c", "advice.mergeConflict=false"]);
        command
    }
}

/// Where apt looks: this machine's lists, or lists of our own with one suite.
pub struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        if is_root() {
            // The user _apt cannot write into root's cache, and would only be warned about.
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        command
    }

    /// The version that would be installed, if the lists know the package.
    fn candidate(&self, package: &str) -> Option<String> {
        let text = shell::output(self.command("apt-cache").args(["policy", package])).ok()?;
        apt::candidate(&text, package).map(str::to_owned)
    }

    /// Lists of our own, in the cache: needs no root and changes nothing of the machine.
    fn of_suite(workspace: &Workspace, suite: &str) -> Result<Self> {
        let dir = workspace.cache.join("apt-kernel").join(suite);
        for part in ["state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(part)).with_context(|| format!("making {}", dir.display()))?;
        }
        let Archive {
            keyring,
            address: mirror,
        } = machine::debian_archive().map_err(anyhow::Error::msg)?;
        let place = if suite.ends_with("-security") {
            format!("{mirror}-security")
        } else {
            mirror
        };
        let list = dir.join("sources.list");
        std::fs::write(&list, format!("deb [signed-by={keyring}] {place} {suite} main\n"))?;
        let apt = Self {
            options: vec![
                format!("Dir::Etc::SourceList={}", list.display()),
                "Dir::Etc::SourceParts=-".to_owned(),
                format!("Dir::State={}", dir.join("state").display()),
                "Dir::State::status=/var/lib/dpkg/status".to_owned(),
                format!("Dir::Cache={}", dir.join("cache").display()),
            ],
        };
        shell::run(
            &format!("Package lists of {suite}"),
            apt.command("apt-get").args(["-q", "update"]),
        )?;
        Ok(apt)
    }
}

/// The newest version of a base's source, and where apt has it; neither when only the cache can help.
fn newest(workspace: &Workspace, base: &Base) -> Result<(Apt, String)> {
    let machine = Apt { options: Vec::new() };
    if let Some(version) = machine.candidate(&base.package) {
        return Ok((machine, version));
    }
    let own = Apt::of_suite(workspace, &base.suite)?;
    let version = own.candidate(&base.package).with_context(|| {
        format!(
            "{} is neither known to this machine nor in {}",
            base.package, base.suite
        )
    })?;
    Ok((own, version))
}

fn sources(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("kernel-src")
}

/// The directory name of a version: `6.12_6.12.117-1~deb12u1`.
pub fn source_name(base: &Base, version: &str) -> String {
    format!("{}_{}", base.kernel(), version.replace([':', '/'], "_"))
}

/// A version of this base that is in the cache: the one that the series was made for, if it is there.
fn cached_version(workspace: &Workspace, base: &Base) -> Option<String> {
    let prefix = format!("{}_", base.kernel());
    let mut versions: Vec<String> = std::fs::read_dir(sources(workspace))
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("linux/.git/ready").is_file())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_prefix(&prefix)?.to_owned())
        })
        .collect();
    versions.sort_by_key(|version| *version == base.made_for);
    versions.pop()
}

/// The version to use: the newest one, or without any package lists the one that lies in the cache.
pub fn version(workspace: &Workspace, base: &Base) -> Result<(Option<Apt>, String)> {
    match newest(workspace, base) {
        Ok((apt, version)) => Ok((Some(apt), version)),
        Err(error) => match cached_version(workspace, base) {
            Some(version) => {
                eprintln!("{error:#}; taking {version} from the cache");
                Ok((None, version))
            }
            None => Err(error),
        },
    }
}

/// Puts a base's source into the cache.
pub fn fetch(workspace: &Workspace, base: &Base) -> Result<Source> {
    let (apt, version) = version(workspace, base)?;
    let home = sources(workspace).join(source_name(base, &version));
    let source = Source {
        version: version.clone(),
        dir: home.join("linux"),
    };
    if source.dir.join(".git/ready").is_file() {
        return Ok(source);
    }
    let apt = apt.with_context(|| format!("{} is damaged; hint: remove it", home.display()))?;
    let part = PathBuf::from(format!("{}.part", home.display()));
    for old in [&part, &home] {
        if old.exists() {
            std::fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
        }
    }
    std::fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let mut download = apt.command("apt-get");
    download
        .current_dir(&part)
        .args(["-q", "download", &format!("{}={version}", base.package)]);
    shell::run(&format!("Source of {} {version}", base.package), &mut download)?;
    let archive = find(&part, |name| name.ends_with(".deb"))?;
    shell::output(Command::new("dpkg").arg("-x").arg(&archive).arg(&part))?;
    let tarball = find(&part.join("usr/src"), |name| name.contains(".tar."))?;
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&tarball).arg("-C").arg(&part);
    shell::run("Unpacking", &mut unpack)?;
    // The archive's name begins as that of the directory which came out of it.
    std::fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))?;
    std::fs::remove_dir_all(part.join("usr")).with_context(|| format!("removing {}/usr", part.display()))?;
    let top = find(&part, |name| name.starts_with("linux-source-"))?;
    std::fs::rename(&top, part.join("linux")).with_context(|| format!("renaming {}", top.display()))?;
    let unpacked = Source {
        version: version.clone(),
        dir: part.join("linux"),
    };
    // A whole kernel would take minutes to commit; `git am` needs the files that it changes.
    shell::output(unpacked.git().args(["init", "-q", "-b", "start", "."]))?;
    shell::output(unpacked.git().args(["config", "status.showUntrackedFiles", "no"]))?;
    shell::output(unpacked.git().args([
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        &format!("{} {version}", base.package),
    ]))?;
    shell::output(unpacked.git().args(["tag", PRISTINE]))?;
    std::fs::write(unpacked.dir.join(".git/ready"), "")?;
    std::fs::rename(&part, &home).with_context(|| format!("putting {} in place", home.display()))?;
    Ok(source)
}

/// The directory with the distribution's configurations (`config.amd64_none_cloud-amd64.xz`), of the source's
/// version.
pub fn config_package(workspace: &Workspace, base: &Base) -> Result<PathBuf> {
    let (apt, version) = version(workspace, base)?;
    let dir = sources(workspace).join(format!("{}-config", source_name(base, &version)));
    let configs = |dir: &Path| find(&dir.join("usr/src"), |name| name.starts_with("linux-config-"));
    if dir.is_dir() {
        return configs(&dir);
    }
    let name = base.package.replace("linux-source-", "linux-config-");
    let apt = apt.with_context(|| format!("no package lists, and {name} is not in the cache"))?;
    let part = PathBuf::from(format!("{}.part", dir.display()));
    if part.exists() {
        std::fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    }
    std::fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let mut download = apt.command("apt-get");
    download
        .current_dir(&part)
        .args(["-q", "download", &format!("{name}={version}")]);
    shell::run(&format!("Configurations of {name} {version}"), &mut download)?;
    let archive = find(&part, |name| name.ends_with(".deb"))?;
    shell::output(Command::new("dpkg").arg("-x").arg(&archive).arg(&part))?;
    std::fs::remove_file(&archive)?;
    std::fs::rename(&part, &dir).with_context(|| format!("putting {} in place", dir.display()))?;
    configs(&dir)
}

/// The entry of a directory whose name fits.
fn find(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    std::fs::read_dir(dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_str().is_some_and(&fits))
        .map(|entry| entry.path())
        .with_context(|| format!("{} does not have what the package should hold", dir.display()))
}

/// The paths that a patch changes, from its `diff --git` lines.
fn touched(patch: &str) -> Vec<&str> {
    let lines = patch
        .lines()
        .filter_map(|line| line.strip_prefix("diff --git a/"));
    lines.filter_map(|line| Some(line.split_once(" b/")?.0)).collect()
}

/// SHA-256 of the patches of a series, in order.
pub fn series_digest(workspace: &Workspace, base: &Base) -> Result<String> {
    let mut bytes = Vec::new();
    for patch in series(workspace, base)? {
        bytes.extend(std::fs::read(&patch).with_context(|| format!("reading {}", patch.display()))?);
    }
    sha256(&bytes)
}

pub fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting sha256sum")?;
    let mut stdin = child.stdin.take().context("sha256sum takes no input")?;
    // It reads everything before it writes, so this cannot block.
    stdin.write_all(bytes)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.split_whitespace().next().unwrap_or_default();
    if !output.status.success() || digest.len() != 64 {
        bail!("sha256sum failed ({})", output.status);
    }
    Ok(digest.to_owned())
}

/// Where the digest of the series that is applied is written down.
pub fn applied_mark(source: &Source) -> PathBuf {
    source.dir.join(".git/applied")
}

/// Brings the source back to what was fetched, with all files that the series changes under git's eyes.
pub fn reset(workspace: &Workspace, base: &Base, source: &Source) -> Result<()> {
    let mark = applied_mark(source);
    if mark.exists() {
        std::fs::remove_file(&mark)?;
    }
    // A series that stopped half-way; that there is none is no error.
    let _ = source
        .git()
        .args(["am", "--abort"])
        .stderr(Stdio::null())
        .status();
    shell::output(
        source
            .git()
            .args(["checkout", "-q", "--force", "--detach", PRISTINE]),
    )?;
    let mut files = BTreeSet::new();
    for patch in series(workspace, base)? {
        let text = std::fs::read_to_string(&patch).with_context(|| format!("reading {}", patch.display()))?;
        files.extend(touched(&text).into_iter().map(str::to_owned));
    }
    let there = files.iter().filter(|file| source.dir.join(file).is_file());
    shell::output(source.git().args(["add", "--force", "--"]).args(there))?;
    let staged = source
        .git()
        .args(["diff", "--cached", "--quiet"])
        .status()
        .context("starting git")?;
    if !staged.success() {
        shell::output(source.git().args(["commit", "-q", "--amend", "--no-edit"]))?;
        shell::output(source.git().args(["tag", "-f", PRISTINE]))?;
    }
    Ok(())
}

pub fn am(source: &Source, patch: &Path) -> Result<()> {
    let applied = shell::output(source.git().args(["am", "-q"]).arg(patch));
    applied.map(drop).with_context(|| {
        format!(
            "{} does not apply to {}",
            patch.file_name().unwrap_or_default().to_string_lossy(),
            source.version
        )
    })
}

/// Makes the source the patched one, unless it is already.
pub fn apply(workspace: &Workspace, base: &Base, source: &Source) -> Result<()> {
    let digest = series_digest(workspace, base)?;
    if std::fs::read_to_string(applied_mark(source)).is_ok_and(|text| text == digest) {
        return Ok(());
    }
    reset(workspace, base, source)?;
    for patch in series(workspace, base)? {
        am(source, &patch)?;
    }
    std::fs::write(applied_mark(source), digest)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_the_files_that_it_changes() {
        let patch = "diff --git a/x/y.c b/x/y.c\nindex 1..2\n--- a/x/y.c\ndiff --git a/z b/z\n";
        assert_eq!(touched(patch), ["x/y.c", "z"]);
    }
}
