//! The wire: HTTP requests in, JSON and problem documents out. Wire types stop here.

use crate::{
    auth::{self, Authentication, HostSecret, Tickets},
    config::SocketTimes,
    storage::Commits,
    watch::Watch,
};
use axum::{
    Router,
    extract::{FromRequestParts, Path, Query, Request, State, rejection::PathRejection},
    http::{HeaderName, HeaderValue, StatusCode, Uri, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use body::BodyRoom;
use cofferdam_core::{
    emitter::{Emitters, Stats},
    fault::Fault,
    idempotency::InFlight,
    identity::Operator,
    ids::RequestId,
};
use cofferdam_runtime::Runtime;
use problem::Problem;
use serde::de::DeserializeOwned;
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

mod body;
mod cursor;
mod exposition;
mod health;
mod idempotency;
mod live;
mod measures;
mod metrics;
mod openapi;
pub mod problem;
pub mod rest;
mod share;

pub(crate) use body::parse_object;
pub use openapi::document as openapi_document;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the routes need.
pub(crate) struct Api {
    pub runtime: Runtime,
    pub authentication: Authentication,
    pub room: BodyRoom,
    pub shares: share::Shares,
    /// Of it are made the keys whose creation can be answered again.
    pub host_secret: HostSecret,
    /// Keys that are being made by requests that come once.
    pub making_keys: InFlight,
    pub tickets: Tickets,
    pub emitters: Arc<Emitters>,
    pub socket_times: SocketTimes,
    /// Cancelled when requests that wait have to come to their end.
    pub closing: CancellationToken,
    /// Requests that ended in a panic of the host. Must stay 0.
    pub panics: Arc<AtomicU64>,
    pub measures: measures::Measures,
    pub watch: Watch,
    /// What the database has committed, if it is ours.
    pub commits: Option<Arc<Commits>>,
}

impl Api {
    pub fn new(
        runtime: Runtime,
        host_secret: HostSecret,
        closing: CancellationToken,
        socket_times: SocketTimes,
        commits: Option<Arc<Commits>>,
    ) -> Self {
        Self {
            authentication: Authentication::new(runtime.storage().clone()),
            shares: share::Shares::new(runtime.askers().clone()),
            runtime,
            room: BodyRoom::default(),
            host_secret,
            making_keys: InFlight::default(),
            tickets: Tickets::default(),
            emitters: Arc::default(),
            socket_times,
            closing,
            panics: Arc::default(),
            measures: measures::Measures::default(),
            watch: Watch::default(),
            commits,
        }
    }
}

/// Everything that clients reach.
pub(crate) fn public(api: Arc<Api>) -> Router {
    let routes = rest::routes()
        // Only on routes that exist: what does not exist needs no key to be told so.
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::authenticate))
        .merge(live::routes().route_layer(middleware::from_fn_with_state(api.clone(), auth::authenticate_socket)))
        .route("/v1/health", get(health::get))
        .route("/openapi.json", get(openapi::serve));
    let measure = middleware::from_fn_with_state(api.clone(), measures::measure);
    hardened(routes, &api.panics).layer(measure).with_state(api)
}

/// What the platform asks about the host itself, on a listener of its own.
pub(crate) fn admin(api: Arc<Api>) -> Router {
    let routes = Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics::serve))
        .route("/streams", get(streams));
    hardened(routes, &api.panics).with_state(api)
}

async fn readiness(State(api): State<Arc<Api>>) -> (StatusCode, &'static str) {
    if api.runtime.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// How the sockets of all users are doing, without a word about any one of them.
async fn streams(State(api): State<Arc<Api>>) -> axum::Json<Stats> {
    axum::Json(api.emitters.stats(Operator::host()))
}

/// What holds for every route: a request id, and a problem document for whatever goes wrong.
fn hardened(routes: Router<Arc<Api>>, panics: &Arc<AtomicU64>) -> Router<Arc<Api>> {
    let panics = panics.clone();
    let caught = move |panic: Box<dyn Any + Send>| {
        panics.fetch_add(1, Ordering::Relaxed);
        let message =
            panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(panic = message.unwrap_or("without a message"), "a request panicked");
        Problem::host_error().into_response()
    };
    routes
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(caught))
        .layer(middleware::from_fn(name_request))
}

async fn no_such_route(uri: Uri) -> Problem {
    Problem::new(Fault::Absent, "unknown_route", format!("there is nothing at {}", uri.path()))
        .hint("GET /openapi.json lists every path")
}

async fn method_not_allowed(uri: Uri) -> Problem {
    let detail = format!("{} does not take this method", uri.path());
    Problem::http(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        .hint("the Allow header of this answer says which it takes")
}

/// Gives the request its id: the client's own, if it is one, else a new one.
async fn name_request(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&X_REQUEST_ID).and_then(|value| value.to_str().ok()?.parse::<RequestId>().ok());
    let id = given.unwrap_or_else(RequestId::generate);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

/// The request's id.
pub(crate) struct ThisRequest(pub RequestId);

impl<S: Sync> FromRequestParts<S> for ThisRequest {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get().cloned().unwrap_or_else(RequestId::generate)))
    }
}

/// The variable segments of a path.
pub(crate) struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Self(segments)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(Problem::http(StatusCode::BAD_REQUEST, "invalid_path", error.body_text()))
            }
            Err(_) => Err(Problem::host_error()),
        }
    }
}

/// The parameters of a query.
pub(crate) struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(Problem::invalid_query(error.body_text())),
        }
    }
}
