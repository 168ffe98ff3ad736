//! V4 and V6: the checkpoints stand in the covered prefix, are signed, form one unbroken chain, and the last is fresh.
//!
//! Promise: a [`Chain`] that has a last checkpoint was read from evidence; whether to believe it is what the findings
//! say. Not here: the records that it sealed (see `sealed`), who read its files (see `join`).

use super::{
    context::{Context, ExpectedNonce, NodeState},
    finding::{Finding, Findings, Rule, Subject},
    history::Relation,
    view::{self, Line},
};
use evidence::{Bank, Checkpoint, Evidence, PodUid, SealedCheckpoint, checkpoint::number_from_path};
use policy::Policy;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// The chain of one boot, as far as it can be read.
pub(crate) struct Chain {
    /// In the evidence's order; number `i` stands at index `i` unless a finding says otherwise.
    pub checkpoints: Vec<SealedCheckpoint>,
    /// For each, the index of its file's entry in the list.
    pub anchors: Vec<Option<usize>>,
}

impl Chain {
    pub(crate) fn last(&self) -> Option<&Checkpoint> {
        self.checkpoints.last().map(|c| &c.checkpoint)
    }

    /// Entries older than the load; 0 without checkpoints.
    pub(crate) fn boot_len(&self) -> usize {
        self.checkpoints.first().map_or(0, |c| {
            usize::try_from(c.checkpoint.boot_len).unwrap_or(usize::MAX)
        })
    }

    /// Pods that checkpoint 0 says are older than the load.
    pub(crate) fn predating(&self) -> &[PodUid] {
        self.checkpoints.first().map_or(&[], |c| &c.checkpoint.predating)
    }

    /// Whether an entry without a record may still get one: it came after the last checkpoint but one had been sealed
    /// and is not among those that the last one calls settled.
    pub(crate) fn is_pending(&self, index: usize) -> bool {
        let Some(last) = self.last() else { return false };
        let before = match self
            .checkpoints
            .len()
            .checked_sub(2)
            .and_then(|i| self.checkpoints.get(i))
        {
            Some(previous) => previous.checkpoint.list_len,
            None => last.boot_len,
        };
        index as u64 >= last.settled.max(before)
    }
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::V4, Subject::Node, text)
}

/// Reads the chain and checks all that needs only it and the list.
pub(crate) fn check(
    evidence: &Evidence,
    context: &Context,
    lines: &[Line],
    covered: usize,
    findings: &mut Findings,
) -> Chain {
    let mut chain = Chain {
        checkpoints: Vec::new(),
        anchors: Vec::new(),
    };
    if evidence.checkpoints.is_empty() {
        findings.push(fail("the evidence holds no checkpoint").expected("checkpoints from number 0"));
        return chain;
    }
    for (position, file) in evidence.checkpoints.iter().enumerate() {
        match SealedCheckpoint::from_file(file) {
            Ok(sealed) => chain.checkpoints.push(sealed),
            Err(error) => {
                findings.push(fail(format!(
                    "checkpoint file {position} cannot be read: {error}"
                )));
                // What follows a hole can not be a chain; what precedes it is still looked at.
                break;
            }
        }
    }
    let key = chain.checkpoints.first().and_then(|c| c.checkpoint.key.clone());
    if key.is_none() && !chain.checkpoints.is_empty() {
        findings.push(fail(
            "checkpoint 0 does not name the key that signs this boot's checkpoints",
        ));
    }
    for position in 0..chain.checkpoints.len() {
        link(&chain.checkpoints, position, key.as_deref(), evidence, findings);
    }
    anchor(&mut chain, lines, covered, findings);
    freshness(&chain, context, findings);
    chain
}

/// One checkpoint, at its place in the evidence.
fn link(
    checkpoints: &[SealedCheckpoint],
    position: usize,
    key: Option<&[u8]>,
    evidence: &Evidence,
    findings: &mut Findings,
) {
    let sealed = &checkpoints[position];
    let n = sealed.checkpoint.number;
    if n != position as u64 {
        findings.push(
            fail("the checkpoints are not numbered from 0 without a gap or a double")
                .found(format!("number {n} at place {position}"))
                .expected(format!("number {position}")),
        );
    }
    let before = position.checked_sub(1).and_then(|i| checkpoints.get(i));
    succeeds(sealed, before, key, evidence.boot_id, findings);
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

/// Finds each checkpoint's entry in the covered prefix.
fn anchor(chain: &mut Chain, lines: &[Line], covered: usize, findings: &mut Findings) {
    let mut named: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let boot_len = chain.boot_len();
    let number = |line: &Line| line.path.and_then(number_from_path);
    for index in view::places(lines, covered, |line| number(line).is_some()) {
        if let Some(number) = number(&lines[index])
            && index >= boot_len
        {
            named.entry(number).or_default().push(index);
        }
    }
    let mut last: Option<usize> = None;
    for sealed in &chain.checkpoints {
        let n = sealed.checkpoint.number;
        let candidates = named.get(&n).map_or(&[][..], Vec::as_slice);
        let found = candidates.iter().copied().find(|index| {
            lines[*index].file.as_ref().is_some_and(|digest| {
                digest.bank() != Bank::Sha1
                    && digest.bank().hash(&[&sealed.file]) == *digest
                    && !lines[*index].violation
            })
        });
        match found {
            None => {
                let mut finding = fail(format!(
                    "the file of checkpoint {n} does not stand in the covered part of the list"
                ))
                .at_path(format!("{}{n}", evidence::checkpoint::DIRECTORY).as_bytes())
                .expected(format!("sha256:{}", hex::encode(sealed.digest())));
                if let Some(other) = candidates.iter().find_map(|i| lines[*i].file.as_ref()) {
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
                if last.is_some_and(|last| index <= last) {
                    findings.push(
                        fail(format!(
                            "checkpoint {n} stands before its predecessor in the list"
                        ))
                        .at_index(index),
                    );
                }
                last = Some(index);
            }
        }
        chain.anchors.push(found);
    }
}

/// The last checkpoint was made for this request.
fn freshness(chain: &Chain, context: &Context, findings: &mut Findings) {
    let Some(last) = chain.last() else { return };
    match &context.nonce {
        ExpectedNonce::DangerousNone => {}
        ExpectedNonce::Value(nonce) => {
            let expected: [u8; 32] = Sha256::digest(nonce).into();
            if last.nonce_hash != Some(expected) {
                let mut finding = fail(format!(
                    "checkpoint {}, the last one, was not made for this request",
                    last.number
                ))
                .expected(format!("nonce hash {}", hex::encode(expected)));
                finding = match last.nonce_hash {
                    Some(hash) => finding.found(format!("nonce hash {}", hex::encode(hash))),
                    None => finding.found("no nonce hash"),
                };
                findings.push(finding);
            }
        }
    }
}

/// Coverage and chain go on from where the last accepted evidence ended.
pub(crate) fn continues(
    chain: &Chain,
    before: &NodeState,
    relation: Relation,
    kernel_tier: bool,
    findings: &mut Findings,
) {
    if relation != Relation::SameBoot {
        return;
    }
    let Some(remembered) = &before.checkpoint else {
        if !kernel_tier {
            findings.push(fail(
                "the last evidence of this boot had no checkpoints and this one does",
            ));
        }
        return;
    };
    let held = usize::try_from(remembered.number)
        .ok()
        .and_then(|n| chain.checkpoints.get(n));
    match held {
        None => findings.push(fail(format!(
            "checkpoint {}, seen before, is gone",
            remembered.number
        ))),
        Some(sealed) if sealed.digest() != remembered.digest => findings.push(
            fail(format!(
                "checkpoint {} is another one than the one seen before",
                remembered.number
            ))
            .found(hex::encode(sealed.digest()))
            .expected(hex::encode(remembered.digest)),
        ),
        Some(_) => {
            if chain.last().is_some_and(|last| last.number <= remembered.number) {
                findings.push(fail("no checkpoint was made since the last evidence"));
            }
        }
    }
}

/// V6: losses and blind checkpoints; and the loaded programs, of which the checkpoints state the digest.
pub(crate) fn losses(chain: &Chain, policy: &Policy, findings: &mut Findings) -> u64 {
    let Some(last) = chain.last() else { return 0 };
    let lost = last.losses.total();
    let tolerance = policy.file.tolerance.lost;
    if lost > 0 {
        let text = format!(
            "{lost} record(s) were lost: reserve {}, recursion {}, read {}, spool {}",
            last.losses.reserve, last.losses.recursion, last.losses.read, last.losses.spool
        );
        let finding = if lost > tolerance {
            Finding::fail(Rule::V6, Subject::Node, text)
        } else {
            Finding::tolerated(Rule::V6, Subject::Node, text)
        };
        findings.push(finding.found(lost).expected(format!("at most {tolerance}")));
    }
    for sealed in &chain.checkpoints {
        let checkpoint = &sealed.checkpoint;
        if checkpoint.blind {
            findings.push(Finding::fail(
                Rule::V6,
                Subject::Node,
                format!(
                    "checkpoint {} is blind: the collector's own canary was not seen, the programs may have been off",
                    checkpoint.number
                ),
            ));
        }
    }
    lost
}

/// V11, the part about the collector's programs and the IMA policy that the checkpoints name.
pub(crate) fn programs(chain: &Chain, policy: &Policy, findings: &mut Findings) {
    let fail = |text: String| Finding::fail(Rule::V11, Subject::Node, text);
    let mut seen_objects = Vec::new();
    let mut seen_policies = Vec::new();
    for sealed in &chain.checkpoints {
        let checkpoint = &sealed.checkpoint;
        if let Some(accepted) = &policy.file.accept.bpf_objects
            && !accepted.iter().any(|d| d.bytes() == checkpoint.bpf_object)
            && !seen_objects.contains(&checkpoint.bpf_object)
        {
            seen_objects.push(checkpoint.bpf_object);
            let mut finding = fail(format!(
                "checkpoint {}: the BPF object is not an accepted one",
                checkpoint.number
            ))
            .found(format!("sha256:{}", hex::encode(checkpoint.bpf_object)));
            for digest in accepted {
                finding = finding.expected(digest);
            }
            findings.push(finding);
        }
        if let Some(hash) = checkpoint.ima_policy {
            let accepted: Vec<_> = policy
                .file
                .accept
                .ima_policies
                .iter()
                .filter(|d| d.bank() == Bank::Sha256)
                .collect();
            if !accepted.iter().any(|d| d.bytes() == hash) && !seen_policies.contains(&hash) {
                seen_policies.push(hash);
                let mut finding = fail(format!(
                    "checkpoint {}: the IMA policy is not an accepted one",
                    checkpoint.number
                ))
                .found(format!("sha256:{}", hex::encode(hash)));
                for digest in accepted {
                    finding = finding.expected(digest);
                }
                findings.push(finding);
            }
        }
    }
}
