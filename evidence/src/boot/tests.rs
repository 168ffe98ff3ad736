//! A real log of OVMF with a unified kernel image, and logs made here.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::Error;

/// Debian's OVMF 2022.11, systemd-stub 252, Linux 6.12: booted in QEMU with swtpm, whose SHA-256 bank was on.
const REAL: &[u8] = include_bytes!("../../tests/boot/ovmf-uki-6.12.log");
const REAL_COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
/// What the TPM held (/sys/class/tpm/tpm0/pcr-sha256), and IMA's first entry.
const REAL_REGISTERS: [&str; REGISTERS] = [
    "06782f8beb489680e2377cba5948e1ea4ddccbb6ca5341abbffd3f133f9f3751",
    "86a297bf5f89b24202ec2f7a1e2c7bf46b6f5060ff85cdb326c0a8f302027a62",
    "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    "36482de46b17691a7dffd3523de9b1ae6154f780851f3992bc622c30dfb22450",
    "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0",
    "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "72d7184042ebf7d072944e17a373da395defdb8978b473cf63901494e6ad4c34",
];
const REAL_BOOT_AGGREGATE: &str = "sha256:335e0b6050f55fd0ef98da7bd0555726831f6fd628656a0597a3de35fd4164c5";

fn put(out: &mut Vec<u8>, number: usize) {
    out.extend(u32::try_from(number).unwrap().to_le_bytes());
}

/// A log with a Spec ID of these banks.
fn log(banks: &[Bank]) -> Vec<u8> {
    let mut id = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    put(&mut id, banks.len());
    for bank in banks {
        id.extend(bank.tpm_alg().to_le_bytes());
        id.extend((bank.len() as u16).to_le_bytes());
    }
    id.push(0);
    let mut out = vec![0, 0, 0, 0, 3, 0, 0, 0];
    out.extend([0; 20]);
    put(&mut out, id.len());
    out.extend(id);
    out
}

/// Adds an event that measures `measured`.
fn add(out: &mut Vec<u8>, pcr: usize, kind: EventType, banks: &[Bank], measured: &[u8], data: &[u8]) {
    put(out, pcr);
    put(out, kind.0 as usize);
    put(out, banks.len());
    for bank in banks {
        out.extend(bank.tpm_alg().to_le_bytes());
        out.extend(bank.hash(&[measured]).bytes());
    }
    put(out, data.len());
    out.extend(data);
}

const BOTH: [Bank; 2] = [Bank::Sha1, Bank::Sha256];

/// A log as a good firmware leaves it.
fn good() -> Vec<u8> {
    let mut out = log(&BOTH);
    for pcr in 0..FIRMWARE_REGISTERS {
        add(&mut out, pcr, EventType::SEPARATOR, &BOTH, &[0; 4], &[0; 4]);
    }
    out
}

#[test]
fn the_log_of_a_real_boot_replays_to_the_registers_and_to_imas_first_entry() {
    let log = EventLog::parse(REAL).unwrap();
    assert_eq!(log.events().len(), 35);
    let registers = log.replay(Bank::Sha256).unwrap();
    let values: Vec<String> = registers
        .values()
        .iter()
        .map(|d| hex::encode(d.bytes()))
        .collect();
    assert_eq!(values, REAL_REGISTERS);
    assert_eq!(boot_aggregate(&registers).to_string(), REAL_BOOT_AGGREGATE);
    assert_eq!(log.without_separator(), [] as [u32; 0]);
    assert!(
        log.events()
            .iter()
            .all(|e| e.data_is_measured(Bank::Sha256) != Some(false))
    );
}

#[test]
fn the_kernels_command_line_and_the_loaded_image_are_found_by_name() {
    let log = EventLog::parse(REAL).unwrap();
    let lines: Vec<CommandLine> = log.command_lines().collect();
    assert_eq!(lines.len(), 1);
    for bank in Bank::ALL {
        assert!(lines[0].is(REAL_COMMAND_LINE, bank));
        assert!(!lines[0].is("console=ttyS0 quiet", bank));
    }
    let images: Vec<String> = log
        .events()
        .iter()
        .filter(|e| e.kind == EventType::APPLICATION)
        .map(Event::label)
        .collect();
    assert_eq!(images, [r"\EFI\BOOT\BOOTX64.EFI", ""]);
    let labels: Vec<String> = log.events().iter().map(Event::label).collect();
    for label in [
        "SecureBoot",
        "BootOrder",
        ".cmdline",
        "Exit Boot Services Invocation",
    ] {
        assert!(labels.iter().any(|l| l == label), "{label} in {labels:?}");
    }
}

/// The one command line of a log that ends in this event.
fn line_of(
    pcr: usize,
    kind: EventType,
    measured: &[u8],
    data: &[u8],
    check: impl FnOnce(Option<&CommandLine>),
) {
    let mut bytes = good();
    add(&mut bytes, pcr, kind, &BOTH, measured, data);
    let log = EventLog::parse(&bytes).unwrap();
    let lines: Vec<CommandLine> = log.command_lines().collect();
    assert!(lines.len() <= 1);
    check(lines.first());
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

const TEXT: &str = "/boot/vmlinuz root=/dev/vda1 ro";

#[test]
fn a_command_line_that_any_grub_measured_is_found_by_name_and_with_the_image_before_it() {
    for prefix in ["kernel_cmdline: ", "grub_kernel_cmdline "] {
        for end in ["", "\0"] {
            let data = format!("{prefix}{TEXT}{end}");
            line_of(8, EventType::IPL, TEXT.as_bytes(), data.as_bytes(), |line| {
                let line = line.unwrap();
                assert_eq!((line.text(), line.hashed()), (Some(TEXT), Hashed::Bytes));
                for bank in BOTH {
                    assert!(line.is(TEXT, bank) && line.is(&format!("{BOOT_IMAGE}{TEXT}"), bank));
                    for other in [
                        "/boot/vmlinuz",
                        "",
                        BOOT_IMAGE,
                        &format!("{BOOT_IMAGE}{BOOT_IMAGE}{TEXT}"),
                    ] {
                        assert!(!line.is(other, bank), "{other}");
                    }
                }
            });
        }
    }
    // Other words of GRUB, and none.
    for data in [
        "grub_cmd: linux /boot/vmlinuz",
        "grub_cmd linux",
        "module_cmdline: /xen",
        "grub_kernel_cmdline",
        TEXT,
    ] {
        line_of(8, EventType::IPL, TEXT.as_bytes(), data.as_bytes(), |line| {
            assert_eq!(line, None, "{data}")
        });
    }
}

#[test]
fn load_options_are_a_line_whatever_the_loader_counted_behind_it() {
    let mut data = 0x8f3b_22ed_u32.to_le_bytes().to_vec();
    data.extend([0; 4]);
    let shown = format!("{BOOT_IMAGE}{TEXT}");
    for end in ["", "\0", "\n", "\n\0"] {
        let measured = wide(&format!("{shown}{end}"));
        line_of(9, EventType::EVENT_TAG, &measured, &data, |line| {
            let line = line.unwrap();
            assert_eq!((line.text(), line.hashed()), (None, Hashed::Wide));
            assert!(line.is(&shown, Bank::Sha256), "{end:?}");
            for other in [TEXT, "", &shown.replace("ro", "rw"), &format!("{shown} ")] {
                assert!(!line.is(other, Bank::Sha256), "{other}");
            }
        });
    }
    // What the kernel would read, or what may be another line, is not taken for this one.
    for end in [" ", "\0init=/bin/sh", "\ninit=/bin/sh", "\0\0"] {
        let measured = wide(&format!("{shown}{end}"));
        line_of(9, EventType::EVENT_TAG, &measured, &data, |line| {
            assert!(!line.unwrap().is(&shown, Bank::Sha256), "{end:?}");
        });
    }
    let mut other = data.clone();
    other[0] ^= 1;
    line_of(9, EventType::EVENT_TAG, &wide(TEXT), &other, |line| {
        assert_eq!(line, None)
    });
}

#[test]
fn a_line_that_systemd_measured_into_pcr_8_is_found_where_its_text_is_what_was_measured() {
    let text = wide(&format!("{TEXT}\0"));
    line_of(8, EventType::IPL, &text, &text, |line| {
        let line = line.unwrap();
        assert_eq!((line.text(), line.hashed()), (Some(TEXT), Hashed::Wide));
        assert!(line.is(TEXT, Bank::Sha256) && !line.is("quiet", Bank::Sha256));
    });
    for (pcr, measured, data) in [
        (9, &text[..], &text[..]),
        (8, b"another", &text),
        (8, b"plain\0\0", b"plain\0\0"),
        (8, &[0, 0], &[0, 0]),
        (8, &[0xd8, 0xd8, 0, 0], &[0xd8, 0xd8, 0, 0]),
    ] {
        line_of(pcr, EventType::IPL, measured, data, |line| {
            assert_eq!(line, None, "{data:?}")
        });
    }
}

#[test]
fn what_is_known_of_the_profile_is_bound_to_its_digest_register_and_type() {
    for known in &KNOWN {
        let at = *known.registers.start() as usize;
        let is = |pcr: usize, kind, measured: &[u8], data: &[u8]| {
            let mut bytes = log(&BOTH);
            add(&mut bytes, pcr, kind, &BOTH, measured, data);
            EventLog::parse(&bytes).unwrap().events()[0].is_known(Bank::Sha256)
        };
        assert!(is(at, known.kind, known.data, known.data), "{known:?}");
        assert!(!is(at, known.kind, b"a kernel", known.data), "{known:?}");
        assert!(!is(at, known.kind, b"a kernel", b"a kernel"), "{known:?}");
        assert!(!is(8, known.kind, known.data, known.data), "{known:?}");
        for kind in EventType::all().filter(|kind| *kind != known.kind) {
            assert!(!is(at, kind, known.data, known.data), "{known:?} as {kind}");
        }
        assert!(!known.source.is_empty());
    }
}

#[test]
fn a_log_that_is_cut_anywhere_is_incomplete() {
    for log in [REAL.to_vec(), good()] {
        let ends: Vec<u64> = EventLog::parse(&log)
            .unwrap()
            .events()
            .iter()
            .map(|e| e.offset)
            .collect();
        for len in 0..log.len() {
            match EventLog::parse(&log[..len]) {
                Ok(_) => assert!(ends.contains(&(len as u64)), "cut after {len} bytes"),
                Err(Error::Incomplete { offset, need, .. }) => {
                    assert!(offset <= len as u64 && need > 0, "cut after {len} bytes");
                }
                Err(other) => panic!("cut after {len} bytes: {other}"),
            }
        }
    }
}

#[test]
fn lengths_and_counts_beyond_all_bounds_are_refused_with_their_offset() {
    let begin = log(&BOTH).len();
    // An event of 4 GiB, digests without number, algorithms without number, a Spec ID of 4 GiB.
    for (at, what) in [
        (begin + 8 + 4 + 22 + 34, "size of an event"),
        (begin + 8, "number of an event's digests"),
        (28 + 4 + 24, "number of hash algorithms"),
        (28, "size of the first event"),
    ] {
        let mut bytes = good();
        bytes[at..at + 4].fill(0xff);
        match EventLog::parse(&bytes) {
            Err(Error::Limit {
                offset, what: found, ..
            }) => assert_eq!((offset, found), (at as u64, what)),
            other => panic!("{what}: {other:?}"),
        }
    }
    // 10 GiB are never held: the limit comes before anything is read.
    let long = vec![0; MAX_LOG_LEN + 1];
    assert!(matches!(
        EventLog::parse(&long),
        Err(Error::Limit {
            what: "the boot log",
            ..
        })
    ));
}

#[test]
fn more_events_than_the_limit_are_refused() {
    let mut bytes = log(&[Bank::Sha1]);
    for _ in 0..=MAX_EVENTS {
        add(&mut bytes, 1, EventType::NO_ACTION, &[], b"", b"");
    }
    assert!(matches!(
        EventLog::parse(&bytes),
        Err(Error::Limit {
            what: "number of events",
            ..
        })
    ));
}

#[test]
fn a_changed_digest_changes_the_registers_and_a_changed_text_shows() {
    let good_registers = EventLog::parse(REAL).unwrap().replay(Bank::Sha256).unwrap();
    let log = EventLog::parse(REAL).unwrap();
    let action = log.events().last().unwrap();
    let mut bytes = REAL.to_vec();
    let digest_at = action.offset as usize + 12 + 22 + 2;
    bytes[digest_at] ^= 1;
    let changed = EventLog::parse(&bytes).unwrap();
    assert_ne!(changed.replay(Bank::Sha256).unwrap(), good_registers);

    let mut bytes = REAL.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let changed = EventLog::parse(&bytes).unwrap();
    assert_eq!(changed.replay(Bank::Sha256).unwrap(), good_registers);
    assert_eq!(
        changed.events().last().unwrap().data_is_measured(Bank::Sha256),
        Some(false)
    );
}

#[test]
fn a_missing_a_second_and_an_erroneous_separator_are_named() {
    let mut bytes = log(&BOTH);
    for pcr in 0..FIRMWARE_REGISTERS {
        let data = if pcr == 3 { [1, 0, 0, 0] } else { [0xff; 4] };
        if pcr != 5 {
            add(&mut bytes, pcr, EventType::SEPARATOR, &BOTH, &data, &data);
        }
    }
    add(&mut bytes, 6, EventType::SEPARATOR, &BOTH, &[0; 4], &[0; 4]);
    assert_eq!(EventLog::parse(&bytes).unwrap().without_separator(), [3, 5, 6]);
}

#[test]
fn a_startup_locality_is_pcr_0s_first_value_and_stands_before_its_first_event() {
    let with = |locality: &[u8], pcr: usize| {
        let data = [b"StartupLocality\0", locality].concat();
        let mut out = log(&BOTH);
        add(&mut out, pcr, EventType::NO_ACTION, &BOTH, b"", &data);
        add(&mut out, 0, EventType::SEPARATOR, &BOTH, &[0; 4], &[0; 4]);
        out
    };
    for locality in [0u8, 3, 4] {
        let bytes = with(&[locality], 0);
        let mut first = [0; 32];
        first[31] = locality;
        let first = Digest::new(Bank::Sha256, &first).unwrap();
        let pcr0 = &EventLog::parse(&bytes)
            .unwrap()
            .replay(Bank::Sha256)
            .unwrap()
            .values()[0]
            .clone();
        assert_eq!(pcr0, &first.extend(&Bank::Sha256.hash(&[&[0; 4]])));
    }
    for (locality, pcr) in [(&[1u8][..], 0), (&[3][..], 1), (&[][..], 0), (&[3, 3][..], 0)] {
        assert!(matches!(
            EventLog::parse(&with(locality, pcr)),
            Err(Error::Malformed { .. })
        ));
    }
    let mut late = with(&[3], 0);
    add(
        &mut late,
        0,
        EventType::NO_ACTION,
        &BOTH,
        b"",
        b"StartupLocality\0\x03",
    );
    assert!(matches!(EventLog::parse(&late), Err(Error::Malformed { .. })));
}

#[test]
fn what_the_spec_id_does_not_know_is_refused() {
    let mut other = log(&BOTH);
    add(
        &mut other,
        0,
        EventType::SEPARATOR,
        &[Bank::Sha384],
        &[0; 4],
        &[0; 4],
    );
    assert!(matches!(EventLog::parse(&other), Err(Error::Malformed { .. })));
    let mut twice = log(&BOTH);
    add(
        &mut twice,
        0,
        EventType::SEPARATOR,
        &[Bank::Sha1; 2],
        &[0; 4],
        &[0; 4],
    );
    assert!(matches!(EventLog::parse(&twice), Err(Error::Malformed { .. })));
    assert!(matches!(
        EventLog::parse(&log(&[Bank::Sha1; 2])),
        Err(Error::Malformed { .. })
    ));
    assert!(matches!(EventLog::parse(&log(&[])), Err(Error::Malformed { .. })));
    let mut old = good();
    old[28 + 4] ^= 1;
    assert!(matches!(
        EventLog::parse(&old),
        Err(Error::Malformed { offset: 0, .. })
    ));
    let mut high = log(&BOTH);
    add(&mut high, 24, EventType::SEPARATOR, &BOTH, &[0; 4], &[0; 4]);
    assert!(matches!(EventLog::parse(&high), Err(Error::Malformed { .. })));
}

#[test]
fn an_event_without_a_digest_in_the_bank_gives_no_registers() {
    let mut bytes = good();
    add(&mut bytes, 4, EventType::IPL, &[Bank::Sha1], b"x", b"x");
    let log = EventLog::parse(&bytes).unwrap();
    assert!(log.replay(Bank::Sha1).is_ok());
    assert!(matches!(
        log.replay(Bank::Sha256),
        Err(ReplayError::Digest { pcr: 4, .. })
    ));
    assert!(matches!(log.replay(Bank::Sha384), Err(ReplayError::Bank { .. })));
}

#[test]
fn memory_that_the_firmware_left_unused_ends_the_log() {
    for fill in [0, 0xff] {
        let mut bytes = good();
        let events = EventLog::parse(&bytes).unwrap().events().len();
        bytes.extend([fill; 4096]);
        assert_eq!(EventLog::parse(&bytes).unwrap().events().len(), events);
        bytes.push(7);
        assert!(EventLog::parse(&bytes).is_err());
    }
    // Fewer than an event has: 0xff begins none that extends anything, zeros may be one of PCR 0 that was
    // cut.
    for len in 1..16 {
        let (mut ff, mut zeros) = (good(), good());
        ff.extend(vec![0xff; len]);
        zeros.extend(vec![0; len]);
        assert_eq!(EventLog::parse(&ff), EventLog::parse(&good()));
        assert!(
            matches!(EventLog::parse(&zeros), Err(Error::Incomplete { .. })),
            "{len}"
        );
        for at in 0..len {
            let mut mixed = ff.clone();
            *mixed.iter_mut().rev().nth(at).unwrap() = 0xfe;
            assert!(EventLog::parse(&mixed).is_err(), "{len} {at}");
        }
    }
}

#[test]
fn a_log_that_is_refused_says_what_to_do() {
    let why = |bytes: &[u8]| EventLog::parse(bytes).unwrap_err().to_string();
    // TPM 1.2: a SHA-1 event is the first, of any type and length. One cut Spec ID, too.
    let nothing = [0; 20];
    let firsts: [(usize, usize, &[u8; 20], &[u8]); 8] = [
        (0, 8, &[7; 20], &[0; 16]),
        (0, 8, &[7; 20], &[0; 8]),
        (0, 8, &[7; 20], b""),
        (7, 4, &[7; 20], &[0; 4]),
        (0, 3, &nothing, b""),
        (0, 3, &nothing, b"StartupLocality\0\x03"),
        (0, 3, &nothing, b"Spec ID Event00\0 and more"),
        (0, 3, &nothing, b"Spec ID"),
    ];
    for (pcr, kind, digest, data) in firsts {
        let mut old = Vec::new();
        for event in [data, b"another one"] {
            put(&mut old, pcr);
            put(&mut old, kind);
            old.extend(digest);
            put(&mut old, event.len());
            old.extend(event);
        }
        let why = why(&old);
        assert!(
            why.contains("crypto-agile (TCG 2) event log in the firmware's setup"),
            "{kind} {data:?}: {why}"
        );
    }
    let locality = |out: &mut Vec<u8>, locality: u8| {
        let data = [&b"StartupLocality\0"[..], &[locality]].concat();
        add(out, 0, EventType::NO_ACTION, &BOTH, b"", &data);
    };
    for second in [0, 3] {
        let mut twice = log(&BOTH);
        locality(&mut twice, 3);
        locality(&mut twice, second);
        let why = why(&twice);
        assert!(
            why.contains("behind another one") && why.contains("update"),
            "{why}"
        );
    }
    let mut late = log(&BOTH);
    add(&mut late, 0, EventType::SEPARATOR, &BOTH, &[0; 4], &[0; 4]);
    locality(&mut late, 3);
    let late = why(&late);
    assert!(
        late.contains("behind an event of PCR 0") && late.contains("update"),
        "{late}"
    );
    for padding in [3, 7, 64] {
        let mut padded = log(&BOTH);
        let data = [&b"StartupLocality\0\x03"[..], &vec![0; padding]].concat();
        add(&mut padded, 0, EventType::NO_ACTION, &BOTH, b"", &data);
        let why = why(&padded);
        assert!(why.contains("not padded") && why.contains("update"), "{why}");
        assert!(why.len() < 400, "{why}");
    }
    let mut sha1 = log(&[Bank::Sha1]);
    add(
        &mut sha1,
        0,
        EventType::SEPARATOR,
        &[Bank::Sha1],
        &[0; 4],
        &[0; 4],
    );
    let why = EventLog::parse(&sha1)
        .unwrap()
        .replay(Bank::Sha256)
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("only in: sha1.") && why.contains("Switch the bank on"),
        "{why}"
    );
}

#[test]
fn sha1s_boot_aggregate_is_over_eight_registers_and_the_others_over_ten() {
    for bank in Bank::ALL {
        let values: Vec<Digest> = (0..10u8).map(|n| bank.hash(&[&[n]])).collect();
        let joined: Vec<u8> = values.iter().flat_map(|d| d.bytes().to_vec()).collect();
        let len = bank.len() * if bank == Bank::Sha1 { 8 } else { 10 };
        let registers = Registers::new(values).unwrap();
        assert_eq!(boot_aggregate(&registers), bank.hash(&[&joined[..len]]));
    }
}

#[test]
fn registers_are_ten_of_one_bank_and_nothing_else() {
    let ten = |bank: Bank| vec![Digest::zero(bank); REGISTERS];
    assert!(Registers::new(ten(Bank::Sha256)).is_some());
    assert!(Registers::new(ten(Bank::Sha256)[1..].to_vec()).is_none());
    let mut mixed = ten(Bank::Sha256);
    mixed[9] = Digest::zero(Bank::Sha1);
    assert!(Registers::new(mixed.clone()).is_none());
    assert!(crate::wire::from_slice::<Registers>(&crate::wire::to_vec(&mixed), "registers", 4096).is_err());
    let boot = Boot {
        registers: vec![Registers::new(ten(Bank::Sha1)).unwrap()],
        log: Some(vec![1]),
        command_line: None,
    };
    let again: Boot = crate::wire::from_slice(&crate::wire::to_vec(&boot), "boot", 4096).unwrap();
    assert_eq!(again, boot);
    let json = serde_json::to_string(&boot).unwrap();
    assert_eq!(serde_json::from_str::<Boot>(&json).unwrap(), boot);
}

/// A trust domain's log: registers count from 1.
fn ccel(before: &[&[u8]], events: &[(u32, EventType, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for data in before {
        out.extend([1, 0, 0, 0, 3, 0, 0, 0]);
        out.extend([0; 20]);
        put(&mut out, data.len());
        out.extend(*data);
    }
    out.extend(log(&[Bank::Sha384]));
    for (register, kind, data) in events {
        out.extend(register.to_le_bytes());
        out.extend(kind.0.to_le_bytes());
        out.extend([1, 0, 0, 0, 0x0c, 0]);
        out.extend(Bank::Sha384.hash(&[data]).bytes());
        put(&mut out, data.len());
        out.extend(*data);
    }
    out
}

#[test]
fn a_trust_domains_log_counts_from_1_and_an_event_of_any_other_register_extends_none() {
    let action = EventType::EFI_ACTION;
    let events: [(u32, EventType, &[u8]); 7] = [
        (1, EventType::SEPARATOR, &[0; 4]),
        // As the logs of some clouds have them.
        (u32::MAX, action, b"register -1"),
        (5, action, b"register 5"),
        (0, action, b"MRTD"),
        (2, EventType::NO_ACTION, b"StartupLocality\0\x03"),
        (4, action, b"RTMR 3"),
        (3, action, b"RTMR 2"),
    ];
    let bytes = ccel(&[], &events);
    let log = EventLog::parse_ccel(&bytes).unwrap();
    let registers: Vec<u32> = log.events().iter().map(|event| event.pcr).collect();
    assert_eq!(registers, [0, u32::MAX, u32::MAX, u32::MAX, 1, 3, 2]);
    let extended = |data: &[u8]| Digest::zero(Bank::Sha384).extend(&Bank::Sha384.hash(&[data]));
    assert_eq!(
        log.replay_all(Bank::Sha384).unwrap(),
        [extended(&[0; 4]), Digest::zero(Bank::Sha384), extended(b"RTMR 2")]
    );
    assert!(matches!(log.replay(Bank::Sha384), Err(ReplayError::Bank { .. })));
    assert!(log.without_separator().is_empty());
    assert!(log.events()[0].is_known(Bank::Sha384));
    // A TPM's log has no such registers.
    assert!(EventLog::parse(&bytes).is_err());
}

#[test]
fn a_spec_id_that_is_not_the_first_event_is_found_in_a_trust_domains_log_alone() {
    let events: [(u32, EventType, &[u8]); 1] = [(1, EventType::SEPARATOR, &[0; 4])];
    let first: [&[u8]; 2] = [b"of a vendor", b""];
    let bytes = ccel(&first, &events);
    let log = EventLog::parse_ccel(&bytes).unwrap();
    assert_eq!(log.events().len(), 1);
    assert_eq!(log.banks(), [Bank::Sha384]);
    assert!(EventLog::parse(&bytes).is_err());
    // Not any number of them, and none that extends something.
    let many = vec![&b"of a vendor"[..]; 17];
    assert!(EventLog::parse_ccel(&ccel(&many, &events)).is_err());
    let mut extends = bytes.clone();
    extends[8] = 1;
    assert!(EventLog::parse_ccel(&extends).is_err());
    for len in 0..bytes.len() - 1 {
        let _ = EventLog::parse_ccel(&bytes[..len]);
    }
}

#[test]
fn a_trust_domains_firmware_ends_with_a_separator_in_rtmr_0_and_with_no_error_in_any() {
    let separator = |register, data: &'static [u8]| (register, EventType::SEPARATOR, data);
    for (events, without) in [
        (vec![separator(1, &[0; 4]), separator(2, &[0; 4])], vec![]),
        (vec![separator(1, &[0; 4]), separator(1, &[0xff; 4])], vec![]),
        (vec![separator(2, &[0; 4])], vec![0]),
        (vec![separator(1, &[0; 4]), separator(2, &[1, 0, 0, 0])], vec![1]),
        (vec![], vec![0]),
    ] {
        let bytes = ccel(&[], &events);
        let log = EventLog::parse_ccel(&bytes).unwrap();
        assert_eq!(log.without_separator(), without, "{events:?}");
    }
}
