//! What may be taken: limits with their units in their names.

mod levels;
mod rows;

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};

pub use levels::{Document, LiveQuota, QuotaError, Quotas, TIER_DEFAULT, TIERS_MAX, USER_QUOTAS_MAX, UserQuota};
pub use rows::{Quota, QuotaEdit, Row, RowError};

/// The largest input that any run can have, in bytes. Protects the host's memory and storage; more is refused with 413.
pub const RUN_INPUT_BYTES_MAX: usize = 4 << 20;
/// The largest output that any run can have, in bytes. More ends the run as `output_too_large`.
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
}
