//! Files of the caller's own workspace: how a client brings data to its agents and fetches their reports.

use crate::{
    api::{
        Api, Params, Segments, body,
        problem::{Problem, ProblemBody},
    },
    auth::Me,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use cofferdam_runtime::{Chunk, FileError, Listing, Workspace};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// The largest file that can be put in one request, in bytes.
const FILE_PUT_BYTES_MAX: usize = 64 << 20;
/// How much of a file is read at once; a slow reader holds no more than this.
const FILE_CHUNK_BYTES: u64 = 256 << 10;

/// What to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FilesQuery {
    /// The directory; the workspace itself if not said.
    #[serde(default)]
    path: String,
}

/// What is in a directory.
#[derive(ToSchema)]
#[schema(as = Listing)]
#[allow(dead_code, reason = "the schema of Listing")]
pub(crate) struct ListingBody {
    /// By name.
    entries: Vec<FileEntry>,
    /// There is more than is shown.
    truncated: bool,
}

/// A file or directory.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the schema of Entry")]
pub(crate) struct FileEntry {
    /// Its name within the directory.
    name: String,
    /// What it is.
    kind: FileKind,
    /// Its size.
    bytes: u64,
}

/// What an entry is.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "the schema of EntryKind")]
pub(crate) enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// A file that was put.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FilePut {
    /// Where.
    path: String,
    /// Its size now.
    bytes: u64,
}

/// List a directory of your workspace.
#[utoipa::path(
    get, path = "/v1/files", operation_id = "list_files", tag = "files", security(("api_key" = [])), params(FilesQuery),
    responses(
        (status = 200, description = "What is in it", body = ListingBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Params(query): Params<FilesQuery>,
) -> Result<Json<Listing>, Problem> {
    Ok(Json(api.runtime.workspace(&scope).list(&query.path).await?))
}

/// Read a file of your workspace.
#[utoipa::path(
    get, path = "/v1/files/{path}", operation_id = "get_file", tag = "files", security(("api_key" = [])),
    params(("path" = String, Path, description = "The file; slashes are part of it")),
    responses(
        (status = 200, description = "Its bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Segments(path): Segments<String>,
) -> Result<Response, Problem> {
    let workspace = api.runtime.workspace(&scope);
    let first = workspace.read(&path, 0, FILE_CHUNK_BYTES).await?;
    let mut response = match first.next_offset {
        None => first.bytes.into_response(),
        Some(_) => Body::from_stream(chunks(workspace, path, first)).into_response(),
    };
    let headers = response.headers_mut();
    // Guests write these files: a browser must neither guess what they are nor open them as a page of this host.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

/// The rest of a file after its first chunk. The length is not told beforehand, because an agent may change the file
/// meanwhile; a file that can no longer be read breaks the connection off.
fn chunks(workspace: Workspace, path: String, first: Chunk) -> impl stream::Stream<Item = Result<Bytes, FileError>> {
    enum Next {
        Ready(Chunk),
        At(u64),
        End,
    }
    stream::unfold((workspace, path, Next::Ready(first)), |(workspace, path, next)| async move {
        let chunk = match next {
            Next::Ready(chunk) => Ok(chunk),
            Next::At(offset) => workspace.read(&path, offset, FILE_CHUNK_BYTES).await,
            Next::End => return None,
        };
        match chunk {
            Ok(chunk) => {
                let next = chunk.next_offset.map_or(Next::End, Next::At);
                Some((Ok(chunk.bytes.into()), (workspace, path, next)))
            }
            Err(error) => Some((Err(error), (workspace, path, Next::End))),
        }
    })
}

/// Write a file of your workspace, in place of what was there.
#[utoipa::path(
    put, path = "/v1/files/{path}", operation_id = "put_file", tag = "files", security(("api_key" = [])),
    params(("path" = String, Path, description = "The file; slashes are part of it")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "At most 64 MiB"),
    responses(
        (status = 200, description = "It is written", body = FilePut),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn put(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Segments(path): Segments<String>,
    room: body::BodyRoom,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<FilePut>, Problem> {
    let held = body::read(&room, &headers, body, FILE_PUT_BYTES_MAX, "body_too_large").await?;
    let bytes = api.runtime.workspace(&scope).put(&path, held.bytes.clone()).await?;
    Ok(Json(FilePut { path, bytes }))
}

/// Remove a file of your workspace.
#[utoipa::path(
    delete, path = "/v1/files/{path}", operation_id = "remove_file", tag = "files", security(("api_key" = [])),
    params(("path" = String, Path, description = "The file; slashes are part of it")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Me(scope): Me,
    Segments(path): Segments<String>,
) -> Result<StatusCode, Problem> {
    api.runtime.workspace(&scope).remove(&path).await?;
    Ok(StatusCode::NO_CONTENT)
}
