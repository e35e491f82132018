//! Storage in memory: for tests, benches and the `run` verb. Nothing outlives the process.

use super::*;
use crate::{
    quota::STATE_KEY_OVERHEAD_BYTES,
    run::StopReason,
    usage::USAGE_DAYS_PRUNED_AT_ONCE_MAX,
    wait::{Answer, Answered, StoredWait, WaitFor},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Storage in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    runs: Runs,
    rooms: Rooms,
    logs: HashMap<UserId, UserLog>,
    state: BTreeMap<StateKey, StateValue>,
    state_bytes: HashMap<UserId, u64>,
    state_version: u64,
    plugins: Vec<PluginVersion>,
    grants: HashMap<(UserId, PluginName), Permissions>,
    tiers: BTreeMap<TierName, QuotaEdit>,
    user_quotas: BTreeMap<UserId, UserQuota>,
    keys: HashMap<Digest, ApiKey>,
    once: HashMap<(UserId, Creating, Digest), Record>,
    /// By day first: the order in which they are forgotten.
    usage: BTreeMap<(Day, UserId), UsageSum>,
}

/// All runs, side by side. Each by itself, between what every run allocates and frees, would leave holes that nothing fits
/// into, and the search for room would cost each run more than all else that is done here.
#[derive(Debug, Default)]
struct Runs {
    places: BTreeMap<RunId, usize>,
    runs: Vec<Option<Run>>,
    free: Vec<usize>,
}

impl Runs {
    fn get(&self, id: RunId) -> Option<&Run> {
        self.runs.get(*self.places.get(&id)?)?.as_ref()
    }

    fn get_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.runs.get_mut(*self.places.get(&id)?)?.as_mut()
    }

    fn insert(&mut self, run: Run) {
        let place = self.free.pop().unwrap_or(self.runs.len());
        self.places.insert(run.spec.id, place);
        match self.runs.get_mut(place) {
            Some(free) => *free = Some(run),
            None => self.runs.push(Some(run)),
        }
    }

    fn remove(&mut self, id: RunId) -> Option<Run> {
        let place = self.places.remove(&id)?;
        self.free.push(place);
        self.runs.get_mut(place)?.take()
    }

    /// The oldest first.
    fn values(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.places.values().filter_map(|place| self.runs.get(*place)?.as_ref())
    }
}

/// Room for the events of runs to come, made many at a time for the same reason.
#[derive(Debug, Default)]
struct Rooms(Vec<Vec<Envelope>>);

/// How many events most runs have at most, and how many rooms are made at a time.
const ROOM_EVENTS: usize = 4;
const ROOMS_MADE: usize = 64;

impl Rooms {
    fn fill(&mut self, events: Vec<Envelope>) -> Vec<Envelope> {
        if events.len() > ROOM_EVENTS {
            return events;
        }
        if self.0.is_empty() {
            self.0.extend((0..ROOMS_MADE).map(|_| Vec::with_capacity(ROOM_EVENTS)));
        }
        let mut room = self.0.pop().unwrap_or_default();
        room.extend(events);
        room
    }
}

/// What is kept of all runs of a user together.
#[derive(Debug, Default)]
struct UserLog {
    /// The commits in order.
    feed: Vec<Commit>,
    /// What finished runs take.
    history: History,
}

/// What is remembered of a request that made something once.
#[derive(Debug)]
struct Record {
    earlier: Earlier,
    expires_at: Timestamp,
}

#[derive(Debug)]
struct Run {
    spec: RunSpec,
    /// Once it is admitted.
    started_at: Option<Timestamp>,
    cancel: Option<CancelRequest>,
    end: Option<RunEnd>,
    effects: bool,
    attempt: u32,
    events: Vec<Envelope>,
    record: Vec<RecordChunk>,
    waiting: Option<Box<Waiting>>,
    /// When it was started last, where its log and its record ended then, and how often it was since they did.
    start: Option<(Timestamp, u64, u32)>,
    /// Its last change of state, if it is durable.
    state_change: Option<(MadeBy, u64)>,
}

/// The wait that a run came to last, and whether it waits still.
#[derive(Debug)]
struct Waiting {
    stored: StoredWait,
    waits: bool,
}

impl Run {
    fn finished_at(&self) -> Option<Timestamp> {
        self.end.as_ref().map(|end| end.finished_at)
    }

    fn status(&self) -> RunStatus {
        match &self.end {
            Some(end) => end.stop_reason.status(),
            None if self.waits() => RunStatus::Waiting,
            None if self.started_at.is_some() => RunStatus::Running,
            None => RunStatus::Queued,
        }
    }

    fn view(&self) -> RunView {
        let queued = RunView {
            status: self.status(),
            started_at: self.started_at,
            attempt: self.attempt,
            cancel: self.cancel.clone(),
            wait: self.waiting.as_ref().filter(|waiting| waiting.waits).map(|waiting| waiting.stored.wait.clone()),
            ..RunView::queued(&self.spec)
        };
        match &self.end {
            Some(end) => queued.ended(end),
            None => queued,
        }
    }

    fn waits(&self) -> bool {
        self.end.is_none() && self.waiting.as_ref().is_some_and(|waiting| waiting.waits)
    }

    fn stored_wait(&self) -> Option<&StoredWait> {
        self.waiting.as_ref().map(|waiting| &waiting.stored)
    }

    fn unfinished(&self) -> UnfinishedRun {
        UnfinishedRun {
            id: self.spec.id,
            user: self.spec.user.clone(),
            agent: self.spec.agent.clone(),
            digest: self.spec.digest,
            thread: self.spec.thread.clone(),
            priority: self.spec.priority,
            durability: self.spec.durability,
            retries: self.spec.retries,
            attempt: self.attempt,
            parent: self.spec.parent,
            created_at: self.spec.created_at,
            status: self.status(),
            cancel: self.cancel.clone(),
            effects: self.effects,
            last_seq: self.events.last().map_or(0, |envelope| envelope.seq),
            started_at: self.started_at,
            starts: self.starts(),
        }
    }

    /// How far it has come: grows with its log and its record.
    fn progress(&self) -> u64 {
        let last_seq = self.events.last().map_or(0, |envelope| envelope.seq);
        last_seq + self.record.last().map_or(0, |chunk| chunk.number)
    }

    fn starts(&self) -> u32 {
        self.start.filter(|(_, progress, _)| *progress == self.progress()).map_or(0, |(.., starts)| starts)
    }

    fn bytes(&self) -> u64 {
        let output = self.end.as_ref().and_then(|end| end.output.as_ref());
        let texts = [Some(&self.spec.metadata), Some(&self.spec.input), output];
        let texts: usize = texts.into_iter().flatten().map(|text| text.as_str().len()).sum();
        let events = self.events.iter().map(|envelope| envelope.event.bytes() as u64 + EVENT_OVERHEAD_BYTES);
        let events: u64 = events.sum();
        let record: usize = self.record.iter().map(|chunk| chunk.bytes.len()).sum();
        RUN_OVERHEAD_BYTES + texts as u64 + events + record as u64
    }
}

/// The events of one run that were added in one step.
#[derive(Debug)]
struct Commit {
    run: RunId,
    seq_from: u64,
    seq_to: u64,
}

/// User, plugin, thread, key: the order in which keys are listed.
type StateKey = (UserId, PluginName, String, String);

#[derive(Debug)]
struct StateValue {
    value: Vec<u8>,
    version: u64,
    expires_at: Option<Timestamp>,
}

impl MemoryStorage {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// Whether a run has finished, and the one that started it is gone: as long as that is there, it may ask what became of
    /// the run, and its family's fuel and number are counted.
    fn may_go(&self, run: &Run) -> bool {
        run.finished_at().is_some() && run.spec.parent.is_none_or(|parent| self.runs.get(parent).is_none())
    }

    /// Removes a finished run.
    fn remove(&mut self, id: RunId) {
        let Some(run) = self.runs.remove(id) else { return };
        if let Some(UserLog { history: have, .. }) = self.logs.get_mut(&run.spec.user) {
            *have = History { runs: have.runs.saturating_sub(1), bytes: have.bytes.saturating_sub(run.bytes()) };
        }
    }

    fn run(&self, scope: &Scope, id: RunId) -> Option<&Run> {
        self.runs.get(id).filter(|run| run.spec.user == *scope.user())
    }

    /// Adds to the log of a run that has not ended, and perhaps its end.
    fn append(&mut self, scope: &Scope, batch: RunBatch, end: Option<RunEnd>) {
        let Some(run) = self.runs.get_mut(batch.run).filter(|run| run.spec.user == *scope.user()) else { return };
        if run.end.is_some() {
            return;
        }
        if batch.started_at.is_some()
            && let Some(waiting) = &mut run.waiting
        {
            waiting.waits = false;
        }
        if let Some(wait) = batch.wait {
            match &mut run.waiting {
                // Written again, it takes away no answer.
                Some(waiting) if waiting.stored.wait == wait => waiting.waits = true,
                _ => {
                    let stored = StoredWait { wait, answer: None };
                    run.waiting = Some(Box::new(Waiting { stored, waits: true }));
                }
            }
        }
        run.started_at = batch.started_at.or(run.started_at);
        run.attempt = batch.attempt.unwrap_or(run.attempt);
        run.effects |= batch.effects;
        let last = run.events.last().map_or(0, |envelope| envelope.seq);
        let last_chunk = run.record.last().map_or(0, |chunk| chunk.number);
        if last == 0 {
            run.events = self.rooms.fill(batch.events);
        } else {
            run.events.extend(batch.events.into_iter().filter(|envelope| envelope.seq > last));
        }
        run.record.extend(batch.chunks.into_iter().filter(|chunk| chunk.number > last_chunk));
        match batch.start {
            // Written again.
            Some(Start::At(at)) if run.start.is_some_and(|(last, ..)| last == at) => {}
            Some(Start::At(at)) => run.start = Some((at, run.progress(), run.starts().saturating_add(1))),
            Some(Start::Left) => run.start = None,
            None => {}
        }
        let log = match self.logs.get_mut(scope.user()) {
            Some(log) => log,
            None => self.logs.entry(scope.user().clone()).or_default(),
        };
        if let Some(newest) = run.events.last().filter(|envelope| envelope.seq > last) {
            log.feed.push(Commit { run: batch.run, seq_from: last + 1, seq_to: newest.seq });
        }
        let Some(end) = end else { return };
        let day = (Day::of(end.finished_at), scope.user().clone());
        self.usage.entry(day).or_default().add_run(&end);
        run.cancel.take_if(|_| end.stop_reason != StopReason::Cancelled);
        run.end = Some(end);
        (run.waiting, run.state_change) = (None, None);
        let have = log.history;
        log.history = History { runs: have.runs + 1, bytes: have.bytes + run.bytes() };
    }

    /// Says what becomes of something that is to be created once, and remembers it.
    fn create(
        &mut self,
        scope: &Scope,
        creating: Creating,
        id: &impl std::fmt::Display,
        once: Option<&Once>,
    ) -> Creation {
        let Some(once) = once else { return Creation::Made };
        let id = id.to_string();
        let now = Timestamp::now();
        self.once.retain(|_, record| record.expires_at > now);
        let key = (scope.user().clone(), creating, once.key);
        match self.once.get(&key) {
            // The same request is written again, because an answer was lost.
            Some(record) if record.earlier.id == id => return Creation::Made,
            Some(record) => return Creation::Stands(record.earlier.clone()),
            None => {}
        }
        let own = self.once.iter().filter(|((user, ..), _)| user == scope.user());
        let (count, first) =
            own.fold((0, Timestamp::MAX), |(count, first), (_, record)| (count + 1, first.min(record.expires_at)));
        if count >= once.user_keys_max {
            return Creation::Full(first);
        }
        let earlier = Earlier { id, body: once.body };
        self.once.insert(key, Record { earlier, expires_at: once.expires_at });
        Creation::Made
    }

    fn remove_state(&mut self, key: &StateKey) -> bool {
        let Some(gone) = self.state.remove(key) else { return false };
        let bytes = charged(&key.3, &gone.value);
        if let Some(total) = self.state_bytes.get_mut(&key.0) {
            *total = total.saturating_sub(bytes);
        }
        gone.expires_at.is_none_or(|at| at > Timestamp::now())
    }

    fn keep_state_change(&mut self, by: Option<MadeBy>, outcome: u64) {
        if let Some(by) = by
            && let Some(run) = self.runs.get_mut(by.run)
        {
            run.state_change = Some((by, outcome));
        }
    }

    fn forget_expired(&mut self, user: &UserId) {
        let now = Timestamp::now();
        let gone: Vec<_> = self
            .state
            .iter()
            .filter(|(key, value)| key.0 == *user && value.expires_at.is_some_and(|at| at <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove_state(&key);
        }
    }
}

/// What a key with its value takes of its user's quota.
const fn charged(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + STATE_KEY_OVERHEAD_BYTES
}

fn state_key(space: &StateSpace, key: &str) -> StateKey {
    (space.scope().user().clone(), space.plugin().clone(), space.thread().to_owned(), key.to_owned())
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn insert_run(&self, scope: &Scope, spec: &RunSpec, once: Option<&Once>) -> Result<Creation> {
        let mut tables = self.tables();
        let creation = tables.create(scope, Creating::Run, &spec.id, once);
        if creation == Creation::Made {
            // A run that is there already is being written again, because an answer was lost.
            if tables.runs.get(spec.id).is_none() {
                let (spec, events, record) = (spec.clone(), Vec::new(), Vec::new());
                tables.runs.insert(Run {
                    spec,
                    started_at: None,
                    cancel: None,
                    end: None,
                    effects: false,
                    attempt: 1,
                    events,
                    record,
                    waiting: None,
                    start: None,
                    state_change: None,
                });
            }
        }
        Ok(creation)
    }

    async fn earlier(&self, scope: &Scope, creating: Creating, key: Digest) -> Result<Option<Earlier>> {
        let tables = self.tables();
        let record = tables.once.get(&(scope.user().clone(), creating, key));
        let record = record.filter(|record| record.expires_at > Timestamp::now());
        Ok(record.map(|record| record.earlier.clone()))
    }

    async fn request_cancel(&self, scope: &Scope, id: RunId, request: &CancelRequest) -> Result<()> {
        let mut tables = self.tables();
        let run = tables.runs.get_mut(id).filter(|run| run.spec.user == *scope.user());
        if let Some(run) = run.filter(|run| run.end.is_none()) {
            run.cancel.get_or_insert_with(|| request.clone());
        }
        Ok(())
    }

    async fn append(&self, scope: &Scope, batch: RunBatch) -> Result<()> {
        self.tables().append(scope, batch, None);
        Ok(())
    }

    async fn finish(&self, scope: &Scope, batch: RunBatch, end: RunEnd) -> Result<()> {
        self.tables().append(scope, batch, Some(end));
        Ok(())
    }

    async fn run(&self, scope: &Scope, id: RunId) -> Result<Option<RunView>> {
        Ok(self.tables().run(scope, id).map(Run::view))
    }

    async fn run_spec(&self, scope: &Scope, id: RunId) -> Result<Option<RunSpec>> {
        Ok(self.tables().run(scope, id).map(|run| run.spec.clone()))
    }

    async fn runs(&self, scope: &Scope, query: &RunQuery) -> Result<Vec<RunView>> {
        let tables = self.tables();
        let found = tables.runs.values().rev().filter(|run| {
            run.spec.user == *scope.user()
                && query.before.is_none_or(|before| run.spec.id < before)
                && query.status.is_none_or(|status| run.status() == status)
                && query.agent.as_ref().is_none_or(|agent| run.spec.agent == *agent)
                && query.thread.as_ref().is_none_or(|thread| run.spec.thread == *thread)
        });
        Ok(found.take(query.limit as usize).map(|run| RunView { output: None, ..run.view() }).collect())
    }

    async fn events(&self, scope: &Scope, id: RunId, after: u64, limit: u32) -> Result<Vec<Envelope>> {
        let tables = self.tables();
        let events = tables.run(scope, id).map_or(&[][..], |run| &run.events);
        let mut bytes = 0;
        let page = events.iter().filter(|envelope| envelope.seq > after).take(limit as usize).take_while(|envelope| {
            let first = bytes == 0;
            bytes += envelope.event.bytes();
            first || bytes <= EVENTS_PAGE_BYTES_MAX
        });
        Ok(page.cloned().collect())
    }

    async fn record(&self, scope: &Scope, id: RunId, after: u64) -> Result<Vec<RecordChunk>> {
        let tables = self.tables();
        let record = tables.run(scope, id).map_or(&[][..], |run| &run.record);
        let mut bytes = 0;
        let page = record.iter().filter(|chunk| chunk.number > after).take_while(|chunk| {
            let first = bytes == 0;
            bytes += chunk.bytes.len();
            first || bytes <= EVENTS_PAGE_BYTES_MAX
        });
        Ok(page.cloned().collect())
    }

    async fn log_end(&self, scope: &Scope, id: RunId) -> Result<u64> {
        let tables = self.tables();
        let last = tables.run(scope, id).and_then(|run| run.events.last());
        Ok(last.map_or(0, |envelope| envelope.seq))
    }

    async fn feed(&self, scope: &Scope, after: FeedPlace, limit: u32) -> Result<Vec<FeedEntry>> {
        let tables = self.tables();
        let commits = tables.logs.get(scope.user()).map_or(&[][..], |log| &log.feed).iter().zip(1_u64..);
        let seen = usize::try_from(after.position.saturating_sub(1)).unwrap_or(usize::MAX);
        let entries = commits.skip(seen).flat_map(|(commit, position)| {
            let events = tables.run(scope, commit.run).map_or(&[][..], |run| &run.events).iter();
            // Logs have no holes.
            let before = usize::try_from(commit.seq_from - 1).unwrap_or(usize::MAX);
            let own = events.skip(before).take_while(|envelope| envelope.seq <= commit.seq_to);
            own.map(move |envelope| FeedEntry {
                place: FeedPlace { position, seq: envelope.seq },
                ends_commit: envelope.seq == commit.seq_to,
                envelope: envelope.clone(),
            })
        });
        let mut bytes = 0;
        let page = entries.filter(|entry| entry.place > after).take(limit as usize).take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.envelope.event.bytes();
            first || bytes <= EVENTS_PAGE_BYTES_MAX
        });
        Ok(page.collect())
    }

    async fn feed_end(&self, scope: &Scope) -> Result<FeedPlace> {
        let tables = self.tables();
        let last = tables.logs.get(scope.user()).and_then(|log| Some((log.feed.len(), log.feed.last()?)));
        Ok(last.map_or_else(FeedPlace::default, |(n, commit)| FeedPlace { position: n as u64, seq: commit.seq_to }))
    }

    fn waits(&self) -> &dyn Waits {
        self
    }

    async fn unfinished_runs(&self, _operator: Operator) -> Result<Vec<UnfinishedRun>> {
        let tables = self.tables();
        let unfinished = tables.runs.values().filter(|run| run.end.is_none() && !run.waits());
        Ok(unfinished.map(Run::unfinished).collect())
    }

    async fn history(&self, scope: &Scope) -> Result<History> {
        Ok(self.tables().logs.get(scope.user()).map_or_else(History::default, |log| log.history))
    }

    async fn stays_at_least(&self, scope: &Scope, bytes: u64) -> Result<bool> {
        let tables = self.tables();
        let above = |run: &Run| run.spec.parent.and_then(|parent| tables.runs.get(parent));
        let has_to_stay = |run: &&Run| {
            let mut above_it = std::iter::successors(above(run), |run| above(run));
            run.spec.user == *scope.user()
                && run.finished_at().is_some()
                && above_it.any(|run| run.finished_at().is_none())
        };
        Ok(tables.runs.values().filter(has_to_stay).map(Run::bytes).sum::<u64>() >= bytes)
    }

    async fn oldest_finishes(
        &self,
        _operator: Operator,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<(UserId, Timestamp)>> {
        let tables = self.tables();
        let mut oldest = BTreeMap::new();
        for run in tables.runs.values().filter(|run| after.is_none_or(|after| run.spec.user > *after)) {
            if let Some(at) = run.finished_at() {
                oldest.entry(run.spec.user.clone()).or_insert(at);
            }
        }
        Ok(oldest.into_iter().take(limit as usize).collect())
    }

    async fn prune(&self, operator: Operator, user: &UserId, keep: History) -> Result<()> {
        let mut have = self.history(&operator.on_behalf_of(user)).await?;
        let mut tables = self.tables();
        let finished = tables.runs.values().filter(|run| run.spec.user == *user && tables.may_go(run));
        let mut gone = Vec::new();
        for run in finished.take(PRUNED_AT_ONCE_MAX as usize) {
            if have.runs <= keep.runs && have.bytes <= keep.bytes {
                break;
            }
            have = History { runs: have.runs - 1, bytes: have.bytes - run.bytes() };
            gone.push(run.spec.id);
        }
        gone.into_iter().for_each(|id| tables.remove(id));
        Ok(())
    }

    async fn prune_before(&self, _operator: Operator, user: &UserId, before: Timestamp) -> Result<()> {
        let mut tables = self.tables();
        let finished = tables.runs.values().filter(|run| run.spec.user == *user && tables.may_go(run));
        let finished =
            finished.filter_map(|run| Some((run.spec.id, run.finished_at()?))).take(PRUNED_AT_ONCE_MAX as usize);
        let old: Vec<_> = finished.filter(|(_, at)| *at < before).map(|(id, _)| id).collect();
        old.into_iter().for_each(|id| tables.remove(id));
        Ok(())
    }

    async fn usage(&self, scope: &Scope, first: Day, last: Day) -> Result<UsageSum> {
        let mut sum = UsageSum::default();
        let days = self.tables();
        for ((day, user), of_day) in &days.usage {
            if user == scope.user() && (first..=last).contains(day) {
                sum.add(of_day);
            }
        }
        Ok(sum)
    }

    async fn oldest_usage(&self, _operator: Operator) -> Result<Option<Day>> {
        Ok(self.tables().usage.keys().next().map(|(day, _)| *day))
    }

    async fn prune_usage(&self, _operator: Operator, before: Day) -> Result<()> {
        let mut tables = self.tables();
        for _ in 0..USAGE_DAYS_PRUNED_AT_ONCE_MAX {
            match tables.usage.first_entry().filter(|oldest| oldest.key().0 < before) {
                Some(oldest) => drop(oldest.remove()),
                None => break,
            }
        }
        Ok(())
    }

    async fn state_bytes(&self, scope: &Scope) -> Result<u64> {
        Ok(self.tables().state_bytes.get(scope.user()).copied().unwrap_or(0))
    }

    async fn state_get(&self, space: &StateSpace, key: &str) -> Result<Option<StateEntry>> {
        let tables = self.tables();
        let value = tables.state.get(&state_key(space, key));
        let live = value.filter(|value| value.expires_at.is_none_or(|at| at > Timestamp::now()));
        Ok(live.map(|value| StateEntry { value: value.value.clone(), version: value.version }))
    }

    async fn state_set(&self, space: &StateSpace, write: StateWrite) -> Result<u64, StateRefused> {
        let mut tables = self.tables();
        let user = space.scope().user();
        tables.forget_expired(user);
        let key = state_key(space, &write.key);
        let before = tables.state.get(&key);
        let version_before = before.map(|value| value.version);
        let expected = match write.expected {
            Expected::Any => true,
            Expected::Version(version) => version_before == Some(version),
            Expected::Absent => version_before.is_none(),
        };
        if !expected {
            return Err(StateRefused::Conflict(version_before));
        }
        let freed = before.map_or(0, |value| charged(&write.key, &value.value));
        let total = tables.state_bytes.get(user).copied().unwrap_or(0).saturating_sub(freed)
            + charged(&write.key, &write.value);
        if total > write.user_bytes_max {
            return Err(StateRefused::Full(write.user_bytes_max));
        }
        tables.state_version += 1;
        let version = tables.state_version;
        tables.state_bytes.insert(user.clone(), total);
        tables.state.insert(key, StateValue { value: write.value, version, expires_at: write.expires_at });
        tables.keep_state_change(write.by, version);
        Ok(version)
    }

    async fn state_delete(&self, space: &StateSpace, key: &str, by: Option<MadeBy>) -> Result<bool> {
        let mut tables = self.tables();
        let was_there = tables.remove_state(&state_key(space, key));
        tables.keep_state_change(by, was_there.into());
        Ok(was_there)
    }

    async fn state_keys(
        &self,
        space: &StateSpace,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>> {
        let tables = self.tables();
        let now = Timestamp::now();
        let first = state_key(space, after.unwrap_or("").max(prefix));
        let keys = tables
            .state
            .range(first.clone()..)
            .take_while(|(key, _)| (&key.0, &key.1, &key.2) == (&first.0, &first.1, &first.2))
            .filter(|(key, _)| key.3.starts_with(prefix) && after.is_none_or(|after| key.3.as_str() > after))
            .filter(|(_, value)| value.expires_at.is_none_or(|at| at > now));
        Ok(keys.take(limit as usize).map(|(key, _)| key.3.clone()).collect())
    }

    async fn put_plugin(&self, _operator: Operator, plugin: &PluginVersion) -> Result<()> {
        let mut tables = self.tables();
        tables.plugins.retain(|old| (&old.name, old.digest) != (&plugin.name, plugin.digest));
        tables.plugins.push(plugin.clone());
        Ok(())
    }

    async fn plugins(&self, _operator: Operator) -> Result<Vec<PluginVersion>> {
        Ok(self.tables().plugins.clone())
    }

    async fn grant(&self, scope: &Scope, plugin: &PluginName) -> Result<Option<Permissions>> {
        Ok(self.tables().grants.get(&(scope.user().clone(), plugin.clone())).cloned())
    }

    async fn put_grant(
        &self,
        _operator: Operator,
        user: &UserId,
        plugin: &PluginName,
        grant: &Permissions,
    ) -> Result<()> {
        self.tables().grants.insert((user.clone(), plugin.clone()), grant.clone());
        Ok(())
    }

    async fn quotas(&self, _operator: Operator) -> Result<StoredQuotas> {
        let tables = self.tables();
        let tiers = tables.tiers.iter().map(|(name, edit)| (name.clone(), edit.clone())).collect();
        Ok((tiers, tables.user_quotas.iter().map(|(user, quota)| (user.clone(), quota.clone())).collect()))
    }

    async fn put_tier(&self, _operator: Operator, tier: &TierName, edit: &QuotaEdit) -> Result<()> {
        self.tables().tiers.insert(tier.clone(), edit.clone());
        Ok(())
    }

    async fn put_user_quota(&self, _operator: Operator, user: &UserId, quota: &UserQuota) -> Result<()> {
        let mut tables = self.tables();
        tables.user_quotas.remove(user);
        if *quota != UserQuota::default() {
            tables.user_quotas.insert(user.clone(), quota.clone());
        }
        Ok(())
    }

    async fn insert_key(&self, _operator: Operator, key: &ApiKey, once: Option<(&Scope, &Once)>) -> Result<Creation> {
        let mut tables = self.tables();
        let creation = match once {
            Some((scope, once)) => tables.create(scope, Creating::ApiKey, &key.id, Some(once)),
            None => Creation::Made,
        };
        if creation == Creation::Made {
            tables.keys.insert(key.secret_digest, key.clone());
        }
        Ok(creation)
    }

    async fn keys_count(&self, _operator: Operator) -> Result<u64> {
        Ok(self.tables().keys.len() as u64)
    }

    async fn authenticate(&self, secret_digest: Digest) -> Result<Option<Identity>> {
        let tables = self.tables();
        let key = tables.keys.get(&secret_digest);
        Ok(key.map(|key| Identity::authenticated(key.user.clone(), key.role, key.id.clone())))
    }
}

#[async_trait]
impl Waits for MemoryStorage {
    async fn waiting(&self, scope: &Scope, run: RunId) -> Result<Option<StoredWait>> {
        Ok(self.tables().run(scope, run).and_then(|run| run.stored_wait().cloned()))
    }

    async fn answer(&self, scope: &Scope, run: RunId, call: u64, answer: &Answer) -> Result<Answered> {
        let mut tables = self.tables();
        let run = tables.runs.get_mut(run).filter(|run| run.spec.user == *scope.user());
        let waiting = run.and_then(|run| run.waiting.as_mut()).filter(|waiting| waiting.stored.wait.call == call);
        let Some(Waiting { stored, waits }) = waiting.map(|waiting| &mut **waiting) else {
            return Ok(Answered::NotWaiting);
        };
        Ok(match &stored.answer {
            Some(stands) if stands == answer => Answered::Taken,
            Some(_) => Answered::Already,
            // One that comes when its question has expired is none.
            None if !*waits || stored.wait.until.is_some_and(|until| until <= crate::clock::now()) => {
                Answered::NotWaiting
            }
            None => {
                stored.answer = Some(answer.clone());
                Answered::Taken
            }
        })
    }

    async fn next_wake(&self, _operator: Operator) -> Result<Option<Timestamp>> {
        let tables = self.tables();
        let waiting = tables.runs.values().filter(|run| run.waits());
        Ok(waiting.filter_map(|run| run.stored_wait()?.wait.until).min())
    }

    async fn due(
        &self,
        _operator: Operator,
        now: Timestamp,
        after: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<UnfinishedRun>> {
        let tables = self.tables();
        let until = |run: &Run| run.stored_wait().and_then(|stored| stored.wait.until);
        let due = tables.runs.values().filter(|run| {
            run.waits() && until(run).is_some_and(|until| until <= now) && after.is_none_or(|after| run.spec.id > after)
        });
        Ok(due.take(limit as usize).map(Run::unfinished).collect())
    }

    async fn told(&self, _operator: Operator) -> Result<Vec<UnfinishedRun>> {
        let tables = self.tables();
        let told = tables.runs.values().filter(|run| {
            let Some(stored) = run.stored_wait().filter(|_| run.waits()) else { return false };
            let child_ended = match stored.wait.waits_for {
                WaitFor::Child { run_id } => tables.runs.get(run_id).is_none_or(|child| child.end.is_some()),
                _ => false,
            };
            stored.answer.is_some() || run.cancel.is_some() || child_ended
        });
        Ok(told.map(Run::unfinished).collect())
    }

    async fn orphans(&self, _operator: Operator) -> Result<Vec<UnfinishedRun>> {
        let tables = self.tables();
        let goes_on = |id: RunId| tables.runs.get(id).is_some_and(|run| run.end.is_none());
        let orphans = tables
            .runs
            .values()
            .filter(|run| run.end.is_none() && run.spec.parent.is_some_and(|parent| !goes_on(parent)));
        Ok(orphans.map(Run::unfinished).collect())
    }

    async fn unfinished(&self, scope: &Scope, run: RunId) -> Result<Option<UnfinishedRun>> {
        let tables = self.tables();
        Ok(tables.run(scope, run).filter(|run| run.end.is_none()).map(Run::unfinished))
    }

    async fn waiting_runs(&self, scope: &Scope, but_for: &[RunId]) -> Result<u64> {
        let tables = self.tables();
        let own = tables.runs.values().filter(|run| run.spec.user == *scope.user() && run.waits());
        Ok(own.filter(|run| !but_for.contains(&run.spec.id)).count() as u64)
    }

    async fn parent_of(&self, scope: &Scope, child: RunId) -> Result<Option<UnfinishedRun>> {
        let tables = self.tables();
        let waits_for_it = |run: &Run| {
            let waits_for = run.stored_wait().map(|stored| &stored.wait.waits_for);
            run.waits() && matches!(waits_for, Some(WaitFor::Child { run_id }) if *run_id == child)
        };
        let parent = tables.runs.values().find(|run| run.spec.user == *scope.user() && waits_for_it(run));
        Ok(parent.map(Run::unfinished))
    }

    async fn children(&self, scope: &Scope, parent: RunId) -> Result<Vec<RunId>> {
        let tables = self.tables();
        let own = tables.runs.values().filter(|run| run.spec.user == *scope.user() && run.spec.parent == Some(parent));
        Ok(own.map(|run| run.spec.id).collect())
    }

    async fn children_ended(&self, scope: &Scope, parent: RunId) -> Result<Children> {
        let tables = self.tables();
        let mut children = Children::default();
        let own = tables.runs.values().filter(|run| run.spec.user == *scope.user() && run.spec.parent == Some(parent));
        own.for_each(|run| children.count(run.status()));
        Ok(children)
    }

    async fn state_change(&self, scope: &Scope, by: MadeBy) -> Result<Option<u64>> {
        let tables = self.tables();
        let change = tables.run(scope, by.run).and_then(|run| run.state_change);
        Ok(change.filter(|(made_by, _)| *made_by == by).map(|(_, outcome)| outcome))
    }
}
