//! Files on overlayfs.

use crate::make::{program, run};
use crate::truth::{drain, entries, one, sha256};
use crate::{Bed, Check};
use anyhow::{Context, Result, ensure};
use cgpath_evidence::{EventKind, FileHash};
use cgpathd::decode::Body;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;

/// As a container sees its files: through overlayfs.
pub fn all(bed: &mut Bed, check: &mut Check) -> Result<()> {
    let (lower, upper, work, merged) = (
        bed.dir.join("l"),
        bed.dir.join("u"),
        bed.dir.join("w"),
        bed.dir.join("m"),
    );
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
            let events = drain(&mut bed.ring)?;
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
            run(&bed.me, &["work", "late", &p.to_string_lossy()])?;
            let events = drain(&mut bed.ring)?;
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
    check.run(
        "a file of an overlay is known by its layer's: the lower one, and once it was written the upper one",
        || {
            let mut generations = Vec::new();
            for layer in [&lower, &upper] {
                run(&p, &["true"])?;
                let events = drain(&mut bed.ring)?;
                let identity = one(&events, EventKind::Execution, &p)?.identity;
                let file = identity.layer.with_context(|| format!("{identity:?}"))?;
                let inode = fs::metadata(layer.join("busybox-o"))?.ino();
                ensure!(file.ino == inode && !identity.written, "{identity:?} {inode}");
                generations.push(identity.generation);
                // The first write copies it.
                fs::OpenOptions::new().append(true).open(&p)?.write_all(b"x")?;
            }
            ensure!(generations[0] == generations[1], "one overlay: {generations:?}");
            Ok(())
        },
    );
    nix::mount::umount(&merged)?;
    Ok(())
}
