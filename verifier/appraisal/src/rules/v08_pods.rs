//! V8: every pod is known to the policy, and pods that are older than the collector are reported as such; and
//! the verdict on each pod from all that was found of it.
//!
//! Promise: a pod that no policy knows is the node's failure too, by name. Not here: what was found (see
//! `v09_contents`, `v06_losses`, `v12_violations`).

use crate::accept::Waivers;
use crate::results::finding::{Finding, Findings, Subject};
use crate::results::verdict::{Deviation, LeftOut, MAX_LISTED, PodVerdict, State};
use crate::rules::names::{Called, PodCalled};
use crate::rules::partition::{Deviations, Tally};
use crate::rules::v08_workloads::{self, Standing};
use crate::rules::v09_contents::Usage;
use crate::rules::waits::Waits;
use crate::rules::{Rule, v06_losses, v09_opaque};
use cgpath_evidence::{PartitionKey, PodInfo, PodUid, Provenance};
use cgpath_policy::{Policy, PredatingPods};
use std::collections::{BTreeMap, BTreeSet};

/// What the verdict on pods needs beside what they used.
pub(crate) struct Names<'a> {
    pub pod_info: &'a [PodInfo],
    pub named: &'a Called,
    /// Those whose records do not begin with them.
    pub predating: &'a [PodUid],
    pub provenance: Provenance,
    pub policy: &'a Policy,
    pub waivers: &'a Waivers<'a>,
}

/// What the judgement of all partitions gave.
pub(crate) struct Concluded {
    pub pods: Vec<PodVerdict>,
    pub suspect: u64,
    pub learned: bool,
    /// Of `host`, `boot` and `unattributed`.
    pub node: Listed,
}

impl Usage {
    /// The verdicts on all pods, and what is listed of the other partitions. `late` stands for those
    /// partitions that have pending entries.
    pub(crate) fn conclude(
        &self,
        late: &BTreeMap<PartitionKey, Tally>,
        names: &Names<'_>,
        waits: &mut Waits,
        findings: &mut Findings,
    ) -> Concluded {
        let keys: BTreeSet<PartitionKey> = self.tallies.keys().chain(late.keys()).copied().collect();
        let tally = |key: PartitionKey| late.get(&key).or_else(|| self.tallies.get(&key));
        let predating: BTreeSet<PodUid> = names.predating.iter().copied().collect();
        let mut uids = predating.clone();
        uids.extend(keys.iter().filter_map(|key| match key {
            PartitionKey::Pod(uid) => Some(*uid),
            _ => None,
        }));
        let all = || keys.iter().filter_map(|key| tally(*key));
        let mut concluded = Concluded {
            pods: Vec::new(),
            suspect: all().map(|t| t.suspect).sum(),
            learned: all().any(|t| t.learned),
            node: Listed::default(),
        };
        let unseen = Tally::default();
        for uid in uids {
            let tally = tally(PartitionKey::Pod(uid)).unwrap_or(&unseen);
            let predates = predating.contains(&uid);
            concluded
                .pods
                .push(pod(names, uid, tally, predates, waits, findings));
        }
        concluded.learned |= concluded.pods.iter().any(|pod| pod.learned);
        for key in keys.iter().filter(|key| !matches!(key, PartitionKey::Pod(_))) {
            let Some(tally) = tally(*key) else { continue };
            findings.absorb(&tally.findings);
            findings.absorb(&tally.changed);
            findings.extend(tally.excluded(*key));
            findings.extend(
                tally
                    .unrecorded()
                    .map(|lost| v06_losses::of_partition(*key, lost)),
            );
            concluded.node.add(&tally.deviations);
        }
        findings.absorb(&self.malformed);
        concluded
    }
}

/// Deviations as a verdict lists them.
#[derive(Default)]
pub(crate) struct Listed {
    pub fnf: Vec<Deviation>,
    pub filehash_err: Vec<Deviation>,
    pub left_out: LeftOut,
    pub excluded: u64,
}

impl Listed {
    fn add(&mut self, deviations: &Deviations) {
        let left_out = &mut self.left_out;
        list(&mut self.fnf, &deviations.fnf, &mut left_out.fnf);
        list(
            &mut self.filehash_err,
            &deviations.filehash_err,
            &mut left_out.filehash_err,
        );
        self.excluded += deviations.excluded;
    }
}

/// Adds to a verdict's list as many as it may have, and counts the others.
fn list<T: Clone>(listed: &mut Vec<T>, all: &[T], left_out: &mut u64) {
    let (some, others) = all.split_at(all.len().min(MAX_LISTED.saturating_sub(listed.len())));
    listed.extend_from_slice(some);
    *left_out += others.len() as u64;
}

/// The verdict on one pod. An unknown one is the node's failure too, by name, unless the policy only reports
/// it.
fn pod(
    names: &Names<'_>,
    uid: PodUid,
    tally: &Tally,
    predates: bool,
    waits: &mut Waits,
    findings: &mut Findings,
) -> PodVerdict {
    let known = names.policy.pods.get(&uid);
    let in_policy = || known.is_some_and(|known| known.pod.is_undashed);
    let undashed = tally.undashed.unwrap_or_else(in_policy);
    let workloads = names.policy.workloads.as_ref();
    let unnamed = PodCalled::default();
    let called = names.named.of(uid).unwrap_or(&unnamed);
    let mut case = workloads
        .map(|workloads| v08_workloads::appraise(names.policy, workloads, uid, tally, called, waits));
    let standing = match &case {
        Some(case) => case.standing,
        None if known.is_some() => Standing::Known,
        None => Standing::Unknown,
    };
    let shown_name = case.as_mut().and_then(|case| case.shown_name.take());
    let shown_name = shown_name.or_else(|| {
        let info = names.pod_info.iter().find(|p| p.uid == uid);
        info.map(|p| format!("{}/{}", p.namespace, p.name))
    });
    let tally = case.as_ref().map_or(tally, |case| &case.tally);
    let key = PartitionKey::Pod(uid);
    let subject = Subject::Partition(key);
    let mut own = tally.findings.clone();
    own.absorb(&tally.changed);
    own.extend(tally.excluded(key));
    own.extend(tally.unrecorded().map(|lost| v06_losses::of_partition(key, lost)));
    own.extend(tally.opaque());
    own.extend(tally.shared_memory.finding(subject, Some(true), ""));
    let provenance = names.provenance;
    if standing == Standing::Unknown {
        let called = shown_name
            .as_ref()
            .map_or_else(String::new, |t| format!(" (the runtime calls it {t})"));
        let shown = uid.shown(undashed);
        let (of_node, of_pod) = match &case {
            None => (
                format!("pod {shown}{called} is in no policy"),
                "no policy knows this pod",
            ),
            Some(case) => (format!("pod {shown}{called}: {}", case.why), case.why),
        };
        let finding = Finding::fail(Rule::KnownPods, Subject::Node, of_node).found(uid);
        if workloads.is_none_or(|workloads| workloads.fails_node()) {
            findings.push(finding.resting_on(provenance));
        }
        own.push(Finding::fail(Rule::KnownPods, subject, of_pod).resting_on(provenance));
    }
    let mut is_unseen = false;
    if predates && standing == Standing::Known {
        match names.policy.file.predating_pods {
            PredatingPods::Report => is_unseen = true,
            PredatingPods::Trust => own.push(Finding::tolerated(
                Rule::KnownPods,
                subject,
                "the pod is older than the collector; judged by what was seen since, as the policy says",
            )),
            PredatingPods::Untrust => {
                own.push(Finding::fail(
                    Rule::KnownPods,
                    subject,
                    "the pod is older than the collector, which the policy does not accept",
                ));
            }
        }
    }
    let trusts_opaque = match &case {
        Some(case) => case.trusts_opaque,
        None => names.policy.trusts_opaque(&uid),
    };
    let is_silent = standing == Standing::Known && !predates && tally.is_unseen();
    if is_silent {
        own.push(v09_opaque::unseen(subject, trusts_opaque).resting_on(Provenance::Enriched));
    }
    names.waivers.apply_to(&mut own);
    let fails = own.has_failure();
    let state = match (standing, fails, is_unseen) {
        (Standing::Unknown, ..) => State::Unknown,
        (_, true, _) => State::Untrusted,
        (Standing::Pending, false, _) => State::Pending,
        (Standing::Known, false, true) => State::PredatesCollector,
        // Nothing says what runs there: neither that it is accepted nor that it is not.
        (Standing::Known, false, false) if is_silent && !trusts_opaque => State::Pending,
        (Standing::Known, false, false) => State::Trusted,
    };
    let mut listed = Listed::default();
    listed.add(&tally.deviations);
    let mut files = Vec::new();
    list(&mut files, &tally.files, &mut listed.left_out.files);
    let mut containers = Vec::new();
    let of_case = case.as_ref().map_or(&[][..], |case| &case.containers);
    list(&mut containers, of_case, &mut listed.left_out.containers);
    PodVerdict {
        uid,
        undashed,
        name: match &case {
            Some(case) => case.name.clone(),
            None => known.map(|k| k.pod.name.clone()),
        },
        told: shown_name,
        state,
        charged: fails,
        entries: tally.entries,
        executions: tally.executions,
        suspect: tally.suspect,
        provenance,
        learned: tally.learned,
        files,
        fnf: listed.fnf,
        filehash_err: listed.filehash_err,
        left_out: listed.left_out,
        excluded: listed.excluded,
        containers,
        findings: own.into_vec(),
    }
}
