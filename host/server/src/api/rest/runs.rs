//! Runs: submit, read, list, cancel.

use super::page_size;
use crate::{
    api::{
        Api, Params, Segments, ThisRequest,
        body::{Held, JsonBody, JsonRequest, Object},
        cursor,
        idempotency::{self, Key},
        problem::{Problem, ProblemBody},
        share::UnderWay,
    },
    auth::{Caller, Me},
};
use axum::{
    Extension, Json as Answer,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use cofferdam_core::{
    Json,
    context::ContextStatus,
    idempotency::Once,
    identity::Scope,
    ids::{AgentRef, Digest, InvalidId, KeyId, PluginName, RequestId, RunId, SessionId, ThreadId, UserId},
    quota::{LimitsAsked, METADATA_BYTES_MAX, RUN_INPUT_BYTES_MAX},
    run::{Children, Durability, Priority, Retries, RunStatus, RunView, StopReason, Usage},
    storage::RunQuery,
    wait::Wait,
};
use cofferdam_runtime::{Accepted, Submission};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{Object as ObjectSchema, ObjectBuilder, schema::Type},
};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The longest that a request waits for its run. More is taken as this much: clients and the boxes between us give
/// up on longer silences anyway, and the run goes on without the request.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How many runs a page has unless the client says.
const RUNS_PAGE: u32 = 50;
/// The most runs on a page.
const RUNS_PAGE_MAX: u32 = 100;

/// A run to be submitted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunSubmission {
    /// Which agent: `name`, `name@version` or `name@sha256:DIGEST`.
    #[schema(example = "echo")]
    agent: String,
    /// What the agent gets: any JSON, at most 4 MiB.
    #[schema(value_type = Value)]
    input: Json,
    /// The conversation that the run belongs to. Without it the run has a thread of its own.
    #[serde(default)]
    thread_id: Option<String>,
    /// The client's own data, which the agent can read: a JSON object, at most 16 KiB.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Json>,
    /// Limits lower than the user's own.
    #[serde(default)]
    #[schema(value_type = Option<Limits>)]
    limits: Option<Object<LimitsAsked>>,
    /// Which of the user's own runs go first.
    #[serde(default)]
    #[schema(schema_with = priority)]
    priority: Option<Priority>,
    /// What becomes of the run when its host goes away while it executes.
    #[serde(default)]
    #[schema(schema_with = durability)]
    durability: Option<Durability>,
    /// How often the run is executed if it fails: once, if not said.
    #[serde(default)]
    #[schema(value_type = Option<RetriesBody>)]
    retries: Option<Retries>,
}

/// That a run is executed again if it fails, from its beginning, and as the same run. Between two attempts it waits, `for`
/// `retry`. Not after what would end it again: a limit, a refusal, an `invalid_input`, a cancel; nor after
/// `outcome_unknown`. What an attempt has done stays done. Each has the whole of the run's limits, and `usage` is of all.
#[derive(ToSchema)]
#[schema(as = Retries)]
#[allow(dead_code, reason = "the schema of Retries")]
pub(crate) struct RetriesBody {
    /// How often it is executed at most, the first time included.
    #[schema(minimum = 1, maximum = 10)]
    attempts: u32,
    /// The pause after the first attempt, 1,000 if not said. It doubles with each one, up to an hour.
    #[schema(minimum = 100, maximum = 3_600_000)]
    backoff_ms: Option<u64>,
}

/// What a run may take at most. Each can be left out, and none can be higher than the user's own.
#[derive(ToSchema)]
#[schema(as = Limits)]
#[allow(dead_code, reason = "the schema of LimitsAsked")]
pub(crate) struct Limits {
    /// About one unit per WebAssembly instruction.
    fuel: Option<u64>,
    /// All memories and tables together.
    memory_bytes: Option<u64>,
    /// From admission to the end.
    deadline_ms: Option<u64>,
}

impl JsonRequest for RunSubmission {
    // The largest input and metadata, with room for the other fields.
    const BYTES_MAX: usize = RUN_INPUT_BYTES_MAX + METADATA_BYTES_MAX + (16 << 10);
    const TOO_LARGE: &'static str = "input_too_large";
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Run {
    /// The run.
    #[schema(value_type = String, example = "run_0199c0ffee007000a000000000000001")]
    id: RunId,
    /// The name that the agent was asked for by.
    #[schema(value_type = String)]
    agent: PluginName,
    /// The component that is executed.
    #[schema(value_type = String)]
    digest: Digest,
    /// For whom.
    #[schema(value_type = String)]
    user: UserId,
    /// The conversation.
    #[schema(value_type = String)]
    thread_id: ThreadId,
    /// Which of your own runs go first.
    #[schema(schema_with = priority)]
    priority: Priority,
    /// What becomes of it when its host goes away while it executes.
    #[schema(schema_with = durability)]
    durability: Durability,
    /// How often it is executed if it fails, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RetriesBody>)]
    retries: Option<Retries>,
    /// Which attempt it is at, or ended with: 1 unless it was executed again.
    attempt: u32,
    /// The run that started it, if one did.
    #[schema(value_type = Option<String>, required = true)]
    parent_run_id: Option<RunId>,
    /// Where it stands. What is `waiting` holds no sandbox.
    #[schema(schema_with = run_status)]
    status: RunStatus,
    /// Where its context stands: `initializing` and `throttled` wait (the latter for fuel of the next minute), `active` is
    /// admitted, `executing` runs its guest, `completed` and `failed` give back what they held, of `cleaned` nothing is left.
    #[schema(schema_with = context_status)]
    context_status: ContextStatus,
    /// For what it waits, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<WaitBody>,
    /// Why it ended, once it has.
    #[schema(schema_with = stop_reason, required = true)]
    stop_reason: Option<StopReason>,
    /// The output of a run that completed. Left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    output: Option<Json>,
    /// Why there is no output.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RunErrorBody>,
    /// The key (its public name) that the run was first asked to stop with, if it was before it had ended.
    #[schema(value_type = Option<String>, required = true)]
    cancelled_by: Option<KeyId>,
    /// When it was asked to stop.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    cancel_requested_at: Option<Timestamp>,
    /// What it took; zeros until it has ended.
    #[schema(value_type = UsageBody)]
    usage: Usage,
    /// What became of the runs that it started, if it did and has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ChildrenBody>)]
    children: Option<Children>,
    /// Whether it completed although some of the runs that it started failed.
    partial_failure: bool,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was admitted.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    finished_at: Option<Timestamp>,
}

/// For what a run waits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Wait)]
pub(crate) struct WaitBody {
    /// `time`, `human`, `approval`, `child`, `memory`, `storage` or `retry`. The second and third are answered with `POST /v1/runs/{id}/input`.
    #[serde(rename = "for")]
    waits_for: &'static str,
    /// Number of the call in the run's journal whose answer it waits for; the events of tool calls have numbers of their own.
    call: u64,
    /// What there is to know of it: of a question `prompt`, the `schema` of the answer, and the `default`; of an approval
    /// `tool`, `arguments` and the `schema` of the answer; of a child its `run_id`; of a retry the `attempt` that failed, its
    /// `stop_reason`, `code` and `message`.
    #[schema(value_type = Object)]
    about: Json,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When it goes on by itself, if it does.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    until: Option<Timestamp>,
}

impl From<Wait> for WaitBody {
    fn from(wait: Wait) -> Self {
        let (waits_for, about) = (wait.waits_for.as_str(), wait.waits_for.about());
        Self { waits_for, call: wait.call, about, since: wait.since, until: wait.until }
    }
}

/// Why a run has no output.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunError)]
pub(crate) struct RunErrorBody {
    /// For programs. The stop reason, or the agent's own code where the agent returned an error.
    code: String,
    /// For people.
    message: String,
}

/// What became of the runs that a run started, at all of its attempts.
#[derive(ToSchema)]
#[schema(as = Children)]
#[allow(dead_code, reason = "the schema of Children")]
pub(crate) struct ChildrenBody {
    /// How many completed.
    succeeded: u32,
    /// How many failed.
    failed: u32,
    /// How many were cancelled, or had not ended and were cancelled with it.
    cancelled: u32,
}

/// What a run took.
#[derive(ToSchema)]
#[schema(as = Usage)]
#[allow(dead_code, reason = "the schema of Usage")]
pub(crate) struct UsageBody {
    /// About one unit per WebAssembly instruction.
    fuel: u64,
    /// The most that all memories and tables held together.
    memory_peak_bytes: u64,
    /// From admission to the end.
    wall_ms: u64,
    /// Of those, the time that the agent was executing.
    active_ms: u64,
    /// Calls from the agent to the host.
    host_calls: u64,
    /// Events recorded.
    events: u64,
    /// Tool calls made, as they count against the run's limit.
    tool_calls: u64,
    /// Bytes that counted against the run's memory limit, times the seconds for which they did.
    memory_byte_seconds: u64,
}

fn words(words: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words))
}

fn priority() -> ObjectSchema {
    let what = "Which of your own runs go first where they cannot all run: `high`, `normal` (if not said), or `low`, which \
        may wait for as long as others of yours want to run. It changes nothing for other users.";
    words(Priority::ALL.map(Priority::as_str)).description(Some(what)).build()
}

fn durability() -> ObjectSchema {
    let what = "`ephemeral` (if not said): it ends, as `host_shutdown`, or as `outcome_unknown` if it may have changed \
        something. `durable`: it goes on where it was; it has no directory `/workspace`. A plugin can say that its runs are \
        durable in any case.";
    words([Durability::Ephemeral, Durability::Durable].map(Durability::as_str)).description(Some(what)).build()
}

fn run_status() -> ObjectSchema {
    words(RunStatus::ALL.map(RunStatus::as_str)).build()
}

fn context_status() -> ObjectSchema {
    words(ContextStatus::ALL.map(ContextStatus::as_str)).build()
}

fn stop_reason() -> ObjectSchema {
    let reasons = StopReason::ALL.map(|reason| serde_json::Value::from(reason.as_str()));
    ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::SchemaType::from_iter([Type::String, Type::Null]))
        .enum_values(Some(reasons.into_iter().chain([serde_json::Value::Null])))
        .build()
}

impl Run {
    /// A run as it stands, on this host.
    pub(in crate::api) fn of(api: &Api, view: RunView) -> Self {
        let context = api.runtime.context_status(&view);
        Self::with(view, context)
    }

    pub(crate) fn with(view: RunView, context_status: ContextStatus) -> Self {
        let partial_failure = view.is_partial_failure();
        let (cancelled_by, cancel_requested_at) = view.cancel.map(|request| (request.by, request.at)).unzip();
        Self {
            id: view.id,
            agent: view.agent,
            digest: view.digest,
            user: view.user,
            thread_id: view.thread_id,
            priority: view.priority,
            durability: view.durability,
            retries: view.retries,
            attempt: view.attempt,
            parent_run_id: view.parent_run_id,
            status: view.status,
            context_status,
            wait: view.wait.map(WaitBody::from),
            stop_reason: view.stop_reason,
            output: view.output,
            error: view.error.map(|error| RunErrorBody { code: error.code, message: error.message }),
            cancelled_by,
            cancel_requested_at,
            usage: view.usage,
            children: Some(view.children).filter(|children| children.any()),
            partial_failure,
            created_at: view.created_at,
            started_at: view.started_at,
            finished_at: view.finished_at,
        }
    }
}

/// Submit a run.
///
/// Answers 202 with the queued run once it is durable. With `Prefer: wait=N` (at most 60) it answers 200 with the
/// finished run if it ends within N seconds.
///
/// With an `Idempotency-Key` the run is made once, however often the request is sent: sent again with the same body
/// within 24 h, also after a restart of the host, it answers with the run that the first one made, as that stands now,
/// and `Idempotent-Replayed: true`; `Prefer: wait=N` waits for that run. With another body it answers 422
/// `idempotency_key_reused`; while the first is still being taken, 409 `idempotency_in_flight`: send it again in a
/// second. A request that was refused made nothing, and can be sent again with its key. At most 100,000 keys of a user
/// are remembered; at that mark a new one answers 429 `idempotency_keys_full`.
#[utoipa::path(
    post, path = "/v1/runs", operation_id = "submit_run", tag = "runs", security(("api_key" = [])),
    params(
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for the end of the run"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 255 visible ASCII characters, which may stand in quotes: a new one for each new request"),
    ),
    request_body = RunSubmission,
    responses(
        (status = 200, description = "The finished run", body = Run,
            headers(("Location" = String, description = "Where the run is read"),
                ("RateLimit" = String, description = "Places left in the user's queue (`r`)"),
                ("RateLimit-Policy" = String, description = "Places in the user's queue in all (`q`)"),
                ("Idempotent-Replayed" = Option<String>, description = "`true`: an earlier request made this run"))),
        (status = 202, description = "The run is queued, or still running", body = Run,
            headers(("Location" = String, description = "Where the run is read"),
                ("Idempotent-Replayed" = Option<String>, description = "`true`: an earlier request made this run"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn submit(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    ThisRequest(request): ThisRequest,
    key: Key,
    headers: HeaderMap,
    JsonBody { value: asked, held }: JsonBody<RunSubmission>,
) -> Response {
    let answer = submitted(&api, &scope, asked, held, request, key, &headers).await;
    let mut response = answer.into_response();
    rate_limit(&api, &scope, response.headers_mut());
    response
}

/// Says how much room is left in the user's queue, so that a client can slow down before it is refused.
fn rate_limit(api: &Api, scope: &Scope, headers: &mut HeaderMap) {
    let standing = api.runtime.standing(scope.user());
    let most = api.runtime.quotas().now(scope.user()).runs_queued;
    let left = most.saturating_sub(standing.queued);
    // A place comes free when a run ends, which nobody knows beforehand.
    for (name, value) in [
        ("ratelimit-policy", format!("\"runs_queued\";q={most}")),
        ("ratelimit", format!("\"runs_queued\";r={left};t=1")),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

async fn submitted(
    api: &Api,
    scope: &Scope,
    asked: RunSubmission,
    held: Held,
    request: RequestId,
    key: Key,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let accepted = accept(api, scope, asked, None, request, key.once(&held.bytes)).await?;
    drop(held);
    let wait = preferred_wait(headers);
    let (replayed, ended) = (accepted.replayed, accepted.view.status.is_terminal());
    let view = match wait {
        Some(wait) if !ended => ended_within(api, scope, &accepted, wait).await,
        _ => accepted.view,
    };
    let status = if view.status.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = HeaderValue::from_str(&format!("/v1/runs/{}", view.id));
    let mut response = (status, Answer(Run::of(api, view))).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if let Some(applied) = wait.and_then(|wait| HeaderValue::from_str(&format!("wait={}", wait.as_secs())).ok()) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(if replayed { idempotency::replayed(response) } else { response })
}

/// Takes a run, whichever way it was asked for.
pub(in crate::api) async fn accept(
    api: &Api,
    scope: &Scope,
    asked: RunSubmission,
    session: Option<SessionId>,
    request: RequestId,
    once: Option<Once>,
) -> Result<Accepted, Problem> {
    let agent = asked.agent.parse::<AgentRef>().map_err(|error| Problem::invalid_id(&error, "agent"))?;
    let thread = asked.thread_id.map(|text| text.parse::<ThreadId>()).transpose();
    let submission = Submission {
        agent,
        input: asked.input,
        thread: thread.map_err(|error| Problem::invalid_id(&error, "thread_id"))?,
        session,
        metadata: asked.metadata,
        limits: asked.limits.unwrap_or_default().0,
        priority: asked.priority.unwrap_or_default(),
        durability: asked.durability.unwrap_or_default(),
        retries: asked.retries,
        request,
        once,
    };
    Ok(api.runtime.accept(scope, submission).await?)
}

/// The run as it stands when it has ended, when the time is up, or when the host goes away.
async fn ended_within(api: &Api, scope: &Scope, accepted: &Accepted, wait: Duration) -> RunView {
    tokio::select! {
        view = ended(api, scope, accepted) => if let Some(view) = view {
            return view;
        },
        () = tokio::time::sleep(wait) => {}
        () = api.closing.cancelled() => {}
    }
    // It has been accepted, whatever storage says now.
    api.runtime.storage().run(scope, accepted.view.id).await.ok().flatten().unwrap_or_else(|| accepted.view.clone())
}

/// Waits for the end of a run, also of one that is put away meanwhile. None if that cannot be known.
async fn ended(api: &Api, scope: &Scope, accepted: &Accepted) -> Option<RunView> {
    let view = accepted.ended().await;
    if view.status.is_terminal() {
        return Some(view);
    }
    let mut following = api.runtime.journal().follow(view.id);
    loop {
        let view = api.runtime.storage().run(scope, view.id).await.ok().flatten()?;
        // What is left to the next start of the host is waited for by nobody.
        if view.status.is_terminal() || api.runtime.is_draining() {
            return Some(view);
        }
        while !following.changed().await.ended {}
    }
}

/// How long the client would wait (RFC 7240). What cannot be read is not asked for.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = preferences.flat_map(|value| value.split(','));
    let seconds = preferences.find_map(|preference| {
        // What follows a semicolon are the preference's own parameters.
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        let digits = value.trim().trim_matches('"');
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        // More digits than a number can hold mean a very long time.
        is_number.then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    })?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// Which runs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RunsQuery {
    /// How many: 1 to 100, 50 if not said.
    limit: Option<u32>,
    /// Where the last page ended: its `next_after`, as it was. It works also when the run there has been removed.
    after: Option<String>,
    /// Only runs that stand so.
    status: Option<String>,
    /// Only runs of this agent.
    agent: Option<String>,
    /// Only runs of this thread.
    thread_id: Option<String>,
}

/// Runs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunPage {
    /// Without their outputs.
    runs: Vec<Run>,
    /// What to give as `after` for the next page; null on the last one.
    #[schema(required = true)]
    next_after: Option<String>,
}

/// List your runs, newest first.
#[utoipa::path(
    get, path = "/v1/runs", operation_id = "list_runs", tag = "runs", security(("api_key" = [])), params(RunsQuery),
    responses(
        (status = 200, description = "A page of runs", body = RunPage),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(under_way): Extension<Arc<UnderWay>>,
    Me(scope): Me,
    Params(query): Params<RunsQuery>,
) -> Result<Answer<RunPage>, Problem> {
    let limit = page_size(query.limit, RUNS_PAGE, RUNS_PAGE_MAX)?;
    let invalid = |error: &InvalidId, field| Problem::invalid_query(error.to_string()).field(field);
    let asked = RunQuery {
        before: match query.after.as_deref() {
            None => None,
            Some(text) => {
                let before = cursor::parse_run(&scope, text);
                Some(before.ok_or_else(|| Problem::invalid_cursor("after", "the next_after of a page, as it was"))?)
            }
        },
        status: match query.status.as_deref() {
            None => None,
            Some(word) => Some(RunStatus::from_word(word).ok_or_else(|| {
                let all = RunStatus::ALL.map(RunStatus::as_str).join(", ");
                Problem::invalid_query(format!("status must be one of {all}")).field("status")
            })?),
        },
        agent: query.agent.map(|name| name.parse().map_err(|error| invalid(&error, "agent"))).transpose()?,
        thread: query.thread_id.map(|id| id.parse().map_err(|error| invalid(&error, "thread_id"))).transpose()?,
        // One more than asked for, to know whether there is a next page.
        limit: limit + 1,
    };
    let turn = under_way.list_turn().await;
    let mut runs = api.runtime.storage().runs(&scope, &asked).await?;
    drop(turn);
    let more = runs.len() > limit as usize;
    runs.truncate(limit as usize);
    let next_after = runs.last().filter(|_| more).map(|run| cursor::of_run(&scope, run.id));
    Ok(Answer(RunPage { runs: runs.into_iter().map(|run| Run::of(&api, run)).collect(), next_after }))
}

/// A run of the caller's; the same problem for what is not a run, not there, or not theirs.
pub(in crate::api) async fn own_run(api: &Api, scope: &Scope, id: &str) -> Result<RunView, Problem> {
    let id = id.parse::<RunId>().map_err(|_| Problem::no_such_run())?;
    api.runtime.storage().run(scope, id).await?.ok_or_else(Problem::no_such_run)
}

/// Read a run.
#[utoipa::path(
    get, path = "/v1/runs/{id}", operation_id = "get_run", tag = "runs", security(("api_key" = [])),
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, description = "The run", body = Run),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Segments(id): Segments<String>,
) -> Result<Answer<Run>, Problem> {
    Ok(Answer(Run::of(&api, own_run(&api, &scope, &id).await?)))
}

/// Cancel a run.
///
/// That it was asked to stop, and with which key, is durable before the answer: the run then ends as cancelled, also
/// where the host is stopped or dies before it does. Answers 200 with the run if it has ended by then, as it usually
/// has, and 202 if it still has to. Asking again changes nothing: the first who asked stands. A run that had come to its
/// end before answers 409 `already_ended`, and nothing is kept of the request.
#[utoipa::path(
    post, path = "/v1/runs/{id}/cancel", operation_id = "cancel_run", tag = "runs", security(("api_key" = [])),
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, description = "The run, which has ended", body = Run),
        (status = 202, description = "The run, asked to stop", body = Run),
        (status = 409, description = "The run had ended", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn cancel(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Caller(caller): Caller,
    Segments(id): Segments<String>,
) -> Result<(StatusCode, Answer<Run>), Problem> {
    let run = stop(&api, &scope, &id, caller.key()).await?;
    let status = if run.status.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Answer(run)))
}

/// Asks a run to stop, whichever way that was asked for.
pub(in crate::api) async fn stop(api: &Api, scope: &Scope, id: &str, by: &KeyId) -> Result<Run, Problem> {
    let before = own_run(api, scope, id).await?;
    if before.status.is_terminal() {
        return Err(already_ended(&before));
    }
    let after = api.runtime.cancel(scope, before.id, by).await?.ok_or_else(Problem::no_such_run)?;
    // Without one it came to its end between the look and the request.
    if after.cancel.is_some() { Ok(Run::of(api, after)) } else { Err(already_ended(&after)) }
}

fn already_ended(run: &RunView) -> Problem {
    let detail = if run.status.is_terminal() {
        format!("the run has ended already: {}", run.status.as_str())
    } else {
        "the run has come to its end already, which is being stored".to_owned()
    };
    Problem::http(StatusCode::CONFLICT, "already_ended", detail).hint("GET /v1/runs/{id} reads it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_to_wait_is_found_among_others_and_bounded() {
        for (header, seconds) in [
            ("wait=5", Some(5)),
            ("Wait = 5", Some(5)),
            ("wait=\"5\"", Some(5)),
            ("respond-async, wait=0", Some(0)),
            ("wait=60", Some(60)),
            ("wait=61", Some(60)),
            ("wait=99999999999999999999999", Some(60)),
            ("handling=lenient;wait=3, wait=7; x=y", Some(7)),
            ("wait", None),
            ("wait=", None),
            ("wait=-1", None),
            ("wait=+1", None),
            ("wait=1.5", None),
            ("await=3", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(PREFER, HeaderValue::from_static(header))]);
            assert_eq!(preferred_wait(&headers).map(|wait| wait.as_secs()), seconds, "{header}");
        }
        assert_eq!(preferred_wait(&HeaderMap::new()), None);
    }

    #[test]
    fn a_run_is_written_as_its_schema_says() {
        let schema = serde_json::to_value(crate::api::openapi_document()).expect("serializes");
        let properties = schema.pointer("/components/schemas/Run/properties").and_then(|p| p.as_object()).expect("Run");
        for field in [
            "id",
            "agent",
            "digest",
            "user",
            "thread_id",
            "priority",
            "durability",
            "retries",
            "attempt",
            "parent_run_id",
            "status",
            "stop_reason",
            "output",
            "error",
            "usage",
            "children",
            "partial_failure",
        ] {
            assert!(properties.contains_key(field), "{field}");
        }
    }
}
