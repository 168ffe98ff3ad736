//! A node without a TPM whose checkpoints extend RTMR 3 and whose quotes come through configfs-tsm.
//!
//! The kernel is the stock one and the interfaces are its own; the registers and the quoting service behind
//! them are the test's (`vm-tests/tdx`). What silicon would do is emulated: nothing here shows that a
//! register cannot be reset.

#[allow(dead_code, reason = "the example's `main` is for the demo")]
#[path = "../../examples/domain.rs"]
mod platform;

use crate::pods_appraised::appraised;
use anyhow::{Context as _, Result, ensure};
use cgpath_appraisal::{Finding, Rule, Verdict};
use cgpath_evidence::td::{self, ListChain, QuoteBody, ReportData, Version};
use cgpath_evidence::{Entry, Evidence, SealedCheckpoint};
use p256::ecdsa::{Signature, SigningKey, signature::Verifier as _};
use platform::outside;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use vm_tests::demo::DemoOptions;
use vm_tests::domain::{self, Domain};
use vm_tests::pods::Runtime;
use vm_tests::scenario::{BPF_OBJECT, COLLECTOR, CONFIG, NODE, Node, Plan, ima_policy};
use vm_tests::{PATIENCE, Process, Vm, host, module};

const SIGKILL: i32 = 9;

/// What the collector's log says when a checkpoint is sealed, and when one cannot be anchored.
const SEALED: &str = "engine::core: sealed";
const FAILED: &str = "engine::core: no checkpoint";

const REGISTERS: &str = "/sys/devices/virtual/misc/tdx_guest/measurements";

/// The guest with module and configfs.
fn guest() -> Vm {
    let config = format!(
        "node = \"guest\"\n{}[bpf]\nobject = \"{BPF_OBJECT}\"\n",
        domain::ALONE
    );
    let vm = Domain::prepare(Vm::builder(domain::STOCK))
        .unwrap()
        .without_tpm()
        .file(
            COLLECTOR,
            host::stripped(&host::built_binary("cgpathd").unwrap()).unwrap(),
            0o755,
        )
        .file(BPF_OBJECT, host::bpf_object().unwrap(), 0o644)
        .bytes(CONFIG, config, 0o644)
        .ima_policy(ima_policy())
        .start()
        .unwrap();
    domain::load(&vm).unwrap();
    vm
}

/// The collector, up.
fn collector(vm: &Vm) -> Process<'_> {
    let begin = Instant::now();
    loop {
        let process = vm
            .command(&[COLLECTOR, "run"])
            .spawn("/var/log/cgpathd.log")
            .unwrap();
        loop {
            if vm.run(&[COLLECTOR, "status"]).unwrap().success() {
                return process;
            }
            // An earlier one may still be inside of a system call.
            if process.wait(Duration::ZERO).unwrap().is_some() {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{}", process.log().unwrap());
        }
        let log = process.log().unwrap();
        assert!(
            log.contains("another cgpathd is using") && begin.elapsed() < PATIENCE,
            "{log}"
        );
    }
}

fn evidence(vm: &Vm, nonce: &[u8]) -> Result<Evidence> {
    let hex = hex::encode(nonce);
    let output = vm
        .command(&[COLLECTOR, "once", "--nonce", &hex, "-o", "/run/evidence.cbor"])
        .timeout(PATIENCE)
        .run()?;
    output.check()?;
    Ok(Evidence::from_cbor(&vm.get("/run/evidence.cbor")?)?)
}

/// That quote, registers, log, checkpoints, list and nonce belong together; gives the number of checkpoints.
fn holds(domain: &Domain, evidence: &Evidence, nonce: &[u8]) -> Result<usize> {
    ensure!(evidence.quote.tpm.is_none(), "a TPM's quote");
    let quote = evidence.quote.td.as_ref().context("no quote of a trust domain")?;
    ensure!(quote.provider == td::PROVIDER_TDX, "{}", quote.provider);
    let QuoteBody { version, body, .. } = QuoteBody::parse(&quote.outblob)?;
    ensure!(version == Version::V4, "a quote of {version:?}");
    // Header and body are signed; the signature data's size comes before the signature.
    let (signed, rest) = quote.outblob.split_at(domain.head.len() / 2);
    let key = SigningKey::from_slice(&hex::decode(&domain.key)?)?;
    let signature = Signature::from_slice(&rest[4..68])?;
    key.verifying_key().verify(signed, &signature)?;
    let files: Vec<SealedCheckpoint> = evidence
        .checkpoints
        .iter()
        .map(|file| SealedCheckpoint::from_file(file))
        .collect::<Result<_, _>>()?;
    let last = files.last().context("no checkpoint")?;
    let report_data = ReportData {
        nonce,
        checkpoint: &td::checkpoint_digest(&last.file),
        node_key: &quote.node_key,
        ak_name: &[],
    }
    .to_bytes();
    ensure!(
        quote.report_data(&[]) == report_data,
        "another nonce or checkpoint is stated"
    );
    ensure!(body.report_data == report_data, "other report data");
    td::verify_possession(&quote.node_key, &report_data, &quote.possession)?;
    let first = files[0].checkpoint.binding.as_ref().context("no binding")?;
    let origin = first.origin.as_ref().context("no origin")?;
    ensure!(
        origin.register == 3 && origin.node_key == quote.node_key,
        "another origin"
    );
    let log = &evidence.td.as_ref().context("no log")?.register_log;
    ensure!(
        body.rtmrs[3] == td::log::replay(log, 3, &origin.value)?,
        "the log does not replay to the register"
    );
    let said: Vec<_> = td::log::read(log)?
        .map(|extension| extension.map(|extension| (extension.checkpoint(), extension.digest)))
        .collect::<Result<_, _>>()?;
    let sealed: Vec<_> = files
        .iter()
        .map(|file| (Some(file.checkpoint.number), td::checkpoint_digest(&file.file)))
        .collect();
    ensure!(said == sealed, "the log is not that of these checkpoints");
    for file in &files {
        let checkpoint = &file.checkpoint;
        let mut list = ListChain::default();
        for entry in evidence.list.iter().take(usize::try_from(checkpoint.list_len)?) {
            match entry {
                Entry::Full(bytes) => list.push(bytes),
                Entry::Opaque { .. } => anyhow::bail!("a redacted entry"),
            }
        }
        let binding = checkpoint.binding.as_ref().context("no binding")?;
        ensure!(
            binding.list == list.value(),
            "checkpoint {} binds another list",
            checkpoint.number
        );
        ensure!(!checkpoint.blind, "checkpoint {} is blind", checkpoint.number);
        ensure!(checkpoint.losses.total() == 0, "records were lost");
    }
    Ok(files.len())
}

#[test]
fn a_node_without_a_tpm_anchors_in_rtmr_3_and_its_evidence_holds_together() {
    let (vm, domain) = (guest(), outside().unwrap());
    // The kernel's own rules: a whole digest extends, anything else is refused.
    let register = format!("{REGISTERS}/rtmr3:sha384");
    let before = vm.get(&register).unwrap();
    assert_eq!(before, [0; 48]);
    let short = vm
        .run(&["/bin/sh", "-c", &format!("head -c 47 /dev/zero > {register}")])
        .unwrap();
    assert!(!short.success());
    assert_eq!(vm.get(&register).unwrap(), before);
    // What an image's initrd extended before the collector started is the origin.
    vm.sh(&format!("head -c 48 /dev/zero > {register}")).unwrap();
    let extended = td::extend(&[0; 48], &[0; 48]);
    assert_eq!(vm.get(&register).unwrap(), extended);
    let service = domain.quotes(&vm).unwrap();
    let check = vm.run(&[COLLECTOR, "check", "--json"]).unwrap();
    for row in [
        "\"id\": \"rtmr\",\n      \"state\": \"ok\"",
        "\"id\": \"td-report\",\n      \"state\": \"ok\"",
    ] {
        assert!(check.text().contains(row), "{}", check.text());
    }
    let collector = collector(&vm);
    for round in 1..=3 {
        let nonce = [round; 32];
        let begin = Instant::now();
        let evidence = evidence(&vm, &nonce).unwrap();
        println!(
            "TIME a round with RTMR 3: {} ms, {} bytes",
            begin.elapsed().as_millis(),
            evidence.to_cbor().len()
        );
        assert_eq!(holds(&domain, &evidence, &nonce).unwrap(), usize::from(round) + 1);
        assert!(holds(&domain, &evidence, &[0; 32]).is_err(), "of another nonce");
        let first = SealedCheckpoint::from_file(&evidence.checkpoints[0])
            .unwrap()
            .checkpoint;
        assert_eq!(first.binding.unwrap().origin.unwrap().value, extended);
    }
    // Somebody else extends it: no evidence, and the reason by name.
    vm.sh(&format!("head -c 48 /dev/zero > {register}")).unwrap();
    let error = evidence(&vm, &[9; 32]).unwrap_err();
    assert!(format!("{error:#}").contains("shared-register"), "{error:#}");
    collector.signal(SIGKILL).unwrap();
    service.signal(SIGKILL).unwrap();
    vm.power_off().unwrap();
}

#[test]
fn killed_around_an_extension_each_checkpoint_extends_the_register_once() {
    let kills = if std::env::var_os("CGPATH_SOAK").is_some() {
        50
    } else {
        5
    };
    let (vm, domain) = (guest(), outside().unwrap());
    let service = domain.quotes(&vm).unwrap();
    let parameters = format!("/sys/module/{}/parameters", module::TDX);
    let mut process = collector(&vm);
    let mut instants = BTreeSet::new();
    for n in 0..kills {
        // In turn: while the kernel extends, after it refused to, and at some other instant.
        let slow = ["1500", "0", "20"][n % 3];
        let fails = ["N", "Y", "N"][n % 3];
        vm.sh(&format!(
            "echo {slow} > {parameters}/extend_ms; echo {fails} > {parameters}/extend_fails"
        ))
        .unwrap();
        let nonce = hex::encode([n as u8; 16]);
        let lines = |line: &str| process.log().unwrap().matches(line).count();
        let (sealed, failed) = (lines(SEALED), lines(FAILED));
        let asked = vm
            .command(&[COLLECTOR, "once", "--nonce", &nonce, "-o", "/run/never.cbor"])
            .spawn("/var/log/once.log")
            .unwrap();
        let begin = Instant::now();
        let is_there = || match n % 3 {
            // It is in the system call as soon as its checkpoint is sealed.
            0 => lines(SEALED) > sealed,
            1 => lines(FAILED) > failed,
            _ => begin.elapsed() > Duration::from_millis(7 * n as u64),
        };
        while !is_there() {
            assert!(begin.elapsed() < PATIENCE, "kill {n}: {}", process.log().unwrap());
        }
        process.signal(SIGKILL).unwrap();
        instants.insert(n % 3);
        vm.sh(&format!(
            "echo 0 > {parameters}/extend_ms; echo N > {parameters}/extend_fails"
        ))
        .unwrap();
        asked.ended().expect("the request ends with the collector");
        process = collector(&vm);
        let nonce = [0x80 | n as u8; 32];
        let evidence = evidence(&vm, &nonce).unwrap();
        holds(&domain, &evidence, &nonce).unwrap();
    }
    assert_eq!(instants.len(), 3);
    process.signal(SIGKILL).unwrap();
    service.signal(SIGKILL).unwrap();
    vm.power_off().unwrap();
}

#[test]
fn a_node_with_a_tpm_and_a_register_is_trusted_where_the_policy_wants_both_and_not_by_one_of_them() {
    let mut plan = Plan::new(domain::STOCK);
    plan.domain = Some(Domain {
        beside_tpm: true,
        ..outside().unwrap()
    });
    let dir = tempfile::tempdir().unwrap();
    let node = Node::boot(plan, dir.path()).unwrap();
    let (_collector, round) = node.start_collector().unwrap();
    let verdict = &round.verdict;
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.anchor, "PCR 10 (sha256) and RTMR 3");
    assert_eq!(
        verdict.dangerous,
        [
            "dangerous-boot-not-judged",
            "tdx.dangerous-boot-not-judged",
            "tdx.dangerous-root"
        ]
    );
    let both = round.evidence().unwrap();
    assert!(both.quote.tpm.is_some() && both.quote.td.is_some());
    for keeps_tpm in [true, false] {
        let mut one = both.clone();
        if keeps_tpm {
            one.quote.td = None;
        } else {
            one.quote.tpm = None;
        }
        let file = dir.path().join("one.cbor");
        std::fs::write(&file, one.to_cbor()).unwrap();
        let output = node
            .site
            .cgpath(&["--json", "verify", "--dangerous-no-nonce", "--policy"])
            .arg(node.site.policy_file())
            .arg("--ak")
            .arg(node.site.key_file())
            .arg("--node-key")
            .arg(hex::encode(td::node_key_hash(
                &both.quote.td.as_ref().unwrap().node_key,
            )))
            .arg("--collateral")
            .arg(node.site.store().join("collateral/test.json"))
            .arg(&file)
            .output()
            .unwrap();
        let verdict: Verdict = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        let lacks = |finding: &Finding| finding.rule == Rule::Quote && finding.text.contains("there is no");
        assert!(verdict.failures().any(lacks), "{verdict}");
        assert!(!verdict.node.believed);
    }
    node.vm.power_off().unwrap();
}

#[test]
fn five_pods_are_appraised_by_name_with_rtmr_3_as_the_only_anchor() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    appraised(&DemoOptions {
        patched: None,
        stock: domain::STOCK,
        runtime: Runtime::Containerd,
        out: out.clone(),
        keep: false,
        quiet: false,
        restored: false,
        domain: Some(outside().unwrap()),
    });
    // The test's root counts by the policy's key alone.
    let policy = std::fs::read_to_string(out.join("site/policy/node.yaml")).unwrap();
    let of_intel: String = policy
        .lines()
        .filter(|line| !line.trim_start().starts_with("dangerous-root:"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(of_intel, policy);
    let other = out.join("site/policy/of-intel.yaml");
    std::fs::write(&other, of_intel).unwrap();
    let verify = |policy: &Path| -> Verdict {
        let output = std::process::Command::new(host::built_binary("cgpath").unwrap())
            .args(["--json", "verify", "--node", NODE, "--store"])
            .arg(out.join("site/verifier"))
            .arg("--policy")
            .arg(policy)
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let breaks_v1 = |verdict: &Verdict| verdict.failures().any(|finding| finding.rule == Rule::Quote);
    let with = verify(&out.join("site/policy/node.yaml"));
    assert_eq!(
        with.dangerous,
        ["tdx.dangerous-boot-not-judged", "tdx.dangerous-root"]
    );
    assert!(!breaks_v1(&with), "{with}");
    let without = verify(&other);
    assert!(
        breaks_v1(&without) && without.dangerous == ["tdx.dangerous-boot-not-judged"],
        "{without}"
    );
}
