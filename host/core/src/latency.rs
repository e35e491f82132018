//! How long something takes, counted by size: what several threads count at once, and what reads back as a picture of a
//! stretch of time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How many sizes there are, that beyond all bounds included.
const SIZES: usize = 20;

/// The upper bounds of the sizes, in microseconds. The thresholds of alerts are among them, so that what is over one is
/// known exactly.
pub const BOUNDS_US: [u64; SIZES - 1] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 1_500_000,
    2_000_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Counts of durations by size.
#[derive(Debug, Default)]
pub struct Latencies {
    counts: [AtomicU64; SIZES],
    sum_us: AtomicU64,
}

/// What was counted up to a moment, or between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencyCounts {
    /// By size, the last beyond all bounds.
    pub counts: [u64; SIZES],
    /// All durations together, in microseconds.
    pub sum_us: u64,
}

impl Latencies {
    /// Counts one more.
    pub fn took(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let size = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.counts.get(size) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> LatencyCounts {
        LatencyCounts {
            counts: self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

impl LatencyCounts {
    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What came on top of an earlier count.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts;
        for (now, then) in counts.iter_mut().zip(earlier.counts) {
            *now = now.saturating_sub(then);
        }
        Self { counts, sum_us: self.sum_us.saturating_sub(earlier.sum_us) }
    }

    /// Both together.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut counts = self.counts;
        for (sum, more) in counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(more);
        }
        Self { counts, sum_us: self.sum_us.saturating_add(other.sum_us) }
    }

    /// The bound under which 99 of 100 stay, in microseconds; none if nothing was counted. Beyond all bounds, the largest
    /// number.
    #[must_use]
    pub fn p99_us(&self) -> Option<u64> {
        let all = self.count();
        let over_max = all / 100;
        let mut within = 0_u64;
        for (count, bound) in self.counts.iter().zip(BOUNDS_US.into_iter().chain([u64::MAX])) {
            within = within.saturating_add(*count);
            if all > 0 && all - within.min(all) <= over_max {
                return Some(bound);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_under_the_first_bound_that_is_not_below_it() {
        let latencies = Latencies::default();
        assert_eq!(latencies.counts().p99_us(), None);
        for us in [0, 100, 101, 2_000_000, 2_000_001, 90_000_000] {
            latencies.took(Duration::from_micros(us));
        }
        let counts = latencies.counts();
        assert_eq!((counts.counts[0], counts.counts[1], counts.counts[14], counts.counts[15]), (2, 1, 1, 1));
        assert_eq!((counts.counts[19], counts.count(), counts.sum_us), (1, 6, 94_000_202));
        assert_eq!(counts.since(&counts), LatencyCounts::default());
    }

    #[test]
    fn one_of_a_hundred_may_be_late() {
        let latencies = Latencies::default();
        for _ in 0..99 {
            latencies.took(Duration::from_millis(1));
        }
        latencies.took(Duration::from_secs(600));
        assert_eq!(latencies.counts().p99_us(), Some(1_000));
        latencies.took(Duration::from_secs(600));
        assert_eq!(latencies.counts().p99_us(), Some(u64::MAX));
    }
}
