//! Changing quotas while the host runs: storage first, then whoever executes.

use crate::runtime::Runtime;
use cofferdam_core::{
    identity::Operator,
    ids::{TierName, UserId},
    quota::{Document, Quota, QuotaEdit, QuotaError, Quotas, UserQuota},
    storage::StorageError,
};

/// Why a quota is not changed. Nothing was.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The document is not one.
    #[error(transparent)]
    Document(#[from] QuotaError),
    /// What was read before the change is not what stands now.
    #[error("another version stands than the one that was to be replaced")]
    Stale,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A tier, or a user, as it stands: what is set, and what comes of it.
pub type Standing<T> = (T, Quota);

impl Runtime {
    /// What users may take.
    #[must_use]
    pub fn quotas(&self) -> &Quotas {
        &self.0.services.quotas
    }

    /// What is set for a user, and what comes of it.
    #[must_use]
    pub fn user_quota(&self, user: &UserId) -> Standing<UserQuota> {
        (self.quotas().of_user(user), (*self.quotas().now(user)).clone())
    }

    /// Sets a user's quota, if it stands as whoever changes it has seen it. It counts for the user's next run, and reaches
    /// those that execute at their next call to the host, or as a stop.
    ///
    /// # Errors
    /// When the document is not one, what stands was not expected, or storage fails.
    pub async fn put_user_quota(
        &self,
        operator: Operator,
        user: &UserId,
        document: Document,
        expected: impl FnOnce(&Standing<UserQuota>) -> bool,
    ) -> Result<Standing<UserQuota>, EditError> {
        let _one_at_a_time = self.0.services.editing_quotas.lock().await;
        if !expected(&self.user_quota(user)) {
            return Err(EditError::Stale);
        }
        let quota = self.quotas().read_user(user, &document)?;
        self.storage().put_user_quota(operator, user, &quota).await?;
        self.quotas().put_user(user, quota);
        self.0.admission.quota_changed();
        self.0.retention.quota_changed();
        Ok(self.user_quota(user))
    }

    /// Sets a tier's quota, as [`put_user_quota`](Self::put_user_quota) does a user's. The tier is there from then on.
    ///
    /// # Errors
    /// As there.
    pub async fn put_tier(
        &self,
        operator: Operator,
        tier: &TierName,
        document: Document,
        expected: impl FnOnce(Option<&Standing<QuotaEdit>>) -> bool,
    ) -> Result<Standing<QuotaEdit>, EditError> {
        let _one_at_a_time = self.0.services.editing_quotas.lock().await;
        if !expected(self.quotas().of_tier(tier).as_ref()) {
            return Err(EditError::Stale);
        }
        let edit = self.quotas().read_tier(tier, &document)?;
        self.storage().put_tier(operator, tier, &edit).await?;
        self.quotas().put_tier(tier.clone(), edit.clone());
        self.0.admission.quota_changed();
        self.0.retention.quota_changed();
        let standing = self.quotas().of_tier(tier);
        Ok(standing.unwrap_or_else(|| (edit, Quota::default())))
    }
}
