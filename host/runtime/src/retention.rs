//! Keeps what users' finished runs take within the quota: the oldest go first, and no run that has not ended. What runs
//! took is forgotten by day, long after.

use cofferdam_core::{
    clock,
    identity::Operator,
    ids::UserId,
    quota::Quotas,
    storage::{History, Storage, StorageError},
    usage::{Day, USAGE_DAYS_KEPT},
};
use jiff::{Timestamp, ToSpan as _};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// How long the ends of runs are gathered before their users' histories are looked at: one look for many runs.
const GATHER: Duration = Duration::from_millis(200);

/// How many users are looked at together for runs that have become too old.
const USERS_AT_ONCE: u32 = 1_000;

/// How often runs are looked for that have become too old, and what failed is tried again.
const AGE_CHECK: Duration = Duration::from_secs(60);

/// What removes old runs, until it is dropped.
pub struct Retention {
    shared: Arc<Shared>,
    _work: AbortOnDropHandle<()>,
}

struct Shared {
    storage: Arc<dyn Storage>,
    quotas: Arc<Quotas>,
    /// Users of whom a run has ended since the last look: no more than there are users who have runs.
    ended: Mutex<HashSet<UserId>>,
    wake: Notify,
    /// A quota has changed: everybody is looked at.
    changed: AtomicBool,
}

impl Retention {
    /// Over a storage, within its users' quotas.
    #[expect(clippy::disallowed_methods, reason = "one task for the host, which ends with its handle")]
    pub fn new(storage: Arc<dyn Storage>, quotas: Arc<Quotas>) -> Self {
        let (ended, wake, changed) = (Mutex::default(), Notify::new(), AtomicBool::new(false));
        let shared = Arc::new(Shared { storage, quotas, ended, wake, changed });
        let work = AbortOnDropHandle::new(tokio::spawn(work(shared.clone())));
        Self { shared, _work: work }
    }

    /// A quota has changed: what it does not allow any more goes.
    pub fn quota_changed(&self) {
        self.shared.changed.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// A run of this user has ended.
    pub fn ended(&self, user: &UserId) {
        let mut ended = self.shared.ended();
        if !ended.contains(user) {
            ended.insert(user.clone());
            self.shared.wake.notify_one();
        }
    }
}

impl Shared {
    fn ended(&self) -> MutexGuard<'_, HashSet<UserId>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn prune(&self, user: &UserId) -> Result<(), StorageError> {
        let operator = Operator::host();
        let quota = self.quotas.now(user);
        let keep = History { runs: quota.runs_stored, bytes: quota.history_bytes };
        let mut before = None;
        loop {
            let have = self.storage.history(&operator.on_behalf_of(user)).await?;
            let over = have.runs > keep.runs || have.bytes > keep.bytes;
            // A step that removes nothing would be repeated for ever.
            if !over || before == Some(have) {
                return Ok(());
            }
            before = Some(have);
            self.storage.prune(operator, user, keep).await?;
        }
    }

    /// Removes what has become too old, and if a quota has changed, also what is too much.
    async fn prune_all(&self, quota_changed: bool) -> Result<(), StorageError> {
        let operator = Operator::host();
        let mut last = None;
        loop {
            let users = self.storage.oldest_finishes(operator, last.as_ref(), USERS_AT_ONCE).await?;
            let Some((user, _)) = users.last() else { return Ok(()) };
            last = Some(user.clone());
            for (user, oldest) in users {
                let days = i64::from(self.quotas.now(&user).history_days);
                if let Ok(limit) = clock::now().checked_sub((days * 24).hours())
                    && oldest < limit
                {
                    self.prune_before(&user, limit).await?;
                }
                if quota_changed {
                    self.prune(&user).await?;
                }
            }
        }
    }

    async fn prune_before(&self, user: &UserId, limit: Timestamp) -> Result<(), StorageError> {
        let operator = Operator::host();
        let mut before = None;
        loop {
            let have = self.storage.history(&operator.on_behalf_of(user)).await?;
            // A step that removed nothing has found nothing older.
            if before == Some(have) {
                return Ok(());
            }
            before = Some(have);
            self.storage.prune_before(operator, user, limit).await?;
        }
    }
}

/// Forgets the usage of days that are too long ago. Removing runs does not change what they took.
async fn forget_usage(storage: &dyn Storage) -> Result<(), StorageError> {
    let operator = Operator::host();
    let first_kept = Day::of(clock::now()).before(USAGE_DAYS_KEPT - 1);
    while storage.oldest_usage(operator).await?.is_some_and(|oldest| oldest < first_kept) {
        storage.prune_usage(operator, first_kept).await?;
    }
    Ok(())
}

async fn work(shared: Arc<Shared>) {
    let mut aged = Instant::now();
    loop {
        let _ = tokio::time::timeout(AGE_CHECK, shared.wake.notified()).await;
        tokio::time::sleep(GATHER).await;
        let users = std::mem::take(&mut *shared.ended());
        for user in users {
            if let Err(error) = shared.prune(&user).await {
                tracing::error!(%error, source = ?error.source, "old runs could not be removed; trying again");
                shared.ended().insert(user);
            }
        }
        let changed = shared.changed.swap(false, Ordering::AcqRel);
        if aged.elapsed() < AGE_CHECK && !changed {
            continue;
        }
        aged = Instant::now();
        if let Err(error) = shared.prune_all(changed).await {
            shared.changed.fetch_or(changed, Ordering::AcqRel);
            tracing::error!(%error, source = ?error.source, "old runs could not be removed; trying again");
        }
        if let Err(error) = forget_usage(&*shared.storage).await {
            tracing::error!(%error, source = ?error.source, "the usage of old days could not be removed; trying again");
        }
    }
}
