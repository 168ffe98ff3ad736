//! One collector follows another within a boot: by a handover that both record, or it is not the collector.

use super::{Life, Round, busy, conclude};
use cgpath_appraisal::{Rule, Severity};
use cgpath_evidence::{Collectors, Digest, EventKind, FileHash, GuardAction, PartitionKey};
use cgpath_testkit::{Actor, COLLECTOR, KeyKind, Measurement, Node, pod, sha256};

/// What a new binary takes hold of when it takes over, about as often as it does.
const TOUCHES: [GuardAction; 4] = [
    GuardAction::MapOpened,
    GuardAction::MapRead,
    GuardAction::ProgramOpened,
    GuardAction::LinkOpened,
];

fn own() -> Digest {
    sha256(COLLECTOR.as_bytes())
}

/// A new program, which the policy accepts.
fn next() -> Digest {
    sha256(b"the next collector")
}

/// A program that the policy does not accept.
fn evil() -> Digest {
    sha256(b"another collector")
}

fn known() -> Node {
    let mut node = busy();
    let of_collector = node.host_files.get_mut(COLLECTOR.as_bytes()).unwrap();
    of_collector.insert(next());
    node
}

/// A node whose collector knows of no handover.
fn silent() -> Node {
    let mut node = known();
    node.collectors = None;
    node.load();
    node.work();
    node
}

/// A handover as it should be: the program that is named is the one that goes on.
fn go_over(node: &mut Node, to: &Digest) {
    node.hand_over(to);
    node.restart(to);
}

/// The guard takes a process of the collector's path for a stranger.
fn stranger(node: &mut Node, times: usize, is_denied: bool) {
    for n in 0..times {
        let action = TOUCHES[n % TOUCHES.len()];
        node.record_guard(&Actor::host(COLLECTOR), action, format!("part-{n}"), is_denied);
    }
}

/// What is wrong where one finding of this rule must say so, in each way, and nobody may trust the node.
fn must_say(round: &Round, rule: Rule, words: &str) -> Vec<String> {
    let mut wrong = round.trusted();
    for (way, verdict) in round.appraised.verdicts() {
        let said = verdict
            .failures()
            .filter(|finding| finding.rule == rule && finding.text.contains(words));
        let count = said.count();
        if count != 1 {
            wrong.push(format!(
                "round {}: {way} says {words:?} {count} times\n{verdict}",
                round.number
            ));
        }
    }
    wrong
}

/// The only failure is one of the guard.
fn one_line(round: &Round) -> Vec<String> {
    let mut wrong = Vec::new();
    for (way, verdict) in round.appraised.verdicts() {
        let failures: Vec<_> = verdict.failures().collect();
        if failures.len() != 1 || failures[0].rule != Rule::Guard || !failures[0].text.contains("reboot") {
            wrong.push(format!("{way}: {failures:?}"));
        }
    }
    wrong
}

/// A life in which this happens, and its next round.
fn after(change: impl FnOnce(&mut Node)) -> Round {
    let mut life = Life::begin(known());
    change(&mut life.node);
    life.round()
}

#[test]
fn a_handover_that_both_sides_record_is_trusted_and_followed_through_every_step() {
    let mut life = Life::begin(known());
    let mut wrong = Vec::new();
    let is_good = |life: &mut Life, what: &str| {
        let followed = life.ways.followed;
        let round = life.round();
        let mut wrong = Vec::from_iter(round.differs());
        for (way, verdict) in round.appraised.verdicts() {
            let guard = |severity| {
                let mut all = verdict.node.findings.iter();
                all.any(|finding| finding.rule == Rule::Guard && finding.severity == severity)
            };
            if !verdict.trusted || guard(Severity::Fail) || guard(Severity::Note) {
                wrong.push(format!("{what}, {way}: {verdict}"));
            }
        }
        if life.ways.followed != followed + 1 {
            wrong.push(format!("{what}: not followed"));
        }
        wrong
    };
    life.node.hand_over(&next());
    wrong.extend(is_good(&mut life, "it is named"));
    wrong.extend(is_good(&mut life, "the old one goes on"));
    life.node.restart(&next());
    wrong.extend(is_good(&mut life, "the new one goes on"));
    life.node.restart(&next());
    wrong.extend(is_good(&mut life, "a restart of the same"));
    // Back to the one before is a handover, too.
    go_over(&mut life.node, &own());
    wrong.extend(is_good(&mut life, "and back"));
    // Asked for once more, and given up: the old one is started again.
    life.node.hand_over(&next());
    life.node.restart(&own());
    wrong.extend(is_good(&mut life, "given up"));
    life.node.reboot();
    life.now += 60;
    let round = life.round();
    assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
    conclude("handover-good", &wrong);
}

#[test]
fn within_one_round_a_handover_is_as_good_as_over_several() {
    let round = after(|node| {
        go_over(node, &next());
    });
    assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
    assert_eq!(round.differs(), None);
}

#[test]
fn a_restart_of_the_same_program_is_no_handover() {
    let mut life = Life::begin(known());
    for _ in 0..3 {
        life.node.restart(&own());
        let round = life.round();
        assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
        assert_eq!(round.differs(), None);
    }
}

#[test]
fn a_chain_that_says_nothing_of_programs_is_appraised_as_it_was() {
    let mut life = Life::begin(silent());
    life.node.restart(&own());
    let round = life.round();
    assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
    // What touches the parts at the collector's path is one line there, too.
    stranger(&mut life.node, 90, false);
    let round = life.round();
    let mut wrong = must_say(&round, Rule::Guard, "parts 90 time(s): not denied");
    wrong.extend(one_line(&round));
    conclude("no-programs", &wrong);
}

#[test]
fn a_program_that_the_policy_does_not_accept_is_refused_by_its_hash_whoever_hands_over_to_it() {
    // As soon as it is named, and all the more once it goes on. An older version is no other case.
    let refused = "counts a program as the collector that the policy does not accept";
    let mut life = Life::begin(known());
    life.node.hand_over(&evil());
    let named = life.round();
    let mut wrong = must_say(&named, Rule::Host, refused);
    for (_, verdict) in named.appraised.verdicts() {
        let mut all = verdict.failures();
        let finding = all.find(|finding| finding.text.contains(refused)).unwrap();
        assert_eq!(finding.found, Some(evil().to_string()));
        assert_eq!(finding.expected.len(), 2, "{finding:?}");
    }
    life.node.restart(&evil());
    wrong.extend(must_say(&life.round(), Rule::Host, refused));
    // And when it is gone again: what it sealed meanwhile is of no worth.
    go_over(&mut life.node, &own());
    wrong.extend(must_say(&life.round(), Rule::Host, refused));
    conclude("handover-to-another", &wrong);
}

#[test]
fn a_policy_that_no_longer_accepts_the_old_program_refuses_the_boot_that_began_with_it() {
    let mut life = Life::begin(known());
    go_over(&mut life.node, &next());
    assert!(life.round().appraised.whole.trusted);
    let of_collector = life.node.host_files.get_mut(COLLECTOR.as_bytes()).unwrap();
    of_collector.remove(&own());
    let round = life.round();
    conclude(
        "old-program",
        &must_say(&round, Rule::Host, "checkpoint 0 counts a program"),
    );
}

#[test]
fn a_library_that_is_forced_into_the_new_program_is_charged_to_the_host() {
    let round = after(|node| {
        go_over(node, &next());
        let preloaded = FileHash::PreCheck(sha256(b"preloaded"));
        node.record_execution(
            &Actor::host(COLLECTOR),
            EventKind::Mapping,
            "/tmp/preload.so",
            preloaded,
        );
    });
    conclude("preloaded", &must_say(&round, Rule::Host, "no reference value"));
}

#[test]
fn a_new_program_under_a_tracer_is_a_stranger_and_one_line_says_so() {
    for is_denied in [false, true] {
        let round = after(|node| {
            go_over(node, &next());
            stranger(node, 40, is_denied);
        });
        let words = if is_denied {
            "40 time(s): denied"
        } else {
            "40 time(s): not denied"
        };
        let mut wrong = must_say(&round, Rule::Guard, words);
        wrong.extend(one_line(&round));
        conclude("traced", &wrong);
    }
    // A process that reaches into it is named as ever.
    let round = after(|node| {
        go_over(node, &next());
        node.record_guard(&Actor::host("/usr/bin/gdb"), GuardAction::Traced, "", false);
    });
    conclude(
        "traced-by",
        &must_say(&round, Rule::Guard, "reached into the collector's process"),
    );
}

#[test]
fn a_file_that_was_written_after_its_hash_is_another_program() {
    let honest = after(|node| {
        node.hand_over(&next());
        node.restart(&evil());
    });
    let mut wrong = must_say(&honest, Rule::Guard, "did not count as the collector");
    // It says that it is the one that was named: the kernel has its hash, and the guard does not know it.
    let lying = after(|node| {
        node.hand_over(&next());
        node.restart(&evil());
        node.collectors = Some(Collectors {
            program: next(),
            successor: None,
        });
        stranger(node, 40, false);
    });
    wrong.extend(must_say(&lying, Rule::Guard, "40 time(s)"));
    wrong.extend(must_say(
        &lying,
        Rule::Host,
        "not the one that the policy accepts",
    ));
    let named = lying.appraised.whole.failures();
    let found: String = named.filter_map(|finding| finding.found.clone()).collect();
    assert!(
        found.contains(&format!("program {}, first pid", evil())),
        "{found}"
    );
    conclude("written", &wrong);
}

#[test]
fn another_program_that_starts_without_a_handover_is_refused_in_one_line_though_the_policy_accepts_it() {
    let mut life = Life::begin(known());
    life.node.restart(&next());
    stranger(&mut life.node, 90, false);
    let round = life.round();
    let mut wrong = must_say(
        &round,
        Rule::Guard,
        "did not count as the collector and that reached for the collector's parts 90 time(s)",
    );
    wrong.extend(one_line(&round));
    for (_, verdict) in round.appraised.verdicts() {
        let failed = verdict.failures().next().unwrap();
        assert_eq!(failed.found, Some(format!("program {}", next())));
        assert_eq!(failed.expected, [format!("program {}", own())]);
    }
    // It stays so for this boot, whatever follows, and no longer.
    life.node.restart(&next());
    wrong.extend(must_say(
        &life.round(),
        Rule::Guard,
        "did not count as the collector",
    ));
    go_over(&mut life.node, &own());
    wrong.extend(must_say(
        &life.round(),
        Rule::Guard,
        "did not count as the collector",
    ));
    life.node.reboot();
    life.now += 60;
    let round = life.round();
    assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
    // And where nothing was recorded of what it took hold of.
    let round = after(|node| node.restart(&next()));
    wrong.extend(one_line(&round));
    conclude("no-handover", &wrong);
}

#[test]
fn a_version_that_says_nothing_of_programs_is_no_way_around() {
    let round = after(|node| {
        node.restart(&own());
        node.collectors = None;
    });
    let mut wrong = must_say(&round, Rule::Guard, "did not count as the collector");
    let mut life = Life::begin(silent());
    life.node.collectors = Some(Collectors {
        program: own(),
        successor: None,
    });
    wrong.extend(must_say(
        &life.round(),
        Rule::Guard,
        "did not count as the collector",
    ));
    conclude("silent", &wrong);
}

#[test]
fn two_collectors_at_once_fork_the_chain() {
    let round = after(|node| {
        node.hand_over(&next());
        // Both go on from the same checkpoint, and both files are measured.
        let mut old = node.clone();
        old.seal(None);
        let other = old.checkpoints.last().unwrap().clone();
        node.restart(&next());
        node.anchor(&other);
    });
    conclude(
        "two-at-once",
        &must_say(&round, Rule::Chain, "the chain is forked"),
    );
}

#[test]
fn a_handover_needs_the_execution_of_the_new_program_in_the_records_that_it_seals() {
    let named = |node: &mut Node| {
        if let Some(collectors) = &mut node.collectors {
            collectors.successor = Some(next());
        }
        node.seal(None);
    };
    let words = "hands over to a program whose execution is not among the records";
    let mut wrong = must_say(&after(named), Rule::Guard, words);
    // It was measured, and by a pod, at another path, or with a hash that was taken before IMA's own.
    let elsewhere: [fn(&mut Node); 4] = [
        |node| node.measure(&Actor::host(COLLECTOR), COLLECTOR, &next()),
        |node| {
            node.record_execution(
                &in_pod(),
                EventKind::Execution,
                COLLECTOR,
                FileHash::Measured(next()),
            )
        },
        |node| node.execute(&Actor::host(COLLECTOR), "/usr/bin/tool", &next()),
        |node| {
            let early = FileHash::PreCheck(next());
            node.record_execution(&Actor::host(COLLECTOR), EventKind::Execution, COLLECTOR, early);
        },
    ];
    for before in elsewhere {
        let round = after(|node| {
            before(node);
            named(node);
        });
        wrong.extend(must_say(&round, Rule::Guard, words));
    }
    // Afterwards is too late, also where it is found out rounds later.
    let mut life = Life::begin(known());
    named(&mut life.node);
    wrong.extend(must_say(&life.round(), Rule::Guard, words));
    life.node.try_successor(&next());
    wrong.extend(must_say(&life.round(), Rule::Guard, words));
    conclude("no-execution", &wrong);
}

fn in_pod() -> Actor {
    let actor = Actor::pod(pod(3), COLLECTOR);
    assert_eq!(actor.key(), PartitionKey::Pod(pod(3)));
    actor
}

#[test]
fn a_program_that_counts_as_the_collector_stands_in_the_list() {
    let executed = |node: &mut Node| {
        let hash = FileHash::Measured(next());
        node.record_execution(&Actor::host(COLLECTOR), EventKind::Execution, COLLECTOR, hash);
        if let Some(collectors) = &mut node.collectors {
            collectors.successor = Some(next());
        }
        node.seal(None);
    };
    let words = "counts a program as the collector that does not stand in the list before it";
    let mut life = Life::begin(known());
    executed(&mut life.node);
    let mut wrong = must_say(&life.round(), Rule::Host, words);
    life.node.try_successor(&next());
    wrong.extend(must_say(&life.round(), Rule::Host, words));
    // At another path it is another program, and a violation measured nothing.
    for entry in [
        Measurement::ima_ng(b"/usr/bin/tool", &next()),
        Measurement::violation(COLLECTOR.as_bytes()),
    ] {
        let mut life = Life::begin(known());
        life.node.list.push(entry);
        executed(&mut life.node);
        wrong.extend(must_say(&life.round(), Rule::Host, words));
    }
    // Checkpoint 0, too.
    let mut node = Node::boot(KeyKind::EcdsaP256);
    let of_collector = node.host_files.get_mut(COLLECTOR.as_bytes()).unwrap();
    of_collector.insert(next());
    node.list.truncate(usize::try_from(node.boot_len).unwrap());
    node.collectors = Some(Collectors {
        program: next(),
        successor: None,
    });
    node.load_again();
    let evidence = node.attest(b"one more nonce");
    let context = node.context(b"one more nonce", None);
    let verdict = cgpath_appraisal::appraise(&evidence, &node.policy(), &context).unwrap();
    let said = verdict.failures().filter(|finding| finding.text.contains(words));
    assert_eq!(said.count(), 1, "{verdict}");
    conclude("not-listed", &wrong);
}

#[test]
fn another_program_needs_another_start_and_checkpoint_0_names_one_alone() {
    let round = after(|node| {
        node.hand_over(&next());
        let starts = node.starts;
        node.restart(&next());
        node.starts = starts;
    });
    let mut wrong = must_say(&round, Rule::Guard, "no collector was started");
    let mut node = known();
    node.checkpoints.clear();
    node.sealed.clear();
    node.waiting.clear();
    node.list.truncate(usize::try_from(node.boot_len).unwrap());
    node.seq = 0;
    node.try_successor(&next());
    if let Some(collectors) = &mut node.collectors {
        collectors.successor = Some(next());
    }
    node.seal(None);
    let evidence = node.attest(b"one more nonce");
    let context = node.context(b"one more nonce", None);
    let verdict = cgpath_appraisal::appraise(&evidence, &node.policy(), &context).unwrap();
    if verdict.trusted || !verdict.to_string().contains("there was no handover yet") {
        wrong.push(verdict.to_string());
    }
    conclude("another-start", &wrong);
}

/// The objects whose eBPF programs a new collector can put into the places.
const OBJECTS: [[u8; 32]; 2] = [[21; 32], [22; 32]];

/// What the policy may say of objects.
fn accepting(objects: &[[u8; 32]]) -> Node {
    let mut node = known();
    let listed: Vec<String> = objects
        .iter()
        .map(|hash| {
            format!(
                "\"{}\"",
                Digest::new(cgpath_evidence::Bank::Sha256, hash).unwrap()
            )
        })
        .collect();
    node.accept_banks += &format!("\n  bpf-objects: [{}]", listed.join(", "));
    node
}

/// The new collector takes over, and its eBPF programs the places.
fn upgrade(node: &mut Node, program: &Digest, object: Option<[u8; 32]>) {
    node.hand_over(program);
    node.restart(program);
    node.bpf_placed = object;
}

#[test]
fn a_new_collectors_programs_take_the_places_and_each_checkpoint_says_which_do() {
    let mut wrong = Vec::new();
    for node in [known(), accepting(&[[9; 32], OBJECTS[0], OBJECTS[1]])] {
        let mut life = Life::begin(node);
        // To one, on to another, and back to those that were loaded.
        for (program, object) in [
            (next(), Some(OBJECTS[0])),
            (own(), Some(OBJECTS[1])),
            (next(), None),
        ] {
            upgrade(&mut life.node, &program, object);
            for _ in 0..2 {
                let followed = life.ways.followed;
                let round = life.round();
                wrong.extend(round.differs());
                if !round.appraised.whole.trusted || life.ways.followed != followed + 1 {
                    wrong.push(format!("{object:?}: {}", round.appraised.whole));
                }
            }
            life.node.restart(&program);
            let round = life.round();
            if !round.appraised.whole.trusted {
                wrong.push(format!("{object:?}, restarted: {}", round.appraised.whole));
            }
        }
        // A new collector whose programs the kernel refuses leaves those that are there.
        upgrade(&mut life.node, &own(), None);
        let round = life.round();
        assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
    }
    conclude("places", &wrong);
}

#[test]
fn an_object_in_the_places_that_the_policy_does_not_accept_is_refused_though_its_collector_is_accepted() {
    let mut wrong = Vec::new();
    let words = "the BPF object is not an accepted one";
    let mut life = Life::begin(accepting(&[[9; 32], OBJECTS[0]]));
    upgrade(&mut life.node, &next(), Some(OBJECTS[1]));
    wrong.extend(must_say(&life.round(), Rule::Host, words));
    // For the rest of the boot.
    upgrade(&mut life.node, &own(), Some(OBJECTS[0]));
    wrong.extend(must_say(&life.round(), Rule::Host, words));
    // What was loaded goes on where there is no place, so that it must be accepted still.
    let mut node = accepting(&[OBJECTS[0]]);
    upgrade(&mut node, &next(), Some(OBJECTS[0]));
    let evidence = node.attest(b"one more nonce");
    let context = node.context(b"one more nonce", None);
    let verdict = cgpath_appraisal::appraise(&evidence, &node.policy(), &context).unwrap();
    if !verdict.failures().any(|finding| finding.text.contains(words)) {
        wrong.push(verdict.to_string());
    }
    conclude("object-not-accepted", &wrong);
}

#[test]
fn programs_that_are_replaced_without_a_handover_are_refused_for_the_rest_of_the_boot() {
    let mut wrong = Vec::new();
    let words = "and there was no handover";
    let changes: [fn(&mut Node); 5] = [
        // By somebody else who writes the places, while the collector goes on.
        |_| (),
        // By a restart of the same program.
        |node| node.restart(&own()),
        // Before the successor is there.
        |node| node.hand_over(&next()),
        // It came back after a handover that was withdrawn.
        |node| {
            node.hand_over(&next());
            node.restart(&own());
        },
        // Once more, by the new program after its first checkpoint.
        |node| {
            upgrade(node, &next(), Some(OBJECTS[1]));
            node.seal(None);
        },
    ];
    for change in changes {
        let mut life = Life::begin(known());
        change(&mut life.node);
        life.node.bpf_placed = Some(OBJECTS[0]);
        wrong.extend(must_say(&life.round(), Rule::Guard, words));
        upgrade(&mut life.node, &next(), None);
        wrong.extend(life.round().trusted());
    }
    // By a chain that knows of no handover.
    let mut life = Life::begin(silent());
    life.node.bpf_placed = Some(OBJECTS[0]);
    wrong.extend(must_say(&life.round(), Rule::Guard, words));
    // And back to those that were loaded, as if nothing had been.
    let mut life = Life::begin(known());
    upgrade(&mut life.node, &next(), Some(OBJECTS[0]));
    assert!(life.round().appraised.whole.trusted);
    life.node.bpf_placed = None;
    wrong.extend(must_say(&life.round(), Rule::Guard, words));
    conclude("replaced", &wrong);
}

#[test]
fn what_is_attached_stays_that_of_the_load_and_checkpoint_0_has_nothing_replaced() {
    let mut life = Life::begin(known());
    let round = life.round_sealed(|checkpoint| checkpoint.bpf_object = OBJECTS[0]);
    let words = "none can be loaded again within a boot";
    let mut wrong = must_say(&round, Rule::Guard, words);
    // Not by a handover either.
    let mut life = Life::begin(known());
    life.node.hand_over(&next());
    life.node.restart(&next());
    let round = life.round_sealed(|checkpoint| checkpoint.bpf_object = OBJECTS[0]);
    wrong.extend(must_say(&round, Rule::Guard, words));
    let mut node = known();
    node.sealed.clear();
    node.list.truncate(usize::try_from(node.boot_len).unwrap());
    node.bpf_placed = Some(OBJECTS[0]);
    node.load_again();
    let evidence = node.attest(b"one more nonce");
    let context = node.context(b"one more nonce", None);
    let verdict = cgpath_appraisal::appraise(&evidence, &node.policy(), &context).unwrap();
    if verdict.trusted
        || !verdict
            .to_string()
            .contains("eBPF programs were replaced: there was no handover")
    {
        wrong.push(verdict.to_string());
    }
    conclude("attached", &wrong);
}
