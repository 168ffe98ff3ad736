//! V8, V9, V11 and V12: what each partition ran is what its policy accepts.
//!
//! Promise: every record and every covered entry is judged by the partition it belongs to, an entry once for each record
//! that joined it; an entry that nobody could be found for is judged as the host's. Not here: whether the records and the
//! list are to be believed at all (the rules V1 to V7).

use super::{
    boot::BOOT_AGGREGATE,
    finding::{Finding, Findings, Rule, Severity, Subject},
    history::Relation,
    join::Owned,
    scene::{Opinion, Scene},
    tally::{Deviations, Seen, Tally, rule_of},
    verdict::{PodVerdict, State},
};
use crate::text::foreign;
use evidence::{
    Digest, EventKind, FileHash, PartitionKey, PodUid, Provenance, Record, cgroup::partition_of,
    checkpoint::number_from_path, list::unescaped,
};
use policy::{Judgement, PredatingPods};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the judgement of all partitions gave.
pub(crate) struct Judged {
    pub pods: Vec<PodVerdict>,
    pub suspect: u64,
    pub learned: bool,
    /// Of `host`, `boot` and `unattributed`.
    pub node: Deviations,
}

/// A content that a partition used.
#[derive(Clone, Copy)]
struct Use<'a> {
    key: PartitionKey,
    path: &'a [u8],
    digest: Option<&'a Digest>,
    index: Option<usize>,
    seq: Option<u64>,
    is_execution: bool,
    provenance: Provenance,
}

struct Judge<'a> {
    scene: &'a Scene<'a>,
    tallies: BTreeMap<PartitionKey, Tally<'a>>,
}

/// Records whose contents one thread judges at a time.
const BATCH: usize = 1024;

pub(crate) fn judge<'a>(scene: &'a Scene<'a>, records: &[Owned<'a>], findings: &mut Findings) -> Judged {
    // Looking up what the policy says is most of the work, and needs nothing but the content.
    let looked: Vec<Looked> = records
        .par_chunks(BATCH)
        .enumerate()
        .map(|(n, batch)| look(scene, n * BATCH, batch))
        .collect();
    let mut judge = Judge {
        scene,
        tallies: BTreeMap::new(),
    };
    judge.boot();
    for Looked { plain, rest } in looked {
        if plain.entries + plain.executions > 0 {
            let tally = judge.tally(PartitionKey::Host);
            tally.entries += plain.entries;
            tally.executions += plain.executions;
            tally.learned |= plain.learned;
        }
        for (place, opinion) in rest {
            if let Some((key, record)) = records.get(place) {
                judge.record(place, *key, record, opinion);
            }
        }
    }
    for index in &scene.joins.unattributed {
        judge.entry(
            PartitionKey::Unattributed,
            *index,
            None,
            Provenance::Attested,
            None,
        );
    }
    judge.finish(findings)
}

/// Records of the host of which nothing is to be said but that they are there: their contents are accepted.
#[derive(Default)]
struct Plain {
    entries: u64,
    executions: u64,
    learned: bool,
}

/// What the policy says of the contents of some records.
#[derive(Default)]
struct Looked {
    plain: Plain,
    /// All others, by their places.
    rest: Vec<(usize, Option<Opinion>)>,
}

/// Looks up the contents of these records, the first of which is number `first`.
fn look<'a>(scene: &Scene<'a>, first: usize, records: &[Owned<'a>]) -> Looked {
    const AT_ONCE: usize = 32;
    let mut looked = Looked::default();
    for (n, batch) in records.chunks(AT_ONCE).enumerate() {
        let content = |(at, (key, record)): (usize, &Owned<'a>)| {
            let place = first + n * AT_ONCE + at;
            (place, *key, *record, scene.content_of(place, *key, record))
        };
        let contents: Vec<_> = batch.iter().enumerate().map(content).collect();
        let on_host = contents.iter().filter(|(_, key, ..)| *key == PartitionKey::Host);
        let digests = on_host.filter_map(|(.., content)| Some(content.as_ref()?.1));
        scene.policy.look_ahead_on_host(digests);
        for (place, key, record, content) in contents {
            let opinion = content.map(|(path, digest)| scene.opinion(key, path, digest));
            match opinion {
                Some(Opinion::Judged {
                    judgement: Judgement::Accepted { learned, .. },
                    gave_up: false,
                }) if key == PartitionKey::Host && !record.path_cut => {
                    let plain = &mut looked.plain;
                    plain.entries += u64::from(!record.is_execution());
                    plain.executions += u64::from(record.is_execution());
                    plain.learned |= learned;
                }
                opinion => looked.rest.push((place, opinion)),
            }
        }
    }
    looked
}

/// The same for a list whose entries carry their cgroup themselves: there are no records to go by.
pub(crate) fn judge_attested<'a>(scene: &'a Scene<'a>, findings: &mut Findings) -> (Judged, u64) {
    let mut judge = Judge {
        scene,
        tallies: BTreeMap::new(),
    };
    let mut unattributed = 0;
    for (index, line) in scene.lines.iter().enumerate().take(scene.covered) {
        if line.violation {
            // A violation's template data is bound by nothing, so its cgroup names nobody.
            judge.violation(
                PartitionKey::Unattributed,
                line.path.unwrap_or_default(),
                Some(index),
                None,
            );
            continue;
        }
        if index == 0 && line.path == Some(BOOT_AGGREGATE) {
            continue;
        }
        let key = partition_of(line.cgroup.as_deref());
        unattributed += u64::from(key == PartitionKey::Unattributed);
        if let PartitionKey::Pod(_) = key {
            let dep = line.dep.unwrap_or_default();
            if !dep
                .split(|b| *b == b':')
                .any(|exe| scene.policy.is_runtime(&unescaped(exe)))
            {
                judge.suspect(
                    key,
                    dep,
                    line.path.unwrap_or_default(),
                    Some(index),
                    None,
                    Provenance::Attested,
                );
            }
        }
        judge.entry(key, index, None, Provenance::Attested, None);
    }
    let tolerance = scene.policy.file.tolerance.unattributed;
    if unattributed > 0 {
        let subject = Subject::Partition(PartitionKey::Unattributed);
        let finding = Finding::fail(Rule::V5, subject, "entries carry no usable cgroup path")
            .found(unattributed)
            .expected(format!("at most {tolerance}"));
        let severity = if unattributed > tolerance {
            Severity::Fail
        } else {
            Severity::Tolerated
        };
        findings.push(Finding { severity, ..finding });
    }
    (judge.finish(findings), unattributed)
}

impl<'a> Judge<'a> {
    fn tally(&mut self, key: PartitionKey) -> &mut Tally<'a> {
        self.tallies.entry(key).or_default()
    }

    /// Entries older than the load are the host's to answer for.
    fn boot(&mut self) {
        let scene = self.scene;
        for (index, line) in scene
            .lines
            .iter()
            .enumerate()
            .take(scene.chain.boot_len().min(scene.covered))
        {
            let path = line.path.unwrap_or_default();
            if line.violation {
                self.violation(PartitionKey::Boot, path, Some(index), None);
                continue;
            }
            // The first entry is rule V10's. After a kexec that is accepted the new kernel adds another one, and the
            // checkpoints of the boot before were judged in their time.
            let kexec = scene.relation == Relation::Kexec;
            let aggregate =
                path == BOOT_AGGREGATE && (index == 0 || (kexec && index >= scene.covered_before));
            let old_checkpoint = kexec && index < scene.covered_before && number_from_path(path).is_some();
            if !aggregate && !old_checkpoint {
                self.entry(PartitionKey::Boot, index, None, Provenance::Attested, None);
            }
        }
    }

    fn record(&mut self, place: usize, key: PartitionKey, record: &'a Record, opinion: Option<Opinion>) {
        let scene = self.scene;
        if let PartitionKey::Pod(_) = key
            && !record
                .ancestry
                .iter()
                .any(|process| scene.policy.is_runtime(&process.exe))
        {
            let exe = record.ancestry.first().map_or(&b""[..], |process| &process.exe);
            self.suspect(
                key,
                exe,
                &record.path,
                None,
                Some(record.seq),
                Provenance::Observed,
            );
        }
        match record.kind {
            EventKind::Violation => {
                let index = scene.joins.entry_of(place);
                self.violation(key, &record.path, index, Some(record.seq));
            }
            EventKind::Entry => match scene.joins.entry_of(place) {
                Some(index) => {
                    // An entry that says itself whose it is needs no record for that; both agree, or V5 failed.
                    let is_tagged = scene.lines.get(index).is_some_and(|line| line.cgroup.is_some());
                    let provenance = if is_tagged {
                        Provenance::Attested
                    } else {
                        Provenance::Observed
                    };
                    self.entry(key, index, Some(record.seq), provenance, opinion);
                }
                // Reported by the join, for the node; the pod's own account is not complete either.
                None => {
                    self.tally(key).entries += 1;
                    let finding = Finding::fail(
                        rule_of(key),
                        Subject::Partition(key),
                        "what was measured here is not in the list",
                    );
                    self.tally(key).say(
                        finding
                            .at_path(&record.path)
                            .at_seq(record.seq)
                            .resting_on(Provenance::Observed),
                    );
                }
            },
            // Judged by rule V14; here it only tells that the partition is there.
            EventKind::Guard => {
                self.tally(key);
            }
            EventKind::Execution | EventKind::Script | EventKind::Mapping | EventKind::LateMapping => {
                self.tally(key).executions += 1;
                let digest = record.hash.as_ref().and_then(FileHash::digest);
                if digest.is_none() {
                    let error = match &record.hash {
                        Some(FileHash::Unhashed(error)) => format!("no hash, error {error}"),
                        _ => "no hash".to_owned(),
                    };
                    let finding = Finding::fail(
                        rule_of(key),
                        Subject::Partition(key),
                        "what was executed has no hash to judge it by",
                    )
                    .at_path(&record.path)
                    .at_seq(record.seq)
                    .found(error)
                    .resting_on(Provenance::Observed);
                    let tally = self.tally(key);
                    tally.say(finding);
                    tally.saw(&record.path, None, true, Seen::Refused);
                    return;
                }
                if record.path_cut {
                    let finding = Finding::fail(
                        rule_of(key),
                        Subject::Partition(key),
                        "what was executed has a path that could not be read whole",
                    )
                    .at_path(&record.path)
                    .at_seq(record.seq)
                    .resting_on(Provenance::Observed);
                    self.tally(key).say(finding);
                }
                let used = Use {
                    key,
                    path: &record.path,
                    digest,
                    index: None,
                    seq: Some(record.seq),
                    is_execution: true,
                    provenance: Provenance::Observed,
                };
                self.content(used, opinion);
            }
        }
    }

    fn suspect(
        &mut self,
        key: PartitionKey,
        exe: &[u8],
        path: &[u8],
        index: Option<usize>,
        seq: Option<u64>,
        provenance: Provenance,
    ) {
        let mut finding = Finding::fail(
            Rule::V9,
            Subject::Partition(key),
            "suspect: it ran in the pod's cgroup and no container runtime is among its ancestors",
        )
        .at_path(path)
        .found(format!("process {}", foreign(exe)))
        .resting_on(provenance);
        finding.index = index.map(|i| i as u64);
        finding.seq = seq;
        let tally = self.tally(key);
        tally.suspect += 1;
        tally.say(finding);
    }

    fn violation(&mut self, key: PartitionKey, path: &[u8], index: Option<usize>, seq: Option<u64>) {
        let permitted = self.scene.policy.permits_violation(path);
        let subject = Subject::Partition(key);
        let text = "violation: the file was written while it was measured, so its hash says nothing";
        let mut finding = if permitted {
            Finding::tolerated(Rule::V12, subject, text)
        } else {
            Finding::fail(Rule::V12, subject, text)
        };
        finding.index = index.map(|i| i as u64);
        finding.seq = seq;
        let finding = finding.at_path(path).resting_on(Provenance::Observed);
        let tally = self.tally(key);
        tally.entries += 1;
        tally.say(finding);
    }

    /// `opinion` is what the policy says of it, where that was looked up already.
    fn entry(
        &mut self,
        key: PartitionKey,
        index: usize,
        seq: Option<u64>,
        provenance: Provenance,
        opinion: Option<Opinion>,
    ) {
        self.tally(key).entries += 1;
        let Some(line) = self.scene.lines.get(index) else {
            return;
        };
        let path = line.path.unwrap_or_default();
        if self.scene.is_checkpoint(key, index, line) {
            return;
        }
        let used = Use {
            key,
            path,
            digest: line.file.as_ref(),
            index: Some(index),
            seq,
            is_execution: false,
            provenance,
        };
        self.content(used, opinion);
    }

    /// Charges one content to its partition.
    fn content(&mut self, used: Use<'a>, opinion: Option<Opinion>) {
        let policy = self.scene.policy;
        let Some(digest) = used.digest else {
            let finding = Finding::fail(
                rule_of(used.key),
                Subject::Partition(used.key),
                "the entry carries no file hash to judge it by",
            );
            let finding = place(finding, &used);
            self.tally(used.key).say(finding);
            return;
        };
        let judgement = match opinion.unwrap_or_else(|| self.scene.opinion(used.key, used.path, digest)) {
            Opinion::Excluded => {
                self.tally(used.key)
                    .saw(used.path, Some(digest), used.is_execution, Seen::Excluded);
                return;
            }
            // It is reported as such (V8): nothing can be expected of its files.
            Opinion::Nothing => {
                self.tally(used.key)
                    .saw(used.path, Some(digest), used.is_execution, Seen::Refused);
                return;
            }
            Opinion::Judged { judgement, gave_up } => {
                if gave_up {
                    let finding = Finding::note(
                        rule_of(used.key),
                        Subject::Partition(used.key),
                        "whether an exclude hides this path takes too many steps to find out: it is judged",
                    );
                    self.tally(used.key).say(place(finding, &used));
                }
                judgement
            }
        };
        let subject = Subject::Partition(used.key);
        let finding = match &judgement {
            Judgement::Accepted { .. } => None,
            Judgement::UnknownPath => {
                let elsewhere = match used.key {
                    PartitionKey::Pod(uid) => policy.pods.get(&uid).map(|pod| pod.allowed.paths_of(digest)),
                    _ => Some(policy.host.paths_of(digest)),
                };
                let mut finding = Finding::fail(
                    rule_of(used.key),
                    subject,
                    "no reference value has a file at this path",
                );
                for path in elsewhere.into_iter().flatten().take(3) {
                    finding = finding.expected(format!("this content at {}", foreign(path)));
                }
                Some(finding)
            }
            Judgement::WrongHash { expected } => {
                let finding = Finding::fail(
                    rule_of(used.key),
                    subject,
                    "the file's content is not the one that the policy accepts",
                );
                Some(expected.iter().fold(finding, Finding::expected))
            }
        };
        let seen = match &judgement {
            Judgement::Accepted { .. } => Seen::Accepted,
            Judgement::UnknownPath => Seen::UnknownPath,
            Judgement::WrongHash { .. } => Seen::WrongHash,
        };
        let is_pod = matches!(used.key, PartitionKey::Pod(_));
        let tally = self.tally(used.key);
        if let Judgement::Accepted { learned, .. } = judgement {
            tally.learned |= learned;
        }
        // Only a pod's verdict lists what was as it should be.
        if is_pod || seen != Seen::Accepted {
            tally.saw(used.path, Some(digest), used.is_execution, seen);
        }
        if let Some(finding) = finding {
            let finding = place(finding.found(digest), &used);
            self.tally(used.key).say(finding);
        }
    }

    fn finish(mut self, findings: &mut Findings) -> Judged {
        let scene = self.scene;
        let predating: BTreeSet<PodUid> = scene.chain.predating().iter().copied().collect();
        let mut uids: BTreeSet<PodUid> = predating.clone();
        uids.extend(self.tallies.keys().filter_map(|key| match key {
            PartitionKey::Pod(uid) => Some(*uid),
            _ => None,
        }));
        let mut judged = Judged {
            pods: Vec::new(),
            suspect: self.tallies.values().map(|t| t.suspect).sum(),
            learned: self.tallies.values().any(|t| t.learned),
            node: Deviations::default(),
        };
        for (key, tally) in &mut self.tallies {
            tally.say_excluded(*key);
        }
        for uid in uids {
            let tally = self.tallies.remove(&PartitionKey::Pod(uid)).unwrap_or_default();
            judged
                .pods
                .push(pod(scene, uid, tally, predating.contains(&uid), findings));
        }
        for (_, tally) in self.tallies {
            findings.extend(tally.findings);
            judged.node.fnf.extend(tally.deviations.fnf);
            judged.node.filehash_err.extend(tally.deviations.filehash_err);
            judged.node.excluded += tally.deviations.excluded;
        }
        judged
    }
}

fn place(finding: Finding, used: &Use<'_>) -> Finding {
    let mut finding = finding.at_path(used.path).resting_on(used.provenance);
    finding.index = used.index.map(|i| i as u64);
    finding.seq = used.seq;
    finding
}

/// The verdict on one pod. An unknown one is the node's failure too, by name.
fn pod(
    scene: &Scene<'_>,
    uid: PodUid,
    tally: Tally<'_>,
    predates: bool,
    findings: &mut Findings,
) -> PodVerdict {
    let known = scene.policy.pods.get(&uid);
    let told = scene
        .evidence
        .pods
        .iter()
        .find(|p| p.uid == uid)
        .map(|p| format!("{}/{}", p.namespace, p.name));
    let subject = Subject::Partition(PartitionKey::Pod(uid));
    let mut own = tally.findings;
    let provenance = scene.provenance;
    if known.is_none() {
        let called = told
            .as_ref()
            .map_or_else(String::new, |t| format!(" (the runtime calls it {t})"));
        findings.push(
            Finding::fail(
                Rule::V8,
                Subject::Node,
                format!("pod {uid}{called} is in no policy"),
            )
            .found(uid)
            .resting_on(provenance),
        );
        own.push(Finding::fail(Rule::V8, subject, "no policy knows this pod").resting_on(provenance));
    }
    let mut waits = false;
    if predates && known.is_some() {
        match scene.policy.file.predating_pods {
            PredatingPods::Report => waits = true,
            PredatingPods::Trust => own.push(Finding::tolerated(
                Rule::V8,
                subject,
                "the pod is older than the collector; judged by what was seen since, as the policy says",
            )),
            PredatingPods::Untrust => {
                own.push(Finding::fail(
                    Rule::V8,
                    subject,
                    "the pod is older than the collector, which the policy does not accept",
                ));
            }
        }
    }
    own.accept(scene.accepted);
    let fails = own.has_failure();
    let state = match (known.is_some(), fails, waits) {
        (false, ..) => State::Unknown,
        (true, true, _) => State::Untrusted,
        (true, false, true) => State::PredatesCollector,
        (true, false, false) => State::Trusted,
    };
    PodVerdict {
        uid,
        name: known.map(|k| k.pod.name.clone()),
        told,
        state,
        entries: tally.entries,
        executions: tally.executions,
        suspect: tally.suspect,
        provenance,
        learned: tally.learned,
        files: tally.files,
        fnf: tally.deviations.fnf,
        filehash_err: tally.deviations.filehash_err,
        excluded: tally.deviations.excluded,
        findings: own.into_vec(),
    }
}

/// V11: the collector and the IMA policy stand in the list with accepted contents before checkpoint 1.
pub(crate) fn foundations(scene: &Scene<'_>, findings: &mut Findings) {
    let accept = &scene.policy.file.accept;
    let until = scene
        .chain
        .anchors
        .get(1)
        .copied()
        .flatten()
        .unwrap_or(scene.covered)
        .min(scene.covered);
    let before = || scene.lines.iter().take(until).filter(|line| !line.violation);
    let collector = before().find_map(|line| {
        let digest = line.file.as_ref()?;
        let here = line.path == Some(accept.collector.as_bytes());
        (here
            && scene
                .policy
                .judge_host(accept.collector.as_bytes(), digest)
                .is_accepted())
        .then_some(())
    });
    if collector.is_none() {
        findings.push(
            Finding::fail(
                Rule::V11,
                Subject::Node,
                "the collector's executable does not stand in the list with an accepted hash before checkpoint 1",
            )
            .at_path(accept.collector.as_bytes()),
        );
    }
    if !before().any(|line| {
        line.file
            .as_ref()
            .is_some_and(|digest| accept.ima_policies.contains(digest))
    }) {
        let finding = Finding::fail(
            Rule::V11,
            Subject::Node,
            "no accepted IMA policy stands in the list before checkpoint 1",
        );
        findings.push(accept.ima_policies.iter().fold(finding, Finding::expected));
    }
}
