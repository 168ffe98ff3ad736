//! The rule option `per_cgroup` of the RFC series: a file leaves an entry for each control group that uses
//! it.
//!
//! Run by `cargo xtask soak --step kernel` with the kernel of `rfc-per-cgroup` in `CGPATH_KERNEL`; fails
//! without it.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use vm_tests::lists::{self, LISTS};
use vm_tests::scenario::TAGGED_IMA;
use vm_tests::{Stock, Vm, kernel};

/// Files of user 1000 are measured for each group, those of user 1001 once, no matter who uses them.
const POLICY: &str = "\
measure func=BPRM_CHECK mask=MAY_EXEC fowner=1000 template=ima-cgpath per_cgroup
measure func=BPRM_CHECK mask=MAY_EXEC fowner=1001 template=ima-cgpath
";

/// Rules that must be refused.
const WRONG: &[&str] = &[
    "measure func=BPRM_CHECK template=ima-ng per_cgroup",
    "dont_measure func=BPRM_CHECK per_cgroup",
    "audit func=BPRM_CHECK per_cgroup",
    "measure func=KEY_CHECK template=ima-cgpath per_cgroup",
];

/// Groups that the kernel remembers of a file.
const REMEMBERED: usize = 31;

/// Rounds of the comparison, and executions of each kind in one.
const ROUNDS: usize = 30;
const EXECUTIONS: usize = 20;

/// One line of the list: `cg-path`, digest, name.
type Line = (String, String, String);

struct Facts {
    policy: String,
    /// For each rule of [`WRONG`], what became of writing it.
    refused: Vec<bool>,
    /// After each step.
    once: Vec<Line>,
    twice: Vec<Line>,
    changed: Vec<Line>,
    renewed: Vec<Line>,
    many: Vec<Line>,
    many_again: Vec<Line>,
    /// Nanoseconds of each round: known file; known file and group; more groups than are remembered.
    times: Vec<[u64; 3]>,
    register: String,
    replayed: String,
}

fn lines(vm: &Vm, name: &str) -> Vec<Line> {
    let text = vm
        .get_text(&format!("{LISTS}/ascii_runtime_measurements"))
        .unwrap();
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.len() == 7 && fields[2] == "ima-cgpath" && fields[6] == name)
        .map(|fields| (fields[4].to_owned(), fields[5].to_owned(), fields[6].to_owned()))
        .collect()
}

fn gather() -> Facts {
    let built = std::env::var_os("CGPATH_KERNEL").expect("CGPATH_KERNEL names no kernel");
    let kernel = kernel::built(Path::new(&built)).unwrap();
    let vm = Vm::builder(Stock::V6_12)
        .kernel(kernel)
        .ima(TAGGED_IMA)
        .start()
        .unwrap();
    let sh = |script: &str| {
        let output = vm
            .command(&["/bin/sh", "-c", script])
            .timeout(Duration::from_secs(900))
            .run()
            .unwrap();
        assert_eq!(output.code(), Some(0), "{script}\n{}", output.text());
        output.text()
    };
    let file = |name: &str, owner: u32| {
        sh(&format!(
            "cp /bin/true /var/tmp/{name}; echo {name} >>/var/tmp/{name}; chown {owner} /var/tmp/{name}"
        ));
    };
    let run = |name: &str, group: &str| {
        sh(&format!(
            "mkdir -p /sys/fs/cgroup/{group}; (echo 0 >/sys/fs/cgroup/{group}/cgroup.procs; exec \
             /var/tmp/{name})"
        ));
    };
    vm.put("/etc/ima/per-cgroup", POLICY.as_bytes(), 0o600).unwrap();
    sh("echo /etc/ima/per-cgroup >/sys/kernel/security/ima/policy");
    let policy = sh("cat /sys/kernel/security/ima/policy");
    let refuse = |rule: &&str| {
        let script = format!("echo '{rule}' >/sys/kernel/security/ima/policy");
        let output = vm.command(&["/bin/sh", "-c", &script]).run().unwrap();
        output.code() != Some(0)
    };
    let refused = WRONG.iter().map(refuse).collect();
    file("known", 1001);
    for group in ["a", "b", "a", "b"] {
        run("known", group);
    }
    let once = lines(&vm, "/var/tmp/known");
    file("shared", 1000);
    for group in ["a", "b", "a", "b"] {
        run("shared", group);
    }
    let twice = lines(&vm, "/var/tmp/shared");
    sh("echo changed >>/var/tmp/shared");
    for group in ["b", "a", "b"] {
        run("shared", group);
    }
    let changed = lines(&vm, "/var/tmp/shared");
    sh("rmdir /sys/fs/cgroup/a");
    run("shared", "a");
    let renewed = lines(&vm, "/var/tmp/shared");
    file("many", 1000);
    let groups = format!("$(seq {})", REMEMBERED + 9);
    let all = format!(
        "for n in {groups}; do mkdir -p /sys/fs/cgroup/g$n; (echo 0 >/sys/fs/cgroup/g$n/cgroup.procs; exec \
         /var/tmp/many); done"
    );
    sh(&all);
    let many = lines(&vm, "/var/tmp/many");
    sh(&all);
    let many_again = lines(&vm, "/var/tmp/many");
    // Compared in turn: what else the machine does hits all of them. All move to a group, none leaves an
    // entry.
    let times = sh(&format!(
        "turn() {{ begin=$(date +%s%N); n=0; while [ $n -lt {EXECUTIONS} ]; do n=$((n + 1))
             (echo 0 >/sys/fs/cgroup/g$2/cgroup.procs; exec /var/tmp/$1); done; echo $(($(date +%s%N) - begin)); }}
         rotate() {{ begin=$(date +%s%N); n=0; while [ $n -lt {EXECUTIONS} ]; do n=$((n + 1)); g=$((g % {} + 1))
             (echo 0 >/sys/fs/cgroup/g$g/cgroup.procs; exec /var/tmp/$1); done; echo $(($(date +%s%N) - begin)); }}
         g=0; r=0; while [ $r -lt {ROUNDS} ]; do r=$((r + 1)); turn known 1; turn many 1; rotate many; done",
        REMEMBERED + 9
    ));
    let numbers: Vec<u64> = times.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.len(), 3 * ROUNDS, "{times}");
    let times = numbers
        .chunks(3)
        .map(|three| [three[0], three[1], three[2]])
        .collect();
    let (register, list) = lists::at_rest(&vm, "sha256").unwrap();
    let replayed = lists::replayed(&list, "sha256").unwrap();
    vm.power_off().unwrap();
    Facts {
        policy,
        refused,
        once,
        twice,
        changed,
        renewed,
        many,
        many_again,
        times,
        register,
        replayed,
    }
}

fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(gather)
}

fn groups(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|(group, _, _)| group.as_str()).collect()
}

#[test]
fn the_policy_shows_the_option_and_refuses_it_where_it_means_nothing() {
    assert!(facts().policy.contains("per_cgroup"), "{}", facts().policy);
    for (rule, refused) in WRONG.iter().zip(&facts().refused) {
        assert!(refused, "{rule}");
    }
}

#[test]
fn without_the_option_the_second_group_leaves_no_entry() {
    assert_eq!(groups(&facts().once), ["/a"]);
}

#[test]
fn with_it_each_group_leaves_one() {
    assert_eq!(groups(&facts().twice), ["/a", "/b"]);
}

#[test]
fn a_changed_file_is_measured_for_each_group_anew() {
    assert_eq!(groups(&facts().changed), ["/a", "/b", "/b", "/a"]);
    assert_ne!(facts().changed[0].1, facts().changed[3].1);
    assert_eq!(facts().changed[2].1, facts().changed[3].1);
}

#[test]
fn a_group_that_was_made_anew_under_its_name_adds_nothing() {
    assert_eq!(facts().renewed, facts().changed);
}

#[test]
fn more_groups_than_are_remembered_are_all_there_and_once() {
    assert_eq!(facts().many.len(), REMEMBERED + 9);
    assert_eq!(facts().many_again, facts().many);
}

#[test]
fn the_list_replays_to_the_register() {
    assert_eq!(facts().replayed, facts().register);
}

#[test]
fn what_it_costs_is_shown() {
    let ratio = |of: usize| {
        let mut ratios: Vec<f64> = facts()
            .times
            .iter()
            .map(|times| times[of] as f64 / times[0] as f64)
            .collect();
        ratios.sort_by(f64::total_cmp);
        (ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1])
    };
    println!(
        "COST of an execution, as a multiple of one of a known file: {ROUNDS} rounds, median, least, most"
    );
    println!("COST per_cgroup, remembered group: {:.2?}", ratio(1));
    println!("COST per_cgroup, group not remembered: {:.2?}", ratio(2));
    assert!(facts().times.iter().flatten().all(|&time| time > 0));
}
