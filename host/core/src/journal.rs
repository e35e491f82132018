//! The only writer of what happened in a run: puts events in order, persists them, then tells whoever follows the run.
//!
//! Events of running guests are persisted together: a run's first event since the last commit puts the run on a list,
//! and one writer for the whole host commits the list every millisecond. A run that ends before then is committed by
//! its own last step, in the same transaction as its end, so that a short run costs one commit for all its events.
//! Followers are told only what is durable, and read it from storage.
//!
//! Beside its events, the journal keeps a record of the guest's calls to the host ([`crate::record`]), in chunks that are
//! persisted with the events.

use crate::{
    clock,
    context::UserExecutionContext,
    event::{Envelope, Event},
    identity::Scope,
    ids::{RunId, UserId},
    latency::{Latencies, LatencyCounts},
    pace::Written,
    record::RecordChunk,
    run::RunEnd,
    storage::{RunBatch, Start, Storage, StorageError, UnfinishedRun},
    unwind::unpanicked,
    wait::Wait,
};
use jiff::Timestamp;
use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

mod recorder;

use recorder::Calls;
pub use recorder::{Continued, RecordUnusable, Recorder};

/// How long the writer waits for more events before it commits. Long enough that most short runs never meet it, short
/// enough that a client sees an event within a few milliseconds.
const LINGER: Duration = Duration::from_millis(1);

/// How many bytes of one run's events may wait for a commit. At this mark the guest waits for storage, so that a guest
/// that emits faster than the disk writes cannot fill the host's memory. It is also what a commit of such a guest holds, and
/// how long the next run of another user waits behind it: a millisecond or two.
const PENDING_BYTES_MAX: usize = 16 << 10;

/// The longest wait between two attempts to persist the end of a run.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

/// The journal of the host.
#[derive(Clone)]
pub struct Journal(Arc<Shared>);

struct Shared {
    storage: Arc<dyn Storage>,
    followers: Followers<RunId, Committed>,
    user_followers: Followers<UserId, u64>,
    waiting: Mutex<Vec<RunJournal>>,
    wake: Notify,
    panics: AtomicU64,
    /// From when an event was recorded until it was durable and its followers were told.
    event_latency: Latencies,
}

/// The journal of one run.
#[derive(Clone)]
pub struct RunJournal(Arc<RunLog>);

struct RunLog {
    shared: Arc<Shared>,
    scope: Scope,
    run: RunId,
    /// One commit of this run at a time, so that its log has no holes whatever fails.
    committing: tokio::sync::Mutex<()>,
    log: Mutex<Log>,
    written: Written,
}

struct Log {
    next_seq: u64,
    started_at: Option<Timestamp>,
    /// It is durable that the run may have changed something outside itself.
    effects_saved: bool,
    /// What storage does not know yet.
    unsaved: Unsaved,
    /// How many bytes of that are with storage now. They come back if it fails.
    in_flight: usize,
    /// The run is on the writer's list.
    listed: bool,
    /// The last event is there. What a tool that nobody waited for says later is not part of the run.
    sealed: bool,
    calls: Calls,
}

#[derive(Default)]
struct Unsaved {
    started: bool,
    /// Another attempt begins.
    attempt: Option<u32>,
    effects: bool,
    bytes: usize,
    events: Vec<Envelope>,
    /// Chunks of the record that are full, or that a commit failed to save. Kept as they were: it may have saved them after all.
    chunks: Vec<RecordChunk>,
    /// Where a commit may end before the rest: how many events and chunks come before each such place.
    cuts: VecDeque<Cut>,
    /// The run is put away behind all of this.
    wait: Option<Wait>,
    /// What this host does with a run of an earlier one.
    start: Option<Start>,
}

/// A place in what storage does not know yet: what the run did before it is events and chunks before it.
#[derive(Debug, Clone, Copy)]
struct Cut {
    events: usize,
    chunks: usize,
    /// How many entries of the record before it say that something begins.
    begun: u64,
}

/// How far the log of a run is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// The last durable event.
    pub seq: u64,
    /// Whether it is the last of all.
    pub ended: bool,
}

impl Journal {
    /// A journal over a storage, with its writer. The writer ends when the journal is dropped everywhere.
    ///
    /// # Errors
    /// When the writer's thread cannot be made.
    pub fn new(storage: Arc<dyn Storage>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            storage,
            followers: Followers::default(),
            user_followers: Followers::default(),
            waiting: Mutex::new(Vec::new()),
            wake: Notify::new(),
            panics: AtomicU64::new(0),
            event_latency: Latencies::default(),
        });
        start_writer(&shared)?;
        Ok(Self(shared))
    }

    /// How long events took from being recorded to being durable and told, since the start.
    #[must_use]
    pub fn event_latency(&self) -> LatencyCounts {
        self.0.event_latency.counts()
    }

    /// Begins the log of an admitted run with its `agent_started`.
    #[must_use]
    pub fn open(&self, ctx: &UserExecutionContext, started_at: Timestamp, throttled: Duration) -> RunJournal {
        let spec = ctx.spec();
        let journal = self.of_run(ctx.scope(), spec.id, 1, Some(started_at), ctx.written().clone());
        {
            let calls = &mut journal.log().calls;
            calls.bytes_max = ctx.quota().record_bytes_per_run;
            calls.told_as(spec.durability, ctx.stop());
        }
        journal.record_into(journal.log(), Event::started(&spec.agent, &spec.digest, throttled), started_at);
        journal
    }

    /// Goes on with the log of a run that is executed again up to where it was, and further.
    #[must_use]
    pub fn go_on(&self, ctx: &UserExecutionContext, run: &UnfinishedRun, continued: &Continued) -> RunJournal {
        let journal = self.of_run(ctx.scope(), run.id, run.last_seq + 1, run.started_at, ctx.written().clone());
        {
            let mut log = journal.log();
            // It is running again with the first commit.
            log.unsaved = Unsaved { started: true, ..Unsaved::default() };
            log.effects_saved = run.effects;
            log.calls = Calls::after(continued, ctx.quota().record_bytes_per_run);
            log.calls.told_as(ctx.spec().durability, ctx.stop());
            if let Some(attempt) = continued.begins {
                log.unsaved.attempt = Some(attempt);
                log.unsaved.bytes += log.calls.attempt(attempt);
            }
        }
        journal
    }

    /// Goes on with the log of a run that is not executing: one that never was, or was cut off with the host.
    #[must_use]
    pub fn reopen(&self, scope: Scope, run: &UnfinishedRun) -> RunJournal {
        let journal = self.of_run(scope, run.id, run.last_seq + 1, run.started_at, Written::default());
        journal.log().unsaved = Unsaved::default();
        journal
    }

    /// How often the writer panicked since the start. Anything but 0 is a bug of the host.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.0.panics.load(Ordering::Relaxed)
    }

    fn of_run(
        &self,
        scope: Scope,
        run: RunId,
        next_seq: u64,
        started_at: Option<Timestamp>,
        written: Written,
    ) -> RunJournal {
        let unsaved = Unsaved { started: started_at.is_some(), ..Unsaved::default() };
        RunJournal(Arc::new(RunLog {
            shared: self.0.clone(),
            scope,
            run,
            committing: tokio::sync::Mutex::new(()),
            log: Mutex::new(Log {
                next_seq,
                started_at,
                effects_saved: false,
                unsaved,
                in_flight: 0,
                listed: false,
                sealed: false,
                calls: Calls::default(),
            }),
            written,
        }))
    }

    /// Follows a run: the receiver learns how far its log is durable, from now on. Read storage after subscribing, and
    /// again whenever the number grows, and nothing is missed.
    #[must_use]
    pub fn follow(&self, run: RunId) -> Following {
        let receiver = Some(self.0.followers.subscribe(run));
        Following { shared: self.0.clone(), run, receiver }
    }

    /// Follows all runs of a user: the receiver learns that there was a commit, from now on. Read the user's feed after
    /// subscribing, and again at each news, and nothing is missed.
    #[must_use]
    pub fn follow_user(&self, scope: &Scope) -> FollowingUser {
        let receiver = Some(self.0.user_followers.subscribe(scope.user().clone()));
        FollowingUser { shared: self.0.clone(), user: scope.user().clone(), receiver }
    }
}

/// Commits what is on the list, every [`LINGER`] while there is something.
///
/// On a thread of its own, which can sleep for exactly so long: the timers of an async runtime count whole milliseconds and
/// round up, which made a client wait for twice as long. Nor does a commit wait there behind other tasks.
fn start_writer(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("journal".into()).spawn(move || runtime.block_on(write_all(weak)))?;
    Ok(())
}

async fn write_all(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        // The wait ends now and then, so that a dropped journal does not keep its writer.
        if tokio::time::timeout(Duration::from_secs(1), shared.wake.notified()).await.is_err() {
            continue;
        }
        std::thread::sleep(LINGER);
        let runs = std::mem::take(&mut *lock(&shared.waiting));
        let commits = runs.iter().map(|run| async {
            // There is no other writer: what goes wrong with one run must not end it for all.
            if unpanicked(run.commit_listed()).await.is_none() {
                shared.panics.fetch_add(1, Ordering::Relaxed);
            }
        });
        join_all(commits).await;
    }
}

/// Waits for all of them side by side, so that storage can take them in one transaction.
async fn join_all(work: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut work: Vec<_> = work.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        work.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if work.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

impl RunJournal {
    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.0.log)
    }

    /// Records an event, to be durable and seen within a few milliseconds.
    ///
    /// # Errors
    /// When so much is waiting for storage that it has to be written first, and storage fails.
    pub async fn append(&self, event: Event) -> Result<(), StorageError> {
        // Boxed, because each call of a guest that says something holds this future, and hardly ever commits.
        if self.record(event) >= PENDING_BYTES_MAX { Box::pin(self.commit()).await } else { Ok(()) }
    }

    /// Records an event without waiting, however much is waiting for storage: for callers who cannot wait, and who
    /// ask [`is_full`](Self::is_full) first.
    pub fn append_now(&self, event: Event) {
        self.record(event);
    }

    /// Whether so much is waiting for storage that nothing should be recorded before [`relieve`](Self::relieve).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.log().unsaved.bytes >= PENDING_BYTES_MAX
    }

    /// Waits until there is room.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn relieve(&self) -> Result<(), StorageError> {
        if self.is_full() { self.commit().await } else { Ok(()) }
    }

    /// Records an event and says how many bytes wait for storage.
    fn record(&self, event: Event) -> usize {
        self.record_into(self.log(), event, clock::now())
    }

    fn record_into(&self, mut log: MutexGuard<'_, Log>, event: Event, at: Timestamp) -> usize {
        if log.sealed {
            return 0;
        }
        let seq = log.next_seq;
        log.next_seq += 1;
        let bytes = event.bytes();
        log.unsaved.bytes += bytes;
        self.0.written.add(bytes);
        log.unsaved.events.push(Envelope { seq, run_id: self.0.run, at, event });
        let bytes = log.unsaved.bytes;
        self.list(log);
        bytes
    }

    /// Puts the run on the writer's list.
    fn list(&self, mut log: MutexGuard<'_, Log>) {
        if !std::mem::replace(&mut log.listed, true) {
            drop(log);
            let mut waiting = lock(&self.0.shared.waiting);
            waiting.push(self.clone());
            if waiting.len() == 1 {
                drop(waiting);
                self.0.shared.wake.notify_one();
            }
        }
    }

    /// Takes the run from the writer's list for good: its own last step writes what is left.
    fn unlist(&self) {
        if std::mem::replace(&mut self.log().listed, true) {
            let mut waiting = lock(&self.0.shared.waiting);
            // No longer than there are runs, and those that are still to be looked for came last.
            if let Some(place) = waiting.iter().rposition(|run| Arc::ptr_eq(&run.0, &self.0)) {
                waiting.swap_remove(place);
            }
        }
    }

    /// Makes it durable that the run has begun and is about to change something outside itself, and what its record says
    /// has begun. After a crash such a run is never executed again, its end says that its outcome is unknown, and its record
    /// which changes that is about.
    ///
    /// # Errors
    /// When storage fails. Then the effect must not happen.
    pub async fn before_effect(&self) -> Result<(), StorageError> {
        {
            let mut log = self.log();
            if log.effects_saved && log.calls.begun_saved == log.calls.begun {
                return Ok(());
            }
            log.unsaved.effects |= !log.effects_saved;
        }
        self.commit().await
    }

    /// Makes it durable that the run is executed from here on, of one that an earlier host accepted: should this host end with
    /// it, the next one knows that it was at it.
    ///
    /// # Errors
    /// When storage fails. Then it must not be executed.
    pub async fn before_start(&self) -> Result<(), StorageError> {
        self.log().unsaved.start = Some(Start::At(clock::now()));
        self.commit().await
    }

    /// Whether the run may have changed something outside itself.
    #[must_use]
    pub fn had_effects(&self) -> bool {
        let log = self.log();
        log.effects_saved || log.unsaved.effects
    }

    /// Lets nothing more into the log but the last event, and gives how many events there will be with it. A tool that
    /// nobody waited for may still have something to say; it is not part of the run any more.
    #[must_use]
    pub fn seal(&self) -> u64 {
        let mut log = self.log();
        log.sealed = true;
        log.next_seq
    }

    /// Makes durable all that has been recorded. A guest's call can be dropped at any moment, when its run is stopped;
    /// what was taken out of the journal for storage must then still arrive, or the log would have a hole.
    #[expect(clippy::disallowed_methods, reason = "a commit ends by itself, with or without whoever waits for it")]
    async fn commit(&self) -> Result<(), StorageError> {
        let journal = self.clone();
        match tokio::spawn(async move { journal.commit_here().await }).await {
            Ok(done) => done,
            Err(error) => Err(StorageError { doing: "save events", source: error.into() }),
        }
    }

    /// The writer's commit.
    async fn commit_listed(&self) {
        self.log().listed = false;
        if let Err(error) = self.commit_here().await {
            // The events stay with the run, which hears of it at its next commit; its end is retried.
            tracing::error!(run = %self.0.run, error = %error, source = ?error.source, "events are not saved yet");
        }
    }

    /// The commit itself, for callers that are never dropped in the middle.
    async fn commit_here(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.0.committing.lock().await;
        if self.commit_cuts().await? && self.log().unsaved.wait.is_none() {
            return Ok(());
        }
        let taken = self.take();
        let batch = &taken.batch;
        let nothing = batch.events.is_empty() && batch.chunks.is_empty() && batch.wait.is_none();
        if nothing && batch.started_at.is_none() && batch.start.is_none() && !batch.effects {
            return Ok(());
        }
        self.0.shared.storage.append(&self.0.scope, batch.clone()).await?;
        taken.saved(None);
        Ok(())
    }

    /// Commits a long record piece by piece, as long as it is now, so that commits of others go between. Says whether it was
    /// long; what is not is left.
    async fn commit_cuts(&self) -> Result<bool, StorageError> {
        let pieces = {
            let mut log = self.log();
            if log.unsaved.cuts.is_empty() {
                return Ok(false);
            }
            log.cut();
            log.unsaved.cuts.len()
        };
        for _ in 0..pieces {
            let Some(taken) = self.take_cut() else { break };
            self.0.shared.storage.append(&self.0.scope, taken.batch.clone()).await?;
            taken.saved(None);
        }
        Ok(true)
    }

    /// Puts the run away, with the event that tells of it, in one step; a long record goes before it in pieces. Nothing is recorded
    /// after it. Tries until storage takes it, as the end does.
    pub async fn put_away(&self, event: Event, wait: Wait) {
        {
            let mut log = self.log();
            log.calls.tell_what_was_said();
            log.unsaved.wait = Some(wait);
            self.record_into(log, event, clock::now());
            self.log().sealed = true;
        }
        let mut retry = Duration::from_millis(50);
        while let Err(error) = self.commit_here().await {
            tracing::error!(run = %self.0.run, error = %error, source = ?error.source, "a run is not put away yet; trying again");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_WAIT_MAX);
        }
    }

    /// Leaves the run as it stands, for a host that goes on with it. Nothing is recorded after it.
    pub async fn leave(&self) {
        {
            let mut log = self.log();
            log.sealed = true;
            log.unsaved.start = Some(Start::Left);
        }
        // What is not saved is done again: nobody has seen it.
        let _ = self.commit_here().await;
    }

    /// Ends the run: its last event, its end and whatever was not yet durable, in one step but for a long record, which goes
    /// before it in pieces. Tries until storage takes
    /// it, because a run that has ended must not be lost to a full disk; meanwhile the run keeps its slot, so that a
    /// host whose storage is gone comes to rest.
    pub async fn close(&self, event: Event, end: RunEnd) {
        let mut wait = Duration::from_millis(50);
        let last = {
            self.unlist();
            let mut log = self.log();
            log.sealed = true;
            let seq = log.next_seq;
            log.next_seq += 1;
            Envelope { seq, run_id: self.0.run, at: end.finished_at, event }
        };
        loop {
            let one_at_a_time = self.0.committing.lock().await;
            // What fails here is tried again with the end.
            let _ = self.commit_cuts().await;
            let taken = self.take();
            // The last event is never put back into the log: a commit that was under way for the run would make it durable
            // without the end, and followers would be told of an end that a crash then takes back.
            let batch = taken.batch.with(&last);
            match self.0.shared.storage.finish(&self.0.scope, batch, end.clone()).await {
                Ok(()) => return taken.saved(Some(&last)),
                Err(error) => {
                    drop((taken, one_at_a_time));
                    tracing::error!(run = %self.0.run, error = %error, source = ?error.source, "the end of a run is not saved yet; trying again");
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
    }

    /// All that storage does not know yet.
    fn take(&self) -> Taken<'_> {
        let mut log = self.log();
        let mut unsaved = std::mem::take(&mut log.unsaved);
        unsaved.chunks.extend(log.calls.take_chunk());
        let begun = log.calls.begun;
        self.taken(log, unsaved, begun)
    }

    /// The part of it before the first cut, if there is one. That the run waits is told behind all of it.
    fn take_cut(&self) -> Option<Taken<'_>> {
        let mut log = self.log();
        let cut = log.unsaved.cuts.pop_front()?;
        let mut unsaved = std::mem::take(&mut log.unsaved);
        let (events, chunks) = (unsaved.events.split_off(cut.events), unsaved.chunks.split_off(cut.chunks));
        log.unsaved.cuts = std::mem::take(&mut unsaved.cuts);
        for later in &mut log.unsaved.cuts {
            later.events -= cut.events;
            later.chunks -= cut.chunks;
        }
        (log.unsaved.events, log.unsaved.chunks, log.unsaved.wait) = (events, chunks, unsaved.wait.take());
        log.unsaved.bytes = log.bytes_unsaved();
        unsaved.bytes = unsaved.bytes.saturating_sub(log.unsaved.bytes);
        Some(self.taken(log, unsaved, cut.begun))
    }

    fn taken(&self, mut log: MutexGuard<'_, Log>, unsaved: Unsaved, begun: u64) -> Taken<'_> {
        log.in_flight = unsaved.bytes;
        let batch = RunBatch {
            run: self.0.run,
            started_at: log.started_at.filter(|_| unsaved.started),
            attempt: unsaved.attempt,
            effects: unsaved.effects,
            events: unsaved.events,
            chunks: unsaved.chunks,
            wait: unsaved.wait,
            start: unsaved.start,
        };
        Taken { journal: self, batch, begun, saved: false }
    }

    fn put_back(&self, batch: RunBatch) {
        let mut log = self.log();
        log.in_flight = 0;
        log.unsaved.started |= batch.started_at.is_some();
        log.unsaved.attempt = batch.attempt.or(log.unsaved.attempt);
        log.unsaved.effects |= batch.effects;
        let newer = std::mem::replace(&mut log.unsaved.events, batch.events);
        log.unsaved.events.extend(newer);
        let newer = std::mem::replace(&mut log.unsaved.chunks, batch.chunks);
        log.unsaved.chunks.extend(newer);
        // They come in one commit then: which of them may have been saved is not known.
        log.unsaved.cuts.clear();
        log.unsaved.wait = batch.wait.or(log.unsaved.wait.take());
        log.unsaved.start = log.unsaved.start.or(batch.start);
        log.unsaved.bytes = log.bytes_unsaved();
    }
}

impl Log {
    /// What comes from here on may be in another commit; but that the run waits is in one with the event that tells of it.
    fn cut(&mut self) {
        let Self { unsaved, calls, .. } = self;
        if unsaved.wait.is_some() {
            return;
        }
        unsaved.chunks.extend(calls.take_chunk());
        let cut = Cut { events: unsaved.events.len(), chunks: unsaved.chunks.len(), begun: calls.begun };
        if unsaved.cuts.back().is_none_or(|last| (last.events, last.chunks) != (cut.events, cut.chunks)) {
            unsaved.cuts.push_back(cut);
        }
    }

    fn bytes_unsaved(&self) -> usize {
        let events: usize = self.unsaved.events.iter().map(|envelope| envelope.event.bytes()).sum();
        let chunks: usize = self.unsaved.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        events + chunks + self.calls.chunk.bytes.len()
    }
}

/// What was taken out of a run's log for storage. The log has it back unless it was saved, also after a panic: it would
/// have a hole.
struct Taken<'a> {
    journal: &'a RunJournal,
    batch: RunBatch,
    /// How many of the record's entries say that something begins, up to here.
    begun: u64,
    saved: bool,
}

impl Taken<'_> {
    /// It is durable, together with the last event if there is one: tells followers.
    fn saved(mut self, last: Option<&Envelope>) {
        self.saved = true;
        let RunLog { shared, scope, run, .. } = &*self.journal.0;
        {
            let mut log = self.journal.log();
            log.in_flight = 0;
            log.effects_saved |= self.batch.effects;
            log.calls.begun_saved = self.begun;
        }
        if let Some(seq) = last.map(|last| last.seq).or(self.batch.last_seq()) {
            shared.followers.tell(run, |now| {
                now.seq = now.seq.max(seq);
                now.ended |= last.is_some();
            });
            // After the run's own followers: whoever follows both asks each run for its news at a user's.
            shared.user_followers.tell(scope.user(), |commits| *commits += 1);
            let now = clock::now().as_microsecond();
            for envelope in self.batch.events.iter().chain(last) {
                // A clock that was set back makes no event early.
                let took_us = u64::try_from(now - envelope.at.as_microsecond()).unwrap_or(0);
                shared.event_latency.took(Duration::from_micros(took_us));
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.saved {
            let none = RunBatch {
                run: self.batch.run,
                started_at: None,
                attempt: None,
                effects: false,
                events: Vec::new(),
                chunks: Vec::new(),
                wait: None,
                start: None,
            };
            self.journal.put_back(std::mem::replace(&mut self.batch, none));
        }
    }
}

/// Whoever waits for news of something.
struct Followers<K, V> {
    followed: Mutex<HashMap<K, watch::Sender<V>>>,
    /// So that what nobody follows pays one load.
    count: AtomicUsize,
}

impl<K, V> Default for Followers<K, V> {
    fn default() -> Self {
        Self { followed: Mutex::default(), count: AtomicUsize::new(0) }
    }
}

impl<K: Eq + Hash, V: Default> Followers<K, V> {
    fn subscribe(&self, key: K) -> watch::Receiver<V> {
        let mut followed = lock(&self.followed);
        let receiver = followed.entry(key).or_insert_with(|| watch::channel(V::default()).0).subscribe();
        self.count.store(followed.len(), Ordering::Release);
        receiver
    }

    fn tell(&self, key: &K, news: impl FnOnce(&mut V)) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(sender) = lock(&self.followed).get(key) {
            sender.send_modify(news);
        }
    }

    /// The last who leaves is the last to hold a receiver: it is let go under the lock, so that two who leave at once do
    /// not each see the other.
    fn leave(&self, key: &K, receiver: Option<watch::Receiver<V>>) {
        let mut followed = lock(&self.followed);
        drop(receiver);
        if followed.get(key).is_some_and(|sender| sender.receiver_count() == 0) {
            followed.remove(key);
        }
        self.count.store(followed.len(), Ordering::Release);
    }
}

/// Someone who follows a run. Dropping it ends the following.
pub struct Following {
    shared: Arc<Shared>,
    run: RunId,
    /// There until it is dropped.
    receiver: Option<watch::Receiver<Committed>>,
}

impl Following {
    /// Waits for news.
    pub async fn changed(&mut self) -> Committed {
        let Some(receiver) = &mut self.receiver else { return Committed::default() };
        // The sender lives while there are followers.
        let _ = receiver.changed().await;
        *receiver.borrow_and_update()
    }

    /// The news that there is now, if any.
    pub fn news(&mut self) -> Option<Committed> {
        let receiver = self.receiver.as_mut()?;
        receiver.has_changed().is_ok_and(|changed| changed).then(|| *receiver.borrow_and_update())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.shared.followers.leave(&self.run, self.receiver.take());
    }
}

/// Someone who follows all runs of a user. Dropping it ends the following.
pub struct FollowingUser {
    shared: Arc<Shared>,
    user: UserId,
    /// There until it is dropped.
    receiver: Option<watch::Receiver<u64>>,
}

impl FollowingUser {
    /// Waits for the next commit of any of the user's runs.
    pub async fn changed(&mut self) {
        let Some(receiver) = &mut self.receiver else { return };
        // The sender lives while there are followers.
        let _ = receiver.changed().await;
    }
}

impl Drop for FollowingUser {
    fn drop(&mut self) {
        self.shared.user_followers.leave(&self.user, self.receiver.take());
    }
}

/// The data under these locks is whole after each step, so that a panic elsewhere does not make it unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
