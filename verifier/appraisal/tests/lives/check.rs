//! Lives a plan, and compares what each way of judging says of each round.
//!
//! Promises: the first thing that is wrong is named by a text that is the same for the same cause, so that a
//! plan can be made smaller while it stays. Not here: how a round is judged in each way (see `ways`).

use super::plan::{Plan, Random, Setup};
use super::world::World;
use crate::naive::{self, Given, Opinion};
use crate::ways::{self, Ways, verdict_key};
use cgpath_appraisal::accept::{self, Waiver};
use cgpath_appraisal::{
    Context, ExpectedNonce, Finding, NodeState, PinnedKey, Rule, Severity, State, Subject, Verdict, appraise,
};
use cgpath_evidence::checkpoint::number_from_path;
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::{Bank, Entry, Evidence, PartitionKey, PartitionLog, PodUid, SealedCheckpoint};
use cgpath_policy::{Policy, Reference, Source, SourceKind};
use cgpath_testkit::{IMA_POLICY, NODE, Node, pod, sha256};
use std::collections::BTreeSet;

/// Rules that the naive appraisal judges.
const NAIVE: [Rule; 11] = [
    Rule::Coverage,
    Rule::Template,
    Rule::Chain,
    Rule::Records,
    Rule::Losses,
    Rule::History,
    Rule::KnownPods,
    Rule::PodContents,
    Rule::Host,
    Rule::Violations,
    Rule::Guard,
];

/// What came out wrong, in a round.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What it is, without what differs from life to life.
    pub what: String,
    pub detail: String,
}

/// How much was compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub rounds: u64,
    pub trusted: u64,
    pub followed: u64,
    pub tenants: u64,
    pub tenants_trusted: u64,
    pub accepted: u64,
    /// Entries whose content the partition that caused them does not accept.
    pub foreign: u64,
}

impl Counts {
    pub fn add(&mut self, more: Counts) {
        self.rounds += more.rounds;
        self.trusted += more.trusted;
        self.followed += more.followed;
        self.tenants += more.tenants;
        self.tenants_trusted += more.tenants_trusted;
        self.accepted += more.accepted;
        self.foreign += more.foreign;
    }
}

fn reference(node: &Node, name: &str) -> Option<Vec<u8>> {
    let file = match name {
        "sandbox.json" => "/pause",
        "runc.json" => "/usr/bin/runc",
        _ => return node.reference(name),
    };
    let source = Source {
        kind: SourceKind::Rootfs,
        name: name.into(),
        digest: None,
    };
    let mut reference = Reference::new(source);
    reference.insert(file.into(), sha256(file.as_bytes())).unwrap();
    let mut out = Vec::new();
    reference.write_json(&mut out).unwrap();
    Some(out)
}

fn file_systems(setup: &Setup) -> &'static str {
    ["[]", "[nfs]", "[overlay, '0x1234']"][usize::from(setup.file_systems) % 3]
}

/// What the entry of a pod says of code in shared memory.
fn shared_memory_code(setup: &Setup, uid: PodUid) -> Option<&'static str> {
    let is_trusted = setup.shared_memory_code && [pod(1), pod(2)].contains(&uid);
    is_trusted.then_some("shared-memory-code: trust")
}

const PERMITTED: &str = "['/var/log/*', '/usr/lib/**']";

fn yaml(node: &Node, setup: &Setup, is_other: bool) -> String {
    let mut pods = String::new();
    let excludes = if setup.excludes_pods {
        ", excludes: ['^/opt/x/.*$']"
    } else {
        ""
    };
    for uid in node.pod_files.keys() {
        let name = format!("name: pod-{}, references: [{uid}.json]{excludes}", uid.0[0]);
        let code = shared_memory_code(setup, *uid).map_or_else(String::new, |key| format!(", {key}"));
        pods += &format!("  - {{uid: {uid}, {name}{code}}}\n");
    }
    let mut more = node.extra_policy.clone();
    if setup.lost + setup.unattributed > 0 {
        more += &format!(
            "tolerance: {{lost: {}, unattributed: {}}}\n",
            setup.lost, setup.unattributed
        );
    }
    let tolerated = super::plan::ACTIONS.iter().enumerate().take(13);
    let tolerated = tolerated
        .filter(|(n, _)| setup.tolerate >> n & 1 == 1)
        .map(|(_, action)| action.name());
    more += &format!(
        "guard: {{at-least: {}, tpm-opened: {}, tolerate: [{}]}}\n",
        ["off", "record", "deny"][usize::from(setup.least) % 3],
        if setup.tpm_untrust { "untrust" } else { "report" },
        tolerated.collect::<Vec<_>>().join(", ")
    );
    more += [
        "predating-pods: report\n",
        "predating-pods: trust\n",
        "predating-pods: untrust\n",
    ][usize::from(setup.predating_pods) % 3];
    let lines = [
        (setup.permit, format!("violations: {{permit: {PERMITTED}}}\n")),
        (setup.kexec, "kexec: allow-unmeasured\n".into()),
        (
            setup.file_systems > 0,
            format!("file-systems: {{permit: {}}}\n", file_systems(setup)),
        ),
        (setup.padded, "padded-banks: report\n".into()),
        (setup.runtime_files, "runtime-files: [/usr/bin/runc]\n".into()),
        (setup.sandbox, "sandbox: {references: [sandbox.json]}\n".into()),
        (setup.runtimes, "runtimes: [/usr/bin/runc]\n".into()),
        (is_other, "# another policy\n".into()),
    ];
    more.extend(lines.into_iter().filter(|(is, _)| *is).map(|(_, line)| line));
    let objects = match setup.bpf_objects {
        0 => String::new(),
        n => format!(
            "  bpf-objects: [\"sha256:{}\"]\n",
            format!("0{}", 10 - n).repeat(32)
        ),
    };
    let excludes = if setup.excludes_host {
        ", excludes: ['^/opt/x/.*$', '/usr/lib/host-9']"
    } else {
        ""
    };
    format!(
        "version: 1\n\
         node: {NODE}\n\
         accept:\n  \
         tiers: [{}]\n  \
         templates: {}\n  \
         banks: {}\n  \
         ima-policies: [\"{}\"]\n  \
         collector: {}\n\
         {objects}host: {{references: [host.json]{excludes}}}\n\
         pods:\n\
         {pods}{more}",
        if setup.templates == 2 {
            "bpf, kernel".into()
        } else {
            node.tier.to_string()
        },
        node.accept_templates,
        node.accept_banks,
        sha256(IMA_POLICY.as_bytes()),
        cgpath_testkit::COLLECTOR,
    )
}

fn policy(node: &Node, setup: &Setup, is_other: bool) -> Policy {
    let resolve = |name: &str| reference(node, name).ok_or_else(|| "no such file".to_owned());
    Policy::load("policy.yaml", yaml(node, setup, is_other).as_bytes(), resolve).unwrap()
}

fn tenant_policy(node: &Node, setup: &Setup, uid: PodUid) -> Policy {
    let sandbox = if setup.sandbox { ", sandbox.json" } else { "" };
    let mut text = format!(
        "version: 1\n\
         pod: {uid}\n\
         name: t\n\
         templates: {}\n\
         banks: {}\n\
         references: [{uid}.json{sandbox}]\n\
         lost: {}\n",
        node.accept_templates, node.accept_banks, setup.lost
    );
    let lines = [
        (setup.runtime_files, "runtime-files: [runc.json]\n".to_owned()),
        (setup.runtimes, "runtimes: [/usr/bin/runc]\n".to_owned()),
        (setup.permit, format!("permit-violations: {PERMITTED}\n")),
        (
            setup.file_systems > 0,
            format!("permit-file-systems: {}\n", file_systems(setup)),
        ),
    ];
    text.extend(lines.into_iter().filter(|(is, _)| *is).map(|(_, line)| line));
    text.extend(shared_memory_code(setup, uid));
    let resolve = |name: &str| reference(node, name).ok_or_else(|| "no such file".to_owned());
    Policy::load_tenant("pod.yaml", text.as_bytes(), resolve)
        .unwrap()
        .1
}

fn nonce(round: usize) -> Vec<u8> {
    format!("the nonce of round {round}").into_bytes()
}

/// Lives the plan to its end, or to the first thing that is wrong.
pub fn live(plan: &Plan) -> Result<Counts, Trouble> {
    let mut world = World::new(&plan.setup);
    let setup = &plan.setup;
    let policies = [false, true].map(|is_other| policy(&world.node, setup, is_other));
    let mut ways = Ways::default();
    let mut accepted: Vec<Waiver> = Vec::new();
    let mut counts = Counts::default();
    for (n, round) in plan.rounds.iter().enumerate() {
        world.change(round.change);
        round.steps.iter().for_each(|step| world.act(*step));
        let this = nonce(if round.old_nonce { n.saturating_sub(1) } else { n });
        let evidence = world.attest(round, &this);
        let policy = &policies[usize::from(round.other_policy)];
        let key = match round.pinned {
            1 => PinnedKey::Name(world.node.ak.name()),
            2 => PinnedKey::DangerousTofu,
            _ => PinnedKey::Public(world.node.ak.public()),
        };
        let context = ways.next(Context {
            node: NODE.into(),
            key,
            td: cgpath_appraisal::TdContext::default(),
            nonce: ExpectedNonce::Value(nonce(n)),
            now: world.node.now + n as u64,
            previous: None,
        });
        let shown = ways
            .kept
            .as_ref()
            .map(|kept| kept.unsealed.clone())
            .unwrap_or_default();
        let appraised = ways.appraise(&evidence, policy, &context, &accepted).unwrap();
        if let Some((way, other, same)) = appraised.disagreement() {
            return Err(differs(&format!("{way} and whole"), other, same));
        }
        // Nothing is accepted in the naive appraisal, nor by a tenant, nor is it hidden for being accepted.
        let plain = appraise(&evidence, policy, &context).unwrap();
        naive_says(&evidence, policy, &context, &shown, &plain)?;
        counts.foreign += nothing_is_hidden(&world, &evidence, policy, context.previous.as_ref(), &plain)?;
        let uid = pod(round.tenant);
        let tenant = ways::tenant(
            &evidence,
            &plain,
            uid,
            &tenant_policy(&world.node, setup, uid),
            &context,
        );
        counts.tenants += u64::from(tenant.is_some());
        counts.tenants_trusted += u64::from(tenant.is_some_and(|tenant| tenant.trusted));
        if round.accept {
            accepted.extend(accept_one(n, &evidence, policy, &context, &plain)?);
        }
        counts.accepted += appraised.whole.accepted.iter().filter(|note| note.in_use).count() as u64;
        counts.rounds += 1;
        counts.trusted += u64::from(appraised.whole.trusted);
    }
    counts.followed = ways.followed;
    Ok(counts)
}

/// Failures by rule, subject and text, without numbers.
fn failures(verdict: &Verdict) -> BTreeSet<String> {
    let kind = |finding: &Finding| {
        let subject = match finding.subject {
            Subject::Partition(PartitionKey::Pod(_)) => "pod".to_owned(),
            subject => subject.to_string(),
        };
        let text: String = finding
            .text
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .take(70)
            .collect();
        format!("{} {subject}: {text}", finding.rule)
    };
    verdict.failures().map(kind).collect()
}

fn differs(what: &str, one: &Verdict, other: &Verdict) -> Trouble {
    let (a, b) = (failures(one), failures(other));
    let (only_one, only_other): (Vec<_>, Vec<_>) = (a.difference(&b).collect(), b.difference(&a).collect());
    Trouble {
        what: format!("{what} differ: {only_one:?} and {only_other:?}"),
        detail: format!("{one}\n{other}\n{one:#?}\n{other:#?}"),
    }
}

/// The naive appraisal says the same, as far as it says anything.
fn naive_says(
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
    shown: &[PartitionLog],
    plain: &Verdict,
) -> Result<(), Trouble> {
    let nonce = match &context.nonce {
        ExpectedNonce::Value(nonce) => Some(nonce.as_slice()),
        ExpectedNonce::DangerousNone => None,
    };
    let is_elsewhere = |finding: &Finding| matches!(finding.rule, Rule::Quote | Rule::Boot | Rule::Absent);
    let opinion = naive::appraise(&Given {
        evidence,
        policy,
        nonce,
        now: context.now,
        before: context.previous.as_ref(),
        shown,
        elsewhere: plain.failures().any(is_elsewhere),
    });
    // A pod's finding about the node's evidence repeats what the node's findings say.
    let is_stated = |finding: &&Finding| {
        finding
            .text
            .starts_with("the node's evidence is not to be believed")
    };
    let own = plain
        .failures()
        .filter(|finding| !is_stated(finding) && NAIVE.contains(&finding.rule));
    let whole = Opinion {
        trusted: plain.node.state == State::Trusted,
        failed: own.map(|finding| (finding.rule, finding.subject)).collect(),
        pods: plain.pods.iter().map(|pod| (pod.uid, pod.state)).collect(),
    };
    if opinion == whole {
        return Ok(());
    }
    let list = |a: &Opinion, b: &Opinion| {
        let name = |(rule, subject): &(Rule, Subject)| match subject {
            Subject::Partition(PartitionKey::Pod(_)) => format!("{rule} pod"),
            subject => format!("{rule} {subject}"),
        };
        a.failed.difference(&b.failed).map(name).collect::<BTreeSet<_>>()
    };
    let trust = [("whole", whole.trusted), ("naive", opinion.trusted)];
    let what = format!(
        "naive and whole differ: whole alone {:?}, naive alone {:?}, trusted {trust:?}",
        list(&whole, &opinion),
        list(&opinion, &whole),
    );
    let detail = format!("naive {opinion:#?}\nwhole {whole:#?}\n{plain}");
    Err(Trouble { what, detail })
}

/// A covered entry whose content the partition that caused it does not accept is named, or that partition or
/// the node is not trusted. Gives how many such entries there are.
///
/// Excused is what a record, or a mark, says to be another partition's that accepts it: docs/threat-model.md
/// states that limit; what somebody accepts for as long as its record may still come; and what somebody
/// accepts of the boot before a kexec.
fn nothing_is_hidden(
    world: &World,
    evidence: &Evidence,
    policy: &Policy,
    before: Option<&NodeState>,
    plain: &Verdict,
) -> Result<u64, Trouble> {
    let mut foreign = 0;
    let findings = || {
        plain
            .node
            .findings
            .iter()
            .chain(plain.pods.iter().flat_map(|pod| &pod.findings))
    };
    let records: Vec<_> = evidence
        .partitions
        .iter()
        .chain(&evidence.unsealed)
        .flat_map(|log| log.records.iter().map(|record| (log.key, record)))
        .collect();
    let sealed = |file: &Vec<u8>| {
        SealedCheckpoint::from_file(file)
            .ok()
            .map(|sealed| sealed.checkpoint)
    };
    let last_but_one = evidence
        .checkpoints
        .iter()
        .rev()
        .nth(1)
        .and_then(sealed)
        .map_or(0, |c| c.list_len);
    let believed = before
        .filter(|before| before.boot_id == evidence.boot_id)
        .map_or(0, |before| before.covered);
    let waits = last_but_one.max(believed);
    let files = evidence.checkpoints.iter().chain(&world.files_before);
    let covered = plain.node.covered as usize;
    for (index, entry) in evidence.list.iter().enumerate().take(covered) {
        let Entry::Full(bytes) = entry else { continue };
        let Ok(entry) = ListEntry::from_canonical(0, bytes.as_slice()) else {
            continue;
        };
        let (path, content) = (
            entry.file_name().unwrap_or_default(),
            entry.file_digest().and_then(|d| d.digest()),
        );
        let truth = world.truth[index];
        let is_checkpoint = |file: &Vec<u8>| content == Some(Bank::Sha256.hash(&[file]));
        if number_from_path(path).is_some() && files.clone().any(is_checkpoint) || path == b"boot_aggregate" {
            continue;
        }
        let accepts = |key: PartitionKey| {
            let predating = &world.node.predating;
            content.as_ref().is_some_and(|content| {
                naive::accepts(policy, predating, key, cgpath_policy::Name::Listed(path), content)
            })
        };
        let is_accepted = if entry.is_violation() {
            policy.permits_violation(path)
        } else {
            accepts(truth)
        };
        if is_accepted {
            continue;
        }
        foreign += 1;
        let trusts = |key: PartitionKey| match key {
            PartitionKey::Pod(uid) => plain.pod(uid).is_none_or(|pod| pod.state == State::Trusted),
            _ => true,
        };
        if plain.node.state != State::Trusted || !trusts(truth) {
            continue;
        }
        let names =
            |finding: &Finding| finding.index == Some(index as u64) || finding.path.as_deref() == Some(path);
        let is_said = findings().any(names);
        let sha1 = entry.template_digest(Bank::Sha1);
        let mut own = records.iter().filter(|(_, record)| {
            record.digests.contains(&sha1) || (entry.is_violation() && record.path == path)
        });
        let is_reattributed = own.clone().any(|(key, _)| *key != truth && accepts(*key));
        let is_marked = evidence.in_flight.iter().any(|mark| accepts(mark.key()));
        let pods = policy.pods.keys().map(|uid| PartitionKey::Pod(*uid));
        let is_somebodys = pods.chain([PartitionKey::Host]).any(accepts);
        let is_waiting = is_somebodys && index as u64 >= waits;
        let is_of_boot_before = is_somebodys && index < world.before_kexec;
        let is_unrecorded = own.next().is_none() && (is_marked || is_waiting || is_of_boot_before);
        let is_excused = is_reattributed || is_unrecorded;
        if !is_said && !is_excused {
            let kind = if entry.is_violation() {
                "violation"
            } else {
                "content"
            };
            let shown = String::from_utf8_lossy(path);
            return Err(Trouble {
                what: format!("a {kind} is hidden and the node is trusted"),
                detail: format!("entry {index}, {shown}, caused by {truth}\n{plain}"),
            });
        }
    }
    Ok(foreign)
}

/// A statement that accepts one failure clears it and no other, and not behind its end.
fn accept_one(
    n: usize,
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
    plain: &Verdict,
) -> Result<Option<Waiver>, Trouble> {
    let acceptable: Vec<&Finding> = plain
        .failures()
        .filter(|finding| accept::is_waivable(finding.rule))
        .collect();
    let named = |finding: &&&Finding| !finding.text.contains("more finding(s) of this kind");
    let acceptable: Vec<&Finding> = acceptable.iter().filter(named).copied().collect();
    if acceptable.is_empty() {
        return Ok(None);
    }
    let finding = Random(n as u64).one_of(&acceptable);
    let until = context.now + 2;
    let key = verdict_key();
    let text = accept::sign(NODE, evidence.boot_id, finding, "known", context.now, until, &key).unwrap();
    let accepted = accept::verify(&text, key.verifying_key()).unwrap();
    let ids = |verdict: &Verdict| {
        let mut ids: Vec<String> = verdict.failures().map(accept::id).collect();
        ids.sort();
        ids
    };
    let appraised = |now: u64| {
        let one = std::slice::from_ref(&accepted);
        cgpath_appraisal::appraise_with_waivers(evidence, policy, context, one, now).unwrap()
    };
    let id = accept::id(finding);
    let is_it: Vec<_> = plain.failures().filter(|other| accept::id(other) == id).collect();
    let mut left = ids(plain);
    left.retain(|other| *other != id);
    let cleared = appraised(context.now);
    if is_it.len() != 1 || ids(&cleared) != left {
        return Err(differs(
            &format!(
                "accepting {} clears more or less than it says: the verdicts",
                finding.rule
            ),
            &cleared,
            plain,
        ));
    }
    let after = appraised(until);
    if ids(&after) != ids(plain)
        || after
            .node
            .findings
            .iter()
            .any(|f| f.severity == Severity::Accepted)
    {
        return Err(differs(
            "a statement holds behind its end: the verdicts",
            &after,
            plain,
        ));
    }
    Ok(Some(accepted))
}
