//! The result of an appraisal, its JSON shape and its table.
//!
//! Promises: the JSON names below are stable within `version`; every dangerous key that was used is in
//! `dangerous`. A byte string is hex, a path is text or `{"hex": …}`, an absent option is left out. The
//! shape, shortened:
//!
//! ```json
//! {"version":1, "time":1800000000, "trusted":false, "dangerous":["dangerous-boot-not-judged"], "relaxations":[],
//!  "policy":"sha256:…", "learned":false,
//!  "node":{"name":"worker-1", "state":"trusted", "tier":"bpf", "anchor":"PCR 10 (sha256)", "key":"000b…", "boot_id":"…",
//!          "kernel":"6.12.0", "entries":9, "covered":9, "boot_entries":4, "pending":1, "checkpoint":1,
//!          "checkpoint_sha256":"…", "records":4, "executions":2, "unattributed":0, "lost":0, "suspect":0, "boot":"not judged", "fnf":[],
//!          "filehash_err":[], "excluded":0, "notes":["…"], "findings":[]},
//!  "pods":[{"uid":"…", "name":"default/d", "told":"default/d", "state":"untrusted", "entries":1, "executions":1,
//!           "suspect":0, "provenance":"observed", "learned":false,
//!           "files":[{"path":"/bin/app", "digest":"sha256:…", "entries":1, "executions":1, "accepted":false}],
//!           "fnf":[], "filehash_err":[{"path":"/bin/app", "digest":"sha256:…"}], "excluded":0,
//!           "findings":[{"rule":"V9", "severity":"fail", "subject":"<uid>", "path":"/bin/app", "index":7, "seq":3,
//!                        "expected":["sha256:…"], "found":"sha256:…", "text":"…", "provenance":"observed"}]}],
//!  "start":[{"uid":"…", "name":"default/e"}],
//!  "accepted":[{"statement":"sha256:…", "finding":"<32 hex digits>", "about":"…", "reason":"…", "since":1800000000,
//!               "until":1800086400, "in_use":true}]}
//! ```
//!
//! `state`: `trusted`, `untrusted`, `unknown`, `predates-collector`, `pending`; `severity`: `note`,
//! `tolerated`, `accepted`, `fail`; `subject`: `node`, `host`, `boot`, `unattributed` or a pod's UID;
//! `provenance`: `attested`, `observed`, `enriched`.

use crate::inputs::context::NodeState;
use crate::results::finding::{Finding, Severity};
use crate::text::{escape, utc};
use cgpath_evidence::{Digest, PodUid, Provenance, Tier, merkle::Hash, record::lossy_path, serde_bytes_hex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The JSON shape's version.
pub const VERDICT_VERSION: u32 = 1;

/// An accepted finding as verdicts repeat it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiverNote {
    /// SHA-256 of the statement.
    pub statement: Digest,
    /// [`id`](crate::accept::id) of the finding.
    pub finding: String,
    /// Rule, subject and text.
    pub about: String,
    /// Why it is accepted.
    pub reason: String,
    /// When that was signed, in unix seconds.
    pub since: u64,
    /// From when on it does not hold any more, in unix seconds.
    pub until: u64,
    /// Whether the finding is in this verdict.
    pub in_use: bool,
}

/// What an appraisal concluded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// [`VERDICT_VERSION`].
    pub version: u32,
    /// When, in seconds since 1970-01-01T00:00:00Z.
    pub time: u64,
    /// Whether the node and every pod are trusted.
    pub trusted: bool,
    /// Every bypass that was in force, by its name.
    pub dangerous: Vec<String>,
    /// Values of the policy that are laxer than their defaults, as `key: value`.
    pub relaxations: Vec<String>,
    /// What the evidence was judged by: see `cgpath_policy::Policy::digest`.
    pub policy: Digest,
    /// Of this, the part that other nodes' policies may have, too: see `cgpath_policy::Workloads::digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Digest>,
    /// Whether a reference value in use was learned from a log instead of computed from an image.
    pub learned: bool,
    /// The node.
    pub node: NodeVerdict,
    /// Every pod that the evidence or the checkpoints name, sorted by UID.
    pub pods: Vec<PodVerdict>,
    /// Pods of the policy that nothing was seen of yet, sorted by UID: their state is `start`.
    #[serde(default)]
    pub start: Vec<AwaitedPod>,
    /// Findings that somebody accepted: every statement that holds for this node's boot.
    #[serde(default)]
    pub accepted: Vec<WaiverNote>,
    /// When the evidence was re-appraised, in unix seconds; `time` stays that of the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejudged: Option<u64>,
    /// What to store for the next appraisal; `None` where the evidence was not believed: keep the old state
    /// then.
    #[serde(skip)]
    pub state: Option<NodeState>,
    /// What to store where there is no state and never was one: the TPM's counters, from which a node may not
    /// go back though nothing else of it is believed yet.
    #[serde(skip)]
    pub first_sight: Option<NodeState>,
}

impl Verdict {
    /// What to store for the next appraisal; `None`: keep what there is.
    pub fn to_store(&self) -> Option<&NodeState> {
        self.state.as_ref().or(self.first_sight.as_ref())
    }
}

/// A pod that the policy knows and the evidence does not name: it has not begun, or it is over and was never
/// seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitedPod {
    /// The pod.
    pub uid: PodUid,
    /// The policy has the UID without dashes: see [`PodVerdict::undashed`].
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub undashed: bool,
    /// Its name in the policy.
    pub name: String,
}

/// A file with what was found in it, as the thesis' two lists have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// As the kernel had it, raw bytes.
    #[serde(with = "lossy_path")]
    pub path: Vec<u8>,
    /// The content that was found.
    pub digest: Digest,
    /// Of a pod of a workload: its parts that used this and may not, in the order in which they are judged,
    /// at most [`MAX_PARTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PodPart>,
    /// There are more of them.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub more_parts: bool,
}

impl Deviation {
    /// This part used it, too.
    pub(crate) fn add_part(&mut self, part: &PodPart) {
        if self.parts.contains(part) {
            return;
        }
        match self.parts.len() < MAX_PARTS {
            true => self.parts.push(part.clone()),
            false => self.more_parts = true,
        }
    }
}

/// A [`Deviation`] has at most so many parts: who makes a pod chooses how many it has.
pub const MAX_PARTS: usize = 32;

/// A part of a pod whose contents are appraised by values of their own, under a policy of version 2. Findings
/// about a content begin with it, and a colon.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodPart {
    /// The containers of this name.
    Container(String),
    /// The sandbox.
    Sandbox,
    /// Containers that nobody named.
    Unnamed,
    /// What is outside of all containers.
    Runtime,
}

impl core::fmt::Display for PodPart {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PodPart::Container(name) => write!(f, "container {name}"),
            PodPart::Sandbox => f.write_str("sandbox"),
            PodPart::Unnamed => f.write_str("pod runtime, a container without a name"),
            PodPart::Runtime => f.write_str("pod runtime"),
        }
    }
}

/// How a subject was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Everything that was seen of it is accepted.
    Trusted,
    /// At least one finding fails.
    Untrusted,
    /// A pod that no policy knows.
    Unknown,
    /// A pod that ran before the collector did: what it ran then was not seen.
    PredatesCollector,
    /// A pod, or a container, that has no name yet: nothing can be said of what it ran. And a pod that has
    /// one and of which nothing else was seen.
    Pending,
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            State::Trusted => "trusted",
            State::Untrusted => "UNTRUSTED",
            State::Unknown => "UNKNOWN",
            State::PredatesCollector => "predates collector",
            State::Pending => "pending",
        })
    }
}

/// How far the boot log was judged (rule V10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootAppraisal {
    /// Passed over, by the policy's `dangerous-boot-not-judged`.
    #[serde(rename = "not judged")]
    NotAppraised,
    /// Neither judged nor passed over, since a log, its registers or the policy's values are missing: the
    /// node is untrusted.
    #[serde(rename = "absent")]
    Absent,
    /// Log, registers and IMA's first entry agree, and are what the policy accepts.
    #[serde(rename = "trusted")]
    Trusted,
    /// They do not, or are not.
    #[serde(rename = "untrusted")]
    Untrusted,
}

impl core::fmt::Display for BootAppraisal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            BootAppraisal::NotAppraised => "not judged",
            BootAppraisal::Absent => "absent",
            BootAppraisal::Trusted => "trusted",
            BootAppraisal::Untrusted => "UNTRUSTED",
        })
    }
}

/// The node's part of a [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeVerdict {
    /// The verifier's name for it.
    pub name: String,
    /// [`State::Trusted`] or [`State::Untrusted`].
    pub state: State,
    /// Whether the rules on which all others rest hold (V1 to V7, V10, V13). If not, nothing is said for any
    /// pod: each is untrusted, and those that are charged with something of their own are marked.
    #[serde(default)]
    pub believed: bool,
    /// The tier in use.
    pub tier: Tier,
    /// What vouches for the list, for people: `PCR 10 (sha256)`.
    pub anchor: String,
    /// Name of the key that signed the quote.
    #[serde(with = "serde_bytes_hex")]
    pub key: Vec<u8>,
    /// The boot.
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// Kernel release, as the node stated.
    pub kernel: String,
    /// Entries of the list.
    pub entries: u64,
    /// Of these, covered by the quote.
    pub covered: u64,
    /// Of these, older than the collector.
    pub boot_entries: u64,
    /// Of the covered ones, too new to have their record in this evidence; the next one must have it.
    pub pending: u64,
    /// Number of the last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// SHA-256 of its file.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "serde_bytes_hex::option"
    )]
    pub checkpoint_sha256: Option<Hash>,
    /// Records.
    pub records: u64,
    /// Of these, executions and mappings.
    pub executions: u64,
    /// Entries that should have a record and have none, and records whose cgroup is unknown.
    pub unattributed: u64,
    /// Records lost since the load.
    pub lost: u64,
    /// Records in pods' cgroups with no container runtime in their ancestry.
    pub suspect: u64,
    /// What a trust domain's quote says, where one of its registers is an anchor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td: Option<TdVerdict>,
    /// Rule V10.
    pub boot: BootAppraisal,
    /// Of `host`, `boot` and `unattributed`: files whose path no reference value has (*file not found*), each
    /// with each content once, in the order of first sight.
    #[serde(default)]
    pub fnf: Vec<Deviation>,
    /// Files whose path is known with other contents only, in the same way.
    #[serde(default)]
    pub filehash_err: Vec<Deviation>,
    /// How many more there are of each list.
    #[serde(default, skip_serializing_if = "LeftOut::is_none")]
    pub left_out: LeftOut,
    /// Measured entries and executions that were not judged, since an exclude hides their paths.
    #[serde(default)]
    pub excluded: u64,
    /// Worth knowing: kexec, reboot, first evidence.
    pub notes: Vec<String>,
    /// Findings about the node, `host`, `boot` and `unattributed`.
    pub findings: Vec<Finding>,
}

/// Of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TdVerdict {
    /// SHA-256 of the node's key.
    #[serde(with = "serde_bytes_hex")]
    pub node_key: Hash,
    /// PPID of the platform; empty where the quote does not verify.
    #[serde(with = "serde_bytes_hex")]
    pub platform: Vec<u8>,
    /// Intel's name of the TCB's status; empty where the quote does not verify.
    pub tcb_status: String,
    /// Advisories that the collateral names.
    pub advisories: Vec<String>,
    /// When the collateral ends, unix seconds; 0 where the quote does not verify.
    pub collateral_until: u64,
    /// Where no PCR binds the list: how long nothing bound what was listed, at most, in milliseconds: root
    /// could take entries out for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unbound_ms: Option<u64>,
    /// Where no PCR binds the list: entries behind the last checkpoint. They are judged and vouch for
    /// nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unbound_entries: u64,
}

/// Each list of files or containers in a verdict has at most so many: a pod chooses how many it has.
pub const MAX_LISTED: usize = 1000;

/// Files and containers that a verdict does not list, since there are more than [`MAX_LISTED`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Of `files`.
    #[serde(skip_serializing_if = "is_zero")]
    pub files: u64,
    /// Of `fnf`.
    #[serde(skip_serializing_if = "is_zero")]
    pub fnf: u64,
    /// Of `filehash_err`.
    #[serde(skip_serializing_if = "is_zero")]
    pub filehash_err: u64,
    /// Of `containers`.
    #[serde(skip_serializing_if = "is_zero")]
    pub containers: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl LeftOut {
    /// Whether all are listed.
    pub fn is_none(&self) -> bool {
        *self == LeftOut::default()
    }
}

impl PodVerdict {
    /// The UID for people.
    pub fn shown_uid(&self) -> String {
        self.uid.shown(self.undashed)
    }

    /// How many distinct (path, content) were seen, listed or not.
    pub fn file_count(&self) -> u64 {
        self.files.len() as u64 + self.left_out.files
    }
}

/// A pod's part of a [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodVerdict {
    /// The pod.
    pub uid: PodUid,
    /// A static pod's UID has no dashes in its cgroup's path, or in the policy where no path was seen; people
    /// see it so.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub undashed: bool,
    /// Its name in the policy; absent where no policy knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `namespace/name` as the container runtime reported: enriched, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
    /// How it was judged.
    pub state: State,
    /// Whether one of its own findings fails. Where the node's evidence is not believed a pod can be
    /// untrusted without.
    #[serde(default)]
    pub charged: bool,
    /// Records of entries, also of those that the kernel did not add a second time.
    pub entries: u64,
    /// Records of executions and mappings.
    pub executions: u64,
    /// Records with no container runtime in their ancestry.
    pub suspect: u64,
    /// What the attribution rests on.
    pub provenance: Provenance,
    /// Whether a reference value in use was learned.
    pub learned: bool,
    /// Every distinct (path, content) that was seen, in the order of first sight.
    pub files: Vec<SeenFile>,
    /// Files whose path no reference value has (*file not found*), each with each content once, in the order
    /// of first sight.
    #[serde(default)]
    pub fnf: Vec<Deviation>,
    /// Files whose path is known with other contents only, in the same way.
    #[serde(default)]
    pub filehash_err: Vec<Deviation>,
    /// How many more there are of each list.
    #[serde(default, skip_serializing_if = "LeftOut::is_none")]
    pub left_out: LeftOut,
    /// Measured entries and executions that were not judged, since an exclude hides their paths.
    #[serde(default)]
    pub excluded: u64,
    /// Its containers by their ids, under a policy of version 2: as the runtime names them, and how each did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerVerdict>,
    /// Findings about this pod.
    pub findings: Vec<Finding>,
}

/// A container's part of a [`PodVerdict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerVerdict {
    /// The id that its cgroup's name has.
    pub id: String,
    /// Its name in the pod: enriched. Absent for the sandbox, and where nobody named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// It is the pod's sandbox.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub sandbox: bool,
    /// The image as the pod's specification has it: enriched; empty where nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// What the runtime says that this image is: enriched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// Which of the images that the policy lists for it this is, as the policy writes it. What it used was
    /// appraised by this image's values. Absent where the policy lists none, and where it is none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<String>,
    /// Whether what it used is accepted.
    pub state: State,
}

/// A file that a pod used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenFile {
    /// As the kernel had it, raw bytes.
    #[serde(with = "lossy_path")]
    pub path: Vec<u8>,
    /// Its content hash; absent where none could be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// How often IMA measured it or tried to.
    pub entries: u64,
    /// How often it was executed or mapped.
    pub executions: u64,
    /// Whether the policy accepts it.
    pub accepted: bool,
    /// It is accepted since an exclude hides its path: nobody looked at the content.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub excluded: bool,
}

impl Verdict {
    /// All findings that fail, the node's first.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        let pods = self.pods.iter().flat_map(|p| &p.findings);
        self.node
            .findings
            .iter()
            .chain(pods)
            .filter(|f| f.severity == Severity::Fail)
    }

    /// The pod with this UID.
    pub fn pod(&self, uid: PodUid) -> Option<&PodVerdict> {
        self.pods.iter().find(|p| p.uid == uid)
    }
}

impl core::fmt::Display for ContainerVerdict {
    /// One line for people.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = match (&self.name, self.sandbox) {
            (Some(name), _) => format!("container {name}"),
            (None, true) => "sandbox".to_owned(),
            (None, false) => "container without a name".to_owned(),
        };
        let short = self.id.get(..12).unwrap_or(&self.id);
        write!(
            f,
            "{} {}  {}",
            escape(name.as_bytes()),
            escape(short.as_bytes()),
            self.state
        )?;
        if !self.image.is_empty() {
            write!(f, "  {}", escape(self.image.as_bytes()))?;
        }
        for reference in &self.references {
            write!(f, "  {}", escape(reference.as_bytes()))?;
        }
        if let Some(listed) = &self.listed {
            write!(f, "  listed as {}", escape(listed.as_bytes()))?;
        }
        Ok(())
    }
}

fn findings(f: &mut core::fmt::Formatter<'_>, findings: &[Finding]) -> core::fmt::Result {
    for finding in findings {
        for (i, line) in finding.to_string().lines().enumerate() {
            writeln!(f, "    {}{line}", if i == 0 { "" } else { "  " })?;
        }
    }
    Ok(())
}

/// A provenance as verdicts write it, and what it means.
fn provenance(provenance: Provenance) -> (&'static str, &'static str) {
    match provenance {
        Provenance::Attested => ("attested", "the quoted list itself names the pod"),
        Provenance::Observed => (
            "observed",
            "records of the collector's programs, sealed in checkpoints that the quote covers",
        ),
        Provenance::Enriched => (
            "enriched",
            "what the container runtime says; no verdict follows from it",
        ),
    }
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let node = &self.node;
        let checkpoint = node
            .checkpoint
            .map_or_else(|| "none".to_owned(), |n| n.to_string());
        writeln!(
            f,
            "NODE {}  {}  tier {}, anchor {}, {} of {} entries covered, checkpoint {checkpoint}, \
             unattributed {}, lost {}, suspect {}, boot: {}",
            escape(node.name.as_bytes()),
            node.state,
            node.tier,
            node.anchor,
            node.covered,
            node.entries,
            node.unattributed,
            node.lost,
            node.suspect,
            node.boot,
        )?;
        for note in &node.notes {
            writeln!(f, "    note: {}", escape(note.as_bytes()))?;
        }
        findings(f, &node.findings)?;
        let label = |pod: &PodVerdict| {
            let name = pod.name.clone().unwrap_or_else(|| "(in no policy)".to_owned());
            let told = pod.told.as_ref().map_or_else(String::new, |t| format!(" [{t}]"));
            escape(format!("{name}{told}").as_bytes())
        };
        let width = self
            .pods
            .iter()
            .map(|p| label(p).chars().count())
            .chain(
                self.start
                    .iter()
                    .map(|p| escape(p.name.as_bytes()).chars().count()),
            )
            .max()
            .unwrap_or(0)
            .max(4);
        writeln!(
            f,
            "{:<36}  {:<width$}  {:<18}  {:>7}  {:>10}  {:>5}  RESTS ON",
            "POD", "NAME", "STATE", "ENTRIES", "EXECUTIONS", "FILES"
        )?;
        for pod in &self.pods {
            writeln!(
                f,
                "{:<36}  {:<width$}  {:<18}  {:>7}  {:>10}  {:>5}  {}{}",
                pod.shown_uid(),
                label(pod),
                pod.state,
                pod.entries,
                pod.executions,
                pod.file_count(),
                provenance(pod.provenance).0,
                if pod.learned { ", learned" } else { "" },
            )?;
            if pod.state == State::PredatesCollector {
                writeln!(
                    f,
                    "    ran before the collector did: restart it to have it appraised"
                )?;
            }
            for container in &pod.containers {
                writeln!(f, "    {container}")?;
            }
            findings(f, &pod.findings)?;
        }
        for pod in &self.start {
            writeln!(
                f,
                "{:<36}  {:<width$}  start (in the policy, nothing seen of it yet)",
                pod.uid.shown(pod.undashed),
                escape(pod.name.as_bytes())
            )?;
        }
        if self.pods.is_empty() && self.start.is_empty() {
            writeln!(f, "(no pods)")?;
        }
        let used: BTreeSet<Provenance> = self.pods.iter().map(|pod| pod.provenance).collect();
        for (word, meaning) in used.into_iter().map(provenance) {
            writeln!(f, "RESTS ON {word}: {meaning}")?;
        }
        if self.learned {
            writeln!(
                f,
                "LEARNED: reference values in use were learned from a log, not computed from an image"
            )?;
        }
        for accepted in &self.accepted {
            writeln!(
                f,
                "ACCEPTED until {} UTC: {}\n    reason     {}\n    statement  {}{}",
                utc(accepted.until),
                escape(accepted.about.as_bytes()),
                escape(accepted.reason.as_bytes()),
                accepted.statement,
                if accepted.in_use {
                    ""
                } else {
                    "\n    the finding is not in this verdict"
                },
            )?;
        }
        if let Some(again) = self.rejudged {
            writeln!(f, "re-appraised at {} UTC", utc(again))?;
        }
        for relaxation in &self.relaxations {
            writeln!(f, "RELAXED: {}", escape(relaxation.as_bytes()))?;
        }
        for key in &self.dangerous {
            writeln!(f, "DANGEROUS: {key}")?;
        }
        Ok(())
    }
}
