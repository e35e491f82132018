//! One user's bounded outlet of events to their sockets.
//!
//! An emitter exists while its user has a socket. Between what is read from storage and what a socket takes stands a
//! queue for each socket: when it is full, events of priority 4 are dropped, the oldest first, then those of priority 3,
//! and what was dropped is told in its place as a gap, which the client can fetch. Of priority 1 and 2 none is dropped:
//! when only those are left, reading from storage stops until the socket takes some. So a reader that is slow or stands
//! still costs a bounded amount of memory and holds up nobody.

use crate::{
    clock,
    fault::Fault,
    identity::{Operator, Scope},
    ids::{RunId, UserId},
};
use jiff::Timestamp;
use queue::{Dropped, Queue};
use serde::Serialize;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

mod queue;

pub use queue::{PATIENCE, QUEUE_BYTES_MAX, QUEUE_EVENTS_MAX};

/// How many bytes a socket is given at once, about; then it says what became of them.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// The user has as many sockets as they may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this user has {0} sockets open, which is as many as may be; close one, or follow more runs over one of them")]
pub struct TooManySockets(pub u32);

impl TooManySockets {
    /// For programs.
    pub const CODE: &'static str = "too_many_sockets";

    /// Always [`Fault::Exhausted`].
    #[must_use]
    pub const fn fault(self) -> Fault {
        Fault::Exhausted
    }
}

/// An event on its way to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Of which run.
    pub run: RunId,
    /// Its place in the run's log.
    pub seq: u64,
    /// From 1 to 4.
    pub priority: u8,
    /// The event as the socket sends it.
    pub text: String,
}

/// What a socket sends next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// An event.
    Event(Outgoing),
    /// Events of a run that were dropped, to be told in their place.
    Gap {
        /// Of which run.
        run: RunId,
        /// The first that was dropped.
        from: u64,
        /// The last.
        to: u64,
    },
}

/// How events have fared on their way to sockets.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct EventStats {
    /// Waiting for a socket now.
    pub queued: u64,
    /// Written to a socket.
    pub delivered: u64,
    /// Of those, by priority, from 1 to 4.
    pub delivered_by_priority: [u64; 4],
    /// Dropped for a reader that was too slow, of priority 3.
    pub dropped_priority_3: u64,
    /// Dropped for a reader that was too slow, of priority 4.
    pub dropped_priority_4: u64,
    /// Handed to a socket that could not be written to. They are read from storage again by whoever resumes.
    pub failed: u64,
    /// From queue to socket, on average.
    pub wait_ms_mean: f64,
    /// When a socket last took an event.
    pub last_delivery_at: Option<Timestamp>,
}

impl EventStats {
    /// Which part of what sockets were handed arrived there, from 0 to 1; 1 if there was nothing.
    #[must_use]
    pub fn success_rate(&self) -> f64 {
        let tried = self.delivered + self.failed;
        if tried == 0 { 1.0 } else { ratio(self.delivered, tried) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a statistic")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// How sockets have fared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ConnectionStats {
    /// Open now.
    pub sockets: u64,
    /// Opened, those open now included.
    pub opened: u64,
    /// Refused, because their user had as many as may be.
    pub refused: u64,
    /// Closed by the host, because they did not answer or did not take what was sent.
    pub reaped: u64,
}

/// Whether sockets take what they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// See [`Stats::is_healthy`].
    pub healthy: bool,
    /// Sockets whose oldest event has waited for longer than [`PATIENCE`].
    pub slow_sockets: u64,
    /// The longest that an event has been waiting now.
    pub oldest_wait_ms: u64,
}

/// How an emitter, or all of them, are doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Events.
    pub events: EventStats,
    /// Sockets.
    pub connections: ConnectionStats,
    /// Health.
    pub health: Health,
}

impl Stats {
    /// Whether at least half of the sockets take what they are sent within [`PATIENCE`]. One that does not is its
    /// client's affair; when most do not, the host or the network is the likelier cause.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.health.healthy
    }
}

/// What has been counted, of one user or of all.
#[derive(Debug, Default)]
struct Counted {
    events: EventStats,
    waited: Duration,
    connections: ConnectionStats,
}

/// The emitters of all users who have sockets.
#[derive(Debug, Default)]
pub struct Emitters {
    users: Mutex<HashMap<UserId, Arc<Emitter>>>,
    /// Over all users, those who have no sockets any more included.
    all: Mutex<Counted>,
}

/// One user's emitter.
#[derive(Debug, Default)]
struct Emitter {
    lines: Mutex<Vec<Arc<Line>>>,
    counted: Mutex<Counted>,
}

/// What waits for one socket.
#[derive(Debug, Default)]
struct Line {
    queue: Mutex<Queue>,
    /// Something has been queued.
    filled: Notify,
    /// The socket has taken something.
    taken: Notify,
    /// What the socket has taken is not written yet.
    in_flight: AtomicBool,
}

/// One socket's place with its user's emitter, given back on drop.
#[derive(Debug)]
pub struct Outlet {
    emitters: Arc<Emitters>,
    user: UserId,
    emitter: Arc<Emitter>,
    line: Arc<Line>,
}

impl Emitters {
    /// Takes a place for one more socket.
    ///
    /// # Errors
    /// When the user has `sockets_max` open, as the quota has it: a few windows or programs. One socket carries any
    /// number of runs.
    pub fn open(self: &Arc<Self>, scope: &Scope, sockets_max: u32) -> Result<Outlet, TooManySockets> {
        let mut users = lock(&self.users);
        let emitter = users.entry(scope.user().clone()).or_default().clone();
        let mut lines = lock(&emitter.lines);
        let room = lines.len() < sockets_max as usize;
        for counted in [&self.all, &emitter.counted] {
            let connections = &mut lock(counted).connections;
            *(if room { &mut connections.opened } else { &mut connections.refused }) += 1;
        }
        if !room {
            return Err(TooManySockets(sockets_max));
        }
        let line = Arc::<Line>::default();
        lines.push(line.clone());
        drop(lines);
        Ok(Outlet { emitters: self.clone(), user: scope.user().clone(), emitter, line })
    }

    /// How the user's own emitter is doing. All zero without a socket: an emitter is gone with its last one.
    #[must_use]
    pub fn user_stats(&self, scope: &Scope) -> Stats {
        let emitter = lock(&self.users).get(scope.user()).cloned().unwrap_or_default();
        let lines = lock(&emitter.lines).clone();
        stats(&lock(&emitter.counted), &lines)
    }

    /// How all emitters are doing together, since the start.
    #[must_use]
    pub fn stats(&self, _operator: Operator) -> Stats {
        let lines: Vec<_> = lock(&self.users).values().flat_map(|emitter| lock(&emitter.lines).clone()).collect();
        stats(&lock(&self.all), &lines)
    }
}

fn stats(counted: &Counted, lines: &[Arc<Line>]) -> Stats {
    let now = Instant::now();
    let mut events = counted.events.clone();
    let (mut slow_sockets, mut oldest) = (0_u64, Duration::ZERO);
    for line in lines {
        let queue = lock(&line.queue);
        events.queued += queue.len() as u64;
        let wait = queue.oldest_wait(now);
        slow_sockets += u64::from(wait > PATIENCE);
        oldest = oldest.max(wait);
    }
    if events.delivered > 0 {
        events.wait_ms_mean = counted.waited.as_secs_f64() * 1_000.0 / ratio(events.delivered, 1);
    }
    let sockets = lines.len() as u64;
    Stats {
        events,
        connections: ConnectionStats { sockets, ..counted.connections.clone() },
        health: Health { healthy: slow_sockets * 2 <= sockets, slow_sockets, oldest_wait_ms: millis(oldest) },
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Outlet {
    /// Queues an event. Not taken if the queue holds only what may not be dropped: then it is to be read again later.
    #[must_use]
    pub fn offer(&self, event: Outgoing) -> bool {
        let offered = lock(&self.line.queue).offer(event, Instant::now());
        let taken = offered.is_ok();
        let (Ok(dropped) | Err(dropped)) = offered;
        if dropped != Dropped::default() {
            let [four, three] = dropped;
            self.count(|counted| {
                counted.events.dropped_priority_4 += four;
                counted.events.dropped_priority_3 += three;
            });
        }
        if taken {
            self.line.filled.notify_one();
        }
        taken
    }

    /// Lets go of what waits of a run, or of everything: the socket does not follow that any more, or from another place.
    pub fn forget(&self, run: Option<RunId>) {
        lock(&self.line.queue).forget(run);
        self.line.taken.notify_one();
    }

    /// Waits until more should be read from storage. While `catching_up` with what had happened before, the reader sets
    /// the pace and nothing is dropped; from then on a reader that is too slow is left behind.
    pub async fn readable(&self, catching_up: bool) {
        loop {
            let taken = self.line.taken.notified();
            let wait = lock(&self.line.queue).read_in(catching_up, Instant::now());
            match wait {
                Some(Duration::ZERO) => return,
                Some(wait) => {
                    // Either is a reason to look again.
                    let _ = tokio::time::timeout(wait, taken).await;
                }
                None => taken.await,
            }
        }
    }

    /// Waits for something to send, and takes some of it.
    pub async fn next(&self) -> Batch<'_> {
        loop {
            let filled = self.line.filled.notified();
            let batch = self.take();
            if !batch.items.is_empty() {
                self.line.taken.notify_one();
                return batch;
            }
            filled.await;
        }
    }

    fn take(&self) -> Batch<'_> {
        let mut queue = lock(&self.line.queue);
        let mut batch = Batch { outlet: self, items: Vec::new(), by_priority: [0; 4], waited: Duration::ZERO };
        let (now, mut bytes) = (Instant::now(), 0);
        while bytes < BATCH_BYTES_MAX {
            let Some((next, waited)) = queue.take(now) else { break };
            if let Next::Event(event) = &next {
                bytes += event.text.len();
                batch.waited += waited;
                if let Some(count) = batch.by_priority.get_mut(usize::from(event.priority.saturating_sub(1))) {
                    *count += 1;
                }
            }
            batch.items.push(next);
        }
        self.line.in_flight.store(!batch.items.is_empty(), Ordering::Release);
        batch
    }

    /// Whether all that was queued has been written, or has failed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        lock(&self.line.queue).len() == 0 && !self.line.in_flight.load(Ordering::Acquire)
    }

    /// Notes that the host closes the socket, because nobody seems to be there.
    pub fn reaped(&self) {
        self.count(|counted| counted.connections.reaped += 1);
    }

    fn count(&self, change: impl Fn(&mut Counted)) {
        change(&mut lock(&self.emitter.counted));
        change(&mut lock(&self.emitters.all));
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // Under the lock of all users, so that nobody takes a place with an emitter that is just being forgotten.
        let mut users = lock(&self.emitters.users);
        let mut lines = lock(&self.emitter.lines);
        lines.retain(|line| !Arc::ptr_eq(line, &self.line));
        if lines.is_empty() {
            users.remove(&self.user);
        }
    }
}

/// What a socket sends at once. Dropped before it was [`delivered`](Self::delivered), it counts as failed.
#[derive(Debug)]
pub struct Batch<'a> {
    outlet: &'a Outlet,
    items: Vec<Next>,
    by_priority: [u64; 4],
    waited: Duration,
}

impl Batch<'_> {
    /// What to send, once.
    pub fn items(&mut self) -> Vec<Next> {
        std::mem::take(&mut self.items)
    }

    /// Notes that all of it has been written to the socket.
    pub fn delivered(mut self) {
        let by_priority = std::mem::take(&mut self.by_priority);
        let (waited, at) = (self.waited, clock::now());
        self.outlet.count(|counted| {
            let events = &mut counted.events;
            events.delivered += by_priority.iter().sum::<u64>();
            for (all, more) in events.delivered_by_priority.iter_mut().zip(by_priority) {
                *all += more;
            }
            events.last_delivery_at = Some(at);
            counted.waited += waited;
        });
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.outlet.line.in_flight.store(false, Ordering::Release);
        let failed = self.by_priority.iter().sum::<u64>();
        if failed > 0 {
            self.outlet.count(|counted| counted.events.failed += failed);
        }
    }
}

/// The data under these locks is whole after each step, so that a panic elsewhere does not make it unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(user: &str) -> Scope {
        Operator::host().on_behalf_of(&user.parse().expect("a user"))
    }

    fn event(seq: u64, priority: u8) -> Outgoing {
        Outgoing { run: RunId::generate(), seq, priority, text: "x".into() }
    }

    #[test]
    fn a_user_has_three_sockets_and_an_emitter_while_there_is_one() {
        let emitters = Arc::new(Emitters::default());
        let (ann, bob) = (scope("ann"), scope("bob"));
        let mut sockets: Vec<_> = (0..3).map(|_| emitters.open(&ann, 3).expect("a place")).collect();
        assert_eq!(emitters.open(&ann, 3).err(), Some(TooManySockets(3)));
        let his = emitters.open(&bob, 3).expect("his places are his own");
        sockets.pop();
        sockets.push(emitters.open(&ann, 3).expect("a place that was given back"));
        let hers = emitters.user_stats(&ann).connections;
        assert_eq!((hers.sockets, hers.opened, hers.refused), (3, 4, 1));
        assert_eq!(emitters.user_stats(&bob).connections.opened, 1);
        drop((sockets, his));
        assert!(lock(&emitters.users).is_empty(), "nobody is remembered");
        assert_eq!(emitters.user_stats(&ann).connections, ConnectionStats::default());
        let all = emitters.stats(Operator::host()).connections;
        assert_eq!((all.sockets, all.opened, all.refused), (0, 5, 1), "the sums stay");
    }

    #[tokio::test]
    async fn what_is_written_counts_as_delivered_and_what_is_let_go_of_as_failed() {
        let emitters = Arc::new(Emitters::default());
        let ann = scope("ann");
        let outlet = emitters.open(&ann, 3).expect("a place");
        for seq in 1..=4 {
            assert!(outlet.offer(event(seq, u8::try_from(seq).expect("small"))));
        }
        assert_eq!(emitters.user_stats(&ann).events.queued, 4);
        let mut batch = outlet.next().await;
        assert_eq!(batch.items().len(), 4);
        assert!(!outlet.is_idle(), "it is not written yet");
        batch.delivered();
        assert!(outlet.is_idle());
        assert!(outlet.offer(event(5, 1)));
        drop(outlet.next().await);
        for stats in [emitters.user_stats(&ann), emitters.stats(Operator::host())] {
            let events = stats.events;
            assert_eq!((events.queued, events.delivered, events.failed), (0, 4, 1));
            assert_eq!(events.delivered_by_priority, [1; 4]);
            assert!(events.last_delivery_at.is_some());
            assert!((events.success_rate() - 0.8).abs() < 1e-9);
            assert!(stats.health.healthy);
        }
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_is_seen_and_is_given_up_waiting_for() {
        let emitters = Arc::new(Emitters::default());
        let ann = scope("ann");
        let outlet = emitters.open(&ann, 3).expect("a place");
        let mut log = (1..).map(|seq| Outgoing { seq, ..event(1, 4) });
        let run = RunId::generate();
        let mut next = |priority| log.next().map(|event| Outgoing { run, priority, ..event }).expect("endless");
        while emitters.user_stats(&ann).events.dropped_priority_4 == 0 {
            outlet.readable(false).await;
            assert!(outlet.offer(next(4)));
        }
        assert!(!emitters.user_stats(&ann).is_healthy(), "its only socket is slow");
        while outlet.offer(next(2)) {}
        let waiting = tokio::time::timeout(2 * PATIENCE, outlet.readable(false)).await;
        assert!(waiting.is_err(), "with only what may not be dropped, reading waits for the socket");
        let mut batch = outlet.next().await;
        assert!(!batch.items().is_empty());
        batch.delivered();
        outlet.readable(false).await;
    }
}
