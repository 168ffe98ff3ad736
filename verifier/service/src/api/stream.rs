//! Server-sent events: each verdict as it is kept, for all nodes, one node, or one pod with its proof.
//!
//! Promises: verdicts come in order and none is left out while it is kept, also across `Last-Event-ID`; a
//! pod's come with a tenant's bundle that begins where the one before ended; what a reader may see is what
//! `read` shows it. The id of an event is the verdict's nonce, which tells nothing about what others do. Not
//! here: what is in an answer (see `read`).

use crate::api::answers::{PodAnswer, Scoped};
use crate::api::read::{narrowed, pod_in, understood, unknown_pod};
use crate::api::readers::{Reader, ReaderId};
use crate::api::{ApiError, App, blocking};
use crate::listener::Answering;
use crate::listener::counts::Counted;
use crate::store::StoredVerdict;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_appraisal::{Verdict, ear};
use cgpath_evidence::{Evidence, PodUid, TenantBundle};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Streams at one time, of all readers.
const STREAMS: usize = 256;

/// Of these, a reader's own share where there are so many readers: nobody takes what is another's.
pub fn each(readers: usize) -> usize {
    (STREAMS / readers.max(1)).max(1)
}

/// What a stream is about.
#[derive(Clone)]
enum About {
    All,
    Node(String),
    Pod(String, PodUid),
}

impl About {
    fn node(&self) -> Option<&str> {
        match self {
            About::All => None,
            About::Node(node) | About::Pod(node, _) => Some(node),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Entries of the list that the reader has followed.
    from: Option<u64>,
}

/// One event of a pod's stream.
#[derive(Serialize)]
struct PodEvent {
    #[serde(flatten)]
    answer: PodAnswer,
    /// The nonce that the node answered.
    nonce: String,
    /// A tenant's bundle (CBOR in base64): the pod's records, proven complete, with our signed result about
    /// node and pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<String>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    unproven: Option<String>,
}

/// How far a listener is.
#[derive(Default)]
struct Place {
    /// Verdicts that come before all others, the newest first.
    first: Vec<i64>,
    /// The last verdict that was looked at.
    id: i64,
    /// Entries of the list that it was proven to.
    from: u64,
    /// Of this boot.
    boot: Option<[u8; 16]>,
}

struct Listener {
    app: Arc<App>,
    reader: Reader,
    about: About,
    kept: Receiver<Arc<str>>,
    place: Place,
    _slot: Counted<ReaderId>,
    /// For as long as it lasts the connection gives way to no other.
    _answering: Arc<Answering>,
}

/// The bundle of one verdict's evidence, and how many entries it covers.
fn bundle(
    app: &App,
    kept: &StoredVerdict,
    verdict: &Verdict,
    pod: PodUid,
    from: u64,
) -> Result<String, String> {
    if !kept.evidence_kept {
        return Err("its evidence is not kept any more".to_owned());
    }
    // Paths of this machine are for its log.
    let bytes = app.store.evidence(&kept.evidence).map_err(|error| {
        tracing::error!(%error, "evidence cannot be read");
        "its evidence cannot be read".to_owned()
    })?;
    let evidence = Evidence::from_cbor(&bytes).map_err(|e| e.to_string())?;
    let mut bundle = TenantBundle::prove(&evidence, pod, from)
        .or_else(|_| TenantBundle::prove(&evidence, pod, 0))
        .map_err(|e| e.to_string())?;
    let mut terms = app.terms(ear::Scope::Pod(pod), kept).map_err(|e| e.to_string())?;
    // A verdict of the past is sent to followers. Its end says that it is one.
    terms.standing = terms
        .standing
        .filter(|standing| *standing == ear::Standing::Stopped);
    let token = ear::issue(verdict, &terms, &app.verdict_key);
    bundle.ear = Some(token.map_err(|e| e.to_string())?);
    bundle.opening = app.challenges.opening(&kept.node, &kept.nonce, pod);
    Ok(STANDARD.encode(bundle.to_cbor()))
}

/// What an event says, as JSON; `None` where the reader may not see it, or nothing of the pod is there.
fn shown(
    app: &App,
    reader: &Reader,
    about: &About,
    kept: &StoredVerdict,
    place: &mut Place,
) -> Result<Option<String>, ApiError> {
    if let About::Pod(_, uid) = about {
        let verdict = understood(kept)?;
        let Some(answer) = pod_in(kept, &verdict, reader, *uid) else {
            return Ok(None);
        };
        if place.boot.is_some_and(|boot| boot != verdict.node.boot_id) {
            place.from = 0;
        }
        let proof = bundle(app, kept, &verdict, *uid, place.from);
        if proof.is_ok() {
            (place.from, place.boot) = (verdict.node.covered, Some(verdict.node.boot_id));
        }
        let (bundle, unproven) = match proof {
            Ok(bundle) => (Some(bundle), None),
            Err(why) => (None, Some(why)),
        };
        let event = PodEvent {
            answer,
            nonce: hex::encode(&kept.nonce),
            bundle,
            unproven,
        };
        return text(&event);
    }
    match reader {
        Reader::Everything => text(kept),
        Reader::Scoped(scope) => match narrowed(kept, scope)? {
            Some(verdict) => text(&Scoped::new(kept, verdict)),
            None => Ok(None),
        },
    }
}

/// Any answer as JSON text.
fn text(value: &impl Serialize) -> Result<Option<String>, ApiError> {
    serde_json::to_string(value)
        .map(Some)
        .map_err(|error| ApiError::internal(&error))
}

/// The next event that is kept already, with its id.
fn next_kept(
    app: &App,
    reader: &Reader,
    about: &About,
    place: &mut Place,
) -> Result<Option<(String, String)>, ApiError> {
    loop {
        let after = place.first.pop().map_or(place.id, |id| id - 1);
        let Some(kept) = app.store.next_verdict(after, about.node())? else {
            return Ok(None);
        };
        place.id = place.id.max(kept.id);
        if let Some(data) = shown(app, reader, about, &kept, place)? {
            return Ok(Some((hex::encode(&kept.nonce), data)));
        }
    }
}

impl Listener {
    async fn next(mut self) -> Option<(Event, Listener)> {
        loop {
            let (app, reader, about) = (Arc::clone(&self.app), self.reader.clone(), self.about.clone());
            let mut place = std::mem::take(&mut self.place);
            let (found, place) = blocking(move || {
                let found = next_kept(&app, &reader, &about, &mut place);
                (found, place)
            })
            .await
            .ok()?;
            self.place = place;
            if let Some((id, data)) = found.ok()? {
                return Some((Event::default().event("verdict").id(id).data(data), self));
            }
            loop {
                match self.kept.recv().await {
                    Ok(node) if self.about.node().is_some_and(|mine| *mine != *node) => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return None,
                }
            }
        }
    }
}

/// Where a stream begins: after the event that was received last, or so that the current verdicts come first.
fn begin(app: &App, about: &About, last: Option<&str>, from: u64) -> Result<Place, ApiError> {
    let mut place = Place {
        from,
        ..Place::default()
    };
    let last = last.and_then(|id| hex::decode(id).ok());
    let found = last.map(|nonce| app.store.verdict_by_nonce(&nonce)).transpose()?;
    if let Some(kept) = found.flatten() {
        place.id = kept.id;
        place.boot = Some(understood(&kept)?.node.boot_id);
    } else {
        for node in app.store.nodes()? {
            if about.node().is_none_or(|name| name == node.name)
                && let Some(kept) = app.store.last_verdict(&node.name)?
            {
                place.first.push(kept.id);
            }
        }
        place.first.sort_unstable_by(|a, b| b.cmp(a));
        place.id = place.first.first().copied().unwrap_or(0);
    }
    Ok(place)
}

type Events = Sse<
    axum::response::sse::KeepAliveStream<
        std::pin::Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>,
    >,
>;

async fn events(
    app: Arc<App>,
    (id, reader): (ReaderId, Reader),
    about: About,
    headers: HeaderMap,
    answering: Arc<Answering>,
    from: u64,
) -> Result<Events, ApiError> {
    let slot = app.streams.count(id, false).ok_or_else(|| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "too many streams of this reader at once; try again",
        )
    })?;
    // Before it is looked at: what comes meanwhile is not missed.
    let kept = app.kept.subscribe();
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let last = last.map(str::to_owned);
    let place = {
        let (app, about) = (Arc::clone(&app), about.clone());
        blocking(move || begin(&app, &about, last.as_deref(), from)).await??
    };
    let listener = Listener {
        app,
        reader,
        about,
        kept,
        place,
        _slot: slot,
        _answering: answering,
    };
    let events = stream::unfold(listener, |listener| async {
        let (event, listener) = listener.next().await?;
        Some((Ok(event), listener))
    });
    let events: std::pin::Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>> = Box::pin(events);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// All nodes that the reader may see something of.
pub(crate) async fn all(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Extension(id): Extension<ReaderId>,
    Extension(answering): Extension<Arc<Answering>>,
    headers: HeaderMap,
) -> Result<Events, ApiError> {
    events(app, (id, reader), About::All, headers, answering, 0).await
}

/// One node.
pub(crate) async fn node(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Extension(id): Extension<ReaderId>,
    Extension(answering): Extension<Arc<Answering>>,
    Path(node): Path<String>,
    headers: HeaderMap,
) -> Result<Events, ApiError> {
    {
        let (app, reader, node) = (Arc::clone(&app), reader.clone(), node.clone());
        blocking(move || match reader {
            Reader::Everything => app.store.node(&node).map(drop).map_err(ApiError::from),
            Reader::Scoped(scope) => crate::api::read::last_narrowed(&app, &node, &scope).map(drop),
        })
        .await??;
    }
    events(app, (id, reader), About::Node(node), headers, answering, 0).await
}

/// One pod, with proofs.
pub(crate) async fn pod(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    Extension(id): Extension<ReaderId>,
    Extension(answering): Extension<Arc<Answering>>,
    Path((node, uid)): Path<(String, String)>,
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Events, ApiError> {
    let Query(asked) = query.map_err(|e| crate::api::read::bad_query(&e.body_text(), "?from=ENTRIES"))?;
    let wanted = {
        let (app, reader, node) = (Arc::clone(&app), reader.clone(), node.clone());
        blocking(move || {
            crate::api::read::pod_of(&app, &reader, &node, &uid)?;
            PodUid::parse(uid.as_bytes()).ok_or_else(|| unknown_pod(&node, &uid))
        })
        .await??
    };
    let about = About::Pod(node, wanted);
    events(
        app,
        (id, reader),
        about,
        headers,
        answering,
        asked.from.unwrap_or(0),
    )
    .await
}
