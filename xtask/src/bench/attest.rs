//! What a round of attestation adds to the commands that it cannot do without: one extension of the TPM and one quote.
//!
//! Not here: the guest.

use anyhow::Result;

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

/// The value that so many percent do not exceed (nearest rank).
fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50), Some(100.0));
        assert_eq!(percentile(&values, 99), Some(198.0));
        assert_eq!(percentile(&[7.0], 99), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }
}
