//! What the tag costs an execution of a new file, and a list: our template beside the one that it replaces.
//!
//! Not here: the guest.

use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

use super::guest::{self, spread};
use super::{BenchOptions, Figure, Ratio, Report};
use crate::kernel;
use crate::workspace::Workspace;

/// Executions of each kind in each round.
const COUNT: u64 = 100;

/// Both templates, the one that is there today first.
const TEMPLATES: [&str; 2] = ["ima-ng", "ima-cgpath"];

/// `cargo xtask bench template`.
///
/// # Errors
/// When something does not build, or the guest does not work.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    let count = options.entries.unwrap_or(COUNT);
    let Ok(built) = kernel::for_guests(workspace, kernel::USUAL_BASE, options.consent)? else {
        bail!("the kernel with the series cannot be built: what that needs is missing");
    };
    let found = guest::run(
        workspace,
        &[
            "template".to_owned(),
            built.display().to_string(),
            options.rounds().to_string(),
            count.to_string(),
        ],
    )?;
    let rounds = found.json["rounds"].as_array().context("no rounds")?;
    let each = |of: &dyn Fn(&Json) -> Option<f64>| -> Vec<f64> { rounds.iter().filter_map(of).collect() };
    let mut figures = Vec::new();
    for template in TEMPLATES {
        for (kind, name) in [("known", "known file"), ("new", "new file")] {
            figures.push(Figure {
                name: format!("{name}, {template}"),
                unit: "us",
                found: spread(&each(&|round| round[template][kind].as_f64())),
            });
        }
        figures.push(Figure {
            name: format!("an entry's bytes in the list, {template}"),
            unit: "B",
            found: spread(&each(&|round| round[template]["bytes"].as_f64())),
        });
    }
    let ratio = |field: &'static str, name: &str| {
        let of = move |round: &Json| {
            Some(round[TEMPLATES[1]][field].as_f64()? / round[TEMPLATES[0]][field].as_f64()?)
        };
        Ratio {
            name: format!("{name}: ima-cgpath / ima-ng"),
            goal: None,
            found: spread(&each(&of)),
        }
    };
    let ratios = vec![
        ratio("known", "known file"),
        ratio("new", "new file"),
        ratio("bytes", "an entry's bytes"),
    ];
    let mut method = found.method;
    method.extend([
        "One boot of the kernel with the series, no collector. Two rules of one policy, by the user who \
         executes:".to_owned(),
        "measure func=BPRM_CHECK uid=… template=ima-ng, and the same with ima-cgpath.".to_owned(),
        format!("In each round, in turn, each template in a pod's cgroup, with nine processes in `dep`: \
            {count} executions of one known"),
        "file, then of as many new ones. Wall time from before the fork to the child's end, mean of a round. \
         A round counts"
            .to_owned(),
        "only if the list then has an entry of that template for each new file.".to_owned(),
    ]);
    Ok(Report {
        name: "template",
        method,
        figures,
        ratios,
    })
}
