//! A node without a TPM whose checkpoints extend RTMR 3 and whose quotes come through configfs-tsm.
//!
//! The kernel is the stock one and the interfaces are its own; the registers and the quoting service behind
//! them are the test's (`vm-tests/tdx`), and so is the firmware's log. What silicon would do is emulated:
//! nothing here shows that a register cannot be reset. Two guests: what needs no pods shares one, which has a
//! TPM in the first of its two boots. Not here: what rounds take (`cargo xtask bench domain`).

#[allow(dead_code, reason = "the example's `main` is for the demo")]
#[path = "../../examples/domain.rs"]
mod platform;

use crate::pods_appraised::appraised;
use anyhow::{Context as _, Result, ensure};
use cgpath_appraisal::{BootAppraisal, Finding, Rule, Verdict};
use cgpath_evidence::td::{self, ListChain, QuoteBody, ReportData, Version};
use cgpath_evidence::{Entry, Evidence, SealedCheckpoint};
use cgpath_testkit::td::Outside;
use p256::ecdsa::{Signature, SigningKey, signature::Verifier as _};
use platform::outside;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use vm_tests::demo::DemoOptions;
use vm_tests::domain::{self, Domain, QUOTER, REGISTERS};
use vm_tests::pods::Runtime;
use vm_tests::scenario::{
    self, BPF_OBJECT, COLLECTOR, COLLECTOR_CGROUP, COLLECTOR_LOG, CONFIG, NODE, Node, Plan,
};
use vm_tests::{PATIENCE, Process, Vm, host, module};

const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// What the collector's log says when a checkpoint is sealed, and when one cannot be anchored.
const SEALED: &str = "engine::core: sealed";
const FAILED: &str = "engine::core: no checkpoint";

/// The collector's configuration while it has no verifier, so that evidence is made when it is asked for.
const UNASKED: &str = "/etc/ima-cgpath/unasked.toml";

/// What the verifier said of the guest that all but the pods share.
struct Facts {
    /// Of its first boot, in which it has a TPM and the policy wants both.
    both: Verdict,
    /// Of the same evidence without the trust domain's quote, and without the TPM's.
    one: [Verdict; 2],
    /// Of its second one, without a TPM, whose key the policy accepts by `per-boot`.
    per_boot: Verdict,
    /// The same, with that key enrolled.
    enrolled: Verdict,
}

/// Gathered once, by whichever test comes first.
static FACTS: LazyLock<Facts> = LazyLock::new(gather);

/// Where the kernel makes reports.
const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// What an image's initrd extended RTMR 3 by, before anything of ours runs.
fn initrd(vm: &Vm) {
    vm.sh(&format!("head -c 48 /dev/zero > {REGISTERS}/rtmr3:sha384"))
        .unwrap();
}

/// RTMR 3 behind that.
fn origin() -> td::Register {
    td::extend(&[0; 48], &[0; 48])
}

/// How verdicts repeat that the policy accepts it.
fn origin_accepted() -> String {
    format!("tdx.rtmr-origin: sha384:{}", hex::encode(origin()))
}

fn register(vm: &Vm) -> Vec<u8> {
    vm.get(&format!("{REGISTERS}/rtmr3:sha384")).unwrap()
}

/// Waits until it is so.
fn until(process: &Process<'_>, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{}", process.log().unwrap());
    }
}

fn kill(process: &Process<'_>) {
    process.signal(SIGKILL).unwrap();
    process.ended().unwrap();
}

/// The collector with one of the configurations without a verifier, up.
fn collector<'vm>(vm: &'vm Vm, config: &str) -> Process<'vm> {
    let begin = Instant::now();
    loop {
        let process = vm
            .command(&[COLLECTOR, "--config", config, "run"])
            .cgroup(COLLECTOR_CGROUP)
            .spawn(COLLECTOR_LOG)
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

/// Asks for evidence and does not wait for it. What is said has a file of its own for each nonce.
fn asked<'vm>(vm: &'vm Vm, nonce: &[u8]) -> Process<'vm> {
    let hex = hex::encode(nonce);
    vm.command(&[COLLECTOR, "once", "--nonce", &hex, "-o", "/run/asked.cbor"])
        .spawn(&format!("/var/log/once-{hex}.log"))
        .unwrap()
}

fn evidence(vm: &Vm, nonce: &[u8]) -> Result<Evidence> {
    let hex = hex::encode(nonce);
    vm.command(&[COLLECTOR, "once", "--nonce", &hex, "-o", "/run/evidence.cbor"])
        .timeout(PATIENCE)
        .run()?
        .check()?;
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

/// The kernel's own rules of a register and of a report: less than a digest extends nothing, 64 bytes are
/// asked with. Of more than a digest it takes the first 48 bytes: `sysfs_kf_bin_write`, fs/sysfs/file.c.
fn what_the_kernel_refuses(vm: &Vm) {
    assert_eq!(register(vm), [0; 48]);
    for (len, file, why) in [
        (47, format!("{REGISTERS}/rtmr3:sha384"), "Invalid argument"),
        (65, format!("{REPORTS}/tried/inblob"), "File too large"),
    ] {
        let script = format!("mkdir -p {REPORTS}/tried; head -c {len} /dev/zero > {file}");
        let tried = vm.run(&["/bin/sh", "-c", &script]).unwrap();
        assert!(
            !tried.success() && tried.errors().contains(why),
            "{len} bytes: {}",
            tried.errors()
        );
    }
    vm.sh(&format!("rmdir {REPORTS}/tried")).unwrap();
    assert_eq!(register(vm), [0; 48]);
}

/// Rounds by hand, each a checkpoint further.
fn rounds_alone(vm: &Vm, domain: &Domain) {
    let mut before = None;
    for round in [1, 2] {
        let nonce = [round; 32];
        let evidence = evidence(vm, &nonce).unwrap();
        let checkpoints = holds(domain, &evidence, &nonce).unwrap();
        assert!(before.is_none_or(|before| checkpoints == before + 1));
        before = Some(checkpoints);
        assert!(holds(domain, &evidence, &[0; 32]).is_err(), "of another nonce");
        let first = SealedCheckpoint::from_file(&evidence.checkpoints[0])
            .unwrap()
            .checkpoint;
        assert_eq!(first.binding.unwrap().origin.unwrap().value, origin());
    }
}

/// Whether a thread of the process is in this state, or with `-L` in place of `-l` in another one.
fn has_thread(vm: &Vm, process: &Process<'_>, which: &str, state: char) -> bool {
    let script = format!(
        "grep {which} '^State:.{state}' /proc/{}/task/*/status",
        process.pid()
    );
    !vm.run(&["/bin/sh", "-c", &script]).unwrap().text().is_empty()
}

/// Kills the collector between the write-ahead of a checkpoint and what follows its extension: at five
/// instants, in turn. What it makes behind each holds. Gives the last one, up.
fn kills<'vm>(vm: &'vm Vm, domain: &Domain, mut process: Process<'vm>) -> Process<'vm> {
    const INSTANTS: usize = 5;
    let kills = if std::env::var_os("CGPATH_SOAK").is_some() {
        50
    } else {
        INSTANTS
    };
    let parameters = format!("/sys/module/{}/parameters", module::TDX);
    let set = |slow: &str, fails: &str| {
        vm.sh(&format!(
            "echo {slow} > {parameters}/extend_ms; echo {fails} > {parameters}/extend_fails"
        ))
        .unwrap();
    };
    for n in 0..kills {
        let instant = n % INSTANTS;
        let (slow, fails) = [("700", "N"), ("0", "Y"), ("20", "N"), ("700", "N"), ("300", "N")][instant];
        set(slow, fails);
        let lines = |line: &str| process.log().unwrap().matches(line).count();
        let (sealed, failed, before) = (lines(SEALED), lines(FAILED), register(vm));
        let asked = asked(vm, &[u8::try_from(n).unwrap(); 16]);
        let begin = Instant::now();
        match instant {
            // The checkpoint is sealed, and the system call comes next.
            0 => until(&process, || lines(SEALED) > sealed),
            // It is in the system call, which sleeps whatever signal comes; or, where that was over before
            // it was seen, behind it.
            3 => {
                until(&process, || lines(SEALED) > sealed);
                until(&process, || {
                    has_thread(vm, &process, "-l", 'D') || register(vm) != before
                });
            }
            // The kernel refused, and the register is as it was.
            1 => until(&process, || lines(FAILED) > failed),
            // The kernel has just extended it, and the collector may not know it yet.
            4 => until(&process, || register(vm) != before),
            // Somewhere.
            _ => until(&process, || begin.elapsed() > Duration::from_millis(7 * n as u64)),
        }
        process.signal(SIGKILL).unwrap();
        set("0", "N");
        asked.ended().expect("the request ends with the collector");
        process = collector(vm, UNASKED);
        let nonce = [0x80 | u8::try_from(n).unwrap(); 32];
        holds(domain, &evidence(vm, &nonce).unwrap(), &nonce).unwrap();
    }
    process
}

/// Asks for evidence, holds the collector where it waits for a report, does `work`, and has the report made
/// then. Gives whether there was evidence, and what was said.
fn while_a_report_is_waited_for(
    vm: &Vm,
    domain: &Domain,
    process: &Process<'_>,
    nonce: &[u8],
    work: impl FnOnce(),
) -> (bool, String) {
    domain::no_quotes(vm).unwrap();
    let asked = asked(vm, nonce);
    // It reads when a report is wanted; nobody answers.
    vm.sh(&format!("dd if={QUOTER} of=/run/wanted bs=304 count=1 2>&1"))
        .unwrap();
    process.signal(SIGSTOP).unwrap();
    // The signal ends the wait inside of the kernel: what was read is asked for again later.
    until(process, || !has_thread(vm, process, "-L", 'T'));
    work();
    domain.quotes(vm).unwrap();
    process.signal(SIGCONT).unwrap();
    let exit = asked.ended().unwrap();
    (exit.code == Some(0), asked.log().unwrap())
}

/// Somebody else writes to the collector's own report while it is made: the answer is ours all the same.
fn another_asks_in_between(vm: &Vm, domain: &Domain, process: &Process<'_>) {
    let nonce = [0x71; 32];
    let (made, said) = while_a_report_is_waited_for(vm, domain, process, &nonce, || {
        let reports = vm
            .sh(&format!(
                "for r in {REPORTS}/cgpathd-*; do head -c 64 /dev/zero > $r/inblob; cat $r/generation; done"
            ))
            .unwrap();
        assert_eq!(reports.trim(), "2", "the generation of the one report");
    });
    assert!(made, "{said}");
    let evidence = Evidence::from_cbor(&vm.get("/run/asked.cbor").unwrap()).unwrap();
    holds(domain, &evidence, &nonce).unwrap();
    assert_eq!(vm.sh(&format!("ls {REPORTS}")).unwrap(), "", "a report stays");
}

/// A quote that is longer than what the collector takes, and one that the kernel does not give out (EFBIG).
fn too_long(vm: &Vm, domain: &Domain) {
    for (len, nonce) in [("17K", [0x75; 32]), ("17M", [0x76; 32])] {
        domain::no_quotes(vm).unwrap();
        let asked = asked(vm, &nonce);
        vm.sh(&format!(
            "exec 3<>{QUOTER}; dd bs=304 count=1 of=/run/wanted <&3 && dd if=/dev/zero bs={len} count=1 >&3"
        ))
        .unwrap();
        assert_ne!(asked.ended().unwrap().code, Some(0));
        let said = asked.log().unwrap();
        assert!(
            said.contains("outblob is longer than 16384 bytes"),
            "{len}: {said}"
        );
        domain.quotes(vm).unwrap();
    }
    let nonce = [0x73; 32];
    holds(domain, &evidence(vm, &nonce).unwrap(), &nonce).unwrap();
}

/// The module gives way to one that calls itself otherwise while a report is made. The kernel takes no other
/// provider while there is a report of the old one, and says so to who reads it.
fn another_provider(vm: &Vm, domain: &Domain, process: &Process<'_>) {
    let tdx = module::TDX;
    let other = format!("modprobe {tdx} provider=sev_guest");
    let (made, said) = while_a_report_is_waited_for(vm, domain, process, &[0x74; 32], || {
        // Who had its device open may not be gone to the last.
        vm.sh(&format!("until modprobe -r {tdx}; do :; done")).unwrap();
        let refused = vm.run(&["/bin/sh", "-c", &other]).unwrap();
        assert!(
            !refused.success() && refused.errors().contains("busy"),
            "{}",
            refused.errors()
        );
    });
    assert!(
        !made && said.contains("outblob: cannot read: No such device or address"),
        "{said}"
    );
    vm.sh(&other).unwrap();
    let check = vm.run(&[COLLECTOR, "check", "--json"]).unwrap().text();
    assert!(
        check.contains("sev_guest makes reports; quote.by has tdx_guest"),
        "{check}"
    );
}

/// Gives the node another policy, and with the arguments other keys.
fn replace(node: &Node, arguments: &[&str], policy: &Path) {
    let mut command = node.site.cgpath(&["node", "add", NODE, "--replace"]);
    command.args(arguments).arg("--policy").arg(policy);
    host::output(command.arg("--store").arg(node.site.store())).unwrap();
}

/// The node in its new boot has a new key, which no policy accepts by itself. Gives what is said where the
/// policy accepts it, and where it is enrolled.
fn rebooted(node: &Node, domain: &Domain, old_key: &str) -> (Verdict, Verdict) {
    let Node { site, vm, .. } = node;
    let last = || site.last().unwrap().map(|round| round.id);
    let kept = last();
    let process = scenario::start_collector(vm, &node.plan).unwrap();
    until(&process, || process.log().unwrap().contains("unknown-key"));
    assert_eq!(last(), kept, "what is refused leaves nothing");
    // On its own platform, with the registers that the policy pins, each boot may have a key.
    let policy = std::fs::read_to_string(site.policy_file()).unwrap();
    let accepting = site.dir().join("policy/per-boot.yaml");
    let platform = format!("  key: per-boot\n  platforms: ['{}']\n", domain.platform);
    std::fs::write(&accepting, policy + &platform).unwrap();
    replace(node, &[], &accepting);
    let per_boot = node.next().unwrap().verdict;
    // By default the operator enrols it.
    let key = domain::node_key(vm).unwrap();
    assert_ne!(key, old_key);
    replace(node, &["--node-key", &key], &site.policy_file());
    let enrolled = node.fresh().unwrap().verdict;
    kill(&process);
    (per_boot, enrolled)
}

/// The node in its first boot, in which both sign and vouch. Gives its evidence, its verdict, and those of
/// the same evidence with one quote alone. Then somebody else extends the register.
fn beside_a_tpm(node: &Node) -> (Evidence, Verdict, [Verdict; 2]) {
    let (process, round) = node.start_collector().unwrap();
    let both = round.evidence().unwrap();
    assert!(both.quote.tpm.is_some() && both.quote.td.is_some());
    let one = [true, false].map(|keeps_tpm| with_one_quote(node, &both, keeps_tpm));
    // No evidence, and the reason by name.
    initrd(&node.vm);
    let error = evidence(&node.vm, &[9; 32]).unwrap_err();
    assert!(format!("{error:#}").contains("shared-register"), "{error:#}");
    kill(&process);
    (both, round.verdict, one)
}

/// The node boots without its TPM and is enrolled anew, by the key that its trust domain had before.
fn without_its_tpm(node: &mut Node, alone: Domain, old_key: &str) {
    let both = node.plan.domain.replace(alone.clone()).unwrap();
    node.vm.set_tpm(false);
    node.vm.reboot().unwrap();
    alone.start(&node.vm).unwrap();
    initrd(&node.vm);
    let config = node.vm.get_text(CONFIG).unwrap();
    let config = config.replace(both.config(), alone.config());
    node.vm.put(CONFIG, config.as_bytes(), 0o644).unwrap();
    let site = &node.site;
    let policy = std::fs::read_to_string(site.policy_file()).unwrap();
    let policy = policy.replace(both.anchors(), alone.anchors());
    let policy = policy.replace(&both.policy(), &alone.policy());
    std::fs::write(site.policy_file(), policy).unwrap();
    host::output(site.cgpath(&["node", "rm", NODE, "--store"]).arg(site.store())).unwrap();
    let mut command = site.cgpath(&["node", "add", NODE, "--node-key", old_key, "--policy"]);
    command.arg(site.policy_file()).arg("--store").arg(site.store());
    host::output(&mut command).unwrap();
}

/// What the verifier says of evidence from which one of both quotes was taken.
fn with_one_quote(node: &Node, both: &Evidence, keeps_tpm: bool) -> Verdict {
    let site = &node.site;
    let node_key = both.quote.td.as_ref().unwrap().node_key;
    let mut one = both.clone();
    if keeps_tpm {
        one.quote.td = None;
    } else {
        one.quote.tpm = None;
    }
    let file = site.dir().join("one.cbor");
    std::fs::write(&file, one.to_cbor()).unwrap();
    let output = site
        .cgpath(&["--json", "verify", "--dangerous-no-nonce", "--policy"])
        .arg(site.policy_file())
        .arg("--ak")
        .arg(site.key_file())
        .arg("--node-key")
        .arg(hex::encode(td::node_key_hash(&node_key)))
        .arg("--collateral")
        .arg(site.store().join("collateral/test.json"))
        .arg(&file)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn gather() -> Facts {
    let begin = Instant::now();
    let so_far = |what: &str| {
        println!(
            "TIME trust domain: {what} after {:.1} s",
            begin.elapsed().as_secs_f64()
        )
    };
    let mut domain = platform::of(Outside::measured(platform::yesterday().unwrap()));
    domain.policy += &format!("  rtmr-origin: ['sha384:{}']\n", hex::encode(origin()));
    let mut plan = Plan::new(domain::STOCK);
    plan.persistent = true;
    plan.settings = vec!["verifier.max_backoff=2".to_owned()];
    plan.domain = Some(Domain {
        beside_tpm: true,
        ..domain.clone()
    });
    let unasked = format!(
        "node = \"{NODE}\"\n[bpf]\nobject = \"{BPF_OBJECT}\"\n{}timeout = {}\n",
        domain::ALONE,
        PATIENCE.as_secs()
    );
    plan.files = vec![(UNASKED.to_owned(), unasked.into_bytes(), 0o644)];
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::boot(plan, dir.path()).unwrap();
    so_far("up");

    what_the_kernel_refuses(&node.vm);
    initrd(&node.vm);
    assert_eq!(register(&node.vm), origin());
    let check = node.vm.run(&[COLLECTOR, "check", "--json"]).unwrap();
    for row in [
        "\"id\": \"rtmr\",\n      \"state\": \"ok\"",
        "\"id\": \"td-report\",\n      \"state\": \"ok\"",
    ] {
        assert!(check.text().contains(row), "{}", check.text());
    }
    so_far("kernel and check");
    let (evidence, both, one) = beside_a_tpm(&node);
    so_far("first boot");

    let old_key = hex::encode(td::node_key_hash(&evidence.quote.td.unwrap().node_key));
    without_its_tpm(&mut node, domain.clone(), &old_key);
    so_far("up again");
    let (per_boot, enrolled) = rebooted(&node, &domain, &old_key);
    so_far("its verdicts");
    let vm = &node.vm;
    let process = collector(vm, UNASKED);
    rounds_alone(vm, &domain);
    so_far("rounds");
    let process = kills(vm, &domain, process);
    so_far("kills");
    too_long(vm, &domain);
    another_asks_in_between(vm, &domain, &process);
    another_provider(vm, &domain, &process);
    kill(&process);
    node.vm.power_off().unwrap();
    so_far("all");
    Facts {
        both,
        one,
        per_boot,
        enrolled,
    }
}

#[test]
fn a_node_without_a_tpm_anchors_each_checkpoint_once_and_its_next_boot_has_a_key_to_be_enrolled() {
    let Facts {
        both,
        per_boot,
        enrolled,
        ..
    } = &*FACTS;
    for (verdict, is_per_boot) in [(per_boot, true), (enrolled, false)] {
        assert!(verdict.trusted, "{verdict}");
        assert_eq!(
            (verdict.node.anchor.as_str(), verdict.node.boot),
            ("RTMR 3", BootAppraisal::Trusted)
        );
        assert_eq!(verdict.dangerous, ["tdx.dangerous-root"]);
        let key = is_per_boot.then(|| "tdx.key: per-boot".to_owned());
        let accepted: Vec<String> = key.into_iter().chain([origin_accepted()]).collect();
        assert_eq!(verdict.relaxations, accepted);
    }
    assert_ne!(per_boot.node.boot_id, both.node.boot_id);
    assert_eq!(enrolled.node.boot_id, per_boot.node.boot_id);
}

#[test]
fn a_node_with_a_tpm_and_a_register_is_trusted_where_the_policy_wants_both_and_not_by_one_of_them() {
    let Facts { both, one, .. } = &*FACTS;
    assert!(both.trusted, "{both}");
    assert_eq!(both.node.anchor, "PCR 10 (sha256) and RTMR 3");
    assert_eq!(
        both.dangerous,
        ["dangerous-boot-not-judged", "tdx.dangerous-root"]
    );
    assert_eq!(both.relaxations, [origin_accepted()]);
    for verdict in one {
        let lacks = |finding: &Finding| finding.rule == Rule::Quote && finding.text.contains("there is no");
        assert!(verdict.failures().any(lacks), "{verdict}");
        assert!(!verdict.node.believed);
    }
}

#[test]
fn five_pods_are_appraised_by_name_with_rtmr_3_as_the_only_anchor() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let is_soak = std::env::var_os("CGPATH_SOAK").is_some();
    appraised(&DemoOptions {
        patched: None,
        stock: domain::STOCK,
        // containerd's own start takes longer than all else here; other kernels' tests of the demo have it.
        runtime: if is_soak {
            Runtime::Containerd
        } else {
            Runtime::Bare
        },
        out: out.clone(),
        keep: false,
        quiet: false,
        // The other guest boots without a TPM; a restored one has one that nothing uses.
        restored: !is_soak,
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
