//! Waits that hold no sandbox.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::wit::types;

/// Why a run did not wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// What was asked is out of bounds. The text says what, and the bounds.
    Invalid(String),
    /// This run cannot be put away. The text says why.
    Unavailable(String),
    /// The user has as many runs that wait as may be, or the run has made as many host calls as it may. The text says which.
    Exhausted(String),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitError::Invalid(text) => write!(f, "the wait is not valid: {text}"),
            WaitError::Unavailable(text) => write!(f, "the run cannot wait: {text}"),
            WaitError::Exhausted(text) => write!(f, "no wait is left: {text}"),
        }
    }
}

impl std::error::Error for WaitError {}

impl From<types::WaitError> for WaitError {
    fn from(error: types::WaitError) -> WaitError {
        match error {
            types::WaitError::Invalid(text) => WaitError::Invalid(text),
            types::WaitError::Unavailable(text) => WaitError::Unavailable(text),
            types::WaitError::Exhausted(text) => WaitError::Exhausted(text),
        }
    }
}

/// A time as the contract has it. A time before 1970 is past like any other.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    unix_ms_after(time, Duration::ZERO)
}

/// The time that comes so long after another. What is beyond all bounds is left for the host to refuse.
pub(crate) fn unix_ms_after(time: SystemTime, duration: Duration) -> u64 {
    ms_rounded_up(time.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(duration))
}

/// Rounded up, so that nothing is over before its time.
pub(crate) fn ms_rounded_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_over_before_its_time() {
        assert_eq!(unix_ms(UNIX_EPOCH + Duration::from_millis(7)), 7);
        assert_eq!(unix_ms(UNIX_EPOCH + Duration::from_nanos(7_000_001)), 8);
        assert_eq!(unix_ms_after(UNIX_EPOCH + Duration::from_micros(600), Duration::from_micros(600)), 2);
    }

    #[test]
    fn times_beyond_all_bounds_are_left_for_the_host_to_judge() {
        assert_eq!(unix_ms(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(unix_ms_after(UNIX_EPOCH, Duration::MAX), u64::MAX);
        assert_eq!(unix_ms_after(SystemTime::now(), Duration::MAX), u64::MAX);
    }
}
