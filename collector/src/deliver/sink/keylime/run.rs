//! Attests again and again, as often as the verifier wants, and says how it fares.

use super::{Agent, Boot, KeylimeError, services};
use crate::config::Sink;
use crate::deliver::backoff::{Backoff, LONGEST_OF_SINK};
use crate::status::SinkStatus;
use crate::sync::lock;
use crate::tpm::TpmAccess;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Longest pause that a verifier or registrar can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(86_400);

/// A sink that is a Keylime verifier.
pub(in crate::deliver::sink) struct Live {
    config: Sink,
    /// Where the boot's time is kept.
    dir: PathBuf,
    status: Mutex<SinkStatus>,
}

impl Live {
    /// Reads URLs and CA, so that what is wrong is known at the start.
    ///
    /// # Errors
    /// [`KeylimeError::Net`].
    pub(in crate::deliver::sink) fn new(config: &Sink, dir: PathBuf) -> Result<Live, KeylimeError> {
        services(config)?;
        Ok(Live {
            config: config.clone(),
            dir,
            status: Mutex::new(SinkStatus {
                name: config.name.clone(),
                kind: config.kind.name().to_owned(),
                ..SinkStatus::default()
            }),
        })
    }

    /// `delivered` counts the attestations that the verifier took: it appraises them later, and says so to
    /// its own users.
    pub(in crate::deliver::sink) fn status(&self) -> SinkStatus {
        lock(&self.status).clone()
    }

    /// Attests until `stop` turns true.
    pub(in crate::deliver::sink) async fn run<T: TpmAccess>(
        self: Arc<Live>,
        node: String,
        list: PathBuf,
        tpm: T,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut agent = None;
        let mut backoff = Backoff::new(LONGEST_OF_SINK);
        loop {
            let pause = match self.round(&mut agent, &node, &list, &tpm).await {
                Ok(pause) => {
                    backoff.succeeded();
                    pause
                }
                Err(error) => {
                    let asked = Duration::from_secs(error.retry_after().unwrap_or_default());
                    let pause = backoff.failed().max(asked).min(MAX_PAUSE);
                    tracing::warn!(sink = self.config.name, %error, failures = backoff.failures(),
                        again_in = ?pause, "not attested");
                    lock(&self.status).error = Some(error.to_string());
                    pause
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One attestation; gives the pause until the next.
    async fn round<T: TpmAccess>(
        &self,
        agent: &mut Option<Agent<T>>,
        node: &str,
        list: &Path,
        tpm: &T,
    ) -> Result<Duration, KeylimeError> {
        let agent = match agent {
            Some(agent) => agent,
            None => {
                let boot = Boot::read(&self.dir)?;
                agent.insert(Agent::new(&self.config, node, list, boot, tpm.clone())?)
            }
        };
        let sent = agent.round().await?;
        tracing::debug!(sink = self.config.name, ?sent, "attested");
        let mut status = lock(&self.status);
        status.delivered += 1;
        status.error = None;
        let seconds = sent.next.unwrap_or(self.config.interval).max(1);
        Ok(Duration::from_secs(seconds).min(MAX_PAUSE))
    }
}
