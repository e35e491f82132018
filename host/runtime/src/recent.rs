//! How much of the processors each user's runs took lately.

use cofferdam_core::ids::UserId;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What counts as lately: so many slices of so long. A slice goes as a whole.
const SLICES: usize = 6;
const SLICE: Duration = Duration::from_secs(10);

/// How many users are remembered before those are forgotten whose runs are all longer ago.
const IDLE_USERS_MAX: usize = 1_024;

/// By user, what their runs took.
#[derive(Debug)]
pub struct RecentActivity {
    begun: Instant,
    users: Mutex<HashMap<UserId, [Slice; SLICES]>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    /// Which slice since the beginning, from 1.
    number: u64,
    active: Duration,
}

impl RecentActivity {
    /// Of a host that begins.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { begun: now, users: Mutex::default() }
    }

    /// A run has ended that took so much in all, over so long. Of a run that is longer than the window, the part counts
    /// that fits: it is taken to have been as busy all the time.
    pub fn ended(&self, user: &UserId, active: Duration, wall: Duration, now: Instant) {
        let window = self.window(now);
        let active = if wall > window { active.mul_f64(window.as_secs_f64() / wall.as_secs_f64()) } else { active };
        let number = self.number(now);
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= IDLE_USERS_MAX && !users.contains_key(user) {
            users.retain(|_, slices| slices.iter().any(|slice| is_recent(slice.number, number)));
        }
        let slices = users.entry(user.clone()).or_default();
        // Over the slices in which it ran, from the last one on: they are all within the window.
        let slots = SLICES as u64;
        let spans = (wall.as_secs() / SLICE.as_secs() + 1).min(slots).min(number);
        let part = active / u32::try_from(spans).unwrap_or(1);
        for number in (number + 1 - spans)..=number {
            if let Some(slice) = slices.get_mut(usize::try_from(number % slots).unwrap_or(0)) {
                if slice.number != number {
                    *slice = Slice { number, active: Duration::ZERO };
                }
                slice.active += part;
            }
        }
    }

    /// What the user's runs that ended lately took, in hundredths of one processor over that time, to the thousandth.
    #[must_use]
    pub fn cpu_percent(&self, user: &UserId, now: Instant) -> f64 {
        let number = self.number(now);
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slices) = users.get(user) else { return 0.0 };
        let active: Duration = slices.iter().filter(|slice| is_recent(slice.number, number)).map(|s| s.active).sum();
        let percent = 100.0 * active.as_secs_f64() / self.window(now).as_secs_f64();
        (1_000.0 * percent).round() / 1_000.0
    }

    /// How long the slices cover now: the one under way has only begun, and so may the host have.
    fn window(&self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.begun);
        let whole = SLICE * u32::try_from(SLICES - 1).unwrap_or(0);
        let under_way = Duration::from_secs(since.as_secs() % SLICE.as_secs()) + Duration::from_secs(1);
        since.max(Duration::from_secs(1)).min(whole + under_way)
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs() / SLICE.as_secs() + 1
    }
}

const fn is_recent(slice: u64, now: u64) -> bool {
    slice + SLICES as u64 > now && slice > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_ago_counts_no_more_and_its_user_is_forgotten() {
        let begun = Instant::now();
        let recent = RecentActivity::new(begun);
        let user = |n: usize| format!("u{n}").parse::<UserId>().expect("a user id");
        let at = |s| begun + Duration::from_secs(s);
        recent.ended(&user(0), Duration::from_secs(6), Duration::from_secs(8), at(59));
        let percent = recent.cpu_percent(&user(0), at(59));
        assert!((9.0..11.5).contains(&percent), "{percent}");
        assert!(percent.to_string().len() <= "10.169".len(), "{percent}");
        assert!(recent.cpu_percent(&user(1), at(59)) == 0.0);
        assert!(recent.cpu_percent(&user(0), at(130)) == 0.0);
        for n in 0..3 * IDLE_USERS_MAX {
            recent.ended(&user(n), Duration::ZERO, Duration::ZERO, at(130 + 60 * n as u64));
        }
        assert!(recent.users.lock().expect("whole").len() <= IDLE_USERS_MAX);
    }

    #[test]
    fn a_run_longer_than_the_window_counts_for_the_part_that_fits() {
        let begun = Instant::now();
        let recent = RecentActivity::new(begun);
        let user = "ann".parse::<UserId>().expect("a user id");
        let busy = Duration::from_secs(600);
        recent.ended(&user, busy, busy, begun + busy);
        let percent = recent.cpu_percent(&user, begun + busy);
        assert!((80.0..=101.0).contains(&percent), "{percent}");
    }
}
