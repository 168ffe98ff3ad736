//! V10 over the firmware's log of RTMR 0 to 2.

use super::*;
use cgpath_evidence::boot::EventType;
use cgpath_evidence::td::digest;
use cgpath_evidence::{Bank, Digest};
use cgpath_refvals::domain::{DomainError, from_domain};
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

/// An image of the command's tests. Its `.osrel` is called otherwise, so that no initrd is made of it.
fn uki(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/tests/cases/uki-command-line");
    let mut image = std::fs::read(folder.join(name)).unwrap();
    let at = image.windows(8).position(|part| part == b".osrel\0\0").unwrap();
    image[at..at + 8].copy_from_slice(b".uname\0\0");
    image
}

fn u32_at(image: &[u8], at: usize) -> usize {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize
}

/// What is hashed of an image whose sections follow one another to its end: all but the checksum and the
/// certificate table's entry.
fn hashed(image: &[u8]) -> Vec<u8> {
    let optional = u32_at(image, 0x3c) + 24;
    let (checksum, entry) = (optional + 64, optional + 112 + 4 * 8);
    [
        &image[..checksum],
        &image[checksum + 4..entry],
        &image[entry + 8..],
    ]
    .concat()
}

fn section<'a>(image: &'a [u8], name: &str) -> &'a [u8] {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(8, 0);
    let header = image.windows(8).position(|part| part == padded).unwrap();
    let (len, at) = (u32_at(image, header + 8), u32_at(image, header + 20));
    &image[at..at + len]
}

/// What firmware, stub and kernel measure of an image, in place of what a boot loader's image leaves.
fn boots(log: &mut FirmwareLog, image: &[u8]) {
    log.events.truncate(3);
    let application = |image: &[u8]| (1, EventType::APPLICATION, hashed(image), vec![0; 40]);
    log.events.push(application(image));
    for name in [".linux", ".cmdline", ".uname"] {
        let wide: Vec<u8> = name
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect();
        let with_nul = [name.as_bytes(), &[0]].concat();
        for measured in [with_nul, section(image, name).to_vec()] {
            log.events.push((2, EventType::IPL, measured, wide.clone()));
        }
    }
    log.events.push(application(section(image, ".linux")));
    log.add_command_line("root=LABEL=r ro quiet");
    log.events.last_mut().unwrap().0 = 2;
}

#[test]
fn an_image_by_its_computed_events_is_accepted_and_another_one_is_not() {
    let image = uki("plain.efi");
    let yaml = cgpath_refvals::uki::from_uki_of_domain("a.efi", &image).unwrap();
    // RTMR 0 is learned.
    let (_, lines) = yaml.split_once("  boot:\n").unwrap();
    let verdict = |change: &dyn Fn(&mut FirmwareLog)| {
        let mut node = booted_by_events(lines, |log| {
            boots(log, &image);
            change(log);
        });
        appraised(&node.clone(), &node.attest(NONCE))
    };
    let trusted = |change: &dyn Fn(&mut FirmwareLog)| {
        let verdict = verdict(change);
        assert!(verdict.trusted, "{verdict}");
        assert_eq!(verdict.node.boot, BootAppraisal::Trusted);
    };
    trusted(&|_| ());
    // A stub that measures no sections there, and one that loads the kernel by itself.
    trusted(&|log| log.events.retain(|event| event.1 != EventType::IPL));
    trusted(&|log| drop(log.events.remove(log.events.len() - 2)));
    // Another image, with the same sections but for one; its sections alone; its kernel alone.
    let other = uki("nl.efi");
    let unknown = "was measured, which the policy does not accept";
    let another = verdict(&|log| boots(log, &other));
    let finding = disbelieved(&another, Rule::Boot, unknown);
    assert_eq!(finding.found, Some(sha384(&hashed(&other)).to_string()));
    let refused = |what: &str, words: &str, change: &dyn Fn(&mut FirmwareLog)| {
        let verdict = verdict(change);
        assert!(!verdict.trusted, "{what}: {verdict}");
        disbelieved(&verdict, Rule::Boot, words);
    };
    refused("a section of another", unknown, &|log| {
        let of_line = log
            .events
            .iter()
            .position(|event| event.2 == section(&image, ".cmdline"));
        log.events[of_line.unwrap()].2 = section(&other, ".cmdline").to_vec();
    });
    refused("a section that it has not", unknown, &|log| {
        log.events
            .push((2, EventType::IPL, b".initrd\0".to_vec(), vec![0; 2]));
    });
    refused("another kernel", unknown, &|log| {
        let at = log.events.len() - 2;
        log.events[at].2 = b"kernel 2".to_vec();
    });
    refused("another command line", "kernel command line", &|log| {
        line(log, OTHER)
    });
    refused(
        "no image",
        "nothing of type EV_EFI_BOOT_SERVICES_APPLICATION",
        &|log| {
            drop(log.events.remove(3));
        },
    );
    // What the image does not tell of RTMR 1 is to be learned.
    refused(
        "a partition table",
        "name its digest in `tdx.boot.events`",
        &|log| {
            log.events.insert(
                3,
                (1, EventType(0x8000_0006), b"table".to_vec(), b"table".to_vec()),
            );
        },
    );
}

/// A domain in whose RTMR 3 something was measured before the collector ran, such as an operator's key.
fn extended(domain: TrustDomain, digest: u8) -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(domain, false);
    let td = node.td.as_mut().unwrap();
    td.boot();
    td.write(&[digest; 48]);
    td.origin = td.body.rtmrs[3];
    node.load();
    run(&mut node);
    node
}

#[test]
fn what_from_boot_writes_of_a_domain_accepts_its_boot_and_its_registers_origin_and_no_others() {
    let mut good = extended(domain(), 0x0e);
    let evidence = good.attest(NONCE);
    let learned = from_domain(&evidence).unwrap();
    let accepted =
        "RTMR 3 was extended before checkpoint 0, and no log says by whom: accepted as rtmr-origin";
    assert!(
        learned.remarks().iter().any(|remark| remark == accepted),
        "{:?}",
        learned.remarks()
    );
    let yaml = learned.yaml();
    let (_, lines) = yaml.split_once("tdx:\n").unwrap();
    let by_it = |mut node: Node| {
        let td = node.td.as_mut().unwrap();
        td.policy = format!("{lines}  dangerous-root: '{}'\n", hex::encode(td.platform.root()));
        appraised(&node.clone(), &node.attest(NONCE))
    };
    let origin = digest(&good.td.as_ref().unwrap().origin);
    let verdict = by_it(good);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.boot, BootAppraisal::Trusted);
    assert_eq!(verdict.relaxations, [format!("tdx.rtmr-origin: {origin}")]);

    disbelieved(
        &by_it(extended(domain(), 0x0f)),
        Rule::Chain,
        "before checkpoint 0",
    );
    let mut other = domain();
    line(&mut other.firmware, OTHER);
    disbelieved(&by_it(extended(other, 0x0e)), Rule::Boot, "policy accept");
    let mut other = domain();
    other.body.mrtd = [9; 48];
    disbelieved(
        &by_it(extended(other, 0x0e)),
        Rule::Quote,
        "MRTD is not one that the policy accepts",
    );
}

#[test]
fn from_boot_writes_nothing_of_evidence_that_does_not_say_what_a_domain_is() {
    let good = busy().attest(NONCE);
    let taught = |change: fn(&mut Evidence)| {
        let mut evidence = good.clone();
        change(&mut evidence);
        from_domain(&evidence)
    };
    assert!(taught(|_| ()).is_ok());
    assert_eq!(
        taught(|evidence| evidence.quote.td = None),
        Err(DomainError::NoQuote)
    );
    // A domain under debug: the first bit of its attributes.
    let debug = taught(|evidence| evidence.quote.td.as_mut().unwrap().outblob[48 + 120] |= 1);
    assert_eq!(debug, Err(DomainError::Debug));
    assert_eq!(
        taught(|evidence| evidence.checkpoints.clear()),
        Err(DomainError::NoOrigin)
    );
    let cut = taught(|evidence| evidence.quote.td.as_mut().unwrap().outblob.truncate(600));
    assert!(matches!(cut, Err(DomainError::Form(_))), "{cut:?}");
    let yaml = taught(|evidence| evidence.td.as_mut().unwrap().ccel = None)
        .unwrap()
        .yaml();
    assert!(yaml.contains("\n  dangerous-boot-not-judged: true\n"), "{yaml}");
}
