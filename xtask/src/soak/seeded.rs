//! Tests of random inputs from numbered seeds, many times as many as in the usual tests: lives of nodes
//! (`verifier/appraisal/tests/lives`), stacks of layers (`policy/refvals/tests/layers.rs`).
//!
//! Promises: a run ends after about two hours and the next one goes on with the seeds behind it; a commit of
//! its own begins anew; what each batch printed is kept, a line for each batch and the whole text. Not here:
//! how they are judged.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::workspace::Workspace;
use crate::{build, shell};

/// No batch is begun after this time.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// A test that takes its seeds from its environment.
struct Seeded {
    /// What its inputs are called, and its files in the folder.
    name: &'static str,
    /// All seeds.
    all: u64,
    /// So many at a time: what is not finished when a run is stopped is done again.
    batch: u64,
    /// The variable that says how many; the one with `_SEED` behind it, from which on.
    variable: &'static str,
    /// What a line of it begins with that counts.
    telling: &'static str,
}

/// Lives what is still to be lived; whether nothing was wrong so far.
pub fn lives(workspace: &Workspace) -> Result<bool> {
    let seeded = Seeded {
        name: "lives",
        all: 100_000,
        batch: 500,
        variable: "CGPATH_LIVES",
        telling: "lives from seed",
    };
    seeded.go_on(workspace, || {
        Ok(tests(workspace, "cgpath-appraisal", "lives::random_lives"))
    })
}

/// Compares the stacks that are still to be compared.
pub fn stacks(workspace: &Workspace) -> Result<bool> {
    let seeded = Seeded {
        name: "stacks",
        all: 20_000,
        batch: 1_000,
        variable: "CGPATH_STACKS",
        telling: "stacks from seed",
    };
    seeded.go_on(workspace, || {
        Ok(tests(workspace, "cgpath-refvals", "layers::random_stacks"))
    })
}

/// Runs a package's tests of this name, and shows what they print.
fn tests(workspace: &Workspace, package: &str, name: &str) -> Command {
    let mut command = build::cargo(workspace);
    command.args(["test", "-p", package, "--test", "integration", "--locked"]);
    command.args([name, "--", "--show-output"]);
    command
}

impl Seeded {
    fn go_on(&self, workspace: &Workspace, command: impl Fn() -> Result<Command>) -> Result<bool> {
        let begin = Instant::now();
        let folder = workspace.target.join("soak");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let open = |end: &str| {
            let path = folder.join(format!("{}.{end}", self.name));
            let file = File::options().create(true).append(true).open(&path);
            file.with_context(|| format!("opening {}", path.display()))
        };
        let (mut batches, mut text) = (open("jsonl")?, open("log")?);
        let commit = super::commit(workspace)?;
        let known = std::fs::read_to_string(folder.join(format!("{}.jsonl", self.name)))?;
        let known = known
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (mut next, mut wrong) = (0, 0);
        for batch in known.filter(|batch| batch["commit"] == commit.as_str()) {
            next += batch[self.name].as_u64().unwrap_or_default();
            wrong += u64::from(batch["good"] != true);
        }
        let (name, all) = (self.name, self.all);
        while next < all && begin.elapsed() < LONGEST {
            let mut command = command()?;
            command
                .env(self.variable, self.batch.to_string())
                .env(format!("{}_SEED", self.variable), next.to_string())
                .stdin(Stdio::null());
            shell::heading(&format!("soak {name}: {} from seed {next} of {all}", self.batch));
            let started = Instant::now();
            let output = command.output().context("starting cargo test")?;
            let said = String::from_utf8_lossy(&output.stdout);
            said.lines()
                .filter(|line| line.contains(self.telling))
                .for_each(|line| println!("{line}"));
            writeln!(text, "{commit}, seed {next}\n{said}")?;
            // A test that was skipped, or was not there, is no batch that was done.
            let is_whole = said.contains(self.telling) && !said.contains("SKIPPED");
            let good = output.status.success() && is_whole;
            if !good {
                println!("{said}{}", String::from_utf8_lossy(&output.stderr));
            }
            let line = json!({
                "commit": commit, "seed": next, name: self.batch, "good": good, "seconds": started.elapsed()
                .as_secs(),
            });
            writeln!(batches, "{line}")?;
            next += self.batch;
            wrong += u64::from(!good);
        }
        let state = if next < all {
            "two hours are over; the same command goes on from here"
        } else {
            "all were done"
        };
        println!(
            "soak {name}: {next} of {all}, {state}; {wrong} batches with something wrong; {}",
            folder.display()
        );
        Ok(wrong == 0)
    }
}
