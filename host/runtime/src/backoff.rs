//! Slows plugins that keep failing: after some failures in a row, a user's next runs of the same component have to wait,
//! twice as long after each further failure, until one of them does not fail. Meanwhile they are tried one at a time, also
//! those that were taken before: otherwise a hundred submitted at once would all have their turn.

use cofferdam_core::{
    ids::{Digest, UserId},
    run::StopReason,
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The wait after the first failure too many.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait: whoever mends a plugin or its input is not kept out for longer.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Failing plugins that are remembered, of all users. Beyond, those whose wait is over are forgotten first.
const REMEMBERED_MAX: usize = 10_000;

/// A plugin keeps failing for a user: its next run has to wait. Nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the last {in_a_row} runs of this component for this user failed (the last as {}), so the next one has to wait {} s; mend the agent or its input, or submit again then",
    .last.as_str(), self.retry_after_s()
)]
pub struct BackingOff {
    /// How many failed one after another.
    pub in_a_row: u32,
    /// How the last one ended.
    pub last: StopReason,
    /// How long to wait.
    pub wait: Duration,
}

impl BackingOff {
    /// After how many seconds trying again makes sense.
    #[must_use]
    pub fn retry_after_s(&self) -> u32 {
        // Rounded up: whoever comes in the second named is let in.
        u32::try_from(self.wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
    }
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    in_a_row: u32,
    last: StopReason,
    until: Instant,
    /// Whether a run is under way that may show that it does not fail any more.
    trying: bool,
}

/// A run that may begin. Until it is dropped, it is the only one of a component that keeps failing.
#[derive(Debug)]
pub struct Try<'a> {
    backoff: &'a Backoff,
    of: Option<(UserId, Digest)>,
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.of.take()
            && let Some(failing) = self.backoff.failing().get_mut(&key)
        {
            failing.trying = false;
        }
    }
}

impl Failing {
    fn check(&self, now: Instant) -> Result<(), BackingOff> {
        let wait = self.until.saturating_duration_since(now);
        // How long the one that is under way takes is not known.
        let wait = if self.trying { wait.max(WAIT_MIN) } else { wait };
        if wait.is_zero() {
            return Ok(());
        }
        Err(BackingOff { in_a_row: self.in_a_row, last: self.last, wait })
    }
}

/// Which components keep failing for whom.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<(UserId, Digest), Failing>>);

impl Backoff {
    /// Whether the user's next run of this component may be taken now.
    ///
    /// # Errors
    /// When it has to wait.
    pub fn check(&self, user: &UserId, digest: Digest, now: Instant) -> Result<(), BackingOff> {
        let all = self.failing();
        if all.is_empty() {
            return Ok(());
        }
        all.get(&(user.clone(), digest)).map_or(Ok(()), |failing| failing.check(now))
    }

    /// Lets a run begin that was taken before, if it may now.
    ///
    /// # Errors
    /// When the component has kept failing meanwhile, and has to wait.
    pub fn begin(&self, user: &UserId, digest: Digest, failures_max: u32, now: Instant) -> Result<Try<'_>, BackingOff> {
        let mut all = self.failing();
        let key = (user.clone(), digest);
        let Some(failing) = all.get_mut(&key) else { return Ok(Try { backoff: self, of: None }) };
        failing.check(now)?;
        failing.trying = failing.in_a_row >= failures_max;
        Ok(Try { backoff: self, of: failing.trying.then_some(key) })
    }

    /// Takes note of how a run ended. A run that was stopped from outside says nothing about its plugin.
    pub fn ended(&self, user: &UserId, digest: Digest, reason: StopReason, failures_max: u32, now: Instant) {
        let failed = match reason {
            StopReason::Trap
            | StopReason::OutOfFuel
            | StopReason::MemoryLimit
            | StopReason::Deadline
            | StopReason::OutputTooLarge
            | StopReason::InvalidOutput
            | StopReason::Quota => true,
            StopReason::Completed | StopReason::GuestError | StopReason::Denied => false,
            StopReason::Cancelled | StopReason::HostShutdown | StopReason::OutcomeUnknown | StopReason::HostError => {
                return;
            }
        };
        let mut all = self.failing();
        let key = (user.clone(), digest);
        if !failed {
            all.remove(&key);
            return;
        }
        if all.len() >= REMEMBERED_MAX && !all.contains_key(&key) {
            all.retain(|_, failing| failing.until > now || failing.trying);
            if all.len() >= REMEMBERED_MAX {
                return;
            }
        }
        let failing = all.entry(key).or_insert(Failing { in_a_row: 0, last: reason, until: now, trying: false });
        failing.in_a_row = failing.in_a_row.saturating_add(1);
        failing.last = reason;
        if let Some(beyond) = failing.in_a_row.checked_sub(failures_max) {
            let wait = WAIT_MIN.saturating_mul(1_u32.checked_shl(beyond).unwrap_or(u32::MAX)).min(WAIT_MAX);
            failing.until = now + wait;
            tracing::warn!(%user, %digest, in_a_row = failing.in_a_row, reason = reason.as_str(), wait_s = wait.as_secs(),
                "a plugin keeps failing for a user; its next runs have to wait");
        }
    }

    fn failing(&self) -> MutexGuard<'_, HashMap<(UserId, Digest), Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_one_success_ends_them() {
        let (backoff, ann, digest) = (Backoff::default(), "ann".parse().expect("a user"), Digest::of(b"a"));
        let mut now = Instant::now();
        for n in 1..=12_u32 {
            assert_eq!(backoff.check(&ann, digest, now), Ok(()), "after {n} failures");
            backoff.ended(&ann, digest, StopReason::Trap, 3, now);
            let wait = if n < 3 { 0 } else { (1 << (n - 3)).min(60) };
            match backoff.check(&ann, digest, now) {
                Ok(()) => assert_eq!(wait, 0, "after {n} failures"),
                Err(off) => assert_eq!((off.retry_after_s(), off.in_a_row), (wait, n)),
            }
            now += Duration::from_secs(wait.into());
        }
        backoff.ended(&ann, digest, StopReason::Cancelled, 3, now);
        backoff.ended(&ann, digest, StopReason::Trap, 3, now);
        assert!(backoff.check(&ann, digest, now).is_err());
        backoff.ended(&ann, digest, StopReason::Completed, 3, now);
        assert_eq!(backoff.check(&ann, digest, now), Ok(()));
    }

    #[test]
    fn what_keeps_failing_is_tried_one_at_a_time() {
        let (backoff, ann, digest) = (Backoff::default(), "ann".parse().expect("a user"), Digest::of(b"a"));
        let now = Instant::now();
        let begin = |now| backoff.begin(&ann, digest, 2, now);
        let all: Vec<_> = (0..3).map(|_| begin(now).expect("nothing has failed yet")).collect();
        backoff.ended(&ann, digest, StopReason::Trap, 2, now);
        drop((begin(now).expect("once is not often"), begin(now).expect("nor is it later")));
        backoff.ended(&ann, digest, StopReason::Trap, 2, now);
        assert_eq!(begin(now).map(drop).map_err(|off| off.in_a_row), Err(2), "taken before, and not begun");
        drop(all);
        let later = now + WAIT_MIN;
        let one = begin(later).expect("it has waited");
        assert_eq!(begin(later).map(drop).map_err(|off| off.retry_after_s()), Err(1), "one is under way");
        assert!(backoff.check(&ann, digest, later).is_err(), "and no other is taken");
        drop(one);
        drop(begin(later).expect("that one did not say"));
        backoff.ended(&ann, digest, StopReason::Completed, 2, later);
        let _both = (begin(later).expect("all is well"), begin(later).expect("again"));
    }

    #[test]
    fn nobody_waits_for_anothers_failures() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let (ann, bob): (UserId, UserId) = ("ann".parse().expect("a user"), "bob".parse().expect("a user"));
        backoff.ended(&ann, Digest::of(b"a"), StopReason::OutOfFuel, 1, now);
        assert!(backoff.check(&ann, Digest::of(b"a"), now).is_err());
        assert!(backoff.check(&bob, Digest::of(b"a"), now).is_ok());
        assert!(backoff.check(&ann, Digest::of(b"b"), now).is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let ann = "ann".parse().expect("a user");
        for n in 0..REMEMBERED_MAX + 10 {
            backoff.ended(&ann, Digest::of(&n.to_le_bytes()), StopReason::Trap, 1, now);
        }
        assert_eq!(backoff.failing().len(), REMEMBERED_MAX);
        backoff.ended(&ann, Digest::of(b"later"), StopReason::Trap, 1, now + WAIT_MAX);
        assert_eq!(backoff.failing().len(), 1);
    }
}
