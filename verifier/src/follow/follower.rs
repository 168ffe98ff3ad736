//! What a verifier keeps in memory of a node that it follows, so that a round costs what is new and not what there is.
//!
//! Promise: [`Follower::advance`] gives the verdict that an appraisal of the whole evidence would give, or none. It knows
//! the usual round only: records of what the policy accepts. Whatever else a round holds (a finding, a violation, a loss,
//! a statement that accepts something) is for the appraisal, which then makes a new follower. So every failure is found,
//! worded and placed by one code; the tests compare both over random rounds.

use crate::accept::Accepted;
use crate::appraise::chain::succeeds;
use crate::appraise::coverage::PCR;
use crate::appraise::history::{self, Present, Relation};
use crate::appraise::join::EEXIST;
use crate::appraise::view::{self, Line, View};
use crate::appraise::{
    CheckpointState, Context, ExpectedNonce, Findings, NodeState, PodVerdict, SeenFile, State, Verdict, quote,
};
use evidence::{
    Bank, Digest, Entry, EventKind, Evidence, FileHash, Part, PartitionKey, PodUid, Provenance, Record,
    SealedCheckpoint, Tier,
    boot::Registers,
    cgroup::partition_of,
    checkpoint::number_from_path,
    list::ListEntry,
    partition::Partitions,
    replay::{Fill, Replay},
};
use policy::{Hidden, Judgement, Kexec, Policy};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Stands for entries that the list has twice.
const TWICE: u32 = u32::MAX;

/// The covered entries, as bytes in one piece.
#[derive(Debug, Default)]
struct Entries {
    bytes: Vec<u8>,
    ends: Vec<u64>,
    by_sha1: HashMap<[u8; 20], u32>,
}

impl Entries {
    fn push(&mut self, record: &[u8], sha1: &[u8]) -> Option<u32> {
        let index = u32::try_from(self.ends.len())
            .ok()
            .filter(|index| *index < TWICE)?;
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len() as u64);
        let sha1 = sha1.try_into().ok()?;
        self.by_sha1
            .entry(sha1)
            .and_modify(|at| *at = TWICE)
            .or_insert(index);
        Some(index)
    }

    fn get(&self, index: u32) -> Option<&[u8]> {
        let index = index as usize;
        let end = usize::try_from(*self.ends.get(index)?).ok()?;
        let start = match index.checked_sub(1) {
            Some(before) => usize::try_from(*self.ends.get(before)?).ok()?,
            None => 0,
        };
        self.bytes.get(start..end)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Follower {
    verdict: Verdict,
    tier: Tier,
    boot_len: u64,
    /// PCR 0 to 9: as long as they are these, what was said of the boot holds.
    registers: Vec<Registers>,
    /// Checkpoint 0's key, SEC1.
    key: Vec<u8>,
    last: SealedCheckpoint,
    /// The entry of the last checkpoint's file, and what entries are named like files of later ones.
    anchor: u32,
    early: BTreeMap<u64, u32>,
    partitions: Partitions,
    executions: u64,
    max_seq: u64,
    entries: Entries,
    /// Entries that nobody's record explains yet.
    open: BTreeSet<u32>,
    files: HashMap<(PodUid, Vec<u8>, Digest), usize>,
}

impl Follower {
    /// What is needed to go on from `evidence`, which an appraisal by `policy` gave `verdict`. `None` where each round is for
    /// the appraisal.
    pub fn new(
        evidence: &Evidence,
        verdict: &Verdict,
        policy: &Policy,
        context: &Context,
    ) -> Option<Follower> {
        let state = verdict.state.as_ref()?;
        let is_plain = verdict.accepted.is_empty()
            && verdict.node.unattributed == 0
            && verdict.policy == *policy.digest()
            // A kexec's second boot_aggregate is for the appraisal.
            && context.previous.as_ref().is_none_or(|before| {
                before.boot_id == state.boot_id || policy.file.kexec != Kexec::Allow
            });
        let sealed = |file: &Vec<u8>| SealedCheckpoint::from_file(file).ok();
        let first = sealed(evidence.checkpoints.first()?)?;
        let last = sealed(evidence.checkpoints.last()?)?;
        if !is_plain || evidence.checkpoints.len() < 2 {
            return None;
        }
        let boot_len = first.checkpoint.boot_len;
        let mut follower = Follower {
            verdict: verdict.clone(),
            tier: evidence.tier,
            boot_len,
            registers: evidence.registers().to_vec(),
            key: first.checkpoint.key?,
            anchor: 0,
            early: BTreeMap::new(),
            partitions: Partitions::default(),
            executions: last.checkpoint.executions,
            last,
            max_seq: 0,
            entries: Entries::default(),
            open: BTreeSet::new(),
            files: HashMap::new(),
        };
        let covered = usize::try_from(state.covered).ok()?;
        let mut replay = Replay::resume(PCR, &start(&state.pcrs));
        for entry in evidence.list.get(..covered)? {
            let Entry::Full(record) = entry else { return None };
            let entry = ListEntry::from_canonical(0, record.as_slice()).ok()?;
            replay.push(&entry);
            let index = follower
                .entries
                .push(record, entry.template_digest(Bank::Sha1).bytes())?;
            if u64::from(index) >= boot_len {
                if entry.is_violation() {
                    return None;
                }
                follower.open.insert(index);
                if let Some(number) = entry.file_name().and_then(number_from_path) {
                    follower.named(number, index)?;
                }
            }
        }
        if registers(&replay, &state.pcrs)? != state.pcrs {
            return None;
        }
        follower.anchor = follower.early.get(&follower.last.checkpoint.number).copied()?;
        let number = follower.last.checkpoint.number;
        follower.early.retain(|n, _| *n > number);
        for log in &evidence.partitions {
            for record in &log.records {
                follower.partitions.push(log.key, record.leaf_hash());
                follower.max_seq = follower.max_seq.max(record.seq);
                if record.kind == EventKind::Entry && record.ret == 0 {
                    let index = follower.entries.by_sha1.get(sha1(record)?)?;
                    follower.open.remove(index);
                }
            }
        }
        follower.verdict.state.as_ref()?.checkpoint.as_ref()?;
        for pod in &verdict.pods {
            for (at, file) in pod.files.iter().enumerate() {
                if let Some(digest) = &file.digest {
                    follower
                        .files
                        .insert((pod.uid, file.path.clone(), digest.clone()), at);
                }
            }
        }
        follower
            .is_pending(follower.before_last(evidence)?)
            .then_some(follower)
    }

    /// Length of the list at the last checkpoint but one.
    fn before_last(&self, evidence: &Evidence) -> Option<u64> {
        let before = evidence.checkpoints.iter().rev().nth(1)?;
        Some(SealedCheckpoint::from_file(before).ok()?.checkpoint.list_len)
    }

    /// The last verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// About how many bytes of memory this takes.
    pub fn weight(&self) -> usize {
        let files: usize = self.files.keys().map(|(_, path, _)| path.len() + 128).sum();
        self.entries.bytes.len() + self.entries.ends.len() * 56 + self.files.len() * 128 + 2 * files
    }

    /// An entry is named like a checkpoint's file: once, or it is for the appraisal.
    fn named(&mut self, number: u64, index: u32) -> Option<()> {
        self.early.insert(number, index).is_none().then_some(())
    }

    /// Whether every entry that has no record may still get one.
    fn is_pending(&self, before: u64) -> bool {
        let from = self.last.checkpoint.settled.max(before);
        self.open.first().is_none_or(|index| u64::from(*index) >= from)
    }

    /// Judges what is new. `None`: the whole evidence must be appraised, and this follower is of no more use.
    pub fn advance(
        &mut self,
        part: &Part,
        policy: &Policy,
        context: &Context,
        accepted: &[Accepted],
    ) -> Option<&Verdict> {
        let before = self.verdict.state.take()?;
        let at = before.checkpoint.as_ref()?;
        let is_next = accepted.is_empty()
            && context.previous.as_ref() == Some(&before)
            && self.verdict.policy == *policy.digest()
            && part.version == 1
            && part.tier == self.tier
            && part.boot_id == before.boot_id
            && part.from.boot_id == before.boot_id
            && part.from.entries == before.covered
            && part.from.checkpoint == at.number
            && part.from.digest == at.digest
            && part.registers() == self.registers
            && part
                .boot
                .as_ref()
                .is_none_or(|boot| boot.log.is_none() && boot.command_line.is_none());
        if !is_next {
            return None;
        }
        let mut findings = Findings::default();
        let quoted = quote::check(&part.quote, part.registers(), context, &mut findings)?;
        let mut notes = Vec::new();
        let present = Present {
            ak_name: &quoted.ak_name,
            boot_id: part.boot_id,
            reset_count: quoted.reset_count,
            restart_count: quoted.restart_count,
            clock_ms: quoted.clock_ms,
            safe: quoted.safe,
        };
        let relation = history::check(present, Some(&before), false, &mut findings, &mut notes);
        let banks: Vec<Bank> = before.pcrs.iter().map(Digest::bank).collect();
        // What was said of the boot rests on the quote, too.
        let is_same_boot = |bank: &Bank| {
            let kept = self.registers.iter().find(|registers| registers.bank() == *bank);
            quoted.registers.boot(*bank) == kept
        };
        if findings.has_failure()
            || relation != Relation::SameBoot
            || quoted.banks != banks
            || !banks.iter().all(is_same_boot)
        {
            return None;
        }

        let view = self.view(part, &banks, policy)?;
        let (new, pcrs) = covered(part, &before.pcrs, |pcrs| quoted.is_of(pcrs))?;
        let first = u32::try_from(self.entries.ends.len()).ok()?;
        for (at, (entry, line)) in part.list.iter().zip(&view.lines).enumerate().take(new) {
            let (Entry::Full(record), Some(sha1)) = (entry, view.digests.digest(at, Bank::Sha1)) else {
                return None;
            };
            let index = self.entries.push(record, sha1)?;
            self.open.insert(index);
            if let Some(number) = line.path.and_then(number_from_path) {
                self.named(number, index)?;
            }
        }
        let before_last = self.chain(part, first, &view.lines, context, &mut findings)?;
        self.seal(part)?;
        self.judge(part, first, &view, policy)?;
        // The last checkpoint's own record comes with the next round; nobody else's may be late.
        if !self.is_pending(before_last) || findings.has_failure() {
            return None;
        }

        if part.node != context.node {
            notes.push(format!("the node calls itself {:?}", part.node));
        }
        for pod in &mut self.verdict.pods {
            let told = part.pods.iter().find(|told| told.uid == pod.uid);
            pod.told = told.map(|told| format!("{}/{}", told.namespace, told.name));
        }
        let verdict = &mut self.verdict;
        verdict.time = context.now;
        verdict.rejudged = None;
        verdict.node.kernel.clone_from(&part.kernel);
        verdict.node.notes = notes;
        verdict.node.entries = before.covered + part.list.len() as u64;
        verdict.node.covered = before.covered + new as u64;
        verdict.node.boot_entries = self.boot_len.min(verdict.node.entries);
        verdict.node.pending = self.open.len() as u64;
        verdict.node.checkpoint = Some(self.last.checkpoint.number);
        verdict.node.checkpoint_sha256 = Some(self.last.digest());
        verdict.node.records = self.last.checkpoint.records;
        verdict.node.executions = self.last.checkpoint.executions;
        let mut partitions: Vec<(PartitionKey, u64)> = self
            .partitions
            .iter()
            .map(|(key, log)| (*key, log.size()))
            .collect();
        partitions.sort_by_cached_key(|(key, _)| key.to_string());
        verdict.state = Some(NodeState {
            ak_name: quoted.ak_name,
            boot_id: part.boot_id,
            checkpoint: Some(CheckpointState {
                number: self.last.checkpoint.number,
                digest: self.last.digest(),
                partitions,
            }),
            covered: verdict.node.covered,
            pcrs,
            reset_count: quoted.reset_count,
            restart_count: quoted.restart_count,
            clock_ms: quoted.clock_ms,
            time: context.now,
        });
        Some(&self.verdict)
    }

    /// The new entries: whole, of the register, of a template that the policy pins, no violation.
    fn view<'a>(&self, part: &'a Part, banks: &[Bank], policy: &Policy) -> Option<View<'a>> {
        let mut all = vec![Bank::Sha1, Bank::Sha256];
        let records = part.partitions.iter().flat_map(|log| &log.records);
        all.extend(records.flat_map(|record| &record.digests).map(Digest::bank));
        all.extend(banks);
        all.sort_unstable();
        all.dedup();
        let templates = &policy.file.accept.templates;
        let view = view::view_of(&part.list, &all);
        view.lines
            .iter()
            .all(|line| {
                let template = line.template;
                line.is_whole()
                    && line.pcr == Some(PCR)
                    && !line.violation
                    && templates.iter().any(|name| Some(name.as_bytes()) == template)
            })
            .then_some(view)
    }

    /// V4, V6, V11 and V14 of the new checkpoints. Gives the length of the list at the last but one.
    fn chain(
        &mut self,
        part: &Part,
        first: u32,
        lines: &[Line],
        context: &Context,
        findings: &mut Findings,
    ) -> Option<u64> {
        let mut before_last = None;
        for file in &part.checkpoints {
            let sealed = SealedCheckpoint::from_file(file).ok()?;
            succeeds(&sealed, Some(&self.last), Some(&self.key), part.boot_id, findings);
            let (now, was) = (&sealed.checkpoint, &self.last.checkpoint);
            let is_usual = now.number == was.number + 1
                && !now.blind
                && now.losses == was.losses
                && now.bpf_object == was.bpf_object
                && now.ima_policy == was.ima_policy
                && now.protection == was.protection;
            let anchor = self.early.remove(&now.number)?;
            let line = match anchor.checked_sub(first) {
                Some(new) => lines.get(new as usize)?.clone(),
                None => self.line(anchor)?,
            };
            let is_file = line.file.is_some_and(|digest| {
                digest.bank() != Bank::Sha1 && digest.bank().hash(&[&sealed.file]) == digest
            });
            if !is_usual || !is_file || u64::from(anchor) < now.list_len || anchor <= self.anchor {
                return None;
            }
            self.anchor = anchor;
            before_last = Some(was.list_len);
            self.last = sealed;
        }
        let ExpectedNonce::Value(nonce) = &context.nonce else {
            return None;
        };
        let expected: [u8; 32] = Sha256::digest(nonce).into();
        (self.last.checkpoint.nonce_hash == Some(expected)).then_some(before_last?)
    }

    /// V5: the records that are new complete what the last checkpoint sealed.
    fn seal(&mut self, part: &Part) -> Option<()> {
        let mut seen = BTreeSet::new();
        for log in &part.partitions {
            let is_own = |record: &Record| partition_of(record.cgroup.as_deref()) == log.key;
            let is_plain = matches!(log.key, PartitionKey::Pod(_) | PartitionKey::Host);
            if !is_plain || !seen.insert(log.key) || log.records.is_empty() || !log.records.iter().all(is_own)
            {
                return None;
            }
            for record in &log.records {
                self.partitions.push(log.key, record.leaf_hash());
                self.executions += u64::from(record.is_execution());
            }
        }
        let last = &self.last.checkpoint;
        let records: u64 = self.partitions.iter().map(|(_, log)| log.size()).sum();
        (records == last.records
            && self.executions == last.executions
            && self.partitions.len() as u64 == last.partitions
            && self.partitions.root() == last.partitions_root)
            .then_some(())
    }

    /// The rest of V5, and what V8, V9, V11, V12 and V14 say of each record that is new.
    fn judge(&mut self, part: &Part, first: u32, view: &View, policy: &Policy) -> Option<()> {
        let mut records: Vec<(PartitionKey, &Record)> = part
            .partitions
            .iter()
            .flat_map(|log| log.records.iter().map(|record| (log.key, record)))
            .collect();
        records.sort_by_key(|(_, record)| record.seq);
        for (key, record) in records {
            if record.seq <= self.max_seq
                || record.seq > self.last.checkpoint.last_seq
                || record.guard.is_some()
            {
                return None;
            }
            self.max_seq = record.seq;
            if let PartitionKey::Pod(_) = key
                && !record
                    .ancestry
                    .iter()
                    .any(|process| policy.is_runtime(&process.exe))
            {
                return None;
            }
            match record.kind {
                EventKind::Entry => {
                    let index = *self.entries.by_sha1.get(sha1(record)?)?;
                    if index == TWICE || !matches!(record.ret, 0 | EEXIST) {
                        return None;
                    }
                    let (earlier, old);
                    let (line, digests, at) = match index.checked_sub(first) {
                        Some(new) => (view.lines.get(new as usize)?, &view.digests, new as usize),
                        None => {
                            let own = record.digests.iter().map(Digest::bank);
                            let all: Vec<Bank> = own.chain([Bank::Sha1]).collect();
                            earlier = self.entries.get(index)?.to_vec();
                            old = view::line_of(index.into(), &earlier, &all);
                            (&old.0, &old.1, 0)
                        }
                    };
                    let has_all = record.digests.iter().all(|digest| digests.has(at, digest));
                    let agrees = has_all && line.pcr == Some(record.pcr);
                    agrees.then_some(())?;
                    self.entry(key, record, index, line, policy)?;
                }
                EventKind::Execution | EventKind::Script | EventKind::Mapping | EventKind::LateMapping => {
                    let digest = record.hash.as_ref().and_then(FileHash::digest)?;
                    if record.path_cut {
                        return None;
                    }
                    self.content(key, &record.path, digest, true, policy)?;
                }
                EventKind::Violation | EventKind::Guard => return None,
            }
        }
        // Whoever read an earlier checkpoint into the list is known by now.
        let late = self.open.iter().copied().filter(|index| *index < self.anchor);
        for index in late {
            let path = self.line(index)?.path;
            if path.and_then(number_from_path).is_some() {
                return None;
            }
        }
        Some(())
    }

    /// A record of an entry that has its digests: it is of whom the entry says, and its content is accepted.
    fn entry(
        &mut self,
        key: PartitionKey,
        record: &Record,
        index: u32,
        line: &Line,
        policy: &Policy,
    ) -> Option<()> {
        let is_own = line
            .cgroup
            .as_deref()
            .is_none_or(|cgroup| partition_of(Some(cgroup)) == key);
        let is_first = record.ret != 0 || self.open.remove(&index);
        if !is_first || (record.ret == 0 && !is_own) || line.violation {
            return None;
        }
        let path = line.path.unwrap_or_default();
        if let Some(number) = number_from_path(path) {
            // Read by the collector, once, and by nobody else; one that no checkpoint names yet is for the appraisal.
            let collector = policy.file.accept.collector.as_bytes();
            let by = record.ancestry.first().map(|process| process.exe.as_slice());
            let is_anchor = number <= self.last.checkpoint.number && record.ret == 0;
            return (is_anchor && key == PartitionKey::Host && by == Some(collector)).then_some(());
        }
        self.content(key, path, line.file.as_ref()?, false, policy)
    }

    /// A content that the policy accepts, and that it does not hide.
    fn content(
        &mut self,
        key: PartitionKey,
        path: &[u8],
        digest: &Digest,
        is_execution: bool,
        policy: &Policy,
    ) -> Option<()> {
        let uid = match key {
            PartitionKey::Pod(uid) => uid,
            _ => {
                let is_policy = policy.file.accept.ima_policies.contains(digest);
                let judgement = policy.judge_host(path, digest);
                if policy.hides_on_host(path) != Hidden::No || !(is_policy || judgement.is_accepted()) {
                    return None;
                }
                if let (false, Judgement::Accepted { learned, .. }) = (is_policy, judgement) {
                    self.verdict.learned |= learned;
                }
                return Some(());
            }
        };
        let Some(Judgement::Accepted { learned, .. }) = policy.judge_pod(&uid, path, digest) else {
            return None;
        };
        if policy.hides_in_pod(&uid, path) != Hidden::No {
            return None;
        }
        let at = self.pod(uid, policy)?;
        let pod = self.verdict.pods.get_mut(at)?;
        let file = *self
            .files
            .entry((uid, path.to_vec(), digest.clone()))
            .or_insert_with(|| {
                pod.files.push(SeenFile {
                    path: path.to_vec(),
                    digest: Some(digest.clone()),
                    entries: 0,
                    executions: 0,
                    accepted: true,
                    excluded: false,
                });
                pod.files.len() - 1
            });
        let file = pod.files.get_mut(file)?;
        if is_execution {
            pod.executions += 1;
            file.executions += 1;
        } else {
            pod.entries += 1;
            file.entries += 1;
        }
        pod.learned |= learned;
        self.verdict.learned |= learned;
        Some(())
    }

    /// The place of a pod in the verdict; one that the policy knows and that shows up for the first time gets one.
    fn pod(&mut self, uid: PodUid, policy: &Policy) -> Option<usize> {
        let known = policy.pods.get(&uid)?;
        Some(
            match self.verdict.pods.binary_search_by_key(&uid, |pod| pod.uid) {
                Ok(at) => at,
                Err(at) => {
                    self.verdict.start.retain(|awaited| awaited.uid != uid);
                    let pod = PodVerdict {
                        uid,
                        name: Some(known.pod.name.clone()),
                        told: None,
                        state: State::Trusted,
                        entries: 0,
                        executions: 0,
                        suspect: 0,
                        provenance: match self.tier {
                            Tier::Kernel => Provenance::Attested,
                            Tier::Bpf => Provenance::Observed,
                        },
                        learned: false,
                        files: Vec::new(),
                        fnf: Vec::new(),
                        filehash_err: Vec::new(),
                        excluded: 0,
                        findings: Vec::new(),
                    };
                    self.verdict.pods.insert(at, pod);
                    at
                }
            },
        )
    }

    /// An entry of an earlier round.
    fn line(&self, index: u32) -> Option<Line<'_>> {
        let (line, _) = view::line_of(index.into(), self.entries.get(index)?, &[Bank::Sha1]);
        Some(line)
    }
}

fn sha1(record: &Record) -> Option<&[u8; 20]> {
    let digest = record.digests.iter().find(|digest| digest.bank() == Bank::Sha1)?;
    digest.bytes().try_into().ok()
}

/// Registers as at boot, in the banks of `pcrs`.
fn start(pcrs: &[Digest]) -> Vec<Digest> {
    pcrs.iter().map(|pcr| Digest::zero(pcr.bank())).collect()
}

fn registers(replay: &Replay, pcrs: &[Digest]) -> Option<Vec<Digest>> {
    pcrs.iter()
        .map(|pcr| replay.value(PCR, pcr.bank(), Fill::Hashed))
        .collect()
}

/// V2: the longest run of new entries that leads from the registers before to the quoted ones, and these.
fn covered(
    part: &Part,
    pcrs: &[Digest],
    is_quoted: impl Fn(&[Digest]) -> bool,
) -> Option<(usize, Vec<Digest>)> {
    let mut replay = Replay::resume(PCR, pcrs);
    let mut found = is_quoted(pcrs).then(|| (0, pcrs.to_vec()));
    for (index, entry) in part.list.iter().enumerate() {
        replay.push_entry(entry).ok()?;
        let now = registers(&replay, pcrs)?;
        if is_quoted(&now) {
            found = Some((index + 1, now));
        }
    }
    found
}
