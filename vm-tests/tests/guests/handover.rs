//! A new version of the collector takes over from the old one in a running node: nothing is lost, the chain
//! goes on, and the guard, which denies strangers here, has nothing to say. One that nobody handed over to
//! ends by itself, and the old one goes on.

use crate::burst::{self, Running};
use cgpath_appraisal::Rule;
use cgpath_evidence::{Bank, Checkpoint, Collectors, Digest, EventKind, GuardAction, Record};
use std::time::Instant;
use vm_tests::scenario::{self, BPF_OBJECT, COLLECTOR, Node, Plan, Round, WORKLOADS};
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

/// The policy accepts another object beside the one that is in the guest's root.
fn accept_object(node: &Node, [one, two]: &[Vec<u8>; 2]) {
    let policy = node.site.policy_file();
    let text = std::fs::read_to_string(&policy).unwrap();
    let listed = format!("bpf-objects: [\"{}\"", hash(one));
    let both = text.replace(&listed, &format!("{listed}, \"{}\"", hash(two)));
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

/// The same programs in another object: the hash of its file is another one.
fn objects() -> [Vec<u8>; 2] {
    let one = std::fs::read(host::bpf_object().unwrap()).unwrap();
    let two = [&one[..], b"\n"].concat();
    [one, two]
}

/// A pin that nobody else may remove.
const PIN: &str = "/sys/fs/bpf/ima-cgpath/link_cgroup_renamed";

/// The place of a gate, which is seldom needed.
const PLACE: &str = "/sys/fs/bpf/ima-cgpath/map_CGROUP_RENAMED";

/// The object with programs that never end: each `exit` is an instruction that there is not.
fn refused(object: &[u8]) -> Vec<u8> {
    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = object.to_vec();
    let mut count = 0;
    for chunk in bytes.chunks_exact_mut(8) {
        if *chunk == EXIT {
            chunk[0] = 0xf5;
            count += 1;
        }
    }
    assert!(count > 0, "no program ends");
    bytes
}

/// Ends the attempts.
const ENOUGH: &str = "/var/tmp/enough";

/// Tries to remove a pin again and again, and says how often; more if it was ever gone.
fn attempts(node: &Node) -> Process<'_> {
    let script = format!(
        "n=0; until [ -e {ENOUGH} ]; do rm {PIN} 2>/dev/null && echo gone; n=$((n+1)); done; echo $n"
    );
    let command = node.vm.command(&["sh", "-c", script.as_str()]);
    command.cgroup(WORKLOADS).spawn("/var/log/attempts.log").unwrap()
}

fn denied(round: &Round) -> usize {
    let removed = |record: &&Record| {
        let guard = record.guard.as_ref();
        record.ret == -1 && guard.is_some_and(|guard| guard.action == GuardAction::PinRemoved)
    };
    records(round).iter().filter(removed).count()
}

/// The new collector has another object, whose programs take the places of those that run: no execution and
/// no attempt on a pin is missed or recorded twice, and no attempt succeeds.
fn replaced(stock: Stock) {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::restored(stock);
    plan.settings = vec!["guard.mode=deny".to_owned()];
    let node = Node::boot(plan, dir.path()).unwrap();
    let [one, two] = versions();
    accept(&node, &two);
    accept_object(&node, &objects());
    let [object_one, object_two] = objects();
    let (collector, first) = node.start_collector().unwrap();
    assert!(first.verdict.trusted, "{}", first.verdict);
    unpack(&node, &two);
    let waiting = format!("{BPF_OBJECT}.new");
    node.vm.put(&waiting, &object_two, 0o644).unwrap();

    let tried = attempts(&node);
    let burst = Running::begin(&node, &burst::of_host(COUNT), COUNT).unwrap();
    rename(&node);
    node.vm.sh(&format!("mv -f {waiting} {BPF_OBJECT}")).unwrap();
    let (code, said) = hand_over(&node);
    assert_eq!(code, 0, "{said}");
    stop(&collector);
    let is_over = !burst.goes_on().unwrap();
    let collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let during = node.fresh().unwrap();
    let burst = burst.end().unwrap();
    assert!(!is_over, "the storm was over before the old collector had ended");
    node.vm.put(ENOUGH, b"", 0o644).unwrap();
    tried.ended().unwrap();
    let said = tried.log().unwrap();
    let count: usize = said
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("the guard was off: {said}"));

    let round = node.fresh().unwrap();
    whole(&round);
    burst::seen_once(&round, &burst, "through a change of eBPF programs");
    assert_eq!(denied(&round), count);
    assert_eq!(guarded(&round), count);
    assert!((1..count).contains(&denied(&during)), "{count}");
    // Each checkpoint says which programs run, and all of the new collector's that they are its own.
    let sha256 = |bytes: &[u8]| <[u8; 32]>::try_from(hash(bytes).bytes()).unwrap();
    let chain = round.checkpoints().unwrap();
    for checkpoint in &chain {
        let is_new = checkpoint.collectors.as_ref().unwrap().program == hash(&two);
        let expected = is_new.then(|| sha256(&object_two));
        assert_eq!(
            checkpoint.bpf_placed, expected,
            "checkpoint {}",
            checkpoint.number
        );
        assert_eq!(checkpoint.bpf_object, sha256(&object_one));
    }
    let sealed = |program: &[u8]| {
        let program = hash(program);
        let by = |checkpoint: &&Checkpoint| checkpoint.collectors.as_ref().unwrap().program == program;
        chain.iter().filter(by).count()
    };
    assert!(sealed(&one) > 0 && sealed(&two) > 0);
    let of_collector = round.verdict.failures().filter(|finding| {
        finding.path.as_deref() == Some(COLLECTOR.as_bytes())
            || ["as the collector", "eBPF programs", "BPF object"]
                .iter()
                .any(|words| finding.text.contains(words))
    });
    assert_eq!(of_collector.count(), 0, "{}", round.verdict);

    // A restart takes them over as they are, and so does one that finds a third object in the file.
    stop(&collector);
    node.vm.put(BPF_OBJECT, &object_one, 0o644).unwrap();
    let collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let round = node.fresh().unwrap();
    whole(&round);
    let last = round.checkpoints().unwrap().pop().unwrap();
    assert_eq!((last.starts, last.bpf_placed), (3, Some(sha256(&object_two))));

    // Programs that the kernel refuses take no place: after a handover, too, those that are there go on.
    install(&node, &one);
    node.vm.put(BPF_OBJECT, &refused(&object_one), 0o644).unwrap();
    let (code, said) = hand_over(&node);
    assert_eq!(code, 0, "{said}");
    stop(&collector);
    let collector = scenario::start_collector(&node.vm, &node.plan).unwrap();
    let round = node.fresh().unwrap();
    whole(&round);
    let last = round.checkpoints().unwrap().pop().unwrap();
    assert_eq!(last.collectors.unwrap().program, hash(&one));
    assert_eq!(last.bpf_placed, Some(sha256(&object_two)));
    let said = collector.log().unwrap();
    assert!(said.contains("cannot take the places"), "{said}");

    // A place that somebody takes away is noticed where the guard only records that.
    stop(&collector);
    let open = Plan {
        settings: vec!["guard.mode=record".to_owned()],
        ..Plan::restored(stock)
    };
    let _collector = scenario::start_collector(&node.vm, &open).unwrap();
    whole(&node.fresh().unwrap());
    node.vm.sh(&format!("rm {PLACE}")).unwrap();
    let round = node.fresh().unwrap();
    assert!(round.checkpoints().unwrap().pop().unwrap().blind);
    node.vm.power_off().unwrap();
    println!(
        "TIME other programs on {stock}: {:.1} s, {count} attempts denied",
        begin.elapsed().as_secs_f64()
    );
}

#[test]
fn a_new_collectors_programs_take_the_places_of_the_old_ones_without_a_gap_on_6_12() {
    replaced(Stock::V6_12);
}

#[test]
fn a_new_collectors_programs_take_the_places_of_the_old_ones_without_a_gap_on_6_1() {
    replaced(Stock::V6_1);
}
