//! The machine of a node: the kernel with the programs that run in it, and where checkpoints are anchored.
//!
//! Not here: what is to be done with it (see `core`).

use super::EngineError;
use super::canary::{self, Canary};
use super::core::Machine;
use crate::anchor::{AnchorError, AnchorSet, rtmr};
use crate::bpf::Bpf;
use crate::pipeline::OpenMark;
use crate::pipeline::{Counters, Place};
use cgpath_evidence::{Digest, td};
use std::path::PathBuf;

/// The running kernel.
pub(super) struct Kernel {
    pub(super) bpf: Bpf,
    pub(super) anchors: AnchorSet,
    /// The log of the register's other writer; empty: there is none.
    pub(super) other_log: PathBuf,
    pub(super) canary: Canary,
    /// Where this process' program lies, or lay before another one took its place.
    pub(super) program: PathBuf,
    /// Marks that could not be made, as far as that was logged.
    pub(super) marks_failed: u64,
    /// Budgets that could not be begun, as far as that was logged.
    pub(super) budgets_failed: u64,
}

impl Machine for Kernel {
    fn counters(&mut self) -> Result<Counters, EngineError> {
        let snapshot = self.bpf.counters()?;
        let attached = snapshot.all_attached();
        if !attached {
            let detached: Vec<&str> = snapshot
                .programs
                .iter()
                .filter(|p| p.detached.is_some())
                .map(|p| p.name)
                .collect();
            tracing::error!(?detached, ftrace_enabled = ?snapshot.ftrace_enabled,
                "programs do not see events");
        }
        if snapshot.marks_failed > self.marks_failed {
            tracing::error!(
                failed = snapshot.marks_failed,
                "too many threads add entries at once: not all are known, and evidence that covers such an \
                 entry is not trusted"
            );
            self.marks_failed = snapshot.marks_failed;
        }
        if snapshot.budgets_failed > self.budgets_failed {
            tracing::error!(
                failed = snapshot.budgets_failed,
                "too many pods: some have no budget, and what they flood is lost for the whole node"
            );
            self.budgets_failed = snapshot.budgets_failed;
        }
        Ok(Counters {
            seq: snapshot.seq,
            reserve: snapshot.lost_reserve,
            recursion: snapshot
                .programs
                .iter()
                .fold(0, |sum, p| sum.saturating_add(p.recursion_misses)),
            read: snapshot.read_failed,
            attached,
        })
    }

    fn in_flight(&mut self) -> Result<Vec<OpenMark>, EngineError> {
        Ok(self.bpf.in_flight()?)
    }

    fn canary(&mut self) -> Option<u32> {
        self.canary.run()
    }

    fn successor(&mut self) -> Option<u32> {
        canary::try_program(&self.program)
    }

    fn let_in(&mut self, program: &Digest) -> Result<(), EngineError> {
        Ok(self.bpf.let_in(program)?)
    }

    fn anchor(&mut self, place: Place, number: u64, file: &[u8]) -> Result<(), AnchorError> {
        self.anchors.at(place)?.anchor(number, file)
    }

    fn register(&mut self, place: Place) -> Result<td::Register, AnchorError> {
        let value = self.anchors.at(place)?.value()?;
        value.ok_or(AnchorError::Unconfigured(place))
    }

    fn other_log(&mut self) -> Result<Vec<u8>, AnchorError> {
        if self.other_log.as_os_str().is_empty() {
            return Ok(Vec::new());
        }
        rtmr::other_log(&self.other_log)
    }
}
