//! Everything a plugin can reach.

use std::cell::OnceCell;
use std::ops::Deref;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wit::{context, events, tools};
use crate::{
    AskError, Child, ChildLimits, Error, EventError, Files, Level, Pending, Question, Scope, SpawnError, State,
    ToolError, ToolInfo, WaitError, json,
};

/// What is left of a run's budget, read at the moment of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLeft {
    /// Fuel: about one unit per WebAssembly instruction.
    pub fuel: u64,
    /// Bytes by which all memories and tables together may still grow.
    pub memory_bytes: u64,
    /// Milliseconds until the deadline. Time spent in host calls counts.
    pub wall_ms: u64,
    /// Tool calls that may still be made.
    pub tool_calls: u32,
    /// Events that may still be emitted, log lines included.
    pub events: u32,
    /// Calls to the host that may still be made, of every kind, those of the standard library included.
    pub host_calls: u64,
}

/// What an agent can reach: everything a [`ToolContext`] has (who the run is for, its budget, events, state), tools, people
/// and other agents.
///
/// ```no_run
/// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
/// #[derive(serde::Deserialize)]
/// struct Converted {
///     value: f64,
/// }
///
/// ctx.progress(0.5, "Halfway")?;
/// let converted: Converted =
///     ctx.call("units.convert", &serde_json::json!({"value": 26.2, "from": "mi", "to": "km"}))?;
/// ctx.info(&format!("{} km", converted.value));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Context {
    inherited: ToolContext,
}

impl Context {
    pub(crate) fn of_this_run() -> Context {
        Context { inherited: ToolContext::of_this_run() }
    }

    /// The tools this run may call, by name. A tool that is not granted is not listed, and of more than 1 MiB of
    /// descriptions and schemas the last by name are left out.
    pub fn tools(&self) -> Vec<ToolInfo> {
        tools::list().into_iter().map(ToolInfo::from).collect()
    }

    /// Calls a tool and waits for its answer. The client sees `tool_executing`, then `tool_completed`.
    ///
    /// Arguments and answer are at most 1 MiB of JSON. Take a `serde_json::Value` to look at an answer of any shape.
    ///
    /// # Errors
    ///
    /// The host's or the tool's own; [`ToolError::InvalidArguments`] also for arguments that cannot be written as JSON
    /// and [`ToolError::UnexpectedAnswer`] for an answer that is not an `R`.
    pub fn call<R: DeserializeOwned>(&self, name: &str, arguments: &impl Serialize) -> Result<R, ToolError> {
        crate::tools::call(name, arguments)
    }

    /// Starts a tool call without waiting, so that several run side by side. At most 32 may be under way.
    ///
    /// ```no_run
    /// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
    /// let miles = [3.1, 6.2, 26.2];
    /// let mut under_way = Vec::new();
    /// for value in miles {
    ///     let arguments = serde_json::json!({"value": value, "from": "mi", "to": "km"});
    ///     under_way.push(ctx.start::<serde_json::Value>("units.convert", &arguments)?);
    /// }
    /// for call in under_way {
    ///     let converted = call.wait()?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`call`](Context::call); [`ToolError::Exhausted`] when 32 are under way.
    pub fn start<R: DeserializeOwned>(&self, name: &str, arguments: &impl Serialize) -> Result<Pending<R>, ToolError> {
        crate::tools::start(name, arguments)
    }

    /// Asks people, and waits for their answer. The client sees `run_waiting` with the question, and answers with
    /// `POST /v1/runs/{id}/input`. Needs [`human`](crate::Needs::human).
    ///
    /// Whoever answers is shown the JSON Schema of `R`, and the host refuses what does not fit it. The wait holds no sandbox
    /// and is not the run's time. Take a `serde_json::Value`, and a question with a
    /// [schema of its own](Question::schema), where the shape is known only while the agent runs.
    ///
    /// ```no_run
    /// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
    /// use cofferdam_sdk::Question;
    /// use std::time::Duration;
    ///
    /// #[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
    /// struct Decision {
    ///     /// Whether the invoice may be paid.
    ///     approved: bool,
    /// }
    ///
    /// let question = Question::new("Pay invoice 17, 1,250 EUR, to Ada Ltd?")
    ///     .expires_after(Duration::from_secs(24 * 60 * 60))
    ///     .default_answer(&Decision { approved: false });
    /// let decision: Decision = ctx.ask(question)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`AskError::Expired`] if nobody answered in time and the question has no default, [`AskError::Denied`] without the
    /// need or the grant, [`AskError::Unavailable`] where the run cannot be put away, [`AskError::Exhausted`] when the user
    /// has as many runs that wait as may be, and [`AskError::Invalid`] for a question out of bounds.
    pub fn ask<R: DeserializeOwned + JsonSchema>(&self, question: Question) -> Result<R, AskError> {
        crate::human::ask(question)
    }

    /// Starts an agent on an input, in a run of its own: for the same user, in the same thread, and out of this run's
    /// budget. Needs [`agents`](crate::Needs::agents).
    ///
    /// `agent` is a name, or `name@version`. The input is at most 1 MiB of JSON. A run starts at most 16 others, and a tree
    /// of runs has at most 64 and is at most 8 deep. When this run ends, its children that have not are cancelled.
    ///
    /// ```no_run
    /// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
    /// let chapters = ["one.txt", "two.txt", "three.txt"];
    /// let mut children = Vec::new();
    /// for path in chapters {
    ///     children.push(ctx.spawn::<String>("summary", &serde_json::json!({"path": path}))?);
    /// }
    /// for child in &children {
    ///     let summary = child.wait()?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SpawnError::Denied`] without the need or the grant, [`SpawnError::UnknownAgent`], [`SpawnError::TooMany`] at one of
    /// the bounds above, [`SpawnError::Invalid`] also for an input that cannot be written as JSON. What becomes of the child
    /// is told by [`Child::wait`].
    pub fn spawn<R: DeserializeOwned>(&self, agent: &str, input: &impl Serialize) -> Result<Child<R>, SpawnError> {
        self.spawn_with(agent, input, ChildLimits::inherited())
    }

    /// Starts an agent as [`spawn`](Context::spawn) does, with limits of its own.
    ///
    /// ```no_run
    /// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
    /// use cofferdam_sdk::ChildLimits;
    /// use std::time::Duration;
    ///
    /// let limits = ChildLimits::inherited().fuel(100_000_000).deadline(Duration::from_secs(10));
    /// let child = ctx.spawn_with::<String>("summary", &serde_json::json!({"path": "one.txt"}), limits)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`spawn`](Context::spawn); [`SpawnError::Invalid`] for more fuel than is left to this run, and for a limit that the
    /// host does not allow.
    pub fn spawn_with<R: DeserializeOwned>(
        &self,
        agent: &str,
        input: &impl Serialize,
        limits: ChildLimits,
    ) -> Result<Child<R>, SpawnError> {
        crate::children::spawn(agent, input, limits)
    }

    /// The files of the user's workspace. Needs the tools `file.list`, `file.read` or `file.write`, or `file.*`.
    pub fn files(&self) -> Files<'_> {
        Files::of(self)
    }
}

impl Deref for Context {
    type Target = ToolContext;

    fn deref(&self) -> &ToolContext {
        &self.inherited
    }
}

/// What a tool plugin can reach: who the run is for, its budget, its events, and the user's state for this plugin.
///
/// A tool calls no other tools, so they are on [`Context`] alone.
#[derive(Debug)]
pub struct ToolContext {
    // Asked for when it is first looked at: most runs never do, and it costs a host call and eight strings.
    identity: OnceCell<context::Info>,
}

impl ToolContext {
    pub(crate) fn of_this_run() -> ToolContext {
        ToolContext { identity: OnceCell::new() }
    }

    fn identity(&self) -> &context::Info {
        self.identity.get_or_init(context::get)
    }

    /// The user on whose behalf the plugin runs.
    pub fn user_id(&self) -> &str {
        &self.identity().user_id
    }

    /// The request that started the run.
    pub fn request_id(&self) -> &str {
        &self.identity().request_id
    }

    /// This run.
    pub fn run_id(&self) -> &str {
        &self.identity().run_id
    }

    /// The run that started this one, if an agent did.
    pub fn parent_run_id(&self) -> Option<&str> {
        self.identity().parent_run_id.as_deref()
    }

    /// The conversation this run belongs to. A run submitted without one has a thread of its own.
    pub fn thread_id(&self) -> &str {
        &self.identity().thread_id
    }

    /// The client's connection, if the run was submitted over a lasting one.
    pub fn session_id(&self) -> Option<&str> {
        self.identity().session_id.as_deref()
    }

    /// The client's own key-value data for this run: a JSON object, empty if none was given. At most 16 KiB.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if the object is not a `T`: the client chose it.
    pub fn metadata<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::parse(&self.identity().metadata)
            .map_err(|why| Error::invalid_input(format!("the run's metadata are not valid: {why}")))
    }

    /// In a tool plugin: a text that is the same for each attempt at one call, and another for each call. None in an agent.
    ///
    /// A durable run that was cut off while an [idempotent](crate::Tool::idempotent) tool ran calls it again with the same
    /// key. Hand it on to services that take such keys, or keep it with what was done, and the work is done once.
    ///
    /// ```no_run
    /// # use cofferdam_sdk::{Error, Scope, ToolContext};
    /// # fn example(ctx: &ToolContext) -> Result<(), Error> {
    /// let key = ctx.idempotency_key().unwrap_or_default();
    /// let state = ctx.state(Scope::User);
    /// if state.get(key)?.is_none() {
    ///     // The work itself comes here.
    ///     state.set(key, b"done")?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn idempotency_key(&self) -> Option<&str> {
        self.identity().idempotency_key.as_deref()
    }

    /// What is left to this run.
    pub fn budget(&self) -> BudgetLeft {
        let left = context::budget();
        BudgetLeft {
            fuel: left.fuel,
            memory_bytes: left.memory_bytes,
            wall_ms: left.wall_ms,
            tool_calls: left.tool_calls,
            events: left.events,
            host_calls: left.host_calls,
        }
    }

    /// Waits until a time, to the millisecond. A time that is past returns at once.
    ///
    /// A wait of a second or more holds no sandbox and does not count as the run's time; a shorter one does. At most as long
    /// from now as the user's quota says, 30 days by default. In a tool plugin every wait is a short one.
    ///
    /// ```no_run
    /// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
    /// use std::time::{Duration, SystemTime};
    ///
    /// let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
    /// ctx.sleep_until(midnight)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`WaitError::Invalid`] for a time that is too far away, [`WaitError::Unavailable`] where the run cannot be put away,
    /// [`WaitError::Exhausted`] when the user has as many runs that wait as may be.
    pub fn sleep_until(&self, time: SystemTime) -> Result<(), WaitError> {
        Ok(context::sleep_until(crate::wait::unix_ms(time))?)
    }

    /// Waits so long, to the millisecond, as [`sleep_until`](ToolContext::sleep_until) does. Unlike `std::thread::sleep`, it
    /// holds no sandbox from a second on.
    ///
    /// ```no_run
    /// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
    /// ctx.sleep(std::time::Duration::from_secs(60 * 60))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`sleep_until`](ToolContext::sleep_until).
    pub fn sleep(&self, duration: Duration) -> Result<(), WaitError> {
        Ok(context::sleep_until(crate::wait::unix_ms_after(SystemTime::now(), duration))?)
    }

    /// Says what the plugin is working on, for a person to read. The client sees `agent_thinking`.
    ///
    /// # Errors
    ///
    /// [`EventError::TooLarge`] over 1 MiB, [`EventError::TooMany`] after the run's last event.
    pub fn thinking(&self, text: &str) -> Result<(), EventError> {
        Ok(events::thinking(text)?)
    }

    /// How far the run has come, from 0.0 to 1.0, and a note. The client sees `progress`.
    ///
    /// # Errors
    ///
    /// As [`thinking`](ToolContext::thinking); [`EventError::Invalid`] for a fraction out of bounds or NaN.
    pub fn progress(&self, fraction: f64, note: &str) -> Result<(), EventError> {
        Ok(events::progress(fraction, note)?)
    }

    /// An event of the plugin's own. The client sees the type `custom:NAME`.
    ///
    /// A name is 1 to 64 characters of `a-z`, `0-9`, `_`, `-` and `.`, and starts with a letter.
    ///
    /// # Errors
    ///
    /// As [`thinking`](ToolContext::thinking); [`EventError::Invalid`] for another name, or for a payload that cannot
    /// be written as JSON.
    pub fn emit(&self, name: &str, payload: &impl Serialize) -> Result<(), EventError> {
        let payload = serde_json::to_string(payload)
            .map_err(|why| EventError::Invalid(format!("the payload cannot be written as JSON: {why}")))?;
        Ok(events::emit(name, &payload)?)
    }

    /// A line for whoever looks into the run later. The client sees `log`. At most 8 KiB.
    ///
    /// Log lines are the first events to be dropped when a client reads too slowly.
    ///
    /// # Errors
    ///
    /// [`EventError::TooLarge`] over 8 KiB, [`EventError::TooMany`] after the run's last event.
    pub fn log(&self, level: Level, text: &str) -> Result<(), EventError> {
        Ok(events::log(level.into(), text)?)
    }

    /// A log line for whoever works on the plugin. If it cannot be recorded, the run goes on without it.
    pub fn debug(&self, text: &str) {
        self.log_if_possible(Level::Debug, text);
    }

    /// A log line that says what happened. If it cannot be recorded, the run goes on without it.
    pub fn info(&self, text: &str) {
        self.log_if_possible(Level::Info, text);
    }

    /// A log line about something odd. If it cannot be recorded, the run goes on without it.
    pub fn warn(&self, text: &str) {
        self.log_if_possible(Level::Warn, text);
    }

    /// A log line about something that failed. If it cannot be recorded, the run goes on without it.
    pub fn error(&self, text: &str) {
        self.log_if_possible(Level::Error, text);
    }

    /// A line that cannot be recorded is no reason to lose the work.
    fn log_if_possible(&self, level: Level, text: &str) {
        let _refused = self.log(level, text);
    }

    /// The user's key-value data for this plugin, in this thread or in all of the user's runs.
    pub fn state(&self, scope: Scope) -> State<'_> {
        State::of(self, scope)
    }
}
