//! Sends evidence to the verifier: asks it for a nonce at each interval and answers with evidence, over
//! HTTPS.
//!
//! What is sent is what is new since the position that comes with the nonce; everything where this boot never
//! was at it, and where the verifier answered that it cannot use a part.
//!
//! The server is authenticated by one CA, evidence by its quote. A verifier that is away delays nothing else:
//! tries are repeated with growing pauses and some chance in them, so that a fleet does not come back all at
//! once.

mod answer;
mod body;
mod client;

pub use answer::{parse_nonce, parse_verdict};
pub use client::{Client, Progress, PushError};

use super::backoff::Backoff;
use crate::config::Verifier;
use crate::request::Source;
use std::time::Duration;
use tokio::sync::watch;

/// Attests at each interval until `stop` turns true.
pub async fn run<S: Source>(config: Verifier, client: Client, handle: S, mut stop: watch::Receiver<bool>) {
    let mut backoff = Backoff::new(config.max_backoff);
    let mut everything = false;
    loop {
        let pause = match attest(&client, &handle, everything).await {
            Ok(()) => {
                everything = false;
                backoff.succeeded();
                client.progress().delivered();
                Duration::from_secs(config.interval)
            }
            Err(error) => {
                client.progress().failed(&error);
                everything |= error.wants_everything();
                let pause = backoff.failed();
                tracing::warn!(%error, failures = backoff.failures(), again_in = ?pause, "no attestation");
                pause
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn attest<S: Source>(client: &Client, handle: &S, everything: bool) -> Result<(), PushError> {
    let started = std::time::Instant::now();
    let (nonce, position) = client.nonce().await?;
    let position = position.filter(|_| !everything);
    let is_followed = position.is_some();
    let evidence = handle.evidence_after(nonce, position).await?;
    let (len, is_delta) = (evidence.len, evidence.is_delta);
    if is_followed && !is_delta {
        tracing::info!("the verifier follows another boot or another chain: everything is sent");
    }
    let verdict = client.deliver(evidence.file, len).await?;
    let verdict: serde_json::Value = serde_json::from_slice(&verdict).unwrap_or_default();
    if client.decides() {
        match parse_verdict(&verdict) {
            Some(verdicts) => handle.apply_verdict(verdicts).await?,
            None => {
                tracing::warn!("the verifier's answer does not say whom to deny executions: nobody else is")
            }
        }
    }
    let text = |at: &str| {
        verdict
            .pointer(at)
            .map_or_else(|| "unknown".to_owned(), |v| v.to_string())
    };
    tracing::info!(
        bytes = len,
        is_delta,
        took = ?started.elapsed(),
        all_trusted = %text("/trusted"),
        node = %text("/node/state"),
        "evidence delivered"
    );
    Ok(())
}
