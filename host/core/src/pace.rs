//! How fast something of one user's may come: bodies that are read, bytes that runs write. It comes more slowly while others
//! ask the host for something.

use crate::ids::UserId;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// How many users are remembered who are within their pace, before they are looked through.
const IDLE_USERS_MAX: usize = 1_024;

/// How far ahead of a pace somebody can be: longer than most runs may take, and no debt for hours after one mistake.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// How long somebody who has asked the host for something is taken to be served: longer than most answers take.
const SERVED: Duration = Duration::from_millis(50);

/// Which part of a pace is left while others than its user ask the host for something, one in so many: whatever goes to the
/// disk, their commits wait for.
pub const PART_BESIDE_OTHERS: u32 = 8;

/// Who asks the host for something at present: the last who did, and the last before who is another.
#[derive(Debug)]
pub struct Askers {
    begun: Instant,
    /// When somebody asked last, in milliseconds since the begin: guests' threads look at each tick, and give way to others, so
    /// that nobody is to wait for what they hold.
    last_ms: AtomicU64,
    last_two: Mutex<LastTwo>,
}

#[derive(Debug, Default)]
struct LastTwo {
    last: Option<(UserId, Instant)>,
    other: Option<(UserId, Instant)>,
}

impl Default for Askers {
    fn default() -> Self {
        Self { begun: Instant::now(), last_ms: AtomicU64::new(u64::MAX), last_two: Mutex::default() }
    }
}

impl Askers {
    /// The user asks for something.
    pub fn asks(&self, user: &UserId) {
        let now = Instant::now();
        self.last_ms.store(self.millis(now), Ordering::Relaxed);
        let LastTwo { last, other } = &mut *self.last_two();
        match last {
            Some((same, at)) if same == user => *at = now,
            _ => *other = last.replace((user.clone(), now)),
        }
    }

    /// Whether somebody has asked a moment ago, and is perhaps being served.
    #[must_use]
    pub fn anybody(&self) -> bool {
        let last = self.last_ms.load(Ordering::Relaxed);
        last != u64::MAX && u128::from(self.millis(Instant::now()).saturating_sub(last)) <= SERVED.as_millis()
    }

    /// Whether somebody else than this user has.
    #[must_use]
    pub fn others_than(&self, user: &UserId) -> bool {
        let LastTwo { last, other } = &*self.last_two();
        last.iter().chain(other).any(|(other, at)| other != user && at.elapsed() <= SERVED)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }

    fn last_two(&self) -> MutexGuard<'_, LastTwo> {
        self.last_two.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait before more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Until when.
    pub until: Instant,
    /// How much of it is because others are served.
    pub beside_others: Duration,
}

/// So many bytes in a second, for all that a user brings. Who is ahead waits.
#[derive(Debug)]
pub struct Pace {
    user: UserId,
    askers: Arc<Askers>,
    bytes_per_second: AtomicU64,
    /// What may come at once, as time at the pace.
    at_once: Duration,
    /// When all that has come would have come at this pace.
    paid: Mutex<Instant>,
}

impl Pace {
    fn new(user: UserId, at_once: Duration, askers: Arc<Askers>) -> Self {
        let bytes_per_second = AtomicU64::new(u64::MAX);
        Self { user, askers, bytes_per_second, at_once, paid: Mutex::new(Instant::now()) }
    }

    /// The pace from here on, while nobody else asks the host for something.
    pub fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// So many bytes more have come. How long to wait before the next ones; none if they are within the pace.
    pub fn took(&self, bytes: u64) -> Option<Wait> {
        self.took_at(bytes, Instant::now())
    }

    fn took_at(&self, bytes: u64, now: Instant) -> Option<Wait> {
        let part = if self.askers.others_than(&self.user) { PART_BESIDE_OTHERS } else { 1 };
        let rate = (self.bytes_per_second.load(Ordering::Relaxed) / u64::from(part)).max(1);
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = ((*paid).max(now) + takes).min(now + self.at_once + AHEAD_MAX);
        let until = paid.checked_sub(self.at_once).filter(|until| *until > now)?;
        // Also of what other runs of the user have made it wait for, which they did at this pace.
        Some(Wait { until, beside_others: (until - now).mul_f64(1.0 - 1.0 / f64::from(part)) })
    }

    /// Waits until so many bytes more are within the pace. Says how long that took.
    pub async fn keep(&self, bytes: u64) -> Duration {
        let begun = Instant::now();
        if let Some(wait) = self.took_at(bytes, begun) {
            sleep_until(wait.until).await;
        }
        begun.elapsed()
    }

    /// Whether nobody is ahead of it any more: then it is as if nothing had come.
    fn is_kept(&self) -> bool {
        *self.paid.lock().unwrap_or_else(PoisonError::into_inner) <= Instant::now()
    }
}

/// What a run has written. All that write for the run share it.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<WrittenState>);

#[derive(Debug, Default)]
struct WrittenState {
    /// Since it was last held against the pace, in bytes.
    bytes: AtomicU64,
    /// How long the run has waited because others were served, in microseconds.
    beside_others_us: AtomicU64,
}

impl Written {
    /// So many bytes more.
    pub fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many there are, which begin anew with this. None if there are fewer than so many.
    #[must_use]
    pub fn take(&self, at_least: u64) -> Option<u64> {
        if self.0.bytes.load(Ordering::Relaxed) < at_least {
            return None;
        }
        Some(self.0.bytes.swap(0, Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// The run waits so much longer, because others are served.
    pub fn waits_beside_others(&self, longer: Duration) {
        let micros = u64::try_from(longer.as_micros()).unwrap_or(u64::MAX);
        self.0.beside_others_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// How long it has waited because others were served.
    #[must_use]
    pub fn waited_beside_others(&self) -> Duration {
        Duration::from_micros(self.0.beside_others_us.load(Ordering::Relaxed))
    }
}

/// The paces of all users, each remembered for as long as its user is ahead of it.
#[derive(Debug)]
pub struct Paces {
    at_once: Duration,
    askers: Arc<Askers>,
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
    pub fn new(at_once: Duration, askers: Arc<Askers>) -> Self {
        Self { at_once, askers, users: Mutex::new(Users { known: HashMap::new(), look_at: IDLE_USERS_MAX }) }
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
        let pace = Arc::new(Pace::new(user.clone(), self.at_once, self.askers.clone()));
        users.known.insert(user.clone(), pace.clone());
        pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        name.parse().expect("a user")
    }

    fn pace(at_once: Duration) -> Arc<Pace> {
        Paces::new(at_once, Arc::default()).of(&user("ann"))
    }

    #[test]
    fn what_comes_beside_others_comes_at_an_eighth_of_its_pace() {
        let (ann, bob, askers) = (user("ann"), user("bob"), Arc::<Askers>::default());
        let pace = Paces::new(Duration::ZERO, askers.clone()).of(&ann);
        pace.set(8_000_000);
        // Each as long after what came before as it takes.
        let takes = |bytes: u64| {
            let begun = (*pace.paid.lock().expect("no panic")).max(Instant::now());
            (pace.took(bytes).expect("ahead").until - begun).as_millis()
        };
        assert_eq!((askers.anybody(), takes(8_000_000)), (false, 1_000));
        askers.asks(&ann);
        assert_eq!((askers.anybody(), takes(8_000_000)), (true, 1_000), "she is alone");
        askers.asks(&bob);
        askers.asks(&ann);
        askers.asks(&ann);
        assert!(askers.others_than(&ann) && askers.others_than(&bob));
        assert_eq!(takes(8_000_000), 8_000);
        let now = Instant::now();
        let wait = pace.took_at(1, now).expect("ahead");
        let of_others = (wait.until - now) * 7 / 8;
        assert_eq!(wait.beside_others.as_millis(), of_others.as_millis(), "the rest it would have waited anyway");
        std::thread::sleep(2 * SERVED);
        assert_eq!((askers.anybody(), takes(8_000_000)), (false, 1_000), "he has what he asked for");
    }

    #[test]
    fn what_comes_is_slowed_to_the_pace_and_nobody_saves_up() {
        let pace = pace(Duration::from_millis(10));
        pace.set(1_000_000);
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(pace.took_at(10_000, later), None, "so much may come at once");
        let mut until = None;
        for _ in 0..100 {
            until = pace.took_at(20_000, later);
        }
        let Wait { until, beside_others } = until.expect("ahead");
        assert_eq!(beside_others, Duration::ZERO, "nobody else is there");
        assert_eq!((until - later).as_millis(), 2_000);
        pace.set(10_000_000);
        assert_eq!((pace.took_at(10_000_000, later).expect("ahead").until - until).as_millis(), 1_000);
        let rested = until + Duration::from_secs(9);
        assert_eq!((pace.took_at(1_000_000, rested).expect("ahead").until - rested).as_millis(), 90);
    }

    #[test]
    fn nobody_waits_without_end() {
        let pace = pace(Duration::ZERO);
        pace.set(1);
        let now = Instant::now();
        assert_eq!(pace.took_at(u64::MAX >> 20, now).map(|wait| wait.until), Some(now + AHEAD_MAX));
    }

    #[test]
    fn who_is_ahead_is_remembered_and_nobody_else_is() {
        let paces = Paces::new(Duration::ZERO, Arc::default());
        let user = |n: usize| user(&format!("user-{n}"));
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
