//! Checkpoints of the real engine, with its journal on disk, that extend a register: a file that extends as
//! the kernel's does.

use crate::common::assembled;
use crate::common::machine::{PODS, Software, content, take};
use cgpath_evidence::td::{self, ListChain, TdEvidence};
use cgpath_evidence::{Cursor, Entry, Evidence, EvidenceDelta, SealedCheckpoint};
use cgpathd::engine::EngineError;
use cgpathd::engine::core::{Core, Outcome};
use cgpathd::pipeline::Place;
use cgpathd::store::Assembly;
use std::path::Path;

const RTMR: Place = Place::Rtmr(3);

/// A machine that anchors at these places.
fn machine(dir: &Path, places: &[Place]) -> Software {
    let mut machine = Software::new(dir, PODS);
    machine.places = places.to_vec();
    machine
}

/// The collector was killed.
#[derive(Debug)]
struct Killed;

/// A round with evidence.
fn round(core: &mut Core<Software>, after: Option<&Cursor>) -> Result<Assembly, Killed> {
    core.request(3, b"the nonce".to_vec()).unwrap();
    for _ in 0..40 {
        if core.machine.dead {
            return Err(Killed);
        }
        take(core).unwrap();
        core.tick().unwrap();
        match core.take_outcomes().pop() {
            _ if core.machine.dead => return Err(Killed),
            Some(Outcome::Ready {
                id: 3, checkpoint, ..
            }) => {
                assert_ne!(checkpoint, [0; 48]);
                core.quoted(3, after.cloned()).unwrap();
            }
            Some(Outcome::Assembled { id: 3, assembly }) => return Ok((*assembly).unwrap()),
            None => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("no evidence in forty turns");
}

/// The bytes, and the cursor behind them.
fn written(assembly: Assembly) -> (Vec<u8>, Cursor) {
    let td = TdEvidence {
        register_log: Vec::new(),
        ccel: Some(b"what the firmware measured".to_vec()),
        auxblob: None,
    };
    let (_, bytes, reached) = assembled::written(assembly, Some(td));
    (bytes, reached)
}

/// The register's value, as its file has it.
fn register(dir: &Path) -> td::Register {
    let bytes = std::fs::read(dir.join("measurements/rtmr3:sha384")).unwrap();
    bytes.try_into().unwrap()
}

/// That log, register, checkpoints and list belong together, and nothing was extended but by checkpoints.
fn holds(evidence: &Evidence, dir: &Path, extended: u64) {
    let files: Vec<SealedCheckpoint> = evidence
        .checkpoints
        .iter()
        .map(|file| SealedCheckpoint::from_file(file).unwrap())
        .collect();
    let first = files[0].checkpoint.binding.as_ref().unwrap();
    let origin = first.origin.as_ref().unwrap();
    assert_eq!((origin.register, origin.value), (3, [0x33; 48]));
    let log = &evidence.td.as_ref().unwrap().register_log;
    assert_eq!(td::log::replay(log, 3, &origin.value).unwrap(), register(dir));
    let said: Vec<_> = td::log::read(log)
        .unwrap()
        .map(|extension| {
            extension
                .map(|extension| (extension.checkpoint(), extension.digest))
                .unwrap()
        })
        .collect();
    let sealed: Vec<_> = files
        .iter()
        .map(|file| (Some(file.checkpoint.number), td::checkpoint_digest(&file.file)))
        .collect();
    assert_eq!(said, sealed);
    assert_eq!(extended, files.len() as u64);
    for file in &files {
        let mut list = ListChain::default();
        for entry in evidence.list.iter().take(file.checkpoint.list_len as usize) {
            match entry {
                Entry::Full(bytes) => list.push(bytes),
                Entry::Opaque { .. } => panic!("a redacted entry"),
            }
        }
        let binding = file.checkpoint.binding.as_ref().unwrap();
        assert_eq!(binding.list, list.value());
        assert!(!file.checkpoint.blind);
    }
}

fn use_files(core: &mut Core<Software>, round: u64) {
    for actor in 0..=PODS {
        let n = round * 10 + actor;
        core.machine.measure(actor, &format!("/opt/{n}"), &content(n));
    }
    core.machine.publish();
}

#[test]
fn rounds_of_one_register_are_together_the_whole_and_a_delta_has_the_logs_end_alone() {
    for places in [&[RTMR][..], &[Place::Pcr10, RTMR]] {
        let dir = tempfile::tempdir().unwrap();
        let mut core = machine(dir.path(), places).start().unwrap();
        let (bytes, mut cursor) = written(round(&mut core, None).unwrap());
        let mut all = Evidence::from_cbor(&bytes).unwrap();
        holds(&all, dir.path(), core.machine.extended);
        for number in 1..4 {
            use_files(&mut core, number);
            let (bytes, next) = written(round(&mut core, Some(&cursor)).unwrap());
            let delta = EvidenceDelta::from_cbor(&bytes).unwrap();
            let new = delta.td.as_ref().unwrap();
            assert_eq!(td::log::read(&new.register_log).unwrap().count(), 1);
            assert_eq!(new.ccel, None);
            all = delta.join(all).unwrap();
            let (whole, _) = written(core.assembly(None, vec![]).unwrap());
            let whole = Evidence::from_cbor(&whole).unwrap();
            assert_eq!(all.td, whole.td);
            holds(&whole, dir.path(), core.machine.extended);
            cursor = next;
        }
    }
}

#[test]
fn killed_before_and_behind_each_access_each_checkpoint_extends_the_register_once() {
    for places in [&[RTMR][..], &[Place::Pcr10, RTMR]] {
        let mut kills = 0;
        for dies_in in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let mut machine = machine(dir.path(), places);
            machine.dies_in = Some(dies_in);
            // At the start, before anything is extended, it may die as well.
            let mut core = loop {
                match machine.start() {
                    Ok(core) => break core,
                    Err(EngineError::Anchor(_)) => {
                        kills += 1;
                        let dir = dir.path().to_owned();
                        std::fs::remove_dir_all(&dir).unwrap();
                        std::fs::create_dir(&dir).unwrap();
                        machine = self::machine(&dir, places);
                    }
                    Err(other) => panic!("{other}"),
                }
            };
            let mut rounds = 0;
            while rounds < 3 {
                use_files(&mut core, rounds + 1);
                match round(&mut core, None) {
                    Ok(assembly) => {
                        rounds += 1;
                        let evidence = Evidence::from_cbor(&written(assembly).0).unwrap();
                        holds(&evidence, dir.path(), core.machine.extended);
                    }
                    Err(Killed) => {
                        kills += 1;
                        let mut machine = core.machine;
                        (machine.dead, machine.dies_in) = (false, None);
                        core = machine.start().unwrap();
                    }
                }
            }
            if core.machine.dies_in.is_some() {
                break;
            }
        }
        // Origin, then for each of four checkpoints two readings and an extension, each from two sides.
        assert!(kills >= 2 + 4 * 6, "{kills} kills");
    }
}

#[test]
fn other_anchors_than_those_of_the_first_checkpoint_are_refused() {
    for (places, named) in [
        (&[Place::Pcr10, RTMR][..], "PCR 10 and RTMR 3"),
        (&[Place::Pcr10], "PCR 10"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut core = machine(dir.path(), &[RTMR]).start().unwrap();
        round(&mut core, None).unwrap();
        let mut machine = core.machine;
        machine.places = places.to_vec();
        let error = machine.start().err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, EngineError::AnchorsChanged { .. }), "{text}");
        assert!(
            text.contains(&format!("anchored at RTMR 3, not at {named};")),
            "{text}"
        );
    }
}
