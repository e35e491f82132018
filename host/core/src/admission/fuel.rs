//! The fuel that a user's runs may take in a minute: an account that fills up evenly, and can be overdrawn by runs that
//! take more than was reserved for them.

use crate::quota::LiveQuota;
use std::time::{Duration, Instant};

const MINUTE_NS: i128 = 60_000_000_000;

/// One user's account. It counts in units of fuel times the nanoseconds of a minute: a nanosecond brings as many of these as
/// the quota has fuel in a minute, so that nothing is rounded and hardly ever divided.
#[derive(Debug)]
pub(super) struct FuelAccount {
    /// Less than nothing while it is overdrawn.
    left: i128,
    filled_at: Instant,
}

impl FuelAccount {
    pub(super) fn full(quota: &LiveQuota, at: Instant) -> Self {
        Self { left: whole(quota.get(|quota| quota.fuel_per_minute)), filled_at: at }
    }

    fn fill(&mut self, per_minute: u64, at: Instant) {
        // In 64 bits there is room for centuries.
        let elapsed_ns = u64::try_from(at.saturating_duration_since(self.filled_at).as_nanos()).unwrap_or(u64::MAX);
        let gained = i128::from(per_minute).saturating_mul(elapsed_ns.into());
        self.left = self.left.saturating_add(gained).min(whole(per_minute));
        self.filled_at = self.filled_at.max(at);
    }

    /// Takes what a run is likely to need: its own limit, but no more than an even part for each of the user's runs at
    /// once, so that these are as many as the quota has. Gives what was taken, or when there will be enough.
    pub(super) fn reserve(&mut self, quota: &LiveQuota, limit: u64, at: Instant) -> Result<u64, Instant> {
        let (per_minute, at_once) = quota.get(|quota| (quota.fuel_per_minute, quota.runs_at_once));
        self.fill(per_minute, at);
        let want = limit.min(per_minute / u64::from(at_once.max(1)));
        let missing = whole(want) - self.left;
        if missing > 0 {
            let wait_ns = missing / i128::from(per_minute.max(1));
            let wait = Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX / 2));
            // A little later rather than a little too early.
            return Err(at + wait.min(Duration::from_secs(3_600)) + Duration::from_millis(1));
        }
        self.left -= whole(want);
        Ok(want)
    }

    /// What was reserved comes back, and what was used is taken.
    pub(super) fn settle(&mut self, reserved: u64, used: u64) {
        self.left = self.left.saturating_add(whole(reserved) - whole(used));
    }

    pub(super) fn left(&mut self, quota: &LiveQuota, at: Instant) -> u64 {
        self.fill(quota.get(|quota| quota.fuel_per_minute), at);
        u64::try_from(self.left / MINUTE_NS).unwrap_or(0)
    }

    pub(super) fn is_full(&mut self, quota: &LiveQuota, at: Instant) -> bool {
        let per_minute = quota.get(|quota| quota.fuel_per_minute);
        self.fill(per_minute, at);
        self.left >= whole(per_minute)
    }
}

/// So many units, as an account counts them.
fn whole(fuel: u64) -> i128 {
    i128::from(fuel) * MINUTE_NS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;

    fn quota(fuel_per_minute: u64, runs_at_once: u32) -> LiveQuota {
        LiveQuota::fixed(Quota { fuel_per_minute, runs_at_once, ..Quota::default() })
    }

    #[test]
    fn a_minutes_fuel_is_there_at_once_and_comes_back_evenly() {
        let quota = quota(600_000, 2);
        let mut account = FuelAccount::full(&quota, Instant::now());
        let start = account.filled_at;
        assert_eq!(account.reserve(&quota, 1_000_000, start), Ok(300_000), "an even part for each run at once");
        assert_eq!(account.reserve(&quota, 1_000_000, start), Ok(300_000));
        let until = account.reserve(&quota, 100_000, start).expect_err("nothing left");
        assert_eq!(until, start + Duration::from_millis(10_001));
        account.settle(300_000, 50_000);
        assert_eq!(account.left(&quota, start), 250_000);
        assert_eq!(account.left(&quota, start + Duration::from_secs(10)), 350_000);
        assert_eq!(account.left(&quota, start + Duration::from_secs(3_600)), 600_000);
    }

    #[test]
    fn what_was_overdrawn_has_to_come_back_first() {
        let quota = quota(600_000, 6);
        let mut account = FuelAccount::full(&quota, Instant::now());
        let start = account.filled_at;
        let reserved = account.reserve(&quota, 1_000_000, start).expect("there");
        account.settle(reserved, 1_000_000);
        assert_eq!(account.left(&quota, start), 0);
        let until = account.reserve(&quota, 100_000, start).expect_err("overdrawn");
        assert_eq!(until, start + Duration::from_millis(50_001));
        assert!(account.reserve(&quota, 100_000, until).is_ok());
    }

    #[test]
    fn looking_often_loses_nothing() {
        let quota = quota(100_000, 1);
        let mut account = FuelAccount::full(&quota, Instant::now());
        let start = account.filled_at;
        account.settle(0, 100_000);
        for step in 1..=10_000 {
            account.left(&quota, start + Duration::from_micros(100 * step));
        }
        assert!((1_660..=1_667).contains(&account.left(&quota, start + Duration::from_secs(1))));
    }
}
