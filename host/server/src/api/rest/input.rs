//! What people say to runs that wait for them.

use super::runs::Run;
use crate::{
    api::{
        Api, Segments,
        body::{JsonBody, JsonRequest},
        problem::{Problem, ProblemBody},
    },
    auth::{Caller, Me},
};
use axum::{Json as Answer, extract::State};
use cofferdam_core::{Json, ids::RunId, quota::HOST_CALL_BYTES_MAX};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// An answer to the question that a run waits with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunInput {
    /// The answer: any JSON that fits the question's schema, at most 1 MiB.
    #[schema(value_type = Value)]
    answer: Json,
    /// Which question: the `call` of the run's `wait` and of its `run_waiting`, a number in the run's journal. If it is not said, the one that the run waits with now.
    #[serde(default)]
    call: Option<u64>,
}

impl JsonRequest for RunInput {
    // The largest answer, with room for the other field.
    const BYTES_MAX: usize = HOST_CALL_BYTES_MAX + (4 << 10);
    const TOO_LARGE: &'static str = "input_too_large";
}

/// Answer the question that a run waits with.
///
/// The first answer stands, and is durable before this answers. One that does not fit the question's schema is refused with
/// the JSON pointer to the place, and the run waits on.
#[utoipa::path(
    post, path = "/v1/runs/{id}/input", operation_id = "answer_run", tag = "runs", security(("api_key" = [])),
    params(("id" = String, Path, description = "The run")), request_body = RunInput,
    responses(
        (status = 200, description = "The run, as it stands with the answer", body = Run),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn post(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Caller(caller): Caller,
    Segments(id): Segments<String>,
    JsonBody { value: input, .. }: JsonBody<RunInput>,
) -> Result<Answer<Run>, Problem> {
    let id = id.parse::<RunId>().map_err(|_| Problem::no_such_run())?;
    let RunInput { answer, call } = input;
    let run = api.runtime.answer(&scope, id, call, answer, caller.key()).await?.ok_or_else(Problem::no_such_run)?;
    Ok(Answer(Run::of(&api, run)))
}
