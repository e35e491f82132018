//! `state`: the user's key-value data for this plugin.

use super::waits::Asking;
use crate::{
    bindings::state::{Entry, Host, Scope, StateError},
    sandbox::{Guest, HostFailure},
};
use cofferdam_core::{
    clock,
    codec::Format,
    context::{Effect, StateSpace},
    quota::HOST_CALL_BYTES_MAX,
    record::Asked,
    run::Durability,
    storage::{Expected, MadeBy, StateRefused, StateWrite, StorageError},
};
use jiff::{Timestamp, ToSpan as _};
use std::ops::ControlFlow;

/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 256;
/// The most keys that one call lists.
const LIST_MAX: u32 = 1_000;
/// The longest time to live: ten years, in milliseconds.
const TTL_MS_MAX: u64 = 10 * 365 * 24 * 60 * 60 * 1_000;

fn check_text(what: &str, text: &str, bytes_min: usize) -> Result<(), StateError> {
    let valid = (bytes_min..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if valid {
        return Ok(());
    }
    Err(StateError::Invalid(format!(
        "{what} must be {bytes_min} to {KEY_BYTES_MAX} bytes of printable ASCII without spaces"
    )))
}

fn expiry(ttl_ms: Option<u64>) -> Result<Option<Timestamp>, StateError> {
    let Some(ttl_ms) = ttl_ms else { return Ok(None) };
    let invalid = || StateError::Invalid(format!("ttl-ms is {ttl_ms}, but must be from 1 to {TTL_MS_MAX}"));
    let ms = i64::try_from(ttl_ms).ok().filter(|_| (1..=TTL_MS_MAX).contains(&ttl_ms)).ok_or_else(invalid)?;
    clock::now().checked_add(ms.milliseconds()).map(Some).map_err(|_| invalid())
}

fn unavailable(error: &StorageError) -> StateError {
    tracing::error!(error = %error, source = ?error.source, "a guest could not reach its state");
    StateError::Unavailable
}

impl Guest {
    fn state_space(&self, scope: Scope, effect: Effect<'_>) -> Result<StateSpace, StateError> {
        self.ctx.may_call_host().map_err(|spent| StateError::Exhausted(spent.to_string()))?;
        let permit = self.ctx.authorize(effect).map_err(|denied| StateError::Denied(denied.to_string()))?;
        Ok(permit.state_space(matches!(scope, Scope::Thread)))
    }

    async fn set_state(
        &mut self,
        scope: Scope,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
        expected: Expected,
    ) -> wasmtime::Result<Result<u64, StateError>> {
        let asked = || {
            let asked = Asked::of("state.set").value(scope_word(scope)).text(&key).digest(&value);
            asked.value(format_args!("{ttl_ms:?} {expected:?}"))
        };
        let before = match self.change(asked, |version| version).await? {
            ControlFlow::Break(known) => return Ok(known),
            ControlFlow::Continue(before) => before,
        };
        let checked = (|| {
            let space = self.state_space(scope, Effect::StateWrite)?;
            check_text("a key", &key, 1)?;
            if value.len() > HOST_CALL_BYTES_MAX {
                return Err(StateError::TooLarge(HOST_CALL_BYTES_MAX as u64));
            }
            Ok((space, expiry(ttl_ms)?))
        })();
        let (space, expires_at) = match checked {
            Ok(checked) => checked,
            Err(error) => return Ok(self.refused(before, asked(), Err(error)).await),
        };
        let call = self.begin_change(before, asked()).await?;
        self.ctx.written().add(value.len());
        let (user_bytes_max, by) = (self.ctx.quota().state_bytes, self.made_by(call));
        let write = StateWrite { key, value, expires_at, expected, user_bytes_max, by };
        let storage = self.services.storage.clone();
        let set = self.beside(async move { storage.state_set(&space, write).await }).await?;
        let set = set.map_err(|refused| match refused {
            StateRefused::Full(limit) => StateError::Full(limit),
            StateRefused::Conflict(version) => StateError::Conflict(version),
            StateRefused::Storage(error) => unavailable(&error),
        });
        Ok(self.changed(call, set))
    }

    /// What a change came to before, or under which number it is made now. One that had begun is known by its call, if it
    /// was made: so it is made once.
    async fn change<T: bincode::Decode<Format>>(
        &mut self,
        asked: impl FnOnce() -> Asked,
        came_to: impl FnOnce(u64) -> T,
    ) -> wasmtime::Result<ControlFlow<Result<T, StateError>, Option<u64>>>
    where
        Result<T, StateError>: bincode::Encode + bincode::Decode<Format>,
    {
        let number = match self.asking(asked)? {
            Asking::AtOnce(answer) | Asking::Answered(answer) => return Ok(ControlFlow::Break(answer)),
            Asking::New => return Ok(ControlFlow::Continue(None)),
            Asking::Begun(number) => number,
        };
        let (storage, scope, by) = (self.services.storage.clone(), self.ctx.scope(), self.ctx.made_by(number));
        let made = self.beside(async move { storage.waits().state_change(&scope, by).await }).await?;
        Ok(match made.map_err(HostFailure::storage)? {
            Some(outcome) => ControlFlow::Break(self.changed(Some(number), Ok(came_to(outcome)))),
            None => ControlFlow::Continue(Some(number)),
        })
    }

    /// Records that a change begins, which is durable before it does.
    async fn begin_change(&mut self, before: Option<u64>, asked: Asked) -> wasmtime::Result<Option<u64>> {
        self.relieved().await;
        let call = before.or_else(|| self.recorder.as_ref().map(|recorder| recorder.started(asked, None)));
        self.journal()?.before_effect().await.map_err(HostFailure::storage)?;
        Ok(call)
    }

    /// By which call a change is made, for a run that may have to know it later.
    fn made_by(&self, call: Option<u64>) -> Option<MadeBy> {
        let is_durable = self.ctx.spec().durability == Durability::Durable;
        call.filter(|_| is_durable).map(|call| self.ctx.made_by(call))
    }

    /// A call that has begun was refused after all, or one that has not was refused.
    pub async fn refused<T: bincode::Encode>(&mut self, before: Option<u64>, asked: Asked, refused: T) -> T {
        match before {
            Some(_) => self.changed(before, refused),
            None => self.answered(|| asked, refused).await,
        }
    }

    pub fn changed<T: bincode::Encode>(&self, call: Option<u64>, answer: T) -> T {
        if let Some((recorder, call)) = self.recorder.as_ref().zip(call) {
            recorder.finished(call, &answer, None);
        }
        answer
    }

    pub async fn answered<T: bincode::Encode>(&mut self, asked: impl FnOnce() -> Asked, answer: T) -> T {
        self.relieved().await;
        self.record(asked, &answer);
        answer
    }
}

const fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Thread => "thread",
        Scope::User => "user",
    }
}

impl Host for Guest {
    async fn get(&mut self, scope: Scope, key: String) -> wasmtime::Result<Result<Option<Entry>, StateError>> {
        let asked = || Asked::of("state.get").value(scope_word(scope)).text(&key);
        if let Some(known) = self.recall(asked)? {
            return Ok(known);
        }
        let checked = self.state_space(scope, Effect::StateRead).and_then(|s| check_text("a key", &key, 1).map(|()| s));
        let space = match checked {
            Ok(space) => space,
            Err(error) => return Ok(self.answered(asked, Err(error)).await),
        };
        let (storage, wanted) = (self.services.storage.clone(), key.clone());
        let entry = self.beside(async move { storage.state_get(&space, &wanted).await }).await?;
        let entry = entry.map_err(|error| unavailable(&error));
        let entry = entry.map(|entry| entry.map(|entry| Entry { value: entry.value, version: entry.version }));
        Ok(self.answered(asked, entry).await)
    }

    async fn set(
        &mut self,
        scope: Scope,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<u64, StateError>> {
        self.set_state(scope, key, value, ttl_ms, Expected::Any).await
    }

    async fn delete(&mut self, scope: Scope, key: String) -> wasmtime::Result<Result<bool, StateError>> {
        let asked = || Asked::of("state.delete").value(scope_word(scope)).text(&key);
        let before = match self.change(asked, |was_there| was_there > 0).await? {
            ControlFlow::Break(known) => return Ok(known),
            ControlFlow::Continue(before) => before,
        };
        let checked =
            self.state_space(scope, Effect::StateWrite).and_then(|s| check_text("a key", &key, 1).map(|()| s));
        let space = match checked {
            Ok(space) => space,
            Err(error) => return Ok(self.refused(before, asked(), Err(error)).await),
        };
        let call = self.begin_change(before, asked()).await?;
        let (storage, by) = (self.services.storage.clone(), self.made_by(call));
        let deleted = self.beside(async move { storage.state_delete(&space, &key, by).await }).await?;
        Ok(self.changed(call, deleted.map_err(|error| unavailable(&error))))
    }

    async fn list(
        &mut self,
        scope: Scope,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Result<Vec<String>, StateError>> {
        let asked = || {
            let after = after.as_deref().unwrap_or_default();
            Asked::of("state.list").value(scope_word(scope)).text(&prefix).text(after).value(limit)
        };
        if let Some(known) = self.recall(asked)? {
            return Ok(known);
        }
        let checked = (|| {
            let space = self.state_space(scope, Effect::StateRead)?;
            check_text("a prefix", &prefix, 0)?;
            check_text("after", after.as_deref().unwrap_or_default(), 0)?;
            if (1..=LIST_MAX).contains(&limit) {
                Ok(space)
            } else {
                Err(StateError::Invalid(format!("limit is {limit}, but must be from 1 to {LIST_MAX}")))
            }
        })();
        let space = match checked {
            Ok(space) => space,
            Err(error) => return Ok(self.answered(asked, Err(error)).await),
        };
        let (storage, prefix, after) = (self.services.storage.clone(), prefix.clone(), after.clone());
        let keys =
            self.beside(async move { storage.state_keys(&space, &prefix, after.as_deref(), limit).await }).await?;
        Ok(self.answered(asked, keys.map_err(|error| unavailable(&error))).await)
    }

    async fn compare_and_swap(
        &mut self,
        scope: Scope,
        key: String,
        expected: Option<u64>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<u64, StateError>> {
        let expected = expected.map_or(Expected::Absent, Expected::Version);
        self.set_state(scope, key, value, ttl_ms, expected).await
    }
}
