//! The description of the API (OpenAPI 3.1), made from the code of its routes.

use super::{
    health, live,
    rest::{events, feed, files, grants, input, journal, keys, plugins, quotas, replay, runs, usage},
};
use axum::{http::header, response::IntoResponse};
use bytes::Bytes;
use std::sync::LazyLock;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Cofferdam",
        description = "Runs untrusted agents for many users, each in a sandbox of its own. Every request carries a \
                       bearer API key and belongs to that key's user; errors are problem documents (RFC 9457) with a \
                       stable `code`. Every answer has an `X-Request-Id`. Calls that create something (`POST /v1/runs`, \
                       `POST /v1/keys`) take an `Idempotency-Key`; PUT and DELETE are idempotent by nature: sent again, \
                       they leave what they left the first time.",
    ),
    paths(
        runs::submit, runs::list, runs::get, runs::cancel, events::get, input::post, journal::get, replay::post,
        feed::get, feed::stats, live::open, live::ticket,
        plugins::push, plugins::list, plugins::get,
        grants::get, grants::put,
        quotas::get, quotas::put, quotas::get_tier, quotas::put_tier,
        keys::create,
        usage::own, usage::get, health::get,
        files::list, files::get, files::put, files::remove,
    ),
    components(schemas(events::EventBody, quotas::QuotaBody)),
    modifiers(&BearerKey),
    tags(
        (name = "runs", description = "Executions of agents"),
        (name = "events", description = "All of your runs: their events, live"),
        (name = "plugins", description = "Agents and tool plugins"),
        (name = "grants", description = "What a plugin may do for a user"),
        (name = "quotas", description = "What users and tiers may take"),
        (name = "keys", description = "API keys"),
        (name = "health", description = "How the host is doing"),
        (name = "usage", description = "What a user has, and has taken"),
        (name = "files", description = "The user's workspace"),
    ),
)]
struct Document;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("api_key", scheme);
    }
}

/// The whole description.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The description as it is sent: made once, because anybody may ask for it.
static SENT: LazyLock<Bytes> = LazyLock::new(|| document().to_json().unwrap_or_default().into());

pub(super) async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], SENT.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openapi_document_is_the_committed_one() {
        let mut text = document().to_pretty_json().expect("serializes");
        text.push('\n');
        expect_test::expect_file!["../../openapi.json"].assert_eq(&text);
    }

    #[test]
    fn the_openapi_document_says_3_1_and_has_no_dangling_reference() {
        let document = serde_json::to_value(document()).expect("serializes");
        assert!(
            document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")),
            "{}",
            document["openapi"]
        );
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().expect("a pointer");
            assert!(document.pointer(pointer).is_some(), "{pointer} is not there");
        }
    }
}
