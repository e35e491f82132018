//! Plugins: push, list, read.

use super::{page_size, plugin_name};
use crate::{
    api::{
        Api, Params, Segments, body,
        problem::{Problem, ProblemBody},
    },
    auth::{Caller, OperatorKey},
};
use axum::{
    Json as Answer,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use cofferdam_core::{
    Json,
    grant::Permissions,
    ids::{Digest, PluginName},
    quota::PLUGIN_BYTES_MAX,
    storage::{PluginKind, PluginVersion, ToolDescription},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// How many plugins a page has unless the client says, and at most.
const PLUGINS_PAGE_MAX: u32 = 100;

/// What the plugins of a page say of themselves, in bytes, about. A page ends before the plugin that would be more.
const PLUGINS_PAGE_BYTES_MAX: usize = 1 << 20;

/// A version of a plugin, with what it says of itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Plugin {
    /// The name it was pushed under.
    #[schema(value_type = String)]
    name: PluginName,
    /// What it is: `sha256:` and the digest of its bytes.
    #[schema(value_type = String)]
    digest: Digest,
    /// The author's version.
    version: String,
    /// Its world.
    #[schema(value_type = PluginKindWord)]
    kind: PluginKind,
    /// Its own name for itself.
    title: String,
    /// What it does.
    description: String,
    /// What it asks to be granted.
    #[schema(value_type = PermissionsBody)]
    needs: Permissions,
    /// Whether its runs are durable: a host that is killed goes on with them where they were.
    durable: bool,
    /// JSON Schema of an agent's input; null for a tool plugin.
    #[schema(value_type = Option<Value>, required = true)]
    input_schema: Option<Json>,
    /// JSON Schema of an agent's output; null for a tool plugin.
    #[schema(value_type = Option<Value>, required = true)]
    output_schema: Option<Json>,
    /// A tool plugin's tools.
    #[schema(value_type = Vec<Tool>)]
    tools: Vec<ToolDescription>,
    /// Its size.
    bytes: u64,
    /// When it was pushed last.
    #[schema(value_type = String, format = DateTime)]
    pushed_at: Timestamp,
}

/// The kind of a plugin.
#[derive(ToSchema)]
#[schema(as = PluginKind, rename_all = "snake_case")]
#[allow(dead_code, reason = "the schema of PluginKind")]
pub(crate) enum PluginKindWord {
    /// Of world `agent`.
    Agent,
    /// Of world `tool`.
    Tool,
}

/// A tool that a tool plugin offers.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the schema of ToolDescription")]
pub(crate) struct Tool {
    /// The tool's own name, without the plugin's.
    name: String,
    /// What it does.
    description: String,
    /// JSON Schema of the arguments.
    input_schema: serde_json::Value,
    /// Whether a second call with the same arguments, of which nobody knows whether the first one came to its end, does no
    /// harm.
    idempotent: bool,
}

/// What may be done, or is asked for. What is left out is nothing.
#[derive(ToSchema)]
#[schema(as = Permissions)]
#[allow(dead_code, reason = "the schema of Permissions")]
pub(crate) struct PermissionsBody {
    /// Tools by full name (`file.read`), by family (`file.*`), or all (`*`). At most 64 entries.
    #[schema(required = false)]
    tools: Vec<String>,
    /// The user's key-value data for the plugin.
    #[schema(required = false)]
    state: AccessWord,
    /// The user's files, as the directory `/workspace`. The tools `file.*` are granted as tools.
    #[schema(required = false)]
    workspace: AccessWord,
    /// Agents to start, by name without a version, or all (`*`). At most 64 entries.
    #[schema(required = false)]
    agents: Vec<String>,
    /// Questions to people.
    #[schema(required = false)]
    human: bool,
    /// In a grant: tools, as in `tools`, of which each call waits until a person has allowed it with
    /// `POST /v1/runs/{id}/input`. Left out if there are none.
    #[schema(required = false)]
    approve: Vec<String>,
}

/// How far a permission goes.
#[derive(ToSchema)]
#[schema(as = Access, rename_all = "snake_case")]
#[allow(dead_code, reason = "the schema of Access")]
pub(crate) enum AccessWord {
    /// Nothing.
    None,
    /// Look, but not change.
    Read,
    /// Look and change.
    ReadWrite,
}

impl From<&PluginVersion> for Plugin {
    fn from(plugin: &PluginVersion) -> Self {
        Self {
            name: plugin.name.clone(),
            digest: plugin.digest,
            version: plugin.version.clone(),
            kind: plugin.kind,
            title: plugin.title.clone(),
            description: plugin.description.clone(),
            needs: plugin.needs.clone(),
            durable: plugin.durable,
            input_schema: plugin.input_schema.clone(),
            output_schema: plugin.output_schema.clone(),
            tools: plugin.tools.clone(),
            bytes: plugin.bytes,
            pushed_at: plugin.pushed_at,
        }
    }
}

/// Push a version of a plugin.
///
/// The body is the component. It is compiled and asked what it is before the answer, which is 201 for a version that
/// was not there, and 200 for one that was and is now the newest again.
#[utoipa::path(
    put, path = "/v1/plugins/{name}", operation_id = "push_plugin", tag = "plugins", security(("api_key" = [])),
    params(("name" = String, Path, description = "The plugin's name: 1 to 64 characters of a-z, 0-9 and '-'")),
    request_body(content = Vec<u8>, content_type = "application/wasm", description = "At most 64 MiB"),
    responses(
        (status = 200, description = "This version was there", body = Plugin),
        (status = 201, description = "A new version", body = Plugin,
            headers(("Location" = String, description = "Where the plugin is read"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn push(
    State(api): State<Arc<Api>>,
    OperatorKey(operator): OperatorKey,
    Caller(identity): Caller,
    Segments(name): Segments<String>,
    room: body::BodyRoom,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let name = plugin_name(&name)?;
    body::require_media_type(&headers, "application/wasm")?;
    let held = body::read(&room, &headers, body, PLUGIN_BYTES_MAX, "too_large").await?;
    let pushed = api.runtime.registry().push(operator, identity.user(), name, held.bytes.clone()).await?;
    let status = if pushed.new { StatusCode::CREATED } else { StatusCode::OK };
    let location = HeaderValue::from_str(&format!("/v1/plugins/{}", pushed.plugin.name));
    let mut response = (status, Answer(Plugin::from(&pushed.plugin))).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Which plugins to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PluginsQuery {
    /// How many at most: 1 to 100, 100 if not said. A page has fewer where they say more than 1 MiB of themselves.
    limit: Option<u32>,
    /// Where the last page ended: its `next_after`.
    after: Option<String>,
}

/// Plugins, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PluginPage {
    /// The newest version of each.
    plugins: Vec<Plugin>,
    /// What to give as `after` for the next page; null on the last one.
    #[schema(value_type = Option<String>, required = true)]
    next_after: Option<PluginName>,
}

/// List the plugins by name, the newest version of each.
#[utoipa::path(
    get, path = "/v1/plugins", operation_id = "list_plugins", tag = "plugins", security(("api_key" = [])), params(PluginsQuery),
    responses(
        (status = 200, description = "A page of plugins", body = PluginPage),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    _: Caller,
    Params(query): Params<PluginsQuery>,
) -> Result<Answer<PluginPage>, Problem> {
    let limit = page_size(query.limit, PLUGINS_PAGE_MAX, PLUGINS_PAGE_MAX)? as usize;
    let after = query.after.map(|text| text.parse::<PluginName>()).transpose();
    let after = after.map_err(|_| Problem::invalid_cursor("after", "the next_after of a page"))?;
    let (plugins, more) = api.runtime.registry().page(after.as_ref(), limit, PLUGINS_PAGE_BYTES_MAX);
    let next_after = plugins.last().filter(|_| more).map(|plugin| plugin.name.clone());
    Ok(Answer(PluginPage { plugins: plugins.iter().map(|plugin| Plugin::from(&**plugin)).collect(), next_after }))
}

/// A plugin with its versions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PluginVersions {
    /// The name it was pushed under.
    #[schema(value_type = String)]
    name: PluginName,
    /// What the name alone means.
    latest: Plugin,
    /// All of them, the one pushed last at the end.
    versions: Vec<VersionEntry>,
}

/// A version of a plugin, in short.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionEntry {
    /// The author's version.
    version: String,
    /// What it is.
    #[schema(value_type = String)]
    digest: Digest,
    /// Its size.
    bytes: u64,
    /// When it was pushed last.
    #[schema(value_type = String, format = DateTime)]
    pushed_at: Timestamp,
}

/// Read a plugin.
#[utoipa::path(
    get, path = "/v1/plugins/{name}", operation_id = "get_plugin", tag = "plugins", security(("api_key" = [])),
    params(("name" = String, Path, description = "The plugin")),
    responses(
        (status = 200, description = "The plugin", body = PluginVersions),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    _: Caller,
    Segments(name): Segments<String>,
) -> Result<Answer<PluginVersions>, Problem> {
    let name = plugin_name(&name)?;
    let (versions, latest) = known_plugin(&api, &name)?;
    let versions = versions.iter().map(|plugin| VersionEntry {
        version: plugin.version.clone(),
        digest: plugin.digest,
        bytes: plugin.bytes,
        pushed_at: plugin.pushed_at,
    });
    Ok(Answer(PluginVersions { name, versions: versions.collect(), latest: Plugin::from(&*latest) }))
}

/// A plugin's versions, and the newest of them.
pub(super) type Known = (Vec<Arc<PluginVersion>>, Arc<PluginVersion>);

/// All versions of a plugin with the newest once more, or the problem that there are none.
pub(super) fn known_plugin(api: &Api, name: &PluginName) -> Result<Known, Problem> {
    let versions = api.runtime.registry().versions(name);
    match versions.last().cloned() {
        Some(latest) => Ok((versions, latest)),
        None => {
            let nearest = api.runtime.registry().nearest(name.as_str());
            Err(Problem::no_such_plugin(name, nearest.as_ref()))
        }
    }
}
