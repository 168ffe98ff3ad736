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

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Seconds from the process's start to its end.
    pub wall: f64,
    /// Seconds of processors, all threads together, to 0.01 s: what else the machine does is hardly in it.
    pub cpu: f64,
}

/// What each contender took in each round: they run in turn, after one round that is not counted.
///
/// # Errors
/// When one cannot be started or fails.
pub fn rounds(contenders: &mut [Contender], rounds: usize) -> Result<Vec<Vec<Taken>>> {
    let mut all = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for (contender, all) in contenders.iter_mut().zip(&mut all) {
            eprintln!("   round {round} of {rounds}: {}", contender.name);
            let took = timed(&mut contender.command)?;
            if round > 0 {
                all.push(took);
            }
        }
    }
    Ok(all)
}

fn timed(command: &mut Command) -> Result<Taken> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let before = children_cpu()?;
    let started = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("starting `{}`", shell::shown(command)))?;
    let output = child.wait_with_output()?;
    let wall = started.elapsed().as_secs_f64();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({})\n{}",
            shell::shown(command),
            output.status,
            said.trim_end()
        );
    }
    Ok(Taken {
        wall,
        cpu: children_cpu()? - before,
    })
}

/// Seconds of processors that the children took which ended. Source: proc(5), /proc/pid/stat, cutime and
/// cstime.
fn children_cpu() -> Result<f64> {
    /// In /proc it is always 100, whatever the kernel was built with.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    ended_children(&stat)
        .map(|ticks| ticks as f64 / TICKS)
        .context("/proc/self/stat has no times of children")
}

fn ended_children(stat: &str) -> Option<u64> {
    // The second field is a name in parentheses with anything in it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(13);
    let mut next = || times.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// What else the machine does, for the reader: processors, and the load average of the last minute.
pub fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load
        .split(' ')
        .next()
        .filter(|l| !l.is_empty())
        .unwrap_or("unknown");
    format!("{processors} processors, load average {load} before the first round")
}

/// A program's peak of resident memory in MiB: the kernel's high-water mark, asked for every millisecond
/// until it ends.
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
    fn times_of_children_are_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 1 2 3 4 5 6 70 8 20 0 1 0 99";
        assert_eq!(ended_children(stat), Some(78));
        assert_eq!(ended_children("7 (a) S 1"), None);
    }

    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t    4096 kB\n"), Some(4096));
        assert_eq!(high_water("Name:\tx\n"), None);
    }
}
