//! Where things lie on this machine, and what kind of machine it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// Directories, and the questions that are asked of the machine everywhere.
pub struct Workspace {
    /// The repository.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Kernels, guest root, tools.
    pub cache: PathBuf,
    /// The environment variable `CI` is set: never ask, and a skip is a failure.
    pub ci: bool,
}

impl Workspace {
    /// Looks around.
    ///
    /// # Errors
    /// When there is no repository around this program, or no place for a cache.
    pub fn find() -> Result<Self> {
        let root = match std::env::var_os("CARGO_MANIFEST_DIR") {
            // Set by `cargo run`.
            Some(manifest) => {
                let manifest = PathBuf::from(manifest);
                manifest
                    .parent()
                    .map(Path::to_path_buf)
                    .context("xtask has no parent directory")?
            }
            None => std::env::current_dir()?
                .ancestors()
                .find(|dir| dir.join("xtask/Cargo.toml").is_file())
                .map(Path::to_path_buf)
                .context("not inside of the repository")?,
        };
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let cache = if let Some(dir) = std::env::var_os("CGPATH_CACHE") {
            PathBuf::from(dir)
        } else if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
            PathBuf::from(dir).join("ima-cgpath")
        } else {
            let home = std::env::var_os("HOME").context("HOME is not set; hint: set CGPATH_CACHE")?;
            PathBuf::from(home).join(".cache/ima-cgpath")
        };
        let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        Ok(Self {
            root,
            target,
            cache,
            ci,
        })
    }

    /// A program that was built here.
    pub fn program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// Tells a program that was built here where things lie.
    pub fn with_environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("CGPATH_WORKSPACE", &self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CGPATH_BPF_OBJECT", self.bpf_object())
    }

    /// The eBPF object for every later build and run.
    pub fn bpf_object(&self) -> PathBuf {
        std::env::var_os("CGPATH_BPF_OBJECT")
            .map_or_else(|| self.target.join("bpf/ima-cgpath.bpf.o"), PathBuf::from)
    }
}

/// No directory: what was in it is gone, too.
///
/// # Errors
/// When it cannot be removed.
pub fn removed(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

/// An empty directory: what was in it is gone.
///
/// # Errors
/// When it cannot be removed or made.
pub fn emptied(dir: &Path) -> Result<()> {
    removed(dir)?;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))
}

/// Whether this process is root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The first of these programs that `PATH` has.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    places
        .map(|place| place.join(name))
        .find(|candidate| candidate.is_file())
}

/// A value of /etc/os-release.
pub fn os_release(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

/// A number of bytes for people.
pub fn megabytes(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        _ if bytes < 10_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} MB", bytes as f64 / 1e6),
    }
}
