//! What sandboxes take of memory, summed over all that a run, its user and the host hold, and refused at each limit.

use crate::compile::WORKER_BASE_BYTES;
use cofferdam_core::ids::UserId;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};
use wasmtime::ResourceLimiter;

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
    /// With so many bytes in all, and so many for each user.
    #[must_use]
    pub fn new(bytes_max: u64, user_bytes_max: u64) -> Self {
        let compiling = (bytes_max / COMPILING_PART).max(WORKER_BASE_BYTES);
        Self {
            pool: Arc::new(Pool::new(bytes_max)),
            compiling: Arc::new(Pool::new(compiling)),
            user_bytes_max,
            users: Mutex::default(),
        }
    }

    /// Half of the machine's memory: the other half is for the host itself, and for the page cache.
    #[must_use]
    pub fn half_of_machine() -> u64 {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|total| total.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        // A machine that does not say gets the reference design's figure.
        kib.map_or(2 << 30, |kib| kib * 1024 / 2)
    }

    /// Bytes that all sandboxes hold now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pool.bytes.load(Ordering::Relaxed)
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
    /// The last refusal.
    refused: AtomicU8,
}

impl RunMemory {
    const fn new(bytes_max: u64, user: Arc<Pool>, host: Arc<Pool>) -> Self {
        let (peak_bytes, refused) = (AtomicU64::new(0), AtomicU8::new(Refusal::NONE));
        Self { run: Pool::new(bytes_max), user, host, peak_bytes, refused }
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

    /// Takes from the run, the user and the host, or from none of them.
    fn take(&self, bytes: u64) -> bool {
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
                true
            }
            Err(refusal) => {
                self.refused.store(refusal.number(), Ordering::Relaxed);
                false
            }
        }
    }

    fn give_back(&self, bytes: u64) {
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

/// The memory of one sandbox. Gives back what it holds when it is dropped.
#[derive(Debug)]
pub struct Meter {
    run: Arc<RunMemory>,
    held_bytes: u64,
    /// What the last growth took, in case wasmtime cannot carry it out.
    last_bytes: u64,
}

impl Meter {
    /// Charges to this run.
    #[must_use]
    pub const fn new(run: Arc<RunMemory>) -> Self {
        Self { run, held_bytes: 0, last_bytes: 0 }
    }

    /// The run's memory.
    #[must_use]
    pub const fn run(&self) -> &Arc<RunMemory> {
        &self.run
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let taken = self.run.take(bytes);
        self.last_bytes = if taken { bytes } else { 0 };
        self.held_bytes += self.last_bytes;
        taken
    }

    fn undo(&mut self) {
        let bytes = std::mem::take(&mut self.last_bytes);
        self.held_bytes -= bytes;
        self.run.give_back(bytes);
        // A bound of the engine's was met: to the guest it is the same refusal.
        self.run.refused.store(Refusal::Run.number(), Ordering::Relaxed);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.run.give_back(self.held_bytes);
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow((desired.saturating_sub(current) * size_of::<usize>()) as u64))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        crate::engine::INSTANCES_MAX as usize
    }

    fn memories(&self) -> usize {
        crate::engine::MEMORIES_MAX as usize
    }

    fn tables(&self) -> usize {
        crate::engine::TABLES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        name.parse().expect("a user id")
    }

    #[test]
    fn the_limit_is_on_the_sum_and_all_of_it_comes_back() {
        let host = HostMemory::new(u64::MAX, u64::MAX);
        let run = host.run(&user("ann"), 1000);
        let (mut a, mut b) = (Meter::new(run.clone()), Meter::new(run.clone()));
        assert!(a.memory_growing(0, 600, None).expect("no error"));
        assert_eq!(run.refused(), None);
        assert!(!b.memory_growing(0, 401, None).expect("no error"), "a second memory is not outside the limit");
        assert_eq!(run.refused(), Some(Refusal::Run));
        assert!(b.table_growing(0, 50, None).expect("no error"));
        assert!(!b.table_growing(50, 51, None).expect("no error"), "nor is a table");
        drop(a);
        assert_eq!((run.bytes_left(), run.peak_bytes()), (600, 1000));
        drop(b);
        assert_eq!((run.bytes_left(), host.bytes()), (1000, 0));
    }

    #[test]
    fn a_user_and_the_host_have_limits_of_their_own() {
        let host = HostMemory::new(1500, 1000);
        let (one, two) = (host.run(&user("ann"), 800), host.run(&user("ann"), 800));
        let (mut a, mut b) = (Meter::new(one.clone()), Meter::new(two.clone()));
        assert!(a.memory_growing(0, 800, None).expect("no error"));
        assert!(!b.memory_growing(0, 201, None).expect("no error"));
        assert_eq!(two.refused(), Some(Refusal::User));
        let three = host.run(&user("bob"), 800);
        let mut c = Meter::new(three.clone());
        assert!(!c.memory_growing(0, 701, None).expect("no error"));
        assert_eq!(three.refused(), Some(Refusal::Host));
        assert!(c.memory_growing(0, 700, None).expect("what was refused was not charged"));
        drop((a, b, c));
        assert_eq!(host.bytes(), 0);
        assert_eq!((one.bytes_left(), three.bytes_left()), (800, 800));
    }

    #[test]
    fn what_the_host_holds_for_a_guest_counts_as_the_guests() {
        let host = HostMemory::new(1500, 1000);
        let run = host.run(&user("ann"), 800);
        let mut meter = Meter::new(run.clone());
        assert!(meter.memory_growing(0, 500, None).expect("no error"));
        let held = run.hold(300).expect("room");
        assert!(run.hold(1).is_none());
        assert_eq!(run.refused(), Some(Refusal::Run));
        assert!(run.hold_beside(201).is_none(), "the user's limit holds beside the run's too");
        drop(run.hold_beside(200).expect("room beside the run's own limit"));
        let reserved = host.reserve(700).expect("room");
        assert!(host.reserve(1).is_none());
        drop((held, reserved));
        assert_eq!((run.bytes_left(), host.bytes()), (300, 500));
    }

    #[test]
    fn compiles_leave_half_of_the_memory_to_runs() {
        let host = HostMemory::new(4 << 30, u64::MAX);
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

    #[test]
    fn growth_that_wasmtime_could_not_carry_out_is_not_charged() {
        let host = HostMemory::new(u64::MAX, u64::MAX);
        let run = host.run(&user("ann"), 1000);
        let mut meter = Meter::new(run.clone());
        assert!(meter.memory_growing(100, 500, None).expect("no error"));
        meter.memory_grow_failed(wasmtime::Error::msg("no memory")).expect("no error");
        assert_eq!((run.bytes_left(), host.bytes()), (1000, 0));
    }
}
