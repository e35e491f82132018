//! Watches the host against its thresholds over a sliding window, and says in the log when one is crossed.

use crate::api::Api;
use cofferdam_core::{latency::LatencyCounts, run::StopReason};
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How many looks the window has: a minute.
const LOOKS_KEPT: usize = 12;

/// How a figure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AlertState {
    /// Under both marks.
    Ok,
    /// Over the first.
    Warn,
    /// Over the second.
    Alert,
}

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    ResponseTime,
    EventLatency,
    ErrorRate,
    Memory,
}

impl Watched {
    const ALL: [Self; 4] = [Self::ResponseTime, Self::EventLatency, Self::ErrorRate, Self::Memory];

    const fn name(self) -> &'static str {
        match self {
            Self::ResponseTime => "response_time_p99_ms",
            Self::EventLatency => "event_latency_p99_ms",
            Self::ErrorRate => "error_rate_percent",
            Self::Memory => "guest_memory_percent",
        }
    }

    /// The two marks. Over the first is a warning, over the second an alert.
    const fn marks(self) -> (f64, f64) {
        match self {
            Self::ResponseTime => (1_500.0, 2_000.0),
            Self::EventLatency => (25.0, 50.0),
            Self::ErrorRate => (0.05, 0.1),
            Self::Memory => (80.0, 95.0),
        }
    }
}

/// A figure with its marks.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct Alert {
    /// What it is.
    name: &'static str,
    /// The figure over the last minute; none if nothing happened in it. Of times, the bound under which 99 of 100 stay.
    value: Option<f64>,
    /// Over this, a warning.
    warn: f64,
    /// Over this, an alert.
    alert: f64,
    /// How it stands.
    pub state: AlertState,
}

/// What had been counted at a look.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    responses: LatencyCounts,
    events: LatencyCounts,
    ends: u64,
    errors: u64,
}

impl Look {
    fn at(api: &Api) -> Self {
        let mut look = Self { events: api.runtime.journal().event_latency(), ..Self::default() };
        for (_, counts) in api.measures.latencies().filter(|(class, _)| class.answers_at_once()) {
            look.responses = look.responses.with(&counts);
        }
        for (_, status, count) in api.measures.answers() {
            look.ends += count;
            look.errors += if status == "5xx" { count } else { 0 };
        }
        for (reason, count) in api.runtime.counts().runs_ended() {
            look.ends += count;
            look.errors += if reason == StopReason::HostError { count } else { 0 };
        }
        look
    }
}

/// The looks of the last minute, and how the figures stood at the last one.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    looks: VecDeque<Look>,
    states: [Option<AlertState>; Watched::ALL.len()],
}

impl Watch {
    /// How all figures stand now.
    pub fn alerts(&self, api: &Api) -> Vec<Alert> {
        let now = Look::at(api);
        let then = self.0.lock().unwrap_or_else(PoisonError::into_inner).looks.front().copied().unwrap_or_default();
        let memory = percent(api.runtime.memory_bytes(), api.runtime.memory_bytes_max());
        alerts(&now, &then, memory)
    }

    /// Looks once more, and says in the log what stands otherwise than at the last look.
    fn look(&self, api: &Api) {
        let alerts = self.alerts(api);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.looks.len() >= LOOKS_KEPT {
            kept.looks.pop_front();
        }
        kept.looks.push_back(Look::at(api));
        for (before, alert) in kept.states.iter_mut().zip(&alerts) {
            let was = before.replace(alert.state).unwrap_or(AlertState::Ok);
            if was == alert.state {
                continue;
            }
            let Alert { name, value, warn, alert: mark, state } = alert;
            match state {
                AlertState::Ok => tracing::info!(name, value, warn, "a figure of the host is under its marks again"),
                AlertState::Warn => tracing::warn!(name, value, warn, "a figure of the host is over its first mark"),
                AlertState::Alert => tracing::error!(name, value, mark, "a figure of the host is over its second mark"),
            }
        }
    }
}

/// Looks at the host until it closes.
pub(crate) async fn watch(api: Arc<Api>, closing: CancellationToken) {
    loop {
        api.watch.look(&api);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = closing.cancelled() => return,
        }
    }
}

fn alerts(now: &Look, then: &Look, memory: f64) -> Vec<Alert> {
    let p99_ms = |now: &LatencyCounts, then: &LatencyCounts| now.since(then).p99_us().map(millis);
    let ends = now.ends.saturating_sub(then.ends);
    let all = Watched::ALL.into_iter().map(|watched| {
        let value = match watched {
            Watched::ResponseTime => p99_ms(&now.responses, &then.responses),
            Watched::EventLatency => p99_ms(&now.events, &then.events),
            Watched::ErrorRate => (ends > 0).then(|| percent(now.errors.saturating_sub(then.errors), ends)),
            Watched::Memory => Some(memory),
        };
        let (warn, alert) = watched.marks();
        let state = match value {
            Some(value) if value > alert => AlertState::Alert,
            Some(value) if value > warn => AlertState::Warn,
            _ => AlertState::Ok,
        };
        Alert { name: watched.name(), value, warn, alert, state }
    });
    all.collect()
}

/// Beyond all bounds is told as a day, which is over every mark.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn millis(us: u64) -> f64 {
    us.min(86_400_000_000) as f64 / 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn percent(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 * 100.0 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_core::latency::Latencies;

    fn states(now: &Look, memory: f64) -> Vec<AlertState> {
        alerts(now, &Look::default(), memory).iter().map(|alert| alert.state).collect()
    }

    fn took(ms: u64) -> LatencyCounts {
        let latencies = Latencies::default();
        latencies.took(Duration::from_millis(ms));
        latencies.counts()
    }

    #[test]
    fn figures_stand_by_their_marks() {
        use AlertState::{Alert, Ok, Warn};
        assert_eq!(states(&Look::default(), 0.0), [Ok; 4], "nothing has happened");
        for (ms, state) in [(1_500, Ok), (1_501, Warn), (2_000, Warn), (2_001, Alert), (3_600_000, Alert)] {
            assert_eq!(states(&Look { responses: took(ms), ..Look::default() }, 0.0), [state, Ok, Ok, Ok], "{ms}");
        }
        for (ms, state) in [(25, Ok), (26, Warn), (50, Warn), (51, Alert)] {
            assert_eq!(states(&Look { events: took(ms), ..Look::default() }, 0.0), [Ok, state, Ok, Ok], "{ms}");
        }
        for (errors, state) in [(0, Ok), (5, Ok), (6, Warn), (10, Warn), (11, Alert)] {
            assert_eq!(states(&Look { ends: 10_000, errors, ..Look::default() }, 0.0), [Ok, Ok, state, Ok], "{errors}");
        }
        for (memory, state) in [(80.0, Ok), (80.1, Warn), (95.0, Warn), (95.1, Alert)] {
            assert_eq!(states(&Look::default(), memory), [Ok, Ok, Ok, state], "{memory}");
        }
    }

    #[test]
    fn what_was_before_the_window_counts_no_more() {
        let bad = Look { responses: took(9_000), events: took(9_000), ends: 1, errors: 1 };
        assert!(alerts(&bad, &bad, 0.0).iter().all(|alert| alert.state == AlertState::Ok));
    }
}
