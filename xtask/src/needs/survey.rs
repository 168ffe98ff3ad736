//! Looking for what is needed.
//!
//! Promises: changes nothing, needs neither root nor network. Not here: bringing it (`apt`, and what builds).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages::PACKAGES;
use super::{How, Need, Purpose, State, is_debian};
use crate::build::{self, Toolchain, Unavailable};
use crate::workspace::{Workspace, find_program, is_root, megabytes};
use crate::{machine, shell};

/// Programs that others package as well, in packages that Debian's would replace: containerd is in Docker's
/// `containerd.io`, which stays.
const BY_OTHERS: &[&str] = &["containerd"];

/// Looks for everything that `purpose` needs.
pub fn survey(workspace: &Workspace, purpose: Purpose) -> Vec<Need> {
    let mut needs = Vec::new();
    let (toolchain, toolchain_needs) = if purpose.includes(Purpose::Build) {
        ebpf_needs(workspace)
    } else {
        (Vec::new(), Vec::new())
    };
    let mut packages: Vec<(String, String)> = PACKAGES
        .iter()
        .filter(|package| package.3.iter().any(|&part| purpose.includes(part)))
        .map(|package| (package.0.to_owned(), package.2.to_owned()))
        .collect();
    if purpose.includes(Purpose::Machines) && !is_root() {
        packages.push((
            "uidmap".to_owned(),
            "makes the guests' root file system without being root".to_owned(),
        ));
    }
    packages.extend(toolchain_needs);
    needs.extend(package_needs(&packages));
    needs.extend(toolchain);
    if purpose.includes(Purpose::Test) {
        needs.push(rust_component("rustfmt", "cargo-fmt"));
        needs.push(rust_component("clippy", "cargo-clippy"));
        let deny = build::cargo_deny(workspace);
        needs.push(Need {
            name: "cargo-deny".to_owned(),
            reason: "checks licences and sources of what we depend on".to_owned(),
            state: deny.map_or_else(
                || State::Missing("built into the cache, about 5 minutes, once".to_owned()),
                |path| State::Present(path.display().to_string()),
            ),
            size: 0,
            how: How::Cargo,
        });
    }
    if purpose.includes(Purpose::Machines) {
        needs.push(kernel_need(workspace, "6.12"));
        if purpose.includes(Purpose::Test) {
            needs.push(kernel_need(workspace, "6.1"));
        }
        needs.push(root_need(workspace));
        needs.push(accelerator_need());
    }
    needs.push(disk_need(workspace));
    needs
}

fn package_needs(packages: &[(String, String)]) -> Vec<Need> {
    let names: Vec<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
    let installed = installed_versions(&names);
    let absent: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !installed.contains_key(*name))
        .collect();
    let facts = package_facts(&absent);
    packages
        .iter()
        .map(|(name, reason)| {
            let fact = facts.get(name.as_str());
            let state = package_state(name, installed.get(name.as_str()), fact, find_program);
            Need {
                name: name.clone(),
                reason: reason.clone(),
                state,
                size: fact.map_or(0, |(size, _)| *size),
                how: How::Apt,
            }
        })
        .collect()
}

/// From the version that is installed, from what the package lists know, and from where programs are found.
fn package_state(
    name: &str,
    installed: Option<&String>,
    fact: Option<&(u64, u64)>,
    find: impl Fn(&str) -> Option<PathBuf>,
) -> State {
    match (installed, fact) {
        (Some(version), _) if build::outdated(name, version) => {
            State::Missing(format!("apt package, {version} is too old"))
        }
        (Some(version), _) => State::Present(version.clone()),
        (None, _) if BY_OTHERS.contains(&name) && find(name).is_some() => {
            State::Present(format!("{name} of another package"))
        }
        (None, Some((_, unpacked))) => {
            State::Missing(format!("apt package, {} unpacked", megabytes(*unpacked)))
        }
        (None, None) if is_debian() => State::Unlisted("not in the package lists".to_owned()),
        (None, None) => elsewhere(name),
    }
}

/// The state of a package where there is no dpkg to ask.
fn elsewhere(package: &str) -> State {
    let program = PACKAGES
        .iter()
        .find(|known| known.0 == package)
        .map(|known| known.1)
        .filter(|name| !name.is_empty());
    match program.and_then(find_program) {
        Some(path) => State::Present(path.display().to_string()),
        None => State::Blocked("install it by the name that this system has for it".to_owned()),
    }
}

/// Versions of those packages that are installed.
fn installed_versions(names: &[&str]) -> BTreeMap<String, String> {
    let mut command = Command::new("dpkg-query");
    command
        .args(["-W", "-f", "${Package} ${db:Status-Status} ${Version}\n"])
        .args(names);
    // It fails when one of them is unknown, and still prints the others.
    let Ok(output) = command.output() else {
        return BTreeMap::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (name, status, version) = (words.next()?, words.next()?, words.next()?);
            (status == "installed").then(|| (name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// (bytes to download, bytes unpacked) of those packages that the package lists know.
fn package_facts(names: &[&str]) -> BTreeMap<String, (u64, u64)> {
    if names.is_empty() {
        return BTreeMap::new();
    }
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions"]).args(names);
    let Ok(output) = command.output() else {
        return BTreeMap::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |stanza: &str, key: &str| {
        stanza
            .lines()
            .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(": ")?.trim().to_owned()))
    };
    text.split("\n\n")
        .filter_map(|stanza| {
            let size = field(stanza, "Size")?.parse().ok()?;
            let unpacked = field(stanza, "Installed-Size")?.parse::<u64>().ok()? * 1024;
            Some((field(stanza, "Package")?, (size, unpacked)))
        })
        .collect()
}

/// What the eBPF object's build lacks, and the Debian packages that it needs.
fn ebpf_needs(workspace: &Workspace) -> (Vec<Need>, Vec<(String, String)>) {
    if std::env::var_os("CGPATH_BPF_OBJECT").is_some() {
        let path = workspace.bpf_object();
        let state = if path.is_file() {
            State::Present(path.display().to_string())
        } else {
            State::Blocked("CGPATH_BPF_OBJECT names no file".to_owned())
        };
        let need = Need {
            name: "eBPF object".to_owned(),
            reason: "given by CGPATH_BPF_OBJECT".to_owned(),
            state,
            size: 0,
            how: How::Nothing,
        };
        return (vec![need], Vec::new());
    }
    let toolchain = Toolchain::choose();
    let state = match &toolchain {
        Ok(Toolchain::Rustup { name, .. }) => State::Present(format!("rustup's {name} with rust-src")),
        Ok(Toolchain::Debian {
            ready: true, llvm, ..
        }) => State::Present(format!("Debian's rustc-web, LLVM {llvm}")),
        Ok(Toolchain::Debian { llvm, .. }) => {
            State::Missing(format!("Debian's rustc-web with LLVM {llvm}, as listed"))
        }
        Err(Unavailable::Unlisted(why)) => State::Unlisted(why.clone()),
        Err(Unavailable::ByHand(remedy)) => State::Blocked(remedy.clone()),
    };
    let mut needs = vec![Need {
        name: "eBPF toolchain".to_owned(),
        reason: "compiles the eBPF programs: a Rust compiler with its library's source".to_owned(),
        state,
        size: 0,
        how: How::Later,
    }];
    let Ok(toolchain) = toolchain else {
        return (needs, Vec::new());
    };
    let packages = toolchain.packages();
    needs.push(Need {
        name: "bpf-linker".to_owned(),
        reason: "links the eBPF programs".to_owned(),
        state: toolchain.linker(workspace).map_or_else(
            || State::Missing("built into the cache, about 3 minutes, once".to_owned()),
            |path| State::Present(path.display().to_string()),
        ),
        size: 0,
        how: How::Cargo,
    });
    (needs, packages)
}

fn rust_component(name: &str, program: &str) -> Need {
    let beside_cargo = std::env::var_os("CARGO")
        .and_then(|cargo| Some(Path::new(&cargo).parent()?.join(program)))
        .filter(|path| path.is_file());
    let state = match beside_cargo.or_else(|| find_program(program)) {
        Some(path) => State::Present(path.display().to_string()),
        None => State::Blocked(format!("rustup component add {name}")),
    };
    Need {
        name: name.to_owned(),
        reason: "checks the sources".to_owned(),
        state,
        size: 0,
        how: How::Nothing,
    }
}

fn kernel_need(workspace: &Workspace, series: &str) -> Need {
    // Written last by vm-tests (`kernel`) when it fetched one.
    let cached = subdirectories(&workspace.cache.join("kernels").join(series))
        .into_iter()
        .filter(|dir| dir.join("ready.json").is_file())
        .filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()))
        .max();
    let mut size = 0;
    let state = match cached {
        Some(name) => State::Present(name),
        None => {
            let pattern = format!(
                "^linux-image-{}\\..*-cloud-amd64-unsigned$",
                series.replace('.', "\\.")
            );
            let names = shell::output(Command::new("apt-cache").args(["search", "--names-only", &pattern]));
            let names = names.unwrap_or_default();
            let names: Vec<&str> = names
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            size = package_facts(&names)
                .values()
                .map(|(size, _)| *size)
                .max()
                .unwrap_or(0);
            let from = if names.is_empty() {
                " from Debian's archive"
            } else {
                ""
            };
            State::Missing(format!(
                "fetched into the cache{from} at first use, not installed"
            ))
        }
    };
    Need {
        name: format!("stock kernel {series}"),
        reason: "what the virtual machines boot".to_owned(),
        state,
        size,
        how: How::Later,
    }
}

fn root_need(workspace: &Workspace) -> Need {
    // Written last by vm-tests (`root`) when it made one.
    let cached = subdirectories(&workspace.cache.join("roots"))
        .into_iter()
        .find(|dir| dir.join("ready").is_file());
    let (state, size) = match cached {
        Some(dir) => (State::Present(dir.display().to_string()), 0),
        None => (
            State::Missing("made in the cache at first use, about 1 minute".to_owned()),
            100_000_000,
        ),
    };
    Need {
        name: "guest root".to_owned(),
        reason: "the virtual machines' file system, with containerd".to_owned(),
        state,
        size,
        how: How::Later,
    }
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn accelerator_need() -> Need {
    let kvm = machine::kvm();
    let found = match (kvm.openable, kvm.hardware) {
        (true, true) => "KVM",
        (true, false) => "TCG (/dev/kvm is there, but the processor has no virtualisation)",
        (false, true) => "TCG (/dev/kvm cannot be opened: add yourself to the group kvm for speed)",
        (false, false) => "TCG (no KVM: slower, and enough)",
    };
    Need {
        name: "accelerator".to_owned(),
        reason: "how the virtual machines run".to_owned(),
        state: State::Present(found.to_owned()),
        size: 0,
        how: How::Nothing,
    }
}

fn disk_need(workspace: &Workspace) -> Need {
    /// A full build, the cache and the disks of a few guests.
    const NEEDED_MIB: u64 = 12_000;
    let place = workspace
        .target
        .ancestors()
        .find(|dir| dir.is_dir())
        .unwrap_or(&workspace.root);
    let free = shell::output(Command::new("df").arg("-Pm").arg(place))
        .ok()
        .and_then(|text| {
            text.lines()
                .nth(1)?
                .split_whitespace()
                .nth(3)?
                .parse::<u64>()
                .ok()
        });
    // What is built already needs no room any more.
    let built = workspace.target.join("debug/demo").is_file();
    let needed = if built { NEEDED_MIB / 4 } else { NEEDED_MIB };
    let state = match free {
        Some(mib) if mib >= needed => State::Present(format!("{} GB free", mib / 1000)),
        Some(mib) => State::Blocked(format!(
            "{mib} MB free, {needed} MB needed; hint: CARGO_TARGET_DIR, CGPATH_CACHE"
        )),
        None => State::Blocked("df does not say how much is free".to_owned()),
    };
    Need {
        name: "disk space".to_owned(),
        reason: "for what is built and cached".to_owned(),
        state,
        size: 0,
        how: How::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_another_package_is_enough_where_debians_would_replace_that_package() {
        let fact = Some(&(1_000_000, 2_000_000));
        let found = |_: &str| Some(PathBuf::from("/usr/bin/it"));
        let state =
            |name: &str, find: &dyn Fn(&str) -> Option<PathBuf>| package_state(name, None, fact, find);
        assert!(matches!(state("containerd", &found), State::Present(_)));
        assert!(matches!(state("containerd", &|_| None), State::Missing(_)));
        // Debian's own package of the others is known to be what is needed.
        assert!(matches!(state("swtpm", &found), State::Missing(_)));
    }
}
