//! Where a context stands, as it is seen from outside.

use crate::{admission::Throttle, run::RunStatus};
use serde::Serialize;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Where a run's context stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextStatus {
    /// The run waits to be admitted.
    Initializing,
    /// The run waits for its user's fuel of the next minute.
    Throttled,
    /// It is admitted: slot, memory and fuel are reserved, and its plugin is made ready.
    Active,
    /// Its guest executes.
    Executing,
    /// It has completed, and what it held is being given back.
    Completed,
    /// It has ended otherwise, and what it held is being given back.
    Failed,
    /// It has ended, and nothing of it is left but what was stored.
    Cleaned,
}

impl ContextStatus {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Initializing,
        Self::Throttled,
        Self::Active,
        Self::Executing,
        Self::Completed,
        Self::Failed,
        Self::Cleaned,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Throttled => "throttled",
            Self::Active => "active",
            Self::Executing => "executing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cleaned => "cleaned",
        }
    }
}

/// What is known of a live context from outside.
#[derive(Debug, Clone, Default)]
pub struct ContextState(Arc<State>);

#[derive(Debug, Default)]
struct State {
    throttle: OnceLock<Arc<Throttle>>,
    executing: AtomicBool,
}

impl ContextState {
    /// It waits, and this says for what.
    pub fn waits(&self, throttle: Arc<Throttle>) {
        // It waits once.
        let _ = self.0.throttle.set(throttle);
    }

    /// How long it waited for fuel of its user's minute before it was admitted.
    #[must_use]
    pub fn throttled(&self) -> Duration {
        self.0.throttle.get().map(|throttle| throttle.lasted()).unwrap_or_default()
    }

    /// Its guest begins.
    pub fn executes(&self) {
        self.0.executing.store(true, Ordering::Relaxed);
    }

    /// Where it stands, as its run is.
    #[must_use]
    pub fn status(&self, run: RunStatus) -> ContextStatus {
        let throttled = || self.0.throttle.get().is_some_and(|throttle| throttle.is_on());
        match run {
            RunStatus::Queued if throttled() => ContextStatus::Throttled,
            RunStatus::Queued => ContextStatus::Initializing,
            RunStatus::Succeeded => ContextStatus::Completed,
            RunStatus::Failed | RunStatus::Cancelled => ContextStatus::Failed,
            RunStatus::Waiting => ContextStatus::Active,
            _ if self.0.executing.load(Ordering::Relaxed) => ContextStatus::Executing,
            _ => ContextStatus::Active,
        }
    }
}
