//! What the records say, and what is known to be true: from files, `/proc` and the measurement list.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cgpath_evidence::{Bank, Digest, EventKind};
use cgpathd::bpf::Ring;
use cgpathd::decode::{Body, EntryEvent, Event, FileEvent, TaskInfo, decode, record_len};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Takes all records that wait, until none has come for a while.
pub fn drain(ring: &mut Ring) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(400) {
        match ring.next() {
            Some(item) => {
                let len = record_len(&item).context("a record's length")?;
                let raw = Bytes::copy_from_slice(&item[..len]);
                events.push(decode(&raw).with_context(|| format!("record {}", hex::encode(&raw)))?);
                quiet = Instant::now();
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(events)
}

pub fn sha256(path: &Path) -> Result<Digest> {
    Ok(Bank::Sha256.hash(&[&fs::read(path)?]))
}

/// `major << 20 | minor`, as the kernel has it inside.
pub fn kernel_dev(path: &Path) -> Result<u64> {
    let dev = fs::metadata(path)?.dev();
    Ok(nix::sys::stat::major(dev) << 20 | nix::sys::stat::minor(dev))
}

pub fn files<'a>(events: &'a [Event], kind: EventKind, path: &Path) -> Vec<&'a FileEvent> {
    events
        .iter()
        .filter_map(|e| match &e.body {
            Body::File(f) if f.kind == kind && f.path == path.as_os_str().as_bytes() => Some(f),
            _ => None,
        })
        .collect()
}

pub fn one<'a>(events: &'a [Event], kind: EventKind, path: &Path) -> Result<&'a FileEvent> {
    let found = files(events, kind, path);
    ensure!(
        found.len() == 1,
        "{} records of {kind:?} {}: {found:?}",
        found.len(),
        path.display()
    );
    Ok(found[0])
}

pub fn entries<'a>(events: &'a [Event], name: &Path) -> Vec<&'a EntryEvent> {
    events
        .iter()
        .filter_map(|e| match &e.body {
            Body::Entry(entry) if entry.name == name.as_os_str().as_bytes() => Some(entry),
            _ => None,
        })
        .collect()
}

fn start_ns(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').context("stat")?.1;
    // Field 22 of the whole is the 20th after the name; in clock ticks of 10 ms.
    Ok(after
        .split_whitespace()
        .nth(19)
        .context("starttime")?
        .parse::<u64>()?
        * 10_000_000)
}

pub fn check_task(task: &TaskInfo, pid: u32, above: &[u32]) -> Result<()> {
    let tgids: Vec<u32> = task.ancestors.iter().map(|a| a.tgid).collect();
    let want: Vec<u32> = std::iter::once(pid).chain(above.iter().copied()).collect();
    ensure!(tgids == want, "ancestry {tgids:?}, should be {want:?}");
    for key in &task.ancestors[1..] {
        let proc = start_ns(key.tgid)?;
        ensure!(
            key.start_ns / 10_000_000 * 10_000_000 == proc,
            "start of {}: {} {proc}",
            key.tgid,
            key.start_ns
        );
    }
    ensure!(
        !task.ancestry_cut && !task.ancestry_unstable && !task.read_failed,
        "flags: {task:?}"
    );
    let ns = |kind: &str| Ok::<_, anyhow::Error>(fs::metadata(format!("/proc/self/ns/{kind}"))?.ino());
    ensure!(u64::from(task.mnt_ns) == ns("mnt")?, "mnt_ns {}", task.mnt_ns);
    ensure!(u64::from(task.pid_ns) == ns("pid")?, "pid_ns {}", task.pid_ns);
    ensure!(task.uid == 0, "uid {}", task.uid);
    Ok(())
}

/// Pids of this process and its parents.
pub fn ancestors_of_me() -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    let mut pid = std::process::id();
    while pid != 0 {
        pids.push(pid);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        pid = stat
            .rsplit_once(')')
            .context("stat")?
            .1
            .split_whitespace()
            .nth(1)
            .context("ppid")?
            .parse()?;
    }
    Ok(pids)
}

/// Whether an entry's SHA-1 template digest stands in the list, by the kernel's own text form.
pub fn in_list(entry: &EntryEvent) -> Result<()> {
    let list = fs::read("/sys/kernel/security/ima/ascii_runtime_measurements")?;
    let sha1 = entry
        .digests
        .iter()
        .find(|d| d.bank() == Bank::Sha1)
        .context("no SHA-1 digest")?;
    let line = format!(" {} ", hex::encode(sha1.bytes()));
    ensure!(
        list.windows(line.len()).any(|w| w == line.as_bytes()),
        "{line} is not in the list"
    );
    for digest in &entry.digests {
        let file = format!(
            "/sys/kernel/security/ima/ascii_runtime_measurements_{}",
            digest.bank()
        );
        if let Ok(list) = fs::read(file) {
            let line = format!(" {} ", hex::encode(digest.bytes()));
            ensure!(
                list.windows(line.len()).any(|w| w == line.as_bytes()),
                "{line} is not in its bank's list"
            );
        }
    }
    println!(
        "  banks of an entry: {:?}, others {:?}",
        banks(entry),
        entry.other_banks
    );
    Ok(())
}

fn banks(entry: &EntryEvent) -> Vec<Bank> {
    entry.digests.iter().map(Digest::bank).collect()
}
