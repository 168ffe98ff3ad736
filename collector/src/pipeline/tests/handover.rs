//! A handover in the model of a node: what is named and when it is let in, and what a crash at any point
//! leaves.

use super::*;
use cgpath_evidence::Collectors;

pub(super) fn program(content: &str) -> Digest {
    Bank::Sha256.hash(&[content.as_bytes()])
}

/// A file at this path is executed, as the kernel side records it.
fn file(path: &str, hash: decode::KernelHash) -> FileEvent {
    let Body::File(event) = raw_exec(0, 3, 0, path).body else {
        unreachable!("an execution is of a file")
    };
    FileEvent { hash, ..event }
}

fn good(content: &str) -> FileEvent {
    file(PROGRAM, decode::KernelHash::Digest(program(content)))
}

impl World {
    /// The collector executes the file at its own path.
    pub(super) fn try_program(&mut self) -> Option<u32> {
        let file = self.file.clone()?;
        self.next_tgid += 1;
        let tgid = self.next_tgid;
        self.happen(|seq| {
            let task = task(3, tgid);
            decode::Event {
                seq,
                boot_ns: seq * 10,
                body: Body::File(FileEvent { task, ..file }),
            }
        });
        Some(tgid)
    }

    /// Checkpoints that the journal has.
    fn sealed(&self) -> Vec<Checkpoint> {
        let sealed = self.journal.iter().filter_map(|fact| match fact {
            Fact::Note(Note::Sealed(sealed)) => Some(sealed.checkpoint.clone()),
            _ => None,
        });
        sealed.collect()
    }
}

impl Run {
    fn hand_over(&mut self, w: &mut World, id: u64, fuel: &mut u64) -> Result<(), Crash> {
        self.tell(w, Signal::Handover { id }, fuel)?;
        self.settle(w, fuel)
    }

    /// Programs that were executed by records with numbers up to this one.
    fn executed(&self, through: u64) -> Vec<Digest> {
        let records = self.leaves.values().flatten();
        let records = records.map(|leaf| Record::from_cbor(leaf).unwrap());
        records
            .filter(|record| record.seq <= through && record.path == PROGRAM.as_bytes())
            .filter_map(|record| match record.hash {
                Some(FileHash::Measured(program)) => Some(program),
                _ => None,
            })
            .collect()
    }
}

fn stated(c: &Checkpoint) -> (Digest, Option<Digest>) {
    let Collectors { program, successor } = c.collectors.clone().unwrap();
    (program, successor)
}

/// What a verifier asks of the programs that checkpoints state.
fn check_programs(w: &World, run: &Run) {
    let chain = w.sealed();
    assert_eq!(stated(&chain[0]).1, None);
    for pair in chain.windows(2) {
        let [was, now] = pair else { unreachable!() };
        let (before, after) = (was.collectors.as_ref().unwrap(), now.collectors.as_ref().unwrap());
        assert!(before.counts(&after.program), "checkpoint {}", now.number);
        assert!(after.program == before.program || now.starts > was.starts);
        if let Some(next) = after.successor.as_ref().filter(|next| !before.counts(next)) {
            assert!(
                run.executed(now.last_seq).contains(next),
                "checkpoint {}",
                now.number
            );
        }
    }
}

#[test]
fn a_handover_names_what_the_kernel_hashed_and_the_new_program_goes_on_with_the_chain() {
    let (mut w, mut run, mut fuel) = begun();
    script(&mut w, 0);
    w.file = Some(good("two"));
    run.hand_over(&mut w, 7, &mut fuel).unwrap();
    assert_eq!(
        (run.answers.as_slice(), run.failures.as_slice()),
        (&[7][..], &[][..])
    );
    let both = (program("one"), Some(program("two")));
    assert_eq!(stated(&w.sealed()[1]), both);
    assert_eq!(w.known, Some(program("two")));
    // The old one goes on until it is ended.
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!(stated(&w.sealed()[2]), both);
    check_programs(&w, &run);

    w.program = "two";
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    run.request(&mut w, 2, &mut fuel).unwrap();
    let last = w.sealed().pop().unwrap();
    assert_eq!((stated(&last), last.starts), ((program("two"), None), 2));
    check_programs(&w, &run);
    check_chain(&w);
}

#[test]
fn a_handover_to_the_program_that_runs_withdraws_the_one_before() {
    let (mut w, mut run, mut fuel) = begun();
    w.file = Some(good("two"));
    run.hand_over(&mut w, 7, &mut fuel).unwrap();
    w.file = Some(good("one"));
    run.hand_over(&mut w, 8, &mut fuel).unwrap();
    assert_eq!(run.answers, [7, 8]);
    assert_eq!(stated(&w.sealed()[2]), (program("one"), None));
    assert_eq!(w.known, Some(program("one")));
    check_programs(&w, &run);
}

#[test]
fn nothing_is_named_that_the_kernel_did_not_hash_at_the_collectors_path() {
    let cut = FileEvent {
        path_cut: true,
        ..good("two")
    };
    let early = FileEvent {
        pre_check: true,
        ..good("two")
    };
    let refused = [
        None,
        Some(file("/usr/bin/sh", decode::KernelHash::Digest(program("two")))),
        Some(cut),
        Some(early),
        Some(file(PROGRAM, decode::KernelHash::Failed(-5))),
        Some(file(PROGRAM, decode::KernelHash::NotTried)),
    ];
    for file in refused {
        let (mut w, mut run, mut fuel) = begun();
        w.file.clone_from(&file);
        run.hand_over(&mut w, 7, &mut fuel).unwrap();
        assert!(
            matches!(run.failures.as_slice(), [SealError::Successor { .. }]),
            "{file:?}: {:?}",
            run.failures
        );
        assert_eq!((w.sealed().len(), run.answers.len()), (1, 0), "{file:?}");
        assert_eq!(w.known, Some(program("one")));
        // And it is as if nothing had been asked.
        run.request(&mut w, 1, &mut fuel).unwrap();
        assert_eq!(stated(&w.sealed()[1]), (program("one"), None));
        check_chain(&w);
    }
}

#[test]
fn an_execution_that_is_not_seen_hands_over_nothing() {
    let (mut w, mut run, mut fuel) = begun();
    let actions = run.pipeline.handle(Signal::Handover { id: 7 }, run.now).unwrap();
    assert_eq!(actions, [Action::TrySuccessor]);
    let actions = run
        .pipeline
        .handle(Signal::Canary { tgid: Some(4242) }, run.now)
        .unwrap();
    for action in actions {
        run.act(&mut w, action, &mut fuel).unwrap();
    }
    run.settle(&mut w, &mut fuel).unwrap();
    let [SealError::Successor { why }] = run.failures.as_slice() else {
        panic!("{:?}", run.failures)
    };
    assert!(why.contains("not seen"), "{why}");
    assert_eq!(w.sealed().len(), 1);
}

#[test]
fn a_handover_whose_checkpoint_is_not_measured_lets_nobody_in() {
    let (mut w, mut run, mut fuel) = begun();
    w.file = Some(good("two"));
    w.measures = false;
    run.hand_over(&mut w, 7, &mut fuel).unwrap();
    assert_eq!(run.failures, [SealError::NotMeasured { number: 1 }]);
    assert_eq!(w.known, Some(program("one")));
    w.measures = true;
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!(stated(&w.sealed()[2]), (program("one"), None));
    assert_eq!(w.known, Some(program("one")));
}

/// Records, a handover in their midst, and records behind it.
fn play_handover(w: &mut World, fuel: &mut u64) -> Result<(), Crash> {
    let mut run = Run::start(w, fuel)?;
    run.settle(w, fuel)?;
    script(w, 0);
    run.request(w, 1, fuel)?;
    w.file = Some(good("two"));
    script(w, 1);
    run.hand_over(w, 7, fuel)?;
    script(w, 3);
    run.request(w, 2, fuel)?;
    w.program = "two";
    let mut run = Run::start(w, fuel)?;
    run.settle(w, fuel)?;
    run.request(w, 3, fuel)
}

#[test]
fn a_crash_at_any_point_of_a_handover_leaves_one_chain_and_one_program_that_goes_on() {
    let total = {
        let (mut w, mut fuel) = (World::new(), u64::MAX);
        play_handover(&mut w, &mut fuel).unwrap();
        u64::MAX - fuel
    };
    let (mut goes_on, mut strangers) = (BTreeMap::new(), 0);
    for crash_at in 0..total {
        let mut w = World::new();
        let mut fuel = crash_at;
        play_handover(&mut w, &mut fuel).unwrap_err();
        // The program that the last checkpoint hands over to, or else the one that sealed it.
        let next = w.sealed().last().map_or(program("one"), |last| {
            let (program, successor) = stated(last);
            successor.unwrap_or(program)
        });
        w.program = if next == program("two") { "two" } else { "one" };
        // What the guard knows does not change by a crash.
        strangers += u64::from(w.known.as_ref().is_some_and(|known| *known != next));
        *goes_on.entry(w.program).or_insert(0) += 1;
        let mut fuel = u64::MAX;
        let mut run = Run::start(&mut w, &mut fuel).unwrap();
        run.settle(&mut w, &mut fuel).unwrap();
        script(&mut w, 2);
        run.request(&mut w, 9, &mut fuel).unwrap();
        let last = w.sealed().pop().unwrap();
        assert_eq!(stated(&last), (next, None), "crash at {crash_at}");
        check_programs(&w, &run);
        check_chain(&w);
        assert_eq!(run.pipeline.unjoined(), 0, "crash at {crash_at}");
    }
    assert!(goes_on["one"] > 0 && goes_on["two"] > 0, "{goes_on:?}");
    // Between the checkpoint that names the program and the moment in which it is let in.
    assert!(strangers > 0 && strangers < total / 10, "{strangers} of {total}");
}
