//! V4: the checkpoints stand in the covered prefix, are signed, form one unbroken chain, and the last is
//! fresh.
//!
//! Promise: a [`Chain`] that has a last checkpoint was read from evidence; whether to believe it is what the
//! findings say. Not here: the records that it sealed (see `v05_sealed`), who read its files (see
//! `v04_readers`).

use crate::inputs::context::{ExpectedNonce, NodeState};
use crate::inputs::decoded::Line;
use crate::inputs::kept::Lines;
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::v11_foundations::{Counted, Programs};
use crate::rules::{Rule, v06_losses};
use cgpath_evidence::{
    Bank, Checkpoint, PodUid, SealedCheckpoint, checkpoint::number_from_path, merkle::Hash,
};
use cgpath_policy::Policy;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The chain of one boot, as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// How many checkpoints were read.
    len: u64,
    first: Option<SealedCheckpoint>,
    last: Option<SealedCheckpoint>,
    /// Length of the list at the last but one.
    before_last: Option<u64>,
    /// Entries of checkpoints' files, and the last checkpoint's own; absent where it was not found.
    anchors: HashSet<usize>,
    last_anchor: Option<usize>,
    /// The entry of checkpoint 1's file.
    second_anchor: Option<usize>,
    /// Entries that are named like the file of a checkpoint that was not read yet.
    named: BTreeMap<u64, Vec<usize>>,
    /// Entries that are named like a checkpoint's file and measured none of this chain.
    impostors: BTreeSet<usize>,
    /// The number of the checkpoint that the last accepted evidence ended with.
    sought: Option<u64>,
    /// That one: digest and partitions root, as it is here.
    seen: Option<(Hash, Hash)>,
    /// Entries that checkpoints' files were measured by since the last round, with their numbers.
    pub unread: Vec<(u64, usize)>,
    programs: Programs,
    /// A checkpoint's file need not stand in the list: a register binds it.
    is_off_list: bool,
}

impl Chain {
    /// Checkpoints are bound by a trust domain's register alone, not by their files' entries.
    pub(crate) fn off_list(&mut self) {
        self.is_off_list = true;
    }

    pub(crate) fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref().map(|sealed| &sealed.checkpoint)
    }

    /// The last one, as its file.
    pub(crate) fn last_sealed(&self) -> Option<&SealedCheckpoint> {
        self.last.as_ref()
    }

    /// Entries older than the load; 0 without checkpoints.
    pub(crate) fn boot_len(&self) -> usize {
        self.first.as_ref().map_or(0, |first| {
            usize::try_from(first.checkpoint.boot_len).unwrap_or(usize::MAX)
        })
    }

    /// Pods that checkpoint 0 says are older than the load.
    pub(crate) fn predating(&self) -> &[PodUid] {
        self.first.as_ref().map_or(&[], |c| &c.checkpoint.predating)
    }

    /// Whether the file of a checkpoint was measured by this entry.
    pub(crate) fn is_anchor(&self, index: usize) -> bool {
        self.anchors.contains(&index)
    }

    /// Entries that are named like a checkpoint's file and measured none of this chain, in order.
    pub(crate) fn impostors(&self) -> impl Iterator<Item = usize> {
        self.impostors.iter().copied()
    }

    /// The entry of checkpoint 1's file.
    pub(crate) fn second_anchor(&self) -> Option<usize> {
        self.second_anchor
    }

    /// The partitions root of the checkpoint that the last accepted evidence ended with.
    pub(crate) fn seen_root(&self) -> Option<Hash> {
        self.seen.map(|(_, root)| root)
    }

    /// Entries before this one had time enough to get their record: they came before the last checkpoint but
    /// one had been sealed, or that is what the last one calls settled.
    pub(crate) fn joined_until(&self) -> u64 {
        let Some(last) = self.last() else { return 0 };
        last.settled.max(self.before_last.unwrap_or(last.boot_len))
    }

    /// Programs that count as the collector, in the order of the checkpoints, none twice.
    pub(crate) fn counted(&self) -> &[Counted] {
        &self.programs.counted
    }

    pub(crate) fn findings(&self) -> &Findings {
        &self.programs.findings
    }
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Chain, Subject::Node, text)
}

/// Whether the entry measured this checkpoint's file. SHA-1 vouches for nothing.
pub(crate) fn is_of(line: &Line, sealed: &SealedCheckpoint) -> bool {
    !line.violation
        && line.file.as_ref().is_some_and(|digest| {
            digest.bank() != Bank::Sha1 && digest.bank().hash(&[&sealed.file]) == *digest
        })
}

/// Whether the checkpoint was made for a request with this nonce.
pub(crate) fn is_fresh(checkpoint: &Checkpoint, nonce: &ExpectedNonce) -> bool {
    match nonce {
        ExpectedNonce::DangerousNone => true,
        ExpectedNonce::Value(nonce) => checkpoint.nonce_hash == Some(Sha256::digest(nonce).into()),
    }
}

impl Chain {
    /// Which checkpoint to look out for: the last one of the last accepted evidence.
    pub(crate) fn look_out(&mut self, seen: Option<u64>) {
        self.sought = seen;
        if let Some(last) = self
            .last
            .as_ref()
            .filter(|last| seen == Some(last.checkpoint.number))
        {
            self.seen = Some((last.digest(), last.checkpoint.partitions_root));
        }
    }

    /// Reads the checkpoints that are new; `each` gets every one, in order.
    pub(crate) fn step(
        &mut self,
        round: &Round<'_>,
        lines: &Lines<'_>,
        covered: usize,
        policy: &Policy,
        findings: &mut Findings,
        mut each: impl FnMut(&Checkpoint),
    ) {
        if self.len == 0 && round.checkpoints.is_empty() {
            findings.push(fail("the evidence holds no checkpoint").expected("checkpoints from number 0"));
            return;
        }
        let mut new = Vec::new();
        for (place, file) in round.checkpoints.iter().enumerate() {
            match SealedCheckpoint::from_file(file) {
                Ok(sealed) => new.push(sealed),
                Err(error) => {
                    let position = self.len + place as u64;
                    findings.push(fail(format!(
                        "checkpoint file {position} cannot be read: {error}"
                    )));
                    // What follows a hole cannot be a chain; what precedes it is still looked at.
                    break;
                }
            }
        }
        if self.first.is_none()
            && let Some(first) = new.first()
        {
            if first.checkpoint.key.is_none() {
                findings.push(fail(
                    "checkpoint 0 does not name the key that signs this boot's checkpoints",
                ));
            }
            self.first = Some(first.clone());
        }
        // Where a register binds the list, the last one's file stands behind what is covered, if at all.
        self.name(lines, if self.is_off_list { lines.len() } else { covered });
        for sealed in new {
            self.link(&sealed, round, findings);
            self.anchor(&sealed, lines, findings);
            v06_losses::blind(&sealed.checkpoint, findings);
            self.programs.step(&sealed.checkpoint, policy);
            each(&sealed.checkpoint);
            if self.sought == Some(self.len) {
                self.seen = Some((sealed.digest(), sealed.checkpoint.partitions_root));
            }
            self.before_last = self.last.as_ref().map(|last| last.checkpoint.list_len);
            self.last = Some(sealed);
            self.len += 1;
        }
        let last = self.last().map_or(0, |last| last.number);
        self.named.retain(|number, _| *number > last);
    }

    /// Notes which new entries are named like a checkpoint's file.
    pub(crate) fn name(&mut self, lines: &Lines<'_>, covered: usize) {
        let number = |line: &Line| line.path.and_then(number_from_path);
        for index in lines.places(covered, |line| number(line).is_some()) {
            // What is behind the covered part is read in two rounds.
            if self.anchors.contains(&index) {
                continue;
            }
            self.impostors.insert(index);
            if let Some(number) = lines.get(index).and_then(|line| number(&line))
                && index >= self.boot_len()
            {
                self.named.entry(number).or_default().push(index);
            }
        }
    }

    /// One checkpoint, at its place in the chain.
    fn link(&self, sealed: &SealedCheckpoint, round: &Round<'_>, findings: &mut Findings) {
        let (n, position) = (sealed.checkpoint.number, self.len);
        if n != position {
            findings.push(
                fail("the checkpoints are not numbered from 0 without a gap or a double")
                    .found(format!("number {n} at place {position}"))
                    .expected(format!("number {position}")),
            );
        }
        let key = self
            .first
            .as_ref()
            .and_then(|first| first.checkpoint.key.as_deref());
        succeeds(sealed, self.last.as_ref(), key, round.boot_id, findings);
        // The collector reads the length of the list after the file of the checkpoint before was measured.
        if let Some(anchor) = self.last_anchor
            && sealed.checkpoint.list_len <= anchor as u64
        {
            findings.push(
                fail(format!(
                    "checkpoint {n} states a list that is shorter than where its predecessor stands"
                ))
                .found(sealed.checkpoint.list_len)
                .expected(format!("at least {}", anchor + 1)),
            );
        }
    }

    /// Finds the checkpoint's entry among those that are named like its file.
    fn anchor(&mut self, sealed: &SealedCheckpoint, lines: &Lines<'_>, findings: &mut Findings) {
        let n = sealed.checkpoint.number;
        let candidates = self.named.get(&n).map_or(&[][..], Vec::as_slice);
        let found = candidates
            .iter()
            .copied()
            .find(|index| lines.get(*index).is_some_and(|line| is_of(&line, sealed)));
        match found {
            None if self.is_off_list => {
                if self.len == 1 {
                    self.second_anchor = usize::try_from(sealed.checkpoint.list_len).ok();
                }
            }
            None => {
                let mut finding = fail(format!(
                    "the file of checkpoint {n} does not stand in the covered part of the list"
                ))
                .at_path(format!("{}{n}", cgpath_evidence::checkpoint::DIRECTORY).as_bytes())
                .expected(format!("sha256:{}", hex::encode(sealed.digest())));
                let other = candidates.iter().find_map(|i| lines.get(*i)?.file.clone());
                if let Some(other) = other {
                    finding = finding.found(other);
                }
                findings.push(finding);
            }
            Some(index) => {
                if (index as u64) < sealed.checkpoint.list_len {
                    findings.push(
                        fail(format!(
                            "checkpoint {n} says that the list was longer than where it stands itself"
                        ))
                        .at_index(index)
                        .found(sealed.checkpoint.list_len)
                        .expected(format!("at most {index}")),
                    );
                }
                if self.last_anchor.is_some_and(|last| index <= last) {
                    findings.push(
                        fail(format!(
                            "checkpoint {n} stands before its predecessor in the list"
                        ))
                        .at_index(index),
                    );
                }
                self.last_anchor = Some(index);
                self.anchors.insert(index);
                self.impostors.remove(&index);
                self.unread.push((n, index));
                if self.len == 1 {
                    self.second_anchor = Some(index);
                }
            }
        }
    }

    /// The last checkpoint was made for this request, and the chain goes on from where the last accepted
    /// evidence of this boot ended.
    pub(crate) fn conclude(
        &self,
        nonce: &ExpectedNonce,
        before: Option<&NodeState>,
        kernel_tier: bool,
        findings: &mut Findings,
    ) {
        if let Some(last) = self.last().filter(|last| !is_fresh(last, nonce)) {
            findings.push(not_fresh(last, nonce));
        }
        if let Some(before) = before {
            self.continues(before, kernel_tier, findings);
        }
    }

    fn continues(&self, before: &NodeState, kernel_tier: bool, findings: &mut Findings) {
        let Some(remembered) = &before.checkpoint else {
            if !kernel_tier {
                findings.push(fail(
                    "the last evidence of this boot had no checkpoints and this one does",
                ));
            }
            return;
        };
        let number = remembered.number;
        match self.seen {
            None => findings.push(fail(format!("checkpoint {number}, seen before, is gone"))),
            Some((digest, _)) if digest != remembered.digest => findings.push(
                fail(format!(
                    "checkpoint {number} is another one than the one seen before"
                ))
                .found(hex::encode(digest))
                .expected(hex::encode(remembered.digest)),
            ),
            Some(_) => {
                let Some(last) = self.last() else { return };
                if last.number <= number {
                    findings.push(fail("no checkpoint was made since the last evidence"));
                } else if last.list_len < before.covered {
                    // The collector reads the length after the quote of the round before.
                    findings.push(
                        fail(format!(
                            "checkpoint {} states a list that is shorter than what was covered before it",
                            last.number
                        ))
                        .found(last.list_len)
                        .expected(format!("at least {}", before.covered)),
                    );
                }
            }
        }
    }
}

/// What to say of a last checkpoint that was not made for this request.
pub(crate) fn not_fresh(last: &Checkpoint, nonce: &ExpectedNonce) -> Finding {
    let mut finding = fail(format!(
        "checkpoint {}, the last one, was not made for this request",
        last.number
    ));
    if let ExpectedNonce::Value(nonce) = nonce {
        finding = finding.expected(format!("nonce hash {}", hex::encode(Sha256::digest(nonce))));
    }
    match last.nonce_hash {
        Some(hash) => finding.found(format!("nonce hash {}", hex::encode(hash))),
        None => finding.found("no nonce hash"),
    }
}

/// One checkpoint and its predecessor; with none it is checkpoint 0.
pub(crate) fn succeeds(
    sealed: &SealedCheckpoint,
    before: Option<&SealedCheckpoint>,
    key: Option<&[u8]>,
    boot_id: [u8; 16],
    findings: &mut Findings,
) {
    let now = &sealed.checkpoint;
    let n = now.number;
    if key.is_none_or(|key| sealed.verify(key).is_err()) {
        findings.push(fail(format!(
            "checkpoint {n} is not signed by the key of checkpoint 0"
        )));
    }
    if now.boot_id != boot_id {
        findings.push(
            fail(format!("checkpoint {n} is of another boot"))
                .found(hex::encode(now.boot_id))
                .expected(hex::encode(boot_id)),
        );
    }
    let Some(before) = before else {
        if now.previous != [0; 32] {
            findings.push(fail("checkpoint 0 names a predecessor").found(hex::encode(now.previous)));
        }
        if now.boot_len > now.list_len {
            findings.push(
                fail("checkpoint 0 counts more entries as older than the load than the list had")
                    .found(now.boot_len)
                    .expected(format!("at most {}", now.list_len)),
            );
        }
        return;
    };
    if now.previous != before.digest() {
        findings.push(
            fail(format!(
                "checkpoint {n} does not name checkpoint {} as its predecessor",
                before.checkpoint.number
            ))
            .found(hex::encode(now.previous))
            .expected(hex::encode(before.digest())),
        );
    }
    let before = &before.checkpoint;
    if now.key.is_some() || !now.predating.is_empty() {
        findings.push(fail(format!(
            "checkpoint {n} states what only checkpoint 0 may: a key, or pods older than the load"
        )));
    }
    if now.boot_len != before.boot_len || now.hierarchy != before.hierarchy {
        findings.push(fail(format!(
            "checkpoint {n} changes what checkpoint 0 fixed: entries of the boot, cgroup hierarchy"
        )));
    }
    let grows = [
        ("length of the list", before.list_len, now.list_len),
        ("settled", before.settled, now.settled),
        ("records", before.records, now.records),
        ("executions", before.executions, now.executions),
        ("last sequence number", before.last_seq, now.last_seq),
        ("partitions", before.partitions, now.partitions),
        ("losses (reserve)", before.losses.reserve, now.losses.reserve),
        (
            "losses (recursion)",
            before.losses.recursion,
            now.losses.recursion,
        ),
        ("losses (read)", before.losses.read, now.losses.read),
        ("losses (spool)", before.losses.spool, now.losses.spool),
        ("starts", before.starts.into(), now.starts.into()),
    ];
    for (what, was, is) in grows {
        if is < was {
            findings.push(
                fail(format!("{what} went back in checkpoint {n}"))
                    .found(is)
                    .expected(format!("at least {was}")),
            );
        }
    }
}
