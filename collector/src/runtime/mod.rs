//! What the container runtime states of pods and their containers. Off unless `runtimes.cri` names a socket.
//!
//! Promises: nothing waits for the runtime. It is asked by a task of its own, when the kernel showed a
//! directory that has no name and else from time to time; each answer has limits of time and size; a runtime
//! that is dead, slow or lies harms nobody but those whose names it has. Not here: whose a record is (the
//! kernel says), which name becomes a record (see [`crate::pipeline`]).

mod cri;
mod words;

use self::words::{More, Words, words};
use crate::pipeline::{Stated, Unnamed};
use crate::sources::system;
use crate::sync::lock;
use cgpath_evidence::{PodInfo, PodUid};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// How often the runtime is asked where nothing asks for it.
pub const EVERY: Duration = Duration::from_secs(10);
/// How soon after an answer it is asked again where somebody has no name; then twice as long, and so on. A
/// sandbox is in the list once it runs, which is after its directory was made.
const SOON: Duration = Duration::from_millis(200);
/// Until when it must have answered with its lists.
const PATIENCE: Duration = Duration::from_secs(5);
/// Until when it must have said more of one container, and of all that are new. A container that it says
/// nothing more of is named by the list alone.
const PATIENCE_FOR_ONE: Duration = Duration::from_millis(500);
const PATIENCE_FOR_MORE: Duration = Duration::from_secs(2);
/// Pods that are remembered at most; those that were not named for longest go first.
const MAX_PODS: usize = cri::MAX_PODS;

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
    /// Pods and containers that are there and that it has not named.
    #[serde(default)]
    pub unnamed: u64,
    /// Sandboxes in the last answer that have more labels, or longer ones, than a record holds: their pods
    /// are named without them.
    #[serde(default)]
    pub labels_left_out: u64,
    /// Why the last question had no answer, or what of the answer was passed over.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Known {
    socket: PathBuf,
    /// With the number of the answer that named it last.
    pods: BTreeMap<PodUid, (Pod, u64)>,
    answers: u64,
    answered: Option<Instant>,
    labels_left_out: u64,
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
            unnamed: 0,
            labels_left_out: known.labels_left_out,
            error: known.error.clone(),
        })
    }

    fn learn(&self, pods: Vec<(PodUid, Pod)>, labels_left_out: u64, passed_over: Option<String>) {
        let mut known = self.known();
        known.answers += 1;
        known.answered = Some(Instant::now());
        known.labels_left_out = labels_left_out;
        if known.error != passed_over {
            if let Some(what) = &passed_over {
                tracing::warn!(what, "the container runtime says what is no name");
            }
            known.error = passed_over;
        }
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

/// Between the task that asks the runtime and the pipeline: what is said, and what is asked for. All clones
/// are the same.
#[derive(Debug, Clone)]
pub struct Line {
    said: mpsc::Sender<Vec<Stated>>,
    unnamed: Arc<watch::Sender<Unnamed>>,
}

impl Line {
    /// A line and its end. So many answers wait there; one more is passed over, since all of it is said
    /// again.
    pub fn new(answers: usize) -> (Line, mpsc::Receiver<Vec<Stated>>) {
        let (said, end) = mpsc::channel(answers);
        let unnamed = Arc::new(watch::Sender::new(Unnamed::default()));
        (Line { said, unnamed }, end)
    }

    /// So many have no name now: where one is new, the runtime is asked at once.
    pub fn wants(&self, unnamed: Unnamed) {
        self.unnamed.send_if_modified(|known| {
            let is_new = *known != unnamed;
            *known = unnamed;
            is_new
        });
    }
}

/// Asks the runtime at `socket` at once, whenever somebody new has no name, and `every` so often, until
/// `stop` turns true.
pub async fn ask(
    socket: PathBuf,
    every: Duration,
    names: Names,
    line: Line,
    mut stop: watch::Receiver<bool>,
) {
    names.known().socket.clone_from(&socket);
    let mut asker = Asker {
        socket,
        more: HashMap::new(),
    };
    let mut unnamed = line.unnamed.subscribe();
    let mut seen = None;
    let mut pace = SOON;
    loop {
        let now = unnamed.borrow_and_update().seen;
        let is_new = seen.replace(now) != Some(now);
        let answer = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            answer = asker.question() => answer,
        };
        let mut is_whole = true;
        match answer {
            Ok((words, whole)) => {
                is_whole = whole;
                names.learn(words.pods, words.labels_left_out, words.passed_over);
                // Where the pipeline is behind, this is passed over: it is said again.
                let _ = line.said.try_send(words.stated);
            }
            Err(error) => {
                if names.known().error.replace(error.clone()).is_none() {
                    let socket = asker.socket.display();
                    tracing::warn!(%socket, error, "the container runtime tells no names");
                }
            }
        }
        pace = if is_new || !is_whole {
            SOON
        } else {
            pace.saturating_mul(2).min(every)
        };
        let wait = if is_whole && unnamed.borrow().left == 0 {
            every
        } else {
            pace
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = pause(&mut unnamed, now, wait.min(every)) => {}
        }
    }
}

/// Waits for so long, or until somebody is new since `seen`, but never less than [`SOON`].
async fn pause(unnamed: &mut watch::Receiver<Unnamed>, seen: u64, wait: Duration) {
    sleep(SOON.min(wait)).await;
    let news = unnamed.wait_for(|unnamed| unnamed.seen != seen);
    // Both ends are the end of the wait.
    let _ = timeout(wait.saturating_sub(SOON), news).await;
}

/// Asks one runtime.
struct Asker {
    socket: PathBuf,
    /// What it said more of each container that it lists: each is asked for once.
    more: HashMap<String, More>,
}

impl Asker {
    /// What it says now, and whether that is all that it lists.
    async fn question(&mut self) -> Result<(Words, bool), String> {
        let lists = async {
            let mut client = cri::Client::connect(&self.socket).await?;
            // In this order: a pod that has a container in the second list is in the first, unless it is new,
            // and then it is asked for again; the other way round one that goes meanwhile would not be known.
            let sandboxes = client.sandboxes().await?;
            let containers = client.containers().await?;
            Ok::<_, cri::CriError>((client, sandboxes, containers))
        };
        let lists = timeout(PATIENCE, lists)
            .await
            .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
        let (client, sandboxes, mut containers) = lists.map_err(|e| e.to_string())?;
        let boot_ns = u64::try_from(system::now().as_nanos()).unwrap_or(u64::MAX);
        // The newest first: it may be gone soon.
        containers
            .items
            .sort_by_key(|container| Reverse(container.created_at));
        self.ask_more(client, &containers.items).await;
        let asked: Vec<_> = containers
            .items
            .iter()
            .filter_map(|container| Some((container, self.more.get(&container.id)?)))
            .collect();
        let is_whole = asked.len() == containers.items.len();
        let mut words = words(sandboxes.items, asked, boot_ns);
        let passed_over = sandboxes.passed_over.or(containers.passed_over);
        words.passed_over = passed_over.or(words.passed_over);
        Ok((words, is_whole))
    }

    /// Asks what more there is of containers that are new.
    async fn ask_more(&mut self, mut client: cri::Client, containers: &[cri::Container]) {
        let listed: HashSet<&str> = containers.iter().map(|one| one.id.as_str()).collect();
        self.more.retain(|id, _| listed.contains(id.as_str()));
        let begin = Instant::now();
        for container in containers {
            if self.more.contains_key(&container.id) {
                continue;
            }
            if begin.elapsed() > PATIENCE_FOR_MORE {
                return;
            }
            let more = match timeout(PATIENCE_FOR_ONE, client.status(&container.id)).await {
                Ok(Ok(status)) => More::of(status),
                // Removed meanwhile, or it hangs.
                Ok(Err(_)) | Err(_) => More::default(),
            };
            self.more.insert(container.id.clone(), more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outlive_their_pods_up_to_a_limit() {
        let names = Names::default();
        let pod = |n: usize| Pod {
            namespace: "shop".into(),
            name: format!("till-{n}"),
            labels: BTreeMap::new(),
        };
        let uid = |n: usize| PodUid((n as u128).to_be_bytes());
        names.learn(vec![(uid(0), pod(0)), (uid(1), pod(1))], 0, None);
        names.learn(vec![(uid(1), pod(7))], 0, None);
        assert_eq!((names.of(uid(0)), names.of(uid(1))), (Some(pod(0)), Some(pod(7))));
        names.learn((2..=MAX_PODS).map(|n| (uid(n), pod(n))).collect(), 0, None);
        assert_eq!(names.of(uid(0)), None, "it was not named for longest");
        assert_eq!(names.of(uid(1)), Some(pod(7)));
        assert_eq!(names.infos().len(), MAX_PODS);
    }

    #[test]
    fn labels_that_are_left_out_are_counted_and_are_no_failure_of_the_runtime() {
        let names = Names::default();
        names.known().socket = "/run/cri.sock".into();
        let status = || {
            let status = names.status().unwrap();
            (status.labels_left_out, status.error)
        };
        names.learn(Vec::new(), 3, None);
        assert_eq!(status(), (3, None));
        names.learn(Vec::new(), 0, Some("a name is passed over".into()));
        assert_eq!(status(), (0, Some("a name is passed over".into())));
    }
}
