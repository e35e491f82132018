//! Calls that create something once: who repeats a request under the same key gets what the first one made.
//!
//! The record of a key is durable in the same commit as what was made under it, so that a crash leaves both or neither.

use crate::{
    clock,
    fault::Fault,
    ids::{Digest, IdempotencyKey, UserId},
};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// How long a key is remembered. Longer than any client tries again, and than most hosts are down.
pub const IDEMPOTENCY_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// How many keys of one user are remembered at once. Protects storage, where each takes about 300 bytes. At the limit a
/// request with a new key is refused: forgetting the oldest would let a retry do its work twice without a word.
pub const IDEMPOTENCY_KEYS_PER_USER_MAX: u64 = 100_000;

/// What a call creates. Keys of calls that create different things are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Creating {
    /// A run.
    Run,
    /// An API key.
    ApiKey,
}

impl Creating {
    /// The word in storage.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::ApiKey => "api_key",
        }
    }
}

/// A request that creates something once, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// The digest of its key. The key itself is the client's.
    pub key: Digest,
    /// The digest of its body: under the same key, another body is another request.
    pub body: Digest,
    /// When it is forgotten.
    pub expires_at: Timestamp,
    /// How many keys of this caller may be remembered.
    pub user_keys_max: u64,
}

impl Once {
    /// A request that came now.
    #[must_use]
    pub fn new(key: &IdempotencyKey, body: &[u8]) -> Self {
        let now = clock::now();
        Self {
            key: Digest::of(key.as_str().as_bytes()),
            body: Digest::of(body),
            expires_at: now.checked_add(IDEMPOTENCY_KEPT).unwrap_or(Timestamp::MAX),
            user_keys_max: IDEMPOTENCY_KEYS_PER_USER_MAX,
        }
    }
}

/// What an earlier request with the same key made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// The id of what it made.
    pub id: String,
    /// The digest of its body.
    pub body: Digest,
}

/// What became of something that was to be created once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// It is kept, with the record of its key if there was one.
    Made,
    /// An earlier request with the same key stands; nothing was kept.
    Stands(Earlier),
    /// The caller has as many keys remembered as may be; nothing was kept. The first is forgotten then.
    Full(Timestamp),
}

/// Why a request with an idempotency key is not answered with what its first one made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOnce {
    /// The key came with another body.
    #[error("this Idempotency-Key came with another body before; send what was sent then, or use a new key")]
    Reused,
    /// The first request with the key is not through.
    #[error(
        "the first request with this Idempotency-Key is still being taken; send the same again in a second, to have its answer"
    )]
    InFlight,
    /// The user's keys are used up.
    #[error("{max} keys of this user are remembered, which is as many as may be; the first is forgotten at {until}")]
    Full {
        /// How many may be.
        max: u64,
        /// When there is room again.
        until: Timestamp,
    },
    /// What the first request made is there no more.
    #[error(
        "what the first request with this Idempotency-Key made is not on this host any more; use a new key to do it again"
    )]
    Gone,
}

impl NotOnce {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(self) -> Fault {
        match self {
            Self::Reused | Self::InFlight => Fault::Caller,
            Self::Full { .. } => Fault::Exhausted,
            Self::Gone => Fault::Absent,
        }
    }

    /// After how many seconds trying again makes sense, if it does.
    #[must_use]
    pub fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::InFlight => Some(1),
            Self::Full { until, .. } => {
                let seconds = until.duration_since(clock::now()).as_secs().saturating_add(1).max(1);
                Some(u32::try_from(seconds).unwrap_or(u32::MAX))
            }
            Self::Reused | Self::Gone => None,
        }
    }

    /// For programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Reused => "idempotency_key_reused",
            Self::InFlight => "idempotency_in_flight",
            Self::Full { .. } => "idempotency_keys_full",
            Self::Gone => "idempotency_result_gone",
        }
    }
}

/// Requests with idempotency keys that are being taken now. As many as there are requests under way, which are bounded
/// where they come in.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Mutex<HashSet<Taken>>>);

/// Caller, what is created, key.
type Taken = (UserId, Creating, Digest);

/// A request that is being taken until this is dropped.
#[derive(Debug)]
pub struct TakingGuard {
    taking: InFlight,
    taken: Taken,
}

impl InFlight {
    /// Takes a request, unless one with the same key is being taken. Storage has the last word on which of two is the
    /// first; this spares the second the work, and tells its client to come back.
    ///
    /// # Errors
    /// When one is.
    pub fn enter(&self, caller: &UserId, creating: Creating, once: &Once) -> Result<TakingGuard, NotOnce> {
        let taken = (caller.clone(), creating, once.key);
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(taken.clone()) {
            return Err(NotOnce::InFlight);
        }
        Ok(TakingGuard { taking: self.clone(), taken })
    }
}

impl Drop for TakingGuard {
    fn drop(&mut self) {
        self.taking.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_of_a_key_and_caller_is_taken_at_a_time() {
        let taking = InFlight::default();
        let (ann, bob): (UserId, UserId) = ("ann".parse().expect("a user"), "bob".parse().expect("a user"));
        let once = |key: &str| Once::new(&key.parse().expect("a key"), b"body");
        let first = taking.enter(&ann, Creating::Run, &once("a")).expect("nobody is there");
        assert_eq!(taking.enter(&ann, Creating::Run, &once("a")).map(drop), Err(NotOnce::InFlight));
        let others = [(&ann, Creating::Run, "b"), (&ann, Creating::ApiKey, "a"), (&bob, Creating::Run, "a")];
        for (who, creating, key) in others {
            assert!(taking.enter(who, creating, &once(key)).is_ok(), "{who} {creating:?} {key}");
        }
        drop(first);
        assert!(taking.enter(&ann, Creating::Run, &once("a")).is_ok());
        assert!(taking.0.lock().expect("not poisoned").is_empty());
    }
}
