//! Where evidence goes beside the verifier: any number of sinks, each with rounds of its own.
//!
//! Promises: a sink that is slow, dead or full delays nothing but itself. What waits for it is on disk, up to its limit, and
//! goes on after a restart; a round that does not fit is dropped, counted and said, and what it would have told comes with
//! the next one, since a position moves only with what was kept. Not here: how evidence is made (see [`crate::service`]).

mod deliver;
pub mod keylime;
mod message;
mod queue;

use crate::config::{Config, Sink, SinkKind, Verifier};
use crate::push::{self, FIRST_PAUSE, Judgement, Progress};
use crate::runtime::Names;
use crate::service::{Handle, RequestError};
use crate::store::EvidenceFile;
use crate::tpm::TpmAccess;
use cgpath_evidence::{Bank, Position};
use cgpath_net::NetError;
use deliver::Target;
use keylime::KeylimeError;
pub use queue::{Bound, Header, Queue, QueueError};
use rand_core::{OsRng, RngCore};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Longest pause between tries, seconds.
const MAX_BACKOFF: u64 = 300;

/// Whoever makes evidence: the engine, or a test.
pub trait Source: Clone + Send + Sync + 'static {
    /// What came after a position, or all evidence; see [`Handle::evidence_after`].
    fn evidence_after(
        &self,
        nonce: Vec<u8>,
        after: Option<Position>,
    ) -> impl Future<Output = Result<EvidenceFile, RequestError>> + Send;

    /// A verdict that decides arrived.
    fn judged(&self, judgement: Judgement) -> impl Future<Output = Result<(), RequestError>> + Send;
}

impl Source for Handle {
    async fn evidence_after(
        &self,
        nonce: Vec<u8>,
        after: Option<Position>,
    ) -> Result<EvidenceFile, RequestError> {
        Handle::evidence_after(self, nonce, after).await
    }

    async fn judged(&self, judgement: Judgement) -> Result<(), RequestError> {
        Handle::judged(self, judgement).await
    }
}

/// Why a sink cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// Its spool.
    #[error("sink {name}: {source}")]
    Queue {
        /// The sink.
        name: String,
        /// Why not.
        source: QueueError,
    },
    /// Its address or CA.
    #[error("sink {name}: {source}")]
    Target {
        /// The sink.
        name: String,
        /// Why not.
        source: NetError,
    },
    /// The same of a Keylime verifier.
    #[error("sink {name}: {source}")]
    Keylime {
        /// The sink.
        name: String,
        /// Why not.
        source: KeylimeError,
    },
    /// The bank that is quoted is none that Keylime can use.
    #[error("sink {name}: Keylime wants the bank of the key's hash algorithm: set tpm.bank to \"sha256\"")]
    Bank {
        /// The sink.
        name: String,
    },
}

/// How a sink fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// Messages that wait.
    pub waiting: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// Messages that were delivered, since the sink was made; rounds with a verifier, since the start.
    pub delivered: u64,
    /// Rounds that were dropped since then.
    pub dropped: u64,
    /// Why the last try failed; none after one that did not.
    pub error: Option<String>,
    /// Pods that the last round has nothing of, since the runtime has not told their names yet.
    #[serde(default)]
    pub unnamed: u64,
}

/// One sink with a spool.
struct Spooled {
    config: Sink,
    queue: Mutex<Queue>,
    target: Target,
    error: Mutex<Option<String>>,
    more: Notify,
    names: Names,
}

/// All sinks of a configuration.
pub struct Sinks {
    spooled: Vec<Arc<Spooled>>,
    /// Verifiers ask with their own nonces and know from where they follow: nothing of theirs waits on disk.
    verifiers: Vec<Judging>,
    /// The same of Keylime's.
    keylime: Vec<Arc<keylime::Live>>,
}

/// A sink that is a verifier.
struct Judging {
    name: String,
    /// As if it were the only one.
    config: Config,
    /// Until it is started.
    client: Mutex<Option<push::Client>>,
    progress: Arc<Progress>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sinks {
    /// Opens every spool and reads every CA, so that what is wrong is known at the start.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn open(config: &Config, node: &str, names: &Names) -> Result<Sinks, SinkError> {
        let mut sinks = Sinks {
            spooled: Vec::new(),
            verifiers: Vec::new(),
            keylime: Vec::new(),
        };
        for sink in config.sink.iter().filter(|sink| sink.is_on(node)) {
            let target = |source| SinkError::Target {
                name: sink.name.clone(),
                source,
            };
            if sink.kind == SinkKind::Verifier {
                let own = Config {
                    verifier: Verifier {
                        url: sink.to.clone(),
                        ca: sink.ca.clone(),
                        client_certificate: sink.client_certificate.clone(),
                        client_key: sink.client_key.clone(),
                        interval: sink.interval,
                        timeout: sink.timeout,
                        max_backoff: MAX_BACKOFF,
                    },
                    ..config.clone()
                };
                let client = push::Client::new(&own, node).map_err(target)?.observing();
                sinks.verifiers.push(Judging {
                    name: sink.name.clone(),
                    progress: client.progress(),
                    client: Mutex::new(Some(client)),
                    config: own,
                });
                continue;
            }
            let dir = config.state_dir.join("sinks").join(&sink.name);
            if sink.kind == SinkKind::KeylimePush {
                let name = sink.name.clone();
                if config.tpm.bank != Bank::Sha256 {
                    return Err(SinkError::Bank { name });
                }
                let live = keylime::Live::new(sink, dir);
                let live = live.map_err(|source| SinkError::Keylime { name, source })?;
                sinks.keylime.push(Arc::new(live));
                continue;
            }
            let queue = Queue::open(&dir, sink.spool << 20).map_err(|source| SinkError::Queue {
                name: sink.name.clone(),
                source,
            })?;
            sinks.spooled.push(Arc::new(Spooled {
                target: Target::new(sink).map_err(target)?,
                config: sink.clone(),
                names: names.clone(),
                queue: Mutex::new(queue),
                error: Mutex::default(),
                more: Notify::new(),
            }));
        }
        Ok(sinks)
    }

    /// Starts the tasks of every sink that has a spool; within a tokio runtime. They end when `stop` turns true.
    pub fn start<S: Source>(&self, node: &str, source: &S, stop: &watch::Receiver<bool>) {
        for sink in &self.spooled {
            tokio::spawn(produce(
                Arc::clone(sink),
                node.to_owned(),
                source.clone(),
                stop.clone(),
            ));
            tokio::spawn(consume(Arc::clone(sink), stop.clone()));
        }
    }

    /// Starts the tasks of the others, which are verifiers; once.
    pub fn attest<S: Source>(&self, source: &S, stop: &watch::Receiver<bool>) {
        for verifier in &self.verifiers {
            if let Some(client) = lock(&verifier.client).take() {
                let config = verifier.config.clone();
                tokio::spawn(push::run(config, client, source.clone(), stop.clone()));
            }
        }
    }

    /// Starts the tasks of those that are Keylime's; `list` as in `ima.list`.
    pub fn attest_to_keylime<T: TpmAccess>(
        &self,
        node: &str,
        list: &Path,
        tpm: &T,
        stop: &watch::Receiver<bool>,
    ) {
        for live in &self.keylime {
            let live = Arc::clone(live);
            let (node, list) = (node.to_owned(), list.to_owned());
            tokio::spawn(live.run(node, list, tpm.clone(), stop.clone()));
        }
    }

    /// How each fares.
    pub fn status(&self) -> Vec<SinkStatus> {
        let of = |sink: &Arc<Spooled>| {
            let queue = lock(&sink.queue);
            SinkStatus {
                name: sink.config.name.clone(),
                kind: sink.config.kind.name().to_owned(),
                waiting: queue.waiting(),
                waiting_bytes: queue.bytes(),
                delivered: queue.delivered(),
                dropped: queue.dropped(),
                unnamed: queue.unnamed(),
                error: lock(&sink.error).clone(),
            }
        };
        let judging = |verifier: &Judging| {
            let (delivered, error) = verifier.progress.get();
            SinkStatus {
                name: verifier.name.clone(),
                kind: "verifier".to_owned(),
                delivered,
                error,
                ..SinkStatus::default()
            }
        };
        let verifiers = self.verifiers.iter().map(judging);
        let live = self.keylime.iter().map(|live| live.status());
        self.spooled.iter().map(of).chain(verifiers).chain(live).collect()
    }
}

/// Makes evidence at each interval and puts it into the spool.
async fn produce<S: Source>(sink: Arc<Spooled>, node: String, source: S, mut stop: watch::Receiver<bool>) {
    loop {
        if let Err(error) = round(&sink, &node, &source).await {
            tracing::warn!(sink = sink.config.name, %error, "no round for this sink");
            *lock(&sink.error) = Some(error);
        }
        sink.more.notify_one();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(Duration::from_secs(sink.config.interval)) => {}
        }
    }
}

async fn round<S: Source>(sink: &Arc<Spooled>, node: &str, source: &S) -> Result<(), String> {
    let mut salt = [0; 32];
    OsRng.fill_bytes(&mut salt);
    // Nobody else keeps or drops rounds of this sink: what is bound here holds until the round is kept.
    let (is_full, after, bound) = {
        let queue = lock(&sink.queue);
        let bound = queue.bound(&sink.config.name, salt);
        (queue.is_full(), queue.after(&sink.config), bound)
    };
    if is_full {
        // Not even the TPM is troubled.
        return drop_round(sink);
    }
    let evidence = source
        .evidence_after(bound.nonce().to_vec(), after)
        .await
        .map_err(|e| e.to_string())?;
    let (sink, node) = (Arc::clone(sink), node.to_owned());
    let kept = tokio::task::spawn_blocking(move || {
        let made =
            message::make(evidence, &sink.config, &node, &bound, &sink.names).map_err(|e| e.to_string())?;
        let kept = match made {
            Some(made) => lock(&sink.queue).push(made).map_err(|e| e.to_string())?,
            None => false,
        };
        if kept { Ok(()) } else { drop_round(&sink) }
    });
    kept.await.map_err(|e| e.to_string())?
}

/// Counts a round that does not fit.
fn drop_round(sink: &Spooled) -> Result<(), String> {
    let mut queue = lock(&sink.queue);
    queue.drop_round().map_err(|e| e.to_string())?;
    Err(format!(
        "its spool of {} MiB is full: {} round(s) were dropped so far",
        sink.config.spool,
        queue.dropped()
    ))
}

/// Delivers what waits, the oldest first.
async fn consume(sink: Arc<Spooled>, mut stop: watch::Receiver<bool>) {
    let mut open = None;
    let mut failures = 0u32;
    loop {
        let next = lock(&sink.queue).front();
        let pause = match next {
            None => None,
            Some(message) => {
                let limit = Duration::from_secs(sink.config.timeout);
                let delivered = tokio::time::timeout(limit, sink.target.deliver(&message, &mut open));
                let delivered = match delivered.await {
                    Ok(done) => done.map_err(|e| e.to_string()),
                    Err(_) => Err(format!("it took nothing within {} s", sink.config.timeout)),
                };
                let done =
                    delivered.and_then(|()| lock(&sink.queue).done(&message).map_err(|e| e.to_string()));
                match done {
                    Ok(()) => {
                        failures = 0;
                        *lock(&sink.error) = None;
                        continue;
                    }
                    Err(error) => {
                        open = None;
                        failures = failures.saturating_add(1);
                        let longest = Duration::from_secs(MAX_BACKOFF);
                        let pause = cgpath_net::pause(FIRST_PAUSE, longest, failures);
                        tracing::warn!(sink = sink.config.name, error, failures, again_in = ?pause, "not delivered");
                        *lock(&sink.error) = Some(error);
                        Some(pause)
                    }
                }
            }
        };
        let wait = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => sink.more.notified().await,
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = wait => {}
        }
    }
}
