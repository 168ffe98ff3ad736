//! `cgpathd check`: what this node lacks, with a remedy for each.
//!
//! Facts are gathered first (files below a root, the TPM, a probe of IMA), assessed by a pure function, then
//! printed. What could not be found out is never taken for met. Not here: changing anything (see
//! [`crate::setup`]); the one trace that is left is that of the probes ([`cgpath_evidence::probe`]), which
//! verifiers accept.

mod anchors;
mod assess;
pub mod facts;
mod kernel;
mod probe;
mod tpm;

pub use anchors::TdFacts;
pub use assess::assess;

use crate::bpf;
use crate::config::Config;
use crate::control::{self, ClientError};
use crate::quote::tsm::Reports;
use facts::{DaemonFacts, Fact, Unknown};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// How a precondition fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is met.
    Ok,
    /// It is met, or not needed with this configuration, but somebody should know.
    Warn,
    /// It is not met.
    Fail,
    /// It could not be found out; `found` says why.
    Skip,
}

/// One precondition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Which; stable, for scripts.
    pub id: &'static str,
    /// How it fares.
    pub state: State,
    /// What was found, on one line.
    pub found: String,
    /// What to do, to be copied; absent where nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Whether the remedy needs a reboot.
    pub needs_reboot: bool,
}

/// All preconditions of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One row each, in the order in which to mend them.
    pub rows: Vec<Row>,
}

impl Report {
    /// The exit code: 1 if something is not met, else 2 if something could not be found out, else 0.
    pub fn exit_code(&self) -> u8 {
        let any = |state| self.rows.iter().any(|row| row.state == state);
        match (any(State::Fail), any(State::Skip)) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 0,
        }
    }

    /// A table for people: a line for each row, its remedy below it.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.id.len()).max().unwrap_or_default();
        let mut out = String::new();
        for row in &self.rows {
            let state = match row.state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::Fail => "FAIL",
                State::Skip => "skip",
            };
            let reboot = if row.needs_reboot { " (needs a reboot)" } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{state:4}  {:width$}  {}", row.id, row.found);
            if let Some(remedy) = &row.remedy {
                let _ = writeln!(out, "      {:width$}  -> {remedy}{reboot}", "");
            }
        }
        let count = |state| self.rows.iter().filter(|row| row.state == state).count();
        let _ = writeln!(
            out,
            "{} ok, {} to know, {} not met, {} not found out",
            count(State::Ok),
            count(State::Warn),
            count(State::Fail),
            count(State::Skip)
        );
        out
    }
}

/// Gathers facts of this machine, assesses them and prints the rows; gives the exit code.
///
/// # Errors
/// When `out` cannot be written.
pub fn run(config: &Config, json: bool, out: &mut impl Write) -> io::Result<u8> {
    let ask = facts::Ask {
        tpm: &tpm::ask,
        provider: &provider,
        probe: &probe::probe,
        types: &types,
        overlay: &overlay,
        systemd: &systemd,
        daemon: &daemon,
    };
    let facts = facts::gather(Path::new("/"), config, &ask);
    let report = Report {
        rows: assess(&facts, config),
    };
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        out.write_all(report.table().as_bytes())?;
    }
    out.flush()?;
    Ok(report.exit_code())
}

/// Looks up what [`crate::bpf`] would.
fn types(btf: &Path) -> Fact<Option<String>> {
    match bpf::resolve(btf) {
        Ok(()) => Ok(None),
        Err(error @ bpf::Error::Missing { .. }) => Ok(Some(error.to_string())),
        Err(error) => Err(Unknown::Failed(error.to_string())),
    }
}

/// Makes a report's directory and asks who would make the report.
fn provider(directory: &Path) -> Result<String, String> {
    Reports::new(directory, "").present().map_err(|e| e.to_string())
}

/// Looks up what [`crate::bpf`] would.
fn overlay(btf: &Path) -> Fact<bool> {
    bpf::knows_overlay(btf).map_err(|error| Unknown::Failed(error.to_string()))
}

/// What the daemon says of itself, if one runs.
fn daemon(config: &Config) -> Fact<Option<DaemonFacts>> {
    match control::ask_status(&config.run_dir) {
        Ok(status) => Ok(Some(DaemonFacts {
            blind: status.blind,
            lost: status.lost,
            stalled: status.stalled,
        })),
        Err(ClientError::NotRunning(_)) => Ok(None),
        Err(error) => Err(Unknown::Failed(error.to_string())),
    }
}

/// What `systemctl --version` prints.
fn systemd() -> Fact<String> {
    match Command::new("systemctl").arg("--version").output() {
        Ok(out) if out.status.success() => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        Ok(out) => Err(Unknown::Failed(format!("systemctl --version: {}", out.status))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Unknown::Absent("systemctl".into())),
        Err(e) => Err(Unknown::Failed(format!("systemctl: {e}"))),
    }
}

#[cfg(test)]
mod tests;
