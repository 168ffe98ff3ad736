//! The service's requests and answers.
//!
//! Who may do what: anybody, or with `--client-ca` a client that shows the node's certificate, may ask for a
//! nonce and hand in evidence: evidence proves itself by its quote, and what does not prove itself changes
//! nothing that is kept. There is no request that changes an enrolment (see `cgpath node`). Not here: reading
//! (see `read`), TLS (see `listener`), what evidence means (see `ingest`), what is kept (see `store`).

pub mod answers;
pub mod metrics;
pub mod read;
pub mod readers;
pub mod revocations;
pub mod stream;

use crate::api::answers::Refused;
use crate::api::readers::{ReaderId, Readers};
use crate::challenges::Challenges;
use crate::clock::now;
use crate::ingest::{Appraiser, Refusal};
use crate::listener::counts::Counts;
use crate::listener::{Connection, Peer, Peers, Shown};
use crate::nonce::Nonces;
use crate::store::{self, Store, StoreError, StoredVerdict};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use bytes::BytesMut;
use cgpath_appraisal::ear;
use cgpath_appraisal::text::{library_message, quoted};
use cgpath_evidence::Head;
use http_body_util::BodyExt;
use p256::ecdsa::SigningKey;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

/// The id under which the verdict in an answer was kept.
const VERDICT_ID: HeaderName = HeaderName::from_static("cgpath-verdict-id");
/// Evidence in memory at one time, as a multiple of [`Settings::max_evidence`]. What counts is what has
/// arrived: a client that sends slowly holds little.
const UPLOADS: usize = 16;
/// The unit in which that is counted.
const UPLOAD_UNIT: usize = 4096;
/// Appraisals at one time, of evidence that proved itself.
const APPRAISALS: u32 = 16;
/// Of these, how many the longest evidence counts for: what is decoded takes a multiple of its length.
const APPRAISALS_LONGEST: u32 = 4;
/// Uploads at one time from one peer: it takes several to keep the others waiting.
const UPLOADS_PER_PEER: usize = 4;
/// How long an upload waits for memory.
const UPLOAD_TURN: Duration = Duration::from_secs(20);
/// Names that wait for a slow listener; then it looks at the store all the same.
const KEPT: usize = 64;

/// How requests are answered.
#[derive(Clone)]
pub struct Settings {
    /// Bytes of the longest evidence.
    pub max_evidence: usize,
    /// How long evidence may take to arrive.
    pub upload: Duration,
    /// Age in seconds after which a verdict is shown as stale.
    pub stale_after: u64,
    /// How long an attestation result counts from its verdict on, in seconds.
    pub ear_lifetime: u64,
    /// Who is notified of changes: URLs.
    pub webhooks: Vec<String>,
}

/// Who may ask.
#[derive(Clone)]
pub struct Access {
    /// Who may read; with nobody in it, every client that connects from this machine.
    pub readers: Readers,
    /// Whether nodes must show a certificate with their name.
    pub certificates: bool,
}

/// Everything that requests share.
pub struct App {
    /// What is kept.
    pub store: Arc<Store>,
    /// Makes and knows nonces.
    pub nonces: Nonces,
    /// Appraises evidence and keeps the result.
    pub appraiser: Arc<Appraiser>,
    /// Signs verdicts.
    pub verdict_key: SigningKey,
    /// See there.
    pub settings: Settings,
    /// See there.
    pub access: Access,
    /// Nonces of readers' own.
    pub(crate) challenges: Challenges,
    /// Streams that readers have.
    pub(crate) streams: Arc<Counts<ReaderId>>,
    /// In [`UPLOAD_UNIT`]s.
    uploads: Arc<Semaphore>,
    appraising: Semaphore,
    uploading: Peers,
    refusals: Mutex<HashMap<String, Refused>>,
    /// Names of nodes, each time that a verdict about one was kept.
    pub(crate) kept: broadcast::Sender<Arc<str>>,
}

/// Refusals are written into the store this often at most, seconds: strangers can make any number of them.
const WRITE_REFUSALS: u64 = 10;

/// An error answer: `{"error", "kind", "hint"}`, as the command prints its own.
#[derive(Debug)]
pub struct ApiError {
    pub(crate) status: StatusCode,
    kind: &'static str,
    error: String,
    hint: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, kind: &'static str, error: impl Into<String>) -> ApiError {
        ApiError {
            status,
            kind,
            error: error.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> ApiError {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn unknown_node(name: &str) -> ApiError {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown-node",
            format!("no node named {} is enrolled here", quoted(name)),
        )
        .hint(
            "on the verifier: cgpath node add NAME --ak FILE --policy FILE; on the node: the key `node` in \
             cgpathd.toml",
        )
    }

    pub(crate) fn internal(error: &dyn core::fmt::Display) -> ApiError {
        tracing::error!(%error, "internal error");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the verifier could not do this; its log says why",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Object {
            error: String,
            kind: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<String>,
        }
        let retry = matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT
        );
        let object = Object {
            error: self.error,
            kind: self.kind,
            hint: self.hint,
        };
        let mut response = (self.status, Json(object)).into_response();
        if retry {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        match error {
            StoreError::UnknownNode(name) => ApiError::unknown_node(&name),
            StoreError::Stopped(name) => {
                ApiError::new(StatusCode::CONFLICT, "stopped", format!("node {name} is stopped"))
                    .hint("cgpath node reactivate NAME takes its evidence again")
            }
            other => ApiError::internal(&other),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let text = refusal.to_string();
        let (status, kind, hint) = match &refusal {
            Refusal::Store(_) => {
                let Refusal::Store(error) = refusal else {
                    return ApiError::internal(&text);
                };
                return error.into();
            }
            Refusal::Evidence(cgpath_evidence::Error::Incomplete { .. }) => (
                StatusCode::BAD_REQUEST,
                "incomplete",
                "the body ends too early: was the upload cut off?",
            ),
            Refusal::Evidence(cgpath_evidence::Error::Limit { .. }) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "limit",
                "cgpath serve --max-evidence MIB allows more, up to the format's own limits",
            ),
            Refusal::Evidence(_) => (
                StatusCode::BAD_REQUEST,
                "malformed",
                "the body must be evidence in deterministic CBOR, as cgpathd makes it",
            ),
            Refusal::UnknownKey {
                node,
                expected,
                found,
            } => {
                // The client is not authenticated: which key is pinned is for the log.
                tracing::warn!(node, expected, found, "evidence by another key");
                (
                    StatusCode::FORBIDDEN,
                    "unknown-key",
                    "if this is the node's own key: cgpath node add NAME --ak FINGERPRINT --policy FILE \
                     --replace; the pinned one: cgpath node show NAME",
                )
            }
            Refusal::Nonce(_) | Refusal::NonceUsed => (
                StatusCode::FORBIDDEN,
                "nonce",
                "ask for a nonce and answer with it once, within its lifetime",
            ),
            Refusal::Quote(_) => (
                StatusCode::FORBIDDEN,
                "quote",
                "evidence whose quote does not hold is not kept; the node's last verdict stands",
            ),
            Refusal::Mismatch(mismatch) => (
                StatusCode::CONFLICT,
                mismatch.kind(),
                "ask for a nonce again and answer with all evidence, or with what came after the position \
                 that comes with it",
            ),
            Refusal::Join(_) => (
                StatusCode::CONFLICT,
                "other-position",
                "ask for a nonce again and answer with all evidence",
            ),
            Refusal::Unusable(_) | Refusal::Waivers(_) => (
                StatusCode::BAD_REQUEST,
                "unusable",
                "the evidence does not fit together",
            ),
            Refusal::Policy(detail) => {
                // Paths of this machine are for its log.
                tracing::error!(error = %detail, "a policy cannot be used: evidence is refused until it can");
                return ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "policy",
                    "the verifier's policy for this node cannot be used; its log says why",
                );
            }
        };
        ApiError::new(status, kind, text).hint(hint)
    }
}

impl App {
    /// Ready to serve.
    pub fn new(
        store: Arc<Store>,
        nonces: Nonces,
        appraiser: Arc<Appraiser>,
        verdict_key: SigningKey,
        settings: Settings,
        access: Access,
    ) -> App {
        App {
            store,
            nonces,
            appraiser,
            verdict_key,
            challenges: Challenges::default(),
            streams: Counts::new(crate::api::stream::each(access.readers.len())),
            uploads: Arc::new(Semaphore::new(
                settings.max_evidence.div_ceil(UPLOAD_UNIT) * UPLOADS,
            )),
            appraising: Semaphore::new(APPRAISALS as usize),
            uploading: Peers::new(UPLOADS_PER_PEER),
            refusals: Mutex::new(HashMap::new()),
            kept: broadcast::Sender::new(KEPT),
            settings,
            access,
        }
    }

    /// Remembers a refusal; only of nodes that are enrolled, so that strangers cannot fill the memory.
    /// Gives what is to be written into the store, where it is time to.
    fn refused(&self, node: &str, error: &ApiError) -> Option<store::Refusal> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = refusals.entry(node.to_owned()).or_default();
        refused.count += 1;
        refused.time = now();
        refused.kind = error.kind;
        refused.error.clone_from(&error.error);
        if refused.time < refused.written.saturating_add(WRITE_REFUSALS) {
            return None;
        }
        refused.written = refused.time;
        Some(store::Refusal {
            time: refused.time,
            kind: refused.kind.to_owned(),
            error: refused.error.clone(),
        })
    }

    /// The terms of an attestation result about a kept verdict, as of now.
    pub(crate) fn terms<'a>(
        &self,
        scope: ear::Scope,
        kept: &'a StoredVerdict,
    ) -> Result<ear::Terms<'a>, StoreError> {
        let stopped = self.store.node(&kept.node)?.stopped.is_some();
        let stale = now().saturating_sub(kept.time) > self.settings.stale_after;
        Ok(ear::Terms {
            lifetime: self.settings.ear_lifetime,
            standing: match (stopped, stale) {
                (true, _) => Some(ear::Standing::Stopped),
                (_, true) => Some(ear::Standing::Stale),
                _ => None,
            },
            ..ear::Terms::new(scope, Some(&kept.nonce))
        })
    }

    /// What was refused in this node's name.
    pub(crate) fn refusals_of(&self, node: &str) -> Option<Refused> {
        self.refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .cloned()
    }
}

/// What the service answers, for programs (OpenAPI 3.1).
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

/// The requests that need no token: each path with what answers it.
fn open_routes() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/v1/nodes/{node}/nonce", post(nonce)),
        ("/v1/nodes/{node}/evidence", post(evidence)),
        ("/v1/openapi.json", get(openapi)),
        ("/healthz", get(health)),
    ]
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// All requests.
pub fn router(app: Arc<App>) -> Router {
    let reading = read::router(&app);
    open_routes()
        .into_iter()
        .fold(Router::new(), |router, (path, method)| router.route(path, method))
        .merge(reading)
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "not-found", "there is nothing here")
                .hint("GET /v1/openapi.json lists what there is")
        })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", "not with this method")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), read::known))
        .layer(middleware::map_response(harden))
        .with_state(app)
}

/// Nothing is cached, guessed, framed or loaded from elsewhere, whatever a page holds.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Runs what blocks (the store, an appraisal) where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|error| ApiError::internal(&error))
}

async fn health(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    blocking(move || app.store.meta("server-names")).await??;
    Ok("ok\n")
}

#[derive(Serialize)]
struct NonceAnswer {
    nonce: String,
    expires: u64,
    /// What the answer may follow; without it, it must be whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<cgpath_evidence::Cursor>,
}

/// Refuses a client that does not show the node's certificate, where one is wanted. Before anything is looked
/// at, so that strangers do not learn which nodes there are.
fn may_speak_for(app: &App, node: &str, shown: &Shown) -> Result<(), ApiError> {
    if !app.access.certificates || shown.is(node) {
        return Ok(());
    }
    let error = match &shown.0 {
        None => "no certificate was shown".to_owned(),
        Some(names) => format!(
            "the certificate is for others than this node: {}",
            quoted(format!("{}, not {node}", names.join(", ")))
        ),
    };
    Err(ApiError::new(StatusCode::FORBIDDEN, "certificate", error).hint(
        "client_certificate and client_key in cgpathd.toml: a certificate whose DNS name is the node's name",
    ))
}

async fn nonce(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Extension(shown): Extension<Shown>,
) -> Result<Json<NonceAnswer>, ApiError> {
    may_speak_for(&app, &node, &shown)?;
    blocking(move || {
        if app.store.node(&node)?.stopped.is_some() {
            return Err(StoreError::Stopped(node).into());
        }
        let (nonce, expires) = app
            .challenges
            .nonce(&app.nonces, &node, now())
            .map_err(|error| ApiError::internal(&error))?;
        Ok(Json(NonceAnswer {
            nonce: hex::encode(nonce),
            expires,
            position: app.appraiser.cursor(&node)?,
        }))
    })
    .await?
}

pub(crate) fn busy(what: &str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", what)
}

/// What has arrived of a body, as far as its head says that it is of use.
enum Gate {
    /// The head is not all there.
    Closed,
    /// It proved itself.
    Open,
    /// It did not: the rest is read and thrown away, so that the sender can read the answer.
    Refused(ApiError),
}

/// Looks at the head of a body that arrived in the name of `node`.
async fn at_gate(app: &Arc<App>, node: &str, bytes: &[u8], is_all: bool) -> Gate {
    let head = match Head::read(bytes) {
        Err(cgpath_evidence::Error::Incomplete { .. }) if !is_all => return Gate::Closed,
        Err(error) => return Gate::Refused(Refusal::Evidence(error).into()),
        Ok(head) => head,
    };
    let (app, node) = (Arc::clone(app), node.to_owned());
    let admitted = blocking(move || app.appraiser.admit(&app.nonces, &node, &head, now())).await;
    match admitted.and_then(|admitted| admitted.map_err(ApiError::from)) {
        Ok(()) => Gate::Open,
        Err(error) => Gate::Refused(error),
    }
}

/// Reads a whole body within bounds of size, memory and time, and keeps none of it that does not prove
/// itself. What it gives beside the bytes is the memory's share.
async fn receive(
    app: &Arc<App>,
    node: &str,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let limit = app.settings.max_evidence;
    let too_long = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "limit",
            format!("evidence may have {limit} bytes here"),
        )
        .hint("cgpath serve --max-evidence MIB allows more")
    };
    let stated = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    if stated.is_some_and(|n| n > limit as u64) {
        return Err(too_long());
    }
    let whole = async {
        let (mut bytes, mut arrived) = (BytesMut::new(), 0_usize);
        let mut share: Option<OwnedSemaphorePermit> = None;
        let mut gate = Gate::Closed;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "incomplete",
                    format!("the body could not be read: {}", library_message(&error)),
                )
            })?;
            let Ok(data) = frame.into_data() else { continue };
            arrived = arrived.saturating_add(data.len());
            if arrived > limit {
                return Err(too_long());
            }
            if matches!(gate, Gate::Refused(_)) {
                continue;
            }
            let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = arrived.div_ceil(UPLOAD_UNIT).saturating_sub(held);
            if more > 0 {
                // At most 512 MiB in units: fits.
                let more = u32::try_from(more).unwrap_or(u32::MAX);
                let turn = Arc::clone(&app.uploads).acquire_many_owned(more);
                let Ok(Ok(more)) = tokio::time::timeout(UPLOAD_TURN, turn).await else {
                    return Err(busy("too much evidence at once; try again"));
                };
                match &mut share {
                    Some(share) => share.merge(more),
                    None => share = Some(more),
                }
            }
            bytes.extend_from_slice(&data);
            if matches!(gate, Gate::Closed) {
                gate = at_gate(app, node, &bytes, false).await;
            }
            if matches!(gate, Gate::Refused(_)) {
                (bytes, share) = (BytesMut::new(), None);
            }
        }
        if matches!(gate, Gate::Closed) {
            gate = at_gate(app, node, &bytes, true).await;
        }
        match gate {
            Gate::Refused(error) => Err(error),
            Gate::Open | Gate::Closed => Ok((bytes.freeze(), share)),
        }
    };
    tokio::time::timeout(app.settings.upload, whole)
        .await
        .unwrap_or_else(|_| {
            Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                format!(
                    "the body did not arrive within {} s",
                    app.settings.upload.as_secs()
                ),
            ))
        })
}

/// Permits to judge that evidence of this length takes.
fn permits(len: usize, longest: usize) -> u32 {
    let share = (len.min(longest) as u64 * u64::from(APPRAISALS_LONGEST)).div_ceil(longest.max(1) as u64);
    u32::try_from(share)
        .unwrap_or(APPRAISALS_LONGEST)
        .clamp(1, APPRAISALS_LONGEST)
}

async fn evidence(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(shown): Extension<Shown>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    may_speak_for(&app, &node, &shown)?;
    {
        let (app, node) = (Arc::clone(&app), node.clone());
        blocking(move || app.store.node(&node)).await??;
    }
    let result = async {
        let Some(_mine) = app.uploading.count(peer.ip()) else {
            return Err(busy("too many uploads at once from this address; try again"));
        };
        let (bytes, _share) = receive(&app, &node, &headers, body).await?;
        // All of it is here, and it is the node's: from now on it does not give way to others.
        let _answering = connection.answering();
        // Held until the verdict is kept: two answers of one node are judged one after the other.
        let appraiser = Arc::clone(&app.appraiser);
        let gate = appraiser.gate(&node);
        let _gate = gate.lock().await;
        // Behind both: strangers hold none, nor do answers that wait for their turn.
        let permits = permits(bytes.len(), app.settings.max_evidence);
        let Ok(_turn) = app.appraising.acquire_many(permits).await else {
            return Err(busy("the service ends"));
        };
        let (app, node) = (Arc::clone(&app), node.clone());
        blocking(move || app.appraiser.submit(&app.nonces, &node, &bytes, now()))
            .await?
            .map_err(ApiError::from)
    }
    .await;
    match result {
        Ok(kept) => {
            app.challenges.answered(&node, &kept.nonce);
            // Nobody may be listening.
            let _ = app.kept.send(node.as_str().into());
            tracing::info!(node, peer = %peer, id = kept.id, trusted = kept.trusted, "verdict");
            let mut response = ([(header::CONTENT_TYPE, "application/json")], kept.verdict).into_response();
            response
                .headers_mut()
                .insert(VERDICT_ID, HeaderValue::from(kept.id));
            Ok(response)
        }
        Err(error) => {
            tracing::warn!(node, peer = %peer, kind = error.kind, error = error.error, "evidence refused");
            if let Some(refusal) = app.refused(&node, &error) {
                let kept = blocking(move || app.store.keep_refusal(&node, &refusal)).await;
                if let Ok(Err(error)) | Err(error) = kept.map(|kept| kept.map_err(ApiError::from)) {
                    tracing::error!(error = error.error, "the refusal cannot be kept");
                }
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
