//! API keys: made by operators, shown once.

use crate::{
    api::{
        Api,
        body::{JsonBody, JsonRequest},
        problem::{Problem, ProblemBody},
    },
    auth::{OperatorKey, Secret, keep_key},
};
use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use cofferdam_core::{
    fault::Fault,
    identity::Role,
    ids::{KeyId, UserId},
    quota::API_KEYS_MAX,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// For whom a key is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRequest {
    /// 1 to 64 characters of a-z, 0-9, '_', '-', '.' and '@', the first a letter or digit.
    user: String,
    /// What the key may do: `user` if not said.
    #[serde(default)]
    #[schema(required = false)]
    role: KeyRole,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum KeyRole {
    /// Submit and see their own runs.
    #[default]
    User,
    /// Push plugins, set grants, make keys; no runs of their own.
    Operator,
}

impl JsonRequest for KeyRequest {}

/// A new key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewKey {
    /// The key's public name.
    #[schema(value_type = String)]
    id: KeyId,
    /// Whom it stands for.
    #[schema(value_type = String)]
    user: UserId,
    /// What the key may do.
    role: KeyRole,
    /// The key. This is the only time it is shown; the host keeps its digest.
    api_key: String,
}

/// Make a key for a user.
///
/// A user exists from their first key on. Each operator has a name too, and uploads take turns by it.
#[utoipa::path(
    post, path = "/v1/keys", operation_id = "create_key", tag = "keys", security(("api_key" = [])),
    request_body = KeyRequest,
    responses(
        (status = 201, description = "The key", body = NewKey),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    OperatorKey(operator): OperatorKey,
    JsonBody { value: asked, .. }: JsonBody<KeyRequest>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<NewKey>), Problem> {
    let user = asked.user.parse::<UserId>().map_err(|error| Problem::invalid_id(&error, "user"))?;
    let storage = api.runtime.storage();
    // Requests side by side may get a few over the limit, which guards the disk, not a door.
    if storage.keys_count(operator).await? >= API_KEYS_MAX {
        return Err(Problem::new(
            Fault::Exhausted,
            "too_many_keys",
            format!("this host keeps {API_KEYS_MAX} keys already"),
        ));
    }
    let secret = Secret::generate().map_err(|error| {
        tracing::error!(%error, "the operating system gave no random numbers");
        Problem::host_error()
    })?;
    let role = match asked.role {
        KeyRole::User => Role::User,
        KeyRole::Operator => Role::Operator,
    };
    let id = keep_key(&**storage, operator, &secret, user.clone(), role).await?;
    let key = NewKey { id, user, role: asked.role, api_key: secret.reveal().to_owned() };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(key)))
}
