//! Agents that an agent starts.

use std::cell::OnceCell;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wit::agents;
use crate::{WaitError, json};

/// Limits of a child. What is not said is as [`inherited`](ChildLimits::inherited) has it.
///
/// ```
/// use cofferdam_sdk::ChildLimits;
/// use std::time::Duration;
///
/// let limits = ChildLimits::inherited().fuel(100_000_000).memory_bytes(64 << 20).deadline(Duration::from_secs(10));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildLimits {
    fuel: Option<u64>,
    memory_bytes: Option<u64>,
    deadline_ms: Option<u64>,
}

impl ChildLimits {
    /// A third of the fuel that is left to the parent, all of the time that is left to it, and as much memory as the user's
    /// quota allows.
    pub fn inherited() -> ChildLimits {
        ChildLimits::default()
    }

    /// So much fuel, about one unit per WebAssembly instruction. The parent does not have it meanwhile; what the child
    /// leaves comes back with [`Child::wait`]. More than the parent has left is [`SpawnError::Invalid`]; ask
    /// [`Context::budget`](crate::ToolContext::budget) how much that is, and keep some for what the parent itself has to do.
    pub fn fuel(mut self, fuel: u64) -> ChildLimits {
        self.fuel = Some(fuel);
        self
    }

    /// So many bytes of all memories and tables. More than the user's quota allows is [`SpawnError::Invalid`].
    pub fn memory_bytes(mut self, bytes: u64) -> ChildLimits {
        self.memory_bytes = Some(bytes);
        self
    }

    /// So long to execute, to the millisecond, and no longer than is left to the parent: this is a bound in time, and a later
    /// one changes nothing.
    pub fn deadline(mut self, duration: Duration) -> ChildLimits {
        // Rounded down: it is an upper bound. What is beyond all bounds is left for the host to refuse.
        self.deadline_ms = Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

impl From<ChildLimits> for agents::ChildLimits {
    fn from(limits: ChildLimits) -> agents::ChildLimits {
        let ChildLimits { fuel, memory_bytes, deadline_ms } = limits;
        agents::ChildLimits { fuel, memory_bytes, deadline_ms }
    }
}

/// Why a child was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// The plugin did not declare, or the user was not granted, this agent. The text says which, and what would mend it.
    Denied(String),
    /// There is no such agent. The text names the nearest one.
    UnknownAgent(String),
    /// The input or a limit is not what it must be. The text says which.
    Invalid(String),
    /// The tree of runs is as deep, or has as many runs, as it may, or what the user's finished runs take that have to stay is
    /// as much as may be kept. The text says which.
    TooMany(String),
    /// The run has made as many host calls as it may. The text says how many.
    Exhausted(String),
    /// The host takes no new runs. The text says why.
    Unavailable(String),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::Denied(text) => write!(f, "denied: {text}"),
            SpawnError::UnknownAgent(text) => write!(f, "unknown agent: {text}"),
            SpawnError::Invalid(text) => write!(f, "the child is not valid: {text}"),
            SpawnError::TooMany(text) => write!(f, "too many runs: {text}"),
            SpawnError::Exhausted(text) => write!(f, "budget used up: {text}"),
            SpawnError::Unavailable(text) => write!(f, "no run can be started: {text}"),
        }
    }
}

impl std::error::Error for SpawnError {}

impl From<agents::SpawnError> for SpawnError {
    fn from(error: agents::SpawnError) -> SpawnError {
        match error {
            agents::SpawnError::Denied(text) => SpawnError::Denied(text),
            agents::SpawnError::UnknownAgent(text) => SpawnError::UnknownAgent(text),
            agents::SpawnError::Invalid(text) => SpawnError::Invalid(text),
            agents::SpawnError::TooMany(text) => SpawnError::TooMany(text),
            agents::SpawnError::Exhausted(text) => SpawnError::Exhausted(text),
            agents::SpawnError::Unavailable(text) => SpawnError::Unavailable(text),
        }
    }
}

/// How a child failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildFailure {
    /// Its stop reason: `guest_error`, `trap`, `deadline`, `cancelled` and so on.
    pub stop_reason: String,
    /// For programs: its error's code.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Why there is no output of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildError {
    /// It failed.
    Failed(ChildFailure),
    /// It could not be waited for.
    Wait(WaitError),
    /// It gave an output, but not what the caller's type expects. The text says what and where.
    UnexpectedOutput(String),
}

impl fmt::Display for ChildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChildError::Failed(ChildFailure { stop_reason, code, message }) => {
                write!(f, "the child ended as {stop_reason} ({code}): {message}")
            }
            ChildError::Wait(error) => error.fmt(f),
            ChildError::UnexpectedOutput(text) => write!(f, "unexpected output of the child: {text}"),
        }
    }
}

impl std::error::Error for ChildError {}

impl From<agents::ChildError> for ChildError {
    fn from(error: agents::ChildError) -> ChildError {
        match error {
            agents::ChildError::Failed(agents::ChildFailure { stop_reason, code, message }) => {
                ChildError::Failed(ChildFailure { stop_reason, code, message })
            }
            agents::ChildError::Wait(error) => ChildError::Wait(error.into()),
        }
    }
}

/// A run that this one started, with [`Context::spawn`](crate::Context::spawn).
///
/// Dropping it changes nothing: the child runs on. When this run ends, its children that have not are cancelled.
///
/// ```no_run
/// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
/// use cofferdam_sdk::ChildError;
///
/// let child = ctx.spawn::<String>("summary", &serde_json::json!({"path": "one.txt"}))?;
/// ctx.info(&format!("run {} summarizes", child.id()));
/// match child.wait() {
///     Ok(summary) => ctx.info(&summary),
///     Err(ChildError::Failed(failure)) if failure.code == "no_text" => ctx.warn("there is nothing to summarize"),
///     Err(other) => return Err(other.into()),
/// }
/// # Ok(()) }
/// ```
#[must_use = "the child is cancelled when this run ends, unless it is waited for"]
pub struct Child<R> {
    run: agents::Child,
    // Asked for when it is first looked at: it costs a host call.
    id: OnceCell<String>,
    output: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Child<R> {
    /// Its run.
    pub fn id(&self) -> &str {
        self.id.get_or_init(|| self.run.id())
    }

    /// Waits for its output, at most 4 MiB of JSON. The wait holds no sandbox and is not the run's time. Waiting again gives
    /// the same.
    ///
    /// # Errors
    ///
    /// [`ChildError::Failed`] if it failed or was cancelled, [`ChildError::Wait`] if this run cannot wait, and
    /// [`ChildError::UnexpectedOutput`] for an output that is not an `R`.
    pub fn wait(&self) -> Result<R, ChildError> {
        read_output(&self.run.wait()?)
    }

    /// Asks it to stop. If it has not ended before, it ends as `cancelled`, which [`wait`](Child::wait) tells.
    pub fn cancel(&self) {
        self.run.cancel();
    }
}

impl<R> fmt::Debug for Child<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("id", &self.id.get()).finish_non_exhaustive()
    }
}

pub(crate) fn spawn<R: DeserializeOwned>(
    agent: &str,
    input: &impl Serialize,
    limits: ChildLimits,
) -> Result<Child<R>, SpawnError> {
    let input = serde_json::to_string(input)
        .map_err(|why| SpawnError::Invalid(format!("the input of `{agent}` cannot be written as JSON: {why}")))?;
    let run = agents::spawn(agent, &input, limits.into())?;
    Ok(Child { run, id: OnceCell::new(), output: PhantomData })
}

fn read_output<R: DeserializeOwned>(output: &str) -> Result<R, ChildError> {
    json::parse(output).map_err(ChildError::UnexpectedOutput)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_is_not_json_never_reaches_the_host() {
        // JSON has no keys but strings.
        let input = std::collections::BTreeMap::from([(vec![1], 2)]);
        match spawn::<()>("summary", &input, ChildLimits::inherited()) {
            Err(SpawnError::Invalid(text)) => assert!(text.contains("`summary`"), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_output_of_another_shape_is_unexpected_and_its_place_named() {
        match read_output::<Vec<u8>>(r#"[1,"two"]"#) {
            Err(ChildError::UnexpectedOutput(text)) => assert!(text.contains("at `[1]`"), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_limit_that_is_not_said_is_left_to_the_host() {
        let limits = agents::ChildLimits::from(ChildLimits::inherited().deadline(Duration::MAX));
        assert_eq!((limits.fuel, limits.memory_bytes, limits.deadline_ms), (None, None, Some(u64::MAX)));
        let limits = agents::ChildLimits::from(ChildLimits::inherited().fuel(7).memory_bytes(8));
        assert_eq!((limits.fuel, limits.memory_bytes, limits.deadline_ms), (Some(7), Some(8), None));
    }
}
