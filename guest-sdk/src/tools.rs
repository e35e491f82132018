//! Calling tools.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::json;
use crate::wit::{tools, types};

/// A tool that this run may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolInfo {
    /// Full name: `family.verb` for the host's own tools (`file.read`), `plugin.tool` for a plugin's.
    pub name: String,
    /// What it does, for a person or a model to read.
    pub description: String,
    /// JSON Schema of the arguments, as a JSON text.
    pub input_schema: String,
    /// Whether a second call with the same arguments, of which nobody knows whether the first one came to its end, does no
    /// harm. A durable run makes such a call again after a crash; of any other it learns [`ToolError::OutcomeUnknown`].
    pub idempotent: bool,
}

/// Why a tool call came to nothing.
///
/// Seen by an agent that calls a tool, and returned by a tool plugin whose tool cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolError {
    /// There is no such tool. The text names the nearest one.
    UnknownTool(String),
    /// The tool exists, but this run may not call it. The text says what is missing from the declaration or grant.
    Denied(String),
    /// The arguments are not what the tool's schema asks. The text says what and where.
    InvalidArguments(String),
    /// The arguments or the answer are larger than the limit, given in bytes.
    TooLarge(u64),
    /// The run has used up a budget (calls, calls in flight, storage). The text names it with its value.
    Exhausted(String),
    /// The thing asked for does not exist: a missing file, for example.
    NotFound(String),
    /// The tool ran and failed.
    Failed(String),
    /// The host went away while the tool ran, and the tool is not [idempotent](ToolInfo::idempotent). It may have done its
    /// work, or some of it, or none: look before you call it again.
    OutcomeUnknown(String),
    /// The tool answered, but not with what the caller's type expects. The text says what and where.
    UnexpectedAnswer(String),
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ToolError::UnknownTool(text) => write!(f, "unknown tool: {text}"),
            ToolError::Denied(text) => write!(f, "denied: {text}"),
            ToolError::InvalidArguments(text) => write!(f, "invalid arguments: {text}"),
            ToolError::TooLarge(limit) => write!(f, "the arguments or the answer are larger than {limit} bytes"),
            ToolError::Exhausted(text) => write!(f, "budget used up: {text}"),
            ToolError::NotFound(text) => write!(f, "not found: {text}"),
            ToolError::Failed(text) => write!(f, "the tool failed: {text}"),
            ToolError::OutcomeUnknown(text) => write!(f, "nobody knows what the tool did: {text}"),
            ToolError::UnexpectedAnswer(text) => write!(f, "unexpected answer: {text}"),
        }
    }
}

impl std::error::Error for ToolError {}

impl From<types::ToolError> for ToolError {
    fn from(error: types::ToolError) -> ToolError {
        match error {
            types::ToolError::UnknownTool(text) => ToolError::UnknownTool(text),
            types::ToolError::Denied(text) => ToolError::Denied(text),
            types::ToolError::InvalidArguments(text) => ToolError::InvalidArguments(text),
            types::ToolError::TooLarge(limit) => ToolError::TooLarge(limit),
            types::ToolError::Exhausted(text) => ToolError::Exhausted(text),
            types::ToolError::NotFound(text) => ToolError::NotFound(text),
            types::ToolError::Failed(text) => ToolError::Failed(text),
            types::ToolError::OutcomeUnknown(text) => ToolError::OutcomeUnknown(text),
        }
    }
}

impl From<ToolError> for types::ToolError {
    fn from(error: ToolError) -> types::ToolError {
        match error {
            ToolError::UnknownTool(text) => types::ToolError::UnknownTool(text),
            ToolError::Denied(text) => types::ToolError::Denied(text),
            ToolError::InvalidArguments(text) => types::ToolError::InvalidArguments(text),
            ToolError::TooLarge(limit) => types::ToolError::TooLarge(limit),
            ToolError::Exhausted(text) => types::ToolError::Exhausted(text),
            ToolError::NotFound(text) => types::ToolError::NotFound(text),
            ToolError::Failed(text) => types::ToolError::Failed(text),
            ToolError::OutcomeUnknown(text) => types::ToolError::OutcomeUnknown(text),
            // An answer has no such case for its own caller: there it is the tool that failed.
            ToolError::UnexpectedAnswer(_) => types::ToolError::Failed(error.to_string()),
        }
    }
}

impl From<types::Tool> for ToolInfo {
    fn from(tool: types::Tool) -> ToolInfo {
        ToolInfo {
            name: tool.name,
            description: tool.description,
            input_schema: tool.input_schema,
            idempotent: tool.idempotent,
        }
    }
}

/// A tool call under way, from [`Context::start`](crate::Context::start).
///
/// Dropping it abandons the answer; the call itself may still finish, and it has been counted.
#[must_use = "the answer is lost unless it is waited for"]
pub struct Pending<R> {
    name: String,
    call: tools::Pending,
    answer: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Pending<R> {
    /// Whether the answer is there, so that [`wait`](Pending::wait) would not wait.
    pub fn ready(&self) -> bool {
        self.call.ready()
    }

    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`Context::call`](crate::Context::call).
    pub fn wait(self) -> Result<R, ToolError> {
        read_answer(&self.name, &tools::Pending::wait(self.call)?)
    }
}

impl<R> fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(crate) fn call<R: DeserializeOwned>(name: &str, arguments: &impl Serialize) -> Result<R, ToolError> {
    read_answer(name, &tools::call(name, &write_arguments(name, arguments)?)?)
}

pub(crate) fn start<R: DeserializeOwned>(name: &str, arguments: &impl Serialize) -> Result<Pending<R>, ToolError> {
    let call = tools::start(name, &write_arguments(name, arguments)?)?;
    Ok(Pending { name: name.to_owned(), call, answer: PhantomData })
}

fn write_arguments(name: &str, arguments: &impl Serialize) -> Result<String, ToolError> {
    serde_json::to_string(arguments).map_err(|why| {
        ToolError::InvalidArguments(format!("the arguments of `{name}` cannot be written as JSON: {why}"))
    })
}

fn read_answer<R: DeserializeOwned>(name: &str, answer: &str) -> Result<R, ToolError> {
    json::parse(answer).map_err(|why| ToolError::UnexpectedAnswer(format!("from `{name}`: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_shape_is_unexpected_and_named() {
        match read_answer::<Vec<u8>>("units.list", r#"[1,"two"]"#) {
            Err(ToolError::UnexpectedAnswer(text)) => {
                assert!(text.contains("`units.list`") && text.contains("at `[1]`"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_that_are_not_json_never_reach_the_host() {
        // JSON has no keys but strings.
        let arguments = std::collections::BTreeMap::from([(vec![1], 2)]);
        assert!(matches!(call::<()>("units.list", &arguments), Err(ToolError::InvalidArguments(_))));
    }

    #[test]
    fn errors_survive_the_way_through_the_contract() {
        for error in [
            ToolError::UnknownTool("a".into()),
            ToolError::Denied("b".into()),
            ToolError::InvalidArguments("c".into()),
            ToolError::TooLarge(4),
            ToolError::Exhausted("e".into()),
            ToolError::NotFound("f".into()),
            ToolError::Failed("g".into()),
            ToolError::OutcomeUnknown("h".into()),
        ] {
            assert_eq!(ToolError::from(types::ToolError::from(error.clone())), error);
        }
    }
}
