//! The spine: from the queue to an outcome, in one readable line of steps.
//!
//! Accept (durable, then 202) → queue → admit → execute → close. All of it happens in the run's own task, so that a client
//! that goes away in the middle leaves either nothing or a run that goes on.

use crate::{
    announced::Announcer,
    artifact::ArtifactError,
    compile::CompileError,
    counts::Counts,
    meter::{Refusal, RunMemory},
    runtime::Runtime,
    sandbox::{self, Sandbox, Spent, Stop},
    services::Services,
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
    journal::RunJournal,
    run::{RunEnd, RunError, RunSpec, RunView, StopReason, Usage},
    storage::{PluginVersion, UnfinishedRun},
    unwind::unpanicked,
};
use jiff::Timestamp;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// One run's way from the queue to its end.
pub struct RunTask {
    pub runtime: Runtime,
    pub scope: Scope,
    pub id: RunId,
    pub view: RunView,
    pub stop: StopSignal,
    pub context: ContextState,
}

impl Drop for RunTask {
    fn drop(&mut self) {
        self.runtime.live().remove(&self.id);
        self.runtime.0.retention.ended(self.scope.user());
    }
}

impl RunTask {
    /// Waits for a slot, then executes. A spec that is not needed at once is not kept, but read again.
    pub async fn queue(self, place: Place, spec: Option<Arc<RunSpec>>, about: Arc<PluginVersion>, ending: Announcer) {
        let inner = &self.runtime.0;
        // What is queued when the host goes away stays queued; also what was being taken just then.
        if inner.drained.is_cancelled() {
            return;
        }
        let (slot, spec) = match inner.admission.try_admit(place) {
            Ok(slot) => (slot, spec),
            Err(place) => {
                drop(spec);
                self.context.waits(place.throttled());
                let admitted = tokio::select! {
                    biased;
                    () = inner.drained.cancelled() => return,
                    () = self.stop.stopped() => None,
                    slot = inner.admission.admit(place) => Some(slot),
                };
                match admitted {
                    Some(Ok(slot)) => (slot, None),
                    Some(Err(waited)) => {
                        return self.never_started(Stop::new(StopReason::Quota, waited.to_string()), &ending).await;
                    }
                    None => {
                        let Some(StopCause::Cancelled(request)) = self.stop.cause() else { return };
                        let stop = Stop::cancelled(request, " before it began");
                        return self.never_started(stop, &ending).await;
                    }
                }
            }
        };
        let (user, failures_max) = (self.scope.user(), slot.quota().get(|quota| quota.failures_in_a_row));
        let _try = match inner.backoff.begin(user, about.digest, failures_max, Instant::now()) {
            Ok(begun) => begun,
            Err(off) => {
                drop(slot);
                let stop = Stop::new(StopReason::Quota, format!("the run was not started: {off}"));
                return self.never_started(stop, &ending).await;
            }
        };
        let spec = match spec {
            Some(spec) => spec,
            None => match self.runtime.storage().run_spec(&self.scope, self.id).await {
                Ok(Some(spec)) => Arc::new(spec),
                Ok(None) | Err(_) => {
                    let stop = Stop::new(StopReason::HostError, "the host could not read the run; submit it again");
                    return self.never_started(stop, &ending).await;
                }
            },
        };
        let executed = unpanicked(self.execute(&slot, spec, &about)).await;
        drop(slot);
        let view = match executed {
            Some(view) => view,
            None => return self.panicked(&ending).await,
        };
        self.tell(&ending, view);
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

    async fn never_started(&self, stop: Stop, ending: &Announcer) {
        let journal = self.runtime.journal().reopen(self.scope.clone(), &UnfinishedRun::queued(&self.view));
        let end = Ending::never_ran(None)
            .close(&self.runtime.0.services.counts, &journal, self.settled(Err(stop)).await)
            .await;
        self.tell(ending, self.ended(&end));
    }

    /// Tells whoever waits for the end. By then nothing is left of the run but what was stored, and so it is read from
    /// here on.
    fn tell(&self, ending: &Announcer, view: RunView) {
        self.runtime.live().remove(&self.id);
        ending.tell(view);
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
    async fn panicked(&self, ending: &Announcer) {
        let services = &self.runtime.0.services;
        services.host_panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(run = %self.id, "the host panicked while it executed a run");
        let unfinished = services.storage.unfinished_runs(Operator::host()).await.unwrap_or_default();
        let Some(run) = unfinished.into_iter().find(|run| run.id == self.id) else { return };
        let journal = self.runtime.journal().reopen(self.scope.clone(), &run);
        let stop = Stop::new(StopReason::HostError, "the host failed while it ran this; please report it");
        let end =
            Ending::never_ran(run.started_at).close(&services.counts, &journal, self.settled(Err(stop)).await).await;
        self.tell(ending, self.ended(&end));
    }

    /// The spine: grant, context, journal, sandbox, journal.
    pub async fn execute(&self, slot: &Slot, spec: Arc<RunSpec>, about: &PluginVersion) -> RunView {
        let services = &self.runtime.0.services;
        let (started, started_at) = (Instant::now(), clock::now());
        // A clock that was set back makes no run early.
        let waited = Duration::try_from(started_at.duration_since(spec.created_at)).unwrap_or_default();
        services.counts.queue_wait.took(waited);
        let granted = services.grants.get(&self.scope, &spec.agent).await;
        let permissions = granted.map(|granted| Effective::of(&about.needs, &granted.unwrap_or_default()));
        // Without an answer nothing is granted; the run is ended below.
        let (permissions, granted) = permissions.map_or_else(|e| (Permissions::none().into(), Err(e)), |p| (p, Ok(())));
        let quota = slot.quota().clone();
        let ctx = Arc::new(UserExecutionContext::rest(spec.clone(), permissions, quota, self.stop.clone()));
        let journal = self.runtime.journal().open(&ctx, started_at);
        let memory = slot.memory();
        let (result, spent) = match granted {
            Ok(()) => invoke(services, about, &ctx, &self.context, &journal, memory).await,
            Err(error) => (Err(host_error(&error)), Spent::default()),
        };
        let result = self.settled(result).await;
        let end = Ending {
            started: Some(started),
            started_at: Some(started_at),
            spent,
            peak_bytes: memory.peak_bytes(),
            memory_byte_seconds: memory.byte_seconds(),
            tool_calls: ctx.tool_calls(),
        };
        slot.used(spent.fuel, spent.active);
        let now = Instant::now();
        self.runtime.0.recent.ended(&spec.user, spent.active, now.saturating_duration_since(started), now);
        let end = end.close(&services.counts, &journal, result).await;
        if is_the_agents_own(end.stop_reason, &ctx, memory, spent) {
            let failures_max = ctx.quota().failures_in_a_row;
            self.runtime.0.backoff.ended(&spec.user, spec.digest, end.stop_reason, failures_max, now);
        }
        services.scratch.gone(spec.id).await;
        self.ended(&end)
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

/// Opens a sandbox for the context and runs the agent in it.
async fn invoke(
    services: &Arc<Services>,
    about: &PluginVersion,
    ctx: &Arc<UserExecutionContext>,
    context: &ContextState,
    journal: &RunJournal,
    memory: &Arc<RunMemory>,
) -> (Result<Json, Stop>, Spent) {
    // A plugin that is not in memory is read, checked, and perhaps compiled: longer than some runs may take.
    let loaded = tokio::select! {
        biased;
        loaded = services.plugins.load(about, &ctx.spec().user) => loaded,
        () = ctx.over() => return (Err(sandbox::stop_of_interruption(ctx, Some(journal))), Spent::default()),
    };
    let plugin = match loaded {
        Ok(plugin) => plugin,
        // The host has the plugin, but no room to compile it again.
        Err(ArtifactError::Compile(error @ (CompileError::NoRoom { .. } | CompileError::TooMany))) => {
            let stop = Stop::new(StopReason::Quota, format!("the agent is not ready to run: {error}"));
            return (Err(stop), Spent::default());
        }
        Err(error) => return (Err(host_error(&error)), Spent::default()),
    };
    let spec = ctx.spec();
    let Some(_held) = memory.hold_beside(spec.input.as_str().len()) else {
        let why = "there is no memory left for the run's input, of what the user's runs or all runs may hold together; submit it again later";
        return (Err(Stop::new(StopReason::MemoryLimit, why)), Spent::default());
    };
    let sandbox = Sandbox::open(services, plugin, ctx.clone(), Some(journal.clone()), memory.clone(), spec.limits.fuel);
    match sandbox {
        Ok(sandbox) => {
            context.executes();
            sandbox.run(&spec.input).await
        }
        Err(error) => (Err(host_error(&error)), Spent::default()),
    }
}

fn host_error(error: &dyn std::fmt::Display) -> Stop {
    tracing::error!(%error, "the host failed a run");
    Stop::new(StopReason::HostError, "the host failed to run this; submit it again later")
}

/// What is known of a run at its end.
pub struct Ending {
    pub started: Option<Instant>,
    pub started_at: Option<Timestamp>,
    pub spent: Spent,
    pub peak_bytes: u64,
    pub memory_byte_seconds: u64,
    pub tool_calls: u64,
}

impl Ending {
    /// Of a run of which nothing was executed by this process.
    pub fn never_ran(started_at: Option<Timestamp>) -> Self {
        let (peak_bytes, memory_byte_seconds, tool_calls) = (0, 0, 0);
        Self { started: None, started_at, spent: Spent::default(), peak_bytes, memory_byte_seconds, tool_calls }
    }

    /// Makes the end durable, with the run's one terminal event.
    pub async fn close(self, counts: &Counts, journal: &RunJournal, result: Result<Json, Stop>) -> RunEnd {
        let usage = Usage {
            fuel: self.spent.fuel,
            memory_peak_bytes: self.peak_bytes,
            wall_ms: self.started.map_or(0, |started| millis(started.elapsed())),
            active_ms: millis(self.spent.active),
            host_calls: self.spent.host_calls,
            events: journal.seal(),
            tool_calls: self.tool_calls,
            memory_byte_seconds: self.memory_byte_seconds,
        };
        let (stop_reason, output, error, event) = match result {
            Ok(output) => {
                let event = Event::AgentCompleted { output_bytes: output.as_str().len() as u64, usage };
                (StopReason::Completed, Some(output), None, event)
            }
            Err(Stop { reason, code, message, cancelled_by }) => {
                let (code_told, message_told) = (code.clone(), message.clone());
                let event = match cancelled_by {
                    Some(by) => Event::AgentCancelled { by: by.to_string(), message: message_told, usage },
                    None => Event::AgentError { stop_reason: reason, code: code_told, message: message_told, usage },
                };
                (reason, None, Some(RunError { code, message }), event)
            }
        };
        let end = RunEnd { stop_reason, output, error, usage, started_at: self.started_at, finished_at: clock::now() };
        journal.close(event, end.clone()).await;
        counts.ended(&end);
        if let Some(started) = self.started {
            counts.run_duration.took(started.elapsed());
        }
        end
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
