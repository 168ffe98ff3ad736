//! The tests of the rules, run on one mutant after the other.
//!
//! Promises: a test runs on a mutant only where it comes by its switch, and the first that fails ends it:
//! those first that kill in the same file, then the cheap ones, and those of long modules for what survives
//! all others. A mutant that does not end is stopped by the processor time that it took, so that a busy
//! machine stops none; its memory has a bound.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::test::programs::Program;

use super::Mutant;
use super::log::Outcome;

/// So much longer than without a mutant a group of tests may take, and so many seconds more.
const LONGER: (f64, f64) = (20.0, 20.0);

/// Address space of a run, KiB.
const MEMORY: u32 = 4_000_000;

/// What ends with neither, sleeps: seconds.
const ASLEEP: u32 = 3600;

/// Seconds of the first group of tests; each next one is twice as long.
const GROUP: f64 = 0.5;

/// Tests that kill in the same file, tried first.
const KILLERS: usize = 6;

/// The same cases in each run, as cargo sets it (`.cargo/config.toml`).
const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "1");

/// Modules whose tests take long: nothing is spent on them before a mutant survives all others.
const LATE: &[&str] = &[
    "attacks",
    "lives",
    "long_lists",
    "measured",
    "properties",
    "tenant",
];

#[derive(Debug, Clone)]
struct Test {
    /// Which of the programs has it.
    program: usize,
    name: String,
    /// Processor time.
    seconds: f64,
    /// The switches that it comes by, thousands: each mutant has a list of tests.
    reached: Rc<BTreeSet<u64>>,
}

/// See the module.
pub struct Trials {
    programs: Vec<Program>,
    early: Vec<Test>,
    late: Vec<Test>,
    /// Those of long modules that were not run yet: program and name.
    unknown: Vec<(usize, String)>,
    /// How many mutants of a file a test killed.
    kills: BTreeMap<(String, String), u32>,
    /// SHA-256 of the code and of the tests.
    sources: [String; 2],
    folder: PathBuf,
    reached: File,
}

enum End {
    Passed,
    Failed(String),
    Stopped,
}

impl Trials {
    /// Runs each test of short modules once alone: that it passes, how long it takes, and which switches it
    /// comes by. That is kept as long as code and tests are the same: an edited test may fail by itself, or
    /// come by others.
    ///
    /// # Errors
    /// When one fails.
    pub fn begin(programs: Vec<Program>, folder: &Path, sources: [&str; 2]) -> Result<Self> {
        let path = folder.join("reached.jsonl");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let known = known(&text, sources);
        let mut trials = Self {
            programs,
            early: Vec::new(),
            late: Vec::new(),
            unknown: Vec::new(),
            kills: BTreeMap::new(),
            sources: sources.map(str::to_owned),
            folder: folder.to_owned(),
            reached: File::options().create(true).append(true).open(&path)?,
        };
        for (place, program) in trials.programs.iter().enumerate() {
            for name in program.tests(|_| true, None)? {
                let is_late = LATE.contains(&name.split("::").next().unwrap_or_default());
                match known.get(&name).and_then(|line| Test::of(place, line)) {
                    Some(test) if is_late => trials.late.push(test),
                    Some(test) => trials.early.push(test),
                    None if is_late => trials.unknown.push((place, name)),
                    None => {
                        let test = trials.measure(place, name)?;
                        trials.early.push(test);
                    }
                }
            }
        }
        Ok(trials)
    }

    /// Tries a mutant that has a switch, with the test that killed it when tests were others, then with those
    /// of short modules. `None` if it survives them.
    ///
    /// # Errors
    /// When a test cannot be started, or fails without a mutant.
    pub fn early(&mut self, mutant: &Mutant, killer: Option<&str>) -> Result<Option<Outcome>> {
        if let Some(at) = self
            .unknown
            .iter()
            .position(|(_, name)| Some(name.as_str()) == killer)
        {
            let (place, name) = self.unknown.swap_remove(at);
            let test = self.measure(place, name)?;
            self.late.push(test);
        }
        let tests = reaching(&self.named(killer), mutant);
        if let Some(outcome) = self.run(mutant, tests, None)? {
            return Ok(Some(outcome));
        }
        let tests = reaching(&self.early, mutant);
        self.run(mutant, tests, None)
    }

    /// The tests of this name that were run without a mutant.
    fn named(&self, name: Option<&str>) -> Vec<Test> {
        let all = self.early.iter().chain(&self.late);
        all.filter(|test| Some(test.name.as_str()) == name)
            .cloned()
            .collect()
    }

    /// Tries one that survived those with the tests of long modules.
    ///
    /// # Errors
    /// When a test cannot be started, or fails without a mutant.
    pub fn late(&mut self, mutant: &Mutant) -> Result<Outcome> {
        let tests = reaching(&self.late, mutant);
        if let Some(outcome) = self.run(mutant, tests, None)? {
            return Ok(outcome);
        }
        while let Some((place, name)) = self.unknown.pop() {
            let test = self.measure(place, name)?;
            let tests = reaching(std::slice::from_ref(&test), mutant);
            self.late.push(test);
            if let Some(outcome) = self.run(mutant, tests, None)? {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Missed)
    }

    /// Runs the tests of long modules without a mutant that were not run yet.
    ///
    /// # Errors
    /// When one fails.
    pub fn measure_all(&mut self) -> Result<()> {
        while let Some((place, name)) = self.unknown.pop() {
            let test = self.measure(place, name)?;
            self.late.push(test);
        }
        Ok(())
    }

    /// Tries a mutant that is all that these programs hold, after [`Self::measure_all`]: with the test that
    /// killed it when tests were others, then with all.
    ///
    /// # Errors
    /// When a test cannot be started.
    pub fn alone(&mut self, mutant: &Mutant, programs: &[Program], killer: Option<&str>) -> Result<Outcome> {
        let first = self.named(killer);
        if let Some(outcome) = self.run(mutant, first, Some(programs))? {
            return Ok(outcome);
        }
        let tests = self.early.iter().chain(&self.late).cloned().collect();
        let outcome = self.run(mutant, tests, Some(programs))?;
        Ok(outcome.unwrap_or(Outcome::Missed))
    }

    /// `None` if the mutant survives these tests. It has a switch, or is all that `alone` holds.
    fn run(
        &mut self,
        mutant: &Mutant,
        tests: Vec<Test>,
        alone: Option<&[Program]>,
    ) -> Result<Option<Outcome>> {
        let kills = |test: &Test| {
            let key = (mutant.file.clone(), test.name.clone());
            self.kills.get(&key).copied().unwrap_or_default()
        };
        for group in groups(tests, kills) {
            let run = match alone {
                Some(programs) => run_group(programs, &group, None),
                None => run_group(&self.programs, &group, Some(mutant.number)),
            };
            let outcome = match run? {
                End::Passed => continue,
                End::Failed(test) => {
                    *self.kills.entry((mutant.file.clone(), test.clone())).or_default() += 1;
                    Outcome::Caught(test)
                }
                End::Stopped => Outcome::Timeout(group[0].name.clone()),
            };
            return Ok(Some(outcome));
        }
        Ok(None)
    }

    /// Runs a test without a mutant, and keeps what is seen of it.
    fn measure(&self, place: usize, name: String) -> Result<Test> {
        let test = Test::measure(place, &self.programs[place], name, &self.folder.join("seen"))?;
        writeln!(&self.reached, "{}", test.line(&self.sources))?;
        Ok(test)
    }
}

/// What was seen of each test with these sources, by its name.
fn known(text: &str, sources: [&str; 2]) -> BTreeMap<String, Value> {
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| [&line["code"], &line["tests"]].map(Value::as_str) == sources.map(Some))
        .filter_map(|line| Some((line["test"].as_str()?.to_owned(), line)))
        .collect()
}

fn reaching(tests: &[Test], mutant: &Mutant) -> Vec<Test> {
    let is_reaching = |test: &&Test| test.reached.contains(&mutant.number);
    tests.iter().filter(is_reaching).cloned().collect()
}

/// The tests in the order in which they run, those of a group in one process.
fn groups(mut tests: Vec<Test>, kills: impl Fn(&Test) -> u32) -> Vec<Vec<Test>> {
    // What a kill of it costs.
    let worth = |test: &Test| f64::from(kills(test)) / (test.seconds + 0.05);
    tests.sort_by(|one, other| {
        let first = worth(other).total_cmp(&worth(one));
        first.then(one.seconds.total_cmp(&other.seconds))
    });
    let killers = tests
        .iter()
        .take(KILLERS)
        .take_while(|test| kills(test) > 0)
        .count();
    let mut rest = tests.split_off(killers);
    rest.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let (mut all, mut longest) = (vec![tests], GROUP);
    let (mut group, mut seconds) = (Vec::new(), 0.0);
    for test in rest {
        if !group.is_empty() && seconds + test.seconds > longest {
            all.push(std::mem::take(&mut group));
            seconds = 0.0;
            longest *= 2.0;
        }
        seconds += test.seconds;
        group.push(test);
    }
    all.push(group);
    // One process has the tests of one program.
    let split = all.into_iter().flat_map(|group| {
        let mut by_program: BTreeMap<usize, Vec<Test>> = BTreeMap::new();
        for test in group {
            by_program.entry(test.program).or_default().push(test);
        }
        by_program.into_values()
    });
    split.collect()
}

fn run_group(programs: &[Program], group: &[Test], number: Option<u64>) -> Result<End> {
    let first = group.first().context("a group without a test")?;
    let seconds: f64 = group.iter().map(|test| test.seconds).sum();
    let limit = (seconds * LONGER.0 + LONGER.1).ceil();
    let names = group.iter().map(|test| test.name.as_str());
    let program = programs.get(first.program).context("no such program")?;
    let mut command = limited(program, limit, names);
    command.envs(number.map(|number| ("CGPATH_MUTANT", number.to_string())));
    let output = command.output().context("starting tests")?;
    Ok(ended(&output))
}

/// The program with these tests, one after the other, within limits. It prints the processor time.
fn limited<'t>(program: &Program, seconds: f64, names: impl Iterator<Item = &'t str>) -> Command {
    let mut command = Command::new("sh");
    let script = format!(
        "ulimit -t {seconds}; ulimit -v {MEMORY}; timeout {ASLEEP} \"$@\"; status=$?; times; exit $status"
    );
    command
        .args(["-c", &script, "sh"])
        .arg(&program.executable)
        .args(["--test-threads=1", "--exact"])
        .args(names)
        .current_dir(&program.home)
        .env("CARGO_MANIFEST_DIR", &program.home)
        .env(SEED.0, SEED.1)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn ended(output: &Output) -> End {
    /// `timeout` itself, SIGKILL and SIGXCPU of a process that the shell waited for.
    const STOPPED: [i32; 3] = [124, 128 + 9, 128 + 24];
    let code = output.status.code();
    if code == Some(0) {
        return End::Passed;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = |line: &str| {
        Some(
            line.strip_prefix("test ")?
                .strip_suffix(" ... FAILED")?
                .to_owned(),
        )
    };
    if let Some(test) = said.lines().find_map(failed) {
        return End::Failed(test);
    }
    if code.is_none_or(|code| STOPPED.contains(&code)) {
        return End::Stopped;
    }
    // What is aborted leaves its own line open.
    let mut begun = said
        .lines()
        .rev()
        .filter_map(|line| line.strip_prefix("test ")?.split(" ... ").next());
    let last = begun.next().unwrap_or("a test").to_owned();
    End::Failed(last)
}

impl Test {
    fn of(program: usize, line: &Value) -> Option<Self> {
        let reached = line["reached"].as_array()?.iter().map(Value::as_u64);
        Some(Self {
            program,
            name: line["test"].as_str()?.to_owned(),
            seconds: line["seconds"].as_f64()?,
            reached: Rc::new(reached.collect::<Option<_>>()?),
        })
    }

    fn line(&self, [code, tests]: &[String; 2]) -> Value {
        json!({
            "code": code, "tests": tests, "test": self.name, "seconds": self.seconds,
            "reached": *self.reached,
        })
    }

    fn measure(place: usize, program: &Program, name: String, seen: &Path) -> Result<Self> {
        if seen.exists() {
            std::fs::remove_file(seen)?;
        }
        let mut command = limited(program, 3600.0, [name.as_str()].into_iter());
        let output = command
            .env("CGPATH_MUTANTS_SEEN", seen)
            .output()
            .context("starting a test")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !matches!(ended(&output), End::Passed) {
            bail!("{name} fails without a mutant ({})\n{said}", output.status);
        }
        let seconds = said
            .lines()
            .last()
            .and_then(children)
            .context("no times of a test")?;
        let text = std::fs::read_to_string(seen).unwrap_or_default();
        let reached = text
            .lines()
            .map(str::parse)
            .collect::<Result<BTreeSet<u64>, _>>()
            .context("what was seen")?;
        Ok(Self {
            program: place,
            name,
            seconds,
            reached: Rc::new(reached),
        })
    }
}

/// Seconds of a shell's `times`, the line of its children: `0m1.250s 0m0.5s`.
fn children(line: &str) -> Option<f64> {
    let seconds = |word: &str| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    line.split_whitespace().map(seconds).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, program: usize, seconds: f64) -> Test {
        Test {
            program,
            name: name.to_owned(),
            seconds,
            reached: Rc::default(),
        }
    }

    #[test]
    fn tests_that_kill_run_first_then_the_cheap_ones_and_each_group_is_longer() {
        let all = vec![
            test("long", 0, 9.0),
            test("killer", 0, 2.0),
            test("a", 0, 0.3),
            test("b", 0, 0.4),
            test("c", 0, 0.5),
            test("unit", 1, 0.1),
        ];
        let groups = groups(all, |test| u32::from(test.name == "killer"));
        let names: Vec<Vec<&str>> = groups
            .iter()
            .map(|group| group.iter().map(|test| test.name.as_str()).collect())
            .collect();
        assert_eq!(
            names,
            [
                vec!["killer"],
                vec!["a"],
                vec!["unit"],
                vec!["b", "c"],
                vec!["long"]
            ]
        );
    }

    #[test]
    fn what_was_seen_of_a_test_counts_for_the_sources_that_it_had() {
        let test = Test {
            reached: Rc::new([7].into()),
            ..test("a::b", 0, 0.5)
        };
        let text = format!("{}\nno line\n", test.line(&["code".into(), "tests".into()]));
        let seen = |sources| {
            known(&text, sources)
                .get("a::b")
                .and_then(|line| Test::of(3, line))
        };
        let same = seen(["code", "tests"]).unwrap();
        assert_eq!(
            (same.program, &same.name, &same.reached),
            (3, &test.name, &test.reached)
        );
        assert!(seen(["other", "tests"]).is_none());
        assert!(
            seen(["code", "other"]).is_none(),
            "an edited test may come by others"
        );
        // A line of the time when it did not state its tests.
        let mut old = test.line(&["code".into(), "tests".into()]);
        old["tests"].take();
        assert!(known(&old.to_string(), ["code", "tests"]).is_empty());
    }

    #[test]
    fn how_a_run_ended_is_seen_in_its_status_and_its_lines() {
        let run = |script: &str| ended(&Command::new("sh").args(["-c", script]).output().unwrap());
        assert!(matches!(run("exit 0"), End::Passed));
        let failed = run("echo 'test a::b ... ok'; echo 'test a::c ... FAILED'; exit 101");
        assert!(matches!(failed, End::Failed(name) if name == "a::c"));
        let aborted = run("printf 'test a::b ... ok\\ntest a::c ... '; sh -c 'kill -ABRT $$'; exit 134");
        assert!(matches!(aborted, End::Failed(name) if name == "a::c"));
        assert!(matches!(run("echo 'test a ... '; exit 152"), End::Stopped));
        assert!(matches!(run("exit 124"), End::Stopped));
    }

    #[test]
    fn processor_time_is_read_as_the_shell_prints_it() {
        assert_eq!(children("1m2.500s 0m0.25s"), Some(62.75));
        assert_eq!(children("real"), None);
    }
}
