//! The execution context: everything one execution may know and use. Born in one constructor per origin, dies by drop.

mod permit;
mod status;

use crate::{
    clock,
    closing::Order,
    grant::{Access, AgentPattern, Effective, Permissions, TOOL_NAME_BYTES_MAX},
    identity::Scope,
    ids::{Digest, PluginName, RequestId, RunId, ThreadId},
    json::Json,
    pace::{PART_BESIDE_OTHERS, Written},
    quota::{LiveQuota, Quota, RunLimits, take_one},
    replay::Known,
    run::{CancelRequest, Durability, Priority, RunSpec, StopReason},
    storage::MadeBy,
    wait::ToolsTook,
};
use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio_util::task::AbortOnDropHandle;

pub use permit::{Denied, Effect, Permit, StateSpace};
pub use status::{ContextState, ContextStatus};

/// Why a run is being stopped from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopCause {
    /// Somebody asked, and it is durable that they did.
    Cancelled(CancelRequest),
    /// The host is going away.
    HostShutdown,
    /// It was refused something as often again as its budget has of it in all: it does not take no for an answer.
    Overdrawn(BudgetSpent),
    /// The user's quota was cut to this much fuel for a run, and it had used more.
    FuelCut(u64),
}

impl StopCause {
    /// The run's stop reason.
    #[must_use]
    pub const fn stop_reason(&self) -> StopReason {
        match self {
            Self::Cancelled(_) => StopReason::Cancelled,
            Self::HostShutdown => StopReason::HostShutdown,
            Self::Overdrawn(_) => StopReason::Quota,
            Self::FuelCut(_) => StopReason::OutOfFuel,
        }
    }
}

/// The way to stop a run from outside. Clones stop the same run; the first cause stands, but a cancel, which was promised to
/// somebody, goes before every other.
#[derive(Debug, Clone, Default)]
pub struct StopSignal(Arc<StopState>);

#[derive(Debug, Default)]
struct StopState {
    stopping: Notify,
    cancelled: OnceLock<StopCause>,
    cause: OnceLock<StopCause>,
    order: Order,
}

/// A request to stop a run that is being made durable. The run does not end while this is there.
#[derive(Debug)]
pub struct Asking(StopSignal);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.0.order.asked();
    }
}

impl StopSignal {
    /// Asks the run to stop. Says whether this was the first time.
    pub fn stop(&self, cause: StopCause) -> bool {
        let first = self.cause().is_none();
        let place = if let StopCause::Cancelled(_) = cause { &self.0.cancelled } else { &self.0.cause };
        // The first of its kind stands.
        let _ = place.set(cause);
        self.0.stopping.notify_waiters();
        first
    }

    /// Announces that somebody asks for a cancel, to be held until that is durable and the run is [stopped](Self::stop).
    /// None if the run has come to its end: then nothing is to be kept of the request.
    #[must_use]
    pub fn ask(&self) -> Option<Asking> {
        self.0.order.ask().then(|| Asking(self.clone()))
    }

    /// Begins the end of the run: waits for those who [ask](Self::ask) already, after which [`cause`](Self::cause) does not
    /// become a cancel any more.
    pub async fn begin_end(&self) {
        self.0.order.end().await;
    }

    /// Why the run was asked to stop, if it was.
    #[must_use]
    pub fn cause(&self) -> Option<&StopCause> {
        self.0.cancelled.get().or(self.0.cause.get())
    }

    /// Waits until the run is asked to stop.
    pub async fn stopped(&self) {
        loop {
            // Before the look, so that a cause that is set after it is heard.
            let stopping = self.0.stopping.notified();
            if self.cause().is_some() {
                return;
            }
            stopping.await;
        }
    }
}

/// Everything one execution may know and use: who it is for, what it may do, what is left to it, how it is stopped.
#[derive(Debug)]
pub struct UserExecutionContext {
    spec: Arc<RunSpec>,
    plugin: PluginName,
    /// The call that a tool executes for, by its number in the run's record; none for the agent itself. Names do not say
    /// which it is: one name can have been an agent's and later a tool plugin's.
    tool_call: Option<u64>,
    /// Whether an author tries it alone, where no operator grants anything.
    tried_alone: bool,
    /// Which attempt at the run this is, from 1. Calls of two attempts can have the same number.
    attempt: u32,
    permissions: Effective,
    quota: LiveQuota,
    /// When this execution began, and how much of the run's time was used before.
    entered: Instant,
    used: Duration,
    /// What it does again first, if it goes on.
    known: Option<Arc<Known>>,
    stop: StopSignal,
    spent: Arc<Spent>,
    /// What a tool has taken of it.
    took: Mutex<ToolsTook>,
}

/// What the executions of one run have used of its budget together.
#[derive(Debug)]
struct Spent {
    tool_sandboxes: Semaphore,
    tool_calls: Budget,
    tool_calls_in_flight: AtomicU32,
    host_calls: AtomicU64,
    events: Budget,
    event_bytes: Budget,
    log_bytes: Budget,
    denials: AtomicU32,
    children: Budget,
    by_tools: Mutex<ToolsTook>,
    written: Written,
}

/// What was taken of something that there is so much of, and what was refused.
#[derive(Debug, Default)]
struct Budget {
    taken: AtomicU64,
    refused: AtomicU64,
}

/// Refusals that a run is allowed in any case, however small its budget, before it is ended for asking on.
const REFUSALS_MIN: u64 = 100;

impl Budget {
    /// Takes so much, and gives the new sum; or refuses, and says whether that was refused as much as there is in all.
    fn take(&self, amount: u64, max: u64) -> Result<u64, bool> {
        let fits = |now: u64| now.checked_add(amount).filter(|total| *total <= max);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(before) => Ok(before + amount),
            Err(_) => {
                let refused = self.refused.fetch_add(amount, Ordering::AcqRel).saturating_add(amount);
                Err(refused >= max.max(REFUSALS_MIN))
            }
        }
    }

    /// Counts what was taken before, whatever there is now.
    fn note(&self, amount: u64) {
        let _ = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(now.saturating_add(amount)));
    }

    fn left(&self, max: u64) -> u64 {
        max.saturating_sub(self.taken.load(Ordering::Relaxed))
    }
}

/// Sandboxes that one run's tools have at once. The other calls under way wait.
const TOOL_SANDBOXES_PER_RUN_MAX: usize = 4;

impl Default for Spent {
    fn default() -> Self {
        Self {
            tool_sandboxes: Semaphore::new(TOOL_SANDBOXES_PER_RUN_MAX),
            tool_calls: Budget::default(),
            tool_calls_in_flight: AtomicU32::new(0),
            host_calls: AtomicU64::new(0),
            events: Budget::default(),
            event_bytes: Budget::default(),
            log_bytes: Budget::default(),
            denials: AtomicU32::new(0),
            children: Budget::default(),
            by_tools: Mutex::default(),
            written: Written::default(),
        }
    }
}

/// A budget that is used up, with its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetSpent {
    /// No more tool calls.
    #[error("this run has made {0} tool calls, which is as many as it may")]
    ToolCalls(u32),
    /// No more tool calls at once.
    #[error("{0} tool calls are under way, which is as many as may be; wait for one of them first")]
    ToolCallsInFlight(u32),
    /// No more calls to the host.
    #[error("this run has made {0} host calls, which is as many as it may; at twice as many it is ended")]
    HostCalls(u64),
    /// No more events.
    #[error("this run has emitted {0} events, which is as many as it may")]
    Events(u32),
    /// No more children.
    #[error("this run has started {0} others, which is as many as it may")]
    Children(u32),
    /// No more bytes of the record of calls, without which a durable run could not be continued.
    #[error("the record of this run's calls has {0} bytes, which is as many as it may, and a durable run needs it")]
    Record(u64),
    /// No more bytes of events.
    #[error("the events of this run have {0} bytes together, which is as many as they may")]
    EventBytes(u64),
    /// No more bytes of log lines.
    #[error("the log lines of this run have {0} bytes together, which is as many as they may")]
    LogBytes(u64),
}

/// A tool call under way. Counted until it is dropped.
#[derive(Debug)]
pub struct ToolCallPlace {
    spent: Arc<Spent>,
    number: u32,
}

impl ToolCallPlace {
    /// Number of the call within the run, from 1.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for ToolCallPlace {
    fn drop(&mut self) {
        self.spent.tool_calls_in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a plugin may take while it says what it is.
pub const DESCRIPTION_LIMITS: RunLimits = RunLimits { fuel: 100_000_000, memory_bytes: 64 << 20, deadline_ms: 5_000 };

impl UserExecutionContext {
    /// For a run that was submitted, over HTTP or without a server, and has been admitted.
    #[must_use]
    pub fn rest(spec: Arc<RunSpec>, permissions: impl Into<Effective>, quota: LiveQuota, stop: StopSignal) -> Self {
        Self::new(spec, permissions.into(), quota, stop)
    }

    /// For asking a plugin what it is: nothing granted, small limits, nobody's data.
    ///
    /// # Errors
    /// Never: the fixed names in it are valid.
    pub fn description(digest: Digest) -> Result<Self, crate::ids::InvalidId> {
        let id = RunId::generate();
        let spec = RunSpec {
            id,
            user: "nobody".parse()?,
            agent: "described".parse()?,
            digest,
            request: RequestId::generate(),
            thread: ThreadId::of_run(id),
            session: None,
            parent: None,
            metadata: Json::empty_object(),
            input: Json::empty_object(),
            limits: DESCRIPTION_LIMITS,
            priority: Priority::default(),
            durability: Durability::Ephemeral,
            retries: None,
            created_at: clock::now(),
        };
        let RunLimits { fuel, memory_bytes, deadline_ms } = DESCRIPTION_LIMITS;
        let quota = Quota {
            // There is no more to be had: nobody is to be told to raise a limit.
            fuel_per_run: fuel,
            memory_bytes_per_context: memory_bytes,
            deadline_ms,
            tool_calls_per_run: 0,
            events_per_run: 0,
            ..Quota::default()
        };
        Ok(Self::new(Arc::new(spec), Permissions::none().into(), LiveQuota::fixed(quota), StopSignal::default()))
    }

    /// For a plugin's tool, called from this context: same run, same budget, same end, and only what the tool plugin
    /// itself declared and was granted. The call has a number in the run's record, which is the same when it is made again
    /// after a crash.
    #[must_use]
    pub fn tool(&self, plugin: PluginName, permissions: impl Into<Effective>, call: u64) -> Self {
        let permissions = permissions.into();
        Self {
            spec: self.spec.clone(),
            plugin,
            tool_call: Some(call),
            tried_alone: self.tried_alone,
            attempt: self.attempt,
            permissions,
            quota: self.quota.clone(),
            entered: self.entered,
            used: self.used,
            known: self.known.clone(),
            stop: self.stop.clone(),
            spent: self.spent.clone(),
            took: Mutex::default(),
        }
    }

    fn new(spec: Arc<RunSpec>, permissions: Effective, quota: LiveQuota, stop: StopSignal) -> Self {
        Self {
            plugin: spec.agent.clone(),
            tool_call: None,
            tried_alone: false,
            attempt: 1,
            permissions,
            quota,
            entered: Instant::now(),
            used: Duration::ZERO,
            known: None,
            stop,
            spec,
            spent: Arc::default(),
            took: Mutex::default(),
        }
    }

    /// The same for a run of whose time so much was used before, and that first does again what is known, if anything is. That
    /// is not its time: until all of it is given, none of it is used.
    #[must_use]
    pub fn going_on(self, used: Duration, known: Option<Arc<Known>>) -> Self {
        Self { used, known, ..self }
    }

    /// The same for a run whose tools had taken so much of its budgets. What it had taken itself it takes again.
    #[must_use]
    pub fn after_tools(self, took: ToolsTook) -> Self {
        self.spent.host_calls.store(took.host_calls, Ordering::Relaxed);
        let budgets = [&self.spent.events, &self.spent.event_bytes, &self.spent.log_bytes];
        for (budget, taken) in budgets.into_iter().zip([took.events, took.event_bytes, took.log_bytes]) {
            budget.note(taken);
        }
        *self.by_tools() = took;
        self
    }

    /// What the run's tools have taken of its budgets, of those that have come to their end.
    #[must_use]
    pub fn tools_took(&self) -> ToolsTook {
        *self.by_tools()
    }

    fn by_tools(&self) -> MutexGuard<'_, ToolsTook> {
        self.spent.by_tools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tool has come to its end: what it has taken is known when its call is not made again. One that is cut off is made
    /// again, and takes it again.
    pub fn tool_ended(&self, tool: &Self) {
        let took = *tool.took.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = self.by_tools();
        *sum = sum.and(took);
    }

    /// Counts what a tool takes.
    fn if_tool(&self, count: impl FnOnce(&mut ToolsTook)) {
        if self.is_tool() {
            count(&mut self.took.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The same where an author tries a plugin alone, if so.
    #[must_use]
    pub fn tried_alone(self, tried_alone: bool) -> Self {
        Self { tried_alone, ..self }
    }

    /// The same at another attempt than the first.
    #[must_use]
    pub fn at_attempt(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    /// How much of its time is used: without what it waited, and without what it did again.
    #[must_use]
    pub fn used(&self) -> Duration {
        let new_since = match &self.known {
            None => Some(self.entered),
            Some(known) => known.given_at(),
        };
        let new = new_since.map_or(Duration::ZERO, |since| since.elapsed());
        self.used.saturating_add(new.saturating_sub(self.waited_beside_others()))
    }

    /// How long it may be given by the clock.
    fn time_limit(&self) -> Duration {
        let allowed_ms = self.quota.get(|quota| quota.deadline_ms);
        Duration::from_millis(self.spec.limits.deadline_ms.min(allowed_ms))
    }

    /// How long it has waited, with what it writes, because other users were served. That is not its time, as far as it would
    /// have written as much in the whole of it.
    fn waited_beside_others(&self) -> Duration {
        self.written().waited_beside_others().min(self.time_limit() * (PART_BESIDE_OTHERS - 1))
    }

    /// Whether it still does again what it did before.
    #[must_use]
    pub fn is_on_its_way_back(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.given_at().is_none())
    }

    /// What was asked: the ids, the input, the limits.
    #[must_use]
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Which attempt at the run this is, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The plugin that executes in this context.
    #[must_use]
    pub const fn plugin(&self) -> &PluginName {
        &self.plugin
    }

    /// Whether a tool executes in this context, called by the run's agent, and not the agent itself.
    #[must_use]
    pub const fn is_tool(&self) -> bool {
        self.tool_call.is_some()
    }

    /// In a tool: a text that is the same for each attempt at one call, and another for each call, also for the same one of
    /// another attempt at the run.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<String> {
        let (run, attempt) = (self.spec.id, self.attempt);
        self.tool_call.map(|call| if attempt > 1 { format!("{run}:{attempt}:{call}") } else { format!("{run}:{call}") })
    }

    /// By which call of the run a change of state is made.
    #[must_use]
    pub fn made_by(&self, call: u64) -> MadeBy {
        MadeBy { run: self.spec.id, attempt: self.attempt, call }
    }

    /// The run that a call of this one starts: the same when the call is made again in this attempt, and another in any other.
    #[must_use]
    pub fn child(&self, call: u64) -> RunId {
        RunId::of_child(self.spec.id, self.attempt, call)
    }

    /// The right to touch this user's data.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::of(self.spec.user.clone())
    }

    /// What the plugin may do here.
    #[must_use]
    pub const fn permissions(&self) -> &Permissions {
        self.permissions.permissions()
    }

    /// The user's quota, as it is now.
    #[must_use]
    pub fn quota(&self) -> Arc<Quota> {
        self.quota.now()
    }

    /// When the time is up: by what was asked for, or by the user's quota if that allows less by now. As much again is there
    /// for doing again what it did before, each time that it goes on. While it waits because other users are served, it stands
    /// still.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let limit = self.time_limit();
        let until = match self.known.as_ref().map(|known| known.given_at()) {
            Some(None) => self.entered + limit,
            Some(Some(given_at)) => given_at + limit.saturating_sub(self.used),
            None => self.entered + limit.saturating_sub(self.used),
        };
        until + self.waited_beside_others()
    }

    /// Waits until the time is up, also if the user's quota is cut meanwhile, or its own time begins.
    pub async fn late(&self) {
        let mut quota = self.quota.clone();
        loop {
            let again = self.known.as_ref().filter(|known| known.given_at().is_none());
            let own_time = async {
                match again {
                    Some(known) => known.all_given().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Its own time may have begun at the last moment.
                () = tokio::time::sleep_until(self.deadline().into()) => {
                    if Instant::now() >= self.deadline() {
                        return;
                    }
                }
                () = quota.changed() => {}
                () = own_time => {}
            }
        }
    }

    /// How the run is stopped from outside.
    #[must_use]
    pub const fn stop(&self) -> &StopSignal {
        &self.stop
    }

    /// Whether the time is up or somebody asked for the end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stop.cause().is_some() || Instant::now() >= self.deadline()
    }

    /// Waits until the run is to end: asked for, or late.
    pub async fn over(&self) {
        tokio::select! {
            () = self.stop.stopped() => {}
            () = self.late() => {}
        }
    }

    /// Waits for a turn to run a tool in a sandbox of its own, of which a run has a few at once.
    pub async fn tool_turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.spent.tool_sandboxes.acquire().await.ok()
    }

    /// Asks whether the guest may do something. Every effect of a guest goes through here first.
    ///
    /// # Errors
    /// When the effect is not in what the plugin declared *and* was granted.
    pub fn authorize(&self, effect: Effect<'_>) -> Result<Permit, Denied> {
        let allowed = match effect {
            Effect::Tool(name) => self.permissions().allow_tool(name),
            Effect::StateRead => self.permissions().state() >= Access::Read,
            Effect::StateWrite => self.permissions().state() >= Access::ReadWrite,
            Effect::WorkspaceRead => self.permissions().workspace() >= Access::Read,
            Effect::WorkspaceWrite => self.permissions().workspace() >= Access::ReadWrite,
            Effect::Agent(name) => self.permissions().allow_agent(name),
            Effect::Human => self.permissions().human(),
        };
        if allowed {
            return Ok(Permit { scope: self.scope(), plugin: self.plugin.clone(), thread: self.spec.thread.clone() });
        }
        self.spent.denials.fetch_add(1, Ordering::Relaxed);
        Err(self.denied(effect))
    }

    /// Says on which side it is missing.
    fn denied(&self, effect: Effect<'_>) -> Denied {
        let declared = self.permissions.declared();
        // What the guest wants to do, whether its plugin declared it, and what would have to be granted for it.
        let nothing = Permissions::none;
        // A guest chose the name; the message repeats no more of it than a name can have.
        let shown = |name: &str| -> String { name.chars().take(TOOL_NAME_BYTES_MAX).collect() };
        let (what, declared, wanted) = match effect {
            Effect::Tool(name) => {
                let wanted = Permissions::new(shown(name).parse(), Access::None);
                (format!("call {:?}", shown(name)), declared.allow_tool(name), wanted)
            }
            Effect::StateRead => {
                ("read state".into(), declared.state() >= Access::Read, Permissions::new([], Access::Read))
            }
            Effect::StateWrite => {
                ("change state".into(), declared.state() >= Access::ReadWrite, Permissions::new([], Access::ReadWrite))
            }
            Effect::WorkspaceRead => {
                let declared = declared.workspace() >= Access::Read;
                ("read /workspace".into(), declared, nothing().with_workspace(Access::Read))
            }
            Effect::WorkspaceWrite => {
                let declared = declared.workspace() >= Access::ReadWrite;
                ("change /workspace".into(), declared, nothing().with_workspace(Access::ReadWrite))
            }
            Effect::Agent(name) => {
                // Not as a pattern: whoever asks for `*` is not to have all agents proposed.
                let wanted = nothing().with_agents(shown(name).parse().map(AgentPattern::Named));
                (format!("start the agent {:?}", shown(name)), declared.allow_agent(name), wanted)
            }
            Effect::Human => ("ask people".into(), declared.human(), nothing().with_human(true)),
        };
        let plugin = self.plugin.clone();
        if !declared {
            return Denied::NotDeclared { what, plugin };
        }
        let grant = Json::of(&self.permissions.granted_and(&wanted)).as_str().to_owned();
        if self.tried_alone {
            return Denied::TriedAlone { what, grant };
        }
        Denied::NotGranted { what, plugin, user: self.spec.user.clone(), grant }
    }

    /// Something was denied in an earlier execution of the run, and counts again.
    pub fn denied_before(&self) {
        self.spent.denials.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether anything was refused for want of permission.
    #[must_use]
    pub fn was_denied(&self) -> bool {
        self.spent.denials.load(Ordering::Relaxed) > 0
    }

    /// Counts one call from the guest to the host. Past twice the budget, the run is ended.
    pub fn count_host_call(&self) {
        let max = self.quota.get(|quota| quota.host_calls_per_run);
        let made = self.spent.host_calls.fetch_add(1, Ordering::Relaxed) + 1;
        self.if_tool(|took| took.host_calls = took.host_calls.saturating_add(1));
        if made >= max.saturating_mul(2) {
            self.stop.stop(StopCause::Overdrawn(BudgetSpent::HostCalls(max)));
        }
    }

    /// Ends the run if it has used more fuel than the user's quota has for one by now. Asked at each tick; a quota that is
    /// not cut is met by the sandbox itself.
    pub fn check_fuel(&self, used: u64) {
        let most = self.quota.get(|quota| quota.fuel_per_run);
        if used > most {
            self.stop.stop(StopCause::FuelCut(most));
        }
    }

    /// The user's quota, as it changes.
    #[must_use]
    pub const fn live_quota(&self) -> &LiveQuota {
        &self.quota
    }

    /// Whether the run may still make calls to the host. Asked by every call that has a way to say no.
    ///
    /// # Errors
    /// When the run has made as many as it may.
    pub fn may_call_host(&self) -> Result<(), BudgetSpent> {
        let max = self.quota.get(|quota| quota.host_calls_per_run);
        if self.host_calls() <= max { Ok(()) } else { Err(BudgetSpent::HostCalls(max)) }
    }

    /// Calls of the run's guests to the host so far.
    #[must_use]
    pub fn host_calls(&self) -> u64 {
        self.spent.host_calls.load(Ordering::Relaxed)
    }

    /// Takes one tool call from the budget.
    ///
    /// # Errors
    /// When the run has made as many as it may, or as many are under way as may be.
    pub fn take_tool_call(&self) -> Result<ToolCallPlace, BudgetSpent> {
        let (max, at_once) = self.quota.get(|quota| (quota.tool_calls_per_run, quota.tool_calls_in_flight));
        take_one(&self.spent.tool_calls_in_flight, at_once).ok_or(BudgetSpent::ToolCallsInFlight(at_once))?;
        // From here on the guard gives the place in flight back.
        let mut place = ToolCallPlace { spent: self.spent.clone(), number: 0 };
        let number = self.take(&self.spent.tool_calls, 1, max.into(), BudgetSpent::ToolCalls(max))?;
        place.number = u32::try_from(number).unwrap_or(u32::MAX);
        Ok(place)
    }

    /// Takes one child from the budget, and gives how many there are with it.
    ///
    /// # Errors
    /// When the run has started as many as it may.
    pub fn take_child(&self) -> Result<u64, BudgetSpent> {
        let max = self.quota.get(|quota| quota.children_per_run);
        self.take(&self.spent.children, 1, max.into(), BudgetSpent::Children(max))
    }

    /// Whether the run has started others.
    #[must_use]
    pub fn has_children(&self) -> bool {
        self.spent.children.taken.load(Ordering::Relaxed) > 0
    }

    /// Tool calls of the run's guests so far.
    #[must_use]
    pub fn tool_calls(&self) -> u64 {
        self.spent.tool_calls.taken.load(Ordering::Relaxed)
    }

    /// Takes one event of so many bytes from the budget.
    ///
    /// # Errors
    /// When the run has emitted as many events, or as many bytes of them, as it may.
    pub fn take_event(&self, bytes: usize) -> Result<(), BudgetSpent> {
        let max = self.quota.get(|quota| quota.events_per_run);
        self.take_event_bytes(bytes)?;
        self.take(&self.spent.events, 1, max.into(), BudgetSpent::Events(max))?;
        self.if_tool(|took| took.events = took.events.saturating_add(1));
        Ok(())
    }

    /// Takes so many bytes from the budget for events: for those that the host records on the guest's behalf, which are
    /// bounded in number by something else.
    ///
    /// # Errors
    /// When the run has as many bytes of events as it may.
    pub fn take_event_bytes(&self, bytes: usize) -> Result<(), BudgetSpent> {
        let max = self.quota.get(|quota| quota.event_bytes_per_run);
        self.take(&self.spent.event_bytes, bytes as u64, max, BudgetSpent::EventBytes(max))?;
        self.if_tool(|took| took.event_bytes = took.event_bytes.saturating_add(bytes as u64));
        Ok(())
    }

    /// Takes a log line of so many bytes from the budgets: its bytes, and one event.
    ///
    /// # Errors
    /// When the run has as many bytes of log lines, or as many events, as it may.
    pub fn take_log_line(&self, bytes: usize) -> Result<(), BudgetSpent> {
        let max = self.quota.get(|quota| quota.log_bytes_per_run);
        self.take(&self.spent.log_bytes, bytes as u64, max, BudgetSpent::LogBytes(max))?;
        self.if_tool(|took| took.log_bytes = took.log_bytes.saturating_add(bytes as u64));
        self.take_event(bytes)
    }

    /// Counts an event that there was room for before, whatever the quota is now.
    pub fn note_event(&self, bytes: usize, is_log_line: bool) {
        if is_log_line {
            self.spent.log_bytes.note(bytes as u64);
        }
        self.spent.event_bytes.note(bytes as u64);
        self.spent.events.note(1);
    }

    /// What the run and its tools write: events, the record, state and files.
    #[must_use]
    pub fn written(&self) -> &Written {
        &self.spent.written
    }

    fn take(&self, budget: &Budget, amount: u64, max: u64, spent: BudgetSpent) -> Result<u64, BudgetSpent> {
        budget.take(amount, max).map_err(|overdrawn| {
            if overdrawn {
                self.stop.stop(StopCause::Overdrawn(spent));
            }
            spent
        })
    }

    /// Tool calls that may still be made.
    #[must_use]
    pub fn tool_calls_left(&self) -> u32 {
        u32::try_from(self.spent.tool_calls.left(self.quota.get(|quota| quota.tool_calls_per_run).into()))
            .unwrap_or(u32::MAX)
    }

    /// Events that may still be emitted.
    #[must_use]
    pub fn events_left(&self) -> u32 {
        u32::try_from(self.spent.events.left(self.quota.get(|quota| quota.events_per_run).into())).unwrap_or(u32::MAX)
    }

    /// Starts work on the run's behalf. Dropping the handle ends it, so that nothing outlives the context's owner.
    #[expect(clippy::disallowed_methods, reason = "the one door to spawning for a run")]
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(tokio::spawn(work))
    }
}

#[cfg(test)]
mod tests;
