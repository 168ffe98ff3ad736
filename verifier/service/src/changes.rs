//! What a change of a verdict is: a node or a pod whose state is another one than in the node's verdict
//! before.
//! Not here: what is kept of it (see `store`), who is notified (see `webhook`, `audit`, `revocations`).

use cgpath_appraisal::event::Change;
use cgpath_appraisal::{Finding, Severity, State, Verdict};
use cgpath_evidence::PodUid;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A pod, by all that says whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its UID.
    pub uid: PodUid,
    /// Its name in the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// One change that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// The pod; `None`: the node itself.
    pub pod: Option<PodUid>,
    /// The pod's name in the policy.
    pub name: Option<String>,
    /// `None`: no verdict before.
    pub old: Option<State>,
    /// `None`: not named any more.
    pub new: Option<State>,
    /// Rules that fail.
    pub rules: Vec<String>,
    /// See [`Happened::pods`].
    pub pods: Vec<PodName>,
}

/// One change that was kept.
#[derive(Debug, Clone)]
pub struct Happened {
    /// Random, and the same for all recipients.
    pub id: String,
    /// When, in unix seconds.
    pub time: u64,
    /// Whom it is about: the pod, or for a node all pods that it had. A reader who may see one of them may
    /// see the change.
    pub pods: Vec<PodName>,
    /// What changed.
    pub change: Change,
}

/// The states in a verdict, and nothing else of it.
#[derive(Debug, Deserialize)]
pub struct Outline {
    node: NodeOutline,
    pods: Vec<PodOutline>,
}

#[derive(Debug, Deserialize)]
struct NodeOutline {
    state: State,
}

#[derive(Debug, Deserialize)]
struct PodOutline {
    uid: PodUid,
    #[serde(default)]
    name: Option<String>,
    state: State,
}

impl From<&Verdict> for Outline {
    fn from(verdict: &Verdict) -> Outline {
        let pods = verdict.pods.iter().map(|pod| PodOutline {
            uid: pod.uid,
            name: pod.name.clone(),
            state: pod.state,
        });
        Outline {
            node: NodeOutline {
                state: verdict.node.state,
            },
            pods: pods.collect(),
        }
    }
}

fn failing(findings: &[Finding]) -> Vec<String> {
    let failing = findings.iter().filter(|f| f.severity == Severity::Fail);
    let rules: BTreeSet<String> = failing.map(|f| f.rule.to_string()).collect();
    rules.into_iter().collect()
}

/// What changed from `old` to `new`: the node first, then pods by their UIDs.
pub fn between(old: Option<&Outline>, new: &Verdict) -> Vec<StateChange> {
    let mut changes = Vec::new();
    let before = old.map(|old| old.node.state);
    if before != Some(new.node.state) {
        let pods = new.pods.iter().map(|pod| PodName {
            uid: pod.uid,
            name: pod.name.clone(),
        });
        changes.push(StateChange {
            pod: None,
            name: None,
            old: before,
            new: Some(new.node.state),
            rules: failing(&new.node.findings),
            pods: pods.collect(),
        });
    }
    let mut gone: BTreeMap<PodUid, &PodOutline> = old
        .iter()
        .flat_map(|old| &old.pods)
        .map(|pod| (pod.uid, pod))
        .collect();
    let mut change = |uid: PodUid, name: &Option<String>, old, new, rules| {
        changes.push(StateChange {
            pod: Some(uid),
            name: name.clone(),
            old,
            new,
            rules,
            pods: vec![PodName {
                uid,
                name: name.clone(),
            }],
        });
    };
    for pod in &new.pods {
        let before = gone.remove(&pod.uid).map(|pod| pod.state);
        if before != Some(pod.state) {
            change(
                pod.uid,
                &pod.name,
                before,
                Some(pod.state),
                failing(&pod.findings),
            );
        }
    }
    for (uid, pod) in gone {
        change(uid, &pod.name, Some(pod.state), None, Vec::new());
    }
    changes
}

/// The changes between the last verdict as it was and as it is after its re-appraisal.
pub fn of_reappraisal(changes: &[(Verdict, Verdict)]) -> Vec<StateChange> {
    let last = changes.last();
    last.map(|(old, new)| between(Some(&old.into()), new))
        .unwrap_or_default()
}
