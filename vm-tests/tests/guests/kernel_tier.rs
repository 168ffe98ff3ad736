//! The patched kernel in a guest: what its entries say, and that everything downstream reads them.
//!
//! Run by `cargo xtask test --step kernel`, which builds the kernel and names its directory in
//! `CGPATH_KERNEL`. Where that is absent the tests fail: there is nothing to say about a kernel that is not
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgpath_evidence::list::{Decoder, ListEntry};
use cgpath_evidence::{
    Ancestor, Bank, Entry, EventKind, Evidence, PartitionKey, PodUid, Provenance, Record, SealedCheckpoint,
    Tier,
};
use vm_protocol::spec::{Burst, ChainLink, Workload};
use vm_tests::demo;
use vm_tests::kernel::{self, Kernel};
use vm_tests::lists::{self, LISTS};
use vm_tests::pods::Runtime;
use vm_tests::scenario::{Node, Plan, Round, TAGGED_IMA, WORKLOADS};
use vm_tests::{Stock, Vm, host};

const SELFTEST: &str = "/usr/lib/ima-cgpath/selftest";

const POD_1: &str = "11111111-0000-4000-8000-000000000001";
const POD_2: &str = "22222222-0000-4000-8000-000000000002";
const POD_3: &str = "33333333-0000-4000-8000-000000000003";

/// The kernel's directory.
fn built() -> Result<(PathBuf, Kernel)> {
    let dir = std::env::var_os("CGPATH_KERNEL")
        .context("CGPATH_KERNEL names no kernel; hint: cargo xtask test --step kernel")?;
    let dir = PathBuf::from(dir);
    let kernel = kernel::built(&dir)?;
    Ok((dir, kernel))
}

fn container(n: usize) -> String {
    format!("{n:x}").repeat(64).chars().take(64).collect()
}

/// Groups as the runtimes and drivers name them, nested, and with names that have to be escaped.
fn groups() -> Vec<String> {
    let systemd = |uid: &str| uid.replace('-', "_");
    vec![
        WORKLOADS.to_owned(),
        format!("/kubepods/burstable/pod{POD_1}/{}", container(1)),
        format!(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/cri-containerd-{}.scope",
            systemd(POD_2),
            container(2)
        ),
        format!("/kubepods/pod{POD_3}/{}", container(3)),
        format!("/kubepods/pod{POD_3}/{}/init.scope/a/b/c/d", container(3)),
        format!("/kubepods/pod{POD_3}/{}/a b:c\\d\u{e9}", container(3)),
        "/user.slice/user-0.slice/a_b".to_owned(),
        "/plain/docker-0123456789ab.scope".to_owned(),
    ]
}

/// As the fields of the template are escaped: written here anew, from the documentation of the patches.
fn escaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in text {
        if byte.is_ascii_graphic() && byte != b':' && byte != b'\\' {
            out.push(byte);
        } else {
            out.extend(format!("\\{byte:03o}").into_bytes());
        }
    }
    out
}

fn cgpath(arguments: &[&str], file: &Path) -> Result<(Option<i32>, serde_json::Value)> {
    let mut command = Command::new(host::built_binary("cgpath")?);
    let output = command.args(arguments).arg(file).arg("--json").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cgpath {arguments:?} said: {said}"))?;
    Ok((output.status.code(), answer))
}

/// One entry: template, dep, cg-path, name.
#[derive(Debug, Clone)]
struct Line {
    template: String,
    dep: String,
    cgroup: String,
    name: String,
}

/// What one boot without the collector gives.
struct Alone {
    banks: BTreeMap<String, (String, serde_json::Value, Option<i32>)>,
    partition: serde_json::Value,
    lines: Vec<Line>,
    ran: Vec<(String, String)>,
    selftest: String,
    selftest_code: Option<i32>,
    with_rules: Vec<Line>,
    rules_replay: (Option<i32>, serde_json::Value),
    at_rest: (BTreeMap<String, String>, Vec<u8>),
}

/// Of the binary list: in the ASCII one a name with a newline would break its line.
fn lines(vm: &Vm) -> Result<Vec<Line>> {
    let mut decoder = Decoder::auto();
    decoder.feed(&vm.get(&format!("{LISTS}/binary_runtime_measurements"))?);
    decoder.end();
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let mut lines = Vec::new();
    while let Some(entry) = decoder.next_entry()? {
        lines.push(Line {
            template: text(Some(entry.template_name())),
            dep: text(entry.dep()),
            cgroup: text(entry.cgroup_path()),
            name: text(entry.file_name()),
        });
    }
    Ok(lines)
}

/// The register and, in a file, the list that belong together.
fn register_and_list(vm: &Vm, bank: &str, dir: &Path) -> Result<(String, PathBuf)> {
    let (register, list) = lists::at_rest(vm, bank)?;
    let file = dir.join(format!("list-{bank}"));
    std::fs::write(&file, list)?;
    Ok((register, file))
}

/// The registers of both banks, and the list that belongs to both.
fn registers_and_list(vm: &Vm) -> Result<(BTreeMap<String, String>, Vec<u8>)> {
    let registers = || -> Result<BTreeMap<String, String>> {
        let of = |bank: &str| vm.get_text(&format!("/sys/class/tpm/tpm0/pcr-{bank}/10"));
        let both = ["sha1", "sha256"].into_iter();
        both.map(|bank| Ok((bank.to_owned(), of(bank)?.trim().to_lowercase())))
            .collect()
    };
    let begin = Instant::now();
    loop {
        let before = registers()?;
        let list = vm.get(&format!("{LISTS}/binary_runtime_measurements"))?;
        if registers()? == before {
            return Ok((before, list));
        }
        ensure!(
            begin.elapsed() < Duration::from_secs(60),
            "the list does not come to rest"
        );
    }
}

/// Whether evmctl says that a list belongs to these registers, and its words.
fn evmctl(registers: &BTreeMap<String, String>, list: &[u8]) -> Result<(bool, String)> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(host::tool("evmctl", "ima-evm-utils")?);
    command.arg("ima_measurement");
    for (bank, value) in registers {
        let zeros = "0".repeat(value.len());
        let lines: String = (0..24)
            .map(|pcr| format!("PCR-{pcr:02}:{}\n", if pcr == 10 { value } else { &zeros }))
            .collect();
        let path = dir.path().join(bank);
        std::fs::write(&path, lines)?;
        command.arg("--pcrs").arg(format!("{bank},{}", path.display()));
    }
    let path = dir.path().join("list");
    std::fs::write(&path, list)?;
    let output = command.arg(&path).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn gather_alone() -> Result<Alone> {
    let begin = Instant::now();
    let (dir, kernel) = built()?;
    let scratch = tempfile::tempdir()?;
    let vm = Vm::builder(Stock::V6_12)
        .kernel(kernel)
        .ima(TAGGED_IMA)
        .file(SELFTEST, dir.join("selftest/cgpath"), 0o755)
        .start()?;
    println!(
        "TIME Linux {} was up after {:.1} s",
        vm.hello().kernel,
        vm.boot_time().as_secs_f64()
    );
    ensure!(
        vm.hello().failures.is_empty(),
        "init: {}",
        vm.hello().failures.join("; ")
    );
    // A program of its own for each group: the same file again would leave no entry.
    let mut ran = Vec::new();
    for (index, group) in groups().into_iter().enumerate() {
        let path = format!("/var/tmp/program-{index}");
        let script = format!("cp /bin/true {path}; echo {index} >>{path}");
        vm.sh(&script)?;
        vm.command(&["/bin/sh", "-c", &format!("{path}; true")])
            .cgroup(&group)
            .run()?
            .check()?;
        ran.push((group, path));
    }
    vm.sh("mkdir -p /var/tmp/selftest")?;
    let output = vm
        .command(&[SELFTEST])
        .cwd("/var/tmp/selftest")
        .timeout(Duration::from_secs(240))
        .run()?;
    let mut banks = BTreeMap::new();
    for bank in ["sha1", "sha256"] {
        let (register, list) = register_and_list(&vm, bank, scratch.path())?;
        let (code, replay) = cgpath(&["log", "replay"], &list)?;
        banks.insert(bank.to_owned(), (register, replay, code));
    }
    let list = scratch.path().join("list-sha256");
    let (_, partition) = cgpath(&["log", "partition"], &list)?;
    let facts = lines(&vm)?;
    let at_rest = registers_and_list(&vm)?;
    // Templates by rule: the list goes on with both.
    let rules = "measure func=BPRM_CHECK template=ima-ng\n\
        measure func=MMAP_CHECK mask=MAY_EXEC template=ima-cgpath\n";
    vm.put("/etc/ima/by-rule", rules.as_bytes(), 0o600)?;
    vm.sh(
        "echo /etc/ima/by-rule > /sys/kernel/security/ima/policy; cp /bin/true /var/tmp/by-rule; echo x \
        >>/var/tmp/by-rule; cp /lib/x86_64-linux-gnu/libc.so.6 /var/tmp/lib; echo x >>/var/tmp/lib; \
        LD_PRELOAD=/var/tmp/lib /var/tmp/by-rule || true",
    )?;
    let with_rules = lines(&vm)?.split_off(facts.len());
    let (register, list) = register_and_list(&vm, "sha256", scratch.path())?;
    let (code, mut replay) = cgpath(&["log", "replay"], &list)?;
    replay["register"] = register.into();
    vm.power_off()?;
    println!("TIME kernel tier alone: {:.1} s", begin.elapsed().as_secs_f64());
    Ok(Alone {
        banks,
        partition,
        lines: facts,
        ran,
        selftest: output.text(),
        selftest_code: output.code(),
        with_rules,
        rules_replay: (code, replay),
        at_rest,
    })
}

fn alone() -> &'static Alone {
    static FACTS: OnceLock<Result<Alone>> = OnceLock::new();
    let facts = FACTS.get_or_init(gather_alone);
    facts.as_ref().unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn every_entry_has_the_template_that_was_asked_for_at_boot() {
    let others: Vec<_> = alone()
        .lines
        .iter()
        .filter(|line| line.template != "ima-cgpath")
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(alone().lines.len() > 20, "only {} entries", alone().lines.len());
}

#[test]
fn each_program_is_tagged_with_the_group_that_it_ran_in() {
    for (group, path) in &alone().ran {
        let found: Vec<_> = alone().lines.iter().filter(|line| line.name == *path).collect();
        assert_eq!(found.len(), 1, "entries of {path}");
        assert_eq!(
            found[0].cgroup.as_bytes(),
            escaped(group.as_bytes()),
            "group of {path}"
        );
        // A child of the shell executes it; above the shell are the channel's server and init.
        assert!(
            found[0]
                .dep
                .starts_with("/usr/bin/dash:/usr/bin/dash:/usr/sbin/guest:")
                && found[0].dep.ends_with("/usr/sbin/guest:swapper/0"),
            "{}",
            found[0].dep
        );
    }
}

#[test]
fn the_list_replays_to_the_register_in_each_bank() {
    for (bank, (register, replay, code)) in &alone().banks {
        assert_eq!(*code, Some(0), "{replay}");
        assert_eq!(
            replay["pcrs"]["10"][bank].as_str(),
            Some(register.as_str()),
            "{bank}"
        );
        assert_eq!(replay["mismatches"], serde_json::json!([]));
    }
}

#[test]
fn evmctl_finds_the_registers_in_the_list_and_no_others() {
    let (registers, list) = &alone().at_rest;
    let (matches, said) = evmctl(registers, list).unwrap();
    assert!(matches, "{said}");
    let last = |text: &str| if text.ends_with('0') { '1' } else { '0' };
    let others = registers
        .iter()
        .map(|(bank, value)| {
            let other = format!("{}{}", &value[..value.len() - 1], last(value));
            (bank.clone(), other)
        })
        .collect();
    let (matches, said) = evmctl(&others, list).unwrap();
    assert!(!matches, "{said}");
}

#[test]
fn the_pods_are_found_in_the_list() {
    let pods = alone().partition["pods"].as_object().unwrap();
    let found: BTreeSet<&str> = pods.keys().map(String::as_str).collect();
    assert_eq!(found, BTreeSet::from([POD_1, POD_2, POD_3]));
    assert_eq!(alone().partition["unattributed"], 0);
    let tagged = |uid: &str| {
        let with_underscores = uid.replace('-', "_");
        let of_pod = |line: &&Line| line.cgroup.contains(uid) || line.cgroup.contains(&with_underscores);
        alone().lines.iter().filter(of_pod).count()
    };
    for uid in [POD_1, POD_2, POD_3] {
        assert_eq!(pods[uid].as_u64(), Some(tagged(uid) as u64), "{uid}");
    }
}

#[test]
fn the_self_test_of_the_series_passes_with_nothing_skipped() {
    let text = &alone().selftest;
    println!("{text}");
    assert_eq!(alone().selftest_code, Some(0), "{text}");
    assert!(
        text.contains("pass:8 fail:0 xfail:0 xpass:0 skip:0 error:0"),
        "{text}"
    );
}

#[test]
fn a_rule_chooses_the_template_of_its_entries() {
    let of = |name: &str| -> Vec<&str> {
        let named = alone().with_rules.iter().filter(|line| line.name == name);
        named.map(|line| line.template.as_str()).collect()
    };
    assert_eq!(of("/var/tmp/by-rule"), ["ima-ng"], "{:?}", alone().with_rules);
    assert_eq!(of("/var/tmp/lib"), ["ima-cgpath"], "{:?}", alone().with_rules);
    let (code, replay) = &alone().rules_replay;
    assert_eq!(*code, Some(0), "{replay}");
    assert_eq!(replay["pcrs"]["10"]["sha256"], replay["register"]);
}

/// What one boot with both tiers gives.
struct Both {
    evidence: Evidence,
    burst: Burst,
    chain: Vec<ChainLink>,
    round: Round,
    groups: Vec<String>,
    /// What running [`PAYLOAD`] in the groups of two pods printed.
    by_format: [String; 2],
}

/// A file that only a format of binfmt_misc makes executable. Stock kernels have that as a module, which
/// guests lack; this one has it built in.
const PAYLOAD: &str = "/var/tmp/payload.cgpath";
const PAYLOADS_CONTENT: &str = "what binfmt_misc runs\n";
const INTERPRETER: &str = "/usr/bin/cat";

/// Executions that are compared; the soak run asks for 10,000.
fn executions() -> Result<u32> {
    match std::env::var("CGPATH_EXECUTIONS") {
        Ok(text) => text.parse().context("CGPATH_EXECUTIONS is not a number"),
        Err(_) => Ok(320),
    }
}

fn gather_both() -> Result<Both> {
    let begin = Instant::now();
    let (_, kernel) = built()?;
    let dir = tempfile::tempdir()?;
    let mut plan = Plan::new(Stock::V6_12);
    plan.patched = Some(kernel);
    let node = Node::boot(plan, dir.path())?;
    let (_collector, _) = node.start_collector()?;
    let chain = node.work(&Workload::Chain {
        dir: "/var/tmp/chain".to_owned(),
    })?;
    let groups = groups();
    let burst = node.work(&Workload::Burst {
        dir: "/var/tmp/burst".to_owned(),
        count: executions()?,
        cgroups: groups.clone(),
    })?;
    node.vm.put(PAYLOAD, PAYLOADS_CONTENT.as_bytes(), 0o755)?;
    // As any user can, in a user namespace.
    let register_and_run = format!(
        "mkdir -p /var/tmp/formats && mount -t binfmt_misc none /var/tmp/formats
         echo ':cgpath:E::cgpath::{INTERPRETER}:' > /var/tmp/formats/register && {PAYLOAD}"
    );
    let by_format = |group: &str| -> Result<String> {
        let unshare = ["unshare", "--user", "--map-root-user", "--mount"];
        let command = [unshare.as_slice(), &["sh", "-c", &register_and_run]].concat();
        Ok(node.vm.command(&command).cgroup(group).run()?.check()?.text())
    };
    let by_format = [by_format(&groups[1])?, by_format(&groups[3])?];
    let round = node.fresh()?;
    let both = Both {
        evidence: round.evidence()?,
        by_format,
        round,
        burst,
        chain,
        groups,
    };
    node.vm.power_off()?;
    println!("TIME both tiers: {:.1} s", begin.elapsed().as_secs_f64());
    Ok(both)
}

fn both() -> &'static Both {
    static FACTS: OnceLock<Result<Both>> = OnceLock::new();
    let facts = FACTS.get_or_init(gather_both);
    facts.as_ref().unwrap_or_else(|error| panic!("{error:#}"))
}

/// A pair that describes one measurement: the kernel's entry, and the record of our eBPF program.
struct Pair<'a> {
    name: String,
    dep: Vec<u8>,
    cgroup: Vec<u8>,
    record: &'a Record,
}

fn pairs() -> Vec<Pair<'static>> {
    let both = both();
    let mut records: BTreeMap<Vec<u8>, &Record> = BTreeMap::new();
    for record in both.evidence.partitions.iter().flat_map(|log| &log.records) {
        if record.kind == EventKind::Entry && record.ret == 0 {
            let digest = record.digests.iter().find(|digest| digest.bank() == Bank::Sha256);
            records.insert(digest.unwrap().bytes().to_vec(), record);
        }
    }
    let last = SealedCheckpoint::from_file(both.evidence.checkpoints.last().unwrap()).unwrap();
    let mut pairs = Vec::new();
    for (index, entry) in both.evidence.list.iter().enumerate() {
        let Entry::Full(bytes) = entry else {
            panic!("entry {index} is redacted")
        };
        let entry = ListEntry::from_canonical(index as u64, bytes.as_slice()).unwrap();
        if (index as u64) < last.checkpoint.boot_len || entry.is_violation() {
            continue;
        }
        let Some(record) = records.get(entry.template_digest(Bank::Sha256).bytes()) else {
            assert!(
                index as u64 >= last.checkpoint.settled,
                "entry {index} is settled and has no record"
            );
            continue;
        };
        pairs.push(Pair {
            name: String::from_utf8_lossy(entry.file_name().unwrap_or_default()).into_owned(),
            dep: entry.dep().unwrap().to_vec(),
            cgroup: entry.cgroup_path().unwrap().to_vec(),
            record,
        });
    }
    pairs
}

#[test]
fn nothing_is_lost_while_both_tiers_run() {
    assert_eq!(both().round.verdict.node.lost, 0);
    let names: BTreeSet<String> = pairs().into_iter().map(|pair| pair.name).collect();
    let missing: Vec<_> = both()
        .burst
        .runs
        .iter()
        .filter(|run| !names.contains(&run.path))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(!both().chain.is_empty());
}

#[test]
fn the_verifier_appraises_by_the_tags_and_says_attested() {
    let round = &both().round;
    assert_eq!(round.verdict.node.tier, Tier::Kernel);
    // The pods are in no policy, which the verdict says; nothing is wrong with the evidence.
    assert_eq!(round.broken(), Vec::<String>::new());
    assert_eq!(round.verdict.pods.len(), 3);
    for pod in &round.verdict.pods {
        assert_eq!(pod.provenance, Provenance::Attested, "{}", pod.uid);
    }
}

/// The kernel measures the file, then goes on with the interpreter, which alone is known by its execution.
#[test]
fn limit_a_file_that_binfmt_misc_runs_is_measured_once_and_then_shows_as_its_interpreter_alone() {
    let both = both();
    assert_eq!(both.by_format, [PAYLOADS_CONTENT, PAYLOADS_CONTENT]);
    let seen = [POD_1, POD_3].map(|uid| {
        let pod = PartitionKey::Pod(PodUid::parse(uid.as_bytes()).unwrap());
        let records = both.evidence.records(pod);
        let kinds = |path: &str| -> Vec<EventKind> {
            let of_file = records.iter().filter(|r| r.path == path.as_bytes());
            of_file.map(|r| r.kind).collect()
        };
        let interpreted = kinds(INTERPRETER).contains(&EventKind::Execution);
        (kinds(PAYLOAD), interpreted)
    });
    assert_eq!(seen, [(vec![EventKind::Entry], true), (Vec::new(), true)]);
}

#[test]
fn the_demo_tells_the_same_story_with_the_patched_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let options = demo::DemoOptions {
        stock: Stock::V6_12,
        patched: Some(built().unwrap().1),
        runtime: Runtime::Containerd,
        out: dir.path().join("demo"),
        keep: false,
        quiet: true,
        restored: false,
        domain: None,
    };
    let outcome = demo::run(&options).unwrap();
    assert!(outcome.ok, "{}", demo::table(&outcome));
}

#[test]
fn both_tiers_name_the_same_group_for_every_entry() {
    let pairs = pairs();
    let mut seen = BTreeSet::new();
    for pair in &pairs {
        let recorded = pair.record.cgroup.as_deref().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&pair.cgroup),
            String::from_utf8_lossy(&escaped(recorded)),
            "{}",
            pair.name
        );
        seen.insert(recorded.to_vec());
    }
    for group in &both().groups {
        assert!(seen.contains(group.as_bytes()), "no entry from {group}");
    }
    println!("AGREE {} entries, {} groups", pairs.len(), seen.len());
}

#[test]
fn both_tiers_name_the_same_ancestry_for_every_entry() {
    let pairs = pairs();
    let mut without_executable = 0;
    for pair in &pairs {
        let shown: Vec<&[u8]> = pair.dep.split(|&byte| byte == b':').collect();
        let recorded: &[Ancestor] = &pair.record.ancestry;
        let dep = String::from_utf8_lossy(&pair.dep);
        let end: &[u8] = if pair.record.ancestry_cut {
            b"\\..."
        } else {
            b"swapper/0"
        };
        assert_eq!(*shown.last().unwrap(), end, "{}: {dep}", pair.name);
        assert_eq!(
            shown.len(),
            recorded.len() + 1,
            "{}: {dep}; {recorded:?}",
            pair.name
        );
        for (shown, ancestor) in shown.iter().zip(recorded) {
            if ancestor.exe.is_empty() {
                // Kernel threads: the kernel shows their comm, which is no path.
                without_executable += 1;
                assert!(!shown.starts_with(b"/"), "{}: {dep}", pair.name);
            } else {
                assert_eq!(
                    String::from_utf8_lossy(shown),
                    String::from_utf8_lossy(&escaped(&ancestor.exe)),
                    "{}: {dep}; {recorded:?}",
                    pair.name
                );
            }
        }
    }
    println!(
        "AGREE {} ancestries, {without_executable} kernel threads in them",
        pairs.len()
    );
    assert!(pairs.len() as u64 >= u64::from(executions().unwrap()));
}
