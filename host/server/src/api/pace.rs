//! How fast one user's bodies are read.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// What may come at once, as time at the pace: enough that a timer's whole milliseconds do not slow anybody down.
const AT_ONCE: Duration = Duration::from_millis(10);

/// So many bytes in a second, for all that a user sends together. Who is ahead waits; nobody saves up.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: AtomicU64,
    /// When all that has come would have come at this pace.
    paid: Mutex<Instant>,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: AtomicU64::new(bytes_per_second), paid: Mutex::new(Instant::now()) }
    }

    /// The pace from here on.
    pub fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Waits until so many bytes more are within the pace. Says how long that took.
    pub async fn keep(&self, bytes: usize) -> Duration {
        let begun = Instant::now();
        let until = self.take(bytes, begun).checked_sub(AT_ONCE).unwrap_or(begun);
        if until > begun {
            sleep_until(until).await;
        }
        begun.elapsed()
    }

    /// Whether nobody is ahead of it any more: then it is as if nothing had come.
    pub fn is_kept(&self) -> bool {
        *self.paid.lock().unwrap_or_else(PoisonError::into_inner) <= Instant::now()
    }

    fn take(&self, bytes: usize, now: Instant) -> Instant {
        let rate = self.bytes_per_second.load(Ordering::Relaxed).max(1);
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(now) + takes;
        *paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_slowed_to_the_pace_and_nobody_saves_up() {
        let pace = Pace::new(1_000_000);
        let later = Instant::now() + Duration::from_secs(60);
        let mut until = later;
        for _ in 0..100 {
            until = pace.take(20_000, later);
        }
        assert_eq!((until - later).as_millis(), 2_000);
        pace.set(10_000_000);
        assert_eq!((pace.take(10_000_000, later) - until).as_millis(), 1_000);
        assert_eq!((pace.take(10, until + Duration::from_secs(9)) - until).as_secs(), 9);
    }
}
