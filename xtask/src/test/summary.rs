//! The end of a test run: steps with their counts and seconds, the slowest tests, and what each area of work
//! took of its share.
//!
//! Not here: how anything is counted (`tally`).

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::failed;
use super::tally::Count;

/// How many of the slowest tests are named.
const SLOWEST: usize = 10;

/// The minutes of a warm run that areas of later work may take, and their tests: names begin with one of
/// these.
const SHARES: &[(&str, f64, &[&str])] = &[
    (
        "verdicts",
        1.0,
        &[
            "cgpath-appraisal/integration::verdict_",
            "vm-tests/guests::verdict_",
        ],
    ),
    ("pods", 2.0, &["vm-tests/guests::pod_"]),
    (
        "real inputs",
        1.5,
        &[
            "cgpath/integration::cases",
            "cgpath-refvals/integration::cases",
            "vm-tests/guests::unpacked",
        ],
    ),
    ("TDX", 1.0, &["vm-tests/guests::tdx"]),
    ("workloads", 2.5, &["vm-tests/guests::workload_"]),
    ("install", 2.0, &["vm-tests/guests::install"]),
    ("Kubernetes", 3.0, &["vm-tests/guests::kube"]),
    ("container interface", 0.5, &["vm-tests/guests::inside"]),
    ("node trust", 1.0, &["vm-tests/guests::identity"]),
    ("fleet", 0.5, &["vm-tests/guests::fleet"]),
];

/// What ran.
#[derive(Default)]
pub struct Summary {
    steps: Vec<(&'static str, Count, Duration)>,
}

impl Summary {
    pub fn add(&mut self, step: &'static str, count: Count, took: Duration) {
        self.steps.push((step, count, took));
    }

    pub fn total(&self) -> Count {
        let mut total = Count::default();
        for (_, count, _) in &self.steps {
            total.add(count.clone());
        }
        total
    }

    /// The tables that end the output, and why tests failed, but for its last line. In `folder` is all that
    /// failed tests said.
    pub fn text(&self, folder: &Path) -> String {
        let total = self.total();
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = slowest(&mut text, &total);
        let _ = shares(&mut text, &total);
        let _ = self.steps(&mut text);
        let _ = failed::list(&mut text, &total.failures, folder);
        text
    }

    fn steps(&self, text: &mut String) -> std::fmt::Result {
        for (step, count, took) in &self.steps {
            let state = if count.failed > 0 { "FAILED" } else { "ok" };
            writeln!(
                text,
                "{step:8} {state:7} {:5} passed {:3} failed {:3} skipped {:7.1} s",
                count.passed,
                count.failed,
                count.skipped,
                took.as_secs_f64()
            )?;
        }
        let all: Duration = self.steps.iter().map(|(_, _, took)| *took).sum();
        writeln!(text, "{:50} {:7.1} s", "in all", all.as_secs_f64())
    }
}

fn slowest(text: &mut String, total: &Count) -> std::fmt::Result {
    let mut times: Vec<&(String, f64)> = total.times.iter().collect();
    if times.is_empty() {
        return Ok(());
    }
    times.sort_by(|one, other| other.1.total_cmp(&one.1));
    writeln!(text, "the slowest tests (others ran beside them):")?;
    for (name, seconds) in times.into_iter().take(SLOWEST) {
        writeln!(text, "  {seconds:7.1} s  {name}")?;
    }
    Ok(())
}

fn shares(text: &mut String, total: &Count) -> std::fmt::Result {
    let rows: Vec<(&str, f64, f64)> = SHARES
        .iter()
        .map(|(area, minutes, names)| {
            let theirs = |name: &str| names.iter().any(|begin| name.starts_with(begin));
            let times = total.times.iter().filter(|(name, _)| theirs(name));
            (*area, minutes * 60.0, times.map(|(_, seconds)| seconds).sum())
        })
        .filter(|(_, _, taken)| *taken > 0.0)
        .collect();
    if !rows.is_empty() {
        writeln!(
            text,
            "areas with a share of their own (seconds of tests, some of them side by side):"
        )?;
    }
    for (area, share, taken) in rows {
        let over = if taken > share {
            "  OVER: what is too much goes to soak"
        } else {
            ""
        };
        writeln!(text, "  {area:20} {taken:7.1} of {share:4.0} s{over}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_tests_come_first_and_shares_count_their_own_tests() {
        let mut summary = Summary::default();
        let mut count = Count::one();
        for i in 0..12 {
            count.times.push((format!("p::t{i}"), f64::from(i)));
        }
        count
            .times
            .push(("vm-tests/guests::install::a".to_owned(), 100.0));
        count.times.push(("vm-tests/guests::install::b".to_owned(), 30.0));
        summary.add("host", count, Duration::from_secs(9));
        summary.add(
            "vm",
            Count::broken("q::x", "no such thing".to_owned()),
            Duration::from_secs(1),
        );
        let text = summary.text(Path::new("f"));
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].ends_with("install::a") && lines[3].ends_with("p::t11"),
            "{text}"
        );
        assert!(!text.contains("p::t0\n") && text.contains("p::t4\n"), "{text}");
        assert!(text.contains("130.0 of  120 s  OVER"), "{text}");
        assert!(!text.contains("Kubernetes"), "{text}");
        assert!(text.contains("in all") && text.contains("10.0 s"), "{text}");
        let end = "FAILED: q::x\n    no such thing\n    all that it said: f/q--x.txt\n";
        assert!(text.ends_with(end), "{text}");
        assert_eq!((summary.total().passed, summary.total().failed), (1, 1));
    }
}
