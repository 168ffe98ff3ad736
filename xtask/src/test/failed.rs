//! What failed tests said: the message of each for the end of the log, all of it for a file.
//!
//! Promise: what is shown of one test is short, whatever it printed, and names the file with the rest. Not
//! here: how a test's output is found (`tally`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::workspace::{emptied, removed};

/// Names of failed tests, `program::test`, and all that each said.
pub type Failures = BTreeMap<String, String>;

/// What is shown of one test at most.
const LINES: usize = 15;
const BYTES: usize = 1_500;

/// Stands between a thread's name and the place of its panic.
const PANICKED: &str = " panicked at ";

/// Puts all that each test said into a file of its own in `folder`, which holds nothing of earlier runs then.
///
/// # Errors
/// When the folder cannot be written.
pub fn keep(failures: &Failures, folder: &Path) -> Result<()> {
    if failures.is_empty() {
        return removed(folder);
    }
    emptied(folder)?;
    for (name, said) in failures {
        let path = file(folder, name);
        std::fs::write(&path, said).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Writes the names of failed tests, and why each failed.
pub fn list(text: &mut String, failures: &Failures, folder: &Path) -> std::fmt::Result {
    let mut known: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
    for (name, said) in failures {
        writeln!(text, "FAILED: {name}")?;
        let shown = message(said);
        // Tests that read what was gathered once fail with one message; its first line names the thread, and
        // then the place.
        if let Some((_, place)) = shown.first().and_then(|first| first.split_once(PANICKED)) {
            let mut words = vec![place];
            words.extend(&shown[1..]);
            if let Some(earlier) = known.get(&words) {
                writeln!(text, "    for the same reason as {earlier}")?;
                continue;
            }
            known.insert(words, name);
        }
        for line in &shown {
            writeln!(text, "    {line}")?;
        }
        if !said.is_empty() {
            writeln!(text, "    all that it said: {}", file(folder, name).display())?;
        }
    }
    Ok(())
}

fn file(folder: &Path, name: &str) -> PathBuf {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let plain = |c: char| if is_plain(&c) { c } else { '-' };
    // A file's name has 255 bytes at most.
    let name: String = name.chars().map(plain).take(200).collect();
    folder.join(format!("{name}.txt"))
}

/// The message of the first panic, or, where nothing panicked, what was said last.
fn message(said: &str) -> Vec<&str> {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE"))
        .collect();
    let is_panic = |line: &&str| line.starts_with("thread '") && line.contains(PANICKED);
    let from = lines.iter().position(is_panic);
    let from = from.unwrap_or(lines.len().saturating_sub(LINES));
    let mut left = BYTES;
    let mut shown = Vec::new();
    for line in lines[from..].iter().copied().take(LINES) {
        let end = (0..=line.len().min(left))
            .rev()
            .find(|at| line.is_char_boundary(*at));
        let line = &line[..end.unwrap_or(0)];
        if line.is_empty() {
            break;
        }
        left -= line.len();
        shown.push(line);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(failures: &[(&str, &str)]) -> String {
        let of = |(name, said): &(&str, &str)| ((*name).to_owned(), (*said).to_owned());
        let mut text = String::new();
        list(
            &mut text,
            &failures.iter().map(of).collect(),
            Path::new("target/failed"),
        )
        .unwrap();
        text
    }

    #[test]
    fn the_message_of_the_first_panic_is_shown_and_the_file_with_all_of_it() {
        let said = "\
what it printed
thread 'guard::a' (17) panicked at tests/guard.rs:5:9:
assertion failed: code 1

note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
thread '<unnamed>' panicked at other.rs:1:1:
";
        assert_eq!(
            listed(&[("vm-tests/guests::guard::a", said)]),
            "\
FAILED: vm-tests/guests::guard::a
    thread 'guard::a' (17) panicked at tests/guard.rs:5:9:
    assertion failed: code 1
    thread '<unnamed>' panicked at other.rs:1:1:
    all that it said: target/failed/vm-tests-guests--guard--a.txt
"
        );
    }

    #[test]
    fn what_is_shown_of_a_test_is_short_whatever_it_said() {
        let long = format!("thread 'a' panicked at b:\n{}", "ä".repeat(4000));
        let many = format!("thread 'a' panicked at b:\n{}", "line\n".repeat(400));
        for said in [&long, &many] {
            let shown = message(said);
            let bytes: usize = shown.iter().map(|line| line.len()).sum();
            assert!(shown.len() <= LINES && bytes <= BYTES, "{} {bytes}", shown.len());
            assert!(shown.len() == LINES || bytes > BYTES - 4);
        }
        // No panic: what came last.
        let numbered: String = (0..100).map(|n| format!("{n}\n")).collect();
        let shown = message(&numbered);
        assert_eq!(
            (shown[0], shown[shown.len() - 1], shown.len()),
            ("85", "99", LINES)
        );
        assert_eq!(listed(&[("step", "")]), "FAILED: step\n");
    }

    #[test]
    fn one_reason_of_many_tests_is_shown_once() {
        let of = |thread: &str| format!("thread '{thread}' panicked at b:\nno guest\n");
        let text = listed(&[("p::a", &of("a")), ("p::b", &of("b")), ("q", "of its own")]);
        assert_eq!(text.matches("no guest").count(), 1, "{text}");
        assert!(
            text.contains("FAILED: p::b\n    for the same reason as p::a\n"),
            "{text}"
        );
        assert!(text.contains("FAILED: q\n    of its own\n"), "{text}");
        // The same words at another place, or of no panic, are another reason.
        let elsewhere = of("c").replace("at b:", "at c:");
        let text = listed(&[("p::a", &of("a")), ("p::c", &elsewhere), ("q", "no guest\n")]);
        assert_eq!(text.matches("no guest").count(), 3, "{text}");
    }

    #[test]
    fn all_that_was_said_is_kept_until_the_next_run() {
        let folder = std::env::temp_dir().join(format!("xtask-failed-{}", std::process::id()));
        let failures = Failures::from([("p::a".to_owned(), "all of it\n".to_owned())]);
        keep(&failures, &folder).unwrap();
        let kept = std::fs::read_to_string(file(&folder, "p::a")).unwrap();
        assert_eq!(kept, "all of it\n");
        keep(&Failures::new(), &folder).unwrap();
        assert!(!folder.exists());
    }
}
