//! Checkpoints that extend a register, with another writer beside them and crashes between any two steps.

use super::*;
use cgpath_evidence::boot::EventType;

const RTMR: Place = Place::Rtmr(3);

/// What the engine notes of the anchors at its start.
pub(super) fn anchors(w: &World) -> Anchors {
    let register = w.places.contains(&RTMR).then(|| Found {
        index: 3,
        value: w.register,
        others: count_events(&w.others, 3),
    });
    Anchors {
        pcr10: w.has_list_anchor(),
        register,
    }
}

/// The other writer logs an event and extends the register.
fn other(w: &mut World) {
    let n = w.others.len() as u8;
    td::log::append(&mut w.others, 3, EventType::EVENT_TAG, &[n; 48], b"of others");
    w.register = td::extend(&w.register, &[n; 48]);
}

/// The other writer's turn.
pub(super) fn meddle(w: &mut World) {
    if w.meddles.pop_front() == Some(true) {
        other(w);
    }
}

/// What a write to the register's file does.
pub(super) fn extend(w: &mut World, number: u64) {
    meddle(w);
    if w.stuck {
        return;
    }
    let file = w
        .files
        .iter()
        .rfind(|file| file.checkpoint.number == number)
        .unwrap();
    w.register = td::extend(&w.register, &td::checkpoint_digest(&file.file));
    w.extended += 1;
}

/// That every checkpoint has extended the register once, in order, and the log says so.
pub(super) fn check(w: &World, run: &Run) {
    let Some(tail) = run.pipeline.log_tail() else {
        assert!(!w.places.contains(&RTMR));
        assert_eq!((w.extended, run.log.len()), (0, 0));
        return;
    };
    let chain: Vec<&SealedCheckpoint> = w
        .journal
        .iter()
        .filter_map(|fact| match fact {
            Fact::Note(Note::Sealed(sealed)) => Some(&**sealed),
            _ => None,
        })
        .collect();
    let log = [&run.log[..], &tail.bytes].concat();
    let said: Vec<(u64, td::Register)> = td::log::read(&log)
        .unwrap()
        .filter_map(|extension| {
            let extension = extension.unwrap();
            Some((extension.checkpoint()?, extension.digest))
        })
        .collect();
    let sealed: Vec<(u64, td::Register)> = chain
        .iter()
        .map(|file| (file.checkpoint.number, td::checkpoint_digest(&file.file)))
        .collect();
    assert_eq!(said, sealed);
    assert_eq!(w.extended, chain.len() as u64, "each checkpoint once");
    let origin = chain[0]
        .checkpoint
        .binding
        .as_ref()
        .unwrap()
        .origin
        .as_ref()
        .unwrap();
    assert_eq!((origin.register, origin.node_key), (3, [4; 33]));
    assert_eq!(td::log::replay(&log, 3, &origin.value).unwrap(), w.register);
    for file in chain {
        let binding = file.checkpoint.binding.as_ref().unwrap();
        assert_eq!(binding.origin.is_some(), file.checkpoint.number == 0);
        let mut list = ListChain::default();
        let entries = w.list.iter().take(file.checkpoint.list_len as usize);
        entries.for_each(|entry| list.push(&entry.bytes));
        assert_eq!(binding.list, list.value());
        let sealed = run.leaves.values().flatten();
        let sealed = sealed.map(|leaf| Record::from_cbor(leaf).unwrap());
        for record in sealed.filter(|record| record.seq <= file.checkpoint.last_seq) {
            let is_named = |entry: &JoinableEntry| entry.name[..] == record.path[..];
            if record.kind == EventKind::Entry && record.ret == 0 {
                let at = w.list.iter().position(is_named).unwrap();
                assert!(
                    (at as u64) < file.checkpoint.list_len,
                    "checkpoint {} seals the record of entry {at} and does not bind it",
                    file.checkpoint.number
                );
            }
        }
    }
}

/// A node with checkpoint 0.
fn started(places: &[Place]) -> (World, Run) {
    let mut w = World::anchored_at(places);
    let mut run = Run::start(&mut w, &mut u64::MAX.clone()).unwrap();
    run.settle(&mut w, &mut u64::MAX.clone()).unwrap();
    (w, run)
}

#[test]
fn a_checkpoint_is_answered_once_it_is_anchored_at_every_place() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = started(&[Place::Pcr10, RTMR]);
    w.measures = false;
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!(run.failures, [SealError::NotMeasured { number: 1 }]);
    assert_eq!(
        (run.answers.as_slice(), w.extended),
        (&[][..], 1),
        "PCR 10 comes first"
    );
    w.measures = true;
    run.request(&mut w, 2, &mut fuel).unwrap();
    assert_eq!((run.answers.as_slice(), w.extended), (&[2][..], 3));
    check_chain(&w);
    check(&w, &run);
}

#[test]
fn without_pcr_10_no_file_is_read_and_no_checkpoint_is_blind_for_it() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = started(&[RTMR]);
    w.measures = false;
    for step in 0..4 {
        script(&mut w, step);
        run.request(&mut w, step, &mut fuel).unwrap();
    }
    assert_eq!(
        (run.answers.as_slice(), run.failures.len()),
        (&[1, 2, 3, 4][..], 0)
    );
    check_chain(&w);
    check(&w, &run);
}

#[test]
fn an_entry_that_is_listed_while_records_are_waited_for_is_bound_by_the_checkpoint_that_seals_its_record() {
    for places in [&[RTMR][..], &[Place::Pcr10, RTMR]] {
        let mut fuel = u64::MAX;
        let (mut w, mut run) = started(places);
        w.late = Some("/opt/late");
        run.request(&mut w, 1, &mut fuel).unwrap();
        let checkpoint = &w.files[1].checkpoint;
        let record = run.leaves.values().flatten();
        let mut record = record.map(|leaf| Record::from_cbor(leaf).unwrap());
        let record = record.find(|record| record.path == b"/opt/late").unwrap();
        assert!(record.seq <= checkpoint.last_seq);
        let at = w.list.iter().position(|entry| entry.name[..] == *b"/opt/late");
        assert!(checkpoint.list_len > at.unwrap() as u64, "{places:?}");
        check(&w, &run);
    }
}

/// The failure that the last request or start ended with.
fn shared(run: &Run) -> &SharedRegister {
    match run.failures.last() {
        Some(SealError::SharedRegister(shared)) => shared,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_writer_is_refused_by_name_while_running_and_at_a_start() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = started(&[RTMR]);
    let left = w.register;
    other(&mut w);
    run.request(&mut w, 1, &mut fuel).unwrap();
    let said = shared(&run);
    assert_eq!((said.index, said.number), (3, 1));
    assert_eq!((said.found, said.before), (w.register, left));
    assert!(run.answers.is_empty());
    assert!(
        run.failures[0]
            .to_string()
            .starts_with("shared-register: RTMR 3 holds")
    );
    // It stays so: nothing is extended behind what nobody can explain.
    let mut again = Run::start(&mut w, &mut fuel).unwrap();
    again.settle(&mut w, &mut fuel).unwrap();
    assert_eq!(shared(&again).found, w.register);
    again.request(&mut w, 2, &mut fuel).unwrap();
    assert_eq!((again.answers.len(), w.extended), (0, 1));
}

#[test]
fn a_writer_whose_log_is_known_stands_in_the_log_and_one_that_is_not_in_its_log_is_refused() {
    let mut fuel = u64::MAX;
    let mut w = World::anchored_at(&[RTMR]);
    w.other_writer = true;
    // What it did before is the origin's.
    other(&mut w);
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    other(&mut w);
    other(&mut w);
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!((run.answers.as_slice(), w.extended), (&[1][..], 2));
    check(&w, &run);
    let mut again = Run::start(&mut w, &mut fuel).unwrap();
    again.settle(&mut w, &mut fuel).unwrap();
    check(&w, &again);
    w.register = td::extend(&w.register, &[0xee; 48]);
    again.request(&mut w, 2, &mut fuel).unwrap();
    assert_eq!(shared(&again).number, 2);
}

#[test]
fn a_register_that_does_not_change_is_an_error_of_each_request_and_nothing_is_answered() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = started(&[RTMR]);
    w.stuck = true;
    for id in 1..3 {
        run.request(&mut w, id, &mut fuel).unwrap();
        let same = SealError::NotExtended { index: 3, number: 1 };
        assert_eq!(run.failures.last(), Some(&same));
    }
    assert!(run.answers.is_empty());
    w.stuck = false;
    run.request(&mut w, 3, &mut fuel).unwrap();
    assert_eq!(run.answers, [2]);
}

#[test]
fn a_journal_of_other_places_or_another_node_key_is_refused() {
    let (w, _) = started(&[RTMR]);
    let replay = |setup: Setup, journal: &[Fact]| {
        let mut pipeline = Pipeline::new(setup);
        journal.iter().find_map(|fact| {
            pipeline
                .handle(Event::Journaled(fact.clone()), Duration::ZERO)
                .err()
        })
    };
    assert_eq!(replay(w.setup(), &w.journal), None);
    let other_key = Setup {
        node_key: Some([5; 33]),
        ..w.setup()
    };
    let diverged = |number, what| Some(Error::Diverged { number, what });
    assert_eq!(replay(other_key, &w.journal), diverged(0, "register"));
    let is_anchors = |fact: &Fact| matches!(fact, Fact::Note(Note::Anchors(_)));
    let without: Vec<Fact> = w
        .journal
        .iter()
        .filter(|fact| !is_anchors(fact))
        .cloned()
        .collect();
    assert_eq!(replay(w.setup(), &without), diverged(0, "register"));
    let mut twice = w.journal.clone();
    twice.push(w.journal.iter().find(|fact| is_anchors(fact)).unwrap().clone());
    assert_eq!(replay(w.setup(), &twice), diverged(0, "places of anchoring"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whoever_extends_it_and_whenever_the_collector_dies_each_checkpoint_extends_the_register_once(
        both in any::<bool>(),
        // Before each register access of a round, whether the other writer extends it; and after how many
        // steps the collector dies.
        rounds in prop::collection::vec(
            (
                prop::collection::vec(any::<bool>(), 0..4),
                prop::option::weighted(0.7, 0u64..60),
                prop::collection::vec(any::<bool>(), 0..3),
            ),
            1..10,
        ),
    ) {
        let places = [Place::Pcr10, RTMR];
        let mut w = World::anchored_at(if both { &places } else { &places[1..] });
        w.other_writer = true;
        let mut run = Run::start(&mut w, &mut u64::MAX.clone()).unwrap();
        run.settle(&mut w, &mut u64::MAX.clone()).unwrap();
        for (n, (meddles, dies, after)) in rounds.into_iter().enumerate() {
            w.meddles = meddles.into();
            let mut fuel = dies.unwrap_or(u64::MAX);
            if run.request(&mut w, n as u64, &mut fuel).is_err() {
                w.meddles = after.into();
                run = Run::start(&mut w, &mut u64::MAX.clone()).unwrap();
                run.settle(&mut w, &mut u64::MAX.clone()).unwrap();
            }
            w.meddles.clear();
        }
        run.request(&mut w, 99, &mut u64::MAX.clone()).unwrap();
        prop_assert!(run.failures.is_empty(), "{:?}", run.failures);
        prop_assert_eq!(run.evidence.last(), Some(&99));
        check_chain(&w);
        check(&w, &run);
    }
}
