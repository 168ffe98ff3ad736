//! V10 judges what was measured by its digest: what the log says of an event hides nothing, and what a
//! firmware does otherwise than its profile says is accepted only where its register is pinned.

use cgpath_appraisal::{Rule, Severity, Verdict, appraise};
use cgpath_evidence::boot::{EventType, KNOWN, REGISTERS};
use cgpath_evidence::{Bank, Evidence};
use cgpath_policy::{BootPolicy, Policy};
use cgpath_refvals::learned_boot::from_boot;
use cgpath_testkit::{Actor, FirmwareLog, KeyKind, Node, pod, sha256};

const NONCE: &[u8] = b"the nonce of this request";
const EVIL: &str = "quiet init=/bin/sh lsm=none";
const INITRD_TAG: [u8; 21] = *b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0";

type Item = (u32, EventType, Vec<u8>, Vec<u8>);

/// What a unified kernel image leaves: the image and the kernel in it, its command line and its initrd.
fn uki() -> FirmwareLog {
    let mut log = FirmwareLog::good();
    let kernel = (4, EventType::APPLICATION, b"kernel 1".to_vec(), vec![0; 40]);
    let at = log.events.len() - 1;
    log.events.insert(at, kernel);
    log.events
        .push((9, EventType::EVENT_TAG, b"initrd 1".to_vec(), INITRD_TAG.to_vec()));
    log
}

/// `boot:` as `cgpath policy from-uki` writes it: no registers.
fn of_uki() -> String {
    let event = |pcr, kind: &str, name, of: &[u8]| {
        format!(
            "    - {{pcr: {pcr}, type: {kind}, name: {name}, digests: [\"{}\"]}}\n",
            sha256(of)
        )
    };
    let application = "EV_EFI_BOOT_SERVICES_APPLICATION";
    format!(
        "boot:\n  command-lines: [\"{}\"]\n  events:\n{}{}{}",
        FirmwareLog::COMMAND_LINE,
        event(4, application, "uki", b"image 1"),
        event(4, application, "kernel of uki", b"kernel 1"),
        event(9, "EV_EVENT_TAG", "initrd of uki", b"initrd 1")
    )
}

/// A node that booted so, its policy, and its evidence.
struct Case {
    node: Node,
    policy: Policy,
    evidence: Evidence,
}

impl Case {
    fn new(log: &FirmwareLog, boot: &str) -> Case {
        let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|given| *given = log.clone());
        node.extra_policy = boot.to_owned();
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        let evidence = node.attest(NONCE);
        Case {
            policy: node.policy(),
            node,
            evidence,
        }
    }

    fn appraise(&self) -> Verdict {
        appraise(&self.evidence, &self.policy, &self.node.context(NONCE, None)).unwrap()
    }

    /// The verdict if the log that is handed over is this one.
    fn shown(&mut self, log: &FirmwareLog) -> Verdict {
        self.evidence.boot.as_mut().unwrap().log = Some(log.bytes());
        self.appraise()
    }
}

fn kinds() -> impl Iterator<Item = EventType> {
    EventType::all().chain([EventType(0x14), EventType(0x8000_00ff), EventType(0xffff_ffff)])
}

#[track_caller]
fn fails(verdict: &Verdict, what: &str) {
    let failures: Vec<_> = verdict.failures().filter(|f| f.rule == Rule::Boot).collect();
    assert!(!verdict.trusted && !failures.is_empty(), "{what}: {verdict}");
}

#[track_caller]
fn says(verdict: &Verdict, words: &str) {
    let is_it = |f: &&cgpath_appraisal::Finding| f.rule == Rule::Boot && f.text.contains(words);
    assert!(verdict.failures().any(|f| is_it(&f)), "{words}: {verdict}");
}

#[test]
fn an_image_that_was_accepted_is_trusted_by_its_digests_alone() {
    let verdict = Case::new(&uki(), &of_uki()).appraise();
    assert!(verdict.trusted, "{verdict}");
}

#[test]
fn registers_of_a_boot_and_events_of_an_image_go_together_and_the_image_can_change() {
    // As docs/policies.md joins them: registers that the image does not reach, and what was computed of it.
    let log = uki();
    let boot = Case::new(&log, &of_uki()).evidence.boot.unwrap();
    let mut learned = BootPolicy {
        registers: from_boot(&boot).unwrap().values.registers,
        ..BootPolicy::default()
    };
    learned.registers.retain(|pcr, _| ![4, 8, 9].contains(pcr));
    let joined = |image: &str| learned.to_yaml(&[]) + image.strip_prefix("boot:\n").unwrap();
    let appraised = |log: &FirmwareLog, boot: &str| Case::new(log, boot).appraise();
    let verdict = appraised(&log, &joined(&of_uki()));
    assert!(verdict.trusted, "{verdict}");

    let mut next = log.clone();
    let image = next.events.iter_mut().find(|event| event.2 == b"image 1");
    image.unwrap().2 = b"image 2".to_vec();
    fails(&appraised(&next, &joined(&of_uki())), "another image");
    let of_next = of_uki().replace(&sha256(b"image 1").to_string(), &sha256(b"image 2").to_string());
    let verdict = appraised(&next, &joined(&of_next));
    assert!(verdict.trusted, "{verdict}");

    let mut firmware = log;
    firmware.events[0].2 = b"firmware 2".to_vec();
    firmware.events[0].3 = b"firmware 2".to_vec();
    fails(&appraised(&firmware, &joined(&of_uki())), "another firmware");
    let verdict = appraised(&firmware, &of_uki());
    assert!(
        verdict.trusted,
        "the image's values alone say nothing of it: {verdict}"
    );
}

#[test]
fn another_image_or_command_line_is_hidden_under_no_type_tag_or_text() {
    let utf16 = |text: &str| {
        text.encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>()
    };
    let mut options = FirmwareLog::good();
    options.add_command_line(EVIL);
    let options = options.events.last().unwrap().clone();
    let evil: [Item; 5] = [
        (4, EventType::APPLICATION, b"evil kernel".to_vec(), vec![0; 40]),
        options,
        (
            8,
            EventType::IPL,
            EVIL.into(),
            format!("kernel_cmdline: {EVIL}\0").into_bytes(),
        ),
        (8, EventType::IPL, utf16(EVIL), utf16(EVIL)),
        (
            9,
            EventType::EVENT_TAG,
            b"evil initrd".to_vec(),
            INITRD_TAG.to_vec(),
        ),
    ];
    for item in evil {
        let mut log = uki();
        log.events.push(item.clone());
        let mut case = Case::new(&log, &of_uki());
        fails(&case.appraise(), "as it is");
        let mut texts: Vec<Vec<u8>> = vec![
            item.3.clone(),
            item.2.clone(),
            vec![],
            INITRD_TAG.to_vec(),
            b"grub_cmd: echo\0".to_vec(),
            format!("kernel_cmdline: {}\0", FirmwareLog::COMMAND_LINE).into_bytes(),
            utf16(FirmwareLog::COMMAND_LINE),
        ];
        texts.extend(KNOWN.iter().map(|known| known.data.to_vec()));
        for kind in kinds() {
            for text in &texts {
                let (_, shown_kind, _, shown) = log.events.last_mut().unwrap();
                (*shown_kind, *shown) = (kind, text.clone());
                let verdict = case.shown(&log);
                fails(&verdict, &format!("{item:?} as {kind} with {text:?}"));
            }
        }
    }
}

#[test]
fn what_was_accepted_is_not_accepted_under_another_type() {
    let good = uki();
    for (boot, at) in [of_uki(), learned(&good)]
        .into_iter()
        .flat_map(|boot| (0..good.events.len()).map(move |at| (boot.clone(), at)))
    {
        // A version string is judged by the register alone.
        if !matches!(good.events[at].0, 4 | 8 | 9) {
            continue;
        }
        // Only what the policy names; the initrd is bound by its register in what was learned.
        let is_initrd = good.events[at].2 == b"initrd 1";
        if is_initrd && boot != of_uki() {
            continue;
        }
        let mut case = Case::new(&good, &boot);
        assert!(case.appraise().trusted);
        for kind in kinds().filter(|kind| *kind != good.events[at].1) {
            let mut log = good.clone();
            log.events[at].1 = kind;
            fails(&case.shown(&log), &format!("{:?} as {kind}", good.events[at]));
        }
    }
}

fn learned(log: &FirmwareLog) -> String {
    let case = Case::new(log, "dangerous-boot-not-judged: true\n");
    from_boot(case.evidence.boot.as_ref().unwrap()).unwrap().yaml()
}

#[test]
fn each_part_of_an_image_must_have_been_measured() {
    for (missing, words) in [
        (
            &b"image 1"[..],
            "nothing of type EV_EFI_BOOT_SERVICES_APPLICATION",
        ),
        (b"kernel 1", "nothing of type EV_EFI_BOOT_SERVICES_APPLICATION"),
        (b"initrd 1", "nothing of type EV_EVENT_TAG"),
    ] {
        let mut log = uki();
        log.events.retain(|(_, _, measured, _)| measured != missing);
        says(&Case::new(&log, &of_uki()).appraise(), words);
    }
    // What is optional may be missing, and nothing may stand in its place.
    let kernel = format!("digests: [\"{}\"]", sha256(b"kernel 1"));
    let optional = of_uki().replace(&kernel, &format!("{kernel}, optional: true"));
    assert_ne!(optional, of_uki());
    assert!(Case::new(&uki(), &optional).appraise().trusted);
    let mut log = uki();
    log.events.retain(|(_, _, measured, _)| measured != b"kernel 1");
    assert!(Case::new(&log, &optional).appraise().trusted);
    log.events
        .push((4, EventType::APPLICATION, b"kernel 2".to_vec(), vec![0; 40]));
    says(
        &Case::new(&log, &optional).appraise(),
        "was measured, which the policy does not accept",
    );
    // Digests under one name are alternatives: an image and its successor.
    let other = sha256(b"kernel 2");
    let both = of_uki().replace(
        &format!("[\"{}\"]", sha256(b"kernel 1")),
        &format!("[\"{other}\", \"{}\"]", sha256(b"kernel 1")),
    );
    assert_ne!(both, of_uki());
    assert!(Case::new(&uki(), &both).appraise().trusted);
    let mut next = uki();
    next.events
        .iter_mut()
        .filter(|item| item.2 == b"kernel 1")
        .for_each(|item| item.2 = b"kernel 2".to_vec());
    assert!(Case::new(&next, &both).appraise().trusted);
    says(
        &Case::new(&next, &of_uki()).appraise(),
        "was measured, which the policy does not accept",
    );
}

#[test]
fn what_the_profile_fixes_is_accepted_where_it_is_what_was_hashed() {
    let calling = b"Calling EFI Application from Boot Option".to_vec();
    let with = |item: Item| {
        let mut log = uki();
        log.events.insert(1, item);
        Case::new(&log, &of_uki()).appraise()
    };
    let verdict = with((4, EventType::EFI_ACTION, calling.clone(), calling.clone()));
    assert!(verdict.trusted, "{verdict}");
    fails(
        &with((4, EventType::EFI_ACTION, b"evil".to_vec(), calling.clone())),
        "another digest",
    );
    fails(
        &with((9, EventType::EFI_ACTION, calling.clone(), calling.clone())),
        "another register",
    );
    let debug = b"UEFI Debug Mode".to_vec();
    let verdict = with((4, EventType::EFI_ACTION, debug.clone(), debug));
    says(
        &verdict,
        "name its digest in `boot.events`, or the value of PCR 4 in `boot.registers`",
    );
    // No rule of this policy speaks of PCR 5.
    assert!(with((5, EventType::EFI_ACTION, b"x".to_vec(), b"x".to_vec())).trusted);
}

#[test]
fn a_pinned_register_accepts_what_is_not_named_and_nothing_else_does() {
    let mut log = uki();
    let command = (
        8,
        EventType::IPL,
        b"set root=hd0".to_vec(),
        b"grub_cmd: set root=hd0\0".to_vec(),
    );
    log.events.push(command);
    says(
        &Case::new(&log, &of_uki()).appraise(),
        "EV_IPL \"grub_cmd: set root=hd0\"",
    );
    let value = &log.registers(Bank::Sha256).values()[8].clone();
    let pinned = of_uki().replace("boot:\n", &format!("boot:\n  registers: {{8: [\"{value}\"]}}\n"));
    let verdict = Case::new(&log, &pinned).appraise();
    assert!(verdict.trusted, "{verdict}");
    log.events.push((
        8,
        EventType::IPL,
        b"set x=1".to_vec(),
        b"grub_cmd: set x=1\0".to_vec(),
    ));
    let verdict = Case::new(&log, &pinned).appraise();
    says(&verdict, "PCR 8 is not one that the policy accepts");
    says(&verdict, "grub_cmd: set x=1");
    // A line that the log states is judged though its register is pinned.
    let mut line = uki();
    line.events.push((
        8,
        EventType::IPL,
        EVIL.into(),
        format!("kernel_cmdline: {EVIL}\0").into_bytes(),
    ));
    let value = &line.registers(Bank::Sha256).values()[8].clone();
    let pinned = of_uki().replace("boot:\n", &format!("boot:\n  registers: {{8: [\"{value}\"]}}\n"));
    says(
        &Case::new(&line, &pinned).appraise(),
        "the kernel command line is not one",
    );
}

#[test]
fn hundreds_of_unknown_events_hide_no_other_finding() {
    let mut log = uki();
    for n in 0..300 {
        log.events.push((
            8,
            EventType::IPL,
            vec![n as u8, 1],
            format!("grub_cmd: {n}\0").into_bytes(),
        ));
    }
    log.events.push((
        8,
        EventType::IPL,
        EVIL.into(),
        format!("kernel_cmdline: {EVIL}\0").into_bytes(),
    ));
    let verdict = Case::new(&log, &of_uki()).appraise();
    says(
        &verdict,
        "the kernel command line is not one that the policy accepts",
    );
    says(&verdict, "292 more event(s) of PCR 8 were measured");
}

/// A firmware that does all of it: another text than was hashed, no separator in PCR 5, two in PCR 6, an
/// error in PCR 3.
fn odd() -> FirmwareLog {
    let mut log = uki();
    log.events[0].3 = b"another text".to_vec();
    log.events
        .retain(|(pcr, kind, ..)| (*pcr, *kind) != (5, EventType::SEPARATOR));
    log.events
        .insert(1, (6, EventType::SEPARATOR, vec![0xff; 4], vec![0xff; 4]));
    let error = log
        .events
        .iter_mut()
        .find(|(pcr, kind, ..)| (*pcr, *kind) == (3, EventType::SEPARATOR));
    let (_, _, measured, data) = error.unwrap();
    (*measured, *data) = (vec![1, 0, 0, 0], vec![1, 0, 0, 0]);
    log
}

#[test]
fn what_a_firmware_does_otherwise_is_accepted_by_its_own_key_and_said_in_each_verdict() {
    let boot = learned(&odd());
    let verdict = Case::new(&odd(), &boot).appraise();
    assert!(verdict.trusted, "{verdict}");
    let tolerated: Vec<_> = verdict
        .node
        .findings
        .iter()
        .filter(|f| (f.rule, f.severity) == (Rule::Boot, Severity::Tolerated))
        .collect();
    assert_eq!(tolerated.len(), 4, "{verdict}");
    for words in ["for PCR 3", "for PCR 5", "for PCR 6", "is not what was measured"] {
        assert!(
            tolerated.iter().any(|f| f.text.contains(words)),
            "{words}: {verdict}"
        );
    }
    let relaxed = verdict
        .relaxations
        .iter()
        .filter(|r| r.starts_with("boot.firmware-deviations: PCR "));
    assert_eq!(relaxed.count(), 4, "{:?}", verdict.relaxations);
    // Without the key each of them fails.
    let (without, _) = boot.split_once("  firmware-deviations:").unwrap();
    let verdict = Case::new(&odd(), without).appraise();
    for words in ["for PCR 3", "for PCR 5", "for PCR 6", "is not what was measured"] {
        says(&verdict, words);
    }
}

/// The policy with this in place of what `boot.firmware-deviations` and `boot.registers` had.
fn deviating(log: &FirmwareLog, but_for: &[usize], items: &str) -> String {
    let registers = log.registers(Bank::Sha256);
    let pinned: String = (0..REGISTERS)
        .filter(|pcr| !but_for.contains(pcr))
        .map(|pcr| format!("    {pcr}: [\"{}\"]\n", registers.values()[pcr]))
        .collect();
    format!("boot:\n  registers:\n{pinned}  firmware-deviations:\n{items}")
}

#[test]
fn a_deviation_is_accepted_for_this_register_type_digest_and_number_alone() {
    let mut text = uki();
    text.events[0].3 = b"another text".to_vec();
    let right = format!(
        "    - {{pcr: 0, type: EV_S_CRTM_VERSION, name: x, digests: [\"{}\"]}}\n",
        sha256(b"firmware 1")
    );
    let verdict = Case::new(&text, &deviating(&text, &[], &right)).appraise();
    assert!(verdict.trusted, "{verdict}");
    for wrong in [
        right.replace("pcr: 0", "pcr: 1"),
        right.replace("EV_S_CRTM_VERSION", "EV_EFI_ACTION"),
        right.replace(
            &sha256(b"firmware 1").to_string(),
            &sha256(b"firmware 2").to_string(),
        ),
    ] {
        let verdict = Case::new(&text, &deviating(&text, &[], &wrong)).appraise();
        says(
            &verdict,
            "what the boot log says of an event is not what was measured",
        );
    }
    // Where the register has another value, the key does not count either.
    let mut other = text.clone();
    other
        .events
        .push((0, EventType(8), b"more".to_vec(), b"more".to_vec()));
    let verdict = Case::new(&other, &deviating(&text, &[], &right)).appraise();
    says(
        &verdict,
        "what the boot log says of an event is not what was measured",
    );
    says(&verdict, "PCR 0 is not one that the policy accepts");

    let mut doubled = uki();
    doubled
        .events
        .insert(1, (6, EventType::SEPARATOR, vec![0; 4], vec![0; 4]));
    let zeros = sha256(&[0; 4]);
    let right = format!("    - {{pcr: 6, type: EV_SEPARATOR, name: x, count: 2, digests: [\"{zeros}\"]}}\n");
    let verdict = Case::new(&doubled, &deviating(&doubled, &[], &right)).appraise();
    assert!(verdict.trusted, "{verdict}");
    for wrong in [
        right.replace("count: 2", "count: 3"),
        right.replace("count: 2", "count: 1"),
        right.replace("pcr: 6", "pcr: 7"),
        right.replace(&zeros.to_string(), &sha256(&[1, 0, 0, 0]).to_string()),
    ] {
        let verdict = Case::new(&doubled, &deviating(&doubled, &[], &wrong)).appraise();
        says(&verdict, "separator without an error for PCR 6");
    }
    let mut missing = uki();
    missing
        .events
        .retain(|(pcr, kind, ..)| (*pcr, *kind) != (6, EventType::SEPARATOR));
    let right = "    - {pcr: 6, type: EV_SEPARATOR, name: x, count: 0}\n";
    assert!(
        Case::new(&missing, &deviating(&missing, &[], right))
            .appraise()
            .trusted
    );
    says(
        &Case::new(&doubled, &deviating(&doubled, &[], right)).appraise(),
        "separator without an error for PCR 6",
    );
}

#[test]
fn no_deviation_is_accepted_without_its_register_or_of_a_text_that_a_rule_reads() {
    let log = uki();
    let load = |boot: &str| {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.extra_policy = boot.to_owned();
        let yaml = node.policy_yaml();
        let read = |name: &str| node.reference(name).ok_or_else(|| "no such file".to_owned());
        Policy::load("policy.yaml", yaml.as_bytes(), read)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let digest = sha256(b"x");
    let mut of_data = 0;
    for kind in EventType::all().filter(|kind| *kind != EventType::SEPARATOR) {
        let item = format!("    - {{pcr: 0, type: {kind}, name: x, digests: [\"{digest}\"]}}\n");
        let loaded = load(&deviating(&log, &[], &item));
        if kind.is_of_data() {
            of_data += 1;
            assert_eq!(loaded, Ok(()), "{kind}");
            let why = load(&deviating(&log, &[0], &item)).unwrap_err();
            assert!(why.contains("only where `registers` pins PCR 0"), "{kind}: {why}");
        } else {
            assert!(loaded.is_err(), "{kind}");
        }
    }
    assert_eq!(of_data, 5);
    for read in [
        "EV_IPL",
        "EV_EVENT_TAG",
        "EV_EFI_BOOT_SERVICES_APPLICATION",
        "EV_EFI_BOOT_SERVICES_DRIVER",
        "EV_EFI_RUNTIME_SERVICES_DRIVER",
    ] {
        let item = format!("    - {{pcr: 4, type: {read}, name: x, digests: [\"{digest}\"]}}\n");
        let why = load(&deviating(&log, &[], &item)).unwrap_err();
        assert!(
            why.contains("no rule compares the data of this type with its digest"),
            "{why}"
        );
    }
    for (item, words) in [
        (
            format!("pcr: 8, type: EV_SEPARATOR, name: x, count: 1, digests: [\"{digest}\"]"),
            "only PCR 0 to 7",
        ),
        (
            format!("pcr: 1, type: EV_SEPARATOR, name: x, digests: [\"{digest}\"]"),
            "`count` is for EV_SEPARATOR",
        ),
        (
            format!("pcr: 1, type: EV_ACTION, name: x, count: 1, digests: [\"{digest}\"]"),
            "`count` is for EV_SEPARATOR",
        ),
        (
            "pcr: 1, type: EV_SEPARATOR, name: x, count: 1".to_owned(),
            "`digests` names",
        ),
        ("pcr: 1, type: EV_ACTION, name: x".to_owned(), "`digests` names"),
        (
            format!("pcr: 1, type: EV_SEPARATOR, name: x, count: 0, digests: [\"{digest}\"]"),
            "`digests` names",
        ),
        (
            format!("pcr: 10, type: EV_ACTION, name: x, digests: [\"{digest}\"]"),
            "PCR 10 does not belong",
        ),
    ] {
        let why = load(&deviating(&log, &[], &format!("    - {{{item}}}\n"))).unwrap_err();
        assert!(why.contains(words), "{item}: {why}");
    }
}
