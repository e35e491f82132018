//! What the client sees of a run while it lasts.

use std::fmt;

use crate::wit::events;

/// Weight of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever works on the agent.
    Debug,
    /// What happened.
    Info,
    /// Something is odd, and the run goes on.
    Warn,
    /// Something failed.
    Error,
}

/// Why an event was not recorded. The run may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventError {
    /// The run has emitted as many events as it may; the number is the limit (10,000 by default).
    TooMany(u32),
    /// The text or payload is over the limit, given in bytes (1 MiB; 8 KiB for a log line).
    TooLarge(u64),
    /// The run's events together, or its log lines, have as many bytes as they may; the number is the limit (64 MiB, and
    /// 16 MiB for log lines, by default).
    Full(u64),
    /// The run has made as many host calls as it may. The text says how many.
    Exhausted(String),
    /// The name or payload is not what it should be. The text says why.
    Invalid(String),
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventError::TooMany(limit) => write!(f, "the run has emitted all of its {limit} events"),
            EventError::TooLarge(limit) => write!(f, "the event is larger than {limit} bytes"),
            EventError::Full(limit) => {
                write!(f, "the run's events have {limit} bytes together, which is as many as they may")
            }
            EventError::Exhausted(text) => write!(f, "{text}"),
            EventError::Invalid(why) => write!(f, "the event is not valid: {why}"),
        }
    }
}

impl std::error::Error for EventError {}

impl From<Level> for events::Level {
    fn from(level: Level) -> events::Level {
        match level {
            Level::Debug => events::Level::Debug,
            Level::Info => events::Level::Info,
            Level::Warn => events::Level::Warn,
            Level::Error => events::Level::Error,
        }
    }
}

impl From<events::EventError> for EventError {
    fn from(error: events::EventError) -> EventError {
        match error {
            events::EventError::TooMany(limit) => EventError::TooMany(limit),
            events::EventError::TooLarge(limit) => EventError::TooLarge(limit),
            events::EventError::Full(limit) => EventError::Full(limit),
            events::EventError::Exhausted(text) => EventError::Exhausted(text),
            events::EventError::Invalid(why) => EventError::Invalid(why),
        }
    }
}
