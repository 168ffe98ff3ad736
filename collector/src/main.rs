//! `cgpathd`: a thin command over the `collector` library.

use anyhow::Context;
use clap::{CommandFactory, Parser};
use collector::cli::{Cli, Command};
use collector::config::{Config, EXAMPLE};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("cgpathd: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "cgpathd", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Config(args) = &cli.command
        && args.example
    {
        std::io::stdout().write_all(EXAMPLE.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    // The variable that names the file is not a key of it.
    let env = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, _)| k != "CGPATHD_CONFIG_FILE");
    let config = Config::load(cli.config.as_deref(), env, &cli.set)?;
    match cli.command {
        Command::Config(_) => {
            let text = toml::to_string(&config).context("printing the configuration")?;
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { .. } => Ok(ExitCode::SUCCESS),
        Command::Run | Command::Once(_) | Command::Check(_) | Command::Setup(_) | Command::Ak(_) => {
            anyhow::bail!("this command is not in this build yet")
        }
    }
}
