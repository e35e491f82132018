//! Places among a user's runs that wait: taken before a run is put away, so that never more wait than may, however many are
//! about to at once.
//!
//! Storage counts those that wait; here are only those that are about to, each from when it has its place until storage
//! knows whether it waits. This process is storage's only writer, so nobody else puts runs away.

use cofferdam_core::{
    identity::Scope,
    ids::{RunId, UserId},
    storage::{Storage, StorageError},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The runs that are about to wait, of each user who has any. No more than execute, or are put off at the start.
#[derive(Default)]
pub struct WaitPlaces(Mutex<HashMap<UserId, BTreeSet<RunId>>>);

impl WaitPlaces {
    /// Takes a place for a run, if fewer than `max` wait or are about to. It is the run's until it is
    /// [given back](Self::give_back).
    ///
    /// # Errors
    /// When storage fails. Then there is no place.
    pub async fn take(&self, storage: &dyn Storage, scope: &Scope, run: RunId, max: u32) -> Result<bool, StorageError> {
        // Whoever comes later counts this one. One that waits by the time of the count counts as about to, and not twice.
        let about_to: Vec<_> = {
            let mut places = self.places();
            let own = places.entry(scope.user().clone()).or_default();
            own.insert(run);
            own.iter().copied().collect()
        };
        let waiting = storage.waits().waiting_runs(scope, &about_to).await;
        let has_place = waiting.as_ref().is_ok_and(|waiting| waiting + about_to.len() as u64 <= u64::from(max));
        if !has_place {
            self.give_back(scope.user(), run);
        }
        waiting.map(|_| has_place)
    }

    /// Gives a run's place back, if it has one: it waits, which storage knows, or will not.
    pub fn give_back(&self, user: &UserId, run: RunId) {
        let mut places = self.places();
        if let Some(own) = places.get_mut(user) {
            own.remove(&run);
            if own.is_empty() {
                places.remove(user);
            }
        }
    }

    fn places(&self) -> MutexGuard<'_, HashMap<UserId, BTreeSet<RunId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
