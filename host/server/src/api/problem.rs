//! What a client is told when something fails: problem documents (RFC 9457) with a stable `code`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cofferdam_core::{
    emitter::TooManySockets,
    fault::Fault,
    idempotency::NotOnce,
    identity::WrongRole,
    ids::{InvalidId, PluginName},
    journal::RecordUnusable,
    quota::{QuotaError, RowError},
    storage::StorageError,
};
use cofferdam_runtime::{AcceptError, AnswerError, EditError, FileError, PushError, ReplayError};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The longest `detail`, in characters. What it repeats of a request may be megabytes long.
const DETAIL_CHARS_MAX: usize = 1_000;

/// The next step after a failure of the host.
const HOST_FAILED_HINT: &str =
    "try again; if it lasts, give the X-Request-Id of this answer to whoever runs the host, whose log says more";

/// The next step for a plugin or agent that is not there.
const PLUGINS_HINT: &str = "GET /v1/plugins lists the plugins; an operator pushes one with PUT /v1/plugins/{name}";

/// The next step for a limit that is over what the user's tier has.
const TIER_HINT: &str = "give a value in this range, or leave it out to have what the tier has; PUT /v1/tiers/{name} raises the tier, for all of its users, and takes what the tier sets already as well";

/// A problem document.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Always `about:blank`: `code` says which problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// For programs. Never changes its meaning.
    pub code: String,
    /// For people: what was wrong with this request.
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The part of the request that was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// Something that failed, on its way to the client.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    hint: Option<String>,
    field: Option<String>,
    retry_after_s: Option<u32>,
}

/// The code of the problem that an answer is, for whoever counts answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProblemCode(pub &'static str);

/// The status of a failure: from who is to blame, except where HTTP has a word of its own.
const fn status(fault: Fault, code: &str) -> StatusCode {
    match code.as_bytes() {
        b"input_too_large" | b"body_too_large" | b"too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        // The host comes back, and says so by this very status.
        b"draining" => StatusCode::SERVICE_UNAVAILABLE,
        b"disk_full" => StatusCode::INSUFFICIENT_STORAGE,
        // The words of the draft for the header.
        b"idempotency_in_flight" => StatusCode::CONFLICT,
        b"idempotency_result_gone" => StatusCode::GONE,
        // Nobody used up a share of theirs: the host is full for a while.
        b"no_room_to_compile" | b"no_room_to_describe" => StatusCode::SERVICE_UNAVAILABLE,
        // It is what is there already that stands against it.
        b"other_kind" => StatusCode::CONFLICT,
        b"not_waiting" | b"already_answered" => StatusCode::CONFLICT,
        b"run_not_ended" | b"run_never_began" | b"record_incomplete" | b"record_of_another_version" => {
            StatusCode::CONFLICT
        }
        b"record_damaged" => StatusCode::INTERNAL_SERVER_ERROR,
        // The limits of compiling are used up by the component that was sent, not by the caller's earlier requests.
        b"compile_limit" => StatusCode::UNPROCESSABLE_ENTITY,
        _ => match fault {
            Fault::Caller | Fault::Guest => StatusCode::UNPROCESSABLE_ENTITY,
            Fault::Absent => StatusCode::NOT_FOUND,
            Fault::Denied => StatusCode::FORBIDDEN,
            Fault::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            Fault::Host => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

impl Problem {
    /// A failure that somebody is to blame for.
    pub fn new(fault: Fault, code: &'static str, detail: impl Into<String>) -> Self {
        Self::http(status(fault, code), code, detail)
    }

    /// A failure that only exists in HTTP: how the request was written, not what it asked for.
    pub fn http(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let detail = match detail.char_indices().nth(DETAIL_CHARS_MAX) {
            Some((end, _)) => format!("{}...", detail.get(..end).unwrap_or_default()),
            None => detail,
        };
        Self { status, code, detail, hint: None, field: None, retry_after_s: None }
    }

    /// With the exact next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the part of the request that was wrong.
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The document.
    pub fn body(self) -> ProblemBody {
        ProblemBody {
            kind: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or("Problem").into(),
            status: self.status.as_u16(),
            code: self.code.into(),
            detail: self.detail,
            hint: self.hint,
            field: self.field,
        }
    }

    /// After how many seconds it may work, if that is known.
    pub const fn retry_after_s(&self) -> Option<u32> {
        self.retry_after_s
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// No valid key. One body for every way to lack one, so that a guess learns nothing.
    pub fn unauthenticated() -> Self {
        Self::http(StatusCode::UNAUTHORIZED, "unauthenticated", "this needs a valid API key")
            .hint("send the header `Authorization: Bearer cof_...`; an operator makes keys with POST /v1/keys")
    }

    /// A run that does not exist, or is another user's: the same to the last byte, and without the id asked for.
    pub fn no_such_run() -> Self {
        Self::new(Fault::Absent, "unknown_run", "you have no such run").hint("GET /v1/runs lists your runs")
    }

    /// A plugin that nobody pushed.
    pub fn no_such_plugin(asked: &PluginName, nearest: Option<&PluginName>) -> Self {
        let nearest = nearest.map(|name| format!("; the nearest name is {name:?}")).unwrap_or_default();
        Self::new(Fault::Absent, "unknown_plugin", format!("there is no plugin {asked:?}{nearest}")).hint(PLUGINS_HINT)
    }

    /// An identifier that is not one.
    pub fn invalid_id(error: &InvalidId, field: &'static str) -> Self {
        Self::new(Fault::Caller, "invalid_id", error.to_string()).field(field)
    }

    /// A query that cannot be read.
    pub fn invalid_query(detail: impl Into<String>) -> Self {
        Self::http(StatusCode::BAD_REQUEST, "invalid_query", detail)
            .hint("GET /openapi.json describes the parameters of each path")
    }

    /// A cursor that this API never gave out.
    pub fn invalid_cursor(field: &'static str, rule: &'static str) -> Self {
        Self::http(StatusCode::BAD_REQUEST, "invalid_cursor", format!("{field} must be {rule}")).field(field)
    }

    /// A cursor beyond what has happened: from another run, another host, or invented.
    pub fn cursor_ahead(field: &'static str) -> Self {
        let detail = format!("{field} is beyond the last event there is");
        Self::http(StatusCode::BAD_REQUEST, "cursor_ahead", detail)
            .field(field)
            .hint("go on from an event that you have seen, or leave it out to begin with the first")
    }

    /// The user has more tickets than anybody needs.
    pub fn too_many_tickets(max: usize, life: Duration) -> Self {
        let detail = format!("this user has {max} unused tickets, which is as many as may be");
        Self::new(Fault::Exhausted, "too_many_tickets", detail)
            .hint(format!("use one; an unused ticket is gone after {life:?}"))
            .retry_after(u32::try_from(life.as_secs()).unwrap_or(u32::MAX))
    }

    /// More requests are being read than there is memory for.
    pub fn busy() -> Self {
        Self::new(Fault::Exhausted, "host_busy", "the host is reading as many requests as it may at once")
            .hint("send it again in a second")
            .retry_after(1)
    }

    /// The host's own failure. What went wrong is in its log only.
    pub fn host_error() -> Self {
        Self::new(Fault::Host, "host_error", "the host failed to answer this request").hint(HOST_FAILED_HINT)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after_s, code) = (self.status, self.retry_after_s, ProblemCode(self.code));
        let mut response = (status, Json(self.body())).into_response();
        response.extensions_mut().insert(code);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        logged(Fault::Host, "storage_failed", &error)
    }
}

impl From<TooManySockets> for Problem {
    fn from(error: TooManySockets) -> Self {
        Self::new(error.fault(), TooManySockets::CODE, error.to_string())
    }
}

impl From<WrongRole> for Problem {
    fn from(error: WrongRole) -> Self {
        let (code, hint) = match error {
            WrongRole::OperatorNeeded => (
                "operator_needed",
                "send it with an operator's key; an operator makes one with POST /v1/keys and `\"role\": \"operator\"`",
            ),
            WrongRole::UserNeeded => {
                ("user_needed", "send it with a user's key; an operator makes one with POST /v1/keys")
            }
        };
        Self::new(error.fault(), code, error.to_string()).hint(hint)
    }
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        let problem = logged(error.fault(), error.code(), &error);
        match error {
            AcceptError::UnknownAgent { .. } => problem.field("agent").hint(PLUGINS_HINT),
            AcceptError::NotAnAgent(_) => problem.field("agent"),
            AcceptError::InvalidMetadata(_) => problem.field("metadata"),
            AcceptError::InputTooLarge { .. } => problem.field("input"),
            AcceptError::Limits(out) => problem.field(format!("limits.{}", out.field)),
            AcceptError::Refused(refused) => problem.retry_after(refused.retry_after_s()),
            AcceptError::BackingOff(off) => problem.retry_after(off.retry_after_s()),
            AcceptError::Once(error) => error.into(),
            AcceptError::Draining => problem.retry_after(5),
            AcceptError::DiskFull { .. } => problem.retry_after(60),
            AcceptError::Storage(_) => problem,
        }
    }
}

impl From<AnswerError> for Problem {
    fn from(error: AnswerError) -> Self {
        let problem = logged(error.fault(), error.code(), &error);
        match error {
            AnswerError::NotWaiting(_) => problem.hint("GET /v1/runs/{id} says for what it waits, and with which call"),
            AnswerError::Misfit(misfit) => problem.field(format!("answer{}", misfit.at)),
            AnswerError::Already | AnswerError::Storage(_) => problem,
        }
    }
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Self {
        let error = match error {
            ReplayError::Component(error) => return error.into(),
            error => error,
        };
        let problem = logged(error.fault(), error.code(), &error);
        match error {
            ReplayError::Refused(refused) => problem.retry_after(refused.retry_after_s()),
            ReplayError::Waited(_) | ReplayError::NoMemory(_) | ReplayError::Draining => problem.retry_after(5),
            ReplayError::Record(RecordUnusable::Earlier(_)) => {
                problem.hint("replay it with the Cofferdam that executed it, or submit it again here")
            }
            _ => problem,
        }
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Stale => Self::http(StatusCode::PRECONDITION_FAILED, "quota_changed", error.to_string())
                .hint("read it again, and send what is to change with the ETag of that answer"),
            EditError::Storage(error) => error.into(),
            EditError::Document(error) => {
                let detail = error.to_string();
                match error {
                    QuotaError::Row(row) => {
                        let (code, field, hint) = match row {
                            RowError::Unknown { name, .. } => {
                                ("unknown_limit", name, "GET /openapi.json has every limit with its range")
                            }
                            RowError::NotANumber { name, .. } => {
                                ("invalid_limit", name.to_owned(), "write a number in this range, without quotes")
                            }
                            RowError::OutOfRange { name, above: Some(_), .. } => {
                                ("limit_out_of_range", name.to_owned(), TIER_HINT)
                            }
                            RowError::OutOfRange { name, above: None, .. } => {
                                ("limit_out_of_range", name.to_owned(), "give a value in this range, or leave it out")
                            }
                        };
                        Self::new(Fault::Caller, code, detail).field(field).hint(hint)
                    }
                    QuotaError::TierName(_) => Self::new(Fault::Caller, "invalid_id", detail).field("tier"),
                    QuotaError::UnknownTier { .. } => Self::new(Fault::Caller, "unknown_tier", detail)
                        .field("tier")
                        .hint("PUT /v1/tiers/{name} makes it"),
                    QuotaError::TooMany { .. } => Self::new(Fault::Exhausted, "too_many_quotas", detail),
                }
            }
        }
    }
}

impl From<NotOnce> for Problem {
    fn from(error: NotOnce) -> Self {
        let problem = Self::new(error.fault(), error.code(), error.to_string()).field("Idempotency-Key");
        let problem = match error {
            NotOnce::Reused => {
                problem.hint("send a new request with a new key; sent again, a request is the same to the byte")
            }
            _ => problem,
        };
        match error.retry_after_s() {
            Some(seconds) => problem.retry_after(seconds),
            None => problem,
        }
    }
}

impl From<PushError> for Problem {
    fn from(error: PushError) -> Self {
        let problem = logged(error.fault(), error.code(), &error);
        match error {
            PushError::NoRoom(_) | PushError::NoRoomToDescribe => problem.retry_after(10),
            PushError::TooManyCompiles(_) => problem.retry_after(5),
            _ => problem,
        }
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        logged(error.fault(), error.code(), &error)
    }
}

/// A problem in the error's own words. What the host is to blame for goes to its log with all its causes.
fn logged(fault: Fault, code: &'static str, error: &dyn std::error::Error) -> Problem {
    let problem = Problem::new(fault, code, error.to_string());
    // A host that goes away has not failed.
    if !matches!(fault, Fault::Host) || code == "draining" {
        return problem;
    }
    tracing::error!(error = %error, source = ?error.source(), "a request failed");
    problem.hint(HOST_FAILED_HINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blame_decides_the_status_except_where_http_has_its_own_word() {
        for (fault, code, expected) in [
            (Fault::Caller, "limit_out_of_range", 422),
            (Fault::Guest, "describe_failed", 422),
            (Fault::Absent, "unknown_agent", 404),
            (Fault::Denied, "operator_needed", 403),
            (Fault::Exhausted, "queue_full", 429),
            (Fault::Host, "storage_failed", 500),
            (Fault::Caller, "input_too_large", 413),
            (Fault::Exhausted, "compile_limit", 422),
            (Fault::Exhausted, "no_room_to_compile", 503),
            (Fault::Caller, "other_kind", 409),
            (Fault::Exhausted, "too_many_compiles", 429),
            (Fault::Host, "draining", 503),
            (Fault::Caller, "idempotency_key_reused", 422),
            (Fault::Caller, "idempotency_in_flight", 409),
            (Fault::Absent, "idempotency_result_gone", 410),
            (Fault::Exhausted, "idempotency_keys_full", 429),
        ] {
            assert_eq!(status(fault, code).as_u16(), expected, "{code}");
        }
    }

    #[test]
    fn every_problem_has_its_media_type_and_a_bounded_detail() {
        let response = Problem::new(Fault::Caller, "invalid_id", "é".repeat(10 * DETAIL_CHARS_MAX)).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let problem = Problem::new(Fault::Caller, "invalid_id", "é".repeat(10 * DETAIL_CHARS_MAX));
        assert_eq!(problem.detail.chars().count(), DETAIL_CHARS_MAX + 3);
    }

    #[test]
    fn a_missing_key_is_told_how_to_authenticate() {
        let response = Problem::unauthenticated().into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
