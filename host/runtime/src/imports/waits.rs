//! What the imports that wait have in common: a run is put away in a call, and is told in the same call when it goes on.

use crate::sandbox::{Guest, HostFailure, Waits};
use cofferdam_core::{
    clock,
    codec::Format,
    context::BudgetSpent,
    record::Asked,
    replay::Again,
    wait::{StoredWait, WaitFor},
};
use jiff::{Timestamp, ToSpan as _};

/// What the event of a wait counts beside the texts in it, in bytes: its own, and those of the row that says that the run
/// waits.
const WAIT_BYTES: usize = 256;

/// How far a call that waits has come.
pub enum Asking<T> {
    /// It was answered without having begun.
    AtOnce(T),
    /// It had begun, and has its answer.
    Answered(T),
    /// It was not made before.
    New,
    /// It had begun before, under this number.
    Begun(u64),
}

/// Why a run is not put away.
#[derive(Debug, thiserror::Error)]
pub enum NoWait {
    /// As many of its user's wait as may.
    #[error(
        "{0} runs of this user wait, which is as many as may; answer or cancel some of those with the status `waiting`"
    )]
    Place(u32),
    /// The event that tells of it is more than the run has left.
    #[error(transparent)]
    Event(BudgetSpent),
}

impl Guest {
    /// What became before of a call that waits.
    pub fn asking<T: bincode::Decode<Format>>(&self, asked: impl FnOnce() -> Asked) -> wasmtime::Result<Asking<T>> {
        Ok(match self.again(asked)? {
            None => Asking::New,
            Some(Again::Refused(answer)) => Asking::AtOnce(answer),
            Some(Again::Answered { answer, .. }) => Asking::Answered(answer),
            Some(Again::Open { number }) if self.is_looked_at() => return Err(self.open_call(number)),
            Some(Again::Open { number }) => Asking::Begun(number),
        })
    }

    /// Whether the execution is only looked at.
    pub const fn is_looked_at(&self) -> bool {
        self.journal.is_none() && self.recorder.is_some()
    }

    /// What the run was told of the wait of this call, if it was put away in it.
    pub fn told_of(&self, call: u64) -> Option<&StoredWait> {
        self.told.as_ref().filter(|stored| stored.wait.call == call)
    }

    /// Why the run cannot be put away, if so.
    pub fn cannot_wait(&self) -> Option<&'static str> {
        match &self.recorder {
            None => Some("a tool cannot be put away; its caller can"),
            Some(recorder) if !recorder.is_complete() => Some(
                "the record of this run's calls is not complete, because it used /workspace or is too large, so it could not be brought back; use the tools file.* instead",
            ),
            Some(_) => None,
        }
    }

    /// What became before of a call that waits, whose event has so many bytes of text. One that has begun counts among the
    /// run's events as it did then, whatever is left of them.
    pub fn asking_to_wait<T: bincode::Decode<Format>>(
        &self,
        asked: impl FnOnce() -> Asked,
        bytes: usize,
    ) -> wasmtime::Result<Asking<T>> {
        let before = self.asking(asked)?;
        if matches!(before, Asking::Answered(_) | Asking::Begun(_)) {
            self.ctx.note_event(WAIT_BYTES.saturating_add(bytes), false);
        }
        Ok(before)
    }

    /// Takes a place among the user's runs that wait, and an event with so many bytes of text for telling it. One that has
    /// begun has its event. The place is the run's until it waits, or ends.
    pub async fn may_wait(&mut self, before: Option<u64>, bytes: usize) -> wasmtime::Result<Result<(), NoWait>> {
        let (services, scope, run) = (self.services.clone(), self.ctx.scope(), self.ctx.spec().id);
        let max = self.ctx.quota().runs_waiting;
        let place = self.beside(async move { services.wait_places.take(&*services.storage, &scope, run, max).await });
        if !place.await?.map_err(HostFailure::storage)? {
            return Ok(Err(NoWait::Place(max)));
        }
        if before.is_none()
            && let Err(spent) = self.ctx.take_event(WAIT_BYTES.saturating_add(bytes))
        {
            self.services.wait_places.give_back(&self.ctx.spec().user, run);
            return Ok(Err(NoWait::Event(spent)));
        }
        Ok(Ok(()))
    }

    /// So many milliseconds from now, within the user's quota for one wait.
    pub fn within_wait(&self, ms: u64) -> Timestamp {
        let ms = i64::try_from(ms.min(self.ctx.quota().wait_ms)).unwrap_or(i64::MAX);
        clock::now().checked_add(ms.milliseconds()).unwrap_or(Timestamp::MAX)
    }

    /// Ends the guest's code, so that its run is put away: first what it has started comes to its end, so that its answers
    /// are in the record.
    pub async fn put_away(&mut self, call: u64, waits_for: WaitFor, until: Option<Timestamp>) -> wasmtime::Error {
        self.started.close();
        self.started.wait().await;
        Waits { call, waits_for, until }.into()
    }
}
