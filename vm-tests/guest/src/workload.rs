//! Processes for scenarios: each does one thing that the kernel records, and writes down what it did as it
//! saw it.
//!
//! Promises: the answer is one line of JSON on standard output, made from /proc and from the files
//! themselves, never from what a collector says, so that a test can hold the two against each other. Not
//! here: what is expected.

use crate::channel::PATIENCE;
use crate::{
    workload_cgroup as cgroup, workload_container as container, workload_flood as flood,
    workload_guard as guard, workload_kexec as kexec, workload_memory as memory, workload_pod as pod,
    workload_quotes as quotes, workload_rights as rights, workload_serve as serve, workload_timed as timed,
    workload_tpm as tpm,
};
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::personality::{self, Persona};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_protocol::spec::{Burst, BurstRun, ChainLink, Process, Workload};

/// Processes in a chain.
const CHAIN: u32 = 5;
/// The link that is started through a `#!` line.
const SCRIPT: u32 = 3;

/// Does what the last argument, a [`Workload`] as JSON, says.
///
/// The last one, since the kernel puts a script's own path before the arguments that it was started with.
///
/// # Errors
/// When the workload cannot be done as described: a test must not go on then.
pub fn run(arguments: &[String]) -> Result<()> {
    let text = arguments
        .last()
        .context("guest workload takes one workload as JSON")?;
    let workload: Workload = serde_json::from_str(text).with_context(|| format!("not a workload: {text}"))?;
    match workload {
        Workload::Contain { cgroup, argv, root } => {
            print(&container::contain(&cgroup, &argv, root.as_ref())?)
        }
        Workload::Enter { pid, cgroup, argv } => print(&container::enter(pid, &cgroup, &argv)?),
        Workload::Chain { dir } => print(&chain(Path::new(&dir))?),
        Workload::ChainStep { dir, level } => chain_step(Path::new(&dir), level, arguments),
        Workload::AnonymousExec => memory::anonymous(),
        Workload::CodeInMemory { file, argv } => print(&memory::without_file(Path::new(&file), &argv)?),
        Workload::WritableCode { files } => print(&memory::in_writable_mappings(&files)?),
        Workload::HoldMapping { file, outcome } => {
            let _mapped = memory::mapped(&File::open(&file)?)?;
            std::fs::write(&outcome, "").with_context(|| format!("cannot write {outcome}"))?;
            loop {
                std::thread::park();
            }
        }
        Workload::MapAll { dir } => map_all(Path::new(&dir)),
        Workload::StartAtOnce {
            dir,
            libraries,
            cgroups,
        } => container::start_at_once(Path::new(&dir), libraries, &cgroups),
        Workload::PageZero { dir } => page_zero(Path::new(&dir)),
        Workload::Burst { dir, count, cgroups } => print(&burst(Path::new(&dir), count, &cgroups)?),
        Workload::Vanish { dir, cgroup } => print(&vanish(Path::new(&dir), &cgroup)?),
        Workload::LateMapping { dir } => {
            let (path, answer) = fresh(Path::new(&dir), "late-mapping")?;
            memory::map_then_protect(&File::open(&path)?)?;
            print(&answer)
        }
        Workload::Loaded => print(&guard::loaded()?),
        Workload::Attack { pins, pid } => print(&guard::attack(Path::new(&pins), pid)?),
        Workload::Reach { pins, pid, uid } => print(&pod::reach(Path::new(&pins), pid, uid)?),
        Workload::Passed { pins, cgroup, uid } => print(&pod::passed(Path::new(&pins), &cgroup, uid)?),
        Workload::Imitate { other, argv, uid } => print(&pod::imitate(Path::new(&other), &argv, uid)?),
        Workload::Nest { levels, length, argv } => pod::nest(levels, length, &argv),
        Workload::Thread { file, argv } => pod::thread(Path::new(&file), &argv),
        Workload::CloneInto { dir, argv } => print(&rights::clone_into(Path::new(&dir), &argv)?),
        Workload::Inject { container, collector } => print(&rights::inject(&container, collector)?),
        Workload::Plant { root, path, idle } => print(&rights::plant(&root, &path, Path::new(&idle))?),
        Workload::Flood {
            library,
            program,
            outcome,
            threads,
            mappings,
            denials,
        } => flood::flood(
            [&library, &program, &outcome].map(Path::new),
            threads,
            mappings,
            denials,
        ),
        Workload::Tpm { commands } => print(&tpm::send(&commands)?),
        Workload::LoadKernel { image, command_line } => kexec::load(Path::new(&image), &command_line),
        Workload::InsertBytes { module } => kexec::insert_bytes(&std::fs::read(module)?),
        Workload::KexecBytes => kexec::unload_bytes(),
        Workload::MapAgain { file, outcome } => {
            let new = format!("{outcome}.new");
            loop {
                let errno = match memory::map_executable(&File::open(&file)?) {
                    Ok(()) => 0,
                    Err(error) => error
                        .downcast_ref::<nix::errno::Errno>()
                        .map(|errno| *errno as i32)
                        .ok_or(error)?,
                };
                std::fs::write(&new, errno.to_string())?;
                std::fs::rename(&new, &outcome)?;
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        }
        Workload::OpenWriters { dir } => {
            let (path, answer) = fresh(Path::new(&dir), "open-writers")?;
            let _writer = OpenOptions::new().write(true).open(&path)?;
            memory::map_executable(&File::open(&path)?)?;
            print(&answer)
        }
        Workload::Execs { dir, count } => print(&timed::execs(Path::new(&dir), count)?),
        Workload::Fill { dir, execs, mappings } => timed::fill(Path::new(&dir), execs, mappings),
        Workload::Crowd {
            dir,
            cgroup,
            threads,
            quota_us,
        } => timed::crowd(Path::new(&dir), &cgroup, threads, quota_us),
        Workload::Drip {
            dir,
            cgroup,
            pause_ms,
        } => timed::drip(Path::new(&dir), &cgroup, pause_ms),
        Workload::Attest { socket, count } => print(&timed::attest(Path::new(&socket), count)?),
        Workload::Quotes {
            device,
            head,
            key,
            tail,
        } => quotes::answer(Path::new(&device), &head, &key, &tail),
        Workload::Programs { pins } => print(&timed::programs(Path::new(&pins))?),
        Workload::Memfd => print(&memfd()?),
        Workload::MapHollow { mib } => {
            let file = File::from(memfd_create(c"hollow", MFdFlags::empty()).context("memfd_create")?);
            file.set_len(mib << 20).context("ftruncate")?;
            (0..2).try_for_each(|_| memory::map_executable(&file))
        }
        Workload::MapLayered { dir } => {
            let dir = Path::new(&dir);
            let (below, answer) = fresh(&dir.join("below"), "layered")?;
            let at = pod::overlay(dir)?.join(below.file_name().context("a file's name")?);
            memory::map_executable(&File::open(&at)?)?;
            let path = at.display().to_string();
            print(&BurstRun { path, ..answer })
        }
        Workload::Serve { file } => serve::serve(Path::new(&file)),
        Workload::TomTou { dir } => {
            let (path, answer) = fresh(Path::new(&dir), "tomtou")?;
            let reader = File::open(&path)?;
            memory::map_executable(&reader)?;
            let _writer = OpenOptions::new().write(true).open(&path)?;
            print(&answer)
        }
    }
}

fn print<T: serde::Serialize>(answer: &T) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}

/// Writes an executable file and closes it, so that it can be executed at once.
///
/// # Errors
/// When it cannot be written.
pub fn write_program(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // A new inode each time: what IMA knows of an old one must not matter.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(path)?
            .write_all(bytes)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A new file with content that no other file has, and what a test has to know of it.
fn fresh(dir: &Path, name: &str) -> Result<(PathBuf, BurstRun)> {
    let path = dir.join(format!("{name}-{}", std::process::id()));
    let bytes = elf::exit(
        0,
        &format!("{name} {} {:?}", std::process::id(), std::time::SystemTime::now()),
    );
    write_program(&path, &bytes)?;
    let answer = BurstRun {
        path: path.display().to_string(),
        sha256: hex::encode(Sha256::digest(&bytes)),
        cgroup: cgroup::own()?,
    };
    Ok((path, answer))
}

fn map_all(dir: &Path) -> Result<()> {
    let files = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for file in files {
        memory::map_executable(&File::open(file?.path())?)?;
    }
    Ok(())
}

/// Runs a program that no file system holds.
fn memfd() -> Result<BurstRun> {
    let bytes = elf::exit(0, &format!("memfd {:?}", std::time::SystemTime::now()));
    let mut file = File::from(memfd_create(c"payload", MFdFlags::empty()).context("memfd_create")?);
    file.write_all(&bytes).context("writing to the memfd")?;
    let at = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    silently(Path::new(&at))?;
    let target = std::fs::read_link(&at).with_context(|| format!("cannot read {at}"))?;
    Ok(BurstRun {
        path: target.display().to_string(),
        sha256: hex::encode(Sha256::digest(&bytes)),
        cgroup: cgroup::own()?,
    })
}

/// Runs a program to its end, silently.
///
/// # Errors
/// When it cannot be started or fails.
pub fn silently(path: &Path) -> Result<()> {
    let status = Command::new(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot execute {}", path.display()))?;
    ensure!(status.success(), "{} ended with {status}", path.display());
    Ok(())
}

fn chain(dir: &Path) -> Result<Vec<ChainLink>> {
    let own = std::fs::read("/proc/self/exe").context("cannot read /proc/self/exe")?;
    for level in 1..=CHAIN {
        // The same program with a trailer: files of their own, each with its own hash.
        let mut bytes = own.clone();
        bytes.extend(format!("link {level}").bytes());
        write_program(&dir.join(format!("link{level}")), &bytes)?;
    }
    let script = format!("#!{} workload\n", dir.join(format!("link{SCRIPT}")).display());
    // The kernel cuts a longer first line (BINPRM_BUF_SIZE).
    ensure!(
        script.len() < 256,
        "the chain's directory has too long a path for a #! line"
    );
    write_program(&dir.join("script"), script.as_bytes())?;
    start_link(dir, 1)?;
    (1..=CHAIN)
        .map(|level| {
            let path = dir.join(format!("{level}.json"));
            let text = std::fs::read(&path).with_context(|| format!("link {level} wrote nothing down"))?;
            serde_json::from_slice(&text).with_context(|| format!("what link {level} wrote down"))
        })
        .collect()
}

fn start_link(dir: &Path, level: u32) -> Result<()> {
    let step = serde_json::to_string(&Workload::ChainStep {
        dir: dir.display().to_string(),
        level,
    })?;
    let mut command = if level == SCRIPT {
        // The #! line already says `workload`.
        Command::new(dir.join("script"))
    } else {
        let mut command = Command::new(dir.join(format!("link{level}")));
        command.arg("workload");
        command
    };
    let status = command
        .arg(step)
        .status()
        .with_context(|| format!("cannot start link {level}"))?;
    ensure!(status.success(), "link {level} of the chain ended with {status}");
    Ok(())
}

fn chain_step(dir: &Path, level: u32, arguments: &[String]) -> Result<()> {
    let started_as = match arguments {
        [script, _] => script.clone(),
        _ => std::env::args().next().unwrap_or_default(),
    };
    let mut lineage = Vec::new();
    let mut pid = std::process::id();
    while pid != 0 {
        let (process, parent) = look(pid)?;
        lineage.push(process);
        pid = parent;
    }
    let link = ChainLink {
        level,
        started_as,
        lineage,
    };
    let path = dir.join(format!("{level}.json"));
    std::fs::write(&path, serde_json::to_vec(&link)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    if level < CHAIN {
        start_link(dir, level + 1)
    } else {
        Ok(())
    }
}

/// A process as /proc shows it, and its parent's id.
fn look(pid: u32) -> Result<(Process, u32)> {
    let at = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&at).with_context(|| format!("cannot read {at}"))?;
    // The name in parentheses may hold blanks and parentheses itself: count from the last one.
    let (_, rest) = stat
        .rsplit_once(") ")
        .with_context(|| format!("{at} has no name in parentheses"))?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // Fields 4 and 22 of proc(5), counted from 1; `rest` begins with field 3.
    let (Some(parent), Some(start)) = (fields.get(1), fields.get(19)) else {
        bail!("{at} has only {} fields", fields.len() + 2);
    };
    let exe = format!("/proc/{pid}/exe");
    let target = std::fs::read_link(&exe).with_context(|| format!("cannot read {exe}"))?;
    let metadata = std::fs::metadata(&exe).with_context(|| format!("cannot look at {exe}"))?;
    let dev = metadata.dev();
    let process = Process {
        pid,
        start_ticks: start.parse().with_context(|| format!("field 22 of {at}"))?,
        exe: target.display().to_string(),
        dev: (nix::sys::stat::major(dev) << 20) | nix::sys::stat::minor(dev),
        ino: metadata.ino(),
    };
    Ok((
        process,
        parent.parse().with_context(|| format!("field 4 of {at}"))?,
    ))
}

/// How /proc/PID/maps shows page zero under `MMAP_PAGE_ZERO`.
const PAGE_ZERO: &str = "00000000-00001000 r-xp";

fn page_zero(dir: &Path) -> Result<()> {
    let path = dir.join("page-zero");
    write_program(&path, &elf::pause("page zero"))?;
    let before = personality::get()?;
    personality::set(before | Persona::MMAP_PAGE_ZERO)?;
    let child = Command::new(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    personality::set(before)?;
    let mut child = child.with_context(|| format!("cannot execute {}", path.display()))?;
    let maps = format!("/proc/{}/maps", child.id());
    // The new program's mappings are made after `spawn` has returned.
    let begin = Instant::now();
    let mut first = String::new();
    while !first.starts_with(PAGE_ZERO) && begin.elapsed() < PATIENCE {
        let text = std::fs::read_to_string(&maps).with_context(|| format!("cannot read {maps}"))?;
        first = text.lines().next().unwrap_or_default().to_owned();
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    ensure!(
        first.starts_with(PAGE_ZERO),
        "the kernel did not map page zero executable; the first mapping is {first:?}"
    );
    Ok(())
}

fn burst(dir: &Path, count: u32, cgroups: &[String]) -> Result<Burst> {
    ensure!(!cgroups.is_empty(), "a burst needs at least one cgroup");
    let share = count.div_ceil(cgroups.len() as u32).max(1);
    let mut runs = Vec::new();
    for i in 0..count {
        let path = dir.join(format!("program-{i}"));
        let bytes = elf::exit(0, &format!("{} {i}", dir.display()));
        write_program(&path, &bytes)?;
        runs.push(BurstRun {
            path: path.display().to_string(),
            sha256: hex::encode(Sha256::digest(&bytes)),
            cgroup: cgroups[(i / share) as usize].clone(),
        });
    }
    for cgroup in cgroups {
        cgroup::make(cgroup)?;
    }
    let home = cgroup::own()?;
    let begin = Instant::now();
    let mut current = home.as_str();
    for run in &runs {
        // Moving takes the kernel a grace period of RCU: only where needed.
        if run.cgroup != current {
            cgroup::enter(&run.cgroup)?;
            current = &run.cgroup;
        }
        silently(Path::new(&run.path))?;
    }
    let millis = begin.elapsed().as_millis() as u64;
    cgroup::enter(&home)?;
    Ok(Burst { runs, millis })
}

fn vanish(dir: &Path, cgroup: &str) -> Result<BurstRun> {
    let (path, mut answer) = fresh(dir, "vanish")?;
    answer.cgroup = cgroup.to_owned();
    let ended = container::contain(cgroup, &[answer.path.clone()], None)?;
    cgroup::remove(cgroup)?;
    ensure!(
        ended.code == Some(0),
        "{} ended with {:?}",
        path.display(),
        ended.code
    );
    Ok(answer)
}
