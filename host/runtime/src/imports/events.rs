//! `events`: what the client sees of the run while it lasts.

use crate::{
    bindings::events::{EventError, Host, Level},
    sandbox::{Guest, HostFailure},
};
use cofferdam_core::{
    Json,
    context::BudgetSpent,
    event::{Event, LogLevel},
    quota::{HOST_CALL_BYTES_MAX, LOG_LINE_BYTES_MAX},
    record::Asked,
};

/// The longest name of an agent's own event, in bytes.
const NAME_BYTES_MAX: usize = 64;

type Emitted = wasmtime::Result<Result<(), EventError>>;

fn bounded(text: &str, bytes_max: usize) -> Result<(), EventError> {
    if text.len() > bytes_max { Err(EventError::TooLarge(bytes_max as u64)) } else { Ok(()) }
}

fn custom(name: String, payload: String) -> Result<Event, EventError> {
    bounded(&payload, HOST_CALL_BYTES_MAX)?;
    let mut letters = name.bytes();
    let valid = name.len() <= NAME_BYTES_MAX
        && letters.next().is_some_and(|b| b.is_ascii_lowercase())
        && letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'));
    if !valid {
        let rule = "an event's name is 1 to 64 characters of a-z, 0-9, '_', '-' and '.', the first a letter";
        return Err(EventError::Invalid(rule.into()));
    }
    let payload = Json::parse(payload).map_err(|e| EventError::Invalid(format!("the payload is {e}")))?;
    Ok(Event::Custom { name, payload })
}

fn progress(fraction: f64, note: String) -> Result<Event, EventError> {
    bounded(&note, HOST_CALL_BYTES_MAX)?;
    // NaN is in no range.
    if (0.0..=1.0).contains(&fraction) {
        Ok(Event::Progress { fraction, note })
    } else {
        Err(EventError::Invalid(format!("the fraction is {fraction}, but must be from 0 to 1")))
    }
}

impl Guest {
    /// An event that was taken is kept in the log, which says all that the record would; what was refused is kept here,
    /// with how many were taken before it.
    async fn emit_event(&mut self, event: Result<Event, EventError>) -> Emitted {
        let asked = Asked::of("events").value(self.events_said);
        if let Some(refused) = self.recall_rare(&asked) {
            return Ok(refused);
        }
        let emitted = self.take_event(event).await?;
        match &emitted {
            Ok(()) => self.events_said += 1,
            Err(_) => self.record(|| asked, &emitted),
        }
        Ok(emitted)
    }

    async fn take_event(&mut self, event: Result<Event, EventError>) -> Emitted {
        let event = match event {
            Ok(event) => event,
            Err(error) => return Ok(Err(error)),
        };
        let is_log_line = matches!(event, Event::Log { .. });
        // What there was no room for is known as refused.
        let says_again = self.recorder.as_ref().is_some_and(|recorder| recorder.says_again(&event));
        let taken = self.ctx.may_call_host().and_then(|()| match (says_again, is_log_line) {
            (true, _) => {
                self.ctx.note_event(event.bytes(), is_log_line);
                Ok(())
            }
            (false, true) => self.ctx.take_log_line(event.bytes()),
            (false, false) => self.ctx.take_event(event.bytes()),
        });
        match taken {
            Ok(()) => {}
            Err(BudgetSpent::EventBytes(bytes) | BudgetSpent::LogBytes(bytes)) => {
                return Ok(Err(EventError::Full(bytes)));
            }
            Err(spent @ BudgetSpent::HostCalls(_)) => return Ok(Err(EventError::Exhausted(spent.to_string()))),
            Err(_) => return Ok(Err(EventError::TooMany(self.ctx.quota().events_per_run))),
        }
        match &self.recorder {
            Some(recorder) => recorder.say(event).await.map_err(HostFailure::storage)??,
            // A tool's events are its caller's, in whatever order they come.
            None => self.journal()?.append(event).await.map_err(HostFailure::storage)?,
        }
        Ok(Ok(()))
    }
}

impl Host for Guest {
    async fn thinking(&mut self, text: String) -> Emitted {
        let event = bounded(&text, HOST_CALL_BYTES_MAX).map(|()| Event::AgentThinking { text });
        self.emit_event(event).await
    }

    async fn progress(&mut self, fraction: f64, note: String) -> Emitted {
        self.emit_event(progress(fraction, note)).await
    }

    async fn emit(&mut self, name: String, payload: String) -> Emitted {
        self.emit_event(custom(name, payload)).await
    }

    async fn log(&mut self, level: Level, text: String) -> Emitted {
        let level = match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let event = bounded(&text, LOG_LINE_BYTES_MAX).map(|()| Event::Log { level, text });
        self.emit_event(event).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_event_may_be_is_checked_at_its_edges() {
        assert!(matches!(progress(f64::NAN, String::new()), Err(EventError::Invalid(_))));
        assert!(matches!(progress(1.000_001, String::new()), Err(EventError::Invalid(_))));
        assert!(progress(1.0, String::new()).is_ok() && progress(0.0, "x".repeat(HOST_CALL_BYTES_MAX)).is_ok());
        assert!(matches!(progress(0.0, "x".repeat(HOST_CALL_BYTES_MAX + 1)), Err(EventError::TooLarge(_))));
        for name in ["", "A", "1a", "a b", "a\n", &"a".repeat(65)] {
            assert!(matches!(custom(name.into(), "1".into()), Err(EventError::Invalid(_))), "{name:?} was taken");
        }
        assert!(custom("a".repeat(64), "{}".into()).is_ok());
        assert!(matches!(custom("a".into(), "{".into()), Err(EventError::Invalid(_))));
    }
}
