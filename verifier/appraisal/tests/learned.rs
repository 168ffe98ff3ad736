//! What `cgpath policy from-boot` writes of a boot accepts that boot (V10), whatever its log holds.

use cgpath_appraisal::{BootAppraisal, Verdict, appraise};
use cgpath_evidence::Bank;
use cgpath_evidence::boot::{EventLog, EventType, REGISTERS};
use cgpath_refvals::learned_boot::{BootError, Learned, from_boot};
use cgpath_testkit::{FirmwareLog, KeyKind, Node, booted};
use proptest::prelude::*;

const NONCE: &[u8] = b"the nonce of this request";

/// The verdict by what was learned of the boot.
fn by_its_own_values(log: &[u8], command_line: Option<&str>, banks: &[Bank]) -> (Learned, Verdict) {
    let (mut node, evidence) = booted(log, command_line, banks, NONCE);
    let learned = from_boot(evidence.boot.as_ref().unwrap()).unwrap();
    node.extra_policy = learned.yaml();
    let policy = node.policy();
    assert_eq!(
        policy.file.boot.as_ref(),
        Some(&learned.values),
        "what is written is read back"
    );
    let verdict = appraise(&evidence, &policy, &node.context(NONCE, None)).unwrap();
    (learned, verdict)
}

/// No register's event is left out without a word.
fn everything_is_named_or_said(log: &EventLog, learned: &Learned, banks: &[Bank]) {
    let lines: Vec<u64> = log
        .command_lines()
        .filter(|line| {
            let is = |text: &String| banks.iter().all(|bank| line.is(text, *bank));
            learned.values.command_lines.iter().any(is)
        })
        .map(|line| line.event().offset)
        .collect();
    for event in log.events() {
        let is_appraised = (event.pcr as usize) < REGISTERS && event.kind != EventType::NO_ACTION;
        let is_known = || banks.iter().all(|bank| event.is_known(*bank));
        if !is_appraised || lines.contains(&event.offset) || is_known() {
            continue;
        }
        let digest = event.digest(banks[0]).unwrap();
        let is_named = learned.values.events.iter().any(|item| {
            (u32::from(item.pcr), item.kind) == (event.pcr, event.kind) && item.digests.contains(digest)
        });
        let kind = event.kind.to_string();
        let is_said = |remark: &String| {
            remark.contains(&format!(
                "only its value in registers binds these events of PCR {}:",
                event.pcr
            )) && remark.contains(&kind)
        };
        assert!(
            is_named || learned.remarks.iter().any(is_said),
            "{event:?}: {:#?}",
            learned.remarks
        );
    }
}

#[track_caller]
fn accepts_itself(name: &str, log: &[u8], command_line: Option<&str>, banks: &[Bank]) -> Learned {
    let (learned, verdict) = by_its_own_values(log, command_line, banks);
    assert!(verdict.trusted, "{name}: {verdict}\n{}", learned.yaml());
    assert_eq!(verdict.node.boot, BootAppraisal::Trusted);
    everything_is_named_or_said(&EventLog::parse(log).unwrap(), &learned, banks);
    learned
}

#[test]
fn published_logs_are_accepted_by_what_they_teach() {
    // Debian's OVMF, systemd-stub 252 and Linux 6.12, as `evidence/tests/boot` has it.
    let real = include_bytes!("../../../evidence/tests/boot/ovmf-uki-6.12.log");
    let command_line = "console=ttyS0 quiet panic=-1 ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
    for banks in [
        &[Bank::Sha256][..],
        &[Bank::Sha1, Bank::Sha256],
        &[Bank::Sha384],
        &[Bank::Sha256, Bank::Sha512],
    ] {
        let learned = accepts_itself("OVMF", real, Some(command_line), banks);
        assert_eq!(learned.values.command_lines, [command_line]);
        assert_eq!(learned.values.firmware_deviations, []);
        // Another command line is given, or none: it is bound by its digest.
        for command_line in [Some("quiet"), None] {
            let learned = accepts_itself("OVMF", real, command_line, banks);
            assert_eq!(learned.values.command_lines, [] as [&str; 0]);
            assert!(
                learned
                    .values
                    .events
                    .iter()
                    .any(|event| (event.pcr, event.kind) == (9, EventType::EVENT_TAG))
            );
        }
    }
    for case in [
        "event-text-is-not-its-digest",
        "grub-kernel-cmdline-prefix",
        "grub-proc-cmdline",
        "grub212-loadoptions-without-nul",
        "boot-log-short-unused-rest",
    ] {
        let path = format!(
            "{}/../cli/tests/cases/{case}/boot.log",
            env!("CARGO_MANIFEST_DIR")
        );
        let log = std::fs::read(path).unwrap();
        let bank = if EventLog::parse(&log).unwrap().banks().contains(&Bank::Sha256) {
            Bank::Sha256
        } else {
            Bank::Sha384
        };
        accepts_itself(case, &log, Some("quiet"), &[bank]);
    }
    // Confidential guests count registers from 1, and few of them have a separator.
    for name in ["eventlog/CCEL_data_ovmf", "tdx/tdreport_ccel.bin"] {
        let Some(log) = crate::published::vector(name) else {
            return;
        };
        let learned = accepts_itself(name, &log, Some("quiet"), &[Bank::Sha384]);
        assert!(!learned.values.firmware_deviations.is_empty());
    }
}

#[test]
fn a_log_of_only_sha_1_says_what_to_do() {
    let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
    let mut boot = node.attest(NONCE).boot.unwrap();
    let sha1 = FirmwareLog::good().bytes_of(&[Bank::Sha1]);
    boot.log = Some(sha1);
    let why = from_boot(&boot).unwrap_err();
    assert!(matches!(why, BootError::Replay(_)));
    assert!(
        why.to_string().contains("only in: sha1. Switch the bank on"),
        "{why}"
    );
    // TPM 1.2: register, type, SHA-1, length, text.
    let old = [
        &0u32.to_le_bytes()[..],
        &8u32.to_le_bytes(),
        &[7; 20],
        &16u32.to_le_bytes(),
        &[0x20; 16],
    ];
    boot.log = Some(old.concat());
    let why = from_boot(&boot).unwrap_err().to_string();
    assert!(
        why.contains("crypto-agile") && why.contains("dangerous-boot-not-judged: true"),
        "{why}"
    );
}

#[test]
fn more_than_a_policy_can_hold_is_refused() {
    let mut log = FirmwareLog::good();
    for n in 0..5000u32 {
        log.events
            .push((4, EventType::APPLICATION, n.to_le_bytes().to_vec(), vec![0; 40]));
    }
    let (_, evidence) = booted(&log.bytes(), None, &[Bank::Sha256], NONCE);
    let why = from_boot(evidence.boot.as_ref().unwrap()).unwrap_err();
    assert!(
        matches!(why, BootError::TooLong { events } if events > 5000),
        "{why}"
    );
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn tagged(tag: u32, text: &str) -> Vec<u8> {
    [
        &tag.to_le_bytes()[..],
        &(text.len() as u32).to_le_bytes(),
        text.as_bytes(),
    ]
    .concat()
}

/// What the events of generated logs say: texts as loaders have them, and any.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("/vmlinuz root=/dev/vda ro".to_owned()),
        Just("BOOT_IMAGE=/vmlinuz root=/dev/vda ro".to_owned()),
        Just("\\vmlinuz.efi initrd=\\initrd quiet".to_owned()),
        Just("tab\there \"quoted\" \u{2028}\u{feff}".to_owned()),
        any::<String>(),
        "[a-z]{4000,5000}",
    ]
}

/// Register, type, what is hashed, what the event says.
type Item = (u32, EventType, Vec<u8>, Vec<u8>);

fn item() -> impl Strategy<Value = Item> {
    let kinds: Vec<EventType> = EventType::all()
        .chain([EventType(0x99), EventType(0x8000_00ff)])
        .collect();
    let kind = proptest::sample::select(kinds);
    let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        // Anything, hashed or not.
        (0u32..13, kind.clone(), bytes(), bytes()),
        (0u32..13, kind, bytes()).prop_map(|(pcr, kind, data)| (pcr, kind, data.clone(), data)),
        // Separators, good ones and others.
        (
            0u32..10,
            prop_oneof![Just([0u8; 4]), Just([0xff; 4]), Just([1, 0, 0, 0])]
        )
            .prop_map(|(pcr, data)| (pcr, EventType::SEPARATOR, data.to_vec(), data.to_vec())),
        (0u32..10, bytes()).prop_map(|(pcr, measured)| (pcr, EventType::SEPARATOR, measured, vec![0; 4])),
        // GRUB of both kinds, with a text that is the hashed one or not.
        (line(), any::<bool>(), any::<bool>()).prop_map(|(text, is_old, is_other)| {
            let prefix = if is_old {
                "grub_kernel_cmdline "
            } else {
                "kernel_cmdline: "
            };
            let measured = if is_other {
                b"other".to_vec()
            } else {
                text.clone().into_bytes()
            };
            (
                8,
                EventType::IPL,
                measured,
                format!("{prefix}{text}\0").into_bytes(),
            )
        }),
        // systemd up to 250, and what looks like it.
        (8u32..10, line()).prop_map(|(pcr, text)| {
            let text = wide(&format!("{text}\0"));
            (pcr, EventType::IPL, text.clone(), text)
        }),
        // The kernel's EFI stub.
        (
            line(),
            proptest::sample::select(vec!["", "\0", "\n", "\n\0", " \0"])
        )
            .prop_map(|(text, end)| {
                let data = tagged(0x8f3b_22ed, "LOADED_IMAGE::LoadOptions\0");
                (9, EventType::EVENT_TAG, wide(&format!("{text}{end}")), data)
            }),
        bytes().prop_map(|measured| (
            9,
            EventType::EVENT_TAG,
            measured,
            tagged(0x8f3b_22ec, "Linux initrd\0")
        )),
        // Loaded images, with a path and without.
        (bytes(), line()).prop_map(|(measured, path)| {
            let path = wide(&path);
            let node = [&[4, 4][..], &(path.len() as u16 + 4).to_le_bytes(), &path].concat();
            (4, EventType::APPLICATION, measured, [vec![0; 32], node].concat())
        }),
    ]
}

/// So many generated logs in the usual test run; `PROPTEST_CASES` says another number.
const LOGS: u32 = 300;

fn logs() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(LOGS, |text| text.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(logs()))]

    #[test]
    fn every_log_that_can_be_read_is_accepted_by_what_it_teaches(
        items in proptest::collection::vec(item(), 0..24),
        is_regular in any::<bool>(),
        command_line in proptest::option::of(line()),
        both in any::<bool>(),
    ) {
        let mut log = FirmwareLog::good();
        if !is_regular {
            log.events.clear();
        }
        log.events.extend(items);
        // A locality that stands where none may makes the log unreadable: no item holds one.
        let banks = if both { &FirmwareLog::BANKS[..] } else { &[Bank::Sha256] };
        accepts_itself("a generated log", &log.bytes(), command_line.as_deref(), banks);
    }
}

/// A log whose last events are GRUB's line, where it has one, and the LoadOptions that the kernel measured.
fn loaded(grub: Option<&str>, options: &str) -> Vec<u8> {
    let mut log = FirmwareLog::good();
    log.events.pop();
    let line = grub.map(|text| {
        let data = format!("kernel_cmdline: {text}\0").into_bytes();
        (8, EventType::IPL, text.as_bytes().to_vec(), data)
    });
    log.events.extend(line);
    let data = tagged(0x8f3b_22ed, "LOADED_IMAGE::LoadOptions\0");
    log.events.push((9, EventType::EVENT_TAG, wide(options), data));
    log.bytes()
}

#[test]
fn a_loader_that_puts_the_images_name_first_gives_the_line_that_the_kernel_shows() {
    // The UEFI Shell and boot entries: the name is a part of the line, in /proc/cmdline as well.
    for (options, command_line) in [
        (r"vmlinuz.efi root=/dev/vda ro", r"vmlinuz.efi root=/dev/vda ro"),
        (
            "fs0:\\vmlinuz.efi initrd=\\initrd ro\0",
            r"fs0:\vmlinuz.efi initrd=\initrd ro",
        ),
        ("root=/dev/vda ro\n", "root=/dev/vda ro"),
    ] {
        let learned = accepts_itself(
            options,
            &loaded(None, options),
            Some(command_line),
            &[Bank::Sha256],
        );
        assert_eq!(learned.values.command_lines, [command_line]);
    }
    // GRUB: what it measured shows what it handed over, though nobody states /proc/cmdline.
    let measured = "/vmlinuz root=/dev/vda ro";
    let shown = format!("BOOT_IMAGE={measured}");
    for command_line in [None, Some("quiet"), Some(&*shown)] {
        let learned = accepts_itself(
            "GRUB",
            &loaded(Some(measured), &shown),
            command_line,
            &[Bank::Sha256],
        );
        assert_eq!(learned.values.command_lines, [measured, &*shown]);
    }
    // A kernel that adds words of its own shows another line than it measured.
    let log = loaded(None, "root=/dev/vda\0");
    let learned = accepts_itself(
        "CONFIG_CMDLINE",
        &log,
        Some("root=/dev/vda panic=1"),
        &[Bank::Sha256],
    );
    assert_eq!(learned.values.command_lines, [] as [&str; 0]);
    assert!(
        learned
            .remarks
            .iter()
            .any(|r| r.contains("nor /proc/cmdline has a text that was hashed"))
    );
}

#[test]
fn a_line_in_a_form_that_is_not_known_is_not_left_out_without_a_word() {
    let mut log = FirmwareLog::good();
    log.events.pop();
    let learned = accepts_itself("no line", &log.bytes(), Some("quiet"), &[Bank::Sha256]);
    assert!(
        learned.remarks.iter().any(|r| r.ends_with("They hold: nothing")),
        "{:#?}",
        learned.remarks
    );
    for n in 0..10 {
        log.events.push((
            8,
            EventType::IPL,
            b"quiet".to_vec(),
            format!("boot line {n}: quiet").into_bytes(),
        ));
    }
    let learned = accepts_itself("another loader", &log.bytes(), Some("quiet"), &[Bank::Sha256]);
    assert_eq!(learned.values.command_lines, [] as [&str; 0]);
    let said = learned
        .remarks
        .iter()
        .find(|r| r.contains("command-lines is left out"))
        .unwrap();
    assert!(
        said.contains("EV_IPL \"boot line 0: quiet\" in PCR 8, byte ") && said.ends_with("; 2 more"),
        "{said}"
    );
}
