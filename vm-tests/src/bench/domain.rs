//! What a round costs by what vouches for the list: PCR 10, a trust domain's register, or both.
//!
//! Promises: all three in turn, in one boot of one guest that has a TPM and the register, each with a chain
//! of its own; a collector whose evidence has another quote than it should is not measured. Not here:
//! whether a verifier takes the evidence (the tests `tdx::` in guests), silicon (see [`crate::domain`]).

use super::{READY, SIGTERM, end, rounds, status, wait_for, work};
use crate::domain::{self, Domain};
use crate::host;
use crate::scenario::{BPF_OBJECT, COLLECTOR, COLLECTOR_CGROUP, COLLECTOR_LOG, NODE, Node, Plan};
use crate::vm::Vm;
use anyhow::{Context as _, Result, bail, ensure};
use cgpath_evidence::Evidence;
use serde::Serialize;
use std::time::Duration;
use vm_protocol::spec::Attested;

/// What vouches, and which quotes evidence has then: a TPM's, a trust domain's.
const ANCHORS: [(&str, bool, bool); 3] = [
    ("PCR 10", true, false),
    ("RTMR 3", false, true),
    ("PCR 10 and RTMR 3", true, true),
];

/// What [`domain`] found for one anchor at one time.
#[derive(Debug, Serialize)]
pub struct OfAnchor {
    /// The pass that it belongs to.
    pub pass: u32,
    /// What vouches for the list.
    pub anchor: &'static str,
    /// Processor time of the collector's cgroup for one round, in the mean of the pass, microseconds.
    pub processor: f64,
    /// Entries of the list behind the last round.
    pub entries: u64,
    /// Checkpoints then.
    pub checkpoints: u64,
    /// What the rounds took.
    pub times: Attested,
}

/// What [`domain`] found.
#[derive(Debug, Serialize)]
pub struct Anchors {
    /// Release of the guest's kernel.
    pub kernel: String,
    /// How the guest ran: `tcg` or `kvm`.
    pub accelerator: String,
    /// In the order in which it was measured.
    pub each: Vec<OfAnchor>,
}

/// Times `count` rounds, each beside bare commands to the TPM, for each anchor in turn, so many passes. Each
/// pass begins with another anchor. One more comes before them and is not counted.
///
/// # Errors
/// When the guest or the collector does not work, or evidence has another quote than it should.
pub fn domain(outside: Domain, count: u32, passes: u32) -> Result<Anchors> {
    let dir = tempfile::tempdir().context("making a temporary directory")?;
    let both = Domain {
        beside_tpm: true,
        ..outside
    };
    let mut plan = Plan::new(domain::STOCK);
    for (at, (_, has_tpm, is_domain)) in ANCHORS.into_iter().enumerate() {
        let tables = match (has_tpm, is_domain) {
            (_, false) => String::new(),
            (false, true) => quoted_in(domain::ALONE),
            (true, true) => quoted_in(both.config()),
        };
        let config = format!("node = \"{NODE}\"\n[bpf]\nobject = \"{BPF_OBJECT}\"\n{tables}");
        plan.files.push((config_of(at), config.into_bytes(), 0o644));
    }
    plan.domain = Some(both);
    let node = Node::boot(plan, dir.path())?;
    let mut each = Vec::new();
    for pass in 0..=passes {
        for n in 0..ANCHORS.len() {
            let at = (pass as usize + n) % ANCHORS.len();
            eprintln!("   pass {pass} of {passes}: {}", ANCHORS[at].0);
            let found = of_anchor(&node.vm, at, count, pass).with_context(|| ANCHORS[at].0.to_owned())?;
            each.extend((pass > 0).then_some(found));
        }
    }
    let kernel = node.vm.hello().kernel.clone();
    node.vm.power_off()?;
    Ok(Anchors {
        kernel,
        accelerator: host::accelerator(),
        each,
    })
}

/// The configuration of an anchor without a verifier, so that no round is made that nobody asked for.
fn config_of(at: usize) -> String {
    format!("/etc/ima-cgpath/anchor-{at}.toml")
}

/// The tables end with `[quote]`: a report may take as long as an emulator wants.
fn quoted_in(tables: &str) -> String {
    format!("{tables}timeout = {}\n", READY.as_secs())
}

fn of_anchor(vm: &Vm, at: usize, count: u32, pass: u32) -> Result<OfAnchor> {
    let (anchor, has_tpm, is_domain) = ANCHORS[at];
    // As after a boot: this chain ends with these rounds.
    vm.sh("rm -rf /var/lib/ima-cgpath")?;
    let process = vm
        .command(&[COLLECTOR, "--config", &config_of(at), "run"])
        .cgroup(COLLECTOR_CGROUP)
        .spawn(COLLECTOR_LOG)?;
    wait_for("cgpathd is ready", || {
        if process.wait(Duration::ZERO)?.is_some() {
            bail!("cgpathd ended:\n{}", host::tail(&process.log()?, 15));
        }
        status(vm)
    })?;
    let before = processor_time(vm)?;
    let times = work::<Attested>(vm, &rounds(count))?;
    // One more than are counted.
    let processor = (processor_time(vm)? - before) / (f64::from(count) + 1.0);
    let nonce = "5a".repeat(32);
    vm.command(&[COLLECTOR, "once", "--nonce", &nonce, "-o", "/run/evidence.cbor"])
        .timeout(READY)
        .run()?
        .check()?;
    let evidence = Evidence::from_cbor(&vm.get("/run/evidence.cbor")?)?;
    let quote = &evidence.quote;
    ensure!(
        (quote.tpm.is_some(), quote.td.is_some()) == (has_tpm, is_domain),
        "evidence has other quotes"
    );
    end(&process, SIGTERM)?;
    vm.run(&[COLLECTOR, "unload"])?.check()?;
    Ok(OfAnchor {
        pass,
        anchor,
        processor,
        entries: evidence.list.len() as u64,
        checkpoints: evidence.checkpoints.len() as u64,
        times,
    })
}

/// Of all processes that ran in the collector's cgroup, in user space and in the kernel, microseconds.
fn processor_time(vm: &Vm) -> Result<f64> {
    let stat = vm.get_text(&format!("/sys/fs/cgroup{COLLECTOR_CGROUP}/cpu.stat"))?;
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    micros
        .and_then(|micros| micros.parse().ok())
        .with_context(|| format!("cpu.stat has no usage: {stat}"))
}
