//! V8 and V9 under a policy of version 2: which workload a pod is, and whether each of its containers used
//! what the policy accepts there.
//!
//! Promises: a content is judged by the container whose directory is the first one below the pod's, and where
//! the policy lists images by the one that the container is said to run; what is outside of all known
//! containers has the sandbox's and the runtime's own values alone; all of it is concluded anew in each
//! round, from what was used and from the names that are there. Not here: what was used (see
//! `v09_contents`), what the names are (see `names`), the verdict on the pod (see `v08_pods`).

use crate::results::finding::{Finding, Severity, Subject};
use crate::results::verdict::{ContainerVerdict, PodPart, State};
use crate::rules::Rule;
use crate::rules::names::{Part, PodCalled};
use crate::rules::partition::{Seen, Tally};
use crate::rules::uses::{Use, Uses};
use crate::rules::v09_contents::{of_match, undecided, without_hash};
use crate::rules::v09_opaque;
use crate::rules::waits::Waits;
use cgpath_evidence::{ContainerName, Digest, PartitionKey, PodUid, Provenance};
use cgpath_policy::{
    Allowed, ContainerPolicy, ContentMatch, Hidden, Name, Opaque, PodNames, Policy, Selected,
    SharedMemoryCode, WorkloadPolicy, Workloads, is_opaque,
};
use std::collections::BTreeSet;

/// A finding about an image, or about a path, names as many of those that the policy lists.
const MAX_EXPECTED: usize = 8;

/// What is known of a pod by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The policy knows it, and all that it used could be judged.
    Known,
    /// It, or a container of it, has no name yet.
    Pending,
    /// No workload matches it, or it had no name in time.
    Unknown,
}

/// What was concluded of one pod.
pub(crate) struct Case {
    pub standing: Standing,
    /// Its workload's name.
    pub name: Option<String>,
    /// What the runtime calls it, `namespace/name`.
    pub shown_name: Option<String>,
    /// Why it is unknown, in words.
    pub why: &'static str,
    pub containers: Vec<ContainerVerdict>,
    /// All containers of the workload may run others out of the kernel's sight.
    pub trusts_opaque: bool,
    /// What the pod and all its parts used.
    pub tally: Tally,
}

/// What a part of a pod may use.
#[derive(Clone, Copy)]
enum Values<'p> {
    /// A container's, with what may be in the image that it runs.
    Container(&'p ContainerPolicy, &'p Allowed),
    /// The sandbox's, and the runtime's own.
    Runtime,
    /// Those of the runtime, and all else waits.
    Unsettled,
    /// Nobody knows.
    None,
}

/// Judges one pod. `waits` learns what of it waits.
pub(crate) fn appraise(
    policy: &Policy,
    workloads: &Workloads,
    uid: PodUid,
    tally: &Tally,
    called: &PodCalled,
    waits: &mut Waits,
) -> Case {
    let pod = called.pod.as_ref();
    let names = pod.map(|pod| PodNames {
        namespace: &pod.namespace,
        labels: &pod.labels,
    });
    let mut case = Case {
        standing: Standing::Known,
        name: None,
        shown_name: pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)),
        why: "",
        containers: Vec::new(),
        trusts_opaque: false,
        tally: tally.clone(),
    };
    case.tally.findings.absorb(&called.findings);
    let workload = match workloads.select(&uid, names.as_ref()) {
        Selected::Workload(workload) => workload,
        Selected::None => {
            case.standing = Standing::Unknown;
            case.why = match pod.is_some_and(|pod| pod.labels_left_out) {
                true => {
                    "no workload of the policy matches this pod: its labels are too many or too long to be \
                     recorded, so that none holds"
                }
                false => "no workload of the policy matches this pod",
            };
            return case.not_appraised(tally, called);
        }
        Selected::Undecided => {
            let settle = workloads.file.settle;
            if waits.may_wait(uid, None, settle) {
                case.standing = Standing::Pending;
                case.say(Finding::note(
                    Rule::KnownPods,
                    Subject::Partition(PartitionKey::Pod(uid)),
                    "pending: the container runtime has not named this pod yet",
                ));
            } else {
                case.standing = Standing::Unknown;
                case.why = "unidentified: nobody named this pod in time";
            }
            // Its containers wait beside it, and not from when it is named.
            for id in ids(tally).filter(|id| !called.containers.contains_key(*id)) {
                waits.may_wait(uid, Some(id), settle);
            }
            return case.not_appraised(tally, called);
        }
    };
    case.name = Some(workload.workload.name.clone());
    let bench = Bench {
        policy,
        uid,
        settle: workloads.file.settle,
        trusts_opaque: workload.containers().all(|(_, of)| trusts_opaque(of)),
    };
    case.trusts_opaque = bench.trusts_opaque;
    bench.parts(workload, tally, called, waits, &mut case);
    case
}

impl Case {
    fn say(&mut self, finding: Finding) {
        self.tally.say(finding);
    }

    /// Nothing can be expected of what was used: it is listed, and not accepted.
    fn not_appraised(mut self, tally: &Tally, called: &PodCalled) -> Case {
        for uses in tally.parts.values() {
            for (name, digest, used) in uses.in_order() {
                let counts = (used.entries, used.executions);
                self.tally
                    .saw_in_part(name.bytes(), digest, counts, Seen::Refused, None);
            }
        }
        let state = match self.standing {
            Standing::Pending => State::Pending,
            _ => State::Unknown,
        };
        let containers = called.containers.values();
        self.containers = containers.map(|name| verdict_on(name, state)).collect();
        self
    }
}

/// The ids of the containers that used something.
fn ids(tally: &Tally) -> impl Iterator<Item = &str> {
    tally.parts.keys().filter_map(|part| match part {
        Part::Container(id) => Some(id.as_str()),
        Part::Runtime => None,
    })
}

fn verdict_on(name: &ContainerName, state: State) -> ContainerVerdict {
    ContainerVerdict {
        id: name.id.clone(),
        name: (!name.sandbox).then(|| name.name.clone()),
        sandbox: name.sandbox,
        image: name.image.clone(),
        references: name.references.clone(),
        listed: None,
        state,
    }
}

struct Bench<'a> {
    policy: &'a Policy,
    uid: PodUid,
    settle: u32,
    /// All containers of the workload may run others out of the kernel's sight. Then what is outside of them
    /// may, too: a virtual machine's monitor runs beside the pod's containers, not in one.
    trusts_opaque: bool,
}

fn trusts_opaque(container: &ContainerPolicy) -> bool {
    container.container.opaque == Opaque::Trust
}

/// Whether code in shared memory is trusted; `None` outside of containers, since a runtime compiles nothing.
fn trusts_shared_memory_code(values: Values<'_>) -> Option<bool> {
    match values {
        Values::Container(of, _) => Some(of.container.shared_memory_code == SharedMemoryCode::Trust),
        Values::Runtime | Values::Unsettled | Values::None => None,
    }
}

impl Bench<'_> {
    fn subject(&self) -> Subject {
        Subject::Partition(PartitionKey::Pod(self.uid))
    }

    /// Whether programs are trusted that run others out of the kernel's sight; `None` where that is not to be
    /// said, or not yet.
    fn trusts_opaque(&self, values: Values<'_>) -> Option<bool> {
        match values {
            Values::Container(of, _) => Some(trusts_opaque(of)),
            Values::Runtime => Some(self.trusts_opaque),
            Values::Unsettled | Values::None => None,
        }
    }

    /// What is outside of containers first, then each container by its id.
    fn parts(
        &self,
        workload: &WorkloadPolicy,
        tally: &Tally,
        called: &PodCalled,
        waits: &mut Waits,
        case: &mut Case,
    ) {
        let none = Uses::default();
        let outside = tally.parts.get(&Part::Runtime).unwrap_or(&none);
        self.contents(outside, Values::Runtime, Some(&PodPart::Runtime), &mut case.tally);
        let named = called.containers.keys().map(String::as_str);
        let all: BTreeSet<&str> = ids(tally).chain(named).collect();
        for id in all {
            let uses = tally.parts.get(&Part::Container(id.to_owned())).unwrap_or(&none);
            let verdict = match called.containers.get(id) {
                None => self.unnamed(id, uses, waits, case),
                Some(name) => self.named(name, workload, uses, case),
            };
            case.containers.push(verdict);
        }
    }

    fn named(
        &self,
        name: &ContainerName,
        workload: &WorkloadPolicy,
        uses: &Uses,
        case: &mut Case,
    ) -> ContainerVerdict {
        let mut listed = None;
        let (values, part) = match workload.container(&name.name) {
            _ if name.sandbox => (Values::Runtime, Some(PodPart::Sandbox)),
            Some(container) => match container.image(&name.references) {
                Ok(image) => {
                    listed = image.map(|image| image.listed.to_string());
                    let allowed = image.map_or(&container.allowed, |image| &image.allowed);
                    let part = PodPart::Container(name.name.clone());
                    (Values::Container(container, allowed), Some(part))
                }
                Err(fault) => {
                    let text = format!("container {}: {fault}", name.name);
                    let finding = Finding::fail(Rule::KnownPods, self.subject(), text);
                    let expected = container.container.images.iter().take(MAX_EXPECTED);
                    let finding = expected.fold(finding.found(image_of(name)), Finding::expected);
                    case.say(finding.resting_on(Provenance::Enriched));
                    (Values::None, None)
                }
            },
            None => {
                let finding = Finding::fail(
                    Rule::KnownPods,
                    self.subject(),
                    format!(
                        "container {}: its workload does not list a container of this name",
                        name.name
                    ),
                );
                case.say(finding.found(image_of(name)).resting_on(Provenance::Enriched));
                (Values::None, None)
            }
        };
        let fails = self.contents(uses, values, part.as_ref(), &mut case.tally);
        let state = match fails || matches!(values, Values::None) {
            true => State::Untrusted,
            false => State::Trusted,
        };
        ContainerVerdict {
            listed,
            ..verdict_on(name, state)
        }
    }

    /// A container that the runtime has not named, or keeps silent about.
    fn unnamed(&self, id: &str, uses: &Uses, waits: &mut Waits, case: &mut Case) -> ContainerVerdict {
        let needs_name = |(name, digest, _): (Name<'_>, Option<&Digest>, &Use)| match digest {
            None => true,
            Some(_) if is_opaque(name.bytes()) => true,
            Some(digest) => {
                self.policy.sandbox.hides(name) != Hidden::Yes
                    && !self.policy.look_up_pod_runtime(name, digest).is_accepted()
            }
        };
        // It waits from its first sight, and not from what it used last.
        let may_wait = waits.may_wait(self.uid, Some(id), self.settle);
        let is_open = || {
            uses.opaque_above().is_some()
                || !uses.shared_memory.is_empty()
                || uses.in_order().into_iter().any(needs_name)
        };
        // What the runtime itself runs there needs no name.
        let state = if may_wait && is_open() {
            case.standing = Standing::Pending;
            let text = "pending: the container runtime has not named a container of this pod yet";
            case.say(Finding::note(Rule::KnownPods, self.subject(), text).found(id));
            self.contents(uses, Values::Unsettled, None, &mut case.tally);
            State::Pending
        } else if self.contents(uses, Values::Runtime, Some(&PodPart::Unnamed), &mut case.tally) {
            State::Untrusted
        } else {
            State::Trusted
        };
        ContainerVerdict {
            id: id.to_owned(),
            name: None,
            sandbox: false,
            image: String::new(),
            references: Vec::new(),
            listed: None,
            state,
        }
    }

    /// Judges what a part used, and gives whether anything fails. The part's name stands before the text of
    /// each finding; where nothing is said of contents there is none.
    fn contents(&self, uses: &Uses, values: Values<'_>, part: Option<&PodPart>, tally: &mut Tally) -> bool {
        let label = &part.map_or_else(String::new, |part| format!("{part}: "));
        let mut fails = false;
        if let (Some((exe, seq)), Some(is_trusted)) = (uses.opaque_above(), self.trusts_opaque(values))
            && let Some(finding) = v09_opaque::of_path(self.subject(), exe, is_trusted, label)
        {
            fails = finding.severity == Severity::Fail;
            let finding = finding.at_path(exe).at_seq(seq);
            tally.say(finding.resting_on(Provenance::Observed));
        }
        let is_trusted = trusts_shared_memory_code(values);
        let memory = uses.shared_memory.finding(self.subject(), is_trusted, label);
        if let Some(finding) = memory.filter(|_| !matches!(values, Values::Unsettled)) {
            fails |= finding.severity == Severity::Fail;
            // One for each part: those of a container that was started again are counted beside the first's.
            tally.findings.push(finding);
        }
        for (name, digest, used) in uses.in_order() {
            let Opinion {
                seen,
                learned,
                findings,
            } = self.content(name, digest, used, values, label);
            tally.learned |= learned;
            for finding in findings {
                fails |= finding.severity == Severity::Fail;
                let finding = finding.at_path(name.bytes()).at(used.index, used.seq);
                tally.say(finding.resting_on(used.provenance));
            }
            let counts = (used.entries, used.executions);
            tally.saw_in_part(name.bytes(), digest, counts, seen, part);
        }
        fails
    }

    fn content(
        &self,
        name: Name<'_>,
        digest: Option<&Digest>,
        used: &Use,
        values: Values<'_>,
        label: &str,
    ) -> Opinion {
        let key = PartitionKey::Pod(self.uid);
        let mut opinion = Opinion {
            seen: Seen::Refused,
            learned: false,
            findings: Vec::new(),
        };
        let allowed = match values {
            Values::Container(_, allowed) => allowed,
            Values::Runtime | Values::Unsettled => &self.policy.sandbox,
            Values::None => return opinion,
        };
        let is_unsettled = matches!(values, Values::Unsettled);
        let is_trusted = self.trusts_opaque(values);
        let opaque = is_trusted.and_then(|it| v09_opaque::of_path(self.subject(), name.bytes(), it, label));
        opinion.findings.extend(opaque);
        let Some(digest) = digest else {
            if !is_unsettled {
                opinion.findings.push(without_hash(key, label));
            }
            return opinion;
        };
        let elsewhere = match values {
            Values::Container(of, _) => self.not_only(of, name, digest, used, label),
            _ => None,
        };
        let hidden = allowed.hides(name);
        if hidden == Hidden::Yes {
            if elsewhere.is_none() {
                opinion.seen = Seen::Excluded;
            }
            opinion.findings.extend(elsewhere);
            return opinion;
        }
        if hidden == Hidden::GaveUp && !is_unsettled {
            opinion.findings.push(undecided(key, label));
        }
        let appraisal = match values {
            Values::Container(..) => self.policy.look_up_container(allowed, name, digest),
            _ => self.policy.look_up_pod_runtime(name, digest),
        };
        match &appraisal {
            ContentMatch::Accepted { learned, .. } => opinion.learned = *learned,
            _ if is_unsettled => return opinion,
            _ => {}
        }
        if let (ContentMatch::Accepted { .. }, Some(finding)) = (&appraisal, elsewhere) {
            opinion.findings.push(finding);
            return opinion;
        }
        let (seen, finding) = of_match(key, label, &appraisal, || allowed.paths_of(digest));
        opinion.seen = seen;
        opinion
            .findings
            .extend(finding.map(|finding| finding.found(digest)));
        opinion
    }
}

impl Bench<'_> {
    /// V9: what the policy's `only` says of a file that was executed or mapped in this container, whatever
    /// accepts its content. What the runtime itself runs there, while it sets the container up, is of no
    /// image.
    fn not_only(
        &self,
        of: &ContainerPolicy,
        name: Name<'_>,
        digest: &Digest,
        used: &Use,
        label: &str,
    ) -> Option<Finding> {
        let Name::True(path) = name else {
            // Of an entry, which says neither that it ran nor what the true path was.
            return None;
        };
        if of.container.may_run(path, !used.path_cut) || self.policy.is_runtime_content(digest) {
            return None;
        }
        let text = format!("{label}the policy lets no file run at this path here (only)");
        let finding = Finding::fail(Rule::PodContents, self.subject(), text).found(digest);
        let only = of.container.only.iter().take(MAX_EXPECTED);
        Some(only.fold(finding, Finding::expected))
    }
}

/// What is concluded of one content.
struct Opinion {
    seen: Seen,
    /// Only learned values accept it.
    learned: bool,
    findings: Vec<Finding>,
}

/// An image as the runtime names it.
fn image_of(name: &ContainerName) -> String {
    let mut all: Vec<&str> = name.references.iter().map(String::as_str).collect();
    if !name.image.is_empty() {
        all.insert(0, &name.image);
    }
    match all.is_empty() {
        true => "no image that the runtime names".to_owned(),
        false => all.join(", "),
    }
}
