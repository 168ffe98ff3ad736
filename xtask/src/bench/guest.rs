//! Runs a measurement in a guest and reads what was found: the part that the benchmarks of the collector
//! share.
//!
//! Not here: the measurements (`vm-tests`, which this crate must not depend on: its program `bench` is run),
//! what they mean.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;

use super::measure::{self, Spread};
use crate::workspace::Workspace;
use crate::{build, shell};

/// What a measurement found, and the machine it was found on.
pub struct Found {
    pub json: Json,
    /// For a report's method: the machine, the guest.
    pub method: Vec<String>,
}

/// Builds everything and runs one measurement in a guest of its own.
///
/// # Errors
/// When something does not build or the measurement cannot be made.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<Found> {
    // What is measured is what is shipped: optimised.
    build::optimised(workspace, &["cgpath", "cgpathd", "bench"])?;
    build::guest(workspace)?;
    let machine = measure::machine();
    let mut command = Command::new(workspace.target.join("release/bench"));
    workspace
        .with_environment(command.args(arguments))
        .env("CGPATH_PROFILE", "release");
    shell::heading(&format!("bench {}, in a guest", arguments.join(" ")));
    let text = shell::spoken(&mut command)?;
    let json: Json = serde_json::from_str(&text).context("what `bench` printed")?;
    let word = |name: &str| json[name].as_str().unwrap_or("unknown").to_owned();
    let mut guest = format!(
        "Guest: Linux {}, 2 processors, QEMU {}",
        word("kernel"),
        word("accelerator")
    );
    guest += match word("accelerator").as_str() {
        "tcg" => ": emulated, on one thread. Compare within this run; times alone say nothing of hardware.",
        _ => ".",
    };
    Ok(Found {
        method: vec![machine, guest],
        json,
    })
}

/// The numbers of an array.
pub fn numbers(json: &Json) -> Vec<f64> {
    json.as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(Json::as_f64)
        .collect()
}

/// The spread of these, or a reason.
pub fn spread(values: &[f64]) -> Result<Spread, String> {
    Spread::of(values).ok_or_else(|| "no runs".to_owned())
}
