//! `cargo xtask`: all that a person types.
//!
//! Promises: builds in seconds on any Linux with a stable Rust, names what a machine lacks and what it costs
//! before it installs anything, does nothing twice. It knows the other crates only as programs to build and
//! run. Not here: guests (`vm-tests`), anything that the product does.

#![forbid(unsafe_code)]

mod anchors;
mod bench;
mod build;
mod circles;
mod demo;
mod dist;
mod help;
mod kernel;
mod links;
#[path = "../../vm-tests/src/machine.rs"]
mod machine;
mod needs;
mod purity;
mod python;
mod reach;
mod rust;
mod shell;
mod soak;
mod stages;
mod test;
mod tidy;
mod unsafety;
mod wording;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::workspace::Workspace;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut parser = lexopt::Parser::from_env();
    let command = match parser.next()? {
        None | Some(Short('h') | Long("help")) => {
            print!("{}", help::OVERVIEW);
            return Ok(ExitCode::SUCCESS);
        }
        Some(Value(command)) => command.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    let workspace = Workspace::find()?;
    match command.as_str() {
        "doctor" => needs::doctor(&workspace, parser),
        "demo" => demo::demo(&workspace, parser),
        "vm" => demo::vm(&workspace, parser),
        "test" => test::test(&workspace, parser),
        "bench" => bench::bench(&workspace, parser),
        "soak" => soak::soak(&workspace, parser),
        "kernel" => kernel::kernel_command(&workspace, parser),
        "build" => build::build_command(&workspace, parser),
        "ebpf" => build::ebpf_command(&workspace, parser),
        "book" => build::book_command(&workspace, parser),
        "dist" => dist::dist_command(&workspace, parser),
        "tidy" => tidy::tidy_command(&workspace, parser),
        "help" => {
            print!("{}", help::OVERVIEW);
            Ok(ExitCode::SUCCESS)
        }
        "completions" => {
            print!("{}", help::COMPLETIONS);
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("no command `{other}`; hint: cargo xtask --help"),
    }
}
