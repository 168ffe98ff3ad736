//! V8, V9, V11 and V12, and of V6 what a pod lost: what each partition ran is what its policy accepts.
//!
//! Promise: every record and every covered entry is judged by the partition it belongs to, an entry once for each record
//! that joined it; an entry that nobody could be found for is judged as the host's. Not here: whether the records and the
//! list are to be believed at all (the rules V1 to V7).

use super::{
    boot::BOOT_AGGREGATE,
    finding::{Finding, Findings, Rule, Severity, Subject},
    join::Owned,
    opaque,
    scene::{Opinion, Scene},
    tally::{Deviations, Seen, Tally, rule_of, unhashed},
    verdict::{Deviation, LeftOut, MAX_LISTED, PodVerdict, State},
    view::Line,
};
use crate::accept::Acceptances;
use crate::text::foreign;
use cgpath_evidence::{
    Digest, EventKind, FileHash, PartitionKey, PodInfo, PodUid, Provenance, Record,
    cgroup::partition_of,
    list::{as_listed, unescaped},
};
use cgpath_policy::{Judgement, Name, Policy, PredatingPods};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What all partitions used, as far as it was seen.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    tallies: BTreeMap<PartitionKey, Tally>,
    files: Files,
    foundations: Foundations,
    /// Entries that should name a cgroup themselves and do not.
    untagged: u64,
    /// Records that our programs never write.
    malformed: Findings,
}

/// A file by its device and inode number, as records have them.
type File = (u64, u64);

/// Which partitions executed or mapped which file, and what files were changed while in use.
#[derive(Debug, Default)]
struct Files {
    users: HashMap<File, BTreeSet<PartitionKey>>,
    violated: HashMap<File, Vec<Violation>>,
}

/// A violation that a record names.
#[derive(Debug, Clone)]
struct Violation {
    by: PartitionKey,
    path: Vec<u8>,
    index: Option<usize>,
    seq: u64,
}

impl Violation {
    fn of(by: PartitionKey, record: &Record, index: Option<usize>) -> Violation {
        Violation {
            by,
            path: record.path.clone(),
            index,
            seq: record.seq,
        }
    }
}

/// What the judgement of all partitions gave.
pub(crate) struct Concluded {
    pub pods: Vec<PodVerdict>,
    pub suspect: u64,
    pub learned: bool,
    /// Of `host`, `boot` and `unattributed`.
    pub node: Listed,
}

/// A content that a partition used.
#[derive(Clone, Copy)]
struct Use<'a> {
    key: PartitionKey,
    name: Name<'a>,
    digest: Option<&'a Digest>,
    index: Option<usize>,
    seq: Option<u64>,
    is_execution: bool,
    provenance: Provenance,
}

/// Charges contents to partitions.
struct Judge<'j, 'a> {
    scene: &'j Scene<'a>,
    tallies: &'j mut BTreeMap<PartitionKey, Tally>,
    /// What a partition begins with that is not among `tallies` yet.
    base: &'j BTreeMap<PartitionKey, Tally>,
}

/// Records whose contents one thread judges at a time.
const BATCH: usize = 1024;

impl Judged {
    /// Records that are new, and entries that are older than the load.
    pub(crate) fn step<'a>(&mut self, scene: &Scene<'a>, records: &[Owned<'a>]) {
        // Looking up what the policy says is most of the work, and needs nothing but the content.
        let looked: Vec<Looked> = records
            .par_chunks(BATCH)
            .enumerate()
            .map(|(n, batch)| look(scene, n * BATCH, batch))
            .collect();
        let none = BTreeMap::new();
        let mut judge = Judge {
            scene,
            tallies: &mut self.tallies,
            base: &none,
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
        self.changed(scene, records);
        self.malformed(records);
        self.foundations.step(scene);
    }

    /// What tells of a loss says what was lost, and nothing else does.
    fn malformed(&mut self, records: &[Owned<'_>]) {
        let is_odd =
            |(_, record): &&Owned<'_>| (record.kind == EventKind::PodLoss) != record.pod_loss.is_some();
        let odd: Vec<&Owned<'_>> = records.par_iter().with_min_len(BATCH).filter(is_odd).collect();
        for (_, record) in odd {
            let text = match record.pod_loss {
                None => "a record of a pod's loss does not say what was lost",
                Some(_) => "a record of another kind tells of a pod's loss",
            };
            let finding = Finding::fail(Rule::V6, Subject::Node, text).at_seq(record.seq);
            self.malformed.push(finding.resting_on(Provenance::Observed));
        }
    }

    /// The same for a list whose entries carry their cgroup themselves: there are no records to go by.
    pub(crate) fn step_attested(&mut self, scene: &Scene<'_>) {
        let none = BTreeMap::new();
        let mut judge = Judge {
            scene,
            tallies: &mut self.tallies,
            base: &none,
        };
        self.untagged += judge.attested();
        self.foundations.step(scene);
    }

    /// Who uses a file that was changed while it was in use runs what nobody measured, whoever wrote it.
    fn changed(&mut self, scene: &Scene<'_>, records: &[Owned<'_>]) {
        let is_of_file =
            |(_, record): &Owned<'_>| record.is_execution() || record.kind == EventKind::Violation;
        let concerned = records.par_iter().enumerate().with_min_len(BATCH);
        let concerned: Vec<usize> = concerned
            .filter(|(_, owned)| is_of_file(owned))
            .map(|(place, _)| place)
            .collect();
        for place in concerned {
            let Some((key, record)) = records.get(place) else {
                continue;
            };
            let file: File = (record.dev, record.ino);
            if record.kind == EventKind::Violation {
                if record.ret != 0 {
                    continue;
                }
                let violation = Violation::of(*key, record, scene.joins.entry_of(place));
                for user in self.files.users.get(&file).into_iter().flatten() {
                    self.tallies.entry(*user).or_default().hit(*user, &violation);
                }
                self.files.violated.entry(file).or_default().push(violation);
                continue;
            }
            let users = self.files.users.entry(file).or_default();
            // Whoever uses it by a permitted name takes whatever it holds; by another name somebody else may not.
            let is_user =
                !users.contains(key) && !scene.policy.permits_violation(&record.path) && users.insert(*key);
            if is_user {
                for violation in self.files.violated.get(&file).into_iter().flatten() {
                    self.tallies.entry(*key).or_default().hit(*key, violation);
                }
            }
        }
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        let tallies: usize = self.tallies.values().map(Tally::weight).sum();
        tallies + self.files.users.len() * 96
    }
}

impl Tally {
    /// A file that this partition uses was changed by somebody.
    fn hit(&mut self, key: PartitionKey, violation: &Violation) {
        if violation.by == key {
            return;
        }
        let mut finding = Finding::fail(
            Rule::V12,
            Subject::Partition(key),
            "violation: a file that was executed or mapped here was changed while it was measured, by what another partition did",
        )
        .at_path(&violation.path)
        .at_seq(violation.seq)
        .found(format!("recorded in {}", violation.by))
        .resting_on(Provenance::Observed);
        finding.index = violation.index.map(|index| index as u64);
        self.say_changed(finding);
    }
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
            let opinion = content.map(|(name, digest)| scene.opinion(key, name, digest));
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

impl<'a> Judge<'_, 'a> {
    fn tally(&mut self, key: PartitionKey) -> &mut Tally {
        let base = self.base;
        let begin = || base.get(&key).cloned().unwrap_or_default();
        self.tallies.entry(key).or_insert_with(begin)
    }

    /// Entries that carry their cgroup themselves; gives how many carry none.
    fn attested(&mut self) -> u64 {
        let scene = self.scene;
        let mut untagged = 0;
        for index in scene.lines.first()..scene.covered {
            let Some(line) = scene.line(index) else { continue };
            let path = line.path.unwrap_or_default();
            if line.violation {
                // A violation's template data is bound by nothing, so its cgroup names nobody.
                self.violation(PartitionKey::Unattributed, path, Some(index), None);
                continue;
            }
            if index == 0 && line.path == Some(BOOT_AGGREGATE) {
                continue;
            }
            let key = partition_of(line.cgroup.as_deref());
            untagged += u64::from(key == PartitionKey::Unattributed);
            self.cgroup(key, line.cgroup.as_deref());
            if let PartitionKey::Pod(_) = key {
                let dep = line.dep.unwrap_or_default();
                let mut exes = dep.split(|b| *b == b':');
                if !exes.any(|exe| scene.policy.is_runtime(&unescaped(exe))) {
                    self.suspect(key, dep, path, Some(index), None, Provenance::Attested);
                }
            }
            self.entry(key, index, line, None, Provenance::Attested, None);
        }
        untagged
    }

    /// Entries older than the load are the host's to answer for.
    fn boot(&mut self) {
        let scene = self.scene;
        for index in scene.lines.first()..scene.chain.boot_len().min(scene.covered) {
            let Some(line) = scene.line(index) else { continue };
            let path = line.path.unwrap_or_default();
            if line.violation {
                self.violation(PartitionKey::Boot, path, Some(index), None);
                continue;
            }
            // The first entry is rule V10's. After a kexec that is accepted the new kernel adds another one, and the
            // checkpoints of the boot before were judged in their time.
            let after_kexec = scene.kexecs.first().is_some_and(|first| index >= *first);
            let aggregate = path == BOOT_AGGREGATE && (index == 0 || after_kexec);
            let before_kexec = scene.kexecs.last().is_some_and(|last| index < *last);
            if aggregate || (before_kexec && scene.was_checkpoint(index, path)) {
                continue;
            }
            let opinion = line.file.as_ref().filter(|_| before_kexec);
            let opinion = opinion.map(|digest| scene.opinion_of_boot_before(Name::Listed(path), digest));
            self.entry(
                PartitionKey::Boot,
                index,
                line,
                None,
                Provenance::Attested,
                opinion,
            );
        }
    }

    /// How a pod's UID is written in its cgroup's path.
    fn cgroup(&mut self, key: PartitionKey, path: Option<&[u8]>) {
        if let (PartitionKey::Pod(uid), Some(path)) = (key, path) {
            self.tally(key)
                .undashed
                .get_or_insert_with(|| uid.is_undashed_in(path));
        }
    }

    /// A record of a pod without a container runtime among its ancestors.
    fn lineage(&mut self, key: PartitionKey, record: &Record) {
        let is_runtime = |process: &cgpath_evidence::Ancestor| self.scene.policy.is_runtime(&process.exe);
        if let PartitionKey::Pod(_) = key
            && !record.ancestry.iter().any(is_runtime)
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
    }

    fn record(&mut self, place: usize, key: PartitionKey, record: &'a Record, opinion: Option<Opinion>) {
        let scene = self.scene;
        self.cgroup(key, record.cgroup.as_deref());
        // Nobody's deed: there is no process to be suspect.
        if record.kind != EventKind::PodLoss {
            self.lineage(key, record);
        }
        match record.kind {
            EventKind::PodLoss => {
                let tally = self.tally(key);
                if let Some(loss) = record.pod_loss {
                    tally.lost(loss, record.seq);
                }
            }
            EventKind::Violation => {
                let index = scene.joins.entry_of(place);
                self.violation(key, &record.path, index, Some(record.seq));
            }
            EventKind::Entry => match scene.joins.entry_of(place) {
                Some(index) => {
                    if let Some(line) = scene.line(index) {
                        self.recorded(key, index, line, record, opinion);
                    }
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
                        Some(FileHash::Unhashed(error)) => unhashed(*error),
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
                    name: Name::True(&record.path),
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

    /// An entry by its record.
    fn recorded(
        &mut self,
        key: PartitionKey,
        index: usize,
        line: &Line<'_>,
        record: &Record,
        opinion: Option<Opinion>,
    ) {
        // An entry that says itself whose it is needs no record for that; both agree, or V5 failed.
        let provenance = if line.cgroup.is_some() {
            Provenance::Attested
        } else {
            Provenance::Observed
        };
        self.entry(key, index, line, Some(record.seq), provenance, opinion);
    }

    /// `opinion` is what the policy says of it, where that was looked up already.
    fn entry(
        &mut self,
        key: PartitionKey,
        index: usize,
        line: &Line<'_>,
        seq: Option<u64>,
        provenance: Provenance,
        opinion: Option<Opinion>,
    ) {
        self.tally(key).entries += 1;
        let path = line.path.unwrap_or_default();
        if self.scene.is_checkpoint(key, index, line) {
            return;
        }
        let used = Use {
            key,
            name: Name::Listed(path),
            digest: line.file.as_ref(),
            index: Some(index),
            seq,
            is_execution: false,
            provenance,
        };
        self.content(used, opinion);
    }

    /// Charges one content to its partition.
    fn content(&mut self, used: Use<'_>, opinion: Option<Opinion>) {
        let policy = self.scene.policy;
        if let Some(finding) = opaque::finding(policy, used.key, used.name.bytes()) {
            self.tally(used.key).say_opaque(place(finding, &used));
        }
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
        let judgement = match opinion.unwrap_or_else(|| self.scene.opinion(used.key, used.name, digest)) {
            Opinion::Excluded => {
                self.tally(used.key)
                    .saw(used.name.bytes(), Some(digest), used.is_execution, Seen::Excluded);
                return;
            }
            // It is reported as such (V8): nothing can be expected of its files.
            Opinion::Nothing => {
                self.tally(used.key)
                    .saw(used.name.bytes(), Some(digest), used.is_execution, Seen::Refused);
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
            tally.saw(used.name.bytes(), Some(digest), used.is_execution, seen);
        }
        if let Some(finding) = finding {
            let finding = place(finding.found(digest), &used);
            self.tally(used.key).say(finding);
        }
    }
}

/// Charges pending entries: what is charged may be another thing in the next round.
pub(crate) struct Late<'j, 'a> {
    scene: &'j Scene<'a>,
    base: &'j Judged,
    /// The partitions that have any, with what they used before.
    pub tallies: BTreeMap<PartitionKey, Tally>,
}

impl<'j, 'a> Late<'j, 'a> {
    pub(crate) fn new(scene: &'j Scene<'a>, base: &'j Judged) -> Late<'j, 'a> {
        Late {
            scene,
            base,
            tallies: BTreeMap::new(),
        }
    }

    fn judge(&mut self) -> Judge<'_, 'a> {
        Judge {
            scene: self.scene,
            tallies: &mut self.tallies,
            base: &self.base.tallies,
        }
    }

    /// An entry whose record is not sealed yet.
    pub(crate) fn unsealed(&mut self, key: PartitionKey, index: usize, line: &Line<'_>, record: &Record) {
        let mut judge = self.judge();
        judge.lineage(key, record);
        if record.kind == EventKind::Violation {
            judge.violation(key, &record.path, Some(index), Some(record.seq));
            self.changed(key, index, record);
        } else {
            judge.recorded(key, index, line, record, None);
        }
    }

    /// Who used a file before is judged for it as soon as the write is shown, as [`Judged::changed`] does once it is sealed.
    fn changed(&mut self, by: PartitionKey, index: usize, record: &Record) {
        let violation = Violation::of(by, record, Some(index));
        let base = self.base;
        let users = base.files.users.get(&(record.dev, record.ino));
        for user in users.into_iter().flatten() {
            self.judge().tally(*user).hit(*user, &violation);
        }
    }

    /// An entry that nobody is known for.
    pub(crate) fn unattributed(&mut self, index: usize, line: &Line<'_>) {
        self.judge().entry(
            PartitionKey::Unattributed,
            index,
            line,
            None,
            Provenance::Attested,
            None,
        );
    }

    pub(crate) fn say(&mut self, key: PartitionKey, finding: Finding) {
        self.judge().tally(key).say(finding);
    }
}

/// What the verdict on pods needs beside what they used.
pub(crate) struct Names<'a> {
    pub told: &'a [PodInfo],
    pub predating: &'a [PodUid],
    pub provenance: Provenance,
    pub policy: &'a Policy,
    pub accepted: &'a Acceptances<'a>,
}

impl Judged {
    /// Entries that carry no cgroup where each has to.
    pub(crate) fn untagged(&self, policy: &Policy, findings: &mut Findings) -> u64 {
        let tolerance = policy.file.tolerance.unattributed;
        if self.untagged > 0 {
            let subject = Subject::Partition(PartitionKey::Unattributed);
            let finding = Finding::fail(Rule::V5, subject, "entries carry no usable cgroup path")
                .found(self.untagged)
                .expected(format!("at most {tolerance}"));
            let severity = if self.untagged > tolerance {
                Severity::Fail
            } else {
                Severity::Tolerated
            };
            findings.push(Finding { severity, ..finding });
        }
        self.untagged
    }

    pub(crate) fn foundations(&self, policy: &Policy, findings: &mut Findings) {
        self.foundations.conclude(policy, findings);
    }

    /// The verdicts on all pods, and what is to be said of the other partitions. `late` stands for those partitions that
    /// have pending entries.
    pub(crate) fn conclude(
        &self,
        late: &BTreeMap<PartitionKey, Tally>,
        names: &Names<'_>,
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
            concluded.pods.push(pod(names, uid, tally, predates, findings));
        }
        for key in keys.iter().filter(|key| !matches!(key, PartitionKey::Pod(_))) {
            let Some(tally) = tally(*key) else { continue };
            findings.absorb(&tally.findings);
            findings.absorb(&tally.changed);
            findings.extend(tally.excluded(*key));
            findings.extend(tally.loss(*key));
            concluded.node.add(&tally.deviations);
        }
        findings.absorb(&self.malformed);
        concluded
    }
}

fn place(finding: Finding, used: &Use<'_>) -> Finding {
    let mut finding = finding.at_path(used.name.bytes()).resting_on(used.provenance);
    finding.index = used.index.map(|i| i as u64);
    finding.seq = used.seq;
    finding
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

/// The verdict on one pod. An unknown one is the node's failure too, by name.
fn pod(names: &Names<'_>, uid: PodUid, tally: &Tally, predates: bool, findings: &mut Findings) -> PodVerdict {
    let known = names.policy.pods.get(&uid);
    let in_policy = || known.is_some_and(|known| known.pod.is_undashed);
    let undashed = tally.undashed.unwrap_or_else(in_policy);
    let told = names
        .told
        .iter()
        .find(|p| p.uid == uid)
        .map(|p| format!("{}/{}", p.namespace, p.name));
    let key = PartitionKey::Pod(uid);
    let subject = Subject::Partition(key);
    let mut own = tally.findings.clone();
    own.absorb(&tally.changed);
    own.extend(tally.excluded(key));
    own.extend(tally.loss(key));
    own.extend(tally.opaque());
    let provenance = names.provenance;
    if known.is_none() {
        let called = told
            .as_ref()
            .map_or_else(String::new, |t| format!(" (the runtime calls it {t})"));
        findings.push(
            Finding::fail(
                Rule::V8,
                Subject::Node,
                format!("pod {}{called} is in no policy", uid.shown(undashed)),
            )
            .found(uid)
            .resting_on(provenance),
        );
        own.push(Finding::fail(Rule::V8, subject, "no policy knows this pod").resting_on(provenance));
    }
    let mut waits = false;
    if predates && known.is_some() {
        match names.policy.file.predating_pods {
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
    own.accept(names.accepted);
    let fails = own.has_failure();
    let state = match (known.is_some(), fails, waits) {
        (false, ..) => State::Unknown,
        (true, true, _) => State::Untrusted,
        (true, false, true) => State::PredatesCollector,
        (true, false, false) => State::Trusted,
    };
    let mut listed = Listed::default();
    listed.add(&tally.deviations);
    let mut files = Vec::new();
    list(&mut files, &tally.files, &mut listed.left_out.files);
    PodVerdict {
        uid,
        undashed,
        name: known.map(|k| k.pod.name.clone()),
        told,
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
        findings: own.into_vec(),
    }
}

/// V11: the collector and the IMA policy stand in the list with accepted contents before checkpoint 1.
#[derive(Debug, Default)]
struct Foundations {
    has_collector: bool,
    has_policy: bool,
    /// Checkpoint 1 was passed: what comes later is no foundation.
    is_over: bool,
}

impl Foundations {
    fn step(&mut self, scene: &Scene<'_>) {
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

    fn conclude(&self, policy: &Policy, findings: &mut Findings) {
        let accept = &policy.file.accept;
        if !self.has_collector {
            findings.push(
                Finding::fail(
                    Rule::V11,
                    Subject::Node,
                    "the collector's executable does not stand in the list with an accepted hash before checkpoint 1",
                )
                .at_path(accept.collector.as_bytes()),
            );
        }
        if !self.has_policy {
            let finding = Finding::fail(
                Rule::V11,
                Subject::Node,
                "no accepted IMA policy stands in the list before checkpoint 1",
            );
            findings.push(accept.ima_policies.iter().fold(finding, Finding::expected));
        }
    }
}
