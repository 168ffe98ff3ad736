//! The stages of a long command, some of them side by side, and how long each took.
//!
//! Promises: what runs beside the foreground prints nothing but its begin, its end and, when it fails, the
//! end of what it said, so that two programs never write into each other's lines; all of it is kept in a log.
//! Not here: what a stage does.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Lines shown of a program that failed.
const SHOWN: usize = 25;

/// The stages of one command.
pub struct Stages {
    started: Instant,
    logs: PathBuf,
    done: Mutex<Vec<Stage>>,
}

struct Stage {
    name: String,
    begin: Duration,
    took: Duration,
}

impl Stages {
    /// Begins to count; logs go to that folder.
    pub fn new(logs: &Path) -> Self {
        Self {
            started: Instant::now(),
            logs: logs.to_owned(),
            done: Mutex::new(Vec::new()),
        }
    }

    /// Does a stage and counts its time, whether it succeeds or not.
    ///
    /// # Errors
    /// Those of the stage.
    pub fn run<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = self.started.elapsed();
        let result = work();
        let took = self.started.elapsed() - begin;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(Stage {
            name: name.to_owned(),
            begin,
            took,
        });
        result
    }

    /// Runs a program beside the foreground: what it says goes to a log named after `name`.
    ///
    /// # Errors
    /// When it cannot be started, or fails: with the end of its log.
    pub fn aside(&self, name: &str, command: &mut Command) -> Result<()> {
        std::fs::create_dir_all(&self.logs).with_context(|| format!("making {}", self.logs.display()))?;
        let path = self.logs.join(format!("{}.log", name.replace(' ', "-")));
        let log = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
        shell::heading(&format!("{name} (beside the rest; log: {})", path.display()));
        let line = shell::shown(command);
        let begin = Instant::now();
        let status = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| format!("starting `{line}`"))?;
        if !status.success() {
            let said = std::fs::read(&path).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            let lines: Vec<&str> = said.lines().collect();
            bail!(
                "{name}: `{line}` failed ({status}); {} ends with\n{}",
                path.display(),
                lines[lines.len().saturating_sub(SHOWN)..].join("\n")
            );
        }
        eprintln!("   {name}: {:.1} s", begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// The table that ends a command's output: each stage in the order of its begin, with its first second.
    pub fn table(&self) -> String {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|stage| stage.begin);
        render(&done, self.started.elapsed())
    }
}

fn render(stages: &[Stage], whole: Duration) -> String {
    let widths = stages.iter().map(|stage| stage.name.chars().count());
    let wide = widths.max().unwrap_or(0).max("in all".len());
    let mut text = format!("{:wide$}  {:>8}  {:>8}\n", "stage", "begins", "seconds");
    for Stage { name, begin, took } in stages {
        let (begin, took) = (begin.as_secs_f64(), took.as_secs_f64());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:wide$}  {begin:>8.1}  {took:>8.1}");
    }
    let _ = writeln!(
        text,
        "{:wide$}  {:>8}  {:>8.1}",
        "in all",
        "",
        whole.as_secs_f64()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_stage_with_its_begin_and_a_stage_that_failed_too() {
        let stages = Stages::new(Path::new("unused"));
        stages.run("first", || Ok(())).unwrap();
        stages.run::<()>("second one", || bail!("no")).unwrap_err();
        let table = stages.table();
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 4, "{table}");
        assert!(
            rows[1].starts_with("first ") && rows[2].starts_with("second one "),
            "{table}"
        );
        assert!(rows[3].starts_with("in all"), "{table}");
    }

    #[test]
    fn what_fails_aside_is_shown_with_its_end_and_kept() {
        let folder = std::env::temp_dir().join(format!("xtask-stages-{}", std::process::id()));
        let stages = Stages::new(&folder);
        let error = stages
            .aside(
                "a thing",
                Command::new("sh").args(["-c", "echo said this; exit 3"]),
            )
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("said this") && error.contains("exit status: 3"),
            "{error}"
        );
        assert_eq!(
            std::fs::read_to_string(folder.join("a-thing.log")).unwrap(),
            "said this\n"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
