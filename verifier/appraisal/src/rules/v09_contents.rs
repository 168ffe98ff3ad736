//! V9, and of V11 what the host ran: the contents that each partition used are those that its policy accepts.
//!
//! Promise: every record and every covered entry is judged by the partition it belongs to, an entry once for
//! each record that joined it; an entry that nobody could be found for is judged as the host's. Not here:
//! whether the records and the list are to be believed at all (the rules V1 to V7).

use crate::inputs::decoded::{BOOT_AGGREGATE, Line};
use crate::results::finding::{Finding, Findings, Severity, Subject};
use crate::rules::names::Part;
use crate::rules::opinion::{Opinion, Scene};
use crate::rules::partition::{Seen, Tally};
use crate::rules::uses::{Use as FirstUse, Uses};
use crate::rules::v05_join::{BATCH, Owned};
use crate::rules::v11_foundations::Foundations;
use crate::rules::v12_violations::{self, Files, Violation};
use crate::rules::{Rule, v06_losses, v09_file_systems, v09_opaque, v09_shared_memory, v09_writable};
use crate::text::foreign;
use cgpath_evidence::{
    Digest, EventKind, FileHash, PartitionKey, Provenance, Record, cgroup::partition_of, list::unescaped,
};
use cgpath_policy::{ContentMatch, Name, Policy};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What all partitions used, as far as it was seen.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(super) tallies: BTreeMap<PartitionKey, Tally>,
    files: Files,
    foundations: Foundations,
    /// Entries that should name a cgroup themselves and do not.
    untagged: u64,
    /// Records that our programs never write.
    pub(super) malformed: Findings,
}

/// A content that a partition used.
#[derive(Clone, Copy)]
struct Use<'a> {
    key: PartitionKey,
    name: Name<'a>,
    digest: Option<&'a Digest>,
    /// Of the process that used it.
    cgroup: Option<&'a [u8]>,
    index: Option<usize>,
    seq: Option<u64>,
    is_execution: bool,
    path_cut: bool,
    provenance: Provenance,
}

/// Charges contents to partitions.
struct Charging<'j, 'a> {
    scene: &'j Scene<'a>,
    tallies: &'j mut BTreeMap<PartitionKey, Tally>,
    /// What a partition begins with that is not among `tallies` yet.
    base: &'j BTreeMap<PartitionKey, Tally>,
}

impl Usage {
    /// Records that are new, and entries that are older than the load.
    pub(crate) fn step<'a>(&mut self, scene: &Scene<'a>, records: &[Owned<'a>]) {
        // Looking up what the policy says is most of the work, and needs nothing but the content.
        let looked: Vec<Looked> = records
            .par_chunks(BATCH)
            .enumerate()
            .map(|(n, batch)| look(scene, n * BATCH, batch))
            .collect();
        let none = BTreeMap::new();
        let mut charging = Charging {
            scene,
            tallies: &mut self.tallies,
            base: &none,
        };
        charging.boot();
        for Looked { plain, rest } in looked {
            if plain.entries + plain.executions > 0 {
                let tally = charging.tally(PartitionKey::Host);
                tally.entries += plain.entries;
                tally.executions += plain.executions;
                tally.learned |= plain.learned;
            }
            for (place, opinion) in rest {
                if let Some((key, record)) = records.get(place) {
                    charging.record(place, *key, record, opinion);
                }
            }
        }
        self.files.step(scene, records, &mut self.tallies);
        v06_losses::malformed(records, &mut self.malformed);
        self.foundations.step(scene);
    }

    /// The same for a list whose entries carry their cgroup themselves: there are no records to go by.
    pub(crate) fn step_attested(&mut self, scene: &Scene<'_>) {
        let none = BTreeMap::new();
        let mut charging = Charging {
            scene,
            tallies: &mut self.tallies,
            base: &none,
        };
        self.untagged += charging.attested();
        self.foundations.step(scene);
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        let tallies: usize = self.tallies.values().map(Tally::weight).sum();
        tallies + self.files.weight()
    }
}

/// Whether a record says more of its file than its content, for which it is looked at by itself.
fn says_of_file(record: &Record) -> bool {
    let is_written = record
        .identity
        .as_deref()
        .is_some_and(|identity| identity.written);
    is_written || record.writable || v09_file_systems::foreign(record).is_some()
}

/// Records of the host that are only counted: their contents are accepted.
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
                Some(Opinion::LookedUp {
                    matched: ContentMatch::Accepted { learned, .. },
                    gave_up: false,
                }) if key == PartitionKey::Host && !record.path_cut && !says_of_file(record) => {
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

impl<'a> Charging<'_, 'a> {
    fn tally(&mut self, key: PartitionKey) -> &mut Tally {
        let base = self.base;
        let begin = || base.get(&key).cloned().unwrap_or_default();
        self.tallies.entry(key).or_insert_with(begin)
    }

    /// What the part of a pod used that this cgroup is of.
    fn part(&mut self, key: PartitionKey, cgroup: Option<&[u8]>) -> &mut Uses {
        let parts = Arc::make_mut(&mut self.tally(key).parts);
        parts.entry(Part::of(cgroup)).or_default()
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
            // The first entry is rule V10's. After a kexec that is accepted the new kernel adds another one,
            // and the checkpoints of the boot before were judged in their time.
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

    /// A record of a pod with a program among its ancestors that runs others out of the kernel's sight, or
    /// without a container runtime.
    fn lineage(&mut self, key: PartitionKey, record: &Record) {
        let PartitionKey::Pod(_) = key else { return };
        let policy = self.scene.policy;
        let mut above = record.ancestry.iter();
        if let Some(process) = above.find(|process| cgpath_policy::is_opaque(&process.exe)) {
            if policy.workloads.is_some() {
                // Whether it is trusted is said of the container.
                self.part(key, record.cgroup.as_deref())
                    .ran_below(&process.exe, record.seq);
            } else if let Some(finding) = v09_opaque::finding(policy, key, &process.exe) {
                let finding = finding.at_path(&process.exe).at_seq(record.seq);
                self.tally(key)
                    .say_opaque(finding.resting_on(Provenance::Observed));
            }
        }
        let is_runtime = |process: &cgpath_evidence::Ancestor| self.scene.policy.is_runtime(&process.exe);
        if !record.ancestry.iter().any(is_runtime) {
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

    /// What file it is and how it is mapped, beside its content.
    fn file(&mut self, key: PartitionKey, record: &Record) {
        let policy = self.scene.policy;
        let found = [
            v09_file_systems::finding(policy, key, record),
            v09_writable::finding(key, record),
            v12_violations::below_overlay(policy, key, record),
        ];
        for finding in found.into_iter().flatten() {
            self.tally(key).say(finding);
        }
    }

    /// A late mapping of shared memory without a name. Gives whether it was counted, and is no finding of its
    /// own.
    fn shared_memory(&mut self, key: PartitionKey, record: &Record) -> bool {
        let PartitionKey::Pod(uid) = key else {
            return false;
        };
        let policy = self.scene.policy;
        if policy.workloads.is_some() {
            // Whether it is trusted is said of the container.
            self.part(key, record.cgroup.as_deref()).shared_memory.add(record);
            return true;
        }
        let is_trusted = policy.trusts_shared_memory_code(&uid);
        if is_trusted {
            self.tally(key).shared_memory.add(record);
        }
        is_trusted
    }

    fn record(&mut self, place: usize, key: PartitionKey, record: &'a Record, opinion: Option<Opinion>) {
        let scene = self.scene;
        self.cgroup(key, record.cgroup.as_deref());
        self.file(key, record);
        // A loss and a name are not of one process: there is none to be suspect.
        if !matches!(record.kind, EventKind::PodLoss | EventKind::Name) {
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
                        Rule::of_contents(key),
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
            // Judged by V14, V12, V8 and V11; here they only tell that the partition is there.
            EventKind::Name => {
                self.tally(key);
            }
            EventKind::Guard | EventKind::LayerWrite | EventKind::Load => self.tally(key).acted = true,
            EventKind::Execution | EventKind::Script | EventKind::Mapping | EventKind::LateMapping => {
                self.tally(key).executions += 1;
                let is_memory = v09_shared_memory::is_it(record);
                if is_memory && self.shared_memory(key, record) {
                    return;
                }
                let digest = record.hash.as_ref().and_then(FileHash::digest);
                if digest.is_none() {
                    let error = match &record.hash {
                        Some(FileHash::Unhashed(error)) => unhashed(*error),
                        _ => "no hash".to_owned(),
                    };
                    let finding = Finding::fail(
                        Rule::of_contents(key),
                        Subject::Partition(key),
                        "what was executed has no hash to judge it by",
                    )
                    .at_path(&record.path)
                    .at_seq(record.seq)
                    .found(error)
                    .resting_on(Provenance::Observed);
                    let is_pods = matches!(key, PartitionKey::Pod(_));
                    let finding = match is_memory && is_pods {
                        true => finding.expected(v09_shared_memory::KEY),
                        false => finding,
                    };
                    let tally = self.tally(key);
                    tally.say(finding);
                    tally.saw(&record.path, None, true, Seen::Refused);
                    return;
                }
                if record.path_cut {
                    let finding = Finding::fail(
                        Rule::of_contents(key),
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
                    cgroup: record.cgroup.as_deref(),
                    index: None,
                    seq: Some(record.seq),
                    is_execution: true,
                    path_cut: record.path_cut,
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
        let finding = Finding::fail(
            Rule::PodContents,
            Subject::Partition(key),
            "suspect: it ran in the pod's cgroup and no container runtime is among its ancestors",
        )
        .at_path(path)
        .at(index, seq)
        .found(format!("process {}", foreign(exe)))
        .resting_on(provenance);
        let tally = self.tally(key);
        tally.suspect += 1;
        tally.say(finding);
    }

    fn violation(&mut self, key: PartitionKey, path: &[u8], index: Option<usize>, seq: Option<u64>) {
        let permitted = self.scene.policy.permits_violation(path);
        let subject = Subject::Partition(key);
        let text = "violation: the file was written while it was measured, so its hash says nothing";
        let finding = if permitted {
            Finding::tolerated(Rule::Violations, subject, text)
        } else {
            Finding::fail(Rule::Violations, subject, text)
        };
        let finding = finding.at_path(path).at(index, seq);
        let finding = finding.resting_on(Provenance::Observed);
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
        self.entry(key, index, line, Some(record), provenance, opinion);
    }

    /// `opinion` is what the policy says of it, where that was looked up already.
    fn entry(
        &mut self,
        key: PartitionKey,
        index: usize,
        line: &Line<'_>,
        record: Option<&Record>,
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
            cgroup: record.map_or(line.cgroup.as_deref(), |record| record.cgroup.as_deref()),
            index: Some(index),
            seq: record.map(|record| record.seq),
            is_execution: false,
            path_cut: false,
            provenance,
        };
        self.content(used, opinion);
    }

    /// Charges one content to its partition.
    fn content(&mut self, used: Use<'_>, opinion: Option<Opinion>) {
        let policy = self.scene.policy;
        if policy.workloads.is_some() && matches!(used.key, PartitionKey::Pod(_)) {
            // Whose values count there is a question of names, which may come later (see `v08_workloads`).
            let mut first = FirstUse::first(used.index, used.seq, used.provenance);
            first.path_cut = used.path_cut;
            let part = self.part(used.key, used.cgroup);
            return part.add(used.name, used.digest, used.is_execution, first);
        }
        if let Some(finding) = v09_opaque::finding(policy, used.key, used.name.bytes()) {
            self.tally(used.key).say_opaque(place(finding, &used));
        }
        let Some(digest) = used.digest else {
            let finding = place(without_hash(used.key, ""), &used);
            self.tally(used.key).say(finding);
            return;
        };
        let matched = match opinion.unwrap_or_else(|| self.scene.opinion(used.key, used.name, digest)) {
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
            Opinion::LookedUp { matched, gave_up } => {
                if gave_up {
                    let finding = place(undecided(used.key, ""), &used);
                    self.tally(used.key).say(finding);
                }
                matched
            }
        };
        let elsewhere = || match used.key {
            PartitionKey::Pod(uid) => {
                let pod = policy.pods.get(&uid);
                pod.map(|pod| pod.allowed.paths_of(digest)).unwrap_or_default()
            }
            _ => policy.host.paths_of(digest),
        };
        let (seen, finding) = of_match(used.key, "", &matched, elsewhere);
        let is_pod = matches!(used.key, PartitionKey::Pod(_));
        let tally = self.tally(used.key);
        if let ContentMatch::Accepted { learned, .. } = matched {
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

/// What to say of an entry without a hash; `label` stands before the text.
pub(crate) fn without_hash(key: PartitionKey, label: &str) -> Finding {
    let text = format!("{label}the entry carries no file hash to judge it by");
    Finding::fail(Rule::of_contents(key), Subject::Partition(key), text)
}

/// What to say where it was not found out whether an exclude hides a path; `label` stands before the text.
pub(crate) fn undecided(key: PartitionKey, label: &str) -> Finding {
    let text = "whether an exclude hides this path takes too many steps to find out: it is judged";
    Finding::note(
        Rule::of_contents(key),
        Subject::Partition(key),
        format!("{label}{text}"),
    )
}

/// What to say of a content, by what the policy says of it; `label` stands before the text. `elsewhere` are
/// paths at which it would be accepted.
pub(crate) fn of_match<'p>(
    key: PartitionKey,
    label: &str,
    matched: &ContentMatch,
    elsewhere: impl FnOnce() -> Vec<&'p [u8]>,
) -> (Seen, Option<Finding>) {
    let fail = |text| {
        Finding::fail(
            Rule::of_contents(key),
            Subject::Partition(key),
            format!("{label}{text}"),
        )
    };
    match matched {
        ContentMatch::Accepted { .. } => (Seen::Accepted, None),
        ContentMatch::UnknownPath => {
            let finding = fail("no reference value has a file at this path");
            let paths = elsewhere().into_iter().take(3);
            let finding = paths.fold(finding, |finding, path| {
                finding.expected(format!("this content at {}", foreign(path)))
            });
            (Seen::UnknownPath, Some(finding))
        }
        ContentMatch::WrongHash { expected } => {
            let finding = fail("the file's content is not the one that the policy accepts");
            (
                Seen::WrongHash,
                Some(expected.iter().fold(finding, Finding::expected)),
            )
        }
    }
}

/// Charges pending entries: what is charged may be another thing in the next round.
pub(crate) struct Late<'j, 'a> {
    scene: &'j Scene<'a>,
    base: &'j Usage,
    /// The partitions that have any, with what they used before.
    pub tallies: BTreeMap<PartitionKey, Tally>,
}

impl<'j, 'a> Late<'j, 'a> {
    pub(crate) fn new(scene: &'j Scene<'a>, base: &'j Usage) -> Late<'j, 'a> {
        Late {
            scene,
            base,
            tallies: BTreeMap::new(),
        }
    }

    fn charging(&mut self) -> Charging<'_, 'a> {
        Charging {
            scene: self.scene,
            tallies: &mut self.tallies,
            base: &self.base.tallies,
        }
    }

    /// An entry whose record is not sealed yet.
    pub(crate) fn unsealed(&mut self, key: PartitionKey, index: usize, line: &Line<'_>, record: &Record) {
        let mut charging = self.charging();
        charging.lineage(key, record);
        charging.file(key, record);
        if record.kind == EventKind::Violation {
            charging.violation(key, &record.path, Some(index), Some(record.seq));
            self.changed(key, index, record);
        } else {
            charging.recorded(key, index, line, record, None);
        }
    }

    /// Who used a file before is judged for it as soon as the write is shown, as [`Usage::changed`] does
    /// once it is sealed.
    fn changed(&mut self, by: PartitionKey, index: usize, record: &Record) {
        let violation = Violation::of(by, record, Some(index));
        let base = self.base;
        for user in base.files.users(record) {
            self.charging().tally(user).hit(user, &violation);
        }
    }

    /// An entry that nobody is known for.
    pub(crate) fn unattributed(&mut self, index: usize, line: &Line<'_>) {
        self.charging().entry(
            PartitionKey::Unattributed,
            index,
            line,
            None,
            Provenance::Attested,
            None,
        );
    }

    pub(crate) fn say(&mut self, key: PartitionKey, finding: Finding) {
        self.charging().tally(key).say(finding);
    }
}

impl Usage {
    /// Entries that carry no cgroup where each has to.
    pub(crate) fn untagged(&self, policy: &Policy, findings: &mut Findings) -> u64 {
        let tolerance = policy.file.tolerance.unattributed;
        if self.untagged > 0 {
            let subject = Subject::Partition(PartitionKey::Unattributed);
            let finding = Finding::fail(Rule::Records, subject, "entries carry no usable cgroup path")
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

    /// Something of the host was accepted by learned values alone.
    pub(crate) fn learned_on_host(&mut self) {
        self.tallies.entry(PartitionKey::Host).or_default().learned = true;
    }

    pub(crate) fn foundations(&self, policy: &Policy, findings: &mut Findings) {
        self.foundations.conclude(policy, findings);
    }
}

fn place(finding: Finding, used: &Use<'_>) -> Finding {
    let finding = finding.at_path(used.name.bytes()).at(used.index, used.seq);
    finding.resting_on(used.provenance)
}

/// Why the kernel gave no hash, by its error number (include/uapi/asm-generic/errno-base.h, errno.h).
pub(super) fn unhashed(error: i32) -> String {
    let why = match error {
        -27 => ": longer than any file that the node hashes (bpf.max_hash_mib)",
        -66 => ": where a server answers for the file, which the node does not wait for (bpf.hash_served)",
        _ => "",
    };
    format!("no hash, error {error}{why}")
}
