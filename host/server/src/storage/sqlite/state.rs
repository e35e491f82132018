//! What becomes of a change of a user's state: the look at what is there, before it is written.
//!
//! There is one writer, and it takes one such change of a user into a commit, so that nothing changes in between.

use super::{SqliteError, rows::Columns, writes::Row};
use cofferdam_core::{
    context::StateSpace,
    ids::{PluginName, UserId},
    quota::STATE_KEY_OVERHEAD_BYTES,
    storage::{Expected, MadeBy, StateRefused},
};
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

/// How many expired state keys of a user one commit removes. A user may let a million expire at once; others do not
/// wait for that.
pub(super) const SWEEP_KEYS_MAX: i64 = 1000;

/// A key of a user's state.
pub(super) struct StateKey {
    pub(super) user: UserId,
    pub(super) plugin: PluginName,
    pub(super) thread: String,
    pub(super) key: String,
}

impl StateKey {
    pub(super) fn new(space: &StateSpace, key: String) -> Self {
        let (user, plugin) = (space.scope().user().clone(), space.plugin().clone());
        Self { user, plugin, thread: space.thread().to_owned(), key }
    }
}

impl DeleteState {
    pub(super) async fn decide(
        &self,
        connection: &mut SqliteConnection,
        rows: &mut Vec<Row>,
    ) -> Result<bool, SqliteError> {
        let was_there = self.key.is_there(connection, rows).await?;
        rows.extend(self.by.map(|by| Row::state_change(&self.key.user, by, was_there.into())));
        Ok(was_there)
    }
}

impl StateKey {
    /// Whether it is there, to be removed.
    async fn is_there(&self, connection: &mut SqliteConnection, rows: &mut Vec<Row>) -> Result<bool, SqliteError> {
        let query = sqlx::query(
            "SELECT expires_at IS NULL OR expires_at > ?5 FROM state
            WHERE user = ?1 AND plugin = ?2 AND thread = ?3 AND key = ?4",
        );
        let query = query
            .bind(self.user.as_str().to_owned())
            .bind(self.plugin.as_str().to_owned())
            .bind(self.thread.clone())
            .bind(self.key.clone())
            .bind(Timestamp::now().as_microsecond());
        let Some(row) = query.fetch_optional(connection).await? else { return Ok(false) };
        rows.push(Row::state_delete(self));
        Columns::of(&row).take()
    }
}

/// A state key to set, and when it may be.
pub(super) struct SetState {
    pub(super) key: StateKey,
    pub(super) value: Vec<u8>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) expected: Expected,
    pub(super) user_bytes_max: u64,
    pub(super) by: Option<MadeBy>,
}

/// A state key to remove.
pub(super) struct DeleteState {
    pub(super) key: StateKey,
    pub(super) by: Option<MadeBy>,
}

impl SetState {
    /// What becomes of it; none if more expired keys have to be removed before that can be said.
    pub(super) async fn decide(
        &mut self,
        connection: &mut SqliteConnection,
        rows: &mut Vec<Row>,
    ) -> Result<Option<Result<u64, StateRefused>>, SqliteError> {
        let now = Timestamp::now();
        // The key's own row is counted as its own, never with the expired.
        let query = sqlx::query(
            "SELECT coalesce(u.bytes, 0), coalesce(u.version, 0), e.keys, e.bytes,
                s.version, coalesce(s.expires_at <= ?5, FALSE),
                coalesce(octet_length(s.key) + octet_length(s.value) + ?7, 0)
            FROM (
                SELECT count(*) AS keys, coalesce(sum(bytes), 0) AS bytes FROM (
                    SELECT octet_length(key) + octet_length(value) + ?7 AS bytes FROM state
                    WHERE user = ?1 AND expires_at IS NOT NULL AND expires_at <= ?5
                        AND (plugin, thread, key) != (?2, ?3, ?4)
                    ORDER BY expires_at, number LIMIT ?6
                )
            ) AS e
            LEFT JOIN state_users AS u ON u.user = ?1
            LEFT JOIN state AS s ON s.user = ?1 AND s.plugin = ?2 AND s.thread = ?3 AND s.key = ?4",
        );
        let query = query
            .bind(self.key.user.as_str().to_owned())
            .bind(self.key.plugin.as_str().to_owned())
            .bind(self.key.thread.clone())
            .bind(self.key.key.clone())
            .bind(now.as_microsecond())
            .bind(SWEEP_KEYS_MAX)
            .bind(STATE_KEY_OVERHEAD_BYTES.cast_signed());
        let row = query.fetch_one(connection).await?;
        let mut columns = Columns::of(&row);
        let (bytes, newest) = (columns.unsigned()?, columns.unsigned()?);
        let (swept_keys, swept_bytes) = (columns.take::<i64>()?, columns.unsigned()?);
        let (stored, expired) = (columns.take::<Option<i64>>()?, columns.take::<bool>()?);
        let own_bytes = columns.unsigned()?;

        let version = stored.filter(|_| !expired).map(i64::cast_unsigned);
        let expected = match self.expected {
            Expected::Any => true,
            Expected::Version(wanted) => version == Some(wanted),
            Expected::Absent => version.is_none(),
        };
        if !expected {
            return Ok(Some(Err(StateRefused::Conflict(version))));
        }
        if swept_keys > 0 {
            rows.push(Row::state_sweep(&self.key.user, now));
        }
        let total = bytes.saturating_sub(own_bytes).saturating_sub(swept_bytes)
            + (self.key.key.len() + self.value.len()) as u64
            + STATE_KEY_OVERHEAD_BYTES;
        if total > self.user_bytes_max {
            let more_to_sweep = swept_keys >= SWEEP_KEYS_MAX;
            return Ok((!more_to_sweep).then_some(Err(StateRefused::Full(self.user_bytes_max))));
        }
        let version = newest + 1;
        rows.extend(self.by.map(|by| Row::state_change(&self.key.user, by, version)));
        rows.push(Row::state(self, version));
        Ok(Some(Ok(version)))
    }
}
