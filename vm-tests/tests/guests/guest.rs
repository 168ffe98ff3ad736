//! A guest is a node: a stock kernel with IMA, a TPM, BTF and control groups, that executes the commands it
//! is sent.

use std::time::{Duration, Instant};

use vm_tests::{Stock, Vm};

/// Waits until something is so that will be.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(
            begin.elapsed() < Duration::from_secs(120),
            "it never comes that {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn guest_has_what_a_node_has_and_does_what_it_is_asked() {
    for stock in Stock::ALL {
        let vm = Vm::builder(stock)
            .bytes("/etc/marker", "from the image", 0o640)
            .start()
            .unwrap();
        println!(
            "Linux {} was up after {:.1} s: {:?}",
            vm.hello().kernel,
            vm.boot_time().as_secs_f64(),
            vm.hello()
        );
        assert_eq!(vm.hello().failures, Vec::<String>::new());
        assert!(
            vm.hello().kernel.starts_with(&format!("{stock}.")),
            "{}",
            vm.hello().kernel
        );

        let list = vm
            .get_text("/sys/kernel/security/ima/ascii_runtime_measurements")
            .unwrap();
        assert!(
            list.starts_with("10 ") && list.contains(" ima-ng sha256:") && list.contains("boot_aggregate"),
            "{list}"
        );
        assert!(
            list.contains(" /usr/sbin/guest\n"),
            "init itself is not in the list:\n{list}"
        );
        let magic = vm
            .run(&["head", "-c", "2", "/sys/kernel/btf/vmlinux"])
            .unwrap()
            .check()
            .unwrap();
        assert_eq!(magic.stdout, [0x9f, 0xeb]);
        assert!(
            vm.get_text("/sys/kernel/security/lsm")
                .unwrap()
                .split(',')
                .any(|lsm| lsm == "bpf")
        );
        vm.sh("test -c /dev/tpm0 && test -c /dev/tpmrm0").unwrap();
        assert!(
            vm.sh("stat -c %a /etc/marker; stat -c %u:%g /etc/marker /; cat /etc/marker")
                .unwrap()
                == "640\n0:0\n0:0\nfrom the image"
        );
        assert!(vm.sh("ip -4 address show eth0").unwrap().contains("10.0.2.15/24"));

        // Commands: status, streams, environment, time-out.
        let failing = vm
            .command(&["sh", "-c", "cat; echo $A >&2; exit 7"])
            .env("A", "b c")
            .stdin("in")
            .run()
            .unwrap();
        assert_eq!(
            (failing.code(), failing.text().as_str(), failing.errors().as_str()),
            (Some(7), "in", "b c\n")
        );
        assert!(
            vm.command(&["sleep", "60"])
                .timeout(Duration::from_millis(300))
                .run()
                .is_err()
        );
        assert!(vm.run(&["/no/such/program"]).is_err());
        let killed = vm.run(&["sh", "-c", "kill -9 $$"]).unwrap();
        assert_eq!(killed.exit.signal, Some(9));
        let inside = vm
            .command(&["cat", "/proc/self/cgroup"])
            .cgroup("/kubepods/besteffort/podx")
            .run()
            .unwrap();
        assert_eq!(inside.text(), "0::/kubepods/besteffort/podx\n");

        // Files, larger than any buffer on the way.
        let content: Vec<u8> = (0..1_000_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let started = std::time::Instant::now();
        vm.put("/var/put/a", &content, 0o600).unwrap();
        println!(
            "put {:.0} KB/s",
            content.len() as f64 / 1e3 / started.elapsed().as_secs_f64()
        );
        let started = std::time::Instant::now();
        assert!(vm.get("/var/put/a").unwrap() == content);
        println!(
            "get {:.0} KB/s",
            content.len() as f64 / 1e3 / started.elapsed().as_secs_f64()
        );

        // In the background, with a child of its own; orphans are reaped.
        let process = vm
            .command(&["sh", "-c", "echo up; sleep 1000 & wait"])
            .spawn("/run/log/x")
            .unwrap();
        until("it says that it is up", || process.log().unwrap() == "up\n");
        assert_eq!(process.wait(Duration::from_millis(500)).unwrap(), None);
        process.signal_group(15).unwrap();
        assert_eq!(
            process.wait(Duration::from_secs(20)).unwrap().unwrap().signal,
            Some(15)
        );
        let orphan = vm.sh("(sh -c 'echo $$; exec sleep 0.2 >&- 2>&-' &)").unwrap();
        let stat = format!("/proc/{}/stat", orphan.trim());
        // A zombie is there until it is reaped.
        until("the orphan is reaped", || vm.get(&stat).is_err());
        vm.power_off().unwrap();
    }
}

#[test]
fn a_reboot_is_a_new_boot_with_the_same_tpm_and_disk() {
    let mut vm = Vm::builder(Stock::V6_12).persistent(true).start().unwrap();
    let first = vm.hello().boot_id.clone();
    let state = vm.dir().join("tpm/tpm2-00.permall");
    assert!(state.exists(), "the TPM has no state at {}", state.display());
    vm.put("/var/kept", b"kept", 0o600).unwrap();
    vm.sh("cp /sys/kernel/security/ima/ascii_runtime_measurements /var/list")
        .unwrap();
    vm.reboot().unwrap();
    assert_ne!(vm.hello().boot_id, first);
    assert_eq!(vm.get("/var/kept").unwrap(), b"kept");
    // The list starts anew, and so does the register.
    let before = vm.get_text("/var/list").unwrap();
    let now = vm
        .get_text("/sys/kernel/security/ima/ascii_runtime_measurements")
        .unwrap();
    assert_eq!(
        before.lines().next(),
        now.lines().next(),
        "boot_aggregate differs: not the same firmware and TPM"
    );
    assert!(
        now.lines().count() < before.lines().count(),
        "the list goes on after a reboot:\n{now}"
    );
    let dir = vm.dir().to_path_buf();
    drop(vm);
    assert!(!dir.exists(), "{} is left over", dir.display());
}

#[test]
fn ima_policy_is_loaded_by_its_path_before_anything_else_is_executed() {
    for stock in Stock::ALL {
        let rules = "measure func=POLICY_CHECK\nmeasure func=BPRM_CHECK\n";
        let vm = Vm::builder(stock)
            .bytes("/etc/ima/ima-policy", rules, 0o644)
            .start()
            .unwrap();
        assert_eq!(vm.hello().failures, Vec::<String>::new());
        assert_eq!(vm.hello().ima_policy.as_deref(), Some("/etc/ima/ima-policy"));
        let list = vm
            .get_text("/sys/kernel/security/ima/ascii_runtime_measurements")
            .unwrap();
        let names: Vec<&str> = list.lines().filter_map(|line| line.rsplit(' ').next()).collect();
        let policy = names
            .iter()
            .position(|name| *name == "/etc/ima/ima-policy")
            .unwrap();
        // What came before is init itself, which the kernel executed.
        assert!(
            names[..policy]
                .iter()
                .all(|name| *name == "boot_aggregate" || *name == "/usr/sbin/guest"),
            "{names:?}"
        );
        assert!(
            names[policy..].iter().any(|name| name.ends_with("/kmod")),
            "{names:?}"
        );
    }
}

#[test]
fn a_guest_that_cannot_start_shows_its_console() {
    // It ends a second after its panic: ended in the same instant, it once had written nothing.
    let error = Vm::builder(Stock::V6_12)
        .kernel_args("init=/no/such/init loglevel=7 panic=1")
        .start()
        .map(|_| ())
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("Kernel panic") || text.contains("/no/such/init"),
        "{text}"
    );
}
