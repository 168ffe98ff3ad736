//! V11, what all records rest on: the collector and the IMA policy stand in the list with accepted contents
//! before checkpoint 1, and the programs and the policy that checkpoints name are accepted ones.
//!
//! Not here: what else the host ran (see `v09_contents`).

use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::rules::opinion::Scene;
use cgpath_evidence::{Bank, Checkpoint, list::as_listed, merkle::Hash};
use cgpath_policy::{Name, Policy};

/// Digests that were named and are not accepted, each spoken of once.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    objects: Vec<Hash>,
    policies: Vec<Hash>,
    pub findings: Findings,
}

impl Programs {
    /// The collector's programs and the IMA policy that a checkpoint names.
    pub(crate) fn step(&mut self, checkpoint: &Checkpoint, policy: &Policy) {
        let fail = |text: String| Finding::fail(Rule::Host, Subject::Node, text);
        let n = checkpoint.number;
        let accept = &policy.file.accept;
        if let Some(accepted) = &accept.bpf_objects
            && !accepted.iter().any(|d| d.bytes() == checkpoint.bpf_object)
            && !self.objects.contains(&checkpoint.bpf_object)
        {
            self.objects.push(checkpoint.bpf_object);
            let finding = fail(format!("checkpoint {n}: the BPF object is not an accepted one"))
                .found(format!("sha256:{}", hex::encode(checkpoint.bpf_object)));
            self.findings
                .push(accepted.iter().fold(finding, Finding::expected));
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
}

impl Foundations {
    pub(crate) fn step(&mut self, scene: &Scene<'_>) {
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
                    .judge_host(Name::Listed(collector), digest)
                    .is_accepted();
            self.has_policy |= accept.ima_policies.contains(digest);
        }
        self.is_over = second.is_some();
    }

    pub(crate) fn conclude(&self, policy: &Policy, findings: &mut Findings) {
        let accept = &policy.file.accept;
        if !self.has_collector {
            findings.push(
                Finding::fail(
                    Rule::Host,
                    Subject::Node,
                    "the collector's executable does not stand in the list with an accepted hash before checkpoint 1",
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
    }
}
