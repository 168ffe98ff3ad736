//! Runs programs in turn and sums up what they took.
//!
//! Promises: a program that fails ends the measurement with what it said. Not here: which programs.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The median of some runs, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
}

impl Spread {
    /// `None` for no runs.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        let runs = sorted.len();
        Some(Spread {
            median,
            min,
            max,
            runs,
        })
    }
}

/// A program that takes part.
pub struct Contender {
    pub name: &'static str,
    pub command: Command,
}

/// Seconds that each contender took in each round: they run in turn, after one round that is not counted.
///
/// # Errors
/// When one cannot be started or fails.
pub fn rounds(contenders: &mut [Contender], rounds: usize) -> Result<Vec<Vec<f64>>> {
    let mut seconds = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for (contender, seconds) in contenders.iter_mut().zip(&mut seconds) {
            eprintln!("   round {round} of {rounds}: {}", contender.name);
            let took = timed(&mut contender.command)?;
            if round > 0 {
                seconds.push(took.as_secs_f64());
            }
        }
    }
    Ok(seconds)
}

/// Wall-clock time of a whole process, from its start to its end.
fn timed(command: &mut Command) -> Result<Duration> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("starting `{}`", shell::shown(command)))?;
    let output = child.wait_with_output()?;
    let took = started.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({})\n{}",
            shell::shown(command),
            output.status,
            said.trim_end()
        );
    }
    Ok(took)
}

/// A program's peak of resident memory in MiB: the kernel's high-water mark, asked for every millisecond until it ends.
///
/// # Errors
/// When it cannot be started or fails, or ends before it was asked once.
pub fn peak_memory(command: &mut Command) -> Result<f64> {
    let line = shell::shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = None;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        // The mark only rises; a process that is ending has none.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        peak = high_water(&text).max(peak);
        std::thread::sleep(Duration::from_millis(1));
    };
    if !ended.success() {
        bail!("`{line}` failed ({ended})");
    }
    let kib = peak.with_context(|| format!("`{line}` ended too soon to be looked at"))?;
    Ok(kib as f64 / 1024.0)
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Runs a program with its output in `path`, unless that is there already: whole, or not at all.
///
/// # Errors
/// When it cannot be started, fails or cannot be written.
pub fn cached(path: &Path, command: &mut Command) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let part = path.with_extension("part");
    let file = File::create(&part).with_context(|| format!("writing {}", part.display()))?;
    let status = command
        .stdout(file)
        .status()
        .with_context(|| format!("starting `{}`", shell::shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shell::shown(command));
    }
    std::fs::rename(&part, path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        let spread = |values: &[f64]| Spread::of(values).map(|s| (s.median, s.min, s.max, s.runs));
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[5.0, 1.0, 2.0]), Some((2.0, 1.0, 5.0, 3)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0, 4)));
    }

    #[test]
    fn a_program_that_fails_is_not_measured() {
        assert!(timed(&mut Command::new("false")).is_err());
        assert!(peak_memory(&mut Command::new("false")).is_err());
    }

    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t    4096 kB\n"), Some(4096));
        assert_eq!(high_water("Name:\tx\n"), None);
    }
}
