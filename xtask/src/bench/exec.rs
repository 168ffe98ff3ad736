//! What a collector adds to executions, beside what auditd's rule and a bpftrace one-liner add; and how long
//! the kernel looks at our programs before it takes them.
//!
//! Promises: what somebody adds is the difference to the same round without anybody. Not here: the guest.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;

use super::guest::{self, spread};
use super::{BenchOptions, Figure, Ratio, Report};
use crate::workspace::Workspace;

/// Executions of each kind in each round.
const COUNT: u64 = 200;

/// The committed counts, which a test compares with (`vm-tests/tests/guests/records.rs`).
const COUNTS: &str = "vm-tests/tests/verified-instructions.txt";

/// `cargo xtask bench exec`.
///
/// # Errors
/// When something does not build, or the guest or the collector does not work.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    let count = options.entries.unwrap_or(COUNT);
    let found = guest::run(
        workspace,
        &["exec".to_owned(), options.rounds().to_string(), count.to_string()],
    )?;
    let rounds = found.json["rounds"].as_array().context("no rounds")?;
    let why = |name: &str| {
        let reason = found.json["missing"][name].as_str();
        reason.map(|reason| reason.lines().collect::<Vec<_>>().join(" "))
    };
    let each = |of: &dyn Fn(&Json) -> Option<f64>| -> Vec<f64> { rounds.iter().filter_map(of).collect() };
    let shown = |name: &str, values: Vec<f64>| why(name).map_or_else(|| spread(&values), Err);

    let mut figures = Vec::new();
    let mut ratios = Vec::new();
    for kind in ["known", "new"] {
        figures.push(Figure {
            name: format!("{kind} file, nobody"),
            unit: "us",
            found: spread(&each(&|round| round["none"][kind].as_f64())),
        });
        for name in ["collector", "auditd", "bpftrace"] {
            figures.push(Figure {
                name: format!("{kind} file, added by {name}"),
                unit: "us",
                found: shown(name, each(&|round| added(round, name, kind))),
            });
        }
    }
    for name in ["collector", "auditd", "bpftrace"] {
        figures.push(Figure {
            name: format!("either, processor time of {name}'s process"),
            unit: "us",
            found: shown(name, each(&|round| round[name]["process"].as_f64())),
        });
    }
    for kind in ["known", "new"] {
        for (other, goal) in [("auditd", Some("under 0.5")), ("bpftrace", None)] {
            let ratio = |round: &Json| {
                let theirs = added(round, other, kind).filter(|added| *added > 0.0)?;
                Some(added(round, "collector", kind)? / theirs)
            };
            ratios.push(Ratio {
                name: format!("{kind} file, added: collector / {other}"),
                goal,
                found: shown(other, each(&ratio)),
            });
        }
        ratios.push(Ratio {
            name: format!("{kind} file: with collector / nobody"),
            goal: None,
            found: spread(&each(&|round| {
                Some(round["collector"][kind].as_f64()? / round["none"][kind].as_f64()?)
            })),
        });
    }
    let written = std::fs::read_to_string(workspace.root.join(Path::new(COUNTS))).unwrap_or_default();
    figures.extend(instructions(&found.json, &written));

    let mut method = found.method;
    method.extend([
        format!("In each round, in turn: nobody, collector, auditd, bpftrace; {count} executions of one \
            known file, then"),
        "of as many new ones, one after the other; static programs of 200 bytes that exit. Wall time from \
         before the"
            .to_owned(),
        "fork to the child's end, mean of a round. IMA measures with the recommended policy throughout, so \
         it is in all."
            .to_owned(),
        "collector: cgpathd loaded anew for the round (a new chain each time) and unloaded after it; it does \
         not attest."
            .to_owned(),
        "auditd: -a always,exit -F arch=b64 -S execve,execveat; the distribution's auditd.conf, its log on \
         disk, -b 8192."
            .to_owned(),
        "In the other parts audit is disabled with the rule never,task.".to_owned(),
        "bpftrace: tracepoint:sched:sched_process_exec { printf(pid, comm, filename) }, output to a \
         file.".to_owned(),
        "A part counts only if every execution is in the contender's records, log or output.".to_owned(),
        format!("Processor time is to 10 ms in a round. Instructions: verified_insns; those of {COUNTS} in \
            parentheses."),
    ]);
    Ok(Report {
        name: "exec",
        method,
        figures,
        ratios,
    })
}

/// Microseconds that somebody adds to an execution in a round.
fn added(round: &Json, name: &str, kind: &str) -> Option<f64> {
    Some(round[name][kind].as_f64()? - round["none"][kind].as_f64()?)
}

/// Each program with its count, and in its name what was committed for this kernel series.
fn instructions(found: &Json, committed: &str) -> Vec<Figure> {
    let kernel = found["kernel"].as_str().unwrap_or_default();
    let programs = found["programs"].as_array().map_or(&[][..], Vec::as_slice);
    programs
        .iter()
        .map(|program| {
            let name = program["name"].as_str().unwrap_or("unknown");
            let written = committed.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                let series = words.next()?;
                let here = kernel.strip_prefix(series)?.starts_with('.');
                (here && words.next()? == name).then(|| words.next())?
            });
            Figure {
                name: format!("program {name} ({})", written.unwrap_or("not written down")),
                unit: "insns",
                found: spread(&program["instructions"].as_f64().into_iter().collect::<Vec<_>>()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_count_beside_a_program_is_its_kernels() {
        let found = json!({ "kernel": "6.1.9-x", "programs": [{ "name": "mapped", "instructions": 90 }] });
        let committed = "# kernel program count\n6.12 mapped 70\n6.1 mapped 80\n6.1 other 60\n";
        assert_eq!(instructions(&found, committed)[0].name, "program mapped (80)");
        assert_eq!(
            instructions(&found, "")[0].name,
            "program mapped (not written down)"
        );
    }

    #[test]
    fn what_is_added_needs_both_parts_of_a_round() {
        let round = json!({ "none": { "new": 10.0 }, "auditd": { "new": 12.5 } });
        assert_eq!(added(&round, "auditd", "new"), Some(2.5));
        assert_eq!(added(&round, "bpftrace", "new"), None);
    }
}
