//! What a process of a pod tries on its node, without rights there: each attempt with its outcome.
//!
//! Promises: what needs a namespace is tried in one of its own; no attempt stops another one. Not here: what
//! host root can do (see `workload_guard`), what is expected.

#![allow(unsafe_code, reason = "prctl(2) and ioctls, as an attacker calls them")]

use crate::workload_cgroup::Door;
use crate::workload_guard::{self as guard, Attempts};
use crate::workload_memory as memory;
use anyhow::{Context as _, Result, ensure};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getgid, getuid, setgroups, setresgid, setresuid};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vm_protocol::spec::Attempt;

/// Ids that are tried: who may not list them can only guess, and those of a fresh node are small.
const IDS: std::ops::RangeInclusive<u32> = 1..=512;
/// A descriptor that nobody has.
const NOBODYS: u32 = 9999;
/// The sysctl's name, and that of a network interface.
const SYSCTL: &str = "ftrace_enabled";

/// Gives up root and with it every capability.
fn become_user(uid: u32) -> Result<()> {
    setgroups(&[]).context("setgroups")?;
    let gid = Gid::from_raw(uid);
    setresgid(gid, gid, gid).context("setresgid")?;
    let uid = Uid::from_raw(uid);
    setresuid(uid, uid, uid).context("setresuid")?;
    // A process that changed its user does not own its files in /proc until it says that it may be dumped.
    // SAFETY: takes numbers alone.
    nix::errno::Errno::result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) })
        .context("PR_SET_DUMPABLE")
        .map(drop)
}

/// Namespaces of its own, with this user as root in the user namespace.
fn namespaces(flags: CloneFlags) -> io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    // Not at once: files of a network namespace in proc are its root's only where that had a number when it
    // was made.
    unshare(flags).map_err(Into::into)
}

/// As any user can: tries everything on the programs pinned in `pins` and on process `pid`, as `uid` where it
/// is given.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn reach(pins: &Path, pid: u32, uid: Option<u32>) -> Result<Vec<Attempt>> {
    if let Some(uid) = uid {
        become_user(uid)?;
    }
    let mut tried = Attempts::default();
    for id in IDS {
        tried.note("link by id", guard::by_id(guard::LINK_GET_FD_BY_ID, id, 0));
        tried.note("map by id", guard::by_id(guard::MAP_GET_FD_BY_ID, id, 0));
        tried.note("program by id", guard::by_id(guard::PROG_GET_FD_BY_ID, id, 0));
    }
    tried.note("map by pin", guard::by_pin(&pins.join("map_PODS")));
    tried.note("program by pin", guard::by_pin(&pins.join("prog_executed")));
    tried.note("link by pin", guard::by_pin(&pins.join("link_executed")));
    let null = OpenOptions::new().read(true).open("/proc/self/exe")?;
    for fd in [NOBODYS, null.as_raw_fd().cast_unsigned()] {
        tried.note("no link detached", guard::on_link(guard::LINK_DETACH, fd));
        tried.note("no link changed", guard::on_link(guard::LINK_UPDATE, fd));
    }
    tried.note("pin removed", std::fs::remove_file(pins.join("link_executed")));
    tried.note(
        "pin renamed",
        std::fs::rename(pins.join("link_executed"), pins.join("x")),
    );
    tried.note("directory removed", std::fs::remove_dir(pins));
    tried.note(
        "unmounted",
        umount2("/sys/fs/bpf", MntFlags::MNT_DETACH).map_err(Into::into),
    );
    guard::on_process(&mut tried, pid)?;
    for device in ["/dev/tpm0", "/dev/tpmrm0"] {
        tried.note("tpm", OpenOptions::new().read(true).write(true).open(device));
    }
    let write = |path: &str| OpenOptions::new().write(true).open(path);
    tried.note("unbind", write("/sys/class/tpm/tpm0/device/driver/unbind"));
    tried.note("sysctl", write(&format!("/proc/sys/kernel/{SYSCTL}")));
    // In this order: a process may have another user namespace below the one that it has.
    if tried
        .note("network namespace", namespaces(CloneFlags::CLONE_NEWNET))
        .is_some()
    {
        let renamed = rename_interface("lo", SYSCTL);
        renamed.context("renaming an interface in a network namespace of its own")?;
        tried.note(
            "file of that name",
            write(&format!("/proc/self/net/dev_snmp6/{SYSCTL}")),
        );
    }
    if tried
        .note("mount namespace", namespaces_again(CloneFlags::CLONE_NEWNS))
        .is_some()
    {
        // The pins' file system is in sight on the host, and in pods that were given it.
        let at = "/tmp";
        const NONE: Option<&str> = None;
        if let Some(from) = pins.parent().filter(|from| from.exists()) {
            mount(Some(from), at, NONE, MsFlags::MS_BIND, NONE).context("a copy of the pins' mount")?;
            tried.note(
                "copy unmounted",
                umount2(at, MntFlags::MNT_DETACH).map_err(Into::into),
            );
        }
    }
    Ok(tried.finish())
}

/// As [`namespaces`], for a process that is root in a user namespace already or is not.
fn namespaces_again(flags: CloneFlags) -> io::Result<()> {
    unshare(flags).or_else(|_| namespaces(flags))
}

/// In namespaces of its own, mounts an overlay whose lowest layer is `below` in `dir`; gives where.
///
/// # Errors
/// When the kernel refuses, as it does before 5.11.
pub fn overlay(dir: &Path) -> Result<PathBuf> {
    let at = dir.join("overlay");
    for made in [&at, &dir.join("above")] {
        std::fs::create_dir_all(made)?;
    }
    namespaces(CloneFlags::CLONE_NEWNS).context("namespaces of its own")?;
    let layers = format!(
        "lowerdir={0}/above:{0}/below,userxattr",
        dir.to_str().context("a path that is text")?
    );
    let kind = Some("overlay");
    mount(kind, &at, kind, MsFlags::empty(), Some(layers.as_str())).context("an overlay of its own")?;
    Ok(at)
}

/// Gives a network interface another name.
fn rename_interface(from: &str, to: &str) -> io::Result<()> {
    fn name(text: &str) -> [libc::c_char; libc::IFNAMSIZ] {
        let mut name = [0; libc::IFNAMSIZ];
        for (to, byte) in name.iter_mut().zip(text.bytes()) {
            *to = byte.cast_signed();
        }
        name
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let request = libc::ifreq {
        ifr_name: name(from),
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_newname: name(to),
        },
    };
    // SAFETY: the request is what this ioctl reads, and outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFNAME, &raw const request) };
    nix::errno::Errno::result(done).map(drop).map_err(Into::into)
}

/// Takes hold of a pinned link as root, goes into a cgroup, gives up root and tries to change and to detach
/// the link: what a process can do that was passed the descriptor.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn passed(pins: &Path, cgroup: &str, uid: u32) -> Result<Vec<Attempt>> {
    let inside = Door::to(cgroup)?;
    let link = guard::by_pin(&pins.join("link_executed")).context("opening the link's pin")?;
    inside.enter()?;
    become_user(uid)?;
    let mut tried = Attempts::default();
    let fd = link.as_raw_fd().cast_unsigned();
    tried.note("link detached", guard::on_link(guard::LINK_DETACH, fd));
    tried.note("link changed", guard::on_link(guard::LINK_UPDATE, fd));
    Ok(tried.finish())
}

/// In user, mount and cgroup namespaces of its own, makes `levels` directories below its cgroup, each in the
/// one before with a name of `length` bytes, and runs a program in the last one.
///
/// # Errors
/// When it cannot be done.
pub fn nest(levels: u32, length: usize, argv: &[String]) -> Result<()> {
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    // By relative names: the whole path is longer than the kernel takes.
    std::env::set_current_dir(own_cgroups()?)?;
    let name = "n".repeat(length);
    for level in 0..levels {
        let made = || -> io::Result<()> {
            std::fs::create_dir(&name)?;
            std::env::set_current_dir(&name)
        };
        made().with_context(|| format!("level {level}"))?;
    }
    std::fs::write("cgroup.procs", "0").context("entering the last one")?;
    to_its_end(argv, Stdio::from(null))
}

/// In user, mount and cgroup namespaces of its own, mounts the cgroups from its own one down; gives where.
fn own_cgroups() -> Result<&'static str> {
    namespaces(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP).context("namespaces")?;
    let at = "/tmp/cgroup";
    const NONE: Option<&str> = None;
    std::fs::create_dir_all(at).context("a directory for the mount")?;
    mount(Some("none"), at, Some("cgroup2"), MsFlags::empty(), NONE).context("mounting cgroup2")?;
    Ok(at)
}

fn to_its_end(argv: &[String], stdout: Stdio) -> Result<()> {
    let (program, arguments) = argv.split_first().context("no program is named")?;
    let status = Command::new(program)
        .args(arguments)
        .stdout(stdout)
        .status()
        .with_context(|| format!("cannot execute {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}

/// In such namespaces, makes a threaded cgroup below its own one and puts a thread of this process there,
/// which maps a file executable and runs a program.
///
/// # Errors
/// When it cannot be done.
pub fn thread(file: &Path, argv: &[String]) -> Result<()> {
    let at = Path::new(own_cgroups()?).join("threaded");
    std::fs::create_dir(&at).context("making a cgroup")?;
    std::fs::write(at.join("cgroup.type"), "threaded").context("making it threaded")?;
    let in_thread = || -> Result<()> {
        std::fs::write(at.join("cgroup.threads"), "0").context("entering it")?;
        memory::map_executable(&std::fs::File::open(file)?)?;
        to_its_end(argv, Stdio::null())
    };
    let ended = std::thread::scope(|scope| scope.spawn(in_thread).join());
    ended.map_err(|_| anyhow::anyhow!("the thread panicked"))?
}

/// Lets /proc/self/exe name another program, as any user can in a user namespace of its own (PR_SET_MM_MAP,
/// and not PR_SET_MM_EXE_FILE, which asks for CAP_SYS_RESOURCE), then runs one.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn imitate(other: &Path, argv: &[String], uid: u32) -> Result<Vec<Attempt>> {
    let mut tried = Attempts::default();
    become_user(uid)?;
    namespaces(CloneFlags::empty()).context("a user namespace")?;
    let file = OpenOptions::new().read(true).open(other)?;
    memory::leave_own_file()?;
    let fd = file.as_raw_fd().cast_unsigned();
    tried.note("by PR_SET_MM_EXE_FILE", memory::name_executable_alone(fd));
    tried.note("by PR_SET_MM_MAP", memory::name_executable(fd));
    let exe = std::fs::read_link("/proc/self/exe")?;
    let is_other = if exe == other {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    };
    tried.note("another executable", is_other);
    to_its_end(argv, Stdio::null())?;
    Ok(tried.finish())
}
