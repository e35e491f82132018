//! Who runs now and who waits: a slot, memory and fuel are reserved together or not at all, and what is free goes to the
//! user who has had least of it.

mod fuel;
mod lines;

use crate::{
    ids::UserId,
    memory::{HostMemory, MARK_RELEASE, RunMemory},
    quota::{LiveQuota, Quotas},
    run::Priority,
};
use fuel::FuelAccount;
use lines::{At, Line, LineNumber, Lines, Waiter};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, oneshot};

/// The user's queue has no room. Nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The user has as many runs waiting as they may.
    #[error("{0} runs of this user are already waiting, which is as many as may; submit again when some have ended")]
    UserQueueFull(u32),
    /// The host has as many runs waiting as it may.
    #[error("{0} runs are already waiting on this host, which is as many as may; submit again later")]
    HostQueueFull(u32),
}

impl Refused {
    /// After how many seconds trying again makes sense.
    #[must_use]
    pub const fn retry_after_s(self) -> u32 {
        match self {
            Self::UserQueueFull(_) => 1,
            Self::HostQueueFull(_) => 5,
        }
    }
}

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// A slot of the user's, or of the host's.
    Slot,
    /// Fuel: the user's runs have used this minute's.
    Fuel,
    /// Memory of the user's, or of the host's.
    Memory,
}

/// The run waited as long as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run waited {wait_ms} ms for {}, which is as long as it may; submit it again, or fewer at once", match .short {
    Short::Slot => "a slot",
    Short::Fuel => "fuel, of which its user's runs have used what is there for a minute (fuel_per_minute)",
    Short::Memory => "memory, of which other runs hold too much",
})]
pub struct WaitedTooLong {
    /// How long.
    pub wait_ms: u64,
    /// For what.
    pub short: Short,
}

/// What a run asks for.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// Its own limit of fuel.
    pub fuel: u64,
    /// Its own limit of memory, in bytes.
    pub memory_bytes: u64,
    /// Which of the user's runs that wait go first.
    pub priority: Priority,
}

/// How a user stands with their host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Runs executing.
    pub running: u32,
    /// Runs waiting.
    pub queued: u32,
    /// Runs that may execute at once as things are.
    pub at_once: u32,
    /// Why these are not as many as the quota has, if they are not.
    pub narrowed_by: Option<Pressure>,
    /// Fuel that is left of this minute's.
    pub fuel_left: u64,
}

/// Why a host lets users run less at once than their quotas have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Guests hold most of the memory that there is for them.
    Memory,
    /// Guests wait long for a processor.
    Processors,
}

impl Pressure {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processors => "processors",
        }
    }
}

/// What a run costs its user's place in the line, beside the time that it takes on a processor, in nanoseconds: about what
/// the host does for it.
const RUN_COST_NS: u64 = 100_000;

/// How many users with neither a running nor a waiting run are remembered before they are looked through.
const IDLE_USERS_MAX: usize = 1_024;

/// How often is looked again at what waits for memory, and how often it is judged how much may run at once.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often the host judges how much may run at once.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
/// How long a user who comes now may wait for a processor before users run less at once.
const PROCESSOR_WAIT_MAX: Duration = Duration::from_millis(250);
/// What a quiet second gives back of what pressure took, in hundredths of what the quotas have.
const RECOVERY_STEP: u32 = 10;

/// Who runs now and who waits.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    quotas: Arc<Quotas>,
    memory: Arc<HostMemory>,
    runs_live_max: u32,
    runs_queued_max: u32,
    state: Mutex<State>,
    /// Something waits that no end of a run will wake.
    look: Notify,
}

#[derive(Debug)]
struct State {
    live: u32,
    queued: u32,
    tickets: u64,
    /// Virtual time: where the user stood who was served last.
    now: u64,
    lines: Lines,
    lines_look_at: usize,
    /// Users whose next run could begin if the host has room, by what they have had.
    ready: BTreeSet<(u64, LineNumber)>,
    /// Users whose next run is short of something of their own, by when to look again.
    short: BTreeSet<(Instant, LineNumber)>,
    /// How much of what quotas have at once may run, in hundredths, and why not more.
    part: u32,
    pressure: Option<Pressure>,
}

/// Whether a run that waits is throttled: what it lacks is fuel of its user's minute. And for how long it was.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Throttled>);

#[derive(Debug, Default)]
struct Throttled {
    since: Option<Instant>,
    before: Duration,
}

impl Throttle {
    fn set(&self, on: bool, at: Instant) {
        let mut throttled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (throttled.since, on) {
            (None, true) => throttled.since = Some(at),
            (Some(since), false) => {
                throttled.since = None;
                throttled.before += at.saturating_duration_since(since);
            }
            _ => {}
        }
    }

    /// Whether it is now.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).since.is_some()
    }

    /// How long it was in all, but for what still lasts.
    #[must_use]
    pub fn lasted(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).before
    }
}

/// A place in the queue. Given back on drop.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Shared>,
    line: LineNumber,
    ticket: u64,
    want: Want,
    /// Made for those that wait.
    throttle: OnceLock<Arc<Throttle>>,
    /// It was given back already, for a slot.
    given: bool,
}

impl Place {
    /// What it is a place for.
    #[must_use]
    pub const fn want(&self) -> Want {
        self.want
    }

    /// Whether it waits for fuel of the next minute, and how long it has; it stays true to the place.
    #[must_use]
    pub fn throttle(&self) -> Arc<Throttle> {
        self.throttle.get_or_init(Arc::default).clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.given {
            return;
        }
        let granted = {
            let mut state = self.shared.state();
            state.queued = state.queued.saturating_sub(1);
            if let Some(line) = state.lines.get_mut(self.line) {
                line.queued = line.queued.saturating_sub(1);
                line.waiting.remove(&(self.want.priority, self.ticket));
            }
            state.settle(self.line);
            self.shared.pump(&mut state)
        };
        hand_out(granted);
    }
}

/// A slot to run in, with memory and fuel. All of it is given back on drop.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Shared>,
    line: LineNumber,
    quota: LiveQuota,
    memory: Arc<RunMemory>,
    fuel_reserved: u64,
    fuel_used: AtomicU64,
    active_ns: AtomicU64,
}

impl Slot {
    /// The user's quota, as it is and as it changes.
    #[must_use]
    pub const fn quota(&self) -> &LiveQuota {
        &self.quota
    }

    /// The run's memory, with its floor taken.
    #[must_use]
    pub const fn memory(&self) -> &Arc<RunMemory> {
        &self.memory
    }

    /// What the run has used, to be settled when the slot is given back.
    pub fn used(&self, fuel: u64, active: Duration) {
        self.fuel_used.store(fuel, Ordering::Relaxed);
        self.active_ns.store(nanos(active), Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let granted = {
            let mut state = self.shared.state();
            state.live = state.live.saturating_sub(1);
            if let Some(line) = state.lines.get_mut(self.line) {
                line.running = line.running.saturating_sub(1);
                line.fuel.settle(self.fuel_reserved, self.fuel_used.load(Ordering::Relaxed));
                let cost = self.active_ns.load(Ordering::Relaxed).saturating_add(RUN_COST_NS);
                let weight = u64::from(line.quota.get(|quota| quota.cpu_weight).max(1));
                line.had = line.had.saturating_add(cost.saturating_mul(100) / weight);
            }
            state.settle(self.line);
            self.shared.pump(&mut state)
        };
        hand_out(granted);
    }
}

type Grant = (oneshot::Sender<Slot>, Slot);
type Granted = Vec<Grant>;

/// Outside of the lock: a slot that nobody takes any more gives itself back.
fn hand_out(granted: Granted) {
    for (grant, slot) in granted {
        let _ = grant.send(slot);
    }
}

impl State {
    fn at_once(&self, quota: &LiveQuota) -> u32 {
        let most = quota.get(|quota| quota.runs_at_once);
        // Rounded up, so that everybody can always run one.
        most.saturating_mul(self.part).div_ceil(100).clamp(1, most.max(1))
    }

    /// Puts a user where they belong after something of theirs has changed.
    fn settle(&mut self, number: LineNumber) {
        let Some(line) = self.lines.get(number) else { return };
        let wants = !line.waiting.is_empty() && line.running < self.at_once(&line.quota);
        let at = if wants { At::Ready(line.had) } else { At::Nowhere };
        self.put(number, at);
    }

    fn put(&mut self, number: LineNumber, at: At) {
        let Some(line) = self.lines.get_mut(number) else { return };
        match std::mem::replace(&mut line.at, at) {
            before if before == at => return,
            At::Nowhere => {}
            At::Ready(had) => drop(self.ready.remove(&(had, number))),
            At::Short(until) => drop(self.short.remove(&(until, number))),
        }
        match at {
            At::Nowhere => {}
            At::Ready(had) => drop(self.ready.insert((had, number))),
            At::Short(until) => drop(self.short.insert((until, number))),
        }
    }

    fn forget_idle(&mut self, at: Instant) {
        if self.lines.len() < self.lines_look_at {
            return;
        }
        let now = self.now;
        // A debt is not forgotten with its user.
        self.lines.retain(|line| {
            line.running > 0 || line.queued > 0 || line.had > now || !line.fuel.is_full(&line.quota, at)
        });
        self.lines_look_at = (self.lines.len() * 2).max(IDLE_USERS_MAX);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what is free: first to who has had least.
    fn pump(self: &Arc<Self>, state: &mut State) -> Granted {
        let mut granted = Granted::new();
        while state.live < self.runs_live_max
            && let Some((had, number)) = state.ready.first().copied()
        {
            let at = Instant::now();
            match self.try_grant(state, number, at) {
                Ok(slot) => {
                    state.now = state.now.max(had);
                    granted.extend(slot);
                    state.settle(number);
                }
                Err(until) => state.put(number, At::Short(until)),
            }
        }
        if !state.short.is_empty() {
            self.look.notify_one();
        }
        granted
    }

    /// Reserves what the user's next run wants. Gives the slot and who waits for it, if anybody does, or when to look again.
    fn try_grant(
        self: &Arc<Self>,
        state: &mut State,
        number: LineNumber,
        at: Instant,
    ) -> Result<Option<Grant>, Instant> {
        let Some(line) = state.lines.get_mut(number) else { return Ok(None) };
        let Some((key, waiter)) = line.waiting.pop_first() else { return Ok(None) };
        match self.reserve(line, number, waiter.want, at) {
            Ok(slot) => {
                waiter.throttle.set(false, at);
                state.live += 1;
                Ok(Some((waiter.grant, slot)))
            }
            Err((short, until)) => {
                waiter.throttle.set(short == Short::Fuel, at);
                line.waiting.insert(key, waiter);
                Err(until)
            }
        }
    }

    /// Fuel and memory, or neither. The slot itself is the caller's to count in `live`.
    fn reserve(
        self: &Arc<Self>,
        line: &mut Line,
        number: LineNumber,
        want: Want,
        at: Instant,
    ) -> Result<Slot, (Short, Instant)> {
        let fuel_reserved = line.fuel.reserve(&line.quota, want.fuel, at).map_err(|until| (Short::Fuel, until))?;
        let Ok(memory) = self.memory.admit(&line.memory, want.memory_bytes, line.quota.clone()) else {
            line.fuel.settle(fuel_reserved, 0);
            return Err((Short::Memory, at + LOOK_EVERY));
        };
        line.running += 1;
        Ok(Slot {
            shared: self.clone(),
            line: number,
            quota: line.quota.clone(),
            memory,
            fuel_reserved,
            fuel_used: AtomicU64::new(0),
            active_ns: AtomicU64::new(0),
        })
    }
}

impl Admission {
    /// For a host that runs at most `runs_live_max` guests at once and lets `runs_queued_max` wait.
    #[must_use]
    pub fn new(quotas: Arc<Quotas>, memory: Arc<HostMemory>, runs_live_max: u32, runs_queued_max: u32) -> Self {
        let state = State {
            live: 0,
            queued: 0,
            tickets: 0,
            now: 0,
            lines: Lines::default(),
            lines_look_at: IDLE_USERS_MAX,
            ready: BTreeSet::new(),
            short: BTreeSet::new(),
            part: 100,
            pressure: None,
        };
        let (state, look) = (Mutex::new(state), Notify::new());
        Self(Arc::new(Shared { quotas, memory, runs_live_max, runs_queued_max, state, look }))
    }

    /// Takes a place in the user's queue.
    ///
    /// # Errors
    /// When the user's queue, or the host's, is full.
    pub fn enqueue(&self, user: &UserId, want: Want) -> Result<Place, Refused> {
        let mut state = self.0.state();
        if state.queued >= self.0.runs_queued_max {
            return Err(Refused::HostQueueFull(self.0.runs_queued_max));
        }
        let number = self.line(&mut state, user);
        if let Some(line) = state.lines.get(number) {
            let most = line.quota.get(|quota| quota.runs_queued);
            if line.queued >= most {
                return Err(Refused::UserQueueFull(most));
            }
        }
        Ok(self.place(&mut state, number, want))
    }

    /// A place for a run that was accepted before the host was restarted: it has been promised one, full or not.
    #[must_use]
    pub fn enqueue_again(&self, user: &UserId, want: Want) -> Place {
        let mut state = self.0.state();
        let number = self.line(&mut state, user);
        self.place(&mut state, number, want)
    }

    fn line(&self, state: &mut State, user: &UserId) -> LineNumber {
        let had = state.now;
        if let Some(number) = state.lines.of(user) {
            if let Some(line) = state.lines.get_mut(number).filter(|line| line.running == 0 && line.queued == 0) {
                // Nobody saves up while they ask for nothing.
                line.had = line.had.max(had);
            }
            return number;
        }
        let now = Instant::now();
        state.forget_idle(now);
        let quota = self.0.quotas.of(user);
        let (memory, fuel) = (self.0.memory.account(user), FuelAccount::full(&quota, now));
        let (user, waiting) = (user.clone(), BTreeMap::new());
        state.lines.begin(Line { user, quota, memory, running: 0, queued: 0, waiting, at: At::Nowhere, had, fuel })
    }

    fn place(&self, state: &mut State, number: LineNumber, want: Want) -> Place {
        state.tickets += 1;
        state.queued += 1;
        if let Some(line) = state.lines.get_mut(number) {
            line.queued += 1;
        }
        let (shared, throttle) = (self.0.clone(), OnceLock::new());
        Place { shared, line: number, ticket: state.tickets, want, throttle, given: false }
    }

    /// Takes a slot if one is free and nobody waits for it.
    ///
    /// # Errors
    /// Gives the place back if there is none.
    pub fn try_admit(&self, mut place: Place) -> Result<Slot, Place> {
        let mut state = self.0.state();
        let number = place.line;
        let at_once = state.lines.get(number).map_or(0, |line| state.at_once(&line.quota));
        let free = state.live < self.0.runs_live_max && state.ready.is_empty();
        let Some(line) = state.lines.get_mut(number).filter(|_| free) else {
            drop(state);
            return Err(place);
        };
        let first = line.waiting.is_empty() && line.running < at_once;
        let slot = first.then(|| self.0.reserve(line, number, place.want, Instant::now()).ok()).flatten();
        if slot.is_some() {
            // The place is given back in the same step, and frees nothing that anybody waits for.
            line.queued = line.queued.saturating_sub(1);
            place.given = true;
            state.live += 1;
            state.queued = state.queued.saturating_sub(1);
        }
        drop(state);
        slot.ok_or(place)
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// When none was free in time.
    pub async fn admit(&self, place: Place) -> Result<Slot, WaitedTooLong> {
        let (granted, wait_ms) = {
            let mut state = self.0.state();
            let (grant, granted) = oneshot::channel();
            let waiter = Waiter { want: place.want, grant, throttle: place.throttle() };
            let mut wait_ms = 0;
            if let Some(line) = state.lines.get_mut(place.line) {
                wait_ms = line.quota.get(|quota| quota.queue_wait_ms);
                line.waiting.insert((place.want.priority, place.ticket), waiter);
            }
            if state.lines.get(place.line).is_some_and(|line| !matches!(line.at, At::Short(_))) {
                state.settle(place.line);
            }
            let others = self.0.pump(&mut state);
            drop(state);
            hand_out(others);
            (granted, wait_ms)
        };
        match tokio::time::timeout(Duration::from_millis(wait_ms), granted).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(WaitedTooLong { wait_ms, short: self.short_of(&place) }),
        }
    }

    fn short_of(&self, place: &Place) -> Short {
        let state = self.0.state();
        match state.lines.get(place.line).map(|line| line.at) {
            Some(At::Short(_)) if place.throttle().is_on() => Short::Fuel,
            Some(At::Short(_)) => Short::Memory,
            _ => Short::Slot,
        }
    }

    /// A user's quota has changed: what it allows now begins now.
    pub fn quota_changed(&self) {
        let granted = {
            let mut state = self.0.state();
            for number in state.lines.numbers() {
                state.settle(number);
            }
            self.0.pump(&mut state)
        };
        hand_out(granted);
    }

    /// How a user stands.
    #[must_use]
    pub fn standing(&self, user: &UserId) -> Standing {
        let mut state = self.0.state();
        let (part, pressure) = (state.part, state.pressure);
        let Some(line) = state.lines.of(user).and_then(|number| state.lines.get_mut(number)) else {
            let quota = self.0.quotas.of(user);
            let at_once = state.at_once(&quota);
            let fuel_left = quota.get(|quota| quota.fuel_per_minute);
            return Standing { running: 0, queued: 0, at_once, narrowed_by: pressure, fuel_left };
        };
        let fuel_left = line.fuel.left(&line.quota, Instant::now());
        let (running, queued, quota) = (line.running, line.queued, line.quota.clone());
        let narrowed_by = pressure.filter(|_| part < 100);
        Standing { running, queued, at_once: state.at_once(&quota), narrowed_by, fuel_left }
    }

    /// Runs executing now.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.0.state().live
    }

    /// Runs waiting now.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.0.state().queued
    }

    /// Wakes what no end of a run wakes, and judges how much may run at once. Ends when the admission does.
    pub fn tend(
        &self,
        processor_wait: impl Fn() -> Duration + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::downgrade(&self.0);
        async move {
            let mut judged = Instant::now();
            while let Some(next) = look(&shared) {
                let idle = next.is_none();
                let until = next.unwrap_or_else(|| Instant::now() + JUDGE_EVERY);
                let Some(strong) = shared.upgrade() else { return };
                tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = strong.look.notified(), if idle => {}
                }
                drop(strong);
                if judged.elapsed() >= JUDGE_EVERY {
                    judged = Instant::now();
                    judge(&shared, processor_wait());
                }
            }
        }
    }
}

/// Looks again at who was short of something until now. Gives when to do so next; none if the admission is gone.
fn look(shared: &Weak<Shared>) -> Option<Option<Instant>> {
    let shared = shared.upgrade()?;
    let (granted, next) = {
        let mut state = shared.state();
        let now = Instant::now();
        while let Some((_, number)) = state.short.first().filter(|(until, _)| *until <= now).copied() {
            state.put(number, At::Nowhere);
            state.settle(number);
        }
        let granted = shared.pump(&mut state);
        (granted, state.short.first().map(|(until, _)| *until))
    };
    hand_out(granted);
    Some(next)
}

/// Halves what may run at once while the host is under pressure, and lets it grow again a step at a time.
fn judge(shared: &Weak<Shared>, processor_wait: Duration) {
    let Some(shared) = shared.upgrade() else { return };
    let pressure = if shared.memory.is_past(MARK_RELEASE) {
        Some(Pressure::Memory)
    } else if processor_wait > PROCESSOR_WAIT_MAX {
        Some(Pressure::Processors)
    } else {
        None
    };
    let granted = {
        let mut state = shared.state();
        let before = state.part;
        match pressure {
            Some(pressure) => {
                state.part = (before / 2).max(1);
                state.pressure = Some(pressure);
            }
            None => state.part = (before + RECOVERY_STEP).min(100),
        }
        if state.part == before {
            return;
        }
        if state.part == 100 {
            state.pressure = None;
        }
        for number in state.lines.numbers() {
            state.settle(number);
        }
        shared.pump(&mut state)
    };
    hand_out(granted);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
