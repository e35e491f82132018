//! What one user may hold of the server at once: requests under way, their answers included, and bytes of bodies.

use super::{
    body::{BodyRoom, Part, ROOM_BYTES},
    pace::Pace,
    problem::Problem,
};
use crate::answer::Answer;
use axum::{body::Body, http::StatusCode, response::Response};
use cofferdam_core::ids::UserId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of one user under way at once. An answer that is not read is under way, and so is a stream that is followed:
/// each holds a page of events or an output in memory.
const REQUESTS_AT_ONCE_MAX: usize = 128;

/// Bodies of one user's requests together, in bytes: a quarter of what the host has for all.
const BODIES_BYTES_MAX: usize = 128 << 20;

/// How many users without a request are remembered before they are forgotten.
const IDLE_USERS_MAX: usize = 1_024;

/// The shares of all users.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<HashMap<UserId, Known>>);

/// What is remembered of a user: the share as long as there is a request, and the pace until it is kept without.
#[derive(Debug)]
struct Known {
    share: Weak<Share>,
    pace: Arc<Pace>,
}

#[derive(Debug)]
struct Share {
    requests: Arc<Semaphore>,
    bodies: Part,
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    _request: OwnedSemaphorePermit,
    share: Arc<Share>,
}

impl Shares {
    /// Lets one more request of a user in, whose bodies are read at this pace from here on.
    pub fn enter(&self, user: &UserId, body_bytes_per_second: u64) -> Result<UnderWay, Problem> {
        let share = self.of(user, body_bytes_per_second);
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

    fn of(&self, user: &UserId, body_bytes_per_second: u64) -> Arc<Share> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = users.get(user);
        if let Some(share) = known.and_then(|known| known.share.upgrade()) {
            return share;
        }
        let pace = known.map_or_else(|| Arc::new(Pace::new(body_bytes_per_second)), |known| known.pace.clone());
        if users.len() >= IDLE_USERS_MAX {
            users.retain(|_, known| known.share.strong_count() > 0 || !known.pace.is_kept());
        }
        let share = Arc::new(Share {
            requests: Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX)),
            bodies: Part { room: Arc::new(Semaphore::new(BODIES_BYTES_MAX / ROOM_BYTES)), pace: pace.clone() },
        });
        users.insert(user.clone(), Known { share: Arc::downgrade(&share), pace });
        share
    }
}

impl UnderWay {
    /// The user's part of the room for bodies.
    pub fn body_room(&self, host: &BodyRoom) -> BodyRoom {
        host.within(self.share.bodies.clone())
    }

    /// Keeps the request under way until its answer has been read, and by whoever else has a part in it.
    pub fn until_read(self: Arc<Self>, response: Response) -> Response {
        response.map(|body| Body::new(Answer::holding(body, self)))
    }
}
