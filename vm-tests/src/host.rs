//! The machine that the guests run on: where things lie, how tools are started, how progress is shown.
//!
//! Promises: nothing is written outside of the workspace's target directory, the cache and the guests' own
//! directories; a tool that is missing is named together with the command that brings it. Not here: what the
//! tools do.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::machine;

/// The workspace's root directory: `CGPATH_WORKSPACE`, or where this crate was built.
pub fn workspace_root() -> PathBuf {
    if let Some(dir) = std::env::var_os("CGPATH_WORKSPACE") {
        return dir.into();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, or `target` of the workspace.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace_root().join(dir),
        None => workspace_root().join("target"),
    }
}

/// The cache: `CGPATH_CACHE`, else `$XDG_CACHE_HOME/ima-cgpath`, else `~/.cache/ima-cgpath`. Made when
/// missing.
///
/// # Errors
/// When there is no home directory, or the directory cannot be made.
pub fn cache_dir() -> Result<PathBuf> {
    let dir = if let Some(dir) = std::env::var_os("CGPATH_CACHE") {
        PathBuf::from(dir)
    } else if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(dir).join("ima-cgpath")
    } else {
        let home = std::env::var_os("HOME")
            .context("HOME is not set; set CGPATH_CACHE to a directory for caches")?;
        PathBuf::from(home).join(".cache/ima-cgpath")
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("making the cache {}", dir.display()))?;
    Ok(dir)
}

/// A program of the workspace, such as `cgpathd`, of the profile that `CGPATH_PROFILE` names by its folder:
/// `debug`, or `release` where something is measured.
///
/// # Errors
/// When it was not built; the message says how to build it.
pub fn built_binary(name: &str) -> Result<PathBuf> {
    let profile = std::env::var_os("CGPATH_PROFILE").unwrap_or_else(|| "debug".into());
    existing(target_dir().join(profile).join(name), "cargo xtask build")
}

/// A copy of a program without what debuggers want of it: it is copied into guests, and hashed there without
/// hardware's help, many times.
///
/// # Errors
/// When it cannot be read, or there is no `strip`.
pub fn stripped(program: &Path) -> Result<PathBuf> {
    static MAKING: Mutex<()> = Mutex::new(());
    let meta = std::fs::metadata(program).with_context(|| format!("looking at {}", program.display()))?;
    let name = program
        .file_name()
        .with_context(|| format!("{} names no file", program.display()))?
        .to_string_lossy();
    let written = meta.modified()?.duration_since(std::time::UNIX_EPOCH)?;
    let dir = target_dir().join("stripped");
    let copy = dir.join(format!("{name}-{}-{}", meta.len(), written.as_nanos()));
    let _one = MAKING.lock();
    if !copy.is_file() {
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let part = dir.join(format!("{name}.part{}", std::process::id()));
        output(
            Command::new(tool("strip", "binutils")?)
                .arg("-o")
                .arg(&part)
                .arg(program),
        )?;
        for old in std::fs::read_dir(&dir)?.flatten() {
            if old.file_name().to_string_lossy().starts_with(&format!("{name}-")) {
                // Of a build before this one; what cannot be removed is only in the way of nobody.
                let _ = std::fs::remove_file(old.path());
            }
        }
        std::fs::rename(&part, &copy).with_context(|| format!("putting {} in place", copy.display()))?;
    }
    Ok(copy)
}

/// The static binary that is init in every guest.
///
/// # Errors
/// When it was not built; the message says how to build it.
pub fn guest_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CGPATH_GUEST") {
        return existing(
            path.into(),
            "unset CGPATH_GUEST, or point it at a static `guest` binary",
        );
    }
    existing(target_dir().join("debug/guest"), "cargo xtask build")
}

/// The eBPF object: `CGPATH_BPF_OBJECT`, or what `cargo xtask ebpf` built.
///
/// # Errors
/// When it was not built; the message says how to build it.
pub fn bpf_object() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CGPATH_BPF_OBJECT") {
        return existing(path.into(), "unset CGPATH_BPF_OBJECT, or point it at the object");
    }
    existing(target_dir().join("bpf/ima-cgpath.bpf.o"), "cargo xtask ebpf")
}

pub(crate) fn existing(path: PathBuf, remedy: &str) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path);
    }
    bail!("{} is not there; hint: {remedy}", path.display())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// How guests run: `kvm`, or `tcg` where there is no KVM that works. `CGPATH_ACCEL` decides otherwise.
pub fn accelerator() -> String {
    if let Ok(wanted) = std::env::var("CGPATH_ACCEL") {
        return wanted;
    }
    let kvm = machine::kvm();
    if kvm.openable && kvm.hardware {
        "kvm".to_owned()
    } else {
        "tcg".to_owned()
    }
}

/// Holds a lock of the cache until it is dropped, so that two test processes do not make the same thing
/// twice.
pub struct CacheLock {
    _held: nix::fcntl::Flock<File>,
}

/// Waits for the cache's lock `name`.
///
/// # Errors
/// When the lock file cannot be made or locked.
pub fn lock_cache(name: &str) -> Result<CacheLock> {
    let path = cache_dir()?.join(format!("{name}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("locking {}", path.display()))?;
    Ok(CacheLock { _held: held })
}

/// A TCP port of this machine's loopback that is nobody else's as long as this value lives: a server that is
/// started with its number may listen there, again and again. The socket is bound and does not listen; both
/// say `SO_REUSEADDR`, as servers do, and the kernel gives the port out to no other.
pub struct Port {
    _bound: std::os::fd::OwnedFd,
    number: u16,
}

impl Port {
    /// Takes one that is free.
    ///
    /// # Errors
    /// When there is none.
    pub fn reserve() -> Result<Self> {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
        };
        use std::os::fd::AsRawFd as _;
        let bound = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .context("making a socket")?;
        setsockopt(&bound, sockopt::ReuseAddr, &true)?;
        bind(bound.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).context("binding to a free port")?;
        let number = getsockname::<SockaddrIn>(bound.as_raw_fd())?.port();
        Ok(Self {
            _bound: bound,
            number,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Finds an executable in `PATH`, or in the directories for administration that `PATH` may lack.
///
/// # Errors
/// When it is not installed; `package` names the Debian package that has it.
pub fn tool(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    for place in places {
        let candidate = place.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "`{name}` is not installed; hint: apt-get install {package}  (cargo xtask doctor lists all that is \
         missing)"
    )
}

/// Runs a tool to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails: with the command line and the last lines of what it said.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{shown}`"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    bail!(
        "`{shown}` failed ({}):\n{}",
        output.status,
        tail(&String::from_utf8_lossy(&said), 20)
    )
}

/// The last `lines` lines of a text, indented.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = all.len().saturating_sub(lines);
    all[from..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut text = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    if text.len() > 300 {
        let end = (0..=300).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The SHA-256 of a file, as hex.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    use sha2::Digest as _;
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = sha2::Sha256::new();
    std::io::copy(&mut file, &mut hasher).with_context(|| format!("reading {}", path.display()))?;
    Ok(hex::encode(hasher.finalize()))
}

/// Puts a file in place by rename, so that what is there is always whole.
///
/// # Errors
/// When it cannot be written.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, content).with_context(|| format!("writing {}", part.display()))?;
    std::fs::rename(&part, path).with_context(|| format!("writing {}", path.display()))
}

/// Runs `work` and shows that it runs: on a terminal one line with the seconds so far, else a line at its
/// start, one every 15 seconds, and one at its end. What takes less than a second is not shown.
///
/// # Errors
/// What `work` returns.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let finished = Arc::new((Mutex::new(false), Condvar::new()));
    let was_shown = Arc::new(AtomicBool::new(false));
    let ticker = std::thread::spawn({
        let (finished, was_shown, what) = (Arc::clone(&finished), Arc::clone(&was_shown), what.to_owned());
        move || {
            let terminal = std::io::stderr().is_terminal();
            let mut wait = Duration::from_secs(1);
            loop {
                let Ok(guard) = finished.0.lock() else { return };
                if *guard {
                    return;
                }
                let Ok((guard, _)) = finished.1.wait_timeout(guard, wait) else {
                    return;
                };
                if *guard {
                    return;
                }
                drop(guard);
                was_shown.store(true, Ordering::Relaxed);
                let seconds = started.elapsed().as_secs();
                if terminal {
                    eprint!("\r\x1b[2K  {what} … {seconds} s");
                    // A progress line that cannot be shown is no reason to stop the work.
                    let _ = std::io::stderr().flush();
                    wait = Duration::from_secs(1);
                } else {
                    eprintln!("  {what} … {seconds} s");
                    wait = Duration::from_secs(15);
                }
            }
        }
    });
    let result = work();
    if let Ok(mut guard) = finished.0.lock() {
        *guard = true;
    }
    finished.1.notify_all();
    // The ticker cannot fail; its result carries nothing.
    let _ = ticker.join();
    if was_shown.load(Ordering::Relaxed) {
        let clear = if std::io::stderr().is_terminal() {
            "\r\x1b[2K"
        } else {
            ""
        };
        let end = if result.is_ok() { "done" } else { "failed" };
        eprintln!(
            "{clear}  {what}: {end} after {:.1} s",
            started.elapsed().as_secs_f64()
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_reserved_port_is_a_servers_again_and_again_and_nobody_else_gets_it() {
        let port = Port::reserve().unwrap();
        for _ in 0..2 {
            let server = TcpListener::bind(("127.0.0.1", port.number())).unwrap();
            TcpStream::connect(("127.0.0.1", port.number())).unwrap();
            drop(server);
        }
        let others: Vec<Port> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        assert!(others.iter().all(|other| other.number() != port.number()));
    }
}
