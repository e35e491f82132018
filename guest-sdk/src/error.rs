//! How a run fails.

use std::fmt;

use crate::wit::agents::{AgentError, Failure};
use crate::{AskError, ChildError, EventError, SpawnError, StateError, ToolError, WaitError};

/// The longest code, in characters, as the contract has it.
const CODE_CHARS_MAX: usize = 64;

/// Why a run failed, as the client sees it.
///
/// The errors of tools, events, state, waits, questions and children become an `Error` by `?`: what the host denied is [`Error::Denied`], all
/// else is [`Error::Failed`] with a code of its own.
///
/// ```
/// use cofferdam_sdk::{Error, ToolError};
///
/// assert!(matches!(Error::from(ToolError::Denied("no grant".into())), Error::Denied(_)));
/// assert!(matches!(Error::from(ToolError::NotFound("a.csv".into())), Error::Failed { code, .. } if code == "not_found"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The input is not what the agent takes. The text says what and where, and what to do.
    InvalidInput(String),
    /// The host refused something that the agent cannot do without. The text says what.
    Denied(String),
    /// Anything else.
    Failed {
        /// For programs: 1 to 64 characters of `a-z`, `0-9` and `_`.
        code: String,
        /// For people. The host keeps at most 4 KiB.
        message: String,
    },
}

impl Error {
    /// The input is not what the agent takes: say what is wrong, where, and what to do.
    pub fn invalid_input(text: impl Into<String>) -> Error {
        Error::InvalidInput(text.into())
    }

    /// The host refused something that the agent cannot do without.
    pub fn denied(text: impl Into<String>) -> Error {
        Error::Denied(text.into())
    }

    /// Anything else: a `code` for programs to switch on and a message for people.
    ///
    /// A code is 1 to 64 characters of `a-z`, `0-9` and `_`. Capitals become small, any other character becomes `_`,
    /// what is too long is cut, and no code at all becomes `failed`.
    ///
    /// ```
    /// use cofferdam_sdk::Error;
    ///
    /// let error = Error::failed("no_rows", "weather.csv has a header but no rows");
    /// ```
    pub fn failed(code: &str, message: impl Into<String>) -> Error {
        let code: String = code
            .chars()
            .take(CODE_CHARS_MAX)
            .map(|c| match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9' | '_') => c,
                _ => '_',
            })
            .collect();
        Error::Failed { code: if code.is_empty() { "failed".to_owned() } else { code }, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InvalidInput(text) => write!(f, "invalid input: {text}"),
            Error::Denied(text) => write!(f, "denied: {text}"),
            Error::Failed { code, message } => write!(f, "{code}: {message}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<ToolError> for Error {
    fn from(error: ToolError) -> Error {
        let code = match &error {
            ToolError::Denied(text) => return Error::Denied(text.clone()),
            ToolError::UnknownTool(_) => "unknown_tool",
            ToolError::InvalidArguments(_) => "invalid_arguments",
            ToolError::TooLarge(_) => "too_large",
            ToolError::Exhausted(_) => "exhausted",
            ToolError::NotFound(_) => "not_found",
            ToolError::Failed(_) => "tool_failed",
            ToolError::OutcomeUnknown(_) => "outcome_unknown",
            ToolError::UnexpectedAnswer(_) => "unexpected_answer",
        };
        Error::failed(code, error.to_string())
    }
}

impl From<EventError> for Error {
    fn from(error: EventError) -> Error {
        let code = match &error {
            EventError::TooMany(_) => "too_many_events",
            EventError::TooLarge(_) => "event_too_large",
            EventError::Full(_) => "events_full",
            EventError::Exhausted(_) => "host_calls_exhausted",
            EventError::Invalid(_) => "invalid_event",
        };
        Error::failed(code, error.to_string())
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Error {
        let code = match &error {
            StateError::Denied(text) => return Error::Denied(text.clone()),
            StateError::Invalid(_) => "invalid_state_request",
            StateError::TooLarge(_) => "state_value_too_large",
            StateError::Full(_) => "state_full",
            StateError::Conflict(_) => "state_conflict",
            StateError::Unavailable => "state_unavailable",
            StateError::Exhausted(_) => "host_calls_exhausted",
            StateError::NotJson(_) => "state_value_not_json",
        };
        Error::failed(code, error.to_string())
    }
}

impl From<WaitError> for Error {
    fn from(error: WaitError) -> Error {
        let code = match &error {
            WaitError::Invalid(_) => "invalid_wait",
            WaitError::Unavailable(_) => "wait_unavailable",
            WaitError::Exhausted(_) => "waits_exhausted",
        };
        Error::failed(code, error.to_string())
    }
}

impl From<AskError> for Error {
    fn from(error: AskError) -> Error {
        let code = match &error {
            AskError::Denied(text) => return Error::Denied(text.clone()),
            AskError::Invalid(_) => "invalid_question",
            AskError::Expired => "question_expired",
            AskError::Unavailable(_) => "question_unavailable",
            AskError::Exhausted(_) => "questions_exhausted",
            AskError::UnexpectedAnswer(_) => "unexpected_human_answer",
        };
        Error::failed(code, error.to_string())
    }
}

impl From<SpawnError> for Error {
    fn from(error: SpawnError) -> Error {
        let code = match &error {
            SpawnError::Denied(text) => return Error::Denied(text.clone()),
            SpawnError::UnknownAgent(_) => "unknown_agent",
            SpawnError::Invalid(_) => "invalid_child",
            SpawnError::TooMany(_) => "too_many_children",
            SpawnError::Exhausted(_) => "children_exhausted",
            SpawnError::Unavailable(_) => "children_unavailable",
        };
        Error::failed(code, error.to_string())
    }
}

impl From<ChildError> for Error {
    fn from(error: ChildError) -> Error {
        let code = match error {
            // What kept this run from waiting is the same, whatever it waited for.
            ChildError::Wait(error) => return error.into(),
            ChildError::Failed(_) => "child_failed",
            ChildError::UnexpectedOutput(_) => "unexpected_child_output",
        };
        Error::failed(code, error.to_string())
    }
}

impl From<Error> for AgentError {
    fn from(error: Error) -> AgentError {
        match error {
            Error::InvalidInput(text) => AgentError::InvalidInput(text),
            Error::Denied(text) => AgentError::Denied(text),
            Error::Failed { code, message } => AgentError::Failed(Failure { code, message }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChildFailure;

    fn code_of(error: impl Into<Error>) -> String {
        match error.into() {
            Error::Failed { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_host_denied_stays_denied() {
        assert_eq!(Error::from(ToolError::Denied("no grant".into())), Error::denied("no grant"));
        assert_eq!(Error::from(StateError::Denied("no grant".into())), Error::denied("no grant"));
        assert_eq!(Error::from(AskError::Denied("no grant".into())), Error::denied("no grant"));
        assert_eq!(Error::from(SpawnError::Denied("no grant".into())), Error::denied("no grant"));
    }

    #[test]
    fn every_other_refusal_fails_with_a_code_of_its_own() {
        let codes = [
            code_of(ToolError::UnknownTool("x".into())),
            code_of(ToolError::InvalidArguments("x".into())),
            code_of(ToolError::TooLarge(1)),
            code_of(ToolError::Exhausted("x".into())),
            code_of(ToolError::NotFound("x".into())),
            code_of(ToolError::Failed("x".into())),
            code_of(ToolError::OutcomeUnknown("x".into())),
            code_of(ToolError::UnexpectedAnswer("x".into())),
            code_of(EventError::TooMany(1)),
            code_of(EventError::TooLarge(1)),
            code_of(EventError::Invalid("x".into())),
            code_of(StateError::Invalid("x".into())),
            code_of(StateError::TooLarge(1)),
            code_of(StateError::Full(1)),
            code_of(StateError::Conflict(None)),
            code_of(StateError::Unavailable),
            code_of(StateError::NotJson("x".into())),
            code_of(WaitError::Invalid("x".into())),
            code_of(WaitError::Unavailable("x".into())),
            code_of(WaitError::Exhausted("x".into())),
            code_of(AskError::Invalid("x".into())),
            code_of(AskError::Expired),
            code_of(AskError::Unavailable("x".into())),
            code_of(AskError::Exhausted("x".into())),
            code_of(AskError::UnexpectedAnswer("x".into())),
            code_of(SpawnError::UnknownAgent("x".into())),
            code_of(SpawnError::Invalid("x".into())),
            code_of(SpawnError::TooMany("x".into())),
            code_of(SpawnError::Exhausted("x".into())),
            code_of(SpawnError::Unavailable("x".into())),
            code_of(ChildError::Failed(a_failure())),
            code_of(ChildError::UnexpectedOutput("x".into())),
        ];
        let distinct: std::collections::BTreeSet<_> = codes.iter().collect();
        assert_eq!(distinct.len(), codes.len());
    }

    fn a_failure() -> ChildFailure {
        ChildFailure { stop_reason: "guest_error".into(), code: "no_rows".into(), message: "it has no rows".into() }
    }

    #[test]
    fn a_child_that_could_not_be_waited_for_fails_as_any_wait_does_and_one_that_failed_says_how() {
        assert_eq!(code_of(ChildError::Wait(WaitError::Exhausted("x".into()))), "waits_exhausted");
        let text = Error::from(ChildError::Failed(a_failure())).to_string();
        assert_eq!(text, "child_failed: the child ended as guest_error (no_rows): it has no rows");
    }

    #[test]
    fn a_code_always_fits_the_contract() {
        assert_eq!(code_of(Error::failed("no_rows", "m")), "no_rows");
        assert_eq!(code_of(Error::failed("No Rows!", "m")), "no_rows_");
        assert_eq!(code_of(Error::failed("", "m")), "failed");
        assert_eq!(code_of(Error::failed(&"é".repeat(65), "m")), "_".repeat(64));
    }
}
