//! How fast something of one user's may come: bodies that are read, bytes that runs write.

use crate::ids::UserId;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// How many users are remembered who are within their pace, before they are looked through.
const IDLE_USERS_MAX: usize = 1_024;

/// How far ahead of a pace somebody can be: longer than most runs may take, and no debt for hours after one mistake.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// So many bytes in a second, for all that a user brings. Who is ahead waits.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: AtomicU64,
    /// What may come at once, as time at the pace.
    at_once: Duration,
    /// When all that has come would have come at this pace.
    paid: Mutex<Instant>,
}

impl Pace {
    fn new(at_once: Duration) -> Self {
        Self { bytes_per_second: AtomicU64::new(u64::MAX), at_once, paid: Mutex::new(Instant::now()) }
    }

    /// The pace from here on.
    pub fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// So many bytes more have come. Until when to wait before the next ones; none if they are within the pace.
    pub fn took(&self, bytes: u64) -> Option<Instant> {
        self.took_at(bytes, Instant::now())
    }

    fn took_at(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let rate = self.bytes_per_second.load(Ordering::Relaxed).max(1);
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = ((*paid).max(now) + takes).min(now + self.at_once + AHEAD_MAX);
        paid.checked_sub(self.at_once).filter(|until| *until > now)
    }

    /// Waits until so many bytes more are within the pace. Says how long that took.
    pub async fn keep(&self, bytes: u64) -> Duration {
        let begun = Instant::now();
        if let Some(until) = self.took_at(bytes, begun) {
            sleep_until(until).await;
        }
        begun.elapsed()
    }

    /// Whether nobody is ahead of it any more: then it is as if nothing had come.
    fn is_kept(&self) -> bool {
        *self.paid.lock().unwrap_or_else(PoisonError::into_inner) <= Instant::now()
    }
}

/// What a run has written since it was last held against the pace, in bytes. All that write for the run share it.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<AtomicU64>);

impl Written {
    /// So many bytes more.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many there are, which begin anew with this. None if there are fewer than so many.
    #[must_use]
    pub fn take(&self, at_least: u64) -> Option<u64> {
        if self.0.load(Ordering::Relaxed) < at_least {
            return None;
        }
        Some(self.0.swap(0, Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }
}

/// The paces of all users, each remembered for as long as its user is ahead of it.
#[derive(Debug)]
pub struct Paces {
    at_once: Duration,
    users: Mutex<Users>,
}

#[derive(Debug)]
struct Users {
    known: HashMap<UserId, Arc<Pace>>,
    look_at: usize,
}

impl Paces {
    /// Paces at which so much may come at once, as time at the pace.
    #[must_use]
    pub fn new(at_once: Duration) -> Self {
        Self { at_once, users: Mutex::new(Users { known: HashMap::new(), look_at: IDLE_USERS_MAX }) }
    }

    /// A user's.
    #[must_use]
    pub fn of(&self, user: &UserId) -> Arc<Pace> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pace) = users.known.get(user) {
            return pace.clone();
        }
        if users.known.len() >= users.look_at {
            users.known.retain(|_, pace| Arc::strong_count(pace) > 1 || !pace.is_kept());
            users.look_at = (2 * users.known.len()).max(IDLE_USERS_MAX);
        }
        let pace = Arc::new(Pace::new(self.at_once));
        users.known.insert(user.clone(), pace.clone());
        pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_slowed_to_the_pace_and_nobody_saves_up() {
        let pace = Pace::new(Duration::from_millis(10));
        pace.set(1_000_000);
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(pace.took_at(10_000, later), None, "so much may come at once");
        let mut until = None;
        for _ in 0..100 {
            until = pace.took_at(20_000, later);
        }
        let until = until.expect("ahead");
        assert_eq!((until - later).as_millis(), 2_000);
        pace.set(10_000_000);
        assert_eq!((pace.took_at(10_000_000, later).expect("ahead") - until).as_millis(), 1_000);
        let rested = until + Duration::from_secs(9);
        assert_eq!((pace.took_at(1_000_000, rested).expect("ahead") - rested).as_millis(), 90);
    }

    #[test]
    fn nobody_waits_without_end() {
        let pace = Pace::new(Duration::ZERO);
        pace.set(1);
        let now = Instant::now();
        assert_eq!(pace.took_at(u64::MAX >> 20, now), Some(now + AHEAD_MAX));
    }

    #[test]
    fn who_is_ahead_is_remembered_and_nobody_else_is() {
        let paces = Paces::new(Duration::ZERO);
        let user = |n: usize| format!("user-{n}").parse::<UserId>().expect("a user");
        let ahead = paces.of(&user(0));
        ahead.set(1);
        assert!(ahead.took(1_000_000).is_some());
        drop(ahead);
        for n in 1..5 * IDLE_USERS_MAX {
            drop(paces.of(&user(n)));
        }
        assert!(paces.users.lock().expect("no panic").known.len() <= IDLE_USERS_MAX);
        assert!(paces.of(&user(0)).took(1).is_some(), "it is still ahead");
    }
}
