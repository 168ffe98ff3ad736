//! The guests' root file system: the host's own suite, made once by mmdebstrap and cached.
//!
//! Promises: the cache is keyed by all that goes in (suite, packages, recipe), so that nothing is made twice
//! and nothing stale is used; file modes are kept, and all is owned by root in the guest. Not here: kernels
//! and their modules, our own binaries (`image`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::Digest as _;

use crate::host;

/// Raised when the recipe below changes what comes out.
const RECIPE: u32 = 2;

/// What every guest has beside the essential packages.
const PACKAGES: &[&str] = &[
    "containerd",
    "runc",
    "busybox-static",
    "kmod",
    "iproute2",
    "e2fsprogs",
    "util-linux",
    "mount",
];

/// What nothing here needs and only costs time when a root file system is made.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/zoneinfo/*",
];

/// What packages need while they are installed and no guest needs afterwards.
const REMOVED: &[&str] = &[
    "usr/bin/containerd-shim",
    "usr/bin/containerd-shim-runc-v1",
    "usr/lib/udev/hwdb.bin",
    "usr/lib/udev/hwdb.d",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/share/perl",
    "usr/share/perl5",
    "var/lib/dpkg/info",
];

/// The unpacked root file system that every guest starts from.
///
/// Use it to compute reference values before a guest boots, and never write to it.
///
/// # Errors
/// When the suite is unknown, mmdebstrap is missing, or it fails.
pub fn base() -> Result<PathBuf> {
    with(&[])
}

/// The same with more packages of the suite: a root file system of its own in the cache, made at first use.
///
/// # Errors
/// As [`base`]; also when the suite lacks one of them.
pub fn with(more: &[&str]) -> Result<PathBuf> {
    let _lock = host::lock_cache("roots")?;
    let suite = suite()?;
    let mut packages: Vec<String> = PACKAGES.iter().map(|&package| package.to_owned()).collect();
    packages.extend(tss_libraries()?);
    packages.extend(more.iter().map(|&package| package.to_owned()));
    let mut inputs = vec![format!("recipe {RECIPE}"), format!("suite {suite}")];
    inputs.extend(packages.iter().cloned());
    inputs.extend(LEFT_OUT.iter().chain(REMOVED).map(|&pattern| pattern.to_owned()));
    let key = hex::encode(sha2::Sha256::digest(inputs.join("\n").as_bytes()));
    let dir = host::cache_dir()?
        .join("roots")
        .join(format!("{suite}-{}", &key[..16]));
    let root = dir.join("root");
    if dir.join("ready").is_file() {
        return Ok(root);
    }
    host::step(
        &format!("making the guests' root file system ({suite}, about 40 s)"),
        || make(&dir, &suite, &packages),
    )?;
    host::write_whole(&dir.join("ready"), inputs.join("\n").as_bytes())?;
    Ok(root)
}

fn make(dir: &Path, suite: &str, packages: &[String]) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("removing the unfinished {}", dir.display()))?;
    }
    let root = dir.join("root");
    std::fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    let archive = dir.join("root.tar");
    let mut command = mmdebstrap("minbase", &packages.join(","))?;
    command.arg(suite).arg(&archive);
    if let Some(mirror) = std::env::var_os("CGPATH_MIRROR") {
        command.arg(mirror);
    }
    host::output(&mut command)?;
    host::output(
        Command::new(host::tool("tar", "tar")?)
            .args(["-x", "-p", "--exclude=./dev/*", "-f"])
            .arg(&archive)
            .arg("-C")
            .arg(&root),
    )?;
    std::fs::remove_file(&archive)?;
    for removed in REMOVED {
        let path = root.join(removed);
        let result = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match result {
            // Another suite may not have it.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    for needed in ["usr/bin/containerd", "usr/sbin/runc", "bin/busybox"] {
        if !root.join(needed).exists() {
            bail!("the new root file system has no /{needed}; hint: look at `mmdebstrap {suite}` by hand");
        }
    }
    Ok(())
}

/// The suite of this machine: our dynamically linked binaries run in the guest with the libraries that they
/// were linked with.
fn suite() -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    match (value("ID").as_deref(), value("VERSION_CODENAME")) {
        (Some("debian"), Some(suite)) => Ok(suite),
        (id, _) => bail!(
            "guests are made from Debian packages of the machine's own suite, and this machine is {}; hint: \
             use Debian 12 or 13",
            id.unwrap_or("unknown")
        ),
    }
}

/// The TSS run-time libraries by the names that this suite gives them (they carry ABI numbers), from what
/// `libtss2-dev` depends on.
fn tss_libraries() -> Result<Vec<String>> {
    let apt_cache = host::tool("apt-cache", "apt")?;
    let listed = host::output(Command::new(apt_cache).args(["depends", "libtss2-dev"]))?;
    let wanted = [
        "libtss2-esys",
        "libtss2-mu",
        "libtss2-sys",
        "libtss2-rc",
        "libtss2-tctildr",
        "libtss2-tcti-device",
    ];
    let names: Vec<String> = String::from_utf8_lossy(&listed)
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| wanted.iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        bail!("apt-cache knows no run-time libraries of libtss2-dev; hint: apt-get update");
    }
    Ok(names)
}

/// mmdebstrap with these packages, a comma between them, and none of [`LEFT_OUT`]; what is made, and of which
/// suite, is to be added.
///
/// # Errors
/// When it is missing, or apt does not say its proxies.
pub(crate) fn mmdebstrap(variant: &str, packages: &str) -> Result<Command> {
    let mut command = Command::new(host::tool("mmdebstrap", "mmdebstrap")?);
    command
        .arg(if host::is_root() {
            "--mode=root"
        } else {
            "--mode=unshare"
        })
        .arg(format!("--variant={variant}"))
        .arg("--quiet")
        .arg(format!("--include={packages}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"");
    command.args(
        LEFT_OUT
            .iter()
            .map(|pattern| format!("--dpkgopt=path-exclude={pattern}")),
    );
    for option in proxy_options()? {
        command.arg(format!("--aptopt={option}"));
    }
    Ok(command)
}

/// This machine's proxies, which mmdebstrap's own apt would not know.
fn proxy_options() -> Result<Vec<String>> {
    let dump = host::output(Command::new(host::tool("apt-config", "apt")?).args(["dump"]))?;
    Ok(String::from_utf8_lossy(&dump)
        .lines()
        .filter(|line| line.starts_with("Acquire::") && line.contains("::Proxy") && !line.ends_with("\"\";"))
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect())
}
