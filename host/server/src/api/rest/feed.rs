//! The events of all of a user's runs, in the order in which they were committed: a page at a time, or live as a stream
//! of server-sent events.

use super::{
    events::{
        BrokenOff, EVENTS_PAGE, EVENTS_PAGE_MAX, EventBody, HEARTBEAT, STREAM_PAGE, frame, last_event_id, streamed,
        wants_stream,
    },
    page_size,
};
use crate::{
    api::{
        Api, Params,
        cursor::{self, ReadTo},
        problem::{Problem, ProblemBody},
    },
    auth::Me,
};
use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use cofferdam_core::{
    emitter::Stats,
    event::Envelope,
    identity::Scope,
    journal::FollowingUser,
    storage::{FeedEntry, FeedPlace},
};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FeedQuery {
    /// Only events after this one: a `cursor`, a page's `next_after`, or `now` for what has not happened yet. From the
    /// first if not said.
    after: Option<String>,
    /// How many on a page: 1 to 1,000, 100 if not said. A stream has all of them.
    limit: Option<u32>,
}

/// Events of all runs, in the order in which they became durable; those of one run are in the order of its log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FeedPage {
    /// What happened.
    events: Vec<FeedEvent>,
    /// What to give as `after` for what comes next, now or later.
    next_after: String,
}

/// An event with the place to go on from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FeedEvent {
    /// What to give as `after` to go on behind it. Take it as it is.
    cursor: String,
    /// `true`: events between the one before, or the cursor that was given, and this one were removed with their runs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    removed_before: bool,
    /// What happened.
    #[schema(value_type = EventBody)]
    event: Envelope,
}

/// Read the events of all of your runs.
///
/// With `Accept: text/event-stream` the events come as they happen: `id` is the event's cursor, `event` its type, `data`
/// the event itself; the first frame has an `id` only, where the stream begins. The stream has no end; it is resumed with
/// `Last-Event-ID` or `after`, also after a restart of the host. The oldest runs that have finished are removed in time, and
/// their events with them: where that took some which a client had not read, a frame with `event: removed` stands in their
/// place, with the cursor of what comes next. Without that header the answer is a page.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "get_events", tag = "events", security(("api_key" = [])),
    params(
        FeedQuery,
        ("Accept" = Option<String>, Header, description = "`text/event-stream` for a stream"),
        ("Last-Event-ID" = Option<String>, Header, description = "Of a stream: the last cursor seen; goes before `after`"),
    ),
    responses(
        (status = 200, description = "A page, or a stream", content(
            (FeedPage = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Params(query): Params<FeedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let limit = page_size(query.limit, EVENTS_PAGE, EVENTS_PAGE_MAX)?;
    if !wants_stream(&headers) {
        let (after, mut read) = cursor::start(&api, &scope, query.after.as_deref(), "after").await?;
        let entries = api.runtime.storage().feed(&scope, after, limit).await?;
        let next = entries.last().map_or(after, |entry| entry.place);
        let event = |entry: FeedEntry| {
            let removed_before = read.misses_before(&entry);
            read = ReadTo::entry(&entry);
            FeedEvent { cursor: cursor::of(&scope, entry.place), removed_before, event: entry.envelope }
        };
        let next_after = cursor::of(&scope, next);
        return Ok(Json(FeedPage { events: entries.into_iter().map(event).collect(), next_after }).into_response());
    }
    let (after, read) = match last_event_id(&headers)? {
        Some(seen) => cursor::start(&api, &scope, Some(seen), "Last-Event-ID").await?,
        None => cursor::start(&api, &scope, query.after.as_deref(), "after").await?,
    };
    // First follow, then read: what happens in between is told, not missed.
    let following = api.runtime.journal().follow_user(&scope);
    // Where it begins, so that a client that has seen no event yet resumes there, too.
    let start = Bytes::from(format!("id: {}\n\n", cursor::of(&scope, after)));
    let live = LiveFeed { api, scope, after, read, following, over: false };
    let rest = stream::unfold(live, |mut live| async move { Some((live.next().await?, live)) });
    Ok(streamed(stream::once(async { Ok(start) }).chain(rest)))
}

/// Someone who reads a stream. Nothing is read from storage before the last page was taken, so a slow reader slows
/// itself only.
struct LiveFeed {
    api: Arc<Api>,
    scope: Scope,
    after: FeedPlace,
    read: ReadTo,
    following: FollowingUser,
    /// Nothing more will come.
    over: bool,
}

impl LiveFeed {
    /// The next frames; none when the stream is over.
    async fn next(&mut self) -> Option<Result<Bytes, BrokenOff>> {
        while !self.over {
            match self.read().await {
                Ok(frames) if frames.is_empty() => {}
                Ok(frames) => return Some(Ok(frames)),
                Err(error) => {
                    error.log();
                    self.over = true;
                    return Some(Err(error));
                }
            }
            tokio::select! {
                news = timeout(HEARTBEAT, self.following.changed()) => if news.is_err() {
                    return Some(Ok(Bytes::from_static(b": heartbeat\n\n")));
                },
                () = self.api.closing.cancelled() => {
                    self.over = true;
                    let rest = self.read().await;
                    return Some(rest).filter(|rest| rest.as_ref().is_ok_and(|frames| !frames.is_empty()));
                }
            }
        }
        None
    }

    async fn read(&mut self) -> Result<Bytes, BrokenOff> {
        let entries = self.api.runtime.storage().feed(&self.scope, self.after, STREAM_PAGE).await?;
        let mut frames = String::new();
        for entry in &entries {
            if self.read.misses_before(entry) {
                let before = cursor::of(&self.scope, ReadTo::before(entry));
                frames.push_str(&format!(
                    "id: {before}\nevent: removed\ndata: {{\"type\":\"removed\",\"cursor\":\"{before}\"}}\n\n"
                ));
            }
            self.read = ReadTo::entry(entry);
            frame(&mut frames, cursor::of(&self.scope, entry.place), &entry.envelope);
            self.after = entry.place;
        }
        Ok(frames.into())
    }
}

/// How your WebSockets are doing.
#[derive(ToSchema)]
#[schema(as = EventStats)]
#[allow(dead_code, reason = "the schema of Stats")]
pub(crate) struct StatsBody {
    /// How events have fared on their way to your sockets.
    events: EventCounts,
    /// How your sockets have fared.
    connections: ConnectionCounts,
    /// Whether your sockets take what they are sent.
    health: HealthBody,
}

/// How events have fared on their way to sockets.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the schema of EventStats")]
pub(crate) struct EventCounts {
    /// Waiting for a socket now.
    queued: u64,
    /// Written to a socket.
    delivered: u64,
    /// Of those, by priority, from 1 to 4.
    delivered_by_priority: [u64; 4],
    /// Dropped for a reader that was too slow, of priority 3.
    dropped_priority_3: u64,
    /// Dropped for a reader that was too slow, of priority 4.
    dropped_priority_4: u64,
    /// Handed to a socket that could not be written to.
    failed: u64,
    /// From queue to socket, on average.
    wait_ms_mean: f64,
    /// When a socket last took an event.
    #[schema(format = DateTime, required = true)]
    last_delivery_at: Option<String>,
}

/// How sockets have fared.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the schema of ConnectionStats")]
pub(crate) struct ConnectionCounts {
    /// Open now.
    sockets: u64,
    /// Opened, those open now included.
    opened: u64,
    /// Refused, because there were as many as may be.
    refused: u64,
    /// Closed by the host, because they did not answer or did not take what was sent.
    reaped: u64,
}

/// Whether sockets take what they are sent.
#[derive(ToSchema)]
#[schema(as = SocketHealth)]
#[allow(dead_code, reason = "the schema of Health")]
pub(crate) struct HealthBody {
    /// Whether at least half of them do.
    healthy: bool,
    /// Sockets whose oldest event has waited for longer than 500 ms.
    slow_sockets: u64,
    /// The longest that an event has been waiting now.
    oldest_wait_ms: u64,
}

/// See how your WebSockets are doing.
///
/// Counted since the first of the sockets that are open now was opened; all zero while there is none.
#[utoipa::path(
    get, path = "/v1/events/stats", operation_id = "get_event_stats", tag = "events", security(("api_key" = [])),
    responses(
        (status = 200, description = "The counts", body = StatsBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn stats(State(api): State<Arc<Api>>, Me(scope): Me) -> Json<Stats> {
    Json(api.emitters.user_stats(&scope))
}
