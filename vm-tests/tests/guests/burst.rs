//! A burst of new programs that goes on while a test does something else, and what must be there of it.

use anyhow::{Context as _, Result, ensure};
use cgpath_evidence::EventKind;
use std::time::{Duration, Instant};
use vm_protocol::spec::{Burst, Workload};
use vm_tests::lists::LISTS;
use vm_tests::scenario::{Node, Round, WORKLOADS};
use vm_tests::{PATIENCE, Process};

/// So many programs, one after the other, in one cgroup of the host.
pub fn of_host(count: u32) -> Workload {
    Workload::Burst {
        dir: "/var/tmp/burst".to_owned(),
        count,
        cgroups: vec![WORKLOADS.to_owned()],
    }
}

/// Of each program one execution and one entry; `what` says through what the burst went on.
pub fn seen_once(round: &Round, burst: &Burst, what: &str) {
    let evidence = round.evidence().unwrap();
    for run in &burst.runs {
        let records = evidence.partitions.iter().flat_map(|p| &p.records);
        let of_file = records.filter(|r| r.path == run.path.as_bytes());
        let kinds: Vec<_> = of_file.map(|r| r.kind).collect();
        let count = |kind| kinds.iter().filter(|k| **k == kind).count();
        assert_eq!(
            (count(EventKind::Execution), count(EventKind::Entry)),
            (1, 1),
            "{} of a burst {what}",
            run.path
        );
    }
}

/// A burst that goes on while the test does something else.
pub struct Running<'vm> {
    process: Process<'vm>,
    /// Entries of IMA's list at its begin.
    entries: u64,
}

/// Entries of IMA's list.
pub fn measured(node: &Node) -> Result<u64> {
    let text = node.vm.get_text(&format!("{LISTS}/runtime_measurements_count"))?;
    text.trim().parse().context("the length of the list")
}

impl<'vm> Running<'vm> {
    /// Begins it and waits until the programs are written: what follows are their executions.
    pub fn begin(node: &'vm Node, burst: &Workload, count: u32) -> Result<Self> {
        let text = serde_json::to_string(burst)?;
        let command = node.vm.command(&["guest", "workload", text.as_str()]);
        let process = command.cgroup(WORKLOADS).spawn("/var/log/burst.log")?;
        let last = format!("/var/tmp/burst/program-{}", count - 1);
        let begin = Instant::now();
        while node.vm.run(&["test", "-s", &last])?.code() != Some(0) {
            ensure!(begin.elapsed() < PATIENCE, "the burst does not begin");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Self {
            process,
            entries: measured(node)?,
        })
    }

    /// Waits until so many programs were executed since the begin, or it is over. Each leaves an entry in
    /// IMA's list.
    pub fn until_executed(&self, node: &Node, programs: u64) -> Result<()> {
        while self.goes_on()? && measured(node)? < self.entries + programs {}
        Ok(())
    }

    pub fn goes_on(&self) -> Result<bool> {
        Ok(self.process.wait(Duration::ZERO)?.is_none())
    }

    /// What it wrote down, once it has ended.
    pub fn end(self) -> Result<Burst> {
        let exit = self.process.ended().context("the burst does not end")?;
        ensure!(exit.code == Some(0), "{}", self.process.log()?);
        serde_json::from_str(&self.process.log()?).context("what the burst wrote down")
    }
}
