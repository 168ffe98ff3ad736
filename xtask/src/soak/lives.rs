//! Random lives of nodes (`verifier/tests/lives`), many times as many as in the usual tests.
//!
//! Promises: a run ends after about two hours and the next one goes on with the seeds behind it; a commit of its own begins
//! anew; what each batch of lives printed is kept, a line for each batch and the whole text. Not here: how lives are judged.

use std::fs::File;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::world::World;
use crate::{build, shell};

/// All of them.
const LIVES: u64 = 100_000;

/// So many at a time: what is not finished when a run is stopped is lived again.
const BATCH: u64 = 500;

/// No batch is begun after this time.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// Lives what is still to be lived; whether nothing was wrong so far.
pub fn lives(world: &World) -> Result<bool> {
    let begin = Instant::now();
    let folder = world.target.join("soak");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let open = |name: &str| {
        let path = folder.join(name);
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| format!("opening {}", path.display()))
    };
    let (mut batches, mut text) = (open("lives.jsonl")?, open("lives.log")?);
    let commit = super::commit(world)?;
    let known = std::fs::read_to_string(folder.join("lives.jsonl"))?;
    let known = known
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (mut next, mut wrong) = (0, 0);
    for batch in known.filter(|batch| batch["commit"] == commit.as_str()) {
        next += batch["lives"].as_u64().unwrap_or_default();
        wrong += u64::from(batch["good"] != true);
    }
    while next < LIVES && begin.elapsed() < LONGEST {
        let mut command = build::cargo(world);
        command
            .args(["test", "-p", "verifier", "--test", "integration", "--locked"])
            .args(["lives::random_lives", "--", "--show-output"])
            .env("CGPATH_LIVES", BATCH.to_string())
            .env("CGPATH_LIVES_SEED", next.to_string())
            .stdin(Stdio::null());
        shell::heading(&format!("soak lives: {BATCH} from seed {next} of {LIVES}"));
        let started = Instant::now();
        let output = command.output().context("starting cargo test")?;
        let said = String::from_utf8_lossy(&output.stdout);
        said.lines()
            .filter(|line| line.contains("lives from seed"))
            .for_each(|line| println!("{line}"));
        writeln!(text, "{commit}, seed {next}\n{said}")?;
        let good = output.status.success();
        if !good {
            println!("{said}{}", String::from_utf8_lossy(&output.stderr));
        }
        let line = json!({
            "commit": commit, "seed": next, "lives": BATCH, "good": good, "seconds": started.elapsed().as_secs(),
        });
        writeln!(batches, "{line}")?;
        next += BATCH;
        wrong += u64::from(!good);
    }
    let state = if next < LIVES {
        "two hours are over; the same command goes on from here"
    } else {
        "all lives were lived"
    };
    println!(
        "soak lives: {next} of {LIVES}, {state}; {wrong} batches with something wrong; {}",
        folder.display()
    );
    Ok(wrong == 0)
}
