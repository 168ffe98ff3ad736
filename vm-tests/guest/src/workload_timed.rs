//! Workloads of benchmarks: the clock stands in the guest, so that the command channel's way is in no figure.
//!
//! Promises: what is made ready for a measurement is made before its clock starts; nothing is judged here.
//! Not here: what runs beside a measurement, and what follows from it (`vm-tests`).

use crate::tpm::Tpm;
use crate::workload::{silently, write_program};
use crate::{workload_cgroup as cgroup, workload_guard as guard, workload_memory as memory};
use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_protocol::spec::{Attested, Program, Timed};

fn nanos(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Content that no file had before, in this boot or in this directory.
fn new_program(number: u32) -> Vec<u8> {
    let now = std::time::SystemTime::now();
    elf::exit(0, &format!("{} {number} {now:?}", std::process::id()))
}

/// Times executions of one known file, then of new files.
///
/// # Errors
/// When a file cannot be written or executed.
pub fn execs(dir: &Path, count: u32) -> Result<Timed> {
    let known = dir.join("known");
    write_program(&known, &new_program(0))?;
    let new: Vec<_> = (1..=count).map(|i| dir.join(format!("new-{i}"))).collect();
    for (number, path) in (1..).zip(&new) {
        write_program(path, &new_program(number))?;
    }
    // What was just written goes to the disk before, not meanwhile.
    nix::unistd::sync();
    silently(&known)?;
    let time = |path: &Path| -> Result<u64> {
        let begin = Instant::now();
        silently(path)?;
        Ok(nanos(begin))
    };
    let timed = Timed {
        known: (0..count).map(|_| time(&known)).collect::<Result<_>>()?,
        new: new.iter().map(|path| time(path)).collect::<Result<_>>()?,
    };
    std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    Ok(timed)
}

/// Executes new programs, then maps new files executable.
///
/// # Errors
/// When a file cannot be written, executed or mapped.
pub fn fill(dir: &Path, execs: u32, mappings: u32) -> Result<()> {
    let path = dir.join("file");
    for number in 0..execs {
        write_program(&path, &new_program(number))?;
        silently(&path)?;
    }
    for number in execs..execs.saturating_add(mappings) {
        write_program(&path, &new_program(number))?;
        memory::map_executable(&File::open(&path)?)?;
    }
    std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
}

/// Threads of a cgroup that has hardly any time, each of which maps new files, until this process is ended.
///
/// # Errors
/// When the cgroup cannot be had, or a file cannot be written or mapped.
pub fn crowd(dir: &Path, cgroup: &str, threads: u32, quota_us: u32) -> Result<()> {
    cgroup::make(cgroup)?;
    cgroup::limit(cgroup, quota_us)?;
    // All of them begin before the quota counts.
    let start = Barrier::new(threads as usize + 1);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for thread in 0..threads {
            let (path, start) = (dir.join(format!("file-{thread}")), &start);
            write_program(&path, &new_program(thread))?;
            let work = move || -> Result<()> {
                start.wait();
                loop {
                    memory::map_executable(&File::open(&path)?)?;
                    write_program(&path, &new_program(thread))?;
                }
            };
            let builder = std::thread::Builder::new().stack_size(128 << 10);
            running.push(builder.spawn_scoped(scope, work).context("starting a thread")?);
        }
        cgroup::enter(cgroup)?;
        start.wait();
        println!("{threads} threads");
        for thread in running {
            match thread.join() {
                Ok(ended) => ended?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })
}

/// Executes new programs in a cgroup until this process is ended.
///
/// # Errors
/// When the cgroup cannot be had, or a program cannot be written or executed.
pub fn drip(dir: &Path, cgroup: &str, pause_ms: u64) -> Result<()> {
    cgroup::make(cgroup)?;
    cgroup::enter(cgroup)?;
    for number in 0.. {
        let path = dir.join(format!("program-{number}"));
        write_program(&path, &new_program(number))?;
        silently(&path)?;
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    Ok(())
}

/// Times bare rounds and a collector's, in turn.
///
/// # Errors
/// When the TPM or the collector refuses.
pub fn attest(socket: &Path, count: u32) -> Result<Attested> {
    // Two openings: the resource manager swaps the key for each command of the one that has it, and the
    // kernel's own extension, which this stands for, has none.
    let (mut extending, mut quoting) = (Tpm::open()?, Tpm::open()?);
    let digests = extending.banks()?;
    let key = quoting.signing_key()?;
    let mut attested = Attested {
        extend: Vec::new(),
        quote: Vec::new(),
        round: Vec::new(),
        evidence: 0,
    };
    // The first of each is not counted.
    for number in 0..=count {
        let nonce: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
        let begin = Instant::now();
        extending.extend(&digests)?;
        let extended = nanos(begin);
        let begin = Instant::now();
        quoting.quote(key, &nonce)?;
        let quoted = nanos(begin);
        let begin = Instant::now();
        let bytes = evidence(socket, &nonce)?;
        if number > 0 {
            attested.round.push(nanos(begin));
            attested.extend.push(extended);
            attested.quote.push(quoted);
            attested.evidence = bytes;
        }
    }
    Ok(attested)
}

/// Asks a collector for evidence and reads all of it; gives its length.
fn evidence(socket: &Path, nonce: &[u8]) -> Result<u64> {
    #[derive(serde::Deserialize)]
    struct Answer {
        length: Option<u64>,
        message: Option<String>,
    }
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    writeln!(
        &stream,
        "{}",
        serde_json::json!({ "ask": "evidence", "nonce": hex::encode(nonce) })
    )?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let answer: Answer = serde_json::from_str(&line).with_context(|| format!("the answer {line:?}"))?;
    let Some(length) = answer.length else {
        bail!("no evidence: {}", answer.message.unwrap_or(line));
    };
    let read = std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    ensure!(read == length, "{read} of {length} bytes of evidence");
    Ok(length)
}

/// The pinned programs of a directory and what their verification took.
///
/// # Errors
/// When there are none, or one cannot be looked at.
pub fn programs(pins: &Path) -> Result<Vec<Program>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(pins).with_context(|| format!("reading {}", pins.display()))? {
        let path = entry?.path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("prog_"))
        else {
            continue;
        };
        let program = guard::by_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        // Source: kernel/bpf/syscall.c, bpf_prog_show_fdinfo.
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
        let instructions = info
            .lines()
            .find_map(|line| line.strip_prefix("verified_insns:")?.trim().parse().ok())
            .with_context(|| format!("this kernel does not tell verified_insns of {name}"))?;
        found.push(Program {
            name: name.to_owned(),
            instructions,
        });
    }
    ensure!(!found.is_empty(), "no program is pinned in {}", pins.display());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
