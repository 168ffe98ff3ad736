//! `demo` and `vm`: bring what is missing, build, and become the program that does it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;

use crate::needs::{self, Consent, Purpose};
use crate::stages::Stages;
use crate::workspace::Workspace;
use crate::{build, help, kernel, shell};

/// `cargo xtask demo`.
///
/// # Errors
/// When something is missing, does not build, or the demo cannot be started.
pub fn demo(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut consent = Consent::default();
    let mut passed: Vec<OsString> = Vec::new();
    let (mut patched, mut domain) = (false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => consent.yes = true,
            Long("no-install") => consent.no_install = true,
            Short('h') | Long("help") => {
                print!("{}", help::DEMO);
                return Ok(ExitCode::SUCCESS);
            }
            Long(name @ ("bare" | "keep")) => passed.push(format!("--{name}").into()),
            Long("tier") => match parser.value()?.string()?.as_str() {
                "bpf" => patched = false,
                "kernel" => patched = true,
                other => bail!("no tier `{other}`; there are bpf and kernel"),
            },
            Long("anchor") => match parser.value()?.string()?.as_str() {
                "pcr10" => domain = false,
                "rtmr" => domain = true,
                other => bail!("no anchor `{other}`; there are pcr10 and rtmr"),
            },
            Long(name @ ("stock" | "break")) => {
                passed.push(format!("--{name}").into());
                passed.push(parser.value()?);
            }
            Long(name) => {
                let name = name.to_owned();
                passed.push(format!("--{name}").into());
                passed.extend(parser.optional_value());
            }
            Value(value) => passed.push(value),
            other => return Err(other.unexpected().into()),
        }
    }
    let stages = Stages::new(&workspace.target.join("demo-logs"));
    if let Some(code) = stages.run("packages", || needs::provide(workspace, Purpose::Demo, consent))? {
        return Ok(code);
    }
    if patched {
        match stages.run("patched kernel", || {
            kernel::for_guests(workspace, kernel::USUAL_BASE, consent)
        })? {
            Ok(dir) => passed.extend(["--kernel".into(), dir.into()]),
            Err(code) => return Ok(code),
        }
    }
    if domain {
        let file = workspace.target.join("demo-domain.json");
        stages.run("trust domain", || build::domain(workspace, &file))?;
        passed.extend(["--domain".into(), file.into()]);
    }
    build::demo(workspace, &stages, &passed)?;
    let mut command = Command::new(workspace.program("demo"));
    let status = stages.run("boot and six steps", || {
        workspace
            .with_environment(command.args(&passed))
            .status()
            .context("starting the demo")
    })?;
    eprint!("\n{}", stages.table());
    Ok(shell::passed_on(status))
}

/// `cargo xtask vm`.
///
/// # Errors
/// When something is missing, does not build, or the program cannot be started.
pub fn vm(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut consent = Consent::default();
    let mut passed: Vec<OsString> = Vec::new();
    let mut command: Vec<OsString> = Vec::new();
    let mut base: Option<String> = None;
    let mut virtme = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => consent.yes = true,
            Long("no-install") => consent.no_install = true,
            Short('h') | Long("help") => {
                print!("{}", help::VM);
                return Ok(ExitCode::SUCCESS);
            }
            Long(name @ ("keep" | "prepare" | "stop")) => passed.push(format!("--{name}").into()),
            Long("base") => base = Some(parser.value()?.string()?),
            Long("virtme") => virtme = true,
            Long(name @ ("stock" | "cgroup" | "ima-policy" | "ima" | "memory" | "attach")) => {
                passed.push(format!("--{name}").into());
                passed.push(parser.value()?);
            }
            Value(first) => {
                command.push("--".into());
                command.push(first);
                command.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(code) = needs::provide(workspace, Purpose::Machines, consent)? {
        return Ok(code);
    }
    if virtme {
        base.get_or_insert_with(|| kernel::USUAL_BASE.to_owned());
        passed.extend(["--virtme".into(), kernel::virtme::provide(workspace)?.into()]);
    }
    if let Some(base) = base {
        match kernel::for_guests(workspace, &base, consent)? {
            Ok(dir) => passed.extend(["--kernel".into(), dir.into()]),
            Err(code) => return Ok(code),
        }
    }
    passed.extend(command);
    build::machine_driver(workspace)?;
    become_program(workspace, "vm", &passed)
}

fn become_program(workspace: &Workspace, name: &str, arguments: &[OsString]) -> Result<ExitCode> {
    let program = workspace.program(name);
    if !program.is_file() {
        bail!("{} was not built", program.display());
    }
    let mut command = Command::new(&program);
    let error = workspace.with_environment(command.args(arguments)).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
