//! Executions, the entries that they make, scripts, libraries, and files without a name.

use crate::make::{program, run, script};
use crate::truth::{check_task, drain, entries, in_list, kernel_dev, one, sha256};
use crate::{Bed, Check};
use anyhow::{Result, bail, ensure};
use cgpath_evidence::{EventKind, FileHash};
use cgpathd::decode::{Body, FileEvent};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A program that is new, one with the same name and content, and one that ran before.
pub fn programs(bed: &mut Bed, check: &mut Check) -> Result<()> {
    let a = bed.dir.join("busybox-a");
    program(&a, b"a")?;
    let pid = run(&a, &["true"])?;
    let events = drain(&mut bed.ring)?;
    check.run(
        "an execution tells the file that runs, its hash, its path, its inode and its ancestry",
        || {
            let e = one(&events, EventKind::Execution, &a)?;
            ensure!(e.file_hash() == FileHash::Measured(sha256(&a)?), "{:?}", e.hash);
            ensure!(
                e.ino == fs::metadata(&a)?.ino() && e.dev == kernel_dev(&a)?,
                "{e:?}"
            );
            check_task(&e.task, pid, &bed.above)
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
            check_task(&entries[0].task, pid, &bed.above)
        },
    );

    // The same name and content again, as another inode: as a second pod of the same image does.
    fs::remove_file(&a)?;
    program(&a, b"a")?;
    run(&a, &["true"])?;
    let events = drain(&mut bed.ring)?;
    check.run(
        "the same template data from another inode is refused with EEXIST and recorded",
        || {
            let entries = entries(&events, &a);
            ensure!(entries.len() == 1 && entries[0].ret == -17, "{entries:?}");
            in_list(entries[0])
        },
    );
    run(&a, &["true"])?;
    let events = drain(&mut bed.ring)?;
    check.run(
        "an inode that ran before makes no entry, but an execution with its hash",
        || {
            ensure!(entries(&events, &a).is_empty());
            let e = one(&events, EventKind::Execution, &a)?;
            ensure!(e.file_hash() == FileHash::Measured(sha256(&a)?), "{:?}", e.hash);
            Ok(())
        },
    );
    Ok(())
}

/// Scripts, and scripts that scripts run.
pub fn scripts(bed: &mut Bed, check: &mut Check) -> Result<()> {
    let s = bed.dir.join("script");
    script(&s, "#!/bin/busybox sh\nexit 0\n")?;
    let pid = run(&s, &[])?;
    let events = drain(&mut bed.ring)?;
    check.run(
        "a script gives the script's record and its interpreter's execution",
        || {
            let e = one(&events, EventKind::Script, &s)?;
            ensure!(e.file_hash() == FileHash::PreCheck(sha256(&s)?), "{:?}", e.hash);
            check_task(&e.task, pid, &bed.above)?;
            let busybox = Path::new("/bin/busybox");
            let e = one(&events, EventKind::Execution, busybox)?;
            ensure!(
                e.file_hash() == FileHash::Measured(sha256(busybox)?),
                "{:?}",
                e.hash
            );
            check_task(&e.task, pid, &bed.above)
        },
    );
    let outer = bed.dir.join("outer-script");
    script(&outer, &format!("#!{}\n", s.display()))?;
    run(&outer, &[])?;
    let events = drain(&mut bed.ring)?;
    check.run("a script run by a script gives both", || {
        one(&events, EventKind::Script, &outer)?;
        one(&events, EventKind::Script, &s)?;
        one(&events, EventKind::Execution, Path::new("/bin/busybox"))?;
        Ok(())
    });
    Ok(())
}

/// A dynamic program.
pub fn libraries(bed: &mut Bed, check: &mut Check) -> Result<()> {
    let dynamic = Path::new("/usr/bin/env");
    if dynamic.exists() {
        let pid = run(dynamic, &["-i"])?;
        let events = drain(&mut bed.ring)?;
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
                    check_task(&lib.task, pid, &bed.above)?;
                }
                Ok(())
            },
        );
    } else {
        bail!("/usr/bin/env is needed, a dynamic program");
    }
    Ok(())
}

/// Memory that is executed, and files on tmpfs.
pub fn in_memory(bed: &mut Bed, check: &mut Check) -> Result<()> {
    check.run(
        "a memfd's execution is recorded with its hash and the kernel's name for it",
        || {
            run(&bed.me, &["work", "memfd", "/bin/busybox"])?;
            let events = drain(&mut bed.ring)?;
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
            let events = drain(&mut bed.ring)?;
            ensure!(one(&events, EventKind::Execution, p)?.file_hash() == FileHash::Measured(sha256(p)?));
            Ok(())
        },
    );
    Ok(())
}
