//! One wasm store, opened for one context, consumed by one call. The only place where a store is made, and the place
//! where every way a call can end becomes exactly one stop reason.

use crate::{
    bindings::{
        agents::{AgentError, Descriptor as AgentDescriptor},
        tool_plugins::Descriptor as ToolDescriptor,
        types::ToolError,
    },
    guest_threads::{executes_no_more, may_execute},
    meter::{HeldBytes, Meter, Refusal, RunMemory},
    plugin::{Plugin, Pre},
    services::Services,
    tree::Tree,
    turn::InTurns,
    wasi::{self, Output},
};
use cofferdam_core::{
    Json, UserExecutionContext,
    codec::Format,
    context::StopCause,
    ids::{KeyId, RunId},
    journal::{Recorder, RunJournal},
    quota::{HOST_CALL_BYTES_MAX, RUN_OUTPUT_BYTES_MAX},
    record::Asked,
    replay::Again,
    run::{CancelRequest, Durability, StopReason},
    storage::StorageError,
    wait::{StoredWait, WaitFor},
};
use jiff::Timestamp;
use std::{
    collections::BTreeSet,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};
use tokio::task::JoinError;
use tokio_util::task::TaskTracker;
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace, component::ResourceTable};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

/// The most that a guest hands to the host in one crossing, in bytes. A little above the largest output, so that what is
/// over a limit by no more than that gets the error meant for it; beyond, nothing is copied and the guest ends.
const CROSSING_BYTES_MAX: usize = RUN_OUTPUT_BYTES_MAX + (64 << 10);

/// Handles that a guest may hold at once, of all kinds together.
const HANDLES_MAX: usize = 1_024;

/// How far the fuel that is read after a stop from outside can be behind: the counter of compiled code lives in a
/// register, and is written back at least this often.
const FUEL_READ_INTERVAL: u64 = 10_000_000;

/// The longest message kept of what a guest says about its own failure, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// The code of an agent's error that says that the input is not what it takes.
const INVALID_INPUT: &str = "invalid_input";

/// What a client is told of a run that the host cut off after it may have changed something.
pub const OUTCOME_UNKNOWN: &str = "the host stopped while the run was executing, and the run may have changed files or state; look before you submit it again";

/// Frames shown of a trap.
const FRAMES_SHOWN_MAX: usize = 8;

/// How many of a trap's functions are looked at, the innermost first: a stack that overflows has tens of thousands.
const FRAMES_LOOKED_AT_MAX: usize = 32;

/// The longest name of a function that is looked at, in characters.
const FRAME_NAME_CHARS_MAX: usize = 512;

/// What the host keeps for one guest: the data of its store.
pub struct Guest {
    pub ctx: Arc<UserExecutionContext>,
    pub journal: Option<RunJournal>,
    /// The record of its calls, for the run's agent.
    pub recorder: Option<Recorder>,
    pub services: Arc<Services>,
    pub meter: Meter,
    pub table: ResourceTable,
    /// Events of its own that it has emitted.
    pub events_said: u64,
    /// Whose scratch it has: the run's own, or for an execution that is only looked at, one of its own.
    pub scratch_of: RunId,
    /// The run's own directory, once the guest has asked what directories there are.
    pub scratch: Option<Arc<Tree>>,
    /// What the run was told of what it waited for, if it goes on.
    pub told: Option<StoredWait>,
    /// Calls that it has started and that have not come to their end.
    pub started: TaskTracker,
    /// The run's memory for the list of tools that the guest asked for last.
    pub listed: Option<HeldBytes>,
    /// Made when the guest first looks at the machine; most small agents never do.
    wasi: Option<(Output, WasiCtx)>,
    /// Which of its pollables are timers. What is executed again does not wait for them.
    pub timers: BTreeSet<u32>,
    /// Fuel that was lent to tools which have ended without using it, and whose answers were not taken.
    pub fuel_unused: Arc<AtomicU64>,
    /// Fuel that tools have taken in an earlier execution, whose answers are known.
    pub fuel_known: u64,
    /// Time that its tools' sandboxes took beside it.
    active_beside: Duration,
    /// Counts the sandbox among those of the host.
    _open: Open,
}

/// A sandbox that has not been thrown away yet. Counted until it is dropped.
struct Open(Arc<Services>);

impl Open {
    fn new(services: &Arc<Services>) -> Self {
        services.sandboxes_open.fetch_add(1, Ordering::Relaxed);
        Self(services.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.sandboxes_open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guest {
    /// Counts a call from the guest. Every import goes through here or through [`WasiView::ctx`].
    pub fn called(&mut self) -> &mut Self {
        self.ctx.count_host_call();
        self
    }

    /// Keeps a call and its answer in the record, if there is one.
    pub fn record(&self, asked: impl FnOnce() -> Asked, answer: &impl bincode::Encode) {
        if let Some(recorder) = &self.recorder {
            recorder.called(asked(), answer);
        }
    }

    /// The answer that this call had in an earlier execution. None: it is to be made. A call that is known counts against
    /// the run's budget as it did.
    pub fn recall<T: bincode::Decode<Format>>(&self, asked: impl FnOnce() -> Asked) -> wasmtime::Result<Option<T>> {
        let Some(recorder) = &self.recorder else { return Ok(None) };
        let known = recorder.recall(asked)?;
        if known.is_some() {
            self.counts_again();
        }
        Ok(known)
    }

    /// The same for a call that is recorded only when it was refused.
    pub fn recall_rare<T: bincode::Decode<Format>>(&self, asked: &Asked) -> Option<T> {
        let known = self.recorder.as_ref()?.known()?.recall_rare(asked);
        if known.is_some() {
            self.counts_again();
        }
        known
    }

    /// What became, in an earlier execution, of a call that changes something or goes to a tool.
    pub fn again<T: bincode::Decode<Format>>(
        &self,
        asked: impl FnOnce() -> Asked,
    ) -> wasmtime::Result<Option<Again<T>>> {
        let Some(recorder) = &self.recorder else { return Ok(None) };
        let known = recorder.again(asked)?;
        if known.is_some() {
            self.counts_again();
        }
        Ok(known)
    }

    /// Ends an execution that is only looked at: it asks for something that no record has.
    pub fn beyond_record(&self, asked: impl Into<String>) -> wasmtime::Error {
        match self.recorder.as_ref().and_then(Recorder::known) {
            Some(known) => known.ends(asked).into(),
            None => HostFailure::new("a first execution has no record to end").into(),
        }
    }

    /// The same for a call that had begun, and whose answer never came.
    pub fn open_call(&self, number: u64) -> wasmtime::Error {
        self.beyond_record(format!("for the answer of call {number}, which never came"))
    }

    fn counts_again(&self) {
        // What it was answered then is its answer, whatever is left of the budget.
        let _ = self.ctx.may_call_host();
    }

    /// Does work of the host's in a task of its own, and waits for it. A guest goes on only in its turn, and what the work
    /// takes, a connection to storage for example, must not be held until then.
    pub async fn beside<T: Send + 'static>(
        &mut self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> wasmtime::Result<T> {
        let done = self.ctx.spawn(work).await;
        done.map_err(|error| self.lost(error))
    }

    /// The host's own work for this guest came to no end.
    pub fn lost(&self, error: JoinError) -> wasmtime::Error {
        if error.is_panic() {
            self.services.host_panics.fetch_add(1, Ordering::Relaxed);
        }
        HostFailure::new(error).into()
    }

    /// Waits, before a call that is to be recorded, until there is room for it. Where storage fails, the record says that it
    /// is not complete.
    pub async fn relieved(&mut self) {
        if let Some(recorder) = &self.recorder {
            let _ = recorder.relieve().await;
        }
    }

    /// Whether a durable run's agent can be put away until storage works again, which failed under it. What its record does
    /// not have is done again, as after the end of its host.
    fn is_failed_by_storage(&self, error: &wasmtime::Error) -> bool {
        error.downcast_ref::<HostFailure>().is_some_and(|failure| failure.is_storage)
            && self.ctx.spec().durability == Durability::Durable
            && self.recorder.as_ref().is_some_and(Recorder::is_complete)
            && self.journal.is_some()
            && !self.ctx.is_over()
    }

    /// Adds the time that a tool's sandbox took beside this one to this guest's bill, which waited for its answer.
    pub const fn add_active(&mut self, active: Duration) {
        self.active_beside = self.active_beside.saturating_add(active);
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.ctx.count_host_call();
        let (_, ctx) = self.wasi.get_or_insert_with(|| {
            let output = Output::new(&self.ctx, self.journal.as_ref(), self.recorder.as_ref());
            let wasi = wasi::machine(&output, &self.services.seeds, self.recorder.as_ref());
            (output, wasi)
        });
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// The host failed on a guest's behalf. Ends the run as `host_error`; the client hears only that.
#[derive(Debug, thiserror::Error)]
#[error("the host failed: {why}")]
pub struct HostFailure {
    why: String,
    /// It was storage, which may work again in a moment.
    is_storage: bool,
}

impl HostFailure {
    /// With what went wrong, for the log.
    pub fn new(why: impl std::fmt::Display) -> Self {
        Self { why: why.to_string(), is_storage: false }
    }

    /// Storage failed.
    pub fn storage(error: StorageError) -> Self {
        Self { why: format!("{error}: {}", error.source), is_storage: true }
    }
}

/// The guest is being stopped from outside: ends its code from within the epoch callback.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Interrupted;

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub reason: StopReason,
    /// For programs: the stop reason, or the agent's own code.
    pub code: String,
    /// For people.
    pub message: String,
    /// The key that it was asked for with, if it was.
    pub cancelled_by: Option<KeyId>,
}

impl Stop {
    /// For a reason that is its own code.
    pub fn new(reason: StopReason, message: impl Into<String>) -> Self {
        Self { reason, code: reason.as_str().to_owned(), message: message.into(), cancelled_by: None }
    }

    /// Whether the same run may end otherwise when it is executed again. An input that the agent does not take stays one.
    pub fn may_pass(&self) -> bool {
        self.reason.may_pass() && !(self.reason == StopReason::GuestError && self.code == INVALID_INPUT)
    }

    /// For a run that somebody asked to stop; with what else there is to say of when that was.
    pub fn cancelled(request: &CancelRequest, when: &str) -> Self {
        let who = if request.by.as_str().starts_with("run_") { "by the run that started it," } else { "with the key" };
        let message = format!("the run was cancelled {who} {}{when}", request.by);
        Self { cancelled_by: Some(request.by.clone()), ..Self::new(StopReason::Cancelled, message) }
    }
}

/// The guest waits for something that may take long: its run is put away, and brought back when it is there. Ends the
/// guest's code from within a call to the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the run waits")]
pub struct Waits {
    /// Number of the call in the record; 0 if it is not a call's.
    pub call: u64,
    /// For what.
    pub waits_for: WaitFor,
    /// When it goes on by itself, if it does.
    pub until: Option<Timestamp>,
}

/// Why a call has no result, or none yet.
#[derive(Debug)]
pub enum Ended {
    /// It has none.
    Stopped(Stop),
    /// Its run is to be put away.
    Waits(Box<Waits>),
}

impl From<Stop> for Ended {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

impl Ended {
    /// For callers whose guests cannot wait.
    pub fn stop(self) -> Stop {
        match self {
            Self::Stopped(stop) => stop,
            Self::Waits(_) => Stop::new(StopReason::HostError, "the host put away what cannot wait"),
        }
    }
}

/// What a call took of its sandbox.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Fuel.
    pub fuel: u64,
    /// How much of it was taken in an earlier execution only: by tools whose answers were known.
    pub fuel_known: u64,
    /// Time in which the guest, or the host on its behalf, was executing.
    pub active: Duration,
    /// Calls from the run's guests to the host, up to here.
    pub host_calls: u64,
}

impl Spent {
    /// Fuel that this execution has burnt.
    pub const fn burnt(self) -> u64 {
        self.fuel.saturating_sub(self.fuel_known)
    }
}

/// One store, opened for one context.
pub struct Sandbox {
    store: Store<Guest>,
    plugin: Arc<Plugin>,
    fuel: u64,
}

/// What is asked of the guest.
#[derive(Clone, Copy)]
enum Call<'a> {
    Run { input: &'a str },
    DescribeAgent,
    DescribeTool,
    Tool { name: &'a str, arguments: &'a str },
}

/// What the guest gave back.
enum Reply {
    Run(Result<String, AgentError>),
    AgentDescriptor(AgentDescriptor),
    ToolDescriptor(ToolDescriptor),
    Tool(Result<String, ToolError>),
}

/// How the call came to an end.
enum End {
    Returned(Reply),
    Failed(wasmtime::Error),
    /// Ended from outside, between two steps of the guest.
    Dropped,
    Panicked,
}

impl Sandbox {
    /// Opens a sandbox: a fresh store with its limits set, before any of the guest's code can run.
    ///
    /// # Errors
    /// When the engine refuses, which is the host's failure.
    #[expect(clippy::disallowed_methods, reason = "the one place where a store is made")]
    pub fn open(
        services: &Arc<Services>,
        plugin: Arc<Plugin>,
        ctx: Arc<UserExecutionContext>,
        journal: Option<RunJournal>,
        recorder: Option<Recorder>,
        memory: Arc<RunMemory>,
        fuel: u64,
    ) -> wasmtime::Result<Self> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        // A growth that others are in the way of is nothing that the run could be shown again.
        let durable = recorder.is_some() && ctx.spec().durability == Durability::Durable;
        let guest = Guest {
            scratch_of: ctx.spec().id,
            ctx,
            journal,
            recorder,
            services: services.clone(),
            meter: Meter::new(memory, durable),
            table,
            events_said: 0,
            scratch: None,
            told: None,
            started: TaskTracker::new(),
            listed: None,
            wasi: None,
            fuel_unused: Arc::default(),
            fuel_known: 0,
            timers: BTreeSet::new(),
            active_beside: Duration::ZERO,
            _open: Open::new(services),
        };
        let mut store = Store::new(services.engine.wasmtime(), guest);
        store.limiter(|guest| &mut guest.meter);
        store.set_fuel(fuel)?;
        store.fuel_async_yield_interval(Some(FUEL_READ_INTERVAL))?;
        store.set_hostcall_fuel(CROSSING_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |store| {
            let left = store.get_fuel().unwrap_or(0);
            let ctx = &store.data().ctx;
            ctx.check_fuel(fuel.saturating_sub(left));
            if ctx.stop().cause().is_some() || Instant::now() >= ctx.deadline() {
                return Err(Interrupted.into());
            }
            // Whose turn it is now is asked where the guest is polled.
            Ok(UpdateDeadline::Yield(1))
        });
        Ok(Self { store, plugin, fuel })
    }

    /// Of a run that goes on, with what it was told.
    pub fn told(mut self, told: Option<StoredWait>) -> Self {
        self.store.data_mut().told = told;
        self
    }

    /// With a scratch under another name than the run's.
    pub fn with_scratch_of(mut self, id: RunId) -> Self {
        self.store.data_mut().scratch_of = id;
        self
    }

    /// Runs the agent.
    pub async fn run(self, input: &Json) -> (Result<Json, Ended>, Spent) {
        let (reply, spent) = self.call(Call::Run { input: input.as_str() }).await;
        let result = reply.and_then(|(reply, guest)| match reply {
            Reply::Run(Ok(output)) => output_of(output, output_bytes_max(&guest.ctx)).map_err(Ended::Stopped),
            Reply::Run(Err(error)) => Err(stop_of_agent_error(error, &guest).into()),
            _ => Err(Stop::new(StopReason::HostError, "the host mixed up two calls").into()),
        });
        (result, spent)
    }

    /// Asks an agent what it is.
    pub async fn describe_agent(self) -> Result<AgentDescriptor, Stop> {
        match self.call(Call::DescribeAgent).await.0.map_err(Ended::stop)?.0 {
            Reply::AgentDescriptor(descriptor) => Ok(descriptor),
            _ => Err(Stop::new(StopReason::HostError, "the host mixed up two calls")),
        }
    }

    /// Asks a tool plugin what it is.
    pub async fn describe_tool(self) -> Result<ToolDescriptor, Stop> {
        match self.call(Call::DescribeTool).await.0.map_err(Ended::stop)?.0 {
            Reply::ToolDescriptor(descriptor) => Ok(descriptor),
            _ => Err(Stop::new(StopReason::HostError, "the host mixed up two calls")),
        }
    }

    /// Calls a tool of a tool plugin.
    pub async fn call_tool(self, name: &str, arguments: &str) -> (Result<Result<String, ToolError>, Stop>, Spent) {
        let (reply, spent) = self.call(Call::Tool { name, arguments }).await;
        let result = reply.map_err(Ended::stop).and_then(|(reply, _)| match reply {
            Reply::Tool(result) => Ok(result),
            _ => Err(Stop::new(StopReason::HostError, "the host mixed up two calls")),
        });
        (result, spent)
    }

    /// Makes the call, until it returns, fails, or is ended from outside. Always says what it took.
    async fn call(mut self, call: Call<'_>) -> (Result<(Reply, Guest), Ended>, Spent) {
        let ctx = self.store.data().ctx.clone();
        let mut active = Duration::ZERO;
        let mut turns = InTurns::of(&self.store.data().services, &ctx);
        let end = {
            let mut work = pin!(perform(&mut self.store, &self.plugin, call));
            let timed = poll_fn(|cx| {
                if !may_execute(cx) {
                    let _ = turns.come(cx);
                    return Poll::Pending;
                }
                // A panic in a host function must end this run and no other.
                let (polled, spent) =
                    turns.poll(cx, |cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
                        Ok(Poll::Pending) => Poll::Pending,
                        Ok(Poll::Ready(Ok(reply))) => Poll::Ready(End::Returned(reply)),
                        Ok(Poll::Ready(Err(error))) => Poll::Ready(End::Failed(error)),
                        Err(_) => Poll::Ready(End::Panicked),
                    });
                active += spent;
                polled
            });
            tokio::select! {
                biased;
                // What was stopped before it began does not begin.
                () = std::future::ready(()), if ctx.is_over() => End::Dropped,
                end = timed => end,
                // These also reach a guest that waits for its turn.
                () = ctx.stop().stopped() => End::Dropped,
                () = ctx.late() => End::Dropped,
            }
        };
        executes_no_more();
        // A run that has written too fast does not leave it to the next one to wait for that.
        if let Some(owed) = turns.owed() {
            tokio::select! {
                () = owed => {}
                () = ctx.stop().stopped() => {}
                () = ctx.late() => {}
            }
        }
        // What follows is the host's, and need not be waited for by another guest.
        drop(turns);
        let end = match end {
            End::Failed(error) if self.store.data().is_failed_by_storage(&error) => {
                tracing::error!(run = %ctx.spec().id, %error, "storage failed a durable run, which is put away");
                // What it has started comes to its end first, so that its answers are in the record.
                let started = self.store.data().started.clone();
                started.close();
                tokio::select! {
                    () = started.wait() => {
                        End::Failed(Waits { call: 0, waits_for: WaitFor::Storage, until: None }.into())
                    }
                    () = ctx.stop().stopped() => End::Dropped,
                    () = ctx.late() => End::Dropped,
                }
            }
            end => end,
        };
        let fuel_left = self.store.get_fuel().unwrap_or(0);
        let guest = self.store.data();
        let fuel_left = fuel_left.saturating_add(guest.fuel_unused.load(Ordering::Relaxed));
        // Of what waits, the line goes on.
        let waits = matches!(&end, End::Failed(error) if error.is::<Waits>());
        if let (Some((output, _)), false) = (&guest.wasi, waits) {
            output.finish();
        }
        let spent = Spent {
            fuel: self.fuel.saturating_sub(fuel_left),
            fuel_known: guest.fuel_known,
            active: active + guest.active_beside,
            host_calls: ctx.host_calls(),
        };
        let result = match end {
            // It returned before the next tick; what it did, or what was promised to who cancelled it, is the same.
            End::Returned(_)
                if matches!(ctx.stop().cause(), Some(StopCause::Overdrawn(_) | StopCause::Cancelled(_))) =>
            {
                Err(stop_of_interruption(&ctx, guest.journal.as_ref()).into())
            }
            End::Returned(reply) => Ok((reply, self.store.into_data())),
            End::Panicked => {
                guest.services.host_panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(run = %ctx.spec().id, "a host function panicked");
                Err(Stop::new(StopReason::HostError, "the host failed while it worked for this run; please report it")
                    .into())
            }
            End::Dropped => Err(stop_of_interruption(&guest.ctx, guest.journal.as_ref()).into()),
            End::Failed(error) => Err(match error.downcast::<Waits>() {
                // What is stopped does not wait.
                Ok(waits) if !ctx.is_over() => Ended::Waits(Box::new(waits)),
                Ok(_) => stop_of_interruption(&guest.ctx, guest.journal.as_ref()).into(),
                Err(error) => stop_of_error(&error, guest).into(),
            }),
        };
        (result, spent)
    }
}

async fn perform(store: &mut Store<Guest>, plugin: &Plugin, call: Call<'_>) -> wasmtime::Result<Reply> {
    match (&plugin.pre, call) {
        (Pre::Agent(pre), Call::Run { input }) => {
            let agent = pre.instantiate_async(&mut *store).await?;
            Ok(Reply::Run(agent.call_run(&mut *store, &input.to_owned()).await?))
        }
        (Pre::Agent(pre), Call::DescribeAgent) => {
            let agent = pre.instantiate_async(&mut *store).await?;
            Ok(Reply::AgentDescriptor(agent.call_describe(&mut *store).await?))
        }
        (Pre::Tool(pre), Call::DescribeTool) => {
            let tool = pre.instantiate_async(&mut *store).await?;
            Ok(Reply::ToolDescriptor(tool.call_describe(&mut *store).await?))
        }
        (Pre::Tool(pre), Call::Tool { name, arguments }) => {
            let tool = pre.instantiate_async(&mut *store).await?;
            Ok(Reply::Tool(tool.call_call(&mut *store, name, &arguments.to_owned()).await?))
        }
        _ => Err(HostFailure::new("a plugin of one world was called as one of the other").into()),
    }
}

fn output_bytes_max(ctx: &UserExecutionContext) -> usize {
    usize::try_from(ctx.quota().run_output_bytes).unwrap_or(RUN_OUTPUT_BYTES_MAX)
}

fn output_of(output: String, bytes_max: usize) -> Result<Json, Stop> {
    if output.len() > bytes_max {
        return Err(output_too_large(&format!("{} bytes", output.len()), bytes_max));
    }
    Json::parse(output).map_err(|error| {
        Stop::new(StopReason::InvalidOutput, format!("the agent's output is {error}; an output must be a JSON text"))
    })
}

fn output_too_large(size: &str, bytes_max: usize) -> Stop {
    Stop::new(
        StopReason::OutputTooLarge,
        format!("the output is {size}, at most {bytes_max} are allowed; write large results to a file with file.write"),
    )
}

fn stop_of_agent_error(error: AgentError, guest: &Guest) -> Stop {
    let (code, message, denied) = match error {
        AgentError::InvalidInput(message) => (INVALID_INPUT.to_owned(), message, false),
        AgentError::Denied(message) => ("denied".to_owned(), message, true),
        AgentError::Failed(failure) => {
            let valid = (1..=64).contains(&failure.code.len())
                && failure.code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            (if valid { failure.code } else { "failed".to_owned() }, failure.message, false)
        }
    };
    let message = cut(message);
    // Whoever reads the run's end should not have to guess whether something was lost.
    let message = if message.is_empty() { format!("the agent failed as {code:?} without a message") } else { message };
    if let Some(refusal) = guest.meter.run().refused() {
        return memory_limit(guest, refusal, &message);
    }
    // An agent may say "denied" of its own accord; only a refusal of ours makes it one.
    if denied && guest.ctx.was_denied() {
        return Stop::new(StopReason::Denied, message);
    }
    Stop { code, ..Stop::new(StopReason::GuestError, message) }
}

/// At most [`MESSAGE_BYTES_MAX`] of a guest's text, on a character's edge.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    text
}

/// The stop reason of a run that is ended from outside.
pub fn stop_of_interruption(ctx: &UserExecutionContext, journal: Option<&RunJournal>) -> Stop {
    match ctx.stop().cause() {
        Some(StopCause::Cancelled(request)) => Stop::cancelled(request, ""),
        Some(StopCause::HostShutdown) if journal.is_some_and(RunJournal::had_effects) => {
            Stop::new(StopReason::OutcomeUnknown, OUTCOME_UNKNOWN)
        }
        Some(StopCause::HostShutdown) => {
            Stop::new(StopReason::HostShutdown, "the host stopped before the run had ended; submit it again")
        }
        Some(StopCause::Overdrawn(spent)) => Stop::new(
            StopReason::Quota,
            format!("{spent}, and it was refused as much again; ask for less, or stop when you are refused"),
        ),
        Some(StopCause::FuelCut(most)) => Stop::new(
            StopReason::OutOfFuel,
            format!(
                "the user's fuel_per_run was lowered to {most} units while the run had used more; compute less in one run"
            ),
        ),
        None if ctx.is_on_its_way_back() => {
            let ms = ctx.spec().limits.deadline_ms.min(ctx.quota().deadline_ms);
            let message = format!(
                "the run went on, and was not back where it had been after {ms} ms, which is as long as that may take; do less before a wait"
            );
            Stop::new(StopReason::Deadline, message)
        }
        None => {
            let ms = ctx.spec().limits.deadline_ms.min(ctx.quota().deadline_ms);
            let next = advice(ms, ctx.quota().deadline_ms, "raise limits.deadline_ms or do less", "do less in one run");
            Stop::new(StopReason::Deadline, format!("the run was not done after {ms} ms; {next}"))
        }
    }
}

fn memory_limit(guest: &Guest, refusal: Refusal, what: &str) -> Stop {
    let (limit, next) = match refusal {
        Refusal::Run => {
            let most = guest.ctx.quota().memory_bytes_per_context;
            let bytes = guest.ctx.spec().limits.memory_bytes.min(most);
            let next = advice(bytes, most, "raise limits.memory_bytes or hold less", "hold less, in parts for example");
            (format!("the run's {bytes} bytes"), next)
        }
        Refusal::User => {
            let bytes = guest.ctx.quota().memory_bytes_per_user;
            (format!("the {bytes} bytes of all the user's runs together"), "run fewer at once, or hold less")
        }
        Refusal::Host => ("what the host has for all runs together".to_owned(), "submit it again later"),
    };
    let message = format!("the agent ended after memory beyond {limit} was refused to it ({what}); {next}");
    Stop::new(StopReason::MemoryLimit, message)
}

/// What to do at a limit: one that the client chose can be raised, the user's own cannot.
const fn advice(limit: u64, most: u64, raise: &'static str, at_most: &'static str) -> &'static str {
    if limit < most { raise } else { at_most }
}

/// The stop reason of an error: the first that applies of cancelled, deadline, out of fuel, memory limit, trap.
fn stop_of_error(error: &wasmtime::Error, guest: &Guest) -> Stop {
    let late = Instant::now() >= guest.ctx.deadline();
    if error.is::<Interrupted>() || guest.ctx.stop().cause().is_some() || late {
        return stop_of_interruption(&guest.ctx, guest.journal.as_ref());
    }
    if let Some(failure) = error.downcast_ref::<HostFailure>() {
        tracing::error!(run = %guest.ctx.spec().id, error = %failure.why, "the host failed on a guest's behalf");
        return Stop::new(StopReason::HostError, "the host failed while it worked for this run; submit it again later");
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::OutOfFuel) {
        let fuel = guest.ctx.spec().limits.fuel;
        let most = guest.ctx.quota().fuel_per_run;
        let next = advice(fuel, most, "raise limits.fuel or compute less", "compute less in one run");
        return Stop::new(StopReason::OutOfFuel, format!("the run used up its {fuel} units of fuel; {next}"));
    }
    let what = match (trap, error.downcast_ref::<I32Exit>()) {
        (Some(trap), _) => format!("{trap}{}", frames(error)),
        (None, Some(exit)) => format!("it exited with code {}; an agent ends by returning", exit.0),
        (None, None) => error.root_cause().to_string(),
    };
    if let Some(refusal) = guest.meter.run().refused() {
        return memory_limit(guest, refusal, &cut(what));
    }
    if trap.is_none() && is_crossing_too_large(error) {
        // With frames, the guest was inside a host call; without, it had returned and this was its output.
        if error.downcast_ref::<WasmBacktrace>().is_none() {
            return output_too_large(&format!("more than {CROSSING_BYTES_MAX} bytes"), output_bytes_max(&guest.ctx));
        }
        let message = format!(
            "the agent handed more than {CROSSING_BYTES_MAX} bytes to one host call; at most {HOST_CALL_BYTES_MAX} are allowed"
        );
        return Stop::new(StopReason::Trap, message);
    }
    Stop::new(StopReason::Trap, cut(format!("the agent's code trapped: {what}")))
}

/// Wasmtime's own type for this error is private; its text is checked by a test that makes one.
fn is_crossing_too_large(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

/// The innermost functions of a trap, by the names that the component carries, as their author wrote them.
fn frames(error: &wasmtime::Error) -> String {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let names = trace.frames().iter().take(FRAMES_LOOKED_AT_MAX).filter_map(|frame| frame.func_name());
    let names = names.map(|name| {
        // A guest chose the name, and may have made it long.
        let name: String = name.chars().filter(|c| !c.is_control()).take(FRAME_NAME_CHARS_MAX).collect();
        format!("{:#}", rustc_demangle::demangle(&name)).chars().take(120).collect::<String>()
    });
    // What every panic goes through says nothing of this one.
    let names: Vec<_> = names.collect();
    let first = names.iter().position(|name| !is_of_a_panic(name)).unwrap_or(0);
    let names: Vec<_> = names.into_iter().skip(first).take(FRAMES_SHOWN_MAX).collect();
    if names.is_empty() { String::new() } else { format!(" (in {})", names.join(", called by ")) }
}

/// Whether a function is one that Rust's standard library calls on the way from a panic to its end.
fn is_of_a_panic(name: &str) -> bool {
    let closure_or_path = name.trim_start_matches('<');
    ["std::", "core::", "alloc::", "__rustc", "rust_"].iter().any(|of| closure_or_path.starts_with(of))
        || name == "abort"
}

#[cfg(test)]
mod tests {
    use crate::{
        engine::{Engine, MEMORIES_MAX},
        meter::{HostMemory, Meter},
    };
    use cofferdam_core::quota::{LiveQuota, Quota};
    use std::sync::Arc;
    use wasm_encoder::{ConstExpr, MemorySection, MemoryType, Module, RefType, TableSection, TableType};
    use wasmtime::Store;

    /// A module with so many memories of so many pages, and a table.
    fn module(memories: u32, pages: u64, elements: u64) -> Vec<u8> {
        let (mut memory, mut table) = (MemorySection::new(), TableSection::new());
        for _ in 0..memories {
            memory.memory(MemoryType {
                minimum: pages,
                maximum: None,
                memory64: false,
                shared: false,
                page_size_log2: None,
            });
        }
        table.table_with_init(
            TableType {
                element_type: RefType::FUNCREF,
                minimum: elements,
                maximum: None,
                table64: false,
                shared: false,
            },
            &ConstExpr::ref_null(wasm_encoder::HeapType::FUNC),
        );
        let mut module = Module::new();
        module.section(&table).section(&memory);
        module.finish()
    }

    /// Under wasmtime's own limiter, which is for each memory, the sum would be without a limit.
    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a bare store shows what the limiter alone does")]
    async fn several_memories_and_a_table_share_one_limit() {
        let engine = Engine::new(4).expect("an engine");
        let opens = async |memories, pages, elements| {
            let host = Arc::new(HostMemory::new(u64::MAX, 0));
            let run = host.run(&"ann".parse().expect("a user"), 16 << 20, LiveQuota::fixed(Quota::ceiling()));
            let mut store = Store::new(engine.wasmtime(), Meter::new(run.clone(), false));
            store.limiter(|meter| meter);
            store.set_fuel(1_000_000).expect("fuel");
            store.set_epoch_deadline(1_000);
            let module = wasmtime::Module::new(engine.wasmtime(), module(memories, pages, elements)).expect("valid");
            let opened = wasmtime::Instance::new_async(&mut store, &module, &[]).await.is_ok();
            let peak = run.peak_bytes();
            drop(store);
            assert_eq!(host.bytes(), 0, "all of it comes back");
            (opened, peak)
        };
        // 4 MiB each: three fit beside a table, four do not.
        assert_eq!(opens(3, 64, 1_000).await, (true, (12 << 20) + 8_000));
        assert!(!opens(MEMORIES_MAX, 64, 1_000).await.0);
        assert!(opens(MEMORIES_MAX, 63, 1_000).await.0);
    }
}
