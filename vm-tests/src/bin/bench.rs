//! The guests of `cargo xtask bench`: one measurement in one guest, and what was found as one line of JSON.
//!
//! `bench exec ROUNDS COUNT`, `bench collector WINDOWS RECORDS`, `bench attest COUNT [PODS,PODS… PASSES]`,
//! `bench domain OUTSIDE COUNT PASSES`, `bench template KERNEL ROUNDS COUNT`. Not here: what is measured
//! (`vm_tests::bench`), what it means (`xtask`).
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use vm_tests::{bench, kernel};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found = match words[..] {
        ["exec", rounds, count] => number(rounds)
            .and_then(|rounds| bench::exec(rounds, number(count)?))
            .and_then(json),
        ["collector", windows, records] => number(windows)
            .and_then(|windows| bench::collector(windows, number(records)?))
            .and_then(json),
        ["attest", count, pods, passes] => number(count)
            .and_then(|count| {
                let pods = pods.split(',').map(number).collect::<Result<Vec<u32>>>()?;
                bench::pods(count, &pods, number(passes)?)
            })
            .and_then(json),
        ["attest", count] => number(count).and_then(bench::attest).and_then(json),
        ["domain", outside, count, passes] => std::fs::read(outside)
            .with_context(|| format!("reading {outside}"))
            .and_then(|file| serde_json::from_slice(&file).context("what is outside of a trust domain"))
            .and_then(|outside| bench::domain(outside, number(count)?, number(passes)?))
            .and_then(json),
        ["template", kernel, rounds, count] => kernel::built(Path::new(kernel))
            .and_then(|kernel| bench::template(kernel, number(rounds)?, number(count)?))
            .and_then(json),
        _ => Err(anyhow::anyhow!(
            "no such measurement; hint: cargo xtask bench --help"
        )),
    };
    match found {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn number<T: std::str::FromStr + Default + PartialEq>(text: &str) -> Result<T> {
    match text.parse::<T>().ok() {
        Some(number) if number != T::default() => Ok(number),
        _ => bail!("{text}: not a number above 0"),
    }
}

fn json(found: impl Serialize) -> Result<String> {
    serde_json::to_string(&found).context("writing JSON")
}
