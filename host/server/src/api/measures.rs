//! What the wire has counted since the start: answers by class of route and of status, and refusals by code.

use super::{Api, problem::ProblemCode};
use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use cofferdam_core::latency::{Latencies, LatencyCounts};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// The classes of statuses.
pub(crate) const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The classes of routes: what a client can write into a path is in none of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteClass {
    Runs,
    /// A run that is waited for: as long as it takes.
    RunsWaited,
    Events,
    Plugins,
    /// As long as compiling takes.
    PluginsPushed,
    Users,
    Keys,
    Files,
    /// As long as the client takes to send the file.
    FilesPut,
    Sockets,
    Health,
    Other,
}

impl RouteClass {
    pub const ALL: [Self; 12] = [
        Self::Runs,
        Self::RunsWaited,
        Self::Events,
        Self::Plugins,
        Self::PluginsPushed,
        Self::Users,
        Self::Keys,
        Self::Files,
        Self::FilesPut,
        Self::Sockets,
        Self::Health,
        Self::Other,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::RunsWaited => "runs_waited",
            Self::Events => "events",
            Self::Plugins => "plugins",
            Self::PluginsPushed => "plugins_pushed",
            Self::Users => "users",
            Self::Keys => "keys",
            Self::Files => "files",
            Self::FilesPut => "files_put",
            Self::Sockets => "sockets",
            Self::Health => "health",
            Self::Other => "other",
        }
    }

    /// Whether how long an answer takes says something about the host, and not about what was asked for.
    pub const fn answers_at_once(self) -> bool {
        !matches!(self, Self::RunsWaited | Self::PluginsPushed | Self::FilesPut)
    }

    fn of(request: &Request) -> Self {
        let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let put = request.method() == Method::PUT;
        let begins = |with: &str| path.starts_with(with);
        match path {
            "/v1/runs" if request.method() == Method::POST && request.headers().contains_key("prefer") => {
                Self::RunsWaited
            }
            "/v1/runs/{id}/events" => Self::Events,
            _ if begins("/v1/runs") => Self::Runs,
            "/v1/ws" | "/v1/ws-ticket" => Self::Sockets,
            "/v1/health" => Self::Health,
            _ if begins("/v1/events") => Self::Events,
            _ if begins("/v1/plugins") && put => Self::PluginsPushed,
            _ if begins("/v1/plugins") => Self::Plugins,
            _ if begins("/v1/files") && put => Self::FilesPut,
            _ if begins("/v1/files") => Self::Files,
            _ if begins("/v1/users") || begins("/v1/usage") || begins("/v1/tiers") => Self::Users,
            _ if begins("/v1/keys") => Self::Keys,
            _ => Self::Other,
        }
    }
}

/// The counts of one class of routes.
#[derive(Debug, Default)]
struct OfRoute {
    answers: [AtomicU64; STATUS_CLASSES.len()],
    latency: Latencies,
}

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    routes: [OfRoute; RouteClass::ALL.len()],
    /// Codes are words of the code, so there are only so many.
    refusals: Mutex<BTreeMap<&'static str, u64>>,
}

impl Measures {
    fn of(&self, class: RouteClass) -> Option<&OfRoute> {
        self.routes.get(RouteClass::ALL.iter().position(|known| *known == class)?)
    }

    /// Answers, by class of route and status.
    pub fn answers(&self) -> impl Iterator<Item = (RouteClass, &'static str, u64)> {
        RouteClass::ALL.into_iter().zip(&self.routes).flat_map(|(class, route)| {
            let counts = STATUS_CLASSES.into_iter().zip(&route.answers);
            counts.map(move |(status, count)| (class, status, count.load(Ordering::Relaxed)))
        })
    }

    /// How long answers took, from the head of the request to the head of the answer, by class of route.
    pub fn latencies(&self) -> impl Iterator<Item = (RouteClass, LatencyCounts)> {
        RouteClass::ALL.into_iter().zip(self.routes.iter().map(|route| route.latency.counts()))
    }

    /// Refusals, by code.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts an answer.
pub(crate) async fn measure(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let (class, begun) = (RouteClass::of(&request), Instant::now());
    let response = next.run(request).await;
    let status = usize::from(response.status().as_u16() / 100).saturating_sub(1);
    if let Some(route) = api.measures.of(class) {
        route.latency.took(begun.elapsed());
        if let Some(count) = route.answers.get(status) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    if let Some(ProblemCode(code)) = response.extensions().get() {
        *api.measures.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }
    response
}
