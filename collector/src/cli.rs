//! The command line of `cgpathd`.

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// Where the help has what every subcommand takes: behind the subcommand's own options.
const LAST: usize = 900;

/// `cgpathd`.
#[derive(Debug, Parser)]
#[command(
    name = "cgpathd",
    version,
    about = "Attributes every IMA measurement to its pod, seals the attribution into the TPM and sends it to \
        a verifier",
    after_help = "Examples:\n  \
        cgpathd check                          what this node lacks, with a remedy for each\n  \
        cgpathd setup --dry-run                what setup would change\n  \
        cgpathd ak -o node.ak                  the attestation key, to enrol with `cgpath node add`\n  \
        cgpathd run                            the daemon (as the systemd unit starts it)\n  \
        cgpathd once --nonce 00112233… -o e.cbor   evidence for one nonce\n\n\
        Configuration: /etc/ima-cgpath/cgpathd.toml, then CGPATHD_… variables, then --set; `cgpathd config` \
        prints it."
)]
pub struct Cli {
    /// Configuration file
    #[arg(short, long, global = true, display_order = LAST, value_name = "FILE", env = "CGPATHD_CONFIG_FILE",
        value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Override one configuration key, for instance --set verifier.interval=10; may be repeated
    #[arg(short, long, global = true, display_order = LAST, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: load the programs, collect, seal, attest at each interval
    ///
    /// Stops cleanly on SIGTERM; the programs stay in the kernel and nothing is lost until it is started
    /// again.
    Run,
    /// Make evidence for one nonce, by the running daemon or, where none runs, by itself
    Once(Once),
    /// Show each precondition: what was found, and what to do where it is not met
    Check(Check),
    /// Prepare the node: directories, configuration, IMA policy, systemd unit
    Setup(Setup),
    /// Have the running daemon hand over to this program, for an upgrade without a reboot
    ///
    /// To be run from the new file, in the old one's place, before the service is restarted; the node's
    /// policy must accept its hash already. The daemon executes the file, names its hash in a signed
    /// checkpoint, and goes on until the restart.
    Handover,
    /// Take the eBPF programs down, so that nothing is recorded, guarded or denied any more
    ///
    /// This boot cannot be attested any more; the next one can. Stop the daemon first. Where guard.mode is
    /// "deny", only the program that loaded them may do this; a reboot always does.
    Unload,
    /// Write the attestation key (TPMT_PUBLIC) and print its fingerprint, for enrolment
    Ak(Ak),
    /// Write the node's key (a P-256 point, SEC1 compressed) and print its fingerprint, for enrolment of a
    /// trust domain
    ///
    /// Where quote.node_key is empty, it is the key of this boot alone.
    NodeKey(NodeKey),
    /// Print how the running daemon fares
    Status(Status),
    /// Install this program from an image onto the host, ask the host, uninstall: what the chart's pods run
    Node(Node),
    /// Print the configuration in force, or the commented example
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command
    Manual {
        /// The directory for them
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// `cgpathd once`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cgpathd once --nonce $(openssl rand -hex 32) -o evidence.cbor")]
pub struct Once {
    /// The verifier's nonce, 8 to 64 bytes as hex
    #[arg(long, value_name = "HEX", value_parser = parse_nonce)]
    pub nonce: Nonce,
    /// Where to write the evidence (CBOR); without it, to standard output if that is no terminal
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// A nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(pub Vec<u8>);

fn parse_nonce(text: &str) -> Result<Nonce, String> {
    let bytes = hex::decode(text).map_err(|e| e.to_string())?;
    if (8..=64).contains(&bytes.len()) {
        Ok(Nonce(bytes))
    } else {
        Err(format!("{} bytes; a nonce has 8 to 64", bytes.len()))
    }
}

/// `cgpathd check`.
#[derive(Debug, Args)]
pub struct Check {
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `cgpathd setup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cgpathd setup --dry-run\n  cgpathd setup\n  cgpathd setup --remove")]
pub struct Setup {
    /// Say what would be done and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Undo it: stop the programs, unmount, remove what setup made
    #[arg(long)]
    pub remove: bool,
}

/// `cgpathd ak`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        cgpathd ak -o worker-3.ak\n  \
        cgpath node add worker-3 --ak worker-3.ak --policy node.yaml")]
pub struct Ak {
    /// Where to write the TPMT_PUBLIC (binary); without it, to standard output if that is no terminal
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// `cgpathd node-key`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cgpathd node-key -o worker-3.key")]
pub struct NodeKey {
    /// Where to write the public key (33 bytes); without it, to standard output if that is no terminal
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// `cgpathd status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cgpathd status --format text\n  cgpathd status --json | jq .budgets.top\n  \
        cgpathd status --format prometheus > /var/lib/prometheus/node-exporter/cgpathd.prom"
)]
pub struct Status {
    /// In which form
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = StatusFormat::Json)]
    pub format: StatusFormat,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

/// The forms of `cgpathd status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// One object, for programs
    Json,
    /// A line for each thing, for people
    Text,
    /// Metrics, for the node exporter's textfile collector; where no daemon answers, `cgpathd_up 0`
    Prometheus,
}

/// `cgpathd node`.
#[derive(Debug, Args)]
pub struct Node {
    /// Where the host's root directory is
    #[arg(long, global = true, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub host: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: NodeCommand,
}

/// The subcommands of `cgpathd node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Put the image's files and units onto the host; what is there and not ours is never overwritten
    Install(Install),
    /// Stop the collector that a pod installed, and remove what is in the installer's manifest
    Uninstall {
        /// Say what would be done and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Have the host run `cgpathd check --json` and print what it says
    Check,
    /// Say whether the host's collector runs, and how many pods are older than it
    Status,
    /// Say so whenever it changes, until SIGTERM
    Wait,
    /// Answer one question of the above, on the host: for the socket unit
    #[command(hide = true)]
    Answer,
}

/// `cgpathd node install`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cgpathd node install --host /host --settings /settings --start")]
pub struct Install {
    /// Say what would be done and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where the program goes: /usr or /opt/ima-cgpath [default: the first that takes files]
    #[arg(long, value_name = "DIR")]
    pub prefix: Option<String>,
    /// cgpathd.toml and certificates (*.pem) for /etc/ima-cgpath; what was changed there is kept
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub settings: Option<PathBuf>,
    /// The IMA policy and the boot loader's file, too, where there are none, as `cgpathd setup` makes them
    #[arg(long)]
    pub setup: bool,
    /// Have the host's systemd check, and start the collector where nothing is missing
    #[arg(long)]
    pub start: bool,
    /// Where a collector runs that is another program: exchange the file and hand over to it
    #[arg(long, requires = "start")]
    pub handover: bool,
}

/// `cgpathd config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The commented file with all defaults instead
    #[arg(long)]
    pub example: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_nonce_of_a_wrong_length_or_form_is_refused() {
        assert!(parse_nonce("00112233445566").is_err());
        assert!(parse_nonce("0011223344556677").is_ok());
        assert!(parse_nonce(&"00".repeat(65)).is_err());
        assert!(parse_nonce("zz112233445566778899").is_err());
    }
}
