//! What the container runtime states of pods: namespace, name and labels of a UID. Off unless `runtimes.cri`
//! names a socket.
//!
//! Promises: nothing waits for the runtime. It is asked by a task of its own, each answer has limits of time
//! and size, and what it stated last stands until it states something else; a runtime that is dead, slow or
//! lies changes which sink is sent a pod's bundle and what is written beside a UID, and no verdict. Not here:
//! whose a record is (the kernel says, see [`crate::pipeline`]).

mod cri;

use crate::sync::lock;
use cgpath_evidence::{PodInfo, PodUid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the runtime is asked.
pub const EVERY: Duration = Duration::from_secs(10);
/// Until when it must have answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pods that are remembered at most; those that were not named for longest go first.
const MAX_PODS: usize = 4096;
/// Longest name, as Kubernetes has it (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// Labels of a pod at most, and bytes of one: `PREFIX/NAME` and a value of 63.
const MAX_LABELS: usize = 256;
const MAX_LABEL: usize = 317;

/// A pod by name, as the runtime states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Labels; what anybody may write who may write the pod.
    pub labels: BTreeMap<String, String>,
}

/// How the runtime fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// Its socket.
    pub socket: String,
    /// Pods whose names are known.
    pub pods: u64,
    /// Seconds since it answered last; none before its first answer.
    pub answered_ago: Option<u64>,
    /// Why the last question had no answer.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Known {
    socket: PathBuf,
    /// With the number of the answer that named it last.
    pods: BTreeMap<PodUid, (Pod, u64)>,
    answers: u64,
    answered: Option<Instant>,
    error: Option<String>,
}

/// What the runtime stated so far; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<Mutex<Known>>);

impl Names {
    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.0)
    }

    /// A pod's name, if the runtime stated it.
    pub fn of(&self, uid: PodUid) -> Option<Pod> {
        self.known().pods.get(&uid).map(|(pod, _)| pod.clone())
    }

    /// All names, as evidence carries them.
    pub fn infos(&self) -> Vec<PodInfo> {
        let known = self.known();
        let info = |(uid, (pod, _)): (&PodUid, &(Pod, u64))| PodInfo {
            uid: *uid,
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        };
        known.pods.iter().map(info).collect()
    }

    /// How the runtime fares; `None` where none is asked.
    pub fn status(&self) -> Option<RuntimeStatus> {
        let known = self.known();
        (!known.socket.as_os_str().is_empty()).then(|| RuntimeStatus {
            socket: known.socket.display().to_string(),
            pods: known.pods.len() as u64,
            answered_ago: known.answered.map(|at| at.elapsed().as_secs()),
            error: known.error.clone(),
        })
    }

    fn learn(&self, pods: Vec<(PodUid, Pod)>) {
        let mut known = self.known();
        known.answers += 1;
        known.answered = Some(Instant::now());
        known.error = None;
        let answer = known.answers;
        for (uid, pod) in pods {
            known.pods.insert(uid, (pod, answer));
        }
        // A pod that is gone keeps its name: its records stay in the evidence until the boot ends.
        let over = known.pods.len().saturating_sub(MAX_PODS);
        if over > 0 {
            let mut by_age: Vec<(u64, PodUid)> =
                known.pods.iter().map(|(uid, (_, at))| (*at, *uid)).collect();
            by_age.sort_unstable();
            for (_, uid) in by_age.into_iter().take(over) {
                known.pods.remove(&uid);
            }
        }
    }
}

/// Asks the runtime at `socket` at once and then `every` so often, until `stop` turns true.
pub async fn ask(socket: PathBuf, every: Duration, names: Names, mut stop: watch::Receiver<bool>) {
    names.known().socket.clone_from(&socket);
    loop {
        match question(&socket).await {
            Ok(pods) => names.learn(pods),
            Err(error) => {
                if names.known().error.replace(error.clone()).is_none() {
                    tracing::warn!(socket = %socket.display(), error, "the container runtime tells no names");
                }
            }
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

async fn question(socket: &Path) -> Result<Vec<(PodUid, Pod)>, String> {
    let answer = tokio::time::timeout(PATIENCE, cri::list_pod_sandboxes(socket))
        .await
        .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
    let mut sandboxes = answer.map_err(|e| e.to_string())?;
    if sandboxes.len() > MAX_PODS {
        return Err(format!(
            "it tells of {} pods, at most {MAX_PODS} are taken",
            sandboxes.len()
        ));
    }
    // A pod that was restarted has more than one sandbox: the last one made counts.
    sandboxes.sort_by_key(|sandbox| sandbox.created_at);
    Ok(sandboxes.into_iter().filter_map(named).collect())
}

/// Whether Kubernetes could call something so: a name that is none is not passed on.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

fn named(sandbox: cri::PodSandbox) -> Option<(PodUid, Pod)> {
    let metadata = sandbox.metadata?;
    let uid = PodUid::parse(metadata.uid.as_bytes())?;
    let labels: BTreeMap<String, String> = sandbox.labels.into_iter().collect();
    let are_labels = labels.len() <= MAX_LABELS
        && labels
            .iter()
            .all(|(key, value)| key.len() <= MAX_LABEL && value.len() <= MAX_LABEL);
    (is_name(&metadata.namespace) && is_name(&metadata.name) && are_labels).then_some((
        uid,
        Pod {
            namespace: metadata.namespace,
            name: metadata.name,
            labels,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(uid: &str, namespace: &str, name: &str) -> cri::PodSandbox {
        cri::PodSandbox {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: uid.into(),
                namespace: namespace.into(),
            }),
            created_at: 1,
            labels: [("app".to_owned(), "till".to_owned())].into(),
        }
    }

    #[test]
    fn what_kubernetes_could_not_call_a_pod_is_no_name() {
        let uid = "11111111-0000-4000-8000-000000000001";
        assert!(named(sandbox(uid, "shop", "till-0.x")).is_some());
        for (uid, namespace, name) in [
            ("static-pod", "shop", "till"),
            (uid, "", "till"),
            (uid, "shop", "till\n<b>"),
            (uid, "Shop", "till"),
            (uid, "shop", &"a".repeat(254)),
        ] {
            assert_eq!(named(sandbox(uid, namespace, name)), None, "{namespace} {name}");
        }
        let mut many = sandbox(uid, "shop", "till");
        many.labels = (0..300).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(named(many), None);
        let mut long = sandbox(uid, "shop", "till");
        long.labels = [("app".to_owned(), "x".repeat(1000))].into();
        assert_eq!(named(long), None);
    }

    #[test]
    fn names_outlive_their_pods_up_to_a_limit() {
        let names = Names::default();
        let pod = |n: usize| Pod {
            namespace: "shop".into(),
            name: format!("till-{n}"),
            labels: BTreeMap::new(),
        };
        let uid = |n: usize| PodUid((n as u128).to_be_bytes());
        names.learn(vec![(uid(0), pod(0)), (uid(1), pod(1))]);
        names.learn(vec![(uid(1), pod(7))]);
        assert_eq!((names.of(uid(0)), names.of(uid(1))), (Some(pod(0)), Some(pod(7))));
        names.learn((2..=MAX_PODS).map(|n| (uid(n), pod(n))).collect());
        assert_eq!(names.of(uid(0)), None, "it was not named for longest");
        assert_eq!(names.of(uid(1)), Some(pod(7)));
        assert_eq!(names.infos().len(), MAX_PODS);
    }
}
