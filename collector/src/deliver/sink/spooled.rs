//! A sink whose messages wait on disk: one task makes them, the other delivers them.
//!
//! Promise: the two wait for each other nowhere but at the queue. Not here: what a message is (see
//! [`super::message`]), how it is handed over (see [`super::target`]).

use super::message;
use super::queue::Queue;
use super::target::Target;
use crate::config::Sink;
use crate::deliver::backoff::{Backoff, LONGEST_OF_SINK};
use crate::request::Source;
use crate::runtime::Names;
use crate::status::SinkStatus;
use crate::sync::lock;
use rand_core::{OsRng, RngCore};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// One sink with a spool.
pub(super) struct Spooled {
    config: Sink,
    queue: Mutex<Queue>,
    target: Target,
    error: Mutex<Option<String>>,
    more: Notify,
    names: Names,
}

impl Spooled {
    pub(super) fn new(config: Sink, queue: Queue, target: Target, names: Names) -> Spooled {
        Spooled {
            config,
            queue: Mutex::new(queue),
            target,
            error: Mutex::default(),
            more: Notify::new(),
            names,
        }
    }

    /// How it fares.
    pub(super) fn status(&self) -> SinkStatus {
        let queue = lock(&self.queue);
        SinkStatus {
            name: self.config.name.clone(),
            kind: self.config.kind.name().to_owned(),
            waiting: queue.waiting(),
            waiting_bytes: queue.bytes(),
            delivered: queue.delivered(),
            dropped: queue.dropped(),
            unnamed: queue.unnamed(),
            error: lock(&self.error).clone(),
        }
    }

    /// Makes evidence at each interval and puts it into the spool.
    pub(super) async fn produce<S: Source>(
        self: Arc<Self>,
        node: String,
        source: S,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            if let Err(error) = round(&self, &node, &source).await {
                tracing::warn!(sink = self.config.name, %error, "no round for this sink");
                *lock(&self.error) = Some(error);
            }
            self.more.notify_one();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(Duration::from_secs(self.config.interval)) => {}
            }
        }
    }

    /// Delivers what waits, the oldest first.
    pub(super) async fn consume(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut open = None;
        let mut backoff = Backoff::new(LONGEST_OF_SINK);
        loop {
            let next = lock(&self.queue).front();
            let pause = match next {
                None => None,
                Some(message) => {
                    let limit = Duration::from_secs(self.config.timeout);
                    let delivered = tokio::time::timeout(limit, self.target.deliver(&message, &mut open));
                    let delivered = match delivered.await {
                        Ok(done) => done.map_err(|e| e.to_string()),
                        Err(_) => Err(format!("it took nothing within {} s", self.config.timeout)),
                    };
                    let done =
                        delivered.and_then(|()| lock(&self.queue).done(&message).map_err(|e| e.to_string()));
                    match done {
                        Ok(()) => {
                            backoff.succeeded();
                            *lock(&self.error) = None;
                            continue;
                        }
                        Err(error) => {
                            open = None;
                            let pause = backoff.failed();
                            tracing::warn!(sink = self.config.name, error, failures = backoff.failures(),
                                again_in = ?pause, "not delivered");
                            *lock(&self.error) = Some(error);
                            Some(pause)
                        }
                    }
                }
            };
            let wait = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => self.more.notified().await,
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = wait => {}
            }
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
