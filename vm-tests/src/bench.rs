//! What the collector costs a node, measured in guests: executions, memory and processor, rounds of
//! attestation.
//!
//! Promises: who is compared runs in turn in one boot; a contender that did not see what it should have seen
//! is not measured; no time makes anything fail. Not here: what is shown and what is wanted (`xtask`), the
//! workloads (`guest`).

mod domain;
mod pods;

pub use domain::{Anchors, OfAnchor, domain};
pub use pods::{OverPods, Pods, pods};

use crate::kernel::{Kernel, Stock};
use crate::scenario::{BPF_OBJECT, COLLECTOR, COLLECTOR_LOG, CONFIG, Node, Plan, WORKLOADS, ima_policy};
use crate::vm::{Process, Vm};
use crate::{host, scenario};
use anyhow::{Context as _, Result, bail, ensure};
use cgpath_evidence::list::Decoder;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vm_protocol::spec::{Attested, Program, Timed, Workload};

/// Where the collector pins its programs, and its socket.
const PINS: &str = "/sys/fs/bpf/ima-cgpath";
const SOCKET: &str = "/run/ima-cgpath/cgpathd.sock";

/// Time for a contender to be ready or to catch up. bpftrace compiles its program first.
const READY: Duration = Duration::from_secs(180);

/// Time for one workload.
const WORK: Duration = Duration::from_secs(3600);

/// Processor time is looked at over this time.
const WINDOW: Duration = Duration::from_secs(60);

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Where executed files are.
const FILES: &str = "/var/tmp/bench";

const AUDIT_LOG: &str = "/var/log/audit/audit.log";
const BPFTRACE_LOG: &str = "/var/log/bpftrace.log";

/// What a person might leave running to know of executions.
const ONE_LINER: &str =
    r#"tracepoint:sched:sched_process_exec { printf("%d %s %s\n", pid, comm, str(args->filename)); }"#;

/// Who else sees executions in a round.
const CONTENDERS: [&str; 4] = ["none", "collector", "auditd", "bpftrace"];

/// What one contender's part of a round gave, microseconds for each execution.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Wall time of an execution of a known file.
    pub known: f64,
    /// Wall time of the execution of a new file.
    pub new: f64,
    /// Processor time of the contender's own process; none without one.
    pub process: Option<f64>,
}

/// What [`exec`] found.
#[derive(Debug, Serialize)]
pub struct Execs {
    /// Release of the guest's kernel.
    pub kernel: String,
    /// How the guest ran: `tcg` or `kvm`.
    pub accelerator: String,
    /// A map from contender to what it gave, a round each.
    pub rounds: Vec<BTreeMap<&'static str, Part>>,
    /// Why a contender is missing.
    pub missing: BTreeMap<&'static str, String>,
    /// Our programs.
    pub programs: Vec<Program>,
}

/// Times executions without anybody, with the collector, with auditd's rule and with a bpftrace one-liner:
/// one round that is not counted, then `rounds`, with `count` executions of each kind.
///
/// # Errors
/// When the guest or the collector does not work; not for the others.
pub fn exec(rounds: usize, count: u32) -> Result<Execs> {
    let mut missing = BTreeMap::new();
    let tools = &["auditd", "bpftrace"];
    // The root is made first, so that packages which cannot be had are distinguished from all else.
    let tools: &[&'static str] = match crate::root::with(tools) {
        Ok(_) => tools,
        Err(error) => {
            for &tool in tools {
                missing.insert(tool, format!("its package cannot be had: {error:#}"));
            }
            &[]
        }
    };
    let vm = Vm::builder(Stock::V6_12)
        .packages(tools)
        .disk_mib(4096)
        .file(COLLECTOR, host::built_binary("cgpathd")?, 0o755)
        .file(BPF_OBJECT, host::bpf_object()?, 0o644)
        .bytes(
            CONFIG,
            format!("node = \"guest\"\n[bpf]\nobject = \"{BPF_OBJECT}\"\n"),
            0o644,
        )
        .ima_policy(ima_policy())
        .start()?;
    ensure!(
        vm.hello().failures.is_empty(),
        "the guest's init: {}",
        vm.hello().failures.join("; ")
    );
    if !tools.is_empty() {
        vm.sh(
            "mount -t debugfs debugfs /sys/kernel/debug; echo >/etc/audit/rules.d/audit.rules; mkdir -p \
            /var/log/audit",
        )?;
        silence_audit(&vm)?;
    }
    let mut programs = Vec::new();
    let mut all = Vec::new();
    for round in 0..=rounds {
        let mut parts = BTreeMap::new();
        for name in CONTENDERS {
            if missing.contains_key(name) {
                continue;
            }
            eprintln!("   round {round} of {rounds}: {name}");
            let part = match name {
                "none" => timed(&vm, count, None),
                "collector" => with_collector(&vm, count, &mut programs),
                "auditd" => with_auditd(&vm, count),
                _ => with_bpftrace(&vm, count),
            };
            match part {
                Ok(part) => {
                    parts.insert(name, part);
                }
                Err(error) if tools.contains(&name) => {
                    eprintln!("   {name}: {error:#}");
                    missing.insert(name, format!("{error:#}"));
                }
                Err(error) => return Err(error.context(name)),
            }
        }
        if round > 0 {
            all.push(parts);
        }
    }
    let kernel = vm.hello().kernel.clone();
    vm.power_off()?;
    Ok(Execs {
        kernel,
        accelerator: host::accelerator(),
        rounds: all,
        missing,
        programs,
    })
}

fn work<T: serde::de::DeserializeOwned>(vm: &Vm, workload: &Workload) -> Result<T> {
    let text = serde_json::to_string(workload)?;
    let command = vm.command(&["guest", "workload", text.as_str()]).timeout(WORK);
    let said = command.cgroup(WORKLOADS).run()?.check()?.text();
    // A workload with nothing to write down says nothing.
    let answer = if said.is_empty() { "null" } else { &said };
    serde_json::from_str(answer).with_context(|| format!("the answer of {text}"))
}

/// The mean of times in nanoseconds, in microseconds.
fn mean_us(each: &[u64]) -> f64 {
    each.iter().sum::<u64>() as f64 / each.len().max(1) as f64 / 1e3
}

/// Runs the executions and looks at the process `pid` before and after.
fn timed(vm: &Vm, count: u32, pid: Option<i32>) -> Result<Part> {
    let cpu = |pid| processor_time(vm, pid);
    let before = pid.map(cpu).transpose()?;
    let timed: Timed = work(
        vm,
        &Workload::Execs {
            dir: FILES.to_owned(),
            count,
        },
    )?;
    // What it still has to do is its own, too.
    std::thread::sleep(Duration::from_secs(2));
    let after = pid.map(cpu).transpose()?;
    Ok(Part {
        known: mean_us(&timed.known),
        new: mean_us(&timed.new),
        process: before
            .zip(after)
            .map(|(before, after)| (after - before) * 1e6 / f64::from(2 * count)),
    })
}

/// Seconds of processors of a process with all its threads and children that ended, to 0.01 s.
/// Source: proc(5), /proc/pid/stat, fields 14 to 17.
fn processor_time(vm: &Vm, pid: i32) -> Result<f64> {
    let stat = vm.get_text(&format!("/proc/{pid}/stat"))?;
    let times = || {
        let (_, fields) = stat.rsplit_once(')')?;
        fields
            .split_whitespace()
            .skip(11)
            .take(4)
            .map(|field| field.parse::<u64>().ok())
            .sum::<Option<u64>>()
    };
    let ticks = times().with_context(|| format!("/proc/{pid}/stat has no times: {stat}"))?;
    // In /proc it is always 100, whatever the kernel was built with.
    Ok(ticks as f64 / 100.0)
}

/// Waits until `done` gives something.
fn wait_for<T>(what: &str, mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        ensure!(
            begin.elapsed() < READY,
            "{what}: not within {} s",
            READY.as_secs()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Ends a process and waits for its end.
fn end(process: &Process<'_>, signal: i32) -> Result<()> {
    process.signal(signal)?;
    process.ended()?;
    Ok(())
}

#[derive(serde::Deserialize)]
struct Status {
    records: u64,
    lost: u64,
    list_len: u64,
    partitions: Vec<(String, u64)>,
}

fn status(vm: &Vm) -> Result<Option<Status>> {
    let output = vm.run(&[COLLECTOR, "status"])?;
    if !output.success() {
        return Ok(None);
    }
    Ok(Some(
        serde_json::from_str(&output.text()).context("what cgpathd status printed")?,
    ))
}

fn with_collector(vm: &Vm, count: u32, programs: &mut Vec<Program>) -> Result<Part> {
    // As after a boot: this chain ends with each round.
    vm.sh("rm -rf /var/lib/ima-cgpath")?;
    let process = vm
        .command(&[COLLECTOR, "run"])
        .cgroup("/system.slice/cgpathd.service")
        .spawn(COLLECTOR_LOG)?;
    let before = wait_for("cgpathd is ready", || {
        if process.wait(Duration::ZERO)?.is_some() {
            bail!("cgpathd ended:\n{}", host::tail(&process.log()?, 15));
        }
        status(vm)
    })?;
    *programs = work(
        vm,
        &Workload::Programs {
            pins: PINS.to_owned(),
        },
    )?;
    let part = timed(vm, count, Some(process.pid()))?;
    // A known file leaves its execution and the mapping of its code, a new one an entry as well.
    let wanted = u64::from(count) * 5;
    let after = status(vm)?.context("cgpathd does not answer any more")?;
    ensure!(after.lost == 0, "{} records were lost", after.lost);
    let seen = after.records - before.records;
    ensure!(seen >= wanted, "{seen} records, {wanted} expected");
    end(&process, SIGTERM)?;
    vm.run(&[COLLECTOR, "unload"])?.check()?;
    Ok(part)
}

/// No rules but one that keeps system calls of new processes as fast as they were before audit was first
/// enabled.
fn silence_audit(vm: &Vm) -> Result<()> {
    vm.sh("auditctl -D; auditctl -e 0; auditctl -a never,task")
        .map(drop)
}

fn with_auditd(vm: &Vm, count: u32) -> Result<Part> {
    vm.sh(&format!("rm -f {AUDIT_LOG}*; auditctl -D; auditctl -b 8192"))?;
    let process = vm
        .command(&["/sbin/auditd", "-n"])
        .cgroup("/system.slice/auditd.service")
        .spawn("/var/log/auditd.out")?;
    wait_for("auditd is ready", || {
        if process.wait(Duration::ZERO)?.is_some() {
            bail!("auditd ended:\n{}", host::tail(&process.log()?, 15));
        }
        let status = vm.sh("auditctl -s")?;
        Ok(status
            .lines()
            .any(|line| line == format!("pid {}", process.pid()))
            .then_some(()))
    })?;
    vm.sh("auditctl -a always,exit -F arch=b64 -S execve,execveat; auditctl -e 1")?;
    let part = timed(vm, count, Some(process.pid()))?;
    let counted = format!("grep -c 'type=SYSCALL.*exe=\"{FILES}/' {AUDIT_LOG} || true");
    let seen: u64 = vm.sh(&counted)?.trim().parse()?;
    let status = vm.sh("auditctl -s")?;
    silence_audit(vm)?;
    end(&process, SIGTERM)?;
    ensure!(
        status.lines().any(|line| line == "lost 0"),
        "auditd lost records: {status}"
    );
    let wanted = u64::from(count) * 2;
    ensure!(seen >= wanted, "{seen} of {wanted} executions are in its log");
    Ok(part)
}

fn with_bpftrace(vm: &Vm, count: u32) -> Result<Part> {
    vm.sh(&format!("rm -f {BPFTRACE_LOG}"))?;
    let process = vm
        .command(&["bpftrace", "-e", ONE_LINER])
        .cgroup("/system.slice/bpftrace.service")
        .spawn(BPFTRACE_LOG)?;
    wait_for("bpftrace is ready", || {
        if process.wait(Duration::ZERO)?.is_some() {
            bail!("bpftrace ended:\n{}", host::tail(&process.log()?, 15));
        }
        vm.run(&["/bin/true"])?;
        Ok(process.log()?.contains("/bin/true").then_some(()))
    })?;
    let part = timed(vm, count, Some(process.pid()))?;
    end(&process, SIGINT)?;
    let log = process.log()?;
    let seen = log.lines().filter(|line| line.contains(FILES)).count() as u64;
    let wanted = u64::from(count) * 2;
    ensure!(seen >= wanted, "it printed {seen} of {wanted} executions");
    Ok(part)
}

/// What [`collector`] found.
#[derive(Debug, Serialize)]
pub struct Collector {
    /// Release of the guest's kernel.
    pub kernel: String,
    /// How the guest ran: `tcg` or `kvm`.
    pub accelerator: String,
    /// Percent of one processor while nothing happens, a window each.
    pub idle: Vec<f64>,
    /// The same with a round every 2 seconds.
    pub attested: Vec<f64>,
    /// Entries of the list while that was measured.
    pub entries: u64,
    /// Records kept when memory was looked at.
    pub records: u64,
    /// Resident memory then, in KiB.
    pub resident: u64,
    /// That part of it which no file backs.
    pub anonymous: u64,
    /// The highest resident memory from then on, in KiB, with evidence made twice over all records.
    pub peak: u64,
}

/// How often a round is to be, in seconds.
const PERIOD: u64 = 2;

/// Measures processor time while idle and while attesting every 2 seconds, `windows` times each, then memory
/// after `records` records.
///
/// # Errors
/// When the guest, the collector or the verifier does not work.
pub fn collector(windows: usize, records: u64) -> Result<Collector> {
    let dir = tempfile::tempdir().context("making a temporary directory")?;
    let node = Node::boot(plan(NEVER), dir.path())?;
    let vm = &node.vm;
    let (process, first) = node.start_collector()?;
    let entries = first.evidence()?.list.len() as u64;
    // Without what is left of the start.
    std::thread::sleep(Duration::from_secs(10));
    let mut idle = Vec::new();
    for window in 1..=windows {
        eprintln!("   window {window} of {windows}: idle");
        idle.push(busy(&node, &process)?.percent);
    }
    end(&process, SIGTERM)?;

    let process = scenario::start_collector(vm, &plan(PERIOD))?;
    node.fresh()?;
    let mut attested = Vec::new();
    for window in 1..=windows {
        eprintln!("   window {window} of {windows}: attesting");
        let busy = busy(&node, &process)?;
        ensure!(busy.rounds > 0, "no round within {} s", WINDOW.as_secs());
        // The interval is the pause between two rounds: this is as if it were from one's start to the next
        // one's.
        attested.push(busy.percent * busy.seconds / (busy.rounds * PERIOD) as f64);
    }
    end(&process, SIGTERM)?;

    let process = scenario::start_collector(vm, &plan(NEVER))?;
    wait_for("cgpathd is ready", || status(vm))?;
    // A new program leaves three records, a new file that is mapped two.
    let execs = u32::try_from(records / 30).context("too many records")?;
    let mappings = u32::try_from(records.saturating_sub(u64::from(execs) * 3) / 2)? + 1;
    let fill = Workload::Fill {
        dir: FILES.to_owned(),
        execs,
        mappings,
    };
    host::step(&format!("making {records} records"), || work::<()>(vm, &fill))?;
    let kept = wait_for("all records are kept", || {
        Ok(status(vm)?.filter(|status| status.records >= records))
    })?;
    ensure!(kept.lost == 0, "{} records were lost", kept.lost);
    let resident = memory(vm, &process, "VmRSS:")?;
    let anonymous = memory(vm, &process, "RssAnon:")?;
    // The high-water mark starts anew: loading programs takes more than running. Source: proc(5),
    // /proc/pid/clear_refs.
    vm.sh(&format!("echo 5 >/proc/{}/clear_refs", process.pid()))?;
    work::<Attested>(vm, &rounds(1))?;
    let peak = memory(vm, &process, "VmHWM:")?;
    let found = Collector {
        kernel: vm.hello().kernel.clone(),
        accelerator: host::accelerator(),
        idle,
        attested,
        entries,
        records: kept.records,
        resident,
        anonymous,
        peak,
    };
    node.vm.power_off()?;
    Ok(found)
}

/// An interval that no measurement lasts, in seconds.
const NEVER: u64 = 86_400;

fn plan(interval: u64) -> Plan {
    let mut plan = Plan::new(Stock::V6_12);
    plan.settings = vec![format!("verifier.interval={interval}")];
    plan
}

/// Rounds by the local socket, beside bare ones.
fn rounds(count: u32) -> Workload {
    Workload::Attest {
        socket: SOCKET.to_owned(),
        count,
    }
}

/// What a process did in a window.
struct Busy {
    percent: f64,
    seconds: f64,
    /// Rounds that the verifier got meanwhile.
    rounds: u64,
}

fn busy(node: &Node, process: &Process<'_>) -> Result<Busy> {
    let look = || -> Result<(f64, f64, i64)> {
        let uptime = node.vm.get_text("/proc/uptime")?;
        let uptime = uptime.split(' ').next().and_then(|seconds| seconds.parse().ok());
        let last = node.site.last()?.map_or(0, |round| round.id);
        Ok((
            uptime.context("/proc/uptime")?,
            processor_time(&node.vm, process.pid())?,
            last,
        ))
    };
    let before = look()?;
    std::thread::sleep(WINDOW);
    let after = look()?;
    let seconds = after.0 - before.0;
    Ok(Busy {
        percent: (after.1 - before.1) / seconds * 100.0,
        seconds,
        rounds: u64::try_from(after.2 - before.2)?,
    })
}

/// A line of /proc/PID/status, in KiB.
fn memory(vm: &Vm, process: &Process<'_>, name: &str) -> Result<u64> {
    let text = vm.get_text(&format!("/proc/{}/status", process.pid()))?;
    let found = || {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    found().with_context(|| format!("no {name} of process {}", process.pid()))
}

/// What [`attest`] found.
#[derive(Debug, Serialize)]
pub struct Attest {
    /// Release of the guest's kernel.
    pub kernel: String,
    /// How the guest ran: `tcg` or `kvm`.
    pub accelerator: String,
    /// Entries of the list at the first round.
    pub entries: u64,
    /// What the rounds took.
    pub times: Attested,
}

/// Times `count` rounds, each beside bare commands to the same TPM.
///
/// # Errors
/// When the guest, the collector or the verifier does not work.
pub fn attest(count: u32) -> Result<Attest> {
    let dir = tempfile::tempdir().context("making a temporary directory")?;
    let node = Node::boot(plan(NEVER), dir.path())?;
    let (process, first) = node.start_collector()?;
    let entries = first.evidence()?.list.len() as u64;
    let times = work(&node.vm, &rounds(count))?;
    end(&process, SIGTERM)?;
    let kernel = node.vm.hello().kernel.clone();
    node.vm.power_off()?;
    Ok(Attest {
        kernel,
        accelerator: host::accelerator(),
        entries,
        times,
    })
}

/// What one template's part of a round gave.
#[derive(Debug, Serialize)]
pub struct TemplatePart {
    /// Wall time of an execution of a known file, microseconds.
    pub known: f64,
    /// Wall time of the execution of a new file, microseconds.
    pub new: f64,
    /// Bytes that one entry of a new file takes in the binary list.
    pub bytes: f64,
}

/// What [`template`] found.
#[derive(Debug, Serialize)]
pub struct Templates {
    /// Release of the guest's kernel.
    pub kernel: String,
    /// How the guest ran: `tcg` or `kvm`.
    pub accelerator: String,
    /// A map from template to what it gave, a round each.
    pub rounds: Vec<BTreeMap<&'static str, TemplatePart>>,
}

/// Each template, and the user whose executions are measured with it.
const BY_USER: [(&str, u32); 2] = [("ima-ng", 1001), ("ima-cgpath", 1002)];

/// Runs a command below so many more shells: an ancestry of two processes would flatter.
const DEEPER: &str = "/var/tmp/deeper";
const DEEPER_SCRIPT: &[u8] = b"#!/bin/sh
n=$1
shift
if [ $n -eq 0 ]; then \"$@\"; else sh $0 $((n - 1)) \"$@\"; fi
exit $?
";

/// A pod as the kubelet's cgroupfs driver has it.
const POD: &str = "/kubepods/burstable/podf52130f4-c5be-423e-8070-daaca055a5ad/\
5bab9779a4ffb2a5acc4160dedb8571b75806c6ad25bf936387678aefd19cb9e";

const LIST: &str = "/sys/kernel/security/ima/binary_runtime_measurements_sha256";

/// Times executions that the kernel measures with one template and with the other, in turn in one boot of a
/// kernel that has both: one round that is not counted, then `rounds`, with `count` executions of each kind.
///
/// # Errors
/// When the guest does not work, or an entry is missing.
pub fn template(patched: Kernel, rounds: usize, count: u32) -> Result<Templates> {
    let mut policy = String::new();
    for (template, user) in BY_USER {
        policy += &format!("measure func=BPRM_CHECK mask=MAY_EXEC uid={user} template={template}\n");
    }
    let vm = Vm::builder(Stock::V6_12)
        .kernel(patched)
        .ima("ima_hash=sha256")
        .start()?;
    vm.put(DEEPER, DEEPER_SCRIPT, 0o755)?;
    vm.put("/etc/ima/by-user", policy.as_bytes(), 0o600)?;
    vm.sh("echo /etc/ima/by-user >/sys/kernel/security/ima/policy")?;
    let mut all = Vec::new();
    for round in 0..=rounds {
        let mut parts = BTreeMap::new();
        for (template, user) in BY_USER {
            parts.insert(template, template_part(&vm, template, user, count)?);
        }
        if round > 0 {
            all.push(parts);
        }
    }
    let kernel = vm.hello().kernel.clone();
    vm.power_off()?;
    Ok(Templates {
        kernel,
        accelerator: host::accelerator(),
        rounds: all,
    })
}

fn template_part(vm: &Vm, template: &str, user: u32, count: u32) -> Result<TemplatePart> {
    let before = vm.get(LIST)?.len();
    let text = serde_json::to_string(&Workload::Execs {
        dir: format!("/var/tmp/bench-{user}"),
        count,
    })?;
    let user = user.to_string();
    let argv = [
        "sh",
        DEEPER,
        "4",
        "setpriv",
        "--reuid",
        &user,
        "--clear-groups",
        "guest",
        "workload",
        &text,
    ];
    let command = vm.command(&argv).timeout(WORK);
    let said = command.cgroup(POD).run()?.check()?.text();
    let timed: Timed = serde_json::from_str(&said).with_context(|| format!("the answer of {text}"))?;
    let list = vm.get(LIST)?;
    let mut decoder = Decoder::auto();
    decoder.feed(&list);
    decoder.end();
    let (mut entries, mut bytes) = (0_u32, 0);
    while let Some(entry) = decoder.next_entry()? {
        if entry.offset() >= before as u64
            && entry
                .file_name()
                .is_some_and(|name| name.starts_with(b"/var/tmp/bench-"))
        {
            ensure!(
                entry.template_name() == template.as_bytes(),
                "an entry has another template"
            );
            entries += 1;
            bytes += entry.record().len();
        }
    }
    ensure!(
        entries > count,
        "{entries} entries of {count} new files and the known one"
    );
    Ok(TemplatePart {
        known: mean_us(&timed.known),
        new: mean_us(&timed.new),
        bytes: bytes as f64 / f64::from(entries),
    })
}
