//! A second appraisal, written from docs/spec/rules.md alone: rules V2 to V9, V11, V12 and V14.
//!
//! Promises: it shares no rule with `cgpath_appraisal::appraise`. It decodes with `evidence` and looks
//! contents up with `policy`; whole lists are walked again for each question, so that nothing has to be
//! remembered or ordered. Not here: the quote's signature and nonce (V1), the boot (V10), what is absent
//! altogether (V13), accepted findings, and any word for people.

mod contents;
mod list;
pub mod named;

use cgpath_appraisal::{NodeState, Rule, State, Subject};
use cgpath_evidence::merkle::{Hash, leaf_hash, node_hash};
use cgpath_evidence::partition::partition_leaf;
use cgpath_evidence::quoted::QuotedRegisters;
use cgpath_evidence::tpm::Attest;
use cgpath_evidence::{
    Bank, EventKind, Evidence, Named, PartitionKey, PartitionLog, PodUid, Record, SealedCheckpoint, Tier,
    cgroup::partition_of, checkpoint::number_from_path,
};
use cgpath_policy::{Kexec, PaddedBanks, Policy};
pub use contents::accepts;
use list::{Fill, Line};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The question.
pub struct Given<'a> {
    pub evidence: &'a Evidence,
    pub policy: &'a Policy,
    /// Absent where freshness is not checked.
    pub nonce: Option<&'a [u8]>,
    /// The verifier's clock, seconds since 1970.
    pub now: u64,
    /// What the last believed evidence left.
    pub before: Option<&'a NodeState>,
    /// What the last believed evidence showed unsealed.
    pub shown: &'a [PartitionLog],
    /// Whether a rule that is not judged here fails, on which all others rest.
    pub elsewhere: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opinion {
    pub trusted: bool,
    pub failed: BTreeSet<(Rule, Subject)>,
    pub pods: BTreeMap<PodUid, State>,
}

/// How the evidence stands to the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    Nothing,
    SameBoot,
    Reboot,
    Kexec,
}

struct Case<'a> {
    given: &'a Given<'a>,
    lines: Vec<Line>,
    covered: usize,
    since: Since,
    chain: Vec<SealedCheckpoint>,
    /// Of each checkpoint, where its file's entry stands.
    anchors: Vec<Option<usize>>,
    /// In order of their numbers.
    records: Vec<(PartitionKey, &'a Record)>,
    /// Of each record of an entry or a violation, the entry.
    entry_of: Vec<Option<usize>>,
    /// Of each entry, the record that says that it was added there.
    adder: Vec<Option<usize>>,
    /// Entries without a record that nothing explains.
    orphans: Vec<usize>,
    failed: BTreeSet<(Rule, Subject)>,
    seen: BTreeSet<PodUid>,
    /// Of these, those of which more is recorded than what they are called.
    ran: BTreeSet<PodUid>,
}

const UNATTRIBUTED: Subject = Subject::Partition(PartitionKey::Unattributed);

pub fn appraise(given: &Given<'_>) -> Opinion {
    let evidence = given.evidence;
    let records = of_logs(&evidence.partitions);
    let lines: Vec<Line> = evidence.list.iter().map(Line::read).collect();
    let mut case = Case {
        given,
        covered: lines.len(),
        since: Since::Nothing,
        chain: Vec::new(),
        anchors: Vec::new(),
        entry_of: vec![None; records.len()],
        adder: vec![None; lines.len()],
        orphans: Vec::new(),
        failed: BTreeSet::new(),
        seen: BTreeSet::new(),
        ran: BTreeSet::new(),
        lines,
        records,
    };
    case.v2_and_v7();
    case.v3();
    let has_records = !evidence.checkpoints.is_empty() || !evidence.partitions.is_empty();
    if evidence.tier == Tier::Bpf || has_records {
        case.v4();
        case.v6();
        case.v5_sealed();
        case.v5_joined();
        case.v5_unsealed();
        case.v5_complete();
        case.v4_read();
        case.v14();
        case.v11_loads();
        case.contents();
    } else {
        case.contents_of_tags();
    }
    case.v11_foundations();
    case.conclude()
}

impl<'a> Case<'a> {
    fn fail_if(&mut self, fails: bool, rule: Rule, subject: Subject) {
        if fails {
            self.failed.insert((rule, subject));
        }
    }

    fn node(&mut self, fails: bool, rule: Rule) {
        self.fail_if(fails, rule, Subject::Node);
    }

    /// The host and the pods that the policy knows.
    fn everybody(&self) -> impl Iterator<Item = PartitionKey> + use<'a> {
        let pods = self.given.policy.pods.keys().map(|uid| PartitionKey::Pod(*uid));
        pods.chain([PartitionKey::Host])
    }

    fn policy(&self) -> &'a cgpath_policy::NodePolicy {
        &self.given.policy.file
    }

    fn boot_len(&self) -> usize {
        self.chain
            .first()
            .map_or(0, |sealed| sealed.checkpoint.boot_len as usize)
    }

    /// Covered entries since the load.
    fn since_load(&self) -> core::ops::Range<usize> {
        self.boot_len().min(self.covered)..self.covered
    }

    fn v2_and_v7(&mut self) {
        let evidence = self.given.evidence;
        let attest = evidence
            .quote
            .tpm()
            .and_then(|quote| Attest::parse(&quote.attest));
        let Ok(attest) = attest else {
            self.node(true, Rule::History);
            return;
        };
        self.v7(&attest);
        let quoted = QuotedRegisters::of(&attest, evidence.registers(), |_| ());
        let banks: Vec<Bank> = quoted.banks().collect();
        self.node(
            self.policy()
                .accept
                .banks
                .iter()
                .any(|bank| !banks.contains(bank)),
            Rule::Coverage,
        );
        self.node(self.lines.iter().any(|line| !line.whole), Rule::Coverage);
        let Some((covered, fills)) = list::covered(&self.lines, &quoted) else {
            self.node(true, Rule::Coverage);
            return;
        };
        self.covered = covered;
        let is_padded = fills.iter().any(|fill| *fill != Fill::Hashed);
        self.node(
            is_padded && self.policy().padded_banks == PaddedBanks::Deny,
            Rule::Coverage,
        );
        let other = |line: &Line| line.pcr.is_some_and(|pcr| pcr != 10);
        self.node(self.lines[..covered].iter().any(other), Rule::Coverage);
        // V4: coverage never shrinks within a boot, nor over a kexec, and what was covered is the same.
        if let (Some(before), Since::SameBoot | Since::Kexec) = (self.given.before, self.since) {
            let banks: Vec<Bank> = before.pcrs.iter().map(|value| value.bank()).collect();
            let len = before.covered as usize;
            let is_same = !banks.is_empty()
                && list::fills(&banks).iter().any(|fills| {
                    list::registers(&self.lines, len, &banks, fills).as_ref() == Some(&before.pcrs)
                });
            self.node(len > covered || !is_same, Rule::Chain);
        }
    }

    fn v3(&mut self) {
        let pinned = |line: &Line| {
            let mut names = self.policy().accept.templates.iter();
            names.any(|name| line.template.as_deref() == Some(name.as_bytes()))
        };
        let covered = &self.lines[..self.covered];
        let relabelled = !covered.iter().all(pinned);
        let tagged = covered
            .iter()
            .any(|line| line.template.as_deref() == Some(b"ima-cgpath"));
        self.node(
            relabelled || (self.given.evidence.tier == Tier::Kernel && !tagged),
            Rule::Template,
        );
    }

    fn v7(&mut self, attest: &Attest) {
        let Some(before) = self.given.before else { return };
        let (evidence, now) = (self.given.evidence, &attest.clock);
        let steps = |was: u32, is: u32| Some(is.wrapping_sub(was)).filter(|step| *step < 1 << 31);
        let resets = steps(before.reset_count, now.reset_count);
        let was_reset = resets.is_some_and(|resets| resets > 0);
        let mut name = vec![0x00, 0x0b];
        let ak = evidence.quote.tpm().map_or(&[][..], |quote| &quote.ak);
        name.extend(Sha256::digest(ak));
        self.node(name != before.ak_name, Rule::History);
        self.node(resets.is_none(), Rule::History);
        self.node(
            resets == Some(0) && steps(before.restart_count, now.restart_count).is_none(),
            Rule::History,
        );
        // TPM 2.0 Part 1, "Clock": less than 2^22 ms may be lost where the TPM was not shut down in order.
        let lost = before.clock_ms.saturating_sub(now.clock);
        self.node(
            lost > 0 && (!was_reset || now.safe || lost >= 1 << 22),
            Rule::History,
        );
        let same = before.boot_id == evidence.boot_id;
        self.node(same && was_reset, Rule::History);
        self.since = match (same, was_reset) {
            (true, _) => Since::SameBoot,
            (false, true) => Since::Reboot,
            (false, false) => Since::Kexec,
        };
        let passed = self.given.now.saturating_sub(before.time);
        let is_soon = passed < self.policy().min_reboot.into();
        self.node(self.since == Since::Reboot && is_soon, Rule::History);
        self.node(
            self.since == Since::Kexec && self.policy().kexec == Kexec::Deny,
            Rule::History,
        );
        if !before.believed {
            self.since = Since::Nothing;
        }
    }

    fn v4(&mut self) {
        let evidence = self.given.evidence;
        for file in &evidence.checkpoints {
            match SealedCheckpoint::from_file(file) {
                Ok(sealed) => self.chain.push(sealed),
                Err(_) => break,
            }
        }
        self.node(self.chain.len() < evidence.checkpoints.len().max(1), Rule::Chain);
        let Some(key) = self.chain.first().map(|first| first.checkpoint.key.clone()) else {
            return;
        };
        for n in 0..self.chain.len() {
            let now = &self.chain[n].checkpoint;
            let signed = key.as_ref().is_some_and(|key| self.chain[n].verify(key).is_ok());
            let mut good = signed && now.number == n as u64 && now.boot_id == evidence.boot_id;
            if n == 0 {
                good &= now.previous == [0; 32] && now.boot_len <= now.list_len;
            } else {
                let was = &self.chain[n - 1].checkpoint;
                let totals = |c: &cgpath_evidence::Checkpoint| {
                    let lost = c.losses;
                    let counts = [
                        c.list_len,
                        c.settled,
                        c.records,
                        c.executions,
                        c.last_seq,
                        c.partitions,
                    ];
                    let losses = [
                        lost.reserve,
                        lost.recursion,
                        lost.read,
                        lost.spool,
                        c.starts.into(),
                    ];
                    counts.into_iter().chain(losses)
                };
                good &= now.previous == self.chain[n - 1].digest()
                    && now.key.is_none()
                    && now.predating.is_empty()
                    && (now.boot_len, &now.hierarchy) == (was.boot_len, &was.hierarchy)
                    && totals(was).zip(totals(now)).all(|(was, is)| was <= is);
            }
            self.node(!good, Rule::Chain);
        }
        for n in 0..self.chain.len() {
            let found = self
                .since_load()
                .find(|index| self.measures(*index, &self.chain[n]));
            let stated = self.chain[n].checkpoint.list_len;
            let after = self.anchors.iter().flatten().next_back().copied();
            self.node(
                found
                    .is_none_or(|index| (index as u64) < stated || after.is_some_and(|after| index <= after)),
                Rule::Chain,
            );
            // The entry of the checkpoint before was in the list when this one was sealed.
            let before = n.checked_sub(1).and_then(|n| self.anchors[n]);
            self.node(before.is_some_and(|before| stated <= before as u64), Rule::Chain);
            self.anchors.push(found);
        }
        let fresh: Option<Hash> = self.given.nonce.map(|nonce| Sha256::digest(nonce).into());
        let last = self.chain.last().map(|sealed| sealed.checkpoint.clone());
        self.node(
            fresh.is_some() && last.as_ref().and_then(|last| last.nonce_hash) != fresh,
            Rule::Chain,
        );
        let (Some(before), Since::SameBoot) = (self.given.before, self.since) else {
            return;
        };
        let Some(remembered) = &before.checkpoint else {
            self.node(evidence.tier == Tier::Bpf, Rule::Chain);
            return;
        };
        let held = self.chain.get(remembered.number as usize);
        let goes_on = held.is_some_and(|held| held.digest() == remembered.digest)
            && last.as_ref().is_some_and(|last| last.number > remembered.number);
        // The checkpoint after a round states at least what that round covered.
        let states_less = last.as_ref().is_some_and(|last| last.list_len < before.covered);
        self.node(!goes_on || states_less, Rule::Chain);
    }

    /// Whether an entry measures this checkpoint's file under its name.
    fn measures(&self, index: usize, sealed: &SealedCheckpoint) -> bool {
        let line = &self.lines[index];
        let is_file = |digest: &cgpath_evidence::Digest| {
            digest.bank() != Bank::Sha1 && digest.bank().hash(&[&sealed.file]) == *digest
        };
        number_from_path(&line.path) == Some(sealed.checkpoint.number)
            && !line.violation
            && line.file.as_ref().is_some_and(is_file)
    }

    fn v6(&mut self) {
        let lost = self.chain.last().map_or(0, |last| last.checkpoint.losses.total());
        self.node(lost > self.policy().tolerance.lost, Rule::Losses);
        self.node(
            self.chain.iter().any(|sealed| sealed.checkpoint.blind),
            Rule::Losses,
        );
        for (key, record) in self.records.clone() {
            let is_stated = record.kind == EventKind::PodLoss;
            let is_pods = matches!(key, PartitionKey::Pod(_));
            let is_odd = is_stated != record.pod_loss.is_some();
            self.node(is_odd || (is_stated && !is_pods), Rule::Losses);
            self.fail_if(
                is_stated && !is_odd && is_pods,
                Rule::Losses,
                Subject::Partition(key),
            );
        }
    }

    /// The records are exactly those that the last checkpoint seals.
    fn v5_sealed(&mut self) {
        let logs = &self.given.evidence.partitions;
        let keys: BTreeSet<PartitionKey> = logs.iter().map(|log| log.key).collect();
        self.node(keys.len() < logs.len(), Rule::Records);
        self.node(logs.iter().any(|log| log.records.is_empty()), Rule::Records);
        self.node(
            self.records.iter().any(|(key, _)| *key == PartitionKey::Boot),
            Rule::Records,
        );
        // The kernel numbers its records; a name is the collector's, and says nothing else.
        let numbered = self.records.iter().map(|(_, record)| record);
        let numbered = numbered.filter(|record| record.kind != EventKind::Name);
        let all: Vec<u64> = numbered.map(|record| record.seq).collect();
        let numbers: BTreeSet<u64> = all.iter().copied().collect();
        self.node(numbers.len() < all.len() || numbers.contains(&0), Rule::Records);
        let is_odd = |(key, record): &(PartitionKey, &Record)| {
            let is_pods = matches!(key, PartitionKey::Pod(_));
            let says_one = record.kind == EventKind::Name || record.name.is_some();
            says_one && !(is_pods && Named::is_record(record))
        };
        self.node(self.records.iter().any(is_odd), Rule::Records);
        for (key, record) in self.records.clone() {
            if partition_of(record.cgroup.as_deref()) != key {
                self.node(true, Rule::Records);
                self.fail_if(true, Rule::Records, Subject::Partition(key));
            }
        }
        let Some(last) = self.chain.last().map(|last| last.checkpoint.clone()) else {
            self.node(true, Rule::Records);
            return;
        };
        let executions = self
            .records
            .iter()
            .filter(|(_, record)| record.is_execution())
            .count() as u64;
        let counts = (self.records.len() as u64, executions, keys.len() as u64);
        self.node(
            counts != (last.records, last.executions, last.partitions),
            Rule::Records,
        );
        self.node(
            numbers.last().is_some_and(|seq| *seq > last.last_seq),
            Rule::Records,
        );
        self.node(
            self.root_of(|_| usize::MAX) != last.partitions_root,
            Rule::Records,
        );
        let remembered = self.given.before.and_then(|before| before.checkpoint.as_ref());
        if let (Some(remembered), Since::SameBoot) = (remembered, self.since)
            && let Some(held) = self.chain.get(remembered.number as usize)
        {
            let sizes: BTreeMap<PartitionKey, u64> = remembered.partitions.iter().copied().collect();
            let root = self.root_of(|key| sizes.get(&key).copied().unwrap_or_default() as usize);
            let here = |key: PartitionKey| self.records.iter().filter(|(own, _)| *own == key).count() as u64;
            let shrank = sizes.iter().any(|(key, size)| here(*key) < *size);
            self.node(shrank || root != held.checkpoint.partitions_root, Rule::Records);
        }
    }

    /// The root over all partitions, of each the first so many records. RFC 9162, section 2.1.1.
    fn root_of(&self, size: impl Fn(PartitionKey) -> usize) -> Hash {
        let mut partitions: BTreeMap<String, (PartitionKey, Vec<Hash>)> = BTreeMap::new();
        for log in &self.given.evidence.partitions {
            let (_, leaves) = partitions
                .entry(log.key.to_string())
                .or_insert((log.key, Vec::new()));
            leaves.extend(log.records.iter().map(|record| leaf_hash(&record.to_cbor())));
        }
        let mut leaves = Vec::new();
        for (key, mut records) in partitions.into_values() {
            records.truncate(size(key));
            if !records.is_empty() {
                leaves.push(partition_leaf(&key, records.len() as u64, &tree(&records)));
            }
        }
        tree(&leaves)
    }

    /// Every record of an entry joins one, and every record of a violation a violation.
    fn v5_joined(&mut self) {
        for place in 0..self.records.len() {
            let (key, record) = self.records[place];
            match (record.kind, record.ret) {
                (EventKind::Entry, 0 | -17) => self.join_entry(place, record),
                (EventKind::Entry, _) => self.fail_if(true, Rule::Records, Subject::Partition(key)),
                (EventKind::Violation, 0) => {
                    // Nothing of a violation is bound but its name.
                    let name = as_listed(&record.path);
                    let is_it = |index: &usize| {
                        let line = &self.lines[*index];
                        line.violation && line.path == name && self.adder[*index].is_none()
                    };
                    let found = self.since_load().find(is_it);
                    self.node(found.is_none(), Rule::Violations);
                    self.entry_of[place] = found;
                    found
                        .into_iter()
                        .for_each(|index| self.adder[index] = Some(place));
                }
                _ => {}
            }
        }
        for index in 0..self.lines.len() {
            let line = &self.lines[index];
            if let Some(place) = self.adder[index] {
                let disagrees =
                    line.cgroup.is_some() && !line.violation && line.owner() != self.records[place].0;
                self.node(disagrees, Rule::Records);
            }
        }
    }

    fn join_entry(&mut self, place: usize, record: &Record) {
        let alike = (0..self.covered).filter(|index| self.lines[*index].is_of(record));
        let alike: Vec<usize> = alike.filter(|_| !record.digests.is_empty()).collect();
        let free = alike.iter().find(|index| self.adder[**index].is_none());
        let found = free.filter(|_| record.ret == 0).or(alike.first()).copied();
        self.entry_of[place] = found;
        self.node(found.is_none(), Rule::Records);
        if let (Some(index), 0) = (found, record.ret) {
            self.node(self.adder[index].is_some(), Rule::Records);
            self.adder[index] = Some(place);
        }
    }

    /// What stands unsealed can be sealed by the next checkpoint, and what stood so before was sealed as it
    /// was.
    fn v5_unsealed(&mut self) {
        let last = self.chain.last().map_or(0, |last| last.checkpoint.last_seq);
        let unsealed = of_logs(&self.given.evidence.unsealed);
        let numbers: BTreeSet<u64> = unsealed.iter().map(|(_, record)| record.seq).collect();
        let misplaced = unsealed
            .iter()
            .any(|(key, record)| partition_of(record.cgroup.as_deref()) != *key);
        self.node(numbers.len() < unsealed.len() || misplaced, Rule::Records);
        self.node(numbers.first().is_some_and(|seq| *seq <= last), Rule::Records);
        if self.since == Since::SameBoot {
            let shown = of_logs(self.given.shown);
            self.node(
                !shown.iter().all(|owned| self.records.contains(owned)),
                Rule::Records,
            );
        }
    }

    /// Every entry has its record; one that is new may wait for it, and its content is judged at once.
    fn v5_complete(&mut self) {
        let before = self
            .chain
            .iter()
            .rev()
            .nth(1)
            .map(|before| before.checkpoint.list_len);
        let last = self.chain.last().map(|last| &last.checkpoint);
        let settled = last.map_or(0, |last| last.settled);
        let mut old = before
            .or(last.map(|last| last.boot_len))
            .unwrap_or_default()
            .max(settled);
        if let (Since::SameBoot, Some(before)) = (self.since, self.given.before) {
            old = old.max(before.covered);
        }
        let mut unsealed = of_logs(&self.given.evidence.unsealed);
        let mut marks = self.given.evidence.in_flight.len();
        for index in self
            .since_load()
            .filter(|index| self.adder[*index].is_none())
            .collect::<Vec<_>>()
        {
            let line = self.lines[index].clone();
            let is_its = |(_, record): &(PartitionKey, &Record)| match record.kind {
                EventKind::Entry => record.ret == 0 && !record.digests.is_empty() && line.is_of(record),
                EventKind::Violation => {
                    record.ret == 0 && line.violation && as_listed(&record.path) == line.path
                }
                _ => false,
            };
            if let Some(place) = unsealed.iter().position(is_its) {
                let (key, record) = unsealed.remove(place);
                self.used(key, record, Some(index));
                if record.kind == EventKind::Violation {
                    self.changed(key, record);
                }
                continue;
            }
            let is_new = index as u64 >= old;
            let is_good = !line.violation && self.one_accepts(index, self.everybody());
            if is_new && is_good {
                continue;
            }
            if marks > 0 {
                // One thread is inside of IMA for one entry; which one, nobody knows. It is one that may have
                // the content, or each of them fails for it.
                marks -= 1;
                let marked: BTreeSet<_> = self
                    .given
                    .evidence
                    .in_flight
                    .iter()
                    .map(|mark| mark.key())
                    .collect();
                let is_good = !line.violation && self.one_accepts(index, marked.iter().copied());
                for key in marked.into_iter().filter(|_| !is_good) {
                    let rule = if line.violation {
                        Rule::Violations
                    } else {
                        contents::rule_of(key)
                    };
                    self.fail_if(true, rule, Subject::Partition(key));
                    self.sees(key);
                }
            } else if is_new {
                self.node(
                    true,
                    if line.violation {
                        Rule::Violations
                    } else {
                        Rule::Records
                    },
                );
            } else {
                self.orphans.push(index);
                self.node((index as u64) < settled, Rule::Records);
                self.node(line.violation, Rule::Violations);
            }
        }
        let lost = self
            .records
            .iter()
            .filter(|(key, _)| *key == PartitionKey::Unattributed)
            .count();
        let many = (self.orphans.len() + lost) as u64 > self.policy().tolerance.unattributed;
        self.fail_if(many, Rule::Records, UNATTRIBUTED);
    }

    /// Entries that were covered when a kernel was started by kexec.
    fn kexecs(&self) -> Vec<usize> {
        let Some(before) = self.given.before else {
            return Vec::new();
        };
        let mut all = before.kexecs.clone();
        match self.since {
            Since::SameBoot => {}
            Since::Kexec => all.push(before.covered),
            _ => all.clear(),
        }
        all.into_iter().map(|at| at as usize).collect()
    }

    /// Of the entries before the last kexec: those that only had a checkpoint's name.
    fn impostors(&self) -> Vec<u64> {
        let before = self.given.before.map_or(&[][..], |before| &before.impostors);
        let carried = self.kexecs().last().copied().unwrap_or(0) as u64;
        before.iter().copied().filter(|at| *at < carried).collect()
    }

    /// Whether it is a checkpoint's entry, or one of these may have its content.
    fn one_accepts(&self, index: usize, keys: impl Iterator<Item = PartitionKey>) -> bool {
        let line = &self.lines[index];
        let is_known = |key: &PartitionKey| match key {
            PartitionKey::Pod(uid) => self.given.policy.pods.contains_key(uid),
            _ => true,
        };
        let accepts = |digest| {
            let mut known = keys.filter(is_known);
            known.any(|key| self.accepts(key, cgpath_policy::Name::Listed(&line.path), digest))
        };
        self.anchors.contains(&Some(index)) || line.file.as_ref().is_some_and(accepts)
    }

    /// The collector read each checkpoint but the last, whose record comes later, and no other file of such a
    /// name.
    fn v4_read(&mut self) {
        let by_collector = |index: usize| {
            let (key, record) = self.records[self.adder[index]?];
            let exe = record.ancestry.first().map(|process| process.exe.as_slice());
            Some(key == PartitionKey::Host && exe == Some(self.policy().accept.collector.as_bytes()))
        };
        let read = self
            .anchors
            .iter()
            .rev()
            .skip(1)
            .flatten()
            .all(|index| by_collector(*index) == Some(true));
        let forked = self.since_load().any(|index| {
            number_from_path(&self.lines[index].path).is_some()
                && !self.anchors.contains(&Some(index))
                && by_collector(index) == Some(true)
        });
        self.node(!read || forked, Rule::Chain);
    }

    fn conclude(self) -> Opinion {
        let basis = |rule: Rule| (Rule::Coverage..=Rule::History).contains(&rule);
        let of_pod = |subject: Subject| matches!(subject, Subject::Partition(PartitionKey::Pod(_)));
        let of_node: Vec<Rule> = self
            .failed
            .iter()
            .filter(|(_, s)| !of_pod(*s))
            .map(|(rule, _)| *rule)
            .collect();
        let disbelieved = self.given.elsewhere || of_node.iter().any(|rule| basis(*rule));
        let state = |uid: PodUid| {
            let own = Subject::Partition(PartitionKey::Pod(uid));
            let fails = disbelieved || self.failed.iter().any(|(_, subject)| *subject == own);
            let predates = self.predating().contains(&uid)
                && self.policy().predating_pods == cgpath_policy::PredatingPods::Report;
            let known = self.given.policy.pods.get(&uid);
            let is_opaque = known.is_some_and(|known| known.pod.opaque == cgpath_policy::Opaque::Trust);
            // It has not begun, or runs where the kernel does not see it.
            let is_silent = !self.ran.contains(&uid) && !self.predating().contains(&uid);
            match (known.is_some(), fails, predates) {
                (false, ..) => State::Unknown,
                (true, true, _) => State::Untrusted,
                (true, false, true) => State::PredatesCollector,
                (true, false, false) if is_silent && !is_opaque => State::Pending,
                (true, false, false) => State::Trusted,
            }
        };
        Opinion {
            trusted: !self.given.elsewhere && of_node.is_empty(),
            pods: self.seen.iter().map(|uid| (*uid, state(*uid))).collect(),
            failed: self.failed,
        }
    }
}

/// Records in order of their numbers.
fn of_logs(logs: &[PartitionLog]) -> Vec<(PartitionKey, &Record)> {
    let mut records = Vec::new();
    for log in logs {
        records.extend(log.records.iter().map(|record| (log.key, record)));
    }
    records.sort_by_key(|(_, record)| record.seq);
    records
}

/// The list writes `_` for a space.
fn as_listed(path: &[u8]) -> Vec<u8> {
    path.iter()
        .map(|byte| if *byte == b' ' { b'_' } else { *byte })
        .collect()
}

fn tree(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&tree(left), &tree(right))
        }
    }
}
