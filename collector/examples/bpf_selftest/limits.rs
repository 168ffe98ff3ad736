//! Limits: long paths, long ancestries, many records at once; and IMA's violations.

use crate::make::{deep, program, run, script};
use crate::truth::{check_task, drain, entries, files, one, sha256};
use crate::{Bed, Check};
use anyhow::{Context, Result, ensure};
use cgpath_evidence::{EventKind, FileHash};
use cgpathd::bpf::Bpf;
use cgpathd::decode::Body;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// New scripts that four threads run at once.
const BURST: usize = 400;

/// Paths around each limit, and one beyond all.
pub fn paths(bed: &mut Bed, check: &mut Check) -> Result<()> {
    for len in [254, 255, 256, 257, 1000, 4000] {
        check.run(
            &format!("a path of {len} bytes is whole in every record about it"),
            || {
                let p = deep(&bed.dir, len)?;
                program(&p, format!("{len}").as_bytes())?;
                run(&p, &["true"])?;
                let events = drain(&mut bed.ring)?;
                let e = one(&events, EventKind::Execution, &p)?;
                ensure!(!e.path_cut && e.file_hash() == FileHash::Measured(sha256(&p)?));
                let entries = entries(&events, &p);
                ensure!(entries.len() == 1 && !entries[0].name_cut, "{entries:?}");
                run(&bed.me, &["work", "late", &p.to_string_lossy()])?;
                ensure!(!one(&drain(&mut bed.ring)?, EventKind::LateMapping, &p)?.path_cut);
                Ok(())
            },
        );
    }
    check.run(
        "a path longer than PATH_MAX is marked as cut, and the hash is there",
        || {
            let p = deep(&bed.dir, 4000)?;
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
            let events = drain(&mut bed.ring)?;
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
    std::env::set_current_dir(&bed.dir)?;
    Ok(())
}

/// Violations: open writers, and files that change after their use.
pub fn violations(bed: &mut Bed, check: &mut Check) -> Result<()> {
    check.run(
        "violations of both kinds are recorded with their file and no digests, as many as IMA counts",
        || {
            let count = || -> Result<usize> {
                Ok(fs::read_to_string("/sys/kernel/security/ima/violations")?
                    .trim()
                    .parse()?)
            };
            let before = count()?;
            let (open, changed) = (bed.dir.join("open-writer"), bed.dir.join("changed-after-use"));
            let writer = fs::File::create(&open)?;
            fs::File::open(&open)?;
            drop(writer);
            fs::write(&changed, "x")?;
            let reader = fs::File::open(&changed)?;
            fs::write(&changed, "y")?;
            drop(reader);
            let events = drain(&mut bed.ring)?;
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
    Ok(())
}

/// The parent of a thread's child.
pub fn thread(bed: &mut Bed, check: &mut Check) -> Result<()> {
    check.run("a child of a thread has the process as its parent", || {
        let child = std::thread::spawn(|| run(Path::new("/bin/busybox"), &["true"]));
        let pid = child.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        let events = drain(&mut bed.ring)?;
        let e = one(&events, EventKind::Execution, Path::new("/bin/busybox"))?;
        check_task(&e.task, pid, &bed.above)
    });
    Ok(())
}

/// A chain of parents that is too long.
pub fn ancestry(bed: &mut Bed, check: &mut Check) -> Result<()> {
    check.run("an ancestry of forty is cut at 32 and says so", || {
        let text = "n=$1; if [ $n -gt 0 ]; then /bin/busybox sh $0 $((n-1)); true; else /bin/busybox true; \
            true; fi\n";
        let chain = bed.dir.join("chain");
        fs::write(&chain, text)?;
        run(Path::new("/bin/busybox"), &["sh", &chain.to_string_lossy(), "40"])?;
        let events = drain(&mut bed.ring)?;
        let longest = events
            .iter()
            .filter_map(|e| match &e.body {
                Body::File(f) => Some(&f.task),
                _ => None,
            })
            .max_by_key(|t| (t.ancestors.len(), t.ancestry_cut))
            .context("no records")?;
        ensure!(
            longest.ancestors.len() == 32 && longest.ancestry_cut && !longest.ancestry_unstable,
            "{longest:?}"
        );
        Ok(())
    });
    Ok(())
}

/// Hundreds of executions at once, and the counters after all that.
pub fn burst(bed: &mut Bed, bpf: &Bpf, check: &mut Check) -> Result<()> {
    check.run(
        "a burst of new scripts from four directions loses nothing and leaves no hole",
        || {
            let before = bpf.counters()?;
            // Made beforehand: a file that another thread's child still has open for writing cannot be
            // executed.
            let many: Vec<PathBuf> = (0..BURST).map(|i| bed.dir.join(format!("many-{i}"))).collect();
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
                events.extend(drain(&mut bed.ring)?);
            }
            for handle in handles {
                handle
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            }
            events.extend(drain(&mut bed.ring)?);
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
    Ok(())
}
