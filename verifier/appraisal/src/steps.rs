//! What is known of a node after a round, and how the next one is judged: the order in which the rules take
//! their steps.
//!
//! Promise: whole evidence and what follows it are judged by the same steps, so that a followed round has the
//! verdict of the whole. What cannot be judged in order, or is not to be believed, is given back as
//! [`Rebuild`]: the whole then says what is wrong. Not here: the rules themselves.

use crate::accept::{Waiver, Waivers};
use crate::anchors::{Anchors, Said};
use crate::inputs::context::{
    CheckpointState, Context, ExpectedNonce, MAX_IMPOSTORS, NodeState, PinnedKey, Waiting,
};
use crate::inputs::decoded;
use crate::inputs::kept::{Kept, Lines};
use crate::inputs::round::{Rebuild, Round};
use crate::results::finding::{Finding, Findings, Severity, Subject};
use crate::results::verdict;
use crate::results::verdict::{
    AwaitedPod, BootAppraisal, NodeVerdict, PodVerdict, State, TdVerdict, Verdict,
};
use crate::rules::names::Called;
use crate::rules::opinion::Scene;
use crate::rules::v02_coverage::Coverage;
use crate::rules::v03_template::Templates;
use crate::rules::v04_chain::Chain;
use crate::rules::v04_register::{Anchored, RegisterChain};
use crate::rules::v05_join::{Joins, Open};
use crate::rules::v05_pending::{Pending, Question};
use crate::rules::v05_sealed::Sealed;
use crate::rules::v07_history::Relation;
use crate::rules::v08_pods::{Concluded, Names};
use crate::rules::v09_contents::Usage;
use crate::rules::v11_loads::Loads;
use crate::rules::v14_guard::Watch;
use crate::rules::waits::Waits;
use crate::rules::{
    Rule, v02_bound, v02_coverage, v03_template, v04_readers, v05_join, v05_sealed, v06_losses, v10_boot,
};
use cgpath_evidence::{PartitionKey, Provenance, SealedCheckpoint, Tier, boot::BOOT_RTMRS, td::Register};
use cgpath_policy::Policy;
use std::ops::Range;

/// What is known of a node.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    coverage: Option<Coverage>,
    templates: Templates,
    chain: Chain,
    register: RegisterChain,
    sealed: Sealed,
    open: Open,
    /// Sealed records whose cgroup is not known: number and path.
    nameless: Vec<(u64, Vec<u8>)>,
    watch: Watch,
    loads: Loads,
    /// What the runtime calls pods and containers.
    called: Called,
    usage: Usage,
    boot: Option<(BootAppraisal, Findings)>,
    /// RTMR 0 to 2: as long as they are these, what was said of the boot holds.
    boot_rtmrs: Option<[Register; BOOT_RTMRS]>,
    /// Entries that accepted evidence covered when a kernel was started by kexec.
    kexecs: Vec<usize>,
    /// Of those entries, which were named like a checkpoint's file and measured none.
    impostors: Vec<usize>,
    kept: Kept,
    /// Whether every covered entry is kept.
    is_kept: bool,
}

/// The question, beside the evidence.
#[derive(Clone, Copy)]
struct Asked<'a> {
    policy: &'a Policy,
    context: &'a Context,
    waivers: &'a [Waiver],
    /// When accepted findings hold, unix seconds.
    now: u64,
    /// Whether more is to come after this round: then its entries are kept.
    keeps: bool,
}

impl Progress {
    /// Judges whole evidence; `keeps` if more is to come after it.
    pub(crate) fn begin(
        round: &Round<'_>,
        policy: &Policy,
        context: &Context,
        waivers: &[Waiver],
        now: u64,
        keeps: bool,
    ) -> (Verdict, Progress) {
        let asked = Asked {
            policy,
            context,
            waivers,
            now,
            keeps,
        };
        let mut progress = Progress::default();
        let verdict = progress
            .appraise(round, asked, false)
            .unwrap_or_else(|Rebuild| unreachable!("nothing is out of order where nothing came before"));
        (verdict, progress)
    }

    /// Judges what comes after what is known, with `context.previous` as what that left.
    ///
    /// # Errors
    /// [`Rebuild`]; what is known is then of no more use.
    pub(crate) fn go_on(
        &mut self,
        round: &Round<'_>,
        policy: &Policy,
        context: &Context,
        waivers: &[Waiver],
    ) -> Result<Verdict, Rebuild> {
        let asked = Asked {
            policy,
            context,
            waivers,
            now: context.now,
            keeps: true,
        };
        let verdict = self.appraise(round, asked, true)?;
        // What is not to be believed is worded and placed by an appraisal of everything.
        if verdict.state.is_none() || !self.is_kept {
            return Err(Rebuild);
        }
        Ok(verdict)
    }

    /// Whether a round can be judged that comes after this: what was covered is kept, none of it redacted.
    pub(crate) fn can_go_on(&self) -> bool {
        self.is_kept
    }

    /// Entries that were covered.
    pub(crate) fn covered(&self) -> usize {
        self.coverage.as_ref().map_or(0, |coverage| coverage.entries)
    }

    /// About how many bytes of memory this takes.
    pub(crate) fn weight(&self) -> usize {
        self.kept.weight() + self.usage.weight() + self.called.weight()
    }

    fn appraise(&mut self, round: &Round<'_>, asked: Asked<'_>, follows: bool) -> Result<Verdict, Rebuild> {
        let Asked { policy, context, .. } = asked;
        let mut findings = Findings::default();
        let mut notes = Vec::new();
        if !policy.file.accept.tiers.contains(&round.tier) {
            let finding = Finding::fail(
                Rule::Absent,
                Subject::Node,
                "the policy does not accept this tier",
            )
            .found(round.tier);
            findings.push(policy.file.accept.tiers.iter().fold(finding, Finding::expected));
        }
        let anchors = Anchors::of(policy);
        let said = Said::of(round, anchors, context, &mut findings);
        let view = decoded::view(round);
        // Each bank's chain is one thread's work: records are hashed beside them.
        let before = self.coverage.as_ref();
        let (coverage, logs) = rayon::join(
            || said.covers((round, &view), before, anchors, policy, &mut findings),
            || v05_sealed::logs(round.partitions),
        );
        if follows && (!said.is_whole(anchors) || coverage.is_none()) {
            return Err(Rebuild);
        }
        // Where the quote covers nothing the node is untrusted; what else is wrong is still worth saying.
        let covered = coverage
            .as_ref()
            .map_or(round.first.saturating_add(view.lines.len()), |c| c.entries);
        let Progress {
            templates,
            chain,
            register,
            sealed,
            open,
            nameless,
            watch,
            loads,
            called,
            usage,
            kexecs,
            impostors,
            kept,
            is_kept,
            boot,
            boot_rtmrs,
            coverage: known,
        } = self;
        let lines = Lines::new(round.first, &view.lines, kept);
        // What no PCR and no register binds is judged all the same.
        let tail = if anchors.has_pcr {
            covered..covered
        } else {
            covered..lines.len()
        };
        templates.step(&lines, covered, round.tier, policy, &mut findings);
        v03_template::check(&lines, tail.clone(), policy, &mut findings);
        templates.conclude(round.tier, &mut findings);
        let relation = said.compare(round, anchors, policy, context, &mut findings, &mut notes);
        if follows && relation != Relation::SameBoot {
            return Err(Rebuild);
        }
        // V7 alone looks at what was not believed.
        let previous = context.previous.as_ref().filter(|before| before.believed);
        if let (Some(before), Relation::SameBoot | Relation::Kexec) = (previous, relation)
            && !follows
        {
            kexecs.extend(before.kexecs.iter().filter_map(|at| usize::try_from(*at).ok()));
            if relation == Relation::Kexec {
                kexecs.extend(usize::try_from(before.covered));
            }
            let carried = kexecs.last().copied().unwrap_or(0);
            let earlier = before.impostors.iter().filter_map(|at| usize::try_from(*at).ok());
            impostors.extend(earlier.filter(|at| *at < carried));
            match &coverage {
                Some(coverage) if anchors.has_pcr => {
                    v02_coverage::continues(&view.digests, coverage.entries, before, &mut findings);
                }
                Some(coverage) => {
                    v02_bound::continues(round.list, coverage.entries, before, &mut findings);
                }
                None => {}
            }
        }
        let before = previous.filter(|_| relation == Relation::SameBoot);

        let is_recorded = round.tier == Tier::Bpf
            || chain.last().is_some()
            || !round.checkpoints.is_empty()
            || !round.partitions.is_empty();
        let records = v05_join::in_order(round.partitions);
        let mut joins = Joins::default();
        let mut lost = 0;
        if is_recorded {
            if !anchors.has_pcr {
                chain.off_list();
            }
            chain.look_out(before.and_then(|before| Some(before.checkpoint.as_ref()?.number)));
            chain.step(round, &lines, covered, policy, &mut findings, |checkpoint| {
                watch.sealed(checkpoint, policy);
            });
            if let Some((rtmr, policy)) = anchors.rtmr {
                let asked = Anchored {
                    rtmr,
                    policy,
                    quoted: said.td.as_ref(),
                };
                register.step(round, &asked, &mut findings);
            }
            sealed.step(round.partitions, &logs, chain, &mut findings)?;
            let is_kernel = round.tier == Tier::Kernel;
            chain.conclude(&context.nonce, before, is_kernel, &mut findings);
            if let Some(before) = before
                && !follows
            {
                v05_sealed::continues(&logs, chain, before, &mut findings);
            }
            if let Some(before) = before {
                v05_sealed::keeps_word(&logs, &before.unsealed, &mut findings);
            }
            lost = v06_losses::of_node(chain.last(), policy, &mut findings);
            findings.absorb(chain.findings());
            joins = open.step(&records, &view, &lines, covered, chain.boot_len(), &mut findings)?;
            v04_readers::step(chain, &joins, &lines, policy, &mut findings);
            watch.step(&records, policy);
            loads.step(&records, policy);
            called.step(&records, policy);
            findings.absorb(called.malformed());
            nameless.extend(
                records
                    .iter()
                    .filter(|(key, _)| *key == PartitionKey::Unattributed)
                    .map(|(_, record)| (record.seq, record.path.clone())),
            );
            findings.absorb(open.findings());
            watch.conclude(policy, &mut findings);
            loads.conclude(&mut findings);
        } else {
            chain.name(&lines, covered);
            if anchors.rtmr.is_some() {
                findings.push(Finding::fail(
                    Rule::Chain,
                    Subject::Node,
                    "there are no checkpoints, and nothing else extends a trust domain's register",
                ));
            }
        }
        let scene = Scene {
            policy,
            chain,
            joins: &joins,
            lines,
            covered,
            provenance: provenance(round.tier, is_recorded),
            kexecs,
            impostors,
        };
        let pending = if is_recorded {
            usage.step(&scene, &records);
            if loads.learned {
                usage.learned_on_host();
            }
            let question = Question {
                round,
                scene: &scene,
                view: &view,
                open,
                tail: tail.clone(),
                usage,
                nameless,
                before,
                now: context.now,
            };
            question.conclude(&mut findings)
        } else {
            usage.step_attested(&scene);
            Pending {
                unattributed: usage.untagged(policy, &mut findings),
                ..Pending::default()
            }
        };
        usage.foundations(policy, &mut findings);
        let rtmrs = anchors.rtmr.and_then(|(rtmr, _)| said.boot_rtmrs(rtmr, register));
        if follows && rtmrs != *boot_rtmrs {
            return Err(Rebuild);
        }
        *boot_rtmrs = rtmrs;
        let boot_appraisal = match boot {
            Some((appraisal, stated)) => {
                findings.absorb(stated);
                *appraisal
            }
            None => {
                let mut stated = Findings::default();
                let of_pcr = anchors.has_pcr.then(|| {
                    v10_boot::check(
                        round,
                        &view.lines,
                        said.tpm.as_ref(),
                        coverage.as_ref(),
                        policy,
                        &mut stated,
                    )
                });
                let of_td = anchors.rtmr.map(|(_, policy)| {
                    v10_boot::check_td(round, &view.lines, rtmrs.as_ref(), policy, &mut stated)
                });
                let both = of_pcr.into_iter().chain(of_td);
                let appraisal = both.reduce(v10_boot::worse).unwrap_or(BootAppraisal::Absent);
                findings.absorb(&stated);
                *boot = Some((appraisal, stated));
                appraisal
            }
        };
        let case = Case {
            round,
            asked,
            scene: &scene,
            sealed,
            usage,
            called,
            before,
            said: &said,
            anchors,
            register,
            tail,
            coverage: coverage.as_ref(),
        };
        let outcome = Outcome {
            pending,
            lost,
            boot: boot_appraisal,
        };
        let verdict = case.conclude(outcome, findings, notes);
        // Nothing goes on from what is not to be believed, nor where there is no checkpoint to go on from.
        let state = verdict.state.as_ref();
        if asked.keeps && state.is_some_and(|state| state.checkpoint.is_some()) {
            let new = round.list.get(..covered.saturating_sub(round.first));
            *is_kept = new.is_some_and(|new| kept.extend(new, &view.digests).is_some());
        }
        if coverage.is_some() {
            *known = coverage;
        }
        Ok(verdict)
    }
}

/// What it rests on whose an entry is.
fn provenance(tier: Tier, is_recorded: bool) -> Provenance {
    match tier {
        Tier::Bpf if is_recorded => Provenance::Observed,
        Tier::Bpf | Tier::Kernel => Provenance::Attested,
    }
}

/// What the verdict is made of.
struct Case<'c, 'a> {
    round: &'c Round<'a>,
    asked: Asked<'c>,
    scene: &'c Scene<'a>,
    sealed: &'c Sealed,
    usage: &'c Usage,
    called: &'c Called,
    /// The last accepted evidence of this boot.
    before: Option<&'c NodeState>,
    said: &'c Said,
    anchors: Anchors<'c>,
    register: &'c RegisterChain,
    /// Entries that are judged and bound by nothing.
    tail: Range<usize>,
    coverage: Option<&'c Coverage>,
}

struct Outcome {
    pending: Pending,
    lost: u64,
    boot: BootAppraisal,
}

impl Case<'_, '_> {
    fn conclude(&self, outcome: Outcome, mut findings: Findings, mut notes: Vec<String>) -> Verdict {
        let Case { round, scene, .. } = self;
        let Asked {
            policy,
            context,
            waivers,
            now,
            ..
        } = self.asked;
        let Outcome { pending, lost, boot } = outcome;
        let in_force = Waivers::of(waivers, &context.node, round.boot_id, now);
        let waiting = self.before.map_or(&[][..], |before| &before.waiting[..]);
        let is_named = |one: &Waiting| self.called.is_named(one.uid, one.container.as_deref());
        let mut waits = Waits::new(waiting, is_named, context.now);
        let names = Names {
            pod_info: round.pods,
            named: self.called,
            predating: scene.chain.predating(),
            provenance: scene.provenance,
            policy,
            waivers: &in_force,
        };
        let Concluded {
            mut pods,
            suspect,
            learned,
            node: deviations,
        } = self
            .usage
            .conclude(&pending.late, &names, &mut waits, &mut findings);
        in_force.apply_to(&mut findings);
        let findings = to_pods(findings.into_vec(), &mut pods);
        let disbelieved = findings
            .iter()
            .find(|finding| finding.severity == Severity::Fail && finding.rule.is_basis())
            .map(|finding| finding.rule);
        if let Some(rule) = disbelieved {
            for pod in &mut pods {
                pod.findings.push(Finding::fail(
                    rule,
                    Subject::Partition(PartitionKey::Pod(pod.uid)),
                    format!(
                        "the node's evidence is not to be believed ({rule}), so nothing can be said for \
                        this pod"
                    ),
                ));
                if pod.state != State::Unknown {
                    pod.state = State::Untrusted;
                }
            }
        }
        if round.node != context.node {
            notes.push(format!("the node calls itself {:?}", round.node));
        }
        let is_trusted = !findings.iter().any(|f| f.severity == Severity::Fail);
        let mut dangerous: Vec<String> = policy.dangerous_keys().into_iter().map(str::to_owned).collect();
        if context.key == PinnedKey::DangerousTofu {
            dangerous.push("dangerous-tofu".into());
        }
        if context.nonce == ExpectedNonce::DangerousNone {
            dangerous.push("dangerous-no-nonce".into());
        }
        let accepted = in_force.notes(findings.iter().chain(pods.iter().flat_map(|pod| &pod.findings)));
        let is_quoted = self.said.is_whole(self.anchors);
        let state = match (disbelieved, self.coverage) {
            (None, Some(coverage)) if is_quoted => Some(self.remember(&pending, waits.left, coverage)),
            _ => None,
        };
        let is_signed = !findings
            .iter()
            .any(|finding| finding.rule == Rule::Quote && finding.severity == Severity::Fail);
        // Counters are a TPM's.
        let first_sight = match (&state, &self.said.tpm, &context.previous) {
            (None, Some(_), None) if is_signed => Some(self.said.seen(round.boot_id, context.now)),
            _ => None,
        };
        let start = policy
            .pods
            .values()
            .filter(|known| pods.iter().all(|pod| pod.uid != known.pod.uid))
            .map(|known| AwaitedPod {
                uid: known.pod.uid,
                undashed: known.pod.is_undashed,
                name: known.pod.name.clone(),
            })
            .collect();
        let entries = round.first.saturating_add(round.list.len());
        let last = scene.chain.last();
        let node = NodeVerdict {
            name: context.node.clone(),
            state: if is_trusted {
                State::Trusted
            } else {
                State::Untrusted
            },
            believed: disbelieved.is_none(),
            tier: round.tier,
            anchor: self.said.anchor(self.anchors, self.coverage),
            key: self.said.key(),
            boot_id: round.boot_id,
            kernel: round.kernel.to_owned(),
            entries: entries as u64,
            covered: self.coverage.map_or(0, |c| c.entries as u64),
            boot_entries: scene.chain.boot_len().min(entries) as u64,
            pending: pending.entries,
            checkpoint: last.map(|l| l.number),
            checkpoint_sha256: scene.chain.last_sealed().map(SealedCheckpoint::digest),
            records: last.map_or(0, |l| l.records),
            executions: last.map_or(0, |l| l.executions),
            unattributed: pending.unattributed,
            lost,
            suspect,
            td: self.td(),
            boot,
            fnf: deviations.fnf,
            filehash_err: deviations.filehash_err,
            left_out: deviations.left_out,
            excluded: deviations.excluded,
            notes,
            findings,
        };
        Verdict {
            version: verdict::VERDICT_VERSION,
            time: context.now,
            trusted: is_trusted && pods.iter().all(|pod| pod.state == State::Trusted),
            dangerous,
            relaxations: policy.relaxations(),
            policy: policy.digest().clone(),
            workloads: policy.workloads.as_ref().map(|part| part.digest().clone()),
            learned,
            node,
            pods,
            start,
            accepted,
            rejudged: None,
            state,
            first_sight,
        }
    }

    fn remember(&self, pending: &Pending, waiting: Vec<Waiting>, coverage: &Coverage) -> NodeState {
        let mut partitions: Vec<(PartitionKey, u64)> = self.sealed.sizes().collect();
        partitions.sort_by_cached_key(|(key, _)| key.to_string());
        NodeState {
            checkpoint: self.scene.chain.last_sealed().map(|sealed| CheckpointState {
                number: sealed.checkpoint.number,
                digest: sealed.digest(),
                partitions,
            }),
            unsealed: pending.shown.clone(),
            held: pending.held.clone(),
            kexecs: self.scene.kexecs.iter().map(|at| *at as u64).collect(),
            impostors: self.impostors(),
            waiting,
            ..self
                .said
                .remember(self.round.boot_id, self.asked.context.now, coverage)
        }
    }

    fn td(&self) -> Option<TdVerdict> {
        let quoted = self.said.td.as_ref()?;
        let platform = quoted.platform.as_ref();
        let is_alone = !self.anchors.has_pcr;
        Some(TdVerdict {
            node_key: quoted.node_key,
            platform: platform.map(|p| p.id.clone()).unwrap_or_default(),
            tcb_status: platform.map(|p| p.status.clone()).unwrap_or_default(),
            advisories: platform.map(|p| p.advisories.clone()).unwrap_or_default(),
            collateral_until: platform.map_or(0, |p| p.until),
            unbound_ms: is_alone.then(|| self.register.longest_ms()),
            unbound_entries: self.tail.len() as u64,
        })
    }

    /// Entries that only have a checkpoint's name, of this boot and of those that a kexec carried over.
    fn impostors(&self) -> Vec<u64> {
        let carried = self.scene.kexecs.last().copied().unwrap_or(0);
        let now = self.scene.chain.impostors().filter(|at| *at >= carried);
        let all = self.scene.impostors.iter().copied().chain(now);
        all.take(MAX_IMPOSTORS).map(|at| at as u64).collect()
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
                if finding.severity == Severity::Fail {
                    pod.charged = true;
                    if pod.state != State::Unknown {
                        pod.state = State::Untrusted;
                    }
                }
                pod.findings.push(finding);
            }
            None => rest.push(finding),
        }
    }
    rest
}
