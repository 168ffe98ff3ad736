//! Running other programs: quietly for an answer, or in the open with the time they take.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// The command line, for messages.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs a program for its standard output.
///
/// # Errors
/// When it cannot be started or fails: with the end of what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{line}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let all: Vec<&str> = said.lines().collect();
    bail!(
        "`{line}` failed ({})\n{}",
        output.status,
        all[all.len().saturating_sub(15)..].join("\n")
    )
}

/// Runs a program for its standard output; what it says of its progress is shown as it comes.
///
/// # Errors
/// When it cannot be started or fails: it has said why.
pub fn spoken(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program whose own output is its progress, under a heading, and says how long it took.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    heading(what);
    let started = Instant::now();
    let line = shown(command);
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("{what}: `{line}` failed ({status})");
    }
    let seconds = started.elapsed().as_secs_f64();
    if seconds > 1.0 {
        eprintln!("   {what}: {seconds:.1} s");
    }
    Ok(())
}

/// The exit status of a program that this one stands for; a program that a signal ended failed.
pub fn passed_on(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Announces a step.
pub fn heading(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1m== {what}\x1b[0m");
    } else {
        eprintln!("== {what}");
    }
}

/// Whether somebody can be asked.
pub fn terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks once for a yes; anything else is a no. `None` where there is no terminal to ask on: the question is
/// shown all the same, so that a log tells what was done.
///
/// # Errors
/// When the terminal cannot be read.
pub fn confirm(question: &str) -> Result<Option<bool>> {
    if !terminal() {
        eprintln!("{question} There is no terminal to ask on: yes; --no-install is how to say no.");
        return Ok(None);
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
}
