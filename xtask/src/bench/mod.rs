//! `cargo xtask bench`: what things cost, beside what others cost at the same moment.
//!
//! Promises: contenders run in turn, so that what else the machine does hits all of them; medians with a
//! spread, and ratios within one round; what could not be measured is named with the reason. Nothing here
//! fails because something is slow. One file a benchmark; not here: what is measured.

mod attest;
mod collector;
mod domain;
mod exec;
mod follow;
mod guest;
mod image;
mod measure;
mod replay;
mod round;
mod serve;
mod template;

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;
use serde_json::{Value as Json, json};

use crate::help;
use crate::needs::{self, Consent, Purpose};
use crate::workspace::Workspace;
use measure::Spread;

/// A benchmark: its name, what it needs, and itself.
struct Benchmark {
    name: &'static str,
    purpose: Purpose,
    run: fn(&Workspace, &BenchOptions) -> Result<Report>,
}

/// All there are, in the order in which they run.
const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "replay",
        purpose: Purpose::BenchReplay,
        run: replay::run,
    },
    Benchmark {
        name: "verify",
        purpose: Purpose::Build,
        run: follow::verify,
    },
    Benchmark {
        name: "round",
        purpose: Purpose::BenchRound,
        run: round::run,
    },
    Benchmark {
        name: "tenant",
        purpose: Purpose::Build,
        run: follow::tenant,
    },
    Benchmark {
        name: "image",
        purpose: Purpose::Build,
        run: image::run,
    },
    Benchmark {
        name: "serve",
        purpose: Purpose::Build,
        run: serve::run,
    },
    Benchmark {
        name: "exec",
        purpose: Purpose::Demo,
        run: exec::run,
    },
    Benchmark {
        name: "collector",
        purpose: Purpose::Demo,
        run: collector::run,
    },
    Benchmark {
        name: "attest",
        purpose: Purpose::Demo,
        run: attest::run,
    },
    Benchmark {
        name: "domain",
        purpose: Purpose::Demo,
        run: domain::run,
    },
    Benchmark {
        name: "template",
        purpose: Purpose::Demo,
        run: template::run,
    },
];

/// What a person asked for.
struct BenchOptions {
    consent: Consent,
    /// Counted rounds; one more comes before them and is not counted. `None`: each benchmark's own, see
    /// [`BenchOptions::rounds`].
    rounds: Option<usize>,
    /// Size of what is processed; `None`: each benchmark's own.
    entries: Option<u64>,
    /// Numbers of pods, as they were given; `None`: not over pods.
    pods: Option<String>,
}

impl BenchOptions {
    /// Rounds of those that have no number of their own.
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(5)
    }
}

/// What a benchmark found.
struct Report {
    name: &'static str,
    /// How it was measured, a sentence a line.
    method: Vec<String>,
    figures: Vec<Figure>,
    ratios: Vec<Ratio>,
}

/// One measured thing.
struct Figure {
    name: String,
    unit: &'static str,
    /// Or why there is none.
    found: Result<Spread, String>,
}

/// One thing in terms of another, round by round.
struct Ratio {
    name: String,
    /// What the project wants, for the reader.
    goal: Option<&'static str>,
    /// Or why there is none.
    found: Result<Spread, String>,
}

/// `cargo xtask bench`.
///
/// # Errors
/// When something is missing, does not build, or gives wrong results; never for being slow.
pub fn bench(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut options = BenchOptions {
        consent: Consent::default(),
        rounds: None,
        entries: None,
        pods: None,
    };
    let mut json = false;
    let mut names: Vec<String> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => options.consent.yes = true,
            Long("no-install") => options.consent.no_install = true,
            Long("json") => json = true,
            Long("rounds") => options.rounds = Some(parser.value()?.parse()?),
            Long("entries") => options.entries = Some(parser.value()?.parse()?),
            Long("pods") => options.pods = Some(parser.value()?.string()?),
            Short('h') | Long("help") => {
                print!("{}", help::BENCH);
                return Ok(ExitCode::SUCCESS);
            }
            Value(name) => names.push(name.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.rounds == Some(0) || options.entries == Some(0) {
        bail!("--rounds and --entries: at least 1");
    }
    if let Some(unknown) = names.iter().find(|n| BENCHMARKS.iter().all(|b| b.name != **n)) {
        let known: Vec<&str> = BENCHMARKS.iter().map(|b| b.name).collect();
        bail!("no benchmark `{unknown}`; there are: {}", known.join(", "));
    }
    let mut reports = Vec::new();
    for benchmark in BENCHMARKS {
        if !names.is_empty() && names.iter().all(|name| name != benchmark.name) {
            continue;
        }
        if let Some(code) = needs::provide(workspace, benchmark.purpose, options.consent)? {
            return Ok(code);
        }
        let report = (benchmark.run)(workspace, &options)?;
        if !json {
            print!("{}", report.table());
        }
        reports.push(report);
    }
    if json {
        let all: Vec<Json> = reports.iter().map(Report::as_json).collect();
        println!("{}", json!({ "rounds": options.rounds(), "benchmarks": all }));
    }
    Ok(ExitCode::SUCCESS)
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!("\n{}\n", self.name);
        for line in &self.method {
            text += &format!("  {line}\n");
        }
        let rows: Vec<(String, String)> = self
            .figures
            .iter()
            .map(|f| (f.name.clone(), shown(&f.found, f.unit)))
            .chain(self.ratios.iter().map(|r| {
                let goal = r.goal.map_or(String::new(), |goal| format!("   goal: {goal}"));
                (r.name.clone(), shown(&r.found, "x") + &goal)
            }))
            .collect();
        let width = rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, row) in rows {
            text += &format!("  {name:width$}  {row}\n");
        }
        text
    }

    fn as_json(&self) -> Json {
        let figures: Vec<Json> = self
            .figures
            .iter()
            .map(|f| with(&f.found, json!({ "name": f.name, "unit": f.unit })))
            .collect();
        let ratios: Vec<Json> = self
            .ratios
            .iter()
            .map(|r| with(&r.found, json!({ "name": r.name, "goal": r.goal })))
            .collect();
        json!({ "name": self.name, "method": self.method, "figures": figures, "ratios": ratios })
    }
}

fn shown(found: &Result<Spread, String>, unit: &str) -> String {
    match found {
        Ok(s) if s.min == s.max => format!("{:>9.3} {unit}", s.median),
        Ok(s) => format!("{:>9.3} {unit:3} ({:.3} to {:.3})", s.median, s.min, s.max),
        Err(reason) => format!("not shown: {reason}"),
    }
}

fn with(found: &Result<Spread, String>, mut row: Json) -> Json {
    match found {
        Ok(spread) => {
            row["median"] = json!(spread.median);
            row["min"] = json!(spread.min);
            row["max"] = json!(spread.max);
            row["runs"] = json!(spread.runs);
        }
        Err(reason) => row["not_shown"] = json!(reason),
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_shown_with_its_reason_in_both_forms() {
        let report = Report {
            name: "some",
            method: vec!["A sentence.".to_owned()],
            figures: vec![Figure {
                name: "ours".to_owned(),
                unit: "s",
                found: Spread::of(&[3.0, 1.0, 2.0]).ok_or_else(String::new),
            }],
            ratios: vec![Ratio {
                name: "ours / other".to_owned(),
                goal: Some("at most 2"),
                found: Err("no other".to_owned()),
            }],
        };
        let table = report.table();
        assert!(table.contains("2.000 s   (1.000 to 3.000)"), "{table}");
        assert!(table.contains("not shown: no other   goal: at most 2"), "{table}");
        let json = report.as_json();
        assert_eq!(
            (&json["figures"][0]["median"], &json["figures"][0]["runs"]),
            (&json!(2.0), &json!(3))
        );
        assert_eq!(json["ratios"][0]["not_shown"], "no other");
    }

    #[test]
    fn benchmarks_have_names_of_their_own() {
        let names: std::collections::BTreeSet<&str> = BENCHMARKS.iter().map(|b| b.name).collect();
        assert_eq!(names.len(), BENCHMARKS.len());
    }
}
