//! `GET /v1/revocations`: what turned untrusted, in order, from a cursor on.
//!
//! Promise: a reader with a scope gets changes of its own pods and of nodes that had one of them, and no
//! numbers, since these count what others do; a cursor of somebody else's change answers as one that never
//! was.

use crate::api::readers::Reader;
use crate::api::{ApiError, App, blocking};
use crate::changes::Happened;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use cgpath_evidence::PodUid;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Revocations in one answer.
const PAGE: u32 = 200;
/// Changes that are looked at in one query.
const LOOK: u32 = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    since: Option<String>,
    limit: Option<u32>,
}

/// One of them.
#[derive(Serialize)]
struct Revocation {
    /// The cursor of what comes after it.
    id: String,
    /// In unix seconds.
    time: u64,
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<PodUid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<cgpath_appraisal::State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<cgpath_appraisal::State>,
    /// For readers who see everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    /// Rules that fail; of a node for readers who see everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Revocations {
    /// The oldest first.
    revocations: Vec<Revocation>,
    /// To be given as `since` the next time; absent where nothing was ever seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Whether there are more already.
    more: bool,
}

fn visible(reader: &Reader, happened: &Happened) -> bool {
    match reader {
        Reader::Everything => true,
        Reader::Scoped(scope) => happened
            .pods
            .iter()
            .any(|pod| scope.names(pod.uid, pod.name.as_deref())),
    }
}

fn shown(reader: &Reader, happened: Happened) -> Revocation {
    let all = matches!(reader, Reader::Everything);
    let change = happened.change;
    let rules = (all || change.pod.is_some()).then_some(change.rules);
    Revocation {
        id: happened.id,
        time: happened.time,
        node: change.node,
        pod: change.pod,
        name: change.name,
        old: change.old,
        new: change.new,
        number: all.then_some(change.number),
        rules,
    }
}

fn list(app: &App, reader: &Reader, since: Option<String>, limit: usize) -> Result<Revocations, ApiError> {
    let mut after = match &since {
        None => 0,
        Some(id) => {
            let found = app.store.change_by_id(id)?;
            let found = found.filter(|happened| visible(reader, happened));
            found.map(|happened| happened.change.number).ok_or_else(|| {
                ApiError::new(StatusCode::GONE, "cursor", "no change with this id is kept")
                    .hint("without `since` the list begins with the oldest that is kept")
            })?
        }
    };
    let mut found = Vec::new();
    // Ends: at most `KEEP_CHANGES` rows are kept.
    loop {
        let page = app.store.revocations(after, LOOK)?;
        let Some(last) = page.last() else { break };
        after = last.change.number;
        found.extend(page.into_iter().filter(|happened| visible(reader, happened)));
        if found.len() > limit {
            break;
        }
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let revocations: Vec<_> = found
        .into_iter()
        .map(|happened| shown(reader, happened))
        .collect();
    Ok(Revocations {
        next: revocations.last().map(|last| last.id.clone()).or(since),
        revocations,
        more,
    })
}

/// Answers the request.
pub(crate) async fn revocations(
    State(app): State<Arc<App>>,
    Extension(reader): Extension<Reader>,
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = query.map_err(|e| crate::api::read::bad_query(&e.body_text(), "?since=ID&limit=N"))?;
    let limit = crate::api::read::page_of(asked.limit, PAGE)? as usize;
    let is_cursor =
        |id: &String| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if asked.since.as_ref().is_some_and(|id| !is_cursor(id)) {
        return Err(crate::api::read::bad_query(
            &"since: no id of a change",
            "the `next` of an answer, 32 hex digits",
        ));
    }
    blocking(move || Ok(Json(list(&app, &reader, asked.since, limit)?).into_response())).await?
}
