//! A run's events: a page at a time, or live as a stream of server-sent events. Both read storage by the run's own
//! numbering, so that any of them can be resumed with the other's cursor.

use super::{page_size, runs::own_run};
use crate::{
    api::{
        Api, Params, Segments,
        problem::{Problem, ProblemBody},
    },
    auth::Me,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use cofferdam_core::{
    event::{Envelope, Event},
    identity::Scope,
    ids::RunId,
    journal::Following,
    run::RunView,
    storage::StorageError,
};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{Display, Write as _},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How many events a page has unless the client says.
pub(super) const EVENTS_PAGE: u32 = 100;
/// The most events on a page. Storage also ends a page at about 1 MiB.
pub(super) const EVENTS_PAGE_MAX: u32 = 1_000;
/// How many events a stream reads from storage at once; a slow reader holds no more than this.
pub(super) const STREAM_PAGE: u32 = 256;
/// The longest silence on a stream. Proxies drop quieter connections, and clients take a longer one for a dead host.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only events after this one: a `seq`, or a page's `next_after`. From the first if not said. A number of another run
    /// cannot be told from one of this run, unless it is beyond its last event.
    #[param(value_type = Option<u64>)]
    after: Option<String>,
    /// How many on a page: 1 to 1,000, 100 if not said. A stream has all of them.
    limit: Option<u32>,
}

/// Events of a run, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventPage {
    /// What happened.
    #[schema(value_type = Vec<EventBody>)]
    events: Vec<Envelope>,
    /// What to give as `after` for what comes next, now or later; null once the run's last event has been given.
    #[schema(required = true)]
    next_after: Option<u64>,
}

/// An event of a run.
#[derive(ToSchema)]
#[schema(as = Event)]
#[allow(dead_code, reason = "the schema of Envelope")]
pub(crate) struct EventBody {
    /// Place in the run's log: from 1, without holes.
    seq: u64,
    /// The run.
    run_id: String,
    /// When it was recorded.
    #[schema(format = DateTime)]
    at: String,
    /// `agent_started`, `agent_thinking`, `tool_executing`, `tool_completed`, `run_waiting`, `agent_completed`,
    /// `agent_error`, `progress`, `log`, or `custom:NAME`. `agent_completed` and `agent_error` are the last event of their run.
    #[schema(rename = "type")]
    kind: String,
    /// From 1, the run's life, to 4, its log.
    #[schema(minimum = 1, maximum = 4)]
    priority: u8,
    /// What happened, by type; for `custom:NAME` whatever the agent said. Of `agent_started` of a run that waited for fuel of
    /// its user's minute, how long it did: `throttled_ms`. The `call` of `tool_executing` and `tool_completed` counts the run's
    /// tool calls; that of `run_waiting` is a number in the run's journal, which counts all of its calls to the host, and is
    /// what an answer can name.
    payload: serde_json::Value,
}

/// Read a run's events.
///
/// With `Accept: text/event-stream` the events come as they happen: `id` is the event's `seq`, `event` its type, `data`
/// the event itself. The stream ends after the run's last event, and answers 204 if that was seen already. It is
/// resumed with `Last-Event-ID` or `after`. A stream that ends otherwise broke off; if the run was removed meanwhile, which
/// happens to the oldest that have finished, resuming answers 404 `unknown_run`. Without that header the answer is a page.
#[utoipa::path(
    get, path = "/v1/runs/{id}/events", operation_id = "get_run_events", tag = "runs", security(("api_key" = [])),
    params(
        ("id" = String, Path, description = "The run"),
        EventsQuery,
        ("Accept" = Option<String>, Header, description = "`text/event-stream` for a stream"),
        ("Last-Event-ID" = Option<String>, Header, description = "Of a stream: the last event seen; goes before `after`"),
    ),
    responses(
        (status = 200, description = "A page, or a stream", content(
            (EventPage = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 204, description = "Of a stream: the run has ended, and its last event was seen"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Segments(id): Segments<String>,
    Params(query): Params<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = query.after.as_deref().map_or(Ok(0), |text| cursor(text, "after", A_SEQ))?;
    let limit = page_size(query.limit, EVENTS_PAGE, EVENTS_PAGE_MAX)?;
    if !wants_stream(&headers) {
        let run = own_run(&api, &scope, &id).await?;
        return Ok(Json(page(&api, &scope, &run, after, limit).await?).into_response());
    }
    let (after, field) = match last_event_id(&headers)? {
        Some(seen) => (cursor(seen, "Last-Event-ID", A_SEQ)?, "Last-Event-ID"),
        None => (after, "after"),
    };
    stream(api, scope, &id, after, field).await
}

/// The last event that a client of a stream has seen. One that has seen nothing yet may send the header empty.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut all = headers.get_all(LAST_EVENT_ID).iter();
    let (seen, another) = (all.next(), all.next());
    if another.is_some() {
        // Which of them is meant, nobody knows: each would be a different place to begin.
        return Err(Problem::invalid_cursor("Last-Event-ID", "said once"));
    }
    Ok(seen.filter(|seen| !seen.is_empty()).map(|seen| seen.to_str().unwrap_or("?")))
}

/// What a place in a run's log is.
const A_SEQ: &str = "the seq of an event, or 0";

/// A place in a run's log, or in its record, as it was given out.
pub(super) fn cursor(text: &str, field: &'static str, rule: &'static str) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Storage counts in signed numbers.
    let seq = text.parse::<i64>().ok().filter(|_| digits).and_then(|seq| u64::try_from(seq).ok());
    seq.ok_or_else(|| Problem::invalid_cursor(field, rule))
}

/// Whether the client asks for a stream, in so many words; `*/*` gets a page.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = accepted.flat_map(|value| value.split(','));
    ranges.any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Refuses a place beyond the run's last event, and a run that was removed since it was found. Asked only where nothing
/// was found after the place.
async fn not_ahead(
    api: &Api,
    scope: &Scope,
    (run, ended): (RunId, bool),
    after: u64,
    field: &'static str,
) -> Result<(), Problem> {
    if after == 0 && !ended {
        return Ok(());
    }
    let storage = api.runtime.storage();
    let last = storage.log_end(scope, run).await?;
    // A run that has ended has an event.
    if (last == 0 || after > last) && storage.run(scope, run).await?.is_none() {
        return Err(Problem::no_such_run());
    }
    if after > last { Err(Problem::cursor_ahead(field)) } else { Ok(()) }
}

async fn page(api: &Api, scope: &Scope, run: &RunView, after: u64, limit: u32) -> Result<EventPage, Problem> {
    // The run was read before its events: if it had ended by then, they are all there.
    let events = api.runtime.storage().events(scope, run.id, after, limit).await?;
    let ended = run.status.is_terminal();
    if events.is_empty() {
        not_ahead(api, scope, (run.id, ended), after, "after").await?;
    }
    let next_after = match events.last() {
        Some(last) if last.event.is_terminal() => None,
        Some(last) => Some(last.seq),
        None if ended => None,
        None => Some(after),
    };
    Ok(EventPage { events, next_after })
}

/// Why a stream is at its end and has not had its last event. The client sees a connection that broke off, and resumes.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenOff {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Whoever resumes is told that there is no such run.
    #[error("the run was removed before its last event was read")]
    Removed,
}

impl BrokenOff {
    /// For whoever runs the host. That a run was removed is nothing that went wrong.
    pub fn log(&self) {
        if let Self::Storage(error) = self {
            tracing::error!(error = %error, source = ?error.source, "a stream broke off");
        }
    }
}

impl From<BrokenOff> for Problem {
    fn from(broken: BrokenOff) -> Self {
        match broken {
            BrokenOff::Storage(error) => error.into(),
            BrokenOff::Removed => Self::no_such_run(),
        }
    }
}

async fn stream(api: Arc<Api>, scope: Scope, id: &str, after: u64, field: &'static str) -> Result<Response, Problem> {
    let run = own_run(&api, &scope, id).await?.id;
    // First follow, then read: what happens in between is told, not missed. The run is read once more for the same
    // reason.
    let following = api.runtime.journal().follow(run);
    let ended = own_run(&api, &scope, id).await?.status.is_terminal();
    let mut live = Live { api, scope, run, after, following, ended, over: false };
    let first = live.read().await?;
    if first.is_empty() {
        not_ahead(&live.api, &live.scope, (run, ended), after, field).await?;
        if live.over {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    Ok(streamed(stream::unfold((first, live), |(first, mut live)| async move {
        let chunk = if first.is_empty() { live.next().await? } else { Ok(first) };
        Some((chunk, (Bytes::new(), live)))
    })))
}

/// The answer that is a stream of server-sent events.
pub(super) fn streamed(chunks: impl Stream<Item = Result<Bytes, BrokenOff>> + Send + 'static) -> Response {
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Someone who reads a stream. Nothing is read from storage before the last page was taken, so a slow reader slows
/// itself only.
struct Live {
    api: Arc<Api>,
    scope: Scope,
    run: RunId,
    after: u64,
    following: Following,
    /// The run had ended when we last heard of it.
    ended: bool,
    /// Nothing more will come.
    over: bool,
}

impl Live {
    /// The next frames; none when the stream is over.
    async fn next(&mut self) -> Option<Result<Bytes, BrokenOff>> {
        loop {
            if self.over {
                return None;
            }
            match self.read().await {
                Ok(frames) if frames.is_empty() => {}
                Ok(frames) => return Some(Ok(frames)),
                Err(error) => {
                    error.log();
                    self.over = true;
                    return Some(Err(error));
                }
            }
            if self.over {
                return None;
            }
            tokio::select! {
                news = timeout(HEARTBEAT, self.following.changed()) => match news {
                    Ok(news) => self.ended |= news.ended,
                    Err(_) => return Some(Ok(Bytes::from_static(b": heartbeat\n\n"))),
                },
                () = self.api.closing.cancelled() => {
                    // The runs have just ended: whoever follows one should see that, too.
                    let rest = self.read().await;
                    self.over = true;
                    return Some(rest).filter(|rest| rest.as_ref().is_ok_and(|frames| !frames.is_empty()));
                }
            }
        }
    }

    /// The frames of what storage has; empty if there is nothing new.
    async fn read(&mut self) -> Result<Bytes, BrokenOff> {
        let events = self.api.runtime.storage().events(&self.scope, self.run, self.after, STREAM_PAGE).await?;
        let mut frames = String::new();
        for envelope in &events {
            frame(&mut frames, envelope.seq, envelope);
            self.after = envelope.seq;
        }
        self.over = match events.last() {
            Some(last) => Event::is_terminal(&last.event),
            // All of it was read; or a slow reader was not there yet when the run was removed.
            None if self.ended => {
                let there = self.api.runtime.storage().run(&self.scope, self.run).await?;
                if there.is_none() {
                    return Err(BrokenOff::Removed);
                }
                true
            }
            None => false,
        };
        Ok(frames.into())
    }
}

/// Writes one event as a frame of a stream, with what a client resumes from.
pub(super) fn frame(frames: &mut String, id: impl Display, envelope: &Envelope) {
    let data = serde_json::to_string(envelope).unwrap_or_default();
    let kind = envelope.event.type_name();
    // A payload is kept as the agent wrote it. Line breaks in it can only stand between its tokens, where a space does
    // as well; in a frame they would end the line.
    let data = data.replace(['\n', '\r'], " ");
    // Writing to a string cannot fail.
    let _ = write!(frames, "id: {id}\nevent: {kind}\ndata: {data}\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_core::Json;
    use jiff::Timestamp;

    #[test]
    fn a_cursor_is_a_plain_number() {
        for (text, read) in [("0", Some(0)), ("17", Some(17)), ("9223372036854775807", Some(i64::MAX as u64))] {
            assert_eq!(cursor(text, "after", A_SEQ).ok(), read, "{text}");
        }
        for text in
            ["", "-1", "+1", "1.0", " 1", "1 ", "0x1", "9223372036854775808", "99999999999999999999999", "abc", "١"]
        {
            assert!(cursor(text, "after", A_SEQ).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stream_is_asked_for_by_name() {
        for (accept, stream) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_stream(&headers), stream, "{accept}");
        }
    }

    #[test]
    fn a_frame_has_one_line_of_data_whatever_the_agent_wrote() {
        let payload = Json::parse("{\r\n  \"a\": \"b\\nid: 7\"\n}").expect("JSON");
        let event = Event::Custom { name: "chart".into(), payload };
        let mut frames = String::new();
        frame(&mut frames, 3, &Envelope { seq: 3, run_id: RunId::generate(), at: Timestamp::UNIX_EPOCH, event });
        let lines: Vec<_> = frames.split(['\n', '\r']).collect();
        assert_eq!(lines.len(), 5, "{frames:?}");
        assert_eq!((lines[0], lines[1], lines[3], lines[4]), ("id: 3", "event: custom:chart", "", ""));
        let data: serde_json::Value =
            serde_json::from_str(lines[2].strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(data["payload"]["a"], "b\nid: 7");
    }
}
