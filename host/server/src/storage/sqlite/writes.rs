//! From what is to be written to the rows of the view `writes`.

use super::{
    SqliteError,
    once::{Create, SWEEP_OWN_RECORDS_MAX, SWEEP_RECORDS_MAX},
    role_word,
    state::{SWEEP_KEYS_MAX, SetState, StateKey},
};
use cofferdam_core::{
    Json, clock, codec,
    event::Envelope,
    grant::Permissions,
    identity::Scope,
    ids::{PluginName, RunId, SessionId, TierName, UserId},
    quota::{QuotaEdit, UserQuota},
    record::RecordChunk,
    run::{CancelRequest, Children, Durability, Priority, RunEnd, RunSpec, RunStatus, Usage},
    storage::{ApiKey, EVENT_OVERHEAD_BYTES, History, MadeBy, PRUNED_AT_ONCE_MAX, PluginVersion, RunBatch, Start},
    usage::{Day, USAGE_DAYS_PRUNED_AT_ONCE_MAX},
    wait::{Wait, WaitFor},
};
use jiff::Timestamp;
use sqlx::{Arguments as _, sqlite::SqliteArguments};

/// The columns of the view `writes`: kind, user, id and v1 to v14.
pub(super) const ROW_COLUMNS: usize = 17;

/// A row of the view `writes`. The triggers of the schema say what its columns are.
pub(super) struct Row(Vec<Value>);

enum Value {
    Null,
    Number(i64),
    /// The time at which it is written. The schema compares it with others, in their microseconds: SQLite's own is in
    /// milliseconds.
    Now,
    Word(&'static str),
    Text(String),
    Blob(Vec<u8>),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number.cast_signed())
    }
}

impl From<Timestamp> for Value {
    fn from(at: Timestamp) -> Self {
        Self::Number(at.as_microsecond())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Row {
    pub(super) fn run(scope: &Scope, spec: &RunSpec) -> Self {
        Self(vec![
            Value::Word("run"),
            scope.user().as_str().into(),
            spec.id.to_string().into(),
            Value::Word(RunStatus::Queued.as_str()),
            spec.agent.as_str().into(),
            spec.digest.to_string().into(),
            spec.request.as_str().into(),
            spec.thread.as_str().into(),
            spec.session.as_ref().map(SessionId::as_str).into(),
            spec.parent.map(|parent| parent.to_string()).into(),
            spec.limits.fuel.into(),
            spec.limits.memory_bytes.into(),
            spec.limits.deadline_ms.into(),
            spec.created_at.into(),
            spec.metadata.as_str().into(),
            spec.input.as_str().into(),
        ])
    }

    /// A run that is as usual has no such row.
    pub(super) fn priority(scope: &Scope, spec: &RunSpec) -> Option<Self> {
        let priority = match spec.priority {
            Priority::High => 1,
            Priority::Normal => return None,
            Priority::Low => 0,
        };
        let kind = Value::Word("priority");
        Some(Self(vec![kind, scope.user().as_str().into(), spec.id.to_string().into(), Value::Number(priority)]))
    }

    /// A run that ends with its host has no such row.
    pub(super) fn durable(scope: &Scope, spec: &RunSpec) -> Option<Self> {
        let durable = spec.durability == Durability::Durable;
        durable.then(|| Self(vec![Value::Word("durable"), scope.user().as_str().into(), spec.id.to_string().into()]))
    }

    /// A run that is executed once has no such row.
    pub(super) fn retries(scope: &Scope, spec: &RunSpec) -> Option<Self> {
        let retries = spec.retries?;
        let (kind, user, attempts) = (Value::Word("retries"), scope.user().as_str(), u64::from(retries.attempts()));
        Some(Self(vec![kind, user.into(), spec.id.to_string().into(), attempts.into(), retries.backoff_ms().into()]))
    }

    pub(super) fn attempt(scope: &Scope, run: &str, attempt: u32) -> Self {
        let (kind, attempt) = (Value::Word("attempt"), Value::Number(attempt.into()));
        Self(vec![kind, scope.user().as_str().into(), run.into(), attempt])
    }

    pub(super) fn start(scope: &Scope, run: &str, start: Start) -> Self {
        let (user, run) = (scope.user().as_str().into(), run.into());
        match start {
            Start::At(at) => Self(vec![Value::Word("start"), user, run, at.into()]),
            Start::Left => Self(vec![Value::Word("left"), user, run]),
        }
    }

    pub(super) fn wait(scope: &Scope, run: &str, wait: &Wait) -> Result<Self, SqliteError> {
        let child = match wait.waits_for {
            WaitFor::Child { run_id } => Some(run_id.to_string()),
            _ => None,
        };
        let document = serde_json::to_string(wait).map_err(|error| SqliteError::Value(error.into()))?;
        let (kind, user) = (Value::Word("wait"), scope.user().as_str().into());
        Ok(Self(vec![kind, user, run.into(), wait.call.into(), wait.until.into(), child.into(), document.into()]))
    }

    pub(super) fn answer(scope: &Scope, run: RunId, call: u64, answer: String) -> Self {
        let (kind, user) = (Value::Word("answer"), scope.user().as_str().into());
        Self(vec![kind, user, run.to_string().into(), call.into(), answer.into(), Value::Now])
    }

    pub(super) fn state_change(user: &UserId, by: MadeBy, outcome: u64) -> Self {
        let (kind, user) = (Value::Word("state_change"), user.as_str().into());
        let (run, attempt) = (by.run.to_string().into(), Value::Number(by.attempt.into()));
        Self(vec![kind, user, run, by.call.into(), outcome.into(), attempt])
    }

    /// The last event of a batch makes the batch known in the user's feed, and says what it takes in the history, and where it
    /// begins: of one that is written again, a part may count already.
    pub(super) fn events(scope: &Scope, run: &str, events: &[Envelope]) -> Result<Vec<Self>, SqliteError> {
        let (mut rows, mut bytes) = (Vec::with_capacity(events.len()), 0);
        for envelope in events {
            let payload = codec::encode(&envelope.event).map_err(|error| SqliteError::Value(error.into()))?;
            bytes += payload.len() as u64 + EVENT_OVERHEAD_BYTES;
            rows.push(Self(vec![
                Value::Word("event"),
                scope.user().as_str().into(),
                run.into(),
                envelope.seq.into(),
                envelope.at.into(),
                Value::Blob(payload),
            ]));
        }
        if let (Some(Self(last)), Some(first)) = (rows.last_mut(), events.first()) {
            last.extend([Value::Number(1), bytes.into(), first.seq.into()]);
        }
        Ok(rows)
    }

    pub(super) fn record(scope: &Scope, run: &str, chunk: RecordChunk) -> Self {
        let kind = Value::Word("record");
        Self(vec![kind, scope.user().as_str().into(), run.into(), chunk.number.into(), Value::Blob(chunk.bytes)])
    }

    pub(super) fn progress(scope: &Scope, batch: &RunBatch) -> Self {
        Self(vec![
            Value::Word("progress"),
            scope.user().as_str().into(),
            batch.run.to_string().into(),
            batch.started_at.map_or(Value::Null, |_| Value::Word(RunStatus::Running.as_str())),
            batch.started_at.into(),
            Value::Number(batch.effects.into()),
        ])
    }

    pub(super) fn end(scope: &Scope, batch: &RunBatch, end: &RunEnd) -> Self {
        Self(vec![
            Value::Word("end"),
            scope.user().as_str().into(),
            batch.run.to_string().into(),
            Value::Word(end.stop_reason.status().as_str()),
            Value::Word(end.stop_reason.as_str()),
            end.started_at.into(),
            end.finished_at.into(),
            Value::Number(batch.effects.into()),
            end.usage.fuel.into(),
            end.usage.memory_peak_bytes.into(),
            end.usage.wall_ms.into(),
            end.usage.active_ms.into(),
            end.usage.host_calls.into(),
            end.usage.events.into(),
            end.error.as_ref().map(|error| error.code.as_str()).into(),
            end.error.as_ref().map(|error| error.message.as_str()).into(),
            end.output.as_ref().map(Json::as_str).into(),
        ])
    }

    /// What became of a run's children; stands behind its end. A run without any has no such row.
    pub(super) fn children(scope: &Scope, run: RunId, children: Children) -> Option<Self> {
        let Children { succeeded, failed, cancelled } = children;
        let document = children.any().then(|| format!("[{succeeded},{failed},{cancelled}]"))?;
        let (kind, run) = (Value::Word("children"), run.to_string().into());
        Some(Self(vec![kind, scope.user().as_str().into(), run, document.into()]))
    }

    /// The rest of what a run took; stands behind its end.
    pub(super) fn usage(scope: &Scope, run: RunId, usage: &Usage) -> Self {
        let (kind, run) = (Value::Word("usage"), run.to_string().into());
        Self(vec![kind, scope.user().as_str().into(), run, usage.tool_calls.into(), usage.memory_byte_seconds.into()])
    }

    pub(super) fn usage_sweep(before: Day) -> Self {
        let at_once = Value::Number(USAGE_DAYS_PRUNED_AT_ONCE_MAX.into());
        Self(vec![Value::Word("usage_sweep"), Value::Null, Value::Null, Value::Number(before.number()), at_once])
    }

    pub(super) fn cancel(scope: &Scope, run: RunId, request: &CancelRequest) -> Self {
        Self(vec![
            Value::Word("cancel"),
            scope.user().as_str().into(),
            run.to_string().into(),
            request.by.as_str().into(),
            request.at.into(),
        ])
    }

    pub(super) fn once(create: &Create) -> Self {
        Self(vec![
            Value::Word("once"),
            create.user.as_str().into(),
            create.id.as_str().into(),
            Value::Word(create.creating.as_str()),
            create.once.key.to_string().into(),
            create.once.body.to_string().into(),
            create.once.expires_at.into(),
        ])
    }

    pub(super) fn once_sweep(now: Timestamp) -> Self {
        let limit = Value::Number(SWEEP_RECORDS_MAX);
        Self(vec![Value::Word("once_sweep"), Value::Null, Value::Null, now.into(), limit])
    }

    pub(super) fn once_sweep_user(user: &UserId, now: Timestamp) -> Self {
        let limit = Value::Number(SWEEP_OWN_RECORDS_MAX);
        Self(vec![Value::Word("once_sweep_user"), user.as_str().into(), Value::Null, now.into(), limit])
    }

    pub(super) fn state(set: &mut SetState, version: u64) -> Self {
        Self(vec![
            Value::Word("state"),
            set.key.user.as_str().into(),
            set.key.plugin.as_str().into(),
            std::mem::take(&mut set.key.thread).into(),
            std::mem::take(&mut set.key.key).into(),
            version.into(),
            set.expires_at.into(),
            Value::Blob(std::mem::take(&mut set.value)),
        ])
    }

    pub(super) fn state_delete(key: &StateKey) -> Self {
        Self(vec![
            Value::Word("state_delete"),
            key.user.as_str().into(),
            key.plugin.as_str().into(),
            key.thread.as_str().into(),
            key.key.as_str().into(),
        ])
    }

    pub(super) fn state_sweep(user: &UserId, now: Timestamp) -> Self {
        let kind = Value::Word("state_sweep");
        Self(vec![kind, user.as_str().into(), Value::Null, now.into(), Value::Number(SWEEP_KEYS_MAX)])
    }

    pub(super) fn prune(user: &UserId, keep: History) -> Self {
        let kept = [keep.runs, keep.bytes].map(|most| Value::Number(i64::try_from(most).unwrap_or(i64::MAX)));
        let [runs, bytes] = kept;
        let at_once = Value::Number(PRUNED_AT_ONCE_MAX.into());
        Self(vec![Value::Word("prune"), user.as_str().into(), Value::Null, runs, bytes, at_once])
    }

    pub(super) fn prune_age(user: &UserId, before: Timestamp) -> Self {
        let at_once = Value::Number(PRUNED_AT_ONCE_MAX.into());
        Self(vec![Value::Word("prune_age"), user.as_str().into(), Value::Null, before.into(), at_once])
    }

    /// A piece of what is being removed.
    pub(super) fn rest() -> Self {
        Self(vec![Value::Word("rest")])
    }

    pub(super) fn tier(tier: &TierName, edit: &QuotaEdit) -> Result<Self, SqliteError> {
        let document = serde_json::to_string(edit).map_err(|error| SqliteError::Value(error.into()))?;
        Ok(Self(vec![Value::Word("tier"), Value::Null, tier.as_str().into(), document.into()]))
    }

    pub(super) fn user_quota(user: &UserId, quota: &UserQuota) -> Result<Self, SqliteError> {
        let document = match quota {
            nothing if *nothing == UserQuota::default() => Value::Null,
            quota => serde_json::to_string(quota).map_err(|error| SqliteError::Value(error.into()))?.into(),
        };
        Ok(Self(vec![Value::Word("user_quota"), user.as_str().into(), Value::Null, document]))
    }

    pub(super) fn plugin(plugin: &PluginVersion) -> Result<Self, SqliteError> {
        let document = serde_json::to_string(plugin).map_err(|error| SqliteError::Value(error.into()))?;
        let (name, digest) = (plugin.name.as_str().into(), plugin.digest.to_string().into());
        Ok(Self(vec![Value::Word("plugin"), Value::Null, name, digest, document.into()]))
    }

    pub(super) fn grant(user: &UserId, plugin: &PluginName, grant: &Permissions) -> Result<Self, SqliteError> {
        let document = serde_json::to_string(grant).map_err(|error| SqliteError::Value(error.into()))?;
        Ok(Self(vec![Value::Word("grant"), user.as_str().into(), plugin.as_str().into(), document.into()]))
    }

    pub(super) fn key(key: &ApiKey) -> Self {
        Self(vec![
            Value::Word("key"),
            key.user.as_str().into(),
            key.id.as_str().into(),
            key.secret_digest.to_string().into(),
            Value::Word(role_word(key.role)),
            key.created_at.into(),
        ])
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(Value::bytes).sum()
    }

    pub(super) fn bind(self, arguments: &mut SqliteArguments) -> Result<(), sqlx::error::BoxDynError> {
        let nulls = ROW_COLUMNS.saturating_sub(self.0.len());
        for value in self.0 {
            match value {
                Value::Null => arguments.add(None::<i64>)?,
                Value::Number(number) => arguments.add(number)?,
                Value::Now => arguments.add(clock::now().as_microsecond())?,
                Value::Word(word) => arguments.add(word)?,
                Value::Text(text) => arguments.add(text)?,
                Value::Blob(blob) => arguments.add(blob)?,
            }
        }
        for _ in 0..nulls {
            arguments.add(None::<i64>)?;
        }
        Ok(())
    }
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Number(_) | Self::Now | Self::Word(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(blob) => blob.len(),
        }
    }
}
