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
