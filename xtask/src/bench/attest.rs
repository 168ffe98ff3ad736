//! What a round of attestation adds to the commands that it cannot do without: one extension of the TPM and one quote.
//!
//! Not here: the guest.

use anyhow::Result;
use serde_json::Value as Json;

use super::guest::{self, numbers, spread};
use super::{Figure, Options, Ratio, Report};
use crate::world::World;

/// Rounds.
const CYCLES: u64 = 200;

/// `cargo xtask bench attest`.
///
/// # Errors
/// When something does not build, or the guest, the collector or the verifier does not work.
pub fn run(world: &World, options: &Options) -> Result<Report> {
    let cycles = options.entries.unwrap_or(CYCLES);
    if let Some(pods) = &options.pods {
        return over_pods(world, cycles, pods);
    }
    let found = guest::run(world, &["attest".to_owned(), cycles.to_string()])?;
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
        "Bare: TPM2_PCR_Extend of PCR 16 in all banks, then TPM2_Quote of PCR 10 (sha256) by the same kind of key (ECC P-256,"
            .to_owned(),
        "restricted), as bare commands to /dev/tpmrm0 with no library; the extension by an opening with no key in it.".to_owned(),
        "Round: from the question on cgpathd's socket until all evidence is read: a program is executed and waited for as the"
            .to_owned(),
        "sign that records arrive, a checkpoint is sealed, written and measured by IMA (one extension of PCR 10), a quote is"
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
fn over_pods(world: &World, cycles: u64, pods: &str) -> Result<Report> {
    let found = guest::run(world, &["attest".to_owned(), cycles.to_string(), pods.to_owned()])?;
    let (figures, ratios) = by_pods(&found.json);
    let mut method = found.method;
    method.extend([
        format!("{cycles} cycles for each number of pods, in each a bare pair and a round in turn, as in `bench attest` without --pods."),
        "Before: cgpathd starts anew and sees 1,000 executions of the same 1,000 programs, spread over so many pods.".to_owned(),
        "Added: what a round takes beyond the bare extend + quote of its cycle; shown are medians.".to_owned(),
    ]);
    Ok(Report {
        name: "attest over pods",
        method,
        figures,
        ratios,
    })
}

/// Figures of each number of pods, and what is added in terms of the first one's.
fn by_pods(found: &Json) -> (Vec<Figure>, Vec<Ratio>) {
    let (mut figures, mut ratios) = (Vec::new(), Vec::new());
    let mut first = None;
    for each in found["each"].as_array().map_or(&[][..], Vec::as_slice) {
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
        let median = |values: &[f64]| spread(&percentile(values, 50).into_iter().collect::<Vec<_>>());
        let pods = &each["pods"];
        let what = format!(
            "{pods} pods ({} records, {} entries)",
            each["records"], each["entries"]
        );
        for (name, unit, found) in [
            ("bare extend + quote", "ms", median(&bare)),
            ("added by a round", "ms", median(&added)),
            (
                "evidence",
                "KiB",
                spread(
                    &each["times"]["evidence"]
                        .as_f64()
                        .map(|n| n / 1024.0)
                        .into_iter()
                        .collect::<Vec<_>>(),
                ),
            ),
        ] {
            figures.push(Figure {
                name: format!("{what}: {name}"),
                unit,
                found,
            });
        }
        let added = percentile(&added, 50);
        let base = first.get_or_insert_with(|| (pods.clone(), added)).clone();
        ratios.push(Ratio {
            name: format!("added at {pods} pods / at {}", base.0),
            goal: Some("0.9 to 1.1"),
            found: spread(
                &added
                    .zip(base.1)
                    .map(|(a, b)| a / b)
                    .into_iter()
                    .collect::<Vec<_>>(),
            ),
        });
    }
    (figures, ratios)
}

/// The value that so many percent do not exceed (nearest rank).
fn percentile(values: &[f64], percent: usize) -> Option<f64> {
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
        let each = |pods: u32, round: u64| {
            serde_json::json!({ "pods": pods, "records": 5, "entries": 6,
                "times": { "extend": [1e6], "quote": [2e6], "round": [round], "evidence": 2048 } })
        };
        let found = serde_json::json!({ "each": [each(1, 5_000_000), each(10, 6_000_000)] });
        let (figures, ratios) = by_pods(&found);
        assert_eq!(figures.len(), 6);
        let shown: Vec<f64> = ratios.iter().map(|r| r.found.as_ref().unwrap().median).collect();
        assert_eq!(shown, [1.0, 1.5]);
        assert!(by_pods(&serde_json::json!({})).0.is_empty());
    }
}
