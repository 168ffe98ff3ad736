//! Stock distribution kernels, fetched without installing them.
//!
//! Promises: the newest build of a series that the package index knows is used, never a name written here;
//! apt checks the download's signature chain, and the archive's SHA-256 is recorded beside it. Not here:
//! which modules a guest loads, disk images.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::host;
use crate::machine::{self, Archive};

/// A series of stock kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stock {
    /// Debian's 6.12.
    V6_12,
    /// Debian's 6.1, the oldest that is supported.
    V6_1,
    /// Debian's 7.3, from the backports, the newest.
    V7_3,
}

impl Stock {
    /// Every series, the demo's first.
    pub const ALL: [Self; 3] = [Self::V6_12, Self::V6_1, Self::V7_3];

    /// The series as a person writes it: `6.12`.
    pub fn series(self) -> &'static str {
        match self {
            Self::V6_12 => "6.12",
            Self::V6_1 => "6.1",
            Self::V7_3 => "7.3",
        }
    }

    /// What the names of the packages with its images look like, as a regular expression of apt's.
    fn image_pattern(self) -> String {
        // 6.12.117+deb12, 6.1.0-56 and 7.3.4+deb13 are the forms that releases take.
        let series = self.series().replace('.', "\\.");
        match self {
            Self::V6_12 | Self::V6_1 => format!("^linux-image-{series}\\..*-cloud-amd64-unsigned$"),
            Self::V7_3 => format!("^linux-binary-{series}\\..*-cloud-amd64$"),
        }
    }
}

/// The packages with the modules and their lists, where the image's own has none.
fn other_packages(image: &str) -> Vec<String> {
    let release = image.strip_prefix("linux-binary-");
    let others = release.map(|release| ["base", "modules"].map(|part| format!("linux-{part}-{release}")));
    others.into_iter().flatten().collect()
}

impl std::fmt::Display for Stock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.series())
    }
}

impl std::str::FromStr for Stock {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|stock| stock.series() == text) {
            Some(stock) => Ok(stock),
            None => bail!("no stock kernel series `{text}`; there are 6.12, 6.1 and 7.3"),
        }
    }
}

/// A kernel that was fetched and unpacked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r` of it.
    pub release: String,
    /// The package that it came in.
    pub package: String,
    /// That package's version.
    pub version: String,
    /// SHA-256 of the package with the image, as hex.
    pub sha256: String,
    /// The bootable image, relative to the cache's directory of this kernel.
    image: PathBuf,
    /// Where it lies.
    #[serde(skip)]
    dir: PathBuf,
}

impl Kernel {
    /// The bootable image.
    pub fn image(&self) -> PathBuf {
        self.dir.join(&self.image)
    }

    /// The configuration that it was built with: a line for each symbol, set or not.
    ///
    /// # Errors
    /// When the package had none where those of a series have it.
    pub fn config(&self) -> Result<String> {
        // As with the image: beside it up to 6.12, with the modules from 7.3 on.
        let old = self.dir.join("boot").join(format!("config-{}", self.release));
        let path = if old.is_file() {
            old
        } else {
            self.modules().join("config")
        };
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// The directory with the modules (with `modules.dep`), to become `/usr/lib/modules/<release>`.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("usr/lib/modules").join(&self.release)
    }
}

/// Raised when what is kept of a package changes.
const RECIPE: u32 = 6;

/// The modules that guests of ours can use, by directory; the others only make images larger.
const MODULES: &[&str] = &[
    "arch",
    "crypto",
    "drivers/block",
    "drivers/char",
    "drivers/net/dummy.",
    "drivers/net/net_failover.",
    "drivers/net/tun.",
    "drivers/net/veth.",
    "drivers/net/virtio_net.",
    "drivers/virt/coco",
    "drivers/virtio",
    "drivers/vhost",
    "fs/configfs",
    "fs/fuse",
    "fs/lockd",
    "fs/netfs",
    "fs/nfs/nfs.",
    "fs/nfs/nfsv4.",
    "fs/nfs_common",
    "fs/nfsd",
    "fs/nls",
    "fs/overlayfs",
    "fs/smb",
    "fs/squashfs",
    "lib",
    "net/802",
    "net/bridge",
    "net/core",
    "net/dns_resolver",
    "net/ipv4",
    "net/ipv6",
    "net/llc",
    "net/netfilter",
    "net/sunrpc/auth_gss/auth_rpcgss.",
    "net/sunrpc/sunrpc.",
    "net/vmw_vsock",
    "security",
];

/// A kernel that `cargo xtask kernel build` left in this directory.
///
/// # Errors
/// When there is none.
pub fn built(dir: &Path) -> Result<Kernel> {
    cached(dir)?.with_context(|| format!("no kernel in {}; hint: cargo xtask kernel build", dir.display()))
}

/// The newest stock kernel of a series, fetched when the cache does not have it.
///
/// # Errors
/// When no package index knows such a kernel and the cache has none, or the download or unpacking fails.
pub fn stock(stock: Stock) -> Result<Kernel> {
    let _lock = host::lock_cache("kernels")?;
    let kernels = host::cache_dir()?.join("kernels").join(stock.series());
    std::fs::create_dir_all(&kernels).with_context(|| format!("making {}", kernels.display()))?;
    let first = newest_cached_or_fetched(stock, &kernels, &Index::of_this_machine());
    let Err(error) = first else { return first };
    // The machine's own index may be of a suite without this series, or older than what the mirrors still
    // have.
    let second = host::step("package lists of our own", Index::of_our_own)
        .and_then(|index| newest_cached_or_fetched(stock, &kernels, &index));
    let Err(second_error) = second else { return second };
    // No network, perhaps; what the cache has is still a stock kernel.
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&kernels).with_context(|| format!("reading {}", kernels.display()))? {
        found.extend(cached(&entry?.path())?);
    }
    found.sort_by(|a: &Kernel, b| compare_versions(&a.version, &b.version));
    found
        .pop()
        .ok_or_else(|| error.context(format!("and with package lists of our own: {second_error:#}")))
}

fn newest_cached_or_fetched(stock: Stock, kernels: &Path, index: &Index) -> Result<Kernel> {
    let (package, version) = index.newest(stock)?;
    let dir = kernels.join(format!(
        "{package}_{}-recipe{RECIPE}",
        version.replace([':', '/'], "_")
    ));
    if let Some(kernel) = cached(&dir)? {
        return Ok(kernel);
    }
    host::step(&format!("fetching the stock kernel {package}"), || {
        fetch(index, &dir, &package, &version)
    })
}

/// A package index that apt reads.
struct Index {
    /// Given to every call of apt.
    options: Vec<String>,
}

impl Index {
    /// The one that this machine's administrator set up.
    fn of_this_machine() -> Self {
        Self { options: Vec::new() }
    }

    /// One in the cache, with its own sources, brought up to date. Needs no root and changes nothing of the
    /// machine.
    fn of_our_own() -> Result<Self> {
        let dir = host::cache_dir()?.join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(part)).with_context(|| format!("making {}", dir.display()))?;
        }
        let Archive {
            keyring,
            address: mirror,
        } = machine::debian_archive().map_err(anyhow::Error::msg)?;
        let mut sources = String::new();
        // Between them they have every series that is supported.
        let _ = writeln!(
            sources,
            "deb [signed-by={keyring}] {mirror} trixie-backports main"
        );
        for suite in ["bookworm", "trixie"] {
            let _ = writeln!(sources, "deb [signed-by={keyring}] {mirror} {suite} main");
            let _ = writeln!(
                sources,
                "deb [signed-by={keyring}] {mirror}-security {suite}-security main"
            );
        }
        let list = dir.join("sources.list");
        host::write_whole(&list, sources.as_bytes())?;
        let index = Self {
            options: [
                format!("Dir::Etc::SourceList={}", list.display()),
                "Dir::Etc::SourceParts=-".to_owned(),
                format!("Dir::State={}", dir.join("state").display()),
                "Dir::State::status=/var/lib/dpkg/status".to_owned(),
                format!("Dir::Cache={}", dir.join("cache").display()),
                "APT::Architecture=amd64".to_owned(),
            ]
            .into(),
        };
        host::output(index.command("apt-get")?.args(["-q", "update"]))?;
        Ok(index)
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(host::tool(program, "apt (this machine is not Debian)")?);
        for option in &self.options {
            command.args(["-o", option]);
        }
        if host::is_root() {
            // The user _apt cannot write into root's cache, and would only be warned about.
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        Ok(command)
    }

    /// The newest package with a kernel of this series, and its version.
    fn newest(&self, stock: Stock) -> Result<(String, String)> {
        if std::env::consts::ARCH != "x86_64" {
            bail!(
                "guests are x86-64 only; this machine is {}",
                std::env::consts::ARCH
            );
        }
        let pattern = stock.image_pattern();
        let listed = host::output(
            self.command("apt-cache")?
                .args(["search", "--names-only", &pattern]),
        )?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let newest = listed
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .max_by(|a, b| compare_versions(a, b))
            .with_context(|| format!("no package matches {pattern}; hint: apt-get update"))?;
        let shown = host::output(
            self.command("apt-cache")?
                .args(["show", "--no-all-versions", newest]),
        )?;
        let version = String::from_utf8_lossy(&shown)
            .lines()
            .find_map(|line| line.strip_prefix("Version: ").map(str::to_owned))
            .with_context(|| format!("apt-cache shows no version of {newest}"))?;
        Ok((newest.to_owned(), version))
    }
}

fn cached(dir: &Path) -> Result<Option<Kernel>> {
    let ready = dir.join("ready.json");
    let Ok(text) = std::fs::read(&ready) else {
        return Ok(None);
    };
    let mut kernel: Kernel = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; hint: remove it", ready.display()))?;
    kernel.dir = dir.to_path_buf();
    Ok(Some(kernel))
}

fn fetch(index: &Index, dir: &Path, package: &str, version: &str) -> Result<Kernel> {
    let part = PathBuf::from(format!("{}.part", dir.display()));
    if part.exists() {
        std::fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    }
    std::fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let mut sha256 = String::new();
    for package in std::iter::once(package.to_owned()).chain(other_packages(package)) {
        let mut download = index.command("apt-get")?;
        download
            .current_dir(&part)
            .args(["-q", "download", &format!("{package}={version}")]);
        host::output(&mut download)?;
        let archive = std::fs::read_dir(&part)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get download left no package in {}", part.display()))?;
        if sha256.is_empty() {
            sha256 = host::sha256_file(&archive)?;
        }
        host::output(
            Command::new(host::tool("dpkg", "dpkg")?)
                .arg("-x")
                .arg(&archive)
                .arg(&part),
        )?;
        std::fs::remove_file(&archive)?;
    }
    let (image, release) =
        image_in(&part).with_context(|| format!("{package} has no kernel image where one is looked for"))?;
    // Suites differ in whether packages, and depmod, say lib or usr/lib: both shall work.
    if part.join("lib/modules").is_dir() {
        std::fs::create_dir_all(part.join("usr/lib"))?;
        std::fs::rename(part.join("lib/modules"), part.join("usr/lib/modules"))?;
        std::fs::remove_dir(part.join("lib"))?;
    }
    std::os::unix::fs::symlink("usr/lib", part.join("lib"))?;
    keep_only(
        &part.join("usr/lib/modules").join(&release).join("kernel"),
        "",
        MODULES,
    )?;
    host::output(
        Command::new(host::tool("depmod", "kmod")?)
            .arg("-b")
            .arg(&part)
            .arg(&release),
    )?;
    let kernel = Kernel {
        release,
        package: package.to_owned(),
        version: version.to_owned(),
        sha256,
        image,
        dir: dir.to_path_buf(),
    };
    host::write_whole(&part.join("ready.json"), &serde_json::to_vec_pretty(&kernel)?)?;
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    std::fs::rename(&part, dir).with_context(|| format!("putting {} in place", dir.display()))?;
    Ok(kernel)
}

/// The kernel image of an unpacked package, relative to it, and its release: `boot/vmlinuz-RELEASE`, or from
/// 7.3 on `usr/lib/modules/RELEASE/vmlinuz`.
fn image_in(part: &Path) -> Option<(PathBuf, String)> {
    let names = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(part.join(dir)).into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    };
    let old = names("boot").into_iter().find_map(|name| {
        let release = name.strip_prefix("vmlinuz-")?.to_owned();
        Some((PathBuf::from("boot").join(name), release))
    });
    old.or_else(|| {
        names("usr/lib/modules").into_iter().find_map(|release| {
            let image = PathBuf::from("usr/lib/modules").join(&release).join("vmlinuz");
            part.join(&image).is_file().then_some((image, release))
        })
    })
}

/// Removes the files below `dir` whose path from the top (here `prefix`) starts with none of `wanted`.
fn keep_only(dir: &Path, prefix: &str, wanted: &[&str]) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        if wanted.iter().any(|wanted| name.starts_with(wanted)) {
            continue;
        }
        if !entry.file_type()?.is_dir() {
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        } else if wanted
            .iter()
            .any(|wanted| wanted.starts_with(&format!("{name}/")))
        {
            keep_only(&path, &format!("{name}/"), wanted)?;
        } else {
            std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Orders version-like names: runs of digits as numbers, the rest as text.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let text = |s: &str| s.find(|c: char| c.is_ascii_digit()).unwrap_or(s.len());
        let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let (text_a, rest_a) = a.split_at(text(a));
        let (text_b, rest_b) = b.split_at(text(b));
        let (number_a, rest_a) = rest_a.split_at(digits(rest_a));
        let (number_b, rest_b) = rest_b.split_at(digits(rest_b));
        let value = |digits: &str| digits.parse::<u64>().unwrap_or(u64::MAX);
        let order = text_a
            .cmp(text_b)
            .then_with(|| match (number_a.is_empty(), number_b.is_empty()) {
                (false, false) => value(number_a).cmp(&value(number_b)),
                (empty_a, empty_b) => empty_b.cmp(&empty_a),
            });
        if order != Ordering::Equal || (rest_a.is_empty() && rest_b.is_empty()) {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// The address of Debian's packages: `CGPATH_MIRROR`, or this machine's own.
///
/// # Errors
/// When there is neither.
pub(crate) fn mirror() -> Result<String> {
    let archive = machine::debian_archive().map_err(anyhow::Error::msg)?;
    Ok(archive.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number_not_by_letter() {
        let newer = "linux-image-6.12.117+deb12-cloud-amd64-unsigned";
        let older = "linux-image-6.12.95+deb12-cloud-amd64-unsigned";
        assert_eq!(compare_versions(newer, older), Ordering::Greater);
        assert_eq!(compare_versions("6.1.0-9", "6.1.0-56"), Ordering::Less);
        assert_eq!(compare_versions("6.1.192-2", "6.1.192-2"), Ordering::Equal);
        assert_eq!(compare_versions("6.1", "6.1.1"), Ordering::Less);
    }

    #[test]
    fn only_the_wanted_modules_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "fs/overlayfs/overlay.ko",
            "fs/xfs/xfs.ko",
            "drivers/net/veth.ko",
            "drivers/net/x/y.ko",
            "sound/z.ko",
        ] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        keep_only(dir.path(), "", MODULES).unwrap();
        assert!(dir.path().join("fs/overlayfs/overlay.ko").exists());
        assert!(dir.path().join("drivers/net/veth.ko").exists());
        assert!(!dir.path().join("fs/xfs").exists() && !dir.path().join("sound").exists());
        assert!(!dir.path().join("drivers/net/x").exists());
    }

    #[test]
    fn series_are_told_apart_by_their_names() {
        assert_eq!("6.12".parse::<Stock>().unwrap(), Stock::V6_12);
        assert_eq!("6.1".parse::<Stock>().unwrap(), Stock::V6_1);
        assert!("6".parse::<Stock>().is_err());
    }
}
