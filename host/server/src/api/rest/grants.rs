//! Grants: what a plugin may do for a user.

use super::{
    plugin_name,
    plugins::{PermissionsBody, known_plugin},
    scope_about, user_id,
};
use crate::{
    api::{
        Api, Segments,
        body::{JsonBody, JsonRequest},
        problem::{Problem, ProblemBody},
    },
    auth::{Caller, OperatorKey},
};
use axum::{Json, extract::State};
use cofferdam_core::grant::Permissions;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

impl JsonRequest for Permissions {}

/// A grant that was set, with what comes of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GrantSet {
    /// What was granted.
    #[schema(value_type = PermissionsBody)]
    grant: Permissions,
    /// What the newest version of the plugin asks for.
    #[schema(value_type = PermissionsBody)]
    declared: Permissions,
    /// What stands in both: what a run of it may do for this user.
    #[schema(value_type = PermissionsBody)]
    effective: Permissions,
}

/// Read what a plugin was granted for a user.
///
/// For operators, and for the user themself. What was never granted reads as nothing.
#[utoipa::path(
    get, path = "/v1/users/{id}/grants/{plugin}", operation_id = "get_grant", tag = "grants", security(("api_key" = [])),
    params(("id" = String, Path, description = "The user"), ("plugin" = String, Path, description = "The plugin")),
    responses(
        (status = 200, description = "The grant", body = PermissionsBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Segments((id, plugin)): Segments<(String, String)>,
) -> Result<Json<Permissions>, Problem> {
    let scope = scope_about(&caller, &id)?;
    let plugin = plugin_name(&plugin)?;
    known_plugin(&api, &plugin)?;
    Ok(Json(api.runtime.grant(&scope, &plugin).await?.unwrap_or_default()))
}

/// Grant a plugin something for a user, in place of what was granted before.
///
/// A run may do what stands both in the grant and in the plugin's own declaration. It counts from the next run on.
#[utoipa::path(
    put, path = "/v1/users/{id}/grants/{plugin}", operation_id = "put_grant", tag = "grants", security(("api_key" = [])),
    params(("id" = String, Path, description = "The user"), ("plugin" = String, Path, description = "The plugin")),
    request_body = PermissionsBody,
    responses(
        (status = 200, description = "The grant is set", body = GrantSet),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn put(
    State(api): State<Arc<Api>>,
    OperatorKey(operator): OperatorKey,
    Segments((id, plugin)): Segments<(String, String)>,
    JsonBody { value: grant, .. }: JsonBody<Permissions>,
) -> Result<Json<GrantSet>, Problem> {
    let (user, plugin) = (user_id(&id)?, plugin_name(&plugin)?);
    let declared = known_plugin(&api, &plugin)?.1.needs.clone();
    api.runtime.put_grant(operator, &user, &plugin, grant.clone()).await?;
    let effective = declared.intersect(&grant);
    Ok(Json(GrantSet { grant, declared, effective }))
}
