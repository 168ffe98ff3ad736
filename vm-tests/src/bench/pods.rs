//! Whether what a round of attestation adds grows with the number of pods.
//!
//! Promises: records and entries are as many whatever the number of pods is. Not here: a round's own parts
//! (see `bench`).

use super::{FILES, SIGTERM, end, rounds, status, wait_for, work};
use crate::kernel::Stock;
use crate::scenario::{COLLECTOR, Node, Plan};
use crate::{host, scenario};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use std::time::Duration;
use vm_protocol::spec::{Attested, Burst, Workload};

/// Executions before the rounds over pods: the same programs, records and entries however many pods they are
/// in.
const EXECUTIONS: u32 = 1000;

/// What [`pods`] found for one number of pods at one time.
#[derive(Debug, Serialize)]
pub struct OverPods {
    /// The pass that it belongs to.
    pub pass: u32,
    /// Pods with at least one record.
    pub pods: u32,
    /// Records kept before the first round.
    pub records: u64,
    /// Entries of the list then.
    pub entries: u64,
    /// What the rounds took.
    pub times: Attested,
}

/// What [`pods`] found.
#[derive(Debug, Serialize)]
pub struct Pods {
    /// Release of the guest's kernel.
    pub kernel: String,
    /// How the guest ran: `tcg` or `kvm`.
    pub accelerator: String,
    /// In the order asked for.
    pub each: Vec<OverPods>,
}

/// Times `count` rounds, each beside bare commands to the same TPM, for each number of pods in turn, so many
/// passes: a collector starts anew, sees [`EXECUTIONS`] executions of the same programs spread over so many
/// pods, and is then asked. Each pass begins with another number, so that what changes slowly is not taken
/// for what they do. One more, of one pod, comes before them and is not counted: it makes the list as long as
/// it then stays.
///
/// # Errors
/// When the guest or the collector does not work, or a pod is missing among the partitions.
pub fn pods(count: u32, numbers: &[u32], passes: u32) -> Result<Pods> {
    let too_many = numbers.iter().find(|n| **n == 0 || **n > EXECUTIONS);
    ensure!(too_many.is_none(), "1 to {EXECUTIONS} pods, not {too_many:?}");
    let dir = tempfile::tempdir().context("making a temporary directory")?;
    let mut plan = Plan::new(Stock::V6_12);
    plan.settings = vec!["verifier.url=".to_owned()];
    let node = Node::boot(plan, dir.path())?;
    let mut each = Vec::new();
    eprintln!("   1 pod, not counted");
    over_pods(&node, count, 1, 0).context("before the first pass")?;
    for pass in 1..=passes {
        let first = pass as usize % numbers.len().max(1);
        let (last, before) = numbers.split_at(first);
        for &pods in before.iter().chain(last) {
            eprintln!("   pass {pass} of {passes}: {pods} pods");
            each.push(over_pods(&node, count, pods, pass).with_context(|| format!("with {pods} pods"))?);
        }
    }
    let kernel = node.vm.hello().kernel.clone();
    node.vm.power_off()?;
    Ok(Pods {
        kernel,
        accelerator: host::accelerator(),
        each,
    })
}

fn over_pods(node: &Node, count: u32, pods: u32, pass: u32) -> Result<OverPods> {
    let vm = &node.vm;
    // As after a boot: this chain ends with these rounds.
    vm.sh("rm -rf /var/lib/ima-cgpath")?;
    let process = scenario::start_collector(vm, &node.plan)?;
    wait_for("cgpathd is ready", || {
        if process.wait(Duration::ZERO)?.is_some() {
            bail!("cgpathd ended:\n{}", host::tail(&process.log()?, 15));
        }
        status(vm)
    })?;
    let cgroup = |n| format!("/kubepods/burstable/pod00000000-0000-4000-8000-{n:012x}/{n:064x}");
    // As many in each pod, and what is left over in as many of them: the same programs once more.
    for (count, pods) in [
        (EXECUTIONS - EXECUTIONS % pods, pods),
        (EXECUTIONS % pods, EXECUTIONS % pods),
    ] {
        if count > 0 {
            let burst = Workload::Burst {
                dir: FILES.to_owned(),
                count,
                cgroups: (1..=pods).map(cgroup).collect(),
            };
            work::<Burst>(vm, &burst)?;
        }
    }
    // An execution and the mapping of its code at least, of each.
    let wanted = u64::from(EXECUTIONS) * 2;
    let kept = wait_for("all records are kept", || {
        Ok(status(vm)?.filter(|status| status.records >= wanted))
    })?;
    ensure!(kept.lost == 0, "{} records were lost", kept.lost);
    let times = work::<Attested>(vm, &rounds(count))?;
    let after = status(vm)?.context("cgpathd does not answer any more")?;
    let seen = after
        .partitions
        .iter()
        .filter(|(key, _)| key.starts_with("00000000-"))
        .count();
    ensure!(seen == pods as usize, "{seen} of {pods} pods have a partition");
    end(&process, SIGTERM)?;
    vm.run(&[COLLECTOR, "unload"])?.check()?;
    vm.sh("find /sys/fs/cgroup/kubepods -depth -type d -exec rmdir {} +")?;
    Ok(OverPods {
        pass,
        pods,
        records: kept.records,
        entries: kept.list_len,
        times,
    })
}
