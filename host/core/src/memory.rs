//! The memory of guests, counted for each run, each user and the host, and refused at each limit. What of a sandbox is
//! counted is the runtime's to say.

use crate::ids::UserId;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Instant,
};

/// How many users without a live run are remembered before they are forgotten.
const IDLE_USERS_MAX: usize = 1_024;

/// All compiles together may take one part in so many of the memory that a host has for guests: however much is pushed,
/// the rest is for runs.
const COMPILING_PART: u64 = 2;

/// Bytes that several share, up to a limit.
#[derive(Debug)]
struct Pool {
    bytes_max: u64,
    bytes: AtomicU64,
}

impl Pool {
    const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: AtomicU64::new(0) }
    }

    /// Takes so many bytes, and gives the new sum; or takes none.
    fn take(&self, bytes: u64) -> Option<u64> {
        let fits = |now: u64| now.checked_add(bytes).filter(|total| *total <= self.bytes_max);
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok().map(|before| before + bytes)
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    fn bytes_left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }
}

/// The memory of all sandboxes of a host.
#[derive(Debug)]
pub struct HostMemory {
    pool: Arc<Pool>,
    /// The part of it that compiling may take.
    compiling: Arc<Pool>,
    user_bytes_max: u64,
    users: Mutex<HashMap<UserId, Weak<Pool>>>,
}

impl HostMemory {
    /// With so many bytes in all, and so many for each user. Compiling gets at least so many of them, whatever its part.
    #[must_use]
    pub fn new(bytes_max: u64, user_bytes_max: u64, compiling_bytes_min: u64) -> Self {
        let compiling = (bytes_max / COMPILING_PART).max(compiling_bytes_min);
        Self {
            pool: Arc::new(Pool::new(bytes_max)),
            compiling: Arc::new(Pool::new(compiling)),
            user_bytes_max,
            users: Mutex::default(),
        }
    }

    /// Bytes that all sandboxes hold now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pool.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that this user's runs hold now.
    #[must_use]
    pub fn user_bytes(&self, user: &UserId) -> u64 {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.get(user).and_then(Weak::upgrade).map_or(0, |pool| pool.bytes.load(Ordering::Relaxed))
    }

    /// Bytes that all sandboxes may hold.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.pool.bytes_max
    }

    /// The memory of one run of this user.
    #[must_use]
    pub fn run(&self, user: &UserId, bytes_max: u64) -> Arc<RunMemory> {
        Arc::new(RunMemory::new(bytes_max, self.user(user), self.pool.clone()))
    }

    /// Bytes of it that all compiles together may hold.
    #[must_use]
    pub fn compiling_bytes_max(&self) -> u64 {
        self.compiling.bytes_max
    }

    /// Takes so many bytes of what all sandboxes may hold, for compiling; none if there are not so many left, or compiling
    /// holds too much already.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Option<Reserved> {
        self.compiling.take(bytes)?;
        if self.pool.take(bytes).is_none() {
            self.compiling.give_back(bytes);
            return None;
        }
        Some(Reserved { compiling: self.compiling.clone(), host: self.pool.clone(), bytes })
    }

    /// The memory of a plugin that says what it is, which is no user's run.
    #[must_use]
    pub fn description(&self, bytes_max: u64) -> Arc<RunMemory> {
        Arc::new(RunMemory::new(bytes_max, Arc::new(Pool::new(bytes_max)), self.pool.clone()))
    }

    fn user(&self, user: &UserId) -> Arc<Pool> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = users.get(user).and_then(Weak::upgrade) {
            return pool;
        }
        if users.len() >= IDLE_USERS_MAX {
            users.retain(|_, pool| pool.strong_count() > 0);
        }
        let pool = Arc::new(Pool::new(self.user_bytes_max));
        users.insert(user.clone(), Arc::downgrade(&pool));
        pool
    }
}

/// Whose limit refused a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The run's own.
    Run,
    /// That on all runs of the user together.
    User,
    /// That on all runs of the host together.
    Host,
}

impl Refusal {
    const NONE: u8 = 0;

    const fn number(self) -> u8 {
        match self {
            Self::Run => 1,
            Self::User => 2,
            Self::Host => 3,
        }
    }
}

/// The memory of one run: all memories and tables of its own sandbox and of those its tools run in.
#[derive(Debug)]
pub struct RunMemory {
    run: Pool,
    user: Arc<Pool>,
    host: Arc<Pool>,
    peak_bytes: AtomicU64,
    over_time: Mutex<OverTime>,
    /// The last refusal.
    refused: AtomicU8,
}

/// Bytes, added up over the time for which they are held: exact, at the price of one look at the clock each time that
/// their number changes. The lock is held for these few instructions only, and hardly ever by two at once.
#[derive(Debug)]
struct OverTime {
    bytes: u64,
    since: Instant,
    /// Wide enough for all memory there is over centuries.
    byte_us: u128,
}

impl OverTime {
    fn pass(&mut self) {
        let now = Instant::now();
        let us = now.saturating_duration_since(self.since).as_micros();
        self.byte_us = self.byte_us.saturating_add(us.saturating_mul(self.bytes.into()));
        self.since = now;
    }
}

impl RunMemory {
    fn new(bytes_max: u64, user: Arc<Pool>, host: Arc<Pool>) -> Self {
        let (peak_bytes, refused) = (AtomicU64::new(0), AtomicU8::new(Refusal::NONE));
        let over_time = Mutex::new(OverTime { bytes: 0, since: Instant::now(), byte_us: 0 });
        Self { run: Pool::new(bytes_max), user, host, peak_bytes, over_time, refused }
    }

    /// What was held so far, over the time for which it was: bytes times seconds, rounded down.
    #[must_use]
    pub fn byte_seconds(&self) -> u64 {
        let mut over_time = self.over_time();
        over_time.pass();
        u64::try_from(over_time.byte_us / 1_000_000).unwrap_or(u64::MAX)
    }

    fn over_time(&self) -> MutexGuard<'_, OverTime> {
        self.over_time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most that was held at once, in bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// Bytes by which it may still grow.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        self.run.bytes_left().min(self.user.bytes_left()).min(self.host.bytes_left())
    }

    /// Whose limit refused the last growth that was refused, if one was.
    #[must_use]
    pub fn refused(&self) -> Option<Refusal> {
        let number = self.refused.load(Ordering::Relaxed);
        [Refusal::Run, Refusal::User, Refusal::Host].into_iter().find(|refusal| refusal.number() == number)
    }

    /// Remembers whose limit refused a growth.
    pub fn refuse(&self, whose: Refusal) {
        self.refused.store(whose.number(), Ordering::Relaxed);
    }

    /// Holds so many bytes of the host's own memory on the run's behalf, as if its guest had grown by them; none if that
    /// is over a limit. For what the host keeps for a guest beyond one host call.
    #[must_use]
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Option<HeldBytes> {
        let bytes = bytes as u64;
        self.take(bytes).then(|| HeldBytes { run: self.clone(), bytes, beside: false })
    }

    /// As [`hold`](Self::hold), beside the run's own limit: for its input, which has a limit of its own and is there
    /// before the run can do anything about it.
    #[must_use]
    pub fn hold_beside(self: &Arc<Self>, bytes: usize) -> Option<HeldBytes> {
        let bytes = bytes as u64;
        self.user.take(bytes)?;
        if self.host.take(bytes).is_none() {
            self.user.give_back(bytes);
            return None;
        }
        Some(HeldBytes { run: self.clone(), bytes, beside: true })
    }

    /// Takes so many bytes from the run, the user and the host, or from none of them. Says whether it did; whoever takes
    /// gives back.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        let taken = (|| {
            let total = self.run.take(bytes).ok_or(Refusal::Run)?;
            if self.user.take(bytes).is_none() {
                self.run.give_back(bytes);
                return Err(Refusal::User);
            }
            if self.host.take(bytes).is_none() {
                self.run.give_back(bytes);
                self.user.give_back(bytes);
                return Err(Refusal::Host);
            }
            Ok(total)
        })();
        match taken {
            Ok(total) => {
                self.peak_bytes.fetch_max(total, Ordering::Relaxed);
                let mut over_time = self.over_time();
                over_time.pass();
                over_time.bytes = over_time.bytes.saturating_add(bytes);
                true
            }
            Err(refusal) => {
                self.refuse(refusal);
                false
            }
        }
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: u64) {
        {
            let mut over_time = self.over_time();
            over_time.pass();
            over_time.bytes = over_time.bytes.saturating_sub(bytes);
        }
        self.run.give_back(bytes);
        self.user.give_back(bytes);
        self.host.give_back(bytes);
    }
}

/// Memory that the host holds for a run. Given back on drop.
#[derive(Debug)]
pub struct HeldBytes {
    run: Arc<RunMemory>,
    bytes: u64,
    beside: bool,
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        if self.beside {
            self.run.user.give_back(self.bytes);
            self.run.host.give_back(self.bytes);
        } else {
            self.run.give_back(self.bytes);
        }
    }
}

/// Memory that is nobody's guest's, of the host's limit for all guests. Given back on drop.
#[derive(Debug)]
pub struct Reserved {
    compiling: Arc<Pool>,
    host: Arc<Pool>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.compiling.give_back(self.bytes);
        self.host.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        name.parse().expect("a user id")
    }

    #[test]
    fn memory_over_time_is_what_was_held_times_how_long() {
        let host = HostMemory::new(u64::MAX, u64::MAX, 0);
        let run = host.run(&user("ann"), 10 << 20);
        let begun = Instant::now();
        let held = run.hold(8 << 20).expect("room");
        assert!(run.hold(8 << 20).is_none(), "what is refused is not held");
        assert_eq!(host.user_bytes(&user("ann")), 8 << 20);
        let inside = Instant::now();
        while inside.elapsed().as_millis() < 20 {}
        let least = inside.elapsed();
        drop(held);
        let most = begun.elapsed();
        let area = |time: std::time::Duration| time.as_micros() * (8 << 20) / 1_000_000;
        let taken = run.byte_seconds();
        assert!((area(least)..=area(most)).contains(&u128::from(taken)), "{least:?} {taken} {most:?}");
        assert_eq!((run.byte_seconds(), host.user_bytes(&user("ann"))), (taken, 0), "nothing is held any more");
    }

    #[test]
    fn compiles_leave_half_of_the_memory_to_runs() {
        let host = HostMemory::new(4 << 30, u64::MAX, 0);
        let (one, two) = (host.reserve(3 << 29).expect("room"), host.reserve(1 << 29).expect("room"));
        assert!(host.reserve(1).is_none(), "what two pushes hold is not for a third");
        let run = host.run(&user("ann"), 2 << 30);
        drop(run.hold(2 << 30).expect("runs have theirs"));
        drop(one);
        assert!(host.reserve(3 << 29).is_some());
        drop(two);
        assert_eq!(host.bytes(), 0);
        let run = host.run(&user("ann"), 3 << 30);
        let _held = run.hold(3 << 30).expect("and all of it while nobody compiles");
        assert!(host.reserve((1 << 30) + 1).is_none());
        assert!(host.reserve(1 << 30).is_some());
    }
}
