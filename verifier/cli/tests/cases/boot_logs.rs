//! Boot logs, as firmware and boot loaders write them.

use super::{Folder, conclude, given};
use cgpath_evidence::boot::{EventLog, EventType};
use cgpath_evidence::{Bank, Digest};
use cgpath_testkit::booted;
use cgpath_testkit::{FirmwareLog, sha256};

pub const NONCE: &[u8] = b"nonce-01";

/// What GRUB measures of its line, and what Linux shows of it.
const MEASURED: &str = "/vmlinuz-6.12.0 root=UUID=0a1b2c3d ro quiet";
const SHOWN: &str = "BOOT_IMAGE=/vmlinuz-6.12.0 root=UUID=0a1b2c3d ro quiet";

fn log_of(case: &str) -> Vec<u8> {
    std::fs::read(given(case).join("boot.log")).unwrap()
}

/// A folder with such evidence.
fn folder(log: &[u8], command_line: &str) -> Folder {
    let folder = Folder::new();
    let (_, evidence) = booted(log, Some(command_line), &[Bank::Sha256], NONCE);
    folder.write("evidence.cbor", evidence.to_cbor());
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
    conclude("boot-log-short-unused-rest", &wrong);
}

#[test]
fn what_from_boot_writes_of_a_boot_accepts_it_though_an_events_text_is_not_what_was_hashed() {
    let folder = folder(&log_of("event-text-is-not-its-digest"), "quiet");
    let boot = folder.cgpath(&["policy", "from-boot", "evidence.cbor"]);
    folder.policy(&boot.out);
    let verdict = folder.verify();
    conclude(
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
    conclude("grub-kernel-cmdline-prefix", &wrong);
}

#[test]
fn a_line_as_proc_cmdline_shows_it_is_taken_where_grub_measured_it_without_the_image() {
    let folder = folder(&log_of("grub-proc-cmdline"), SHOWN);
    folder.policy(&accepting(&[SHOWN]));
    conclude(
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
    conclude("grub212-loadoptions-without-nul", &wrong);

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

#[test]
fn from_boot_says_what_it_did_not_understand_and_what_only_a_register_binds() {
    let mut log = FirmwareLog::good();
    log.events.push((
        8,
        EventType::IPL,
        b"set root=hd0".to_vec(),
        b"grub_cmd: set root=hd0\0".to_vec(),
    ));
    log.add_command_line("a line that nobody tells");
    log.events[0].3 = b"another text".to_vec();
    let folder = folder(&log.bytes(), SHOWN);
    let boot = folder.cgpath(&["policy", "from-boot", "evidence.cbor"]);
    assert_eq!(boot.code, Some(0), "{}", boot.err);
    assert!(boot.out.starts_with("boot:\n"), "{}", boot.out);
    for words in [
        "LOADED_IMAGE::LoadOptions\" in PCR 9, byte",
        "is a kernel command line, and neither the log nor /proc/cmdline has a text that was hashed",
        "only its value in registers binds these events of PCR 8: 1 EV_IPL",
        "only its value in registers binds these events of PCR 0: 1 EV_S_CRTM_VERSION",
        "is not what was hashed: accepted by its digest as firmware-deviations",
    ] {
        assert!(boot.err.contains(words), "{words}: {}", boot.err);
        let is_comment = |line: &str| line.starts_with("  # ") && line.contains(words);
        assert!(boot.out.lines().any(is_comment), "{words}: {}", boot.out);
    }
    folder.policy(&boot.out);
    let verdict = folder.verify();
    assert_eq!(verdict.code, Some(0), "{}{}", verdict.out, verdict.err);
    // Each verdict repeats what the policy takes of the firmware.
    assert!(
        verdict
            .out
            .contains("boot.firmware-deviations: PCR 0 EV_S_CRTM_VERSION [sha256:"),
        "{}",
        verdict.out
    );
    let is_tolerated = |line: &str| line.trim_start().starts_with("tolerated: ") && line.ends_with(" (V10)");
    assert!(verdict.out.lines().any(is_tolerated), "{}", verdict.out);
    let json = folder.cgpath(&["--json", "policy", "from-boot", "evidence.cbor"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["boot"].as_str().unwrap().trim_end(), boot.out.trim_end());
    assert!(json["remarks"].as_array().unwrap().len() >= 4);
}

#[test]
fn a_path_of_the_firmware_is_a_name_with_its_own_backslashes_and_no_more() {
    let mut log = FirmwareLog::good();
    // A device path of one node, the file's path.
    let path = utf16("\\EFI\\systemd\\loader.efi\0");
    let mut image = vec![0; 32];
    image.extend([4, 4]);
    image.extend(u16::try_from(4 + path.len()).unwrap().to_le_bytes());
    image.extend(path);
    log.events
        .push((4, EventType::APPLICATION, b"loader".to_vec(), image));
    log.events[0].3 = b"fw\\1".to_vec();
    let folder = folder(&log.bytes(), FirmwareLog::COMMAND_LINE);
    let boot = folder.cgpath(&["policy", "from-boot", "evidence.cbor"]);
    assert_eq!(boot.code, Some(0), "{}", boot.err);
    // YAML writes each of them twice between these quotation marks, and so is untrusted text shown.
    for name in [r#"name: "\\EFI\\systemd\\loader.efi""#, r#"name: "fw\\1""#] {
        assert!(boot.out.contains(name), "{name}: {}", boot.out);
    }
    assert!(
        boot.err.contains(r#"EV_S_CRTM_VERSION "fw\\1" in PCR 0"#),
        "{}",
        boot.err
    );
    folder.policy(&boot.out);
    let verdict = folder.verify();
    assert_eq!(verdict.code, Some(0), "{}{}", verdict.out, verdict.err);
}

#[test]
fn lint_warns_of_a_boot_without_registers_and_of_registers_that_nothing_appraises() {
    let folder = folder(&FirmwareLog::good().bytes(), FirmwareLog::COMMAND_LINE);
    let lint = |boot: &str| {
        folder.policy(boot);
        folder.cgpath(&["policy", "lint", "node.yaml"])
    };
    let without = lint(&accepting(&[FirmwareLog::COMMAND_LINE]));
    assert_eq!(without.code, Some(1), "{}", without.err);
    for words in [
        "boot: no registers: firmware that",
        "boot: nothing judges what was measured into PCR 0, 1, 2, 3, 4, 5, 6, 7",
    ] {
        assert!(without.out.contains(words), "{words}: {}", without.out);
    }
    let learned = folder.cgpath(&["policy", "from-boot", "evidence.cbor"]).out;
    let with = lint(&learned);
    assert!(!with.out.contains("boot:"), "{}", with.out);
    let some: String = learned
        .lines()
        .filter(|line| !line.starts_with("    1:"))
        .map(|line| format!("{line}\n"))
        .collect();
    let some = lint(&some);
    assert!(
        some.out.contains("nothing judges what was measured into PCR 1\n"),
        "{}",
        some.out
    );
    assert!(!some.out.contains("no registers"), "{}", some.out);
}
