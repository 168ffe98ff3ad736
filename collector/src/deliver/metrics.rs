//! What the daemon says of itself, for Prometheus: `GET /metrics`, where this machine alone reaches it.
//!
//! Promises: who asks, or hangs up before the answer, costs the engine one answer a second at most, and has
//! bounded connections, bytes and time; a place that is taken keeps nothing from running. Not here: the
//! figures (see [`crate::status`]), which places there may be (see [`ListenAt`]).

use crate::config::ListenAt;
use crate::control;
use crate::deliver::stream::Stream;
use crate::status::{self, Status};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, Semaphore};

/// The one path.
const PATH: &str = "/metrics";

/// Bytes of a request's head at most: the fewest that hyper takes.
const HEAD: usize = 8192;

/// Headers of a request at most.
const HEADERS: usize = 64;

/// Within this time an answer is given again.
const YOUNG: Duration = Duration::from_secs(1);

/// What those who ask may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at one time; more of them wait until one ends.
    pub connections: usize,
    /// How long a connection may last.
    pub age: Duration,
    /// How long the engine may take; after that the daemon counts as down.
    pub answer: Duration,
    /// When a place that is taken is tried again.
    pub again: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 8,
            age: Duration::from_secs(10),
            answer: Duration::from_secs(5),
            again: Duration::from_secs(10),
        }
    }
}

/// Answers at `at` until the task is dropped. `ask` finds out how the daemon fares; nothing: it does not
/// answer.
pub async fn run<Ask, Answer>(at: ListenAt, ask: Ask)
where
    Ask: Fn() -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Option<Status>> + Send + 'static,
{
    run_within(at, ask, Limits::default()).await;
}

/// The same within other limits.
pub async fn run_within<Ask, Answer>(at: ListenAt, ask: Ask, limits: Limits)
where
    Ask: Fn() -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Option<Status>> + Send + 'static,
{
    let listener = bound(&at, limits.again).await;
    tracing::info!(%at, "figures for Prometheus");
    let figures = Figures::new(ask, limits.answer);
    let room = Arc::new(Semaphore::new(limits.connections));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok(stream) => {
                let figures = Arc::clone(&figures);
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(limits.age, converse(stream, figures)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "figures for Prometheus");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Waits until the place is free: a pod in the host's network can take it first, which must not keep the node
/// from being attested.
async fn bound(at: &ListenAt, again: Duration) -> Listener {
    let mut is_first = true;
    loop {
        match Listener::bind(at).await {
            Ok(listener) => return listener,
            Err(error) if is_first => {
                tracing::warn!(%at, %error, "figures for Prometheus are not given yet: tried again");
                is_first = false;
            }
            Err(error) => tracing::debug!(%at, %error, "figures for Prometheus are not given yet"),
        }
        tokio::time::sleep(again).await;
    }
}

enum Listener {
    Loopback(TcpListener),
    Socket(UnixListener),
}

impl Listener {
    async fn bind(at: &ListenAt) -> io::Result<Listener> {
        Ok(match at {
            ListenAt::Loopback(address) => Listener::Loopback(TcpListener::bind(address).await?),
            ListenAt::Socket(path) => Listener::Socket(control::local_socket(path)?),
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Loopback(listener) => Box::new(listener.accept().await?.0),
            Listener::Socket(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// One request and its answer.
async fn converse<Ask, Answer>(stream: Box<dyn Stream>, figures: Arc<Figures<Ask>>)
where
    Ask: Fn() -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Option<Status>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let figures = Arc::clone(&figures);
        async move { Ok::<_, Infallible>(figures.answer(&request).await) }
    });
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = conversation.await {
        tracing::debug!(%error, "a question for figures broke off");
    }
}

/// What is answered, and how it is found out.
struct Figures<Ask> {
    ask: Ask,
    patience: Duration,
    /// The last text, and when it was made.
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
enum NoText {
    #[error(transparent)]
    Encoding(#[from] std::fmt::Error),
    #[error("the task that makes it: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl<Ask, Answer> Figures<Ask>
where
    Ask: Fn() -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Option<Status>> + Send + 'static,
{
    fn new(ask: Ask, patience: Duration) -> Arc<Figures<Ask>> {
        Arc::new(Figures {
            ask,
            patience,
            last: Arc::default(),
        })
    }

    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let text = |status: StatusCode, text: Bytes| {
            let mut response = Response::new(Full::new(text));
            *response.status_mut() = status;
            response
        };
        if request.uri().path() != PATH {
            return text(StatusCode::NOT_FOUND, Bytes::from_static(b"GET /metrics\n"));
        }
        if request.method() != Method::GET {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, Bytes::new());
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        match self.text(Instant::now).await {
            Ok(figures) => {
                let mut response = text(StatusCode::OK, figures);
                let kind = HeaderValue::from_static(status::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::warn!(%error, "figures for Prometheus");
                text(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
            }
        }
    }

    /// The text: who comes while it is made waits for it and gets the same.
    async fn text(self: &Arc<Self>, now: impl Fn() -> Instant + Send + 'static) -> Result<Bytes, NoText> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((made, text)) = &*last
            && now().saturating_duration_since(*made) < YOUNG
        {
            return Ok(text.clone());
        }
        let figures = Arc::clone(self);
        // In a task that has the lock: hyper drops this future when the client hangs up, and what the engine
        // was asked for is made all the same, for the next one.
        let making = tokio::spawn(async move {
            let status = tokio::time::timeout(figures.patience, (figures.ask)()).await;
            let text = Bytes::from(status::metrics(status.ok().flatten().as_ref())?);
            *last = Some((now(), text.clone()));
            Ok::<_, NoText>(text)
        });
        making.await?
    }
}

#[cfg(test)]
mod tests;
