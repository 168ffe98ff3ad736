//! V11, what all records rest on: the collector and the IMA policy stand in the list with accepted contents
//! before checkpoint 1, and the programs and the policy that checkpoints name are accepted ones.
//!
//! Promise: each program that any checkpoint counts as the collector is accepted, and the list has it.
//! Not here: what else the host ran (see `v09_contents`), how one collector follows another (see
//! `v14_collectors`).

use crate::inputs::decoded::Line;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::rules::opinion::Scene;
use cgpath_evidence::{Bank, Checkpoint, Collectors, Digest, list::as_listed, merkle::Hash};
use cgpath_policy::{ContentMatch, Name, Policy};
use std::collections::{HashMap, HashSet};

/// A program that checkpoints count as the collector.
#[derive(Debug)]
pub(crate) struct Counted {
    program: Digest,
    /// The first checkpoint that says so, and how long it says that the list was.
    checkpoint: u64,
    list_len: u64,
}

/// Digests that were named and are not accepted, each spoken of once.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    objects: Vec<Hash>,
    policies: Vec<Hash>,
    known: HashSet<Digest>,
    /// In the order of the checkpoints, none twice.
    pub counted: Vec<Counted>,
    pub findings: Findings,
}

impl Programs {
    /// The collector's programs and the IMA policy that a checkpoint names.
    pub(crate) fn step(&mut self, checkpoint: &Checkpoint, policy: &Policy) {
        let fail = |text: String| Finding::fail(Rule::Host, Subject::Node, text);
        let n = checkpoint.number;
        let accept = &policy.file.accept;
        for program in checkpoint.collectors.iter().flat_map(Collectors::all) {
            if !self.known.insert(program.clone()) {
                continue;
            }
            self.counted.push(Counted {
                program: program.clone(),
                checkpoint: n,
                list_len: checkpoint.list_len,
            });
            let collector = accept.collector.as_bytes();
            let expected = match policy.look_up_host(Name::True(collector), program) {
                ContentMatch::Accepted { .. } => continue,
                ContentMatch::UnknownPath => Vec::new(),
                ContentMatch::WrongHash { expected } => expected,
            };
            let finding = fail(format!(
                "checkpoint {n} counts a program as the collector that the policy does not accept"
            ));
            let finding = finding.at_path(collector).found(program);
            self.findings
                .push(expected.iter().fold(finding, Finding::expected));
        }
        // Programs of both run: what has no place stays that of the load.
        for object in [checkpoint.bpf_object, checkpoint.bpf_running()] {
            if let Some(accepted) = &accept.bpf_objects
                && !accepted.iter().any(|d| d.bytes() == object)
                && !self.objects.contains(&object)
            {
                self.objects.push(object);
                let finding = fail(format!("checkpoint {n}: the BPF object is not an accepted one"))
                    .found(format!("sha256:{}", hex::encode(object)));
                self.findings
                    .push(accepted.iter().fold(finding, Finding::expected));
            }
        }
        let Some(hash) = checkpoint.ima_policy else { return };
        let accepted = || accept.ima_policies.iter().filter(|d| d.bank() == Bank::Sha256);
        if !accepted().any(|d| d.bytes() == hash) && !self.policies.contains(&hash) {
            self.policies.push(hash);
            let finding = fail(format!("checkpoint {n}: the IMA policy is not an accepted one"))
                .found(format!("sha256:{}", hex::encode(hash)));
            self.findings.push(accepted().fold(finding, Finding::expected));
        }
    }
}

/// The collector and the IMA policy stand in the list with accepted contents before checkpoint 1.
#[derive(Debug, Default)]
pub(crate) struct Foundations {
    has_collector: bool,
    has_policy: bool,
    /// Checkpoint 1 was passed: what comes later is no foundation.
    is_over: bool,
    /// Contents of the collector's path, by where the list has them first.
    listed: HashMap<Digest, usize>,
    /// Of the programs that count as the collector, how many were looked for in the list.
    looked_for: usize,
    /// Those that it did not have.
    unlisted: Findings,
}

impl Foundations {
    pub(crate) fn step(&mut self, scene: &Scene<'_>) {
        self.collectors(scene);
        if self.is_over {
            return;
        }
        let accept = &scene.policy.file.accept;
        let collector = &*as_listed(accept.collector.as_bytes());
        let second = scene.chain.second_anchor();
        let until = second.unwrap_or(scene.covered).min(scene.covered);
        for index in scene.lines.first()..until {
            if self.has_collector && self.has_policy {
                break;
            }
            let Some(line) = scene.line(index).filter(|line| !line.violation) else {
                continue;
            };
            let Some(digest) = &line.file else { continue };
            self.has_collector |= line.path == Some(collector)
                && scene
                    .policy
                    .look_up_host(Name::Listed(collector), digest)
                    .is_accepted();
            self.has_policy |= accept.ima_policies.contains(digest);
        }
        self.is_over = second.is_some();
    }

    /// Each program that counts as the collector stands in the list before the checkpoint that says so first.
    fn collectors(&mut self, scene: &Scene<'_>) {
        let path = scene.policy.file.accept.collector.as_bytes();
        let listed = &*as_listed(path);
        let is_one = |line: &Line| !line.violation && line.path == Some(listed);
        for index in scene.lines.places(scene.covered, is_one) {
            if let Some(content) = scene.line(index).and_then(|line| line.file.clone()) {
                self.listed.entry(content).or_insert(index);
            }
        }
        let counted = scene.chain.counted();
        for one in counted.get(self.looked_for..).unwrap_or_default() {
            let place = self.listed.get(&one.program);
            if place.is_some_and(|index| (*index as u64) < one.list_len) {
                continue;
            }
            let text = format!(
                "checkpoint {} counts a program as the collector that does not stand in the list before it",
                one.checkpoint
            );
            let finding = Finding::fail(Rule::Host, Subject::Node, text);
            self.unlisted.push(finding.at_path(path).found(&one.program));
        }
        self.looked_for = counted.len();
    }

    pub(crate) fn conclude(&self, policy: &Policy, findings: &mut Findings) {
        let accept = &policy.file.accept;
        if !self.has_collector {
            findings.push(
                Finding::fail(
                    Rule::Host,
                    Subject::Node,
                    "the collector's executable does not stand in the list with an accepted hash before \
                     checkpoint 1",
                )
                .at_path(accept.collector.as_bytes()),
            );
        }
        if !self.has_policy {
            let finding = Finding::fail(
                Rule::Host,
                Subject::Node,
                "no accepted IMA policy stands in the list before checkpoint 1",
            );
            findings.push(accept.ima_policies.iter().fold(finding, Finding::expected));
        }
        findings.absorb(&self.unlisted);
    }
}
