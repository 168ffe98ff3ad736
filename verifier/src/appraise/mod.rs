//! Appraisal: evidence and policy in, verdict out.
//!
//! Pure: no I/O, no clock. Every rule of SPECIFICATION.md section 3 has one place here. No check is passed over because
//! its input is missing: what is absent fails, and a bypass is a key that starts with `dangerous-` and is repeated in
//! the verdict. Not here: what is allowed (see `policy`), how evidence is encoded (see `evidence`).

mod boot;
pub(crate) mod chain;
pub mod context;
pub(crate) mod coverage;
pub mod explain;
pub mod finding;
mod guard;
pub(crate) mod history;
pub(crate) mod join;
pub(crate) mod judge;
pub(crate) mod quote;
pub(crate) mod scene;
mod sealed;
mod tally;
pub(crate) mod template;
pub mod verdict;
pub(crate) mod view;

pub use context::{CheckpointState, Context, ExpectedNonce, NodeState, PinnedKey};
pub use finding::{Finding, MAX_FINDINGS, Rule, Severity, Subject};
pub use quote::{KeyError, key_name};
pub use verdict::{AwaitedPod, BootJudgement, Deviation, NodeVerdict, PodVerdict, SeenFile, State, Verdict};

use crate::accept::{Acceptances, Accepted};
use chain::Chain;
use coverage::Coverage;
use evidence::{Evidence, PartitionKey, Provenance, Tier};
pub(crate) use finding::Findings;
use history::{Present, Relation};
use join::Joins;
use judge::Judged;
use policy::Policy;
use quote::Quoted;
use scene::Scene;
use view::View;

/// A nonce is never shorter than this many bytes: shorter ones can be guessed ahead.
pub const MIN_NONCE_LEN: usize = 8;
/// A nonce is never longer than this many bytes: TPM2B_DATA of a quote holds no more. TPM 2.0 Part 2, 10.4.3.
pub const MAX_NONCE_LEN: usize = 64;

/// Why nothing can be concluded: the question was not a meaningful one. What is wrong with the evidence itself is never
/// an error but a finding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The policy is for another node.
    #[error("the policy is for node {policy:?}, not for {node:?}")]
    OtherNode {
        /// Whom the policy names.
        policy: String,
        /// Whom the context names.
        node: String,
    },
    /// The nonce has a length that no request uses.
    #[error("the nonce has {len} bytes, it must have {MIN_NONCE_LEN} to {MAX_NONCE_LEN}")]
    Nonce {
        /// Its length.
        len: usize,
    },
    /// The pinned key is none.
    #[error("the pinned attestation key cannot be used: {0}")]
    PinnedKey(#[from] KeyError),
    /// Evidence of a version that is not known here.
    #[error("evidence version {0}, not 1")]
    Version(u32),
}

impl Unusable {
    /// What to do about it, for people.
    pub fn hint(&self) -> &'static str {
        match self {
            Unusable::OtherNode { .. } => "give the policy whose `node:` is this node",
            Unusable::Nonce { .. } => "give the nonce of the request, in hex",
            Unusable::PinnedKey(_) => {
                "give the node's TPMT_PUBLIC or TPM2B_PUBLIC file, or its fingerprint in hex (000b…)"
            }
            Unusable::Version(_) => "use the cgpath that fits the node's cgpathd",
        }
    }
}

/// Rule V1 alone: what is wrong with a quote, whose PCR 0 to 9 are stated to be these. For whoever wants to know that before
/// anything else is looked at.
pub fn quote_findings(
    quote: &evidence::Quote,
    registers: &[evidence::boot::Registers],
    context: &Context,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    quote::check(quote, registers, context, &mut findings);
    findings.into_vec()
}

/// Judges evidence by a policy.
///
/// # Errors
/// [`Unusable`] if the policy, the nonce or the pinned key do not fit the question. Whatever is wrong with the evidence
/// gives a [`Verdict`] that is not trusted.
pub fn appraise(evidence: &Evidence, policy: &Policy, context: &Context) -> Result<Verdict, Unusable> {
    appraise_accepting(evidence, policy, context, &[], context.now)
}

/// The same with findings that somebody accepted; statements hold or have ended as of `now`, in unix seconds.
///
/// # Errors
/// Those of [`appraise`].
pub fn appraise_accepting(
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
    accepted: &[Accepted],
    now: u64,
) -> Result<Verdict, Unusable> {
    usable(evidence, policy, context)?;
    let mut findings = Findings::default();
    let mut notes = Vec::new();

    if !policy.file.accept.tiers.contains(&evidence.tier) {
        let finding = Finding::fail(Rule::V13, Subject::Node, "the policy does not accept this tier")
            .found(evidence.tier);
        findings.push(policy.file.accept.tiers.iter().fold(finding, Finding::expected));
    }
    let quoted = quote::check(&evidence.quote, evidence.registers(), context, &mut findings);
    let view = view::view(evidence);
    let lines = view.lines.as_slice();
    // Each bank's chain is one thread's work: records are hashed beside them.
    let (coverage, logs) = rayon::join(
        || {
            let quoted = quoted.as_ref()?;
            coverage::check(&evidence.list, &view, quoted, policy, &mut findings)
        },
        || sealed::logs(evidence),
    );
    // Where the quote covers nothing the node is untrusted; what else is wrong is still worth saying.
    let covered = coverage.as_ref().map_or(lines.len(), |c| c.entries);
    template::check(lines, covered, evidence.tier, policy, &mut findings);
    let relation = compare(
        evidence,
        policy,
        context,
        quoted.as_ref(),
        &mut findings,
        &mut notes,
    );
    if let (Some(before), Some(coverage), Relation::SameBoot | Relation::Kexec) =
        (&context.previous, &coverage, relation)
    {
        coverage::continues(&view.digests, coverage, before, &mut findings);
    }

    let is_recorded =
        evidence.tier == Tier::Bpf || !evidence.checkpoints.is_empty() || !evidence.partitions.is_empty();
    let case = Case {
        evidence,
        policy,
        context,
        view: &view,
        covered,
        relation,
        accepted: Acceptances::of(accepted, &context.node, evidence.boot_id, now),
    };
    let outcome = if is_recorded {
        case.recorded(&logs, &mut findings)
    } else {
        case.attested(&mut findings)
    };

    let boot = boot::check(
        evidence,
        lines,
        quoted.as_ref(),
        coverage.as_ref(),
        policy,
        &mut findings,
    );
    let outcome = Outcome { boot, ..outcome };
    Ok(case.conclude(outcome, quoted.as_ref(), coverage.as_ref(), findings, notes))
}

fn usable(evidence: &Evidence, policy: &Policy, context: &Context) -> Result<(), Unusable> {
    if policy.file.node != context.node {
        return Err(Unusable::OtherNode {
            policy: policy.file.node.clone(),
            node: context.node.clone(),
        });
    }
    if let ExpectedNonce::Value(nonce) = &context.nonce
        && !(MIN_NONCE_LEN..=MAX_NONCE_LEN).contains(&nonce.len())
    {
        return Err(Unusable::Nonce { len: nonce.len() });
    }
    context.key.check()?;
    if evidence.version != 1 {
        return Err(Unusable::Version(evidence.version));
    }
    Ok(())
}

fn compare(
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
    quoted: Option<&Quoted>,
    findings: &mut Findings,
    notes: &mut Vec<String>,
) -> Relation {
    let Some(quoted) = quoted else {
        findings.push(Finding::fail(
            Rule::V7,
            Subject::Node,
            "there are no counters to compare: the quote cannot be read",
        ));
        return Relation::First;
    };
    let present = Present {
        ak_name: &quoted.ak_name,
        boot_id: evidence.boot_id,
        reset_count: quoted.reset_count,
        restart_count: quoted.restart_count,
        clock_ms: quoted.clock_ms,
        safe: quoted.safe,
    };
    let kexec_allowed = policy.file.kexec == policy::Kexec::Allow;
    history::check(present, context.previous.as_ref(), kexec_allowed, findings, notes)
}

/// The question, as far as it is settled when contents are looked at.
struct Case<'a> {
    evidence: &'a Evidence,
    policy: &'a Policy,
    context: &'a Context,
    view: &'a View<'a>,
    covered: usize,
    relation: Relation,
    accepted: Acceptances<'a>,
}

/// What either tier's part gives.
struct Outcome {
    chain: Chain,
    judged: Judged,
    pending: u64,
    unattributed: u64,
    lost: u64,
    boot: BootJudgement,
}

impl Case<'_> {
    fn scene<'a>(&'a self, chain: &'a Chain, joins: &'a Joins<'a>, provenance: Provenance) -> Scene<'a> {
        Scene {
            evidence: self.evidence,
            policy: self.policy,
            chain,
            joins,
            lines: &self.view.lines,
            covered: self.covered,
            relation: self.relation,
            accepted: &self.accepted,
            provenance,
            covered_before: self
                .context
                .previous
                .as_ref()
                .map_or(0, |p| usize::try_from(p.covered).unwrap_or(usize::MAX)),
        }
    }

    /// Attribution stands beside the list: checkpoints and records.
    fn recorded(&self, logs: &[sealed::Log], findings: &mut Findings) -> Outcome {
        let chain = chain::check(
            self.evidence,
            self.context,
            &self.view.lines,
            self.covered,
            findings,
        );
        sealed::check(self.evidence, logs, &chain, findings);
        if let Some(before) = &self.context.previous {
            let is_kernel = self.evidence.tier == Tier::Kernel;
            chain::continues(&chain, before, self.relation, is_kernel, findings);
            sealed::continues(logs, &chain, before, self.relation, findings);
        }
        let lost = chain::losses(&chain, self.policy, findings);
        chain::programs(&chain, self.policy, findings);
        let records = join::in_order(self.evidence);
        let joins = join::join(&records, &chain, self.view, self.covered, self.policy, findings);
        join::readers(
            &chain,
            &joins,
            &self.view.lines,
            self.covered,
            self.policy,
            findings,
        );
        guard::check(&chain, &records, self.policy, findings);
        let provenance = match self.evidence.tier {
            Tier::Kernel => Provenance::Attested,
            Tier::Bpf => Provenance::Observed,
        };
        let scene = self.scene(&chain, &joins, provenance);
        judge::foundations(&scene, findings);
        let judged = judge::judge(&scene, &records, findings);
        let without_cgroup = records
            .iter()
            .filter(|(key, _)| *key == PartitionKey::Unattributed)
            .count();
        Outcome {
            pending: joins.pending,
            unattributed: (joins.unattributed.len() + without_cgroup) as u64,
            judged,
            lost,
            chain,
            boot: BootJudgement::Absent,
        }
    }

    /// Attribution stands in the list itself.
    fn attested(&self, findings: &mut Findings) -> Outcome {
        let chain = Chain {
            checkpoints: Vec::new(),
            anchors: Vec::new(),
        };
        let joins = Joins::default();
        let scene = self.scene(&chain, &joins, Provenance::Attested);
        judge::foundations(&scene, findings);
        let (judged, unattributed) = judge::judge_attested(&scene, findings);
        Outcome {
            judged,
            pending: 0,
            unattributed,
            lost: 0,
            chain,
            boot: BootJudgement::Absent,
        }
    }

    fn conclude(
        &self,
        outcome: Outcome,
        quoted: Option<&Quoted>,
        coverage: Option<&Coverage>,
        mut findings: Findings,
        mut notes: Vec<String>,
    ) -> Verdict {
        let (evidence, policy) = (self.evidence, self.policy);
        let Outcome {
            chain,
            judged:
                Judged {
                    mut pods,
                    suspect,
                    learned,
                    node: deviations,
                },
            pending,
            unattributed,
            lost,
            boot,
        } = outcome;
        findings.accept(&self.accepted);
        let findings = to_pods(findings.into_vec(), &mut pods);
        let disbelieved = disbelief(&findings);
        if let Some(rule) = disbelieved {
            for pod in &mut pods {
                pod.findings.push(Finding::fail(
                    rule,
                    Subject::Partition(PartitionKey::Pod(pod.uid)),
                    format!("the node's evidence is not to be believed ({rule}), so nothing can be said for this pod"),
                ));
                if pod.state != State::Unknown {
                    pod.state = State::Untrusted;
                }
            }
        }
        if evidence.node != self.context.node {
            notes.push(format!("the node calls itself {:?}", evidence.node));
        }
        let is_trusted = !findings.iter().any(|f| f.severity == Severity::Fail);
        let mut dangerous: Vec<String> = policy.dangerous_keys().into_iter().map(str::to_owned).collect();
        if self.context.key == PinnedKey::DangerousTofu {
            dangerous.push("dangerous-tofu".into());
        }
        if self.context.nonce == ExpectedNonce::DangerousNone {
            dangerous.push("dangerous-no-nonce".into());
        }
        let state = match (disbelieved, quoted, coverage) {
            (None, Some(quoted), Some(coverage)) => Some(self.remember(&chain, quoted, coverage)),
            _ => None,
        };
        let accepted = self
            .accepted
            .notes(findings.iter().chain(pods.iter().flat_map(|pod| &pod.findings)));
        let start = policy
            .pods
            .values()
            .filter(|known| pods.iter().all(|pod| pod.uid != known.pod.uid))
            .map(|known| AwaitedPod {
                uid: known.pod.uid,
                name: known.pod.name.clone(),
            })
            .collect();
        let last = chain.last();
        let node = NodeVerdict {
            name: self.context.node.clone(),
            state: if is_trusted {
                State::Trusted
            } else {
                State::Untrusted
            },
            tier: evidence.tier,
            anchor: anchor(quoted, coverage),
            key: quoted.map(|q| q.ak_name.clone()).unwrap_or_default(),
            boot_id: evidence.boot_id,
            kernel: evidence.kernel.clone(),
            entries: self.view.lines.len() as u64,
            covered: coverage.map_or(0, |c| c.entries as u64),
            boot_entries: chain.boot_len().min(self.view.lines.len()) as u64,
            pending,
            checkpoint: last.map(|l| l.number),
            checkpoint_sha256: chain.checkpoints.last().map(evidence::SealedCheckpoint::digest),
            records: last.map_or(0, |l| l.records),
            executions: last.map_or(0, |l| l.executions),
            unattributed,
            lost,
            suspect,
            boot,
            fnf: deviations.fnf,
            filehash_err: deviations.filehash_err,
            excluded: deviations.excluded,
            notes,
            findings,
        };
        Verdict {
            version: verdict::VERDICT_VERSION,
            time: self.context.now,
            trusted: is_trusted && pods.iter().all(|pod| pod.state == State::Trusted),
            dangerous,
            relaxations: policy.relaxations(),
            policy: policy.digest().clone(),
            learned,
            node,
            pods,
            start,
            accepted,
            rejudged: None,
            state,
        }
    }

    fn remember(&self, chain: &Chain, quoted: &Quoted, coverage: &Coverage) -> NodeState {
        let sizes = || {
            self.evidence
                .partitions
                .iter()
                .map(|log| (log.key, log.records.len() as u64))
                .collect()
        };
        NodeState {
            ak_name: quoted.ak_name.clone(),
            boot_id: self.evidence.boot_id,
            checkpoint: chain.checkpoints.last().map(|sealed| CheckpointState {
                number: sealed.checkpoint.number,
                digest: sealed.digest(),
                partitions: sizes(),
            }),
            covered: coverage.entries as u64,
            pcrs: coverage.pcrs.clone(),
            reset_count: quoted.reset_count,
            restart_count: quoted.restart_count,
            clock_ms: quoted.clock_ms,
            time: self.context.now,
        }
    }
}

/// Gives each pod the findings that are its own; what remains is the node's.
fn to_pods(findings: Vec<Finding>, pods: &mut [PodVerdict]) -> Vec<Finding> {
    let mut rest = Vec::new();
    for finding in findings {
        let own = match finding.subject {
            Subject::Partition(PartitionKey::Pod(uid)) => pods.iter_mut().find(|pod| pod.uid == uid),
            _ => None,
        };
        match own {
            Some(pod) => {
                if finding.severity == Severity::Fail && pod.state != State::Unknown {
                    pod.state = State::Untrusted;
                }
                pod.findings.push(finding);
            }
            None => rest.push(finding),
        }
    }
    rest
}

/// The first rule that failed among those on which every other conclusion rests: then neither the node's nor any pod's
/// evidence is to be believed. Failures of the other rules are the node's own and leave the pods as they are.
fn disbelief(findings: &[Finding]) -> Option<Rule> {
    const BASIS: [Rule; 9] = [
        Rule::V1,
        Rule::V2,
        Rule::V3,
        Rule::V4,
        Rule::V5,
        Rule::V6,
        Rule::V7,
        // What another kernel says of pods is worth nothing.
        Rule::V10,
        Rule::V13,
    ];
    findings
        .iter()
        .find(|f| f.severity == Severity::Fail && BASIS.contains(&f.rule))
        .map(|f| f.rule)
}

fn anchor(quoted: Option<&Quoted>, coverage: Option<&Coverage>) -> String {
    let Some(quoted) = quoted else {
        return "none".into();
    };
    let padded = coverage.map_or(&[][..], |c| &c.padded);
    let banks: Vec<String> = quoted
        .banks
        .iter()
        .map(|bank| {
            format!(
                "{bank}{}",
                if padded.contains(bank) {
                    ", padded sha1"
                } else {
                    ""
                }
            )
        })
        .collect();
    format!("PCR {} ({})", coverage::PCR, banks.join(" and "))
}
