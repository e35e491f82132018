//! Runs that wait: put away without a sandbox, a slot or memory, and brought back into the queue when there is what they
//! wait for.
//!
//! Whoever brings a run back looks at what is stored, not at what was said: a time that has come, an answer, the end of a
//! child, a cancel. So a host that was killed in between finds the same at its start. A run is brought back by one only, who
//! makes it live.

use crate::{
    announced::{Announcer, announcement},
    invoke::{Ending, RunTask},
    runtime::{Inner, Runtime},
    sandbox::{Spent, Stop, Waits},
    schema::{self, Misfit},
};
use cofferdam_core::{
    Json, UserExecutionContext,
    admission::{Place, Want},
    clock,
    event::Event,
    fault::Fault,
    identity::{Operator, Scope},
    ids::{AgentRef, KeyId, Pick, RunId},
    journal::{Continued, RecordUnusable, RunJournal},
    memory::RunMemory,
    replay::Known,
    run::{RunStatus, RunView, StopReason},
    storage::{PluginVersion, StorageError, UnfinishedRun},
    wait::{Answer, Answered, Earlier, StoredWait, TakenBefore, Wait, WaitFor},
};
use jiff::{Timestamp, ToSpan as _};
use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};
use tokio::sync::Notify;

/// Runs looked at in one go, of those whose time has come.
const DUE_AT_ONCE: u32 = 128;

/// The longest time without a look at what is due, should nobody say that there is something.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// The shortest time between two looks: what was found is due until it runs.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// The time between two looks while what is due waits for its slot.
const LOOK_INTERVAL_QUEUED: Duration = Duration::from_secs(1);

/// The first and the longest wait for what the host should have, memory or storage.
const HOST_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often a run waits for it, one wait after the other, before it ends.
const HOST_WAITS_MAX: u32 = 30;

/// How often in a row a run is started by a host that did not accept it, and ends while it executes the run, which comes no
/// further; then the run is not started again. Every other run of the host starts again with it.
const CRASHED_STARTS_MAX: u32 = 5;

/// What a run goes on with.
pub struct Back {
    pub run: UnfinishedRun,
    /// None: it is executed from its beginning, as another attempt.
    pub known: Option<Arc<Known>>,
    pub continued: Continued,
    pub told: Option<StoredWait>,
    pub taken: TakenBefore,
}

/// Why a run cannot be brought back.
#[derive(Debug, thiserror::Error)]
pub enum NotBack {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Record(#[from] RecordUnusable),
    #[error("the run's record is not complete: {0}")]
    Incomplete(String),
}

/// Why an answer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The run waits for no answer, or for one to another question.
    #[error("the run does not wait for an answer{0}")]
    NotWaiting(&'static str),
    /// Somebody has answered.
    #[error("the question has been answered already")]
    Already,
    /// It does not fit the question's schema.
    #[error("the answer does not fit the question's schema: {0}")]
    Misfit(Misfit),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl AnswerError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NotWaiting(_) | Self::Already | Self::Misfit(_) => Fault::Caller,
            Self::Storage(_) => Fault::Host,
        }
    }

    /// For programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotWaiting(_) => "not_waiting",
            Self::Already => "already_answered",
            Self::Misfit(_) => "answer_misfit",
            Self::Storage(_) => "storage_failed",
        }
    }
}

impl Runtime {
    /// Answers the question that a run waits with; of a certain call, if one is named. Gives the run as it then stands.
    ///
    /// # Errors
    /// When the run does not wait for that answer, or the answer does not fit. Then the run waits on.
    pub async fn answer(
        &self,
        scope: &Scope,
        id: RunId,
        call: Option<u64>,
        value: Json,
        by: &KeyId,
    ) -> Result<Option<RunView>, AnswerError> {
        let Some(run) = self.storage().run(scope, id).await? else { return Ok(None) };
        let stored = self.storage().waits().waiting(scope, id).await?.filter(|_| run.status == RunStatus::Waiting);
        let Some(StoredWait { wait, answer }) = stored else { return Err(AnswerError::NotWaiting("")) };
        let Some(schema) = wait.waits_for.schema().cloned() else {
            return Err(AnswerError::NotWaiting(" but for something else"));
        };
        if call.is_some_and(|call| call != wait.call) {
            return Err(AnswerError::NotWaiting(" to that question"));
        }
        if answer.is_some() {
            return Err(AnswerError::Already);
        }
        schema::check(schema, Some(value.clone())).await.map_err(AnswerError::Misfit)?;
        let answer = Answer { by: by.clone(), at: clock::now(), value };
        match self.storage().waits().answer(scope, id, wait.call, &answer).await? {
            Answered::Taken => {}
            Answered::Already => return Err(AnswerError::Already),
            Answered::NotWaiting => return Err(AnswerError::NotWaiting("")),
        }
        self.bring_back(scope, id).await?;
        Ok(self.storage().run(scope, id).await?)
    }

    /// Brings back a run that waits, if there is what it waits for.
    pub(crate) async fn bring_back(&self, scope: &Scope, id: RunId) -> Result<(), StorageError> {
        let Some(run) = self.storage().waits().unfinished(scope, id).await? else { return Ok(()) };
        if run.status == RunStatus::Waiting && self.has_what_it_waits_for(scope, &run).await? {
            self.go_on(run);
        }
        Ok(())
    }

    async fn has_what_it_waits_for(&self, scope: &Scope, run: &UnfinishedRun) -> Result<bool, StorageError> {
        let Some(stored) = self.storage().waits().waiting(scope, run.id).await? else { return Ok(false) };
        let child_ended = match stored.wait.waits_for {
            WaitFor::Child { run_id } => {
                self.storage().run(scope, run_id).await?.is_none_or(|child| child.status.is_terminal())
            }
            _ => false,
        };
        let due = stored.wait.until.is_some_and(|until| until <= clock::now());
        Ok(due || child_ended || stored.answer.is_some() || run.cancel.is_some())
    }

    /// Brings a run into the queue, of whatever kind and wherever it was, unless somebody has.
    pub(crate) fn go_on(&self, run: UnfinishedRun) {
        if let Some(work) = self.way_on(run) {
            self.spawn_run(work);
        }
    }

    /// The same for runs of a stopped host, one after the other: each takes its place in the queue before the next does.
    pub(crate) async fn go_on_in_order(&self, run: UnfinishedRun) {
        let Some(mut work) = self.way_on(run) else { return };
        if std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await {
            self.spawn_run(work);
        }
    }

    /// What is left to do for a run. None if the host is going away, or somebody does it.
    fn way_on(&self, run: UnfinishedRun) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        if self.0.drained.is_cancelled() {
            return None;
        }
        let scope = Operator::host().on_behalf_of(&run.user);
        let (ending, ended) = announcement();
        let task = self.enter_once(scope, &run, ended)?;
        // How much it asked for is read with its input; no run can ask for more than this.
        let quota = self.0.services.quotas.now(&run.user);
        let want =
            Want { fuel: quota.fuel_per_run, memory_bytes: quota.memory_bytes_per_context, priority: run.priority };
        let place = self.0.admission.enqueue_again(&run.user, want);
        Some(Box::pin(task.go_on(place, ending)))
    }

    pub(crate) fn about(&self, run: &UnfinishedRun) -> Option<Arc<PluginVersion>> {
        let agent = AgentRef { name: run.agent.clone(), pick: Pick::Digest(run.digest) };
        self.0.services.plugins.find(&agent)
    }

    /// Brings back the run that waits for this one, if one does.
    pub(crate) async fn child_ended(&self, scope: &Scope, child: RunId) {
        match self.storage().waits().parent_of(scope, child).await {
            Ok(Some(parent)) => self.go_on(parent),
            Ok(None) => {}
            // The next start finds it.
            Err(error) => tracing::error!(%child, %error, "the parent of a run is not told of its end"),
        }
    }

    /// Brings back what is due. Says whether anything is that was brought back before.
    async fn wake_due(&self) -> Result<bool, StorageError> {
        let (mut after, mut queued) = (None, false);
        loop {
            let due = self.storage().waits().due(Operator::host(), clock::now(), after, DUE_AT_ONCE).await?;
            let Some(last) = due.last() else { return Ok(queued) };
            after = Some(last.id);
            for run in due {
                queued |= self.live().contains_key(&run.id);
                self.go_on(run);
            }
        }
    }
}

/// Brings back runs whose time has come, for as long as the runtime is there.
pub(crate) async fn watch_times(runtime: Weak<Inner>, changed: Arc<Notify>) {
    loop {
        let pause = {
            let Some(runtime) = runtime.upgrade().map(Runtime) else { return };
            let looked = async {
                let queued = runtime.wake_due().await?;
                Ok::<_, StorageError>((queued, runtime.storage().waits().next_wake(Operator::host()).await?))
            };
            match looked.await {
                Ok((true, _)) => LOOK_INTERVAL_QUEUED,
                Ok((false, None)) => LOOK_INTERVAL_MAX,
                Ok((false, Some(next))) => Duration::try_from(next.duration_since(clock::now()))
                    .unwrap_or_default()
                    .clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX),
                Err(error) => {
                    tracing::error!(%error, source = ?error.source, "what is due cannot be read; trying again");
                    LOOK_INTERVAL_QUEUED
                }
            }
        };
        let _ = tokio::time::timeout(pause, changed.notified()).await;
    }
}

/// Why a run that is brought back does not go on.
fn stop_of_waiting(run: &UnfinishedRun, agent_is_here: bool) -> Option<Stop> {
    match &run.cancel {
        Some(request) => Some(Stop::cancelled(request, " while it waited")),
        None if run.starts >= CRASHED_STARTS_MAX => {
            tracing::error!(run = %run.id, starts = run.starts, "a run is set aside: the host ended each time that it was executed");
            let look = if run.effects { ", and look first at what it may have changed" } else { "" };
            let message = format!(
                "the host ended {} times in a row while it executed this run, which came no further; it is not executed again: please report it{look}",
                run.starts
            );
            Some(Stop::new(StopReason::HostError, message))
        }
        None if agent_is_here => None,
        None => Some(Stop::new(StopReason::HostError, "the agent of this run is not on this host any more")),
    }
}

/// Where a run stands that was found to go on.
enum Stands {
    /// It is as it was found, or further, and goes on from there.
    GoesOn(Box<UnfinishedRun>),
    /// It went on meanwhile, and waits again.
    Waits,
    /// It has ended, or the host is going away.
    Over,
}

impl RunTask {
    /// Goes on with a run, in its place in the queue.
    async fn go_on(mut self, place: Place, ending: Announcer) {
        let run = match self.stands().await {
            Stands::GoesOn(run) => run,
            Stands::Over => return,
            Stands::Waits => {
                let (runtime, scope, id) = (self.runtime.clone(), self.scope.clone(), self.id);
                drop(place);
                // What came while it was held here found it live, and left it.
                drop(self);
                if let Err(error) = runtime.bring_back(&scope, id).await {
                    tracing::error!(run = %id, %error, "whether a run has what it waits for cannot be read");
                }
                return;
            }
        };
        let about = self.runtime.about(&run);
        let stop = stop_of_waiting(&run, about.is_some());
        (self.view, self.before) = (run.view(), Some(*run));
        match (stop, about) {
            (None, Some(about)) => {
                // The input is read when its turn comes: a long queue must not fill memory.
                self.queue(place, None, about, ending).await;
            }
            (stop, _) => {
                drop(place);
                if let Some(stop) = stop {
                    self.never_started(stop, &ending).await;
                }
            }
        }
    }

    /// Where the run stands, now that nobody else can go on with it. Who found it may have read it long ago: since then it may
    /// have gone on, said more, and come to wait for something else. One that does not wait is found once, by who has made it or
    /// by the start of the host, and keeps its place in their order.
    async fn stands(&self) -> Stands {
        if let Some(found) = self.before.as_ref().filter(|run| run.status != RunStatus::Waiting) {
            return Stands::GoesOn(Box::new(found.clone()));
        }
        loop {
            let read = async {
                let Some(run) = self.runtime.storage().waits().unfinished(&self.scope, self.id).await? else {
                    return Ok(Stands::Over);
                };
                let waits = run.status == RunStatus::Waiting;
                Ok::<_, StorageError>(match waits && !self.runtime.has_what_it_waits_for(&self.scope, &run).await? {
                    true => Stands::Waits,
                    false => Stands::GoesOn(Box::new(run)),
                })
            };
            match read.await {
                Ok(stands) => return stands,
                Err(error) => {
                    tracing::error!(run = %self.id, %error, "a run that is to go on cannot be read; trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL_QUEUED) => {}
                () = self.runtime.0.drained.cancelled() => return Stands::Over,
            }
        }
    }

    /// What the journal knows of a run that goes on.
    pub async fn back(&self, run: &UnfinishedRun) -> Result<Back, NotBack> {
        let storage = self.runtime.storage();
        let (mut continued, mut after) = (Continued::default(), 0);
        loop {
            let chunks = storage.record(&self.scope, run.id, after).await?;
            let Some(last) = chunks.last() else { break };
            after = last.number;
            chunks.iter().try_for_each(|chunk| continued.take(chunk))?;
        }
        let mut told = storage.waits().waiting(&self.scope, run.id).await?;
        let is_unanswered = |stored: &StoredWait| stored.answer.is_none() && stored.wait.waits_for.schema().is_some();
        if told
            .as_ref()
            .is_some_and(|stored| is_unanswered(stored) && stored.wait.until.is_some_and(|at| at <= clock::now()))
        {
            // An answer that came in time may still be on its way to the disk. A write that changes nothing, of a call that
            // there is not, comes after it.
            let none = Answer { by: KeyId::generate(), at: clock::now(), value: Json::empty_object() };
            storage.waits().answer(&self.scope, run.id, 0, &none).await?;
            told = storage.waits().waiting(&self.scope, run.id).await?;
        }
        let mut taken = told.as_ref().map(|stored| stored.wait.taken).unwrap_or_default();
        let told = told.and_then(StoredWait::into_told);
        continued.at_attempt(taken.earlier.attempts.saturating_add(1));
        if let Some(why) = continued.incomplete() {
            return Err(NotBack::Incomplete(why.to_owned()));
        }
        // The row of the wait has what they took if an earlier version of Cofferdam put the run away.
        taken.tools = taken.tools.or_later(continued.tools_took());
        let known = (!continued.begins()).then(|| Arc::new(continued.known()));
        Ok(Back { run: run.clone(), known, continued, told, taken })
    }
}

impl Runtime {
    /// Puts a run that failed away until its next attempt, if it is to have one; then it is not over. Says whether it has.
    /// What it had taken is that of all its attempts.
    pub(crate) async fn put_off(
        &self,
        scope: &Scope,
        run: &UnfinishedRun,
        journal: &RunJournal,
        stop: &Stop,
        earlier: Earlier,
    ) -> bool {
        let pause = run.retries.and_then(|retries| retries.pause_after(earlier.attempts));
        let Some(pause) = pause.filter(|_| stop.may_pass()) else { return false };
        let most = self.quotas().now(scope.user()).runs_waiting;
        let places = &self.0.services.wait_places;
        match places.take(&**self.storage(), scope, run.id, most).await {
            Ok(false) => {
                tracing::info!(run = %run.id, most, "a run is not executed again: as many of its user's wait as may");
                return false;
            }
            Ok(true) => {}
            // Whether there is room is not known, and its end would take storage, too.
            Err(error) => tracing::error!(run = %run.id, %error, "the runs that wait cannot be counted"),
        }
        let waits_for = WaitFor::Retry {
            attempt: earlier.attempts,
            stop_reason: stop.reason,
            code: stop.code.clone(),
            message: stop.message.clone(),
        };
        let waits = Waits { call: 0, waits_for, until: Some(in_time(pause)) };
        put_away(journal, waits, TakenBefore { earlier, ..TakenBefore::default() }, None).await;
        places.give_back(scope.user(), run.id);
        true
    }

    /// The same for a run that was cut off, of which nothing more is known than what is stored.
    pub(crate) async fn put_off_cut(
        &self,
        scope: &Scope,
        run: &UnfinishedRun,
        journal: &RunJournal,
        stop: &Stop,
    ) -> bool {
        if run.retries.is_none() || run.started_at.is_none() || !stop.may_pass() {
            return false;
        }
        // Without it nobody knows which attempt this was, and there could be one after the other for ever.
        let Ok(told) = self.storage().waits().waiting(scope, run.id).await else { return false };
        let taken = told.map(|told| told.wait.taken).unwrap_or_default();
        let earlier = taken.earlier.and(ending_of(run, taken).usage_of_attempt());
        self.put_off(scope, run, journal, stop, earlier).await
    }
}

/// So long from now.
fn in_time(pause: Duration) -> Timestamp {
    let ms = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
    clock::now().checked_add(ms.milliseconds()).unwrap_or(Timestamp::MAX)
}

/// Puts a run away, with what its guest was to be told and may not have been yet. It may be brought back as soon as this is
/// durable.
pub async fn put_away(journal: &RunJournal, waits: Waits, taken: TakenBefore, told: Option<StoredWait>) {
    let Waits { call, waits_for, until } = waits;
    let about = waits_for.about();
    let event = Event::RunWaiting {
        waits_for: waits_for.as_str().to_owned(),
        call,
        about,
        until: until.map(|until| until.to_string()),
    };
    let told = told.filter(|_| waits_for.is_for_host()).map(Box::new);
    journal.put_away(event, Wait { call, waits_for, since: clock::now(), until, taken, told }).await;
}

/// Of a run that waits for the host: until when, and how often it has. How it ends if that was often enough.
pub fn host_wait(waits: &mut Waits, taken: &mut TakenBefore) -> Option<Stop> {
    let enough = match waits.waits_for {
        WaitFor::Memory => Stop::new(
            StopReason::MemoryLimit,
            "the run waited for memory as often as it may, and other runs hold it still; submit it again later",
        ),
        WaitFor::Storage => Stop::new(
            StopReason::HostError,
            "the host's storage failed the run again and again; submit it again once it works",
        ),
        _ => {
            taken.host_waits = 0;
            return None;
        }
    };
    let (first, longest) = HOST_WAIT;
    let wait = first.saturating_mul(1 << taken.host_waits.min(6)).min(longest);
    waits.until = Some(in_time(wait));
    taken.host_waits += 1;
    (taken.host_waits > HOST_WAITS_MAX).then_some(enough)
}

/// What is told of a run that was stopped while it waited, or could not be brought back.
pub fn ending_of(run: &UnfinishedRun, taken: TakenBefore) -> Ending {
    Ending { taken, ..Ending::never_ran(run.started_at) }
}

/// What an execution has taken, with what the ones before had.
pub fn taken_by(ctx: &UserExecutionContext, before: TakenBefore, spent: Spent, memory: &RunMemory) -> TakenBefore {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    TakenBefore {
        wall_ms: ms(ctx.used()),
        active_ms: before.active_ms.saturating_add(ms(spent.active)),
        fuel: before.fuel.max(spent.fuel),
        memory_byte_seconds: before.memory_byte_seconds.saturating_add(memory.byte_seconds()),
        host_waits: before.host_waits,
        tools: ctx.tools_took(),
        earlier: before.earlier,
    }
}
