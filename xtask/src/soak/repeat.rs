//! Every test five times over, two of the times beside busy loops: what fails once fails by chance.
//!
//! Promises: a run ends after about two hours and the next one goes on where it ended; a commit of its own
//! begins anew; what each program's tests did is kept, a line each. Not here: how a test is mended.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::test::programs::Program;
use crate::workspace::Workspace;
use crate::{dist, shell, test};

/// How often every test runs.
const ROUNDS: u32 = 5;

/// From this round on, busy loops run beside the tests.
const BUSY_FROM: u32 = 4;

/// No program is begun after this time.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// Left out are tests that want a kernel or packages which are built for them.
const OF_GUESTS: &[&str] = &[test::GUEST_THREADS, "--skip", "kernel_"];

/// Runs what is still to be run; whether nothing failed so far.
pub fn repeat(workspace: &Workspace, filter: Option<&str>) -> Result<bool> {
    let begin = Instant::now();
    let mut programs = test::host_programs(workspace)?;
    programs.extend(test::guest_programs(workspace)?);
    dist::tried(workspace)?;
    let environment = test::environment(workspace)?;
    let mut log = Log::open(workspace, filter)?;
    for round in 1..=ROUNDS {
        for program in &programs {
            if log.has(round, program) {
                continue;
            }
            if begin.elapsed() > LONGEST {
                println!("soak repeat: two hours are over; the same command goes on from here");
                return log.end(false);
            }
            let busy = (round >= BUSY_FROM).then(Busy::start).transpose()?;
            shell::heading(&format!("round {round} of {ROUNDS}: {}", program.name));
            let options: &[&str] = if program.name == test::GUESTS {
                OF_GUESTS
            } else {
                &[]
            };
            let started = Instant::now();
            let count = program.run(&environment, filter, options)?;
            drop(busy);
            log.add(round, program, &count, started.elapsed())?;
        }
    }
    log.end(true)
}

/// What was run of this commit, one JSON object a line.
struct Log {
    path: PathBuf,
    file: File,
    commit: String,
    done: BTreeSet<(u64, String)>,
    failures: BTreeSet<String>,
}

impl Log {
    fn open(workspace: &Workspace, filter: Option<&str>) -> Result<Self> {
        let folder = workspace.target.join("soak");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join("repeat.jsonl");
        // Only some of the tests are not all of them.
        let commit = format!("{} {}", super::commit(workspace)?, filter.unwrap_or("all"));
        let (mut done, mut failures) = (BTreeSet::new(), BTreeSet::new());
        for line in std::fs::read_to_string(&path).unwrap_or_default().lines() {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            if line["commit"] != commit.as_str() {
                continue;
            }
            let names = line["failures"].as_array().into_iter().flatten();
            failures.extend(names.filter_map(|name| Some(name.as_str()?.to_owned())));
            if let (Some(round), Some(program)) = (line["round"].as_u64(), line["program"].as_str()) {
                done.insert((round, program.to_owned()));
            }
        }
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Self {
            path,
            file,
            commit,
            done,
            failures,
        })
    }

    fn has(&self, round: u32, program: &Program) -> bool {
        self.done.contains(&(u64::from(round), program.name.clone()))
    }

    fn add(
        &mut self,
        round: u32,
        program: &Program,
        count: &test::tally::Count,
        took: Duration,
    ) -> Result<()> {
        self.failures.extend(count.failures.keys().cloned());
        let line = json!({
            "commit": self.commit, "round": round, "busy": round >= BUSY_FROM, "program": program.name,
            "passed": count.passed, "failed": count.failed, "skipped": count.skipped,
            "failures": count.failures.keys().collect::<Vec<_>>(), "said": count.failures,
            "seconds": took.as_secs(),
        });
        writeln!(self.file, "{line}").with_context(|| format!("writing {}", self.path.display()))
    }

    fn end(self, whole: bool) -> Result<bool> {
        let state = if whole {
            "all rounds ran"
        } else {
            "more is to be run"
        };
        println!(
            "soak repeat: {state}, {} tests failed; {}",
            self.failures.len(),
            self.path.display()
        );
        for name in &self.failures {
            println!("FAILED at least once: {name}");
        }
        Ok(self.failures.is_empty())
    }
}

/// Counts for nothing until its parent is gone.
const LOOP: &str =
    "while kill -0 $PPID 2>/dev/null; do n=0; while [ $n -lt 50000 ]; do n=$((n+1)); done; done";

/// Two processes that do nothing as fast as they can.
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Result<Self> {
        let mut busy = Self(Vec::new());
        for _ in 0..2 {
            let mut command = Command::new("sh");
            command.args(["-c", LOOP]).stdin(Stdio::null());
            busy.0.push(command.spawn().context("starting a busy loop")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It fails only when the loop is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
