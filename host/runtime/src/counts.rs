//! What a runtime has counted since its start, of all users together: for whoever watches the host, not for accounts.

use crate::compile::CompileError;
use cofferdam_core::{
    latency::Latencies,
    run::{RunEnd, StopReason},
};
use std::sync::atomic::{AtomicU64, Ordering};

/// What came of compiling a component: a closed set.
pub const COMPILE_OUTCOMES: [&str; 5] = ["compiled", "invalid", "limit", "no_room", "failed"];

/// The counts.
#[derive(Debug, Default)]
pub struct Counts {
    runs_accepted: AtomicU64,
    runs_ended: [AtomicU64; StopReason::ALL.len()],
    host_calls: AtomicU64,
    tool_calls: AtomicU64,
    compiles: [AtomicU64; COMPILE_OUTCOMES.len()],
    /// From admission to the end, of runs that were admitted.
    pub run_duration: Latencies,
    /// From acceptance to admission.
    pub queue_wait: Latencies,
}

impl Counts {
    pub(crate) fn accepted(&self) {
        self.runs_accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, end: &RunEnd) {
        let number = StopReason::ALL.iter().position(|reason| *reason == end.stop_reason);
        if let Some(count) = number.and_then(|number| self.runs_ended.get(number)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.host_calls.fetch_add(end.usage.host_calls, Ordering::Relaxed);
        self.tool_calls.fetch_add(end.usage.tool_calls, Ordering::Relaxed);
    }

    pub(crate) fn compiled<T>(&self, result: &Result<T, CompileError>) {
        let outcome = match result {
            Ok(_) => "compiled",
            Err(CompileError::Invalid(_)) => "invalid",
            Err(CompileError::Limit { .. } | CompileError::Crashed(_)) => "limit",
            Err(CompileError::NoRoom { .. } | CompileError::TooMany) => "no_room",
            Err(_) => "failed",
        };
        let number = COMPILE_OUTCOMES.iter().position(|known| *known == outcome);
        if let Some(count) = number.and_then(|number| self.compiles.get(number)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs that were accepted.
    #[must_use]
    pub fn runs_accepted(&self) -> u64 {
        self.runs_accepted.load(Ordering::Relaxed)
    }

    /// Runs that have ended, by why.
    pub fn runs_ended(&self) -> impl Iterator<Item = (StopReason, u64)> {
        StopReason::ALL.into_iter().zip(self.runs_ended.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Calls to the host by runs that have ended.
    #[must_use]
    pub fn host_calls(&self) -> u64 {
        self.host_calls.load(Ordering::Relaxed)
    }

    /// Tool calls by runs that have ended.
    #[must_use]
    pub fn tool_calls(&self) -> u64 {
        self.tool_calls.load(Ordering::Relaxed)
    }

    /// Components that were compiled or not, by what came of it.
    pub fn compiles(&self) -> impl Iterator<Item = (&'static str, u64)> {
        COMPILE_OUTCOMES.into_iter().zip(self.compiles.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
