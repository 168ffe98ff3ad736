//! Boot logs, as firmware and boot loaders write them.

use super::{Folder, given, judge};
use evidence::boot::{Boot, EventLog, boot_aggregate};
use evidence::{Bank, Digest, Evidence};
use sha2::{Digest as _, Sha256};
use verifier::testing::{Actor, KeyKind, Measurement, Node, pod, sha256};

pub const NONCE: &[u8] = b"nonce-01";

/// What GRUB measures of its line, and what Linux shows of it.
const MEASURED: &str = "/vmlinuz-6.12.0 root=UUID=0a1b2c3d ro quiet";
const SHOWN: &str = "BOOT_IMAGE=/vmlinuz-6.12.0 root=UUID=0a1b2c3d ro quiet";

fn log_of(case: &str) -> Vec<u8> {
    std::fs::read(given(case).join("boot.log")).unwrap()
}

/// Evidence of a node that booted with this log: its quote covers the registers that the log gives.
fn booted(log: &[u8], command_line: &str) -> Evidence {
    let registers = EventLog::parse(log).unwrap().replay(Bank::Sha256).unwrap();
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.list[0] = Measurement::ima_ng(b"boot_aggregate", &boot_aggregate(&registers));
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    node.seal(Some(NONCE));
    let pcr = node.pcr(Bank::Sha256);
    let quote = node.quote_with(NONCE, |attest| {
        let mut composite = Sha256::new();
        for value in registers.values() {
            composite.update(value.bytes());
        }
        composite.update(pcr.bytes());
        attest.selection = vec![(Bank::Sha256, (0..=10).collect())];
        attest.pcr_digest = composite.finalize().to_vec();
    });
    let mut evidence = node.evidence(quote);
    evidence.boot = Some(Boot {
        registers: vec![registers],
        log: Some(log.to_vec()),
        command_line: Some(command_line.into()),
    });
    evidence
}

/// A folder with such evidence.
fn folder(log: &[u8], command_line: &str) -> Folder {
    let folder = Folder::new();
    folder.write("evidence.cbor", booted(log, command_line).to_cbor());
    folder
}

/// `boot:` of a policy with these command lines.
fn accepting(lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("    - \"{line}\"\n")).collect();
    format!("boot:\n  command-lines:\n{lines}")
}

/// The lines of `expected` that a policy does not accept.
fn not_listed(policy: &str, expected: &[&str]) -> Vec<String> {
    expected
        .iter()
        .filter(|line| !policy.contains(&format!("- \"{line}\"\n")))
        .map(|line| format!("from-boot does not list {line:?}:\n{policy}"))
        .collect()
}

/// The log with another digest in the place of the one of `data`.
fn with_digest(log: &[u8], of: &[u8], other: &Digest) -> Vec<u8> {
    let (old, mut log) = (sha256(of), log.to_vec());
    let found: Vec<usize> = (0..log.len() - 32)
        .filter(|at| log[*at..at + 32] == *old.bytes())
        .collect();
    assert_eq!(found.len(), 1, "the log has the digest once");
    log[found[0]..found[0] + 32].copy_from_slice(other.bytes());
    log
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn a_log_ends_where_unused_bytes_follow_though_they_are_fewer_than_an_event_has() {
    let log = log_of("boot-log-short-unused-rest");
    let wrong = match EventLog::parse(&log) {
        Ok(log) if log.events().len() == 11 => vec![],
        Ok(log) => vec![format!("{} events, not 11", log.events().len())],
        Err(error) => vec![error.to_string()],
    };
    // Zeros could be an event of PCR 0 that was cut off.
    let (used, rest) = log.split_at(log.len() - 8);
    assert_eq!(rest, [0xff; 8]);
    let cut = EventLog::parse(&[used, &[0; 8]].concat()).unwrap_err();
    assert!(cut.to_string().contains("incomplete"), "{cut}");
    judge("boot-log-short-unused-rest", &wrong);
}

#[test]
fn what_from_boot_writes_of_a_boot_accepts_it_though_an_events_text_is_not_what_was_hashed() {
    let folder = folder(&log_of("event-text-is-not-its-digest"), "quiet");
    let boot = folder.cgpath(&["policy", "from-boot", "evidence.cbor"]);
    folder.policy(&boot.out);
    let verdict = folder.verify();
    judge(
        "event-text-is-not-its-digest",
        &[boot.wrong("from-boot"), verdict.wrong("verify")]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>(),
    );
}

#[test]
fn the_line_that_older_grub_measures_is_found_and_accepted() {
    let folder = folder(&log_of("grub-kernel-cmdline-prefix"), SHOWN);
    let boot = folder.cgpath(&["policy", "from-boot", "evidence.cbor"]);
    let mut wrong = Vec::from_iter(boot.wrong("from-boot"));
    wrong.extend(not_listed(&boot.out, &[MEASURED]));
    folder.policy(&accepting(&[MEASURED]));
    wrong.extend(folder.verify().wrong("verify"));
    judge("grub-kernel-cmdline-prefix", &wrong);
}

#[test]
fn a_line_as_proc_cmdline_shows_it_is_taken_where_grub_measured_it_without_the_image() {
    let folder = folder(&log_of("grub-proc-cmdline"), SHOWN);
    folder.policy(&accepting(&[SHOWN]));
    judge(
        "grub-proc-cmdline",
        &Vec::from_iter(folder.verify().wrong("verify")),
    );
}

#[test]
fn load_options_without_a_final_nul_are_taken_as_those_with_one() {
    let log = log_of("grub212-loadoptions-without-nul");
    let both = accepting(&[MEASURED, SHOWN]);
    let trusted = |log: &[u8]| {
        let folder = folder(log, SHOWN);
        folder.policy(&both);
        folder.verify()
    };
    let given = folder(&log, SHOWN);
    let boot = given.cgpath(&["policy", "from-boot", "evidence.cbor"]);
    let mut wrong = Vec::from_iter(boot.wrong("from-boot"));
    wrong.extend(not_listed(&boot.out, &[MEASURED, SHOWN]));
    wrong.extend(trusted(&log).wrong("verify"));
    judge("grub212-loadoptions-without-nul", &wrong);

    // What systemd-stub leaves, and a line of which one byte is another.
    let measured = utf16(SHOWN);
    let with_nul = sha256(&[&measured[..], &[0, 0]].concat());
    let stub = trusted(&with_digest(&log, &measured, &with_nul));
    assert_eq!(stub.code, Some(0), "{}{}", stub.out, stub.err);
    let other = utf16(&SHOWN.replace("quiet", "quiex"));
    for ending in [&[][..], &[0, 0]] {
        let changed = sha256(&[&other[..], ending].concat());
        let verdict = trusted(&with_digest(&log, &measured, &changed));
        assert_eq!(verdict.code, Some(1), "{}{}", verdict.out, verdict.err);
    }
}
