//! `cgpath export` read by the tools of others: tpm2-tools, evmctl, Keylime, decoders and a reader of trust
//! domains from PyPI.
//!
//! What is not installed fails: `cargo xtask test` brings it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_appraisal::appraise;
use cgpath_evidence::boot::{EventLog, EventType};
use cgpath_evidence::td::{QuoteBody, TdBody, TdReport, extend};
use cgpath_evidence::{Bank, Evidence, list::ListEntry};
use cgpath_testkit::python::{evidence_api, python};
use cgpath_testkit::td::{Platform, TrustDomain};
use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
use p256::{
    SecretKey,
    pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const NONCE: &[u8] = b"the nonce of this request";

struct Folder {
    dir: tempfile::TempDir,
    node: Node,
    evidence: Evidence,
}

impl Folder {
    fn new(nonce: &[u8], change: impl FnOnce(&mut Node)) -> Folder {
        let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
        for n in [1, 2, 3] {
            node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
        }
        change(&mut node);
        let evidence = node.attest(nonce);
        let folder = Folder {
            dir: tempfile::tempdir().unwrap(),
            node,
            evidence,
        };
        folder.write("evidence.cbor", &folder.evidence.to_cbor());
        let key = SecretKey::from_slice(&[5; 32]).unwrap();
        folder.write(
            "verdict.pem",
            key.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes(),
        );
        folder.write(
            "verdict.pub.pem",
            key.public_key()
                .to_public_key_pem(LineEnding::LF)
                .unwrap()
                .as_bytes(),
        );
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn cgpath(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgpath"));
        command
            .args(line.split_whitespace())
            .current_dir(&self.dir)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn export(&self, line: &str) {
        let output = self.cgpath(&format!("export {line}"));
        assert_eq!(
            output.status.code(),
            Some(0),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs the check that stands beside an export.
    fn check(&self, folder: &str, tool: &str, package: &str) -> Output {
        let there = Command::new(tool).arg("--version").output();
        assert!(
            there.is_ok(),
            "{tool} is not there: `cargo xtask test` installs it (Debian package {package})"
        );
        Command::new("sh")
            .arg(self.path(folder).join("check.sh"))
            .output()
            .unwrap()
    }
}

#[track_caller]
fn run_python(script: &str, arguments: &[&Path]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/export")
        .join(script);
    crate::printed(Command::new(python()).arg(script).args(arguments))
}

#[test]
fn tpm2_checkquote_accepts_the_quote_and_no_other_nonce_or_register() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048] {
        let folder = Folder::new(NONCE, |node| {
            node.ak = cgpath_testkit::AttestationKey::new(kind, 1)
        });
        folder.export("evidence.cbor --format tpm2-tools -o quote");
        let check = |folder: &Folder| folder.check("quote", "tpm2_checkquote", "tpm2-tools");
        let good = check(&folder);
        assert!(
            good.status.success(),
            "{kind:?}: {}",
            String::from_utf8_lossy(&good.stderr)
        );
        let script = std::fs::read_to_string(folder.path("quote/check.sh")).unwrap();
        let other = script.replace(&hex::encode(NONCE), &hex::encode(b"another nonce of a request"));
        assert_ne!(other, script);
        folder.write("quote/check.sh", other.as_bytes());
        assert!(!check(&folder).status.success(), "another nonce");
        folder.write("quote/check.sh", script.as_bytes());
        let mut registers = std::fs::read(folder.path("quote/quote.pcrs")).unwrap();
        let at = 4 + 16 * 8 + 4 + 4 + 2;
        registers[at] ^= 1;
        folder.write("quote/quote.pcrs", &registers);
        assert!(!check(&folder).status.success(), "another register");
    }
}

#[test]
fn evmctl_replays_the_list_to_the_quoted_register_and_no_other_list() {
    let folder = Folder::new(NONCE, |node| {
        node.violate(&Actor::host("/usr/bin/tool"), "/var/log/wtmp")
    });
    folder.export("evidence.cbor --format evmctl -o list");
    let check = || folder.check("list", "evmctl", "ima-evm-utils");
    let good = check();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&good.stdout),
        String::from_utf8_lossy(&good.stderr)
    );
    assert!(
        good.status.success() && said.contains("Matched per TPM bank"),
        "{said}"
    );
    let mut list = std::fs::read(folder.path("list/binary_runtime_measurements")).unwrap();
    let at = list.windows(8).position(|w| w == b"/bin/app").unwrap();
    list[at + 1] ^= 1;
    folder.write("list/binary_runtime_measurements", &list);
    assert!(!check().status.success());
}

#[test]
fn decoders_of_others_read_event_log_token_wrapper_and_result() {
    let folder = Folder::new(NONCE, |node| {
        node.violate(&Actor::host("/usr/bin/tool"), "/var/log/wtmp")
    });
    let verdict = appraise(
        &folder.evidence,
        &folder.node.policy(),
        &folder.node.context(NONCE, None),
    )
    .unwrap();
    let key = p256::ecdsa::SigningKey::from_slice(&[5; 32]).unwrap();
    let token = cgpath_appraisal::ear::token(&verdict, Some(NONCE), &key).unwrap();
    folder.write("verdict.jwt", token.as_bytes());
    for line in [
        "--format cel-cbor -o log.cel",
        "--format cel-json -o log.json",
        "--format eat -o token.ucs",
        "--format eat --key verdict.pem -o token.cwt",
        "--format cmw-cbor --ear verdict.jwt -o evidence.cmw",
        "--format cmw-json --ear verdict.jwt -o evidence.cmw.json",
        "--format json -o evidence.json",
    ] {
        folder.export(&format!("evidence.cbor {line}"));
    }
    folder.export("evidence.json --format cbor -o again.cbor");
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert_eq!(read("again.cbor"), read("evidence.cbor"));
    let found = run_python(
        "decoders.py",
        &[folder.dir.path(), Path::new(&hex::encode(NONCE))],
    );
    let registers: BTreeMap<String, String> = serde_json::from_str(&found).unwrap();
    for bank in [Bank::Sha1, Bank::Sha256] {
        assert_eq!(
            registers[bank.name()],
            hex::encode(folder.node.pcr(bank).bytes()),
            "{bank}"
        );
    }
}

/// A Keylime runtime policy that accepts what this node's list holds, but for `evil`.
fn runtime_policy(node: &Node, evidence: &Evidence) -> Vec<u8> {
    let mut digests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in &evidence.list {
        let cgpath_evidence::Entry::Full(record) = entry else {
            panic!()
        };
        let entry = ListEntry::from_canonical(0, record.as_slice()).unwrap();
        let digest = entry.file_digest().unwrap().digest().unwrap();
        if digest != sha256(b"evil") {
            let name = String::from_utf8(entry.file_name().unwrap().to_vec()).unwrap();
            digests.entry(name).or_default().push(hex::encode(digest.bytes()));
        }
    }
    digests.retain(|name, _| !name.starts_with("/run/ima-cgpath/"));
    assert!(digests.len() > node.host_files.len() / 2);
    let policy = serde_json::json!({
        "meta": {"version": 1, "generator": 0}, "release": 0, "digests": digests,
        "excludes": ["^/run/ima-cgpath/checkpoint/[0-9]+$"], "keyrings": {},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {},
        "verification-keys": "",
    });
    serde_json::to_vec(&policy).unwrap()
}

#[test]
fn keylime_accepts_a_good_node_and_refuses_a_tampered_one_as_we_do() {
    // Text and bytes as nonces: Keylime takes both.
    for nonce in [NONCE.to_vec(), vec![0xff; 32]] {
        let good = Folder::new(&nonce, |_| ());
        let tampered = Folder::new(&nonce, |node| {
            node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil"));
        });
        let altered = Folder::new(&nonce, |_| ());
        let mut list = altered.evidence.clone();
        list.list.swap(4, 5);
        for (folder, trusted) in [(&good, true), (&tampered, false)] {
            let verdict = appraise(
                &folder.evidence,
                &folder.node.policy(),
                &folder.node.context(&nonce, None),
            )
            .unwrap();
            assert_eq!(verdict.trusted, trusted);
            folder.write("runtime.json", &runtime_policy(&folder.node, &folder.evidence));
            folder.export("evidence.cbor --format keylime --runtime-policy runtime.json -o request.json");
        }
        // An altered list, which we would not even export: swapped in the request.
        let request = std::fs::read_to_string(good.path("request.json")).unwrap();
        let mut request: serde_json::Value = serde_json::from_str(&request).unwrap();
        let text = request["data"]["ima_measurement_list"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.swap(4, 5);
        request["data"]["ima_measurement_list"] = (lines.join("\n") + "\n").into();
        altered.write("request.json", request.to_string().as_bytes());
        let verdict = appraise(&list, &altered.node.policy(), &altered.node.context(&nonce, None)).unwrap();
        assert!(!verdict.trusted);

        let answers = run_python(
            "one_shot.py",
            &[
                &good.path("request.json"),
                &tampered.path("request.json"),
                &altered.path("request.json"),
            ],
        );
        // Keylime's own remarks stand between.
        let answers: Vec<serde_json::Value> = answers
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[0]["valid"], true, "{}", answers[0]);
        assert_eq!(answers[1]["valid"], false, "{}", answers[1]);
        let evil = hex::encode(sha256(b"evil").bytes());
        assert!(
            answers[1]["failures"].to_string().contains(&evil),
            "{}",
            answers[1]
        );
        assert_eq!(answers[2]["valid"], false, "{}", answers[2]);
    }
}

#[test]
fn what_has_no_form_in_a_format_is_an_error_that_names_the_entry() {
    let folder = Folder::new(NONCE, |node| {
        let files = &mut node.host_files;
        files
            .entry(b"/usr/bin/a\nb".to_vec())
            .or_default()
            .insert(sha256(b"x"));
        node.execute(&Actor::host("/usr/bin/tool"), "/usr/bin/a\nb", &sha256(b"x"));
    });
    let refused = |line: &str, words: &str| {
        let output = folder.cgpath(&format!("export {line} -o out"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(said.contains(words), "{line}: {said}");
        assert!(!folder.path("out").exists());
    };
    refused("evidence.cbor --format ascii", "entry ");
    refused("evidence.cbor --format keylime", "entry ");
    folder.export("evidence.cbor --format cel-json -o log.json");
    let mut redacted = folder.evidence.clone();
    redacted.list[2] = cgpath_evidence::Entry::Opaque {
        pcr: 10,
        digests: vec![folder.node.list[2].digest(Bank::Sha256)],
        hash: None,
    };
    folder.write("redacted.cbor", &redacted.to_cbor());
    refused("redacted.cbor --format cel-cbor", "entry 2 is redacted");
    refused("redacted.cbor --format evmctl", "entry 2 is redacted");
    let json = String::from_utf8(folder.evidence.to_json().unwrap()).unwrap();
    folder.write(
        "twice.json",
        json.replacen("\"version\":1", "\"version\":1,\"version\":1", 1)
            .as_bytes(),
    );
    refused("twice.json --format cbor", "stands twice");
}

#[test]
fn the_log_for_trustees_tdx_verifier_replays_to_all_four_registers_of_the_quote_beside_it() {
    let domain = TrustDomain::new(Platform::new("a test's root", "a machine"));
    let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(domain, false);
    node.attest(b"a nonce before this one");
    let mut evidence = node.attest(NONCE);
    let folder = Folder::new(NONCE, |_| ());
    let exported = |evidence: &Evidence| -> serde_json::Value {
        folder.write("td.cbor", &evidence.to_cbor());
        folder.export("td.cbor --format trustee-tdx -o td.json");
        serde_json::from_slice(&std::fs::read(folder.path("td.json")).unwrap()).unwrap()
    };
    let decoded = |value: &serde_json::Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
    // The table is larger than what the firmware wrote.
    let ccel = evidence.td.as_mut().unwrap().ccel.as_mut().unwrap();
    ccel.extend([0xff; 4096]);
    let value = exported(&evidence);
    let quote = decoded(&value["quote"]);
    assert_eq!(quote, evidence.quote.td.as_ref().unwrap().outblob);
    let log = decoded(&value["cc_eventlog"]);
    let log = EventLog::parse_ccel(&log).unwrap();
    let mut registers = [[0; 48]; 4];
    for event in log
        .events()
        .iter()
        .filter(|event| event.kind != EventType::NO_ACTION)
    {
        let digest = event.digest(Bank::Sha384).unwrap().bytes().try_into().unwrap();
        let register = &mut registers[event.pcr as usize];
        *register = extend(register, digest);
    }
    let body = QuoteBody::parse(&quote).unwrap().body;
    assert_eq!(registers, body.rtmrs);
    assert_ne!(registers[3], [0; 48]);
    evidence.td.as_mut().unwrap().ccel = None;
    assert!(exported(&evidence)["cc_eventlog"].is_null());
    let output = folder.cgpath("export evidence.cbor --format trustee-tdx -o out");
    assert_eq!(output.status.code(), Some(2));
}

/// What evidence-api found in a quote, a report or a log.
#[derive(Debug, PartialEq, serde::Deserialize)]
struct Read {
    rtmrs: [String; 4],
    mrtd: Option<String>,
    report_data: Option<String>,
}

impl Read {
    /// The same as we find it.
    fn of(body: &TdBody) -> Read {
        Read {
            rtmrs: body.rtmrs.map(hex::encode),
            mrtd: Some(hex::encode(body.mrtd)),
            report_data: Some(hex::encode(body.report_data)),
        }
    }
}

/// Reads `quote=FILE`, `report=FILE` and `log=FILE` with evidence-api.
#[track_caller]
fn read_by_others<const N: usize>(files: [(&str, &Path); N]) -> [Read; N] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/export/td_reader.py");
    let named = files.map(|(kind, file)| format!("{kind}={}", file.display()));
    let found = crate::printed(Command::new(evidence_api()).arg(script).args(named));
    let found: Vec<Read> = serde_json::from_str(&found).unwrap();
    found.try_into().unwrap()
}

#[test]
fn evidence_api_finds_in_our_quote_and_log_the_registers_that_we_find() {
    let domain = TrustDomain::new(Platform::new("a test's root", "a machine"));
    let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(domain, false);
    node.attest(b"a nonce before this one");
    let evidence = node.attest(NONCE);
    let folder = Folder::new(NONCE, |_| ());
    folder.write("td.cbor", &evidence.to_cbor());
    folder.export("td.cbor --format trustee-tdx -o td.json");
    let exported: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path("td.json")).unwrap()).unwrap();
    let decoded = |name: &str| STANDARD.decode(exported[name].as_str().unwrap()).unwrap();
    let (quote, mut log) = (decoded("quote"), decoded("cc_eventlog"));
    folder.write("quote", &quote);
    folder.write("log", &log);
    let quoted = Read::of(&QuoteBody::parse(&quote).unwrap().body);
    let (quote, log_file) = (folder.path("quote"), folder.path("log"));
    let [of_quote, of_log] = read_by_others([("quote", &quote), ("log", &log_file)]);
    assert_eq!(of_quote, quoted);
    assert_eq!(of_log.rtmrs, quoted.rtmrs);
    // The digest of the last checkpoint is another one: RTMR 3 is, too, and no other.
    let last = *td_digests(&evidence).last().unwrap();
    let at = log.windows(48).position(|window| window == last).unwrap();
    log[at] ^= 1;
    folder.write("log", &log);
    let [changed] = read_by_others([("log", &log_file)]);
    assert_eq!(changed.rtmrs[..3], quoted.rtmrs[..3]);
    assert_ne!(changed.rtmrs[3], quoted.rtmrs[3]);
}

/// What the register's log says it was extended by.
fn td_digests(evidence: &Evidence) -> Vec<[u8; 48]> {
    let log = &evidence.td.as_ref().unwrap().register_log;
    let extensions = cgpath_evidence::td::log::read(log).unwrap();
    extensions.map(|extension| extension.unwrap().digest).collect()
}

#[test]
fn decoders_of_others_replay_the_registers_event_log_to_the_quoted_register() {
    let domain = TrustDomain::new(Platform::new("a test's root", "a machine"));
    let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(domain, false);
    node.attest(b"a nonce before this one");
    node.td.as_mut().unwrap().agent("what another writer says");
    let evidence = node.attest(NONCE);
    let folder = Folder::new(NONCE, |_| ());
    let replayed = |evidence: &Evidence| {
        folder.write("td.cbor", &evidence.to_cbor());
        folder.export("td.cbor --format td-cel-cbor -o td.cel");
        folder.export("td.cbor --format td-cel-json -o td.cel.json");
        let files = [&folder.path("td.cel"), &folder.path("td.cel.json")];
        let found = run_python("td_cel.py", &files.map(PathBuf::as_path));
        let registers: BTreeMap<String, String> = serde_json::from_str(&found).unwrap();
        registers
    };
    let quote = &evidence.quote.td.as_ref().unwrap().outblob;
    let quoted = Read::of(&QuoteBody::parse(quote).unwrap().body);
    // RTMR 3 is register 4 of a log.
    let expected = BTreeMap::from([("4".to_owned(), quoted.rtmrs[3].clone())]);
    assert_eq!(replayed(&evidence), expected);
    // Another digest, and a log that lacks its last extension.
    let mut other = evidence.clone();
    other.td.as_mut().unwrap().register_log[20] ^= 1;
    assert_ne!(replayed(&other), expected);
    let mut shorter = evidence;
    let number = shorter.checkpoints.len() as u64 - 2;
    let log = &mut shorter.td.as_mut().unwrap().register_log;
    let end = cgpath_evidence::td::log::end_of(log, number).unwrap().unwrap();
    log.truncate(end);
    assert_ne!(replayed(&shorter), expected);
    // A TPM's evidence has no such log.
    let ran = folder.cgpath("export evidence.cbor --format td-cel-cbor -o out");
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(
        ran.status.code() == Some(2) && said.contains("no trust domain's register"),
        "{said}"
    );
}

#[test]
fn evidence_api_finds_in_published_quotes_reports_and_logs_what_we_find() {
    let Some(vectors) = crate::published::vectors() else {
        return;
    };
    let path = |name: &str| vectors.join("tdx").join(name);
    let read = |path: &Path| std::fs::read(path).unwrap();
    for name in ["tdx_quote", "tdx_quote_4.dat"] {
        let file = path(name);
        let [quote] = read_by_others([("quote", &file)]);
        assert_eq!(
            quote,
            Read::of(&QuoteBody::parse(&read(&file)).unwrap().body),
            "{name}"
        );
    }
    let (report, ccel) = (path("tdreport.bin"), path("tdreport_ccel.bin"));
    let other = vectors.join("eventlog/CCEL_data_ovmf");
    let [of_report, of_log, of_other] =
        read_by_others([("report", &report), ("log", &ccel), ("log", &other)]);
    let ours = TdReport::parse(&read(&report)).unwrap();
    assert_eq!(of_report.rtmrs, ours.rtmrs.map(hex::encode));
    assert_eq!(of_log.rtmrs, of_report.rtmrs);
    assert_ne!(of_other.rtmrs, of_report.rtmrs, "another domain's log");
    for (file, theirs) in [(&ccel, &of_log), (&other, &of_other)] {
        let bytes = read(file);
        let values = EventLog::parse_ccel(&bytes)
            .unwrap()
            .replay_all(Bank::Sha384)
            .unwrap();
        let values: Vec<String> = values.iter().map(|value| hex::encode(value.bytes())).collect();
        assert_eq!(values, theirs.rtmrs[..3]);
    }
}

#[test]
fn an_option_that_a_format_has_no_place_for_is_refused() {
    let folder = Folder::new(NONCE, |_| ());
    for (line, option) in [
        ("--format cbor --key verdict.pem", "--key"),
        ("--format eat --ear verdict.jwt", "--ear"),
        (
            "--format cel-json --runtime-policy policy.json",
            "--runtime-policy",
        ),
        ("--format trustee --ek ek.pub", "--ek"),
    ] {
        let output = folder.cgpath(&format!("export evidence.cbor {line} -o out"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(
            said.contains(&format!("{option} means nothing in this format")),
            "{said}"
        );
        assert!(!folder.path("out").exists());
    }
}

#[test]
fn a_format_of_one_file_goes_to_standard_output_and_one_of_a_folder_does_not() {
    let folder = Folder::new(NONCE, |_| ());
    for format in ["cbor", "json", "cel-cbor", "ascii", "eat"] {
        folder.export(&format!("evidence.cbor --format {format} -o file"));
        let output = folder.cgpath(&format!("export evidence.cbor --format {format} -o -"));
        assert_eq!(output.status.code(), Some(0));
        assert!(
            output.stdout == std::fs::read(folder.path("file")).unwrap(),
            "{format}"
        );
    }
    for format in ["evmctl", "tpm2-tools"] {
        let output = folder.cgpath(&format!("export evidence.cbor --format {format} -o -"));
        assert_eq!(output.status.code(), Some(2), "{format}");
    }
    assert!(!folder.path("-").exists());
}
