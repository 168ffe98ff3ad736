//! A second reading of docs/spec/rules.md, "Workloads": V8 and V9 of pods under a policy of version 2.
//!
//! Promises: it shares no rule with `cgpath_appraisal::appraise` and no look-up with `policy`; all that
//! happened is walked again in each round, and nothing is remembered. Not here: evidence, what is on the
//! host, and whether any of it is to be believed.

use cgpath_appraisal::{Rule, State};
use cgpath_evidence::PodUid;
use std::collections::{BTreeMap, BTreeSet};

/// The container runtime's own program, whose content may be anywhere.
pub const RUNC: &str = "/usr/bin/runc";
/// What each image has; the content is the image's number and the path.
pub const FILES: [&str; 2] = ["/bin/app", "/lib/libc.so"];

/// The workload part of a policy.
#[derive(Debug)]
pub struct Part {
    pub workloads: Vec<Workload>,
    /// Seconds.
    pub settle: u64,
    /// An unknown pod is reported, no more.
    pub reports: bool,
}

/// Who is meant, where that is said, and what may run.
#[derive(Debug, Clone)]
pub struct Workload {
    pub name: &'static str,
    pub uid: Option<PodUid>,
    pub namespace: Option<&'static str>,
    /// The value of the label `app`.
    pub app: Option<&'static str>,
    /// By the container's name or `*`.
    pub containers: Vec<(&'static str, Limits)>,
}

/// What a container may run.
#[derive(Debug, Clone)]
pub struct Limits {
    pub images: Vec<u8>,
    /// `excludes` hides what is in `/tmp`.
    pub hides_tmp: bool,
    /// `only` has what is in `/bin`.
    pub only_bin: bool,
}

/// What happened in a pod before the end of a round.
#[derive(Debug, Clone)]
pub struct Happened {
    pub round: usize,
    pub uid: PodUid,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// The runtime calls the pod so: namespace and the value of its label.
    Pod(&'static str, &'static str),
    /// And the container with this id; without a name it is the sandbox.
    Container(String, &'static str),
    /// Something was used in this container, or outside of all.
    Used(Option<String>, Use),
}

#[derive(Debug, Clone)]
pub struct Use {
    pub path: &'static str,
    pub content: String,
    /// It was executed or mapped; else it was measured alone.
    pub ran: bool,
}

/// What is concluded of a pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Opinion {
    pub state: State,
    pub workload: Option<String>,
    pub failed: BTreeSet<Rule>,
    pub containers: BTreeMap<String, State>,
}

/// All pods after the last of these rounds, which were at `times`, in seconds.
pub fn appraise(part: &Part, happened: &[Happened], times: &[u64]) -> BTreeMap<PodUid, Opinion> {
    let uids: BTreeSet<PodUid> = happened.iter().map(|it| it.uid).collect();
    let of = |uid: PodUid| {
        let own: Vec<&Happened> = happened.iter().filter(|it| it.uid == uid).collect();
        (uid, one(part, uid, &own, times))
    };
    uids.into_iter().map(of).collect()
}

/// Whether the policy of the sandbox, or the runtime's own program, has it.
fn is_runtimes(used: &Use) -> bool {
    used.content == RUNC || (used.path == "/pause" && used.content == "pause")
}

impl Limits {
    fn accept(&self, used: &Use) -> bool {
        let is_runc = used.content == RUNC;
        let in_image = |n: &u8| FILES.contains(&used.path) && used.content == format!("{n}{}", used.path);
        let is_hidden = self.hides_tmp && used.path.starts_with("/tmp/");
        let is_limited = self.only_bin && used.ran && !used.path.starts_with("/bin/");
        is_runc || ((is_hidden || self.images.iter().any(in_image)) && !is_limited)
    }
}

/// The workload, or whether that depends on a name that is not there.
fn workload<'p>(part: &'p Part, uid: PodUid, name: Option<(&str, &str)>) -> Result<&'p Workload, bool> {
    for it in &part.workloads {
        if it.uid.is_some_and(|own| own != uid) {
            continue;
        }
        if it.namespace.is_none() && it.app.is_none() {
            return Ok(it);
        }
        let Some((namespace, app)) = name else {
            return Err(true);
        };
        if it.namespace.is_none_or(|own| own == namespace) && it.app.is_none_or(|own| own == app) {
            return Ok(it);
        }
    }
    Err(false)
}

fn one(part: &Part, uid: PodUid, own: &[&Happened], times: &[u64]) -> Opinion {
    let now = times[times.len() - 1];
    let waits = |since: usize| now - times[since] <= part.settle;
    let mut failed = BTreeSet::new();
    let mut name = None;
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    // Of each container, what it used and in which round first.
    let mut used: BTreeMap<Option<&str>, (usize, Vec<&Use>)> = BTreeMap::new();
    for it in own {
        let is_other = match &it.what {
            What::Pod(namespace, app) => *name.get_or_insert((*namespace, *app)) != (*namespace, *app),
            What::Container(id, called) => *names.entry(id).or_insert(called) != *called,
            What::Used(container, it_used) => {
                let of = used.entry(container.as_deref()).or_insert((it.round, Vec::new()));
                of.1.push(it_used);
                false
            }
        };
        if is_other {
            failed.insert(Rule::KnownPods);
        }
    }
    let all_named = |state: State| names.keys().map(|id| ((*id).to_owned(), state)).collect();
    let found = match workload(part, uid, name) {
        Ok(found) => found,
        // The records are in the order of the rounds.
        Err(true) if waits(own[0].round) => {
            let fails = !failed.is_empty();
            return Opinion {
                state: if fails { State::Untrusted } else { State::Pending },
                workload: None,
                failed,
                containers: all_named(State::Pending),
            };
        }
        Err(_) => {
            failed.insert(Rule::KnownPods);
            return Opinion {
                state: State::Unknown,
                workload: None,
                failed,
                containers: all_named(State::Unknown),
            };
        }
    };
    let mut containers = BTreeMap::new();
    let mut is_pending = used.is_empty();
    let ids: BTreeSet<&str> = used
        .keys()
        .flatten()
        .copied()
        .chain(names.keys().copied())
        .collect();
    for id in ids.into_iter().map(Some).chain([None]) {
        let nothing = (0, Vec::new());
        let (since, uses) = used.get(&id).unwrap_or(&nothing);
        let by_runtime = uses.iter().all(|it| is_runtimes(it));
        let called = id.and_then(|id| names.get(id));
        let limits = |called: &str| {
            let of = |wanted: &str| found.containers.iter().find(|(key, _)| *key == wanted);
            of(called).or(of("*")).map(|(_, limits)| limits)
        };
        let state = match called {
            None if id.is_some() && !by_runtime && waits(*since) => State::Pending,
            None | Some(&"") if by_runtime => State::Trusted,
            None | Some(&"") => {
                failed.insert(Rule::PodContents);
                State::Untrusted
            }
            Some(called) => match limits(called) {
                None => {
                    failed.insert(Rule::KnownPods);
                    State::Untrusted
                }
                Some(limits) if uses.iter().all(|it| limits.accept(it)) => State::Trusted,
                Some(_) => {
                    failed.insert(Rule::PodContents);
                    State::Untrusted
                }
            },
        };
        is_pending |= state == State::Pending;
        if let Some(id) = id {
            containers.insert(id.to_owned(), state);
        }
    }
    Opinion {
        state: match (failed.is_empty(), is_pending) {
            (false, _) => State::Untrusted,
            (true, true) => State::Pending,
            (true, false) => State::Trusted,
        },
        workload: Some(found.name.to_owned()),
        failed,
        containers,
    }
}
