//! What the collector takes of a node: memory after many records, processor time while idle and while
//! attesting.
//!
//! Not here: the guest.

use anyhow::Result;

use super::guest::{self, numbers, spread};
use super::{BenchOptions, Figure, Report};
use crate::workspace::Workspace;

/// Records before memory is looked at.
const RECORDS: u64 = 100_000;

/// `cargo xtask bench collector`.
///
/// # Errors
/// When something does not build, or the guest, the collector or the verifier does not work.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    let records = options.entries.unwrap_or(RECORDS);
    let found = guest::run(
        workspace,
        &[
            "collector".to_owned(),
            options.rounds().to_string(),
            records.to_string(),
        ],
    )?;
    let number = |name: &str| -> Vec<f64> { found.json[name].as_f64().into_iter().collect() };
    let mebibytes = |name: &str| -> Vec<f64> { number(name).iter().map(|kib| kib / 1024.0).collect() };
    let mut method = found.method;
    method.extend([
        format!(
            "Memory: VmRSS of cgpathd after {} records; of these a tenth from new programs, executed, the \
             rest from new",
            found.json["records"]
        ),
        "files, mapped executable. Its peak: VmHWM, from then on, after evidence of all of them was made \
         twice."
            .to_owned(),
        format!(
            "Processor: user and system time with children over windows of 60 s, in percent of one \
             processor; {} entries.",
            found.json["entries"]
        ),
        "Attesting: whole rounds with a verifier over HTTPS, as if one began every 2 s.".to_owned(),
    ]);
    Ok(Report {
        name: "collector",
        method,
        figures: vec![
            Figure {
                name: "resident memory (goal: under 32)".to_owned(),
                unit: "MiB",
                found: spread(&mebibytes("resident")),
            },
            Figure {
                name: "of it backed by no file".to_owned(),
                unit: "MiB",
                found: spread(&mebibytes("anonymous")),
            },
            Figure {
                name: "resident memory's peak while evidence is made".to_owned(),
                unit: "MiB",
                found: spread(&mebibytes("peak")),
            },
            Figure {
                name: "processor, idle".to_owned(),
                unit: "%",
                found: spread(&numbers(&found.json["idle"])),
            },
            Figure {
                name: "processor, attesting every 2 s (goal: under 1.23)".to_owned(),
                unit: "%",
                found: spread(&numbers(&found.json["attested"])),
            },
        ],
        ratios: Vec::new(),
    })
}
