//! A tenant's view: is what one pod ran accepted, and is this all that it ran, by its own policy.
//!
//! Pure, as [`crate::appraise`]. Promises: a bundle is never trusted without a full verifier's signed result
//! for the same checkpoint, since completeness is relative to what was sealed; the pod's files are judged by
//! the code that judges them in whole evidence. Not here: how a bundle is made (see
//! `cgpath_evidence::bundle`), files and output.

mod full_verifier;
mod shown;
mod verdict;

pub use verdict::{FullVerifier, Outcome, TENANT_VERDICT_VERSION, TenantVerdict};

use crate::accept::Waivers;
use crate::anchors::{Anchors, Said};
use crate::appraise::{Unusable, asks, has_key};
use crate::inputs::context::{CheckpointState, Context, ExpectedNonce, NodeState, PinnedKey, TdContext};
use crate::inputs::decoded;
use crate::inputs::kept::{Kept, Lines};
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::results::verdict::{PodVerdict, State};
use crate::rules::names::{Called, is_numbered};
use crate::rules::opinion::Scene;
use crate::rules::v02_coverage::Coverage;
use crate::rules::v04_chain::Chain;
use crate::rules::v04_register::{Anchored, RegisterChain};
use crate::rules::v05_join::Owned;
use crate::rules::v07_history::Relation;
use crate::rules::v08_pods::Names;
use crate::rules::v09_contents::Usage;
use crate::rules::waits::Waits;
use crate::rules::{Rule, v02_bound, v02_coverage, v03_template, v04_chain, v05_join, v06_losses};
use cgpath_evidence::{
    Bank, Boot, Checkpoint, Entry, PartitionKey, PartitionLog, PodUid, Provenance, Record, SealedCheckpoint,
    TenantBundle, Tier,
    cgroup::partition_of,
    challenge::Opening,
    checkpoint::number_from_path,
    merkle::{self, Hash},
    proof::{SealedPartition, SealedTree},
    serde_bytes_hex,
    td::ListChain,
    tpm::Attest,
};
use cgpath_policy::Policy;
use p256::ecdsa::VerifyingKey;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// What a tenant's judgement needs beside the bundle and the policy.
#[derive(Debug, Clone)]
pub struct TenantContext {
    /// The node's pinned attestation key.
    pub key: PinnedKey,
    /// What a trust domain's quote is verified with, where the policy's anchor is a register of one.
    pub td: TdContext,
    /// The nonce of the request for which the node attested, or one that the quoted nonce commits to.
    pub nonce: ExpectedNonce,
    /// Now, in seconds since 1970.
    pub now: u64,
    /// Keys of the full verifiers whose results are believed.
    pub verifiers: Vec<VerifyingKey>,
    /// What the last trusted or partition-only judgement of this pod gave back.
    pub previous: Option<TenantState>,
}

/// What to remember from one bundle to the next. An opaque value to the caller: store it, give it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantState {
    /// The pod.
    pub pod: PodUid,
    /// The node, as far as this tenant has followed it.
    pub node: NodeState,
    /// The key that signs this boot's checkpoints: SEC1 compressed P-256 point.
    #[serde(with = "serde_bytes_hex")]
    pub checkpoint_key: Vec<u8>,
    /// Whether the pod is older than the collector.
    pub predates: bool,
    /// The partition as it was sealed.
    pub partition: Option<SealedPartition>,
}

impl TenantState {
    /// From which entry of the list the next bundle may begin.
    pub fn followed(&self) -> u64 {
        self.node.covered
    }
}

/// Why a pod is no more than its partition of which nothing is sealed but its name.
const NOTHING_RAN: &str = "nothing is sealed of this pod but its name, so that there is nothing to trust yet";

/// The two checkpoints that matter here.
struct Chained {
    last: SealedCheckpoint,
    key: Vec<u8>,
    predates: bool,
}

fn fail(rule: Rule, text: impl Into<String>) -> Finding {
    Finding::fail(rule, Subject::Node, text)
}

/// Judges a bundle by the tenant's own policy (see `Policy::load_tenant`).
///
/// # Errors
/// [`Unusable`] if nonce or pinned key do not fit the question. Whatever is wrong with the bundle gives a
/// [`TenantVerdict`] that is not trusted.
pub fn verify(
    bundle: &TenantBundle,
    pod: PodUid,
    policy: &Policy,
    context: &TenantContext,
) -> Result<TenantVerdict, Unusable> {
    context.key.check()?;
    asks(&context.nonce)?;
    if bundle.version != cgpath_evidence::wire::VERSION {
        return Err(Unusable::Version(bundle.version));
    }
    has_key(&context.key, policy)?;
    let anchors = Anchors::of(policy);
    let answered = answered(bundle, anchors, &context.nonce);
    let case = Case {
        bundle,
        pod,
        policy,
        anchors,
        context,
        nonce: answered.as_ref().map_or(&context.nonce, |(nonce, _)| nonce),
    };
    let mut notes = Vec::new();
    if let Some((_, challenges)) = &answered {
        notes.push(format!(
            "the quoted nonce commits to {challenges} nonce(s) of readers, yours among them"
        ));
    }
    Ok(case.appraise(notes))
}

/// The quoted nonce, where it commits to the expected one, and to how many in all. Then the quote was made
/// after that one was drawn, as if it were the quoted one itself.
fn answered(
    bundle: &TenantBundle,
    anchors: Anchors<'_>,
    expected: &ExpectedNonce,
) -> Option<(ExpectedNonce, usize)> {
    let ExpectedNonce::Value(own) = expected else {
        return None;
    };
    let opening = Opening::from_bytes(bundle.opening.as_deref()?).ok()?;
    let quoted = if anchors.has_pcr {
        Attest::parse(&bundle.quote.tpm.as_ref()?.attest).ok()?.extra_data
    } else {
        bundle.quote.td.as_ref()?.nonce.clone()
    };
    let is_answered = opening.is_answered_by(&quoted, own);
    is_answered.then(|| (ExpectedNonce::Value(quoted), opening.challenges()))
}

struct Case<'a> {
    bundle: &'a TenantBundle,
    pod: PodUid,
    policy: &'a Policy,
    anchors: Anchors<'a>,
    context: &'a TenantContext,
    /// What the quote and the last checkpoint must have.
    nonce: &'a ExpectedNonce,
}

impl Case<'_> {
    fn appraise(&self, mut notes: Vec<String>) -> TenantVerdict {
        let (bundle, context) = (self.bundle, self.context);
        let mut findings = Findings::default();
        if bundle.pod != self.pod {
            findings.push(
                fail(Rule::Absent, "the bundle is about another pod than the policy")
                    .found(bundle.pod)
                    .expected(self.pod),
            );
        }
        self.parts(&mut findings);
        let previous = context
            .previous
            .as_ref()
            .filter(|previous| previous.pod == self.pod);
        if context.previous.is_some() && previous.is_none() {
            findings.push(fail(Rule::History, "the remembered state is about another pod"));
        }
        let asked = Context {
            td: context.td.clone(),
            node: bundle.node.clone(),
            key: context.key.clone(),
            nonce: self.nonce.clone(),
            now: context.now,
            previous: previous.map(|p| p.node.clone()),
        };
        let boot = bundle.registers.clone().map(|registers| Boot {
            registers,
            log: None,
            command_line: None,
        });
        let round = self.round(boot.as_ref(), core::slice::from_ref(&bundle.last));
        let said = Said::of(&round, self.anchors, &asked, &mut findings);
        let is_quoted = said.is_whole(self.anchors);
        let relation = if is_quoted {
            said.compare(
                &round,
                self.anchors,
                self.policy,
                &asked,
                &mut findings,
                &mut notes,
            )
        } else {
            Relation::First
        };
        let followed = previous.filter(|_| relation == Relation::SameBoot);
        let replayed = is_quoted
            .then(|| self.replay(&round, &said, followed, &mut findings))
            .flatten();
        // Entries of the bundle that are covered.
        let first = usize::try_from(bundle.from).unwrap_or(usize::MAX);
        let covered = replayed.as_ref().map_or(0, |r| r.entries.saturating_sub(first));
        let chained = self.checkpoints(&said, followed, covered, &mut findings);
        if let Some((rtmr, _)) = self.anchors.rtmr {
            notes.push(format!(
                "RTMR {rtmr} binds the list with each checkpoint, not with each entry"
            ));
        }
        let partition = chained
            .as_ref()
            .and_then(|chained| self.partition(&chained.last.checkpoint, followed, &mut findings));
        let quoted_banks = said.tpm.as_ref().map_or(&[][..], |quoted| &quoted.banks);
        let predates = chained.as_ref().is_some_and(|chained| chained.predates);
        let verdict = self.contents(quoted_banks, covered, predates, &mut findings);
        let own = verdict.as_ref().map(|pod| pod.state);
        let full = self.full_verifier(own, &mut findings, &mut notes);
        let failed = findings.has_failure();
        let outcome = match (failed, partition, own, &full) {
            (true, ..) => Outcome::Untrusted,
            (false, None, ..) => Outcome::Absent,
            (false, Some(_), Some(State::Trusted), Ok(_)) => Outcome::Trusted,
            (false, Some(_), Some(State::Trusted), Err(_)) => Outcome::PartitionOnly,
            // Charged with nothing, and there is nothing that could be trusted.
            (false, Some(_), Some(State::Pending), _) => Outcome::PartitionOnly,
            (false, Some(_), ..) => Outcome::Untrusted,
        };
        let why_not_more = match (&full, own) {
            (Err(why), _) => Some(why.clone()),
            (Ok(_), Some(State::Pending)) => Some(NOTHING_RAN.to_owned()),
            (Ok(_), _) => None,
        };
        let state = match (failed, is_quoted, &replayed, &chained) {
            (false, true, Some(replayed), Some(chained)) => {
                Some(self.remember(&said, replayed, chained, partition))
            }
            _ => None,
        };
        let last = chained.as_ref().map(|chained| &chained.last);
        TenantVerdict {
            version: TENANT_VERDICT_VERSION,
            time: context.now,
            outcome,
            trusted: outcome == Outcome::Trusted,
            dangerous: self.dangerous(),
            relaxations: self.policy.relaxations(),
            policy: self.policy.digest().clone(),
            node: bundle.node.clone(),
            key: said.key(),
            boot_id: bundle.boot_id,
            from: bundle.from,
            covered: bundle.from.saturating_add(covered as u64),
            checkpoint: last.map(|l| l.checkpoint.number),
            checkpoint_sha256: last.map(SealedCheckpoint::digest),
            partitions: last.map(|l| l.checkpoint.partitions),
            records: bundle.records.len() as u64,
            why_not_more,
            full_verifier: full.ok(),
            pod: verdict,
            notes,
            findings: findings.into_vec(),
            state,
        }
    }

    /// V1: what comes along is of the kind that the quote is. Nothing reads the other kind's, so it could be
    /// anything.
    fn parts(&self, findings: &mut Findings) {
        let bundle = self.bundle;
        let is_of_tpm = bundle.quote.tpm.is_some();
        if !is_of_tpm && bundle.registers.is_some() {
            findings.push(fail(
                Rule::Quote,
                "the bundle has a TPM's registers, and its quote is a trust domain's alone",
            ));
        }
        if is_of_tpm && bundle.register_log.is_some() {
            findings.push(fail(
                Rule::Quote,
                "the bundle has the log of a trust domain's register, and its quote is a TPM's",
            ));
        }
    }

    fn dangerous(&self) -> Vec<String> {
        let mut dangerous: Vec<String> = self
            .policy
            .dangerous_keys()
            .into_iter()
            .map(str::to_owned)
            .collect();
        if self.context.key == PinnedKey::DangerousTofu {
            dangerous.push("dangerous-tofu".to_owned());
        }
        if self.context.nonce == ExpectedNonce::DangerousNone {
            dangerous.push("dangerous-no-nonce".to_owned());
        }
        dangerous
    }

    /// What of the bundle the rules of whole evidence look at, too.
    fn round<'r>(&'r self, boot: Option<&'r Boot>, checkpoints: &'r [Vec<u8>]) -> Round<'r> {
        let bundle = self.bundle;
        Round {
            first: usize::try_from(bundle.from).unwrap_or(usize::MAX),
            version: bundle.version,
            tier: Tier::Bpf,
            node: &bundle.node,
            boot_id: bundle.boot_id,
            quote: &bundle.quote,
            list: &bundle.list,
            checkpoints,
            partitions: &[],
            unsealed: &[],
            in_flight: &[],
            pods: &[],
            kernel: "",
            boot,
            td: None,
        }
    }

    /// V2: the list, from where this tenant has followed it, leads to the quoted register.
    fn replay(
        &self,
        round: &Round<'_>,
        said: &Said,
        followed: Option<&TenantState>,
        findings: &mut Findings,
    ) -> Option<Coverage> {
        if let Some(quoted) = &said.tpm {
            v02_coverage::banks(quoted, self.policy, findings);
        }
        let from = self.bundle.from;
        let goes_on = followed.filter(|before| from > 0 && from == before.node.covered);
        if from > 0 && goes_on.is_none() {
            let followed = followed.map_or(0, TenantState::followed);
            findings.push(
                fail(
                    Rule::Chain,
                    "the list begins behind what was followed: ask for a bundle that \
                     begins there, or at 0",
                )
                .found(from)
                .expected(followed),
            );
            return None;
        }
        let whole = followed.filter(|_| from == 0);
        let Some(quoted) = &said.tpm else {
            let before = goes_on.and_then(|before| before.node.td.as_ref());
            let before = before.map(|td| ListChain::resume(td.list, from));
            let covered = v02_bound::step(round, before, None, findings).map(Coverage::of_bound)?;
            if let Some(before) = whole {
                v02_bound::continues(round.list, covered.entries, &before.node, findings);
            }
            return Some(covered);
        };
        let start = goes_on.map(|before| v02_coverage::remembered(round.first, &before.node.pcrs));
        let view = decoded::view_of(&self.bundle.list, &quoted.banks);
        let Some(covered) = v02_coverage::step(&view, start.as_ref(), quoted, self.policy, findings) else {
            findings.push(fail(
                Rule::Coverage,
                "no prefix of the list leads to the quoted register: digests were altered, removed or \
                 reordered",
            ));
            return None;
        };
        if let Some(before) = whole {
            v02_coverage::continues(&view.digests, covered.entries, &before.node, findings);
        }
        Some(covered)
    }

    /// V4 and V6: the last checkpoint stands in the covered list, is signed by this boot's key and fresh, and
    /// hides no loss.
    fn checkpoints(
        &self,
        said: &Said,
        followed: Option<&TenantState>,
        covered: usize,
        findings: &mut Findings,
    ) -> Option<Chained> {
        let bundle = self.bundle;
        let mut read = |what: &str, file: &[u8]| match SealedCheckpoint::from_file(file) {
            Ok(sealed) => Some(sealed),
            Err(error) => {
                findings.push(fail(
                    Rule::Chain,
                    format!("{what} checkpoint cannot be read: {error}"),
                ));
                None
            }
        };
        let last = read("the last", &bundle.last)?;
        let first = match &bundle.first {
            Some(file) => Some(read("the first", file)?),
            None => None,
        };
        self.vouched(said, first.as_ref(), &last, covered, findings);
        if let Some(first) = &first
            && (first.checkpoint.number != 0 || first.checkpoint.boot_id != bundle.boot_id)
        {
            findings.push(fail(
                Rule::Chain,
                "the first checkpoint is not number 0 of this boot",
            ));
        }
        let stated = first.as_ref().and_then(|first| first.checkpoint.key.clone());
        let remembered = followed.map(|before| before.checkpoint_key.clone());
        if let (Some(stated), Some(remembered)) = (&stated, &remembered)
            && stated != remembered
        {
            findings.push(fail(
                Rule::Chain,
                "the key of this boot's checkpoints is another one than before",
            ));
        }
        let Some(key) = remembered.or(stated) else {
            findings.push(fail(
                Rule::Chain,
                "nothing names the key of this boot's checkpoints: the bundle is for a reader that has \
                 followed the node",
            ));
            return None;
        };
        for sealed in first.iter().chain([&last]) {
            if sealed.verify(&key).is_err() {
                let n = sealed.checkpoint.number;
                findings.push(fail(
                    Rule::Chain,
                    format!("checkpoint {n} is not signed by the key of checkpoint 0"),
                ));
            }
        }
        self.states(&last, followed, findings);
        let predates = match (&first, followed) {
            (Some(first), _) => first.checkpoint.predating.contains(&self.pod),
            (None, Some(before)) => before.predates,
            (None, None) => true,
        };
        Some(Chained { last, key, predates })
    }

    /// What the last checkpoint states beside the partitions.
    fn states(&self, last: &SealedCheckpoint, followed: Option<&TenantState>, findings: &mut Findings) {
        let checkpoint = &last.checkpoint;
        let n = checkpoint.number;
        if checkpoint.boot_id != self.bundle.boot_id {
            findings.push(fail(Rule::Chain, format!("checkpoint {n} is of another boot")));
        }
        if !v04_chain::is_fresh(checkpoint, self.nonce) {
            findings.push(v04_chain::not_fresh(checkpoint, self.nonce));
        }
        if let Some(before) = followed.and_then(|before| before.node.checkpoint.as_ref())
            && n <= before.number
        {
            findings.push(
                fail(Rule::Chain, "no checkpoint was made since the last bundle")
                    .found(n)
                    .expected(format!("more than {}", before.number)),
            );
        }
        if let Some(before) = followed
            && checkpoint.list_len < before.node.covered
        {
            findings.push(
                fail(
                    Rule::Chain,
                    format!("checkpoint {n} states a list that is shorter than what was covered before it"),
                )
                .found(checkpoint.list_len)
                .expected(format!("at least {}", before.node.covered)),
            );
        }
        v06_losses::blind(checkpoint, findings);
        findings.extend(v06_losses::lost_finding(checkpoint, self.policy));
    }

    /// The anchor vouches for the checkpoints' files.
    fn vouched(
        &self,
        said: &Said,
        first: Option<&SealedCheckpoint>,
        last: &SealedCheckpoint,
        covered: usize,
        findings: &mut Findings,
    ) {
        let Some((rtmr, policy)) = self.anchors.rtmr else {
            for sealed in [Some(last), first].into_iter().flatten() {
                self.anchored(sealed, covered, findings);
            }
            return;
        };
        let Some(first) = first else {
            findings.push(fail(
                Rule::Chain,
                "checkpoint 0 is not there, with which the register's log begins",
            ));
            return;
        };
        let asked = Anchored {
            rtmr,
            policy,
            quoted: said.td.as_ref(),
        };
        let log = self.bundle.register_log.as_deref();
        RegisterChain::default().ends((first, last), &self.bundle.quote, log, &asked, findings);
    }

    /// A checkpoint's file is measured by a whole entry of the covered list, under its own name.
    fn anchored(&self, sealed: &SealedCheckpoint, covered: usize, findings: &mut Findings) {
        let n = sealed.checkpoint.number;
        let whole: Vec<(usize, Entry)> = self
            .bundle
            .list
            .iter()
            .enumerate()
            .take(covered)
            .filter(|(_, entry)| matches!(entry, Entry::Full(_)))
            .map(|(index, entry)| (index, entry.clone()))
            .collect();
        let (places, entries): (Vec<usize>, Vec<Entry>) = whole.into_iter().unzip();
        let lines = decoded::view_of(&entries, &[Bank::Sha1]).lines;
        let found = lines.iter().zip(&places).find(|(line, _)| {
            line.path.and_then(number_from_path) == Some(n) && v04_chain::is_of(line, sealed)
        });
        let Some((line, place)) = found else {
            findings.push(
                fail(
                    Rule::Chain,
                    format!("the file of checkpoint {n} does not stand in the covered part of the list"),
                )
                .expected(format!("sha256:{}", hex::encode(sealed.digest()))),
            );
            return;
        };
        let index = self.bundle.from.saturating_add(*place as u64);
        let before = findings.kept();
        line.check(0, findings);
        let kept = Kept::default();
        let one = Lines::new(0, core::slice::from_ref(line), &kept);
        v03_template::check(&one, 0..1, self.policy, findings);
        findings.renumber(before, |_| Some(index));
        if index < sealed.checkpoint.list_len {
            findings.push(
                fail(
                    Rule::Chain,
                    format!("checkpoint {n} says that the list was longer than where it stands itself"),
                )
                .found(sealed.checkpoint.list_len)
                .expected(format!("at most {index}")),
            );
        }
    }

    /// V5: the records are exactly those that the last checkpoint seals for this pod.
    fn partition(
        &self,
        last: &Checkpoint,
        followed: Option<&TenantState>,
        findings: &mut Findings,
    ) -> Option<SealedPartition> {
        let key = PartitionKey::Pod(self.pod);
        let records = &self.bundle.records;
        let leaves: Vec<Hash> = records.iter().map(Record::leaf_hash).collect();
        let sealed = match self.bundle.proof.check(key, &SealedTree::from(last)) {
            Ok(sealed) => sealed,
            Err(error) => {
                findings.push(fail(Rule::Records, error.to_string()));
                return None;
            }
        };
        match &sealed {
            Some(sealed) => {
                if let Err(error) = sealed.check_complete(leaves.iter().copied()) {
                    findings.push(fail(Rule::Records, error.to_string()));
                }
            }
            None if !records.is_empty() => {
                findings.push(fail(
                    Rule::Records,
                    "the bundle holds records of a pod that is shown to have none",
                ));
            }
            None => {}
        }
        if let Some(before) = followed.and_then(|before| before.partition) {
            let prefix = usize::try_from(before.size)
                .ok()
                .and_then(|size| leaves.get(..size));
            if prefix.map(|prefix| merkle::root(prefix.iter().copied())) != Some(before.root) {
                findings.push(fail(
                    Rule::Records,
                    "records that were sealed before were altered, dropped or reordered since",
                ));
            }
        }
        self.counts(last, findings);
        sealed
    }

    fn counts(&self, last: &Checkpoint, findings: &mut Findings) {
        let records = &self.bundle.records;
        let executions = records.iter().filter(|r| r.is_execution()).count() as u64;
        if records.len() as u64 > last.records || executions > last.executions {
            findings.push(fail(
                Rule::Records,
                "this pod alone has more records than the checkpoint counts in all",
            ));
        }
        let mut seqs = HashSet::new();
        for record in records {
            let mut is_odd = |seq: u64| !seqs.insert(seq) || seq == 0 || seq > last.last_seq;
            if is_numbered(record) && is_odd(record.seq) {
                findings.push(
                    fail(
                        Rule::Records,
                        "a record's sequence number was given twice, or is none that the checkpoint knows",
                    )
                    .at_seq(record.seq),
                );
            }
            let of_path = partition_of(record.cgroup.as_deref());
            if of_path != PartitionKey::Pod(self.pod) {
                findings.push(
                    fail(
                        Rule::Records,
                        "a record stands in a partition that is not its cgroup's",
                    )
                    .at_seq(record.seq)
                    .found(self.pod)
                    .expected(of_path),
                );
            }
        }
    }

    /// V3, V5, V9 and V12: what the pod ran is what its policy accepts.
    fn contents(
        &self,
        banks: &[Bank],
        covered: usize,
        predates: bool,
        findings: &mut Findings,
    ) -> Option<PodVerdict> {
        let bundle = self.bundle;
        let list: Vec<Entry> = bundle.entries.iter().cloned().map(Entry::Full).collect();
        let log = PartitionLog {
            key: PartitionKey::Pod(self.pod),
            records: bundle.records.clone(),
        };
        let all = decoded::banks(bundle.records.iter(), banks.iter().copied());
        let view = decoded::view_of(&list, &all);
        let before = findings.kept();
        for (index, line) in view.lines.iter().enumerate() {
            line.check(index, findings);
        }
        let kept = Kept::default();
        let lines = Lines::new(0, &view.lines, &kept);
        v03_template::check(&lines, 0..lines.len(), self.policy, findings);
        if bundle.from == 0 {
            self.listed(&view, banks, covered, findings);
        }
        let logs = [log];
        let records: Vec<Owned<'_>> = v05_join::in_order(&logs);
        let joins = v05_join::entries(&records, &view, &lines, findings);
        let chain = Chain::default();
        let scene = Scene {
            policy: self.policy,
            chain: &chain,
            joins: &joins,
            lines,
            covered: lines.len(),
            provenance: Provenance::Observed,
            kexecs: &[],
            impostors: &[],
        };
        let mut usage = Usage::default();
        usage.step(&scene, &records);
        let waivers = Waivers::default();
        let mut called = Called::default();
        called.step(&records, self.policy);
        findings.absorb(called.malformed());
        // One without a record has no verdict of its own, however old it is.
        let predating = if predates && !bundle.records.is_empty() {
            core::slice::from_ref(&self.pod)
        } else {
            &[]
        };
        let names = Names {
            pod_info: &[],
            named: &called,
            predating,
            provenance: Provenance::Observed,
            policy: self.policy,
            waivers: &waivers,
        };
        let concluded = usage.conclude(&BTreeMap::new(), &names, &mut Waits::default(), findings);
        let mut pod = concluded.pods.into_iter().find(|pod| pod.uid == self.pod);
        let own = pod.as_mut().map_or(&mut [][..], |pod| &mut pod.findings);
        // The whole list is looked through for it.
        if findings.kept() > before || !own.is_empty() {
            let numbers = self.numbers(&view, banks, covered);
            let number = |shown: u64| {
                let shown = usize::try_from(shown).ok()?;
                *numbers.get(shown)?
            };
            findings.renumber(before, number);
            for finding in own {
                finding.index = finding.index.and_then(number);
            }
        }
        pod
    }

    fn remember(
        &self,
        said: &Said,
        covered: &Coverage,
        chained: &Chained,
        partition: Option<SealedPartition>,
    ) -> TenantState {
        TenantState {
            pod: self.pod,
            node: NodeState {
                checkpoint: Some(CheckpointState {
                    number: chained.last.checkpoint.number,
                    digest: chained.last.digest(),
                    partitions: Vec::new(),
                }),
                ..said.remember(self.bundle.boot_id, self.context.now, covered)
            },
            checkpoint_key: chained.key.clone(),
            predates: chained.predates,
            partition,
        }
    }
}
