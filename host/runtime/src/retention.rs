//! Keeps what users' finished runs take within the quota: the oldest go first, and no run that has not ended. What runs
//! took is forgotten by day, long after.

use cofferdam_core::{
    clock,
    identity::Operator,
    ids::UserId,
    quota::Quota,
    storage::{History, Storage, StorageError},
    usage::{Day, USAGE_DAYS_KEPT},
};
use jiff::ToSpan as _;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// How long the ends of runs are gathered before their users' histories are looked at: one look for many runs.
const GATHER: Duration = Duration::from_millis(200);

/// How often runs are looked for that have become too old, and what failed is tried again.
const AGE_CHECK: Duration = Duration::from_secs(60);

/// What removes old runs, until it is dropped.
pub struct Retention {
    shared: Arc<Shared>,
    _work: AbortOnDropHandle<()>,
}

struct Shared {
    storage: Arc<dyn Storage>,
    keep: History,
    days: u32,
    /// Users of whom a run has ended since the last look: no more than there are users who have runs.
    ended: Mutex<HashSet<UserId>>,
    wake: Notify,
}

impl Retention {
    /// Over a storage, within these limits.
    #[expect(clippy::disallowed_methods, reason = "one task for the host, which ends with its handle")]
    pub fn new(storage: Arc<dyn Storage>, quota: &Quota) -> Self {
        let shared = Arc::new(Shared {
            storage,
            keep: History { runs: quota.runs_stored, bytes: quota.history_bytes },
            days: quota.history_days,
            ended: Mutex::default(),
            wake: Notify::new(),
        });
        let work = AbortOnDropHandle::new(tokio::spawn(work(shared.clone())));
        Self { shared, _work: work }
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
        let mut before = None;
        loop {
            let have = self.storage.history(&operator.on_behalf_of(user)).await?;
            let over = have.runs > self.keep.runs || have.bytes > self.keep.bytes;
            // A step that removes nothing would be repeated for ever.
            if !over || before == Some(have) {
                return Ok(());
            }
            before = Some(have);
            self.storage.prune(operator, user, self.keep).await?;
        }
    }

    async fn prune_by_age(&self) -> Result<(), StorageError> {
        let operator = Operator::host();
        let Ok(limit) = clock::now().checked_sub((i64::from(self.days) * 24).hours()) else { return Ok(()) };
        let mut before = None;
        while let Some(oldest) = self.storage.oldest_finish(operator).await?.filter(|oldest| *oldest < limit) {
            self.storage.prune_before(operator, limit).await?;
            if before == Some(oldest) {
                // As many runs as one step removes may have finished in the same microsecond, but not for ever.
                tokio::time::sleep(GATHER).await;
            }
            before = Some(oldest);
        }
        Ok(())
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
        if aged.elapsed() < AGE_CHECK {
            continue;
        }
        aged = Instant::now();
        if let Err(error) = shared.prune_by_age().await {
            tracing::error!(%error, source = ?error.source, "old runs could not be removed; trying again");
        }
        if let Err(error) = forget_usage(&*shared.storage).await {
            tracing::error!(%error, source = ?error.source, "the usage of old days could not be removed; trying again");
        }
    }
}
