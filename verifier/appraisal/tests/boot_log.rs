//! Rule V10: the boot log, the registers and IMA's first entry agree, and are what the policy accepts.
//!
//! Each test begins with a boot that is trusted and interferes with one thing.

use cgpath_appraisal::{BootAppraisal, Finding, Rule, State, Verdict, appraise};
use cgpath_evidence::{
    Bank, Evidence,
    boot::{Boot, EventType},
};
use cgpath_refvals::learned_boot::from_boot;
use cgpath_testkit::{Actor, FirmwareLog, KeyKind, Node, pod, sha256};

const NONCE: &[u8] = b"the nonce of this request";
const OTHER: &str = "quiet ima_policy=tcb init=/bin/sh";

/// The `boot:` that accepts [`FirmwareLog::good`].
fn reference() -> String {
    let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
    from_boot(&node.attest(NONCE).boot.unwrap()).unwrap().yaml()
}

/// A node that booted so, with a policy that accepts a good boot.
fn booted(change: impl FnOnce(&mut FirmwareLog)) -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(change);
    node.extra_policy = reference();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    node
}

fn appraised(node: &Node, evidence: &Evidence) -> Verdict {
    appraise(evidence, &node.policy(), &node.context(NONCE, None)).unwrap()
}

#[track_caller]
fn fails(verdict: &Verdict, words: &str) -> Finding {
    assert!(!verdict.trusted, "trusted:\n{verdict}");
    assert_ne!(verdict.node.boot, BootAppraisal::Trusted);
    assert!(verdict.pods.iter().all(|pod| pod.state != State::Trusted));
    let mut found = verdict.failures().filter(|f| f.rule == Rule::Boot);
    let finding = found.find(|f| f.text.contains(words)).cloned();
    finding.unwrap_or_else(|| panic!("no failure of V10 that says {words:?}:\n{verdict}"))
}

/// The evidence after its boot part was changed.
fn with_boot(node: &mut Node, change: impl FnOnce(&mut Boot)) -> Evidence {
    let mut evidence = node.attest(NONCE);
    change(evidence.boot.as_mut().unwrap());
    evidence
}

#[test]
fn a_boot_that_is_what_the_policy_accepts_is_trusted_and_nothing_is_dangerous() {
    let mut node = booted(|_| ());
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.boot, BootAppraisal::Trusted);
    assert!(verdict.dangerous.is_empty());
    assert!(verdict.to_string().contains("boot: trusted"));
    let again = Evidence::from_cbor(&evidence.to_cbor()).unwrap();
    assert_eq!(again, evidence);
    assert_eq!(
        Evidence::from_json(&evidence.to_json().unwrap()).unwrap(),
        evidence
    );
}

#[test]
fn two_quoted_banks_are_both_appraised() {
    let mut node = booted(|_| ());
    node.banks = vec![Bank::Sha1, Bank::Sha256];
    node.accept_banks = "[sha1, sha256]".into();
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), "PCR 0 is not one");
    node.extra_policy = from_boot(evidence.boot.as_ref().unwrap()).unwrap().yaml();
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
}

#[test]
fn another_kernel_command_line_is_named_with_what_was_found_and_what_is_accepted() {
    let mut node = booted(|log| {
        log.events.pop();
        log.add_command_line(OTHER);
    });
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let finding = fails(&verdict, "kernel command line");
    assert_eq!(finding.found.as_deref(), Some(OTHER));
    assert_eq!(finding.expected, [FirmwareLog::COMMAND_LINE]);
    fails(&verdict, "PCR 9 is not one");
}

#[test]
fn a_command_line_that_the_node_only_tells_is_never_shown_as_the_measured_one() {
    let mut node = booted(|log| {
        log.events.pop();
        log.add_command_line(OTHER);
        log.command_line = FirmwareLog::COMMAND_LINE.into();
    });
    let evidence = node.attest(NONCE);
    let finding = fails(&appraised(&node, &evidence), "kernel command line");
    assert!(finding.found.unwrap().starts_with("sha256:"));
}

#[test]
fn a_second_command_line_and_none_at_all_fail() {
    let mut second = booted(|log| log.add_command_line(OTHER));
    let evidence = second.attest(NONCE);
    fails(&appraised(&second, &evidence), "kernel command line");
    let mut none = booted(|log| drop(log.events.pop()));
    let evidence = none.attest(NONCE);
    fails(
        &appraised(&none, &evidence),
        "no kernel command line was measured",
    );
}

#[test]
fn another_image_and_one_more_are_named() {
    let mut node = booted(|log| {
        let image = (4, EventType::APPLICATION, b"image 2".to_vec(), vec![0; 40]);
        log.events.push(image);
    });
    let evidence = node.attest(NONCE);
    let finding = fails(&appraised(&node, &evidence), "EV_EFI_BOOT_SERVICES_APPLICATION");
    assert_eq!(finding.found, Some(sha256(b"image 2").to_string()));
    assert!(finding.expected[0].starts_with(&sha256(b"image 1").to_string()));
}

#[test]
fn other_firmware_is_another_pcr_0() {
    let mut node = booted(|log| log.events[0].2 = b"firmware 2".to_vec());
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    fails(&verdict, "PCR 0 is not one");
    // And its text is not what was measured.
    fails(&verdict, "not what was measured");
}

#[test]
fn a_log_that_hides_an_event_does_not_replay() {
    let mut node = booted(|log| log.add_command_line(OTHER));
    let good = FirmwareLog::good();
    let evidence = with_boot(&mut node, |boot| boot.log = Some(good.bytes()));
    let finding = fails(
        &appraised(&node, &evidence),
        "does not replay to the quoted PCR 9",
    );
    assert_eq!(
        finding.found,
        Some(good.registers(Bank::Sha256).values()[9].to_string())
    );
}

#[test]
fn registers_that_are_not_the_quoted_ones_fit_no_list() {
    let mut node = booted(|log| log.add_command_line(OTHER));
    let good = FirmwareLog::good();
    let evidence = with_boot(&mut node, |boot| {
        boot.log = Some(good.bytes());
        boot.registers = vec![good.registers(Bank::Sha256)];
    });
    let verdict = appraised(&node, &evidence);
    fails(&verdict, "nothing vouches for PCR 0 to 9");
    assert!(verdict.failures().any(|f| f.rule == Rule::Coverage));
}

#[test]
fn a_list_that_began_on_another_boot_does_not_tie() {
    let mut node = booted(|_| ());
    node.boot = Some(FirmwareLog::good());
    let mut other = FirmwareLog::good();
    other.add_command_line(OTHER);
    node.boot = Some(other);
    let evidence = node.attest(NONCE);
    let finding = fails(
        &appraised(&node, &evidence),
        "IMA's first entry is not over the quoted PCR 0 to 9",
    );
    assert_eq!(finding.index, Some(0));
}

#[test]
fn what_is_absent_fails_by_name() {
    let mut node = booted(|_| ());
    let evidence = with_boot(&mut node, |boot| boot.log = None);
    let verdict = appraised(&node, &evidence);
    fails(&verdict, "there is no boot log");
    assert_eq!(verdict.node.boot, BootAppraisal::Absent);

    let mut evidence = node.attest(NONCE);
    evidence.boot = None;
    let verdict = appraised(&node, &evidence);
    fails(&verdict, "nothing vouches");
    assert!(
        verdict
            .failures()
            .any(|f| f.rule == Rule::Quote && f.text.contains("does not state"))
    );

    // A quote over PCR 10 alone.
    let mut alone = Node::boot(KeyKind::EcdsaP256);
    alone.extra_policy = reference();
    let evidence = alone.attest(NONCE);
    fails(&appraised(&alone, &evidence), "there is no boot log");

    let mut without = booted(|_| ());
    let evidence = without.attest(NONCE);
    without.extra_policy = String::new();
    let verdict = appraised(&without, &evidence);
    fails(&verdict, "the policy has no `boot:`");
    assert_eq!(verdict.node.boot, BootAppraisal::Absent);
}

#[test]
fn a_log_that_is_cut_or_has_absurd_lengths_is_refused_with_its_offset() {
    let mut node = booted(|_| ());
    let mut evidence = node.attest(NONCE);
    let log = evidence.boot.clone().unwrap().log.unwrap();
    for bytes in [&log[..log.len() - 1], &log[..40], &[]] {
        evidence.boot.as_mut().unwrap().log = Some(bytes.to_vec());
        fails(&appraised(&node, &evidence), "byte");
    }
    let mut long = log.clone();
    long[28..32].fill(0xff);
    evidence.boot.as_mut().unwrap().log = Some(long);
    fails(&appraised(&node, &evidence), "limit exceeded at byte 28");
}

#[test]
fn a_register_without_its_separator_fails() {
    let mut node = booted(|log| {
        log.events
            .retain(|(pcr, kind, ..)| (*pcr, *kind) != (7, EventType::SEPARATOR))
    });
    let evidence = node.attest(NONCE);
    fails(
        &appraised(&node, &evidence),
        "separator without an error for PCR 7",
    );
}

#[test]
fn a_policy_that_says_both_or_nothing_is_refused() {
    let node = booted(|_| ());
    let load = |extra: &str| {
        let mut node = node.clone();
        node.extra_policy = extra.to_owned();
        let yaml = node.policy_yaml();
        cgpath_policy::Policy::load("policy.yaml", yaml.as_bytes(), |name| {
            node.reference(name).ok_or_else(|| "no such file".to_owned())
        })
        .map(|_| ())
        .map_err(|e| e.to_string())
    };
    assert_eq!(load(&reference()), Ok(()));
    let both = reference() + "dangerous-boot-not-judged: true\n";
    assert!(load(&both).unwrap_err().contains("leave out one"));
    for (extra, why) in [
        ("boot: {}\n", "names nothing"),
        ("boot: {registers: {}}\n", "names nothing"),
        ("boot: {registers: {0: []}}\n", "empty allow list"),
        (
            "boot: {registers: {10: ['sha1:0000000000000000000000000000000000000000']}}\n",
            "PCR 10",
        ),
        ("boot: {command-lines: ['']}\n", "a command line has"),
        (
            "boot: {events: [{pcr: 4, type: EV_NO_ACTION, name: x, digests: \
             ['sha1:0000000000000000000000000000000000000000']}]}\n",
            "extends nothing",
        ),
        (
            "boot: {events: [{pcr: 4, type: EV_NONE, name: x, digests: \
             ['sha1:0000000000000000000000000000000000000000']}]}\n",
            "no event type",
        ),
        (
            "boot: {events: [{pcr: 11, type: EV_IPL, name: x, digests: \
             ['sha1:0000000000000000000000000000000000000000']}]}\n",
            "PCR 11",
        ),
    ] {
        let error = load(extra).unwrap_err();
        assert!(error.contains(why), "{extra}: {error}");
    }
}

#[test]
fn reference_values_are_only_made_of_a_log_that_fits_its_registers() {
    let mut node = booted(|_| ());
    let good = node.attest(NONCE).boot.unwrap();
    assert!(from_boot(&good).is_ok());
    let mut other = FirmwareLog::good();
    other.add_command_line(OTHER);
    for (boot, why) in [
        (
            Boot {
                log: None,
                ..good.clone()
            },
            "no boot log",
        ),
        (
            Boot {
                log: Some(other.bytes()),
                ..good.clone()
            },
            "PCR 9",
        ),
    ] {
        assert!(from_boot(&boot).unwrap_err().to_string().contains(why));
    }
}
