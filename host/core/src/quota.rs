//! What may be taken: limits with their units in their names, and the reservation of a place to run.

use crate::ids::UserId;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest input of a run, in bytes. Protects the host's memory and storage; more is refused with 413.
pub const RUN_INPUT_BYTES_MAX: usize = 4 << 20;
/// The largest output of a run, in bytes. More ends the run as `output_too_large`.
pub const RUN_OUTPUT_BYTES_MAX: usize = 4 << 20;
/// The largest text or value that crosses one host call, in bytes. More is a typed error to the guest.
pub const HOST_CALL_BYTES_MAX: usize = 1 << 20;
/// The largest metadata of a run, in bytes.
pub const METADATA_BYTES_MAX: usize = 16 << 10;
/// The longest line of a log, in bytes.
pub const LOG_LINE_BYTES_MAX: usize = 8 << 10;
/// The largest component that can be pushed, in bytes. More is refused with 413.
pub const PLUGIN_BYTES_MAX: usize = 64 << 20;
/// How many versions of all plugins together a host keeps. Protects its disk and the registry in memory.
pub const PLUGIN_VERSIONS_MAX: usize = 10_000;
/// What all plugin versions of a host say of themselves, together, in bytes: it stays in memory for as long as they are
/// kept.
pub const PLUGIN_DESCRIPTIONS_BYTES_MAX: usize = 256 << 20;
/// Runs executing at once on a host, of all users.
pub const RUNS_LIVE_MAX: u32 = 1_024;
/// Runs waiting for a slot on a host, of all users.
pub const RUNS_QUEUED_MAX: u32 = 10_000;
/// What a state key takes of its user's quota beside its own bytes and its value's: about what storage keeps for it, so
/// that many small ones cannot take more than a few large ones.
pub const STATE_KEY_OVERHEAD_BYTES: u64 = 200;
/// How many keys a host keeps. Protects its storage.
pub const API_KEYS_MAX: u64 = 1_000_000;

/// What one user may take. The same for all users until quotas can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Fuel of one run.
    pub fuel_per_run: u64,
    /// All memories and tables of one context together, in bytes.
    pub memory_bytes_per_context: u64,
    /// All memories and tables of all the user's live contexts together, in bytes.
    pub memory_bytes_per_user: u64,
    /// From admission to the end of a run, in milliseconds.
    pub deadline_ms: u64,
    /// Runs executing at once.
    pub runs_at_once: u32,
    /// Runs waiting for a slot; one more is refused.
    pub runs_queued: u32,
    /// How long a run may wait for a slot, in milliseconds.
    pub queue_wait_ms: u64,
    /// Tool calls of one run.
    pub tool_calls_per_run: u32,
    /// Tool calls of one run under way at once.
    pub tool_calls_in_flight: u32,
    /// Calls of one run from the guest to the host, of every kind, those of its tools included.
    pub host_calls_per_run: u64,
    /// Events of one run, log lines included, the host's own (start, tools, end) not.
    pub events_per_run: u32,
    /// Events of one run together, those of its tool calls included, in bytes.
    pub event_bytes_per_run: u64,
    /// Log lines of one run together, in bytes.
    pub log_bytes_per_run: u64,
    /// The record of one run's calls to the host, with their answers, in bytes. Beyond, the run goes on without one.
    pub record_bytes_per_run: u64,
    /// Keys and values of the user's state together, in bytes, with [`STATE_KEY_OVERHEAD_BYTES`] for each key.
    pub state_bytes: u64,
    /// Files of the user's workspace together, in bytes.
    pub workspace_bytes: u64,
    /// Files and directories in the user's workspace.
    pub workspace_files: u64,
    /// Files below one run's `/scratch` together, in bytes.
    pub scratch_bytes: u64,
    /// Files and directories below one run's `/scratch`.
    pub scratch_files: u64,
    /// Finished runs that are kept; the oldest go when there are more.
    pub runs_stored: u64,
    /// Inputs, outputs, events and records of the user's finished runs together, in bytes; the oldest go when there is
    /// more.
    pub history_bytes: u64,
    /// How long a finished run is kept, in days.
    pub history_days: u32,
    /// Runs of one plugin that may trap or exhaust a limit one after another before its next runs have to wait.
    pub failures_in_a_row: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            fuel_per_run: 10_000_000_000,
            memory_bytes_per_context: 256 << 20,
            memory_bytes_per_user: 1 << 30,
            deadline_ms: 60_000,
            runs_at_once: 5,
            runs_queued: 100,
            queue_wait_ms: 30_000,
            tool_calls_per_run: 1_000,
            tool_calls_in_flight: 32,
            host_calls_per_run: 1_000_000,
            events_per_run: 10_000,
            event_bytes_per_run: 64 << 20,
            log_bytes_per_run: 16 << 20,
            record_bytes_per_run: 64 << 20,
            state_bytes: 64 << 20,
            workspace_bytes: 1 << 30,
            workspace_files: 10_000,
            scratch_bytes: 256 << 20,
            scratch_files: 10_000,
            runs_stored: 1_000_000,
            history_bytes: 10 << 30,
            history_days: 365,
            failures_in_a_row: 5,
        }
    }
}

/// What one run may take; fixed when it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
pub struct RunLimits {
    /// Fuel.
    pub fuel: u64,
    /// All memories and tables together, in bytes.
    pub memory_bytes: u64,
    /// From admission to the end, in milliseconds.
    pub deadline_ms: u64,
}

/// The least that a run may be limited to: below these, no guest gets as far as its own code.
pub const RUN_LIMITS_FLOOR: RunLimits = RunLimits { fuel: 100_000, memory_bytes: 2 << 20, deadline_ms: 10 };

/// The limits that a client asks for. What is not named is the user's own limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsAsked {
    /// Fuel.
    pub fuel: Option<u64>,
    /// All memories and tables together, in bytes.
    pub memory_bytes: Option<u64>,
    /// From admission to the end, in milliseconds.
    pub deadline_ms: Option<u64>,
}

/// A limit that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limits.{field} is {asked}, but must be from {floor} to {cap}")]
pub struct LimitOutOfRange {
    /// Which.
    pub field: &'static str,
    /// What was asked for.
    pub asked: u64,
    /// The least that can be asked for.
    pub floor: u64,
    /// The user's own limit.
    pub cap: u64,
}

impl Quota {
    /// The limits of one run: the user's own, lowered where the client asks for it.
    ///
    /// # Errors
    /// When a limit asked for is under the floor or over the user's own.
    pub fn narrow(&self, asked: LimitsAsked) -> Result<RunLimits, LimitOutOfRange> {
        let pick = |field, asked: Option<u64>, floor, cap| match asked {
            None => Ok(cap),
            Some(asked) if (floor..=cap).contains(&asked) => Ok(asked),
            Some(asked) => Err(LimitOutOfRange { field, asked, floor, cap }),
        };
        Ok(RunLimits {
            fuel: pick("fuel", asked.fuel, RUN_LIMITS_FLOOR.fuel, self.fuel_per_run)?,
            memory_bytes: pick(
                "memory_bytes",
                asked.memory_bytes,
                RUN_LIMITS_FLOOR.memory_bytes,
                self.memory_bytes_per_context,
            )?,
            deadline_ms: pick("deadline_ms", asked.deadline_ms, RUN_LIMITS_FLOOR.deadline_ms, self.deadline_ms)?,
        })
    }
}

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

/// The run waited for a slot as long as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run waited {0} ms for a slot, which is as long as it may; submit it again, or fewer at once")]
pub struct WaitedTooLong(pub u64);

/// Who runs now and who waits: first come, first served, with fixed limits.
#[derive(Debug)]
pub struct Admission {
    quota: Quota,
    runs_live_max: u32,
    runs_queued_max: u32,
    live: Arc<Semaphore>,
    queued: Arc<AtomicU32>,
    users: Mutex<HashMap<UserId, Arc<UserSlots>>>,
}

#[derive(Debug)]
struct UserSlots {
    running: Arc<Semaphore>,
    queued: AtomicU32,
}

/// A place in the queue. Given back on drop.
#[derive(Debug)]
pub struct Place {
    user: Arc<UserSlots>,
    host: Arc<AtomicU32>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.user.queued.fetch_sub(1, Ordering::AcqRel);
        self.host.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A slot to run in. Given back on drop.
#[derive(Debug)]
pub struct Slot {
    _user: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

/// How many users with neither a running nor a queued run are remembered before they are forgotten.
const IDLE_USERS_MAX: usize = 1_024;

impl Admission {
    /// For a host that runs at most `runs_live_max` guests at once and lets `runs_queued_max` wait.
    #[must_use]
    pub fn new(quota: Quota, runs_live_max: u32, runs_queued_max: u32) -> Self {
        Self {
            quota,
            runs_live_max,
            runs_queued_max,
            live: Arc::new(Semaphore::new(runs_live_max as usize)),
            queued: Arc::new(AtomicU32::new(0)),
            users: Mutex::new(HashMap::new()),
        }
    }

    /// What each user may take.
    #[must_use]
    pub const fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Takes a place in the user's queue.
    ///
    /// # Errors
    /// When the user's queue, or the host's, is full.
    pub fn enqueue(&self, user: &UserId) -> Result<Place, Refused> {
        take_one(&self.queued, self.runs_queued_max).ok_or(Refused::HostQueueFull(self.runs_queued_max))?;
        let slots = self.slots(user);
        if take_one(&slots.queued, self.quota.runs_queued).is_none() {
            self.queued.fetch_sub(1, Ordering::AcqRel);
            return Err(Refused::UserQueueFull(self.quota.runs_queued));
        }
        Ok(Place { user: slots, host: self.queued.clone() })
    }

    /// A place for a run that was accepted before the host was restarted: it has been promised one, full or not.
    #[must_use]
    pub fn enqueue_again(&self, user: &UserId) -> Place {
        let slots = self.slots(user);
        slots.queued.fetch_add(1, Ordering::AcqRel);
        self.queued.fetch_add(1, Ordering::AcqRel);
        Place { user: slots, host: self.queued.clone() }
    }

    /// Takes a slot if one is free and nobody waits for it.
    ///
    /// # Errors
    /// Gives the place back if there is none.
    pub fn try_admit(&self, place: Place) -> Result<Slot, Place> {
        let Ok(user) = place.user.running.clone().try_acquire_owned() else { return Err(place) };
        match self.live.clone().try_acquire_owned() {
            Ok(host) => Ok(Slot { _user: user, _host: host }),
            Err(_) => Err(place),
        }
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// When none was free in time.
    pub async fn admit(&self, place: Place) -> Result<Slot, WaitedTooLong> {
        let wait_ms = self.quota.queue_wait_ms;
        let slots = async {
            // The semaphores are never closed.
            let user = place.user.running.clone().acquire_owned().await.ok()?;
            let host = self.live.clone().acquire_owned().await.ok()?;
            Some(Slot { _user: user, _host: host })
        };
        match tokio::time::timeout(Duration::from_millis(wait_ms), slots).await {
            Ok(Some(slot)) => Ok(slot),
            Ok(None) | Err(_) => Err(WaitedTooLong(wait_ms)),
        }
    }

    /// Runs executing now.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.runs_live_max.saturating_sub(u32::try_from(self.live.available_permits()).unwrap_or(u32::MAX))
    }

    /// Runs waiting now.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.queued.load(Ordering::Acquire)
    }

    fn slots(&self, user: &UserId) -> Arc<UserSlots> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = users.get(user) {
            return slots.clone();
        }
        if users.len() >= IDLE_USERS_MAX {
            let all = self.quota.runs_at_once as usize;
            users.retain(|_, slots| Arc::strong_count(slots) > 1 || slots.running.available_permits() < all);
        }
        let slots = Arc::new(UserSlots {
            running: Arc::new(Semaphore::new(self.quota.runs_at_once as usize)),
            queued: AtomicU32::new(0),
        });
        users.insert(user.clone(), slots.clone());
        slots
    }
}

/// Counts one more, unless that would be more than `max`. Gives the new count.
pub(crate) fn take_one(counter: &AtomicU32, max: u32) -> Option<u32> {
    counter
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < max).then_some(count + 1))
        .ok()
        .map(|before| before + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(name: &str) -> UserId {
        name.parse().expect("a user id")
    }

    proptest! {
        #[test]
        fn limits_only_narrow(fuel: Option<u64>, memory_bytes: Option<u64>, deadline_ms: Option<u64>) {
            let quota = Quota::default();
            if let Ok(limits) = quota.narrow(LimitsAsked { fuel, memory_bytes, deadline_ms }) {
                prop_assert!(limits.fuel <= quota.fuel_per_run && limits.fuel >= RUN_LIMITS_FLOOR.fuel);
                prop_assert!(limits.memory_bytes <= quota.memory_bytes_per_context);
                prop_assert!(limits.memory_bytes >= RUN_LIMITS_FLOOR.memory_bytes);
                prop_assert!(limits.deadline_ms <= quota.deadline_ms);
                prop_assert!(limits.deadline_ms >= RUN_LIMITS_FLOOR.deadline_ms);
            }
        }
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let quota = Quota::default();
        let fuel = |fuel| quota.narrow(LimitsAsked { fuel: Some(fuel), ..LimitsAsked::default() });
        assert!(fuel(RUN_LIMITS_FLOOR.fuel).is_ok());
        assert!(fuel(quota.fuel_per_run).is_ok());
        for asked in [0, RUN_LIMITS_FLOOR.fuel - 1, quota.fuel_per_run + 1, u64::MAX] {
            assert_eq!(fuel(asked).map_err(|e| (e.field, e.asked)), Err(("fuel", asked)));
        }
    }

    #[tokio::test]
    async fn two_requests_never_share_the_last_slot() {
        let quota = Quota { runs_at_once: 2, queue_wait_ms: 20, ..Quota::default() };
        let admission = Admission::new(quota, 10, 10);
        let ann = user("ann");
        let enter = || admission.admit(admission.enqueue(&ann).expect("room"));
        let (a, b) = (enter().await.expect("a slot"), enter().await.expect("a slot"));
        assert_eq!(admission.live(), 2);
        assert_eq!(enter().await.map(drop), Err(WaitedTooLong(20)));
        assert!(admission.admit(admission.enqueue(&user("bob")).expect("room")).await.is_ok(), "bob is not ann");
        drop(a);
        drop(enter().await.expect("a slot came back"));
        drop(b);
        assert_eq!((admission.live(), admission.queued()), (0, 0));
    }

    #[test]
    fn a_full_queue_refuses_and_forgets_nothing() {
        let quota = Quota { runs_queued: 2, ..Quota::default() };
        let admission = Admission::new(quota, 10, 3);
        let ann = user("ann");
        let places: Vec<_> = (0..2).map(|_| admission.enqueue(&ann).expect("room")).collect();
        assert_eq!(admission.enqueue(&ann).map(drop), Err(Refused::UserQueueFull(2)));
        let bob = admission.enqueue(&user("bob")).expect("room");
        assert_eq!(admission.enqueue(&user("cay")).map(drop), Err(Refused::HostQueueFull(3)));
        drop((places, bob));
        assert_eq!(admission.queued(), 0);
        assert!(admission.enqueue(&ann).is_ok());
    }

    #[test]
    fn users_who_went_away_are_forgotten() {
        let admission = Admission::new(Quota::default(), 10, 10);
        for n in 0..10 * IDLE_USERS_MAX {
            drop(admission.enqueue(&user(&format!("u{n}"))));
        }
        assert!(admission.users.lock().expect("not poisoned").len() <= IDLE_USERS_MAX);
    }
}
