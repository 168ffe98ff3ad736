//! Names in the model of a node: what a runtime says becomes records of those whom the kernel showed, each
//! once, whatever it says, whenever it says it, and wherever a crash comes.

use super::*;
use cgpath_evidence::{ContainerName, Named, PodName};

const POD_C: &str = "pod33333333-3333-3333-3333-333333333333";

fn uid(pod: &str) -> PodUid {
    PodUid::parse(&pod.as_bytes()[3..]).unwrap()
}

fn id(n: u64) -> String {
    format!("{n:064x}")
}

fn pod(pod: &str, name: &str) -> Stated {
    let named = Named::Pod(PodName {
        namespace: "shop".into(),
        name: name.into(),
        labels: vec![("app".into(), "web".into())],
        labels_left_out: false,
    });
    let (uid, boot_ns) = (uid(pod), 1);
    Stated { uid, boot_ns, named }
}

fn container(pod: &str, n: u64, name: &str) -> Stated {
    let named = Named::Container(ContainerName {
        id: id(n),
        name: name.into(),
        sandbox: name.is_empty(),
        image: String::new(),
        references: Vec::new(),
    });
    let (uid, boot_ns) = (uid(pod), 2);
    Stated { uid, boot_ns, named }
}

fn gone(seq: u64, id: u64) -> decode::Event {
    let mut event = raw_cgroup(seq, id, 2, "");
    if let Body::Cgroup(cgroup) = &mut event.body {
        cgroup.change = CgroupChange::Gone;
    }
    event
}

/// Names in a partition, in their order.
fn named(run: &Run, pod: &str) -> Vec<Named> {
    let leaves = run.leaves.get(&PartitionKey::Pod(uid(pod)));
    let records = leaves
        .into_iter()
        .flatten()
        .map(|leaf| Record::from_cbor(leaf).unwrap());
    records
        .filter(|record| record.kind == EventKind::Name)
        .map(|record| {
            assert!(Named::is_record(&record), "{record:?}");
            let own = format!("/kubepods/{pod}").into_bytes();
            assert_eq!(record.cgroup, Some(own));
            *record.name.unwrap()
        })
        .collect()
}

fn words(stated: &[Stated]) -> Vec<Named> {
    stated.iter().map(|stated| stated.named.clone()).collect()
}

impl Run {
    fn say(&mut self, w: &mut World, stated: &[Stated], fuel: &mut u64) -> Result<(), Crash> {
        self.tell(w, Signal::Stated(stated.to_vec()), fuel)
    }
}

/// A pod with a sandbox (8) and a container (9).
fn runs(w: &mut World) {
    w.happen(|s| raw_cgroup(s, 10, 2, POD_A));
    w.happen(|s| raw_cgroup(s, 11, 10, &id(8)));
    w.happen(|s| raw_cgroup(s, 12, 10, &id(9)));
    w.happen(|s| raw_exec(s, 12, 50, "/bin/app"));
}

#[test]
fn a_name_is_sealed_in_the_pods_partition_by_its_own_directory_and_takes_no_number() {
    let (mut w, mut run, mut fuel) = begun();
    runs(&mut w);
    while run.consume(&mut w, &mut fuel).unwrap() {}
    assert_eq!(run.pipeline.unnamed(), Unnamed { seen: 3, left: 3 });
    let all = [
        pod(POD_A, "web"),
        container(POD_A, 8, ""),
        container(POD_A, 9, "web"),
    ];
    let (executions, shown) = (run.pipeline.executions, run.unsealed.clone());
    run.say(&mut w, &all, &mut fuel).unwrap();
    assert_eq!(run.pipeline.executions, executions);
    assert_eq!(run.pipeline.unnamed().left, 0);
    assert_eq!(run.unsealed, shown, "no name is shown before it is sealed");
    run.request(&mut w, 1, &mut fuel).unwrap();
    check_chain(&w);
    assert_eq!(named(&run, POD_A), words(&all));
    let c = &w.files[1].checkpoint;
    let appended: usize = run.leaves.values().map(Vec::len).sum();
    // The record of the checkpoint's own entry comes after it.
    assert_eq!((c.records + 1, c.losses.total()), (appended as u64, 0));
}

#[test]
fn names_that_are_late_early_said_twice_or_otherwise_make_one_record_each() {
    let (mut w, mut run, mut fuel) = begun();
    // Before the kernel's records of the directories are read.
    run.say(
        &mut w,
        &[pod(POD_A, "web"), container(POD_A, 9, "web")],
        &mut fuel,
    )
    .unwrap();
    assert!(named(&run, POD_A).is_empty());
    runs(&mut w);
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!(
        named(&run, POD_A),
        words(&[pod(POD_A, "web"), container(POD_A, 9, "web")])
    );
    // Said again, and then something else.
    for name in ["web", "other"] {
        run.say(&mut w, &[pod(POD_A, name), container(POD_A, 9, name)], &mut fuel)
            .unwrap();
    }
    assert_eq!(named(&run, POD_A).len(), 2);
    // Behind a seal, and behind the end of both directories.
    w.happen(|s| gone(s, 11));
    w.happen(|s| gone(s, 12));
    w.happen(|s| gone(s, 10));
    run.request(&mut w, 2, &mut fuel).unwrap();
    run.say(&mut w, &[container(POD_A, 8, "")], &mut fuel).unwrap();
    run.request(&mut w, 3, &mut fuel).unwrap();
    check_chain(&w);
    assert_eq!(named(&run, POD_A).last(), Some(&container(POD_A, 8, "").named));
    assert_eq!(run.answers, [1, 2, 3]);
}

#[test]
fn a_name_that_comes_due_by_the_last_record_of_a_seal_is_in_that_seal() {
    let (mut w, mut run, mut fuel) = begun();
    let all = [pod(POD_A, "web"), container(POD_A, 9, "web")];
    run.say(&mut w, &all, &mut fuel).unwrap();
    // The request waits for these records, and the last of them makes two names due at once.
    w.happen(|s| raw_cgroup(s, 10, 2, POD_A));
    w.happen(|s| raw_cgroup(s, 12, 10, &id(9)));
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!((run.answers.as_slice(), run.failures.len()), (&[1][..], 0));
    check_chain(&w);
    let at = |what: &dyn Fn(&Note) -> bool| {
        let found = w
            .journal
            .iter()
            .rposition(|fact| matches!(fact, Fact::Note(note) if what(note)));
        found.unwrap()
    };
    assert!(at(&|note| matches!(note, Note::Named(_))) < at(&|note| matches!(note, Note::Sealed(_))));
    assert_eq!(named(&run, POD_A), words(&all));
}

#[test]
fn a_runtime_that_makes_names_up_without_end_fills_neither_journal_nor_partitions() {
    let (mut w, mut run, mut fuel) = begun();
    runs(&mut w);
    run.say(&mut w, &[pod(POD_A, "web")], &mut fuel).unwrap();
    while run.consume(&mut w, &mut fuel).unwrap() {}
    run.say(&mut w, &[pod(POD_A, "web")], &mut fuel).unwrap();
    let (facts, partitions) = (w.journal.len(), run.leaves.len());
    // In answers as long as are taken; half of them are of pods that nobody has, half of this one's.
    let mut n = 100;
    for _ in 0..12 {
        let more: Vec<Stated> = (n..n + 8192)
            .map(|n| match n % 2 {
                0 => container(POD_C, n, "made-up"),
                _ => container(POD_A, n, "made-up"),
            })
            .collect();
        n += 8192;
        run.say(&mut w, &more, &mut fuel).unwrap();
    }
    run.say(&mut w, &[pod(POD_C, "made-up")], &mut fuel).unwrap();
    assert_eq!((w.journal.len(), run.leaves.len()), (facts, partitions));
    run.request(&mut w, 1, &mut fuel).unwrap();
    check_chain(&w);
    assert_eq!(named(&run, POD_A), words(&[pod(POD_A, "web")]));
    assert!(named(&run, POD_C).is_empty());
    // What is true among all that is recorded as soon as it is said.
    run.say(&mut w, &[container(POD_A, 9, "web")], &mut fuel).unwrap();
    assert_eq!(named(&run, POD_A).len(), 2);
}

#[test]
fn a_container_is_named_in_the_pod_that_its_directory_is_in_and_in_no_other() {
    let (mut w, mut run, mut fuel) = begun();
    runs(&mut w);
    w.happen(|s| raw_cgroup(s, 20, 2, POD_B));
    while run.consume(&mut w, &mut fuel).unwrap() {}
    run.say(&mut w, &[container(POD_B, 9, "web")], &mut fuel).unwrap();
    assert_eq!((named(&run, POD_A), named(&run, POD_B)), (vec![], vec![]));
    run.say(&mut w, &[container(POD_A, 9, "web")], &mut fuel).unwrap();
    assert_eq!(named(&run, POD_A).len(), 1);
}

/// A directory is renamed, as version 1 hierarchies allow.
fn renamed(seq: u64, id: u64, name: &str) -> decode::Event {
    let mut event = raw_cgroup(seq, id, 2, name);
    if let Body::Cgroup(cgroup) = &mut event.body {
        cgroup.change = CgroupChange::Renamed;
    }
    event
}

#[test]
fn a_pod_whose_directory_was_renamed_is_named_in_no_other_partition() {
    for to in ["x", POD_B] {
        let (mut w, mut run, mut fuel) = begun();
        w.happen(|s| raw_cgroup(s, 10, 2, POD_A));
        w.happen(|s| renamed(s, 10, to));
        while run.consume(&mut w, &mut fuel).unwrap() {}
        run.say(&mut w, &[pod(POD_A, "web")], &mut fuel).unwrap();
        run.request(&mut w, 1, &mut fuel).unwrap();
        check_chain(&w);
        let records = run.leaves.values().flatten();
        let mut records = records.map(|leaf| Record::from_cbor(leaf).unwrap());
        assert!(!records.any(|record| record.kind == EventKind::Name), "{to}");
        // Who it is now has a name as any.
        if to == POD_B {
            run.say(&mut w, &[pod(POD_B, "db")], &mut fuel).unwrap();
            assert_eq!(named(&run, POD_B), words(&[pod(POD_B, "db")]));
        }
    }
}

#[test]
fn who_came_and_went_before_anybody_named_them_has_no_name_and_no_partition_is_made_for_one() {
    let (mut w, mut run, mut fuel) = begun();
    w.happen(|s| raw_cgroup(s, 20, 2, POD_B));
    w.happen(|s| raw_cgroup(s, 21, 20, &id(21)));
    w.happen(|s| gone(s, 21));
    w.happen(|s| gone(s, 20));
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!(run.pipeline.unnamed(), Unnamed { seen: 2, left: 0 });
    assert!(!run.leaves.contains_key(&PartitionKey::Pod(uid(POD_B))));
    // Who is listed longer than its directory is there still has its name.
    run.say(&mut w, &[pod(POD_B, "db"), container(POD_B, 21, "db")], &mut fuel)
        .unwrap();
    assert_eq!(named(&run, POD_B).len(), 2);
}

#[test]
fn a_name_that_cannot_be_noted_holds_up_no_seal_and_is_noted_when_it_is_said_again() {
    let (mut w, mut run, mut fuel) = begun();
    runs(&mut w);
    while run.consume(&mut w, &mut fuel).unwrap() {}
    let all = [pod(POD_A, "web"), container(POD_A, 9, "web")];
    w.full = true;
    run.say(&mut w, &all, &mut fuel).unwrap();
    assert!(named(&run, POD_A).is_empty());
    w.full = false;
    run.request(&mut w, 1, &mut fuel).unwrap();
    assert_eq!(run.answers, [1]);
    run.say(&mut w, &all, &mut fuel).unwrap();
    run.request(&mut w, 2, &mut fuel).unwrap();
    check_chain(&w);
    assert_eq!(named(&run, POD_A), words(&all));
}

#[test]
fn a_pod_that_is_older_than_the_load_is_named_as_any() {
    let mut w = World::new();
    let mut fuel = u64::MAX;
    let mut run = Run::unloaded(&mut w, &mut fuel).unwrap();
    let own = id(9);
    let found = [
        (1, 0, ""),
        (2, 1, "kubepods"),
        (3, 1, "x"),
        (10, 2, POD_A),
        (12, 10, own.as_str()),
    ];
    run.finds(&mut w, found, &mut fuel).unwrap();
    assert_eq!(run.pipeline.unnamed(), Unnamed { seen: 2, left: 2 });
    let all = [pod(POD_A, "web"), container(POD_A, 9, "web")];
    run.say(&mut w, &all, &mut fuel).unwrap();
    run.request(&mut w, 1, &mut fuel).unwrap();
    check_chain(&w);
    assert_eq!(named(&run, POD_A), words(&all));
}

/// What the runtime says at each step: all that it knows by then, and lies.
fn said(step: u64) -> Vec<Stated> {
    let steps: [&[Stated]; 5] = [
        &[pod(POD_A, "web"), container(POD_A, 8, "")],
        &[
            container(POD_A, 9, "web"),
            pod(POD_B, "early"),
            pod(POD_C, "made-up"),
        ],
        &[
            container(POD_B, 21, "db"),
            container(POD_A, 9, "other"),
            pod(POD_B, "late"),
        ],
        &[container(POD_B, 9, "stolen")],
        &[],
    ];
    steps[..=step as usize].concat()
}

fn happens(w: &mut World, step: u64) {
    match step {
        0 => runs(w),
        1 => w.happen(|s| gone(s, 11)),
        2 => {
            w.happen(|s| raw_cgroup(s, 20, 2, POD_B));
            w.happen(|s| raw_cgroup(s, 21, 20, &id(21)));
        }
        3 => {
            w.happen(|s| gone(s, 12));
            w.happen(|s| gone(s, 10));
        }
        _ => {}
    }
}

/// Plays from `step` on; a crash tells at which step it came, and whether that happened already.
fn play(w: &mut World, fuel: &mut u64, from: u64, happened: bool) -> Result<Run, (u64, bool)> {
    let mut run = Run::start(w, fuel).map_err(|Crash| (from, happened))?;
    run.settle(w, fuel).map_err(|Crash| (from, happened))?;
    for step in from..5 {
        if !(step == from && happened) {
            happens(w, step);
        }
        let crash = |Crash| (step, true);
        run.say(w, &said(step), fuel).map_err(crash)?;
        run.request(w, step, fuel).map_err(crash)?;
        run.say(w, &said(step), fuel).map_err(crash)?;
    }
    run.request(w, 99, fuel).map_err(|Crash| (4, true))?;
    Ok(run)
}

#[test]
fn a_crash_at_any_point_names_everybody_once_and_keeps_one_chain() {
    let total = {
        let (mut w, mut fuel) = (World::new(), u64::MAX);
        play(&mut w, &mut fuel, 0, false).map_err(|e| e.0).unwrap();
        u64::MAX - fuel
    };
    let a = words(&[
        pod(POD_A, "web"),
        container(POD_A, 8, ""),
        container(POD_A, 9, "web"),
    ]);
    for crash_at in 0..total {
        let mut w = World::new();
        let mut fuel = crash_at;
        let mut run = match play(&mut w, &mut fuel, 0, false) {
            Ok(run) => run,
            Err((step, happened)) => play(&mut w, &mut u64::MAX.clone(), step, happened)
                .map_err(|e| e.0)
                .unwrap(),
        };
        check_chain(&w);
        assert_eq!(named(&run, POD_A), a, "crash at {crash_at}");
        // A collector that starts anew has not heard what the one before it was said too early.
        let b = named(&run, POD_B);
        let [Named::Pod(pod_b), db] = b.as_slice() else {
            panic!("crash at {crash_at}: {b:?}")
        };
        assert!(
            ["early", "late"].contains(&pod_b.name.as_str()),
            "crash at {crash_at}"
        );
        assert_eq!(db, &container(POD_B, 21, "db").named, "crash at {crash_at}");
        assert!(named(&run, POD_C).is_empty());
        assert_eq!(run.pipeline.unnamed().left, 0, "crash at {crash_at}");
        // Two replays give the very same partitions, and nobody is named anew.
        let mut fuel = u64::MAX;
        let mut again = Run::start(&mut w, &mut fuel).unwrap();
        assert_eq!(again.leaves, run.leaves);
        again.say(&mut w, &said(4), &mut fuel).unwrap();
        run.say(&mut w, &said(4), &mut fuel).unwrap();
        assert_eq!(again.leaves, run.leaves, "crash at {crash_at}");
    }
}
