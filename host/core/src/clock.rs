//! The time, to the microsecond: what storage keeps, so that a time read back equals the one that was told first.

use jiff::Timestamp;

/// Now.
#[must_use]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}
