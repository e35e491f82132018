//! What becomes of something that is to be created once: the look at what was made before, before it is written.
//!
//! There is one writer, and it takes one request of a key into a commit, so that nothing changes in between.

use super::{SqliteError, rows::Columns, writes::Row};
use cofferdam_core::{
    idempotency::{Creating, Creation, Once},
    ids::UserId,
};
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;
use std::collections::HashMap;

/// How many expired records one request removes, whoever's they are. A request adds one, so that what has expired
/// becomes less with each, and none of them waits long for it.
pub(super) const SWEEP_RECORDS_MAX: i64 = 64;

/// How many of the caller's own it removes where the caller's keys are at their limit.
pub(super) const SWEEP_OWN_RECORDS_MAX: i64 = 1000;

/// Something to be created once.
pub(super) struct Create {
    pub(super) user: UserId,
    pub(super) creating: Creating,
    pub(super) once: Once,
    /// The id of what is created.
    pub(super) id: String,
    /// What is created.
    pub(super) rows: Vec<Row>,
}

impl Create {
    /// Whether both are requests of the same key.
    pub(super) fn is_again(&self, other: &Self) -> bool {
        (&self.user, self.creating, self.once.key) == (&other.user, other.creating, other.once.key)
    }

    /// What becomes of it. `added` is how many records each user gets in this commit.
    pub(super) async fn decide(
        &mut self,
        connection: &mut SqliteConnection,
        added: &mut HashMap<UserId, u64>,
        rows: &mut Vec<Row>,
    ) -> Result<Creation, SqliteError> {
        let now = Timestamp::now();
        let query = sqlx::query(
            "SELECT o.made, o.body, coalesce(u.keys, 0), EXISTS (SELECT 1 FROM idempotency WHERE expires_at <= ?4)
            FROM (SELECT 1)
            LEFT JOIN idempotency_users AS u ON u.user = ?1
            LEFT JOIN idempotency AS o
                ON o.user = ?1 AND o.creating = ?2 AND o.key = ?3 AND o.expires_at > ?4",
        );
        let query = query
            .bind(self.user.as_str().to_owned())
            .bind(self.creating.as_str())
            .bind(self.once.key.to_string())
            .bind(now.as_microsecond());
        let row = query.fetch_one(&mut *connection).await?;
        let mut columns = Columns::of(&row);
        if let Some(earlier) = columns.earlier_if_there()? {
            // The same request is written again, because an answer was lost.
            return Ok(if earlier.id == self.id { Creation::Made } else { Creation::Stands(earlier) });
        }
        let (keys, any_expired) = (columns.unsigned()?, columns.take::<bool>()?);
        let added = added.entry(self.user.clone()).or_default();
        if keys + *added >= self.once.user_keys_max {
            let (expired, first) = self.own_expiry(connection, now).await?;
            if (keys + *added).saturating_sub(expired) >= self.once.user_keys_max {
                return Ok(Creation::Full(first));
            }
            rows.push(Row::once_sweep_user(&self.user, now));
        } else if any_expired {
            rows.push(Row::once_sweep(now));
        }
        *added += 1;
        rows.push(Row::once(self));
        rows.append(&mut self.rows);
        Ok(Creation::Made)
    }

    /// How many of the caller's own records have expired, up to as many as one step removes, and when the first of the
    /// others does.
    async fn own_expiry(
        &self,
        connection: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<(u64, Timestamp), SqliteError> {
        let query = sqlx::query(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM idempotency WHERE user = ?1 AND expires_at <= ?2 LIMIT ?3)),
                (SELECT min(expires_at) FROM idempotency WHERE user = ?1 AND expires_at > ?2)",
        );
        let query = query.bind(self.user.as_str().to_owned()).bind(now.as_microsecond()).bind(SWEEP_OWN_RECORDS_MAX);
        let row = query.fetch_one(connection).await?;
        let mut columns = Columns::of(&row);
        Ok((columns.unsigned()?, columns.time_if_there()?.unwrap_or(now)))
    }
}
