//! The REST surface under `/v1`: routes, and the parts that all resources share.

use super::{Api, live, problem::Problem};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use cofferdam_core::{
    fault::Fault,
    identity::{Identity, Role, Scope},
    ids::{PluginName, UserId},
};
use std::sync::Arc;

pub mod events;
pub mod feed;
pub mod files;
pub mod grants;
pub mod input;
pub mod journal;
pub mod keys;
pub mod plugins;
pub mod quotas;
pub mod replay;
pub mod runs;
pub mod usage;

/// Every route that needs a key.
pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/runs", get(runs::list).post(runs::submit))
        .route("/v1/runs/{id}", get(runs::get))
        .route("/v1/runs/{id}/cancel", post(runs::cancel))
        .route("/v1/runs/{id}/events", get(events::get))
        .route("/v1/runs/{id}/input", post(input::post))
        .route("/v1/runs/{id}/journal", get(journal::get))
        .route("/v1/runs/{id}/replay", post(replay::post))
        .route("/v1/events", get(feed::get))
        .route("/v1/events/stats", get(feed::stats))
        .route("/v1/ws-ticket", post(live::ticket))
        .route("/v1/plugins", get(plugins::list))
        .route("/v1/plugins/{name}", get(plugins::get).put(plugins::push))
        .route("/v1/users/{id}/grants/{plugin}", get(grants::get).put(grants::put))
        .route("/v1/users/{id}/quota", get(quotas::get).put(quotas::put))
        .route("/v1/tiers/{name}", get(quotas::get_tier).put(quotas::put_tier))
        .route("/v1/users/{id}/usage", get(usage::get))
        .route("/v1/usage", get(usage::own))
        .route("/v1/keys", post(keys::create))
        .route("/v1/files", get(files::list))
        .route("/v1/files/{*path}", get(files::get).put(files::put).delete(files::remove))
        // Bodies are read by `api::body` only, which has limits for each route; axum's own would come before them.
        .layer(DefaultBodyLimit::disable())
}

/// The right to read what is about a user: an operator's for anyone, a user's for themself. To a user, all others look
/// alike, there or not.
fn scope_about(caller: &Identity, id: &str) -> Result<Scope, Problem> {
    match caller.role() {
        Role::Operator => {
            let user: UserId = id.parse().map_err(|error| Problem::invalid_id(&error, "id"))?;
            Ok(caller.operator()?.on_behalf_of(&user))
        }
        Role::User if caller.user().as_str() == id => Ok(caller.scope()?),
        Role::User => Err(Problem::new(Fault::Absent, "unknown_user", "you can read what is about yourself only")),
    }
}

/// The name of a plugin in a path.
fn plugin_name(text: &str) -> Result<PluginName, Problem> {
    text.parse().map_err(|error| Problem::invalid_id(&error, "name"))
}

/// A user in a path.
fn user_id(text: &str) -> Result<UserId, Problem> {
    text.parse().map_err(|error| Problem::invalid_id(&error, "id"))
}

/// How many entries a page has: what was asked for, within bounds.
fn page_size(asked: Option<u32>, default: u32, max: u32) -> Result<u32, Problem> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=max).contains(&limit) => Ok(limit),
        Some(limit) => {
            Err(Problem::invalid_query(format!("limit is {limit}, but must be from 1 to {max}")).field("limit"))
        }
    }
}
