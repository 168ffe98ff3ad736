//! Proves the eBPF programs and their loader on a running kernel, in a throw-away guest: it loads them, makes things
//! happen, and compares what the records say with what it knows to be true.
//!
//! `bpf_selftest OBJECT [v1]`, as root, with IMA measuring executions (`ima_policy=tcb`) and securityfs mounted. Prints one
//! line a check; exit status 1 if any failed. Needs `/bin/busybox` and a disk file system at the working directory.

#![allow(unsafe_code, reason = "mappings are made, to see whether they are recorded")]

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cgpath_evidence::{Bank, Digest, EventKind, FileHash};
use cgpathd::bpf::{
    Adopted, Bpf, Error, Options, Ring,
    decode::{Body, CgroupChange, EntryEvent, Event, FileEvent, TaskInfo, decode, record_len},
    unload,
};
use std::os::fd::AsRawFd;
use std::os::unix::{ffi::OsStrExt, fs::MetadataExt, fs::PermissionsExt, process::CommandExt};
use std::{
    ffi::CString,
    fs,
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[1..] {
        ["work", "anonymous"] => anonymous(),
        ["work", "page-zero", program] => page_zero(program),
        ["work", "late", file] => late(Path::new(file)),
        ["work", "memfd", file] => memfd(Path::new(file)),
        [object] => return selftest(object, false),
        [object, "v1"] => return selftest(object, true),
        _ => {
            eprintln!("usage: bpf_selftest OBJECT [v1]");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

// What the child processes do.

fn map(len: usize, file: Option<&fs::File>) -> Result<*mut u8> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};
    let len = NonZeroUsize::new(len).context("an empty mapping")?;
    // SAFETY: new mappings at addresses of the kernel's choice.
    let at = unsafe {
        match file {
            Some(file) => mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0),
            None => mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_EXEC,
                MapFlags::MAP_PRIVATE,
            ),
        }
    }?;
    Ok(at.as_ptr().cast())
}

fn anonymous() -> Result<()> {
    for _ in 0..100 {
        map(4096, None)?;
    }
    Ok(())
}

fn page_zero(program: &str) -> Result<()> {
    use nix::sys::personality::{Persona, get, set};
    set(get()? | Persona::MMAP_PAGE_ZERO)?;
    bail!(Command::new(program).arg("true").exec())
}

fn late(file: &Path) -> Result<()> {
    use nix::sys::mman::{ProtFlags, mprotect};
    let at = map(4096, Some(&fs::File::open(file)?))?;
    let at = std::ptr::NonNull::new(at.cast()).context("mapped at 0")?;
    // SAFETY: our own mapping, which nobody else uses.
    unsafe { mprotect(at, 4096, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) }?;
    Ok(())
}

fn memfd(file: &Path) -> Result<()> {
    let fd = nix::sys::memfd::memfd_create(c"secret", nix::sys::memfd::MFdFlags::empty())?;
    let mut memory = fs::File::from(fd);
    memory.write_all(&fs::read(file)?)?;
    let args = [CString::new("true")?];
    nix::unistd::execv(
        &CString::new(format!("/proc/self/fd/{}", memory.as_raw_fd()))?,
        &args,
    )?;
    Ok(())
}

// The checks.

/// New scripts that four threads run at once.
const BURST: usize = 400;

struct Check {
    failed: usize,
    passed: usize,
}

impl Check {
    fn run(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        match check() {
            Ok(()) => {
                self.passed += 1;
                println!("PASS {name}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {name}: {error:#}");
            }
        }
    }
}

fn selftest(object: &str, v1: bool) -> ExitCode {
    let mut check = Check { failed: 0, passed: 0 };
    match session(object, v1, &mut check) {
        Ok(()) => {}
        Err(error) => {
            check.failed += 1;
            println!("FAIL session: {error:#}");
        }
    }
    println!("{} passed, {} failed", check.passed, check.failed);
    if check.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Takes all records that wait, until none has come for a while.
fn drain(ring: &mut Ring) -> Result<Vec<Event>> {
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

fn run(program: &Path, args: &[&str]) -> Result<u32> {
    let mut child = Command::new(program)
        .args(args)
        .spawn()
        .with_context(|| format!("{}", program.display()))?;
    let pid = child.id();
    let status = child.wait()?;
    ensure!(status.success(), "{} {args:?}: {status}", program.display());
    Ok(pid)
}

fn sha256(path: &Path) -> Result<Digest> {
    Ok(Bank::Sha256.hash(&[&fs::read(path)?]))
}

/// `major << 20 | minor`, as the kernel has it inside.
fn kernel_dev(path: &Path) -> Result<u64> {
    let dev = fs::metadata(path)?.dev();
    Ok(nix::sys::stat::major(dev) << 20 | nix::sys::stat::minor(dev))
}

fn files<'a>(events: &'a [Event], kind: EventKind, path: &Path) -> Vec<&'a FileEvent> {
    events
        .iter()
        .filter_map(|e| match &e.body {
            Body::File(f) if f.kind == kind && f.path == path.as_os_str().as_bytes() => Some(f),
            _ => None,
        })
        .collect()
}

fn one<'a>(events: &'a [Event], kind: EventKind, path: &Path) -> Result<&'a FileEvent> {
    let found = files(events, kind, path);
    ensure!(
        found.len() == 1,
        "{} records of {kind:?} {}: {found:?}",
        found.len(),
        path.display()
    );
    Ok(found[0])
}

fn entries<'a>(events: &'a [Event], name: &Path) -> Vec<&'a EntryEvent> {
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

fn check_task(task: &TaskInfo, pid: u32, above: &[u32]) -> Result<()> {
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

fn program(path: &Path, tail: &[u8]) -> Result<()> {
    let mut bytes = fs::read("/bin/busybox")?;
    bytes.extend_from_slice(tail);
    fs::write(path, bytes)?;
    // Not opened for reading: IMA would measure that, too.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn session(object: &str, v1: bool, check: &mut Check) -> Result<()> {
    let object = fs::read(object).context(object.to_owned())?;
    let options = Options::new(&object);
    let me = std::env::current_exe()?;
    let dir = std::env::current_dir()?.join("work");
    fs::create_dir_all(&dir)?;
    let above = ancestors_of_me()?;

    let begin = Instant::now();
    let (mut bpf, adopted) = Bpf::load_or_adopt(&options)?;
    println!(
        "loaded in {:?}: {adopted:?}, hierarchy {:?}",
        begin.elapsed(),
        bpf.hierarchy()
    );
    for program in bpf.counters()?.programs {
        println!(
            "  {} (id {}): {} instructions verified",
            program.name, program.id, program.verified_instructions
        );
    }
    let mut ring = bpf.take_ring().context("no ring")?;
    drain(&mut ring)?;
    check.run(
        "a first load is fresh, and v1 is taken where v1 is in use",
        || {
            ensure!(
                adopted
                    == Adopted::Fresh {
                        removed_leftovers: false
                    }
            );
            ensure!(bpf.hierarchy().controller.is_some() == v1);
            ensure!(bpf.counters()?.all_attached(), "{:?}", bpf.counters()?);
            Ok(())
        },
    );

    let a = dir.join("busybox-a");
    program(&a, b"a")?;
    let pid = run(&a, &["true"])?;
    let events = drain(&mut ring)?;
    check.run(
        "an execution tells the file that runs, its hash, its path, its inode and its ancestry",
        || {
            let e = one(&events, EventKind::Execution, &a)?;
            ensure!(e.file_hash() == FileHash::Measured(sha256(&a)?), "{:?}", e.hash);
            ensure!(
                e.ino == fs::metadata(&a)?.ino() && e.dev == kernel_dev(&a)?,
                "{e:?}"
            );
            check_task(&e.task, pid, &above)
        },
    );
    check.run(
        "a new file's entry has digests that stand in the measurement list",
        || {
            let entries = entries(&events, &a);
            ensure!(
                entries.len() == 1 && entries[0].ret == 0 && entries[0].pcr == 10,
                "{entries:?}"
            );
            in_list(entries[0])?;
            ensure!(entries[0].ino == fs::metadata(&a)?.ino() && entries[0].dev == kernel_dev(&a)?);
            check_task(&entries[0].task, pid, &above)
        },
    );

    // The same name and content again, as another inode: as a second pod of the same image does.
    fs::remove_file(&a)?;
    program(&a, b"a")?;
    run(&a, &["true"])?;
    let events = drain(&mut ring)?;
    check.run(
        "the same template data from another inode is refused with EEXIST and recorded",
        || {
            let entries = entries(&events, &a);
            ensure!(entries.len() == 1 && entries[0].ret == -17, "{entries:?}");
            in_list(entries[0])
        },
    );
    run(&a, &["true"])?;
    let events = drain(&mut ring)?;
    check.run(
        "an inode that ran before makes no entry, but an execution with its hash",
        || {
            ensure!(entries(&events, &a).is_empty());
            let e = one(&events, EventKind::Execution, &a)?;
            ensure!(e.file_hash() == FileHash::Measured(sha256(&a)?), "{:?}", e.hash);
            Ok(())
        },
    );

    let s = dir.join("script");
    script(&s, "#!/bin/busybox sh\nexit 0\n")?;
    let pid = run(&s, &[])?;
    let events = drain(&mut ring)?;
    check.run(
        "a script gives the script's record and its interpreter's execution",
        || {
            let e = one(&events, EventKind::Script, &s)?;
            ensure!(e.file_hash() == FileHash::PreCheck(sha256(&s)?), "{:?}", e.hash);
            check_task(&e.task, pid, &above)?;
            let busybox = Path::new("/bin/busybox");
            let e = one(&events, EventKind::Execution, busybox)?;
            ensure!(
                e.file_hash() == FileHash::Measured(sha256(busybox)?),
                "{:?}",
                e.hash
            );
            check_task(&e.task, pid, &above)
        },
    );
    let outer = dir.join("outer-script");
    script(&outer, &format!("#!{}\n", s.display()))?;
    run(&outer, &[])?;
    let events = drain(&mut ring)?;
    check.run("a script run by a script gives both", || {
        one(&events, EventKind::Script, &outer)?;
        one(&events, EventKind::Script, &s)?;
        one(&events, EventKind::Execution, Path::new("/bin/busybox"))?;
        Ok(())
    });

    let dynamic = Path::new("/usr/bin/env");
    if dynamic.exists() {
        let pid = run(dynamic, &["-i"])?;
        let events = drain(&mut ring)?;
        check.run(
            "libraries and the loader of a dynamic program are mappings with their hash",
            || {
                one(&events, EventKind::Execution, dynamic)?;
                let libs: Vec<&FileEvent> = events
                    .iter()
                    .filter_map(|e| match &e.body {
                        Body::File(f)
                            if f.kind == EventKind::Mapping && f.path != dynamic.as_os_str().as_bytes() =>
                        {
                            Some(f)
                        }
                        _ => None,
                    })
                    .collect();
                ensure!(libs.len() >= 2, "{libs:?}");
                for lib in libs {
                    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&lib.path));
                    ensure!(lib.file_hash() == FileHash::PreCheck(sha256(&path)?), "{lib:?}");
                    check_task(&lib.task, pid, &above)?;
                }
                Ok(())
            },
        );
    } else {
        bail!("/usr/bin/env is needed, a dynamic program");
    }

    check.run(
        "anonymous executable mappings and page zero neither crash nor make records",
        || {
            let pid = run(&me, &["work", "anonymous"])?;
            run(&me, &["work", "page-zero", "/bin/busybox"])?;
            let events = drain(&mut ring)?;
            for event in &events {
                if let Body::File(f) = &event.body {
                    let own = f.path == me.as_os_str().as_bytes() || f.path == b"/bin/busybox"[..];
                    ensure!(own && !f.path.is_empty(), "{pid}: {f:?}");
                }
            }
            one(&events, EventKind::Execution, Path::new("/bin/busybox"))?;
            Ok(())
        },
    );

    check.run("a device mapped executable is recorded, unhashed", || {
        let zero = Path::new("/dev/zero");
        let file = fs::File::open(zero)?;
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let len = NonZeroUsize::new(4096).context("0")?;
        // SAFETY: a new mapping.
        unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_EXEC,
                MapFlags::MAP_PRIVATE,
                &file,
                0,
            )
        }?;
        let events = drain(&mut ring)?;
        ensure!(one(&events, EventKind::Mapping, zero)?.file_hash() == FileHash::Unhashed(0));
        Ok(())
    });

    check.run(
        "a mapping that turns executable later is recorded with its whole path, unhashed",
        || {
            let pid = run(&me, &["work", "late", &a.to_string_lossy()])?;
            let events = drain(&mut ring)?;
            let e = one(&events, EventKind::LateMapping, &a)?;
            ensure!(e.file_hash() == FileHash::Unhashed(0) && !e.path_cut, "{e:?}");
            ensure!(e.ino == fs::metadata(&a)?.ino() && e.dev == kernel_dev(&a)?);
            check_task(&e.task, pid, &above)?;
            let in_mount = Path::new("/tmp/late");
            fs::copy("/bin/busybox", in_mount)?;
            run(&me, &["work", "late", "/tmp/late"])?;
            one(&drain(&mut ring)?, EventKind::LateMapping, in_mount)?;
            let gone = dir.join("gone");
            fs::copy("/bin/busybox", &gone)?;
            let open = fs::File::open(&gone)?;
            fs::remove_file(&gone)?;
            run(
                &me,
                &[
                    "work",
                    "late",
                    &format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd()),
                ],
            )?;
            one(
                &drain(&mut ring)?,
                EventKind::LateMapping,
                &PathBuf::from(format!("{} (deleted)", gone.display())),
            )?;
            Ok(())
        },
    );

    check.run(
        "a memfd's execution is recorded with its hash and the kernel's name for it",
        || {
            run(&me, &["work", "memfd", "/bin/busybox"])?;
            let events = drain(&mut ring)?;
            let e = one(
                &events,
                EventKind::Execution,
                Path::new("/memfd:secret (deleted)"),
            )?;
            ensure!(
                e.file_hash() == FileHash::Measured(sha256(Path::new("/bin/busybox"))?),
                "{e:?}"
            );
            Ok(())
        },
    );

    check.run(
        "a tmpfs execution is recorded with its hash, whether IMA measures it (7.3) or leaves it out",
        || {
            let p = Path::new("/tmp/busybox-on-tmpfs");
            program(p, b"t")?;
            run(p, &["true"])?;
            let events = drain(&mut ring)?;
            ensure!(one(&events, EventKind::Execution, p)?.file_hash() == FileHash::Measured(sha256(p)?));
            Ok(())
        },
    );

    for len in [254, 255, 256, 257, 1000, 4000] {
        check.run(
            &format!("a path of {len} bytes is whole in every record about it"),
            || {
                let p = deep(&dir, len)?;
                program(&p, format!("{len}").as_bytes())?;
                run(&p, &["true"])?;
                let events = drain(&mut ring)?;
                let e = one(&events, EventKind::Execution, &p)?;
                ensure!(!e.path_cut && e.file_hash() == FileHash::Measured(sha256(&p)?));
                let entries = entries(&events, &p);
                ensure!(entries.len() == 1 && !entries[0].name_cut, "{entries:?}");
                run(&me, &["work", "late", &p.to_string_lossy()])?;
                ensure!(!one(&drain(&mut ring)?, EventKind::LateMapping, &p)?.path_cut);
                Ok(())
            },
        );
    }
    check.run(
        "a path longer than PATH_MAX is marked as cut, and the hash is there",
        || {
            let p = deep(&dir, 4000)?;
            let below = p.with_file_name("x".repeat(250));
            std::env::set_current_dir(p.parent().context("parent")?)?;
            let name = below.file_name().context("name")?.to_string_lossy().into_owned();
            fs::create_dir_all(&name)?;
            std::env::set_current_dir(&name)?;
            let program_name = format!("busybox{}", "y".repeat(200));
            program(Path::new(&program_name), b"too long")?;
            let hash = sha256(Path::new(&program_name))?;
            let pid = run(Path::new(&format!("./{program_name}")), &["true"])?;
            std::env::set_current_dir("/")?;
            let events = drain(&mut ring)?;
            let e = events
                .iter()
                .find_map(|e| match &e.body {
                    Body::File(f) if f.kind == EventKind::Execution && f.task.pid == pid => Some(f),
                    _ => None,
                })
                .context("no record")?;
            ensure!(
                e.path_cut && e.path.is_empty() && e.file_hash() == FileHash::Measured(hash),
                "{e:?}"
            );
            Ok(())
        },
    );
    std::env::set_current_dir(&dir)?;

    check.run(
        "violations of both kinds are recorded with their file and no digests, as many as IMA counts",
        || {
            let count = || -> Result<usize> {
                Ok(fs::read_to_string("/sys/kernel/security/ima/violations")?
                    .trim()
                    .parse()?)
            };
            let before = count()?;
            let (open, changed) = (dir.join("open-writer"), dir.join("changed-after-use"));
            let writer = fs::File::create(&open)?;
            fs::File::open(&open)?;
            drop(writer);
            fs::write(&changed, "x")?;
            let reader = fs::File::open(&changed)?;
            fs::write(&changed, "y")?;
            drop(reader);
            let events = drain(&mut ring)?;
            for path in [&open, &changed] {
                let found: Vec<_> = entries(&events, path)
                    .into_iter()
                    .filter(|e| e.violation)
                    .collect();
                ensure!(
                    found.len() == 1 && found[0].digests.is_empty() && found[0].ret == 0,
                    "{found:?}"
                );
                ensure!(
                    found[0].ino == fs::metadata(path)?.ino() && found[0].pcr == 10,
                    "{found:?}"
                );
            }
            let all = events
                .iter()
                .filter(|e| matches!(&e.body, Body::Entry(e) if e.violation))
                .count();
            ensure!(all == count()? - before, "{all} records");
            Ok(())
        },
    );

    overlay_checks(&mut ring, &dir, &me, check)?;
    cgroup_checks(&mut ring, &bpf, v1, check)?;
    thread_check(&mut ring, &above, check)?;

    check.run("an ancestry of forty is cut at 32 and says so", || {
        let text = "n=$1; if [ $n -gt 0 ]; then /bin/busybox sh $0 $((n-1)); true; else /bin/busybox true; true; fi\n";
        let chain = dir.join("chain");
        fs::write(&chain, text)?;
        run(Path::new("/bin/busybox"), &["sh", &chain.to_string_lossy(), "40"])?;
        let events = drain(&mut ring)?;
        let longest = events
            .iter()
            .filter_map(|e| match &e.body {
                Body::File(f) => Some(&f.task),
                _ => None,
            })
            .max_by_key(|t| (t.ancestors.len(), t.ancestry_cut))
            .context("no records")?;
        ensure!(longest.ancestors.len() == 32 && longest.ancestry_cut && !longest.ancestry_unstable, "{longest:?}");
        Ok(())
    });

    check.run(
        "a burst of new scripts from four directions loses nothing and leaves no hole",
        || {
            let before = bpf.counters()?;
            // Made beforehand: a file that another thread's child still has open for writing cannot be executed.
            let many: Vec<PathBuf> = (0..BURST).map(|i| dir.join(format!("many-{i}"))).collect();
            for (i, path) in many.iter().enumerate() {
                script(path, &format!("#!/bin/busybox true\n{i}\n"))?;
            }
            let handles: Vec<_> = many
                .chunks(BURST / 4)
                .map(|chunk| {
                    let chunk = chunk.to_vec();
                    std::thread::spawn(move || chunk.iter().try_for_each(|path| run(path, &[]).map(drop)))
                })
                .collect();
            let mut events = Vec::new();
            while handles.iter().any(|h| !h.is_finished()) {
                events.extend(drain(&mut ring)?);
            }
            for handle in handles {
                handle
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            }
            events.extend(drain(&mut ring)?);
            let after = bpf.counters()?;
            let mut seqs: Vec<u64> = events.iter().map(|e| e.seq).collect();
            seqs.sort_unstable();
            let want: Vec<u64> = (before.seq + 1..=after.seq).collect();
            ensure!(seqs == want, "{} records for {} numbers", seqs.len(), want.len());
            ensure!(after.lost() == 0, "{after:?}");
            let covered: u64 = after.programs.iter().map(|p| p.covered_misses).sum();
            println!(
                "  {covered} misses covered by the twin, {} calls",
                after.entry_calls
            );
            let executed = files(&events, EventKind::Execution, Path::new("/bin/busybox")).len();
            ensure!(executed == BURST, "{executed} executions");
            for path in &many {
                one(&events, EventKind::Script, path)?;
                let entries = entries(&events, path);
                ensure!(entries.len() == 1 && entries[0].ret == 0, "{entries:?}");
            }
            Ok(())
        },
    );

    check.run("nothing failed that was not meant to", || {
        let c = bpf.counters()?;
        ensure!(c.read_failed == 0 && c.hash_failed == 0 && c.lost() == 0, "{c:?}");
        // The one path that is longer than PATH_MAX: its execution, its mapping, its entry.
        ensure!((1..=3).contains(&c.path_failed), "{c:?}");
        Ok(())
    });

    restart_checks(bpf, ring, &options, check)
}

/// Pids of this process and its parents.
fn ancestors_of_me() -> Result<Vec<u32>> {
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

/// A path of exactly `len` bytes below `dir`, with its parents made.
fn deep(dir: &Path, len: usize) -> Result<PathBuf> {
    let mut path = dir.join(format!("d{len}"));
    while path.as_os_str().len() + 250 < len {
        path = path.join("d".repeat(200));
    }
    fs::create_dir_all(&path)?;
    let rest = len - path.as_os_str().len() - 1;
    // A name that busybox takes for its own.
    let leaf = format!(
        "busybox{}",
        "p".repeat(rest.checked_sub(7).context("no room for a name")?)
    );
    Ok(path.join(leaf))
}

/// Whether an entry's SHA-1 template digest stands in the list, by the kernel's own text form.
fn in_list(entry: &EntryEvent) -> Result<()> {
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

/// As a container sees its files: through overlayfs.
fn overlay_checks(ring: &mut Ring, dir: &Path, me: &Path, check: &mut Check) -> Result<()> {
    let (lower, upper, work, merged) = (dir.join("l"), dir.join("u"), dir.join("w"), dir.join("m"));
    for d in [&lower, &upper, &work, &merged] {
        fs::create_dir_all(d)?;
    }
    program(&lower.join("busybox-o"), b"lower")?;
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        flags,
        Some(data.as_str()),
    )
    .context("mount overlayfs (is its module loaded?)")?;
    let p = merged.join("busybox-o");
    check.run(
        "an execution on overlayfs has the overlay's path, inode and hash",
        || {
            run(&p, &["true"])?;
            let events = drain(ring)?;
            let e = one(&events, EventKind::Execution, &p)?;
            ensure!(
                e.file_hash() == FileHash::Measured(sha256(&p)?) && e.ino == fs::metadata(&p)?.ino(),
                "{e:?}"
            );
            // 6.1 measures it anew for each hook, and finds that it has that entry.
            let rets: Vec<i32> = entries(&events, &p).iter().map(|e| e.ret).collect();
            ensure!(
                rets.first() == Some(&0) && rets[1..].iter().all(|r| *r == -17),
                "{rets:?}"
            );
            Ok(())
        },
    );
    check.run(
        "a late mapping on overlayfs ends in the file's name, and its inode is the overlay's or the layer's",
        || {
            run(me, &["work", "late", &p.to_string_lossy()])?;
            let events = drain(ring)?;
            let found = events.iter().find_map(|e| match &e.body {
                Body::File(f) if f.kind == EventKind::LateMapping => Some(f),
                _ => None,
            });
            let f = found.context("no record")?;
            println!("  {}", String::from_utf8_lossy(&f.path));
            ensure!(
                f.path.ends_with(b"/busybox-o") && !f.path_cut && !f.task.read_failed,
                "{f:?}"
            );
            let inodes = [
                fs::metadata(&p)?.ino(),
                fs::metadata(lower.join("busybox-o"))?.ino(),
            ];
            ensure!(inodes.contains(&f.ino), "{f:?} {inodes:?}");
            Ok(())
        },
    );
    nix::mount::umount(&merged)?;
    Ok(())
}

fn cgroup_checks(ring: &mut Ring, bpf: &Bpf, v1: bool, check: &mut Check) -> Result<()> {
    let root = bpf.hierarchy().mount.clone();
    let outer = root.join("kubepods");
    let pod = outer.join("pod0a1b");
    let long = pod.join("c".repeat(255));
    check.run(
        "a cgroup's making tells its number, its parent's and its name",
        || {
            fs::create_dir(&outer)?;
            fs::create_dir(&pod)?;
            fs::create_dir(&long)?;
            let events = drain(ring)?;
            let made: Vec<_> = events
                .iter()
                .filter_map(|e| match &e.body {
                    Body::Cgroup(c) => Some(c),
                    _ => None,
                })
                .collect();
            ensure!(made.len() == 3, "{made:?}");
            for (event, (dir, parent)) in made.iter().zip([(&outer, &root), (&pod, &outer), (&long, &pod)]) {
                ensure!(event.change == CgroupChange::New, "{event:?}");
                ensure!(event.id == fs::metadata(dir)?.ino(), "{event:?}");
                ensure!(event.parent_id == Some(fs::metadata(parent)?.ino()), "{event:?}");
                ensure!(
                    event.name == dir.file_name().context("name")?.as_bytes(),
                    "{event:?}"
                );
                ensure!(event.hierarchy == bpf.hierarchy().id, "{event:?}");
            }
            Ok(())
        },
    );
    let enter = |dir: &Path| {
        let text = format!(
            "echo $$ > {}/cgroup.procs && exec /bin/busybox true",
            dir.display()
        );
        run(Path::new("/bin/busybox"), &["sh", "-c", &text])
    };
    check.run(
        "an execution in a cgroup names it, though it is removed before the record is read",
        || {
            let id = fs::metadata(&long)?.ino();
            let pid = enter(&long)?;
            fs::remove_dir(&long)?;
            let events = drain(ring)?;
            let ids: Vec<u64> = events
                .iter()
                .filter_map(|e| match &e.body {
                    Body::File(f) if f.kind == EventKind::Execution && f.task.pid == pid => {
                        Some(f.task.cgroup_id)
                    }
                    _ => None,
                })
                .collect();
            ensure!(
                ids == [fs::metadata(&root)?.ino(), id],
                "{ids:?}, should end in {id}"
            );
            ensure!(
                events.iter().any(
                    |e| matches!(&e.body, Body::Cgroup(c) if c.change == CgroupChange::Gone && c.id == id)
                )
            );
            Ok(())
        },
    );
    if v1 {
        check.run("a renamed v1 cgroup gives a record with its new name", || {
            let new = outer.join("pod-renamed");
            fs::rename(&pod, &new)?;
            let id = fs::metadata(&new)?.ino();
            let events = drain(ring)?;
            let renamed = events.iter().any(|e| {
                matches!(&e.body, Body::Cgroup(c)
                    if c.change == CgroupChange::Renamed && c.id == id && c.name == b"pod-renamed"[..])
            });
            ensure!(renamed, "{events:?}");
            fs::rename(&new, &pod)?;
            Ok(())
        });
        check.run("directories of other hierarchies make no records", || {
            let other = Path::new("/sys/fs/cgroup/unified/elsewhere");
            fs::create_dir(other)?;
            fs::remove_dir(other)?;
            let events = drain(ring)?;
            ensure!(
                !events
                    .iter()
                    .any(|e| matches!(&e.body, Body::Cgroup(c) if c.name == b"elsewhere"[..])),
                "{events:?}"
            );
            Ok(())
        });
    }
    fs::remove_dir(&pod)?;
    fs::remove_dir(&outer)?;
    drain(ring)?;
    Ok(())
}

fn thread_check(ring: &mut Ring, above: &[u32], check: &mut Check) -> Result<()> {
    check.run("a child of a thread has the process as its parent", || {
        let child = std::thread::spawn(|| run(Path::new("/bin/busybox"), &["true"]));
        let pid = child.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        let events = drain(ring)?;
        let e = one(&events, EventKind::Execution, Path::new("/bin/busybox"))?;
        check_task(&e.task, pid, above)
    });
    Ok(())
}

fn restart_checks(bpf: Bpf, ring: Ring, options: &Options<'_>, check: &mut Check) -> Result<()> {
    let seq = bpf.counters()?.seq;
    check.run(
        "a second collector is refused while the first one runs",
        || match Bpf::load_or_adopt(options) {
            Err(Error::Busy { .. }) => Ok(()),
            other => bail!("{other:?}", other = other.map(|(_, a)| a)),
        },
    );
    drop((bpf, ring));
    run(Path::new("/bin/busybox"), &["true"])?;
    check.run("another object is refused while the first one runs", || {
        let mut other = options.object.to_vec();
        other.push(0);
        match Bpf::load_or_adopt(&Options {
            object: &other,
            ..options.clone()
        }) {
            Err(Error::OtherObject { .. }) => Ok(()),
            other => bail!("{other:?}", other = other.map(|(_, a)| a)),
        }
    });
    let (mut bpf, adopted) = Bpf::load_or_adopt(options)?;
    let mut ring = bpf.take_ring().context("no ring")?;
    check.run(
        "a restarted collector takes over and reads what happened meanwhile",
        || {
            ensure!(adopted == Adopted::Existing);
            let events = drain(&mut ring)?;
            one(&events, EventKind::Execution, Path::new("/bin/busybox"))?;
            ensure!(
                events.first().map(|e| e.seq) == Some(seq + 1),
                "{:?}",
                events.first()
            );
            ensure!(bpf.counters()?.all_attached());
            Ok(())
        },
    );
    run(Path::new("/bin/busybox"), &["true"])?;
    check.run(
        "a record that was seen and not dropped is there again after a restart",
        || {
            let first = ring.next().context("no record")?;
            let seen = first.to_vec();
            std::mem::forget(first);
            drop((bpf, ring));
            let (mut bpf, _) = Bpf::load_or_adopt(options)?;
            let mut ring = bpf.take_ring().context("no ring")?;
            let again = ring.next().context("no record")?.to_vec();
            ensure!(seen == again);
            fs::remove_file(options.pin_dir.join("link_executed"))?;
            let state = bpf.counters()?;
            ensure!(!state.all_attached(), "{state:?}");
            println!("  {:?}", state.programs.iter().find_map(|p| p.detached.clone()));
            Ok(())
        },
    );
    check.run(
        "a pin that was removed is an error that names it",
        || match Bpf::load_or_adopt(options) {
            Err(Error::Pin { path, why }) if path.ends_with("link_executed") => {
                println!("  {why}");
                Ok(())
            }
            other => bail!("{other:?}", other = other.map(|(_, a)| a)),
        },
    );
    unload(&options.pin_dir)?;
    check.run(
        "a ring that is too small loses records, counts each, and leaves a hole for each",
        || {
            let options = Options {
                ring_bytes: 4096,
                ..options.clone()
            };
            let (mut bpf, adopted) = Bpf::load_or_adopt(&options)?;
            ensure!(
                adopted
                    == Adopted::Fresh {
                        removed_leftovers: false
                    }
            );
            for _ in 0..20 {
                run(Path::new("/bin/busybox"), &["true"])?;
            }
            let mut ring = bpf.take_ring().context("no ring")?;
            let events = drain(&mut ring)?;
            let counters = bpf.counters()?;
            ensure!(counters.lost_reserve > 0, "{counters:?}");
            ensure!(
                counters.seq == events.len() as u64 + counters.lost_reserve,
                "{} {counters:?}",
                events.len()
            );
            Ok(())
        },
    );
    unload(&options.pin_dir)?;
    check.run(
        "pins of a load that never finished are removed and the load is fresh",
        || {
            let (bpf, _) = Bpf::load_or_adopt(options)?;
            drop(bpf);
            fs::remove_file(options.pin_dir.join("map_meta"))?;
            let (_, adopted) = Bpf::load_or_adopt(options)?;
            ensure!(
                adopted
                    == Adopted::Fresh {
                        removed_leftovers: true
                    },
                "{adopted:?}"
            );
            Ok(())
        },
    );
    unload(&options.pin_dir)?;
    Ok(())
}
