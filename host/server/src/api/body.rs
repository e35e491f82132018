//! Reading what a client sends: never more than allowed, never for longer than allowed, never more at once than the
//! host has memory for.

use super::{Api, problem::Problem};
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use cofferdam_core::{fault::Fault, pace::Pace};
use futures_util::StreamExt as _;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// The bodies of all requests together, in bytes, while they are read and used. One more is refused as `host_busy`:
/// without this, a client with many connections could fill the host's memory with uploads.
const BODIES_BYTES_MAX: usize = 512 << 20;

/// The grain in which room is handed out. A body of one grain needs none: those are bounded by the connections.
pub(crate) const ROOM_BYTES: usize = 64 << 10;

/// The longest pause between two pieces of a body. A client that stops sending gives its memory back.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// The longest time for a whole body: 64 MiB at 2 Mbit/s. A client that sends a byte now and then ends here.
const BODY_READ_MAX: Duration = Duration::from_secs(300);

/// Memory for the bodies of requests: the host's, or one user's part of it.
#[derive(Debug, Clone)]
pub(crate) struct BodyRoom {
    host: Arc<Semaphore>,
    user: Option<Part>,
}

/// What one user has of it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Grains, for the bodies that are held.
    pub room: Arc<Semaphore>,
    /// How fast they are read.
    pub pace: Arc<Pace>,
}

impl Default for BodyRoom {
    fn default() -> Self {
        Self { host: Arc::new(Semaphore::new(BODIES_BYTES_MAX / ROOM_BYTES)), user: None }
    }
}

impl BodyRoom {
    /// The same room, of which a user has a part.
    pub fn within(&self, user: Part) -> Self {
        Self { host: self.host.clone(), user: Some(user) }
    }

    /// Takes room for something that is in memory already, for as long as it is used.
    pub fn hold(&self, bytes: usize) -> Result<Room, Problem> {
        self.take(u32::try_from(bytes / ROOM_BYTES).map_err(|_| Problem::busy())?)
    }

    /// Takes so many grains of the host's room and of the user's part.
    fn take(&self, grains: u32) -> Result<Room, Problem> {
        let take = |from: &Arc<Semaphore>| from.clone().try_acquire_many_owned(grains).map_err(|_| Problem::busy());
        Ok(Room { _user: self.user.as_ref().map(|part| take(&part.room)).transpose()?, _host: take(&self.host)? })
    }
}

/// Every request that was let in has the room of its user.
impl<S: Sync> FromRequestParts<S> for BodyRoom {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::unauthenticated)
    }
}

/// Room that is taken.
#[derive(Debug)]
pub(crate) struct Room {
    _user: Option<OwnedSemaphorePermit>,
    _host: OwnedSemaphorePermit,
}

/// A body in memory. Its room is given back on drop.
#[derive(Debug)]
pub(crate) struct Held {
    pub bytes: Bytes,
    _rooms: Vec<Room>,
}

/// Reads a body of at most `bytes_max`. More is refused with `too_large` as its code, and before anything is read where the
/// client says beforehand how much it will send.
pub(crate) async fn read(
    room: &BodyRoom,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    too_large: &'static str,
) -> Result<Held, Problem> {
    let refuse = || Problem::new(Fault::Caller, too_large, format!("the body is larger than {bytes_max} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(refuse());
    }
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or_default().min(ROOM_BYTES));
    let (mut rooms, mut grains) = (Vec::new(), 1);
    let mut pieces = body.into_data_stream();
    let mut end = Instant::now() + BODY_READ_MAX;
    loop {
        let piece = match timeout_at(end.min(Instant::now() + BODY_PAUSE_MAX), pieces.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(_))) => {
                return Err(Problem::http(StatusCode::BAD_REQUEST, "body_incomplete", "the body ended before its end"));
            }
            Err(_) => {
                return Err(Problem::http(
                    StatusCode::REQUEST_TIMEOUT,
                    "body_timeout",
                    format!("the body came too slowly; it may pause for {BODY_PAUSE_MAX:?} and take {BODY_READ_MAX:?}"),
                ));
            }
        };
        if bytes.len() + piece.len() > bytes_max {
            return Err(refuse());
        }
        let needed = (bytes.len() + piece.len()).div_ceil(ROOM_BYTES);
        if needed > grains {
            // At least as much as there is already, so that a body in many small pieces takes few turns.
            let more = (needed - grains).max(grains.min(bytes_max.div_ceil(ROOM_BYTES).saturating_sub(grains)));
            rooms.push(room.take(u32::try_from(more).map_err(|_| Problem::busy())?)?);
            grains += more;
        }
        bytes.extend_from_slice(&piece);
        if let Some(part) = &room.user {
            // Nor can the client be blamed for this time.
            end += part.pace.keep(piece.len() as u64).await;
        }
    }
    Ok(Held { bytes: bytes.freeze(), _rooms: rooms })
}

/// The body of a request that is a JSON object.
pub(crate) trait JsonRequest: DeserializeOwned {
    /// The largest body, in bytes.
    const BYTES_MAX: usize = 64 << 10;
    /// The code of a larger one.
    const TOO_LARGE: &'static str = "body_too_large";
}

/// Reads a JSON object into a type. Whoever goes on to wait for something lets go of the body first: its room is for
/// requests that are being read.
pub(crate) struct JsonBody<T> {
    pub value: T,
    pub held: Held,
}

impl<T: JsonRequest> FromRequest<Arc<Api>> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        require_media_type(&parts.headers, "application/json")?;
        let room = BodyRoom::from_request_parts(&mut parts, api).await?;
        let held = read(&room, &parts.headers, body, T::BYTES_MAX, T::TOO_LARGE).await?;
        Ok(Self { value: parse_object(&held.bytes)?, held })
    }
}

/// Insists on a media type, whatever its parameters.
pub(crate) fn require_media_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(Problem::http(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("the body must be {wanted}, not {given:?}"),
    )
    .hint(format!("send the header `Content-Type: {wanted}`")))
}

/// A text that is not the JSON object it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTheObject {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(serde_json::Error),
    /// JSON of another shape, and where.
    #[error("{error}")]
    Shape { error: serde_json::Error, field: Option<String> },
}

/// Reads a JSON object.
pub(crate) fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NotTheObject> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize::<_, Object<T>>(&mut json).map_err(|error| {
        let field = Some(error.path().to_string()).filter(|field| field != ".");
        match error.into_inner() {
            error if error.is_data() => NotTheObject::Shape { error, field },
            error => NotTheObject::Syntax(error),
        }
    });
    let Object(value) = read?;
    json.end().map_err(NotTheObject::Syntax)?;
    Ok(value)
}

/// 400 for what is not JSON, 422 for JSON that is not what was asked for.
impl From<NotTheObject> for Problem {
    fn from(error: NotTheObject) -> Self {
        let detail = format!("the body is not what it should be: {error}");
        match error {
            NotTheObject::Syntax(_) => Self::http(StatusCode::BAD_REQUEST, "invalid_json", detail)
                .hint("send one JSON object (RFC 8259) and nothing else; GET /openapi.json describes each"),
            NotTheObject::Shape { field: Some(field), .. } => {
                Self::new(Fault::Caller, "invalid_body", detail).field(field)
            }
            NotTheObject::Shape { field: None, .. } => Self::new(Fault::Caller, "invalid_body", detail),
        }
    }
}

/// A struct that is written as a JSON object. Serde by itself takes an array of the fields' values, too.
#[derive(Debug, Default)]
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(OnlyMap(PhantomData)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;
    use cofferdam_core::{Json, quota::LimitsAsked};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only whether it is read counts")]
    struct Asked {
        agent: String,
        input: Json,
        limits: Option<Object<LimitsAsked>>,
    }

    #[test]
    fn json_that_is_not_json_is_400_and_json_of_another_shape_is_422() {
        for (text, status) in [
            ("", 400),
            ("{", 400),
            ("{\"agent\":\"a\",\"input\":1} 2", 400),
            ("\u{1}", 400),
            ("null", 422),
            ("[]", 422),
            ("[\"a\",1,null]", 422),
            ("{}", 422),
            ("{\"agent\":\"a\"}", 422),
            ("{\"agent\":1,\"input\":1}", 422),
            ("{\"agent\":\"a\",\"input\":1,\"more\":2}", 422),
            ("{\"agent\":\"a\",\"agent\":\"b\",\"input\":1}", 422),
            ("{\"agent\":\"a\",\"input\":1,\"limits\":[1,2,3]}", 422),
            ("{\"agent\":\"a\",\"input\":1,\"limits\":{\"fuel\":-1}}", 422),
            ("{\"agent\":\"a\",\"input\":1,\"limits\":{\"fuel\":1.5}}", 422),
        ] {
            let refused = parse_object::<Asked>(text.as_bytes()).map(drop).expect_err(text);
            assert_eq!(Problem::from(refused).into_response().status().as_u16(), status, "{text}");
        }
        assert!(parse_object::<Asked>(&[b'"', 0xff, b'"']).is_err());
        let deep = format!("{{\"agent\":\"a\",\"input\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(parse_object::<Asked>(deep.as_bytes()).is_err());
    }

    #[test]
    fn any_json_is_an_input_and_keeps_its_digits() {
        for input in ["null", "1.10e300", "\"a\"", "[1, 2]", "{\"b\":0.10}"] {
            let read: Asked = parse_object(format!("{{\"agent\":\"a\",\"input\":{input}}}").as_bytes()).expect(input);
            assert_eq!(read.input.as_str(), input);
        }
    }

    #[tokio::test]
    async fn one_users_bodies_leave_room_for_anothers_and_all_of_it_comes_back() {
        let host = BodyRoom::default();
        let part = || {
            let (room, pace) = (
                Arc::new(Semaphore::new(4)),
                cofferdam_core::pace::Paces::new(Duration::ZERO, Arc::default()).of(&"ann".parse().expect("a user")),
            );
            host.within(Part { room, pace })
        };
        let (ann, bob) = (part(), part());
        let take = async |room: &BodyRoom, grains: usize| {
            let body = Body::from(vec![b'x'; grains * ROOM_BYTES]);
            read(room, &HeaderMap::new(), body, 16 * ROOM_BYTES, "body_too_large").await.ok()
        };
        let held = take(&ann, 4).await.expect("room");
        assert!(take(&ann, 4).await.is_none(), "her part is taken");
        assert!(take(&ann, 1).await.is_some(), "a small body needs none");
        let his = take(&bob, 4).await.expect("his part is his own");
        drop(held);
        assert!(take(&ann, 4).await.is_some(), "what is let go of can be taken again");
        drop(his);
        assert_eq!(host.host.available_permits(), BODIES_BYTES_MAX / ROOM_BYTES);
    }

    #[tokio::test]
    async fn a_body_over_its_limit_is_refused_even_where_its_length_is_not_told() {
        let room = BodyRoom::default();
        for (sent, taken) in [(0, true), (9, true), (10, true), (11, false), (1_000, false)] {
            let pieces = (0..sent).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"x")));
            let body = Body::from_stream(futures_util::stream::iter(pieces));
            let read = read(&room, &HeaderMap::new(), body, 10, "body_too_large").await;
            assert_eq!(read.is_ok_and(|held| held.bytes.len() == sent), taken, "{sent}");
        }
        assert_eq!(room.host.available_permits(), BODIES_BYTES_MAX / ROOM_BYTES);
    }
}
