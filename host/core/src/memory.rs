//! The memory of guests, counted for each run, each user and the host, and refused at each limit. What of a sandbox is
//! counted is the runtime's to say.

use crate::{
    ids::UserId,
    quota::{LiveQuota, Quota},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

/// How many users without a live run are remembered before they are looked through.
const IDLE_USERS_MAX: usize = 1_024;

/// All compiles together may take one part in so many of the memory that a host has for guests: however much is pushed,
/// the rest is for runs.
const COMPILING_PART: u64 = 2;

/// Memory that a run is given when it is admitted, in bytes, or less if its own limit is less: as far as this, no other run
/// and no other user can be in its way.
pub const RUN_FLOOR_BYTES: u64 = 8 << 20;

/// Of a host's memory, in hundredths: from here on what lies idle is released.
pub const MARK_RELEASE: u64 = 80;
/// Of a host's memory, in hundredths: from here on runs wait to be admitted, and those of users who have more than an even
/// part of it grow no further.
pub const MARK_WAIT: u64 = 95;

/// Bytes that several share.
#[derive(Debug, Default)]
struct Pool(AtomicU64);

impl Pool {
    /// Takes so many bytes, and gives the new sum; or takes none, if that would be more than `max`.
    fn take(&self, bytes: u64, max: u64) -> Option<u64> {
        let fits = |now: u64| now.checked_add(bytes).filter(|total| *total <= max);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok().map(|before| before + bytes)
    }

    /// Gives what was there before.
    fn give_back(&self, bytes: u64) -> u64 {
        self.0.fetch_sub(bytes, Ordering::AcqRel)
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one user's live contexts hold.
#[derive(Debug, Default)]
pub struct UserMemory(Pool);

/// The memory of all sandboxes of a host.
#[derive(Debug)]
pub struct HostMemory {
    bytes_max: u64,
    /// The part of it that compiling may take.
    compiling_bytes_max: u64,
    all: Pool,
    compiling: Pool,
    /// Users who hold some of it.
    holders: AtomicU32,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    known: HashMap<UserId, Weak<UserMemory>>,
    look_at: usize,
}

impl HostMemory {
    /// With so many bytes in all. Compiling gets at least so many of them, whatever its part.
    #[must_use]
    pub fn new(bytes_max: u64, compiling_bytes_min: u64) -> Self {
        Self {
            bytes_max,
            compiling_bytes_max: (bytes_max / COMPILING_PART).max(compiling_bytes_min),
            all: Pool::default(),
            compiling: Pool::default(),
            holders: AtomicU32::new(0),
            users: Mutex::default(),
        }
    }

    /// Bytes that all sandboxes hold now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.all.bytes()
    }

    /// Bytes that all sandboxes may hold.
    #[must_use]
    pub const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Whether so many hundredths of it are held.
    #[must_use]
    pub fn is_past(&self, mark: u64) -> bool {
        self.bytes() >= self.mark(mark)
    }

    fn mark(&self, hundredths: u64) -> u64 {
        self.bytes_max / 100 * hundredths
    }

    /// Bytes that one user's live contexts hold now.
    #[must_use]
    pub fn bytes_of(&self, user: &UserId) -> u64 {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.known.get(user).and_then(Weak::upgrade).map_or(0, |user| user.0.bytes())
    }

    /// The memory of one run of this user, with no floor.
    #[must_use]
    pub fn run(self: &Arc<Self>, user: &UserId, bytes_max: u64, quota: LiveQuota) -> Arc<RunMemory> {
        Arc::new(RunMemory::new(bytes_max, quota, self.account(user), self.clone()))
    }

    /// The memory of a run that is admitted, with its floor taken; none if there is no room for it.
    ///
    /// # Errors
    /// Whose limit is in the way.
    pub(crate) fn admit(
        self: &Arc<Self>,
        account: &Arc<UserMemory>,
        bytes_max: u64,
        quota: LiveQuota,
    ) -> Result<Arc<RunMemory>, Refusal> {
        // All of a user's runs at once have to have room for their floors.
        let share = quota.get(|quota| quota.memory_bytes_per_user / u64::from(quota.runs_at_once.max(1)));
        let floor = RUN_FLOOR_BYTES.min(bytes_max).min(share);
        let mut memory = RunMemory::new(bytes_max, quota, account.clone(), self.clone());
        memory.take_shared(floor, self.mark(MARK_WAIT))?;
        memory.floor = floor;
        Ok(Arc::new(memory))
    }

    /// Bytes of it that all compiles together may hold.
    #[must_use]
    pub const fn compiling_bytes_max(&self) -> u64 {
        self.compiling_bytes_max
    }

    /// Takes so many bytes of what all sandboxes may hold, for compiling; none if there are not so many left, or compiling
    /// holds too much already.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        self.compiling.take(bytes, self.compiling_bytes_max)?;
        if self.all.take(bytes, self.bytes_max).is_none() {
            self.compiling.give_back(bytes);
            return None;
        }
        Some(Reserved { host: self.clone(), bytes })
    }

    /// The memory of a plugin that says what it is, which is no user's run.
    #[must_use]
    pub fn description(self: &Arc<Self>, bytes_max: u64) -> Arc<RunMemory> {
        let quota = LiveQuota::fixed(Quota { memory_bytes_per_user: bytes_max, ..Quota::ceiling() });
        Arc::new(RunMemory::new(bytes_max, quota, Arc::default(), self.clone()))
    }

    /// The account of a user, for as long as somebody holds it.
    pub(crate) fn account(&self, user: &UserId) -> Arc<UserMemory> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = users.known.get(user).and_then(Weak::upgrade) {
            return known;
        }
        if users.known.len() >= users.look_at {
            users.known.retain(|_, user| user.strong_count() > 0);
            // Looking through them again at twice as many costs each user a fixed part of one look.
            users.look_at = (users.known.len() * 2).max(IDLE_USERS_MAX);
        }
        let new = Arc::default();
        users.known.insert(user.clone(), Arc::downgrade(&new));
        new
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
    /// What it may hold by what was asked for; the user's quota may allow less by now.
    bytes_max: u64,
    /// What is taken of the user's and the host's whether the run holds it or not.
    floor: u64,
    quota: LiveQuota,
    run: Pool,
    user: Arc<UserMemory>,
    host: Arc<HostMemory>,
    peak_bytes: AtomicU64,
    over_time: Mutex<OverTime>,
    /// The last refusal.
    refused: AtomicU8,
}

/// Growths that come together to no more than this, in bytes, are counted from the last look at the clock on: most are of
/// tables, a moment after a memory's. A sandbox that opens has several.
const UNTIMED_BYTES_MAX: u64 = 64 << 10;

/// Bytes, added up over the time for which they are held, at the price of a look at the clock when their number changes by
/// much. The lock is held for these few instructions only, and hardly ever by two at once.
#[derive(Debug, Default)]
struct OverTime {
    bytes: u64,
    /// Of these, what came since the last look at the clock.
    untimed: u64,
    /// None before anything was held.
    since: Option<Instant>,
    /// Wide enough for all memory there is over centuries.
    byte_us: u128,
}

impl OverTime {
    fn take(&mut self, bytes: u64) {
        self.untimed = self.untimed.saturating_add(bytes);
        if self.bytes == 0 || self.untimed > UNTIMED_BYTES_MAX {
            self.pass();
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn give_back(&mut self, bytes: u64) {
        self.pass();
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn pass(&mut self) {
        let now = Instant::now();
        self.untimed = 0;
        if let Some(since) = self.since.replace(now).filter(|_| self.bytes > 0) {
            let us = now.saturating_duration_since(since).as_micros();
            self.byte_us = self.byte_us.saturating_add(us.saturating_mul(self.bytes.into()));
        }
    }
}

impl RunMemory {
    fn new(bytes_max: u64, quota: LiveQuota, user: Arc<UserMemory>, host: Arc<HostMemory>) -> Self {
        let (peak_bytes, refused) = (AtomicU64::new(0), AtomicU8::new(Refusal::NONE));
        let over_time = Mutex::default();
        Self { bytes_max, floor: 0, quota, run: Pool::default(), user, host, peak_bytes, over_time, refused }
    }

    /// What was held so far, over the time for which it was: bytes times seconds, rounded down.
    #[must_use]
    pub fn byte_seconds(&self) -> u64 {
        let mut over_time = self.over_time();
        if over_time.bytes > 0 {
            over_time.pass();
        }
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
        let (run_max, user_max) = self.bytes_max();
        let held = self.run.bytes();
        let shared = user_max.saturating_sub(self.user.0.bytes()).min(self.host.bytes_max - self.host.bytes());
        run_max.saturating_sub(held).min(shared.saturating_add(self.floor.saturating_sub(held)))
    }

    /// What the run and the user may hold, as the quota is now.
    fn bytes_max(&self) -> (u64, u64) {
        let (context, user) = self.quota.get(|quota| (quota.memory_bytes_per_context, quota.memory_bytes_per_user));
        (self.bytes_max.min(context), user)
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
        self.take_shared(bytes, self.host.bytes_max).ok()?;
        Some(HeldBytes { run: self.clone(), bytes, beside: true })
    }

    /// Takes so many bytes from the run, the user and the host, or from none of them. Says whether it did; whoever takes
    /// gives back.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        match self.try_take(bytes) {
            Ok(total) => {
                self.peak_bytes.fetch_max(total, Ordering::Relaxed);
                self.over_time().take(bytes);
                true
            }
            Err(refusal) => {
                self.refuse(refusal);
                false
            }
        }
    }

    fn try_take(&self, bytes: u64) -> Result<u64, Refusal> {
        let total = self.run.take(bytes, self.bytes_max().0).ok_or(Refusal::Run)?;
        let beyond_floor = total.saturating_sub(self.floor).min(bytes);
        if beyond_floor > 0 {
            let taken = self.take_shared(beyond_floor, self.may_fill(beyond_floor));
            if let Err(refusal) = taken {
                self.run.give_back(bytes);
                return Err(refusal);
            }
        }
        Ok(total)
    }

    /// How far the run may fill the host's memory: whoever has more than an even part of it leaves the last hundredths to
    /// the others.
    fn may_fill(&self, bytes: u64) -> u64 {
        let even = self.host.bytes_max / u64::from(self.host.holders.load(Ordering::Relaxed).max(1));
        if self.user.0.bytes().saturating_add(bytes) > even { self.host.mark(MARK_WAIT) } else { self.host.bytes_max }
    }

    /// Takes from the user and from the host, which is filled no further than this.
    fn take_shared(&self, bytes: u64, host_max: u64) -> Result<(), Refusal> {
        if bytes == 0 {
            return Ok(());
        }
        let user_max = self.quota.get(|quota| quota.memory_bytes_per_user);
        let held = self.user.0.take(bytes, user_max).ok_or(Refusal::User)?;
        if held == bytes {
            self.host.holders.fetch_add(1, Ordering::Relaxed);
        }
        if self.host.all.take(bytes, host_max).is_none() {
            self.give_back_of_user(bytes);
            return Err(Refusal::Host);
        }
        Ok(())
    }

    fn give_back_of_user(&self, bytes: u64) {
        if bytes > 0 && self.user.0.give_back(bytes) == bytes {
            self.host.holders.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn give_back_shared(&self, bytes: u64) {
        self.give_back_of_user(bytes);
        self.host.all.give_back(bytes);
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: u64) {
        self.over_time().give_back(bytes);
        let before = self.run.give_back(bytes);
        self.give_back_shared(before.saturating_sub(self.floor).min(bytes));
    }
}

impl Drop for RunMemory {
    fn drop(&mut self) {
        self.give_back_shared(self.floor);
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
            self.run.give_back_shared(self.bytes);
        } else {
            self.run.give_back(self.bytes);
        }
    }
}

/// Memory that is nobody's guest's, of the host's limit for all guests. Given back on drop.
#[derive(Debug)]
pub struct Reserved {
    host: Arc<HostMemory>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.host.compiling.give_back(self.bytes);
        self.host.all.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(name: &str) -> UserId {
        name.parse().expect("a user id")
    }

    fn quota(memory_bytes_per_user: u64) -> LiveQuota {
        LiveQuota::fixed(Quota { memory_bytes_per_user, runs_at_once: 1, ..Quota::ceiling() })
    }

    #[test]
    fn memory_over_time_is_what_was_held_times_how_long() {
        let host = Arc::new(HostMemory::new(u64::MAX, 0));
        let run = host.run(&user("ann"), 10 << 20, quota(u64::MAX));
        let begun = Instant::now();
        let held = run.hold(8 << 20).expect("room");
        assert!(run.hold(8 << 20).is_none(), "what is refused is not held");
        assert_eq!(host.bytes_of(&user("ann")), 8 << 20);
        let inside = Instant::now();
        while inside.elapsed().as_millis() < 20 {}
        let least = inside.elapsed();
        drop(held);
        let most = begun.elapsed();
        let area = |time: std::time::Duration| time.as_micros() * (8 << 20) / 1_000_000;
        let taken = run.byte_seconds();
        assert!((area(least)..=area(most)).contains(&u128::from(taken)), "{least:?} {taken} {most:?}");
        assert_eq!((run.byte_seconds(), host.bytes_of(&user("ann"))), (taken, 0), "nothing is held any more");
    }

    #[test]
    fn small_growths_are_counted_for_no_less_than_they_are_held_and_little_more() {
        let host = Arc::new(HostMemory::new(u64::MAX, 0));
        let run = host.run(&user("ann"), 64 << 20, quota(u64::MAX));
        let begun = Instant::now();
        let large = run.hold(32 << 20).expect("room");
        let wait = || std::thread::sleep(std::time::Duration::from_millis(40));
        wait();
        let (inside, small) = (Instant::now(), (0..32).map(|_| run.hold(48 << 10).expect("room")).collect::<Vec<_>>());
        wait();
        let (small_least, all_least) = (inside.elapsed(), begun.elapsed());
        drop((small, large));
        let (small_most, all_most) = (inside.elapsed(), begun.elapsed());
        let area = |bytes: u128, time: std::time::Duration| bytes * time.as_micros() / 1_000_000;
        let both = |of_large, of_small| area(32 << 20, of_large) + area(32 * (48 << 10), of_small);
        // Each look drops a part of a microsecond.
        let least = both(all_least, small_least) - (64 << 10);
        let most = both(all_most, small_most) + area(UNTIMED_BYTES_MAX.into(), all_most);
        let taken = u128::from(run.byte_seconds());
        assert!((least..=most).contains(&taken), "{least} {taken} {most}");
    }

    #[test]
    fn compiles_leave_half_of_the_memory_to_runs() {
        let host = Arc::new(HostMemory::new(4 << 30, 0));
        let (one, two) = (host.reserve(3 << 29).expect("room"), host.reserve(1 << 29).expect("room"));
        assert!(host.reserve(1).is_none(), "what two pushes hold is not for a third");
        let run = host.run(&user("ann"), 1 << 28, quota(u64::MAX));
        drop(run.hold(1 << 28).expect("runs have theirs"));
        drop(one);
        assert!(host.reserve(3 << 29).is_some());
        drop(two);
        assert_eq!(host.bytes(), 0);
    }

    #[test]
    fn as_far_as_its_floor_nobody_is_in_a_runs_way() {
        let host = Arc::new(HostMemory::new(100 << 20, 0));
        let anns = host.admit(&host.account(&user("ann")), 64 << 20, quota(u64::MAX)).expect("room");
        assert_eq!(host.bytes(), RUN_FLOOR_BYTES);
        let bobs = host.run(&user("bob"), 256 << 20, quota(u64::MAX));
        let greedy = bobs.hold(87 << 20).expect("room up to the last hundredths");
        assert!(
            bobs.hold(1 << 20).is_none(),
            "who has more than an even part leaves the last hundredths to the others"
        );
        assert_eq!(bobs.refused(), Some(Refusal::Host));
        let held = anns.hold(8 << 20).expect("the floor is there");
        let more = anns.hold(4 << 20).expect("and more, for whom has less than an even part");
        assert_eq!(host.admit(&host.account(&user("cay")), 64 << 20, quota(u64::MAX)).map(drop), Err(Refusal::Host));
        drop((held, more, anns));
        assert_eq!(host.bytes(), 87 << 20);
        assert!(host.admit(&host.account(&user("cay")), 64 << 20, quota(u64::MAX)).is_ok());
        drop((greedy, bobs));
        assert_eq!((host.bytes(), host.holders.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_users_floors_fit_into_what_the_user_may_hold() {
        let host = Arc::new(HostMemory::new(1 << 30, 0));
        let quota = LiveQuota::fixed(Quota { memory_bytes_per_user: 4 << 20, runs_at_once: 2, ..Quota::default() });
        let runs: Vec<_> =
            (0..2).map(|_| host.admit(&host.account(&user("ann")), 2 << 20, quota.clone()).expect("room")).collect();
        assert_eq!(host.bytes_of(&user("ann")), 4 << 20);
        assert_eq!(host.admit(&host.account(&user("ann")), 2 << 20, quota).map(drop), Err(Refusal::User));
        drop(runs);
        assert_eq!(host.bytes_of(&user("ann")), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_taken_comes_back(steps in proptest::collection::vec((0_usize..3, 0_u64..40), 1..60)) {
            let host = Arc::new(HostMemory::new(150, 0));
            let mut runs: Vec<_> = (0..3)
                .map(|n| {
                    let mut run = RunMemory::new(60, quota(100), host.account(&user(&format!("u{}", n % 2))), host.clone());
                    run.take_shared(10, 150).expect("room");
                    run.floor = 10;
                    (run, Vec::new())
                })
                .collect();
            for (at, bytes) in steps {
                let (run, held): &mut (RunMemory, Vec<u64>) = &mut runs[at];
                if bytes % 3 == 0 {
                    if let Some(bytes) = held.pop() {
                        run.give_back(bytes);
                    }
                } else if run.take(bytes) {
                    held.push(bytes);
                }
                prop_assert!(run.run.bytes() <= 60 && host.bytes() <= 150);
                let shared: u64 = runs.iter().map(|(run, _)| run.run.bytes().max(10)).sum();
                prop_assert_eq!(host.bytes(), shared);
            }
            for (run, held) in runs {
                held.into_iter().for_each(|bytes| run.give_back(bytes));
            }
            prop_assert_eq!((host.bytes(), host.holders.load(Ordering::Relaxed)), (0, 0));
        }
    }
}
