//! A list that entries were taken out of, as kernels with CONFIG_IMA_STAGING let root do.
//!
//! Run by `cargo xtask soak --step kernel` with the kernel of 7.3 in `CGPATH_KERNEL`; fails without it.

use std::path::Path;

use cgpath_appraisal::{Rule, State};
use vm_tests::lists::LISTS;
use vm_tests::scenario::{self, Node, Plan};
use vm_tests::{Stock, kernel};

const SIGKILL: i32 = 9;

fn boot(dir: &Path) -> Node {
    let built = std::env::var_os("CGPATH_KERNEL").expect("CGPATH_KERNEL names no kernel");
    let mut plan = Plan::new(Stock::V6_12);
    plan.patched = Some(kernel::built(Path::new(&built)).unwrap());
    Node::boot(plan, dir).unwrap()
}

fn length(node: &Node) -> u64 {
    let text = node
        .vm
        .get_text(&format!("{LISTS}/runtime_measurements_count"))
        .unwrap();
    text.trim().parse().unwrap()
}

/// Takes the first entries out of the list; the kernel's answer.
fn cut(node: &Node, entries: u64) -> (Option<i32>, String) {
    let script = format!("echo {entries} >{LISTS}/binary_runtime_measurements");
    let output = node.vm.command(&["/bin/sh", "-c", &script]).run().unwrap();
    (output.code(), output.errors())
}

#[test]
fn nobody_takes_entries_out_while_the_collector_has_the_list_open() {
    let dir = tempfile::tempdir().unwrap();
    let node = boot(dir.path());
    let (_collector, first) = node.start_collector().unwrap();
    assert_eq!(first.verdict.node.state, State::Trusted, "{}", first.verdict);
    let before = length(&node);
    let (code, said) = cut(&node, 5);
    assert_ne!(code, Some(0));
    assert!(said.contains("busy"), "{said}");
    assert!(length(&node) >= before);
    let round = node.fresh().unwrap();
    assert_eq!(round.verdict.node.state, State::Trusted, "{}", round.verdict);
    node.vm.power_off().unwrap();
}

#[test]
fn entries_taken_out_while_the_collector_is_down_are_missed_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let node = boot(dir.path());
    let (collector, first) = node.start_collector().unwrap();
    assert_eq!(first.verdict.node.state, State::Trusted, "{}", first.verdict);
    collector.signal(SIGKILL).unwrap();
    collector.ended().unwrap();
    let before = length(&node);
    let (code, said) = cut(&node, 5);
    assert_eq!(code, Some(0), "{said}");
    // The shell that cuts may be new itself.
    assert!(length(&node) < before, "{} of {before}", length(&node));
    let _collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let round = node.fresh().unwrap();
    assert_eq!(round.verdict.node.state, State::Untrusted, "{}", round.verdict);
    // The verifier has what is gone and says so; the restarted collector counts what is left, which is a step
    // back.
    let notes = &round.verdict.node.notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("its first 5 entries are gone")),
        "{}",
        round.verdict
    );
    let findings = &round.verdict.node.findings;
    let back = findings
        .iter()
        .find(|f| f.rule == Rule::Chain && f.text.contains("length of the list went back"));
    assert!(back.is_some(), "{}", round.verdict);
    node.vm.power_off().unwrap();
}
