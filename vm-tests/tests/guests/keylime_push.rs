//! A node with a kernel of its own as an agent of Keylime in push mode: Keylime's registrar and verifier on
//! this machine judge what a real kernel measured, by reference values that were made before the guest
//! booted.

#[path = "../../../collector/tests/keylime_push/services.rs"]
#[allow(dead_code, reason = "the collector's own tests ask for more")]
mod services;

use cgpath_evidence::Bank;
use cgpath_evidence::boot::boot_aggregate;
use hyper::Method;
use serde_json::{Value, json};
use services::Keylime;
use std::time::{Duration, Instant};
use vm_protocol::elf;
use vm_tests::scenario::{COLLECTOR_LOG, NODE, Node, Plan, Round};
use vm_tests::{Stock, host};

const CA: &str = "/etc/ima-cgpath/keylime-ca.pem";
/// In the guest's root before it boots, so that the policy knows it; executed once Keylime has judged a
/// round.
const KNOWN: &str = "/opt/known";
/// Comes into the guest while it runs.
const UNKNOWN: &str = "/opt/unknown";

/// Keylime judges on a machine that emulates the guest's processor at the same time.
const APPRAISED: Duration = Duration::from_secs(180);

/// A runtime policy of the files that the guest's root had before it booted, with the boot aggregate that
/// follows from its registers.
fn runtime_policy(node: &Node, round: &Round) -> Value {
    let references = node.site.policy_file().with_file_name("host.json");
    let output = node.site.dir().join("runtime-policy.json");
    let mut command = node
        .site
        .cgpath(&["policy", "to-keylime", "--exclude-checkpoints"]);
    host::output(command.arg(references).arg("-o").arg(&output)).unwrap();
    let mut policy: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    assert_eq!(
        policy["excludes"],
        json!(["^/run/ima-cgpath/checkpoint/[0-9]+$"]),
        "nothing else may go unjudged"
    );
    assert!(policy["digests"][KNOWN].is_array() && policy["digests"][UNKNOWN].is_null());
    let evidence = round.evidence().unwrap();
    let registers = evidence.boot.as_ref().unwrap().registers(Bank::Sha256).unwrap();
    let aggregate = boot_aggregate(registers);
    policy["digests"]["boot_aggregate"] = json!([hex::encode(aggregate.bytes())]);
    policy
}

/// A judged attestation.
#[derive(Debug, Clone)]
struct Appraised {
    /// The number of the list's first entry that was asked for; 0 where the verifier named none.
    offset: u64,
    /// How many were sent.
    entries: u64,
    /// `pass` or `fail`.
    evaluation: String,
}

/// The latest attestation, if Keylime's verifier has judged it.
async fn latest(keylime: &Keylime) -> Option<Appraised> {
    let path = format!("/v3.0/agents/{NODE}/attestations/latest");
    let (status, answer) = keylime.verifier(Method::GET, &path, None, Value::Null).await;
    if status == 404 {
        return None;
    }
    assert!((200..300).contains(&status), "{status} {answer}");
    let attributes = &answer["data"]["attributes"];
    if attributes["stage"] != "verification_complete" {
        return None;
    }
    let evidence = attributes["evidence"].as_array().unwrap();
    let log = evidence.iter().find(|item| item["evidence_type"] == "ima_log");
    let log = log.unwrap_or_else(|| panic!("no list in {attributes:#}"));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {log:#}"));
    Some(Appraised {
        offset: log["chosen_parameters"]["starting_offset"].as_u64().unwrap_or(0),
        entries: number(&log["data"]["entry_count"]),
        evaluation: attributes["evaluation"].as_str().unwrap().to_owned(),
    })
}

/// Waits for a judged attestation of which `wanted` says so.
async fn until(keylime: &Keylime, node: &Node, wanted: impl Fn(&Appraised) -> bool) -> Appraised {
    let begin = Instant::now();
    loop {
        let last = latest(keylime).await;
        if let Some(appraised) = last.as_ref().filter(|appraised| wanted(appraised)) {
            return appraised.clone();
        }
        assert!(
            begin.elapsed() < APPRAISED,
            "{last:?}; cgpathd wrote:\n{}\nKeylime's verifier wrote:\n{}",
            host::tail(&node.vm.get_text(COLLECTOR_LOG).unwrap_or_default(), 15),
            keylime.log("verifier")
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn keylime_trusts_a_guest_by_its_kernels_list_and_names_the_file_that_its_policy_does_not_know() {
    let begin = Instant::now();
    let keylime = Keylime::start();
    println!("TIME Keylime up: {:.1} s", begin.elapsed().as_secs_f64());
    let dir = tempfile::tempdir().unwrap();
    let mut plan = Plan::new(Stock::V6_12);
    plan.files = vec![
        (
            CA.to_owned(),
            std::fs::read(keylime.path("ca.pem")).unwrap(),
            0o644,
        ),
        (KNOWN.to_owned(), elf::exit(0, "known"), 0o755),
    ];
    plan.config = format!(
        "[tpm]\n\
         key = \"rsa-2048\"\n\n\
         [[sink]]\n\
         name = \"keylime\"\n\
         kind = \"keylime-push\"\n\
         to = \"{}\"\n\
         registrar = \"{}\"\n\
         ca = \"{CA}\"\n\
         interval = 1\n\
         timeout = 180\n",
        keylime.verifier_url_for_guests(),
        keylime.registrar_url_for_guests(),
    );
    let node = Node::boot(plan, dir.path()).unwrap();
    let (_collector, round) = node.start_collector().unwrap();
    println!("TIME first verdict: {:.1} s", begin.elapsed().as_secs_f64());
    keylime.registered(NODE).await;
    let policy = runtime_policy(&node, &round);
    keylime.add_policy(NODE, &policy, Value::Null).await;

    let good = |appraised: &Appraised| {
        assert_eq!(
            appraised.evaluation,
            "pass",
            "{appraised:?}: {}",
            keylime.log("verifier")
        );
    };
    let first = until(&keylime, &node, |_| true).await;
    good(&first);
    println!(
        "TIME first judgement: {:.1} s, {first:?}",
        begin.elapsed().as_secs_f64()
    );

    // A file that the policy knows: what Keylime has already is not sent again.
    node.vm.run(&[KNOWN]).unwrap().check().unwrap();
    let length = measured(&node, KNOWN);
    let second = until(&keylime, &node, |appraised| {
        good(appraised);
        appraised.offset + appraised.entries >= length
    })
    .await;
    assert!(
        second.offset >= first.offset + first.entries && second.offset > 0,
        "{first:?} {second:?}"
    );
    assert_eq!(keylime.status(NODE).await, "PASS");
    println!(
        "TIME second judgement: {:.1} s, {second:?}",
        begin.elapsed().as_secs_f64()
    );

    node.vm.put(UNKNOWN, &elf::exit(0, "unknown"), 0o755).unwrap();
    node.vm.run(&[UNKNOWN]).unwrap().check().unwrap();
    let last = until(&keylime, &node, |appraised| appraised.evaluation != "pass").await;
    assert_eq!(last.evaluation, "fail", "{last:?}");
    assert_eq!(keylime.status(NODE).await, "FAIL");
    let named = format!("File not found in allowlist: {UNKNOWN}");
    assert_eq!(
        keylime.count("verifier", "File not found in allowlist: "),
        keylime.count("verifier", &named)
    );
    assert!(
        keylime.count("verifier", &named) > 0,
        "{}",
        keylime.log("verifier")
    );
    node.vm.power_off().unwrap();
    println!("TIME all: {:.1} s", begin.elapsed().as_secs_f64());
}

/// The length of the kernel's list once `name` is in it.
fn measured(node: &Node, name: &str) -> u64 {
    let list = node
        .vm
        .get_text("/sys/kernel/security/ima/ascii_runtime_measurements")
        .unwrap();
    let at = list.lines().position(|line| line.ends_with(&format!(" {name}")));
    at.unwrap_or_else(|| panic!("{name} was not measured")) as u64 + 1
}
