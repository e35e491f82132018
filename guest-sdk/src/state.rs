//! Key-value data that outlives the run.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wit::state;
use crate::{ToolContext, json};

/// How widely a key is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Runs of this plugin in this thread.
    Thread,
    /// All of this user's runs of this plugin.
    User,
}

/// A stored value with the version that [`State::compare_and_swap`] compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// What was set.
    pub value: T,
    /// Grows with every change of the key.
    pub version: u64,
}

/// Why the data could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateError {
    /// The plugin did not declare, or the user was not granted, this access to state.
    Denied(String),
    /// The key, the time to live or the page size is out of bounds. The text says which.
    Invalid(String),
    /// The value is over the limit, given in bytes.
    TooLarge(u64),
    /// The user's data would be over the limit, given in bytes. Delete something first.
    Full(u64),
    /// `compare_and_swap` found another version than expected: the one now there, or none if the key is absent.
    Conflict(Option<u64>),
    /// The host could not reach its storage. Nothing was changed.
    Unavailable,
    /// The run has made as many host calls as it may. The text says how many.
    Exhausted(String),
    /// The value is not what the caller's type expects, or cannot be written as JSON. The text says what and where.
    NotJson(String),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::Denied(text) => write!(f, "denied: {text}"),
            StateError::Invalid(text) => write!(f, "the request for state is not valid: {text}"),
            StateError::TooLarge(limit) => write!(f, "the value is larger than {limit} bytes"),
            StateError::Full(limit) => write!(f, "the user's state is full at {limit} bytes: delete something first"),
            StateError::Conflict(Some(version)) => {
                write!(f, "the key changed meanwhile and is now at version {version}")
            }
            StateError::Conflict(None) => write!(f, "the key is absent"),
            StateError::Unavailable => write!(f, "the host's storage is not available: try again later"),
            StateError::Exhausted(text) => write!(f, "{text}"),
            StateError::NotJson(text) => write!(f, "the value does not fit: {text}"),
        }
    }
}

impl std::error::Error for StateError {}

impl From<state::StateError> for StateError {
    fn from(error: state::StateError) -> StateError {
        match error {
            state::StateError::Denied(text) => StateError::Denied(text),
            state::StateError::Invalid(text) => StateError::Invalid(text),
            state::StateError::TooLarge(limit) => StateError::TooLarge(limit),
            state::StateError::Full(limit) => StateError::Full(limit),
            state::StateError::Conflict(version) => StateError::Conflict(version),
            state::StateError::Exhausted(text) => StateError::Exhausted(text),
            state::StateError::Unavailable => StateError::Unavailable,
        }
    }
}

impl From<Scope> for state::Scope {
    fn from(scope: Scope) -> state::Scope {
        match scope {
            Scope::Thread => state::Scope::Thread,
            Scope::User => state::Scope::User,
        }
    }
}

/// The user's key-value data for this plugin in one scope, from [`ToolContext::state`].
///
/// Keys are 1 to 256 bytes of printable ASCII without spaces, values at most 1 MiB, a user's keys and values together
/// at most 64 MiB, to which each key adds 200 bytes. Each plugin sees only its own keys, each user only theirs. Reading needs [`Access::Read`], the
/// rest [`Access::ReadWrite`].
///
/// ```no_run
/// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
/// use cofferdam_sdk::{Scope, StateError};
///
/// // Counts, although another run may count at the same time.
/// let state = ctx.state(Scope::User);
/// loop {
///     let stored = state.get_json::<u64>("count")?;
///     let (count, version) = stored.map_or((0, None), |stored| (stored.value, Some(stored.version)));
///     match state.compare_and_swap_json("count", version, &(count + 1)) {
///         Err(StateError::Conflict(_)) => continue,
///         other => break other?,
///     }
/// };
/// # Ok(()) }
/// ```
///
/// [`Access::Read`]: crate::Access::Read
/// [`Access::ReadWrite`]: crate::Access::ReadWrite
#[derive(Clone, Copy, Debug)]
pub struct State<'ctx> {
    scope: Scope,
    ttl_ms: Option<u64>,
    // State is of a run, as the rest of its context.
    context: PhantomData<&'ctx ToolContext>,
}

impl<'ctx> State<'ctx> {
    pub(crate) fn of(_context: &'ctx ToolContext, scope: Scope) -> State<'ctx> {
        State { scope, ttl_ms: None, context: PhantomData }
    }

    /// The same data, but what is set through this value vanishes after `ttl`: 1 ms to 10 years, in whole
    /// milliseconds.
    ///
    /// ```no_run
    /// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
    /// use std::time::Duration;
    ///
    /// let for_an_hour = ctx.state(cofferdam_sdk::Scope::Thread).expiring_after(Duration::from_secs(3600));
    /// for_an_hour.set("draft", "Dear reader".as_bytes())?;
    /// # Ok(()) }
    /// ```
    pub fn expiring_after(self, ttl: Duration) -> State<'ctx> {
        // Longer than 64 bits of milliseconds is longer than 10 years, which the host refuses with a text that says so.
        State { ttl_ms: Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    /// The value of a key, or none.
    ///
    /// # Errors
    ///
    /// [`StateError::Denied`], [`StateError::Invalid`] for a bad key, [`StateError::Unavailable`].
    pub fn get(&self, key: &str) -> Result<Option<Stored<Vec<u8>>>, StateError> {
        let entry = state::get(self.scope.into(), key)?;
        Ok(entry.map(|entry| Stored { value: entry.value, version: entry.version }))
    }

    /// The value of a key that was set as JSON, or none.
    ///
    /// # Errors
    ///
    /// As [`get`](State::get); [`StateError::NotJson`] if the value is not a `T`.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Stored<T>>, StateError> {
        let Some(Stored { value, version }) = self.get(key)? else { return Ok(None) };
        let value = read_json(key, &value)?;
        Ok(Some(Stored { value, version }))
    }

    /// Sets a key and gives its new version.
    ///
    /// # Errors
    ///
    /// As [`get`](State::get); [`StateError::TooLarge`] over 1 MiB, [`StateError::Full`] over the user's 64 MiB.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<u64, StateError> {
        Ok(state::set(self.scope.into(), key, value, self.ttl_ms)?)
    }

    /// Sets a key to a value written as JSON and gives its new version.
    ///
    /// # Errors
    ///
    /// As [`set`](State::set); [`StateError::NotJson`] if the value cannot be written as JSON.
    pub fn set_json(&self, key: &str, value: &impl Serialize) -> Result<u64, StateError> {
        self.set(key, &write_json(key, value)?)
    }

    /// Removes a key. Says whether it was there.
    ///
    /// # Errors
    ///
    /// As [`get`](State::get).
    pub fn delete(&self, key: &str) -> Result<bool, StateError> {
        Ok(state::delete(self.scope.into(), key)?)
    }

    /// Keys that start with `prefix`, in byte order, after the key `after`, at most `limit` (1 to 1,000) of them.
    ///
    /// The next page starts after the last key of this one; a page shorter than `limit` is the last.
    ///
    /// # Errors
    ///
    /// As [`get`](State::get); [`StateError::Invalid`] also for a limit out of bounds.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, StateError> {
        Ok(state::list(self.scope.into(), prefix, after, limit)?)
    }

    /// Sets a key only if its version is `expected` (none: only if it is absent), and gives the new version.
    ///
    /// # Errors
    ///
    /// As [`set`](State::set); [`StateError::Conflict`] with the version that is there instead.
    pub fn compare_and_swap(&self, key: &str, expected: Option<u64>, value: &[u8]) -> Result<u64, StateError> {
        Ok(state::compare_and_swap(self.scope.into(), key, expected, value, self.ttl_ms)?)
    }

    /// As [`compare_and_swap`](State::compare_and_swap), with a value written as JSON.
    ///
    /// # Errors
    ///
    /// As [`compare_and_swap`](State::compare_and_swap); [`StateError::NotJson`] if the value cannot be written as JSON.
    pub fn compare_and_swap_json(
        &self,
        key: &str,
        expected: Option<u64>,
        value: &impl Serialize,
    ) -> Result<u64, StateError> {
        self.compare_and_swap(key, expected, &write_json(key, value)?)
    }
}

fn read_json<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StateError> {
    let text = std::str::from_utf8(value).map_err(|why| StateError::NotJson(format!("`{key}`: {why}")))?;
    json::parse(text).map_err(|why| StateError::NotJson(format!("`{key}`: {why}")))
}

fn write_json(key: &str, value: &impl Serialize) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(value).map_err(|why| StateError::NotJson(format!("`{key}`: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_shape_is_refused_with_its_key_and_place() {
        assert_eq!(read_json::<Vec<u32>>("numbers", b"[1,2]"), Ok(vec![1, 2]));
        for (value, place) in [(b"[1,-2]".as_slice(), "at `[1]`"), (b"\xff".as_slice(), "utf-8")] {
            match read_json::<Vec<u32>>("numbers", value) {
                Err(StateError::NotJson(text)) => {
                    assert!(text.contains("`numbers`") && text.contains(place), "{text}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_time_to_live_beyond_all_bounds_is_left_for_the_host_to_refuse() {
        let ctx = ToolContext::of_this_run();
        let state = State::of(&ctx, Scope::User);
        assert_eq!(state.expiring_after(Duration::from_millis(1)).ttl_ms, Some(1));
        assert_eq!(state.expiring_after(Duration::from_micros(999)).ttl_ms, Some(0));
        assert_eq!(state.expiring_after(Duration::MAX).ttl_ms, Some(u64::MAX));
    }
}
