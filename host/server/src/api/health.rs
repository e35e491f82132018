//! `GET /v1/health`: whether the host does what is expected of it. Anybody may ask; operators are told why.

use super::{
    Api,
    problem::{Problem, ProblemBody},
};
use crate::watch::{Alert, AlertState};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
};
use cofferdam_core::identity::Role;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// How the host is doing.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub(crate) struct HealthReport {
    /// Whether no figure is over its second mark.
    ok: bool,
    /// The worst of the states below. For operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<AlertState>,
    /// The figures with their marks, over the last minute. For operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    alerts: Option<Vec<Alert>>,
}

/// See whether the host is well.
///
/// Needs no key. With an operator's key the answer says which figure stands how: the time to answer (99 of 100, warning
/// over 1,500 ms, alert over 2,000 ms; without waits for runs and uploads), from an event to its being durable and told (25
/// and 50 ms), failures of the host (0.05 and 0.1 % of answers and runs), and memory of guests (80 and 95 % of the limit). It
/// is 200 however the host is doing; whether it takes runs is told by `/readyz` of the admin listener.
#[utoipa::path(
    get, path = "/v1/health", operation_id = "get_health", tag = "health", security((), ("api_key" = [])),
    responses(
        (status = 200, description = "How the host is doing", body = HealthReport),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Json<HealthReport>, Problem> {
    let operator = match headers.contains_key(header::AUTHORIZATION) {
        true => api.authentication.identify(&headers).await?.role() == Role::Operator,
        false => false,
    };
    let alerts = api.watch.alerts(&api);
    let state = alerts.iter().map(|alert| alert.state).max().unwrap_or(AlertState::Ok);
    let ok = state != AlertState::Alert;
    if !operator {
        return Ok(Json(HealthReport { ok, state: None, alerts: None }));
    }
    Ok(Json(HealthReport { ok, state: Some(state), alerts: Some(alerts) }))
}
