//! What became of each mutant, one JSON object a line.
//!
//! Promise: a line counts for the sources that it states. What does not compile is known as long as the code
//! is the same, and all else as long as the tests are, too: with other tests a kill only says which test to
//! begin with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Mutant;

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// By this test.
    Caught(String),
    /// This test, or one of those with it, did not end.
    Timeout(String),
    Missed,
    /// It does not compile.
    Unviable,
}

impl Outcome {
    /// One word, and the test.
    fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Caught(test) => ("caught", test),
            Self::Timeout(test) => ("timeout", test),
            Self::Missed => ("missed", ""),
            Self::Unviable => ("unviable", ""),
        }
    }

    fn of(line: &Value) -> Option<Self> {
        let test = line["by"].as_str().unwrap_or_default().to_owned();
        match line["outcome"].as_str()? {
            "caught" => Some(Self::Caught(test)),
            "timeout" => Some(Self::Timeout(test)),
            "missed" => Some(Self::Missed),
            "unviable" => Some(Self::Unviable),
            _ => None,
        }
    }
}

/// See the module.
pub struct Log {
    path: PathBuf,
    file: File,
    code: String,
    tests: String,
    known: BTreeMap<String, Outcome>,
    /// The tests that killed mutants when the tests were others.
    killers: BTreeMap<String, String>,
    /// Mutants that have no switch, and may compile by themselves.
    alone: BTreeSet<String>,
    /// Mutants that survived the tests of short modules.
    survivors: BTreeSet<String>,
}

impl Log {
    /// Reads what is known of this code.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn open(folder: &Path, code: String, tests: String) -> Result<Self> {
        let path = folder.with_extension("jsonl");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let mut log = Self {
            path,
            file,
            code,
            tests,
            known: BTreeMap::new(),
            killers: BTreeMap::new(),
            alone: BTreeSet::new(),
            survivors: BTreeSet::new(),
        };
        for line in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            log.take(&line);
        }
        Ok(log)
    }

    fn take(&mut self, line: &Value) {
        let Some(name) = line["mutant"].as_str() else {
            return;
        };
        if line["code"] != self.code.as_str() {
            return;
        }
        if line["outcome"] == "alone" {
            self.alone.insert(name.to_owned());
        }
        let is_of_these_tests = line["tests"] == self.tests.as_str();
        if line["outcome"] == "survivor" && is_of_these_tests {
            self.survivors.insert(name.to_owned());
        }
        match Outcome::of(line) {
            Some(outcome) if is_of_these_tests || outcome == Outcome::Unviable => {
                self.known.insert(name.to_owned(), outcome);
            }
            Some(Outcome::Caught(test)) => {
                self.killers.insert(name.to_owned(), test);
            }
            _ => {}
        }
    }

    pub fn add(&mut self, mutant: &Mutant, outcome: &Outcome, took: Duration) -> Result<()> {
        let (word, by) = outcome.words();
        println!("{word:8} {} {by}", mutant.name);
        self.known.insert(mutant.name.clone(), outcome.clone());
        self.write(&mutant.name, word, by, took)
    }

    /// Notes that a mutant has no switch.
    pub fn leave_alone(&mut self, mutant: &Mutant) -> Result<()> {
        if !self.alone.insert(mutant.name.clone()) {
            return Ok(());
        }
        self.write(&mutant.name, "alone", "", Duration::ZERO)
    }

    /// Notes that a mutant survived the tests of short modules.
    pub fn survived(&mut self, mutant: &Mutant, took: Duration) -> Result<()> {
        if !self.survivors.insert(mutant.name.clone()) {
            return Ok(());
        }
        println!("survivor {}", mutant.name);
        self.write(&mutant.name, "survivor", "", took)
    }

    fn write(&mut self, name: &str, outcome: &str, by: &str, took: Duration) -> Result<()> {
        let line = json!({
            "code": self.code, "tests": self.tests, "mutant": name, "outcome": outcome, "by": by,
            "seconds": took.as_secs(),
        });
        writeln!(self.file, "{line}").with_context(|| format!("writing {}", self.path.display()))
    }

    /// SHA-256 of the code and of the tests.
    pub fn sources(&self) -> [&str; 2] {
        [&self.code, &self.tests]
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.known.get(name)
    }

    /// The test that killed a mutant when the tests were others.
    pub fn killer(&self, name: &str) -> Option<&str> {
        self.killers.get(name).map(String::as_str)
    }

    pub fn is_open(&self, name: &str) -> bool {
        !self.known.contains_key(name)
    }

    pub fn is_survivor(&self, name: &str) -> bool {
        self.survivors.contains(name)
    }

    pub fn is_alone(&self, name: &str) -> bool {
        self.alone.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_code_begins_anew_and_other_tests_try_all_again_that_compiles() {
        let folder = std::env::temp_dir().join(format!("cgpath-mutants-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let open = |code: &str, tests: &str| {
            Log::open(&folder.join("log"), code.to_owned(), tests.to_owned()).unwrap()
        };
        let mutant = |name: &str| Mutant {
            number: 0,
            file: String::new(),
            name: name.to_owned(),
            value: Value::Null,
        };
        let mut log = open("1", "1");
        let killed = Outcome::Caught("test".to_owned());
        log.add(&mutant("a"), &killed, Duration::ZERO).unwrap();
        log.add(&mutant("b"), &Outcome::Missed, Duration::ZERO).unwrap();
        log.leave_alone(&mutant("c")).unwrap();
        log.survived(&mutant("d"), Duration::ZERO).unwrap();
        log.add(&mutant("e"), &Outcome::Unviable, Duration::ZERO).unwrap();
        log.add(&mutant("f"), &Outcome::Timeout("test".to_owned()), Duration::ZERO)
            .unwrap();
        let same = open("1", "1");
        assert_eq!(same.outcome("a"), Some(&killed));
        assert_eq!(same.outcome("b"), Some(&Outcome::Missed));
        assert_eq!(same.outcome("e"), Some(&Outcome::Unviable));
        assert!(!same.is_open("f") && same.killer("a").is_none());
        assert!(same.is_open("c") && same.is_alone("c") && !same.is_alone("a"));
        assert!(same.is_survivor("d") && same.is_open("d"));
        let other_tests = open("1", "2");
        assert!(!other_tests.is_survivor("d"));
        // A kill outlives neither the test that made it nor an edit of it.
        assert!(other_tests.is_open("a") && other_tests.is_open("b") && other_tests.is_open("f"));
        assert_eq!(other_tests.killer("a"), Some("test"));
        assert!(!other_tests.is_open("e") && other_tests.is_alone("c"));
        let other_code = open("2", "1");
        assert!(other_code.is_open("a") && other_code.is_open("b") && !other_code.is_alone("c"));
        assert!(other_code.is_open("e") && other_code.killer("a").is_none());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
