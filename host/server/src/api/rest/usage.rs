//! What a user has, and has taken.

use super::scope_about;
use crate::{
    api::{
        Api, Segments,
        problem::{Problem, ProblemBody},
    },
    auth::{Caller, Me},
};
use axum::{Json, extract::State};
use cofferdam_core::{
    admission::Pressure,
    clock,
    identity::Scope,
    usage::{Day, UsageSum},
};
use jiff::Timestamp;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use utoipa::ToSchema;

/// How many days `last_30_days` has, today included.
const MONTH_DAYS: i64 = 30;

/// From which share of a limit on the score falls, and how fast: 100 at half of it, 40 at 80 %, 0 at all of it.
const SHARE_EASY: f64 = 0.5;
const POINTS_FOR_ALL: f64 = 200.0;

/// Below this score, which is 80 % of some limit, a user is not healthy.
const SCORE_HEALTHY_MIN: u8 = 40;

/// What a user has now, and has taken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UserUsage)]
pub(crate) struct UsageDocument {
    /// The user.
    user: String,
    /// What there is now.
    now: Now,
    /// What the runs took that ended today, UTC.
    today: Period,
    /// What the runs took that ended today or on one of the 29 days before.
    last_30_days: Period,
    /// How close the user is to their limits.
    resources: Resources,
}

/// What a user has now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageNow)]
struct Now {
    /// When this was.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Runs that have a slot.
    runs_executing: u32,
    /// Runs that wait for one.
    runs_queued: u32,
    /// Runs that may execute at once as things are.
    runs_at_once: u32,
    /// Why these are not as many as the quota has, if they are not: `memory` (guests hold most of what there is) or
    /// `processors` (guests wait long for one).
    #[schema(value_type = Option<String>)]
    narrowed_by: Option<&'static str>,
    /// Fuel that is left of this minute's.
    fuel_left_of_minute: u64,
    /// What their sandboxes hold, in bytes.
    memory_bytes: u64,
    /// WebSockets that are open.
    sockets: u64,
    /// What is stored for the user.
    storage: Stored,
}

/// What is stored for a user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageStored)]
struct Stored {
    /// Keys and values of state, as they count against the limit.
    state_bytes: u64,
    /// Files of the workspace.
    workspace_bytes: u64,
    /// Files and directories of the workspace.
    workspace_entries: u64,
    /// Finished runs that are kept.
    history_runs: u64,
    /// Their inputs, outputs, events and records.
    history_bytes: u64,
}

/// What runs took that ended within some days. Runs that are not kept any more count as before.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsagePeriod)]
struct Period {
    /// The first day, UTC.
    #[schema(format = Date)]
    first_day: String,
    /// The last day, UTC.
    #[schema(format = Date)]
    last_day: String,
    #[serde(flatten)]
    #[schema(inline)]
    sum: SumBody,
}

/// What runs took together.
#[derive(Debug, Serialize, ToSchema)]
struct SumBody {
    /// Runs that ended.
    runs: u64,
    /// Of those, how many for which stop reason; reasons that did not occur are left out.
    runs_by_stop_reason: BTreeMap<&'static str, u64>,
    /// About one unit per WebAssembly instruction.
    fuel: u64,
    /// Time in which agents and tools were executing.
    active_ms: u64,
    /// Bytes that counted against memory limits, times the seconds for which they did.
    memory_byte_seconds: u64,
    /// Events recorded.
    events: u64,
    /// Tool calls made.
    tool_calls: u64,
    /// Calls to the host.
    host_calls: u64,
}

impl Period {
    fn new(first: Day, last: Day, sum: UsageSum) -> Self {
        let reasons = sum.runs_by_stop_reason.iter().map(|(reason, runs)| (reason.as_str(), *runs));
        let sum = SumBody {
            runs: sum.runs,
            runs_by_stop_reason: reasons.collect(),
            fuel: sum.fuel,
            active_ms: sum.active_ms,
            memory_byte_seconds: sum.memory_byte_seconds,
            events: sum.events,
            tool_calls: sum.tool_calls,
            host_calls: sum.host_calls,
        };
        Self { first_day: first.to_string(), last_day: last.to_string(), sum }
    }
}

/// How close a user is to their limits. A guest's open files are paths: it holds no descriptors of the host's.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UserResources)]
struct Resources {
    /// What the sandboxes of the user's runs hold.
    memory_bytes: u64,
    /// WebSockets that are open.
    connections: u64,
    /// Runs that wait for a slot.
    tasks_pending: u32,
    /// What the user's runs that ended in the last minute took in it, in hundredths of one processor.
    cpu_percent: f64,
    /// From 0 to 100: 100 while the user has no more than half of any limit on memory, queued runs, state and workspace;
    /// from there it falls, by the limit that is closest, to 40 at 80 % of it and 0 at all of it.
    score: u8,
    /// Whether the score is at least 40.
    healthy: bool,
}

/// The score of the share of a limit that is used most.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
fn score(shares: impl IntoIterator<Item = (u64, u64)>) -> u8 {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = |(used, limit): (u64, u64)| if limit == 0 { 1.0 } else { used as f64 / limit as f64 };
    let most = shares.into_iter().map(share).fold(0.0, f64::max);
    (100.0 - (most - SHARE_EASY).max(0.0) * POINTS_FOR_ALL).clamp(0.0, 100.0).round() as u8
}

/// Read what you have, and have taken.
#[utoipa::path(
    get, path = "/v1/usage", operation_id = "get_own_usage", tag = "usage", security(("api_key" = [])),
    responses(
        (status = 200, description = "The usage", body = UsageDocument),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn own(State(api): State<Arc<Api>>, Me(scope): Me) -> Result<Json<UsageDocument>, Problem> {
    document(&api, &scope).await.map(Json)
}

/// Read what a user has, and has taken.
///
/// For operators, and for the user themself. What runs took is counted when they end, in the same commit, and kept by day
/// (UTC) for 400 days, also of runs that are not kept any more.
#[utoipa::path(
    get, path = "/v1/users/{id}/usage", operation_id = "get_usage", tag = "usage", security(("api_key" = [])),
    params(("id" = String, Path, description = "The user")),
    responses(
        (status = 200, description = "The usage", body = UsageDocument),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Segments(id): Segments<String>,
) -> Result<Json<UsageDocument>, Problem> {
    document(&api, &scope_about(&caller, &id)?).await.map(Json)
}

async fn document(api: &Api, scope: &Scope) -> Result<UsageDocument, Problem> {
    let (storage, at) = (api.runtime.storage(), clock::now());
    let today = Day::of(at);
    let month = today.before(MONTH_DAYS - 1);
    let of_today = storage.usage(scope, today, today).await?;
    let of_month = storage.usage(scope, month, today).await?;
    let (state_bytes, history) = (storage.state_bytes(scope).await?, storage.history(scope).await?);
    let (workspace_bytes, workspace_entries) = api.runtime.workspace(scope).held().await?;
    let under_way = api.runtime.under_way(scope);
    let sockets = api.emitters.user_stats(scope).connections.sockets;
    let quota = api.runtime.quotas().now(scope.user());
    let score = score([
        (under_way.memory_bytes, quota.memory_bytes_per_user),
        (under_way.runs_queued.into(), quota.runs_queued.into()),
        (state_bytes, quota.state_bytes),
        (workspace_bytes, quota.workspace_bytes),
        (workspace_entries, quota.workspace_files),
    ]);
    Ok(UsageDocument {
        user: scope.user().to_string(),
        now: Now {
            at,
            runs_executing: under_way.runs_executing,
            runs_queued: under_way.runs_queued,
            runs_at_once: under_way.runs_at_once,
            narrowed_by: under_way.narrowed_by.map(Pressure::as_str),
            fuel_left_of_minute: under_way.fuel_left_of_minute,
            memory_bytes: under_way.memory_bytes,
            sockets,
            storage: Stored {
                state_bytes,
                workspace_bytes,
                workspace_entries,
                history_runs: history.runs,
                history_bytes: history.bytes,
            },
        },
        today: Period::new(today, today, of_today),
        last_30_days: Period::new(month, today, of_month),
        resources: Resources {
            memory_bytes: under_way.memory_bytes,
            connections: sockets,
            tasks_pending: under_way.runs_queued,
            cpu_percent: under_way.cpu_percent,
            score,
            healthy: score >= SCORE_HEALTHY_MIN,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_that_of_the_limit_that_is_closest() {
        for (used, points) in [(0, 100), (50, 100), (51, 98), (80, 40), (81, 38), (99, 2), (100, 0), (1_000, 0)] {
            assert_eq!(score([(1, 1_000), (used, 100)]), points, "{used} of 100");
        }
        assert_eq!(score([(0, 0)]), 0, "a limit of nothing is all used");
    }
}
