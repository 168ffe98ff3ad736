//! V10 over the firmware's log of RTMR 0 to 2.

use super::*;
use cgpath_evidence::boot::EventType;
use cgpath_evidence::{Bank, Digest};
use cgpath_testkit::FirmwareLog;

/// A register's index, and what is done to the log.
type Change = (u8, fn(&mut FirmwareLog));

const OTHER: &str = "quiet ima_policy=tcb init=/bin/sh";

fn sha384(data: &[u8]) -> Digest {
    Bank::Sha384.hash(&[data])
}

/// A domain that booted so, under a policy that was made of a good boot.
fn booted(change: impl FnOnce(&mut FirmwareLog)) -> Node {
    let mut domain = domain();
    change(&mut domain.firmware);
    domain.boot();
    busy_in(domain, false)
}

/// The same; `tdx.boot` has the register 0 and these lines.
fn booted_by_events(lines: &str, change: impl FnOnce(&mut FirmwareLog)) -> Node {
    let mut node = booted(change);
    let td = node.td.as_mut().unwrap();
    let cut = td.policy.find("      1: [").unwrap();
    td.policy.truncate(cut);
    td.policy += lines;
    node
}

/// A round whose log is this one.
fn with_log(node: &mut Node, ccel: Option<Vec<u8>>) -> Verdict {
    let mut evidence = node.attest(NONCE);
    evidence.td.as_mut().unwrap().ccel = ccel;
    appraised(node, &evidence)
}

fn line(log: &mut FirmwareLog, text: &str) {
    log.events.pop();
    log.add_command_line(text);
    log.events.last_mut().unwrap().0 = 2;
}

#[test]
fn a_log_that_was_altered_cut_or_added_to_does_not_replay() {
    let change: [fn(&mut FirmwareLog); 4] = [
        |log| log.events[0].2 = b"another firmware volume".to_vec(),
        |log| drop(log.events.remove(3)),
        |log| {
            log.events
                .push((1, EventType::APPLICATION, b"image 2".to_vec(), vec![0; 40]))
        },
        |log| log.events[3].0 = 2,
    ];
    for change in change {
        let mut node = busy();
        let mut log = node.td.as_ref().unwrap().firmware.clone();
        change(&mut log);
        disbelieved(
            &with_log(&mut node, Some(log.ccel())),
            Rule::Boot,
            "does not replay to the quoted RTMR",
        );
    }
}

#[test]
fn the_log_of_another_domain_does_not_fit() {
    let other = booted(|log| log.events[3].2 = b"image 2".to_vec());
    let mut node = busy();
    let verdict = with_log(&mut node, Some(other.td.unwrap().firmware.ccel()));
    disbelieved(&verdict, Rule::Boot, "does not replay to the quoted RTMR 1");
    assert_eq!(verdict.node.boot, BootAppraisal::Untrusted);
}

#[test]
fn without_a_log_or_with_a_tpms_there_is_nothing_to_appraise() {
    let mut node = busy();
    let verdict = with_log(&mut node.clone(), None);
    disbelieved(&verdict, Rule::Boot, "no firmware's log");
    assert_eq!(verdict.node.boot, BootAppraisal::Absent);
    let ccel = node.td.as_ref().unwrap().firmware.ccel();
    // The first event is the one that says which algorithms there are.
    for bad in [Vec::new(), ccel[..40].to_vec(), ccel[65..].to_vec()] {
        disbelieved(
            &with_log(&mut node.clone(), Some(bad)),
            Rule::Boot,
            "cannot be read",
        );
    }
    // Its registers count from 0.
    disbelieved(
        &with_log(&mut node, Some(FirmwareLog::good().bytes())),
        Rule::Boot,
        "",
    );
}

#[test]
fn another_firmware_image_or_command_line_is_not_one_that_the_policy_accepts() {
    let change: [Change; 3] = [
        (0, |log| log.events[0].2 = b"another firmware volume".to_vec()),
        (1, |log| log.events[3].2 = b"image 2".to_vec()),
        (2, |log| line(log, OTHER)),
    ];
    for (register, change) in change {
        let mut node = booted(change);
        let words = format!("RTMR {register} is not one that the policy accepts");
        disbelieved(&appraised(&node.clone(), &node.attest(NONCE)), Rule::Boot, &words);
    }
}

#[test]
fn events_of_a_register_are_named_in_place_of_its_value() {
    let image = sha384(b"image 1");
    let lines = format!(
        "    command-lines: ['{}']\n    \
         events:\n      \
         - {{rtmr: 1, type: EV_EFI_BOOT_SERVICES_APPLICATION, name: image 1, digests: ['{image}']}}\n",
        FirmwareLog::COMMAND_LINE,
    );
    let mut node = booted_by_events(&lines, |_| ());
    let verdict = appraised(&node.clone(), &node.attest(NONCE));
    assert!(verdict.trusted, "{verdict}");
    let mut node = booted_by_events(&lines, |log| log.events[3].2 = b"image 2".to_vec());
    let verdict = appraised(&node.clone(), &node.attest(NONCE));
    let words = "was measured, which the policy does not accept";
    let finding = disbelieved(&verdict, Rule::Boot, words);
    assert_eq!(finding.found, Some(sha384(b"image 2").to_string()));
    assert_eq!(finding.expected, [format!("{image} (image 1)")]);
    let mut node = booted_by_events(&lines, |log| line(log, OTHER));
    let verdict = appraised(&node.clone(), &node.attest(NONCE));
    let finding = disbelieved(&verdict, Rule::Boot, "kernel command line");
    assert_eq!(finding.found.as_deref(), Some(OTHER));
    let mut node = booted_by_events(&lines, |log| drop(log.events.pop()));
    let verdict = appraised(&node.clone(), &node.attest(NONCE));
    disbelieved(
        &verdict,
        Rule::Boot,
        "no kernel command line was measured into RTMR 2",
    );
}

#[test]
fn what_the_register_held_before_checkpoint_0_is_appraised_as_the_boots() {
    // RTMR 2 runs on with each checkpoint; its log is held against the origin.
    let mut domain = domain();
    domain.rtmr = 2;
    line(&mut domain.firmware, OTHER);
    domain.boot();
    let origin = hex::encode(domain.body.rtmrs[2]);
    domain.policy += &format!("  rtmr-origin: ['sha384:{origin}']\n");
    let mut node = busy_in(domain, false);
    let verdict = appraised(&node.clone(), &node.attest(NONCE));
    disbelieved(&verdict, Rule::Boot, "RTMR 2 is not one that the policy accepts");
    // An origin that the log does not lead to.
    let td = node.td.as_mut().unwrap();
    td.origin = [7; 48];
    td.policy = td.policy.replace(&origin, &hex::encode(td.origin));
    node.checkpoints.clear();
    node.td.as_mut().unwrap().log.clear();
    node.td.as_mut().unwrap().body.rtmrs[2] = [7; 48];
    let verdict = appraised(&node.clone(), &node.attest(NONCE));
    disbelieved(&verdict, Rule::Boot, "does not replay to the quoted RTMR 2");
}
