//! What stands in the place of tools and agents while an author tries an agent alone. A server has none.

use crate::bindings::types::ToolError;
use cofferdam_core::{Json, event::ToolFailure, quota::HOST_CALL_BYTES_MAX, run::RunError, run::StopReason};

/// Answers in the place of tools and agents. Permissions, budgets, events and the journal are as always; only what would
/// answer is another.
pub trait StandIns: std::fmt::Debug + Send + Sync {
    /// Full names of the tools that it answers for.
    fn tools(&self) -> Vec<String>;

    /// Whether it answers for a tool.
    fn has_tool(&self, tool: &str) -> bool;

    /// The answer of a tool.
    ///
    /// # Errors
    /// The tool's own: a code is the case of the contract's `tool-error` in snake case; any other is `failed`.
    fn call(&self, tool: &str, arguments: &Json) -> Result<Json, ToolFailure>;

    /// Whether it answers for an agent.
    fn has_agent(&self, agent: &str) -> bool;

    /// What a run of an agent ends with.
    ///
    /// # Errors
    /// Why it failed.
    fn run(&self, agent: &str, input: &Json) -> Result<Json, (StopReason, RunError)>;
}

/// Nothing stands in for anything.
#[derive(Debug)]
pub struct Nothing;

impl StandIns for Nothing {
    fn tools(&self) -> Vec<String> {
        Vec::new()
    }

    fn has_tool(&self, _: &str) -> bool {
        false
    }

    fn call(&self, tool: &str, _: &Json) -> Result<Json, ToolFailure> {
        Err(ToolFailure { code: "unknown_tool".into(), message: format!("nothing answers for {tool:?}") })
    }

    fn has_agent(&self, _: &str) -> bool {
        false
    }

    fn run(&self, agent: &str, _: &Json) -> Result<Json, (StopReason, RunError)> {
        let message = format!("nothing answers for {agent:?}");
        Err((StopReason::GuestError, RunError { code: "unknown_agent".into(), message }))
    }
}

/// What an author is told of a tool that is not there, after that it is not.
pub const TOOLS_HERE: &str = "without a server there are only the host's own tools, file.*, and what a case of `cofferdam test` answers for in \"tools\"";

/// The same of an agent.
pub const AGENTS_HERE: &str = "without a server an agent can start only itself, as \"agent\", and what a case of `cofferdam test` answers for in \"agents\"";

/// JSON Schema of what a tool takes that something stands in for: whatever it answers to.
pub const ANY_ARGUMENTS: &str = r#"{"type":"object"}"#;

/// The error that a guest is told.
pub fn tool_error(failure: ToolFailure) -> ToolError {
    let ToolFailure { code, message } = failure;
    match code.as_str() {
        "unknown_tool" => ToolError::UnknownTool(message),
        "denied" => ToolError::Denied(message),
        "invalid_arguments" => ToolError::InvalidArguments(message),
        "too_large" => ToolError::TooLarge(HOST_CALL_BYTES_MAX as u64),
        "exhausted" => ToolError::Exhausted(message),
        "not_found" => ToolError::NotFound(message),
        "outcome_unknown" => ToolError::OutcomeUnknown(message),
        _ => ToolError::Failed(message),
    }
}
