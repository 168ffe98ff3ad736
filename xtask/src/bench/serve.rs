//! Many nodes attesting to one `cgpath serve`: whether a round is late, and what the service costs beside
//! judging alone.
//!
//! Not here: the nodes, which are made of software (the example `serve_load` of `cgpath-service`).

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

use super::measure::{self, Spread};
use super::{BenchOptions, Figure, Ratio, Report};
use crate::workspace::Workspace;
use crate::{build, shell};

const NODES: u64 = 1_000;
/// Seconds between two rounds of a node.
const PERIOD: u64 = 10;
/// Rounds of each node.
const ROUNDS: usize = 12;
/// Entries of each node's list before its first round.
const ENTRIES: u64 = 1_000;
/// New entries of a round.
const NEW: u64 = 20;

/// `cargo xtask bench serve`.
///
/// # Errors
/// When something does not build, or a round of an honest node is refused or not trusted.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    build::with_examples(
        workspace,
        "the service and nodes made of software",
        "cgpath-service",
        &["serve_load"],
    )?;
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let entries = options.entries.unwrap_or(ENTRIES);
    let machine = measure::machine();
    let dir = workspace.target.join("bench/serve");
    // What an interrupted run left.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let mut command = Command::new(workspace.target.join("release/examples/serve_load"));
    command.arg(workspace.target.join("release/cgpath")).arg(&dir);
    command.args([NODES, PERIOD, rounds as u64, entries, NEW].map(|n| n.to_string()));
    let said = shell::spoken(&mut command);
    let _ = std::fs::remove_dir_all(&dir);
    let found: Json = serde_json::from_str(&said?).context("what serve_load prints")?;
    if found["failed"] != 0 {
        bail!(
            "{} rounds failed, of {} nodes with {rounds} each",
            found["failed"],
            NODES
        );
    }
    Ok(report(&found, machine, rounds, entries))
}

fn report(found: &Json, machine: String, rounds: usize, entries: u64) -> Report {
    let number = |name: &str| found[name].as_f64();
    let one = |value: Option<f64>| {
        let spread = value.filter(|v| v.is_finite()).and_then(|v| Spread::of(&[v]));
        spread.ok_or_else(|| "it was not measured".to_owned())
    };
    let figure = |name: &str, unit, value: Option<f64>| Figure {
        name: name.to_owned(),
        unit,
        found: one(value),
    };
    let over = |a: &str, b: &str| Some(number(a)? / number(b)?);
    let each = |name: &str| Some(number(name)? / number("rounds")? * 1e3);
    let ratio = |name: &str, goal, value| Ratio {
        name: name.to_owned(),
        goal,
        found: one(value),
    };
    let mib = |name: &str| Some(number(name)? / 1024.0 / 1024.0);
    Report {
        name: "serve",
        method: vec![
            machine,
            format!(
                "{NODES} nodes, each with its key, its policy and four pods, a round every {PERIOD} s, \
                {rounds} each, spread over the period."
            ),
            format!(
                "A round: TLS connection, nonce, {NEW} new entries and their records behind {entries} \
                and more; the verdict is kept and synced."
            ),
            "Signed before the clock starts; the sender takes of the same processors what is said. Late: \
             done after the next one was due."
                .to_owned(),
            "Appraisal: the same rounds decoded and judged with no network and no store. Bound: their two \
             signatures and hash chains."
                .to_owned(),
        ],
        figures: vec![
            figure("rounds", "", number("rounds")),
            figure("late (goal: none)", "", number("late")),
            figure("from due to verdict, median", "ms", number("latency_median")),
            figure("from due to verdict, p99", "ms", number("latency_p99")),
            figure("from due to verdict, longest", "ms", number("latency_max")),
            figure(
                "the sender began late by at most",
                "ms",
                number("generator_behind"),
            ),
            figure("service, of one processor", "", over("service", "wall")),
            figure("sender, of one processor", "", over("generator", "wall")),
            figure("service, processor time of a round", "ms", each("service")),
            figure("of that in the kernel", "ms", each("service_system")),
            figure("appraisal of a round", "ms", each("appraisal")),
            figure("bound of a round", "ms", each("bound")),
            figure("evidence of a round", "KiB", number("bytes").map(|n| n / 1024.0)),
            figure(
                "written to disk in a round",
                "KiB",
                each("written").map(|n| n / 1e3 / 1024.0),
            ),
            figure("service's memory, peak", "MiB", mib("memory")),
        ],
        ratios: vec![
            ratio("late / rounds", Some("0"), over("late", "rounds")),
            ratio("service / appraisal", None, over("service", "appraisal")),
            ratio("service / bound", None, over("service", "bound")),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_the_sender_does_not_give_is_not_shown_as_one() {
        let found = serde_json::json!({ "rounds": 100, "late": 0, "service": 0.5, "appraisal": 0.25 });
        let report = report(&found, String::new(), 1, 1);
        let shown = |name: &str| {
            report
                .figures
                .iter()
                .find(|f| f.name == name)
                .map(|f| f.found.clone())
        };
        assert_eq!(
            shown("service, processor time of a round")
                .unwrap()
                .unwrap()
                .median,
            5.0
        );
        assert!(shown("bound of a round").unwrap().is_err());
        assert_eq!(report.ratios[1].found.as_ref().unwrap().median, 2.0);
        assert!(report.ratios[2].found.is_err());
    }
}
