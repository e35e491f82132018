//! Quotas: what users and tiers may take.

use super::{scope_about, user_id};
use crate::{
    api::{
        Api, Segments,
        body::{JsonBody, JsonRequest},
        problem::{Problem, ProblemBody},
    },
    auth::{Caller, OperatorKey},
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use cofferdam_core::{
    fault::Fault,
    ids::{Digest, TierName, UserId},
    quota::{Document, Quota, QuotaEdit, UserQuota},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// A document of limits, as it was sent.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Limits(Document);

impl JsonRequest for Limits {}

/// Limits by their names, each with its unit. What is absent is what the level above has.
#[derive(Debug)]
pub(crate) struct QuotaBody;

fn rows(mut object: ObjectBuilder) -> ObjectBuilder {
    for row in Quota::ROWS {
        let unit = if row.unit.is_empty() { String::new() } else { format!(", in {}", row.unit) };
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some(format!("{}{unit}; {} if nobody says otherwise", row.what, row.default)))
            .minimum(Some(row.floor))
            .maximum(Some(row.ceiling));
        object = object.property(row.name, number);
    }
    object
}

impl PartialSchema for QuotaBody {
    fn schema() -> RefOr<Schema> {
        rows(ObjectBuilder::new())
            .description(Some("Limits by their names; what is absent is what the level above has"))
            .into()
    }
}

impl ToSchema for QuotaBody {}

/// What is set for a user, and what comes of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UserQuotaBody {
    /// The user.
    #[schema(value_type = String)]
    user: UserId,
    /// What is set: the user's tier (`default` if absent), and limits that are less than the tier's. Send these, changed.
    #[serde(flatten)]
    #[schema(value_type = QuotaBody)]
    set: UserQuota,
    /// What the user may take: the least of what the host, the tier and this document say. Ignored when it is sent.
    #[schema(value_type = QuotaBody)]
    effective: Quota,
}

/// What is set for a tier, and what comes of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TierBody {
    /// The tier.
    #[schema(value_type = String)]
    name: TierName,
    /// What is set. Send these, changed; what is absent is the host's default.
    #[serde(flatten)]
    #[schema(value_type = QuotaBody)]
    set: QuotaEdit,
    /// What the tier's users may take, but for what is set for each of them. Ignored when it is sent.
    #[schema(value_type = QuotaBody)]
    effective: Quota,
}

/// The version of a document: changes whenever anything in it does.
fn tag(document: &impl Serialize) -> String {
    let text = serde_json::to_vec(document).unwrap_or_default();
    let digest = Digest::of(&text).to_string();
    let short: String = digest.trim_start_matches("sha256:").chars().take(32).collect();
    format!("\"{short}\"")
}

fn answer(document: &impl Serialize) -> Response {
    let mut response = Json(document).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(document)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Whether the client has seen what stands: `If-Match` names it, or is not there. What cannot be read does not match.
fn has_seen(headers: &HeaderMap, standing: Option<&impl Serialize>) -> bool {
    let mut asked = headers.get_all(header::IF_MATCH).iter().peekable();
    if asked.peek().is_none() {
        return true;
    }
    let Some(standing) = standing else { return false };
    let tag = tag(standing);
    let tags = asked.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    tags.map(str::trim).any(|asked| asked == "*" || asked == tag)
}

fn tier_name(text: &str) -> Result<TierName, Problem> {
    text.parse().map_err(|error| Problem::invalid_id(&error, "name"))
}

/// Read a user's quota: what is set for them, and what comes of it.
///
/// For operators, and for the user themself.
#[utoipa::path(
    get, path = "/v1/users/{id}/quota", operation_id = "get_quota", tag = "quotas", security(("api_key" = [])),
    params(("id" = String, Path, description = "The user")),
    responses(
        (status = 200, description = "The quota", body = UserQuotaBody, headers(("ETag" = String, description = "Its version, for If-Match"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Segments(id): Segments<String>,
) -> Result<Response, Problem> {
    let user = scope_about(&caller, &id)?.user().clone();
    let (set, effective) = api.runtime.user_quota(&user);
    Ok(answer(&UserQuotaBody { user, set, effective }))
}

/// Set a user's quota, in place of what was set before.
///
/// Each limit can be as much as the user's tier has, or less. It counts for the user's next run, and reaches those that
/// execute at their next call to the host, or as a stop.
#[utoipa::path(
    put, path = "/v1/users/{id}/quota", operation_id = "put_quota", tag = "quotas", security(("api_key" = [])),
    params(
        ("id" = String, Path, description = "The user"),
        ("If-Match" = Option<String>, Header, description = "The version that is to be replaced; 412 if another one stands"),
    ),
    request_body = UserQuotaBody,
    responses(
        (status = 200, description = "The quota is set", body = UserQuotaBody, headers(("ETag" = String, description = "Its version, for If-Match"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn put(
    State(api): State<Arc<Api>>,
    OperatorKey(operator): OperatorKey,
    Segments(id): Segments<String>,
    headers: HeaderMap,
    JsonBody { value: Limits(document), .. }: JsonBody<Limits>,
) -> Result<Response, Problem> {
    let user = user_id(&id)?;
    let body = |(set, effective): (UserQuota, Quota)| UserQuotaBody { user: user.clone(), set, effective };
    let seen = |standing: &(UserQuota, Quota)| has_seen(&headers, Some(&body(standing.clone())));
    let standing = api.runtime.put_user_quota(operator, &user, document, seen).await?;
    Ok(answer(&body(standing)))
}

/// Read a tier: what is set for it, and what comes of it.
#[utoipa::path(
    get, path = "/v1/tiers/{name}", operation_id = "get_tier", tag = "quotas", security(("api_key" = [])),
    params(("name" = String, Path, description = "The tier; `default` is that of users who are in no other")),
    responses(
        (status = 200, description = "The tier", body = TierBody, headers(("ETag" = String, description = "Its version, for If-Match"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_tier(
    State(api): State<Arc<Api>>,
    OperatorKey(_): OperatorKey,
    Segments(name): Segments<String>,
) -> Result<Response, Problem> {
    let name = tier_name(&name)?;
    let Some((set, effective)) = api.runtime.quotas().of_tier(&name) else {
        let known = api.runtime.quotas().tiers().join(", ");
        return Err(Problem::new(Fault::Absent, "unknown_tier", format!("there is no tier {:?}", name.as_str()))
            .hint(format!("the tiers are {known}; PUT /v1/tiers/{{name}} makes another")));
    };
    Ok(answer(&TierBody { name, set, effective }))
}

/// Set a tier, in place of what was set before. It is there from then on.
///
/// A user has what their tier has, and less where that is set for the user. It counts for its users' next runs, and
/// reaches those that execute at their next call to the host, or as a stop.
#[utoipa::path(
    put, path = "/v1/tiers/{name}", operation_id = "put_tier", tag = "quotas", security(("api_key" = [])),
    params(
        ("name" = String, Path, description = "The tier"),
        ("If-Match" = Option<String>, Header, description = "The version that is to be replaced; 412 if another one stands, or none"),
    ),
    request_body = QuotaBody,
    responses(
        (status = 200, description = "The tier is set", body = TierBody, headers(("ETag" = String, description = "Its version, for If-Match"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn put_tier(
    State(api): State<Arc<Api>>,
    OperatorKey(operator): OperatorKey,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    JsonBody { value: Limits(document), .. }: JsonBody<Limits>,
) -> Result<Response, Problem> {
    let name = tier_name(&name)?;
    let body = |(set, effective): (QuotaEdit, Quota)| TierBody { name: name.clone(), set, effective };
    let seen = |standing: Option<&(QuotaEdit, Quota)>| has_seen(&headers, standing.cloned().map(body).as_ref());
    let standing = api.runtime.put_tier(operator, &name, document, seen).await?;
    Ok(answer(&body(standing)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_that_stands_matches() {
        let standing = serde_json::json!({"a": 1});
        let matches = |given: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(given) = given {
                headers.insert(header::IF_MATCH, given.parse().expect("a header"));
            }
            (has_seen(&headers, Some(&standing)), has_seen(&headers, None::<&serde_json::Value>))
        };
        let tag = tag(&standing);
        assert_eq!(matches(None), (true, true));
        assert_eq!(matches(Some("*")), (true, false));
        assert_eq!(matches(Some(&tag)), (true, false));
        assert_eq!(matches(Some(&format!("\"other\", {tag}"))), (true, false));
        for other in ["\"other\"", "", &format!("W/{tag}"), tag.trim_matches('"')] {
            assert_eq!(matches(Some(other)), (false, false), "{other}");
        }
    }
}
