//! Snapshots of guests that have booted, kept in the cache: a guest that is restored from one saves its boot.
//!
//! Promises: a snapshot is found again by all that went into it (kernel, root file system, files, command
//! line, hardware, QEMU, processor); what several processes want is made once; one that is not used any more
//! is removed. Not here: which guests may be restored (`vm`), what a guest does when it was
//! (`guest/src/restored.rs`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::image::{Addition, Recipe};
use crate::qemu;
use crate::qmp::Monitor;
use crate::{PATIENCE, Vm, host, initrd};

/// Raised when the same inputs give another snapshot.
const RECIPE: u32 = 1;

/// Size of the disk whose content comes with each restored guest. It is a sparse file.
pub(crate) const ADDITIONS_BYTES: u64 = 512 << 20;

/// Snapshots of one kind of guest that are kept: as many as two builds of the guest's init take turns with.
const KEPT: usize = 2;

/// A snapshot that nobody used for so long is removed.
const UNUSED: Duration = Duration::from_secs(14 * 24 * 3600);

/// A snapshot, or the place where one is to be made. While it is there, nobody removes it.
pub(crate) struct Snapshot {
    dir: PathBuf,
    _in_use: Flock<File>,
}

/// What a snapshot is of.
pub(crate) struct Wanted<'a> {
    pub recipe: Recipe<'a>,
    pub command_line: &'a str,
    pub memory_mib: u32,
    pub cpus: u32,
}

impl Wanted<'_> {
    /// The name of the kind of guest, and the digest of all that goes in.
    fn names(&self) -> Result<(String, String)> {
        let kind = [
            self.command_line.to_owned(),
            format!("{} {} {}", self.memory_mib, self.cpus, self.recipe.size_mib),
            format!("{}", self.recipe.root.display()),
            self.recipe
                .additions
                .iter()
                .map(Addition::guest)
                .collect::<Vec<_>>()
                .join(" "),
        ];
        let kernel = self.recipe.kernel;
        let mut inputs = vec![
            format!("recipe {RECIPE}, channel {}", vm_protocol::VERSION),
            kernel.release.clone(),
            kernel.version.clone(),
            host::sha256_file(&kernel.image())?,
            host::sha256_file(&kernel.modules().join("modules.dep"))?,
            host::accelerator(),
            processor(),
            version("qemu-system-x86_64", "qemu-system-x86")?,
            version("swtpm", "swtpm")?,
        ];
        inputs.extend(kind.iter().cloned());
        for addition in self.recipe.additions {
            inputs.push(content(addition)?);
        }
        let digest = |lines: &[String]| hex::encode(Sha256::digest(lines.join("\n")))[..16].to_owned();
        let kind = format!("{}-{}", kernel.release, digest(&kind));
        Ok((kind, digest(&inputs)))
    }
}

/// What an addition adds to the digest of a snapshot.
fn content(addition: &Addition) -> Result<String> {
    let (mode, digest) = match addition {
        Addition::Bytes { content, mode, .. } => (*mode, hex::encode(Sha256::digest(content))),
        Addition::File { host, mode, .. } => (*mode, host::sha256_file(host)?),
        other => bail!("{other} cannot be part of a snapshot: its content has no digest"),
    };
    Ok(format!("{addition} {mode:o} {digest}"))
}

/// What `program --version` says first: another version saves otherwise.
fn version(program: &str, package: &str) -> Result<String> {
    let said = host::output(Command::new(host::tool(program, package)?).arg("--version"))?;
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// This machine's processor: under KVM the guest has its features.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of_first = |name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
    };
    format!("{} {}", of_first("model name"), of_first("flags"))
}

impl Snapshot {
    /// The cached snapshot; where there is none, `boot` starts a machine of its parts in a directory for its
    /// sockets, waits until it is up, and it is saved.
    ///
    /// # Errors
    /// When it can neither be found nor made.
    pub(crate) fn provide(wanted: &Wanted<'_>, boot: impl FnOnce(&Parts<'_>) -> Result<Vm>) -> Result<Self> {
        let (kind, digest) = wanted.names()?;
        let snapshots = host::cache_dir()?.join("snapshots").join(&kind);
        std::fs::create_dir_all(&snapshots).with_context(|| format!("making {}", snapshots.display()))?;
        let _making = host::lock_cache(&format!("snapshots/{kind}"))?;
        let dir = snapshots.join(&digest);
        if !dir.join(STATE).is_file() {
            let part = snapshots.join("part");
            remove(&part)?;
            std::fs::create_dir_all(&part)?;
            let what = format!(
                "making a snapshot of a guest of Linux {}",
                wanted.recipe.kernel.release
            );
            host::step(&what, || make(wanted, &part, boot))?;
            remove(&dir)?;
            std::fs::rename(&part, &dir).with_context(|| format!("putting {} in place", dir.display()))?;
        }
        let in_use = lock(&dir, FlockArg::LockShared)?.context("a shared lock is waited for")?;
        in_use.set_modified(SystemTime::now())?;
        sweep(&snapshots, &dir);
        sweep_kinds(snapshots.parent().unwrap_or(&snapshots));
        Ok(Self { dir, _in_use: in_use })
    }

    /// The disk as it was at that instant. It is not to be written to.
    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.join(DISK)
    }

    /// The initramfs that the guest was booted with.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.dir.join(INITRD)
    }

    /// Memory and devices.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    /// Makes sure that nobody finds it again: it cannot be restored.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub(crate) fn discard(self) -> Result<()> {
        let state = self.state();
        std::fs::remove_file(&state).with_context(|| format!("removing {}", state.display()))
    }
}

const DISK: &str = "disk.img";
const INITRD: &str = "initrd.img";
const ADDITIONS: &str = "additions.img";
const STATE: &str = "state";
const IN_USE: &str = "in-use";

/// The parts of a machine that is to be saved.
pub(crate) struct Parts<'a> {
    pub disk: &'a Path,
    pub initrd: &'a Path,
    pub additions: &'a Path,
}

fn make(wanted: &Wanted<'_>, part: &Path, boot: impl FnOnce(&Parts<'_>) -> Result<Vm>) -> Result<()> {
    let (disk, initrd, additions) = (part.join(DISK), part.join(INITRD), part.join(ADDITIONS));
    crate::image::make(&wanted.recipe, &disk)?;
    std::fs::write(&initrd, initrd::make(wanted.recipe.kernel)?)?;
    crate::image::archive(&[], &additions, ADDITIONS_BYTES)?;
    let mut vm = boot(&Parts {
        disk: &disk,
        initrd: &initrd,
        additions: &additions,
    })?;
    let mut monitor = Monitor::connect(&vm.dir().join(qemu::MONITOR))?;
    // The guest runs on meanwhile and stands still at the end of it: then its memory was saved and its disk
    // is at rest.
    let state = part.join("state.part");
    monitor.ask(
        "migrate",
        json!({ "uri": format!("exec:cat > {}", qemu::quoted(&state)) }),
    )?;
    let begin = Instant::now();
    loop {
        let progress = monitor.ask("query-migrate", json!({}))?;
        match progress["status"].as_str() {
            Some("completed") => break,
            Some("failed" | "cancelled") => bail!("QEMU cannot save the guest: {progress}"),
            // The memory that a guest has written to, to the cache's disk.
            _ if begin.elapsed() > PATIENCE => bail!("the guest was not saved in {} s", PATIENCE.as_secs()),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    monitor.ask("quit", json!({}))?;
    vm.wait_for_end(PATIENCE)?;
    std::fs::rename(&state, part.join(STATE))?;
    Ok(())
}

fn lock(dir: &Path, kind: FlockArg) -> Result<Option<Flock<File>>> {
    let path = dir.join(IN_USE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match Flock::lock(file, kind) {
        Ok(held) => Ok(Some(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
    }
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// When it was last used.
fn used(dir: &Path) -> Option<SystemTime> {
    std::fs::metadata(dir.join(IN_USE))
        .and_then(|meta| meta.modified())
        .ok()
}

fn inside(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Where it is in use, or cannot be removed, the next one does it.
fn remove_unless_in_use(dir: &Path) {
    if matches!(lock(dir, FlockArg::LockExclusiveNonblock), Ok(Some(_))) {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Removes snapshots of guests that nobody wanted for long: of kernels that have successors, say.
fn sweep_kinds(all: &Path) {
    for snapshot in inside(all).iter().flat_map(|kind| inside(kind)) {
        let unused = used(&snapshot).and_then(|used| used.elapsed().ok());
        if unused.is_some_and(|time| time > UNUSED) {
            remove_unless_in_use(&snapshot);
        }
    }
}

/// Removes the snapshots of this kind that were not used for longest, but for a few.
fn sweep(snapshots: &Path, own: &Path) {
    let mut others = inside(snapshots);
    others.retain(|path| path != own);
    others.sort_by_key(|dir| std::cmp::Reverse(used(dir)));
    for old in others.iter().skip(KEPT - 1) {
        remove_unless_in_use(old);
    }
}
