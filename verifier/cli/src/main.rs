//! `cgpath`: reads, checks and explains what an attester says.
//!
//! A thin shell over the libraries: arguments, files, output. One module per subcommand; what
//! two of them need stands in `output`. Not here: any decision about trust (see `cgpath-appraisal`).
#![forbid(unsafe_code)]

mod collateral;
mod coloured;
mod event;
mod explain;
mod export;
mod identify;
mod input;
mod kept;
mod log;
mod node;
mod output;
mod policy;
mod prove;
mod refs;
mod report;
mod serve;
mod tenant;
mod verify;
mod watch;

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use output::{Failure, Output, Status};
use std::io::Write;
use std::process::ExitCode;

/// Where Debian keeps the CAs that it trusts.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(Parser)]
#[command(
    name = "cgpath",
    version,
    about = "Reads, replays and appraises container-granular IMA evidence",
    after_help = "Exit codes: 0 clean or trusted, 1 something is not, 2 unusable input or wrong usage; of \
                  `verify --tenant` also 3: nobody vouches for what was sealed.",
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    output: output::OutputOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows, replays and partitions measurement lists
    #[command(subcommand)]
    Log(log::Log),
    /// Makes reference values and checks policies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Keeps the images that policies take values from by their digests: an index, in a folder
    #[command(subcommand)]
    Refs(refs::RefsCommand),
    /// Appraises evidence in a file by a policy
    Verify(Box<verify::Verify>),
    /// Makes a tenant's bundle: one pod's records, proven complete, and nothing of other pods
    Prove(Box<prove::Prove>),
    /// Writes a node's evidence in the format of another tool
    Export(Box<export::Export>),
    /// Enrols nodes: their names, keys and policies
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Fetches what quotes of trust domains are verified with
    #[command(subcommand)]
    Collateral(collateral::CollateralCommand),
    Explain(explain::Explain),
    Identify(identify::Identify),
    /// Makes one self-contained HTML page about a node: verdicts over time and what they rest on
    Report(Box<report::Report>),
    Event(Box<event::Event>),
    Watch(Box<watch::Watch>),
    /// Takes evidence from nodes over HTTPS, appraises it, and shows the verdicts
    Serve(Box<serve::Serve>),
    /// Prints completions for a shell, to be sourced by it
    #[command(after_help = "Example:\n  cgpath completions bash > /etc/bash_completion.d/cgpath")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages into a directory, one for each command
    #[command(after_help = "Example:\n  cgpath manual man1 && man -l man1/cgpath-verify.1")]
    Manual {
        /// The directory, made where it is missing
        #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        dir: std::path::PathBuf,
    },
}

fn run(command: Command, out: &mut Output) -> Result<Status, Failure> {
    match command {
        Command::Log(log) => log.run(out),
        Command::Policy(policy) => policy.run(out),
        Command::Refs(refs) => refs.run(out),
        Command::Verify(verify) => verify.run(out),
        Command::Prove(prove) => prove.run(out),
        Command::Export(export) => export.run(out),
        Command::Node(node) => node.run(out),
        Command::Collateral(collateral) => collateral.run(out),
        Command::Explain(explain) => explain.run(out),
        Command::Identify(identify) => identify.run(out),
        Command::Report(report) => report.run(out),
        Command::Watch(watch) => watch.run(out),
        Command::Event(event) => event.run(out),
        Command::Serve(serve) => serve.run(out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cgpath", &mut script);
            out.raw(&script)?;
            Ok(Status::Clean)
        }
        Command::Manual { dir } => {
            let written =
                std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &dir));
            written.map_err(|error| Failure::new("io", format!("{}: {error}", dir.display())))?;
            Ok(Status::Clean)
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let mut out = Output::new(cli.output);
    let result = start_threads().and_then(|()| run(cli.command, &mut out));
    out.finish(result)
}

/// Starts the threads that share out an appraisal: one that could not be had later would be a panic there.
fn start_threads() -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new().build_global().map_err(|error| {
        Failure::new("io", format!("starting a thread for each processor: {error}"))
            .hint("allow more tasks or memory (ulimit -u, ulimit -v, TasksMax=), or set RAYON_NUM_THREADS=1")
    })
}

/// Help and version go out as clap writes them; a wrong command line is an error in the form that was asked
/// for.
fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|a| a == "--json");
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if json && !is_help {
        // Of clap's text the lines up to the first empty one say what is wrong; the usage follows.
        let text = error.render().to_string();
        let lines: Vec<&str> = text
            .lines()
            .take_while(|line| !line.is_empty())
            .map(str::trim)
            .collect();
        let line = lines.join(" ").trim_start_matches("error: ").to_owned();
        let failure = Failure::new("usage", line).hint("run `cgpath --help`");
        failure.print(true, false);
        return ExitCode::from(Failure::CODE);
    }
    let text = error.render().to_string();
    let short = output::with_short_arguments(&text);
    // Nothing useful can be done if standard error itself is closed.
    let _ = if is_help || short == text {
        error.print()
    } else {
        std::io::stderr().write_all(short.as_bytes())
    };
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Failure::CODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Someone who exports a variable for one command has not given the others an argument.
    #[test]
    fn no_argument_of_a_variable_is_held_against_another() {
        fn walk(command: &clap::Command) {
            for arg in command.get_arguments() {
                for other in command.get_arg_conflicts_with(arg) {
                    let of_variable = arg.get_env().or(other.get_env());
                    let pair = (command.get_name(), arg.get_id(), other.get_id());
                    assert_eq!(of_variable, None, "{pair:?}");
                }
            }
            command.get_subcommands().for_each(walk);
        }
        let mut command = Cli::command();
        command.build();
        walk(&command);
    }
}
