//! What a checkpoint states, and what follows once it is sealed.
//!
//! Promise: no program counts as the collector beside this one but one whose execution, with the hash that
//! the kernel has of it after IMA's own turn, is among the records that the same checkpoint seals. Not here:
//! when a checkpoint is made (see the parent).

use super::anchoring;
use super::event::{Action, Error, Purpose, SealError};
use super::phase::{Phase, Then};
use super::{Last, Pipeline, sha256};
use cgpath_evidence::cgroup::attribute;
use cgpath_evidence::checkpoint::{Checkpoint, Collectors, Losses};
use cgpath_evidence::text::foreign;
use cgpath_evidence::{Digest, FileHash, PartitionKey, PodUid, SealedCheckpoint, td};
use std::collections::BTreeSet;
use std::time::Duration;

/// Pods older than the load that a checkpoint names at most; a checkpoint's file has a limit. With more of
/// them it is blind: one that is not named would pass as a pod that was seen from its beginning.
pub(super) const MAX_PREDATING: usize = 2048;

/// The pods that these directories are of.
pub(super) fn pods<'a>(paths: impl Iterator<Item = &'a [u8]>) -> BTreeSet<PodUid> {
    paths
        .filter_map(|path| match attribute(path).key {
            PartitionKey::Pod(uid) => Some(uid),
            _ => None,
        })
        .collect()
}

impl Pipeline {
    /// All is there that a checkpoint was waited for.
    pub(super) fn seal(&mut self, purpose: Purpose, now: Duration, out: &mut Vec<Action>) {
        if let Purpose::Handover { id } = purpose {
            match self.tried() {
                Ok(program) => self.successor = Some(program).filter(|one| *one != self.setup.program),
                Err(why) => {
                    let error = SealError::Successor { why };
                    out.push(Action::Failed { id: Some(id), error });
                    return;
                }
            }
        }
        out.push(Action::Seal(Box::new(self.checkpoint(&purpose, now))));
        self.phase = Phase::Sealing(purpose);
    }

    /// The program that was executed for a handover, by the kernel's own hash; or why it cannot be named.
    fn tried(&self) -> Result<Digest, String> {
        let own = &self.setup.program_path;
        let Some(ran) = &self.canary_seen else {
            let what = match self.canary {
                Some(_) => "its execution was not seen: the programs may be switched off",
                None => "it could not be executed",
            };
            return Err(format!("{}: {what}", foreign(own)));
        };
        if ran.path_cut || ran.path != *own {
            return Err(format!(
                "{} was executed in place of {}",
                foreign(&ran.path),
                foreign(own)
            ));
        }
        match &ran.hash {
            FileHash::Measured(program) => Ok(program.clone()),
            FileHash::PreCheck(_) | FileHash::Unhashed(_) => Err(format!(
                "the kernel has no hash of {} after IMA's own",
                foreign(own)
            )),
        }
    }

    fn checkpoint(&mut self, purpose: &Purpose, now: Duration) -> Checkpoint {
        let first = self.last.is_none();
        let boot_len = match self.boot_len {
            Some(n) => n,
            None => self.join.last_open_before(self.loaded.unwrap_or(0)),
        };
        let entry_seen = match &self.last {
            Some(last) if self.anchors.pcr10 => last.index.is_some_and(|i| self.join.is_claimed(i)),
            _ => true,
        };
        let mut predating = if first { self.predating() } else { Vec::new() };
        let too_many = predating.len() > MAX_PREDATING;
        predating.truncate(MAX_PREDATING);
        let blind = self.canary_seen.is_none() || !entry_seen || !self.counters.attached || too_many;
        Checkpoint {
            version: 1,
            boot_id: self.setup.boot_id,
            number: self.last.as_ref().map_or(0, |l| l.number + 1),
            previous: self.last.as_ref().map_or([0; 32], |l| l.digest),
            list_len: self.join.len(),
            settled: self.join.settled(boot_len),
            boot_len,
            records: self.records,
            executions: self.executions,
            last_seq: self.counters.seq.max(self.order.through()),
            losses: self.losses(),
            blind,
            partitions: self.partitions.len() as u64,
            partitions_root: self.partitions.root(),
            bpf_object: self.setup.bpf_object,
            ima_policy: self.setup.ima_policy,
            nonce_hash: match purpose {
                Purpose::Request { nonce, .. } => Some(sha256(nonce)),
                _ => None,
            },
            key: first.then(|| self.setup.key.clone()),
            starts: self.starts,
            predating,
            hierarchy: self.setup.hierarchy.clone(),
            protection: Some(self.setup.protection),
            collectors: Some(Collectors {
                program: self.setup.program.clone(),
                successor: self.successor.clone(),
            }),
            binding: self.binding(first, now),
            bpf_placed: self.setup.bpf_placed,
        }
    }

    fn predating(&mut self) -> Vec<PodUid> {
        let paths = self.cgroups.predating();
        pods(paths.iter().map(|path| &**path)).into_iter().collect()
    }

    pub(super) fn sealed(&mut self, sealed: &SealedCheckpoint, out: &mut Vec<Action>) -> Result<(), Error> {
        let c = &sealed.checkpoint;
        let digest = sealed.digest();
        let number = c.number;
        let expected = self
            .last
            .as_ref()
            .map_or((0, [0; 32]), |l| (l.number + 1, l.digest));
        let checks = [
            ("boot id", c.boot_id == self.setup.boot_id),
            ("number", number == expected.0),
            ("previous", c.previous == expected.1),
            ("number of records", c.records == self.records),
            ("partitions root", c.partitions_root == self.partitions.root()),
            ("register", self.is_bound_by(c)),
        ];
        if let Some((what, _)) = checks.into_iter().find(|(_, holds)| !holds) {
            return Err(Error::Diverged { number, what });
        }
        self.boot_len.get_or_insert(c.boot_len);
        if c.blind {
            self.blind.get_or_insert(number);
        }
        let worse = |a: u64, b: u64| a.max(b);
        self.losses = Losses {
            reserve: worse(self.losses.reserve, c.losses.reserve),
            recursion: worse(self.losses.recursion, c.losses.recursion),
            read: worse(self.losses.read, c.losses.read),
            spool: worse(self.losses.spool, c.losses.spool),
        };
        let sha384 = td::checkpoint_digest(&sealed.file);
        self.register_sealed(number, &sha384, out);
        self.last = Some(Last {
            number,
            digest,
            contents: anchoring::contents(&sealed.file),
            sha384,
            index: None,
            records: c.records,
            last_seq: c.last_seq,
        });
        if let Phase::Sealing(purpose) = std::mem::replace(&mut self.phase, Phase::Idle) {
            self.anchor_new(Then::Answer(purpose), number, out);
        }
        Ok(())
    }
}
