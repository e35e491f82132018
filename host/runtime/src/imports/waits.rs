//! What the imports that wait have in common: a run is put away in a call, and is told in the same call when it goes on.

use crate::sandbox::{Guest, HostFailure, Waits};
use cofferdam_core::{
    clock,
    codec::Format,
    record::Asked,
    replay::Again,
    wait::{StoredWait, WaitFor},
};
use jiff::{Timestamp, ToSpan as _};

/// How far a call that waits has come.
pub enum Asking<T> {
    /// It has its answer.
    Answered(T),
    /// It was not made before.
    New,
    /// It had begun before, under this number.
    Begun(u64),
}

impl Guest {
    /// What became before of a call that waits.
    pub fn asking<T: bincode::Decode<Format>>(&self, asked: impl FnOnce() -> Asked) -> wasmtime::Result<Asking<T>> {
        Ok(match self.again(asked)? {
            None => Asking::New,
            Some(Again::Refused(answer) | Again::Answered { answer, .. }) => Asking::Answered(answer),
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

    /// Whether the user has room for one more run that waits; the number of those that may.
    pub async fn waits_left(&mut self) -> wasmtime::Result<Result<(), u32>> {
        let (storage, scope) = (self.services.storage.clone(), self.ctx.scope());
        let max = self.ctx.quota().runs_waiting;
        let waiting = self.beside(async move { storage.waits().waiting_runs(&scope).await }).await?;
        let waiting = waiting.map_err(HostFailure::storage)?;
        Ok(if waiting < u64::from(max) { Ok(()) } else { Err(max) })
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
