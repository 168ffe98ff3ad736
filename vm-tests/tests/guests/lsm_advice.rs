//! What `cgpathd check` says about the kernel's command line is followed to the letter, and the node works.

use serde_json::Value;
use vm_tests::scenario::COLLECTOR;
use vm_tests::{Stock, Vm, VmBuilder, host};

/// The modules that Debian 12's 6.1 starts by itself, in its order, without `bpf`.
const WITHOUT_BPF: &str = "lsm=landlock,lockdown,yama,integrity,apparmor";

fn node(kernel_args: &str) -> VmBuilder {
    let policy = host::workspace_root().join("policy/ima/recommended");
    Vm::builder(Stock::V6_1)
        .ima_policy(policy)
        .file(COLLECTOR, host::built_binary("cgpathd").unwrap(), 0o755)
        .kernel_args(kernel_args)
}

/// One row of `cgpathd check`.
fn row(vm: &Vm, id: &str) -> Value {
    let said = vm.run(&[COLLECTOR, "check", "--json"]).unwrap();
    let report: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let rows = report["rows"].as_array().unwrap();
    rows.iter().find(|row| row["id"] == id).unwrap().clone()
}

/// 6.1's IMA needs `integrity` and panics at the first measured file without it, though nothing lists it as
/// active.
#[test]
fn a_6_1_kernel_boots_with_the_security_modules_that_check_advises() {
    let vm = node(WITHOUT_BPF).start().unwrap();
    let active = vm.get_text("/sys/kernel/security/lsm").unwrap();
    assert!(
        !active.contains("bpf") && !active.contains("integrity") && !active.contains("ima"),
        "this kernel is not of the kind that this test is about: {active}"
    );
    let found = row(&vm, "bpf-lsm");
    assert_eq!(
        (&found["state"], &found["needs_reboot"]),
        (&"fail".into(), &true.into()),
        "{found}"
    );
    let remedy = found["remedy"].as_str().unwrap();
    let advice = remedy
        .split_whitespace()
        .find(|word| word.starts_with("lsm="))
        .unwrap_or_else(|| panic!("no parameter in {remedy:?}"))
        .to_owned();
    vm.power_off().unwrap();

    let vm = node(&advice).start().unwrap();
    for id in ["bpf-lsm", "ima", "ima-policy"] {
        let found = row(&vm, id);
        assert_eq!(found["state"], "ok", "{found}");
    }
    let list = vm
        .get_text("/sys/kernel/security/ima/ascii_runtime_measurements")
        .unwrap();
    assert!(
        list.ends_with('\n') && list.contains(" /usr/sbin/cgpathd\n"),
        "{list}"
    );
    vm.power_off().unwrap();
}
