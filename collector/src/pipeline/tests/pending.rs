//! What stands behind a seal: shown at once, sealed by the next checkpoint, whatever happens in between.

use super::*;

/// Two pods with a container each, and checkpoint 0.
fn pods(fuel: &mut u64) -> (World, Run) {
    let mut w = World::new();
    let mut run = Run::start(&mut w, fuel).unwrap();
    run.settle(&mut w, fuel).unwrap();
    script(&mut w, 0);
    script(&mut w, 1);
    (w, run)
}

#[test]
fn an_entry_whose_record_is_late_is_named_by_a_mark_and_then_by_its_record() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = pods(&mut fuel);
    w.happens(&Happening::Begin(11));
    run.request(&mut w, 1, &mut fuel).unwrap();
    let mark = InFlight {
        tid: w.inside[0].mark.tid,
        since_ns: w.inside[0].mark.since_ns,
        cgroup: Some(format!("/kubepods/{POD_A}/container").into_bytes()),
    };
    assert_eq!((&w.marks[..], w.shown.len()), (&[mark.clone()][..], 1));
    // The same thread is known by the same mark in each round; one that ends while the quote is made shows
    // its record.
    w.meanwhile.extend([Happening::Begin(21), Happening::Add(21)]);
    run.request(&mut w, 2, &mut fuel).unwrap();
    assert_eq!(w.marks[0], mark);
    assert_eq!(w.marks.len(), 2);
    w.meanwhile.push_back(Happening::End(0));
    run.request(&mut w, 3, &mut fuel).unwrap();
    assert_eq!(w.marks.len(), 1);
    assert_ne!(w.marks[0], mark);
    // Three anchors, what was added, and what was late.
    assert_eq!((run.evidence.as_slice(), w.shown.len()), (&[1, 2, 3][..], 5));
    run.request(&mut w, 4, &mut fuel).unwrap();
    check_chain(&w);
}

#[test]
#[should_panic(expected = "was shown and is sealed otherwise")]
fn a_record_that_is_sealed_otherwise_than_it_was_shown_is_seen() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = pods(&mut fuel);
    w.meanwhile.push_back(Happening::Add(21));
    run.request(&mut w, 1, &mut fuel).unwrap();
    let shown = w.shown.values_mut().next_back().unwrap();
    *shown.last_mut().unwrap() ^= 1;
    run.request(&mut w, 2, &mut fuel).unwrap();
}

#[test]
#[should_panic(expected = "has no name")]
fn an_entry_that_nothing_names_is_seen() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = pods(&mut fuel);
    w.happens(&Happening::Begin(11));
    // The mark could not be made.
    w.inside.clear();
    run.request(&mut w, 1, &mut fuel).unwrap();
}

#[test]
fn nothing_is_sealed_while_a_quote_is_made_and_a_request_without_one_holds_nobody_up() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = pods(&mut fuel);
    run.request(&mut w, 1, &mut fuel).unwrap();
    // A checkpoint leaves two records by itself.
    run.pipeline.setup.seal_records = 3;
    script(&mut w, 3);
    run.pipeline.phase = Phase::Quoting { id: 2 };
    run.tell(
        &mut w,
        Signal::Request {
            id: 3,
            nonce: vec![3; 16],
        },
        &mut fuel,
    )
    .unwrap();
    while run.consume(&mut w, &mut fuel).unwrap() {}
    assert_eq!((w.files.len(), run.pipeline.is_quoting()), (2, true));
    // Another's quote is no news.
    run.tell(&mut w, Signal::Unquoted { id: 9 }, &mut fuel).unwrap();
    assert!(run.pipeline.is_quoting());
    run.tell(&mut w, Signal::Unquoted { id: 2 }, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    assert_eq!(run.evidence, [1, 3]);
}

#[test]
fn records_behind_one_that_was_lost_are_shown_and_one_that_is_late_is_waited_for() {
    let mut fuel = u64::MAX;
    let (mut w, mut run) = pods(&mut fuel);
    w.meanwhile
        .extend([Happening::Add(11), Happening::Lose, Happening::Add(21)]);
    let before = run.now;
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!(w.shown.len(), 3, "the anchor and both files");
    assert!(run.now - before < Duration::from_secs(5));
    // A number is taken while the quote is made, and what came under the next one waits behind it: shown as
    // soon as the record is there.
    run.request(&mut w, 2, &mut fuel).unwrap();
    run.pipeline.phase = Phase::Quoting { id: 3 };
    let name = "/held/up";
    w.list.push(listed(w.list.len() as u64, name));
    w.seq += 1;
    let late = raw_entry(w.seq, 11, name, 0);
    w.happens(&Happening::Add(21));
    w.covered = w.list.len() as u64;
    run.tell(&mut w, Signal::Quoted { id: 3 }, &mut fuel).unwrap();
    while run.consume(&mut w, &mut fuel).unwrap() {}
    run.tell(&mut w, Signal::Tick, &mut fuel).unwrap();
    assert!(run.pipeline.wants_ticks());
    assert_eq!(run.evidence, [1, 2]);
    w.ring.push_back(late);
    run.settle(&mut w, &mut fuel).unwrap();
    assert_eq!(run.evidence, [1, 2, 3]);
    assert_eq!(run.pipeline.losses().spool, 0);
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => prop_oneof![Just(3u64), Just(11), Just(21)].prop_map(Happening::Begin),
        4 => any::<usize>().prop_map(Happening::End),
        3 => prop_oneof![Just(3u64), Just(11), Just(21)].prop_map(Happening::Add),
        1 => Just(Happening::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whoever_asks_and_whatever_happens_the_next_checkpoint_states_and_seals_what_was_shown(
        // What happens before each round and while its quotes are made, who asks, whether the TPM answers,
        // and after how many steps the collector dies.
        rounds in prop::collection::vec(
            (
                prop::collection::vec(happening(), 0..6),
                prop::collection::vec(happening(), 0..6),
                1u64..4,
                prop::bool::weighted(0.2),
                prop::option::weighted(0.5, 0u64..120),
            ),
            1..8,
        ),
        seal_records in prop_oneof![Just(0u64), 3u64..12],
    ) {
        let mut w = World::new();
        let mut run = Run::start(&mut w, &mut u64::MAX.clone()).unwrap();
        run.settle(&mut w, &mut u64::MAX.clone()).unwrap();
        script(&mut w, 0);
        script(&mut w, 1);
        for (before, meanwhile, askers, mute, dies) in rounds {
            run.pipeline.setup.seal_records = seal_records;
            before.iter().for_each(|what| w.happens(what));
            w.meanwhile = meanwhile.into();
            w.mute = mute;
            let mut fuel = dies.unwrap_or(u64::MAX);
            let ask = |run: &mut Run, w: &mut World, fuel: &mut u64| {
                // All at once.
                for id in 0..askers {
                    run.pipeline.queue.push_back(Purpose::Request { id, nonce: vec![id as u8; 16] });
                }
                run.tell(w, Signal::Tick, fuel)?;
                run.settle(w, fuel)
            };
            let answered = run.evidence.len();
            if ask(&mut run, &mut w, &mut fuel).is_err() {
                run = Run::start(&mut w, &mut u64::MAX.clone()).unwrap();
                run.settle(&mut w, &mut u64::MAX.clone()).unwrap();
            } else if !mute {
                prop_assert_eq!((run.evidence.len() - answered) as u64, askers);
            }
        }
        w.mute = false;
        run.request(&mut w, 9, &mut u64::MAX.clone()).unwrap();
        prop_assert_eq!(run.evidence.last(), Some(&9));
        // Each number was sealed at most once.
        let all: Vec<u64> = seqs(&run.leaves).into_values().flatten().collect();
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
