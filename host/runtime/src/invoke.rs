//! The spine: from the queue to an outcome, in one readable line of steps.
//!
//! Accept (durable, then 202) → queue → admit → execute → close. All of it happens in the run's own task, so that a client
//! that goes away in the middle leaves either nothing or a run that goes on.

use crate::{
    announced::Announcer,
    artifact::ArtifactError,
    compile::CompileError,
    counts::Counts,
    guest_threads::among_guests,
    meter::{Refusal, RunMemory},
    runtime::Runtime,
    sandbox::{self, Ended, Sandbox, Spent, Stop, Waits},
    services::Services,
    waiting::{self, Back, NotBack},
};
use cofferdam_core::{
    Json, UserExecutionContext,
    admission::{Place, Slot},
    clock,
    context::{ContextState, StopCause, StopSignal},
    event::Event,
    grant::{Effective, Permissions},
    identity::{Operator, Scope},
    ids::RunId,
    journal::{Recorder, RunJournal},
    run::{Children, Durability, RunEnd, RunError, RunSpec, RunView, StopReason, Usage},
    storage::{PluginVersion, StorageError, UnfinishedRun},
    unwind::unpanicked,
    wait::{TakenBefore, WaitFor},
};
use jiff::Timestamp;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// The shortest and the longest wait before storage is asked again, and how often it is asked: for about half a minute.
const ASK_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
const ASKS_MAX: u32 = 12;

/// A failure that may be over in a moment.
trait MayPass: std::fmt::Display {
    fn may_pass(&self) -> bool;
}

impl MayPass for StorageError {
    fn may_pass(&self) -> bool {
        true
    }
}

impl MayPass for NotBack {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Storage(_))
    }
}

/// One run's way from the queue to its end.
pub struct RunTask {
    pub runtime: Runtime,
    pub scope: Scope,
    pub id: RunId,
    pub view: RunView,
    /// As storage had it, of a run that goes on.
    pub before: Option<UnfinishedRun>,
    pub stop: StopSignal,
    pub context: ContextState,
}

/// What became of an execution.
pub enum Executed {
    Ended(Box<RunView>),
    /// It waits, and may have been brought back by now.
    PutAway,
    /// It is left to the next start of the host.
    Left,
}

impl Drop for RunTask {
    fn drop(&mut self) {
        // Storage knows by now whether it waits. Before somebody brings it back, who may take a place again.
        self.runtime.0.services.wait_places.give_back(self.scope.user(), self.id);
        self.runtime.live().remove(&self.id);
        self.runtime.0.retention.ended(self.scope.user());
    }
}

impl RunTask {
    /// Waits for a slot, then executes. A spec that is not needed at once is not kept, but read again.
    pub async fn queue(self, place: Place, spec: Option<Arc<RunSpec>>, about: Arc<PluginVersion>, ending: Announcer) {
        let runtime = self.runtime.clone();
        let inner = &runtime.0;
        // What is queued when the host goes away stays queued; also what was being taken just then.
        if inner.drained.is_cancelled() {
            return;
        }
        let mut place = place;
        let (slot, spec) = loop {
            match inner.admission.try_admit(place) {
                Ok(slot) => break (slot, spec),
                Err(waiting) => place = waiting,
            }
            self.context.waits(place.throttle());
            let want = place.want();
            let admitted = tokio::select! {
                biased;
                () = inner.drained.cancelled() => return,
                () = self.stop.stopped() => None,
                slot = inner.admission.admit(place) => Some(slot),
            };
            match admitted {
                Some(Ok(slot)) => break (slot, None),
                // What has begun is not ended for want of a slot.
                Some(Err(_)) if self.has_begun() => place = inner.admission.enqueue_again(self.scope.user(), want),
                Some(Err(waited)) => {
                    return self.never_started(Stop::new(StopReason::Quota, waited.to_string()), &ending).await;
                }
                None => {
                    let Some(StopCause::Cancelled(request)) = self.stop.cause() else { return };
                    let when = if self.has_begun() { " while it waited" } else { " before it began" };
                    return self.never_started(Stop::cancelled(request, when), &ending).await;
                }
            }
        };
        let (user, failures_max) = (self.scope.user(), slot.quota().get(|quota| quota.failures_in_a_row));
        let _try = match inner.backoff.begin(user, about.digest, failures_max, Instant::now()) {
            Ok(begun) => Some(begun),
            Err(_) if self.has_begun() => None,
            Err(off) => {
                drop(slot);
                let stop = Stop::new(StopReason::Quota, format!("the run was not started: {off}"));
                return self.never_started(stop, &ending).await;
            }
        };
        let spec = match spec {
            Some(spec) => spec,
            None => match self.patiently(|| self.runtime.storage().run_spec(&self.scope, self.id)).await {
                Ok(Some(spec)) => Arc::new(spec),
                Err(_) if self.is_left() => return,
                Ok(None) | Err(_) => {
                    let stop = Stop::new(StopReason::HostError, "the host could not read the run; submit it again");
                    return self.never_started(stop, &ending).await;
                }
            },
        };
        let executed = unpanicked(self.execute(&slot, spec, &about)).await;
        drop(slot);
        let executed = match executed {
            Some(executed) => executed,
            None => match self.panicked().await {
                Some(executed) => executed,
                None => return,
            },
        };
        match executed {
            Executed::Ended(view) => self.tell(&ending, *view).await,
            Executed::Left => {}
            Executed::PutAway => {
                let (runtime, scope, id) = (self.runtime.clone(), self.scope.clone(), self.id);
                // It is nobody's now. What came in the meantime found it live, and left it.
                drop(self);
                runtime.0.waits_changed.notify_one();
                if let Err(error) = runtime.bring_back(&scope, id).await {
                    tracing::error!(run = %id, %error, "whether a run has what it waits for cannot be read");
                }
            }
        }
    }

    /// Asks storage for something without which the run does not begin. One that is durable, or goes on, does not end because
    /// storage fails for a moment: it is asked again for a while.
    async fn patiently<T, E: MayPass, F: Future<Output = Result<T, E>> + Send>(
        &self,
        mut ask: impl FnMut() -> F + Send,
    ) -> Result<T, E> {
        let (mut wait, longest) = ASK_WAIT;
        for _ in 1..ASKS_MAX {
            match ask().await {
                Err(error) if error.may_pass() && self.lasts() && self.stop.cause().is_none() => {
                    tracing::error!(run = %self.id, %error, "storage fails a run that is to go on; trying again");
                }
                answered => return answered,
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.stopped() => {}
            }
            wait = (wait * 2).min(longest);
        }
        ask().await
    }

    /// Whether the host goes away, and what cannot be read now is left to the next one.
    fn is_left(&self) -> bool {
        self.lasts() && matches!(self.stop.cause(), Some(StopCause::HostShutdown))
    }

    /// Whether it goes on where it was after a failure of the host.
    fn lasts(&self) -> bool {
        self.has_begun() || self.view.durability == Durability::Durable
    }

    /// Whether something of it was executed before.
    fn has_begun(&self) -> bool {
        self.before.as_ref().is_some_and(|run| run.started_at.is_some())
    }

    /// Whether an earlier host has accepted it, which may have ended with it.
    fn is_of_an_earlier_host(&self) -> bool {
        self.before.as_ref().is_some_and(|run| run.created_at < self.runtime.0.started_at)
    }

    /// As storage has it.
    fn unfinished(&self) -> UnfinishedRun {
        self.before.clone().unwrap_or_else(|| UnfinishedRun::queued(&self.view))
    }

    /// What the run comes to, once nobody can cancel it any more. A cancel that is durable by then goes before everything.
    async fn settled(&self, result: Result<Json, Stop>) -> Result<Json, Stop> {
        self.stop.begin_end().await;
        match (self.stop.cause(), &result) {
            // It says when that was.
            (_, Err(Stop { cancelled_by: Some(_), .. })) => result,
            (Some(StopCause::Cancelled(request)), _) => Err(Stop::cancelled(request, "")),
            _ => result,
        }
    }

    /// Ends a run of which nothing more is executed.
    pub async fn never_started(&self, stop: Stop, ending: &Announcer) {
        let run = self.unfinished();
        let told = match self.has_begun() {
            true => self.runtime.storage().waits().waiting(&self.scope, run.id).await.ok().flatten(),
            false => None,
        };
        let taken = told.map(|stored| stored.wait.taken).unwrap_or_default();
        let journal = self.runtime.journal().reopen(self.scope.clone(), &run);
        let result = self.settled(Err(stop)).await;
        let end = waiting::ending_of(&run, taken).with_children_of(&self.runtime, &self.scope, run.id).await;
        let end = end.close(&self.runtime.0.services.counts, &journal, result).await;
        if self.has_begun() {
            self.runtime.end_children(&self.scope, self.id).await;
        }
        self.tell(ending, self.ended(&end)).await;
    }

    /// Tells whoever waits for the end. By then nothing is left of the run but what was stored, and so it is read from
    /// here on.
    async fn tell(&self, ending: &Announcer, view: RunView) {
        self.runtime.live().remove(&self.id);
        let is_child = view.parent_run_id.is_some();
        ending.tell(view);
        if is_child {
            self.runtime.child_ended(&self.scope, self.id).await;
        }
    }

    /// The run as it has ended.
    fn ended(&self, end: &RunEnd) -> RunView {
        let mut view = self.view.clone().ended(end);
        if let Some(StopCause::Cancelled(request)) = self.stop.cause() {
            view.cancel = Some(request.clone());
        }
        view
    }

    /// The host panicked outside the sandbox: the run is ended as storage knows it, so that nobody waits for it for ever.
    async fn panicked(&self) -> Option<Executed> {
        let services = &self.runtime.0.services;
        services.host_panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(run = %self.id, "the host panicked while it executed a run");
        let unfinished = services.storage.unfinished_runs(Operator::host()).await.unwrap_or_default();
        let run = unfinished.into_iter().find(|run| run.id == self.id)?;
        let stop = Stop::new(StopReason::HostError, "the host failed while it ran this; please report it");
        Some(self.failed_outside(&run, stop).await)
    }

    /// Puts a run off of which nothing more is executed now, or ends it.
    async fn failed_outside(&self, run: &UnfinishedRun, stop: Stop) -> Executed {
        let journal = self.runtime.journal().reopen(self.scope.clone(), run);
        let cancelled = matches!(self.stop.cause(), Some(StopCause::Cancelled(_)));
        if !cancelled && self.runtime.put_off_cut(&self.scope, run, &journal, &stop).await {
            self.runtime.end_children(&self.scope, run.id).await;
            return Executed::PutAway;
        }
        let result = self.settled(Err(stop)).await;
        let end = Ending::never_ran(run.started_at).with_children_of(&self.runtime, &self.scope, run.id).await;
        let end = end.close(&self.runtime.0.services.counts, &journal, result).await;
        self.runtime.end_children(&self.scope, run.id).await;
        Executed::Ended(Box::new(self.ended(&end)))
    }

    /// The spine: grant, context, journal, sandbox, journal.
    pub async fn execute(&self, slot: &Slot, spec: Arc<RunSpec>, about: &PluginVersion) -> Executed {
        let services = &self.runtime.0.services;
        let admitted_at = clock::now();
        let back = match self.before.as_ref().filter(|run| run.started_at.is_some()) {
            None => None,
            // A record may have megabytes to read.
            Some(run) => match among_guests(self.patiently(|| self.back(run))).await {
                // Large, and of few runs.
                Ok(back) => Some(Box::new(back)),
                Err(NotBack::Storage(_)) if self.is_left() => return Executed::Left,
                Err(error) => return self.not_back(run, &error).await,
            },
        };
        let started_at = back.as_ref().and_then(|back| back.run.started_at).unwrap_or(admitted_at);
        if back.is_none() {
            // A clock that was set back makes no run early.
            let waited = Duration::try_from(admitted_at.duration_since(spec.created_at)).unwrap_or_default();
            services.counts.queue_wait.took(waited);
        }
        let before = back.as_ref().map(|back| back.taken).unwrap_or_default();
        let attempt = before.earlier.attempts.saturating_add(1);
        let granted = self.patiently(|| services.grants.get(&self.scope, &spec.agent)).await;
        let permissions = granted.map(|granted| Effective::of(&about.needs, &granted.unwrap_or_default()));
        // Without an answer nothing is granted; the run is ended below.
        let (permissions, granted) = permissions.map_or_else(|e| (Permissions::none().into(), Err(e)), |p| (p, Ok(())));
        let quota = slot.quota().clone();
        let mut ctx = UserExecutionContext::rest(spec.clone(), permissions, quota, self.stop.clone());
        if services.stand_ins.is_some() {
            ctx = ctx.tried_alone(true);
        }
        if let Some(back) = &back {
            let used = Duration::from_millis(before.wall_ms);
            ctx = ctx.at_attempt(attempt).going_on(used, back.known.clone()).after_tools(before.tools);
        }
        let ctx = Arc::new(ctx);
        let told = back.as_ref().and_then(|back| back.told.clone());
        let journal = match &back {
            None => self.runtime.journal().open(&ctx, started_at, self.context.throttled()),
            Some(back) => self.runtime.journal().go_on(&ctx, &back.run, &back.continued),
        };
        let memory = slot.memory();
        let begun = Instant::now();
        let (result, spent) = match granted {
            Ok(()) => {
                let counted = self.is_of_an_earlier_host();
                invoke(services, about, &ctx, &self.context, &journal, memory, back, counted).await
            }
            Err(error) => (Err(host_error(&error).into()), Spent::default()),
        };
        // What was executed again took a processor again.
        slot.used(spent.burnt(), spent.active);
        let now = Instant::now();
        self.runtime.0.recent.ended(&spec.user, spent.active, now.saturating_duration_since(begun), now);
        let result = match result {
            Ok(output) => Ok(output),
            Err(Ended::Waits(mut waits)) => {
                let mut taken = waiting::taken_by(&ctx, before, spent, memory);
                let Some(stop) = waiting::host_wait(&mut waits, &mut taken) else {
                    services.scratch.gone(spec.id).await;
                    waiting::put_away(&journal, *waits, taken, told).await;
                    return Executed::PutAway;
                };
                Err(stop)
            }
            Err(Ended::Stopped(stop)) => Err(stop),
        };
        if self.is_left_to_the_next_start(&spec) && result.is_err() {
            services.scratch.gone(spec.id).await;
            journal.leave().await;
            return Executed::Left;
        }
        let ending = Ending {
            executed: Some(ctx.used()),
            started_at: Some(started_at),
            spent,
            taken: before,
            peak_bytes: memory.peak_bytes(),
            memory_byte_seconds: memory.byte_seconds(),
            tool_calls: ctx.tool_calls(),
            children: Children::default(),
        };
        let failures_max = ctx.quota().failures_in_a_row;
        let count = |reason| {
            if is_the_agents_own(reason, &ctx, memory, spent) {
                self.runtime.0.backoff.ended(&spec.user, spec.digest, reason, failures_max, now);
            }
        };
        // Of an attempt before there may be some that could not be asked to stop.
        let may_have_children = ctx.has_children() || before.earlier.attempts > 0;
        // Who asks it to stop from here on finds it waiting. Its cancel is not too late, as it is for an end.
        if let Err(stop) = &result
            && !matches!(self.stop.cause(), Some(StopCause::Cancelled(_)))
            && self.put_off(&journal, stop, &ending).await
        {
            count(stop.reason);
            services.scratch.gone(spec.id).await;
            if may_have_children {
                self.runtime.end_children(&self.scope, spec.id).await;
            }
            return Executed::PutAway;
        }
        let result = self.settled(result).await;
        let ending = match may_have_children {
            true => ending.with_children_of(&self.runtime, &self.scope, spec.id).await,
            false => ending,
        };
        let end = ending.close(&services.counts, &journal, result).await;
        count(end.stop_reason);
        services.scratch.gone(spec.id).await;
        if may_have_children {
            self.runtime.end_children(&self.scope, spec.id).await;
        }
        Executed::Ended(Box::new(RunView { attempt, ..self.ended(&end) }))
    }

    /// Puts the run away until its next attempt, if it is to have one.
    async fn put_off(&self, journal: &RunJournal, stop: &Stop, ending: &Ending) -> bool {
        let earlier = ending.taken.earlier.and(ending.usage_of_attempt());
        self.runtime.put_off(&self.scope, &self.unfinished(), journal, stop, earlier).await
    }

    /// Whether the host is going away, and the run goes on with the next one.
    fn is_left_to_the_next_start(&self, spec: &RunSpec) -> bool {
        spec.durability == Durability::Durable && matches!(self.stop.cause(), Some(StopCause::HostShutdown))
    }

    /// Puts off, or ends, a run that cannot be brought back.
    async fn not_back(&self, run: &UnfinishedRun, error: &NotBack) -> Executed {
        tracing::error!(run = %run.id, %error, "a run cannot be brought back");
        let message = format!("the host could not go on with the run: {error}");
        let (reason, message) = match run.effects {
            true => (
                StopReason::OutcomeUnknown,
                format!("{message}; it may have changed files or state, look before you submit it again"),
            ),
            false => (StopReason::HostError, format!("{message}; nothing outside it was changed, submit it again")),
        };
        self.failed_outside(run, Stop::new(reason, message)).await
    }
}

/// Whether an end says something about the agent. What others held of the host's memory, or of the user's, and how long the
/// host took to make the agent ready, do not.
fn is_the_agents_own(reason: StopReason, ctx: &UserExecutionContext, memory: &RunMemory, spent: Spent) -> bool {
    match reason {
        StopReason::MemoryLimit => memory.refused() == Some(Refusal::Run),
        StopReason::Quota => matches!(ctx.stop().cause(), Some(StopCause::Overdrawn(_))),
        StopReason::Deadline => !spent.active.is_zero(),
        _ => true,
    }
}

/// Opens a sandbox for the context and runs the agent in it; if that is counted, once it is durable that it begins.
#[expect(clippy::too_many_arguments, reason = "all that an execution is made of, once")]
async fn invoke(
    services: &Arc<Services>,
    about: &PluginVersion,
    ctx: &Arc<UserExecutionContext>,
    context: &ContextState,
    journal: &RunJournal,
    memory: &Arc<RunMemory>,
    back: Option<Box<Back>>,
    counted: bool,
) -> (Result<Json, Ended>, Spent) {
    // A plugin that is not in memory is read, checked, and perhaps compiled: longer than some runs may take.
    let loaded = tokio::select! {
        biased;
        loaded = services.plugins.load(about, &ctx.spec().user) => loaded,
        () = ctx.over() => return (Err(sandbox::stop_of_interruption(ctx, Some(journal)).into()), Spent::default()),
    };
    let plugin = match loaded {
        Ok(plugin) => plugin,
        // The host has the plugin, but no room to compile it again.
        Err(ArtifactError::Compile(error @ (CompileError::NoRoom { .. } | CompileError::TooMany))) => {
            let stop = Stop::new(StopReason::Quota, format!("the agent is not ready to run: {error}"));
            return (Err(stop.into()), Spent::default());
        }
        Err(error) => return (Err(host_error(&error).into()), Spent::default()),
    };
    let spec = ctx.spec();
    let record_bytes = back.as_ref().map_or(0, |back| usize::try_from(back.continued.bytes()).unwrap_or(usize::MAX));
    let Some(_held) = memory.hold_beside(spec.input.as_str().len().saturating_add(record_bytes)) else {
        if back.is_some() {
            let waits = Waits { call: 0, waits_for: WaitFor::Memory, until: None };
            return (Err(Ended::Waits(Box::new(waits))), Spent::default());
        }
        let why = "there is no memory left for the run's input, of what the user's runs or all runs may hold together; submit it again later";
        return (Err(Stop::new(StopReason::MemoryLimit, why).into()), Spent::default());
    };
    if counted && let Err(error) = journal.before_start().await {
        // It is put away until storage works again, as it is when storage fails it later.
        if back.is_some() || spec.durability == Durability::Durable {
            tracing::error!(run = %spec.id, %error, "storage failed a run before it was started, which is put away");
            let waits = Waits { call: 0, waits_for: WaitFor::Storage, until: None };
            return (Err(Ended::Waits(Box::new(waits))), Spent::default());
        }
        return (Err(host_error(&error).into()), Spent::default());
    }
    let fuel = spec.limits.fuel;
    let (recorder, told) = match back.map(|back| *back) {
        Some(Back { known: Some(known), told, .. }) => (Recorder::going_on(journal.clone(), known), told),
        Some(Back { known: None, .. }) | None => (Recorder::new(journal.clone()), None),
    };
    let sandbox = Sandbox::open(
        services,
        plugin,
        ctx.clone(),
        Some(journal.clone()),
        Some(recorder.clone()),
        memory.clone(),
        fuel,
    );
    match sandbox {
        Ok(sandbox) => {
            context.executes();
            let ended = sandbox.told(told).run(&spec.input).await;
            // What others held of the memory then is nothing that an agent could be shown again.
            if matches!(memory.refused(), Some(Refusal::User | Refusal::Host)) {
                recorder.incomplete("memory was refused to the agent because of what other runs held");
            }
            ended
        }
        Err(error) => (Err(host_error(&error).into()), Spent::default()),
    }
}

fn host_error(error: &dyn std::fmt::Display) -> Stop {
    tracing::error!(%error, "the host failed a run");
    Stop::new(StopReason::HostError, "the host failed to run this; submit it again later")
}

/// What is known of a run at its end.
pub struct Ending {
    /// Time since it was admitted, without the time that it waited; none if this host executed nothing of it.
    pub executed: Option<Duration>,
    pub started_at: Option<Timestamp>,
    pub spent: Spent,
    /// What it had taken when it was put away last.
    pub taken: TakenBefore,
    pub peak_bytes: u64,
    pub memory_byte_seconds: u64,
    pub tool_calls: u64,
    /// What became of the runs that it started.
    pub children: Children,
}

impl Ending {
    /// Of a run of which nothing was executed by this process.
    pub fn never_ran(started_at: Option<Timestamp>) -> Self {
        let (peak_bytes, memory_byte_seconds, tool_calls) = (0, 0, 0);
        let (spent, taken) = (Spent::default(), TakenBefore::default());
        let (executed, children) = (None, Children::default());
        Self { executed, started_at, spent, taken, peak_bytes, memory_byte_seconds, tool_calls, children }
    }

    /// With what became of the runs that it started, if it could start any.
    pub async fn with_children_of(self, runtime: &Runtime, scope: &Scope, run: RunId) -> Self {
        let children = match self.started_at {
            Some(_) => runtime.children_ended(scope, run).await,
            None => Children::default(),
        };
        Self { children, ..self }
    }

    /// What its last attempt took, but for events.
    pub fn usage_of_attempt(&self) -> Usage {
        Usage {
            // What was executed again was the same fuel.
            fuel: self.spent.fuel.max(self.taken.fuel),
            memory_peak_bytes: self.peak_bytes,
            wall_ms: self.executed.map_or(self.taken.wall_ms, millis),
            active_ms: millis(self.spent.active).saturating_add(self.taken.active_ms),
            host_calls: self.spent.host_calls,
            events: 0,
            tool_calls: self.tool_calls,
            memory_byte_seconds: self.memory_byte_seconds.saturating_add(self.taken.memory_byte_seconds),
        }
    }

    /// Makes the end durable, with the run's one terminal event.
    pub async fn close(self, counts: &Counts, journal: &RunJournal, result: Result<Json, Stop>) -> RunEnd {
        let usage = Usage { events: journal.seal(), ..self.usage_of_attempt().with_earlier(self.taken.earlier.usage) };
        let children = self.children;
        let (stop_reason, output, error, event) = match result {
            Ok(output) => {
                let event = Event::AgentCompleted { output_bytes: output.as_str().len() as u64, usage, children };
                (StopReason::Completed, Some(output), None, event)
            }
            Err(Stop { reason, code, message, cancelled_by }) => {
                let (code_told, message_told) = (code.clone(), message.clone());
                let event = match cancelled_by {
                    Some(by) => Event::AgentCancelled { by: by.to_string(), message: message_told, usage, children },
                    None => Event::AgentError {
                        stop_reason: reason,
                        code: code_told,
                        message: message_told,
                        usage,
                        children,
                    },
                };
                (reason, None, Some(RunError { code, message }), event)
            }
        };
        let (started_at, finished_at) = (self.started_at, clock::now());
        let end = RunEnd { stop_reason, output, error, usage, children, started_at, finished_at };
        journal.close(event, end.clone()).await;
        counts.ended(&end);
        if let Some(executed) = self.executed {
            counts.run_duration.took(executed);
        }
        end
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
