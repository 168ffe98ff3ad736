//! A collector that is killed, a guest that reboots: what must go on does, what must begin anew does.

use crate::burst::{self, Running, measured};
use cgpath_appraisal::State;
use std::time::Instant;
use vm_tests::scenario::{self, Node, Plan};
use vm_tests::{PATIENCE, Stock};

const SIGKILL: i32 = 9;

fn killed_collector(stock: Stock) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::boot(Plan::restored(stock), dir.path()).unwrap();
    let (collector, before) = node.start_collector().unwrap();
    let burst = Running::begin(&node, &burst::of_host(300), 300).unwrap();
    let begin = Instant::now();
    // A tenth of it, by the length of IMA's list: each program leaves an entry.
    let written = measured(&node).unwrap();
    while measured(&node).unwrap() < written + 30 {
        assert!(begin.elapsed() < PATIENCE, "the burst does not go on");
    }
    collector.signal(SIGKILL).unwrap();
    // It was sent by now; how long the collector takes to be gone is another matter.
    assert!(
        burst.goes_on().unwrap(),
        "the burst was over before the collector was killed"
    );
    collector.ended().unwrap();
    let _collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let burst = burst.end().unwrap();

    let round = node.fresh().unwrap();
    assert_eq!(round.broken(), Vec::<String>::new());
    assert_eq!((round.verdict.node.lost, round.verdict.node.unattributed), (0, 0));
    let chain = round.checkpoints().unwrap();
    for (at, checkpoint) in chain.iter().enumerate() {
        assert_eq!(checkpoint.number, at as u64);
    }
    assert_eq!(chain.last().unwrap().starts, 2);
    assert_eq!(
        chain[..before.checkpoints().unwrap().len()],
        before.checkpoints().unwrap()[..],
        "the chain goes on from where it was"
    );
    burst::seen_once(&round, &burst, "that the collector was killed in");
    node.vm.power_off().unwrap();
    println!(
        "TIME killed collector on {stock}: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

fn rebooted_guest(stock: Stock) {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::new(stock);
    plan.persistent = true;
    let mut node = Node::boot(plan, dir.path()).unwrap();
    let first = node.start_collector().map(|(_, round)| round).unwrap();
    assert_eq!(first.verdict.node.state, State::Trusted, "{}", first.verdict);
    let first = node.fresh().unwrap();
    node.vm.reboot().unwrap();
    let _collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let second = node.fresh().unwrap();
    assert_eq!(second.verdict.node.state, State::Trusted, "{}", second.verdict);
    assert_ne!(second.verdict.node.boot_id, first.verdict.node.boot_id);
    let (old, new) = (first.checkpoints().unwrap(), second.checkpoints().unwrap());
    assert_eq!(new[0].number, 0);
    assert_eq!(new[0].previous, [0; 32]);
    assert_ne!(
        new[0].key, old[0].key,
        "the checkpoint key must not outlive its boot"
    );
    assert_eq!(new.last().unwrap().starts, 1);
    node.vm.power_off().unwrap();
    println!(
        "TIME rebooted guest on {stock}: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

#[test]
fn nothing_is_lost_when_the_collector_is_killed_in_a_burst_on_6_12() {
    killed_collector(Stock::V6_12);
}

#[test]
fn nothing_is_lost_when_the_collector_is_killed_in_a_burst_on_6_1() {
    killed_collector(Stock::V6_1);
}

#[test]
fn a_reboot_is_accepted_and_the_chain_starts_anew_on_6_12() {
    rebooted_guest(Stock::V6_12);
}

#[test]
fn a_reboot_is_accepted_and_the_chain_starts_anew_on_6_1() {
    rebooted_guest(Stock::V6_1);
}
