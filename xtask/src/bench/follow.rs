//! What verification costs beside the bare hash chains of the same banks, and how long a tenant's bundle is,
//! by the length of the list.
//!
//! Not here: the node, which is made of software (the example `follow_cost` of `cgpath-appraisal`).

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;

use super::measure::{self, Spread};
use super::{BenchOptions, Figure, Ratio, Report};
use crate::workspace::Workspace;
use crate::{build, shell};

/// Entries where the benchmark has one length.
const ENTRIES: u64 = 1_000_000;

/// A row of what an example says: name, unit, key, and by what it is to be multiplied.
pub(super) type Row = (&'static str, &'static str, &'static str, f64);

/// Lengths of the list where it has several.
const LENGTHS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Runs the example.
pub(super) fn run(workspace: &Workspace, what: &str, entries: u64, rounds: usize) -> Result<Json> {
    let program = workspace.target.join("release/examples/follow_cost");
    let mut command = Command::new(program);
    command.args([what, &entries.to_string(), &rounds.to_string()]);
    eprintln!("   {what}: {entries} entries");
    serde_json::from_str(&shell::output(&mut command)?).context("what follow_cost prints")
}

/// Builds the example.
pub(super) fn build(workspace: &Workspace) -> Result<()> {
    example(
        workspace,
        "a node made of software",
        "cgpath-appraisal",
        "follow_cost",
    )
}

/// Builds an example of a package as it is measured; `what` it is, for people.
pub(super) fn example(workspace: &Workspace, what: &str, package: &str, name: &str) -> Result<()> {
    let mut cargo = build::cargo(workspace);
    cargo.args(["build", "--release", "--locked", "-p", package, "--example", name]);
    shell::run(what, &mut cargo)
}

/// What an example printed under `name`: a number, or a list of them.
pub(super) fn numbers(found: &Json, name: &str) -> Vec<f64> {
    let list = found[name].as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .chain([&found[name]])
        .filter_map(Json::as_f64)
        .collect()
}

/// A figure of what was measured.
pub(super) fn figure(name: String, unit: &'static str, values: &[f64]) -> Figure {
    Figure {
        name,
        unit,
        found: Spread::of(values).ok_or_else(|| "it was not measured".to_owned()),
    }
}

/// The figure of a row; `before` stands before its name.
pub(super) fn row_of(found: &Json, before: &str, (what, unit, key, scale): &Row) -> Figure {
    let values: Vec<f64> = numbers(found, key).iter().map(|n| n * scale).collect();
    figure(format!("{before}{what}"), unit, &values)
}

/// Lengths of the list.
pub(super) fn lengths(options: &BenchOptions) -> Vec<u64> {
    options.entries.map_or(LENGTHS.to_vec(), |entries| vec![entries])
}

/// `cargo xtask bench verify`.
///
/// # Errors
/// When something does not build, or the honest node is not trusted.
pub fn verify(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    build(workspace)?;
    let entries = options.entries.unwrap_or(ENTRIES);
    let found = run(workspace, "verify", entries, options.rounds())?;
    let pairs = |a: &str, b: &str| -> Vec<f64> {
        let (a, b) = (numbers(&found, a), numbers(&found, b));
        a.iter().zip(&b).map(|(a, b)| a / b).collect()
    };
    let ratio = |name: &str, goal, values: Vec<f64>| Ratio {
        name: name.to_owned(),
        goal,
        found: Spread::of(&values).ok_or_else(|| "it was not measured".to_owned()),
    };
    Ok(Report {
        name: "verify",
        method: vec![
            measure::machine(),
            format!(
                "{entries} ima-ng entries with a record each, 400 records of four pods; PCR 10 in all \
                four banks."
            ),
            "appraisal: every rule (replay, joins, partitions, policy), from decoded evidence to the \
             verdict."
                .to_owned(),
            "chains: as many bare extensions of each of these banks, with the same hash code, on one \
             thread."
                .to_owned(),
            "replay: digests of the same entries in these banks and their extensions, and nothing else, on \
             all processors."
                .to_owned(),
        ],
        figures: vec![
            figure(
                "appraisal, from start to end".to_owned(),
                "s",
                &numbers(&found, "wall"),
            ),
            figure(
                "appraisal, processor time".to_owned(),
                "s",
                &numbers(&found, "appraisal"),
            ),
            figure(
                "decoding of the evidence".to_owned(),
                "s",
                &numbers(&found, "decoding"),
            ),
            figure("chains".to_owned(), "s", &numbers(&found, "chains")),
            figure(
                "replay, from start to end".to_owned(),
                "s",
                &numbers(&found, "replay-wall"),
            ),
            figure(
                "replay, processor time".to_owned(),
                "s",
                &numbers(&found, "replay"),
            ),
        ],
        ratios: vec![
            ratio(
                "appraisal / chains, from start to end",
                Some("at most 1.5"),
                pairs("wall", "chains"),
            ),
            ratio(
                "appraisal / chains, processor time",
                None,
                pairs("appraisal", "chains"),
            ),
            ratio(
                "appraisal / replay, from start to end",
                None,
                pairs("wall", "replay-wall"),
            ),
            ratio(
                "appraisal / replay, processor time",
                None,
                pairs("appraisal", "replay"),
            ),
        ],
    })
}

/// `cargo xtask bench tenant`.
///
/// # Errors
/// When something does not build, or no bundle can be made.
pub fn tenant(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    build(workspace)?;
    let mut figures = Vec::new();
    for entries in lengths(options) {
        let found = run(workspace, "tenant", entries, 1)?;
        let mut add = |what: String, name: &str| {
            figures.push(figure(
                format!("{entries} entries: {what}"),
                "KiB",
                &numbers(&found, name)
                    .iter()
                    .map(|n| n / 1024.0)
                    .collect::<Vec<f64>>(),
            ));
        };
        add(
            format!("who followed to {} entries before", found["new"]),
            "followed",
        );
        add("who did not".to_owned(), "whole");
    }
    Ok(Report {
        name: "tenant",
        method: vec![
            "Bytes of the bundle of a pod with 101 records on a node with such a list, without an \
            EAR; four banks quoted."
                .to_owned(),
        ],
        figures,
        ratios: Vec::new(),
    })
}
