//! Containers without a runtime: a cgroup, and where asked for an overlay as root in a mount namespace of its
//! own.
//!
//! Promises: paths, inodes and cgroups look to the kernel as those of a container made by runc; the parent of
//! the program is this process, which stays outside of the cgroup. Not here: images, limits, any isolation
//! but of mounts.

use crate::workload::write_program;
use crate::workload_cgroup::{self as cgroup, Door};
use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use vm_protocol::elf;
use vm_protocol::spec::{Contained, Executed, Root, Workload};

fn command(argv: &[String]) -> Result<Command> {
    let (program, arguments) = argv.split_first().context("no program is named")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// `/dev/null`, opened while there still is one.
fn null() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("cannot open /dev/null")
}

/// Runs a program to its end in a cgroup and, where `root` is given, in a root of its own.
///
/// # Errors
/// When it cannot be started. Its own failure is in the answer.
pub fn contain(cgroup: &str, argv: &[String], root: Option<&Root>) -> Result<Contained> {
    cgroup::make(cgroup)?;
    // Opened before the cgroup file system goes out of sight.
    let (inside, home) = (Door::to(cgroup)?, Door::to(&cgroup::own()?)?);
    let null = null()?;
    let mut pid_file = None;
    if let Some(root) = root {
        std::fs::create_dir_all(&root.state).with_context(|| format!("making {}", root.state))?;
        // Made before the root changes; empty until the program runs.
        let path = format!("{}/pid", root.state);
        pid_file = Some(File::create(&path).with_context(|| format!("making {path}"))?);
        change_root(root)?;
    }
    // This process goes in, forks, and comes out: the child is there from its first instant.
    inside.enter()?;
    let child = command(argv)?.stdin(null.try_clone()?).stdout(null).spawn();
    home.enter()?;
    let mut child = child.with_context(|| format!("cannot execute {}", argv.join(" ")))?;
    let pid = child.id();
    if let Some(mut file) = pid_file {
        writeln!(file, "{pid}").context("writing down the process id")?;
    }
    Ok(Contained {
        pid,
        code: child.wait()?.code(),
    })
}

/// Runs a program to its end in another process' mount namespace and in a cgroup.
///
/// # Errors
/// When it cannot be started. Its own failure is in the answer.
pub fn enter(pid: u32, cgroup: &str, argv: &[String]) -> Result<Executed> {
    let (inside, home) = (Door::to(cgroup)?, Door::to(&cgroup::own()?)?);
    let null = null()?;
    let namespace = format!("/proc/{pid}/ns/mnt");
    let file = File::open(&namespace).with_context(|| format!("cannot open {namespace}"))?;
    setns(file, CloneFlags::CLONE_NEWNS).with_context(|| format!("cannot enter {namespace}"))?;
    inside.enter()?;
    let child = command(argv)?
        .stdin(null)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    home.enter()?;
    let output = child
        .with_context(|| format!("cannot execute {}", argv.join(" ")))?
        .wait_with_output()?;
    Ok(Executed {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Starts a container in each of these cgroups, one right after the other, each with an overlay of its own
/// over one image; each maps the image's libraries. Waits for all.
///
/// # Errors
/// When one cannot be started or fails.
pub fn start_at_once(dir: &Path, libraries: u32, cgroups: &[String]) -> Result<()> {
    const PROGRAM: &str = "/start";
    const LIBRARIES: &str = "/lib";
    let own = std::env::current_exe().context("this program's path")?;
    let lower = dir.join("image");
    let of_image = |path: &str| lower.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(&lower).with_context(|| format!("making {}", lower.display()))?;
    std::fs::copy(&own, of_image(PROGRAM)).context("copying this program")?;
    for number in 0..libraries {
        let at = of_image(LIBRARIES).join(number.to_string());
        write_program(&at, &elf::exit(0, &format!("library {number}")))?;
    }
    let map = serde_json::to_string(&Workload::MapAll {
        dir: LIBRARIES.to_owned(),
    })?;
    let mut started = Vec::new();
    for (number, cgroup) in cgroups.iter().enumerate() {
        let contain = Workload::Contain {
            cgroup: cgroup.clone(),
            argv: [PROGRAM, "workload", &map].map(str::to_owned).to_vec(),
            root: Some(Root {
                lower: lower.display().to_string(),
                state: dir.join(number.to_string()).display().to_string(),
                mounts: Vec::new(),
            }),
        };
        let child = Command::new(&own)
            .args(["workload", &serde_json::to_string(&contain)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a container")?;
        started.push(child);
    }
    for child in started {
        let output = child.wait_with_output().context("waiting for a container")?;
        ensure!(output.status.success(), "a container: {}", output.status);
        let ended: Contained = serde_json::from_slice(&output.stdout).context("what a container said")?;
        ensure!(ended.code == Some(0), "a container's program: {ended:?}");
    }
    Ok(())
}

/// Makes an overlay of the image the root of this process, in a mount namespace of its own.
fn change_root(root: &Root) -> Result<()> {
    const NONE: Option<&str> = None;
    let state = Path::new(&root.state);
    let (upper, work, merged) = (state.join("upper"), state.join("work"), state.join("merged"));
    for dir in [&upper, &work, &merged] {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    // A comma or a colon would end an option of overlayfs.
    ensure!(
        !format!("{}{}", root.lower, root.state).contains([',', ':']),
        "a path with a comma or a colon"
    );
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("cannot make mounts private")?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        root.lower,
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .context("cannot mount the overlay")?;
    let proc = merged.join("proc");
    std::fs::create_dir_all(&proc).context("making /proc in the container")?;
    mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), NONE)
        .context("cannot mount /proc in the container")?;
    for bind in &root.mounts {
        let target = merged.join(bind.container.trim_start_matches('/'));
        std::fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
        mount(Some(bind.host.as_str()), &target, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("cannot mount {} in the container", bind.host))?;
        if bind.read_only {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(NONE, &target, NONE, flags, NONE)
                .with_context(|| format!("making {} read-only", bind.host))?;
        }
    }
    // The new root becomes the mount namespace's own, so that the kernel's absolute paths begin there.
    std::env::set_current_dir(&merged).context("entering the new root")?;
    nix::unistd::pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot detach the old root")?;
    std::env::set_current_dir("/").context("entering the new root")
}
