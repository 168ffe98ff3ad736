//! The daemon's configuration: one TOML file, then the environment, then the command line; the last one wins.
//!
//! Promises: a key that is not known, from whichever source, is an error that names it and where it stands.
//! Not here: whether what a key names exists (see [`crate::check`] and the parts that use it).

mod layers;
mod metrics;
mod options;
mod sink;
mod types;
mod validate;

pub(crate) use metrics::control_socket;
pub use metrics::{ListenAt, Metrics};
pub use sink::{Sink, SinkFormat, SinkKind};
pub use types::{
    Anchor, AnchorKind, Bpf, Budget, Cgroup, Config, Enforce, EnforceMode, FailClosed, FailClosedMode, Guard,
    Ima, Quote, REGISTERS, REPORTS, Runtimes, Seal, Tpm, Verifier,
};

use std::path::PathBuf;

/// The commented file with every default, as it is shipped.
pub const EXAMPLE: &str = include_str!("../../../deploy/cgpathd.toml");

/// The item of `quote.by` that is not a provider of configfs-tsm.
pub(crate) const TPM: &str = "tpm";

/// Where the configuration is looked for when no path is given.
pub const DEFAULT_PATH: &str = "/etc/ima-cgpath/cgpathd.toml";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a key or value in it is not known. The message names line and column.
    #[error("configuration {path}: {message}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What `toml` says, with the line.
        message: String,
    },
    /// A variable of the environment, or `--set`, names no key or gives it no fitting value.
    #[error("{origin}: {message}")]
    Override {
        /// The variable or the option as given.
        origin: String,
        /// Why.
        message: String,
    },
    /// A value that has the right type and cannot be used.
    #[error("configuration key {key}: {why}")]
    Value {
        /// The key with its section.
        key: &'static str,
        /// Why.
        why: String,
    },
}

#[cfg(test)]
mod tests;
