//! Reading: verdicts of nodes and pods, for readers who may see them, and what they ask to be answered.
//!
//! Promises: a reader with a scope gets pods of that scope alone, and of their nodes no more than whether
//! they are trusted; a node or pod outside answers, to the byte, as one that does not exist. Not here: who
//! has what scope (see `readers`).

use crate::api::answers::{NodeSummary, PodAnswer, Scoped, ScopedSummary};
use crate::api::readers::{Reader, ReaderId, Scope as Readable};
use crate::api::{ApiError, App, blocking, busy};
use crate::api::{metrics, revocations, stream};
use crate::clock::now;
use crate::listener::{Connection, Peer};
use crate::pages::detail::{self, Now};
use crate::store::{StoreError, StoredVerdict};
use crate::{pages, setup, webhook};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use cgpath_appraisal::Verdict;
use cgpath_appraisal::ear::{self, Scope};
use cgpath_appraisal::text::{library_message, quoted};
use cgpath_appraisal::{MAX_NONCE_LEN, MIN_NONCE_LEN};
use cgpath_evidence::PodUid;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Verdicts in one answer of `history`.
const HISTORY_PAGE: u32 = 200;
/// Verdicts on a page about a node or a pod.
const PAGE_HISTORY: u32 = 50;

/// The requests that read: each path with what answers it.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/", get(index)),
        ("/nodes/{node}", get(node_page)),
        ("/nodes/{node}/pods/{uid}", get(pod_page)),
        ("/metrics", get(measured)),
        ("/v1/nodes", get(nodes)),
        ("/v1/stream", get(stream::all)),
        ("/v1/revocations", get(revocations::revocations)),
        ("/v1/nodes/{node}/verdict", get(verdict)),
        ("/v1/nodes/{node}/ear", get(attestation_result)),
        ("/v1/nodes/{node}/history", get(history)),
        ("/v1/nodes/{node}/stream", get(stream::node)),
        ("/v1/nodes/{node}/pods/{uid}", get(pod)),
        ("/v1/nodes/{node}/pods/{uid}/stream", get(stream::pod)),
        ("/v1/nodes/{node}/pods/{uid}/challenge", post(challenge)),
    ]
}

/// The same as a router that lets readers in alone.
pub fn router(app: &Arc<App>) -> Router<Arc<App>> {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, method)| router.route(path, method))
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), may_read))
}

/// The token in a request: `Authorization: Bearer TOKEN`, or the password of `Basic`, which browsers ask for.
fn shown_token(headers: &HeaderMap) -> Option<Vec<u8>> {
    use base64::Engine;
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().as_bytes().to_vec());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = base64::engine::general_purpose::STANDARD
            .decode(rest.trim())
            .ok()?;
        let colon = pair.iter().position(|b| *b == b':')?;
        return Some(pair[colon + 1..].to_vec());
    }
    None
}

/// Whose token a request shows, where it shows one; an extension of each request.
#[derive(Clone)]
struct Known(Option<(ReaderId, Reader)>);

fn unauthorized(error: &str) -> Response {
    let error = ApiError::new(StatusCode::UNAUTHORIZED, "read", error)
        .hint("Authorization: Bearer TOKEN; in a browser any user name, and the token as password");
    let mut response = error.into_response();
    let realm = HeaderValue::from_static("Basic realm=\"cgpath\", charset=\"UTF-8\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    response
}

/// Refuses a wrong token, whatever is asked for and from wherever: a client that shows one believes that it
/// counts.
pub(crate) async fn known(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let shows = request.headers().contains_key(header::AUTHORIZATION);
    let token = shown_token(request.headers());
    let known = token.and_then(|token| app.access.readers.by_token(&token));
    if shows && known.is_none() {
        return unauthorized("no reader has this token");
    }
    request.extensions_mut().insert(Known(known));
    next.run(request).await
}

async fn may_read(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(connection): Extension<Arc<Connection>>,
    Extension(Known(known)): Extension<Known>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let local = peer.ip().to_canonical().is_loopback();
    let (id, reader) = match known {
        Some(known) => known,
        None if !app.access.readers.is_empty() => return unauthorized("reading needs a read token"),
        None if local => (ReaderId::LOCAL, Reader::Everything),
        None => {
            return ApiError::new(
                StatusCode::FORBIDDEN,
                "read",
                "verdicts can be read from the verifier's own machine only",
            )
            .hint("cgpath serve --read-token TOKEN, or --readers FILE, lets others read who show a token")
            .into_response();
        }
    };
    request.extensions_mut().insert(reader);
    request.extensions_mut().insert(id);
    // Who may read does not give way to strangers.
    let answering = Arc::new(connection.answering());
    request.extensions_mut().insert(Arc::clone(&answering));
    next.run(request).await
}

/// A kept verdict with its content understood.
pub(crate) fn understood(kept: &StoredVerdict) -> Result<Verdict, ApiError> {
    serde_json::from_str(kept.verdict.get()).map_err(|error| ApiError::internal(&error))
}

/// A kept verdict with the reader's pods alone; `None` if none of them is there.
pub(crate) fn narrowed(kept: &StoredVerdict, scope: &Readable) -> Result<Option<Verdict>, ApiError> {
    let mut verdict = understood(kept)?;
    verdict.pods.retain(|pod| scope.holds(pod));
    cgpath_appraisal::accept::redact(&mut verdict.accepted, &verdict.pods);
    Ok((!verdict.pods.is_empty()).then_some(verdict))
}

impl Scoped {
    pub(crate) fn new(kept: &StoredVerdict, narrowed: Verdict) -> Scoped {
        Scoped {
            node: kept.node.clone(),
            time: kept.time,
            state: narrowed.node.state,
            dangerous: narrowed.dangerous,
            pods: narrowed.pods,
            id: kept.id,
            first: None,
        }
    }

    /// `None` if no pod there is the reader's.
    fn of(kept: &StoredVerdict, scope: &Readable) -> Result<Option<Scoped>, ApiError> {
        Ok(narrowed(kept, scope)?.map(|verdict| Scoped::new(kept, verdict)))
    }
}

/// The last verdict about a node, for a reader with a scope.
pub(crate) fn last_narrowed(
    app: &App,
    node: &str,
    scope: &Readable,
) -> Result<(StoredVerdict, Verdict), ApiError> {
    let unknown = || ApiError::unknown_node(node);
    app.store.node(node)?;
    let kept = app.store.last_verdict(node)?.ok_or_else(unknown)?;
    let verdict = narrowed(&kept, scope)?.ok_or_else(unknown)?;
    Ok((kept, verdict))
}

fn last(app: &App, node: &str) -> Result<StoredVerdict, ApiError> {
    app.store.node(node)?;
    app.store.last_verdict(node)?.ok_or_else(|| {
        let error = format!("{node} is enrolled and has sent no evidence yet");
        ApiError::new(StatusCode::NOT_FOUND, "no-verdict", error)
            .hint("on the node: systemctl status cgpathd; [verifier] url and ca in cgpathd.toml")
    })
}

async fn verdict(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Path(node): Path<String>,
) -> Result<Response, ApiError> {
    blocking(move || {
        Ok(match reader {
            Reader::Everything => Json(last(&app, &node)?).into_response(),
            Reader::Scoped(scope) => {
                let (kept, verdict) = last_narrowed(&app, &node, &scope)?;
                Json(Scoped::new(&kept, verdict)).into_response()
            }
        })
    })
    .await?
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EarQuery {
    /// Whom it is for.
    audience: Option<String>,
}

/// An audience is not longer, in bytes.
const MAX_AUDIENCE: usize = 200;

/// The last verdict as a signed attestation result. `iat` is when it was reached, and its end counts from
/// there: asking for it again makes nothing younger.
async fn attestation_result(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Path(node): Path<String>,
    query: Result<Query<EarQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|e| bad_query(&e.body_text(), "?audience=TEXT"))?;
    if let Some(audience) = &query.audience
        && (audience.is_empty()
            || audience.len() > MAX_AUDIENCE
            || !audience.bytes().all(|b| b.is_ascii_graphic()))
    {
        let error = format!("audience: 1 to {MAX_AUDIENCE} visible ASCII characters");
        return Err(bad_query(
            &error,
            "the name by which the party that is to rely on the result knows itself",
        ));
    }
    blocking(move || {
        let (last, verdict) = match &reader {
            Reader::Everything => {
                let last = last(&app, &node)?;
                let verdict = understood(&last)?;
                (last, verdict)
            }
            Reader::Scoped(scope) => last_narrowed(&app, &node, scope)?,
        };
        let scope = match reader {
            Reader::Everything => Scope::All,
            Reader::Scoped(_) => Scope::Pods,
        };
        let mut terms = app.terms(scope, &last)?;
        if let Some(audience) = query.audience {
            terms.audience = audience;
        }
        let token =
            ear::issue(&verdict, &terms, &app.verdict_key).map_err(|error| ApiError::internal(&error))?;
        // RFC 9782 section 5: an EAT as a JWT.
        Ok(([(header::CONTENT_TYPE, "application/eat+jwt")], token).into_response())
    })
    .await?
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    limit: Option<u32>,
    before: Option<i64>,
}

/// A query that is none.
pub(crate) fn bad_query(error: &impl core::fmt::Display, hint: &'static str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "query", library_message(error)).hint(hint)
}

/// How many are wanted; `most` where nothing is said.
pub(crate) fn page_of(limit: Option<u32>, most: u32) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(most);
    if (1..=most).contains(&limit) {
        return Ok(limit);
    }
    let error = format!("limit: {limit} is not from 1 to {most}");
    Err(bad_query(
        &error,
        "ask for what follows with the cursor of the answer",
    ))
}

#[derive(Serialize)]
struct History {
    /// The newest first.
    verdicts: Vec<StoredVerdict>,
    /// To be given as `before` for older ones; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// What a reader with a scope is shown of the past: the last [`HISTORY_PAGE`] verdicts at most, with no
/// numbers, since these count what others do.
fn history_scoped(app: &App, node: &str, limit: u32, scope: &Readable) -> Result<Vec<Scoped>, ApiError> {
    app.store.node(node)?;
    let mut found = Vec::new();
    for kept in app.store.history(node, limit, None)? {
        found.extend(Scoped::of(&kept, scope)?);
    }
    if found.is_empty() {
        return Err(ApiError::unknown_node(node));
    }
    Ok(found)
}

async fn history(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Path(node): Path<String>,
    query: Result<Query<HistoryQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|e| bad_query(&e.body_text(), "?limit=N&before=ID"))?;
    let limit = page_of(query.limit, HISTORY_PAGE)?;
    if query.before.is_some_and(|id| id < 0) {
        return Err(bad_query(&"before: an id is not negative", "?limit=N&before=ID"));
    }
    blocking(move || {
        if let Reader::Scoped(scope) = &reader {
            let verdicts = history_scoped(&app, &node, limit, scope)?;
            return Ok(Json(serde_json::json!({ "verdicts": verdicts })).into_response());
        }
        app.store.node(&node)?;
        // One more than asked for tells whether there are older ones.
        let mut verdicts = app.store.history(&node, limit + 1, query.before)?;
        let more = verdicts.len() > limit as usize;
        verdicts.truncate(limit as usize);
        let next = if more { verdicts.last().map(|v| v.id) } else { None };
        Ok(Json(History { verdicts, next }).into_response())
    })
    .await?
}

fn summaries(app: &App) -> Result<Vec<NodeSummary>, StoreError> {
    let now = now();
    app.store
        .nodes()?
        .into_iter()
        .map(|node| {
            let last = app.store.last_verdict(&node.name)?;
            let age = last.as_ref().map(|v| now.saturating_sub(v.time));
            Ok(NodeSummary {
                refused: app.refusals_of(&node.name),
                policy_usable: app.appraiser.has_policy(&node),
                stopped: node.stopped.is_some(),
                name: node.name,
                ak: node.ak_name,
                policy_digest: node.policy_digest,
                added: node.added,
                age,
                stale: age.is_none_or(|age| age > app.settings.stale_after),
                last,
            })
        })
        .collect()
}

/// The nodes that have a pod of the reader's.
fn scoped_summaries(app: &App, scope: &Readable) -> Result<Vec<ScopedSummary>, ApiError> {
    let now = now();
    let mut found = Vec::new();
    for node in app.store.nodes()? {
        let Some(kept) = app.store.last_verdict(&node.name)? else {
            continue;
        };
        let age = now.saturating_sub(kept.time);
        found.extend(Scoped::of(&kept, scope)?.map(|last| ScopedSummary {
            age,
            stale: age > app.settings.stale_after,
            stopped: node.stopped.is_some(),
            last,
        }));
    }
    Ok(found)
}

async fn nodes(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
) -> Result<Response, ApiError> {
    blocking(move || {
        Ok(match reader {
            Reader::Everything => Json(summaries(&app)?).into_response(),
            Reader::Scoped(scope) => Json(scoped_summaries(&app, &scope)?).into_response(),
        })
    })
    .await?
}

async fn index(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
) -> Result<Html<String>, ApiError> {
    blocking(move || {
        let stale_after = app.settings.stale_after;
        Ok(Html(match reader {
            Reader::Everything => pages::page(&summaries(&app)?, now(), stale_after),
            Reader::Scoped(scope) => pages::scoped(&scoped_summaries(&app, &scope)?, now(), stale_after),
        }))
    })
    .await?
}

/// What was, as far as the reader may see it, the newest first.
fn past(app: &App, reader: &Reader, node: &str) -> Result<Vec<Scoped>, ApiError> {
    let mut past = if let Reader::Scoped(scope) = reader {
        history_scoped(app, node, PAGE_HISTORY, scope)?
    } else {
        let history = app.store.history(node, PAGE_HISTORY, None)?;
        let scoped = |kept: &StoredVerdict| Ok(Scoped::new(kept, understood(kept)?));
        history.iter().map(scoped).collect::<Result<_, ApiError>>()?
    };
    let oldest = past.last().map_or(0, |verdict: &Scoped| verdict.id);
    let mut first = app.store.first_words(node, oldest)?;
    for verdict in &mut past {
        if let Some(text) = first.remove(&verdict.id) {
            let said = serde_json::from_str(&text).map_err(|error| ApiError::internal(&error))?;
            verdict.first = Some(Box::new(said));
        }
    }
    Ok(past)
}

async fn node_page(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Path(node): Path<String>,
) -> Result<Html<String>, ApiError> {
    blocking(move || {
        let unknown = || ApiError::unknown_node(&node);
        Ok(Html(match &reader {
            Reader::Everything => {
                let all = summaries(&app)?;
                let found = all.iter().find(|n| n.name == node).ok_or_else(unknown)?;
                detail::node(&Now::Whole(found), &past(&app, &reader, &node)?, now())
            }
            Reader::Scoped(scope) => {
                let all = scoped_summaries(&app, scope)?;
                let found = all.iter().find(|n| n.last.node == node).ok_or_else(unknown)?;
                detail::node(&Now::Scoped(found), &past(&app, &reader, &node)?, now())
            }
        }))
    })
    .await?
}

async fn pod_page(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Path((node, uid)): Path<(String, String)>,
) -> Result<Html<String>, ApiError> {
    blocking(move || {
        let answer = pod_of(&app, &reader, &node, &uid)?;
        Ok(Html(detail::pod(&answer, &past(&app, &reader, &node)?, now())))
    })
    .await?
}

async fn measured(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
) -> Result<Response, ApiError> {
    blocking(move || {
        let mut metrics = metrics::Metrics::default();
        if let Reader::Everything = reader {
            metrics.certificate(setup::not_after(&app.store)?);
        }
        match reader {
            Reader::Everything => {
                for node in summaries(&app)? {
                    let verdict = node.last.as_ref().map(understood).transpose()?;
                    metrics.node(&node, verdict.as_ref());
                }
                for url in &app.settings.webhooks {
                    metrics.webhook(&webhook::waiting(&app.store, url)?);
                }
            }
            Reader::Scoped(scope) => {
                for node in scoped_summaries(&app, &scope)? {
                    metrics.scoped(&node);
                }
            }
        }
        let text = metrics.text().map_err(|error| ApiError::internal(&error))?;
        Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
    })
    .await?
}

/// The same answer for a node that is not there, a pod that is not there, and one that is somebody else's.
pub(crate) fn unknown_pod(node: &str, uid: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "unknown-pod",
        format!(
            "no such pod is known on such a node: {}",
            quoted(format!("{node}/pods/{uid}"))
        ),
    )
    .hint("GET /v1/nodes shows nodes and pods that you may see")
}

/// The pod's part of a verdict; `None` where it has none, or it is somebody else's.
pub(crate) fn pod_in(
    kept: &StoredVerdict,
    verdict: &Verdict,
    reader: &Reader,
    wanted: PodUid,
) -> Option<PodAnswer> {
    let pod = verdict.pod(wanted)?;
    let may = match reader {
        Reader::Everything => true,
        Reader::Scoped(scope) => scope.holds(pod),
    };
    may.then(|| PodAnswer {
        node: kept.node.clone(),
        time: kept.time,
        state: verdict.node.state,
        dangerous: verdict.dangerous.clone(),
        pod: pod.clone(),
    })
}

pub(crate) fn pod_of(app: &App, reader: &Reader, node: &str, uid: &str) -> Result<PodAnswer, ApiError> {
    let unknown = || unknown_pod(node, uid);
    let wanted = PodUid::parse(uid.as_bytes()).ok_or_else(unknown)?;
    match app.store.node(node) {
        Err(StoreError::UnknownNode(_)) => return Err(unknown()),
        other => other?,
    };
    let kept = app.store.last_verdict(node)?.ok_or_else(unknown)?;
    pod_in(&kept, &understood(&kept)?, reader, wanted).ok_or_else(unknown)
}

async fn pod(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Path((node, uid)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    blocking(move || Ok(Json(pod_of(&app, &reader, &node, &uid)?).into_response())).await?
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChallengeQuery {
    /// Hex.
    nonce: String,
}

#[derive(Serialize)]
struct ChallengeAnswer {
    /// Until when it waits for the node, in unix seconds.
    until: u64,
}

/// A nonce of the reader's own for one of its pods: the node's next nonce commits to it, and the bundle of
/// that round shows so.
async fn challenge(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Extension(id): Extension<ReaderId>,
    Path((node, uid)): Path<(String, String)>,
    query: Result<Query<ChallengeQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|e| bad_query(&e.body_text(), "?nonce=HEX"))?;
    let nonce = hex::decode(&query.nonce).unwrap_or_default();
    if !(MIN_NONCE_LEN..=MAX_NONCE_LEN).contains(&nonce.len()) {
        let error = format!("nonce: {MIN_NONCE_LEN} to {MAX_NONCE_LEN} bytes as hexadecimal digits");
        return Err(bad_query(&error, "openssl rand -hex 32 makes one"));
    }
    blocking(move || {
        let answer = pod_of(&app, &reader, &node, &uid)?;
        let who = (id, app.access.readers.len());
        let until = app
            .challenges
            .ask(&node, who, answer.pod.uid, &nonce, now())
            .ok_or_else(|| {
                busy("too many nonces of this reader wait for this node; try again after its next round")
            })?;
        Ok(Json(ChallengeAnswer { until }).into_response())
    })
    .await?
}
