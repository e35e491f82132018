//! The time, to the microsecond: what storage keeps, so that a time read back equals the one that was told first.

use jiff::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    let us = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    // A clock that stands where no calendar is.
    us.and_then(|us| Timestamp::from_microsecond(us).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}
