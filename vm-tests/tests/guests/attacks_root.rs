//! What host root can try, tried in one guest, one thing after the other; what each set off in the verdict is
//! kept, and each test reads what became of one of them. A kexec has a guest of its own. Attacks on the eBPF
//! programs themselves are in `guard.rs`.

use anyhow::{Context as _, Result, ensure};
use cgpath_appraisal::{Finding, Rule, State};
use cgpath_evidence::{
    Bank, Checkpoint, EventKind, FileHash, Loaded, PartitionKey, Record, SealedCheckpoint,
};
use p256::ecdsa::SigningKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use vm_protocol::spec::Workload;
use vm_tests::scenario::{self, COLLECTOR, COLLECTOR_LOG, NODE, Node, Plan, Round};
use vm_tests::{PATIENCE, Stock, host, kernel};

const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// The kernel's own module that the reference values of the root file system hold.
const GOOD_MODULE: &str = "dummy";
const EVIL_MODULE: &str = "/var/tmp/evil.ko";
/// Modules as the kernel is handed them: a known one, and the same with a byte more.
const GOOD_BYTES: &str = "/var/tmp/good-bytes";
const EVIL_BYTES: &str = "/var/tmp/evil-bytes";
/// Where a pod's processes are that no policy knows.
const POD: &str = "/kubepods/pod3e4bd4c5-9d2c-4e6f-8a55-2f0b7c1d9e01/0f";
const EVIL_POLICY: &str = "/var/tmp/other-policy";
const EVIL_COLLECTOR: &str = "/usr/local/sbin/other-collector";
/// Where a program reads itself, and what the other one reads in its place: as many bytes.
const OWN: &str = "/proc/self/exe";
const TAKEN_FOR_OWN: &str = "/var/tmp/goodx";
const CHECKPOINTS: &str = "/run/ima-cgpath/checkpoint";

/// What one attack led to.
struct Seen {
    /// Findings that fail and had not failed before.
    new: Vec<Finding>,
    /// The node's state afterwards.
    node: State,
    /// What the attacker's own command said.
    said: String,
}

struct Facts {
    seen: BTreeMap<&'static str, Seen>,
    stale: bool,
    stale_before: bool,
    /// What the kernel was handed as bytes.
    loads: Vec<(PartitionKey, Record)>,
    /// Digests of [`GOOD_BYTES`] and [`EVIL_BYTES`].
    bytes: [String; 2],
    /// How a collector ended that was started after its programs were gone.
    refusals: Vec<String>,
}

struct Story<'a> {
    node: &'a Node,
    known: BTreeSet<String>,
    seen: BTreeMap<&'static str, Seen>,
}

impl Story<'_> {
    /// Takes a fresh round and keeps what it says that the round before did not.
    fn after(&mut self, attack: &'static str, said: String) -> Result<Round> {
        let round = self
            .node
            .fresh()
            .with_context(|| format!("attesting after {attack}"))?;
        let new: Vec<Finding> = round
            .verdict
            .failures()
            .filter(|f| self.known.insert(f.to_string()))
            .cloned()
            .collect();
        let seen = Seen {
            new,
            node: round.verdict.node.state,
            said,
        };
        println!(
            "{attack}: node {}, {} new findings; {}",
            seen.node,
            seen.new.len(),
            seen.said.trim()
        );
        for finding in &seen.new {
            println!("    {finding}");
        }
        self.seen.insert(attack, seen);
        Ok(round)
    }
}

/// The next checkpoint, signed with the chain's own key: root can read it.
fn forged(node: &Node, round: &Round) -> Result<(u64, Vec<u8>)> {
    let dir = "/run/ima-cgpath/state";
    let name = node.vm.sh(&format!("ls {dir}"))?;
    let key = name
        .lines()
        .find_map(|name| SigningKey::from_slice(&node.vm.get(&format!("{dir}/{name}")).ok()?).ok())
        .with_context(|| format!("no key in {dir}: {name}"))?;
    let evidence = round.evidence()?;
    let last = SealedCheckpoint::from_file(evidence.checkpoints.last().context("no checkpoint")?)?;
    let number = last.checkpoint.number + 40;
    let next = Checkpoint {
        number,
        previous: last.digest(),
        nonce_hash: None,
        ..last.checkpoint
    };
    Ok((number, SealedCheckpoint::seal(next, &key).file))
}

fn is_stale(node: &Node) -> Result<bool> {
    #[derive(serde::Deserialize)]
    struct Summary {
        name: String,
        stale: bool,
    }
    let nodes: Vec<Summary> = node.site.client().get("/v1/nodes")?.json()?;
    let found = nodes.into_iter().find(|n| n.name == NODE);
    Ok(found.context("the verifier does not know the node")?.stale)
}

/// Whether the verdict comes to be stale, or to be fresh.
fn comes_to_be(node: &Node, stale: bool) -> Result<bool> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if is_stale(node)? == stale {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(false)
}

/// A script that unloads the known module and unpacks its file, `$f`, to `path`.
fn unpacking(path: &str) -> String {
    format!(
        "rmmod {GOOD_MODULE}; f=$(modinfo -n {GOOD_MODULE}); \
         case $f in *.xz) busybox unxz -c $f;; *) cat $f;; esac > {path}"
    )
}

fn gather() -> Result<Facts> {
    let begin = Instant::now();
    let dir = tempfile::tempdir()?;
    let node = Node::boot(Plan::restored(Stock::V6_12), dir.path())?;
    let (collector, _) = node.start_collector()?;
    let mut story = Story {
        node: &node,
        known: BTreeSet::new(),
        seen: BTreeMap::new(),
    };
    let first = story.after("nothing", String::new())?;
    ensure!(
        first.verdict.trusted,
        "not trusted before anything happened:\n{}",
        first.verdict
    );

    // A shell that runs accepted programs and reads what to do from a file: here it takes the checkpoint key.
    let script = "cat /run/ima-cgpath/state/* > /var/tmp/stolen\nwc -c < /var/tmp/stolen\n";
    node.vm.put("/var/tmp/steal.sh", script.as_bytes(), 0o600)?;
    let said = node.vm.sh("/bin/sh /var/tmp/steal.sh")?;
    story.after("accepted programs", said)?;

    // On a busy machine a round may take longer than a verdict stays fresh.
    let stale_before = !comes_to_be(&node, false)?;
    collector.signal(SIGSTOP)?;
    let stale = comes_to_be(&node, true)?;
    collector.signal(SIGCONT)?;
    story.after("stopped", String::new())?;

    let said = node
        .vm
        .sh(&format!("modprobe {GOOD_MODULE} && lsmod | grep {GOOD_MODULE}"))?;
    story.after("good module", said)?;
    // The same module with a byte behind its signature: the kernel takes it as one that is not signed.
    let said = node.vm.sh(&format!(
        "{}; echo >> {EVIL_MODULE}; insmod {EVIL_MODULE} && lsmod | grep {GOOD_MODULE}",
        unpacking(EVIL_MODULE)
    ))?;
    story.after("evil module", said)?;

    // As bytes: the kernel reads no file.
    let said = node.vm.sh(&format!(
        "{}; cp {GOOD_BYTES} {EVIL_BYTES}; echo >> {EVIL_BYTES}; echo $f",
        unpacking(GOOD_BYTES)
    ))?;
    let digest = |path: &str| -> Result<String> { Ok(Bank::Sha256.hash(&[&node.vm.get(path)?]).to_string()) };
    let bytes = [digest(GOOD_BYTES)?, digest(EVIL_BYTES)?];
    let insert = |module: &str, cgroup: &str| -> Result<String> {
        let module = module.to_owned();
        let text = serde_json::to_string(&Workload::InsertBytes { module })?;
        let command = node.vm.command(&["guest", "workload", text.as_str()]);
        command.cgroup(cgroup).run()?.check()?;
        node.vm
            .sh(&format!("lsmod | grep {GOOD_MODULE} && rmmod {GOOD_MODULE}"))
    };
    let said = format!("{said}{}", insert(GOOD_BYTES, scenario::WORKLOADS)?);
    story.after("good bytes", said)?;
    let said = insert(EVIL_BYTES, scenario::WORKLOADS)?;
    story.after("evil bytes", said)?;
    let said = insert(EVIL_BYTES, POD)?;
    story.after("evil bytes by a pod", said)?;
    node.work::<()>(&Workload::KexecBytes)?;
    let round = story.after("kexec bytes", String::new())?;
    let partitions = round.evidence()?.partitions;
    let all = partitions.into_iter().flat_map(|log| {
        let key = log.key;
        log.records.into_iter().map(move |record| (key, record))
    });
    let loads: Vec<_> = all.filter(|(_, record)| record.kind == EventKind::Load).collect();

    node.vm.put(EVIL_POLICY, b"measure func=BPRM_CHECK\n", 0o644)?;
    let output = node.vm.run(&[
        "sh",
        "-c",
        &format!("echo {EVIL_POLICY} > /sys/kernel/security/ima/policy"),
    ])?;
    story.after("policy", format!("{:?} {}", output.code(), output.errors()))?;

    let before = node.fresh()?;
    let (number, file) = forged(&node, &before)?;
    let path = format!("{CHECKPOINTS}/{number}");
    let written = node.vm.put(&path, &file, 0o600);
    let said = match &written {
        Ok(()) => node.vm.sh(&format!("cat {path} | wc -c"))?,
        Err(error) => format!("{error:#}"),
    };
    written?;
    story.after("stolen key", said)?;

    // Another binary that does what ours does, with the same key and pins. By itself it would end: the
    // journal counts another program. So it takes the collector's file for its own.
    collector.signal(SIGKILL)?;
    collector.ended()?;
    node.vm.sh(&format!(
        "cp {COLLECTOR} {EVIL_COLLECTOR} && ln -s {COLLECTOR} {TAKEN_FOR_OWN}"
    ))?;
    for at in places_of_own()? {
        node.vm.sh(&format!(
            "printf %s {TAKEN_FOR_OWN} | dd of={EVIL_COLLECTOR} bs=1 seek={at} conv=notrunc 2>/dev/null"
        ))?;
    }
    let other = node
        .vm
        .command(&[EVIL_COLLECTOR, "run"])
        .cgroup("/system.slice/cgpathd.service")
        .spawn("/var/log/other.log")?;
    story.after("other collector", String::new())?;

    // Unloaded, something run that is known and something that is not, loaded again.
    other.signal(SIGKILL)?;
    other.ended()?;
    let said = node.vm.sh(
        "rm -r /sys/fs/bpf/ima-cgpath && /usr/bin/true && cp /usr/bin/true /var/tmp/unseen && echo >> \
         /var/tmp/unseen && /var/tmp/unseen",
    )?;
    // As its unit does: once more, whatever came of the first time. Nothing is left that the second start
    // could take over.
    let mut refusals = Vec::new();
    for _ in 0..2 {
        let again = scenario::start_collector(&node.vm, &node.plan)?;
        let ended = again.ended()?;
        let log = node.vm.get_text(COLLECTOR_LOG)?;
        let pins = node.vm.sh("ls -A /sys/fs/bpf/ima-cgpath 2>/dev/null || :")?;
        let refusal = format!("{:?} {said} pins [{pins}] {}", ended.code, host::tail(&log, 3));
        println!("unloaded: {refusal}");
        refusals.push(refusal);
    }
    let seen = story.seen;
    println!(
        "TIME attacks of host root: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    Ok(Facts {
        seen,
        loads,
        bytes,
        stale,
        stale_before,
        refusals,
    })
}

/// Where the collector's file has [`OWN`], in bytes from its beginning.
fn places_of_own() -> Result<Vec<usize>> {
    assert_eq!(OWN.len(), TAKEN_FOR_OWN.len());
    let program = std::fs::read(host::stripped(&host::built_binary("cgpathd")?)?)?;
    let all = program.windows(OWN.len()).enumerate();
    let places: Vec<usize> = all
        .filter(|(_, bytes)| *bytes == OWN.as_bytes())
        .map(|(at, _)| at)
        .collect();
    ensure!(!places.is_empty(), "the collector's file has no {OWN}");
    Ok(places)
}

/// Gathered once; what went wrong then is reported to every test.
fn facts() -> &'static Facts {
    static FACTS: OnceLock<Result<Facts>> = OnceLock::new();
    FACTS
        .get_or_init(gather)
        .as_ref()
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// The findings that an attack set off, which name this path.
fn naming(attack: &str, path: &str) -> Vec<&'static Finding> {
    let seen = &facts().seen[attack];
    let found: Vec<_> = seen
        .new
        .iter()
        .filter(|f| f.path.as_deref() == Some(path.as_bytes()) || f.to_string().contains(path))
        .collect();
    assert!(
        !found.is_empty(),
        "{attack}: nothing names {path}: {:?}",
        seen.new
    );
    found
}

#[test]
fn a_collector_that_is_stopped_shows_as_a_stale_verdict_and_nothing_is_lost() {
    assert!(!facts().stale_before && facts().stale);
    let seen = &facts().seen["stopped"];
    assert!(
        seen.new.is_empty() && seen.node == State::Trusted,
        "{:?}",
        seen.new
    );
}

#[test]
fn limit_host_root_with_accepted_programs_alone_is_not_seen() {
    let seen = &facts().seen["accepted programs"];
    let taken: usize = seen.said.trim().parse().unwrap();
    assert!(taken > 0, "the key was not taken: the test shows nothing");
    assert!(
        seen.new.is_empty() && seen.node == State::Trusted,
        "{:?}",
        seen.new
    );
}

#[test]
fn a_module_of_the_reference_values_is_accepted_and_another_makes_the_node_untrusted_by_its_path() {
    let good = &facts().seen["good module"];
    assert!(good.said.contains(GOOD_MODULE));
    assert!(
        good.new.is_empty() && good.node == State::Trusted,
        "{:?}",
        good.new
    );
    assert!(
        facts().seen["evil module"].said.contains(GOOD_MODULE),
        "it was not loaded"
    );
    naming("evil module", EVIL_MODULE);
    assert_eq!(facts().seen["evil module"].node, State::Untrusted);
}

/// How often the kernel was handed a module with this hash, by this partition.
fn handed(key: PartitionKey, digest: &str) -> usize {
    let is_it = |(of, record): &&(PartitionKey, Record)| {
        let load = record.load.as_deref().map(|load| load.what);
        let hash = matches!(&record.hash, Some(FileHash::Measured(found)) if found.to_string() == digest);
        *of == key && load == Some(Loaded::Module) && hash
    };
    facts().loads.iter().filter(is_it).count()
}

#[test]
fn a_module_that_is_handed_over_as_bytes_is_recorded_with_its_hash_and_judged_by_that_alone() {
    let [good, evil] = &facts().bytes;
    let seen = &facts().seen["good bytes"];
    assert!(seen.said.contains(GOOD_MODULE), "it was not loaded");
    assert!(seen.new.is_empty(), "{:?}", seen.new);
    // Where modules are packed and the kernel does not unpack them, modprobe did the same before.
    let is_packed = seen.said.lines().any(|line| line.ends_with(".xz"));
    assert!(
        handed(PartitionKey::Host, good) > usize::from(is_packed),
        "{:?}",
        facts().loads
    );
    assert_eq!(handed(PartitionKey::Host, evil), 1);
    // The same name, and another content.
    for (attack, by) in [("evil bytes", "by host"), ("evil bytes by a pod", "by 3e4bd4c5-")] {
        assert!(
            facts().seen[attack].said.contains(GOOD_MODULE),
            "it was not loaded"
        );
        let new = &facts().seen[attack].new;
        let named = |f: &&Finding| {
            let found = f.found.as_deref().unwrap_or_default();
            f.rule == Rule::Host && found.contains(evil) && found.contains(by)
        };
        assert_eq!(new.iter().filter(named).count(), 1, "{new:?}");
    }
}

#[test]
fn a_kernel_that_is_handed_over_as_bytes_makes_the_node_untrusted() {
    let new = &facts().seen["kexec bytes"].new;
    assert!(
        new.iter().any(|f| f.to_string().contains("kexec_load")),
        "{new:?}"
    );
    assert_eq!(facts().seen["kexec bytes"].node, State::Untrusted);
    let is_kernel = |(_, record): &&(PartitionKey, Record)| {
        let load = record.load.as_deref();
        load.is_some_and(|load| load.what == Loaded::Kexec && load.size == 0)
    };
    assert_eq!(facts().loads.iter().filter(is_kernel).count(), 1);
}

#[test]
fn another_ima_policy_is_refused_by_the_kernel_or_makes_the_node_untrusted() {
    let seen = &facts().seen["policy"];
    if seen.said.starts_with("Some(0)") {
        naming("policy", EVIL_POLICY);
    } else {
        // On kernels with CONFIG_IMA_WRITE_POLICY off, a policy can be loaded once.
        assert!(!seen.said.is_empty(), "{}", seen.said);
        assert!(seen.new.is_empty(), "{:?}", seen.new);
    }
}

#[test]
fn a_checkpoint_signed_with_the_stolen_key_and_read_by_another_program_is_not_the_collectors() {
    let seen = &facts().seen["stolen key"];
    assert!(!seen.new.is_empty(), "nothing was noticed: {}", seen.said);
    naming("stolen key", CHECKPOINTS);
}

#[test]
fn another_binary_in_the_collectors_place_makes_the_node_untrusted_by_its_path() {
    naming("other collector", EVIL_COLLECTOR);
}

#[test]
fn a_collector_that_was_unloaded_cannot_go_on_in_the_same_boot() {
    for said in &facts().refusals {
        assert!(said.starts_with("Some(2)"), "{said}");
        assert!(said.contains("pins []"), "{said}");
        assert!(said.contains("the eBPF programs were unloaded"), "{said}");
    }
}

/// Where the kernel's own image lies in the guest: a file of the reference values.
const KERNEL: &str = "/boot/vmlinuz";

/// The same kernel with the same command line, all of it known to the verifier: only that no reset came first
/// is wrong.
fn started_by_kexec(stock: Stock) {
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let kernel = kernel::stock(stock).unwrap();
    let mut plan = Plan::new(stock);
    let image = std::fs::read(kernel.image()).unwrap();
    plan.files.push((KERNEL.to_owned(), image, 0o644));
    let mut node = Node::boot(plan, dir.path()).unwrap();
    let first = node.start_collector().map(|(_, round)| round).unwrap();
    assert_eq!(first.verdict.node.state, State::Trusted, "{}", first.verdict);

    let command_line = node.vm.get_text("/proc/cmdline").unwrap().trim().to_owned();
    let load = Workload::LoadKernel {
        image: KERNEL.to_owned(),
        command_line,
    };
    node.work::<()>(&load).unwrap();
    let loaded = node.fresh().unwrap();
    println!("loaded:\n{}", loaded.verdict);
    // The kernel's image is a file that is known; what it is to be started with is not.
    let paths: BTreeSet<_> = loaded.verdict.failures().map(|f| f.path.as_deref()).collect();
    assert_eq!(paths, BTreeSet::from([Some(b"kexec-cmdline".as_slice())]));

    node.vm.kexec().unwrap();
    assert_eq!(node.vm.hello().failures, Vec::<String>::new());
    scenario::start_collector(&node.vm, &node.plan).map(drop).unwrap();
    for _ in 0..2 {
        // It stays so: what is not in the list cannot be put there.
        let round = node.fresh().unwrap();
        println!("after kexec:\n{}", round.verdict);
        assert_ne!(round.verdict.node.boot_id, loaded.verdict.node.boot_id);
        assert_eq!(round.verdict.node.state, State::Untrusted);
        let rules: BTreeSet<Rule> = round.verdict.failures().map(|f| f.rule).collect();
        // V2 holds whatever the policy says of kexec: the list began anew, the register did not.
        assert!(
            rules.contains(&Rule::Coverage) && rules.contains(&Rule::History),
            "{rules:?}"
        );
    }

    node.vm.reboot().unwrap();
    scenario::start_collector(&node.vm, &node.plan).map(drop).unwrap();
    let round = node.fresh().unwrap();
    assert_eq!(round.verdict.node.state, State::Trusted, "{}", round.verdict);
    node.vm.power_off().unwrap();
    println!("TIME kexec on {stock}: {:.1} s", begin.elapsed().as_secs_f64());
}

#[test]
fn a_kernel_started_by_kexec_makes_the_node_untrusted_until_a_real_reboot_on_6_12() {
    started_by_kexec(Stock::V6_12);
}

#[test]
fn no_stock_kernel_carries_the_list_over_a_kexec() {
    for stock in Stock::ALL {
        let kernel = kernel::stock(stock).unwrap();
        let config = kernel.config().unwrap();
        let found: Vec<&str> = config
            .lines()
            .filter(|line| line.contains("CONFIG_IMA_KEXEC"))
            .collect();
        assert_eq!(found, ["# CONFIG_IMA_KEXEC is not set"], "{}", kernel.release);
    }
}
