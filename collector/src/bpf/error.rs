//! Why the programs could not be loaded, taken over or read.

use std::path::PathBuf;

/// An error of this module, by cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The running kernel has no such struct, member, function or variable.
    #[error("this kernel has no {what}: {hint}")]
    Missing {
        /// What was looked for, as `struct file.f_inode`.
        what: String,
        /// What can be done.
        hint: String,
    },
    /// The running kernel does not let programs do what they are for.
    #[error("{what}: {hint}")]
    Refused {
        /// What is refused, and why.
        what: String,
        /// What can be done.
        hint: String,
    },
    /// The kernel's type information is not readable as such.
    #[error("cannot read the kernel's type information {path} (CONFIG_DEBUG_INFO_BTF=y is needed)")]
    Btf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: btf_rs::Error,
    },
    /// The pinned programs were made from another object.
    #[error(
        "programs of another build run already (object {found}, this one is {expected}, pins in {dir}): \
         restart with the same object, or reboot, or remove them with `cgpathd setup --remove` and start a \
         new chain"
    )]
    OtherObject {
        /// SHA-256 of the object that runs.
        found: String,
        /// SHA-256 of the object given.
        expected: String,
        /// The directory of the pins.
        dir: PathBuf,
    },
    /// The guard of the programs that run takes this process for a stranger.
    #[error(
        "the programs that run deny it ({path}): this cgpathd is another program than the one that loaded \
         them, or is traced, and guard.mode was \"deny\"; `unload` by that cgpathd takes them down, and so \
         does a reboot"
    )]
    Denied {
        /// The file on bpffs.
        path: PathBuf,
    },
    /// A pin is absent or of another type.
    #[error("{path} is not what was pinned there: {why}; something removed or replaced it")]
    Pin {
        /// The file on bpffs.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another process holds the programs.
    #[error("another collector uses {dir}: stop it first")]
    Busy {
        /// The directory of the pins.
        dir: PathBuf,
    },
    /// No cgroup hierarchy separates tasks.
    #[error("no usable cgroup hierarchy: {why}")]
    Cgroups {
        /// What was found.
        why: String,
    },
    /// An option has a value that cannot work.
    #[error("{name}: {why}")]
    Option {
        /// The option.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel or the object refused to be loaded, attached or read.
    #[error("cannot {what} {name}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Program, map or link.
        name: String,
        /// Why, with the verifier's log if there is one.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;
