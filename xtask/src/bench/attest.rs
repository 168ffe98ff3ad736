//! What a round of attestation adds to the commands that it cannot do without: one extension of the TPM and
//! one quote.
//!
//! Not here: the guest.

use anyhow::Result;
use serde_json::Value as Json;
use std::collections::BTreeMap;

use super::guest::{self, numbers, spread};
use super::{BenchOptions, Figure, Ratio, Report};
use crate::workspace::Workspace;

/// Rounds.
const CYCLES: u64 = 200;

/// Rounds of one pass of one number of pods.
const CYCLES_OF_PASS: u64 = 20;

/// `cargo xtask bench attest`.
///
/// # Errors
/// When something does not build, or the guest, the collector or the verifier does not work.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    if let Some(pods) = &options.pods {
        return over_pods(workspace, options, pods);
    }
    let cycles = options.entries.unwrap_or(CYCLES);
    let found = guest::run(workspace, &["attest".to_owned(), cycles.to_string()])?;
    let times = |name: &str| -> Vec<f64> {
        numbers(&found.json["times"][name])
            .iter()
            .map(|nanos| nanos / 1e6)
            .collect()
    };
    let (extend, quote, round) = (times("extend"), times("quote"), times("round"));
    let bare: Vec<f64> = extend.iter().zip(&quote).map(|(e, q)| e + q).collect();
    let added: Vec<f64> = round.iter().zip(&bare).map(|(r, b)| r - b).collect();
    let ratios: Vec<f64> = round.iter().zip(&bare).map(|(r, b)| r / b).collect();
    let mut figures = Vec::new();
    for (name, values) in [
        ("bare extend", &extend),
        ("bare quote", &quote),
        ("bare extend + quote", &bare),
        ("round", &round),
        ("added by a round", &added),
    ] {
        for percent in [50, 99] {
            figures.push(Figure {
                name: format!("{name}, p{percent}"),
                unit: "ms",
                found: spread(&percentile(values, percent).into_iter().collect::<Vec<_>>()),
            });
        }
    }
    let mut method = found.method;
    method.extend([
        format!("{cycles} cycles, in each a bare pair and a round in turn, by one process in the guest."),
        "Bare: TPM2_PCR_Extend of PCR 16 in all banks, then TPM2_Quote of PCR 10 (sha256) by the same kind \
         of key (ECC P-256,"
            .to_owned(),
        "restricted), as bare commands to /dev/tpmrm0 with no library; the extension by an opening with no \
         key in it.".to_owned(),
        "Round: from the question on cgpathd's socket until all evidence is read: a program is executed and \
         waited for as the"
            .to_owned(),
        "sign that records arrive, a checkpoint is sealed, written and measured by IMA (one extension of PCR \
         10), a quote is"
            .to_owned(),
        "made, list and records are put together. No network, no verifier.".to_owned(),
        format!(
            "{} entries in the list at first; a round adds one or two. Evidence was {} bytes at last.",
            found.json["entries"], found.json["times"]["evidence"]
        ),
    ]);
    Ok(Report {
        name: "attest",
        method,
        figures,
        ratios: vec![Ratio {
            name: "round / bare extend + quote".to_owned(),
            goal: Some("at most 1.1"),
            found: spread(&ratios),
        }],
    })
}

/// The same for each number of pods, with as many records and entries whatever it is.
fn over_pods(workspace: &Workspace, options: &BenchOptions, pods: &str) -> Result<Report> {
    let cycles = options.entries.unwrap_or(CYCLES_OF_PASS);
    let arguments = ["attest", &cycles.to_string(), pods, &options.rounds().to_string()];
    let found = guest::run(workspace, &arguments.map(str::to_owned))?;
    let (figures, ratios) = by_pods(&found.json);
    let mut method = found.method;
    method.extend([
        "In turn for each number of pods, each pass with another one first: cgpathd starts anew and sees \
         1,000 executions of the".to_owned(),
        format!("same 1,000 programs, spread over so many pods; then {cycles} cycles as in `bench attest` \
            without --pods."),
        "Added: what a round takes beyond the bare extend + quote of its cycle; the median of a pass. Ratios \
         within a pass.".to_owned(),
    ]);
    Ok(Report {
        name: "attest over pods",
        method,
        figures,
        ratios,
    })
}

/// What one pass found for one number of pods, in milliseconds and KiB.
struct Found {
    pass: u64,
    bare: f64,
    added: f64,
    evidence: f64,
}

impl Found {
    fn of(each: &Json) -> Option<Found> {
        let times = |name: &str| numbers(&each["times"][name]);
        let bare: Vec<f64> = times("extend")
            .iter()
            .zip(times("quote"))
            .map(|(e, q)| (e + q) / 1e6)
            .collect();
        let added: Vec<f64> = times("round")
            .iter()
            .zip(&bare)
            .map(|(r, b)| r / 1e6 - b)
            .collect();
        Some(Found {
            pass: each["pass"].as_u64()?,
            bare: percentile(&bare, 50)?,
            added: percentile(&added, 50)?,
            evidence: each["times"]["evidence"].as_f64()? / 1024.0,
        })
    }
}

/// Figures of each number of pods, and what is added in terms of the lowest number's.
fn by_pods(found: &Json) -> (Vec<Figure>, Vec<Ratio>) {
    let mut of_pods: BTreeMap<u64, (String, Vec<Found>)> = BTreeMap::new();
    for each in found["each"].as_array().map_or(&[][..], Vec::as_slice) {
        if let (Some(pods), Some(found)) = (each["pods"].as_u64(), Found::of(each)) {
            let what = format!("{pods} pods ({} records)", each["records"]);
            of_pods.entry(pods).or_insert((what, Vec::new())).1.push(found);
        }
    }
    let (mut figures, mut ratios) = (Vec::new(), Vec::new());
    for (pods, (what, passes)) in &of_pods {
        let mut figure = |name: &str, unit, value: fn(&Found) -> f64| {
            figures.push(Figure {
                name: format!("{what}: {name}"),
                unit,
                found: spread(&passes.iter().map(value).collect::<Vec<_>>()),
            });
        };
        figure("bare extend + quote", "ms", |found| found.bare);
        figure("added by a round", "ms", |found| found.added);
        figure("evidence", "KiB", |found| found.evidence);
        let Some((base, (_, first))) = of_pods.first_key_value() else {
            continue;
        };
        let of_base = |found: &Found| Some(first.iter().find(|other| other.pass == found.pass)?.added);
        let ratio = |found: &Found| Some(found.added / of_base(found)?);
        ratios.push(Ratio {
            name: format!("added at {pods} pods / at {base}"),
            goal: Some("0.9 to 1.1"),
            found: spread(&passes.iter().filter_map(ratio).collect::<Vec<_>>()),
        });
    }
    (figures, ratios)
}

/// The value that so many percent do not exceed (nearest rank).
pub(super) fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::{by_pods, percentile};

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50), Some(100.0));
        assert_eq!(percentile(&values, 99), Some(198.0));
        assert_eq!(percentile(&[7.0], 99), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn what_is_added_is_shown_in_terms_of_the_first_number_of_pods() {
        let each = |pass: u32, pods: u32, round: u64| {
            serde_json::json!({ "pass": pass, "pods": pods, "records": 5,
                "times": { "extend": [1e6], "quote": [2e6], "round": [round], "evidence": 2048 } })
        };
        // The second pass is slower as a whole.
        let each = [
            each(1, 1, 5_000_000),
            each(1, 10, 6_000_000),
            each(2, 10, 11_000_000),
            each(2, 1, 7_000_000),
        ];
        let (figures, ratios) = by_pods(&serde_json::json!({ "each": each }));
        assert_eq!(figures.len(), 6);
        let shown: Vec<(f64, f64)> = ratios
            .iter()
            .map(|r| r.found.as_ref().map(|f| (f.min, f.max)).unwrap())
            .collect();
        assert_eq!(shown, [(1.0, 1.0), (1.5, 2.0)]);
        assert!(by_pods(&serde_json::json!({})).0.is_empty());
    }
}
