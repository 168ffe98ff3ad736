//! Webhooks: each change of a verdict, posted as a signed CloudEvent, in order, until the receiver says 2xx.
//!
//! Promises: at least once, also across `kill -9`: the store says up to which number was delivered, and says
//! so after the receiver did. Where more wait than the queue may hold, one event stands for those that were
//! dropped, and it is delivered like any other. One receiver that is away delays no other. Not here: what an
//! event is (see `cgpath_appraisal::event`).

use crate::store::{Store, StoreError};
use axum::body::Bytes;
use cgpath_appraisal::event::{self, CloudEvent, Data, Dropped};
use cgpath_net::{Endpoint, NetError, Tls};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode, header};
use p256::ecdsa::SigningKey;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// How long one delivery may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The first pause after a delivery that failed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How long until the store is looked at though nobody said that there is something: `cgpath node` works
/// beside us.
const LOOK: Duration = Duration::from_secs(1);
/// Answers are read no further.
const MAX_ANSWER: usize = 64 * 1024;

/// Why one delivery failed.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("did not answer within {} s", ATTEMPT.as_secs())]
    Timeout,
    #[error("the request: {0}")]
    Request(String),
}

/// Up to what an outlet delivered, and what waits.
pub struct Waiting {
    /// Who: host and port.
    pub webhook: String,
    /// Events that wait.
    pub events: u64,
    /// Events that were dropped since the webhook was first there.
    pub dropped: u64,
}

/// One receiver.
pub struct Webhook {
    endpoint: Endpoint,
    /// By what the store knows it: its URL.
    outlet: String,
    queue: u64,
    source: String,
    key: SigningKey,
    store: Arc<Store>,
    open: Option<SendRequest<Full<Bytes>>>,
}

/// The name by which the store knows a webhook.
fn outlet(url: &str) -> String {
    format!("webhook {url}")
}

/// What waits for a webhook.
///
/// # Errors
/// [`StoreError::Database`].
pub fn waiting(store: &Store, url: &str) -> Result<Waiting, StoreError> {
    let outlet = outlet(url);
    let position = store.position(&outlet)?.unwrap_or(0);
    let authority = url.parse::<hyper::Uri>().ok().and_then(|uri| {
        let authority = uri.authority()?;
        Some(authority.to_string())
    });
    Ok(Waiting {
        webhook: authority.unwrap_or_default(),
        events: store.last_change()?.saturating_sub(position),
        dropped: store.position(&format!("dropped {outlet}"))?.unwrap_or(0),
    })
}

/// Why events cannot be delivered to a receiver.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Its URL or its CA.
    #[error(transparent)]
    Endpoint(#[from] NetError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Webhook {
    /// A receiver at `url`. One that the store does not know yet gets what happens from now on.
    ///
    /// # Errors
    /// An URL or a CA that cannot be used, and those of the store.
    pub fn new(
        url: &str,
        ca: &Path,
        queue: u32,
        key: SigningKey,
        store: Arc<Store>,
    ) -> Result<Webhook, WebhookError> {
        let endpoint = Endpoint::https(url, Tls::http1(ca))?;
        let outlet = outlet(url);
        if store.position(&outlet)?.is_none() {
            store.set_position(&outlet, store.last_change()?)?;
        }
        Ok(Webhook {
            endpoint,
            outlet,
            queue: u64::from(queue),
            source: event::source(key.verifying_key()),
            key,
            store,
            open: None,
        })
    }

    /// The next event that waits, with the first of its numbers.
    fn next(&self) -> Result<Option<CloudEvent>, StoreError> {
        let delivered = self.store.position(&self.outlet)?.unwrap_or(0);
        let last = self.store.last_change()?;
        if last <= delivered {
            return Ok(None);
        }
        // What the queue may not hold, and what the store did not keep.
        let kept = self.store.changes(delivered, 1)?;
        let oldest = kept
            .first()
            .map_or(last + 1, |happened| happened.change.number)
            .max((last + 1).saturating_sub(self.queue));
        if oldest > delivered + 1 {
            let dropped = Dropped {
                first: delivered + 1,
                last: oldest - 1,
            };
            let id = format!("dropped-{}-{}", dropped.first, dropped.last);
            let time = crate::clock::now();
            let data = Data::Dropped(dropped);
            return Ok(Some(CloudEvent::new(id, self.source.clone(), time, data)));
        }
        Ok(kept.into_iter().next().map(|happened| {
            let data = Data::Change(happened.change);
            CloudEvent::new(happened.id, self.source.clone(), happened.time, data)
        }))
    }

    /// Keeps that an event was delivered.
    fn delivered(&self, event: &CloudEvent) -> Result<(), StoreError> {
        let (first, last) = event.data.numbers();
        let counter = format!("dropped {}", self.outlet);
        let mut positions = vec![(self.outlet.as_str(), last)];
        if matches!(event.data, Data::Dropped(_)) {
            let before = self.store.position(&counter)?.unwrap_or(0);
            positions.push((&counter, before + (last - first + 1)));
        }
        self.store.set_positions(&positions)
    }

    async fn post(&mut self, event: &CloudEvent) -> Result<(), DeliveryError> {
        let body = serde_json::to_vec(event).map_err(|e| DeliveryError::Request(e.to_string()))?;
        let signature = event::sign(&body, crate::clock::now(), &self.key)
            .map_err(|e| DeliveryError::Request(e.to_string()))?;
        let request = || {
            Request::builder()
                .method(Method::POST)
                .uri(self.endpoint.path())
                .header(header::HOST, self.endpoint.authority())
                .header(header::USER_AGENT, concat!("cgpath/", env!("CARGO_PKG_VERSION")))
                .header(header::CONTENT_TYPE, event::CONTENT_TYPE)
                .header(event::SIGNATURE_HEADER, &signature)
                .body(Full::new(Bytes::from(body.clone())))
                .map_err(|e| DeliveryError::Request(e.to_string()))
        };
        let first = request()?;
        let second = request()?;
        let mut answer = None;
        if let Some(mut open) = self.open.take()
            && open.ready().await.is_ok()
        {
            // It may have been closed meanwhile: an event that comes twice counts once.
            answer = open.send_request(first).await.ok().map(|answer| (open, answer));
        }
        let (open, answer) = match answer {
            Some(answer) => answer,
            None => {
                let mut open = self.endpoint.connect().await?;
                let answer = open.send_request(second).await;
                (open, answer.map_err(|e| self.endpoint.broken(e))?)
            }
        };
        let status = answer.status();
        // A connection whose answer was not read to its end is of no more use.
        if self.endpoint.read(answer, MAX_ANSWER).await.is_ok() {
            self.open = Some(open);
        }
        if status.is_success() {
            Ok(())
        } else {
            Err(DeliveryError::Status(status))
        }
    }

    /// Delivers what waits and what comes, for as long as the service runs.
    pub async fn run(mut self, mut kept: broadcast::Receiver<Arc<str>>) {
        let mut failures = 0_u32;
        loop {
            let event = match tokio::task::block_in_place(|| self.next()) {
                Ok(Some(event)) => event,
                Ok(None) => {
                    let _ = tokio::time::timeout(LOOK, kept.recv()).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "webhook: the store cannot be read");
                    tokio::time::sleep(LAST_PAUSE).await;
                    continue;
                }
            };
            let authority = self.endpoint.authority().to_owned();
            let answer = tokio::time::timeout(ATTEMPT, self.post(&event)).await;
            let result = match answer.unwrap_or(Err(DeliveryError::Timeout)) {
                Ok(()) => tokio::task::block_in_place(|| self.delivered(&event)).map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match result {
                Ok(()) => {
                    failures = 0;
                    if let Data::Dropped(dropped) = &event.data {
                        let count = dropped.last - dropped.first + 1;
                        tracing::error!(webhook = authority, count, "webhook: events were dropped");
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = cgpath_net::pause(FIRST_PAUSE, LAST_PAUSE, failures);
                    tracing::warn!(webhook = authority, error, failures, again_in = ?pause,
                        "webhook: not delivered");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
