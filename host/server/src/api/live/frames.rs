//! The frames of a socket, as texts. What they mean is in `live`.

use crate::api::{
    body::parse_object,
    problem::{Problem, ProblemBody},
    rest::runs::Run,
};
use axum::http::StatusCode;
use cofferdam_core::ids::{RequestId, RunId};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

/// How a socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum CloseCode {
    GoingAway = 1001,
    ProtocolError = 1002,
    BinaryFrame = 1003,
    InvalidUtf8 = 1007,
    FrameTooLarge = 1009,
    HostFailed = 1011,
    InvalidFrame = 4400,
    Silent = 4408,
}

/// A frame that the client sent.
pub(super) struct Asked {
    /// What the answer carries.
    pub id: Option<RequestId>,
    pub what: Request,
}

/// What a client asks for.
pub(super) enum Request {
    Subscribe { run: String, after: u64 },
    SubscribeAll { after: Option<String> },
    Unsubscribe { run: Option<String> },
    Submit { submission: Box<RawValue>, idempotency_key: Option<String> },
    Cancel { run: String },
    Ping,
}

/// What every frame has. What else it has depends on its type.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<RequestId>,
}

/// The fields of each type; the head is read before.
macro_rules! fields {
    ($name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            #[serde(rename = "type")]
            _kind: IgnoredAny,
            #[serde(default, rename = "id")]
            _id: IgnoredAny,
            $($(#[$attribute])* $field: $kind,)*
        }
    };
}

fields!(Subscribe { run: String, #[serde(default)] after: Option<Seq> });
fields!(SubscribeAll { #[serde(default)] after: Option<String> });
fields!(Unsubscribe { #[serde(default)] run: Option<String> });
fields!(Submit { submission: Box<RawValue>, #[serde(default)] idempotency_key: Option<String> });
fields!(Cancel { run: String });
fields!(Ping {});

/// The number of an event, or 0. Storage counts in signed numbers.
#[derive(Deserialize)]
#[serde(try_from = "i64")]
struct Seq(u64);

impl TryFrom<i64> for Seq {
    type Error = &'static str;
    fn try_from(number: i64) -> Result<Self, Self::Error> {
        u64::try_from(number).map(Self).map_err(|_| "after is the seq of an event, or 0")
    }
}

/// Reads a client's frame.
pub(super) fn parse(text: &str) -> Result<Asked, Problem> {
    let Head { kind, id } = read(text)?;
    let what = match kind.as_str() {
        "subscribe" => {
            let Subscribe { run, after, .. } = read(text)?;
            Request::Subscribe { run, after: after.map_or(0, |seq| seq.0) }
        }
        "subscribe_all" => Request::SubscribeAll { after: read::<SubscribeAll>(text)?.after },
        "unsubscribe" => Request::Unsubscribe { run: read::<Unsubscribe>(text)?.run },
        "submit" => {
            let Submit { submission, idempotency_key, .. } = read(text)?;
            Request::Submit { submission, idempotency_key }
        }
        "cancel" => Request::Cancel { run: read::<Cancel>(text)?.run },
        "ping" => read::<Ping>(text).map(|_| Request::Ping)?,
        _ => return Err(invalid(format!("there is no frame of type {kind:?}")).field("type")),
    };
    Ok(Asked { id, what })
}

fn invalid(detail: String) -> Problem {
    Problem::http(StatusCode::BAD_REQUEST, "invalid_frame", detail)
        .hint("GET /openapi.json describes the frames at /v1/ws; connect again")
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    use crate::api::body::NotTheObject::{Shape, Syntax};
    parse_object(text.as_bytes()).map_err(|error| match error {
        Syntax(error) => {
            Problem::http(StatusCode::BAD_REQUEST, "invalid_json", format!("the frame is not JSON: {error}"))
                .hint("send each frame as one JSON object; connect again")
        }
        Shape { error, field } => {
            let problem = invalid(format!("the frame is not what its type says: {error}"));
            match field {
                Some(field) => problem.field(field),
                None => problem,
            }
        }
    })
}

/// A frame that the server sends, events apart.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Answer {
    Subscribed {
        id: Option<RequestId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        run_id: Option<RunId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ended: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    },
    Unsubscribed {
        id: Option<RequestId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        run_id: Option<RunId>,
    },
    Gap {
        run_id: RunId,
        from: u64,
        to: u64,
    },
    Removed {
        #[serde(skip_serializing_if = "Option::is_none")]
        run_id: Option<RunId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    },
    Pong {
        id: Option<RequestId>,
    },
    Error {
        id: Option<RequestId>,
        problem: ProblemBody,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
}

impl Answer {
    pub fn error(id: Option<RequestId>, problem: Problem) -> Self {
        Self::Error { id, retry_after_s: problem.retry_after_s(), problem: problem.body() }
    }

    pub fn text(&self) -> String {
        // Our own types serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The frame of an answer that is a run. A run holds JSON as it was written, which a tagged enum would not keep.
pub(super) fn run(kind: &'static str, id: Option<RequestId>, run: &Run) -> String {
    #[derive(Serialize)]
    struct WithRun<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        id: Option<RequestId>,
        run: &'a Run,
    }
    serde_json::to_string(&WithRun { kind, id, run }).unwrap_or_default()
}

/// The frame of an event, which is written already.
pub(super) fn event(envelope: &str, cursor: Option<&str>) -> String {
    match cursor {
        // A cursor has no character that JSON would have to escape.
        Some(cursor) => format!(r#"{{"type":"event","cursor":"{cursor}","event":{envelope}}}"#),
        None => format!(r#"{{"type":"event","event":{envelope}}}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_in_their_exact_shape() {
        for text in [
            r#"{"type":"subscribe","run":"run_1"}"#,
            r#"{"after":7,"id":"a","run":"run_1","type":"subscribe"}"#,
            r#"{"type":"subscribe_all"}"#,
            r#"{"type":"subscribe_all","after":"1.2.3","id":null}"#,
            r#"{"type":"unsubscribe"}"#,
            r#"{"type":"submit","id":"x.1","submission":{"agent":"echo","input":[1.0e3]}}"#,
            r#"{"type":"cancel","run":"run_1"}"#,
            r#"{"type":"ping","id":"1"}"#,
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for (text, code) in [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            ("{\"type\":\"ping\"} x", "invalid_json"),
            ("null", "invalid_frame"),
            ("[]", "invalid_frame"),
            ("[\"ping\"]", "invalid_frame"),
            ("{}", "invalid_frame"),
            (r#"{"type":1}"#, "invalid_frame"),
            (r#"{"type":"nothing"}"#, "invalid_frame"),
            (r#"{"type":"ping","more":1}"#, "invalid_frame"),
            (r#"{"type":"ping","type":"ping"}"#, "invalid_frame"),
            (r#"{"type":"ping","id":1}"#, "invalid_frame"),
            (r#"{"type":"ping","id":"a b"}"#, "invalid_frame"),
            (r#"{"type":"subscribe"}"#, "invalid_frame"),
            (r#"{"type":"subscribe","run":"r","after":-1}"#, "invalid_frame"),
            (r#"{"type":"subscribe","run":"r","after":1.5}"#, "invalid_frame"),
            (r#"{"type":"subscribe","run":"r","after":9223372036854775808}"#, "invalid_frame"),
            (r#"{"type":"subscribe_all","after":3}"#, "invalid_frame"),
            (r#"{"type":"submit"}"#, "invalid_frame"),
        ] {
            let refused = parse(text).map(drop).expect_err(text);
            assert_eq!(refused.body().code, code, "{text}");
        }
    }

    #[test]
    fn a_submission_keeps_its_digits() {
        let text = r#"{"type":"submit","submission":{"agent":"a","input":{"b":0.10,"a":1e300}}}"#;
        let Ok(Asked { what: Request::Submit { submission, .. }, .. }) = parse(text) else { panic!("a submission") };
        assert_eq!(submission.get(), r#"{"agent":"a","input":{"b":0.10,"a":1e300}}"#);
    }
}
