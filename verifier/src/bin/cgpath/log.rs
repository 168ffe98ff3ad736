//! `cgpath log`: what stands in a measurement list, without judging it.

use crate::output::{Failure, Output, Status};

/// Shows, replays and partitions measurement lists.
#[derive(clap::Subcommand)]
pub enum Log {}

impl Log {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Files that cannot be read as a measurement list.
    pub fn run(self, _: &mut Output) -> Result<Status, Failure> {
        match self {}
    }
}
