//! What a trust domain's quote costs: bytes of evidence and the verifier's time on this machine, a round in a
//! guest, beside those with PCR 10.
//!
//! Not here: the node made of software (the example `follow_cost` of `cgpath-appraisal`), the guest.

use anyhow::Result;
use serde_json::Value as Json;

use super::attest::percentile;
use super::follow::{self, Row, row_of};
use super::guest::{self, numbers, spread};
use super::{BenchOptions, Figure, Ratio, Report, measure};
use crate::build;
use crate::workspace::Workspace;

/// Entries behind which the quote is looked at.
const ENTRIES: u64 = 1_000;

/// Rounds of one pass of one anchor in the guest.
const CYCLES: u64 = 20;

/// The anchor that others are compared with.
const BASE: &str = "PCR 10";

/// What the example says.
const DOMAIN: &[Row] = &[
    ("evidence, PCR 10 alone", "KiB", "pcr-10-bytes", 1.0 / 1024.0),
    ("evidence, RTMR 3 alone", "KiB", "rtmr-3-bytes", 1.0 / 1024.0),
    ("evidence, both", "KiB", "both-bytes", 1.0 / 1024.0),
    (
        "    of which the trust domain's quote",
        "KiB",
        "outblob-bytes",
        1.0 / 1024.0,
    ),
    ("    and its register's log", "KiB", "log-bytes", 1.0 / 1024.0),
    (
        "collateral, a file beside it",
        "KiB",
        "collateral-bytes",
        1.0 / 1024.0,
    ),
    ("appraisal, PCR 10 alone", "ms", "pcr-10-appraisal", 1.0),
    ("appraisal, RTMR 3 alone", "ms", "rtmr-3-appraisal", 1.0),
    ("appraisal, both", "ms", "both-appraisal", 1.0),
    (
        "the quote with chain, collateral and revocation lists",
        "ms",
        "quote",
        1.0,
    ),
];

/// `cargo xtask bench domain`.
///
/// # Errors
/// When something does not build, an honest node is not trusted, or the guest does not work.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    follow::build(workspace)?;
    let entries = options.entries.unwrap_or(ENTRIES);
    let found = follow::run(workspace, "domain", entries, options.rounds())?;
    let mut figures: Vec<Figure> = DOMAIN.iter().map(|row| row_of(&found, "", row)).collect();
    let mut method = vec![
        measure::machine(),
        format!(
            "On this machine: {entries} ima-ng entries with a record each, 400 records of four pods; one \
             checkpoint; PCR 10 in all four banks."
        ),
        "Processor time of all threads. Appraisal: every rule, from decoded evidence to the verdict."
            .to_owned(),
        "Quote, chain and collateral are made by the tests, as long as Intel's; version 4.".to_owned(),
    ];
    let outside = workspace.target.join("bench-domain.json");
    build::domain(workspace, &outside)?;
    let arguments = [
        "domain".to_owned(),
        outside.display().to_string(),
        CYCLES.to_string(),
        options.rounds().to_string(),
    ];
    let found = guest::run(workspace, &arguments)?;
    let (of_guest, ratios) = by_anchor(&found.json);
    figures.extend(of_guest);
    method.extend(found.method);
    method.extend([
        format!(
            "In turn for each anchor, each pass with another one first: cgpathd starts anew, then {CYCLES} \
             cycles as in `bench attest`."
        ),
        "Processor: of the collector's cgroup, for a round, in the mean of a pass. Others: the median of a \
         pass; ratios within a pass."
            .to_owned(),
        "The register and the quoting service are the test's, in the guest: what a TDX module and a quoting \
         enclave take is in no figure."
            .to_owned(),
    ]);
    Ok(Report {
        name: "domain",
        method,
        figures,
        ratios,
    })
}

/// What one pass found for one anchor, in milliseconds and KiB.
struct Found {
    pass: u64,
    bare: f64,
    round: f64,
    processor: f64,
    evidence: f64,
}

impl Found {
    fn of(each: &Json) -> Option<Found> {
        let times = |name: &str| numbers(&each["times"][name]);
        let bare: Vec<f64> = times("extend")
            .iter()
            .zip(times("quote"))
            .map(|(extend, quote)| (extend + quote) / 1e6)
            .collect();
        Some(Found {
            pass: each["pass"].as_u64()?,
            bare: percentile(&bare, 50)?,
            round: percentile(&times("round"), 50)? / 1e6,
            processor: each["processor"].as_f64()? / 1e3,
            evidence: each["times"]["evidence"].as_f64()? / 1024.0,
        })
    }
}

/// Figures of each anchor in the order in which the guest names them, and what a round takes in terms of
/// [`BASE`]'s.
fn by_anchor(found: &Json) -> (Vec<Figure>, Vec<Ratio>) {
    let mut of_anchors: Vec<(&str, Vec<Found>)> = Vec::new();
    for each in found["each"].as_array().map_or(&[][..], Vec::as_slice) {
        if let (Some(anchor), Some(found)) = (each["anchor"].as_str(), Found::of(each)) {
            match of_anchors.iter_mut().find(|(name, _)| *name == anchor) {
                Some((_, passes)) => passes.push(found),
                None => of_anchors.push((anchor, vec![found])),
            }
        }
    }
    let (mut figures, mut ratios) = (Vec::new(), Vec::new());
    let base = of_anchors.iter().find(|(name, _)| *name == BASE);
    for (anchor, passes) in &of_anchors {
        let mut figure = |name: &str, unit, value: fn(&Found) -> f64| {
            figures.push(Figure {
                name: format!("guest, {anchor}: {name}"),
                unit,
                found: spread(&passes.iter().map(value).collect::<Vec<_>>()),
            });
        };
        figure("a round, by the clock", "ms", |found| found.round);
        figure("its processor time", "ms", |found| found.processor);
        figure("bare TPM extend + quote beside it", "ms", |found| found.bare);
        figure("evidence", "KiB", |found| found.evidence);
        let Some((_, base)) = base.filter(|(name, _)| name != anchor) else {
            continue;
        };
        for (what, value) in [
            ("by the clock", (|found| found.round) as fn(&Found) -> f64),
            ("processor time", |found| found.processor),
        ] {
            let ratio = |found: &Found| {
                let other = base.iter().find(|other| other.pass == found.pass)?;
                Some(value(found) / value(other))
            };
            ratios.push(Ratio {
                name: format!("guest, a round with {anchor} / with {BASE}, {what}"),
                goal: None,
                found: spread(&passes.iter().filter_map(ratio).collect::<Vec<_>>()),
            });
        }
    }
    (figures, ratios)
}

#[cfg(test)]
mod tests {
    use super::by_anchor;

    #[test]
    fn rounds_of_an_anchor_are_shown_in_terms_of_the_same_passs_rounds_with_pcr_10() {
        let each = |pass: u32, anchor: &str, round: u64, processor: u64| {
            serde_json::json!({ "pass": pass, "anchor": anchor, "processor": processor,
                "times": { "extend": [1e6], "quote": [2e6], "round": [round], "evidence": 2048 } })
        };
        // The second pass is slower as a whole, and begins with another one.
        let each = [
            each(1, "PCR 10", 4_000_000, 1_000),
            each(1, "RTMR 3", 2_000_000, 500),
            each(2, "RTMR 3", 8_000_000, 3_000),
            each(2, "PCR 10", 8_000_000, 2_000),
        ];
        let (figures, ratios) = by_anchor(&serde_json::json!({ "each": each }));
        let shown: Vec<(&str, f64, f64)> = figures
            .iter()
            .map(|figure| {
                let found = figure.found.as_ref().unwrap();
                (figure.name.as_str(), found.min, found.max)
            })
            .collect();
        assert!(
            shown.contains(&("guest, RTMR 3: its processor time", 0.5, 3.0)),
            "{shown:?}"
        );
        let shown: Vec<(f64, f64)> = ratios
            .iter()
            .map(|ratio| ratio.found.as_ref().map(|found| (found.min, found.max)).unwrap())
            .collect();
        assert_eq!(shown, [(0.5, 1.0), (0.5, 1.5)]);
        assert!(by_anchor(&serde_json::json!({})).0.is_empty());
    }
}
