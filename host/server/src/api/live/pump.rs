//! From storage to a socket's queue: what the socket follows, and how far it has been read.

use super::frames::{self, Answer};
use crate::api::{
    Api,
    cursor::{self, ReadTo},
};
use cofferdam_core::{
    emitter::{Outgoing, Outlet},
    event::Envelope,
    identity::Scope,
    ids::RunId,
    journal::{Following, FollowingUser},
    storage::{FeedPlace, StorageError},
};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// How many single runs a socket follows. Whoever wants more follows all.
pub(super) const RUNS_FOLLOWED_MAX: usize = 64;

/// How many events are read from storage at once.
const PAGE: u32 = 256;

/// What a socket follows.
#[derive(Default)]
pub(super) struct Subscriptions {
    followed: Mutex<Followed>,
    changed: Notify,
}

#[derive(Default)]
struct Followed {
    runs: VecDeque<FollowedRun>,
    all: Option<FollowedAll>,
    /// Grows with each subscription, so that what was read for one is not booked on another.
    next: u64,
}

/// A run that is followed.
struct FollowedRun {
    subscription: u64,
    run: RunId,
    after: u64,
    /// The last event that there was when the run was subscribed to: what comes until then is history.
    live_from: u64,
    following: Following,
    due: bool,
    /// The run has ended, so that an empty page is the last.
    ended: bool,
}

/// All runs of the user, followed.
struct FollowedAll {
    subscription: u64,
    after: FeedPlace,
    read: ReadTo,
    live_from: FeedPlace,
    due: bool,
}

/// Why a subscription is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The socket follows this run, or all.
    Already,
    /// It follows as many runs as it may.
    TooMany,
}

/// What is read next.
#[derive(Clone, Copy)]
struct Due {
    subscription: u64,
    catching_up: bool,
    from: From,
}

#[derive(Clone, Copy)]
enum From {
    Run(RunId, u64),
    All(FeedPlace, ReadTo),
}

impl Subscriptions {
    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a run could be followed beside what is followed now.
    pub fn room_for(&self, run: RunId) -> Result<(), Refused> {
        let followed = self.followed();
        if followed.all.is_some() || followed.runs.iter().any(|other| other.run == run) {
            return Err(Refused::Already);
        }
        if followed.runs.len() >= RUNS_FOLLOWED_MAX { Err(Refused::TooMany) } else { Ok(()) }
    }

    /// Follows a run. `following` must be older than what is known of the run.
    pub fn add(&self, run: RunId, after: u64, live_from: u64, ended: bool, following: Following) {
        let mut followed = self.followed();
        followed.next += 1;
        let subscription = followed.next;
        followed.runs.push_back(FollowedRun { subscription, run, after, live_from, following, due: true, ended });
        self.changed.notify_one();
    }

    /// Follows all runs.
    pub fn add_all(&self, (after, read): (FeedPlace, ReadTo), live_from: FeedPlace) -> Result<(), Refused> {
        let mut followed = self.followed();
        if followed.all.is_some() || !followed.runs.is_empty() {
            return Err(Refused::Already);
        }
        followed.next += 1;
        let subscription = followed.next;
        followed.all = Some(FollowedAll { subscription, after, read, live_from, due: true });
        self.changed.notify_one();
        Ok(())
    }

    /// Follows a run, or everything, no longer. Says whether what waits of it for the socket is to go, too: a run is not let
    /// go of by itself where all are followed.
    pub fn remove(&self, run: Option<RunId>) -> bool {
        let mut followed = self.followed();
        match run {
            Some(run) => followed.runs.retain(|other| other.run != run),
            None => {
                followed.runs.clear();
                followed.all = None;
            }
        }
        followed.all.is_none()
    }

    /// Whether the run of a subscription is known to have ended.
    fn has_ended(&self, subscription: u64) -> bool {
        self.followed().runs.iter().any(|run| run.subscription == subscription && run.ended)
    }

    /// Whether a subscription is still there: while something is read for it, the client may take it back.
    fn holds(&self, subscription: u64) -> bool {
        let followed = self.followed();
        followed.all.iter().any(|all| all.subscription == subscription)
            || followed.runs.iter().any(|run| run.subscription == subscription)
    }

    /// Whether everything that there was news of has been read.
    pub fn is_read(&self) -> bool {
        let followed = self.followed();
        followed.all.iter().all(|all| !all.due) && followed.runs.iter().all(|run| !run.due)
    }

    /// Looks what there is news of.
    pub fn look(&self) {
        let mut followed = self.followed();
        if let Some(all) = &mut followed.all {
            all.due = true;
        }
        for run in &mut followed.runs {
            if let Some(news) = run.following.news() {
                run.ended |= news.ended;
                run.due = true;
            }
        }
        self.changed.notify_one();
    }

    /// What is to be read next: each run in turn.
    fn due(&self) -> Option<Due> {
        let mut followed = self.followed();
        if let Some(all) = followed.all.as_ref().filter(|all| all.due) {
            let catching_up = all.after < all.live_from;
            return Some(Due { subscription: all.subscription, catching_up, from: From::All(all.after, all.read) });
        }
        let turn = followed.runs.iter().position(|run| run.due)?;
        followed.runs.rotate_left(turn);
        let run = followed.runs.pop_front()?;
        let catching_up = run.after < run.live_from;
        let due = Due { subscription: run.subscription, catching_up, from: From::Run(run.run, run.after) };
        followed.runs.push_back(run);
        Some(due)
    }

    /// Notes how far a run was read. An empty page says that there is nothing more for now.
    fn read_run(&self, subscription: u64, last: Option<u64>, terminal: bool) {
        let mut followed = self.followed();
        followed.runs.retain_mut(|run| {
            if run.subscription != subscription {
                return true;
            }
            match last {
                Some(seq) => run.after = seq,
                None => run.due = false,
            }
            !(terminal || last.is_none() && run.ended)
        });
    }

    fn read_all(&self, subscription: u64, last: Option<FeedPlace>, read: ReadTo) {
        let mut followed = self.followed();
        if let Some(all) = followed.all.as_mut().filter(|all| all.subscription == subscription) {
            all.read = read;
            match last {
                Some(place) => all.after = place,
                None => all.due = false,
            }
        }
    }
}

/// Reads what is followed into the socket's queue, for as long as the socket lives. Ends when storage fails.
pub(super) async fn pump(
    api: &Api,
    scope: &Scope,
    subscriptions: &Subscriptions,
    outlet: &Outlet,
    news: &mut FollowingUser,
) -> StorageError {
    loop {
        let Some(due) = subscriptions.due() else {
            tokio::select! {
                () = news.changed() => subscriptions.look(),
                () = subscriptions.changed.notified() => {}
            }
            continue;
        };
        outlet.readable(due.catching_up).await;
        let read = match due.from {
            From::Run(run, after) => read_run(api, scope, subscriptions, outlet, due.subscription, run, after).await,
            From::All(after, read) => {
                read_all(api, scope, subscriptions, outlet, due.subscription, (after, read)).await
            }
        };
        if let Err(error) = read {
            return error;
        }
    }
}

async fn read_run(
    api: &Api,
    scope: &Scope,
    subscriptions: &Subscriptions,
    outlet: &Outlet,
    subscription: u64,
    run: RunId,
    after: u64,
) -> Result<(), StorageError> {
    let storage = api.runtime.storage();
    let page = storage.events(scope, run, after, PAGE).await?;
    // A run that ended and has no more may have been removed before a slow reader was there.
    let removed = page.is_empty() && subscriptions.has_ended(subscription) && storage.run(scope, run).await?.is_none();
    if !subscriptions.holds(subscription) {
        return Ok(());
    }
    if removed {
        let told = Answer::Removed { run_id: Some(run), cursor: None }.text();
        // Of priority 1: it is not left out, and waits for room.
        if outlet.offer(Outgoing { run, seq: after, priority: 1, text: told }) {
            subscriptions.read_run(subscription, None, true);
        }
        return Ok(());
    }
    let (mut last, mut terminal) = (None, false);
    for envelope in &page {
        if !outlet.offer(outgoing(envelope, None)) {
            // What was not taken is read again when there is room.
            last = last.or(Some(after));
            break;
        }
        (last, terminal) = (Some(envelope.seq), envelope.event.is_terminal());
    }
    subscriptions.read_run(subscription, last, terminal);
    Ok(())
}

async fn read_all(
    api: &Api,
    scope: &Scope,
    subscriptions: &Subscriptions,
    outlet: &Outlet,
    subscription: u64,
    (after, mut read): (FeedPlace, ReadTo),
) -> Result<(), StorageError> {
    let page = api.runtime.storage().feed(scope, after, PAGE).await?;
    if !subscriptions.holds(subscription) {
        return Ok(());
    }
    let mut last = None;
    for entry in &page {
        if read.misses_before(entry) {
            let before = ReadTo::before(entry);
            let told = Answer::Removed { run_id: None, cursor: Some(cursor::of(scope, before)) }.text();
            let Envelope { run_id: run, seq, .. } = entry.envelope;
            if !outlet.offer(Outgoing { run, seq, priority: 1, text: told }) {
                last = last.or(Some(after));
                break;
            }
            read = ReadTo::place(before);
        }
        if !outlet.offer(outgoing(&entry.envelope, Some(&cursor::of(scope, entry.place)))) {
            last = last.or(Some(after));
            break;
        }
        (last, read) = (Some(entry.place), ReadTo::entry(entry));
    }
    subscriptions.read_all(subscription, last, read);
    Ok(())
}

fn outgoing(envelope: &Envelope, cursor: Option<&str>) -> Outgoing {
    let text = serde_json::to_string(envelope).unwrap_or_default();
    Outgoing {
        run: envelope.run_id,
        seq: envelope.seq,
        priority: envelope.event.priority(),
        text: frames::event(&text, cursor),
    }
}
