//! A guest that UEFI firmware starts from a disk: PCR 0 to 9 are real, and rule V10 judges them.

use cgpath_appraisal::{BootAppraisal, Rule};
use cgpath_evidence::Bank;
use cgpath_evidence::boot::{EventLog, boot_aggregate};
use vm_tests::Stock;
use vm_tests::scenario::{COLLECTOR, Node, Plan, Round};

/// A node after its first round, and its collector's process id.
fn first_round(plan: Plan) -> (Node, Round, tempfile::TempDir, i32) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::boot(plan, dir.path()).unwrap();
    println!(
        "TIME firmware to init of {}: {:.1} s",
        node.vm.hello().kernel,
        node.vm.boot_time().as_secs_f64()
    );
    let (collector, round) = node.start_collector().unwrap();
    let pid = collector.pid();
    println!("{}", round.verdict);
    (node, round, dir, pid)
}

fn plan(stock: Stock) -> Plan {
    let mut plan = Plan::new(stock);
    plan.firmware = true;
    plan
}

fn a_good_boot_is_trusted(stock: Stock) -> (Node, tempfile::TempDir, i32) {
    let (node, round, dir, collector) = first_round(plan(stock));
    assert_eq!(round.verdict.node.boot, BootAppraisal::Trusted);
    assert!(round.verdict.trusted && round.verdict.dangerous.is_empty());

    // The same by hand, and what a boot that was seen to be good teaches is accepted as well.
    let evidence = round.evidence().unwrap();
    let boot = evidence.boot.as_ref().unwrap();
    let log = EventLog::parse(boot.log.as_deref().unwrap()).unwrap();
    let registers = log.replay(Bank::Sha256).unwrap();
    assert_eq!(Some(&registers), boot.registers(Bank::Sha256));
    for (pcr, value) in registers.values().iter().enumerate() {
        let seen = node
            .vm
            .get_text(&format!("/sys/class/tpm/tpm0/pcr-sha256/{pcr}"))
            .unwrap();
        assert_eq!(
            seen.trim().to_lowercase(),
            hex::encode(value.bytes()),
            "PCR {pcr}"
        );
    }
    let list = node
        .vm
        .get_text("/sys/kernel/security/ima/ascii_runtime_measurements")
        .unwrap();
    assert!(
        list.lines()
            .next()
            .unwrap()
            .contains(&boot_aggregate(&registers).to_string())
    );

    let learned =
        vm_tests::host::output(node.site.cgpath(&["policy", "from-boot"]).arg(&round.file)).unwrap();
    let learned = String::from_utf8(learned).unwrap();
    let policy = std::fs::read_to_string(node.site.policy_file()).unwrap();
    let (head, _) = policy.split_once("boot:").unwrap();
    let path = node.site.policy_file().with_file_name("learned.yaml");
    std::fs::write(&path, format!("{head}{learned}")).unwrap();
    let verdict = node
        .site
        .cgpath(&["verify", "--dangerous-no-nonce", "--ak"])
        .arg(node.site.key_file())
        .arg("--policy")
        .arg(&path)
        .arg(&round.file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verdict.stdout).into_owned();
    assert!(
        verdict.status.success() && said.contains("boot: trusted"),
        "{said}"
    );
    (node, dir, collector)
}

/// `cgpathd once`, after the collector of this process id, with an RSA key and a nonce as Trustee asks for
/// it, exported for it. `CGPATH_RECORD` names where the evidence goes: `foreign-verifiers/evidence/rsa.cbor`
/// came so.
fn has_the_form_that_trustee_takes(node: &Node, collector: i32) {
    let stop = format!("kill {collector}; while [ -e /proc/{collector} ]; do sleep 0.2; done");
    node.vm.sh(&stop).unwrap();
    let mut nonce = b"report data of a Trustee request".to_vec();
    nonce.resize(64, 0);
    let nonce = hex::encode(nonce);
    let once = [
        COLLECTOR,
        "--set",
        "tpm.key=rsa-2048",
        "once",
        "--nonce",
        &nonce,
        "-o",
        "/run/rsa.cbor",
    ];
    node.vm.run(&once).unwrap().check().unwrap();
    let bytes = node.vm.get("/run/rsa.cbor").unwrap();
    if let Some(path) = std::env::var_os("CGPATH_RECORD") {
        std::fs::write(path, &bytes).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let (evidence, out) = (dir.path().join("rsa.cbor"), dir.path().join("trustee.json"));
    std::fs::write(&evidence, bytes).unwrap();
    let mut export = node.site.cgpath(&["export", "--format", "trustee", "-o"]);
    vm_tests::host::output(export.arg(&out).arg(&evidence)).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert_eq!(json["tpm_quote"]["pcrs"].as_array().unwrap().len(), 11);
}

#[test]
fn a_boot_from_disk_is_trusted_by_values_that_were_computed_before_it_on_6_12() {
    let (node, _dir, collector) = a_good_boot_is_trusted(Stock::V6_12);
    has_the_form_that_trustee_takes(&node, collector);
    node.vm.power_off().unwrap();
}

#[test]
fn another_kernel_command_line_makes_the_node_untrusted_and_is_named() {
    const SMUGGLED: &str = "ima_appraise=off";
    let plan = Plan {
        smuggled_args: SMUGGLED.to_owned(),
        ..plan(Stock::V6_12)
    };
    let (node, round, _dir, _) = first_round(plan);
    assert!(!round.verdict.trusted);
    assert_eq!(round.verdict.node.boot, BootAppraisal::Untrusted);
    let failures: Vec<_> = round
        .verdict
        .failures()
        .filter(|f| f.rule == Rule::Boot)
        .collect();
    let line = failures
        .iter()
        .find(|f| f.text.contains("kernel command line"))
        .unwrap();
    let found = line.found.as_deref().unwrap();
    assert!(found.ends_with(SMUGGLED), "{found}");
    assert_eq!(
        found.strip_suffix(&format!(" {SMUGGLED}")),
        line.expected.first().map(String::as_str)
    );
    // The image that carries it is another one, too; the kernel in it is not.
    let images = failures
        .iter()
        .filter(|f| f.text.contains("EV_EFI_BOOT_SERVICES_APPLICATION"));
    assert_eq!(images.count(), 1);
    node.vm.power_off().unwrap();
}
