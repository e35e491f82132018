//! The WebSocket: follow runs, one by one or all of them, submit and cancel, over one connection.
//!
//! A socket is opened with `GET /v1/ws`, with the usual `Authorization` header or, for browsers, which cannot set it, with
//! `?ticket=` and a ticket of `POST /v1/ws-ticket`. Frames are texts, each one JSON object with a `type`; an `id` in a
//! client's frame comes back in the answer to it. Client frames are handled one after another: the next is not read before
//! the last was answered.
//!
//! | client sends | and is answered |
//! |---|---|
//! | `{"type":"subscribe","id"?,"run":RUN,"after"?:SEQ}` | `subscribed`, then the run's events after `after` |
//! | `{"type":"subscribe_all","id"?,"after"?:CURSOR}` | `subscribed`, then all runs' events after the cursor; `"now"` begins with what comes next |
//! | `{"type":"unsubscribe","id"?,"run"?:RUN}` | `unsubscribed`, after which nothing of it comes; without `run` everything is |
//! | `{"type":"submit","id"?,"submission":{…},"idempotency_key"?}` | `accepted`; the submission is the body of `POST /v1/runs`, the key as its header |
//! | `{"type":"cancel","id"?,"run":RUN}` | `cancelled` |
//! | `{"type":"ping","id"?}` | `pong` |
//!
//! | server sends | |
//! |---|---|
//! | `{"type":"event","event":{…},"cursor"?}` | an event, the same JSON as in pages and streams; with its cursor if all runs are followed |
//! | `{"type":"gap","run_id","from","to"}` | events of priority 3 or 4 that were left out because the client read too slowly; `GET /v1/runs/{id}/events?after=` has them |
//! | `{"type":"removed","run_id"}` | the run was removed before its last event was read, and is not followed any more: the oldest that have finished are |
//! | `{"type":"removed","cursor"}` | of all runs: events that stood here were removed with their runs; the cursor is that of what comes next |
//! | `{"type":"subscribed","id","run_id"?,"ended"?,"cursor"?}` | `ended`: the run's last event is the one given as `after`, nothing comes |
//! | `{"type":"unsubscribed","id","run_id"?}` | |
//! | `{"type":"accepted","id","run":{…}}` | the queued run, durable; its events may come before this answer if all runs are followed. Of a submission that was sent before with the same idempotency key, its run as it stands |
//! | `{"type":"cancelled","id","run":{…}}` | the run as it stands after it was asked to stop |
//! | `{"type":"pong","id"}` | |
//! | `{"type":"error","id","problem":{…},"retry_after_s"?}` | a problem document, as REST has it |
//!
//! A frame that cannot be answered at all is told as an `error`, and then the socket is closed:
//!
//! | close code | after |
//! |--:|---|
//! | 1001 | the server goes away, or restarts; connect again and resume |
//! | 1002 | `protocol_error`: not the WebSocket protocol |
//! | 1003 | `binary_frame`: frames are texts |
//! | 1007 | `invalid_utf8` |
//! | 1009 | `frame_too_large` |
//! | 1011 | the host failed; connect again and resume |
//! | 4400 | `invalid_json`, `invalid_frame`: not one of the frames above |
//! | 4408 | the client did not answer pings |
//!
//! A client's own close frame is answered with its code; one whose code may not be sent (RFC 6455, 7.4), with 1002 and no
//! other word.
//!
//! A client that does not take what it is sent is disconnected without a code. Nothing is lost by any of these: what a
//! client has not seen is read again from its last `seq` or cursor.

use super::{
    Api, ThisRequest,
    body::BodyRoom,
    problem::{Problem, ProblemBody},
    share::UnderWay,
};
use crate::{
    auth::{Caller, Me, TICKET_LIFE},
    listener::Handover,
};
use axum::{
    Extension, Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::FutureExt as _;
use serde::Serialize;
use socket::Socket;
use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use utoipa::ToSchema;

mod frames;
mod pump;
mod socket;

/// The route of the socket, which has an authentication of its own.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/ws", get(open))
}

/// A ticket for one WebSocket.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WsTicket {
    /// Give it as `?ticket=` of `GET /v1/ws`. Works once.
    ticket: String,
    /// How long it works.
    expires_in_ms: u64,
}

/// Get a ticket for a WebSocket.
///
/// For browsers, which cannot send an `Authorization` header with one. A ticket stands for the key that it was asked for
/// with, once, within 30 seconds. A user has 16 unused ones at most. An `Idempotency-Key` is not looked at: a ticket is not
/// a thing that lasts, and whoever got no answer asks for another.
#[utoipa::path(
    post, path = "/v1/ws-ticket", operation_id = "create_ws_ticket", tag = "events", security(("api_key" = [])),
    responses(
        (status = 201, description = "The ticket", body = WsTicket),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn ticket(
    State(api): State<Arc<Api>>,
    Me(_): Me,
    Caller(identity): Caller,
) -> Result<Response, Problem> {
    let ticket = api.tickets.issue(identity)?;
    let expires_in_ms = u64::try_from(TICKET_LIFE.as_millis()).unwrap_or(u64::MAX);
    let no_store = (header::CACHE_CONTROL, "no-store");
    Ok((StatusCode::CREATED, [no_store], Json(WsTicket { ticket, expires_in_ms })).into_response())
}

/// Open a WebSocket: follow runs, submit and cancel over one connection.
///
/// Frames are texts, each one JSON object with a `type`; an `id` (1 to 64 characters of A-Z, a-z, 0-9, `_`, `-` and `.`)
/// comes back in the answer. The client sends `subscribe {run, after?}` (`after`: a `seq`), `subscribe_all {after?}` (a
/// cursor, or `now`), `unsubscribe {run?}`, `submit {submission, idempotency_key?}` (the body of `POST /v1/runs`, and its header), `cancel {run}` and `ping`.
/// The server sends `event {event, cursor?}`, `gap {run_id, from, to}` for events of priority 3 and 4 that a slow reader
/// was not given, `removed {run_id}` for a run, or `removed {cursor}` for events of any runs, that were removed for their age
/// before they were read, and the answers `subscribed`, `unsubscribed`, `accepted {run}`, `cancelled {run}`, `pong` and `error
/// {problem, retry_after_s?}`. A socket follows single runs, at most 64, or all of them. Nothing it has shown is shown
/// again, and nothing is missed, when it is resumed with the last `seq` or `cursor`.
///
/// A frame that is none of these is told as an `error`, and the socket is closed: 1002 `protocol_error`, 1003
/// `binary_frame`, 1007 `invalid_utf8`, 1009 `frame_too_large`, 4400 `invalid_json` or `invalid_frame`. It is closed with
/// 1001 when the server goes away, 1011 when the host failed, 4408 when the client does not answer pings for 45 s; a close
/// frame of the client's with a code that may not be sent is answered with 1002 and no other word. A user
/// has at most 3 sockets.
#[utoipa::path(
    get, path = "/v1/ws", operation_id = "open_ws", tag = "events", security(("api_key" = []), ()),
    params(("ticket" = Option<String>, Query, description = "A ticket of `POST /v1/ws-ticket`, instead of a key")),
    responses(
        (status = 101, description = "The connection is a WebSocket from here on"),
        (status = 426, description = "Not the handshake of a WebSocket", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 429, description = "`too_many_sockets`", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn open(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    ThisRequest(request): ThisRequest,
    room: BodyRoom,
    Extension(under_way): Extension<Arc<UnderWay>>,
    Extension(handover): Extension<Handover>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let scope = caller.scope().map_err(|error| Problem::from(error).into_response())?;
    let accept = accept_key(&headers).ok_or_else(not_a_handshake)?;
    let sockets_max = api.runtime.quotas().now(scope.user()).sockets_at_once;
    let outlet = api.emitters.open(&scope, sockets_max).map_err(|error| Problem::from(error).into_response())?;
    // The request that opened the socket is its name, and the session of the runs that it brings.
    let session = request.as_str().parse().ok();
    let panics = api.panics.clone();
    let key = caller.key().clone();
    let socket = Socket { api, scope, key, session, room, outlet, under_way };
    handover.to(|connection, read| async move {
        // Beyond the answer, nobody else catches it.
        if AssertUnwindSafe(socket.serve(connection, read)).catch_unwind().await.is_err() {
            panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a socket panicked");
        }
    });
    let protocol = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, protocol).into_response())
}

/// The answer to the key of a handshake (RFC 6455, 4.2.1); none if it is not one.
fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let has = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let handshake = has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| handshake && key.len() == 24)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

fn not_a_handshake() -> Response {
    let problem = Problem::http(StatusCode::UPGRADE_REQUIRED, "not_a_websocket", "this is the address of a WebSocket")
        .hint("open it with a WebSocket client, of version 13; GET /v1/events has the same events without one");
    let protocol = [(header::UPGRADE, "websocket"), (header::SEC_WEBSOCKET_VERSION, "13")];
    (protocol, problem).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_answered_as_the_standard_says() {
        let good = [
            (header::CONNECTION, "keep-alive, Upgrade"),
            (header::UPGRADE, "WebSocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let headers = |pairs: &[(header::HeaderName, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
        };
        assert_eq!(accept_key(&headers(&good)), Some(HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n].1 = "x";
            assert_eq!(accept_key(&headers(&bad)), None, "{bad:?}");
            let rest = [&good[..n], &good[n + 1..]].concat();
            assert_eq!(accept_key(&headers(&rest)), None, "{rest:?}");
        }
    }
}
