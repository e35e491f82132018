//! From rows to what they mean. Everything is checked: the file may have been changed by somebody else.

use super::SqliteError;
use cofferdam_core::{
    Json, codec,
    event::Envelope,
    idempotency::Earlier,
    identity::{Identity, Role},
    ids::RunId,
    quota::RunLimits,
    record::RecordChunk,
    run::{
        CancelRequest, Children, Durability, Priority, Retries, RunError, RunSpec, RunStatus, RunView, StopReason,
        Usage,
    },
    storage::{FeedEntry, FeedPlace, StateEntry, UnfinishedRun},
    usage::UsageSum,
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::{Row as _, Sqlite, sqlite::SqliteRow};
use std::{error::Error, str::FromStr};

/// The columns of a [`RunView`] in the order of [`Columns::run_view`], but for the output.
macro_rules! view_columns {
    () => {
        "id, agent, digest, user, thread_id, priority, durable,
        (SELECT json_array(attempts, backoff_ms, attempt) FROM retries WHERE run = number), parent_id, status,
        iif(status = 'waiting', (SELECT document FROM waits WHERE run = number), NULL), stop_reason, error_code, error_message, used_fuel,
        used_memory_peak_bytes, used_wall_ms, used_active_ms, used_host_calls, used_events,
        coalesce((SELECT tool_calls FROM history WHERE history.user = runs.user AND run = number), 0),
        coalesce((SELECT memory_byte_seconds FROM history WHERE history.user = runs.user AND run = number), 0),
        (SELECT children FROM history WHERE history.user = runs.user AND run = number),
        created_at, started_at, finished_at, (SELECT asked_by FROM cancels WHERE run = number), (SELECT asked_at FROM cancels WHERE run = number)"
    };
}
pub(super) use view_columns;

/// The columns of an [`UnfinishedRun`] in the order of [`Columns::unfinished_run`], of `runs` with `cancels`.
macro_rules! unfinished_columns {
    () => {
        "runs.id, runs.user, runs.agent, runs.digest, runs.thread_id, runs.priority, runs.durable,
        (SELECT json_array(attempts, backoff_ms, attempt) FROM retries WHERE retries.run = runs.number), runs.parent_id,
        runs.created_at, runs.status, runs.effects, runs.started_at,
        coalesce((SELECT max(seq) FROM events WHERE events.run = runs.number), 0), asked_by, asked_at,
        coalesce((
            SELECT starts.count FROM starts, run_progress
            WHERE starts.run = runs.number AND run_progress.run = runs.number AND starts.progress = run_progress.progress
        ), 0)"
    };
}
pub(super) use unfinished_columns;

/// The columns of a row, taken in their order.
pub(super) struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

fn unreadable(error: impl Into<Box<dyn Error + Send + Sync>>) -> SqliteError {
    SqliteError::Record(error.into())
}

impl<'r> Columns<'r> {
    pub(super) const fn of(row: &'r SqliteRow) -> Self {
        Self { row, next: 0 }
    }

    /// The next column.
    pub(super) fn take<T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>>(&mut self) -> Result<T, SqliteError> {
        let column = self.next;
        self.next += 1;
        self.row.try_get(column).map_err(unreadable)
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, SqliteError> {
        self.take::<i64>().map(i64::cast_unsigned)
    }

    pub(super) fn parsed<T: FromStr<Err: Error + Send + Sync + 'static>>(&mut self) -> Result<T, SqliteError> {
        self.take::<&str>()?.parse().map_err(unreadable)
    }

    fn parsed_if_there<T: FromStr<Err: Error + Send + Sync + 'static>>(&mut self) -> Result<Option<T>, SqliteError> {
        self.take::<Option<&str>>()?.map(str::parse).transpose().map_err(unreadable)
    }

    fn json(&mut self) -> Result<Json, SqliteError> {
        Json::parse(self.take::<&str>()?).map_err(unreadable)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, SqliteError> {
        Timestamp::from_microsecond(self.take()?).map_err(unreadable)
    }

    pub(super) fn time_if_there(&mut self) -> Result<Option<Timestamp>, SqliteError> {
        self.take::<Option<i64>>()?.map(Timestamp::from_microsecond).transpose().map_err(unreadable)
    }

    fn status(&mut self) -> Result<RunStatus, SqliteError> {
        RunStatus::from_word(self.take()?).ok_or_else(|| unreadable("the run's status is unknown"))
    }

    /// As [`super::writes::Row::priority`] writes it.
    fn priority(&mut self) -> Result<Priority, SqliteError> {
        match self.take::<Option<i64>>()? {
            None => Ok(Priority::Normal),
            Some(1) => Ok(Priority::High),
            Some(0) => Ok(Priority::Low),
            Some(_) => Err(unreadable("the run's priority is unknown")),
        }
    }

    /// As [`super::writes::Row::durable`] writes it.
    fn durability(&mut self) -> Result<Durability, SqliteError> {
        let durable = self.take::<Option<bool>>()? == Some(true);
        Ok(if durable { Durability::Durable } else { Durability::Ephemeral })
    }

    /// As [`super::writes::Row::children`] writes them.
    pub(super) fn children(&mut self) -> Result<Children, SqliteError> {
        let (succeeded, failed, cancelled) = self.document_if_there()?.unwrap_or_default();
        Ok(Children { succeeded, failed, cancelled })
    }

    /// As [`super::writes::Row::retries`] writes them, and at which attempt the run is.
    fn retries(&mut self) -> Result<(Option<Retries>, u32), SqliteError> {
        let Some((attempts, backoff_ms, attempt)) = self.document_if_there()? else { return Ok((None, 1)) };
        Ok((Some(Retries::new(attempts, backoff_ms).map_err(unreadable)?), attempt))
    }

    fn cancel_if_there(&mut self) -> Result<Option<CancelRequest>, SqliteError> {
        let (by, at) = (self.parsed_if_there()?, self.time_if_there()?);
        Ok(by.zip(at).map(|(by, at)| CancelRequest { by, at }))
    }

    /// What an earlier request made, and the digest of its body.
    pub(super) fn earlier_if_there(&mut self) -> Result<Option<Earlier>, SqliteError> {
        let (id, body) = (self.take::<Option<String>>()?, self.parsed_if_there()?);
        Ok(id.zip(body).map(|(id, body)| Earlier { id, body }))
    }

    /// See [`view_columns`].
    pub(super) fn run_view(&mut self) -> Result<RunView, SqliteError> {
        let (id, agent, digest, user) = (self.parsed()?, self.parsed()?, self.parsed()?, self.parsed()?);
        let (thread_id, priority, durability) = (self.parsed()?, self.priority()?, self.durability()?);
        let (retries, attempt) = self.retries()?;
        let (parent_run_id, status, wait) = (self.parsed_if_there()?, self.status()?, self.document_if_there()?);
        let stop_reason = match self.take::<Option<&str>>()? {
            None => None,
            Some(word) => Some(StopReason::from_word(word).ok_or_else(|| unreadable("the stop reason is unknown"))?),
        };
        let (code, message) = (self.take::<Option<String>>()?, self.take::<Option<String>>()?);
        Ok(RunView {
            id,
            agent,
            digest,
            user,
            thread_id,
            priority,
            durability,
            retries,
            attempt,
            parent_run_id,
            status,
            wait,
            stop_reason,
            error: code.zip(message).map(|(code, message)| RunError { code, message }),
            usage: Usage {
                fuel: self.unsigned()?,
                memory_peak_bytes: self.unsigned()?,
                wall_ms: self.unsigned()?,
                active_ms: self.unsigned()?,
                host_calls: self.unsigned()?,
                events: self.unsigned()?,
                tool_calls: self.unsigned()?,
                memory_byte_seconds: self.unsigned()?,
            },
            children: self.children()?,
            created_at: self.time()?,
            started_at: self.time_if_there()?,
            finished_at: self.time_if_there()?,
            cancel: self.cancel_if_there()?,
            output: self.take::<Option<&str>>()?.map(Json::parse).transpose().map_err(unreadable)?,
        })
    }

    pub(super) fn run_spec(&mut self) -> Result<RunSpec, SqliteError> {
        Ok(RunSpec {
            id: self.parsed()?,
            user: self.parsed()?,
            agent: self.parsed()?,
            digest: self.parsed()?,
            request: self.parsed()?,
            thread: self.parsed()?,
            session: self.parsed_if_there()?,
            parent: self.parsed_if_there()?,
            limits: RunLimits { fuel: self.unsigned()?, memory_bytes: self.unsigned()?, deadline_ms: self.unsigned()? },
            priority: self.priority()?,
            durability: self.durability()?,
            retries: self.retries()?.0,
            created_at: self.time()?,
            metadata: self.json()?,
            input: self.json()?,
        })
    }

    pub(super) fn unfinished_run(&mut self) -> Result<UnfinishedRun, SqliteError> {
        let (id, user, agent, digest) = (self.parsed()?, self.parsed()?, self.parsed()?, self.parsed()?);
        let (thread, priority, durability) = (self.parsed()?, self.priority()?, self.durability()?);
        let (retries, attempt) = self.retries()?;
        Ok(UnfinishedRun {
            id,
            user,
            agent,
            digest,
            thread,
            priority,
            durability,
            retries,
            attempt,
            parent: self.parsed_if_there()?,
            created_at: self.time()?,
            status: self.status()?,
            effects: self.take()?,
            started_at: self.time_if_there()?,
            last_seq: self.unsigned()?,
            cancel: self.cancel_if_there()?,
            starts: self.take()?,
        })
    }

    pub(super) fn envelope(&mut self, run_id: RunId) -> Result<Envelope, SqliteError> {
        Ok(Envelope {
            seq: self.unsigned()?,
            run_id,
            at: self.time()?,
            event: codec::decode(self.take()?).map_err(unreadable)?,
        })
    }

    pub(super) fn record_chunk(&mut self) -> Result<RecordChunk, SqliteError> {
        Ok(RecordChunk { number: self.unsigned()?, bytes: self.take()? })
    }

    pub(super) fn feed_entry(&mut self) -> Result<FeedEntry, SqliteError> {
        let (position, ends_commit, run_id) = (self.unsigned()?, self.take::<bool>()?, self.parsed()?);
        let envelope = self.envelope(run_id)?;
        Ok(FeedEntry { place: FeedPlace { position, seq: envelope.seq }, ends_commit, envelope })
    }

    /// Of a day: what its runs took together, without why they ended.
    pub(super) fn usage(&mut self) -> Result<UsageSum, SqliteError> {
        Ok(UsageSum {
            runs: self.unsigned()?,
            fuel: self.unsigned()?,
            active_ms: self.unsigned()?,
            memory_byte_seconds: self.unsigned()?,
            events: self.unsigned()?,
            tool_calls: self.unsigned()?,
            host_calls: self.unsigned()?,
            ..UsageSum::default()
        })
    }

    /// Of a day: how many runs ended so.
    pub(super) fn ends(&mut self) -> Result<UsageSum, SqliteError> {
        let reason = StopReason::from_word(self.take()?).ok_or_else(|| unreadable("the stop reason is unknown"))?;
        Ok(UsageSum { runs_by_stop_reason: [(reason, self.unsigned()?)].into(), ..UsageSum::default() })
    }

    pub(super) fn state_entry(&mut self) -> Result<StateEntry, SqliteError> {
        Ok(StateEntry { version: self.unsigned()?, value: self.take()? })
    }

    /// A JSON document of one of our types.
    pub(super) fn document<T: DeserializeOwned>(&mut self) -> Result<T, SqliteError> {
        serde_json::from_str(self.take()?).map_err(unreadable)
    }

    /// The same, if there is one.
    pub(super) fn document_if_there<T: DeserializeOwned>(&mut self) -> Result<Option<T>, SqliteError> {
        self.take::<Option<&str>>()?.map(serde_json::from_str).transpose().map_err(unreadable)
    }

    pub(super) fn identity(&mut self) -> Result<Identity, SqliteError> {
        let (key, user) = (self.parsed()?, self.parsed()?);
        let word = self.take::<&str>()?;
        let role = [Role::User, Role::Operator].into_iter().find(|role| super::role_word(*role) == word);
        Ok(Identity::authenticated(user, role.ok_or_else(|| unreadable("the key's role is unknown"))?, key))
    }
}
