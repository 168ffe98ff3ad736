//! What the test harness prints: how many tests ended in which way, and how long each took.
//!
//! Promise: a test that says `SKIPPED` is counted as skipped, not as passed. Not here: how the programs are
//! run.

use std::collections::BTreeMap;

use super::failed::Failures;

/// How a test begins its reason for being skipped where published data are not beside the clone
/// (`evidence/tests/common/vectors.rs`). Where they must be there, `CGPATH_REQUIRE_VECTORS=1` makes the test
/// itself fail.
const NO_VECTORS: &str = "SKIPPED: no ../shared/vectors";

/// How many tests ended in which way, and what is to be reported of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Of the skipped: those that want data which no clone has.
    pub without_vectors: u64,
    /// Of each test that ran: `program::test`, and its seconds. In a program whose tests say their own time,
    /// of those alone.
    pub times: Vec<(String, f64)>,
    /// Those that failed.
    pub failures: Failures,
}

impl Count {
    /// One step that is a test by itself, and passed.
    pub fn one() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }

    /// One that was skipped, since data are not there that no clone has.
    pub fn without_data() -> Self {
        Self {
            skipped: 1,
            without_vectors: 1,
            ..Self::default()
        }
    }

    /// One that failed, and why.
    pub fn broken(name: &str, why: String) -> Self {
        Self {
            failed: 1,
            failures: Failures::from([(name.to_owned(), why)]),
            ..Self::default()
        }
    }

    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.without_vectors += other.without_vectors;
        self.times.extend(other.times);
        self.failures.extend(other.failures);
    }

    /// Skipped although a machine that runs everything has what they want.
    pub fn wrongly_skipped(&self) -> u64 {
        self.skipped - self.without_vectors
    }
}

/// Reads the output of a test program that was started with `--show-output` (and `--report-time`) line by
/// line.
#[derive(Default)]
pub struct Tally {
    count: Count,
    /// Inside of the output of tests that passed.
    quiet: bool,
    /// The failed test whose output comes now.
    of_failed: Option<String>,
    /// The test whose output comes now has said already that it was skipped.
    skip_seen: bool,
    /// Tests of this program that said so; the program counts them as passed.
    skips: u64,
    /// What tests said of their own time.
    own: BTreeMap<String, f64>,
}

impl Tally {
    /// Whether what comes now is the output of tests that passed.
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// What was read, with the names of tests behind `program`.
    pub fn count(self, program: &str) -> Count {
        let mut count = self.count;
        if !self.own.is_empty() {
            // Tests of guests wait for their turn, and for what another test gathers: the harness counts
            // that, too.
            count.times = self.own.into_iter().collect();
        }
        for (name, _) in &mut count.times {
            *name = format!("{program}::{name}");
        }
        count.failures = count
            .failures
            .into_iter()
            .map(|(name, said)| (format!("{program}::{name}"), said))
            .collect();
        count
    }

    /// Takes a line; says whether to show it.
    pub fn line(&mut self, line: &str) -> bool {
        if line.ends_with(" has been running for over 60 seconds") {
            // Most of those tests wait for their turn to run a guest.
            return false;
        }
        if let Some(own) = line.strip_prefix("TEST-SECONDS ") {
            self.own_time(own);
            return false;
        }
        if self.said_by_failed(line) {
            return true;
        }
        if line.starts_with("---- ") {
            self.skip_seen = false;
        } else if line == "successes:" {
            self.quiet = true;
        } else if line == "failures:" {
            self.quiet = false;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.quiet = false;
            let number = |word: &str| {
                let before = result.split(word).next().unwrap_or_default();
                before
                    .rsplit(|c: char| !c.is_ascii_digit())
                    .find(|digits| !digits.is_empty())?
                    .parse::<u64>()
                    .ok()
            };
            // The line is printed by the tests' own program: `ok. 3 passed; 0 failed; 1 ignored; …`.
            let skips = std::mem::take(&mut self.skips);
            self.count.passed += number(" passed").unwrap_or(0).saturating_sub(skips);
            self.count.skipped += skips;
            self.count.failed += number(" failed").unwrap_or(0);
            self.count.skipped += number(" ignored").unwrap_or(0);
        } else if self.quiet && line.starts_with("SKIPPED") {
            if !std::mem::replace(&mut self.skip_seen, true) {
                self.skips += 1;
                self.count.without_vectors += u64::from(line.starts_with(NO_VECTORS));
            }
            return true;
        } else if !self.quiet {
            self.ended(line);
        }
        !self.quiet
    }

    /// Takes a line of the output of a failed test, which the harness shows under a head of its own once all
    /// tests have ended; says whether it was one.
    fn said_by_failed(&mut self, line: &str) -> bool {
        let head = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = head
            && self.count.failures.contains_key(name)
        {
            self.of_failed = Some(name.to_owned());
            return true;
        }
        let Some(name) = &self.of_failed else {
            return false;
        };
        let said = self.count.failures.entry(name.clone()).or_default();
        if !line.starts_with("test result: ") {
            said.push_str(line);
            said.push('\n');
            return true;
        }
        // Behind the last test's output stand the names of all.
        if let Some(end) = said.rfind("\nfailures:\n") {
            said.truncate(end);
        }
        self.of_failed = None;
        false
    }

    /// Takes the line of a test that ended: `test a::b ... ok <0.123s>`.
    fn ended(&mut self, line: &str) {
        let Some((name, how)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        else {
            return;
        };
        if how.starts_with("FAILED") {
            self.count.failures.insert(name.to_owned(), String::new());
        }
        let seconds = how
            .rsplit_once('<')
            .and_then(|(_, time)| time.strip_suffix("s>")?.parse().ok());
        if let Some(seconds) = seconds {
            self.count.times.push((name.to_owned(), seconds));
        }
    }

    /// Takes what a test says of its own time, `a::b 12.5`: the harness counts its waiting for a turn, too.
    fn own_time(&mut self, line: &str) {
        let Some((test, seconds)) = line
            .rsplit_once(' ')
            .and_then(|(test, seconds)| Some((test, seconds.parse::<f64>().ok()?)))
        else {
            return;
        };
        // A test that had two turns says so twice.
        let earlier = self.own.entry(test.to_owned()).or_default();
        *earlier += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_and_ignored_tests_are_not_counted_as_passed() {
        let output = "\
running 4 tests
test a ... ok <0.001s>
test b has been running for over 60 seconds
test b ... ok <12.500s>
test c ... ignored
test d ... ok <0.000s>

successes:

---- a stdout ----
SKIPPED: no ../shared/vectors beside the repository
SKIPPED: again
---- b stdout ----
chatter
TEST-SECONDS b 4.0
TEST-SECONDS b 3.5
test x ... ok <1.000s>

successes:
    a
    b
    d

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 2 tests
test e ... FAILED <0.250s>
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 12 filtered out; finished in 0.00s";
        let mut tally = Tally::default();
        let shown: Vec<&str> = output.lines().filter(|line| tally.line(line)).collect();
        assert!(shown.contains(&"SKIPPED: no ../shared/vectors beside the repository"));
        assert!(!shown.contains(&"chatter"));
        assert!(!shown.iter().any(|line| line.contains("over 60 seconds")));
        let count = tally.count("p");
        assert_eq!((count.passed, count.failed, count.skipped), (3, 1, 2));
        assert_eq!(count.wrongly_skipped(), 1, "the ignored one");
        assert_eq!(
            count.failures,
            Failures::from([("p::e".to_owned(), String::new())])
        );
        let times: Vec<(&str, f64)> = count.times.iter().map(|(name, time)| (&**name, *time)).collect();
        assert_eq!(times, [("p::b", 7.5)]);
    }

    #[test]
    fn what_a_failed_test_said_is_kept_with_its_name() {
        let output = "\
running 3 tests
test a ... FAILED <0.001s>
test b ... ok <0.001s>
test c ... FAILED <0.001s>

successes:

---- b stdout ----
chatter

successes:
    b

failures:

---- a stdout ----
failures:
test x ... FAILED <1.000s>
thread 'a' panicked at here:
why

---- c stdout ----
Error: of c


failures:
    a
    c

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
after";
        let mut tally = Tally::default();
        let shown: Vec<&str> = output.lines().filter(|line| tally.line(line)).collect();
        assert!(
            shown.contains(&"why") && shown.contains(&"after"),
            "it is shown where it comes, too"
        );
        assert!(!shown.contains(&"chatter"));
        let count = tally.count("p");
        assert_eq!((count.passed, count.failed), (1, 2));
        let said: Vec<(&str, &str)> = count.failures.iter().map(|(n, s)| (&**n, &**s)).collect();
        let of_a = "failures:\ntest x ... FAILED <1.000s>\nthread 'a' panicked at here:\nwhy\n\n";
        assert_eq!(said, [("p::a", of_a), ("p::c", "Error: of c\n\n")]);
    }

    #[test]
    fn a_test_takes_what_the_harness_says_where_no_test_says_more() {
        let mut tally = Tally::default();
        tally.line("test a::b ... ok <0.250s>");
        assert_eq!(tally.count("p").times, [("p::a::b".to_owned(), 0.25)]);
    }

    #[test]
    fn only_a_skip_for_want_of_published_vectors_is_excused() {
        let skipped = |reason: &str| {
            let output = format!(
                "successes:\n\n\
                 ---- a stdout ----\n\
                 {reason}\n\n\
                 successes:\n    \
                 a\n\n\
                 test result: ok. 1 passed; 0 failed; 0 ignored"
            );
            let mut tally = Tally::default();
            for line in output.lines() {
                tally.line(line);
            }
            let count = tally.count("p");
            assert_eq!((count.passed, count.skipped), (0, 1), "{reason}");
            count.wrongly_skipped()
        };
        assert_eq!(skipped("SKIPPED: no ../shared/vectors beside the repository"), 0);
        assert_eq!(skipped("SKIPPED: no KVM"), 1);
        assert_eq!(
            skipped("SKIPPED: not root; no ../shared/vectors beside the repository"),
            1
        );
    }
}
