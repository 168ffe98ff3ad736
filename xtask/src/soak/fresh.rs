//! The first command of README on machines that have just been set up: root file systems of Debian 12 and 13,
//! each with package lists, packages and compilers as people have them, from a clone to the first verdict;
//! and, where that is wanted, the first demo again and the whole test in the same machine.
//!
//! Promises: every case starts from nothing of ours (no cache, no target directory) and has no terminal; a
//! case fails when the command does, when no verdict comes, and when a package that was installed is gone or
//! older afterwards; all runs in namespaces of its own, so that nothing stays mounted or running. Not here:
//! what the command does (`demo`, `needs`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::{kept, kept_in};
use crate::shell;
use crate::workspace::{Workspace, find_program, is_root};

/// A release of Debian: its number and its codename.
type Suite = (&'static str, &'static str);
const SUITES: &[Suite] = &[("12", "bookworm"), ("13", "trixie")];

/// What a person has who can build a program in Rust and clone a repository.
const PACKAGES: &str = "ca-certificates,curl,gcc,git,libc6-dev";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Package lists of half a year ago.
    Stale,
    /// No package lists at all.
    Empty,
    /// Lists of half a year ago, and `qemu-utils` from the backports, which are configured no more.
    NewerQemu,
    /// Compilers of long ago: a stable one that is too old is refused at once, a nightly one is not used.
    OldRustup,
}

const CASES: &[(Case, &str)] = &[
    (Case::Stale, "stale"),
    (Case::Empty, "empty"),
    (Case::NewerQemu, "newer-qemu"),
    (Case::OldRustup, "old-rustup"),
];

/// Certificates that this machine trusts beside those of its distribution.
const CERTIFICATES: &str = "/usr/local/share/ca-certificates";

/// How old stale lists are.
const HALF_A_YEAR: Duration = Duration::from_secs(192 * 24 * 3600);

/// Source packages whose present versions came in the last half year.
const LATER: &[&str] = &["rustc-web", "llvm-toolchain-2"];

/// Runs the cases whose names (`12-stale`) contain `filter`; each `whole` one goes on with a second demo and
/// with `cargo xtask test`.
///
/// # Errors
/// When this is not root, a tool is missing, or a root file system cannot be made.
pub fn run(workspace: &Workspace, filter: Option<&str>, whole: bool) -> Result<bool> {
    if !is_root() {
        bail!("the step fresh makes root file systems and enters them, as root; hint: sudo");
    }
    for tool in ["mmdebstrap", "unshare", "rustup"] {
        if find_program(tool).is_none() {
            bail!("the step fresh needs {tool}");
        }
    }
    let mut good = true;
    let mut summary = Vec::new();
    for suite in SUITES {
        for &(case, name) in CASES {
            let name = format!("{}-{name}", suite.0);
            if filter.is_some_and(|filter| !name.contains(filter)) {
                continue;
            }
            let passed = Machine::make(workspace, *suite, &name)?.try_case(workspace, case, &name, whole)?;
            summary.push(format!("fresh {name}: {}", if passed { "ok" } else { "FAILED" }));
            good &= passed;
        }
    }
    if summary.is_empty() {
        bail!("no case of the step fresh has this in its name; there are 12-stale, 13-newer-qemu and so on");
    }
    println!("{}", summary.join("\n"));
    Ok(good)
}

/// A root file system that plays the machine.
struct Machine {
    root: PathBuf,
    suite: Suite,
    /// Directories of this machine and where they are seen there; the last ones may be written to.
    shared: Vec<(PathBuf, &'static str, bool)>,
}

impl Machine {
    fn make(workspace: &Workspace, suite: Suite, name: &str) -> Result<Self> {
        let folder = workspace.target.join("soak/fresh");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let archive = folder.join(format!("{}.tar", suite.1));
        if !archive.is_file() {
            let partial = archive.with_extension("partial");
            let mut command = Command::new("mmdebstrap");
            command.args(["--mode=root", "--variant=minbase", "--format=tar", "--quiet"]);
            command.arg(format!("--include={PACKAGES}"));
            for option in proxies()? {
                command.arg(format!("--aptopt={option}"));
            }
            command.arg(suite.1).arg(&partial);
            command.args(std::env::var_os("CGPATH_MIRROR"));
            shell::run(&format!("root file system of Debian {}", suite.0), &mut command)?;
            std::fs::rename(&partial, &archive)?;
        }
        let root = folder.join(name);
        forget(&root)?;
        std::fs::create_dir_all(&root)?;
        let mut unpack = Command::new("tar");
        shell::output(
            unpack
                .args(["-x", "-p", "--numeric-owner", "-f"])
                .arg(&archive)
                .arg("-C")
                .arg(&root),
        )?;
        let machine = Self {
            root,
            suite,
            shared: shared()?,
        };
        machine.furnish(workspace)?;
        Ok(machine)
    }

    /// What makes it usable: the network as this machine has it, compilers, and a clone.
    fn furnish(&self, workspace: &Workspace) -> Result<()> {
        for file in ["etc/resolv.conf", "etc/hosts"] {
            std::fs::copy(Path::new("/").join(file), self.root.join(file))
                .with_context(|| format!("copying /{file}"))?;
        }
        let proxies: String = proxies()?.iter().map(|option| format!("{option};\n")).collect();
        self.write("etc/apt/apt.conf.d/90proxy", &proxies)?;
        // So are certificates of a network that reads what passes through it.
        let certificates = Path::new(CERTIFICATES);
        if certificates.is_dir() {
            let mut copy = Command::new("cp");
            let place = self.root.join(CERTIFICATES.trim_start_matches('/'));
            std::fs::create_dir_all(&place)?;
            shell::output(copy.args(["-r", "-T"]).arg(certificates).arg(place))?;
            shell::output(&mut self.inside("update-ca-certificates"))?;
        }
        // There is no init: packages must not start services.
        self.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")?;
        executable(&self.root.join("usr/sbin/policy-rc.d"))?;
        let bin = self.root.join("srv/.cargo/bin");
        std::fs::create_dir_all(&bin)?;
        let rustup = find_program("rustup").context("rustup")?;
        std::fs::copy(rustup.canonicalize()?, bin.join("rustup")).context("copying rustup")?;
        for name in [
            "cargo",
            "rustc",
            "rustdoc",
            "rustfmt",
            "cargo-fmt",
            "cargo-clippy",
            "clippy-driver",
        ] {
            std::os::unix::fs::symlink("rustup", bin.join(name))?;
        }
        self.write(
            "srv/.rustup/settings.toml",
            "version = \"12\"\n\
             profile = \"minimal\"\n\
             default_toolchain = \"stable-x86_64-unknown-linux-gnu\"\n",
        )?;
        let mut clone = Command::new("git");
        clone
            .args(["clone", "--quiet", "--no-hardlinks"])
            .arg(&workspace.root)
            .arg(self.root.join("srv/ima-cgpath"));
        shell::output(&mut clone)?;
        Ok(())
    }

    fn try_case(&self, workspace: &Workspace, case: Case, name: &str, whole: bool) -> Result<bool> {
        if case == Case::NewerQemu {
            self.newer_qemu()?;
        }
        if case != Case::Empty {
            self.stale_lists()?;
        }
        if case == Case::OldRustup {
            self.old_compilers()?;
            if let Some(fault) = self.old_stable_is_not_refused()? {
                println!("fresh {name}: {fault}");
                return Ok(false);
            }
        }
        let before = self.installed()?;
        let mut faults = Vec::new();
        let mut log = self.demo(workspace, &format!("fresh-{name}"), &mut faults)?;
        if whole && faults.is_empty() {
            log = self.demo(workspace, &format!("fresh-{name}-again"), &mut faults)?;
        }
        if whole && faults.is_empty() {
            let step = format!("fresh-{name}-test");
            let mut command = self.inside("cd /srv/ima-cgpath && exec cargo xtask test 2>&1");
            if !kept(workspace, &step, &mut command)? {
                faults.push("the test failed".to_owned());
            }
            log = kept_in(workspace, &step);
        }
        let after = self.installed()?;
        faults.extend(self.harm(&before, &after)?);
        let mut report = format!("{} packages before, {} after\n", before.len(), after.len());
        for (package, version) in &before {
            if let Some(now) = after.get(package).filter(|now| *now != version) {
                let _ = writeln!(report, "upgraded: {package} from {version} to {now}");
            }
        }
        for fault in &faults {
            let _ = writeln!(report, "FAILED: {fault}");
        }
        print!("{report}");
        let said = std::fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
        std::fs::write(&log, said + &report).with_context(|| format!("writing {}", log.display()))?;
        if faults.is_empty() {
            forget(&self.root)?;
        } else {
            println!("fresh {name}: what it left is in {}", self.root.display());
        }
        Ok(faults.is_empty())
    }

    /// Runs the demo; returns its log.
    fn demo(&self, workspace: &Workspace, step: &str, faults: &mut Vec<String>) -> Result<PathBuf> {
        let mut command = self.inside("cd /srv/ima-cgpath && exec cargo xtask demo 2>&1");
        if !kept(workspace, step, &mut command)? {
            faults.push("the command failed".to_owned());
        }
        let log = kept_in(workspace, step);
        let said = std::fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
        if !said.contains("every verdict is what it should be") {
            faults.push("no verdict came".to_owned());
        }
        Ok(log)
    }

    /// What was installed and is gone, or older.
    fn harm(
        &self,
        before: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        for (package, version) in before {
            match after.get(package) {
                None => faults.push(format!("{package} {version} was removed")),
                Some(now) if now != version => {
                    let mut compare = Command::new("dpkg");
                    let older = compare
                        .args(["--compare-versions", now, "lt", version])
                        .status()?;
                    if older.success() {
                        faults.push(format!("{package} was downgraded from {version} to {now}"));
                    }
                }
                Some(_) => {}
            }
        }
        Ok(faults)
    }

    fn installed(&self) -> Result<BTreeMap<String, String>> {
        let mut command = Command::new("dpkg-query");
        command.arg("--admindir").arg(self.root.join("var/lib/dpkg"));
        command.args([
            "-W",
            "-f",
            "${Package}:${Architecture} ${db:Status-Status} ${Version}\n",
        ]);
        let text = shell::output(&mut command)?;
        let entry = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                [name, "installed", version] => Some((name.to_owned(), version.to_owned())),
                _ => None,
            }
        };
        Ok(text.lines().filter_map(entry).collect())
    }

    /// Installs it from a suite that is configured for that moment only.
    fn newer_qemu(&self) -> Result<()> {
        let backports = format!("{}-backports", self.suite.1);
        let script = format!(
            "set -e; list=/etc/apt/sources.list.d/backports.list
             sed -n 's/ {suite} / {backports} /p' /etc/apt/sources.list >$list
             apt-get -q update
             DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -t {backports} qemu-utils
             rm $list
             dpkg-query -W -f '${{Version}}\\n' qemu-utils | grep bpo{number}",
            suite = self.suite.1,
            number = self.suite.0,
        );
        shell::output(&mut self.inside(&script)).map(drop)
    }

    /// Lists as they were half a year ago: what came since is not in them, and the files that they name are
    /// gone from the mirrors.
    fn stale_lists(&self) -> Result<()> {
        shell::output(&mut self.inside("apt-get -q -o Acquire::GzipIndexes=false update"))?;
        let lists = self.root.join("var/lib/apt/lists");
        let then = SystemTime::now() - HALF_A_YEAR;
        for entry in std::fs::read_dir(&lists)? {
            let path = entry?.path();
            let name = path.to_string_lossy().into_owned();
            if name.ends_with("_Packages") {
                let text = std::fs::read_to_string(&path)?;
                let older: Vec<&str> = text
                    .split_inclusive("\n\n")
                    .filter(|stanza| !came_later(stanza))
                    .collect();
                std::fs::write(
                    &path,
                    older
                        .concat()
                        .replace("\nFilename: pool/", "\nFilename: pool/replaced/"),
                )?;
            } else if name.ends_with("_InRelease") {
                // Digests of other lists: apt would take ours for the present ones, and fetch nothing.
                let text = std::fs::read_to_string(&path)?;
                let lines = text.lines().map(|line| match line.strip_prefix(' ') {
                    Some(digest) => {
                        let (digest, rest) = digest.split_once(' ').unwrap_or((digest, ""));
                        let reversed: String = digest.chars().rev().collect();
                        format!(" {reversed} {rest}\n")
                    }
                    None => format!("{line}\n"),
                });
                std::fs::write(&path, lines.collect::<String>())?;
            }
            std::fs::File::open(&path)?.set_modified(then)?;
        }
        Ok(())
    }

    /// A nightly compiler with the library's source, and a stable one named `old`, of versions that are too
    /// old. No old ones can be had everywhere: these are the machine's stable one, and say another version.
    fn old_compilers(&self) -> Result<()> {
        let toolchains = self.root.join("srv/.rustup/toolchains");
        for (name, version) in [
            (
                "nightly-x86_64-unknown-linux-gnu",
                "1.80.0-nightly (0000000000 2024-05-01)",
            ),
            ("old", "1.85.0 (0000000000 2025-02-17)"),
        ] {
            let bin = toolchains.join(name).join("bin");
            std::fs::create_dir_all(&bin)?;
            std::os::unix::fs::symlink(format!("{STABLE}/lib"), toolchains.join(name).join("lib"))?;
            std::os::unix::fs::symlink(format!("{STABLE}/bin/cargo"), bin.join("cargo"))?;
            let number = version.split(' ').next().unwrap_or_default();
            let script = format!(
                "#!/bin/sh\n\
                 case \"$*\" in\n\
                 *--version*) echo 'rustc {version}';;\n\
                 *-vV*) {STABLE}/bin/rustc -vV | sed 's/^rustc .*/rustc {version}/; s/^release: .*/release: \
                 {number}/';;\n\
                 *'--print sysroot'*) echo /srv/.rustup/toolchains/{name};;\n\
                 *) exec {STABLE}/bin/rustc \"$@\";;\n\
                 esac\n"
            );
            std::fs::write(bin.join("rustc"), script)?;
            executable(&bin.join("rustc"))?;
        }
        // The nightly one has the source, which is looked for by this file.
        let nightly = toolchains.join("nightly-x86_64-unknown-linux-gnu");
        std::fs::remove_file(nightly.join("lib"))?;
        let source = nightly.join("lib/rustlib/src/rust/library/core/src");
        std::fs::create_dir_all(&source)?;
        std::fs::write(source.join("lib.rs"), "")?;
        Ok(())
    }

    /// With a stable compiler that is too old the command must end at once, say which version is needed,
    /// compile nothing and install nothing.
    fn old_stable_is_not_refused(&self) -> Result<Option<String>> {
        let before = self.installed()?;
        let mut command =
            self.inside("cd /srv/ima-cgpath && RUSTUP_TOOLCHAIN=old exec cargo xtask demo 2>&1");
        let output = command.output().context("starting unshare")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("with Rust 1.85: {}", said.trim_end());
        let needed = env!("CARGO_PKG_RUST_VERSION");
        Ok(if output.status.success() {
            Some("a compiler that is too old was taken".to_owned())
        } else if !said.contains(&format!("rustc {needed}")) {
            Some(format!(
                "an old compiler was not refused with the version that is needed, {needed}"
            ))
        } else if said.contains("Compiling") || self.installed()? != before {
            Some("something was compiled or installed for a compiler that is too old".to_owned())
        } else {
            None
        })
    }

    /// A script of `/bin/sh` in there, as root, with no terminal, no environment of ours but proxies, and its
    /// own processes, which all end with it.
    fn inside(&self, script: &str) -> Command {
        // A machine's root is a mount point and the root of its mount namespace: without that, nobody in
        // there could make a mount or a user namespace (unshare(2), EPERM).
        let mut mounts = String::from("set -e; root=$1\nmount --bind \"$root\" \"$root\"\n");
        mounts.push_str("mount -t proc proc \"$root/proc\"\n");
        mounts.push_str("mount -t sysfs -o ro sysfs \"$root/sys\"\nmount --rbind /dev \"$root/dev\"\n");
        let mut shared = Vec::new();
        for (at, (from, to, writable)) in self.shared.iter().enumerate() {
            let (from_word, to) = (format!("\"${{{}}}\"", at + 3), format!("\"$root{to}\""));
            let _ = writeln!(mounts, "mkdir -p {to}; mount --bind {from_word} {to}");
            if !writable {
                let _ = writeln!(mounts, "mount -o remount,bind,ro {to}");
            }
            shared.push(from.clone());
        }
        mounts.push_str("cd \"$root\"; mkdir -p .before; pivot_root . .before\n");
        mounts.push_str(
            "exec chroot . /bin/sh -c 'umount -l /.before; rmdir /.before; exec /bin/sh \
            -c \"$1\"' sh \"$2\"\n",
        );
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
        ]);
        command
            .arg(mounts.trim_end().replace('\n', "; "))
            .arg("sh")
            .arg(&self.root)
            .arg(script)
            .args(shared);
        command.stdin(std::process::Stdio::null()).env_clear();
        for (name, value) in std::env::vars_os() {
            let known = name.to_string_lossy().to_ascii_lowercase();
            if known.ends_with("_proxy") || known == "cgpath_mirror" || known == "cgpath_accel" {
                command.env(name, value);
            }
        }
        command.envs([
            ("HOME", "/srv"),
            ("LANG", "C.UTF-8"),
            (
                "PATH",
                "/srv/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
        ]);
        command
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// Where the stable toolchain is seen in there, below the home directory that the case's person has.
const STABLE: &str = "/srv/.rustup/toolchains/stable-x86_64-unknown-linux-gnu";

/// The stable toolchain, which cannot be downloaded everywhere, and what cargo has fetched of sources.
fn shared() -> Result<Vec<(PathBuf, &'static str, bool)>> {
    let mut command = Command::new("rustup");
    let sysroot = shell::output(command.args(["run", "stable", "rustc", "--print", "sysroot"]))?;
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    Ok(vec![
        (PathBuf::from(sysroot.trim()), STABLE, false),
        (home.join("registry"), "/srv/.cargo/registry", true),
    ])
}

/// Apt's own proxies on this machine, as options.
fn proxies() -> Result<Vec<String>> {
    let text = shell::output(Command::new("apt-config").arg("dump"))?;
    let set =
        |line: &&str| line.starts_with("Acquire::") && line.contains("::Proxy") && !line.ends_with("\"\";");
    Ok(text
        .lines()
        .filter(set)
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect())
}

/// Whether a paragraph of a package list is about something that half a year ago was not there.
fn came_later(stanza: &str) -> bool {
    let field = |key: &str| stanza.lines().find_map(|line| line.strip_prefix(key));
    let source = field("Source: ").or(field("Package: ")).unwrap_or_default();
    LATER.iter().any(|later| source.starts_with(later))
}

fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Removes a root file system: nothing is mounted there outside of the namespaces that are gone.
fn forget(root: &Path) -> Result<()> {
    if root.exists() {
        std::fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_lists_lack_what_came_later_and_nothing_else() {
        let compiler = "Package: rust-web-llvm\nSource: rustc-web (1.96.0)\nVersion: 1.96.0\n\n";
        let library = "Package: clang-22\nSource: llvm-toolchain-22\nVersion: 1:22.1.8\n\n";
        let older = "Package: clang-19\nSource: llvm-toolchain-19\nVersion: 1:19.1.7\n\n";
        let other = "Package: swtpm\nVersion: 0.7.1\n\n";
        assert!(came_later(compiler) && came_later(library));
        assert!(!came_later(older) && !came_later(other));
    }
}
