//! What a round costs a verifier that follows the node, and what it costs the collector, by the length of the
//! list.
//!
//! Not here: the nodes, which are made of software: the example `follow_cost` of `cgpath-appraisal`, and
//! `round_cost` of `cgpathd`, which runs the collector's own engine.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

use super::follow::{self, Row, figure, lengths, numbers as numbers_of, row_of};
use super::measure::{self, Spread};
use super::{BenchOptions, Ratio, Report};
use crate::shell;
use crate::workspace::Workspace;

/// Pods where nothing else is said.
const PODS: u64 = 4;
const MAX_PODS: u64 = 10_000;
/// Entries before the rounds, and rounds of a pass, over numbers of pods.
const ENTRIES_OVER_PODS: u64 = 10_000;
const ROUNDS_OF_PASS: usize = 15;

/// What the verifier's example measured: name, unit, key, and by what it is to be multiplied.
const VERIFIER: &[Row] = &[
    ("judging a round (goal: under 2)", "ms", "follow", 1.0),
    ("decoding it", "ms", "decoding", 1.0),
    ("the verdict as JSON", "ms", "json", 1.0),
    ("bytes sent", "KiB", "bytes", 1.0 / 1024.0),
    ("of whole evidence", "KiB", "whole", 1.0 / 1024.0),
    ("the follower's memory", "MiB", "memory", 1.0 / 1024.0 / 1024.0),
    ("making the follower, once", "ms", "making", 1.0),
];

/// The same of the collector's.
const COLLECTOR: &[Row] = &[
    ("collector, a round with a delta", "ms", "cpu", 1.0),
    ("    records into the spool and the chain", "ms", "records", 1.0),
    ("    list, checkpoint, anchoring", "ms", "seal", 1.0),
    ("    asking for the quote", "ms", "quote", 1.0),
    ("    evidence", "ms", "evidence", 1.0),
    ("    besides, its canary", "ms", "canary", 1.0),
    ("collector, the round from start to end", "ms", "wall", 1.0),
    ("    of which the quote", "ms", "quote-wall", 1.0),
    ("collector, bytes made", "KiB", "bytes", 1.0 / 1024.0),
    ("collector, whole evidence beyond it", "ms", "whole-cpu", 1.0),
    ("    of which records wait", "ms", "whole-engine", 1.0),
    ("    from start to end", "ms", "whole-wall", 1.0),
    (
        "collector, bytes of whole evidence",
        "KiB",
        "whole-bytes",
        1.0 / 1024.0,
    ),
];

/// Runs the collector's example; its files, some 3 GB for a list of 1,000,000, are below `target`.
fn collector(workspace: &Workspace, entries: u64, rounds: usize, pods: u64) -> Result<Json> {
    eprintln!("   round of the collector: {entries} entries, {pods} pods");
    let mut command = Command::new(workspace.target.join("release/examples/round_cost"));
    command
        .args([entries.to_string(), rounds.to_string(), pods.to_string()])
        .env("TMPDIR", &workspace.target);
    serde_json::from_str(&shell::output(&mut command)?).context("what round_cost prints")
}

/// `cargo xtask bench round`.
///
/// # Errors
/// When something does not build, or a round of the honest node is not followed.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    if let Some(pods) = &options.pods {
        return over_pods(workspace, options, pods);
    }
    follow::build(workspace)?;
    build_collector(workspace)?;
    let mut figures = Vec::new();
    for entries in lengths(options) {
        let verifier = follow::run(workspace, "round", entries, options.rounds())?;
        let collector = collector(workspace, entries, options.rounds(), PODS)?;
        for (found, rows) in [(verifier, VERIFIER), (collector, COLLECTOR)] {
            figures.extend(
                rows.iter()
                    .map(|row| row_of(&found, &format!("{entries} entries: "), row)),
            );
        }
    }
    let mut method = vec![
        measure::machine(),
        "A round: 100 new entries with their records, one checkpoint; the list before it as long as said."
            .to_owned(),
        "Processor time of all threads, where nothing else is said.".to_owned(),
    ];
    method.extend(what_is_in().map(str::to_owned));
    Ok(Report {
        name: "round",
        method,
        figures,
        ratios: Vec::new(),
    })
}

/// What the collector's figures are of.
fn what_is_in() -> [&'static str; 4] {
    [
        "collector: its own code from a record as the ring buffer has it, and the list in the kernel's \
         binary form, to the file of evidence: decoding, spool, attribution, joins, partitions, the canary's \
         start, checkpoint, its signature, writing and reading its file, the quote, assembly.",
        "collector, not included: the eBPF programs and the ring buffer's handling; IMA; the kernel's walk \
         along its list at each reading (the list is a file here); the TPM (a swtpm, its time counts from \
         start to end only); TLS and sending.",
        "collector, before the rounds: every entry with a record, of the host and the pods (four, if nothing \
         else is said) in turn; no register is extended. Files lie below target/ and nothing is synced, as \
         in the collector.",
        "whole evidence: what the same checkpoint's evidence costs where no position is given; the quote is \
         the round's.",
    ]
}

/// What a round costs the collector, in turn for each number of pods, behind a list of one length.
fn over_pods(workspace: &Workspace, options: &BenchOptions, pods: &str) -> Result<Report> {
    let numbers = pods
        .split(',')
        .map(|n| n.parse().ok().filter(|n| (1..=MAX_PODS).contains(n)))
        .collect::<Option<Vec<u64>>>()
        .with_context(|| {
            format!("--pods {pods}: not numbers from 1 to {MAX_PODS}, with commas between them")
        })?;
    build_collector(workspace)?;
    let entries = options.entries.unwrap_or(ENTRIES_OVER_PODS);
    let mut passes: BTreeMap<u64, Vec<[f64; 2]>> = BTreeMap::new();
    for pass in 0..options.rounds() {
        let (last, first) = numbers.split_at(pass % numbers.len());
        for &pods in first.iter().chain(last) {
            let found = collector(workspace, entries, ROUNDS_OF_PASS, pods)?;
            let median = |name| Spread::of(&numbers_of(&found, name)).map(|spread| spread.median);
            let (Some(round), Some(whole)) = (median("cpu"), median("whole-cpu")) else {
                bail!("round_cost did not say what a round costs: {found}");
            };
            passes.entry(pods).or_default().push([round, whole]);
        }
    }
    let mut report = Report {
        name: "round over pods",
        method: vec![
            measure::machine(),
            format!(
                "A round: 100 new entries with their records, one checkpoint; behind {entries} entries. \
                 Processor time."
            ),
            format!(
                "In turn for each number of pods, each pass with another one first; the median of \
                 {ROUNDS_OF_PASS} rounds. Ratios within a pass."
            ),
        ],
        figures: Vec::new(),
        ratios: Vec::new(),
    };
    report.method.extend(what_is_in().map(str::to_owned));
    for (at, what) in ["a round with a delta", "whole evidence beyond it"]
        .into_iter()
        .enumerate()
    {
        for (pods, passes_of) in &passes {
            let values: Vec<f64> = passes_of.iter().map(|pass| pass[at]).collect();
            report
                .figures
                .push(figure(format!("{pods} pods: {what}"), "ms", &values));
            let Some((base, first)) = passes.first_key_value() else {
                continue;
            };
            let ratios: Vec<f64> = values
                .iter()
                .zip(first)
                .map(|(value, base)| value / base[at])
                .collect();
            report.ratios.push(Ratio {
                name: format!("{what}, {pods} pods / {base}"),
                goal: Some("0.9 to 1.1"),
                found: Spread::of(&ratios).ok_or_else(|| "it was not measured".to_owned()),
            });
        }
    }
    Ok(report)
}

fn build_collector(workspace: &Workspace) -> Result<()> {
    let what = "a collector on a machine made of software";
    follow::example(workspace, what, "cgpathd", "round_cost")
}
