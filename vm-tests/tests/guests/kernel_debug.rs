//! The debug kernel (KASAN, lockdep, RCU and sleep checks, kmemleak, failing allocations) while control
//! groups, parents and namespaces go away under the tasks that are measured.
//!
//! Run by `cargo xtask soak --step kernel`, which builds the kernel and names its directory in
//! `CGPATH_KERNEL`; fails where that is absent. `CGPATH_STORM_SECONDS` is the storm's length.

use std::path::Path;
use std::time::Duration;

use vm_tests::scenario::TAGGED_IMA;
use vm_tests::{Stock, Vm, kernel, lists};

/// What the kernel says when one of its checks found something.
const SPLATS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "KASAN",
    "UBSAN",
    "INFO: possible",
    "INFO: task",
    "INFO: rcu",
    "suspicious RCU",
    "sleeping function",
    "general protection fault",
    "refcount_t",
    "ODEBUG",
    "kernel panic",
];

/// Every worker runs until the time is over and counts its rounds. Each execution is of a content that nobody
/// measured before: the workers append to programs of their own. Whatever the shell can do by itself is done
/// by it, since a process of this kernel takes long to start.
const STORM: &str = r#"
top=/sys/fs/cgroup/storm
mkdir -p $top /var/tmp/storm
for n in 0 1 2 3 4 5; do mkdir -p "$top/g$n/a b:c"; done
for worker in executions removals namespaces failures; do cp /bin/true /var/tmp/storm/$worker; done
now() { read -r uptime rest </proc/uptime; now=${uptime%%.*}; }
now; end=$((now + SECONDS_OF_STORM))
going() { now; test $now -lt $end; }
fresh() { echo $i >>/var/tmp/storm/$1; }

# New programs in one group after the other.
executions() {
    i=0
    while going; do
        i=$((i + 1)); fresh executions
        ( echo 0 >"$top/g$((i % 6))/a b:c/cgroup.procs"; exec /var/tmp/storm/executions )
    done
    echo "executions $i"
}
# Whoever runs is moved to another group, while it is executed and measured.
migrations() {
    i=0
    while going; do
        for group in $top/g*/"a b:c" $top/g*; do
            while read -r pid; do
                i=$((i + 1))
                echo $pid >$top/g$((i % 6))/cgroup.procs
            done <"$group/cgroup.procs"
        done
    done 2>/dev/null
    echo "migrations $i"
}
# Groups that go away right after, or with, the task that was measured in them.
removals() {
    i=0
    while going; do
        i=$((i + 1)); fresh removals; mkdir $top/r$i
        ( echo 0 >$top/r$i/cgroup.procs; exec /var/tmp/storm/removals )
        rmdir $top/r$i
    done
    echo "removals $i"
}
# Namespaces, roots of their own, and executables that their paths do not reach.
namespaces() {
    i=0
    while going; do
        i=$((i + 1)); fresh namespaces
        unshare --mount --pid --fork --cgroup --uts --ipc /bin/sh -c "
            mount -t tmpfs none /mnt; /var/tmp/storm/namespaces; true"
        unshare --user --map-root-user /bin/true
    done
    echo "namespaces $i"
}
# Parents that exit while their children are executed and measured.
orphans() {
    i=0
    while going; do
        i=$((i + 1)); cp /bin/true /var/tmp/storm/o$i; fresh o$i
        ( ( ( /var/tmp/storm/o$i; rm -f /var/tmp/storm/o$i ) & ) & )
    done
    echo "orphans $i"
}
# Allocations of this worker's children fail, one in two hundred.
failures() {
    i=0; failed=0
    while going; do
        i=$((i + 1)); fresh failures
        ( echo 1 >/proc/self/make-it-fail; exec /var/tmp/storm/failures ) 2>/dev/null || failed=$((failed + 1))
    done
    echo "failures $i of which $failed did not run"
}
for worker in executions migrations removals namespaces orphans failures; do
    $worker &
done
wait
"#;

#[test]
fn a_storm_on_the_debug_kernel_leaves_no_splat_no_leak_and_a_list_that_replays() {
    let built = std::env::var_os("CGPATH_KERNEL").expect("CGPATH_KERNEL names no kernel");
    let kernel = kernel::built(Path::new(&built)).unwrap();
    let config = kernel.config().unwrap();
    for checker in [
        "KASAN",
        "PROVE_LOCKING",
        "PROVE_RCU",
        "DEBUG_ATOMIC_SLEEP",
        "DEBUG_KMEMLEAK",
        "FAILSLAB",
    ] {
        let line = format!("CONFIG_{checker}=y");
        assert!(config.lines().any(|text| text == line), "no {line}");
    }
    let seconds: u64 = std::env::var("CGPATH_STORM_SECONDS").map_or(600, |text| text.parse().unwrap());
    let vm = Vm::builder(Stock::V6_12)
        .kernel(kernel)
        .ima(TAGGED_IMA)
        .kernel_args("kmemleak=on log_buf_len=4M")
        .memory_mib(2560)
        .start()
        .unwrap();
    println!(
        "TIME Linux {} was up after {:.1} s",
        vm.hello().kernel,
        vm.boot_time().as_secs_f64()
    );
    let long = Duration::from_secs(seconds + 900);
    let sh = |script: &str| {
        let output = vm
            .command(&["/bin/sh", "-c", script])
            .timeout(long)
            .run()
            .unwrap();
        assert_eq!(output.code(), Some(0), "{script}\n{}", output.text());
        output.text()
    };
    sh("mkdir -p /sys/kernel/debug; mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
        cd /sys/kernel/debug; echo scan >kmemleak; echo clear >kmemleak
        cd failslab; echo 5 >probability; echo 10 >interval; echo -1 >times; echo 0 >verbose
        echo Y >task-filter; echo N >ignore-gfp-wait");
    let count = || -> u64 {
        let text = vm.get_text(&format!("{}/runtime_measurements_count", lists::LISTS));
        text.unwrap().trim().parse().unwrap()
    };
    let before = count();
    let said = sh(&STORM.replace("SECONDS_OF_STORM", &seconds.to_string()));
    println!("{said}");
    for worker in [
        "executions",
        "migrations",
        "removals",
        "namespaces",
        "orphans",
        "failures",
    ] {
        let rounds = said
            .lines()
            .find_map(|line| line.strip_prefix(worker)?.split_whitespace().next());
        assert!(rounds.unwrap().parse::<u64>().unwrap() > 0, "{worker}: {said}");
    }
    // A second look: what is freed by RCU is not gone at the first one.
    let leaks = sh(
        "sleep 10; cd /sys/kernel/debug; echo scan >kmemleak; sleep 10; echo scan >kmemleak; cat kmemleak",
    );
    let dmesg = sh("dmesg");
    let audited = dmesg.lines().filter(|line| line.contains("cause=ENOMEM")).count();
    let splats: Vec<&str> = dmesg
        .lines()
        .filter(|line| SPLATS.iter().any(|splat| line.contains(splat)))
        .collect();
    let (register, list) = lists::at_rest(&vm, "sha256").unwrap();
    let replayed = lists::replayed(&list, "sha256").unwrap();
    let after = count();
    println!(
        "STORM {seconds} s: {after} entries, {} of them in the storm; {audited} audited failures shown",
        after - before
    );
    assert!(splats.is_empty(), "{}\n{dmesg}", splats.join("\n"));
    assert_eq!(leaks.trim(), "");
    assert_eq!(replayed, register);
    assert!(audited > 0, "no failed allocation reached IMA");
    vm.power_off().unwrap();
}
