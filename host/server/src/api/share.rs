//! What one user may hold of the server at once: requests under way, their answers included, and bytes of bodies.

use super::{
    body::{BodyRoom, Part, ROOM_BYTES},
    problem::Problem,
};
use crate::answer::Answer;
use axum::{body::Body, http::StatusCode, response::Response};
use cofferdam_core::{
    ids::UserId,
    pace::{Askers, Paces},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Requests of one user under way at once. An answer that is not read is under way, and so is a stream that is followed:
/// each holds a page of events or an output in memory.
const REQUESTS_AT_ONCE_MAX: usize = 128;

/// Bodies of one user's requests together, in bytes: a quarter of what the host has for all.
const BODIES_BYTES_MAX: usize = 128 << 20;

/// How many users without a request are remembered before they are forgotten.
const IDLE_USERS_MAX: usize = 1_024;

/// How much of bodies may come at once, as time at their pace: enough that a timer's whole milliseconds do not slow anybody
/// down.
const BODIES_AT_ONCE: Duration = Duration::from_millis(10);

/// The shares of all users.
#[derive(Debug)]
pub(crate) struct Shares {
    /// Of those who have a request under way.
    users: Mutex<HashMap<UserId, Weak<Share>>>,
    paces: Paces,
}

#[derive(Debug)]
struct Share {
    requests: Arc<Semaphore>,
    bodies: Part,
    /// One page of runs at a time: storage reads a few at once for all users.
    lists: Semaphore,
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    _request: OwnedSemaphorePermit,
    share: Arc<Share>,
}

impl Shares {
    /// Of users of whom this knows which ask the host for something.
    pub fn new(askers: Arc<Askers>) -> Self {
        Self { users: Mutex::default(), paces: Paces::new(BODIES_AT_ONCE, askers) }
    }

    /// Lets one more request of a user in, whose bodies are read at this pace from here on.
    pub fn enter(&self, user: &UserId, body_bytes_per_second: u64) -> Result<UnderWay, Problem> {
        let share = self.of(user);
        share.bodies.pace.set(body_bytes_per_second);
        match share.requests.clone().try_acquire_owned() {
            Ok(request) => Ok(UnderWay { _request: request, share }),
            Err(_) => Err(Problem::http(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests_at_once",
                format!(
                    "{REQUESTS_AT_ONCE_MAX} requests of this user are under way, which is as many as may be; read their answers, or close streams that nobody follows"
                ),
            )),
        }
    }

    fn of(&self, user: &UserId) -> Arc<Share> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = users.get(user).and_then(Weak::upgrade) {
            return share;
        }
        if users.len() >= IDLE_USERS_MAX {
            users.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Share {
            requests: Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX)),
            bodies: Part { room: Arc::new(Semaphore::new(BODIES_BYTES_MAX / ROOM_BYTES)), pace: self.paces.of(user) },
            lists: Semaphore::new(1),
        });
        users.insert(user.clone(), Arc::downgrade(&share));
        share
    }
}

impl UnderWay {
    /// The user's part of the room for bodies.
    pub fn body_room(&self, host: &BodyRoom) -> BodyRoom {
        host.within(self.share.bodies.clone())
    }

    /// Whose turn it is to have a page of the user's runs read, which may mean to look through all of them.
    pub async fn list_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.share.lists.acquire().await.ok()
    }

    /// Keeps the request under way until its answer has been read, and by whoever else has a part in it.
    pub fn until_read(self: Arc<Self>, response: Response) -> Response {
        response.map(|body| Body::new(Answer::holding(body, self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_user_has_one_page_read_at_a_time_and_is_in_nobodys_way() {
        let shares = Shares::new(Arc::default());
        let enter = |user: &str| shares.enter(&user.parse().expect("a user"), 1).expect("room");
        let (first, second, other) = (enter("ann"), enter("ann"), enter("bob"));
        let turn = first.list_turn().await;
        let waits = tokio::time::timeout(Duration::from_millis(20), second.list_turn()).await;
        assert!(waits.is_err());
        assert!(other.list_turn().await.is_some());
        drop(turn);
        assert!(second.list_turn().await.is_some());
    }
}
