//! Cgroups, of both versions.

use crate::make::run;
use crate::truth::drain;
use crate::{Bed, Check};
use anyhow::{Context, Result, ensure};
use cgpath_evidence::EventKind;
use cgpathd::bpf::Bpf;
use cgpathd::decode::{Body, CgroupChange};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Their making, their end and their names.
pub fn all(bed: &mut Bed, bpf: &Bpf, v1: bool, check: &mut Check) -> Result<()> {
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
            let events = drain(&mut bed.ring)?;
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
            let events = drain(&mut bed.ring)?;
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
            let events = drain(&mut bed.ring)?;
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
            let events = drain(&mut bed.ring)?;
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
    drain(&mut bed.ring)?;
    Ok(())
}
