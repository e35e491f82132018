//! API keys: made by operators, shown once.

use crate::{
    api::{
        Api,
        body::{JsonBody, JsonRequest},
        idempotency::{self, Key},
        problem::{Problem, ProblemBody},
    },
    auth::{Caller, OperatorKey, Secret, keep_key},
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use cofferdam_core::{
    fault::Fault,
    idempotency::{Creating, Creation, Earlier, NotOnce},
    identity::{Operator, Role},
    ids::{KeyId, UserId},
    quota::API_KEYS_MAX,
    storage::ApiKey,
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
    /// The key. The host keeps its digest only, and shows it again to nobody but a repetition of this request with its
    /// `Idempotency-Key`.
    api_key: String,
}

/// Make a key for a user.
///
/// A user exists from their first key on. Each operator has a name too, and uploads take turns by it. With an
/// `Idempotency-Key` the key is made once, as for runs, and sent again the request has the same answer, with the same
/// `api_key` and `Idempotent-Replayed: true`.
#[utoipa::path(
    post, path = "/v1/keys", operation_id = "create_key", tag = "keys", security(("api_key" = [])),
    params(("Idempotency-Key" = Option<String>, Header,
        description = "1 to 255 visible ASCII characters, which may stand in quotes: a new random one for each new request")),
    request_body = KeyRequest,
    responses(
        (status = 201, description = "The key", body = NewKey,
            headers(("Idempotent-Replayed" = Option<String>, description = "`true`: an earlier request made this key"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    OperatorKey(operator): OperatorKey,
    key: Key,
    JsonBody { value: asked, held }: JsonBody<KeyRequest>,
) -> Result<Response, Problem> {
    let user = asked.user.parse::<UserId>().map_err(|error| Problem::invalid_id(&error, "user"))?;
    let role = match asked.role {
        KeyRole::User => Role::User,
        KeyRole::Operator => Role::Operator,
    };
    let answer = |id, secret: &Secret| {
        let key = NewKey { id, user: user.clone(), role: asked.role, api_key: secret.reveal().to_owned() };
        (StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(key)).into_response()
    };
    let storage = api.runtime.storage();
    let once = key.get().zip(key.once(&held.bytes));
    drop(held);
    let Some((key, once)) = once else {
        room_for_one_more(&api, operator).await?;
        let secret = Secret::generate().map_err(|error| no_random(&error))?;
        let id = keep_key(&**storage, operator, &secret, user.clone(), role).await?;
        return Ok(answer(id, &secret));
    };
    // The records of an operator's requests are the operator's own, as those of a user's are the user's.
    let callers = operator.on_behalf_of(caller.user());
    let derive = |id: &KeyId| Secret::derive(&api.host_secret, caller.user(), key, &once.body, id);
    let replay = async |earlier: Earlier| {
        if earlier.body != once.body {
            return Err(NotOnce::Reused.into());
        }
        let id = earlier.id.parse::<KeyId>().map_err(|_| Problem::host_error())?;
        let secret = derive(&id);
        // It has to be the one that was made then: the host may have another secret, or the key be taken back.
        match storage.authenticate(secret.digest()).await? {
            Some(identity) if *identity.key() == id => Ok(idempotency::replayed(answer(id, &secret))),
            _ => Err(NotOnce::Gone.into()),
        }
    };
    if let Some(earlier) = storage.earlier(&callers, Creating::ApiKey, once.key).await? {
        return replay(earlier).await;
    }
    let _taking = api.making_keys.enter(caller.user(), Creating::ApiKey, &once)?;
    room_for_one_more(&api, operator).await?;
    let id = KeyId::generate();
    let secret = derive(&id);
    let made = ApiKey {
        id: id.clone(),
        user: user.clone(),
        role,
        secret_digest: secret.digest(),
        created_at: cofferdam_core::clock::now(),
    };
    match storage.insert_key(operator, &made, Some((&callers, &once))).await? {
        Creation::Made => Ok(answer(id, &secret)),
        Creation::Stands(earlier) => replay(earlier).await,
        Creation::Full(until) => Err(NotOnce::Full { max: once.user_keys_max, until }.into()),
    }
}

/// Requests side by side may get a few over the limit, which guards the disk, not a door.
async fn room_for_one_more(api: &Api, operator: Operator) -> Result<(), Problem> {
    if api.runtime.storage().keys_count(operator).await? < API_KEYS_MAX {
        return Ok(());
    }
    Err(Problem::new(Fault::Exhausted, "too_many_keys", format!("this host keeps {API_KEYS_MAX} keys already")))
}

fn no_random(error: &getrandom::Error) -> Problem {
    tracing::error!(%error, "the operating system gave no random numbers");
    Problem::host_error()
}
