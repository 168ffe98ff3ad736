//! Where evidence goes beside the verifier: any number of sinks, each with rounds of its own.
//!
//! Promises: a sink that is slow, dead or full delays nothing but itself. What waits for it is on disk, up to
//! its limit, and goes on after a restart; a round that does not fit is dropped, counted and said, and what
//! it would have stated comes with the next one, since a position moves only with what was kept. Not here:
//! how evidence is made (see [`crate::request::Source`]).

pub mod keylime;
mod message;
mod queue;
mod spooled;
mod target;

pub use queue::{Bound, Header, Queue, QueueError};

use super::backoff::LONGEST_OF_SINK;
use super::push::{self, Progress};
use crate::config::{Config, Sink, SinkKind, Verifier};
use crate::request::Source;
use crate::runtime::Names;
use crate::status::SinkStatus;
use crate::sync::lock;
use crate::tpm::TpmAccess;
use cgpath_evidence::Bank;
use cgpath_net::NetError;
use keylime::KeylimeError;
use spooled::Spooled;
use std::path::Path;
use std::sync::{Arc, Mutex};
use target::Target;
use tokio::sync::watch;

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

/// All sinks of a configuration.
pub struct Sinks {
    spooled: Vec<Arc<Spooled>>,
    /// Verifiers ask with their own nonces and know from where they follow: nothing of theirs waits on disk.
    verifiers: Vec<VerifierSink>,
    /// The same of Keylime's.
    keylime: Vec<Arc<keylime::Live>>,
}

/// A sink that is a verifier.
struct VerifierSink {
    name: String,
    config: Verifier,
    /// Until it is started.
    client: Mutex<Option<push::Client>>,
    progress: Arc<Progress>,
}

impl VerifierSink {
    fn new(sink: &Sink, node: &str) -> Result<VerifierSink, NetError> {
        let config = Verifier {
            url: sink.to.clone(),
            ca: sink.ca.clone(),
            client_certificate: sink.client_certificate.clone(),
            client_key: sink.client_key.clone(),
            interval: sink.interval,
            timeout: sink.timeout,
            max_backoff: LONGEST_OF_SINK,
        };
        let client = push::Client::new(&config, node)?.observing();
        Ok(VerifierSink {
            name: sink.name.clone(),
            progress: client.progress(),
            client: Mutex::new(Some(client)),
            config,
        })
    }
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
            let refused = |source| SinkError::Target {
                name: sink.name.clone(),
                source,
            };
            let dir = config.state_dir.join("sinks").join(&sink.name);
            let target = match sink.kind {
                SinkKind::Verifier => {
                    let verifier = VerifierSink::new(sink, node).map_err(refused)?;
                    sinks.verifiers.push(verifier);
                    continue;
                }
                SinkKind::KeylimePush => {
                    let name = sink.name.clone();
                    if config.tpm.bank != Bank::Sha256 {
                        return Err(SinkError::Bank { name });
                    }
                    let live = keylime::Live::new(sink, dir);
                    let live = live.map_err(|source| SinkError::Keylime { name, source })?;
                    sinks.keylime.push(Arc::new(live));
                    continue;
                }
                SinkKind::File => Target::file(sink),
                SinkKind::Unix => Target::unix(sink),
                SinkKind::Tls => Target::tls(sink).map_err(refused)?,
            };
            let queue = Queue::open(&dir, sink.spool << 20).map_err(|source| SinkError::Queue {
                name: sink.name.clone(),
                source,
            })?;
            let spooled = Spooled::new(sink.clone(), queue, target, names.clone());
            sinks.spooled.push(Arc::new(spooled));
        }
        Ok(sinks)
    }

    /// Starts the tasks of every sink that has a spool; within a tokio runtime. They end when `stop` turns
    /// true.
    pub fn start<S: Source>(&self, node: &str, source: &S, stop: &watch::Receiver<bool>) {
        for sink in &self.spooled {
            let (node, source) = (node.to_owned(), source.clone());
            tokio::spawn(Arc::clone(sink).produce(node, source, stop.clone()));
            tokio::spawn(Arc::clone(sink).consume(stop.clone()));
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
        let status = |verifier: &VerifierSink| {
            let (delivered, error) = verifier.progress.get();
            SinkStatus {
                name: verifier.name.clone(),
                kind: "verifier".to_owned(),
                delivered,
                error,
                ..SinkStatus::default()
            }
        };
        let spooled = self.spooled.iter().map(|sink| sink.status());
        let verifiers = self.verifiers.iter().map(status);
        let live = self.keylime.iter().map(|live| live.status());
        spooled.chain(verifiers).chain(live).collect()
    }
}
