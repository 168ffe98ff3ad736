//! Where checkpoints are anchored, and the key that signs them.
//!
//! Promise: an anchor does what it is asked, once, and decides nothing: which checkpoint goes where, and what
//! to make of a register that somebody else extended, is the pipeline's. Not here: quotes (see
//! [`crate::quote`]).

pub mod ima;
pub mod key;
pub mod rtmr;

use crate::config::{AnchorKind, Config};
use crate::pipeline::Place;
use cgpath_evidence::td::{REGISTER_LEN, Register};
use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint cannot be anchored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// A file operation failed.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A program could not be started or failed.
    #[error("{command}: {why}")]
    Command {
        /// As it was called.
        command: String,
        /// What it said.
        why: String,
    },
    /// Something else is mounted where checkpoint files belong.
    #[error("{path} is a mount of {found}, not of ours: unmount it (umount {path})")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Type and source of the mount.
        found: String,
    },
    /// A register does not have the length that it has in the kernel.
    #[error("{path} has {found} bytes; a measurement register has {REGISTER_LEN}")]
    Length {
        /// Which file.
        path: PathBuf,
        /// Bytes that were read, at most one more than there should be.
        found: usize,
    },
    /// Nothing is anchored there on this node.
    #[error("{0} is no anchor of this node (anchor.to)")]
    Unconfigured(Place),
    /// The file was read back differently.
    #[error("{path} does not hold what was written to it")]
    Altered {
        /// Which file.
        path: PathBuf,
    },
}

fn io_error<'a>(path: &'a Path, what: &'static str) -> impl FnOnce(io::Error) -> AnchorError + 'a {
    move |source| AnchorError::Io {
        path: path.to_owned(),
        what,
        source,
    }
}

/// A place where checkpoints are anchored.
pub trait Anchor: Send + std::fmt::Debug {
    /// Which.
    fn place(&self) -> Place;

    /// Anchors the file of checkpoint `number`.
    ///
    /// # Errors
    /// See [`AnchorError`]. Whether it was anchored all the same is not known then.
    fn anchor(&mut self, number: u64, file: &[u8]) -> Result<(), AnchorError>;

    /// What the register holds; `None` where the measurement list says that.
    ///
    /// # Errors
    /// See [`AnchorError`].
    fn value(&self) -> Result<Option<Register>, AnchorError>;
}

/// All anchors of a node, each at a place of its own, in the order of the places.
#[derive(Debug, Default)]
pub struct AnchorSet(Vec<Box<dyn Anchor>>);

impl AnchorSet {
    /// Those that are configured; the file system of checkpoint files is mounted for PCR 10.
    ///
    /// # Errors
    /// See [`AnchorError`].
    pub fn open(config: &Config) -> Result<AnchorSet, AnchorError> {
        let mut anchors: Vec<Box<dyn Anchor>> = Vec::new();
        for kind in &config.anchor.to {
            anchors.push(match kind {
                AnchorKind::Pcr10 => Box::new(ima::CheckpointFiles::mount(
                    &config.run_dir,
                    config.seal.keep_files,
                )?),
                AnchorKind::Rtmr => Box::new(rtmr::Rtmr::at(&config.anchor.registers, config.anchor.rtmr)),
            });
        }
        Ok(AnchorSet::of(anchors))
    }

    /// These.
    pub fn of(mut anchors: Vec<Box<dyn Anchor>>) -> AnchorSet {
        anchors.sort_by_key(|anchor| anchor.place());
        AnchorSet(anchors)
    }

    /// Their places, in order.
    pub fn places(&self) -> Vec<Place> {
        self.0.iter().map(|anchor| anchor.place()).collect()
    }

    /// The anchor at `place`.
    ///
    /// # Errors
    /// [`AnchorError::Unconfigured`].
    pub fn at(&mut self, place: Place) -> Result<&mut (dyn Anchor + 'static), AnchorError> {
        let found = self.0.iter_mut().find(|anchor| anchor.place() == place);
        found.map(Box::as_mut).ok_or(AnchorError::Unconfigured(place))
    }
}
