//! Executable mappings that are no execution.

#![allow(unsafe_code, reason = "mappings are made, to see whether they are recorded")]

use crate::make::{program, run};
use crate::truth::{check_task, drain, kernel_dev, one, sha256};
use crate::{Bed, Check};
use anyhow::{Context, Result, ensure};
use cgpath_evidence::{EventKind, FileHash};
use cgpathd::decode::Body;
use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Anonymous memory, a device, and mappings that turn executable later.
pub fn all(bed: &mut Bed, check: &mut Check) -> Result<()> {
    let a = bed.dir.join("busybox-a");
    check.run(
        "anonymous executable mappings and page zero neither crash nor make records",
        || {
            let pid = run(&bed.me, &["work", "anonymous"])?;
            run(&bed.me, &["work", "page-zero", "/bin/busybox"])?;
            let events = drain(&mut bed.ring)?;
            for event in &events {
                if let Body::File(f) = &event.body {
                    let own = f.path == bed.me.as_os_str().as_bytes() || f.path == b"/bin/busybox"[..];
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
        let events = drain(&mut bed.ring)?;
        ensure!(one(&events, EventKind::Mapping, zero)?.file_hash() == FileHash::Unhashed(0));
        Ok(())
    });

    check.run(
        "a mapping that turns executable later is recorded with its whole path, unhashed",
        || {
            let pid = run(&bed.me, &["work", "late", &a.to_string_lossy()])?;
            let events = drain(&mut bed.ring)?;
            let e = one(&events, EventKind::LateMapping, &a)?;
            ensure!(e.file_hash() == FileHash::Unhashed(0) && !e.path_cut, "{e:?}");
            ensure!(e.ino == fs::metadata(&a)?.ino() && e.dev == kernel_dev(&a)?);
            check_task(&e.task, pid, &bed.above)?;
            let in_mount = Path::new("/tmp/late");
            fs::copy("/bin/busybox", in_mount)?;
            run(&bed.me, &["work", "late", "/tmp/late"])?;
            one(&drain(&mut bed.ring)?, EventKind::LateMapping, in_mount)?;
            let gone = bed.dir.join("gone");
            fs::copy("/bin/busybox", &gone)?;
            let open = fs::File::open(&gone)?;
            fs::remove_file(&gone)?;
            run(
                &bed.me,
                &[
                    "work",
                    "late",
                    &format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd()),
                ],
            )?;
            one(
                &drain(&mut bed.ring)?,
                EventKind::LateMapping,
                &PathBuf::from(format!("{} (deleted)", gone.display())),
            )?;
            Ok(())
        },
    );
    check.run(
        "a mapping that is writable and executable at once says so, in each way to it, and no other does",
        || {
            let (whole, late) = (EventKind::Mapping, EventKind::LateMapping);
            let ways: [(&str, &[(EventKind, bool)]); 10] = [
                ("private", &[(whole, true)]),
                ("shared", &[(whole, true)]),
                ("write added", &[(whole, false), (late, true)]),
                ("with a key", &[(whole, false), (late, true)]),
                ("both added", &[(late, true)]),
                ("execution added", &[(late, true)]),
                ("kept", &[(whole, true)]),
                ("in turns", &[(whole, false), (late, false)]),
                ("implied", &[(whole, true)]),
                ("implied later", &[(late, true)]),
            ];
            for (way, wanted) in ways {
                let path = bed.dir.join(format!("writable-{}", way.replace(' ', "-")));
                program(&path, way.as_bytes())?;
                run(&bed.me, &["work", "writable", way, &path.to_string_lossy()])?;
                let events = drain(&mut bed.ring)?;
                let of_file = events.iter().filter_map(|event| match &event.body {
                    Body::File(f) if f.path == path.as_os_str().as_bytes() => Some(f),
                    _ => None,
                });
                let of_file: Vec<_> = of_file.collect();
                let found: Vec<_> = of_file.iter().map(|f| (f.kind, f.writable)).collect();
                ensure!(found == wanted, "{way}: {found:?}");
                for mapped in of_file.iter().filter(|f| f.kind == whole) {
                    ensure!(mapped.file_hash() == FileHash::PreCheck(sha256(&path)?), "{way}");
                }
                // What the tool, its loader and its libraries map is one or the other.
                let others = events.iter().any(|event| match &event.body {
                    Body::File(f) => f.writable && f.path != path.as_os_str().as_bytes(),
                    _ => false,
                });
                ensure!(!others, "{way}: {events:?}");
            }
            Ok(())
        },
    );
    Ok(())
}
