//! Replay: a run that has ended is executed again from its journal.

use super::runs::own_run;
use crate::{
    api::{
        Api, Segments, body,
        problem::{Problem, ProblemBody},
    },
    auth::Me,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, header},
};
use cofferdam_core::{
    ids::{Digest, RunId},
    quota::PLUGIN_BYTES_MAX,
    replay::{Aspect, Difference},
};
use cofferdam_runtime::{Reached, Replayed};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What a replay found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replay {
    /// The run.
    #[schema(value_type = String)]
    run_id: RunId,
    /// The component that was executed now.
    #[schema(value_type = String)]
    digest: Digest,
    /// Whether it did what the run had done, as far as that went.
    same: bool,
    /// How far it came. `end`: to the end that was recorded. `where_it_was_stopped`: to the place at which the run was
    /// stopped from outside, as by a cancel or at a limit. `difference`: to the first difference.
    #[schema(value_type = ReachedWord)]
    reached: Reached,
    /// The first difference, side by side; null if there is none.
    #[schema(value_type = Option<DifferenceBody>, required = true)]
    difference: Option<Difference>,
    /// Calls to the host in the run's record.
    calls: u64,
    /// Events of the agent's own, and of its tools, in the run's log.
    events: u64,
    /// Fuel that it took now.
    fuel: u64,
    /// How long it took, in microseconds.
    elapsed_us: u64,
}

/// How far a replay came.
#[derive(ToSchema)]
#[schema(as = Reached, rename_all = "snake_case")]
#[allow(dead_code, reason = "the schema of Reached")]
pub(crate) enum ReachedWord {
    /// The end.
    End,
    /// Where the run was stopped.
    WhereItWasStopped,
    /// The first difference.
    Difference,
}

/// The first difference between a run and its replay.
#[derive(ToSchema)]
#[schema(as = Difference)]
#[allow(dead_code, reason = "the schema of Difference")]
pub(crate) struct DifferenceBody {
    /// In what.
    #[schema(value_type = AspectWord)]
    aspect: Aspect,
    /// Number of the call in the record, or of the event in the log; null for the end.
    #[schema(required = true)]
    number: Option<u64>,
    /// What it was; null if it was not there.
    #[schema(required = true)]
    recorded: Option<String>,
    /// What it is now; null if it is not there.
    #[schema(required = true)]
    now: Option<String>,
}

/// In what a replay differs.
#[derive(ToSchema)]
#[schema(as = Aspect, rename_all = "snake_case")]
#[allow(dead_code, reason = "the schema of Aspect")]
pub(crate) enum AspectWord {
    /// In a call to the host.
    Call,
    /// In an event of the agent's.
    Event,
    /// In how it ended.
    End,
    /// The record cannot be read as what it should be.
    Record,
}

impl From<Replayed> for Replay {
    fn from(replayed: Replayed) -> Self {
        Self {
            run_id: replayed.run.id,
            digest: replayed.digest,
            same: replayed.difference.is_none(),
            reached: replayed.reached,
            difference: replayed.difference,
            calls: replayed.calls,
            events: replayed.events,
            fuel: replayed.fuel,
            elapsed_us: u64::try_from(replayed.elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// Execute a run that has ended again, from its journal.
///
/// With the component that it had, or the one that is sent, which is compiled for this and not kept. Nothing of it reaches
/// the outside: each answer comes from the run's record. It takes a place among the user's runs as a run does, and is ended
/// when the client goes away.
#[utoipa::path(
    post, path = "/v1/runs/{id}/replay", operation_id = "replay_run", tag = "runs", security(("api_key" = [])),
    params(("id" = String, Path, description = "The run")),
    request_body(
        content = Vec<u8>, content_type = "application/wasm",
        description = "Another build of the agent; nothing for the one that the run had",
    ),
    responses(
        (status = 200, description = "What it found, the same or not", body = Replay),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn post(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Segments(id): Segments<String>,
    room: body::BodyRoom,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Replay>, Problem> {
    let run = own_run(&api, &scope, &id).await?;
    let held = body::read(&room, &headers, body, PLUGIN_BYTES_MAX, "too_large").await?;
    let component = Some(&held.bytes).filter(|bytes| !bytes.is_empty()).cloned();
    if component.is_some() || headers.contains_key(header::CONTENT_TYPE) {
        body::require_media_type(&headers, "application/wasm")?;
    }
    Ok(Json(api.runtime.replay(&scope, run, component).await?.into()))
}
