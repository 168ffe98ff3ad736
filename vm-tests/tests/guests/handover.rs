//! A new version of the collector takes over from the old one in a running node: nothing is lost, the chain
//! goes on, and the guard, which denies strangers here, has nothing to say. One that nobody handed over to
//! ends by itself, and the old one goes on.

use crate::burst::{self, Running};
use cgpath_appraisal::Rule;
use cgpath_evidence::{Bank, Collectors, Digest, EventKind, Record};
use std::time::Instant;
use vm_tests::scenario::{self, COLLECTOR, Node, Plan, Round};
use vm_tests::{Process, Stock, host};

const SIGTERM: i32 = 15;

/// Programs of the storm.
const COUNT: u32 = 600;

/// Where a version waits for its turn.
const WAITING: &str = "/usr/sbin/cgpathd.new";

/// The collector's program, and another version of it: the same but for a byte behind its end.
fn versions() -> [Vec<u8>; 2] {
    let built = host::stripped(&host::built_binary("cgpathd").unwrap()).unwrap();
    let one = std::fs::read(built).unwrap();
    let two = [&one[..], b"\n"].concat();
    [one, two]
}

fn hash(program: &[u8]) -> Digest {
    Bank::Sha256.hash(&[program])
}

/// The policy accepts the other version beside the one that is in the guest's root.
fn accept(node: &Node, program: &[u8]) {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join(COLLECTOR.trim_start_matches('/'));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, program).unwrap();
    let policy = node.site.policy_file();
    let mut command = node.site.cgpath(&["policy", "from-rootfs"]);
    command
        .arg(root.path())
        .arg("-o")
        .arg(policy.with_file_name("next.json"));
    host::output(&mut command).unwrap();
    let text = std::fs::read_to_string(&policy).unwrap();
    let both = text.replace("references: [host.json]", "references: [host.json, next.json]");
    assert_ne!(both, text);
    std::fs::write(&policy, both).unwrap();
}

/// As a package manager does: written beside the file, then renamed over it.
fn unpack(node: &Node, program: &[u8]) {
    node.vm.put(WAITING, program, 0o755).unwrap();
}

fn rename(node: &Node) {
    node.vm.sh(&format!("mv -f {WAITING} {COLLECTOR}")).unwrap();
}

fn install(node: &Node, program: &[u8]) {
    unpack(node, program);
    rename(node);
}

fn stop(collector: &Process<'_>) {
    collector.signal(SIGTERM).unwrap();
    collector.ended().unwrap();
}

/// Runs `cgpathd handover` from the file that is in place; gives its code and what it said.
fn hand_over(node: &Node) -> (i32, String) {
    let done = node.vm.command(&[COLLECTOR, "handover"]).run().unwrap();
    (
        done.code().unwrap_or(-1),
        format!("{}{}", done.text(), done.errors()),
    )
}

fn stated(round: &Round) -> Vec<Collectors> {
    let chain = round.checkpoints().unwrap();
    chain
        .into_iter()
        .map(|checkpoint| checkpoint.collectors.unwrap())
        .collect()
}

fn records(round: &Round) -> Vec<Record> {
    let evidence = round.evidence().unwrap();
    let records = evidence.partitions.into_iter().flat_map(|log| log.records);
    records.collect()
}

fn guarded(round: &Round) -> usize {
    records(round)
        .iter()
        .filter(|record| record.kind == EventKind::Guard)
        .count()
}

/// One chain without a gap, in which nothing is lost or blind.
fn whole(round: &Round) {
    assert_eq!(round.broken(), Vec::<String>::new());
    let node = &round.verdict.node;
    assert_eq!((node.lost, node.unattributed), (0, 0));
    for (at, checkpoint) in round.checkpoints().unwrap().iter().enumerate() {
        assert_eq!(checkpoint.number, at as u64);
        assert!(!checkpoint.blind, "checkpoint {at}");
    }
}

fn handed_over(stock: Stock) {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::restored(stock);
    plan.settings = vec!["guard.mode=deny".to_owned()];
    let node = Node::boot(plan, dir.path()).unwrap();
    let [one, two] = versions();
    accept(&node, &two);
    let (collector, first) = node.start_collector().unwrap();
    assert!(first.verdict.trusted, "{}", first.verdict);
    let alone = |program: &[u8]| Collectors {
        program: hash(program),
        successor: None,
    };
    assert_eq!(stated(&first).last(), Some(&alone(&one)));

    // Without a handover: it says what to do, and has touched nothing. The old one goes on.
    install(&node, &two);
    stop(&collector);
    let stranger = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let ended = stranger.ended().unwrap();
    let said = stranger.log().unwrap();
    assert!(
        ended.code == Some(2) && said.contains("run `cgpathd handover`"),
        "{ended:?} {said}"
    );
    install(&node, &one);
    let collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let round = node.fresh().unwrap();
    assert!(round.verdict.trusted, "{}", round.verdict);
    assert_eq!(guarded(&round), 0);

    // With one: trusted at each step.
    install(&node, &two);
    let (code, said) = hand_over(&node);
    assert!(code == 0 && said.contains("restart the service"), "{code} {said}");
    let named = node.fresh().unwrap();
    assert!(named.verdict.trusted, "{}", named.verdict);
    let both = Collectors {
        program: hash(&one),
        successor: Some(hash(&two)),
    };
    assert_eq!(stated(&named).last(), Some(&both));
    stop(&collector);
    let collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let round = node.fresh().unwrap();
    assert!(round.verdict.trusted, "{}", round.verdict);
    assert_eq!(stated(&round).last(), Some(&alone(&two)));
    whole(&round);
    assert_eq!(guarded(&round), 0);
    let starts = round.checkpoints().unwrap().last().unwrap().starts;
    assert_eq!(starts, 3);

    // Only what lies at the collector's own path is handed over to.
    node.vm.put("/var/tmp/cgpathd", &one, 0o755).unwrap();
    let elsewhere = node.vm.command(&["/var/tmp/cgpathd", "handover"]).run().unwrap();
    assert!(
        elsewhere.errors().contains("lies elsewhere"),
        "{}",
        elsewhere.errors()
    );
    assert_eq!(stated(&node.fresh().unwrap()).last(), Some(&alone(&two)));

    // And back, while programs are executed all the time.
    unpack(&node, &one);
    let burst = Running::begin(&node, &burst::of_host(COUNT), COUNT).unwrap();
    rename(&node);
    let (code, said) = hand_over(&node);
    assert_eq!(code, 0, "{said}");
    stop(&collector);
    let is_over = !burst.goes_on().unwrap();
    let _collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let burst = burst.end().unwrap();
    assert!(!is_over, "the storm was over before the old collector had ended");

    let round = node.fresh().unwrap();
    whole(&round);
    burst::seen_once(&round, &burst, "through a handover");
    let chain = stated(&round);
    assert_eq!(chain.last(), Some(&alone(&one)));
    assert!(chain.iter().any(|stated| stated.successor == Some(hash(&one))));
    // The storm's programs and the copy elsewhere are in no policy. Of the collector nothing is wrong.
    let of_collector = round.verdict.failures().filter(|finding| {
        finding.rule == Rule::Guard
            || finding.path.as_deref() == Some(COLLECTOR.as_bytes())
            || finding.text.contains("as the collector")
    });
    assert_eq!(of_collector.count(), 0, "{}", round.verdict);
    assert_eq!(guarded(&round), 0);
    node.vm.power_off().unwrap();
    println!("TIME handover on {stock}: {:.1} s", begin.elapsed().as_secs_f64());
}

#[test]
fn a_new_collector_takes_over_by_a_handover_while_programs_are_executed_on_6_12() {
    handed_over(Stock::V6_12);
}

#[test]
fn a_new_collector_takes_over_by_a_handover_while_programs_are_executed_on_6_1() {
    handed_over(Stock::V6_1);
}
