//! The record of a run's calls to the host, a page at a time: what its agent learned from outside.

use super::{events::cursor, runs::own_run};
use crate::{
    api::{
        Api, Params, Segments,
        problem::{Problem, ProblemBody},
    },
    auth::Me,
};
use axum::{Json, extract::State};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use cofferdam_core::{record::Record, wait::ToolsTook};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct JournalQuery {
    /// Where the last page ended: its `next_after`. From the beginning if not said.
    #[param(value_type = Option<u64>)]
    after: Option<String>,
}

/// Entries of a run's record, in order. A page has about 1 MiB of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JournalPage {
    /// What the agent asked and learned.
    entries: Vec<Entry>,
    /// What to give as `after` for what comes next, now or later; null once a run that has ended has no more.
    #[schema(required = true)]
    next_after: Option<u64>,
}

/// An entry of the record. Events that the agent emitted are in the run's events and not repeated here.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JournalEntry)]
struct Entry {
    /// `seed`: what its random numbers come from. `call`: a call and its answer. `started`, `finished`: a call that may
    /// change something outside the run, before and after. `observed`: the agent learned the answer of call `of`.
    /// `incomplete`: from here on something is not kept. `said`: so many of the agent's own events are in the log.
    /// `tools`: so much have its tools taken of the run's budgets.
    kind: &'static str,
    /// Number of the call: from 1 in the order in which the agent made them, of every kind. Events of tool calls have another
    /// number, which counts only those.
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<u64>,
    /// Of `observed`: whose answer it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    /// The function and what it was given; of long arguments the size and a digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    /// The answer as the host keeps it, in base64; of `seed` the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// The size of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_bytes: Option<u64>,
    /// Of `incomplete`: what is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Of `said`: how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    /// Of `attempt`: which one begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// Of `tools`: what.
    #[serde(skip_serializing_if = "Option::is_none")]
    took: Option<Took>,
}

/// What a run's tools have taken of its budgets. Those whose answers are known are not executed again when it goes on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JournalToolsTook)]
struct Took {
    /// Calls to the host.
    host_calls: u64,
    /// Events.
    events: u64,
    /// Their bytes.
    event_bytes: u64,
    /// Bytes of log lines.
    log_bytes: u64,
}

impl From<ToolsTook> for Took {
    fn from(took: ToolsTook) -> Self {
        let ToolsTook { host_calls, events, event_bytes, log_bytes } = took;
        Self { host_calls, events, event_bytes, log_bytes }
    }
}

impl From<Record> for Entry {
    fn from(record: Record) -> Self {
        let call = Some(record.call()).filter(|call| *call > 0);
        let of_kind = |kind| Self {
            kind,
            call,
            of: None,
            asked: None,
            answer: None,
            answer_bytes: None,
            why: None,
            events: None,
            attempt: None,
            took: None,
        };
        let with = |entry: Self, answer: &[u8]| Self {
            answer: Some(BASE64_STANDARD.encode(answer)),
            answer_bytes: Some(answer.len() as u64),
            ..entry
        };
        match record {
            Record::Seed(seed) => with(of_kind("seed"), &seed),
            Record::Call { asked, answer, .. } => with(Self { asked: Some(asked), ..of_kind("call") }, &answer),
            Record::Started { asked, .. } => Self { asked: Some(asked), ..of_kind("started") },
            Record::Finished { answer, .. } => with(of_kind("finished"), &answer),
            Record::Observed { of, .. } => Self { of: Some(of), ..of_kind("observed") },
            Record::Incomplete { why, .. } => Self { why: Some(why), ..of_kind("incomplete") },
            Record::Said { events } => Self { events: Some(events), ..of_kind("said") },
            Record::Attempt { attempt } => Self { attempt: Some(attempt), ..of_kind("attempt") },
            Record::Tools(took) => Self { took: Some(took.into()), ..of_kind("tools") },
        }
    }
}

/// Read the record of a run's calls to the host.
///
/// A run that executes is a little ahead of its record, which is complete once the run has ended.
#[utoipa::path(
    get, path = "/v1/runs/{id}/journal", operation_id = "get_run_journal", tag = "runs", security(("api_key" = [])),
    params(("id" = String, Path, description = "The run"), JournalQuery),
    responses(
        (status = 200, description = "A page", body = JournalPage),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Segments(id): Segments<String>,
    Params(query): Params<JournalQuery>,
) -> Result<Json<JournalPage>, Problem> {
    let after = query.after.as_deref().map_or(Ok(0), |text| cursor(text, "after", "the next_after of a page, or 0"))?;
    // The run was read before its record: if it had ended by then, all of it is there.
    let run = own_run(&api, &scope, &id).await?;
    let storage = api.runtime.storage();
    let chunks = storage.record(&scope, run.id, after).await?;
    if let (true, Some(before)) = (chunks.is_empty(), after.checked_sub(1)) {
        // Chunks are numbered without holes: a place at which there is none is beyond the last.
        if storage.record(&scope, run.id, before).await?.is_empty() {
            own_run(&api, &scope, &id).await?;
            return Err(Problem::cursor_ahead("after"));
        }
    }
    let next_after = match chunks.last() {
        Some(last) => Some(last.number),
        None => Some(after).filter(|_| !run.status.is_terminal()),
    };
    let mut entries = Vec::new();
    for chunk in chunks {
        let records = chunk.records().map_err(|error| {
            tracing::error!(run = %run.id, chunk = chunk.number, %error, "a record cannot be read");
            Problem::host_error()
        })?;
        entries.extend(records.into_iter().map(Entry::from));
    }
    Ok(Json(JournalPage { entries, next_after }))
}
