//! Every mutant that cargo-mutants makes of the rules: killed by a test, or listed with its reason.
//!
//! Promises: a run ends after about two hours and the next one goes on where it ended; another byte in the
//! sources of the appraisal, or of what they rest on, begins anew; with another byte in the tests nothing is
//! known but which test killed a mutant, and that one is run first; what became of each mutant is kept, a
//! line each. Cargo-mutants says which mutants there are;
//! that one build holds nearly all of them, each behind a switch (`examples/switches.rs`), is ours: a build
//! for each would take a day. Not here: the tests.

mod accepted;
mod build;
mod log;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;
use crate::{build as tools, shell};

use accepted::Accepted;
use build::Tree;
use log::{Log, Outcome};
use trial::Trials;

/// No mutant is tried after this time.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// The package whose rules these are.
const PACKAGE: &str = "cgpath-appraisal";

/// Where its sources are.
const SOURCES: &str = "verifier/appraisal/src/";

/// The root of its crate, which gets the switches' module.
const ROOT: &str = "verifier/appraisal/src/lib.rs";

/// Which of its sources are mutated.
const MUTATED: &[&str] = &["rules/**", "follow/**", "steps.rs", "anchors.rs", "accept.rs"];

/// Tried first: what protects most.
const FIRST: &[&str] = &["v02", "v04", "v05", "v06", "v09", "v11", "v12", "v14"];

/// Sources that decide what a mutant does, beside the tests.
const CODE: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "evidence/src",
    "policy/src",
    "verifier/appraisal/src",
];

/// Sources of the tests.
const TESTS: &[&str] = &[
    "evidence/tests/common",
    "policy/refvals/src",
    "testkit",
    "verifier/appraisal/tests",
];

/// One of cargo-mutants' list.
#[derive(Debug)]
struct Mutant {
    number: u64,
    /// Below [`SOURCES`].
    file: String,
    /// As cargo-mutants has it, without line and column, so that it keeps its name while lines move; the
    /// second one of a name has ` #2` behind it.
    name: String,
    /// As cargo-mutants says it.
    value: Value,
}

impl Mutant {
    /// Whether it gives another value in place of one of which the function states only traits: beside the
    /// function's own value that does not compile, in its place it may.
    fn is_opaque(&self) -> bool {
        let returned = self.value["function"]["return_type"].as_str();
        returned.is_some_and(|returned| returned.contains("impl "))
    }
}

/// Tries what is still to be tried; whether every mutant that was tried is killed or listed.
///
/// # Errors
/// When no mutant's name has the filter in it, when something cannot be built, or when a test fails without
/// a mutant.
pub fn mutants(workspace: &Workspace, filter: Option<&str>) -> Result<bool> {
    let begin = Instant::now();
    let folder = workspace.target.join("soak/mutants");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mutants = list(workspace)?;
    let chosen = chosen(&mutants, filter)?;
    let accepted = Accepted::read(workspace)?;
    let tree = Tree::copy(workspace, &folder, &mutants)?;
    let mut log = Log::open(&folder, tree.digest(CODE)?, tree.digest(TESTS)?)?;
    let programs = tree.switch(&mutants, &mut log)?;
    let mut trials = Trials::begin(programs, &folder, log.sources())?;
    // Those without a switch come last: each has a build of its own.
    let (alone, switched): (Vec<_>, Vec<_>) = chosen
        .into_iter()
        .filter(|mutant| log.is_open(&mutant.name))
        .partition(|mutant| log.is_alone(&mutant.name));
    shell::heading(&format!(
        "soak mutants: {} of {}, {} of them with a build of their own",
        switched.len() + alone.len(),
        mutants.len(),
        alone.len()
    ));
    let mut survivors = Vec::new();
    for mutant in switched {
        if begin.elapsed() > LONGEST {
            break;
        }
        let started = Instant::now();
        let early = if log.is_survivor(&mutant.name) {
            None
        } else {
            trials.early(mutant, log.killer(&mutant.name))?
        };
        match early {
            Some(outcome) => log.add(mutant, &outcome, started.elapsed())?,
            None => {
                log.survived(mutant, started.elapsed())?;
                survivors.push(mutant);
            }
        }
    }
    for mutant in survivors {
        if begin.elapsed() > LONGEST {
            break;
        }
        let started = Instant::now();
        let outcome = trials.late(mutant)?;
        log.add(mutant, &outcome, started.elapsed())?;
    }
    if !alone.is_empty() {
        // Their builds take the place of the one in which a test can be run without a mutant.
        trials.measure_all()?;
    }
    for mutant in alone {
        if begin.elapsed() > LONGEST {
            break;
        }
        let started = Instant::now();
        let outcome = match tree.alone(mutant)? {
            Some(programs) => trials.alone(mutant, &programs, log.killer(&mutant.name))?,
            None => Outcome::Unviable,
        };
        log.add(mutant, &outcome, started.elapsed())?;
        tree.restore(mutant)?;
    }
    Ok(conclude(&mutants, &accepted, &log, filter))
}

/// All mutants, in the order in which they are tried.
fn list(workspace: &Workspace) -> Result<Vec<Mutant>> {
    let tool = tools::provide_cargo_mutants(workspace, &shell::run)?;
    let mut command = Command::new(tool);
    command.args(["mutants", "--list", "--json", "--no-config", "--package", PACKAGE]);
    command.arg("--dir").arg(&workspace.root);
    for glob in MUTATED {
        command.args(["--file", &format!("{SOURCES}{glob}")]);
    }
    let values: Vec<Value> = serde_json::from_str(&shell::output(&mut command)?)?;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut mutants = Vec::new();
    for (number, mut value) in values.into_iter().enumerate() {
        let number = number as u64;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let file = text(&value["file"]).context("a mutant without a file")?;
        let whole = text(&value["name"]).context("a mutant without a name")?;
        // `FILE:LINE:COLUMN: what is done`.
        let what = whole.splitn(4, ':').nth(3).unwrap_or_default().trim();
        let file = file.strip_prefix(SOURCES).unwrap_or(&file).to_owned();
        let name = format!("{file}: {what}");
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        let name = if *count > 1 {
            format!("{name} #{count}")
        } else {
            name
        };
        value["number"] = number.into();
        mutants.push(Mutant {
            number,
            file,
            name,
            value,
        });
    }
    Ok(mutants)
}

/// The mutants that are wanted, those first that matter most.
///
/// # Errors
/// When there is none: a name that was mistyped must not pass.
fn chosen<'m>(mutants: &'m [Mutant], filter: Option<&str>) -> Result<Vec<&'m Mutant>> {
    let is_wanted = |mutant: &&Mutant| filter.is_none_or(|filter| mutant.name.contains(filter));
    let mut chosen: Vec<&Mutant> = mutants.iter().filter(is_wanted).collect();
    let rank = |mutant: &&Mutant| {
        let rule = mutant.file.strip_prefix("rules/").unwrap_or_default();
        FIRST
            .iter()
            .position(|first| rule.starts_with(first))
            .unwrap_or(FIRST.len())
    };
    if chosen.is_empty() {
        bail!("no mutant has `{}` in its name", filter.unwrap_or_default());
    }
    chosen.sort_by_key(rank);
    Ok(chosen)
}

/// Says what became of the mutants.
fn conclude(mutants: &[Mutant], accepted: &Accepted, log: &Log, filter: Option<&str>) -> bool {
    let mut rows: BTreeMap<&str, [usize; 6]> = BTreeMap::new();
    let (mut survivors, mut needless) = (Vec::new(), Vec::new());
    for mutant in mutants {
        let row = rows.entry(&mutant.file).or_default();
        row[0] += 1;
        let is_listed = accepted.reason(&mutant.name).is_some();
        match log.outcome(&mutant.name) {
            Some(Outcome::Caught(_)) => {
                row[1] += 1;
                needless.extend(is_listed.then_some(mutant));
            }
            Some(Outcome::Timeout(_)) => row[2] += 1,
            Some(Outcome::Unviable) => row[3] += 1,
            Some(Outcome::Missed) if is_listed => row[4] += 1,
            Some(Outcome::Missed) => {
                row[5] += 1;
                survivors.push(mutant);
            }
            None => {}
        }
    }
    println!(
        "{:32} {:>5} {:>6} {:>7} {:>8} {:>6} {:>6} {:>5}",
        "", "all", "killed", "timeout", "unviable", "listed", "missed", "open"
    );
    let mut total = [0; 6];
    let line = |name: &str, row: &[usize; 6]| {
        let open = row[0] - row[1..].iter().sum::<usize>();
        let [all, killed, timeout, unviable, listed, missed] = row;
        println!(
            "{name:32} {all:>5} {killed:>6} {timeout:>7} {unviable:>8} {listed:>6} {missed:>6} {open:>5}"
        );
    };
    for (file, row) in &rows {
        line(file, row);
        total
            .iter_mut()
            .zip(row)
            .for_each(|(total, count)| *total += count);
    }
    line("all", &total);
    for mutant in &survivors {
        println!(
            "SURVIVED: {} (line {})",
            mutant.name, mutant.value["span"]["start"]["line"]
        );
    }
    for mutant in &needless {
        println!("LISTED, and killed: {}", mutant.name);
    }
    let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
    let gone: Vec<&str> = accepted.names().filter(|name| !names.contains(name)).collect();
    for name in &gone {
        println!("LISTED, and not there: {name}");
    }
    let open = total[0] - total[1..].iter().sum::<usize>();
    let state = match filter {
        _ if open == 0 => "all were tried",
        Some(_) => "the rest was not asked for",
        None => "two hours are over; the same command goes on from here",
    };
    println!(
        "soak mutants: {} of {}, {state}; {}",
        total[0] - open,
        total[0],
        log.path().display()
    );
    survivors.is_empty() && needless.is_empty() && gone.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(name: &str) -> Mutant {
        let file = name.split(':').next().unwrap_or_default().to_owned();
        Mutant {
            number: 0,
            file,
            name: name.to_owned(),
            value: Value::Null,
        }
    }

    #[test]
    fn rules_that_protect_most_come_first_and_a_filter_leaves_others_out() {
        let all = [
            "steps.rs: a",
            "rules/v14_guard.rs: b",
            "rules/names.rs: c",
            "rules/v02_bound.rs: d",
        ];
        let all = all.map(mutant);
        let names = |filter| -> Vec<String> {
            chosen(&all, filter)
                .unwrap()
                .iter()
                .map(|mutant| mutant.name.clone())
                .collect()
        };
        let sorted = [
            "rules/v02_bound.rs: d",
            "rules/v14_guard.rs: b",
            "steps.rs: a",
            "rules/names.rs: c",
        ];
        assert_eq!(names(None), sorted);
        assert_eq!(names(Some("names")), ["rules/names.rs: c"]);
    }

    #[test]
    fn a_filter_that_fits_no_mutant_is_an_error() {
        let error = chosen(&[mutant("steps.rs: a")], Some("rules/v99_")).unwrap_err();
        assert_eq!(error.to_string(), "no mutant has `rules/v99_` in its name");
        assert!(chosen(&[], None).is_err());
    }
}
