//! What a round costs a verifier that follows the node, and what it costs the collector, by the length of the list.
//!
//! Not here: the nodes, which are made of software: the example `follow_cost` of `verifier`, and `round_cost` of `collector`,
//! which runs the collector's own engine.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;

use super::follow::{self, figure, lengths, numbers};
use super::{Figure, Options, Report, measure};
use crate::world::World;
use crate::{build, shell};

/// What the verifier's example measured: name, unit, key, and by what it is to be multiplied.
const VERIFIER: &[(&str, &str, &str, f64)] = &[
    ("judging a round (goal: under 2)", "ms", "follow", 1.0),
    ("decoding it", "ms", "decoding", 1.0),
    ("the verdict as JSON", "ms", "json", 1.0),
    ("bytes sent", "KiB", "bytes", 1.0 / 1024.0),
    ("of whole evidence", "KiB", "whole", 1.0 / 1024.0),
    ("the follower's memory", "MiB", "memory", 1.0 / 1024.0 / 1024.0),
    ("making the follower, once", "ms", "making", 1.0),
];

/// The same of the collector's.
const COLLECTOR: &[(&str, &str, &str, f64)] = &[
    ("collector, a round for who follows", "ms", "cpu", 1.0),
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
fn collector(world: &World, entries: u64, rounds: usize) -> Result<Json> {
    eprintln!("   round of the collector: {entries} entries");
    let mut command = Command::new(world.target.join("release/examples/round_cost"));
    command
        .args([entries.to_string(), rounds.to_string()])
        .env("TMPDIR", &world.target);
    serde_json::from_str(&shell::output(&mut command)?).context("what round_cost prints")
}

/// `cargo xtask bench round`.
///
/// # Errors
/// When something does not build, or a round of the honest node is not followed.
pub fn run(world: &World, options: &Options) -> Result<Report> {
    follow::build(world)?;
    let mut cargo = build::cargo(world);
    cargo.args([
        "build",
        "--release",
        "--locked",
        "-p",
        "collector",
        "--example",
        "round_cost",
    ]);
    shell::run("a collector on a machine made of software", &mut cargo)?;
    let mut figures = Vec::new();
    for entries in lengths(options) {
        let verifier = follow::run(world, "round", entries, options.rounds())?;
        let collector = collector(world, entries, options.rounds())?;
        for (found, rows) in [(verifier, VERIFIER), (collector, COLLECTOR)] {
            figures.extend(rows.iter().map(|row| row_of(&found, entries, row)));
        }
    }
    Ok(Report {
        name: "round",
        method: vec![
            measure::machine(),
            "A round: 100 new entries with their records, one checkpoint; the list before it as long as said.".to_owned(),
            "Processor time of all threads, where nothing else is said.".to_owned(),
            "collector: its own code from a record as the ring buffer has it, and the list in the kernel's binary form, to the file of \
             evidence: decoding, spool, attribution, joins, partitions, the canary's start, checkpoint, its signature, writing and \
             reading its file, the quote, assembly."
                .to_owned(),
            "collector, not included: the eBPF programs and the ring buffer's handling; IMA; the kernel's walk along its list at each \
             reading (the list is a file here); the TPM (a swtpm, its time counts from start to end only); TLS and sending."
                .to_owned(),
            "collector, before the rounds: every entry with a record, of the host and four pods in turn; no register is extended. \
             Files lie below target/ and nothing is synced, as in the collector."
                .to_owned(),
            "whole evidence: what the same checkpoint's evidence costs where no position is given; the quote is the round's."
                .to_owned(),
        ],
        figures,
        ratios: Vec::new(),
    })
}

fn row_of(found: &Json, entries: u64, (what, unit, key, scale): &(&str, &'static str, &str, f64)) -> Figure {
    let values: Vec<f64> = numbers(found, key).iter().map(|n| n * scale).collect();
    figure(format!("{entries} entries: {what}"), unit, &values)
}
