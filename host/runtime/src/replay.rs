//! Executes a run again from its journal, with the agent that it had or another, and tells the first difference. Nothing of
//! it reaches the outside: every answer comes from the record, and what there is no answer for ends it.

use crate::{
    artifact::ArtifactError,
    registry::PushError,
    runtime::Runtime,
    sandbox::{Ended, Sandbox, Spent, Stop},
};
use bytes::Bytes;
use cofferdam_core::{
    Json, UserExecutionContext,
    admission::{Refused, Slot, WaitedTooLong, Want},
    context::{StopCause, StopSignal},
    event::Event,
    fault::Fault,
    grant::Permissions,
    identity::Scope,
    ids::{AgentRef, Digest, Pick, RunId},
    journal::{Continued, RecordUnusable, Recorder},
    replay::{Aspect, Beyond, Difference, Known, Over, Said},
    run::{RunSpec, RunView, StopReason},
    storage::StorageError,
    wait::WaitFor,
};
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Events read from storage at once.
const EVENTS_AT_ONCE: u32 = 1_000;

/// How far an execution came that does not differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// The end, which is the one that was recorded.
    End,
    /// The place at which the run was stopped from outside, as by a cancel or its deadline.
    WhereItWasStopped,
    /// Not the end: something differs.
    Difference,
}

/// What a replay found.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The run, as it was recorded.
    pub run: RunView,
    /// The component that was executed now.
    pub digest: Digest,
    /// How far it came.
    pub reached: Reached,
    /// The first difference, if there is one.
    pub difference: Option<Difference>,
    /// Calls in the record.
    pub calls: u64,
    /// Events of the agent's own, and of its tools, in the log.
    pub events: u64,
    /// Fuel that it took now.
    pub fuel: u64,
    /// How long it took, from the record being read to the end.
    pub elapsed: Duration,
}

/// Why nothing was replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The run is still under way.
    #[error("run {0} has not ended; wait for its end, or cancel it, and replay it then")]
    NotEnded(String),
    /// The run never began.
    #[error("run {0} never began to execute, so there is nothing to replay")]
    NeverBegan(String),
    /// The component is not on this host.
    #[error(
        "the component {digest} that run executed as {agent:?} is not on this host any more; give the same build with --plugin FILE"
    )]
    PluginGone {
        /// The agent's name.
        agent: String,
        /// Which component.
        digest: String,
    },
    /// The component that was sent is not an agent that this host can run.
    #[error(transparent)]
    Component(#[from] PushError),
    /// The record is not there in full, or not in a form that this host reads.
    #[error("{0}; the run cannot be replayed on this host")]
    Record(#[from] RecordUnusable),
    /// The record says that something is not kept.
    #[error("the run's record is not complete, and it cannot be replayed: {0}")]
    Incomplete(String),
    /// The user has no place for it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// There was no slot in time.
    #[error(transparent)]
    Waited(#[from] WaitedTooLong),
    /// There is no memory for the record.
    #[error("the run's record has {0} bytes, for which the user or the host has no memory now; try again later")]
    NoMemory(u64),
    /// The host is going away.
    #[error("the host is stopping; replay the run when it is back")]
    Draining,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The host failed.
    #[error("the host failed to replay the run: {0}")]
    Host(String),
}

impl ReplayError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NotEnded(_) | Self::NeverBegan(_) | Self::Incomplete(_) | Self::Record(_) => Fault::Caller,
            Self::PluginGone { .. } => Fault::Absent,
            Self::Component(error) => error.fault(),
            Self::Refused(_) | Self::Waited(_) | Self::NoMemory(_) => Fault::Exhausted,
            Self::Draining | Self::Storage(_) | Self::Host(_) => Fault::Host,
        }
    }

    /// For programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotEnded(_) => "run_not_ended",
            Self::NeverBegan(_) => "run_never_began",
            Self::PluginGone { .. } => "plugin_gone",
            Self::Component(error) => error.code(),
            Self::Record(RecordUnusable::Earlier(_)) => "record_of_another_version",
            Self::Record(_) => "record_damaged",
            Self::Incomplete(_) => "record_incomplete",
            Self::Refused(_) => "queue_full",
            Self::Waited(_) => "waited_too_long",
            Self::NoMemory(_) => "no_memory",
            Self::Draining => "draining",
            Self::Storage(_) | Self::Host(_) => "storage_failed",
        }
    }
}

impl Runtime {
    /// Executes a run that has ended again from its journal, with the component that it had, or another. It takes a place of
    /// its user's as a run does, and nothing of it is kept. Who drops this ends it.
    ///
    /// # Errors
    /// When it cannot be executed again. That it differs is a result.
    pub async fn replay(&self, scope: &Scope, run: RunView, component: Option<Bytes>) -> Result<Replayed, ReplayError> {
        let id = run.id.to_string();
        if !run.status.is_terminal() {
            return Err(ReplayError::NotEnded(id));
        }
        if run.started_at.is_none() {
            return Err(ReplayError::NeverBegan(id));
        }
        if self.is_draining() {
            return Err(ReplayError::Draining);
        }
        let spec = self.storage().run_spec(scope, run.id).await?;
        let spec = Arc::new(spec.ok_or_else(|| ReplayError::Host("the run was removed meanwhile".into()))?);
        let (digest, plugin) = match component {
            Some(bytes) => self.registry().agent_not_kept(scope.user(), bytes).await?,
            None => {
                let agent = AgentRef { name: run.agent.clone(), pick: Pick::Digest(run.digest) };
                let gone = || ReplayError::PluginGone { agent: run.agent.to_string(), digest: run.digest.to_string() };
                let about = self.0.services.plugins.find(&agent).ok_or_else(gone)?;
                let plugin = self.0.services.plugins.load(&about, scope.user()).await;
                (run.digest, plugin.map_err(|error| not_loaded(error, gone))?)
            }
        };
        let (limits, priority) = (spec.limits, spec.priority);
        let want = Want { fuel: limits.fuel, memory_bytes: limits.memory_bytes, priority };
        let slot = match self.0.admission.try_admit(self.0.admission.enqueue(scope.user(), want)?) {
            Ok(slot) => slot,
            Err(place) => self.0.admission.admit(place).await?,
        };
        let (known, calls, events, bytes) = self.known(scope, &run, &slot).await?;
        let _held = slot.memory().hold_beside(usize::try_from(bytes).unwrap_or(usize::MAX));
        let known = Arc::new(known);
        let stop = StopSignal::default();
        let ctx = UserExecutionContext::rest(spec.clone(), Permissions::none(), slot.quota().clone(), stop.clone());
        let recorder = Some(Recorder::looking(known.clone()));
        let (services, memory) = (&self.0.services, slot.memory().clone());
        let sandbox = Sandbox::open(services, plugin, Arc::new(ctx), None, recorder, memory, limits.fuel);
        // Several replays of one run can be under way.
        let scratch = RunId::generate();
        let sandbox = sandbox.map_err(|error| ReplayError::Host(error.to_string()))?.with_scratch_of(scratch);
        let begun = Instant::now();
        // It ends with whoever asked for it, and with the host.
        let execution = services.guests.run(execute(sandbox, spec.clone(), slot));
        let (result, spent) = tokio::select! {
            executed = execution => executed.ok_or_else(|| ReplayError::Host("it panicked; please report it".into()))?,
            () = self.0.drained.cancelled() => {
                stop.stop(StopCause::HostShutdown);
                return Err(ReplayError::Draining);
            }
        };
        services.scratch.gone(scratch).await;
        let (reached, difference) = compare(&run, &known, result);
        let (fuel, elapsed) = (spent.fuel, begun.elapsed());
        Ok(Replayed { run, digest, reached, difference, calls, events, fuel, elapsed })
    }

    /// What the journal of a run says of its last attempt: what is known of it, how many calls and events, and how many bytes they hold.
    async fn known(&self, scope: &Scope, run: &RunView, slot: &Slot) -> Result<(Known, u64, u64, u64), ReplayError> {
        let storage = self.storage();
        let (mut continued, mut after) = (Continued::default(), 0);
        loop {
            let chunks = storage.record(scope, run.id, after).await?;
            let Some(last) = chunks.last() else { break };
            after = last.number;
            for chunk in &chunks {
                continued.take(chunk)?;
            }
            // Held for good once all of it is there: until then no more than fits is read.
            if slot.memory().bytes_left() < continued.bytes() {
                return Err(ReplayError::NoMemory(continued.bytes()));
            }
        }
        let (mut events, mut after, mut bytes) = (VecDeque::new(), 0, continued.bytes());
        let mut attempt = 1;
        loop {
            let page = storage.events(scope, run.id, after, EVENTS_AT_ONCE).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for envelope in page {
                // What an attempt says is known to none that comes after it.
                if matches!(&envelope.event, Event::RunWaiting { waits_for, .. } if waits_for == WaitFor::RETRY) {
                    attempt += 1;
                    events.clear();
                } else if is_the_agents_own(&envelope.event) {
                    bytes += envelope.event.bytes() as u64;
                    events.push_back((envelope.seq, envelope.event));
                }
            }
            if slot.memory().bytes_left() < bytes {
                return Err(ReplayError::NoMemory(bytes));
            }
        }
        continued.at_attempt(attempt);
        if let Some(why) = continued.incomplete() {
            return Err(ReplayError::Incomplete(why.to_owned()));
        }
        let (calls, count, tools_too) = (continued.calls(), events.len() as u64, continued.calls_plugins());
        let said = Said::Log { events, tools_too };
        Ok((Known::new(continued.records, said, Beyond::Ends), calls, count, bytes))
    }
}

async fn execute(sandbox: Sandbox, spec: Arc<RunSpec>, slot: Slot) -> (Result<Json, Stop>, Spent) {
    let (result, spent) = sandbox.run(&spec.input).await;
    // What is only looked at is never put away: it ends where its record does.
    let result = result.map_err(Ended::stop);
    slot.used(spent.fuel, spent.active);
    (result, spent)
}

fn not_loaded(error: ArtifactError, gone: impl FnOnce() -> ReplayError) -> ReplayError {
    match error {
        ArtifactError::Compile(_) => ReplayError::Component(error.into()),
        _ => gone(),
    }
}

const fn is_the_agents_own(event: &Event) -> bool {
    matches!(event, Event::AgentThinking { .. } | Event::Progress { .. } | Event::Custom { .. } | Event::Log { .. })
}

/// Whether a run that ended so was stopped at a place that does not follow from what it did.
const fn was_stopped(reason: StopReason) -> bool {
    matches!(
        reason,
        StopReason::Cancelled
            | StopReason::Deadline
            | StopReason::Quota
            | StopReason::OutOfFuel
            | StopReason::HostShutdown
            | StopReason::OutcomeUnknown
            | StopReason::HostError
    )
}

fn compare(run: &RunView, known: &Known, result: Result<Json, Stop>) -> (Reached, Option<Difference>) {
    let differs = |difference| (Reached::Difference, Some(difference));
    let stopped = run.stop_reason.is_some_and(was_stopped);
    match known.over() {
        Some(Over::Differs(difference)) => return differs(difference),
        Some(Over::RecordEnds { .. }) if stopped => return (Reached::WhereItWasStopped, None),
        Some(Over::RecordEnds { asked }) => return differs(Difference::new(Aspect::Call, None, None, Some(asked))),
        None => {}
    }
    if let Some(left) = known.left() {
        return differs(left);
    }
    let (recorded, now) = (end_of(run), end_of_now(&result));
    if recorded == now {
        (Reached::End, None)
    } else if stopped {
        (Reached::WhereItWasStopped, None)
    } else {
        differs(Difference::new(Aspect::End, None, Some(recorded), Some(now)))
    }
}

fn end_of(run: &RunView) -> String {
    let reason = run.stop_reason.map_or("", StopReason::as_str);
    match (&run.output, &run.error) {
        (Some(output), _) => format!("{reason} {}", output.as_str()),
        (None, Some(error)) => format!("{reason} {}: {}", error.code, error.message),
        (None, None) => reason.to_owned(),
    }
}

fn end_of_now(result: &Result<Json, Stop>) -> String {
    match result {
        Ok(output) => format!("{} {}", StopReason::Completed.as_str(), output.as_str()),
        Err(stop) => format!("{} {}: {}", stop.reason.as_str(), stop.code, stop.message),
    }
}
