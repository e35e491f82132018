//! The journal over a storage that fails or dawdles.

use super::*;
use crate::record::{Asked, Record};
use crate::{
    context::StopSignal,
    grant::Permissions,
    idempotency::{Creating, Creation, Earlier, Once},
    identity::{Identity, Operator},
    ids::{AgentRef, Digest, PluginName, RequestId, ThreadId, UserId},
    quota::Quota,
    run::{CancelRequest, RunSpec, RunStatus, RunView, StopReason, Usage},
    storage::*,
    usage::{Day, UsageSum},
};
use std::sync::atomic::AtomicBool;

/// Storage that fails or dawdles when it is told to.
#[derive(Default)]
struct Moody {
    storage: MemoryStorage,
    failing: AtomicBool,
    slow: AtomicBool,
    panicking: AtomicBool,
    appended: Mutex<Vec<RunBatch>>,
}

impl Moody {
    async fn mood(&self) -> Result<(), StorageError> {
        if self.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!self.panicking.swap(false, Ordering::SeqCst), "a bug");
        if self.failing.load(Ordering::SeqCst) {
            return Err(StorageError { doing: "save", source: "the disk is full".into() });
        }
        Ok(())
    }
}

type Kept<T> = std::result::Result<T, StorageError>;

#[async_trait::async_trait]
impl Storage for Moody {
    async fn insert_run(&self, scope: &Scope, spec: &RunSpec, once: Option<&Once>) -> Kept<Creation> {
        self.storage.insert_run(scope, spec, once).await
    }
    async fn earlier(&self, scope: &Scope, creating: Creating, key: Digest) -> Kept<Option<Earlier>> {
        self.storage.earlier(scope, creating, key).await
    }
    async fn request_cancel(&self, scope: &Scope, id: RunId, request: &CancelRequest) -> Kept<()> {
        self.storage.request_cancel(scope, id, request).await
    }
    async fn append(&self, scope: &Scope, batch: RunBatch) -> Kept<()> {
        self.mood().await?;
        lock(&self.appended).push(batch.clone());
        self.storage.append(scope, batch).await
    }
    async fn finish(&self, scope: &Scope, batch: RunBatch, end: RunEnd) -> Kept<()> {
        self.mood().await?;
        self.storage.finish(scope, batch, end).await
    }
    async fn run(&self, scope: &Scope, id: RunId) -> Kept<Option<RunView>> {
        self.storage.run(scope, id).await
    }
    async fn run_spec(&self, scope: &Scope, id: RunId) -> Kept<Option<RunSpec>> {
        self.storage.run_spec(scope, id).await
    }
    async fn runs(&self, scope: &Scope, query: &RunQuery) -> Kept<Vec<RunView>> {
        self.storage.runs(scope, query).await
    }
    async fn events(&self, scope: &Scope, id: RunId, after: u64, limit: u32) -> Kept<Vec<Envelope>> {
        self.storage.events(scope, id, after, limit).await
    }
    async fn record(&self, scope: &Scope, id: RunId, after: u64) -> Kept<Vec<RecordChunk>> {
        self.storage.record(scope, id, after).await
    }
    async fn log_end(&self, scope: &Scope, id: RunId) -> Kept<u64> {
        self.storage.log_end(scope, id).await
    }
    async fn feed(&self, scope: &Scope, after: FeedPlace, limit: u32) -> Kept<Vec<FeedEntry>> {
        self.storage.feed(scope, after, limit).await
    }
    async fn feed_end(&self, scope: &Scope) -> Kept<FeedPlace> {
        self.storage.feed_end(scope).await
    }
    async fn unfinished_runs(&self, operator: Operator) -> Kept<Vec<UnfinishedRun>> {
        self.storage.unfinished_runs(operator).await
    }
    async fn history(&self, scope: &Scope) -> Kept<History> {
        self.storage.history(scope).await
    }
    async fn stays_at_least(&self, scope: &Scope, bytes: u64) -> Kept<bool> {
        self.storage.stays_at_least(scope, bytes).await
    }
    async fn usage(&self, scope: &Scope, first: Day, last: Day) -> Kept<UsageSum> {
        self.storage.usage(scope, first, last).await
    }
    async fn oldest_usage(&self, operator: Operator) -> Kept<Option<Day>> {
        self.storage.oldest_usage(operator).await
    }
    async fn prune_usage(&self, operator: Operator, before: Day) -> Kept<()> {
        self.storage.prune_usage(operator, before).await
    }
    async fn state_bytes(&self, scope: &Scope) -> Kept<u64> {
        self.storage.state_bytes(scope).await
    }
    async fn oldest_finishes(
        &self,
        operator: Operator,
        after: Option<&UserId>,
        limit: u32,
    ) -> Kept<Vec<(UserId, Timestamp)>> {
        self.storage.oldest_finishes(operator, after, limit).await
    }
    async fn quotas(&self, operator: Operator) -> Kept<crate::storage::StoredQuotas> {
        self.storage.quotas(operator).await
    }
    async fn put_tier(
        &self,
        operator: Operator,
        tier: &crate::ids::TierName,
        edit: &crate::quota::QuotaEdit,
    ) -> Kept<()> {
        self.storage.put_tier(operator, tier, edit).await
    }
    async fn put_user_quota(&self, operator: Operator, user: &UserId, quota: &crate::quota::UserQuota) -> Kept<()> {
        self.storage.put_user_quota(operator, user, quota).await
    }
    async fn prune(&self, operator: Operator, user: &UserId, keep: History) -> Kept<()> {
        self.storage.prune(operator, user, keep).await
    }
    async fn prune_before(&self, operator: Operator, user: &UserId, before: Timestamp) -> Kept<()> {
        self.storage.prune_before(operator, user, before).await
    }
    async fn state_get(&self, space: &crate::context::StateSpace, key: &str) -> Kept<Option<StateEntry>> {
        self.storage.state_get(space, key).await
    }
    async fn state_set(
        &self,
        space: &crate::context::StateSpace,
        write: StateWrite,
    ) -> std::result::Result<u64, StateRefused> {
        self.storage.state_set(space, write).await
    }
    async fn state_delete(&self, space: &crate::context::StateSpace, key: &str, by: Option<MadeBy>) -> Kept<bool> {
        self.storage.state_delete(space, key, by).await
    }
    fn waits(&self) -> &dyn Waits {
        self.storage.waits()
    }
    async fn state_keys(
        &self,
        space: &crate::context::StateSpace,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Kept<Vec<String>> {
        self.storage.state_keys(space, prefix, after, limit).await
    }
    async fn put_plugin(&self, operator: Operator, plugin: &PluginVersion) -> Kept<()> {
        self.storage.put_plugin(operator, plugin).await
    }
    async fn plugins(&self, operator: Operator) -> Kept<Vec<PluginVersion>> {
        self.storage.plugins(operator).await
    }
    async fn grant(&self, scope: &Scope, plugin: &PluginName) -> Kept<Option<Permissions>> {
        self.storage.grant(scope, plugin).await
    }
    async fn put_grant(&self, operator: Operator, user: &UserId, plugin: &PluginName, grant: &Permissions) -> Kept<()> {
        self.storage.put_grant(operator, user, plugin, grant).await
    }
    async fn insert_key(&self, operator: Operator, key: &ApiKey, once: Option<(&Scope, &Once)>) -> Kept<Creation> {
        self.storage.insert_key(operator, key, once).await
    }
    async fn keys_count(&self, operator: Operator) -> Kept<u64> {
        self.storage.keys_count(operator).await
    }
    async fn authenticate(&self, secret_digest: Digest) -> Kept<Option<Identity>> {
        self.storage.authenticate(secret_digest).await
    }
}

struct Bench {
    storage: Arc<Moody>,
    journal: Journal,
    ctx: UserExecutionContext,
}

async fn bench() -> Bench {
    let storage = Arc::new(Moody::default());
    let id = RunId::generate();
    let agent: AgentRef = "echo".parse().expect("an agent");
    let spec = RunSpec {
        id,
        user: "ann".parse().expect("a user"),
        agent: agent.name,
        digest: Digest::of(b""),
        request: RequestId::generate(),
        thread: ThreadId::of_run(id),
        session: None,
        parent: None,
        metadata: crate::Json::empty_object(),
        input: crate::Json::empty_object(),
        limits: Quota::default().narrow(crate::quota::LimitsAsked::default()).expect("the defaults"),
        priority: crate::run::Priority::default(),
        durability: crate::run::Durability::Ephemeral,
        retries: None,
        created_at: clock::now(),
    };
    let ctx = UserExecutionContext::rest(
        Arc::new(spec.clone()),
        Permissions::none(),
        crate::quota::LiveQuota::fixed(Quota::default()),
        StopSignal::default(),
    );
    storage.insert_run(&ctx.scope(), &spec, None).await.expect("kept");
    Bench { journal: Journal::new(storage.clone()).expect("a thread"), storage, ctx }
}

fn said(n: usize) -> Event {
    Event::AgentThinking { text: format!("{n}{}", "x".repeat(10_000)) }
}

fn end() -> RunEnd {
    RunEnd {
        stop_reason: StopReason::Completed,
        output: Some(crate::Json::empty_object()),
        error: None,
        usage: Usage::default(),
        children: crate::run::Children::default(),
        started_at: Some(clock::now()),
        finished_at: clock::now(),
    }
}

impl Bench {
    async fn seqs(&self) -> Vec<u64> {
        let id = self.ctx.spec().id;
        let events = self.storage.events(&self.ctx.scope(), id, 0, 10_000).await.expect("read");
        events.iter().map(|envelope| envelope.seq).collect()
    }

    async fn close(&self, journal: &RunJournal) {
        let usage = Usage { events: journal.seal(), ..Usage::default() };
        journal.append_now(said(0));
        journal
            .close(Event::AgentCompleted { output_bytes: 2, usage, children: crate::run::Children::default() }, end())
            .await;
        let run = self.storage.run(&self.ctx.scope(), self.ctx.spec().id).await.expect("read").expect("there");
        assert_eq!(run.status, RunStatus::Succeeded);
    }
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_any_more_leaves_no_hole() {
    let bench = bench().await;
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    bench.storage.slow.store(true, Ordering::SeqCst);
    for n in 0..60 {
        // What a guest's host call is when its run is stopped: dropped, wherever it stands.
        let _ = tokio::time::timeout(Duration::from_millis(n % 3), journal.append(said(1))).await;
        let _ = tokio::time::timeout(Duration::from_millis(n % 5), journal.before_effect()).await;
    }
    bench.storage.slow.store(false, Ordering::SeqCst);
    bench.close(&journal).await;
    let seqs = bench.seqs().await;
    assert_eq!(seqs, (1..=62).collect::<Vec<_>>());
}

#[tokio::test]
async fn storage_that_fails_for_a_while_loses_nothing_and_ends_the_run_once() {
    let bench = bench().await;
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    bench.storage.failing.store(true, Ordering::SeqCst);
    assert!(journal.before_effect().await.is_err(), "an effect must not happen unrecorded");
    let mut failed = 0;
    for n in 0..40 {
        failed += usize::from(journal.append(said(n)).await.is_err());
    }
    assert!(failed > 0, "a guest that goes on is told");
    let storage = bench.storage.clone();
    let mend = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        storage.failing.store(false, Ordering::SeqCst);
    };
    tokio::join!(bench.close(&journal), mend);
    assert_eq!(bench.seqs().await, (1..=42).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_panic_of_the_writer_loses_nothing_and_does_not_end_it() {
    let bench = bench().await;
    let mut following = bench.journal.follow(bench.ctx.spec().id);
    bench.storage.panicking.store(true, Ordering::SeqCst);
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    Recorder::new(journal.clone()).called(Asked::of("clock.now"), &1_u64);
    while bench.journal.panics() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.seqs().await, [0; 0]);
    // The next one is committed by the same writer, with what there was before.
    journal.append(said(2)).await.expect("recorded");
    assert_eq!(following.changed().await, Committed { seq: 2, ended: false });
    assert_eq!(record(&bench).await.len(), 1);
    bench.close(&journal).await;
    assert_eq!((bench.seqs().await, bench.journal.panics()), (vec![1, 2, 3], 1));
}

#[tokio::test]
async fn the_last_event_is_never_durable_without_the_end() {
    let bench = bench().await;
    bench.storage.slow.store(true, Ordering::SeqCst);
    bench.storage.failing.store(true, Ordering::SeqCst);
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    let (storage, scope, id) = (bench.storage.clone(), bench.ctx.scope(), bench.ctx.spec().id);
    let watch = async {
        // The end fails once, while the host's writer waits to commit for the same run; from then on all is well.
        tokio::time::sleep(Duration::from_millis(75)).await;
        storage.failing.store(false, Ordering::SeqCst);
        loop {
            let events = storage.events(&scope, id, 0, 10).await.expect("read");
            let run = storage.run(&scope, id).await.expect("read").expect("there");
            let told = events.last().is_some_and(|envelope| envelope.event.is_terminal());
            assert!(!told || run.status.is_terminal(), "the log has ended, the run has not");
            if run.status.is_terminal() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::join!(bench.close(&journal), watch);
    assert_eq!(bench.seqs().await, [1, 2]);
}

#[tokio::test]
async fn followers_are_told_of_what_is_durable_and_of_the_end() {
    let bench = bench().await;
    let mut following = bench.journal.follow(bench.ctx.spec().id);
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    let told = following.changed().await;
    assert_eq!(told, Committed { seq: 1, ended: false });
    assert_eq!(bench.seqs().await, [1]);
    bench.close(&journal).await;
    assert_eq!(following.changed().await, Committed { seq: 2, ended: true });
    drop(following);
    assert_eq!(bench.journal.0.followers.count.load(Ordering::SeqCst), 0, "nobody is remembered");
}

#[tokio::test]
async fn whoever_follows_a_user_is_told_of_each_commit_of_any_run_and_of_nobody_elses() {
    let bench = bench().await;
    let (ann, bob) = (bench.ctx.scope(), Operator::host().on_behalf_of(&"bob".parse().expect("a user")));
    let (mut hers, mut his) = (bench.journal.follow_user(&ann), bench.journal.follow_user(&bob));
    let mut run = bench.journal.follow(bench.ctx.spec().id);
    assert_eq!(run.news(), None);
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    hers.changed().await;
    assert_eq!(run.news(), Some(Committed { seq: 1, ended: false }), "a run's news is there before its user's");
    assert_eq!(run.news(), None, "and told once");
    bench.close(&journal).await;
    hers.changed().await;
    assert_eq!(run.news(), Some(Committed { seq: 2, ended: true }));
    let feed = bench.storage.feed(&ann, FeedPlace::default(), 9).await.expect("read");
    assert_eq!(feed.iter().map(|entry| entry.place.position).collect::<Vec<_>>(), [1, 2]);
    let nothing = tokio::time::timeout(Duration::from_millis(5), his.changed()).await;
    assert!(nothing.is_err(), "another user's commits are not his news");
    drop((hers, his, run));
    assert_eq!(bench.journal.0.user_followers.count.load(Ordering::SeqCst), 0, "nobody is remembered");
}

#[tokio::test]
async fn an_effect_waits_until_it_is_durable_that_it_may_happen() {
    let bench = bench().await;
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    journal.before_effect().await.expect("kept");
    let unfinished = bench.storage.unfinished_runs(Operator::host()).await.expect("read");
    assert_eq!(
        unfinished.iter().map(|run| (run.status, run.effects)).collect::<Vec<_>>(),
        [(RunStatus::Running, true)]
    );
}

#[tokio::test]
async fn each_effect_waits_until_it_is_durable_that_it_begins_and_nothing_else_does() {
    let bench = bench().await;
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    let recorder = Recorder::new(journal.clone());
    for n in 1..=3_u64 {
        let call = recorder.started(Asked::of("state.set").value(n), None);
        journal.before_effect().await.expect("kept");
        let record = record(&bench).await;
        assert!(matches!(record.last(), Some(Record::Started { call: kept, .. }) if *kept == call), "{record:?}");
        // Nothing has begun since: a tool's sandbox, of which there is no record, does not wait for the disk each time.
        bench.storage.failing.store(true, Ordering::SeqCst);
        journal.before_effect().await.expect("nothing is to be kept");
        recorder.started(Asked::of("state.set").value(n), None);
        assert!(journal.before_effect().await.is_err(), "an effect must not happen unrecorded");
        bench.storage.failing.store(false, Ordering::SeqCst);
        recorder.finished(call, &true, None);
    }
}

async fn record(bench: &Bench) -> Vec<Record> {
    let (mut records, mut after) = (Vec::new(), 0);
    loop {
        let page = bench.storage.record(&bench.ctx.scope(), bench.ctx.spec().id, after).await.expect("read");
        if page.is_empty() {
            return records;
        }
        for chunk in page {
            assert_eq!(chunk.number, after + 1, "the record has a hole");
            after = chunk.number;
            records.extend(chunk.records().expect("readable"));
        }
    }
}

#[tokio::test]
async fn a_record_has_every_call_once_whatever_storage_does_meanwhile() {
    let bench = bench().await;
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    let recorder = Recorder::new(journal.clone());
    recorder.seeded([1; 32]);
    for n in 0..300_u64 {
        // Every third commit fails.
        bench.storage.failing.store(n % 3 == 0, Ordering::SeqCst);
        recorder.called(Asked::of("clock.now"), &n);
        if n % 10 == 0 {
            let call = recorder.started(Asked::of("tools.call").text("file.write"), None);
            let _ = journal.before_effect().await;
            let _ = journal.commit().await;
            recorder.finished(call, &true, None);
            recorder.observed(call).expect("nothing is known before");
        }
    }
    bench.storage.failing.store(false, Ordering::SeqCst);
    bench.close(&journal).await;
    let record = record(&bench).await;
    assert_eq!(record.first(), Some(&Record::Seed([1; 32])));
    assert_eq!(record.len(), 1 + 300 + 3 * 30);
    let numbered = record.iter().filter(|entry| !matches!(entry, Record::Seed(_) | Record::Finished { .. }));
    assert!(numbered.map(Record::call).eq(1..=360), "{record:?}");
}

#[tokio::test]
async fn a_long_record_is_committed_in_pieces_none_of_which_has_a_call_without_its_event() {
    let bench = bench().await;
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    journal.commit().await.expect("saved");
    lock(&bench.storage.appended).clear();
    // The journal's own writer has nothing to say between.
    let one_at_a_time = journal.0.committing.lock().await;
    let recorder = Recorder::new(journal.clone());
    for n in 0..300_u64 {
        recorder.called(Asked::of("clock.now"), &"x".repeat(1_000));
        let call = recorder.started(Asked::of("tools.call"), Some(Event::AgentThinking { text: n.to_string() }));
        recorder.finished(call, &true, None);
    }
    drop(one_at_a_time);
    journal.commit().await.expect("saved");
    let pieces = std::mem::take(&mut *lock(&bench.storage.appended));
    assert!((9..=12).contains(&pieces.len()), "{}", pieces.len());
    for piece in &pieces {
        let bytes: usize = piece.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        let entries = piece.chunks.iter().flat_map(|chunk| chunk.records().expect("readable"));
        let begun = entries.filter(|entry| matches!(entry, Record::Started { .. })).count();
        assert!(bytes <= 34 << 10, "{bytes}");
        assert_eq!(begun, piece.events.len());
    }
    assert_eq!(journal.log().calls.begun_saved, 300);
    bench.close(&journal).await;
    assert_eq!(record(&bench).await.len(), 900);
    assert_eq!(bench.seqs().await, (1..=302).collect::<Vec<_>>());
}

#[tokio::test]
async fn that_a_run_waits_is_in_one_commit_with_the_event_that_tells_of_it_however_long_its_record() {
    let bench = bench().await;
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    journal.commit().await.expect("saved");
    lock(&bench.storage.appended).clear();
    let recorder = Recorder::new(journal.clone());
    for _ in 0..100 {
        recorder.called(Asked::of("clock.now"), &"x".repeat(1_000));
    }
    let wait = Wait {
        call: 0,
        waits_for: crate::wait::WaitFor::Memory,
        since: clock::now(),
        until: None,
        taken: crate::wait::TakenBefore::default(),
        told: None,
    };
    journal.put_away(said(1), wait).await;
    let pieces = std::mem::take(&mut *lock(&bench.storage.appended));
    assert!(pieces.len() > 2, "{}", pieces.len());
    for piece in &pieces {
        assert_eq!(piece.wait.is_some(), !piece.events.is_empty(), "{piece:?}");
    }
}

#[tokio::test]
async fn a_record_that_would_grow_without_end_is_given_up_and_says_so() {
    let bench = bench().await;
    let journal = bench.journal.open(&bench.ctx, clock::now(), Duration::ZERO);
    // Nothing can be written, and this caller does not wait.
    bench.storage.failing.store(true, Ordering::SeqCst);
    let recorder = Recorder::new(journal.clone());
    for n in 0..400_000_u64 {
        recorder.called(Asked::of("clock.now"), &n);
    }
    assert!(journal.log().unsaved.bytes <= recorder::RECORD_PENDING_BYTES_MAX + 1_000);
    bench.storage.failing.store(false, Ordering::SeqCst);
    bench.close(&journal).await;
    let record = record(&bench).await;
    assert!(matches!(record.last(), Some(Record::Incomplete { .. })), "{:?}", record.last());
}
