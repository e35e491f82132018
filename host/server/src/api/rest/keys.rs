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
    /// The key. This is the only time it is shown; the host keeps its digest.
    api_key: String,
}

/// Make a key for a user.
///
/// A user exists from their first key on.
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
    let id = keep_key(&**storage, operator, &secret, user.clone(), Role::User).await?;
    let key = NewKey { id, user, api_key: secret.reveal().to_owned() };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(key)))
}
