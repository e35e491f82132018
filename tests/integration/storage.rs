//! A storage that does what tests ask of it.

use async_trait::async_trait;
use cofferdam_core::{
    context::StateSpace,
    event::Envelope,
    grant::Permissions,
    idempotency::{Creating, Creation, Earlier, Once},
    identity::{Identity, Operator, Scope},
    ids::{Digest, PluginName, RunId, TierName, UserId},
    quota::{QuotaEdit, UserQuota},
    record::RecordChunk,
    run::{CancelRequest, RunEnd, RunSpec, RunView},
    storage::{
        ApiKey, FeedEntry, FeedPlace, History, MadeBy, MemoryStorage, PluginVersion, RunBatch, RunQuery, StateEntry,
        StateRefused, StateWrite, Storage, StorageError, StoredQuotas, UnfinishedRun, Waits,
    },
    usage::{Day, UsageSum},
};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

type Kept<T> = Result<T, StorageError>;

/// A storage that panics when it is asked for the key `panic`, or for what the user `cursed` was granted; and that keeps
/// the runs of the user `patient`, and the keys for a user of that name, only as fast as the gate lets them through; and that
/// fails the user `unlucky` as often as it is told.
pub struct Odd {
    inner: MemoryStorage,
    pub gate: Semaphore,
    /// How many wait at the gate.
    pub waiting: AtomicUsize,
    /// How many of the next commits before an effect fail, and how many of the next looks at a record.
    pub effects_fail: AtomicUsize,
    pub records_fail: AtomicUsize,
}

impl Default for Odd {
    fn default() -> Self {
        Self {
            inner: MemoryStorage::default(),
            gate: Semaphore::new(0),
            waiting: AtomicUsize::new(0),
            effects_fail: AtomicUsize::new(0),
            records_fail: AtomicUsize::new(0),
        }
    }
}

impl Odd {
    /// Fails the unlucky while there is something left of how often.
    fn fail(scope: &Scope, times: &AtomicUsize) -> Kept<()> {
        let unlucky = scope.user().as_str() == "unlucky";
        let fewer = |times: usize| times.checked_sub(1);
        match unlucky && times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            true => Err(StorageError { doing: "do as it was asked", source: "told to fail".into() }),
            false => Ok(()),
        }
    }

    async fn pass(&self, user: &UserId) {
        if user.as_str() == "patient" {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.expect("never closed").forget();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Storage for Odd {
    async fn insert_run(&self, scope: &Scope, spec: &RunSpec, once: Option<&Once>) -> Kept<Creation> {
        self.pass(scope.user()).await;
        self.inner.insert_run(scope, spec, once).await
    }
    async fn earlier(&self, scope: &Scope, creating: Creating, key: Digest) -> Kept<Option<Earlier>> {
        self.inner.earlier(scope, creating, key).await
    }
    async fn request_cancel(&self, scope: &Scope, id: RunId, request: &CancelRequest) -> Kept<()> {
        self.inner.request_cancel(scope, id, request).await
    }
    async fn append(&self, scope: &Scope, batch: RunBatch) -> Kept<()> {
        if batch.effects {
            Self::fail(scope, &self.effects_fail)?;
        }
        self.inner.append(scope, batch).await
    }
    async fn finish(&self, scope: &Scope, batch: RunBatch, end: RunEnd) -> Kept<()> {
        self.inner.finish(scope, batch, end).await
    }
    async fn run(&self, scope: &Scope, id: RunId) -> Kept<Option<RunView>> {
        self.inner.run(scope, id).await
    }
    async fn run_spec(&self, scope: &Scope, id: RunId) -> Kept<Option<RunSpec>> {
        self.inner.run_spec(scope, id).await
    }
    async fn runs(&self, scope: &Scope, query: &RunQuery) -> Kept<Vec<RunView>> {
        self.inner.runs(scope, query).await
    }
    async fn events(&self, scope: &Scope, id: RunId, after: u64, limit: u32) -> Kept<Vec<Envelope>> {
        self.inner.events(scope, id, after, limit).await
    }
    async fn unfinished_runs(&self, operator: Operator) -> Kept<Vec<UnfinishedRun>> {
        self.inner.unfinished_runs(operator).await
    }
    async fn log_end(&self, scope: &Scope, id: RunId) -> Kept<u64> {
        self.inner.log_end(scope, id).await
    }
    async fn feed(&self, scope: &Scope, after: FeedPlace, limit: u32) -> Kept<Vec<FeedEntry>> {
        self.inner.feed(scope, after, limit).await
    }
    async fn feed_end(&self, scope: &Scope) -> Kept<FeedPlace> {
        self.inner.feed_end(scope).await
    }
    async fn record(&self, scope: &Scope, id: RunId, after: u64) -> Kept<Vec<RecordChunk>> {
        Self::fail(scope, &self.records_fail)?;
        self.inner.record(scope, id, after).await
    }
    async fn history(&self, scope: &Scope) -> Kept<History> {
        self.inner.history(scope).await
    }
    async fn stays_at_least(&self, scope: &Scope, bytes: u64) -> Kept<bool> {
        self.inner.stays_at_least(scope, bytes).await
    }
    async fn usage(&self, scope: &Scope, first: Day, last: Day) -> Kept<UsageSum> {
        self.inner.usage(scope, first, last).await
    }
    async fn oldest_usage(&self, operator: Operator) -> Kept<Option<Day>> {
        self.inner.oldest_usage(operator).await
    }
    async fn prune_usage(&self, operator: Operator, before: Day) -> Kept<()> {
        self.inner.prune_usage(operator, before).await
    }
    async fn state_bytes(&self, scope: &Scope) -> Kept<u64> {
        self.inner.state_bytes(scope).await
    }
    async fn oldest_finishes(
        &self,
        operator: Operator,
        after: Option<&UserId>,
        limit: u32,
    ) -> Kept<Vec<(UserId, jiff::Timestamp)>> {
        self.inner.oldest_finishes(operator, after, limit).await
    }
    async fn quotas(&self, operator: Operator) -> Kept<StoredQuotas> {
        self.inner.quotas(operator).await
    }
    async fn put_tier(&self, operator: Operator, tier: &TierName, edit: &QuotaEdit) -> Kept<()> {
        self.inner.put_tier(operator, tier, edit).await
    }
    async fn put_user_quota(&self, operator: Operator, user: &UserId, quota: &UserQuota) -> Kept<()> {
        self.inner.put_user_quota(operator, user, quota).await
    }
    async fn prune(&self, operator: Operator, user: &UserId, keep: History) -> Kept<()> {
        self.inner.prune(operator, user, keep).await
    }
    async fn prune_before(&self, operator: Operator, user: &UserId, before: jiff::Timestamp) -> Kept<()> {
        self.inner.prune_before(operator, user, before).await
    }
    async fn state_get(&self, space: &StateSpace, key: &str) -> Kept<Option<StateEntry>> {
        assert_ne!(key, "panic", "told to panic");
        self.inner.state_get(space, key).await
    }
    async fn state_set(&self, space: &StateSpace, write: StateWrite) -> Result<u64, StateRefused> {
        self.inner.state_set(space, write).await
    }
    async fn state_delete(&self, space: &StateSpace, key: &str, by: Option<MadeBy>) -> Kept<bool> {
        self.inner.state_delete(space, key, by).await
    }
    fn waits(&self) -> &dyn Waits {
        self.inner.waits()
    }
    async fn state_keys(&self, space: &StateSpace, prefix: &str, after: Option<&str>, limit: u32) -> Kept<Vec<String>> {
        self.inner.state_keys(space, prefix, after, limit).await
    }
    async fn put_plugin(&self, operator: Operator, plugin: &PluginVersion) -> Kept<()> {
        self.inner.put_plugin(operator, plugin).await
    }
    async fn plugins(&self, operator: Operator) -> Kept<Vec<PluginVersion>> {
        self.inner.plugins(operator).await
    }
    async fn grant(&self, scope: &Scope, plugin: &PluginName) -> Kept<Option<Permissions>> {
        assert_ne!(scope.user().as_str(), "cursed", "told to panic");
        self.inner.grant(scope, plugin).await
    }
    async fn put_grant(&self, operator: Operator, user: &UserId, plugin: &PluginName, grant: &Permissions) -> Kept<()> {
        self.inner.put_grant(operator, user, plugin, grant).await
    }
    async fn insert_key(&self, operator: Operator, key: &ApiKey, once: Option<(&Scope, &Once)>) -> Kept<Creation> {
        self.pass(&key.user).await;
        self.inner.insert_key(operator, key, once).await
    }
    async fn keys_count(&self, operator: Operator) -> Kept<u64> {
        self.inner.keys_count(operator).await
    }
    async fn authenticate(&self, secret_digest: Digest) -> Kept<Option<Identity>> {
        self.inner.authenticate(secret_digest).await
    }
}
