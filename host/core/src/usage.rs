//! What a user's runs took over days: kept when a run ends, whatever becomes of the run afterwards.

use crate::run::{RunEnd, StopReason, Usage};
use jiff::Timestamp;
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// How many days of usage are kept, the day under way included: a year can be compared with the one before its last month.
pub const USAGE_DAYS_KEPT: i64 = 400;

/// How many days of users' usage one call of [`Storage::prune_usage`](crate::storage::Storage::prune_usage) removes at
/// most, so that nobody waits long for it.
pub const USAGE_DAYS_PRUNED_AT_ONCE_MAX: u32 = 1_000;

/// Sums end here, which is the largest number that storage keeps: they stay at it, and never begin again at nothing.
pub const SUM_MAX: u64 = i64::MAX as u64;

const DAY_US: i64 = 86_400_000_000;

/// A day, UTC: how many there have been since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The day of a moment.
    #[must_use]
    pub fn of(at: Timestamp) -> Self {
        Self(at.as_microsecond().div_euclid(DAY_US))
    }

    /// So many days earlier.
    #[must_use]
    pub const fn before(self, days: i64) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// Its number, from 1970 on.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The day of this number.
    #[must_use]
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let midnight = self.0.checked_mul(DAY_US).and_then(|us| Timestamp::from_microsecond(us).ok());
        match midnight.map(|midnight| midnight.to_string()).as_deref().and_then(|text| text.split('T').next()) {
            Some(date) => f.write_str(date),
            // Of no calendar.
            None => write!(f, "day {}", self.0),
        }
    }
}

/// What the runs that ended in a time took together. A run counts on the day of its end, with all it took.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct UsageSum {
    /// Runs that ended.
    pub runs: u64,
    /// Of those, how many for which reason.
    pub runs_by_stop_reason: BTreeMap<StopReason, u64>,
    /// Fuel.
    pub fuel: u64,
    /// Time in which guests, or the host on their behalf, were executing, in milliseconds.
    pub active_ms: u64,
    /// Bytes that counted against memory limits, times the seconds for which they did.
    pub memory_byte_seconds: u64,
    /// Events recorded.
    pub events: u64,
    /// Tool calls made.
    pub tool_calls: u64,
    /// Calls to the host.
    pub host_calls: u64,
}

impl UsageSum {
    /// What one run took.
    #[must_use]
    pub fn of(end: &RunEnd) -> Self {
        let mut sum = Self::default();
        sum.add_run(end);
        sum
    }

    /// Adds what one run took.
    pub fn add_run(&mut self, end: &RunEnd) {
        let Usage { fuel, active_ms, memory_byte_seconds, events, tool_calls, host_calls, .. } = end.usage;
        let figures =
            Self { runs: 1, fuel, active_ms, memory_byte_seconds, events, tool_calls, host_calls, ..Self::default() };
        self.add(&figures);
        let runs = self.runs_by_stop_reason.entry(end.stop_reason).or_default();
        *runs = runs.saturating_add(1).min(SUM_MAX);
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more).min(SUM_MAX);
        add(&mut self.runs, other.runs);
        add(&mut self.fuel, other.fuel);
        add(&mut self.active_ms, other.active_ms);
        add(&mut self.memory_byte_seconds, other.memory_byte_seconds);
        add(&mut self.events, other.events);
        add(&mut self.tool_calls, other.tool_calls);
        add(&mut self.host_calls, other.host_calls);
        for (reason, runs) in &other.runs_by_stop_reason {
            add(self.runs_by_stop_reason.entry(*reason).or_default(), *runs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_utc() {
        let day = |text: &str| Day::of(text.parse().expect("a time"));
        assert_eq!(day("1970-01-01T00:00:00Z").number(), 0);
        assert_eq!(day("2026-11-24T23:59:59.999999Z"), day("2026-11-25T00:00:00Z").before(1));
        assert_eq!(day("2026-11-24T12:00:00Z").to_string(), "2026-11-24");
        assert_eq!(Day::from_number(i64::MAX).to_string(), format!("day {}", i64::MAX));
        assert_eq!(day("1969-12-31T23:59:59Z").number(), -1);
    }

    #[test]
    fn sums_stay_at_the_largest_number_that_storage_keeps() {
        let mut sum = UsageSum { fuel: SUM_MAX - 1, ..UsageSum::default() };
        sum.add(&UsageSum { fuel: u64::MAX, ..UsageSum::default() });
        assert_eq!(sum.fuel, SUM_MAX);
    }
}
