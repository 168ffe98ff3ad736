//! Collectors that come and go: taking over, refusals, leftovers, and a ring that is too small.

use crate::Check;
use crate::make::run;
use crate::truth::{drain, one};
use anyhow::{Context, Result, bail, ensure};
use cgpath_evidence::EventKind;
use cgpathd::bpf::{Adopted, Bpf, Error, ProgramOptions, Ring, unload};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;

/// The kernel's numbers of what is attached.
fn ids(bpf: &Bpf) -> Result<Vec<u32>> {
    Ok(bpf
        .counters()?
        .programs
        .iter()
        .map(|program| program.id)
        .collect())
}

/// The object with programs that never end: each `exit` is an instruction that there is not.
fn refused_by_the_kernel(object: &[u8]) -> Result<Vec<u8>> {
    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = object.to_vec();
    let exits = bytes.chunks_exact_mut(8).filter(|chunk| **chunk == EXIT);
    let count = exits.map(|chunk| chunk[0] = 0xf5).count();
    ensure!(count >= 43, "only {count} instructions that end a program");
    Ok(bytes)
}

/// All of it; consumes what was loaded.
pub fn all(bpf: Bpf, ring: Ring, options: &ProgramOptions<'_>, check: &mut Check) -> Result<()> {
    check.run(
        "a second collector is refused while the first one runs",
        || match Bpf::load_or_adopt(options) {
            Err(Error::Busy { .. }) => Ok(()),
            other => bail!("{other:?}", other = other.map(|(_, a)| a)),
        },
    );
    drop((bpf, ring));
    check.run("another object is refused while the first one runs", || {
        let mut other = options.object.to_vec();
        other.push(0);
        match Bpf::load_or_adopt(&ProgramOptions {
            object: &other,
            ..options.clone()
        }) {
            Err(Error::OtherObject { .. }) => Ok(()),
            other => bail!("{other:?}", other = other.map(|(_, a)| a)),
        }
    });
    check.run(
        "programs of a collector that handed over stay until the new one's take their places, and back",
        || {
            let mut other = options.object.to_vec();
            other.push(0);
            let running = Sha256::digest(options.object).into();
            let next = Sha256::digest(&other).into();
            let stays = ProgramOptions {
                object: &other,
                handed_over: Some(running),
                ..options.clone()
            };
            let (bpf, adopted) = Bpf::load_or_adopt(&stays)?;
            ensure!(adopted == Adopted::Existing && bpf.object_sha256() == running);
            ensure!(bpf.placed_sha256().is_none());
            let attached = ids(&bpf)?;
            drop(bpf);
            let replaces = ProgramOptions {
                replaces: true,
                ..stays.clone()
            };
            // What the kernel refuses takes no place: those that are there go on.
            let refused = refused_by_the_kernel(options.object)?;
            let (bpf, _) = Bpf::load_or_adopt(&ProgramOptions {
                object: &refused,
                ..replaces.clone()
            })?;
            ensure!(bpf.placed_sha256().is_none() && ids(&bpf)? == attached);
            ensure!(bpf.counters()?.all_attached(), "{:?}", bpf.counters()?);
            drop(bpf);
            for _ in 0..2 {
                let (bpf, adopted) = Bpf::load_or_adopt(&replaces)?;
                ensure!(adopted == Adopted::Existing && bpf.object_sha256() == running);
                ensure!(bpf.placed_sha256() == Some(next));
                ensure!(bpf.counters()?.all_attached(), "{:?}", bpf.counters()?);
                ensure!(ids(&bpf)? == attached, "something else is attached");
            }
            match Bpf::load_or_adopt(options) {
                Err(Error::OtherObject { .. }) => {}
                other => bail!("{other:?}", other = other.map(|(_, a)| a)),
            }
            let back = ProgramOptions {
                handed_over: Some(next),
                replaces: true,
                ..options.clone()
            };
            let (bpf, _) = Bpf::load_or_adopt(&back)?;
            ensure!(bpf.placed_sha256().is_none() && ids(&bpf)? == attached);
            // In a place that somebody emptied nothing is seen, and that is noticed.
            fs::remove_file(options.pin_dir.join("map_CGROUP_RENAMED"))?;
            let counters = bpf.counters()?;
            let gone = counters.programs.iter().filter(|p| p.detached.is_some());
            let gone: Vec<&str> = gone.map(|p| p.name).collect();
            ensure!(gone == ["cgroup_renamed"], "{gone:?}");
            drop(bpf);
            match Bpf::load_or_adopt(options) {
                Err(Error::Pin { path, .. }) if path.ends_with("map_CGROUP_RENAMED") => {}
                other => bail!("{other:?}", other = other.map(|(_, a)| a)),
            }
            Ok(())
        },
    );
    // What that left is of no use: a load of its own for what follows.
    unload(&options.pin_dir)?;
    let (mut bpf, _) = Bpf::load_or_adopt(options)?;
    drain(&mut bpf.take_ring().context("no ring")?)?;
    let seq = bpf.counters()?.seq;
    drop(bpf);
    run(Path::new("/bin/busybox"), &["true"])?;
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
            let options = ProgramOptions {
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
