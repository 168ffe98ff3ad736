//! The demo: five pods on a stock node, judged by name, stage by stage, and what follows for a person to
//! read.
//!
//! Promises: every stage is judged by a round of attestation that began after the stage was done; what must
//! come out is written here and nowhere taken from what did; one thing that is not as it should be makes the
//! whole demo fail.
//! Not here: how guests and verifiers are started (see `scenario`), attacks on evidence (see `demo_break`).

use crate::demo_shown::{replaced, same_image, same_inode, stranger};
use crate::domain::Domain;
use crate::kernel::{Kernel, Stock};
use crate::oci::{self, Image};
use crate::pods::{Pods, Running, Runtime, container, host_path};
use crate::scenario::{COLLECTOR_LOG, KnownPod, Node, Plan, Round};
use anyhow::{Context as _, Result, bail};
use cgpath_appraisal::{BootAppraisal, State};
use cgpath_evidence::{Evidence, PartitionKey, PodUid, Tier};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use vm_protocol::elf;
use vm_protocol::spec::Pod;

/// The five pods.
pub const PODS: [&str; 5] = ["A", "B", "C", "D", "E"];

/// The program on the host that A and C run.
const TOOL_DIR: &str = "/opt/tools";
pub(crate) const TOOL: &str = "/opt/tools/stocktake";

/// The file that is replaced in D.
pub(crate) const PAYROLL: &str = "/app/payroll";

/// What is wanted of the demo.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The guest's kernel.
    pub stock: Stock,
    /// A kernel with our series in its place.
    pub patched: Option<Kernel>,
    /// What runs the pods.
    pub runtime: Runtime,
    /// Where all files go; emptied first.
    pub out: PathBuf,
    /// The guest and the verifier go on afterwards.
    pub keep: bool,
    /// Say nothing on standard output while it runs.
    pub quiet: bool,
    /// The guest is restored from a snapshot, where it has a stock kernel and does not go on afterwards. No
    /// firmware starts it then, so that its boot is not judged.
    pub restored: bool,
    /// The node is a trust domain without a TPM.
    pub domain: Option<Domain>,
}

/// The UID of one of [`PODS`].
pub fn uid(pod: &str) -> String {
    let digit = match pod {
        "A" => 'a',
        "B" => 'b',
        "C" => 'c',
        "D" => 'd',
        _ => 'e',
    };
    let eight: String = std::iter::repeat_n(digit, 8).collect();
    format!("{eight}-0000-4000-8000-00000000000{digit}")
}

pub(crate) fn key(pod: &str) -> PartitionKey {
    PodUid::parse(uid(pod).as_bytes()).map_or(PartitionKey::Unattributed, PartitionKey::Pod)
}

/// The images: A and B's, C's, D's, E's.
pub struct Images {
    shop: Image,
    stock: Image,
    payroll: Image,
    stranger: Image,
}

impl Images {
    /// Makes them from this machine's static busybox and a few programs of our own.
    ///
    /// # Errors
    /// When there is no static busybox.
    pub fn make() -> Result<Images> {
        let busybox = oci::busybox()?;
        let base = |name: &str| {
            Image::new(&format!("localhost/ima-cgpath/{name}:1"))
                .program("/bin/busybox", &busybox)
                .link("/bin/sh", "busybox")
                .dir("/tmp", 0o1777)
                .dir("/proc", 0o755)
        };
        let start = b"#!/bin/sh\n/app/prices\nexec /app/server\n";
        Ok(Images {
            shop: base("shop")
                .program("/app/start.sh", start)
                .program("/app/prices", &elf::print("apples 3, pears 4\n"))
                .program("/app/server", &elf::pause("shop"))
                .dir(TOOL_DIR, 0o755),
            stock: base("stock")
                .program("/app/idle", &elf::pause("stock"))
                .dir(TOOL_DIR, 0o755),
            payroll: base("payroll")
                .program("/app/idle", &elf::pause("payroll"))
                .program(PAYROLL, &elf::print("everybody gets what is theirs\n")),
            stranger: base("stranger").program("/app/idle", &elf::pause("stranger")),
        })
    }

    /// All of them.
    pub(crate) fn list(&self) -> [&Image; 4] {
        [&self.shop, &self.stock, &self.payroll, &self.stranger]
    }

    /// D's.
    pub(crate) fn payroll(&self) -> &Image {
        &self.payroll
    }
}

pub(crate) fn tool() -> Vec<u8> {
    elf::print("all there\n")
}

/// The node of the demo, before it boots.
pub fn plan(images: &Images, options: &DemoOptions) -> Plan {
    let known = |pod: &str, image: &Image, tools: bool| KnownPod {
        uid: uid(pod),
        name: format!("demo/{}", pod.to_lowercase()),
        images: vec![image.name().to_owned()],
        host_paths: if tools {
            vec![TOOL_DIR.to_owned()]
        } else {
            Vec::new()
        },
    };
    let mut plan = Plan::new(options.stock);
    plan.patched = options.patched.clone();
    plan.restored = options.restored && options.patched.is_none() && !options.keep;
    plan.runtime = options.runtime;
    plan.images = images.list().into_iter().cloned().collect();
    plan.pods = vec![
        known("A", &images.shop, true),
        known("B", &images.shop, false),
        known("C", &images.stock, true),
        known("D", &images.payroll, false),
        // E is in no policy.
    ];
    plan.files = vec![(TOOL.to_owned(), tool(), 0o755)];
    plan.keep = options.keep;
    plan.domain = options.domain.clone();
    // A boot that is to be judged is this guest's own.
    plan.firmware = !plan.restored;
    plan
}

/// One thing that was checked.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What must be.
    pub what: String,
    /// Whether it is.
    pub ok: bool,
    /// What was found, where that says more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub found: String,
}

impl Check {
    pub(crate) fn new(what: impl Into<String>, ok: bool, found: impl Into<String>) -> Check {
        Check {
            what: what.into(),
            ok,
            found: found.into(),
        }
    }
}

/// One stage with what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// What was done.
    pub name: String,
    /// Seconds from its begin until its verdict.
    pub seconds: f64,
    /// The verifier's number for the round.
    pub round: i64,
    /// The node's state.
    pub node: String,
    /// Each pod's state, where it is there.
    pub pods: BTreeMap<String, String>,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What the stage shows, for people.
    pub learned: Vec<String>,
}

impl Stage {
    /// Whether all is as it must be.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

/// What came of the whole.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whether every verdict is what it must be.
    pub ok: bool,
    /// The stages in their order.
    pub stages: Vec<Stage>,
    /// Bypasses that the policy uses; every verdict repeats them.
    pub dangerous: Vec<String>,
    /// The guest's kernel.
    pub kernel: String,
    /// Seconds from the start until the guest took commands.
    pub boot_seconds: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// The report for people.
    pub report: PathBuf,
    /// What goes on afterwards, where that was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// The last verdict as the verifier prints it.
    #[serde(skip)]
    pub last_verdict: String,
}

/// A guest and its verifier that go on after the demo.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// The guest's directory.
    pub guest: PathBuf,
    /// Where the verifier shows its page.
    pub url: String,
    /// The verifier's process id.
    pub verifier_pid: u32,
}

/// What a stage expects of the node and of the pods that are there.
struct Expected<'a> {
    node: State,
    pods: &'a [(&'a str, State)],
}

struct Telling<'a> {
    node: &'a Node,
    options: &'a DemoOptions,
    stages: Vec<Stage>,
}

impl Telling<'_> {
    fn say(&self, text: &str) {
        if !self.options.quiet {
            println!("{text}");
        }
    }

    /// Takes a fresh round, keeps its files, holds it against what is expected.
    fn stage(
        &mut self,
        begin: Instant,
        name: &str,
        expected: &Expected<'_>,
        more: impl FnOnce(&Round, &Evidence, &mut Stage),
    ) -> Result<()> {
        let round = self
            .node
            .fresh()
            .with_context(|| format!("attesting after `{name}`"))?;
        let number = self.stages.len() + 1;
        let rounds = self.options.out.join("rounds");
        std::fs::create_dir_all(&rounds)?;
        std::fs::copy(&round.file, rounds.join(format!("{number}.cbor"))).context("keeping the evidence")?;
        std::fs::write(rounds.join(format!("{number}.json")), &round.json)?;
        std::fs::write(rounds.join(format!("{number}.txt")), round.verdict.to_string())?;
        let verdict = &round.verdict;
        let evidence = round.evidence()?;
        let mut stage = Stage {
            name: name.to_owned(),
            seconds: 0.0,
            round: round.id,
            node: verdict.node.state.to_string(),
            pods: BTreeMap::new(),
            checks: Vec::new(),
            learned: Vec::new(),
        };
        stage.checks.push(Check::new(
            format!("the node is {}", expected.node),
            verdict.node.state == expected.node,
            verdict.node.state.to_string(),
        ));
        for pod in PODS {
            let found = verdict
                .pods
                .iter()
                .find(|p| p.uid.to_string() == uid(pod))
                .map(|p| p.state);
            if let Some(state) = found {
                stage.pods.insert(pod.to_owned(), state.to_string());
            }
            let wanted = expected
                .pods
                .iter()
                .find(|(name, _)| *name == pod)
                .map(|(_, state)| *state);
            let text = |state: Option<State>| state.map_or_else(|| "not there".to_owned(), |s| s.to_string());
            stage.checks.push(Check::new(
                format!("{pod} is {}", text(wanted)),
                found == wanted,
                text(found),
            ));
        }
        let others = verdict.pods.len() - stage.pods.len();
        stage.checks.push(Check::new(
            "no other pod is there",
            others == 0,
            format!("{others} more"),
        ));
        let n = &verdict.node;
        let tier = match self.options.patched {
            Some(_) => Tier::Kernel,
            None => Tier::Bpf,
        };
        let anchor = anchor(self.options);
        stage.checks.push(Check::new(
            format!("tier {tier}, anchored in {anchor}"),
            n.tier == tier && n.anchor.starts_with(anchor),
            format!("tier {}, anchor {}", n.tier, n.anchor),
        ));
        stage.checks.push(Check::new(
            "no entry is unattributed, no record was lost",
            n.unattributed == 0 && n.lost == 0,
            format!("unattributed {}, lost {}", n.unattributed, n.lost),
        ));
        let (what, boot, dangerous) = if self.options.domain.is_some() {
            (
                "RTMR 0 to 2 are not judged, quotes end in a test's root, and the verdict says so",
                BootAppraisal::NotAppraised,
                &["tdx.dangerous-boot-not-judged", "tdx.dangerous-root"][..],
            )
        } else if self.node.plan.is_measured() {
            (
                "firmware, kernel and command line are those of the policy, and nothing is dangerous",
                BootAppraisal::Trusted,
                &[][..],
            )
        } else {
            (
                "the boot is not judged, and the verdict says so",
                BootAppraisal::NotAppraised,
                &["dangerous-boot-not-judged"][..],
            )
        };
        stage.checks.push(Check::new(
            what,
            n.boot == boot && verdict.dangerous == dangerous,
            format!("boot: {}; {}", n.boot, verdict.dangerous.join(", ")),
        ));
        more(&round, &evidence, &mut stage);
        stage.seconds = begin.elapsed().as_secs_f64();
        let mark = if stage.ok() {
            "as it must be"
        } else {
            "NOT AS IT MUST BE"
        };
        self.say(&format!("{number}. {name}: {mark} ({:.1} s)", stage.seconds));
        for line in &stage.learned {
            self.say(&format!("     {line}"));
        }
        for check in stage.checks.iter().filter(|check| !check.ok) {
            self.say(&format!("     FAILED: {}; found: {}", check.what, check.found));
        }
        if !stage.ok() {
            self.say(&indented(&round.verdict.to_string()));
        }
        self.stages.push(stage);
        Ok(())
    }
}

/// What vouches for the list, as verdicts name it.
fn anchor(options: &DemoOptions) -> &'static str {
    match options.domain {
        Some(_) => "RTMR 3",
        None => "PCR 10",
    }
}

/// A text of several lines, set off from what is around it.
pub fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("     | {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs the demo.
///
/// # Errors
/// When something is missing or does not come up. A verdict that is not as it must be is no error: see
/// [`Outcome::ok`].
pub fn run(options: &DemoOptions) -> Result<Outcome> {
    let begin = Instant::now();
    prepare_output(&options.out)?;
    let images = Images::make()?;
    let node = Node::boot(plan(&images, options), &options.out.join("site"))?;
    let boot_seconds = begin.elapsed().as_secs_f64();
    let mut telling = Telling {
        node: &node,
        options,
        stages: Vec::new(),
    };
    let outcome = tell(&mut telling, &images, boot_seconds);
    let stages = telling.stages;
    // What the guest said is wanted most when something went wrong.
    keep_logs(&node, &options.out);
    outcome?;
    let report = options.out.join("report.html");
    write_report(&node, &report)?;
    let last = node.site.last()?;
    let outcome = Outcome {
        ok: stages.len() == 6 && stages.iter().all(Stage::ok),
        stages,
        kernel: node.vm.hello().kernel.clone(),
        boot_seconds,
        seconds: begin.elapsed().as_secs_f64(),
        report,
        kept: node
            .site
            .server_pid()
            .filter(|_| options.keep)
            .map(|verifier_pid| Kept {
                guest: node.vm.dir().to_path_buf(),
                url: node.site.url(),
                verifier_pid,
            }),
        last_verdict: last
            .as_ref()
            .map(|round| round.verdict.to_string())
            .unwrap_or_default(),
        dangerous: last.map(|round| round.verdict.dangerous).unwrap_or_default(),
    };
    std::fs::write(
        options.out.join("outcome.json"),
        serde_json::to_vec_pretty(&outcome)?,
    )?;
    if options.keep {
        node.site.leave_running();
    } else if let Err(error) = node.vm.power_off() {
        eprintln!("  the guest did not power off in order: {error:#}");
    }
    Ok(outcome)
}

/// Empties the directory, if it is one of ours or not there.
pub(crate) fn prepare_output(out: &Path) -> Result<()> {
    const MARK: &str = ".ima-cgpath-demo";
    if out.exists() {
        let empty = std::fs::read_dir(out)?.next().is_none();
        if !empty && !out.join(MARK).exists() {
            bail!(
                "{} has files that no demo made; hint: name another directory with --out",
                out.display()
            );
        }
        std::fs::remove_dir_all(out).with_context(|| format!("emptying {}", out.display()))?;
    }
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    std::fs::write(
        out.join(MARK),
        "made by the demo, which empties this directory at its next start\n",
    )?;
    Ok(())
}

pub(crate) fn keep_logs(node: &Node, out: &Path) {
    let logs = [
        ("cgpathd.log", node.vm.get(COLLECTOR_LOG)),
        ("console.log", Ok(node.vm.console().into_bytes())),
    ];
    for (name, content) in logs {
        let kept = content.and_then(|bytes| Ok(std::fs::write(out.join(name), bytes)?));
        if let Err(error) = kept {
            eprintln!("  {name} could not be kept: {error:#}");
        }
    }
}

fn write_report(node: &Node, report: &Path) -> Result<()> {
    let mut command = node.site.cgpath(&["report", "--store"]);
    command
        .arg(node.site.store())
        .args(["--node", crate::scenario::NODE, "-o"])
        .arg(report);
    crate::host::output(&mut command).map(drop)
}

fn tell(t: &mut Telling<'_>, images: &Images, boot_seconds: f64) -> Result<()> {
    use State::{Trusted, Unknown, Untrusted};
    let anchor = anchor(t.options);
    let beside = match t.options.domain {
        Some(_) => "the interfaces of a trust domain",
        None => "a software TPM",
    };
    t.say(&format!(
        "Linux {} with IMA and {beside} is up ({boot_seconds:.1} s)",
        t.node.vm.hello().kernel
    ));

    let begin = Instant::now();
    t.node.start_collector()?;
    t.stage(
        begin,
        "the collector runs, the node is enrolled, there is no pod yet",
        &Expected {
            node: Trusted,
            pods: &[],
        },
        |round, _, stage| {
            let n = &round.verdict.node;
            stage.learned.push(format!(
                "{} entries covered by the quote over {anchor}, {} of them older than the collector; \
                 unattributed {}, lost {}",
                n.covered, n.boot_entries, n.unattributed, n.lost
            ));
        },
    )?;

    let begin = Instant::now();
    let node = t.node;
    let pods = Pods::start(&node.vm, node.plan.runtime, &images.list())?;
    let shop = |pod: &str, tools: bool| {
        let mut spec = Pod::burstable(&pod.to_lowercase(), &uid(pod));
        let mut web = container("web", &images.shop, &["/app/start.sh"]);
        if tools {
            web.mounts.push(host_path(TOOL_DIR));
        }
        spec.containers.push(web);
        spec
    };
    let a = pods.run(&shop("A", true))?;
    pods.must(&a, "web", &[TOOL])?;
    pods.run(&shop("B", false))?;
    t.stage(
        begin,
        "pods A and B run the same image",
        &Expected {
            node: Trusted,
            pods: &[("A", Trusted), ("B", Trusted)],
        },
        |_, evidence, stage| same_image(evidence, stage),
    )?;

    let begin = Instant::now();
    let mut spec = Pod::burstable("c", &uid("C"));
    let mut idle = container("idle", &images.stock, &["/app/idle"]);
    idle.mounts.push(host_path(TOOL_DIR));
    spec.containers.push(idle);
    let c = pods.run(&spec)?;
    pods.must(&c, "idle", &[TOOL])?;
    let three = [("A", Trusted), ("B", Trusted), ("C", Trusted)];
    t.stage(
        begin,
        "pod C runs, from a host path, the inode that A ran",
        &Expected {
            node: Trusted,
            pods: &three,
        },
        |_, evidence, stage| same_inode(evidence, stage),
    )?;

    let begin = Instant::now();
    let mut spec = Pod::burstable("d", &uid("D"));
    spec.containers
        .push(container("pay", &images.payroll, &["/app/idle"]));
    let d = pods.run(&spec)?;
    pods.must(&d, "pay", &[PAYROLL])?;
    let four = [("A", Trusted), ("B", Trusted), ("C", Trusted), ("D", Trusted)];
    t.stage(
        begin,
        "pod D runs its own files",
        &Expected {
            node: Trusted,
            pods: &four,
        },
        |_, _, _| {},
    )?;

    let begin = Instant::now();
    let evil = tamper(&pods, &d)?;
    let good = images
        .payroll
        .content(PAYROLL)
        .map(Sha256::digest)
        .map(hex::encode)
        .unwrap_or_default();
    let tampered = [("A", Trusted), ("B", Trusted), ("C", Trusted), ("D", Untrusted)];
    t.stage(
        begin,
        "a file of D is replaced and run",
        &Expected {
            node: Trusted,
            pods: &tampered,
        },
        |round, _, stage| replaced(round, &evil, &good, stage),
    )?;

    let begin = Instant::now();
    let mut spec = Pod::burstable("e", &uid("E"));
    spec.containers
        .push(container("idle", &images.stranger, &["/app/idle"]));
    pods.run(&spec)?;
    let five = [
        ("A", Trusted),
        ("B", Trusted),
        ("C", Trusted),
        ("D", Untrusted),
        ("E", Unknown),
    ];
    t.stage(
        begin,
        "pod E appears, which no policy knows",
        &Expected {
            node: Untrusted,
            pods: &five,
        },
        |round, _, stage| stranger(round, stage),
    )
}

/// Replaces a file in D's overlay, as an intruder would, runs it, and gives the hash of what ran.
pub(crate) fn tamper(pods: &Pods<'_>, d: &Running) -> Result<String> {
    let script = format!(
        "cp {PAYROLL} /tmp/new && echo 'and the boss gets the rest' >>/tmp/new && mv /tmp/new {PAYROLL} && \
         {PAYROLL} && sha256sum {PAYROLL}"
    );
    let said = pods.must(d, "pay", &["/bin/sh", "-c", &script])?;
    let last = said.lines().last().unwrap_or_default();
    let hash = last.split_whitespace().next().unwrap_or_default();
    if hash.len() != 64 {
        bail!("sha256sum in pod D said {said:?}");
    }
    Ok(hash.to_owned())
}

/// The table of all stages.
pub fn table(outcome: &Outcome) -> String {
    let wide = outcome
        .stages
        .iter()
        .map(|s| s.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = format!("{:<4}{:<wide$}  {:>7}  {:<11}", "", "stage", "seconds", "node");
    for pod in PODS {
        text.push_str(&format!("{pod:<11}"));
    }
    text.push('\n');
    for (i, stage) in outcome.stages.iter().enumerate() {
        text.push_str(&format!(
            "{:<4}{:<wide$}  {:>7.1}  {:<11}",
            i + 1,
            stage.name,
            stage.seconds,
            stage.node
        ));
        for pod in PODS {
            text.push_str(&format!(
                "{:<11}",
                stage.pods.get(pod).map_or("-", String::as_str)
            ));
        }
        text.push_str(if stage.ok() { "ok\n" } else { "FAILED\n" });
    }
    text
}
