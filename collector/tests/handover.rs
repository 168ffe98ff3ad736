//! A handover by the real engine on a machine made of software: what is sealed, measured and let in, and what
//! the journal says of who may go on.

use crate::common::machine::{BOOT_ID, PODS, PROGRAM, Software, content, program, take};
use cgpath_evidence::{Bank, Collectors, SealedCheckpoint};
use cgpathd::engine::core::{Core, Outcome};
use cgpathd::journal::Journal;
use cgpathd::pipeline::SealError;

/// Asks for a handover and gives what came of it.
fn hand_over(core: &mut Core<Software>) -> Outcome {
    core.hand_over(5).unwrap();
    for _ in 0..20 {
        take(core).unwrap();
        core.tick().unwrap();
        if let Some(outcome) = core.take_outcomes().pop() {
            return outcome;
        }
    }
    panic!("nothing came of it in twenty turns");
}

#[test]
fn a_handover_is_sealed_and_measured_before_it_lets_in_and_the_journal_says_to_whom() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Software::boot(dir.path(), PODS).unwrap();
    let next = Bank::Sha256.hash(&[b"the next collector"]);
    core.machine.file = Some(next.clone());
    let Outcome::HandedOver {
        id: 5,
        number: 1,
        program: named,
    } = hand_over(&mut core)
    else {
        panic!("not handed over")
    };
    assert_eq!((&named, &core.machine.let_in), (&next, &vec![next.clone()]));
    let path = dir.path().join("checkpoints/1");
    let file = SealedCheckpoint::from_file(&std::fs::read(path).unwrap()).unwrap();
    let both = Collectors {
        program: program(),
        successor: Some(next.clone()),
    };
    assert_eq!(file.checkpoint.collectors, Some(both.clone()));

    // Asked once more with its own file in place: it withdraws.
    core.machine.file = Some(program());
    assert!(matches!(
        hand_over(&mut core),
        Outcome::HandedOver { number: 2, .. }
    ));
    assert_eq!(core.machine.let_in, [next, program()]);
    drop(core);
    let journal = Journal::open(dir.path(), &BOOT_ID).unwrap();
    let last = journal.last_seal().unwrap();
    assert_eq!(
        (last.number, last.collectors.as_ref()),
        (
            2,
            Some(&Collectors {
                program: program(),
                successor: None
            })
        )
    );
}

#[test]
fn a_file_that_cannot_be_executed_or_is_not_seen_is_not_handed_over_to() {
    for (file, deaf, words) in [
        (None, false, "could not be executed"),
        (Some(content(3)), true, "was not seen"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut core = Software::boot(dir.path(), PODS).unwrap();
        core.machine.file = file;
        core.machine.deaf = deaf;
        let Outcome::Failed {
            id: Some(5),
            error: SealError::Successor { why },
        } = hand_over(&mut core)
        else {
            panic!("handed over")
        };
        assert!(why.contains(words) && why.contains(PROGRAM), "{why}");
        assert!(core.machine.let_in.is_empty());
        assert!(!dir.path().join("checkpoints/1").exists());
    }
}
